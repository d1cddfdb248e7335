"""How people say how long ago something was: a number and a unit, such as `90s`, `30m`, `2h`, `1d` or `3w`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from orchestrator.domain.errors import InvalidRequest

PATTERN: Final = r"^[0-9]{1,5}[smhdw]$"
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def age(text: str) -> timedelta:
    """Return the age that a text names, or raise `InvalidRequest`."""
    said = text.strip().lower()
    if not re.fullmatch(PATTERN, said):
        raise InvalidRequest(
            f"{text[:20]!r} is no age. Give a whole number below 100,000 and one of s, m, h, d, w: 90s, 30m, 2h, 1d."
        )
    return timedelta(**{_UNITS[said[-1]]: int(said[:-1])})
