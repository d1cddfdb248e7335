"""The audit over HTTP: what others append to their tenant's own chain, and entries of it or of a plan, the newest first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, AwareDatetime, BeforeValidator

from orchestrator.api import forms
from orchestrator.api.identity import Principal, acts, reads
from orchestrator.api.office import Here, the_plan
from orchestrator.api.problems import documented
from orchestrator.api.submission import storable
from orchestrator.domain.errors import Invalid
from orchestrator.domain.plan import AuditRecord, Json
from orchestrator.store import PgTx
from orchestrator.vault import ledger

router: Final = APIRouter(prefix="/audit", tags=["audit"])

SCANNED: Final = 2_000
"""Records that one request looks at; where fewer fit than it asked for, `next` goes on behind them."""

_CURSOR: Final = re.compile(r"([0-9a-f-]{36})\.([1-9][0-9]{0,9})")

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]")


def _written(value: object) -> object:
    """Let no bare number pass for a time."""
    if isinstance(value, str) and not _DATE.match(value):
        raise ValueError("a time is written as 2026-03-29T02:30:00Z")
    return value


_Time = Annotated[AwareDatetime | None, BeforeValidator(_written)]
_Text = Annotated[str | None, AfterValidator(storable)]


@router.post("/logs", status_code=201, response_model=forms.AppendedEntry, responses=documented())
def append(
    office: Here, form: forms.EntryForm, who: Annotated[Principal, Depends(acts("audit.append"))]
) -> Any:
    """Append an entry to the chain of your tenant: it is sealed, and cannot be changed any more."""
    with office.store(who.tenant).transaction() as tx:
        record = ledger.append(
            tx,
            office.core.sealer,
            tenant=who.tenant,
            by=who.name,
            kind=form.event_type,
            said=form.model_dump(exclude={"event_type"}),
        )
    return {"entry_id": f"{record.chain}.{record.number}", "checksum": record.mac.hex()}


@router.get("/logs", response_model=forms.Entries, responses=documented(404))
def listed(
    office: Here,
    who: Annotated[Principal, Depends(reads("audit.read"))],
    plan: Annotated[UUID | None, Query(description="Those of this plan, not of your tenant's chain.")] = None,
    actor: Annotated[_Text, Query(max_length=200, description="Only those about this actor.")] = None,
    event_type: Annotated[
        forms.EventType | None, Query(description="Only those that are about this.")
    ] = None,
    session_id: Annotated[_Text, Query(max_length=200, description="Only those of this session.")] = None,
    since: Annotated[_Time, Query(description="Only those from this time on.")] = None,
    until: Annotated[_Time, Query(description="Only those before this time.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
    cursor: Annotated[
        str | None, Query(max_length=50, description="`next` of the page before, as it was given.")
    ] = None,
) -> Any:
    """List entries, the newest first, a page at a time."""
    wanted = _Wanted(actor, event_type, session_id, since, until)
    with office.store(who.tenant).transaction() as tx:
        chain = the_plan(tx, plan, who.tenant).plan_id if plan is not None else ledger.ledger_of(who.tenant)
        return _page(tx, chain, wanted, before=_place(chain, cursor), limit=limit)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a reader asks for."""

    actor: str | None
    event_type: str | None
    session_id: str | None
    since: datetime | None
    until: datetime | None

    def fits(self, entry: Mapping[str, Json]) -> bool:
        """Whether an entry is asked for."""
        for name in ("actor", "event_type", "session_id"):
            if getattr(self, name) not in {None, entry[name]}:
                return False
        at = _time(entry["timestamp"])
        if at is None:
            return self.since is None and self.until is None
        return (self.since is None or self.since <= at) and (self.until is None or at < self.until)


def _page(tx: PgTx, chain: str, wanted: _Wanted, *, before: int, limit: int) -> Mapping[str, Any]:
    records = tx.audit_page(chain, before, SCANNED)
    found: list[Mapping[str, Json]] = []
    last: AuditRecord | None = None
    for record in records:
        if len(found) == limit:
            break
        last = record
        entry = ledger.entry(record)
        if wanted.fits(entry):
            found.append(entry)
    return {
        "entries": found,
        "next": f"{chain}.{last.number}" if last is not None and last.number > 1 else None,
    }


def _place(chain: str, cursor: str | None) -> int:
    """The number that a page begins below."""
    if cursor is None:
        return forms.MOST_STEPS
    fits = _CURSOR.fullmatch(cursor)
    if fits is None or fits[1] != chain or int(fits[2]) > forms.MOST_STEPS:
        raise Invalid("This cursor is none that this API gave for this chain; begin again without one.")
    return int(fits[2])


def _time(text: Json) -> datetime | None:
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return at if at.tzinfo is not None else None
