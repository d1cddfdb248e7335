"""Finds statements that cannot both hold: the same statement from different documents with another value in it.

    "Veltrix operates 26 sites."        ≠  "Veltrix operates 47 sites."          another number
    "It was founded on 3 May 1999."     ≠  "It was founded on 3 June 1999."      another date
    "The capital of Peru is Lima."      ≠  "The capital of Peru is Cuzco."       another name, behind "is"
    "Comments may be nested."           ≠  "Comments may not be nested."         one denies it
    "Population: 34,352,720"            =  "Population: 34.4 million"            a rounding

It is narrow on purpose. Whether free texts contradict each other cannot be told by their words; that two near copies
differ in a value can. What states its own, different year, is about another subject, or is only approximate, is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import combinations
from typing import Final, Protocol

from agents import likeness, terms
from agents.likeness import Statement, statement
from orchestrator.domain.plan import Fact, Json

_ALIKE: Final = 0.7
"""The share of common terms, values and names aside, from which two statements are one with another value."""

_VERY_ALIKE: Final = 0.85
"""The same where only a name or a "not" tells them apart."""

_LEAST: Final = 2
"""Terms that two statements must have in common, unless they have the same and no others."""

_ROUGHLY: Final = re.compile(
    r"\b(?:about|approximately|approx|around|roughly|nearly|almost|over|under|up to|at least|at most|more than|less than|"
    r"fewer than|some|estimated)\b|[~\u2248<>\u2264\u2265]",
    re.IGNORECASE,
)
_MARKS: Final = re.compile(r"[\s*|#-]*+")
_EMPHASIS: Final = re.compile(r"[\s*]*+")
_SEPARATOR: Final = re.compile(r"[:=|]")
_LABEL: Final = range(2, 61)
"""Characters that a field's label may have."""
_ADDED: Final = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_YEAR: Final = re.compile(r"\b(?:1[5-9]|20)\d\d\b")
_IS: Final = re.compile(r"\b(?:is|was|are|were|named|called|by)\s+(?:the\s+)?$", re.IGNORECASE)
_LONGEST_VALUE: Final = 6
"""Words of a field's value that may be compared as a name."""


class Vintage(Protocol):
    """How current a document is."""

    @property
    def date(self) -> date | None:
        """When it was made, as far as it says so."""
        ...

    @property
    def superseded(self) -> bool:
        """Whether it says that another has taken its place."""
        ...

    @property
    def why(self) -> str:
        """How that is known, in a sentence."""
        ...


