"""Celery as a thin shell: queues, tasks of one line each, and no opinion of its own.

No retries, no results, no schedules and no workflows of Celery's are used: the lifecycle decides retries, and
Postgres remembers. A task's only argument is a message's body, which carries ids.

A stock worker dies of a message without an id, and throws an undecodable one away. The consumer here is guarded: what
it cannot make a task of is rejected, and goes to the dead letters. A step's message is acknowledged when the step ends,
or once it has run for long: its lease carries it, so that no broker's patience with slow consumers matters. Threads, because a step waits for I/O most of the time; no gossip, mingle or heartbeats between workers, because the
truth about them is in Postgres.

Where nobody looks on through Flower, a step goes straight from its message to a thread. Celery's way there, with requests
that can be revoked, traced and told about, costs as much as claiming and recording the step.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from celery import Celery, bootsteps
from celery.concurrency.thread import TaskPool
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from celery.worker.state import maybe_shutdown
from kombu.entity import Exchange, Queue

from orchestrator import topology
from orchestrator.gulps import WorkerTransport
from orchestrator.messages import Topic
from orchestrator.telemetry import log
from orchestrator.topology import TASK_OF
from workers.executor import Stopping

Takes = Callable[[object], None]
TakesStep = Callable[..., None]

_PAUSE_S = 0.5
_LOOK_UP_S = 0.25
_logger = logging.getLogger("celery.orchestrator")


def make(
    broker_url: str,
    consumers: Mapping[Topic, TakesStep],
    *,
    queues: Sequence[str] = topology.STEP_QUEUES,
    prefetch: int = 1,
    events: bool = False,
) -> Celery:
    """Return an app on that broker whose tasks hand each message to the consumer of its topic.

    On RabbitMQ it consumes `queues`; `prefetch` is the number of messages held ready for each thread, and `events`
    tells Flower what happens, which costs about half as much again as the step itself.
    """
    app = Celery("orchestrator", broker=broker_url, set_as_current=False)
    in_memory = broker_url.startswith("memory:")
    app.conf.update(
        task_queues=_in_memory_queues() if in_memory else _rabbit_queues(queues),
        task_create_missing_queues=False,
        task_default_queue=Topic.DEAD.value if in_memory else queues[0],
        task_default_exchange=topology.EXCHANGE,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_failure_or_timeout=True,
        accept_content=["json"],
        task_serializer="json",
        worker_prefetch_multiplier=prefetch,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=events,
        # Flower asks workers through queues of their own; nobody else does
        worker_enable_remote_control=events,
        worker_consumer="workers.celery_app:GuardedConsumer",
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # a queue may be deleted between being declared and being consumed: by default that ends the worker
        broker_channel_error_retry=True,
        # in memory there is nothing to wait for; the default of one second would be the latency of every step
        broker_transport_options={"polling_interval": 0.01} if in_memory else {},
    )
    if not in_memory:
        app.steps["consumer"].add(DeclareTopology)
    for topic, take in consumers.items():
        if topic is Topic.STEPS:
            way = {"Request": _Held} if events else {"Strategy": partial(_straight, take)}
            app.task(name=TASK_OF[topic], ignore_result=True, bind=True, **way)(_step_task(take))
        else:
            app.task(name=TASK_OF[topic], ignore_result=True)(_task(take))
    return app


def worker(app: Celery, *, concurrency: int, ready: Callable[[Any], None]) -> Any:
    """Return a worker of threads for this process; `start` it in a thread of its own."""
    return app.WorkController(
        pool="threads",
        concurrency=concurrency,
        without_mingle=True,
        without_gossip=True,
        without_heartbeat=True,
        ready_callback=ready,
        quiet=True,
    )


def fleet_worker(app: Celery, *, name: str, concurrency: int, heartbeat: bool) -> Any:
    """Return a worker of threads with this process to itself, for its main thread to `start`.

    It returns once `stop_taking` was called: messages that nobody has begun with are back in their queues, and threads
    may still be busy. Signals are the caller's affair.
    """

    class FleetWorker(app.Worker):  # type: ignore[misc]
        """One that leaves signals alone, and looks up now and then."""

        def on_start(self) -> None:
            """Let the loop wake: on its own it sleeps for ten seconds before it sees that it is to stop."""
            super().on_start()
            self.timer.call_repeatedly(_LOOK_UP_S, _look_up)

        def install_platform_tweaks(self, worker: Any) -> None:
            """Install none: Celery's own would wait for threads as long as it takes."""

    return FleetWorker(
        hostname=name,
        pool=_LeavingPool,
        concurrency=concurrency,
        without_mingle=True,
        without_gossip=True,
        without_heartbeat=not heartbeat,
        quiet=True,
        loglevel="ERROR",
    )


def stop_taking() -> None:
    """Let this process's worker take no more messages and return, at once or nearly so. Safe in a signal's handler."""
    state.should_stop = 0


def _look_up() -> None:
    """Do nothing, having woken."""


