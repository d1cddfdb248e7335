"""Runs the tool servers and calls their tools over MCP; decides nothing about who may.

Every server is an MCP server: those that come with the product live in this process, others are started as children
that see only the environment variables they are allowed. Each is talked to by an event loop in a thread of its own, so
that one which hangs holds up nobody else. A server that hangs or dies is let go of, and started again by the next call.

A server that names secrets is started once for each tenant, with that tenant's values in its environment, and again
when one of them has changed: each call looks which are current, so that what was removed is refused with the next call.
Nothing that such a server says passes on with a value in it: no result, no error, nothing that it prints.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.errors import NotFound, OrchestratorError
from orchestrator.domain.plan import canonical, digest
from orchestrator.ports import SecretStore
from orchestrator.telemetry import log
from workers.toolhost.registry import Registry, ServerSpec, ToolSpec
from workers.toolhost.veil import Veil

if TYPE_CHECKING:
    from mcp import StdioServerParameters
    from mcp.server.mcpserver import MCPServer

    from workers.toolhost import session as speaking

RESULT_LIMIT_CHARS = 12_000_000
"""A result longer than this is a failure: it would not fit into evidence."""

_START_TIMEOUT_S = 30.0
_LOADING: Final = threading.Lock()

TENANT_SERVERS = 32
"""Servers with secrets that are kept running while nobody calls them; the least recently called one ends first."""

KEY_META = "orchestrator/idempotency-key"
"""The name under which a keyed call's key travels to its server."""

WITHIN_META = "orchestrator/within_s"
"""The name under which the seconds travel that a call is waited for."""


TENANT_META: Final = "orchestrator/tenant"
"""The name under which a server that comes with the product is told whose plan calls; no other server is."""

EGRESS_META: Final = "orchestrator/egress"
"""The name under which such a server is told which hosts are left to the call: lists, each of which must name a host."""


