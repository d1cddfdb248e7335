"""`orchestrator policy`: what may happen and why, and whether the policy is sound."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from workers import cli
from workers.cli import exits, policies
from workers.gate import policy
from workers.gate.stops import Stops

POLICIES = Path(__file__).parents[2] / "policies"


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ORCHESTRATOR_DATA_DIR", str(tmp_path))

    def call(*arguments):
        code = cli.run(["policy", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(POLICIES, tmp_path / "policies")
    return tmp_path / "policies"


class TestAPolicy:
    def test_of_the_house_holds_its_own_tables(self, run):
        code, out, _ = run("test", "--json")

        told = json.loads(out)
        assert (code, told["ok"], told["wrong"]) == (exits.FINE, True, [])
        assert told["rows"] >= 120

    def test_that_decides_rows_otherwise_is_told_with_each_of_them(self, run, folder):
        with (folder / "actions.rego").open("a", encoding="utf-8") as source:
            source.write(
                '\ndeny contains {"reason": "closed", "capability": ""} if action.type == "stop.set"\n'
            )

        code, out, _ = run("test", "--policies", folder, "--json")

        wrong = json.loads(out)["wrong"]
        assert code == exits.FAILED
        assert {"stop.set: operator may", "stop.set: viewer may not"} <= {row["row"] for row in wrong}
        assert "closed" in wrong[0]["told"]

    def test_that_cannot_be_loaded_is_bad_input(self, run, folder):
        (folder / "actions.rego").write_text("package orchestrator.actions\n\nallow if {", encoding="utf-8")

        assert run("test", "--policies", folder)[0] == exits.USAGE
        assert run("bundle", "--policies", folder, "--out", folder / "out")[0] == exits.USAGE
        assert not (folder / "out").exists()

    def test_that_is_not_there_is_not_found(self, run, tmp_path):
        assert run("lint", "--policies", tmp_path / "nothing")[0] == exits.NOT_FOUND

    def test_is_not_asked_of_a_server_that_nobody_configured(self, run):
        code, _, err = run("test", "--server")

        assert code == exits.USAGE
        assert "ORCHESTRATOR_OPA_URL" in err

    def test_is_not_judged_by_a_server_that_does_not_answer(self, run, monkeypatch):
        monkeypatch.setenv("ORCHESTRATOR_OPA_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("ORCHESTRATOR_OPA_TIMEOUT_S", "0.2")

        assert run("explain", "--server", "--action", "plan.read")[0] == exits.UNAVAILABLE


class TestAnExplanation:
    def test_of_an_action_names_every_objection_and_what_it_means(self, run):
        code, out, _ = run(
            "explain", "--action", "key.manage", "--role", "viewer", "--scope", "plan.*", "--json"
        )

        told = json.loads(out)
        assert (code, told["effect"], told["package"]) == (exits.FINE, "deny", policy.ACTIONS)
        assert [r["reason"] for r in told["reasons"]] == ["missing_role", "outside_scopes"]
        assert all(r["meaning"] for r in told["reasons"])
        assert told["revision"] == policy.EmbeddedEnforcer(POLICIES).revision

    def test_of_a_call_asks_what_the_gate_would_ask(self, run):
        allowed = json.loads(
            run("explain", "--agent", "researcher", "--tool", "documents_search", "--json")[1]
        )

        assert allowed["effect"] == "allow"
        assert allowed["input"]["subject"]["agent"] == "researcher"

    def test_reads_a_document(self, run, tmp_path):
        (tmp_path / "question.json").write_text('{"subject": {}}', encoding="utf-8")

        code, out, _ = run("explain", "--input", tmp_path / "question.json")

        assert code == exits.FINE
        assert "input.well_formed" in out

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--agent", "researcher"],
            ["--action", "plan.read", "--input", "x"],
            ["--input", "nothing.json"],
        ],
    )
    def test_needs_one_question(self, run, arguments):
        assert run("explain", *arguments)[0] == exits.USAGE

    def test_of_a_tool_that_there_is_not_is_not_found(self, run):
        assert run("explain", "--agent", "researcher", "--tool", "nothing")[0] == exits.NOT_FOUND

    def test_knows_what_every_reason_of_the_house_means(self):
        rows = [row for path in (POLICIES / "tests").glob("*.json") for row in json.loads(path.read_text())]

        assert {reason["reason"] for row in rows for reason in row["deny"]} == set(policies.MEANINGS)


class TestABundle:
    def test_holds_the_policies_and_their_revision_and_no_tests(self, run, tmp_path):
        code, out, _ = run("bundle", "--out", tmp_path / "b.tar.gz", "--json")

        with tarfile.open(fileobj=io.BytesIO((tmp_path / "b.tar.gz").read_bytes())) as tar:
            names = {member.name.lstrip("/") for member in tar}
            manifest = json.load(tar.extractfile(next(m for m in tar if m.name.endswith(".manifest"))))
        assert code == exits.FINE
        assert names == {".manifest", *(path.name for path in POLICIES.glob("*.rego"))}
        assert (
            manifest["revision"] == json.loads(out)["revision"] == policy.EmbeddedEnforcer(POLICIES).revision
        )

    def test_is_the_same_each_time(self):
        assert policy.bundle(POLICIES) == policy.bundle(POLICIES)

    def test_that_cannot_be_written_is_bad_input(self, run, tmp_path):
        assert run("bundle", "--out", tmp_path / "no" / "where")[0] == exits.USAGE


class TestTheLint:
    HEAD = "package more\n\nimport rego.v1\n\n"

    def test_finds_nothing_in_the_policies_of_the_house(self, run):
        code, out, _ = run("lint", "--json")

        assert (code, json.loads(out)["findings"]) == (exits.FINE, [])

    @pytest.mark.parametrize(
        ("trap", "line"),
        [
            ("builtin", 'odd if glob_match("a", "b")'),
            ("builtin", 'odd if json.unmarshal("1")'),
            ("regex", 'odd if regex.match("(a+)+$", input.x)'),
            ("regex", 'odd if glob.match("*", [], input.x)'),
            ("clock", "odd if time.now_ns() > 0"),
            ("network", 'odd if net.cidr_contains("10.0.0.0/8", input.ip)'),
            ("network", 'odd if http.send({"method": "get"})'),
            ("runtime", "odd := opa.runtime().env"),
            ("text", 'odd := sprintf("%s", [input.x])'),
            ("chance", 'odd := rand.intn("x", 2)'),
            ("negation", "odd if not input.x in allowed"),
            ("negation", "odd if not known(input.x)"),
            ("replaced_input", "odd if data.more.allow with input as {}"),
            ("variable_reason", 'deny contains {"reason": input.x, "capability": ""} if true'),
            ("variable_reason", 'deny contains {"reason": concat("", ["a"]), "capability": ""} if true'),
            ("open_default", "default allow := true"),
            ("open_default", "default allow = input.x"),
            ("no_default", "allow if true"),
        ],
    )
    def test_finds_a_trap_where_it_is(self, run, folder, trap, line):
        (folder / "more.rego").write_text(f"{self.HEAD}# a remark\n{line}\n", encoding="utf-8")

        code, out, _ = run("lint", "--policies", folder, "--json")

        found = json.loads(out)["findings"]
        assert code == exits.FAILED
        assert {(f["file"], f["line"]) for f in found if f["trap"] == trap} == {
            ("more.rego", 1 if trap == "no_default" else 6)
        }

    def test_finds_the_older_language(self, run, folder):
        (folder / "more.rego").write_text("package more\n\nodd { input.x }\n", encoding="utf-8")

        assert "old_syntax" in run("lint", "--policies", folder, "--json")[1]

    @pytest.mark.parametrize(
        "line",
        [
            "# not http.send(x) with",
            'odd := "not regex.match(x) with sprintf(y)"',
            "odd := `not time.now_ns()`",
            'deny contains {"reason": "closed", "capability": input.x} if true',
            "default allow := false",
            "notable := 1",
        ],
    )
    def test_leaves_what_is_none_alone(self, run, folder, line):
        (folder / "more.rego").write_text(f"{self.HEAD}{line}\n", encoding="utf-8")

        assert run("lint", "--policies", folder)[0] == exits.FINE


class TestTheKillSwitchOfAMachine:
    def test_is_thrown_listed_and_lifted(self, run, tmp_path):
        assert run("stop", "--file", "tool:look", "--reason", "misbehaves")[0] == exits.FINE
        assert run("stop", "--file", "tenant:acme", "--reason", "under investigation")[0] == exits.FINE

        told = json.loads(run("stops", "--file", "--json")[1])["stops"]
        assert [(stop["target"], stop["reason"], stop["where"]) for stop in told] == [
            ("tool:look", "misbehaves", "file"),
            ("tenant:acme", "under investigation", "file"),
        ]
        assert Stops(tmp_path / "stops.txt").of(tenant="acme", tool="look", plan_id="p") == [
            "tenant:acme",
            "tool:look",
        ]

        assert run("resume", "--file", "tenant:acme")[0] == exits.FINE
        assert [stop["target"] for stop in json.loads(run("stops", "--file", "--json")[1])["stops"]] == [
            "tool:look"
        ]
        assert run("resume", "--file", "tenant:acme")[0] == exits.NOT_FOUND

    def test_is_not_one_tenant_s(self, run, tmp_path):
        assert run("stop", "--file", "all", "--tenant", "acme", "--reason", "x")[0] == exits.USAGE
        assert not (tmp_path / "stops.txt").exists()

    @pytest.mark.parametrize("reason", ["", "  ", "x" * 501, "a\x07bell"])
    def test_takes_no_reason_that_is_none(self, run, tmp_path, reason):
        assert run("stop", "--file", "all", "--reason", reason)[0] == exits.USAGE
        assert not (tmp_path / "stops.txt").exists()

    def test_takes_no_target_that_there_is_not(self, run):
        assert run("stop", "--file", "everything", "--reason", "x")[0] == exits.USAGE

    def test_makes_the_file_that_is_configured(self, run, tmp_path, monkeypatch):
        monkeypatch.setenv("ORCHESTRATOR_STOPS_FILE", str(tmp_path / "shared" / "stops"))

        assert run("stop", "--file", "all", "--reason", "fire")[0] == exits.FINE
        assert (tmp_path / "shared" / "stops").read_text() == "all fire\n"

    def test_that_cannot_be_read_is_told(self, run, tmp_path):
        (tmp_path / "stops.txt").write_text("nonsense\n", encoding="utf-8")

        code, _, err = run("stops", "--file")

        assert code == exits.USAGE
        assert "Everything is stopped" in err
