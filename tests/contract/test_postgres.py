"""What only a real database can show: races, lost sessions, refused rows, and coming up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from orchestrator import database
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.budget import Spent
from orchestrator.domain.errors import AlreadyDecided, Misconfigured, Unavailable
from orchestrator.domain.lifecycle import StepMove
from orchestrator.domain.outcome import Completed, Held
from orchestrator.domain.plan import (
    Agent,
    Approval,
    ApprovalState,
    Call,
    CallState,
    DeadLetter,
    Evidence,
    Fact,
    Notification,
    PlanState,
    Ruling,
    Semantics,
    StepRef,
    StepState,
)
from orchestrator.domain.stop import Stop
from orchestrator.keyring import KeyRing
from orchestrator.messages import Message, Topic
from orchestrator.ports import Completion
from orchestrator.queries import queries
from orchestrator.store import ALIVE_CLASS, Alive, PgStore
from orchestrator.vault.chain import Sealer
from orchestrator.vault.secrets import MasterKeys, SealedSecrets
from tests.contract.bench import LEASE, asked, claim_one, complete_one, new_plan, new_step, new_steps

pytestmark = pytest.mark.postgres

ROOT = Path(__file__).resolve().parents[2]


def conductor_on(store, sealer, **rules) -> Conductor:
    return Conductor(
        store, sealer, new_id=lambda: str(uuid4()), draw=random.Random(1).random, rules=Rules(**rules)
    )


@pytest.fixture
def conductor(pg_store, sealer) -> Conductor:
    return conductor_on(pg_store, sealer)


@pytest.fixture
def hand(dsn) -> Iterator[psycopg.Connection]:
    """A connection for writing what no guard would."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def alive(dsn) -> Iterator[Alive]:
    worker = Alive(dsn)
    yield worker
    worker.close()


def approval_of(ref: StepRef, expires_at: datetime) -> Approval:
    return Approval(
        str(uuid4()), ref.plan_id, ref.number, "spend", ("owner",), "?", "d", "ada", expires_at=expires_at
    )


def at_once(number: int, act: Callable[[int], object]) -> list[object]:
    """Let that many threads act at the same moment; what each returned."""
    barrier = threading.Barrier(number)

    def wait_and_act(n: int) -> object:
        barrier.wait(60)
        return act(n)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(wait_and_act, range(number)))


def eventually(holds: Callable[[], object], within_s: float = 60.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.01)
    return False


