"""`orchestrator keys`: who may use the API. A key's secret is shown once, and only its digest is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from orchestrator.domain import age
from orchestrator.domain.identity import ApiKey
from orchestrator.domain.plan import Json
from workers.cli import doors, flags, view

if TYPE_CHECKING:
    from orchestrator.keyring import Shown

app = typer.Typer(no_args_is_help=True, help="Make, list, rotate and revoke the API's keys.")

KeyId: TypeAlias = Annotated[
    str, typer.Argument(metavar="KEY", help="The key's id: the eight characters before its secret.")
]


@app.command()
def create(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Who acts with it, as the audit will say. For a person, the name that their token carries.",
        ),
    ],
    *,
    tenant: Annotated[
        str, typer.Option("--tenant", metavar="TENANT", help="The tenant whose plans it reaches.")
    ] = "default",
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            metavar="ROLE",
            help="A role that it holds; give several by repeating this. Without it `operator`.",
            show_default=False,
        ),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="What it may be used for, such as `plan.*` or `plan.read`; repeatable. Without it, all that its roles allow.",
            show_default=False,
        ),
    ] = None,
    expires: Annotated[
        str, typer.Option("--expires", metavar="AGE", help="After how long it ends: `12h`, `90d`.")
    ] = "90d",
    never: Annotated[bool, typer.Option("--never-expires", help="Let it work until it is revoked.")] = False,
    environment: Annotated[
        str, typer.Option("--env", metavar="WORD", help="A word in the key that says what it is for.")
    ] = "live",
    as_json: flags.AsJson = False,
    data: flags.Data = None,
    verbose: flags.Verbose = False,
) -> None:
    """Make a key and show it, this once."""
    lasts = None if never else age.age(expires)
    with doors.opened(doors.settings(data), verbose=verbose) as core:
        shown = core.keyring.create(
            name=name,
            tenant=tenant,
            roles=role or ["operator"],
            scopes=scope or ["*"],
            lasts=lasts,
            environment=environment,
            by=doors.PERSON,
        )
    _show(shown, as_json=as_json)


@app.command("list")
def list_(
    *,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="TENANT", help="Only those of this tenant.", show_default=False),
    ] = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """List the keys, also those that can no longer be used; never a secret."""
    with doors.opened(doors.settings(data)) as core, core.store.transaction() as tx:
        found, now = tx.api_keys(tenant), tx.now()
    if as_json:
        view.put_json({"keys": [_shape(key, key.state(now)) for key in found]})
        return
    view.put_table(
        ("key", "state", "tenant", "name", "roles", "scopes", "expires", "last used"),
        [
            (
                key.key_id,
                key.state(now),
                key.tenant,
                key.name,
                ", ".join(key.roles),
                ", ".join(key.scopes),
                key.expires_at.isoformat(timespec="minutes") if key.expires_at else "never",
                key.last_used_at.isoformat(timespec="minutes") if key.last_used_at else "never",
            )
            for key in found
        ],
        empty="There are no keys. `orchestrator keys create NAME` makes the first.",
    )


@app.command()
def rotate(
    key: KeyId,
    *,
    overlap: Annotated[
        str,
        typer.Option("--overlap", metavar="AGE", help="How long the old one still works: `0s`, `24h`."),
    ] = "24h",
    as_json: flags.AsJson = False,
    data: flags.Data = None,
    verbose: flags.Verbose = False,
) -> None:
    """Make a key that may do the same in place of another, and show it, this once."""
    with doors.opened(doors.settings(data), verbose=verbose) as core:
        shown = core.keyring.rotate(key, overlap=age.age(overlap), by=doors.PERSON)
    _show(shown, as_json=as_json)


@app.command()
def revoke(
    key: KeyId, *, as_json: flags.AsJson = False, data: flags.Data = None, verbose: flags.Verbose = False
) -> None:
    """Take a key back at once and for ever, and with it the sessions that it opened."""
    with doors.opened(doors.settings(data), verbose=verbose) as core:
        done = core.keyring.revoke(key, by=doors.PERSON)
    if as_json:
        view.put_json(_shape(done, "revoked"))
        return
    view.tell(f"Key {done.key_id} of {done.name} is revoked; it works nowhere any more.")


def _show(shown: Shown, *, as_json: bool) -> None:
    if as_json:
        view.put_json({**_shape(shown.key, "active"), "token": shown.token})
        return
    view.put(shown.token)
    view.tell(
        f"This is key {shown.key.key_id} of {shown.key.name} for tenant {shown.key.tenant}. It is not shown again; "
        "callers send it as `Authorization: Bearer …`."
    )


def _shape(key: ApiKey, state: str) -> dict[str, Json]:
    return {
        "key_id": key.key_id,
        "state": state,
        "tenant": key.tenant,
        "name": key.name,
        "roles": list(key.roles),
        "scopes": list(key.scopes),
        "created_at": key.created_at.isoformat(),
        "created_by": key.created_by,
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
        "last_used_at": key.last_used_at.isoformat() if key.last_used_at else None,
    }
