"""Looks at everything this program needs; each check says how it is, and what to do if it is not well."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg

from agents import profiles
from orchestrator import chains, database, house, locks, prompts
from orchestrator.domain.errors import Misconfigured, OrchestratorError
from orchestrator.inmemory import InMemoryStore
from orchestrator.settings import Settings
from workers import wiring
from workers.cli import config, doors, view
from workers.cli.exits import FAILED, FINE, Ended
from workers.gate.policy import CAPABILITIES, EmbeddedEnforcer, PolicyLoadError
from workers.toolhost import egress, live, memory, model, offer, registry, sandbox, sql, stock, web
from workers.toolhost.documents import semantic
from workers.toolhost.documents import server as documents_server
from workers.toolhost.host import ToolHost
from workers.toolhost.models import catalogue, wire

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"

_LEAST_PYTHON: Final = (3, 11)
_GB: Final = 1024**3
_MB: Final = 1024**2


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: how it is, and what to do if it is not well."""

    what: str
    state: str
    said: str
    todo: str = ""

    def as_json(self) -> dict[str, str]:
        """The same as JSON."""
        return {"what": self.what, "state": self.state, "said": self.said, "todo": self.todo}


def sound(found: Sequence[Check]) -> bool:
    """Whether nothing failed."""
    return all(check.state != FAIL for check in found)


def put(found: Sequence[Check]) -> None:
    """Print checks as a table."""
    view.put_table(
        ("what", "state", "found", "what to do"), [(c.what, c.state, c.said, c.todo) for c in found]
    )


def conclude(found: Sequence[Check]) -> None:
    """End the program by how the checks went."""
    failed = sum(check.state == FAIL for check in found)
    warned = sum(check.state == WARN for check in found)
    if failed:
        view.tell(f"{view.many(failed, 'thing')} must be mended before this program can work.", "red")
    elif warned:
        view.tell(f"It works; {view.many(warned, 'thing')} could be better.", "yellow")
    else:
        view.tell("Everything is well.", "green")
    raise Ended(FAILED if failed else FINE)


def everything(chosen: Settings) -> Iterator[Check]:
    """Look at everything, one thing after the other."""
    yield _python()
    yield from _folder(chosen)
    yield from _database(chosen)
    yield from redis(chosen)
    yield from policy_server(chosen)
    yield _key("audit key", chosen.data / "keys" / "audit.key")
    yield from _secrets_key(chosen)
    yield from files(chosen)
    yield from _tools(chosen)
    yield from databases(chosen)
    yield sandboxed(sandbox.verdict(chosen))
    yield _full_text()
    yield from meaning(chosen)
    yield from models(chosen)
    for sentence in config.strangers(os.environ, chosen):
        yield Check("environment", WARN, sentence, "Correct its name, or unset it.")


def files(chosen: Settings) -> list[Check]:
    """Look at the files that decide what agents are and may do."""
    return [
        _loaded(
            "profiles",
            lambda: view.many(len(profiles.load(house.path("agents"))), "agent"),
            profiles.ProfileError,
        ),
        _loaded(
            "tools",
            lambda: view.many(len(registry.load(chosen.tool_registry).tools), "tool"),
            registry.RegistryError,
        ),
        _loaded(
            "policies",
            lambda: f"revision {EmbeddedEnforcer(house.path('policies')).revision}, its own tests hold",
            PolicyLoadError,
        ),
        _loaded(
            "prompts", lambda: view.many(len(prompts.load(chosen.prompts).domains), "domain"), Misconfigured
        ),
        _loaded("approvals", lambda: f"{len(chains.load(timedelta(days=1)))} categories", Misconfigured),
    ]


def _loaded(what: str, load: Callable[[], str], refused: type[Exception]) -> Check:
    try:
        return Check(what, OK, load())
    except refused as error:
        return Check(what, FAIL, view.one_line(error, 300), "Correct the file.")
    except FileNotFoundError as error:
        return Check(what, FAIL, str(error), "Install the program again.")


def _python() -> Check:
    have = platform.python_version()
    if sys.version_info < _LEAST_PYTHON:
        return Check("python", FAIL, have, "Use Python 3.11 or newer.")
    return Check("python", OK, have)


def _folder(chosen: Settings) -> Iterator[Check]:
    folder = chosen.data
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        todo = "Name a folder that you may write to, with --data or ORCHESTRATOR_DATA_DIR."
        yield Check("data folder", FAIL, f"{folder}: {error.strerror}", todo)
        return
    yield Check("data folder", OK, str(folder))
    free = shutil.disk_usage(folder).free
    state = OK if free > _GB else WARN if free > 100 * _MB else FAIL
    yield Check("free space", state, f"{free / _GB:.1f} GB", "" if state == OK else "Make room on that disk.")


