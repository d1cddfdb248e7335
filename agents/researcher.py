"""Looks one question up: finds passages, chooses sentences that answer it, and quotes them as facts.

    documents_search ▶ the best sentences of what it finds; each document is fetched and stored before it is quoted
    … of a doubt     ▶ of its sentences those that deny, limit or outdate something, and are no facts yet
    any other tool   ▶ the lines of what it says, which the gate has stored before this mind sees it
    a call failed    ▶ the next of the brief's `fallbacks`; after the last, the step is tried again, at last "failed"

A fact is a quote with its place. Before it is written down, its quote must stand in stored evidence exactly where it
is said to stand; what does not is no fact, and an error is none either. A tool that policy refuses is not got around
by another: the refusal passes. Text found in documents is data: it is quoted or left, never obeyed.

What is superseded comes after what is current, and is little of it: enough to see that they differ. Where nothing
current answers, it answers, and the step says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from agents import relevance, vintage
from agents.toolbox import AGAINST, Assignment, CallFailed, CallRefused, Toolbox, ToolResult
from orchestrator.domain.errors import BudgetSpent
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Evidence, Fact, Json
from orchestrator.domain.report import plain

SEARCH: Final = "documents_search"
"""The tool of a brief that names none."""

_NOT_OFFERED: Final = frozenset({"tool_withheld", "unknown_tool"})
"""Refusals that say what this machine lacks: nobody forbade anything, so that another tool may do."""

_SHORT: Final = 40
"""The lines a tool may answer with and be quoted line by line; more than that is searched like a document."""

_LONGEST: Final = 400
"""Characters of a line that is quoted as a whole."""

_DOUBTFUL: Final = 0.5
"""The least share of what a counter-hypothesis is about that its best sentence must cover (0.0 to 1.0)."""

_FEW: Final = 3
"""The facts that are kept for one counter-hypothesis."""

_COUNTERS: Final = re.compile(
    r"\b(?:not|no longer|never|cannot|neither|nor|without|except (?:for|that|when|where|if|in|as)|exception (?:of|to)"
    r"|unless|limit(?:ed|ations?)|however|although|but(?! also)|deprecated|superseded|outdated|obsolete|removed|replaced"
    r"|withdrawn|changed|problems?|risks?|warnings?|caution|fail(?:s|ed|ure)?|contrary|contradict\w*|disputed?"
    r"|disagree\w*|incorrect|wrong|false|unsafe)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
"""What a sentence has that denies, limits or outdates something."""

_Tried: TypeAlias = list[Json]


BESIDE: Final = 2
"""Facts of superseded documents that are kept beside current ones."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a tool came to: facts, whether the budget cut it short, and which documents are superseded, and why."""

    facts: Sequence[Fact]
    tool: str
    partial: bool = False
    stale: Mapping[str, str] = field(default_factory=dict)


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Return the facts that answer the step's question, best first.

    The verdict is `nothing` when the sources have none, and `failed` when no tool of the brief could be called, in the
    last attempt; before that, what failed last is raised. The result names every tool that was tried in vain.
    """
    question = str(assignment.brief["question"])
    tried: _Tried = []
    found = _first_answer(assignment, toolbox, tried)
    facts = found.facts if found else ()
    result: dict[str, Json] = {
        "question": question,
        "query": _query(assignment),
        "facts": len(facts),
        "sources": len({fact.locator for fact in facts}),
    }
    if found and found.tool != SEARCH:
        result["tool"] = found.tool
    if tried:
        result["tried"] = tried
    superseded = {f.locator: found.stale[f.locator] for f in facts if found and f.locator in found.stale}
    if superseded:
        only = all(f.locator in superseded for f in facts)
        result["superseded"] = {"only": only, "documents": dict(superseded)}
    verdict = "failed" if found is None else "found" if facts else "nothing"
    return Completed(verdict, facts=facts, result=result, partial=bool(found and found.partial))


def _first_answer(assignment: Assignment, toolbox: Toolbox, tried: _Tried) -> _Found | None:
    """What the first tool answers that can be called; `None` when none can and this is the last attempt."""
    failed: CallFailed | None = None
    for tool in _tools(assignment.brief):
        try:
            return _searched(assignment, toolbox) if tool == SEARCH else _told(assignment, toolbox, tool)
        except CallFailed as failure:
            if failure.withheld:
                raise  # for a while only; another tool must not get around it
            failed = failure
            tried.append({"tool": tool, "reason": failure.reason, "detail": failure.detail})
        except CallRefused as refusal:
            if refusal.reason not in _NOT_OFFERED or tool == SEARCH:
                raise
            tried.append({"tool": tool, "reason": refusal.reason, "detail": refusal.detail})
    if failed is not None and (SEARCH in _tools(assignment.brief) or not assignment.last_attempt):
        raise failed  # time may mend it
    return None


def _tools(brief: Mapping[str, Json]) -> Sequence[str]:
    named = brief.get("fallbacks")
    others = named if isinstance(named, Sequence) and not isinstance(named, str) else ()
    return list(dict.fromkeys([str(brief.get("tool") or SEARCH), *map(str, others)]))


def doubts(brief: Mapping[str, Json]) -> bool:
    """Whether a brief looks for what would speak against what was found."""
    return brief.get("side") == AGAINST


def _query(assignment: Assignment) -> str:
    return str(assignment.brief.get("query") or assignment.brief["question"])


# --- any tool -------------------------------------------------------------------------------------------------


def _told(assignment: Assignment, toolbox: Toolbox, tool: str) -> _Found:
    """Quote what a tool says: the sentences that answer the question, or the lines of a short answer."""
    given = assignment.brief.get("inputs")
    said = toolbox.call(tool, **(given if isinstance(given, Mapping) else {}))
    evidence = toolbox.evidence(said.evidence)
    if evidence is None or not isinstance(said.content.get("text"), str):
        return _Found((), tool)
    question = str(assignment.brief["question"])
    whole = relevance.Candidate(evidence.locator, evidence.text, evidence.title)
    spans = [
        (one.start, one.end, one.score)
        for one in relevance.select(question, [whole], assignment.reach.facts)
        if evidence.text[one.start : one.end] == one.text
    ]
    if not spans and not evidence.locator.startswith(("http://", "https://")):
        spans = [(start, end, 0.0) for start, end in _lines(evidence.text)][: assignment.reach.facts]
    facts = [
        _quoted(assignment, evidence, start, end, score=score, number=number)
        for number, (start, end, score) in enumerate(spans, 1)
    ]
    return _Found(facts, tool)


def _lines(text: str) -> Iterator[tuple[int, int]]:
    """Where each line of a short answer stands; none of a long one."""
    if text.count("\n") > _SHORT:
        return
    start = 0
    for line in text.splitlines(keepends=True):
        said = line.strip()
        if any(c.isalnum() for c in said) and len(said) <= _LONGEST:
            begin = start + line.index(said)
            yield begin, begin + len(said)
        start += len(line)


def _quoted(
    assignment: Assignment, evidence: Evidence, start: int, end: int, *, score: float, number: int
) -> Fact:
    return Fact(
        step=assignment.step,
        number=number,
        quote=evidence.text[start:end],
        evidence=evidence.sha256,
        start=start,
        end=end,
        locator=evidence.locator,
        title=evidence.title,
        origin_sha256=evidence.origin_sha256,
        question=str(assignment.brief["question"]),
        score=round(score, 4),
    )


# --- documents ------------------------------------------------------------------------------------------------


def _searched(assignment: Assignment, toolbox: Toolbox) -> _Found:
    question, query = str(assignment.brief["question"]), _query(assignment)
    folder = assignment.sources.get("documents")
    if not folder:
        return _Found((), SEARCH)  # another tool's task fell back on documents that are not there
    found = toolbox.call(SEARCH, folder=folder, query=query, limit=assignment.reach.passages)
    known = _known_places(assignment)
    passages = [p for p in found.content["passages"] if p["locator"] not in known]
    stale = {p["locator"]: p["superseded"] for p in passages if _is_stale(question, p)}
    chosen = _spread(question, [_candidate(p) for p in passages], stale, assignment)
    documents: dict[str, ToolResult] = {}
    facts: list[Fact] = []
    partial = False
    for scored in chosen:
        locator = scored.candidate.locator
        if locator not in documents:
            try:
                documents[locator] = toolbox.call("documents_fetch", folder=folder, locator=locator)
            except BudgetSpent:
                partial = True  # what was found before is kept
                break
        fact = _fact(assignment, question, scored, documents[locator], toolbox, number=len(facts) + 1)
        if fact is not None:
            facts.append(fact)
    return _Found(facts, SEARCH, partial, stale)


def _is_stale(question: str, passage: Mapping[str, Any]) -> bool:
    return bool(passage.get("superseded")) and not vintage.wanted(question, passage["locator"])


def _current_first(
    question: str, candidates: Sequence[relevance.Candidate], stale: Mapping[str, str], limit: int
) -> list[relevance.Scored]:
    """The sentences that answer, those of current documents first."""
    rest = [c for c in candidates if c.locator in stale]
    chosen = relevance.select(question, [c for c in candidates if c.locator not in stale], limit)
    room = min(BESIDE, limit - len(chosen)) if chosen else limit
    return [*chosen, *relevance.select(question, rest, room)]


def _known_places(assignment: Assignment) -> AbstractSet[str]:
    """The documents that need not be quoted again, where the brief asks for others."""
    if not assignment.brief.get("elsewhere"):
        return frozenset()
    return {fact.locator for fact in assignment.facts if fact.question == assignment.brief["question"]}


def _spread(
    question: str,
    candidates: Sequence[relevance.Candidate],
    stale: Mapping[str, str],
    assignment: Assignment,
) -> Sequence[relevance.Scored]:
    """The sentences that answer best, from as many documents as the depth wants and no more than the plan may use.

    Where the best all stand in too few current documents, the last of them give way to the best of another.
    """
    limit, wanted = assignment.reach.facts, assignment.reach.sources
    most = assignment.most_sources
    if doubts(assignment.brief):
        chosen: Sequence[relevance.Scored] = _against(assignment, candidates)
    else:
        chosen = _current_first(question, candidates, stale, limit)
    if most is not None:
        allowed = list(dict.fromkeys(one.candidate.locator for one in chosen))[:most]
        chosen = [one for one in chosen if one.candidate.locator in allowed]
        wanted = min(wanted, most)
    known = {one.candidate.locator for one in chosen if one.candidate.locator not in stale}
    while chosen and len(known) < wanted and not doubts(assignment.brief):
        others = [c for c in candidates if c.locator not in known and c.locator not in stale]
        more = relevance.select(question, others, 1)
        if not more:
            break
        if len(chosen) >= limit:
            chosen = _without_last_double(chosen)
        chosen = [*chosen, *more]
        known.add(more[0].candidate.locator)
    return chosen


def _against(assignment: Assignment, candidates: Sequence[relevance.Candidate]) -> Sequence[relevance.Scored]:
    """The sentences that limit, deny or outdate something, and that are not among the facts already.

    A doubt asks with words of its own that few sources use, so that what it is `about` must be covered instead; but
    what merely speaks of that once more is no counter-evidence.
    """
    known = {plain(fact.quote).casefold() for fact in assignment.facts}
    rated = relevance.select(
        str(assignment.brief.get("about") or assignment.brief["question"]),
        candidates,
        4 * assignment.reach.facts,
        threshold=_DOUBTFUL,
        all_near=True,
    )
    fitting = [one for one in rated if _COUNTERS.search(one.text) and plain(one.text).casefold() not in known]
    return fitting[:_FEW]


def _without_last_double(chosen: Sequence[relevance.Scored]) -> list[relevance.Scored]:
    """All but the last sentence whose document has another one among them."""
    places = [one.candidate.locator for one in chosen]
    doubles = [at for at, place in enumerate(places) if places.count(place) > 1]
    return [one for at, one in enumerate(chosen) if at != doubles[-1]] if doubles else list(chosen)


def _candidate(passage: Mapping[str, Any]) -> relevance.Candidate:
    return relevance.Candidate(
        locator=passage["locator"],
        text=passage["text"],
        title=passage["title"],
        heading=tuple(passage["heading"]),
        start=passage["start"],
    )


def _fact(
    assignment: Assignment,
    question: str,
    scored: relevance.Scored,
    document: ToolResult,
    toolbox: Toolbox,
    *,
    number: int,
) -> Fact | None:
    evidence = toolbox.evidence(document.evidence)
    if evidence is None or evidence.text[scored.start : scored.end] != scored.text:
        return None  # the document has changed since it was indexed
    return Fact(
        step=assignment.step,
        number=number,
        quote=scored.text,
        evidence=evidence.sha256,
        start=scored.start,
        end=scored.end,
        locator=evidence.locator,
        title=scored.candidate.title,
        heading=scored.candidate.heading,
        origin_sha256=evidence.origin_sha256,
        question=question,
        score=round(scored.score, 4),
    )
