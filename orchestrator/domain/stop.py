"""What must not go on: the targets of the kill switch, and which of them concern a call."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from orchestrator.domain.errors import Invalid

EVERYWHERE: Final = ""
"""In place of a tenant: the stop holds for all of them."""

LONGEST_REASON: Final = 500

TARGET: Final = re.compile(r"all|(?:tenant|tool|agent|plan):[A-Za-z0-9 ._@+=-]{1,200}")


@dataclass(frozen=True, slots=True)
class Stop:
    """A target that is stopped: for one tenant, or everywhere where `tenant` is empty."""

    target: str
    reason: str
    tenant: str = EVERYWHERE
    by: str = ""
    at: datetime | None = field(default=None, compare=False)


def target(given: str) -> str:
    """Return a target as it is written, or raise `Invalid`."""
    if not TARGET.fullmatch(given):
        raise Invalid("Name all, tenant:NAME, tool:NAME, agent:NAME or plan:ID.")
    return given


def reason(given: str) -> str:
    """Return a reason on one line, or raise `Invalid`: whoever lifts a stop must know why it was set."""
    told = " ".join(given.split())
    if not told or len(told) > LONGEST_REASON or not told.isprintable():
        raise Invalid(f"A stop needs a reason of 1 to {LONGEST_REASON} characters that can be printed.")
    return told


def concerning(
    targets: Collection[str], *, tenant: str, tool: str, agent: str = "", plan_id: str = ""
) -> list[str]:
    """Return which of these targets concern a call."""
    concerned = ("all", f"tenant:{tenant}", f"tool:{tool}", f"agent:{agent}", f"plan:{plan_id}")
    return [name for name in concerned if name in targets]
