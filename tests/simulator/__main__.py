"""The simulator's command line: many worlds at once, or one told in full."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

from tests.simulator.promises import Broken
from tests.simulator.world import World

CHUNK = 250
UNFORESEEN = "unforeseen"


@dataclass(slots=True)
class Tally:
    """What came of a run of seeds; `broken` is the first seed that broke a promise, and which."""

    seeds: int = 0
    last: int = 0
    counted: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    broken: tuple[int, str, str] | None = None

    def add(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.last = max(self.last, other.last)
        self.counted += other.counted
        self.faults += other.faults
        if other.broken is not None and (self.broken is None or other.broken < self.broken):
            self.broken = other.broken


def live(seeds: range) -> Tally:
    """Run the worlds of these seeds, up to the first that breaks a promise."""
    tally = Tally()
    for seed in seeds:
        world = World(seed)
        tally.seeds, tally.last = tally.seeds + 1, seed
        try:
            world.run()
        except Broken as broken:
            tally.broken = (seed, broken.promise, broken.how)
            break
        except Exception as error:  # noqa: BLE001  whatever a verb raises that nobody expects is broken, too
            tally.broken = (seed, UNFORESEEN, f"{type(error).__name__}: {error}")
            break
        finally:
            for kind, count in world.faults.items():
                tally.faults[kind] += count
            for kind, count in world.counted.items():
                tally.counted[kind] += count
    return tally


def history(seed: int) -> tuple[list[str], bool]:
    """One world told line by line, and whether it broke a promise."""
    lines: list[str] = []
    try:
        World(seed, lines.append).run()
    except Broken as broken:
        lines.append(f"BROKEN {broken}")
        return lines, True
    except Exception:  # noqa: BLE001  see above
        lines += [UNFORESEEN, *traceback.format_exc().splitlines()]
        return lines, True
    lines.append("every promise was kept")
    return lines, False


def run(seeds: range, jobs: int, *, progress: bool) -> Tally:
    """Run the worlds of these seeds in several processes; stop at the first broken promise."""
    chunks = [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]
    total = Tally()
    if jobs == 1:
        for chunk in chunks:
            total.add(live(chunk))
            if progress:
                _progress(total, len(seeds))
            if total.broken:
                break
        return total
    with ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(live, chunk) for chunk in chunks]
        for done in as_completed(waiting):
            total.add(done.result())
            if progress:
                _progress(total, len(seeds))
            if total.broken:
                pool.shutdown(cancel_futures=True)
                break
    return total


def _progress(total: Tally, wanted: int) -> None:
    sys.stderr.write(f"\r{total.seeds:,} of {wanted:,} seeds ")
    sys.stderr.flush()


def summary(total: Tally, seconds: float) -> str:
    """One line: what was run, how fast, what was done to it, what broke."""
    counted = ", ".join(f"{count:,} {kind}" for kind, count in sorted(total.counted.items(), reverse=True))
    faults = ", ".join(f"{kind} {count:,}" for kind, count in sorted(total.faults.items()))
    return (
        f"{total.seeds:,} seeds in {seconds:.1f} s ({total.seeds / seconds:,.0f} seeds/s), {counted}, "
        f"{sum(total.faults.values()):,} faults ({faults}), violations: {int(total.broken is not None)}, "
        f"last seed {total.last}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; 0 when every promise held."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many worlds (10,000)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (0)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="how many processes (one per core)"
    )
    parser.add_argument("--seed", type=int, help="one world only")
    parser.add_argument("--trace", action="store_true", help="tell that world's history")
    asked = parser.parse_args(arguments)
    if asked.seed is not None:
        lines, broken = history(asked.seed)
        sys.stdout.write("\n".join(lines if asked.trace or broken else lines[-1:]) + "\n")
        return int(broken)
    began = time.perf_counter()
    total = run(
        range(asked.start, asked.start + asked.seeds), max(1, asked.jobs), progress=sys.stderr.isatty()
    )
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    if total.broken is not None:
        seed, promise, how = total.broken
        sys.stdout.write("\n".join(history(seed)[0]) + "\n")
        sys.stdout.write(f"seed {seed} breaks {promise}: {how}\n")
    sys.stdout.write(summary(total, time.perf_counter() - began) + "\n")
    return int(total.broken is not None)


if __name__ == "__main__":
    sys.exit(main())
