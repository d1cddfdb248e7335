"""Which models there are, what they cost, and in which order they are asked for what.

    models:                                   routes:
      quick: {provider: openai, …}              default: [quick, thorough]
      thorough: {provider: anthropic, …}        high_quality: [thorough, quick]

The first of a route is asked, and the next where it does not answer. A mistake anywhere refuses the whole file.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from agents.profiles import ModelChoice, Routing, StrictLoader, complaints
from orchestrator import house
from orchestrator.domain.budget import Spent
from orchestrator.domain.errors import Misconfigured
from orchestrator.domain.plan import Json, canonical
from orchestrator.settings import Settings
from workers.toolhost.models.port import Usage

ProviderName: TypeAlias = Literal["openai", "anthropic", "replay"]

ONLY: Final = "default"
"""What the one model is called that the settings name."""

ANSWER_TOKENS: Final = 4_000
TIMEOUT_S: Final = 100.0

OVERHEAD_TOKENS: Final[Mapping[ProviderName, int]] = {"openai": 0, "anthropic": 1_000, "replay": 0}
"""Tokens that a protocol adds to what is sent: Messages tells a model about tools in words of its own."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,62}[a-z0-9])?", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Model:
    """One model: where it is, what it is called there, and what a thousand tokens cost in micro-dollars.

    `key_env` names the variable with its key, and `auth` the header that carries it. `answer_tokens` is the most that
    an answer may be long, so that what is reserved for it suffices.
    """

    name: str
    provider: ProviderName
    base_url: str = ""
    model: str = ""
    key_env: str = ""
    auth: Literal["bearer", "api-key"] = "bearer"
    file: str = ""
    input_uusd_per_1k: int = 0
    cached_uusd_per_1k: int = 0
    written_uusd_per_1k: int = 0
    output_uusd_per_1k: int = 0
    answer_tokens: int = ANSWER_TOKENS
    timeout_s: float = TIMEOUT_S

    def reserve(self, arguments: Mapping[str, Json]) -> Spent:
        """Return the most that asking with these arguments can take."""
        # a token is never less than one byte, so this is more than will be used; what is left is given back
        came = len(canonical(arguments)) + OVERHEAD_TOKENS[self.provider]
        dearest = max(self.input_uusd_per_1k, self.cached_uusd_per_1k, self.written_uusd_per_1k)
        cost = came * dearest + self.answer_tokens * self.output_uusd_per_1k
        return Spent(calls=1, tokens=came + self.answer_tokens, cost_uusd=-(-cost // 1000))

    def spent(self, usage: Usage) -> Spent:
        """Return what a request took and cost."""
        plain = max(0, usage.came - usage.cached - usage.written)
        cost = (
            plain * self.input_uusd_per_1k
            + usage.cached * self.cached_uusd_per_1k
            + usage.written * self.written_uusd_per_1k
            + usage.went * self.output_uusd_per_1k
        )
        return Spent(calls=1, tokens=usage.came + usage.went, cost_uusd=-(-cost // 1000))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every model by its name, and the order in which they are asked for each class of work."""

    models: Mapping[str, Model] = field(default_factory=dict)
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def order(self, choice: ModelChoice | None = None) -> tuple[Model, ...]:
        """Return who is asked, one after the other.

        A `provider` that the choice names, or a model by its name, comes first; nobody is left out for it.
        """
        choice = choice or ModelChoice()
        names = self.routes.get(choice.routing) or self.routes.get("default") or tuple(self.models)
        listed = [self.models[name] for name in names]
        wanted = [m for m in listed if choice.provider in {m.name, m.provider}]
        return (*wanted, *(m for m in listed if m not in wanted))

    def named(self, name: str) -> Model | None:
        """Return the model of that name, or the first that is called so where it is."""
        return self.models.get(name) or next((m for m in self.models.values() if m.model == name), None)

    @property
    def first(self) -> str:
        """What the model is called that is asked first for work of no class; empty where there is none."""
        order = self.order()
        return order[0].model or order[0].name if order else ""

    @property
    def key_variables(self) -> frozenset[str]:
        """The variables that may hold keys."""
        return frozenset(m.key_env for m in self.models.values() if m.key_env)


def single(model: Model) -> Catalogue:
    """Return the catalogue of one model."""
    return Catalogue(MappingProxyType({model.name: model}))


def of(settings: Settings) -> Catalogue:
    """Return the models that are configured: those of the file, or the one of the settings.

    Raises `Misconfigured` where both name some, or the file does not hold.
    """
    path = Path(settings.models_file).expanduser() if settings.models_file else None
    found = load(path or house.path("configs/models.yaml"))
    if not settings.model_base_url:
        return found
    if found.models:
        raise Misconfigured(
            "Models are named twice: in the file of models, and by ORCHESTRATOR_MODEL_BASE_URL. Unset the variable, "
            "or take them out of the file."
        )
    return single(
        Model(
            ONLY,
            "openai",
            settings.model_base_url,
            settings.model_name,
            settings.model_key_env,
            input_uusd_per_1k=settings.model_input_uusd_per_1k,
            cached_uusd_per_1k=settings.model_input_uusd_per_1k,
            written_uusd_per_1k=settings.model_input_uusd_per_1k,
            output_uusd_per_1k=settings.model_output_uusd_per_1k,
        )
    )


def load(path: Path) -> Catalogue:
    """Return the models of a file; raises `Misconfigured` with a sentence about what is wrong with it."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)  # noqa: S506 - derived from the safe loader
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{path.name}: the models cannot be read ({type(error).__name__}).") from error
    except yaml.YAMLError as error:
        raise Misconfigured(
            f"{path.name}: this is not valid YAML ({' '.join(str(error).split())})."
        ) from error
    try:
        file = _File.model_validate(found or {})
    except ValidationError as error:
        raise Misconfigured(f"{path.name}: {'; '.join(complaints(error))}.") from error
    models = {name: _model(name, entry) for name, entry in file.models.items()}
    return Catalogue(
        MappingProxyType(models),
        MappingProxyType({route: tuple(names) for route, names in file.routes.items()}),
    )


# --- what the file must say -------------------------------------------------------------------------------------------


def _address(url: str) -> str:
    to = urlsplit(url)
    if to.scheme not in {"http", "https"} or not to.hostname or to.username is not None or to.fragment:
        raise ValueError("an address is http:// or https://, a host and a path, without a user or a fragment")
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise ValueError("an address has no spaces, and only characters of ASCII")
    return url


def _known_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a name: use up to 64 small letters, digits, dots, hyphens, underscores"
        )
    return name


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        # what was written here may be the key itself, and is not said again
        raise ValueError("this names an environment variable, and never holds the key itself")
    return name


_Price: TypeAlias = Annotated[int, Field(ge=0, le=10**9)]


class _Wall(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class _Entry(_Wall):
    provider: ProviderName
    base_url: Annotated[str, AfterValidator(_address)] = ""
    model: Annotated[str, Field(max_length=200)] = ""
    key_env: Annotated[str, AfterValidator(_variable)] = ""
    auth: Literal["bearer", "api-key"] = "bearer"
    file: str = ""
    input_uusd_per_1k: _Price = 0
    cached_uusd_per_1k: _Price | None = None
    written_uusd_per_1k: _Price | None = None
    output_uusd_per_1k: _Price = 0
    answer_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = ANSWER_TOKENS
    timeout_s: Annotated[float, Field(gt=0, le=3_600, strict=False)] = TIMEOUT_S

    @model_validator(mode="after")
    def _whole(self) -> "_Entry":
        if self.provider == "replay":
            if not self.file or self.base_url or self.key_env:
                raise ValueError("a model that replays has a file of recorded answers, and no address or key")
            return self
        if not self.base_url or not self.model or self.file:
            raise ValueError("a model has base_url and model, and no file")
        return self


class _File(_Wall):
    models: dict[Annotated[str, AfterValidator(_known_name)], _Entry] = {}
    routes: dict[Routing, Annotated[list[str], Field(min_length=1)]] = {}

    @model_validator(mode="after")
    def _known(self) -> "_File":
        for route, names in self.routes.items():
            for name in names:
                if name not in self.models:
                    raise ValueError(f"the route {route} names {name!r}, which is no model of this file")
            if len(set(names)) < len(names):
                raise ValueError(f"the route {route} names a model twice")
        return self


def _model(name: str, entry: _Entry) -> Model:
    said = entry.model_dump()
    for price in ("cached_uusd_per_1k", "written_uusd_per_1k"):
        if said[price] is None:
            said[price] = entry.input_uusd_per_1k
    return Model(name=name, **said)
