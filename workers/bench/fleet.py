"""A fleet to be measured: its processes, on servers that hold nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from orchestrator.bus import RabbitBus
from orchestrator.domain.errors import Conflict, Misconfigured, Unavailable
from orchestrator.messages import Topic
from orchestrator.settings import PREFIX, Settings
from orchestrator.wiring import Core, core
from workers.bench import meter

_START_S = 60.0


class Fleet:
    """Processes by kind, and the servers they work on."""

    def __init__(self, opened: Core, chosen: Settings, folder: Path) -> None:
        self.opened = opened
        self._folder = folder
        own = {PREFIX + key.upper(): str(value) for key, value in chosen.model_dump().items()}
        # what a submission costs is measured, and not how many a caller may make
        free = {
            "ORCHESTRATOR_DEV_ANONYMOUS": "true",
            "ORCHESTRATOR_RATE_READ_PER_MINUTE": "1000000",
            "ORCHESTRATOR_RATE_WRITE_PER_MINUTE": "1000000",
        }
        self._environment = {**os.environ, **own, **free}
        self._members: dict[str, list[subprocess.Popen[bytes]]] = {}
        port = urlsplit(chosen.broker_url).port or 5672
        self._servers = {"postgres": meter.server_of(opened.dsn), "rabbitmq": meter.listener_on(port)}

    def start(self, kind: str, number: int = 1, *, pause_s: float = 0.0) -> None:
        """Start that many processes of a kind: steps, completions, relay, dead or api."""
        command = {
            "steps": ["-m", "workers.bench.member", str(pause_s)],
            "api": ["-m", "workers.cli", "serve", "api", "--port", "0"],
        }.get(kind, ["-m", "workers.cli", "worker", kind])
        for _ in range(number):
            with (self._folder / f"{kind}.log").open("ab") as out:
                process = subprocess.Popen(
                    [sys.executable, *command], env=self._environment, stdout=out, stderr=out
                )
            self._members.setdefault(kind, []).append(process)

    def await_workers(self, number: int) -> None:
        """Wait until that many step workers hold a number of their own, which is when they take messages."""
        give_up = time.monotonic() + _START_S
        while self.opened.store.workers() < number:
            if time.monotonic() > give_up:
                raise Conflict(f"The fleet did not start within {_START_S:g} s.\n{self.said()}")
            time.sleep(0.1)

    def kill(self, kind: str, *, first: int | None = None) -> None:
        """End processes of a kind without a goodbye; all of them, or the first few."""
        members = self._members.get(kind, [])
        for process in members[:first]:
            process.kill()
            process.wait()
        self._members[kind] = members[first:] if first else []

    def stop(self) -> None:
        """End everything."""
        for process in (p for members in self._members.values() for p in members):
            process.terminate()
        for process in (p for members in self._members.values() for p in members):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds by kind of process until now; this one's are `submit`."""
        members = {kind: [p.pid for p in members] for kind, members in self._members.items()}
        return {"submit": time.process_time(), **meter.cpu_s({**members, **self._servers})}

    def servers_cpu_s(self) -> dict[str, float]:
        """Processor seconds of Postgres and RabbitMQ until now."""
        return meter.cpu_s(self._servers)

    def said(self) -> str:
        """The end of what each kind of process said, for whoever must find out why one did not start."""
        return "\n".join(
            f"{f.stem}: {f.read_text(errors='replace')[-800:]}" for f in self._folder.glob("*.log")
        )


@contextmanager
def fleet(chosen: Settings) -> Iterator[Fleet]:
    """Open a fleet without processes, on the Postgres and RabbitMQ of the settings.

    Raises `Misconfigured` without servers, and `Conflict` where they hold anything: what is measured would mix with it.
    """
    if not chosen.database_url or chosen.broker_url.startswith("memory:"):
        raise Misconfigured(
            "These runs need servers of their own: `make bench` brings them up, or set "
            "ORCHESTRATOR_DATABASE_URL and ORCHESTRATOR_BROKER_URL to empty ones."
        )
    with (
        tempfile.TemporaryDirectory(prefix="orc-bench-") as folder,
        _own_database(chosen.database_url) as dsn,
    ):
        quiet = chosen.model_copy(
            update={
                "database_url": dsn,
                "log_level": "error",
                "data_dir": folder,
                "audit_key_file": f"{folder}/audit.key",
            }
        )
        _must_be_idle(quiet.broker_url)
        with core(quiet) as opened:
            made = Fleet(opened, quiet, Path(folder))
            try:
                yield made
            finally:
                made.stop()


@contextmanager
def _own_database(url: str) -> Iterator[str]:
    """Make a database beside the one that is named, and drop it afterwards: what is measured must not lie about."""
    name = f"orchestrator_bench_{uuid4().hex[:12]}"
    own = (
        urlsplit(url)._replace(path=f"/{name}").geturl() if "://" in url else make_conninfo(url, dbname=name)
    )
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except psycopg.errors.InsufficientPrivilege as error:
        raise Misconfigured(
            "These runs need a role that may create databases; `make bench` brings a server with one."
        ) from error
    except psycopg.OperationalError as error:
        raise Unavailable(f"Postgres does not answer: {error}") from error
    try:
        yield own
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )


def _must_be_idle(broker_url: str) -> None:
    bus = RabbitBus(broker_url)
    try:
        waiting = sum(bus.depth(topic) for topic in Topic)
    finally:
        bus.close()
    if waiting:
        raise Conflict(
            f"This broker holds {waiting} messages. Measure on an empty one: `make bench` brings one up."
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a share (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