def _database(chosen: Settings) -> Iterator[Check]:
    which = "postgres" if chosen.database_url else "postgres (embedded)"
    try:
        with doors.opened(chosen) as core, psycopg.connect(core.dsn) as connection:
            version = connection.info.server_version
            exposed = core.store.exposure()
    except (OrchestratorError, psycopg.Error, OSError) as error:
        todo = (
            "Check ORCHESTRATOR_DATABASE_URL, and that the server runs."
            if chosen.database_url
            else "Look at its log, or name another --data."
        )
        yield Check(which, FAIL, view.one_line(error, 300), todo)
        return
    yield Check(which, OK, f"version {version // 10000}.{version % 10000}")
    yield Check("schema", OK, f"revision {database.head()}, up to date")
    if exposed is None:
        yield Check("tenants", OK, "Postgres shows none of them what is another's")
    else:
        todo = "Serve nobody until it is mended; migrations/schema.sql has every policy and grant."
        yield Check("tenants", FAIL, view.one_line(exposed, 300), todo)


def redis(chosen: Settings) -> list[Check]:
    """Look whether the Redis that is configured, if any, gives locks; nothing needs them."""
    if not chosen.redis_url:
        return []
    try:
        fault = locks.fault(chosen.redis_url)
    except Misconfigured as error:
        return [Check("redis", FAIL, str(error), "Correct ORCHESTRATOR_REDIS_URL.")]
    if fault:
        todo = (
            "Start it, or correct ORCHESTRATOR_REDIS_URL; until then there are no locks, and all else works."
        )
        return [Check("redis", WARN, view.one_line(fault, 300), todo)]
    return [Check("redis", OK, "it answers, and gives locks")]


def policy_server(chosen: Settings) -> list[Check]:
    """Ask the OPA server that is configured, if any, a question to which any policy says no."""
    if not chosen.opa_url:
        return []
    try:
        decision = wiring.enforcer(chosen).decide(CAPABILITIES, {})
    except Misconfigured as error:
        return [Check("policy server", FAIL, str(error), "Correct ORCHESTRATOR_OPA_URL.")]
    if decision.failed:
        todo = "Start it over a bundle, or correct ORCHESTRATOR_OPA_URL; until then nothing is allowed."
        return [Check("policy server", FAIL, view.one_line(decision.detail, 300), todo)]
    ours = EmbeddedEnforcer(house.path("policies")).revision
    if decision.revision != ours:
        said = f"revision {decision.revision}, and this program's own is {ours}"
        return [
            Check(
                "policy server",
                WARN,
                said,
                "Look whether that is meant; `orchestrator policy test --server`.",
            )
        ]
    return [Check("policy server", OK, f"revision {decision.revision}")]


def _key(what: str, path: Path) -> Check:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return Check(what, FAIL, f"{path}: {error.strerror}", "Mend what is wrong with the data folder.")
    if mode & 0o077:
        return Check(what, FAIL, f"others may read it (mode {mode:o})", f"chmod 600 {path}")
    return Check(what, OK, "only you may read it")


def _secrets_key(chosen: Settings) -> Iterator[Check]:
    path = Path(chosen.secrets_key_file or chosen.data / "keys" / "secrets.key").expanduser()
    if path.exists():  # it is made with the first secret
        yield _key("secrets key", path)


def _tools(chosen: Settings) -> Iterator[Check]:
    try:
        tools = registry.load(chosen.tool_registry)
    except (registry.RegistryError, FileNotFoundError):
        return  # said before
    try:
        models = catalogue.of(chosen)
    except Misconfigured:
        models = catalogue.Catalogue()  # said where models are looked at
    builtins: dict[str, Callable[[], Any]] = {
        **stock.servers(chosen),
        "documents": lambda: documents_server.build(chosen.roots, chosen.data / "indexes"),
        "model": lambda: model.build(models),
        "memory": lambda: memory.build(InMemoryStore(lambda: datetime.now(UTC)), frozenset),  # only listed
        "web": lambda: web.build(
            egress.Guard(egress.Rules.of(chosen.hosts, plain_http=chosen.egress_plain_http))
        ),
    }
    tools = offer.offered(tools, chosen, verdict=sandbox.verdict)
    for name, reason in tools.withheld.items():
        yield Check(f"tool {name}", OK, f"not offered: {reason}")
    host = ToolHost(tools, builtins)
    try:
        for name in tools.servers:
            if (name == "model" and not models.models) or not tools.of(name):
                continue
            if tools.servers[name].secrets:
                said = "not started: each tenant's calls start it with that tenant's secrets"
                yield Check(f"tool server {name}", OK, said)
                continue
            yield _server(host, tools, name)
    finally:
        host.close()