class TestManyAtOnce:
    def test_twenty_that_claim_one_step_have_one_winner(self, pg_store):
        ref = new_step(pg_store)

        def claim(n):
            with pg_store.transaction() as tx:
                return claim_one(tx, ref, holder=n + 1)

        won = [taken[1] for taken in at_once(20, claim) if taken is not None]
        assert len(won) == 1
        with pg_store.transaction() as tx:
            assert tx.step(ref) == won[0]
        assert (won[0].claim, won[0].attempt) == (1, 1)

    def test_sixteen_that_complete_steps_of_one_plan_number_its_events_without_gaps(self, pg_store):
        refs = new_steps(pg_store, 16)
        for ref in refs:
            with pg_store.at_once() as tx:
                assert claim_one(tx, ref, holder=1)

        def complete(n):
            with pg_store.at_once() as tx:
                return complete_one(tx, refs[n])

        assert all(at_once(16, complete))
        with pg_store.transaction() as tx:
            events = tx.events(refs[0].plan_id)
            assert [e.number for e in events] == [*range(1, 17)]
            assert {e.body["step"] for e in events} == {*range(1, 17)}
            assert tx.plan(refs[0].plan_id).event_count == 16

    def test_eight_that_settle_the_same_steps_decide_each_once(self, pg_store, conductor):
        plans = [conductor.submit(asked(key=str(n))).plan_id for n in range(12)]
        refs = [StepRef(plan_id, 1) for plan_id in plans]
        for ref in refs:
            claimed = conductor.begin(ref, holder=1)
            assert conductor.report(claimed, Completed("deep"))

        at_once(8, lambda n: conductor.settle_all(refs if n % 2 else refs[::-1]))

        for plan_id in plans:
            with pg_store.transaction() as tx:
                assert [s.number for s in tx.steps(plan_id)] == [1, 2]

    def test_two_that_settle_the_last_steps_of_a_round_at_once_go_on_once(self, pg_store, conductor):
        for turn in range(10):
            plan_id = conductor.submit(asked(key=str(turn))).plan_id
            for number, outcome in [
                (1, Completed("deep")),
                (2, Completed("planned", follow_ups=[{"q": 1}, {"q": 2}])),
            ]:
                conductor.report(conductor.begin(StepRef(plan_id, number), holder=1), outcome)
                conductor.settle(StepRef(plan_id, number))
            last = [StepRef(plan_id, 3), StepRef(plan_id, 4)]
            for ref in last:
                conductor.report(conductor.begin(ref, holder=1), Completed("found"))

            at_once(2, lambda n: conductor.settle(last[n]))  # noqa: B023 - it is called before the next turn

            with pg_store.transaction() as tx:
                assert [s.agent for s in tx.steps(plan_id)][4:] == [Agent.KEEPER]

    def test_fifty_that_submit_with_one_key_get_one_plan(self, pg_store, conductor):
        plans = at_once(50, lambda _: conductor.submit(asked(key="once")))
        assert len({plan.plan_id for plan in plans}) == 1
        with pg_store.transaction() as tx:
            assert len(tx.plans(limit=100)) == 1
            assert len(tx.steps(plans[0].plan_id)) == 1
            assert len(tx.take_outbox(100)) == 1

    def test_sixteen_that_write_about_one_plan_number_its_events_without_gaps(self, pg_store, sealer):
        plan_id = new_plan(pg_store)

        def write(n):
            for _ in range(5):
                with pg_store.transaction() as tx:
                    plan = tx.lock_plan(plan_id)
                    tx.add_event(plan_id, "kind", {"thread": n})
                    tx.spend(plan_id, Spent(calls=1))
                    tx.add_audit(
                        sealer.seal(
                            chain=plan_id,
                            number=plan.audit_count + 1,
                            kind="kind",
                            body={},
                            prev=plan.audit_head,
                        )
                    )

        at_once(16, write)
        with pg_store.transaction() as tx:
            plan, records = tx.plan(plan_id), tx.audit(plan_id)
            assert [e.number for e in tx.events(plan_id)] == list(range(1, 81))
        assert (plan.event_count, plan.spent.calls, plan.audit_count) == (80, 80, 80)
        assert sealer.verify(plan_id, records, count=plan.audit_count, head=plan.audit_head) is None

    def test_ten_that_decide_one_approval_have_one_winner(self, pg_store, conductor):
        conductor.submit(asked(requester="ada"))
        with pg_store.transaction() as tx:
            (message,) = tx.take_outbox(10)
        claimed = conductor.begin(message.ref, holder=1)
        conductor.report(
            claimed, Held(category="spend", roles=("owner",), question="May I?", args_digest="d" * 64)
        )
        with pg_store.transaction() as tx:
            (approval,) = tx.approvals()

        def decide(n):
            try:
                conductor.decide(approval.approval_id, approve=n % 2 == 0, by=f"person {n}", roles=["owner"])
            except AlreadyDecided:
                return None
            return n

        won = [n for n in at_once(10, decide) if n is not None]
        assert len(won) == 1
        with pg_store.transaction() as tx:
            assert tx.approval(approval.approval_id).decided_by == f"person {won[0]}"

    def test_two_relays_take_different_messages_and_do_not_wait_for_each_other(self, pg_store):
        refs = [StepRef(str(uuid4()), n) for n in range(1, 7)]
        with pg_store.transaction() as tx:
            tx.send(Message(Topic.STEPS, ref) for ref in refs)
        with pg_store.transaction() as one, pg_store.transaction() as other:
            taken = [m.ref.number for m in one.take_outbox(3)]
            others = [m.ref.number for m in other.take_outbox(10)]
        assert (taken, others) == ([1, 2, 3], [4, 5, 6])

    @pytest.mark.parametrize(
        "avoided", ["hashjoin, mergejoin, hashagg, sort, material", "nestloop, hashagg", "seqscan, sort"]
    )
    def test_a_relay_takes_no_more_than_it_asked_for_however_the_query_is_planned(self, dsn, hand, avoided):
        for name in avoided.split(", "):
            hand.execute(f"ALTER DATABASE {hand.info.dbname} SET enable_{name} = off")
        store = PgStore(dsn)
        with store.transaction() as tx:
            tx.send(Message(Topic.STEPS, StepRef(str(uuid4()), n)) for n in range(1, 31))
        refs = new_steps(store, 30)
        with store.transaction() as tx:
            assert [m.ref.number for m in tx.take_outbox(4)] == [1, 2, 3, 4]
            assert len(tx.unheard(timedelta(0), 4)) == 4
            assert len(tx.steps(refs[0].plan_id)) == 30
        store.close()

    def test_a_relay_takes_no_more_than_it_asked_for_after_the_outbox_was_almost_empty(self, pg_store, hand):
        def send(numbers):
            with pg_store.transaction() as tx:
                tx.send(Message(Topic.STEPS, StepRef(str(uuid4()), n)) for n in numbers)

        send([1])
        hand.execute("VACUUM ANALYZE outbox")
        send(range(2, 31))
        with pg_store.transaction() as tx:
            assert [m.ref.number for m in tx.take_outbox(4)] == [1, 2, 3, 4]


class TestSeveralAtOnce:
    """A statement for several steps must not keep all of them waiting for one that somebody holds."""

    @pytest.fixture
    def hand(self, hand):
        """One that lets go after a while, so that a store which waits for it shows as a failure."""
        hand.execute("SET idle_in_transaction_session_timeout = '3s'")
        return hand

    def test_are_not_claimed_while_one_of_them_is_held(self, pg_store, hand):
        held, free = new_step(pg_store), new_step(pg_store)
        with hand.transaction():
            hand.execute("SELECT FROM step WHERE plan_id = %s FOR UPDATE", [held.plan_id])
            with pg_store.at_once() as tx:
                assert tx.claim_steps([held, free], holder=1, lease=LEASE, first=True) == {}
            with pg_store.at_once() as tx:
                assert set(tx.claim_steps([free], holder=1, lease=LEASE, first=True)) == {free}
        with pg_store.at_once() as tx:
            assert set(tx.claim_steps([held], holder=1, lease=LEASE, first=True)) == {held}

    def test_are_not_completed_while_the_plan_of_one_is_held(self, pg_store, hand):
        held, free = new_step(pg_store), new_step(pg_store)
        for ref in (held, free):
            with pg_store.at_once() as tx:
                assert claim_one(tx, ref, holder=1)
        came = [Completion(ref, 1, "found", [], {}, {}) for ref in (held, free)]
        with hand.transaction():
            hand.execute("SELECT FROM plan WHERE plan_id = %s FOR UPDATE", [held.plan_id])
            with pg_store.at_once() as tx:
                assert set(tx.complete_steps(came)) == set()
            with pg_store.at_once() as tx:
                assert set(tx.complete_steps(came[1:])) == {free}

    @pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
    def test_are_completed_without_reading_others(self, pg_store, hand, mode):
        refs = [new_steps(pg_store, 190)[n] for n in range(16)][:8]
        with pg_store.at_once() as tx:
            assert len(tx.claim_steps(refs, holder=1, lease=LEASE)) == 8
        hand.execute("ANALYZE step")
        hand.execute(f"SET enable_seqscan = off; SET plan_cache_mode = {mode}")
        came = [
            {
                "plan_id": ref.plan_id,
                "number": ref.number,
                "claim": 1,
                "verdict": "found",
                "follow_ups": [],
                "result": {},
                "told": {},
            }
            for ref in refs
        ]
        values = {"completions": Jsonb(came), "number": len(came), "patience": None, "now": None}
        with hand.transaction():
            assert len(hand.execute(queries()["complete_steps"], values, prepare=True).fetchall()) == 8
            read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'step'"
            assert hand.execute(read).fetchone()[0] < 40


