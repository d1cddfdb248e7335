"""Looks for what is wrong with a draft, sentence by sentence, in the words that each sentence cites.

Rules come first: what a sentence cites must be recorded and stand in its evidence, and its numbers, dates and names in
what it cites. A sentence that is one of its quotes, word for word, needs no further proof. About each of the others a
model is asked, if there is one, with all that it cites before it. A model can add objections and take none away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agents import asking
from agents.portions import portions
from agents.toolbox import Assignment, Toolbox
from orchestrator.domain import claims
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, Fact, Json
from orchestrator.domain.report import plain, supports, verified

PROMPT: Final = "critic/1"
TASK: Final = (
    "For each numbered sentence decide whether the quotes given with it say what the sentence says: all of it, under "
    "the same conditions, about the same things. Use nothing else that you know. supported: the quotes say it. "
    "unsupported: they say something else, less, or the opposite. unknown: it cannot be told from the quotes. Answer "
    '{"verdicts": [{"n": 1, "verdict": "supported", "why": "…"}]} with exactly one verdict for each number.'
)
VERDICTS: Final = ("supported", "unsupported", "unknown")
SCHEMA: Final[Mapping[str, Json]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["verdicts"],
    "properties": {
        "verdicts": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["n", "verdict", "why"],
                "properties": {
                    "n": {"type": "integer"},
                    "verdict": {"enum": list(VERDICTS)},
                    "why": {"type": "string"},
                },
            },
        }
    },
}
LONGEST_WHY: Final = 2_000

UNHEARD: Final = (
    "It says something else than the quotes it cites, and nobody could say whether they bear it out."
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one sentence: how it was judged, by rules or a model, and the quotes that it was held against.

    One that is `grave` excludes acceptance, whatever the judge says. `open` means that rules alone cannot tell.
    """

    text: str
    quotes: tuple[str, ...] = ()
    verdict: str = "supported"
    why: str = ""
    by: str = "rules"
    grave: bool = False
    open: bool = False


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Return an objection for each sentence that its evidence does not bear out, and how many of them are grave."""
    facts = assignment.by_name()
    sections = assignment.latest(Agent.GENERATOR).get("sections", [])
    found = [examined(s, facts, toolbox) for section in sections for s in section["sentences"]]
    unsure = [at for at, finding in enumerate(found) if finding.open]
    answers = _asked(toolbox, [found[at] for at in unsure]) if toolbox.model else {}
    for n, at in enumerate(unsure, start=1):
        found[at] = _settled(found[at], answers.get(n))
    objections: list[Json] = [
        {"sentence": f.text, "why": f.why, "by": f.by, "verdict": f.verdict, "grave": f.grave}
        for f in found
        if f.verdict != "supported"
    ]
    result: dict[str, Json] = {
        "objections": objections,
        "sentences": len(found),
        "grave": sum(f.grave for f in found),
    }
    return Completed("critiqued", result=result)


def examined(sentence: Mapping[str, Any], facts: Mapping[str, Fact], toolbox: Toolbox) -> Finding:
    """Return what rules find about a sentence of a draft."""
    text = str(sentence["text"])
    cited = [facts[name] for name in sentence["facts"] if name in facts]
    if not cited:
        return _grave(Finding(text), "It rests on no recorded fact.")
    quotes = tuple(f.quote for f in cited if verified(f, toolbox.evidence(f.evidence)))
    finding = Finding(text, quotes)
    if not quotes:
        return _grave(finding, "The evidence does not read as quoted.")
    if supports(text, quotes):
        return finding
    missing = claims.contained(text, quotes)
    if missing or not plain(text):
        what = ", ".join(dict.fromkeys(f"{m.kind} {m.text!r}" for m in missing))
        told = f": not as there: {what}." if what else "."
        return _grave(finding, f"It says something else than the quotes it cites{told}")
    return replace(finding, open=True)


def _grave(finding: Finding, why: str) -> Finding:
    return replace(finding, verdict="unsupported", why=why, grave=True)


def _settled(finding: Finding, answer: tuple[str, str] | None) -> Finding:
    """What a model's answer makes of a sentence; one that nobody vouches for cannot be accepted."""
    if answer is None:
        return replace(finding, verdict="unknown", why=UNHEARD, grave=True, open=False)
    verdict, why = answer
    return replace(finding, verdict=verdict, why=why or "The model gave no reason.", by="model", open=False)


def _asked(toolbox: Toolbox, unsure: Sequence[Finding]) -> Mapping[int, tuple[str, str]]:
    """The model's verdicts and reasons by the number of the sentence, from 1; none for a portion without an answer."""
    listed: list[dict[str, Json]] = [
        {"n": n, "sentence": f.text, "quotes": list(f.quotes)} for n, f in enumerate(unsure, start=1)
    ]
    answers: dict[int, tuple[str, str]] = {}
    for portion in portions(listed):
        numbers = {int(str(item["n"])) for item in portion}
        data = {"sentences": portion}
        answers |= (
            asking.ask(
                toolbox,
                prompt=PROMPT,
                task=TASK,
                data=data,
                read=lambda reply, numbers=numbers: read(reply, numbers),  # type: ignore[misc]
                schema=SCHEMA,
            )
            or {}
        )
    return answers


def read(reply: Mapping[str, Any], numbers: set[int]) -> dict[int, tuple[str, str]] | None:
    """Read a critic's reply; `None` unless it has exactly one verdict for each of the numbers, and nothing else."""
    if set(reply) != {"verdicts"} or not isinstance(reply["verdicts"], list):
        return None
    answers: dict[int, tuple[str, str]] = {}
    for item in reply["verdicts"]:
        if not isinstance(item, dict) or not {"n", "verdict"} <= set(item) <= {"n", "verdict", "why"}:
            return None
        n, verdict, why = item["n"], item["verdict"], item.get("why", "")
        if type(n) is not int or n in answers or not isinstance(verdict, str) or verdict not in VERDICTS:
            return None
        if not isinstance(why, str) or len(why) > LONGEST_WHY:
            return None
        answers[n] = (verdict, plain(why))
    return answers if set(answers) == numbers else None
