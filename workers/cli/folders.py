"""`orchestrator new-agent` and `orchestrator language-reference`: verbs that write files and open nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.domain.errors import Conflict, Invalid, Misconfigured
from workers.cli import flags, view


def new_agent(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the agent is called.")],
    *,
    role: Annotated[
        str | None, typer.Option("--role", help="In one line, what it is for.", show_default=False)
    ] = None,
    capability: Annotated[
        list[str] | None,
        typer.Option(
            "--capability", metavar="C", help="What it may do; give it once for each.", show_default=False
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where profiles are kept.")] = Path(
        "agents"
    ),
    as_json: flags.AsJson = False,
) -> None:
    """Write the profile of a new agent: who it is, what it may do, and when a human must agree."""
    # takes a while to import, and only this verb needs it
    from agents import profiles

    try:
        path = profiles.scaffold(folder, name, role=role, capabilities=capability or ())
    except profiles.ProfileError as error:
        raise (Conflict if "already exists" in str(error) else Invalid)(str(error)) from error
    except OSError as error:
        raise Invalid(f"The profile cannot be written to {folder} ({error.strerror}).") from error
    if as_json:
        view.put_json({"name": name, "path": str(path)})
    else:
        view.put(str(path))
        view.tell(
            "Describe in it what the agent does; `orchestrator config check` tells whether it is sound."
        )


def language_reference(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write the chapters.")],
    *,
    as_json: flags.AsJson = False,
) -> None:
    """Write the Language Reference that comes with Python to a folder, as documents to try this program on."""
    try:
        # carries the text of the whole Reference, and only this verb needs it
        from workers.toolhost.documents import language_reference as reference
    except ImportError as error:
        raise Misconfigured("This Python does not carry its Language Reference; use another.") from error
    try:
        chapters = reference.export(folder)
    except OSError as error:
        raise Invalid(f"The chapters cannot be written to {folder} ({error.strerror}).") from error
    if as_json:
        view.put_json({"folder": str(folder), "chapters": chapters})
    else:
        view.put(f"Wrote {view.many(chapters, 'chapter')} to {folder}.")
