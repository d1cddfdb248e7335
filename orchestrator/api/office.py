"""What the routes are given: what remembers and decides, how many streams may be open, and whether to go on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Final, Protocol

import anyio
from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import Request

from orchestrator.api.problems import Refused
from orchestrator.conductor import Conductor
from orchestrator.domain.errors import NotFound
from orchestrator.domain.identity import Principal
from orchestrator.domain.plan import Plan
from orchestrator.ports import Listener, SecretStore, Talker, ToolDesk, Tx
from orchestrator.settings import Settings
from orchestrator.store import PgStore
from orchestrator.vault.chain import Sealer

MOST_EACH: Final = 32
"""Streams that one caller may have open in one process, so that nobody takes every seat."""


class Core(Protocol):
    """What remembers and decides; `orchestrator.wiring` opens it."""

    @property
    def settings(self) -> Settings:
        """What it was opened with."""
        ...

    @property
    def dsn(self) -> str:
        """Where its Postgres is."""
        ...

    @property
    def store(self) -> PgStore:
        """Where the truth is kept."""
        ...

    @property
    def sealer(self) -> Sealer:
        """What seals the audit."""
        ...

    @property
    def conductor(self) -> Conductor:
        """What decides."""
        ...

    @property
    def secrets(self) -> SecretStore:
        """Where secrets are kept."""
        ...


class Seats:
    """How many streams may be open at once in this process."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._held: Counter[tuple[str, str]] = Counter()

    def full(self, who: Principal) -> bool:
        """Whether another stream of this caller would be refused."""
        return self._free <= 0 or self._held[who.tenant, who.name] >= MOST_EACH

    @contextmanager
    def taken(self, who: Principal) -> Iterator[None]:
        """Hold a seat for as long as the block lasts; raises `Refused` when there is none for this caller."""
        self.check(who)
        self._free -= 1
        self._held[who.tenant, who.name] += 1
        try:
            yield
        finally:
            self._free += 1
            self._held[who.tenant, who.name] -= 1
            if not self._held[who.tenant, who.name]:
                del self._held[who.tenant, who.name]

    def check(self, who: Principal) -> None:
        """Raise `Refused` when there is no seat for this caller."""
        if self.full(who):
            raise Refused(
                429,
                "too_many_streams",
                "As many streams are open as this server carries, or as you may have; try again soon, or ask for JSON.",
                headers={"Retry-After": "5"},
            )


@dataclass(frozen=True, slots=True)
class Office:
    """What the routes are given."""

    core: Core
    seats: Seats
    stopping: threading.Event
    still: Callable[[Principal], bool] = lambda _: True
    """Whether a caller whose request goes on may still be here."""
    talker: Talker | None = None
    """Who answers a conversation, if anybody does."""
    desk: ToolDesk | None = None
    """Who calls tools outside of plans, if anybody does."""
    listener: Listener | None = None
    """Who understands what is said in one about what was found, if anybody does."""
    lookers: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(4))
    """The threads that look for events: few, so that streams do not keep other requests waiting."""

    def store(self, tenant: str) -> PgStore:
        """Return the store as this tenant sees it: Postgres itself hides the rest."""
        return self.core.store.of(tenant)

    def conductor(self, tenant: str) -> Conductor:
        """Return the conductor for this tenant: what is another's it does not find."""
        return self.core.conductor.of(tenant)


async def _office(request: Request) -> Office:
    office: Office = request.app.state.office
    return office


Here = Annotated[Office, Depends(_office)]
"""The office, for a route that names it among its parameters."""


async def known_parameters(request: Request) -> None:
    """Raise `Refused` for a parameter of the address that its route does not take: a filter that nobody applies."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    known = {field.alias for field in route.dependant.query_params}
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        raise Refused(
            422, "unknown_parameter", f"This address takes no parameter {unknown[0][:100]!r}; {takes}."
        )


def the_plan(tx: Tx, plan_id: object, tenant: str) -> Plan:
    """Return the tenant's plan of that id, or raise `NotFound`; another tenant's is not told from none."""
    plan = tx.plan(str(plan_id))
    if plan is None or plan.tenant != tenant:
        raise NotFound("plan", plan_id)
    return plan
