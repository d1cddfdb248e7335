"""Follows plans while they run, and shows what happens: rows that change on a terminal, lines elsewhere.

    events ─┬─▶ Tally (what is known) ──▶ LiveView    one row for each agent and round, a spinner, the counts
            ├─▶ told (one sentence)   ──▶ LineView    one line for each event that a person cares about
            └────────────────────────────▶ JsonView   one JSON document a line

Everything shown comes from the plan's events, so that watching from another process looks the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from orchestrator import shapes
from orchestrator.domain.consensus import Decision
from orchestrator.domain.errors import Unavailable
from orchestrator.domain.lifecycle import PLAN_ENDS
from orchestrator.domain.plan import Agent, Event, Plan, PlanState, Step, StepRef, StepState
from workers.cli import view

if TYPE_CHECKING:
    from orchestrator.wiring import Core

_POLL_S: Final = 0.1
_PATIENCE_S: Final = 30.0
_BATCH: Final = 1000

_ROUTED: Final[Mapping[str, str]] = {
    "casual": "small talk, nothing to research",
    "utility": "an errand, answered by a tool",
    "unsafe": "asks for harm, and is declined",
}


# --- what is known --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence about one event: who did what in which phase."""

    phase: str
    who: str
    text: str
    style: str = ""

    def __str__(self) -> str:
        return f"{self.phase:<7}  {self.who:<14}  {self.text}"


@dataclass(slots=True)
class Row:
    """One agent in one round: how many steps it has, and what they came to."""

    phase: str
    agent: str
    round: int
    steps: int = 0
    running: int = 0
    ended: int = 0
    facts: int = 0
    said: str = ""
    trouble: str = ""


@dataclass(slots=True)
class Tally:
    """What is known of a plan from its events so far."""

    plan_id: str
    goal: str = ""
    rows: dict[tuple[int, str], Row] = field(default_factory=dict)
    facts: int = 0
    calls: int = 0
    _of: dict[int, Row] = field(default_factory=dict)
    _running: set[int] = field(default_factory=set)

    @property
    def questions(self) -> int:
        """How many questions were asked; later rounds look the same ones up in other words."""
        row = self.rows.get((1, Agent.RESEARCHER))
        return row.steps if row else 0

    def take(self, event: Event, said: str = "") -> None:
        """Count an event; `said` is what its step came to, in words."""
        body: Mapping[str, Any] = event.body
        number = int(body.get("step") or 0)
        row = self._row(number, body)
        match event.kind:
            case "step.started" if row:
                self._run(number, row)
            case "step.succeeded" if row:
                self._rest(number, row)
                row.ended += 1
                row.facts += int(body.get("facts") or 0)
                self.facts += int(body.get("facts") or 0)
                row.said, row.trouble = said, ""
            case "step.skipped" if row:
                self._rest(number, row)
                row.ended += 1
                row.said = said
            case "step.faulted" | "step.dead" | "step.rescued" | "step.snoozed" if row:
                self._rest(number, row)
                row.trouble = said
            case "approval.advanced" | "approval.escalated" if row:
                row.trouble = said
            case "approval.requested" if row:
                self._rest(number, row)
                row.trouble = said
            case "approval.decided" if row:
                row.trouble = said if body.get("decision") != "approved" else ""
            case "tool.called" if body.get("state") == "done":
                self.calls += 1
            case "plan.replayed":
                for each in self.rows.values():
                    each.trouble = ""
            case _:
                pass

    def _row(self, number: int, body: Mapping[str, Any]) -> Row | None:
        """The row of a step; it begins with the first that is heard of one."""
        if number not in self._of and "agent" in body:
            key = (int(body["round"]), str(body["agent"]))
            row = self.rows.setdefault(key, Row(Agent(key[1]).phase.value, key[1], key[0]))
            row.steps += 1
            self._of[number] = row
        return self._of.get(number)

    def _run(self, number: int, row: Row) -> None:
        if number not in self._running:
            self._running.add(number)
            row.running += 1

    def _rest(self, number: int, row: Row) -> None:
        if number in self._running:
            self._running.discard(number)
            row.running -= 1


