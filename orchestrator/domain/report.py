"""A report, its rendering, and the proof that it says only what its evidence contains.

A report is plain JSON, so that it can be stored, compared and checked anywhere:

    {"v": 3, "goal": …, "verdict": answered | not_found | needs_review | casual | declined, "method": …,
     "partial": false,
     "sections": [{"title": …, "side": for | against, "sentences": [{"text": …, "citations": [1]}],
                   "sources": 2, "doubts": [contradicted, superseded], "support": 0.75}],
     "contradictions": [{"question": …, "sides": [{"text": …, "citations": [1], "value": "26"}],
                         "preferred": 1 or null, "why": …}],
     "citations": [{"number": 1, "fact": "F3.1", "quote": …, "evidence": SHA-256, "start": …, "end": …, …,
                    "computed": false, "script": SHA-256 of what computed it}],
     "superseded": [{"citation": 1, "date": "2021-04-01" or null, "why": …}],
     "gaps": [{"question": …, "reason": …}], "notes": [what a reader should know],
     "confidence": 0.0 to 1.0, "basis": {"asked": 2, "answered": 1, "sources": 2, "repaired": 0, "dropped": 0, …}}

A sentence is supported when it is, word for word, one of the quotes that it cites; white space does not count. A quote
is verified when its evidence has the digest that it is filed under and contains the quote at the span given. A
paraphrase is not called verified: nothing here could prove it. It is not printed either: in its place stand the quotes
that it cites, where they are about the same, and else nothing.

`confidence` is of the whole: the share of what was asked that something printed answers. `support` is of a section: how
much it rests on. Version 2 called both confidence; version 1 had no sides, contradictions, nor what confidence is made
of. Reports of both are read and checked as they were.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from orchestrator.domain import claims
from orchestrator.domain.layout import Block, Line, Source, lay_out
from orchestrator.domain.plan import Evidence, Fact, Json

EvidenceOf = Callable[[str], "Evidence | None"]
"""Looks a stored source up by its digest."""

COMPUTED: Final = "computed:"
"""How the locator of evidence begins that a script has computed; the digest of script and inputs follows."""

VERDICTS: Final = ("answered", "not_found", "needs_review", "casual", "declined")
SILENT: Final = frozenset({"not_found", "casual", "declined"})
"""Verdicts of reports that have no sentence."""

NOT_ANSWERED: Final = "nothing that was found answers it"


class Vintage(Protocol):
    """How current a document is: its date, and whether and why a later one has taken its place."""

    @property
    def date(self) -> dt.date | None:
        """The day it is of, where it says so."""
        ...

    @property
    def superseded(self) -> bool:
        """Whether a later document has taken its place."""
        ...

    @property
    def why(self) -> str:
        """What says so."""
        ...


VintageOf = Callable[[Fact], "Vintage | None"]
"""Says how current the source of a fact is."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing in a report that does not hold, and where."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def plain(text: str) -> str:
    """Return a text on one line, its white space collapsed: how a quote is printed and compared."""
    return " ".join(text.split())


def supports(sentence: str, quotes: Iterable[str]) -> bool:
    """Whether the sentence is one of the quotes, word for word; an empty sentence is supported by nothing.

    A part of a quote is not enough: "X is safe" stands in "It is false that X is safe".
    """
    words = plain(sentence)
    return bool(words) and any(words == plain(quote) for quote in quotes)


def verified(fact: Fact, evidence: Evidence | None) -> bool:
    """Whether a fact's quote stands in its evidence at its span, and the evidence is what its digest says."""
    return fault_of_quote(fact.quote, fact.evidence, fact.start, fact.end, evidence) is None


def fault_of_quote(
    quote: object, sha256: object, start: object, end: object, evidence: Evidence | None
) -> str | None:
    """Say what is wrong with a quote, or return `None`."""
    if evidence is None:
        return f"its evidence {sha256} is not stored"
    if hashlib.sha256(evidence.text.encode()).hexdigest() != sha256:
        return f"the text of evidence {sha256} was altered"
    if not (type(start) is int and type(end) is int and 0 <= start < end <= len(evidence.text)):
        return f"the span {start} to {end} does not lie in evidence {sha256}"
    if evidence.text[start:end] != quote:
        return f"evidence {sha256} does not read like that at characters {start} to {end}"
    return None


