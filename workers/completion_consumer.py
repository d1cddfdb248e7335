"""Answers `plan.completions`: decides what follows a step that has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator import bus
from orchestrator.conductor import Conductor
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
            self._settled(ref, missing=bool(self._conductor.settle_all([ref])))

    def take_waiting(self, messages: Sequence[Any]) -> None:
        """Settle what AMQP messages name, each step once however often it is named."""
        refs: dict[StepRef, None] = {}
        for message in messages:
            for body in self._bodies(message):
                ref = self._ref(body)
                if ref is not None:
                    refs.setdefault(ref)
        missing = set(self._conductor.settle_all(refs))
        for ref in refs:
            self._settled(ref, missing=ref in missing)

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

    def _settled(self, ref: StepRef, *, missing: bool) -> None:
        if missing:
            bury(self._conductor, "unknown_step", f"There is no step {ref.number} of a plan {ref.plan_id}.")
        else:
            log.info("completion.settled", plan_id=ref.plan_id, step=ref.number)
