"""Where the program begins: whoever gives up while it still loads is told so, and shown no traceback."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Load the command line and run it."""
    try:
        # loading takes a moment, and Ctrl-C may come in it
        from workers import cli
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; nothing was begun.\n")
        sys.stderr.flush()
        os._exit(130)  # Python's own way would load the rest of what was interrupted
    cli.main()