def build(
    *,
    goal: str,
    verdict: str,
    method: str,
    partial: bool,
    sections: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Fact],
    evidence_of: EvidenceOf,
    asked: Sequence[str] = (),
    reasons: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    contradictions: Sequence[Mapping[str, Any]] = (),
    against: Iterable[str] = (),
    usable: Iterable[Fact] = (),
    vintage_of: VintageOf | None = None,
) -> dict[str, Json]:
    """Return the report of a draft; only quotes of verified facts are printed, and what else was in it is counted.

    `sections` are those of a draft: a title, and sentences with the names of the facts they rest on. `contradictions`
    are the keeper's, `against` the names of facts that were looked for to speak against the answer. Of the questions
    `asked`, those that nothing printed answers become gaps, with the reason given for them. A sentence answers the
    question of each of the `usable` facts that it is the wording of: a draft says it once, for whichever came first.
    """
    desk = _Desk(facts, evidence_of)
    printed = list(_sections(sections, desk, frozenset(against)))
    disputes = list(_contradictions(contradictions, desk))
    superseded = list(_superseded(desk.cited, vintage_of))
    stale = {entry["citation"] for entry in superseded}
    disputed = _disputed(disputes)
    evidence = {number: fact.evidence for number, fact in desk.cited.items()}
    for section in printed:
        section.update(_weighed(section["sentences"], evidence, disputed, stale, version=3))
    answers = {n for section in printed for sentence in section["sentences"] for n in sentence["citations"]}
    said = {plain(desk.cited[n].quote).casefold() for n in answers}
    alike = [fact.name for fact in usable if plain(fact.quote).casefold() in said]
    answered = {fact.question for fact in (*(desk.cited[n] for n in answers), *desk.sound(alike))}
    questions = list(dict.fromkeys(asked))
    gaps = [
        {"question": q, "reason": (reasons or {}).get(q) or NOT_ANSWERED}
        for q in questions
        if q not in answered
    ]
    if not printed and verdict == "answered":
        verdict = "needs_review" if disputes else "not_found"
    share = (len(questions) - len(gaps)) / len(questions) if questions and printed else 0.0
    return {
        "v": 3,
        "goal": goal,
        "verdict": verdict,
        "method": method,
        "partial": partial,
        "sections": printed,
        "contradictions": disputes,
        "citations": [_citation(number, fact, version=3) for number, fact in desk.cited.items()],
        "superseded": superseded,
        "gaps": gaps,
        "notes": [*notes, *desk.notes()],
        "confidence": round(share, 2),
        "basis": {
            "asked": len(questions),
            "answered": len(questions) - len(gaps),
            "sources": len(set(evidence.values())),
            **desk.counts(),
        },
    }


