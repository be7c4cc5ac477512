"""Names of units: which words are units, and which of them are one."""

from __future__ import annotations

import re
from collections import Counter

_NAMES = """
mm millimeter millimetre; cm centimeter centimetre; dm decimeter decimetre; m meter metre; km kilometer kilometre
in inch inches; ft foot feet; yd yard; mi mile; mg milligram; g gm gram; kg kilogram; lb pound; oz ounce; t ton tonne
ms millisecond; s sec second; min minute; h hr hour; day; week; month; yr year; ml mL milliliter millilitre
l L liter litre; gal gallon; qt quart; pt pint; cup; acre; ha hectare; mph; kmh kmph kph; mps; dollar usd USD; cent
euro; yuan; yen; rupee rs; rad radian; Hz hertz; kHz; MHz; N newton; J joule; kJ; W watt; kW; V volt; A ampere amp; ohm
Pa pascal; kPa; sq; keV; MeV; GeV; K kelvin; C celsius; F fahrenheit; mol mole; bit; byte; eV; erg; dyne; pc parsec; th
unit
"""
_CANONICAL = {
    name: group.split()[0] for group in _NAMES.replace("\n", ";").split(";") if group.strip() for name in group.split()
}
_COMPOUND = {"mph": "mi/h", "kmh": "km/h", "mps": "m/s"}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cubed": 3}
_PART = re.compile(r"/|[^\s/^*.·()]+(?:\s?\^\s?\(?(-?\d{1,3}))?")
MULTIPLES = {
    "dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
"""Words that multiply the number before them."""
_CLAIMS = frozenset(["not", "no", "is", "isn't", "are", "wrong", "incorrect", "false", "factorial", "minus", "plus"])


def is_unit(word: str) -> bool:
    """Whether a word that stands after a number names a unit."""
    return word in _CANONICAL or _singular(word.lower()) in _CANONICAL


def names_unit(words: str) -> bool:
    """Whether words after a number may name what is counted; ``squared`` and ``is wrong`` say something of it."""
    found = re.findall(r"[^\W\d_]+(?:'t)?", words.lower())
    return not _CLAIMS.intersection(found) and found[:1] not in (["squared"], ["cubed"])


def canonical(words: str) -> dict[str, int]:
    """The powers of units: ``centimeters`` is ``cm``, ``square feet`` is ``ft^2``, ``m s^-1`` is ``m/s``."""
    powers: Counter[str] = Counter()
    last, sign, raised = "", 1, 1
    for match in _PART.finditer(re.sub(r"\bper\b", "/", words)):
        word = _one(match[0].partition("^")[0].strip())
        if match[0] == "/":
            sign = -1
        elif word in ("squared", "cubed"):
            powers[last] *= _POWERS[word]
        elif word in _POWERS:
            raised = _POWERS[word]
        elif word in _COMPOUND:
            powers.update(canonical(_COMPOUND[word]))
        else:
            powers[word] += sign * raised * int(match[1] or 1)
            last, sign, raised = word, 1, 1
    return {word: power for word, power in powers.items() if power}


def _one(name: str) -> str:
    return _CANONICAL.get(name) or _CANONICAL.get(_singular(name.lower())) or _singular(name.lower())


def _singular(word: str) -> str:
    if word.endswith("es") and word[:-2] in _CANONICAL:
        return word[:-2]
    return word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith("ss") else word
