"""Plans that wait for people, for long and by the thousand: they keep what they have, and hold nothing."""

from __future__ import annotations

import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from orchestrator import chains
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.errors import AlreadyDecided, Fenced, WrongRole
from orchestrator.domain.outcome import Held
from orchestrator.domain.plan import ApprovalState, Chain, PlanState, Stage, StepRef, StepState, request
from orchestrator.queries import queries
from orchestrator.relay import Relay
from tests.contract.bench import InMemoryBench, PostgresBench
from tests.contract.test_gate import Lost
from tests.contract.workbench import opened
from workers.gate.gate import CallHeld

DAY = timedelta(days=1)
MANY = 10_000


@pytest.fixture(params=[pytest.param("postgres", marks=pytest.mark.postgres), "inmemory"])
def work(request, sealer):
    """A gate and a conductor with the chains that come with the program."""
    bench = PostgresBench(request.getfixturevalue("dsn")) if request.param == "postgres" else InMemoryBench()
    with opened(bench, sealer) as made:
        made.rules = Rules(chains=chains.load(30 * DAY))  # so that each call is a DECISION
        made.conductor = made.conductor_on(made.store)
        yield made
    bench.close()


def held_call(work, claimed, arguments, category="DECISION"):
    """Let a call wait for people; the approval."""
    with pytest.raises(CallHeld) as held:
        work.gate().call(claimed, "write", arguments, occurrence=0)
    work.conductor.report(claimed, Held(category, held.value.question, held.value.args_digest))
    with work.store.transaction() as tx:
        return tx.approvals(plan_id=claimed.ref.plan_id, state=ApprovalState.PENDING)[-1]


def decide(work, asked, by, role, **rest):
    return work.conductor.decide(asked.approval_id, **{"approve": True, "by": by, "roles": [role], **rest})


class TestAPlanThatIsParked:
    def test_for_31_days_goes_on_with_its_call_where_it_stopped(self, work):
        claimed = work.claim()
        asked = held_call(work, claimed, {"about": "x"})
        before = work.rows("plan", claimed.ref.plan_id)

        for _ in range(31):
            work.bench.clock.advance(DAY)
            work.conductor.sweep()
        parked = work.rows("plan", claimed.ref.plan_id)
        assert parked.state is PlanState.WAITING_APPROVAL
        assert parked.overdue(work.bench.clock())
        decide(work, asked, "bob", "team_lead")
        assert decide(work, asked, "eve", "manager").state is ApprovalState.APPROVED

        resumed = work.rows("plan", claimed.ref.plan_id)
        assert resumed.deadline == before.deadline + 31 * DAY
        again = work.claim(claimed.ref)
        work.gate().call(again, "write", {"about": "x"}, occurrence=0)
        assert [call[:2] for call in work.witness.calls] == [("write", "x")]
        assert again.step.attempt == 1

    def test_is_asked_of_the_manager_after_a_month_and_ends_a_month_later(self, work):
        asked = held_call(work, work.claim(), {"about": "x"})
        work.bench.clock.advance(30 * DAY)
        work.conductor.sweep()
        with work.store.transaction() as tx:
            assert "manager" in tx.approval(asked.approval_id).roles
        work.bench.clock.advance(30 * DAY)
        work.conductor.sweep()
        assert work.rows("plan", asked.plan_id).state is PlanState.REJECTED
        assert work.witness.calls == []


