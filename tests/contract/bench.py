"""A store under test, with a clock, workers that can be lost, and rows that can be put into any state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Protocol
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from orchestrator.domain.lifecycle import PlanMove
from orchestrator.domain.plan import (
    Agent,
    NewStep,
    Plan,
    PlanState,
    Request,
    Step,
    StepRef,
    StepState,
    request,
)
from orchestrator.inmemory import InMemoryStore
from orchestrator.ports import Completion, Store, Tx
from orchestrator.store import Alive, PgStore
from tests.clock import Clock

LEASE = timedelta(seconds=30)
HOUR = timedelta(hours=1)


def claim_one(tx: Tx, ref: StepRef, **rest: object) -> tuple[Plan, Step] | None:
    """Claim one step."""
    return tx.claim_steps([ref], lease=LEASE, **rest).get(ref)


def complete_one(tx: Tx, ref: StepRef, claim: int = 1, verdict: str = "found", **rest: object) -> bool:
    """Complete one step."""
    usual = {"follow_ups": [], "result": {}, "told": {"step": ref.number}}
    return ref in tx.complete_steps([Completion(ref, claim, verdict, **{**usual, **rest})])


class Bench(Protocol):
    """What a conformance test works on."""

    store: Store
    clock: Clock

    def place(self, ref: StepRef, **columns: object) -> None:
        """Write a step's row as it is told, past every guard."""

    def place_plan(self, plan_id: str, **columns: object) -> None:
        """Write a plan's row as it is told, past every guard."""

    def holder(self) -> int:
        """The number of a new worker that lives."""

    def lose(self, holder: int) -> None:
        """Let a worker die."""

    def close(self) -> None:
        """Put everything away."""


class InMemoryBench:
    """The twin."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._living: set[int] = set()
        self.rows = InMemoryStore(self.clock, alive=lambda holder: holder in self._living)
        self.store: Store = self.rows

    def place(self, ref: StepRef, **columns: object) -> None:
        steps = self.rows.step_rows[ref.plan_id]
        steps[ref.number] = replace(steps[ref.number], **columns)

    def place_plan(self, plan_id: str, **columns: object) -> None:
        self.rows.plan_rows[plan_id] = replace(self.rows.plan_rows[plan_id], **columns)

    def holder(self) -> int:
        holder = max(self._living, default=0) + 1
        self._living.add(holder)
        return holder

    def lose(self, holder: int) -> None:
        self._living.discard(holder)

    def close(self) -> None:
        self._living.clear()


class PostgresBench:
    """The real thing."""

    def __init__(self, dsn: str) -> None:
        self.clock = Clock()
        self.store: Store = PgStore(dsn, size=4, now=self.clock)
        self._dsn = dsn
        self._living: dict[int, Alive] = {}
        self._hand = psycopg.connect(dsn, autocommit=True)

    def place(self, ref: StepRef, **columns: object) -> None:
        self._place("step", "plan_id = %s AND number = %s", [ref.plan_id, ref.number], columns)

    def place_plan(self, plan_id: str, **columns: object) -> None:
        self._place("plan", "plan_id = %s", [plan_id], columns)

    def _place(self, table: str, where: str, key: Sequence[object], columns: dict[str, object]) -> None:
        pairs = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in columns)
        values = [Jsonb(v) if isinstance(v, (dict, list)) else v for v in columns.values()]
        statement = sql.SQL("UPDATE {} SET {} WHERE " + where).format(sql.Identifier(table), pairs)
        assert self._hand.execute(statement, [*values, *key]).rowcount == 1

    def holder(self) -> int:
        alive = Alive(self._dsn)
        self._living[alive.holder] = alive
        return alive.holder

    def lose(self, holder: int) -> None:
        # closing says goodbye and returns; ask until the server has let go of the lock
        self._living.pop(holder).close()
        gone = (
            "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = %s::bigint::oid)"
        )
        while not self._hand.execute(gone, [holder]).fetchone()[0]:
            pass

    def close(self) -> None:
        for alive in self._living.values():
            alive.close()
        self._hand.close()
        self.store.close()


def asked(**rest: object) -> Request:
    """A request that passes."""
    return request("What does a lock do? 🔒", **rest)


def new_plan(store: Store, **rest: object) -> str:
    """Write a queued plan and return its id."""
    plan_id = str(uuid4())
    with store.transaction() as tx:
        assert tx.add_plan(plan_id, asked(**rest), tx.now() + HOUR)
    return plan_id


def new_steps(store: Store, number: int = 1, *, plan_id: str | None = None, **rest: object) -> list[StepRef]:
    """Write steps that are ready, in a plan of their own unless one is named."""
    plan_id = plan_id or new_plan(store)
    with store.transaction() as tx:
        tx.lock_plan(plan_id)
        tx.move_plan(plan_id, PlanMove.START)  # only steps of a plan that has started can be claimed
        steps = [NewStep(Agent.RESEARCHER)] * number
        return [step.ref for step in tx.add_steps(plan_id, steps, **{"max_attempts": 5, **rest})]


def new_step(store: Store, **rest: object) -> StepRef:
    """Write one step that is ready."""
    (ref,) = new_steps(store, **rest)
    return ref


def look_of(state: StepState, clock: Clock, holder: int = 7) -> dict[str, object]:
    """The columns of a lawful step in a state, begun once."""
    running = state is StepState.RUNNING
    return {
        "state": state,
        "attempt": 1,
        "claim": 1,
        "holder": holder if running else None,
        "leased_until": clock() + LEASE if running else None,
        "run_after": clock() if state is StepState.RETRYING else None,
        "verdict": "found" if state is StepState.SUCCEEDED else None,
        "settled": False,
    }


def look_of_plan(state: PlanState, clock: Clock) -> dict[str, object]:
    """The columns of a lawful plan in a state."""
    living = {PlanState.QUEUED, PlanState.RUNNING, PlanState.WAITING_APPROVAL}
    return {"state": state, "finished_at": None if state in living else clock()}
