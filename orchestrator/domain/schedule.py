"""Schedules: when a cron expression means which instant, and what becomes of the ticks that are due.

A cron expression speaks of the clock on the wall. `ticks` turns it into instants, each once and in order, through the
two days on which that clock is put on or back:

                         the wall's hour is left out            the wall's hour comes twice
    fixed times          once, at the moment it is left out     once, the first time
    repeating times      not at all                             both times: they are two instants

Times are *fixed* when neither the minute nor the hour begins with a star, as in cron on Debian: a daily 02:30 job runs
once on both days, and one for every 15 minutes runs every 15 minutes.

`settle` then says of every due tick whether it is fired. At most one is, for a schedule has at most one living plan.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol
from zoneinfo import ZoneInfo

from orchestrator.domain.budget import Budget
from orchestrator.domain.errors import Invalid, InvalidBudget, InvalidSchedule
from orchestrator.domain.plan import Json, Request, request

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NOT_ZONES = {"localtime", "posixrules", "Factory"}
_SECOND = timedelta(seconds=1)
_NOTHING = timedelta(0)
_INSTANT = timedelta(microseconds=1)


class Misfire(StrEnum):
    """What becomes of ticks that nobody was there for: none, the newest, or all of them."""

    SKIP = "skip"
    ONCE = "once"
    ALL = "all"


class Overlap(StrEnum):
    """What becomes of a tick while the plan of an earlier one lives: it is left out, waits, or ends that plan."""

    SKIP = "skip"
    QUEUE = "queue"
    CANCEL = "cancel"


class FiringOutcome(StrEnum):
    """What became of one tick."""

    FIRED = "fired"
    QUEUED = "queued"
    SKIPPED_MISFIRE = "skipped_misfire"
    SKIPPED_OVERLAP = "skipped_overlap"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CatchUp:
    """How far back ticks are made up for.

    A tick is late after `grace`. At most `most` ticks within `window` are looked at one by one, the newest; what lies
    before them is passed over. As many may wait for an earlier plan.
    """

    grace: timedelta = timedelta(seconds=60)
    most: int = 100
    window: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A goal that is researched again whenever a clock says so.

    `request` holds what each plan is asked for, as it was given: it is checked again at each firing. `next_at` is the
    next tick, or `None` if there is none; `last_plan_id` the newest plan that a tick has made.
    """

    schedule_id: str
    tenant: str
    name: str
    cron: str
    timezone: str
    request: Mapping[str, Json]
    misfire: Misfire = Misfire.ONCE
    overlap: Overlap = Overlap.SKIP
    paused: bool = False
    next_at: datetime | None = None
    last_plan_id: str | None = None
    created_at: datetime | None = None

    def domain(self, now: datetime) -> str | None:
        """Return the domain that plans of the checked request are asked in, `None` where their goal's words choose."""
        named = self.asked(now).sources.get("domain")
        return None if named is None else str(named)

    def asked(self, due_at: datetime) -> Request:
        """Return the checked request of the plan for one tick, or raise the kind of `Invalid` that says what is wrong."""
        given = dict(self.request)
        named: Mapping[str, Json] = {"schedule": self.name, "due_at": due_at.astimezone(UTC).isoformat()}
        unknown = set(given) - REQUEST_KEYS
        if unknown:
            raise InvalidSchedule(f"A schedule's request has no {', '.join(sorted(unknown))}.")
        return request(
            given.get("goal"),  # type: ignore[arg-type]  # it is checked
            depth=given.get("depth", 2),
            tenant=self.tenant,
            requester=_text("requester", given.get("requester", "local")),
            sources=_sources(given),
            budget=_budget(given.get("budget")),
            priority=given.get("priority", 0),
            metadata={**_mapping("metadata", given.get("metadata")), **named},
        )


REQUEST_KEYS = frozenset(
    {"goal", "depth", "domain", "max_sources", "requester", "sources", "budget", "priority", "metadata"}
)
"""What a schedule's request may say."""


def _sources(given: Mapping[str, Json]) -> Mapping[str, Json]:
    """Where a plan looks, for whom, and how many documents it may quote: what a plan is told under `sources`."""
    domain, most = given.get("domain"), given.get("max_sources")
    if domain is not None:
        _text("domain", domain)
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise InvalidSchedule(f"A schedule's max_sources is a whole number from 1, not {most!r}.")
    named = {"domain": domain, "max_sources": most}
    said = {name: value for name, value in named.items() if value is not None}
    return {**_mapping("sources", given.get("sources")), **said}