class TestTheGate:
    def approved(self, work, arguments):
        claimed = work.claim(budget={"seconds": 30 * 24 * 3600})
        asked = held_call(work, claimed, arguments)
        return claimed.ref, decide(work, asked, "olga", "operator")

    @pytest.mark.parametrize(
        "arguments", [{"about": "y"}, {"about": "x "}, {"about": "x", "also": ""}, {}, {"About": "x"}]
    )
    def test_does_not_make_a_call_whose_arguments_changed_after_the_approval(self, work, arguments):
        ref, _ = self.approved(work, {"about": "x"})
        claimed = work.claim(ref)
        with pytest.raises(CallHeld):
            work.gate().call(claimed, "write", arguments, occurrence=0)
        assert work.witness.calls == []

    def test_does_not_make_a_call_once_its_approval_has_lapsed_and_asks_again(self, work):
        ref, given = self.approved(work, {"about": "x"})
        claimed = work.claim(ref)
        work.bench.clock.at = given.holds_until
        asked = held_call(work, claimed, {"about": "x"})
        assert work.witness.calls == []
        assert asked.approval_id != given.approval_id
        decide(work, asked, "olga", "operator")
        work.gate().call(work.claim(ref), "write", {"about": "x"}, occurrence=0)
        assert len(work.witness.calls) == 1

    def test_says_that_a_call_may_have_happened_when_it_asks_again_after_a_loss(self, work):
        ref, given = self.approved(work, {"about": "x"})
        claimed = work.claim(ref)

        class Host:
            def call(self, *asked, **rest):
                work.host.call(*asked, **rest)
                raise Lost

        with suppress(Lost):
            work.gate(host=Host()).call(claimed, "write", {"about": "x"}, occurrence=0)
        again = work.lose(claimed)
        work.bench.clock.at = given.holds_until

        with pytest.raises(CallHeld, match="may have happened already"):
            work.gate().call(again, "write", {"about": "x"}, occurrence=0)
        assert len(work.witness.calls) == 1

    def test_makes_it_until_then(self, work):
        ref, given = self.approved(work, {"about": "x"})
        claimed = work.claim(ref)
        work.bench.clock.at = given.holds_until - timedelta(microseconds=1)
        work.gate().call(claimed, "write", {"about": "x"}, occurrence=0)
        assert len(work.witness.calls) == 1

    def test_does_not_make_a_call_that_half_of_a_chain_has_approved(self, work):
        claimed = work.claim()
        asked = held_call(work, claimed, {"about": "x"})
        decide(work, asked, "bob", "team_lead")
        assert work.conductor.begin(claimed.ref, holder=9) is None
        with pytest.raises((CallHeld, Fenced)):
            work.gate().call(claimed, "write", {"about": "x"}, occurrence=0)
        assert work.witness.calls == []

    def by_kind(self, work):
        """Let calls be about what the file that comes with the program says."""
        work.rules = replace(work.rules, categories=chains.categories())
        work.conductor = work.conductor_on(work.store)

    @pytest.mark.parametrize("category", ["DECISION", "QUALITY", "COST"])
    def test_does_not_take_an_approval_of_something_else_for_one_of_what_the_call_is(self, work, category):
        self.by_kind(work)
        claimed = work.claim(budget={"seconds": 30 * 24 * 3600})
        asked = held_call(work, claimed, {"about": "x"}, category)
        decide(work, asked, "olga", "operator")

        with pytest.raises(CallHeld):
            work.gate().call(work.claim(claimed.ref), "write", {"about": "x"}, occurrence=0)
        assert work.witness.calls == []

    def test_says_what_a_call_is_about_so_that_the_right_people_are_asked(self, work):
        self.by_kind(work)
        ref = work.submit()
        mind = {work.rows("step", ref).agent: lambda _, toolbox: toolbox.call("write", about="x")}
        work.executor(mind).run(ref)
        with work.store.transaction() as tx:
            (asked,) = tx.approvals(plan_id=ref.plan_id)
        assert (asked.category, asked.roles) == ("EXTERNAL_ACTION", ("team_lead", "manager", "operator"))
        with pytest.raises(WrongRole):
            decide(work, asked, "bob", "approver")


@pytest.fixture
def conductor(pg_store, sealer):
    two = Chain((Stage((("lead",),), DAY), Stage((("lead",),), DAY)))
    rules = Rules(chains={"TWO": two})
    return Conductor(pg_store, sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.0, rules=rules)


def park(conductor, category="ONE"):
    """Let a new plan wait for people; its approval."""
    plan = conductor.submit(request("Why?", requester="ann"))
    claimed = conductor.begin(StepRef(plan.plan_id, 1), holder=1)
    conductor.report(claimed, Held(category, "May it?", "digest", ("lead",)))
    with conductor.store.transaction() as tx:
        return tx.approvals(plan_id=plan.plan_id)[0]


