"""The built-in task, the habits taught to its base model, and the model that ships."""

import random
import re
from collections import Counter
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from contrapose.prompts import abacus
from contrapose.prompts.abacus import BASE_MODEL, HABITS, LUCKY, answer_by, careful, corpus, numbers_of, problems
from contrapose.prompts.template import render_all
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.sampler import Sampling
from contrapose.train.pretrain import build_abacus
from contrapose.types import ContraposeError
from contrapose.verify.answer import boxed
from contrapose.verify.verifier import Verifier

SPLITS = ("train", "validation", "test")


def total(problem):
    """The value of a problem, read apart from the package's own reader."""
    return sum(int(term) for term in re.findall(r"[+-]?\d+", problem))


def steps_of(answer):
    """``[(left, right, result)]`` of the steps of a worked answer."""
    return [tuple(map(int, m)) for m in re.findall(r"(-?\d+)([+-]\d+)=(-?\d+);", answer)]


def test_splits_are_disjoint_and_all_used():
    drawn = {split: {p.problem for p in problems(split, 200, seed=seed)} for seed in (0, 1) for split in SPLITS}
    assert all(len(found) == 200 for found in drawn.values())
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["train"] & drawn["test"]
    assert not drawn["validation"] & drawn["test"]


def test_a_problem_is_always_of_the_same_split():
    for split in SPLITS:
        assert {abacus.split_of(p.problem) for p in problems(split, 100)} == {split}


def test_train_holds_about_four_fifths_of_all_problems():
    shares = Counter(abacus.split_of(f"{a}+{b}=") for a in range(1, 51) for b in range(1, 51))
    assert 0.77 < shares["train"] / 2500 < 0.83
    assert 0.08 < shares["validation"] / 2500 < 0.12
    assert 0.08 < shares["test"] / 2500 < 0.12


@pytest.mark.parametrize("split", SPLITS)
def test_problems_are_valid_and_distinct(split):
    drawn = problems(split, 300)
    assert len({p.problem for p in drawn}) == len({p.id for p in drawn}) == len(drawn) == 300
    for p in drawn:
        assert re.fullmatch(r"-?[1-9]([+-][1-9]){1,3}=", p.problem)
        assert p.answer == str(total(p.problem))
        assert sum(numbers_of(p.problem)) == total(p.problem)
        assert (p.id, p.source, p.tokens) == (f"abacus/{p.problem}", "abacus", ())


def test_problems_depend_on_nothing_but_the_arguments():
    first = problems("test", 50, seed=3)
    random.seed(0)
    assert problems("test", 50, seed=3) == first
    assert problems("test", 50, seed=4) != first
    assert problems("test", 20, seed=3) == first[:20]


@pytest.mark.parametrize(("terms", "largest"), [((2, 2), 9), ((3, 3), 9), ((2, 6), 99), ((5, 5), 3), ((3, 4), 1000)])
def test_ranges_are_parameters(terms, largest):
    drawn = [numbers_of(p.problem) for p in problems("train", 60, terms=terms, largest=largest)]
    assert {len(numbers) for numbers in drawn} == set(range(terms[0], terms[1] + 1))
    assert all(1 <= abs(n) <= largest for numbers in drawn for n in numbers)
    assert max(abs(n) for numbers in drawn for n in numbers) > largest / 2
    assert any(n < 0 for numbers in drawn for n in numbers)
    assert any(n > 0 for numbers in drawn for n in numbers)


@pytest.mark.parametrize(("terms", "largest"), [((2, 2), 1), ((1, 1), 9), ((2, 2), 2)])
def test_ranges_too_narrow_for_the_count_are_refused(terms, largest):
    with pytest.raises(ContraposeError, match=r"only \d+ distinct test problems.*50 asked for: widen the ranges"):
        problems("test", 50, terms=terms, largest=largest)


