"""What Prometheus is told: names that are listed, decisions of the policy by what came of them, and what a webhook took."""

import re
import urllib.request

import pytest
import structlog
from anyio.from_thread import start_blocking_portal

from orchestrator import meters
from orchestrator.domain.errors import Misconfigured
from orchestrator.meters import Decisions
from orchestrator.telemetry import METRICS
from tests.contract.test_api import site_on
from tests.contract.test_notifier import hand, house, receiving  # noqa: F401 - fixtures
from tests.contract.test_policy_wiring import chosen
from workers import wiring
from workers.gate import policy
from workers.gate.policy import Decision


def counted(name, **labels):
    return meters.REGISTRY.get_sample_value(name, labels) or 0.0


def decision(effect="allow", *, failed=False, revision="r1"):
    return Decision(
        effect=effect,
        reasons=(),
        revision=revision,
        decision_id="d",
        failed=failed,
        input_digest="0" * 64,
        engine="test",
        duration_us=1500,
    )


class TestTheNames:
    def test_of_what_a_process_counts_are_listed(self):
        families = {family.name for family in meters.REGISTRY.collect()}
        assert families <= {name.removesuffix("_total") for name in METRICS}

    @pytest.mark.postgres
    def test_are_those_that_the_api_tells_and_no_others(self, api_text):
        told = set(re.findall(r"^# TYPE (\w+) ", api_text, re.MULTILINE))
        told = {name for name in told if not name.endswith("_created")}
        assert told == set(METRICS)

    @pytest.fixture
    def api_text(self, postgres_server, tmp_path):
        with start_blocking_portal() as portal, site_on(postgres_server, portal, tmp_path) as site:
            return site.get("/metrics").text


class TestADecision:
    def test_is_counted_by_package_result_and_engine(self, tmp_path):
        labels = {"package": policy.ACTIONS, "result": "deny", "engine": "embedded"}
        before = counted("orchestrator_policy_decisions_total", **labels)
        took = counted("orchestrator_policy_decision_seconds_count", engine="embedded")

        made = wiring.enforcer(chosen(tmp_path)).decide(policy.ACTIONS, {})

        assert counted("orchestrator_policy_decisions_total", **labels) == before + 1
        assert counted("orchestrator_policy_decision_seconds_count", engine="embedded") == took + 1
        assert counted("orchestrator_policy_revision", engine="embedded", revision=made.revision) == 1

    def test_that_is_no_answer_is_counted_and_told_once_until_there_is_one_again(self):
        decisions = Decisions("test")
        with structlog.testing.capture_logs() as lines:
            for failed in (False, True, True, False, False):
                decisions.count("p", decision("deny" if failed else "allow", failed=failed), seconds=0.001)
                assert counted("orchestrator_policy_available", engine="test") == (not failed)

        assert [line["event"] for line in lines] == ["policy.unavailable", "policy.returned"]
        assert (
            counted("orchestrator_policy_decisions_total", package="p", result="unavailable", engine="test")
            == 2
        )

    def test_by_another_revision_takes_the_place_of_the_revision_before(self):
        decisions = Decisions("turning")
        for revision in ("r1", "r2"):
            decisions.count("p", decision(revision=revision), seconds=0.001)

        assert counted("orchestrator_policy_revision", engine="turning", revision="r2") == 1
        assert counted("orchestrator_policy_revision", engine="turning", revision="r1") == 0

    def test_against_an_action_is_told_to_the_log_without_who_or_what(self, tmp_path):
        subject = {"name": "ada", "tenant_id": "acme", "roles": ["viewer"]}
        asked = {"subject": subject, "action": {"type": "plan.cancel", "tenant_id": "acme"}, "context": {}}
        enforcer = wiring.enforcer(chosen(tmp_path))

        with structlog.testing.capture_logs() as lines:
            enforcer.decide(policy.ACTIONS, asked)

        (line,) = lines
        assert (line["event"], line["reasons"]) == ("policy.denied", ["missing_role plan.cancel"])
        assert "ada" not in str(line)

    def test_of_the_tables_when_a_policy_is_loaded_is_not_counted(self, tmp_path):
        before = meters.text()
        wiring.enforcer(chosen(tmp_path))
        assert meters.text() == before


@pytest.mark.postgres
class TestAWebhook:
    def test_is_counted_by_what_became_of_each_attempt(self, house, hand):  # noqa: F811
        results = ("delivered", "failed", "given_up")
        before = {r: counted("orchestrator_webhook_attempts_total", result=r) for r in results}
        delays = counted("orchestrator_webhook_delay_seconds_count")
        house.ask()
        house.ask()

        with receiving(500, 500, 500, 200) as receiver:
            for _ in range(4):
                assert house.notifier(receiver.url, attempts=2).step()
                house.hurry(hand)

        after = {r: counted("orchestrator_webhook_attempts_total", result=r) - before[r] for r in results}
        assert after["failed"] + after["given_up"] == 3
        assert after["delivered"] == counted("orchestrator_webhook_delay_seconds_count") - delays == 1

    def test_that_does_not_take_what_waits_is_seen_in_the_database(self, house, hand):  # noqa: F811
        house.ask()
        house.ask()
        with receiving(500) as receiver:
            assert house.notifier(receiver.url, attempts=1).step()

        with house.store.transaction() as tx:
            tally = tx.tally()

        assert (tally.notifications, tally.stops) == ({"waiting": 1, "given_up": 1}, 0)
        assert tally.untold_s > 0


class TestTheDoorOfAWorker:
    def test_tells_what_its_process_counted(self):
        port = meters.serve("127.0.0.1:0")

        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b"orchestrator_webhook_attempts_total" in answer.read()

    @pytest.mark.parametrize(
        "address", ["", "9464", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:99999", "203.0.113.1:0"]
    )
    def test_is_refused_where_it_cannot_be(self, address):
        with pytest.raises(Misconfigured, match="metrics_listen"):
            meters.serve(address)
