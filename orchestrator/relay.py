"""Publishes what transactions left in the outbox, and sweeps up what was dropped; both safe on every replica.

A message leaves the outbox in the transaction that publishes it: if the broker does not take it, or this process
dies, it is still there. It may then be published twice, which costs a glance at Postgres and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from orchestrator.conductor import Conductor, Swept
from orchestrator.domain.errors import BrokerUnavailable, Unavailable
from orchestrator.ports import Bus, Store
from orchestrator.telemetry import log

_T = TypeVar("_T")

BATCH: Final = 500
_QUICK_S: Final = 0.005
_IDLE_S: Final = 0.05


class Relay:
    """Moves messages from the outbox to the bus."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store = store
        self._bus = bus

    def step(self) -> int:
        """Publish one batch; the number of messages."""
        with self._store.transaction() as tx:
            messages = tx.take_outbox(BATCH)
            if messages:
                self._bus.publish(messages)
            return len(messages)

    def forever(self, stopping: threading.Event) -> None:
        """Publish until told to stop; waits longer while there is nothing to do."""
        pause_s = _QUICK_S
        while not stopping.is_set():
            moved = _patiently(self.step, 0)
            pause_s = _QUICK_S if moved else min(_IDLE_S, pause_s * 1.5)
            stopping.wait(pause_s)


class Sweeper:
    """Looks, now and then, for what was dropped or is due."""

    def __init__(
        self, conductor: Conductor, *, every_s: float, alive: Callable[[], None] = lambda: None
    ) -> None:
        self._conductor = conductor
        self._every_s = every_s
        self._alive = alive

    def forever(self, stopping: threading.Event) -> None:
        """Sweep at once, then every so often, until told to stop."""
        while not stopping.is_set():
            swept = _patiently(self._sweep, Swept())
            if swept:
                log.info(
                    "sweep.done",
                    woken=swept.woken,
                    rescued=swept.rescued,
                    offered=swept.offered,
                    expired=swept.expired,
                )
            stopping.wait(self._every_s)

    def _sweep(self) -> Swept:
        self._alive()
        return self._conductor.sweep()


def _patiently(act: Callable[[], _T], otherwise: _T) -> _T:
    try:
        return act()
    except BrokerUnavailable as error:
        log.warning("bus.unavailable", error=str(error))
    except Unavailable as error:
        log.warning("store.unavailable", error=str(error))
    return otherwise
