"""Plans over HTTP: submit, list, look at, cancel, retry, fork."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import JSONResponse, Response

from orchestrator import export, shapes
from orchestrator.api import accept, forms, pages
from orchestrator.api.identity import Principal, acts, reads
from orchestrator.api.office import Here, the_plan
from orchestrator.api.problems import Refused, documented
from orchestrator.api.submission import Key, submit_plan
from orchestrator.domain import fork as fork_of
from orchestrator.domain.errors import Misconfigured, NotFound
from orchestrator.domain.plan import PlanState
from orchestrator.export import html

router: Final = APIRouter(prefix="/plans", tags=["plans"])

_FORMS: Final = {
    form.media_type: form
    for form in (export.Form.JSON, export.Form.MARKDOWN, export.Form.HTML, export.Form.PDF)
}


@router.post("", status_code=202, response_model=forms.Plan, responses=documented())
def submit(
    office: Here,
    who: Annotated[Principal, Depends(acts("plan.submit"))],
    form: forms.PlanForm,
    response: Response,
    key: Key = None,
) -> Any:
    """Accept a goal. From the answer on the plan is kept, whatever happens to this process."""
    plan = submit_plan(office, who, form, key)
    response.headers["Location"] = f"/plans/{plan.plan_id}"
    return shapes.plan(plan)


@router.get("", response_model=forms.PlanPage, responses=documented())
def listed(
    office: Here,
    who: Annotated[Principal, Depends(reads("plan.read"))],
    state: Annotated[PlanState | None, Query(description="Only plans in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: pages.Cursor = None,
) -> Any:
    """List plans, the newest first, a page at a time."""
    behind = pages.place(cursor)
    with office.store(who.tenant).transaction() as tx:
        found = tx.plans(tenant=who.tenant, state=state, behind=behind, limit=limit + 1)
    page = found[:limit]
    return {
        "plans": [shapes.plan(plan) for plan in page],
        "next": pages.after(page[-1].created_at, page[-1].plan_id) if len(found) > limit else None,
    }


@router.get(
    "/{plan_id}",
    response_model=forms.PlanShown,
    response_model_exclude_unset=True,
    responses=documented(404),
)
def show(office: Here, who: Annotated[Principal, Depends(reads("plan.read"))], plan_id: UUID) -> Any:
    """Show a plan: its state, its progress, what it spent and, once there are any, its tasks."""
    with office.store(who.tenant).transaction() as tx:
        found = shapes.plan(the_plan(tx, plan_id, who.tenant))
        planned = shapes.planned(tx.steps(str(plan_id)))
    return found if planned is None else {**found, "planned": planned}


@router.get("/{plan_id}/steps", response_model=forms.Steps, responses=documented(404))
def steps(office: Here, who: Annotated[Principal, Depends(reads("plan.read"))], plan_id: UUID) -> Any:
    """List a plan's steps by number."""
    with office.store(who.tenant).transaction() as tx:
        plan = the_plan(tx, plan_id, who.tenant)
        return {"steps": [shapes.step(found) for found in tx.steps(plan.plan_id)]}


@router.get("/{plan_id}/checkpoints", response_model=forms.Checkpoints, responses=documented(404))
def checkpoints(office: Here, who: Annotated[Principal, Depends(reads("plan.read"))], plan_id: UUID) -> Any:
    """List the steps that a plan may be forked from, and what each fork would take over without doing it again."""
    with office.store(who.tenant).transaction() as tx:
        plan = the_plan(tx, plan_id, who.tenant)
        return {"checkpoints": [shapes.checkpoint(found) for found in fork_of.listed(tx.steps(plan.plan_id))]}


@router.get("/{plan_id}/calls", response_model=forms.Calls, responses=documented(404))
def calls(office: Here, who: Annotated[Principal, Depends(reads("plan.read"))], plan_id: UUID) -> Any:
    """List the tool and model calls of a plan's journal, without what they returned: that is their evidence."""
    with office.store(who.tenant).transaction() as tx:
        plan = the_plan(tx, plan_id, who.tenant)
        return {"calls": [shapes.call(found) for found in tx.calls(plan.plan_id)]}


@router.get("/{plan_id}/facts", response_model=forms.Facts, responses=documented(404))
def facts(office: Here, who: Annotated[Principal, Depends(reads("plan.read"))], plan_id: UUID) -> Any:
    """List what a plan has found: quotes, and where they stand."""
    with office.store(who.tenant).transaction() as tx:
        plan = the_plan(tx, plan_id, who.tenant)
        return {"facts": [shapes.fact(found) for found in tx.facts(plan.plan_id)]}


@router.get("/{plan_id}/ballots", response_model=forms.Ballots, responses=documented(404))
def ballots(office: Here, who: Annotated[Principal, Depends(reads("plan.read"))], plan_id: UUID) -> Any:
    """List the rounds in which a plan's drafts were criticised and judged, and what was decided in each."""
    with office.store(who.tenant).transaction() as tx:
        plan = the_plan(tx, plan_id, who.tenant)
        return {"ballots": [shapes.ballot(found) for found in tx.ballots(plan.plan_id)]}


