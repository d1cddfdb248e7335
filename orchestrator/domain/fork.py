"""Where a plan can be returned to: which steps a new plan takes over as finished, and which it does again.

    old    1 router ✓   2 planner ✓   3 researcher ✓   4 researcher ✗   5 researcher ✓   6 keeper ✓   7 …
    fork from 5:
    new    1 router ✓   2 planner ✓   3 researcher ✓   4 ready          5 ready

Steps that were planned together stand together: same agent, same round; whatever looked for facts in one round is of
one agent here. What a task of that round needs is found before it is done again: one that needs what is done again
follows from it anew. All that was planned before them must have
ended and be settled, for that is what they were planned from; it is taken over under its own numbers, so that facts
keep their names. What was planned later follows anew from what the steps now come to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count

from orchestrator.domain import ooda
from orchestrator.domain.errors import Conflict, NotFound
from orchestrator.domain.plan import Step, StepState


@dataclass(frozen=True, slots=True)
class Branch:
    """What a fork begins with: steps taken over as finished and settled, and steps that are ready, by number."""

    copied: tuple[Step, ...]
    ready: tuple[Step, ...]

    @property
    def looked(self) -> bool:
        """Whether something that was found is taken over, and with it whatever cut the finding short."""
        return any(step.agent.looks for step in self.copied)


def branch(steps: Iterable[Step], from_step: int) -> Branch:
    """Return what a plan of these steps has when it is forked from one of them.

    Raises `NotFound` when there is no such step, and `Conflict` when what came before it has not ended.
    """
    by_number = {step.number: step for step in steps}
    chosen = by_number.get(from_step)
    if chosen is None:
        raise NotFound("step", f"{from_step} in this plan; it has {len(by_number)}")
    peers = [step for step in by_number.values() if _together(step, chosen)]
    before = [step for number, step in by_number.items() if number < min(p.number for p in peers)]
    if not all(_over(step) for step in before) or chosen.state is StepState.PENDING:
        listed = ", ".join(map(str, checkpoints(by_number.values())))
        raise Conflict(
            f"Step {from_step} cannot be returned to, since what comes before it has not ended. "
            f"This plan may be forked from step {listed}."
        )
    kept = [p for p in peers if p.number < from_step and p.state is StepState.SUCCEEDED]
    has = {str(s.brief.get("task")) for s in (*before, *kept)}
    again = [p for p in peers if p not in kept and has.issuperset(ooda.needs(p.brief))]
    copied = tuple(map(_finished, (*before, *kept)))
    return Branch(copied, tuple(_anew(p, number) for p, number in zip(again, _free(copied), strict=False)))


def checkpoints(steps: Iterable[Step]) -> tuple[int, ...]:
    """Return the numbers of the steps that a plan may be forked from, in order."""
    known = sorted(steps, key=lambda step: step.number)
    found = []
    for step in known:
        first = min(other.number for other in known if _together(other, step))
        if step.state is not StepState.PENDING and all(_over(s) for s in known if s.number < first):
            found.append(step.number)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A step that a plan may be forked from: what is reused then, and what is done again at first, by number."""

    step: Step
    reused: tuple[int, ...]
    again: tuple[int, ...]


def listed(steps: Iterable[Step]) -> tuple[Checkpoint, ...]:
    """Return a plan's checkpoints in order, each with what a fork from there takes over."""
    known = {step.number: step for step in steps}
    found = []
    for number in checkpoints(known.values()):
        made = branch(known.values(), number)
        reused, again = (tuple(sorted(s.number for s in part)) for part in (made.copied, made.ready))
        found.append(Checkpoint(known[number], reused, again))
    return tuple(found)


def _together(one: Step, other: Step) -> bool:
    alike = one.agent is other.agent or (one.agent.looks and other.agent.looks)
    return alike and one.round == other.round


def _free(taken: Iterable[Step]) -> Iterator[int]:
    """The numbers from 1 that are not taken, since the steps of a plan are numbered without gaps."""
    numbers = {step.number for step in taken}
    return (number for number in count(1) if number not in numbers)


def _over(step: Step) -> bool:
    return step.state in {StepState.SUCCEEDED, StepState.SKIPPED} and step.settled


def _finished(step: Step) -> Step:
    return replace(step, settled=True, holder=None, leased_until=None, run_after=None)


def _anew(step: Step, number: int) -> Step:
    return Step(step.plan_id, number, step.agent, StepState.READY, step.round, step.brief)
