"""Loads the tool registry: which tools there are, who carries them, and what a call of each needs and costs.

The registry is the product's own word about a tool. What a server says about itself (its annotations, its
description) never decides which capability a call needs or whether it may be repeated.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from agents.profiles import StrictLoader, complaints, known_capability

Semantics: TypeAlias = Literal["idempotent", "keyed", "at_most_once"]
Label: TypeAlias = Literal["untrusted", "sensitive"]
Builtin: TypeAlias = Literal[
    "documents", "model", "web", "memory", "numbers", "clock", "code", "sql", "search"
]


class RegistryError(ValueError):
    """The tool registry cannot be used; the message says which file and key, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool. `semantics` says what a repeated call does; `cost_uusd` is in millionths of a US dollar.

    Of an `exclusive` tool the fleet tries to make one call at a time. `yields` are the labels of what it brings in,
    `max_calls` is how often one plan may call it (-1: as often as its budget lets it), and `schema_sha256` is what it
    must still describe itself as (empty: whatever it says).

    `keywords`, `weights` (of keywords, where it is not 1) and `weight` (of the tool as a whole) are what it is found by,
    `description` is what a planner is told about it. One that is not `planned` is called by minds of their own accord,
    and `asks` is the input that takes a question as it is.
    """

    name: str
    server: str
    capability: str
    semantics: Semantics
    timeout_s: float
    cost_uusd: int
    keywords: tuple[str, ...]
    fallbacks: tuple[str, ...]
    exclusive: bool = False
    yields: tuple[Label, ...] = ()
    max_calls: int = -1
    schema_sha256: str = ""
    description: str = ""
    weight: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    planned: bool = True
    asks: str = ""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One server: either built in, or a command with the names of the variables that it may see.

    `secrets` names, by variable, the secrets of the calling tenant that it is given besides.
    """

    name: str
    builtin: Builtin | None
    command: tuple[str, ...]
    env: tuple[str, ...]
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Registry:
    """Every tool and every server, by name, in the order of the file.

    `withheld` are tools of the file that are not offered on this machine, each with the reason as a sentence.
    """

    tools: Mapping[str, ToolSpec]
    servers: Mapping[str, ServerSpec]
    withheld: Mapping[str, str] = field(default_factory=dict)

    def of(self, server: str) -> tuple[ToolSpec, ...]:
        """Return the tools that a server carries."""
        return tuple(tool for tool in self.tools.values() if tool.server == server)

    @property
    def labelled(self) -> frozenset[str]:
        """The tools that bring in what others wrote, or what must not leave."""
        return frozenset(t.name for t in self.tools.values() if t.yields or t.capability == "network.egress")

    def without(self, reasons: Mapping[str, str]) -> "Registry":
        """Return the same without some of its tools, which are withheld for the reasons given."""
        kept = {name: tool for name, tool in self.tools.items() if name not in reasons}
        named = {name: reason for name, reason in reasons.items() if name in self.tools}
        return replace(
            self, tools=MappingProxyType(kept), withheld=MappingProxyType({**self.withheld, **named})
        )


