"""The command line. This door alone turns errors into sentences and exit codes; no traceback passes it."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Final, NoReturn

import typer

from orchestrator.domain.errors import NotFound, OrchestratorError
from workers.cli import (
    approvals,
    audit,
    bench,
    chat,
    config,
    conversations,
    dead,
    doctor,
    eval,  # noqa: A004 - the verb's name
    exits,
    folders,
    keys,
    notifications,
    plans,
    policies,
    reports,
    research,
    sandbox,
    schedules,
    secrets,
    serve,
    tenants,
    up,
    view,
    worker,
)

NAME: Final = "orchestrator"

_CODES = "\n".join(f"- {code}: {meaning}" for code, meaning in exits.MEANINGS.items())

app = typer.Typer(
    name=NAME,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Research agents that cannot lose work: every step is durable, every call audited, every sentence cited.",
    epilog=f"Exit codes:\n\n{_CODES}",
)


def _version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata  # brings a mail parser with it, which only this question needs

        try:
            version = importlib.metadata.version(NAME)
        except importlib.metadata.PackageNotFoundError:
            version = "(not installed)"
        view.put(f"{NAME} {version}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


app.command("research")(research.research)
app.command("chat")(chat.chat)
app.add_typer(conversations.app, name="conversations")
app.add_typer(plans.app, name="plans")
app.add_typer(reports.app, name="report")
app.add_typer(dead.app, name="dead")
app.add_typer(approvals.app, name="approvals")
app.add_typer(notifications.app, name="notifications")
app.add_typer(schedules.app, name="schedules")
app.add_typer(tenants.app, name="tenants")
app.add_typer(secrets.app, name="secrets")
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
app.add_typer(policies.app, name="policy")
app.add_typer(config.app, name="config")
app.command("up")(up.up)
app.add_typer(serve.app, name="serve")
app.add_typer(worker.app, name="worker")
app.command("doctor")(doctor.doctor)
app.add_typer(sandbox.app, name="sandbox")
app.command("bench")(bench.bench)
app.command("eval")(eval.evaluate)
app.command("new-agent")(folders.new_agent)
app.command("language-reference")(folders.language_reference)


def main() -> NoReturn:
    """Run the program on this process's arguments, and end it."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a narrow encoding must not end the program
    _leave(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the program on these arguments, and return its exit code."""
    as_json = "--json" in arguments
    try:
        returned = app(args=list(arguments), prog_name=NAME, standalone_mode=False)
        sys.stdout.flush()
    except exits.Ended as ended:
        return ended.code
    except exits.Terminated:
        return _interrupted(exits.TERMINATED)
    except KeyboardInterrupt:
        return _interrupted(exits.INTERRUPTED)
    except typer.TyperException as error:
        return _refuse_usage(error, as_json=as_json)
    except typer.Abort:
        return _interrupted(exits.INTERRUPTED)
    except OrchestratorError as error:
        return _say(exits.code_of(error), error.code, _hinted(error), as_json=as_json)
    except BrokenPipeError:
        return exits.PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the door: nobody is shown a traceback who did not ask for one
        return _unforeseen(error, arguments, as_json=as_json)
    else:
        code = returned if isinstance(returned, int) else exits.FINE
        return _interrupted(code) if code == exits.INTERRUPTED else code


def _terminate(_: int, __: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one is meant
    raise exits.Terminated


def _leave(code: int) -> NoReturn:
    """End the process now. Python's own way takes half a second, and waits for steps that are thought through."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    atexit._run_exitfuncs()  # noqa: SLF001 - what others left to be done at the end still is
    os._exit(code)


def _interrupted(code: int) -> int:
    view.tell("Interrupted; what was begun is kept.", "yellow")
    return code


def _refuse_usage(error: typer.TyperException, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", NAME)
    message = error.format_message().strip()
    if not message:  # no arguments: the help has been printed
        return exits.USAGE
    stop = "" if message[-1] in ".?!" else "."
    return _say(exits.USAGE, "usage", f"{message}{stop} See `{path} --help`.", as_json=as_json)


def _hinted(error: OrchestratorError) -> str:
    lists = {
        "plan": "plans list",
        "dead letter": "dead list --all",
        "conversation": "conversations list",
        "approval": "approvals list --all",
        "secret": "secrets list",
        "API key": "keys list",
    }
    if isinstance(error, NotFound) and error.what in lists:
        return f"{error} `{NAME} {lists[error.what]}` lists those there are."
    return str(error)


def _unforeseen(error: Exception, arguments: Sequence[str], *, as_json: bool) -> int:
    if type(error).__module__.startswith("psycopg"):
        told = f"Postgres does not do what it should: {view.one_line(error, 300)} See `{NAME} doctor`."
        return _say(exits.UNAVAILABLE, "unavailable", told, as_json=as_json)
    if "--verbose" in arguments:
        traceback.print_exc()
    told = f"A fault in this program: {type(error).__name__}: {view.one_line(error, 300)}"
    return _say(exits.FAULT, "fault", told, as_json=as_json)


def _say(code: int, name: str, message: str, *, as_json: bool) -> int:
    if as_json:
        view.put_json({"error": {"code": name, "message": view.clean(message)}})
    view.tell(f"{NAME}: {message}", "red")
    return code
