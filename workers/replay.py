"""Does a finished plan again from its recording: the same minds, the same rules, and nobody is asked anything.

    the recorded order of events  ─ a step ended ▶ its mind thinks again, and every call is answered from the journal
                                  ─ steps were planned ▶ whoever brought them about is settled, by the same rules

What its peers had found when a step looked is not recorded: any that it can have seen will do.
Each step must come to the same verdict, follow-ups, result and facts, and the plan to the same report, byte for byte.
The first that does not is named. What is done again is done in memory: no store, tool or network is touched.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from agents.toolbox import CallFailed, Mind, ToolCard, ToolResult
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain import ooda
from orchestrator.domain.errors import BudgetSpent
from orchestrator.domain.plan import (
    Agent,
    Call,
    CallState,
    Claimed,
    Fact,
    Json,
    Step,
    StepRef,
    StepState,
    canonical,
    digest,
    request,
)
from orchestrator.inmemory import InMemoryStore, InMemoryTx
from orchestrator.prompts import PLAIN, Prompts
from orchestrator.vault.chain import Sealer
from workers.executor import Executor
from workers.gate.gate import answer_of
from workers.recording import Recording

_CHOSEN: Final = frozenset({"model", "temperature"})
"""Arguments that the gate adds to what a mind asks a model, out of a catalogue that may be another by now."""

_SHOWN: Final = 160
_HOLDER: Final = 1


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first thing that came out otherwise: in which step (0: the plan), what, and both as JSON, cut to size."""

    step: int
    agent: str
    what: str
    recorded: str
    replayed: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many steps were thought again and how many calls were answered, and where they first came out otherwise."""

    steps: int
    calls: int
    divergence: Divergence | None = None


class _Diverged(Exception):
    def __init__(self, divergence: Divergence) -> None:
        super().__init__(divergence.what)
        self.divergence = divergence


def replay(recording: Recording, minds: Mapping[Agent, Mind], prompts: Prompts = PLAIN) -> Replayed:
    """Return how a recording comes out with these minds, and these words for them to speak with."""
    run = _Run(recording, minds, prompts)
    try:
        run.all()
    except _Diverged as diverged:
        return Replayed(run.steps, run.journal.answered, diverged.divergence)
    finally:
        run.close()
    return Replayed(run.steps, run.journal.answered)


class _Store(InMemoryStore):
    """The twin, for a step's thread and the one that keeps its lease."""

    def __init__(self, recording: Recording) -> None:
        self.now = recording.plan.created_at
        super().__init__(lambda: self.now)
        self._turn = threading.RLock()
        self.evidence_rows = {(recording.plan.tenant, e.sha256): e for e in recording.evidence}

    @contextmanager
    def transaction(self) -> Iterator[InMemoryTx]:
        with self._turn, super().transaction() as tx:
            yield tx

    def snapshot(self) -> Mapping[str, Any]:
        """Return what there is now, to come back to it."""
        return {name: _copied(rows) for name, rows in vars(self).items() if name.endswith("_rows")}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Come back to what there was."""
        vars(self).update({name: _copied(rows) for name, rows in snapshot.items()})

    @contextmanager
    def hiding(self, plan_id: str, steps: Sequence[int]) -> Iterator[None]:
        """Let nobody see the facts of some steps while the block lasts."""
        hidden = [fact for fact in self.fact_rows[plan_id] if fact.step in steps]
        self.fact_rows[plan_id] = [fact for fact in self.fact_rows[plan_id] if fact.step not in steps]
        yield
        self.fact_rows[plan_id] = [*hidden, *self.fact_rows[plan_id]]

    def place(self, number: int, **columns: int) -> None:
        """Change a step's numbers."""
        (rows,) = self.step_rows.values()
        rows[number] = replace(rows[number], **columns)  # type: ignore[arg-type]


def _copied(rows: Any) -> Any:
    return {key: copy(row) if isinstance(row, dict | list) else row for key, row in rows.items()}


