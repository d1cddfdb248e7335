"""Breaks a real fleet in every way that is known, while it works, and counts what came of its plans.

Seven processes on a real RabbitMQ and a real Postgres; a seed decides which fault strikes whom, when. Before each
fault plans are submitted, and they must all succeed: nothing lost, nothing finished done again, nothing decided twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import psycopg
import pytest

from orchestrator.bus import RabbitBus
from orchestrator.domain.errors import BrokerUnavailable, Unavailable
from orchestrator.domain.lifecycle import ALIVE
from orchestrator.domain.plan import request
from orchestrator.messages import Message, Topic
from orchestrator.wiring import core
from tests.broker import name_of
from tests.fleet import Fleet, until

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

SEED = int(os.environ.get("CHAOS_SEED", "20261121"))
PLANS_EACH = 3
LEASE_S = 2.0
ROLES = ("scripted", "scripted", "completions", "completions", "dead", "relay", "relay")
FAULTS = {
    "kill -9 a step worker": 4,
    "kill -9 a completion consumer": 3,
    "kill -9 the dead-letter consumer": 1,
    "kill -9 a relay": 3,
    "SIGSTOP a step worker past its lease": 2,
    "kill -9 RabbitMQ": 1,
    "delete the vhost with all messages": 2,
    "publish everything again": 2,
    "end every Postgres connection": 2,
}
"""Each fault with how often it strikes: 20 times three plans are sixty."""


@pytest.fixture
def folder():
    made = Path(tempfile.mkdtemp(prefix="orc-fleet-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def fleet(dsn, vhost, folder):
    made = Fleet(
        dsn,
        vhost,
        folder,
        lease_s=LEASE_S,
        unheard_after_s=4,
        max_attempts=20,
        backoff_base_s=0.2,
        backoff_cap_s=1,
        log_level="info",
    )
    yield made
    made.kill()


@pytest.fixture
def opened(fleet):
    with core(fleet.settings) as made:
        yield made


class Faults:
    """What can be done to a fleet, and the undoing of it."""

    def __init__(self, rng, fleet, opened, rabbit, vhost, dsn):
        self.rng, self.fleet, self.opened = rng, fleet, opened
        self.rabbit, self.vhost, self.dsn = rabbit, vhost, dsn

    def strike(self, name):
        {
            "kill -9 a step worker": lambda: self.kills("scripted"),
            "kill -9 a completion consumer": lambda: self.kills("completions"),
            "kill -9 the dead-letter consumer": lambda: self.kills("dead"),
            "kill -9 a relay": lambda: self.kills("relay"),
            "SIGSTOP a step worker past its lease": self.stops,
            "kill -9 RabbitMQ": self.kills_broker,
            "delete the vhost with all messages": self.wipes,
            "publish everything again": self.repeats,
            "end every Postgres connection": self.disconnects,
        }[name]()

    def kills(self, role):
        member = self.rng.choice(self.fleet.of(role))
        member.kill()
        time.sleep(self.rng.uniform(0, 0.5))
        member.start_again()

    def stops(self):
        member = self.rng.choice(self.fleet.of("scripted"))
        member.process.send_signal(signal.SIGSTOP)
        time.sleep(LEASE_S * 1.6)
        member.process.send_signal(signal.SIGCONT)

    def kills_broker(self):
        self.rabbit.kill()
        time.sleep(0.5)
        self.rabbit.start_again()

    def wipes(self):
        self.rabbit.drop_vhost(self.vhost)
        time.sleep(self.rng.uniform(0, 0.5))
        self.rabbit.make_vhost(name_of(self.vhost))

    def repeats(self):
        with self.opened.store.transaction() as tx:
            refs = [s.ref for p in tx.plans(limit=1000) for s in tx.steps(p.plan_id)]
        bus = RabbitBus(self.vhost)
        with contextlib.suppress(BrokerUnavailable):
            bus.publish([Message(topic, ref) for ref in refs for topic in (Topic.STEPS, Topic.COMPLETIONS)])
        bus.close()

    def disconnects(self):
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


def submitted(opened, goal):
    while True:  # this process' connections are ended as well
        try:
            return opened.conductor.submit(request(goal, depth=2, key=goal)).plan_id
        except Unavailable:
            time.sleep(0.1)


def alive(opened, plan_ids):
    with contextlib.suppress(Unavailable), opened.store.transaction() as tx:
        return [p for p in plan_ids if tx.plan(p).state in ALIVE]
    return list(plan_ids)


def repeats_of_finished_calls(records):
    done, repeated = set(), 0
    for record in records:
        body = json.loads(record.body)
        call = (body.get("step"), body.get("call"), body.get("occurrence"))
        repeated += record.kind == "tool.intent" and call in done
        if record.kind == "tool.outcome" and body["state"] == "done":
            done.add(call)
    return repeated


class Judged:
    """What is to be said about one plan that came to its end."""

    def __init__(self, opened, plan_id):
        with opened.store.transaction() as tx:
            plan, steps, records = tx.plan(plan_id), tx.steps(plan_id), tx.audit(plan_id)
            events = tx.events(plan_id, limit=100_000)
        kinds = Counter((e.kind, e.body.get("step")) for e in events)
        self.succeeded = plan.state == "succeeded"
        self.state, self.reason = plan.state, plan.reason
        self.repeated = repeats_of_finished_calls(records)
        planned = Counter((s.agent, s.round, json.dumps(s.brief, sort_keys=True)) for s in steps)
        # a step that is settled twice plans what follows twice, or ends its plan twice
        self.twice = (
            sum(n - 1 for n in planned.values())
            + sum(n - 1 for (kind, _), n in kinds.items() if kind in {"step.succeeded", "plan.ended"})
            + sum(not s.settled for s in steps)
        )
        fault = opened.sealer.verify(plan_id, records, count=plan.audit_count, head=plan.audit_head)
        self.broken = fault is not None
        self.unknown = sum(r.kind == "tool.unknown" for r in records)
        self.claims = sum(s.claim - 1 for s in steps)
        self.shape = tuple(sorted(planned))
        self.took_s = (plan.finished_at - plan.created_at).total_seconds() if plan.finished_at else None


def test_a_fleet_under_every_fault_finishes_every_plan_and_repeats_nothing(fleet, opened, rabbit, vhost, dsn):
    rng = random.Random(SEED)
    began = time.monotonic()
    for role in ROLES:
        fleet.start(role)
    undisturbed = submitted(opened, "Undisturbed")
    until(lambda: not alive(opened, [undisturbed]), within_s=60, why=fleet.logs)

    faults = Faults(rng, fleet, opened, rabbit, vhost, dsn)
    order = [name for name, times in FAULTS.items() for _ in range(times)]
    rng.shuffle(order)
    plans = defaultdict(list)
    for number, name in enumerate(order):
        plans[name] += [submitted(opened, f"Plan {number}.{n}") for n in range(PLANS_EACH)]
        time.sleep(rng.uniform(0.1, 0.6))
        faults.strike(name)
        time.sleep(rng.uniform(0.2, 0.6))
    every = [plan_id for those in plans.values() for plan_id in those]
    last = time.monotonic()
    until(
        lambda: not alive(opened, every),
        within_s=60,
        why=lambda: f"seed {SEED}: {len(alive(opened, every))} plans are lost\n{fleet.logs()}",
    )

    judged = {name: [Judged(opened, plan_id) for plan_id in those] for name, those in plans.items()}
    print(
        f"\nseed {SEED}: {len(every)} plans in {time.monotonic() - began:.0f} s, "
        f"the last {time.monotonic() - last:.1f} s after the last fault"
    )
    print(
        f"{'fault':<38}{'struck':>7}{'plans':>6}{'lost':>5}{'calls again':>12}{'twice':>6}{'chains':>8}"
        f"{'claims again':>13}{'median s':>9}"
    )
    for name, those in judged.items():
        print(
            f"{name:<38}{FAULTS[name]:>7}{len(those):>6}{sum(not j.succeeded for j in those):>5}"
            f"{sum(j.repeated for j in those):>12}{sum(j.twice for j in those):>6}"
            f"{'broken' if any(j.broken for j in those) else 'hold':>8}{sum(j.claims for j in those):>13}"
            f"{statistics.median(j.took_s for j in those if j.took_s):>9.1f}"
        )

    whole = [j for those in judged.values() for j in those]
    shape = Judged(opened, undisturbed).shape
    assert [(j.state, j.reason) for j in whole if not j.succeeded] == [], f"seed {SEED}"
    assert sum(j.repeated for j in whole) == 0, f"seed {SEED}: a finished call was made again"
    assert sum(j.twice for j in whole) == 0, f"seed {SEED}: something was decided twice"
    assert {j.shape for j in whole} == {shape}, f"seed {SEED}: a plan has other steps than one undisturbed"
    assert not any(j.broken for j in whole), f"seed {SEED}: an audit chain does not hold"
    executions = Counter(fleet.witness.read_text().splitlines())
    again = sum(n - 1 for n in executions.values())
    assert again <= sum(j.unknown for j in whole), f"seed {SEED}: a call was repeated that was not in flight"
    with opened.store.transaction() as tx:
        letters = tx.dead_letters(state=None)
    print(
        f"{executions.total()} calls, {again} of them repeats of one in flight; "
        f"dead letters of messages: {dict(Counter(x.reason for x in letters))}"
    )
    assert all(member.lives for member in fleet.members.values()), fleet.logs()
    assert [x for x in letters if x.attempts] == [], f"seed {SEED}: a step was given up on"


def test_steps_of_a_worker_that_is_lost_for_good_are_taken_over(fleet, opened):
    for role in ("scripted", "scripted"):
        fleet.start(role, "--concurrency", "8")  # so that nobody waits for a free hand
    for role in ("completions", "relay"):
        fleet.start(role)
    first, second = fleet.of("scripted")
    plans = [submitted(opened, f"slow 2 {n}") for n in range(3)]
    until(lambda: not alive(opened, plans), within_s=60, why=fleet.logs)

    plans = [submitted(opened, f"slow 4 more {n}") for n in range(6)]

    def running():
        with opened.store.transaction() as tx:
            return [s for p in plans for s in tx.steps(p) if s.state == "running"]

    until(lambda: len(running()) == 6, why=lambda: f"{len(running())} run\n{fleet.logs()}")
    with psycopg.connect(opened.dsn) as connection:
        killed_at = connection.execute("SELECT clock_timestamp()").fetchone()[0]
    first.kill()
    until(lambda: not alive(opened, plans), within_s=60, why=fleet.logs)

    silences: list[float] = []
    for plan_id in plans:
        with opened.store.transaction() as tx:
            events = tx.events(plan_id, limit=100_000)
        rescued = [e for e in events if e.kind == "step.rescued"]
        for rescue in rescued:
            after = [e for e in events if e.kind == "step.started" and e.body["step"] == rescue.body["step"]]
            silences.append((after[-1].at - killed_at).total_seconds())
    assert silences, "the worker that was killed held nothing"
    print(
        f"\n{len(silences)} steps taken over; silent for {statistics.median(silences):.2f} s (median), "
        f"{max(silences):.2f} s (longest); lease {LEASE_S:g} s"
    )
    assert all(Judged(opened, plan_id).succeeded for plan_id in plans)
    assert not first.lives
    assert second.lives
    assert statistics.median(silences) < 2 * LEASE_S + 2
