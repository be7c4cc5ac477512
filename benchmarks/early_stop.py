"""Tokens that early stopping saves: on abacus, measured; on log-normal lengths, simulated.

    python benchmarks/early_stop.py

abacus is run twice, with filter.early_stop on and off; weights, fates and batches must be the same, and the difference
in tokens is what was saved. The second table draws groups of 8 with log-normal lengths and solve rates spread evenly,
at ReNCE's thresholds: the longest rollouts of a decided group are cut when its fate is known.
"""

import hashlib
import json
import random
import tempfile
from pathlib import Path

from contrapose.config import resolve
from contrapose.prompts.pool import Thresholds
from contrapose.train.loop import train
from contrapose.train.run import Run
from contrapose.types import Verdict

GROUPS = 20_000
K = 8


def abacus(early_stop: bool, seed: int, folder: Path) -> tuple[str, list[dict], list[dict]]:
    """Digest of the weights, the metrics and the ledger of 20 steps."""
    settings = ["eval.data=''", "diagnose.every=0", f"filter.early_stop={str(early_stop).lower()}"]
    with Run(resolve("abacus", settings, seed=seed)[0], folder) as run:
        train(run)
        weights = (run.finish() / "model.safetensors").read_bytes()
    metrics, ledger = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("metrics", "ledger")
    )
    return hashlib.sha256(weights).hexdigest(), metrics, ledger


def simulated(sigma: float, longer_when_wrong: float) -> tuple[float, float, float]:
    """Share of groups that are decided early, of rollouts that are cancelled and of tokens that are saved."""
    rng, thresholds = random.Random(0), Thresholds()
    decided = cancelled = total = saved = 0.0
    for _ in range(GROUPS):
        chance = rng.random()
        script = []
        for _ in range(K):
            right = rng.random() < chance
            script.append((rng.lognormvariate(0, sigma) * (1 if right else longer_when_wrong), right))
        script.sort()
        total += sum(length for length, _ in script)
        verdicts: list[Verdict] = []
        for length, right in script[:-1]:
            verdicts.append(Verdict(float(right), right, None, "correct" if right else "wrong", 0.0))
            if thresholds.decided(verdicts, K):
                decided += 1
                cancelled += K - len(verdicts)
                saved += sum(longer - length for longer, _ in script[len(verdicts) :])
                break
    return decided / GROUPS, cancelled / (GROUPS * K), saved / total


def main() -> None:
    for seed in range(3):
        with tempfile.TemporaryDirectory() as folder:
            weights, metrics, ledger = abacus(True, seed, Path(folder) / "on")
            weights_off, metrics_off, ledger_off = abacus(False, seed, Path(folder) / "off")
        keys = ("step", "prompt", "fate", "surplus")
        same = weights == weights_off and [[r.get(k) for k in keys] for r in ledger] == [
            [r.get(k) for k in keys] for r in ledger_off
        ]
        on, off = (sum(row["generated_tokens"] for row in rows) for rows in (metrics, metrics_off))
        saved, estimate = off - on, sum(row["saved_tokens"] for row in metrics)
        early, cut = sum("decided_early" in row for row in ledger), sum(row["cancelled_rollouts"] for row in metrics)
        print(f"abacus seed {seed}: weights and fates {'the same' if same else 'DIFFER'}")
        print(f"  {early} of {len(ledger)} groups decided early, {cut / K / len(ledger):.1%} of rollouts cancelled")
        print(f"  saved {saved:,} of {off:,} tokens ({saved / off:.2%}); estimated {estimate:,.0f}")
    print("sigma  wrong ones longer by  decided early  rollouts cancelled  tokens saved")
    for sigma in (0.5, 1.0):
        for longer in (1.0, 2.0):
            decided, cancelled, saved = simulated(sigma, longer)
            print(f"{sigma:5}  {longer:20}  {decided:13.1%}  {cancelled:18.1%}  {saved:12.1%}")


if __name__ == "__main__":
    main()
