"""Tells how old a document is, and whether it says that another has taken its place; decides what counts as saying so.

    product/archive/…, policy_superseded.md, "Status: Superseded", "Superseded-By: 3333"   superseded
    q1_2025_ops_report.pdf, "Effective date: 2026-01-01", "Last updated: May 2026"         dated
    anything else                                                                          neither

Only what a document says of itself counts, in its name or at its head. That it *mentions* something superseded, or a
year, says nothing: "superseded by the 2026 brief" is about the document, "this supersedes PEP 333" about another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import PurePosixPath
from typing import Final

from agents import terms
from orchestrator.domain.plan import Evidence, Fact

_HEAD: Final = 1_500
"""Characters of a document in which it says what it is."""


@dataclass(frozen=True, slots=True)
class Vintage:
    """When a document was made, as far as it says so, and whether it is superseded; `why` says how that is known."""

    date: date | None = None
    superseded: bool = False
    why: str = ""


def of(locator: str, title: str, text: str) -> Vintage:
    """Return the vintage of a document from its name, its title and its first lines."""
    head = text[:_HEAD]
    why = _superseded_by_name(locator) or _superseded_by_head(title, head)
    dated = _date_in_head(head) or _date_in_name(locator) or _date_in_title(title)
    return Vintage(dated, bool(why), why)


def of_fact(fact: Fact, evidence_of: Callable[[str], Evidence | None]) -> Vintage | None:
    """Return how current a fact's document is; `None` for one that a question about the past asks for."""
    if wanted(fact.question, fact.locator):
        return None
    evidence = evidence_of(fact.evidence)
    return None if evidence is None else of(evidence.locator, evidence.title, evidence.text)


def asks_for_the_past(question: str) -> bool:
    """Whether a question is about how things were: a past year it names, or a previous version."""
    return bool(_PAST.search(question) or years(question))


def years(question: str) -> frozenset[int]:
    """The years that a question names."""
    return frozenset(int(year) for year in _YEAR.findall(question))


def names(question: str, locator: str) -> bool:
    """Whether a question names a document itself, as "What does PEP 345 say?" names "pep-0345.rst"."""
    said = terms.words(terms.locator_words(PurePosixPath(locator).name))
    return any(map(str.isdigit, said)) and set(said) <= set(terms.words(question))


def wanted(question: str, locator: str) -> bool:
    """Whether a superseded document answers a question all the same: it is named, or the past is asked for."""
    return asks_for_the_past(question) or names(question, locator)


def series(locator: str) -> str:
    """What versions of one document have in common: the name without what tells them apart; empty for a single one.

    "ops/archive/q1_2024_ops_report.pdf" and "ops/q1_2026_ops_report.pdf" are both an "ops report"; "pep-0008.rst" is
    one of a kind, since its number is no date and no version.
    """
    stem = re.sub(r"[\W_]+", " ", PurePosixPath(locator).stem.lower())
    bare = " ".join(word for word in _APART.sub(" ", f" {stem} ").split() if word not in _STANDING)
    return bare if bare != stem.strip() else ""


def superseding(locator: str, text: str) -> frozenset[str]:
    """The names, such as `pep-3333`, of the documents that a superseded one says have taken its place."""
    series = re.match(r"([a-z]+)-?\d+", PurePosixPath(locator).stem.lower())
    numbers = _SUPERSEDED_BY.search(text[:_HEAD])
    if not series or not numbers:
        return frozenset()
    return frozenset(f"{series[1]}-{int(number):04d}" for number in re.findall(r"\d+", numbers[1]))


# --- said by its name -----------------------------------------------------------------------------------------

_FOLDERS: Final = frozenset(
    {"archive", "archived", "archives", "old", "obsolete", "superseded", "deprecated", "retired"}
)
_MARKS: Final = frozenset({"superseded", "obsolete", "outdated", "deprecated", "retired", "archived"})
_STANDING: Final = _FOLDERS | _MARKS | {"draft", "final", "version", "new", "current", "latest"}


def _superseded_by_name(locator: str) -> str:
    path = PurePosixPath(locator)
    folder = next((part for part in path.parts[:-1] if part.lower() in _FOLDERS), None)
    if folder is not None:
        return f"It lies in a folder named {folder}."
    words = re.split(r"[\W_]+", path.stem.lower())
    # at the end of the name only: "deprecated_features.md" is about them, "features_deprecated.md" is one
    if len(words) > 1 and words[-1] in _MARKS:
        return f"Its name says {words[-1]}."
    return ""


# --- said at its head -----------------------------------------------------------------------------------------

_STATUS: Final = re.compile(
    r"^[\W_]*status[\W_]*:[\W_]*(superseded|obsolete|deprecated|retired|replaced|outdated|archived)\b",
    re.IGNORECASE | re.MULTILINE,
)
_SUPERSEDED_BY: Final = re.compile(
    r"^[\W_]*(?:superseded|obsoleted|replaced)[- ]by[\W_]*:[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE
)
_IN_TITLE: Final = re.compile(
    r"[(\[][^)\]]*\b(superseded|obsolete|outdated|deprecated|retired)\b", re.IGNORECASE
)
_NOTICE: Final = re.compile(
    r"^[\W_]*(?:note|notice|warning|attention)\b[^\n]{0,80}\b(?:superseded|replaced|obsoleted) by\b"
    r"|^[\W_]*this (?:document|policy|version|page|report|brief|guide|specification|pep)"
    r" (?:is|was|has been) (?:now )?(?:superseded|obsolete|obsoleted|replaced|outdated|retired)\b",
    re.IGNORECASE | re.MULTILINE,
)
_PLACEHOLDER: Final = re.compile(r"[<{\[]")