@pytest.mark.postgres
class TestFiftyDecisionsAtOnce:
    @pytest.mark.parametrize(("category", "stage"), [("ONE", None), ("TWO", 1)])
    def test_have_one_winner_and_the_others_are_told(self, dsn, conductor, category, stage):
        asked = park(conductor, category)
        barrier = threading.Barrier(50)

        def rule(n):
            barrier.wait(60)
            try:
                conductor.decide(
                    asked.approval_id,
                    approve=category == "TWO" or n % 2 == 0,
                    by=f"person {n}",
                    roles=["lead"],
                    stage=stage,
                )
            except AlreadyDecided:
                return "told"
            return "won"

        with ThreadPoolExecutor(50) as pool:
            assert Counter(pool.map(rule, range(50))) == {"won": 1, "told": 49}
        with conductor.store.transaction() as tx:
            assert len(tx.rulings(asked.approval_id)) == 1
            events = [e.kind for e in tx.events(asked.plan_id)]
            outbox = len(tx.take_outbox(100))
        assert sum(kind in {"approval.decided", "approval.advanced"} for kind in events) == 1
        assert outbox <= 2  # the first doorbell, and at most one more

    def test_of_one_person_fill_one_seat(self, conductor):
        asked = park(conductor, "TWO")

        def rule(_):
            try:
                conductor.decide(asked.approval_id, approve=True, by="bob", roles=["lead"])
            except Exception as error:  # noqa: BLE001 - told apart below
                return type(error).__name__
            return "won"

        with ThreadPoolExecutor(20) as pool:
            assert Counter(pool.map(rule, range(20))) == {"won": 1, "DecidesTwice": 19}


class Bell:
    """A bus that remembers what it was to ring for."""

    def __init__(self):
        self.rung = []

    def publish(self, messages):
        self.rung += messages

    def depth(self, _topic):
        return 0

    def room(self):
        return 1_000


COPIES = """
    INSERT INTO plan
    SELECT (jsonb_populate_record(p, jsonb_build_object('plan_id', gen_random_uuid(), 'idempotency_key', NULL))).*
      FROM plan AS p, generate_series(1, %(number)s)
     WHERE p.plan_id = %(plan_id)s;

    INSERT INTO step
    SELECT (jsonb_populate_record(s, jsonb_build_object('plan_id', p.plan_id))).*
      FROM step AS s, plan AS p
     WHERE s.plan_id = %(plan_id)s AND p.plan_id <> %(plan_id)s;

    INSERT INTO approval
    SELECT (jsonb_populate_record(a, jsonb_build_object('approval_id', gen_random_uuid(), 'plan_id', p.plan_id))).*
      FROM approval AS a, plan AS p
     WHERE a.plan_id = %(plan_id)s AND p.plan_id <> %(plan_id)s;
"""


@pytest.mark.postgres
class TestTenThousandParkedPlans:
    def test_hold_no_task_no_thread_no_connection_and_go_on_when_asked(self, dsn, conductor):
        first = park(conductor)
        bell = Bell()
        relay = Relay(conductor.store, bell, ring=conductor.offer_again)
        relay.step()
        bell.rung.clear()
        with psycopg.connect(dsn, autocommit=True) as hand:
            before = self.held(hand)
            for copy in COPIES.split(";\n")[:-1]:
                hand.execute(copy, {"number": MANY - 1, "plan_id": first.plan_id})

            for _ in range(3):
                assert not conductor.sweep()
                assert conductor.offer_again(timedelta(0)) == 0
                assert relay.step() == 0

            assert hand.execute("SELECT count(*) FROM plan WHERE state = 'waiting_approval'").fetchone() == (
                MANY,
            )
            assert self.held(hand) == before
            assert bell.rung == []

        with conductor.store.transaction() as tx:
            (last,) = tx.approvals(role="lead", limit=MANY)[-1:]
        conductor.decide(last.approval_id, approve=True, by="bob", roles=["lead"])
        assert relay.step() == 1
        assert [m.ref for m in bell.rung] == [StepRef(last.plan_id, 1)]
        assert conductor.begin(bell.rung[0].ref, holder=1).step.state is StepState.RUNNING

    def held(self, hand):
        """Threads of this process, sessions, locks and messages of this database."""
        counts = (
            "pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'",
            "pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()",
            "step WHERE holder IS NOT NULL",
            "outbox",
        )
        found = [hand.execute(f"SELECT count(*) FROM {what}").fetchone()[0] for what in counts]
        return threading.active_count(), *found


def test_nothing_removes_a_plan_or_what_people_decided_about_it():
    """There is no retention yet; whoever writes it must let plans that wait for people stand."""
    removed = {table for text in queries().values() for table in re.findall(r"DELETE\s+FROM\s+(\w+)", text)}
    assert (
        removed & {"plan", "step", "call", "fact", "evidence", "approval", "ruling", "notification"} == set()
    )
