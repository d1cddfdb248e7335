"""Speaks Messages, the protocol of Anthropic: system text apart, a schema as a tool that must be called.

What the system says is the same for every call of one prompt, so that it is marked for the server's cache; what a
cache gave and kept is counted apart, since it has its own price.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx

from workers.toolhost.models import wire
from workers.toolhost.models.catalogue import Model
from workers.toolhost.models.openai import parsed, texts, usage_of
from workers.toolhost.models.port import (
    CUT,
    MALFORMED,
    NOTHING,
    REFUSED,
    REJECTED,
    Answer,
    Asked,
    Failed,
    Usage,
    said,
)

VERSION: Final = "2023-06-01"
_TOOL: Final = "answer"
_CUT_SHORT: Final = frozenset({"max_tokens", "model_context_window_exceeded"})


class Anthropic:
    """One model behind a Messages endpoint."""

    def __init__(self, model: Model, *, transport: httpx.BaseTransport | None = None) -> None:
        self._model = model
        self._transport = transport
        self._lock = threading.Lock()
        self._toolless = False

    def complete(self, asked: Asked) -> Answer:
        """Return the answer, or raise `Failed`."""
        key = wire.key_of(self._model.key_env)
        with self._lock:
            held = asked.schema is not None and not self._toolless
        try:
            return self._read(self._post(asked, key, held=held))
        except wire.Unwilling:
            if not held:
                raise
        answer = self._post(asked, key, held=False)
        with self._lock:
            self._toolless = True
        return self._read(answer)

    def _post(self, asked: Asked, key: str, *, held: bool) -> bytes:
        headers = {"anthropic-version": VERSION}
        if asked.key:
            headers["Idempotency-Key"] = asked.key
        if key:
            headers |= {"x-api-key": key}
        return wire.post(
            f"{self._model.base_url.rstrip('/')}/messages",
            self._body(asked, held=held),
            headers,
            key=key,
            within_s=min(asked.within_s, self._model.timeout_s),
            transport=self._transport,
        )

    def _body(self, asked: Asked, *, held: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model.model,
            "max_tokens": self._model.answer_tokens,
            "temperature": min(asked.temperature, 1.0),
            "messages": _turns(asked.messages),
        }
        system = "\n\n".join(texts(asked.messages, "system"))
        if system:
            body["system"] = [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
        if held:
            body["tools"] = [{"name": _TOOL, "description": "Give the answer.", "input_schema": asked.schema}]
            body["tool_choice"] = {"type": "tool", "name": _TOOL}
        return body

    def _read(self, answer: bytes) -> Answer:
        body = parsed(answer)
        try:
            usage = _usage(body.get("usage"))
            if body.get("stop_reason") in _CUT_SHORT:
                raise Failed(CUT, "The model's answer was cut off by its length limit.", usage)
            if body.get("stop_reason") == "refusal":
                raise Failed(REFUSED, "The model refused or gave no text.", usage)
            blocks = body["content"]
            given = [block["input"] for block in blocks if block["type"] == "tool_use"]
            spoken = "".join(block["text"] for block in blocks if block["type"] == "text")
            text = json.dumps(given[0], ensure_ascii=False) if given else spoken
            named = str(body.get("model") or self._model.model)
        except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            raise Failed(MALFORMED, "The model's answer is not of the messages form.") from error
        return Answer(said(text, usage), named, usage)


def _turns(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return what user and assistant said in turn; what one said twice in a row is said at once."""
    turns: list[dict[str, str]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        if turns and turns[-1]["role"] == message["role"]:
            turns[-1]["content"] += f"\n\n{message['content']}"
        else:
            turns.append({"role": message["role"], "content": message["content"]})
    if not turns:
        raise Failed(REJECTED, "A conversation with this model needs something that a user says.", NOTHING)
    return turns


def _usage(told: object) -> Usage | None:
    if not isinstance(told, Mapping):
        return None
    # what a cache gave or kept is not in input_tokens
    plain, went = told.get("input_tokens"), told.get("output_tokens")
    written = told.get("cache_creation_input_tokens") or 0
    cached = told.get("cache_read_input_tokens") or 0
    if not all(type(n) is int and n >= 0 for n in (plain, written, cached)):
        return None
    return usage_of(int(plain or 0) + written + cached, went, cached, written)
