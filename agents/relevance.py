"""Chooses the sentences that answer a question, or none: decides when the sources have nothing to say.

A sentence is worth the share of the question it covers. A term counts in full inside the sentence and
for less in what the sentence stands under (its lead, its headings, its document's title); rare terms
count for more than common ones. What nobody covers well enough is not an answer, so nothing comes back.
"""

import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from agents import breadth, sentences, terms

THRESHOLD: Final = 0.6
"""The least share of a question (0.0 to 1.0) that its best sentence must cover for there to be an answer."""

_UNDER: Final = 0.8
"""What a term is worth when the heading, title or lead above the sentence has it, and not the sentence."""

_ABOUT: Final = 0.9
"""What a name is worth inside a sentence whose headings lack it: it is mentioned there, not the subject."""

_ON_POINT: Final = 0.15
"""What it adds to the share covered that the heading right above names what was asked and nothing else."""

_MATTER: Final = 0.33
"""The least share of a question without its names that must be covered: the right country is not yet an answer."""

_ABOUT_ANOTHER: Final = 0.15
"""What it costs a sentence that the question has names and neither it nor its place has any of them."""

_DEFINES: Final = 0.15
"""What it adds that a sentence says what something is, where that is asked, or how it compares."""

_RELATED: Final = 0.85
"""What a term is worth when only a word of its family is found, or one that means the same."""

_FAMILY: Final = 5
"""Letters two words must share from the start to be of one family."""

_BESIDE: Final = 0.25
"""What a term is worth when only the rest of the passage has it; it helps the order, never the threshold."""

_KEPT: Final = 0.6
"""The share of the best score below which a sentence is not worth showing beside the best, where all are wanted."""

_KEPT_OF_ONE: Final = 0.9
"""The same where one statement is wanted: what comes close to the best may be the answer as well, and no more."""

_KEPT_OF_SEVERAL: Final = 0.8
"""The same where several statements are wanted."""

_ALIKE: Final = 0.85
"""The share of common terms from which two sentences say the same."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage to look for answers in; `start` is where its text begins in the document `locator`."""

    locator: str
    text: str
    title: str = ""
    heading: tuple[str, ...] = ()
    start: int = 0


@dataclass(frozen=True, slots=True)
class Scored:
    """A chosen sentence: `candidate`'s document holds `text` from `start` up to `end`.

    `score` orders the sentences of one answer; `coverage` (0.0 to 1.0) is the share of the question it meets.
    `lead` is what the sentence stands under, and `also` holds its near copies, best first.
    """

    candidate: Candidate
    start: int
    end: int
    text: str
    score: float
    coverage: float
    lead: str = ""
    also: tuple["Scored", ...] = ()


def select(
    question: str,
    candidates: Sequence[Candidate],
    limit: int,
    *,
    threshold: float = THRESHOLD,
    all_near: bool = False,
) -> list[Scored]:
    """Return up to `limit` sentences that answer the question, best first; none if the sources do not.

    Where one statement is asked for, only those that come close to the best are returned, unless `all_near`.

    Candidates come best first, as a search returns them. Equal scores keep the order of the sources, so
    the same question over the same passages always gets the same answer.
    """
    asked = terms.asked(question)
    if not asked or limit < 1:
        return []
    wanted = _Question.of(question, asked, candidates)
    rated = [
        scored
        for rank, candidate in enumerate(candidates)
        for scored in _rate(candidate, rank / len(candidates), wanted)
    ]
    rated.sort(key=lambda scored: -scored.score)
    if wanted.compares:
        return _merged(_sides(rated, wanted, threshold), limit)
    if not rated or max(scored.coverage for scored in rated) < threshold:
        return []
    share = _KEPT if all_near else _KEPT_OF_SEVERAL if breadth.several(question) else _KEPT_OF_ONE
    worthy = [
        one for one in rated if one.score >= share * rated[0].score and one.coverage >= _KEPT * threshold
    ]
    return _merged(worthy, limit)


