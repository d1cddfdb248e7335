"""The registry and its servers: what a server lacks is an error, and a file that changes is taken up whole or not at all."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
import structlog
from mcp.server.mcpserver import MCPServer

from orchestrator.domain.errors import Misconfigured
from orchestrator.settings import load as load_settings
from tests.contract.workbench import Workbench, eventually
from tests.spec.test_prompts import rewrite
from workers import wiring
from workers.gate.gate import CallRefused
from workers.toolhost import live, registry
from workers.toolhost.host import ToolFailure, ToolHost
from workers.toolhost.registry import RegistryError

REGISTRY = """
items:
{items}
servers:
  ours: {{builtin: documents}}
  theirs: {{builtin: {theirs}}}
"""
ITEM = "  {name}: {{server: {server}, capability: documents.read, semantics: idempotent, timeout_s: 5, keywords: [{word}]}}"


def text(*items, theirs="web"):
    lines = [ITEM.format(name=name, server=server, word=name) for name, server in items]
    return REGISTRY.format(items="\n".join(lines), theirs=theirs)


def server(*names):
    def build():
        made = MCPServer(name="s", log_level="CRITICAL")
        for name in names:
            made.add_tool(lambda name=name: {"said": name}, name=name)
        return made

    return build


BUILTINS = {"documents": server("look", "listen"), "web": server("fetch"), "model": server("complete")}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tools.yaml"
    path.write_text(text(("look", "ours"), ("fetch", "theirs")), encoding="utf-8")
    return path


@pytest.fixture
def said():
    with structlog.testing.capture_logs() as lines:
        yield lines


@contextmanager
def hosting(path, **builtins):
    tools = registry.load(path)
    host = ToolHost(tools, {**BUILTINS, **builtins})
    try:
        yield tools, host
    finally:
        host.close()


class TestB41ARegistryAtTheStart:
    def test_b41_that_names_a_tool_its_server_lacks_is_refused_naming_both(self, file):
        file.write_text(text(("look", "ours"), ("smell", "ours"), ("fetch", "theirs")))
        with (
            hosting(file) as (tools, host),
            pytest.raises(RegistryError, match="the server ours does not offer smell"),
        ):
            live.check(tools, host)

    def test_b41_is_told_which_tools_of_a_server_nobody_can_call(self, file, said):
        with hosting(file) as (tools, host):
            live.check(tools, host)
        unlisted = [line for line in said if line["event"] == "registry.unlisted"]
        assert [(line["server"], line["tools"]) for line in unlisted] == [("ours", ["listen"])]

    def test_b41_starts_though_a_server_is_away_and_says_so(self, file, said):
        file.write_text(file.read_text().replace("{builtin: web}", "{command: [no-such-program-anywhere]}"))
        with hosting(file) as (tools, host):
            live.check(tools, host)
        assert [line["server"] for line in said if line["event"] == "registry.unanswered"] == ["theirs"]

    @pytest.mark.parametrize("wrong", ["items: [", text(("look", "nobody")), text(("smell", "ours"))])
    def test_b41_that_is_wrong_keeps_a_process_that_runs_steps_from_starting(self, file, opened, wrong):
        file.write_text(wrong)
        with pytest.raises(Misconfigured, match="tool registry"):
            wiring.Hands(opened(tool_registry_file=str(file)), builtins=BUILTINS)


class TestB15ARegistryThatChanges:
    @pytest.fixture
    def watching(self, bench, sealer, file):
        work = Workbench(bench, sealer)
        tools = registry.load(file)
        host = ToolHost(tools, BUILTINS)
        gate = work.gate(registry=tools, host=host)
        watch = live.RegistryWatch(
            file,
            tools,
            offered=lambda new: new,
            trial=lambda new: ToolHost(new, BUILTINS),
            holders=(host, gate),
        )
        yield watch, work, gate
        host.close()
        work.close()

    def test_b15_is_in_force_from_the_next_call_on(self, watching, file, said):
        watch, work, gate = watching
        claimed = work.claim()
        assert not watch.look()
        with pytest.raises(CallRefused, match="There is no tool listen"):
            gate.call(claimed, "listen", {}, occurrence=0)

        rewrite(file, text(("look", "ours"), ("listen", "ours"), ("fetch", "theirs")))

        assert watch.look()
        assert gate.call(claimed, "listen", {}, occurrence=0).content == {"said": "listen"}
        assert [card.name for card in gate.cards("researcher")] == ["look", "listen", "fetch"]
        assert [line["tools"] for line in said if line["event"] == "registry.reloaded"] == [
            ["fetch", "listen", "look"]
        ]
        assert not watch.look()

    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ("items: [", "not valid YAML"),
            (text(("look", "nobody")), "not in servers"),
            (text(("look", "ours"), ("smell", "ours")), "the server ours does not offer smell"),
        ],
    )
    def test_b15_to_what_does_not_hold_leaves_what_was_and_says_so_loudly_and_once(
        self, watching, file, said, wrong, told
    ):
        watch, work, gate = watching

        rewrite(file, wrong)

        assert not watch.look()
        assert not watch.look()
        refused = [line for line in said if line["event"] == "registry.refused"]
        assert [line["log_level"] for line in refused] == ["error"]
        assert told in refused[0]["error"]
        assert gate.call(work.claim(), "look", {}, occurrence=0).content == {"said": "look"}

    def test_b15_lets_go_of_a_tool_and_of_a_server_that_it_does_not_name_any_more(self, watching, file):
        watch, work, gate = watching
        claimed = work.claim()
        gate.call(claimed, "fetch", {}, occurrence=0)

        rewrite(file, text(("look", "ours"), ("complete", "theirs"), theirs="model"))

        assert watch.look()
        with pytest.raises(CallRefused, match="There is no tool fetch"):
            gate.call(claimed, "fetch", {}, occurrence=1)
        assert gate.call(claimed, "complete", {}, occurrence=0).content == {"said": "complete"}

    def test_b15_in_the_middle_of_a_call_lets_that_call_end(self, file):
        inside, go_on = threading.Event(), threading.Event()

        def slow():
            made = MCPServer(name="slow", log_level="CRITICAL")

            @made.tool()
            def fetch() -> dict[str, str]:
                inside.set()
                go_on.wait(60)
                return {"said": "at last"}

            return made

        with hosting(file, web=slow) as (tools, host):
            answers = []
            call = threading.Thread(
                target=lambda: answers.append(host.call(tools.tools["fetch"], {}, timeout_s=60, key="k"))
            )
            call.start()
            assert inside.wait(60)
            file.write_text(text(("look", "ours")))
            host.use(registry.load(file))
            go_on.set()
            call.join(60)

            assert answers == [{"said": "at last"}]
            assert host.tools("ours") == ["look", "listen"]

    def test_b15_while_a_tool_is_called_whose_server_is_gone_is_a_failed_call(self, file):
        with hosting(file) as (tools, host):
            file.write_text(text(("look", "ours")).replace("  theirs: {builtin: web}\n", ""))
            host.use(registry.load(file))
            with pytest.raises(ToolFailure, match="no tool server theirs"):
                host.call(tools.tools["fetch"], {}, timeout_s=5, key="k")

    def test_b15_is_noticed_by_a_worker_that_runs(self, opened, file, said):
        hands = wiring.Hands(opened(tool_registry_file=str(file), tools_look_s=0.05), builtins=BUILTINS)
        try:
            rewrite(file, text(("look", "ours"), ("listen", "ours"), ("fetch", "theirs")))
            assert eventually(lambda: any(line["event"] == "registry.reloaded" for line in said))
        finally:
            hands.close()


@pytest.fixture
def bench():
    from tests.contract.bench import InMemoryBench

    made = InMemoryBench()
    yield made
    made.close()


@pytest.fixture
def opened(dsn, tmp_path):
    """What `wiring.core` opens, with settings of one's own."""
    from contextlib import ExitStack

    from orchestrator import wiring as core_wiring

    with ExitStack() as stack:

        def open_with(**settings):
            chosen = load_settings(
                environment={}, database_url=dsn, data_dir=str(tmp_path), egress_hosts="a.example", **settings
            )
            return stack.enter_context(core_wiring.core(chosen))

        yield open_with
