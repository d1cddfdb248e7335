"""Keeps secrets in the store, where only their ciphertext is; says who changed which, and never what they are.

    master key (a file, or the environment)  ── wraps ──▶  a data key per tenant  ── seals ──▶  each version's value

    wrapped  =  nonce ‖ AES-256-GCM(master key, data key,  with tenant)
    sealed   =  nonce ‖ AES-256-GCM(data key,   value,     with tenant, name, version)

What is bound in with a value cannot be moved: a row that is copied to another tenant, name or version does not open.
Whoever has the database has nothing without the master key; a new master key wraps the data keys again and leaves the
values as they are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orchestrator.domain import secret
from orchestrator.domain.errors import Misconfigured, NotFound, SecretDamaged, SecretMoved
from orchestrator.domain.secret import Revealed, SealedVersion, SecretState, SecretVersion, WrappedKey
from orchestrator.ports import Store, Tx
from orchestrator.telemetry import conceal, log

_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32


class MasterKeys:
    """The keys that wrap data keys: the first wraps, all of them unwrap.

    They are read when first needed, and again when one is asked for that is not known: another process may have made
    a newer one since.
    """

    def __init__(self, read: Callable[[], Sequence[bytes]]) -> None:
        self._read = read
        self._keys: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"MasterKeys({', '.join(self._keys) or 'unread'})"

    @property
    def newest(self) -> str:
        """The id of the key that wraps."""
        if not self._keys:
            self._load()
        return next(iter(self._keys))

    def load(self) -> None:
        """Read the keys again, so that the newest is the newest there is."""
        self._load()

    def wrap(self, tenant: str, data_key: bytes) -> WrappedKey:
        """Return a data key as it may be stored."""
        newest = self.newest
        return WrappedKey(tenant, _seal(self._keys[newest], data_key, _bound("data key", tenant)), newest)

    def unwrap(self, key: WrappedKey) -> bytes:
        """Return the data key, or raise `SecretDamaged`."""
        if key.master not in self._keys:
            self._load()
        if key.master not in self._keys:
            raise SecretDamaged(
                f"The data key of tenant {key.tenant} is wrapped with master key {key.master}, which is not at hand; "
                "put that key back into the file of master keys, below the newest."
            )
        try:
            return _open(self._keys[key.master], key.wrapped, _bound("data key", key.tenant))
        except InvalidTag:
            raise SecretDamaged(
                f"The data key of tenant {key.tenant} was altered; restore the table data_key from a backup."
            ) from None

    def _load(self) -> None:
        keys = self._read()
        if not keys or any(len(key) != _KEY_BYTES for key in keys):
            raise Misconfigured("The master key of the secrets is damaged; restore it from a backup.")
        self._keys = {key_id(key): key for key in keys}


def key_id(master: bytes) -> str:
    """Return the name under which a master key is spoken of."""
    return hashlib.sha256(b"orchestrator master key" + master).hexdigest()[:12]


Record: TypeAlias = Callable[[Tx, str, SecretVersion, str], None]
"""Writes down in a change's own transaction what was changed, of which version, and by whom."""


