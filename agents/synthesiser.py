"""Writes the report from the last draft: quotes of verified facts, and what is to be known about them.

Beside the answer a report says what speaks against it, where its sources contradict each other, what was not found and
why, and what its confidence is made of. A sentence without verified evidence is not printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from agents import vintage
from agents.toolbox import AGAINST, Assignment, Toolbox
from orchestrator.domain import ooda
from orchestrator.domain.consensus import doubt, stands
from orchestrator.domain.layout import many
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, Phase, Step, StepState
from orchestrator.domain.report import build

EXTRACTIVE = "Extractive: no language model; every sentence is quoted word for word from its source."
ASSISTED = "Assisted: the model {model} proposed questions, chose among facts and drafted; every sentence is quoted word for word."
AT_ONCE = "Answered by a tool, without research; every sentence is what the tool said, word for word."
DECLINED = "Nothing was looked up."

_LEFT_OUT: Final = "it was not looked up: a plan of this depth asks no more questions"
_UNUSED: Final = "what was found about it is not in the answer"
_AT_ONCE: Final[Mapping[str, str]] = {"casual": "casual", "utility": "answered", "unsafe": "declined"}
"""What a report comes to where the router's verdict ended the matter."""


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Return the plan's report."""
    planned = assignment.latest(Agent.PLANNER)
    kept = assignment.latest(Agent.KEEPER)
    verdict = _verdict(assignment)
    report = build(
        goal=assignment.goal,
        verdict=verdict,
        method=_method(assignment, toolbox, verdict),
        partial=assignment.partial,
        sections=_drafted(assignment),
        facts=assignment.by_name(),
        evidence_of=toolbox.evidence,
        asked=_asked(assignment, planned),
        reasons=_reasons(assignment, planned),
        notes=[
            *_refusal(assignment),
            *_notes(planned),
            *_superseded(assignment),
            *_doubts(assignment.finished(Agent.JUDGE)),
        ],
        contradictions=kept.get("contradictions", []),
        against=_against(assignment),
        usable=assignment.usable,
        vintage_of=lambda fact: vintage.of_fact(fact, toolbox.evidence),
    )
    return Completed("written", report=report, result={"verdict": report["verdict"]})


def _routed(assignment: Assignment) -> str:
    """What ended the matter at the router, if that was all there is: small talk, an errand, a refusal."""
    ended = {s.agent for s in assignment.steps if s.state is StepState.SUCCEEDED}
    if ended & {Agent.PLANNER, Agent.JUDGE, Agent.RESEARCHER, Agent.CODER}:
        return ""
    verdicts = [s.verdict for s in assignment.steps if s.agent is Agent.ROUTER]
    return str(verdicts[-1]) if verdicts and verdicts[-1] in _AT_ONCE else "casual"


def _verdict(assignment: Assignment) -> str:
    """What the report comes to, as far as it does not hang on what is printed."""
    routed = _routed(assignment)
    if routed:
        return _AT_ONCE[routed]
    judged = assignment.finished(Agent.JUDGE)
    return "answered" if judged and stands(judged[-1]) else "needs_review"


def _method(assignment: Assignment, toolbox: Toolbox, verdict: str) -> str:
    if verdict == "declined":
        return DECLINED
    if _routed(assignment) == "utility":
        return AT_ONCE
    return ASSISTED.format(model=toolbox.model) if toolbox.model else EXTRACTIVE


def _drafted(assignment: Assignment) -> Sequence[Any]:
    """The sections of the last draft; of an errand, what its tool answered."""
    if _routed(assignment) != "utility":
        sections: Sequence[Any] = assignment.latest(Agent.GENERATOR).get("sections", [])
        return sections
    said = [{"text": fact.quote, "facts": [fact.name]} for fact in assignment.facts]
    return [{"title": "Answer", "sentences": said}]


def _refusal(assignment: Assignment) -> list[str]:
    why = assignment.latest(Agent.ROUTER).get("declined")
    return [str(why)] if why and _routed(assignment) == "unsafe" else []


