"""The report of three real runs: what it says is what they wrote, read off the page in a real browser."""

import json
import re
from pathlib import Path
from statistics import fmean
from urllib.parse import urlencode

import pytest

from browser import Tab, chromium
from contrapose.config import resolve
from contrapose.evaluate.compare import compare
from contrapose.evaluate.report import REPORT, report_data
from contrapose.report.charts import SECTIONS
from contrapose.train.loop import train
from contrapose.train.run import Run
from user import contrapose, few_sums

SMALL = (
    *("steps=4", "batch.prompts=4", "batch.updates=2", "rollout.k=4", "checkpoint.every=0", "eval.every=2"),
    *("eval.data=abacus", "diagnose.every=2"),
)
NAMES = ("rence", "conspo", "grpo")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    above = tmp_path_factory.mktemp("runs")
    with few_sums():
        for seed, name in enumerate(NAMES):
            settings = [*SMALL, f"objective.name={name}", f"seed={seed}"]
            with Run(resolve(None, settings)[0], above / name) as run:
                assert train(run)
                run.finish()
    return [above / name for name in NAMES]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def comparison(runs, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("page") / "all.html"
    with pytest.MonkeyPatch.context() as patch:
        assert contrapose(patch, "report", *runs, "--out", out) == 0
    return out.as_uri()


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def plain(text: str) -> str:
    """With hyphens where the page has a minus or a dash."""
    return text.strip().replace("\u2212", "-").replace("\u2013", "-")


def read(cell: str) -> float | None:
    """A number as the page writes it."""
    cell = plain(cell).replace(",", "").removeprefix("+")
    return None if cell in ("-", "") else float(cell.removesuffix("%")) / (100 if cell.endswith("%") else 1)


def tables(tab: Tab) -> dict[str, list[list[str]]]:
    """Head and rows of every table by its caption."""
    return tab.page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('main table')].filter(t => t.caption).map(t =>
            [t.caption.textContent, [...t.rows].map(row => [...row.cells].map(cell => cell.textContent))]))"""
    )


def cells(tab: Tab, caption: str) -> list[list[str]]:
    """Head and rows of the table with a caption that begins so."""
    return next(rows for name, rows in tables(tab).items() if name.startswith(caption))


def cells_of(rows) -> list[list[str]]:
    return rows.evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")


def test_every_run_ends_with_its_report(runs, monkeypatch, tmp_path):
    for run in runs:
        assert contrapose(monkeypatch, "report", run, "--out", tmp_path / "again.html") == 0
        assert (run / REPORT).read_bytes() == (tmp_path / "again.html").read_bytes()


def test_every_number_of_every_chart_is_that_of_the_rows(runs, browser):
    """All charts' tables, each cell, against metrics.jsonl."""
    for run in runs:
        metrics = rows(run / "metrics.jsonl")
        with Tab(browser, (run / REPORT).as_uri()) as tab:
            tab.page.locator("details.numbers > summary").evaluate_all("all => all.map(summary => summary.click())")
            tab.page.wait_for_function("document.querySelectorAll('.numbers table').length > 25")
            found = tables(tab)
            for chart in (chart for charts in SECTIONS.values() for chart in charts):
                expected = {name: [value(row, name) for row in metrics] for name in chart.series}
                shown = [values for values in expected.values() if any(v is not None for v in values)]
                if not shown:
                    continue
                head, *body = found[chart.title]
                assert len(head) == 1 + len(shown)
                assert [read(row[0]) for row in body] == [1, 2, 3, 4]
                for i, values in enumerate(shown, 1):
                    told = [v if v is None else pytest.approx(v, rel=2e-6) for v in values]
                    assert [read(row[i]) for row in body] == told, chart.title


