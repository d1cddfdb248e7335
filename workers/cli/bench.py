"""`orchestrator bench`: what a step costs on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from workers.cli import flags, view


def bench(
    *,
    plans: Annotated[
        int, typer.Option("--plans", metavar="N", min=1, max=10_000, help="Plans of 8 steps.")
    ] = 100,
    as_json: flags.AsJson = False,
) -> None:
    """Measure steps per second, processor time and WAL for each step, next to the least that a step must cost.

    Both runs happen here and now on a Postgres of their own, so compare their ratio; seconds of another machine or
    another hour say little.
    """
    # takes a second to import, which help and usage errors should not wait for
    from orchestrator import telemetry
    from workers import bench as bench_

    telemetry.configure("error")
    measured = bench_.run(plans, view.tell)
    floor = measured[0]
    if as_json:
        view.put_json([m.as_json() for m in measured])
        return
    view.put_table(
        ["run", "steps", "steps/s", "CPU s / 1000 steps", "× floor", "WAL bytes / step", "× floor"],
        [
            [
                m.name,
                m.steps,
                f"{m.steps_per_s:,.0f}",
                f"{m.cpu_s:.2f}",
                f"{m.cpu_s / floor.cpu_s:.1f}" if floor.cpu_s else "?",
                f"{m.wal_bytes:,.0f}",
                f"{m.wal_bytes / floor.wal_bytes:.1f}" if floor.wal_bytes else "?",
            ]
            for m in measured
        ],
    )