class TestAQuery:
    """Postgres plans what is asked for all the time once, and anew only what depends on who asks."""

    def rows_read(self, tx, table: str) -> int:
        read = "SELECT seq_tup_read + idx_tup_fetch AS read FROM pg_stat_xact_user_tables WHERE relname = %s"
        return tx._connection.execute(read, [table]).fetchone()["read"]

    def test_of_every_step_is_planned_once(self, pg_store):
        read = "SELECT name, generic_plans, custom_plans FROM pg_prepared_statements"
        with pg_store.transaction() as tx:
            for _ in range(12):
                tx.lock_plans([str(uuid4())], wait=False)
                assert claim_one(tx, StepRef(str(uuid4()), 1), holder=1) is None
                assert (
                    tx.complete_steps([Completion(StepRef(str(uuid4()), 1), 1, "found", [], {}, {})]) == set()
                )
            planned = tx._connection.execute(read).fetchall()
        assert len(planned) >= 3
        assert all(row["generic_plans"] > 0 and row["custom_plans"] == 0 for row in planned)

    def test_for_the_plans_of_a_small_tenant_reads_no_other_plans(self, pg_store):
        for n in range(40):
            new_plan(pg_store, tenant="large")
            if n % 20 == 0:
                new_plan(pg_store, tenant="small")
        for _ in range(7):  # more often than it takes to be prepared
            with pg_store.transaction() as tx:
                before = self.rows_read(tx, "plan")
                assert len(tx.plans(tenant="small")) == 2
                assert self.rows_read(tx, "plan") - before < 10

    def test_planned_while_there_was_nothing_is_planned_anew_in_a_crowd(self, dsn, hand):
        pg_store = PgStore(dsn, planned_for_s=0.0)
        hand.execute("ANALYZE plan, step")
        with pg_store.at_once() as tx:
            for _ in range(7):
                assert claim_one(tx, StepRef(str(uuid4()), 1), holder=1) is None
        refs = [new_steps(pg_store, 190)[0] for _ in range(4)]
        with pg_store.transaction() as tx:
            before = self.rows_read(tx, "step")
            assert len(tx.claim_steps(refs, holder=1, lease=LEASE)) == 4
            assert self.rows_read(tx, "step") - before < 20
        pg_store.close()


class TestACompletionThatIsLate:
    @pytest.mark.parametrize("again", [False, True], ids=["and nobody took it", "and another took it"])
    def test_writes_nothing_when_its_claim_is_lost_while_it_waits_for_the_plan(self, dsn, hand, again):
        pg_store = PgStore(dsn, patience_s=30)
        ref = new_step(pg_store)
        with pg_store.at_once() as tx:
            assert claim_one(tx, ref, holder=1)
        came = []

        def complete():
            with pg_store.at_once() as tx:
                came.append(complete_one(tx, ref, result={"a": 1}))

        with pg_store.transaction() as tx:
            tx.lock_plan(ref.plan_id)
            late = threading.Thread(target=complete)
            late.start()
            waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            assert eventually(lambda: hand.execute(waits).fetchone()[0] == 1)
            assert tx.move_step(ref, StepMove.RESCUE, claim=1)
            assert not again or claim_one(tx, ref, holder=2)
        late.join(60)

        assert came == [False]
        with pg_store.transaction() as tx:
            assert (tx.plan(ref.plan_id).event_count, list(tx.events(ref.plan_id))) == (0, [])
            step = tx.step(ref)
            assert (step.state, step.result) == (StepState.RUNNING if again else StepState.READY, {})
            assert [m for m in tx.take_outbox(10) if m.topic is Topic.COMPLETIONS] == []
        pg_store.close()


class TestAProcessThatFallsSilent:
    """A process that stops in the middle of a transaction holds its plan; it must not hold up anything else."""

    @contextmanager
    def holding(self, dsn, plan_id):
        with psycopg.connect(dsn) as silent:
            silent.execute("SELECT FROM plan WHERE plan_id = %s FOR UPDATE", [plan_id])
            yield
            silent.rollback()

    def ended(self, act):
        """Whether something comes to its end while the plan is held."""
        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        thread.join(5)
        return thread, not thread.is_alive()

    def test_keeps_no_sweeper_from_the_other_plans(self, pg_store, dsn, conductor):
        refs = [run_by(pg_store, holder=9) for _ in range(3)]  # nobody of that number lives
        with self.holding(dsn, refs[0].plan_id):
            thread, ended = self.ended(conductor.sweep)
            with pg_store.transaction() as tx:
                states = [tx.step(ref).state for ref in refs]
        thread.join(60)
        assert ended
        assert states == [StepState.RUNNING, StepState.READY, StepState.READY]
        assert conductor.rescue() == 1

    def test_keeps_no_completion_of_another_plan_waiting_and_its_own_is_rung_for_again(
        self, pg_store, dsn, conductor
    ):
        refs = [StepRef(conductor.submit(asked(key=str(n))).plan_id, 1) for n in range(3)]
        for ref in refs:
            assert conductor.report(conductor.begin(ref, holder=1), Completed("deep"))
        with pg_store.transaction() as tx:
            tx.take_outbox(100)
        with self.holding(dsn, refs[1].plan_id):
            thread, ended = self.ended(lambda: conductor.settle_all(refs))
        thread.join(60)
        assert ended
        with pg_store.transaction() as tx:
            assert [tx.step(ref).settled for ref in refs] == [True, False, True]
            rung = [m.ref for m in tx.take_outbox(100) if m.topic is Topic.COMPLETIONS]
        assert rung == [refs[1]]

    def test_is_ended_by_postgres_and_told_that_it_wrote_nothing(self, dsn):
        store = PgStore(dsn, size=1, idle_s=0.3)
        plan_id = new_plan(store)
        with pytest.raises(Unavailable), store.transaction() as tx:  # noqa: PT012 - it is silent in the middle
            tx.lock_plan(plan_id)
            tx.add_event(plan_id, "kind", {})
            time.sleep(1.0)
        with store.transaction() as tx:
            assert tx.plan(plan_id).event_count == 0
        store.close()


