"""What every store promises about schedules and firings. Each test runs on Postgres and on its twin in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from orchestrator.domain.plan import PlanState
from orchestrator.domain.schedule import Firing, FiringOutcome, Misfire, Overlap, Schedule
from tests.clock import NOON
from tests.contract.bench import HOUR, Bench, look_of_plan, new_plan
from tests.contract.test_store import STORES, bench_of

MINUTE = timedelta(minutes=1)


class Undo(Exception):
    """What lets a transaction fail."""


@pytest.fixture(params=STORES)
def bench(request) -> Iterator[Bench]:
    """A store of this test's own."""
    with bench_of(request.param, request) as made:
        yield made


def draft(name: str = "nightly", **rest: object) -> Schedule:
    fields = {
        "tenant": "default",
        "cron": "@daily",
        "timezone": "Europe/Berlin",
        "request": {"goal": "Why? 🔒"},
    }
    return Schedule(str(uuid4()), name=name, **{**fields, **rest})


def kept(bench: Bench, name: str = "nightly", **rest: object) -> Schedule:
    with bench.store.transaction() as tx:
        made = draft(name, **rest)
        assert tx.add_schedule(made)
        return tx.schedule(made.tenant, name)


def took(bench: Bench) -> str | None:
    with bench.store.transaction() as tx:
        taken = tx.take_schedule()
        return taken.name if taken else None


class TestASchedule:
    def test_is_read_as_it_was_written(self, bench):
        made = draft(
            misfire=Misfire.ALL, overlap=Overlap.QUEUE, paused=True, next_at=NOON, last_plan_id=str(uuid4())
        )
        with bench.store.transaction() as tx:
            assert tx.add_schedule(made)
        with bench.store.transaction() as tx:
            assert tx.schedule("default", "nightly") == replace(made, created_at=NOON)
            assert tx.schedule("default", made.schedule_id, lock=True) == replace(made, created_at=NOON)

    def test_of_a_taken_name_is_not_added_except_by_another_tenant(self, bench):
        kept(bench)
        with bench.store.transaction() as tx:
            assert not tx.add_schedule(draft())
            assert tx.add_schedule(draft(tenant="acme"))
            assert [s.tenant for s in tx.schedules()] == ["acme", "default"]
            assert [s.tenant for s in tx.schedules("acme")] == ["acme"]

    def test_of_another_tenant_is_not_found(self, bench):
        made = kept(bench)
        with bench.store.transaction() as tx:
            assert tx.schedule("acme", "nightly") is None
            assert tx.schedule("acme", made.schedule_id) is None

    def test_that_is_written_keeps_its_name_and_birth(self, bench):
        made = kept(bench)
        changed = replace(
            made, cron="@hourly", timezone="UTC", request={"goal": "How?"}, misfire=Misfire.SKIP, next_at=NOON
        )
        with bench.store.transaction() as tx:
            tx.write_schedule(changed)
        with bench.store.transaction() as tx:
            assert tx.schedule("default", "nightly") == changed

    def test_is_removed_with_its_firings_and_without_its_plans(self, bench):
        made, plan_id = kept(bench), new_plan(bench.store)
        with bench.store.transaction() as tx:
            tx.add_firing(Firing(made.schedule_id, NOON, NOON, FiringOutcome.FIRED, plan_id))
            assert tx.remove_schedule(made.schedule_id)
            assert not tx.remove_schedule(made.schedule_id)
            assert tx.firings(made.schedule_id) == []
            assert tx.plan(plan_id) is not None

    def test_is_as_before_when_its_transaction_fails(self, bench):
        made = kept(bench)
        with suppress(Undo), bench.store.transaction() as tx:
            tx.add_firing(Firing(made.schedule_id, NOON, NOON))
            tx.remove_schedule(made.schedule_id)
            raise Undo
        with bench.store.transaction() as tx:
            assert tx.schedule("default", "nightly") == made
            assert tx.firings(made.schedule_id) == []


