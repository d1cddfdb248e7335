"""What every store promises. Each test runs on Postgres and on its twin in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from psycopg.errors import UniqueViolation

from orchestrator.domain.budget import Budget, Spent
from orchestrator.domain.consensus import Ballot, Decision, Verdict, Why, threshold
from orchestrator.domain.errors import ForeignTenant, InvalidRequest
from orchestrator.domain.fairness import Tenant
from orchestrator.domain.lifecycle import (
    ALIVE,
    PLAN_ENDS,
    PLAN_MOVES,
    STEP_MOVES,
    PlanMove,
    StepMove,
)
from orchestrator.domain.plan import (
    Agent,
    Approval,
    ApprovalState,
    Call,
    CallState,
    Chain,
    DeadLetter,
    Escalation,
    Evidence,
    Fact,
    NewStep,
    Notification,
    NotificationState,
    PlanState,
    Ruling,
    Semantics,
    Stage,
    Step,
    StepRef,
    StepState,
)
from orchestrator.domain.schedule import Schedule
from orchestrator.domain.stop import Stop
from orchestrator.messages import Message, Topic
from orchestrator.ports import Completion, Store, Tx
from tests.clock import NOON
from tests.contract.bench import (
    HOUR,
    LEASE,
    Bench,
    InMemoryBench,
    PostgresBench,
    asked,
    claim_one,
    complete_one,
    look_of,
    look_of_plan,
    new_plan,
    new_step,
    new_steps,
)

SECOND = timedelta(seconds=1)
STORES = [pytest.param("postgres", marks=pytest.mark.postgres), "inmemory"]
TEXT = "A lock is held 🔒 by one — ‘one’, 漢字, עברית, e\u0301, \u2028 and \U0001f9d1\u200d\U0001f680."
LONG = TEXT * 4_000


@contextmanager
def bench_of(kind: str, request: pytest.FixtureRequest) -> Iterator[Bench]:
    if kind == "inmemory":
        bench: Bench = InMemoryBench()
        yield bench
        return
    server = request.getfixturevalue("postgres_server")
    dsn = server.create()
    bench = PostgresBench(dsn)
    yield bench
    bench.close()
    server.drop(dsn)


@pytest.fixture(params=STORES)
def bench(request) -> Iterator[Bench]:
    """A store of this test's own."""
    with bench_of(request.param, request) as made:
        yield made


@pytest.fixture(scope="module", params=STORES)
def shared(request) -> Iterator[Bench]:
    """A store for tests that look only at a plan of their own."""
    with bench_of(request.param, request) as made:
        yield made


class Undo(Exception):
    """What lets a transaction fail."""


@contextmanager
def undone(store: Store) -> Iterator[Tx]:
    """A transaction that fails at its very end."""
    with suppress(Undo), store.transaction() as tx:
        yield tx
        raise Undo


def step_of(bench, ref):
    with bench.store.transaction() as tx:
        return tx.step(ref)


def plan_of(bench, plan_id):
    with bench.store.transaction() as tx:
        return tx.plan(plan_id)


def claim(bench, ref, holder=7):
    with bench.store.transaction() as tx:
        taken = claim_one(tx, ref, holder=holder)
        return taken and taken[1]


def complete(bench, ref, claim=1, verdict="found", **rest):
    with bench.store.transaction() as tx:
        return complete_one(tx, ref, claim, verdict, **rest)


def move(bench, ref, name, **rest):
    with bench.store.transaction() as tx:
        return tx.move_step(ref, name, **rest)


def drain(bench, limit=100):
    with bench.store.transaction() as tx:
        return list(tx.take_outbox(limit))


def nobody() -> StepRef:
    return StepRef(str(uuid4()), 1)


class TestTime:
    def test_stands_still_within_a_transaction(self, shared):
        with shared.store.transaction() as tx:
            before = tx.now()
            shared.clock.advance(seconds=1)
            assert tx.now() == before == shared.clock() - SECOND
        with shared.store.transaction() as tx:
            assert tx.now() == shared.clock()

    def test_is_in_utc(self, shared):
        with shared.store.transaction() as tx:
            assert tx.now().utcoffset() == timedelta(0)


class TestAPlan:
    def test_comes_back_as_it_was_asked_for(self, shared):
        plan_id = str(uuid4())
        request = replace(
            asked(),
            goal=TEXT,
            tenant="ténant",
            requester="ada 👩",
            sources={"kind": "folder", "globs": ["*.md"], "weights": [0.1, 1, None, True]},
            metadata={"ticket": TEXT},
            priority=-3,
            budget=Budget(9, 10, 2**53, 12, 13),
            depth=5,
        )
        with shared.store.transaction() as tx:
            assert tx.add_plan(plan_id, request, shared.clock() + HOUR)
        with shared.store.transaction() as tx:
            found = tx.plan(plan_id)
            assert found == tx.lock_plan(plan_id)
        assert found.state is PlanState.QUEUED
        assert (found.goal, found.tenant, found.requester, found.depth, found.priority) == (
            TEXT,
            "ténant",
            "ada 👩",
            5,
            -3,
        )
        assert (found.sources, found.metadata, found.budget) == (
            request.sources,
            request.metadata,
            request.budget,
        )
        assert (found.created_at, found.deadline) == (shared.clock(), shared.clock() + HOUR)
        assert (found.spent, found.partial, found.reason, found.finished_at) == (Spent(), False, None, None)
        assert (found.step_count, found.event_count, found.audit_count, found.audit_head) == (0, 0, 0, b"")

    def test_that_is_not_there_is_none(self, shared):
        with shared.store.transaction() as tx:
            plan_id = str(uuid4())
            assert tx.plan(plan_id) is None
            assert tx.lock_plan(plan_id) is None
            assert tx.report(plan_id) is None
            for listed in (tx.steps, tx.events, tx.audit, tx.facts, tx.calls):
                assert not listed(plan_id)
            assert not tx.move_plan(plan_id, PlanMove.START)

    def test_is_made_once_per_tenant_and_key(self, shared):
        first, second, third = (str(uuid4()) for _ in range(3))
        request, deadline = asked(tenant="t", key="k"), shared.clock() + HOUR
        with shared.store.transaction() as tx:
            assert tx.plan_of_key("t", "k") is None
            assert tx.add_plan(first, request, deadline)
            assert not tx.add_plan(second, request, deadline)
        with shared.store.transaction() as tx:
            assert not tx.add_plan(second, replace(request, goal="Another?"), deadline)
            assert tx.plan_of_key("t", "k") == (first, request.fingerprint())
            assert tx.plan(second) is None
            assert tx.plan_of_key("u", "k") is None
            assert tx.add_plan(third, replace(request, tenant="u"), deadline)
            assert tx.plan_of_key("u", "k")[0] == third
            assert tx.plan_of_key("t", "k")[0] == first

    def test_without_a_key_is_made_each_time(self, shared):
        assert new_plan(shared.store) != new_plan(shared.store)

    def test_frees_its_key_when_it_was_rolled_back(self, shared):
        request = asked(key="rolled back")
        with undone(shared.store) as tx:
            tx.add_plan(str(uuid4()), request, shared.clock())
        with shared.store.transaction() as tx:
            assert tx.plan_of_key(request.tenant, "rolled back") is None
            assert tx.add_plan(str(uuid4()), request, shared.clock())

    def test_stands_in_the_list_newest_first(self, bench):
        made = []
        for tenant in ("a", "b", "a", "a"):
            bench.clock.advance(seconds=1)
            made.append(new_plan(bench.store, tenant=tenant))
        bench.place_plan(made[2], **look_of_plan(PlanState.FAILED, bench.clock))
        with bench.store.transaction() as tx:
            assert [p.plan_id for p in tx.plans()] == made[::-1]
            assert [p.plan_id for p in tx.plans(tenant="a")] == [made[3], made[2], made[0]]
            assert [p.plan_id for p in tx.plans(state="failed")] == [made[2]]
            assert [p.plan_id for p in tx.plans(tenant="a", state="queued", limit=1)] == [made[3]]
            assert not tx.plans(tenant="b", state="failed")

    def test_stands_in_the_list_behind_those_of_a_later_time_or_a_lower_id(self, bench):
        made = []
        for seconds in (0, 1, 0, 0, 1):
            bench.clock.advance(seconds=seconds)
            made.append(new_plan(bench.store))
        with bench.store.transaction() as tx:
            whole = tx.plans()
            assert [p.plan_id for p in whole] == [made[4], *sorted(made[1:4]), made[0]]
            for number, plan in enumerate(whole, start=1):
                behind = (plan.created_at, plan.plan_id)
                assert list(tx.plans(behind=behind)) == whole[number:]
                assert list(tx.plans(behind=behind, limit=1)) == whole[number : number + 1]
            assert not tx.plans(behind=(whole[0].created_at, whole[0].plan_id), state="failed")

    @pytest.mark.parametrize("name", PlanMove)
    @pytest.mark.parametrize("state", PlanState)
    def test_makes_a_move_only_from_its_states(self, shared, name, state):
        before, after = PLAN_MOVES[name]
        plan_id = new_plan(shared.store)
        shared.place_plan(plan_id, **look_of_plan(state, shared.clock), reason="old")
        was = plan_of(shared, plan_id)
        shared.clock.advance(seconds=1)
        with shared.store.transaction() as tx:
            moved = tx.move_plan(plan_id, name, reason="new")
            seen = tx.plan(plan_id)
        assert moved is (state in before)
        assert seen == plan_of(shared, plan_id)
        if moved:
            assert (seen.state, seen.reason) == (after, "new")
            assert seen.finished_at == (shared.clock() if after in PLAN_ENDS else None)
        else:
            assert seen == was

    def test_stays_partial_once_it_is(self, shared):
        plan_id = new_plan(shared.store)
        with shared.store.transaction() as tx:
            assert tx.move_plan(plan_id, PlanMove.START)
            assert not tx.plan(plan_id).partial
            tx.mark_partial(plan_id)
            assert tx.plan(plan_id).partial
        with shared.store.transaction() as tx:
            assert tx.move_plan(plan_id, PlanMove.SUCCEED, partial=False)
        assert plan_of(shared, plan_id).partial

    def test_becomes_partial_with_a_move_that_says_so(self, shared):
        plan_id = new_plan(shared.store)
        with shared.store.transaction() as tx:
            tx.move_plan(plan_id, PlanMove.START)
            tx.move_plan(plan_id, PlanMove.SUCCEED, partial=True)
        assert plan_of(shared, plan_id).partial

    def test_adds_up_what_it_spends_and_gives_back(self, shared):
        plan_id = new_plan(shared.store)
        with shared.store.transaction() as tx:
            tx.lock_plan(plan_id)
            tx.spend(plan_id, Spent(calls=2, tokens=100, cost_uusd=7))
            tx.spend(plan_id, Spent(calls=1, tokens=1))
            assert tx.plan(plan_id).spent == Spent(0, 3, 101, 7)
        with shared.store.transaction() as tx:
            tx.lock_plan(plan_id)
            tx.spend(plan_id, Spent(calls=-1, tokens=-50, cost_uusd=-7))
        assert plan_of(shared, plan_id).spent == Spent(0, 2, 51, 0)