def _mapping(name: str, given: Json) -> Mapping[str, Json]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidSchedule(f"A schedule's {name} is an object with keys and values, not {given!r}.")
    return given


def _text(name: str, given: Json) -> str:
    if not isinstance(given, str) or not given:
        raise InvalidSchedule(f"A schedule's {name} is a text, not {given!r}.")
    return given


def _budget(given: Json) -> Budget:
    named = _mapping("budget", given)
    known = set(Budget().as_json())
    if unknown := set(named) - known:
        raise InvalidBudget(
            f"A budget has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}."
        )
    return Budget(**named)  # type: ignore[arg-type]  # it is checked with the request


@dataclass(frozen=True, slots=True)
class Firing:
    """One tick of a schedule: when it was due, when it was decided, and what became of it."""

    schedule_id: str
    due_at: datetime
    fired_at: datetime
    outcome: FiringOutcome = FiringOutcome.QUEUED
    plan_id: str | None = None
    reason: str | None = None
    key: str | None = None


def check_name(name: str) -> str:
    """Return a schedule's name, or raise `InvalidSchedule`."""
    if not _NAME.fullmatch(name):
        raise InvalidSchedule(
            f"A schedule's name has 1 to 64 letters, digits, dots, dashes or underscores, not {name[:80]!r}."
        )
    return name


def zone_of(name: str) -> ZoneInfo:
    """Return a time zone by its name in the IANA database, or raise `InvalidSchedule`."""
    try:
        # these files lie beside the zones, and differ between machines
        return ZoneInfo("" if name in _NOT_ZONES else name)
    except (KeyError, ValueError, OSError) as error:
        raise InvalidSchedule(
            f"There is no time zone {name[:80]!r}. Name one of the IANA database, such as Europe/Berlin or UTC."
        ) from error


# --- when a wall clock's time is ------------------------------------------------------------------------------


class Cron(Protocol):
    """A parsed cron expression."""

    @property
    def repeats(self) -> bool:
        """Whether it stands for an interval rather than for times of the day."""
        ...

    def walls(self, after: datetime) -> Iterator[datetime]:
        """Every time of the wall's clock, without a zone, that matches after one; in order."""
        ...


