"""How long the report of a very large run takes to make and to open, and how large it is.

A run folder of the size that is asked for is written, from the groups of a real short run, its numbers spread at
random; then ``contrapose report`` makes its page and a Chromium opens it. Opened means: the page has loaded and every
chart is drawn. The folder (some 12 GB for 10,000 steps of 512 prompts) is removed afterwards.

    python benchmarks/report.py                                    # 10,000 steps of 512 prompts
    python benchmarks/report.py --steps 200 --tokens 2000          # answers of 2,000 tokens and more
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import chromium
from contrapose.config import resolve
from contrapose.report.log import read_rows
from contrapose.train.loop import train
from contrapose.train.run import Run

DRAWN = "() => [...document.querySelectorAll('.plot')].filter(p => p.clientWidth).every(p => p.querySelector('canvas'))"
ROUNDS = 5


def seed_run(folder: Path) -> Path:
    settings = ["steps=2", "batch.prompts=32", "batch.updates=16", "eval.data=''", "checkpoint.every=0"]
    with Run(resolve(None, settings)[0], folder) as run:
        train(run)
        run.finish()
    return folder


def spread(row: object, rng: random.Random) -> object:
    """The row with its numbers a little elsewhere, so that nothing is smaller than it would be."""
    if isinstance(row, dict):
        return {key: spread(value, rng) for key, value in row.items()}
    if isinstance(row, list):
        return [spread(value, rng) for value in row]
    return row * rng.uniform(0.9, 1.1) if isinstance(row, float) else row


def longer(group: dict, tokens: int) -> dict:
    """The group with its answers said again and again, until each has so many tokens."""
    rollouts, lists = [], {}
    times = [max(1, -(-tokens // r["tokens"])) for r in group["rollouts"]]
    for r, n in zip(group["rollouts"], times, strict=True):
        rollouts.append(r | {"text": r["text"] * n, "tokens": r["tokens"] * n})
    for key in ("token_ids", "pieces", "logp", "old_logp", "token_credit"):
        if key in group:
            lists[key] = [x * n for x, n in zip(group[key], times, strict=True)]
    if "others" in group:
        lists["others"] = {
            name: [x * n for x, n in zip(credit, times, strict=True)] for name, credit in group["others"].items()
        }
    return group | {"rollouts": rollouts} | lists


def write_large(small: Path, folder: Path, steps: int, prompts: int, tokens: int) -> None:
    """Each step has one group in 128 token by token, and the others of the short run's last step: the same groups in
    every step, of other prompts."""
    rng = random.Random(0)
    shutil.copy(small / "config.toml", folder)
    metrics = read_rows(small / "metrics.jsonl")[-1]
    groups = read_rows(small / "rollouts.jsonl")
    detailed = [g for g in groups if "token_credit" in g]
    plain = [g for g in groups if "token_credit" not in g]
    count = max(1, prompts // 128)
    chosen = [*(rng.choice(detailed) for _ in range(count)), *(rng.choice(plain) for _ in range(prompts - count))]
    rests = [json.dumps({**longer(g, tokens), "step": 0})[len('{"step": 0') :] for g in chosen]
    fates = [g["fate"] for g in chosen]
    with (
        (folder / "metrics.jsonl").open("w") as of_steps,
        (folder / "rollouts.jsonl").open("w") as of_groups,
        (folder / "ledger.jsonl").open("w") as of_prompts,
    ):
        for step in range(1, steps + 1):
            counts = {"drawn_groups": prompts, "generated_tokens": 8 * 30 * prompts}
            of_steps.write(json.dumps(spread(metrics, rng) | counts | {"step": step}) + "\n")
            of_groups.writelines(f'{{"step": {step}{rest}\n' for rest in rests)
            of_prompts.writelines(
                f'{{"step": {step}, "prompt": "prompt/{rng.randrange(20_000)}", "fate": "{fate}", '
                f'"rho": {rng.randrange(9) / 8}, "tokens": 240}}\n'
                for fate in fates
            )


def opened(page: Path) -> dict[str, float]:
    """Medians of ``ROUNDS`` fresh tabs, seconds: until the page stands, and until each view does after that."""
    found: dict[str, list[float]] = {"open": [], "groups": [], "prompts": []}
    with chromium() as browser:
        for _ in range(ROUNDS):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            start = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_function(DRAWN)
            found["open"].append(time.perf_counter() - start)
            for view in ("groups", "prompts"):
                start = time.perf_counter()
                tab.locator(f"#tab-{view}").click()
                tab.wait_for_function(DRAWN)
                found[view].append(time.perf_counter() - start)
            tab.close()
    return {name: median(seconds) for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=0, help="of an answer, at least; default: as a real short run's")
    parser.add_argument("--in", dest="above", type=Path, help="where the folder is made; default: a temporary one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.above) as above:
        folder = Path(above) / "run"
        folder.mkdir()
        write_large(seed_run(Path(above) / "small"), folder, asked.steps, asked.prompts, asked.tokens)
        size = sum(file.stat().st_size for file in folder.iterdir())
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "contrapose", "report", str(folder)], check=True)
        made = time.perf_counter() - start
        page = folder / "report.html"
        print(f"{asked.steps:,} steps of {asked.prompts} prompts: {size / 1e9:.2f} GB written by the run")
        print(f"page   {page.stat().st_size / 1e6:.1f} MB, made in {made:.1f} s")
        for name, seconds in opened(page).items():
            print(f"{name:8}{seconds:.2f} s")


if __name__ == "__main__":
    main()
