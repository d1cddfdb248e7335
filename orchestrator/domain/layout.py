"""What is printed of a report and in which order, for whatever prints it: Markdown, HTML, PDF.

    title → banners → sections → counter-evidence → contradictions → gaps → sources → about

Every text here is on one line and has nothing hidden in it: characters without a shape, or that turn the direction of
reading, are written out. Who prints it has only to escape what its format would take for markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.domain import claims
from orchestrator.domain.plan import digest

SHORT: Final = 60
"""Characters up to which a quote is printed with the headings that it stands under."""

NOT_FOUND: Final = "Not found in the sources."
GREETING: Final = "Hello. Ask a question, and the answer will be looked for in the documents."
DECLINED: Final = "This was declined, and not researched."

SUPPORT: Final = (
    "Support (how much a section rests on): 0.50 for one source, and each further one halves what is missing to 1; "
    "half of that where it is contradicted, and half where all of it is superseded. It is no probability"
)

_VERSIONS: Final = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Banner:
    """What a reader must know before the first sentence."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence with its citations, where it stands if that is needed, and remarks such as `computed`."""

    text: str
    citations: tuple[int, ...] = ()
    context: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """A heading, what is said below it, and its lines; `level` 3 stands under the block of level 2 before it."""

    title: str
    lines: tuple[Line, ...] = ()
    remark: str = ""
    level: int = 2


