"""Speaks Chat Completions, as OpenAI, Azure, Mistral, OpenRouter, Ollama, vLLM, llama.cpp and LM Studio do.

Servers differ in what they take. What one refuses is asked for in the next weaker form, and what it took is remembered
for as long as the process lives:

    the form of an answer    json_schema → a tool's arguments → json_object → plain
    its longest length       max_tokens → max_completion_tokens
    temperature              as it was asked for → left out

A weaker form makes a worse answer likelier, never a wrong one: whoever asked reads every answer as strictly.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx

from workers.toolhost.models import wire
from workers.toolhost.models.catalogue import Model
from workers.toolhost.models.port import CUT, MALFORMED, REFUSED, Answer, Asked, Failed, Usage, counted, said

_WEAKER: Final = {"json_schema": "tool", "tool": "json_object", "json_object": "plain"}
_TOOL: Final = "answer"


@dataclass(frozen=True, slots=True)
class _Manner:
    """How a server is spoken to."""

    form: str
    limit: str = "max_tokens"
    warm: bool = True


class OpenAI:
    """One model behind a Chat Completions endpoint."""

    def __init__(self, model: Model, *, transport: httpx.BaseTransport | None = None) -> None:
        self._model = model
        self._transport = transport
        self._lock = threading.Lock()
        self._learnt: dict[str, _Manner] = {}

    def complete(self, asked: Asked) -> Answer:
        """Return the answer, or raise `Failed`."""
        best = "json_schema" if asked.schema is not None else "json_object" if asked.as_json else "plain"
        key = wire.key_of(self._model.key_env)
        with self._lock:
            manner = self._learnt.get(best, _Manner(best))
        begun = manner
        while True:
            try:
                answer = self._post(asked, manner, key)
                break
            except wire.Unwilling as unwilling:
                otherwise = _otherwise(manner, unwilling.complaint)
                if otherwise is None:
                    raise
                manner = otherwise
        if manner != begun:
            # only what was taken teaches: a request may be refused for what it says, too
            with self._lock:
                self._learnt[best] = manner
        return self._read(answer, manner)

    def _post(self, asked: Asked, manner: _Manner, key: str) -> bytes:
        headers = {"Idempotency-Key": asked.key} if asked.key else {}
        if key:
            headers |= (
                {"api-key": key} if self._model.auth == "api-key" else {"Authorization": f"Bearer {key}"}
            )
        return wire.post(
            _address(self._model.base_url),
            self._body(asked, manner),
            headers,
            key=key,
            within_s=min(asked.within_s, self._model.timeout_s),
            transport=self._transport,
        )

    def _body(self, asked: Asked, manner: _Manner) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model.model,
            "messages": [dict(message) for message in asked.messages],
            manner.limit: self._model.answer_tokens,
        }
        if manner.warm:
            body["temperature"] = asked.temperature
        match manner.form:
            case "json_schema":
                held = {"name": _TOOL, "schema": dict(asked.schema or {}), "strict": _closed(asked.schema)}
                body["response_format"] = {"type": "json_schema", "json_schema": held}
            case "tool":
                function = {"name": _TOOL, "parameters": dict(asked.schema or {})}
                body["tools"] = [{"type": "function", "function": function}]
                body["tool_choice"] = {"type": "function", "function": {"name": _TOOL}}
            case "json_object":
                body["response_format"] = {"type": "json_object"}
        return body

    def _read(self, answer: bytes, manner: _Manner) -> Answer:
        body = parsed(answer)
        try:
            choice = body["choices"][0]
            message = choice["message"]
            usage = _usage(body.get("usage"))
            if choice.get("finish_reason") == "length":
                raise Failed(CUT, "The model's answer was cut off by its length limit.", usage)
            if choice.get("finish_reason") == "content_filter" or message.get("refusal"):
                raise Failed(REFUSED, "The model refused or gave no text.", usage)
            text = message.get("content")
            if manner.form == "tool" and message.get("tool_calls"):
                text = message["tool_calls"][0]["function"]["arguments"]
            named = str(body.get("model") or self._model.model)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise Failed(MALFORMED, "The model's answer is not of the chat completions form.") from error
        return Answer(said(text, usage), named, usage)


def _otherwise(manner: _Manner, complaint: bytes) -> _Manner | None:
    """Return how to ask instead, when a server refused to be asked like this, or `None` when nothing is left."""
    if manner.limit == "max_tokens" and b"max_completion_tokens" in complaint:
        return replace(manner, limit="max_completion_tokens")
    if manner.warm and b"temperature" in complaint:
        return replace(manner, warm=False)
    weaker = _WEAKER.get(manner.form)
    return None if weaker is None else replace(manner, form=weaker)


def _closed(schema: object) -> bool:
    """Whether a schema leaves nothing open, without which servers do not hold an answer to it strictly."""
    if isinstance(schema, list):
        return all(map(_closed, schema))
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties") or {}
        if schema.get("additionalProperties") is not False or set(schema.get("required") or ()) != set(
            properties
        ):
            return False
        return all(map(_closed, properties.values()))
    return all(map(_closed, schema.values()))


def _address(base_url: str) -> str:
    """Return where conversations are gone on with; a query, such as a version of the API, stays at the end."""
    path, mark, query = base_url.partition("?")
    return f"{path.rstrip('/')}/chat/completions{mark}{query}"


def parsed(answer: bytes) -> Any:
    """Return the JSON of an answer; raises `Failed` for anything else."""
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise Failed(MALFORMED, "The model's answer is not JSON.") from error


def _usage(told: object) -> Usage | None:
    if not isinstance(told, Mapping):
        return None
    came, went = told.get("prompt_tokens"), told.get("completion_tokens")
    details = told.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return usage_of(came, went, cached or 0, 0)


def usage_of(came: Any, went: Any, cached: Any, written: Any) -> Usage | None:
    """Return what a request took, or `None` when the numbers cannot be meant."""
    if not counted(came, went, cached, written) or cached + written > came or not came + went:
        return None
    return Usage(came, went, cached, written)


def texts(messages: Sequence[Mapping[str, str]], role: str) -> list[str]:
    """Return what one role says in a conversation."""
    return [message["content"] for message in messages if message["role"] == role]
