"""The file of checkpoints outside the database: one a line, only ever appended to, and on the disk before it counts.

It is worth as much as the place it is kept in: put it on storage that the database's administrators cannot write to,
or ship each line away as it comes.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.domain.errors import Unavailable

_BLOCK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Outside:
    """One file of checkpoints."""

    path: Path

    @property
    def exists(self) -> bool:
        """Whether there is such a file."""
        return self.path.exists()

    def lines(self) -> Sequence[bytes]:
        """Return all whole lines; what a crash left of a line at the end is given as it is."""
        try:
            return [line for line in self.path.read_bytes().split(b"\n") if line.strip()]
        except OSError as error:
            raise Unavailable(f"The checkpoints in {self.path} cannot be read: {error.strerror}.") from error

    @contextmanager
    def held(self) -> Iterator[int]:
        """Hold the file for appending, for as long as the block lasts; other processes wait. It is made if need be."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise Unavailable(
                f"The checkpoints in {self.path} cannot be written: {error.strerror}."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        except OSError as error:
            raise Unavailable(
                f"The checkpoints in {self.path} cannot be written: {error.strerror}."
            ) from error
        finally:
            os.close(descriptor)


def last_line(descriptor: int) -> bytes:
    """Return the last line, and take away what a crash left behind it; nothing when there is none."""
    size = os.fstat(descriptor).st_size
    text = b""
    while size > 0 and text.rstrip(b"\n").count(b"\n") < (1 if text.endswith(b"\n") else 2):
        begin = max(0, size - _BLOCK)
        text = os.pread(descriptor, size - begin, begin) + text
        size = begin
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        os.ftruncate(descriptor, size + whole)
    return text[:whole].rstrip(b"\n").rpartition(b"\n")[2]


def append(descriptor: int, lines: Sequence[bytes]) -> None:
    """Append lines; they are on the disk when this returns."""
    for line in lines:
        left = memoryview(line)
        while left:
            left = left[os.write(descriptor, left) :]
    if lines:
        os.fsync(descriptor)
