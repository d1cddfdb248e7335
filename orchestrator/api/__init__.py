"""The HTTP door: plans, events, research, dead letters, approvals and health, each a module; `build` composes them.

    request → door (name, hosts, headers, faults) → gatehouse (who, how often) → guard (body) → route → conductor, store
                                                                                           ↓
                                                                                problems: every error in one form

Nothing here decides: a route checks what was sent, calls one verb of the conductor or reads, and shows what came of it.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Callable
from typing import Any, Final

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from orchestrator.api import (
    approvals,
    audit,
    chat,
    conversations,
    dead_letters,
    events,
    health,
    identity,
    manual,
    notifications,
    plans,
    problems,
    research,
    schedules,
    secrets,
    session,
    stops,
    tools,
)
from orchestrator.api.door import Door, Guard, Heads, is_loopback
from orchestrator.api.office import Core, Office, Seats, known_parameters
from orchestrator.domain.errors import OrchestratorError
from orchestrator.ports import Listener, Talker, ToolDesk

__all__ = ["build", "is_loopback"]

STREAMS: Final = 64
"""Streams that one process carries at once; each looks into the database four times a second."""

_MODULES: Final = (
    plans,
    events,
    research,
    dead_letters,
    approvals,
    notifications,
    stops,
    audit,
    chat,
    conversations,
    secrets,
    session,
    tools,
    health,
    manual,
)


def build(
    core: Core,
    *,
    reception: identity.Reception | None = None,
    hosts: frozenset[str] = frozenset(),
    streams: int = STREAMS,
    stopping: threading.Event | None = None,
    talker: Talker | None = None,
    desk: ToolDesk | None = None,
    listener: Listener | None = None,
) -> FastAPI:
    """Return the API on top of what remembers and decides; once `stopping` is set, streams end and nobody waits.

    `reception` says who callers are; without one nobody is let in. `hosts` are names that it answers under besides
    those of this machine. `talker` answers conversations by the model, `listener` understands those about
    research, `desk` calls tools.

    Several processes may serve one database: none keeps anything that another would need.
    """
    app = FastAPI(
        title="orchestrator",
        version=_version(),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(known_parameters)],
    )
    app.state.reception = front = reception or identity.Reception()
    app.state.office = Office(
        core, Seats(streams), stopping or threading.Event(), front.still, talker, desk, listener
    )
    routers = [*(module.router for module in _MODULES), schedules.router(core)]
    app.state.routes = [route for router in routers for route in router.routes]
    identity.refuse_unguarded(app.state.routes)
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(OrchestratorError, problems.of_error)
    app.add_exception_handler(problems.Refused, problems.of_refusal)
    app.add_exception_handler(HTTPException, problems.of_framework)
    app.add_exception_handler(RequestValidationError, problems.of_form)
    app.add_middleware(Heads)
    app.add_middleware(Guard)
    app.add_middleware(identity.Gatehouse, reception=front)
    app.add_middleware(Door, hosts=hosts)  # added last, so it stands outermost
    # assigned, as the framework's documents say
    app.openapi = _described(app)  # type: ignore[method-assign]
    return app


def _version() -> str:
    try:
        return importlib.metadata.version("orchestrator")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _described(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Return what writes the OpenAPI document, once; it lists problems as they are sent."""
    made: dict[str, Any] = {}

    def describe() -> dict[str, Any]:
        if not made:
            made.update(
                get_openapi(
                    title="orchestrator",
                    version=app.version,
                    description="Research agents that cannot lose work. Every error is an RFC 9457 problem.",
                    routes=app.routes,
                )
            )
            schemas = made["components"]["schemas"]
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            problem = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= problem.pop("$defs")
            schemas["Problem"] = problem
        return made

    return describe
