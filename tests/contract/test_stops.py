"""The kill switch of the whole fleet: who may throw it for whom, what they leave in the audit, and that no gate is blind to it."""

import json
import logging
import os
from uuid import uuid4

import psycopg
import pytest
import structlog

from agents.toolbox import ToolResult
from orchestrator import settings
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.identity import Principal
from orchestrator.domain.outcome import Held
from orchestrator.domain.plan import NotificationState, StepRef, request
from orchestrator.domain.stop import Stop
from orchestrator.store import PgStore
from orchestrator.switch import Switch
from orchestrator.vault.ledger import ledger_of
from tests.contract.bench import PostgresBench
from tests.contract.test_api import refusal
from tests.contract.test_gate_rules import gate
from tests.contract.test_identity import guarded, judge, portal  # noqa: F401 - fixtures
from tests.contract.workbench import opened, spec
from workers import cli
from workers.cli import exits
from workers.gate.gate import CallFailed

pytestmark = pytest.mark.postgres

ADA = Principal("ada", "acme", frozenset({"operator"}))
OPS = Principal("ops", "default", frozenset({"fleet_operator"}))


@pytest.fixture
def hand(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def site(postgres_server, portal, judge, tmp_path_factory):  # noqa: F811
    with guarded(postgres_server, portal, tmp_path_factory.mktemp("documents"), judge) as made:
        yield made


@pytest.fixture
def clean(site):
    """The site, with nothing stopped before and after."""
    yield site
    with site.store.transaction() as tx:
        for stop in tx.stops():
            tx.remove_stop(stop.tenant, stop.target)


def put(site, token, path, reason="It misbehaves."):
    return site.by(token, "PUT", f"/stops/{path}", json={"reason": reason})


def stops(site, tenant="acme", role="viewer"):
    listed = site.by(site.token(role, tenant=tenant), "GET", "/stops").json()["stops"]
    return [(stop["tenant"], stop["target"]) for stop in listed]


def records(store, tenant):
    with store.transaction() as tx:
        return [json.loads(record.body) for record in tx.audit(ledger_of(tenant))]


class TestOverHttp:
    @pytest.mark.parametrize("role", ["operator", "tenant_admin", "ciso"])
    def test_a_tenant_s_people_stop_and_resume_what_is_theirs(self, clean, role):
        token = clean.token(role)

        made = put(clean, token, "tool:look", "It  writes\ttoo much.").json()

        assert (made["target"], made["tenant"], made["by"]) == ("tool:look", "acme", f"{role}@acme")
        assert made["reason"] == "It writes too much."
        assert stops(clean) == [("acme", "tool:look")]
        assert stops(clean, "rival") == []
        assert clean.by(token, "DELETE", "/stops/tool:look").json() == made
        assert stops(clean) == []
        assert refusal(clean.by(token, "DELETE", "/stops/tool:look")) == (404, "not_found")

    @pytest.mark.parametrize("role", ["viewer", "submitter", "approver", "compliance_officer", "auditor"])
    def test_nobody_else_does(self, clean, role):
        assert refusal(put(clean, clean.token(role), "all")) == (403, "forbidden")
        assert stops(clean) == []

    def test_an_agent_stops_nothing_whoever_sends_it(self, clean):
        headers = {"X-Agent-Profile": "researcher"}
        body = {"reason": "So it said."}
        answer = clean.by(clean.token("operator"), "PUT", "/stops/all", headers=headers, json=body)
        assert refusal(answer) == (403, "forbidden")

    @pytest.mark.parametrize("role", ["operator", "tenant_admin", "ciso"])
    def test_no_tenant_stops_another_or_the_fleet(self, clean, role):
        token = clean.token(role, tenant="rival")

        assert refusal(put(clean, token, "tenant:acme")) == (403, "forbidden")
        assert refusal(put(clean, token, "everywhere/all")) == (403, "forbidden")
        assert put(clean, token, "all").json()["target"] == "tenant:rival"

        assert stops(clean) == []
        assert stops(clean, "rival") == [("rival", "tenant:rival")]

    def test_what_the_fleet_stopped_a_tenant_sees_and_does_not_lift(self, clean):
        ops = clean.token("fleet_operator", tenant="ops")
        for target in ("all", "tool:look", "tenant:acme", "tenant:rival", "plan:0192"):
            assert put(clean, ops, f"everywhere/{target}").json()["tenant"] is None

        ours = [(None, "all"), (None, "tool:look"), (None, "tenant:acme")]
        assert stops(clean) == ours  # and not whom else
        for target in ("all", "tool:look", "tenant:acme"):
            token = clean.token("operator", "tenant_admin", "ciso")
            assert refusal(clean.by(token, "DELETE", f"/stops/{target}")) == (404, "not_found")
            assert clean.by(token, "DELETE", f"/stops/everywhere/{target}").status_code == 403
        assert stops(clean) == ours

        assert clean.by(ops, "DELETE", "/stops/everywhere/tenant:acme").status_code == 200
        assert stops(clean) == ours[:2]

    @pytest.mark.parametrize("target", ["everything", "tool:", "plan:a/b", "tool:a'b", f"tool:{'x' * 201}"])
    def test_what_is_no_target_is_refused(self, clean, target):
        assert put(clean, clean.token("operator"), target).status_code in {404, 422}
        assert stops(clean) == []

    @pytest.mark.parametrize(
        "body", [{}, {"reason": ""}, {"reason": 1}, {"reason": "  "}, {"reason": "x", "by": "me"}]
    )
    def test_a_stop_without_a_reason_is_none(self, clean, body):
        answer = clean.by(clean.token("operator"), "PUT", "/stops/all", json=body)
        assert answer.status_code == 422
        assert stops(clean) == []


class TestTheAudit:
    def test_says_who_stopped_what_and_why_and_who_lifted_it(self, pg_store, sealer):
        switch = Switch(pg_store, sealer)
        switch.stop(ADA, "tool:look", "It misbehaves.")
        switch.resume(ADA, "tool:look")

        told = records(pg_store, "acme")

        assert [(r["by"], r["action"], r["resource"], r["details"]["change"]) for r in told] == [
            ("ada", "stop.set", "stop:tool:look", "set"),
            ("ada", "stop.set", "stop:tool:look", "lifted"),
        ]
        assert {r["details"]["reason"] for r in told} == {"It misbehaves."}

    def test_of_a_tenant_that_the_fleet_stopped_says_so_too(self, pg_store, sealer):
        Switch(pg_store, sealer).stop(OPS, "tenant:acme", "Under investigation.", everywhere=True)

        for tenant in ("acme", "default"):
            (told,) = records(pg_store, tenant)
            assert (told["by"], told["action"]) == ("ops", "stop.set_everywhere")

    def test_that_cannot_be_written_lets_nothing_be_lifted(self, pg_store, sealer, hand):
        switch = Switch(pg_store, sealer)
        switch.stop(ADA, "all", "It misbehaves.")
        hand.execute("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'")
        hand.execute("CREATE TRIGGER no BEFORE INSERT ON audit EXECUTE FUNCTION no()")

        with pytest.raises(psycopg.errors.RaiseException):
            switch.resume(ADA, "all")

        assert [stop.target for stop in switch.listed("acme")] == ["tenant:acme"]


class TestAGateOnPostgres:
    def test_sees_at_once_what_another_process_stopped_and_lifted(self, dsn, sealer):
        bench = PostgresBench(dsn)
        elsewhere = PgStore(dsn, size=1)
        with opened(bench, sealer) as work:
            claimed, guarded_call = work.claim(), gate(work, spec("look"))
            with elsewhere.transaction() as tx:
                tx.put_stop(Stop("all", "fire", "", "ops"))
            with pytest.raises(CallFailed, match="stopped"):
                guarded_call.call(claimed, "look", {}, occurrence=0)
            with elsewhere.transaction() as tx:
                tx.remove_stop("", "all")
            assert isinstance(guarded_call.call(claimed, "look", {}, occurrence=0), ToolResult)
        elsewhere.close()
        bench.close()

    def test_calls_nothing_while_what_is_stopped_cannot_be_read(self, dsn, sealer, hand):
        bench = PostgresBench(dsn)
        with opened(bench, sealer) as work:
            claimed = work.claim()
            hand.execute("ALTER TABLE stop RENAME TO stopped")

            with pytest.raises(psycopg.errors.UndefinedTable):
                gate(work, spec("look")).call(claimed, "look", {}, occurrence=0)

            assert work.witness.calls == []
            assert work.audit(claimed.ref.plan_id, "tool.intent") == []
            hand.execute("ALTER TABLE stopped RENAME TO stop")
        bench.close()


@pytest.fixture
def as_json(dsn, tmp_path, monkeypatch, capsys):
    """Run a verb over the test's own database, in this process."""
    for name in [n for n in os.environ if n.startswith(settings.PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ORCHESTRATOR_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", dsn)

    def run(*arguments):
        code = cli.run([*arguments, "--json"])
        out, _ = capsys.readouterr()
        return code, json.loads(out) if out else None

    yield run
    logging.disable(logging.NOTSET)
    structlog.reset_defaults()


class TestOnTheCommandLine:
    def test_a_stop_holds_everywhere_until_it_is_lifted(self, as_json, pg_store):
        code, told = as_json("policy", "stop", "agent:coder", "--reason", "Wait for the new sandbox.")

        (made,) = told["stops"]
        assert (code, made["target"], made["tenant"], made["by"]) == (
            exits.FINE,
            "agent:coder",
            None,
            "local",
        )
        with pg_store.transaction() as tx:
            assert [(stop.tenant, stop.target) for stop in tx.stops("acme")] == [("", "agent:coder")]
        assert as_json("policy", "resume", "agent:coder") == (exits.FINE, {"stops": []})
        assert as_json("policy", "resume", "agent:coder")[0] == exits.NOT_FOUND

    def test_a_stop_of_one_tenant_is_that_tenant_s(self, as_json):
        _, told = as_json("policy", "stop", "tool:look", "--tenant", "acme", "--reason", "x")
        assert [(stop["tenant"], stop["target"]) for stop in told["stops"]] == [("acme", "tool:look")]
        assert as_json("policy", "resume", "tool:look")[0] == exits.NOT_FOUND
        assert as_json("policy", "resume", "tool:look", "--tenant", "acme")[0] == exits.FINE

    def test_what_the_database_and_the_file_stop_is_listed_together(self, as_json):
        as_json("policy", "stop", "all", "--reason", "fire")
        as_json("policy", "stop", "tool:look", "--reason", "here only", "--file")

        _, told = as_json("policy", "stops")

        assert [(stop["target"], stop["where"]) for stop in told["stops"]] == [
            ("all", "database"),
            ("tool:look", "file"),
        ]

    def test_what_the_webhook_was_not_told_is_listed_and_sent_again(self, as_json, pg_store, sealer):
        rules = Rules(notify=True)
        conductor = Conductor(pg_store, sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.0, rules=rules)
        for tenant in ("acme", "rival"):
            plan = conductor.submit(request("Why?", tenant=tenant))
            claimed = conductor.begin(StepRef(plan.plan_id, 1), holder=1)
            assert conductor.report(claimed, Held("DECISION", "May it?", "d", ("operator",)))
        with pg_store.transaction() as tx:
            told = tx.notifications()
            assert all(tx.end_notification(each, NotificationState.GIVEN_UP, error="e") for each in told)

        listed = as_json("notifications", "list")[1]["notifications"]
        assert [(each["tenant"], each["state"]) for each in listed] == [
            ("acme", "given_up"),
            ("rival", "given_up"),
        ]
        assert as_json("notifications", "retry")[0] == exits.USAGE
        code, again = as_json("notifications", "retry", "--all", "--tenant", "acme")

        assert (code, [each["tenant"] for each in again["notifications"]]) == (exits.FINE, ["acme"])
        left = as_json("notifications", "list")[1]["notifications"]
        assert [each["tenant"] for each in left] == ["rival"]
        assert as_json("notifications", "retry", told[1].notification_id[:13])[0] == exits.FINE
        assert as_json("notifications", "retry", told[1].notification_id)[0] == exits.CONFLICT
