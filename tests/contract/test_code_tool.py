"""The tool that runs scripts: what it returns as evidence, what a script can not reach, and that it is withheld elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import venv
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer

from agents import coder, profiles
from agents.toolbox import CallFailed
from orchestrator import chains
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, CallState, Fact, StepState
from scripts import services
from tests.contract.bench import InMemoryBench
from tests.contract.workbench import ROOT, opened, spec
from workers.gate.gate import CallHeld, CallRefused
from workers.gate.surroundings import Known
from workers.toolhost import code, registry
from workers.toolhost.host import ToolHost
from workers.toolhost.sandbox import Limits, Sandbox, SandboxUnavailable, Verdict

FIRST_UID = 64720
WALLED = Known(walled=lambda: True)
STOCK = registry.load(ROOT / "configs" / "tool_registry.yaml")


@pytest.fixture(scope="module")
def box():
    """The real sandbox, or one that cannot be built: then what is tested is that code is withheld."""
    bwrap = "/nowhere/bwrap"
    with contextlib.suppress(services.ServiceMissing):
        bwrap = services.bubblewrap()
    return Sandbox(bwrap=bwrap, first_uid=FIRST_UID)


@pytest.fixture(scope="module")
def here(box):
    return box.try_on_itself([])


@pytest.fixture
def server(box, here):
    if not here.enforced:
        pytest.skip(f"no sandbox can be built here: {here.reason}")
    return code.build(box, lambda: here)


def call(server, tool="code_run", **arguments):
    async def ask():
        async with Client(server) as client:
            return await client.call_tool(tool, arguments)

    result = anyio.run(ask)
    return result.content[0].text if result.is_error else result.structured_content


class TestAScript:
    SCRIPT = "import json\nprint('sum =', sum(json.load(open('/in/numbers.json'))))\nprint(open('/in/t.csv').read())"

    def test_leaves_what_it_printed_and_what_made_it(self, server):
        inputs = {"numbers.json": [1, 2.5], "t.csv": "a,b\n1,ü"}

        found = call(server, script=self.SCRIPT, inputs=inputs)

        assert found["text"][: found["printed"]] == "sum = 3.5\na,b\n1,ü"
        assert found["text"].splitlines()[4:6] == [
            code.PARTING,
            f"script, sha256 {hashlib.sha256(self.SCRIPT.encode()).hexdigest()}:",
        ]
        csv = hashlib.sha256(inputs["t.csv"].encode()).hexdigest()
        assert found["text"].splitlines()[-5:] == [
            f"input numbers.json, 8 bytes, sha256 {found['inputs_sha256']['numbers.json']}:",
            "    [1, 2.5]",
            f"input t.csv, 8 bytes, sha256 {csv}:",
            "    a,b",
            "    1,ü",
        ]
        assert found["inputs_sha256"]["t.csv"] == csv
        assert found["locator"].startswith("computed:")
        assert call(server, script=self.SCRIPT, inputs={**inputs, "t.csv": ""})["locator"] != found["locator"]

    def test_shows_no_more_of_an_input_than_a_reader_would_read(self, server):
        found = call(server, script="print(1)", inputs={"t.csv": "é" * 90_000})

        assert len(found["text"]) < 5_000
        assert found["text"].endswith("the whole of it is in the journal of the plan")

    def test_prints_the_same_whenever_it_runs(self, server):
        script = "import random\nprint(random.random(), hash('a'), list({'a', 'b', 'c', 'd'}))"

        assert call(server, script=script) == call(server, script=script)

    @pytest.mark.parametrize(
        ("script", "says"),
        [
            ("1/0", "ZeroDivisionError"),
            ("print(", "is not Python"),
            ("", "1 to 20,000 characters"),
            ("#" * 20_001, "1 to 20,000 characters"),
            ("pass", "printed nothing"),
            ("print('\\n' * 9)", "printed nothing"),
            ("while True: print('x' * 999)", "too much"),
            ("while True: pass", "too l"),
            ("import sys; sys.exit('no')", "no"),
        ],
    )
    def test_that_does_not_end_well_is_an_error(self, box, here, server, script, says):
        quick = code.build(box, lambda: here, limits=Limits(wall_s=20.0, cpu_s=1))

        assert says in call(quick, script=script)

    @pytest.mark.parametrize(
        "inputs", [{"../x": ""}, {"task.py": ""}, {"script.py": ""}, {"": ""}, {"a.csv": 5}, {f"{n}.csv": "" for n in range(21)}]
    )  # fmt: skip
    def test_is_not_given_inputs_by_names_that_are_none(self, server, inputs):
        assert isinstance(call(server, script="print(1)", inputs=inputs), str)

    def test_prints_nothing_that_a_terminal_obeys(self, server):
        found = call(server, script="print('a\\x1b[31m\\x00b')")

        assert found["text"].startswith("a\ufffd[31m\ufffdb\n")

    def test_can_ask_what_it_may_import(self, server):
        assert call(server, "code_libraries")["text"].splitlines()[0].startswith("python = 3.")

    def test_b31_finds_no_secret_no_network_and_no_file_of_the_machine(self, server, monkeypatch):
        monkeypatch.setenv("ORCHESTRATOR_MODEL_KEY", "planted-secret-5d1")
        script = """