def told(event: Event, step: Step | None) -> Line | None:
    """Return what a person would want to hear about an event, or `None` for what happens all the time."""
    body: Mapping[str, Any] = event.body
    if event.kind.startswith("plan."):
        text, style = _of_plan(event)
        return Line("plan", "", text, style) if text else None
    if step is None:
        return None
    text, style = _of_step(event, body, step)
    return Line(step.phase.value, f"{step.agent.value} {step.number}", text, style) if text else None


def _of_plan(event: Event) -> tuple[str, str]:
    body: Mapping[str, Any] = event.body
    match event.kind:
        case "plan.submitted":
            return "submitted", ""
        case "plan.forked":
            return f"forked from step {body.get('from_step')} of {view.short(str(body.get('fork_of')))}", ""
        case "plan.replayed":
            return f"taken up again by {body.get('by')}", "bold"
        case "plan.cancelled":
            return f"cancelled by {body.get('by')}: {body.get('reason')}", "yellow"
        case "plan.ended":
            state = view.state(str(body.get("state")))
            cut = ", cut short by a limit" if body.get("partial") else ""
            if body.get("verdict") == "needs_review":
                return f"{state}, but needs review{cut}", "yellow"
            return f"{state}{cut}", "green" if body.get("state") == PlanState.SUCCEEDED else "red"
        case _:
            return "", ""


def _of_step(event: Event, body: Mapping[str, Any], step: Step) -> tuple[str, str]:
    match event.kind:
        case "step.succeeded":
            return _came_to(step, str(body.get("verdict")), int(body.get("facts") or 0)), ""
        case "ballot.cast":
            return _decided(body)
        case "step.faulted":
            wait = float(body.get("retry_in_s") or 0)
            attempt = body.get("attempt")
            return f"attempt {attempt} failed, next in {wait:.1f} s: {body.get('detail')}", "yellow"
        case "step.rescued":
            return "its worker was lost; it is tried again", "yellow"
        case "step.skipped":
            return f"skipped: {body.get('reason')}", "yellow"
        case "step.snoozed":
            return f"waits: {body.get('reason')}", ""
        case "step.dead":
            return (
                f"given up on after {view.many(int(body.get('attempts') or 0), 'attempt')}: {body.get('detail')}",
                "red",
            )
        case "approval.requested":
            return (
                f"waits for approval {view.short(str(body.get('approval')))}: {body.get('question')}",
                "yellow",
            )
        case "approval.advanced":
            waits = ", ".join(str(role) for role in body.get("roles") or ())
            return f"{body.get('decision')} by {body.get('by')}; now waits for {waits}", "yellow"
        case "approval.escalated":
            waits = ", ".join(str(role) for role in body.get("roles") or ())
            return f"nobody decided in time; may now be decided by {waits}", "yellow"
        case "approval.decided":
            return f"{body.get('decision')} by {body.get('by')}", ""
        case _:
            return "", ""


def _decided(body: Mapping[str, Any]) -> tuple[str, str]:
    sure = f"{float(body.get('confidence') or 0):.2f} sure, {float(body.get('threshold') or 0):.2f} needed"
    match body.get("decided"):
        case Decision.ACCEPTED:
            return f"accepted ({sure})", ""
        case Decision.REVISE:
            return f"sent back ({sure})", ""
        case _:
            return f"needs review: {view.state(str(body.get('why')))} ({sure})", "yellow"


def _came_to(step: Step, verdict: str, facts: int) -> str:
    result: Mapping[str, Any] = step.result
    match step.agent:
        case Agent.ROUTER:
            return _ROUTED.get(verdict, "a question to research")
        case Agent.PLANNER:
            asked = view.many(len(result.get("questions") or ()), "question")
            searched = result.get("documents")
            return asked if searched is None else f"{asked} for {view.many(int(searched), 'document')}"
        case Agent.RESEARCHER | Agent.CODER:
            return f"found {view.many(facts, 'fact')}" if facts else "found nothing"
        case Agent.KEEPER:
            return _kept(result, verdict)
        case Agent.DIVERGER:
            against = len(step.follow_ups)
            return (
                f"looks for {view.many(against, 'thing')} that would speak against it"
                if against
                else "nothing to doubt"
            )
        case Agent.GENERATOR:
            sections = result.get("sections") or ()
            return f"drafted {view.many(sum(len(s['sentences']) for s in sections), 'sentence')}"
        case Agent.CRITIC:
            objections = len(result.get("objections") or ())
            return f"objects to {view.many(objections, 'sentence')}" if objections else "no objections"
        case Agent.JUDGE:
            return {"accept": "accepts it", "revise": "sends it back", "reject": "rejects it"}.get(
                verdict, verdict
            )
        case Agent.SYNTHESISER:
            return "report written"