@dataclass(slots=True)
class _Desk:
    """Where a draft's sentences are held against their evidence, and what is cited gets its number."""

    facts: Mapping[str, Fact]
    evidence_of: EvidenceOf
    cited: dict[int, Fact] = field(default_factory=dict)
    repaired: int = 0
    dropped: int = 0
    withheld: int = 0
    unsupported: Counter[str] = field(default_factory=Counter)
    _numbers: dict[str, int] = field(default_factory=dict)
    _sound: dict[str, bool] = field(default_factory=dict)

    def sound(self, names: Iterable[Any]) -> list[Fact]:
        """The facts of these names that verify, each once."""
        named = [self.facts[name] for name in dict.fromkeys(map(str, names)) if name in self.facts]
        return [fact for fact in named if self._verifies(fact)]

    def _verifies(self, fact: Fact) -> bool:
        if fact.name not in self._sound:
            self._sound[fact.name] = verified(fact, self.evidence_of(fact.evidence))
        return self._sound[fact.name]

    def supports(self, sentence: Mapping[str, Any]) -> bool:
        """Whether a drafted sentence is a quote that it cites."""
        return supports(str(sentence["text"]), [fact.quote for fact in self.sound(sentence["facts"])])

    def cite(self, facts: Iterable[Fact]) -> list[int]:
        """Return the numbers of these facts, in order; who has none gets the next."""
        numbers = []
        for fact in facts:
            number = self._numbers.setdefault(fact.name, len(self._numbers) + 1)
            self.cited[number] = fact
            numbers.append(number)
        return sorted(set(numbers))

    def quoted(self, text: str, cited: Sequence[Fact]) -> list[list[Fact]]:
        """Return the facts of each quote that may be printed for a drafted sentence; none if it cannot be helped.

        A sentence that is a quote is printed as it is. Another is replaced by those quotes that it cites and that are
        about the same: what they do not say, it had from somewhere else.
        """
        bearing = [fact for fact in cited if supports(text, [fact.quote])]
        if bearing:
            return [bearing]
        by_quote: dict[str, list[Fact]] = {}
        for fact in cited:
            if claims.alike(text, fact.quote):
                by_quote.setdefault(plain(fact.quote), []).append(fact)
        said = {m.kind.value for m in claims.contained(text, [fact.quote for fact in cited])}
        self.unsupported.update(said or {"wording"})
        if by_quote:
            self.repaired += 1
        else:
            self.dropped += 1
        return list(by_quote.values())

    def counts(self) -> dict[str, Json]:
        """What became of sentences that were no quotes."""
        return {
            "repaired": self.repaired,
            "dropped": self.dropped,
            "unsupported": dict(sorted(self.unsupported.items())),
        }

    def notes(self) -> Iterator[str]:
        """The same for a reader; the altered wording itself is not repeated."""
        if self.repaired:
            yield f"Sentences in other words than their evidence, replaced by the quotes that they cite: {self.repaired}."
        if self.dropped:
            yield f"Sentences left out because no verified evidence contains them: {self.dropped}."
        if self.unsupported:
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.unsupported.items()))
            yield f"What those sentences had and their evidence has not, by kind: {kinds}."
        if self.withheld:
            yield f"Contradictions left out because fewer than two sides could be verified: {self.withheld}."


def _sections(
    drafted: Sequence[Mapping[str, Any]], desk: _Desk, against: frozenset[str]
) -> Iterator[dict[str, Any]]:
    """Yield the sections to print, those that speak against the answer last."""
    sides: dict[str, list[dict[str, Any]]] = {"for": [], "against": []}
    seen = {plain(str(s["text"])) for section in drafted for s in section["sentences"] if desk.supports(s)}
    for section in drafted:
        sentences: dict[str, list[Json]] = {"for": [], "against": []}
        for sentence in section["sentences"]:
            text = str(sentence["text"])
            for bearing in desk.quoted(text, desk.sound(sentence["facts"])):
                quote = plain(bearing[0].quote)
                if quote in seen and not supports(text, [quote]):
                    continue  # it stands in the report already
                seen.add(quote)
                side = "against" if all(fact.name in against for fact in bearing) else "for"
                sentences[side].append({"text": quote, "citations": desk.cite(bearing)})
        for side, kept in sentences.items():
            if kept:
                sides[side].append({"title": section["title"], "side": side, "sentences": kept})
    yield from (*sides["for"], *sides["against"])


def _contradictions(found: Sequence[Mapping[str, Any]], desk: _Desk) -> Iterator[dict[str, Any]]:
    for contradiction in found:
        names = [str(name) for name in contradiction["facts"]]
        values = dict(zip(names, map(str, contradiction.get("values") or ()), strict=False))
        sides: dict[str, dict[str, Any]] = {}
        for fact in desk.sound(names):
            text = plain(fact.quote)
            value = plain(values.get(fact.name, ""))
            # a value that its own quote does not spell out is not printed
            side = sides.setdefault(
                text, {"text": text, "facts": [], "value": value if value in text else ""}
            )
            side["facts"].append(fact)
        if len(sides) < 2:
            desk.withheld += 1
            continue
        shown = [
            {"text": side["text"], "citations": desk.cite(side["facts"]), "value": side["value"]}
            for side in sides.values()
        ]
        preferred = desk.sound([contradiction.get("preferred") or ""])
        chosen = preferred[0].name if preferred and preferred[0].name in names else None
        yield {
            "question": plain(str(contradiction["question"])),
            "sides": shown,
            "preferred": desk.cite(preferred)[0] if chosen else None,
            "why": plain(str(contradiction.get("why") or "")) if chosen else "",
        }


def _disputed(disputes: Iterable[Mapping[str, Any]]) -> set[int]:
    """The citations that a contradiction leaves in doubt: its sides, but for the one that is preferred."""
    sides = [(side, d["preferred"]) for d in disputes for side in d["sides"]]
    return {n for side, preferred in sides if preferred not in side["citations"] for n in side["citations"]}


