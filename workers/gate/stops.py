"""The kill switch: a file that says what must not go on, read again before every call.

    # one target in a line, and why
    tenant:acme      under investigation
    tool:fetch_url   the site asked us to stop
    plan:0192…       runs in circles
    all

What cannot be read stops everything: a switch that fails must fail as if it were thrown.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

TARGET: Final = re.compile(r"all|(?:tenant|tool|plan):[A-Za-z0-9 ._@+=-]{1,200}")


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

    def of(self, *, tenant: str, tool: str, plan_id: str) -> list[str]:
        """Return which targets that are stopped concern a call."""
        concerned = ("all", f"tenant:{tenant}", f"tool:{tool}", f"plan:{plan_id}")
        stopped = self.now()
        return [target for target in concerned if target in stopped]


def parsed(text: str) -> Mapping[str, str]:
    """Return the targets of a file's text with their reasons; raises `ValueError` for a line that names none."""
    stopped: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        told = line.partition("#")[0].strip()
        if not told:
            continue
        target, _, why = told.partition(" ")
        if not TARGET.fullmatch(target):
            raise ValueError(f"line {number} must begin with all, tenant:…, tool:… or plan:…")
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
