"""The page in a real browser: everything on it driven by a script, and nothing it says that it should not."""

import json
import threading

import pytest

from browser import Tab, chromium
from contrapose.report.live import Live
from contrapose.report.page import legend, page
from contrapose.report.run import read
from run_written import CONFIG, HOSTILE, evaluation_row, group_row, in_detail, ledger_row, metrics_row, write

TABS = ("overview", "groups", "prompts", "compare")
STEPS = 3

SETTLED = "() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 30)))"
"""Charts are drawn once their place is known."""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def groups():
    for step in range(1, STEPS + 1):
        yield in_detail(group_row(step, f"easy {step}", r"so \boxed{1}"))
        yield group_row(step, f"second {step}", "2 and more")
        yield group_row(step, f"hard {step}", fate="too_hard")


def data(*runs):
    for i, run in enumerate(runs):
        spent = {step: dict.fromkeys(run["axes"], step) for step in (0, STEPS)}
        run["evaluations"] = [evaluation_row(step, 0.5 + 0.1 * i, at=at) for step, at in spent.items()]
    told = {"data": "abacus", "from": STEPS, "to": STEPS, "problems": 9, "first": 0.5, "second": 0.6, "same": False}
    difference = told | {"difference": {"value": 0.1, "low": -0.05, "high": 0.2}, "enough": 40, "settings": []}
    return {
        "runs": runs,
        "changes": [[difference]] * len(runs),
        "differences": [[difference]] * (len(runs) - 1),
    } | legend()


