"""Signed checkpoints: what the ends of all chains were at a time, so that nobody can change it later unseen.

    record ──fold──▶ leaf (chain, count, head, fold) ──tree──▶ root ──signed, with the one before──▶ checkpoint

Each checkpoint holds the chains that grew since the one before, and names that one by its hash; together they say of
every chain where it stood. The fold of a chain needs no key, so that whoever has the public key can check a record:

    fold(0) = 32 zero bytes        fold(n) = SHA-256(02 ‖ fold(n-1) ‖ SHA-256(00 ‖ record n))
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.domain.plan import AuditRecord, Json, canonical
from orchestrator.vault import merkle
from orchestrator.vault.signing import Ring, Signed, Signer

FORM: Final = "orchestrator.checkpoint/v1"
NOTHING: Final = bytes(32)
"""The fold of no records, and what the first checkpoint follows."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where one chain stood: how many records, the seal of the last, and the fold of them all."""

    chain: str
    count: int
    head: bytes
    fold: bytes

    def as_json(self) -> list[Json]:
        """Return it as it stands in files."""
        return [self.chain, self.count, self.head.hex(), self.fold.hex()]

    def hashed(self) -> bytes:
        """Return its hash in the tree."""
        return merkle.leaf(canonical(self.as_json()))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One signed statement about chains, and the leaves that it is about."""

    number: int
    at: str
    prev: bytes
    root: bytes
    size: int
    key_id: str
    signature: bytes
    leaves: tuple[Leaf, ...]

    def body(self) -> dict[str, Json]:
        """Return what is signed."""
        return {
            "form": FORM,
            "number": self.number,
            "at": self.at,
            "prev": self.prev.hex(),
            "chains": self.size,
            "root": self.root.hex(),
        }

    def message(self) -> bytes:
        """Return the bytes that are signed."""
        return message(self.body())

    def identity(self) -> bytes:
        """Return the hash by which the next one names this one."""
        return hashlib.sha256(self.message()).digest()

    def line(self) -> bytes:
        """Return it as one line of JSON, for the database and for the file."""
        leaves: list[Json] = [leaf.as_json() for leaf in self.leaves]
        signed = {"key_id": self.key_id, "signature": self.signature.hex()}
        return canonical({"checkpoint": self.body(), **signed, "leaves": leaves}) + b"\n"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that does not hold: its name, the chain or checkpoint where it shows, and a sentence."""

    name: str
    said: str
    chain: str = ""
    record: int = 0


def message(body: object) -> bytes:
    """Return the bytes that are signed for a checkpoint's body."""
    return f"{FORM}\n".encode() + canonical(body)


def digest_of(record: AuditRecord) -> bytes:
    """Return the hash of everything that a record says."""
    parts: list[Json] = [
        record.chain,
        record.number,
        record.kind,
        record.body.hex(),
        record.prev.hex(),
        record.mac.hex(),
        record.key_id,
    ]
    return merkle.leaf(canonical(parts))


def fold(before: bytes, digests: Iterable[bytes]) -> bytes:
    """Return the fold of a chain to which records with these digests were added."""
    for digest in digests:
        before = hashlib.sha256(b"\x02" + before + digest).digest()
    return before


def make(signer: Signer, leaves: Sequence[Leaf], *, at: str, after: Checkpoint | None) -> Checkpoint:
    """Return the signed checkpoint of these leaves that follows another, or is the first."""
    ordered = tuple(sorted(leaves, key=lambda leaf: leaf.chain))
    made = Checkpoint(
        number=after.number + 1 if after else 1,
        at=at,
        prev=after.identity() if after else NOTHING,
        root=merkle.root([leaf.hashed() for leaf in ordered]),
        size=len(ordered),
        key_id=signer.key_id,
        signature=b"",
        leaves=ordered,
    )
    return _signed(made, signer.sign(made.message()))


def _signed(made: Checkpoint, signature: bytes) -> Checkpoint:
    return Checkpoint(
        made.number, made.at, made.prev, made.root, made.size, made.key_id, signature, made.leaves
    )


def read(line: bytes) -> Checkpoint:
    """Return the checkpoint of a line. Raises `ValueError` when the line is not of the form."""
    try:
        found = json.loads(line)
        body = found["checkpoint"]
        leaves = tuple(
            Leaf(str(chain), int(count), bytes.fromhex(head), bytes.fromhex(folded))
            for chain, count, head, folded in found["leaves"]
        )
        made = Checkpoint(
            number=int(body["number"]),
            at=str(body["at"]),
            prev=bytes.fromhex(body["prev"]),
            root=bytes.fromhex(body["root"]),
            size=int(body["chains"]),
            key_id=str(found["key_id"]),
            signature=bytes.fromhex(found["signature"]),
            leaves=leaves,
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("this line is not a checkpoint") from error
    if made.line().rstrip(b"\n") != bytes(line).rstrip(b"\n"):
        raise ValueError("this line is not a checkpoint as it is written")
    return made


def fault_of(checkpoint: Checkpoint, ring: Ring, where: str) -> Fault | None:
    """Return what is wrong with one checkpoint by itself, or `None`."""
    named = f"checkpoint {checkpoint.number} in {where}"
    match ring.check(checkpoint.key_id, checkpoint.message(), checkpoint.signature):
        case Signed.BY_NOBODY_KNOWN:
            return Fault(
                "signer_unknown", f"{named} is signed with key {checkpoint.key_id}, which is not known"
            )
        case Signed.BADLY:
            return Fault("signature_wrong", f"{named} was altered: its signature is not that of its text")
        case Signed.WELL:
            pass
    root = merkle.root([leaf.hashed() for leaf in checkpoint.leaves])
    if root != checkpoint.root or len(checkpoint.leaves) != checkpoint.size:
        return Fault("leaves_altered", f"{named} was altered: its chains are not those that were signed")
    return None
