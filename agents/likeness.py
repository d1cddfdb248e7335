"""Says how alike two statements are, and in what they differ: numbers, dates, names, a "not"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, TypeVar

from agents import terms

_T = TypeVar("_T")

_WIDTH: Final = 3
"""Words in a shingle."""

_SAME: Final = 0.8
"""The share of common shingles from which two statements are copies of each other."""

_MONTHS: Final = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_MONTH_OF: Final = {name: at for at, name in enumerate(_MONTHS, 1)} | {
    name[:3]: at for at, name in enumerate(_MONTHS, 1)
}
_SCALES: Final = {
    "thousand": 10**3,
    "k": 10**3,
    "million": 10**6,
    "mn": 10**6,
    "m": 10**6,
    "billion": 10**9,
    "bn": 10**9,
    "b": 10**9,
    "trillion": 10**12,
}
_VALUE: Final = re.compile(
    r"(?P<number>(?<![\w.,])[-+\u2212]?[$\u20ac\u00a3]?\d+(?:,\d{3})*(?:\.\d+)?)"
    r"(?:(?P<scale>\s*(?i:thousand|million|mn|billion|bn|trillion)\b|[KMB]\b)|\s*%)?"
    rf"|\b(?P<month>(?:{'|'.join(name.capitalize() for name in _MONTHS)})\b|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b\.?)"
)
_NEGATION: Final = re.compile(
    r"\b(?:not|no|never|cannot|neither|nor|none|without)\b|n['\u2019]t\b", re.IGNORECASE
)
_NAME: Final = re.compile(
    r"(?<![\w'])[A-Z][\w'\u2019-]*[\w](?:\s+(?:of\s+|de\s+|van\s+|von\s+)?[A-Z][\w'\u2019-]*[\w])*"
)


@dataclass(frozen=True, slots=True)
class Value:
    """A number as it is written; `unit` is how much its last digit is worth, so that roundings can be told."""

    text: str
    amount: float
    unit: float
    month: bool = False

    @property
    def year(self) -> bool:
        """Whether it can be a year."""
        return bool(re.fullmatch(r"(?:1[5-9]|20)\d\d", self.text))

    def agrees(self, other: Value) -> bool:
        """Whether both can be the same amount, one of them perhaps rounded."""
        if self.month or other.month:
            return self.month == other.month and self.amount == other.amount
        return abs(self.amount - other.amount) <= max(self.unit, other.unit) / 2


@dataclass(frozen=True)
class Statement:
    """A sentence taken apart; what is compared is made when somebody first asks for it."""

    text: str

    @cached_property
    def values(self) -> Sequence[Value]:
        """Its numbers and months, in their order."""
        return [_value(found) for found in _VALUE.finditer(self.text)]

    @cached_property
    def denies(self) -> bool:
        """Whether it has an odd number of negations."""
        return len(_NEGATION.findall(self.text)) % 2 == 1

    @cached_property
    def names(self) -> frozenset[str]:
        """Its proper names, folded; a capital at the very start counts only when another follows."""
        found = set()
        for match in _NAME.finditer(_VALUE.sub(lambda value: "·" * len(value[0]), self.text)):
            if match.start() or " " in match[0]:
                found.add(terms.fold(match[0]))
        return frozenset(found)

    @cached_property
    def matter(self) -> frozenset[str]:
        """Its terms without its numbers, months, negations and names."""
        bare = _NEGATION.sub(" ", _VALUE.sub(" ", self.text))
        named = {key for name in self.names for key in terms.keys(name)}
        return frozenset(terms.keys(bare)) - named

    @cached_property
    def terms(self) -> frozenset[str]:
        """Its terms without its numbers, months and negations."""
        return frozenset(terms.keys(_NEGATION.sub(" ", _VALUE.sub(" ", self.text))))

    @cached_property
    def shingles(self) -> frozenset[tuple[str, ...]]:
        """Its runs of three words; all of its words where it has fewer."""
        words = terms.words(self.text)
        return frozenset(tuple(words[at : at + _WIDTH]) for at in range(max(1, len(words) - _WIDTH + 1)))


@lru_cache(maxsize=4096)
def statement(text: str) -> Statement:
    """Return a sentence taken apart; taken apart once, however often it is compared."""
    return Statement(" ".join(text.split()))


def first_value(text: str) -> int:
    """Return where the first number or month of a text begins; its end where there is none."""
    found = _VALUE.search(text)
    return found.start() if found else len(text)


def share(one: AbstractSet[_T], other: AbstractSet[_T]) -> float:
    """Return how much two sets have in common (0.0 to 1.0): Jaccard's index, 0.0 for two empty ones."""
    common = len(one & other)
    return common / (len(one) + len(other) - common) if common else 0.0


def copies(one: Statement, other: Statement) -> bool:
    """Whether two statements say the same in the same words, numbers and "not"s, whatever their case and spacing."""
    if [v.amount for v in one.values] != [v.amount for v in other.values] or one.denies != other.denies:
        return False
    return share(one.shingles, other.shingles) >= _SAME


def _value(found: re.Match[str]) -> Value:
    if found["month"]:
        return Value(found[0].rstrip("."), _MONTH_OF[found["month"].lower()[:3]], 1, month=True)
    digits = re.sub(r"[,$\u20ac\u00a3]", "", found["number"]).replace("\u2212", "-")
    scale = _SCALES[found["scale"].strip().lower()] if found["scale"] else 1
    decimals = len(digits.partition(".")[2])
    return Value(" ".join(found[0].split()), float(digits) * scale, scale / 10**decimals)
