"""The role of the fleet that carries steps: one process, which any number of others may stand beside."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Sequence

from orchestrator import topology
from orchestrator.domain.errors import Unavailable
from orchestrator.messages import Topic
from orchestrator.telemetry import log
from orchestrator.wiring import Core
from workers import celery_app, signals
from workers.step_consumer import StepConsumer
from workers.wiring import Hands


def carry(
    opened: Core,
    *,
    queues: Sequence[str] | None = None,
    events: bool = False,
    make_hands: Callable[[Core], Hands] = Hands,
) -> None:
    """Take steps until this process is told to stop; then finish, or hand back, what is in hand.

    Threads may still be busy when this returns, with steps that are no longer theirs: end the process without them.
    """
    signals.once(celery_app.stop_taking)
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
        celery_app.fleet_worker(
            app,
            # a name that is taken ends the second worker: several run on one machine
            name=f"steps.{hands.alive.holder}@{platform.node()}",
            concurrency=opened.settings.concurrency,
            heartbeat=events,
        ).start()
        hands.executor.drain(opened.settings.shutdown_grace_s)
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
