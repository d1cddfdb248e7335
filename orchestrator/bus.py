"""Rings doorbells: publishes what the relay hands it, and nothing else publishes.

Two twins behind one port. `CeleryBus` speaks to the broker in memory of embedded mode, through Celery. `RabbitBus`
writes Celery's messages to RabbitMQ itself: a batch is sent in one go, every message `mandatory` and persistent, and
`publish` returns when the broker has confirmed each of them. It has a connection of its own with timeouts, since a
broker that is blocked answers nothing; what was sent and not confirmed is sent again, which costs a glance.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import amqp
from kombu.exceptions import OperationalError
from kombu.utils.url import parse_url

from orchestrator import topology
from orchestrator.domain.errors import BrokerUnavailable
from orchestrator.gulps import GulpingConnection
from orchestrator.messages import Message, Topic

if TYPE_CHECKING:
    from celery import Celery  # whoever speaks to RabbitMQ itself has no use for it

TIMEOUT_S: Final = 5.0
"""How long a broker may take for an answer, in seconds."""

HEARTBEAT_S: Final = 30

AHEAD: Final = 32
"""Messages for steps that wait in the broker for each worker process; the rest waits its turn in the outbox."""

_LOOK_S: Final = 1.0
_ANY: Final = 1_000_000


class CeleryBus:
    """A bus on the broker that a Celery app is configured for."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        connection = app.connection_for_write()
        # what the transport's own library raises when the broker is away or refuses
        faults = (*connection.connection_errors, *connection.channel_errors)
        self._faults: tuple[type[Exception], ...] = (OperationalError, OSError, *faults)

    def publish(self, messages: Sequence[Message]) -> None:
        """Hand messages to the broker, or raise `BrokerUnavailable`; then some may have been published."""
        try:
            with self._app.producer_or_acquire() as producer:
                for message in messages:
                    self._app.send_task(
                        topology.TASK_OF[message.topic],
                        args=[message.body()],
                        queue=message.topic.value,
                        producer=producer,
                        ignore_result=True,
                        retry=False,
                    )
        except self._faults as error:
            raise BrokerUnavailable(f"The broker does not answer: {error}") from error

    def depth(self, topic: Topic) -> int:
        """How many messages wait in a topic's queue."""
        with self._app.connection_for_write() as connection:
            channel: Any = connection.default_channel
            return int(channel.queue_declare(queue=topic.value, passive=True).message_count)

    def room(self) -> int:
        """Any number: the queue is in this process, and so is whoever answers."""
        return _ANY

    def close(self) -> None:
        """Nothing is held open."""


