"""What tools that compute or look up return: readable statements, one a line, so that each can be quoted as a fact."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, Final, Self

from pydantic import BaseModel, model_validator

from orchestrator.domain.plan import digest

EXACT_DIGITS: Final = 40
"""A number with more digits than this is shown rounded."""

ROUNDED_DIGITS: Final = 15
"""Digits of a number that is shown rounded."""


class Statements(BaseModel):
    """A text of one statement a line, the name under which it can be cited, and the SHA-256 of the text."""

    text: str
    locator: str
    title: str
    media_type: str = "text/plain"
    sha256: str = ""

    @model_validator(mode="after")
    def _digested(self) -> Self:
        self.sha256 = hashlib.sha256(self.text.encode()).hexdigest()
        return self


def computed(title: str, lines: Iterable[str], *made_of: Any) -> Statements:
    """Return statements whose locator is the digest of what they were computed from."""
    return Statements(text="\n".join(lines), locator=f"computed:{digest(list(made_of))}", title=title)


def shown(value: Fraction, *, exact: bool = True) -> str:
    """Return `= 4.5` for a number that can be written out, and `≈ 0.333333333333333` for one that is rounded."""
    written = _written(value) if exact else None
    return f"= {written}" if written is not None else f"≈ {_rounded(value)}"


def plain(value: Fraction) -> str:
    """Return a number without a sign before it that says whether it was rounded."""
    return shown(value).partition(" ")[2]


def _written(value: Fraction) -> str | None:
    """The whole decimal expansion, if it ends soon enough."""
    rest, places = value.denominator, {2: 0, 5: 0}
    for factor in places:
        while rest % factor == 0:
            rest //= factor
            places[factor] += 1
    digits = max(places.values())
    if rest != 1 or digits > EXACT_DIGITS:
        return None
    scaled = abs(value.numerator) * 10**digits // value.denominator
    if scaled >= 10**EXACT_DIGITS:
        return None
    text = str(scaled).rjust(digits + 1, "0")
    whole, part = (text[:-digits], text[-digits:]) if digits else (text, "")
    return ("-" if value < 0 else "") + whole + (f".{part}" if part else "")


def _rounded(value: Fraction) -> str:
    context = Context(prec=ROUNDED_DIGITS, Emin=-(10**8), Emax=10**8)
    decimal = context.divide(
        Context(prec=ROUNDED_DIGITS + 20, Emin=-(10**8), Emax=10**8).create_decimal(value.numerator),
        Context(prec=ROUNDED_DIGITS + 20, Emin=-(10**8), Emax=10**8).create_decimal(value.denominator),
    )
    return f"{decimal:f}" if -ROUNDED_DIGITS < decimal.adjusted() < 2 * ROUNDED_DIGITS else str(decimal)


def fraction(number: Decimal) -> Fraction:
    """Return a finite decimal exactly."""
    return Fraction(*number.as_integer_ratio())
