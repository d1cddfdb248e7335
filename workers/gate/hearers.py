"""Hears every decision of this process: counts it, says whom an action was denied, and hands it to the decision log."""

from __future__ import annotations

from orchestrator.meters import Decisions
from orchestrator.telemetry import log
from workers.gate.decision_log import DecisionLog
from workers.gate.policy import ACTIONS, Decision


class Hearers:
    """What is told each package that was asked, the document and the decision. Never raises."""

    def __init__(self, counted: Decisions, kept: DecisionLog | None = None) -> None:
        self._counted = counted
        self._kept = kept

    def __call__(self, package: str, document: object, decision: Decision) -> None:
        """Count a decision, and pass it on to whoever keeps it."""
        self._counted.count(package, decision, seconds=decision.duration_us / 1_000_000)
        if package == ACTIONS and not (decision.allow or decision.failed):
            # what the gate refuses of calls it says itself, as `tool.refused`
            log.info(
                "policy.denied",
                decision_id=decision.decision_id,
                revision=decision.revision,
                reasons=[f"{reason.reason} {reason.capability}".strip() for reason in decision.reasons],
            )
        if self._kept is not None:
            self._kept(package, document, decision)
