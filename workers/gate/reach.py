"""Reads which hosts of the web each tenant's plans may ask, of those that may be asked at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from agents.profiles import StrictLoader, complaints, known_host
from orchestrator import house
from orchestrator.domain import identity
from orchestrator.domain.errors import Invalid, Misconfigured


def _tenant(name: str) -> str:
    try:
        return identity.tenant(name)
    except Invalid as error:
        raise ValueError(str(error)) from error


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    tenants: dict[Annotated[str, AfterValidator(_tenant)], list[Annotated[str, AfterValidator(known_host)]]]


def load(file: Path | None = None) -> Mapping[str, tuple[str, ...]]:
    """Return each named tenant's hosts, or raise `Misconfigured` saying what is wrong with the file."""
    path = file or house.path("configs/egress.yaml")
    try:
        read = _File.model_validate(yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader))  # noqa: S506 - derived from the safe loader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Misconfigured(
            f"The hosts of tenants in {path.name} cannot be read: {' '.join(str(error).split())}"
        ) from error
    except ValidationError as error:
        raise Misconfigured(
            f"The hosts of tenants in {path.name} are not valid: {'; '.join(complaints(error))}."
        ) from error
    return MappingProxyType({tenant: tuple(hosts) for tenant, hosts in read.tenants.items()})
