"""Reads what schedules are declared: the file under `configs/`, and the one-line form that other programs send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator import house
from orchestrator.chronos import Chronos, Draft
from orchestrator.domain.errors import Invalid, InvalidSchedule, Misconfigured
from orchestrator.domain.plan import Json, digest
from orchestrator.domain.schedule import Misfire, Overlap

_CONFIG = ConfigDict(extra="forbid", frozen=True)


class Declared(BaseModel):
    """One schedule as the file declares it."""

    model_config = _CONFIG

    name: str
    cron: str
    goal: str
    timezone: str = "UTC"
    depth: int = 2
    domain: str | None = None
    max_sources: int | None = Field(default=None, ge=1, le=50)
    sources: dict[str, Any] = Field(default_factory=dict)
    budget: dict[str, int] = Field(default_factory=dict)
    priority: int = 0
    metadata: dict[str, Any] = Field(default_factory=dict)
    misfire: Misfire = Misfire.ONCE
    overlap: Overlap = Overlap.SKIP

    def draft(self, *, requester: str) -> Draft:
        """What is to be fired."""
        asked = self.model_dump(
            include={"goal", "depth", "domain", "max_sources", "sources", "budget", "priority", "metadata"},
            exclude_none=True,
        )
        return Draft(
            name=self.name,
            cron=self.cron,
            request={**asked, "requester": requester},
            timezone=self.timezone,
            misfire=self.misfire,
            overlap=self.overlap,
        )


class Timetable(BaseModel):
    """The whole file."""

    model_config = _CONFIG

    schedules: list[Declared]


class Brief(BaseModel):
    """A schedule in one object: a question, a cron expression in UTC, and limits."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    query: str
    cron_expr: str
    depth: int = Field(default=2, ge=1, le=5)
    max_steps: int = Field(default=20, ge=1, le=100)
    max_sources: int = Field(default=10, ge=1, le=1000)
    domain: str | None = Field(default=None, min_length=1, max_length=100)
    enabled: bool = True

    def draft(self, *, requester: str, tenant: str = "default") -> Draft:
        """What is to be fired; the name is made of what is asked, so that the same brief is the same schedule."""
        asked = [self.query, self.cron_expr, self.depth]
        named = digest(asked if self.domain is None else [*asked, self.domain])[:12]
        # a plan cannot be written in fewer than 8 steps
        steps = max(8, self.max_steps)
        request: dict[str, Json] = {
            "goal": self.query,
            "depth": self.depth,
            "budget": {"steps": steps},
            "max_sources": self.max_sources,
            "requester": requester,
        }
        if self.domain is not None:
            request["domain"] = self.domain
        return Draft(f"brief-{named}", self.cron_expr, request, paused=not self.enabled, tenant=tenant)


def brief(payload: Mapping[str, object]) -> Brief:
    """Return a checked brief, or raise `InvalidSchedule` naming what is wrong with it."""
    try:
        return Brief.model_validate(payload)
    except ValidationError as error:
        raise InvalidSchedule(_first(error)) from error


def load(file: Path | None = None) -> Sequence[Draft]:
    """Return what is declared, or raise `Misconfigured` naming the key."""
    path = file or house.path("configs/schedules.yaml")
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8")) or {"schedules": []}
        drafts = [d.draft(requester="configuration") for d in Timetable.model_validate(read).schedules]
    except (OSError, yaml.YAMLError) as error:
        raise Misconfigured(f"The schedules in {path.name} cannot be read: {error}") from error
    except ValidationError as error:
        raise Misconfigured(f"{path.name}: {_first(error)}") from error
    names = [d.name for d in drafts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Misconfigured(f"{path.name} declares {', '.join(twice)} more than once.")
    return drafts


def apply(chronos: Chronos, file: Path | None = None) -> int:
    """Keep every declared schedule as it is declared; safe to repeat, and by many replicas. Returns their number."""
    drafts = load(file)
    for draft in drafts:
        try:
            chronos.put(draft)
        except Invalid as error:
            raise Misconfigured(f"The declared schedule {draft.name}: {error}") from error
    return len(drafts)


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}."
