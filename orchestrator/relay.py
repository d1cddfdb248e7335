"""Publishes what transactions left in the outbox, and sweeps up what was dropped; both safe on every replica.

A message leaves the outbox in the transaction that publishes it: if the broker does not take it, or this process
dies, it is still there. It may then be published twice, which costs a glance at Postgres and nothing else.

One sweep in each period is enough, and a lock hints at who does it. The lock can be wrong, so it is not believed for
ever: whoever was told to leave the sweep to others thirty times running sweeps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final, TypeVar

from orchestrator.conductor import Conductor, Swept
from orchestrator.domain.errors import BrokerUnavailable, Unavailable
from orchestrator.locks import NoLocks
from orchestrator.ports import Bus, Hold, Locks, Store
from orchestrator.telemetry import log

_T = TypeVar("_T")

BATCH: Final = 500
_QUICK_S: Final = 0.002
_GATHER_S: Final = 0.02
_EACH_S: Final = 0.004
_IDLE_S: Final = 0.05
_AFTER_FAULT_S: Final = 1.0
_SETTLED: Final = timedelta(seconds=0.5)
"""A step that was rung for more recently than that is not rung for again after a loss: it may be about to be answered."""
_FORGET_EVERY_S: Final = 60.0
_LONGEST_SWEEP: Final = 3
_PATIENCE: Final = 30
"""Both in sweep periods."""


class Relay:
    """Moves messages from the outbox to the bus, no more of them for steps than are about to be answered.

    What the broker holds is first come, first served, whoever it is for: so the crowd waits in the outbox, where the
    tenants are served by their weights. After Postgres or the broker was away, messages may have been lost there: `ring`
    is then called to ring again for every step that waits and has no message in the outbox.
    """

    def __init__(self, store: Store, bus: Bus, *, ring: Callable[[timedelta], int] = lambda _: 0) -> None:
        self._store = store
        self._bus = bus
        self._ring = ring
        self._lost = True
        """Whether messages may have been lost: before it began it does not know."""
        self._again_at: float | None = None

    def step(self) -> int:
        """Publish one batch; the number of messages."""
        room = self._bus.room()
        with self._store.transaction() as tx:
            messages = tx.take_outbox(BATCH, room=room)
            if messages:
                self._bus.publish(messages)
            return len(messages)

    def forever(self, stopping: threading.Event) -> None:
        """Publish until told to stop; waits longer while there is nothing to do, and while there is much.

        A single message goes out at once. Where several come at a time, a batch is gathered for up to 20 ms: each
        costs a transaction and a round of confirms, however many messages it has.
        """
        pause_s = _QUICK_S
        while not stopping.is_set():
            try:
                moved = self._patiently()
            except Exception:  # noqa: BLE001 - whatever it was, what waits must be published
                log.exception("relay.crashed")
                stopping.wait(_AFTER_FAULT_S)
                continue
            if moved:
                pause_s = min(_GATHER_S, max(_QUICK_S, (moved - 1) * _EACH_S))
            else:
                pause_s = min(_IDLE_S, max(_QUICK_S, pause_s * 1.5))
            stopping.wait(pause_s)

    def _patiently(self) -> int:
        try:
            if self._lost or (self._again_at is not None and time.monotonic() > self._again_at):
                self._recover()
            return self.step()
        except BrokerUnavailable as error:
            log.warning("bus.unavailable", error=str(error))
        except Unavailable as error:
            log.warning("store.unavailable", error=str(error))
        self._lost = True
        return 0

    def _recover(self) -> None:
        """Ring for what may have been lost, until there is nothing more; and once more for what was too fresh to tell."""
        self._bus.room()  # the broker answers, and so it will take what is rung for
        first, self._again_at = self._lost, None
        self._lost = self._ring(_SETTLED) > 0
        if first and not self._lost:
            self._again_at = time.monotonic() + 2 * _SETTLED.total_seconds()


class Sweeper:
    """Looks, now and then, for what was dropped or is due."""

    def __init__(
        self,
        conductor: Conductor,
        *,
        every_s: float,
        alive: Callable[[], None] = lambda: None,
        locks: Locks | None = None,
        forget: Callable[[], int] = lambda: 0,
    ) -> None:
        """`forget` removes a batch of what was kept long enough, and returns how much that was."""
        self._forget = forget
        self._conductor = conductor
        self._every_s = every_s
        self._alive = alive
        self._locks = locks or NoLocks()
        self._passed = 0
        self._forget_at = 0.0

    def forever(self, stopping: threading.Event) -> None:
        """Sweep at once, then every so often, until told to stop."""
        while not stopping.is_set():
            swept = _patiently(self.step, Swept())
            if swept:
                log.info(
                    "sweep.done",
                    woken=swept.woken,
                    rescued=swept.rescued,
                    offered=swept.offered,
                    expired=swept.expired,
                    forgotten=swept.forgotten,
                )
            stopping.wait(self._every_s)

    def step(self) -> Swept:
        """Sweep once, unless somebody else sweeps or has just swept."""
        self._alive()
        period = timedelta(seconds=self._every_s)
        # the lock outlives the sweep by almost a period, so that whoever comes next comes too early; a sweeper that
        # dies is followed by another within two periods
        with self._locks.hold("sweep", ttl=period * _LONGEST_SWEEP, linger=period * 0.9) as hold:
            if hold is Hold.THEIRS and self._passed < _PATIENCE:
                self._passed += 1
                return Swept()
            self._passed = 0
            return replace(self._conductor.sweep(), forgotten=self._forgotten())

    def _forgotten(self) -> int:
        """Forget what was kept long enough: a batch a minute, and the next at once while there is more."""
        if time.monotonic() < self._forget_at:
            return 0
        forgotten = self._forget()
        self._forget_at = 0.0 if forgotten else time.monotonic() + _FORGET_EVERY_S
        return forgotten


def _patiently(act: Callable[[], _T], otherwise: _T) -> _T:
    try:
        return act()
    except BrokerUnavailable as error:
        log.warning("bus.unavailable", error=str(error))
    except Unavailable as error:
        log.warning("store.unavailable", error=str(error))
    except Exception:  # noqa: BLE001 - whatever it was, the next sweep must come
        log.exception("sweep.crashed")
    return otherwise
