"""`orchestrator serve`: the services of this program, each as a process of its own."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.domain.errors import Invalid, Misconfigured, Unavailable
from workers import signals
from workers.cli import doors, flags, view

if TYPE_CHECKING:
    import uvicorn

    from orchestrator.wiring import Core

app = typer.Typer(no_args_is_help=True, help="Run one of this program's services.")

_GRACE_S = 5


@app.callback()
def _root() -> None:
    """Run one of this program's services."""


@app.command()
def api(
    *,
    host: Annotated[
        str,
        typer.Option(
            "--host", metavar="ADDRESS", help="Where to listen; with --dev-anonymous on this machine only."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65535, metavar="N", help="The port, by default the setting's."),
    ] = None,
    dev_anonymous: Annotated[
        bool,
        typer.Option(
            "--dev-anonymous",
            help="Let whoever reaches it in as operator and administrator, without asking who they are: for development, on this machine.",
        ),
    ] = False,
    work: flags.Work = None,
    data: flags.Data = None,
    verbose: flags.Verbose = False,
) -> None:
    """Serve plans, events, reports, dead letters and approvals over HTTP, until Ctrl-C.

    Callers show an API key, which `orchestrator keys create` makes, a session, or a token of the identity provider that
    the settings name. `/openapi.json` describes the routes.
    """
    chosen = doors.settings(data)
    if dev_anonymous:
        chosen = chosen.model_copy(update={"dev_anonymous": True})
    address = _loopback(host) if chosen.dev_anonymous else _named(host)
    with doors.opened(chosen, verbose=verbose) as core, contextlib.ExitStack() as stack:
        _log(chosen.log_level, verbose=verbose)
        if doors.alone(chosen) if work is None else work:
            stack.enter_context(doors.working(core))
        _serve(core, address, chosen.api_port if port is None else port, stack)


@app.command()
def chronos(*, data: flags.Data = None, verbose: flags.Verbose = False) -> None:
    """Fire schedules, until Ctrl-C. Any number of replicas may run: each tick is fired once."""
    chosen = doors.settings(data)
    stopping = signals.stopping()
    with doors.opened(chosen, verbose=verbose) as core:
        _log(chosen.log_level, verbose=verbose)
        with doors.firing(core):
            view.tell("Firing schedules. SIGTERM stops.", "green")
            stopping.wait()


def _log(level: str, *, verbose: bool) -> None:
    """Let a service log what its settings say, where nobody asked for more: nobody watches it as it runs."""
    # takes a while to import, which help and usage errors should not wait for
    from orchestrator import telemetry

    if not verbose:
        telemetry.configure(level)


def _named(host: str) -> str:
    if not host.strip():
        raise Invalid(
            "Name an address to listen on, such as 127.0.0.1; an empty one would be every one there is."
        )
    return host


def _loopback(host: str) -> str:
    if host.lower() == "localhost":
        return "127.0.0.1"
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return host
    raise Invalid(
        f"The API does not listen on {host} while it asks nobody who they are (--dev-anonymous or the setting "
        "dev_anonymous): whoever reached that address could read and decide everything. Listen on 127.0.0.1, or make "
        "callers show keys."
    )


def _serve(core: Core, host: str, port: int, stack: contextlib.ExitStack) -> None:
    # both take a while to import, which help and usage errors should not wait for
    import uvicorn

    from orchestrator import api as http
    from orchestrator import wiring
    from orchestrator.api import identity
    from workers import wiring as working

    _refuse_exposed(core)
    stopping = threading.Event()
    judge = working.enforcer(core.settings)
    tools = stack.enter_context(contextlib.closing(working.tool_host(core)))
    talker, desk = working.talk(core, judge, tools), working.desk(core, judge, tools)
    rates = stack.enter_context(wiring.rates(core.settings))
    front = identity.reception(
        core.settings, ring=core.keyring, rates=rates, judge=judge, agents=working.granted()
    )
    if core.settings.dev_anonymous:
        view.tell(
            "NOBODY IS ASKED WHO THEY ARE: whoever reaches this port on this machine is operator and administrator. "
            "Never do this where others can log in.",
            "bold red",
        )
    elif not core.settings.own_hosts and not http.is_loopback(host):
        view.tell(
            "It answers under no name that other machines use: list its names in trusted_hosts.", "yellow"
        )
    config = uvicorn.Config(
        http.build(
            core,
            reception=front,
            hosts=core.settings.own_hosts,
            stopping=stopping,
            talker=talker,
            desk=desk,
            listener=working.listener(talker),
        ),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    with _listening(config) as listener:
        server = _server(config, stopping)

        def told(*_: object) -> None:
            # before the server handles signals, this ends it as soon as it has begun; after, it has been obeyed
            stopping.set()
            server.should_exit = True

        signal.signal(signal.SIGTERM, told)
        shown = f"[{host}]" if ":" in host else host
        view.tell(f"Serving on http://{shown}:{listener.getsockname()[1]} — Ctrl-C stops.", "green")
        server.run(sockets=[listener])


def _refuse_exposed(core: Core) -> None:
    """Raise `Misconfigured` where Postgres would show one tenant what is another's."""
    # takes a second to import, which help and usage errors should not wait for
    from orchestrator.telemetry import log

    exposed = core.store.exposure()
    if exposed is not None:
        log.error("tenants.exposed", error=exposed)
        raise Misconfigured(f"The API does not start, for tenants would not be kept apart. {exposed}")


@contextlib.contextmanager
def _listening(config: uvicorn.Config) -> Iterator[Any]:
    refused = f"The API cannot listen on {config.host}:{config.port}; another program may. Name another with --port."
    try:
        listener = config.bind_socket()
    except SystemExit as taken:  # uvicorn's way to say that the address is taken
        raise Unavailable(refused) from taken
    with contextlib.closing(listener):
        try:
            # whoever connects once it is said where waits for the server, which takes a moment to begin
            listener.listen(config.backlog)
        except OSError as taken:
            raise Unavailable(refused) from taken
        yield listener


def _server(config: uvicorn.Config, stopping: threading.Event) -> uvicorn.Server:
    import uvicorn  # `_serve` has imported it already

    class Server(uvicorn.Server):
        """One that tells its streams to end when it is told to, and ends at once when it is told again."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            stopping.set()
            super().handle_exit(sig, frame)

    return Server(config)
