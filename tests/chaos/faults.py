"""What can be done to a fleet, and the undoing of it. Every fault ends with everything running again."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg

from orchestrator import bus, topology
from orchestrator.bus import RabbitBus
from orchestrator.domain.errors import BrokerUnavailable, Unavailable
from orchestrator.messages import Message, Topic
from tests.chaos.judging import submitted
from tests.chaos.site import LEASE_S, Site
from tests.fleet import until

PAST_LEASE_S = LEASE_S * 1.6
STARTS_S = 30.0
PATIENCE_S = 180.0
KINDS = {
    "step worker": ("scripted",),
    "completion consumer": ("completions", "trapped completions"),
    "dead-letter consumer": ("dead",),
    "relay": ("relay", "trapped relay"),
    "API": ("api",),
}
DELIVERED = ("plan.steps", "plan.completions")


class Faults:
    """The faults of one site; a seeded `rng` chooses whom and when."""

    def __init__(self, rng: random.Random, site: Site) -> None:
        self.rng, self.site, self.fleet = rng, site, site.fleet
        self.accepted: list[str] = []
        self.poisoned = 0

    def of(self, kind):
        return [member for role in KINDS[kind] for member in self.fleet.of(role)]

    def one(self, kind):
        return self.rng.choice(self.of(kind))

    # processes

    def kills(self, kind):
        member = self.one(kind)
        member.kill()
        time.sleep(self.rng.uniform(0, 0.5))
        member.start_again()

    def kills_all(self, kind):
        for member in self.of(kind):
            member.kill()
        time.sleep(self.rng.uniform(0, 0.5))
        for member in self.of(kind):
            member.start_again()

    def stops(self):
        member = self.one("step worker")
        member.process.send_signal(signal.SIGSTOP)
        time.sleep(PAST_LEASE_S)
        member.process.send_signal(signal.SIGCONT)

    def asks_to_end(self, kind):
        member = self.one(kind)
        young = time.monotonic() - member.started_at < STARTS_S
        code = member.stop()
        # one that is still on its way up has nothing in hand, and may just die
        assert code == 0 or (young and code == -signal.SIGTERM), f"{member.name}: {code}\n{self.fleet.logs()}"
        member.start_again()

    def joined_by_two_relays(self):
        more = [self.fleet.start("relay") for _ in range(2)]
        time.sleep(2.5)
        for member in more:
            member.kill()
            del self.fleet.members[member.name]

    # crash points

    def kills_at(self, point):
        """Kill the first process that comes there."""
        pid = self._springs(point)
        (member,) = (m for m in self.fleet.members.values() if m.process.pid == pid)
        member.process.wait(60)
        member.start_again()

    def wakes_when_another_holds(self):
        """Stop a worker that is about to report; let it go on once its step is in another's hands, and running."""
        plan_id = submitted(self.site.opened, f"slow 2 {self.rng.random()}")
        self.accepted.append(plan_id)
        self._set("before_report", f"stop {plan_id}")
        pid = self._sprung("before_report")
        until(lambda: self._held_again(plan_id), within_s=PATIENCE_S, why=self.fleet.logs)
        os.kill(pid, signal.SIGCONT)

    def _held_again(self, plan_id):
        with contextlib.suppress(Unavailable), self.site.opened.store.transaction() as tx:
            return any(s.claim > 1 and s.state == "running" for s in tx.steps(plan_id))
        return False

    def _springs(self, point):
        self._set(point, "kill")
        return self._sprung(point)

    def _set(self, point, action):
        for old in self.site.traps.glob(f"{point}*"):
            old.unlink()
        waiting = self.site.traps / f"{point}.set"
        waiting.write_text(action)
        waiting.rename(self.site.traps / point)

    def _sprung(self, point):
        began, more = time.monotonic(), 0
        while not (found := list(self.site.traps.glob(f"{point}.*"))):
            waited = time.monotonic() - began
            assert waited < PATIENCE_S, f"nobody came to {point}\n{self.fleet.logs()}"
            if waited > 3 * (more + 1):  # whatever was under way is past it
                more += 1
                self.accepted.append(submitted(self.site.opened, f"More for {point} {self.rng.random()}"))
            time.sleep(0.02)
        return int(found[0].suffix[1:])

    # RabbitMQ

    def kills_broker(self):
        self.site.rabbit.kill()
        time.sleep(0.5)
        self.site.rabbit.start_again()

    def stops_broker(self):
        self.site.rabbit.ctl("stop_app")
        self.site.rabbit.ctl("start_app")

    def closes_connections(self):
        self.site.rabbit.ctl("close_all_connections", "chaos")

    def wipes(self):
        self.site.rabbit.drop_vhost(self.site.vhost)
        time.sleep(self.rng.uniform(0, 0.5))
        self.site.rabbit.make_vhost(self.site.broker_name)

    def deletes_queues(self):
        connection = bus.connect(self.site.vhost)
        try:
            for queue in topology.QUEUES:
                connection.channel().queue_delete(queue)
        finally:
            connection.collect()

    def blocks_publishers(self):
        with self.site.rabbit.memory_alarm():
            self.accepted.append(submitted(self.site.opened, f"While it is blocked {self.rng.random()}"))
            time.sleep(2)

    def repeats(self, *, shuffled=False):
        with self.site.opened.store.transaction() as tx:
            refs = [s.ref for p in tx.plans(limit=1000) for s in tx.steps(p.plan_id)]
        messages = [Message(topic, ref) for ref in refs for topic in (Topic.STEPS, Topic.COMPLETIONS)]
        if shuffled:
            messages *= 2
            self.rng.shuffle(messages)
        made = RabbitBus(self.site.vhost)
        with contextlib.suppress(BrokerUnavailable):
            made.publish(messages)
        made.close()

    def reverses(self):
        """Take what waits out of the queues, and put it back from the last to the first."""
        connection = bus.connect(self.site.vhost)
        try:
            channel = connection.channel()
            channel.confirm_select()
            give_up = time.monotonic() + 0.7
            taken = {queue: [] for queue in DELIVERED}
            while time.monotonic() < give_up:
                for queue, messages in taken.items():
                    if (message := channel.basic_get(queue)) is not None:
                        messages.append(message)
            for queue, messages in taken.items():
                for message in reversed(messages):
                    channel.basic_publish_confirm(
                        bus.amqp.Message(message.body, **message.properties), "plan", queue
                    )
                    channel.basic_ack(message.delivery_tag)
        finally:
            connection.collect()

    def cuts_before_the_confirm(self, *, asked=False):
        """Let a relay publish, keep the broker's answer from it (or the message from the broker), and cut the wire."""
        (direct,) = self.fleet.of("relay")
        direct.kill()  # so that the one behind the wire has to publish
        wire = self.site.to_rabbit
        wire.hold(asked=asked)
        self.accepted.append(submitted(self.site.opened, f"Not confirmed {self.rng.random()}"))
        until(lambda: wire.held > 0, within_s=PATIENCE_S, why=self.fleet.logs)
        time.sleep(0.2)
        wire.cut()
        wire.pass_on()
        direct.start_again()

    def black_hole(self, wire):
        wire.hold()
        time.sleep(PAST_LEASE_S)
        wire.cut()
        wire.pass_on()

    # Postgres

    def disconnects(self):
        with psycopg.connect(self.site.dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def kills_postgres(self):
        self.site.database.kill()
        time.sleep(self.rng.uniform(0, 0.5))
        self.site.database.start_again()

    def stops_a_backend(self):
        with psycopg.connect(self.site.dsn, autocommit=True) as connection:
            found = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " ORDER BY pid"
            ).fetchall()
        (pid,) = self.rng.choice(found)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(PAST_LEASE_S)
            os.kill(pid, signal.SIGCONT)

    def forbids_writing(self):
        with self.site.database.read_only():
            time.sleep(self.rng.uniform(1, 2))

    # what comes from outside

    def kills_api_between_commit_and_relay(self):
        """Accept a plan while nobody can publish it, and end who accepted it."""
        relays, member = self.of("relay"), self.one("API")
        for relay in relays:
            relay.kill()
        url = self.site.apis[self.of("API").index(member)]
        self.accepted.append(patiently_posted(f"Not relayed {self.rng.random()}", url))
        member.kill()
        time.sleep(0.2)
        for each in (member, *relays):
            each.start_again()

    def kills_api_under_load(self):
        """End a replica in the middle of requests; whoever got no answer asks the other one, under the same key."""
        members = self.of("API")
        at = self.rng.randrange(2)
        goals = [f"Asked {n} {self.rng.random()}" for n in range(6)]
        with ThreadPoolExecutor(6) as pool:
            first = [pool.submit(post, self.site.apis[at], goal) for goal in goals]
            time.sleep(self.rng.uniform(0.005, 0.08))
            members[at].kill()
            for goal, answered in zip(goals, first, strict=True):
                plan_id = answered.result()
                again = patiently_posted(goal, self.site.apis[1 - at])
                assert plan_id in {None, again}, "the same key made two plans"
                self.accepted.append(again)
        members[at].start_again()

    def poisons(self, messages):
        """Publish what nobody can handle to every queue that somebody takes from."""
        connection = bus.connect(self.site.vhost)
        try:
            channel = connection.channel()
            channel.confirm_select()
            for queue in (*DELIVERED, "plan.dead"):
                for message in messages:
                    channel.basic_publish_confirm(message, "plan", queue)
                    self.poisoned += 1
        finally:
            connection.collect()


def post(url: str, goal: str) -> str | None:
    """The id of the plan that a replica accepted; `None` when it did not say."""
    try:
        answer = httpx.post(
            f"{url}/plans", json={"goal": goal, "depth": 2}, headers={"Idempotency-Key": goal}, timeout=10
        )
    except httpx.TransportError:
        return None
    return answer.json()["plan_id"] if answer.status_code == 202 else None


def patiently_posted(goal: str, *urls: str) -> str:
    """The id of the plan, however often one has to ask, and whichever replica answers."""
    deadline = time.monotonic() + PATIENCE_S
    for url in itertools.cycle(urls):
        plan_id = post(url, goal)
        if plan_id is not None:
            return plan_id
        assert time.monotonic() < deadline, f"{urls} accept nothing"
        time.sleep(0.1)
    raise AssertionError("nobody was asked")
