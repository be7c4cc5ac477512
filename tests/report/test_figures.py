"""Charts as pictures: which, what is in them, the same bytes again."""

import re

import pytest

from contrapose.report.charts import SECTIONS
from contrapose.report.figures import figures
from contrapose.report.run import read
from contrapose.types import ContraposeError
from run_written import group_row, write

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [read(write(folder / name, [group_row(1, "a")]), name) for name in ("$x^$ <b>", "two")]


@pytest.fixture
def few(monkeypatch):
    """A picture takes a third of a second."""
    titles = ("Entropy", "Log-prob a token", "Where the tokens went")
    charts = [chart for charts in SECTIONS.values() for chart in charts if chart.title in titles]
    monkeypatch.setattr("contrapose.report.figures.SECTIONS", {"": charts})


@pytest.mark.slow
def test_every_chart_that_has_something_in_it_is_drawn(runs, tmp_path):
    written = figures(runs[:1], tmp_path)
    assert len(written) == 2 * sum(map(len, SECTIONS.values()))
    assert written == [file for file in written if file.stat().st_size > 1000]


def test_a_chart_is_a_pdf_and_an_svg_with_its_names(runs, few, tmp_path):
    written = figures(runs[:1], tmp_path / "new" / "figures")
    assert [file.name for file in written] == [
        f"{name}.{ending}"
        for name in ("entropy", "where_the_tokens_went", "log_prob_a_token")
        for ending in ("pdf", "svg")
    ]
    svg = (tmp_path / "new" / "figures" / "where_the_tokens_went.svg").read_text()
    assert all(f">{label}<" in svg for label in ("kept tokens", "too hard", "mastered", "tokens", "steps"))


def test_of_several_runs_each_series_has_its_own(runs, few, tmp_path):
    names = {file.stem for file in figures(runs, tmp_path)}
    assert len(names) == 8
    assert {"log_prob_a_token_logp_positive", "log_prob_a_token_logp_negative"} <= names
    svg = (tmp_path / "entropy.svg").read_text()
    assert ">two<" in svg and ">$x^$ &lt;b&gt;<" in svg  # a name is text, and no mathematics


def test_the_axis_is_what_was_asked_for(runs, few, tmp_path):
    figures(runs, tmp_path, "tokens")
    assert ">tokens generated<" in (tmp_path / "entropy.svg").read_text()


def test_the_same_numbers_are_the_same_bytes(runs, few, tmp_path):
    first, second = (figures(runs, tmp_path / name) for name in ("a", "b"))
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]
    assert not re.search(rb"CreationDate|<dc:date>", first[0].read_bytes() + first[1].read_bytes())


def test_a_folder_that_cannot_be_made_is_one_line(runs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ContraposeError, match="cannot be written"):
        figures(runs, tmp_path / "file" / "figures")
