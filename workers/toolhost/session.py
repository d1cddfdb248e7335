"""Speaks MCP with one server: keeps a connection to it open, and reads what its tools answer.

The SDK of MCP takes half a second to import. It comes with this module, which the tool host imports with its first call.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import math
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, TypeVar

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, TextContent

from workers.toolhost.host import RESULT_LIMIT_CHARS, ToolFailure, tellable
from workers.toolhost.veil import Printed, Veil

_T = TypeVar("_T")


class Session:
    """A connection to one server, on a loop of its own; entered and left by one task, as the SDK wants it."""

    def __init__(self, target: MCPServer | StdioServerParameters, veil: Veil) -> None:
        self._target = target
        self._veil = veil
        self.users = 0
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._client: Client | None = None
        self._thread = threading.Thread(target=self._run, name="toolhost", daemon=True)
        self.ready: concurrent.futures.Future[None] = concurrent.futures.Future()

    def start(self) -> None:
        """Begin to open it; `ready` tells when it is."""
        self._thread.start()

    def stop(self) -> None:
        """Let it end; returns at once."""
        with contextlib.suppress(RuntimeError):  # its loop is closed: it has stopped
            self._loop.call_soon_threadsafe(self._stop.set)

    def join(self, timeout_s: float) -> None:
        """Wait for its end, `timeout_s` seconds at most."""
        self._thread.join(timeout_s)

    def submit(self, work: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Do this on its loop; raises `ToolFailure` when it has ended."""
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
            async with self._opened() as client:
                self._client = client
                self.ready.set_result(None)
                await self._stop.wait()
        except Exception as error:  # noqa: BLE001 - whoever waits for the server is told
            if not self.ready.done():
                self.ready.set_exception(error)
        finally:
            self._client = None

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Client]:
        if isinstance(self._target, MCPServer):
            async with Client(self._target) as client:
                yield client
            return
        printed = Printed(self._veil)
        try:
            async with Client(stdio_client(self._target, errlog=printed.pen)) as client:
                yield client
        finally:
            printed.close()

    async def call(self, tool: str, arguments: dict[str, Any], timeout_s: float, meta: Any) -> CallToolResult:
        """Return what a tool answers within `timeout_s` seconds, as it came."""
        if self._client is None:
            raise ConnectionError("the connection is closed")
        return await asyncio.wait_for(
            self._client.call_tool(tool, arguments, read_timeout_seconds=timeout_s, meta=meta),
            timeout_s + 0.5,
        )

    async def tools(self) -> list[str]:
        """The names of the server's tools."""
        if self._client is None:
            raise ConnectionError("the connection is closed")
        return [tool.name for tool in (await self._client.list_tools()).tools]

    async def described(self) -> dict[str, Any]:
        """What the server says about each of its tools, by its name."""
        if self._client is None:
            raise ConnectionError("the connection is closed")
        listed = (await self._client.list_tools()).tools
        return {tool.name: tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed}


def content_of(tool: str, result: CallToolResult) -> Mapping[str, Any]:
    """Return what a tool answered as data that can be stored, or raise `ToolFailure`."""
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


def _parsed(text: str) -> Mapping[str, Any]:
    """A server without output schemas answers in text, which may be JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        return {"text": text}
    return value if isinstance(value, dict) else {"value": value}


def _sentence(tool: str, text: str) -> str:
    prefix = f"Error executing tool {tool}: "
    return tellable(text.removeprefix(prefix)) or f"{tool} failed without saying why."