def _superseded_by_head(title: str, head: str) -> str:
    if status := _STATUS.search(head):
        return f"It says that its status is {status[1].lower()}."
    by = _SUPERSEDED_BY.search(head)
    if by and not _PLACEHOLDER.match(by[1]):
        return f"It says that it is superseded by {by[1].strip()[:60]}."
    if said := _IN_TITLE.search(title):
        return f"Its title says {said[1].lower()}."
    if notice := _NOTICE.search(head):
        return f"It says: {' '.join(notice[0].split())[:80]}."
    return ""


# --- dates ----------------------------------------------------------------------------------------------------

_MONTHS_TEXT: Final = """
january jan|february feb|march mar|april apr|may|june jun|july jul|august aug|september sep sept|october oct
|november nov|december dec
"""
_MONTHS: Final = {
    name: number for number, names in enumerate(_MONTHS_TEXT.split("|"), 1) for name in names.split()
}
_MONTH: Final = "|".join(sorted(_MONTHS, key=len, reverse=True))
_YEAR: Final = re.compile(r"(?<![\w.,])((?:19|20)\d\d)(?![\w]|[.,]\d)")
_FIELD: Final = re.compile(
    r"^[\W_]*(?:\w{1,12} - )?(?:effective(?: date)?|last[- ](?:updated|modified|revised|reviewed)|updated|revised|as of"
    r"|valid from|published|created|date)\b[\W_]*(?::|\bon\b|\bfrom\b|\bas of\b)?[\W_]*(?P<rest>[^\n|]{4,40})",
    re.IGNORECASE,
)
_APART: Final = re.compile(
    r"(?<= )(?:(?:19|20)\d\d(?: (?:0[1-9]|1[0-2])(?= ))?(?: (?:0[1-9]|[12]\d|3[01])(?= ))?|(?:19|20)\d{6}"
    r"|q[1-4]|fy ?\d{2,4}|v ?\d+(?: \d+)*"
    rf"|rev ?\d+|(?:{_MONTH})(?:(?:19|20)\d\d)?)(?= )"
)
_ISO: Final = re.compile(r"\b((?:19|20)\d\d)-(\d\d?)(?:-(\d\d?))?\b")
_WRITTEN: Final = re.compile(
    rf"\b(?:(\d\d?)[ -](?:of )?)?({_MONTH})\.?[ -](?:(\d\d?),? )?((?:19|20)\d\d)\b", re.IGNORECASE
)
_QUARTER: Final = re.compile(r"(?<![a-z0-9])q([1-4])[\W_]*((?:19|20)\d\d)(?!\d)", re.IGNORECASE)
_NAMED: Final = re.compile(
    r"(?<!\d)((?:19|20)\d\d)(?:[-_.]?(0[1-9]|1[0-2])(?:[-_.]?(0[1-9]|[12]\d|3[01]))?)?(?!\d)"
)
_PAST: Final = re.compile(
    r"\b(?:previous(?:ly)?|formerly|former|earlier version|old(?:er)? version|used to|in the past|historical(?:ly)?"
    r"|superseded|archived|obsolete|outdated|back then|originally|at (?:that|the) time|last year)\b",
    re.IGNORECASE,
)


def _date_in_head(head: str) -> date | None:
    for line in head.splitlines()[:25]:
        field = _FIELD.match(line)
        found = _date_in(field["rest"]) if field else _date_in(line) if _is_byline(line) else None
        if found is not None:
            return found
    return None


def _is_byline(line: str) -> bool:
    """Whether a line says who made a document and when, as "**Internal | Product team, March 2026**"."""
    bare = line.strip(" *_|>#-")
    return len(bare) <= 120 and "|" in bare and not line.lstrip().startswith("|") and not bare.endswith(".")


def _date_in(text: str) -> date | None:
    if iso := _ISO.search(text):
        return _made(iso[1], iso[2], iso[3])
    if written := _WRITTEN.search(text):
        return _made(written[4], _MONTHS[written[2].lower()], written[1] or written[3])
    if quarter := _QUARTER.search(text):
        return _made(quarter[2], 3 * int(quarter[1]), None)
    year = _YEAR.search(text)
    return _made(year[1], None, None) if year else None


def _date_in_title(title: str) -> date | None:
    return _date_in(title) if _YEAR.search(title) else None


def _date_in_name(locator: str) -> date | None:
    stem = PurePosixPath(locator).stem
    if quarter := _QUARTER.search(stem):
        return _made(quarter[2], 3 * int(quarter[1]), None)
    if written := re.search(rf"(?<![a-z])({_MONTH})[-_ ]?((?:19|20)\d\d)(?!\d)", stem, re.IGNORECASE):
        return _made(written[2], _MONTHS[written[1].lower()], None)
    named = _NAMED.search(stem)
    return _made(named[1], named[2], named[3]) if named else None


def _made(year: str, month: str | int | None, day: str | int | None) -> date | None:
    try:
        return date(int(year), int(month or 1), int(day or 1))
    except ValueError:
        return None