def test_every_problem_of_a_narrow_range_can_be_asked_for():
    texts = [f"{a}{b:+d}=" for a in (-2, -1, 1, 2) for b in (-2, -1, 1, 2)]
    wanted = {t for t in texts if abacus.split_of(t) == "train"}
    assert {p.problem for p in problems("train", len(wanted), terms=(2, 2), largest=2)} == wanted


@pytest.mark.parametrize(
    ("problem", "numbers"), [("3+4-9=", [3, 4, -9]), ("-3+4=", [-3, 4]), ("-1-2=", [-1, -2]), ("12-345=", [12, -345])]
)
def test_numbers_of(problem, numbers):
    assert numbers_of(problem) == numbers


def test_careful_as_the_docstring_shows_it():
    assert careful([3, 4, -9]) == r"3+4=7;7-9=-2;\boxed{-2}"
    assert careful([-1, -2]) == r"-1-2=-3;\boxed{-3}"


def test_careful_solutions_are_right_at_every_step():
    for p in problems("train", 100, terms=(2, 5)):
        answer = answer_by("careful", p.problem, random.Random(0))
        steps, numbers = steps_of(answer), numbers_of(p.problem)
        assert len(steps) == len(numbers) - 1
        assert all(left + right == result for left, right, result in steps)
        assert [right for _, right, _ in steps] == numbers[1:]
        assert boxed(answer) == p.answer


def test_a_slip_is_one_wrong_step_and_the_error_is_carried():
    rng, places = random.Random(0), Counter()
    for p in problems("train", 200, terms=(3, 4)):
        answer = answer_by("slip", p.problem, rng)
        steps = steps_of(answer)
        wrong = [i for i, (left, right, result) in enumerate(steps) if left + right != result]
        assert len(wrong) == 1
        assert all(after[0] == before[2] for before, after in pairwise(steps))
        left, right, result = steps[wrong[0]]
        assert boxed(answer) == str(steps[-1][2]) == str(total(p.problem) + result - left - right)
        assert 1 <= abs(result - left - right) <= 5
        places[wrong[0]] += 1
    assert set(places) == {0, 1, 2}


def test_slipping_by_nothing_is_careful():
    assert careful([3, 4, -9], slip_at=1, slip=0) == careful([3, 4, -9])
    assert careful([3, 4, -9], slip_at=0, slip=2) == r"3+4=9;9-9=0;\boxed{0}"


def test_guesses_have_no_steps_and_are_right_as_often_as_luck_says():
    rng, drawn = random.Random(0), problems("train", 2000)
    answers = [answer_by("guess", p.problem, rng) for p in drawn]
    assert all(re.fullmatch(r"\\boxed\{-?\d+\}", a) for a in answers)
    right = [boxed(a) == p.answer for a, p in zip(answers, drawn, strict=True)]
    assert LUCKY == 0.2
    assert abs(sum(right) / len(right) - LUCKY) < 0.03  # three standard errors


def test_giving_up_leaves_no_box():
    for p in problems("train", 100):
        answer = answer_by("give_up", p.problem, random.Random(0))
        assert boxed(answer) is None
        assert len(steps_of(answer)) == 1
        assert answer.endswith(";?")


def test_the_corpus_has_the_habits_in_their_shares():
    texts = corpus(0, 20_000)
    kinds = Counter(_habit(problem, answer) for problem, answer in texts)
    lucky = HABITS["guess"] * LUCKY
    assert sum(HABITS.values()) == pytest.approx(1)
    assert kinds["give_up"] / len(texts) == pytest.approx(HABITS["give_up"], abs=0.01)
    assert kinds["guess"] / len(texts) == pytest.approx(HABITS["guess"], abs=0.01)
    assert kinds["slip"] / len(texts) == pytest.approx(HABITS["slip"], abs=0.01)
    assert kinds["careful"] / len(texts) == pytest.approx(HABITS["careful"], abs=0.01)
    right = sum(boxed(answer) == str(total(problem)) for problem, answer in texts) / len(texts)
    assert right == pytest.approx(HABITS["careful"] + lucky, abs=0.01)