def address(folder, *runs):
    (folder / "page.html").write_text(page(data(*runs)))
    return (folder / "page.html").as_uri()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return address(folder, read(write(folder / "run", list(groups())), "the run"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    runs = [
        read(
            write(folder / name, list(groups()), config=CONFIG.replace("seed = 0", f"seed = {seed}"), entropy=0.5), name
        )
        for seed, name in enumerate(("first", "second"))
    ]
    return address(folder, *runs)


def main(tab):
    return tab.page.locator("main").inner_text()


@pytest.mark.parametrize("view", TABS)
def test_every_view_loads_without_a_word_and_asks_for_nothing(browser, two, view):
    """``Tab`` refuses console messages, errors and requests."""
    with Tab(browser, f"{two}#tab={view}") as tab:
        tab.page.evaluate(SETTLED)
        assert tab.page.locator("[role=tab][aria-selected=true]").get_attribute("id") == f"tab-{view}"
        assert len(main(tab)) > 200


@pytest.mark.parametrize("view", TABS[:3])
def test_a_run_that_has_just_begun_is_shown(browser, tmp_path, view):
    with Tab(browser, address(tmp_path, read(write(tmp_path / "run", [], 0), "run")) + f"#tab={view}") as tab:
        tab.page.evaluate(SETTLED)
        assert tab.page.locator("[aria-selected=true]").get_attribute("id") == f"tab-{view}"


def test_views_are_changed_by_pointer_and_by_keyboard(browser, two):
    with Tab(browser, two) as tab:
        seen = set()
        for name in ("Overview", "Groups", "Prompts", "Comparison"):
            tab.page.get_by_role("tab", name=name).click()
            seen.add(main(tab))
        assert len(seen) == 4
        tab.page.keyboard.press("ArrowRight")  # from the last to the first
        focused = tab.page.evaluate("document.activeElement.textContent")
        assert (focused, tab.page.locator("[aria-selected=true]").inner_text()) == ("Overview", "Overview")
        tab.page.keyboard.press("ArrowLeft")
        assert tab.page.evaluate("document.activeElement.textContent") == "Comparison"


def test_one_run_is_compared_with_nothing(browser, one):
    with Tab(browser, f"{one}#tab=compare") as tab:
        assert tab.page.get_by_role("tab").all_inner_texts() == ["Overview", "Groups", "Prompts"]
        assert tab.page.locator("[aria-selected=true]").inner_text() == "Overview"


def test_a_name_says_what_it_means_and_gives_the_keyboard_back(browser, one):
    with Tab(browser, one) as tab:
        name = tab.page.get_by_role("button", name="logp_positive")
        name.focus()
        tab.page.keyboard.press("Enter")
        dialog = tab.page.get_by_role("dialog")
        assert "logp_positive in nats" in dialog.inner_text()
        assert "mean log-prob a token of right rollouts" in dialog.inner_text()
        tab.page.keyboard.press("Escape")
        assert not dialog.is_visible()
        assert tab.page.evaluate("document.activeElement.textContent") == "logp_positive"


def test_values_stand_beside_the_names_under_the_pointer_and_a_drag_zooms(browser, one):
    """The leftmost value of a chart is that of step 1; after a drag over its right half, that of step 2."""
    with Tab(browser, one) as tab:
        tab.page.evaluate(SETTLED)
        figure = tab.page.locator("figure.chart").filter(has_text="Gradient norm")

        def point_at(share):
            figure.scroll_into_view_if_needed()
            box = figure.locator(".u-over").bounding_box()
            tab.page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2, steps=3)

        def value_at(share):
            point_at(share)
            return figure.locator("output").inner_text()

        told = [f"{metrics_row(step)['grad_norm']:.4g}" for step in (1, 2, 3)]
        assert [value_at(0.02), value_at(0.5), value_at(0.98)] == told
        point_at(0.45)
        tab.page.mouse.down()
        point_at(0.99)
        tab.page.mouse.up()
        assert value_at(0.1) == told[1]
        entropies = tab.page.locator("figure.chart").filter(has_text="Entropy").locator("output")
        assert entropies.inner_text() == f"{metrics_row(2)['entropy']:.4g}"  # all others go with it
        tab.page.get_by_role("button", name="All").click()
        assert value_at(0.02) == told[0]
        tab.page.get_by_label("From", exact=True).fill("2")
        tab.page.keyboard.press("Tab")
        assert value_at(0.02) == told[1]


def test_parts_of_a_whole_stand_on_one_another(browser, tmp_path):
    """Five parts of 10 tokens: a fifth of the height each, in five colours."""
    run = write(tmp_path / "run", [], kept_tokens=10, surplus_tokens=10)
    rows = [metrics_row(s, kept_tokens=10, surplus_tokens=10) for s in (1, 2, 3)]
    parts = {"filtered_tokens": dict.fromkeys(("too_hard", "too_easy", "mastered"), 10)}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row | parts) + "\n" for row in rows))
    with Tab(browser, address(tmp_path, read(run, "run"))) as tab:
        tab.page.evaluate(SETTLED)
        figure = tab.page.locator("figure.chart").filter(has_text="Where the tokens went")
        colours = figure.evaluate("""figure => {
            const canvas = figure.querySelector('canvas'), over = figure.querySelector('.u-over');
            const scale = canvas.width / canvas.clientWidth, from = canvas.getBoundingClientRect();
            const { left, top, width, height } = over.getBoundingClientRect();
            const column = canvas.getContext('2d').getImageData(
                scale * (left - from.left + width / 3), scale * (top - from.top), 1, scale * height).data;
            const at = share => 4 * Math.floor(share * scale * height);
            return [0.1, 0.3, 0.5, 0.7, 0.9].map(share => [...column.slice(at(share), at(share) + 4)].join());
        }""")
    assert len(set(colours)) == 5


def test_curves_can_stand_against_what_was_spent(browser, one):
    with Tab(browser, one) as tab:
        for axis, last in (("rollouts", "72"), ("tokens", "60"), ("seconds", "6.021")):
            tab.page.get_by_label("Against", exact=True).select_option(axis)
            figure = tab.page.locator("figure.chart").filter(has_text="Gradient norm")
            figure.locator("summary").click()
            assert figure.locator("tbody tr").last.locator("th").inner_text() == last


def chosen(tab):
    return [text.split("\n")[0] for text in tab.page.locator("ol.groups button").all_inner_texts()]


