"""Where faults strike: a database and a broker of its own, two machines' worth of processes, and the wires between.

machine A: step worker, completions, dead letters, relay      on Postgres and RabbitMQ directly
machine B: step worker, completions, relay                    through a proxy to each; can be trapped
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from orchestrator.wiring import core
from scripts import services
from tests.broker import Broker, name_of
from tests.chaos.proxy import Proxy
from tests.fleet import Fleet

LEASE_S = 2.0
ATTEMPTS = 10


class Database:
    """A Postgres server of its own that can be killed and comes back at the same address, with its disk."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._home = services.scratch("orc-pg-")
        self._stack.callback(shutil.rmtree, self._home, ignore_errors=True)
        self._running = ExitStack()
        self._prefix = f"chaos_{uuid4().hex[:8]}"
        self._numbers = count(1)
        self._port: int | None = None
        self._start()

    def _start(self) -> None:
        self._server = self._running.enter_context(services.postgres(self._home, port=self._port))
        self._port = urlsplit(self._server.url).port

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def address(self) -> tuple[str, int]:
        at = urlsplit(self.url)
        return at.hostname or "127.0.0.1", at.port or 5432

    def create(self) -> str:
        """The address of a new, empty database."""
        name = f"{self._prefix}_{next(self._numbers)}"
        self.does(f"CREATE DATABASE {name}")
        return self.url.rsplit("/", 1)[0] + f"/{name}"

    def does(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def close(self) -> None:
        self._running.close()
        self._stack.close()

    def kill(self) -> None:
        """End the server with all its processes, without a goodbye."""
        if self._server.pid is None:
            raise services.ServiceMissing(
                "This test kills Postgres, which needs a server that the suite starts: "
                "unset ORCHESTRATOR_TEST_DATABASE_URL, and install Debian's package postgresql."
            )
        for pid in (self._server.pid, *children(self._server.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_again(self) -> None:
        self._running.close()
        self._start()

    @contextlib.contextmanager
    def read_only(self):
        """Let every transaction that begins now be one that may not write."""
        self.does("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            yield
        finally:
            self.does("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still live."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(status.parent.name))
    return found


class Site:
    """A fleet at work, and what it stands on."""

    def __init__(self, database: Database, rabbit: Broker, *, unheard_after_s: float) -> None:
        self.database, self.rabbit = database, rabbit
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="orc-fleet-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.traps = self.folder / "traps"
        self.traps.mkdir()
        self.dsn = database.create()
        self.vhost = self._stack.enter_context(rabbit.vhost())
        at = urlsplit(self.vhost)
        self.to_postgres = self._proxy(*database.address)
        self.to_rabbit = self._proxy(at.hostname or "127.0.0.1", at.port or 5672)
        self.fleet = Fleet(
            self.dsn,
            self.vhost,
            self.folder,
            lease_s=LEASE_S,
            unheard_after_s=unheard_after_s,
            max_attempts=ATTEMPTS,
            backoff_base_s=0.1,
            backoff_cap_s=0.5,
            log_level="info",
        )
        self._stack.callback(self.fleet.kill)
        self.opened = self._stack.enter_context(core(self.fleet.settings))
        self._start()

    def _proxy(self, host: str, port: int) -> Proxy:
        made = Proxy(host, port)
        self._stack.callback(made.close)
        return made

    def _start(self) -> None:
        b = {
            "database_url": moved(self.dsn, self.to_postgres.port),
            "broker_url": moved(self.vhost, self.to_rabbit.port),
        }
        for role in ("scripted", "completions", "relay", "dead"):
            self.fleet.start(role)
        # one of the step workers acknowledges at once, as all do whose steps are long
        self.fleet.start("scripted", acknowledge_after_s=0, **b)
        for role in ("trapped completions", "trapped relay"):
            self.fleet.start(role, **b)

    def opens_doors(self) -> None:
        """Serve HTTP as well."""
        self.apis = []
        for _ in range(2):
            port = services.free_port()
            self.fleet.start("api", "--port", str(port))
            self.apis.append(f"http://127.0.0.1:{port}")

    def close(self) -> None:
        self._stack.close()

    @property
    def broker_name(self) -> str:
        return name_of(self.vhost)


def moved(url: str, port: int) -> str:
    """The same address at another port."""
    at = urlsplit(url)
    user, _, _ = at.netloc.rpartition("@")
    return at._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()
