"""Keeps secrets in HashiCorp Vault's KV engine, version 2: values there, and beside them which of them is in use.

    <mount>/data/<prefix>/<tenant>/<name>/value    the values; Vault numbers them, and destroys those that are removed
    <mount>/data/<prefix>/<tenant>/<name>/states   which version is current, pending or previous; written with
                                                   check-and-set, so that of several writers at once one succeeds

A value that was written, and whose state was not, is nobody's: it is in no list, and its number is passed over.
The mount must be of version 2 and not require check-and-set. Nothing is cached: what is removed is gone with the next
call. Redirects, proxies of the environment and answers that drip are refused; no error repeats what Vault said.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from urllib.parse import quote

import httpx

from orchestrator.domain import secret
from orchestrator.domain.errors import InvalidSecret, NotFound, SecretDamaged, SecretMoved, SecretsUnavailable
from orchestrator.domain.secret import Revealed, SecretState, SecretVersion
from orchestrator.telemetry import conceal
from orchestrator.vault.secrets import tell

_BODY_LIMIT_BYTES: Final = 1_000_000
_KEPT_VERSIONS: Final = 10_000
"""Vault keeps ten versions unless it is told otherwise, and drops the oldest, which may be the current one."""
_TRIES: Final = 8
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _States:
    """What stands beside the values, and the version of Vault under which it was read."""

    versions: tuple[SecretVersion, ...]
    read: int


class Record(Protocol):
    """Writes down that a version of a secret is about to change, and that it has."""

    def __call__(self, change: str, version: SecretVersion, by: str, *, done: bool) -> None:
        """Raise to keep the change from being made."""
        ...


def _unrecorded(change: str, version: SecretVersion, by: str, *, done: bool) -> None:
    """Write nothing down."""


class KvSecrets:
    """Secrets in a Vault, under one prefix of one mount; safe to share between threads."""

    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        *,
        mount: str = "secret",
        prefix: str = "orchestrator",
        timeout_s: float = 5.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        record: Record = _unrecorded,
    ) -> None:
        """What `record` cannot write down is not changed; it is asked before a change, and told after it."""
        self._token = token
        self._record = record
        self._mount = mount.strip("/")
        self._prefix = prefix.strip("/")
        self._timeout_s = timeout_s
        self._now = now
        self._client = httpx.Client(
            base_url=url.rstrip("/"), timeout=timeout_s, follow_redirects=False, trust_env=False
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def put(self, tenant: str, name: str, value: str, *, by: str, new: bool = False) -> SecretVersion:
        """Write a value that is in use at once. See the port for this and the others."""

        def decide(there: _States) -> None:
            if new:
                secret.creatable(there.versions, name)

        made = self._add(tenant, name, value, SecretState.CURRENT, by, "put", decide)
        self._done("put", made, by)
        return made

    def get(self, tenant: str, name: str, version: int | None = None) -> Revealed:
        """The value in the clear."""
        chosen = secret.one(self._states(tenant, secret.checked_name(name)).versions, name, version)
        found = self._ask("GET", f"data/{self._at(tenant, name)}/value?version={chosen.version}")
        value = _data(found).get("value") if found is not None else None
        if not isinstance(value, str):
            raise SecretDamaged(
                f"Vault has lost version {chosen.version} of the secret {name}; put it anew, or restore it there."
            )
        try:
            secret.checked_value(value)
        except InvalidSecret as error:
            # somebody else wrote it: one that is empty or short could not be told apart from other text
            raise SecretDamaged(f"The secret {name} in Vault cannot be used. {error}") from None
        conceal([value])
        return Revealed(chosen.version, value)

    def rotate(self, tenant: str, name: str, value: str, *, by: str) -> SecretVersion:
        """Write a value that is pending until it is promoted."""
        made = self._add(
            tenant,
            name,
            value,
            SecretState.PENDING,
            by,
            "rotated",
            lambda there: secret.rotatable(there.versions, name),
        )
        self._done("rotated", made, by)
        return made

    def promote(
        self, tenant: str, name: str, *, by: str, version: int | None = None, over: int | None = None
    ) -> SecretVersion:
        """Put a version into use."""
        secret.checked_name(name)
        for _ in range(_TRIES):
            there = self._states(tenant, name)
            chosen, current = secret.promotable(there.versions, name, version=version, over=over)
            moved = {chosen.version: SecretState.CURRENT, current.version: SecretState.PREVIOUS}
            after = [replace(v, state=moved.get(v.version, v.state)) for v in there.versions]
            self._record("promoted", chosen, by, done=False)
            if self._write_states(tenant, name, after, there.read):
                made = secret.one(after, name, None)
                self._done("promoted", made, by)
                return made
        raise _contended(name)

    def versions(self, tenant: str, name: str | None = None) -> Sequence[SecretVersion]:
        """The versions of one secret, or of all of a tenant's; raises `NotFound` for one that is not there."""
        if name is not None:
            found = self._states(tenant, name).versions if _PLAIN.fullmatch(name) else ()
            if not found:
                raise NotFound("secret", name)
            return found
        listed = self._ask("LIST", f"metadata/{self._at(tenant)}")
        keys = [] if listed is None else listed.get("data", {}).get("keys", [])
        names = sorted(str(key).rstrip("/") for key in keys)
        return [v for each in names if _PLAIN.fullmatch(each) for v in self._states(tenant, each).versions]

    def remove(
        self, tenant: str, name: str, version: int | None = None, *, by: str
    ) -> Sequence[SecretVersion]:
        """Remove a secret, or one of its versions; Vault destroys the values."""
        secret.checked_name(name)
        for _ in range(_TRIES):
            there = self._states(tenant, name)
            gone = secret.removable(there.versions, name, version)
            for each in gone:
                self._record("removed", each, by, done=False)
            if self._write_states(tenant, name, [v for v in there.versions if v not in gone], there.read):
                self._destroy(tenant, name, [v.version for v in gone])
                for each in gone:
                    self._done("removed", each, by)
                return gone
        raise _contended(name)

    def _done(self, change: str, version: SecretVersion, by: str) -> None:
        self._record(change, version, by, done=True)
        tell(change, version, by)

    # what is asked of Vault

    def _add(
        self,
        tenant: str,
        name: str,
        value: str,
        state: SecretState,
        by: str,
        change: str,
        decide: Callable[[_States], None],
    ) -> SecretVersion:
        """Write a value, then its state, unless `decide` raises for what is there by then."""
        secret.checked_name(name)
        secret.checked_value(value)
        conceal([value])
        place = self._at(tenant, name)
        there = self._states(tenant, name)
        decide(there)
        # which number Vault will give it is not known yet
        self._record(change, SecretVersion(tenant, name, 0, state, self._now(), by), by, done=False)
        if there.read == 0:
            self._ask("POST", f"metadata/{place}/value", {"max_versions": _KEPT_VERSIONS})
        written = _expected(self._ask("POST", f"data/{place}/value", {"data": {"value": value}}))
        number = written.get("data", {}).get("version")
        if not isinstance(number, int):
            raise _malformed()
        made = SecretVersion(tenant, name, number, state, self._now(), by)
        try:
            self._state_of_new(made, there, decide)
        except (SecretMoved, NotFound):
            self._destroy(tenant, name, [number])
            raise
        return made

    def _state_of_new(self, made: SecretVersion, there: _States, decide: Callable[[_States], None]) -> None:
        for _ in range(_TRIES):
            decide(there)
            before = [
                replace(v, state=SecretState.PREVIOUS)
                if made.state is SecretState.CURRENT and v.state is SecretState.CURRENT
                else v
                for v in there.versions
            ]
            if self._write_states(made.tenant, made.name, [*before, made], there.read):
                return
            there = self._states(made.tenant, made.name)
        raise _contended(made.name)

    def _states(self, tenant: str, name: str) -> _States:
        found = self._ask("GET", f"data/{self._at(tenant, name)}/states")
        if found is None:
            return _States((), 0)
        try:
            versions = tuple(
                SecretVersion(
                    tenant,
                    name,
                    int(number),
                    SecretState(told["state"]),
                    datetime.fromisoformat(told["created_at"]),
                    str(told["created_by"]),
                )
                for number, told in _data(found)["versions"].items()
            )
            read = int(found["data"]["metadata"]["version"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _malformed() from None
        return _States(tuple(sorted(versions, key=lambda v: v.version)), read)

    def _write_states(self, tenant: str, name: str, versions: Sequence[SecretVersion], read: int) -> bool:
        """Write what stands beside the values; `False` if somebody else did since it was read."""
        told = {
            str(v.version): {
                "state": v.state.value,
                "created_at": v.created_at.isoformat(),
                "created_by": v.created_by,
            }
            for v in versions
        }
        body = {"options": {"cas": read}, "data": {"versions": told}}
        return self._ask("POST", f"data/{self._at(tenant, name)}/states", body, stale=True) is not None

    def _destroy(self, tenant: str, name: str, versions: Sequence[int]) -> None:
        self._ask("POST", f"destroy/{self._at(tenant, name)}/value", {"versions": list(versions)})

    def _at(self, tenant: str, name: str | None = None) -> str:
        # a tenant's name may hold anything; what could be read as a path is spelt in hexadecimal
        folder = tenant if _PLAIN.fullmatch(tenant) else f"~{tenant.encode().hex()}"
        parts = [self._prefix, folder, *([name] if name is not None else [])]
        return "/".join(quote(part, safe="/~") for part in parts if part)

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, stale: bool = False
    ) -> Mapping[str, Any] | None:
        """Return what Vault answers; `None` where there is nothing, or with `stale` where a check-and-set failed."""
        status, text = self._exchange(method, f"/v1/{self._mount}/{path}", body)
        if status in {200, 204}:
            return _parsed(text)
        if status == 404 and method in {"GET", "LIST"}:
            return None
        if status == 400 and stale and b"check-and-set" in text:
            return None
        raise SecretsUnavailable(_why(status))

    def _exchange(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, bytes]:
        give_up = time.monotonic() + self._timeout_s
        answer = bytearray()
        headers = {"X-Vault-Token": self._token(), "X-Vault-Request": "true"}
        try:
            with self._client.stream(method, path, json=body, headers=headers) as reply:
                for chunk in reply.iter_bytes():
                    answer += chunk
                    if len(answer) > _BODY_LIMIT_BYTES:
                        raise SecretsUnavailable("Vault answered with more than a secret can be.")
                    if time.monotonic() > give_up:
                        raise SecretsUnavailable(
                            f"Vault did not finish its answer within {self._timeout_s:g} s."
                        )
                return reply.status_code, bytes(answer)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # the error's own words may hold the address, and with it a password
            raise SecretsUnavailable(
                f"Vault does not answer at the configured address ({type(error).__name__})."
            ) from None


def _why(status: int) -> str:
    if status == 403:
        return "Vault does not let this program in (403): its token has ended, or its policy lacks this path."
    if status == 404:
        return "Vault has no such path (404): check vault_mount, which must be a KV engine of version 2."
    if status == 503:
        return "Vault is sealed or not ready (503); unseal it, or wait."
    if 300 <= status < 400:
        return f"Vault redirects ({status}), which is not followed; name the active server in vault_url."
    return f"Vault answered with status {status}."


def _parsed(text: bytes) -> Mapping[str, Any]:
    if not text:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise _malformed() from None
    if not isinstance(value, dict):
        raise _malformed()
    return value


def _data(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    outer = answer.get("data")
    inner = outer.get("data") if isinstance(outer, dict) else None
    if not isinstance(inner, dict):
        raise _malformed()
    return inner


def _expected(answer: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if answer is None or not isinstance(answer.get("data"), dict):
        raise _malformed()
    return answer


def _malformed() -> SecretsUnavailable:
    return SecretsUnavailable(
        "What answers at vault_url does not speak Vault's KV protocol, version 2; check vault_url and vault_mount."
    )


def _contended(name: str) -> SecretMoved:
    return SecretMoved(f"Others keep changing the secret {name}; look at its versions, and try again.")
