"""Tenants are kept apart by Postgres: what one has, no other sees or changes, whatever the program forgets to ask."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from orchestrator import store as pg
from orchestrator.chronos import Chronos, Draft
from orchestrator.conductor import CallAsk, Conductor, Rules
from orchestrator.domain.consensus import Ballot, Decision, Verdict
from orchestrator.domain.conversation import Exchange, Route
from orchestrator.domain.errors import ForeignTenant, NotFound, Unavailable
from orchestrator.domain.fairness import Tenant
from orchestrator.domain.outcome import Completed, Faulted, Held
from orchestrator.domain.plan import (
    ApprovalState,
    CallState,
    Evidence,
    Fact,
    Notification,
    PlanState,
    Semantics,
    StepRef,
    request,
)
from orchestrator.domain.stop import Stop
from orchestrator.store import Alive, PgStore
from orchestrator.vault.chain import Sealer
from tests.contract.test_postgres import eventually
from tests.contract.test_store import undone

pytestmark = pytest.mark.postgres

NOBODY = "00000000-0000-4000-8000-000000000000"
HOUR = timedelta(hours=1)
TEXT = "A lock is held by one."
OURS, THEIRS = "acme", "umbrella"
ACCEPT, ACCEPTED = Verdict.ACCEPT, Decision.ACCEPTED


@dataclass(frozen=True, slots=True)
class Kept:
    """How a table's rows are told apart: by which column, whose a row is by it, and what a tenant must not change."""

    by: str
    whose: str = "t.tenant"
    moved: tuple[str, ...] = ()


def _by_plan(by: str = "plan_id", *, moved: tuple[str, ...] = ()) -> Kept:
    return Kept(by, f"(SELECT p.tenant FROM plan AS p WHERE p.plan_id = t.{by})", moved)


OF_APPROVAL = (
    "(SELECT p.tenant FROM approval AS a JOIN plan AS p ON p.plan_id = a.plan_id"
    " WHERE a.approval_id = t.approval_id)"
)
OF_CHAIN = (
    "COALESCE((SELECT p.tenant FROM plan AS p WHERE p.plan_id = t.chain),"
    " (SELECT l.tenant FROM ledger AS l WHERE l.chain = t.chain))"
)

MATRIX = {
    "approval": _by_plan(moved=("plan_id",)),
    "audit": Kept("chain", OF_CHAIN),
    "ballot": _by_plan(),
    "call": _by_plan(moved=("plan_id",)),
    "conversation": Kept("tenant", moved=("tenant", "last_plan_id")),
    "dead_letter": _by_plan(moved=("plan_id",)),
    "event": _by_plan(),
    "evidence": Kept("tenant"),
    "fact": _by_plan(),
    "firing": Kept(
        "schedule_id",
        "(SELECT s.tenant FROM schedule AS s WHERE s.schedule_id = t.schedule_id)",
        ("schedule_id", "plan_id"),
    ),
    "ledger": Kept("tenant", moved=("tenant",)),
    "notification": Kept("approval_id", OF_APPROVAL, moved=("approval_id",)),
    "outbox": _by_plan(),
    "outcome": _by_plan(),
    "plan": Kept("tenant", moved=("tenant",)),
    "report": _by_plan(),
    "ruling": Kept("approval_id", OF_APPROVAL),
    "schedule": Kept("tenant", moved=("tenant",)),
    "step": _by_plan(moved=("plan_id",)),
    "stop": Kept("tenant", moved=("tenant",)),
    "tenant": Kept("tenant"),
    "turn": Kept("tenant", moved=("tenant", "conversation_id", "plan_id")),
}
"""Every table that has rows of a tenant, with the operators' way to say whose a row is."""

NOBODYS = {
    "alembic_version": "The revision of the schema; a tenant may not even read it.",
    "api_key": "Read before it is known for whom a request acts, and by the operators' command.",
    "checkpoint": "Signed over the chains of all tenants at once.",
    "checkpointed": "Where each chain stood then; only who signs reads it.",
    "data_key": "Wrapped; read by the store of secrets only, which names the tenant in what it seals.",
    "secret": "As data_key.",
    "secret_version": "As data_key.",
    "session": "As api_key.",
}
"""Every table that has no rows of a tenant, with the reason. No tenant has any privilege there."""

HIDDEN = {"outbox": "What a tenant rings for, the relay alone hears."}
"""Tables of which a tenant does not even see its own rows."""


def conductor_on(store) -> Conductor:
    return Conductor(
        store,
        Sealer(b"a key for tests"),
        new_id=lambda: str(uuid4()),
        draw=random.Random(1).random,
        rules=Rules(max_attempts=1),
    )


