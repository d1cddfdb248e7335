"""OPA servers to ask: a real one where the program is there, one that answers like it, and one that misbehaves."""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import requests

from scripts.services import free_port
from workers.gate import policy

PIN = "1.9.0"
"""The version that the tests are run against: `go install github.com/open-policy-agent/opa@v1.9.0`."""


def program():
    """The `opa` program, on the PATH or where Go puts it; `None` if there is none."""
    return shutil.which("opa") or shutil.which("opa", path=str(Path.home() / "go" / "bin"))


@contextmanager
def real(folder, workdir):
    """A real server over a bundle of the folder, that watches the bundle; gives its process and its address."""
    at = workdir / "policies.tar.gz"
    at.write_bytes(policy.bundle(folder))
    port = free_port()
    command = [program(), "run", "--server", "--addr", f"127.0.0.1:{port}", "--log-level", "error"]
    with (workdir / "opa.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--disable-telemetry", "--watch", "--bundle", at], stdout=log, stderr=log
        )
        try:
            url = f"http://127.0.0.1:{port}"
            until = time.monotonic() + 60
            while time.monotonic() < until:
                with suppress(requests.RequestException):
                    if requests.get(f"{url}/health", timeout=1).status_code == 200:
                        break
                time.sleep(0.05)
            else:
                raise AssertionError((workdir / "opa.log").read_text())
            yield process, url
        finally:
            process.kill()
            process.wait()


class Server:
    """Speaks HTTP over bare sockets, so that it can misbehave. `answer` makes the bytes of a response of a request."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self):
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(one)
            thread = threading.Thread(target=self._serve, args=(one,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, one):
        with one, suppress(OSError), one.makefile("rb") as lines:
            while head := lines.readline():
                length = 0
                while (line := lines.readline()).strip():
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                path = head.split()[1].decode()
                body = lines.read(length)
                self.asked.append((path, body))
                for part in self.answer(path, body):
                    one.sendall(part)


def whole(body, *, status="200 OK", head=""):
    """One response, in one part."""
    raw = body if isinstance(body, bytes) else body.encode()
    return [f"HTTP/1.1 {status}\r\nContent-Length: {len(raw)}\r\n{head}\r\n".encode() + raw]


def like_opa(engine):
    """What answers as an OPA server over a bundle does, by the embedded engine."""

    def answer(path, body):
        package = urlsplit(path).path.removeprefix("/v1/data/").replace("/", ".")
        said, revision = engine.ask(package, json.dumps(json.loads(body)["input"]))
        told = {"provenance": {"bundles": {"p": {"revision": revision}}}, "result": json.loads(said)}
        return whole(json.dumps(told))

    return answer


@contextmanager
def served(answer):
    server = Server(answer)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def an_opa(workdir, folder):
    """The address of a real server if there can be one, else of one that answers like it."""
    if program():
        with real(folder, workdir) as (_, url):
            yield url
    else:
        with served(like_opa(policy.EmbeddedEnforcer(folder)._engine)) as server:
            yield server.url


ENVIRONMENT = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
