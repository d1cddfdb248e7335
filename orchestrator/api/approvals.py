"""Approvals over HTTP: what people must decide, what they decided, and the decision.

Whoever decides does so in the name and with the roles that were verified, about plans of their own tenant. Nobody may
decide about plans that they submitted themselves, for one may not approve what oneself has asked for, and nobody
decides twice about the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from pydantic import AfterValidator

from orchestrator import shapes
from orchestrator.api import forms
from orchestrator.api.identity import Principal, acts, reads
from orchestrator.api.office import Here
from orchestrator.api.problems import documented
from orchestrator.api.submission import storable
from orchestrator.domain.approval import Category
from orchestrator.domain.errors import NotFound
from orchestrator.domain.plan import Approval, ApprovalState
from orchestrator.ports import Tx

router: Final = APIRouter(tags=["approvals"])

_Reader = Annotated[Principal, Depends(reads("approval.read"))]
_Decider = Annotated[Principal, Depends(acts("approval.decide"))]
_Number = Annotated[int, Path(ge=1, le=forms.MOST_STEPS, description="The step's number in its plan.")]


@router.get("/approvals", response_model=forms.Approvals, responses=documented())
def listed(
    office: Here,
    who: _Reader,
    state: Annotated[ApprovalState | None, Query(description="Only those in this state.")] = None,
    plan: Annotated[UUID | None, Query(description="Only those of this plan.")] = None,
    category: Annotated[Category | None, Query(description="Only those about this.")] = None,
    role: Annotated[
        str | None,
        AfterValidator(storable),
        Query(max_length=64, description="Only those that wait for this role now."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Any:
    """List what people must decide or have decided, the oldest first."""
    with office.store(who.tenant).transaction() as tx:
        found = tx.approvals(
            state=state,
            plan_id=str(plan) if plan is not None else None,
            category=category,
            role=role,
            tenant=who.tenant,
            limit=limit,
        )
    return {"approvals": [shapes.approval(each) for each in found]}


@router.get("/approvals/{approval_id}", response_model=forms.ApprovalInFull, responses=documented(404))
def show(office: Here, who: _Reader, approval_id: UUID) -> Any:
    """Show what must be decided: every stage, who has decided, and who was told of it."""
    with office.store(who.tenant).transaction() as tx:
        found = _approval(tx, who, str(approval_id))
        return shapes.approval_in_full(
            found, tx.rulings(found.approval_id), tx.notifications(approval_id=found.approval_id)
        )


@router.post("/approvals/{approval_id}", response_model=forms.Approval, responses=documented(403, 404, 409))
def decide(office: Here, who: _Decider, approval_id: UUID, form: forms.DecisionForm) -> Any:
    """Decide, once: when everybody has approved the step goes on; a rejection ends its plan."""
    with office.store(who.tenant).transaction() as tx:
        _approval(tx, who, str(approval_id))
    return _decided(office, who, str(approval_id), form, approve=form.decision == "approve")


@router.post(
    "/plans/{plan_id}/steps/{step}/approve",
    response_model=forms.Approval,
    responses=documented(403, 404, 409),
)
def approve(
    office: Here, who: _Decider, plan_id: UUID, step: _Number, form: forms.RulingForm | None = None
) -> Any:
    """Approve what a step waits for: the newest that was asked about it."""
    with office.store(who.tenant).transaction() as tx:
        asked = _newest(tx, who, str(plan_id), step)
    return _decided(office, who, asked.approval_id, form or forms.RulingForm(), approve=True)


@router.post(
    "/plans/{plan_id}/steps/{step}/reject", response_model=forms.Approval, responses=documented(403, 404, 409)
)
def reject(
    office: Here, who: _Decider, plan_id: UUID, step: _Number, form: forms.RulingForm | None = None
) -> Any:
    """Reject what a step waits for, which ends its plan."""
    with office.store(who.tenant).transaction() as tx:
        asked = _newest(tx, who, str(plan_id), step)
    return _decided(office, who, asked.approval_id, form or forms.RulingForm(), approve=False)


def _decided(
    office: Here, who: Principal, approval_id: str, form: forms.RulingForm, *, approve: bool
) -> dict[str, Any]:
    # a role that is named narrows those that the caller has; it gives none
    roles = who.roles if form.role is None else who.roles & {form.role}
    return shapes.approval(
        office.conductor(who.tenant).decide(
            approval_id, approve=approve, by=who.name, roles=roles, comment=form.comment, stage=form.stage
        )
    )


def _approval(tx: Tx, who: Principal, approval_id: str) -> Approval:
    found = tx.approval(approval_id)
    plan = tx.plan(found.plan_id) if found else None
    if found is None or plan is None or plan.tenant != who.tenant:
        raise NotFound("approval", approval_id)
    return found


def _newest(tx: Tx, who: Principal, plan_id: str, step: int) -> Approval:
    found = tx.approvals(plan_id=plan_id, step=step, tenant=who.tenant)
    if not found:
        raise NotFound("approval", f"of step {step} in plan {plan_id}")
    return found[-1]
