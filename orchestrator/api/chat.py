"""A conversation with the configured model, without a plan: decided, recorded, and kept by nobody."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from starlette.requests import Request

from orchestrator.api import forms
from orchestrator.api.identity import Principal, acts, decided
from orchestrator.api.office import Here
from orchestrator.api.problems import documented
from orchestrator.domain.errors import Conflict

router: Final = APIRouter(tags=["chat"])


@router.post("/chat", response_model=forms.ChatReply, responses=documented(403, 409))
def chat(
    request: Request,
    office: Here,
    who: Annotated[Principal, Depends(acts("chat.interact"))],
    form: forms.ChatForm,
) -> Any:
    """Let the model answer a conversation. It searches nothing and cites nothing: ask for research where it matters."""
    if office.talker is None:
        raise Conflict("This server has no language model to talk to.")
    reply = office.talker.answer(
        who,
        [m.model_dump() for m in form.messages],
        model=form.model,
        decision=decided(request, "chat.interact"),
    )
    return {
        "message": {"role": "assistant", "content": reply.text},
        "model": reply.model,
        "usage": {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens},
    }
