"""What the suites share: one Postgres for the whole run, and a fresh database for each test that asks for one.

The server is the product's embedded one, in a temporary folder. `ORCHESTRATOR_TEST_DATABASE_URL` names another to use
instead, by a role that may create databases; the suite creates its own there, and drops them.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Iterator
from itertools import count
from uuid import uuid4

import hypothesis
import psycopg
import pytest
import structlog
from psycopg import sql
from psycopg.conninfo import make_conninfo

from orchestrator import database
from orchestrator.store import PgStore
from orchestrator.vault.chain import Sealer
from scripts import services
from tests.broker import Broker
from tests.redis_server import RedisServer

# a shell that starts something in the background has it ignore these, and its children with it
for interruption, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(interruption) is signal.SIG_IGN:
        signal.signal(interruption, usual)

for name, derandomize in (("steady", True), ("search", False)):
    hypothesis.settings.register_profile(
        name,
        deadline=None,  # how long an example takes says how busy the machine is
        derandomize=derandomize,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        database=None,
    )
hypothesis.settings.load_profile("steady")
"""The same examples in every run, so that a change fails for what it changed; `--hypothesis-profile=search` tries others."""


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Put back what a test, or a program that it ran in this process, did to logging: the next one has its own output."""
    root = logging.getLogger()
    level, below = root.level, root.manager.disable
    yield
    root.setLevel(level)
    logging.disable(below)
    structlog.reset_defaults()


SERVER_VARIABLE = "ORCHESTRATOR_TEST_DATABASE_URL"
TEMPLATE_VARIABLE = "ORCHESTRATOR_TEST_TEMPLATE"
"""Names a migrated database on that server to copy: a suite run within a suite need not make its own."""


class Server:
    """A Postgres on which databases come and go."""

    def __init__(self, dsn: str, template: str | None = None) -> None:
        self.dsn = dsn
        self._prefix = f"orchestrator_test_{uuid4().hex[:8]}"
        self._numbers = count(1)
        self._template = template
        self._own_template: str | None = None

    def create(self, *, migrated: bool = True) -> str:
        """Return the address of a new database."""
        name = f"{self._prefix}_{next(self._numbers)}"
        template = self.template() if migrated else "template0"
        # a copy of files is three times faster than one through the log
        self._admin("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", name, template)
        return make_conninfo(self.dsn, dbname=name)

    def drop(self, dsn: str) -> None:
        """Remove a database, whoever is still connected to it."""
        name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        self._admin("DROP DATABASE IF EXISTS {} WITH (FORCE)", str(name))

    def template(self) -> str:
        """The database that the others are copies of: migrated once, and nobody is connected to it."""
        if self._template is None:
            name = f"{self._prefix}_template"
            self._admin("CREATE DATABASE {} TEMPLATE template0", name)
            database.migrate(make_conninfo(self.dsn, dbname=name))
            self._template = self._own_template = name
        return self._template

    def close(self) -> None:
        """Remove the template, if it is this server's own."""
        if self._own_template is not None:
            self.drop(make_conninfo(self.dsn, dbname=self._own_template))

    def _admin(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    given = os.environ.get(SERVER_VARIABLE)
    embedded, folder = None, None
    if given is None:
        # short, for the path of a socket may not be longer than some hundred characters
        folder = services.scratch("orc-")
        embedded = database.Embedded(folder)
        _hurry(embedded.dsn)
    server = Server(given or (embedded.dsn if embedded else ""), os.environ.get(TEMPLATE_VARIABLE))
    try:
        yield server
    finally:
        server.close()
        if embedded and folder:
            embedded.close()
            shutil.rmtree(folder, ignore_errors=True)


def _hurry(dsn: str) -> None:
    """Let the server forget everything at a power cut, and keep little of it in memory: its data end with the tests."""
    chosen = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_wal_size": "64MB"}
    with psycopg.connect(dsn, autocommit=True) as connection:
        for setting, value in chosen.items():
            statement = sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(setting), value)
            connection.execute(statement)
        connection.execute("SELECT pg_reload_conf()")


@pytest.fixture
def dsn(postgres_server: Server) -> Iterator[str]:
    """The address of a migrated database of this test's own."""
    made = postgres_server.create()
    yield made
    postgres_server.drop(made)


@pytest.fixture
def empty_dsn(postgres_server: Server) -> Iterator[str]:
    """The address of a database without any table."""
    made = postgres_server.create(migrated=False)
    yield made
    postgres_server.drop(made)


@pytest.fixture
def pg_store(dsn: str) -> Iterator[PgStore]:
    """A store on a fresh database, by the database's own clock."""
    store = PgStore(dsn, size=8)
    yield store
    store.close()


@pytest.fixture(scope="session")
def sealer() -> Sealer:
    return Sealer(b"a key for tests")


@pytest.fixture(scope="session")
def rabbit() -> Iterator[Broker]:
    """A real RabbitMQ, started when the first test asks for it."""
    broker = Broker()
    try:
        yield broker
    finally:
        broker.close()


@pytest.fixture
def vhost(rabbit: Broker) -> Iterator[str]:
    """The address of a virtual host of this test's own."""
    with rabbit.vhost() as url:
        yield url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real Redis, started when the first test asks for it."""
    server = RedisServer()
    try:
        yield server
    finally:
        server.close()
