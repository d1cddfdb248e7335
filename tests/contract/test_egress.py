"""The guarded fetch on real sockets: TLS for the name, the address that was checked, and every limit."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from workers.toolhost.egress import Guard, Refused, Rules, Unreachable

LOOPBACK = ipaddress.ip_address("127.0.0.1")
NOW = dt.datetime.now(dt.UTC)
HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\r\nhello"


class Authority:
    """A certificate authority that lives as long as the tests."""

    def __init__(self, folder):
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        made = self._draft(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self._own = made.sign(self._key, hashes.SHA256())
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._own.public_bytes(serialization.Encoding.PEM))

    def _draft(self, subject, key):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - dt.timedelta(days=1))
            .not_valid_after(NOW + dt.timedelta(days=1))
        )

    def serves(self, *names):
        """A server's context with a certificate for these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        made = self._draft(subject, key).add_extension(alternatives, critical=False)
        made = made.add_extension(issuer, critical=False).sign(self._key, hashes.SHA256())
        file = self.folder / f"{names[0]}.pem"
        file.write_bytes(
            made.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def trusted(self):
        return ssl.create_default_context(cafile=str(self.file))


@dataclass
class Site:
    """A server that says what it is told to, and remembers what it was asked."""

    port: int
    asked: list[bytes] = field(default_factory=list)
    sni: list[str] = field(default_factory=list)
    answer: object = HELLO


@contextmanager
def site(context: ssl.SSLContext | None) -> Iterator[Site]:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.05)
    made = Site(listening.getsockname()[1])
    stopping = threading.Event()
    serving = []
    if context is not None:
        context.sni_callback = lambda _socket, name, _context: made.sni.append(name)

    def serve(connection):
        connection.settimeout(5)
        with connection, suppress(OSError):
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    more = connection.recv(4096)
                    if not more:
                        return
                    head += more
                made.asked.append(head)
                if callable(made.answer):
                    made.answer(connection, head, stopping)
                else:
                    connection.sendall(made.answer)

    def accept():
        while not stopping.is_set():
            with suppress(TimeoutError):
                thread = threading.Thread(target=serve, args=(listening.accept()[0],))
                thread.start()
                serving.append(thread)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield made
    finally:
        stopping.set()
        thread.join()
        for thread in serving:
            thread.join()
        listening.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def page(authority):
    with site(authority.serves("site.example", "other.example")) as made:
        yield made


@pytest.fixture
def guard(page, authority):
    return Guard(
        Rules(frozenset({"site.example", "other.example"}), frozenset({("https", page.port)})),
        resolver=lambda host, port: ["127.0.0.1"],
        also=lambda address: address == LOOPBACK,
        tls=authority.trusted,
    )


def redirect(to, status=302):
    return f"HTTP/1.1 {status} Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


def answer(body=b"hello", **headers):
    lines = {"Content-Type": "text/plain", "Content-Length": len(body)} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + body


