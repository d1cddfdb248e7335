"""The tool that fetches pages: what it returns, what it says when it does not, and where it is not offered."""

import ssl
from dataclasses import replace

import anyio
import pytest
from mcp import Client

from orchestrator import settings
from orchestrator.domain.errors import Misconfigured
from orchestrator.domain.plan import Evidence
from tests.contract.bench import InMemoryBench
from tests.contract.test_egress import Authority, answer, redirect, site
from tests.contract.workbench import ROOT, opened, spec
from workers.gate.gate import CallRefused, _as_evidence
from workers.toolhost import offer, registry, web
from workers.toolhost.egress import Guard, Rules
from workers.toolhost.host import EGRESS_META, TENANT_META

HTML = b"""<!doctype html><html><head><title>Whales</title><script>evil()</script></head>
<body><nav>menu</nav><h1>Whales</h1><p>Blue whales eat <b>krill</b>.</p></body></html>"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def page(authority):
    with site(authority.serves("site.example")) as made:
        yield made


@pytest.fixture
def server(page, authority):
    rules = Rules(frozenset({"site.example"}), frozenset({("https", page.port)}))
    return web.build(
        Guard(
            rules,
            resolver=lambda host, port: ["127.0.0.1"],
            also=lambda address: address.is_loopback,
            tls=authority.trusted,
        )
    )


def fetch(server, url, **meta):
    async def call():
        async with Client(server) as client:
            return await client.call_tool("fetch_url", {"url": url}, meta=meta or {EGRESS_META: []})

    return anyio.run(call)


def chosen(**changes):
    return settings.load(environment={}, **changes)


class TestFetchUrl:
    def test_returns_the_text_of_a_page_as_evidence_that_can_be_quoted(self, server, page):
        answers = iter([redirect("/whales"), answer(HTML, Content_Type="text/html")])
        page.answer = lambda connection, *_: connection.sendall(next(answers))

        result = fetch(server, f"https://site.example:{page.port}/").structured_content

        assert result["locator"] == f"https://site.example:{page.port}/whales"
        assert (result["title"], result["media_type"]) == ("Whales", "text/html")
        assert "Blue whales eat krill." in result["text"]
        assert "evil" not in result["text"]
        assert "1 redirect" in result["note"]
        evidence, kept = _as_evidence(spec("fetch_url"), result)
        assert evidence == Evidence.of(
            result["text"],
            locator=result["locator"],
            title="Whales",
            media_type="text/html",
            origin=result["sha256"],
        )
        assert evidence.sha256 == result["text_sha256"]
        assert "text" not in kept

    @pytest.mark.parametrize(
        ("media_type", "body"),
        [
            ("text/plain", b"Krill is eaten.\n"),
            ("application/json", b'{"krill": true}'),
            ("application/xhtml+xml", b"<html><body><p>krill</p></body></html>"),
        ],
    )
    def test_reads_every_kind_of_text(self, server, page, media_type, body):
        page.answer = answer(body, Content_Type=media_type)
        assert "rill" in fetch(server, f"https://site.example:{page.port}/").structured_content["text"]

    @pytest.mark.parametrize(
        ("body", "media_type", "said"),
        [
            (b"", "text/plain", "nothing in it"),
            (b"\x89PNG\r\n\x1a\n\x00\x00", "text/plain", "an image"),
            (b"%PDF-1.7 broken", "application/pdf", "No text can be made"),
        ],
    )
    def test_says_when_there_is_no_text_in_a_page(self, server, page, body, media_type, said):
        page.answer = answer(body, Content_Type=media_type)

        result = fetch(server, f"https://site.example:{page.port}/")

        assert result.is_error
        assert said in result.content[0].text

    @pytest.mark.parametrize("url", ["https://127.0.0.1/", "http://site.example/", "https://evil.example/"])
    def test_says_why_a_page_is_not_fetched(self, server, page, url):
        result = fetch(server, url)

        assert result.is_error
        assert page.asked == []

    def test_asks_no_host_beyond_those_that_are_left_to_the_call(self, server, page):
        result = fetch(
            server, f"https://site.example:{page.port}/", **{EGRESS_META: [["*"], ["other.example"]]}
        )

        assert result.is_error
        assert "site.example is not among those left to this call" in result.content[0].text
        assert page.asked == []

    @pytest.mark.parametrize("told", [{TENANT_META: "acme"}, {EGRESS_META: "*"}, {EGRESS_META: ["*"]}])
    def test_asks_nobody_where_it_is_not_told_which_hosts_are_left(self, server, page, told):
        result = fetch(server, f"https://site.example:{page.port}/", **told)

        assert result.is_error
        assert "Nobody said which hosts" in result.content[0].text
        assert page.asked == []


class TestTheToolsOffered:
    STOCK = registry.load(ROOT / "configs" / "tool_registry.yaml")

    def test_do_not_include_the_web_unless_hosts_are_named(self):
        without = offer.offered(self.STOCK, chosen())
        with_hosts = offer.offered(self.STOCK, chosen(egress_hosts="example.org, *.example.com"))

        assert ("fetch_url" in without.tools, "fetch_url" in with_hosts.tools) == (False, True)
        assert without.withheld["fetch_url"] == offer.NO_HOSTS
        assert "fetch_url" not in with_hosts.withheld

    def test_that_are_withheld_are_refused_by_the_gate_with_the_reason(self, sealer):
        bench = InMemoryBench()
        with opened(bench, sealer) as work:
            work.tools = replace(work.tools, withheld={"fetch_url": offer.NO_HOSTS})
            claimed = work.claim()

            with pytest.raises(CallRefused) as refused:
                work.gate().call(claimed, "fetch_url", {"url": "https://example.org/"}, occurrence=0)

            assert refused.value.reason == "tool_withheld"
            assert offer.NO_HOSTS in refused.value.detail
            assert work.witness.calls == []
        bench.close()


class TestTheSettingOfHosts:
    @pytest.mark.parametrize("hosts", ["", "example.org", "*.example.org,xn--bcher-kva.example", "*"])
    def test_takes_names(self, hosts):
        assert chosen(egress_hosts=hosts).hosts == tuple(hosts.split(",") if hosts else ())

    @pytest.mark.parametrize(
        "hosts",
        [
            "127.0.0.1",
            "localhost",
            "https://example.org",
            "a*.org",
            "Example.org",
            "example.org:443",
            "[::1]",
        ],
    )
    def test_takes_nothing_else(self, hosts):
        with pytest.raises(Misconfigured, match="egress_hosts"):
            chosen(egress_hosts=hosts)


def test_the_certificates_of_this_test_are_trusted_by_nobody_else(page, authority):
    public = ssl.create_default_context()
    assert authority.trusted().get_ca_certs() != public.get_ca_certs()
