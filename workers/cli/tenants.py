"""`orchestrator tenants`: whose steps come first when there are more than can be done, and how many may run at once."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.domain.errors import Invalid
from orchestrator.domain.fairness import Tenant
from orchestrator.domain.plan import Json
from workers.cli import doors, flags, view

app = typer.Typer(no_args_is_help=True, help="List tenants' shares and limits, and set them.")

_MOST = 1_000_000


@app.command("list")
def list_(*, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """List the tenants for which something else is set than a weight of 1 and no limit."""
    with doors.opened(doors.settings(data)) as core, core.store.transaction() as tx:
        found = tx.tenants()
    if as_json:
        view.put_json({"tenants": [_shape(tenant) for tenant in found]})
        return
    view.put_table(
        ("tenant", "weight", "may run"),
        [
            (t.tenant, f"{t.weight:g}", "any number" if t.max_running is None else t.max_running)
            for t in found
        ],
        empty="Nothing is set for any tenant: all have a weight of 1 and no limit.",
    )


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.")],
    *,
    weight: Annotated[
        float,
        typer.Option(
            "--weight",
            metavar="W",
            help="Its share, next to those of others, of what can be done in a crowd.",
        ),
    ] = 1.0,
    max_running: Annotated[
        int | None,
        typer.Option(
            "--max-running",
            metavar="N",
            help="How many of its steps may run at once, over the whole fleet; without it any number.",
            show_default=False,
        ),
    ] = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Set a tenant's weight and limit; what is not given goes back to 1 and no limit. It counts from the next step on."""
    tenant = Tenant(name.strip(), weight, max_running)
    if not tenant.tenant:
        raise Invalid("A tenant has a name; this one is empty.")
    if not 0 < weight <= _MOST:
        raise Invalid(f"A weight is more than 0 and at most {_MOST:,}; {weight:g} is not.")
    if max_running is not None and not 1 <= max_running <= _MOST:
        raise Invalid(f"A limit is from 1 to {_MOST:,} steps at once; {max_running} is not.")
    with doors.opened(doors.settings(data)) as core, core.store.transaction() as tx:
        tx.put_tenant(tenant)
    if as_json:
        view.put_json(_shape(tenant))
        return
    limit = "any number" if max_running is None else f"at most {max_running:,}"
    view.tell(f"{tenant.tenant} has a weight of {weight:g}; {limit} of its steps may run at once.")


def _shape(tenant: Tenant) -> dict[str, Json]:
    return {"tenant": tenant.tenant, "weight": tenant.weight, "max_running": tenant.max_running}
