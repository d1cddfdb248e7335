"""A clock that stands at noon until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 3, 20, 12, tzinfo=UTC)


class Clock:
    """Gives the time it was set to; call it like any other clock."""

    def __init__(self, at: datetime = NOON) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def advance(self, by: timedelta | None = None, **parts: float) -> None:
        """Move on by a span, or by `seconds=…`, `minutes=…` and so on."""
        self.at += timedelta(**parts) if by is None else by
