"""Writes the report from the last draft: quotes of verified facts, and what is to be known about them.

Beside the answer a report says what speaks against it, where its sources contradict each other, what was not found and
why, and what its confidence is made of. A sentence without verified evidence is not printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from agents.toolbox import Assignment, Toolbox
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, Phase, Step, StepState
from orchestrator.domain.report import build

EXTRACTIVE = "Extractive: no language model; every sentence is quoted word for word from its source."
ASSISTED = "Assisted: the model {model} proposed questions and chose among facts; every sentence is quoted word for word."
DECLINED = "Nothing was looked up."

_LEFT_OUT: Final = "it was not looked up: a plan of this depth asks no more questions"
_UNUSED: Final = "what was found about it is not in the answer"


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Return the plan's report."""
    planned = assignment.latest(Agent.PLANNER)
    kept = assignment.latest(Agent.KEEPER)
    verdict = _verdict(assignment)
    method = ASSISTED.format(model=toolbox.model) if toolbox.model else EXTRACTIVE
    report = build(
        goal=assignment.goal,
        verdict=verdict,
        method=DECLINED if verdict == "declined" else method,
        partial=assignment.partial,
        sections=assignment.latest(Agent.GENERATOR).get("sections", []),
        facts=assignment.by_name(),
        evidence_of=toolbox.evidence,
        asked=_asked(assignment, planned),
        reasons=_reasons(assignment, planned),
        notes=[*_refusal(assignment, verdict), *_notes(planned)],
        contradictions=kept.get("contradictions", []),
        against=_against(assignment),
    )
    return Completed("written", report=report, result={"verdict": report["verdict"]})


def _verdict(assignment: Assignment) -> str:
    """What the report comes to, as far as it does not hang on what is printed."""
    routed = [s.verdict for s in assignment.steps if s.agent is Agent.ROUTER]
    if routed and routed[-1] in {"unsafe", "declined"}:
        return "declined"
    judged = [s.verdict for s in assignment.steps if s.agent is Agent.JUDGE]
    if not judged and not assignment.latest(Agent.PLANNER):
        return "casual"
    return "answered" if judged and judged[-1] == "accept" else "needs_review"


def _refusal(assignment: Assignment, verdict: str) -> list[str]:
    said = assignment.latest(Agent.ROUTER)
    why = said.get("why") or said.get("reason")
    return [str(why)] if verdict == "declined" and why else []


def _looked_up(assignment: Assignment) -> Iterator[Step]:
    """The steps that looked for an answer, and not for what would speak against it."""
    for step in assignment.steps:
        if step.phase is Phase.OBSERVE and "question" in step.brief and step.brief.get("side") != "against":
            yield step


def _against(assignment: Assignment) -> list[str]:
    """The names of the facts that were looked for because they would speak against the answer."""
    opposing = {s.number for s in assignment.steps if s.brief.get("side") == "against"}
    return [fact.name for fact in assignment.facts if fact.step in opposing]


def _asked(assignment: Assignment, planned: Any) -> list[str]:
    return [*(str(s.brief["question"]) for s in _looked_up(assignment)), *(planned.get("left_out") or [])]


def _reasons(assignment: Assignment, planned: Any) -> dict[str, str]:
    """Why each question that was asked would remain open, if nothing printed answers it."""
    reasons: dict[str, str] = dict.fromkeys(planned.get("left_out") or [], _LEFT_OUT)
    lookups: dict[str, list[Step]] = {}
    for step in _looked_up(assignment):
        lookups.setdefault(str(step.brief["question"]), []).append(step)
    found = {fact.question for fact in assignment.facts}
    for question, steps in lookups.items():
        reasons[question] = _UNUSED if question in found else _why_nothing(steps)
    return reasons


def _why_nothing(steps: list[Step]) -> str:
    ended = [s for s in steps if s.state is StepState.SUCCEEDED]
    if ended:
        times = "once" if len(ended) == 1 else f"{len(ended)} times, in other words each time"
        return f"it was looked up {times}, and nothing that was found answers it"
    last = steps[-1]
    return f"it was not looked up: the step is {last.state}" + (f" ({last.reason})" if last.reason else "")


def _notes(planned: Any) -> list[str]:
    notes = [planned["note"]] if planned.get("note") else []
    if planned.get("documents") is not None:
        notes.append(f"Searched {planned['documents']} documents ({planned['passages']} passages).")
    skipped = planned.get("skipped") or []
    if skipped:
        shown = "; ".join(f"{s['locator']}: {s['reason']}" for s in skipped[:5])
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        notes.append(f"Not read: {shown}{more}")
    return notes
