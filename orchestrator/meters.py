"""What this process counts for Prometheus, under the names that `telemetry.METRICS` lists; never labelled with an id.

What is in the database is counted there when somebody asks, so that any replica says the same; see `api.health`.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

from orchestrator.domain.errors import Misconfigured
from orchestrator.domain.judgement import Judgement
from orchestrator.telemetry import METRICS, log

REGISTRY: Final = CollectorRegistry()

_DECISIONS: Final = Counter(
    "orchestrator_policy_decisions",
    METRICS["orchestrator_policy_decisions_total"],
    ["package", "result", "engine"],
    registry=REGISTRY,
)
_DECIDING: Final = Histogram(
    "orchestrator_policy_decision_seconds",
    METRICS["orchestrator_policy_decision_seconds"],
    ["engine"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
    registry=REGISTRY,
)
_REVISION: Final = Gauge(
    "orchestrator_policy_revision",
    METRICS["orchestrator_policy_revision"],
    ["engine", "revision"],
    registry=REGISTRY,
)
_ANSWERS: Final = Gauge(
    "orchestrator_policy_available", METRICS["orchestrator_policy_available"], ["engine"], registry=REGISTRY
)
_ATTEMPTS: Final = Counter(
    "orchestrator_webhook_attempts",
    METRICS["orchestrator_webhook_attempts_total"],
    ["result"],
    registry=REGISTRY,
)
_DELAY: Final = Histogram(
    "orchestrator_webhook_delay_seconds",
    METRICS["orchestrator_webhook_delay_seconds"],
    buckets=(0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400),
    registry=REGISTRY,
)

for _result in ("delivered", "failed", "given_up"):
    _ATTEMPTS.labels(_result)  # there from the start, so that the first of them is a rise


class Decisions:
    """Counts the decisions of one engine, and says once when it gives none and once when it does again."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._revision = ""
        self._answers = True

    def count(self, package: str, decision: Judgement, *, seconds: float) -> None:
        """Count one decision of a package. Never raises."""
        result = "unavailable" if decision.failed else decision.effect
        _DECISIONS.labels(package, result, self._engine).inc()
        _DECIDING.labels(self._engine).observe(seconds)
        with self._lock:
            self._tell(answers=not decision.failed)
            if decision.revision and decision.revision != self._revision:
                with suppress(KeyError):
                    _REVISION.remove(self._engine, self._revision)
                _REVISION.labels(self._engine, decision.revision).set(1)
                self._revision = decision.revision

    def _tell(self, *, answers: bool) -> None:
        _ANSWERS.labels(self._engine).set(answers)
        if answers is self._answers:
            return
        self._answers = answers
        if answers:
            log.warning("policy.returned", engine=self._engine)
        else:
            log.error("policy.unavailable", engine=self._engine)


def told(result: str, *, delay_s: float | None = None) -> None:
    """Count an attempt to tell the webhook: `delivered`, after so many seconds in all, `failed` or `given_up`."""
    _ATTEMPTS.labels(result).inc()
    if delay_s is not None:
        _DELAY.observe(max(0.0, delay_s))


def text() -> bytes:
    """Return what this process counted, for Prometheus."""
    return generate_latest(REGISTRY)


def serve(address: str) -> int:
    """Let Prometheus ask at `HOST:PORT` for as long as this process lasts, and return the port; 0 takes any.

    Nothing is asked of whoever asks: it is for this machine, or a network of one's own. Raises `Misconfigured`.
    """
    host, _, port = address.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host.strip("[]"), registry=REGISTRY)
    except (OSError, ValueError, OverflowError) as error:
        raise Misconfigured(
            f"`metrics_listen` must be HOST:PORT of this machine that is free, and {address!r} is not ({error})."
        ) from error
    return int(server.server_port)
