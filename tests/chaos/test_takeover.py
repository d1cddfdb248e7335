"""A worker that is lost for good, and a fleet that is restarted while it works: what both cost, measured."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator import settings
from orchestrator.wiring import core
from scripts.services import free_port
from tests.chaos.faults import patiently_posted
from tests.chaos.judging import Judged, alive, executions, submitted
from tests.fleet import Fleet, until

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

DEFAULTS = settings.load(environment={})
PLANS = 500
STEPS = 8
CLIENTS = 4
TERMINATED = 143
WITHIN_S = 300.0


@pytest.fixture
def folder():
    made = Path(tempfile.mkdtemp(prefix="orc-fleet-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def fleet(dsn, vhost, folder):
    made = Fleet(dsn, vhost, folder, sweep_every_s=DEFAULTS.sweep_every_s, max_attempts=20)
    yield made
    made.kill()


@pytest.fixture
def opened(fleet):
    with core(fleet.settings) as made:
        yield made


def test_steps_of_a_worker_that_is_lost_for_good_are_taken_over(fleet, opened, figures):
    for role in ("scripted", "scripted"):
        fleet.start(role, "--concurrency", "16")  # so that nobody waits for a free hand
    for role in ("completions", "relay"):
        fleet.start(role)
    first, second = fleet.of("scripted")
    plans = [submitted(opened, f"slow 2 {n}") for n in range(3)]
    until(lambda: not alive(opened, plans), within_s=WITHIN_S, why=fleet.logs)

    plans = [submitted(opened, f"slow 4 more {n}") for n in range(12)]

    def running():
        with opened.store.transaction() as tx:
            return [s for p in plans for s in tx.steps(p) if s.state == "running"]

    until(lambda: len(running()) == len(plans), why=lambda: f"{len(running())} run\n{fleet.logs()}")
    first.kill()
    killed_at = time.monotonic()
    taken: dict[object, float] = {}

    def ended():
        for step in running():
            if step.claim > 1:
                taken.setdefault(step.ref, time.monotonic() - killed_at)
        return not alive(opened, plans)

    until(ended, within_s=WITHIN_S, why=fleet.logs)

    silences = list(taken.values())
    assert silences, "the worker that was killed held nothing"
    median = statistics.median(silences)
    figures.append(
        f"takeover: {len(silences)} steps of a worker killed for good were seen to run elsewhere after {median:.2f} s (median), "
        f"{max(silences):.2f} s (longest); lease_s {DEFAULTS.lease_s:g}, sweep_every_s {DEFAULTS.sweep_every_s:g}"
    )
    judged = [Judged(opened, plan_id, executions(fleet.witness)) for plan_id in plans]
    assert [j.reason for j in judged if j.lost] == []
    assert sum(j.done_twice + j.undecided for j in judged) == 0
    assert not first.lives
    assert second.lives
    # the lost session tells, long before the lease would
    assert median < DEFAULTS.lease_s / 2


def test_a_rolling_restart_under_load_loses_and_repeats_nothing(fleet, opened, figures):
    began = time.monotonic()
    ports = [free_port(), free_port()]
    for _ in range(2):
        for role in ("scripted", "completions", "dead", "relay"):
            fleet.start(role)
    for port in ports:
        fleet.start("api", "--port", str(port))
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    first = [patiently_posted(f"quick before {n}", url) for n, url in enumerate(urls)]
    until(lambda: not alive(opened, first), within_s=WITHIN_S, why=fleet.logs)
    up_s, loaded = time.monotonic() - began, time.monotonic()

    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [
            # half of them ask the one first, half the other; whoever is not answered asks the next, under the same key
            pool.submit(patiently_posted, f"quick {n}", *urls[:: 1 if n % 2 else -1])
            for n in range(PLANS)
        ]
        until(lambda: finished(opened) > PLANS // 5, within_s=WITHIN_S, why=fleet.logs)
        exits, at_restart = [], finished(opened)
        for member in list(fleet.members.values()):
            exits.append((member.name, member.stop()))
            member.start_again()
        after_restart = finished(opened)
        plans = [one.result() for one in asked]
    until(
        lambda: not alive(opened, plans),
        within_s=WITHIN_S,
        why=lambda: f"{len(alive(opened, plans))} plans are lost\n{fleet.logs()}",
    )
    took_s = time.monotonic() - loaded

    made = executions(fleet.witness)
    judged = [Judged(opened, plan_id, made) for plan_id in plans]
    with opened.store.transaction() as tx:
        steps = sum(len(tx.steps(plan_id)) for plan_id in plans)
        letters = tx.dead_letters(state=None)
    figures.append(
        f"rolling restart: {len(set(plans))} plans, {steps} steps, {sum(j.calls for j in judged)} calls in {took_s:.0f} s "
        f"({steps / took_s:.0f} steps/s; {up_s:.0f} s to come up); {len(exits)} processes restarted between plan "
        f"{at_restart} and {after_restart}; lost {sum(j.lost for j in judged)}, "
        f"done twice {sum(j.done_twice for j in judged)}, calls again {sum(j.again for j in judged)}, taken over "
        f"{sum(j.claims for j in judged)}, audits broken {sum(j.broken for j in judged)}, dead letters {len(letters)}"
    )
    assert len(set(plans)) == PLANS
    assert [(j.goal, j.state, j.reason) for j in judged if j.lost] == []
    assert steps == PLANS * STEPS
    assert sum(j.done_twice for j in judged) == 0
    assert sum(j.again for j in judged) == 0, "a worker that is asked to end finishes the call in hand"
    assert sum(j.undecided for j in judged) == 0
    assert not any(j.broken for j in judged)
    assert letters == []
    assert [(name, code) for name, code in exits if code not in {0, TERMINATED}] == []
    assert all(member.lives for member in fleet.members.values()), fleet.logs()


def finished(opened):
    """How many plans have succeeded."""
    with opened.store.transaction() as tx:
        return tx.tally().plans.get("succeeded", 0)
