"""Decides what a new message is: small talk, an errand for a tool, something to decline, or a question to research.

    casual   nothing but greetings, thanks and farewells           greeted
    utility  nothing but a sum, a conversion or the time of day     a tool answers it at once
    unsafe   asks how to do harm, or for help with it               declined, in a sentence
    deep     everything else, and whatever is in doubt              researched

`kinds` has the rules. A message that speaks of harm without plainly asking for it is doubtful: where there is a model
it is asked, and may then say that the message is what it was suspected to be. It can make nothing else of it, and
without an answer that can be read the message is researched: looking something up needlessly costs little, refusing a
question much.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from agents import asking, kinds
from agents.kinds import Errand, Kind
from agents.toolbox import Assignment, CallFailed, Toolbox, ToolResult
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Fact, Json

PROMPT: Final = "router/1"
TASK: Final = (
    'Name the kind of the message: {{"kind": "{suspected}"}} if it {meaning}, else {{"kind": "deep"}}. '
    'In doubt, "deep". Do not answer the message.'
)
SCHEMA: Final[Mapping[str, Json]] = {
    "type": "object",
    "properties": {"kind": {"type": "string", "enum": ["casual", "unsafe", "deep"]}},
    "required": ["kind"],
    "additionalProperties": False,
}
_MEANING: Final[Mapping[str, str]] = {
    "casual": "is small talk and asks for no information",
    "unsafe": "asks for instructions, means or help to harm people, to break into what is others', or to break the law",
}

DECLINED: Final = (
    "This asks for help with doing harm, so it was not researched. Questions about how such harm is understood, "
    "prevented or regulated are researched as any other."
)
COMFORT: Final = (
    "This sounds as if somebody might be in danger. It was not researched. Please talk to somebody now: the emergency "
    "number or a crisis line of your country, or a person you trust."
)


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Route the goal; an errand is run here, and one that fails or whose tool is not offered is researched."""
    found = kinds.decide(assignment.goal)
    if found.errand is not None:
        ran = _run(assignment, toolbox, found.errand)
        return ran or Completed("deep")
    kind = found.kind
    if found.suspected is not None and toolbox.model:
        kind = _confirmed(toolbox, assignment.goal, found.suspected)
    if kind == "unsafe":
        said = COMFORT if kinds.about_own_life(assignment.goal) else DECLINED
        return Completed("unsafe", result={"declined": said})
    return Completed(kind)


def _confirmed(toolbox: Toolbox, goal: str, suspected: Kind) -> Kind:
    kinds_by_name: Mapping[str, Kind] = {suspected: suspected, "deep": "deep"}

    def read(reply: Mapping[str, Any]) -> Kind | None:
        return kinds_by_name.get(str(reply.get("kind"))) if reply.keys() == {"kind"} else None

    task = TASK.format(suspected=suspected, meaning=_MEANING[suspected])
    try:
        said: Kind | None = asking.ask(
            toolbox, prompt=PROMPT, task=task, data={"message": goal}, read=read, schema=SCHEMA
        )
    except CallFailed:
        return "deep"  # nobody could be asked, which is a doubt like any other
    return "deep" if said is None else said


def _run(assignment: Assignment, toolbox: Toolbox, errand: Errand) -> Completed | None:
    """Return what a tool answered, each of its statements a fact; `None` if there is no such tool, or it failed."""
    if errand.tool not in {card.name for card in toolbox.tools}:
        return None
    try:
        answer = toolbox.call(errand.tool, **errand.inputs)
    except CallFailed:
        return None
    facts = _statements(assignment, toolbox, answer)
    if not facts:
        return None
    return Completed("utility", facts=facts, result={"tool": errand.tool, "inputs": dict(errand.inputs)})


def _statements(assignment: Assignment, toolbox: Toolbox, answer: ToolResult) -> list[Fact]:
    evidence = toolbox.evidence(answer.evidence)
    if evidence is None:
        return []
    facts: list[Fact] = []
    for line in re.finditer(r"\S[^\n]*", evidence.text):
        quote = line[0].rstrip()
        facts.append(
            Fact(
                step=assignment.step,
                number=len(facts) + 1,
                quote=quote,
                evidence=evidence.sha256,
                start=line.start(),
                end=line.start() + len(quote),
                locator=evidence.locator,
                title=evidence.title,
                origin_sha256=evidence.origin_sha256,
                question=assignment.goal,
                score=1.0,
            )
        )
    return facts
