"""Drafts the answer out of the facts: which sentences, in which order, under which headings.

Without a model the draft quotes the facts, best first, under the question that they answer. A model writes sentences
of its own; each must name the facts that it rests on, and one that names none that exist is left out. What the critic
objected to in the round before goes into the prompt. The draft keeps what was written: whether the facts say it is
for the critic to find out, and the report prints nothing but their words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agents import asking, personas
from agents.portions import portions
from agents.toolbox import Assignment, Toolbox
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, Fact, Json
from orchestrator.domain.report import plain

PROMPT: Final = "generator/2"
TASK: Final = (
    "Answer the goal from the facts, and from nothing else. Write short sentences; each says what the quotes of the "
    "facts that it names say, with their numbers, names, dates, units and conditions, and nothing more. Leave out facts "
    "that do not help to answer; show disagreement as disagreement. Where objections are given, mend what they object "
    'to, or leave it out. Answer {"sentences": [{"text": "…", "facts": ["F3.1"]}]} with the names given; add none.'
)
SCHEMA: Final[Mapping[str, Json]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["sentences"],
    "properties": {
        "sentences": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["text", "facts"],
                "properties": {
                    "text": {"type": "string"},
                    "facts": {"type": "array", "items": {"type": "string"}},
                },
            },
        }
    },
}
LONGEST_SENTENCE: Final = 2_000
MOST_SENTENCES: Final = 500


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Return a draft: sections of sentences, each with the names of the facts it rests on."""
    known = _distinct(assignment.usable)
    facts = _current(known, assignment)
    written = _written(assignment, toolbox, facts) if toolbox.model and facts else []
    if not written:
        objected = {str(o["sentence"]) for o in _objections(assignment)}
        facts = _current([f for f in known if plain(f.quote) not in objected], assignment)
        written = [{"text": plain(f.quote), "facts": [f.name]} for f in facts]
    return Completed(
        "drafted",
        result={
            "sections": _sections(assignment, facts, written),
            "model": toolbox.model,
            "prompt": personas.persona(assignment).as_json(),
        },
    )


def _sections(
    assignment: Assignment, facts: Sequence[Fact], written: Sequence[Mapping[str, Any]]
) -> list[Json]:
    """The sentences under the question that the first of their facts answers, as many as the depth allows."""
    question_of = {f.name: f.question for f in facts}
    under: dict[str, list[Json]] = {}
    for sentence in written:
        under.setdefault(question_of[sentence["facts"][0]], []).append(sentence)
    order = [q for q in dict.fromkeys(f.question for f in facts) if q in under]
    # what answers the goal itself comes before what it was put together from
    order.sort(key=lambda question: question != assignment.goal)
    return [
        {
            "title": "Answer" if len(order) == 1 else question,
            "sentences": under[question][: assignment.reach.facts],
        }
        for question in order
    ]


def _distinct(facts: Sequence[Fact]) -> list[Fact]:
    """The facts by step and rank, each wording once."""
    ordered = sorted(facts, key=lambda f: (f.step, f.number))
    seen: dict[str, Fact] = {}
    for fact in ordered:
        seen.setdefault(plain(fact.quote).casefold(), fact)
    return list(seen.values())


def _current(facts: Sequence[Fact], assignment: Assignment) -> list[Fact]:
    """The facts without those of superseded documents, where a current one answers the same question."""
    stale: set[tuple[str, str]] = set()
    for step in assignment.steps:
        told: Any = step.result.get("superseded") if step.agent is Agent.RESEARCHER else None
        if told:
            stale |= {(str(step.brief["question"]), locator) for locator in told["documents"]}
    answered = {f.question for f in facts if (f.question, f.locator) not in stale}
    return [f for f in facts if (f.question, f.locator) not in stale or f.question not in answered]


def _objections(assignment: Assignment) -> Sequence[Mapping[str, Any]]:
    """What the critic objected to in the round before."""
    objections: Sequence[Mapping[str, Any]] = assignment.latest(Agent.CRITIC).get("objections", [])
    return objections


def _written(assignment: Assignment, toolbox: Toolbox, facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """What a model writes about the facts, a portion of them at a time; of a portion without an answer, its quotes."""
    listed: list[dict[str, Json]] = [
        {
            "name": f.name,
            "question": f.question,
            "source": f.locator,
            "heading": " › ".join(f.heading),
            "quote": plain(f.quote),
        }
        for f in facts
    ]
    remarks: dict[str, Any] = {
        "objections": [{"sentence": o["sentence"], "why": o["why"]} for o in _objections(assignment)],
        "judged": list(assignment.latest(Agent.JUDGE).get("reasons", [])),
        "contradictions": assignment.latest(Agent.KEEPER).get("contradictions", []),
    }
    written: list[dict[str, Any]] = []
    for portion in portions(listed):
        known = {str(item["name"]): str(item["quote"]) for item in portion}
        sentences = asking.ask(
            toolbox,
            prompt=PROMPT,
            task=personas.told(assignment, TASK),
            data={"goal": assignment.goal, **remarks, "facts": portion},
            read=lambda reply, known=known: read(reply, known),  # type: ignore[misc]
            schema=SCHEMA,
        )
        objected = {str(o["sentence"]) for o in _objections(assignment)}
        quotes = [{"text": q, "facts": [name]} for name, q in known.items() if q not in objected]
        written += quotes if sentences is None else sentences
    return written


def read(reply: Mapping[str, Any], known: Mapping[str, object]) -> list[dict[str, Any]] | None:
    """Read a generator's reply; `None` unless it is sentences and the names that each gives, and nothing else.

    Names of facts that were not given are left out, and with them a sentence that is left without any.
    """
    if set(reply) != {"sentences"} or not isinstance(reply["sentences"], list):
        return None
    if len(reply["sentences"]) > MOST_SENTENCES:
        return None
    sentences: list[dict[str, Any]] = []
    for item in reply["sentences"]:
        if not isinstance(item, dict) or set(item) != {"text", "facts"}:
            return None
        text, names = item["text"], item["facts"]
        if not isinstance(text, str) or not plain(text) or len(text) > LONGEST_SENTENCE:
            return None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return None
        resting = [name for name in dict.fromkeys(names) if name in known]
        if resting:
            sentences.append({"text": plain(text), "facts": resting})
    return sentences
