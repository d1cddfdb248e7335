"""What a plan may spend, what it has spent, and whether a next thing still fits.

Limits are reserved before the spending and settled after it, so that they hold under any number of workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from orchestrator.domain.errors import BudgetSpent, InvalidBudget

WRITING_STEPS = 4
"""Steps kept back for generate, critique, judge and synthesise: what there is can always be written."""

LEAST_STEPS = WRITING_STEPS + 4
"""Route, plan, one observation and its keeper, then writing."""


LONGEST_S = 10 * 365 * 24 * 3600
"""Seconds after which a deadline could not be told from none."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What has been spent or reserved: steps, tool and model calls, tokens, micro-dollars."""

    steps: int = 0
    calls: int = 0
    tokens: int = 0
    cost_uusd: int = 0

    def plus(self, other: Spent) -> Spent:
        """The sum of both."""
        return Spent(
            self.steps + other.steps,
            self.calls + other.calls,
            self.tokens + other.tokens,
            self.cost_uusd + other.cost_uusd,
        )

    def minus(self, other: Spent) -> Spent:
        """What is left of this after taking the other away."""
        return Spent(
            self.steps - other.steps,
            self.calls - other.calls,
            self.tokens - other.tokens,
            self.cost_uusd - other.cost_uusd,
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """What a plan may spend; `seconds` is wall-clock time since it was submitted."""

    steps: int = 200
    calls: int = 500
    tokens: int = 1_000_000
    cost_uusd: int = 10_000_000
    seconds: int = 3_600

    def check(self) -> None:
        """Raise `InvalidBudget` when a limit cannot be meant."""
        for name, value in self.as_json().items():
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**53:
                raise InvalidBudget(
                    f"The budget for {name} must be a whole number from 0 to 2^53, not {value!r}."
                )
        if self.steps < LEAST_STEPS:
            raise InvalidBudget(
                f"A plan needs at least {LEAST_STEPS} steps to write anything; {self.steps} were given."
            )
        if not 1 <= self.seconds <= LONGEST_S:
            raise InvalidBudget(
                f"A plan takes from one second to ten years ({LONGEST_S:,} s), not {self.seconds} s."
            )

    def as_json(self) -> dict[str, int]:
        """The limits by name."""
        return {
            "steps": self.steps,
            "calls": self.calls,
            "tokens": self.tokens,
            "cost_uusd": self.cost_uusd,
            "seconds": self.seconds,
        }

    def research_steps_left(self, spent: Spent) -> int:
        """How many more steps may be planned without touching those kept back for writing."""
        return max(0, self.steps - WRITING_STEPS - spent.steps)

    def part(self, share: float) -> Budget:
        """Return the share (0 to 1) of what may be called and paid, rounded up; steps and time are the plan's own."""
        return replace(
            self,
            calls=math.ceil(self.calls * share),
            tokens=math.ceil(self.tokens * share),
            cost_uusd=math.ceil(self.cost_uusd * share),
        )

    def reserve(self, spent: Spent, ask: Spent, *, whose: str = "plan") -> Spent:
        """Return what is spent with `ask` reserved on top, or raise `BudgetSpent` naming what ran out."""
        after = spent.plus(ask)
        for name, now, limit, asked in (
            ("tool and model calls", after.calls, self.calls, ask.calls),
            ("tokens", after.tokens, self.tokens, ask.tokens),
            ("micro-dollars", after.cost_uusd, self.cost_uusd, ask.cost_uusd),
        ):
            if asked > 0 and now > limit:
                raise BudgetSpent(name, limit, whose)
        return after