class SealedSecrets:
    """Secrets in the store, sealed; a change that `record` cannot write down is not made."""

    def __init__(self, store: Store, keys: MasterKeys, *, record: Record = lambda *_: None) -> None:
        self._store = store
        self._keys = keys
        self._record = record

    def put(self, tenant: str, name: str, value: str, *, by: str, new: bool = False) -> SecretVersion:
        """Write a value that is in use at once. See the port for this and the others."""
        secret.checked_name(name)
        secret.checked_value(value)
        conceal([value])
        with self._store.transaction() as tx:
            number = tx.lock_secret(tenant, name) + 1
            there = _told(tx, tenant, name)
            if new:
                secret.creatable(there, name)
            current = secret.in_state(there, SecretState.CURRENT)
            if current is not None:
                tx.move_secret(tenant, name, current.version, SecretState.CURRENT, SecretState.PREVIOUS)
            made = SecretVersion(tenant, name, number, SecretState.CURRENT, tx.now(), by)
            self._write(tx, made, value)
            self._record(tx, "put", made, by)
        tell("put", made, by)
        return made

    def get(self, tenant: str, name: str, version: int | None = None) -> Revealed:
        """The value in the clear; raises `SecretDamaged` where it does not open."""
        with self._store.transaction() as tx:
            rows = {row.told: row for row in tx.secret_versions(tenant, name)}
            chosen = secret.one(tuple(rows), name, version)
            data_key = tx.data_key(tenant)
        if data_key is None:
            raise SecretDamaged(
                f"Tenant {tenant} has secrets and no data key; restore the table data_key from a backup."
            )
        try:
            value = _open(self._keys.unwrap(data_key), rows[chosen].sealed, _place(chosen))
        except InvalidTag:
            raise SecretDamaged(
                f"Version {chosen.version} of the secret {name} was altered; put it anew, or restore a backup."
            ) from None
        conceal([value.decode()])
        return Revealed(chosen.version, value.decode())

    def rotate(self, tenant: str, name: str, value: str, *, by: str) -> SecretVersion:
        """Write a value that is pending until it is promoted."""
        secret.checked_name(name)
        secret.checked_value(value)
        conceal([value])
        with self._store.transaction() as tx:
            number = tx.lock_secret(tenant, name) + 1
            secret.rotatable(_told(tx, tenant, name), name)
            made = SecretVersion(tenant, name, number, SecretState.PENDING, tx.now(), by)
            self._write(tx, made, value)
            self._record(tx, "rotated", made, by)
        tell("rotated", made, by)
        return made

    def promote(
        self, tenant: str, name: str, *, by: str, version: int | None = None, over: int | None = None
    ) -> SecretVersion:
        """Put a version into use."""
        with self._store.transaction() as tx:
            tx.lock_secret(tenant, secret.checked_name(name))
            there = _told(tx, tenant, name)
            chosen, current = secret.promotable(there, name, version=version, over=over)
            made = replace(chosen, state=SecretState.CURRENT)
            moved = tx.move_secret(
                tenant, name, current.version, SecretState.CURRENT, SecretState.PREVIOUS
            ) and tx.move_secret(tenant, name, chosen.version, chosen.state, SecretState.CURRENT)
            if not moved:
                raise SecretMoved(f"Somebody else changed the secret {name} first; look at its versions.")
            self._record(tx, "promoted", made, by)
        tell("promoted", made, by)
        return made

    def versions(self, tenant: str, name: str | None = None) -> Sequence[SecretVersion]:
        """The versions of one secret, or of all of a tenant's; raises `NotFound` for one that is not there."""
        with self._store.transaction() as tx:
            found = _told(tx, tenant, name)
        if name is not None and not found:
            raise NotFound("secret", name)
        return found

    def remove(
        self, tenant: str, name: str, version: int | None = None, *, by: str
    ) -> Sequence[SecretVersion]:
        """Remove a secret, or one of its versions."""
        with self._store.transaction() as tx:
            tx.lock_secret(tenant, secret.checked_name(name))
            gone = secret.removable(_told(tx, tenant, name), name, version)
            for each in gone:
                tx.remove_secret_version(tenant, name, each.version)
                self._record(tx, "removed", each, by)
        for each in gone:
            tell("removed", each, by)
        return gone

    def rewrap(self) -> int:
        """Wrap every data key with the newest master key; returns how many were wrapped with another before."""
        self._keys.load()
        changed = 0
        with self._store.transaction() as tx:
            for kept in tx.data_keys():
                if kept.master != self._keys.newest:
                    fresh = self._keys.wrap(kept.tenant, self._keys.unwrap(kept))
                    changed += tx.rewrap_data_key(fresh, was=kept.master)
        return changed

    def _write(self, tx: Tx, made: SecretVersion, value: str) -> None:
        data_key = tx.data_key(made.tenant)
        if data_key is None:
            tx.add_data_key(self._keys.wrap(made.tenant, os.urandom(_KEY_BYTES)))
            data_key = tx.data_key(made.tenant)  # that of whoever was first
        assert data_key is not None  # noqa: S101 - it was written two lines above, or before
        tx.add_secret_version(
            SealedVersion(made, _seal(self._keys.unwrap(data_key), value.encode(), _place(made)))
        )


def tell(change: str, version: SecretVersion, by: str) -> None:
    """Log that a version of a secret changed, and by whose hand."""
    log.warning(
        "secret.changed",
        change=change,
        tenant=version.tenant,
        name=version.name,
        version=version.version,
        state=version.state.value,
        by=by,
    )


def _told(tx: Tx, tenant: str, name: str | None) -> tuple[SecretVersion, ...]:
    return tuple(row.told for row in tx.secret_versions(tenant, name))


def _place(version: SecretVersion) -> bytes:
    return _bound("secret", version.tenant, version.name, str(version.version))


def _bound(*parts: str) -> bytes:
    """What is authenticated beside a ciphertext; no two lists of parts make the same bytes."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def _seal(key: bytes, plain: bytes, place: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, place)


def _open(key: bytes, sealed: bytes, place: bytes) -> bytes:
    if len(sealed) <= _NONCE_BYTES:
        raise InvalidTag
    return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place)