def test_held_out_accuracy_stands_where_it_was_paid_for(runs, browser):
    """Against tokens: what had been generated when each evaluation was made."""
    for run in runs:
        generated = [row["generated_tokens"] for row in rows(run / "metrics.jsonl")]
        evaluations = json.loads((run / "eval.json").read_text())
        with Tab(browser, (run / REPORT).as_uri() + "#axis=tokens") as tab:
            figure = tab.page.locator("figure.chart").filter(has_text="Accuracy held out")
            figure.locator("summary").click()
            found = cells_of(figure.locator("tbody tr"))
        expected = [(sum(generated[: e["step"]]), e["accuracy"]["value"]) for e in evaluations]
        assert [(read(x), read(y)) for x, y in found] == [(x, pytest.approx(y, rel=2e-6)) for x, y in expected]


def value(row: dict, series: str) -> float | None:
    name, _, part = series.partition(".")
    if name == "updates":
        values = [u[part] for u in row["updates"] if u[part] is not None]
        return fmean(values) if values else None
    return row[name].get(part) if part else row[name]


def test_evaluations_are_those_of_eval_json(runs, browser):
    for run in runs:
        evaluations = json.loads((run / "eval.json").read_text())
        change = compare(run / evaluations[0]["answers"], run / evaluations[-1]["answers"]).sets[0].difference
        with Tab(browser, (run / REPORT).as_uri()) as tab:
            _, *body = cells(tab, "Accuracy on problems")
            assert len(body) == len(evaluations) == 3
            for row, told in zip(body, evaluations, strict=True):
                accuracy = told["accuracy"]
                low, high = row[4].split(" to ")
                assert row[0] == f"step {told['step']}"
                found = [read(row[3]), read(low), read(high), read(row[6]), read(row[7])]
                expected = [accuracy["value"], accuracy["low"], accuracy["high"], told["truncated"], told["no_answer"]]
                assert found == pytest.approx(expected, abs=5.01e-4)
            said = plain(tab.page.locator(".change").inner_text())
            assert f"{100 * change.value:+.1f}" + " points" in said
            assert f"[{100 * change.low:+.1f}, {100 * change.high:+.1f}]" in said


def test_tokens_and_prompts_are_those_of_the_ledger(runs, browser):
    for run in runs:
        metrics, ledger = rows(run / "metrics.jsonl"), rows(run / "ledger.jsonl")
        with Tab(browser, (run / REPORT).as_uri() + "#tab=prompts") as tab:
            tokens = {row[0]: read(row[1]) for row in cells(tab, "Response tokens")[1:]}
            assert tokens["all generated"] == sum(row["generated_tokens"] for row in metrics)
            assert tokens["in groups trained on"] == sum(row["kept_tokens"] for row in metrics)
            for fate in ("too hard", "too easy", "mastered"):
                assert tokens[fate] == sum(row["filtered_tokens"][fate.replace(" ", "_")] for row in metrics)
            said = tab.page.locator("main").inner_text()
            assert f"{len(ledger)} groups of {len({row['prompt'] for row in ledger})} prompts" in said
            for title, fate in (("Mastered", "mastered"), ("Too hard", "too_hard")):
                of_fate = {row["prompt"] for row in ledger if row["fate"] == fate}
                assert f"{title} ({len(of_fate)})" in said
            last = [row["rho"] for row in ledger if row["step"] == 4]
            bars = cells_of(tab.page.locator("table.bars tbody tr"))
            assert {read(rho): read(count) for rho, count, _ in bars if read(count)} == {
                rho: last.count(rho) for rho in set(last)
            }


def test_groups_are_those_of_rollouts_jsonl(runs, browser):
    """A third of a run's groups: every rollout's text, verdict, answer, reward, score, P_i+ and credit."""
    for run in runs:
        groups = rows(run / "rollouts.jsonl")
        with Tab(browser, (run / REPORT).as_uri() + "#tab=groups&step=0") as tab:
            buttons = tab.page.locator("ol.groups button")
            assert buttons.count() == len(groups)
            known = {(g["step"], g["problem"]): g for g in groups}
            for i in range(0, len(groups), 3):
                buttons.nth(i).click()
                step = int(re.search(r"step (\d+)", buttons.nth(i).inner_text())[1])
                group = known[step, tab.page.locator("h2.question").inner_text()]
                for k, (told, r) in enumerate(zip(rollouts(tab), group["rollouts"], strict=True)):
                    assert told["title"].startswith(f"#{k + 1} ") and ("right" in told["title"]) == r["correct"]
                    assert told["text"] == (r["text"] or "nothing")
                    answer, reward, tokens, *trained = told["facts"]
                    assert answer == (r["boxed"] if r["boxed"] is not None else "\u2013")
                    assert (read(reward), read(tokens.split(",")[0])) == (pytest.approx(r["reward"]), r["tokens"])
                    expected = [r["score"], r["p_positive"], r["credit"]] if "credit" in r else []
                    found = [*trained, told["credit"].split()[-1]] if told["credit"] else trained
                    assert [read(x) for x in found] == [x and pytest.approx(x, rel=1e-2) for x in expected]


