"""Fetches a web page for somebody who must not be trusted with a browser; decides what may be reached.

    url ─ spelt oddly, not https, not an allowed host ▶ Refused
     │
    resolve, once ─ any address that is not public ▶ Refused
     │
    connect to the address that was checked, speak TLS for the name that was asked for
     │
    answer ─ redirect ▶ from the top, five times at most
     │      ─ not text, too long, too slow ▶ Refused, Unreachable
     ▼
    Page

An address is judged by its numbers alone and never by its notation: names that look like numbers are refused, and
what a name leads to is unwrapped first. Nobody else is asked: no proxy, no cookie and no credential takes part.
"""

from __future__ import annotations

import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import quote, urljoin, urlsplit

import httpcore
import idna

from orchestrator.telemetry import log

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver: TypeAlias = Callable[[str, int], Sequence[str]]
"""Gives every address of a name, as text; raises `OSError` where there is none."""

USER_AGENT: Final = "orchestrator (research agent)"
MOST_REDIRECTS: Final = 5
LONGEST_URL: Final = 2048

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HTTPS: Final = ("https", 443)
_HTTP: Final = ("http", 80)


class Refused(Exception):
    """The guard does not fetch this; `reason` is a constant code, and trying again cannot mend it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Unreachable(Exception):
    """It may be fetched, but no page came of it this time; `reason` is a constant code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def admits(hosts: Collection[str], host: str) -> bool:
    """Tell whether a list of names, `*.` and a name, or `*`, leads to a normalised host name."""
    parents = host.split(".")[1:]
    below = {"*." + ".".join(parents[at:]) for at in range(len(parents))}
    return "*" in hosts or host in hosts or not below.isdisjoint(hosts)


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be fetched, and how much of it.

    `hosts` are names; `*.example.org` means every name below `example.org` and not itself, `*` means any public
    host. `doors` are the schemes with the one port that each may be spoken at. `total_s` counts from the first look-up
    to the last byte, over all redirects.
    """

    hosts: frozenset[str]
    doors: frozenset[tuple[str, int]] = frozenset({_HTTPS})
    total_s: float = 20.0
    limit_bytes: int = 5 * 1024 * 1024
    media_types: tuple[str, ...] = (
        "text/",
        "application/json",
        "application/xml",
        "application/xhtml+xml",
        "application/pdf",
    )

    @classmethod
    def of(cls, hosts: Iterable[str], *, plain_http: bool = False) -> Rules:
        """Return the rules for some hosts, over https at 443, and over http at 80 if that is wanted."""
        return cls(frozenset(hosts), frozenset({_HTTPS, _HTTP} if plain_http else {_HTTPS}))

    def admit(self, host: str) -> bool:
        """Tell whether a normalised host name is on the list."""
        return admits(self.hosts, host)

    def reads(self, media_type: str) -> bool:
        """Tell whether text can be made of this kind of answer."""
        return media_type.startswith(self.media_types) or media_type.endswith(("+json", "+xml"))


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart: `host` is lower-case ASCII, `path` has its query and begins with a slash."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The same in its one spelling, without a fragment."""
        usual = (self.scheme, self.port) in {_HTTPS, _HTTP}
        return f"{self.scheme}://{self.host}{'' if usual else f':{self.port}'}{self.path}"


@dataclass(frozen=True, slots=True)
class Page:
    """What came: `url` is where it was in the end, `media_type` what its server calls it, in lower case."""

    url: str
    media_type: str
    body: bytes
    redirects: int = 0


def resolve(host: str, port: int) -> Sequence[str]:
    """Return every address of a name, from the machine's resolver and as an absolute name."""
    # the dot at the end keeps the machine's search domains out of it
    found = socket.getaddrinfo(host + ".", port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in found]


