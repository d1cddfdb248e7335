"""Divides what a model must read into portions that it can, without leaving out or cutting anything."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

from orchestrator.domain.plan import Json

_Item = TypeVar("_Item", bound=Mapping[str, Json])

PORTION: Final = 24_000
"""Characters of material in one call; about 6,000 tokens, which leaves room for an answer in a small model."""


def portions(items: Iterable[_Item], size: int = PORTION) -> Iterator[list[_Item]]:
    """Give the items in their order, as many together as fit; one that is longer than a portion comes alone, whole."""
    taken: list[_Item] = []
    room = size
    for item in items:
        length = len(json.dumps(item, ensure_ascii=False))
        if taken and length > room:
            yield taken
            taken, room = [], size
        taken.append(item)
        room -= length
    if taken:
        yield taken