class ToolFailure(Exception):
    """A tool did not answer, or answered with an error: `reason` is a constant code.

    `unsure` says that the call may have had its effect all the same: it was sent, and no word came back that it failed.
    """

    def __init__(self, reason: str, detail: str, *, unsure: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.unsure = unsure


@dataclass(frozen=True, slots=True)
class _Place:
    """Which running server a call goes to: for one with secrets, whose they are and a digest of them."""

    server: str
    tenant: str = ""
    digest: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class _Given:
    """What a server is started with, and what must not come out of it."""

    place: _Place
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    veil: Veil = field(default_factory=Veil)


class ToolHost:
    """The servers of a registry, started when first needed; those with secrets once for each tenant."""

    def __init__(
        self,
        registry: Registry,
        builtins: Mapping[str, Callable[[], MCPServer]],
        secrets: SecretStore | None = None,
    ) -> None:
        self._registry = registry
        self._builtins = builtins
        self._secrets = secrets
        self._sessions: dict[_Place, speaking.Session] = {}
        self._lock = threading.Lock()

    @property
    def registry(self) -> Registry:
        """What it offers now."""
        return self._registry

    def call(
        self,
        tool: ToolSpec,
        arguments: Mapping[str, Any],
        *,
        timeout_s: float,
        key: str,
        tenant: str = "",
        reach: Sequence[Sequence[str]] = ((),),
    ) -> Mapping[str, Any]:
        """Return a tool's structured answer within `timeout_s` seconds, or raise `ToolFailure`.

        Whose plan it is, `tenant` says: a server that names secrets is given this tenant's. `reach` are lists of hosts,
        each of which must name whatever host is asked, where the call leads on, too; by itself a call reaches none.
        """
        given = self._given(tool.server, tenant)
        meta: dict[str, Any] = {KEY_META: key}
        if self._spec(tool.server).builtin is not None:  # no child needs to know whose call it is
            hosts = [list(hosts) for hosts in reach]
            meta |= {WITHIN_META: timeout_s, TENANT_META: tenant, EGRESS_META: hosts}
        try:
            with self._using(given) as session:
                return given.veil.of(self._answer(session, given, tool, arguments, timeout_s, meta))
        except ToolFailure as failure:
            if not given.veil:
                raise
            # what it was raised from may hold a value, too
            raise ToolFailure(
                failure.reason, given.veil.text(failure.detail), unsure=failure.unsure
            ) from None

    def _answer(
        self,
        session: speaking.Session,
        given: _Given,
        tool: ToolSpec,
        arguments: Mapping[str, Any],
        timeout_s: float,
        meta: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        # whoever has a session has imported these
        from mcp import MCPError
        from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        from workers.toolhost.session import content_of

        waiting = session.submit(session.call(tool.name, dict(arguments), timeout_s, meta))
        try:
            result = waiting.result(timeout_s + 1.0)
        except (concurrent.futures.TimeoutError, TimeoutError):
            waiting.cancel()
            self._drop(given.place, session)
            raise _timed_out(tool, timeout_s) from None
        except MCPError as error:
            if error.code not in {REQUEST_TIMEOUT, CONNECTION_CLOSED}:  # the server said no; it is well
                detail = tellable(f"{tool.name} could not be called: {error}")
                raise ToolFailure("protocol_error", detail) from error
            self._drop(given.place, session)
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
            self._drop(given.place, session)
            detail = tellable(f"{tool.name}: its server went away ({type(error).__name__}: {error}).")
            raise ToolFailure("server_gone", detail, unsure=True) from error
        return content_of(tool.name, result)

    def tools(self, server: str) -> list[str]:
        """The names of the tools that a server without secrets says it has."""
        with self._using(_Given(_Place(server))) as session:
            return session.submit(session.tools()).result(_START_TIMEOUT_S)

    def schema(self, tool: ToolSpec, *, tenant: str = "") -> str:
        """The SHA-256 of what a tool's server says about it now; empty if it has no such tool any more."""
        given = self._given(tool.server, tenant)
        with self._using(given) as session:
            try:
                described = session.submit(session.described()).result(_START_TIMEOUT_S)
            except Exception as error:
                self._drop(given.place, session)
                raise ToolFailure(
                    "server_gone", f"{tool.name}: its server went away while it was asked about it."
                ) from error
        found = described.get(tool.name)
        return "" if found is None else digest(found)

    def use(self, registry: Registry) -> None:
        """Work by another registry from the next call on; servers that are started otherwise by it are let go of.

        One that is in the middle of a call ends with that.
        """
        with self._lock:
            before, self._registry = self._registry, registry
            gone = [
                p for p in self._sessions if registry.servers.get(p.server) != before.servers.get(p.server)
            ]
            sessions = [self._sessions.pop(place) for place in gone]
            idle = [session for session in sessions if not session.users]
        for session in idle:
            session.stop()

    def close(self) -> None:
        """Stop every server."""
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.stop()
        for session in sessions:
            session.join(2.0)

    def _given(self, server: str, tenant: str) -> _Given:
        """Return what the server is to be started with; raises `ToolFailure` where a secret is not to be had."""
        names = self._spec(server).secrets
        if not names:
            return _Given(_Place(server))
        values = {variable: self._secret(server, tenant, name) for variable, name in names.items()}
        return _Given(
            _Place(server, tenant, hashlib.sha256(canonical(values)).hexdigest()),
            values,
            Veil(values.values()),
        )

    def _spec(self, server: str) -> ServerSpec:
        spec = self._registry.servers.get(server)
        if spec is None:
            raise ToolFailure("server_gone", f"There is no tool server {server} in the registry any more.")
        return spec

    def _secret(self, server: str, tenant: str, name: str) -> str:
        if self._secrets is None:
            raise ToolFailure(
                "secret_missing",
                f"Tool server {server} needs the secret {name}, and there are no secrets here.",
            )
        try:
            return self._secrets.get(tenant, name).value
        except NotFound:
            raise ToolFailure(
                "secret_missing",
                f"Tool server {server} needs the secret {name}, which tenant {tenant} does not have; "
                f"`orchestrator secrets put {name} --tenant {tenant}` writes it.",
            ) from None
        except OrchestratorError as error:
            raise ToolFailure(error.code, f"Tool server {server} needs the secret {name}. {error}") from None

    @contextlib.contextmanager
    def _using(self, given: _Given) -> Iterator[speaking.Session]:
        """Hold a running server for the block; raises `ToolFailure` if it does not start."""
        place, opened = given.place, _session_type()
        with self._lock:
            session = self._sessions.pop(place, None)
            if session is None:
                session = opened(self._target(self._spec(place.server), given), given.veil)
                session.start()
            self._sessions[place] = session  # the last of them, being the one that was called last
            session.users += 1
            ended = self._superseded(place)
        for old in ended:
            old.stop()
        try:
            self._await_start(place, session)
            yield session
        finally:
            with self._lock:
                session.users -= 1
                abandoned = session.users == 0 and self._sessions.get(place) is not session
            if abandoned:
                session.stop()

    def _await_start(self, place: _Place, session: speaking.Session) -> None:
        try:
            session.ready.result(_START_TIMEOUT_S)
        except Exception as error:
            self._drop(place, session)
            raise ToolFailure(
                "server_down", tellable(f"Tool server {place.server} did not start: {error}")
            ) from error

    def _superseded(self, place: _Place) -> list[speaking.Session]:
        """Forget the servers whose secrets are no longer these, and those that nobody called for long.

        Returns those to be stopped now; one that is in the middle of a call is stopped at its end.
        """
        if not place.digest:
            return []
        secretive = [each for each in self._sessions if each.digest]
        others = [each for each in secretive if each.tenant == place.tenant and each.server == place.server]
        gone = [each for each in others if each != place]
        for each in gone:
            log.info("toolhost.replaced", server=each.server, tenant=each.tenant)
        idle = [each for each in secretive if each not in gone and not self._sessions[each].users]
        gone += idle[: max(0, len(secretive) - len(gone) - TENANT_SERVERS)]
        sessions = [self._sessions.pop(each) for each in gone]
        return [session for session in sessions if not session.users]

    def _drop(self, place: _Place, session: speaking.Session) -> None:
        with self._lock:
            if self._sessions.get(place) is session:
                del self._sessions[place]
        session.stop()
        log.warning("toolhost.dropped", server=place.server)

    def _target(self, spec: ServerSpec, given: _Given) -> MCPServer | StdioServerParameters:
        if spec.builtin is not None:
            return self._builtins[spec.builtin]()
        # its session has imported it
        from mcp import StdioServerParameters

        program, *arguments = spec.command
        allowed = {name: os.environ[name] for name in spec.env if name in os.environ}
        return StdioServerParameters(command=program, args=arguments, env={**allowed, **given.environment})


def _session_type() -> type[speaking.Session]:
    """Return what keeps a connection to a server; its SDK is imported with the first call, in one thread at a time."""
    # two threads that enter a package with cycles by different doors would each wait for what the other imports
    with _LOADING:
        from workers.toolhost.session import Session
    return Session


def tellable(text: str) -> str:
    """Return what a server said as it can be stored, and no more of it than anybody reads."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()[:2000]


def _timed_out(tool: ToolSpec, timeout_s: float) -> ToolFailure:
    return ToolFailure("timed_out", f"{tool.name} did not answer within {timeout_s:g} s.", unsure=True)
