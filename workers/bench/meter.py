"""Reads what processes and Postgres have used so far: processor seconds by kind of process, bytes of WAL.

Processor time is read from /proc, with that of children that have ended, so it is there on Linux only and for servers
that run on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import psycopg

_TICKS = os.sysconf("SC_CLK_TCK")
_LISTENS = "0A"


def cpu_s(roots: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """Return the processor seconds of each kind's processes and their children until now."""
    parents, used = _table()
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    total: dict[str, float] = {}
    for kind, pids in roots.items():
        waiting, seen = [pid for pid in pids if pid in used], set[int]()
        while waiting:
            pid = waiting.pop()
            if pid not in seen:
                seen.add(pid)
                waiting += children.get(pid, [])
        total[kind] = sum(used[pid] for pid in seen) / _TICKS
    return total


def _table() -> tuple[dict[int, int], dict[int, int]]:
    parents, used = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        used[pid] = sum(int(field) for field in fields[11:15])
    return parents, used


def server_of(dsn: str) -> list[int]:
    """The process of a Postgres on this machine: the parent of the one that serves a connection."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        parent = _table()[0].get(int(row[0]) if row else 0)
    return [parent] if parent else []


def listener_on(port: int) -> list[int]:
    """The process of this machine that listens on a port; none where that cannot be seen."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        file = Path("/proc/net") / table
        for line in file.read_text().splitlines()[1:] if file.exists() else ():
            fields = line.split()
            if fields[3] == _LISTENS and int(fields[1].rsplit(":", 1)[1], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(opened.readlink()) in sockets:
                return [int(opened.parts[2])]
        except OSError:
            continue  # it has ended, or is somebody else's
    return []


def wal_bytes(dsn: str) -> int:
    """Bytes of WAL that this Postgres has ever written."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_current_wal_lsn() - '0/0'").fetchone()
    return int(row[0]) if row else 0
