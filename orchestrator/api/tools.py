"""The tools, called by whoever asks and outside of plans: judged and recorded as a plan's calls are."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path

from orchestrator.api import forms
from orchestrator.api.identity import Principal, acts, reads
from orchestrator.api.office import Here, Office
from orchestrator.api.problems import documented
from orchestrator.domain.errors import Conflict
from orchestrator.ports import ToolDesk

router: Final = APIRouter(tags=["tools"])


@router.get("/tools", response_model=forms.Tools, responses=documented(409))
def list_tools(office: Here, who: Annotated[Principal, Depends(reads("tool.read"))]) -> Any:  # noqa: ARG001 - let in
    """List the tools of the registry; one that is withheld here says why."""
    return {"items": _desk(office).tools()}


@router.post("/tools/{name}", response_model=forms.ToolAnswer, responses=documented(403, 404, 409))
def call_tool(
    office: Here,
    who: Annotated[Principal, Depends(acts("tool.call"))],
    name: Annotated[str, Path(min_length=1, max_length=64)],
    form: forms.ToolForm,
) -> Any:
    """Call a tool as an agent of a plan would, by that agent's profile; the call is recorded, its content is not kept."""
    return {"tool": name, "content": _desk(office).call(who, name, form.arguments, agent=form.agent)}


def _desk(office: Office) -> ToolDesk:
    if office.desk is None:
        raise Conflict("This server has no tools.")
    return office.desk
