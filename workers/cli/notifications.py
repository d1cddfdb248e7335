"""`orchestrator notifications`: what the webhook was told about approvals, what it was not, and telling it again."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator import shapes
from orchestrator.domain.errors import Conflict, Invalid
from orchestrator.domain.plan import NotificationState
from workers.cli import doors, flags, view
from workers.cli.exits import FAILED, Ended

app = typer.Typer(no_args_is_help=True, help="List what the webhook was not told, and send it again.")


@app.command("list")
def list_(
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Also those that wait, and those that were delivered.")
    ] = False,
    tenant: flags.Tenant = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """List what was given up on, the oldest first."""
    with doors.opened(doors.settings(data)) as core, core.store.transaction() as tx:
        found = tx.notifications(state=None if every else NotificationState.GIVEN_UP, tenant=tenant)
    if as_json:
        view.put_json({"notifications": [shapes.notification(each) for each in found]})
        return
    view.put_table(
        ("notification", "approval", "tenant", "about", "state", "attempts", "at", "error"),
        [
            (
                view.short(each.notification_id),
                view.short(each.approval_id),
                each.body.get("tenant"),
                each.kind,
                each.state.value,
                each.attempts,
                each.body.get("at"),
                view.one_line(each.error or "", 80),
            )
            for each in found
        ],
        empty="Nothing was ever to be told." if every else "Nothing was given up on.",
    )


@app.command()
def retry(
    notification: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]",
            help="The notification's id, or at least its first 4 characters.",
            show_default=False,
        ),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every one that was given up on.")] = False,
    tenant: flags.Tenant = None,
    yes: flags.Yes = False,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Send again what was given up on, with as many attempts as at first and under the same id.

    Whoever looks for what is due sends it: a worker, the sweeper or the relay of a process that knows the webhook.
    """
    if (notification is None) is not every:
        raise Invalid("Give the id of one notification, or --all for every one that was given up on.")
    if tenant is not None and not every:
        raise Invalid("--tenant goes with --all: it says which of them to send again.")
    chosen = doors.settings(data)
    with doors.opened(chosen) as core:
        if notification is not None:
            ids = [doors.find_notification(core, notification).notification_id]
        else:
            with core.store.transaction() as tx:
                found = tx.notifications(state=NotificationState.GIVEN_UP, tenant=tenant)
            ids = _agreed([each.notification_id for each in found], yes=yes)
        again, left = [], []
        for each in ids:
            try:
                again.append(core.conductor.tell_again(each, by=doors.PERSON))
            except Conflict as error:
                if notification is not None:
                    raise
                left.append(f"Not sent again: {error}")
    for sentence in left:
        view.tell(sentence, "yellow")
    if as_json:
        view.put_json({"notifications": [shapes.notification(each) for each in again]})
    else:
        view.put(f"To be sent again: {view.many(len(again), 'notification')}.")
    if again and not chosen.webhook_url:
        view.tell(
            "No webhook is configured here (webhook_url): only a process that has one sends them.", "yellow"
        )
    if left:
        raise Ended(FAILED)


def _agreed(ids: list[str], *, yes: bool) -> list[str]:
    """Return the ids, once whoever sits at a terminal has agreed to send as many."""
    if ids and not yes and sys.stdin.isatty() and view.is_terminal(sys.stderr):
        typer.confirm(f"Send {view.many(len(ids), 'notification')} again?", abort=True, err=True)
    return ids
