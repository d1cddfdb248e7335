"""Proofs and exports that anybody can check who has the public key: no database, and no key that could forge.

A proof leads from one record through the fold of its chain and the tree of a checkpoint to its signature. An export has
records and the checkpoints that cover them, and a signed manifest with the digest of it all.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from orchestrator.domain.errors import Invalid
from orchestrator.domain.plan import AuditRecord, Json, canonical
from orchestrator.vault import checkpoint, examine, merkle
from orchestrator.vault.checkpoint import NOTHING, Checkpoint, Fault, Leaf
from orchestrator.vault.signing import Ring, Signed, Signer

PROOF: Final = "orchestrator.proof/v1"
EXPORT: Final = "orchestrator.export/v1"


def prove(records: Sequence[AuditRecord], number: int, covering: Checkpoint) -> dict[str, Json]:
    """Return the proof that a chain's record `number` is under a checkpoint that covers it."""
    index = next(at for at, leaf in enumerate(covering.leaves) if leaf.chain == records[0].chain)
    leaf = covering.leaves[index]
    digests = [checkpoint.digest_of(record) for record in records[: leaf.count]]
    return {
        "form": PROOF,
        "record": record_json(records[number - 1]),
        "before": checkpoint.fold(NOTHING, digests[: number - 1]).hex(),
        "after": [digest.hex() for digest in digests[number:]],
        "leaf": leaf.as_json(),
        "index": index,
        "path": [step.hex() for step in merkle.path([one.hashed() for one in covering.leaves], index)],
        "checkpoint": covering.body(),
        "key_id": covering.key_id,
        "signature": covering.signature.hex(),
    }


def check(proof: Mapping[str, Any], ring: Ring) -> Fault | None:
    """Return what a proof fails by, or `None` when it holds. Raises `Invalid` when it is not of the form."""
    try:
        record = record_of(proof["record"])
        chain, count, head, folded = proof["leaf"]
        leaf = Leaf(str(chain), int(count), bytes.fromhex(head), bytes.fromhex(folded))
        digests = [checkpoint.digest_of(record), *map(bytes.fromhex, proof["after"])]
        found = checkpoint.fold(bytes.fromhex(proof["before"]), digests)
        size, root = int(proof["checkpoint"]["chains"]), bytes.fromhex(proof["checkpoint"]["root"])
        path = [bytes.fromhex(step) for step in proof["path"]]
        message, signature = checkpoint.message(proof["checkpoint"]), bytes.fromhex(proof["signature"])
        key_id, index = str(proof["key_id"]), int(proof["index"])
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid(f"This is not a proof as `orchestrator audit prove` prints it: {error}") from error
    match ring.check(key_id, message, signature):
        case Signed.BY_NOBODY_KNOWN:
            return Fault("signer_unknown", f"the checkpoint is signed with key {key_id}, which is not known")
        case Signed.BADLY:
            return Fault(
                "signature_wrong", "the checkpoint was altered: its signature is not that of its text"
            )
        case Signed.WELL:
            pass
    if merkle.climb(leaf.hashed(), index=index, size=size, path=path) != root:
        return Fault("leaves_altered", "the checkpoint does not cover this chain", leaf.chain)
    if record.chain != leaf.chain or len(digests) != leaf.count - record.number + 1 or found != leaf.fold:
        return Fault(
            "record_altered", "the record is not the one that was signed for", leaf.chain, record.number
        )
    return None


def record_json(record: AuditRecord) -> dict[str, Json]:
    """Return a record as it stands in proofs and exports; the body is the text that was sealed."""
    return {
        "chain": record.chain,
        "number": record.number,
        "kind": record.kind,
        "body": record.body.decode("utf-8", "surrogateescape"),
        "prev": record.prev.hex(),
        "mac": record.mac.hex(),
        "key_id": record.key_id,
    }


def record_of(found: Mapping[str, Any]) -> AuditRecord:
    """Return the record that a proof or an export holds; raises what a malformed one provokes."""
    return AuditRecord(
        chain=str(found["chain"]),
        number=int(found["number"]),
        kind=str(found["kind"]),
        body=str(found["body"]).encode("utf-8", "surrogateescape"),
        prev=bytes.fromhex(found["prev"]),
        mac=bytes.fromhex(found["mac"]),
        key_id=str(found["key_id"]),
    )


def record_line(record: AuditRecord) -> bytes:
    """Return a record as a line of an export."""
    return json.dumps({"record": record_json(record)}, sort_keys=True).encode() + b"\n"


def manifest(signer: Signer, *, digest: str, counts: Mapping[str, Json], at: str) -> dict[str, Json]:
    """Return the signed statement about an export's bytes."""
    body: dict[str, Json] = {"form": EXPORT, "sha256": digest, "at": at, **counts}
    signature = signer.sign(_export_message(body))
    return {"export": body, "key_id": signer.key_id, "signature": signature.hex()}


def check_export(stated: Mapping[str, Any], text: bytes, ring: Ring) -> tuple[int, list[Fault]]:
    """Return how many records an export has, and what it fails by. Raises `Invalid` for what is not of the form."""
    try:
        body, key_id = stated["export"], str(stated["key_id"])
        signed = ring.check(key_id, _export_message(body), bytes.fromhex(stated["signature"]))
        digest = str(body["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid(f"This is not a manifest as `orchestrator audit export` writes it: {error}") from error
    faults = []
    if signed is Signed.BY_NOBODY_KNOWN:
        faults.append(
            Fault("signer_unknown", f"the manifest is signed with key {key_id}, which is not known")
        )
    elif signed is Signed.BADLY:
        faults.append(
            Fault("signature_wrong", "the manifest was altered: its signature is not that of its text")
        )
    if hashlib.sha256(text).hexdigest() != digest:
        faults.append(Fault("export_altered", "the file is not the one that the manifest is about"))
    records, lines = _parted(text)
    series = examine.follow(lines, ring, "the export")
    promised = examine.promises(series)
    for chain, rows in records.items():
        faults += _kept(chain, rows, promised.get(chain, ()))
    return sum(map(len, records.values())), [*faults, *series.faults]


def _parted(text: bytes) -> tuple[Mapping[str, list[AuditRecord]], list[bytes]]:
    records: dict[str, list[AuditRecord]] = defaultdict(list)
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            found = json.loads(line)
            if "checkpoint" in found:
                lines.append(line)
            else:
                record = record_of(found["record"])
                records[record.chain].append(record)
        except (KeyError, TypeError, ValueError) as error:
            raise Invalid(f"Line {number} of the export is neither a record nor a checkpoint.") from error
    return records, lines


def _kept(chain: str, rows: Sequence[AuditRecord], promised: Iterable[examine.Promise]) -> Iterable[Fault]:
    for expected, row in enumerate(rows, start=1):
        if row.number != expected:
            yield Fault("record_missing", f"record {expected} is missing", chain, expected)
            return
    for promise in promised:
        leaf = promise.leaf
        if leaf.count > len(rows):
            said = f"the chain ends at record {len(rows)}, and checkpoint {promise.checkpoint} covers {leaf.count}"
            yield Fault("chain_cut", said, chain, len(rows) + 1)
            return
        if checkpoint.fold(NOTHING, map(checkpoint.digest_of, rows[: leaf.count])) != leaf.fold:
            said = f"the chain up to record {leaf.count} is not the one that checkpoint {promise.checkpoint} covers"
            yield Fault("chain_rewritten", said, chain, leaf.count)
            return


def _export_message(body: object) -> bytes:
    return f"{EXPORT}\n".encode() + canonical(body)
