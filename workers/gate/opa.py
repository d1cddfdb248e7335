"""Asks an OPA server, through its Python client, and believes nothing that is not exactly an answer.

    question ──▶ one POST, on a thread of its own ──▶ 200, strict JSON, a revision, allow and deny ──▶ answer
                  │ no proxy, no redirect, no retry,        │ anything else
                  │ one deadline for all of it              │
                  └─────────────────────────────────────────┴──▶ NoAnswerError, and the guard denies

The client waits for each read on its own, follows redirects, asks the proxies of the environment and keeps the last
of two equal keys. What is done about it is done on its session: it is given one that does none of that.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from opa_client import OpaClient
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from workers.gate.policy import Enforcer, NoAnswerError, PolicyLoadError, Said, read_json

_LARGEST_ANSWER: Final = 1024 * 1024
_PACKAGE: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*(?:\.[a-zA-Z_][a-zA-Z0-9_]*)*")
_REVISION: Final = re.compile(r"[A-Za-z0-9._:/@+=-]{1,128}")
_ASKED: Final = {"provenance": "true", "strict-builtin-errors": "true"}
_UNASKED: Final = frozenset({"decision_id", "metrics"})


class RemoteEnforcer(Enforcer):
    """Answers through an OPA server. Nothing is asked of it before the first question; it may come and go."""

    def __init__(
        self, url: str, *, timeout_s: float, ca_file: Path | None = None, token: str = "", **rest: Any
    ) -> None:
        super().__init__(OpaEngine(url, timeout_s=timeout_s, ca_file=ca_file, token=token), **rest)


class OpaEngine:
    """One OPA server. Safe to share between threads: each has a connection of its own, kept while it is good."""

    name = "opa"

    def __init__(self, url: str, *, timeout_s: float, ca_file: Path | None = None, token: str = "") -> None:
        self._address = _address(url)
        self._timeout_s = timeout_s
        self._ca_file = ca_file
        self._token = token
        self._mine = threading.local()
        self.revision = ""

    def ask(self, package: str, text: str) -> Said:
        """Return a package's answer and the revision of the policy that gave it; raises if there is none in time."""
        if type(package) is not str or not _PACKAGE.fullmatch(package):
            raise NoAnswerError("A package is named by words and dots.")
        line = self._line()
        self._mine.line = None  # put back once it has proven good
        try:
            said = _read(self._asked(line, package, text))
        except BaseException:
            line.cut()
            raise
        self._mine.line = line
        self.revision = said.revision
        return said

    def _asked(self, line: _Line, package: str, text: str) -> str:
        deadline = time.monotonic() + self._timeout_s
        future: Future[str] = Future()
        threading.Thread(
            target=_carry, args=(future, line, package, text, deadline), name="opa", daemon=True
        ).start()
        try:
            # looking a name up and reading a response's head have no deadline that holds, so that nobody waits for them
            return future.result(self._timeout_s)
        except TimeoutError:
            raise NoAnswerError(f"The policy server did not answer within {self._timeout_s:g} s.") from None

    def forget(self) -> None:
        """Drop this thread's connection."""
        line, self._mine.line = getattr(self._mine, "line", None), None
        if line is not None:
            line.cut()

    def _line(self) -> _Line:
        line: _Line | None = getattr(self._mine, "line", None)
        # a connection that was opened before a fork belongs to the parent
        if line is None or line.process != os.getpid():
            line = _Line(self._address, ca_file=self._ca_file, token=self._token, timeout_s=self._timeout_s)
        return line


