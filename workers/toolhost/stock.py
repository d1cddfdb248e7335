"""The tool servers that come with the product and need nothing but settings.

Each is imported when it is first started: the SDK of MCP comes with it, which whoever calls no tool should not wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from orchestrator.settings import Settings
from workers.toolhost import sandbox

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

    from workers.toolhost.search import Engine


def servers(settings: Settings) -> Mapping[str, Callable[[], MCPServer]]:
    """Return how each is made, by the name under which the registry knows it."""

    def numbers() -> MCPServer:
        from workers.toolhost import numbers

        return numbers.build()

    def clock() -> MCPServer:
        from workers.toolhost import clock

        return clock.build()

    def code() -> MCPServer:
        from workers.toolhost import code

        return code.build(sandbox.of(settings), lambda: sandbox.verdict(settings))

    def sql() -> MCPServer:
        from workers.toolhost import sql

        return sql.build(settings.named_databases)

    def search() -> MCPServer:
        from workers.toolhost import search

        engine = engine_of(settings)
        return search.build(engine, lambda: search.guard_of(engine))

    return {"numbers": numbers, "clock": clock, "code": code, "sql": sql, "search": search}


def engine_of(settings: Settings) -> Engine:
    """Return the search engine that is configured; without a provider there is none to be asked."""
    from workers.toolhost.search import Engine  # with it comes the SDK, and most have no engine

    return Engine(settings.web_search_provider, settings.web_search_url, settings.web_search_key_env)
