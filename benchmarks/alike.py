"""How alike the objectives are: where each would put the credit of groups that runs wrote token by token.

    python benchmarks/alike.py runs/A runs/B     # the share of a group's credit that GRPO would give to other rollouts

Each objective's credit of a rollout is taken as a share of all that it gives the group; half the sum of differences
between two objectives' shares is what would have to move. Median and 90 % quantile over groups.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from statistics import median, quantiles

BESIDE = "grpo"


def shares(credit: list[float]) -> list[float]:
    total = sum(map(abs, credit)) or 1.0
    return [x / total for x in credit]


def main() -> None:
    moved: dict[str, list[float]] = defaultdict(list)
    for run in map(Path, sys.argv[1:]):
        own = tomllib.loads((run / "config.toml").read_text())["objective"]["name"]
        with (run / "rollouts.jsonl").open() as lines:
            for group in (json.loads(line) for line in lines if '"token_credit"' in line):
                credits = {name: [sum(x) for x in credit] for name, credit in group["others"].items()}
                credits[own] = [r["credit"] for r in group["rollouts"]]
                there = shares(credits[BESIDE])
                for name, credit in credits.items():
                    moved[name].append(sum(abs(a - b) for a, b in zip(shares(credit), there, strict=True)) / 2)
    groups = max(map(len, moved.values()), default=0)
    print(f"{groups} groups; share of the credit that lies elsewhere than {BESIDE}'s: median, 90 % quantile")
    for name, found in sorted(moved.items(), key=lambda item: median(item[1])):
        print(f"{name:12}{median(found):8.1%}{quantiles(found, n=10)[8] if len(found) > 1 else found[0]:8.1%}")


if __name__ == "__main__":
    main()
