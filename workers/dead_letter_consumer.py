"""Answers `plan.dead`: makes sure that what was given up on is listed.

Two kinds of messages arrive. Doorbells for a step whose death, and dead letter, is already in Postgres; and whatever
the broker gave up on: undecodable, rejected, or delivered too often. The latter get a dead letter of their own here.
A doorbell that was lost that way is no lost step: the step is in Postgres, and is rung for again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator import bus
from orchestrator.conductor import Conductor
from orchestrator.messages import Malformed, Topic, parse
from workers.step_consumer import bury

_UNTOLD = "dead_lettered"

SHOWN = 200
"""Characters of an unreadable message that its dead letter shows."""


class DeadLetterConsumer:
    """Lists what nobody could handle."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor

    def take(self, body: object) -> None:
        """List a message that no dead letter stands for yet."""
        self._note(body, "unexplained")

    def take_waiting(self, messages: Sequence[Any]) -> None:
        """List what AMQP messages say, or that they say nothing."""
        for message in messages:
            reason = _reason(message)
            try:
                bodies = bus.read(message.body)
            except ValueError:
                bodies = ()
                detail = f"A message that cannot be read: {_shown(message.body)}"
                bury(self._conductor, reason or "undecodable", detail)
            for body in bodies:
                self._note(body, reason)

    def _note(self, body: object, reason: str) -> None:
        try:
            message = parse(Topic.DEAD, body)
        except Malformed as malformed:
            bury(self._conductor, reason or "malformed", f"{malformed} The message: {_shown(repr(body))}")
            return
        if reason and reason != "unexplained":
            bury(self._conductor, reason, f"A doorbell for step {message.ref.number}.", message.ref)
            return
        with self._conductor.store.transaction() as tx:
            letters = tx.dead_letters(state=None, plan_id=message.ref.plan_id)
        if not any(letter.step == message.ref.number for letter in letters):
            bury(self._conductor, "unexplained", f"Step {message.ref.number} of plan {message.ref.plan_id}.")


def _reason(message: Any) -> str:
    """Why the broker dead-lettered a message; empty for one that was sent here on purpose."""
    headers = message.properties.get("application_headers") or {}
    deaths = headers.get("x-death")
    if not deaths:
        return ""
    # anybody who can publish can write this header
    last = deaths[0] if isinstance(deaths, list) else None
    return _shown(last.get("reason", _UNTOLD)) if isinstance(last, Mapping) else _UNTOLD


def _shown(body: object) -> str:
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:SHOWN])
