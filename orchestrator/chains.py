"""Reads who must decide what: the file under `configs/`, checked when a process starts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from orchestrator import house
from orchestrator.domain.approval import Category
from orchestrator.domain.errors import Misconfigured
from orchestrator.domain.plan import Chain, Escalation, Stage

_CONFIG = ConfigDict(extra="forbid", frozen=True)

_Role: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.:-]{0,63}$")]
_Roles: TypeAlias = Annotated[list[_Role], Field(min_length=1)]
_Hours: TypeAlias = Annotated[float, Field(gt=0, le=24 * 3650)]


class _Escalation(BaseModel):
    model_config = _CONFIG

    to: _Roles
    within_h: _Hours | None = None


class _Stage(BaseModel):
    model_config = _CONFIG

    seats: Annotated[list[_Role | _Roles], Field(min_length=1, max_length=10)]
    within_h: _Hours | None = None
    escalate: list[_Escalation] = []


class _Chain(BaseModel):
    model_config = _CONFIG

    stages: Annotated[list[_Stage], Field(min_length=1, max_length=10)]
    alone: list[_Role] = []
    holds_h: _Hours = 168


class _File(BaseModel):
    model_config = _CONFIG

    capabilities: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]*$")], Category] = {}
    categories: dict[Category, _Chain]


def load(usual: timedelta, file: Path | None = None) -> Mapping[str, Chain]:
    """Return each category's chain, or raise `Misconfigured` naming the key; `usual` is a stage's time where none is given."""
    return {name.value: _chain(chain, usual) for name, chain in _read(file).categories.items()}


def categories(file: Path | None = None) -> Mapping[str, str]:
    """Return what a call is about by the capability that it needs, or raise `Misconfigured` naming the key."""
    return {capability: name.value for capability, name in _read(file).capabilities.items()}


def _read(file: Path | None) -> _File:
    path = file or house.path("configs/approvals.yaml")
    try:
        read = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise Misconfigured(f"The approvals in {path.name} cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Misconfigured(f"{path.name}: {where}: {first['msg']}.") from error
    if missing := [category.value for category in Category if category not in read.categories]:
        raise Misconfigured(f"{path.name} does not say who decides about {', '.join(missing)}.")
    return read


def _chain(read: _Chain, usual: timedelta) -> Chain:
    return Chain(
        tuple(_stage(stage, usual) for stage in read.stages),
        tuple(read.alone),
        timedelta(hours=read.holds_h),
    )


def _stage(read: _Stage, usual: timedelta) -> Stage:
    return Stage(
        tuple((seat,) if isinstance(seat, str) else tuple(seat) for seat in read.seats),
        _time(read.within_h, usual),
        tuple(Escalation(tuple(step.to), _time(step.within_h, usual)) for step in read.escalate),
    )


def _time(hours: float | None, usual: timedelta) -> timedelta:
    return usual if hours is None else timedelta(hours=hours)
