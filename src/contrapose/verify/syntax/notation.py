r"""One spelling for many: LaTeX and plain text as one list of tokens.

A token is a number, a letter, a word of several plain letters, ``\command``, ``\text{words}``, or a sign. What has no
meaning is gone: dollars, sizes, spacing, stray full stops; typographic variants are one.
"""

from __future__ import annotations

import re

from contrapose.verify.conventions import Conventions
from contrapose.verify.syntax.units import MULTIPLES, is_unit

_GREEK = zip(
    "αβγδεζηθικλμνξρστυφχψωΓΔΘΛΞΠΣΦΨΩπ",
    """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega
    Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega pi""".split(),  # noqa: SIM905
    strict=True,
)
_CHARACTERS = str.maketrans(
    {letter: f"\\{name} " for letter, name in _GREEK}
    | {
        "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "÷": "/", "⁄": "/",
        "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ",
        "∓": r"\mp ", "√": r"\sqrt ", "º": "°", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∞": r"\infty ",
        "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}",
        "（": "(", "）": ")", "，": ", ", "：": ":", "％": "%", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "′": "'",
        "“": "", "”": "", "~": " ", "；": ";", "、": ", ", "€": r"\text{euro}", "£": r"\text{pound}",
    }
)  # fmt: skip
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "₀₁₂₃₄₅₆₇₈₉"
_PLAIN = str.maketrans(_RAISED + _LOWERED, "0123456789+-n0123456789")
_SCRIPT = re.compile(f"[{_RAISED}]+|[{_LOWERED}]+")
_LINES = re.compile(r"\\(?:begin|end)\{(?:cases|aligned|align\*?|gathered|split)\}")
_SAME = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "dbinom": r"\binom", "tbinom": r"\binom", "leq": r"\le",
    "leqslant": r"\le", "geq": r"\ge", "geqslant": r"\ge", "lt": "<", "gt": ">", "neq": r"\ne", "lbrace": r"\{",
    "rbrace": r"\}", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lbrack": "[", "rbrack": "]", "colon": ":",
    "varnothing": r"\emptyset", "ldots": r"\dots", "cdots": r"\dots", "degree": "°", "to": r"\rightarrow",
    "land": ",", "wedge": ",", "vee": r"\lor", "iff": ",", "approxeq": r"\approx", "simeq": r"\approx",
    "times": "*", "cdot": "*", "ast": "*", "star": "*", "div": "/", "textdegree": "°", "bullet": "*",
    "percent": "%", "lg": r"\lg", "backslash": r"\setminus", "bar": r"\overline",
    "widehat": r"\hat", "widetilde": r"\tilde",
}  # fmt: skip
_NOTHING = set(
    """left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle limits nolimits
    scriptstyle rm bf it boldsymbol mathstrut nonumber large Large hspace enspace thinspace space hfill mathbf mathit
    mathcal vec overrightarrow underline bm boxed fbox checkmark blacksquare qed""".split()  # noqa: SIM905
)
_WORDS = {"and": ",", "or": r"\lor", "percent": "%", "percentage": "%", "pct": "%", "degrees": "°", "degree": "°",
          "infinity": r"\infty", "inf": r"\infty", "infty": r"\infty", "pi": r"\pi", "sqrt": r"\sqrt"}  # fmt: skip
QUALIFIERS = frozenset(["for", "if", "when", "where", "such"])
"""Words that begin what is said about an answer: for which values, where, such that."""
_DRESS = re.compile(r"\\(?:(?:text)?color|[hv]space\*?)\s?\{[^{}]*\}|(?<=\\\\)\s?\[[\d.]{1,6}\s?[a-z]{2}\]|\\\\\s*$")
_TIMES = re.compile(r"(?<=\d)\s?[xX]\s?(?=10\s?\^)")
_LEADING = re.compile(r"\A[\s$]*=(?!=)")
_ROUNDED = re.compile(r"\A[\s$]*\\approx(?![a-z])")
_DOMAIN = re.compile(r"\(\s?([a-zA-Z]\s?\\in\s?\\mathbb\s?\{?\s?[ZN]\s?\}?)\s?\)\s*$")
_TEXT = r"\\(?:text|mbox|textbf|textit|textrm|textnormal|textsf|texttt|emph|mathrm|operatorname)\*?\s?\{([^{}]*)\}"
_ORDINAL = re.compile(r"(?<=\d)\s?\^?\s?\{?\s?(?:\\(?:text|mathrm)\{)?\s?(?:st|nd|rd|th)(?![a-zA-Z])\s?\}?\}?")
_DEGREE = re.compile(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![a-zA-Z]))")
_NEWLINE = re.compile(r"\\\\(?=[a-zA-Z]{2})")
_CONNECTOR = re.compile(r"\s*(,|;|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z]))\s*")
_PLAIN_MATH = re.compile(r"\s*(?:\(?[A-Za-z]\)?|[-+]?\d[\d.,/]*)\s*")
_TOKEN = re.compile(
    rf"(?P<text>{_TEXT})|(?P<number>\d+(?:\.\d+|\.(?=\s?\\(?:overline|bar|dot)(?![a-z])))?|\.\d+)|\\q?quad|(?P<command>\\[a-zA-Z]+)|(?P<word>[^\W\d_]{{2,}})"
    r"|(?P<sign><=|>=|!=|==|:=|\*\*|\\\\|\\[{}|]|[^\s\\$.])|\\[%$]|[\s\\$.]"
)
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+\.?\d*|\.\d+)[eE]([-+]?\d{1,4})(?![\w.])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d]|,\d)")
_SPACED = re.compile(r"(?<![\d.,\]}])\d{1,3}(?: \d{3})+(?! ?[\d/]|[,.]\d{3})")
_COMMA = re.compile(r"(?<![\d.,])(\d+),(\d+)(?![\d.,])")
_SIGNS = {"<=": r"\le", ">=": r"\ge", "!=": r"\ne", "==": "=", ":=": "=", "**": "^", r"\|": "|"}


