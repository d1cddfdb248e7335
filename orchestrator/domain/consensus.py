"""When a draft is accepted: rounds of generator, critic and judge, and what a ballot means in each of them.

    round 0   draft ─ objections ─ verdict, confidence ─▶ accepted      accept, nothing grave, at least 0.95 sure
                                                       ├▶ needs review  reject; the same draft again; no rounds left
                                                       └▶ revise        anything else: round 1, where 0.90 suffices …

What must be reached sinks by 0.05 a round and never below 0.60. A judge cannot accept what the critic's rules object
to, and a draft that was not accepted ends its plan as `needs_review`: it is never passed off as an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from orchestrator.domain.plan import CONSENSUS_ROUNDS, ROUNDS, Json, Step

AT_FIRST: Final = 0.95
AT_LEAST: Final = 0.60
SINKS_BY: Final = 0.05

MOST_REASONS: Final = 50
LONGEST_REASON: Final = 4_000
"""Characters of one reason; a judge that writes more has not answered the question."""


class Verdict(StrEnum):
    """What a judge may say of a draft."""

    ACCEPT = "accept"
    REVISE = "revise"
    REJECT = "reject"


class Decision(StrEnum):
    """What follows from a ballot."""

    ACCEPTED = "accepted"
    REVISE = "revise"
    NEEDS_REVIEW = "needs_review"


class Why(StrEnum):
    """Why a plan ends without an accepted draft."""

    REJECTED = "rejected"
    """The judge said that the facts cannot carry an answer."""
    NO_PROGRESS = "no_progress"
    """The draft is one that an earlier round did not accept."""
    ROUNDS = "rounds"
    """All rounds were used up."""
    BUDGET = "budget"
    """Another round was due, but the plan's steps or time did not allow it."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a judge thinks of a draft: a verdict, how sure of it (0.0 to 1.0), and reasons."""

    verdict: Verdict
    confidence: float
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ballot:
    """One round, as it is kept: the draft's digest, what was objected, what the judge said and what follows.

    `objections` are the grave ones, which exclude acceptance. `generator`, `critic` and `judge` are step numbers;
    0 where a step left none.
    """

    plan_id: str
    round: int
    draft: str
    objections: int
    verdict: Verdict
    confidence: float
    threshold: float
    decided: Decision
    why: Why | None
    generator: int
    critic: int
    judge: int
    at: datetime | None = field(default=None, compare=False)


def threshold(round_: int) -> float:
    """How sure the judge must be in a round, counted from 0: 0.95, 0.90 and so on, never below 0.60."""
    return max(round(AT_FIRST - SINKS_BY * round_, 2), AT_LEAST)


def rounds(metadata: Mapping[str, Json], usual: int) -> int:
    """How many drafts a plan may have judged: as many as its request says, else the `usual` number of its depth."""
    asked = metadata.get(CONSENSUS_ROUNDS)
    return asked if isinstance(asked, int) and asked in ROUNDS else usual


def opinion(reply: Mapping[str, Any]) -> Opinion | None:
    """Read a judge's reply; `None` for whatever is not exactly a verdict, a confidence and reasons.

    Nothing is looked for inside of words: "accept, I see no reason to reject" is no verdict.
    """
    if set(reply) != {"verdict", "confidence", "reasons"}:
        return None
    verdict, sure, reasons = reply["verdict"], _share(reply["confidence"]), reply["reasons"]
    if not isinstance(verdict, str) or verdict not in set(Verdict) or sure is None:
        return None
    if not isinstance(reasons, list) or len(reasons) > MOST_REASONS:
        return None
    if not all(isinstance(r, str) and r.strip() and len(r) <= LONGEST_REASON for r in reasons):
        return None
    return Opinion(Verdict(verdict), sure, tuple(reasons))


def worst(opinions: Iterable[Opinion]) -> Opinion:
    """One opinion of the parts of a draft: the harshest verdict, the least sure of those who gave it.

    There must be at least one.
    """
    said = list(opinions)
    verdict = max((o.verdict for o in said), key=list(Verdict).index)
    reasons = dict.fromkeys(reason for o in said for reason in o.reasons)
    return Opinion(verdict, min(o.confidence for o in said if o.verdict is verdict), tuple(reasons))


def stands(judge: Step) -> bool:
    """Whether a judge's finished step accepted its draft, by the rules of its round."""
    return _accepted(*_said(judge), judge.round)


def doubt(judge: Step) -> str:
    """Say in a sentence what kept a judge's finished step from accepting its draft."""
    verdict, sure, objections = _said(judge)
    needed = threshold(judge.round)
    grave = (
        f", with {objections} grave {'objection' if objections == 1 else 'objections'}" if objections else ""
    )
    return (
        f"Not accepted in round {judge.round + 1}: the judge's verdict was {verdict}, {sure:.2f} sure where {needed:.2f} "
        f"was needed{grave}."
    )


def cast(judge: Step, *, most: int, affordable: bool) -> Ballot:
    """Return the ballot of a judge's finished step; `most` rounds may be had, and the next if it is `affordable`."""
    verdict, sure, objections = _said(judge)
    decided, why = Decision.REVISE, None
    if _accepted(verdict, sure, objections, judge.round):
        decided = Decision.ACCEPTED
    else:
        why = _end(judge, verdict, most=most, affordable=affordable)
        decided = Decision.REVISE if why is None else Decision.NEEDS_REVIEW
    return Ballot(
        plan_id=judge.plan_id,
        round=judge.round,
        draft=str(judge.result.get("draft") or ""),
        objections=objections,
        verdict=verdict,
        confidence=sure,
        threshold=threshold(judge.round),
        decided=decided,
        why=why,
        generator=_count(judge.result.get("generator")),
        critic=_count(judge.result.get("critic")),
        judge=judge.number,
    )


def _end(judge: Step, verdict: Verdict, *, most: int, affordable: bool) -> Why | None:
    if verdict is Verdict.REJECT:
        return Why.REJECTED
    if judge.result.get("repeats") is not None:
        return Why.NO_PROGRESS
    if judge.round + 1 >= most:
        return Why.ROUNDS
    return None if affordable else Why.BUDGET


def _accepted(verdict: Verdict, sure: float, objections: int, round_: int) -> bool:
    return verdict is Verdict.ACCEPT and objections == 0 and sure >= threshold(round_)


def _said(judge: Step) -> tuple[Verdict, float, int]:
    """What a judge's step says; what it does not say in this form counts as no acceptance."""
    verdict = Verdict(judge.verdict) if judge.verdict in set(Verdict) else Verdict.REVISE
    sure = _share(judge.result.get("confidence"))
    return verdict, 0.0 if sure is None else sure, _count(judge.result.get("objections"))


def _share(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1 else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
