"""A step worker of the fleet whose minds think nothing.

python -m workers.bench.member [PAUSE_S]
"""

from __future__ import annotations

import sys

from orchestrator import settings, telemetry
from orchestrator.wiring import core
from workers.bench import minds
from workers.steps import carry
from workers.wiring import Hands


def main() -> None:
    """Take steps until told to stop."""
    thinking = minds.idle(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0)
    chosen = settings.load()
    telemetry.configure(chosen.log_level)
    with core(chosen) as opened:
        carry(opened, make_hands=lambda core: Hands(core, minds=thinking))


if __name__ == "__main__":
    main()
