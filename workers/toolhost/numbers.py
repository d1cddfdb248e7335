"""Offers arithmetic and statistics as an MCP server, exact where a number can be written out.

    calculate(expression)                       what an expression comes to
    convert_units(value, unit, to)              the same in another unit
    statistics_describe(numbers, label, also)   count, sum, mean, spread and quantiles; correlation with another list

What is returned is made of numbers, and of labels of a few plain characters: nothing that a caller says can come back
as a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Annotated, Final, TypeAlias

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field, StrictFloat, StrictInt, StrictStr

from workers.toolhost import arithmetic, measures
from workers.toolhost.arithmetic import NotReckoned
from workers.toolhost.statements import Statements, computed, plain, shown

MOST_NUMBERS: Final = 10_000

_PURE: Final = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_LABEL: Final = re.compile(r"[\w %$€£°²³.()/+-]{1,60}")
_MOST_DIGITS: Final = 300

Given: TypeAlias = StrictInt | StrictFloat | StrictStr


def build() -> MCPServer:
    """Return a server that reckons."""
    server = MCPServer(
        name="numbers",
        title="Numbers",
        instructions="Reckon exactly; give numbers as they stand in the sources.",
        log_level="WARNING",
    )

    @server.tool(title="Calculate", annotations=_PURE)
    def calculate(
        expression: Annotated[
            str, Field(description="Numbers, + - * / // % **, parentheses, and functions such as sqrt(2).")
        ],
    ) -> Statements:
        """Return what an arithmetic expression comes to, exactly where its decimals end."""
        try:
            text, found = arithmetic.normal(expression), arithmetic.reckon(expression)
        except NotReckoned as error:
            raise ToolError(str(error)) from error
        lines = [f"{text} {shown(found.value, exact=found.exact)}"]
        if found.exact and lines[0][len(text) + 1] == "≈" and _short(found.value):
            lines.append(f"{text} = {found.value.numerator}/{found.value.denominator}")
        return computed("Calculation", lines, "calculate", text)

    @server.tool(title="Convert a measure", annotations=_PURE)
    def convert_units(
        value: Annotated[Given, Field(description="The number, as it is written.")],
        unit: Annotated[str, Field(description="Its unit, such as `sq mi`.")],
        to: Annotated[str, Field(description="The unit that is wanted, such as `sq km`.")],
    ) -> Statements:
        """Return a measure in another unit of the same kind, by the definition of both."""
        try:
            amount = _number(value)
            found = measures.convert(amount, unit, to)
        except (NotReckoned, measures.NoSuchMeasure) as error:
            raise ToolError(str(error)) from error
        line = f"{plain(amount)} {unit} {shown(found)} {to}"
        return computed("Conversion", [line], "convert_units", str(amount), unit, to)

    @server.tool(title="Describe numbers", annotations=_PURE)
    def statistics_describe(
        numbers: Annotated[list[Given], Field(min_length=1, max_length=MOST_NUMBERS)],
        label: Annotated[str, Field(description="What the numbers are, in a few plain words.")] = "",
        also: Annotated[
            list[Given] | None, Field(description="As many numbers to correlate them with.")
        ] = None,
        also_label: str = "",
    ) -> Statements:
        """Return count, sum, mean, median, spread, extremes and quartiles of numbers."""
        try:
            name = _label(label, "values")
            values = [_number(each) for each in numbers]
            lines = list(_described(values, name))
            others = [_number(each) for each in also or ()]
            if also is not None:
                lines.append(_correlated(values, others, name, _label(also_label, "the others")))
        except NotReckoned as error:
            raise ToolError(str(error)) from error
        made_of = ("statistics_describe", name, list(map(str, values)), also_label, list(map(str, others)))
        return computed(f"Statistics of {name}", lines, *made_of)

    return server


def _short(value: Fraction) -> bool:
    return max(value.numerator.bit_length(), value.denominator.bit_length()) < 200


def _number(given: Given) -> Fraction:
    """Return a number as it was written: a float in its shortest spelling, not what the machine makes of it."""
    text = str(given)
    if isinstance(given, bool) or len(text) > _MOST_DIGITS:
        raise NotReckoned(f"{text[:40]!r} is not a number.")
    return arithmetic.number(text)


def _label(text: str, otherwise: str) -> str:
    text = " ".join(text.split())
    if text and not _LABEL.fullmatch(text):
        raise NotReckoned("A label has at most 60 letters, digits, spaces and signs such as % and °.")
    return text or otherwise


def _described(values: Sequence[Fraction], name: str) -> Iterator[str]:
    count = len(values)
    ordered = sorted(values)
    total = sum(values, Fraction(0))
    mean = total / count
    yield f"number of {name} = {count}"
    yield f"sum of {name} {shown(total)}"
    yield f"mean of {name} {shown(mean)}"
    yield f"median of {name} {shown(_quantile(ordered, Fraction(1, 2)))}"
    yield f"smallest of {name} {shown(ordered[0])}"
    yield f"largest of {name} {shown(ordered[-1])}"
    for share, said in ((Fraction(1, 4), "first quartile"), (Fraction(3, 4), "third quartile")):
        yield f"{said} of {name} {shown(_quantile(ordered, share))}"
    if count > 1:
        spread = arithmetic.root(sum(((each - mean) ** 2 for each in values), Fraction(0)) / (count - 1))
        yield f"sample standard deviation of {name} {shown(spread.value, exact=spread.exact)}"


def _quantile(ordered: Sequence[Fraction], share: Fraction) -> Fraction:
    """Return the value below which a share lies, between neighbours where it falls between them."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _correlated(values: Sequence[Fraction], others: Sequence[Fraction], name: str, other: str) -> str:
    if len(values) != len(others) or len(values) < 2:
        raise NotReckoned("A correlation needs two lists of the same length, of two numbers or more.")
    count = len(values)
    mean, other_mean = sum(values, Fraction(0)) / count, sum(others, Fraction(0)) / count
    left, right = [each - mean for each in values], [each - other_mean for each in others]
    spread = sum((a * a for a in left), Fraction(0)) * sum((b * b for b in right), Fraction(0))
    if not spread:
        raise NotReckoned("Numbers that are all the same have no correlation.")
    together = sum((a * b for a, b in zip(left, right, strict=True)), Fraction(0))
    below = arithmetic.root(spread)
    return f"correlation of {name} with {other} {shown(together / below.value, exact=below.exact)}"