def _server(host: ToolHost, tools: registry.Registry, name: str) -> Check:
    what = f"tool server {name}"
    found = live.listed(tools, host, name)
    if found.silent:
        return Check(what, FAIL, view.one_line(found.silent, 300), "Check its entry in the tool registry.")
    if found.missing:
        todo = "Correct the names in the tool registry, or the server."
        return Check(what, FAIL, f"it does not offer {', '.join(found.missing)}", todo)
    ignored = f"; nobody may call its {', '.join(found.unlisted)}" if found.unlisted else ""
    return Check(
        what, OK, f"offers {view.many(len(tools.of(name)), 'registered tool')}{view.one_line(ignored, 200)}"
    )


def databases(chosen: Settings) -> Iterator[Check]:
    """Look whether each database that tools may read can be read."""
    for name, place in chosen.named_databases.items():
        what = f"database {name}"
        try:
            tables = sql.look(place)
        except sql.Unanswered as error:
            todo = "Correct its place in ORCHESTRATOR_DATABASES; until then what asks it fails."
            yield Check(what, WARN, view.one_line(error, 300), todo)
        else:
            todo = (
                "" if tables else "Look whether its place in ORCHESTRATOR_DATABASES is the one that is meant."
            )
            yield Check(what, OK if tables else WARN, view.many(tables, "table"), todo)


def sandboxed(verdict: sandbox.Verdict) -> Check:
    """Say whether generated code could be run here; nothing else needs it."""
    if verdict.enforced:
        return Check(
            "sandbox", OK, f"enforced; it withstood {view.many(len(verdict.tried), 'attack')} on itself"
        )
    return Check(
        "sandbox", OK, f"{offer.CODE} is withheld: {view.one_line(verdict.reason, 300)}", verdict.todo
    )


def _full_text() -> Check:
    try:
        with sqlite3.connect(":memory:") as connection:
            connection.execute("CREATE VIRTUAL TABLE words USING fts5 (body)")
    except sqlite3.Error as error:
        return Check("full-text search", FAIL, str(error), "Use a Python whose SQLite has FTS5.")
    finally:
        connection.close()
    return Check("full-text search", OK, f"SQLite {sqlite3.sqlite_version} with FTS5")


def meaning(chosen: Settings) -> Iterator[Check]:
    """Look whether documents can be searched by meaning, where that is wanted."""
    if not chosen.documents_semantic:
        return
    try:
        yield Check("search by meaning", OK, f"weights in {semantic.look()}")
    except Misconfigured as error:
        yield Check("search by meaning", FAIL, str(error), "Or unset ORCHESTRATOR_DOCUMENTS_SEMANTIC.")


def models(chosen: Settings) -> Iterator[Check]:
    """Look whether each language model that is configured is there to be asked."""
    try:
        found = catalogue.of(chosen)
    except Misconfigured as error:
        yield Check("model", FAIL, str(error), "Correct the file of models, or the settings.")
        return
    if not found.models:
        yield Check("model", OK, "none: extractive, reports quote word for word")
    for each in found.models.values():
        yield _model("model" if each.name == catalogue.ONLY else f"model {each.name}", each)


def _model(what: str, chosen: catalogue.Model) -> Check:
    if chosen.provider == "replay":
        if Path(chosen.file).expanduser().is_file():
            return Check(what, OK, f"answers from the recording {chosen.file}")
        return Check(
            what, FAIL, f"there is no recording {chosen.file}", "Name one that `plans record` wrote."
        )
    if not chosen.model:
        return Check(what, FAIL, "an address without a name", "Set ORCHESTRATOR_MODEL_NAME.")
    where, fault = wire.look(chosen.base_url)
    said = f"{chosen.model} at {where}"
    keyed = "" if os.environ.get(chosen.key_env) else f"Set {chosen.key_env} if the endpoint wants a key."
    if fault:
        todo = "Start it, or correct its address; until then what asks it is tried again, and given up on."
        return Check(
            what, WARN, f"{said} does not answer: {view.one_line(fault, 200)}", f"{todo} {keyed}".rstrip()
        )
    if keyed:
        return Check(what, WARN, f"{said}, no key", keyed)
    return Check(what, OK, said)
