"""Sends one request to a model and brings its answer back: in time, of bearable size, tried again where that is safe.

    408 409 429 5xx, or no connection    waited for as Retry-After says, else a drawn time that doubles; then again
    400 422                              `Unwilling`: the request may be put otherwise
    any other status, a redirect         `Failed`; a redirect is never followed
    broken off after it was sent         `Failed`, and not sent again here: it may have been answered, and paid for

Proxies of the environment are not used, and no error holds an address, a header or a word of what came back.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, Self

import httpx

from workers.toolhost.models.port import (
    MALFORMED,
    NOTHING,
    RATE_LIMITED,
    REJECTED,
    UNAUTHORISED,
    UNAVAILABLE,
    Failed,
)

TRIES: Final = 4
BASE_S: float = 0.5
CAP_S: Final = 8.0
BODY_LIMIT_BYTES: Final = 4_000_000
_COMPLAINT_LIMIT_BYTES: Final = 65_536
LOOK_S: Final = 3.0
_PASSING: Final = frozenset({408, 409, 429, *range(500, 600)})
_UNWILLING: Final = frozenset({400, 422})


class Unwilling(Failed):
    """The server does not take the request as it is; `complaint` is what it says about that, for nobody's eyes."""

    def __init__(self, detail: str, complaint: bytes) -> None:
        super().__init__(REJECTED, detail, NOTHING)
        self.complaint = complaint


class _Passing(Exception):
    """It did not work now, and may a little later: in `after_s` seconds, if the server says so."""

    def __init__(self, failed: Failed, after_s: float | None) -> None:
        super().__init__(failed.detail)
        self.failed = failed
        self.after_s = after_s


def key_of(variable: str) -> str:
    """Return the key in an environment variable; empty where there is none, `Failed` where no header can carry it."""
    key = os.environ.get(variable, "").strip() if variable else ""
    if not (key.isascii() and key.isprintable()):
        raise Failed(
            UNAUTHORISED, f"The key in {variable} holds characters that no header can carry.", NOTHING
        )
    return key


def look(base_url: str) -> tuple[str, str]:
    """Return host and port of an address, and why nobody listens there, or `""`. Nothing is asked: that could cost."""
    address = httpx.URL(base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.host, port), timeout=LOOK_S).close()
    except OSError as error:
        return f"{address.host}:{port}", error.strerror or str(error)
    return f"{address.host}:{port}", ""


def post(
    address: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    *,
    key: str,
    within_s: float,
    transport: httpx.BaseTransport | None = None,
) -> bytes:
    """Return the body of the answer; raises `Failed`, or `Unwilling` for a request that may be put otherwise."""
    give_up = time.monotonic() + within_s
    for tried in range(TRIES):
        try:
            answer = _once(address, body, headers, give_up, within_s, transport)
        except _Passing as passing:
            wait = _drawn(tried) if passing.after_s is None else passing.after_s
            if tried == TRIES - 1 or time.monotonic() + wait >= give_up:
                raise passing.failed from None
            time.sleep(wait)
            continue
        if key and key.encode() in answer:
            raise Failed(MALFORMED, "The model's answer holds the key it was asked with, and is not kept.")
        return answer
    raise AssertionError  # the last try returns or raises


def _drawn(tried: int) -> float:
    return random.uniform(0.0, min(CAP_S, BASE_S * 2**tried))  # noqa: S311 - spreads callers, keeps no secret


def _once(
    address: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    give_up: float,
    within_s: float,
    transport: httpx.BaseTransport | None,
) -> bytes:
    left = max(0.001, give_up - time.monotonic())
    try:
        with (
            httpx.Client(
                timeout=left,
                transport=transport,
                follow_redirects=False,
                trust_env=False,
                # a context takes long to make, and plain http has no use for one
                verify=httpx.create_ssl_context() if address.startswith("https:") else False,
            ) as client,
            _Cutter(left) as cutter,
            client.stream(
                "POST", address, json=body, headers=headers, extensions={"trace": cutter.watch}
            ) as reply,
        ):
            _check(reply)
            return _read(reply)
    except httpx.InvalidURL:
        raise Failed(REJECTED, "The configured address of the model is not one.", NOTHING) from None
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise _Passing(_silent(error, used=False), None) from None
    except httpx.HTTPError as error:
        # the error's own words may hold the address or the header
        if isinstance(error, httpx.TimeoutException) or time.monotonic() >= give_up:
            detail = f"The model did not finish its answer within {within_s:g} s."
            raise Failed(UNAVAILABLE, detail) from None
        raise _silent(error, used=True) from None


def _silent(error: Exception, *, used: bool) -> Failed:
    detail = f"The model at the configured address does not answer ({type(error).__name__})."
    return Failed(UNAVAILABLE, detail, None if used else NOTHING)


def _check(reply: httpx.Response) -> None:
    status = reply.status_code
    if status == httpx.codes.OK:
        return
    detail = f"The model answered with status {status}."
    if status in _UNWILLING:
        raise Unwilling(detail, _complaint(reply))
    if status in {401, 403}:
        raise Failed(UNAUTHORISED, detail, NOTHING)
    if status in _PASSING:
        fault = RATE_LIMITED if status == httpx.codes.TOO_MANY_REQUESTS else UNAVAILABLE
        raise _Passing(Failed(fault, detail, NOTHING), _after_s(reply.headers))
    raise Failed(REJECTED, detail, NOTHING)


def _after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to be left alone for; `None` where it says nothing that can be meant."""
    said = headers.get("retry-after", "").strip()
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return seconds if 0 <= seconds < float("inf") else None


def _complaint(reply: httpx.Response) -> bytes:
    found = b""
    for chunk in reply.iter_bytes():
        found += chunk
        if len(found) > _COMPLAINT_LIMIT_BYTES:
            break
    return found[:_COMPLAINT_LIMIT_BYTES]


def _read(reply: httpx.Response) -> bytes:
    answer = bytearray()
    for chunk in reply.iter_bytes():
        answer += chunk
        if len(answer) > BODY_LIMIT_BYTES:
            raise Failed(MALFORMED, f"The model answered with more than {BODY_LIMIT_BYTES:,} bytes.")
    return bytes(answer)


class _Cutter(contextlib.AbstractContextManager["_Cutter"]):
    """Cuts a connection when its time is up, however slowly something still comes out of it.

    A timeout of reading begins anew with every byte, so that it alone would wait for ever.
    """

    def __init__(self, left_s: float) -> None:
        self._sockets: list[socket.socket] = []
        self._over = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(left_s, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, event: str, info: Mapping[str, Any]) -> None:
        """Remember the connections that are made; called by the HTTP library."""
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            found = info["return_value"].get_extra_info("socket")
            with self._lock:
                self._sockets.append(found)
                over = self._over
            if over:
                self._cut()

    def _cut(self) -> None:
        with self._lock:
            self._over = True
            sockets = list(self._sockets)
        for each in sockets:
            with contextlib.suppress(OSError):
                # not the method of a TLS socket, which would take its state from under whoever is reading
                socket.socket.shutdown(each, socket.SHUT_RDWR)
