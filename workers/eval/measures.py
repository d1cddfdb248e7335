"""What is measured of one question and of a set; pure, and independent of what it measures.

recall@k   the share of the places of the answer that are within the first k found
mrr        one divided by the rank of the first of them; 0 where none is found
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from workers.eval.corpus import Places

CUTS: Final = (1, 5, 10)
"""How many of the first found are looked at."""

DEEP: Final = 50
"""How many passages are looked at for ranks and for documents; what comes later counts as not found."""

LOWER_IS_BETTER: Final = frozenset(
    {"unsupported", "false_abstention", "stale_first", "drift", "calls", "tokens", "cost_uusd", "ms"}
)
"""Measures that a floor holds from above."""


class Found(Protocol):
    """A passage that was found."""

    @property
    def locator(self) -> str:
        """Its document."""
        ...

    @property
    def start(self) -> int:
        """Where it begins."""
        ...

    @property
    def end(self) -> int:
        """Where it ends."""
        ...


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where each part of an answer was found, from 1, or `None`: its document, and its very span."""

    documents: tuple[int | None, ...] = ()
    spans: tuple[int | None, ...] = ()


def ranks(found: Sequence[Found], golds: Sequence[Places]) -> Ranks:
    """Return where the parts of the answer stand in a list of passages, best first.

    Documents are counted once each, in the order of their first passages.
    """
    documents = list(dict.fromkeys(passage.locator for passage in found))
    at = {locator: rank for rank, locator in enumerate(documents, 1)}
    return Ranks(
        documents=tuple(
            min((at[p.locator] for p in places if p.locator in at), default=None) for places in golds
        ),
        spans=tuple(
            next(
                (
                    rank
                    for rank, one in enumerate(found, 1)
                    if any(p.overlaps(one.locator, one.start, one.end) for p in places)
                ),
                None,
            )
            for places in golds
        ),
    )


def recall(found: Sequence[int | None], within: int) -> float:
    """The share of the parts that are within the first so many."""
    return sum(1 for rank in found if rank is not None and rank <= within) / len(found)


def reciprocal(found: Sequence[int | None]) -> float:
    """One divided by the rank of the first part that was found."""
    first = min((rank for rank in found if rank is not None), default=None)
    return 1 / first if first else 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the pipeline came to for one question; measured, not judged by whoever wrote it."""

    verdict: str
    sentences: int = 0
    unsupported: int = 0
    contained: bool | None = None
    cited: int = 0
    cited_gold: int = 0
    gold_cited: float = 0.0
    stale_first: bool | None = None
    drift: float | None = None
    calls: int = 0
    tokens: int = 0
    cost_uusd: int = 0
    ms: float = 0.0
    trouble: str = ""
    printed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One question with everything that was measured of it."""

    id: str
    question: str
    group: str
    answerable: bool
    searches: Mapping[str, Ranks] = field(default_factory=dict)
    answer: Answer | None = None


def unsupported(report: Mapping[str, Any], text_of: Callable[[str], str | None]) -> int:
    """Count the sentences of a report that the stored evidence does not hold, word for word.

    Nothing that the report says of itself is believed: each source is hashed anew, each quote read at its place, and
    the sentence compared with what stands there. It must be one of the quotes it cites, or several of them in a row.
    """
    quotes = {
        citation.get("number"): _quoted(citation, text_of) for citation in report.get("citations") or ()
    }
    return sum(
        1
        for section in report.get("sections") or ()
        for sentence in section.get("sentences") or ()
        if not _holds(str(sentence.get("text", "")), [quotes.get(n) for n in sentence.get("citations") or ()])
    )


def _quoted(citation: Mapping[str, Any], text_of: Callable[[str], str | None]) -> str | None:
    sha256 = str(citation.get("evidence"))
    text = text_of(sha256)
    if text is None or hashlib.sha256(text.encode()).hexdigest() != sha256:
        return None
    start, end = citation.get("start"), citation.get("end")
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        return None
    return text[start:end] if text[start:end] == citation.get("quote") else None


def _holds(sentence: str, quotes: Sequence[str | None]) -> bool:
    words = sentence.split()
    read = [quote.split() for quote in quotes if quote is not None]
    if not words or not read or len(read) != len(quotes):
        return False
    return words in read or words == [word for quote in read for word in quote]


def contains(printed: Iterable[str], answer: str) -> bool:
    """Whether what was printed has the answer in it, whatever the case and the white space."""
    wanted = " ".join(answer.casefold().split()).rstrip(".")
    return wanted in " ".join(" ".join(printed).casefold().split())


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Return the measures of some questions by name; a measure that none of them has is left out."""
    asked = [row for row in rows if row.answerable]
    found: dict[str, float | None] = {"questions": float(len(rows))}
    for name in dict.fromkeys(name for row in asked for name in row.searches):
        found |= _retrieval("" if name == "search" else f"{name}.", [row.searches[name] for row in asked])
    for own in ("recall@5", "mrr", "doc_recall@5", "doc_mrr"):
        for baseline in ("bm25", "bm25_headings"):
            base, ours = found.get(f"{baseline}.{own}"), found.get(own)
            if ours is not None and base is not None:
                found[f"{own}/{baseline}"] = ours / base if base else None
    return {name: value for name, value in {**found, **_answers(rows)}.items() if value is not None}


def _retrieval(prefix: str, found: Sequence[Ranks]) -> dict[str, float | None]:
    measured: dict[str, float | None] = {}
    for what, places in (("", [r.spans for r in found]), ("doc_", [r.documents for r in found])):
        for cut in CUTS:
            measured[f"{prefix}{what}recall@{cut}"] = mean(recall(each, cut) for each in places)
        measured[f"{prefix}{what}mrr"] = mean(map(reciprocal, places))
    return measured


def _answers(rows: Sequence[Row]) -> dict[str, float | None]:
    told = [(row, row.answer) for row in rows if row.answer is not None]
    if not told:
        return {}
    asked = [answer for row, answer in told if row.answerable]
    spoke = [answer for answer in asked if answer.sentences]
    sentences = sum(answer.sentences for _, answer in told)
    return {
        "contained": mean(a.contained for a in asked if a.contained is not None),
        "citation_precision": mean(a.cited_gold / a.cited for a in spoke if a.cited),
        "citation_recall": mean(a.gold_cited for a in asked),
        "unsupported": sum(a.unsupported for _, a in told) / sentences if sentences else 0.0,
        "sentences": mean(a.sentences for _, a in told),
        "abstention": mean(not a.sentences for row, a in told if not row.answerable),
        "false_abstention": mean(not a.sentences for a in asked),
        "stale_first": mean(a.stale_first for a in asked if a.stale_first is not None),
        "drift": mean(a.drift for _, a in told if a.drift is not None),
        "calls": mean(a.calls for _, a in told),
        "tokens": mean(a.tokens for _, a in told),
        "cost_uusd": mean(a.cost_uusd for _, a in told),
        "ms": mean(a.ms for _, a in told),
        "troubled": float(sum(1 for _, a in told if a.trouble)),
    }


def mean(values: Iterable[float]) -> float | None:
    """The mean of some numbers, or `None` if there are none."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else None