class World:
    """A database in which two tenants have done everything that leaves a row."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.store = PgStore(dsn, size=4)
        self.conductor = conductor_on(self.store)
        self.chronos = Chronos(self.store, self.conductor)
        self.hand = psycopg.connect(dsn, autocommit=True)
        self.alive = Alive(dsn)
        self.of = {tenant: self._live(tenant) for tenant in (OURS, THEIRS)}
        self.stray = self.conductor.bury_message(reason="undecodable", detail="Nobody knows whose it was.")

    def _live(self, tenant: str) -> SimpleNamespace:
        evidence = Evidence.of(TEXT, locator=f"{tenant}.txt")
        done = self.plan(tenant)
        claimed = self.claim(done)
        ask = CallAsk("fetch", "k", 0, Semantics.IDEMPOTENT, {}, {"allow": True})
        self.conductor.intend(claimed, ask)
        self.conductor.conclude(claimed, ask, state=CallState.DONE, result={}, evidence=evidence)
        fact = Fact(claimed.ref.number, 1, TEXT, evidence.sha256, 0, len(TEXT), f"{tenant}.txt")
        told = Completed("research", result={"n": 1}, facts=[fact], report={"v": 1, "goal": tenant})
        assert self.conductor.report(claimed, told)
        held, dead, fresh = self.plan(tenant), self.plan(tenant), self.plan(tenant)
        assert self.conductor.report(self.claim(held), Held("spend", "May I?", "d", ("approver",)))
        assert self.conductor.report(self.claim(dead), Faulted("broken", "It broke.", retryable=False))
        self._decided(tenant)
        self.chronos.add(Draft("daily", "0 6 * * *", {"goal": "What is new?"}, tenant=tenant))
        fired = self.chronos.run_now("daily", tenant=tenant)
        with self.store.transaction() as tx:
            tx.put_tenant(Tenant(tenant, weight=2))
            tx.put_stop(Stop(f"tool:{tenant}", "It misbehaves.", tenant, "ada"))
            tx.add_ballot(Ballot(done, 0, "d", 0, ACCEPT, 1.0, 0.95, ACCEPTED, None, 3, 4, 5))
            (approval,) = tx.approvals(plan_id=held)
            tx.add_notification(Notification(str(uuid4()), approval.approval_id, "approval.requested", {}))
            own = tx.lock_ledger(tenant)
            seal = Sealer(b"a key for tests").seal
            tx.append_to_ledger(seal(chain=own.chain, number=1, kind="told", body={}, prev=own.head))
            (letter,) = tx.dead_letters(plan_id=dead)
            talk, goal = str(uuid4()), "What does a lock do?"
            tx.add_conversation(talk, tenant, "ada")
            began = tx.conversation(tenant, "ada", talk, lock=True)
            assert tx.add_exchange(Exchange(began, 1, goal, Route.NEW_TOPIC, goal, plan_id=done, key="k"))
        return SimpleNamespace(
            talk=talk,
            done=done,
            held=held,
            dead=dead,
            fresh=fresh,
            approval=approval.approval_id,
            letter=letter.letter_id,
            sha256=evidence.sha256,
            schedule=fired.schedule_id,
            fired=fired,
        )

    def _decided(self, tenant: str) -> None:
        plan_id = self.plan(tenant)
        assert self.conductor.report(self.claim(plan_id), Held("spend", "May I?", "d", ("approver",)))
        with self.store.transaction() as tx:
            (approval,) = tx.approvals(plan_id=plan_id)
        self.conductor.decide(approval.approval_id, approve=True, by="grace", roles=["approver"])

    def plan(self, tenant: str) -> str:
        return self.conductor.submit(request("What does a lock do?", tenant=tenant, requester="ada")).plan_id

    def claim(self, plan_id: str):
        claimed = self.conductor.begin(StepRef(plan_id, 1), holder=self.alive.holder)
        assert claimed is not None
        return claimed

    def rows(self, table: str, tenant: str | None = None) -> list[str]:
        """A table's rows as the operators see them; those of one tenant, where it is named."""
        if tenant is None:
            return self._texts(
                sql.SQL("SELECT t::text FROM {} AS t ORDER BY 1").format(sql.Identifier(table))
            )
        query = sql.SQL("SELECT t::text FROM {} AS t WHERE {} = %s ORDER BY 1")
        return self._texts(query.format(sql.Identifier(table), sql.SQL(MATRIX[table].whose)), tenant)

    def everything(self) -> dict[str, list[str]]:
        return {table: self.rows(table) for table in MATRIX}

    def _texts(self, query, *values) -> list[str]:
        return [row[0] for row in self.hand.execute(query, values)]

    def close(self) -> None:
        self.alive.close()
        self.hand.close()
        self.store.close()


