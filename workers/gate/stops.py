"""The kill switch of one machine: a file that says what must not go on, read again before every call.

    # one target in a line, and why
    tenant:acme      under investigation
    tool:fetch_url   the site asked us to stop
    agent:coder      wait for the new sandbox
    plan:0192…       runs in circles
    all

It adds to what Postgres says is stopped for all machines, and works where Postgres does not. What cannot be read stops
everything: a switch that fails must fail as if it were thrown.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.domain import stop


class StopsUnreadableError(Exception):
    """Nobody can say what is stopped, so that everything is."""


class Stops:
    """What is stopped by a file, as it stands now; safe to share between threads.

    Without a file, nothing is; nor while one that may be missing is.
    """

    def __init__(self, file: Path | None = None, *, may_be_missing: bool = False) -> None:
        self._file = file
        self._may_be_missing = may_be_missing
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._stopped: Mapping[str, str] = {}

    def now(self) -> Mapping[str, str]:
        """Return what is stopped and why; raises `StopsUnreadableError` if the file cannot be read or understood."""
        if self._file is None:
            return {}
        try:
            with self._lock:
                found = self._file.stat()
                seen = (found.st_mtime_ns, found.st_size, found.st_ino)
                if seen != self._seen:
                    self._stopped = parsed(self._file.read_text(encoding="utf-8"))
                    self._seen = seen
                return self._stopped
        except (OSError, ValueError) as error:
            self._seen = None
            if isinstance(error, FileNotFoundError) and self._may_be_missing:
                return {}
            raise StopsUnreadableError(
                f"Everything is stopped: the stops in {self._file} cannot be read ({error})."
            ) from error

    def of(
        self, *, tenant: str, tool: str, agent: str = "", plan_id: str = "", rows: Iterable[stop.Stop] = ()
    ) -> list[str]:
        """Return which targets concern a call of those that are stopped here, or by `rows` for its tenant."""
        stopped = {*self.now(), *(row.target for row in rows)}
        return stop.concerning(stopped, tenant=tenant, tool=tool, agent=agent, plan_id=plan_id)


def parsed(text: str) -> Mapping[str, str]:
    """Return the targets of a file's text with their reasons; raises `ValueError` for a line that names none."""
    stopped: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        told = line.partition("#")[0].strip()
        if not told:
            continue
        target, _, why = told.partition(" ")
        if not stop.TARGET.fullmatch(target):
            raise ValueError(f"line {number} must begin with all, tenant:…, tool:…, agent:… or plan:…")
        stopped[target] = why.strip()
    return stopped


def put(file: Path, stopped: Mapping[str, str]) -> None:
    """Write what is stopped, all of it at once."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    lines = [
        f"{target} {' '.join(why.replace('#', ' ').split())}".rstrip() for target, why in stopped.items()
    ]
    beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    beside.replace(file)