def _sides(rated: Sequence[Scored], question: "_Question", threshold: float) -> list[Scored]:
    """Return sentences for each thing that is compared, taking turns; none unless together they cover enough."""
    things = [key for key, weight in question.weights.items() if weight >= 1]
    queues = [
        deque(one for one in rated if key in _found(question, terms.keys(f"{one.text}\n{one.lead}")))
        for key in things
    ]
    covered = sum(question.weights[key] for key, queue in zip(things, queues, strict=True) if queue)
    if not covered or covered < threshold * sum(question.weights[key] for key in things):
        return []
    chosen: dict[int, Scored] = {}
    while any(queues):
        for queue in queues:
            while queue and id(queue[0]) in chosen:
                queue.popleft()
            if queue:
                one = queue.popleft()
                chosen[id(one)] = one
    return list(chosen.values())


def _weights(asked: Sequence[terms.Term], candidates: Sequence[Candidate]) -> dict[str, float]:
    """Return how much each term of the question matters: twice as much if no passage has it as if all do."""
    seen: Counter[str] = Counter()
    for candidate in candidates:
        seen.update(set(terms.keys(f"{_place(candidate)}\n{candidate.text}")))
    count = len(candidates)
    rarest = math.log(1 + (count + 0.5) / 0.5)
    weights = {}
    for term in asked:
        having = max(seen[term.key], *(min(map(seen.__getitem__, part)) for part in term.alike), 0)
        rarity = math.log(1 + (count - having + 0.5) / (having + 0.5)) / rarest
        weights[term.key] = term.weight * (1 + rarity)
    return weights


def _place(candidate: Candidate) -> str:
    """Return what a passage's place says about it: file, title and headings."""
    return "\n".join((terms.locator_words(candidate.locator), candidate.title, *candidate.heading))


def _rate(candidate: Candidate, lateness: float, question: "_Question") -> Iterable[Scored]:
    above = _found(question, terms.keys(_place(candidate)))
    beside = _found(question, terms.keys(candidate.text))
    if not above and not beside:
        return
    named_by = _share(candidate.heading[-1], question) if candidate.heading else 0.0
    for order, sentence in enumerate(sentences.split(candidate.text, headed=bool(candidate.heading))):
        within = _found(question, terms.keys(sentence.text))
        under = _found(question, terms.keys(sentence.lead))
        covered = matter = nearby = 0.0
        for key, weight in question.weights.items():
            inside, over = (_ABOUT, 1.0) if key in question.names else (1.0, _UNDER)
            here = max(
                inside * within.get(key, 0.0), over * above.get(key, 0.0), _UNDER * under.get(key, 0.0)
            )
            covered += weight * here
            matter += 0.0 if key in question.names else weight * here
            nearby += weight * max(_BESIDE * beside.get(key, 0.0) - here, 0.0)
        if not covered:
            continue
        score = (covered + nearby) / question.total
        score += 0.06 * (1 - lateness) + 0.06 / (1 + order) + 0.15 * named_by
        score += _manner(sentence) + question.suits(sentence, within, above)
        if question.names and not question.names & (within.keys() | above.keys() | under.keys()):
            score -= _ABOUT_ANOTHER
        yield Scored(
            candidate,
            candidate.start + sentence.start,
            candidate.start + sentence.end,
            sentence.text,
            round(score, 6),
            round(question.share(covered, matter, named_by), 6),
            sentence.lead,
        )


@dataclass(frozen=True, slots=True)
class _Question:
    """What was asked, how much each term of it matters, and what kind of answer it wants."""

    weights: dict[str, float]
    names: frozenset[str]
    total: float
    alike: dict[str, tuple[tuple[str, ...], ...]]
    defines: bool
    compares: bool
    expects: re.Pattern[str] | None

    @classmethod
    def of(cls, question: str, asked: Sequence[terms.Term], candidates: Sequence[Candidate]) -> "_Question":
        weights = _weights(asked, candidates)
        compares = bool(_COMPARISON.search(question)) and len(asked) > 1
        expects = next((answer for asks, answer in _EXPECTED if asks.search(question)), None)
        names = frozenset(term.key for term in asked if term.weight == terms.NAMED)
        alike = {term.key: term.alike for term in asked if term.alike}
        total = sum(weights.values())
        return cls(weights, names, total, alike, bool(_DEFINITION.search(question)), compares, expects)

    def share(self, covered: float, matter: float, named_by: float) -> float:
        """Return the share of the question that is covered: little, if only its names are and not its matter."""
        share = min(1.0, covered / self.total + _ON_POINT * named_by**2)
        whole = sum(weight for key, weight in self.weights.items() if key not in self.names)
        return share if matter + _ON_POINT * named_by**2 >= _MATTER * whole else share / 2

    def suits(self, sentence: sentences.Sentence, within: dict[str, float], above: dict[str, float]) -> float:
        """Return what it is worth that a sentence has the form of an answer to this question."""
        subject = {key for key, weight in self.weights.items() if weight >= 1}
        worth = 0.0
        if self.compares:
            worth = _DEFINES * any(_defines(sentence, {key}, set()) for key in subject & within.keys())
        if self.defines:
            worth = max(worth, _DEFINES * _defines(sentence, subject, set(above)))
            worth -= 0.08 if _CONDITION.match(sentence.text) else 0.0
        if self.compares and sentence.kind is sentences.Kind.ROW:
            worth -= 0.15
        if self.expects is not None and self.expects.search(sentence.text):
            worth += 0.08
        return worth


