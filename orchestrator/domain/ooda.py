"""What follows what: the loop as a table of rules, and how deep it goes.

    route ─deep→ plan ─→ observe ×n ─→ orient ─narrow→ observe ×n …            (researcher, keeper)
      └casual→ synthesise                └─enough, or no more rounds, steps, time→ generate → critique → judge
                                                                                    ↑ revise ─────────────┤
                                                                                            accept → synthesise → end

The join after `observe` opens when the last step of the round has been settled, so that it opens once.
At the limit of steps or time nothing new is looked for: what there is gets written, and the plan says `partial`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from orchestrator.domain.budget import WRITING_STEPS
from orchestrator.domain.plan import Agent, Json, NewStep, Plan, PlanState, Step, StepState

CODE_TOOL: Final = "code_run"
"""The tool whose briefs become steps of the code generator; every other brief is a researcher's."""


@dataclass(frozen=True, slots=True)
class DepthProfile:
    """How far a plan of one depth goes.

    `rounds` of observation at most, `fan_out` questions in each, `passages` read and `facts` kept for each
    question, and `revisions` of a draft that the judge sends back.
    """

    rounds: int
    fan_out: int
    passages: int
    facts: int
    revisions: int


DEPTH: Mapping[int, DepthProfile] = {
    1: DepthProfile(rounds=1, fan_out=2, passages=6, facts=4, revisions=0),
    2: DepthProfile(rounds=2, fan_out=4, passages=8, facts=5, revisions=1),
    3: DepthProfile(rounds=3, fan_out=6, passages=10, facts=6, revisions=2),
    4: DepthProfile(rounds=4, fan_out=8, passages=12, facts=8, revisions=2),
    5: DepthProfile(rounds=5, fan_out=12, passages=16, facts=10, revisions=3),
}


@dataclass(frozen=True, slots=True)
class Go:
    """These steps come next; `partial` says that a limit cut something off."""

    steps: tuple[NewStep, ...]
    partial: bool = False


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
    return step.agent.looks


def follow(plan: Plan, finished: Step, steps: Iterable[Step], *, overdue: bool) -> Next:
    """Return what follows a step that succeeded or was skipped.

    `steps` are all steps of the plan, `finished` among them and marked settled; only a join looks at them. `overdue` says that the plan's
    time is up.
    """
    profile = DEPTH[plan.depth]
    match finished.agent:
        case Agent.ROUTER:
            return (
                Go((NewStep(Agent.SYNTHESISER),))
                if finished.verdict == "casual"
                else Go((NewStep(Agent.PLANNER),))
            )
        case Agent.PLANNER:
            return _observe(plan, finished.follow_ups, profile, round_=1, overdue=overdue)
        case Agent.RESEARCHER | Agent.CODER:
            return _join(finished, steps)
        case Agent.KEEPER:
            return _after_keeper(plan, finished, profile, overdue=overdue)
        case Agent.DIVERGER:
            return _observe(plan, finished.follow_ups, profile, round_=finished.round + 1, overdue=overdue)
        case Agent.GENERATOR:
            return Go((NewStep(Agent.CRITIC, finished.round),))
        case Agent.CRITIC:
            return Go((NewStep(Agent.JUDGE, finished.round),))
        case Agent.JUDGE:
            return _after_judge(plan, finished, profile, overdue=overdue)
        case Agent.SYNTHESISER:
            return End(PlanState.SUCCEEDED, partial=plan.partial)


def _observe(
    plan: Plan, briefs: Sequence[Mapping[str, Json]], profile: DepthProfile, *, round_: int, overdue: bool
) -> Go:
    room = 0 if overdue else plan.budget.research_steps_left(plan.spent) - 1  # one is its keeper's
    wanted = briefs[: profile.fan_out]
    taken = wanted[: max(0, room)]
    if not taken:
        return Go((NewStep(Agent.GENERATOR),), partial=bool(wanted))
    steps = tuple(NewStep(_looker(brief), round_, brief) for brief in taken)
    return Go(steps, partial=len(taken) < len(wanted))


def _looker(brief: Mapping[str, Json]) -> Agent:
    return Agent.CODER if brief.get("tool") == CODE_TOOL else Agent.RESEARCHER


def _join(finished: Step, steps: Iterable[Step]) -> Next:
    peers = [s for s in steps if s.agent.looks and s.round == finished.round]
    if not all(s.settled for s in peers):
        return Wait()
    return Go(
        (NewStep(Agent.KEEPER, finished.round),),
        partial=any(s.state is StepState.SKIPPED for s in peers),
    )


def _after_keeper(plan: Plan, keeper: Step, profile: DepthProfile, *, overdue: bool) -> Go:
    if keeper.verdict == "narrow" and keeper.follow_ups and keeper.round < profile.rounds:
        return _observe(plan, keeper.follow_ups, profile, round_=keeper.round + 1, overdue=overdue)
    return Go((NewStep(Agent.GENERATOR),))


def _after_judge(plan: Plan, judge: Step, profile: DepthProfile, *, overdue: bool) -> Go:
    affordable = plan.budget.steps - plan.spent.steps >= WRITING_STEPS and not overdue
    wanted = judge.verdict == "revise" and judge.round < profile.revisions
    if wanted and affordable:
        return Go((NewStep(Agent.GENERATOR, judge.round + 1),))
    return Go((NewStep(Agent.SYNTHESISER, judge.round),), partial=wanted)