class TestSteps:
    def test_are_numbered_on_and_counted_as_spent(self, shared):
        plan_id = new_plan(shared.store)
        brief = {"question": TEXT, "deep": {"list": [1, 2.5, None]}}
        with shared.store.transaction() as tx:
            tx.lock_plan(plan_id)
            first = tx.add_steps(plan_id, [NewStep(Agent.ROUTER)], max_attempts=3)
            more = tx.add_steps(
                plan_id,
                [NewStep(Agent.RESEARCHER, round=2, brief=brief), NewStep(Agent.KEEPER, round=2)],
                max_attempts=4,
            )
            assert not tx.add_steps(plan_id, [], max_attempts=4)
        with shared.store.transaction() as tx:
            found = tx.steps(plan_id)
            assert [tx.step(s.ref) for s in found] == list(found)
        assert list(found) == [*first, *more]
        assert [s.number for s in found] == [1, 2, 3]
        assert [s.agent for s in found] == [Agent.ROUTER, Agent.RESEARCHER, Agent.KEEPER]
        assert {s.state for s in found} == {StepState.READY}
        assert [s.max_attempts for s in found] == [3, 4, 4]
        assert (found[1].round, found[1].brief) == (2, brief)
        assert {s.offered_at for s in found} == {shared.clock()}
        assert {(s.attempt, s.claim, s.settled, s.holder) for s in found} == {(0, 0, False, None)}
        plan = plan_of(shared, plan_id)
        assert (plan.step_count, plan.spent.steps) == (3, 3)

    def test_are_numbered_on_in_a_later_transaction(self, shared):
        first = new_steps(shared.store, 2)
        more = new_steps(shared.store, 2, plan_id=first[0].plan_id)
        assert [ref.number for ref in [*first, *more]] == [1, 2, 3, 4]

    def test_planned_for_many_plans_in_one_transaction_are_numbered_apart(self, shared):
        plans = [new_plan(shared.store) for _ in range(3)]
        with shared.store.transaction() as tx:
            tx.lock_plans(plans)
            for count, plan_id in enumerate(plans, start=1):
                tx.add_steps(plan_id, [NewStep(Agent.KEEPER)] * count, max_attempts=2)
                tx.add_event(plan_id, "planned", {"count": count})
                tx.spend(plan_id, Spent(calls=count))
            assert [s.number for s in tx.steps(plans[2])] == [1, 2, 3]  # what was planned is found at once
            tx.add_steps(plans[0], [NewStep(Agent.KEEPER)], max_attempts=2)
        for count, plan_id in enumerate(plans, start=1):
            found = plan_of(shared, plan_id)
            more = 1 if count == 1 else 0
            assert (found.step_count, found.spent.steps, found.spent.calls) == (
                count + more,
                count + more,
                count,
            )
            with shared.store.transaction() as tx:
                assert [s.number for s in tx.steps(plan_id)] == [*range(1, count + more + 1)]
                assert [(e.number, e.body) for e in tx.events(plan_id)] == [(1, {"count": count})]

    def test_that_are_not_there_can_do_nothing(self, shared):
        ref = nobody()
        with shared.store.transaction() as tx:
            assert tx.step(ref) is None
            assert claim_one(tx, ref, holder=7) is None
            assert not tx.renew(ref, claim=1, lease=LEASE)
            assert not tx.move_step(ref, StepMove.CANCEL)
            assert not tx.mark_settled([ref])
            assert not complete_one(tx, ref)


class TestAClaim:
    def test_is_given_to_one_of_two(self, shared):
        ref = new_step(shared.store)
        given = claim(shared, ref, holder=7)
        assert (given.state, given.holder) == (StepState.RUNNING, 7)
        assert claim(shared, ref, holder=8) is None
        assert step_of(shared, ref) == given

    @pytest.mark.parametrize("state", PlanState)
    def test_is_given_only_in_a_plan_that_lives(self, shared, state):
        ref = new_step(shared.store)
        shared.place_plan(ref.plan_id, **look_of_plan(state, shared.clock))
        assert (claim(shared, ref) is not None) is (state in ALIVE)
        assert plan_of(shared, ref.plan_id).state is (
            PlanState.RUNNING if state is PlanState.QUEUED else state
        )

    def test_starts_its_plan_and_says_so_once(self, shared):
        refs = new_steps(shared.store, 2)
        plan_id = refs[0].plan_id
        shared.place_plan(plan_id, **look_of_plan(PlanState.QUEUED, shared.clock))
        for ref in refs:
            with shared.store.transaction() as tx:
                tx.lock_plan(plan_id)
                plan, _ = claim_one(tx, ref, holder=7)
                tx.add_event(plan_id, "claimed", {})
            assert (plan.state, plan.event_count) == (PlanState.RUNNING, refs.index(ref) + 1)
            shared_events = [(e.number, e.kind) for e in self.events(shared, plan_id)]
            assert shared_events == [(1, "plan.started"), (2, "claimed"), (3, "claimed")][: ref.number + 1]
        assert plan_of(shared, plan_id).event_count == 3

    def events(self, bench, plan_id):
        with bench.store.transaction() as tx:
            return tx.events(plan_id)

    def test_that_is_asked_for_as_the_first_is_not_given_again(self, shared):
        ref = new_step(shared.store)
        claim(shared, ref)
        move(shared, ref, StepMove.RESCUE, claim=1)
        with shared.store.transaction() as tx:
            assert claim_one(tx, ref, holder=7, first=True) is None
            assert claim_one(tx, ref, holder=7)

    def test_of_several_gives_those_that_are_ready_and_starts_each_plan_once(self, shared):
        one, other = new_steps(shared.store, 3), new_steps(shared.store, 2)
        for refs in (one, other):
            shared.place_plan(refs[0].plan_id, **look_of_plan(PlanState.QUEUED, shared.clock))
        claim(shared, one[1])
        asked_for = [other[1], one[2], nobody(), one[1], other[0], one[0], one[0]]
        with shared.store.at_once() as tx:
            taken = tx.claim_steps(asked_for, holder=7, lease=LEASE, first=True)
        assert set(taken) == {one[0], one[2], *other}
        assert {(plan.state, step.claim, step.holder) for plan, step in taken.values()} == {
            (PlanState.RUNNING, 1, 7)
        }
        assert [step.ref for _, step in taken.values()] == list(taken)
        for refs in (one, other):
            assert [(e.number, e.kind) for e in self.events(shared, refs[0].plan_id)] == [(1, "plan.started")]
            assert plan_of(shared, refs[0].plan_id).event_count == 1

    def test_that_runs_late_asks_no_more_questions(self, shared):
        ref = new_step(shared.store)
        shared.place_plan(ref.plan_id, deadline=shared.clock())
        assert claim(shared, ref) is None

    def test_carries_a_lease_and_its_first_number(self, shared):
        ref = new_step(shared.store)
        given = claim(shared, ref)
        assert (given.attempt, given.claim, given.run_after) == (1, 1, None)
        assert given.leased_until == shared.clock() + LEASE

    def test_grows_each_time_and_so_does_the_attempt(self, shared):
        ref = new_step(shared.store)
        counted = []
        for _ in range(3):
            given = claim(shared, ref)
            counted.append((given.claim, given.attempt))
            assert move(shared, ref, StepMove.RESCUE)
        assert counted == [(1, 1), (2, 2), (3, 3)]

    def test_grows_even_when_the_attempt_is_given_back(self, shared):
        ref = new_step(shared.store)
        claim(shared, ref)
        move(shared, ref, StepMove.SNOOZE, claim=1, delay=timedelta(0), return_attempt=True)
        given = claim(shared, ref)
        assert (given.claim, given.attempt) == (2, 1)

    @pytest.mark.parametrize("state", StepState)
    def test_is_given_only_on_a_step_that_is_ready(self, shared, state):
        ref = new_step(shared.store)
        shared.place(ref, **look_of(state, shared.clock))
        before = step_of(shared, ref)
        given = claim(shared, ref, holder=8)
        assert (given is not None) is (state is StepState.READY)
        assert step_of(shared, ref) == (given or before)

    def test_is_not_given_before_the_step_is_due(self, shared):
        ref = new_step(shared.store)
        shared.place(ref, run_after=shared.clock() + SECOND)
        assert claim(shared, ref) is None
        shared.clock.advance(seconds=1)
        assert claim(shared, ref).run_after is None

    def test_is_not_given_beyond_the_attempts(self, shared):
        ref = new_step(shared.store, max_attempts=2)
        for _ in range(2):
            assert claim(shared, ref)
            move(shared, ref, StepMove.RESCUE)
        assert claim(shared, ref) is None
        assert step_of(shared, ref).state is StepState.READY

    def test_is_renewed_only_by_its_own_number(self, shared):
        ref = new_step(shared.store)
        claim(shared, ref)
        move(shared, ref, StepMove.RESCUE)
        claim(shared, ref)
        shared.clock.advance(seconds=5)
        with shared.store.transaction() as tx:
            before = tx.step(ref)
            assert not tx.renew(ref, claim=1, lease=HOUR)
            assert not tx.renew(ref, claim=3, lease=HOUR)
            assert tx.step(ref) == before
            assert tx.renew(ref, claim=2, lease=HOUR)
            assert tx.step(ref) == replace(before, leased_until=shared.clock() + HOUR)

    def test_is_not_renewed_once_the_step_is_done(self, shared):
        ref = new_step(shared.store)
        claim(shared, ref)
        move(shared, ref, StepMove.COMPLETE, claim=1, verdict="found")
        with shared.store.transaction() as tx:
            assert not tx.renew(ref, claim=1, lease=LEASE)
        assert step_of(shared, ref).leased_until is None


WITH_A_MOVE = {
    StepMove.COMPLETE: {"verdict": "found"},
    StepMove.RETRY: {"delay": SECOND},
}


class TestAMove:
    @pytest.mark.parametrize("name", [m for m in StepMove if m is not StepMove.BEGIN])
    @pytest.mark.parametrize("state", StepState)
    def test_is_made_only_from_its_states(self, shared, name, state):
        before, after = STEP_MOVES[name]
        ref = new_step(shared.store)
        shared.place(ref, **look_of(state, shared.clock), reason="old")
        was = step_of(shared, ref)
        shared.clock.advance(seconds=1)
        moved = move(shared, ref, name, reason="new", **WITH_A_MOVE.get(name, {}))
        seen = step_of(shared, ref)
        assert moved is (state in before)
        if moved:
            assert (seen.state, seen.reason, seen.holder, seen.leased_until) == (after, "new", None, None)
            assert (seen.claim, seen.attempt) == (1, 1)
        else:
            assert seen == was

    @pytest.mark.parametrize("state", [s for s in StepState if s is not StepState.READY])
    def test_that_begins_is_refused_elsewhere_too(self, shared, state):
        ref = new_step(shared.store)
        shared.place(ref, **look_of(state, shared.clock))
        assert not move(shared, ref, StepMove.BEGIN)

    @pytest.mark.parametrize(
        "name", [m for m, (before, _) in STEP_MOVES.items() if StepState.RUNNING in before]
    )
    def test_is_fenced_by_the_claim(self, shared, name):
        ref = new_step(shared.store)
        claim(shared, ref)
        move(shared, ref, StepMove.RESCUE)
        claim(shared, ref)
        was = step_of(shared, ref)
        rest = WITH_A_MOVE.get(name, {})
        assert not move(shared, ref, name, claim=1, **rest)
        assert not move(shared, ref, name, claim=3, **rest)
        assert step_of(shared, ref) == was
        assert move(shared, ref, name, claim=2, **rest)
        assert step_of(shared, ref).state is STEP_MOVES[name][1]

    def test_returns_an_attempt_where_asked(self, shared):
        ref = new_step(shared.store)
        claim(shared, ref)
        assert move(shared, ref, StepMove.HOLD, claim=1, return_attempt=True)
        assert (step_of(shared, ref).attempt, step_of(shared, ref).claim) == (0, 1)

    def test_resets_the_attempts_where_asked_but_never_the_claim(self, shared):
        ref = new_step(shared.store)
        shared.place(ref, **{**look_of(StepState.DEAD, shared.clock), "attempt": 5, "claim": 9})
        assert move(shared, ref, StepMove.REPLAY, reset_attempts=True)
        assert (step_of(shared, ref).attempt, step_of(shared, ref).claim) == (0, 9)

    def test_waits_for_its_delay(self, shared):
        ref = new_step(shared.store)
        claim(shared, ref)
        assert move(shared, ref, StepMove.SNOOZE, claim=1, delay=timedelta(minutes=1, milliseconds=1))
        assert step_of(shared, ref).run_after == shared.clock() + timedelta(minutes=1, milliseconds=1)
        assert claim(shared, ref) is None

    def test_without_a_delay_is_due_at_once(self, shared):
        ref = new_step(shared.store)
        shared.place(ref, **look_of(StepState.RETRYING, shared.clock))
        assert move(shared, ref, StepMove.WAKE)
        assert step_of(shared, ref).run_after is None

    @pytest.mark.parametrize("name", [m for m in StepMove if m is not StepMove.BEGIN])
    def test_says_when_the_step_was_offered_if_somebody_must_hear_of_it(self, shared, name):
        before, after = STEP_MOVES[name]
        ref = new_step(shared.store)
        offered = shared.clock()
        shared.place(ref, **look_of(min(before), shared.clock))
        shared.clock.advance(seconds=1)
        assert move(shared, ref, name, **WITH_A_MOVE.get(name, {}))
        heard_of = after in {StepState.READY, StepState.SUCCEEDED, StepState.SKIPPED}
        assert step_of(shared, ref).offered_at == (shared.clock() if heard_of else offered)

    def test_keeps_what_the_step_came_to(self, shared):
        ref = new_step(shared.store)
        claim(shared, ref)
        follow_ups = [{"question": TEXT}, {"question": "two", "weights": [0.25, 3]}]
        result = {"text": LONG, "none": None, "yes": True}
        assert complete(shared, ref, verdict="enough", follow_ups=follow_ups, result=result)
        found = step_of(shared, ref)
        assert (found.verdict, found.result) == ("enough", result)
        assert list(found.follow_ups) == follow_ups

    def test_forgets_the_reason_of_the_move_before(self, shared):
        ref = new_step(shared.store)
        claim(shared, ref)
        move(shared, ref, StepMove.RETRY, delay=SECOND, reason=TEXT)
        assert step_of(shared, ref).reason == TEXT
        move(shared, ref, StepMove.WAKE)
        assert step_of(shared, ref).reason is None


