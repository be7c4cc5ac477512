"""The README tells of today's code: its example runs, its tree is the tree."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import torch

import contrapose
from contrapose.cli.training import STOPPED
from contrapose.report.log import WriteFailed
from contrapose.rollout.engine import StaleEngine
from contrapose.settings import VerifyConfig
from contrapose.train.guards import MAX_DRIFT, NumericalStop
from contrapose.train.launch import LostRank
from contrapose.types import ContraposeError, PoolExhausted, Status
from contrapose.verify.conventions import Conventions
from contrapose.verify.processes import GraderError
from test_bad_input import TABLE, TYPOS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    logp = (torch.rand(2, 4, 5) - 2).requires_grad_()
    names = {
        "logp": logp,
        "old_logp": logp.detach() + 0.1,
        "mask": torch.ones(2, 4, 5),
        "reward": torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 0]]),
    }
    exec(compile(code, "README.md", "exec"), names)
    names["loss"].backward()
    assert logp.grad.abs().sum() > 0


def test_the_tree_names_every_file():
    named = set(re.findall(r"[\w]+\.py", README.partition("## The tree")[2]))
    shipped = {p.name for p in (ROOT / "src" / "contrapose").rglob("*.py")} - {"__init__.py", "__main__.py"}
    assert named == shipped


def test_the_recipes_are_the_ones_named():
    """One for abacus, one for each objective, and folders for the papers' tables."""
    shipped = {p.relative_to(ROOT / "recipes").as_posix() for p in (ROOT / "recipes").rglob("*.toml")}
    line = next(x for x in README.splitlines() if x.strip().startswith("recipes/"))
    folders = set(re.findall(r"(\w+)/", line.partition("recipes/")[2]))
    assert folders == {name.partition("/")[0] for name in shipped if "/" in name}
    assert "abacus.toml" in shipped and {f"{name}.toml" for name in contrapose.objectives()} < shipped
    for name in re.findall(r"`(\w+/[\w./]+)`", README.partition("## Train")[2].partition("## The idea")[0]):
        assert f"{name}.toml" in shipped


def test_the_page_on_evaluation_names_every_status_and_switch_as_it_is():
    page = (ROOT / "docs" / "evaluation.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \| (?:right|wrong|no answer) \|$", page, re.M) == list(get_args(Status))
    switches = {
        name: json.loads(default) for name, default in re.findall(r"^\| `(\w+)` \| (true|false|[\d.]+) \|", page, re.M)
    }
    assert switches == {field.name: field.default for field in fields(Conventions)}
    for key in re.findall(r"(?<!/)verify\.(?:conventions\.)?(\w+)", page):
        assert key in VerifyConfig.model_fields or key in switches or key == "NAME"
    for limit, default in (("cpu_seconds", 2), ("seconds", 5), ("memory_gib", 1)):
        assert f"`verify.{limit}` ({default})" in page and VerifyConfig.model_fields[limit].default == default


def test_the_exit_codes_are_those_of_the_code():
    """Every error that a person can mend has one of them, and none stands there that nothing ends with."""
    raised = [ContraposeError, PoolExhausted, GraderError, NumericalStop, StaleEngine, LostRank, WriteFailed]
    codes = {0, STOPPED, *(error.exit_code for error in raised)}
    page = (ROOT / "docs" / "reliability.md").read_text().partition("## Exit codes")[2]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.M)} == codes
    line = README.partition("Exit codes:")[2].partition("Whatever")[0]
    assert {int(code) for code in re.findall(r"\b(\d+)\s+[a-z]", line)} == codes
    defined = set(re.findall(r"exit_code = (\d+)", "".join(p.read_text() for p in (ROOT / "src").rglob("*.py"))))
    assert {int(code) for code in defined} | {0, STOPPED} == codes


def test_the_page_on_reliability_counts_right():
    page = (ROOT / "docs" / "reliability.md").read_text()
    assert f"{len(TABLE)} of them, and {len(TYPOS)} typos" in page
    tolerances = re.search(r"within (\S+) nats a token on average \((\S+) with bfloat16 weights;", page).groups()
    assert [float(t) for t in tolerances] == [MAX_DRIFT[torch.float32], MAX_DRIFT[torch.bfloat16]]
    assert MAX_DRIFT[torch.float64] == MAX_DRIFT[torch.float32]
    for path in re.findall(r"`(tests/[\w/.]+)`", page):
        assert (ROOT / path).exists()