class TestASweep:
    def test_passes_by_a_row_that_nobody_foresaw_and_does_all_the_rest(self, pg_store, hand, sealer):
        foreign, lapsed, due, waiting = (new_step(pg_store) for _ in range(4))
        parked = new_step(pg_store)
        with pg_store.transaction() as tx:
            tx.take_outbox(100)
            tx.add_approval(approval_of(parked, tx.now() - LEASE))
        hand.execute("UPDATE plan SET state = 'running'")
        # as a newer program may have written it, whose agents this one does not know
        hand.execute("UPDATE step SET agent = 'oracle' WHERE plan_id = %s", [foreign.plan_id])
        for ref, age in ((foreign, "2 h"), (lapsed, "1 h")):
            hand.execute(
                "UPDATE step SET state = 'running', attempt = 1, claim = 1, holder = 7, leased_until = now() - %s::interval WHERE plan_id = %s",
                [age, ref.plan_id],
            )
        hand.execute(
            "UPDATE step SET state = 'retrying', attempt = 1, claim = 1, run_after = now() - interval '1 s' WHERE plan_id = %s",
            [due.plan_id],
        )
        hand.execute(
            "UPDATE step SET offered_at = now() - interval '1 h' WHERE plan_id = %s", [waiting.plan_id]
        )
        with pytest.raises(ValueError, match="oracle"):
            conductor_on(pg_store, sealer).sweep()
        with pg_store.transaction() as tx:
            rung = {m.ref for m in tx.take_outbox(100)}
            assert tx.plan(parked.plan_id).state is PlanState.REJECTED
        assert rung == {lapsed, due, waiting}


class TestAStepThatSomebodyElseHolds:
    """Where an operator limits how long a statement may wait for what is held, or Postgres ends a circle of waiting."""

    @pytest.fixture
    def impatient(self, dsn):
        store = PgStore(make_conninfo(dsn, options="-c lock_timeout=50ms"), size=2)
        yield store
        store.close()

    @contextmanager
    def held(self, dsn, ref):
        with psycopg.connect(dsn) as other:
            other.execute("SELECT FROM step WHERE plan_id = %s FOR UPDATE", [ref.plan_id])
            yield
            other.rollback()

    def test_is_not_told_from_one_that_was_lost_when_it_reports(self, dsn, impatient, sealer):
        conductor = conductor_on(impatient, sealer)
        claimed = conductor.begin(new_step(impatient), holder=7)
        with self.held(dsn, claimed.ref), pytest.raises(Unavailable):
            conductor.report(claimed, Completed("found"))
        assert conductor.report(claimed, Completed("found"))

    def test_is_not_told_from_one_that_there_is_nothing_to_do_for(self, dsn, impatient, sealer):
        conductor, ref = conductor_on(impatient, sealer), new_step(impatient)
        with self.held(dsn, ref), pytest.raises(Unavailable):
            conductor.begin(ref, holder=7)
        assert conductor.begin(ref, holder=7).claim == 1


class TestAMigrationThatComesInBetween:
    @pytest.mark.parametrize("alone", [False, True], ids=["in a transaction", "a statement alone"])
    def test_costs_each_session_one_refusal_and_no_more(self, dsn, hand, alone):
        store = PgStore(dsn, size=1)
        ref = new_step(store)

        def look():
            with store.at_once() if alone else store.transaction() as tx:
                return tx.step(ref)

        for _ in range(10):  # so often that the statement is prepared
            look()
        hand.execute("ALTER TABLE step ADD COLUMN later text")
        with pytest.raises(Unavailable, match="migration"):
            look()
        assert look().ref == ref
        store.close()


