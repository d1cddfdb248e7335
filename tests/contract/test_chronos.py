"""Chronos makes one plan of each tick: on any number of replicas, through kills, pauses, outages and clock changes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import psycopg
import pytest

from orchestrator.chronos import Change, Chronos, Draft, forever
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.errors import Conflict, Invalid, InvalidSchedule, NotFound
from orchestrator.domain.plan import PlanState
from orchestrator.domain.schedule import CatchUp, FiringOutcome, Misfire, Overlap
from orchestrator.messages import Topic
from orchestrator.store import PgStore
from tests.clock import NOON
from tests.contract.bench import Bench, look_of_plan
from tests.contract.test_store import STORES, bench_of

ROOT = Path(__file__).parents[2]
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
GOAL = {"goal": "What does a lock do?"}
F, Q, M, V, X = (
    FiringOutcome.FIRED,
    FiringOutcome.QUEUED,
    FiringOutcome.SKIPPED_MISFIRE,
    FiringOutcome.SKIPPED_OVERLAP,
    FiringOutcome.FAILED,
)


class Tower:
    """A Chronos on a store under test, and the few things that tests do again and again."""

    def __init__(self, bench: Bench, sealer, **rest):
        self.bench, self.store, self.clock, self.sealer = bench, bench.store, bench.clock, sealer
        self.conductor = Conductor(
            self.store, sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.5, rules=Rules()
        )
        self.chronos = Chronos(self.store, self.conductor, **rest)

    def add(self, name="nightly", cron="0 * * * *", **rest):
        return self.chronos.add(Draft(name, cron, {**GOAL, **rest.pop("request", {})}, **rest))

    def outcomes(self, name="nightly"):
        return [f.outcome for f in reversed(self.chronos.history(name, limit=1000))]

    def plans(self):
        with self.store.transaction() as tx:
            return list(reversed(tx.plans(limit=1000)))

    def end(self, plan, state=PlanState.SUCCEEDED):
        self.bench.place_plan(plan.plan_id, **look_of_plan(state, self.clock))


@pytest.fixture(params=STORES)
def tower(request, sealer) -> Iterator[Tower]:
    with bench_of(request.param, request) as made:
        yield Tower(made, sealer)


class TestATick:
    def test_is_a_plan_with_its_first_step_message_event_and_audit(self, tower):
        made = tower.add(request={"requester": "ann", "depth": 3})
        assert made.next_at == NOON + HOUR
        assert tower.chronos.tick() == 0
        tower.clock.advance(hours=1, seconds=2)
        assert tower.chronos.tick() == 1
        (fired,) = tower.chronos.history("nightly")
        assert (fired.due_at, fired.fired_at, fired.outcome) == (NOON + HOUR, tower.clock(), F)
        (plan,) = tower.plans()
        assert (plan.plan_id, plan.requester, plan.depth) == (fired.plan_id, "ann", 3)
        with tower.store.transaction() as tx:
            assert len(tx.steps(plan.plan_id)) == 1
            assert [m.topic for m in tx.take_outbox(10)] == [Topic.STEPS]
            event = tx.events(plan.plan_id)[0]
            assert (event.kind, event.body["schedule"], event.body["due_at"]) == (
                "plan.submitted",
                made.schedule_id,
                (NOON + HOUR).isoformat(),
            )
            assert made.schedule_id.encode() in tx.audit(plan.plan_id)[0].body
        assert tower.chronos.show("nightly").next_at == NOON + 2 * HOUR
        assert tower.chronos.tick() == 0

    @pytest.mark.parametrize(
        ("misfire", "overlap", "outcomes"),
        [
            ("skip", "skip", [M, M, M]),
            ("skip", "queue", [M, M, M]),
            ("skip", "cancel", [M, M, M]),
            ("once", "skip", [M, M, F]),
            ("once", "queue", [M, M, F]),
            ("once", "cancel", [M, M, F]),
            ("all", "skip", [F, V, V]),
            ("all", "queue", [F, Q, Q]),
            ("all", "cancel", [V, V, F]),
        ],
    )
    def test_after_an_outage_of_three_hours_is_what_its_policies_say(self, tower, misfire, overlap, outcomes):
        tower.add(misfire=Misfire(misfire), overlap=Overlap(overlap))
        tower.clock.advance(hours=3, minutes=30)
        tower.chronos.tick()
        assert tower.outcomes() == outcomes
        assert len(tower.plans()) == outcomes.count(F)
        assert tower.chronos.show("nightly").next_at == NOON + 4 * HOUR

    def test_of_an_endless_outage_costs_no_more_rows_than_are_caught_up(self, tower):
        tower.add(cron="* * * * *", misfire=Misfire.ALL, overlap=Overlap.QUEUE)
        tower.clock.advance(days=400)
        tower.chronos.tick()
        counts = Counter(tower.outcomes())
        assert counts == {F: 1, Q: 99, M: 1}
        first = tower.chronos.history("nightly", limit=1000)[-1]
        assert (first.due_at, first.outcome) == (NOON + MINUTE, M)
        assert "too long ago" in first.reason


class TestAnEarlierPlanThatLives:
    def test_lets_a_tick_be_left_out(self, tower):
        tower.add(overlap=Overlap.SKIP)
        for _ in range(2):
            tower.clock.advance(hours=1)
            tower.chronos.tick()
        tower.end(tower.plans()[0])
        tower.clock.advance(hours=1)
        tower.chronos.tick()
        assert tower.outcomes() == [F, V, F]

    def test_lets_ticks_wait_and_each_begin_when_the_one_before_has_ended(self, tower):
        tower.add(overlap=Overlap.QUEUE)
        for _ in range(3):
            tower.clock.advance(hours=1)
            tower.chronos.tick()
        assert tower.outcomes() == [F, Q, Q]
        for done in (2, 3):
            tower.end(tower.plans()[-1])
            tower.clock.advance(minutes=1)
            tower.chronos.tick()
            assert tower.outcomes().count(F) == done
        assert tower.outcomes() == [F, F, F]
        assert len({p.plan_id for p in tower.plans()}) == 3

    def test_is_cancelled_where_the_newest_matters(self, tower):
        tower.add(overlap=Overlap.CANCEL)
        for _ in range(2):
            tower.clock.advance(hours=1)
            tower.chronos.tick()
        assert [p.state for p in tower.plans()] == [PlanState.CANCELLED, PlanState.QUEUED]
        cancelled = tower.plans()[0]
        assert "nightly" in cancelled.reason
        with tower.store.transaction() as tx:
            assert tx.audit(cancelled.plan_id)[-1].kind == "plan.cancelled"
            records = tx.audit(cancelled.plan_id)
            fault = tower.sealer.verify(
                cancelled.plan_id, records, count=cancelled.audit_count, head=cancelled.audit_head
            )
        assert fault is None


class TestAScheduleThatCannotBeFired:
    def test_is_recorded_and_stops_neither_itself_nor_the_others(self, tower):
        wrong = tower.add("wrong", cron="0 * * * *")
        tower.add("right", cron="1 13 * * *")
        with tower.store.transaction() as tx:
            held = tx.schedule("default", "wrong", lock=True)
            spoilt = type(held)(**{f: getattr(held, f) for f in held.__slots__} | {"request": {"goal": ""}})
            tx.write_schedule(spoilt)
        tower.clock.advance(hours=1, minutes=1)
        assert tower.chronos.tick() == 2
        (failed,) = tower.chronos.history("wrong")
        assert (failed.outcome, failed.plan_id) == (X, None)
        assert failed.reason.startswith("invalid_goal: The goal is empty.")
        assert tower.outcomes("right") == [F]
        assert tower.chronos.show("wrong").next_at == wrong.next_at + HOUR

    @pytest.mark.parametrize("column", [{"cron": "every day"}, {"timezone": "Mars/Base"}])
    def test_for_what_its_row_says_is_never_due_again(self, tower, column):
        tower.add("wrong")
        with tower.store.transaction() as tx:
            held = tx.schedule("default", "wrong", lock=True)
            tx.write_schedule(type(held)(**{f: getattr(held, f) for f in held.__slots__} | column))
        tower.clock.advance(hours=1)
        assert tower.chronos.tick() == 1
        assert tower.outcomes("wrong") == [X]
        assert tower.chronos.show("wrong").next_at is None
        assert tower.chronos.upcoming("wrong") == []
        assert tower.chronos.tick() == 0

    def test_for_a_reason_that_nobody_foresaw_is_recorded_too(self, tower, monkeypatch):
        tower.add("wrong")
        tower.add("right", cron="1 13 * * *")
        submit = tower.conductor.submit_within

        def breaks(tx, asked, **rest):
            if asked.metadata["schedule"] == "wrong":
                submit(tx, asked, **rest)
                raise ZeroDivisionError("a defect")
            return submit(tx, asked, **rest)

        monkeypatch.setattr(tower.conductor, "submit_within", breaks)
        tower.clock.advance(hours=1, minutes=1)
        tower.chronos.tick()
        (failed,) = tower.chronos.history("wrong")
        assert (failed.outcome, failed.reason) == (X, "fault: ZeroDivisionError: a defect")
        assert tower.outcomes("right") == [F]
        assert len(tower.plans()) == 1


class TestATickFromOutside:
    def test_is_fired_once_however_often_it_is_told(self, tower):
        tower.add()
        fired = [tower.chronos.trigger("nightly", due_at=NOON - MINUTE) for _ in range(3)]
        assert len({f.plan_id for f in fired}) == len(tower.plans()) == 1

    def test_under_a_key_is_fired_once(self, tower):
        tower.add()
        first = tower.chronos.trigger("nightly", key="monday")
        tower.end(tower.plans()[0])
        tower.clock.advance(minutes=5)
        assert tower.chronos.trigger("nightly", key="monday") == first
        assert tower.chronos.trigger("nightly", key="tuesday").plan_id != first.plan_id

    def test_is_not_fired_again_when_its_time_comes(self, tower):
        tower.add()
        tower.clock.advance(minutes=59, seconds=30)
        fired = tower.chronos.trigger("nightly", due_at=NOON + HOUR)
        tower.clock.advance(minutes=1)
        tower.chronos.tick()
        assert tower.chronos.history("nightly") == [fired]

    def test_is_fired_however_late_and_though_the_schedule_rests(self, tower):
        tower.add(misfire=Misfire.SKIP, paused=True)
        assert tower.chronos.trigger("nightly", due_at=NOON - 5 * HOUR).outcome is F
        again = tower.chronos.run_now("nightly")
        assert (again.outcome, again.plan_id) == (V, None)

    def test_leaves_the_schedule_s_policies_as_they_were(self, tower):
        made = tower.add(misfire=Misfire.SKIP)
        tower.chronos.run_now("nightly")
        assert tower.chronos.show("nightly").misfire is Misfire.SKIP
        assert tower.chronos.show("nightly").next_at == made.next_at

    def test_that_lies_ahead_or_has_no_zone_is_refused(self, tower):
        tower.add()
        with pytest.raises(InvalidSchedule, match="not come yet"):
            tower.chronos.trigger("nightly", due_at=NOON + 2 * HOUR)
        with pytest.raises(InvalidSchedule, match="zone"):
            tower.chronos.trigger("nightly", due_at=NOON.replace(tzinfo=None))


class TestASchedule:
    def test_that_rests_fires_nothing_and_does_not_make_up_for_it(self, tower):
        tower.add(misfire=Misfire.ALL)
        tower.chronos.pause("nightly")
        tower.clock.advance(hours=5, minutes=1)
        assert tower.chronos.tick() == 0
        assert tower.chronos.resume("nightly").next_at == NOON + 6 * HOUR
        assert tower.outcomes() == []

    def test_is_changed_from_now_on(self, tower):
        tower.add()
        changed = tower.chronos.change(
            "nightly", Change(cron="30 2 * * *", timezone="Europe/Berlin", request={"depth": 4})
        )
        assert changed.request == {**GOAL, "depth": 4}
        assert changed.next_at == datetime(2026, 3, 21, 1, 30, tzinfo=UTC)
        assert tower.chronos.upcoming("nightly", 10)[8] == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
        with pytest.raises(Invalid):
            tower.chronos.change("nightly", Change(request={"depth": 40}))
        assert tower.chronos.show("nightly") == changed

    @pytest.mark.parametrize(
        "wrong", [{"cron": "0 0"}, {"timezone": "Nowhere"}, {"name": "a b"}, {"request": {"depth": 7}}]
    )
    def test_that_could_not_be_fired_is_not_added(self, tower, wrong):
        with pytest.raises(Invalid):
            tower.add(**wrong)
        assert tower.chronos.list() == []

    def test_of_a_taken_name_is_refused_and_one_that_is_not_there_not_found(self, tower):
        tower.add()
        with pytest.raises(Conflict, match="already"):
            tower.add()
        tower.chronos.remove("nightly")
        for verb in (tower.chronos.show, tower.chronos.pause, tower.chronos.remove, tower.chronos.run_now):
            with pytest.raises(NotFound):
                verb("nightly")

    def test_that_is_declared_is_added_once_changed_where_it_differs_and_left_to_rest(self, tower):
        declared = Draft("nightly", "@daily", GOAL)
        first = tower.chronos.put(declared)
        assert tower.chronos.put(declared) == first
        tower.chronos.pause("nightly")
        changed = tower.chronos.put(Draft("nightly", "@hourly", GOAL))
        assert (changed.schedule_id, changed.cron, changed.paused) == (first.schedule_id, "@hourly", True)


class TestTheClock:
    @pytest.mark.parametrize(
        ("day", "hours"),
        [(datetime(2026, 3, 8, tzinfo=UTC), 23), (datetime(2026, 11, 1, tzinfo=UTC), 25)],
    )
    def test_that_is_changed_fires_a_daily_job_once_and_a_frequent_one_every_quarter(self, tower, day, hours):
        tower.clock.at = day + timedelta(hours=4, minutes=1)  # a minute past midnight in New York
        tower.add("daily", "30 2 * * *", timezone="America/New_York", overlap=Overlap.CANCEL)
        tower.add("twice", "30 1 * * *", timezone="America/New_York", overlap=Overlap.CANCEL)
        tower.add("often", "*/15 * * * *", timezone="America/New_York", overlap=Overlap.CANCEL)
        for _ in range((hours - 1) * 4):
            tower.clock.advance(minutes=15)
            tower.chronos.tick()
        assert tower.outcomes("daily") == [F]
        assert tower.outcomes("twice") == [F]
        assert tower.outcomes("often") == [F] * ((hours - 1) * 4)


class ClockChange(NamedTuple):
    """A day on which New York puts its clock on or back."""

    first: datetime
    """A full hour, shortly before."""
    daily: str
    """A fixed time that does not come, or comes twice."""
    daily_at: datetime
    """When that is due, once."""


CHANGES = {
    "put on": ClockChange(
        datetime(2026, 3, 8, 6, tzinfo=UTC), "30 2 * * *", datetime(2026, 3, 8, 7, tzinfo=UTC)
    ),
    "put back": ClockChange(
        datetime(2026, 11, 1, 5, tzinfo=UTC), "30 1 * * *", datetime(2026, 11, 1, 5, 30, tzinfo=UTC)
    ),
}
POLICIES = list(product(Misfire, Overlap))
AFTER_AN_OUTAGE = {
    (Misfire.SKIP, Overlap.SKIP): (M, M, M),
    (Misfire.SKIP, Overlap.QUEUE): (M, M, M),
    (Misfire.SKIP, Overlap.CANCEL): (M, M, M),
    (Misfire.ONCE, Overlap.SKIP): (M, M, V),
    (Misfire.ONCE, Overlap.QUEUE): (M, M, Q),
    (Misfire.ONCE, Overlap.CANCEL): (M, M, F),
    (Misfire.ALL, Overlap.SKIP): (V, V, V),
    (Misfire.ALL, Overlap.QUEUE): (Q, Q, Q),
    (Misfire.ALL, Overlap.CANCEL): (V, V, F),
}
"""What becomes of three ticks that nobody was there for, while the plan of the tick before them lives."""

# --- several replicas on a real Postgres ------------------------------------------------------------------------


class Fleet:
    """Replicas as processes, by one clock."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self.file = folder / "clock"
        self.set(NOON)
        self.running: list[subprocess.Popen] = []

    def set(self, at: datetime) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(at.isoformat())
        fresh.rename(self.file)
        self.at = at

    def start(self, *options: str) -> subprocess.Popen:
        command = [sys.executable, "tests/contract/chronos_replica.py", self.dsn, str(self.file), *options]
        made = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.running.append(made)
        return made

    def close(self) -> None:
        for process in self.running:
            process.kill()
        for process in self.running:
            process.communicate()


