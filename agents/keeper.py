"""Decides whether enough is known: every question answered, nothing new to try, or a narrower look to take.

Sufficient means that each question has a fact, not that the facts agree. A question that came back empty is asked
again with other words, never with the same: what was tried is remembered in the steps.
"""

from __future__ import annotations

from collections.abc import Mapping

from agents import terms
from agents.toolbox import Assignment, Toolbox
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, Json


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:  # noqa: ARG001 - rules suffice here
    """Return `sufficient`, `narrow` with what to look up next, or `exhausted`."""
    asked = [s for s in assignment.steps if s.agent is Agent.RESEARCHER]
    questions = list(dict.fromkeys(str(s.brief["question"]) for s in asked))
    answered = {fact.question for fact in assignment.facts}
    open_questions = [q for q in questions if q not in answered]
    tried = {str(s.brief.get("query") or "").casefold() for s in asked}
    result: dict[str, Json] = {"answered": len(questions) - len(open_questions), "open": open_questions}
    if not open_questions:
        return Completed("sufficient", result=result)
    narrowed: list[Mapping[str, Json]] = []
    for question in open_questions:
        query = _another(question, tried)
        if query is not None:
            tried.add(query.casefold())
            narrowed.append({"question": question, "query": query})
    if not narrowed:
        return Completed("exhausted", result=result)
    return Completed("narrow", follow_ups=narrowed, result=result)


def _another(question: str, tried: set[str]) -> str | None:
    """Words of the question that were not tried alone: first without its commonest words, then its longest only."""
    words = list(dict.fromkeys(term.phrase for term in terms.asked(question) if not term.key.startswith("=")))
    longest = sorted(words, key=len, reverse=True)
    for some in (words, longest[:3], longest[:2], longest[:1]):
        query = " ".join(some)
        if query and query.casefold() not in tried:
            return query
    return None