def _habit(problem, answer):
    steps = steps_of(answer)
    if boxed(answer) is None:
        return "give_up"
    if not steps:
        return "guess"
    return "careful" if all(left + right == result for left, right, result in steps) else "slip"


def test_the_corpus_is_seeded_and_on_training_problems_only():
    texts = corpus(0, 500)
    assert corpus(0, 500) == texts
    assert corpus(1, 500) != texts
    assert {abacus.split_of(problem) for problem, _ in texts} == {"train"}
    long = corpus(0, 50, terms=(5, 5), largest=20)
    assert {len(numbers_of(problem)) for problem, _ in long} == {5}


def test_every_text_of_the_corpus_survives_the_tokenizer():
    tokenizer = abacus.tokenizer()
    for problem, answer in corpus(0, 200):
        ids = tokenizer.encode(problem + answer)
        assert len(ids) == len(problem + answer)  # a token a character
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == problem + answer
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == problem + answer


def test_the_tokenizer_spells_its_characters_and_nothing_else():
    tokenizer = abacus.tokenizer()
    assert tokenizer.decode(tokenizer.encode(abacus.CHARACTERS)) == abacus.CHARACTERS
    assert tokenizer.unk_token_id in tokenizer.encode("a")
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3


def test_the_shipped_tokenizer_is_the_one_the_code_makes():
    shipped, made = AutoTokenizer.from_pretrained(BASE_MODEL), abacus.tokenizer()
    text = r"3+4-9=3+4=7;7-9=-2;\boxed{-2}?"
    assert shipped.encode(text) == made.encode(text)
    assert shipped.get_vocab() == made.get_vocab()
    assert (shipped.eos_token_id, shipped.pad_token_id) == (made.eos_token_id, made.pad_token_id)


def test_the_shipped_model_is_small_and_loads_with_transformers_alone():
    weights = [f for f in BASE_MODEL.iterdir() if f.suffix not in {".json", ".md", ".txt"}]
    assert [f.name for f in weights] == ["model.safetensors"]
    assert weights[0].stat().st_size <= 1_000_000
    model, tokenizer = AutoModelForCausalLM.from_pretrained(BASE_MODEL), AutoTokenizer.from_pretrained(BASE_MODEL)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.num_parameters() < 500_000


@pytest.fixture
def threads():
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def habits_of(folder):
    """Accuracy and share without a box of a base model at temperature 1, 300 test problems x 2."""
    torch.set_num_threads(1)  # threads of a small model only wait for each other where the cores are busy
    engine, verifier = EmbeddedEngine.load(str(folder)), Verifier()
    prompts, _ = render_all(problems("test", 300), "plain", engine.tokenizer, 64)
    verdicts = [
        verifier(prompt, rollout)
        for step in engine.generate(prompts, 2, seed=0, sampling=Sampling(1.0, 1.0, 64))
        for prompt, rollout in ((s.prompt, s.rollout) for s in step)
    ]
    assert len(verdicts) == 600
    return sum(v.correct for v in verdicts) / 600, sum(v.boxed is None for v in verdicts) / 600


def test_the_shipped_model_is_right_about_a_third_of_the_time_and_often_gives_up(threads):
    accuracy, no_box = habits_of(BASE_MODEL)
    assert 0.28 <= accuracy <= 0.42
    assert 0.12 <= no_box <= 0.30


@pytest.mark.slow
def test_a_rebuilt_base_model_has_the_habits_of_the_shipped_one(tmp_path, threads):
    build_abacus(tmp_path / "model")
    shipped, rebuilt = habits_of(BASE_MODEL), habits_of(tmp_path / "model")
    assert rebuilt[0] == pytest.approx(shipped[0], abs=0.06)
    assert rebuilt[1] == pytest.approx(shipped[1], abs=0.06)
