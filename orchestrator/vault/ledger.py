"""What a tenant's own chain says: entries that people and other programs append, in the form that they ask for.

An entry names who stated it (`by`, whoever the caller proved to be) beside the actor that it is about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID, uuid5

from orchestrator.domain.identity import ApiKey, Principal
from orchestrator.domain.plan import AuditRecord, Json
from orchestrator.domain.secret import SecretVersion
from orchestrator.vault.chain import Sealer
from orchestrator.vault.notary import Head

_SPACE: Final = UUID("0b8f2a52-6f0e-5d0c-9d53-1c2d6a1c7e11")

_OF_KINDS: Final[Mapping[str, str]] = {
    "approval.requested": "approval_requested",
    "dead_letter.discarded": "escalation_resolved",
    "key.created": "config_changed",
    "key.revoked": "config_changed",
    "key.rotated": "config_changed",
    "notification.retried": "escalation_created",
    "plan.cancelled": "decision_overridden",
    "plan.ended": "query_completed",
    "plan.forked": "query_received",
    "plan.replayed": "decision_overridden",
    "plan.submitted": "query_received",
    "report.written": "data_modified",
    "secret.promoted": "config_changed",
    "secret.put": "config_changed",
    "secret.removed": "config_changed",
    "secret.rotated": "config_changed",
    "step.dead": "escalation_created",
    "step.refused": "access_denied",
    "tool.intent": "tool_called",
    "tool.unknown": "tool_error",
}


def ledger_of(tenant: str) -> str:
    """Return the id of a tenant's own chain, which follows from its name."""
    return str(uuid5(_SPACE, f"tenant:{tenant}"))


class Pen(Protocol):
    """A transaction that may write to tenants' own chains."""

    def now(self) -> datetime:
        """The database's time at the start of this transaction, in UTC."""
        ...

    def lock_ledger(self, tenant: str) -> Head:
        """Where a tenant's own chain stands, held until this transaction ends."""
        ...

    def append_to_ledger(self, record: AuditRecord) -> None:
        """Append a record to a chain that this transaction has locked."""
        ...


def append(
    tx: Pen, sealer: Sealer, *, tenant: str, by: str, kind: str, said: Mapping[str, Json]
) -> AuditRecord:
    """Append what `by` says to the tenant's own chain, as a part of a transaction, and return its record."""
    head = tx.lock_ledger(tenant)
    body = {**said, "by": by, "tenant": tenant, "at": tx.now().isoformat()}
    record = sealer.seal(chain=head.chain, number=head.count + 1, kind=kind, body=body, prev=head.head)
    tx.append_to_ledger(record)
    return record


def note_action(
    tx: Pen,
    sealer: Sealer,
    who: Principal,
    kind: str,
    action: str,
    resource: str,
    details: Mapping[str, Json],
    *,
    session: str = "",
) -> AuditRecord:
    """Append what a caller did to the chain of the caller's tenant, in the form in which entries are read."""
    said: dict[str, Json] = {
        "action": action,
        "actor": who.name,
        "resource": resource,
        "details": dict(details),
        "session_id": session,
    }
    return append(tx, sealer, tenant=who.tenant, by=who.name, kind=kind, said=said)


def note_secret(
    tx: Pen, sealer: Sealer, change: str, version: SecretVersion, by: str, *, done: bool = True
) -> AuditRecord:
    """Append what happens to a version of a secret, without a word of its value.

    Where the value is kept elsewhere it is written down before, as not yet `done`, and again after.
    """
    said: dict[str, Json] = {
        "resource": f"secret:{version.name}",
        "version": version.version,
        "state": version.state.value,
        "done": done,
    }
    return append(tx, sealer, tenant=version.tenant, by=by, kind=f"secret.{change}", said=said)


def note_key(tx: Pen, sealer: Sealer, change: str, key: ApiKey, by: str) -> AuditRecord:
    """Append what happens to an API key, without its secret or digest."""
    said: dict[str, Json] = {
        "resource": f"key:{key.key_id}",
        "name": key.name,
        "roles": list(key.roles),
        "scopes": list(key.scopes),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
    }
    return append(tx, sealer, tenant=key.tenant, by=by, kind=f"key.{change}", said=said)


def event_type(record: AuditRecord) -> str:
    """Return what a record is about, in the words of entries."""
    body = body_of(record)
    match record.kind:
        case "tool.outcome":
            return "tool_error" if body.get("error") else "tool_result"
        case "approval.decided":
            return "approval_granted" if body.get("decision") == "approved" else "approval_denied"
        case kind:
            return _OF_KINDS.get(kind, kind)


def entry(record: AuditRecord) -> dict[str, Json]:
    """Return a record as an entry; a plan's record has its fields among the details."""
    body = body_of(record)
    own = "." not in record.kind
    fallback = {key: value for key, value in body.items() if key not in {"at", "by"}}
    return {
        "entry_id": f"{record.chain}.{record.number}",
        "timestamp": _utc(str(body.get("at", ""))),
        "event_type": event_type(record),
        "actor": str(body.get("actor") or body.get("by") or "system"),
        "action": str(body.get("action") or record.kind),
        "resource": str(body.get("resource") or body.get("tool") or ""),
        "details": body.get("details") if own else fallback,
        "parent_id": f"{record.chain}.{record.number - 1}" if record.number > 1 else None,
        "session_id": str(body.get("session_id") or ""),
        "checksum": record.mac.hex(),
        "by": str(body.get("by") or "system"),
    }


def body_of(record: AuditRecord) -> Mapping[str, Json]:
    """Return what a record says; nothing, if somebody made something else than an object of it."""
    try:
        body = json.loads(record.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _utc(at: str) -> str:
    try:
        datetime.fromisoformat(at)
    except ValueError:
        return at
    return at.replace("+00:00", "Z")