def load(path: Path) -> Registry:
    """Return the registry in a YAML file; raises `RegistryError` with a sentence if any part of it is not valid."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RegistryError(f"The tool registry {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise RegistryError(f"The tool registry {path} is not written in UTF-8.") from error
    try:
        found = yaml.load(text, Loader=StrictLoader)  # noqa: S506 - derived from the safe loader
        file = _File.model_validate(found)
    except yaml.YAMLError as error:
        raise RegistryError(
            f"The tool registry {path} is not valid YAML ({' '.join(str(error).split())})."
        ) from error
    except ValidationError as error:
        raise RegistryError(
            f"The tool registry {path} is not valid: {'; '.join(complaints(error))}."
        ) from error
    return Registry(
        tools=MappingProxyType({name: item.spec(name) for name, item in file.items.items()}),
        servers=MappingProxyType({name: server.spec(name) for name, server in file.servers.items()}),
    )


# --- what the file must say -------------------------------------------------------------------------------------------


def _shaped(pattern: str, what: str) -> Callable[[str], str]:
    shape = re.compile(pattern, re.ASCII)

    def check(text: str) -> str:
        if not shape.fullmatch(text):
            raise ValueError(f"{text!r} is not {what}")
        return text

    return check


_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}"
_Name: TypeAlias = Annotated[
    str, AfterValidator(_shaped(_NAME, "a name of letters, digits, hyphens and underscores"))
]
_Variable: TypeAlias = Annotated[
    str,
    AfterValidator(_shaped(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")),
]
_Secret: TypeAlias = Annotated[
    str, AfterValidator(_shaped(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "the name of a secret"))
]
_Capability: TypeAlias = Annotated[str, AfterValidator(known_capability)]
_Sha256: TypeAlias = Annotated[
    str, AfterValidator(_shaped(r"[0-9a-f]{64}", "a SHA-256 in 64 hexadecimal digits"))
]
_Word: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
_DAY_S = 86_400


class _Wall(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


_Weight: TypeAlias = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


class _Weighted(_Wall):
    word: _Word
    weight: _Weight


class _Item(_Wall):
    keywords: list[_Word | _Weighted] = []
    description: _Word = ""
    weight: _Weight = 1.0
    planned: bool = True
    asks: _Name | None = None
    server: _Name
    fallbacks: list[_Name] = []
    capability: _Capability
    semantics: Semantics
    timeout_s: Annotated[float, Field(gt=0, le=_DAY_S, allow_inf_nan=False)]
    cost_uusd: Annotated[int, Field(ge=0, le=2**53)] = 0
    exclusive: bool = False
    yields: list[Label] = []
    max_calls: Annotated[int, Field(ge=0, le=2**31)] | None = None
    schema_sha256: _Sha256 | None = None

    def spec(self, name: str) -> ToolSpec:
        return ToolSpec(
            name=name,
            server=self.server,
            capability=self.capability,
            semantics=self.semantics,
            timeout_s=self.timeout_s,
            cost_uusd=self.cost_uusd,
            keywords=tuple(k if isinstance(k, str) else k.word for k in self.keywords),
            fallbacks=tuple(self.fallbacks),
            exclusive=self.exclusive,
            yields=tuple(self.yields),
            max_calls=-1 if self.max_calls is None else self.max_calls,
            schema_sha256=self.schema_sha256 or "",
            description=self.description,
            weight=self.weight,
            weights=MappingProxyType({k.word: k.weight for k in self.keywords if isinstance(k, _Weighted)}),
            planned=self.planned,
            asks=self.asks or "",
        )

    @model_validator(mode="after")
    def _each_keyword_once(self) -> "_Item":
        words = [(k if isinstance(k, str) else k.word).casefold() for k in self.keywords]
        for word in words:
            if words.count(word) > 1:
                raise ValueError(f"the keyword {word!r} is listed more than once, letter case aside")
        return self


class _Server(_Wall):
    builtin: Builtin | None = None
    command: Annotated[list[_Word], Field(min_length=1)] | None = None
    env: list[_Variable] | None = None
    secrets: dict[_Variable, _Secret] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "_Server":
        if (self.builtin is None) == (self.command is None):
            raise ValueError("a server is either builtin or a command, and exactly one of them")
        if self.env is not None and self.command is None:
            raise ValueError("only a command has an env: a builtin server sees no environment")
        if self.secrets is not None and self.command is None:
            raise ValueError("only a command has secrets: a builtin server sees no environment")
        twice = sorted(set(self.env or ()) & set(self.secrets or ()))
        if twice:
            raise ValueError(
                f"the variable {twice[0]} stands in env and in secrets, and can be one of them only"
            )
        return self

    def spec(self, name: str) -> ServerSpec:
        return ServerSpec(
            name,
            self.builtin,
            tuple(self.command or ()),
            tuple(self.env or ()),
            MappingProxyType(dict(self.secrets or {})),
        )


class _File(_Wall):
    items: Annotated[dict[_Name, _Item], Field(min_length=1)]
    servers: Annotated[dict[_Name, _Server], Field(min_length=1)]

    @model_validator(mode="after")
    def _every_name_is_known(self) -> "_File":
        for name, item in self.items.items():
            if item.server not in self.servers:
                raise ValueError(
                    f"the item {name!r} names the server {item.server!r}, which is not in servers"
                )
            for fallback in item.fallbacks:
                if fallback not in self.items:
                    raise ValueError(
                        f"the item {name!r} names the fallback {fallback!r}, which is not in items"
                    )
                if fallback == name:
                    raise ValueError(f"the item {name!r} names itself as a fallback")
        return self