def _address(url: str) -> tuple[str, int, bool]:
    try:
        parts = urlsplit(url)
        port = parts.port or 8181
    except ValueError as error:
        raise PolicyLoadError(f"The policy server's address {url!r} cannot be read: {error}.") from error
    plain = parts.path in {"", "/"} and not (
        parts.query or parts.fragment or parts.username or parts.password
    )
    if parts.scheme not in {"http", "https"} or not parts.hostname or not plain:
        raise PolicyLoadError(
            f"The policy server's address {url!r} must be http:// or https://, a host and a port, and nothing else."
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return host, port, parts.scheme == "https"


def _carry(future: Future[str], line: _Line, package: str, text: str, deadline: float) -> None:
    try:
        future.set_result(line.ask(package, text, deadline))
    except Exception as error:  # noqa: BLE001 - a thread's only way to say what it met
        future.set_exception(error)


def _read(body: str) -> Said:
    """Return allow and deny of a package's document, and the revision of the bundles that it comes from."""
    heard = read_json(body)
    if type(heard) is not dict or not set(heard) - _UNASKED <= {"result", "provenance"}:
        raise NoAnswerError("The policy server says more than an answer.")
    result = heard.get("result")
    if type(result) is not dict or not {"allow", "deny"} <= set(result):
        raise NoAnswerError("The policy server has no such package, or it does not say allow and deny.")
    answer = {"allow": result["allow"], "deny": result["deny"]}
    return Said(json.dumps(answer), _revision(heard.get("provenance")))


def _revision(provenance: object) -> str:
    bundles = provenance.get("bundles") if type(provenance) is dict else None
    if type(bundles) is not dict or not bundles:
        raise NoAnswerError(
            "The policy server does not say which revision it holds: give it a bundle, as `orchestrator policy bundle`"
            " writes one."
        )
    told = {
        name: bundle.get("revision") if type(bundle) is dict else None for name, bundle in bundles.items()
    }
    for revision in told.values():
        if type(revision) is not str or not _REVISION.fullmatch(revision):
            raise NoAnswerError("A bundle of the policy server has no revision.")
    if len(told) == 1:
        return str(next(iter(told.values())))
    return ",".join(f"{name}:{revision}" for name, revision in sorted(told.items()))


class _Line:
    """One client with one connection, used by one thread at a time, and what can be done to it from another."""

    def __init__(
        self, address: tuple[str, int, bool], *, ca_file: Path | None, token: str, timeout_s: float
    ) -> None:
        host, port, encrypted = address
        self._client = OpaClient(
            host=host, port=port, ssl=encrypted, token=token or None, retries=0, timeout=timeout_s
        )
        self._session = _Session(self._client.headers or {}, ca_file)
        self._client._session = self._session  # noqa: SLF001 - it has no other way to be given one
        weakref.finalize(self, self._session.cut)  # a thread ends without telling anybody

    def ask(self, package: str, text: str, deadline: float) -> str:
        """Return the body of an answer of status 200, as it came."""
        self._session.deadline = deadline
        self._client.query_rule(json.loads(text), package, query_params=_ASKED)
        return self._session.body

    def cut(self) -> None:
        """End whatever is under way on it, so that the thread that waits for it ends too."""
        self._session.cut()

    @property
    def process(self) -> int:
        """The process that opened it."""
        return self._session.process


class _Session(requests.Session):
    """A session that goes to the one address it is given, once, and takes a bounded answer by a deadline."""

    def __init__(self, headers: Mapping[str, str], ca_file: Path | None) -> None:
        super().__init__()
        self.trust_env = False  # no proxies, no .netrc, no certificates of the environment
        self.max_redirects = 0
        self.headers.update(headers)
        self.verify = str(ca_file) if ca_file else True
        self.deadline = 0.0
        self.body = ""
        self._sockets: list[socket.socket] = []
        self._over = False
        self.process = os.getpid()
        adapter = _Adapter(self._opened)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def send(self, request: requests.PreparedRequest, **rest: Any) -> requests.Response:
        """Return a response of status 200 with its body read."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise NoAnswerError("There was no time left to ask the policy server.")
        response = super().send(
            request, **{**rest, "allow_redirects": False, "stream": True, "timeout": left, "proxies": {}}
        )
        try:
            self.body = self._taken(response)
        except BaseException:
            response.close()
            raise
        return response

    def _taken(self, response: requests.Response) -> str:
        if response.status_code != 200:
            raise NoAnswerError(f"The policy server answered with status {response.status_code}.")
        taken = bytearray()
        for part in response.iter_content(65536):
            taken += part
            if len(taken) > _LARGEST_ANSWER:
                raise NoAnswerError(f"The policy server's answer is larger than {_LARGEST_ANSWER} bytes.")
            if time.monotonic() > self.deadline:
                raise NoAnswerError("The policy server's answer took too long.")
        response._content = bytes(taken)  # noqa: SLF001 - the client reads it once more
        return taken.decode("utf-8")

    def cut(self) -> None:
        """Shut every connection down, also those under way, and open no more."""
        self._over = True
        while self._sockets:
            opened = self._sockets.pop()
            # after a fork, shutting it down would shut the parent's
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR) if self.process == os.getpid() else opened.close()
        self.close()

    def _opened(self, connection: Any) -> None:
        self._sockets[:] = [connection.sock]
        if self._over:
            self.cut()


class _Adapter(HTTPAdapter):
    """Tells of every connection that is opened, and never asks twice."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *given: Any, **rest: Any) -> None:
        """Make the pools of connections that tell."""
        super().init_poolmanager(*given, **rest)
        opened = self._opened

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                opened(self)

        class Encrypted(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                opened(self)

        plain = type("Pool", (HTTPConnectionPool,), {"ConnectionCls": Plain})
        encrypted = type("Pool", (HTTPSConnectionPool,), {"ConnectionCls": Encrypted})
        self.poolmanager.pool_classes_by_scheme = {"http": plain, "https": encrypted}