@dataclass(frozen=True, slots=True)
class Source:
    """Where a quote stands, and what is to be known about that place."""

    number: int
    locator: str
    heading: str
    place: str
    sha256: str
    quote: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report, ready to be printed; `sha256` is the digest that the audit has sealed."""

    title: str
    banners: tuple[Banner, ...]
    empty: str
    blocks: tuple[Block, ...]
    sources: tuple[Source, ...]
    about: tuple[str, ...]
    sha256: str


def lay_out(report: Mapping[str, Any]) -> Page:
    """Return what is printed of a report; raises `ValueError` and its like for what is none."""
    if report.get("v", 1) not in _VERSIONS or isinstance(report.get("v"), bool):
        raise ValueError(f"version {report['v']!r} of the form is not known here")
    cited = {citation["number"]: citation for citation in report["citations"]}
    superseded = _superseded(report)
    return Page(
        title=shown(report["goal"]),
        banners=tuple(_banners(report)),
        empty="" if report["sections"] or report.get("contradictions") else _empty(report),
        blocks=tuple(_blocks(report, cited, superseded)),
        sources=tuple(_source(citation, superseded) for citation in report["citations"]),
        about=tuple(_about(report)),
        sha256=digest(report),
    )


def shown(text: str) -> str:
    """A text on one line, in which nothing is hidden."""
    return claims.visible(" ".join(text.split()))


def _banners(report: Mapping[str, Any]) -> Iterator[Banner]:
    if report["verdict"] == "needs_review":
        yield Banner("Needs review", "the judge did not accept this draft; a person should read it.")
    if report["partial"]:
        yield Banner("Partial", "a limit of this plan's budget cut the research short.")


def _empty(report: Mapping[str, Any]) -> str:
    if report["verdict"] == "declined":
        return " ".join(shown(note) for note in report["notes"]) or DECLINED
    return GREETING if report["verdict"] == "casual" else NOT_FOUND


def _superseded(report: Mapping[str, Any]) -> Mapping[int, str]:
    return {one["citation"]: shown(one["why"]) for one in report.get("superseded", ())}


# --- blocks ---------------------------------------------------------------------------------------------------


def _blocks(
    report: Mapping[str, Any], cited: Mapping[int, Mapping[str, Any]], superseded: Mapping[int, str]
) -> Iterator[Block]:
    sections, version = report["sections"], report.get("v", 1)
    answering = [s for s in sections if s.get("side", "for") == "for"]
    opposing = [s for s in sections if s.get("side", "for") != "for"]
    for section in answering:
        yield _section(section, cited, superseded, version=version, level=2)
    if opposing:
        yield Block(
            "Counter-evidence", remark="What was looked for because it would speak against the answer."
        )
        for section in opposing:
            yield _section(section, cited, superseded, version=version, level=3)
    if report.get("contradictions"):
        yield Block("Contradictions", remark="The sources do not agree; each side is quoted.")
        for contradiction in report["contradictions"]:
            yield _contradiction(contradiction, cited, superseded)
    gaps = [_gap(gap) for gap in report["gaps"]]
    if gaps and (sections or version > 1):
        yield Block("Not found in the sources", tuple(gaps))


def _section(
    section: Mapping[str, Any],
    cited: Mapping[int, Mapping[str, Any]],
    superseded: Mapping[int, str],
    *,
    version: int,
    level: int,
) -> Block:
    lines = tuple(_line(sentence, cited, superseded) for sentence in section["sentences"])
    remark = ""
    if version > 1:
        support = section["confidence" if version == 2 else "support"]
        remark = f"Support {support:.2f}: {many(section['sources'], 'source')}"
        remark += "".join(f", {said}" for said in section["doubts"]) + "."
    return Block(shown(section["title"]), lines, shown(remark), level)


def _line(
    sentence: Mapping[str, Any], cited: Mapping[int, Mapping[str, Any]], superseded: Mapping[int, str]
) -> Line:
    numbers = tuple(sentence["citations"])
    remarks = []
    if any(cited.get(n, {}).get("computed") for n in numbers):
        remarks.append("computed")
    if numbers and all(n in superseded for n in numbers):
        remarks.append("superseded source")
    return Line(shown(sentence["text"]), numbers, _context(sentence, cited), tuple(remarks))


def _context(sentence: Mapping[str, Any], cited: Mapping[int, Mapping[str, Any]]) -> str:
    """Where a short quote stands, without which nobody knows what "total: 123 sq km" is the total of."""
    first = cited.get(sentence["citations"][0]) if sentence["citations"] else None
    if first is None or not first["heading"] or len(sentence["text"]) > SHORT:
        return ""
    return _trail(first["heading"])


def _trail(heading: Sequence[str]) -> str:
    return " › ".join(shown(part) for part in heading)


def _contradiction(
    contradiction: Mapping[str, Any],
    cited: Mapping[int, Mapping[str, Any]],
    superseded: Mapping[int, str],
) -> Block:
    lines = []
    for side in contradiction["sides"]:
        line = _line(side, cited, superseded)
        remarks = line.remarks
        if contradiction["preferred"] in side["citations"]:
            why = shown(contradiction["why"])
            remarks = (f"preferred: {why}" if why else "preferred", *remarks)
        lines.append(Line(line.text, line.citations, line.context, remarks))
    values = " / ".join(shown(side["value"]) for side in contradiction["sides"] if side["value"])
    return Block(shown(contradiction["question"]), tuple(lines), values, 3)


def _gap(gap: Any) -> Line:
    if isinstance(gap, str):
        return Line(shown(gap))
    return Line(shown(gap["question"]), remarks=(shown(gap["reason"]),))


# --- sources and what is said at the end ------------------------------------------------------------------------


def _source(citation: Mapping[str, Any], superseded: Mapping[int, str]) -> Source:
    remarks = []
    if citation.get("computed"):
        remarks.append(f"computed; digest of script and inputs: {shown(citation['script']) or 'none'}")
    if citation["number"] in superseded:
        remarks.append(f"superseded: {superseded[citation['number']]}")
    strange = list(dict.fromkeys(claims.mixed(citation["quote"])))
    if strange:
        remarks.append(f"mixes alphabets in one word: {', '.join(shown(word) for word in strange)}")
    return Source(
        number=citation["number"],
        locator=shown(citation["locator"]),
        heading=_trail(citation["heading"]) or shown(citation["title"]),
        place=f"characters {citation['start']}–{citation['end']}",
        sha256=shown(citation["origin_sha256"]),
        quote=shown(citation["quote"]),
        remarks=tuple(remarks),
    )


def _about(report: Mapping[str, Any]) -> Iterator[str]:
    yield shown(report["method"])
    if report["verdict"] != "declined":  # there they stand above, as the answer
        yield from (shown(note) for note in report["notes"])
    if not report["sections"]:
        return
    share = f"Confidence (share of what was asked that the sources answer): {report['confidence']:.2f}"
    basis = report.get("basis")
    if basis is None:
        yield share
        return
    parts = [
        f"{basis['answered']:d} of {many(basis['asked'], 'question')}",
        many(basis["sources"], "source"),
        many(len(report["contradictions"]), "contradiction"),
        many(len(report["superseded"]), "superseded source"),
    ]
    yield f"{share}, from {', '.join(parts)}"
    yield SUPPORT


def many(number: int, noun: str) -> str:
    """Return how many there are of it: `2 sources`, `1 source`."""
    return f"{number:d} {noun}{'' if number == 1 else 's'}"
