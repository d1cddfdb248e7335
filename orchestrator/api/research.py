"""One question, one answer: submits a plan and waits for its end, or streams what happens to it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from uuid import UUID

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orchestrator import shapes
from orchestrator.api import accept, events, forms
from orchestrator.api.identity import Principal, acts
from orchestrator.api.office import Here, Office, the_plan
from orchestrator.api.problems import documented
from orchestrator.api.submission import Key, question, submit_research
from orchestrator.domain import report
from orchestrator.domain.errors import InvalidRequest, NotFound
from orchestrator.domain.lifecycle import PLAN_ENDS
from orchestrator.domain.plan import DEPTHS, Event, Plan

router: Final = APIRouter(prefix="/research", tags=["research"])

_LOOK_EVERY_S: Final = 0.2
_IN_AN_ADDRESS: Final = 4096
"""Characters of a question in an address: written as bytes with percent signs, more may not fit where servers cut."""
_EVENT = re.compile(r"([0-9a-f-]{36}):(\d{1,10})")


@router.post(
    "",
    response_model=forms.Research,
    responses={
        **documented(),
        202: {
            "description": "It takes longer; `Location` names the plan, which goes on.",
            "model": forms.Plan,
        },
    },
)
async def research(
    office: Here,
    who: Annotated[Principal, Depends(acts("research.run"))],
    http: Request,
    form: forms.ResearchForm,
    wait: Annotated[
        float | None, Query(ge=0, le=accept.LONGEST_S, description="The most seconds to wait.")
    ] = None,
    prefer: Annotated[
        str | None, Header(alias="Prefer", description="`respond-async`, or `wait=SECONDS`.")
    ] = None,
    key: Key = None,
) -> Any:
    """Research a question and wait for the answer; what takes longer goes on as a plan.

    A caller who goes away ends the waiting, and not the plan.
    """
    patience = accept.patience(wait, prefer)
    plan = await run_sync(submit_research, office, who, form, key)
    plan = await _waited(office, http, plan, patience.seconds)
    headers = patience.headers(f"/plans/{plan.plan_id}")
    if plan.state in PLAN_ENDS:
        return JSONResponse(await run_sync(_answer, office, plan), headers=headers)
    return JSONResponse(shapes.plan(plan), 202, headers)


async def _waited(office: Office, http: Request, plan: Plan, seconds: float) -> Plan:
    """Return the plan as it is once it has ended, or once there is no more waiting."""
    until = anyio.current_time() + seconds
    while plan.state not in PLAN_ENDS and anyio.current_time() < until:
        if office.stopping.is_set() or await http.is_disconnected():
            break
        await anyio.sleep(min(_LOOK_EVERY_S, max(0.0, until - anyio.current_time())))
        plan = await run_sync(_found, office, plan.plan_id, plan.tenant, limiter=office.lookers)
    return plan


def _found(office: Office, plan_id: str, tenant: str) -> Plan:
    with office.store(tenant).transaction() as tx:
        return the_plan(tx, plan_id, tenant)


def _answer(office: Office, plan: Plan) -> dict[str, Any]:
    with office.store(plan.tenant).transaction() as tx:
        found, facts = tx.report(plan.plan_id), tx.facts(plan.plan_id)
    return {
        "job_id": plan.plan_id,
        "status": plan.state.value,
        "report": None if found is None else report.markdown(found),
        "confidence": None if found is None else shapes.plain(found.get("confidence")),
        "sources_count": len({fact.evidence for fact in facts}),
        "facts_count": len(facts),
    }


@router.get(
    "/stream",
    response_class=Response,
    responses={
        **documented(404, 429),
        200: {
            "description": "The plan's events until it ends; each id names plan and event, to resume from.",
            "content": {events.STREAM: {}},
        },
    },
)
def streamed(
    office: Here,
    who: Annotated[Principal, Depends(acts("research.run"))],
    query: Annotated[
        str,
        Query(
            min_length=1,
            max_length=_IN_AN_ADDRESS,
            description="The question; `POST /research` takes longer ones.",
        ),
    ],
    depth: Annotated[int, Query(ge=DEPTHS[0], le=DEPTHS[-1])] = 2,
    max_sources: Annotated[int | None, Query(ge=1, le=50)] = None,
    domain: Annotated[str | None, Query(max_length=100, description=forms.DOMAIN)] = None,
    last: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID", description="Goes on with the plan that this id names, and submits none."
        ),
    ] = None,
) -> Response:
    """Research a question and tell what happens meanwhile. A reader who comes back goes on with the same plan."""
    office.seats.check(who)
    if last:
        plan_id, after = _place(last)
    else:
        form = question(query, depth, max_sources, domain)
        plan_id, after = submit_research(office, who, form, None).plan_id, 0
    return events.stream(office, plan_id, who=who, after=after, name=_name)


def _name(event: Event) -> str:
    return f"{event.plan_id}:{event.number}"


def _place(last: str) -> tuple[str, int]:
    found = _EVENT.fullmatch(last.strip())
    if found is None:
        raise InvalidRequest("Last-Event-ID is none that this stream gave; leave it out to ask anew.")
    try:
        return str(UUID(found[1])), events.number(found[2])
    except ValueError as error:
        raise NotFound("plan", found[1]) from error