@contextmanager
def world_on(server) -> Iterator[World]:
    dsn = server.create()
    world = World(dsn)
    try:
        yield world
    finally:
        world.close()
        server.drop(dsn)


@pytest.fixture(scope="module")
def world(postgres_server) -> Iterator[World]:
    """A world that stays as it is."""
    with world_on(postgres_server) as made:
        yield made


@pytest.fixture
def own_world(postgres_server) -> Iterator[World]:
    """A world of this test's own, to be changed."""
    with world_on(postgres_server) as made:
        yield made


@contextmanager
def acting(dsn: str, tenant: str | None) -> Iterator[psycopg.Connection]:
    """A hand that writes whatever SQL it likes, as a tenant; nothing of it stays."""
    with psycopg.connect(dsn) as hand:
        hand.execute("SET LOCAL ROLE orchestrator_tenant")
        if tenant is not None:
            hand.execute("SELECT set_config('app.tenant', %s, true)", [tenant])
        yield hand
        hand.rollback()


def may(world: World, table: str, *privileges: str) -> bool:
    query = "SELECT has_table_privilege('orchestrator_tenant', %s, %s)"
    return world.hand.execute(query, [table, ", ".join(privileges)]).fetchone()[0]


class TestEveryTable:
    def test_is_listed_with_what_keeps_its_rows_apart(self, world):
        query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind NOT IN ('i', 'S')"
        there = {row[0] for row in world.hand.execute(query)}
        assert there == MATRIX.keys() | NOBODYS.keys(), (
            "A new table needs row-level security, a policy for orchestrator_tenant and one for orchestrator_fleet, "
            "and a line in MATRIX; or, without any grant to orchestrator_tenant, a reason in NOBODYS."
        )

    @pytest.mark.parametrize("table", NOBODYS)
    def test_that_has_nothing_of_a_tenant_is_closed_to_tenants(self, world, table):
        assert not may(
            world, table, *["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]
        )

    @pytest.mark.parametrize("table", MATRIX)
    def test_holds_rows_of_both_tenants_or_this_matrix_would_show_nothing(self, world, table):
        assert world.rows(table, OURS)
        assert world.rows(table, THEIRS)

    @pytest.mark.parametrize("table", MATRIX)
    @pytest.mark.parametrize("tenant", [OURS, THEIRS])
    def test_shows_a_tenant_its_own_rows_and_all_of_them(self, world, table, tenant):
        own = [] if table in HIDDEN else world.rows(table, tenant)
        assert seen(world.dsn, table, tenant) == own

    @pytest.mark.parametrize("table", MATRIX)
    @pytest.mark.parametrize("tenant", [None, "", "nobody", f"{OURS}%", f"{OURS}' OR 'a' = 'a", OURS.upper()])
    def test_shows_nothing_to_who_is_no_tenant(self, world, table, tenant):
        assert seen(world.dsn, table, tenant) == []

    @pytest.mark.parametrize("table", MATRIX)
    def test_takes_no_row_that_is_another_tenant_s(self, world, table):
        theirs = world.hand.execute(
            sql.SQL("SELECT to_jsonb(t) FROM {} AS t WHERE {} = %s LIMIT 1").format(
                sql.Identifier(table), sql.SQL(MATRIX[table].whose)
            ),
            [THEIRS],
        ).fetchone()[0]
        add = sql.SQL(
            "INSERT INTO {0} OVERRIDING SYSTEM VALUE SELECT r.* FROM jsonb_populate_record(NULL::{0}, %s) AS r"
        ).format(sql.Identifier(table))
        values = [psycopg.types.json.Jsonb(theirs)]
        with acting(world.dsn, OURS) as hand, pytest.raises(psycopg.errors.InsufficientPrivilege):
            hand.execute(add, values)
        if may(world, table, "INSERT"):  # it was who asked that was refused, and not what was asked
            with acting(world.dsn, THEIRS) as hand, pytest.raises(psycopg.errors.UniqueViolation):
                hand.execute(add, values)

    @pytest.mark.parametrize(
        ("table", "of", "said"),
        [
            ("fact", THEIRS, {"tenant": OURS}),
            ("fact", OURS, {"tenant": THEIRS, "number": 99}),
            ("turn", THEIRS, {"tenant": OURS, "number": 99, "plan_id": None, "idempotency_key": None}),
            ("turn", OURS, {"tenant": THEIRS, "number": 99, "idempotency_key": None}),
            ("outbox", THEIRS, {"tenant": OURS}),
            ("outbox", THEIRS, {"tenant": ""}),
            ("outbox", OURS, {"tenant": THEIRS, "number": 10**9}),
        ],
    )
    def test_takes_no_row_that_is_another_tenant_s_by_half(self, world, table, of, said):
        row = world.hand.execute(
            sql.SQL("SELECT to_jsonb(t) FROM {} AS t WHERE {} = %s LIMIT 1").format(
                sql.Identifier(table), sql.SQL(MATRIX[table].whose)
            ),
            [of],
        ).fetchone()[0]
        add = sql.SQL(
            "INSERT INTO {0} OVERRIDING SYSTEM VALUE SELECT r.* FROM jsonb_populate_record(NULL::{0}, %s) AS r"
        ).format(sql.Identifier(table))
        with acting(world.dsn, OURS) as hand, pytest.raises(psycopg.errors.InsufficientPrivilege):
            hand.execute(add, [psycopg.types.json.Jsonb({**row, **said})])

    @pytest.mark.parametrize("table", MATRIX)
    @pytest.mark.parametrize("verb", ["UPDATE {0} SET {1} = {1}", "DELETE FROM {0}"])
    def test_changes_no_row_but_a_tenant_s_own(self, world, table, verb):
        change = sql.SQL(verb).format(sql.Identifier(table), sql.Identifier(MATRIX[table].by))
        with acting(world.dsn, OURS) as hand:
            if may(world, table, verb.split()[0]):
                assert hand.execute(change).rowcount == len(world.rows(table, OURS))
            else:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    hand.execute(change)

    @pytest.mark.parametrize(
        ("table", "column"), [(name, column) for name, kept in MATRIX.items() for column in kept.moved]
    )
    def test_lets_no_row_become_another_tenant_s(self, world, table, column):
        theirs = world.hand.execute(
            sql.SQL("SELECT t.{} FROM {} AS t WHERE {} = %s AND t.{} IS NOT NULL LIMIT 1").format(
                sql.Identifier(column),
                sql.Identifier(table),
                sql.SQL(MATRIX[table].whose),
                sql.Identifier(column),
            ),
            [THEIRS],
        ).fetchone()[0]
        give = sql.SQL("UPDATE {} SET {} = %s").format(sql.Identifier(table), sql.Identifier(column))
        with acting(world.dsn, OURS) as hand, pytest.raises(psycopg.errors.InsufficientPrivilege):
            hand.execute(give, [theirs])

    @pytest.mark.parametrize("table", sorted(MATRIX.keys() - HIDDEN))
    @pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
    def test_is_read_without_reading_all_plans_of_the_tenant(self, world, table, mode):
        by = MATRIX[table].by
        look = sql.SQL("EXPLAIN SELECT * FROM {0} AS t WHERE {1} = (SELECT {1} FROM {0} LIMIT 1)")
        with acting(world.dsn, OURS) as hand:
            hand.execute("SET LOCAL enable_seqscan = off")
            hand.execute(sql.SQL("SET LOCAL plan_cache_mode = {}").format(sql.Identifier(mode)))
            plan = hand.execute(look.format(sql.Identifier(table), sql.Identifier(by)), prepare=True)
            assert "hashed" not in "\n".join(row[0] for row in plan)

    @pytest.mark.parametrize("table", [*MATRIX, *NOBODYS])
    def test_is_emptied_by_no_tenant(self, world, table):
        with acting(world.dsn, OURS) as hand, pytest.raises(psycopg.errors.InsufficientPrivilege):
            hand.execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.Identifier(table)))

    @pytest.mark.parametrize("table", MATRIX)
    @pytest.mark.parametrize("guard", ["", "FORCE"])
    def test_that_lost_its_row_security_is_named_by_the_self_test(self, world, table, guard):
        switch = sql.SQL("ALTER TABLE {} {} ROW LEVEL SECURITY")
        off = {"": "DISABLE", "FORCE": "NO FORCE"}[guard]
        world.hand.execute(switch.format(sql.Identifier(table), sql.SQL(off)))
        try:
            assert f" {table}." in (world.store.exposure() or "")
        finally:
            world.hand.execute(switch.format(sql.Identifier(table), sql.SQL(guard or "ENABLE")))

    def test_that_is_new_and_open_is_named_by_the_self_test(self, own_world):
        own_world.hand.execute("CREATE TABLE note (tenant text); GRANT INSERT ON note TO orchestrator_tenant")
        assert " note." in (own_world.store.exposure() or "")