class TestAPage:
    def test_is_fetched_over_tls_for_the_name_that_was_asked(self, guard, page):
        fetched = guard.fetch(f"https://Site.example:{page.port}/a/b?c=d#e")

        assert (fetched.body, fetched.media_type, fetched.redirects) == (b"hello", "text/plain", 0)
        assert fetched.url == f"https://site.example:{page.port}/a/b?c=d"
        assert page.sni == ["site.example"]
        head = page.asked[0].decode()
        assert head.startswith("GET /a/b?c=d HTTP/1.1\r\n")
        assert f"\r\nHost: site.example:{page.port}\r\n" in head

    def test_is_asked_for_with_nothing_that_says_who_asks(self, guard, page, monkeypatch, tmp_path):
        (tmp_path / ".netrc").write_text("machine site.example login me password secret\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        page.answer = answer(Set_Cookie="a=b")

        guard.fetch(f"https://site.example:{page.port}/")
        guard.fetch(f"https://site.example:{page.port}/")

        for head in page.asked:
            assert not {b"cookie", b"authorization", b"referer"} & set(
                head.lower().replace(b":", b" ").split()
            )

    def test_is_fetched_past_every_proxy_of_the_environment(self, guard, page, monkeypatch):
        with site(None) as proxy:
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")

            assert guard.fetch(f"https://site.example:{page.port}/").body == b"hello"
            assert proxy.asked == []

    def test_whose_certificate_is_for_another_name_is_not_read(self, guard, page):
        rules = replace(guard.rules, hosts=frozenset({"third.example"}))

        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            replace(guard, rules=rules).fetch(f"https://third.example:{page.port}/")
        assert page.asked == []

    def test_whose_authority_is_not_known_is_not_read(self, guard, page):
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            replace(guard, tls=ssl.create_default_context).fetch(f"https://site.example:{page.port}/")
        assert page.asked == []

    def test_over_plain_http_is_read_where_the_rules_open_that_door(self, guard):
        with site(None) as plain:
            rules = replace(guard.rules, doors=frozenset({("http", plain.port)}))

            assert replace(guard, rules=rules).fetch(f"http://site.example:{plain.port}/").body == b"hello"

    def test_leaves_a_line_in_the_log_without_its_path(self, guard, page):
        with structlog.testing.capture_logs() as lines:
            guard.fetch(f"https://site.example:{page.port}/secret?key=secret")
            with pytest.raises(Refused):
                guard.fetch("https://evil.example/secret")

        assert [line["event"] for line in lines] == ["egress.fetched", "egress.refused"]
        assert "secret" not in str(lines)


class TestAName:
    @pytest.mark.parametrize(
        "addresses",
        [
            ["10.0.0.1"],
            ["169.254.169.254"],
            ["::ffff:169.254.169.254"],
            ["64:ff9b::a9fe:a9fe"],
            ["127.0.0.1", "192.168.0.1"],
            ["127.0.0.1", "fe80::1%eth0"],
            ["127.0.0.2"],
        ],
    )
    def test_with_one_address_that_is_not_public_is_not_connected_to(self, guard, page, addresses):
        with pytest.raises(Refused) as refused:
            replace(guard, resolver=lambda *_: addresses).fetch(f"https://site.example:{page.port}/")

        assert refused.value.reason == "address_not_public"
        assert not any(address in refused.value.detail for address in addresses)
        assert page.sni == []

    def test_is_looked_up_once_and_connected_to_where_it_was_checked(self, guard, page):
        answers = iter([["127.0.0.1"], ["169.254.169.254"]])

        assert replace(guard, resolver=lambda *_: next(answers)).fetch(f"https://site.example:{page.port}/")
        assert next(answers) == ["169.254.169.254"]

    def test_that_only_its_resolver_knows_is_reached_all_the_same(self, guard, page):
        # nobody but the given resolver could know this name: whoever asked again would not get there
        assert guard.fetch(f"https://other.example:{page.port}/").body == b"hello"

    def test_is_tried_at_its_next_address_when_the_first_is_deaf(self, guard, page):
        with_deaf = replace(
            guard, resolver=lambda *_: ["::1", "127.0.0.1"], also=lambda address: address.is_loopback
        )

        assert with_deaf.fetch(f"https://site.example:{page.port}/").body == b"hello"

    @pytest.mark.parametrize("answers", [[], OSError("no such name")])
    def test_without_an_address_is_unreachable(self, guard, page, answers):
        def resolver(host, port):
            if isinstance(answers, OSError):
                raise answers
            return answers

        with pytest.raises(Unreachable) as lost:
            replace(guard, resolver=resolver).fetch(f"https://site.example:{page.port}/")
        assert lost.value.reason == "no_address"

    def test_that_is_looked_up_forever_is_given_up(self, guard, page):
        never = threading.Event()
        slow = replace(
            guard,
            rules=replace(guard.rules, total_s=0.2),
            resolver=lambda *_: [str(never.wait(5))],
        )

        with pytest.raises(Unreachable) as lost:
            slow.fetch(f"https://site.example:{page.port}/")
        never.set()
        assert lost.value.reason == "too_slow"


class TestARedirect:
    def test_is_followed_to_another_allowed_host(self, guard, page):
        answers = iter([redirect(f"https://other.example:{page.port}/there"), redirect("/here", 308), HELLO])
        page.answer = lambda connection, *_: connection.sendall(next(answers))

        fetched = guard.fetch(f"https://site.example:{page.port}/")

        assert (fetched.url, fetched.redirects) == (f"https://other.example:{page.port}/here", 2)
        assert page.sni == ["site.example", "other.example", "other.example"]

    @pytest.mark.parametrize(
        ("to", "reason"),
        [
            ("https://evil.example:PORT/", "host_not_allowed"),
            ("https://127.0.0.1/", "bad_host"),
            ("https://2130706433/", "bad_host"),
            ("//[::1]/", "bad_host"),
            ("http://site.example/", "door_closed"),
            ("https://site.example:22/", "door_closed"),
            ("https://user@site.example/", "credentials"),
            ("file:///etc/passwd", "bad_scheme"),
            ("https://site.example\\@evil.example/", "bad_url"),
            ("https://s\u00edte.example/", "bad_host"),
            ("//[::1", "bad_url"),
        ],
    )
    def test_is_judged_like_the_first_address(self, guard, page, to, reason):
        page.answer = redirect(to.replace("PORT", str(page.port)))

        with pytest.raises(Refused) as refused:
            guard.fetch(f"https://site.example:{page.port}/")
        assert refused.value.reason == reason

    @pytest.mark.parametrize(
        "within", [[["site.example"]], [["*"], ["*.site.example", "site.example"]], [["other.example"]], [[]]]
    )
    def test_leads_nowhere_that_a_narrower_list_does_not(self, guard, page, within):
        page.answer = redirect(f"https://other.example:{page.port}/there")

        with pytest.raises(Refused) as refused:
            guard.fetch(f"https://site.example:{page.port}/", within=within)

        assert refused.value.reason == "host_not_left"
        assert "other.example" not in page.sni

    def test_is_followed_to_a_host_that_every_list_leads_to(self, guard, page):
        answers = iter([redirect(f"https://other.example:{page.port}/there"), HELLO])
        page.answer = lambda connection, *_: connection.sendall(next(answers))

        fetched = guard.fetch(
            f"https://site.example:{page.port}/", within=[["*"], ["site.example", "*.example"]]
        )

        assert fetched.redirects == 1

    def test_to_a_name_that_moved_meanwhile_is_judged_by_its_new_address(self, guard, page):
        page.answer = redirect("/again")
        answers = iter([["127.0.0.1"], ["169.254.169.254"]])

        with pytest.raises(Refused) as refused:
            replace(guard, resolver=lambda *_: next(answers)).fetch(f"https://site.example:{page.port}/")
        assert refused.value.reason == "address_not_public"
        assert len(page.asked) == 1

    def test_from_https_to_plain_http_is_refused_even_where_http_may_be_spoken(self, guard, page):
        with site(None) as plain:
            page.answer = redirect(f"http://site.example:{plain.port}/")
            rules = replace(guard.rules, doors=guard.rules.doors | {("http", plain.port)})

            with pytest.raises(Refused) as refused:
                replace(guard, rules=rules).fetch(f"https://site.example:{page.port}/")
            assert (refused.value.reason, plain.asked) == ("downgraded", [])

    def test_is_followed_five_times_and_no_more(self, guard, page):
        page.answer = redirect("/again")

        with pytest.raises(Refused) as refused:
            guard.fetch(f"https://site.example:{page.port}/")
        assert refused.value.reason == "too_many_redirects"
        assert len(page.asked) == 6

    def test_to_nowhere_is_no_page(self, guard, page):
        page.answer = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"

        with pytest.raises(Unreachable, match="without saying where"):
            guard.fetch(f"https://site.example:{page.port}/")


class TestAnAnswer:
    @pytest.mark.parametrize(
        "media_type", ["text/html; charset=utf-8", "application/json", "application/ld+json", "IMAGE/SVG+XML"]
    )
    def test_that_is_text_is_read(self, guard, page, media_type):
        page.answer = answer(Content_Type=media_type)
        assert guard.fetch(f"https://site.example:{page.port}/").body == b"hello"

    @pytest.mark.parametrize("media_type", ["application/octet-stream", "image/png", "video/mp4", "", None])
    def test_that_is_not_is_refused(self, guard, page, media_type):
        page.answer = answer(Content_Type=media_type)

        with pytest.raises(Refused) as refused:
            guard.fetch(f"https://site.example:{page.port}/")
        assert refused.value.reason == "media_type"

    @pytest.mark.parametrize("says", [True, False])
    def test_that_is_too_long_is_refused_whether_it_says_so_or_not(self, guard, page, says):
        rules = replace(guard.rules, limit_bytes=1000)
        page.answer = answer(b"x" * 1001, Content_Length=1001 if says else None)

        with pytest.raises(Refused) as refused:
            replace(guard, rules=rules).fetch(f"https://site.example:{page.port}/")
        assert refused.value.reason == "too_long"

    def test_that_says_it_will_be_too_long_is_not_waited_for(self, guard, page):
        page.answer = answer(b"", Content_Length=10**12)

        with pytest.raises(Refused) as refused:
            guard.fetch(f"https://site.example:{page.port}/")
        assert refused.value.reason == "too_long"

    def test_that_never_ends_is_cut_off_at_the_limit(self, guard, page):
        def flood(connection, _, stopping):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
            while not stopping.is_set():
                connection.sendall(b"x" * 65536)

        page.answer = flood
        rules = replace(guard.rules, limit_bytes=1_000_000)

        with pytest.raises(Refused) as refused:
            replace(guard, rules=rules).fetch(f"https://site.example:{page.port}/")
        assert refused.value.reason == "too_long"

    def test_that_is_packed_is_not_unpacked(self, guard, page):
        page.answer = answer(Content_Encoding="gzip")

        with pytest.raises(Refused) as refused:
            guard.fetch(f"https://site.example:{page.port}/")
        assert refused.value.reason == "packed"
        assert b"\r\nAccept-Encoding: identity\r\n" in page.asked[0]

    @pytest.mark.parametrize(
        "start",
        [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"],
        ids=["silent", "head", "body"],
    )
    def test_that_drips_is_given_up_when_the_time_for_all_of_it_is_up(self, guard, page, start):
        def drip(connection, _, stopping):
            connection.sendall(start)
            for _ in range(100):  # long past the time that there is, and not forever
                if stopping.wait(0.05):
                    break
                if start:
                    connection.sendall(b"x")

        page.answer = drip
        rules = replace(guard.rules, total_s=0.5)

        with pytest.raises(Unreachable) as lost:
            replace(guard, rules=rules).fetch(f"https://site.example:{page.port}/")
        assert lost.value.reason == "too_slow"

    @pytest.mark.parametrize("status", [204, 206, 304, 401, 404, 500])
    def test_with_another_status_is_no_page(self, guard, page, status):
        page.answer = f"HTTP/1.1 {status} X\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n".encode()

        with pytest.raises(Unreachable, match=str(status)):
            guard.fetch(f"https://site.example:{page.port}/")

    @pytest.mark.parametrize(
        "raw",
        [
            b"nonsense\r\n\r\n",
            b"",
            b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 300_000,
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nshort",
        ],
        ids=["nonsense", "nothing", "endless head", "cut short"],
    )
    def test_that_is_not_http_is_no_page(self, guard, page, raw):
        page.answer = raw

        with pytest.raises(Unreachable) as lost:
            guard.fetch(f"https://site.example:{page.port}/")
        assert lost.value.reason == "no_answer"
