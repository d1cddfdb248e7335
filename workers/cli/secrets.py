"""`orchestrator secrets`: keep what tools need to know and nobody else may: put, rotate, promote, remove.

A value comes from standard input or is typed unseen; never from an argument, which every process of the machine can
read. None is ever printed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from orchestrator import shapes
from orchestrator.domain.errors import Invalid
from orchestrator.domain.secret import LONGEST_BYTES, SecretVersion
from workers.cli import doors, flags, view

app = typer.Typer(no_args_is_help=True, help="Keep the secrets that tools need; no value is ever printed.")

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The secret's name.")]
_Tenant = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Whose secret it is.")]
_Version = Annotated[
    int | None,
    typer.Option("--version", metavar="N", min=1, help="Which version.", show_default=False),
]
_TENANT = "default"


@app.command()
def put(
    name: _Name,
    *,
    new: Annotated[bool, typer.Option("--new", help="Only if there is no secret of that name.")] = False,
    tenant: _Tenant = _TENANT,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Keep a value that is used at once. It is read from standard input, or typed unseen."""
    value = _value(name)
    with doors.opened(doors.settings(data)) as core:
        made = core.secrets.put(tenant, name, value, by=doors.PERSON, new=new)
    _say(made, f"Version {made.version} of {name} is kept, and used from now on.", as_json=as_json)


@app.command()
def rotate(
    name: _Name, *, tenant: _Tenant = _TENANT, as_json: flags.AsJson = False, data: flags.Data = None
) -> None:
    """Keep a value that is not used until it is promoted. It is read from standard input, or typed unseen."""
    value = _value(name)
    with doors.opened(doors.settings(data)) as core:
        made = core.secrets.rotate(tenant, name, value, by=doors.PERSON)
    _say(made, f"Version {made.version} of {name} is kept, and used once it is promoted.", as_json=as_json)


@app.command()
def promote(
    name: _Name,
    *,
    version: _Version = None,
    over: Annotated[
        int | None,
        typer.Option(
            "--over", metavar="N", min=1, help="Only if this version is still current.", show_default=False
        ),
    ] = None,
    tenant: _Tenant = _TENANT,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Put the pending version into use, or a previous one again. Tools have it with their next call."""
    with doors.opened(doors.settings(data)) as core:
        made = core.secrets.promote(tenant, name, by=doors.PERSON, version=version, over=over)
    _say(made, f"Version {made.version} of {name} is used from now on.", as_json=as_json)


@app.command("list")
def list_(*, tenant: _Tenant = _TENANT, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """List the secrets of a tenant, every version, without their values."""
    with doors.opened(doors.settings(data)) as core:
        found = core.secrets.versions(tenant)
    _put(found, as_json=as_json)


@app.command()
def versions(
    name: _Name, *, tenant: _Tenant = _TENANT, as_json: flags.AsJson = False, data: flags.Data = None
) -> None:
    """List the versions of one secret, without their values."""
    with doors.opened(doors.settings(data)) as core:
        found = core.secrets.versions(tenant, name)
    _put(found, as_json=as_json)


@app.command()
def remove(
    name: _Name,
    *,
    version: _Version = None,
    tenant: _Tenant = _TENANT,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Remove a secret with all its versions, or one version that is not current. The next call that needs it is refused."""
    with doors.opened(doors.settings(data)) as core:
        gone = core.secrets.remove(tenant, name, version, by=doors.PERSON)
    if as_json:
        view.put_json({"removed": [shapes.secret(each) for each in gone]})
    else:
        view.put(f"{view.many(len(gone), 'version')} of {name} removed.")


@app.command()
def rekey(
    *,
    new: Annotated[
        bool, typer.Option("--new", help="First make a new master key, on top of those in the file.")
    ] = False,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Wrap every tenant's data key with the newest master key; the old one may then be taken out of its file."""
    # takes a second to import, which help and usage errors should not wait for
    from orchestrator import wiring
    from orchestrator.vault.secrets import SealedSecrets

    chosen = doors.settings(data)
    with doors.opened(chosen) as core:
        if not isinstance(core.secrets, SealedSecrets):
            raise Invalid("The secrets are in Vault, which has keys of its own: `vault operator rotate`.")
        if new:
            wiring.add_master_key(chosen)
        changed = core.secrets.rewrap()
    if as_json:
        view.put_json({"rewrapped": changed})
    else:
        view.put(f"{view.many(changed, 'data key')} wrapped anew.")


def _value(name: str) -> str:
    """Return what is typed, or all of standard input but the line break that ends it."""
    if sys.stdin.isatty():
        typed: str = typer.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    try:
        text = sys.stdin.buffer.read(LONGEST_BYTES + 3).decode()
    except UnicodeDecodeError:
        raise Invalid("The value on standard input is not text in UTF-8.") from None
    return text.removesuffix("\n").removesuffix("\r")


def _say(made: SecretVersion, sentence: str, *, as_json: bool) -> None:
    if as_json:
        view.put_json(shapes.secret(made))
    else:
        view.put(sentence)


def _put(found: Sequence[SecretVersion], *, as_json: bool) -> None:
    if as_json:
        view.put_json({"versions": [shapes.secret(each) for each in found]})
        return
    view.put_table(
        ("name", "version", "state", "created", "by"),
        [(v.name, v.version, v.state.value, v.created_at, v.created_by) for v in found],
        empty="There are no secrets.",
    )
