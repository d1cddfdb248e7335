"""Decides which tools of the registry this machine can offer, and says why it withholds the others.

A tool is withheld when the setting that it needs is empty: it is off unless somebody turned it on.
"""

from __future__ import annotations

from typing import Final

from orchestrator.settings import Settings
from workers.toolhost.registry import Registry

NO_HOSTS: Final = "The setting egress_hosts names no host that may be asked."


def offered(tools: Registry, settings: Settings) -> Registry:
    """Return the registry without the tools that cannot be offered here."""
    return tools.without(
        {
            tool.name: NO_HOSTS
            for tool in tools.tools.values()
            if tools.servers[tool.server].builtin == "web" and not settings.hosts
        }
    )