class TestTwoSweepers:
    """Several replicas sweep the same database at the same moment."""

    def swept(self, dsn, sealer, verb):
        stores = [PgStore(dsn, size=2) for _ in range(4)]
        verbs = [getattr(conductor_on(s, sealer, unheard_after=LEASE), verb) for s in stores]
        counts = at_once(4, lambda n: verbs[n]())
        # a plan that another one held was passed by: it is for the next sweep
        counts = [*counts, *(verb() for verb in verbs)]
        for store in stores:
            store.close()
        return sum(counts)

    def outbox(self, store):
        with store.transaction() as tx:
            return sorted((m.ref.plan_id, m.ref.number) for m in tx.take_outbox(1000))

    def placed(self, store, hand, change):
        refs = [ref for _ in range(4) for ref in new_steps(store, 5)]
        hand.execute(f"UPDATE plan SET state = 'running'; UPDATE step SET {change}")
        return sorted((ref.plan_id, ref.number) for ref in refs)

    def test_wake_each_step_once(self, dsn, pg_store, hand, sealer):
        refs = self.placed(
            pg_store, hand, "state = 'retrying', attempt = 1, claim = 1, run_after = now() - interval '1 s'"
        )
        assert self.swept(dsn, sealer, "wake") == 20
        assert self.outbox(pg_store) == refs

    def test_rescue_each_step_once(self, dsn, pg_store, hand, sealer):
        refs = self.placed(
            pg_store,
            hand,
            "state = 'running', attempt = 1, claim = 1, holder = 7, leased_until = now() - interval '1 s'",
        )
        assert self.swept(dsn, sealer, "rescue") == 20
        assert self.outbox(pg_store) == refs
        with pg_store.transaction() as tx:
            kinds = [e.kind for plan in tx.plans() for e in tx.events(plan.plan_id)]
        assert kinds == ["step.rescued"] * 20

    def test_offer_each_step_once(self, dsn, pg_store, hand, sealer):
        refs = self.placed(pg_store, hand, "offered_at = now() - interval '1 h'")
        assert self.swept(dsn, sealer, "offer_again") == 20
        assert self.outbox(pg_store) == refs

    def test_expire_each_approval_once(self, dsn, pg_store, hand, sealer):
        for _ in range(5):
            ref = new_step(pg_store)
            with pg_store.transaction() as tx:
                tx.add_approval(approval_of(ref, tx.now() - LEASE))
        hand.execute("UPDATE plan SET state = 'waiting_approval'")
        assert self.swept(dsn, sealer, "expire") == 5
        with pg_store.transaction() as tx:
            assert {plan.state for plan in tx.plans()} == {PlanState.REJECTED}
            kinds = [e.kind for plan in tx.plans() for e in tx.events(plan.plan_id)]
        assert kinds.count("approval.decided") == 5


HOLDER = """
import sys, time
from orchestrator.store import Alive
alive = Alive(sys.argv[1])
print(alive.holder, flush=True)
time.sleep(60)
"""


