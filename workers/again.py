"""Does something now and then for as long as the process lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable


def every(seconds: float, look: Callable[[], object], *, name: str) -> None:
    """Start a thread of this name that looks every so many seconds, and ends with its process."""
    pause = threading.Event()  # never set

    def watch() -> None:
        while not pause.wait(seconds):
            look()

    threading.Thread(target=watch, name=name, daemon=True).start()
