"""What follows what: the loop as a table of rules, and how deep it goes.

    route ─deep→ plan ─→ observe ×n ─→ orient ──────────narrow→ observe ×n …          (researcher, keeper)
      │                  ↻ tasks that    ├─first round→ diverge ─→ observe ×n, ×m …    (depth 3 to 5)
      │                    waited        └─enough, or no more rounds, steps, time→ generate → critique → judge
      └else→ synthesise                                                             ↑ revise ─────────────┤
                                                                           accepted, or needs review → synthesise → end

Whatever looks for facts in one round is waited for by its keeper: the join opens when the last step of the round
has been settled, so that it opens once, whoever settles it. A task that names others in `after` becomes a step when
those have found something; one whose others found nothing never does, and `left_out` says why. The counter-hypotheses
of the diverger (`side` against) are observed beside the keeper's narrower questions in the second round, so that
doubting costs a step and no round.
At the limit of steps or time nothing new is looked for: what there is gets written, and the plan says `partial`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from orchestrator.domain import consensus
from orchestrator.domain.budget import WRITING_STEPS
from orchestrator.domain.consensus import Ballot, Decision, Why
from orchestrator.domain.plan import Agent, Json, NewStep, Plan, PlanState, Step, StepState, canonical

Brief: TypeAlias = Mapping[str, Json]
"""A task: its question, and perhaps a name (`task`), a tool, and the names of the tasks that it needs (`after`)."""

EMPTY: Final = frozenset({"nothing", "failed"})
"""The verdicts of a step that left nothing which another task could work on."""

CODE_TOOL: Final = "code_run"
"""The tool whose briefs become steps of the code generator; every other brief is a researcher's."""


@dataclass(frozen=True, slots=True)
class DepthProfile:
    """How far a plan of one depth goes.

    `rounds` of observation at most, `fan_out` questions in each, `passages` read and `facts` kept for each
    question, and `revisions` of a draft that the judge sends back. `divergence` counter-hypotheses are looked up
    after the first round. A question is settled by facts from `sources` different documents; by fewer only when no
    other search finds one.
    """

    rounds: int
    fan_out: int
    passages: int
    facts: int
    revisions: int
    divergence: int
    sources: int


DEPTH: Mapping[int, DepthProfile] = {
    1: DepthProfile(rounds=1, fan_out=2, passages=6, facts=4, revisions=0, divergence=0, sources=1),
    2: DepthProfile(rounds=2, fan_out=4, passages=8, facts=5, revisions=1, divergence=0, sources=1),
    3: DepthProfile(rounds=3, fan_out=6, passages=10, facts=6, revisions=2, divergence=2, sources=2),
    4: DepthProfile(rounds=4, fan_out=8, passages=12, facts=8, revisions=2, divergence=3, sources=2),
    5: DepthProfile(rounds=5, fan_out=12, passages=16, facts=10, revisions=3, divergence=4, sources=3),
}


ANSWERED_AT_ONCE: Final = frozenset({"casual", "utility", "unsafe"})
"""The router's verdicts after which nothing is researched: small talk, what a tool has answered, what is declined."""


