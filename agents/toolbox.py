"""The only way from a mind to the world: tools and models behind the gate, and the evidence they left.

A mind is given an `Assignment` and a `Toolbox`, and returns what it came to. It holds no state, opens nothing and
knows no network: what it did can be replayed from the journal, and what it may do is decided outside of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from orchestrator.domain.ooda import DEPTH, DepthProfile
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, Evidence, Fact, Json, Step, StepState
from orchestrator.prompts import PLAIN, Prompts


class CallRefused(Exception):
    """Policy said no, and trying again cannot mend it: a mind lets it pass, and its plan is rejected."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class CallFailed(Exception):
    """The call did not happen or did not succeed; trying again, or another tool, may help."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    @property
    def withheld(self) -> bool:
        """Whether the tool was not asked: it is held back for a while, which another tool must not get around."""
        return self.reason in _WITHHELD


_WITHHELD: Final = frozenset({"policy_unavailable", "stopped", "schema_changed", "evidence_missing"})


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered: its structured content, and the digest under which it is stored as evidence."""

    content: Mapping[str, Any]
    evidence: str


@dataclass(frozen=True, slots=True)
class ToolCard:
    """What a planner may know of a tool, in the words of the registry and never in those of its server.

    It is found by its `keywords`; `weights` says which of them count for more or less than 1, and `weight` how much the
    tool as a whole does. One that is not `planned` is called by minds of their own accord, and belongs into no plan.
    `asks` is the input that takes a question as it is (or, where it is `url`, an address); without it only a model can
    plan a call. `fallbacks` are tools that could stand in.
    """

    name: str
    description: str = ""
    keywords: tuple[str, ...] = ()
    weight: float = 1.0
    capability: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    planned: bool = True
    asks: str = ""
    fallbacks: tuple[str, ...] = ()


class Toolbox(Protocol):
    """Tools, behind the gate. Every call is decided, journalled and audited; a repeat costs nothing."""

    @property
    def model(self) -> str:
        """The name of the configured language model; empty when there is none."""
        ...

    @property
    def charter(self) -> str:
        """Who the agent is and what it must keep to, as its profile tells its model; empty without a profile."""
        ...

    @property
    def tools(self) -> Sequence[ToolCard]:
        """The tools that are offered and that this agent may call, in the registry's order.

        A planner is shown those as well that the agents may call who carry out what it plans.
        """
        ...

    def call(self, tool: str, **arguments: Json) -> ToolResult:
        """Call a tool; raises `CallRefused`, `CallFailed`, or `BudgetSpent`.

        What else it raises (a person must decide, the claim is lost) is not a mind's to catch.
        """
        ...

    def evidence(self, sha256: str) -> Evidence | None:
        """A stored source."""
        ...


AGAINST: Final = "against"
"""The `side` of a brief that looks for what would speak against the facts found so far."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a mind is asked to do, and what is known so far."""

    goal: str
    depth: int
    agent: Agent
    round: int
    step: int
    brief: Mapping[str, Json]
    sources: Mapping[str, Json]
    partial: bool
    steps: Sequence[Step]
    facts: Sequence[Fact]
    prompts: Prompts = PLAIN
    """Who agents speak as, by domain; `agents.personas.persona` chooses."""
    room: int = 2**31
    """How many more steps may look for facts, as far as the budget goes."""

    @property
    def reach(self) -> DepthProfile:
        """How far this plan goes."""
        return DEPTH[self.depth]

    def latest(self, agent: Agent) -> Mapping[str, Any]:
        """What that agent last came to in this plan; empty if it has not finished a step."""
        done = self.finished(agent)
        return done[-1].result if done else {}

    def finished(self, agent: Agent) -> Sequence[Step]:
        """The steps of that agent that succeeded, in order."""
        return [s for s in self.steps if s.agent is agent and s.state is StepState.SUCCEEDED]

    @property
    def most_sources(self) -> int | None:
        """How many different documents the plan may quote; `None` where nobody said."""
        most = self.sources.get("max_sources")
        return most if isinstance(most, int) and not isinstance(most, bool) and most > 0 else None

    @property
    def last_attempt(self) -> bool:
        """Whether the step will not be tried again."""
        return any(s.number == self.step and s.attempt >= s.max_attempts for s in self.steps)

    @property
    def asked(self) -> Sequence[str]:
        """The questions that were looked up for the goal, each once; a counter-hypothesis is not one of them."""
        looked = [s.brief for s in self.steps if s.agent.looks and s.brief.get("side") != AGAINST]
        return list(dict.fromkeys(str(brief["question"]) for brief in looked if "question" in brief))

    @property
    def usable(self) -> Sequence[Fact]:
        """The facts that a draft may rest on: all but those that the keeper set aside."""
        aside = {str(one["fact"]) for one in self.latest(Agent.KEEPER).get("aside", ())}
        return [fact for fact in self.facts if fact.name not in aside]

    def by_name(self) -> Mapping[str, Fact]:
        """The plan's facts by the names that drafts use."""
        return {fact.name: fact for fact in self.facts}


class Mind(Protocol):
    """What an agent thinks with."""

    def __call__(self, assignment: Assignment, toolbox: Toolbox) -> Completed:
        """Return what the assignment came to; raise what the toolbox raises."""
        ...