VintageOf = Callable[[Fact], Vintage | None]


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Facts that cannot all hold, each with its value; perhaps one of them is preferred, and why."""

    facts: Sequence[Fact]
    values: Sequence[str]
    preferred: Fact | None = None
    why: str = ""

    def as_json(self) -> dict[str, Json]:
        """What the keeper hands on."""
        found: dict[str, Json] = {
            "question": self.facts[0].question,
            "facts": [fact.name for fact in self.facts],
            "values": list(self.values),
        }
        if self.preferred is not None:
            found |= {"preferred": self.preferred.name, "why": self.why}
        return found


def find(facts: Sequence[Fact], vintage_of: VintageOf = lambda _: None) -> Sequence[Contradiction]:
    """Return the contradictions among facts from different documents, in the facts' order; each fact is in one at most.

    Where `vintage_of` knows how current their documents are, what is superseded or older yields to the other.
    """
    found: dict[int, list[tuple[Fact, str]]] = {}
    member: dict[str, int] = {}
    for one, other in combinations(facts, 2):
        values = differ(one, other)
        if values is None:
            continue
        at = member.get(one.name, member.get(other.name, len(found)))
        group = found.setdefault(at, [])
        for fact, value in zip((one, other), values, strict=True):
            if fact.name not in member:
                member[fact.name] = at
                group.append((fact, value))
    return [_weighed(group, vintage_of) for group in found.values() if len(group) > 1]


def differ(one: Fact, other: Fact) -> tuple[str, str] | None:
    """Return the values in which two facts contradict each other; `None` where they do not."""
    if one.evidence == other.evidence or one.quote == other.quote:
        return None
    a, b = _bare(one.quote), _bare(other.quote)
    field, as_field = _field(a.text), _field(b.text)
    if field and as_field and field[0] == as_field[0]:
        return _fields(field[1], as_field[1]) if _one_subject(one, other) else None
    alike = likeness.share(a.matter, b.matter)
    few = a.matter != b.matter and len(a.matter & b.matter) < _LEAST
    if alike < _ALIKE or few or not _one_subject(one, other):
        return None
    return _numbers(a, b) or (_denial(a, b) if alike >= _VERY_ALIKE else None) or _names(a, b)


@lru_cache(maxsize=4096)
def _bare(quote: str) -> Statement:
    """A statement without emphasis, and without what it adds in brackets unless that says when it holds."""
    plain = quote.replace("**", "").replace("__", "")
    return statement(_ADDED.sub(lambda found: found[0] if _YEAR.search(found[0]) else " ", plain))


@lru_cache(maxsize=4096)
def _field(text: str) -> tuple[str, str] | None:
    """A field's folded label and its value: what stands before and behind the first colon, equals sign or bar.

    Marks before the label are left out, and emphasis around both; where nothing else would be left, they are part of it.
    """
    start = _MARKS.match(text).end()  # type: ignore[union-attr] # it matches nothing, too
    first = _SEPARATOR.search(text, start)
    ends = [first.start()] if first else []
    # further back a bar among the marks separates, and the marks before it are the label
    ends += [at for at in range(start - 1, -1, -1) if text[at] == "|"]
    for at, end in enumerate(ends, start=1):
        behind = ends[at] + 1 if at < len(ends) else 0
        found = _split(text, behind, min(start, end), end)
        if found is not None:
            return found
    return None


def _split(text: str, earliest: int, latest: int, end: int) -> tuple[str, str] | None:
    """The label that begins as late as it may before a separator, and the value behind that."""
    start = min(latest, end - _LABEL.start)
    stop = end
    while stop > start and (text[stop - 1] == "*" or text[stop - 1].isspace()):
        stop -= 1
    length = max(_LABEL.start, stop - start)
    if start < earliest or length not in _LABEL:
        return None
    value = _EMPHASIS.match(text, end + 1).end()  # type: ignore[union-attr] # it matches nothing, too
    if value == len(text):
        value = text.rfind("*", end + 1)
    return (terms.fold(text[start : start + length]), text[value:]) if value > end else None


# --- in what they differ --------------------------------------------------------------------------------------


def _numbers(a: Statement, b: Statement) -> tuple[str, str] | None:
    if not a.values or len(a.values) != len(b.values) or a.denies != b.denies:
        return None
    if _ROUGHLY.search(a.text) or _ROUGHLY.search(b.text) or a.names != b.names:
        return None
    pairs = [(x, y) for x, y in zip(a.values, b.values, strict=True) if not x.agrees(y)]
    years = [(x, y) for x, y in pairs if x.year and y.year]
    if years and (len(years) < len(pairs) or not _dates(a, years)):
        return None  # each says for itself when it held
    return _texts(pairs) if pairs else None


def _dates(of: Statement, years: Sequence[tuple[likeness.Value, likeness.Value]]) -> bool:
    """Whether a statement's values are a date or a year and nothing else, so that the date is what it says."""
    rest = [v for v in of.values if v not in {year for year, _ in years}]
    return not rest or (any(v.month for v in rest) and all(v.month or 1 <= v.amount <= 31 for v in rest))


def _texts(pairs: Sequence[tuple[likeness.Value, likeness.Value]]) -> tuple[str, str]:
    return ", ".join(x.text for x, _ in pairs), ", ".join(y.text for _, y in pairs)


def _denial(a: Statement, b: Statement) -> tuple[str, str] | None:
    if a.denies == b.denies or a.names != b.names or len(a.values) != len(b.values):
        return None
    if not all(x.agrees(y) for x, y in zip(a.values, b.values, strict=True)):
        return None
    return ("denied", "affirmed") if a.denies else ("affirmed", "denied")


