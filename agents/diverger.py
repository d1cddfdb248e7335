"""Thinks of what would speak against what was found, so that it is looked for as well.

Without a model the doubts are templates over what was asked: limits and exceptions, a later state of things, known
problems, other voices. A model may put better ones. Either way they are questions, looked up like any other, and
what comes back is quoted like any other; the diverger itself says nothing about the subject.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from agents import asking
from agents.toolbox import AGAINST, Assignment, Toolbox
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Json
from orchestrator.domain.report import plain

PROMPT: Final = "diverger/1"
TASK: Final = (
    "Here are a goal, the questions asked for it, and what was found. Ask at most {limit} short questions whose answers "
    'in documents would refute, limit or outdate it: {{"questions": ["…"]}}. Do not answer them, and ask nothing that '
    "was asked before."
)

DOUBTS: Final = (
    ("Which limits or exceptions apply to {}?", "{} except exception limit unless"),
    ("Is {} deprecated, superseded or outdated?", "{} deprecated superseded outdated obsolete removed"),
    ("Which problems or risks of {} are known?", "{} problem risk warning fail error"),
    ("What contradicts {}?", "{} however contrary disputed differ incorrect"),
)
"""Questions against a subject, most fruitful first, each with the words to search for."""

_Doubt: TypeAlias = tuple[str, str, str]
"""A question, the words to search for, and what the answer must be about."""

_SHOWN: Final = 20
_LONGEST: Final = 300
_ASKING: Final = re.compile(
    r"^(?:please\s+)?(?:(?:what|which|who|whom|whose|when|where|why|how)\b(?:\s+(?:many|much|long|far|often))?"
    r"|compare|contrast|explain|describe|define|research|summari[sz]e|investigate|find out|tell me(?:\s+about)?)?"
    r"\s*(?:(?:is|are|was|were|does|do|did|has|have|had|can|could|will|would|should)\b\s*)?",
    re.IGNORECASE,
)
_SAID_ABOUT: Final = re.compile(
    r"^(?:.+?\s)?(?:says?|said|tells?|told)\s+(?:us\s+|me\s+)?about\s+", re.IGNORECASE
)
"""What does the contract say about notice periods: the notice periods are doubted, not what is said."""


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Return counter-hypotheses to look up, as many as the depth allows; none where nothing was found to doubt."""
    facts = assignment.usable
    if not facts:
        return Completed("nothing", result={"hypotheses": []})
    put = {str(s.brief.get("question")).casefold() for s in assignment.steps if s.agent.looks}
    doubts = _proposed(assignment, toolbox) if toolbox.model else []
    briefs: list[Mapping[str, Json]] = []
    for question, query, about in (*doubts, *_doubts(assignment)):
        if len(briefs) < assignment.reach.divergence and question.casefold() not in put:
            put.add(question.casefold())
            briefs.append({"question": question, "query": query, "side": AGAINST, "about": about})
    result: dict[str, Json] = {"hypotheses": [brief["question"] for brief in briefs]}
    return Completed("diverged" if briefs else "nothing", follow_ups=briefs, result=result)


def _doubts(assignment: Assignment) -> Iterator[_Doubt]:
    """Each template, the parts of the goal taking turns, so that both sides of a comparison are doubted."""
    asked = assignment.asked or [assignment.goal]
    parts = [q for q in asked if q != assignment.goal] or asked
    for turn in range(len(parts)):
        for at, (question, query) in enumerate(DOUBTS):
            about = parts[(at + turn) % len(parts)]
            yield _put(question, subject(about)), _put(query, subject(about)), about


def _put(template: str, about: str) -> str:
    return template.replace("{}", about)


def subject(question: str) -> str:
    """Return what a question is about: what is left without the words that ask."""
    asked = " ".join(question.split()).strip(" .?!？؟")
    left = _ASKING.sub("", asked, count=1).strip()
    return _SAID_ABOUT.sub("", left, count=1) or asked


def _proposed(assignment: Assignment, toolbox: Toolbox) -> list[_Doubt]:
    data = {
        "goal": assignment.goal,
        "questions": list(assignment.asked),
        "found": [plain(fact.quote) for fact in assignment.usable[:_SHOWN]],
    }
    task = TASK.format(limit=assignment.reach.divergence)
    return [
        (q, q, q) for q in asking.ask(toolbox, prompt=PROMPT, task=task, data=data, read=_questions) or ()
    ]


def _questions(reply: Mapping[str, Any]) -> list[str] | None:
    questions = reply.get("questions")
    if not isinstance(questions, list) or not all(isinstance(q, str) for q in questions):
        return None
    # it is printed above what answers it: it must ask, so that it cannot state anything
    asked = [" ".join(q.split()) for q in questions]
    return [q for q in asked if len(q) <= _LONGEST and q.isprintable() and q.endswith(("?", "？", "؟"))]
