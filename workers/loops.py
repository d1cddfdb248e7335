"""What a process of the fleet runs that thinks and calls nothing: it imports no tool, no model and no policy."""

from __future__ import annotations

import threading
from typing import Final

from orchestrator.domain.errors import Misconfigured
from orchestrator.messages import Topic
from orchestrator.telemetry import log
from orchestrator.wiring import Core, notary
from workers.broker_loop import BrokerLoop
from workers.completion_consumer import CompletionConsumer
from workers.dead_letter_consumer import DeadLetterConsumer

_LOOK_S: Final = 5.0
"""How often a process looks whether a checkpoint is due, in seconds."""


def completions_loop(opened: Core) -> BrokerLoop:
    """What settles completions from RabbitMQ."""
    consumer = CompletionConsumer(opened.conductor)
    return BrokerLoop(opened.settings.broker_url, Topic.COMPLETIONS.value, consumer.take_waiting)


def dead_letters_loop(opened: Core) -> BrokerLoop:
    """What lists the broker's dead letters."""
    consumer = DeadLetterConsumer(opened.conductor)
    return BrokerLoop(opened.settings.broker_url, Topic.DEAD.value, consumer.take_waiting)


def notarise(opened: Core, stopping: threading.Event) -> None:
    """Sign where the chains of the audit stand, now and then, until told to stop; one of all replicas does it."""
    every_s = opened.settings.checkpoint_every_s
    if every_s <= 0:
        return
    try:
        made = notary(opened.settings, opened.store)
    except Misconfigured as error:
        log.error("checkpoint.refused", error=str(error))
        return
    made.forever(stopping, every_s=every_s, look_s=min(every_s, _LOOK_S))
