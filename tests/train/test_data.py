"""What a run trains on: each step drops what it should, says so, and leaves the rest as it was."""

import json
import random
from pathlib import Path

import pytest

from contrapose.prompts import abacus
from contrapose.prompts.template import render_all
from contrapose.settings import DataConfig
from contrapose.train.data import benchmarks_in, evaluation_prompts, refusal, survey, training_prompts
from contrapose.types import ContraposeError, Prompt
from contrapose.validation import validate
from contrapose.verify.grading import Grading
from contrapose.verify.verifier import Verifier
from user import load_prompts

DATA = Path(__file__).parents[3] / "shared" / "data"
HERE = pytest.mark.skipif(not DATA.is_dir(), reason="the files are not here")
VERIFIER = Verifier("binary")
HELD = Prompt(
    "test/0",
    "A farmer keeps goats and hens on two fields beside a small river. There are $7$ goats and $11$ hens. "
    "How many legs do his animals have all together?",
    "50",
)


def write(path: Path, *rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(problem: str, answer: str = "2") -> dict[str, str]:
    return {"problem": problem, "answer": answer}


def cleaned(path, *held_out: Prompt, verifier: Verifier = VERIFIER, **settings):
    """The problems that are kept, and the cases as (step, problem)."""
    prompts, report = training_prompts(DataConfig(path=path, **settings), None, verifier, held_out)
    assert sum(count["kept"] for count in report.counts().values()) == len(prompts)
    return [p.problem for p in prompts], [(c.step, c.problem) for c in report.cases]


# --- abacus: what every start goes through ----------------------------------------------------------------------------


def test_abacus_is_trained_on_whole_and_in_order():
    config = DataConfig(path="abacus", template="plain", exclude=["abacus:validation"])
    prompts, report = training_prompts(config, abacus.tokenizer(), VERIFIER, load_prompts("abacus:test"))
    assert prompts == render_all(load_prompts("abacus"), "plain", abacus.tokenizer(), 1536)[0]
    assert report.counts()["abacus"]["kept"] == 8192
    assert report.lines() == []


# --- broken rows ------------------------------------------------------------------------------------------------------


def test_a_few_broken_rows_are_left_out_and_named(tmp_path):
    path = write(tmp_path / "a.jsonl", *(row(f"{i}+1?") for i in range(100)), {"problem": "x?", "answer": None})
    prompts, report = training_prompts(DataConfig(path=path), None, VERIFIER)
    assert len(prompts) == 100
    (broken,) = report.cases
    assert "a.jsonl:101" in str(broken)
    assert report.counts()[path] | {"rows": 101, "broken": 1, "kept": 100} == report.counts()[path]


def test_more_are_an_error_with_the_first_three(tmp_path):
    rows = [row("1+1?"), *({"problem": f"x{i}?", "answer": None} for i in range(4))]
    path = write(tmp_path / "a.jsonl", *rows)
    good = write(tmp_path / "b.jsonl", *(row(f"{i}?") for i in range(900)))
    with pytest.raises(ContraposeError, match=r"4 of 5 rows of .*a\.jsonl are broken.*data\.max_broken") as error:
        cleaned([good, path])
    assert [f"a.jsonl:{n}" in str(error.value) for n in range(1, 6)] == [False, True, True, True, False]
    assert len(cleaned([good, path], max_broken=0.8)[0]) == 901


def test_a_survey_reports_what_a_run_would_refuse(tmp_path):
    rows = [row("1+1?"), *({"problem": f"x{i}?", "answer": None} for i in range(4))]
    config = DataConfig(path=write(tmp_path / "a.jsonl", *rows))
    report = survey(config, VERIFIER)
    assert len(report.cases) == report.counts()[config.path]["broken"] == 4
    assert "4 of 5 rows" in refusal(config, report)
    assert refusal(config.model_copy(update={"max_broken": 0.8}), report) == ""
    nothing = DataConfig(path=write(tmp_path / "b.jsonl", row("Half?", r"\frac{0}{0}")))
    assert "no prompt is left" in refusal(nothing, survey(nothing, VERIFIER))
    broken = DataConfig(path=write(tmp_path / "c.jsonl", {"problem": "x?", "answer": None}, row("y?", None)))
    assert "2 of 2 rows" in refusal(broken, survey(broken, VERIFIER))


# --- where the columns are --------------------------------------------------------------------------------------------


def test_data_sets_with_a_name_keep_their_columns(tmp_path):
    """Whether they are trained on or held out."""
    write(tmp_path / "gsm8k.jsonl", row("Named?"), row(HELD.problem, "50"))
    write(tmp_path / "math.jsonl", row(HELD.problem, "50"))
    mine = write(tmp_path / "mine.jsonl", {"q": "Mine?", "a": 1})
    settings = {"dir": str(tmp_path), "problem_key": "q", "answer_key": "a"}
    assert cleaned(["gsm8k", mine], exclude=["math:train"], **settings)[0] == ["Named?", "Mine?"]


@pytest.mark.parametrize("where", ["path", "exclude"])
def test_files_with_other_columns_are_told_what_helps(tmp_path, where):
    path, other = write(tmp_path / "a.jsonl", row("One?")), write(tmp_path / "b.jsonl", {"q": "Two?", "a": 2})
    settings = {"path": [path, other]} if where == "path" else {"path": path, "exclude": [other]}
    with pytest.raises(ContraposeError, match=r"b\.jsonl:1 has no column 'problem'.*rename the columns of a file that"):
        cleaned(**settings)


# --- answers that cannot be graded ------------------------------------------------------------------------------------

BAD = [
    r"\frac{0}{0}",
    r"\frac{1}{1-1}",
    "(((((",
    r"\frac{1}{",
    "}{",
    "?",
    "9^{9^{9^{9}}}",
    r"\int_0^1 x^{x^x} \sin(x^x) dx",
]
GOOD = [
    "2",
    "-3.50",
    "1,000",
    r"\$32,\!348",
    r"\frac{1}{2}",
    "x=3",
    "(-\\infty, 3]",
    r"\text{even}",
    "no solution",
    "1, 2",
]
GOOD += [
    r"\boxed{7}",
    r"5\%",
    "12_5",
    r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
    "A",
    "4^{100}",
    "-7",
    "1/3",
    r"2\sqrt{3}",
]


def test_answers_that_no_response_could_meet_are_left_out(tmp_path):
    rows = [row(f"Question {i}?", answer) for i, answer in enumerate([*BAD, *GOOD])]
    kept, cases = cleaned(write(tmp_path / "a.jsonl", *rows))
    assert kept == [r["problem"] for r in rows[len(BAD) :]]
    assert cases == [("bad_gold", r["problem"]) for r in rows[: len(BAD)]]


def test_each_answer_is_graded_once(tmp_path, monkeypatch):
    asked = []
    once = type(VERIFIER.workers).map

    def counted(workers, pairs):
        pairs = list(pairs)
        asked.extend(gold for gold, _ in pairs)
        return once(workers, pairs)

    monkeypatch.setattr(type(VERIFIER.workers), "map", counted)
    cleaned(write(tmp_path / "a.jsonl", *(row(f"Question {i}?", str(i % 3)) for i in range(30))))
    assert asked == ["0", "1", "2"]


@pytest.mark.parametrize("answer", ["boxed", "stated", "text"])
@pytest.mark.parametrize("domain", ["math", "exact"])
def test_wherever_the_answer_stands(tmp_path, domain, answer):
    path = write(tmp_path / "a.jsonl", row("1+1?", "2"), row("1/2?", r"\frac{1}{2}"), row("Even?", r"\text{yes}"))
    assert len(cleaned(path, verifier=Verifier("binary", grading=Grading(domain, answer)))[0]) == 3


def test_a_gold_that_is_no_answer_is_left_alone(tmp_path):
    path = write(tmp_path / "a.jsonl", row("1+1?", "(2|two"), row("1+2?", "[ab]+"), row("1+2 ?", "[ab]+"))
    kept, cases = cleaned(path, verifier=Verifier("binary", grading=Grading("regex")))
    assert kept == ["1+1?", "1+2?"]
    assert cases == [("duplicate", "1+2 ?")]


# --- copies -----------------------------------------------------------------------------------------------------------


def test_the_first_copy_stays_if_the_answers_agree(tmp_path):
    a = write(tmp_path / "a.jsonl", row("What is $1/27$?", "1/27"), row("Two?"), row("what is  1/27", r"\frac{1}{27}"))
    b = write(tmp_path / "b.jsonl", row("Three?", "3"), row("TWO?", "2.0"), row("two ?", "20\\%"))
    kept, cases = cleaned(a)
    assert (kept, cases) == (["What is $1/27$?", "Two?"], [("duplicate", "what is 1/27")])
    kept, cases = cleaned([a, b])
    assert kept == ["What is $1/27$?", "Three?"]
    assert cases == [("conflict", "Two?"), ("duplicate", "what is 1/27"), ("conflict", "TWO?"), ("conflict", "two ?")]


def test_copies_with_other_answers_are_all_dropped_and_both_answers_shown(tmp_path):
    path = write(tmp_path / "a.jsonl", row("Largest?", "9996"), row("Other?"), row("largest?", "9960"))
    prompts, report = training_prompts(DataConfig(path=path), None, VERIFIER)
    assert [p.problem for p in prompts] == ["Other?"]
    assert [c.step for c in report.cases] == ["conflict", "conflict"]
    assert all("9996 and 9960" in c.why for c in report.cases)


def test_a_percentage_and_its_number_agree_whichever_comes_first(tmp_path):
    for answers in (("20\\%", "20"), ("20", "20\\%")):
        path = write(tmp_path / "a.jsonl", *(row("How many percent?", answer) for answer in answers))
        assert len(cleaned(path)[0]) == 1


# --- what is held out -------------------------------------------------------------------------------------------------


def test_what_is_held_out_is_not_trained_on(tmp_path):
    rows = [
        row("Kept?"),
        row(HELD.problem, "50"),
        row(f"Well. {HELD.problem} Think!", "7"),
        row(HELD.problem.upper(), "50"),
    ]
    kept, cases = cleaned(write(tmp_path / "a.jsonl", *rows), HELD)
    assert kept == ["Kept?"]
    assert [step for step, _ in cases] == ["duplicate", "contaminated", "contaminated"]


def test_nearly_the_same_text_is_the_same_problem_if_its_answer_is(tmp_path):
    reworded = HELD.problem.replace("all together?", "in all? Answer in a box.")
    another = HELD.problem.replace("all together?", "on the left?")
    path = write(tmp_path / "a.jsonl", row(reworded, "50.0"), row(another, "25"))
    prompts, report = training_prompts(DataConfig(path=path), None, VERIFIER, [HELD])
    assert [p.problem for p in prompts] == [another]
    assert [(c.step, c.why) for c in report.cases] == [
        ("contaminated", "holds 87% of test/0, and its answer"),
        ("overlap", "holds 87% of test/0"),
    ]


def test_three_quarters_and_the_answer_are_the_problem(tmp_path):
    """Of thirteen words, ten stand in a row four times. What is kept is listed, the greatest share first."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "and", "so"]
    held = Prompt("test/0", " ".join(words), "7")
    changed = [" ".join("zero" if i == at else word for i, word in enumerate(words)) for at in range(3)]
    path = write(tmp_path / "a.jsonl", *(row(text, "7") for text in reversed(changed)))
    prompts, report = training_prompts(DataConfig(path=path), None, VERIFIER, [held])
    assert [p.problem for p in prompts] == [changed[2], changed[1]]
    assert [(c.problem, c.why) for c in report.cases] == [
        (changed[0], "holds 75% of test/0, and its answer"),
        (changed[1], "holds 50% of test/0"),
        (changed[2], "holds 25% of test/0"),
    ]


def test_a_short_problem_with_something_added_is_the_same_if_its_answer_is(tmp_path):
    held = Prompt("test/0", r"Compute $\dbinom{5}{3}$.", "10")
    text = r"Compute $\dbinom{5}{3}$, giving "
    path = write(tmp_path / "a.jsonl", row(f"{text} an integer.", "10"), row(f"{text} half of it.", "5"))
    kept, cases = cleaned(path, held)
    assert len(kept) == 1
    assert [step for step, _ in cases] == ["contaminated", "overlap"]


def test_what_is_to_be_excluded_is_a_source_too(tmp_path):
    train = write(tmp_path / "a.jsonl", {"q": HELD.problem, "a": 50}, {"q": "Kept?", "a": 1})
    test = write(tmp_path / "b.jsonl", {"q": HELD.problem, "a": 50})
    assert cleaned(train, exclude=[test, "abacus"], problem_key="q", answer_key="a")[0] == ["Kept?"]


@HERE
def test_planted_benchmark_problems_are_dropped_and_all_else_is_kept(tmp_path):
    folder = DATA / "benchmarks"
    files = [str(folder / f"{name}.jsonl") for name in benchmarks_in(str(folder))]
    assert len(files) == 10
    rng = random.Random(3)
    planted = rng.sample([json.loads(line) for file in files for line in Path(file).read_text().splitlines()], 20)
    own = [json.loads(line) for line in (DATA / "train/math_train_12k.sample2000.jsonl").read_text().splitlines()]
    own = [r for r in own if r["answer"] != r"\text{A5}_{11}"]
    texts = ("{}", " {}\n", "One more problem. {} Show your work.")
    rows = [*own, *(r | {"problem": texts[i % 3].format(r["problem"])} for i, r in enumerate(planted))]
    prompts, report = training_prompts(
        DataConfig(path=write(tmp_path / "a.jsonl", *rows), exclude=files), None, VERIFIER
    )
    assert [p.problem for p in prompts] == [r["problem"] for r in own]
    found = report.counts()[str(tmp_path / "a.jsonl")]
    assert (found["contaminated"], found["rows"], found["kept"]) == (20, 2019, 1999)
    assert found["overlap"] > 100


# --- length, and the end ----------------------------------------------------------------------------------------------


def test_long_prompts_are_left_out_and_listed(tmp_path):
    path = write(tmp_path / "a.jsonl", row("1+1="), row("1+1+1+1+1="), row("1-1="))
    config = DataConfig(path=path, template="plain", max_prompt_tokens=5)
    prompts, report = training_prompts(config, abacus.tokenizer(), VERIFIER)
    assert [(p.problem, len(p.tokens)) for p in prompts] == [("1+1=", 4), ("1-1=", 4)]
    assert [(c.step, c.problem) for c in report.cases] == [("too_long", "1+1+1+1+1=")]


def test_problems_that_cannot_be_spelled_are_left_out_and_listed(tmp_path):
    path = write(tmp_path / "a.jsonl", row("1+1="), row("\u6570="), row("1-1="))
    prompts, report = training_prompts(DataConfig(path=path, template="plain"), abacus.tokenizer(), VERIFIER)
    assert [p.problem for p in prompts] == ["1+1=", "1-1="]
    assert [(c.step, c.problem, c.why) for c in report.cases] == [("unspellable", "\u6570=", "under 'plain'")]
    with pytest.raises(ContraposeError, match=r"cannot spell: 3 .*under 'rence'; try template = 'plain'"):
        training_prompts(DataConfig(path=path), abacus.tokenizer(), VERIFIER)
    with pytest.raises(ContraposeError, match=r"cannot spell problem a/.* under 'plain'$"):
        evaluation_prompts(DataConfig(template="plain"), path, "test", abacus.tokenizer())


def test_prompts_come_in_the_order_of_their_sources(tmp_path):
    b = write(tmp_path / "b.jsonl", row("Two?"), row("One?"))
    a = write(tmp_path / "a.jsonl", row("Four?"), row("Three?"))
    prompts, report = training_prompts(DataConfig(path=[b, a]), None, VERIFIER)
    assert [(p.problem, p.source) for p in prompts] == [("Two?", b), ("One?", b), ("Four?", a), ("Three?", a)]
    assert list(report.rows.items()) == [(b, 2), (a, 2)]
    assert dict(survey(DataConfig(path=[b, a]), VERIFIER, limit=1).rows) == {b: 1, a: 1}


def test_a_source_that_stands_twice_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", row("One?"))
    with pytest.raises(ContraposeError, match=r"data\.path: .*a\.jsonl' stands twice"):
        cleaned([path, path])


def test_where_nothing_is_left_the_error_says_what_took_it(tmp_path):
    path = write(tmp_path / "a.jsonl", row(HELD.problem, "50"), row("Half?", r"\frac{0}{0}"))
    with pytest.raises(ContraposeError, match=r"no prompt is left.*cannot be graded: 1 .*held out for evaluation: 1"):
        cleaned(path, HELD)


def test_a_survey_measures_prompts_only_with_a_tokenizer(tmp_path):
    config = DataConfig(
        path=write(tmp_path / "a.jsonl", row("1+1="), row("1+1+1=")), template="plain", max_prompt_tokens=5
    )
    assert [survey(config, VERIFIER, model=m).counts()[config.path]["too_long"] for m in ("", "abacus")] == [0, 1]


def test_a_folder_that_is_closed_is_refused(tmp_path, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.is_file", closed)
    with pytest.raises(ContraposeError, match=r"math500\.jsonl cannot be read: Permission denied"):
        benchmarks_in(str(tmp_path))


def test_a_folder_without_benchmarks_is_refused(tmp_path):
    with pytest.raises(ContraposeError, match=r"holds the file of no benchmark \(math500\.jsonl, "):
        benchmarks_in(str(tmp_path))


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "weights"), [("a.jsonl", [1.0, 2.0]), (["a", "b"], [1.0]), (["a", "b"], [1.0, 0.0])])
def test_each_source_has_a_weight_above_zero(path, weights):
    tree = {"model": {"path": "abacus"}, "data": {"path": path, "weights": weights}}
    with pytest.raises(ContraposeError, match=r"data\.weights: expected a number above 0 for each of the \d sources"):
        validate(tree)


@pytest.mark.parametrize("path", [3, ["a.jsonl", 3]])
def test_a_source_is_a_text(path):
    with pytest.raises(ContraposeError, match=r"^data\.path: input should be a source or a list of sources, found "):
        validate({"model": {"path": "abacus"}, "data": {"path": path}})


def test_sources_may_be_weighted_or_not():
    for weights in ([], [1.0, 2.5]):
        data = {"path": ["a.jsonl", "b.jsonl"], "weights": weights}
        assert validate({"model": {"path": "abacus"}, "data": data}).data.weights == weights
