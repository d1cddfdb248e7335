"""Dead letters over HTTP: what was given up on, and what to do about it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator

from orchestrator import shapes
from orchestrator.api import forms, pages
from orchestrator.api.identity import Principal, acts, reads
from orchestrator.api.office import Here
from orchestrator.api.problems import documented
from orchestrator.api.submission import storable
from orchestrator.domain import age
from orchestrator.domain.errors import NotFound
from orchestrator.domain.plan import DeadLetter, Plan
from orchestrator.ports import Tx

router: Final = APIRouter(prefix="/dead-letters", tags=["dead letters"])

_Text = Annotated[str | None, AfterValidator(storable)]


@router.get("", response_model=forms.DeadLetters, responses=documented())
def listed(
    office: Here,
    who: Annotated[Principal, Depends(reads("dead_letter.read"))],
    state: Annotated[Literal["open", "retried", "discarded", "all"], Query()] = "open",
    reason: Annotated[_Text, Query(max_length=100, description="Only those given up on for it.")] = None,
    plan: Annotated[UUID | None, Query(description="Only those of this plan.")] = None,
    tenant: Annotated[_Text, Query(max_length=100, description="Only those of this tenant's plans.")] = None,
    older_than: Annotated[
        str | None,
        Query(pattern=age.PATTERN, description="Only those as old as this or older: `90s`, `2h`, `1d`."),
    ] = None,
    newer_than: Annotated[
        str | None, Query(pattern=age.PATTERN, description="Only those that are newer than this.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: pages.Cursor = None,
) -> Any:
    """List what was given up on, the newest first, a page at a time."""
    behind = pages.place(cursor)
    if tenant not in {None, who.tenant}:
        return {"dead_letters": [], "next": None}
    with office.store(who.tenant).transaction() as tx:
        found = tx.dead_letters(
            state=None if state == "all" else state,
            plan_id=str(plan) if plan is not None else None,
            reason=reason,
            tenant=who.tenant,
            older_than=None if older_than is None else age.age(older_than),
            newer_than=None if newer_than is None else age.age(newer_than),
            behind=behind,
            limit=limit + 1,
        )
    page = found[:limit]
    return {
        "dead_letters": [shapes.dead_letter(letter) for letter in page],
        "next": pages.after(page[-1].at, page[-1].letter_id) if len(found) > limit else None,
    }


@router.get("/{letter_id}", response_model=forms.WholeDeadLetter, responses=documented(404))
def show(office: Here, who: Annotated[Principal, Depends(reads("dead_letter.read"))], letter_id: UUID) -> Any:
    """Show a dead letter in full, with the history of its plan's faults."""
    with office.store(who.tenant).transaction() as tx:
        letter, plan = _own(tx, who, letter_id)
        return shapes.whole_dead_letter(letter, tx.events(plan.plan_id, limit=shapes.MOST_EVENTS))


@router.post("/{letter_id}/retry", response_model=forms.Plan, responses=documented(404, 409))
def retry(
    office: Here, who: Annotated[Principal, Depends(acts("dead_letter.retry"))], letter_id: UUID
) -> Any:
    """Take a dead letter's plan up again where it stopped; its history stays."""
    with office.store(who.tenant).transaction() as tx:
        _own(tx, who, letter_id)
    return shapes.plan(office.conductor(who.tenant).retry_dead(str(letter_id), by=who.name))


@router.post("/{letter_id}/discard", response_model=forms.DeadLetter, responses=documented(404, 409))
def discard(
    office: Here, who: Annotated[Principal, Depends(acts("dead_letter.discard"))], letter_id: UUID
) -> Any:
    """Say that a dead letter needs no more attention; its plan stays as it is."""
    with office.store(who.tenant).transaction() as tx:
        _own(tx, who, letter_id)
    office.conductor(who.tenant).discard_dead(str(letter_id), by=who.name)
    with office.store(who.tenant).transaction() as tx:
        letter = tx.dead_letter(str(letter_id))
    if letter is None:
        raise NotFound("dead letter", letter_id)
    return shapes.dead_letter(letter)


def _own(tx: Tx, who: Principal, letter_id: UUID) -> tuple[DeadLetter, Plan]:
    """Return a letter and its plan; raises `NotFound` unless that is one of the caller's tenant's."""
    letter = tx.dead_letter(str(letter_id))
    plan = None if letter is None or letter.plan_id is None else tx.plan(letter.plan_id)
    if letter is None or plan is None or plan.tenant != who.tenant:
        raise NotFound("dead letter", letter_id)
    return letter, plan