def said(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


@pytest.fixture
def fleet(dsn, tmp_path) -> Iterator[Fleet]:
    made = Fleet(dsn, tmp_path)
    yield made
    made.close()


def settled(hand: psycopg.Connection, at: datetime, *, but: int = 0) -> None:
    """Wait until nothing is due, except for schedules that a replica holds."""
    query = "SELECT count(*) FROM schedule WHERE next_at <= %s"
    until = time.monotonic() + 60
    while hand.execute(query, [at]).fetchone()[0] > but:
        assert time.monotonic() < until, "ticks stay due"
        time.sleep(0.01)


@pytest.mark.postgres
class TestReplicas:
    SCHEDULES = 50

    def keep(self, dsn, sealer):
        store = PgStore(dsn, size=2, now=lambda: NOON)
        conductor = Conductor(store, sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.5, rules=Rules())
        chronos = Chronos(store, conductor)
        for n in range(self.SCHEDULES):
            cron = ("* * * * *", "*/2 * * * *")[n % 2]
            chronos.add(Draft(f"s{n}", cron, GOAL, misfire=Misfire.ALL, overlap=Overlap.CANCEL))
        store.close()

    def test_that_are_killed_and_stopped_in_a_transaction_lose_no_tick_and_fire_none_twice(
        self, dsn, fleet, sealer
    ):
        self.keep(dsn, sealer)
        doomed = [fleet.start("--hang", str(n)) for n in (1, 2, 3)]
        frozen = fleet.start("--hang", "4")
        assert [said(p) for p in (*doomed, frozen)] == ["ready"] * 4
        minutes = 6
        with psycopg.connect(dsn, autocommit=True) as hand:
            fleet.set(NOON + MINUTE)
            for process in doomed:
                assert said(process) == "inside"
                process.send_signal(signal.SIGKILL)
            assert said(frozen) == "inside"
            os.kill(frozen.pid, signal.SIGSTOP)
            steady = [fleet.start(), fleet.start(), fleet.start()]
            assert [said(p) for p in steady] == ["ready"] * 3
            for minute in range(1, minutes):
                fleet.set(NOON + minute * MINUTE)
                settled(hand, fleet.at, but=1)  # what the frozen one holds stays due; the others pass it by
            os.kill(frozen.pid, signal.SIGCONT)
            frozen.stdin.write("\n")
            frozen.stdin.flush()
            fleet.set(NOON + minutes * MINUTE)
            settled(hand, fleet.at)
            rows = hand.execute(
                "SELECT s.name, f.due_at, f.outcome, f.plan_id FROM firing f JOIN schedule s USING (schedule_id)"
            ).fetchall()
            plans = hand.execute("SELECT count(*) FROM plan").fetchone()[0]
            living = hand.execute("SELECT count(*) FROM plan WHERE state = 'queued'").fetchone()[0]
            steps = hand.execute("SELECT count(*), count(DISTINCT plan_id) FROM step").fetchone()
            rung = hand.execute("SELECT count(DISTINCT plan_id) FROM outbox").fetchone()[0]
        wanted = {
            (f"s{n}", NOON + m * MINUTE)
            for n in range(self.SCHEDULES)
            for m in range(1, minutes + 1)
            if n % 2 == 0 or m % 2 == 0
        }
        assert {row[:2] for row in rows} == wanted
        assert len(rows) == len(wanted) == 225
        fired = [plan for _, _, outcome, plan in rows if outcome == "fired"]
        assert None not in fired
        assert len(set(fired)) == len(fired) == plans == rung
        assert steps == (plans, plans)
        assert living == self.SCHEDULES
        # the schedule that was held lets the newest of its ticks stand for the others; every other tick is a plan
        behind = {name for name, _, outcome, _ in rows if outcome != "fired"}
        assert len(behind) <= 1
        assert {outcome for *_, outcome, _ in rows} <= {"fired", "skipped_overlap"}

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_of_which_one_is_killed_and_one_paused_over_a_change_of_the_clock_and_an_outage_fire_each_tick_as_its_policy_says(
        self, dsn, fleet, sealer, change
    ):
        fleet.set(change.first - timedelta(minutes=10))
        with contextlib.closing(PgStore(dsn, size=2, now=lambda: fleet.at)) as store:
            conductor = Conductor(store, sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.5, rules=Rules())
            chronos = Chronos(store, conductor)
            for misfire, overlap in POLICIES:
                rest = {"timezone": "America/New_York", "misfire": misfire, "overlap": overlap}
                chronos.add(Draft(f"hourly-{misfire}-{overlap}", "0 * * * *", GOAL, **rest))
                chronos.add(Draft(f"daily-{misfire}-{overlap}", change.daily, GOAL, **rest))
        with psycopg.connect(dsn, autocommit=True) as hand:
            # one is killed with a firing in hand; the other fires all the rest, and is paused with the last in hand
            killed = fleet.start("--hang", "1")
            assert said(killed) == "ready"
            fleet.set(change.first)
            assert said(killed) == "inside"
            paused = fleet.start("--hang", str(len(POLICIES)))
            assert said(paused) == "ready"
            killed.send_signal(signal.SIGKILL)
            assert said(paused) == "inside"
            os.kill(paused.pid, signal.SIGSTOP)
            # nobody is there for three hours, in which the clock is changed
            fleet.set(change.first + 3 * HOUR + MINUTE * 30)
            assert said(fleet.start()) == "ready"
            settled(hand, fleet.at, but=1)
            os.kill(paused.pid, signal.SIGCONT)
            paused.stdin.write("\n")
            paused.stdin.flush()
            settled(hand, fleet.at)
            rows = hand.execute(
                "SELECT s.name, f.due_at, f.outcome, f.plan_id FROM firing f JOIN schedule s USING (schedule_id)"
                " ORDER BY f.due_at"
            ).fetchall()
            plans = {row[0] for row in hand.execute("SELECT plan_id FROM plan").fetchall()}
            cancelled = hand.execute("SELECT count(*) FROM plan WHERE state = 'cancelled'").fetchone()[0]

        told = {name: [(at, outcome) for named, at, outcome, _ in rows if named == name] for name, *_ in rows}
        hours = [change.first + n * HOUR for n in range(4)]
        for misfire, overlap in POLICIES:
            missed = AFTER_AN_OUTAGE[misfire, overlap]
            assert told[f"hourly-{misfire}-{overlap}"] == list(zip(hours, (F, *missed), strict=True))
            alone = M if misfire is Misfire.SKIP else F
            assert told[f"daily-{misfire}-{overlap}"] == [(change.daily_at, alone)]
        fired = [plan for *_, outcome, plan in rows if outcome == F]
        assert len(fired) == len(set(fired)) == len(plans)
        assert set(fired) == plans
        assert cancelled == sum(outcomes[-1] is F for outcomes in AFTER_AN_OUTAGE.values())

    def test_two_triggers_of_one_tick_make_one_plan(self, dsn, sealer):
        store = PgStore(dsn, size=8)
        conductor = Conductor(store, sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.5, rules=Rules())
        chronos = Chronos(store, conductor)
        chronos.add(Draft("nightly", "@daily", GOAL, paused=True, overlap=Overlap.CANCEL))
        barrier, plans = threading.Barrier(6), []

        def trigger():
            barrier.wait()
            plans.append(chronos.trigger("nightly", due_at=NOON - HOUR).plan_id)

        threads = [threading.Thread(target=trigger) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with store.transaction() as tx:
            (plan,) = tx.plans()
        store.close()
        assert plans == [plan.plan_id] * 6

    def test_one_runs_by_the_database_s_clock_until_it_is_told_to_stop(self, dsn, sealer):
        store = PgStore(dsn, size=4)
        conductor = Conductor(store, sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.5, rules=Rules())
        chronos = Chronos(store, conductor, catch_up=CatchUp())
        chronos.add(Draft("nightly", "* * * * *", GOAL))
        with psycopg.connect(dsn, autocommit=True) as hand:
            hand.execute("UPDATE schedule SET next_at = next_at - interval '1 minute'")
        stopping = threading.Event()
        thread = threading.Thread(target=forever, args=(store, conductor, stopping))
        thread.start()
        until = time.monotonic() + 60
        while not chronos.history("nightly") and time.monotonic() < until:
            time.sleep(0.02)
        stopping.set()
        thread.join(60)
        store.close()
        assert not thread.is_alive()
