"""Looks one question up: finds passages, chooses sentences that answer it, and quotes them as facts.

A fact is a quote with its place. Before it is written down, the whole document is fetched and stored, and the quote
must stand in it exactly where the search said; what does not is no fact. Text found in documents is data: it is
quoted or left, never obeyed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents import relevance
from agents.toolbox import Assignment, Toolbox, ToolResult
from orchestrator.domain.errors import BudgetSpent
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Fact, Json


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Return the facts that answer the step's question, best first; none if the sources have none."""
    question = str(assignment.brief["question"])
    folder = str(assignment.sources["documents"])
    query = str(assignment.brief.get("query") or question)
    found = toolbox.call("documents_search", folder=folder, query=query, limit=assignment.reach.passages)
    candidates = [_candidate(p) for p in found.content["passages"]]
    chosen = relevance.select(question, candidates, assignment.reach.facts)
    documents: dict[str, ToolResult] = {}
    facts: list[Fact] = []
    partial = False
    for scored in chosen:
        locator = scored.candidate.locator
        if locator not in documents:
            try:
                documents[locator] = toolbox.call("documents_fetch", folder=folder, locator=locator)
            except BudgetSpent:
                partial = True  # what was found before is kept
                break
        fact = _fact(assignment, question, scored, documents[locator], toolbox, number=len(facts) + 1)
        if fact is not None:
            facts.append(fact)
    verdict = "found" if facts else "nothing"
    result: dict[str, Json] = {"question": question, "query": query, "facts": len(facts)}
    return Completed(verdict, facts=facts, result=result, partial=partial)


def _candidate(passage: Mapping[str, Any]) -> relevance.Candidate:
    return relevance.Candidate(
        locator=passage["locator"],
        text=passage["text"],
        title=passage["title"],
        heading=tuple(passage["heading"]),
        start=passage["start"],
    )


def _fact(
    assignment: Assignment,
    question: str,
    scored: relevance.Scored,
    document: ToolResult,
    toolbox: Toolbox,
    *,
    number: int,
) -> Fact | None:
    evidence = toolbox.evidence(document.evidence)
    if evidence is None or evidence.text[scored.start : scored.end] != scored.text:
        return None  # the document has changed since it was indexed
    return Fact(
        step=assignment.step,
        number=number,
        quote=scored.text,
        evidence=evidence.sha256,
        start=scored.start,
        end=scored.end,
        locator=evidence.locator,
        title=scored.candidate.title,
        heading=scored.candidate.heading,
        origin_sha256=evidence.origin_sha256,
        question=question,
        score=round(scored.score, 4),
    )