@dataclass(frozen=True, slots=True)
class Go:
    """These steps come next; `partial` says that a limit cut something off, `ballot` what became of a draft."""

    steps: tuple[NewStep, ...]
    partial: bool = False
    ballot: Ballot | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Other steps of the round are not settled yet."""


@dataclass(frozen=True, slots=True)
class End:
    """The plan has come to its end."""

    state: PlanState
    partial: bool = False


Next: TypeAlias = Go | Wait | End


def first() -> NewStep:
    """The step every plan begins with."""
    return NewStep(Agent.ROUTER)


def joins(step: Step) -> bool:
    """Whether what follows a step depends on its peers, so that `follow` must be given all steps of the plan."""
    if step.agent is Agent.KEEPER:
        return any(needs(brief) for brief in step.follow_ups)
    return step.agent.looks or step.agent is Agent.DIVERGER


def follow(plan: Plan, finished: Step, steps: Iterable[Step], *, overdue: bool) -> Next:
    """Return what follows a step that succeeded or was skipped.

    `steps` are all steps of the plan, `finished` among them and marked settled; only a join looks at them. `overdue` says that the plan's
    time is up.
    """
    profile = DEPTH[plan.depth]
    match finished.agent:
        case Agent.ROUTER:
            next_ = Agent.SYNTHESISER if finished.verdict in ANSWERED_AT_ONCE else Agent.PLANNER
            return Go((NewStep(next_),))
        case Agent.PLANNER:
            return _observe(plan, finished.follow_ups[: profile.fan_out], (), round_=1, overdue=overdue)
        case Agent.RESEARCHER | Agent.CODER:
            return _join(plan, finished, tuple(steps), overdue=overdue)
        case Agent.KEEPER:
            return _after_keeper(plan, finished, tuple(steps), profile, overdue=overdue)
        case Agent.DIVERGER:
            known, round_ = tuple(steps), finished.round + 1
            return _observe(plan, _asked(plan.depth, known, round_), known, round_=round_, overdue=overdue)
        case Agent.GENERATOR:
            return Go((NewStep(Agent.CRITIC, finished.round),))
        case Agent.CRITIC:
            return Go((NewStep(Agent.JUDGE, finished.round),))
        case Agent.JUDGE:
            return _after_judge(plan, finished, profile, overdue=overdue)
        case Agent.SYNTHESISER:
            return End(PlanState.SUCCEEDED, partial=plan.partial)


def _observe(plan: Plan, wanted: Sequence[Brief], steps: Sequence[Step], *, round_: int, overdue: bool) -> Go:
    ready = [brief for brief in wanted if not _missing(brief, steps)]
    taken = ready[: _room(plan, overdue=overdue)]
    if not taken:
        return Go((NewStep(Agent.GENERATOR),), partial=bool(ready))
    return Go(tuple(_looking(brief, round_) for brief in taken), partial=len(taken) < len(ready))


def _room(plan: Plan, *, overdue: bool) -> int:
    """How many more steps may look for facts; one is their keeper's."""
    return 0 if overdue else max(0, plan.budget.research_steps_left(plan.spent) - 1)


def _looking(brief: Brief, round_: int) -> NewStep:
    return NewStep(Agent.CODER if brief.get("tool") == CODE_TOOL else Agent.RESEARCHER, round_, brief)


def _join(plan: Plan, finished: Step, steps: Sequence[Step], *, overdue: bool) -> Next:
    peers = [s for s in steps if s.agent.looks and s.round == finished.round]
    ready = [brief for brief in _waiting(plan.depth, steps, finished.round) if not _missing(brief, steps)]
    taken = ready[: _room(plan, overdue=overdue)]
    if taken:
        return Go(tuple(_looking(brief, finished.round) for brief in taken))
    if not all(s.settled for s in peers):
        return Wait()
    return Go(
        (NewStep(Agent.KEEPER, finished.round),),
        partial=any(s.state is StepState.SKIPPED for s in peers) or bool(ready),
    )


def _after_keeper(
    plan: Plan, keeper: Step, steps: Sequence[Step], profile: DepthProfile, *, overdue: bool
) -> Go:
    doubts = bool(profile.divergence) and keeper.round == 1
    if doubts and _room(plan, overdue=overdue) > 1:  # itself, and something to look up
        return Go((NewStep(Agent.DIVERGER, keeper.round),))
    if keeper.verdict == "narrow" and keeper.follow_ups and keeper.round < profile.rounds:
        wanted = keeper.follow_ups[: profile.fan_out]
        going = _observe(plan, wanted, steps, round_=keeper.round + 1, overdue=overdue)
        return Go(going.steps, partial=going.partial or doubts)
    return Go((NewStep(Agent.GENERATOR),), partial=doubts)


# --- tasks that need others -----------------------------------------------------------------------------------


