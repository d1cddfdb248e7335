"""The runs: each returns rows of one table, the floor first where there is one."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from orchestrator import settings
from orchestrator.domain.fairness import Tenant
from orchestrator.domain.lifecycle import ALIVE
from orchestrator.domain.plan import Json, PlanState, request
from orchestrator.settings import Settings
from orchestrator.wiring import Core, core
from workers.bench import STEPS, floor, meter, minds
from workers.bench.fleet import Fleet, fleet, percentile
from workers.wiring import Workshop

Say = Callable[[str], None]

_FLOOR_PLANS = 200
_LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class Table:
    """What a run found: figures by column, row by row, and what to compare."""

    title: str
    rows: Sequence[Mapping[str, Json]]
    note: str = ""


@dataclass(slots=True)
class _Watch:
    """What has been used since it began."""

    dsn: str
    used: Callable[[], Mapping[str, float]]
    began: float = field(default_factory=time.monotonic)
    wal: int = 0
    cpu: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wal, self.cpu = meter.wal_bytes(self.dsn), self.used()
        self.began = time.monotonic()

    def row(self, name: str, steps: int) -> dict[str, Json]:
        """Throughput, WAL for each step, and processor seconds for a thousand steps by kind of process."""
        took = time.monotonic() - self.began
        now = self.used()
        spent = {kind: (s - self.cpu.get(kind, 0.0)) / steps * 1000 for kind, s in now.items()}
        return {
            "run": name,
            "steps": steps,
            "steps_per_s": round(steps / took, 1),
            "cpu_s_per_1000_steps": round(sum(spent.values()), 2),
            "wal_bytes_per_step": round((meter.wal_bytes(self.dsn) - self.wal) / steps),
            "cpu_by_kind": {kind: round(s, 2) for kind, s in spent.items()},
        }


def embedded(plans: int, say: Say) -> Table:
    """Plans through everything in one process, next to one transaction for each step."""
    with tempfile.TemporaryDirectory(prefix="orc") as folder:
        chosen = settings.load(environment={}, data_dir=folder, log_level="error")
        with core(chosen) as opened:
            server = meter.server_of(opened.dsn)

            def used() -> Mapping[str, float]:
                spent = time.process_time()
                return {"process": spent, **meter.cpu_s({"postgres": server})}

            say("floor: one transaction for each step")
            watch = _Watch(opened.dsn, used)
            floor.transactions(opened.dsn, plans * STEPS)
            rows = [watch.row("floor", plans * STEPS)]
            say(f"embedded: {plans} plans of {STEPS} steps")
            workshop = Workshop(opened, minds=minds.idle())
            workshop.start()
            try:
                watch = _Watch(opened.dsn, used)
                _submit(opened, plans)
                _await_all(opened)
                rows.append(watch.row("embedded", plans * STEPS))
            finally:
                workshop.stop()
    return Table("embedded", rows, "The floor is one transaction for each step, on one connection.")


def w1(chosen: Settings, plans: int, say: Say) -> Table:
    """Throughput and cost of a step on the fleet, next to one message and one transaction for each step."""
    with fleet(chosen) as members:
        dsn = members.opened.dsn
        say(f"floor: {_FLOOR_PLANS} chains of {STEPS} steps")
        rows = [_floor_row(members, chosen.broker_url)]
        say(f"fleet: {plans} plans of {STEPS} steps")
        _start(members)
        _submit(members.opened, 20)
        _await_all(members.opened)
        watch = _Watch(dsn, members.cpu_s)
        _submit(members.opened, plans)
        _await_all(members.opened)
        rows.append(watch.row("fleet", plans * STEPS))
    return Table(
        "w1: throughput",
        rows,
        "The floor is one hop over RabbitMQ and one transaction for each step, without a product around them.",
    )


def w2(chosen: Settings, plans: int, say: Say) -> Table:
    """How long nothing ends after processes were killed without a goodbye; nobody starts a worker again in the second."""
    quick = chosen.model_copy(update={"lease_s": min(chosen.lease_s, 10.0)})
    rows: list[Mapping[str, Json]] = []
    for name, kill in (
        ("all killed, started again 1 s later", _kill_all),
        ("one of two step workers killed", _kill_one),
    ):
        with fleet(quick) as members:
            say(f"{name}: {plans} plans of {STEPS} steps of 10 ms")
            _start(members, workers=2, pause_s=0.01)
            plan_ids = _submit(members.opened, plans)
            while _ended_steps(members.opened) < plans * STEPS * 0.4:
                time.sleep(0.05)
            kill(members)
            _await_all(members.opened)
            rows.append({"run": name, **_recovered(members.opened, plan_ids)})
    return Table("w2: recovery", rows, "Silence is the longest time between two steps that ended.")


def _kill_all(members: Fleet) -> None:
    for kind in ("steps", "completions", "relay"):
        members.kill(kind)
    time.sleep(1.0)
    _start(members, workers=2, pause_s=0.01)


def _kill_one(members: Fleet) -> None:
    members.kill("steps", first=1)


def _recovered(opened: Core, plan_ids: Sequence[str]) -> Mapping[str, Json]:
    ends, rescued, again, unfinished = [], [], 0, 0
    for plan_id in plan_ids:
        with opened.store.transaction() as tx:
            plan, steps, events = tx.plan(plan_id), tx.steps(plan_id), tx.events(plan_id)
        ends += [event.at for event in events if event.kind == "step.succeeded"]
        rescued += [event.at for event in events if event.kind == "step.rescued"]
        again += sum(step.claim - 1 for step in steps)
        unfinished += plan is None or plan.state is not PlanState.SUCCEEDED
    ends.sort()
    silences = [(after - before).total_seconds() for before, after in itertools.pairwise(ends)]
    return {
        "plans": len(plan_ids),
        "unfinished": unfinished,
        "longest_silence_s": round(max(silences, default=0.0), 2),
        "steps_taken_over": len(rescued),
        "steps_begun_again": again,
    }


def w3(chosen: Settings, plans: int, say: Say) -> Table:
    """Submissions a second, from four threads; a submission is a transaction of its own."""
    with fleet(chosen) as members:
        say(f"{plans} submissions")
        with ThreadPoolExecutor(4) as threads:
            began = time.monotonic()
            list(
                threads.map(lambda n: members.opened.conductor.submit(request(f"Nothing, {n}")), range(plans))
            )
            took = time.monotonic() - began
        with fleet_floor(members.opened.dsn) as insert, ThreadPoolExecutor(4) as threads:
            began = time.monotonic()
            list(threads.map(insert, range(plans)))
            floor_took = time.monotonic() - began
    return Table(
        "w3: submissions",
        [
            {"run": "floor", "plans": plans, "submissions_per_s": round(plans / floor_took, 1)},
            {"run": "fleet", "plans": plans, "submissions_per_s": round(plans / took, 1)},
        ],
        "The floor inserts one row in a transaction of its own.",
    )


def w4(chosen: Settings, plans: int, say: Say) -> Table:
    """How long a plan of eight steps takes from its submission to its end while there is no other."""
    with fleet(chosen) as members:
        say(f"{plans} plans, one after the other")
        _start(members)
        _submit(members.opened, 3)
        _await_all(members.opened)
        taken = []
        for number in range(plans):
            (plan_id,) = _submit(members.opened, 1)
            while (ended := _ended(members.opened, plan_id)) is None:
                time.sleep(0.005)
            taken.append(ended)
            time.sleep(0.05 * (number % 3))  # not in step with whoever polls
    return Table(
        "w4: latency",
        [
            {
                "run": "fleet, idle",
                "plans": plans,
                "p50_ms": round(percentile(taken, 0.5) * 1000, 1),
                "p99_ms": round(percentile(taken, 0.99) * 1000, 1),
                "ms_per_step": round(percentile(taken, 0.5) * 1000 / STEPS, 1),
            }
        ],
        "From the plan's row to its end, on the database's clock.",
    )


def w5(chosen: Settings, plans: int, say: Say) -> Table:
    """What each of three tenants is given while all have more than can be done, and how long a newcomer waits."""
    with fleet(chosen) as members:
        opened = members.opened
        with opened.store.transaction() as tx:
            tx.put_tenant(Tenant("heavy", weight=3))
        say(f"3 tenants, {plans} plans each, one of them of weight 3; then one plan of a newcomer")
        _start(members)
        for tenant in ("flood", "heavy", "light"):
            _submit(opened, plans, tenant=tenant)
        while _ended_steps(opened) < plans * STEPS // 4:
            time.sleep(0.05)
        (newcomer,) = _submit(opened, 1, tenant="newcomer")
        while (waited := _ended(opened, newcomer)) is None:
            time.sleep(0.01)
        given = _ended_by_tenant(opened)
        _await_all(opened)
    total = sum(given.values()) or 1
    rows: list[Mapping[str, Json]] = [
        {
            "run": tenant,
            "weight": weight,
            "steps": given.get(tenant, 0),
            "share": round(given.get(tenant, 0) / total, 3),
        }
        for tenant, weight in (("flood", 1), ("heavy", 3), ("light", 1))
    ]
    rows.append({"run": "newcomer's whole plan", "weight": 1, "steps": STEPS, "took_s": round(waited, 2)})
    return Table("w5: fairness", rows, "Shares while all three wait; a fair division is 0.2, 0.6 and 0.2.")


def _floor_row(members: Fleet, broker_url: str) -> dict[str, Json]:
    command = [sys.executable, "-m", "workers.bench.floor", members.opened.dsn, broker_url, str(_FLOOR_PLANS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(1.0)  # it imports what it needs, which is no part of a step
        watch = _Watch(
            members.opened.dsn,
            lambda: {**meter.cpu_s({"floor": [process.pid]}), **members.servers_cpu_s()},
        )
        if process.stdin and process.stdout:
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
        return watch.row("floor", _FLOOR_PLANS * STEPS)


def _start(members: Fleet, *, workers: int = 1, pause_s: float = 0.0) -> None:
    members.start("relay")
    members.start("completions")
    members.start("steps", workers, pause_s=pause_s)
    members.await_workers(workers)


def _submit(opened: Core, plans: int, *, tenant: str = "default") -> list[str]:
    goals = [request(f"Nothing, {number}", tenant=tenant) for number in range(plans)]
    return [opened.conductor.submit(goal).plan_id for goal in goals]


def _ended_steps(opened: Core) -> int:
    return sum(_ended_by_tenant(opened).values())


def _ended_by_tenant(opened: Core) -> Mapping[str, int]:
    with psycopg.connect(opened.dsn) as connection:
        rows = connection.execute(
            "SELECT p.tenant, count(*) FROM plan AS p JOIN step AS s USING (plan_id)"
            " WHERE s.state = 'succeeded' GROUP BY p.tenant"
        ).fetchall()
    return {str(tenant): int(number) for tenant, number in rows}


def _ended(opened: Core, plan_id: str) -> float | None:
    """Seconds from a plan's submission to its end, once it has ended."""
    with opened.store.transaction() as tx:
        plan = tx.plan(plan_id)
    return (plan.finished_at - plan.created_at).total_seconds() if plan and plan.finished_at else None


