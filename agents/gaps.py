"""Says what a plan could not find out, and why: questions without an answer, and tasks that were never begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.toolbox import AGAINST, Assignment
from orchestrator.domain import ooda
from orchestrator.domain.plan import Step


@dataclass(frozen=True, slots=True)
class Gap:
    """A question without an answer; `why` is empty where it was looked up and nothing was found."""

    question: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.question} ({self.why})" if self.why else self.question


def of(assignment: Assignment) -> Sequence[Gap]:
    """Return the gaps of a plan, each question once, in the order in which they were asked.

    A counter-hypothesis for which nothing was found is none: that nothing speaks against an answer is no gap in it.
    """
    answered = {fact.question for fact in assignment.usable}
    failed = {str(s.brief.get("question")): _failure(s) for s in assignment.steps if s.verdict == "failed"}
    found = {q: Gap(q, failed.get(q, "")) for q in assignment.asked if q not in answered}
    for brief, why in ooda.left_out(assignment.depth, assignment.steps):
        question = str(brief.get("question"))
        if brief.get("side") != AGAINST and question not in answered:
            found.setdefault(question, Gap(question, why))
    return list(found.values())


def _failure(step: Step) -> str:
    result: Mapping[str, Any] = step.result
    # the reason is one of ours; what a tool says of its failure is not repeated
    return ", ".join(f"{one['tool']}: {one['reason']}" for one in result.get("tried", ()))
