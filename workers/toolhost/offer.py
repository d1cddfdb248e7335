"""Decides which tools of the registry this machine can offer, and says why it withholds the others.

    fetch_url and whatever the web server carries    only where hosts are named that may be asked
    whatever needs the capability code.exec          only where the sandbox withstands what it does to itself

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
CODE: Final = "code.exec"


def offered(
    tools: Registry,
    settings: Settings,
    *,
    verdict: Callable[[Settings], sandbox.Verdict] = sandbox.verdict,
) -> Registry:
    """Return the registry without the tools that cannot be offered here.

    The sandbox is asked for its verdict only if a tool needs it, since it takes a second to attack itself.
    """
    reasons = {
        tool.name: NO_HOSTS
        for tool in tools.tools.values()
        if tools.servers[tool.server].builtin == "web" and not settings.hosts
    }
    running_code = [tool.name for tool in tools.tools.values() if tool.capability == CODE]
    if running_code:
        found = verdict(settings)
        if not found.enforced:
            log.warning("sandbox.withheld", reason=found.reason)
            reasons |= dict.fromkeys(running_code, f"{CODE} is withheld: {found.reason} {found.todo}".strip())
    return tools.without(reasons)