def seen(dsn: str, table: str, tenant: str | None) -> list[str]:
    with acting(dsn, tenant) as hand:
        if table in HIDDEN:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                hand.execute(sql.SQL("SELECT FROM {}").format(sql.Identifier(table)))
            return []
        query = sql.SQL("SELECT t::text FROM {} AS t ORDER BY 1").format(sql.Identifier(table))
        return [row[0] for row in hand.execute(query)]


class TestTheSelfTest:
    def test_finds_nothing_where_nothing_is_wrong(self, world):
        assert world.store.exposure() is None

    def test_names_a_table_that_shows_a_row_to_a_tenant_that_nobody_has(self, own_world):
        own_world.hand.execute("CREATE POLICY all_too_kind ON step TO PUBLIC USING (true)")
        assert " step." in (own_world.store.exposure() or "")

    def test_names_a_view_that_goes_around_the_policies(self, own_world):
        own_world.hand.execute("CREATE VIEW goals AS SELECT goal FROM plan")
        own_world.hand.execute("GRANT SELECT ON goals TO orchestrator_tenant")
        assert " goals." in (own_world.store.exposure() or "")

    def test_names_a_role_that_no_policy_keeps_from_anything(self, own_world):
        # in a transaction that is undone: the role belongs to the whole server
        with own_world.hand.transaction(force_rollback=True):
            own_world.hand.execute("ALTER ROLE orchestrator_tenant BYPASSRLS")
            own_world.hand.execute("SET LOCAL ROLE orchestrator_tenant")
            found = own_world.hand.execute(pg.queries()["confinement"], {}).fetchone()
        assert found[:2] == ("orchestrator_tenant", True)


