"""Celery as a thin shell: queues, three tasks of one line each, and no opinion of its own.

No retries, no results, no schedules and no workflows of Celery's are used: the lifecycle decides retries, and
Postgres remembers. A task's only argument is a message's body, which carries ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery
from kombu.entity import Queue

from orchestrator.messages import Topic
from orchestrator.topology import TASK_OF

Takes = Callable[[object], None]


def make(broker_url: str, consumers: Mapping[Topic, Takes]) -> Celery:
    """Return an app on that broker whose tasks hand each message to the consumer of its topic."""
    app = Celery("orchestrator", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_queues=[Queue(topic.value, routing_key=topic.value) for topic in TASK_OF],
        task_create_missing_queues=False,
        task_default_queue=Topic.DEAD.value,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        accept_content=["json"],
        task_serializer="json",
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        # in memory there is nothing to wait for; the default of one second would be the latency of every step
        broker_transport_options={"polling_interval": 0.01} if broker_url.startswith("memory:") else {},
    )
    for topic, take in consumers.items():
        app.task(name=TASK_OF[topic], ignore_result=True)(_task(take))
    return app


def _task(take: Takes) -> Callable[[object], None]:
    def run(body: object) -> None:
        take(body)

    return run


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
