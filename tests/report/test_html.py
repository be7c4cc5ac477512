"""The page as a file: whole, self-contained, and with nothing in it that what a model wrote could become."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import contrapose.report.page
from contrapose.report.page import LAST, LICENSE, SCRIPTS, STYLES, as_json, page
from run_written import HOSTILE

ASSETS = Path(contrapose.report.page.__file__).parent / "assets"


class Elements(HTMLParser):
    """Every element with its attributes, and the text of scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.found, self.code = [], {"script": [], "style": []}
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag in self.code:
            self.code[tag].append("")

    def handle_data(self, data):
        if self.cdata_elem:
            self.code[self.cdata_elem][-1] += data


def test_hostile_text_adds_no_element():
    plain, hostile = page({"x": "y"}), page({"x": HOSTILE, **{text: text for text in HOSTILE}})
    assert Elements(plain).found == Elements(hostile).found
    assert hostile.isascii()
    assert "\x00" not in hostile


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_the_same_again(text):
    told = as_json({text: [text]})
    assert not set("<>&") & set(told)
    assert json.loads(told) == {text: [text]}


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="float"):
        as_json(float("nan"))


def test_only_the_code_that_was_hashed_may_run():
    found = Elements(page({}))
    (policy,) = [a["content"] for tag, a in found.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy and "connect-src" not in policy and "http" not in policy
    scripts = found.code["script"][1:]  # the first holds data, and no code
    assert len(scripts) == 2 and len(found.code["style"]) == len(STYLES)
    for code in (*scripts, *found.code["style"]):
        assert base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() in policy
    assert "connect-src 'self'" in page({}, live=True)


def test_the_page_names_no_place_elsewhere():
    """The one address is the library's own, in the comment that says which it is."""
    assert re.findall(r"https?://[^\s'\"<)]+", page({})) == [
        "https://github.com/leeoniya/uPlot",
        "http://www.w3.org/2000/svg",
    ]
    assert not [a for _, attributes in Elements(page({})).found for a in attributes if a.startswith("on")]


def test_its_code_makes_no_markup_of_text():
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    for name in (*SCRIPTS, LAST):
        assert not re.search(markup, (ASSETS / name).read_text())


def test_every_asset_is_in_the_page():
    files = {str(path.relative_to(ASSETS)) for path in ASSETS.rglob("*.*")}
    assert files == {*SCRIPTS, *STYLES, LAST, LICENSE, "page.html"}


def test_the_library_is_as_it_was_published():
    """uPlot 1.6.32, dist/ of the npm package of that name."""
    digests = {name: hashlib.sha256((ASSETS / "vendor" / name).read_bytes()).hexdigest() for name in UPLOT}
    assert digests == UPLOT
    assert (ASSETS / LICENSE).read_text() in page({})


UPLOT = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
