"""Answers `plan.completions`: decides what follows a step that has ended."""

from __future__ import annotations

from orchestrator.conductor import Conductor
from orchestrator.domain.errors import NotFound
from orchestrator.messages import Malformed, Topic, parse
from orchestrator.telemetry import log
from workers.step_consumer import bury


class CompletionConsumer:
    """Settles finished steps; what cannot be handled becomes a dead letter."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def take(self, body: object) -> None:
        """Settle the step that a message names. A repeat does nothing."""
        try:
            message = parse(Topic.COMPLETIONS, body)
        except Malformed as malformed:
            bury(self._conductor, "malformed", str(malformed))
            return
        try:
            self._conductor.settle(message.ref)
        except NotFound as missing:
            bury(self._conductor, "unknown_step", str(missing))
        else:
            log.info("completion.settled", plan_id=message.ref.plan_id, step=message.ref.number)
