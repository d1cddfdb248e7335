"""The store's twin in memory: the same promises as Postgres, for the simulator and for tests without I/O.

One transaction at a time. What a transaction wrote is undone when its block raises. `clock` gives the time, `alive`
says which holders are; `on_commit` is called before and after each commit, so that a simulated worker can die there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from datetime import datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import Any, Final, TypeVar

from orchestrator.domain.budget import Spent
from orchestrator.domain.consensus import Ballot
from orchestrator.domain.conversation import Conversation, Exchange, Role, Turn
from orchestrator.domain.errors import ForeignTenant, InvalidRequest
from orchestrator.domain.fairness import Tenant, Waiting, share
from orchestrator.domain.lifecycle import ALIVE, PLAN_ENDS, PLAN_MOVES, STEP_MOVES, PlanMove, StepMove
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
    Step,
    StepRef,
    StepState,
)
from orchestrator.domain.schedule import Firing, FiringOutcome, Schedule
from orchestrator.domain.secret import SealedVersion, SecretState, WrappedKey
from orchestrator.domain.stop import EVERYWHERE, Stop
from orchestrator.messages import Message, Topic
from orchestrator.ports import Completion, Remembered

_K = TypeVar("_K")
_V = TypeVar("_V")


def _with(row: _V, **changes: Any) -> _V:
    """A copy of a row with some fields changed: what `dataclasses.replace` does, in a third of its time.

    The simulator copies rows more than it does anything else.
    """
    kind: object = type(row)
    names, read = _shape(kind)
    values = list(read(row))
    for name, value in changes.items():
        values[names[name]] = value
    return type(row)(*values)


@cache
def _shape(kind: Any) -> tuple[Mapping[str, int], Callable[[Any], Sequence[Any]]]:
    names = [field.name for field in fields(kind)]
    return {name: at for at, name in enumerate(names)}, attrgetter(*names)


class InMemoryStore:
    """A store in one process; not for use by several threads at once."""

    def __init__(
        self,
        clock: Callable[[], datetime],
        *,
        alive: Callable[[int], bool] = lambda _: True,
        on_commit: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.clock = clock
        self.alive = alive
        self.on_commit = on_commit
        self.plan_rows: dict[str, Plan] = {}
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.step_rows: dict[str, dict[int, Step]] = {}
        self.event_rows: dict[str, list[Event]] = {}
        self.audit_rows: dict[str, list[AuditRecord]] = {}
        self.fact_rows: dict[str, list[Fact]] = {}
        self.evidence_rows: dict[tuple[str, str], Evidence] = {}
        self.report_rows: dict[str, Mapping[str, Json]] = {}
        self.ballot_rows: dict[tuple[str, int], Ballot] = {}
        self.call_rows: dict[tuple[str, int, str, int], Call] = {}
        self.approval_rows: dict[str, Approval] = {}
        self.ruling_rows: dict[str, tuple[Ruling, ...]] = {}
        self.notification_rows: dict[str, Notification] = {}
        self.notification_due: dict[str, datetime] = {}
        self.letter_rows: dict[str, DeadLetter] = {}
        self.outbox: list[Message] = []
        self.tenant_rows: dict[str, tuple[Tenant, float]] = {}
        self.stop_rows: dict[tuple[str, str], Stop] = {}
        self.schedule_rows: dict[str, Schedule] = {}
        self.firing_rows: dict[tuple[str, datetime], Firing] = {}
        self.conversation_rows: dict[str, Conversation] = {}
        self.turn_rows: dict[tuple[str, int], tuple[Turn, str | None, str]] = {}
        self.secret_rows: dict[tuple[str, str], int] = {}
        self.secret_version_rows: dict[tuple[str, str, int], SealedVersion] = {}
        self.data_key_rows: dict[str, WrappedKey] = {}

    @contextmanager
    def transaction(self) -> Iterator[InMemoryTx]:
        tx = InMemoryTx(self)
        try:
            yield tx
            self.on_commit("before")
        except BaseException:
            tx.undo()
            raise
        self.on_commit("after")

    def at_once(self) -> AbstractContextManager[InMemoryTx]:
        return self.transaction()

    def of(self, tenant: str) -> _OfTenant:
        if not tenant or "\x00" in tenant:
            raise InvalidRequest(f"A tenant needs a name that can be stored, not {tenant!r}.")
        return _OfTenant(self, tenant)


class _OfTenant:
    """A store in which only one tenant's rows are: each transaction works on those, and puts them back at its end."""

    def __init__(self, store: InMemoryStore, tenant: str) -> None:
        self._all = store
        self._tenant = tenant

    def of(self, tenant: str) -> _OfTenant:
        if tenant != self._tenant:
            raise ForeignTenant(f"A store of tenant {self._tenant!r} cannot become one of {tenant!r}.")
        return self

    def at_once(self) -> AbstractContextManager[InMemoryTx]:
        return self.transaction()

    @contextmanager
    def transaction(self) -> Iterator[InMemoryTx]:
        own = InMemoryStore(self._all.clock, alive=self._all.alive)
        rows = self._rows(own)
        for mine, every in zip(rows, self._rows(self._all), strict=True):
            mine |= {key: row for key, row in every.items() if self._is_own(own, key, row)}
        before = [set(mine) for mine in rows]
        with self._all.transaction() as whole:
            part = InMemoryTx(own)
            whole.answer_for(part)
            yield part
            self._check(own, rows)
            for mine, every, known in zip(rows, self._rows(self._all), before, strict=True):
                whole.take_over(every, mine, known)
            whole.send(own.outbox)

    @staticmethod
    def _rows(store: InMemoryStore) -> Sequence[dict[Any, Any]]:
        """Every table but the outbox; plans and schedules first, by which others are known."""
        return (
            store.plan_rows,
            store.schedule_rows,
            store.keys,
            store.step_rows,
            store.event_rows,
            store.audit_rows,
            store.fact_rows,
            store.evidence_rows,
            store.report_rows,
            store.ballot_rows,
            store.call_rows,
            store.approval_rows,
            store.notification_rows,
            store.notification_due,
            store.letter_rows,
            store.tenant_rows,
            store.stop_rows,
            store.firing_rows,
            store.conversation_rows,
            store.turn_rows,
        )

    def _is_own(self, own: InMemoryStore, key: Any, row: Any) -> bool:
        match row:
            case Plan() | Schedule():
                return row.tenant == self._tenant
            case Conversation():
                about = row.last_plan_id
                return row.tenant == self._tenant and (about is None or about in own.plan_rows)
            case (Turn() as turn, _, _):
                about = turn.plan_id
                return turn.conversation_id in own.conversation_rows and (
                    about is None or about in own.plan_rows
                )
            case Tenant(), _:
                return bool(key == self._tenant)
            case Approval() | Ballot() | Call() | DeadLetter():
                return row.plan_id in own.plan_rows
            case Notification():
                return row.approval_id in own.approval_rows
            case datetime():  # when one is due
                return key in own.notification_rows
            case Firing():
                return row.schedule_id in own.schedule_rows
        if isinstance(key, tuple):  # a key of a request, or evidence
            return bool(key[0] == self._tenant)
        return key in own.plan_rows

    def _check(self, own: InMemoryStore, rows: Sequence[dict[Any, Any]]) -> None:
        foreign = next(
            (key for mine in rows for key, row in mine.items() if not self._is_own(own, key, row)), None
        )
        if foreign is not None or any(message.ref.plan_id not in own.plan_rows for message in own.outbox):
            raise ForeignTenant(
                f"This is not for tenant {self._tenant!r} to see or to change, and nothing was written."
            )


