"""A real RabbitMQ for the suites: one server, a virtual host for each test, and the faults that a test puts in."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx

from scripts import services


class Broker:
    """A server that can be killed and comes back at the same address, with its disk."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._home = services.scratch("orc-rabbit-")
        self._stack.callback(shutil.rmtree, self._home, ignore_errors=True)
        self._prefix = uuid4().hex[:6]
        self._numbers = count(1)
        self._running = ExitStack()
        self._port: int | None = None
        self._kills = 0
        self._start()

    def _start(self) -> None:
        self._server = self._running.enter_context(services.rabbitmq(self._home, port=self._port))
        self._port = urlsplit(self._server.url).port
        at = urlsplit(self._server.api)
        self._api = httpx.Client(
            base_url=f"{at.scheme}://{at.hostname}:{at.port}",
            auth=(at.username or "guest", at.password or "guest"),
            timeout=60,
        )

    @property
    def api(self) -> str:
        """The address of the management interface, with its user."""
        return self._server.api

    def close(self) -> None:
        self._api.close()
        self._running.close()
        self._stack.close()

    # virtual hosts

    def make_vhost(self, name: str | None = None) -> str:
        """Make a virtual host and return its address."""
        name = name or f"test{self._prefix}n{next(self._numbers)}"
        user = quote(urlsplit(self._server.url).username or "guest")
        self._ask("PUT", f"/api/vhosts/{name}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self._ask("PUT", f"/api/permissions/{name}/{user}", json=everything)
        at = urlsplit(self._server.url)
        return f"amqp://{at.netloc}/{name}"

    def drop_vhost(self, url: str) -> None:
        """Delete a virtual host with every queue and message in it; its connections are closed."""
        self._ask("DELETE", f"/api/vhosts/{name_of(url)}")

    @contextlib.contextmanager
    def vhost(self) -> Iterator[str]:
        """A virtual host for as long as the block lasts.

        One that lived through a kill is left to the server's end: RabbitMQ 3.10 loses all its quorum queues for good
        when some are deleted while they elect a leader after a restart.
        """
        url, kills = self.make_vhost(), self._kills
        try:
            yield url
        finally:
            if self._kills == kills:
                self.drop_vhost(url)

    def queues(self, url: str) -> dict[str, dict[str, object]]:
        """Every queue of a virtual host by name, as the management interface tells it."""
        return {q["name"]: q for q in self._ask("GET", f"/api/queues/{name_of(url)}").json()}

    @contextlib.contextmanager
    def traced(self, url: str) -> Iterator[None]:
        """Let the exchange `amq.rabbitmq.trace` of a virtual host tell of every message, for as long as the block lasts."""
        self._ask("PUT", f"/api/vhosts/{name_of(url)}", json={"tracing": True})
        try:
            yield
        finally:
            self._ask("PUT", f"/api/vhosts/{name_of(url)}", json={"tracing": False})

    def _ask(self, method: str, path: str, **rest: object) -> httpx.Response:
        # right after a start the interface answers before the virtual hosts do
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = self._api.request(method, path, **rest)
                answer.raise_for_status()
            except (httpx.TransportError, httpx.HTTPStatusError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return answer

    # faults

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl."""
        if self._server.ctl is None:
            raise services.ServiceMissing(
                "This test runs rabbitmqctl, which needs a RabbitMQ that the suite starts: "
                "unset ORCHESTRATOR_TEST_BROKER_URL."
            )
        return self._server.ctl(*arguments)

    def unacknowledged(self, url: str) -> dict[str, int]:
        """How many messages of each queue are in a consumer's hands, now."""
        out = self.ctl("-q", "list_queues", "-p", name_of(url), "name", "messages_unacknowledged")
        rows = [line.split("\t") for line in out.splitlines()]
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}

    @contextlib.contextmanager
    def memory_alarm(self) -> Iterator[None]:
        """Let the server run out of memory: it reads nothing from whoever publishes."""
        self.ctl("set_vm_memory_high_watermark", "0.0001")
        try:
            yield
        finally:
            self.ctl("set_vm_memory_high_watermark", "0.4")

    def kill(self) -> None:
        """End the server without a goodbye, with everything that it started."""
        self._kills += 1
        if self._server.pid is None:
            self.ctl("stop_app")
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGKILL)

    def start_again(self) -> None:
        """Bring the killed server back."""
        if self._server.pid is None:
            self.ctl("start_app")
            return
        self._api.close()
        self._running.close()
        self._start()


def name_of(url: str) -> str:
    """The virtual host of an address."""
    return urlsplit(url).path.removeprefix("/")
