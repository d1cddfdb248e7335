"""Runs a command, and runs it again when it dies, until told to stop.

python scripts/again.py COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

_PAUSE_S = 1.0


def main() -> int:
    """Run until SIGTERM or SIGINT, which is passed on."""
    stopping = threading.Event()
    child: subprocess.Popen[bytes] | None = None

    def stop(*_: object) -> None:
        stopping.set()
        if child is not None and child.poll() is None:
            child.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while not stopping.is_set():
        child = subprocess.Popen(sys.argv[1:])
        if stopping.is_set():
            child.terminate()
        code = child.wait()
        if not stopping.is_set():
            print(f"ended with {code}; starting again", flush=True)
            stopping.wait(_PAUSE_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
