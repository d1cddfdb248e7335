"""What a policy may know about a call besides capabilities: where it goes, what its plan has read, what is stopped.

Everything that engines would disagree on is done here, and the policy only compares: addresses are classified, labels
are gathered, schemas are digested. Nothing here asks the network; what a name resolves to is judged by whoever
connects to it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from orchestrator.domain.plan import Call, CallState, Json
from orchestrator.domain.stop import Stop
from workers.gate.stops import Stops
from workers.toolhost.registry import ToolSpec

EGRESS: Final = "network.egress"
CODE: Final = "code.exec"
WAYS_OUT: Final = frozenset({EGRESS, "repo.write", "github.write", "release.publish"})
"""Capabilities by which something can leave; calls.rego lists the same."""

SENSITIVE: Final = "sensitive"
UNTRUSTED: Final = "untrusted"

_MOST_HOSTS: Final = 16
_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
)
_ADDRESS: Final = re.compile(r"\s*(?:https?:|[a-z][a-z0-9+.-]*:[/\\]|[/\\]{2})", re.IGNORECASE)
"""How text begins that some program would follow as an address."""

_INSIDE: Final = {"localhost": "loopback", "metadata.google.internal": "metadata"}
_METADATA: Final = frozenset(
    {"169.254.169.254", "169.254.170.2", "100.100.100.200", "fd00:ec2::254", "168.63.129.16"}
)
_RESERVED: Final = tuple(
    ipaddress.ip_network(net)
    for net in (
        *("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
        *("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16"),
        *("3fff::/20", "5f00::/16", "fec0::/10", "ff00::/8"),
    )
)


@dataclass(frozen=True, slots=True)
class Known:
    """What is configured: the hosts that may be reached, of these by each tenant, what is stopped, and whether walls hold.

    A tenant that is not named in `tenants` may reach every host of `egress`. `walled` says whether the sandbox withstood
    what it did to itself. `reaches` is the one address that a server asks whatever its tools are called with.
    """

    egress: tuple[str, ...] = ()
    stops: Stops = field(default_factory=Stops)
    tenants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    walled: Callable[[], bool] = lambda: False
    reaches: Mapping[str, str] = field(default_factory=dict)

    def narrowed(self, tenant: str, agent_hosts: Sequence[str] | None) -> Sequence[Sequence[str]]:
        """Return the lists that leave a tenant and an agent fewer hosts than there are; each must name a host."""
        return [hosts for hosts in (self.tenants.get(tenant), agent_hosts) if hosts is not None]


def describe(
    known: Known,
    tool: ToolSpec,
    arguments: Mapping[str, Json],
    *,
    tenant: str,
    plan_id: str,
    journal: Callable[[], Sequence[Call]],
    tools: Mapping[str, ToolSpec],
    schema: Callable[[], str],
    agent: str = "",
    agent_hosts: Sequence[str] | None = None,
    stopped: Iterable[Stop] = (),
) -> dict[str, Json]:
    """Return `context.call` of a question. The journal, the schema and the walls are asked for only where a rule needs them.

    `agent_hosts` are those that the agent's profile leaves it, where it says so; `stopped` is what Postgres says is stopped
    for the tenant.
    """
    way_out, limited = tool.capability in WAYS_OUT, tool.max_calls >= 0
    calls = journal() if way_out or limited else ()
    fixed = known.reaches.get(tool.server)
    goes = hosts(arguments if fixed is None else fixed) if tool.capability == EGRESS else []
    # who configured an address allowed its host with it, for this tool alone
    own = [_entry(str(host["host"])) for host in goes] if fixed is not None else []
    return {
        "stops": [*known.stops.of(tenant=tenant, tool=tool.name, agent=agent, plan_id=plan_id, rows=stopped)],
        "hosts": list(goes),
        "egress": [*map(_entry, known.egress), *own],
        "narrowed": [[*map(_entry, narrower)] for narrower in known.narrowed(tenant, agent_hosts)],
        "taint": list(taint(calls, tools)),
        "schema": {"pinned": tool.schema_sha256, "found": schema() if tool.schema_sha256 else ""},
        "sandbox": "" if tool.capability != CODE else "enforced" if known.walled() else "withheld",
        "quota": {"calls": sum(c.tool == tool.name for c in calls), "limit": tool.max_calls},
    }


def taint(calls: Iterable[Call], tools: Mapping[str, ToolSpec]) -> list[str]:
    """Return the labels of what calls have brought in; a tool that nobody knows any more may have brought anything."""
    labels: set[str] = set()
    for call in calls:
        tool = tools.get(call.tool)
        if call.state is CallState.FAILED:
            continue
        if tool is None:
            labels |= {SENSITIVE, UNTRUSTED}
        else:
            labels |= {*tool.yields, *([UNTRUSTED] if tool.capability == EGRESS else [])}
    return sorted(labels)


def hosts(arguments: Json) -> list[dict[str, Json]]:
    """Return where arguments point to: each distinct scheme, host and port of an address in them, and its class.

    The class is `name`, or that of a numeric address: `public`, `private`, `loopback`, `link_local`, `metadata` or
    `reserved`; `unreadable` is what programs may read differently. More than sixteen are unreadable as a whole.
    """
    found: dict[tuple[str, str, int], dict[str, Json]] = {}
    for text in _texts(arguments):
        if _ADDRESS.match(text):
            host = _host(text)
            found[str(host["scheme"]), str(host["host"]), int(str(host["port"]))] = host
    return list(found.values()) if len(found) <= _MOST_HOSTS else [_UNREADABLE]


_UNREADABLE: Final[dict[str, Json]] = {"scheme": "", "host": "", "port": 0, "ip_class": "unreadable"}


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _host(url: str) -> dict[str, Json]:
    if not url.isascii() or not url.isprintable() or "\\" in url or " " in url:
        return _UNREADABLE
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    except ValueError:
        return _UNREADABLE
    host = (parts.hostname or "").removesuffix(".")
    if parts.scheme not in {"http", "https"} or "@" in parts.netloc or not host:
        return _UNREADABLE
    kind = classified(host)
    return (
        _UNREADABLE
        if kind == "unreadable"
        else {"scheme": parts.scheme, "host": host, "port": port, "ip_class": kind}
    )


def classified(host: str) -> str:
    """Return the class of a host as it is written."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if host in _INSIDE or host.endswith(".localhost"):
            return _INSIDE.get(host, "loopback")
        # a last label of digits is a number in disguise: 0177.0.0.1, 2130706433, 0x7f.1
        return "name" if _NAME.fullmatch(host) else "unreadable"
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if str(address) in _METADATA:
        return "metadata"
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link_local"
    if any(address.version == net.version and address in net for net in _RESERVED):
        return "reserved"
    return "public" if address.is_global and not address.is_multicast else "private"


def _entry(pattern: str) -> dict[str, Json]:
    if pattern == "*":
        return {"host": "", "below": True}
    return {"host": pattern.removeprefix("*."), "below": pattern.startswith("*.")}
