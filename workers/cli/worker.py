"""`orchestrator worker`: one process of the fleet, for one kind of message, until it is told to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.domain.errors import Misconfigured
from workers import signals
from workers.cli import doors, flags, view

if TYPE_CHECKING:
    from orchestrator.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Run one process of the fleet on RabbitMQ.")


@app.command("steps")
def steps(
    *,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", metavar="N", min=1, help="Steps at once; by default the setting."),
    ] = None,
    queues: Annotated[
        list[str] | None,
        typer.Option(
            "--queue", metavar="NAME", help="A queue to take from; by default all three priorities."
        ),
    ] = None,
    events: Annotated[bool, typer.Option("--events", help="Tell Flower what happens.")] = False,
    data: flags.Data = None,
    verbose: flags.Verbose = False,
) -> None:
    """Carry steps to their outcomes.

    Told to stop, it takes no more, lets those in hand go on for `shutdown_grace_s`, and hands back the rest.
    """
    chosen = doors.settings(data)
    _need_a_broker(chosen.broker_url)
    if concurrency is not None:
        chosen = chosen.model_copy(update={"concurrency": concurrency})
    # takes a second to import, which help and usage errors should not wait for
    from workers.steps import carry

    with doors.opened(chosen, verbose=verbose) as core:
        _measured(chosen)
        view.tell("Taking steps. SIGTERM finishes or hands back those in hand, and stops.", "green")
        carry(core, queues=queues or None, events=events)


@app.command("completions")
def completions(*, data: flags.Data = None, verbose: flags.Verbose = False) -> None:
    """Decide what follows finished steps."""
    _loop("completions", data, verbose=verbose)


@app.command("dead")
def dead(*, data: flags.Data = None, verbose: flags.Verbose = False) -> None:
    """List what the broker gave up on."""
    _loop("dead_letters", data, verbose=verbose)


@app.command("relay")
def relay(
    *,
    sweeps: Annotated[
        bool,
        typer.Option("--sweep/--no-sweep", help="Sweep too; without it, let `worker sweeper` run somewhere."),
    ] = True,
    data: flags.Data = None,
    verbose: flags.Verbose = False,
) -> None:
    """Publish the outbox, and sweep up what was dropped; any number of replicas may run."""
    _loop("relay" if sweeps else "publisher", data, verbose=verbose)


@app.command("sweeper")
def sweeper(*, data: flags.Data = None, verbose: flags.Verbose = False) -> None:
    """Look for steps that were dropped or are due; any number of replicas may run."""
    _loop("sweeper", data, verbose=verbose)


def _loop(role: str, data: flags.Data, *, verbose: bool) -> None:
    chosen = doors.settings(data)
    _need_a_broker(chosen.broker_url)
    # takes a second to import, which help and usage errors should not wait for
    from workers import fleet

    stopping = signals.stopping()
    with doors.opened(chosen, verbose=verbose) as core:
        _measured(chosen)
        view.tell(f"Running {role.replace('_', ' ')}. SIGTERM stops.", "green")
        fleet.ROLES[role](core, stopping)


def _measured(chosen: Settings) -> None:
    """Let Prometheus ask this process, where the settings say so."""
    if chosen.metrics_listen:
        from orchestrator import meters  # takes a while, which help and usage errors should not wait for

        meters.serve(chosen.metrics_listen)


def _need_a_broker(url: str) -> None:
    if url.startswith("memory:"):
        raise Misconfigured(
            "A process of the fleet needs a broker: set broker_url (ORCHESTRATOR_BROKER_URL) to an amqp:// address, "
            "or run everything in one process with `orchestrator up`."
        )
