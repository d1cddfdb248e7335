"""Decides which tools of the registry this machine can offer, and says why it withholds the others.

    fetch_url and whatever the web server carries    only where hosts are named that may be asked
    sql_query and whatever the sql server carries    only where databases are named
    web_search                                       only where a search engine is configured
    whatever needs the capability code.exec          only where the sandbox works; nothing runs before it withstood itself

A withheld tool is known to the gate, which refuses it with the reason; there is no weaker way to run it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from orchestrator.settings import Settings
from orchestrator.telemetry import log
from workers.toolhost import sandbox
from workers.toolhost.registry import Registry

NO_HOSTS: Final = "The setting egress_hosts names no host that may be asked."
NO_DATABASES: Final = "The setting databases names no database that may be read."
NO_ENGINE: Final = "The setting web_search_provider names no search engine."
CODE: Final = "code.exec"


def offered(
    tools: Registry,
    settings: Settings,
    *,
    verdict: Callable[[Settings], sandbox.Verdict] = sandbox.glance,
) -> Registry:
    """Return the registry without the tools that cannot be offered here.

    The sandbox is asked only if a tool needs it, and then whether it works at all: it takes seconds to attack itself,
    which is done before the first script is run (see `code`), and which `doctor` asks for as its `verdict`.
    """
    unset = {
        "web": "" if settings.hosts else NO_HOSTS,
        "sql": "" if settings.databases.strip() else NO_DATABASES,
        "search": "" if settings.web_search_provider else NO_ENGINE,
    }
    reasons = {
        tool.name: unset[server]
        for tool in tools.tools.values()
        if (server := tools.servers[tool.server].builtin or "") in unset and unset[server]
    }
    running_code = [tool.name for tool in tools.tools.values() if tool.capability == CODE]
    if running_code:
        found = verdict(settings)
        if not found.enforced:
            log.info("sandbox.withheld", reason=found.reason)
            reasons |= dict.fromkeys(running_code, f"{CODE} is withheld: {found.reason} {found.todo}".strip())
    return tools.without(reasons)
