"""What may stand where: imports, names, log events, SQL, doors for exceptions, dependencies, and words that stay out."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from orchestrator.telemetry import EVENTS

ROOT = Path(__file__).parents[2]
PACKAGES = ("orchestrator", "workers", "agents")
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}

DOORS = {
    "orchestrator/api/door.py:__call__": "the API's door: what nobody foresaw becomes a problem and a trace id",
    "orchestrator/chronos.py:_serve_next": "a schedule that cannot be fired is recorded, and never stops the others",
    "orchestrator/chronos.py:forever": "nothing may stop the clock",
    "orchestrator/conductor.py:_all": "one row must not keep every other from being swept; its fault is raised afterwards",
    "orchestrator/database.py:__init__": "the embedded server's library may raise anything; it becomes Unavailable",
    "orchestrator/locks.py:_asked": "a hint must not be able to harm what it is a hint for",
    "orchestrator/locks.py:fault": "whatever keeps a Redis from answering is what was asked for",
    "orchestrator/notifier.py:forever": "nothing may stop webhooks from being told",
    "orchestrator/rates.py:take": "whatever Redis does, a request is counted and answered",
    "orchestrator/relay.py:_patiently": "nothing may stop sweeps from being made",
    "orchestrator/relay.py:forever": "nothing may stop messages from being published",
    "orchestrator/vault/notary.py:__call__": "nothing may stop checkpoints from being made",
    "workers/broker_loop.py:_carry": "a message that nobody foresaw is rejected, and its neighbours go on",
    "workers/celery_app.py:create_task_handler": "a message must not be able to end the worker",
    "workers/celery_app.py:on_task_received": "a message must not be able to end the worker",
    "workers/celery_app.py:_carry": "the step is rung for again, and the thread takes others",
    "workers/cli/__init__.py:run": "the command line's door: what nobody foresaw becomes a sentence and an exit code",
    "workers/executor.py:_think": "whatever a mind raises is an outcome",
    "workers/executor.py:_report": "an outcome that cannot be written is a fault of its step",
    "workers/executor.py:_kept": "the leases of every other step hang on this thread",
    "workers/together.py:_lead": "a group that fails is asked one by one, and each hears what failed",
    "workers/gate/opa.py:_carry": "a thread's only way to say what it met",
    "workers/gate/policy.py:judge": "whatever broke, the answer is no",
    "workers/gate/policy.py:_rendered": "a question that cannot be written down is malformed",
    "workers/gate/policy.py:_compiled": "a policy that does not compile is not loaded",
    "workers/toolhost/host.py:_answer": "a server's failure becomes a failed call",
    "workers/toolhost/host.py:schema": "a server that cannot say what its tool is becomes a failed call",
    "workers/toolhost/host.py:_await_start": "a server that does not start becomes a failed call",
    "workers/toolhost/session.py:_live": "whoever waits for a server is told",
    "workers/toolhost/documents/reading.py:_from_pdf": "a hostile PDF makes its parser raise anything",
}
"""Where `except Exception` may stand, and why."""

SPEAKS_SQL = {
    "orchestrator/store.py": "looks whether its session lives",
    "orchestrator/database.py": "creates and migrates",
    "workers/bench/floor.py": "measures the least that a step must cost, on tables of its own",
    "workers/bench/meter.py": "asks the server about itself",
    "workers/bench/workloads.py": "counts what a run left behind, and cleans up after it",
    "workers/eval/baseline.py": "is plain BM25 by SQLite, in memory, to compare with",
    "workers/toolhost/documents/index.py": "has a SQLite file of its own",
    "workers/toolhost/sql.py": "asks the databases of others what they hold, and what their role may do",
}


def modules():
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def shipped():
    """Every file that is or would be committed; where this is no git checkout, every file that is not built."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
        return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]
    visible = [path for path in ROOT.iterdir() if not path.name.startswith(".") or path.name == ".ci"]
    below = [path for folder in visible for path in ([folder] if folder.is_file() else folder.rglob("*"))]
    return [path for path in below if path.is_file() and "__pycache__" not in path.parts]


