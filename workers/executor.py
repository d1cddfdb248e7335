"""Carries one step from ready to an outcome recorded; safe to repeat.

What a mind raises becomes an outcome here, once: a refusal is `Refused`, a fault `Faulted`, a question for a human
`Held`. A budget that is spent is no fault: the mind thinks again without tools, and the plan writes what it has.

A process that stops waits a while for what it has in hand, and hands back the rest: a step is no worse off for having
been with a worker that was restarted. The thread that still thinks about it is fenced off by its claim.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, overload

import structlog

from agents.toolbox import Assignment, CallFailed, CallRefused, Mind, ToolCard, ToolResult
from orchestrator.conductor import Conductor, is_plain
from orchestrator.domain.approval import Category
from orchestrator.domain.errors import BudgetSpent, Fenced, NotFound, Unavailable
from orchestrator.domain.outcome import Completed, Faulted, Held, Outcome, Refused, Snoozed
from orchestrator.domain.plan import Agent, Claimed, Evidence, Fact, Json, Step, StepRef, digest
from orchestrator.prompts import PLAIN, Prompts
from orchestrator.telemetry import log
from workers.gate.gate import CallHeld
from workers.together import Together

_T = TypeVar("_T")

CUT_SHORT: Mapping[Agent, str] = {
    Agent.ROUTER: "deep",
    Agent.PLANNER: "planned",
    Agent.RESEARCHER: "nothing",
    Agent.CODER: "nothing",
    Agent.KEEPER: "exhausted",
    Agent.DIVERGER: "nothing",
    Agent.GENERATOR: "drafted",
    Agent.CRITIC: "critiqued",
    Agent.JUDGE: "revise",
    Agent.SYNTHESISER: "written",
}
"""What each agent comes to when it may not call anything any more and cannot do without."""


TELL_AFTER_S = 0.5
"""How long a step must run before it is worth an event of its own that it has begun, in seconds."""

UNRECORDABLE = "unrecordable"
"""The reason of the fault that stands for an outcome which the store would not take."""


class Door(Protocol):
    """What every call of a step passes: the gate, or the record of what passed it."""

    def call(
        self, claimed: Claimed, name: str, arguments: Mapping[str, Json], *, occurrence: int
    ) -> ToolResult:
        """Return a tool's answer, made now or before."""
        ...

    def cards(self, agent: str) -> Sequence[ToolCard]:
        """Return what an agent may know of the tools that are offered to it."""
        ...

    def charter(self, agent: str) -> str:
        """Return what an agent's profile tells its model; empty without a profile."""
        ...

    def tags(self, agent: str) -> Sequence[str]:
        """Return the words by which an agent's profile wants its work to be found in logs and traces."""
        ...


class Stopping(Exception):
    """This process begins nothing more; the message is another's."""