def test_groups_are_found_by_step_fate_and_text(browser, one):
    with Tab(browser, one) as tab:
        tab.page.get_by_role("tab", name="Groups").click()
        assert chosen(tab) == ["what is easy 1?", "what is second 1?", "what is hard 1?"]
        tab.page.get_by_role("button", name="The step after").click()
        assert chosen(tab)[0] == "what is easy 2?"
        assert tab.page.get_by_role("button", name="The step before").is_enabled()
        tab.page.get_by_label("Step", exact=True).select_option("0")
        assert len(chosen(tab)) == 9
        tab.page.get_by_label("Fate").select_option("too_hard")
        assert chosen(tab) == [f"what is hard {step}?" for step in (1, 2, 3)]
        assert "too hard" in main(tab) and "P_i+" not in main(tab)
        tab.page.get_by_label("Fate").select_option("")
        tab.page.get_by_label("written token by token").check()
        assert chosen(tab) == [f"what is easy {step}?" for step in (1, 2, 3)]
        tab.page.get_by_label("written token by token").uncheck()
        tab.page.get_by_label("Text").fill("AND MORE")
        tab.page.keyboard.press("Enter")
        assert chosen(tab) == [f"what is second {step}?" for step in (1, 2, 3)]
        tab.page.get_by_label("Text").fill("nowhere")
        tab.page.keyboard.press("Enter")
        assert "No group passes these filters" in main(tab)


def test_a_group_shows_its_rollouts_in_any_order_with_the_answer_marked(browser, one):
    with Tab(browser, f"{one}#tab=groups") as tab:
        titles = tab.page.locator("article h3")
        assert [t.split()[0] for t in titles.all_inner_texts()] == ["#1", "#2"]
        assert tab.page.locator("article mark").all_inner_texts() == [r"\boxed{1}"] * 2
        tab.page.get_by_label("Rollouts by").select_option("credit")
        assert titles.all_inner_texts() == ["#1 ✓ right", "#2 ✗ wrong"]
        assert tab.page.locator("article .up").count() == tab.page.locator("article .down").count() == 1
        tab.page.get_by_label("Tokens shaded by").select_option("own")
        shades = tab.page.locator("article [data-i]").evaluate_all("ss => ss.map(s => s.className)")
        assert shades == ["p2", "p3", "p5", "n2", "n3", "n5"]
        tab.page.get_by_label("Tokens shaded by").select_option("conspo")
        assert set(tab.page.locator("article [data-i]").evaluate_all("ss => ss.map(s => s.className)")) == {"p5"}


def inspected(tmp_path, browser, *rows, view="groups"):
    run = write(tmp_path / "run", list(rows))
    return Tab(browser, address(tmp_path, read(run, "run")) + f"#tab={view}")


@pytest.mark.parametrize(
    ("text", "boxed", "marked"),
    [
        (r"\boxed{ 5 }. Checked: 5 times 1 is 5", "5", [r"\boxed{ 5 }"]),
        (r"\boxed{4}, no: \boxed {5}", "5", [r"\boxed {5}"]),
        (r"\boxed{\frac{1}{2}} then \boxed{\frac{1}{2}}.", r"\frac{1}{2}", [r"\boxed{\frac{1}{2}}"]),
        (r"\fbox{5}, \fboxed{5}", "5", [r"\fboxed{5}"]),
        (r"\boxed{1}, \boxed{2}", "1, 2", []),
        ("the answer is 5", "5", []),
        ("nothing", None, []),
    ],
)
def test_the_box_that_counted_is_marked_and_no_other(browser, tmp_path, text, boxed, marked):
    row = group_row(1, "a", text)
    row["rollouts"][0]["boxed"] = boxed
    with inspected(tmp_path, browser, row) as tab:
        first = tab.page.locator("article").first
        assert first.locator("mark").all_inner_texts() == marked
        assert first.locator("pre").inner_text() == text
        assert first.locator("dd").first.inner_text() == (boxed or "\u2013")