CHANGES = {
    "cancel": lambda c, it: c.cancel(it.fresh, by="bob"),
    "replay": lambda c, it: c.replay(it.dead, by="bob"),
    "fork": lambda c, it: c.fork(it.done, from_step=1, by="bob"),
    "decide": lambda c, it: c.decide(it.approval, approve=True, by="bob", roles=["approver"]),
    "reject": lambda c, it: c.decide(it.approval, approve=False, by="bob", roles=["approver"]),
    "retry a dead letter": lambda c, it: c.retry_dead(it.letter, by="bob"),
    "discard a dead letter": lambda c, it: c.discard_dead(it.letter, by="bob"),
    "run a schedule": lambda c, it: Chronos(c.store, c).run_now(it.schedule, tenant=it.tenant),
    "pause a schedule": lambda c, it: Chronos(c.store, c).pause("daily", tenant=it.tenant),
    "remove a schedule": lambda c, it: Chronos(c.store, c).remove(it.schedule, tenant=it.tenant),
    "show a schedule": lambda c, it: Chronos(c.store, c).show("daily", tenant=it.tenant),
    "read the history of a schedule": lambda c, it: Chronos(c.store, c).history("daily", tenant=it.tenant),
    "begin": lambda c, it: c.begin(StepRef(it.fresh, 1), holder=7),
    "settle": lambda c, it: c.settle(StepRef(it.done, 1)),
}
"""Each verb that a tenant's caller has, on what a tenant has."""

READS = {
    "plan": lambda tx, it: tx.plan(it.done),
    "lock_plan": lambda tx, it: tx.lock_plan(it.done),
    "lock_plans": lambda tx, it: tx.lock_plans([it.done, it.held]),
    "lock_step": lambda tx, it: tx.lock_step(StepRef(it.done, 1)),
    "step": lambda tx, it: tx.step(StepRef(it.done, 1)),
    "steps": lambda tx, it: tx.steps(it.done),
    "calls": lambda tx, it: tx.calls(it.done),
    "call": lambda tx, it: tx.call(StepRef(it.done, 1), "k", 0),
    "facts": lambda tx, it: tx.facts(it.done),
    "events": lambda tx, it: tx.events(it.done),
    "audit": lambda tx, it: tx.audit(it.done),
    "report": lambda tx, it: tx.report(it.done),
    "evidence": lambda tx, it: tx.evidence(it.tenant, it.sha256),
    "approval": lambda tx, it: tx.approval(it.approval),
    "approvals": lambda tx, it: tx.approvals(plan_id=it.held),
    "dead_letter": lambda tx, it: tx.dead_letter(it.letter),
    "dead_letters": lambda tx, it: tx.dead_letters(tenant=it.tenant),
    "dead_letters of a plan": lambda tx, it: tx.dead_letters(plan_id=it.dead),
    "plans": lambda tx, it: tx.plans(tenant=it.tenant),
    "schedules": lambda tx, it: tx.schedules(it.tenant),
    "schedule": lambda tx, it: tx.schedule(it.tenant, "daily"),
    "firings": lambda tx, it: tx.firings(it.schedule),
    "firing": lambda tx, it: tx.firing(it.schedule, it.fired.due_at),
    "conversation": lambda tx, it: tx.conversation(it.tenant, "ada", it.talk),
    "conversation, held": lambda tx, it: tx.conversation(it.tenant, "ada", it.talk, lock=True),
    "conversations": lambda tx, it: tx.conversations(it.tenant, "ada"),
    "turns": lambda tx, it: tx.turns(it.talk),
    "turn_of_key": lambda tx, it: tx.turn_of_key(it.tenant, "ada", "k"),
    "answer_turn": lambda tx, it: tx.answer_turn(it.talk, 2, "By one.", {}),
    "remove_conversation": lambda tx, it: tx.remove_conversation(it.tenant, "ada", it.talk),
    "tenants": lambda tx, it: [t for t in tx.tenants() if t.tenant == it.tenant],
    "claim_steps": lambda tx, it: tx.claim_steps([StepRef(it.fresh, 1)], holder=7, lease=HOUR),
}
"""Each read of a transaction that a tenant's caller has."""


