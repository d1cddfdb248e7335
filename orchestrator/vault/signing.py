"""Signs checkpoints with Ed25519, and remembers the public key of every signer there was.

The ring of public keys is a file of JSON lines that anybody may read. Each key after the first is endorsed by the one
before it, so that whoever has kept the first line can tell a rotation from a stranger. Old keys go on verifying.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from orchestrator.domain.errors import Misconfigured
from orchestrator.domain.plan import canonical

_ENDORSED = b"orchestrator.key/v1\n"


class Signed(StrEnum):
    """What a signature turned out to be."""

    WELL = "well"
    BADLY = "badly"
    BY_NOBODY_KNOWN = "by nobody known"


def id_of(public: bytes) -> str:
    """Return the name of a public key, which follows from it."""
    return f"ed-{hashlib.sha256(public).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Signer:
    """Holds one private key; it is never printed."""

    seed: bytes = field(repr=False)

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    @property
    def key_id(self) -> str:
        """The name of the public key."""
        return id_of(self.public)

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        return self._key.sign(message)

    @property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


@dataclass(frozen=True, slots=True)
class Ring:
    """The public keys that are believed, by their names, the newest last."""

    keys: Mapping[str, bytes]

    def check(self, key_id: str, message: bytes, signature: bytes) -> Signed:
        """Say whether the key of that name signed this message."""
        public = self.keys.get(key_id)
        if public is None:
            return Signed.BY_NOBODY_KNOWN
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        except InvalidSignature:
            return Signed.BADLY
        return Signed.WELL


def read(text: str) -> Ring:
    """Return the ring of a file's text. Raises `Misconfigured` for a line that is damaged, or a key nobody endorsed."""
    keys: dict[str, bytes] = {}
    for number, line in enumerate(filter(str.strip, text.splitlines()), start=1):
        try:
            found = json.loads(line)
            public, endorsement = bytes.fromhex(found["public"]), bytes.fromhex(found["endorsement"])
            named, by = str(found["key_id"]), str(found["endorsed_by"])
        except (ValueError, KeyError, TypeError) as error:
            raise Misconfigured(f"Line {number} of the public keys is damaged; restore the file.") from error
        if named != id_of(public):
            raise Misconfigured(f"Line {number} of the public keys gives a key a name that is not its own.")
        if keys and Ring(keys).check(by, _ENDORSED + public, endorsement) is not Signed.WELL:
            raise Misconfigured(f"Key {named} in line {number} is endorsed by none of the keys before it.")
        keys[named] = public
    if not keys:
        raise Misconfigured("The file of public keys holds none; `orchestrator audit keys` prints them.")
    return Ring(keys)


def line(public: bytes, *, by: Signer | None, since: str) -> str:
    """Return the line that adds a key to a ring, endorsed by the signer before it; the first has none."""
    made = {
        "key_id": id_of(public),
        "public": public.hex(),
        "since": since,
        "endorsed_by": by.key_id if by else "",
        "endorsement": by.sign(_ENDORSED + public).hex() if by else "",
    }
    return canonical(made).decode() + "\n"
