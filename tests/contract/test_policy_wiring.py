"""Who decides is a setting: the server that is named, or this process; `doctor` looks whether that works."""

import json
from pathlib import Path

import pytest

from orchestrator import settings
from orchestrator.domain.errors import Misconfigured
from tests.contract import opa_server
from tests.contract.opa_server import served, whole
from workers import wiring
from workers.cli import checks
from workers.gate import policy

POLICIES = Path(__file__).parents[2] / "policies"
OURS = policy.EmbeddedEnforcer(POLICIES).revision


def chosen(tmp_path, **rest):
    return settings.load(environment={}, data_dir=str(tmp_path), **rest)


def answering(revision):
    result = {"allow": False, "deny": [{"reason": "missing_capability", "capability": "input.well_formed"}]}
    body = {"provenance": {"bundles": {"p": {"revision": revision}}}, "result": result}
    return lambda path, asked: whole(json.dumps(body))


class TestWhoDecides:
    def test_is_this_process_where_no_server_is_named(self, tmp_path):
        decision = wiring.enforcer(chosen(tmp_path)).decide(policy.CAPABILITIES, {})

        assert (decision.engine, decision.revision, decision.failed) == ("embedded", OURS, False)

    def test_is_the_server_that_is_named(self, tmp_path):
        with served(answering("r7")) as server:
            enforcer = wiring.enforcer(chosen(tmp_path, opa_url=server.url, opa_timeout_s=10))
            decision = enforcer.decide(policy.CAPABILITIES, {})

        assert (decision.engine, decision.revision, decision.failed) == ("opa", "r7", False)

    def test_is_nobody_else_while_that_server_does_not_answer(self, tmp_path):
        url = f"http://127.0.0.1:{opa_server.free_port()}"

        decision = wiring.enforcer(chosen(tmp_path, opa_url=url)).decide(policy.CAPABILITIES, {})

        assert (decision.engine, decision.effect, decision.failed) == ("opa", "deny", True)

    def test_is_a_setting_that_must_be_an_address(self, tmp_path):
        with pytest.raises(Misconfigured, match="address"):
            wiring.enforcer(chosen(tmp_path, opa_url="opa:8181"))

    @pytest.mark.parametrize("with_input", [False, True])
    def test_keeps_its_decisions_where_a_file_is_named(self, tmp_path, with_input):
        file = tmp_path / "decisions.jsonl"
        rest = {"decision_log_file": str(file), "decision_log_input": with_input}

        wiring.enforcer(chosen(tmp_path, **rest)).decide(policy.CAPABILITIES, {"subject": {}})

        (line,) = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        assert ("input" in line) is with_input

    def test_reads_the_kill_switch_of_the_data_folder_which_may_be_missing(self, tmp_path):
        assert wiring.stops(chosen(tmp_path)).now() == {}

        (tmp_path / "stops.txt").write_text("all because\n", encoding="utf-8")
        assert wiring.stops(chosen(tmp_path)).now() == {"all": "because"}


class TestTheDoctor:
    def looked(self, tmp_path, **rest):
        return [(c.state, c.said) for c in checks.policy_server(chosen(tmp_path, opa_timeout_s=10, **rest))]

    def test_says_nothing_where_no_server_is_named(self, tmp_path):
        assert self.looked(tmp_path) == []

    def test_finds_a_server_well_that_has_our_policy(self, tmp_path):
        with served(answering(OURS)) as server:
            assert self.looked(tmp_path, opa_url=server.url) == [(checks.OK, f"revision {OURS}")]

    def test_warns_of_one_that_has_another(self, tmp_path):
        with served(answering("r7")) as server:
            ((state, said),) = self.looked(tmp_path, opa_url=server.url)

        assert state == checks.WARN
        assert "r7" in said
        assert OURS in said

    def test_finds_one_that_does_not_answer_and_one_that_has_no_address(self, tmp_path):
        for url in (f"http://127.0.0.1:{opa_server.free_port()}", "opa"):
            ((state, _),) = self.looked(tmp_path, opa_url=url)
            assert state == checks.FAIL