class TestAVerb:
    """Each verb that a tenant's caller has, by the conductor of one tenant, about what is its own and what is not."""

    @pytest.mark.parametrize("verb", CHANGES)
    def test_works_on_what_is_its_tenant_s(self, own_world, verb):
        own = SimpleNamespace(**vars(own_world.of[OURS]), tenant=OURS)
        theirs = {table: own_world.rows(table, THEIRS) for table in MATRIX}
        CHANGES[verb](own_world.conductor.of(OURS), own)
        assert {table: own_world.rows(table, THEIRS) for table in MATRIX} == theirs

    @pytest.mark.parametrize("verb", CHANGES)
    def test_finds_nothing_of_another_tenant_and_changes_nothing(self, world, verb):
        theirs = SimpleNamespace(**vars(world.of[THEIRS]), tenant=THEIRS)
        before = world.everything()
        with pytest.raises(NotFound):
            CHANGES[verb](world.conductor.of(OURS), theirs)
        assert world.everything() == before

    @pytest.mark.parametrize("read", READS)
    def test_reads_what_is_its_tenant_s_and_nothing_else(self, world, read):
        found = {}
        for tenant in (OURS, THEIRS):
            it = SimpleNamespace(**vars(world.of[tenant]), tenant=tenant)
            with undone(world.store.of(OURS)) as tx:
                found[tenant] = READS[read](tx, it)
        assert found[OURS]
        assert not found[THEIRS]

    def test_that_lists_without_naming_a_tenant_lists_its_own(self, world):
        with world.store.of(OURS).transaction() as tx:
            assert {plan.tenant for plan in tx.plans()} == {OURS}
            assert {schedule.tenant for schedule in tx.schedules()} == {OURS}
            assert [approval.plan_id for approval in tx.approvals(state=ApprovalState.PENDING)] == [
                world.of[OURS].held
            ]
            assert [letter.plan_id for letter in tx.dead_letters()] == [world.of[OURS].dead]

    def test_submits_for_its_tenant(self, own_world):
        conductor = own_world.conductor.of(OURS)
        asked = request("What is a key?", tenant=OURS, key="once")
        plan = conductor.submit(asked)
        assert conductor.submit(asked).plan_id == plan.plan_id
        assert own_world.conductor.store.of(OURS)
        with own_world.store.transaction() as tx:
            assert [m.ref.plan_id for m in tx.take_outbox(1000)].count(plan.plan_id) == 1
            assert [e.kind for e in tx.events(plan.plan_id)] == ["plan.submitted"]
            assert len(tx.audit(plan.plan_id)) == 1

    def test_submits_for_no_other_tenant(self, world):
        before = world.everything()
        with pytest.raises(ForeignTenant, match="not for tenant 'acme'"):
            world.conductor.of(OURS).submit(request("What is a key?", tenant=THEIRS))
        assert world.everything() == before

    def test_with_the_key_of_another_tenant_makes_a_plan_of_its_own(self, own_world):
        plans = [
            own_world.conductor.of(tenant).submit(request("What is a key?", tenant=tenant, key="same"))
            for tenant in (OURS, THEIRS)
        ]
        assert [plan.tenant for plan in plans] == [OURS, THEIRS]
        assert plans[0].plan_id != plans[1].plan_id

    def test_of_a_tenant_does_not_find_a_dead_letter_of_no_plan(self, world):
        before = world.everything()
        for act in (
            lambda c: c.retry_dead(world.stray, by="bob"),
            lambda c: c.discard_dead(world.stray, by="bob"),
        ):
            with pytest.raises(NotFound):
                act(world.conductor.of(OURS))
        assert world.everything() == before

    def test_of_a_tenant_lists_no_message_as_a_dead_letter_of_nobody(self, world):
        with pytest.raises(ForeignTenant):
            world.conductor.of(OURS).bury_message(reason="undecodable", detail="?")

    def test_carries_a_plan_from_its_goal_to_its_report(self, own_world):
        conductor = own_world.conductor.of(OURS)
        plan = conductor.submit(request("What is a key?", tenant=OURS))
        claimed = conductor.begin(StepRef(plan.plan_id, 1), holder=own_world.alive.holder)
        assert conductor.report(claimed, Completed("casual"))
        conductor.settle(claimed.ref)
        last = conductor.begin(StepRef(plan.plan_id, 2), holder=own_world.alive.holder)
        assert conductor.report_plain([(last, Completed("written"))]) == {last.ref}
        conductor.settle(last.ref)
        with conductor.store.transaction() as tx:
            assert tx.plan(plan.plan_id).state is PlanState.SUCCEEDED

    @pytest.mark.parametrize(
        "act",
        [
            lambda tx: tx.take_outbox(10),
            lambda tx: tx.tally(),
            lambda tx: tx.put_tenant(Tenant(OURS, weight=100)),
            lambda tx: tx.may_run(OURS),
        ],
    )
    def test_of_the_fleet_is_not_a_tenant_s(self, world, act):
        before = world.everything()
        with (
            pytest.raises(ForeignTenant, match="permission denied"),
            world.store.of(OURS).transaction() as tx,
        ):
            act(tx)
        assert world.everything() == before


