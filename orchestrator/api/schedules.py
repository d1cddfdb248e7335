"""Schedules over HTTP: kept, listed, changed, removed, fired; and the trigger for a clock outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

from orchestrator import prompts, shapes, timetable
from orchestrator.api import forms
from orchestrator.api.identity import Principal, acts, reads
from orchestrator.api.office import Core
from orchestrator.api.problems import documented
from orchestrator.api.submission import Key, allowed_folder, sources_of, usual_folder
from orchestrator.chronos import Change, Chronos, Draft
from orchestrator.domain.plan import GOAL_LIMIT_BYTES, request
from orchestrator.domain.schedule import FiringOutcome, Misfire, Overlap, Schedule

_LAX = Field(strict=False)  # JSON has no enumerations and no times
_YEARS: Final = range(1970, 9999)

Named = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="The schedule's name, or its id.")]


def _text_only(value: object) -> object:
    if value is not None and not isinstance(value, str):
        raise ValueError("a time is a text, such as 2026-03-29T02:30:00Z")
    return value


def _in_our_time(at: datetime | None) -> datetime | None:
    if at is not None and at.year not in _YEARS:
        raise ValueError(f"a tick lies in one of the years {_YEARS[0]} to {_YEARS[-1]}")
    return at


Tick = Annotated[
    Annotated[AwareDatetime, _LAX] | None, BeforeValidator(_text_only), AfterValidator(_in_our_time)
]


class Asked(forms.Sent):
    """What each plan of a schedule is asked for."""

    goal: str
    depth: int = 2
    domain: str | None = Field(default=None, max_length=100, description=forms.DOMAIN)
    max_sources: int | None = Field(default=None, ge=1, le=50)
    sources: dict[str, Any] = Field(default_factory=dict)
    budget: dict[str, int] = Field(default_factory=dict)
    priority: int = 0
    metadata: dict[str, Any] = Field(default_factory=dict)


class NewSchedule(forms.Sent):
    """A schedule to keep."""

    name: str
    cron: str
    request: Asked
    timezone: str = "UTC"
    misfire: Annotated[Misfire, _LAX] = Misfire.ONCE
    overlap: Annotated[Overlap, _LAX] = Overlap.SKIP
    paused: bool = False


class ChangedSchedule(forms.Sent):
    """What is to be different; what is left out stays."""

    cron: str | None = None
    timezone: str | None = None
    request: dict[str, Any] = Field(default_factory=dict)
    misfire: Annotated[Misfire | None, _LAX] = None
    overlap: Annotated[Overlap | None, _LAX] = None
    paused: bool | None = None


class Trigger(forms.Sent):
    """A tick of a schedule that a clock outside says has come."""

    schedule: str
    due_at: Tick = None


class BriefForm(forms.Sent, timetable.Brief):
    """A schedule in one object: a question, a cron expression in UTC, and limits."""


class Question(forms.Sent):
    """A question that a clock outside asks without a schedule here."""

    query: str = Field(min_length=1, max_length=GOAL_LIMIT_BYTES)
    depth: int = Field(default=2, ge=1, le=5)
    max_sources: int = Field(default=10, ge=1, le=1000)
    domain: str | None = Field(default=None, max_length=100, description=forms.DOMAIN)


def within(core: Core, request: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked for, if its documents lie where this server lets documents be read."""
    sources = request.get("sources")
    if not isinstance(sources, dict) or "documents" not in sources:
        return request
    folder = allowed_folder(str(sources["documents"]), core.settings.roots)
    return {**request, "sources": {**sources, "documents": str(folder)}}


