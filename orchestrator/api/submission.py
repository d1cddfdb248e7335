"""Makes a checked request of what was sent, and a plan of that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import Header
from pydantic import AfterValidator, ValidationError

from orchestrator import prompts
from orchestrator.api.forms import PlanForm, ResearchForm, SourcesForm, check_storable
from orchestrator.api.office import Office
from orchestrator.domain.budget import Budget
from orchestrator.domain.errors import InvalidRequest, InvalidSources
from orchestrator.domain.identity import Principal
from orchestrator.domain.plan import CONSENSUS_ROUNDS, KEY_LIMIT, Json, Plan, request
from orchestrator.settings import Settings


def storable(text: str | None) -> str | None:
    """Return what stood in a header or an address, if a database can keep it; raises `ValueError`."""
    check_storable(text)
    return text


Key = Annotated[
    str | None,
    AfterValidator(storable),
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_LIMIT,
        description="The same key with the same body returns the same plan; with another body it is refused.",
    ),
]


def submit_plan(office: Office, who: Principal, form: PlanForm, key: str | None) -> Plan:
    """Accept what a form asks for and return its plan. Raises the kind of `Invalid` that says what is wrong."""
    return office.conductor(who.tenant).submit(
        request(
            form.goal,
            depth=form.depth,
            tenant=who.tenant,
            requester=who.name,
            sources=sources_of(office.core.settings, form.sources, form.max_sources, form.domain),
            budget=Budget(**form.budget.model_dump()),
            priority=form.priority,
            metadata=_metadata(form),
            key=key,
        )
    )


def _metadata(form: PlanForm) -> dict[str, Json]:
    asked = form.consensus_rounds
    return form.metadata if asked is None else {**form.metadata, CONSENSUS_ROUNDS: asked}


def submit_research(office: Office, who: Principal, form: ResearchForm, key: str | None) -> Plan:
    """Accept a question and return its plan."""
    goal = PlanForm(
        goal=form.query,
        depth=form.depth,
        domain=form.domain,
        max_sources=form.max_sources,
        sources=form.sources,
    )
    return submit_plan(office, who, goal, key)


def question(query: str, depth: int, max_sources: int | None, domain: str | None) -> ResearchForm:
    """Return a question that stood in an address as a form; raises `InvalidRequest`."""
    try:
        return ResearchForm(query=query, depth=depth, max_sources=max_sources, domain=domain)
    except ValidationError as error:
        raise InvalidRequest(f"The query cannot be accepted: {error.errors()[0]['msg']}.") from error


def sources_of(
    settings: Settings,
    form: SourcesForm | None,
    max_sources: int | None = None,
    domain: str | None = None,
) -> dict[str, Json]:
    """Return where a plan is to look: in the folder that was named, or in the usual one. Raises `InvalidSources`."""
    folder = usual_folder(settings)
    if form is not None:
        folder = str(allowed_folder(form.documents, settings.roots))
    prompts.book(settings.prompts).current().check(domain)
    named = {"documents": folder, "max_sources": max_sources, "domain": domain}
    return {name: value for name, value in named.items() if value is not None}


def usual_folder(settings: Settings) -> str | None:
    """The folder that is searched where a request names none: the one that may be, if there is one only."""
    return str(settings.roots[0]) if len(settings.roots) == 1 else None


def allowed_folder(documents: str, roots: tuple[Path, ...]) -> Path:
    """Return the folder, if it lies where this server lets documents be read.

    This process can read more folders than its callers may choose among.
    """
    try:
        folder = Path(documents).resolve()
        inside = any(folder.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError, ValueError):
        inside = False
    if not inside:
        raise InvalidSources(
            "This folder is in none of those whose documents this server lets be read. "
            "Whoever runs it names them with the setting documents_roots."
        )
    return folder
