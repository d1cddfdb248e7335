"""Measures how far texts are from what was asked, by the angle between vectors of both.

The vectors are made of the letters: runs of three to five in each word that is no stop word, counted into a fixed
number of places by a hash that is the same everywhere. That needs no model and cannot know synonyms, so only what has
next to nothing in common with the goal is called drifted. Whoever has a better embedding gives it as `embed`.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from agents import terms

Vector: TypeAlias = Mapping[int, float]
"""A vector of length 1.0 by its places that are not zero; empty for a text that says nothing."""

Embed: TypeAlias = Callable[[str], Vector]

DRIFTED: Final = 0.08
"""The cosine below which a text has left what was asked.

Of 295 sentences chosen to answer questions over 251 reports on countries none came below 0.15; of 450 sentences of other
reports 95 in 100 did below 0.08.
"""

_PLACES: Final = 1 << 18
_RUNS: Final = range(3, 6)


def grams(text: str) -> Vector:
    """Return the vector of a text's letters."""
    counted: Counter[int] = Counter()
    for word in terms.words(text):
        if word not in terms.STOP_WORDS:
            edged = f" {terms.stem(word)} "
            counted.update(
                _place(edged[at : at + run]) for run in _RUNS for at in range(len(edged) - run + 1)
            )
            counted[_place(edged)] += 1
    weights = {place: 1.0 + math.log(times) for place, times in counted.items()}
    return _scaled(weights)


def cosine(one: Vector, other: Vector) -> float:
    """Return the cosine of the angle between two vectors: 1.0 for the same direction, 0.0 for nothing in common."""
    if len(other) < len(one):
        one, other = other, one
    return sum(weight * other.get(place, 0.0) for place, weight in one.items())


def of(goal: str, texts: Sequence[str], *, embed: Embed = grams) -> float:
    """Return how far texts have drifted from a goal as a whole (0.0 not at all, 1.0 altogether); 0.0 for no texts."""
    together: Counter[int] = Counter()
    for text in texts:
        together.update(embed(text))
    return round(1.0 - min(1.0, cosine(embed(goal), _scaled(together))), 4) if together else 0.0


def drifted(intents: Sequence[str], text: str, *, embed: Embed = grams) -> bool:
    """Return whether a text has next to nothing in common with any of the intents; not where these say nothing."""
    meant = [vector for vector in map(embed, intents) if vector]
    found = embed(text)
    return bool(meant and found) and all(cosine(vector, found) < DRIFTED for vector in meant)


def _place(run: str) -> int:
    return zlib.crc32(run.encode()) % _PLACES


def _scaled(weights: Mapping[int, float]) -> Vector:
    length = math.sqrt(sum(weight * weight for weight in weights.values()))
    return {place: weight / length for place, weight in weights.items()} if length else {}
