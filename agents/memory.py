"""What earlier plans of the same tenant have found, and how much of it may be used again.

A fact of an earlier plan is shown with where it came from: its plan, its name there, the evidence, the place in it, and
when. It becomes a fact of this plan only if its evidence is still stored and still reads like that at that place, and it
goes on being called by where it came from. It says what was so then; whether it is so now, a new look must tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agents.toolbox import Assignment, CallFailed, Toolbox
from orchestrator.domain.plan import Fact, Json
from orchestrator.domain.report import verified

TOOL: Final = "memory_search"
MOST: Final = 8
"""Facts of earlier plans that a planner is shown."""


@dataclass(frozen=True, slots=True)
class Related:
    """A fact of an earlier plan: the plan's id, the fact's name in it, and since when it is known."""

    plan_id: str
    name: str
    at: str
    fact: Fact

    def as_json(self) -> dict[str, Json]:
        """Where it came from, without what it says: that is its evidence."""
        return {
            "plan_id": self.plan_id,
            "fact": self.name,
            "at": self.at,
            "evidence": self.fact.evidence,
            "start": self.fact.start,
            "end": self.fact.end,
            "locator": self.fact.locator,
        }


def related(assignment: Assignment, toolbox: Toolbox) -> list[Related]:
    """Return facts of earlier plans whose words are those of the goal, the most fitting first.

    None where there is no memory, or it does not answer: nothing depends on it.
    """
    if TOOL not in {card.name for card in toolbox.tools}:
        return []
    try:
        found = toolbox.call(TOOL, query=assignment.goal[:2_000], limit=MOST).content.get("facts")
    except CallFailed:
        return []
    return [
        made
        for item in (found if isinstance(found, list) else [])[:MOST]
        if (made := _related(item)) is not None
    ]


def _related(item: Mapping[str, Any]) -> Related | None:
    try:
        fact = Fact(
            step=int(item["step"]),
            number=int(item["number"]),
            quote=str(item["quote"]),
            evidence=str(item["evidence"]),
            start=int(item["start"]),
            end=int(item["end"]),
            locator=str(item["locator"]),
            title=str(item["title"]),
            heading=tuple(map(str, item["heading"])),
            origin_sha256=str(item["origin_sha256"]),
            question=str(item["question"]),
        )
        return Related(str(item["plan_id"]), fact.name, str(item["at"]), fact)
    except (KeyError, TypeError, ValueError):
        return None


def shown(found: Related) -> Json:
    """Return what a model is told of it."""
    return {
        "question": found.fact.question,
        "quote": found.fact.quote,
        "source": found.fact.locator,
        "at": found.at,
    }


def adopted(assignment: Assignment, toolbox: Toolbox, found: Sequence[Related]) -> list[tuple[Fact, Related]]:
    """Return those as facts of this step whose evidence is still stored and reads like that where they stood."""
    sound = [each for each in found if verified(each.fact, toolbox.evidence(each.fact.evidence))]
    return [(_here(assignment, each.fact, number=n), each) for n, each in enumerate(sound, start=1)]


def _here(assignment: Assignment, fact: Fact, *, number: int) -> Fact:
    return Fact(
        step=assignment.step,
        number=number,
        quote=fact.quote,
        evidence=fact.evidence,
        start=fact.start,
        end=fact.end,
        locator=fact.locator,
        title=fact.title,
        heading=fact.heading,
        origin_sha256=fact.origin_sha256,
        question=fact.question or assignment.goal,
        score=fact.score,
    )