class TestTakingASchedule:
    def test_gives_the_one_that_is_due_longest(self, bench):
        kept(bench, "later", next_at=NOON)
        kept(bench, "first", next_at=NOON - MINUTE)
        assert took(bench) == "first"

    @pytest.mark.parametrize(
        "rest", [{"next_at": NOON + MINUTE}, {"next_at": None}, {"next_at": NOON, "paused": True}]
    )
    def test_gives_none_that_is_not_due(self, bench, rest):
        kept(bench, **rest)
        assert took(bench) is None

    @pytest.mark.parametrize("state", PlanState)
    def test_gives_one_whose_waiting_tick_may_begin(self, bench, state):
        plan_id = new_plan(bench.store)
        bench.place_plan(plan_id, **look_of_plan(state, bench.clock))
        made = kept(bench, next_at=NOON + HOUR, last_plan_id=plan_id)
        assert took(bench) is None
        with bench.store.transaction() as tx:
            tx.add_firing(Firing(made.schedule_id, NOON, NOON))
        lives = state in {PlanState.QUEUED, PlanState.RUNNING, PlanState.WAITING_APPROVAL}
        assert took(bench) == (None if lives else "nightly")

    def test_is_foretold(self, bench):
        with bench.store.transaction() as tx:
            assert tx.next_tick_at() is None
        kept(bench, "paused", next_at=NOON - HOUR, paused=True)
        kept(bench, "never")
        kept(bench, "b", next_at=NOON + HOUR)
        kept(bench, "a", next_at=NOON + MINUTE)
        with bench.store.transaction() as tx:
            assert tx.next_tick_at() == NOON + MINUTE


class TestAFiring:
    def test_is_written_once_for_each_tick_and_each_key(self, bench):
        made, other = kept(bench), kept(bench, "other")
        with bench.store.transaction() as tx:
            assert tx.add_firing(Firing(made.schedule_id, NOON, NOON, key="a"))
            assert not tx.add_firing(Firing(made.schedule_id, NOON, NOON, key="b"))
            assert not tx.add_firing(Firing(made.schedule_id, NOON + MINUTE, NOON, key="a"))
            assert tx.add_firing(Firing(made.schedule_id, NOON + MINUTE, NOON))
            assert tx.add_firing(Firing(made.schedule_id, NOON + HOUR, NOON))
            assert tx.add_firing(Firing(other.schedule_id, NOON, NOON, key="a"))

    def test_is_found_by_its_key_before_its_tick(self, bench):
        made = kept(bench)
        keyed, plain = (
            Firing(made.schedule_id, NOON, NOON, key="a"),
            Firing(made.schedule_id, NOON + MINUTE, NOON),
        )
        with bench.store.transaction() as tx:
            tx.add_firing(keyed)
            tx.add_firing(plain)
            assert tx.firing(made.schedule_id, NOON + MINUTE) == plain
            assert tx.firing(made.schedule_id, NOON + MINUTE, key="a") == keyed
            assert tx.firing(made.schedule_id, NOON, key="b") == keyed
            assert tx.firing(made.schedule_id, NOON + HOUR, key="b") is None

    def test_ends_once(self, bench):
        made, plan_id = kept(bench), new_plan(bench.store)
        with bench.store.transaction() as tx:
            tx.add_firing(Firing(made.schedule_id, NOON - HOUR, NOON - HOUR, reason="waits"))
            assert tx.end_firing(made.schedule_id, NOON - HOUR, FiringOutcome.FIRED, plan_id=plan_id)
            assert not tx.end_firing(made.schedule_id, NOON - HOUR, FiringOutcome.FAILED, reason="late")
            assert tx.firings(made.schedule_id) == [
                Firing(made.schedule_id, NOON - HOUR, NOON, FiringOutcome.FIRED, plan_id)
            ]

    def test_is_listed_the_newest_tick_first(self, bench):
        made = kept(bench)
        with bench.store.transaction() as tx:
            for n in (1, 3, 2):
                tx.add_firing(Firing(made.schedule_id, NOON + n * MINUTE, NOON))
            skipped = Firing(made.schedule_id, NOON, NOON, FiringOutcome.SKIPPED_OVERLAP, reason="busy")
            tx.add_firing(skipped)
            assert [f.due_at.minute for f in tx.firings(made.schedule_id, limit=3)] == [3, 2, 1]
            assert tx.firings(made.schedule_id, outcome=FiringOutcome.SKIPPED_OVERLAP) == [skipped]
