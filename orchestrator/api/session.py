"""Sessions over HTTP: a key or token is exchanged for something that lasts an hour and can be ended.

A program that must hand a credential on, to a page or to a child, hands on a session: it may do no more than what
opened it, ends by itself, and ends with the key that opened it. A session opens no other.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends

from orchestrator.api import forms
from orchestrator.api.identity import Front, Principal, acts, reads
from orchestrator.api.problems import Refused, documented
from orchestrator.domain.errors import Conflict

router: Final = APIRouter(prefix="/auth/session", tags=["sessions"])


@router.post("", status_code=201, response_model=forms.NewSession, responses=documented())
def open_(front: Front, who: Annotated[Principal, Depends(acts("session.create"))]) -> Any:
    """Exchange the key or token of this request for a session; its token is shown this once."""
    if front.ring is None or who.kind not in {"key", "token"}:
        raise Refused(
            403,
            "forbidden",
            "Only an API key or a token opens a session; this request shows neither of them.",
        )
    token, kept = front.ring.open(who, lasts=timedelta(seconds=front.session_s))
    return {"token": token, "expires_at": kept.expires_at.isoformat(), **_shape(who)}


@router.get("", response_model=forms.Caller, responses=documented())
def show(who: Annotated[Principal, Depends(reads("session.read"))]) -> Any:
    """Say whom this API takes the caller for."""
    return {"expires_at": who.until.isoformat() if who.until else None, **_shape(who)}


@router.delete("", status_code=204, responses=documented(409))
def end(front: Front, who: Annotated[Principal, Depends(acts("session.end"))]) -> None:
    """End the session that this request shows."""
    if front.ring is None or who.kind != "session":
        raise Conflict("This request shows no session, so there is none to end; a key is revoked instead.")
    front.ring.end(who.credential)


def _shape(who: Principal) -> dict[str, Any]:
    return {
        "name": who.name,
        "tenant": who.tenant,
        "roles": sorted(who.roles),
        "scopes": list(who.scopes),
        "kind": who.kind,
    }
