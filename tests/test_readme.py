"""The README tells of today's code: its example runs, its tree is the tree."""

import re
from pathlib import Path

import torch

import contrapose

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
