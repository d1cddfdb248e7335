"""What every request passes before a route sees it, as plain ASGI: nothing here knows a plan.

    Door    names the request, sets the headers of the answer, refuses foreign hosts and pages of other sites,
            and turns what nobody foresaw into a fault
    Heads   answers HEAD as GET is answered, without the body
    Guard   reads the body, counting bytes as they come, and refuses what is too large, too deep or no JSON

Between the two stands the gatehouse of `identity`, which asks who calls. A web page could still make a browser ask: by a
name of its own that resolves to this machine (hence the hosts), or across sites (hence the origin).
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import traceback
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api.problems import ASKS_BY_GET, FAULT, TRACE, Refused, problem
from orchestrator.telemetry import log

BODY_LIMIT: Final = 1024 * 1024
"""Bytes of a body that are accepted."""

DEPTH_LIMIT: Final = 32
"""Lists and objects that may lie in each other in a body."""

_ALWAYS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
# a text that nobody ends takes all that follows: a body full of such would else be read again from each of its quotes
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def is_loopback(name: str) -> bool:
    """Whether a host's name or address is this machine itself and nothing else."""
    plain = name.strip("[]").lower()
    if plain == "localhost":
        return True
    try:
        return ipaddress.ip_address(plain).is_loopback
    except ValueError:
        return False


class Door:
    """The outermost layer: every request has a name, and every answer is one that this API gives."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str] = frozenset()) -> None:
        """`hosts` are names under which the API answers besides those of this machine."""
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it is refused here; answer for whatever fails behind."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        trace = scope[TRACE] = _trace(headers)
        began = False

        async def answer(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                answered = MutableHeaders(scope=message)
                answered["X-Trace-Id"] = trace
                for name, value in _ALWAYS.items():
                    answered.setdefault(name, value)
            await send(message)

        try:
            _let_in(headers, self._hosts)
            await self._app(scope, receive, answer)
        except Refused as refused:
            await refused.response(scope)(scope, receive, answer)
        except Exception as error:
            # as text: a log on a terminal would print the variables too, and with them what was asked
            lines = "".join(traceback.format_exception(error))
            log.error("request.failed", trace_id=trace, traceback=lines)
            if began:
                raise  # half an answer is out; only cutting the connection says that the rest is missing
            await problem(scope, 500, "fault", FAULT)(scope, receive, answer)


def _trace(headers: Headers) -> str:
    given = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return given[1] if given else secrets.token_hex(16)


def _let_in(headers: Headers, hosts: frozenset[str]) -> None:
    """Raise `Refused` for a request under a foreign name, or from a page of another site."""
    host = headers.get("host", "")
    name = re.sub(r":\d*$", "", host)
    if not is_loopback(name) and name.lower() not in hosts:
        raise Refused(
            421,
            "misdirected",
            "This API does not answer under this name; whoever runs it lists its names in the setting trusted_hosts.",
        )
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "none")
    foreign = origin is not None and origin.partition("://")[2].lower() != host.lower()
    if foreign or site not in {"none", "same-origin"}:
        raise Refused(403, "cross_site", "Pages of other sites may not use this API.")


class Heads:
    """Answers HEAD as GET would be answered, but for the body: what watches over services asks so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on as the GET that it stands for."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"] in ASKS_BY_GET:
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # a stream would go on, though nobody reads it
        headers = [
            (n, v) for n, v in scope["headers"] if n != b"accept" or b"text/event-stream" not in v.lower()
        ]
        await self._app({**scope, "method": "GET", "headers": headers}, receive, answer)


class Guard:
    """Reads a request's body before the routes do, and refuses what they should not have to."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body read, unless the body is refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = await _read(headers, receive)
        if body is None:
            return  # who asked has gone
        if body:
            _check(headers, body)
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)


async def _read(headers: Headers, receive: Receive) -> bytes | None:
    """Return the whole body, or `None` when its sender went away; `Content-Length` may lie and is only a hint."""
    said = headers.get("content-length", "")
    if said.isdecimal() and (len(said) > 12 or int(said) > BODY_LIMIT):
        raise _too_large()
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > BODY_LIMIT:
            raise _too_large()
        more = message.get("more_body", False)
    return b"".join(parts)


def _too_large() -> Refused:
    return Refused(
        413, "body_too_large", f"A body has at most {BODY_LIMIT:,} bytes; put long material into a document."
    )


def _check(headers: Headers, body: bytes) -> None:
    kind = headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind != "application/json":
        raise Refused(
            415, "not_json", "Send the body as JSON, with the header Content-Type: application/json."
        )
    try:
        text_only = b"\x00" not in body and bool(body.decode())
    except UnicodeDecodeError:
        text_only = False
    if not text_only:
        raise Refused(422, "invalid_body", "The body is not JSON in UTF-8.")
    if too_deep(body):
        raise Refused(422, "too_deep", f"Lists and objects may lie at most {DEPTH_LIMIT} deep in each other.")


def too_deep(body: bytes) -> bool:
    """Whether lists and objects lie too deep in each other for anything here to look at them."""
    if body.count(b"[") + body.count(b"{") <= DEPTH_LIMIT:
        return False
    depth = 0
    for token in _TOKEN.finditer(body):
        first = token[0][:1]
        depth += (first in b"[{") - (first in b"]}")
        if depth > DEPTH_LIMIT:
            return True
    return False
