"""The decision log: every decision as one line, in the words of OPA's."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.contract.workbench import ENFORCER
from workers.gate import policy
from workers.gate.decision_log import DecisionLog

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLICIES = Path(__file__).parents[2] / "policies"
ASKED = {
    "subject": {"name": "ada", "tenant_id": "acme", "roles": ["viewer"]},
    "action": {"type": "plan.cancel", "tenant_id": "acme"},
    "context": {},
}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "decisions.jsonl"


def logging(file, **rest):
    return policy.Enforcer(ENFORCER._engine, heard=DecisionLog(file, clock=lambda: NOON, **rest))


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_decision_is_one_line_in_opas_words(file):
    decision = logging(file, with_input=True).decide(policy.ACTIONS, ASKED)

    (line,) = lines(file)
    assert line.pop("labels").keys() == {"id", "app"}
    assert line == {
        "decision_id": decision.decision_id,
        "bundles": {"policies": {"revision": decision.revision}},
        "path": "orchestrator/actions",
        "input": ASKED,
        "result": {
            "allow": False,
            "effect": "deny",
            "deny": [{"reason": "missing_role", "capability": "plan.cancel"}],
        },
        "timestamp": "2026-01-01T12:00:00Z",
        "metrics": {"timer_server_handler_ns": decision.duration_us * 1000},
        "custom": {"engine": "embedded", "input_sha256": decision.input_digest},
    }


def test_the_input_is_erased_unless_it_is_wanted(file):
    logging(file).decide(policy.ACTIONS, ASKED)

    (line,) = lines(file)
    assert "input" not in line
    assert line["erased"] == ["/input"]
    assert "ada" not in file.read_text()


@pytest.mark.parametrize("odd", [{"x": 0.5}, {"x": object()}, None, {"x": "\ud800"}])
def test_a_malformed_input_is_never_written(file, odd):
    logging(file, with_input=True).decide(policy.ACTIONS, odd)

    (line,) = lines(file)
    assert line["erased"] == ["/input"]
    assert line["result"]["deny"] == [{"reason": "missing_capability", "capability": "input.well_formed"}]


def test_a_question_without_an_answer_is_told_with_its_error(file):
    logging(file).decide("orchestrator.nothing", ASKED)

    (line,) = lines(file)
    assert line["error"] == {"code": "no_answer", "message": "The policy has no such package."}
    assert line["result"] == {"allow": False, "effect": "deny", "deny": []}


def test_every_decision_is_appended_also_after_the_file_was_moved_away(file):
    enforcer = logging(file)
    enforcer.decide(policy.ACTIONS, ASKED)
    enforcer.decide(policy.ACTIONS, ASKED)
    file.rename(file.with_suffix(".1"))
    enforcer.decide(policy.ACTIONS, ASKED)

    assert (len(lines(file.with_suffix(".1"))), len(lines(file))) == (2, 1)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_changes_no_decision_and_is_told_once(tmp_path):
    (tmp_path / "folder").mkdir()
    enforcer = logging(tmp_path / "folder")

    with capture_logs() as said:
        decisions = [enforcer.decide(policy.ACTIONS, ASKED) for _ in range(3)]

    assert {decision.reasons[0].reason for decision in decisions} == {"missing_role"}
    assert [line["event"] for line in said] == ["decision.unlogged"]
