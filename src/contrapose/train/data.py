"""What a run trains on: its sources, without what is broken, ungradable, there twice, held out, without tokens or too
long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from contrapose.prompts.catalogue import BENCHMARKS, find
from contrapose.prompts.clean import Case, Report, case, copies, shown
from contrapose.prompts.contamination import NEARLY, HeldOut, Match
from contrapose.prompts.rows import READERS, is_file, local
from contrapose.prompts.sources import Loaded, load
from contrapose.prompts.template import Unspellable, render, render_all
from contrapose.settings import DataConfig
from contrapose.types import ContraposeError, Prompt
from contrapose.verify.verifier import Verifier

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BROKEN = 400
"""Characters shown of what is wrong with a row, its place in a file among them."""

Found = tuple[list[Prompt], list[Case]]
"""What a step leaves, and its cases."""


def training_prompts(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase | None, verifier: Verifier, held_out: Sequence[Prompt] = ()
) -> tuple[list[Prompt], Report]:
    """The prompts of ``config.path``, rendered, in the order of the sources, and what was left out. A prompt's
    ``source`` is what ``config.path`` calls it.

    Nothing of ``held_out`` and ``config.exclude`` is among them. Without a tokenizer they are not rendered and may have
    any length. Raises ContraposeError for a source that cannot be read, or has too many broken rows, and where nothing
    is left.
    """
    prompts, report = _cleaned(config, tokenizer, verifier, held_out)
    if fault := refusal(config, report):
        raise ContraposeError(f"data: {fault} (contrapose data lists all of them)")
    return prompts, report


def survey(config: DataConfig, verifier: Verifier, *, model: str = "", limit: int | None = None) -> Report:
    """What ``training_prompts`` would leave out, of the first ``limit`` rows of each source; by their tokens only where
    ``model`` says whose tokenizer counts. ``refusal`` tells whether a run would start."""
    from contrapose.policy.model import load_tokenizer
    from contrapose.prompts.abacus import model_folder

    tokenizer = load_tokenizer(model_folder(model)) if model else None
    return _cleaned(config, tokenizer, verifier, limit=limit)[1]


def refusal(config: DataConfig, report: Report) -> str:
    """Why a run does not start with data of which this is the report; empty where it does."""
    counts = report.counts()
    for source, found in counts.items():
        if found["broken"] > config.max_broken * found["rows"]:
            first = [c.why for c in report.cases if (c.step, c.source) == ("broken", source)][:3]
            return (
                f"{found['broken']} of {found['rows']} rows of {source} are broken, more than data.max_broken = "
                f"{config.max_broken:g} allows: {'; '.join(first)}"
            )
    if not any(found["kept"] for found in counts.values()):
        return f"no prompt is left to train on: {'; '.join(report.lines())}"
    return ""


def benchmarks_in(folder: str) -> list[str]:
    """The names of the benchmarks whose files ``folder`` holds. Raises ContraposeError where it holds none."""
    found = [name for name, dataset in BENCHMARKS.items() if is_file(local(folder or ".") / dataset.file)]
    if not found:
        files = ", ".join(dataset.file for dataset in BENCHMARKS.values())
        raise ContraposeError(f"--data-dir: {folder or '.'} holds the file of no benchmark ({files})")
    return found


def trained_on(config: DataConfig, spec: str) -> bool:
    """Whether ``spec`` is a file that is a source of training problems as well."""
    return spec in config.sources and Path(spec).suffix in READERS


def evaluation_prompts(
    config: DataConfig, spec: str, split: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Prompt], int]:
    """The problems of ``spec``, rendered, and how many were too long. A row that cannot be read is an error."""
    prompts = _load(config, spec, "validation" if split == "validation" else "test").whole()
    return render_all(prompts, config.template, tokenizer, config.max_prompt_tokens, thinking=config.thinking)


def _load(config: DataConfig, spec: str, split: str, limit: int | None = None) -> Loaded:
    """``spec`` as the settings have it. Data sets with a name have their own columns, all others those two."""
    problem_key, answer_key = ("", "") if find(spec.partition(":")[0]) else (config.problem_key, config.answer_key)
    return load(
        spec, folder=config.dir, problem_key=problem_key, answer_key=answer_key, limit=limit, default_split=split
    )


def _cleaned(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    verifier: Verifier,
    held_out: Sequence[Prompt] = (),
    limit: int | None = None,
) -> tuple[list[Prompt], Report]:
    """What is left after all steps, and the report."""
    prompts, rows, cases = _sources(config, limit)
    excluded = [prompt for spec in config.exclude for prompt in _load(config, spec, "test").whole()]
    steps: list[Callable[[list[Prompt]], Found]] = [
        partial(_gradable, verifier=verifier),
        partial(_once, verifier=verifier),
        partial(_not_held_out, held_out=HeldOut([*held_out, *excluded]), verifier=verifier),
    ]
    if tokenizer is not None:
        steps.append(partial(_rendered, config=config, tokenizer=tokenizer))
    for step in steps:
        prompts, found = step(prompts)
        cases += found
    return prompts, Report(rows, tuple(cases))


def _sources(config: DataConfig, limit: int | None) -> tuple[list[Prompt], dict[str, int], list[Case]]:
    """The prompts of every source, how many rows each has, and those that are broken."""
    prompts: list[Prompt] = []
    rows: dict[str, int] = {}
    cases: list[Case] = []
    for spec in config.sources:
        if spec in rows:
            raise ContraposeError(
                f"data.path: {spec!r} stands twice; data.weights says how often a source is drawn from"
            )
        loaded = _load(config, spec, "train", limit)
        rows[spec] = len(loaded.prompts) + len(loaded.broken)
        prompts += (replace(prompt, source=spec) for prompt in loaded.prompts)
        cases += (Case("broken", spec, "", "", shown(why, BROKEN)) for why in loaded.broken)
    return prompts, rows, cases


def _gradable(prompts: list[Prompt], verifier: Verifier) -> Found:
    """Without the problems whose answer, given in other words, is not right within the limits of grading."""
    verifier.workers.check()
    if not verifier.grading.golds_are_answers:
        return prompts, []
    golds = list(dict.fromkeys(p.answer for p in prompts))
    findings = verifier.workers.map((gold, verifier.grading.restating(gold)) for gold in golds)
    bad = {g: f.status for g, f in zip(golds, findings, strict=True) if f.status != "correct"}
    cases = [
        case("bad_gold", p, f"the answer {shown(p.answer)} is {bad[p.answer]} when put in other words")
        for p in prompts
        if p.answer in bad
    ]
    return [p for p in prompts if p.answer not in bad], cases


def _once(prompts: list[Prompt], verifier: Verifier) -> Found:
    """The first of problems that are the same text; none of them if their answers differ."""
    groups = copies(prompts)
    pairs = [(first, other) for first, *others in groups for other in others]
    same = _same_answers([(prompts[first], prompts[other]) for first, other in pairs], verifier)
    differing = {first for (first, _), agree in zip(pairs, same, strict=True) if not agree}
    cases: dict[int, Case] = {}
    for first, *others in groups:
        if first in differing:
            answers = dict.fromkeys(shown(prompts[place].answer) for place in (first, *others))
            why = f"its copies have the answers {' and '.join(answers)}"
            cases |= {place: case("conflict", prompts[place], why) for place in (first, *others)}
        else:
            why = f"the same problem as {shown(prompts[first].id)}"
            cases |= {place: case("duplicate", prompts[place], why) for place in others}
    return [p for place, p in enumerate(prompts) if place not in cases], [cases[place] for place in sorted(cases)]


def _not_held_out(prompts: list[Prompt], held_out: HeldOut, verifier: Verifier) -> Found:
    """Without what holds all of a held-out problem, or nearly all and its answer; a lesser overlap is listed."""
    matches = [held_out.matches(p.problem) for p in prompts]
    near = [
        (place, match)
        for place, found in enumerate(matches)
        for match in found
        if match.share >= NEARLY and not found[0].whole
    ]
    same = _same_answers([(prompts[place], match.problem) for place, match in near], verifier)
    answered = {place: match for (place, match), agree in zip(near, same, strict=True) if agree}
    kept: list[Prompt] = []
    cases: list[Case] = []
    overlaps: list[tuple[float, Case]] = []
    for place, (prompt, found) in enumerate(zip(prompts, matches, strict=True)):
        if place in answered:
            cases.append(case("contaminated", prompt, f"{_part(answered[place])}, and its answer"))
        elif found and found[0].whole:
            cases.append(case("contaminated", prompt, f"holds all of {shown(found[0].problem.id)}"))
        else:
            kept.append(prompt)
            overlaps += [(found[0].share, case("overlap", prompt, _part(found[0])))] if found else []
    overlaps.sort(key=lambda overlap: -overlap[0])
    return kept, [*cases, *(overlap for _, overlap in overlaps)]


def _part(match: Match) -> str:
    return f"holds {match.share:.0%} of {shown(match.problem.id)}"


def _rendered(prompts: list[Prompt], config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Found:
    """With their tokens, without those that cannot be spelled or have more than ``max_prompt_tokens``."""
    kept: list[Prompt] = []
    cases: list[Case] = []
    for prompt in prompts:
        try:
            rendered = render(prompt, config.template, tokenizer, thinking=config.thinking)
        except Unspellable as error:
            cases.append(case("unspellable", prompt, error.why))
            continue
        if 0 < len(rendered.tokens) <= config.max_prompt_tokens:
            kept.append(rendered)
        else:
            cases.append(case("too_long", prompt, f"{len(rendered.tokens)} tokens as a prompt"))
    return kept, cases


def _same_answers(pairs: Sequence[tuple[Prompt, Prompt]], verifier: Verifier) -> list[bool]:
    """Whether the two have the same answer: the same text or, where golds are answers, one right for the other."""
    texts = [(a.answer, b.answer) for a, b in pairs]
    asked = [(a, b) for a, b in dict.fromkeys(texts) if a != b] if verifier.grading.golds_are_answers else []
    both_ways = [(gold, answer) for a, b in asked for gold, answer in ((a, b), (b, a))]
    findings = verifier.workers.map((gold, verifier.grading.stating(answer)) for gold, answer in both_ways)
    right = {pair for pair, found in zip(both_ways, findings, strict=True) if found.status == "correct"}
    return [a == b or (a, b) in right or (b, a) in right for a, b in texts]
