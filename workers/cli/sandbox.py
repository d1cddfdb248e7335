"""`orchestrator sandbox`: may generated code be run on this machine?"""

from __future__ import annotations

import typer

from workers.cli import doors, flags, view
from workers.cli.exits import FAILED, FINE, Ended

app = typer.Typer(no_args_is_help=True, help="Look whether generated code can be confined on this machine.")


@app.callback()
def _root() -> None:
    pass


@app.command()
def check(*, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Let the sandbox attack itself in every way it knows, and say whether all of it was contained.

    Where it was not, or where there is no sandbox, no tool that needs the capability `code.exec` is offered.
    """
    # takes a while to import, which help and usage errors should not wait for
    from workers.toolhost import sandbox

    with view.waiting("The sandbox attacks itself …"):
        found = sandbox.of(doors.settings(data)).try_on_itself()
    if as_json:
        view.put_json(found.as_json())
    else:
        rows = [(name, "contained" if held else "ESCAPED") for name, held in found.tried.items()]
        view.put_table(("attack", "outcome"), rows)
        view.tell(
            f"Enforced: {view.many(len(rows), 'attack')} contained; code.exec can be offered."
            if found.enforced
            else f"Withheld: code.exec is not offered on this machine. {found.reason} {found.todo}",
            "green" if found.enforced else "yellow",
        )
    raise Ended(FINE if found.enforced else FAILED)
