"""Answers `plan.steps`: takes the step that a message names to its outcome."""

from __future__ import annotations

from orchestrator.conductor import Conductor
from orchestrator.domain.errors import NotFound
from orchestrator.messages import Malformed, Topic, parse
from orchestrator.telemetry import log
from workers.executor import Executor


class StepConsumer:
    """Hands messages to an executor; what cannot be handled becomes a dead letter."""

    def __init__(self, conductor: Conductor, executor: Executor) -> None:
        self._conductor = conductor
        self._executor = executor

    def take(self, body: object) -> None:
        """Look at the step that a message names. A repeat does nothing."""
        try:
            message = parse(Topic.STEPS, body)
        except Malformed as malformed:
            bury(self._conductor, "malformed", str(malformed))
            return
        try:
            self._executor.run(message.ref)
        except NotFound as missing:
            bury(self._conductor, "unknown_step", str(missing))


def bury(conductor: Conductor, reason: str, detail: str) -> None:
    """List a message that cannot be handled, so that nothing is ever dropped in silence."""
    letter_id = conductor.bury_message(reason=reason, detail=detail)
    log.error("message.buried", reason=reason, letter=letter_id)