class TestACompletion:
    def test_is_told_and_rung_for(self, bench):
        ref = new_step(bench.store)
        claim(bench, ref)
        drain(bench)
        assert complete(bench, ref, told={"step": 1, "verdict": TEXT})
        with bench.store.transaction() as tx:
            (event,) = tx.events(ref.plan_id)
        assert (event.number, event.kind, event.body) == (1, "step.succeeded", {"step": 1, "verdict": TEXT})
        assert event.at == bench.clock()
        assert plan_of(bench, ref.plan_id).event_count == 1
        assert drain(bench) == [Message(Topic.COMPLETIONS, ref)]
        found = step_of(bench, ref)
        assert (found.state, found.holder, found.leased_until) == (StepState.SUCCEEDED, None, None)
        assert (found.result, found.settled, found.offered_at) == ({}, False, bench.clock())

    @pytest.mark.parametrize("state", [s for s in StepState if s is not StepState.RUNNING])
    def test_is_of_a_running_step(self, bench, state):
        ref = new_step(bench.store)
        bench.place(ref, **look_of(state, bench.clock))
        drain(bench)
        before = step_of(bench, ref)
        assert not complete(bench, ref)
        assert self.traces(bench, ref) == (before, [], 0, [])

    def test_is_fenced_by_the_claim(self, bench):
        ref = new_step(bench.store)
        claim(bench, ref)
        move(bench, ref, StepMove.RESCUE, claim=1)
        claim(bench, ref)
        drain(bench)
        before = step_of(bench, ref)
        assert not complete(bench, ref, claim=1, result={"late": True})
        assert self.traces(bench, ref) == (before, [], 0, [])
        assert complete(bench, ref, claim=2)

    def traces(self, bench, ref):
        with bench.store.transaction() as tx:
            events = list(tx.events(ref.plan_id))
        return step_of(bench, ref), events, plan_of(bench, ref.plan_id).event_count, drain(bench)

    def test_goes_on_numbering_in_its_transaction(self, shared):
        ref = new_step(shared.store)
        claim(shared, ref)
        with shared.store.transaction() as tx:
            tx.lock_plan(ref.plan_id)
            tx.add_event(ref.plan_id, "before", {})
            tx.plan(ref.plan_id)  # what was gathered is written
            assert complete_one(tx, ref)
            tx.add_event(ref.plan_id, "after", {})
        with shared.store.transaction() as tx:
            found = [(e.number, e.kind) for e in tx.events(ref.plan_id)]
        assert found == [(1, "before"), (2, "step.succeeded"), (3, "after")]

    def test_may_be_a_transaction_of_its_own(self, shared):
        ref = new_step(shared.store)
        with shared.store.at_once() as tx:
            plan, step = claim_one(tx, ref, holder=7, first=True)
        assert (plan.plan_id, step.ref, step.claim) == (ref.plan_id, ref, 1)
        with shared.store.at_once() as tx:
            assert complete_one(tx, ref, result={"a": 1})
        assert step_of(shared, ref).result == {"a": 1}

    def test_of_several_writes_those_that_may_and_numbers_each_plans_events(self, shared):
        one, other = new_steps(shared.store, 3), new_steps(shared.store, 2)
        for ref in (*one, *other):
            claim(shared, ref)
        claims = {one[1]: 2, other[0]: 1}  # the second of the first plan was claimed again since
        refs = [one[2], other[0], one[0], one[1]]
        with shared.store.at_once() as tx:
            moved = tx.complete_steps(
                [
                    Completion(ref, claims.get(ref, 1), "found", [], {"a": n}, {"step": ref.number})
                    for n, ref in enumerate(refs)
                ]
            )
        assert set(moved) == {one[0], one[2], other[0]}
        assert {ref: step_of(shared, ref).result for ref in refs} == {
            one[2]: {"a": 0},
            other[0]: {"a": 1},
            one[0]: {"a": 2},
            one[1]: {},
        }
        with shared.store.transaction() as tx:
            assert sorted((e.number, e.kind) for e in tx.events(one[0].plan_id)) == [
                (1, "step.succeeded"),
                (2, "step.succeeded"),
            ]
            assert {e.body["step"] for e in tx.events(one[0].plan_id)} == {1, 3}
            assert [(e.number, e.body) for e in tx.events(other[0].plan_id)] == [(1, {"step": 1})]
        assert plan_of(shared, one[0].plan_id).event_count == 2

    def test_of_several_goes_on_numbering_in_its_transaction(self, shared):
        refs = new_steps(shared.store, 2)
        for ref in refs:
            claim(shared, ref)
        with shared.store.transaction() as tx:
            tx.lock_plan(refs[0].plan_id)
            tx.complete_steps([Completion(ref, 1, "found", [], {}, {}) for ref in refs])
            tx.add_event(refs[0].plan_id, "after", {})
        with shared.store.transaction() as tx:
            assert [e.number for e in tx.events(refs[0].plan_id)] == [1, 2, 3]


class TestSettling:
    def test_is_done_for_many_at_once_and_tells_for_which(self, bench):
        refs = [new_step(bench.store) for _ in range(3)]
        for ref in refs[:2]:
            claim(bench, ref)
            complete(bench, ref, verdict="found", follow_ups=[{"question": TEXT}])
        with bench.store.transaction() as tx:
            plans = tx.lock_plans([*(ref.plan_id for ref in refs), nobody().plan_id])
            settled = tx.mark_settled([*refs, nobody()])
        assert [p.plan_id for p in plans] == sorted(ref.plan_id for ref in refs)
        assert {s.ref for s in settled} == set(refs[:2])
        assert all(s.settled and s.verdict == "found" for s in settled)
        assert [list(s.follow_ups) for s in settled] == [[{"question": TEXT}]] * 2

    @pytest.mark.parametrize("state", StepState)
    def test_happens_once_and_only_to_a_step_with_an_outcome(self, shared, state):
        ref = new_step(shared.store)
        shared.place(ref, **look_of(state, shared.clock))
        with shared.store.transaction() as tx:
            first = bool(tx.mark_settled([ref]))
        with shared.store.transaction() as tx:
            again = bool(tx.mark_settled([ref]))
        assert first is (state in {StepState.SUCCEEDED, StepState.SKIPPED})
        assert not again
        assert step_of(shared, ref).settled is first


class TestCopiedSteps:
    def copied(self, bench):
        """Copies of a finished, a skipped and a ready step of another plan, in a new one."""
        plan_id = new_plan(bench.store)
        common = {"brief": {"question": TEXT}, "attempt": 2, "max_attempts": 4, "claim": 3}
        steps = [
            Step(
                plan_id,
                1,
                Agent.PLANNER,
                StepState.SUCCEEDED,
                **common,
                verdict="planned",
                follow_ups=({"question": TEXT},),
                result={"text": TEXT},
                settled=True,
            ),
            Step(plan_id, 2, Agent.RESEARCHER, StepState.SKIPPED, 1, **common, reason="late", settled=True),
            Step(plan_id, 3, Agent.RESEARCHER, StepState.READY, 1, {"question": "?"}, max_attempts=4),
        ]
        with bench.store.transaction() as tx:
            tx.lock_plan(plan_id)
            tx.copy_steps(plan_id, [replace(s, plan_id="of another plan") for s in steps])
            offered_at = tx.now()
        return [replace(s, offered_at=offered_at) for s in steps]

    def test_come_back_as_they_were_given_and_count_as_spent(self, shared):
        steps = self.copied(shared)
        with shared.store.transaction() as tx:
            assert list(tx.steps(steps[0].plan_id)) == steps
            plan = tx.plan(steps[0].plan_id)
            assert (plan.step_count, plan.spent) == (3, Spent(steps=3))

    def test_are_followed_by_the_next_number(self, shared):
        plan_id = self.copied(shared)[0].plan_id
        with shared.store.transaction() as tx:
            tx.lock_plan(plan_id)
            (next_step,) = tx.add_steps(plan_id, [NewStep(Agent.KEEPER, 1)], max_attempts=5)
        assert next_step.number == 4

    def test_are_never_begun_or_settled_again(self, shared):
        finished, skipped, ready = (step.ref for step in self.copied(shared))
        holder = shared.holder()
        with shared.store.transaction() as tx:
            assert claim_one(tx, finished, holder=holder) is None
            assert claim_one(tx, skipped, holder=holder) is None
            assert not tx.mark_settled([finished])
            assert not tx.mark_settled([skipped])
            assert claim_one(tx, ready, holder=holder) is not None

    def test_are_not_offered_to_the_bus_but_those_that_are_ready(self, bench):
        *_, ready = self.copied(bench)
        bench.clock.advance(seconds=60)
        with bench.store.transaction() as tx:
            assert [m.ref for m in tx.unheard(SECOND, 10)] == [ready.ref]

    def test_vanish_when_the_transaction_fails(self, shared):
        plan_id = new_plan(shared.store)
        with undone(shared.store) as tx:
            tx.lock_plan(plan_id)
            tx.copy_steps(plan_id, [Step(plan_id, 1, Agent.ROUTER, StepState.READY)])
            raise Undo
        with shared.store.transaction() as tx:
            assert list(tx.steps(plan_id)) == []
            assert tx.plan(plan_id).step_count == 0