def rollouts(tab: Tab) -> list[dict]:
    """The cards of a group's rollouts."""
    return tab.page.locator("article.rollout").evaluate_all(
        """cards => cards.map(card => ({
            title: card.querySelector('h3').textContent,
            text: card.querySelector('pre').textContent,
            facts: [...card.querySelectorAll('dd')].map(fact => fact.textContent),
            credit: card.querySelector('p.credit')?.textContent ?? '',
        }))"""
    )


def test_what_others_would_have_credited_is_what_was_written(runs, browser):
    """Shares of each objective's total credit, in %, and the tokens' own when they are pointed at."""
    for run, name in zip(runs, NAMES, strict=True):
        number, group = next((i, g) for i, g in enumerate(rows(run / "rollouts.jsonl")) if "others" in g)
        place = urlencode({"tab": "groups", "group": number})
        with Tab(browser, f"{(run / REPORT).as_uri()}#{place}") as tab:
            assert tab.page.locator("h2.question").inner_text() == group["problem"]
            _, *body = cells(tab, "Share of the group")
            summed = {other: [sum(x) for x in credit] for other, credit in group["others"].items()}
            summed[name] = [r["credit"] for r in group["rollouts"]]
            assert body[0][0] == name and {row[0] for row in body} == set(summed)
            for other, *shares in body:
                total = sum(map(abs, summed[other])) or 1
                assert [read(s) for s in shares] == pytest.approx([100 * x / total for x in summed[other]], abs=0.051)
            tab.page.get_by_label("Tokens shaded by").select_option("own")
            token = tab.page.locator("pre.tokens").first.locator("[data-i]").nth(1)
            token.hover()
            told = tab.page.locator("article output").first.inner_text()
            credit, logp = re.fullmatch(r"token 2: credit (.*), log-prob (.*)", told).groups()
            assert read(credit) == pytest.approx(group["token_credit"][0][1], rel=1e-2)
            assert read(logp) == pytest.approx(group["logp"][0][1], rel=1e-2)
            pieces = tab.page.locator("pre.tokens").first.locator("[data-i]").all_inner_texts()
            assert len(pieces) == len(group["token_ids"][0])


def test_differences_between_runs_are_those_of_a_comparison(runs, browser, comparison):
    last = [run / json.loads((run / "eval.json").read_text())[-1]["answers"] for run in runs]
    with Tab(browser, comparison + "#tab=compare") as tab:
        _, *body = cells(tab, "Accuracy on test problems")
        assert [row[0] for row in body] == list(NAMES)
        for row, other in zip(body[1:], last[1:], strict=True):
            difference = compare(last[0], other).sets[0].difference
            low, high = row[6].split(" to ")
            expected = [100 * difference.value, 100 * difference.low, 100 * difference.high]
            assert [read(row[5]), read(low), read(high)] == pytest.approx(expected, abs=0.051)
        differ = {row[0]: row[1:] for row in cells(tab, "Settings that are not")[1:]}
        assert differ["objective.name"] == list(NAMES)
        assert differ["seed"] == ["0", "1", "2"]
        assert "rollout.k" not in differ


def test_two_runs_of_a_name_are_told_apart(runs, tmp_path):
    twin = tmp_path / runs[0].name
    twin.symlink_to(runs[0])
    assert [run["name"] for run in report_data([runs[0], twin])["runs"]] == [str(runs[0]), str(twin)]
    assert report_data([runs[0], twin])["differences"][0][0]["same"]
