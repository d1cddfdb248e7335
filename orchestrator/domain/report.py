"""A report, its rendering, and the proof that it says only what its evidence contains.

A report is plain JSON, so that it can be stored, compared and checked anywhere:

    {"v": 1, "goal": …, "verdict": answered | not_found | needs_review | casual | declined, "method": …, "partial": false,
     "sections": [{"title": …, "sentences": [{"text": …, "citations": [1]}]}],
     "citations": [{"number": 1, "fact": "F3.1", "quote": …, "evidence": SHA-256, "start": …, "end": …, …}],
     "gaps": [questions without an answer], "notes": [what a reader should know], "confidence": 0.0 to 1.0}

A sentence is supported when it is, word for word, one of the quotes that it cites; white space does not count. A quote is verified when its evidence has the digest that it is filed under and contains
the quote at the span given. A paraphrase is not called verified: nothing here could prove it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.plan import Evidence, Fact, Json

EvidenceOf = Callable[[str], "Evidence | None"]
"""Looks a stored source up by its digest."""

SHORT = 60
"""Characters up to which a quote is printed with the headings that it stands under."""

NOT_FOUND = "Not found in the sources."
DECLINED = "This was declined, and not researched."


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
    gaps: Sequence[str] = (),
    notes: Sequence[str] = (),
    confidence: float = 0.0,
) -> dict[str, Json]:
    """Return the report of a draft; a sentence without verified evidence is left out, and a note says so.

    `sections` are those of a draft: a title, and sentences with the names of the facts they rest on.
    """
    numbers: dict[str, int] = {}
    printed: list[Json] = []
    dropped = 0
    for section in sections:
        sentences: list[Json] = []
        for sentence in section["sentences"]:
            named = [facts[name] for name in sentence["facts"] if name in facts]
            sound = [f for f in named if verified(f, evidence_of(f.evidence))]
            bearing = [f for f in sound if supports(sentence["text"], [f.quote])]
            if not bearing:
                dropped += 1
                continue
            cited = [numbers.setdefault(f.name, len(numbers) + 1) for f in bearing]
            sentences.append({"text": plain(sentence["text"]), "citations": sorted(set(cited))})
        if sentences:
            printed.append({"title": section["title"], "sentences": sentences})
    notes = list(notes)
    if dropped:
        notes.append(f"Sentences left out because no verified evidence contains them: {dropped}.")
    if not printed and verdict == "answered":
        verdict = "not_found"
    return {
        "v": 1,
        "goal": goal,
        "verdict": verdict,
        "method": method,
        "partial": partial,
        "sections": printed,
        "citations": [_citation(number, facts[name]) for name, number in numbers.items()],
        "gaps": list(gaps),
        "notes": notes,
        "confidence": round(confidence, 2) if printed else 0.0,
    }


def _citation(number: int, fact: Fact) -> Json:
    return {
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


def check(
    report: Mapping[str, Any], evidence_of: EvidenceOf, facts: Mapping[str, Fact] | None = None
) -> list[Fault]:
    """Return everything in a report that does not hold; an empty list means that every sentence is proven.

    With the plan's `facts` by name, every citation must also be the fact that was recorded.
    """
    faults: list[Fault] = []
    try:
        cited = _check_citations(report["citations"], evidence_of, facts, faults)
        markdown(report)  # what cannot be printed is not a report
        sentences = [s for section in report["sections"] for s in section["sentences"]]
        for number, sentence in enumerate(sentences, start=1):
            _check_sentence(f"sentence {number}", sentence, cited, faults)
        if report["verdict"] == "answered" and not sentences:
            faults.append(Fault("report", "it claims an answer but has no sentence"))
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
        if fault is None and facts is not None and _citation_of(citation, facts) != dict(citation):
            fault = f"it differs from fact {citation['fact']} as it was recorded"
        if type(citation["number"]) is not int or citation["number"] != number:
            fault = f"it is listed as number {number}"
        if fault is not None:
            faults.append(Fault(where, fault))
        cited[citation["number"]] = citation["quote"]
    return cited


def _citation_of(citation: Mapping[str, Any], facts: Mapping[str, Fact]) -> Json:
    fact = facts.get(str(citation["fact"]))
    return None if fact is None else _citation(citation["number"], fact)


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


_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#~])")
_LIST_MARK = re.compile(r"^(\d{0,9})([-+=.)])")


def _escaped(text: str) -> str:
    """A text that Markdown and HTML print as it is: nothing in a source can become a link, a heading or a list."""
    escaped = _MARKDOWN.sub(r"\\\1", plain(text)).replace("&", "&amp;")
    return _LIST_MARK.sub(r"\1\\\2", escaped)


def _code(text: str) -> str:
    """A name in a fixed width; what would end it is left out."""
    return f"`{plain(text).replace('`', '')}`"


def markdown(report: Mapping[str, Any]) -> str:
    """Render a report; the same report gives the same text."""
    lines = [f"# {_escaped(report['goal'])}", ""]
    if report["partial"]:
        lines += ["**Partial:** a limit of this plan's budget cut the research short.", ""]
    if report["verdict"] == "needs_review":
        lines += ["**Needs review:** the judge did not accept this draft; a person should read it.", ""]
    if not report["sections"]:
        lines += [_empty(report), ""]
    cited = {citation["number"]: citation for citation in report["citations"]}
    for section in report["sections"]:
        lines += [f"## {_escaped(section['title'])}", ""]
        for sentence in section["sentences"]:
            marks = "".join(f"[{n}]" for n in sentence["citations"])
            lines.append(f"- {_context(sentence, cited)}{_escaped(sentence['text'])} {marks}")
        lines.append("")
    if report["sections"] and report["gaps"]:
        lines += ["## Not found in the sources", ""]
        lines += [f"- {_escaped(gap)}" for gap in report["gaps"]]
        lines.append("")
    if report["citations"]:
        lines += ["## Sources", ""]
        lines += [_source(citation) for citation in report["citations"]]
        lines.append("")
    lines += ["## About this report", ""]
    notes = () if report["verdict"] == "declined" else report["notes"]  # they stand above, as the answer
    lines += [f"- {_escaped(note)}" for note in (report["method"], *notes)]
    if report["sections"]:
        lines.append(
            f"- Confidence (share of what was asked that the sources answer): {report['confidence']:.2f}"
        )
    return "\n".join(lines) + "\n"


def _context(sentence: Mapping[str, Any], cited: Mapping[int, Mapping[str, Any]]) -> str:
    """Where a short quote stands, without which nobody knows what "total: 123 sq km" is the total of."""
    first = cited.get(sentence["citations"][0]) if sentence["citations"] else None
    if first is None or not first["heading"] or len(sentence["text"]) > SHORT:
        return ""
    return f"*{' › '.join(_escaped(part) for part in first['heading'])}:* "


def _empty(report: Mapping[str, Any]) -> str:
    if report["verdict"] == "casual":
        return "Hello. Ask a question, and the answer will be looked for in the documents."
    if report["verdict"] == "declined":
        return _escaped(" ".join(map(str, report["notes"])) or DECLINED)
    return NOT_FOUND


def _source(citation: Mapping[str, Any]) -> str:
    heading = " › ".join(_escaped(part) for part in citation["heading"]) or _escaped(citation["title"])
    named = _code(citation["locator"]) + (f" — {heading}" if heading else "")
    return (
        f"{citation['number']}. {named}, characters {citation['start']}–{citation['end']}, "
        f"SHA-256 {_code(citation['origin_sha256'])}"
    )
