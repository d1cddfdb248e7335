"""The tool servers that come with the product and need nothing but settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mcp.server.mcpserver import MCPServer

from orchestrator.settings import Settings
from workers.toolhost import clock, code, numbers, sandbox, search, sql


def servers(settings: Settings) -> Mapping[str, Callable[[], MCPServer]]:
    """Return how each is made, by the name under which the registry knows it."""
    engine = engine_of(settings)
    return {
        "numbers": numbers.build,
        "clock": clock.build,
        "code": lambda: code.build(sandbox.of(settings), lambda: sandbox.verdict(settings)),
        "sql": lambda: sql.build(settings.named_databases),
        "search": lambda: search.build(engine, lambda: search.guard_of(engine)),
    }


def engine_of(settings: Settings) -> search.Engine:
    """Return the search engine that is configured; without a provider there is none to be asked."""
    return search.Engine(settings.web_search_provider, settings.web_search_url, settings.web_search_key_env)
