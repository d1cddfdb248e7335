"""Who is served next when there is more to do than there are hands: each tenant by its weight, none left waiting.

Start-time fair queueing. Every tenant has a clock of its own that moves by `1 / weight` with each message it is given;
whoever's clock is behind is next. A tenant that comes back after a pause starts where the others are: it has no claim on
what it did not use. A tenant may also be limited: it is given no more than it has free hands for.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tenant:
    """What is set for a tenant: its share when there is a crowd, and how many of its steps may run at once, if limited."""

    tenant: str
    weight: float = 1.0
    max_running: int | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A tenant with messages that wait; `served` is its clock, `free` how many more may run, or `None` for any number."""

    tenant: str
    messages: int
    weight: float = 1.0
    served: float = 0.0
    free: int | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """How many messages a tenant is given now, and where its clock stands afterwards."""

    messages: int
    served: float


def share(waiting: Sequence[Waiting], room: int) -> Mapping[str, Share]:
    """Divide `room` places among those who wait; tenants that are given none are left out."""
    able = {w.tenant: w for w in waiting if _wanted(w) > 0}
    if not able or room <= 0:
        return {}
    # the clocks of those who wait all the time are never further apart than one step of the slowest
    behind = max(w.served for w in able.values()) - 1 / min(w.weight for w in able.values())
    clocks = {w.tenant: max(w.served, behind) for w in able.values()}
    given = dict.fromkeys(able, 0)
    queue = [(clock, tenant) for tenant, clock in clocks.items()]
    heapq.heapify(queue)
    for _ in range(room):
        if not queue:
            break
        clock, tenant = heapq.heappop(queue)
        given[tenant] += 1
        clocks[tenant] = clock + 1 / able[tenant].weight
        if given[tenant] < _wanted(able[tenant]):
            heapq.heappush(queue, (clocks[tenant], tenant))
    return {tenant: Share(number, clocks[tenant]) for tenant, number in given.items() if number}


def _wanted(waiting: Waiting) -> int:
    return waiting.messages if waiting.free is None else min(waiting.messages, waiting.free)
