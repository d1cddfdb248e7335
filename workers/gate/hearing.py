"""Understands messages by rules, and asks the model about those that no rule decides; without an answer, by rules alone.

The model is asked as any person's own question is: decided, recorded and stopped like one. What it may choose is the route.
"""

from __future__ import annotations

from typing import Final

from agents import turns
from orchestrator.domain.conversation import Before, Understood
from orchestrator.domain.errors import Conflict, Forbidden, Invalid, Unavailable
from orchestrator.domain.identity import Principal
from orchestrator.ports import Talker

TRIES: Final = 2
"""A reply that cannot be read costs one more; after that the message is what the rules take it for."""


class Hearing(turns.Rules):
    """A listener that asks the model in doubt."""

    def __init__(self, talker: Talker) -> None:
        self._talker = talker

    def understand(self, who: Principal, message: str, before: Before | None) -> Understood:
        """Return what a message means: what the rules are sure of, else what the model takes it for."""
        found = super().understand(who, message, before)
        if found.sure or before is None:
            return found
        return self._asked(who, message, before) or found

    def _asked(self, who: Principal, message: str, before: Before) -> Understood | None:
        for _ in range(TRIES):
            try:
                reply = self._talker.answer(who, turns.question_for_a_model(message, before), model=None)
            except (Conflict, Forbidden, Invalid, Unavailable):
                return None  # nobody could be asked, which is a doubt like any other
            found = turns.chosen(reply.text, message, before)
            if found is not None:
                return found
        return None
