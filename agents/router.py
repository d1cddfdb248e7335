"""Decides whether a goal is small talk or a question to research. In doubt it is a question."""

from __future__ import annotations

import re
from typing import Final

from agents.toolbox import Assignment, Toolbox
from orchestrator.domain.outcome import Completed

SMALL_TALK: Final = frozenset(
    {
        "hello", "hi", "hey", "hello there", "hi there", "hey there", "good morning", "good afternoon",
        "good evening", "how are you", "how are you doing", "thanks", "thank you", "thank you very much", "many thanks",
        "bye", "goodbye", "see you", "hallo", "guten tag", "bonjour", "hola", "ciao",
    }
)  # fmt: skip
"""Messages that ask for nothing. Only the whole message counts: "Hello, what is a closure?" is a question."""

_NOT_LETTERS = re.compile(r"[\W_]+")


def route(goal: str) -> str:
    """Return `casual` for small talk and `deep` for everything else."""
    return "casual" if _NOT_LETTERS.sub(" ", goal.casefold()).strip() in SMALL_TALK else "deep"


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:  # noqa: ARG001 - rules suffice here
    """Route the goal."""
    return Completed(route(assignment.goal))