def _names(a: Statement, b: Statement) -> tuple[str, str] | None:
    """One name differs, and it stands where the sentence says what something is; "borders X" may hold for many."""
    mine, yours = a.names - b.names, b.names - a.names
    if len(mine) != 1 or len(yours) != 1 or a.denies != b.denies:
        return None
    if likeness.share(a.matter, b.matter) < _VERY_ALIKE or [v.amount for v in a.values] != [
        v.amount for v in b.values
    ]:
        return None
    found = _said_to_be(a, next(iter(mine))), _said_to_be(b, next(iter(yours)))
    return (found[0], found[1]) if found[0] and found[1] else None


def _said_to_be(of: Statement, name: str) -> str:
    at = terms.fold(of.text).find(name)
    return of.text[at : at + len(name)] if at > 0 and _IS.search(of.text[:at]) else ""


def _fields(one: str, other: str) -> tuple[str, str] | None:
    a, b = statement(one), statement(other)
    if a.values or b.values:
        return (
            _numbers(a, b) if likeness.share(a.terms, b.terms) >= _ALIKE or not (a.terms or b.terms) else None
        )
    brief = max(len(one.split()), len(other.split())) <= _LONGEST_VALUE and "," not in one + other
    same = terms.words(one) == terms.words(other)
    within = set(a.terms) <= set(b.terms) or set(b.terms) <= set(a.terms)
    return (a.text.rstrip(" ."), b.text.rstrip(" .")) if brief and not same and not within else None


# --- of what they speak ---------------------------------------------------------------------------------------


def _one_subject(one: Fact, other: Fact) -> bool:
    """Whether two facts speak of one thing: each names what the question names, and so does its document.

    A field has no subject of its own: it is what its document is called.
    """
    for question in {one.question, other.question}:
        named = {
            term.key
            for term in terms.asked(question)
            if term.weight == terms.NAMED and not term.key.isdigit()
        }
        if named & _about(one) != named & _about(other):
            return False
        if named & _about(one):
            return True
    return bool(_subjects(one) & _subjects(other)) or (bool(_titled(one)) and _titled(one) == _titled(other))


def _subjects(fact: Fact) -> AbstractSet[str]:
    """The names in a statement that come before its first value: what it speaks of, rather than compares with."""
    said = _bare(fact.quote)
    if _field(said.text):
        return frozenset()
    before = terms.fold(said.text[: likeness.first_value(said.text)])
    return {name for name in said.names if name in before}


def _about(fact: Fact) -> set[str]:
    place = "\n".join((terms.locator_words(fact.locator), fact.title, *fact.heading, fact.quote))
    return set(terms.keys(place))


def _titled(fact: Fact) -> AbstractSet[str]:
    """What a document's title says, without what tells its versions apart."""
    return set(terms.keys(_VERSION.sub(" ", fact.title or terms.locator_words(fact.locator))))


_VERSION: Final = re.compile(
    r"\b(?:v\d+(?:\.\d+)*|q[1-4]|(?:19|20)\d\d|draft|final|archived?|old|new|superseded|version)\b|_",
    re.IGNORECASE,
)


# --- which of them is preferred -------------------------------------------------------------------------------


def _weighed(group: Sequence[tuple[Fact, str]], vintage_of: VintageOf) -> Contradiction:
    facts, values = [fact for fact, _ in group], [value for _, value in group]
    known = [(fact, value, vintage_of(fact)) for fact, value in group]
    standing = [(fact, value, v) for fact, value, v in known if v is not None and not v.superseded]
    replaced = [v for _, _, v in known if v is not None and v.superseded]
    if replaced and len({value for _, value, _ in standing}) == 1:
        return Contradiction(
            facts, values, standing[0][0], f"The other is superseded. {replaced[0].why}".strip()
        )
    dated = sorted(
        ((v.date, at) for at, (_, _, v) in enumerate(standing) if v.date is not None), reverse=True
    )
    if dated and len(dated) == len(standing) == len(known) - len(replaced):
        latest = [standing[at] for day, at in dated if day == dated[0][0]]
        if len({value for _, value, _ in latest}) == 1 and len(latest) < len(standing):
            return Contradiction(
                facts, values, latest[-1][0], f"It is the latest: {dated[0][0].isoformat()}."
            )
    return Contradiction(facts, values)
