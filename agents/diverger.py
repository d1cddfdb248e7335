"""Thinks of what would speak against what was found, so that it is looked for as well."""

from __future__ import annotations

from agents.toolbox import Assignment, Toolbox
from orchestrator.domain.outcome import Completed


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:  # noqa: ARG001 - it has no templates yet
    """Return the counter-hypotheses to look up."""
    return Completed("nothing")