def instants(wall: datetime, zone: ZoneInfo, *, repeats: bool) -> Sequence[datetime]:
    """Return when the wall's clock in a zone shows a time, in UTC: never, once or twice."""
    first, second = (wall.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    before, after = first.utcoffset() or _NOTHING, second.utcoffset() or _NOTHING
    if before == after:
        return (first.astimezone(UTC),)
    if before > after:
        return (first.astimezone(UTC), second.astimezone(UTC)) if repeats else (first.astimezone(UTC),)
    return () if repeats else (_change(wall, zone, before, after),)


def _change(wall: datetime, zone: ZoneInfo, before: timedelta, after: timedelta) -> datetime:
    """The instant at which the wall's clock was put on, leaving out a time."""
    early, late = (wall - after).replace(tzinfo=UTC), (wall - before).replace(tzinfo=UTC)
    while late - early > _SECOND:
        middle = early + (late - early) // 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == after:
            late = middle
        else:
            early = max(middle, early + _SECOND)
    return early if early.astimezone(zone).utcoffset() == after else late


def ticks(cron: Cron, zone: ZoneInfo, *, after: datetime) -> Iterator[datetime]:
    """Yield every instant after one at which an expression is due in a zone, in UTC: in order, none twice."""
    last = after
    later: deque[datetime] = deque()
    for wall in cron.walls(_from(after.astimezone(zone))):
        for number, instant in enumerate(instants(wall, zone, repeats=cron.repeats)):
            if number:
                later.append(instant)  # the wall shows this time again, after others that come first
                continue
            while later and later[0] <= instant:
                again = later.popleft()
                if again > last:
                    yield (last := again)
            if instant > last:
                yield (last := instant)
    yield from (again for again in later if again > last)


def _from(local: datetime) -> datetime:
    """The wall's time after which to look: earlier, if what the wall shows will be shown once more."""
    wall = local.replace(tzinfo=None, fold=0)
    if local.fold:
        return wall
    repeated = (local.utcoffset() or _NOTHING) - (local.replace(fold=1).utcoffset() or _NOTHING)
    return wall - max(repeated, _NOTHING)


# --- what becomes of due ticks --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Due:
    """The ticks that are due, oldest first; the one that is next; and from when on earlier ones are passed over."""

    ticks: Sequence[datetime] = ()
    next_at: datetime | None = None
    passed_over: datetime | None = None


def due(cron: Cron, zone: ZoneInfo, *, since: datetime, now: datetime, catch_up: CatchUp) -> Due:
    """Return what is due from one tick up to now, both included."""
    start = max(since, now - catch_up.window)
    newest: deque[datetime] = deque(maxlen=catch_up.most)
    first = next_at = None
    for tick in ticks(cron, zone, after=start - _INSTANT):
        if tick > now:
            next_at = tick
            break
        first = first or tick
        newest.append(tick)
    whole = start == since and (not newest or newest[0] == first)
    return Due(tuple(newest), next_at, None if whole else since)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of one tick."""

    due_at: datetime
    outcome: FiringOutcome
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of due ticks, oldest first, and whether the plan that lives is to be cancelled."""

    verdicts: Sequence[Verdict] = ()
    cancels: bool = False


@dataclass(slots=True)
class _Ruling:
    verdicts: dict[datetime, Verdict] = field(default_factory=dict)

    def give(self, tick: datetime, outcome: FiringOutcome, reason: str | None = None) -> None:
        self.verdicts[tick] = Verdict(tick, outcome, reason)


def settle(
    due_ticks: Sequence[datetime],
    *,
    now: datetime,
    misfire: Misfire,
    overlap: Overlap,
    busy: bool,
    waiting: int = 0,
    catch_up: CatchUp,
) -> Decision:
    """Decide about due ticks, given whether an earlier plan lives and how many ticks wait for it."""
    ruling = _Ruling()
    wanted = _wanted(due_ticks, now, misfire, catch_up)
    for tick in due_ticks:
        if tick not in wanted:
            why = "a newer tick stands for it" if misfire is Misfire.ONCE else "nobody was there in time"
            ruling.give(tick, FiringOutcome.SKIPPED_MISFIRE, why)
    match overlap:
        case Overlap.SKIP:
            _skip(ruling, wanted, busy=busy or waiting > 0)
        case Overlap.QUEUE:
            _queue(ruling, wanted, busy=busy or waiting > 0, room=catch_up.most - waiting)
        case Overlap.CANCEL:
            for tick in wanted[:-1]:
                ruling.give(tick, FiringOutcome.SKIPPED_OVERLAP, "a newer tick is due as well")
            for tick in wanted[-1:]:
                ruling.give(tick, FiringOutcome.FIRED)
    cancels = overlap is Overlap.CANCEL and busy and bool(wanted)
    return Decision(tuple(ruling.verdicts[tick] for tick in due_ticks), cancels)


def _wanted(
    due_ticks: Sequence[datetime], now: datetime, misfire: Misfire, catch_up: CatchUp
) -> Sequence[datetime]:
    if misfire is Misfire.ALL:
        return due_ticks
    newest = due_ticks[-1:]
    if misfire is Misfire.SKIP:
        return [tick for tick in newest if now - tick <= catch_up.grace]
    return newest


def _skip(ruling: _Ruling, wanted: Sequence[datetime], *, busy: bool) -> None:
    for tick in wanted:
        if busy:
            ruling.give(tick, FiringOutcome.SKIPPED_OVERLAP, "the plan of an earlier tick still lives")
        else:
            ruling.give(tick, FiringOutcome.FIRED)
            busy = True


def _queue(ruling: _Ruling, wanted: Sequence[datetime], *, busy: bool, room: int) -> None:
    for tick in wanted:
        if not busy:
            ruling.give(tick, FiringOutcome.FIRED)
            busy = True
        elif room > 0:
            ruling.give(tick, FiringOutcome.QUEUED, "waits for the plan of an earlier tick")
            room -= 1
        else:
            ruling.give(tick, FiringOutcome.SKIPPED_OVERLAP, "too many ticks wait already")


def why_not(error: Invalid) -> str:
    """Return the reason that is recorded for a tick which could not be fired."""
    return f"{error.code}: {error}"
