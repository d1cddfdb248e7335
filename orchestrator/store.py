"""Keeps the truth in Postgres. Says nothing about what may happen; only writes what a guard still allows.

A transaction gathers what it adds to its locked plan (events, audit records, messages, counters) and writes that
once, before it reads the plan again or commits: one row version of the plan, however much was written about it.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import ClientCursor, Connection, Cursor
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool, PoolTimeout

from orchestrator.domain import approval as domain_approval
from orchestrator.domain.budget import Budget, Spent
from orchestrator.domain.consensus import Ballot, Decision, Verdict, Why
from orchestrator.domain.conversation import Conversation, Exchange, Role, Route, Turn
from orchestrator.domain.errors import ForeignTenant, InvalidRequest, Misconfigured, Unavailable
from orchestrator.domain.fairness import Tenant, Waiting, share
from orchestrator.domain.identity import ApiKey, Session
from orchestrator.domain.lifecycle import PLAN_ENDS, PLAN_MOVES, STEP_MOVES, PlanMove, StepMove
from orchestrator.domain.plan import (
    Agent,
    Approval,
    ApprovalState,
    AuditRecord,
    Call,
    CallState,
    DeadLetter,
    Event,
    Evidence,
    Fact,
    Json,
    NewStep,
    Notification,
    NotificationState,
    Plan,
    PlanState,
    Request,
    Ruling,
    Semantics,
    Step,
    StepRef,
    StepState,
    canonical,
)
from orchestrator.domain.schedule import Firing, FiringOutcome, Misfire, Overlap, Schedule
from orchestrator.domain.secret import SealedVersion, SecretState, SecretVersion, WrappedKey
from orchestrator.domain.stop import Stop
from orchestrator.messages import Message, Topic
from orchestrator.ports import Completion, Remembered
from orchestrator.queries import queries
from orchestrator.vault.checkpoint import Checkpoint, Leaf
from orchestrator.vault.ledger import ledger_of
from orchestrator.vault.notary import Grown, Head

ALIVE_CLASS = 0x6F726368
"""The first key of the advisory locks by which workers prove to be alive."""

IDLE_S = 15.0
"""How long a transaction may be left alone, in seconds: longer than the relay waits for a broker inside of one."""

_WIRE = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""So that a wire on which nobody answers any more is noticed within a quarter of a minute."""

PATIENCE_S = 0.1
"""How long a statement for several steps waits for what somebody else holds, in seconds; each is asked alone then."""

PLANNED_ANEW = frozenset(
    {"approvals", "dead_letters", "heads", "lapsed", "notifications", "plans", "related_facts"}
)
"""Queries for which Postgres makes a plan each time, since what is best depends on what is asked for.

For all others it makes one and keeps it for a while: planning a claim or a completion takes longer than carrying it out.
"""

PLANNED_FOR_S = 5.0
"""How long a session keeps its plans for queries, in seconds: what was right for a few rows reads all of a crowd."""

_HELD = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)

_ANY = 1_000_000

_CHECKPOINT_LOCK = 0x6F7263686365
"""The advisory lock of the one process that makes a checkpoint."""

_TURN_LOCK = 0x6F7263686F757462
"""The advisory lock of the one relay that divides a crowded outbox."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What there is, in numbers.

    `waiting_s` is the age of the oldest message in the outbox, `untold_s` that of the oldest notification that waits, in
    seconds.
    """

    plans: Mapping[str, int]
    notifications: Mapping[str, int]
    untold_s: float
    stops: int
    dead_letters: int
    running_steps: int
    waiting_messages: int
    waiting_s: float


class PgStore:
    """A store on one Postgres database; safe to share between threads."""

    def __init__(
        self,
        dsn: str,
        *,
        size: int = 8,
        now: Callable[[], datetime] | None = None,
        idle_s: float = IDLE_S,
        patience_s: float = PATIENCE_S,
        planned_for_s: float = PLANNED_FOR_S,
    ) -> None:
        self._dsn = dsn
        self._now = now
        self._tenant: str | None = None
        self._patience = f"{round(patience_s * 1000)}ms"
        self._planned_for_s = planned_for_s
        self._pool: ConnectionPool[_Session] = ConnectionPool(
            dsn,
            min_size=0,
            max_size=size,
            timeout=10,
            open=True,
            connection_class=_Session,
            kwargs={"row_factory": dict_row, "autocommit": True, **_WIRE},
            configure=_patient(idle_s),
        )

    def close(self) -> None:
        """Give all connections back, those of every view of one tenant too."""
        self._pool.close()

    def of(self, tenant: str) -> PgStore:
        """Return this store as one tenant sees it: over the same connections, and no row of anybody else's.

        Each of its transactions acts as the role `orchestrator_tenant`, so that Postgres hides what is not the
        tenant's and refuses to write it (`ForeignTenant`), whoever this store itself logs in as.
        """
        if self._tenant not in {None, tenant}:
            raise ForeignTenant(f"A store of tenant {self._tenant!r} cannot become one of {tenant!r}.")
        if not tenant or "\x00" in tenant:
            raise InvalidRequest(f"A tenant needs a name that can be stored, not {tenant!r}.")
        return self._as(tenant)

    def _as(self, tenant: str) -> PgStore:
        view = copy(self)
        view._tenant = tenant  # noqa: SLF001 - another of this kind
        return view

    def exposure(self) -> str | None:
        """Return what lets one tenant see what is another's, as a sentence, or `None` where nothing does.

        Looks with the eyes of a tenant that nobody has, which must see no row of any table.
        """
        try:
            with self._as(f"nobody-{uuid4()}").transaction() as tx:
                return tx.exposure()
        except (Misconfigured, ForeignTenant, psycopg.Error) as error:
            return f"Whether tenants are kept apart cannot be told: {error}"

    @contextmanager
    def transaction(self) -> Iterator[PgTx]:
        """Begin a transaction; commit at the end of the block, roll back when it raises.

        Raises `Unavailable` when the database cannot be reached or went away.
        """
        with self._within() as tx:
            yield tx

    @contextmanager
    def _within(self, *, patience: str | None = None) -> Iterator[PgTx]:
        with _translated(self._tenant):
            connection = self._begun()
            try:
                tx = PgTx(connection, self._now() if self._now else None, patience=patience)
                yield tx
                tx.flush()
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
            finally:
                self._pool.putconn(connection)

    @contextmanager
    def at_once(self) -> Iterator[PgTx]:
        """Begin a transaction of one statement, which commits itself: no journeys for its begin and its end.

        A tenant's store begins and ends one all the same, since nothing less confines a statement.
        Raises `Unavailable` as `transaction` does.
        """
        if self._tenant is not None:
            with self._within(patience=self._patience) as tx:
                yield tx
            return
        with _translated(self._tenant):
            connection = self._pool.getconn()
            try:
                connection.plan_anew(self._planned_for_s)
                yield PgTx(connection, self._now() if self._now else None, patience=self._patience)
            except psycopg.errors.FeatureNotSupported:
                connection.close()  # what a session prepared is forgotten with a transaction, and here is none
                raise
            except psycopg.Error:
                _roll_back(connection)
                raise
            finally:
                self._pool.putconn(connection)
                if connection.closed:
                    self._pool.check()  # one lost connection is seldom alone

    @contextmanager
    def snapshot(self) -> Iterator[PgTx]:
        """Begin a transaction that sees one state of everything and writes nothing. Raises as `transaction` does."""
        with self.transaction() as tx:
            tx.look_at_one_moment()
            yield tx

    def workers(self) -> int:
        """How many workers prove to be alive."""
        with self.transaction() as tx:
            return tx.workers()

    def _begun(self) -> _Session:
        """A connection in a transaction. One that was lost while nobody used it is found out here, and replaced."""
        connection = self._pool.getconn()
        try:
            self._begin(connection)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            self._give_back(connection)
            self._pool.check()  # one lost connection is seldom alone: after a restart of Postgres all are
            connection = self._pool.getconn()
            try:
                self._begin(connection)
            except BaseException:
                self._give_back(connection)
                raise
        except BaseException:
            self._give_back(connection)
            raise
        return connection

    def _begin(self, connection: _Session) -> None:
        connection.plan_anew(self._planned_for_s)
        if self._tenant is None:
            connection.execute("BEGIN")
            return
        try:
            # three statements in one message, which only a cursor can send that binds on this side
            ClientCursor(connection).execute(queries()["confine"], {"tenant": self._tenant})
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidParameterValue) as error:
            raise Misconfigured(
                f"Nobody can act for one tenant only ({error.diag.message_primary}). Let an administrator run "
                f'GRANT orchestrator_tenant TO "{connection.info.user}";'
            ) from error

    def _give_back(self, connection: _Session) -> None:
        _roll_back(connection)
        self._pool.putconn(connection)


