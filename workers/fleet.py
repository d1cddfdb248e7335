"""The roles of the fleet that carry no steps, each one process: completions, dead letters, relay, sweeper.

Any number of each may run. None holds anything that another could not take over: what is in hand is in Postgres,
under a claim. A relay sweeps too, unless it is told that others do: what was dropped must not stay dropped because
somebody forgot to start a process. What carries steps is in `workers.steps`, since it imports Celery, the tools and the
models: nothing of that comes with these.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from orchestrator import wiring
from orchestrator.bus import RabbitBus
from orchestrator.relay import Relay, Sweeper
from orchestrator.wiring import Core
from workers.loops import completions_loop, dead_letters_loop, notarise

if TYPE_CHECKING:
    from orchestrator.notifier import Notifier


def completions(opened: Core, stopping: threading.Event) -> None:
    """Decide what follows finished steps, until told to stop."""
    completions_loop(opened).forever(stopping)


def dead_letters(opened: Core, stopping: threading.Event) -> None:
    """List what the broker gave up on, until told to stop."""
    dead_letters_loop(opened).forever(stopping)


def relay(opened: Core, stopping: threading.Event, *, sweeps: bool = True) -> None:
    """Publish the outbox, and sweep unless others do, until told to stop."""
    notifier = wiring.notifier(opened) if sweeps else None
    thread = threading.Thread(target=_sweep, args=(opened, stopping, notifier), name="sweeper", daemon=True)
    if sweeps:
        thread.start()
    bus = RabbitBus(opened.settings.broker_url)
    Relay(opened.store, bus, ring=opened.conductor.offer_again).forever(stopping)
    bus.close()
    if sweeps:
        thread.join(5.0)


def sweeper(opened: Core, stopping: threading.Event) -> None:
    """Look for what was dropped or is due, and tell the webhook where there is one, until told to stop."""
    _sweep(opened, stopping, wiring.notifier(opened))


def _sweep(opened: Core, stopping: threading.Event, notifier: Notifier | None) -> None:
    # beside the sweeper and not within: a webhook that answers slowly must not keep steps from being rescued
    telling = threading.Thread(
        target=notifier.forever if notifier else stopping.wait,
        args=(stopping,) if notifier else (),
        name="notifier",
        daemon=True,
    )
    telling.start()
    notary = threading.Thread(target=notarise, args=(opened, stopping), name="notary", daemon=True)
    notary.start()
    Sweeper(
        opened.conductor,
        every_s=opened.settings.sweep_every_s,
        locks=opened.locks,
        forget=wiring.forgetter(opened),
    ).forever(stopping)
    telling.join(5.0)
    notary.join(5.0)


ROLES: Mapping[str, Callable[[Core, threading.Event], None]] = {
    "completions": completions,
    "dead_letters": dead_letters,
    "relay": relay,
    "publisher": partial(relay, sweeps=False),
    "sweeper": sweeper,
}