def test_every_import_contract_holds():
    program = Path(sys.executable).parent / "lint-imports"
    ran = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, check=False, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_only_the_tool_host_imports_what_opens_connections():
    """Import contracts name whole packages of the standard library; these two are parts of one.

    The notifier speaks to the one address that the settings name, and no agent and no tool can reach it.
    """
    network = {"urllib.request", "http.client"}
    opening = {
        name_of(path)
        for path in modules()
        for node in ast.walk(parsed(path))
        if (isinstance(node, ast.Import) and network & {alias.name for alias in node.names})
        or (
            isinstance(node, ast.ImportFrom)
            and network & {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        )
    }
    assert {name for name in opening if not name.startswith("workers/toolhost/")} == {
        "orchestrator/notifier.py"
    }


def test_no_module_is_named_for_nothing():
    empty = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"}
    named = {
        name_of(p) for p in modules() if p.stem.strip("_") in empty or empty & set(p.relative_to(ROOT).parts)
    }
    assert named == set()


def test_every_module_says_what_it_is_for():
    assert [name_of(path) for path in modules() if not ast.get_docstring(parsed(path))] == []


class TestALogEvent:
    @staticmethod
    def calls():
        """Each call of the log, and its first argument."""
        for path in modules():
            for node in ast.walk(parsed(path)):
                logs = (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in LEVELS
                )
                if logs and isinstance(node.func.value, ast.Name) and node.func.value.id == "log":
                    yield name_of(path), node.args[0]

    def test_is_one_of_the_catalogue(self):
        for where, event in self.calls():
            if isinstance(event, ast.Constant):
                assert event.value in EVENTS, where
            else:
                assert (where, ast.unparse(event)) == ("orchestrator/relay.py", "event")

    def test_is_used_somewhere(self):
        said = {
            node.value
            for path in modules()
            if name_of(path) != "orchestrator/telemetry.py"
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert set(EVENTS) - said == set()

    def test_says_a_noun_and_what_became_of_it(self):
        assert [event for event in EVENTS if not re.fullmatch(r"[a-z]+\.[a-z]+", event)] == []


class TestAQuery:
    TEXT = (ROOT / "orchestrator" / "queries.sql").read_text(encoding="utf-8")
    NAMES = re.findall(r"^-- name: (\w+)$", TEXT, re.MULTILINE)

    def test_is_used_by_the_store(self):
        used = {
            node.value
            for node in ast.walk(parsed(ROOT / "orchestrator" / "store.py"))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert set(self.NAMES) - used == set()

    def test_says_in_a_sentence_what_it_does(self):
        said = dict(re.findall(r"^-- name: (\w+)\n-- ([A-Z`].*[.:])$", self.TEXT, re.MULTILINE))
        assert set(self.NAMES) == set(said)

    def test_stands_in_its_file_and_not_in_python(self):
        statement = re.compile(r"^\s*(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH)\s+[\w(*]")
        speaking = {
            name_of(path)
            for path in modules()
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and statement.match(node.value)
        }
        assert speaking <= set(SPEAKS_SQL)

    def test_that_changes_a_state_names_the_state_it_expects(self):
        blocks = re.split(r"^-- name: ", self.TEXT, flags=re.MULTILINE)[1:]
        for block in blocks:
            sets = re.search(
                r"\bUPDATE (?:plan|step|call|approval|dead_letter)\b.*?\bSET\s+state\b", block, re.DOTALL
            )
            if sets and "DO UPDATE" not in block:
                assert re.search(r"\b(?:AND|WHERE)\s+(?:s\.)?state\b", block), block.split("\n", 1)[0]


def test_exceptions_of_every_kind_are_caught_at_the_doors_only():
    found = set()
    for path in modules():
        for function in ast.walk(parsed(path)):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and (
                    node.type is None or ast.unparse(node.type) == "Exception"
                ):
                    found.add(f"{name_of(path)}:{function.name}")
    assert found == set(DOORS)


class TestARoute:
    def test_reaches_the_store_as_its_caller_s_tenant(self):
        free = re.compile(r"core\.(?:store|conductor)\b(?!\.of\()")
        found = {
            f"{path.stem}: {line.strip()}"
            for path in (ROOT / "orchestrator" / "api").glob("*.py")
            for line in path.read_text(encoding="utf-8").splitlines()
            if free.search(line)
        }
        assert found == {
            # numbers of the whole, which name nobody, and whether tenants are kept apart
            "health: exposed = core.store.exposure() if at == wanted else None",
            "health: with office.core.store.transaction() as tx:",
            # what the fleet stopped is for every tenant to see; the switch confines itself, and its tests say so
            "stops: return Switch(office.core.store, office.core.sealer)",
        }


class TestAnExceptionToALintRule:
    def test_in_the_project_s_list_has_its_reason(self):
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        block = re.search(r"^ignore = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)[1]
        assert [line for line in block.splitlines() if not re.search(r"#\s+\S+ \S+", line)] == []

    def test_in_a_line_has_its_reason(self):
        # an argument that a protocol asks for and nobody uses explains itself
        bare = re.compile(r"# noqa(?!: (?:ARG\d+$|[A-Z]+\d+(?:, ?[A-Z]+\d+)* +- \W?\w))")
        lines = [
            f"{name_of(path)}:{number}"
            for path in modules()
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
            if bare.search(line)
        ]
        assert lines == []


class TestTheLockFiles:
    PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    @staticmethod
    def names(requirements):
        return {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", r)[0]).lower() for r in requirements}

    @staticmethod
    def locked(file):
        """The names in a lock file that have a version and at least one hash."""
        text = (ROOT / file).read_text(encoding="utf-8")
        return set(
            re.findall(
                r"^([a-z0-9-]+)(?:\[[\w,-]+\])?==[^\n]*\\\n\s+--hash=sha256:[0-9a-f]{64}", text, re.MULTILINE
            )
        )

    @pytest.mark.parametrize("file", ["requirements.lock", "requirements-dev.lock"])
    def test_pin_every_dependency_with_its_hashes(self, file):
        assert self.names(self.PROJECT["project"]["dependencies"]) - self.locked(file) == set()

    def test_pin_the_developer_s_tools_too(self):
        wanted = self.names(self.PROJECT["dependency-groups"]["dev"])
        assert wanted - self.locked("requirements-dev.lock") == set()

    @pytest.mark.parametrize("file", ["requirements.lock", "requirements-dev.lock"])
    def test_pin_nothing_without_a_hash(self, file):
        text = (ROOT / file).read_text(encoding="utf-8")
        pinned = set(re.findall(r"^([a-z0-9-]+)(?:\[[\w,-]+\])?==", text, re.MULTILINE))
        assert pinned == self.locked(file)


class TestNoFile:
    """The words are put together here, so that this file passes its own test."""

    HOSTS = (
        "py" + "pi.org",
        "python" + "hosted.org",
        "npm" + "js.org",
        "npm" + "js.com",
        "proxy.go" + "lang.org",
    )
    PATHS = ("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "/Us" + "ers/", "C:" + "\\Users")
    WORDS = ("work" + "place", "issue" + " tracker", "bug" + " tracker", "ji" + "ra")
    NUMBERED = re.compile(
        r"\b(?:iss" + r"ues?|bugs?|tickets?|GH|pull request)[ -]?#?\d+\b|/iss" + r"ues/\d+", re.IGNORECASE
    )

    @staticmethod
    def texts():
        for path in shipped():
            try:
                yield name_of(path), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue

    def test_names_a_package_registry(self):
        assert [
            (name, host) for name, text in self.texts() for host in self.HOSTS if host in text.lower()
        ] == []

    def test_holds_a_path_of_one_machine(self):
        assert [(name, path) for name, text in self.texts() for path in self.PATHS if path in text] == []

    def test_speaks_of_how_it_came_to_be(self):
        assert [
            (name, word) for name, text in self.texts() for word in self.WORDS if word in text.lower()
        ] == []
        assert [
            (name, found[0]) for name, text in self.texts() if (found := self.NUMBERED.search(text))
        ] == []