class TestAStoreOfOneTenant:
    def test_is_as_confined_after_a_restart_of_the_program_and_of_every_session(self, own_world):
        expected = {t: len(own_world.rows("plan", t)) for t in (OURS, THEIRS)}
        own_world.hand.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        for store in (own_world.store, PgStore(own_world.dsn, size=1)):
            for tenant, plans in expected.items():
                with store.of(tenant).transaction() as tx:
                    assert [p.tenant for p in tx.plans(limit=100)] == [tenant] * plans
        store.close()

    @pytest.mark.parametrize("name", ["o'hara", "100%", "%(x)s", "a\\", "'; RESET ROLE; --", "漢字 🔒", " "])
    def test_takes_any_name_as_it_is(self, own_world, name):
        plan = own_world.plan(name)
        with own_world.store.of(name).transaction() as tx:
            assert [p.plan_id for p in tx.plans()] == [plan]

    def test_begins_in_as_many_journeys_as_any_other(self, world, monkeypatch):
        sent = []
        execute = psycopg.Cursor.execute

        def counted(self, query, *rest, **named):
            sent.append(query)
            return execute(self, query, *rest, **named)

        monkeypatch.setattr(psycopg.Cursor, "execute", counted)
        counts = []
        for store in (world.store, world.store.of(OURS)):
            with store.transaction() as tx:
                tx.plan(NOBODY)
            counts.append(len(sent))
            sent.clear()
        assert counts[1] <= counts[0]


