"""Who must decide, one after another or together, and what a decision comes to; pure.

    chain   stage 1 ────────────▶ stage 2 ──▶ … ──▶ approved, and it holds for a while
              │ seats, each filled by one person in one of its roles; nobody sits twice in a chain
              │ nobody in time ▶ escalates to further roles ▶ nobody in time ▶ expired
              └ anybody who could fill a seat rejects ▶ rejected

A chain is kept with what was asked, so that a change of the configuration changes nothing that is under way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from orchestrator.domain.errors import AlreadyDecided, DecidesTwice, RequesterDecides, WrongRole
from orchestrator.domain.plan import Approval, ApprovalState, Chain, Escalation, Json, Ruling, Stage


class Category(StrEnum):
    """What a decision is about; each has a chain of its own."""

    DECISION = "DECISION"
    DATA_ACCESS = "DATA_ACCESS"
    COST = "COST"
    COMPLIANCE = "COMPLIANCE"
    EXTERNAL_ACTION = "EXTERNAL_ACTION"
    QUALITY = "QUALITY"
    SECURITY = "SECURITY"


@dataclass(frozen=True, slots=True)
class Turn:
    """What a decision comes to: the approval's state, and who must decide next while it is pending.

    `within` is the time that a stage has which begins now.
    """

    ruling: Ruling
    state: ApprovalState
    stage: int
    roles: tuple[str, ...]
    within: timedelta | None = None


def simple(roles: tuple[str, ...], within: timedelta) -> Chain:
    """One person in one of these roles."""
    return Chain((Stage((roles,), within),))


def opening(chain: Chain) -> tuple[str, ...]:
    """The roles that may decide first."""
    return _deciders(chain, 1, 0, ())


def escalated(asked: Approval, rulings: Sequence[Ruling]) -> tuple[tuple[str, ...], timedelta] | None:
    """Who may decide from now on and for how long, when a stage's time is up; `None` when nobody is left to ask."""
    chain = chain_of(asked)
    ladder = chain.stages[asked.stage - 1].escalations
    if asked.level >= len(ladder):
        return None
    return _deciders(chain, asked.stage, asked.level + 1, rulings), ladder[asked.level].within


def rule(
    asked: Approval,
    rulings: Sequence[Ruling],
    *,
    by: str,
    roles: Iterable[str],
    approve: bool,
    comment: str = "",
    stage: int | None = None,
) -> Turn:
    """Return what a person's decision comes to; `stage` is the one that they saw, where they say so.

    Raises `WrongRole`, `RequesterDecides`, `DecidesTwice`, or `AlreadyDecided` when somebody was first.
    """
    chain, mine = chain_of(asked), frozenset(roles)
    passed = _passed(chain, asked, rulings)
    if not mine & {*asked.roles, *passed}:
        raise WrongRole(asked.roles)
    if by == asked.requester:
        raise RequesterDecides(by)
    if asked.state is not ApprovalState.PENDING:
        raise AlreadyDecided(asked.approval_id, asked.state)
    if any(by == ruling.person for ruling in rulings):
        raise DecidesTwice(by)
    if (stage is not None and stage != asked.stage) or not mine & set(asked.roles):
        raise AlreadyDecided(asked.approval_id, f"past that stage and waits for {', '.join(asked.roles)}")
    seat, role = _seat(chain, asked, rulings, mine)
    decision = ApprovalState.APPROVED if approve else ApprovalState.REJECTED
    ruling = Ruling(len(rulings) + 1, by, role, asked.stage, seat, decision, comment)
    if not approve or role in chain.alone:
        return Turn(ruling, decision, asked.stage, asked.roles)
    return _follow(chain, asked, ruling, (*rulings, ruling))


