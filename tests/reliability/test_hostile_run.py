"""A policy that writes whatever it likes, for fifty steps: the run ends, its counts are right, its files are plain."""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from contrapose.cli.screen import Screen
from contrapose.config import resolve
from contrapose.policy.logprobs import Row
from contrapose.rollout.sampler import Sampling
from contrapose.train.loop import train
from contrapose.train.run import Run
from contrapose.types import Prompt, Rollout, Sampled
from user import few_sums

STEPS, PROMPTS, LIMIT = 50, 2, 12
SETTINGS = [
    *(f"steps={STEPS}", f"batch.prompts={PROMPTS}", "batch.updates=1", "rollout.k=10", f"rollout.max_tokens={LIMIT}"),
    *("filter.mode=none", "eval.data=''", "checkpoint.every=0", "optim.lr=1e-5", "diagnose.every=0"),
]
SCRIPT = "<script>alert(document.cookie)</script>"
HOSTILE = {
    "right": (r"\boxed{%s}", "correct"),
    "empty": ("", "no_answer"),
    "only an EOS": ("", "no_answer"),
    "cut off": (r"and so \boxed{1", "no_answer"),
    "long": ("a" * 50_000 + r"\boxed{" + "9" * 50_000 + "}", "too_long"),
    "NUL": ("\0\\boxed{1\0}\0", "unparsed"),
    "a lone surrogate": ("\ud800\\boxed{\udfff}", "unparsed"),
    "a script": (rf"{SCRIPT}\boxed{{{SCRIPT}}}", "unparsed"),
    "a terminal's orders": ("\x1b[2J\x1b]0;mine\x07\\boxed{\x1b[31m7}", "unparsed"),
    "markup": (r"[red]\boxed{[/red][link=file:///etc/passwd]}", "unparsed"),
}
"""What a rollout says, and the verdict that it earns."""


class Hostile:
    """An engine whose rollouts are those of ``HOSTILE``, each with tokens of its own and their true log-probs."""

    trainer_numerics = False

    def __init__(self, run: Run) -> None:
        self._run, self._eos = run, run.engine.eos[0]

    def sync(self, model: object, version: int = 0) -> None:
        self._version = version

    def generate(
        self, prompts: Sequence[Prompt], k: int, seed: int, sampling: Sampling, cancelled: Collection[str] = ()
    ) -> Iterator[list[Sampled]]:
        for prompt in prompts:
            yield [Sampled(prompt, i, self._rollout(prompt, i, name)) for i, name in enumerate(HOSTILE)]

    def _rollout(self, prompt: Prompt, index: int, name: str) -> Rollout:
        text = HOSTILE[name][0].replace("%s", prompt.answer)
        tokens = {"empty": (), "only an EOS": (self._eos,), "cut off": (5,) * LIMIT}.get(name, (6 + index, self._eos))
        logp, _ = self._run.policy.passes.logprobs.without_grad([Row(prompt.tokens, tokens or (5,))])
        finished = "length" if name == "cut off" else "stop"
        stated = tuple(logp[0, : len(tokens)].tolist())
        return Rollout(tokens, (1,) * len(tokens), stated, text, finished, self._version)


@pytest.mark.parametrize("objective", ["rence", pytest.param("conspo", marks=pytest.mark.slow)])
def test_fifty_steps_of_hostile_answers(tmp_path: Path, capsys, objective):
    config, _ = resolve(None, [*SETTINGS, f"objective.name={objective}"])
    with few_sums(), Run(config, tmp_path / "run") as run:
        run.engine = Hostile(run)
        assert train(run, Screen(Console(), STEPS).on_step)
    groups = STEPS * PROMPTS
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    expected = {status: sum(s == status for _, s in HOSTILE.values()) for _, status in HOSTILE.values()}
    for row in rows:
        assert row["verdicts"] == {status: PROMPTS * count for status, count in expected.items()}
        assert (row["accuracy"], row["truncated"], row["verifier_faults"]) == (0.1, 0.1, 0.1)
        assert (row["no_answer"], row["unparsed"]) == (0.3, 0.5)
        assert row["generated_tokens"] == row["kept_tokens"] == PROMPTS * (LIMIT + 1 + 7 * 2)
        assert row["grad_norm"] > 0
        assert any("could not be graded within limits" in alarm for alarm in row["alarms"])
    written = (tmp_path / "run" / "rollouts.jsonl").read_bytes()
    assert written.isascii() and b"\0" not in written and b"\x1b" not in written
    told = [json.loads(line) for line in written.splitlines()]
    assert len(told) == groups
    for group in told:
        assert [r["text"] for r in group["rollouts"]] == [
            text.replace("%s", group["answer"]) for text, _ in HOSTILE.values()
        ]
        assert [r["status"] for r in group["rollouts"]] == [status for _, status in HOSTILE.values()]
    assert len((tmp_path / "run" / "ledger.jsonl").read_text().splitlines()) == groups
    shown = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in shown) and shown.count("alarm      step") == STEPS
