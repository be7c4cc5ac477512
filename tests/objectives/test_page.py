"""The page about objectives is read off the code, is short, and its examples run."""

import re
from pathlib import Path

import pytest
import torch

import contrapose
from contrapose.objectives.page import FACTORS, entry, markdown

DOCS = Path(__file__).parents[2] / "docs" / "objectives.md"
CATALOGUE = contrapose.objectives()


def test_the_document_is_what_the_code_says():
    """Otherwise: contrapose objectives --page > docs/objectives.md"""
    assert DOCS.read_text() == markdown(CATALOGUE)


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_entry_has_everything_in_at_most_twelve_lines(name):
    info = CATALOGUE[name]
    heading, _, text = entry(info).partition("\n")
    assert heading == name and len(text.splitlines()) <= 12
    assert info.paper in text and info.credit in text and info.disagreement in text
    assert all(line in text for line in info.equation.splitlines())
    assert all(f"{key}={value!r}" in text for key, value in info.defaults.items())
    assert all(f"{key} (required)" in text for key in info.required)
    assert all(info.factors[factor] in text for factor in FACTORS if info.factors[factor] != "-")


def test_the_table_has_a_row_an_objective():
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \|", DOCS.read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == [anchor for _, anchor in rows] == list(CATALOGUE)
    assert all(f"\n## {name}\n" in DOCS.read_text() for name in CATALOGUE)


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL))
def test_an_example_runs(code):
    names = {
        "logp": (torch.rand(2, 4, 5) - 2).requires_grad_(),
        "old_logp": torch.rand(2, 4, 5) - 2,
        "mask": torch.ones(2, 4, 5),
        "reward": torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 0]]),
    }
    exec(compile(code, str(DOCS), "exec"), names)
    assert names["credit"].shape == (2, 4, 5) and names["credit"].abs().sum() > 0
