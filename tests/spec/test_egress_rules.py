"""What may be fetched at all: which hosts, which spellings of a URL, and which addresses count as public."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.toolhost import egress
from workers.toolhost.egress import Guard, Refused, Rules

NOT_PUBLIC = [
    # this machine
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",  # noqa: S104 - an address to refuse, not to listen on
    "0.1.2.3",
    "::1",
    "::",
    # private, shared, link-local
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "169.254.0.1",
    "fc00::1",
    "fdff:ffff::1",
    "fe80::1",
    "febf::1",
    "fec0::1",
    # what clouds tell their own machines
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd20:ce::254",
    # protocols, examples, benchmarks, multicast, reserved
    "192.0.0.8",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "100::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2620:4f:8000::1",
    "3fff::1",
    "5f00::1",
    "4000::1",
    "ff02::1",
    "ff0e::1",
    # an IPv4 address in an IPv6 one
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:169.254.169.254",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "::7f00:1",
    "::8.8.8.8",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2002:808:808::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2606:4700::5efe:10.0.0.1",
    "2606:4700::200:5efe:7f00:1",
    # no address at all
    "fe80::1%eth0",
    "2606:4700::1%1",
    "127.1",
    "0177.0.0.1",
    "2130706433",
    "0x7f.1",
    "localhost",
    "",
]

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.215.14",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.255.255",
    "172.32.0.1",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]

BAD_URLS = {
    # no host name in any notation
    "https://127.0.0.1/": "bad_host",
    "https://127.1/": "bad_host",
    "https://0177.0.0.1/": "bad_host",
    "https://0x7f.1/": "bad_host",
    "https://0x7f000001/": "bad_host",
    "https://2130706433/": "bad_host",
    "https://017700000001/": "bad_host",
    "https://127.0.0.1.nip/": "host_not_allowed",
    "https://example.org.0x7f000001/": "bad_host",
    "https://[::1]/": "bad_host",
    "https://[::ffff:127.0.0.1]/": "bad_host",
    "https://[fe80::1%25eth0]/": "bad_host",
    "https://①②⑦.⓪.⓪.①/": "bad_host",
    "https://127。0。0。1/": "bad_host",
    "https://１２７.０.０.１/": "bad_host",
    "https://localhost/": "bad_host",
    "https://metadata/": "bad_host",
    "https://example.org./": "bad_host",
    "https://.example.org/": "bad_host",
    "https://example..org/": "bad_host",
    "https://-example.org/": "bad_host",
    "https://example-.org/": "bad_host",
    "https://exa_mple.org/": "bad_host",
    "https://exa%6dple.org/": "bad_host",
    "https://example.org%00.evil.test/": "bad_host",
    "https://ex\u00adample.org/": "bad_host",
    "https://ex\u200bample.org/": "bad_host",
    "https://ｅxample.org/": "bad_host",
    "https://example｡org/": "bad_host",
    "https://\u212aexample.org/": "bad_host",  # the sign for kelvin, whose small form is our k
    "https://xn--80ak6aa92e.org/": "host_not_allowed",
    "https://xn--a.org/": "bad_host",
    "https://xn--example-.org/": "bad_host",
    "https://ab--c.org/": "bad_host",
    "https://еxample.org/": "host_not_allowed",  # the first letter is Cyrillic
    "https:///path": "bad_host",
    "https://": "bad_host",
    f"https://{'a' * 64}.org/": "bad_host",
    f"https://{'a.' * 130}org/": "bad_host",
    # whose host is it?
    "https://example.org@evil.test/": "credentials",
    "https://user:password@example.org/": "credentials",
    "https://@example.org/": "credentials",
    "https://evil.test\\@example.org/": "bad_url",
    "https://example.org\\.evil.test/": "bad_url",
    "https://example.org:443:80/": "bad_host",
    "https://evil.test#@example.org/": "host_not_allowed",
    "https://evil.test?.example.org/": "host_not_allowed",
    "https://example.org.evil.test/": "host_not_allowed",
    "https://notexample.org/": "host_not_allowed",
    "https://sub.example.org/": "host_not_allowed",
    "https://example.com/": "host_not_allowed",
    # which way in?
    "http://example.org/": "door_closed",
    "https://example.org:80/": "door_closed",
    "https://example.org:8443/": "door_closed",
    "https://example.org:22/": "door_closed",
    "https://example.org:0/": "bad_host",
    "https://example.org:65536/": "bad_host",
    "https://example.org:４４３/": "bad_host",
    "https://example.org:+443/": "bad_host",
    "file:///etc/passwd": "bad_scheme",
    "ftp://example.org/": "bad_scheme",
    "gopher://example.org/": "bad_scheme",
    "dict://example.org:11211/": "bad_scheme",
    "data:text/plain,hello": "bad_scheme",
    "javascript:alert(1)": "bad_scheme",
    "unix:///run/postgresql": "bad_scheme",
    "//example.org/": "bad_scheme",
    "example.org": "bad_scheme",
    "https:example.org": "bad_scheme",
    "https:/example.org": "bad_scheme",
    "": "bad_scheme",
    # what hides in white space
    " https://example.org/": "bad_url",
    "https://example.org/\r\nHost: evil.test": "bad_url",
    "https://exam\tple.org/": "bad_url",
    "https://example.org /": "bad_url",
    "https://example.org/\x00": "bad_url",
    "https://example.org/a b": "bad_url",
    "https://example.org\u2028/": "bad_url",
    "https://example.org/" + "a" * 2048: "bad_url",
}


def never(host, port):
    raise AssertionError(f"{host}:{port} was looked up")


class TestAnAddress:
    @pytest.mark.parametrize("address", NOT_PUBLIC)
    def test_that_is_not_public_is_refused(self, address):
        assert egress.objection(address)

    @pytest.mark.parametrize("address", PUBLIC)
    def test_that_is_public_is_not(self, address):
        assert not egress.objection(address)

    @given(st.ip_addresses(v=4))
    def test_is_public_only_if_the_standard_library_says_so_too(self, address):
        assert egress.objection(str(address)) or (address.is_global and not address.is_multicast)

    @given(st.ip_addresses(v=6))
    def test_of_ipv6_is_public_only_if_the_standard_library_says_so_too(self, address):
        inner = address.ipv4_mapped or address
        assert egress.objection(str(address)) or int(address) >> 96 == 0x64FF9B << 8 or inner.is_global

    @given(st.sampled_from(egress._NOT_PUBLIC_4), st.data())
    def test_of_a_range_that_is_not_public_passes_in_no_notation(self, network, data):
        address = data.draw(st.ip_addresses(network=network))
        number = int(address)
        high, low = number >> 16, number & 0xFFFF
        for spelt in (
            str(address),
            f"::ffff:{address}",
            f"::ffff:{high:x}:{low:x}",
            ipaddress.IPv6Address(0xFFFF << 32 | number).exploded,
            f"::{address}",
            f"64:ff9b::{address}",
            f"64:ff9b:1::{address}",
            f"2002:{high:x}:{low:x}::1",
            f"2001:0:{high:x}:{low:x}::1",
            f"2001::{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}",
            f"2606:4700::5efe:{address}",
            f"fe80::5efe:{address}",
        ):
            assert egress.objection(spelt), spelt

    @given(st.sampled_from(egress._NOT_PUBLIC_4), st.data())
    def test_of_such_a_range_is_no_host_name_either(self, network, data):
        number = int(data.draw(st.ip_addresses(network=network)))
        octets = number.to_bytes(4)
        spelt = (
            str(number),
            hex(number),
            f"0{number:o}",
            ".".join(map(str, octets)),
            ".".join(map(hex, octets)),
            ".".join(f"0{octet:o}" for octet in octets),
            f"{octets[0]}.{number & 0xFFFFFF}",
            f"{octets[0]}.{octets[1]}.{number & 0xFFFF}",
            f"0x{octets[0]:x}.{number & 0xFFFFFF}",
            "".join(chr(ord("０") + int(c)) if c.isdigit() else c for c in ".".join(map(str, octets))),
            f"{number}.",
        )
        for host in spelt:
            with pytest.raises(Refused):
                egress.parse(f"https://{host}/")

    @given(st.sampled_from(egress._NOT_PUBLIC_6), st.data())
    def test_of_an_ipv6_range_that_is_not_public_passes_in_no_notation(self, network, data):
        address = data.draw(st.ip_addresses(network=network))
        for spelt in (address.compressed, address.exploded, address.compressed.upper(), f"{address}%eth0"):
            assert egress.objection(spelt), spelt

    @given(st.text())
    def test_of_any_text_never_raises(self, text):
        assert isinstance(egress.objection(text), str)


class TestAUrl:
    @pytest.mark.parametrize("url", BAD_URLS)
    def test_that_is_spelt_oddly_or_not_allowed_is_refused_before_anything_is_looked_up(self, url):
        guard = Guard(Rules.of({"example.org"}), resolver=never)

        with pytest.raises(Refused) as refused:
            guard.fetch(url)

        assert refused.value.reason == BAD_URLS[url]
        assert refused.value.detail.endswith(".")

    @pytest.mark.parametrize(
        ("url", "host", "path"),
        [
            ("https://example.org", "example.org", "/"),
            ("HTTPS://EXAMPLE.org/A?b=c#d", "example.org", "/A?b=c"),
            ("https://example.org:443/", "example.org", "/"),
            ("https://bücher.example/ü?ö=ä", "xn--bcher-kva.example", "/%C3%BC?%C3%B6=%C3%A4"),
            ("https://xn--bcher-kva.example/%2F", "xn--bcher-kva.example", "/%2F"),
            ("https://example.org?q=1", "example.org", "/?q=1"),
            ("https://a-b.c1.example.org//two", "a-b.c1.example.org", "//two"),
        ],
    )
    def test_that_is_fine_is_taken_apart(self, url, host, path):
        target = egress.parse(url)

        assert (target.scheme, target.host, target.port, target.path) == ("https", host, 443, path)
        assert egress.parse(target.url) == target

    @given(st.text(max_size=60))
    def test_of_any_text_is_refused_or_has_one_spelling(self, text):
        try:
            target = egress.parse("https://" + text)
        except Refused:
            return
        assert target.url.isascii()
        assert egress.parse(target.url) == target


class TestTheList:
    @pytest.mark.parametrize(
        ("listed", "host", "admitted"),
        [
            ("example.org", "example.org", True),
            ("example.org", "www.example.org", False),
            ("*.example.org", "www.example.org", True),
            ("*.example.org", "a.b.example.org", True),
            ("*.example.org", "example.org", False),
            ("*.example.org", "badexample.org", False),
            ("*", "anything.example", True),
        ],
    )
    def test_admits_names_and_what_lies_below_a_star(self, listed, host, admitted):
        assert Rules.of({listed}).admit(host) is admitted

    def test_without_an_entry_admits_nobody(self):
        assert not Rules.of(()).admit("example.org")

    @pytest.mark.parametrize(
        "entry", ["", "*.", "*.*.org", "a*.org", "10.0.0.1", "localhost", "https://a.org"]
    )
    def test_takes_no_entry_that_is_no_name(self, entry):
        with pytest.raises(Refused):
            egress.host_pattern(entry)

    def test_writes_each_entry_in_its_one_spelling(self):
        assert egress.host_pattern("*.Bücher.example") == "*.xn--bcher-kva.example"

    def test_opens_plain_http_only_when_told(self):
        assert Rules.of(()).doors == {("https", 443)}
        assert Rules.of((), plain_http=True).doors == {("https", 443), ("http", 80)}
