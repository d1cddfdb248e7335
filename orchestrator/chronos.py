"""Fires schedules: each tick becomes a plan once, on any number of replicas and through any crash.

A tick is one transaction: the schedule is held, a row is written for the tick (there can be only one for each schedule
and instant), the plan is submitted, and the schedule is set to its next tick. A replica that dies in the middle has
done nothing, and the next one finds the tick still due. The time is the database's.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from orchestrator import cron
from orchestrator.conductor import Conductor
from orchestrator.domain import schedule as domain
from orchestrator.domain.errors import Conflict, Invalid, InvalidSchedule, NotFound, Unavailable
from orchestrator.domain.lifecycle import ALIVE
from orchestrator.domain.plan import Json
from orchestrator.domain.schedule import CatchUp, Firing, FiringOutcome, Misfire, Overlap, Schedule
from orchestrator.ports import Store, Tx
from orchestrator.telemetry import log

LONGEST_PAUSE_S: Final = 1.0
_SHORTEST_PAUSE_S: Final = 0.05
_BY: Final = "chronos"
_EVERY: Final = 100_000


@dataclass(frozen=True, slots=True)
class Draft:
    """What somebody wants to be fired: everything about a schedule that a person decides."""

    name: str
    cron: str
    request: Mapping[str, Json]
    timezone: str = "UTC"
    misfire: Misfire = Misfire.ONCE
    overlap: Overlap = Overlap.SKIP
    paused: bool = False
    tenant: str = "default"


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be different about a schedule; `None` leaves it. Parts of `request` replace those of that name."""

    cron: str | None = None
    timezone: str | None = None
    request: Mapping[str, Json] = field(default_factory=dict)
    misfire: Misfire | None = None
    overlap: Overlap | None = None
    paused: bool | None = None


