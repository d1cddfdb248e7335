"""Breaks a real fleet in every way that is known, while it works, and counts what came of its plans.

Seven processes, and two of HTTP, on a real RabbitMQ and a real Postgres; a seed decides which fault strikes whom, when. Before each
fault plans are submitted, and they must all succeed: nothing lost, nothing finished done again, nothing decided twice,
nothing called that was not decided. One that cannot succeed goes along with each kind, and must be listed as given up.

Except where messages are deleted, no doorbell is ever rung a second time (`unheard_after_s` is an hour): what arrives
arrives because the outbox, the confirms, the acknowledgements and the leases see to it, and not because the sweeper
makes up for them.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter

import pytest

from orchestrator.bus import RabbitBus
from orchestrator.domain.errors import Unavailable
from orchestrator.messages import Topic
from tests.chaos.faults import Faults
from tests.chaos.judging import DOOMED, Judged, Row, alive, executions, submitted
from tests.chaos.site import Database, Site
from tests.contract.test_fleet_consumers import BAD
from tests.fleet import until

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

SEED = int(os.environ.get("CHAOS_SEED", "20261121"))
PLANS_EACH = 3
ONLY = os.environ.get("CHAOS_ONLY", "")
"""Names of faults, separated by `;`, when no others shall strike."""

WITHIN_S = float(os.environ.get("CHAOS_WITHIN_S", "300"))
"""How long the last plan may take after the last fault. It takes a few seconds where nobody else uses the machine."""

HOUR_S = 3600.0
SOON_S = 4.0
RUNG_AGAIN = {"wipes", "silence"}
"""Groups of faults that take messages away: what nobody answers is rung for again soon. Elsewhere it never is."""

POINTS = {
    "before_claim": "kill -9 before the claim",
    "after_claim": "kill -9 after the claim, before its acknowledgement",
    "after_acknowledgement": "kill -9 after the acknowledgement of a claim",
    "before_call": "kill -9 before a call is intended",
    "after_intent": "kill -9 after the intent",
    "during_call": "kill -9 during the call",
    "after_answer": "kill -9 after the answer, before its outcome",
    "after_call": "kill -9 after the outcome of a call",
    "before_report": "kill -9 before the report",
    "after_report": "kill -9 after the report",
    "before_settle": "kill -9 before a completion is settled",
    "after_settle": "kill -9 after a completion, before its acknowledgement",
    "before_publish": "kill -9 a relay before it publishes",
    "after_publish": "kill -9 a relay after the confirm, before its commit",
}

GROUPS = {
    "processes": {
        "kill -9 a step worker": (4, lambda f: f.kills("step worker")),
        "kill -9 a completion consumer": (3, lambda f: f.kills("completion consumer")),
        "kill -9 the dead-letter consumer": (1, lambda f: f.kills("dead-letter consumer")),
        "kill -9 a relay and its sweeper": (3, lambda f: f.kills("relay")),
        "kill -9 every relay and sweeper": (1, lambda f: f.kills_all("relay")),
        "two more relays and sweepers": (1, lambda f: f.joined_by_two_relays()),
        "SIGTERM a step worker": (2, lambda f: f.asks_to_end("step worker")),
        "SIGTERM a completion consumer": (1, lambda f: f.asks_to_end("completion consumer")),
        "SIGTERM a relay": (1, lambda f: f.asks_to_end("relay")),
    },
    # a worker that hangs holds what it has fetched, and the broker waits for minutes before it gives that to another:
    # until then only those help who ring again for what nobody answers
    "silence": {
        "SIGSTOP a step worker past its lease": (2, lambda f: f.stops()),
        "SIGSTOP before the report until another holds the step": (1, lambda f: f.wakes_when_another_holds()),
    },
    "crash points": {said: (1, lambda f, p=point: f.kills_at(p)) for point, said in POINTS.items()},
    "broker": {
        "kill -9 RabbitMQ": (1, lambda f: f.kills_broker()),
        "stop and start RabbitMQ's application": (1, lambda f: f.stops_broker()),
        "close every RabbitMQ connection": (2, lambda f: f.closes_connections()),
        "cut between publish and confirm": (2, lambda f: f.cuts_before_the_confirm()),
        "cut before a message arrives": (1, lambda f: f.cuts_before_the_confirm(asked=True)),
        "black hole to RabbitMQ past the lease": (1, lambda f: f.black_hole(f.site.to_rabbit)),
        "memory alarm: publishers blocked": (1, lambda f: f.blocks_publishers()),
        "publish everything again": (2, lambda f: f.repeats()),
        "publish everything twice, shuffled": (2, lambda f: f.repeats(shuffled=True)),
        "put waiting messages back in reverse": (2, lambda f: f.reverses()),
    },
    "Postgres": {
        "end every Postgres connection": (2, lambda f: f.disconnects()),
        "kill -9 Postgres": (2, lambda f: f.kills_postgres()),
        "black hole to Postgres past the lease": (2, lambda f: f.black_hole(f.site.to_postgres)),
        "SIGSTOP a Postgres backend past the lease": (1, lambda f: f.stops_a_backend()),
        "Postgres read-only": (2, lambda f: f.forbids_writing()),
    },
    "doors": {
        "kill -9 an API between commit and relay": (2, lambda f: f.kills_api_between_commit_and_relay()),
        "kill -9 an API in the middle of requests": (2, lambda f: f.kills_api_under_load()),
        "poison in every queue": (1, lambda f: f.poisons(BAD.values())),
    },
    "wipes": {
        "delete the vhost with all messages": (2, lambda f: f.wipes()),
        "delete every queue with its messages": (1, lambda f: f.deletes_queues()),
    },
}
"""Each fault with how often it strikes."""


@pytest.fixture(scope="module")
def database():
    made = Database()
    yield made
    made.close()


class Sites:
    """The fleet that is up at present; asked for one with another setting, that one is ended first."""

    def __init__(self, database, rabbit):
        self.database, self.rabbit = database, rabbit
        self.site = None

    def at(self, unheard_after_s):
        if self.site is None or self.site.fleet.settings.unheard_after_s != unheard_after_s:
            self.close()
            self.site = Site(self.database, self.rabbit, unheard_after_s=unheard_after_s)
        return self.site

    def close(self):
        if self.site is not None:
            self.site.close()
            self.site = None


@pytest.fixture(scope="module")
def sites(database, rabbit):
    made = Sites(database, rabbit)
    yield made
    made.close()


def undisturbed(site, group):
    """The steps of a plan before any fault; waiting for it also lets the fleet come up."""
    plan_id = submitted(site.opened, f"Before {group}")
    until(lambda: not alive(site.opened, [plan_id]), within_s=WITHIN_S, why=site.fleet.logs)
    return Judged(site.opened, plan_id).shape


def letters(site):
    with site.opened.store.transaction() as tx:
        return {x.letter_id: x for x in tx.dead_letters(state=None)}


@pytest.mark.parametrize("group", GROUPS)
def test_a_fleet_under_every_fault_finishes_every_plan_and_repeats_nothing(sites, group, table, figures):
    site = sites.at(SOON_S if group in RUNG_AGAIN else HOUR_S)
    if group == "doors":
        site.opens_doors()
    shape = undisturbed(site, group)
    rng = random.Random(f"{SEED} {group}")
    faults, opened, fleet = Faults(rng, site), site.opened, site.fleet
    kinds = {name: fault for name, fault in GROUPS[group].items() if not ONLY or name in ONLY.split(";")}
    began, before = time.monotonic(), letters(site)
    order = [name for name, (times, _) in kinds.items() for _ in range(times)]
    rng.shuffle(order)
    plans = {name: [submitted(opened, f"{DOOMED} by {name}")] for name in kinds}
    for number, name in enumerate(order):
        plans[name] += [submitted(opened, f"{group} {number}.{n}") for n in range(PLANS_EACH)]
        time.sleep(rng.uniform(0.1, 0.6))
        print(f"{time.monotonic() - began:6.1f} s  {name}")
        kinds[name][1](faults)
        plans[name] += faults.accepted
        faults.accepted = []
        time.sleep(rng.uniform(0.2, 0.6))
    every = [plan_id for those in plans.values() for plan_id in those]
    struck = time.monotonic()
    failed = ""
    try:
        until(lambda: not alive(opened, every), within_s=WITHIN_S, why=fleet.logs)
        until(lambda: listed(site, before) >= faults.poisoned, within_s=WITHIN_S, why=fleet.logs)
    except AssertionError as late:
        failed = str(late)
    last_s = time.monotonic() - struck

    made = executions(fleet.witness)
    judged = {name: [Judged(opened, plan_id, made) for plan_id in those] for name, those in plans.items()}
    missing = max(faults.poisoned - listed(site, before), 0)
    rows = [
        Row.of(name, kinds[name][0], those, unlisted=missing if "poison" in name else 0)
        for name, those in judged.items()
    ]
    table.extend(rows)
    whole = [j for those in judged.values() for j in those]
    reasons = Counter(x.reason for key, x in letters(site).items() if key not in before and not x.attempts)
    figures.append(
        f"{group}: seed {SEED}, {len(order)} faults, {len(every)} plans, {time.monotonic() - began:.0f} s, the last plan "
        f"ended {last_s:.1f} s after the last fault; dead letters of messages: {dict(reasons)}"
    )
    said = f"seed {SEED}: { ({r.fault: r.violations for r in rows if r.violations}) }\n{failed}"
    assert not any(row.violations for row in rows), said
    assert failed == "", said
    assert {j.shape for j in whole if not j.doomed} == {shape}, (
        f"{said}a plan has other steps than one undisturbed"
    )
    assert all(member.lives for member in fleet.members.values()), fleet.logs()
    with contextlib.closing(RabbitBus(site.vhost)) as bus:
        until(lambda: bus.depth(Topic.DEAD) == 0, why=fleet.logs)


def listed(site, before):
    """How many messages were listed since."""
    try:
        return sum(not x.attempts for key, x in letters(site).items() if key not in before)
    except Unavailable:
        return 0
