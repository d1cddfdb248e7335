"""Offers the time as an MCP server: what it is somewhere, and what a time of one place is at another.

The answer to `time_now` differs whenever it is asked; a step that is tried again reads what it was told from the journal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from workers.toolhost.statements import Statements

_READS: Final = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}", re.ASCII)


def build(now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> MCPServer:
    """Return a server that tells the time; `now` is the clock that it looks at."""
    server = MCPServer(
        name="clock",
        title="Clock",
        instructions="Name zones as the IANA data base does: Europe/Berlin, UTC.",
        log_level="WARNING",
    )

    @server.tool(title="Tell the time", annotations=_READS)
    def time_now(
        zone: Annotated[str, Field(description="A time zone, such as Europe/Berlin.")] = "UTC",
    ) -> Statements:
        """Return date, time and weekday in a zone, now."""
        here = now().astimezone(_zone(zone)).replace(microsecond=0)
        lines = [
            f"The time in {zone} is {_said(here)}.",
            f"The date in {zone} is {here:%Y-%m-%d}, a {here:%A}.",
        ]
        return Statements(text="\n".join(lines), locator=f"clock:{zone}", title=f"The time in {zone}")

    @server.tool(title="Convert a time", annotations=_READS)
    def time_convert(
        time: Annotated[
            str, Field(description="Such as 2026-03-29T14:30; its own offset wins, if it has one.")
        ],
        to_zone: Annotated[str, Field(description="The zone that is wanted, such as Asia/Tokyo.")],
        from_zone: Annotated[str, Field(description="The zone of the time.")] = "UTC",
    ) -> Statements:
        """Return what a time of one zone is in another; one that the clocks skip is refused."""
        target = _zone(to_zone)
        first = _moment(time, from_zone)
        lines = [_converted(each, from_zone, target, to_zone) for each in _both(first)]
        if len(lines) > 1:
            lines.append(
                f"The time {first:%Y-%m-%d %H:%M:%S} occurs twice in {from_zone}: the clocks go back then."
            )
        return Statements(
            text="\n".join(lines),
            locator=f"clock:{from_zone}:{first.isoformat()}:{to_zone}",
            title="A time elsewhere",
        )

    return server


def _zone(name: str) -> ZoneInfo:
    try:
        if len(name) <= 64 and _ZONE.fullmatch(name):
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise ToolError(f"There is no time zone {name[:64]!r}; name it as in Europe/Berlin.")


def _moment(text: str, zone: str) -> datetime:
    try:
        told = datetime.fromisoformat(text) if len(text) <= 40 and text.isascii() else None
    except ValueError:
        told = None
    if told is None:
        raise ToolError("The time is not understood; write it as 2026-03-29T14:30.")
    if told.tzinfo is None:
        told = told.replace(tzinfo=_zone(zone))
        try:
            back = told.astimezone(UTC).astimezone(told.tzinfo)
        except OverflowError as error:
            raise ToolError("The time is beyond what calendars here reach.") from error
        if back.replace(tzinfo=None) != told.replace(tzinfo=None):
            raise ToolError(f"There is no {told:%Y-%m-%d %H:%M:%S} in {zone}: the clocks go forward then.")
    return told


def _both(first: datetime) -> list[datetime]:
    """The one or two moments that a clock shows so."""
    second = first.replace(fold=1)
    return [first] if first.utcoffset() == second.utcoffset() else [first, second]


def _converted(moment: datetime, zone: str, target: ZoneInfo, to_zone: str) -> str:
    try:
        there = moment.astimezone(target)
    except OverflowError as error:
        raise ToolError("The time is beyond what calendars here reach.") from error
    named = f" in {zone}" if isinstance(moment.tzinfo, ZoneInfo) else ""
    return f"{_said(moment)}{named} is {_said(there)} in {to_zone}."


def _said(moment: datetime) -> str:
    offset = moment.utcoffset() or timedelta(0)
    sign, minutes = ("-" if offset < timedelta(0) else "+"), abs(offset) // timedelta(minutes=1)
    return f"{moment:%Y-%m-%d %H:%M:%S} {sign}{minutes // 60:02}:{minutes % 60:02}"
