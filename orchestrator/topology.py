"""Exchanges, queues and dead-letter routes, drawn and declared in one place; declared again on every connect.

    relay ──▶ plan (direct) ─┬─ plan.steps.high ─┐
                             ├─ plan.steps ──────┼──▶ step consumers        (one queue per priority class: quorum
                             ├─ plan.steps.low ──┘                           queues know no priorities)
                             ├─ plan.completions ───▶ completion consumers
                             └─ plan.dead ──────────▶ dead-letter consumers
                                    ▲
    rejected, undecodable, or delivered too often ── plan.dlx (direct) ──┘

All queues are durable quorum queues. Every argument is set, since the defaults differ between RabbitMQ 3.10 (no
delivery limit: a message that kills its consumer returns for ever) and 4 (a limit of 20, and then a silent drop).
`plan.dead` itself has no dead letters: its limit is beyond reach. Arguments of a queue cannot be changed once it is
declared; another set of them needs another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orchestrator.messages import Message, Topic

EXCHANGE: Final = "plan"
DEAD_EXCHANGE: Final = "plan.dlx"

TASK_OF: Final[Mapping[Topic, str]] = {
    Topic.STEPS: "plan.steps.run",
    Topic.COMPLETIONS: "plan.completions.settle",
    Topic.DEAD: "plan.dead.note",
}
"""The task that answers a topic; its one argument is a message's body."""

STEPS_HIGH: Final = "plan.steps.high"
STEPS_LOW: Final = "plan.steps.low"
STEP_QUEUES: Final = (STEPS_HIGH, Topic.STEPS.value, STEPS_LOW)
"""From the most urgent to the least."""

DELIVERY_LIMIT: Final = 5
"""Deliveries that may fail before a message is dead: a doorbell that kills five consumers rings no more."""

_BEYOND_REACH: Final = 1_000_000

_WORK: Final[Mapping[str, Any]] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": DEAD_EXCHANGE,
    "x-dead-letter-routing-key": Topic.DEAD.value,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}

QUEUES: Final[Mapping[str, Mapping[str, Any]]] = {
    **dict.fromkeys((*STEP_QUEUES, Topic.COMPLETIONS.value), _WORK),
    Topic.DEAD.value: {"x-queue-type": "quorum", "x-delivery-limit": _BEYOND_REACH},
}
"""Every queue with its arguments."""


def queue_of(message: Message) -> str:
    """The queue, and routing key, of a message: steps go by their plan's priority."""
    if message.topic is not Topic.STEPS or message.priority == 0:
        return message.topic.value
    return STEPS_HIGH if message.priority > 0 else STEPS_LOW


def declare(channel: Any) -> None:
    """Make sure that every exchange, queue and binding is there, on an AMQP channel. Harmless to repeat."""
    channel.exchange_declare(EXCHANGE, "direct", durable=True, auto_delete=False)
    channel.exchange_declare(DEAD_EXCHANGE, "direct", durable=True, auto_delete=False)
    for name, arguments in QUEUES.items():
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=dict(arguments))
        channel.queue_bind(name, EXCHANGE, routing_key=name)
    channel.queue_bind(Topic.DEAD.value, DEAD_EXCHANGE, routing_key=Topic.DEAD.value)