def test_a_long_answer_is_folded_in_its_middle_and_the_keyboard_stays(browser, tmp_path):
    pieces = [[f"<{i}>" for i in range(3000)], ["b"]]
    with inspected(tmp_path, browser, in_detail(group_row(1, "a", "".join(pieces[0])), pieces)) as tab:
        tab.page.get_by_label("Tokens shaded by").select_option("own")
        pre = tab.page.locator("pre.tokens").first
        assert "<0>" in pre.inner_text() and "<2999>" in pre.inner_text() and "<1500>" not in pre.inner_text()
        pre.get_by_role("button").click()
        assert pre.inner_text() == "".join(pieces[0])
        assert tab.page.evaluate("document.activeElement.className") == "tokens"
        tab.page.keyboard.press("ArrowRight")
        tab.page.keyboard.press("ArrowRight")
        assert tab.page.locator("article output").first.inner_text().startswith("token 2: credit +0.02, log-prob 0.02")
        tab.page.keyboard.press("ArrowLeft")
        assert tab.page.locator("article output").first.inner_text().startswith("token 1: ")


def test_the_keyboard_stays_where_a_group_was_chosen(browser, one):
    with Tab(browser, f"{one}#tab=groups") as tab:
        tab.page.get_by_role("button", name="what is second 1?").focus()
        tab.page.keyboard.press("Enter")
        assert tab.page.locator("h2.question").inner_text() == "what is second 1?"
        assert "what is second 1?" in tab.page.evaluate("document.activeElement.textContent")


def test_two_rollouts_that_are_as_likely_stay_two_points(browser, tmp_path):
    row = in_detail(group_row(1, "a"))
    row["logp"] = [[-0.5] * 3] * 2
    with inspected(tmp_path, browser, row) as tab:
        figure = tab.page.locator("figure.chart").filter(has_text="Credit against likelihood")
        figure.locator("summary").click()
        assert figure.locator("tbody th").all_inner_texts() == ["-0.5", "-0.5"]


def test_two_groups_of_a_prompt_can_both_be_opened(browser, tmp_path):
    with inspected(tmp_path, browser, group_row(1, "a", "first"), group_row(1, "a", "second")) as tab:
        for i, text in enumerate(("first", "second")):
            tab.page.locator("ol.groups button").nth(i).click()
            assert tab.page.locator("article pre").first.inner_text() == text


def test_an_address_that_is_nonsense_leads_to_the_page(browser, one):
    with Tab(browser, f"{one}#tab=nowhere&run=7&step=x&group=-1&axis=toString") as tab:
        assert tab.page.locator("[aria-selected=true]").inner_text() == "Overview"
        tab.page.get_by_role("tab", name="Groups").click()
        assert len(chosen(tab)) == 3


def test_an_address_leads_to_a_group(browser, one):
    with Tab(browser, f"{one}#tab=groups") as tab:
        tab.page.get_by_label("Step", exact=True).select_option("2")
        tab.page.get_by_role("button", name="what is second 2?").click()
        place = tab.page.url
    with Tab(browser, place) as tab:
        assert tab.page.locator("h2.question").inner_text() == "what is second 2?"


def test_runs_are_chosen_and_taken_out_of_a_comparison(browser, two):
    with Tab(browser, two) as tab:
        seed = tab.page.locator("dt", has_text="Seed").locator("+ dd")
        assert seed.inner_text() == "0"
        tab.page.get_by_label("Run", exact=True).select_option("1")
        assert seed.inner_text() == "1"
        tab.page.get_by_role("tab", name="Comparison").click()
        legends = tab.page.locator("figure.chart").filter(has_text="Gradient norm").locator(".legend")
        assert legends.inner_text().split() == ["first", "second"]
        tab.page.get_by_label("second", exact=True).uncheck()
        assert legends.inner_text().split() == ["first"]
        assert "within noise; a difference of this size takes about 40 problems" in main(tab)


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """Two runs of names that a page has of its own; the second pays a hundred times as much for a step."""
    folder = tmp_path_factory.mktemp("unequal")
    for name, tokens in (("hint", 10), ("from", 1000)):
        write(folder / name, list(groups()), generated_tokens=tokens)
    return address(folder, *(read(folder / name, name) for name in ("hint", "from")))