class TestAConnectionThatServedATenant:
    """One connection for all: whatever one leaves behind, the next would meet."""

    @pytest.fixture
    def store(self, world) -> Iterator[PgStore]:
        store = PgStore(world.dsn, size=1)
        yield store
        store.close()

    def serves_all_again(self, world, store):
        with store.transaction() as tx:
            left = (
                "SELECT current_user = session_user AND current_setting('app.tenant', true) = '' AS nothing"
            )
            return tx._connection.execute(left).fetchone()["nothing"] and {
                p.tenant for p in tx.plans(limit=1000)
            } == {OURS, THEIRS}

    def serves_another(self, store):
        with store.of(THEIRS).transaction() as tx:
            return {p.tenant for p in tx.plans(limit=1000)} == {THEIRS}

    def after(self, world, store) -> bool:
        return (
            self.serves_another(store) and self.serves_all_again(world, store) and self.serves_another(store)
        )

    def test_keeps_nothing_of_it_after_a_commit(self, world, store):
        with store.of(OURS).transaction() as tx:
            assert tx.plans()
        assert self.after(world, store)

    def test_keeps_nothing_of_it_after_a_statement_that_commits_itself(self, world, store):
        with store.of(OURS).at_once() as tx:
            assert {p.tenant for p in tx.plans()} == {OURS}
        assert self.after(world, store)

    def test_keeps_nothing_of_it_after_an_error_of_the_program(self, world, store):
        with undone(store.of(OURS)) as tx:
            assert tx.plans()
        assert self.after(world, store)

    @pytest.mark.parametrize("begun", ["transaction", "at_once"])
    def test_keeps_nothing_of_it_after_a_refused_statement(self, world, store, begun):
        with pytest.raises(ForeignTenant), getattr(store.of(OURS), begun)() as tx:
            tx.take_outbox(1)
        assert self.after(world, store)

    def test_keeps_nothing_of_it_after_a_refused_statement_that_nobody_told_of(self, world, store):
        with store.of(OURS).transaction() as tx, suppress(psycopg.Error):
            tx.take_outbox(1)
        assert self.after(world, store)

    @pytest.mark.parametrize("end", ["pg_cancel_backend", "pg_terminate_backend"])
    def test_keeps_nothing_of_it_after_a_statement_was_stopped(self, world, store, end):
        waits = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

        def stop():
            assert eventually(lambda: world.hand.execute(f"SELECT pid {waits}").fetchall())
            world.hand.execute(f"SELECT {end}(pid) {waits}")

        with psycopg.connect(world.dsn) as holder:
            holder.execute("SELECT FROM plan FOR UPDATE")
            stopper = threading.Thread(target=stop)
            stopper.start()
            with pytest.raises(Unavailable), store.of(OURS).transaction() as tx:
                tx.lock_plan(world.of[OURS].done)
            stopper.join()
        assert self.after(world, store)

    def test_shows_nothing_of_one_to_another_when_many_share_few(self, world):
        store = PgStore(world.dsn, size=2)

        def look(n: int) -> bool:
            tenant = (OURS, THEIRS, None)[n % 3]
            with (store.of(tenant) if tenant else store).transaction() as tx:
                if n % 5 == 0:
                    with suppress(psycopg.Error):
                        tx._connection.execute("SELECT 1 / 0")
                    return True
                return {p.tenant for p in tx.plans(limit=1000)} == ({tenant} if tenant else {OURS, THEIRS})

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(look, range(200)))
        store.close()


@pytest.mark.parametrize("query", ["approvals_of_tenant", "notifications_of_tenant"])
def test_a_crowd_of_another_tenant_s_is_not_looked_up_row_by_row(own_world, query):
    hand = own_world.hand
    hand.execute("SET session_replication_role = replica")  # a crowd of rows, and not of work
    for table, key, from_ in (
        (
            "plan",
            {"plan_id": "gen_random_uuid()", "idempotency_key": "NULL"},
            "t.tenant = %(theirs)s LIMIT 1",
        ),
        ("approval", {"approval_id": "gen_random_uuid()", "plan_id": "p.plan_id"}, ""),
        ("notification", {"notification_id": "gen_random_uuid()", "approval_id": "p.approval_id"}, ""),
    ):
        names = [
            row[0]
            for row in hand.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
                " AND NOT attisdropped AND attgenerated = ''",
                [table],
            )
        ]
        values = ", ".join(key.get(name, f't."{name}"') for name in names)
        above = {
            "plan": "generate_series(1, 500) AS p",
            "approval": "plan AS p",
            "notification": "approval AS p",
        }[table]
        one = f"(SELECT * FROM {table} AS t WHERE {from_ or 'true LIMIT 1'}) AS t"
        hand.execute(
            f"INSERT INTO {table} ({', '.join(map(repr_of, names))}) SELECT {values} FROM {one}, {above}",
            {"theirs": THEIRS},
        )
    hand.execute("ANALYZE")
    asked = {"tenant": OURS, "state": None, "plan_id": None, "step": None, "category": None, "role": None}
    asked |= {"limit": 50, "approval_id": None}

    with acting(own_world.dsn, OURS) as tenant:
        ((explained,),) = psycopg.ClientCursor(tenant).execute(
            "EXPLAIN (ANALYZE, FORMAT JSON) " + pg.queries()[query], asked
        )

    # what is a tenant's own is asked of each row that is looked at: of no more than a few of the crowd
    assert max(looked_up(explained[0]["Plan"])) < 100


def repr_of(name: str) -> str:
    return f'"{name}"'


def looked_up(node: dict) -> list[int]:
    own = [node["Actual Loops"]] if "Subplan Name" in node else [0]
    return own + [loops for each in node.get("Plans", []) for loops in looked_up(each)]