import os
print("environment", sorted(v for v in os.environ.values() if "planted" in v))
for path in ("/etc/passwd", "/proc/self/environ", "REPOSITORY"):
    try:
        print("reached", path, os.stat(path))
    except OSError:
        print("nothing at", path)
try:
    import socket
    socket.create_connection(("127.0.0.1", 22), 1)
    print("reached the network")
except OSError:
    print("no network")
try:
    os.system("true") == 0 and print("ran a program")
except OSError:
    pass
print("done")
"""

        printed = call(server, script=script.replace("REPOSITORY", str(ROOT)))
        printed = printed["text"][: printed["printed"]].replace(str(ROOT), "the repository")

        assert printed.splitlines() == [
            "environment []",
            "nothing at /etc/passwd",
            "nothing at /proc/self/environ",
            "nothing at the repository",
            "no network",
            "done",
        ]


class TestAnEnvironmentForScripts:
    @pytest.fixture
    def python(self):
        """The interpreter of an environment with one package, where everybody can read it."""
        folder = Path(tempfile.mkdtemp(prefix="orc-analysis-", dir="/var/tmp"))
        folder.chmod(0o755)
        venv.EnvBuilder(with_pip=False, symlinks=True).create(folder / "env")
        (packages,) = (folder / "env").glob("lib/python*/site-packages")
        (packages / "pandas").mkdir()
        (packages / "pandas" / "__init__.py").write_text("def total(numbers):\n    return sum(numbers)\n")
        (packages / "pandas-9.9.dist-info").mkdir()
        (packages / "pandas-9.9.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: pandas\nVersion: 9.9\n"
        )
        yield str(folder / "env" / "bin" / "python")
        shutil.rmtree(folder)

    def test_is_what_a_script_can_import_and_nothing_of_it_can_be_changed(self, box, here, server, python):
        made = code.build(Sandbox(python=python, bwrap=box._bwrap, first_uid=FIRST_UID), lambda: here)

        assert "pandas = 9.9" in call(made, "code_libraries")["text"].splitlines()
        found = call(made, script="import pandas\nprint('sum =', pandas.total([1, 2]))")
        assert found["text"].startswith("sum = 3\n")
        changed = "import pandas\nopen(pandas.__file__, 'a')"
        assert "Read-only" in call(made, script=changed) or "Permission" in call(made, script=changed)

    def test_below_the_folder_that_the_sandbox_makes_anew_is_refused_with_what_to_do(self, box, tmp_path):
        home = Path("/tmp") / tmp_path.name
        venv.EnvBuilder(with_pip=False, symlinks=True).create(home)
        try:
            with pytest.raises(SandboxUnavailable, match="Set sandbox_python to one elsewhere"):
                Sandbox(python=str(home / "bin" / "python"), bwrap=box._bwrap, first_uid=FIRST_UID).run("")
        finally:
            shutil.rmtree(home)


class TestWhereTheSandboxDoesNotHold:
    VERDICT = Verdict(False, "These attacks got out: writes.", "Mend the kernel.")

    def test_no_script_is_run_and_the_call_says_why(self, box):
        class Never(Sandbox):
            def run(self, *_, **__):
                raise AssertionError("it ran")

        server = code.build(Never(bwrap="/nowhere"), lambda: self.VERDICT)

        for tool, arguments in (("code_run", {"script": "print(1)"}), ("code_libraries", {})):
            assert "code.exec is withheld: These attacks got out: writes. Mend the kernel." in call(
                server, tool, **arguments
            )

    def test_a_sandbox_that_breaks_meanwhile_is_an_error_too(self):
        server = code.build(Sandbox(bwrap="", first_uid=FIRST_UID), lambda: Verdict(True))
        broken = code.build(Sandbox(bwrap="/nowhere/bwrap", first_uid=FIRST_UID), lambda: Verdict(True))

        assert "could not be started" in call(broken, script="print(1)")
        assert isinstance(call(server, script="print(1)"), dict | str)


class FactsFirst:
    """A researcher who finds two facts, in a document that is fetched."""

    TEXT = "# Akrotiri\ntotal: 123 sq km\n# Dhekelia\ntotal: 131 sq km"

    def __call__(self, assignment, toolbox):
        evidence = toolbox.call("fetch", locator="areas.md").evidence
        facts = []
        for title, quote in (("Akrotiri", "total: 123 sq km"), ("Dhekelia", "total: 131 sq km")):
            start = self.TEXT.index(quote)
            facts.append(
                Fact(
                    step=assignment.step,
                    number=len(facts) + 1,
                    quote=quote,
                    evidence=evidence,
                    start=start,
                    end=start + len(quote),
                    locator="areas.md",
                    title=title,
                    heading=(title, "Area"),
                    question=str(assignment.brief["question"]),
                )
            )
        return Completed("found", facts=facts)


class Told:
    """A researcher who is told two facts, without a call."""

    QUESTION = "Which of Akrotiri and Dhekelia has the largest total area?"

    def __call__(self, assignment, toolbox):
        text = FactsFirst.TEXT
        facts = [
            Fact(
                step=assignment.step, number=number, quote=quote, evidence="0" * 64, start=text.index(quote),
                end=text.index(quote) + len(quote), locator="x", title=title, heading=(title, "Area"), question=title,
            )
            for number, (title, quote) in enumerate(
                (("Akrotiri", "total: 123 sq km"), ("Dhekelia", "total: 131 sq km")), 1
            )
        ]  # fmt: skip
        return Completed("found", facts=facts)


def documents():
    made = MCPServer(name="documents", log_level="CRITICAL")

    @made.tool()
    def fetch(locator: str) -> dict[str, str]:
        return {"text": FactsFirst.TEXT, "locator": locator, "title": "Areas", "media_type": "text/markdown"}

    return made


@pytest.fixture
def work(sealer):
    with opened(InMemoryBench(), sealer) as made:
        yield made


class TestBehindTheGate:
    def gate(self, work, made):
        work.tools = STOCK
        host = ToolHost(STOCK, {"code": made})
        return work.gate(profiles=profiles.load(ROOT / "agents"), host=host, known=WALLED), host

    def test_b31_a_script_is_journalled_with_its_inputs_and_its_output_is_evidence(self, work, server):
        gate, host = self.gate(work, lambda: server)
        claimed = work.claim(agent=Agent.CODER)
        arguments = {"script": "print('sum = 3')", "inputs": {"n.json": [1, 2]}}

        try:
            result = gate.call(claimed, "code_run", arguments, occurrence=0)
            again = gate.call(claimed, "code_run", arguments, occurrence=0)
        finally:
            host.close()

        (made,) = work.rows("calls", claimed.ref.plan_id)
        assert (made.state, made.tool) == (CallState.DONE, "code_run")
        assert again.content == result.content
        evidence = work.rows("evidence", claimed.plan.tenant, result.evidence)
        assert evidence.text.startswith("sum = 3\n")
        assert "print('sum = 3')" in evidence.text
        assert evidence.locator == result.content["locator"]

    def test_b30_a_script_that_fails_leaves_nothing_that_could_be_quoted(self, work, server):
        gate, host = self.gate(work, lambda: server)
        claimed = work.claim(agent=Agent.CODER)

        try:
            with pytest.raises(CallFailed, match="ZeroDivisionError") as failed:
                gate.call(claimed, "code_run", {"script": "print('x = 5')\n1/0"}, occurrence=0)
        finally:
            host.close()

        assert failed.value.reason == "tool_error"
        (made,) = work.rows("calls", claimed.ref.plan_id)
        assert (made.state, made.evidence) == (CallState.FAILED, None)

    def test_b30_no_agent_but_the_code_generator_may_run_one(self, work, server):
        gate, host = self.gate(work, lambda: server)

        try:
            with pytest.raises(CallRefused):
                gate.call(
                    work.claim(agent=Agent.RESEARCHER), "code_run", {"script": "print(1)"}, occurrence=0
                )
        finally:
            host.close()

    def test_b30_which_is_largest_is_answered_by_a_script_in_the_sandbox(self, work, server):
        work.tools = replace(STOCK, tools={**STOCK.tools, "fetch": spec("fetch", server="documents")})
        host = ToolHost(work.tools, {"code": lambda: server, "documents": documents})
        gate = work.gate(profiles=profiles.load(ROOT / "agents"), host=host, known=WALLED)
        executor = work.executor({Agent.RESEARCHER: FactsFirst(), Agent.CODER: coder.think}, gate=gate)
        question = "Which of Akrotiri and Dhekelia has the largest total area?"

        try:
            first = work.submit()
            executor.run(first)
            second = work.another(first.plan_id, Agent.CODER, {"question": question})
            executor.run(second)
        finally:
            host.close()

        *found, computed, listed = work.rows("facts", first.plan_id)
        assert computed.quote == (
            f"Dhekelia has the largest total area of 2: 131 sq km (from {found[0].name}, {found[1].name})."
        )
        assert listed.quote.startswith("By total area: Dhekelia 131 sq km")
        evidence = work.rows("evidence", "default", computed.evidence)
        assert evidence.text[computed.start : computed.end] == computed.quote
        assert computed.locator == evidence.locator
        assert coder.SCRIPT.splitlines()[0] in evidence.text

    def test_b30_a_profile_that_asks_first_has_the_security_officer_asked_and_runs_nothing(
        self, work, server
    ):
        usual = profiles.load(ROOT / "agents")
        asking = replace(usual["code-generator"], approval_policy={"code.exec": "human_approval"})
        work.tools = STOCK
        host = ToolHost(STOCK, {"code": lambda: server})
        gate = work.gate(profiles={**usual, "code-generator": asking}, host=host, known=WALLED)
        claimed = work.claim(agent=Agent.CODER)

        try:
            with pytest.raises(CallHeld) as held:
                gate.call(claimed, "code_run", {"script": "print(1)"}, occurrence=0)
        finally:
            host.close()

        assert chains.categories()[held.value.capability] == "SECURITY"
        assert work.rows("calls", claimed.ref.plan_id) == []

    @pytest.mark.parametrize("found", ["at the start", "at the first script"])
    def test_b31_a_plan_goes_on_where_scripts_are_withheld(self, work, found):
        work.tools = (
            STOCK if found == "at the first script" else STOCK.without({"code_run": "No walls here."})
        )
        gate = work.gate(profiles=profiles.load(ROOT / "agents"), known=Known(walled=lambda: False))
        executor = work.executor({Agent.RESEARCHER: Told(), Agent.CODER: coder.think}, gate=gate)
        first = work.submit()
        executor.run(first)
        step = work.another(first.plan_id, Agent.CODER, {"question": Told.QUESTION})

        executor.run(step)

        made = work.rows("steps", step.plan_id)[-1]
        assert (made.state, made.verdict) == (StepState.SUCCEEDED, "nothing")
        assert work.rows("calls", step.plan_id) == []
