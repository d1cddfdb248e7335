"""Rings doorbells over Celery's broker connection; publishes what the relay hands it, and nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from orchestrator.domain.errors import BrokerUnavailable
from orchestrator.messages import Message, Topic
from orchestrator.topology import TASK_OF


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
                        TASK_OF[message.topic],
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
