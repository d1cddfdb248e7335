"""`orchestrator bench`: what a step costs on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.domain.errors import Invalid
from workers.cli import doors, flags, view

if TYPE_CHECKING:
    from workers.bench.workloads import Table

_RUNS = ("embedded", "w1", "w2", "w3", "w4", "w5")


def bench(
    *,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="embedded, w1 (throughput), w2 (recovery), w3 (submissions), w4 (latency), w5 (fairness), or all.",
            show_default=False,
        ),
    ] = None,
    plans: Annotated[
        int | None,
        typer.Option(
            "--plans",
            metavar="N",
            min=1,
            max=10_000,
            help="Plans of 8 steps; each run has a number of its own.",
            show_default=False,
        ),
    ] = None,
    as_json: flags.AsJson = False,
) -> None:
    """Measure what a step costs here, next to the least that a step must cost.

    `embedded` needs nothing. The others run a fleet on ORCHESTRATOR_BROKER_URL, which must be empty, and in a
    database of their own beside ORCHESTRATOR_DATABASE_URL; `make bench` brings both up. Floor and fleet are measured here and now, so compare their ratio;
    seconds of another machine or another hour say little.
    """
    wanted = list(_RUNS) if runs and "all" in runs else (runs or ["embedded"])
    unknown = [run for run in wanted if run not in _RUNS]
    if unknown:
        raise Invalid(f"There is no run {unknown[0]!r}; there are {', '.join(_RUNS)} and all.")
    # takes a second to import, which help and usage errors should not wait for
    from orchestrator import telemetry
    from workers.bench import workloads

    telemetry.configure("error")
    tables = []
    for run in wanted:
        if run == "embedded":
            table = workloads.embedded(plans or 100, view.tell)
        else:
            measure, number = workloads.FLEET[run]
            table = measure(doors.settings(None), plans or number, view.tell)
        tables.append(table)
        if not as_json:
            _show(table)
    if as_json:
        view.put_json({table.title: {"rows": list(table.rows), "note": table.note} for table in tables})


def _show(table: Table) -> None:
    names = list(dict.fromkeys(name for row in table.rows for name in row if name != "cpu_by_kind"))
    floor = table.rows[0] if table.rows and table.rows[0]["run"] == "floor" else None
    compared = [
        n for n in names if n in {"cpu_s_per_1000_steps", "wal_bytes_per_step", "submissions_per_s"} and floor
    ]
    view.tell(table.title, "bold")
    view.put_table(
        [*(name.replace("_", " ") for name in names), *(f"{n.split('_')[0]} × floor" for n in compared)],
        [
            [
                *(_cell(row.get(name)) for name in names),
                *(_ratio(row.get(n), (floor or {}).get(n)) for n in compared),
            ]
            for row in table.rows
        ],
    )
    for row in table.rows:
        kinds: Any = row.get("cpu_by_kind")
        if kinds:
            view.tell(
                f"  {row['run']}: CPU by kind: "
                + ", ".join(f"{kind} {spent}" for kind, spent in kinds.items())
            )
    view.tell(f"  {table.note}")


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _ratio(value: object, floor: object) -> str:
    if isinstance(value, (int, float)) and isinstance(floor, (int, float)) and floor:
        return f"{value / floor:.1f}"
    return "?"
