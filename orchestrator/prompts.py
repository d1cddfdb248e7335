"""Reads who agents speak as, by the domain of a goal: a file under `configs/`, taken up anew when it has changed.

A key under `domains` is a domain. What is wrong anywhere refuses the file as a whole: a process does not start with
it, and one that runs goes on with what it had read before, and says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from orchestrator import house
from orchestrator.domain.errors import InvalidRequest, Misconfigured
from orchestrator.domain.plan import DEPTHS
from orchestrator.telemetry import log

GENERAL: Final = "general"
"""The domain of a goal that no other domain claims."""


@dataclass(frozen=True, slots=True)
class Domain:
    """How goals of one domain are known, and what is asked about them; `keywords` have weights."""

    name: str
    persona: str = ""
    audience: str = ""
    keywords: Mapping[str, float] = field(default_factory=dict)
    facets: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompts:
    """Every domain by name in the order of the file, and what models are told by depth."""

    version: str
    domains: Mapping[str, Domain]
    depths: Mapping[int, str] = field(default_factory=dict)

    def check(self, domain: str | None) -> None:
        """Raise `InvalidRequest` for a domain that is not here, naming those that are."""
        if domain is not None and domain not in self.domains:
            known = ", ".join(self.domains)
            raise InvalidRequest(f"There is no domain {domain[:100]!r}. The domains here are {known}.")


LOOK_S: Final = 0.5
"""How long a process may go by what the file said, in seconds."""

PLAIN: Final = Prompts("0", {GENERAL: Domain(GENERAL)})
"""What there is without a file: one domain, of which nothing is said."""


class Book:
    """The prompts of one file, as they are now, or were less than `look_s` seconds ago: every step asks."""

    def __init__(self, path: Path, *, look_s: float = 0.0) -> None:
        """Read the file; raises `Misconfigured`."""
        self._path = path
        self._look_s = look_s
        self._look_at = time.monotonic() + look_s
        self._seen = house.stamp(self._path)
        self._prompts = load(path)
        self._lock = threading.Lock()

    def current(self) -> Prompts:
        """Return what the file says; where what it says now is not valid, what it said before."""
        now = time.monotonic()
        if now < self._look_at:
            return self._prompts
        with self._lock:
            self._look_at = now + self._look_s
            stamp = house.stamp(self._path)
            if stamp != self._seen:
                self._seen = stamp
                self._take_up()
            return self._prompts

    def _take_up(self) -> None:
        try:
            self._prompts = load(self._path)
        except Misconfigured as error:
            log.error("prompts.refused", error=str(error), version=self._prompts.version)
        else:
            log.warning("prompts.reloaded", version=self._prompts.version, domains=len(self._prompts.domains))


@lru_cache(maxsize=16)
def book(path: Path) -> Book:
    """Return the one book of a file in this process; raises `Misconfigured` if it cannot be read at first."""
    return Book(path, look_s=LOOK_S)


def load(path: Path) -> Prompts:
    """Return what a file says, or raise `Misconfigured` naming the key."""
    try:
        read = yaml.load(path.read_text(encoding="utf-8"), Loader=_Once)  # noqa: S506 - derived from the safe loader
        return _File.model_validate(read).prompts()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Misconfigured(
            f"The prompts in {path} cannot be read: {' '.join(str(error).split())}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise Misconfigured(
            f"The prompts in {path}: the key {key!r} is not valid: {first['msg']}."
        ) from error


# --- what the file must say -----------------------------------------------------------------------------------


class _Once(yaml.SafeLoader):
    """The safe loader, except that a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(problem=f"the key {key!r} is given twice")
        return super().construct_mapping(node, deep=deep)


_Text: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
_Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
_Tool: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$")]
_Word: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class _Wall(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Keyword(_Wall):
    word: _Word
    weight: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


class _Domain(_Wall):
    persona: _Text
    audience: _Name
    keywords: list[_Word | _Keyword] = []
    facets: list[_Text] = []
    tools: list[_Tool] = []

    @field_validator("facets")
    @classmethod
    def _about_a_subject(cls, facets: list[str]) -> list[str]:
        for facet in facets:
            bare = facet.replace("{subject}", "", 1)
            if bare == facet or "{" in bare or "}" in bare or not facet.endswith("?"):
                raise ValueError(f"{facet!r} is no question with one {{subject}} in it")
        return facets


class _File(_Wall):
    version: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    depth_instructions: dict[int, _Text]
    audience_instructions: dict[_Name, _Text]
    domains: dict[_Name, _Domain]

    @model_validator(mode="after")
    def _fits_together(self) -> _File:
        if GENERAL not in self.domains:
            raise ValueError(f"there must be a domain {GENERAL}")
        if sorted(self.depth_instructions) != list(DEPTHS):
            raise ValueError(f"depth_instructions must have exactly the depths {DEPTHS[0]} to {DEPTHS[-1]}")
        for name, domain in self.domains.items():
            if domain.audience not in self.audience_instructions:
                raise ValueError(
                    f"the domain {name} names the audience {domain.audience!r}, which is not there"
                )
        return self

    def prompts(self) -> Prompts:
        return Prompts(
            self.version, {n: self._domain(n, d) for n, d in self.domains.items()}, self.depth_instructions
        )

    def _domain(self, name: str, found: _Domain) -> Domain:
        weights = [(k, 1.0) if isinstance(k, str) else (k.word, k.weight) for k in found.keywords]
        audience = self.audience_instructions[found.audience]
        return Domain(name, found.persona, audience, dict(weights), tuple(found.facets), tuple(found.tools))