class TestEvents:
    def test_are_numbered_without_gaps_in_one_transaction(self, shared):
        plan_id = new_plan(shared.store)
        with shared.store.transaction() as tx:
            tx.lock_plan(plan_id)
            for n in range(3):
                tx.add_event(plan_id, f"kind.{n}", {"n": n, "text": TEXT})
            assert [e.number for e in tx.events(plan_id)] == [1, 2, 3]
            tx.add_event(plan_id, "kind.3", {})
            assert tx.plan(plan_id).event_count == 4
            tx.lock_plan(plan_id)
            tx.add_event(plan_id, "kind.4", {"list": [1, [2]]})
        with shared.store.transaction() as tx:
            found = tx.events(plan_id)
        assert [e.number for e in found] == [1, 2, 3, 4, 5]
        assert [e.kind for e in found] == [f"kind.{n}" for n in range(5)]
        assert {(e.plan_id, e.at) for e in found} == {(plan_id, shared.clock())}
        assert found[0].body == {"n": 0, "text": TEXT}
        assert found[4].body == {"list": [1, [2]]}

    def test_are_numbered_on_in_later_transactions_and_past_one_that_was_undone(self, shared):
        plan_id = new_plan(shared.store)
        for n in range(4):
            with shared.store.transaction() as tx:
                tx.lock_plan(plan_id)
                tx.add_event(plan_id, "kept", {"n": n})
            with undone(shared.store) as tx:
                tx.lock_plan(plan_id)
                tx.add_event(plan_id, "undone", {})
        with shared.store.transaction() as tx:
            found = tx.events(plan_id)
        assert [(e.number, e.kind, e.body) for e in found] == [(n + 1, "kept", {"n": n}) for n in range(4)]

    def test_are_read_from_after_a_number_up_to_a_limit(self, shared):
        plan_id = new_plan(shared.store)
        with shared.store.transaction() as tx:
            tx.lock_plan(plan_id)
            for _ in range(6):
                tx.add_event(plan_id, "kind", {})
        with shared.store.transaction() as tx:
            assert [e.number for e in tx.events(plan_id, after=2, limit=3)] == [3, 4, 5]
            assert [e.number for e in tx.events(plan_id, after=5)] == [6]
            assert not tx.events(plan_id, after=6)

    def test_of_two_plans_are_numbered_apart(self, shared):
        first, second = new_plan(shared.store), new_plan(shared.store)
        for plan_id in (first, second, first):
            with shared.store.transaction() as tx:
                tx.lock_plan(plan_id)
                tx.add_event(plan_id, "kind", {})
        with shared.store.transaction() as tx:
            assert [e.number for e in tx.events(first)] == [1, 2]
            assert [e.number for e in tx.events(second)] == [1]


class TestTheAudit:
    def write(self, bench, sealer, plan_id, kinds):
        with bench.store.transaction() as tx:
            plan = tx.lock_plan(plan_id)
            number, head = plan.audit_count, plan.audit_head
            for kind in kinds:
                number += 1
                record = sealer.seal(
                    chain=plan_id, number=number, kind=kind, body={"text": TEXT, "n": number}, prev=head
                )
                tx.add_audit(record)
                head = record.mac

    def test_verifies_after_a_round_trip_over_several_transactions(self, shared, sealer):
        plan_id = new_plan(shared.store)
        self.write(shared, sealer, plan_id, ["plan.submitted"])
        self.write(shared, sealer, plan_id, ["tool.intent", "tool.outcome — ‘ok’ 🧾"])
        self.write(shared, sealer, plan_id, ["plan.ended"])
        with shared.store.transaction() as tx:
            plan, records = tx.plan(plan_id), tx.audit(plan_id)
        assert [r.number for r in records] == [1, 2, 3, 4]
        assert (plan.audit_count, plan.audit_head) == (4, records[-1].mac)
        assert sealer.verify(plan_id, records, count=plan.audit_count, head=plan.audit_head) is None

    def test_misses_a_tail_that_was_cut(self, shared, sealer):
        plan_id = new_plan(shared.store)
        self.write(shared, sealer, plan_id, ["one", "two", "three"])
        with shared.store.transaction() as tx:
            plan, records = tx.plan(plan_id), tx.audit(plan_id)
        assert sealer.verify(plan_id, records[:2], count=plan.audit_count, head=plan.audit_head).number == 3

    def test_can_be_read_by_the_transaction_that_writes_it(self, shared, sealer):
        plan_id = new_plan(shared.store)
        record = sealer.seal(chain=plan_id, number=1, kind="one", body={}, prev=b"")
        with shared.store.transaction() as tx:
            tx.lock_plan(plan_id)
            tx.add_audit(record)
            assert list(tx.audit(plan_id)) == [record]
            assert tx.plan(plan_id).audit_head == record.mac


class TestTheOutbox:
    def test_gives_messages_in_the_order_in_which_they_were_sent(self, bench):
        refs = [StepRef(str(uuid4()), n) for n in range(1, 8)]
        messages = [
            Message(topic, ref) for topic, ref in zip([*Topic, *Topic, Topic.STEPS], refs, strict=True)
        ]
        with bench.store.transaction() as tx:
            tx.send(messages[:2])
            tx.send(messages[2:3])
            tx.send([])
        with bench.store.transaction() as tx:
            tx.send(iter(messages[3:]))
        assert drain(bench, 5) == messages[:5]
        assert drain(bench, 5) == messages[5:]
        assert drain(bench, 5) == []

    def test_has_its_messages_back_when_the_relay_fails(self, bench):
        messages = [Message(Topic.STEPS, StepRef(str(uuid4()), n)) for n in range(1, 5)]
        with bench.store.transaction() as tx:
            tx.send(messages)
        with undone(bench.store) as tx:
            assert list(tx.take_outbox(3)) == messages[:3]
        assert drain(bench) == messages

    def test_holds_nothing_of_a_transaction_that_failed(self, bench):
        with undone(bench.store) as tx:
            tx.send([Message(Topic.STEPS, nobody())])
        assert drain(bench) == []


def rung_for(bench, *, steps, **plan):
    """A plan with messages for that many of its steps in the outbox."""
    refs = new_steps(bench.store, steps, plan_id=new_plan(bench.store, **plan))
    with bench.store.transaction() as tx:
        tx.send([Message(Topic.STEPS, ref) for ref in refs])
    return refs


def take(bench, room, limit=100):
    with bench.store.transaction() as tx:
        return list(tx.take_outbox(limit, room=room))


class TestACrowdedOutbox:
    def plans_of(self, messages):
        return Counter(m.ref.plan_id for m in messages)

    def test_gives_no_more_steps_than_there_is_room_for_but_everything_else(self, bench):
        refs = rung_for(bench, steps=5)
        with bench.store.transaction() as tx:
            tx.send([Message(Topic.COMPLETIONS, refs[0]), Message(Topic.DEAD, refs[0])])
        assert [m.topic for m in take(bench, 0)] == [Topic.COMPLETIONS, Topic.DEAD]
        assert [m.ref.number for m in take(bench, 2)] == [1, 2]
        assert [m.ref.number for m in take(bench, 9)] == [3, 4, 5]
        assert take(bench, 9) == []

    def test_is_divided_among_the_tenants_whoever_came_first(self, bench):
        flood, drop = rung_for(bench, steps=50, tenant="flood"), rung_for(bench, steps=4, tenant="drop")
        taken = self.plans_of(take(bench, 8))
        assert taken == {flood[0].plan_id: 4, drop[0].plan_id: 4}

    def test_is_divided_by_weight_over_many_rounds(self, bench):
        with bench.store.transaction() as tx:
            tx.put_tenant(Tenant("heavy", weight=3))
        heavy = rung_for(bench, steps=60, tenant="heavy")[0].plan_id
        light = rung_for(bench, steps=60, tenant="light")[0].plan_id
        taken = Counter()
        for _ in range(20):
            taken += self.plans_of(take(bench, 2))
        assert taken.total() == 40
        assert abs(taken[heavy] - 3 * taken[light]) <= 4

    def test_gives_a_tenant_s_urgent_plans_first(self, bench):
        rung_for(bench, steps=5, priority=0)
        urgent = rung_for(bench, steps=2, priority=5)
        assert [(m.ref, m.priority) for m in take(bench, 2)] == [(ref, 5) for ref in urgent]

    def test_has_its_messages_and_its_clocks_back_when_the_relay_fails(self, bench):
        rung_for(bench, steps=5, tenant="a")
        rung_for(bench, steps=5, tenant="b")
        with undone(bench.store) as tx:
            first = list(tx.take_outbox(100, room=3))
        assert take(bench, 3) == first

    def test_gives_a_limited_tenant_as_many_as_it_has_free_hands_for(self, bench):
        with bench.store.transaction() as tx:
            tx.put_tenant(Tenant("small", max_running=2))
        refs = rung_for(bench, steps=5, tenant="small")
        other = rung_for(bench, steps=1)
        assert [m.ref for m in take(bench, 50)] == [refs[0], refs[1], other[0]]
        assert claim(bench, refs[0])
        assert [m.ref for m in take(bench, 50)] == [refs[2]]
        assert claim(bench, refs[1])
        assert take(bench, 50) == []
        complete(bench, refs[0])
        assert [m.ref for m in take(bench, 50) if m.topic is Topic.STEPS] == [refs[3]]


class TestATenant:
    def test_has_a_weight_and_a_limit(self, bench):
        with bench.store.transaction() as tx:
            tx.put_tenant(Tenant("b", weight=2.5))
            tx.put_tenant(Tenant("a", max_running=3))
            tx.put_tenant(Tenant("b", weight=0.5, max_running=1))
        with bench.store.transaction() as tx:
            assert list(tx.tenants()) == [Tenant("a", 1.0, 3), Tenant("b", 0.5, 1)]

    def test_that_is_limited_may_run_so_many_steps_at_once(self, bench):
        with bench.store.transaction() as tx:
            tx.put_tenant(Tenant("small", max_running=1))
        first, second = rung_for(bench, steps=2, tenant="small")
        assert self.may_run(bench, "small")
        assert claim(bench, first)
        assert not self.may_run(bench, "small")
        assert self.may_run(bench, "somebody else")
        with bench.store.at_once() as tx:
            assert claim_one(tx, second, holder=7, first=True) is None  # not without counting
        complete(bench, first)
        assert self.may_run(bench, "small")

    def may_run(self, bench, tenant):
        with bench.store.transaction() as tx:
            return tx.may_run(tenant)


def evidence_of(text=TEXT, **rest):
    return Evidence.of(text, **{"locator": "docs/ä b.md#1", "title": "Ä 📄", "origin": "0" * 64, **rest})


class TestEvidence:
    @pytest.mark.parametrize(
        "text", [TEXT, LONG, " ", "line\r\nline\n\ttab"], ids=["words", "long", "space", "lines"]
    )
    def test_comes_back_to_the_letter(self, shared, text):
        source = evidence_of(text, media_type="text/markdown")
        with shared.store.transaction() as tx:
            tx.put_evidence("letters", source)
        with shared.store.transaction() as tx:
            assert tx.evidence("letters", source.sha256) == source

    def test_is_stored_once_per_tenant(self, shared):
        source = evidence_of("once per tenant")
        with shared.store.transaction() as tx:
            tx.put_evidence("one", source)
            tx.put_evidence("one", replace(source, locator="elsewhere"))
        with shared.store.transaction() as tx:
            tx.put_evidence("one", replace(source, title="renamed"))
            tx.put_evidence("two", replace(source, locator="theirs"))
            assert tx.evidence("one", source.sha256) == source
            assert tx.evidence("two", source.sha256).locator == "theirs"

    def test_is_invisible_to_another_tenant(self, shared):
        source = evidence_of("for one tenant only")
        with shared.store.transaction() as tx:
            tx.put_evidence("one", source)
            assert tx.evidence("two", source.sha256) is None


def fact_of(step, number, source, start=2, end=6, **rest):
    return Fact(step, number, source.text[start:end], source.sha256, start, end, source.locator, **rest)


class TestFacts:
    def test_come_back_by_step_and_number(self, shared):
        source = evidence_of("facts " + TEXT)
        first, second = new_steps(shared.store, 2)
        facts = [
            fact_of(2, 1, source),
            fact_of(1, 2, source, 7, len(source.text), heading=("A › B", "ç"), question="Why? 🤔", score=0.1),
            fact_of(1, 1, source, title="T", origin_sha256="0" * 64, heading=()),
        ]
        with shared.store.transaction() as tx:
            tx.put_evidence("default", source)
            tx.add_facts(first.plan_id, facts[:1])
            tx.add_facts(first.plan_id, facts[1:])
            tx.add_facts(first.plan_id, [])
        with shared.store.transaction() as tx:
            assert list(tx.facts(second.plan_id)) == facts[::-1]

    def test_belong_to_one_plan(self, shared):
        source = evidence_of("one plan " + TEXT)
        mine, other = new_step(shared.store), new_step(shared.store)
        with shared.store.transaction() as tx:
            tx.put_evidence("default", source)
            tx.add_facts(mine.plan_id, [fact_of(1, 1, source)])
            assert not tx.facts(other.plan_id)


