"""Finds the gold of a question in the documents as they were read: by place, or by quote wherever it stands.

A quote is found whatever its line breaks. It counts in each document that holds it, since a copy answers as well; a
quote that no document holds is *absent*, and its question is reported instead of counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from orchestrator.domain.errors import Invalid
from workers.eval.questions import Gold, Question
from workers.toolhost.documents.reading import Document

_ELSEWHERE: Final = 30
"""Characters from which a quote counts in other documents too; a shorter one may stand anywhere by chance."""


@dataclass(frozen=True, slots=True)
class Place:
    """A span of a document, in characters."""

    locator: str
    start: int
    end: int

    def overlaps(self, locator: str, start: int, end: int) -> bool:
        """Whether another span shares a character with this one."""
        return self.locator == locator and start < self.end and self.start < end


Places = tuple[Place, ...]
"""Where one part of an answer stands; any of them will do."""


class Corpus:
    """The documents of a set."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.texts: Mapping[str, str] = {d.locator: d.text for d in documents}
        self._names: dict[str, list[str]] = {}
        for locator in self.texts:
            for name in _names(locator):
                self._names.setdefault(name, []).append(locator)

    def locator(self, doc: str) -> str:
        """Return the document that a set calls `doc`: with or without its ending, its folders cut by `/` or `__`.

        Raises `Invalid` where there is none, or more than one.
        """
        found = [doc] if doc in self.texts else sorted(set(self._names.get(doc.replace("/", "__"), [])))
        if len(found) != 1:
            told = f"is any of {', '.join(found)}" if found else "is not among the documents"
            raise Invalid(f"The document {doc!r} {told}.")
        return found[0]

    def places(self, question: Question) -> tuple[Places, ...] | None:
        """Return where each part of the answer stands, or `None` if a part stands nowhere."""
        found = [self._places(question, gold) for gold in question.golds]
        return tuple(found) if all(found) else None

    def _places(self, question: Question, gold: Gold) -> Places:
        locator = self.locator(gold.doc)
        text = self.texts[locator]
        if gold.start is not None and gold.end is not None:
            if gold.end > len(text):
                raise Invalid(f"Question {question.id}: {gold.doc} ends at {len(text)}, before {gold.end}.")
            return (Place(locator, gold.start, gold.end),)
        pattern = re.compile(r"\s+".join(map(re.escape, gold.quote.split())))
        others = [name for name in self.texts if name != locator] if len(gold.quote) >= _ELSEWHERE else []
        if not pattern.search(text):
            return ()
        return tuple(
            Place(name, found.start(), found.end())
            for name in (locator, *others)
            for found in pattern.finditer(self.texts[name])
        )


def _names(locator: str) -> set[str]:
    whole = locator.replace("/", "__")
    stem = str(PurePosixPath(locator).with_suffix("")).replace("/", "__")
    return {whole, stem}
