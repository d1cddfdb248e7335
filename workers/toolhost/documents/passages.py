"""Cuts a document into passages under their headings; decides what a search can return.

# Burundi                 heading ("Burundi",)
## Geography              heading ("Burundi", "Geography")
### Climate               heading ("Burundi", "Geography", "Climate")
equatorial; high ...      a passage: never across a heading, 400 to 1200 characters where it can be
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agents import sentences
from workers.toolhost.documents import reading

SHORTEST: Final = 400
"""Characters below which a passage takes in the next paragraph of its section."""

LONGEST: Final = 1200
"""Characters above which a passage is cut, at a sentence or a line if there is one."""


@dataclass(frozen=True, slots=True)
class Span:
    """A passage's place: the document's text from `start` up to `end`, under the `heading` path."""

    heading: tuple[str, ...]
    start: int
    end: int


def cut(document: reading.Document) -> list[Span]:
    """Return the passages of a document in order; together they hold all of its text but the headings."""
    text = document.text
    found: list[Span] = []
    for heading, start, end in _sections(document):
        found.extend(Span(heading, at, until) for at, until in _pieces(text, start, end))
    if not found and (whole := _trimmed(text, 0, len(text))):
        found = [Span((), at, until) for at, until in _pieces(text, *whole)]
    return found


def _sections(document: reading.Document) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """Yield the body of each section with the headings above it, outermost first."""
    marks: Sequence[sentences.Heading] = ()
    if reading.has_headings(document.media_type):
        marks = sentences.headings(document.text, hashes=reading.has_hash_headings(document.media_type))
    yield (), 0, marks[0].start if marks else len(document.text)
    path: list[sentences.Heading] = []
    for at, mark in enumerate(marks):
        path = [*(above for above in path if above.level < mark.level), mark]
        end = marks[at + 1].start if at + 1 < len(marks) else len(document.text)
        yield tuple(above.title for above in path), mark.end, end


_PARAGRAPH_END: Final = re.compile(r"(?:\r\n|\r|\n)(?:[^\S\r\n]*(?:\r\n|\r|\n))+")


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield a section as passages on paragraph boundaries, cutting only what is too long by itself."""
    begun = reached = start
    for stop in [*(found.end() for found in _PARAGRAPH_END.finditer(text, start, end)), end]:
        if begun < reached and stop - begun > LONGEST and reached - begun >= SHORTEST:
            yield from _limited(text, begun, reached)
            begun = reached
        reached = stop
    yield from _limited(text, begun, end)


def _limited(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while (trimmed := _trimmed(text, start, end)) and trimmed[1] - trimmed[0] > LONGEST:
        start = trimmed[0]
        until = _cut_at(text, start)
        if piece := _trimmed(text, start, until):
            yield piece
        start = until
    if trimmed:
        yield trimmed


_BREAKS: Final = (
    _PARAGRAPH_END,
    re.compile(r"[.!?]\s+(?=[^\sa-z])|[\u3002\uff01\uff1f]"),
    re.compile(r"[\r\n]+"),
    re.compile(r"\s+"),
)


def _cut_at(text: str, start: int) -> int:
    """Return the best place to cut a passage that begins at `start`."""
    for pattern in _BREAKS:
        places = [found.end() for found in pattern.finditer(text, start + SHORTEST, start + LONGEST)]
        if places:
            return places[-1]
    return start + LONGEST


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Return the span without the blank lines and spaces around it; the first line keeps its indent."""
    body = text[start:end]
    if not body.strip():
        return None
    end = start + len(body.rstrip())
    first = start + len(body) - len(body.lstrip())
    while first > start and text[first - 1] in " \t":
        first -= 1
    return first, end