def left_out(depth: int, steps: Iterable[Step]) -> Sequence[tuple[Brief, str]]:
    """Return the tasks of a plan of this depth that never became a step, each with the reason in a sentence.

    Tasks whose round is not over are not among them.
    """
    known = tuple(steps)
    over = {s.round for s in known if s.agent is Agent.KEEPER}
    if any(s.agent is Agent.GENERATOR for s in known):
        over |= set(range(1, DEPTH[depth].rounds + 1))
    found = [brief for round_ in sorted(over) for brief in _unbegun(depth, known, round_)]
    done = {str(s.brief.get("task")) for s in known if s.agent.looks and _found(s)}
    return [(brief, _why_not(brief, known)) for brief in found if str(brief.get("task")) not in done]


def _why_not(brief: Brief, steps: Sequence[Step]) -> str:
    missing = _missing(brief, steps)
    if not missing:
        return "A limit of the plan left no room for it."
    tried = {str(s.brief.get("task")) for s in steps if s.agent.looks}
    empty = [task for task in missing if task in tried]
    if empty:
        return f"It needs what {_listed(empty)} was to find, and nothing was found."
    return f"It needs {_listed(missing)}, which was not looked up either."


def _listed(tasks: Sequence[str]) -> str:
    return " and ".join(tasks)


def _asked(depth: int, steps: Sequence[Step], round_: int) -> Sequence[Brief]:
    """What was to be looked up in a round: by the planner, later by the keeper and the diverger before it."""
    profile = DEPTH[depth]
    found: list[Brief] = []
    for step in steps:
        if step.agent is Agent.PLANNER and round_ == 1:
            found += step.follow_ups[: profile.fan_out]
        if step.agent is Agent.KEEPER and step.round + 1 == round_ and step.verdict == "narrow":
            found += step.follow_ups[: profile.fan_out]
        if step.agent is Agent.DIVERGER and step.round + 1 == round_:
            found += step.follow_ups[: profile.divergence]
    return found


def _waiting(depth: int, steps: Sequence[Step], round_: int) -> Sequence[Brief]:
    """The tasks of a round that need others and are not steps yet."""
    if not any(needs(brief) for brief in _asked(depth, steps, round_)):
        return ()  # as in most plans, for which nothing need be compared
    return [brief for brief in _unbegun(depth, steps, round_) if needs(brief)]


def _unbegun(depth: int, steps: Sequence[Step], round_: int) -> Sequence[Brief]:
    begun = {canonical(s.brief) for s in steps if s.agent.looks and s.round == round_}
    return [brief for brief in _asked(depth, steps, round_) if canonical(brief) not in begun]


def _missing(brief: Brief, steps: Sequence[Step]) -> Sequence[str]:
    """The tasks that a brief needs and that have not found anything."""
    needed = needs(brief)
    if not needed:
        return ()
    done = {str(s.brief.get("task")) for s in steps if s.agent.looks and _found(s)}
    return [task for task in needed if task not in done]


def needs(brief: Brief) -> Sequence[str]:
    """Return the names of the tasks that must have found something before this one is begun."""
    named = brief.get("after")
    return (
        ()
        if named is None or isinstance(named, str) or not isinstance(named, Sequence)
        else [*map(str, named)]
    )


def _found(step: Step) -> bool:
    return step.settled and step.state is StepState.SUCCEEDED and step.verdict not in EMPTY


# --- drafts ---------------------------------------------------------------------------------------------------


def _after_judge(plan: Plan, judge: Step, profile: DepthProfile, *, overdue: bool) -> Go:
    affordable = plan.budget.steps - plan.spent.steps >= WRITING_STEPS and not overdue
    most = consensus.rounds(plan.metadata, profile.revisions + 1)
    ballot = consensus.cast(judge, most=most, affordable=affordable)
    if ballot.decided is Decision.REVISE:
        return Go((NewStep(Agent.GENERATOR, judge.round + 1),), ballot=ballot)
    return Go((NewStep(Agent.SYNTHESISER, judge.round),), partial=ballot.why is Why.BUDGET, ballot=ballot)
