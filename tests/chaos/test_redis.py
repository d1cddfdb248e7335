"""Takes Redis away from a real fleet in every way that is known: its locks are hints, and nothing may depend on them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.wiring import core
from scripts.services import free_port
from tests.chaos.judging import Judged, Row, alive, executions, submitted
from tests.fleet import Fleet, until

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

SEED = int(os.environ.get("CHAOS_SEED", "20261126"))
ROLES = ("scripted", "scripted", "completions", "relay", "relay")
FAULTS = {"FLUSHALL": 4, "SIGSTOP for a while": 3, "kill -9": 3}
"""Each fault with how often it strikes: 10 times two plans are twenty."""


@contextlib.contextmanager
def fleet_on(redis_url, dsn, vhost, roles):
    folder = Path(tempfile.mkdtemp(prefix="orc-fleet-"))
    made = Fleet(
        dsn,
        vhost,
        folder,
        redis_url=redis_url,
        lease_s=2,
        unheard_after_s=4,
        backoff_base_s=0.2,
        backoff_cap_s=1,
        log_level="info",
    )
    try:
        with core(made.settings) as opened:
            for role in roles:
                made.start(role)
            first = submitted(opened, "Undisturbed")
            until(lambda: not alive(opened, [first]), within_s=300, why=made.logs)
            yield made, opened
    finally:
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)


def strike(redis_server, name, rng):
    if name == "FLUSHALL":
        redis_server.wipe()
    elif name == "kill -9":
        redis_server.kill()
        time.sleep(rng.uniform(0, 0.8))
        redis_server.start_again()
    else:
        with redis_server.paused():
            time.sleep(rng.uniform(0.3, 1.2))


def said(fleet):
    """How often each event was logged by the fleet's processes."""
    lines = "".join(member.log.read_text(errors="replace") for member in fleet.members.values()).splitlines()
    return Counter(
        event for line in lines for event in ("locks.unavailable", "locks.returned") if event in line
    )


def judge(fleet, opened, plans, table, fault, struck):
    until(
        lambda: not alive(opened, plans),
        within_s=300,
        why=lambda: f"seed {SEED}: {len(alive(opened, plans))} plans are lost\n{fleet.logs()}",
    )
    made = executions(fleet.witness)
    judged = [Judged(opened, plan_id, made) for plan_id in plans]
    again = sum(len(times) - 1 for times in made.values())
    calls = sum(len(times) for times in made.values())
    print(f"\nseed {SEED}: {len(plans)} plans, {calls} calls, {again} of them again; {dict(said(fleet))}")
    table.append(Row.of(fault, struck, judged))
    assert [(j.state, j.reason) for j in judged if not j.succeeded] == [], f"seed {SEED}"
    assert sum(j.repeated for j in judged) == 0, f"seed {SEED}: a finished call was made again"
    assert sum(j.twice for j in judged) == 0, f"seed {SEED}: something was decided twice"
    assert table[-1].violations == {}, f"seed {SEED}"
    assert not any(j.broken for j in judged), f"seed {SEED}: an audit chain does not hold"
    assert again <= sum(j.unknown for j in judged), f"seed {SEED}: a call was repeated that was not in flight"
    assert all(member.lives for member in fleet.members.values()), fleet.logs()


def test_a_fleet_whose_redis_is_wiped_paused_and_killed_finishes_every_plan_and_repeats_nothing(
    dsn, vhost, redis_server, table
):
    rng = random.Random(SEED)
    order = [name for name, times in FAULTS.items() for _ in range(times)]
    rng.shuffle(order)
    with fleet_on(redis_server.url, dsn, vhost, ROLES) as (fleet, opened):
        with redis_server.client() as client:
            until(lambda: any(client.scan_iter("orchestrator:*:sweep")), why=fleet.logs)
        plans = []
        for number, name in enumerate(order):
            plans += [submitted(opened, f"Plan {number}.{n}") for n in range(2)]
            time.sleep(rng.uniform(0.1, 0.4))
            strike(redis_server, name, rng)
        judge(fleet, opened, plans, table, "Redis wiped, paused and killed", len(order))
        assert said(fleet)["locks.unavailable"] > 0, "no fault was felt"
        until(lambda: said(fleet)["locks.returned"] > 0, why=fleet.logs)


def test_a_fleet_whose_redis_is_down_all_the_time_finishes_every_plan(dsn, vhost, table):
    with fleet_on(f"redis://127.0.0.1:{free_port()}/0", dsn, vhost, sorted(set(ROLES))) as (fleet, opened):
        plans = [submitted(opened, f"Plan {n}") for n in range(6)]
        judge(fleet, opened, plans, table, "Redis down for the whole run", 1)
        assert said(fleet)["locks.unavailable"] > 0, "nobody asked for a lock"
