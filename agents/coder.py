"""Computes what no tool covers: writes a script over the facts that were collected, and has it run in the sandbox."""

from __future__ import annotations

from agents.toolbox import Assignment, Toolbox
from orchestrator.domain.outcome import Completed


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:  # noqa: ARG001 - it cannot write code yet
    """Return that nothing was computed."""
    return Completed("nothing", result={"question": str(assignment.brief["question"]), "facts": 0})
