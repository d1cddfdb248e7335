"""Looks for what is wrong with a draft, sentence by sentence, in the evidence itself."""

from __future__ import annotations

from typing import Any

from agents.toolbox import Assignment, Toolbox
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, Json
from orchestrator.domain.report import supports, verified


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Return an objection for each sentence that its evidence does not bear out."""
    facts = assignment.by_name()
    objections: list[Json] = []
    sentences = [
        s for section in assignment.latest(Agent.GENERATOR).get("sections", []) for s in section["sentences"]
    ]
    for sentence in sentences:
        why = _objection(sentence, facts, toolbox)
        if why is not None:
            objections.append({"sentence": sentence["text"], "why": why})
    return Completed("critiqued", result={"objections": objections, "sentences": len(sentences)})


def _objection(sentence: Any, facts: Any, toolbox: Toolbox) -> str | None:
    cited = [facts[name] for name in sentence["facts"] if name in facts]
    if not cited:
        return "It rests on no recorded fact."
    sound = [f for f in cited if verified(f, toolbox.evidence(f.evidence))]
    if not sound:
        return "The evidence does not read as quoted."
    if not supports(sentence["text"], [f.quote for f in sound]):
        return "It says something else than the quotes it cites."
    return None
