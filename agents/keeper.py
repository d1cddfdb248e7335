"""Decides whether enough is known, what of it counts, and what to look up next.

    set aside     what has left the goal, what says the same once more, what stands in more documents than may be used
    contradicted  the same statement with another value, from another document
    sufficient    each question is covered by its facts, from as many different documents as the depth wants; that the
                  facts agree counts for nothing, for copies of one page always do
    narrow        a question that is open or thin is asked with other words, never with the same again, and a task's
                  tool with its inputs
    yielded       why it stops: sufficient, budget, no_progress (a round that found nothing new), rounds

What was tried is remembered in the plan's steps. Nothing depends on the machine or on chance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, TypeAlias

from agents import contradictions, drift, likeness, terms, vintage
from agents.toolbox import AGAINST, Assignment, Toolbox
from orchestrator.domain import ooda
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, Fact, Json, Step

COVERED: Final = 0.5
"""The share of a question's terms (0.0 to 1.0) that its facts must have for it to be settled."""

_OF_THE_TASK: Final = ("task", "share", "category", "phase")
_OF_THE_TOOL: Final = ("tool", "fallbacks")

_Aside: TypeAlias = dict[str, str]
_Brief: TypeAlias = Mapping[str, Json]


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Return `sufficient`, `narrow` with what to look up next, or `exhausted`; the result says what counts and why."""
    aside = _set_aside(assignment)
    facts = [fact for fact in assignment.facts if fact.name not in aside]
    found = contradictions.find(facts, lambda fact: vintage.of_fact(fact, toolbox.evidence))
    for one in found:
        if one.preferred is not None:
            value = one.values[one.facts.index(one.preferred)]
            outdated = [f for f, v in zip(one.facts, one.values, strict=True) if v != value]
            aside |= {fact.name: "outdated" for fact in outdated}
    questions = _questions(assignment)
    coverage = {q: _coverage(q, [f for f in facts if f.question == q]) for q in questions}
    open_questions = [q for q in questions if not coverage[q]["facts"]]
    thin = [q for q in questions if q not in open_questions and _is_thin(assignment, coverage[q])]
    result: dict[str, Json] = {
        "answered": len(questions) - len(open_questions),
        "open": open_questions,
        "thin": thin,
        "coverage": coverage,
        "drift": drift.of(assignment.goal, [_seen(fact) for fact in facts]),
        "aside": [{"fact": name, "why": why} for name, why in aside.items()],
        "contradictions": [one.as_json() for one in found],
    }
    if not open_questions and not thin:
        return Completed("sufficient", result={**result, "yielded": "sufficient"})
    why = _yields(assignment, facts)
    narrowed = [] if why else _narrowed(assignment, open_questions, thin)
    if not narrowed:
        return Completed("exhausted", result={**result, "yielded": why or "no_progress"})
    return Completed("narrow", follow_ups=narrowed, result=result)


def _questions(assignment: Assignment) -> Sequence[str]:
    """What was to be found out: what was looked up, and tasks that could not be begun."""
    left_out = [b for b, _ in ooda.left_out(assignment.depth, assignment.steps) if b.get("side") != AGAINST]
    return list(
        dict.fromkeys([*assignment.asked, *(str(b["question"]) for b in left_out if "question" in b)])
    )


# --- what counts ----------------------------------------------------------------------------------------------


def _set_aside(assignment: Assignment) -> _Aside:
    """The facts that count for nothing, by name, each with the reason; the best of what is alike stays."""
    aside: _Aside = {}
    for fact in assignment.facts:
        if drift.drifted(_intents(assignment, fact), _seen(fact)):
            aside[fact.name] = "drift"
    kept: dict[str, list[tuple[Fact, likeness.Statement]]] = defaultdict(list)
    for fact in sorted(assignment.facts, key=lambda f: (-f.score, f.step, f.number)):
        if fact.name in aside:
            continue
        said = likeness.statement(fact.quote)
        if any(likeness.copies(said, other) for _, other in kept[fact.question]):
            aside[fact.name] = "duplicate"
        else:
            kept[fact.question].append((fact, said))
    if assignment.most_sources is not None:
        aside |= _beyond(assignment.most_sources, [fact for group in kept.values() for fact, _ in group])
    return aside


def _beyond(most: int, facts: Sequence[Fact]) -> _Aside:
    """Facts of more documents than may be quoted: the best of each question choose theirs first."""
    turns: dict[str, int] = defaultdict(int)
    ranked = []
    for fact in sorted(facts, key=lambda f: (f.step, f.number)):
        ranked.append((turns[fact.question], fact))
        turns[fact.question] += 1
    allowed = list(dict.fromkeys(f.locator for _, f in sorted(ranked, key=lambda r: (r[0], r[1].step))))[
        :most
    ]
    return {fact.name: "sources" for fact in facts if fact.locator not in allowed}


def _intents(assignment: Assignment, fact: Fact) -> Sequence[str]:
    """The goal, and the question that a fact answers as long as that has not left the goal itself."""
    left = drift.drifted([assignment.goal], fact.question)
    return [assignment.goal] if left else [assignment.goal, fact.question]


def _seen(fact: Fact) -> str:
    return "\n".join((terms.locator_words(fact.locator), fact.title, *fact.heading, fact.quote))


# --- whether it is enough -------------------------------------------------------------------------------------


def _coverage(question: str, facts: Sequence[Fact]) -> dict[str, Json]:
    """The share of a question's terms that its facts have, how many they are, and from how many documents."""
    asked = terms.asked(question)
    present = {key for fact in facts for key in terms.keys(_seen(fact))}
    whole = sum(term.weight for term in asked)
    covered = sum(
        term.weight for term in asked if term.key in present or any(present.issuperset(p) for p in term.alike)
    )
    return {
        "covered": round(covered / whole, 2) if whole else float(bool(facts)),
        "facts": len(facts),
        "sources": len({fact.evidence for fact in facts}),
    }


