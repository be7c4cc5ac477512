r"""Find the boxed answer in what a model wrote. One pass, linear in the text, whatever it holds."""

from __future__ import annotations

import re

# a box opens; an escaped backslash (not one that doubles a box's own) or brace is text; a brace
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\\\(?!boxed|fbox)|\\[{}]|[{}]")


def boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}`` or ``\fbox{...}``, braces balanced; None if there is none.

    An unclosed box is no answer, and a box inside another is part of the outer one.
    """
    found: slice | None = None
    opened: list[int | None] = []  # where each open brace's content begins, None for braces that are no box
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == "}":
            start = opened.pop() if opened else None
            if start is not None:
                found = slice(start, match.start())
        elif token == "{":
            opened.append(None)
        elif token.endswith("{") and len(token) > 2:
            opened.append(match.end())
    return None if found is None else text[found].strip()
