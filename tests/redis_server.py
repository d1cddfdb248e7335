"""A real Redis for the suites, and the faults that a test puts in."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import redis

from scripts import services


class RedisServer:
    """A server that can be paused, wiped and killed, and comes back at the same address."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="orc-redis-")))
        self._home.chmod(0o755)
        self._running = ExitStack()
        self._port: int | None = None
        self._start()

    def _start(self) -> None:
        self._server = self._running.enter_context(services.redis(self._home, port=self._port))
        self._port = urlsplit(self._server.url).port
        self.url = self._server.url

    def close(self) -> None:
        self._running.close()
        self._stack.close()

    @contextlib.contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """A client of the test's own, which looks and does what no lock would."""
        with redis.Redis.from_url(self.url, decode_responses=True) as client:
            yield client

    @property
    def _pid(self) -> int:
        if self._server.pid is None:
            raise services.ServiceMissing(
                "This test pauses and kills Redis, which must be one that the suite starts: Debian's redis-server, "
                "with ORCHESTRATOR_TEST_REDIS_URL unset and no Docker engine."
            )
        return self._server.pid

    def wipe(self) -> None:
        """Remove every key."""
        with self.client() as client:
            client.flushall()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let it accept connections and answer nothing."""
        os.kill(self._pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it without a goodbye, with all its data."""
        os.kill(self._pid, signal.SIGKILL)

    def start_again(self) -> None:
        """Bring the killed server back, empty."""
        self._running.close()
        self._start()