class RabbitBus:
    """A bus on RabbitMQ; for one thread."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._channel: Any = None
        self._open: set[int] = set()
        self._sent = 0
        self._refused: str | None = None
        self._used_at = 0.0
        self._places = 0
        self._looked_at = float("-inf")
        self._touched: set[str] = set()
        self._found: dict[str, tuple[int, int]] = {}
        """How many messages wait and how many consumers listen, by queue of steps, when it was last asked."""

    def publish(self, messages: Sequence[Message]) -> None:
        """Publish a batch and return once every message is confirmed, or raise `BrokerUnavailable`."""
        try:
            channel = self._connected()
            with self._connection.one_write():
                for message in messages:
                    queue = topology.queue_of(message)
                    self._sent += 1
                    self._open.add(self._sent)
                    if message.topic is Topic.STEPS:
                        self._places -= 1
                        self._touched.add(queue)
                    channel.basic_publish(_framed(message), topology.EXCHANGE, queue, mandatory=True)
            self._await_confirms()
        except (amqp.AMQPError, OSError) as error:
            self.close()
            raise BrokerUnavailable(f"The broker does not answer: {error}") from error

    def _await_confirms(self) -> None:
        give_up = time.monotonic() + TIMEOUT_S
        while self._open:
            left = give_up - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{len(self._open)} messages were not confirmed within {TIMEOUT_S:g} s")
            self._connection.drain_events(timeout=left)
        if self._refused is not None:
            raise ConnectionError(self._refused)

    def depth(self, topic: Topic) -> int:
        """How many messages wait in a topic's queue, of all priorities."""
        names = topology.STEP_QUEUES if topic is Topic.STEPS else (topic.value,)
        try:
            channel = self._connected()
            return sum(int(channel.queue_declare(name, passive=True).message_count) for name in names)
        except (amqp.AMQPError, OSError) as error:
            self.close()
            raise BrokerUnavailable(f"The broker does not answer: {error}") from error

    def room(self) -> int:
        """How many messages for steps may be added to those that wait, so that each consumer has some ahead.

        The broker is asked when the places that it had are used up, about the queues that were lately published to; and
        now and then about all of them, for others publish too, and to see whether it is there.
        """
        now = time.monotonic()
        if now - self._looked_at > _LOOK_S:
            self._touched.clear()
        elif self._places > 0:
            return self._places
        asked = self._touched or topology.STEP_QUEUES
        try:
            channel = self._connected()
            for name in asked:
                found = channel.queue_declare(name, passive=True)
                self._found[name] = (found.message_count, found.consumer_count)
        except (amqp.AMQPError, OSError) as error:
            self.close()
            raise BrokerUnavailable(f"The broker does not answer: {error}") from error
        if not self._touched:
            self._looked_at = now
        consumers = max(consumers for _, consumers in self._found.values())
        self._places = AHEAD * max(1, consumers) - sum(waiting for waiting, _ in self._found.values())
        return max(0, self._places)

    def close(self) -> None:
        """Let go of the connection; the next batch opens another."""
        connection, self._connection, self._channel = self._connection, None, None
        self._open.clear()
        self._sent, self._refused = 0, None
        self._looked_at = float("-inf")
        if connection is not None:
            # a blocked broker would keep a polite goodbye waiting: hang up instead
            with contextlib.suppress(Exception):
                connection.collect()

    def _connected(self) -> Any:
        now = time.monotonic()
        if now - self._used_at > HEARTBEAT_S:
            self.close()  # nobody answered heartbeats meanwhile: the broker may have hung up, or will
        self._used_at = now
        if self._channel is None:
            self._connection = connect(self._url)
            channel = self._connection.channel()
            topology.declare(channel)
            channel.events["basic_ack"].add(self._settle)
            channel.events["basic_nack"].add(self._nacked)
            channel.events["basic_return"].add(self._returned)
            channel.confirm_select()
            self._channel = channel
        return self._channel

    def _settle(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._open = {other for other in self._open if other > tag}
        else:
            self._open.discard(tag)

    def _nacked(self, tag: int, multiple: bool) -> None:
        self._refused = "the broker refused a message"
        self._settle(tag, multiple)

    def _returned(self, *returned: Any) -> None:
        # a queue is gone, as after a wipe: declare everything again with the next connection
        self._refused = f"the broker has no queue for a message ({returned[0]})"


def connect(url: str, *, timeout_s: float = TIMEOUT_S, heartbeat_s: int = HEARTBEAT_S) -> GulpingConnection:
    """Open an AMQP connection with timeouts for connecting, reading and writing."""
    at = parse_url(url)
    connection = GulpingConnection(
        host=f"{at['hostname'] or '127.0.0.1'}:{at['port'] or 5672}",
        userid=at["userid"] or "guest",
        password=at["password"] or "guest",
        virtual_host=at["virtual_host"] or "/",
        connect_timeout=timeout_s,
        read_timeout=timeout_s,
        write_timeout=timeout_s,
        heartbeat=heartbeat_s,
        socket_settings={socket.TCP_NODELAY: 1},
        ssl=url.startswith("amqps:"),
    )
    connection.connect()
    return connection


def _framed(message: Message) -> amqp.Message:
    """The message as Celery's protocol 2 has it, so that a stock worker can answer it and Flower can show it.

    Headers that a worker takes for `None` or for its own are left out: reading them costs more than the glance.
    """
    task_id, body = uuid.uuid4().hex, message.body()
    return amqp.Message(
        json.dumps([[body], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]),
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=2,
        correlation_id=task_id,
        application_headers={
            "lang": "py",
            "task": topology.TASK_OF[message.topic],
            "id": task_id,
            "argsrepr": f"({message.ref.plan_id} step {message.ref.number},)",
            "ignore_result": True,
        },
    )


def read(raw: Any) -> Sequence[object]:
    """Return the arguments of a Celery message as received; raises `ValueError` when it is none, or has none."""
    try:
        told = json.loads(bytes(raw) if isinstance(raw, memoryview) else raw)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"it cannot be read: {error}") from error
    if not (isinstance(told, list) and told and isinstance(told[0], list) and told[0]):
        raise ValueError("it has no list of arguments")
    return told[0]
