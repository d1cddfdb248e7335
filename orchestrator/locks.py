"""Locks as hints: they save work that would be thrown away, and nothing is wrong without them.

What must not happen twice is fenced in Postgres, by claims and transactions. A lock may be lost, wiped, taken twice or
not be had at all; this costs time at most, and only so much of it as was said beforehand:

    ours ──────── nobody else has it
    theirs ────── somebody else has it, for as long as the caller would wait
    unknown ───── nobody could be asked

Redis is given a fifth of a second and asked once, never again for the same question. When it does not answer, nobody
asks it for five seconds; then one caller tries, while the others go on without. A lock is a key with a random token
that ends by itself, and only the holder of the token can end it sooner.
"""

from __future__ import annotations

import abc
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Final, TypeVar

from orchestrator.domain.errors import Misconfigured
from orchestrator.ports import Hold
from orchestrator.telemetry import log

_T = TypeVar("_T")

TIMEOUT_S: Final = 0.2
"""How long Redis may take to accept a connection, and for each answer, in seconds."""

BREAK_S: Final = 5.0
"""How long Redis is left alone after it did not answer, in seconds."""

AT_ONCE: Final = timedelta(0)

_FIRST_LOOK_S: Final = 0.01
_LAST_LOOK_S: Final = 0.25

_LET_GO: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
"""End a lock now or after some milliseconds, if its token is still the holder's."""


class NoLocks:
    """Where there is no Redis: everybody goes on."""

    @staticmethod
    def hold(
        name: str,  # noqa: ARG004
        *,
        ttl: timedelta,  # noqa: ARG004
        wait: timedelta = AT_ONCE,  # noqa: ARG004
        linger: timedelta = AT_ONCE,  # noqa: ARG004
    ) -> AbstractContextManager[Hold]:
        """See `orchestrator.ports.Locks`."""
        return nullcontext(Hold.UNKNOWN)


class _Asking(abc.ABC):
    """Takes a lock, looking again for as long as the caller would wait, and lets go of it at the end of the block."""

    @contextmanager
    def hold(
        self, name: str, *, ttl: timedelta, wait: timedelta = AT_ONCE, linger: timedelta = AT_ONCE
    ) -> Iterator[Hold]:
        """See `orchestrator.ports.Locks`."""
        token = secrets.token_hex(16)
        taken = self._waited(name, token, ttl, wait.total_seconds())
        try:
            yield taken
        finally:
            # an answer that did not come does not mean that the lock was not taken
            if taken is not Hold.THEIRS:
                self._let_go(name, token, linger)

    def _waited(self, name: str, token: str, ttl: timedelta, wait_s: float) -> Hold:
        give_up, pause_s = time.monotonic() + wait_s, _FIRST_LOOK_S
        while (taken := self._take(name, token, ttl)) is Hold.THEIRS:
            left_s = give_up - time.monotonic()
            if left_s <= 0:
                break
            time.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, _LAST_LOOK_S)
        return taken

    @abc.abstractmethod
    def _take(self, name: str, token: str, ttl: timedelta) -> Hold: ...

    @abc.abstractmethod
    def _let_go(self, name: str, token: str, linger: timedelta) -> None: ...


class InMemoryLocks(_Asking):
    """The locks of one process, for its threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._held: dict[str, tuple[str, float]] = {}

    def forget(self) -> None:
        """Lose every lock, as a Redis does that is wiped."""
        with self._guard:
            self._held.clear()

    def _take(self, name: str, token: str, ttl: timedelta) -> Hold:
        with self._guard:
            held = self._held.get(name)
            if held is not None and self._clock() < held[1]:
                return Hold.THEIRS
            self._held[name] = (token, self._clock() + ttl.total_seconds())
            return Hold.OURS

    def _let_go(self, name: str, token: str, linger: timedelta) -> None:
        with self._guard:
            if self._held.get(name, ("", 0.0))[0] != token:
                return
            if linger:
                self._held[name] = (token, self._clock() + linger.total_seconds())
            else:
                del self._held[name]


class RedisLocks(_Asking):
    """Locks that every process on one Redis shares, if it names the same space; nothing is asked before the first."""

    def __init__(self, url: str, *, space: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `Misconfigured` when Redis has no use for the address."""
        self._redis = client(url)
        self._prefix = f"orchestrator:{space}:"
        self._breaker = Breaker(clock)

    def close(self) -> None:
        """Let go of the connections; locks that are held end by themselves."""
        self._redis.close()

    def _take(self, name: str, token: str, ttl: timedelta) -> Hold:
        def ask() -> Hold:
            # one command, so that no lock is ever without an end
            done = self._redis.set(self._prefix + name, token, nx=True, px=_ms(ttl))
            return Hold.OURS if done else Hold.THEIRS

        return self._asked(ask) or Hold.UNKNOWN

    def _let_go(self, name: str, token: str, linger: timedelta) -> None:
        after = _ms(linger) if linger else 0
        self._asked(lambda: self._redis.eval(_LET_GO, 1, self._prefix + name, token, after))

    def _asked(self, ask: Callable[[], _T]) -> _T | None:
        """What Redis answers, or nothing."""
        if not self._breaker.lets_through():
            return None
        try:
            answer = ask()
        except Exception as error:  # noqa: BLE001 - a hint must not be able to harm what it is a hint for
            if self._breaker.broke():
                log.warning("locks.unavailable", error=_said(error))
            return None
        if self._breaker.held():
            log.info("locks.returned")
        return answer


class Breaker:
    """Says whether Redis may be asked; after a failure nobody may for a while, and then one at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._next_try: float | None = None

    def lets_through(self) -> bool:
        """Whether to ask now."""
        with self._guard:
            if self._next_try is None:
                return True
            if self._clock() < self._next_try:
                return False
            # whoever asks now tries for everybody: the others need not wait for a timeout each
            self._next_try = self._clock() + BREAK_S
            return True

    def broke(self) -> bool:
        """Note a failure; whether it is the first."""
        with self._guard:
            first = self._next_try is None
            self._next_try = self._clock() + BREAK_S
            return first

    def held(self) -> bool:
        """Note an answer; whether there had been none."""
        with self._guard:
            back = self._next_try is not None
            self._next_try = None
            return back


def fault(url: str) -> str:
    """What keeps a Redis from giving locks, in its own words, or nothing; takes less than a second."""
    redis = client(url)
    try:
        # a server that is full, or a copy of another, answers a ping and takes no key
        redis.set("orchestrator:probe", "", px=1)
    except Exception as error:  # noqa: BLE001 - whatever it is, there are no locks
        return _said(error)
    finally:
        redis.close()
    return ""


def client(url: str) -> Any:
    """Return a client that asks once and waits a fifth of a second. Raises `Misconfigured` for an unusable address."""
    # takes half a second to import, which whoever has no Redis should not wait for
    import redis
    from redis.backoff import NoBackoff
    from redis.connection import ConnectionPool, parse_url
    from redis.retry import Retry

    ours = {
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
        # the client's own default is to try ten times: one question to a Redis that is paused took ten seconds
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
    }
    try:
        pool = ConnectionPool(**{**parse_url(url), **ours})
        # opens nothing, but refuses options that do not exist
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError, redis.RedisError) as error:
        # what the error says may quote a password
        raise Misconfigured(
            "Setting 'redis_url' cannot be used: it has parts that no address of a Redis has. Special characters in a "
            "password must be percent-encoded. See configs/settings.yaml for what it takes."
        ) from error
    return redis.Redis.from_pool(pool)


def _ms(span: timedelta) -> int:
    return max(1, round(span.total_seconds() * 1000))


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")