def _superseded(cited: Mapping[int, Fact], vintage_of: VintageOf | None) -> Iterator[dict[str, Any]]:
    for number, fact in cited.items():
        vintage = vintage_of(fact) if vintage_of else None
        if vintage is not None and vintage.superseded:
            yield {
                "citation": number,
                "date": vintage.date.isoformat() if vintage.date else None,
                "why": plain(vintage.why),
            }


def _weighed(
    sentences: Sequence[Mapping[str, Any]],
    evidence: Mapping[int, str],
    disputed: Iterable[int],
    superseded: Iterable[int],
    *,
    version: int,
) -> dict[str, Json]:
    """What a section rests on, and how far that supports it.

    Each source halves the doubt that is left. It counts for half where it is contradicted by what is as good, and
    where all of it has been superseded.
    """
    numbers = {n for sentence in sentences for n in sentence["citations"]}
    sources = len({evidence[n] for n in numbers})
    doubts = [
        *(["contradicted"] if numbers & set(disputed) else []),
        *(["superseded"] if numbers <= set(superseded) else []),
    ]
    support = (1 - 0.5**sources) * 0.5 ** len(doubts)
    called = "confidence" if version == 2 else "support"
    return {"sources": sources, "doubts": doubts, called: round(support, 2)}


def _citation(number: int, fact: Fact, *, version: int) -> dict[str, Json]:
    place: dict[str, Json] = {
        "number": number,
        "fact": fact.name,
        "quote": fact.quote,
        "evidence": fact.evidence,
        "start": fact.start,
        "end": fact.end,
        "locator": fact.locator,
        "title": fact.title,
        "heading": list(fact.heading),
        "origin_sha256": fact.origin_sha256,
    }
    return place if version == 1 else {**place, **_computed(fact.locator)}


def _computed(locator: str) -> dict[str, Json]:
    computed = locator.startswith(COMPUTED)
    return {"computed": computed, "script": locator.removeprefix(COMPUTED) if computed else ""}


# --- proof ----------------------------------------------------------------------------------------------------


def check(
    report: Mapping[str, Any],
    evidence_of: EvidenceOf,
    facts: Mapping[str, Fact] | None = None,
    *,
    vintage_of: VintageOf | None = None,
) -> list[Fault]:
    """Return everything in a report that does not hold; an empty list means that every sentence is proven.

    With the plan's `facts` by name, every citation must also be the fact that was recorded; with `vintage_of` besides,
    every superseded source must be named as one.
    """
    faults: list[Fault] = []
    try:
        version = report.get("v", 1)
        cited = _check_citations(report["citations"], evidence_of, facts, faults, version=version)
        markdown(report)  # what cannot be printed is not a report
        sentences = [s for section in report["sections"] for s in section["sentences"]]
        for number, sentence in enumerate(sentences, start=1):
            _check_sentence(f"sentence {number}", sentence, cited, faults)
        if report["verdict"] == "answered" and not sentences:
            faults.append(Fault("report", "it claims an answer but has no sentence"))
        if version != 1:
            _check_rest(report, cited, faults)
            _check_vintages(report, facts, vintage_of, faults)
            _check_gaps(report, facts, faults)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        faults.append(
            Fault("report", f"it is not of the form this program writes ({type(error).__name__}: {error})")
        )
    return faults


def _check_citations(
    citations: Sequence[Mapping[str, Any]],
    evidence_of: EvidenceOf,
    facts: Mapping[str, Fact] | None,
    faults: list[Fault],
    *,
    version: int,
) -> dict[int, str]:
    cited: dict[int, str] = {}
    for number, citation in enumerate(citations, start=1):
        where = f"citation {citation['number']}"
        evidence = evidence_of(str(citation["evidence"]))
        fault = fault_of_quote(
            citation["quote"], citation["evidence"], citation["start"], citation["end"], evidence
        )
        if fault is None and evidence is not None and evidence.origin_sha256 != citation["origin_sha256"]:
            fault = "the digest of its original file is not the stored one"
        if fault is None and facts is not None and _citation_of(citation, facts, version) != dict(citation):
            fault = f"it differs from fact {citation['fact']} as it was recorded"
        if fault is None and version != 1 and not _computed(citation["locator"]).items() <= citation.items():
            fault = "whether a script has computed it, and which, is not what its locator says"
        if type(citation["number"]) is not int or citation["number"] != number:
            fault = f"it is listed as number {number}"
        if fault is not None:
            faults.append(Fault(where, fault))
        cited[citation["number"]] = citation["quote"]
    return cited