def _found(question: _Question, keys: Iterable[str]) -> dict[str, float]:
    """Return the question's terms among `keys`: 1.0 for the term itself, less for its family and for what it means."""
    present = set(keys)
    found: dict[str, float] = {}
    for key in question.weights:
        if key in present:
            found[key] = 1.0
            continue
        family = len(key) >= _FAMILY and any(_related(key, other) for other in present)
        if family or any(present.issuperset(part) for part in question.alike.get(key, ())):
            found[key] = _RELATED
    return found


def _related(one: str, other: str) -> bool:
    """Tell whether two stems are one word with another ending, such as "percent" and "percentag"."""
    if len(other) < _FAMILY or abs(len(one) - len(other)) > 3 or not one.isalpha():
        return False
    return one.startswith(other) or other.startswith(one)


def _share(heading: str, question: _Question) -> float:
    """Return the share of a heading that the question names: one that adds to it is about something narrower."""
    keys = set(terms.keys(heading))
    alike = {
        key for parts in question.alike.values() for part in parts for key in part if keys.issuperset(part)
    }
    return len(keys & (question.weights.keys() | alike)) / len(keys) if keys else 0.0


_EXPECTED: Final = tuple(
    (re.compile(asks, re.IGNORECASE), re.compile(answer))
    for asks, answer in (
        (
            r"^\W*when\b|\bwhat (?:year|date|day)\b",
            r"\b\d{4}\b|\b(?:after|before|once|until|whenever|if|when|while)\b",
        ),
        (
            r"\bhow (?:many|much|long|far|high|old|large|big|tall|fast)\b|\bpercent|\bwhat (?:share|proportion)\b",
            r"\d",
        ),
        (r"^\W*why\b", r"\b(?:because|since|so that|due to|in order to|reason|therefore)\b"),
        (r"^\W*who\b", r"[^\W\d_][\w.]*\s+[A-Z][a-z]"),
    )
)
_DEFINITION: Final = re.compile(
    r"^\W*(?:what(?:'s|\u2019s)?\s+(?:is|are|was|were|does|do)\b|what's|define\b|how\s+(?:is|are)\b.*\bdefined|explain\b"
    r"|how\s+do(?:es)?\b.*\bwork)"
    r"|\bmean(?:ing)?\b|\bdefinition\b",
    re.IGNORECASE,
)
_COMPARISON: Final = re.compile(
    r"\b(?:differences?|differs?|different|compar(?:e[ds]?|ison)|versus|vs|distinguish(?:es)?)\b",
    re.IGNORECASE,
)
_STATES: Final = re.compile(
    r"\b(?:is|are|was|were|(?:shall\s+)?means?|refers?|denotes?|defines?|represents?|describes?|specif(?:y|ies)|consists?|returns?"
    r"|yields?|tests?|compares?|causes?|terminates?|creates?|removes?|raises?|checks?|provides?|may only)\b"
)
_CALLS: Final = re.compile(r"\b(?:called|known as|termed)\s+(?:an?\s+|the\s+)?([^.,;]{1,60})")
_PARENTHESIS: Final = re.compile(r"\s*\([^()]*\)")
_GLOSS: Final = re.compile(r"(\S[^.:;,\n]{0,60}?)\s+(?:-{1,2}|\u2013|\u2014)\s+(?=[^\W\d_])")
"""A name, a dash, and what it is: "grep - print lines that match patterns"."""