class TestAReport:
    def test_comes_back_as_it_was_and_gives_way_to_a_later_one(self, shared):
        plan_id = new_plan(shared.store)
        body = {
            "v": 1,
            "goal": LONG,
            "confidence": 0.87,
            "sections": [{"title": "Ü", "sentences": []}],
            "gaps": [],
        }
        with shared.store.transaction() as tx:
            assert tx.report(plan_id) is None
            tx.put_report(plan_id, body)
            assert tx.report(plan_id) == body
        with shared.store.transaction() as tx:
            assert tx.report(plan_id) == body
            tx.put_report(plan_id, {"v": 1, "goal": "again"})
        with shared.store.transaction() as tx:
            assert tx.report(plan_id) == {"v": 1, "goal": "again"}


def ballot_of(plan_id, round_=0, **rest):
    usual = {
        "draft": "d" * 64,
        "objections": 0,
        "verdict": Verdict.ACCEPT,
        "confidence": 0.97,
        "threshold": threshold(round_),
        "decided": Decision.ACCEPTED,
        "why": None,
        "generator": 3,
        "critic": 4,
        "judge": 5,
    }
    return Ballot(plan_id=plan_id, round=round_, **{**usual, **rest})


class TestABallot:
    def test_b5_of_each_round_is_a_row_of_its_own(self, shared):
        plan_id, other = new_plan(shared.store), new_plan(shared.store)
        sent_back = ballot_of(
            plan_id,
            0,
            verdict=Verdict.REVISE,
            confidence=1 / 3,
            objections=2,
            decided=Decision.REVISE,
        )
        last = ballot_of(plan_id, 32_767, decided=Decision.NEEDS_REVIEW, why=Why.ROUNDS, confidence=0.0)
        with shared.store.transaction() as tx:
            tx.add_ballot(last)
            tx.add_ballot(sent_back)
            tx.add_ballot(ballot_of(other))

        with shared.store.transaction() as tx:
            assert tx.ballots(plan_id) == [sent_back, last]
            assert [b.at for b in tx.ballots(plan_id)] == [shared.clock()] * 2
            assert tx.ballots(other) == [ballot_of(other)]
            assert tx.ballots(str(uuid4())) == []

    def test_is_seen_by_who_wrote_it_and_gone_with_its_transaction(self, shared):
        plan_id = new_plan(shared.store)
        with undone(shared.store) as tx:
            tx.add_ballot(ballot_of(plan_id))
            assert tx.ballots(plan_id) == [ballot_of(plan_id)]

        with shared.store.transaction() as tx:
            assert tx.ballots(plan_id) == []

    @pytest.mark.parametrize("agent", Agent)
    def test_is_made_of_what_a_settled_judge_brings_along(self, shared, agent):
        plan_id = new_plan(shared.store)
        with shared.store.transaction() as tx:
            tx.lock_plan(plan_id)
            tx.move_plan(plan_id, PlanMove.START)
            (step,) = tx.add_steps(plan_id, [NewStep(agent)], max_attempts=5)
        claim(shared, step.ref)
        complete(shared, step.ref, result={"confidence": 0.5})

        with shared.store.transaction() as tx:
            (settled,) = tx.mark_settled([step.ref])

        deciding = agent in {Agent.JUDGE, Agent.SYNTHESISER}
        assert settled.result == ({"confidence": 0.5} if deciding else {})


def call_of(ref, key="k", occurrence=0, **rest):
    made = Call(
        plan_id=ref.plan_id,
        step=ref.number,
        key=key,
        occurrence=occurrence,
        tool="web.read",
        semantics=Semantics.AT_MOST_ONCE,
        state=CallState.INTENDED,
        claim=1,
        arguments={"url": TEXT, "list": [1, None]},
        reserved=Spent(calls=1, tokens=50, cost_uusd=6),
    )
    return replace(made, **rest)


def intend(bench, *calls):
    with bench.store.transaction() as tx:
        for call in calls:
            tx.put_call(call)


def finish(bench, ref, key="k", occurrence=0, *, claim=1, state=CallState.DONE, **rest):
    with bench.store.transaction() as tx:
        return tx.finish_call(ref, key, occurrence, claim=claim, state=state, **rest)


def call_in(bench, ref, key="k", occurrence=0):
    with bench.store.transaction() as tx:
        return tx.call(ref, key, occurrence)


class TestACall:
    def test_comes_back_as_it_was_intended(self, shared):
        ref = new_step(shared.store)
        call = call_of(ref)
        intend(shared, call)
        assert call_in(shared, ref) == call
        assert call_in(shared, ref, "other") is None
        assert call_in(shared, ref, occurrence=1) is None

    def test_is_told_from_an_equal_one_by_its_occurrence(self, shared):
        ref = new_step(shared.store)
        calls = [call_of(ref), call_of(ref, occurrence=1), call_of(ref, "other")]
        intend(shared, *calls)
        assert finish(shared, ref, occurrence=1)
        with shared.store.transaction() as tx:
            assert [c.state for c in tx.calls(ref.plan_id)] == ["intended", "done", "intended"]

    def test_that_was_made_keeps_its_result_and_what_it_cost(self, shared):
        ref = new_step(shared.store)
        intend(shared, call_of(ref))
        result = {"text": LONG, "score": 0.5, "parts": [None, True, TEXT]}
        assert finish(
            shared, ref, result=result, evidence="e" * 64, spent=Spent(calls=1, tokens=40, cost_uusd=5)
        )
        assert call_in(shared, ref) == call_of(
            ref,
            state=CallState.DONE,
            result=result,
            evidence="e" * 64,
            reserved=Spent(calls=1, tokens=40, cost_uusd=5),
        )

    @pytest.mark.parametrize("result", [None, 0, "", [], {}, "text", [1, "two"]], ids=repr)
    def test_may_come_to_any_json(self, shared, result):
        ref = new_step(shared.store)
        intend(shared, call_of(ref))
        assert finish(shared, ref, result=result)
        assert call_in(shared, ref).result == result

    def test_costs_what_was_reserved_unless_told(self, shared):
        ref = new_step(shared.store)
        intend(shared, call_of(ref))
        assert finish(shared, ref)
        assert call_in(shared, ref).reserved == Spent(calls=1, tokens=50, cost_uusd=6)

    def test_is_finished_once(self, shared):
        ref = new_step(shared.store)
        intend(shared, call_of(ref))
        assert finish(shared, ref, result="first")
        assert not finish(shared, ref, result="second")
        assert not finish(shared, ref, state=CallState.FAILED, error="late")
        assert call_in(shared, ref).result == "first"

    def test_is_finished_only_by_the_claim_that_intended_it(self, shared):
        ref = new_step(shared.store)
        intend(shared, call_of(ref, claim=2))
        assert not finish(shared, ref, claim=1)
        assert not finish(shared, ref, claim=3)
        assert call_in(shared, ref) == call_of(ref, claim=2)
        assert finish(shared, ref, claim=2)

    def test_that_was_never_intended_is_not_finished(self, shared):
        assert not finish(shared, new_step(shared.store))

    def test_that_is_done_stays_done(self, shared):
        ref = new_step(shared.store)
        intend(shared, call_of(ref))
        finish(shared, ref, result="kept")
        done = call_in(shared, ref)
        intend(shared, call_of(ref, claim=2))
        assert call_in(shared, ref) == done

    def test_that_failed_is_intended_afresh_under_a_newer_claim(self, shared):
        ref = new_step(shared.store)
        intend(shared, call_of(ref))
        assert finish(
            shared, ref, state=CallState.FAILED, result={"status": 503}, evidence="e" * 64, error="no answer"
        )
        assert (call_in(shared, ref).state, call_in(shared, ref).error) == (CallState.FAILED, "no answer")
        again = call_of(ref, claim=2, reserved=Spent(calls=1, tokens=70, cost_uusd=8))
        intend(shared, again)
        assert call_in(shared, ref) == again

    def test_keeps_its_place_when_it_is_intended_again(self, shared):
        ref = new_step(shared.store)
        intend(shared, call_of(ref, "b"), call_of(ref, "a"), call_of(ref, "c"))
        intend(shared, call_of(ref, "b", claim=2))
        with shared.store.transaction() as tx:
            assert [(c.key, c.claim) for c in tx.calls(ref.plan_id)] == [("b", 2), ("a", 1), ("c", 1)]

    def test_whose_worker_was_lost_is_unknown(self, shared):
        first, second = new_steps(shared.store, 2)
        intend(shared, call_of(first, "open"), call_of(first, "done"), call_of(second, "other"))
        finish(shared, first, "done")
        with shared.store.transaction() as tx:
            orphans = tx.orphan_calls(first)
            assert [(c.key, c.state) for c in orphans] == [("open", CallState.UNKNOWN)]
            assert not tx.orphan_calls(first)
        assert call_in(shared, first, "open") == orphans[0] == call_of(first, "open", state=CallState.UNKNOWN)
        assert call_in(shared, first, "done").state is CallState.DONE
        assert call_in(shared, second, "other").state is CallState.INTENDED
        assert not finish(shared, first, "open")

    def test_may_be_repeated_only_where_it_is_unknown_and_once_a_human_said_so(self, shared):
        first, second = new_steps(shared.store, 2)
        intend(shared, call_of(first, "open"), call_of(first, "done"), call_of(second, "other"))
        finish(shared, first, "done")
        with shared.store.transaction() as tx:
            tx.orphan_calls(first)
            tx.orphan_calls(second)
            tx.allow_repeat(first, "open")
        with shared.store.transaction() as tx:
            allowed = {c.key: c.repeat_allowed for c in tx.calls(first.plan_id)}
        assert allowed == {"open": True, "done": False, "other": False}

    def test_uses_up_its_permission_when_it_is_intended_again(self, shared):
        ref = new_step(shared.store)
        intend(shared, call_of(ref))
        with shared.store.transaction() as tx:
            tx.orphan_calls(ref)
            tx.allow_repeat(ref, "k")
        intend(shared, call_of(ref, claim=2))
        assert call_in(shared, ref) == call_of(ref, claim=2)


def approval_of(ref, clock, **rest):
    made = Approval(
        approval_id=str(uuid4()),
        plan_id=ref.plan_id,
        step=ref.number,
        category="spend",
        roles=("owner", "räuber"),
        question=TEXT,
        args_digest="d" * 64,
        requester="ada",
        expires_at=clock() + HOUR,
    )
    return replace(made, **rest)


def ask(bench, *approvals):
    for approval in approvals:
        with bench.store.transaction() as tx:
            tx.add_approval(approval)
        bench.clock.advance(seconds=1)