def _is_thin(assignment: Assignment, coverage: Mapping[str, Json]) -> bool:
    return _lacks_words(coverage) or _lacks_sources(assignment, coverage)


def _lacks_words(coverage: Mapping[str, Json]) -> bool:
    return float(str(coverage["covered"])) < COVERED


def _lacks_sources(assignment: Assignment, coverage: Mapping[str, Json]) -> bool:
    most = assignment.most_sources or assignment.reach.sources
    return int(str(coverage["sources"])) < min(most, assignment.reach.sources)


def _yields(assignment: Assignment, facts: Sequence[Fact]) -> str:
    """Why no further round is worth it; empty while one is."""
    if assignment.partial:
        return "budget"
    if assignment.round >= assignment.reach.rounds:
        return "rounds"
    now = {s.number for s in assignment.steps if s.agent.looks and s.round == assignment.round}
    if assignment.round > 1 and not any(fact.step in now for fact in facts):
        return "no_progress"
    return ""


# --- what to look up next -------------------------------------------------------------------------------------


def _narrowed(assignment: Assignment, open_: Sequence[str], thin: Sequence[str]) -> Sequence[_Brief]:
    """Briefs for what is open or thin, in other words than before, and for the tasks that wait for them."""
    looked = [s for s in assignment.steps if s.agent.looks]
    tried = {str(s.brief.get("query") or s.brief.get("question") or "").casefold() for s in looked}
    computed = {str(s.brief.get("question")) for s in looked if s.agent is Agent.CODER}
    tasks = {str(s.brief.get("question")): s for s in looked if s.brief.get("task")}
    narrowed: list[_Brief] = []
    for question in (*open_, *thin):
        if question not in assignment.asked:
            continue  # it waits for another, and is not to be looked up without it
        query = None if question in computed else _another(question, tried)
        if query is None:
            continue
        tried.add(query.casefold())
        brief: dict[str, Json] = {"question": question, "query": query}
        if question in tasks:
            brief |= _once_more(tasks[question], query)
        if question in thin:
            brief["elsewhere"] = True  # what is known already is not looked up again
        narrowed.append(brief)
    return [*narrowed, *_waiting(assignment, {str(b.get("task")) for b in narrowed})]


def _once_more(looked: Step, query: str) -> _Brief:
    """What stays of a task that is looked for once more: its share, of which it spends what is left, and its tool.

    Its inputs are kept, the question among them in the new words. A tool that has answered, and whose inputs have no
    question, would answer the same: then the documents are searched.
    """
    before = looked.brief
    kept = {key: before[key] for key in _OF_THE_TASK if key in before}
    if "tool" not in before:
        return kept
    given = before.get("inputs")
    inputs = given if isinstance(given, Mapping) else {}
    asked = {str(before.get("query") or before["question"]), str(before["question"])}
    again = {key: query if value in asked else value for key, value in inputs.items()}
    if again == inputs and looked.verdict != "failed":
        return kept
    return kept | {key: before[key] for key in _OF_THE_TOOL if key in before} | {"inputs": again}


def _waiting(assignment: Assignment, again: AbstractSet[str]) -> Sequence[_Brief]:
    """The tasks left out so far that may yet be begun, if what is looked up again is found."""
    done = {
        str(s.brief.get("task")) for s in assignment.steps if s.agent.looks and s.verdict not in ooda.EMPTY
    }
    hopeful, waiting = set(again), list[_Brief]()
    left = [brief for brief, _ in ooda.left_out(assignment.depth, assignment.steps)]
    for _ in left:
        for brief in left:
            needed = set(ooda.needs(brief))
            if brief not in waiting and needed & hopeful and needed <= hopeful | done:
                waiting.append(brief)
                hopeful.add(str(brief.get("task")))
    return waiting


def _another(question: str, tried: set[str]) -> str | None:
    """Words of the question that were not tried alone: first without its commonest words, then its longest only."""
    words = list(dict.fromkeys(term.phrase for term in terms.asked(question) if not term.key.startswith("=")))
    longest = sorted(words, key=len, reverse=True)
    for some in (words, longest[:3], longest[:2], longest[:1]):
        query = " ".join(some)
        if query and query.casefold() not in tried:
            return query
    return None
