"""Conversations about what was found: say something, wait for the answer or come for it later, read, forget.

Only the person who began a conversation finds it. Whoever asks for a turn whose plan has ended gets its answer, whether
or not anybody waited for it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Path, Query
from starlette.requests import Request
from starlette.responses import JSONResponse

from orchestrator import shapes
from orchestrator.api import accept, forms, pages
from orchestrator.api.identity import Principal, acts, reads
from orchestrator.api.office import Here, Office
from orchestrator.api.problems import documented
from orchestrator.api.submission import Key, sources_of
from orchestrator.dialogue import Dialogue, Message
from orchestrator.domain.conversation import MOST_TURNS, Turn
from orchestrator.domain.errors import Conflict

router: Final = APIRouter(tags=["chat"])

_LOOK_EVERY_S: Final = 0.2

Speaker = Annotated[Principal, Depends(acts("chat.interact"))]
Reader = Annotated[Principal, Depends(reads("chat.read"))]
Numbered = Annotated[int, Path(ge=1, le=MOST_TURNS, description="The turn's number, from 1.")]


@router.post(
    "/chat/message",
    response_model=forms.Turn,
    responses={
        **documented(404, 409),
        202: {
            "description": "The answer takes longer; `Location` names the turn, which will have it.",
            "model": forms.Turn,
        },
    },
)
async def message(
    office: Here,
    who: Speaker,
    http: Request,
    form: forms.MessageForm,
    prefer: Annotated[
        str | None, Header(alias="Prefer", description="`respond-async`, or `wait=SECONDS`.")
    ] = None,
    key: Key = None,
) -> Any:
    """Say something and wait for the cited answer; 409 while an earlier message of the conversation is being answered.

    A caller who goes away ends the waiting, and not the research.
    """
    patience = accept.patience(form.wait, prefer)
    turn = await run_sync(_said, office, who, form, key)
    turn = await _waited(office, http, who, turn, patience.seconds)
    headers = patience.headers(f"/conversations/{turn.conversation_id}/turns/{turn.number}")
    return JSONResponse(shapes.turn(turn), 202 if turn.waits else 200, headers)


def _said(office: Office, who: Principal, form: forms.MessageForm, key: str | None) -> Turn:
    settings = office.core.settings
    return _dialogue(office, who).say(
        Message(
            who=who,
            content=form.content,
            conversation_id=str(form.conversation_id) if form.conversation_id else None,
            depth=form.depth,
            sources=sources_of(settings, form.sources) if form.sources else None,
            usual=sources_of(settings, None),
            key=key,
        )
    )


async def _waited(office: Office, http: Request, who: Principal, turn: Turn, seconds: float) -> Turn:
    """Return the turn once it has its answer, or once there is no more waiting."""
    until = anyio.current_time() + seconds
    while turn.waits and anyio.current_time() < until:
        if office.stopping.is_set() or await http.is_disconnected():
            break
        await anyio.sleep(min(_LOOK_EVERY_S, max(0.0, until - anyio.current_time())))
        turn = await run_sync(
            _dialogue(office, who).look, who, turn.conversation_id, turn.number, limiter=office.lookers
        )
    return turn


def _dialogue(office: Office, who: Principal) -> Dialogue:
    if office.listener is None:
        raise Conflict("This server has nobody who understands conversations; ask for research instead.")
    return Dialogue(
        office.store(who.tenant), office.conductor(who.tenant), office.core.sealer, office.listener
    )


@router.get("/conversations", response_model=forms.Conversations, responses=documented())
def listed(
    office: Here,
    who: Reader,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: pages.Cursor = None,
) -> Any:
    """List your conversations, those begun last first, a page at a time."""
    behind = pages.place(cursor)
    with office.store(who.tenant).transaction() as tx:
        found = tx.conversations(who.tenant, who.name, behind=behind, limit=limit + 1)
    page = found[:limit]
    more = len(found) > limit
    return {
        "conversations": [shapes.conversation(each) for each in page],
        "next": pages.after(page[-1].created_at, page[-1].conversation_id) if more else None,
    }


@router.get("/conversations/{conversation_id}", response_model=forms.History, responses=documented(404, 409))
def history(
    office: Here,
    who: Reader,
    conversation_id: UUID,
    after: Annotated[int, Query(ge=0, le=MOST_TURNS, description="Only turns behind this number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
) -> Any:
    """Show one of your conversations with its turns by number."""
    found, turns = _dialogue(office, who).history(who, str(conversation_id), after=after, limit=limit)
    last = turns[-1].number if turns else after
    return {
        **shapes.conversation(found),
        "history": [shapes.turn(each) for each in turns],
        "next": last if last < found.turns else None,
    }


@router.get(
    "/conversations/{conversation_id}/turns/{turn}",
    response_model=forms.Turn,
    responses=documented(404, 409),
)
def one(office: Here, who: Reader, conversation_id: UUID, turn: Numbered) -> Any:
    """Show a turn: its answer, or that it is still being worked on. `/plans/{plan_id}/events` tells how that goes."""
    return shapes.turn(_dialogue(office, who).look(who, str(conversation_id), turn))


@router.delete("/conversations/{conversation_id}", status_code=204, responses=documented(404, 409))
def forget(office: Here, who: Speaker, conversation_id: UUID) -> None:
    """Forget one of your conversations, with all that was said in it; its plans stay."""
    _dialogue(office, who).forget(who, str(conversation_id))