class _Session(Connection[DictRow]):
    """A connection that knows how old its plans may be."""

    _planned_at = 0.0

    def plan_anew(self, after_s: float) -> None:
        """Let Postgres forget the plans of this session that may be older than so many seconds."""
        now = time.monotonic()
        if now - self._planned_at >= after_s:
            self._planned_at = now
            self.execute("DISCARD PLANS")


@contextmanager
def _translated(tenant: str | None) -> Iterator[None]:
    """Say `Unavailable` where Postgres cannot be reached, went away or takes no writes; and what a tenant may not."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable(f"Postgres gave no connection within 10 s: {error}") from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Unavailable(f"Postgres does not answer: {error}") from error
    except psycopg.errors.IdleInTransactionSessionTimeout as error:
        raise Unavailable("Postgres ended a transaction that was left alone; nothing was written.") from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise Unavailable("Postgres is read-only at present; nothing was written.") from error
    except psycopg.errors.FeatureNotSupported as error:
        # a statement that this session had prepared, over a table that has other columns now; it is prepared anew
        raise Unavailable(
            f"A migration came in between, and nothing was written; ask again: {error.diag.message_primary}."
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        if tenant is None:
            told = " ".join(str(error).split())
            raise Unavailable(
                f"Postgres refuses this program what it needs; nothing was written: {told}"
            ) from error
        raise ForeignTenant(
            f"This is not for tenant {tenant!r} to see or to change, and nothing was written: {error.diag.message_primary}."
        ) from error


def _roll_back(connection: Connection[DictRow]) -> None:
    with contextlib.suppress(psycopg.Error):  # a broken connection has rolled back by itself
        if not connection.closed and connection.info.transaction_status != TransactionStatus.IDLE:
            connection.execute("ROLLBACK")


class Alive:
    """A worker's number, held as a lock by a session of its own: when the process dies, Postgres lets go of it.

    Whoever looks for dropped steps sees the lock gone at once. A worker that is silent but not dead is met by its
    lease. After a lost connection `renew` takes the lock again under the same number.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._lock = threading.Lock()
        try:
            self._connection = self._connect()
        except psycopg.OperationalError as error:
            raise Unavailable(f"Postgres does not answer: {error}") from error
        with self._connection.cursor() as cursor:
            self.holder = int(_one(cursor.execute(queries()["next_worker"]))["holder"])
        self._hold()

    def _connect(self) -> Connection[DictRow]:
        # a wire that fell silent must show here as soon as it does to steps: their worker is dead without this lock
        watched = make_conninfo(self._dsn, **_WIRE)
        return psycopg.connect(watched, autocommit=True, row_factory=dict_row)

    def _hold(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(queries()["hold_alive"], {"alive_class": ALIVE_CLASS, "holder": self.holder})
            if not _one(cursor)["held"]:
                self._connection.close()  # so that the next `renew` tries again, and does not take silence for success
                raise Unavailable(
                    f"Worker number {self.holder} is held by another session; start the worker again."
                )

    def renew(self) -> None:
        """Make sure that the lock is still held; take it again after a lost connection."""
        with self._lock:
            try:
                self._connection.execute("SELECT 1")
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self._connection.close()
                try:
                    self._connection = self._connect()
                    self._hold()
                except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                    raise Unavailable(f"Postgres does not answer: {error}") from error

    def close(self) -> None:
        """Let go of the number."""
        with self._lock:
            self._connection.close()


class PgTx:
    """One transaction on Postgres."""

    def __init__(
        self, connection: Connection[DictRow], now: datetime | None, *, patience: str | None = None
    ) -> None:
        self._connection = connection
        self._patience = patience
        self._cursor: Cursor[DictRow] = connection.cursor()
        self._fixed_now = now
        self._known_now = now
        self._desks: dict[str, _Pending] = {}
        self._messages: list[Message] = []
        self._planned: list[Mapping[str, Json]] = []
        self._ballots: list[Ballot] = []

    # the clock and the pen

    def now(self) -> datetime:
        if self._known_now is None:
            self._known_now = _one(self._run("read_clock"))["now"]
        assert self._known_now is not None  # noqa: S101 - read a line above
        return self._known_now

    def _run(self, name: str, /, **values: object) -> Cursor[DictRow]:
        if self._planned:
            self.flush()  # whoever asks for a step must find those that this transaction planned
        cursor = ClientCursor(self._connection) if name in PLANNED_ANEW else self._cursor
        return cursor.execute(queries()[name], {"now": self._fixed_now, **values})

    def _hit(self, name: str, /, **values: object) -> bool:
        return self._run(name, **values).fetchone() is not None

    def _pending(self, plan_id: str) -> _Pending:
        if plan_id not in self._desks:
            self._desks[plan_id] = _Pending(plan_id)
        return self._desks[plan_id]

    def _locked(self, row: Mapping[str, Any]) -> Plan:
        """The plan of a row that this transaction now holds, from whose counters it numbers on."""
        plan = _plan(row)
        self._known_now = row["now"]
        pending = self._pending(plan.plan_id)
        pending.event_count, pending.step_count = plan.event_count, plan.step_count
        return plan

    def flush(self) -> None:
        """Write what has been gathered, about all plans in one statement; another one seals audit records."""
        touched = [desk for desk in self._desks.values() if desk.touched]
        messages, self._messages = self._messages, []
        planned, self._planned = self._planned, []
        ballots, self._ballots = self._ballots, []
        if ballots:
            self._cast(ballots)
        if not (touched or messages or planned):
            return
        audits = [record for desk in touched for record in desk.audits]
        told = [event for desk in touched for event in desk.events]
        self._run(
            "write_down",
            plans=_plain([desk.deltas() for desk in touched]),
            steps=_plain(planned),
            events=_plain(told),
            messages=_plain(
                [
                    {"at": at, "topic": m.topic, "plan_id": m.ref.plan_id, "step": m.ref.number}
                    for at, m in enumerate(messages)
                ]
            ),
        )
        if audits:
            self._seal(audits)
        for desk in touched:
            desk.clear()

    def _cast(self, ballots: Sequence[Ballot]) -> None:
        self._run("cast_ballots", ballots=_plain([_ballot_columns(ballot) for ballot in ballots]))

    def _seal(self, audits: Sequence[AuditRecord]) -> None:
        sealed = self._run(
            "seal",
            chains=[record.chain for record in audits],
            numbers=[record.number for record in audits],
            kinds=[record.kind for record in audits],
            bodies=[record.body for record in audits],
            prevs=[record.prev for record in audits],
            macs=[record.mac for record in audits],
            key_ids=[record.key_id for record in audits],
        )
        if sealed.rowcount != len(audits):
            # a trigger or a rule that swallows records would else let calls be made that nobody can account for
            raise Unavailable(
                f"The audit took {sealed.rowcount} of {len(audits)} records; nothing was written. "
                "Look for a trigger or a rule on table audit."
            )

    def _many(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        if len(rows) == 1:
            self._run(name, **rows[0])
        elif rows:
            if self._planned:
                self.flush()
            self._cursor.executemany(queries()[name], [{"now": self._fixed_now, **row} for row in rows])

    # plans

    def add_plan(self, plan_id: str, asked: Request, deadline: datetime) -> bool:
        return self._hit(
            "add_plan",
            plan_id=plan_id,
            tenant=asked.tenant,
            goal=asked.goal,
            depth=asked.depth,
            requester=asked.requester,
            sources=_json(asked.sources),
            metadata=_json(asked.metadata),
            priority=asked.priority,
            key=asked.key,
            fingerprint=asked.fingerprint(),
            budget_steps=asked.budget.steps,
            budget_calls=asked.budget.calls,
            budget_tokens=asked.budget.tokens,
            budget_uusd=asked.budget.cost_uusd,
            budget_s=asked.budget.seconds,
            deadline=deadline,
        )

    def plan_of_key(self, tenant: str, key: str) -> tuple[str, str] | None:
        row = self._run("plan_of_key", tenant=tenant, key=key).fetchone()
        return (row["plan_id"], row["fingerprint"]) if row else None

    def lock_plan(self, plan_id: str) -> Plan | None:
        self.flush()
        row = self._run("lock_plan", plan_id=plan_id).fetchone()
        return self._locked(row) if row else None

    def lock_plans(self, plan_ids: Sequence[str], *, wait: bool = True) -> Sequence[Plan]:
        self.flush()
        rows = self._run("lock_plans" if wait else "lock_free_plans", plan_ids=list(plan_ids))
        return [self._locked(row) for row in rows]

    def lock_step(self, ref: StepRef) -> tuple[Plan, Step] | None:
        self.flush()
        row = self._run("lock_step", plan_id=ref.plan_id, number=ref.number).fetchone()
        return (self._locked(row), _step_beside(row)) if row else None

    def plan(self, plan_id: str) -> Plan | None:
        self.flush()
        row = self._run("plan", plan_id=plan_id).fetchone()
        return _plan(row) if row else None

    def plans(
        self,
        *,
        tenant: str | None = None,
        state: str | None = None,
        behind: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> Sequence[Plan]:
        at, plan_id = behind or (None, None)
        rows = self._run("plans", tenant=tenant, state=state, behind_at=at, behind_id=plan_id, limit=limit)
        return [_plan(row) for row in rows]

    def tally(self) -> Tally:
        """Return what there is, in numbers, for whoever watches over it."""
        return Tally(**_one(self._run("tally")))

    def exposure(self) -> str | None:
        """Return what this transaction, which is a tenant's that nobody has, sees all the same; `None` for nothing."""
        found = _one(self._run("confinement"))
        if found["free"]:
            return (
                f"The role {found['role']} sees every row. Let an administrator run ALTER ROLE {found['role']} "
                f"NOSUPERUSER NOBYPASSRLS; and REVOKE orchestrator_fleet FROM {found['role']};"
            )
        if found["exposed"]:
            return (
                f"Tenants see each other's rows in {', '.join(found['exposed'])}. Stop serving, and compare policies "
                "and grants with migrations/schema.sql."
            )
        return None

    def workers(self) -> int:
        """Return how many workers prove to be alive."""
        return int(_one(self._run("workers", alive_class=ALIVE_CLASS))["workers"])

    def move_plan(
        self, plan_id: str, move: PlanMove, *, reason: str | None = None, partial: bool | None = None
    ) -> bool:
        before, after = PLAN_MOVES[move]
        return self._hit(
            "move_plan",
            plan_id=plan_id,
            before=sorted(before),
            after=after,
            reason=reason,
            partial=partial,
            ended=after in PLAN_ENDS,
        )

    def mark_partial(self, plan_id: str) -> None:
        self._pending(plan_id).partial = True

    def spend(self, plan_id: str, delta: Spent) -> None:
        pending = self._pending(plan_id)
        pending.spent = pending.spent.plus(delta)

    # steps

    def add_steps(self, plan_id: str, steps: Sequence[NewStep], *, max_attempts: int) -> Sequence[Step]:
        pending = self._pending(plan_id)  # of the plan that this transaction has locked
        made = [
            Step(
                plan_id,
                pending.step_count + i,
                s.agent,
                StepState.READY,
                s.round,
                s.brief,
                max_attempts=max_attempts,
                offered_at=self.now(),
            )
            for i, s in enumerate(steps, start=1)
        ]
        self._planned += [
            {
                "plan_id": plan_id,
                "number": s.number,
                "agent": s.agent,
                "phase": s.phase,
                "round": s.round,
                "brief": dict(s.brief),
                "max_attempts": max_attempts,
            }
            for s in made
        ]
        pending.step_count += len(made)
        pending.steps += len(made)
        pending.spent = pending.spent.plus(Spent(steps=len(made)))
        return made

    def step(self, ref: StepRef) -> Step | None:
        row = self._run("step", plan_id=ref.plan_id, number=ref.number).fetchone()
        return _step(row) if row else None

    def steps(self, plan_id: str) -> Sequence[Step]:
        return [_step(row) for row in self._run("steps", plan_id=plan_id)]

    def claim_steps(
        self, refs: Sequence[StepRef], *, holder: int, lease: timedelta, first: bool = False
    ) -> Mapping[StepRef, tuple[Plan, Step]]:
        ordered = sorted(
            refs, key=lambda ref: (ref.plan_id, ref.number)
        )  # whoever takes several takes them in one order
        try:
            rows = self._run(
                "claim_steps",
                plan_ids=[ref.plan_id for ref in ordered],
                numbers=[ref.number for ref in ordered],
                holder=holder,
                lease=lease,
                first=first,
                patience=self._patience,
            ).fetchall()
        except _HELD:
            if self._patience is None:
                raise  # nobody asks again alone, and what is held is not lost
            return {}
        taken = {}
        for row in rows:
            plan, step = _plan(row), _step_beside(row)
            if row["started_behind"] is not None:
                number = int(row["started_behind"]) + 1
                self._pending(plan.plan_id).event_count = number
                plan = replace(plan, state=PlanState.RUNNING, event_count=number)
            taken[step.ref] = (plan, step)
        return taken

    def complete_steps(self, completions: Sequence[Completion]) -> Collection[StepRef]:
        came: list[Mapping[str, Json]] = [
            {
                "plan_id": c.ref.plan_id,
                "number": c.ref.number,
                "claim": c.claim,
                "verdict": c.verdict,
                "follow_ups": list(c.follow_ups),
                "result": c.result,
                "told": c.told,
            }
            for c in completions
        ]
        try:
            rows = self._run(
                "complete_steps", completions=_plain(came), number=len(came), patience=self._patience
            ).fetchall()
        except psycopg.errors.DivisionByZero:
            return set()  # one of the claims was lost while the statement waited
        except _HELD:
            if self._patience is None:
                raise  # nobody asks again alone, and what is held is not lost
            return set()
        for row in rows:
            pending = self._pending(row["plan_id"])
            pending.event_count = max(pending.event_count, int(row["event_count"]))
        return {StepRef(row["plan_id"], row["number"]) for row in rows}

    def renew(self, ref: StepRef, *, claim: int, lease: timedelta) -> bool:
        return self._hit("renew_step", plan_id=ref.plan_id, number=ref.number, claim=claim, lease=lease)

    def move_step(
        self,
        ref: StepRef,
        move: StepMove,
        *,
        claim: int | None = None,
        delay: timedelta | None = None,
        return_attempt: bool = False,
        reset_attempts: bool = False,
        verdict: str | None = None,
        follow_ups: Sequence[Mapping[str, Json]] | None = None,
        reason: str | None = None,
    ) -> bool:
        before, after = STEP_MOVES[move]
        return self._hit(
            "move_step",
            plan_id=ref.plan_id,
            number=ref.number,
            before=sorted(before),
            after=after,
            claim=claim,
            delay=delay,
            return_attempt=return_attempt,
            reset_attempts=reset_attempts,
            verdict=verdict,
            follow_ups=None if follow_ups is None else _json(list(follow_ups)),
            reason=reason,
        )

    def mark_settled(self, refs: Sequence[StepRef]) -> Sequence[Step]:
        rows = self._run("mark_settled", plan_ids=[r.plan_id for r in refs], numbers=[r.number for r in refs])
        return [_step(row) for row in rows]

    def copy_steps(self, plan_id: str, steps: Sequence[Step]) -> None:
        rows = [
            {
                "plan_id": plan_id,
                "number": s.number,
                "agent": s.agent,
                "phase": s.phase,
                "state": s.state,
                "round": s.round,
                "brief": _json(s.brief),
                "attempt": s.attempt,
                "max_attempts": s.max_attempts,
                "claim": s.claim,
                "verdict": s.verdict,
                "follow_ups": _json(list(s.follow_ups)),
                "result": _json(s.result),
                "reason": s.reason,
                "settled": s.settled,
            }
            for s in steps
        ]
        self._many("copy_step", rows)
        pending = self._pending(plan_id)
        pending.step_count += len(rows)
        pending.steps += len(rows)
        pending.spent = pending.spent.plus(Spent(steps=len(rows)))

    # what a step leaves behind

    def add_event(self, plan_id: str, kind: str, body: Mapping[str, Json]) -> None:
        pending = self._pending(plan_id)
        # numbers are given by the plan's row, which this transaction holds
        pending.event_count += 1
        pending.events.append(
            {"plan_id": plan_id, "number": pending.event_count, "kind": kind, "body": dict(body)}
        )

    def events(self, plan_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[Event]:
        self.flush()
        return [Event(**row) for row in self._run("events", plan_id=plan_id, after=after, limit=limit)]

    def add_audit(self, record: AuditRecord) -> None:
        self._pending(record.chain).audits.append(record)

    def audit(self, chain: str) -> Sequence[AuditRecord]:
        self.flush()
        return [AuditRecord(**row) for row in self._run("audit", chain=chain)]

    # the vault's part: chains of tenants, and checkpoints

    def look_at_one_moment(self) -> None:
        """Let everything that this transaction reads from now on be of one moment; the first thing that it does."""
        self._run("one_snapshot")

    def take_turn(self) -> bool:
        return bool(_one(self._run("checkpoint_turn", lock=_CHECKPOINT_LOCK))["taken"])

    def newest_checkpoint(self) -> tuple[datetime, bytes] | None:
        row = self._run("newest_checkpoint").fetchone()
        return (row["at"], bytes(row["line"])) if row else None

    def checkpoint_lines(self, after: int, limit: int) -> Sequence[bytes]:
        return [bytes(row["line"]) for row in self._run("checkpoint_lines", after=after, limit=limit)]

    def grown(self, limit: int) -> Sequence[Grown]:
        return [_grown(row) for row in self._run("grown", limit=limit)]

    def records_between(self, chains: Sequence[str], behind: Sequence[int]) -> Sequence[AuditRecord]:
        rows = self._run("records_between", chains=list(chains), behind=list(behind))
        return [AuditRecord(**row) for row in rows]

    def add_checkpoint(self, made: Checkpoint) -> None:
        self._run(
            "add_checkpoint",
            number=made.number,
            at=datetime.fromisoformat(made.at),
            key_id=made.key_id,
            line=made.line(),
            chains=[leaf.chain for leaf in made.leaves],
            counts=[leaf.count for leaf in made.leaves],
            heads=[leaf.head for leaf in made.leaves],
            folds=[leaf.fold for leaf in made.leaves],
        )

    def heads(self, after: str | None, limit: int) -> Sequence[Head]:
        return [Head(**row) for row in self._run("heads", after=after, limit=limit)]

    def head(self, chain: str) -> Head | None:
        row = self._run("head", chain=chain).fetchone()
        return Head(**row) if row else None

    def strays(self) -> Sequence[str]:
        return [str(row["chain"]) for row in self._run("strays")]

    def lock_ledger(self, tenant: str) -> Head:
        """Return a tenant's own chain, begun if need be; nobody else appends to it until this transaction ends."""
        self._run("begin_ledger", chain=ledger_of(tenant), tenant=tenant)
        return Head(**_one(self._run("lock_ledger", tenant=tenant)))

    def append_to_ledger(self, record: AuditRecord) -> None:
        """Append a record to a tenant's own chain, which this transaction has locked."""
        self._seal([record])
        _one(self._run("grow_ledger", chain=record.chain, number=record.number, head=record.mac))

    def audit_page(self, chain: str, before: int, limit: int) -> Sequence[AuditRecord]:
        """Return records of a chain below a number, the newest first."""
        self.flush()
        return [
            AuditRecord(**row) for row in self._run("audit_page", chain=chain, before=before, limit=limit)
        ]

    def send(self, messages: Iterable[Message]) -> None:
        self._messages.extend(messages)

    def add_facts(self, plan_id: str, facts: Sequence[Fact]) -> None:
        rows = [
            {
                "plan_id": plan_id,
                "step": f.step,
                "number": f.number,
                "quote": f.quote,
                "evidence": f.evidence,
                "start": f.start,
                "end": f.end,
                "locator": f.locator,
                "title": f.title,
                "heading": list(f.heading),
                "origin_sha256": f.origin_sha256,
                "question": f.question,
                "score": f.score,
            }
            for f in facts
        ]
        self._many("add_fact", rows)

    def facts(self, plan_id: str) -> Sequence[Fact]:
        return [_fact(row) for row in self._run("facts", plan_id=plan_id)]

    def related_facts(
        self,
        tenant: str,
        words: Sequence[str],
        *,
        least: int,
        without: Sequence[str] = (),
        plans: int = 500,
        limit: int = 8,
    ) -> Sequence[Remembered]:
        rows = self._run(
            "related_facts",
            tenant=tenant,
            words=list(words),
            least=least,
            without=list(without),
            plans=plans,
            limit=limit,
        )
        return [Remembered(str(row["plan_id"]), row["finished_at"], _fact(row)) for row in rows]

    def put_evidence(self, tenant: str, evidence: Evidence) -> None:
        self._run(
            "put_evidence",
            tenant=tenant,
            sha256=evidence.sha256,
            text=evidence.text,
            locator=evidence.locator,
            title=evidence.title,
            media_type=evidence.media_type,
            origin_sha256=evidence.origin_sha256,
        )

    def evidence(self, tenant: str, sha256: str) -> Evidence | None:
        row = self._run("evidence", tenant=tenant, sha256=sha256).fetchone()
        return Evidence(**row) if row else None

    def put_report(self, plan_id: str, report: Mapping[str, Json]) -> None:
        self._run("put_report", plan_id=plan_id, body=_json(report))

    def report(self, plan_id: str) -> Mapping[str, Json] | None:
        row = self._run("report", plan_id=plan_id).fetchone()
        return row["body"] if row else None

    def add_ballot(self, ballot: Ballot) -> None:
        self._ballots.append(ballot)

    def ballots(self, plan_id: str) -> Sequence[Ballot]:
        self.flush()
        return [_ballot(row) for row in self._run("ballots", plan_id=plan_id)]

    # the journal

    def call(self, ref: StepRef, key: str, occurrence: int) -> Call | None:
        row = self._run(
            "call", plan_id=ref.plan_id, step=ref.number, key=key, occurrence=occurrence
        ).fetchone()
        return _call(row) if row else None

    def calls(self, plan_id: str) -> Sequence[Call]:
        return [_call(row) for row in self._run("calls", plan_id=plan_id)]

    def put_call(self, call: Call) -> None:
        self._run(
            "put_call",
            plan_id=call.plan_id,
            step=call.step,
            key=call.key,
            occurrence=call.occurrence,
            tool=call.tool,
            semantics=call.semantics,
            claim=call.claim,
            arguments=_json(call.arguments),
            tokens=call.reserved.tokens,
            cost_uusd=call.reserved.cost_uusd,
        )

    def finish_call(
        self,
        ref: StepRef,
        key: str,
        occurrence: int,
        *,
        claim: int,
        state: CallState,
        result: Json = None,
        evidence: str | None = None,
        error: str | None = None,
        spent: Spent | None = None,
    ) -> bool:
        return self._hit(
            "finish_call",
            plan_id=ref.plan_id,
            step=ref.number,
            key=key,
            occurrence=occurrence,
            claim=claim,
            state=state,
            result=_json(result),
            evidence=evidence,
            error=error,
            tokens=spent.tokens if spent else None,
            cost_uusd=spent.cost_uusd if spent else None,
        )

    def orphan_calls(self, ref: StepRef) -> Sequence[Call]:
        return [_call(row) for row in self._run("orphan_calls", plan_id=ref.plan_id, step=ref.number)]

    def allow_repeat(self, ref: StepRef, key: str) -> None:
        self._run("allow_repeat", plan_id=ref.plan_id, step=ref.number, key=key)

    # people

    def add_approval(self, approval: Approval) -> None:
        self._run(
            "add_approval",
            approval_id=approval.approval_id,
            plan_id=approval.plan_id,
            step=approval.step,
            category=approval.category,
            roles=list(approval.roles),
            question=approval.question,
            args_digest=approval.args_digest,
            requester=approval.requester,
            expires_at=approval.expires_at,
            chain=_json(domain_approval.as_json(approval.chain)) if approval.chain else None,
        )

    def approval(self, approval_id: str) -> Approval | None:
        row = self._run("approval", approval_id=approval_id).fetchone()
        return _approval(row) if row else None

    def approvals(
        self,
        *,
        state: ApprovalState | None = None,
        plan_id: str | None = None,
        step: int | None = None,
        category: str | None = None,
        role: str | None = None,
        tenant: str | None = None,
        limit: int | None = None,
    ) -> Sequence[Approval]:
        rows = self._run(
            "approvals" if tenant is None else "approvals_of_tenant",
            state=state,
            plan_id=plan_id,
            step=step,
            category=category,
            role=role,
            tenant=tenant,
            limit=limit,
        )
        return [_approval(row) for row in rows]

    def decide(
        self,
        approval_id: str,
        state: ApprovalState,
        *,
        by: str,
        comment: str,
        version: int | None = None,
        holds: timedelta | None = None,
    ) -> bool:
        return self._hit(
            "decide",
            approval_id=approval_id,
            state=state,
            by=by,
            comment=comment,
            version=version,
            holds=holds,
        )

    def advance(
        self,
        approval_id: str,
        *,
        version: int,
        stage: int,
        level: int,
        roles: tuple[str, ...],
        expires_at: datetime,
        in_time: bool,
    ) -> bool:
        return self._hit(
            "advance",
            approval_id=approval_id,
            version=version,
            stage=stage,
            level=level,
            roles=list(roles),
            expires_at=expires_at,
            in_time=in_time,
        )

    def add_ruling(self, approval_id: str, ruling: Ruling) -> None:
        self._run(
            "add_ruling",
            approval_id=approval_id,
            number=ruling.number,
            person=ruling.person,
            role=ruling.role,
            stage=ruling.stage,
            seat=ruling.seat,
            decision=ruling.decision,
            comment=ruling.comment,
        )

    def rulings(self, approval_id: str) -> Sequence[Ruling]:
        return [_ruling(row) for row in self._run("rulings", approval_id=approval_id)]

    def extend(self, plan_id: str, more: timedelta) -> None:
        self._run("extend", plan_id=plan_id, more=more)

    # what is told outside

    def add_notification(self, notification: Notification) -> None:
        self._run(
            "add_notification",
            notification_id=notification.notification_id,
            approval_id=notification.approval_id,
            kind=notification.kind,
            body=_json(notification.body),
        )

    def take_notification(self, within: timedelta) -> Notification | None:
        row = self._run("take_notification", within=within).fetchone()
        return _notification(row) if row else None

    def end_notification(
        self, taken: Notification, state: NotificationState, *, error: str | None = None
    ) -> bool:
        return self._hit(
            "end_notification",
            notification_id=taken.notification_id,
            attempts=taken.attempts,
            state=state,
            error=error,
        )

    def postpone_notification(self, taken: Notification, delay: timedelta, *, error: str) -> bool:
        return self._hit(
            "postpone_notification",
            notification_id=taken.notification_id,
            attempts=taken.attempts,
            delay=delay,
            error=error,
        )

    def revive_notification(self, notification_id: str) -> bool:
        return self._hit("revive_notification", notification_id=notification_id)

    def notification(self, notification_id: str) -> Notification | None:
        row = self._run("notification", notification_id=notification_id).fetchone()
        return _notification(row) if row else None

    def notifications(
        self,
        *,
        approval_id: str | None = None,
        state: NotificationState | None = None,
        tenant: str | None = None,
        limit: int | None = None,
    ) -> Sequence[Notification]:
        query = "notifications" if tenant is None else "notifications_of_tenant"
        rows = self._run(query, approval_id=approval_id, state=state, tenant=tenant, limit=limit)
        return [_notification(row) for row in rows]

    def add_dead_letter(self, letter: DeadLetter) -> None:
        self._run(
            "add_dead_letter",
            letter_id=letter.letter_id,
            plan_id=letter.plan_id,
            step=letter.step,
            reason=letter.reason,
            detail=letter.detail,
            attempts=letter.attempts,
            at=letter.at,
        )

    def dead_letter(self, letter_id: str) -> DeadLetter | None:
        row = self._run("dead_letter", letter_id=letter_id).fetchone()
        return _dead_letter(row) if row else None

    def dead_letters(
        self,
        *,
        state: str | None = "open",
        plan_id: str | None = None,
        reason: str | None = None,
        tenant: str | None = None,
        older_than: timedelta | None = None,
        newer_than: timedelta | None = None,
        behind: tuple[datetime, str] | None = None,
        limit: int | None = None,
    ) -> Sequence[DeadLetter]:
        at, letter_id = behind or (None, None)
        rows = self._run(
            "dead_letters",
            state=state,
            plan_id=plan_id,
            reason=reason,
            tenant=tenant,
            older_than=older_than,
            newer_than=newer_than,
            behind_at=at,
            behind_id=letter_id,
            limit=limit,
        )
        return [_dead_letter(row) for row in rows]

    def close_dead_letter(self, letter_id: str, state: str) -> bool:
        return self._hit("close_dead_letter", letter_id=letter_id, state=state)

    # what the sweeper looks for

    def due(self, limit: int) -> Sequence[StepRef]:
        return [StepRef(row["plan_id"], row["number"]) for row in self._run("due", limit=limit)]

    def lapsed(self, limit: int, *, of: StepRef | None = None) -> Sequence[StepRef]:
        one = {"plan_id": of.plan_id if of else None, "number": of.number if of else None}
        rows = self._run("lapsed", limit=limit, alive_class=ALIVE_CLASS, **one)
        return [StepRef(row["plan_id"], row["number"]) for row in rows]

    def unheard(self, older_than: timedelta, limit: int) -> Sequence[Message]:
        rows = self._run("unheard", older_than=older_than, limit=limit).fetchall()
        topics = [Topic.STEPS if row["state"] == StepState.READY else Topic.COMPLETIONS for row in rows]
        return [
            Message(t, StepRef(row["plan_id"], row["number"])) for t, row in zip(topics, rows, strict=True)
        ]

    def expired_approvals(self, limit: int) -> Sequence[Approval]:
        return [_approval(row) for row in self._run("expired_approvals", limit=limit)]

    # the relay

    def take_outbox(self, limit: int, *, room: int | None = None) -> Sequence[Message]:
        room = _ANY if room is None else max(0, room)
        rows = self._run("take_outbox", limit=limit, room=room).fetchall()
        if room and not any(row["topic"] == Topic.STEPS for row in rows):
            rows += self._take_shares(min(room, limit))
        return [
            Message(Topic(row["topic"]), StepRef(row["plan_id"], row["step"]), row["priority"])
            for row in sorted(rows, key=lambda row: int(row["number"]))
        ]

    def _take_shares(self, room: int) -> list[DictRow]:
        waiting = [Waiting(**row) for row in self._run("waiting", room=room, lock=_TURN_LOCK)]
        shares = share(waiting, room)
        if not shares:
            return []
        return self._run(
            "take_shares",
            tenants=list(shares),
            numbers=[part.messages for part in shares.values()],
            served=[part.served for part in shares.values()],
        ).fetchall()

    # tenants

    def may_run(self, tenant: str) -> bool:
        limit = self._run("limit_of", tenant=tenant).fetchone()
        if limit is None:
            return True
        return int(_one(self._run("running_of", tenant=tenant))["running"]) < int(limit["max_running"])

    def tenants(self) -> Sequence[Tenant]:
        return [Tenant(**row) for row in self._run("tenants")]

    def put_tenant(self, tenant: Tenant) -> None:
        self._run("put_tenant", tenant=tenant.tenant, weight=tenant.weight, max_running=tenant.max_running)

    # the kill switch

    def stops(self, tenant: str | None = None) -> Sequence[Stop]:
        return [_stop(row) for row in self._run("stops", tenant=tenant)]

    def put_stop(self, stop: Stop) -> None:
        self._run("put_stop", tenant=stop.tenant, target=stop.target, reason=stop.reason, by=stop.by)

    def remove_stop(self, tenant: str, target: str) -> Stop | None:
        row = self._run("remove_stop", tenant=tenant, target=target).fetchone()
        return _stop(row) if row else None

    # conversations

    def add_conversation(self, conversation_id: str, tenant: str, owner: str) -> None:
        self._run("add_conversation", conversation_id=conversation_id, tenant=tenant, owner=owner)

    def conversation(
        self, tenant: str, owner: str, conversation_id: str, *, lock: bool = False
    ) -> Conversation | None:
        name = "lock_conversation" if lock else "conversation"
        row = self._run(name, tenant=tenant, owner=owner, conversation_id=conversation_id).fetchone()
        return Conversation(**row) if row else None

    def conversations(
        self, tenant: str, owner: str, *, behind: tuple[datetime, str] | None = None, limit: int = 50
    ) -> Sequence[Conversation]:
        at, conversation_id = behind or (None, None)
        rows = self._run(
            "conversations",
            tenant=tenant,
            owner=owner,
            behind_at=at,
            behind_id=conversation_id,
            limit=limit,
        )
        return [Conversation(**row) for row in rows]

    def remove_conversation(self, tenant: str, owner: str, conversation_id: str) -> bool:
        return self._hit("remove_conversation", tenant=tenant, owner=owner, conversation_id=conversation_id)

    def forget_conversations(self, kept: timedelta, limit: int) -> Sequence[Conversation]:
        silent = [row["conversation_id"] for row in self._run("silent_conversations", kept=kept, limit=limit)]
        if not silent:
            return []
        # looked at again now that they are held: whoever spoke meanwhile has committed
        gone = self._run("forget_conversations", conversation_ids=silent, kept=kept)
        return sorted((Conversation(**row) for row in gone), key=lambda c: (c.created_at, c.conversation_id))

    def add_exchange(self, exchange: Exchange) -> bool:
        said, of = exchange, exchange.conversation
        usual = {"conversation_id": of.conversation_id, "tenant": of.tenant, "owner": of.owner}
        told = {"key": None, "fingerprint": "", "route": None, "goal": "", "plan_id": None, "answer": None}
        message = {"number": said.number, "role": Role.USER, "content": said.message}
        keyed = {"key": said.key, "fingerprint": said.fingerprint}
        if not self._hit("add_turn", **{**usual, **told, **message, **keyed}):
            return False
        reply = {
            "number": said.number + 1,
            "role": Role.ASSISTANT,
            "content": said.reply,
            "route": said.route,
            "goal": said.goal,
            "plan_id": said.plan_id,
            "answer": None if said.answer is None else _json(said.answer),
        }
        self._run("add_turn", **{**usual, **told, **reply})
        _one(
            self._run(
                "grow_conversation",
                conversation_id=of.conversation_id,
                turns=said.number + 1,
                plan_id=said.plan_id,
            )
        )
        return True

    def turn_of_key(self, tenant: str, owner: str, key: str) -> tuple[str, int, str] | None:
        row = self._run("turn_of_key", tenant=tenant, owner=owner, key=key).fetchone()
        return (row["conversation_id"], row["number"], row["fingerprint"]) if row else None

    def turns(self, conversation_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[Turn]:
        rows = self._run("turns", conversation_id=conversation_id, after=after, limit=limit)
        return [_turn(row) for row in rows]

    def answer_turn(
        self, conversation_id: str, number: int, content: str, answer: Mapping[str, Json]
    ) -> bool:
        return self._hit(
            "answer_turn",
            conversation_id=conversation_id,
            number=number,
            content=content,
            answer=_json(answer),
        )

    # secrets

    def lock_secret(self, tenant: str, name: str) -> int:
        return int(_one(self._run("lock_secret", tenant=tenant, name=name))["versions"])

    def secret_versions(self, tenant: str, name: str | None = None) -> Sequence[SealedVersion]:
        return [_sealed_version(row) for row in self._run("secret_versions", tenant=tenant, name=name)]

    def add_secret_version(self, version: SealedVersion) -> bool:
        told = version.told
        return self._hit(
            "add_secret_version",
            tenant=told.tenant,
            name=told.name,
            version=told.version,
            state=told.state,
            sealed=version.sealed,
            created_at=told.created_at,
            created_by=told.created_by,
        )

    def move_secret(self, tenant: str, name: str, version: int, was: SecretState, to: SecretState) -> bool:
        return self._hit("move_secret", tenant=tenant, name=name, version=version, was=was, to=to)

    def remove_secret_version(self, tenant: str, name: str, version: int) -> bool:
        return self._hit("remove_secret_version", tenant=tenant, name=name, version=version)

    def data_key(self, tenant: str) -> WrappedKey | None:
        row = self._run("data_key", tenant=tenant).fetchone()
        return WrappedKey(**row) if row else None

    def data_keys(self) -> Sequence[WrappedKey]:
        return [WrappedKey(**row) for row in self._run("data_keys")]

    def add_data_key(self, key: WrappedKey) -> None:
        self._run("add_data_key", tenant=key.tenant, wrapped=key.wrapped, master=key.master)

    def rewrap_data_key(self, key: WrappedKey, *, was: str) -> bool:
        return self._hit(
            "rewrap_data_key", tenant=key.tenant, wrapped=key.wrapped, master=key.master, was=was
        )

    # who may ask

    def add_key(self, **columns: object) -> ApiKey | None:
        """Write an API key, or return nothing if its id is taken."""
        return _key(self._run("add_key", **columns).fetchone())

    def api_key(self, key_id: str, *, lock: bool = False) -> ApiKey | None:
        """Return a key, whatever became of it; held until this transaction ends, if it is to be."""
        return _key(self._run("lock_key" if lock else "api_key", key_id=key_id).fetchone())

    def api_keys(self, tenant: str | None = None) -> Sequence[ApiKey]:
        """Return the keys of a tenant or of all, the oldest first."""
        return [_made_key(row) for row in self._run("api_keys", tenant=tenant)]

    def usable_key(self, key_id: str) -> ApiKey | None:
        """Return a key that is neither revoked nor expired."""
        return _key(self._run("usable_key", key_id=key_id).fetchone())

    def touch_key(self, key_id: str) -> None:
        """Note that a key was used, at most once a minute."""
        self._run("touch_key", key_id=key_id)

    def end_key_soon(self, key_id: str, after: timedelta) -> None:
        """Let a key expire after some time, unless it does so sooner."""
        self._run("end_key_soon", key_id=key_id, after=after)

    def revoke_key(self, key_id: str, *, by: str) -> ApiKey | None:
        """Revoke a key, or return nothing if there is none that is not revoked."""
        return _key(self._run("revoke_key", key_id=key_id, by=by).fetchone())

    def add_session(self, **columns: object) -> Session | None:
        """Write a session, or return nothing if its id is taken."""
        return _session(self._run("add_session", **columns).fetchone())

    def usable_session(self, session_id: str) -> Session | None:
        """Return a session that has neither ended nor expired, and whose key may still be used."""
        return _session(self._run("usable_session", session_id=session_id).fetchone())

    def end_session(self, session_id: str) -> bool:
        """End a session; `False` if it had ended."""
        return self._hit("end_session", session_id=session_id)

    def forget_sessions(self) -> None:
        """Remove sessions that were over a day ago."""
        self._run("forget_sessions")

    # schedules

    def add_schedule(self, schedule: Schedule) -> bool:
        return self._hit("add_schedule", **_schedule_columns(schedule))

    def schedule(self, tenant: str, name: str, *, lock: bool = False) -> Schedule | None:
        row = self._run("lock_schedule" if lock else "schedule", tenant=tenant, name=name).fetchone()
        return _schedule(row) if row else None

    def schedules(self, tenant: str | None = None) -> Sequence[Schedule]:
        return [_schedule(row) for row in self._run("schedules", tenant=tenant)]

    def write_schedule(self, schedule: Schedule) -> None:
        self._run("write_schedule", **_schedule_columns(schedule))

    def remove_schedule(self, schedule_id: str) -> bool:
        return self._hit("remove_schedule", schedule_id=schedule_id)

    def take_schedule(self) -> Schedule | None:
        row = self._run("take_schedule").fetchone()
        return _schedule(row) if row else None

    def next_tick_at(self) -> datetime | None:
        at: datetime | None = _one(self._run("next_tick_at"))["next_at"]
        return at

    def add_firing(self, firing: Firing) -> bool:
        return self._hit(
            "add_firing",
            schedule_id=firing.schedule_id,
            due_at=firing.due_at,
            fired_at=firing.fired_at,
            outcome=firing.outcome,
            plan_id=firing.plan_id,
            reason=firing.reason,
            key=firing.key,
        )

    def firing(self, schedule_id: str, due_at: datetime, *, key: str | None = None) -> Firing | None:
        row = self._run("firing", schedule_id=schedule_id, due_at=due_at, key=key).fetchone()
        return _firing(row) if row else None

    def end_firing(
        self,
        schedule_id: str,
        due_at: datetime,
        outcome: FiringOutcome,
        *,
        plan_id: str | None = None,
        reason: str | None = None,
    ) -> bool:
        return self._hit(
            "end_firing",
            schedule_id=schedule_id,
            due_at=due_at,
            outcome=outcome,
            plan_id=plan_id,
            reason=reason,
        )

    def firings(
        self, schedule_id: str, *, outcome: FiringOutcome | None = None, limit: int = 50
    ) -> Sequence[Firing]:
        rows = self._run("firings", schedule_id=schedule_id, outcome=outcome, limit=limit)
        return [_firing(row) for row in rows]


class _Pending:
    """What a transaction has added to one plan and not written yet, and the counters it numbers on from."""

    def __init__(self, plan_id: str) -> None:
        self.plan_id = plan_id
        self.event_count = 0
        self.step_count = 0
        self.clear()

    def clear(self) -> None:
        """Forget what has been written; the counters go on."""
        self.events: list[Mapping[str, Json]] = []
        self.audits: list[AuditRecord] = []
        self.steps = 0
        self.spent = Spent()
        self.partial = False

    @property
    def touched(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.events or self.audits or self.steps or self.partial or self.spent != Spent())

    def deltas(self) -> Mapping[str, Json]:
        """What the plan's counters change by."""
        return {
            "plan_id": self.plan_id,
            "steps": self.steps,
            "events": len(self.events),
            "audits": len(self.audits),
            "head": self.audits[-1].mac.hex() if self.audits else None,
            "partial": self.partial,
            "spent_steps": self.spent.steps,
            "spent_calls": self.spent.calls,
            "spent_tokens": self.spent.tokens,
            "spent_uusd": self.spent.cost_uusd,
        }


def _set_up(connection: Connection[DictRow]) -> None:
    """Let a session give times in UTC, look up the few rows that a query is for by their index, and keep its plans.

    What a table held when it was last analysed says nothing here: most are empty one moment and crowded the next.
    """
    connection.execute("SET TIME ZONE 'UTC'")
    connection.execute("SET enable_seqscan = off")
    connection.execute("SET jit = off")
    connection.execute("SET plan_cache_mode = force_generic_plan")


def _patient(idle_s: float) -> Callable[[Connection[DictRow]], None]:
    """Return what sets a session up, and lets Postgres end it when its transaction is left alone for so long.

    A process that falls silent in the middle of a transaction would else keep a plan from everybody for ever.
    """

    def configure(connection: Connection[DictRow]) -> None:
        _set_up(connection)
        connection.execute(f"SET idle_in_transaction_session_timeout = {round(idle_s * 1000)}")

    return configure


def _json(value: object) -> Jsonb:
    return Jsonb(value, dumps=lambda v: canonical(v).decode())


def _plain(rows: Sequence[Mapping[str, Json]]) -> Jsonb:
    return Jsonb(rows, dumps=lambda v: json.dumps(v, allow_nan=False))


def _one(cursor: Cursor[DictRow]) -> DictRow:
    row = cursor.fetchone()
    if row is None:
        raise Unavailable("Postgres answered without the row that was asked for.")
    return row


def _sealed_version(row: Mapping[str, Any]) -> SealedVersion:
    told = SecretVersion(
        tenant=row["tenant"],
        name=row["name"],
        version=row["version"],
        state=SecretState(row["state"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
    )
    return SealedVersion(told, bytes(row["sealed"]))


def _key(row: Mapping[str, Any] | None) -> ApiKey | None:
    return None if row is None else _made_key(row)


def _made_key(row: Mapping[str, Any]) -> ApiKey:
    return ApiKey(**{**row, **_listed(row)})


def _session(row: Mapping[str, Any] | None) -> Session | None:
    return None if row is None else Session(**{**row, **_listed(row)})


def _listed(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"roles": tuple(row["roles"]), "scopes": tuple(row["scopes"]), "digest": bytes(row["digest"])}


def _plan(row: Mapping[str, Any]) -> Plan:
    return Plan(
        plan_id=str(row["plan_id"]),
        tenant=row["tenant"],
        goal=row["goal"],
        depth=row["depth"],
        state=PlanState(row["state"]),
        requester=row["requester"],
        budget=Budget(
            row["budget_steps"],
            row["budget_calls"],
            row["budget_tokens"],
            row["budget_uusd"],
            row["budget_s"],
        ),
        spent=Spent(row["spent_steps"], row["spent_calls"], row["spent_tokens"], row["spent_uusd"]),
        created_at=row["created_at"],
        deadline=row["deadline"],
        partial=row["partial"],
        reason=row["reason"],
        sources=row["sources"],
        metadata=row["metadata"],
        priority=row["priority"],
        step_count=row["step_count"],
        event_count=row["event_count"],
        audit_count=row["audit_count"],
        audit_head=bytes(row["audit_head"]),
        finished_at=row["finished_at"],
    )


def _step(row: Mapping[str, Any]) -> Step:
    return Step(
        plan_id=str(row["plan_id"]),
        number=row["number"],
        agent=Agent(row["agent"]),
        state=StepState(row["state"]),
        round=row["round"],
        brief=row["brief"],
        attempt=row["attempt"],
        max_attempts=row["max_attempts"],
        claim=row["claim"],
        holder=row["holder"],
        leased_until=row["leased_until"],
        run_after=row["run_after"],
        offered_at=row["offered_at"],
        verdict=row["verdict"],
        follow_ups=tuple(row["follow_ups"]),
        result=row.get("result") or {},
        reason=row["reason"],
        settled=row["settled"],
    )


def _step_beside(row: Mapping[str, Any]) -> Step:
    """The step that a row holds beside its plan."""
    return _step({name[2:]: value for name, value in row.items() if name.startswith("s_")})


def _fact(row: Mapping[str, Any]) -> Fact:
    return Fact(
        step=row["step"],
        number=row["number"],
        quote=row["quote"],
        evidence=row["evidence"],
        start=row["start_at"],
        end=row["end_at"],
        locator=row["locator"],
        title=row["title"],
        heading=tuple(row["heading"]),
        origin_sha256=row["origin_sha256"],
        question=row["question"],
        score=row["score"],
    )


def _grown(row: Mapping[str, Any]) -> Grown:
    leaf = None
    if row["leaf_count"] is not None:
        leaf = Leaf(row["chain"], row["leaf_count"], bytes(row["leaf_head"]), bytes(row["leaf_fold"]))
    return Grown(row["chain"], row["count"], row["head"], leaf, row["seal_there"])


def _call(row: Mapping[str, Any]) -> Call:
    return Call(
        plan_id=str(row["plan_id"]),
        step=row["step"],
        key=row["key"],
        occurrence=row["occurrence"],
        tool=row["tool"],
        semantics=Semantics(row["semantics"]),
        state=CallState(row["state"]),
        claim=row["claim"],
        arguments=row["arguments"],
        result=row["result"],
        evidence=row["evidence"],
        error=row["error"],
        reserved=Spent(calls=1, tokens=row["tokens"], cost_uusd=row["cost_uusd"]),
        repeat_allowed=row["repeat_allowed"],
    )


def _ballot_columns(ballot: Ballot) -> Mapping[str, Json]:
    return {
        "plan_id": ballot.plan_id,
        "round": ballot.round,
        "draft": ballot.draft,
        "objections": ballot.objections,
        "verdict": ballot.verdict,
        "confidence": ballot.confidence,
        "threshold": ballot.threshold,
        "decided": ballot.decided,
        "why": ballot.why,
        "generator": ballot.generator,
        "critic": ballot.critic,
        "judge": ballot.judge,
    }


def _ballot(row: Mapping[str, Any]) -> Ballot:
    return Ballot(
        **{
            **row,
            "plan_id": str(row["plan_id"]),
            "verdict": Verdict(row["verdict"]),
            "decided": Decision(row["decided"]),
            "why": Why(row["why"]) if row["why"] else None,
        }
    )


def _approval(row: Mapping[str, Any]) -> Approval:
    return Approval(
        approval_id=str(row["approval_id"]),
        plan_id=str(row["plan_id"]),
        step=row["step"],
        category=row["category"],
        roles=tuple(row["roles"]),
        question=row["question"],
        args_digest=row["args_digest"],
        requester=row["requester"],
        state=ApprovalState(row["state"]),
        expires_at=row["expires_at"],
        decided_by=row["decided_by"],
        comment=row["comment"],
        chain=domain_approval.from_json(row["chain"]) if row["chain"] else None,
        stage=row["stage"],
        level=row["level"],
        version=row["version"],
        holds_until=row["holds_until"],
        asked_at=row["asked_at"],
        decided_at=row["decided_at"],
    )


def _ruling(row: Mapping[str, Any]) -> Ruling:
    return Ruling(
        number=row["number"],
        person=row["person"],
        role=row["role"],
        stage=row["stage"],
        seat=row["seat"],
        decision=ApprovalState(row["decision"]),
        comment=row["comment"],
        at=row["at"],
    )


def _notification(row: Mapping[str, Any]) -> Notification:
    return Notification(
        notification_id=str(row["notification_id"]),
        approval_id=str(row["approval_id"]),
        kind=row["kind"],
        body=row["body"],
        state=NotificationState(row["state"]),
        attempts=row["attempts"],
        error=row["error"],
    )


def _stop(row: Mapping[str, Any]) -> Stop:
    return Stop(row["target"], row["reason"], row["tenant"], row["set_by"], row["set_at"])


def _dead_letter(row: Mapping[str, Any]) -> DeadLetter:
    return DeadLetter(
        letter_id=str(row["letter_id"]),
        plan_id=str(row["plan_id"]) if row["plan_id"] else None,
        step=row["step"],
        reason=row["reason"],
        detail=row["detail"],
        at=row["at"],
        attempts=row["attempts"],
        state=row["state"],
    )


def _turn(row: Mapping[str, Any]) -> Turn:
    return Turn(
        conversation_id=row["conversation_id"],
        number=row["number"],
        role=Role(row["role"]),
        content=row["content"],
        at=row["at"],
        route=Route(row["route"]) if row["route"] else None,
        goal=row["goal"],
        plan_id=row["plan_id"],
        answer=row["answer"],
    )


def _schedule_columns(schedule: Schedule) -> Mapping[str, object]:
    return {
        "schedule_id": schedule.schedule_id,
        "tenant": schedule.tenant,
        "name": schedule.name,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "request": _json(schedule.request),
        "misfire": schedule.misfire,
        "overlap": schedule.overlap,
        "paused": schedule.paused,
        "next_at": schedule.next_at,
        "last_plan_id": schedule.last_plan_id,
    }


def _schedule(row: Mapping[str, Any]) -> Schedule:
    return Schedule(
        schedule_id=str(row["schedule_id"]),
        tenant=row["tenant"],
        name=row["name"],
        cron=row["cron"],
        timezone=row["timezone"],
        request=row["request"],
        misfire=Misfire(row["misfire"]),
        overlap=Overlap(row["overlap"]),
        paused=row["paused"],
        next_at=row["next_at"],
        last_plan_id=str(row["last_plan_id"]) if row["last_plan_id"] else None,
        created_at=row["created_at"],
    )


def _firing(row: Mapping[str, Any]) -> Firing:
    return Firing(
        schedule_id=str(row["schedule_id"]),
        due_at=row["due_at"],
        fired_at=row["fired_at"],
        outcome=FiringOutcome(row["outcome"]),
        plan_id=str(row["plan_id"]) if row["plan_id"] else None,
        reason=row["reason"],
        key=row["key"],
    )
