"""Makes, proves, turns over and takes back what callers show: API keys and sessions.

    orc_<environment>_<id, 8 characters>_<secret, 43 characters>     an API key, shown once
    ors_<environment>_<id, 8 characters>_<secret, 43 characters>     a session, shown once

The database keeps an HMAC-SHA256 of each under a pepper that lies in a file beside it, so that neither alone makes a
key that works. A key is looked up by its id and compared in constant time; one that does not exist takes as long as
one whose secret is wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from orchestrator.domain import identity
from orchestrator.domain.errors import Conflict, Invalid, NotFound, Unavailable
from orchestrator.domain.identity import ApiKey, Principal, Session
from orchestrator.store import PgStore
from orchestrator.telemetry import log
from orchestrator.vault import ledger
from orchestrator.vault.chain import Sealer

ENVIRONMENT: Final = "live"
"""The word in a key that says what it is for, where none is chosen."""

_TOKEN: Final = re.compile(r"(or[cs])_([a-z0-9]{1,16})_([a-z0-9]{8})_([A-Za-z0-9_-]{43})")
_ENVIRONMENT: Final = re.compile(r"[a-z0-9]{1,16}")
_LETTERS: Final = string.ascii_lowercase + string.digits
_SELDOM: Final = timedelta(minutes=1)
_NOTHING: Final = bytes(32)
"""What a token without a row is compared with."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A token at the one moment when it can be seen; printing the object does not show it."""

    token: str = field(repr=False)
    key: ApiKey


