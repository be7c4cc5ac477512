"""Names of units: which words are units, and which of them are one."""

from __future__ import annotations

_NAMES = """
mm millimeter millimetre; cm centimeter centimetre; dm decimeter decimetre; m meter metre; km kilometer kilometre
in inch inches; ft foot feet; yd yard; mi mile; mg milligram; g gm gram; kg kilogram; lb pound; oz ounce; t ton tonne
ms millisecond; s sec second; min minute; h hr hour; day; week; month; yr year; ml mL milliliter millilitre
l L liter litre; gal gallon; qt quart; pt pint; cup; acre; ha hectare; mph; kmh kmph; mps; dollar usd USD; cent; euro
yuan; yen; rupee rs; rad radian; Hz hertz; kHz; MHz; N newton; J joule; kJ; W watt; kW; V volt; A ampere amp; ohm
Pa pascal; kPa; K kelvin; C celsius; F fahrenheit; mol mole; bit; byte; eV; erg; dyne; pc parsec; th; unit
"""
_CANONICAL = {
    name: group.split()[0] for group in _NAMES.replace("\n", ";").split(";") if group.strip() for name in group.split()
}


def is_unit(word: str) -> bool:
    """Whether a word that stands after a number names a unit."""
    return word in _CANONICAL or _singular(word.lower()) in _CANONICAL


def canonical(words: str) -> str:
    """One name for each unit: ``centimeters`` is ``cm``."""
    return " ".join(map(_one, words.replace("/", " / ").replace(".", " ").split()))


def _one(word: str) -> str:
    name, power, exponent = word.partition("^")
    return (
        (_CANONICAL.get(name) or _CANONICAL.get(_singular(name.lower())) or _singular(name.lower())) + power + exponent
    )


def _singular(word: str) -> str:
    if word.endswith("es") and word[:-2] in _CANONICAL:
        return word[:-2]
    return word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith("ss") else word