_LONG_OPENING: Final = 140
_ASIDE: Final = re.compile(
    r"(?:see\b|see also|changed in version|new in version|deprecated since|note that)", re.IGNORECASE
)
_CONDITION: Final = re.compile(r"(?:if|when|because|although|while|since|unless|once|note)\b", re.IGNORECASE)
_WHOLE: Final = re.compile(r"^(?![a-z]+\b).*[.!?:\u3002\uff01\uff1f\u061f\u06d4\u0964][^\w\s]*$", re.DOTALL)
_DEPENDENT: Final = re.compile(
    r"(?:it|its|this|these|they|their|those|that|he|she|otherwise|thus|however|therefore|in this case|hence)\b",
    re.IGNORECASE,
)


def _manner(sentence: sentences.Sentence) -> float:
    """Return what the way a sentence is put is worth: one that leans on others is a poorer quotation."""
    text = sentence.text
    worth = 0.0
    if text.endswith(":"):
        worth -= 0.12 if len(text) < 80 else 0.04
    if text.endswith(("?", "\uff1f")):
        worth -= 0.3
    if _ASIDE.match(text):
        worth -= 0.12
    if _DEPENDENT.match(text):
        worth -= 0.08
    if len(text) > 400:
        worth -= 0.05
    if sentence.kind in {sentences.Kind.PROSE, sentences.Kind.ITEM} and not _WHOLE.search(text):
        worth -= 0.1
    return worth


def _defines(sentence: sentences.Sentence, subject: set[str], above: set[str]) -> float:
    """Return how plainly a sentence says what the subject is, from 0.0 (not at all) to 1.0: by its opening, or its end.

    "Object code means ..." does, and so does "grep - print lines ..."; "The place to copy object code is ..." half does.
    What of the subject stands `above` the sentence need not be said again, but not all of it.
    """
    if not subject:
        return 0.0
    calls = _CALLS.search(sentence.text)
    if calls and _WHOLE.search(sentence.text) and subject <= set(terms.keys(calls[1])):
        return 1.0
    opening = _PARENTHESIS.sub("", sentence.text[:_LONG_OPENING])
    gloss = _GLOSS.match(opening)
    states = next((found for found in _STATES.finditer(opening) if not _is_quoted(opening, found)), None)
    if gloss is not None:
        keys = set(terms.keys(gloss[1]))
    elif states is not None and _WHOLE.search(sentence.text):
        keys = set(terms.keys(opening[: states.start()]))
    else:
        return 0.0
    named = subject & keys
    if not named or not subject <= keys | above:
        return 0.0
    plain = {key for key in keys if not key.startswith("=")} | named
    share = len(named) / len(plain)
    return share if share >= 0.5 else 0.0


def _is_quoted(text: str, found: re.Match[str]) -> bool:
    """Tell a word that is named, as in "is", from one that says something."""
    return text[found.start() - 1 : found.start()] in {'"', "'", "`", "\u201c"}


_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_NEGATION: Final = re.compile(r"\b(?:not|no|never|without|cannot|none|nor)\b|n['\u2019]t\b", re.IGNORECASE)


def _merged(rated: Sequence[Scored], limit: int) -> list[Scored]:
    """Return the best sentences with their near copies folded into them."""
    kept: list[tuple[Scored, _Gist, list[Scored]]] = []
    for scored in rated:
        gist = _gist(scored.text)
        twin = next((copies for _, other, copies in kept if _same(gist, other)), None)
        if twin is not None:
            twin.append(scored)
        elif len(kept) < limit:
            kept.append((scored, gist, []))
    return [
        Scored(one.candidate, one.start, one.end, one.text, one.score, one.coverage, one.lead, tuple(copies))
        for one, _, copies in kept
    ]


@dataclass(frozen=True, slots=True)
class _Gist:
    keys: frozenset[str]
    numbers: frozenset[str]
    negations: int


def _gist(text: str) -> _Gist:
    return _Gist(frozenset(terms.keys(text)), frozenset(_NUMBER.findall(text)), len(_NEGATION.findall(text)))


def _same(one: _Gist, other: _Gist) -> bool:
    """Tell near copies apart from sentences that differ by a number or a "not", which is all the difference."""
    if one.numbers != other.numbers or one.negations != other.negations:
        return False
    union = one.keys | other.keys
    return not union or len(one.keys & other.keys) >= _ALIKE * len(union)