def _citation_of(citation: Mapping[str, Any], facts: Mapping[str, Fact], version: int) -> Json:
    fact = facts.get(str(citation["fact"]))
    return None if fact is None else _citation(citation["number"], fact, version=version)


def _check_sentence(
    where: str, sentence: Mapping[str, Any], cited: Mapping[int, str], faults: list[Fault]
) -> None:
    if not sentence["citations"]:
        faults.append(Fault(where, "it carries no citation"))
        return
    unknown = [n for n in sentence["citations"] if type(n) is not int or n not in cited]
    if unknown:
        faults.append(Fault(where, f"it cites {unknown[0]}, which is not listed"))
    quotes = [cited[n] for n in sentence["citations"] if n in cited]
    if not all(supports(sentence["text"], [quote]) for quote in quotes) or not quotes:
        faults.append(Fault(where, "what it says does not stand in what it cites"))


def _check_rest(report: Mapping[str, Any], cited: Mapping[int, str], faults: list[Fault]) -> None:
    """Check what is said since version 2 besides its sentences: sides, contradictions, and how sure it is of what."""
    if report["verdict"] not in VERDICTS:
        faults.append(Fault("report", f"its verdict {report['verdict']!r} is none of {', '.join(VERDICTS)}"))
    if report["verdict"] in SILENT and (report["sections"] or report["contradictions"]):
        faults.append(Fault("report", f"it is {report['verdict']}, and yet says something"))
    for number, dispute in enumerate(report["contradictions"], start=1):
        _check_contradiction(f"contradiction {number}", dispute, cited, faults)
    disputed = _disputed(report["contradictions"])
    superseded = [one["citation"] for one in report["superseded"]]
    if any(type(n) is not int or n not in cited for n in superseded) or len(set(superseded)) < len(
        superseded
    ):
        faults.append(Fault("superseded", "it names what is not cited, or the same twice"))
    evidence = {citation["number"]: citation["evidence"] for citation in report["citations"]}
    for number, section in enumerate(report["sections"], start=1):
        known = [s for s in section["sentences"] if all(n in evidence for n in s["citations"])]
        if section["side"] not in {"for", "against"}:
            faults.append(Fault(f"section {number}", f"its side is {section['side']!r}"))
        weighed = _weighed(known, evidence, disputed, superseded, version=report["v"])
        if not weighed.items() <= section.items():
            faults.append(
                Fault(f"section {number}", "its support is not what its sources, and doubts, make it")
            )
    _check_basis(report, evidence, faults)


def _check_contradiction(
    where: str, dispute: Mapping[str, Any], cited: Mapping[int, str], faults: list[Fault]
) -> None:
    sides = dispute["sides"]
    for number, side in enumerate(sides, start=1):
        _check_sentence(f"{where}, side {number}", side, cited, faults)
        if side["value"] not in side["text"]:
            faults.append(Fault(f"{where}, side {number}", "its value does not stand in what it quotes"))
    if len({side["text"] for side in sides}) < 2:
        faults.append(Fault(where, "it has fewer than two sides"))
    preferred = dispute["preferred"]
    numbers = {n for side in sides for n in side["citations"]}
    if preferred is not None and (type(preferred) is not int or preferred not in numbers):
        faults.append(Fault(where, f"it prefers {preferred}, which is none of its sides"))
    if preferred is None and dispute["why"]:
        faults.append(Fault(where, "it gives a reason and prefers nothing"))


