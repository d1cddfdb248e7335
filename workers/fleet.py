"""The roles of the fleet, each one process: steps, completions, dead letters, relay.

Any number of each may run. None holds anything that another could not take over: what is in hand is in Postgres,
under a claim.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Mapping, Sequence

from orchestrator import topology
from orchestrator.bus import RabbitBus
from orchestrator.domain.errors import Unavailable
from orchestrator.messages import Topic
from orchestrator.relay import Relay, Sweeper
from orchestrator.telemetry import log
from orchestrator.wiring import Core
from workers import celery_app
from workers.step_consumer import StepConsumer
from workers.wiring import Hands, completions_loop, dead_letters_loop


def steps(
    opened: Core,
    *,
    queues: Sequence[str] | None = None,
    events: bool = False,
    make_hands: Callable[[Core], Hands] = Hands,
) -> None:
    """Take steps until the process is told to stop; Celery's own signals apply (SIGTERM finishes what is in hand)."""
    hands = make_hands(opened)
    app = celery_app.make(
        opened.settings.broker_url,
        {Topic.STEPS: StepConsumer(opened.conductor, hands.executor).take},
        queues=queues or topology.STEP_QUEUES,
        events=events,
    )
    watch = threading.Event()
    keeper = threading.Thread(target=_keep_alive, args=(hands, watch), name="alive", daemon=True)
    keeper.start()
    log.info("worker.started", holder=hands.alive.holder)
    try:
        app.Worker(
            # a name that is taken ends the second worker: several run on one machine
            hostname=f"steps.{hands.alive.holder}@{platform.node()}",
            pool="threads",
            concurrency=opened.settings.concurrency,
            without_mingle=True,
            without_gossip=True,
            without_heartbeat=not events,
            quiet=True,
            loglevel="ERROR",
        ).start()
    finally:
        watch.set()
        hands.close()
        log.info("worker.stopped", holder=hands.alive.holder)


def _keep_alive(hands: Hands, stopping: threading.Event) -> None:
    while not stopping.wait(1.0):
        try:
            hands.alive.renew()
        except Unavailable:
            log.warning("store.unavailable")


def completions(opened: Core, stopping: threading.Event) -> None:
    """Decide what follows finished steps, until told to stop."""
    completions_loop(opened).forever(stopping)


def dead_letters(opened: Core, stopping: threading.Event) -> None:
    """List what the broker gave up on, until told to stop."""
    dead_letters_loop(opened).forever(stopping)


def relay(opened: Core, stopping: threading.Event) -> None:
    """Publish the outbox and sweep, until told to stop."""
    sweeper = Sweeper(opened.conductor, every_s=opened.settings.sweep_every_s, locks=opened.locks)
    thread = threading.Thread(target=sweeper.forever, args=(stopping,), name="sweeper", daemon=True)
    thread.start()
    bus = RabbitBus(opened.settings.broker_url)
    Relay(opened.store, bus, ring=opened.conductor.offer_again).forever(stopping)
    bus.close()
    thread.join(5.0)


ROLES: Mapping[str, Callable[[Core, threading.Event], None]] = {
    "completions": completions,
    "dead_letters": dead_letters,
    "relay": relay,
}
