"""`orchestrator schedules`: goals that are researched whenever a clock says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import shapes
from orchestrator.domain.plan import Json
from orchestrator.domain.schedule import Firing, FiringOutcome, Misfire, Overlap, Schedule
from workers.cli import doors, flags, research, view
from workers.cli.exits import CONFLICT, FAILED, Ended

if TYPE_CHECKING:
    from orchestrator.chronos import Chronos

app = typer.Typer(no_args_is_help=True, help="Add, list, show, pause, resume, run and remove schedules.")

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name, or its whole id.")]


@contextmanager
def _chronos(data: Path | None) -> Iterator[Chronos]:
    with doors.opened(doors.settings(data)) as core:
        # takes a while to import, which help and usage errors should not wait for
        from orchestrator import prompts
        from orchestrator.chronos import Chronos

        check = prompts.book(core.settings.prompts).current().check
        yield Chronos(core.store, core.conductor, check_domain=check)


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of your choice.")],
    *,
    cron: Annotated[
        str, typer.Option("--cron", metavar="CRON", help="When: five fields, or @daily and its like.")
    ],
    goal: Annotated[str, typer.Option("--goal", metavar="GOAL", help="What you want to know each time.")],
    timezone: Annotated[
        str, typer.Option("--timezone", metavar="ZONE", help="Whose clock, such as Europe/Berlin.")
    ] = "UTC",
    depth: Annotated[int, typer.Option("--depth", metavar="N", help="How deep to go, from 1 to 5.")] = 2,
    docs: Annotated[
        Path | None,
        typer.Option(
            "--docs",
            metavar="DIR",
            help="The folder of documents to search. Without it: the Language Reference that comes with Python.",
            show_default=False,
        ),
    ] = None,
    domain: flags.Domain = None,
    misfire: Annotated[
        Misfire, typer.Option("--misfire", help="Of ticks that were missed: fire none, the newest, or all.")
    ] = Misfire.ONCE,
    overlap: Annotated[
        Overlap,
        typer.Option(
            "--overlap", help="While an earlier plan lives: leave a tick out, let it wait, or end that plan."
        ),
    ] = Overlap.SKIP,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Add a schedule. Its plans are made while `orchestrator up` runs, or when it runs again."""
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator.chronos import Draft

    folder = research.documents_folder(docs, doors.settings(data))
    request: dict[str, Json] = {
        "goal": goal,
        "depth": depth,
        "sources": {"documents": str(folder)},
        "requester": doors.PERSON,
    }
    if domain is not None:
        request["domain"] = domain
    draft = Draft(name, cron, request, timezone=timezone, misfire=misfire, overlap=overlap)
    with _chronos(data) as chronos:
        made = chronos.add(draft)
    _say(made, f"Schedule {made.name} is kept.", as_json=as_json)


@app.command("list")
def list_(*, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """List schedules by name."""
    with _chronos(data) as chronos:
        found = chronos.list()
    if as_json:
        view.put_json({"schedules": [shapes.schedule(s) for s in found]})
        return
    view.put_table(
        ("name", "cron", "timezone", "misfire", "overlap", "next", "goal"),
        [
            (
                s.name,
                s.cron,
                s.timezone,
                s.misfire.value,
                s.overlap.value,
                "paused" if s.paused else s.next_at or "never",
                view.one_line(s.request.get("goal") or "", 60),
            )
            for s in found
        ],
        empty="There are no schedules.",
    )


@app.command()
def show(name: _Name, *, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Show a schedule, when it will be fired next, and what became of its last ticks."""
    with _chronos(data) as chronos:
        found, history, upcoming = chronos.show(name), chronos.history(name, limit=20), chronos.upcoming(name)
    if as_json:
        times, ticks = [at.isoformat() for at in upcoming], [shapes.firing(f) for f in history]
        view.put_json({**shapes.schedule(found), "upcoming": times, "firings": ticks})
        return
    view.put_pairs(
        [
            ("name", found.name),
            ("id", found.schedule_id),
            ("goal", found.request.get("goal")),
            ("cron", f"{found.cron} ({found.timezone})"),
            ("misfire", found.misfire.value),
            ("overlap", found.overlap.value),
            ("state", "paused" if found.paused else "active"),
            ("next", ", ".join(map(view.when, upcoming))),
        ]
    )
    if history:
        view.heading("Firings")
        _put_firings(history)


@app.command()
def pause(name: _Name, *, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Let a schedule rest until it is resumed; a plan that it began goes on."""
    with _chronos(data) as chronos:
        found = chronos.pause(name)
    _say(found, f"Schedule {found.name} is paused.", as_json=as_json)


@app.command()
def resume(name: _Name, *, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Let a schedule go on with its next tick; those of its pause are not made up for."""
    with _chronos(data) as chronos:
        found = chronos.resume(name)
    _say(found, f"Schedule {found.name} goes on.", as_json=as_json)


@app.command()
def run(name: _Name, *, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Fire a schedule once now, paused or not. The plan is worked on where `orchestrator up` runs."""
    with _chronos(data) as chronos:
        fired = chronos.run_now(name)
    if as_json:
        view.put_json(shapes.firing(fired))
    else:
        _put_firings([fired])
    if fired.outcome is FiringOutcome.FAILED:
        raise Ended(FAILED)
    if fired.outcome is FiringOutcome.SKIPPED_OVERLAP:
        raise Ended(CONFLICT)


@app.command()
def remove(name: _Name, *, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Forget a schedule and its history; the plans it made stay."""
    with _chronos(data) as chronos:
        found = chronos.remove(name)
    if as_json:
        view.put_json(shapes.schedule(found))
    else:
        view.put(f"Schedule {found.name} is removed.")


def _say(found: Schedule, sentence: str, *, as_json: bool) -> None:
    if as_json:
        view.put_json(shapes.schedule(found))
    else:
        view.put(sentence)
        if found.next_at is not None and not found.paused:
            view.tell(f"The next tick is at {view.when(found.next_at)}.")


def _put_firings(found: Sequence[Firing]) -> None:
    view.put_table(
        ("due", "decided", "outcome", "plan", "reason"),
        [
            (
                f.due_at,
                f.fired_at,
                f.outcome.value,
                view.short(f.plan_id or ""),
                view.one_line(f.reason or "", 90),
            )
            for f in found
        ],
    )
