"""The kill switch over HTTP: what is stopped, and stopping and resuming it, for one tenant or for the whole fleet.

The people of a tenant stop what is theirs; whoever runs the fleet stops anything, which only they lift. What the file of one
machine stops besides is not told here, since no other machine knows of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path

from orchestrator import shapes
from orchestrator.api import forms
from orchestrator.api.identity import Principal, acts, reads
from orchestrator.api.office import Here, Office
from orchestrator.api.problems import documented
from orchestrator.domain.stop import TARGET
from orchestrator.switch import SET, SET_EVERYWHERE, Switch

router: Final = APIRouter(prefix="/stops", tags=["stops"])

_Target = Annotated[
    str,
    Path(
        pattern=f"^(?:{TARGET.pattern})$",
        max_length=207,
        description="`all`, `tenant:NAME`, `tool:NAME`, `agent:NAME` or `plan:ID`.",
    ),
]
_Reader = Annotated[Principal, Depends(reads("stop.read"))]
_Own = Annotated[Principal, Depends(acts(SET))]
_Fleet = Annotated[Principal, Depends(acts(SET_EVERYWHERE))]


@router.get("", response_model=forms.Stops, responses=documented())
def listed(office: Here, who: _Reader) -> Any:
    """List what is stopped for the caller's tenant, by its own people or by whoever runs the fleet."""
    return {"stops": [shapes.stop(each) for each in _switch(office).listed(who.tenant)]}


@router.put("/{target}", response_model=forms.Stop, responses=documented(403))
def stop(office: Here, who: _Own, target: _Target, form: forms.StopForm) -> Any:
    """Stop a target for the caller's tenant: no call of it is decided from now on, and its steps are tried again later."""
    return shapes.stop(_switch(office).stop(who, target, form.reason))


@router.delete("/{target}", response_model=forms.Stop, responses=documented(403, 404))
def resume(office: Here, who: _Own, target: _Target) -> Any:
    """Lift what the caller's tenant stopped, and say what it was; what the fleet stopped stays so."""
    return shapes.stop(_switch(office).resume(who, target))


@router.put("/everywhere/{target}", response_model=forms.Stop, responses=documented(403))
def stop_everywhere(office: Here, who: _Fleet, target: _Target, form: forms.StopForm) -> Any:
    """Stop a target for every tenant."""
    return shapes.stop(_switch(office).stop(who, target, form.reason, everywhere=True))


@router.delete("/everywhere/{target}", response_model=forms.Stop, responses=documented(403, 404))
def resume_everywhere(office: Here, who: _Fleet, target: _Target) -> Any:
    """Lift what was stopped for every tenant, and say what it was."""
    return shapes.stop(_switch(office).resume(who, target, everywhere=True))


def _switch(office: Office) -> Switch:
    return Switch(office.core.store, office.core.sealer)
