"""A conversation: turns about what was found, and how an answer is put into one.

    user       1  What is a lighthouse?        assistant  2  new_topic   a plan, and later its answer
    user       3  How tall is it?              assistant  4  follow_up   from the facts of that plan, or a new plan
    user       5  No, only for Europe.         assistant  6  revise      a fork of that plan

Turns come in pairs, numbered from 1. An assistant's turn that has no answer yet waits for its plan. A conversation is its
owner's: neither another tenant nor another person of the same tenant finds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from orchestrator.domain.plan import DEPTHS, Agent, Fact, Json, Plan, Step, StepState

MOST_TURNS: Final = 1_000
"""Turns that a conversation may have; whoever wants more begins another."""

DEEPEST: Final = DEPTHS[-1]

GREETING: Final = "Hello. Ask a question, and the answer will be looked for in the documents."
"""What small talk is answered with: nothing is claimed, so nothing needs a citation."""

NOT_FOUND: Final = "Not found in the sources."

DECLINED: Final = "This was not researched."

RECALLED: Final = "From what was found earlier in this conversation; nothing was looked up anew."


class Route(StrEnum):
    """What a message wants, and so what is done about it."""

    CASUAL = "casual"
    FOLLOW_UP = "follow_up"
    REVISE = "revise"
    DEEPER = "deeper"
    NEW_TOPIC = "new_topic"


class Role(StrEnum):
    """Who speaks in a turn."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as it is kept: whose it is, how many turns it has, and the plan that it last spoke about."""

    conversation_id: str
    tenant: str
    owner: str
    created_at: datetime
    turns: int = 0
    last_plan_id: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn. An assistant's says which `route` the message took, what `goal` was meant, and the plan that answers it.

    `answer` is what stands beside its content (citations, confidence, …), and `None` until there is one.
    """

    conversation_id: str
    number: int
    role: Role
    content: str
    at: datetime
    route: Route | None = None
    goal: str = ""
    plan_id: str | None = None
    answer: Mapping[str, Json] | None = None

    @property
    def waits(self) -> bool:
        """Whether its answer is still to come."""
        return self.role is Role.ASSISTANT and self.answer is None


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message and what becomes of it, as they are written: the user's turn `number`, and the answer's after it."""

    conversation: Conversation
    number: int
    message: str
    route: Route
    goal: str
    plan_id: str | None = None
    reply: str = ""
    answer: Mapping[str, Json] | None = None
    key: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Before:
    """What a message may refer to: what was last asked and meant, how deeply it was researched, and what was found."""

    goal: str
    depth: int
    quotes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Understood:
    """What a message means: its route, the question in full, and for a revision whether only the form is to change.

    `sure` says that a rule decided, and not the lack of one.
    """

    route: Route
    goal: str
    form_only: bool = False
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Kept:
    """A fact of an earlier plan, and the plan that found it."""

    plan_id: str
    fact: Fact


@dataclass(frozen=True, slots=True)
class Recalled:
    """Kept facts that answer a question, best first, and which share of it (0.0 to 1.0) they cover."""

    found: Sequence[Kept] = ()
    coverage: float = 0.0


def revised_from(steps: Sequence[Step], *, form_only: bool) -> int | None:
    """Return the step from which a revision does a plan again, or `None` where it must begin at the beginning.

    Where only the form is to change, what was found stands and the draft is made again; where the question changes, it
    is planned anew.
    """
    agent = Agent.GENERATOR if form_only else Agent.PLANNER
    over = {StepState.SUCCEEDED, StepState.SKIPPED}
    return min((s.number for s in steps if s.agent is agent and s.state in over), default=None)


def spoken(report: Mapping[str, Any]) -> str:
    """Return a report as a message: its sentences with the numbers of their citations, and what is missing."""
    lines: list[str] = []
    many = len(report["sections"]) > 1
    for section in report["sections"]:
        if many:
            lines.append(f"{section['title']}")
        lines += [_marked(sentence) for sentence in section["sentences"]]
    for dispute in report.get("contradictions") or ():
        sides = " — ".join(_marked(side) for side in dispute["sides"])
        lines.append(f"The sources contradict each other: {sides}")
    if not lines:
        lines.append(_empty(report))
    elif report.get("gaps"):
        lines.append(f"{NOT_FOUND[:-1]}: {' '.join(gaps(report))}")
    if report["verdict"] == "needs_review":
        lines.insert(0, "Needs review: the judge did not accept this answer; a person should read it.")
    if report.get("partial"):
        lines.insert(0, "Partial: a limit of its budget cut the research short.")
    return "\n".join(lines)


def _marked(sentence: Mapping[str, Any]) -> str:
    marks = "".join(f"[{n}]" for n in sentence["citations"])
    return f"{sentence['text']} {marks}".rstrip()


def _empty(report: Mapping[str, Any]) -> str:
    match report["verdict"]:
        case "casual":
            return GREETING
        case "declined":
            return str(next(iter(report.get("notes") or ()), DECLINED))
        case _:
            return NOT_FOUND


def gaps(report: Mapping[str, Any]) -> list[str]:
    """Return the questions that a report leaves open; some reports say why beside each."""
    return [str(gap["question"] if isinstance(gap, Mapping) else gap) for gap in report.get("gaps") or ()]


def answer_of(
    report: Mapping[str, Any], *, plan_ids: Mapping[int, str], notes: Sequence[str] = ()
) -> dict[str, Json]:
    """Return what stands beside the content of an answer; `plan_ids` says which plan found each citation."""
    citations = [{**c, "plan_id": plan_ids.get(c["number"], "")} for c in report["citations"]]
    return {
        "verdict": report["verdict"],
        "citations": citations,
        "facts_used": len(citations),
        "confidence": report["confidence"],
        "partial": bool(report["partial"]),
        "gaps": gaps(report),
        "notes": [*(report.get("notes") or ()), *notes],
    }


def plain_answer(verdict: str, *, notes: Sequence[str] = ()) -> dict[str, Json]:
    """Return what stands beside an answer that claims nothing."""
    return {
        "verdict": verdict,
        "citations": [],
        "facts_used": 0,
        "confidence": 0.0,
        "partial": False,
        "gaps": [],
        "notes": list(notes),
    }


def failed(plan: Plan) -> str:
    """Return what is said about a plan that ended without a report."""
    why = f" {plan.reason}" if plan.reason else ""
    return f"This could not be answered: its research is {plan.state.replace('_', ' ')}.{why}"