def _looked_up(assignment: Assignment) -> Iterator[Step]:
    """The steps that looked for an answer, and not for what would speak against it."""
    for step in assignment.steps:
        if step.phase is Phase.OBSERVE and "question" in step.brief and step.brief.get("side") != AGAINST:
            yield step


def _against(assignment: Assignment) -> list[str]:
    """The names of the facts that were looked for because they would speak against the answer."""
    opposing = {s.number for s in assignment.steps if s.brief.get("side") == AGAINST}
    return [fact.name for fact in assignment.usable if fact.step in opposing]


def _asked(assignment: Assignment, planned: Any) -> list[str]:
    if _routed(assignment):
        return [fact.question for fact in assignment.facts]
    unbegun = [question for question, _ in _unbegun(assignment)]
    looked_up = [str(s.brief["question"]) for s in _looked_up(assignment)]
    return [*looked_up, *unbegun, *(planned.get("left_out") or [])]


def _reasons(assignment: Assignment, planned: Any) -> dict[str, str]:
    """Why each question that was asked would remain open, if nothing printed answers it."""
    reasons: dict[str, str] = dict.fromkeys(planned.get("left_out") or [], _LEFT_OUT)
    reasons.update(_unbegun(assignment))
    lookups: dict[str, list[Step]] = {}
    for step in _looked_up(assignment):
        lookups.setdefault(str(step.brief["question"]), []).append(step)
    found = {fact.question for fact in assignment.usable}
    for question, steps in lookups.items():
        reasons[question] = _UNUSED if question in found else _why_nothing(steps)
    return reasons


def _unbegun(assignment: Assignment) -> Sequence[tuple[str, str]]:
    """The questions of tasks that never became a step, each with the reason; a doubt that nobody looked up is no gap."""
    left = ooda.left_out(assignment.depth, assignment.steps)
    return [(str(brief.get("question")), why) for brief, why in left if brief.get("side") != AGAINST]


def _why_nothing(steps: list[Step]) -> str:
    results: list[Mapping[str, Any]] = [s.result for s in steps if s.verdict == "failed"]
    tried = [one for result in results for one in result.get("tried", ())]
    if tried:
        return "it could not be looked up: " + ", ".join(f"{one['tool']}: {one['reason']}" for one in tried)
    ended = [s for s in steps if s.state is StepState.SUCCEEDED]
    if ended:
        times = "once" if len(ended) == 1 else f"{len(ended)} times, in other words each time"
        return f"it was looked up {times}, and nothing that was found answers it"
    last = steps[-1]
    return f"it was not looked up: the step is {last.state}" + (f" ({last.reason})" if last.reason else "")


def _superseded(assignment: Assignment) -> list[str]:
    """What a reader should know of documents that another has taken the place of."""
    notes: dict[str, None] = {}
    for step in assignment.steps:
        told: Any = step.result.get("superseded") if step.agent is Agent.RESEARCHER else None
        if not told:
            continue
        how = "Answered only by what is superseded" if told["only"] else "Left out as superseded"
        for locator, why in told["documents"].items():
            notes.setdefault(f"{how}: {locator}. {why}")
    return list(notes)


def _doubts(judged: Sequence[Step]) -> list[str]:
    """Why the last draft was not accepted; in numbers, since nothing that a model says is printed."""
    return [doubt(judged[-1])] if judged and not stands(judged[-1]) else []


def _notes(planned: Any) -> list[str]:
    notes = [planned["note"]] if planned.get("note") else []
    if planned.get("documents") is not None:
        searched, held = many(planned["documents"], "document"), many(planned["passages"], "passage")
        notes.append(f"Searched {searched} ({held}).")
    adopted = (planned.get("plan") or {}).get("adopted") or []
    notes += [
        f"{f['as']} was found by plan {f['plan_id']} at {f['at']}, and is as it was then." for f in adopted
    ]
    skipped = planned.get("skipped") or []
    if skipped:
        shown = "; ".join(f"{s['locator']}: {s['reason']}" for s in skipped[:5])
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        notes.append(f"Not read: {shown}{more}")
    return notes
