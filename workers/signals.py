"""How a process of the fleet is told to end: the first SIGTERM or Ctrl-C politely, the second at once.

SIGQUIT is left as the system has it, and ends a process at once. Nothing is lost either way: what was in hand is in
Postgres, under a claim that goes with the process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Final

POLITE: Final = (signal.SIGTERM, signal.SIGINT)


def once(act: Callable[[], None]) -> None:
    """Do this at the first of these signals; the next one is the system's, which no busy thread can hold up."""

    def first(*_: object) -> None:
        for number in POLITE:
            signal.signal(number, signal.SIG_DFL)
        act()

    for number in POLITE:
        signal.signal(number, first)


def stopping() -> threading.Event:
    """Return an event that is set when this process is told to stop."""
    told = threading.Event()
    once(told.set)
    return told
