"""Compares the registry with what its servers offer when they are asked, and takes up a registry that has changed.

    file ─▶ valid? ─▶ what this machine can offer ─▶ do the servers have these tools? ─▶ in force from the next call on
              └─ no: what was in force stays, and a line says why ───────────┘

A tool that its server does not have is an error that names both. Tools that a server has and the registry does not list
are ignored, and told: what may be called is the registry's to say. A server that does not answer is told, too, and keeps
nothing from starting, since it may be back by the time it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from orchestrator import house
from orchestrator.telemetry import log
from workers import again
from workers.toolhost.host import ToolFailure, ToolHost
from workers.toolhost.registry import Registry, RegistryError, load

_AT_ONCE: Final = 8


class Holder(Protocol):
    """Whoever works by a registry, and can be given another."""

    def use(self, registry: Registry) -> None:
        """Work by this registry from the next call on."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """What one server said: the registered tools that it lacks, those that nobody registered, or why it said nothing."""

    server: str
    missing: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    silent: str = ""


def listed(tools: Registry, host: ToolHost, server: str) -> Listed:
    """Ask a server for its tools and compare them with the registry."""
    try:
        offered = set(host.tools(server))
    except (ToolFailure, TimeoutError) as error:
        return Listed(server, silent=str(error) or "It did not answer in time.")
    wanted = {tool.name for tool in tools.of(server)}
    return Listed(server, tuple(sorted(wanted - offered)), tuple(sorted(offered - wanted)))


def check(tools: Registry, host: ToolHost, servers: Sequence[str] | None = None) -> None:
    """Raise `RegistryError` for tools that their server does not offer; say what is ignored and who does not answer.

    Servers with secrets are not asked: they are started for one tenant at a time.
    """
    named = [name for name in (servers if servers is not None else tools.servers) if tools.of(name)]
    asked = [name for name in named if not tools.servers[name].secrets]
    with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="listing") as pool:
        found = list(pool.map(lambda name: listed(tools, host, name), asked))
    for each in found:
        if each.unlisted:
            log.info("registry.unlisted", server=each.server, tools=list(each.unlisted))
        if each.silent:
            log.warning("registry.unanswered", server=each.server, reason=each.silent)
    wrong = [f"the server {each.server} does not offer {tool}" for each in found for tool in each.missing]
    if wrong:
        raise RegistryError(
            f"The tool registry does not fit its servers: {'; '.join(wrong)}. Correct the name, or the server."
        )


class RegistryWatch:
    """Looks at the file of one registry, and gives what is valid in it to those who work by it."""

    def __init__(
        self,
        path: Path,
        registry: Registry,
        *,
        offered: Callable[[Registry], Registry],
        trial: Callable[[Registry], ToolHost],
        holders: Sequence[Holder],
    ) -> None:
        """`registry` is in force; `trial` makes a host of its own for a new one, in which its servers are asked."""
        self._path = path
        self._registry = registry
        self._offered = offered
        self._trial = trial
        self._holders = holders
        self._seen = house.stamp(self._path)

    def start(self, every_s: float) -> None:
        """Look every so many seconds for as long as the process lasts."""
        again.every(every_s, self.look, name="registry")

    def look(self) -> bool:
        """Take up what has changed since the last look; whether another registry is in force now."""
        stamp = house.stamp(self._path)
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            new = self._offered(load(self._path))
            self._ask(new)
        except RegistryError as error:
            log.error("registry.refused", error=str(error), tools=len(self._registry.tools))
            return False
        self._registry = new
        for holder in self._holders:
            holder.use(new)
        log.warning("registry.reloaded", tools=sorted(new.tools))
        return True

    def _ask(self, new: Registry) -> None:
        before = self._registry
        changed = [
            name
            for name, server in new.servers.items()
            if before.servers.get(name) != server
            or {t.name for t in before.of(name)} != {t.name for t in new.of(name)}
        ]
        if not changed:
            return
        trial = self._trial(new)
        try:
            check(new, trial, changed)
        finally:
            trial.close()
