"""Answers `plan.completions`: decides what follows a step that has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator import bus
from orchestrator.conductor import Conductor
from orchestrator.domain.errors import NotFound
from orchestrator.domain.plan import StepRef
from orchestrator.messages import Malformed, Topic, parse
from orchestrator.telemetry import log
from workers.step_consumer import bury


class CompletionConsumer:
    """Settles finished steps; what cannot be handled becomes a dead letter."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def take(self, body: object) -> None:
        """Settle the step that a message names. A repeat does nothing."""
        ref = self._ref(body)
        if ref is not None:
            self._settle(ref)

    def take_waiting(self, messages: Sequence[Any]) -> None:
        """Settle what AMQP messages name, each step once however often it is named."""
        refs: dict[StepRef, None] = {}
        for message in messages:
            for body in self._bodies(message):
                ref = self._ref(body)
                if ref is not None:
                    refs.setdefault(ref)
        for ref in refs:
            self._settle(ref)

    def _bodies(self, message: Any) -> Sequence[object]:
        try:
            return bus.read(message.body)
        except ValueError as error:
            bury(
                self._conductor,
                "undecodable",
                f"A message on {Topic.COMPLETIONS} is not one of ours: {error}",
            )
            return []

    def _ref(self, body: object) -> StepRef | None:
        try:
            return parse(Topic.COMPLETIONS, body).ref
        except Malformed as malformed:
            bury(self._conductor, "malformed", str(malformed))
            return None

    def _settle(self, ref: StepRef) -> None:
        try:
            self._conductor.settle(ref)
        except NotFound as missing:
            bury(self._conductor, "unknown_step", str(missing))
        else:
            log.info("completion.settled", plan_id=ref.plan_id, step=ref.number)
