"""Turns whatever went wrong into one form of answer: `application/problem+json`, by RFC 9457.

    type       urn:orchestrator:problem:<code>      code      stable; programs go by it
    title      what kind of thing it is             detail    a sentence for whoever can act on it
    status     as in the answer's first line        trace_id  also in the header X-Trace-Id, and in the log

Nothing internal passes: what nobody foresaw is logged under its trace id and told as a fault of this program.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from orchestrator.domain.errors import (
    BudgetSpent,
    Conflict,
    Fenced,
    Forbidden,
    Invalid,
    NotFound,
    OrchestratorError,
    Unavailable,
)
from orchestrator.telemetry import log

MEDIA_TYPE: Final = "application/problem+json"
TRACE: Final = "orchestrator.trace_id"
"""The key of a request's scope under which its trace id lies."""

ASKS_BY_GET: Final = frozenset({"/research/stream"})
"""Addresses whose GET does more than look: it counts as a request for work, and no HEAD may set it off."""

FAULT: Final = "This program has a fault; its log says more under this trace id."

_STATUS: Final[Mapping[type[OrchestratorError], int]] = {
    Invalid: 422,
    NotFound: 404,
    Conflict: 409,
    Fenced: 409,
    BudgetSpent: 409,
    Forbidden: 403,
    Unavailable: 503,
}

_TOLD: Final[Mapping[int, tuple[str, str]]] = {
    400: ("invalid_body", "The body cannot be read as JSON in UTF-8."),
    404: ("no_such_route", "There is nothing at this address; /docs and /openapi.json list what there is."),
    405: (
        "method_not_allowed",
        "This address does not take that method; the header Allow lists those it takes.",
    ),
}
"""What is said about the refusals of the framework itself."""


class Refused(Exception):
    """An answer that is no fault of anybody below: too many streams, too large a body."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.headers = headers
        self.more = more

    def response(self, scope: Scope) -> Response:
        """Return it as an answer to the request of this scope."""
        return problem(scope, self.status, self.code, str(self), headers=self.headers, **self.more)


class FieldFault(BaseModel):
    """One part of a request that cannot be accepted, and why."""

    where: str
    what: str


class Objection(BaseModel):
    """Why the policy does not allow it: a stable code, and the action or role that it is about."""

    reason: str
    capability: str


class Problem(BaseModel):
    """What went wrong, by RFC 9457; `code` is stable, `detail` is a sentence for whoever can act on it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    trace_id: str
    errors: list[FieldFault] = []
    dependencies: dict[str, str] = {}
    reasons: list[Objection] = []


def problem(
    scope: Scope,
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """Return the answer that says what went wrong."""
    body = {
        "type": f"urn:orchestrator:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": scope.get("path", ""),
        "code": code,
        "trace_id": scope.get(TRACE, ""),
        **more,
    }
    # in ASCII: what was asked may hold what UTF-8 cannot say
    return Response(json.dumps(body).encode("ascii"), status, dict(headers or {}), MEDIA_TYPE)


def status_of(error: OrchestratorError) -> int:
    """Return the status that an error is answered with."""
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)


def of_error(request: Request, error: Exception) -> Response:
    """Answer what this product raised on purpose."""
    if not isinstance(error, OrchestratorError):
        raise error
    status = status_of(error)
    if status == 500:
        log.error("request.failed", error=str(error), trace_id=request.scope.get(TRACE))
        return problem(request.scope, status, error.code, FAULT)
    headers = {"Retry-After": "1"} if status == 503 else None
    return problem(request.scope, status, error.code, str(error), headers=headers)


def of_refusal(request: Request, error: Exception) -> Response:
    """Answer what a route refuses for reasons of HTTP alone."""
    if not isinstance(error, Refused):
        raise error
    return error.response(request.scope)


def of_framework(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses before a route is reached."""
    if not isinstance(error, HTTPException):
        raise error
    code, detail = _TOLD.get(error.status_code, ("refused", str(error.detail)))
    status = 422 if error.status_code == 400 else error.status_code
    headers = {"Allow": _allowed(request)} if status == 405 else error.headers
    return problem(request.scope, status, code, detail, headers=headers)


def _allowed(request: Request) -> str:
    """The methods of every route at this address; the framework names those of the first one only."""
    every = [*request.app.state.routes, *request.app.routes]  # the second hold the description
    routes = [r for r in every if r.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in routes for method in getattr(route, "methods", None) or ()}
    if "GET" in methods and request.url.path not in ASKS_BY_GET:
        methods.add("HEAD")
    return ", ".join(sorted(methods))


def of_form(request: Request, error: Exception) -> Response:
    """Answer a request whose parts do not fit what the route takes; what was sent is not repeated."""
    if not isinstance(error, RequestValidationError):
        raise error
    for fault in error.errors():
        if fault["type"] == "json_invalid":
            why = str(fault.get("ctx", {}).get("error", "it cannot be parsed"))
            return problem(
                request.scope,
                422,
                "invalid_body",
                f"The body is not JSON, at character {fault['loc'][-1]}: {why}.",
            )
    faults = [FieldFault(where=_where(e["loc"]), what=str(e["msg"])) for e in error.errors()]
    first = f"{faults[0].where}: {faults[0].what}" if faults else "It does not fit."
    detail = f"The request cannot be accepted. {first}{'' if first.endswith('.') else '.'}"
    return problem(
        request.scope, 422, "invalid_request", detail, errors=[f.model_dump() for f in faults[:20]]
    )


def _where(place: Sequence[object]) -> str:
    return ".".join(str(part)[:100] for part in place)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return how OpenAPI says that a route may answer so: these, and those that every route may."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({*statuses, *ANYWHERE})
    }


ANYWHERE: Final = (401, 403, 413, 415, 421, 422, 429, 500, 503)
"""What any route may answer: the door and the store stand before all of them."""