class TestAnApproval:
    def decide(self, bench, approval, state=ApprovalState.APPROVED, by="grace"):
        with bench.store.transaction() as tx:
            return tx.decide(approval.approval_id, state, by=by, comment=TEXT)

    def found(self, bench, approval):
        with bench.store.transaction() as tx:
            return tx.approval(approval.approval_id)

    def test_comes_back_as_it_was_asked(self, shared):
        approval = approval_of(new_step(shared.store), shared.clock)
        ask(shared, approval)
        assert self.found(shared, approval) == approval
        with shared.store.transaction() as tx:
            assert tx.approval(str(uuid4())) is None
            assert not tx.decide(str(uuid4()), ApprovalState.APPROVED, by="grace", comment="")

    @pytest.mark.parametrize("state", [s for s in ApprovalState if s is not ApprovalState.PENDING])
    def test_is_decided_once(self, shared, state):
        approval = approval_of(new_step(shared.store), shared.clock)
        ask(shared, approval)
        assert self.decide(shared, approval, state)
        decided = replace(approval, state=state, decided_by="grace", comment=TEXT)
        assert self.found(shared, approval) == decided
        for other in ApprovalState:
            if other is not ApprovalState.PENDING:
                assert not self.decide(shared, approval, other, by="mallory")
        assert self.found(shared, approval) == decided

    @pytest.mark.parametrize("state", [ApprovalState.APPROVED, ApprovalState.REJECTED])
    def test_is_decided_by_a_human_only_before_it_expires(self, shared, state):
        early, late = (approval_of(new_step(shared.store), shared.clock) for _ in range(2))
        for approval in (early, late):
            with shared.store.transaction() as tx:
                tx.add_approval(approval)
        shared.clock.at = early.expires_at - timedelta(microseconds=1)
        assert self.decide(shared, early, state)
        shared.clock.at = late.expires_at
        assert not self.decide(shared, late, state)
        assert self.found(shared, late) == late
        assert self.decide(shared, late, ApprovalState.EXPIRED, by="system")

    def test_stands_in_the_list_oldest_first(self, bench):
        mine, other = new_step(bench.store), new_step(bench.store)
        first, second, third = (approval_of(ref, bench.clock) for ref in (mine, other, mine))
        ask(bench, first, second, third)
        self.decide(bench, first)
        with bench.store.transaction() as tx:
            everything = [a.approval_id for a in tx.approvals()]
            assert everything == [a.approval_id for a in (first, second, third)]
            assert [a.approval_id for a in tx.approvals(state=ApprovalState.PENDING)] == everything[1:]
            assert [a.approval_id for a in tx.approvals(plan_id=mine.plan_id)] == everything[::2]
            pending = tx.approvals(state=ApprovalState.PENDING, plan_id=mine.plan_id)
            assert list(pending) == [third]

    def test_is_found_by_the_sweeper_once_it_expired_and_nobody_decided(self, bench):
        ref = new_step(bench.store)
        sooner, later, decided = (
            approval_of(ref, bench.clock, expires_at=NOON + span) for span in (HOUR, 2 * HOUR, HOUR)
        )
        ask(bench, sooner, later, decided)
        self.decide(bench, decided)
        bench.clock.at = NOON + HOUR - timedelta(microseconds=1)
        with bench.store.transaction() as tx:
            assert not tx.expired_approvals(10)
        bench.clock.at = NOON + HOUR
        with bench.store.transaction() as tx:
            assert list(tx.expired_approvals(10)) == [sooner]
        bench.clock.at = NOON + 2 * HOUR
        with bench.store.transaction() as tx:
            assert {a.approval_id for a in tx.expired_approvals(10)} == {
                sooner.approval_id,
                later.approval_id,
            }
            assert len(tx.expired_approvals(1)) == 1


CHAIN = Chain(
    (
        Stage((("owner", "räuber"), ("ciso",)), HOUR, (Escalation(("boss",), 2 * HOUR),)),
        Stage((("boss",),), HOUR),
    ),
    alone=("operator",),
    holds=timedelta(days=1.5),
)


class TestAChainOfApprovals:
    def asked(self, bench, **rest):
        approval = approval_of(new_step(bench.store), bench.clock, **{"chain": CHAIN, **rest})
        ask(bench, approval)
        return approval

    def found(self, bench, approval):
        with bench.store.transaction() as tx:
            return tx.approval(approval.approval_id)

    def advance(self, bench, approval, **rest):
        usual = {"version": 0, "stage": 2, "level": 1, "roles": ("boss",), "expires_at": NOON + 5 * HOUR}
        with bench.store.transaction() as tx:
            return tx.advance(approval.approval_id, **{**usual, "in_time": True, **rest})

    def test_comes_back_as_it_was(self, shared):
        approval = self.asked(shared)
        assert self.found(shared, approval) == approval
        assert self.found(shared, approval).asked_at is not None

    def test_goes_on_once_from_each_version(self, shared):
        approval = self.asked(shared, expires_at=shared.clock() + HOUR)
        assert self.advance(shared, approval)
        assert not self.advance(shared, approval)
        changed = {"version": 1, "stage": 2, "level": 1, "roles": ("boss",), "expires_at": NOON + 5 * HOUR}
        assert self.found(shared, approval) == replace(approval, **changed)
        assert not self.advance(shared, approval, version=2)

    def test_does_not_go_on_once_it_is_decided(self, shared):
        approval = self.asked(shared)
        with shared.store.transaction() as tx:
            assert tx.decide(approval.approval_id, ApprovalState.REJECTED, by="grace", comment="")
        assert not self.advance(shared, approval)

    @pytest.mark.parametrize("in_time", [True, False])
    def test_goes_on_by_a_decision_in_time_or_by_an_escalation_afterwards(self, shared, in_time):
        early, late = self.asked(shared), self.asked(shared)
        shared.clock.at = early.expires_at - timedelta(microseconds=1)
        assert self.advance(shared, early, in_time=in_time) is in_time
        shared.clock.at = late.expires_at
        assert self.advance(shared, late, in_time=in_time) is not in_time

    def test_is_decided_in_the_version_that_was_seen(self, shared):
        approval = self.asked(shared)
        self.advance(shared, approval, expires_at=shared.clock() + HOUR)
        with shared.store.transaction() as tx:
            for version in (0, 2):
                assert not tx.decide(
                    approval.approval_id, ApprovalState.APPROVED, by="grace", comment="", version=version
                )
            assert tx.decide(approval.approval_id, ApprovalState.APPROVED, by="grace", comment="", version=1)

    def test_says_until_when_what_was_approved_may_be_done(self, shared):
        approval = self.asked(shared)
        with shared.store.transaction() as tx:
            tx.decide(approval.approval_id, ApprovalState.APPROVED, by="grace", comment="", holds=2 * HOUR)
            now = tx.now()
        found = self.found(shared, approval)
        assert (found.holds_until, found.decided_at) == (now + 2 * HOUR, now)
        assert found.holds(now)
        assert not found.holds(now + 2 * HOUR)

    def test_keeps_what_each_person_decided(self, shared):
        approval = self.asked(shared)
        first = Ruling(1, "grace", "räuber", 1, 1, ApprovalState.APPROVED, TEXT)
        second = Ruling(2, "ada", "ciso", 1, 2, ApprovalState.REJECTED)
        with shared.store.transaction() as tx:
            assert list(tx.rulings(approval.approval_id)) == []
            tx.add_ruling(approval.approval_id, first)
            tx.add_ruling(approval.approval_id, second)
            assert list(tx.rulings(approval.approval_id)) == [first, second]
            assert tx.rulings(approval.approval_id)[0].at == tx.now()

    @pytest.mark.parametrize(
        "second",
        [
            Ruling(2, "grace", "ciso", 2, 1, ApprovalState.APPROVED),
            Ruling(2, "ada", "owner", 1, 1, ApprovalState.APPROVED),
            Ruling(1, "ada", "ciso", 1, 2, ApprovalState.APPROVED),
        ],
        ids=["same person", "same seat", "same number"],
    )
    def test_takes_nobody_twice_and_no_seat_twice(self, shared, second):
        approval = self.asked(shared)
        with shared.store.transaction() as tx:
            tx.add_ruling(approval.approval_id, Ruling(1, "grace", "owner", 1, 1, ApprovalState.APPROVED))
        with pytest.raises((AssertionError, UniqueViolation)), shared.store.transaction() as tx:
            tx.add_ruling(approval.approval_id, second)

    def test_is_found_by_who_may_decide_now_by_category_step_and_tenant(self, bench):
        mine = new_step(bench.store, plan_id=new_plan(bench.store, tenant="mine"))
        first = approval_of(mine, bench.clock, roles=("owner",), category="COST")
        second = approval_of(new_step(bench.store), bench.clock, roles=("owner", "boss"))
        ask(bench, first, second)

        def ids(**rest):
            with bench.store.transaction() as tx:
                return [a.approval_id for a in tx.approvals(**rest)]

        assert ids(role="owner") == [first.approval_id, second.approval_id]
        assert ids(role="boss") == [second.approval_id]
        assert ids(category="COST") == ids(tenant="mine") == ids(limit=1) == [first.approval_id]
        assert ids(plan_id=mine.plan_id, step=mine.number) == [first.approval_id]
        assert ids(plan_id=mine.plan_id, step=mine.number + 1) == ids(tenant="nobody") == []
        with bench.store.transaction() as tx:
            tx.decide(first.approval_id, ApprovalState.APPROVED, by="grace", comment="")
        assert ids(role="owner") == [second.approval_id]

    def test_gives_a_plan_that_lives_the_time_back_that_it_waited(self, shared):
        ref = new_step(shared.store)
        with shared.store.transaction() as tx:
            before = tx.lock_plan(ref.plan_id).deadline
            tx.extend(ref.plan_id, HOUR)
        with shared.store.transaction() as tx:
            assert tx.plan(ref.plan_id).deadline == before + HOUR
            tx.lock_plan(ref.plan_id)
            tx.move_plan(ref.plan_id, PlanMove.CANCEL)
        with shared.store.transaction() as tx:
            tx.extend(ref.plan_id, HOUR)
            assert tx.plan(ref.plan_id).deadline == before + HOUR


class TestANotification:
    WITHIN = timedelta(seconds=30)

    def told(self, bench, **rest):
        approval = approval_of(new_step(bench.store), bench.clock)
        ask(bench, approval)
        made = Notification(str(uuid4()), approval.approval_id, "approval.requested", {"text": TEXT}, **rest)
        with bench.store.transaction() as tx:
            tx.add_notification(made)
        bench.clock.advance(seconds=1)
        return made

    def take(self, bench):
        with bench.store.transaction() as tx:
            return tx.take_notification(self.WITHIN)

    def test_is_taken_the_oldest_first_and_by_one_sender_until_its_time_is_up(self, bench):
        first, second = self.told(bench), self.told(bench)
        assert self.take(bench) == replace(first, attempts=1)
        assert self.take(bench) == replace(second, attempts=1)
        assert self.take(bench) is None
        bench.clock.advance(seconds=30)
        assert self.take(bench) == replace(first, attempts=2)

    def test_that_was_not_written_is_not_taken(self, bench):
        with suppress(ZeroDivisionError), bench.store.transaction() as tx:
            approval = approval_of(new_step(bench.store), bench.clock)
            tx.add_approval(approval)
            tx.add_notification(Notification(str(uuid4()), approval.approval_id, "k", {}))
            raise ZeroDivisionError
        assert self.take(bench) is None

    @pytest.mark.parametrize("state", [NotificationState.DELIVERED, NotificationState.GIVEN_UP])
    def test_ends_once(self, bench, state):
        self.told(bench)
        taken = self.take(bench)
        with bench.store.transaction() as tx:
            assert tx.end_notification(taken, state, error="e")
            assert not tx.end_notification(taken, NotificationState.DELIVERED)
            assert not tx.postpone_notification(taken, HOUR, error="e")
            assert list(tx.notifications(state=state)) == [replace(taken, state=state, error="e")]
            assert list(tx.notifications(approval_id=taken.approval_id)) == list(tx.notifications())
            assert list(tx.notifications(state=NotificationState.WAITING)) == []
        bench.clock.advance(seconds=3600)
        assert self.take(bench) is None

    def test_is_postponed(self, bench):
        self.told(bench)
        taken = self.take(bench)
        with bench.store.transaction() as tx:
            assert tx.postpone_notification(taken, HOUR, error="no answer")
        bench.clock.advance(seconds=3599)
        assert self.take(bench) is None
        bench.clock.advance(seconds=1)
        assert self.take(bench) == replace(taken, attempts=2, error="no answer")

    def test_is_not_given_up_or_postponed_by_a_sender_that_was_overtaken(self, bench):
        self.told(bench)
        slow = self.take(bench)
        bench.clock.advance(seconds=30)
        assert self.take(bench).attempts == 2
        with bench.store.transaction() as tx:
            assert not tx.postpone_notification(slow, HOUR, error="e")
            assert not tx.end_notification(slow, NotificationState.GIVEN_UP)
            assert tx.end_notification(slow, NotificationState.DELIVERED)  # it was, whoever sent it

    def test_that_was_given_up_on_is_revived_once_and_taken_as_at_first(self, bench):
        told = self.told(bench)
        taken = self.take(bench)
        with bench.store.transaction() as tx:
            assert not tx.revive_notification(told.notification_id)
            assert tx.end_notification(taken, NotificationState.GIVEN_UP, error="no answer")
            assert tx.revive_notification(told.notification_id)
            assert not tx.revive_notification(told.notification_id)
            assert not tx.revive_notification(str(uuid4()))
            assert tx.notification(told.notification_id) == replace(told, error="no answer")
        assert self.take(bench) == replace(told, attempts=1, error="no answer")

    def test_that_was_delivered_is_not_revived(self, bench):
        told = self.told(bench)
        with bench.store.transaction() as tx:
            assert tx.end_notification(replace(told, attempts=0), NotificationState.DELIVERED)
            assert not tx.revive_notification(told.notification_id)

    def test_is_found_by_its_id_and_by_whose_plan_it_is_about(self, bench):
        told, other = self.told(bench), self.told(bench)
        with bench.store.transaction() as tx:
            assert tx.notification(told.notification_id) == told
            assert tx.notification(str(uuid4())) is None
            assert list(tx.notifications(tenant="default")) == [told, other]
            assert list(tx.notifications(tenant="default", limit=1)) == [told]
            assert list(tx.notifications(tenant="nobody")) == []