class _Run:
    """One recording on its way through the minds."""

    def __init__(self, recording: Recording, minds: Mapping[Agent, Mind], prompts: Prompts) -> None:
        self._recorded = recording
        self._steps = {step.number: step for step in recording.steps}
        self._facts = _by_step(recording.facts)
        self._store = _Store(recording)
        self._conductor = Conductor(
            self._store,
            Sealer(b"nobody reads the audit of a replay"),
            new_id=lambda: recording.plan.plan_id,
            draw=lambda: 0.0,
            rules=Rules(),
        )
        self.journal = _Journal(recording, self._conductor)
        self.steps = 0
        self._ended: list[int] = []
        self._executor = Executor(
            self._conductor,
            self.journal,
            minds,
            holder=_HOLDER,
            model=recording.model,
            prompts=lambda: prompts,
            step_timeout_s=86_400.0,
        )

    def close(self) -> None:
        self._executor.close()

    def all(self) -> None:
        self._begin()
        for event in self._recorded.events:
            self._store.now = max(event.at, self._store.now)
            number = event.body.get("step")
            match event.kind:
                case "step.succeeded" | "step.skipped" if isinstance(number, int):
                    self._come_to(number)
                    self._think(number)
                case "step.planned" if isinstance(number, int):
                    self._come_to(number)
        for step in self._waiting():
            self._conductor.settle(step.ref)
        self._compare_plan()

    # the plan's beginning

    def _begin(self) -> None:
        plan = self._recorded.plan
        asked = request(
            plan.goal,
            depth=plan.depth,
            tenant=plan.tenant,
            requester=plan.requester,
            sources=plan.sources,
            budget=plan.budget,
            priority=plan.priority,
            metadata=plan.metadata,
        )
        copied = {e.body["step"] for e in self._recorded.events if e.kind == "step.copied"}
        if not copied:
            self._conductor.submit(asked)
        with self._store.transaction() as tx:
            if copied:
                tx.add_plan(plan.plan_id, asked, plan.deadline or plan.created_at)
                tx.copy_steps(plan.plan_id, [*self._taken_over()])
                tx.add_facts(plan.plan_id, [f for f in self._recorded.facts if f.step in copied])
        # it may have been given more time than it was submitted with, while it waited for a person
        self._store.plan_rows[plan.plan_id] = replace(
            self._store.plan_rows[plan.plan_id], deadline=plan.deadline
        )

    def _taken_over(self) -> Iterator[Step]:
        """Yield the steps of a fork as it began: those that had ended, and those that were to be done again."""
        for event in self._recorded.events:
            if event.kind in {"step.succeeded", "step.skipped", "step.faulted", "plan.started"}:
                return
            number = event.body.get("step")
            if event.kind == "step.copied" and isinstance(number, int):
                yield self._steps[number]
            if event.kind == "step.planned" and isinstance(number, int):
                done = self._steps[number]
                yield Step(done.plan_id, done.number, done.agent, StepState.READY, done.round, done.brief)

    # step by step

    def _come_to(self, number: int) -> None:
        """Settle what ended until the step is there; in the order in which those it follows were settled."""
        while self._step(number) is None:
            waiting = self._waiting()
            if not waiting:
                raise _Diverged(self._otherwise(number, "it was not planned", True, False))
            expected = [s for s in self._recorded.steps if s.number > len(self._all())]
            brings = [s for s in waiting if self._brings(s, expected)]
            idle = [s for s in waiting if isinstance(self._following(s), ooda.Wait)]
            self._conductor.settle((brings or idle or waiting)[0].ref)
            self._compare_planned()

    def _brings(self, step: Step, expected: Sequence[Step]) -> bool:
        match self._following(step):
            case ooda.Go(steps=steps):
                made = [(s.agent, s.round, canonical(s.brief)) for s in steps]
                return made == [(s.agent, s.round, canonical(s.brief)) for s in expected[: len(steps)]]
            case _:
                return False

    def _following(self, step: Step) -> ooda.Next:
        plan = self._store.plan_rows[step.plan_id]
        settled = replace(step, settled=True)
        peers = [settled if s.number == step.number else s for s in self._all()]
        return ooda.follow(plan, settled, peers, overdue=plan.overdue(self._store.now))

    def _think(self, number: int) -> None:
        """Think a step again; what its peers had found by then is not recorded, so that each way is tried."""
        before, answered = self._store.snapshot(), self.journal.answered
        found: list[_Diverged] = []
        for hidden in self._views(number):
            try:
                with self._store.hiding(self._recorded.plan.plan_id, hidden):
                    self._compare_step(number)
            except _Diverged as diverged:
                found.append(diverged)
                self._store.restore(before)
                self.journal.answered, self.journal.unrecorded = answered, None
                continue
            self.steps += 1
            self._ended.append(number)
            return
        raise found[0]

    def _views(self, number: int) -> Iterator[Sequence[int]]:
        """Yield whose facts a step may not have seen: nobody's, or those of the peers that ended last before it."""
        yield ()
        step = self._step(number)
        if step is None or not step.agent.looks:
            return
        peers = [n for n in self._ended if self._must(n).agent.looks and self._must(n).round == step.round]
        yield from (peers[at:] for at in reversed(range(len(peers))))

    def _compare_step(self, number: int) -> None:
        recorded = self._steps[number]
        # a mind may do otherwise when it is tried for the last time
        self._store.place(number, attempt=max(0, recorded.attempt - 1), max_attempts=recorded.max_attempts)
        self._executor.run(StepRef(self._recorded.plan.plan_id, number))
        if self.journal.unrecorded is not None:
            raise _Diverged(self._otherwise(number, *self.journal.unrecorded))
        replayed = self._must(number)
        if replayed.state is not recorded.state:
            why = f"{replayed.state}: {replayed.reason}" if replayed.reason else replayed.state
            raise _Diverged(self._otherwise(number, "state", recorded.state, why))
        for what in ("verdict", "follow_ups", "result"):
            self._compare(number, what, getattr(recorded, what), getattr(replayed, what))
        facts = _by_step(self._store.fact_rows[self._recorded.plan.plan_id])
        self._compare(number, "facts", self._facts.get(number, []), facts.get(number, []))

    def _compare_planned(self) -> None:
        for made in self._all():
            recorded = self._steps.get(made.number)
            if recorded is None:
                raise _Diverged(self._otherwise(made.number, "it was not planned then", None, made.brief))
            for what in ("agent", "round", "brief"):
                self._compare(made.number, what, getattr(recorded, what), getattr(made, what))

    def _compare_plan(self) -> None:
        self._compare_planned()
        plan, recorded = self._store.plan_rows[self._recorded.plan.plan_id], self._recorded.plan
        for what in ("state", "partial"):
            self._compare(0, what, getattr(recorded, what), getattr(plan, what))
        report = self._store.report_rows.get(recorded.plan_id)
        self._compare(0, "report", self._recorded.report, report)

    def _compare(self, number: int, what: str, recorded: object, replayed: object) -> None:
        if canonical(recorded) != canonical(replayed):
            raise _Diverged(self._otherwise(number, what, recorded, replayed))

    def _otherwise(self, number: int, what: str, recorded: object, replayed: object) -> Divergence:
        ours, theirs = canonical(recorded).decode(), canonical(replayed).decode()
        same = next(
            (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
            min(len(ours), len(theirs)),
        )
        begin = max(0, same - _SHOWN // 2)
        step = self._steps.get(number) or self._step(number)
        return Divergence(
            number,
            step.agent.value if step else "",
            what,
            ours[begin : begin + _SHOWN],
            theirs[begin : begin + _SHOWN],
        )

    # what there is so far

    def _all(self) -> list[Step]:
        rows = self._store.step_rows[self._recorded.plan.plan_id]
        return [rows[number] for number in sorted(rows)]

    def _step(self, number: int) -> Step | None:
        return self._store.step_rows[self._recorded.plan.plan_id].get(number)

    def _must(self, number: int) -> Step:
        return self._store.step_rows[self._recorded.plan.plan_id][number]

    def _waiting(self) -> list[Step]:
        ended = {StepState.SUCCEEDED, StepState.SKIPPED}
        return [s for s in self._all() if s.state in ended and not s.settled]


class _Journal:
    """Stands where the gate stands, and knows only what was recorded."""

    def __init__(self, recording: Recording, conductor: Conductor) -> None:
        self._conductor = conductor
        self._partial = recording.plan.partial
        self._cards = recording.cards
        self._charters = recording.charters
        self._calls: dict[tuple[int, str, int], Call] = {}
        for call in recording.calls:
            at = (call.step, _name(call.tool, call.arguments), call.occurrence)
            before = self._calls.get(at)
            if before is None or before.state is not CallState.DONE:
                self._calls[at] = call  # the last that was asked, or the one that answered
        self.answered = 0
        self.unrecorded: tuple[str, Json, Json] | None = None

    def call(
        self, claimed: Claimed, name: str, arguments: Mapping[str, Json], *, occurrence: int
    ) -> ToolResult:
        """Answer as the tool did; raises what was raised then."""
        found = self._calls.get((claimed.ref.number, _name(name, arguments), occurrence))
        if found is None and self._partial:
            # a call that did not fit is not in the journal; what came of it says whether this was one
            raise BudgetSpent("recorded calls", 0)
        if found is None:
            nearest = next(
                (c for c in self._calls.values() if (c.step, c.tool) == (claimed.ref.number, name)), None
            )
            then = None if nearest is None else _asked(nearest.tool, nearest.arguments)
            self.unrecorded = (f"a call of {name} that was not made then", then, _asked(name, arguments))
            raise LookupError(name)
        if found.state is not CallState.DONE:
            reason = found.result.get("reason") if isinstance(found.result, Mapping) else None
            raise CallFailed(str(reason or "tool_error"), found.error or "")
        with self._conductor.store.transaction() as tx:
            evidence = tx.evidence(claimed.plan.tenant, found.evidence or "")
        self.answered += 1
        return answer_of(found, evidence)

    def cards(self, agent: str) -> Sequence[ToolCard]:
        """Return the tools that were offered to an agent."""
        return self._cards.get(agent, ())

    def charter(self, agent: str) -> str:
        """Return what an agent's profile told its model."""
        return self._charters.get(agent, "")

    @staticmethod
    def tags(agent: str) -> Sequence[str]:  # noqa: ARG004
        """Return nothing: nobody looks for a replay."""
        return ()


def _asked(tool: str, arguments: Mapping[str, Json]) -> Mapping[str, Json]:
    chosen = _CHOSEN if tool == "model_complete" else ()
    return {key: value for key, value in arguments.items() if key not in chosen}


def _name(tool: str, arguments: Mapping[str, Json]) -> str:
    return digest([tool, _asked(tool, arguments)])


def _by_step(facts: Sequence[Fact]) -> dict[int, list[Json]]:
    found: dict[int, list[Json]] = {}
    for fact in sorted(facts, key=lambda f: (f.step, f.number)):
        found.setdefault(fact.step, []).append(asdict(fact))
    return found
