"""Secrets over HTTP: values go in and never come out; what is answered are names, versions and states.

Whoever may change a secret cannot read it here either. Only the tool host reads values, and gives them to tool servers.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, Field, SecretStr, field_validator

from orchestrator import shapes
from orchestrator.api import forms
from orchestrator.api.identity import Principal, acts, reads
from orchestrator.api.office import Here
from orchestrator.api.problems import documented
from orchestrator.domain.errors import InvalidSecret
from orchestrator.domain.secret import LONGEST_BYTES, SHORTEST, SecretState, checked_value

router: Final = APIRouter(prefix="/secrets", tags=["secrets"])

_MOST_VERSIONS: Final = 2**31 - 1

Named = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="The secret's name.", max_length=64)
]
Reader = Annotated[Principal, Depends(reads("secret.read_versions"))]
Keeper = Annotated[Principal, Depends(acts("secret.manage"))]


class Value(forms.Sent):
    """A value to keep; no answer repeats it, not even one that refuses it."""

    value: SecretStr = Field(
        min_length=SHORTEST, max_length=LONGEST_BYTES, description="The value, which never comes out again."
    )

    @field_validator("value")
    @classmethod
    def _can_be_kept(cls, value: SecretStr) -> SecretStr:
        try:
            checked_value(value.get_secret_value())
        except InvalidSecret as error:
            raise ValueError(str(error)) from None
        return value


class Promotion(forms.Sent):
    """Which version to put into use."""

    version: int | None = Field(
        None, ge=1, le=_MOST_VERSIONS, description="The version; the pending one if it is left out."
    )
    over: int | None = Field(
        None, ge=1, le=_MOST_VERSIONS, description="The version that must still be current; 409 if it is not."
    )


class Version(BaseModel):
    """A version of a secret, without its value."""

    name: str
    version: int
    state: SecretState
    created_at: str
    created_by: str


class Versions(BaseModel):
    """Versions of secrets by name and number, without their values."""

    versions: list[Version]


@router.get("", response_model=Versions, responses=documented())
def listed(office: Here, who: Reader) -> Any:
    """List every version of every secret; none with its value."""
    return _told(office.core.secrets.versions(who.tenant))


@router.get("/{name}/versions", response_model=Versions, responses=documented(404))
def versions(office: Here, who: Reader, name: Named) -> Any:
    """List the versions of one secret; none with its value."""
    return _told(office.core.secrets.versions(who.tenant, name))


@router.post("/{name}", status_code=201, response_model=Version, responses=documented(409))
def create(office: Here, who: Keeper, name: Named, form: Value, response: Response) -> Any:
    """Keep a new secret, in use at once; 409 when there is one of that name."""
    made = office.core.secrets.put(who.tenant, name, form.value.get_secret_value(), by=who.name, new=True)
    response.headers["Location"] = f"/secrets/{name}/versions"
    return shapes.secret(made)


@router.put("/{name}", response_model=Version, responses=documented(409))
def put(office: Here, who: Keeper, name: Named, form: Value) -> Any:
    """Keep a value, in use at once, whether there is a secret of that name or not."""
    return shapes.secret(
        office.core.secrets.put(who.tenant, name, form.value.get_secret_value(), by=who.name)
    )


@router.post("/{name}/rotate", status_code=201, response_model=Version, responses=documented(404, 409))
def rotate(office: Here, who: Keeper, name: Named, form: Value) -> Any:
    """Keep a value that is not used until it is promoted; one at a time."""
    return shapes.secret(
        office.core.secrets.rotate(who.tenant, name, form.value.get_secret_value(), by=who.name)
    )


@router.post("/{name}/promote", response_model=Version, responses=documented(404, 409))
def promote(office: Here, who: Keeper, name: Named, form: Promotion) -> Any:
    """Put a pending version into use, or a previous one again; of several at once one succeeds."""
    return shapes.secret(
        office.core.secrets.promote(who.tenant, name, by=who.name, version=form.version, over=form.over)
    )


@router.delete("/{name}", status_code=204, responses=documented(404, 409))
def remove(
    office: Here,
    who: Keeper,
    name: Named,
    version: Annotated[
        int | None,
        Query(ge=1, le=_MOST_VERSIONS, description="Only this version, which must not be the current one."),
    ] = None,
) -> None:
    """Remove a secret with all its versions, or one of them; the next call of a tool that needs it is refused."""
    office.core.secrets.remove(who.tenant, name, version, by=who.name)


def _told(found: Any) -> dict[str, Any]:
    return {"versions": [shapes.secret(each) for each in found]}
