"""Takes what waits in a queue, in batches, straight from AMQP.

A completion is a glance at Postgres; carrying it through a worker's pool would cost more than deciding it. A batch is
whatever has arrived, up to the prefetch; it is acknowledged at once after it was handled. When the broker goes away
the loop connects again, and declares everything again. When Postgres does, the batch waits here: handed back, each of
its messages would come again at once, and be dead after a few rounds. A message that nobody foresaw is looked at
alone, and rejected: it cannot take its neighbours with it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import amqp

from orchestrator import topology
from orchestrator.bus import connect
from orchestrator.domain.errors import Unavailable
from orchestrator.telemetry import log

PREFETCH: Final = 200
_LOOK_S: Final = 0.5
_LINGER_S: Final = 0.002
_GATHER_S: Final = 0.015
_SEVERAL: Final = 3
_PATIENCE_S: Final = 1.0


class BrokerLoop:
    """Consumes one queue in one thread."""

    def __init__(self, url: str, queue: str, handle: Callable[[Sequence[Any]], None]) -> None:
        self._url = url
        self._queue = queue
        self._handle = handle

    def forever(self, stopping: threading.Event) -> None:
        """Take and handle until told to stop."""
        while not stopping.is_set():
            try:
                self._serve(stopping)
            except (amqp.AMQPError, OSError) as error:
                # what was not acknowledged comes again, to this consumer or another
                log.warning("bus.unavailable", error=str(error))
                stopping.wait(_PATIENCE_S)

    def _serve(self, stopping: threading.Event) -> None:
        connection = connect(self._url)
        try:
            waiting: list[Any] = []
            channel = connection.channel()
            topology.declare(channel)
            channel.basic_qos(0, PREFETCH, False)
            channel.basic_consume(self._queue, callback=waiting.append)
            linger_s = _LINGER_S
            while not stopping.is_set():
                self._fill(connection, waiting, linger_s)
                if waiting:
                    batch = list(waiting)
                    # where several come at a time, more are worth waiting for: a transaction carries any number
                    linger_s = _GATHER_S if len(batch) >= _SEVERAL else _LINGER_S
                    waiting.clear()
                    self._carry(batch, connection, channel, stopping)
        finally:
            with contextlib.suppress(Exception):
                connection.collect()

    def _carry(self, batch: Sequence[Any], connection: Any, channel: Any, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                self._handle(batch)
            except Unavailable:
                log.warning("store.unavailable")
                stopping.wait(_PATIENCE_S)
                self._stay(connection)
            except Exception:  # noqa: BLE001 - a message that nobody foresaw must not end the consumer
                if len(batch) > 1:
                    for message in batch:
                        self._carry([message], connection, channel, stopping)
                    return
                log.exception("message.rejected")
                channel.basic_reject(batch[0].delivery_tag, requeue=False)
                return
            else:
                channel.basic_ack(batch[-1].delivery_tag, multiple=len(batch) > 1)
                return

    @staticmethod
    def _stay(connection: Any) -> None:
        """Answer the broker's heartbeats; messages that come meanwhile wait for their turn."""
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=_LINGER_S)
        connection.heartbeat_tick()

    @staticmethod
    def _fill(connection: Any, waiting: list[Any], linger_s: float) -> None:
        """Wait for a message, then for others that come within `linger_s` seconds."""
        until: float | None = None
        while len(waiting) < PREFETCH:
            try:
                connection.drain_events(
                    timeout=_LOOK_S if until is None else max(0.0005, until - time.monotonic())
                )
            except TimeoutError:
                connection.heartbeat_tick()
                return
            until = until or time.monotonic() + linger_s
            if time.monotonic() >= until:
                return