class Executor:
    """Runs steps with the minds and the gate of one process, under one holder."""

    def __init__(
        self,
        conductor: Conductor,
        gate: Door,
        minds: Mapping[Agent, Mind],
        *,
        holder: int,
        model: str = "",
        step_timeout_s: float = 600.0,
        acknowledge_after_s: float = 60.0,
        prompts: Callable[[], Prompts] = lambda: PLAIN,
        crash_point: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._conductor = conductor
        self._gate = gate
        self._minds = minds
        self._holder = holder
        self._model = model
        self._prompts = prompts
        self._crash_point = crash_point
        self._acknowledge_after_s = acknowledge_after_s
        self._heartbeats = Heartbeats(conductor, step_timeout_s, acknowledge_after_s=acknowledge_after_s)
        self._hands = _InHand()
        self._claims = Together(self._claim)
        self._reports = Together(self._record)

    def _claim(self, refs: Sequence[StepRef]) -> Mapping[int, Claimed]:
        claimed = dict(self._conductor.begin_ready(refs, holder=self._holder))
        # a step that is named twice is given to one thread only
        return {at: claimed.pop(ref) for at, ref in enumerate(refs) if ref in claimed}

    def _record(self, reports: Sequence[tuple[Claimed, Completed]]) -> Mapping[int, bool]:
        recorded = self._conductor.report_plain(reports)
        return {at: True for at, (claimed, _) in enumerate(reports) if claimed.ref in recorded}

    def run(self, ref: StepRef, *, let_go: Callable[[], None] = lambda: None) -> None:
        """Take the step if it is there to be taken, think, and record what came of it.

        `let_go` is called, perhaps from another thread, once the step has run for `acknowledge_after_s` seconds: since
        its claim was committed the lease carries it, and no message need be kept for it.
        Raises `NotFound` when there is no such step, `Unavailable` when Postgres does not answer, and `Stopping` once
        this executor was drained.
        """
        self._crash_point("before_claim")
        with self._hands.busy():
            claimed = self._claims.ask(ref) or self._conductor.begin_otherwise(ref, holder=self._holder)
            if claimed is None:
                return  # a duplicate, called off, or too early
            with self._hands.holding(claimed):
                self._crash_point("after_claim")
                if not self._acknowledge_after_s:
                    let_go()
                    self._crash_point("after_acknowledgement")
                self._carry(claimed, let_go)

    def drain(self, grace_s: float) -> int:
        """Begin nothing more, wait so many seconds for what is in hand, and hand back the rest: its number."""
        returned = 0
        for claimed in self._hands.after(grace_s):
            try:
                handed_back = self._conductor.report(claimed, Snoozed(0, reason="worker stopping"))
            except Unavailable:
                # the rest is met by the sweeper, for the session lock goes with the process
                log.warning("store.unavailable")
                break
            if handed_back:
                returned += 1
                log.info("step.returned", plan_id=claimed.ref.plan_id, step=claimed.ref.number)
        return returned

    def _carry(self, claimed: Claimed, let_go: Callable[[], None]) -> None:
        ref = claimed.ref
        bound: dict[str, Json] = {
            "plan_id": ref.plan_id,
            "step": ref.number,
            "claim": claimed.claim,
            "agent": claimed.step.agent,
        }
        tags = self._gate.tags(claimed.step.agent)
        if tags:
            bound["tags"] = list(tags)
        with structlog.contextvars.bound_contextvars(**bound), self._heartbeats.of(claimed, let_go):
            log.info("step.began", attempt=claimed.step.attempt)
            started = time.monotonic()
            try:
                outcome = self._think(claimed)
            except Fenced:
                log.warning("step.fenced")
                return
            self._crash_point("before_report")
            if self._report(claimed, outcome):
                took = round((time.monotonic() - started) * 1000)
                log.info("step.ended", outcome=type(outcome).__name__.lower(), duration_ms=took)
            else:
                log.warning("step.fenced")
        self._crash_point("after_report")

    def close(self) -> None:
        """Stop keeping leases."""
        self._heartbeats.close()

    def _think(self, claimed: Claimed) -> Outcome:
        try:
            thought: object = self._thought(claimed)
        except CallRefused as refused:
            return Refused(refused.reason, refused.detail)
        except CallHeld as held:
            about = self._conductor.rules.categories.get(held.capability, Category.DECISION)
            return Held(about, held.question, held.args_digest, roles=("approver", "operator"))
        except CallFailed as failed:
            return Faulted(failed.reason, failed.detail)
        except Fenced:
            raise
        except Unavailable as unavailable:
            return Faulted(unavailable.code, str(unavailable))
        except Exception as error:  # noqa: BLE001 - whatever a mind raises is an outcome, not the worker's end
            log.exception("step.crashed")
            return Faulted("crashed", _told(error))
        if not isinstance(thought, Completed):
            return Faulted("crashed", f"The {claimed.step.agent} came to a {type(thought).__name__}.")
        return thought

    def _thought(self, claimed: Claimed) -> Completed:
        think = self._minds[claimed.step.agent]
        try:
            return think(self._assignment(claimed), self._toolbox(claimed))
        except BudgetSpent:
            pass
        try:
            return replace(think(self._assignment(claimed), self._toolbox(claimed, spent=True)), partial=True)
        except BudgetSpent:
            return Completed(CUT_SHORT[claimed.step.agent], partial=True)

    def _report(self, claimed: Claimed, outcome: Outcome) -> bool:
        # a database that is away for a moment must not cost the work: try for as long as the lease may last
        give_up = time.monotonic() + self._conductor.rules.lease.total_seconds()
        while True:
            try:
                if is_plain(outcome) and self._reports.ask((claimed, outcome)):
                    return True
                return self._conductor.report(claimed, outcome)
            except Unavailable:
                log.warning("store.unavailable")
                if time.monotonic() > give_up:
                    log.exception("report.unwritten")
                    raise
                time.sleep(0.2)
            except NotFound:
                raise
            except Exception as error:
                # what cannot be written down would come back for ever: it is a fault, and ends like one
                if isinstance(outcome, Faulted) and outcome.reason == UNRECORDABLE:
                    raise
                log.exception("step.crashed")
                outcome = Faulted(
                    UNRECORDABLE, f"What the step came to could not be recorded: {_told(error)}"
                )

    def _assignment(self, claimed: Claimed) -> Assignment:
        plan, step = claimed.plan, claimed.step
        store = self._conductor.store

        def steps() -> Sequence[Step]:
            with store.transaction() as tx:
                return tx.steps(plan.plan_id)

        def facts() -> Sequence[Fact]:
            with store.transaction() as tx:
                return tx.facts(plan.plan_id)

        return Assignment(
            goal=plan.goal,
            depth=plan.depth,
            agent=step.agent,
            round=step.round,
            step=step.number,
            brief=step.brief,
            sources=plan.sources,
            partial=plan.partial,
            steps=_Late(steps),
            facts=_Late(facts),
            prompts=self._prompts(),
            # one is their keeper's
            room=max(0, plan.budget.research_steps_left(plan.spent) - 1),
        )

    def _toolbox(self, claimed: Claimed, *, spent: bool = False) -> _Toolbox:
        return _Toolbox(self._conductor, self._gate, claimed, "" if spent else self._model, self._crash_point)


class _InHand:
    """What the threads of this process are busy with."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = 0
        self._claims: dict[int, Claimed] = {}
        self._stopping = False

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count a thread as busy for as long as the block lasts; raise `Stopping` when no more may begin."""
        with self._changed:
            if self._stopping:
                raise Stopping
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    @contextmanager
    def holding(self, claimed: Claimed) -> Iterator[None]:
        """Hold this claim for as long as the block lasts."""
        with self._changed:
            self._claims[id(claimed)] = claimed
        try:
            yield
        finally:
            with self._changed:
                del self._claims[id(claimed)]

    def after(self, grace_s: float) -> Sequence[Claimed]:
        """Let nothing more begin; return the claims that are left when nothing is in hand or the time is over."""
        with self._changed:
            self._stopping = True
            self._changed.wait_for(lambda: self._busy == 0, timeout=grace_s)
            return list(self._claims.values())


class _Late(Sequence[_T]):
    """A sequence that is read when somebody first looks: not every mind asks what has been."""

    def __init__(self, load: Callable[[], Sequence[_T]]) -> None:
        self._load = load
        self._loaded: Sequence[_T] | None = None

    def _rows(self) -> Sequence[_T]:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    @overload
    def __getitem__(self, at: int) -> _T: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[_T]: ...
    def __getitem__(self, at: int | slice) -> _T | Sequence[_T]:
        return self._rows()[at]

    def __len__(self) -> int:
        return len(self._rows())


class _Toolbox:
    """The gate, as one step sees it."""

    def __init__(
        self,
        conductor: Conductor,
        gate: Door,
        claimed: Claimed,
        model: str,
        crash_point: Callable[[str], None],
    ) -> None:
        self._conductor = conductor
        self._gate = gate
        self._claimed = claimed
        self._model = model
        self._crash_point = crash_point
        self._made: Counter[str] = Counter()

    @property
    def model(self) -> str:
        return self._model

    @property
    def charter(self) -> str:
        return self._gate.charter(self._claimed.step.agent)

    @property
    def tools(self) -> Sequence[ToolCard]:
        return self._gate.cards(self._claimed.step.agent)

    def call(self, tool: str, **arguments: Json) -> ToolResult:
        key = digest([tool, arguments])
        occurrence = self._made[key]
        self._made[key] += 1
        self._crash_point("before_call")
        result = self._gate.call(self._claimed, tool, arguments, occurrence=occurrence)
        self._crash_point("after_call")
        return result

    def evidence(self, sha256: str) -> Evidence | None:
        with self._conductor.store.transaction() as tx:
            return tx.evidence(self._claimed.plan.tenant, sha256)


class Heartbeats:
    """Keeps the leases of the steps that this process runs, and says which have begun, from one thread.

    A step that runs longer than `step_timeout_s` seconds is given up: its lease ends, and the sweeper takes it. One
    that ends within half a second is not said to have begun: its outcome says it all. The message of one that has run
    for `acknowledge_after_s` seconds is let go of.
    """

    def __init__(
        self, conductor: Conductor, step_timeout_s: float, *, acknowledge_after_s: float = 60.0
    ) -> None:
        self._conductor = conductor
        self._step_timeout_s = step_timeout_s
        self._acknowledge_after_s = acknowledge_after_s
        self._every_s = conductor.rules.lease.total_seconds() / 3
        self._held: dict[int, _Held] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeats", daemon=True)
        self._thread.start()

    @contextmanager
    def of(self, claimed: Claimed, let_go: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Keep this step's lease for as long as the block lasts."""
        with self._lock:
            self._held[id(claimed)] = _Held(claimed, time.monotonic(), let_go)
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(id(claimed), None)

    def close(self) -> None:
        """Stop keeping leases."""
        self._closed.set()
        self._thread.join(1.0)

    def _beat(self) -> None:
        while not self._closed.wait(min(self._every_s, TELL_AFTER_S)):
            with self._lock:
                held = list(self._held.items())
            for key, step in held:
                if not self._kept(step):
                    log.warning(
                        "heartbeat.lost", plan_id=step.claimed.ref.plan_id, step=step.claimed.ref.number
                    )
                    with self._lock:
                        self._held.pop(key, None)

    def _tended(self, step: _Held) -> bool:
        now = time.monotonic()
        if now - step.since > self._step_timeout_s:
            return False
        if not step.gone and now - step.since >= self._acknowledge_after_s:
            step.gone = True
            step.let_go()
        if not step.told and now - step.since >= TELL_AFTER_S:
            step.told = True
            return self._conductor.tell_started(step.claimed)
        if now - step.renewed >= self._every_s:
            kept = self._conductor.renew(step.claimed)
            step.renewed = now  # not where nobody answered: a third of the lease later would be late
            return kept
        return True

    def _kept(self, step: _Held) -> bool:
        try:
            return self._tended(step)
        except Unavailable:
            log.warning("store.unavailable")
            return True  # nobody else could take it either; try again at the next beat
        except Exception:  # noqa: BLE001 - the leases of every other step hang on this thread
            log.exception("store.unavailable")
            return True


@dataclass(slots=True)
class _Held:
    """A step in hand: since when, and what was done for it; `gone` is its message, once it was let go of."""

    claimed: Claimed
    since: float
    let_go: Callable[[], None] = lambda: None
    gone: bool = False
    told: bool = False
    renewed: float = 0.0

    def __post_init__(self) -> None:
        self.renewed = self.since


def _told(error: Exception) -> str:
    """What an exception says, as text that can be stored; an exception that cannot be printed says so."""
    text = "".join(traceback.format_exception_only(error)).strip()
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()[:1000]
