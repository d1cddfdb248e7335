"""What a secret is: a name with numbered versions, of which one is in use; and which changes of them are allowed.

    put ────────────────────────────────────▶ current ── another becomes current ──▶ previous
    rotate ──▶ pending ── promote ──────────▶ current ◀── promote (a way back) ────── previous

A secret that exists has one current version and at most one pending one. A number is never used twice, not even after
the secret was removed. Nothing here knows a value, except to say whether it can be kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from orchestrator.domain.errors import InvalidSecret, NotFound, SecretMoved

SHORTEST = 8
"""Characters of the shortest value: a shorter one could not be told apart from other text, and so not be redacted."""

LONGEST_BYTES = 65_536

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


class SecretState(StrEnum):
    """What a version is used for."""

    PENDING = "pending"
    """Written, and not yet in use."""
    CURRENT = "current"
    """What tools are given."""
    PREVIOUS = "previous"
    """It was current, and is kept until it is removed."""


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """All that may be told of a version of a secret."""

    tenant: str
    name: str
    version: int
    state: SecretState
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class SealedVersion:
    """A version with its value, encrypted."""

    told: SecretVersion
    sealed: bytes


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A tenant's data key, encrypted under the master key of that id."""

    tenant: str
    wrapped: bytes
    master: str


@dataclass(frozen=True, slots=True)
class Revealed:
    """A value in the clear, and which version it is; its representation does not show it."""

    version: int
    value: str = field(repr=False)


def checked_name(name: str) -> str:
    """Return the name, or raise `InvalidSecret`."""
    if not _NAME.fullmatch(name):
        raise InvalidSecret(
            "A secret's name has 1 to 64 letters, digits, dots, hyphens and underscores, "
            "and begins with a letter or digit."
        )
    return name


def checked_value(value: str) -> str:
    """Return the value, or raise `InvalidSecret`, whose words do not repeat it."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidSecret("The secret's value is not text that UTF-8 can say.") from None
    if "\x00" in value:
        raise InvalidSecret("The secret's value holds a NUL, which no environment can carry.")
    if len(value) < SHORTEST or size > LONGEST_BYTES:
        raise InvalidSecret(
            f"A secret's value has at least {SHORTEST} characters and at most {LONGEST_BYTES:,} bytes."
        )
    return value


def in_state(versions: Sequence[SecretVersion], state: SecretState) -> SecretVersion | None:
    """Return the newest version in a state."""
    return next((v for v in reversed(versions) if v.state is state), None)


def creatable(versions: Sequence[SecretVersion], name: str) -> None:
    """Raise `SecretMoved` if there is a secret of that name."""
    if versions:
        raise SecretMoved(f"There is a secret {name} already; put a new value, or rotate it.")


def rotatable(versions: Sequence[SecretVersion], name: str) -> None:
    """Raise `NotFound` if there is no such secret, `SecretMoved` if a version of it is pending."""
    if not versions:
        raise NotFound("secret", name)
    pending = in_state(versions, SecretState.PENDING)
    if pending is not None:
        raise SecretMoved(
            f"Version {pending.version} of the secret {name} is pending; promote or remove it before another."
        )


def promotable(
    versions: Sequence[SecretVersion], name: str, *, version: int | None, over: int | None
) -> tuple[SecretVersion, SecretVersion]:
    """Return the version to become current (the pending one, where none is named) and the one that is.

    Raises `SecretMoved` where that is not possible any more, or the current version is not `over`: somebody was first.
    """
    current = in_state(versions, SecretState.CURRENT)
    if current is None:
        raise NotFound("secret", name)
    if over is not None and current.version != over:
        raise SecretMoved(f"Version {current.version} of the secret {name} is current, and not {over}.")
    if version is None:
        chosen = in_state(versions, SecretState.PENDING)
        if chosen is None:
            raise SecretMoved(
                f"No version of the secret {name} is pending; version {current.version} is current."
            )
        return chosen, current
    chosen = one(versions, name, version)
    if chosen.state is SecretState.CURRENT:
        raise SecretMoved(f"Version {version} of the secret {name} is current already.")
    return chosen, current


def removable(versions: Sequence[SecretVersion], name: str, version: int | None) -> Sequence[SecretVersion]:
    """Return what removing one version, or all, takes away; the current one goes only with all the others."""
    if not versions:
        raise NotFound("secret", name)
    if version is None:
        return versions
    chosen = one(versions, name, version)
    if chosen.state is SecretState.CURRENT:
        raise SecretMoved(
            f"Version {version} of the secret {name} is current; promote another first, or remove the secret."
        )
    return (chosen,)


def one(versions: Sequence[SecretVersion], name: str, version: int | None) -> SecretVersion:
    """Return the version of that number, or the current one; raises `NotFound`."""
    if version is None:
        found = in_state(versions, SecretState.CURRENT)
    else:
        found = next((v for v in versions if v.version == version), None)
    if found is None:
        raise NotFound("secret", name if version is None else f"{name}, version {version}")
    return found
