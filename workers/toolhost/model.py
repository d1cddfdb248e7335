"""Offers the configured language models as a tool, so that a model call passes the same gate as any other.

One call asks one model, which the gate names: whoever comes next in a route is a call of its own, decided, reserved for
and recorded like the first. A model that does not answer is a result, too: the tool says why, and what it took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from workers.toolhost.host import KEY_META, WITHIN_META
from workers.toolhost.models.anthropic import Anthropic
from workers.toolhost.models.catalogue import ANSWER_TOKENS, ONLY, TIMEOUT_S, Catalogue, Model, single
from workers.toolhost.models.extractive import Extractive
from workers.toolhost.models.openai import OpenAI
from workers.toolhost.models.port import NOTHING, Asked, Failed, Provider, storable
from workers.toolhost.models.replay import Replay

PROVIDERS: Final[Mapping[str, Callable[[Model], Provider]]] = {
    "openai": OpenAI,
    "anthropic": Anthropic,
    "replay": Replay,
}
"""What speaks with a model, by the name of its protocol."""

_MARGIN_S: Final = 0.5
"""What is left of a call's time to bring the answer home."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The one model of a place that has one: `base_url` ends before `/chat/completions`."""

    base_url: str
    name: str
    key_env: str
    answer_tokens: int = ANSWER_TOKENS
    timeout_s: float = TIMEOUT_S

    def catalogue(self) -> Catalogue:
        """The same as a catalogue."""
        return single(
            Model(
                ONLY,
                "openai",
                self.base_url,
                self.name,
                self.key_env,
                answer_tokens=self.answer_tokens,
                timeout_s=self.timeout_s,
            )
        )


class Completion(BaseModel):
    """What the model answered, or why it did not (`fault`, `detail`), and how many tokens that took.

    `unbilled` says that it certainly took none. `cached_tokens` and `written_tokens` are parts of `input_tokens`.
    """

    text: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    fault: str = ""
    detail: str = ""
    unbilled: bool = False


def build(models: Catalogue | Endpoint) -> MCPServer:
    """Return a server with the tool `model_complete` for these models."""
    catalogue = models.catalogue() if isinstance(models, Endpoint) else models
    providers = {name: PROVIDERS[model.provider](model) for name, model in catalogue.models.items()}
    server = MCPServer(name="model", title="Language model", log_level="WARNING")

    @server.tool(title="Complete a conversation")
    def model_complete(
        prompt: str,  # noqa: ARG001
        messages: list[dict[str, str]],
        ctx: Context,
        prompt_sha256: str = "",  # noqa: ARG001
        attempt: int = 0,  # noqa: ARG001
        as_json: bool = True,
        schema: dict[str, Any] | None = None,
        temperature: float = 0.0,
        model: str = "",
    ) -> Completion:
        """Answer a conversation with one message.

        `prompt`, its digest and `attempt` name the call in the journal; `model` is a name of the catalogue.
        """
        meta = ctx.request_context.meta or {}
        asked = Asked(
            messages,
            as_json=as_json,
            schema=schema,
            temperature=temperature,
            key=str(meta.get(KEY_META) or ""),
            within_s=max(_MARGIN_S, float(str(meta.get(WITHIN_META) or TIMEOUT_S)) - _MARGIN_S),
        )
        chosen = catalogue.named(model) if model else next(iter(catalogue.order()), None)
        provider = Extractive() if chosen is None else providers[chosen.name]
        return _completion(provider, asked)

    return server


def _completion(provider: Provider, asked: Asked) -> Completion:
    try:
        answer = provider.complete(asked)
    except Failed as failed:
        usage = failed.usage or NOTHING
        return Completion(
            fault=failed.fault,
            detail=failed.detail,
            input_tokens=usage.came,
            output_tokens=usage.went,
            cached_tokens=usage.cached,
            written_tokens=usage.written,
            unbilled=failed.usage == NOTHING,
        )
    usage = answer.usage or NOTHING
    return Completion(
        text=answer.text,
        model=storable(answer.model)[:200],
        input_tokens=usage.came,
        output_tokens=usage.went,
        cached_tokens=usage.cached,
        written_tokens=usage.written,
    )
