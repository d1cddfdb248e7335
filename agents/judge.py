"""Accepts a draft, or sends it back: what it says must stand, and what was asked must be met as far as it can be."""

from __future__ import annotations

from agents.toolbox import Assignment, Toolbox
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:  # noqa: ARG001 - rules suffice here
    """Return `accept`, or `revise` while the critic objects to a sentence.

    The confidence is the share of the questions asked that have an answer in the sources.
    """
    objections = assignment.latest(Agent.CRITIC).get("objections", [])
    verdict = "revise" if objections else "accept"
    return Completed(verdict, result={"confidence": confidence(assignment), "objections": len(objections)})


def confidence(assignment: Assignment) -> float:
    """The share of the questions asked (0.0 to 1.0) for which there is at least one fact."""
    asked = set(assignment.asked)
    answered = {fact.question for fact in assignment.usable} & asked
    return round(len(answered) / len(asked), 2) if asked else 0.0