@router.get("/{plan_id}/audit", response_model=forms.Audit, responses=documented(404))
def audit(office: Here, who: Annotated[Principal, Depends(reads("audit.read"))], plan_id: UUID) -> Any:
    """Show a plan's sealed records, and whether every seal holds."""
    with office.store(who.tenant).transaction() as tx:
        the_plan(tx, plan_id, who.tenant)
        # under the plan's lock, so that the chain and what the plan remembers of it belong together
        plan = tx.lock_plan(str(plan_id))
        if plan is None:
            raise NotFound("plan", plan_id)
        records = tx.audit(plan.plan_id)
    broken = office.core.sealer.verify(plan.plan_id, records, count=plan.audit_count, head=plan.audit_head)
    return {
        "verified": broken is None,
        "broken": broken and {"record": broken.number, "fault": broken.fault},
        "records": [shapes.audit(record) for record in records],
    }


@router.get(
    "/{plan_id}/report",
    response_class=Response,
    responses={
        **documented(404, 406),
        200: {
            "description": "The report, in the form that `Accept` likes best; JSON where it does not say.",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "text/markdown": {"schema": {"type": "string"}},
                "text/html": {"schema": {"type": "string"}},
                "application/pdf": {"schema": {"type": "string", "format": "binary"}},
            },
        },
    },
)
def written(
    office: Here,
    who: Annotated[Principal, Depends(reads("report.read"))],
    plan_id: UUID,
    accepted: Annotated[str | None, Header(alias="Accept")] = None,
) -> Response:
    """Give a plan's report, in which every sentence has its citations; 404 until there is one."""
    with office.store(who.tenant).transaction() as tx:
        plan = the_plan(tx, plan_id, who.tenant)
        found = tx.report(plan.plan_id)
    if found is None:
        raise NotFound("report", f"of plan {plan_id} yet; it is {plan.state}")
    return _in_form(found, _FORMS[accept.chosen(accepted, tuple(_FORMS))])


def _in_form(found: Any, form: export.Form) -> Response:
    if form is export.Form.JSON:
        return JSONResponse(shapes.report(found))
    try:
        content = export.written(found, form)
    except Misconfigured as error:
        raise Refused(406, "not_acceptable", str(error)) from error
    if form is export.Form.PDF:
        return Response(content, media_type=form.media_type)
    # the page has one style sheet, which the policy of every other answer would not let a browser apply
    headers = {"Content-Security-Policy": f"{html.policy()}; frame-ancestors 'none'"}
    text = f"{form.media_type}; charset=utf-8"
    return Response(content, media_type=text, headers=headers if form is export.Form.HTML else None)


@router.post("/{plan_id}/cancel", response_model=forms.Plan, responses=documented(404, 409))
def cancel(
    office: Here,
    who: Annotated[Principal, Depends(acts("plan.cancel"))],
    plan_id: UUID,
    form: forms.CancelForm | None = None,
) -> Any:
    """End a plan now. What it has found stays; a worker that is still busy with it can no longer write."""
    with office.store(who.tenant).transaction() as tx:
        the_plan(tx, plan_id, who.tenant)
    reason = (form or forms.CancelForm()).reason
    office.conductor(who.tenant).cancel(str(plan_id), by=who.name, reason=reason)
    with office.store(who.tenant).transaction() as tx:
        return shapes.plan(the_plan(tx, plan_id, who.tenant))


@router.post("/{plan_id}/retry", response_model=forms.Plan, responses=documented(404, 409))
def retry(office: Here, who: Annotated[Principal, Depends(acts("plan.retry"))], plan_id: UUID) -> Any:
    """Take a plan that was given up on up again, where it stopped."""
    with office.store(who.tenant).transaction() as tx:
        the_plan(tx, plan_id, who.tenant)
    return shapes.plan(office.conductor(who.tenant).replay(str(plan_id), by=who.name))


@router.post("/{plan_id}/fork", status_code=202, response_model=forms.Plan, responses=documented(404, 409))
def fork(
    office: Here,
    who: Annotated[Principal, Depends(acts("plan.fork"))],
    plan_id: UUID,
    response: Response,
    form: forms.ForkForm | None = None,
    key: Key = None,
) -> Any:
    """Make a new plan that goes on from a step of this one, perhaps with another question; this one stays as it is."""
    with office.store(who.tenant).transaction() as tx:
        the_plan(tx, plan_id, who.tenant)
    wanted = form or forms.ForkForm()
    made = office.conductor(who.tenant).fork(
        str(plan_id), from_step=wanted.from_step, goal=wanted.goal, by=who.name, key=key
    )
    response.headers["Location"] = f"/plans/{made.plan_id}"
    return shapes.plan(made)