class TestAStop:
    def listed(self, bench, tenant=None):
        with bench.store.transaction() as tx:
            return list(tx.stops(tenant))

    def put(self, bench, *stops):
        for stop in stops:
            with bench.store.transaction() as tx:
                tx.put_stop(stop)
            bench.clock.advance(seconds=1)

    def test_is_seen_by_its_tenant_and_one_of_nobody_s_by_all_the_oldest_first(self, bench):
        ours, theirs = Stop("tool:look", "why", "acme", "ada"), Stop("all", "why", "rival", "eve")
        every = Stop("agent:coder", "why", "", "ops")
        self.put(bench, every, ours, theirs)

        assert self.listed(bench, "acme") == [every, ours]
        assert self.listed(bench, "rival") == [every, theirs]
        assert self.listed(bench, "nobody") == [every]
        assert self.listed(bench) == [every, ours, theirs]
        assert self.listed(bench)[0].at == bench.clock() - timedelta(seconds=3)

    def test_takes_the_place_of_an_earlier_one_of_its_target_and_tenant_only(self, bench):
        self.put(bench, Stop("all", "why", "acme", "ada"), Stop("all", "fire", "", "ops"))
        self.put(bench, Stop("all", "flood", "acme", "eve"))

        assert self.listed(bench, "acme") == [
            Stop("all", "fire", "", "ops"),
            Stop("all", "flood", "acme", "eve"),
        ]

    def test_is_lifted_once_and_no_other_with_it(self, bench):
        ours, every = Stop("all", "why", "acme", "ada"), Stop("all", "fire", "", "ops")
        self.put(bench, ours, every)

        with bench.store.transaction() as tx:
            assert tx.remove_stop("acme", "all") == ours
            assert tx.remove_stop("acme", "all") is None
            assert tx.remove_stop("rival", "all") is None
        assert self.listed(bench, "acme") == [every]

    def test_that_was_not_written_is_none(self, bench):
        with undone(bench.store) as tx:
            tx.put_stop(Stop("all", "why", "", "ada"))
        assert self.listed(bench) == []

    def test_of_another_tenant_is_neither_seen_nor_changed_by_a_store_of_one(self, bench):
        self.put(bench, Stop("all", "why", "rival", "eve"), Stop("all", "fire", "", "ops"))
        ours = bench.store.of("acme")

        with ours.transaction() as tx:
            assert list(tx.stops()) == []
            assert tx.remove_stop("rival", "all") is None
            assert tx.remove_stop("", "all") is None
            tx.put_stop(Stop("tool:x", "why", "acme", "ada"))
        for foreign in ("rival", ""):
            with pytest.raises(ForeignTenant), ours.transaction() as tx:
                tx.put_stop(Stop("tool:x", "why", foreign, "ada"))
        assert {stop.tenant for stop in self.listed(bench)} == {"rival", "", "acme"}


class TestADeadLetter:
    def letter(self, bench, ref=None, **rest):
        made = DeadLetter(
            letter_id=str(uuid4()),
            plan_id=ref.plan_id if ref else None,
            step=ref.number if ref else None,
            reason="worker_lost",
            detail=TEXT,
            at=bench.clock(),
            attempts=3,
        )
        letter = replace(made, **rest)
        with bench.store.transaction() as tx:
            tx.add_dead_letter(letter)
        bench.clock.advance(seconds=1)
        return letter

    def test_comes_back_as_it_was_with_or_without_a_plan(self, shared):
        letters = [self.letter(shared), self.letter(shared, new_step(shared.store))]
        with shared.store.transaction() as tx:
            assert [tx.dead_letter(d.letter_id) for d in letters] == letters
            assert tx.dead_letter(str(uuid4())) is None

    def test_is_closed_once(self, shared):
        letter = self.letter(shared)
        with shared.store.transaction() as tx:
            assert tx.close_dead_letter(letter.letter_id, "retried")
        with shared.store.transaction() as tx:
            assert not tx.close_dead_letter(letter.letter_id, "discarded")
            assert tx.dead_letter(letter.letter_id) == replace(letter, state="retried")
            assert not tx.close_dead_letter(str(uuid4()), "retried")

    def test_stands_in_the_list_newest_first_until_it_is_closed(self, bench):
        ref = new_step(bench.store)
        first, second, third = self.letter(bench), self.letter(bench, ref), self.letter(bench)
        with bench.store.transaction() as tx:
            assert list(tx.dead_letters()) == [third, second, first]
            tx.close_dead_letter(third.letter_id, "discarded")
        with bench.store.transaction() as tx:
            assert list(tx.dead_letters()) == [second, first]
            assert [d.letter_id for d in tx.dead_letters(state="discarded")] == [third.letter_id]
            assert len(tx.dead_letters(state=None)) == 3
            assert list(tx.dead_letters(plan_id=ref.plan_id)) == [second]

    def test_is_found_by_its_reason_its_tenant_and_its_age(self, bench):
        ours, theirs = (
            new_step(bench.store),
            new_step(bench.store, plan_id=new_plan(bench.store, tenant="other")),
        )
        first = self.letter(bench)
        second = self.letter(bench, ours, reason="timed_out")
        third = self.letter(bench, theirs)

        def found(**sought):
            with bench.store.transaction() as tx:
                return list(tx.dead_letters(**sought))

        assert found(reason="timed_out") == [second]
        assert found(reason="worker_lost") == [third, first]
        assert found(tenant="other") == [third]
        assert found(tenant="default") == [second]
        # now is a second after the third, and they are a second apart
        assert found(older_than=2 * SECOND) == [second, first]
        assert found(newer_than=2 * SECOND) == [third]
        assert found(older_than=2 * SECOND, newer_than=3 * SECOND) == [second]
        assert found(older_than=timedelta(weeks=99_999)) == []
        assert found(newer_than=timedelta(weeks=99_999), tenant="other", reason="timed_out") == []

    def test_is_listed_page_by_page_without_gap_or_repeat(self, bench):
        at = bench.clock()
        made = [self.letter(bench, at=at).letter_id for _ in range(5)]

        seen, behind = [], None
        while True:
            with bench.store.transaction() as tx:
                page = tx.dead_letters(behind=behind, limit=2)
            if not page:
                break
            seen += [d.letter_id for d in page]
            behind = page[-1].at, page[-1].letter_id

        assert seen == sorted(made)


def due(bench, limit=10):
    with bench.store.transaction() as tx:
        return list(tx.due(limit))


def lapsed(bench, limit=10, **rest):
    with bench.store.transaction() as tx:
        return list(tx.lapsed(limit, **rest))


def unheard(bench, limit=10, older_than=LEASE):
    with bench.store.transaction() as tx:
        return sorted(tx.unheard(older_than, limit), key=lambda m: m.ref.number)


class TestADueStep:
    def test_is_one_that_retries_and_whose_time_has_come(self, bench):
        ref = new_step(bench.store)
        bench.place(ref, **{**look_of(StepState.RETRYING, bench.clock), "run_after": NOON + LEASE})
        bench.clock.at = NOON + LEASE - timedelta(microseconds=1)
        assert due(bench) == []
        bench.clock.at = NOON + LEASE
        assert due(bench) == [ref]
        move(bench, ref, StepMove.WAKE)
        assert due(bench) == []

    def test_is_one_that_retries_and_whose_plan_has_no_more_time(self, bench):
        ref = new_step(bench.store)
        bench.place(ref, **{**look_of(StepState.RETRYING, bench.clock), "run_after": NOON + 9 * HOUR})
        bench.clock.at = NOON + HOUR - timedelta(microseconds=1)
        assert due(bench) == []
        bench.clock.at = NOON + HOUR
        assert due(bench) == [ref]

    @pytest.mark.parametrize("state", StepState)
    def test_is_in_no_other_state(self, bench, state):
        ref = new_step(bench.store)
        bench.place(ref, **look_of(state, bench.clock))
        bench.clock.advance(hours=2)
        assert due(bench) == ([ref] if state is StepState.RETRYING else [])

    @pytest.mark.parametrize("state", PlanState)
    def test_is_of_a_plan_that_lives(self, bench, state):
        ref = new_step(bench.store)
        bench.place(ref, **look_of(StepState.RETRYING, bench.clock))
        bench.place_plan(ref.plan_id, **look_of_plan(state, bench.clock))
        assert due(bench) == ([ref] if state in ALIVE else [])

    def test_is_one_of_no_more_than_asked_for(self, bench):
        for ref in new_steps(bench.store, 3):
            bench.place(ref, **look_of(StepState.RETRYING, bench.clock))
        assert len(due(bench, 2)) == 2


class TestALapsedStep:
    def test_is_one_whose_lease_has_ended(self, bench):
        ref = new_step(bench.store)
        claim(bench, ref, holder=bench.holder())
        bench.clock.at = NOON + LEASE - timedelta(microseconds=1)
        assert lapsed(bench) == []
        bench.clock.at = NOON + LEASE
        assert lapsed(bench) == [ref]

    def test_is_not_one_whose_lease_was_renewed(self, bench):
        ref = new_step(bench.store)
        claim(bench, ref, holder=bench.holder())
        bench.clock.advance(LEASE / 2)
        with bench.store.transaction() as tx:
            assert tx.renew(ref, claim=1, lease=LEASE)
        bench.clock.advance(LEASE / 2)
        assert lapsed(bench) == []

    def test_is_one_whose_holder_is_gone_at_once(self, bench):
        first, second = new_steps(bench.store, 2)
        dying, living = bench.holder(), bench.holder()
        claim(bench, first, holder=dying)
        claim(bench, second, holder=living)
        assert lapsed(bench) == []
        bench.lose(dying)
        assert lapsed(bench) == [first]

    def test_can_be_asked_for_by_name(self, bench):
        first, second = new_steps(bench.store, 2)
        holder = bench.holder()
        claim(bench, first, holder=holder)
        claim(bench, second, holder=holder)
        assert lapsed(bench, of=second) == []
        bench.clock.advance(LEASE)
        assert lapsed(bench, of=second) == [second]
        assert lapsed(bench, of=StepRef(first.plan_id, 3)) == []
        assert len(lapsed(bench, 1)) == 1

    @pytest.mark.parametrize("state", StepState)
    def test_is_one_that_runs(self, bench, state):
        ref = new_step(bench.store)
        bench.place(ref, **look_of(state, bench.clock))
        bench.clock.advance(hours=2)
        assert lapsed(bench) == ([ref] if state is StepState.RUNNING else [])


