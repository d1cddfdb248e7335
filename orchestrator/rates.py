"""How often one caller may ask: a rate for each class of routes, the same on every replica while Redis answers.

    Redis answers    ── one GCRA for all replicas, by Redis's own clock
    Redis does not   ── a GCRA in this process, at this replica's share of the rate: never no limit at all

The generic cell rate algorithm keeps one number for each caller, the time at which they would have used up what is
theirs; so many requests may come at once as that time may lie ahead of now.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from orchestrator.locks import Breaker, client
from orchestrator.telemetry import log

MOST_CALLERS: Final = 10_000
"""Callers that one process remembers; whoever asked least recently is forgotten first."""

_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local used = math.max(now, tonumber(redis.call('GET', KEYS[1]) or now))
local ahead = used + interval - now
local most = interval * burst
if ahead > most then
    return {0, 0, string.format('%.0f', ahead - most), string.format('%.0f', used - now)}
end
redis.call('SET', KEYS[1], string.format('%.0f', used + interval), 'PX', math.ceil(ahead / 1000))
return {1, math.floor((most - ahead) / interval), '0', string.format('%.0f', ahead)}
"""
"""Take one request from a caller's rate, in microseconds; a refusal changes nothing."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests a minute, of which so many may come at once."""

    per_minute: float
    burst: int

    @property
    def interval_us(self) -> int:
        """Microseconds between requests that come evenly."""
        return max(1, round(60_000_000 / self.per_minute))

    def share(self, replicas: int) -> Rate:
        """What one of several processes may let through, so that together they let through no more."""
        return Rate(self.per_minute / replicas, max(1, self.burst // replicas))


@dataclass(frozen=True, slots=True)
class Taken:
    """Whether a request is within its rate, how many more are now, and when to come again, in seconds."""

    allowed: bool
    remaining: int
    retry_s: float
    reset_s: float


class Rates(Protocol):
    """Something that counts requests."""

    def take(self, who: str, rate: Rate) -> Taken:
        """Count one request of a caller, if it is within the rate. Never raises."""
        ...


class LocalRates:
    """The rates of one process; safe to share between threads."""

    def __init__(self, *, replicas: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._replicas = replicas
        self._clock = clock
        self._guard = threading.Lock()
        self._used: OrderedDict[str, float] = OrderedDict()

    def take(self, who: str, rate: Rate) -> Taken:
        """See `Rates`."""
        mine = rate.share(self._replicas)
        interval, most = mine.interval_us, mine.interval_us * mine.burst
        with self._guard:
            now = self._clock() * 1e6
            used = max(now, self._used.get(who, now))
            ahead = used + interval - now
            if ahead > most:
                return Taken(False, 0, (ahead - most) / 1e6, (used - now) / 1e6)
            self._used[who] = used + interval
            self._used.move_to_end(who)
            while len(self._used) > MOST_CALLERS:
                self._used.popitem(last=False)
            return Taken(True, math.floor((most - ahead) / interval), 0.0, ahead / 1e6)


class RedisRates:
    """The rates of every process on one Redis that names the same space; local ones for as long as it does not answer."""

    def __init__(
        self,
        url: str,
        *,
        space: str,
        replicas: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `Misconfigured` when Redis has no use for the address; opens nothing before the first request."""
        self._redis = client(url)
        self._prefix = f"orchestrator:{space}:rate:"
        self._breaker = Breaker(clock)
        self._local = LocalRates(replicas=replicas, clock=clock)

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()

    def take(self, who: str, rate: Rate) -> Taken:
        """See `Rates`."""
        if self._breaker.lets_through():
            try:
                answer = self._redis.eval(_TAKE, 1, self._prefix + who, rate.interval_us, rate.burst)
                taken = _taken(answer)
            except Exception as error:  # noqa: BLE001 - whatever Redis does, a request is counted and answered
                if self._breaker.broke():
                    log.warning("rates.unavailable", error=str(error) or type(error).__name__)
            else:
                if self._breaker.held():
                    log.info("rates.returned")
                return taken
        return self._local.take(who, rate)


def _taken(answer: Any) -> Taken:
    allowed, remaining, retry_us, reset_us = (float(part) for part in answer)
    return Taken(bool(allowed), int(remaining), retry_us / 1e6, reset_us / 1e6)
