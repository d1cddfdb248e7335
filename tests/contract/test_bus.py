"""The bus's promises, on a real RabbitMQ: what `publish` returned from is in its queue, and nothing hangs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from orchestrator import bus, topology
from orchestrator.bus import AHEAD, TIMEOUT_S, RabbitBus
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.errors import BrokerUnavailable, Unavailable
from orchestrator.domain.plan import StepRef, request
from orchestrator.messages import Message, Topic
from orchestrator.relay import BATCH, Relay
from orchestrator.store import PgStore
from scripts.services import free_port
from tests.contract.bench import new_steps
from workers import broker_loop, celery_app
from workers.broker_loop import BrokerLoop

NOT_LONG_S = 2 * TIMEOUT_S + 3
"""Connecting may wait as long as publishing may, and the machine may be busy."""


def steps(number, *, priority=0, topic=Topic.STEPS):
    plan_id = str(uuid4())
    return [Message(topic, StepRef(plan_id, n + 1), priority) for n in range(number)]


@contextlib.contextmanager
def at(url):
    made = RabbitBus(url)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def rabbit_bus(vhost):
    with at(vhost) as made:
        yield made


def take(url, queue, number, *, leave=False):
    """The next messages of a queue, acknowledged; there are no others, unless some may be left."""
    connection = bus.connect(url)
    try:
        channel = connection.channel()
        found = []
        while len(found) < number:
            message = channel.basic_get(queue, no_ack=True)
            assert message is not None, f"{len(found)} of {number} messages in {queue}"
            found.append(message)
        assert leave or channel.basic_get(queue, no_ack=True) is None
        return found
    finally:
        connection.collect()


def refs_of(messages):
    return [StepRef(body["plan_id"], body["step"]) for m in messages for body in bus.read(m.body)]


def eventually(act, *, within_s=60.0, errors=(BrokerUnavailable,)):
    deadline = time.monotonic() + within_s
    while True:
        try:
            return act()
        except errors:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def until(said, *, within_s=60.0):
    deadline = time.monotonic() + within_s
    while not said():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def waiting(url):
    """How many messages wait for steps; none while the broker does not answer."""
    with at(url) as made, contextlib.suppress(BrokerUnavailable):
        return made.depth(Topic.STEPS)
    return 0


def heard_now(made, url):
    """The steps of the messages that wait at this moment, acknowledged."""
    return refs_of(take(url, "plan.steps", made.depth(Topic.STEPS), leave=True))


def seconds_to_fail(made, messages):
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        made.publish(messages)
    return time.monotonic() - began


class TestABatch:
    def test_is_in_its_queue_in_order_when_publish_returns(self, rabbit_bus, vhost):
        sent = steps(BATCH)
        rabbit_bus.publish(sent)

        assert rabbit_bus.depth(Topic.STEPS) == BATCH
        assert refs_of(take(vhost, "plan.steps", BATCH)) == [m.ref for m in sent]

    @pytest.mark.parametrize(
        ("priority", "topic", "queue"),
        [
            (1, Topic.STEPS, "plan.steps.high"),
            (9, Topic.STEPS, "plan.steps.high"),
            (0, Topic.STEPS, "plan.steps"),
            (-1, Topic.STEPS, "plan.steps.low"),
            (5, Topic.COMPLETIONS, "plan.completions"),
            (-5, Topic.DEAD, "plan.dead"),
        ],
    )
    def test_goes_to_the_queue_of_its_topic_and_priority(self, rabbit_bus, vhost, priority, topic, queue):
        sent = steps(3, priority=priority, topic=topic)
        rabbit_bus.publish(sent)

        assert refs_of(take(vhost, queue, 3)) == [m.ref for m in sent]
        assert [rabbit_bus.depth(t) for t in Topic] == [0, 0, 0]

    def test_carries_ids_only_survives_a_restart_and_shows_what_it_is_for(self, rabbit_bus, vhost):
        (sent,) = steps(1)
        rabbit_bus.publish([sent])

        (found,) = take(vhost, "plan.steps", 1)
        (body,) = bus.read(found.body)
        assert body == {"v": 1, "plan_id": sent.ref.plan_id, "step": 1}
        assert found.properties["delivery_mode"] == 2
        headers = found.properties["application_headers"]
        assert headers["task"] == "plan.steps.run"
        assert sent.ref.plan_id in headers["argsrepr"]
        assert json.loads(found.body)[1] == {}

    def test_of_nothing_is_nothing(self, rabbit_bus):
        rabbit_bus.publish([])
        assert [rabbit_bus.depth(topic) for topic in Topic] == [0, 0, 0]

    def test_waits_in_all_queues_of_its_topic_together(self, rabbit_bus):
        for priority in (-1, 0, 0, 1):
            rabbit_bus.publish(steps(2, priority=priority))
        assert rabbit_bus.depth(Topic.STEPS) == 8


class TestTheQueues:
    def test_have_the_arguments_that_the_topology_says(self, rabbit_bus, rabbit, vhost):
        rabbit_bus.publish([])
        found = {name: queue["arguments"] for name, queue in rabbit.queues(vhost).items()}

        assert found == {name: dict(arguments) for name, arguments in topology.QUEUES.items()}
        assert all(queue["durable"] for queue in rabbit.queues(vhost).values())

    def test_take_what_was_rejected_to_the_dead_letters(self, rabbit_bus, vhost):
        for queue in (*topology.STEP_QUEUES, Topic.COMPLETIONS.value):
            priority = {"plan.steps.high": 1, "plan.steps.low": -1}.get(queue, 0)
            topic = Topic.COMPLETIONS if queue == Topic.COMPLETIONS.value else Topic.STEPS
            rabbit_bus.publish(steps(1, priority=priority, topic=topic))
            connection = bus.connect(vhost)
            channel = connection.channel()
            channel.basic_reject(channel.basic_get(queue).delivery_tag, requeue=False)
            until(lambda: rabbit_bus.depth(Topic.DEAD) == 1)
            connection.collect()
            (dead,) = take(vhost, "plan.dead", 1)
            assert dead.properties["application_headers"]["x-death"][0]["queue"] == queue

    def test_give_up_on_a_message_that_costs_consumer_after_consumer(self, rabbit_bus, vhost):
        rabbit_bus.publish(steps(1))
        for _ in range(topology.DELIVERY_LIMIT + 1):
            connection = bus.connect(vhost)
            channel = connection.channel()
            until(lambda channel=channel: channel.basic_get("plan.steps") is not None)
            connection.collect()  # dies with the message in hand

        until(lambda: rabbit_bus.depth(Topic.DEAD) == 1)
        assert rabbit_bus.depth(Topic.STEPS) == 0


class TestABrokerThat:
    def test_lost_a_queue_is_told_and_declared_whole_by_the_next_batch(self, rabbit_bus, rabbit, vhost):
        rabbit_bus.publish(steps(1))
        connection = bus.connect(vhost)
        connection.channel().queue_delete("plan.steps")
        connection.channel().queue_delete("plan.dead")
        connection.collect()

        with pytest.raises(BrokerUnavailable, match="no queue"):
            rabbit_bus.publish(steps(1))

        rabbit_bus.publish(steps(2))
        assert rabbit_bus.depth(Topic.STEPS) == 2
        assert set(rabbit.queues(vhost)) == set(topology.QUEUES)

    def test_lost_its_vhost_is_whole_again_after_the_next_batch(self, rabbit_bus, rabbit, vhost):
        rabbit_bus.publish(steps(3))
        rabbit.drop_vhost(vhost)
        with pytest.raises(BrokerUnavailable):
            rabbit_bus.publish(steps(1))
        with pytest.raises(BrokerUnavailable):
            rabbit_bus.depth(Topic.STEPS)

        rabbit.make_vhost(vhost.rsplit("/", 1)[1])
        eventually(lambda: rabbit_bus.publish(steps(1)))
        assert rabbit_bus.depth(Topic.STEPS) == 1
        assert set(rabbit.queues(vhost)) == set(topology.QUEUES)

    def test_is_not_there_is_told(self):
        with at(f"amqp://guest:guest@127.0.0.1:{free_port()}//") as made:
            assert seconds_to_fail(made, steps(1)) < NOT_LONG_S
            with pytest.raises(BrokerUnavailable):
                made.depth(Topic.STEPS)

    def test_takes_another_password_is_told(self, vhost):
        with at(vhost.replace("guest:guest", "guest:wrong")) as made:
            assert seconds_to_fail(made, steps(1)) < NOT_LONG_S

    def test_was_killed_is_told_and_forgets_nothing_that_was_confirmed(self, rabbit, vhost):
        with at(vhost) as made:
            sent = steps(200)
            made.publish(sent)
            rabbit.kill()
            assert seconds_to_fail(made, steps(1)) < NOT_LONG_S

            rabbit.start_again()

            eventually(lambda: made.depth(Topic.STEPS))
            assert refs_of(take(vhost, "plan.steps", 200)) == [m.ref for m in sent]
            made.publish(steps(1))
            assert made.depth(Topic.STEPS) == 1

    def test_is_blocked_is_told_in_time_and_publishes_when_it_goes_on(self, rabbit, vhost):
        with at(vhost) as made, at(vhost) as fresh:
            made.publish(steps(1))
            with rabbit.memory_alarm():
                assert seconds_to_fail(made, steps(BATCH)) < NOT_LONG_S
                assert seconds_to_fail(made, steps(BATCH)) < NOT_LONG_S
                assert seconds_to_fail(fresh, steps(1)) < NOT_LONG_S
            eventually(lambda: made.publish(steps(1, topic=Topic.DEAD)))
            assert made.depth(Topic.DEAD) == 1

    def test_says_nothing_at_all_is_told_in_time(self, rabbit, vhost):
        pid = rabbit._server.pid
        assert pid is not None
        with at(vhost) as made, at(vhost) as fresh:
            made.publish(steps(1))
            os.killpg(pid, signal.SIGSTOP)
            try:
                assert seconds_to_fail(made, steps(1)) < NOT_LONG_S
                assert seconds_to_fail(fresh, steps(1)) < NOT_LONG_S
            finally:
                os.killpg(pid, signal.SIGCONT)
            eventually(lambda: made.publish(steps(1)))

    def test_hung_up_in_a_quiet_time_costs_no_batch(self, rabbit_bus, monkeypatch, vhost):
        rabbit_bus.publish(steps(1))
        monkeypatch.setattr(bus, "HEARTBEAT_S", 0.1)
        rabbit_bus._connection.transport.sock.close()
        time.sleep(0.2)
        rabbit_bus.publish(steps(1))
        assert rabbit_bus.depth(Topic.STEPS) == 2


@pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning")
class TestAWorkerThatConnects:
    def test_makes_a_wiped_broker_whole(self, rabbit, vhost):
        app = celery_app.make(vhost, {})
        ready = threading.Event()
        from celery.worker import state

        state.should_stop = None
        worker = celery_app.worker(app, concurrency=1, ready=lambda _: ready.set())
        thread = threading.Thread(target=worker.start, daemon=True)
        thread.start()
        try:
            assert ready.wait(60)
            assert set(topology.QUEUES) <= set(rabbit.queues(vhost))
            rabbit.drop_vhost(vhost)
            rabbit.make_vhost(vhost.rsplit("/", 1)[1])
            until(lambda: set(topology.QUEUES) <= set(rabbit.queues(vhost)))
        finally:
            state.should_stop = 0
            thread.join(60)
            state.should_stop = None
        assert not thread.is_alive()

    def test_loops_make_a_wiped_broker_whole(self, rabbit, vhost):
        stopping, seen = threading.Event(), []
        loop = BrokerLoop(vhost, "plan.completions", seen.extend)
        thread = threading.Thread(target=loop.forever, args=(stopping,), daemon=True)
        thread.start()
        try:
            until(lambda: set(rabbit.queues(vhost)) == set(topology.QUEUES))
            rabbit.drop_vhost(vhost)
            rabbit.make_vhost(vhost.rsplit("/", 1)[1])
            until(lambda: set(rabbit.queues(vhost)) == set(topology.QUEUES))
            with at(vhost) as made:
                made.publish(steps(3, topic=Topic.COMPLETIONS))
            until(lambda: len(seen) == 3)
        finally:
            stopping.set()
            thread.join(60)


class TestALoop:
    @contextlib.contextmanager
    def running(self, url, handle):
        stopping = threading.Event()
        loop = BrokerLoop(url, "plan.completions", handle)
        thread = threading.Thread(target=loop.forever, args=(stopping,), daemon=True)
        thread.start()
        try:
            yield thread
        finally:
            stopping.set()
            thread.join(60)
        assert not thread.is_alive()

    def test_holds_its_messages_while_postgres_is_away_and_lets_none_die_of_it(
        self, rabbit_bus, vhost, monkeypatch
    ):
        monkeypatch.setattr(broker_loop, "_PATIENCE_S", 0.02)
        tries, seen = [], []

        def handle(batch):
            tries.append(len(batch))
            if len(tries) <= 3 * topology.DELIVERY_LIMIT:
                raise Unavailable("Postgres does not answer.")
            seen.extend(batch)

        rabbit_bus.publish(steps(5, topic=Topic.COMPLETIONS))
        with self.running(vhost, handle):
            until(lambda: len(seen) == 5)
        assert rabbit_bus.depth(Topic.DEAD) == rabbit_bus.depth(Topic.COMPLETIONS) == 0

    def test_rejects_the_one_message_that_nobody_foresaw_and_goes_on(self, rabbit_bus, vhost):
        sent = steps(5, topic=Topic.COMPLETIONS)
        seen = []

        def handle(batch):
            if any(ref.number == 3 for ref in refs_of(batch)):
                raise ZeroDivisionError
            seen.extend(refs_of(batch))

        rabbit_bus.publish(sent)
        with self.running(vhost, handle):
            until(lambda: rabbit_bus.depth(Topic.DEAD) == 1)
            until(lambda: len(seen) >= 4)
        assert sorted(ref.number for ref in seen) == [1, 2, 4, 5]
        assert refs_of(take(vhost, "plan.dead", 1)) == [sent[2].ref]
        assert rabbit_bus.depth(Topic.COMPLETIONS) == 0


@pytest.mark.postgres
class TestTheRelay:
    def outbox(self, dsn):
        with psycopg.connect(dsn) as connection:
            return connection.execute("SELECT count(*) FROM outbox").fetchone()[0]

    def filled(self, store, number):
        refs = [ref for _ in range(number // 10) for ref in new_steps(store, 10)]
        with store.transaction() as tx:
            tx.send([Message(Topic.STEPS, ref) for ref in refs])
        return refs

    def test_leaves_in_the_outbox_what_the_broker_did_not_confirm(self, pg_store, dsn, vhost, rabbit):
        with at(vhost) as made:
            relay = Relay(pg_store, made)
            relay.step()
            self.filled(pg_store, 20)
            before = self.outbox(dsn)
            assert before >= 20
            rabbit.drop_vhost(vhost)
            with pytest.raises(BrokerUnavailable):
                relay.step()
            assert self.outbox(dsn) == before

            rabbit.make_vhost(vhost.rsplit("/", 1)[1])
            assert eventually(relay.step) == before
            assert self.outbox(dsn) == 0
            assert made.depth(Topic.STEPS) == before

    def test_leaves_the_crowd_in_the_outbox_and_publishes_the_rest(self, pg_store, dsn, vhost):
        refs = self.filled(pg_store, 3 * AHEAD)
        with pg_store.transaction() as tx:
            tx.send([Message(Topic.COMPLETIONS, ref) for ref in refs[: AHEAD // 2]])
        with at(vhost) as made:
            relay = Relay(pg_store, made)
            for _ in range(5):
                relay.step()
            assert (made.depth(Topic.STEPS), made.depth(Topic.COMPLETIONS)) == (AHEAD, AHEAD // 2)
            assert made.room() == 0
            take(vhost, "plan.steps", 10, leave=True)
            relay.step()
            assert made.depth(Topic.STEPS) == AHEAD

    def test_rings_again_for_what_a_wiped_broker_lost(self, pg_store, dsn, rabbit, vhost, sealer):
        conductor = Conductor(
            pg_store,
            sealer,
            new_id=lambda: str(uuid4()),
            draw=lambda: 0.5,
            rules=Rules(unheard_after=timedelta(days=1)),
        )
        plans = [conductor.submit(request(f"Goal {n}")).plan_id for n in range(5)]
        stopping = threading.Event()
        with at(vhost) as bus_, at(vhost) as made:
            relay = Relay(pg_store, bus_, ring=conductor.offer_again)
            thread = threading.Thread(target=relay.forever, args=(stopping,), daemon=True)
            thread.start()
            until(lambda: made.depth(Topic.STEPS) == len(plans))
            time.sleep(0.6)  # what was rung for just now is not rung for again
            rabbit.drop_vhost(vhost)
            rabbit.make_vhost(vhost.rsplit("/", 1)[1])
            until(lambda: waiting(vhost) == len(plans))
            stopping.set()
            thread.join(60)
        assert {ref.plan_id for ref in refs_of(take(vhost, "plan.steps", len(plans)))} == set(plans)

    def test_in_two_processes_publishes_everything_and_leaves_no_row(self, pg_store, dsn, vhost):
        refs = self.filled(pg_store, 3 * BATCH)
        there = self.outbox(dsn)
        stopping = threading.Event()
        stores = [PgStore(dsn, size=2) for _ in range(2)]
        buses = [RabbitBus(vhost) for _ in range(2)]
        relays = [Relay(store, made) for store, made in zip(stores, buses, strict=True)]
        threads = [threading.Thread(target=r.forever, args=(stopping,), daemon=True) for r in relays]
        for thread in threads:
            thread.start()
        heard = []
        with at(vhost) as made:
            # whoever answers makes room for the next: without anybody they would wait in the outbox
            until(lambda: heard.extend(heard_now(made, vhost)) or self.outbox(dsn) == 0)
            stopping.set()
            for thread in threads:
                thread.join(60)
            heard += heard_now(made, vhost)
        assert there <= len(heard)
        assert set(refs) <= set(heard)
        for each in (*buses, *stores):
            each.close()