# --- how it is shown ------------------------------------------------------------------------------------------


class View(Protocol):
    """Somebody who is told of every event."""

    def take(self, event: Event, step: Step | None) -> None:
        """Show an event; `step` is the step that it is about, as it is now."""
        ...


class LineView:
    """Prints a line for each event that a person cares about, to standard error."""

    def __init__(self, *, several: bool = False) -> None:
        self._several = several

    def take(self, event: Event, step: Step | None) -> None:
        """Print the event's line, with the plan's id in front where there are several plans."""
        line = told(event, step)
        if line is not None:
            named = f"{view.short(event.plan_id)}  " if self._several else ""
            view.tell(f"{named}{line}".rstrip(), line.style)


class JsonView:
    """Prints every event as one line of JSON, to standard output."""

    def take(self, event: Event, step: Step | None) -> None:  # noqa: ARG002 - the event says it all
        """Print the event."""
        view.put_json(shapes.event(event), lines=True)


class LiveView(AbstractContextManager["LiveView"]):
    """Keeps rows up to date on a terminal, a table for each plan."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._tallies = {plan.plan_id: Tally(plan.plan_id, plan.goal) for plan in plans}
        self._spinner = Spinner("dots")
        self._since = time.monotonic()
        self._over = False
        self._live = Live(
            console=view.people(), get_renderable=self._drawn, refresh_per_second=8, redirect_stdout=False
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._live.stop()

    def take(self, event: Event, step: Step | None) -> None:
        """Count the event; the next frame shows it."""
        line = told(event, step)
        self._tallies[event.plan_id].take(event, line.text if line else "")

    def _drawn(self) -> RenderableType:
        drawn = [self._drawn_plan(tally) for tally in self._tallies.values()]
        apart = [part for plan in drawn for part in (Text(), plan)]
        return Group(*apart[1:])

    def _drawn_plan(self, tally: Tally) -> RenderableType:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(width=1)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for row in tally.rows.values():
            table.add_row(self._mark(row), row.phase, _named(row), _state(row))
        counts = [
            view.many(count, noun)
            for count, noun in ((tally.questions, "question"), (tally.facts, "fact"), (tally.calls, "call"))
            if count
        ]
        counts.append(view.lasted(time.monotonic() - self._since))
        foot = Text(" · ".join([f"plan {view.short(tally.plan_id)}", *counts]), style="dim")
        return Group(Text(view.one_line(tally.goal), style="bold"), table, foot)

    def _mark(self, row: Row) -> RenderableType:
        if row.trouble:
            return Text("!", style="yellow")
        if row.ended >= row.steps:
            return Text("✓", style="green")
        if row.running and not self._over:
            return self._spinner
        return Text("·", style="dim")


def _kept(result: Mapping[str, Any], verdict: str) -> str:
    still = f"{view.many(len(result.get('open') or ()), 'question')} still open"
    if result.get("thin") and not result.get("open"):
        still = f"{view.many(len(result['thin']), 'answer')} could be better founded"
    return {
        "sufficient": "every question has an answer",
        "narrow": f"{still}, looks again",
        "exhausted": f"{still}, {_WHY.get(str(result.get('yielded')), 'nothing more to try')}",
    }.get(verdict, verdict)


_WHY: Final = {"budget": "the budget allows no more", "rounds": "the depth allows no more"}
"""Why a keeper stops that has not enough, where it is not for want of another idea."""

_FROM_ONE: Final = frozenset({Agent.RESEARCHER, Agent.CODER, Agent.KEEPER, Agent.DIVERGER})
"""The agents whose rounds are those of observation, which begin with 1; drafts begin with 0."""


def _named(row: Row) -> str:
    from_one = row.agent in _FROM_ONE
    again = row.round > (1 if from_one else 0)
    name = f"{row.agent}s" if row.steps > 1 else row.agent
    number = row.round if from_one else row.round + 1
    return f"{name}, round {number}" if again else name


def _state(row: Row) -> Text:
    if row.trouble:
        return Text(view.one_line(row.trouble, 200), style="yellow")
    if row.steps > 1:
        found = f", {view.many(row.facts, 'fact')}" if row.facts else ""
        return Text(f"{row.ended} of {row.steps} done{found}")
    if row.ended:
        return Text(view.one_line(row.said, 200))
    return Text("works" if row.running else "waits", style="dim")


# --- following ------------------------------------------------------------------------------------------------


def follow(
    core: Core, plans: Sequence[Plan], *, verbose: bool = False, as_json: bool = False, parked: bool = False
) -> Sequence[Plan]:
    """Show what happens to these plans from their beginning on, until each has ended; return them as they ended.

    With `parked`, a plan that can only go on after a human decision counts as ended too.
    """
    with _view(plans, verbose=verbose, as_json=as_json) as shown:
        return Follower(core, shown, parked=parked).until_ended([plan.plan_id for plan in plans])


def _view(plans: Sequence[Plan], *, verbose: bool, as_json: bool) -> AbstractContextManager[View]:
    if as_json:
        return nullcontext(JsonView())
    # the log and a picture that redraws itself would write over each other
    if view.is_terminal(sys.stderr) and not verbose:
        return LiveView(plans)
    return nullcontext(LineView(several=len(plans) > 1))


class Follower:
    """Reads the events of plans in order, each once."""

    def __init__(self, core: Core, shown: View, *, parked: bool) -> None:
        self._core = core
        self._view = shown
        self._parked = parked
        self._seen: dict[str, int] = {}

    def until_ended(self, plan_ids: Sequence[str]) -> Sequence[Plan]:
        """Follow until every plan has ended."""
        ended: dict[str, Plan] = {}
        heard = time.monotonic()
        while True:
            try:
                for plan_id in plan_ids:
                    if plan_id not in ended and (plan := self._look(plan_id)) is not None:
                        ended[plan_id] = plan
                heard = time.monotonic()
            except Unavailable:
                # Postgres may be on its way back; whoever works on the plans waits for it too
                if time.monotonic() - heard > _PATIENCE_S:
                    raise
            if len(ended) == len(plan_ids):
                return [ended[plan_id] for plan_id in plan_ids]
            time.sleep(_POLL_S)

    def _look(self, plan_id: str) -> Plan | None:
        """Show what is new, and return the plan if that was the last of it."""
        with self._core.store.transaction() as tx:
            plan = tx.plan(plan_id)  # before the events: what ended has all of them
            events = tx.events(plan_id, after=self._seen.get(plan_id, 0), limit=_BATCH)
            numbers = {int(str(e.body["step"])) for e in events if "step" in e.body}
            steps = {n: tx.step(StepRef(plan_id, n)) for n in numbers}
            waiting = tx.steps(plan_id) if plan and plan.state is PlanState.WAITING_APPROVAL else ()
        for event in events:
            self._view.take(event, steps.get(int(str(event.body.get("step") or 0))))
            self._seen[plan_id] = event.number
        if plan is None or len(events) == _BATCH:
            return None
        over = plan.state in PLAN_ENDS and self._seen.get(plan_id, 0) >= plan.event_count
        return plan if over or (self._parked and _only_waits(waiting)) else None


def _only_waits(steps: Sequence[Step]) -> bool:
    """Whether nothing of a plan can go on before somebody decides."""
    moving = {StepState.PENDING, StepState.READY, StepState.RUNNING, StepState.RETRYING}
    finished = {StepState.SUCCEEDED, StepState.SKIPPED}
    return bool(steps) and not any(
        s.state in moving or (s.state in finished and not s.settled) for s in steps
    )
