"""Seals audit records into a chain per plan, and says where a chain is broken.

    mac = HMAC-SHA256(key, prev ‖ number ‖ len(chain) chain ‖ len(kind) kind ‖ SHA-256(body))

The first record's `prev` is empty. Whoever lacks the key cannot re-seal what they changed; a record that is gone,
moved or doubled breaks the numbering; a tail that was cut is missed by the head that the plan's row remembers.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.domain.plan import AuditRecord, Json, canonical


@dataclass(frozen=True, slots=True)
class Break:
    """The first place where a chain does not hold, and how; `name` is one of `examine.FAULTS`."""

    chain: str
    number: int
    fault: str
    name: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Sealer:
    """Holds one key, named by `key_id`; the key itself is never written anywhere by this product's logs."""

    key: bytes
    key_id: str = "k1"

    def __repr__(self) -> str:
        return f"Sealer(key_id={self.key_id!r})"

    def blind(self, value: object) -> str:
        """Return a digest of a value, in hex, that nobody can guess it from who lacks the key."""
        own = hmac.new(self.key, b"orchestrator.redaction/v1", hashlib.sha256).digest()
        return hmac.new(own, canonical(value), hashlib.sha256).hexdigest()

    def seal(
        self, *, chain: str, number: int, kind: str, body: Mapping[str, Json], prev: bytes
    ) -> AuditRecord:
        """Return the record that follows `prev` in the chain."""
        text = canonical(body)
        return AuditRecord(
            chain, number, kind, text, prev, self._mac(chain, number, kind, text, prev), self.key_id
        )

    def verify(self, chain: str, records: Sequence[AuditRecord], *, count: int, head: bytes) -> Break | None:
        """Return the first break of a chain whose plan remembers `count` records ending in `head`, or `None`."""
        prev = b""
        for expected, record in enumerate(records, start=1):
            if record.number != expected:
                gone = "missing" if record.number > expected else "doubled"
                return Break(chain, expected, f"record {expected} is {gone}", f"record_{gone}")
            if record.prev != prev:
                return Break(
                    chain,
                    expected,
                    f"record {expected} ({record.kind}) does not follow the one before it",
                    "record_moved",
                )
            if record.key_id != self.key_id:
                return Break(
                    chain,
                    expected,
                    f"record {expected} is sealed with key {record.key_id}, which is not at hand",
                    "key_missing",
                )
            sealed = self._mac(record.chain, record.number, record.kind, record.body, record.prev)
            if record.chain != chain or not hmac.compare_digest(sealed, record.mac):
                return Break(
                    chain, expected, f"record {expected} ({record.kind}) was altered", "record_altered"
                )
            prev = record.mac
        if len(records) < count:
            return Break(
                chain,
                len(records) + 1,
                f"record {len(records) + 1} is missing: {count} were written",
                "tail_cut",
            )
        if len(records) > count or prev != head:
            said = f"the chain does not end where plan {chain} says that it ends"
            return Break(chain, len(records), said, "head_differs")
        return None

    def _mac(self, chain: str, number: int, kind: str, body: bytes, prev: bytes) -> bytes:
        sealed = b"".join(
            (
                len(prev).to_bytes(2, "big"),
                prev,
                number.to_bytes(8, "big"),
                _sized(chain),
                _sized(kind),
                hashlib.sha256(body).digest(),
            )
        )
        return hmac.new(self.key, sealed, hashlib.sha256).digest()


def _sized(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(4, "big") + data
