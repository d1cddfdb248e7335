"""Reads amounts with their units out of text, as they are written, and says which of them a measure is about.

    "total: 14.2 million sq km (2020 est.)"   ─▶   14200000, "sq km", written "14.2 million sq km"

What stands in parentheses is left alone: there are years, estimates and ranks. A unit is what follows the number, as
far as it is no word of grammar; other spellings of the same unit are taken for one, and nothing is converted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from agents import terms

_NUMBER: Final = re.compile(
    r"(?<![\w.,])(?P<sign>[-\u2212](?=[\d.$€£]))?(?P<money>[$€£]\s?)?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)(?![\d,]*\d|\.\d)"
    r"(?:[ \u00a0]?(?P<scale>thousand|million|billion|trillion|bn)\b)?",
    re.IGNORECASE,
)
_SCALES: Final = {"thousand": 3, "million": 6, "billion": 9, "bn": 9, "trillion": 12}
_ASIDE: Final = re.compile(r"\([^()]*\)")
_PIECE: Final = re.compile(r"[^;\n]+")
_UNIT: Final = re.compile(r"[ \u00a0]?(%|°\s?[CFK]?|[^\W\d_][\w/²³.-]*)")
_LONGEST_UNIT: Final = 3
_SAME: Final = {
    "km2": "sq km", "km²": "sq km", "square kilometres": "sq km", "square kilometers": "sq km",
    "mi2": "sq mi", "mi²": "sq mi", "square miles": "sq mi", "kilometres": "km", "kilometers": "km",
    "metres": "m", "meters": "m", "percent": "%", "per cent": "%", "year": "years", "inhabitants": "people",
    "usd": "$", "dollars": "$",
}  # fmt: skip
_NEUTRAL: Final = frozenset(terms.keys("total population overall altogether both sexes about approximately"))
"""Words in front of an amount that do not make it the amount of a part."""

_EXTRA: Final = 0.1
"""What each word beside the measure costs that says what else an amount is about."""

_MOST_EXTRA: Final = 5


@dataclass(frozen=True, slots=True)
class Quantity:
    """An amount: its exact value, its unit in one spelling, how it is written, and what stands in front of it.

    `step` is what its last digit counts: 1000 for 1.284 million, which may be up to half of that more or less.
    """

    value: Fraction
    unit: str
    written: str
    label: str = ""
    step: Fraction = Fraction(1)


def quantities(text: str) -> list[Quantity]:
    """Return the amounts in a text, in order."""
    bare = _ASIDE.sub(lambda aside: " " * len(aside[0]), text)
    return [found for piece in _PIECE.finditer(bare) for found in _in_piece(piece[0])]


def _in_piece(piece: str) -> Iterator[Quantity]:
    begun = 0
    for number in _NUMBER.finditer(piece):
        digits = number["digits"].replace(",", "")
        scale = Fraction(10) ** _SCALES.get((number["scale"] or "").lower(), 0)
        value = Fraction(digits) * scale
        unit, end = _unit(piece, number.end())
        money = (number["money"] or "").strip()
        yield Quantity(
            value=-value if number["sign"] else value,
            unit=" ".join(filter(None, (money, unit))),
            written=piece[number.start() : end].strip(),
            label=piece[begun : number.start()].strip(" :,-"),
            step=scale / 10 ** len(digits.partition(".")[2]),
        )
        begun = end


def _unit(piece: str, at: int) -> tuple[str, int]:
    """Return the unit that begins at a place, in its one spelling, and where it ends."""
    words: list[str] = []
    while len(words) < _LONGEST_UNIT:
        found = _UNIT.match(piece, at)
        if found is None or found[1].lower() in terms.STOP_WORDS:
            break
        words.append(found[1].rstrip("."))
        at = found.end()
        if found[1].endswith(".") or found[1] == "%":
            break
    unit = " ".join(words).lower()
    return _SAME.get(unit, unit), at


def about(measure: str, text: str, headings: Sequence[str]) -> tuple[Quantity, float] | None:
    """Return the amount in a text that a measure is about, and how well it fits; `None` if there is none.

    The words of the measure may stand in front of the amount, in its unit or in the last headings. What else stands
    there makes it less fitting: of `total: 5 km; land: 3 km` the total is the length, and not the land.
    """
    asked = set(terms.keys(measure))
    if not asked:
        return None
    above = set(terms.keys(" ".join(headings[-1:])))
    rated = []
    for found in quantities(text):
        beside = set(terms.keys(f"{found.label} {found.unit}"))
        covered = len(asked & (beside | above)) / len(asked)
        label = set(terms.keys(found.label))
        extra = len((label | above) - asked - _NEUTRAL)
        rated.append((found, covered - _EXTRA * min(extra, _MOST_EXTRA)))
    return max(rated, key=lambda one: one[1], default=None)
