r"""Find the answer in what a model wrote: its last box, or run of boxes. Linear in the text, whatever it holds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# a box opens; an escaped backslash (not one that doubles a box's own) or brace is text; a brace
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\\\(?!boxed|fbox)|\\[{}]|[{}]")
# what may stand between the boxes of one list: "\boxed{1}, \boxed{2} \text{ and } \boxed{3}"
_CONNECTOR = re.compile(
    r"(?:[\s,;.$&*{}()\[\]]|\\(?:q?quad|text|mbox|mathrm)(?![a-z])|\\[^a-zA-Z]|(?:and|or)(?![a-zA-Z]))*"
)
_LONGEST_CONNECTOR = 60
_THOUGHT = "</think>"
_TAG = re.compile(r"<answer>((?:(?!<answer>|</answer>).)*)</answer>", re.DOTALL)
_PHRASE = re.compile(
    r"(?i)(?m:^)####(?= ?[-$.\d]\S{0,40}[ \t]{0,9}(?m:$))|"
    r"\b(final\s{1,9})?answers?(?:\s{1,9}(?:is|are)\b|\s{0,9}\*{0,2}\s{0,9}:)(?:\s{0,9}\*{0,2}:)?\*{0,2}"
)
_FORMULA = re.compile(r"\$\$([^$]+)\$\$|\$([^$]+)\$|\\\(((?:(?!\\[()]).)*)\\\)|\\\[((?:(?!\\[\[\]]).)*)\\\]", re.DOTALL)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|[!?。](?!\d)|\n|<\||,?\s(?:because|since|which)\b|,\s?not\b")
_NUMBER = re.compile(r"[-+]?(?:\\?\$\s?)?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")
_NO_PROSE = re.compile(r"\\(?:text|mathrm|mbox|textbf|operatorname)\s{0,9}\{[^{}]*\}|\\[a-zA-Z]+|\b[^\W\d_]+\s?[:=]")
_WORD = re.compile(r"[^\W\d_]{2,}")
_LONGEST_CLAUSE = 2_000


@dataclass
class _Box:
    begin: int  # where \boxed stands
    start: int  # where its content begins
    end: int = -1
    inner: list[_Box] = field(default_factory=list)


def boxed(text: str, *, every: bool = False) -> str | None:
    r"""The content of the last complete ``\boxed{...}`` or ``\fbox{...}``, braces balanced; None if there is none.

    Boxes that only commas, "and" and the like part are one list; with ``every``, as in a gold, all boxes are. A box
    that is all of another's content is unwrapped, any other inner box is part of the outer one. An unclosed box is no
    answer. What stands before the last ``</think>`` is no answer either; an unclosed ``<think>`` is text.
    """
    return _last_boxes(_after_thought(text), every)[0]


def find(text: str, *, phrases: bool = False) -> str | None:
    """The boxed answer. With ``phrases``, and in this order: what "Final answer:" states after the last box; the box;
    the last <answer> tag; the last "answer is" or "####"; ``text`` itself where it is no prose; its last formula or
    number."""
    text = _after_thought(text)
    found, end = _last_boxes(text, every=False)
    if not phrases:
        return found
    stated = list(_PHRASE.finditer(text, end))
    if found is not None:
        stated = [match for match in stated if match[1]]
    elif tags := _TAG.findall(text):
        text = tags[-1].strip()
        stated = list(_PHRASE.finditer(text))
        if not stated:
            return text
    for match in reversed(stated):
        if clause := _clause(text[match.end() : match.end() + _LONGEST_CLAUSE]):
            return clause
    return found if found is not None else _gist(text)


def _after_thought(text: str) -> str:
    return text[text.rfind(_THOUGHT) + len(_THOUGHT) :] if _THOUGHT in text else text


def _last_boxes(text: str, every: bool) -> tuple[str | None, int]:
    """The answer in the last run of boxes, and where the run ends."""
    boxes = _boxes(text)
    if not boxes:
        return None, 0
    first = 0 if every else _run_start(text, [(box.begin, box.end + 1) for box in boxes])
    parts = [text[box.start : box.end].strip() for box in (_unwrapped(text, box) for box in boxes[first:])]
    return ", ".join(dict.fromkeys(filter(None, parts))) if parts[-1] else "", boxes[-1].end


def _run_start(text: str, spans: list[tuple[int, int]]) -> int:
    """Where in ``spans`` the last run begins: the spans that only connectors part."""
    first = len(spans) - 1
    while first > 0:
        start, end = spans[first - 1][1], spans[first][0]
        if end - start > _LONGEST_CONNECTOR or not _CONNECTOR.fullmatch(text, start, end):
            break
        first -= 1
    return first


def _boxes(text: str) -> list[_Box]:
    """The complete boxes that no complete box holds, in order, each with those inside it."""
    found: list[_Box] = []
    opened: list[_Box | None] = []  # None for braces that are no box
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == "}":
            box = opened.pop() if opened else None
            if box is not None:
                box.end = match.start()
                while found and found[-1].begin > box.begin:
                    box.inner.append(found.pop())
                found.append(box)
        elif token == "{":
            opened.append(None)
        elif token.endswith("{") and len(token) > 2:
            opened.append(_Box(match.start(), match.end()))
    return found


def _unwrapped(text: str, box: _Box) -> _Box:
    while len(box.inner) == 1:
        (inner,) = box.inner
        if text[box.start : inner.begin].strip() or text[inner.end + 1 : box.end].strip():
            break
        box = inner
    return box


def _clause(text: str) -> str:
    """What is stated at the beginning of ``text``: the formulas of its first sentence, or the sentence."""
    text = text.lstrip(" \t\n*:")
    end = _SENTENCE_END.search(text)
    formula = _FORMULA.search(text)
    if formula and (end is None or formula.start() < end.start()):
        end = _SENTENCE_END.search(text, formula.end())
        return _formulas(text[: end.start() if end else len(text)])
    return _gist(text[: end.start() if end else len(text)].strip(" *")) or ""


def _formulas(text: str) -> str:
    """The last formulas, those that only connectors part."""
    found = list(_FORMULA.finditer(text))
    first = _run_start(text, [match.span() for match in found])
    return ", ".join(next(group for group in match.groups() if group is not None).strip() for match in found[first:])


def _gist(text: str) -> str | None:
    """``text`` itself where it is no prose, else the formulas or the number of the last sentence that has any."""
    prose = [word for word in _WORD.findall(_NO_PROSE.sub(" ", _FORMULA.sub(" ", text))) if word not in ("and", "or")]
    formulas = list(_FORMULA.finditer(text))
    if formulas and prose:
        end = _SENTENCE_END.search(text, formulas[-1].end())
        numbers = _NUMBER.findall(text, end.end()) if end else []
        return str(numbers[-1]) if numbers else _formulas(text)
    if len(prose) >= 3 and "\\" not in text and (numbers := _NUMBER.findall(text)):
        return str(numbers[-1])
    return text.strip() or None
