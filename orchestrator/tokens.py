"""Verifies tokens of an OpenID Connect provider: signed by one of its keys, for us, by it, and in force.

    header ── algorithm among those pinned? ── key of that id, of the kind that the algorithm needs?
    claims ── exp iat sub aud iss all there? ── for us, from the issuer, in force within the leeway?
    then   ── name, tenant and roles from the claims that the settings name, and from nothing else

The algorithm never comes from the token: its header may only choose among asymmetric ones that the settings pin, and
the key decides whether that fits. A token by `none`, or by HMAC under a public key, is signed by nobody.

The provider's keys are fetched when they are first needed, kept for five minutes, and fetched once more for a key id
that is not among them, at most every half minute: a caller cannot make us ask the provider at will. While the
provider is down, keys that are known are trusted for an hour, and tokens by others cannot be judged.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import jwt

from orchestrator.domain import identity
from orchestrator.domain.errors import Invalid, Misconfigured, Unavailable
from orchestrator.domain.identity import Principal
from orchestrator.telemetry import log

ALGORITHMS: Final[Mapping[str, tuple[str, str | None]]] = {
    "RS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""What may be pinned, and the kind and curve of key that each needs. No symmetric one: whoever verifies could sign."""

FRESH_S: Final = 300.0
STALE_S: Final = 3600.0
PAUSE_S: Final = 30.0
"""How long fetched keys are used unasked, how long while the provider is down, and how long between two fetches for
unknown ids, in seconds."""

LONGEST: Final = 8192
"""Characters of a token that are looked at."""

_TIMEOUT_S: Final = 3.0
_MOST_BYTES: Final = 256 * 1024
_MOST_KEYS: Final = 100
_LEAST_RSA_BITS: Final = 2048
_REQUIRED: Final = ("exp", "iat", "sub", "aud", "iss")
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


class Unproven(Exception):
    """A token that proves nobody; the message is for the log, never for whoever sent it."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose tokens are believed, for whom they must be made, and which claims say what."""

    issuer: str
    audience: str
    jwks_url: str
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    leeway_s: float = 30.0
    roles_claim: str = "roles"
    role_prefix: str = ""
    tenant_claim: str = "tenant"

    def __post_init__(self) -> None:
        if not (self.issuer and self.audience and self.jwks_url):
            raise Misconfigured(
                "Tokens need all three of the settings oidc_issuer, oidc_audience and oidc_jwks_url; one is empty."
            )
        unknown = set(self.algorithms) - set(ALGORITHMS)
        if unknown or not self.algorithms:
            raise Misconfigured(
                f"Setting 'oidc_algorithms': it takes {', '.join(ALGORITHMS)}, at least one, and no others."
            )
        url = urlsplit(self.jwks_url)
        near = url.hostname in {"127.0.0.1", "::1", "localhost"}
        if url.scheme != "https" and not (url.scheme == "http" and near):
            raise Misconfigured(
                "Setting 'oidc_jwks_url' must begin with https://: whoever could change keys on the way could be anybody."
            )


