"""Turns a goal into questions that can be looked up, after making sure that there are documents to look in.

Without a model the goal is split by templates: several questions become several; a comparison becomes one question
for each thing compared, since the sources of one rarely speak of the other. A model may propose more; it cannot take
the goal itself away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from agents import asking
from agents.toolbox import Assignment, Toolbox
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Json

_MARKS = re.compile(r"[?？؟]+")
_COMPARED = re.compile(
    r"^(?:please\s+)?(?:compare|contrast)\s+(?P<things>.+?)(?:\s+(?:on|by|in terms of|with respect to|regarding)\s+(?P<on>.+?))?$"
    r"|^(?P<ask>what (?:is|are) the (?:main )?differences?|how do(?:es)?)\s*(?:between\s+)?(?P<these>.+?)\s*(?P<how>differ|compare)?$",
    re.IGNORECASE,
)
_WHICH_OF = re.compile(
    r"^(?:which|who) of (?P<things>.+?) (?P<rest>(?:has|have|is|are|was|were|had)\s+.+?)$",
    re.IGNORECASE,
)
_AND = re.compile(r"\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or|versus|vs\.?|with|to)\s+", re.IGNORECASE)
_LONGEST_NAME: Final = 80
_LONGEST_QUESTION: Final = 300

PROMPT: Final = "planner/1"
TASK: Final = (
    'Split the goal into at most {limit} short questions that documents could answer: {{"questions": ["…"]}}. '
    "Do not answer them."
)


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Index the documents and return the questions to look up, the goal itself first."""
    folder = assignment.sources.get("documents")
    if not folder:
        return Completed("planned", result={"questions": [], "note": "No documents were given to search."})
    index = toolbox.call("documents_index", folder=folder).content
    questions = decompose(assignment.goal)
    if toolbox.model:
        questions = _merged(questions, _proposed(assignment, toolbox))
    left_out = [q for q in decompose(assignment.goal) if q not in questions[: assignment.reach.fan_out]]
    questions = questions[: assignment.reach.fan_out]
    result: dict[str, Json] = {
        "questions": questions,
        "documents": index["documents"],
        "passages": index["passages"],
        "skipped": index["skipped"],
        "fingerprint": index["fingerprint"],
        "left_out": left_out,
    }
    return Completed("planned", follow_ups=[{"question": q, "query": q} for q in questions], result=result)


def decompose(goal: str) -> list[str]:
    """Return the questions in a goal; one that has no parts is its own only question."""
    asked = _split(goal)
    if len(asked) > 1:
        return _merged([], [part for q in asked for part in decompose(q)])
    return _merged([goal], _compared(goal.rstrip(" .?!")))


def _split(goal: str) -> list[str]:
    parts, begun = [], 0
    for marks in _MARKS.finditer(goal):
        if _ends_a_question(goal, marks):
            parts.append(goal[begun : marks.end()].strip())
            begun = marks.end()
    parts.append(goal[begun:].strip())
    return [part for part in parts if any(c.isalnum() for c in part)]


def _ends_a_question(goal: str, marks: re.Match[str]) -> bool:
    """Tell the mark after a question from one that it is about: "What does a ?? b mean" is one question."""
    if marks[0].strip("?") or marks.end() == len(goal):
        return True
    after = goal[marks.end() :].lstrip()[:1]
    if not goal[marks.end()].isspace():
        return after.isalpha() and not after.isascii()
    attached = marks.start() > 0 and not goal[marks.start() - 1].isspace()
    return attached or (len(marks[0]) == 1 and after.isupper())


def _compared(goal: str) -> list[str]:
    which = _WHICH_OF.match(goal)
    if which:
        return [f"{name} {which['rest']}" for name in _names(which["things"])]
    match = _COMPARED.match(goal)
    if not match:
        return []
    if match["ask"] and not match["how"] and "between" not in goal.casefold():
        return []
    names = _names(match["things"] or match["these"] or "")
    return [f"{match['on']} of {name}" if match["on"] else f"What is {name}?" for name in names]


def _names(things: str) -> list[str]:
    names = [name.strip(" .?!") for name in _AND.split(things)]
    fitting = [name for name in names if name and len(name) <= _LONGEST_NAME]
    return fitting if len(fitting) == len(names) and len(names) > 1 else []


def _proposed(assignment: Assignment, toolbox: Toolbox) -> list[str]:
    task = TASK.format(limit=assignment.reach.fan_out)
    return (
        asking.ask(toolbox, prompt=PROMPT, task=task, data={"goal": assignment.goal}, read=_questions) or []
    )


def _questions(reply: Mapping[str, Any]) -> list[str] | None:
    questions = reply.get("questions")
    if not isinstance(questions, list) or not all(isinstance(q, str) for q in questions):
        return None
    # a proposal is printed above what answers it: it must ask, so that it cannot state anything
    asked = [" ".join(q.split()) for q in questions]
    return [
        q for q in asked if len(q) <= _LONGEST_QUESTION and q.isprintable() and q.endswith(("?", "？", "؟"))
    ]


def _merged(first: list[str], more: list[str]) -> list[str]:
    seen: dict[str, str] = {}
    for question in (*first, *more):
        seen.setdefault(question.casefold(), question)
    return list(seen.values())
