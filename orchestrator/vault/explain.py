"""Answers an auditor's question from sealed records alone: who allowed this call, under which policy, with what evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.domain.plan import AuditRecord, Json
from orchestrator.vault.ledger import body_of

_BEGAN = ("plan.submitted", "plan.forked")
_ENDED = ("tool.outcome", "tool.unknown")


def calls(records: Sequence[AuditRecord]) -> Sequence[Mapping[str, Json]]:
    """Return what the records of one plan say about each call that it intended, in their order."""
    return [_told(record, records) for record in records if record.kind == "tool.intent"]


def _told(intent: AuditRecord, records: Sequence[AuditRecord]) -> Mapping[str, Json]:
    said = body_of(intent)
    asked = next((record for record in records if record.kind in _BEGAN), None)
    came = next((record for record in records if _ends(record, intent, said)), None)
    return {
        "record": intent.number,
        "at": said.get("at"),
        "tool": said.get("tool"),
        "step": said.get("step"),
        "agent": said.get("agent"),
        "arguments_digest": said.get("call"),
        "asked": _asked(asked),
        "decision": said.get("decision"),
        "approvals": [_approved(record) for record in records if _approves(record, intent, said)],
        "outcome": _came(came),
    }


def _asked(record: AuditRecord | None) -> Json:
    if record is None:
        return None
    said = body_of(record)
    return {"record": record.number, "by": said.get("by"), "tenant": said.get("tenant"), "at": said.get("at")}


def _ends(record: AuditRecord, intent: AuditRecord, said: Mapping[str, Json]) -> bool:
    """Whether a record is the first that says what became of an intent."""
    if record.kind not in _ENDED or record.number < intent.number:
        return False
    body = body_of(record)
    return all(body.get(name) == said.get(name) for name in ("step", "call", "occurrence"))


def _approves(record: AuditRecord, intent: AuditRecord, said: Mapping[str, Json]) -> bool:
    """Whether a record is a person's yes to exactly this step and these arguments, before the intent."""
    if record.kind != "approval.decided" or record.number > intent.number:
        return False
    body = body_of(record)
    return (body.get("step"), body.get("args_digest"), body.get("decision")) == (
        said.get("step"),
        said.get("call"),
        "approved",
    )


def _approved(record: AuditRecord) -> Json:
    said = body_of(record)
    named = {name: said.get(name) for name in ("by", "at", "comment", "approval")}
    return {"record": record.number, **named}


def _came(record: AuditRecord | None) -> Json:
    if record is None:
        return None
    said = body_of(record)
    state = said.get("state") or ("unknown" if record.kind == "tool.unknown" else None)
    named = {name: said.get(name) for name in ("at", "evidence", "result_sha256", "error")}
    return {"record": record.number, "state": state, **named}
