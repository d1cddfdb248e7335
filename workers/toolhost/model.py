"""Offers the configured language model as a tool, so that a model call passes the same gate as any other.

Speaks the chat completions protocol that OpenAI, Azure, Mistral, OpenRouter, Ollama, vLLM and llama.cpp share. The key
is read from the environment when a call is made, and goes nowhere but into the request's header.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel

_TIMEOUT_S: Final = 100.0
_ANSWER_LIMIT: Final = 200_000
_BODY_LIMIT_BYTES: Final = 4_000_000
_UNWILLING: Final = frozenset({400, 422})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is: `base_url` ends before `/chat/completions`; `key_env` names the variable with the key.

    `answer_tokens` is the most that an answer may be long, so that what is reserved for it suffices.
    """

    base_url: str
    name: str
    key_env: str
    answer_tokens: int = 4_000


class Completion(BaseModel):
    """What the model answered, and how many tokens that took."""

    text: str
    model: str
    input_tokens: int
    output_tokens: int


class _Unwilling(ToolError):
    """The server does not take the request as it is."""


def build(endpoint: Endpoint, *, transport: httpx.BaseTransport | None = None) -> MCPServer:
    """Return a server with the tool `model_complete` for one endpoint."""
    server = MCPServer(name="model", title="Language model", log_level="WARNING")

    @server.tool(title="Complete a conversation")
    def model_complete(
        prompt: str,  # noqa: ARG001
        messages: list[dict[str, str]],
        attempt: int = 0,  # noqa: ARG001
        as_json: bool = True,
        schema: dict[str, Any] | None = None,
    ) -> Completion:
        """Answer a conversation with one message; `prompt` and `attempt` name the call in the journal."""
        body: dict[str, Any] = {
            "model": endpoint.name,
            "messages": messages,
            "temperature": 0,
            "max_tokens": endpoint.answer_tokens,
        }
        if as_json:
            body["response_format"] = {"type": "json_object"} if schema is None else _held_to(schema)
        key = _key(endpoint)
        try:
            try:
                answer = _post(endpoint, body, key, transport)
            except _Unwilling:
                if schema is None:
                    raise
                # a server that knows no schemas refuses the request as a whole
                answer = _post(endpoint, {**body, "response_format": {"type": "json_object"}}, key, transport)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # the error's own words may hold the address or the header
            raise ToolError(
                f"The model at the configured address does not answer ({type(error).__name__})."
            ) from None
        if key and key.encode() in answer:
            raise ToolError("The model's answer holds the key it was asked with, and is not kept.")
        return _completion(endpoint, _json(answer))

    return server


def _held_to(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema), "strict": True}}


def _key(endpoint: Endpoint) -> str:
    key = os.environ.get(endpoint.key_env, "").strip() if endpoint.key_env else ""
    if not (key.isascii() and key.isprintable()):
        raise ToolError(f"The key in {endpoint.key_env} holds characters that no header can carry.")
    return key


def _post(
    endpoint: Endpoint, body: Mapping[str, Any], key: str, transport: httpx.BaseTransport | None
) -> bytes:
    """Return the body of the answer; one that is too long or drips too slowly is given up on."""
    address = f"{endpoint.base_url.rstrip('/')}/chat/completions"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    give_up = time.monotonic() + _TIMEOUT_S
    answer = bytearray()
    with (
        httpx.Client(timeout=_TIMEOUT_S, transport=transport, follow_redirects=False) as client,
        client.stream("POST", address, json=body, headers=headers) as reply,
    ):
        if reply.status_code in _UNWILLING:
            raise _Unwilling(f"The model answered with status {reply.status_code}.")
        if reply.status_code != httpx.codes.OK:
            raise ToolError(f"The model answered with status {reply.status_code}.")
        for chunk in reply.iter_bytes():
            answer += chunk
            if len(answer) > _BODY_LIMIT_BYTES:
                raise ToolError(f"The model answered with more than {_BODY_LIMIT_BYTES:,} bytes.")
            if time.monotonic() > give_up:
                raise ToolError(f"The model did not finish its answer within {_TIMEOUT_S:g} s.")
    return bytes(answer)


def _json(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise ToolError("The model's answer is not JSON.") from error


def _storable(text: str) -> str:
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


def _completion(endpoint: Endpoint, body: Any) -> Completion:
    try:
        choice = body["choices"][0]
        text = choice["message"]["content"]
        usage = body.get("usage") or {}
        if choice.get("finish_reason") == "length":
            raise ToolError("The model's answer was cut off by its length limit.")
        if not isinstance(text, str) or len(text) > _ANSWER_LIMIT:
            raise ToolError("The model refused or gave no text.")
        return Completion(
            text=_storable(text),
            model=_storable(str(body.get("model") or endpoint.name))[:200],
            input_tokens=int(usage.get("prompt_tokens") or 0),
            output_tokens=int(usage.get("completion_tokens") or 0),
        )
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ToolError("The model's answer is not of the chat completions form.") from error
