"""Who asks: a principal whose name, tenant and roles were verified, and the scopes that narrow what it may do.

A scope is `*` (everything that the roles allow), an action such as `plan.cancel`, or all verbs of a noun, `plan.*`.
It never adds anything: an action needs a scope that covers it and a policy that allows it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from orchestrator.domain.errors import Invalid
from orchestrator.domain.plan import Json

EVERYTHING: Final = "*"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/@+=-]{0,199}")
_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ROLE: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_SCOPE: Final = re.compile(r"\*|[a-z_]{1,40}\.(?:\*|[a-z_]{1,40})")
_MOST: Final = 32


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever asks: a name for the audit, the tenant whose rows they see, and the roles that they hold.

    `kind` says how the identity was verified, `credential` by which key or session (never its secret), and `until`
    when that ends.
    """

    name: str
    tenant: str
    roles: frozenset[str]
    scopes: tuple[str, ...] = (EVERYTHING,)
    kind: str = ""
    credential: str = ""
    until: datetime | None = None

    def reaches(self, action: str) -> bool:
        """Whether a scope covers an action; this alone allows nothing."""
        noun = action.partition(".")[0]
        return any(scope in {EVERYTHING, action, f"{noun}.*"} for scope in self.scopes)

    def narrowed(self, roles: Iterable[str]) -> Principal:
        """Return the same principal with those of these roles that it holds, and no others."""
        return replace(self, roles=self.roles & frozenset(roles))


ACTIONS: Final = "orchestrator.actions"
"""The policy's package that says who may take which action."""


def document(who: Principal, action: str, context: Mapping[str, Json] | None = None) -> Mapping[str, Json]:
    """Return what the policy is asked when somebody wants to take an action of their tenant."""
    return {
        "subject": {
            "name": who.name,
            "tenant_id": who.tenant,
            "roles": sorted(who.roles),
            "scopes": list(who.scopes),
        },
        "action": {"type": action, "tenant_id": who.tenant},
        "context": dict(context or {}),
    }


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: everything but its secret."""

    key_id: str
    tenant: str
    name: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    digest: bytes
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    last_used_at: datetime | None = None

    def state(self, now: datetime) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.expires_at is None or self.expires_at > now else "expired"


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it is kept: who opened it with what, and until when it lasts."""

    session_id: str
    key_id: str | None
    tenant: str
    name: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    digest: bytes
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None


def name(given: str) -> str:
    """Return the name of a principal, or raise `Invalid`."""
    if not _NAME.fullmatch(given):
        raise Invalid(
            "A name is 1 to 200 letters, digits, spaces and . _ : / @ + = -, and begins with a letter or digit."
        )
    return given


def tenant(given: str) -> str:
    """Return the name of a tenant, or raise `Invalid`."""
    if not _TENANT.fullmatch(given):
        raise Invalid("A tenant is 1 to 100 letters, digits and . _ -, and begins with a letter or digit.")
    return given


def roles(given: Collection[str]) -> tuple[str, ...]:
    """Return roles in order, each once, or raise `Invalid`."""
    return _words("role", given, _ROLE, "is 1 to 64 small letters, digits, _ and -")


def scopes(given: Collection[str]) -> tuple[str, ...]:
    """Return scopes in order, each once, or raise `Invalid`."""
    return _words("scope", given, _SCOPE, "is `*`, `noun.*` or `noun.verb`")


def _words(what: str, given: Collection[str], fitting: re.Pattern[str], rule: str) -> tuple[str, ...]:
    for word in given:
        if not fitting.fullmatch(word):
            raise Invalid(f"{word[:80]!r} is no {what}: it {rule}.")
    if len(set(given)) > _MOST:
        raise Invalid(f"At most {_MOST} of these can be given: {what}s.")
    return tuple(sorted(set(given)))
