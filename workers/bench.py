"""Measures what a step costs here, next to the least that any such system must do on the same machine.

Two runs in one process, one after the other, on a Postgres of their own:

    floor      one connection; for each step one transaction that takes it and writes its result
    embedded   plans of eight steps that think nothing, through conductor, relay, broker in memory and worker

Compare the ratio, not the seconds: machines differ, and are noisy.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg

from agents.toolbox import Assignment, Mind, Toolbox
from orchestrator import settings
from orchestrator.domain.lifecycle import ALIVE
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, Json, request
from orchestrator.wiring import Core, core
from workers.wiring import Workshop

STEPS = 8
RESULT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run took: `cpu_s` is of this process and of Postgres together, in seconds for a thousand steps."""

    name: str
    steps: int
    steps_per_s: float
    cpu_s: float
    wal_bytes: float

    def as_json(self) -> Mapping[str, Json]:
        """The figures by name."""
        return {
            "name": self.name,
            "steps": self.steps,
            "steps_per_s": round(self.steps_per_s, 1),
            "cpu_s_per_1000_steps": round(self.cpu_s, 2),
            "wal_bytes_per_step": round(self.wal_bytes),
        }


def run(plans: int, say: Callable[[str], None]) -> list[Measured]:
    """Return the floor and the embedded run of that many plans; `say` is told what is going on."""
    with tempfile.TemporaryDirectory(prefix="orc") as folder:
        chosen = settings.load(environment={}, data_dir=folder, log_level="error")
        with core(chosen) as opened:
            say("floor: one transaction for each step")
            floor = _measure(opened, "floor", plans * STEPS, lambda: _floor(opened.dsn, plans * STEPS))
            say(f"embedded: {plans} plans of {STEPS} steps")
            workshop = Workshop(opened, minds=dict.fromkeys(Agent, _nothing()))
            workshop.start()
            try:
                embedded = _measure(opened, "embedded", plans * STEPS, lambda: _embedded(opened, plans))
            finally:
                workshop.stop()
    return [floor, embedded]


def _measure(opened: Core, name: str, steps: int, act: Callable[[], None]) -> Measured:
    server = _server_pid(opened.dsn)
    wal, cpu, began = _wal(opened.dsn), _cpu_s(server), time.monotonic()
    act()
    took = time.monotonic() - began
    return Measured(
        name,
        steps,
        steps_per_s=steps / took,
        cpu_s=(_cpu_s(server) - cpu) / steps * 1000,
        wal_bytes=(_wal(opened.dsn) - wal) / steps,
    )


def _floor(dsn: str, steps: int) -> None:
    result = "x" * RESULT_BYTES
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE floor (number integer PRIMARY KEY, state text, result text)")
        connection.execute("INSERT INTO floor SELECT n, 'ready' FROM generate_series(1, %s) AS n", (steps,))
        for number in range(1, steps + 1):
            connection.execute(
                "UPDATE floor SET state = 'done', result = %s WHERE number = %s AND state = 'ready'",
                (result, number),
            )


def _embedded(opened: Core, plans: int) -> None:
    for number in range(plans):
        opened.conductor.submit(request(f"Nothing, {number}"))
    while _unfinished(opened):
        time.sleep(0.02)


def _unfinished(opened: Core) -> bool:
    with opened.store.transaction() as tx:
        return any(tx.plans(state=state, limit=1) for state in ALIVE)


def _nothing() -> Mind:
    verdicts = {
        Agent.ROUTER: "deep",
        Agent.PLANNER: "planned",
        Agent.RESEARCHER: "found",
        Agent.KEEPER: "sufficient",
        Agent.GENERATOR: "drafted",
        Agent.CRITIC: "critiqued",
        Agent.JUDGE: "accept",
        Agent.SYNTHESISER: "written",
    }
    result: Mapping[str, Json] = {"text": "x" * RESULT_BYTES}

    def think(assignment: Assignment, toolbox: Toolbox) -> Completed:  # noqa: ARG001 - thinks nothing
        planned = assignment.agent is Agent.PLANNER
        return Completed(
            verdicts[assignment.agent],
            follow_ups=[{"question": "Nothing?"}] if planned else (),
            result=result,
        )

    return think


def _server_pid(dsn: str) -> int:
    """The process of the server itself: the parent of the one that serves a connection."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        stat = Path(f"/proc/{row[0] if row else 0}/stat")
        return int(stat.read_text().rsplit(")", 1)[1].split()[1]) if stat.exists() else 0


def _cpu_s(server: int) -> float:
    """Processor seconds of this process and of Postgres; of Postgres only where /proc tells (Linux)."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + _children_cpu_s(server)


def _children_cpu_s(server: int) -> float:
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended
        if int(fields[1]) == server:
            total += int(fields[11]) + int(fields[12])
        elif int(stat.parent.name) == server:
            # children that have ended and were waited for count here
            total += sum(int(f) for f in fields[11:15])
    return total / ticks


def _wal(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_current_wal_lsn() - '0/0'").fetchone()
    return int(row[0]) if row else 0
