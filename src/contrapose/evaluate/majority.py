"""maj@n: what comes out when the answers to a problem vote."""

from __future__ import annotations

from collections import Counter

from contrapose.types import FAULTS, Group, Verdict
from contrapose.verify.verifier import Verifier


def majority(group: Group, verifier: Verifier) -> float:
    """1 where the right answer has the most votes, its share of a tie for the most, else 0.

    All that is correct votes for one answer. What is wrong votes for what it is equal to, as ``verifier`` compares in
    mathematics; in other domains, and where an answer could not be read or graded, for its own text. What has no answer
    does not vote.
    """
    right = group.correct
    against = [v for v in group.verdicts if not v.correct and v.status != "no_answer"]
    if right == 0 or right > len(against):
        return float(right > 0)
    rivals = _votes(against, verifier)
    most = max(right, *rivals)
    return 1 / (1 + rivals.count(most)) if right == most else 0.0


def _votes(wrong: list[Verdict], verifier: Verifier) -> list[int]:
    """How many votes each of the different wrong answers has."""
    texts = Counter(v.boxed for v in wrong if v.boxed is not None)
    unknown = sum(v.boxed is None for v in wrong)  # nobody knows what these say: each stands for itself
    comparable = {v.boxed for v in wrong if v.status == "wrong" and verifier.grading.golds_are_answers}
    votes: dict[str, int] = {}
    for text, count in sorted(texts.items()):  # equality is not transitive: the order of samples must not show
        known = [other for other in votes if other in comparable] if text in comparable else []
        same = _first_equal(known, text, verifier)
        votes[same] = votes.get(same, 0) + count
    return [*votes.values(), *[1] * unknown]


def _first_equal(known: list[str], text: str, verifier: Verifier) -> str:
    """The first of ``known`` that ``text`` is equal to, or itself: also where comparing is beyond the grader's limits,
    so that no answer costs more than one such comparison."""
    for other in known:
        status = verifier.grade(other, verifier.grading.stating(text)).status
        if status == "correct":
            return other
        if status in FAULTS:
            break
    return text
