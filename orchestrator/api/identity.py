"""Who asks, and what a route lets them do.

Every route that changes something names its action: `who: Annotated[Principal, Depends(acts("plan.cancel"))]`.
Nobody's identity is verified yet: whoever reaches this API is an operator of the default tenant.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orchestrator.api.office import CALLER, ROLES, TENANT


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever asks: a name for the audit, the tenant whose rows they see, and the roles that they hold."""

    name: str
    tenant: str
    roles: frozenset[str]


def acts(action: str) -> Callable[[], Awaitable[Principal]]:
    """Return a dependency that lets a caller in who may take this action, and says who it is."""

    async def caller() -> Principal:
        return Principal(CALLER, TENANT, ROLES)

    caller.action = action  # type: ignore[attr-defined]  # for whoever walks the routes
    return caller
