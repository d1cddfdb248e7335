"""Notifications over HTTP: what the webhook was told about approvals, what it was not, and telling it again."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from orchestrator import shapes
from orchestrator.api import forms
from orchestrator.api.identity import Principal, acts, reads
from orchestrator.api.office import Here
from orchestrator.api.problems import documented
from orchestrator.domain.errors import NotFound
from orchestrator.domain.plan import NotificationState
from orchestrator.ports import Tx

router: Final = APIRouter(prefix="/notifications", tags=["approvals"])


@router.get("", response_model=forms.Notifications, responses=documented())
def listed(
    office: Here,
    who: Annotated[Principal, Depends(reads("approval.read"))],
    state: Annotated[NotificationState | None, Query(description="Only those in this state.")] = None,
    approval: Annotated[UUID | None, Query(description="Only those about this approval.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Any:
    """List what is told outside about approvals, the oldest first; `given_up` was not taken and is not sent again."""
    with office.store(who.tenant).transaction() as tx:
        found = tx.notifications(
            approval_id=str(approval) if approval is not None else None,
            state=state,
            tenant=who.tenant,
            limit=limit,
        )
    return {"notifications": [shapes.notification(each) for each in found]}


@router.post("/{notification_id}/retry", response_model=forms.Notification, responses=documented(404, 409))
def retry(
    office: Here, who: Annotated[Principal, Depends(acts("notification.retry"))], notification_id: UUID
) -> Any:
    """Send again what was given up on, under the same id; 409 when it was not given up on."""
    with office.store(who.tenant).transaction() as tx:
        _own(tx, who, str(notification_id))
    return shapes.notification(office.conductor(who.tenant).tell_again(str(notification_id), by=who.name))


def _own(tx: Tx, who: Principal, notification_id: str) -> None:
    """Raise `NotFound` unless it is about an approval of one of the caller's tenant's plans."""
    found = tx.notification(notification_id)
    asked = tx.approval(found.approval_id) if found else None
    plan = tx.plan(asked.plan_id) if asked else None
    if plan is None or plan.tenant != who.tenant:
        raise NotFound("notification", notification_id)