def test_runs_are_read_off_at_equal_cost(browser, unequal):
    """Where one run has no point, what it had reached before; beyond its end, nothing."""
    with Tab(browser, f"{unequal}#tab=compare&axis=tokens") as tab:
        figure = tab.page.locator("figure.chart").filter(has_text="Gradient norm")
        figure.locator("summary").click()
        rows = [row.split("\t") for row in figure.locator("tbody tr").all_inner_texts()]
        norms = [f"{metrics_row(step)['grad_norm']:g}" for step in (1, 2, 3)]
        assert rows == [
            *([str(10 * step), norms[step - 1], "\u2013"] for step in (1, 2, 3)),
            *([f"{1000 * step:,}", "\u2013", norms[step - 1]] for step in (1, 2, 3)),
        ]
    with Tab(browser, f"{unequal}#tab=compare") as tab:
        figure = tab.page.locator("figure.chart").filter(has_text="Gradient norm")
        figure.locator("summary").click()
        assert figure.locator("tbody tr").first.inner_text().split("\t")[1:] == [norms[0], norms[0]]


def test_a_run_has_its_colour_in_every_chart_and_its_name_takes_no_place(browser, unequal):
    with Tab(browser, f"{unequal}#tab=compare") as tab:
        tab.page.get_by_label("hint", exact=True).uncheck()
        assert tab.page.get_by_label("hint", exact=True).is_visible()
        strokes = tab.page.locator(".legend line").evaluate_all("ls => ls.map(l => l.getAttribute('stroke'))")
        assert len(strokes) > 10 and set(strokes) == {"var(--line2)"}
        tab.page.get_by_label("From", exact=True).fill("2")
        ids = tab.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        tab.page.locator("figure.chart").filter(has_text="Gradient norm").get_by_role("button").click()
        assert "grad_norm in norm" in tab.page.get_by_role("dialog").inner_text()


