"""One HTML file with everything in it: data, code, style, and the library that draws. It asks nothing of a network.

What a model wrote reaches the page as JSON alone, and its code puts that into text nodes: no markup is ever made of it.
A Content-Security-Policy forbids all scripts and styles but those that were hashed here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from contrapose.report.charts import AXES, SECTIONS, drawn, meaning_of, unit_of
from contrapose.report.metrics import GROUP

SCRIPTS = (
    *("vendor/uPlot.iife.min.js", "dom.js", "charts.js", "overview.js"),
    *("groups.js", "rollouts.js", "prompts.js", "compare.js"),
)
STYLES = ("vendor/uPlot.min.css", "style.css")
LICENSE = "vendor/uPlot.LICENSE"
"""Goes wherever the library goes."""

LAST = "page.js"
"""Starts the page, once all others are there."""


def legend() -> dict[str, Any]:
    """What the page says of every number: its charts, units and meanings."""
    return {
        "axes": AXES,
        "sections": [
            {
                "title": title,
                "charts": [
                    {"title": c.title, "unit": c.unit, "series": list(c.series), "stacked": c.stacked} for c in charts
                ],
            }
            for title, charts in SECTIONS.items()
        ],
        "metrics": {name: {"unit": unit_of(name), "meaning": meaning_of(name)} for name in drawn()}
        | {name: metric._asdict() for name, metric in GROUP.items()},
    }


def page(data: Mapping[str, Any], *, live: bool = False) -> str:
    """The page of ``data`` (``evaluate/report.py``), ASCII. ``live``: it asks the server that sent it for news."""
    script = "(() => {\n'use strict';\n" + "\n".join(_asset(name) for name in (*SCRIPTS[1:], LAST)) + "\n})();"
    library = f"/*\n{_asset(LICENSE)}*/\n{_asset(SCRIPTS[0])}"
    scripts, styles = (library, script), tuple(map(_asset, STYLES))
    policy = [
        "default-src 'none'",
        f"script-src {' '.join(map(_hash, scripts))}",
        f"style-src {' '.join(map(_hash, styles))}",
        "img-src data:",
        *(["connect-src 'self'"] if live else []),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    parts = {
        "<!--policy-->": f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(policy)}">',
        "<!--styles-->": "".join(f"<style>{style}</style>\n" for style in styles),
        "<!--data-->": f'<script type="application/json" id="data">{as_json(data)}</script>',
        "<!--scripts-->": "".join(f"<script>{code}</script>\n" for code in scripts),
    }
    html = _asset("page.html")
    for place, text in parts.items():
        html = html.replace(place, text)
    return html


def as_json(value: Any) -> str:
    """JSON that may stand in a ``<script>``: nothing in it can end that, or begin a comment. Non-finite is refused."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _asset(name: str) -> str:
    return (files("contrapose.report") / "assets" / name).read_text(encoding="utf-8")


def _hash(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
