"""Train with every objective on abacus, and print the table of docs/log.md: accuracy, rollouts, likelihoods.

    python benchmarks/compare.py FOLDER             # 14 objectives x 3 seeds, about 45 s each on one thread
    python benchmarks/compare.py FOLDER rence grpo  # some of them

Runs that are already in FOLDER are not repeated.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from contrapose.objectives.zoo import ZOO

SEEDS = (0, 1, 2)


def trained(folder: Path, name: str, seed: int) -> Path:
    """The run of an objective and a seed, made where it is missing."""
    run = folder / f"{name}-{seed}"
    if not (run / "model").is_dir():
        command = [sys.executable, "-m", "contrapose", "train", "--set", f"objective.name={name}"]
        command += ["--set", "diagnose.every=1"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command += ["--seed", str(seed), "--out", str(run)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return run


def metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def row(name: str, runs: list[Path]) -> str:
    """A line of the table. Changes are those that an update made on its own rollouts."""
    accuracy = [json.loads((run / "eval.json").read_text())[-1]["accuracy"]["value"] for run in runs]
    steps = [step for run in runs for step in metrics(run)]
    drawn = [8 * sum(step["drawn_groups"] for step in metrics(run)) for run in runs]
    updates = [u for step in steps for u in step["updates"] if u["likelihood_auc"] is not None]

    def change(key: str) -> list[float]:
        return [u[f"{key}_after"] - u[key] for u in updates]

    auc = change("likelihood_auc")
    cells = [
        name,
        ", ".join(f"{a:.3f}" for a in accuracy),
        ", ".join(f"{n:,}" for n in drawn),
        f"{fmean(u['likelihood_auc'] for u in updates):.3f}",
        f"{fmean(auc):+.4f} +-{1.96 * stdev(auc) / len(auc) ** 0.5:.4f}",
        f"{fmean(change('logp_positive')):+.4f}",
        f"{fmean(change('logp_negative')):+.4f}",
        f"{fmean(x < 0 for x in auc):.1%}",
        f"{fmean(x > 0 for x in change('score_gap')):.1%}",
        f"{fmean(x > 0 for x in change('logp_positive')):.1%}",
        f"{max(step['margin_share'] or 0.0 for step in steps):.2%}",
        ", ".join(f"{fmean(s['updates'][i]['pull'] + s['updates'][i]['push'] for s in steps):.2f}" for i in range(4)),
    ]
    return f"| {' | '.join(cells)} |"


HEADINGS = (
    *("objective", "accuracy after", "rollouts drawn", "AUC before", "change by an update", "right", "wrong"),
    *("AUC fell", "gap rose", "right rose", "margin's share at most", "pull + push by update"),
)

if __name__ == "__main__":
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(ZOO)
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for name in names:
        print(row(name, [trained(folder, name, seed) for seed in SEEDS]), flush=True)