def _check_basis(report: Mapping[str, Any], evidence: Mapping[int, str], faults: list[Fault]) -> None:
    basis = report["basis"]
    asked, answered = basis["asked"], basis["answered"]
    if type(asked) is not int or type(answered) is not int or asked != answered + len(report["gaps"]):
        faults.append(Fault("confidence", "answered questions and gaps do not add up to the questions asked"))
    share = round(answered / asked, 2) if asked and report["sections"] else 0.0
    if isinstance(report["confidence"], bool) or report["confidence"] != share:
        faults.append(Fault("confidence", f"it is not the share of what was asked, {share:.2f}"))
    if basis["sources"] != len(set(evidence.values())):
        faults.append(Fault("confidence", "it rests on another number of sources than are cited"))
    changed = basis["repaired"] + basis["dropped"]
    if changed < 0 or bool(changed) != bool(basis["unsupported"]):
        faults.append(
            Fault("confidence", "sentences were altered without a reason, or a reason has no sentence")
        )
    used = {n for s in report["sections"] for sentence in s["sentences"] for n in sentence["citations"]}
    used |= {n for d in report["contradictions"] for side in d["sides"] for n in side["citations"]}
    if used < evidence.keys():
        faults.append(
            Fault("report", f"it lists a citation that nothing cites: {min(evidence.keys() - used)}")
        )


def _check_vintages(
    report: Mapping[str, Any],
    facts: Mapping[str, Fact] | None,
    vintage_of: VintageOf | None,
    faults: list[Fault],
) -> None:
    if facts is None or vintage_of is None:
        return
    cited = {c["number"]: facts[c["fact"]] for c in report["citations"] if c["fact"] in facts}
    if list(_superseded(cited, vintage_of)) != [dict(one) for one in report["superseded"]]:
        faults.append(Fault("superseded", "the sources that it names as superseded are not those that are"))


def _check_gaps(report: Mapping[str, Any], facts: Mapping[str, Fact] | None, faults: list[Fault]) -> None:
    used = {n for s in report["sections"] for sentence in s["sentences"] for n in sentence["citations"]}
    named = [c["fact"] for c in report["citations"] if c["number"] in used]
    answered = {facts[name].question for name in named if name in facts} if facts is not None else set()
    for number, gap in enumerate(report["gaps"], start=1):
        if not gap["reason"]:
            faults.append(Fault(f"gap {number}", "it has no reason"))
        if gap["question"] in answered:
            faults.append(Fault(f"gap {number}", "the report has an answer to it"))


# --- Markdown -------------------------------------------------------------------------------------------------

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#~])")
_LIST_MARK = re.compile(r"^(\d{0,9})([-+=.)])")


def _escaped(text: str) -> str:
    """A text that Markdown and HTML print as it is: nothing in a source can become a link, a heading or a list."""
    escaped = _MARKDOWN.sub(r"\\\1", text).replace("&", "&amp;")
    return _LIST_MARK.sub(r"\1\\\2", escaped)


def _code(text: str) -> str:
    """A name in a fixed width; what would end it is left out."""
    return f"`{text.replace('`', '')}`"


def markdown(report: Mapping[str, Any]) -> str:
    """Render a report; the same report gives the same text."""
    page = lay_out(report)
    lines = [f"# {_escaped(page.title)}", ""]
    for banner in page.banners:
        lines += [f"**{banner.label}:** {_escaped(banner.text)}", ""]
    if page.empty:
        lines += [_escaped(page.empty), ""]
    for block in page.blocks:
        lines += _block(block)
    if page.sources:
        lines += ["## Sources", "", *map(_source, page.sources), ""]
    lines += ["## About this report", "", *(f"- {_escaped(said)}" for said in page.about)]
    return "\n".join(lines) + "\n"


def _block(block: Block) -> list[str]:
    lines = [f"{'#' * block.level} {_escaped(block.title)}", ""]
    if block.remark:
        lines += [_escaped(block.remark), ""]
    if block.lines:
        lines += [*map(_line, block.lines), ""]
    return lines


def _line(line: Line) -> str:
    context = f"*{_escaped(line.context)}:* " if line.context else ""
    marks = "".join(f"[{n}]" for n in line.citations)
    remarks = f"({_escaped('; '.join(line.remarks))})" if line.remarks else ""
    return "- " + " ".join(part for part in (f"{context}{_escaped(line.text)}", marks, remarks) if part)


def _source(source: Source) -> str:
    named = _code(source.locator) + (f" — {_escaped(source.heading)}" if source.heading else "")
    remarks = "".join(f"; {_escaped(remark)}" for remark in source.remarks)
    return f"{source.number}. {named}, {source.place}, SHA-256 {_code(source.sha256)}{remarks}"
