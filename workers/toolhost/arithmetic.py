"""Reckons with an expression exactly, without ever running it: a small language of numbers, signs and named functions.

    "(266000 - 123) / 131"   ─ ast ─▶ numbers, + - * / // % **, functions of a list ─▶ a fraction, and whether it is exact

Nothing of Python is evaluated: the tree is walked, and whatever is not in the tables below is refused. No value grows
beyond `MOST_BITS`, and no result is computed before it is known to stay below, so that no power fills the memory.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import Final

from workers.toolhost.statements import fraction

LONGEST: Final = 1_000
"""Characters of an expression."""

MOST_BITS: Final = 20_000
"""The size of a numerator or a denominator, in bits."""

_DEEPEST: Final = 60
_MOST_FACTORIAL: Final = 500
_MOST_EXPONENT: Final = 4_000
_SPELT: Final = {"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**", "\u00a0": " "}
_LETTERS: Final = re.compile(r"[0-9A-Za-z_+\-*/%().,\s]*", re.ASCII)
_LITERAL: Final = re.compile(r"(?:\d[\d_]*)?\.?(?:\d[\d_]*)?(?:[eE]([+-]?\d{1,3}))?", re.ASCII)
_ROOTS: Final = Context(prec=60, Emin=-(10**6), Emax=10**6)


class NotReckoned(Exception):
    """The expression has no value here; the message says why."""


@dataclass(frozen=True, slots=True)
class Number:
    """A value, and whether it is exactly that."""

    value: Fraction
    exact: bool = True


def normal(expression: str) -> str:
    """Return an expression as it is reckoned with; raises `NotReckoned` for one with foreign characters."""
    if len(expression) > LONGEST:
        raise NotReckoned(f"The expression has more than {LONGEST:,} characters.")
    for odd, usual in _SPELT.items():
        expression = expression.replace(odd, usual)
    expression = " ".join(expression.split())
    if not expression:
        raise NotReckoned("The expression is empty.")
    if not _LETTERS.fullmatch(expression):
        raise NotReckoned("Only numbers, + - * / // % **, parentheses and names of functions are understood.")
    return expression


def reckon(expression: str) -> Number:
    """Return the value of an expression; raises `NotReckoned` with a sentence."""
    text = normal(expression)
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotReckoned("The expression is not complete, or its parts do not belong together.") from error
    return _Reckoner(text).of(tree.body, 0)


def number(text: str) -> Fraction:
    """Return a number as it is written, thousands with or without commas; raises `NotReckoned`."""
    bare = text.strip()
    sign, digits = (-1, bare[1:]) if bare[:1] in {"-", "−"} else (1, bare.removeprefix("+"))
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits, re.ASCII):
        digits = digits.replace(",", "")
    if not digits or len(digits) > LONGEST or not re.fullmatch(r"[\d_.eE+-]+", digits, re.ASCII):
        raise NotReckoned(f"{text[:40]!r} is not a number.")
    return sign * _literal(digits)


def _literal(text: str) -> Fraction:
    shape = _LITERAL.fullmatch(text)
    if shape is None or not any(letter.isdigit() for letter in text.lower().partition("e")[0]):
        raise NotReckoned(f"{text[:40]!r} is not a number.")
    try:
        return fraction(Decimal(text.replace("_", "")))
    except ArithmeticError as error:
        raise NotReckoned(f"{text[:40]!r} is not a number.") from error


class _Reckoner:
    def __init__(self, text: str) -> None:
        self._text = text

    def of(self, node: ast.expr, depth: int) -> Number:
        if depth > _DEEPEST:
            raise NotReckoned(f"The expression is nested more than {_DEEPEST} deep.")
        match node:
            case ast.Constant(value=bool() | complex() | str() | bytes() | None):
                raise NotReckoned("Only plain numbers are understood.")
            case ast.Constant(value=int() | float()):
                # as it is written, since the tree has it as a float
                return _bounded(_literal(self._text[node.col_offset : node.end_col_offset]))
            case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=operand):
                inner = self.of(operand, depth + 1)
                return Number(-inner.value, inner.exact) if isinstance(sign, ast.USub) else inner
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _SIGNS:
                first, second = self.of(left, depth + 1), self.of(right, depth + 1)
                return _SIGNS[type(sign)](first, second)
            case ast.Name(id=name) if name in _CONSTANTS:
                return Number(_CONSTANTS[name], exact=False)
            case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in _FUNCTIONS:
                least, most, function = _FUNCTIONS[name]
                values = [self.of(argument, depth + 1) for argument in given]
                if not least <= len(values) <= most:
                    raise NotReckoned(f"{name} does not take {len(values)} number(s).")
                return function(values)
            case ast.Call(func=ast.Name(id=name)) | ast.Name(id=name):
                known = ", ".join(sorted({*_FUNCTIONS, *_CONSTANTS}))
                raise NotReckoned(f"There is no {name[:40]} here; there are {known}.")
            case _:
                raise NotReckoned("Only numbers, + - * / // % ** and functions of numbers are understood.")


def _bounded(value: Fraction, *, exact: bool = True) -> Number:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
        raise NotReckoned("A number on the way grows too large.")
    return Number(value, exact)


def _both(work: Callable[[Fraction, Fraction], Fraction]) -> Callable[[Number, Number], Number]:
    def act(first: Number, second: Number) -> Number:
        return _bounded(work(first.value, second.value), exact=first.exact and second.exact)

    return act


def _divided(work: Callable[[Fraction, Fraction], Fraction]) -> Callable[[Number, Number], Number]:
    def act(first: Number, second: Number) -> Number:
        if not second.value:
            raise NotReckoned("Nothing can be divided by zero.")
        return _bounded(work(first.value, second.value), exact=first.exact and second.exact)

    return act


def _power(base: Number, exponent: Number) -> Number:
    by = exponent.value
    if by.denominator != 1:
        if base.value < 0:
            raise NotReckoned("A negative number has no such power among the real ones.")
        if by == Fraction(1, 2):
            return _root([base])
        if not base.value:
            return _power(base, Number(Fraction(math.ceil(by))))
        return _by_decimal(lambda x: _ROOTS.exp(_ROOTS.multiply(_ROOTS.ln(x), _decimal(by))), base.value)
    if not base.value and by < 0:
        raise NotReckoned("Nothing can be divided by zero.")
    size = max(base.value.numerator.bit_length(), base.value.denominator.bit_length())
    if abs(by) > _MOST_EXPONENT or size * abs(by) > MOST_BITS + 64:
        raise NotReckoned("The power is too large to be written out.")
    return _bounded(base.value ** int(by), exact=base.exact and exponent.exact)


def _root(values: Sequence[Number]) -> Number:
    (of,) = values
    if of.value < 0:
        raise NotReckoned("A negative number has no square root among the real ones.")
    top, bottom = math.isqrt(of.value.numerator), math.isqrt(of.value.denominator)
    if top * top == of.value.numerator and bottom * bottom == of.value.denominator:
        return Number(Fraction(top, bottom), of.exact)
    return _by_decimal(_ROOTS.sqrt, of.value)


def root(value: Fraction) -> Number:
    """Return the square root of a number that is not negative; exact where it can be."""
    return _root([Number(value)])


def _decimal(value: Fraction) -> Decimal:
    return _ROOTS.divide(
        _ROOTS.create_decimal(Decimal(value.numerator)), _ROOTS.create_decimal(Decimal(value.denominator))
    )


def _by_decimal(work: Callable[[Decimal], Decimal], value: Fraction) -> Number:
    try:
        came = work(_decimal(value))
        if abs(came.adjusted()) > MOST_BITS // 4:
            raise NotReckoned("A number on the way grows too large.")
        return _bounded(fraction(came), exact=False)
    except (ArithmeticError, ValueError) as error:
        raise NotReckoned("A number on the way grows too large.") from error


def _logarithm(work: Callable[[Decimal], Decimal]) -> Callable[[Sequence[Number]], Number]:
    def act(values: Sequence[Number]) -> Number:
        if values[0].value <= 0:
            raise NotReckoned("Only a number above zero has a logarithm.")
        return _by_decimal(work, values[0].value)

    return act


def _exponential(values: Sequence[Number]) -> Number:
    if abs(values[0].value) > 1_000:
        raise NotReckoned("The power is too large to be written out.")
    return _by_decimal(_ROOTS.exp, values[0].value)


def _factorial(values: Sequence[Number]) -> Number:
    of = values[0].value
    if of.denominator != 1 or not 0 <= of <= _MOST_FACTORIAL:
        raise NotReckoned(f"factorial takes a whole number from 0 to {_MOST_FACTORIAL}.")
    return _bounded(Fraction(math.factorial(int(of))), exact=values[0].exact)


def _round(values: Sequence[Number]) -> Number:
    places = values[1].value if len(values) > 1 else Fraction(0)
    if places.denominator != 1 or abs(places) > 100:
        raise NotReckoned("round takes a whole number of places from -100 to 100.")
    return Number(Fraction(round(values[0].value, int(places))), values[0].exact)


def _every(work: Callable[[list[Fraction]], Fraction]) -> Callable[[Sequence[Number]], Number]:
    def act(values: Sequence[Number]) -> Number:
        return _bounded(work([each.value for each in values]), exact=all(each.exact for each in values))

    return act


_SIGNS: Final[Mapping[type[ast.operator], Callable[[Number, Number], Number]]] = {
    ast.Add: _both(lambda a, b: a + b),
    ast.Sub: _both(lambda a, b: a - b),
    ast.Mult: _both(lambda a, b: a * b),
    ast.Div: _divided(lambda a, b: a / b),
    ast.FloorDiv: _divided(lambda a, b: Fraction(a // b)),
    ast.Mod: _divided(lambda a, b: a % b),
    ast.Pow: _power,
}
_CONSTANTS: Final = {
    "pi": fraction(Decimal("3.14159265358979323846264338327950288419716939937510582097494")),
    "e": fraction(Decimal("2.71828182845904523536028747135266249775724709369995957496697")),
}
_FUNCTIONS: Final[Mapping[str, tuple[int, int, Callable[[Sequence[Number]], Number]]]] = {
    "abs": (1, 1, _every(lambda v: abs(v[0]))),
    "ceil": (1, 1, _every(lambda v: Fraction(math.ceil(v[0])))),
    "exp": (1, 1, _exponential),
    "factorial": (1, 1, _factorial),
    "floor": (1, 1, _every(lambda v: Fraction(math.floor(v[0])))),
    "ln": (1, 1, _logarithm(_ROOTS.ln)),
    "log10": (1, 1, _logarithm(_ROOTS.log10)),
    "max": (1, 500, _every(max)),
    "mean": (1, 500, _every(lambda v: sum(v, Fraction(0)) / len(v))),
    "min": (1, 500, _every(min)),
    "round": (1, 2, _round),
    "sqrt": (1, 1, _root),
    "sum": (1, 500, _every(lambda v: sum(v, Fraction(0)))),
}
