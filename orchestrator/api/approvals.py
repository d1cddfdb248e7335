"""Approvals over HTTP: what a person must decide, and the decision.

Nobody's identity is verified yet: whoever decides here is the caller of this API, an operator. Such a caller may not
decide about plans that were submitted over this API, for one may not approve what oneself has asked for.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query

from orchestrator import shapes
from orchestrator.api import forms
from orchestrator.api.office import CALLER, ROLES, Here
from orchestrator.api.problems import documented
from orchestrator.domain.plan import ApprovalState

router: Final = APIRouter(prefix="/approvals", tags=["approvals"])


@router.get("", response_model=forms.Approvals, responses=documented())
def listed(
    office: Here,
    state: Annotated[ApprovalState | None, Query(description="Only those in this state.")] = None,
    plan: Annotated[UUID | None, Query(description="Only those of this plan.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Any:
    """List what a person must decide or has decided, the oldest first."""
    with office.core.store.transaction() as tx:
        found = tx.approvals(state=state, plan_id=str(plan) if plan is not None else None)
    return {"approvals": [shapes.approval(each) for each in found[:limit]]}


@router.post("/{approval_id}", response_model=forms.Approval, responses=documented(404, 409))
def decide(office: Here, approval_id: UUID, form: forms.DecisionForm) -> Any:
    """Decide, once: an approved step goes on, a rejected one ends its plan."""
    decided = office.core.conductor.decide(
        str(approval_id), approve=form.decision == "approve", by=CALLER, roles=ROLES, comment=form.comment
    )
    return shapes.approval(decided)
