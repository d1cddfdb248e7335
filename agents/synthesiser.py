"""Writes the report from the last draft. A sentence without verified evidence is not printed."""

from __future__ import annotations

from typing import Any

from agents import gaps
from agents.judge import confidence
from agents.toolbox import Assignment, Toolbox
from orchestrator.domain.consensus import stands
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, StepState
from orchestrator.domain.report import build

EXTRACTIVE = "Extractive: no language model; every sentence is quoted word for word from its source."
ASSISTED = "Assisted: the model {model} proposed questions and chose among facts; every sentence is quoted word for word."


AT_ONCE = "Answered by a tool, without research; every sentence is what the tool said, word for word."


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Return the plan's report."""
    judged = [s for s in assignment.steps if s.agent is Agent.JUDGE and s.state is StepState.SUCCEEDED]
    planned = assignment.latest(Agent.PLANNER)
    if not planned and not judged:
        return _at_once(assignment, toolbox)
    verdict = "answered" if judged and stands(judged[-1]) else "needs_review"
    report = build(
        goal=assignment.goal,
        verdict=verdict,
        method=ASSISTED.format(model=toolbox.model) if toolbox.model else EXTRACTIVE,
        partial=assignment.partial,
        sections=assignment.latest(Agent.GENERATOR).get("sections", []),
        facts=assignment.by_name(),
        evidence_of=toolbox.evidence,
        gaps=[str(gap) for gap in gaps.of(assignment)],
        notes=_notes(planned),
        confidence=confidence(assignment),
    )
    return Completed("written", report=report, result={"verdict": report["verdict"]})


def _at_once(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Return the report of a message that needed no research: small talk, a tool's errand, or something declined."""
    verdicts = [s.verdict for s in assignment.steps if s.agent is Agent.ROUTER]
    declined = str(assignment.latest(Agent.ROUTER).get("declined") or "")
    said = [{"text": fact.quote, "facts": [fact.name]} for fact in assignment.facts]
    verdict = {"utility": "answered", "unsafe": "declined"}.get(
        str(verdicts[-1] if verdicts else ""), "casual"
    )
    report = build(
        goal=assignment.goal,
        verdict=verdict,
        method=AT_ONCE if said else ASSISTED.format(model=toolbox.model) if toolbox.model else EXTRACTIVE,
        partial=assignment.partial,
        sections=[{"title": "Answer", "sentences": said}] if said else [],
        facts=assignment.by_name(),
        evidence_of=toolbox.evidence,
        notes=[declined] if declined else [],
        confidence=1.0,
    )
    return Completed("written", report=report, result={"verdict": report["verdict"]})


def _notes(planned: Any) -> list[str]:
    notes = [planned["note"]] if planned.get("note") else []
    if planned.get("documents") is not None:
        notes.append(f"Searched {planned['documents']} documents ({planned['passages']} passages).")
    left_out = planned.get("left_out") or []
    if left_out:
        notes.append(f"Not looked up, for a plan of this depth asks no more questions: {' '.join(left_out)}")
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