class TestAnUnheardStep:
    def test_is_offered_again_after_a_while_and_then_not_at_once(self, bench):
        ref = new_step(bench.store)
        bench.clock.at = NOON + LEASE - timedelta(microseconds=1)
        assert unheard(bench) == []
        bench.clock.at = NOON + LEASE
        assert unheard(bench) == [Message(Topic.STEPS, ref)]
        assert step_of(bench, ref).offered_at == NOON + LEASE
        assert unheard(bench) == []
        bench.clock.advance(LEASE)
        assert unheard(bench) == [Message(Topic.STEPS, ref)]

    @pytest.mark.parametrize("state", StepState)
    def test_is_ready_or_has_an_outcome_that_was_not_settled(self, bench, state):
        ref = new_step(bench.store)
        bench.place(ref, **look_of(state, bench.clock))
        bench.clock.advance(LEASE)
        topic = {
            StepState.READY: Topic.STEPS,
            StepState.SUCCEEDED: Topic.COMPLETIONS,
            StepState.SKIPPED: Topic.COMPLETIONS,
        }.get(state)
        assert unheard(bench) == ([Message(topic, ref)] if topic else [])

    @pytest.mark.parametrize("state", [StepState.SUCCEEDED, StepState.SKIPPED])
    def test_is_not_one_that_was_settled(self, bench, state):
        ref = new_step(bench.store)
        bench.place(ref, **look_of(state, bench.clock))
        with bench.store.transaction() as tx:
            assert tx.mark_settled([ref])
        bench.clock.advance(LEASE)
        assert unheard(bench) == []

    @pytest.mark.parametrize("state", PlanState)
    def test_is_of_a_plan_that_lives(self, bench, state):
        ref = new_step(bench.store)
        bench.place_plan(ref.plan_id, **look_of_plan(state, bench.clock))
        bench.clock.advance(LEASE)
        assert unheard(bench) == ([Message(Topic.STEPS, ref)] if state in ALIVE else [])

    def test_that_snoozes_is_left_alone_until_it_is_due_and_then_offered_once(self, bench):
        ref = new_step(bench.store)
        claim(bench, ref)
        move(bench, ref, StepMove.SNOOZE, claim=1, delay=HOUR, return_attempt=True)
        bench.clock.at = NOON + HOUR - timedelta(microseconds=1)
        assert unheard(bench) == []
        bench.clock.at = NOON + HOUR
        assert unheard(bench) == [Message(Topic.STEPS, ref)]
        assert unheard(bench) == []

    def test_that_snoozed_less_than_the_wait_is_offered_when_it_is_due(self, bench):
        ref = new_step(bench.store)
        claim(bench, ref)
        move(bench, ref, StepMove.SNOOZE, claim=1, delay=SECOND, return_attempt=True)
        bench.clock.advance(SECOND)
        assert unheard(bench) == [Message(Topic.STEPS, ref)]

    def test_is_one_of_no_more_than_asked_for(self, bench):
        refs = new_steps(bench.store, 3)
        bench.clock.advance(LEASE)
        heard = [*unheard(bench, 2), *unheard(bench, 2), *unheard(bench, 2)]
        assert sorted(m.ref.number for m in heard) == [ref.number for ref in refs]


class TestATransaction:
    def everything(self, bench, plan_id):
        """All that can be read about a plan; reading it leaves nothing behind."""
        with undone(bench.store) as tx:
            return [
                tx.plan(plan_id),
                list(tx.plans()),
                list(tx.steps(plan_id)),
                list(tx.events(plan_id)),
                list(tx.audit(plan_id)),
                list(tx.facts(plan_id)),
                tx.report(plan_id),
                list(tx.ballots(plan_id)),
                list(tx.calls(plan_id)),
                list(tx.approvals()),
                list(tx.dead_letters(state=None)),
                tx.plan_of_key("default", "late"),
                tx.evidence("default", evidence_of("late").sha256),
                list(tx.take_outbox(100)),
            ]

    def test_that_fails_says_why(self, shared):
        with pytest.raises(Undo), shared.store.transaction() as tx:  # noqa: PT012 - the store must not swallow it
            tx.now()
            raise Undo

    def test_that_fails_leaves_nothing_behind(self, bench, sealer):
        first, second, third, fourth = new_steps(bench.store, 4)
        plan_id = first.plan_id
        source = evidence_of()
        approval = approval_of(first, bench.clock)
        letter = DeadLetter(str(uuid4()), plan_id, 1, "reason", "detail", bench.clock())
        with bench.store.transaction() as tx:
            tx.lock_plan(plan_id)
            tx.add_event(plan_id, "before", {})
            tx.add_audit(sealer.seal(chain=plan_id, number=1, kind="before", body={}, prev=b""))
            tx.put_evidence("default", source)
            tx.add_facts(plan_id, [fact_of(1, 1, source)])
            tx.put_report(plan_id, {"v": 1})
            tx.put_call(call_of(first))
            tx.put_call(call_of(first, "open"))
            tx.add_approval(approval)
            tx.add_dead_letter(letter)
            tx.send([Message(Topic.STEPS, first), Message(Topic.STEPS, second)])
            claim_one(tx, second, holder=7)
            claim_one(tx, third, holder=7)
            tx.move_step(third, StepMove.COMPLETE, claim=1, verdict="found")
        before = self.everything(bench, plan_id)
        bench.clock.advance(LEASE)
        with undone(bench.store) as tx:
            plan = tx.lock_plan(plan_id)
            tx.add_plan(str(uuid4()), asked(key="late"), tx.now())
            tx.move_plan(plan_id, PlanMove.START)
            tx.mark_partial(plan_id)
            tx.spend(plan_id, Spent(calls=3))
            tx.add_steps(plan_id, [NewStep(Agent.KEEPER)], max_attempts=1)
            tx.unheard(LEASE, 10)
            claim_one(tx, first, holder=7)
            tx.move_step(fourth, StepMove.CANCEL)
            tx.renew(second, claim=1, lease=HOUR)
            tx.mark_settled([third])
            tx.add_event(plan_id, "late", {})
            tx.add_audit(sealer.seal(chain=plan_id, number=2, kind="late", body={}, prev=plan.audit_head))
            tx.send([Message(Topic.DEAD, first)])
            tx.put_evidence("default", evidence_of("late"))
            tx.add_facts(plan_id, [fact_of(1, 2, source)])
            tx.put_report(plan_id, {"v": 2})
            tx.add_ballot(ballot_of(plan_id))
            tx.put_call(call_of(first, "late"))
            tx.finish_call(first, "k", 0, claim=1, state=CallState.DONE)
            tx.orphan_calls(first)
            tx.allow_repeat(first, "k")
            tx.add_approval(approval_of(second, bench.clock))
            tx.decide(approval.approval_id, ApprovalState.APPROVED, by="grace", comment="")
            tx.add_dead_letter(replace(letter, letter_id=str(uuid4())))
            tx.close_dead_letter(letter.letter_id, "retried")
            tx.take_outbox(1)
            tx.plan(plan_id)  # makes sure that what was gathered has been written
            tx.send([Message(Topic.COMPLETIONS, third)])
        assert self.everything(bench, plan_id) == before

    def test_sees_what_it_wrote_and_others_see_it_afterwards(self, shared):
        ref = new_step(shared.store)
        with shared.store.transaction() as tx:
            tx.lock_plan(ref.plan_id)
            claim_one(tx, ref, holder=7)
            assert tx.step(ref).state is StepState.RUNNING
        assert step_of(shared, ref).state is StepState.RUNNING


class TestAStoreOfOneTenant:
    def test_finds_what_is_its_tenant_s_and_nothing_else(self, bench):
        ours, theirs = (
            new_step(bench.store, plan_id=new_plan(bench.store, tenant="ours")),
            new_step(bench.store),
        )
        with bench.store.of("ours").transaction() as tx:
            assert [plan.plan_id for plan in tx.plans()] == [ours.plan_id]
            assert tx.step(ours) is not None
            assert (
                tx.plan(theirs.plan_id)
                is tx.step(theirs)
                is tx.lock_step(theirs)
                is tx.lock_plan(theirs.plan_id)
                is None
            )
            assert [
                *tx.steps(theirs.plan_id),
                *tx.events(theirs.plan_id),
                *tx.lock_plans([theirs.plan_id]),
            ] == []
            assert not tx.move_plan(theirs.plan_id, PlanMove.CANCEL)
            assert not tx.move_step(theirs, StepMove.CANCEL)

    def test_writes_for_its_tenant_what_everybody_finds(self, bench):
        ref = new_step(bench.store, plan_id=new_plan(bench.store, tenant="ours"))
        with bench.store.of("ours").transaction() as tx:
            tx.lock_plan(ref.plan_id)
            tx.add_event(ref.plan_id, "noted", {})
            tx.send([Message(Topic.STEPS, ref)])
            assert tx.move_step(ref, StepMove.CANCEL)
        with bench.store.transaction() as tx:
            assert [event.kind for event in tx.events(ref.plan_id)] == ["noted"]
            assert [message.ref for message in tx.take_outbox(10)] == [ref]
            assert tx.step(ref).state is StepState.CANCELLED

    def test_writes_nothing_when_its_block_raises(self, bench):
        ref = new_step(bench.store, plan_id=new_plan(bench.store, tenant="ours"))
        with undone(bench.store.of("ours")) as tx:
            tx.lock_plan(ref.plan_id)
            tx.add_event(ref.plan_id, "noted", {})
            tx.send([Message(Topic.STEPS, ref)])
            tx.move_step(ref, StepMove.CANCEL)
        with bench.store.transaction() as tx:
            assert not tx.events(ref.plan_id)
            assert not tx.take_outbox(10)
            assert tx.step(ref).state is StepState.READY

    def test_removes_what_is_its_tenant_s_and_nothing_else(self, bench):
        made = [Schedule(str(uuid4()), t, "daily", "0 6 * * *", "UTC", {}) for t in ("ours", "theirs")]
        with bench.store.transaction() as tx:
            assert [tx.add_schedule(schedule) for schedule in made] == [True, True]
        with undone(bench.store.of("ours")) as tx:
            assert tx.remove_schedule(made[0].schedule_id)
        with bench.store.of("ours").transaction() as tx:
            assert [tx.remove_schedule(schedule.schedule_id) for schedule in made] == [True, False]
        with bench.store.transaction() as tx:
            assert [schedule.tenant for schedule in tx.schedules()] == ["theirs"]

    def test_begins_a_statement_that_commits_itself_for_its_tenant_only(self, bench):
        ours, theirs = (
            new_step(bench.store, plan_id=new_plan(bench.store, tenant="ours")),
            new_step(bench.store),
        )
        with bench.store.of("ours").at_once() as tx:
            assert set(tx.claim_steps([ours, theirs], holder=7, lease=LEASE)) == {ours}
        assert step_of(bench, ours).state is StepState.RUNNING
        assert step_of(bench, theirs).state is StepState.READY

    @pytest.mark.parametrize("what", ["a plan", "a schedule", "evidence", "a dead letter of no plan"])
    def test_refuses_what_is_another_s_to_have(self, bench, what):
        letter = DeadLetter(str(uuid4()), None, None, "undecodable", "?", NOON)
        write = {
            "a plan": lambda tx: tx.add_plan(str(uuid4()), asked(tenant="theirs"), NOON + HOUR),
            "a schedule": lambda tx: tx.add_schedule(
                Schedule(str(uuid4()), "theirs", "daily", "0 6 * * *", "UTC", {})
            ),
            "evidence": lambda tx: tx.put_evidence("theirs", Evidence.of(TEXT, locator="a.txt")),
            "a dead letter of no plan": lambda tx: tx.add_dead_letter(letter),
        }[what]
        with pytest.raises(ForeignTenant), bench.store.of("ours").transaction() as tx:
            write(tx)
        with bench.store.transaction() as tx:
            assert not [*tx.plans(), *tx.schedules(), *tx.dead_letters()]
            assert tx.evidence("theirs", Evidence.of(TEXT, locator="a.txt").sha256) is None

    def test_cannot_become_that_of_another(self, bench):
        with pytest.raises(ForeignTenant):
            bench.store.of("ours").of("theirs")

    @pytest.mark.parametrize("name", ["", "a\x00b"])
    def test_needs_a_name(self, bench, name):
        with pytest.raises(InvalidRequest):
            bench.store.of(name)