class Issuer:
    """One provider, whose tokens can be verified; safe to share between threads."""

    def __init__(self, trust: Trust, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._trust = trust
        self._clock = clock
        self._guard = threading.Lock()
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched: float | None = None
        self._tried: float | None = None

    def proved(self, token: str) -> Principal:
        """Return whom a token speaks for. Raises `Unproven`, or `Unavailable` when the provider's keys cannot be had."""
        if len(token) > LONGEST or not _FORM.fullmatch(token):
            raise Unproven("it has not the form of a token")
        trust = self._trust
        try:
            header = jwt.get_unverified_header(token)
            algorithm, key_id = header.get("alg"), header.get("kid")
            if algorithm not in trust.algorithms:
                raise Unproven("its algorithm is not one of those pinned")
            if not isinstance(key_id, str) or not key_id:
                raise Unproven("it names no key")
            claims = jwt.decode(
                token,
                self._key(key_id, algorithm).key,
                algorithms=[algorithm],
                audience=trust.audience,
                issuer=trust.issuer,
                leeway=trust.leeway_s,
                options={"require": list(_REQUIRED)},
            )
        except jwt.PyJWTError as error:
            raise Unproven(str(error)) from error
        except (ValueError, TypeError, RecursionError) as error:
            raise Unproven(f"it cannot be read: {type(error).__name__}") from error
        return self._principal(claims)

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        trust = self._trust
        try:
            name = identity.name(_text(claims, "sub"))
            tenant = identity.tenant(_text(claims, trust.tenant_claim))
            given = _words(_at(claims, trust.roles_claim))
            roles = identity.roles(
                [role.removeprefix(trust.role_prefix) for role in given if role.startswith(trust.role_prefix)]
            )
            until = datetime.fromtimestamp(int(claims["exp"]), UTC)
        except (Invalid, OverflowError, OSError, ValueError) as error:
            raise Unproven(f"its claims cannot be used: {error}") from error
        return Principal(name, tenant, frozenset(roles), kind="token", until=until)

    # keys

    def _key(self, key_id: str, algorithm: str) -> jwt.PyJWK:
        found = self._known(key_id)
        if found is None:
            raise Unproven("its key is none of the issuer's")
        if found.algorithm_name != algorithm:
            raise Unproven("its algorithm does not fit its key")
        return found

    def _known(self, key_id: str) -> jwt.PyJWK | None:
        with self._guard:
            now = self._clock()
            fresh = self._fetched is not None and now - self._fetched < FRESH_S
            if fresh and key_id in self._keys:
                return self._keys[key_id]
            waited = self._tried is None or now - self._tried >= PAUSE_S
            if waited:
                self._tried = now
                try:
                    self._keys, self._fetched = self._fetch(), now
                except Unavailable as error:
                    log.warning("issuer.unavailable", error=str(error))
            if self._fetched is None or now - self._fetched >= STALE_S:
                raise Unavailable("The keys of whoever issued this token cannot be had now; try again soon.")
            return self._keys.get(key_id)

    def _fetch(self) -> Mapping[str, jwt.PyJWK]:
        body = bytearray()
        until = time.monotonic() + _TIMEOUT_S
        try:
            with (
                httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False) as http,
                http.stream("GET", self._trust.jwks_url) as answer,
            ):
                if answer.status_code != 200:
                    raise Unavailable(f"The issuer answered {answer.status_code} where its keys should be.")
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > _MOST_BYTES or time.monotonic() > until:
                        raise Unavailable("The issuer's keys are too many, or come too slowly.")
            listed = json.loads(body)["keys"]
            if not isinstance(listed, list):
                raise Unavailable("What the issuer gave are no keys.")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"The issuer does not answer: {type(error).__name__}.") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Unavailable("What the issuer gave are no keys.") from error
        return dict(filter(None, map(_usable, listed[:_MOST_KEYS])))


def _usable(given: Any) -> tuple[str, jwt.PyJWK] | None:
    """Return a key under its id, if it is one that may sign tokens; others in the set are somebody else's."""
    if not isinstance(given, dict) or not isinstance(given.get("kid"), str):
        return None
    kind = (given.get("kty"), given.get("crv"))
    algorithm = next((name for name, needed in ALGORITHMS.items() if needed == kind), None)
    if algorithm is None or given.get("use", "sig") != "sig" or given.get("alg", algorithm) != algorithm:
        return None
    try:
        key = jwt.PyJWK(given, algorithm=algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if given["kty"] == "RSA" and key.key.key_size < _LEAST_RSA_BITS:
        return None
    return given["kid"], key


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that name, or what lies at that path: `realm_access.roles`."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _text(claims: Mapping[str, Any], path: str) -> str:
    found = _at(claims, path)
    if not isinstance(found, str):
        raise Invalid(f"the claim {path} is missing or no text.")
    return found


def _words(found: Any) -> Sequence[str]:
    """Roles as a list, or as words in one text; none where the claim is missing."""
    if found is None:
        return []
    words = found.split() if isinstance(found, str) else found
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise Invalid("the roles are no list of texts.")
    return words