class KeyRing:
    """The keys and sessions of one database, under one pepper."""

    def __init__(self, store: PgStore, pepper: bytes, sealer: Sealer) -> None:
        """What happens to keys is written into the audit of their tenants, sealed by `sealer`."""
        self._store = store
        self._pepper = pepper
        self._sealer = sealer

    # keys

    def create(
        self,
        *,
        name: str,
        tenant: str,
        roles: Collection[str],
        scopes: Collection[str] = (identity.EVERYTHING,),
        lasts: timedelta | None = None,
        environment: str = ENVIRONMENT,
        by: str,
    ) -> Shown:
        """Make a key and return it with its token, which is never seen again. Raises `Invalid`."""
        if not scopes:
            raise Invalid(
                "A key without a scope may do nothing; give one, or `*` for all that its roles allow."
            )
        if lasts is not None and lasts <= timedelta(0):
            raise Invalid("A key lasts for more than no time.")
        kept = {
            "name": identity.name(name),
            "tenant": identity.tenant(tenant),
            "roles": list(identity.roles(roles)),
            "scopes": list(identity.scopes(scopes)),
        }
        if not _ENVIRONMENT.fullmatch(environment):
            raise Invalid(
                "The environment in a key is 1 to 16 small letters and digits, such as `live` or `test`."
            )
        with self._store.transaction() as tx:
            while True:  # an id of eight letters may be taken
                key_id, token = _fresh("orc", environment)
                found = tx.add_key(
                    key_id=key_id, digest=self._digest(token), created_by=by, lasts=lasts, until=None, **kept
                )
                if found is not None:
                    break
            ledger.note_key(tx, self._sealer, "created", found, by)
        log.info("key.created", key_id=key_id, tenant=found.tenant, name=found.name, by=by)
        return Shown(token, found)

    def rotate(self, key_id: str, *, overlap: timedelta, by: str) -> Shown:
        """Make a key that may do the same, and let the old one end after the overlap.

        The new one expires when the old one would have. Raises `NotFound`, and `Conflict` for one that is no longer
        usable.
        """
        if overlap < timedelta(0):
            raise Invalid("The overlap of two keys is not negative; 0 ends the old one at once.")
        with self._store.transaction() as tx:
            old = tx.api_key(key_id, lock=True)
            if old is None:
                raise NotFound("API key", key_id)
            if old.state(tx.now()) != "active":
                raise Conflict(f"API key {key_id} is {old.state(tx.now())}; create another.")
            while True:
                new_id, token = _fresh("orc", ENVIRONMENT)
                new = tx.add_key(
                    key_id=new_id,
                    digest=self._digest(token),
                    created_by=by,
                    lasts=None,
                    until=old.expires_at,
                    name=old.name,
                    tenant=old.tenant,
                    roles=list(old.roles),
                    scopes=list(old.scopes),
                )
                if new is not None:
                    break
            tx.end_key_soon(key_id, overlap)
            ledger.note_key(tx, self._sealer, "rotated", old, by)
            ledger.note_key(tx, self._sealer, "created", new, by)
        log.info("key.rotated", key_id=key_id, new_key_id=new_id, tenant=old.tenant, name=old.name, by=by)
        return Shown(token, new)

    def revoke(self, key_id: str, *, by: str) -> ApiKey:
        """Take a key back for ever, and with it the sessions that it opened. Raises `NotFound` and `Conflict`."""
        with self._store.transaction() as tx:
            done = tx.revoke_key(key_id, by=by)
            if done is None:
                if tx.api_key(key_id) is None:
                    raise NotFound("API key", key_id)
                raise Conflict(f"API key {key_id} is revoked already.")
            ledger.note_key(tx, self._sealer, "revoked", done, by)
        log.info("key.revoked", key_id=key_id, tenant=done.tenant, name=done.name, by=by)
        return done

    def listed(self, tenant: str | None = None) -> Sequence[ApiKey]:
        """Return the keys of a tenant or of all, the oldest first."""
        with self._store.transaction() as tx:
            return tx.api_keys(tenant)

    # sessions

    def open(self, who: Principal, *, lasts: timedelta) -> tuple[str, Session]:
        """Open a session for a verified principal: its token, and how it is kept.

        It may do what the principal may do now, and ends no later than what the principal showed.
        """
        with self._store.transaction() as tx:
            tx.forget_sessions()
            while True:
                session_id, token = _fresh("ors", ENVIRONMENT)
                made = tx.add_session(
                    session_id=session_id,
                    key_id=who.credential if who.kind == "key" else None,
                    tenant=who.tenant,
                    name=who.name,
                    roles=sorted(who.roles),
                    scopes=list(who.scopes),
                    digest=self._digest(token),
                    lasts=lasts,
                    until=who.until,
                )
                if made is not None:
                    break
        log.info("session.opened", session_id=session_id, tenant=who.tenant, name=who.name, kind=who.kind)
        return token, made

    def end(self, session_id: str) -> bool:
        """End a session; `False` if it had ended."""
        with self._store.transaction() as tx:
            ended = tx.end_session(session_id)
        if ended:
            log.info("session.ended", session_id=session_id)
        return ended

    # proof

    @staticmethod
    def knows(token: str) -> bool:
        """Whether a token has the form of a key or session."""
        return token.startswith(("orc_", "ors_"))

    def proved(self, token: str) -> Principal | None:
        """Return whose key or session this is, or nothing for one that may not be used, for whatever reason.

        Raises `Unavailable` when the database does not answer.
        """
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            return None
        given = self._digest(token)
        with self._store.transaction() as tx:
            is_key = parts[1] == "orc"
            row = tx.usable_key(parts[3]) if is_key else tx.usable_session(parts[3])
            if not hmac.compare_digest(given, _NOTHING if row is None else row.digest) or row is None:
                return None
            used = row.last_used_at if isinstance(row, ApiKey) else None
            stale = is_key and (used is None or tx.now() - used > _SELDOM)
        if stale:
            # for people who look for unused keys; a database that takes no writes still lets callers read
            with contextlib.suppress(Unavailable), self._store.transaction() as tx:
                tx.touch_key(parts[3])
        return Principal(
            name=row.name,
            tenant=row.tenant,
            roles=frozenset(row.roles),
            scopes=row.scopes,
            kind="key" if is_key else "session",
            credential=parts[3],
            until=row.expires_at,
        )

    def holds(self, who: Principal) -> bool:
        """Whether the key or session that proved somebody may still be used."""
        if who.kind not in {"key", "session"}:
            return True
        with self._store.transaction() as tx:
            find = tx.usable_key if who.kind == "key" else tx.usable_session
            return find(who.credential) is not None

    def _digest(self, token: str) -> bytes:
        # of the whole token, so that no part of it is left unproved
        return hmac.new(self._pepper, token.encode("ascii"), hashlib.sha256).digest()


def _fresh(kind: str, environment: str) -> tuple[str, str]:
    """Return a new id, and a token that carries it."""
    new_id = "".join(secrets.choice(_LETTERS) for _ in range(8))
    return new_id, f"{kind}_{environment}_{new_id}_{secrets.token_urlsafe(32)}"