class Chronos:
    """Keeps schedules and fires them. Holds no state of its own; any number may run at once."""

    def __init__(
        self,
        store: Store,
        conductor: Conductor,
        *,
        catch_up: CatchUp | None = None,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        check_domain: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """`check_domain` raises the kind of `Invalid` that says which domains there are; a tick does not ask it."""
        self._store = store
        self._conductor = conductor
        self._catch_up = catch_up or CatchUp()
        self._new_id = new_id
        self._check_domain = check_domain

    # what people do

    def add(self, draft: Draft) -> Schedule:
        """Keep a new schedule. Raises `Conflict` when the name is taken, and the kind of `Invalid` that fits."""
        with self._store.transaction() as tx:
            made = self._made(tx, draft)
            if not tx.add_schedule(made):
                raise Conflict(f"There is a schedule named {draft.name} already; change or remove it.")
            return self._found(tx, draft.tenant, draft.name)

    def put(self, draft: Draft) -> Schedule:
        """Keep a schedule as declared: add it, or change the one of that name. One that a person paused stays so."""
        with self._store.transaction() as tx:
            there = tx.schedule(draft.tenant, draft.name, lock=True)
            if there is None and tx.add_schedule(self._made(tx, draft)):
                return self._found(tx, draft.tenant, draft.name)
            # added just now by another replica, where it was not there
            there = there or self._found(tx, draft.tenant, draft.name, lock=True)
            wanted = replace(
                there,
                cron=draft.cron,
                timezone=draft.timezone,
                request=draft.request,
                misfire=draft.misfire,
                overlap=draft.overlap,
            )
            return there if wanted == there else self._write(tx, there, wanted)

    def change(self, name: str, change: Change, *, tenant: str = "default") -> Schedule:
        """Change a schedule from now on; its history stays. Ticks while it was paused are not made up for."""
        with self._store.transaction() as tx:
            there = self._found(tx, tenant, name, lock=True)
            wanted = replace(
                there,
                cron=there.cron if change.cron is None else change.cron,
                timezone=there.timezone if change.timezone is None else change.timezone,
                request={**there.request, **change.request},
                misfire=change.misfire or there.misfire,
                overlap=change.overlap or there.overlap,
                paused=there.paused if change.paused is None else change.paused,
            )
            return self._write(tx, there, wanted)

    def pause(self, name: str, *, tenant: str = "default") -> Schedule:
        """Let a schedule rest: no tick is fired until it is resumed. What it began goes on."""
        return self.change(name, Change(paused=True), tenant=tenant)

    def resume(self, name: str, *, tenant: str = "default") -> Schedule:
        """Let a schedule go on with its next tick."""
        return self.change(name, Change(paused=False), tenant=tenant)

    def remove(self, name: str, *, tenant: str = "default") -> Schedule:
        """Forget a schedule and its history; the plans it made stay."""
        with self._store.transaction() as tx:
            there = self._found(tx, tenant, name, lock=True)
            tx.remove_schedule(there.schedule_id)
            return there

    def list(self, *, tenant: str | None = "default") -> Sequence[Schedule]:
        """All schedules by name; those of every tenant, where none is named."""
        with self._store.transaction() as tx:
            return tx.schedules(tenant)

    def show(self, name: str, *, tenant: str = "default") -> Schedule:
        """The schedule of that name or id, or `NotFound`."""
        with self._store.transaction() as tx:
            return self._found(tx, tenant, name)

    def history(self, name: str, *, tenant: str = "default", limit: int = 50) -> Sequence[Firing]:
        """What became of a schedule's ticks, the newest first."""
        with self._store.transaction() as tx:
            return tx.firings(self._found(tx, tenant, name).schedule_id, limit=limit)

    def upcoming(self, name: str, count: int = 5, *, tenant: str = "default") -> Sequence[datetime]:
        """The next instants at which a schedule would be fired if it is not paused, in UTC."""
        with self._store.transaction() as tx:
            there, now = self._found(tx, tenant, name), tx.now()
        try:
            read, zone = cron.parse(there.cron), domain.zone_of(there.timezone)
        except InvalidSchedule:
            return []  # its firings say what is wrong
        return [*islice(domain.ticks(read, zone, after=now), count)]

    def run_now(self, name: str, *, tenant: str = "default") -> Firing:
        """Fire a schedule once, paused or not; an earlier plan that lives counts as it does for any tick."""
        return self.trigger(name, tenant=tenant)

    def trigger(
        self, name: str, *, due_at: datetime | None = None, key: str | None = None, tenant: str = "default"
    ) -> Firing:
        """Fire one tick of a schedule from outside; the same tick, or the same key, is fired once.

        `due_at` is the tick, by default now. A tick that was decided before is returned as it was.
        """
        if due_at is not None and due_at.tzinfo is None:
            raise InvalidSchedule("The time of a tick needs its zone, such as 2026-03-29T02:30:00Z.")
        with self._store.transaction() as tx:
            there, now = self._found(tx, tenant, name, lock=True), tx.now()
            tick = (due_at or now).astimezone(UTC)
            if tick > now + self._catch_up.grace:
                raise InvalidSchedule(f"The tick of {tick.isoformat()} has not come yet.")
            if tx.add_firing(Firing(there.schedule_id, tick, now, key=key)):
                tx.write_schedule(self._settle(tx, there, [tick], misfire=Misfire.ALL))
            fired = tx.firing(there.schedule_id, tick, key=key)
            if fired is None:
                raise NotFound("firing", tick.isoformat())
            return fired

    # what time does

    def tick(self) -> int:
        """Fire everything that is due and that no other replica has in hand; the number of schedules served."""
        served = 0
        while self._serve_next():
            served += 1
        return served

    def forever(self, stopping: threading.Event) -> None:
        """Fire schedules until told to stop."""
        while not stopping.is_set():
            try:
                self.tick()
                pause_s = self._pause_s()
            except Unavailable as error:
                log.warning("store.unavailable", error=str(error))
                pause_s = LONGEST_PAUSE_S
            except Exception as error:  # noqa: BLE001 - whatever it was, the next ticks must be fired
                log.exception("chronos.crashed", error=str(error))
                pause_s = LONGEST_PAUSE_S
            stopping.wait(pause_s)

    def _pause_s(self) -> float:
        with self._store.transaction() as tx:
            at = tx.next_tick_at()
            left = LONGEST_PAUSE_S if at is None else (at - tx.now()).total_seconds()
        return min(LONGEST_PAUSE_S, max(_SHORTEST_PAUSE_S, left))

    def _serve_next(self) -> bool:
        """Serve one schedule in one transaction; `False` if there is none to serve."""
        taken: Schedule | None = None
        try:
            with self._store.transaction() as tx:
                taken = tx.take_schedule()
                if taken is not None:
                    self._serve(tx, taken)
        except Unavailable:
            raise
        except Exception as error:
            if taken is None:
                raise
            self._give_up(taken, f"fault: {type(error).__name__}: {error}")
        return taken is not None

    def _serve(self, tx: Tx, taken: Schedule) -> None:
        now = tx.now()
        if taken.next_at is None or taken.next_at > now:
            self._begin_waiting(tx, taken)
            return
        try:
            read, zone = cron.parse(taken.cron), domain.zone_of(taken.timezone)
        except Invalid as error:
            # only a row that was altered, or a zone that is no longer known
            tx.add_firing(Firing(taken.schedule_id, taken.next_at, now))
            self._fail(tx, taken, taken.next_at, domain.why_not(error))
            tx.write_schedule(replace(taken, next_at=None))
            return
        due = domain.due(read, zone, since=taken.next_at, now=now, catch_up=self._catch_up)
        if due.passed_over is not None:
            why = f"this tick and those up to {due.ticks[0] if due.ticks else now:%Y-%m-%d %H:%M} UTC were too long ago"
            tx.add_firing(
                Firing(
                    taken.schedule_id,
                    due.passed_over,
                    now,
                    FiringOutcome.SKIPPED_MISFIRE,
                    reason=why,
                )
            )
        # a tick that somebody triggered from outside is written already
        fresh = [tick for tick in due.ticks if tx.add_firing(Firing(taken.schedule_id, tick, now))]
        moved = replace(taken, next_at=due.next_at)
        tx.write_schedule(self._settle(tx, moved, fresh, misfire=taken.misfire))

    def _settle(self, tx: Tx, held: Schedule, fresh: Sequence[datetime], *, misfire: Misfire) -> Schedule:
        """Decide about ticks that this transaction has entered; return the schedule as it is then."""
        waiting = [w for w in self._waiting(tx, held) if w.due_at not in fresh]
        decision = domain.settle(
            fresh,
            now=tx.now(),
            misfire=misfire,
            overlap=held.overlap,
            busy=self._busy(tx, held),
            waiting=len(waiting),
            catch_up=self._catch_up,
        )
        counts = dict.fromkeys(FiringOutcome, 0)
        for verdict in decision.verdicts:
            counts[verdict.outcome] += 1
            match verdict.outcome:
                case FiringOutcome.FIRED:
                    held = self._fire(tx, held, verdict.due_at, cancels=decision.cancels)
                case FiringOutcome.QUEUED:
                    pass  # as it was entered
                case _:
                    tx.end_firing(held.schedule_id, verdict.due_at, verdict.outcome, reason=verdict.reason)
        self._tell(held, counts)
        return held

    def _fire(self, tx: Tx, held: Schedule, tick: datetime, *, cancels: bool = False) -> Schedule:
        try:
            asked = held.asked(tick)
        except Invalid as error:
            self._fail(tx, held, tick, domain.why_not(error))
            return held
        if cancels and held.last_plan_id is not None:
            last = tx.lock_plan(held.last_plan_id)  # it may have ended since
            if last is not None and last.state in ALIVE:
                why = f"the next tick of schedule {held.name} is due"
                self._conductor.cancel_within(tx, last.plan_id, by=_BY, reason=why)
        origin: dict[str, Json] = {"schedule": held.schedule_id, "due_at": tick.isoformat()}
        plan = self._conductor.submit_within(tx, asked, origin=origin)
        tx.end_firing(held.schedule_id, tick, FiringOutcome.FIRED, plan_id=plan.plan_id)
        late_s = round((tx.now() - tick).total_seconds(), 3)
        log.info("schedule.fired", schedule_id=held.schedule_id, plan_id=plan.plan_id, late_s=late_s)
        return replace(held, last_plan_id=plan.plan_id)

    def _begin_waiting(self, tx: Tx, held: Schedule) -> None:
        # looked at again under the schedule's lock: another replica may have begun it
        waiting = self._waiting(tx, held)
        if waiting and not self._busy(tx, held):
            tx.write_schedule(self._fire(tx, held, waiting[0].due_at))

    @staticmethod
    def _waiting(tx: Tx, held: Schedule) -> Sequence[Firing]:
        return [*reversed(tx.firings(held.schedule_id, outcome=FiringOutcome.QUEUED, limit=_EVERY))]

    @staticmethod
    def _busy(tx: Tx, held: Schedule) -> bool:
        last = tx.plan(held.last_plan_id) if held.last_plan_id is not None else None
        return last is not None and last.state in ALIVE

    @staticmethod
    def _fail(tx: Tx, held: Schedule, tick: datetime, why: str) -> None:
        tx.end_firing(held.schedule_id, tick, FiringOutcome.FAILED, reason=why)
        log.error("schedule.failed", schedule_id=held.schedule_id, due_at=tick.isoformat(), error=why)

    def _give_up(self, taken: Schedule, why: str) -> None:
        """Record that a schedule could not be served, and let it go on with what comes next."""
        with self._store.transaction() as tx:
            held, now = tx.schedule(taken.tenant, taken.schedule_id, lock=True), tx.now()
            if held is None:
                return
            if held.next_at is not None and held.next_at <= now:
                tx.add_firing(Firing(held.schedule_id, held.next_at, now))
                self._fail(tx, held, held.next_at, why)
                tx.write_schedule(replace(held, next_at=self._next(held, now)))
            elif waiting := self._waiting(tx, held):
                self._fail(tx, held, waiting[0].due_at, why)

    @staticmethod
    def _tell(held: Schedule, counts: Mapping[FiringOutcome, int]) -> None:
        passed = counts[FiringOutcome.SKIPPED_MISFIRE] + counts[FiringOutcome.SKIPPED_OVERLAP]
        if passed:
            log.info("schedule.passed", schedule_id=held.schedule_id, ticks=passed)
        if counts[FiringOutcome.QUEUED]:
            log.info("schedule.queued", schedule_id=held.schedule_id, ticks=counts[FiringOutcome.QUEUED])

    # what the verbs share

    def _made(self, tx: Tx, draft: Draft) -> Schedule:
        made = Schedule(
            schedule_id=self._new_id(),
            tenant=draft.tenant,
            name=domain.check_name(draft.name),
            cron=draft.cron,
            timezone=draft.timezone,
            request=dict(draft.request),
            misfire=draft.misfire,
            overlap=draft.overlap,
            paused=draft.paused,
        )
        self._check_domain(made.domain(tx.now()))
        return replace(made, next_at=self._next(made, tx.now()))

    def _write(self, tx: Tx, there: Schedule, wanted: Schedule) -> Schedule:
        named = wanted.domain(tx.now())
        if wanted.request != there.request:
            # one that rests or is resumed is not held to what has left the file of domains meanwhile
            self._check_domain(named)
        resumed = there.paused and not wanted.paused
        if resumed or (there.cron, there.timezone) != (wanted.cron, wanted.timezone):
            wanted = replace(wanted, next_at=self._next(wanted, tx.now()))
        tx.write_schedule(wanted)
        return wanted

    @staticmethod
    def _next(held: Schedule, now: datetime) -> datetime | None:
        read, zone = cron.parse(held.cron), domain.zone_of(held.timezone)
        return next(domain.ticks(read, zone, after=now), None)

    @staticmethod
    def _found(tx: Tx, tenant: str, name: str, *, lock: bool = False) -> Schedule:
        found = tx.schedule(tenant, name, lock=lock)
        if found is None:
            raise NotFound("schedule", name)
        return found


def forever(store: Store, conductor: Conductor, stopping: threading.Event) -> None:
    """Fire schedules in this thread until told to stop; what `serve chronos` runs."""
    Chronos(store, conductor).forever(stopping)
