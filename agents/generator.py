"""Drafts the answer out of the facts: which sentences, in which order, under which headings.

Without a model the draft quotes the facts, best first, under the question that they answer. A model may choose and
order the facts; what it writes itself is only kept where it is a quote, word for word, so a draft cannot say more
than its evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agents import asking
from agents.toolbox import Assignment, Toolbox
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, Fact, Json
from orchestrator.domain.report import plain

PROMPT: Final = "generator/1"
TASK: Final = (
    "Choose the facts that answer the goal, best first, and leave out those that do not: "
    '{"facts": ["F3.1", "F3.2"]}. Use the names given; add none.'
)


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Return a draft: sections of sentences, each with the names of the facts it rests on."""
    facts = _distinct(assignment.usable)
    objected = {str(o["sentence"]) for o in assignment.latest(Agent.CRITIC).get("objections", [])}
    facts = [f for f in facts if plain(f.quote) not in objected]
    if toolbox.model and facts and assignment.round == 0:
        facts = _chosen(assignment, toolbox, facts)
    questions = list(dict.fromkeys(f.question for f in facts))
    sections: list[Json] = [
        {
            "title": "Answer" if len(questions) == 1 else question,
            "sentences": [_sentence(f) for f in facts if f.question == question][: assignment.reach.facts],
        }
        for question in questions
    ]
    return Completed("drafted", result={"sections": sections, "model": toolbox.model})


def _sentence(fact: Fact) -> Json:
    return {"text": plain(fact.quote), "facts": [fact.name]}


def _distinct(facts: Sequence[Fact]) -> list[Fact]:
    """The facts by step and rank, each wording once."""
    ordered = sorted(facts, key=lambda f: (f.step, f.number))
    seen: dict[str, Fact] = {}
    for fact in ordered:
        seen.setdefault(plain(fact.quote).casefold(), fact)
    return list(seen.values())


def _chosen(assignment: Assignment, toolbox: Toolbox, facts: list[Fact]) -> list[Fact]:
    known = {f.name: f for f in facts}
    data = {
        "goal": assignment.goal,
        "facts": [{"name": f.name, "source": f.locator, "quote": plain(f.quote)} for f in facts],
    }

    def read(reply: Mapping[str, Any]) -> list[str] | None:
        names = reply.get("facts")
        return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else None

    names = asking.ask(toolbox, prompt=PROMPT, task=TASK, data=data, read=read)
    chosen = [known[n] for n in dict.fromkeys(names or ()) if n in known]
    return chosen or facts