class _LeavingPool(TaskPool):  # type: ignore[misc]
    """Threads that are not waited for at the end: how long they may go on is decided by who knows what they hold.

    The connection is closed behind it at once, so that what was fetched and not begun is another worker's already.
    """

    def on_stop(self) -> None:
        """Begin with nothing more."""
        self.executor.shutdown(wait=False, cancel_futures=True)


def _in_memory_queues() -> list[Queue]:
    return [Queue(topic.value, routing_key=topic.value) for topic in TASK_OF]


def _rabbit_queues(names: Sequence[str]) -> list[Queue]:
    exchange = Exchange(topology.EXCHANGE, type="direct", durable=True)
    return [
        Queue(name, exchange, routing_key=name, durable=True, queue_arguments=dict(topology.QUEUES[name]))
        for name in names
    ]


def _task(take: Takes) -> Callable[..., None]:
    def run(*bodies: object, **_: object) -> None:
        take(_only(bodies))

    return run


def _step_task(take: TakesStep) -> Callable[..., None]:
    def run(task: Any, *bodies: object, **_: object) -> None:
        # by name, for `task.request` is another in another thread
        take(_only(bodies), let_go=partial(_acknowledge, task.request.id))

    return run


def _only(bodies: Sequence[object]) -> object:
    """A message's one argument; any other number of them is no message, and is buried as one, not forgotten."""
    return bodies[0] if len(bodies) == 1 else tuple(bodies)


def _straight(take: TakesStep, _: Any, __: Celery, consumer: Any) -> Callable[..., None]:
    """What Celery is to do with a message of this task: give it to a thread. Celery's name for it is a strategy."""
    hand = consumer.pool.executor.submit

    def received(message: Any, _: Any, acknowledge: Callable[..., object], *__: Any) -> None:
        message.headers["id"]  # a message without one is none of ours
        told = message.payload
        if not (isinstance(told, list) and told and isinstance(told[0], list)):
            raise ValueError("it has no list of arguments")
        hand(_carry, take, told[0], _Once(partial(acknowledge, _logger, consumer.connection_errors)))

    return received


def _carry(take: TakesStep, arguments: Sequence[object], acknowledge: _Once) -> None:
    try:
        take(_only(arguments), let_go=acknowledge)
    except Stopping:
        return  # the connection goes, and the message is another's
    except Exception:  # noqa: BLE001 - the step is rung for again, and the thread takes others
        log.exception("step.undone")
    acknowledge()


class _Once:
    """Calls something once, whichever thread comes first: to acknowledge a message twice costs the channel."""

    __slots__ = ("_act", "_lock")

    def __init__(self, act: Callable[[], object]) -> None:
        self._act: Callable[[], object] | None = act
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            act, self._act = self._act, None
        if act is not None:
            act()  # hands the acknowledgement to the thread that owns the connection


_held: weakref.WeakValueDictionary[str, Request] = weakref.WeakValueDictionary()


class _Held(Request):  # type: ignore[misc]
    """A request that can be found again by its id, to be acknowledged before its task has ended."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # registered here: Celery makes a class of this one that has a way of its own to hand itself to a thread
        super().__init__(*arguments, **options)
        self._once = _Once(super().acknowledge)
        _held[self.id] = self

    def acknowledge(self) -> None:
        """Acknowledge the message, unless that was done."""
        self._once()


def _acknowledge(task_id: str) -> None:
    request = _held.get(task_id)
    if request is not None:
        request.acknowledge()


class DeclareTopology(bootsteps.StartStopStep):  # type: ignore[misc]
    """Declares every queue, dead letters included, on every connect: a broker that was wiped is whole again."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, parent: Any) -> None:
        """Declare on a channel of its own."""
        with parent.connection.channel() as channel:
            topology.declare(channel)


class GuardedConsumer(Consumer):  # type: ignore[misc]
    """Rejects what it cannot make a task of, instead of losing it or dying of it."""

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying every two seconds at most; the default grows to half a minute."""

        def told(error: Exception, _: float) -> None:
            log.warning("bus.unavailable", error=str(error))

        if conn.transport_cls == "amqp":
            conn.transport_cls = WorkerTransport
        connected = conn.ensure_connection(
            told, interval_start=_PAUSE_S, interval_step=_PAUSE_S, interval_max=2.0, callback=maybe_shutdown
        )
        self.first_connection_attempt = False
        return connected

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Send an undecodable message to the dead letters."""
        _reject(self, message, exc)

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        """Guard Celery's own handler."""
        handle = super().create_task_handler(*arguments, **options)

        def on_task_received(message: Any) -> Any:
            try:
                return handle(message)
            except (*self.connection_errors, *self.channel_errors):
                raise
            except Exception as error:  # noqa: BLE001 - a message must not be able to end the worker
                return _reject(self, message, error)

        return on_task_received


def _reject(consumer: Any, message: Any, error: Exception) -> None:
    if not message.acknowledged:
        message.reject_log_error(_logger, consumer.connection_errors)
    _logger.warning("A message was rejected: %s", type(error).__name__)
