"""Reads cron expressions: five fields, or `@daily` and its like. Knows the wall's clock; the domain knows zones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from cronsim import CronSim, CronSimError

from orchestrator.domain.errors import InvalidSchedule

_SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_LONGEST = 256
_ANY_DAY = datetime(2024, 1, 1, tzinfo=UTC).replace(tzinfo=None)


@dataclass(frozen=True, slots=True)
class Expression:
    """A cron expression that has been read."""

    fields: str

    @property
    def repeats(self) -> bool:
        """Whether it stands for an interval: its minute or its hour begins with a star."""
        minute, hour, *_ = self.fields.split()
        return minute.startswith("*") or hour.startswith("*")

    def walls(self, after: datetime) -> Iterator[datetime]:
        """Every time of the wall's clock, without a zone, that matches after one; in order."""
        return CronSim(self.fields, after)


@lru_cache(maxsize=1024)
def parse(expression: str) -> Expression:
    """Return an expression that can be asked for times, or raise `InvalidSchedule` saying what is wrong with it."""
    fields = _SHORT.get(expression.strip().lower(), expression)
    number = len(fields.split())
    if number != 5 or len(fields) > _LONGEST:
        raise InvalidSchedule(
            f"A cron expression has five fields (minute, hour, day of the month, month, day of the week), such as "
            f"'30 2 * * *', or is one of {', '.join(_SHORT)}; {_shown(expression)} has {number}."
        )
    try:
        read = Expression(" ".join(fields.split()))
        comes = next(read.walls(_ANY_DAY), None)
    except CronSimError as error:
        what = str(error).removeprefix("Bad ").replace("-", " ").replace(" of ", " of the ")
        raise InvalidSchedule(
            f"The {what} of the cron expression {_shown(expression)} is not valid."
        ) from error
    if comes is None:
        raise InvalidSchedule(f"The cron expression {_shown(expression)} names a day that never comes.")
    return read


def _shown(expression: str) -> str:
    return repr(expression if len(expression) <= _LONGEST else expression[:_LONGEST] + "…")
