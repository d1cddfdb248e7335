"""Answers `plan.dead`: makes sure that what was given up on is listed."""

from __future__ import annotations

from orchestrator.conductor import Conductor
from orchestrator.messages import Malformed, Topic, parse
from workers.step_consumer import bury


class DeadLetterConsumer:
    """A step's dead letter was written with its death; anything else that arrives here is listed now."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def take(self, body: object) -> None:
        """List a message that no dead letter stands for yet."""
        try:
            message = parse(Topic.DEAD, body)
        except Malformed as malformed:
            bury(self._conductor, "malformed", str(malformed))
            return
        with self._conductor.store.transaction() as tx:
            letters = tx.dead_letters(state=None, plan_id=message.ref.plan_id)
        if not any(letter.step == message.ref.number for letter in letters):
            bury(self._conductor, "unexplained", f"Step {message.ref.number} of plan {message.ref.plan_id}")
