"""`orchestrator audit`: the sealed record of what was decided and done, and whether it still holds."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from orchestrator import shapes
from orchestrator.domain.plan import AuditRecord, canonical
from orchestrator.vault.chain import Break
from workers.cli import doors, flags, view
from workers.cli.exits import FAILED, FINE, Ended

_DIGEST: Final = re.compile("[0-9a-f]{64}")

app = typer.Typer(no_args_is_help=True, help="Verify and show the audit trail.")


@app.command()
def verify(
    plan: Annotated[
        str | None,
        typer.Argument(
            metavar="[PLAN]",
            help="Only this plan: its id, or at least its first 4 characters.",
            show_default=False,
        ),
    ] = None,
    *,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Check the seals of every record, and name the first in each plan that was altered, removed or moved."""
    breaks: list[Break] = []
    records = plans = 0
    spent_s = 0.0
    with doors.opened(doors.settings(data)) as core:
        found = [doors.find_plan(core, plan)] if plan is not None else doors.every_plan(core)
        for each in found:
            with core.store.transaction() as tx:
                # under the plan's lock, so that the chain and what the plan remembers of it belong together
                locked = tx.lock_plan(each.plan_id)
                chain = tx.audit(each.plan_id)
            if locked is None:
                continue
            started = time.perf_counter()
            broken = core.sealer.verify(each.plan_id, chain, count=locked.audit_count, head=locked.audit_head)
            spent_s += time.perf_counter() - started
            plans, records = plans + 1, records + len(chain)
            if broken is not None:
                breaks.append(broken)
    rate = round(records / spent_s) if spent_s > 0 else 0
    if as_json:
        listed = [{"plan_id": b.chain, "record": b.number, "fault": b.fault} for b in breaks]
        view.put_json(
            {
                "ok": not breaks,
                "plans": plans,
                "records": records,
                "seconds": round(spent_s, 6),
                "records_per_s": rate,
                "breaks": listed,
            }
        )
    else:
        for broken in breaks:
            view.put(f"Broken: plan {view.short(broken.chain)}: {broken.fault}.")
        counted = f"{view.many(records, 'record')} of {view.many(plans, 'plan')}"
        told = "every chain holds" if not breaks else f"{view.many(len(breaks), 'chain')} broken"
        view.put(f"Checked {counted} in {spent_s * 1000:,.1f} ms ({rate:,} records/s): {told}.")
    raise Ended(FAILED if breaks else FINE)


@app.command()
def show(plan: flags.PlanId, *, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Print a plan's records in the order in which they were sealed."""
    with doors.opened(doors.settings(data)) as core:
        found = doors.find_plan(core, plan)
        with core.store.transaction() as tx:
            records = tx.audit(found.plan_id)
    if as_json:
        view.put_json({"plan_id": found.plan_id, "records": [shapes.audit(r) for r in records]})
        return
    view.put_table(
        ("record", "at", "what", "facts"),
        [(r.number, _at(r), r.kind, _said(r)) for r in records],
        empty="There are no records.",
    )


def _at(record: AuditRecord) -> str:
    body = shapes.body_of(record)
    return str(body.get("at", "")).replace("T", " ")[:19] if isinstance(body, Mapping) else ""


def _said(record: AuditRecord) -> str:
    body: Any = shapes.body_of(record)
    if not isinstance(body, Mapping):
        return view.one_line(body)
    shown = {k: v for k, v in body.items() if k != "at" and v not in (None, "")}
    return "  ".join(f"{key}={_brief(value)}" for key, value in shown.items())


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return view.one_line(value.get("effect") or canonical(value).decode(), 60)
    text = str(value)
    return text[:12] if _DIGEST.fullmatch(text) else view.one_line(text, 60)