def clean(text: str, conventions: Conventions = Conventions()) -> str:
    """``text`` with one character for each meaning and every number written without separators."""
    if r"\begin" not in text or r"\\begin" in text:
        text = _NEWLINE.sub(r"\\", text)  # escaped once too often
    if not text.isascii():
        text = _SCRIPT.sub(lambda m: f"{'^' if m[0][0] in _RAISED else '_'}{{{m[0].translate(_PLAIN)}}}", text)
        text = text.translate(_CHARACTERS)
    if r"\begin" in text and _LINES.search(text):
        text = _LINES.sub(" ", text).replace("&", " ").replace("\\\\", ", ")
    text = _LEADING.sub("", text.strip(' \t\n\r*`"'))
    if "\\" in text:
        text = _ROUNDED.sub("", text) if conventions.tolerance else text
        text = _DOMAIN.sub(r", \1", _DRESS.sub("", text)).replace("~", " ")
        text = re.sub(r"\\!\s*", "", text).replace(r"\$", r"\text{dollar}")
        text = re.sub(r"(?<!\\)\\(?:[,;:> ()\[\]\n]|$)", " ", text)
        text = _DEGREE.sub("°", text)
    text = re.sub(r"(?<![\s\\$])\n\s*\n(?=[^\s\\$])", " ; ", text)
    text = re.sub(r"\^\s?\{?\s?\\prime(?![a-zA-Z])\s?\}?", "'", text) if r"\prime" in text else text
    text = _ORDINAL.sub(r"\\text{th}", text) if "th" in text or "st" in text or "nd" in text or "rd" in text else text
    return _numbers(text, conventions)


def _numbers(text: str, conventions: Conventions) -> str:
    text = _TIMES.sub("*", text) if "0" in text else text
    text = text.replace("{,}", "," if conventions.thousands else ", ")
    if conventions.decimal_comma:
        text = _COMMA.sub(r"\1.\2", text)
    if conventions.thousands:
        text = _SPACED.sub(lambda m: m[0].replace(" ", ""), re.sub(r"(?<=\d)\s+(?=\d)", " ", text))
        text = _THOUSANDS.sub(lambda m: _joined(text, m), text)
    if conventions.e_notation and ("e" in text or "E" in text):
        text = _SCIENTIFIC.sub(r"(\1*10^{\2})", text)
    return text


def _joined(text: str, match: re.Match[str]) -> str:
    """A number without its commas; inside brackets commas part elements unless they cannot (``{1,000, 2}``)."""
    before = text[: match.start()]
    bracketed = any(before.count(a) > before.count(b) for a, b in (("(", ")"), ("[", "]"), ("{", "}")))
    groups = match[0].split(",")
    if bracketed and ", " not in text and ";" not in text and not groups[1].startswith("0"):
        return match[0]
    return "".join(groups)


def tokens(text: str) -> list[str]:
    """The tokens of a cleaned ``text``."""
    found: list[str] = []
    for match in _TOKEN.finditer(text):
        token, kind = match.group(), match.lastgroup
        if kind == "text":
            found += _text_tokens(match[2])
        elif kind == "command":
            name = token[1:]
            if name not in _NOTHING:
                found.append(_SAME.get(name, token))
        elif kind == "word":
            found += _word(token, after_value=bool(found) and (found[-1][0].isdecimal() or found[-1] in ("}", ")")))
        elif kind == "number":
            found.append(token)
        elif kind == "sign":
            found.append(_SIGNS.get(token, token))
        elif token == r"\%":
            found.append("%")
    return found


def _text_tokens(content: str) -> list[str]:
    r"""``\text{...}`` as words, or as mathematics where it holds only a number or a letter (``\text{(A)}``)."""
    found: list[str] = []
    for i, part in enumerate(part.strip(" .$") for part in _CONNECTOR.split(content)):
        if i % 2:
            found.append(_WORDS.get(part, ","))
        elif _PLAIN_MATH.fullmatch(part) and not is_unit(part):
            found += tokens(part)
        elif part.lower() in _WORDS:
            found.append(_WORDS[part.lower()])
        elif part:
            first, _, rest = part.partition(" ")
            multiple = first.lower() in MULTIPLES
            found += _word(first, after_value=True) if multiple else []
            found += [rf"\text{{{rest if multiple else part}}}"] if rest or not multiple else []
    return found


def _word(word: str, after_value: bool) -> list[str]:
    name = word.lower() if word != "INF" else word
    if name in MULTIPLES and after_value:
        return ["*", str(MULTIPLES[name])]
    return [rf"\text{{{name}}}" if name in QUALIFIERS or name == "no" else _WORDS.get(name, word)]


def words(text: str) -> str:
    """``text`` read as words: letters and digits only, without case. Nothing where it holds anything else."""
    text = re.sub(_TEXT, r" \1 ", text)
    text = re.sub(r"\\(?:q?quad(?![a-zA-Z])|[ ,;:!])", " ", text)
    return (
        ""
        if re.search(r"[^\w\s.,;:'\"’“”?${}()\[\]-]|_", text)
        else " ".join(re.findall(r"\d+(?:[.,:]\d+)*|[^\W_]+|[-()\[\]]", text)).casefold()
    )
