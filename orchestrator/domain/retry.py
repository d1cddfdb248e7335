"""When to try again: exponential backoff with full jitter and a cap.

Drawn from the whole interval, so that a thousand steps that failed together do not return together.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """`delay_s` lies between 0 and `min(cap_s, base_s * factor ** (attempt - 1))` seconds."""

    base_s: float = 1.0
    factor: float = 2.0
    cap_s: float = 60.0

    def ceiling_s(self, attempt: int) -> float:
        """The longest delay after this attempt (from 1), in seconds."""
        # the exponent is capped too: 2.0 ** 2000 does not fit into a float
        return min(self.cap_s, self.base_s * self.factor ** min(max(0, attempt - 1), 64))

    def delay_s(self, attempt: int, draw: float) -> float:
        """The delay after this attempt, for a draw from 0.0 (inclusive) to 1.0 (exclusive)."""
        return self.ceiling_s(attempt) * draw
