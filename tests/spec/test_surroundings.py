"""What a policy may know about a call: where it goes, what its plan has read, and what is stopped."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.domain.plan import Call, CallState, Semantics
from tests.contract.workbench import ENFORCER, spec
from workers.gate import surroundings
from workers.gate.policy import Question
from workers.gate.stops import Stops, StopsUnreadableError, parsed, put
from workers.gate.surroundings import Known, classified, hosts, taint

POLICIES = Path(__file__).parents[2] / "policies"
UNREADABLE = [{"scheme": "", "host": "", "port": 0, "ip_class": "unreadable"}]


QUESTION = Question(
    agent="researcher",
    tool="look",
    server="witness",
    held=("documents.read",),
    required=("documents.read",),
    run_mode="any",
    tenant_id="acme",
    plan_id="p1",
    step=1,
    attempt=1,
    depth=1,
    args_digest="0" * 64,
    trace_id="t",
    profile_known=True,
)


class TestAHost:
    @pytest.mark.parametrize(
        ("host", "kind"),
        [
            ("example.org", "name"),
            ("xn--bcher-kva.example", "name"),
            ("a-b.c_d.example", "name"),
            ("localhost", "loopback"),
            ("db.localhost", "loopback"),
            ("metadata.google.internal", "metadata"),
            ("93.184.216.34", "public"),
            ("2606:2800:220:1::1", "public"),
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:169.254.169.254", "metadata"),
            ("169.254.169.254", "metadata"),
            ("fd00:ec2::254", "metadata"),
            ("169.254.1.1", "link_local"),
            ("fe80::1", "link_local"),
            ("10.0.0.1", "private"),
            ("172.16.0.1", "private"),
            ("192.168.1.1", "private"),
            ("fc00::1", "private"),
            ("0.0.0.0", "reserved"),  # noqa: S104 - not bound to
            ("100.64.0.1", "reserved"),
            ("192.0.0.8", "reserved"),
            ("192.88.99.1", "reserved"),
            ("198.18.0.1", "reserved"),
            ("224.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("64:ff9b::a9fe:a9fe", "reserved"),
            ("64:ff9b:1::1", "reserved"),
            ("2002:7f00:1::", "reserved"),
            ("2001::1", "reserved"),
            ("::7f00:1", "reserved"),
            ("fec0::1", "reserved"),
            ("3fff::1", "reserved"),
            ("5f00::1", "reserved"),
            ("ff02::1", "reserved"),
            ("0177.0.0.1", "unreadable"),
            ("2130706433", "unreadable"),
            ("0x7f.1", "unreadable"),
            ("127.1", "unreadable"),
            ("1.2.3.4.5", "unreadable"),
            ("example..org", "unreadable"),
            ("-a.example", "unreadable"),
            ("a" * 64 + ".org", "unreadable"),
            ("", "unreadable"),
        ],
    )
    def test_is_classified_by_what_it_is(self, host, kind):
        assert classified(host) == kind

    @pytest.mark.parametrize(
        "url",
        [
            "https://user@example.org/",
            "https://user:password@example.org/",
            "https://example.org@evil.net/",
            "https://example.org\\@evil.net/",
            "https:\\\\evil.net",
            "//evil.net/x",
            "ftp://example.org/",
            "file:///etc/passwd",
            "gopher://example.org",
            "http:example.org",
            "https://",
            "https://example.org:99999/",
            "https://exa mple.org/",
            "https://example.org\t/",
            "https://ⓔxample.org/",
            "https://bücher.example/",
            "https://[::1",
            "https://0x7f000001/",
        ],
    )
    def test_that_programs_may_read_differently_is_unreadable(self, url):
        assert hosts({"url": url}) == UNREADABLE

    def test_is_found_wherever_it_stands_in_the_arguments_and_once(self):
        found = hosts(
            {
                "url": "https://Example.org/a",
                "more": [{"deep": "http://example.org:8080"}, "https://example.org./b", "no address"],
                "n": 1,
            }
        )

        assert found == [
            {"scheme": "https", "host": "example.org", "port": 443, "ip_class": "name"},
            {"scheme": "http", "host": "example.org", "port": 8080, "ip_class": "name"},
        ]

    def test_is_unreadable_among_more_than_sixteen(self):
        assert len(hosts([f"https://h{n}.example" for n in range(16)])) == 16
        assert hosts([f"https://h{n}.example" for n in range(17)]) == UNREADABLE


def call(tool, state=CallState.DONE):
    return Call("p", 1, "k", 0, tool, Semantics.IDEMPOTENT, state, 1)


class TestTheLabelsOfAPlan:
    TOOLS = {  # noqa: RUF012 - constant
        "plain": spec("plain"),
        "secret": spec("secret", yields=("sensitive",)),
        "web": spec("web", capability="network.egress"),
    }

    def test_are_those_of_what_was_called(self):
        assert taint([], self.TOOLS) == []
        assert taint([call("plain")], self.TOOLS) == []
        assert taint([call("plain"), call("secret")], self.TOOLS) == ["sensitive"]
        assert taint([call("web"), call("secret"), call("web")], self.TOOLS) == ["sensitive", "untrusted"]

    @pytest.mark.parametrize("state", [s for s in CallState if s is not CallState.FAILED])
    def test_count_a_call_of_which_nobody_knows_the_answer(self, state):
        assert taint([call("web", state)], self.TOOLS) == ["untrusted"]

    def test_leave_out_what_failed_and_brought_nothing(self):
        assert taint([call("web", CallState.FAILED)], self.TOOLS) == []

    def test_are_the_worst_for_a_tool_that_nobody_knows_any_more(self):
        assert taint([call("gone")], self.TOOLS) == ["sensitive", "untrusted"]


class TestADescription:
    @staticmethod
    def of(tool, arguments=(), *, known=None, **rest):
        def untouched():
            raise AssertionError("nobody needs to know")

        asked = {"journal": untouched, "schema": untouched} | rest
        return surroundings.describe(
            known or Known(), tool, dict(arguments), tenant="acme", plan_id="p1", tools={}, **asked
        )

    def test_of_a_call_outside_names_the_lists_that_narrow_it(self):
        known = Known(egress=("*",), tenants={"acme": ("example.org",), "globex": ("*.globex.example",)})
        tool = spec("fetch_url", capability="network.egress")

        told = self.of(
            tool, {"url": "https://example.org"}, known=known, journal=list, agent_hosts=("*.arxiv.org",)
        )

        assert told["narrowed"] == [
            [{"host": "example.org", "below": False}],
            [{"host": "arxiv.org", "below": True}],
        ]

    @pytest.mark.parametrize("walled", [True, False])
    def test_of_a_call_that_runs_code_says_whether_the_walls_hold(self, walled):
        told = self.of(spec("code_run", capability="code.exec"), {}, known=Known(walled=lambda: walled))
        assert told["sandbox"] == ("enforced" if walled else "withheld")

    def test_of_a_plain_call_asks_nobody(self):
        assert self.of(spec("look"), {"url": "https://example.org"}) == {
            "stops": [],
            "hosts": [],
            "egress": [],
            "narrowed": [],
            "taint": [],
            "schema": {"pinned": "", "found": ""},
            "sandbox": "",
            "quota": {"calls": 0, "limit": -1},
        }

    @pytest.mark.parametrize("capability", sorted(surroundings.WAYS_OUT))
    def test_of_a_way_out_tells_what_the_plan_has_read(self, capability):
        told = self.of(spec("out", capability=capability), journal=lambda: [call("gone")])

        assert told["taint"] == ["sensitive", "untrusted"]

    def test_of_a_call_that_goes_out_tells_where_and_where_it_may(self):
        known = Known(egress=("example.org", "*.arxiv.org", "*"))
        told = self.of(
            spec("web", capability="network.egress"), {"url": "https://evil.net"}, known=known, journal=list
        )

        assert [host["host"] for host in told["hosts"]] == ["evil.net"]
        assert told["egress"] == [
            {"host": "example.org", "below": False},
            {"host": "arxiv.org", "below": True},
            {"host": "", "below": True},
        ]

    def test_of_a_limited_tool_counts_its_calls(self):
        told = self.of(spec("look", max_calls=3), journal=lambda: [call("look"), call("other"), call("look")])

        assert told["quota"] == {"calls": 2, "limit": 3}

    def test_of_a_pinned_tool_tells_what_it_is_now(self):
        told = self.of(spec("look", schema_sha256="a" * 64), schema=lambda: "b" * 64)

        assert told["schema"] == {"pinned": "a" * 64, "found": "b" * 64}


class TestAStop:
    @staticmethod
    def concerning(stops):
        return stops.of(tenant="acme", tool="look", plan_id="p1")

    def test_is_read_from_the_file_before_every_call(self, tmp_path):
        file = tmp_path / "stops.txt"
        file.write_text("# nothing yet\n", encoding="utf-8")
        stops = Stops(file)
        assert self.concerning(stops) == []

        put(
            file,
            {"tenant:acme": "under # investigation", "tool:other": "", "plan:p1": "in\ncircles", "all": ""},
        )
        assert self.concerning(stops) == ["all", "tenant:acme", "plan:p1"]
        assert stops.now()["plan:p1"] == "in circles"

        put(file, {})
        assert self.concerning(stops) == []

    @pytest.mark.parametrize("target", ["all", "tenant:acme", "tool:look", "plan:p1"])
    def test_concerns_a_call_by_its_target_alone(self, tmp_path, target):
        put(tmp_path / "stops", {target: "why", "tenant:acme2": "", "tool:loo": "", "plan:p": ""})

        assert self.concerning(Stops(tmp_path / "stops")) == [target]

    @pytest.mark.parametrize("text", ["stop", "tenant:", "ALL", "tenant acme", "plan:p1,all", "user:x"])
    def test_that_nobody_understands_stops_everything(self, tmp_path, text):
        (tmp_path / "stops").write_text(f"tool:other fine\n{text}\n", encoding="utf-8")

        with pytest.raises(StopsUnreadableError, match=r"Everything is stopped.*line 2"):
            self.concerning(Stops(tmp_path / "stops"))

    def test_that_cannot_be_read_stops_everything(self, tmp_path):
        (tmp_path / "bytes").write_bytes(b"\xff\xfe")

        for name in ("bytes", "missing", "."):
            with pytest.raises(StopsUnreadableError):
                self.concerning(Stops(tmp_path / name))

    def test_file_that_may_be_missing_stops_nothing_until_it_is_there(self, tmp_path):
        stops = Stops(tmp_path / "stops", may_be_missing=True)
        assert self.concerning(stops) == []

        put(tmp_path / "stops", {"all": ""})
        assert self.concerning(stops) == ["all"]
        (tmp_path / "stops").write_bytes(b"\xff")
        with pytest.raises(StopsUnreadableError):
            self.concerning(stops)
        (tmp_path / "stops").unlink()
        assert self.concerning(stops) == []

    def test_is_written_as_it_is_read(self):
        assert parsed("\n# x\nall  because\ntool:a_b-c\n") == {"all": "because", "tool:a_b-c": ""}


def test_the_ways_out_are_the_same_for_the_policy():
    source = (POLICIES / "calls.rego").read_text(encoding="utf-8")
    line = next(line for line in source.splitlines() if line.startswith("call_ways_out"))

    assert {word for word in line.replace('"', " ").split() if "." in word} == surroundings.WAYS_OUT


def test_a_description_is_what_the_policy_calls_well_formed():
    told = TestADescription.of(spec("look"))

    assert ENFORCER.judge(replace(QUESTION, call=told)).allow
    assert not ENFORCER.judge(replace(QUESTION, call={**told, "stops": ["all"]})).allow
    assert not ENFORCER.judge(replace(QUESTION, call={})).allow
    assert ENFORCER.judge(replace(QUESTION, narrowed_to=("documents.read",))).allow
    assert not ENFORCER.judge(replace(QUESTION, narrowed_to=())).allow