def somewhere(core: Core, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked for, within the usual folder where it names none."""
    folder = usual_folder(core.settings)
    sources = request.get("sources") or {}
    if folder is not None and "documents" not in sources:
        sources = {**sources, "documents": folder}
    return within(core, {**request, "sources": sources})


def router(core: Core) -> APIRouter:
    """Return the routes of schedules."""

    def chronos(tenant: str) -> Chronos:
        return Chronos(
            core.store.of(tenant),
            core.conductor.of(tenant),
            check_domain=prompts.book(core.settings.prompts).current().check,
        )

    routes = APIRouter(tags=["schedules"], responses=documented(404, 409))

    @routes.get("/schedules", response_model=forms.Schedules)
    def list_schedules(
        who: Annotated[Principal, Depends(reads("schedule.read"))],
    ) -> dict[str, Any]:
        """Every schedule by name."""
        return {"schedules": [shapes.schedule(s) for s in chronos(who.tenant).list(tenant=who.tenant)]}

    @routes.post("/schedules", status_code=201, response_model=forms.Schedule)
    def add_schedule(
        who: Annotated[Principal, Depends(acts("schedule.create"))], asked: NewSchedule, response: Response
    ) -> dict[str, Any]:
        """Keep a new schedule; 409 when the name is taken."""
        given = asked.model_dump(exclude={"request"})
        wanted = asked.request.model_dump(exclude_none=True)
        request = {**somewhere(core, wanted), "requester": who.name}
        made = chronos(who.tenant).add(Draft(**given, request=request, tenant=who.tenant))
        response.headers["Location"] = f"/schedules/{made.schedule_id}"
        return shapes.schedule(made)

    @routes.get("/schedules/{schedule}", response_model=forms.ShownSchedule)
    def show_schedule(
        who: Annotated[Principal, Depends(reads("schedule.read"))], schedule: Named
    ) -> dict[str, Any]:
        """One schedule by its name or id, with its next times."""
        found = chronos(who.tenant).show(schedule, tenant=who.tenant)
        upcoming = chronos(who.tenant).upcoming(schedule, tenant=who.tenant)
        return {**shapes.schedule(found), "upcoming": [at.isoformat() for at in upcoming]}

    @routes.patch("/schedules/{schedule}", response_model=forms.Schedule)
    def change_schedule(
        who: Annotated[Principal, Depends(acts("schedule.change"))], schedule: Named, asked: ChangedSchedule
    ) -> dict[str, Any]:
        """Change, pause or resume a schedule from now on."""
        # whoever changes what is asked for becomes who asks for it
        given = asked.model_dump(exclude={"request"})
        request = {**within(core, asked.request), "requester": who.name} if asked.request else {}
        return shapes.schedule(
            chronos(who.tenant).change(schedule, Change(**given, request=request), tenant=who.tenant)
        )

    @routes.delete("/schedules/{schedule}", status_code=204)
    def remove_schedule(who: Annotated[Principal, Depends(acts("schedule.remove"))], schedule: Named) -> None:
        """Forget a schedule and its history; its plans stay."""
        chronos(who.tenant).remove(schedule, tenant=who.tenant)

    @routes.get("/schedules/{schedule}/firings", response_model=forms.Firings)
    def list_firings(
        who: Annotated[Principal, Depends(reads("schedule.read"))],
        schedule: Named,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    ) -> dict[str, Any]:
        """What became of a schedule's ticks, the newest first."""
        found = chronos(who.tenant).history(schedule, tenant=who.tenant, limit=limit)
        return {"firings": [shapes.firing(f) for f in found]}

    @routes.post("/schedules/{schedule}/run", status_code=202, response_model=forms.Firing)
    def run_schedule(
        who: Annotated[Principal, Depends(acts("schedule.trigger"))], schedule: Named, key: Key = None
    ) -> dict[str, Any]:
        """Fire a schedule now; the same Idempotency-Key fires it once."""
        return shapes.firing(chronos(who.tenant).trigger(schedule, key=key, tenant=who.tenant))

    @routes.post("/trigger", status_code=202, response_model=forms.Firing)
    def trigger(
        who: Annotated[Principal, Depends(acts("schedule.trigger"))],
        asked: Trigger | Question,
        key: Key = None,
    ) -> dict[str, Any]:
        """Fire one tick from outside; the same `due_at`, or the same Idempotency-Key, is fired once.

        A clock that keeps its own schedules sends the question itself.
        """
        if isinstance(asked, Question):
            return _asked(core, who, asked, key)
        return shapes.firing(
            chronos(who.tenant).trigger(asked.schedule, due_at=asked.due_at, key=key, tenant=who.tenant)
        )

    @routes.post("/schedule", status_code=201, response_model=forms.Kept)
    def add_brief(
        who: Annotated[Principal, Depends(acts("schedule.create"))], asked: BriefForm
    ) -> dict[str, Any]:
        """Keep a schedule that is given as one question with a cron expression in UTC."""
        draft = asked.draft(requester=who.name, tenant=who.tenant)
        made = chronos(who.tenant).put(replace(draft, request=somewhere(core, draft.request)))
        return {"message": "The schedule is kept.", "data": _brief(chronos(who.tenant), made)}

    @routes.get("/schedule", response_model=forms.KeptBriefs)
    def list_briefs(
        who: Annotated[Principal, Depends(reads("schedule.read"))],
    ) -> dict[str, Any]:
        """Every schedule in the form in which `POST /schedule` takes one."""
        found = [_brief(chronos(who.tenant), s) for s in chronos(who.tenant).list(tenant=who.tenant)]
        return {"message": f"Schedules: {len(found)}.", "data": found}

    @routes.delete("/schedule/{schedule}", status_code=204)
    def remove_brief(who: Annotated[Principal, Depends(acts("schedule.remove"))], schedule: Named) -> None:
        """Forget a schedule and its history; its plans stay."""
        chronos(who.tenant).remove(schedule, tenant=who.tenant)

    return routes


def _asked(core: Core, who: Principal, asked: Question, key: str | None) -> dict[str, Any]:
    sources = sources_of(core.settings, None, asked.max_sources, asked.domain)
    plan = core.conductor.of(who.tenant).submit(
        request(
            asked.query,
            depth=asked.depth,
            tenant=who.tenant,
            requester=who.name,
            sources=sources,
            key=key,
        )
    )
    at = plan.created_at.isoformat()
    return {
        "schedule_id": None,
        "due_at": at,
        "fired_at": at,
        "outcome": FiringOutcome.FIRED.value,
        "plan_id": plan.plan_id,
        "reason": None,
    }


def _brief(chronos: Chronos, kept: Schedule) -> dict[str, Any]:
    ran = [f for f in chronos.history(kept.schedule_id, tenant=kept.tenant) if f.plan_id is not None]
    return {
        "task_id": kept.schedule_id,
        "query": str(kept.request.get("goal", "")),
        "cron_expr": kept.cron,
        "depth": kept.request.get("depth", 2),
        "max_sources": kept.request.get("max_sources") or 10,
        "domain": kept.request.get("domain"),
        "enabled": not kept.paused,
        "created_at": kept.created_at.isoformat() if kept.created_at else None,
        "last_run_at": ran[0].fired_at.isoformat() if ran else None,
        "next_run_at": kept.next_at.isoformat() if kept.next_at else None,
    }