@contextmanager
def holder_process(dsn: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that holds a worker's number, and that number."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, dsn], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def lapsed(store):
    with store.transaction() as tx:
        return list(tx.lapsed(10))


def run_by(store, holder, lease=LEASE):
    ref = new_step(store)
    with store.transaction() as tx:
        assert ref in tx.claim_steps([ref], holder=holder, lease=lease)
    return ref


def session_of(hand, holder):
    query = """
        SELECT pid
          FROM pg_locks
         WHERE locktype = 'advisory' AND classid = %s::bigint::oid AND objid = %s::bigint::oid
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
    row = hand.execute(query, [ALIVE_CLASS, holder]).fetchone()
    return row and row[0]


class TestAWorkerThatIsAlive:
    def test_keeps_its_step_until_its_lease_ends(self, pg_store, alive, hand):
        ref = run_by(pg_store, alive.holder)
        assert lapsed(pg_store) == []
        hand.execute("UPDATE step SET leased_until = now()")
        assert lapsed(pg_store) == [ref]

    def test_has_a_number_of_its_own(self, dsn, alive):
        other = Alive(dsn)
        assert other.holder != alive.holder
        other.close()

    def test_shows_at_once_when_it_closes(self, dsn, pg_store):
        worker = Alive(dsn)
        ref = run_by(pg_store, worker.holder)
        worker.close()
        assert eventually(lambda: lapsed(pg_store) == [ref])

    def test_shows_at_once_when_its_session_is_ended(self, pg_store, alive, hand):
        ref = run_by(pg_store, alive.holder)
        hand.execute("SELECT pg_terminate_backend(%s)", [session_of(hand, alive.holder)])
        assert eventually(lambda: lapsed(pg_store) == [ref])

    def test_shows_at_once_when_it_is_killed(self, dsn, pg_store):
        with holder_process(dsn) as (process, holder):
            ref = run_by(pg_store, holder)
            assert lapsed(pg_store) == []
            process.kill()
            process.wait()
            assert eventually(lambda: lapsed(pg_store) == [ref])

    def test_that_was_stopped_shows_when_its_lease_ends(self, dsn, pg_store):
        with holder_process(dsn) as (process, holder):
            os.kill(process.pid, signal.SIGSTOP)
            ref = run_by(pg_store, holder, lease=timedelta(seconds=2))
            assert lapsed(pg_store) == []
            assert eventually(lambda: lapsed(pg_store) == [ref])

    def test_takes_its_lock_again_after_a_lost_session(self, pg_store, alive, hand):
        ref = run_by(pg_store, alive.holder)
        first = session_of(hand, alive.holder)
        hand.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
        assert lapsed(pg_store) == [ref]
        alive.renew()
        assert session_of(hand, alive.holder) not in {None, first}
        assert lapsed(pg_store) == []

    def test_notices_a_wire_that_fell_silent_as_soon_as_its_store_does(self, alive, pg_store):
        def watched(connection):
            known = connection.info.get_parameters()
            return {
                name: known.get(name) for name in known if name.startswith(("keepalives", "tcp_", "connect_"))
            }

        with pg_store._pool.connection() as connection:
            assert watched(alive._connection) == watched(connection) != {}

    def test_keeps_its_session_when_nothing_is_wrong(self, alive, hand):
        first = session_of(hand, alive.holder)
        alive.renew()
        assert session_of(hand, alive.holder) == first

    def test_whose_number_was_taken_is_told_each_time_until_it_has_it_back(self, alive, hand):
        hand.execute("SELECT pg_terminate_backend(%s, 5000)", [session_of(hand, alive.holder)])
        hand.execute("SELECT pg_advisory_lock(%s, %s)", [ALIVE_CLASS, alive.holder])
        for _ in range(3):
            with pytest.raises(Unavailable, match="held by another session"):
                alive.renew()
        hand.execute("SELECT pg_advisory_unlock(%s, %s)", [ALIVE_CLASS, alive.holder])
        alive.renew()
        assert session_of(hand, alive.holder) is not None

    def test_is_not_confused_with_one_of_another_database(self, postgres_server, pg_store, hand):
        other = postgres_server.create()
        worker = Alive(other)
        ref = run_by(pg_store, worker.holder)
        assert lapsed(pg_store) == [ref]
        worker.close()
        postgres_server.drop(other)


ILLEGAL = [
    ("held_while_it_runs", "step", "state = 'running'"),
    ("held_while_it_runs", "step", "holder = 7, leased_until = now()"),
    ("held_while_it_runs", "step", "state = 'running', holder = 7"),
    ("held_while_it_runs", "step", "leased_until = now()"),
    ("attempts_are_counted", "step", "attempt = max_attempts + 1, claim = 99"),
    ("attempts_are_counted", "step", "attempt = -1"),
    ("attempts_are_counted", "step", "attempt = 2, claim = 1"),
    ("due_while_it_waits", "step", "state = 'retrying'"),
    ("a_verdict_when_it_succeeded", "step", "state = 'succeeded'"),
    ("a_verdict_when_it_succeeded", "step", "verdict = 'found'"),
    ("settled_when_it_ended", "step", "settled = true"),
    ("step_state_check", "step", "state = 'asleep'"),
    ("outbox_topic_check", "outbox", "topic = 'plan.gossip'"),
    ("step_phase_check", "step", "phase = 'dream'"),
    ("step_number_check", "step", "number = 0"),
    ("step_round_check", "step", "round = -1"),
    ("step_max_attempts_check", "step", "max_attempts = 0"),
    ("finished_when_it_ended", "plan", "finished_at = now()"),
    ("finished_when_it_ended", "plan", "state = 'succeeded'"),
    ("plan_state_check", "plan", "state = 'asleep', finished_at = now()"),
    ("plan_depth_check", "plan", "depth = 6"),
    ("plan_goal_check", "plan", "goal = ''"),
    ("plan_goal_check", "plan", "goal = repeat('ß', 8193)"),
    ("budget_of_calls_holds", "plan", "spent_calls = budget_calls + 1"),
    ("budget_of_calls_holds", "plan", "spent_calls = -1"),
    ("budget_of_steps_holds", "plan", "spent_steps = budget_steps + 1"),
    ("budget_of_steps_holds", "plan", "spent_steps = -1"),
    ("plan_budget_steps_check", "plan", "budget_steps = 7"),
    ("plan_budget_tokens_check", "plan", "budget_tokens = -1"),
    ("plan_budget_uusd_check", "plan", "budget_uusd = -1"),
    ("plan_budget_s_check", "plan", "budget_s = 0"),
    ("never_by_the_requester", "approval", "state = 'approved', decided_at = now(), decided_by = 'ada'"),
    ("decided_once", "approval", "state = 'approved'"),
    ("decided_once", "approval", "decided_at = now(), decided_by = 'grace'"),
    ("decided_once", "approval", "state = 'approved', decided_at = now()"),
    ("approval_state_check", "approval", "state = 'perhaps', decided_at = now(), decided_by = 'grace'"),
    ("approval_roles_check", "approval", "roles = '{}'"),
    ("approval_stage_check", "approval", "stage = 0"),
    ("approval_level_check", "approval", "level = -1"),
    ("approval_version_check", "approval", "version = -1"),
    ("holds_when_approved", "approval", "holds_until = now()"),
    ("ruling_number_check", "ruling", "number = 0"),
    ("ruling_stage_check", "ruling", "stage = 0"),
    ("ruling_seat_check", "ruling", "seat = 0"),
    ("ruling_decision_check", "ruling", "decision = 'expired'"),
    ("notification_kind_check", "notification", "kind = ''"),
    ("notification_state_check", "notification", "state = 'lost', ended_at = now()"),
    ("notification_attempts_check", "notification", "attempts = -1"),
    ("ended_when_not_waiting", "notification", "state = 'delivered'"),
    ("ended_when_not_waiting", "notification", "ended_at = now()"),
    ("a_span_is_as_long_as_its_quote", "fact", "end_at = end_at + 1"),
    ("a_span_is_as_long_as_its_quote", "fact", "quote = 'lokc!'"),
    ("fact_quote_check", "fact", "quote = '', end_at = start_at"),
    ("fact_start_at_check", "fact", "start_at = -1, end_at = 3"),
    ("fact_number_check", "fact", "number = 0"),
    ("finished_when_known", "call", "state = 'done'"),
    ("finished_when_known", "call", "finished_at = now()"),
    ("an_error_when_it_failed", "call", "state = 'failed', finished_at = now()"),
    ("call_state_check", "call", "state = 'perhaps', finished_at = now()"),
    ("call_semantics_check", "call", "semantics = 'whatever'"),
    ("call_occurrence_check", "call", "occurrence = -1"),
    ("closed_when_not_open", "dead_letter", "state = 'retried'"),
    ("closed_when_not_open", "dead_letter", "closed_at = now()"),
    ("dead_letter_state_check", "dead_letter", "state = 'lost', closed_at = now()"),
    ("dead_letter_reason_check", "dead_letter", "reason = ''"),
    ("evidence_sha256_check", "evidence", "sha256 = upper(sha256)"),
    ("event_number_check", "event", "number = 0"),
    ("api_key_key_id_check", "api_key", "key_id = 'SHOUTING'"),
    ("api_key_key_id_check", "api_key", "key_id = 'short'"),
    ("api_key_digest_check", "api_key", "digest = 'the key itself'"),
    ("who_revoked_it", "api_key", "revoked_at = now()"),
    ("who_revoked_it", "api_key", "revoked_by = 'eve'"),
    ("session_session_id_check", "session", "session_id = 'a session'"),
    ("session_digest_check", "session", "digest = ''"),
    ("secret_versions_check", "secret", "versions = -1"),
    ("secret_version_version_check", "secret_version", "version = 0"),
    ("secret_version_state_check", "secret_version", "state = 'lost'"),
    ("ballot_round_check", "ballot", "round = -1"),
    ("ballot_objections_check", "ballot", "objections = -1"),
    ("ballot_verdict_check", "ballot", "verdict = 'perhaps'"),
    ("ballot_confidence_check", "ballot", "confidence = 1.5"),
    ("ballot_threshold_check", "ballot", "threshold = 0.5"),
    ("ballot_decided_check", "ballot", "decided = 'maybe'"),
    ("ballot_why_check", "ballot", "why = 'it was late'"),
    ("reason_if_it_needs_review", "ballot", "decided = 'needs_review'"),
    ("reason_if_it_needs_review", "ballot", "why = 'rounds'"),
    ("accepted_by_the_rules", "ballot", "decided = 'accepted'"),
    (
        "accepted_by_the_rules",
        "ballot",
        "decided = 'accepted', verdict = 'accept', objections = 1, confidence = 1",
    ),
    (
        "accepted_by_the_rules",
        "ballot",
        "decided = 'accepted', verdict = 'accept', objections = 0, confidence = 0.9",
    ),
    ("conversation_turns_check", "conversation", "turns = -1"),
    ("turn_number_check", "turn", "number = 0"),
    ("stop_target_check", "stop", "target = 'everything'"),
    ("stop_target_check", "stop", "target = 'tool:'"),
    ("stop_reason_check", "stop", "reason = ''"),
    ("stop_set_by_check", "stop", "set_by = ''"),
    ("turn_route_check", "turn", "role = 'assistant', route = 'sideways', answer = '{}'"),
    ("turn_check", "turn", "route = 'casual'"),
    ("turn_check1", "turn", "answer = '{}'"),
    ("turn_check2", "turn", "role = 'assistant', route = 'casual'"),
]


@pytest.fixture(scope="module")
def rows(postgres_server) -> Iterator[psycopg.Connection]:
    """A database with a row of each kind, for all who try to spoil them: none succeeds."""
    dsn = postgres_server.create()
    store = PgStore(dsn, size=1)
    ref = new_step(store)
    plan_id = ref.plan_id
    source = Evidence.of("A lock is held by one.", locator="a.md")
    with store.transaction() as tx:
        tx.lock_plan(plan_id)
        tx.add_event(plan_id, "kind", {})
        tx.put_evidence("default", source)
        tx.add_facts(plan_id, [Fact(1, 1, "lock", source.sha256, 2, 6, "a.md")])
        tx.put_call(Call(plan_id, 1, "k", 0, "web.read", Semantics.KEYED, CallState.INTENDED, 1))
        wanted = approval_of(ref, tx.now() + LEASE)
        tx.add_approval(wanted)
        tx.add_ruling(wanted.approval_id, Ruling(1, "grace", "owner", 1, 1, ApprovalState.APPROVED))
        tx.add_notification(Notification(str(uuid4()), wanted.approval_id, "approval.requested", {}))
        tx.add_dead_letter(DeadLetter(str(uuid4()), plan_id, 1, "reason", "detail", tx.now()))
        tx.send([Message(Topic.STEPS, ref)])
        tx.put_stop(Stop("all", "fire", "", "ada"))
    ring = KeyRing(store, b"a pepper for tests", Sealer(b"a key for tests"))
    key = ring.create(name="ada", tenant="acme", roles=["operator"], by="local")
    who = ring.proved(key.token)
    assert who is not None
    ring.open(who, lasts=LEASE)
    SealedSecrets(store, MasterKeys(lambda: [b"m" * 32])).put("acme", "key", "a value that is kept", by="ada")
    store.close()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO ballot (plan_id, round, draft, objections, verdict, confidence, threshold, decided, generator,"
            " critic, judge, at) VALUES (%s, 0, 'd', 1, 'revise', 0.9, 0.95, 'revise', 1, 2, 3, now())",
            [plan_id],
        )
        connection.execute(
            "WITH made AS (INSERT INTO conversation (conversation_id, tenant, owner, created_at)"
            " VALUES (gen_random_uuid(), 'acme', 'ada', now()) RETURNING conversation_id)"
            " INSERT INTO turn (conversation_id, number, tenant, owner, role, content, at)"
            " SELECT conversation_id, 1, 'acme', 'ada', 'user', 'Hello?', now() FROM made"
        )
        yield connection
    postgres_server.drop(dsn)


ELSEWHERE = ["schedule", "firing", "audit", "tenant"]
"""Tables whose rows belong to no plan, or have a suite of their own."""


class TestARowThatCannotBe:
    @pytest.mark.parametrize(("constraint", "table", "change"), ILLEGAL)
    def test_is_refused(self, rows, constraint, table, change):
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            rows.execute(f"UPDATE {table} SET {change}")
        assert refused.value.diag.constraint_name == constraint

    def test_is_tried_for_every_rule_that_has_a_name(self, rows):
        query = """
            SELECT conname
              FROM pg_constraint
             WHERE contype = 'c' AND connamespace = 'public'::regnamespace
               AND conrelid::regclass::text <> ALL(%s)
        """
        # by `budget_of_calls_holds`, and by what each role may have, which speak first
        implied = {"plan_budget_calls_check", "turn_role_check"}
        assert {row[0] for row in rows.execute(query, [ELSEWHERE])} - implied == {
            constraint for constraint, _, _ in ILLEGAL
        }

    def test_is_a_fact_without_stored_evidence_of_its_tenant(self, pg_store):
        ref = new_step(pg_store)
        source = Evidence.of("A lock is held by one.", locator="a.md")
        with pg_store.transaction() as tx:
            tx.put_evidence("somebody else", source)
        with pytest.raises(psycopg.errors.ForeignKeyViolation), pg_store.transaction() as tx:
            tx.add_facts(ref.plan_id, [Fact(1, 1, "lock", source.sha256, 2, 6, "a.md")])

    def test_is_a_call_beyond_the_budget_whoever_forgot_to_reserve_it(self, pg_store):
        plan_id = new_plan(pg_store)
        with pytest.raises(psycopg.errors.CheckViolation), pg_store.transaction() as tx:  # noqa: PT012
            tx.lock_plan(plan_id)
            tx.spend(plan_id, Spent(calls=asked().budget.calls + 1))


def test_an_approval_ends_with_its_plan_even_if_its_requester_is_called_system(pg_store, conductor):
    ref = new_step(pg_store)
    with pg_store.transaction() as tx:
        tx.add_approval(replace(approval_of(ref, tx.now() + LEASE), requester="system"))
    conductor.cancel(ref.plan_id, by="ada")
    with pg_store.transaction() as tx:
        assert [a.state for a in tx.approvals()] == [ApprovalState.CANCELLED]


class TestALostConnection:
    def test_is_unavailable(self, dsn, hand):
        store = PgStore(dsn, size=1)
        plan_id = new_plan(store)
        with pytest.raises(Unavailable), store.transaction() as tx:  # noqa: PT012 - it is lost in the middle
            tx.lock_plan(plan_id)
            self.cut(hand)
            tx.plan(plan_id)
        with store.transaction() as tx:  # the next one gets a sound connection
            assert tx.plan(plan_id).state is PlanState.QUEUED
        store.close()

    def test_before_the_commit_writes_nothing(self, dsn, hand):
        store = PgStore(dsn, size=1)
        plan_id = new_plan(store)
        with pytest.raises(Unavailable), store.transaction() as tx:  # noqa: PT012 - it is lost in the middle
            tx.lock_plan(plan_id)
            tx.add_event(plan_id, "kind", {})
            self.cut(hand)
        with store.transaction() as tx:
            assert not tx.events(plan_id)
        store.close()

    def test_while_nobody_used_it_goes_unnoticed(self, dsn, hand):
        store = PgStore(dsn, size=1)
        plan_id = new_plan(store)
        self.cut(hand)
        with store.transaction() as tx:
            assert tx.plan(plan_id)
        store.close()

    def test_that_could_not_be_made_is_unavailable(self, dsn):
        store = PgStore(psycopg.conninfo.make_conninfo(dsn, dbname="nowhere"), size=1)
        store._pool.timeout = 0.2
        with pytest.raises(Unavailable), store.transaction():
            pass
        store.close()

    @staticmethod
    def cut(hand):
        others = "pid <> pg_backend_pid() AND datname = current_database()"
        hand.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}")


def test_time_is_utc_whatever_the_database_thinks(dsn, hand):
    hand.execute(f"ALTER DATABASE {hand.info.dbname} SET timezone = 'Asia/Kolkata'")
    store = PgStore(dsn, size=1)
    ref = new_step(store)
    with store.transaction() as tx:
        tx.lock_plan(ref.plan_id)
        tx.add_event(ref.plan_id, "kind", {})
        times = [
            tx.now(),
            tx.plan(ref.plan_id).created_at,
            tx.events(ref.plan_id)[0].at,
            tx.step(ref).offered_at,
        ]
    assert [at.utcoffset() for at in times] == [timedelta(0)] * 4
    store.close()


def test_time_is_that_of_the_database(pg_store, hand):
    before = hand.execute("SELECT clock_timestamp()").fetchone()[0]
    with pg_store.transaction() as tx:
        now = tx.now()
        time.sleep(0.01)
        assert tx.now() == now
    assert before < now < hand.execute("SELECT clock_timestamp()").fetchone()[0]


MIGRATE = "import sys; from orchestrator import database; database.migrate(sys.argv[1])"


class TestMigrating:
    def revision(self, dsn):
        with psycopg.connect(dsn) as connection:
            return connection.execute("SELECT version_num FROM alembic_version").fetchall()

    def test_is_safe_from_eight_threads_at_once(self, empty_dsn):
        at_once(8, lambda _: database.migrate(empty_dsn))
        assert self.revision(empty_dsn) == [(database.head(),)]

    def test_is_safe_from_several_processes_at_once(self, empty_dsn):
        commands = [[sys.executable, "-c", MIGRATE, empty_dsn]] * 4
        processes = [subprocess.Popen(c, cwd=ROOT, stderr=subprocess.PIPE, text=True) for c in commands]
        errors = [process.communicate(timeout=60)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * 4, errors
        assert self.revision(empty_dsn) == [(database.head(),)]

    def test_does_nothing_the_second_time(self, dsn, hand):
        def newest():
            # the number of the newest transaction that wrote into the catalogue
            return hand.execute("SELECT max(xmin::text::bigint) FROM pg_class").fetchone()

        before = newest()
        database.migrate(dsn)
        assert newest() == before
        assert self.revision(dsn) == [(database.head(),)]

    def test_refuses_a_database_of_a_newer_program(self, dsn, hand):
        hand.execute("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(Misconfigured, match="9999"):
            database.migrate(dsn)
        assert self.revision(dsn) == [("9999",)]

    def test_of_a_database_that_cannot_be_reached_is_unavailable(self, dsn):
        with pytest.raises(Unavailable):
            database.migrate(psycopg.conninfo.make_conninfo(dsn, dbname="nowhere"))
