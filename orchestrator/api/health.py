"""Whether this process lives, whether it can work, and what there is in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

from fastapi import APIRouter
from kombu.connection import Connection
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orchestrator import database, locks, meters
from orchestrator.api import forms
from orchestrator.api.office import Core, Here
from orchestrator.api.problems import documented, problem
from orchestrator.domain.errors import Unavailable
from orchestrator.domain.plan import NotificationState, PlanState
from orchestrator.store import Tally
from orchestrator.telemetry import METRICS, log

router: Final = APIRouter(tags=["health"])

FINE: Final = "ok"
HINTS: Final = frozenset({"redis"})
"""What makes things better, and nothing wrong when it is away."""
_PROBE_S: Final = 3


@router.get("/healthz", response_model=forms.Health, responses=documented())
async def health() -> Any:
    """Say that this process answers; asks nobody else."""
    return {"status": "ok"}


@router.get("/readyz", response_model=forms.Readiness, responses=documented())
def ready(request: Request, office: Here) -> Response:
    """Ask everything that is needed whether it answers; 503 names what does not. Redis is not needed: it is told of."""
    found = dict(_probed(office.core))
    lacking = [name for name, said in found.items() if said != FINE and name not in HINTS]
    if lacking:
        detail = " ".join(f"{name}: {found[name]}" for name in lacking)
        return problem(
            request.scope, 503, "not_ready", detail, headers={"Retry-After": "5"}, dependencies=found
        )
    return JSONResponse({"status": "ready", "dependencies": found})


def _probed(core: Core) -> Iterable[tuple[str, str]]:
    try:
        at, wanted = database.revision(core.dsn), database.head()
        exposed = core.store.exposure() if at == wanted else None
    except Unavailable:
        yield "postgres", "It does not answer."
    else:
        yield "postgres", FINE
        yield "schema", FINE if at == wanted else f"It is at revision {at}; this program expects {wanted}."
        if at == wanted:
            yield "tenants", FINE if exposed is None else _told(exposed)
    if not core.settings.broker_url.startswith("memory:"):
        yield "broker", _broker(core.settings.broker_url)
    if core.settings.redis_url:
        yield "redis", "degraded: there are no locks" if locks.fault(core.settings.redis_url) else FINE


def _told(exposed: str) -> str:
    log.error("tenants.exposed", error=exposed)
    return "They are not kept apart; the log and `orchestrator doctor` say why."


def _broker(url: str) -> str:
    with Connection(url, connect_timeout=_PROBE_S) as connection:
        faults: tuple[type[Exception], ...] = (OSError, *connection.connection_errors)
        try:
            connection.connect()
        except faults:
            return "It does not answer."
    return FINE


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        **documented(),
        200: {"description": "For Prometheus.", "content": {"text/plain": {"schema": {"type": "string"}}}},
    },
)
def metrics(office: Here) -> Response:
    """Count what there is, for Prometheus: in the database, which any replica says alike, and what this process did."""
    with office.core.store.transaction() as tx:
        tally = tx.tally()
    registry = CollectorRegistry()
    registry.register(_Counted(tally))
    found = generate_latest(registry) + meters.text()
    return Response(found, headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Counted(Collector):
    """One tally as metrics; never labelled with an id."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterable[GaugeMetricFamily]:
        tally = self._tally
        yield _by_state("orchestrator_plans", PlanState, tally.plans)
        yield _by_state("orchestrator_notifications", NotificationState, tally.notifications)
        for name, value in _single(tally).items():
            yield GaugeMetricFamily(f"orchestrator_{name}", METRICS[f"orchestrator_{name}"], value=value)


def _by_state(name: str, states: Iterable[StrEnum], counted: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, METRICS[name], labels=["state"])
    for state in states:
        family.add_metric([state.value], counted.get(state.value, 0))
    return family


def _single(tally: Tally) -> Mapping[str, float]:
    return {
        "dead_letters_open": tally.dead_letters,
        "steps_running": tally.running_steps,
        "stops": tally.stops,
        "outbox_messages": tally.waiting_messages,
        # what grows while nothing happens comes last
        "outbox_oldest_age_seconds": tally.waiting_s,
        "notifications_oldest_age_seconds": tally.untold_s,
    }
