"""Two evaluations side by side: problems are paired, and noise is called noise."""

import json
import math
import random
from statistics import fmean, variance
from types import MappingProxyType

import pytest

from contrapose.evaluate.compare import compare
from contrapose.evaluate.statistics import estimate
from contrapose.types import ContraposeError


def folder(path, right, samples=4, golds=MappingProxyType({}), asked=MappingProxyType({}), **settings):
    """A finished evaluation: ``right`` has the number of right samples by data set, or the start of an id, and prompt.

    ``samples`` may be by data set too; ``golds`` has those that are not ``"0"``; ``asked`` settings of every set.
    """
    path.mkdir()
    sets = right if isinstance(next(iter(right.values())), dict) else {}
    for prompt, count in right.items() if not sets else ():
        sets.setdefault(prompt.partition("/")[0], {})[prompt] = count
    many = samples if isinstance(samples, dict) else dict.fromkeys(sets, samples)
    rows = []
    for data, problems in sets.items():
        for prompt, count in problems.items():
            kinds = ["correct"] * count + ["wrong"] * (many[data] - count)
            answers = [{"tokens": 5, "finished": "stop", "status": kind} for kind in kinds]
            known = {"data": data, "prompt": prompt, "answer": golds.get(prompt, "0"), "majority": 0.0}
            rows.append({**known, "samples": answers})
    (path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = {"model": path.name, "weights": path.name, "data": {data: {"samples": many[data], **asked} for data in sets}}
    (path / "settings.json").write_text(json.dumps({**told, **settings}))
    result = [{"data": data, "problems": len(problems), "samples": many[data]} for data, problems in sets.items()]
    mean = {"data": "mean", "of": list(sets), "problems": len(rows)}
    (path / "eval.json").write_text(json.dumps([*result, mean]))
    return path


@pytest.fixture
def two(tmp_path):
    """Evaluations of as many problems, the second ``lift`` likelier to be right."""

    def make(problems, lift, samples=4, **second):
        rng = random.Random(0)
        rates = {f"math500/{i}": rng.random() * 0.8 for i in range(problems)}

        def draw(more):
            return {name: sum(rng.random() < p + more for _ in range(samples)) for name, p in rates.items()}

        names = f"a{problems}-{lift}", f"b{problems}-{lift}"
        return folder(tmp_path / names[0], draw(0), samples), folder(tmp_path / names[1], draw(lift), samples, **second)

    return make


def test_a_difference_is_that_of_the_same_problems(tmp_path):
    a = folder(tmp_path / "a", {"x/1": 4, "x/2": 0, "x/3": 1, "x/9": 4})
    b = folder(tmp_path / "b", {"x/8": 0, "x/3": 3, "x/2": 2, "x/1": 4})
    [one] = compare(a, b).sets
    assert (one.data, one.problems) == ("x", 3)
    assert (one.first, one.second) == (pytest.approx(5 / 12), pytest.approx(9 / 12))
    sampling = math.sqrt(2 * (1 / 4 * 3 / 4) / 3 + (1 / 2 * 1 / 2) / 3) / 3  # p (1 - p) / (n - 1), of both sides
    assert one.difference == estimate([0, 0.5, 0.5], pytest.approx(sampling), signed=True)


def test_problems_without_a_partner_are_named(tmp_path):
    a = folder(tmp_path / "a", {"x/1": 4, "x/9": 4, "y/1": 0})
    b = folder(tmp_path / "b", {"x/8": 0, "x/1": 4})
    assert compare(a, b).alone == (("x/9", "y/1"), ("x/8",))


def test_sets_with_problems_of_the_same_ids_are_kept_apart(tmp_path):
    """One file read from two places, asked four times and once: an answer to either is no answer to the other."""
    both = {"old/x.jsonl": {"x/1": 4, "x/2": 4}, "new/x.jsonl": {"x/1": 0, "x/2": 1}}
    samples = {"old/x.jsonl": 4, "new/x.jsonl": 1}
    a, b = (folder(tmp_path / name, both, samples) for name in "ab")
    found = compare(a, b)
    assert [(one.data, one.first, one.second) for one in found.sets[:2]] == [
        ("old/x.jsonl", 1, 1),
        ("new/x.jsonl", 0.5, 0.5),
    ]
    assert found.alone == ((), ())


def test_a_set_that_lies_elsewhere_is_found_by_its_problems(tmp_path):
    a = folder(tmp_path / "a", {"x.jsonl": {"x/1": 4, "x/2": 0}, "y": {"y/1": 0}}, asked={"template": "rence"})
    b = folder(tmp_path / "b", {"y": {"y/1": 4}, "there/x.jsonl": {"x/2": 2, "x/1": 1}}, asked={"template": "plain"})
    found = compare(a, b)
    assert [(one.data, one.problems, one.second) for one in found.sets[:2]] == [("y", 1, 1), ("x.jsonl", 2, 3 / 8)][
        ::-1
    ]
    assert found.renamed == (("x.jsonl", "there/x.jsonl"),)
    assert found.settings == tuple((f"data.{data}.template", "rence", "plain") for data in ("x.jsonl", "y"))


def test_evaluations_may_differ_in_their_samples(tmp_path):
    a, b = folder(tmp_path / "a", {"x/1": 3, "x/2": 0}, 4), folder(tmp_path / "b", {"x/1": 16, "x/2": 8}, 32)
    [one] = compare(a, b).sets
    assert (one.first, one.second) == (3 / 8, 3 / 8)
    assert compare(a, b).settings == (("data.x.samples", 4, 32),)


def test_problems_with_another_gold_answer_are_left_out(tmp_path):
    a = folder(tmp_path / "a", {"x/1": 4, "x/2": 4})
    b = folder(tmp_path / "b", {"x/1": 4, "x/2": 0}, golds={"x/2": "7"})
    found = compare(a, b)
    assert (found.sets[0].problems, found.sets[0].difference.value) == (1, 0)
    assert found.other_golds == ("x/2",)
    assert found.alone == ((), ())


def test_settings_that_differ_are_pointed_out_and_models_may(tmp_path):
    a = folder(tmp_path / "a", {"x/1": 4}, temperature=0.7, seed=0)
    b = folder(tmp_path / "b", {"x/1": 4}, temperature=1.0, seed=0)
    assert compare(a, b).settings == (("temperature", 0.7, 1.0),)


def test_a_difference_beyond_noise_is_said(two):
    found = compare(*two(300, 0.15))
    low, high = found.sets[0].difference.low, found.sets[0].difference.high
    assert 0.08 < low < 0.15 < high < 0.2
    value = found.sets[0].difference.value
    said = f"B is ahead by {100 * value:.1f} points [{100 * low:.1f}, {100 * high:.1f}]"
    assert found.sets[0].sentence(("A", "B")) == said


def test_who_is_ahead_does_not_hang_on_the_order(two):
    a, b = two(300, 0.15)
    back, forth = compare(a, b).sets[0], compare(b, a).sets[0]
    assert back.difference.value == pytest.approx(-forth.difference.value)
    said = forth.sentence(("B", "A"))
    assert said.startswith("B is ahead by ")
    assert float(said.split("[")[1].split(",")[0]) == pytest.approx(100 * back.difference.low, abs=0.2)


def test_noise_is_called_noise_and_what_it_would_take(two):
    found = compare(*two(60, 0.02)).sets[0]
    said = found.sentence(("A", "B"))
    assert said.startswith("within noise: ")
    assert said.endswith(f"; a difference of this size takes about {found.enough:,} problems like these")
    assert found.difference.low < 0 < found.difference.high
    assert found.enough > 2 * 60


def test_so_many_problems_are_indeed_enough(tmp_path):
    """With the number it names, four of five repetitions leave zero out."""
    rng = random.Random(1)

    def scores(problems):
        return [(rng.random() < 0.55) - (rng.random() < 0.45) for _ in range(problems)]

    small = [1] * 62 + [0] * 92 + [-1] * 46  # as scores has them, and within noise
    a = folder(tmp_path / "a", {f"x/{i}": int(s < 0) for i, s in enumerate(small)}, 1)
    b = folder(tmp_path / "b", {f"x/{i}": int(s > 0) for i, s in enumerate(small)}, 1)
    [one] = compare(a, b).sets
    known = (1.96 + 0.8416) ** 2 * variance(small) / fmean(small) ** 2
    assert one.enough == pytest.approx(known, rel=0.1)
    needed = math.ceil(one.enough * (fmean(small) / 0.1) ** 2)  # 0.1 is the difference of the population
    shown = [estimate(scores(needed), signed=True).low > 0 for _ in range(150)]
    assert 0.7 < fmean(shown) < 0.95


def test_answers_that_are_as_good_say_what_they_could_have_shown(two, tmp_path):
    a, _ = two(60, 0)
    lines = (a / "rollouts.jsonl").read_text()
    b = folder(tmp_path / "b", {f"math500/{i}": 0 for i in range(60)})
    (b / "rollouts.jsonl").write_text(lines)
    [one] = compare(a, b).sets
    low = -100 * one.difference.low
    assert one.difference.value == 0
    said = one.sentence(("A", "B"))
    assert said.startswith(f"within noise: equal so far [-{low:.1f}, ")
    assert said.endswith(f"; so many problems show differences from about {2.8016 / 1.96 * low:.1f} points on")


def test_one_model_asked_twice_is_no_evidence(two):
    """However the answers fell: there is no difference to be found, and no number of problems that would show it."""
    a, b = two(300, 0.15, seed=1)
    settings = json.loads((a / "settings.json").read_text())
    (b / "settings.json").write_text(json.dumps({**settings, "seed": 1}))
    said = compare(a, b).sets[0].sentence(("A", "B"))
    assert said.startswith("the same model asked twice, so by chance: B is ahead by ")
    assert said.endswith("]")
    (b / "settings.json").write_text(json.dumps({**settings, "temperature": 0.1}))
    assert compare(a, b).sets[0].sentence(("A", "B")).startswith("B is ahead by ")


@pytest.mark.parametrize("problems", [2, 3, 5])
@pytest.mark.parametrize("lift", [2, 4])
def test_a_handful_of_problems_shows_nothing(tmp_path, problems, lift):
    """Whether they all agree or nearly: five that all went from wrong to right come about by chance one time in 16."""
    counts = [lift] * (problems - 1), [lift] * (problems - 2) + [lift - 1]
    for more in counts:
        right = [{f"x/{i}": 0 for i in range(problems)}, {f"x/{i}": n for i, n in enumerate([lift, *more])}]
        a, b = (folder(tmp_path / f"{name}{more[-1]}", side) for name, side in zip("ab", right, strict=True))
        said = compare(a, b).sets[0].sentence(("A", "B"))
        assert said.startswith("within noise: B is ahead by ")
        assert said.endswith("]")


def test_several_data_sets_have_a_mean(tmp_path):
    a = folder(tmp_path / "a", {"x/1": 4, "x/2": 0, "y/1": 2})
    b = folder(tmp_path / "b", {"x/1": 4, "x/2": 4, "y/1": 0})
    *sets, mean = compare(a, b).sets
    assert [one.data for one in sets] == ["x", "y"]
    assert (mean.data, mean.problems) == ("mean", 3)
    assert mean.difference.value == pytest.approx((0.5 - 0.5) / 2)
    assert mean.difference.se == pytest.approx(math.hypot(*(one.difference.se for one in sets)) / 2)


def test_a_single_sample_has_no_sampling_error(tmp_path):
    a, b = folder(tmp_path / "a", {"x/1": 1, "x/2": 0}, 1), folder(tmp_path / "b", {"x/1": 1, "x/2": 4})
    assert compare(a, b).sets[0].difference.se is None


def test_nothing_in_common_is_one_line(tmp_path):
    a, b = folder(tmp_path / "a", {"x/1": 4}), folder(tmp_path / "b", {"y/1": 4})
    with pytest.raises(ContraposeError, match="have no problem in common"):
        compare(a, b)


DAMAGE = {
    "a row that is missing": (
        "rollouts.jsonl",
        lambda t: t.partition("\n")[2],
        "1 lines hold 1 problems of 'x', where",
    ),
    "a last row that is cut off": ("rollouts.jsonl", lambda t: t[:-9], "line 2: cut off"),
    "a row in the middle that is no JSON": ("rollouts.jsonl", lambda t: "\0" * 9 + "\n" + t, "line 1: Expecting value"),
    "a number where a text belongs": ("rollouts.jsonl", lambda t: t.replace('"x/1"', "1"), "line 1: 'prompt': Input"),
    "an unknown verdict": ("rollouts.jsonl", lambda t: t.replace('"wrong"', '"wright"'), "'status': Input should be"),
    "a row that stands twice": (
        "rollouts.jsonl",
        lambda t: t.replace("x/2", "x/1"),
        "line 2: 'x/1' stands there twice",
    ),
    "a sample that is missing": (
        "rollouts.jsonl",
        lambda t: t.replace('"samples": [{', '"samples": [{"tokens": 1, "finished": "stop", "status": "wrong"}, {', 1),
        "line 1: 5 samples of 'x', which is not what eval.json has",
    ),
    "rows nested without end": ("rollouts.jsonl", lambda t: "[" * 100_000 + "\n" + t, "line 1: nested too deeply"),
    "no settings": ("settings.json", lambda t: "{}", r"settings.json: 'data': Field required"),
    "other settings": ("settings.json", lambda t: '{"data": {"x": 3}}', "settings.json: 'data'.'x': Input should be"),
    "settings nested too deeply": (
        "settings.json",
        lambda t: '{"data": ' * 100_000,
        "settings.json: nested too deeply",
    ),
    "settings of other data": ("settings.json", lambda t: '{"data": {}}', "settings.json: says nothing of 'x'"),
    "a result of another kind": ("eval.json", lambda t: '{"x": 2}', "eval.json: : Input should be a valid list"),
    "a result nested without end": ("eval.json", lambda t: "[" * 100_000, "eval.json: nested too deeply"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_evaluation_is_refused_in_one_line(tmp_path, what):
    """Never compared by what is left of it."""
    a, b = (folder(tmp_path / name, {"x/1": 3, "x/2": 0}) for name in "ab")
    file, damage, said = DAMAGE[what]
    (b / file).write_text(damage((b / file).read_text()))
    with pytest.raises(ContraposeError) as error:
        compare(a, b)
    assert str(b / file) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["settings.json", "eval.json", "rollouts.jsonl"])
def test_a_folder_of_something_else_is_one_line(tmp_path, name):
    a, b = folder(tmp_path / "a", {"x/1": 4}), folder(tmp_path / "b", {"x/1": 4})
    (b / name).unlink()
    with pytest.raises(ContraposeError, match=rf"b has no {name}") as error:
        compare(a, b)
    assert "\n" not in str(error.value)
