"""Finds the tools that fit a question, by the words that the registry gives them.

    "How many barrels did the WEBSITE list?"   fetch_url   website 2 + …      found by its words, weighted
    "Use fetch_url for this"                   fetch_url   wins               found by its name

Words are compared whole and without letter case, accents and compatibility forms: neither does "tokyo" hold "ok", nor
is a keyword missed because the file writes it in capitals. Where a script has no spaces, a keyword may stand anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from agents import terms
from agents.toolbox import ToolCard

NAMED: Final = 1_000.0
"""What a tool counts whose name stands in the text: more than any keywords."""


def find(text: str, tools: Iterable[ToolCard]) -> list[ToolCard]:
    """Return the plannable tools that the text speaks of, best first; those that count the same in the order given."""
    folded = terms.fold(text)
    scored = [(score(folded, tool), tool) for tool in tools if tool.planned]
    return [tool for counted, tool in sorted(scored, key=lambda pair: -pair[0]) if counted > 0]


def score(text: str, tool: ToolCard) -> float:
    """Return how much a tool counts for a text: the weights of its words that stand in it, its name above all."""
    folded = terms.fold(text)
    words = sum(tool.weights.get(word, 1.0) for word in tool.keywords if holds(folded, word))
    return tool.weight * words + (NAMED if holds(folded, tool.name) else 0.0)


def holds(folded: str, phrase: str) -> bool:
    """Whether a folded text holds a phrase as whole words."""
    return bool(phrase.strip()) and _whole(phrase).search(folded) is not None


def first(text: str, tools: Sequence[ToolCard]) -> ToolCard | None:
    """Return the tool that fits best, if any does."""
    found = find(text, tools)
    return found[0] if found else None


@lru_cache(maxsize=4096)
def _whole(phrase: str) -> re.Pattern[str]:
    folded = re.escape(" ".join(terms.fold(phrase).split())).replace(r"\ ", r"\s+")
    return re.compile(folded if terms.spaced(phrase) != phrase else rf"(?<!\w){folded}(?!\w)")
