"""Runs the tool servers and calls their tools over MCP; decides nothing about who may.

Every server is an MCP server: those that come with the product live in this process, others are started as children
that see only the environment variables they are allowed. Each is talked to by an event loop in a thread of its own, so
that one which hangs holds up nobody else. A server that hangs or dies is let go of, and started again by the next call.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import math
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from mcp import Client, MCPError, StdioServerParameters
from mcp.server.mcpserver import MCPServer
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT, CallToolResult, TextContent

from orchestrator.telemetry import log
from workers.toolhost.registry import Registry, ServerSpec, ToolSpec

_T = TypeVar("_T")

RESULT_LIMIT_CHARS = 12_000_000
"""A result longer than this is a failure: it would not fit into evidence."""

_START_TIMEOUT_S = 30.0

KEY_META = "orchestrator/idempotency-key"
"""The name under which a keyed call's key travels to its server."""


class ToolFailure(Exception):
    """A tool did not answer, or answered with an error: `reason` is a constant code.

    `unsure` says that the call may have had its effect all the same: it was sent, and no word came back that it failed.
    """

    def __init__(self, reason: str, detail: str, *, unsure: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.unsure = unsure


class ToolHost:
    """The servers of a registry, started when first needed."""

    def __init__(self, registry: Registry, builtins: Mapping[str, Callable[[], MCPServer]]) -> None:
        self._registry = registry
        self._builtins = builtins
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def call(
        self, tool: ToolSpec, arguments: Mapping[str, Any], *, timeout_s: float, key: str
    ) -> Mapping[str, Any]:
        """Return a tool's structured answer within `timeout_s` seconds, or raise `ToolFailure`."""
        session = self._session(tool.server)
        waiting = session.submit(session.call(tool.name, dict(arguments), timeout_s, key))
        try:
            result = waiting.result(timeout_s + 1.0)
        except (concurrent.futures.TimeoutError, TimeoutError):
            waiting.cancel()
            self._drop(tool.server, session)
            raise _timed_out(tool, timeout_s) from None
        except MCPError as error:
            if error.code not in {REQUEST_TIMEOUT, CONNECTION_CLOSED}:  # the server said no; it is well
                detail = _tellable(f"{tool.name} could not be called: {error}")
                raise ToolFailure("protocol_error", detail) from error
            self._drop(tool.server, session)
            if error.code == REQUEST_TIMEOUT:
                raise _timed_out(tool, timeout_s) from error
            raise ToolFailure(
                "server_gone", f"{tool.name}: its server went away during the call.", unsure=True
            ) from error
        except RuntimeError as error:
            # how the SDK says that the answer is not what the tool's own schema promises
            detail = f"{tool.name} answered with what its output schema does not allow."
            raise ToolFailure("invalid_result", detail, unsure=True) from error
        except Exception as error:
            self._drop(tool.server, session)
            detail = _tellable(f"{tool.name}: its server went away ({type(error).__name__}: {error}).")
            raise ToolFailure("server_gone", detail, unsure=True) from error
        return _content(tool.name, result)

    def tools(self, server: str) -> list[str]:
        """The names of the tools that a server says it has."""
        session = self._session(server)
        return session.submit(session.tools()).result(_START_TIMEOUT_S)

    def close(self) -> None:
        """Stop every server."""
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.stop()
        for session in sessions:
            session.join(2.0)

    def _session(self, server: str) -> _Session:
        with self._lock:
            session = self._sessions.get(server)
            if session is None:
                session = _Session(self._target(self._registry.servers[server]))
                self._sessions[server] = session
                session.start()
        try:
            session.ready.result(_START_TIMEOUT_S)
        except Exception as error:
            self._drop(server, session)
            raise ToolFailure("server_down", f"Tool server {server} did not start: {error}") from error
        return session

    def _drop(self, server: str, session: _Session) -> None:
        with self._lock:
            if self._sessions.get(server) is session:
                del self._sessions[server]
        session.stop()
        log.warning("toolhost.dropped", server=server)

    def _target(self, spec: ServerSpec) -> MCPServer | StdioServerParameters:
        if spec.builtin is not None:
            return self._builtins[spec.builtin]()
        program, *arguments = spec.command
        allowed = {name: os.environ[name] for name in spec.env if name in os.environ}
        return StdioServerParameters(command=program, args=arguments, env=allowed)


class _Session:
    """A connection to one server, on a loop of its own; entered and left by one task, as the SDK wants it."""

    def __init__(self, target: MCPServer | StdioServerParameters) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._client: Client | None = None
        self._thread = threading.Thread(target=self._run, name="toolhost", daemon=True)
        self.ready: concurrent.futures.Future[None] = concurrent.futures.Future()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop is closed: it has stopped
            self._loop.call_soon_threadsafe(self._stop.set)

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def submit(self, work: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:
            work.close()
            raise ToolFailure(
                "server_gone", "The tool's server has stopped; it is started again when next needed."
            ) from error

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._live())

    async def _live(self) -> None:
        try:
            async with Client(self._target) as client:
                self._client = client
                self.ready.set_result(None)
                await self._stop.wait()
        except Exception as error:  # noqa: BLE001 - whoever waits for the server is told
            if not self.ready.done():
                self.ready.set_exception(error)
        finally:
            self._client = None

    async def call(self, tool: str, arguments: dict[str, Any], timeout_s: float, key: str) -> CallToolResult:
        if self._client is None:
            raise ConnectionError("the connection is closed")
        meta: Any = {KEY_META: key}
        return await asyncio.wait_for(
            self._client.call_tool(tool, arguments, read_timeout_seconds=timeout_s, meta=meta),
            timeout_s + 0.5,
        )

    async def tools(self) -> list[str]:
        if self._client is None:
            raise ConnectionError("the connection is closed")
        return [tool.name for tool in (await self._client.list_tools()).tools]


def _content(tool: str, result: CallToolResult) -> Mapping[str, Any]:
    text = "\n".join(part.text for part in result.content if isinstance(part, TextContent))
    if result.is_error:
        raise ToolFailure("tool_error", _sentence(tool, text))
    content = result.structured_content if isinstance(result.structured_content, dict) else _parsed(text)
    if len(json.dumps(content, ensure_ascii=False)) > RESULT_LIMIT_CHARS:
        detail = f"{tool} answered with more than {RESULT_LIMIT_CHARS:,} characters."
        raise ToolFailure("result_too_large", detail, unsure=True)
    if not _storable(content):
        detail = f"{tool} answered with text or numbers that cannot be stored."
        raise ToolFailure("invalid_result", detail, unsure=True)
    return content


def _storable(value: object) -> bool:
    """Whether Postgres takes it: text without NUL and lone surrogates, and numbers that JSON knows."""
    match value:
        case str():
            return "\x00" not in value and _is_unicode(value)
        case float():
            return math.isfinite(value)
        case Mapping():
            return all(_storable(key) and _storable(item) for key, item in value.items())
        case list():
            return all(map(_storable, value))
        case _:
            return True


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tellable(text: str) -> str:
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()[:2000]


def _parsed(text: str) -> Mapping[str, Any]:
    """A server without output schemas answers in text, which may be JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        return {"text": text}
    return value if isinstance(value, dict) else {"value": value}


def _sentence(tool: str, text: str) -> str:
    prefix = f"Error executing tool {tool}: "
    return _tellable(text.removeprefix(prefix)) or f"{tool} failed without saying why."


def _timed_out(tool: ToolSpec, timeout_s: float) -> ToolFailure:
    return ToolFailure("timed_out", f"{tool.name} did not answer within {timeout_s:g} s.", unsure=True)