@dataclass(frozen=True)
class Guard:
    """Fetches what its rules allow.

    `resolver`, `also` and `tls` are for a test's own network: who answers for names, which addresses count as public
    besides, and whom to trust.
    """

    rules: Rules
    resolver: Resolver = resolve
    also: Callable[[Address], bool] = lambda _: False
    tls: Callable[[], ssl.SSLContext] = field(default=ssl.create_default_context)

    def fetch(self, url: str, *, within: Sequence[Collection[str]] = ()) -> Page:
        """Return a page; raises `Refused` or `Unreachable` with a sentence.

        `within` are lists of hosts besides the rules' own: each must lead to every host that is asked on the way.
        """
        deadline = time.monotonic() + self.rules.total_s
        try:
            page = self._followed(url, deadline, within)
        except Refused as refusal:
            log.warning("egress.refused", reason=refusal.reason)
            raise
        log.info("egress.fetched", host=urlsplit(page.url).hostname, bytes=len(page.body))
        return page

    def ask(self, url: str, *, headers: Mapping[str, str], body: bytes | None = None) -> Page:
        """Return what one address answers to a request with headers and perhaps a body, which is then posted.

        What is sent along is meant for that address alone: where it leads on is not followed. Raises as `fetch` does.
        """
        try:
            page = self._answered(url, headers, body)
        except Refused as refusal:
            log.warning("egress.refused", reason=refusal.reason)
            raise
        log.info("egress.fetched", host=urlsplit(page.url).hostname, bytes=len(page.body))
        return page

    def _answered(self, url: str, headers: Mapping[str, str], body: bytes | None) -> Page:
        target = self._admitted(url)
        answer = self._asked(target, time.monotonic() + self.rules.total_s, headers, body)
        if isinstance(answer, Page):
            return answer
        raise Refused("redirected", f"{target.host} leads on, which is not followed with a key in hand.")

    def _followed(self, url: str, deadline: float, within: Sequence[Collection[str]]) -> Page:
        before = ""
        for redirects in range(MOST_REDIRECTS + 1):
            target = self._admitted(url)
            if not all(admits(hosts, target.host) for hosts in within):
                raise Refused(
                    "host_not_left", f"The host {target.host} is not among those left to this call."
                )
            if before == "https" and target.scheme != "https":
                raise Refused("downgraded", f"{target.host} was reached over https and leads to plain http.")
            answer = self._asked(target, deadline)
            if isinstance(answer, Page):
                return Page(answer.url, answer.media_type, answer.body, redirects)
            before, url = target.scheme, _joined(target, answer)
        raise Refused("too_many_redirects", f"The page leads on more than {MOST_REDIRECTS} times.")

    def _admitted(self, url: str) -> Target:
        target = parse(url)
        if (target.scheme, target.port) not in self.rules.doors:
            allowed = ", ".join(f"{scheme} at port {port}" for scheme, port in sorted(self.rules.doors))
            raise Refused(
                "door_closed", f"{target.scheme} at port {target.port} is not spoken, only {allowed}."
            )
        if not self.rules.admit(target.host):
            raise Refused("host_not_allowed", f"The host {target.host} is not among those that may be asked.")
        return target

    def _asked(
        self,
        target: Target,
        deadline: float,
        also: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Page | str:
        """Return the page at a target, or where it leads."""
        backend = _Backend(self._checked(target, deadline), target, deadline)
        default = (target.scheme, target.port) in {_HTTPS, _HTTP}
        request = httpcore.Request(
            "GET" if body is None else "POST",
            httpcore.URL(
                scheme=target.scheme.encode(),
                host=target.host.encode(),
                port=target.port,
                target=target.path.encode(),
            ),
            headers=list(
                {
                    "Host": target.host if default else f"{target.host}:{target.port}",
                    "User-Agent": USER_AGENT,
                    "Accept": "text/html, text/*;q=0.9, application/json;q=0.8, application/pdf;q=0.7, */*;q=0.1",
                    "Accept-Encoding": "identity",  # what is packed cannot be measured before it is unpacked
                    "Connection": "close",
                    **(
                        {}
                        if body is None
                        else {"Content-Type": "application/json", "Content-Length": str(len(body))}
                    ),
                    **(also or {}),
                }.items()
            ),
            content=body,
        )
        # a pool of our own for one request: nothing of one page's connection is there for the next
        try:
            with httpcore.ConnectionPool(
                ssl_context=self.tls(), network_backend=backend, max_connections=1
            ) as pool:
                response = pool.handle_request(request)
                try:
                    return self._read(target, response)
                finally:
                    response.close()
        except _Late:
            _late(self.rules.total_s)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            if time.monotonic() >= deadline:
                _late(self.rules.total_s)
            raise Unreachable(
                "no_answer", f"{target.host} gave no page ({type(error).__name__}: {error})."
            ) from error

    def _checked(self, target: Target, deadline: float) -> Sequence[str]:
        """Return the addresses that may be connected to, if every address of the name is public."""
        found = _within(deadline, lambda: self.resolver(target.host, target.port))
        if found is None:
            _late(self.rules.total_s)
        if isinstance(found, OSError) or not found:
            raise Unreachable("no_address", f"The host {target.host} has no address.")
        for text in found:
            why = self._objection(text)
            if why:
                # one bad address among good ones is how a name is bent between two look-ups
                raise Refused("address_not_public", f"The host {target.host} leads to {why}.")
        return [str(_parsed(text)) for text in dict.fromkeys(found)]

    def _objection(self, text: str) -> str:
        address = _parsed(text)
        if address is not None and self.also(address):
            return ""
        return objection(text)

    def _read(self, target: Target, response: httpcore.Response) -> Page | str:
        headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        if response.status in _REDIRECTS:
            return headers.get(b"location") or _lost(target)
        if response.status != 200:
            raise Unreachable("status", f"{target.host} answered with status {response.status}.")
        media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if not self.rules.reads(media_type):
            raise Refused(
                "media_type",
                f"{target.host} answered with {media_type or 'an unnamed type'}, which is not text.",
            )
        if headers.get(b"content-encoding", "identity").strip().lower() not in {"", "identity"}:
            raise Refused(
                "packed", f"{target.host} answered with packed content although it was not asked to."
            )
        said = headers.get(b"content-length", "")
        if said.isdecimal() and int(said) > self.rules.limit_bytes:
            _too_long(target, self.rules.limit_bytes)
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > self.rules.limit_bytes:
                _too_long(target, self.rules.limit_bytes)
        return Page(target.url, media_type, bytes(body))


# --- what a URL may look like -----------------------------------------------------------------------------------------

_ODD: Final = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029\ufeff]")
_AUTHORITY: Final = re.compile(r"(?P<host>[^\s:@/?#%\[\]\\]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_LAST_LABEL: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def parse(url: str) -> Target:
    """Return a URL taken apart; raises `Refused` for one that two programs could read differently."""
    if len(url) > LONGEST_URL:
        raise Refused("bad_url", f"The address has more than {LONGEST_URL:,} characters.")
    if _ODD.search(url):
        raise Refused("bad_url", "The address has spaces, backslashes or control characters in it.")
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in {"https", "http"}:
        raise Refused("bad_scheme", "Only addresses that begin with https:// or http:// can be fetched.")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise Refused("credentials", "An address with a name or password in it is not fetched.")
    taken = _AUTHORITY.fullmatch(authority)
    if taken is None:
        raise Refused("bad_host", "The address has no host name, or its port is not a number.")
    port = int(taken["port"] or (443 if scheme == "https" else 80))
    if not 0 < port < 65536:
        raise Refused("bad_host", f"There is no port {port}.")
    try:
        split = urlsplit("//x" + rest[len(authority) :])
    except ValueError as error:
        raise Refused("bad_url", f"The address cannot be read: {error}.") from error
    path = quote(split.path or "/", safe="/%:@!$&'()*+,;=~-._") + (
        f"?{quote(split.query, safe='/%:@!$&()*+,;=~-._?')}" if split.query else ""
    )
    return Target(scheme, host_name(taken["host"]), port, path)


def host_name(text: str) -> str:
    """Return a host name in its one spelling; raises `Refused` for what is not one.

    Letters, digits and hyphens, at least two labels, the last beginning with a letter: so no number in any notation,
    no dot at the end, and no letter that only looks like one (a name in another script becomes `xn--…`).
    """
    # only our own letters are made small: others have small forms that are ours
    name = "".join(letter.lower() if letter.isascii() else letter for letter in text)
    if not name.isascii():
        try:
            # label by label, since there are other characters that count as dots
            name = ".".join(idna.alabel(label).decode("ascii") for label in name.split("."))
        except (idna.IDNAError, UnicodeError) as error:
            raise Refused("bad_host", f"{text!r} is not a host name.") from error
    *labels, last = name.split(".")
    if (
        not labels
        or len(name) > 253
        or not all(map(_LABEL.fullmatch, labels))
        or not _LAST_LABEL.fullmatch(last)
    ):
        raise Refused("bad_host", f"{text!r} is not a host name of letters, digits and hyphens with a dot.")
    for label in (*labels, last):
        if label[2:4] == "--":
            _check_alabel(text, label)
    return name


def _check_alabel(text: str, label: str) -> None:
    try:
        if label.startswith("xn--") and idna.encode(idna.decode(label)).decode("ascii") == label:
            return
    except (idna.IDNAError, UnicodeError):
        pass
    raise Refused("bad_host", f"{text!r} has a label that means nothing.")


def host_pattern(text: str) -> str:
    """Return an entry of a host list in its one spelling: a name, `*.` and a name, or `*`; raises `Refused`."""
    if text == "*":
        return text
    return "*." + host_name(text[2:]) if text.startswith("*.") else host_name(text)


# --- which addresses are public ---------------------------------------------------------------------------------------

_NOT_PUBLIC_4: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers; a cloud's metadata, too
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's own services, at a public number
        "169.254.0.0/16",  # link-local: metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocols
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)
_PUBLIC_6: Final = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocols; Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})


