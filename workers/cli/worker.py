"""`orchestrator worker`: one process of the fleet, for one kind of message, until it is told to stop."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from orchestrator.domain.errors import Misconfigured
from workers.cli import doors, flags, view

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
    """Carry steps to their outcomes."""
    chosen = doors.settings(data)
    _need_a_broker(chosen.broker_url)
    if concurrency is not None:
        chosen = chosen.model_copy(update={"concurrency": concurrency})
    # takes a second to import, which help and usage errors should not wait for
    from workers import fleet

    with doors.opened(chosen, verbose=verbose) as core:
        view.tell("Taking steps. SIGTERM finishes those in hand and stops.", "green")
        fleet.steps(core, queues=queues or None, events=events)


@app.command("completions")
def completions(*, data: flags.Data = None, verbose: flags.Verbose = False) -> None:
    """Decide what follows finished steps."""
    _loop("completions", data, verbose=verbose)


@app.command("dead")
def dead(*, data: flags.Data = None, verbose: flags.Verbose = False) -> None:
    """List what the broker gave up on."""
    _loop("dead_letters", data, verbose=verbose)


@app.command("relay")
def relay(*, data: flags.Data = None, verbose: flags.Verbose = False) -> None:
    """Publish the outbox, and sweep up what was dropped; any number of replicas may run."""
    _loop("relay", data, verbose=verbose)


def _loop(role: str, data: flags.Data, *, verbose: bool) -> None:
    chosen = doors.settings(data)
    _need_a_broker(chosen.broker_url)
    # takes a second to import, which help and usage errors should not wait for
    from workers import fleet

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with doors.opened(chosen, verbose=verbose) as core:
        view.tell(f"Running {role.replace('_', ' ')}. SIGTERM stops.", "green")
        fleet.ROLES[role](core, stopping)


def _need_a_broker(url: str) -> None:
    if url.startswith("memory:"):
        raise Misconfigured(
            "A process of the fleet needs a broker: set broker_url (ORCHESTRATOR_BROKER_URL) to an amqp:// address, "
            "or run everything in one process with `orchestrator up`."
        )