def _follow(chain: Chain, asked: Approval, ruling: Ruling, rulings: Sequence[Ruling]) -> Turn:
    if _open(chain, asked.stage, rulings):
        left = _deciders(chain, asked.stage, asked.level, rulings)
        return Turn(ruling, ApprovalState.PENDING, asked.stage, left)
    if asked.stage == len(chain.stages):
        return Turn(ruling, ApprovalState.APPROVED, asked.stage, asked.roles)
    following = asked.stage + 1
    within = chain.stages[following - 1].within
    return Turn(ruling, ApprovalState.PENDING, following, _deciders(chain, following, 0, rulings), within)


def _seat(chain: Chain, asked: Approval, rulings: Sequence[Ruling], mine: frozenset[str]) -> tuple[int, str]:
    """The seat that a person takes, and the role in which."""
    free = _open(chain, asked.stage, rulings)
    for seat, wanted in free.items():
        for role in wanted:
            if role in mine:
                return seat, role
    # somebody who decides the whole alone, or whom it was escalated to, sits where a seat is free
    return next(iter(free)), next(role for role in asked.roles if role in mine)


def _open(chain: Chain, stage: int, rulings: Sequence[Ruling]) -> Mapping[int, tuple[str, ...]]:
    taken = {ruling.seat for ruling in rulings if ruling.stage == stage}
    return {n: seat for n, seat in enumerate(chain.stages[stage - 1].seats, start=1) if n not in taken}


def _deciders(chain: Chain, stage: int, level: int, rulings: Sequence[Ruling]) -> tuple[str, ...]:
    wanted = [role for seat in _open(chain, stage, rulings).values() for role in seat]
    further = [role for step in chain.stages[stage - 1].escalations[:level] for role in step.roles]
    return tuple(dict.fromkeys([*wanted, *further, *chain.alone]))


def _passed(chain: Chain, asked: Approval, rulings: Sequence[Ruling]) -> set[str]:
    """The roles that had their turn."""
    seats = {(ruling.stage, ruling.seat) for ruling in rulings}
    before = {role for s in chain.stages[: asked.stage - 1] for seat in s.seats for role in seat}
    return before | {
        role
        for number, stage in enumerate(chain.stages, start=1)
        for n, seat in enumerate(stage.seats, start=1)
        if (number, n) in seats
        for role in seat
    }


def chain_of(asked: Approval) -> Chain:
    """The chain that an approval goes through; one person, where it was asked before there were chains."""
    return asked.chain or simple(asked.roles, timedelta(0))


def waited(approvals: Iterable[Approval], now: datetime) -> timedelta:
    """How long a plan has waited for people without a break until now; its time does not run meanwhile."""
    since = now
    asked = [a for a in approvals if a.asked_at is not None]
    for approval in sorted(asked, key=lambda a: a.decided_at or now, reverse=True):
        if (approval.decided_at or now) < since:
            break
        since = min(since, approval.asked_at or now)
    return now - since


def as_json(chain: Chain) -> Json:
    """A chain as it is stored."""
    return {
        "alone": list(chain.alone),
        "holds_s": chain.holds.total_seconds(),
        "stages": [
            {
                "seats": [list(seat) for seat in stage.seats],
                "within_s": stage.within.total_seconds(),
                "escalations": [
                    {"roles": list(step.roles), "within_s": step.within.total_seconds()}
                    for step in stage.escalations
                ],
            }
            for stage in chain.stages
        ],
    }


def from_json(stored: Mapping[str, Any]) -> Chain:
    """A chain from how it is stored."""
    return Chain(
        stages=tuple(
            Stage(
                seats=tuple(tuple(seat) for seat in stage["seats"]),
                within=timedelta(seconds=stage["within_s"]),
                escalations=tuple(
                    Escalation(tuple(step["roles"]), timedelta(seconds=step["within_s"]))
                    for step in stage["escalations"]
                ),
            )
            for stage in stored["stages"]
        ),
        alone=tuple(stored["alone"]),
        holds=timedelta(seconds=stored["holds_s"]),
    )