_LEXEME: Final = re.compile(r"[^\W_]+")


class InMemoryTx:
    """One transaction in memory."""

    def __init__(self, store: InMemoryStore) -> None:
        self._store = store
        self._undo: list[Callable[[], object]] = []
        self._at = store.clock()

    # the pen, and its eraser

    def undo(self) -> None:
        """Take back everything that was written."""
        for erase in reversed(self._undo):
            erase()

    def answer_for(self, part: InMemoryTx) -> None:
        """Take back, with what is written here, what another transaction writes."""
        self._undo.append(part.undo)

    def take_over(self, rows: dict[_K, _V], part: dict[_K, _V], known: Collection[_K]) -> None:
        """Write what became of a part of the rows: of those that were known, some may be gone."""
        for key in known:
            if key not in part:
                self._remove(rows, key)
        for key, row in part.items():
            self._put(rows, key, row)

    def _put(self, rows: dict[_K, _V], key: _K, value: _V) -> None:
        if key in rows:
            old = rows[key]
            self._undo.append(lambda: rows.__setitem__(key, old))
        else:
            self._undo.append(lambda: rows.pop(key))
        rows[key] = value

    def _append(self, rows: list[_V], value: _V) -> None:
        rows.append(value)
        self._undo.append(rows.pop)

    def _remove(self, rows: dict[_K, _V], key: _K) -> None:
        old = rows.pop(key)
        self._undo.append(lambda: rows.__setitem__(key, old))

    def _change(self, plan_id: str, **changes: Any) -> None:
        self._put(self._store.plan_rows, plan_id, _with(self._store.plan_rows[plan_id], **changes))

    def _change_step(self, step: Step, **changes: Any) -> Step:
        changed = _with(step, **changes)
        self._put(self._store.step_rows[step.plan_id], step.number, changed)
        return changed

    def now(self) -> datetime:
        return self._at

    # plans

    def add_plan(self, plan_id: str, asked: Request, deadline: datetime) -> bool:
        if asked.key is not None:
            if (asked.tenant, asked.key) in self._store.keys:
                return False
            self._put(self._store.keys, (asked.tenant, asked.key), (plan_id, asked.fingerprint()))
        plan = Plan(
            plan_id=plan_id,
            tenant=asked.tenant,
            goal=asked.goal,
            depth=asked.depth,
            state=PlanState.QUEUED,
            requester=asked.requester,
            budget=asked.budget,
            spent=Spent(),
            created_at=self._at,
            deadline=deadline,
            sources=asked.sources,
            metadata=asked.metadata,
            priority=asked.priority,
        )
        self._put(self._store.plan_rows, plan_id, plan)
        self._put(self._store.step_rows, plan_id, {})
        self._put(self._store.event_rows, plan_id, [])
        self._put(self._store.audit_rows, plan_id, [])
        self._put(self._store.fact_rows, plan_id, [])
        return True

    def plan_of_key(self, tenant: str, key: str) -> tuple[str, str] | None:
        return self._store.keys.get((tenant, key))

    def lock_plan(self, plan_id: str) -> Plan | None:
        return self._store.plan_rows.get(plan_id)

    def lock_plans(self, plan_ids: Sequence[str], *, wait: bool = True) -> Sequence[Plan]:  # noqa: ARG002 - alone
        return [self._store.plan_rows[i] for i in sorted(set(plan_ids)) if i in self._store.plan_rows]

    def lock_step(self, ref: StepRef) -> tuple[Plan, Step] | None:
        plan, step = self._store.plan_rows.get(ref.plan_id), self.step(ref)
        return None if plan is None or step is None else (plan, step)

    def plan(self, plan_id: str) -> Plan | None:
        return self._store.plan_rows.get(plan_id)

    def plans(
        self,
        *,
        tenant: str | None = None,
        state: str | None = None,
        behind: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> Sequence[Plan]:
        found = [
            p
            for p in self._store.plan_rows.values()
            if (tenant is None or p.tenant == tenant) and (state is None or p.state == state)
        ]
        found.sort(key=lambda p: p.plan_id)
        found.sort(key=lambda p: p.created_at, reverse=True)
        if behind is not None:
            at, plan_id = behind
            found = [p for p in found if p.created_at < at or (p.created_at == at and p.plan_id > plan_id)]
        return found[:limit]

    def move_plan(
        self, plan_id: str, move: PlanMove, *, reason: str | None = None, partial: bool | None = None
    ) -> bool:
        before, after = PLAN_MOVES[move]
        plan = self._store.plan_rows.get(plan_id)
        if plan is None or plan.state not in before:
            return False
        self._change(
            plan_id,
            state=after,
            reason=reason,
            partial=plan.partial or bool(partial),
            finished_at=self._at if after in PLAN_ENDS else None,
        )
        return True

    def mark_partial(self, plan_id: str) -> None:
        self._change(plan_id, partial=True)

    def spend(self, plan_id: str, delta: Spent) -> None:
        self._change(plan_id, spent=self._store.plan_rows[plan_id].spent.plus(delta))

    # steps

    def add_steps(self, plan_id: str, steps: Sequence[NewStep], *, max_attempts: int) -> Sequence[Step]:
        plan = self._store.plan_rows[plan_id]
        made = [
            Step(
                plan_id,
                plan.step_count + i,
                s.agent,
                StepState.READY,
                s.round,
                s.brief,
                max_attempts=max_attempts,
                offered_at=self._at,
            )
            for i, s in enumerate(steps, start=1)
        ]
        for step in made:
            self._put(self._store.step_rows[plan_id], step.number, step)
        self._change(
            plan_id, step_count=plan.step_count + len(made), spent=plan.spent.plus(Spent(steps=len(made)))
        )
        return made

    def step(self, ref: StepRef) -> Step | None:
        return self._store.step_rows.get(ref.plan_id, {}).get(ref.number)

    def steps(self, plan_id: str) -> Sequence[Step]:
        return [step for _, step in sorted(self._store.step_rows.get(plan_id, {}).items())]

    def claim_steps(
        self, refs: Sequence[StepRef], *, holder: int, lease: timedelta, first: bool = False
    ) -> Mapping[StepRef, tuple[Plan, Step]]:
        taken = ((ref, self._claim(ref, holder, lease, first=first)) for ref in refs)
        return {ref: found for ref, found in taken if found is not None}

    def _claim(self, ref: StepRef, holder: int, lease: timedelta, *, first: bool) -> tuple[Plan, Step] | None:
        plan, step = self.plan(ref.plan_id), self.step(ref)
        if plan is None or plan.state not in ALIVE:
            return None
        if step is None or step.state is not StepState.READY or step.attempt >= step.max_attempts:
            return None
        limited = plan.tenant in self._store.tenant_rows and (
            self._store.tenant_rows[plan.tenant][0].max_running is not None
        )
        if first and (step.claim or limited):
            return None
        if step.run_after is not None and step.run_after > self._at:
            return None
        if step.agent.looks and plan.overdue(self._at):
            return None
        claimed = self._change_step(
            step,
            state=StepState.RUNNING,
            attempt=step.attempt + 1,
            claim=step.claim + 1,
            holder=holder,
            leased_until=self._at + lease,
            run_after=None,
        )
        if self.move_plan(ref.plan_id, PlanMove.START):
            self.add_event(ref.plan_id, "plan.started", {})
        return self._store.plan_rows[ref.plan_id], claimed

    def complete_steps(self, completions: Sequence[Completion]) -> Collection[StepRef]:
        return {c.ref for c in completions if self._complete(c)}

    def _complete(self, c: Completion) -> bool:
        if not self.move_step(
            c.ref, StepMove.COMPLETE, claim=c.claim, verdict=c.verdict, follow_ups=c.follow_ups
        ):
            return False
        if c.result:
            self._change_step(self._store.step_rows[c.ref.plan_id][c.ref.number], result=c.result)
        self.add_event(c.ref.plan_id, "step.succeeded", c.told)
        self.send([Message(Topic.COMPLETIONS, c.ref)])
        return True

    def renew(self, ref: StepRef, *, claim: int, lease: timedelta) -> bool:
        step = self.step(ref)
        if step is None or step.state is not StepState.RUNNING or step.claim != claim:
            return False
        self._change_step(step, leased_until=self._at + lease)
        return True

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
        step = self.step(ref)
        if step is None or step.state not in before or (claim is not None and step.claim != claim):
            return False
        offered = after in {StepState.READY, StepState.SUCCEEDED, StepState.SKIPPED}
        self._change_step(
            step,
            state=after,
            holder=None,
            leased_until=None,
            attempt=0 if reset_attempts else step.attempt - 1 if return_attempt else step.attempt,
            run_after=None if delay is None else self._at + delay,
            offered_at=self._at if offered else step.offered_at,
            verdict=step.verdict if verdict is None else verdict,
            follow_ups=step.follow_ups if follow_ups is None else tuple(follow_ups),
            reason=reason,
        )
        return True

    def mark_settled(self, refs: Sequence[StepRef]) -> Sequence[Step]:
        found = [step for ref in refs if (step := self.step(ref)) is not None]
        ended = {StepState.SUCCEEDED, StepState.SKIPPED}
        settled = [
            self._change_step(step, settled=True)
            for step in found
            if step.state in ended and not step.settled
        ]
        deciding = {Agent.JUDGE, Agent.SYNTHESISER}
        return [s if s.agent in deciding or not s.result else _with(s, result={}) for s in settled]

    def copy_steps(self, plan_id: str, steps: Sequence[Step]) -> None:
        for step in steps:
            copy = _with(step, plan_id=plan_id, offered_at=self._at)
            self._put(self._store.step_rows[plan_id], step.number, copy)
        plan = self._store.plan_rows[plan_id]
        self._change(
            plan_id, step_count=plan.step_count + len(steps), spent=plan.spent.plus(Spent(steps=len(steps)))
        )

    # what a step leaves behind

    def add_event(self, plan_id: str, kind: str, body: Mapping[str, Json]) -> None:
        number = self._store.plan_rows[plan_id].event_count + 1
        self._append(self._store.event_rows[plan_id], Event(plan_id, number, self._at, kind, body))
        self._change(plan_id, event_count=number)

    def events(self, plan_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[Event]:
        return [e for e in self._store.event_rows.get(plan_id, []) if e.number > after][:limit]

    def add_audit(self, record: AuditRecord) -> None:
        self._append(self._store.audit_rows[record.chain], record)
        self._change(record.chain, audit_count=record.number, audit_head=record.mac)

    def audit(self, chain: str) -> Sequence[AuditRecord]:
        return list(self._store.audit_rows.get(chain, []))

    def send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._append(self._store.outbox, message)

    def add_facts(self, plan_id: str, facts: Sequence[Fact]) -> None:
        for fact in facts:
            self._append(self._store.fact_rows[plan_id], fact)

    def facts(self, plan_id: str) -> Sequence[Fact]:
        return sorted(self._store.fact_rows.get(plan_id, []), key=lambda f: (f.step, f.number))

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
        ended = [p for p in self._store.plan_rows.values() if self._remembered(p, tenant, without)]
        ended.sort(key=lambda p: p.plan_id)
        ended.sort(key=lambda p: p.created_at, reverse=True)
        found: list[tuple[int, Remembered]] = []
        for plan in ended[:plans]:
            for fact in self.facts(plan.plan_id):
                there = set(_LEXEME.findall(f"{fact.quote} {fact.question}".lower()))
                count = sum(word in there for word in words)
                if count >= least and plan.finished_at is not None:
                    found.append((count, Remembered(plan.plan_id, plan.finished_at, fact)))
        found.sort(key=lambda each: (each[1].plan_id, each[1].fact.step, each[1].fact.number))
        found.sort(key=lambda each: each[1].ended_at, reverse=True)
        found.sort(key=lambda each: -each[0])
        placed: dict[tuple[str, int, int], Remembered] = {}
        for _, each in found:
            placed.setdefault((each.fact.evidence, each.fact.start, each.fact.end), each)
        return list(placed.values())[:limit]

    def _remembered(self, plan: Plan, tenant: str, without: Sequence[str]) -> bool:
        report = self._store.report_rows.get(plan.plan_id) or {}
        first = next(iter(self._store.event_rows.get(plan.plan_id, [])), None)
        return (
            plan.tenant == tenant
            and plan.state is PlanState.SUCCEEDED
            and report.get("verdict") == "answered"
            and (first is None or first.kind != "plan.forked")
            and not any(call.tool in without for call in self.calls(plan.plan_id))
        )

    def put_evidence(self, tenant: str, evidence: Evidence) -> None:
        if (tenant, evidence.sha256) not in self._store.evidence_rows:
            self._put(self._store.evidence_rows, (tenant, evidence.sha256), evidence)

    def evidence(self, tenant: str, sha256: str) -> Evidence | None:
        return self._store.evidence_rows.get((tenant, sha256))

    def put_report(self, plan_id: str, report: Mapping[str, Json]) -> None:
        self._put(self._store.report_rows, plan_id, report)

    def report(self, plan_id: str) -> Mapping[str, Json] | None:
        return self._store.report_rows.get(plan_id)

    def add_ballot(self, ballot: Ballot) -> None:
        self._put(self._store.ballot_rows, (ballot.plan_id, ballot.round), _with(ballot, at=self._at))

    def ballots(self, plan_id: str) -> Sequence[Ballot]:
        found = [b for b in self._store.ballot_rows.values() if b.plan_id == plan_id]
        return sorted(found, key=lambda b: b.round)

    # the journal

    def call(self, ref: StepRef, key: str, occurrence: int) -> Call | None:
        return self._store.call_rows.get((ref.plan_id, ref.number, key, occurrence))

    def calls(self, plan_id: str) -> Sequence[Call]:
        return [c for c in self._store.call_rows.values() if c.plan_id == plan_id]

    def put_call(self, call: Call) -> None:
        key = (call.plan_id, call.step, call.key, call.occurrence)
        before = self._store.call_rows.get(key)
        if before is None or before.state is not CallState.DONE:
            self._put(self._store.call_rows, key, call)

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
        call = self.call(ref, key, occurrence)
        if call is None or call.state is not CallState.INTENDED or call.claim != claim:
            return False
        reserved = call.reserved if spent is None else spent
        done = _with(call, state=state, result=result, evidence=evidence, error=error, reserved=reserved)
        self._put(self._store.call_rows, (ref.plan_id, ref.number, key, occurrence), done)
        return True

    def orphan_calls(self, ref: StepRef) -> Sequence[Call]:
        orphans = [
            _with(c, state=CallState.UNKNOWN)
            for c in self._store.call_rows.values()
            if c.plan_id == ref.plan_id and c.step == ref.number and c.state is CallState.INTENDED
        ]
        for call in orphans:
            self._put(self._store.call_rows, (call.plan_id, call.step, call.key, call.occurrence), call)
        return orphans

    def allow_repeat(self, ref: StepRef, key: str) -> None:
        for at, call in list(self._store.call_rows.items()):
            same = (call.plan_id, call.step, call.key) == (ref.plan_id, ref.number, key)
            if same and call.state is CallState.UNKNOWN:
                self._put(self._store.call_rows, at, _with(call, repeat_allowed=True))

    # people

    def add_approval(self, approval: Approval) -> None:
        self._put(self._store.approval_rows, approval.approval_id, _with(approval, asked_at=self._at))

    def approval(self, approval_id: str) -> Approval | None:
        return self._store.approval_rows.get(approval_id)

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
        found = [
            a
            for a in self._store.approval_rows.values()
            if (state is None or a.state is state)
            and (plan_id is None or a.plan_id == plan_id)
            and (step is None or a.step == step)
            and (category is None or a.category == category)
            and (role is None or (a.state is ApprovalState.PENDING and role in a.roles))
            and (tenant is None or self._store.plan_rows[a.plan_id].tenant == tenant)
        ]
        return found[:limit]

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
        approval = self._store.approval_rows.get(approval_id)
        if approval is None or approval.state is not ApprovalState.PENDING:
            return False
        if version is not None and approval.version != version:
            return False
        late = approval.expires_at is not None and approval.expires_at <= self._at
        if late and state not in {ApprovalState.EXPIRED, ApprovalState.CANCELLED}:
            return False
        self._put(
            self._store.approval_rows,
            approval_id,
            _with(
                approval,
                state=state,
                decided_by=by,
                comment=comment,
                holds_until=None if holds is None else self._at + holds,
                decided_at=self._at,
            ),
        )
        return True

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
        approval = self._store.approval_rows.get(approval_id)
        if approval is None or approval.state is not ApprovalState.PENDING or approval.version != version:
            return False
        if (approval.expires_at is None or approval.expires_at > self._at) is not in_time:
            return False
        changed = _with(
            approval, stage=stage, level=level, roles=roles, expires_at=expires_at, version=version + 1
        )
        self._put(self._store.approval_rows, approval_id, changed)
        return True

    def add_ruling(self, approval_id: str, ruling: Ruling) -> None:
        rows = self._store.ruling_rows.get(approval_id, ())
        seat = (ruling.stage, ruling.seat)
        taken = any(ruling.person == row.person or seat == (row.stage, row.seat) for row in rows)
        if taken or ruling.number != len(rows) + 1:
            raise AssertionError("a person decides once, and a seat is filled once")
        self._put(self._store.ruling_rows, approval_id, (*rows, _with(ruling, at=self._at)))

    def rulings(self, approval_id: str) -> Sequence[Ruling]:
        return self._store.ruling_rows.get(approval_id, ())

    def extend(self, plan_id: str, more: timedelta) -> None:
        plan = self._store.plan_rows[plan_id]
        if plan.finished_at is None and plan.deadline is not None:
            self._put(self._store.plan_rows, plan_id, _with(plan, deadline=plan.deadline + more))

    # what is told outside

    def add_notification(self, notification: Notification) -> None:
        self._put(self._store.notification_rows, notification.notification_id, notification)
        self._put(self._store.notification_due, notification.notification_id, self._at)

    def take_notification(self, within: timedelta) -> Notification | None:
        due = self._store.notification_due
        found = [
            n
            for n in self._store.notification_rows.values()
            if n.state is NotificationState.WAITING and due[n.notification_id] <= self._at
        ]
        if not found:
            return None
        oldest = min(found, key=lambda n: due[n.notification_id])
        taken = _with(oldest, attempts=oldest.attempts + 1)
        self._put(self._store.notification_rows, taken.notification_id, taken)
        self._put(due, taken.notification_id, self._at + within)
        return taken

    def end_notification(
        self, taken: Notification, state: NotificationState, *, error: str | None = None
    ) -> bool:
        row = self._store.notification_rows[taken.notification_id]
        if row.state is not NotificationState.WAITING or (
            row.attempts != taken.attempts and state is not NotificationState.DELIVERED
        ):
            return False
        ended = _with(row, state=state, error=error)
        self._put(self._store.notification_rows, row.notification_id, ended)
        return True

    def postpone_notification(self, taken: Notification, delay: timedelta, *, error: str) -> bool:
        row = self._store.notification_rows[taken.notification_id]
        if row.state is not NotificationState.WAITING or row.attempts != taken.attempts:
            return False
        self._put(self._store.notification_rows, row.notification_id, _with(row, error=error))
        self._put(self._store.notification_due, row.notification_id, self._at + delay)
        return True

    def revive_notification(self, notification_id: str) -> bool:
        row = self._store.notification_rows.get(notification_id)
        if row is None or row.state is not NotificationState.GIVEN_UP:
            return False
        again = _with(row, state=NotificationState.WAITING, attempts=0)
        self._put(self._store.notification_rows, notification_id, again)
        self._put(self._store.notification_due, notification_id, self._at)
        return True

    def notification(self, notification_id: str) -> Notification | None:
        return self._store.notification_rows.get(notification_id)

    def notifications(
        self,
        *,
        approval_id: str | None = None,
        state: NotificationState | None = None,
        tenant: str | None = None,
        limit: int | None = None,
    ) -> Sequence[Notification]:
        found = [
            n
            for n in self._store.notification_rows.values()
            if (approval_id is None or n.approval_id == approval_id)
            and (state is None or n.state is state)
            and (tenant is None or self._tenant_of(n) == tenant)
        ]
        return found[:limit]

    def _tenant_of(self, told: Notification) -> str:
        return self._store.plan_rows[self._store.approval_rows[told.approval_id].plan_id].tenant

    def add_dead_letter(self, letter: DeadLetter) -> None:
        self._put(self._store.letter_rows, letter.letter_id, letter)

    def dead_letter(self, letter_id: str) -> DeadLetter | None:
        return self._store.letter_rows.get(letter_id)

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
        found = [
            d
            for d in self._store.letter_rows.values()
            if (state is None or d.state == state)
            and (plan_id is None or d.plan_id == plan_id)
            and (reason is None or d.reason == reason)
            and (tenant is None or (d.plan_id and self._store.plan_rows[d.plan_id].tenant == tenant))
            and (older_than is None or d.at <= self._at - older_than)
            and (newer_than is None or d.at > self._at - newer_than)
        ]
        found.sort(key=lambda d: d.letter_id)
        found.sort(key=lambda d: d.at, reverse=True)
        if behind is not None:
            at, letter_id = behind
            found = [d for d in found if d.at < at or (d.at == at and d.letter_id > letter_id)]
        return found[:limit]

    def close_dead_letter(self, letter_id: str, state: str) -> bool:
        letter = self._store.letter_rows.get(letter_id)
        if letter is None or letter.state != "open":
            return False
        self._put(self._store.letter_rows, letter_id, _with(letter, state=state))
        return True

    # what the sweeper looks for

    def _of_living_plans(self) -> Iterator[tuple[Plan, Step]]:
        for plan in self._store.plan_rows.values():
            if plan.state in ALIVE:
                for step in self._store.step_rows[plan.plan_id].values():
                    yield plan, step

    def due(self, limit: int) -> Sequence[StepRef]:
        found = [
            step.ref
            for plan, step in self._of_living_plans()
            if step.state is StepState.RETRYING
            and (plan.overdue(self._at) or step.run_after is None or step.run_after <= self._at)
        ]
        return found[:limit]

    def lapsed(self, limit: int, *, of: StepRef | None = None) -> Sequence[StepRef]:
        found = [
            step.ref
            for steps in self._store.step_rows.values()
            for step in steps.values()
            if step.state is StepState.RUNNING
            and (of is None or step.ref == of)
            and (
                step.leased_until is None
                or step.leased_until <= self._at
                or (step.holder is not None and not self._store.alive(step.holder))
            )
        ]
        return found[:limit]

    def unheard(self, older_than: timedelta, limit: int) -> Sequence[Message]:
        found: list[Message] = []
        for _, step in list(self._of_living_plans()):
            unsettled = step.state in {StepState.SUCCEEDED, StepState.SKIPPED} and not step.settled
            if step.state is not StepState.READY and not unsettled:
                continue
            if step.run_after is not None and step.run_after > self._at:
                continue
            offered = step.offered_at or self._at
            if offered <= self._at - older_than or (step.run_after is not None and offered < step.run_after):
                topic = Topic.COMPLETIONS if unsettled else Topic.STEPS
                found.append(Message(topic, step.ref))
                self._change_step(step, offered_at=self._at)
                if len(found) == limit:
                    break
        return found

    def expired_approvals(self, limit: int) -> Sequence[Approval]:
        found = [
            a
            for a in self._store.approval_rows.values()
            if a.state is ApprovalState.PENDING and a.expires_at is not None and a.expires_at <= self._at
        ]
        return found[:limit]

    # the relay

    def take_outbox(self, limit: int, *, room: int | None = None) -> Sequence[Message]:
        outbox = self._store.outbox
        room = len(outbox) if room is None else max(0, room)
        steps = [m for m in outbox if m.topic is Topic.STEPS]
        crowded = len(steps) > room or any(t.max_running is not None for t in self.tenants())
        chosen = [m for m in outbox if not crowded or m.topic is not Topic.STEPS][:limit]
        if crowded and room and not any(m.topic is Topic.STEPS for m in chosen):
            chosen += self._shares(steps, min(room, limit))
        left = list(outbox)
        for message in chosen:
            left.remove(message)
        self._undo.append(lambda: outbox.__setitem__(slice(None), [*chosen, *left]))
        outbox[:] = left
        plans = self._store.plan_rows
        return [
            Message(m.topic, m.ref, plans[m.ref.plan_id].priority) if m.ref.plan_id in plans else m
            for m in chosen
        ]

    def _shares(self, steps: Sequence[Message], room: int) -> Sequence[Message]:
        by_tenant: dict[str, list[Message]] = {}
        plans = self._store.plan_rows
        whose = {m: plans[m.ref.plan_id] for m in steps if m.ref.plan_id in plans}
        for message in sorted(steps, key=lambda m: -whose[m].priority if m in whose else 0):
            by_tenant.setdefault(whose[message].tenant if message in whose else "", []).append(message)
        waiting = []
        for name, messages in by_tenant.items():
            known, served = self._store.tenant_rows.get(name, (Tenant(name), 0.0))
            free = None if known.max_running is None else known.max_running - self._running(name)
            waiting.append(Waiting(name, min(room, len(messages)), known.weight, served, free))
        shares = share(waiting, room)
        for name, part in shares.items():
            known, _ = self._store.tenant_rows.get(name, (Tenant(name), 0.0))
            self._put(self._store.tenant_rows, name, (known, part.served))
        return [m for name, part in shares.items() for m in by_tenant[name][: part.messages]]

    # tenants

    def _running(self, tenant: str) -> int:
        plans = [p for p in self._store.plan_rows.values() if p.tenant == tenant and p.state in ALIVE]
        return sum(s.state is StepState.RUNNING for p in plans for s in self.steps(p.plan_id))

    def may_run(self, tenant: str) -> bool:
        known, _ = self._store.tenant_rows.get(tenant, (Tenant(tenant), 0.0))
        return known.max_running is None or self._running(tenant) < known.max_running

    def tenants(self) -> Sequence[Tenant]:
        known = [tenant for _, (tenant, _) in sorted(self._store.tenant_rows.items())]
        return [tenant for tenant in known if tenant != Tenant(tenant.tenant)]

    def put_tenant(self, tenant: Tenant) -> None:
        _, served = self._store.tenant_rows.get(tenant.tenant, (tenant, 0.0))
        self._put(self._store.tenant_rows, tenant.tenant, (tenant, served))

    # the kill switch

    def stops(self, tenant: str | None = None) -> Sequence[Stop]:
        found = [
            stop
            for stop in self._store.stop_rows.values()
            if tenant is None or stop.tenant in {EVERYWHERE, tenant}
        ]
        return sorted(found, key=lambda stop: (stop.at or self._at, stop.tenant, stop.target))

    def put_stop(self, stop: Stop) -> None:
        self._put(self._store.stop_rows, (stop.tenant, stop.target), _with(stop, at=self._at))

    def remove_stop(self, tenant: str, target: str) -> Stop | None:
        found = self._store.stop_rows.get((tenant, target))
        if found is not None:
            self._remove(self._store.stop_rows, (tenant, target))
        return found

    # conversations

    def add_conversation(self, conversation_id: str, tenant: str, owner: str) -> None:
        made = Conversation(conversation_id, tenant, owner, self._at)
        self._put(self._store.conversation_rows, conversation_id, made)

    def conversation(
        self,
        tenant: str,
        owner: str,
        conversation_id: str,
        *,
        lock: bool = False,  # noqa: ARG002
    ) -> Conversation | None:
        found = self._store.conversation_rows.get(conversation_id)
        return found if found is not None and (found.tenant, found.owner) == (tenant, owner) else None

    def conversations(
        self, tenant: str, owner: str, *, behind: tuple[datetime, str] | None = None, limit: int = 50
    ) -> Sequence[Conversation]:
        rows = self._store.conversation_rows.values()
        found = [c for c in rows if (c.tenant, c.owner) == (tenant, owner)]
        found.sort(key=lambda c: c.conversation_id)
        found.sort(key=lambda c: c.created_at, reverse=True)
        if behind is not None:
            at, last = behind
            found = [
                c for c in found if c.created_at < at or (c.created_at == at and c.conversation_id > last)
            ]
        return found[:limit]

    def remove_conversation(self, tenant: str, owner: str, conversation_id: str) -> bool:
        if self.conversation(tenant, owner, conversation_id) is None:
            return False
        for key in [key for key in self._store.turn_rows if key[0] == conversation_id]:
            self._remove(self._store.turn_rows, key)
        self._remove(self._store.conversation_rows, conversation_id)
        return True

    def forget_conversations(self, kept: timedelta, limit: int) -> Sequence[Conversation]:
        since = self._at - kept
        spoken = {
            turn.conversation_id
            for turn, _, _ in self._store.turn_rows.values()
            if turn.at > since
            or (turn.plan_id is not None and self._store.plan_rows[turn.plan_id].finished_at is None)
        }
        rows = self._store.conversation_rows.values()
        found = [c for c in rows if c.created_at <= since and c.conversation_id not in spoken]
        found.sort(key=lambda c: (c.created_at, c.conversation_id))
        for each in found[:limit]:
            self.remove_conversation(each.tenant, each.owner, each.conversation_id)
        return found[:limit]

    def add_exchange(self, exchange: Exchange) -> bool:
        said, of = exchange, exchange.conversation
        if said.key is not None and self.turn_of_key(of.tenant, of.owner, said.key) is not None:
            return False
        grown = self._store.conversation_rows[of.conversation_id]
        if grown.turns != said.number - 1:
            raise AssertionError("a turn is written behind the last one")
        message = Turn(of.conversation_id, said.number, Role.USER, said.message, self._at)
        reply = Turn(
            conversation_id=of.conversation_id,
            number=said.number + 1,
            role=Role.ASSISTANT,
            content=said.reply,
            at=self._at,
            route=said.route,
            goal=said.goal,
            plan_id=said.plan_id,
            answer=said.answer,
        )
        rows = self._store.turn_rows
        self._put(rows, (of.conversation_id, said.number), (message, said.key, said.fingerprint))
        self._put(rows, (of.conversation_id, said.number + 1), (reply, None, ""))
        changed = _with(grown, turns=said.number + 1, last_plan_id=said.plan_id or grown.last_plan_id)
        self._put(self._store.conversation_rows, of.conversation_id, changed)
        return True

    def turn_of_key(self, tenant: str, owner: str, key: str) -> tuple[str, int, str] | None:
        for (conversation_id, number), (_, kept, fingerprint) in self._store.turn_rows.items():
            if kept == key and self.conversation(tenant, owner, conversation_id) is not None:
                return conversation_id, number, fingerprint
        return None

    def turns(self, conversation_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[Turn]:
        rows = sorted(self._store.turn_rows.items())
        return [turn for (of, n), (turn, _, _) in rows if of == conversation_id and n > after][:limit]

    def answer_turn(
        self, conversation_id: str, number: int, content: str, answer: Mapping[str, Json]
    ) -> bool:
        found = self._store.turn_rows.get((conversation_id, number))
        if found is None or not found[0].waits:
            return False
        turn, key, fingerprint = found
        answered = _with(turn, content=content, answer=answer, at=self._at)
        self._put(self._store.turn_rows, (conversation_id, number), (answered, key, fingerprint))
        return True

    # secrets

    def lock_secret(self, tenant: str, name: str) -> int:
        key = (tenant, name)
        self._put(self._store.secret_rows, key, self._store.secret_rows.get(key, 0))
        return self._store.secret_rows[key]

    def secret_versions(self, tenant: str, name: str | None = None) -> Sequence[SealedVersion]:
        rows = sorted(self._store.secret_version_rows.items())
        return [row for (of, named, _), row in rows if of == tenant and name in {None, named}]

    def add_secret_version(self, version: SealedVersion) -> bool:
        told = version.told
        if self._store.secret_rows.get((told.tenant, told.name)) != told.version - 1:
            return False
        self._put(self._store.secret_rows, (told.tenant, told.name), told.version)
        self._put(self._store.secret_version_rows, (told.tenant, told.name, told.version), version)
        return True

    def move_secret(self, tenant: str, name: str, version: int, was: SecretState, to: SecretState) -> bool:
        row = self._store.secret_version_rows.get((tenant, name, version))
        if row is None or row.told.state is not was:
            return False
        moved = _with(row, told=_with(row.told, state=to))
        self._put(self._store.secret_version_rows, (tenant, name, version), moved)
        return True

    def remove_secret_version(self, tenant: str, name: str, version: int) -> bool:
        if (tenant, name, version) not in self._store.secret_version_rows:
            return False
        self._remove(self._store.secret_version_rows, (tenant, name, version))
        return True

    def data_key(self, tenant: str) -> WrappedKey | None:
        return self._store.data_key_rows.get(tenant)

    def data_keys(self) -> Sequence[WrappedKey]:
        return [key for _, key in sorted(self._store.data_key_rows.items())]

    def add_data_key(self, key: WrappedKey) -> None:
        if key.tenant not in self._store.data_key_rows:
            self._put(self._store.data_key_rows, key.tenant, key)

    def rewrap_data_key(self, key: WrappedKey, *, was: str) -> bool:
        kept = self._store.data_key_rows.get(key.tenant)
        if kept is None or kept.master != was:
            return False
        self._put(self._store.data_key_rows, key.tenant, key)
        return True

    # schedules

    def add_schedule(self, schedule: Schedule) -> bool:
        rows = self._store.schedule_rows
        if any((s.tenant, s.name) == (schedule.tenant, schedule.name) for s in rows.values()):
            return False
        self._put(rows, schedule.schedule_id, _with(schedule, created_at=self._at))
        return True

    def schedule(
        self,
        tenant: str,
        name: str,
        *,
        lock: bool = False,  # noqa: ARG002
    ) -> Schedule | None:
        named = [s for s in self.schedules(tenant) if name in {s.name, s.schedule_id}]
        return next(iter(sorted(named, key=lambda s: s.name != name)), None)

    def schedules(self, tenant: str | None = None) -> Sequence[Schedule]:
        found = [s for s in self._store.schedule_rows.values() if tenant is None or s.tenant == tenant]
        return sorted(found, key=lambda s: (s.tenant, s.name))

    def write_schedule(self, schedule: Schedule) -> None:
        if schedule.schedule_id in self._store.schedule_rows:
            self._put(self._store.schedule_rows, schedule.schedule_id, schedule)

    def remove_schedule(self, schedule_id: str) -> bool:
        if schedule_id not in self._store.schedule_rows:
            return False
        for key in [key for key in self._store.firing_rows if key[0] == schedule_id]:
            self._remove(self._store.firing_rows, key)
        self._remove(self._store.schedule_rows, schedule_id)
        return True

    def take_schedule(self) -> Schedule | None:
        found = [s for s in self._store.schedule_rows.values() if not s.paused and self._may_begin(s)]
        return min(found, key=lambda s: (s.next_at is None, s.next_at, s.schedule_id), default=None)

    def _may_begin(self, schedule: Schedule) -> bool:
        if schedule.next_at is not None and schedule.next_at <= self._at:
            return True
        last = self._store.plan_rows.get(schedule.last_plan_id or "")
        waits = self.firings(schedule.schedule_id, outcome=FiringOutcome.QUEUED, limit=1)
        return bool(waits) and (last is None or last.state not in ALIVE)

    def next_tick_at(self) -> datetime | None:
        return min(
            (s.next_at for s in self._store.schedule_rows.values() if s.next_at and not s.paused),
            default=None,
        )

    def add_firing(self, firing: Firing) -> bool:
        if self.firing(firing.schedule_id, firing.due_at, key=firing.key) is not None:
            return False
        self._put(self._store.firing_rows, (firing.schedule_id, firing.due_at), firing)
        return True

    def firing(self, schedule_id: str, due_at: datetime, *, key: str | None = None) -> Firing | None:
        rows = self._store.firing_rows
        keyed = (f for f in rows.values() if f.schedule_id == schedule_id and key and f.key == key)
        return next(keyed, rows.get((schedule_id, due_at)))

    def end_firing(
        self,
        schedule_id: str,
        due_at: datetime,
        outcome: FiringOutcome,
        *,
        plan_id: str | None = None,
        reason: str | None = None,
    ) -> bool:
        firing = self._store.firing_rows.get((schedule_id, due_at))
        if firing is None or firing.outcome is not FiringOutcome.QUEUED:
            return False
        ended = _with(firing, outcome=outcome, plan_id=plan_id, reason=reason, fired_at=self._at)
        self._put(self._store.firing_rows, (schedule_id, due_at), ended)
        return True

    def firings(
        self, schedule_id: str, *, outcome: FiringOutcome | None = None, limit: int = 50
    ) -> Sequence[Firing]:
        found = [
            f
            for f in self._store.firing_rows.values()
            if f.schedule_id == schedule_id and (outcome is None or f.outcome is outcome)
        ]
        return sorted(found, key=lambda f: f.due_at, reverse=True)[:limit]
