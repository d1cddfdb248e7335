"""One replica of Chronos as a process of its own, by a clock in a file; a test starts, stops and kills it.

    chronos_replica.py DSN CLOCK [--hang N]

With `--hang`, its Nth firing prints `inside` before its transaction ends, and waits there for a line of input.
"""

import argparse
import sys
import time
import uuid
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from orchestrator import telemetry
from orchestrator.chronos import Chronos
from orchestrator.conductor import Conductor, Rules
from orchestrator.store import PgStore
from orchestrator.vault.chain import Sealer


class Hanging(Conductor):
    """A conductor that stands still inside the transaction of one submission."""

    left = 0

    def submit_within(self, *arguments, **rest):
        plan = super().submit_within(*arguments, **rest)
        Hanging.left -= 1
        if Hanging.left == 0:
            print("inside", flush=True)
            sys.stdin.readline()
        return plan


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dsn")
    parser.add_argument("clock", type=Path)
    parser.add_argument("--hang", type=int, default=0)
    given = parser.parse_args()
    Hanging.left = given.hang
    telemetry.configure("critical")
    store = PgStore(given.dsn, size=2, now=lambda: datetime.fromisoformat(given.clock.read_text()))
    conductor = Hanging(
        store, Sealer(b"a key for tests"), new_id=lambda: str(uuid.uuid4()), draw=lambda: 0.5, rules=Rules()
    )
    chronos = Chronos(store, conductor)
    print("ready", flush=True)
    while True:
        chronos.tick()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
