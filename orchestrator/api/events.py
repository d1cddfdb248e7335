"""A plan's events over HTTP: as JSON, a page at a time, or as a stream of server-sent events until the plan ends.

    id: 7                      the event's number: `Last-Event-ID: 7` goes on behind it, on any replica
    event: step.succeeded      its kind
    data: {"plan_id": …}       the event, as the page of JSON would hold it

The last message is `event: end`, without an id: nothing will follow, unless somebody takes the plan up again. Every
replica reads the events from Postgres, where they are numbered without gaps; none remembers who has seen what.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orchestrator import shapes
from orchestrator.api import accept, forms
from orchestrator.api.identity import Principal, reads
from orchestrator.api.office import Here, Office, the_plan
from orchestrator.api.problems import documented
from orchestrator.domain.errors import InvalidRequest, Unavailable
from orchestrator.domain.lifecycle import PLAN_ENDS
from orchestrator.domain.plan import Event, PlanState

router: Final = APIRouter(prefix="/plans", tags=["plans"])

STREAM: Final = "text/event-stream"
MOST_EVENTS: Final = 2**31 - 1
_LOOK_EVERY_S: Final = 0.25
_KEEP_ALIVE_S: Final = 15.0
_PROVE_EVERY_S: Final = 15.0
_BATCH: Final = 200
_AGAIN_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at a plan has found: its next events, where they end, and whether nothing follows them."""

    events: list[Event]
    last: int
    ended: bool
    state: PlanState


def look(office: Office, plan_id: str, *, tenant: str, after: int, limit: int) -> Seen:
    """Return the plan's events behind that number, or behind its last where it has not come so far.

    Raises `NotFound` for no such plan.
    """
    with office.store(tenant).transaction() as tx:
        plan = the_plan(tx, plan_id, tenant)
        # the plan first: what it says to have is there when the events are read
        begin = min(after, plan.event_count)
        found = list(tx.events(plan.plan_id, after=begin, limit=limit))
    last = found[-1].number if found else begin
    return Seen(found, last, plan.state in PLAN_ENDS and last >= plan.event_count, plan.state)


class EventStream(Response):
    """Sends a plan's events until it has ended, its reader has gone or may no longer read, or this server stops."""

    media_type = STREAM

    def __init__(
        self,
        office: Office,
        plan_id: str,
        *,
        who: Principal,
        after: int,
        name: Callable[[Event], str],
        location: str,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._office = office
        self._plan_id = plan_id
        self._who = who
        self._after = after
        self._name = name
        self.init_headers({"Location": location, "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Hold a seat and send until there is no more to send or nobody to send it to."""
        with self._office.seats.taken(self._who):
            async with anyio.create_task_group() as group:

                async def until_gone() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                group.start_soon(until_gone)
                await self._send(send)
                group.cancel_scope.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for text in self._texts():
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _texts(self) -> AsyncIterator[str]:
        yield f"retry: {_AGAIN_MS}\n\n"
        after, silent_s, proved_at = self._after, 0.0, anyio.current_time()
        while not self._office.stopping.is_set():
            if anyio.current_time() - proved_at >= _PROVE_EVERY_S:
                if not await run_sync(self._office.still, self._who, limiter=self._office.lookers):
                    return  # the reader may come back and say who they are; it goes on from there
                proved_at = anyio.current_time()
            seen = await self._look(after)
            if seen is not None and seen.events:
                yield "".join(_message(event, self._name(event)) for event in seen.events)
                after, silent_s = seen.last, 0.0
            if seen is not None and seen.ended:
                yield f"event: end\ndata: {json.dumps({'plan_id': self._plan_id, 'state': seen.state})}\n\n"
                return
            if seen is not None and len(seen.events) == _BATCH:
                continue
            await anyio.sleep(_LOOK_EVERY_S)
            silent_s += _LOOK_EVERY_S
            if silent_s >= _KEEP_ALIVE_S:
                yield ": still here\n\n"
                silent_s = 0.0

    async def _look(self, after: int) -> Seen | None:
        def once() -> Seen | None:
            try:
                return look(self._office, self._plan_id, tenant=self._who.tenant, after=after, limit=_BATCH)
            except Unavailable:
                return None  # Postgres may be restarting; the reader is kept, and misses nothing

        return await run_sync(once, limiter=self._office.lookers)


def _message(event: Event, name: str) -> str:
    data = json.dumps(shapes.event(event), ensure_ascii=False)
    return f"id: {name}\nevent: {event.kind}\ndata: {data}\n\n"


def stream(
    office: Office,
    plan_id: str,
    *,
    who: Principal,
    after: int,
    name: Callable[[Event], str] = lambda e: str(e.number),
) -> EventStream:
    """Return the plan's events behind that number as an answer; `name` gives each the id to resume from.

    Raises `NotFound` for no such plan, and `Refused` where there is no seat.
    """
    office.seats.check(who)
    begin = look(office, plan_id, tenant=who.tenant, after=after, limit=0).last
    return EventStream(office, plan_id, who=who, after=begin, name=name, location=f"/plans/{plan_id}/events")


@router.get(
    "/{plan_id}/events",
    response_model=forms.Events,
    responses={
        **documented(404, 429),
        200: {
            "description": "Events; a stream until the plan ends, where `Accept` likes `text/event-stream` better.",
            "content": {STREAM: {}},
        },
    },
)
def events(
    office: Here,
    who: Annotated[Principal, Depends(reads("plan.read"))],
    plan_id: UUID,
    after: Annotated[int, Query(ge=0, le=MOST_EVENTS, description="Only events behind this number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="The most events of a page of JSON.")] = 200,
    accepted: Annotated[str | None, Header(alias="Accept")] = None,
    last: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            description="The id of the last event that was received; wins over `after`.",
        ),
    ] = None,
) -> Any:
    """Tell what happens to a plan: as JSON what has happened, as a stream also what will."""
    if accept.chosen(accepted, ("application/json", STREAM)) == STREAM:
        return stream(office, str(plan_id), who=who, after=after if last is None else number(last))
    seen = look(office, str(plan_id), tenant=who.tenant, after=after, limit=limit)
    return {
        "events": [shapes.event(event) for event in seen.events],
        "last": seen.last,
        "ended": seen.ended,
    }


def number(last: str) -> int:
    """Return the number that a `Last-Event-ID` names; an empty one is that of a stream that had not begun."""
    text = last.strip()
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= MOST_EVENTS):
        raise InvalidRequest(
            "Last-Event-ID is none that this API gave; leave it out to begin at the first event."
        )
    return int(text)