def objection(text: str) -> str:
    """Return what an address is, if it is not public, or nothing if it is.

    An IPv4 address in an IPv6 one is judged as IPv4 where networks of today translate it (mapped, NAT64); the ways of
    yesterday (6to4, Teredo, ISATAP, compatible) are never public.
    """
    address = _parsed(text)
    if address is None:
        return "something that is not an address"
    inner = _unwrapped(address)
    public = (
        not any(inner in network for network in _NOT_PUBLIC_4)
        if isinstance(inner, ipaddress.IPv4Address)
        else inner in _PUBLIC_6
        and not any(inner in network for network in _NOT_PUBLIC_6)
        and (int(inner) >> 32) & 0xFFFFFFFF not in _ISATAP
    )
    return "" if public else "an address that is not public"


def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # a zone says on which of this machine's cables it is: such an address is never public
    zoned = isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None
    return None if zoned else address


def _unwrapped(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv6Address) and (address in _MAPPED or address in _NAT64):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


# --- the wire ---------------------------------------------------------------------------------------------------------


class _Late(Exception):
    """The time for the whole fetch is up."""


class _Stream(httpcore.NetworkStream):
    """A connection on which no single wait outlives the deadline, so that dripping does not help."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: float) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        del timeout
        return self._inner.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        del timeout
        self._inner.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        del timeout
        inner = self._inner.start_tls(ssl_context, server_hostname, _left(self._deadline))
        return _Stream(inner, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    """Connects to the addresses that were checked, one after the other, and looks nothing up."""

    def __init__(self, addresses: Sequence[str], target: Target, deadline: float) -> None:
        self._addresses = addresses
        self._target = target
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        del timeout, local_address, socket_options
        failed: Exception = httpcore.ConnectError("there is no address")
        if (host, port) != (self._target.host, self._target.port):
            raise httpcore.ConnectError(f"{host}:{port} was not what was checked")
        for address in self._addresses:
            try:
                inner = httpcore.SyncBackend().connect_tcp(address, port, _left(self._deadline))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
            else:
                return _Stream(inner, self._deadline)
        raise failed


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise _Late
    return left


def _within(deadline: float, ask: Callable[[], Sequence[str]]) -> Sequence[str] | OSError | None:
    """Return what `ask` returns, the `OSError` it raises, or `None` if it takes longer than there is."""
    answers: queue.SimpleQueue[Sequence[str] | OSError] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put(ask())
        except (OSError, UnicodeError) as error:
            answers.put(error if isinstance(error, OSError) else OSError(str(error)))

    # the resolver of the machine knows no deadline: it is left behind when it is too slow
    threading.Thread(target=run, name="resolve", daemon=True).start()
    try:
        return answers.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return None


def _joined(target: Target, location: str) -> str:
    try:
        return urljoin(target.url, location)
    except ValueError as error:
        raise Refused("bad_url", f"{target.host} leads to what is no address ({error}).") from error


def _late(total_s: float) -> NoReturn:
    raise Unreachable("too_slow", f"The page did not come within {total_s:g} s.")


def _lost(target: Target) -> NoReturn:
    raise Unreachable("status", f"{target.host} leads on without saying where.")


def _too_long(target: Target, limit_bytes: int) -> NoReturn:
    raise Refused("too_long", f"{target.host} answered with more than {limit_bytes:,} bytes.")