def test_the_histogram_follows_its_slider(browser, tmp_path):
    run = write(tmp_path / "run", [group_row(1, "a"), group_row(2, "b")])
    rows = [ledger_row(1, "a", rho=0.25), ledger_row(2, "b", rho=0.75)]
    (run / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Tab(browser, address(tmp_path, read(run, "run")) + "#tab=prompts") as tab:
        bars = tab.page.locator("table.bars tbody tr")
        assert bars.all_inner_texts() == ["0.25\t 0\t0.0 %", "0.75\t 1\t100.0 %"]
        tab.page.get_by_role("slider").focus()
        tab.page.keyboard.press("ArrowLeft")
        assert bars.all_inner_texts() == ["0.25\t 1\t100.0 %", "0.75\t 0\t0.0 %"]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_fits_and_takes_the_scheme(browser, two, width, scheme):
    for view in TABS:
        with Tab(browser, f"{two}#tab={view}", width, scheme=scheme) as tab:
            tab.page.evaluate(SETTLED)
            assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
            ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
            tab.page.get_by_role("button", name="Dark" if scheme == "light" else "Light").click()
            assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") != ground


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_nothing_stands_in_anyones_way(browser, two, scheme, width):
    """axe finds no fault: names, roles, table heads, labels, contrast (AA) and what the keyboard reaches."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for view in TABS:
        with Tab(browser, f"{two}#tab={view}", width, scheme=scheme) as tab:
            tab.page.evaluate(SETTLED)
            if view == "groups":
                tab.page.get_by_label("Tokens shaded by").select_option("own")
            found = axe.run(tab.page).response["violations"]
            assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []


def test_hostile_text_is_shown_as_text(browser, tmp_path):
    """In a problem, an answer, a rollout, a token, an alarm, a run's name: nothing runs, nothing is added."""
    clean = address(tmp_path, read(write(tmp_path / "clean", list(groups())), "run"))
    kinds = "() => [...new Set([...document.querySelectorAll('*')].map(e => e.localName))].sort()"
    rows = []
    for i, text in enumerate(HOSTILE):
        row = in_detail(group_row(1, f"{i}{text}"[:99], text), [[text], ["a"]]) | {"problem": text, "answer": text}
        row["rollouts"][0]["boxed"] = text
        rows.append(row)
    run = write(tmp_path / "run", rows, alarms=HOSTILE[:-1], config=CONFIG.replace("seed = 0", "seed = '''<b>'''"))
    with Tab(browser, f"{clean}#tab=groups") as tab:
        tab.page.evaluate(SETTLED)
        usual = set(tab.page.evaluate(kinds))
    (tmp_path / "hostile").mkdir()
    with Tab(browser, address(tmp_path / "hostile", read(run, HOSTILE[1])) + "#tab=groups&step=1") as tab:
        tab.page.on("dialog", lambda dialog: pytest.fail("a script ran"))
        for i, text in enumerate(HOSTILE):
            tab.page.locator("ol.groups button").nth(i).click()
            shown = tab.page.locator("article pre").first
            for fold in shown.locator(".fold").all():
                fold.click()
            assert spelled(text) == shown.evaluate("e => e.textContent")
            assert set(tab.page.evaluate(kinds)) <= usual | {"em"}
        for view in TABS[:3]:
            tab.page.locator(f"#tab-{view}").click()
            tab.page.evaluate(SETTLED)
        assert tab.page.locator("script").count() == 3
        assert tab.page.locator("#title").inner_text() == HOSTILE[1]


def spelled(text):
    """What the page makes of what cannot be seen."""
    text = text.encode("utf-8", "replace").decode()
    hidden = "\x00\x1b\u202e\u2066\u200f\u2028\u2029\ufeff"
    return "".join(f"U+{ord(c):04X}" if c in hidden else c for c in text)


def test_what_is_put_into_the_page_later_may_not_run_or_ask(browser, one):
    """The policy, where everything else had failed: no script, no handler, no style, no picture, no request."""
    tab = Tab(browser, one)
    tab.page.evaluate("""async () => {
        const put = (tag, more) => document.body.append(Object.assign(document.createElement(tag), more));
        put('script', {textContent: 'window.ran = 1'});
        put('script', {src: 'https://example.com/x.js'});
        put('img', {src: 'https://example.com/x.png'});
        put('iframe', {src: 'https://example.com/'});
        document.body.insertAdjacentHTML('beforeend', '<a id="a" onclick="window.ran = 1" style="color: red">x</a>');
        document.getElementById('a').click();
        await fetch('https://example.com/').catch(() => {});
    }""")
    assert tab.page.evaluate("window.ran") is None
    assert tab.page.evaluate("getComputedStyle(document.getElementById('a')).color") != "rgb(255, 0, 0)"
    assert sum("Content Security Policy" in line for line in tab.said) >= 6
    assert not [url for url in tab.asked if url.startswith("http") and "example.com/" not in url]
    tab.page.close()


def test_a_page_that_is_served_follows_the_run(browser, tmp_path):
    run = write(tmp_path / "run", list(groups()), 1)
    with Live([run], lambda runs: data(read(run, "the run"))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        tab = Tab(browser, server.url)
        tab.page.get_by_text("live: step 1").wait_for()
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(metrics_row(2)) + "\n")
        tab.page.get_by_text("live: step 2").wait_for()
        assert "2 of 3" in main(tab)
        tab.page.locator("details.numbers > summary").first.click()
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(metrics_row(3)) + "\n")
        tab.page.get_by_text("live: step 3").wait_for()
        assert "2 of 3" in main(tab)  # who reads is not interrupted
        tab.page.get_by_role("button", name="show", exact=True).click()
        assert "3 of 3" in main(tab)
        assert tab.page.get_by_role("button", name="show", exact=True).count() == 0
        tab.page.get_by_role("tab", name="Groups").click()
        assert tab.page.get_by_label("Step", exact=True).locator("option").all_inner_texts() == ["all", "1", "2", "3"]
        server.shutdown()
        thread.join()
    tab.page.get_by_text("the server has gone").wait_for()
    assert {url.rpartition("/")[0] + "/" for url in tab.asked} == {server.url}
    tab.page.close()