@contextmanager
def fleet_floor(dsn: str) -> Iterator[Callable[[int], None]]:
    """Yield what inserts one small row in a transaction of its own; each thread has a connection."""
    connections = threading.local()
    opened: list[psycopg.Connection[Any]] = []

    def insert(number: int) -> None:
        if not hasattr(connections, "one"):
            connections.one = psycopg.connect(dsn, autocommit=True)
            opened.append(connections.one)
        connections.one.execute("INSERT INTO floor_goal (goal) VALUES (%s)", (f"Nothing, {number}",))

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE floor_goal (number bigserial PRIMARY KEY, goal text)")
        try:
            yield insert
        finally:
            for one in opened:
                one.close()
            connection.execute("DROP TABLE floor_goal")


def _await_all(opened: Core) -> None:
    while _unfinished(opened):
        time.sleep(_LOOK_S)


def _unfinished(opened: Core) -> bool:
    with opened.store.transaction() as tx:
        return any(tx.plans(state=state, limit=1) for state in ALIVE)


FLEET: Mapping[str, tuple[Callable[[Settings, int, Say], Table], int]] = {
    "w1": (w1, 500),
    "w2": (w2, 200),
    "w3": (w3, 1000),
    "w4": (w4, 50),
    "w5": (w5, 150),
}
"""The runs on a fleet, each with how many plans it takes."""
