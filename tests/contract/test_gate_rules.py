"""What stands against a call whatever its agent may do: it is stopped, pinned, limited, or could carry something out."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
from mcp.server.mcpserver import Context, MCPServer

from agents.toolbox import ToolResult
from orchestrator.domain.errors import Misconfigured
from orchestrator.domain.plan import Agent
from orchestrator.domain.stop import Stop
from orchestrator.ports import Hold
from tests.contract.bench import InMemoryBench
from tests.contract.workbench import opened, profile, spec
from workers.gate import reach
from workers.gate.gate import CallFailed, CallHeld, CallRefused
from workers.gate.stops import Stops, put
from workers.gate.surroundings import Known
from workers.toolhost.host import EGRESS_META, ToolHost
from workers.toolhost.registry import Registry

MAY = ("documents.read", "repo.write", "github.write", "network.egress", "code.exec")


@pytest.fixture
def work(sealer):
    bench = InMemoryBench()
    with opened(bench, sealer) as made:
        yield made
    bench.close()


def gate(work, *tools, **known):
    """A gate to agents that may do everything, over these tools of the witness."""
    return work.gate(
        registry=Registry({tool.name: tool for tool in tools}, work.tools.servers),
        profiles={agent: profile(agent, *MAY) for agent in Agent},
        known=Known(**known),
    )


class TestAStop:
    @pytest.mark.parametrize("target", ["all", "tenant:default", "tool:look", "plan:{plan}"])
    def test_holds_a_call_back_until_it_is_lifted(self, work, tmp_path, target):
        claimed = work.claim()
        put(tmp_path / "stops", {target.format(plan=claimed.ref.plan_id): "for a test"})
        guarded = gate(work, spec("look"), stops=Stops(tmp_path / "stops"))

        with pytest.raises(CallFailed) as failed:  # and not refused: its plan goes on afterwards
            guarded.call(claimed, "look", {}, occurrence=0)
        assert failed.value.reason == "stopped"
        assert work.witness.calls == []
        assert work.audit(claimed.ref.plan_id, "tool.intent") == []

        put(tmp_path / "stops", {"tenant:another": "", "tool:other": ""})
        assert isinstance(guarded.call(claimed, "look", {}, occurrence=0), ToolResult)

    def test_that_cannot_be_read_holds_every_call_back(self, work, tmp_path):
        claimed = work.claim()

        with pytest.raises(CallFailed, match="Everything is stopped") as failed:
            gate(work, spec("look"), stops=Stops(tmp_path / "gone")).call(claimed, "look", {}, occurrence=0)

        assert failed.value.reason == "stopped"
        assert work.witness.calls == []


class TestACallThatGoesOut:
    @pytest.mark.parametrize(
        "url",
        [
            "https://evil.net/",
            "https://example.org@evil.net/",
            "http://169.254.169.254/latest",
            "https://127.0.0.1/",
            "https://2130706433/",
            "file:///etc/passwd",
            "example.org",
        ],
    )
    def test_is_refused_where_the_list_does_not_lead(self, work, url):
        claimed = work.claim()
        guarded = gate(work, spec("look", capability="network.egress"), egress=("example.org",))

        with pytest.raises(CallRefused, match="egress_denied"):
            guarded.call(claimed, "look", {"about": url}, occurrence=0)

        assert work.witness.calls == []

    def test_waits_for_a_person_where_the_list_leads(self, work):
        guarded = gate(work, spec("look", capability="network.egress"), egress=("*.example.org",))

        with pytest.raises(CallHeld):
            guarded.call(work.claim(), "look", {"about": "https://www.example.org/x"}, occurrence=0)


class TestAPlanThatHasReadBoth:
    SECRET = spec("fetch", yields=("sensitive",))
    FOREIGN = spec("look", yields=("untrusted",))

    def test_carries_nothing_out_and_no_person_is_asked(self, work):
        claimed = work.claim()
        guarded = gate(work, self.SECRET, self.FOREIGN, spec("write", capability="repo.write"))
        with pytest.raises(CallHeld):  # what could be approved before
            guarded.call(claimed, "write", {}, occurrence=0)

        guarded.call(claimed, "fetch", {"locator": "x"}, occurrence=0)
        with pytest.raises(CallHeld):
            guarded.call(claimed, "write", {}, occurrence=0)
        guarded.call(claimed, "look", {}, occurrence=0)

        with pytest.raises(CallRefused, match=r"tainted_way_out repo\.write"):
            guarded.call(claimed, "write", {}, occurrence=0)
        assert "write" not in {tool for tool, *_ in work.witness.calls}

    def test_goes_on_reading(self, work):
        claimed = work.claim()
        guarded = gate(work, self.SECRET, self.FOREIGN)

        for n in range(2):
            guarded.call(claimed, "fetch", {"locator": str(n)}, occurrence=0)
            guarded.call(claimed, "look", {"about": str(n)}, occurrence=0)

        assert len(work.witness.calls) == 4

    def test_is_no_less_tainted_when_it_is_forked(self, work):
        claimed = work.claim()
        guarded = gate(work, self.SECRET, self.FOREIGN, spec("publish", capability="github.write"))
        guarded.call(claimed, "fetch", {"locator": "x"}, occurrence=0)
        guarded.call(claimed, "look", {}, occurrence=0)
        forked = work.conductor.fork(claimed.ref.plan_id, by="ada")

        again = work.claim(work.another(forked.plan_id))

        with pytest.raises(CallRefused, match=r"tainted_way_out github\.write"):
            guarded.call(again, "publish", {}, occurrence=0)

    def test_shares_nothing_with_another_plan(self, work):
        guarded = gate(work, self.SECRET, self.FOREIGN, spec("publish", capability="github.write"))
        claimed = work.claim()
        guarded.call(claimed, "fetch", {"locator": "x"}, occurrence=0)
        guarded.call(claimed, "look", {}, occurrence=0)

        assert isinstance(guarded.call(work.claim(), "publish", {}, occurrence=0), ToolResult)


class TestAPinnedTool:
    def test_is_called_while_it_describes_itself_as_it_did(self, work):
        pinned = spec("look", schema_sha256=work.host.schema(spec("look")))

        assert isinstance(gate(work, pinned).call(work.claim(), "look", {}, occurrence=0), ToolResult)

    def test_is_not_called_once_it_describes_itself_otherwise_and_says_how_to_pin_it(self, work):
        pinned = spec("look", schema_sha256="0" * 64)

        with pytest.raises(CallFailed, match=work.host.schema(spec("look"))) as failed:
            gate(work, pinned).call(work.claim(), "look", {}, occurrence=0)

        assert failed.value.reason == "schema_changed"
        assert work.witness.calls == []

    def test_is_not_called_once_its_server_does_not_have_it(self, work):
        gone = replace(spec("look", schema_sha256="0" * 64), name="gone")

        with pytest.raises(CallFailed, match="nothing"):
            gate(work, gone).call(work.claim(), "gone", {}, occurrence=0)

    def test_differs_from_every_other(self, work):
        digests = [work.host.schema(spec(name)) for name in ("look", "fetch", "send_once")]

        assert len(set(digests)) == 3
        assert all(len(digest) == 64 for digest in digests)
        assert digests[0] == work.host.schema(spec("look"))


class TestALimitedTool:
    def test_is_called_as_often_as_it_may_be_by_each_plan(self, work):
        guarded = gate(work, spec("look", max_calls=2), spec("fetch"))
        for _ in range(2):
            claimed = work.claim()
            for n in range(2):
                guarded.call(claimed, "look", {"about": str(n)}, occurrence=0)
            with pytest.raises(CallRefused, match="quota_spent"):
                guarded.call(claimed, "look", {"about": "more"}, occurrence=0)
            guarded.call(claimed, "look", {"about": "0"}, occurrence=0)  # from the journal, for nothing
            guarded.call(claimed, "fetch", {"locator": "x"}, occurrence=0)
        assert [tool for tool, *_ in work.witness.calls].count("look") == 4


class TestCode:
    """Is run behind walls that hold, or not at all, whoever offers the tool."""

    @pytest.mark.parametrize("walled", [True, False])
    def test_is_run_only_where_the_sandbox_is_enforced(self, work, walled):
        claimed = work.claim()
        guarded = gate(work, spec("look", capability="code.exec"), walled=lambda: walled)

        if walled:
            assert isinstance(guarded.call(claimed, "look", {}, occurrence=0), ToolResult)
            return
        with pytest.raises(CallRefused, match=r"sandbox_unenforced code\.exec"):
            guarded.call(claimed, "look", {}, occurrence=0)
        assert work.witness.calls == []
        assert work.audit(claimed.ref.plan_id, "tool.intent") == []


class TestTheHostsOfTenants:
    def test_are_read_from_the_file_that_names_them(self, tmp_path):
        (tmp_path / "egress.yaml").write_text(
            "tenants:\n  acme: [example.org, '*.arxiv.org']\n  globex: []\n"
        )
        assert reach.load(tmp_path / "egress.yaml") == {
            "acme": ("example.org", "*.arxiv.org"),
            "globex": (),
        }

    def test_of_the_product_narrow_nobody(self):
        assert reach.load() == {}

    @pytest.mark.parametrize(
        "text",
        [
            "", "tenants", "tenants: []", "tenants: {acme: example.org}", "tenants: {acme: ['http://example.org']}",
            "tenants: {acme: ['*']}", "tenants: {acme: [10.0.0.1]}", "tenants: {'a b': []}", "hosts: {}",
            "tenants: {acme: []}\ntenants: {}", "tenants: {acme: [EXAMPLE.org]}", "{",
        ],
    )  # fmt: skip
    def test_that_are_not_valid_are_refused_as_a_whole(self, tmp_path, text):
        (tmp_path / "egress.yaml").write_text(text)
        with pytest.raises(Misconfigured, match=r"egress\.yaml"):
            reach.load(tmp_path / "egress.yaml")

    def test_hold_a_call_back_that_is_on_the_list_of_all(self, work):
        claimed = work.claim()
        tool = spec("look", capability="network.egress")
        guarded = gate(work, tool, egress=("*",), tenants={"default": ("example.org",)})

        with pytest.raises(CallRefused, match=r"egress_denied elsewhere\.example"):
            guarded.call(claimed, "look", {"url": "https://elsewhere.example/"}, occurrence=0)
        assert work.witness.calls == []


class Reaching:
    """A tool host that remembers which hosts were left to each call."""

    def __init__(self, host):
        self._host = host
        self.reach = []

    def call(self, tool, arguments, *, reach, **rest):
        self.reach.append([list(hosts) for hosts in reach])
        return self._host.call(tool, arguments, reach=reach, **rest)

    def __getattr__(self, name):
        return getattr(self._host, name)


class TestTheHostsThatAreLeft:
    def test_to_tenant_and_agent_go_with_the_call_for_every_hop_of_it(self, work):
        host = Reaching(work.host)
        reader = replace(profile(Agent.RESEARCHER, *MAY), egress_hosts=("www.example.org", "example.net"))
        guarded = work.gate(
            host=host,
            profiles={Agent.RESEARCHER: reader},
            known=Known(egress=("*",), tenants={"default": ("*.example.org",), "another": ()}),
        )

        guarded.call(work.claim(), "look", {}, occurrence=0)

        assert host.reach == [[["*.example.org"], ["www.example.org", "example.net"]]]

    def test_are_none_for_a_call_that_does_not_say(self, work):
        seen = []
        server = MCPServer(name="witness", log_level="CRITICAL")

        @server.tool()
        def look(context: Context) -> dict[str, object]:
            seen.append(context.request_context.meta[EGRESS_META])
            return {}

        host = ToolHost(work.tools, {"documents": lambda: server})
        host.call(work.tools.tools["look"], {}, timeout_s=5, key="k")
        host.close()

        assert seen == [[[]]]  # one list, and no host on it


class TestAStopOfTheWholeFleet:
    def put(self, work, *stops):
        with work.store.transaction() as tx:
            for stop in stops:
                tx.put_stop(stop)

    @pytest.mark.parametrize("tenant", ["", "default"])
    @pytest.mark.parametrize(
        "target", ["all", "tenant:default", "tool:look", "agent:researcher", "plan:{plan}"]
    )
    def test_holds_a_call_back_until_it_is_lifted(self, work, target, tenant):
        claimed = work.claim()
        target = target.format(plan=claimed.ref.plan_id)
        self.put(work, Stop(target, "for a test", tenant, "ops"))
        guarded = gate(work, spec("look"))

        with pytest.raises(CallFailed) as failed:
            guarded.call(claimed, "look", {}, occurrence=0)
        assert failed.value.reason == "stopped"
        assert target in failed.value.detail
        assert work.witness.calls == []
        assert work.audit(claimed.ref.plan_id, "tool.intent") == []

        with work.store.transaction() as tx:
            assert tx.remove_stop(tenant, target)
        assert isinstance(guarded.call(claimed, "look", {}, occurrence=0), ToolResult)

    @pytest.mark.parametrize(
        "stop",
        [
            Stop("all", "", "another"), Stop("tool:look", "", "another"), Stop("tool:other", ""), Stop("agent:coder", ""),
            Stop("tenant:another", ""), Stop("plan:another", ""),
        ],
    )  # fmt: skip
    def test_of_something_else_holds_nothing_back(self, work, stop):
        self.put(work, stop)
        assert gate(work, spec("look")).call(work.claim(), "look", {}, occurrence=0)

    def test_adds_to_what_the_file_of_the_machine_stops(self, work, tmp_path):
        put(tmp_path / "stops", {"tool:look": "here"})
        self.put(work, Stop("agent:researcher", "everywhere"))
        guarded = gate(work, spec("look"), stops=Stops(tmp_path / "stops"))

        with pytest.raises(CallFailed, match=r"agent:researcher.*tool:look"):
            guarded.call(work.claim(), "look", {}, occurrence=0)

    def test_that_came_while_a_call_waited_for_its_turn_holds_it_back(self, work):
        claimed = work.claim()
        guarded = gate(work, spec("drill", exclusive=True))

        class Late:
            @contextmanager
            def hold(inner, *_, **__):  # noqa: N805
                self.put(work, Stop("tool:drill", "meanwhile"))
                yield Hold.THEIRS

        guarded._locks = Late()
        with pytest.raises(CallFailed, match="stopped"):
            guarded.call(claimed, "drill", {}, occurrence=0)
        assert work.witness.calls == []
