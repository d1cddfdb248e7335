"""The gate's promises: no call without a committed decision and intent, and nothing kept of a call that failed."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial

import psycopg
import pytest
import structlog

from orchestrator.domain.errors import BudgetSpent, Fenced, RequesterDecides, Unavailable, WrongRole
from orchestrator.domain.outcome import Faulted, Held
from orchestrator.domain.plan import Agent, CallState, PlanState, StepState, digest
from tests.contract.bench import InMemoryBench, PostgresBench
from tests.contract.workbench import DOCUMENT, ENFORCER, ROOT, TOOLS, eventually, opened, profile, spec
from workers.gate import policy
from workers.gate.gate import CallFailed, CallHeld, CallRefused
from workers.gate.policy import Decision
from workers.toolhost.host import ToolFailure, ToolHost
from workers.toolhost.registry import Registry, ServerSpec

STORES = [pytest.param("postgres", marks=pytest.mark.postgres), "inmemory"]
REVOKED = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN RAISE insufficient_privilege USING MESSAGE = 'permission denied for table audit'; END$$;
    CREATE TRIGGER refuse BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION refuse()
"""
RAW = ROOT / "tests" / "contract" / "raw_server.py"


@contextmanager
def bench_of(kind, request):
    bench = PostgresBench(request.getfixturevalue("dsn")) if kind == "postgres" else InMemoryBench()
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture(params=STORES)
def bench(request):
    with bench_of(request.param, request) as made:
        yield made


@pytest.fixture
def work(bench, sealer):
    with opened(bench, sealer) as made:
        yield made


@pytest.fixture
def light(sealer):
    """A workbench without a database, for what the store has no part in."""
    bench = InMemoryBench()
    with opened(bench, sealer) as made:
        yield made
    bench.close()


def answering(**changes):
    """An enforcer that gives one answer to everything."""
    usual = Decision("deny", (), "r1", "d1", "0" * 64, "test", 1)

    class Enforcer:
        revision = "r1"

        def judge(self, question):
            return replace(usual, **changes)

    return Enforcer()


class Broken:
    """An engine that has no answer."""

    name = "broken"
    revision = "r1"

    def __init__(self, answer):
        self._answer = answer

    def ask(self, package, text):
        if self._answer is None:
            raise OSError("The policy server is on fire.")
        return policy.Said(self._answer, self.revision)

    def forget(self):
        pass

    def judge(self, question):
        return policy.judge(self, policy.CAPABILITIES, question.document())


def nothing_happened(work, claimed):
    """No execution, no intent, no journal, no evidence and no spending."""
    plan = work.rows("plan", claimed.ref.plan_id)
    assert work.witness.calls == []
    assert work.audit(plan.plan_id, "tool.intent", "tool.outcome") == []
    assert work.rows("calls", plan.plan_id) == []
    assert (plan.spent.calls, plan.spent.tokens, plan.spent.cost_uusd) == (0, 0, 0)
    assert work.chain_holds(plan.plan_id)
    return True


class TestACallThatIsAllowed:
    def test_is_intended_before_it_is_made_and_concluded_after(self, work):
        claimed = work.claim()
        seen = []
        work.witness.at_call = lambda: seen.append(
            (
                [c.state for c in work.rows("calls", claimed.ref.plan_id)],
                work.audit(claimed.ref.plan_id, "tool.intent", "tool.outcome"),
            )
        )

        result = work.gate().call(claimed, "look", {"about": "locks"}, occurrence=0)

        ((states, records),) = seen
        assert states == [CallState.INTENDED]
        assert [(r["tool"], r["claim"]) for r in records] == [("look", claimed.claim)]
        assert records[0]["decision"]["effect"] == "allow"
        assert records[0]["decision"]["revision"] == ENFORCER.revision
        assert len(records[0]["decision"]["input_sha256"]) == 64
        (outcome,) = work.audit(claimed.ref.plan_id, "tool.outcome")
        assert (outcome["state"], outcome["evidence"]) == ("done", result.evidence)
        assert len(work.audit(claimed.ref.plan_id, "tool.intent")) == 1
        assert [tool for tool, _, _ in work.witness.calls] == ["look"]
        assert work.chain_holds(claimed.ref.plan_id)

    @pytest.mark.postgres
    def test_is_known_to_every_other_connection_when_it_is_made(self, dsn, sealer):
        bench = PostgresBench(dsn)
        seen = []
        with opened(bench, sealer) as work, psycopg.connect(dsn, autocommit=True) as other:
            claimed = work.claim()
            asks = """
                SELECT call.state, call.claim, step.claim, audit.kind, convert_from(audit.body, 'utf8')::json ->> 'claim'
                  FROM call JOIN step ON step.plan_id = call.plan_id AND step.number = call.step
                            JOIN audit ON audit.chain = call.plan_id AND audit.kind = 'tool.intent'
            """
            work.witness.at_call = lambda: seen.extend(other.execute(asks).fetchall())

            work.gate().call(claimed, "look", {}, occurrence=0)

        bench.close()
        assert seen == [("intended", claimed.claim, claimed.claim, "tool.intent", str(claimed.claim))]

    def test_leaves_a_document_as_its_text_and_anything_else_as_json(self, work):
        claimed, gate = work.claim(), work.gate()

        document = gate.call(claimed, "fetch", {"locator": "locks.md"}, occurrence=0)
        other = gate.call(claimed, "look", {"about": "locks"}, occurrence=0)

        stored = work.rows("evidence", "default", document.evidence)
        assert (stored.text, stored.locator, stored.title) == (DOCUMENT, "locks.md", "Locks")
        assert '"about":"locks"' in work.rows("evidence", "default", other.evidence).text
        (kept,) = [c.result for c in work.rows("calls", claimed.ref.plan_id) if c.tool == "fetch"]
        assert "text" not in kept

    def test_is_answered_from_the_journal_ever_after(self, work):
        claimed, gate = work.claim(), work.gate()
        asked = [("fetch", {"locator": "locks.md"}), ("look", {"about": "locks 🔒"})]
        first = [gate.call(claimed, tool, arguments, occurrence=0) for tool, arguments in asked]
        spent = work.rows("plan", claimed.ref.plan_id).spent

        again = work.lose(claimed)
        second = [gate.call(again, tool, arguments, occurrence=0) for tool, arguments in asked]

        assert [dict(r.content) for r in second] == [dict(r.content) for r in first]
        assert [r.evidence for r in second] == [r.evidence for r in first]
        assert len(work.witness.calls) == 2
        assert work.rows("plan", claimed.ref.plan_id).spent == spent
        assert len(work.audit(claimed.ref.plan_id, "tool.intent")) == 2

    def test_is_another_call_when_it_occurs_again_in_the_step(self, work):
        claimed, gate = work.claim(), work.gate()

        results = [gate.call(claimed, "look", {}, occurrence=n).content["execution"] for n in (0, 1, 0)]

        assert results == [1, 2, 1]

    def test_is_not_answered_from_the_journal_of_another_step(self, work):
        claimed, gate = work.claim(), work.gate()
        gate.call(claimed, "look", {}, occurrence=0)
        other = work.claim(work.another(claimed.ref.plan_id))

        gate.call(other, "look", {}, occurrence=0)

        assert len(work.witness.calls) == 2
        assert len({key for _, _, key in work.witness.calls}) == 2


class TestNothingIsCalled:
    def test_when_policy_denies(self, work):
        claimed = work.claim()

        with pytest.raises(CallRefused) as refused:
            work.gate().call(claimed, "publish", {}, occurrence=0)

        assert refused.value.reason == "policy_denied"
        assert "missing_capability github.write" in refused.value.detail
        assert nothing_happened(work, claimed)

    def test_when_the_agent_has_no_profile(self, work):
        claimed = work.claim()

        with pytest.raises(CallRefused, match="agent_profile_missing"):
            work.gate(profiles={}).call(claimed, "look", {}, occurrence=0)

        assert nothing_happened(work, claimed)

    def test_when_nobody_knows_the_tool(self, work):
        claimed = work.claim()

        with pytest.raises(CallRefused) as refused:
            work.gate().call(claimed, "rm", {"path": "/"}, occurrence=0)

        assert refused.value.reason == "unknown_tool"
        assert nothing_happened(work, claimed)

    def test_when_a_human_must_approve(self, work):
        claimed = work.claim()

        with pytest.raises(CallHeld) as held:
            work.gate().call(claimed, "write", {"about": "x"}, occurrence=0)

        assert held.value.args_digest == digest(["write", {"about": "x"}])
        assert nothing_happened(work, claimed)

    @pytest.mark.parametrize(
        "answer",
        [
            None,
            "",
            "{}",
            "true",
            '{"allow": "true", "deny": []}',
            '{"allow": true}',
            '{"allow": true, "deny": [{"reason": "approval_required"}]}',
            '{"allow": false, "allow": true, "deny": []}',
            "<html>It works!</html>",
        ],
    )
    def test_when_the_policy_engine_gives_no_answer_that_can_be_read(self, light, answer):
        claimed = light.claim()

        with pytest.raises(CallFailed) as failed:
            light.gate(enforcer=Broken(answer)).call(claimed, "look", {}, occurrence=0)

        assert failed.value.reason == "policy_unavailable"
        assert nothing_happened(light, claimed)

    def test_when_the_embedded_engine_breaks(self, work):
        enforcer = policy.EmbeddedEnforcer(ROOT / "policies")
        enforcer._engine = Broken(None)
        claimed = work.claim()

        with pytest.raises(CallFailed, match="could not answer"):
            work.gate(enforcer=enforcer).call(claimed, "look", {}, occurrence=0)

        assert nothing_happened(work, claimed)

    @pytest.mark.parametrize("effect", ["deny", "require_approval", "allow"])
    def test_when_the_decision_says_that_it_failed_whatever_else_it_says(self, light, effect):
        claimed = light.claim()

        with pytest.raises(CallFailed):
            light.gate(enforcer=answering(effect=effect, failed=True)).call(claimed, "look", {}, occurrence=0)

        assert nothing_happened(light, claimed)

    @pytest.mark.parametrize("effect", ["", "ALLOW", "allowed", "maybe", None, True])
    def test_when_the_decision_is_of_no_known_kind(self, light, effect):
        claimed = light.claim()

        with pytest.raises(CallRefused):
            light.gate(enforcer=answering(effect=effect)).call(claimed, "look", {}, occurrence=0)

        assert nothing_happened(light, claimed)

    def test_when_a_tenants_name_is_none_that_a_policy_may_read(self, light):
        claimed = light.claim(light.submit(tenant='x", "allow": true, "y": "'))

        with pytest.raises(CallRefused, match=r"input\.well_formed"):
            light.gate().call(claimed, "look", {}, occurrence=0)

        assert nothing_happened(light, claimed)

    def test_when_the_intent_cannot_be_committed(self, bench, sealer):
        class Store:
            """Loses the database once a call was intended."""

            down = False

            @contextmanager
            def transaction(self):
                with bench.store.transaction() as tx:
                    yield tx
                    if self.down:
                        raise Unavailable("Postgres does not answer.")

        store = Store()
        with opened(bench, sealer, store=store) as work:
            claimed = work.claim()
            store.down = True

            with pytest.raises(Unavailable):
                work.gate().call(claimed, "look", {}, occurrence=0)

            assert nothing_happened(work, claimed)

    @pytest.mark.postgres
    @pytest.mark.parametrize(
        "fault",
        [
            REVOKED,
            "ALTER TABLE audit RENAME TO audit_gone",
            "DROP TABLE audit",
            "DROP TABLE call",
            "ALTER TABLE audit ADD CONSTRAINT full_disk CHECK (kind <> 'tool.intent')",
        ],
        ids=["revoked", "renamed", "dropped", "journal dropped", "intents refused"],
    )
    def test_when_the_audit_takes_no_intent(self, dsn, sealer, fault):
        bench = PostgresBench(dsn)
        with opened(bench, sealer) as work:
            claimed = work.claim()
            bench._hand.execute(fault)

            with pytest.raises((psycopg.Error, Unavailable)):
                work.gate().call(claimed, "look", {}, occurrence=0)

            assert work.witness.calls == []
            assert bench._hand.execute("SELECT spent_calls, audit_count FROM plan").fetchall() == [(0, 1)]
        bench.close()

    @pytest.mark.postgres
    def test_when_the_database_only_reads(self, dsn, sealer):
        bench = PostgresBench(dsn)
        with opened(bench, sealer) as work:
            claimed = work.claim()
            name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
            bench._hand.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            bench.store.close()
            read_only = PostgresBench(dsn)

            with pytest.raises((psycopg.Error, Unavailable)):
                work.gate(conductor=work.conductor_on(read_only.store)).call(
                    claimed, "look", {}, occurrence=0
                )

            assert work.witness.calls == []
            assert bench._hand.execute("SELECT count(*) FROM call").fetchall() == [(0,)]
            read_only.close()
        bench.close()

    @pytest.mark.parametrize(
        ("budget", "tool"), [({"calls": 0}, "look"), ({"cost_uusd": 399}, "costly")], ids=["calls", "money"]
    )
    def test_when_the_budget_is_spent(self, work, budget, tool):
        claimed = work.claim(work.submit(budget=budget))

        with pytest.raises(BudgetSpent):
            work.gate().call(claimed, tool, {}, occurrence=0)

        assert nothing_happened(work, claimed)

    def test_by_a_worker_that_lost_its_claim(self, work):
        claimed = work.claim()
        work.lose(claimed)

        with pytest.raises(Fenced):
            work.gate().call(claimed, "look", {}, occurrence=0)

        assert nothing_happened(work, claimed)

    def test_for_a_plan_that_was_called_off(self, work):
        claimed = work.claim()
        work.conductor.cancel(claimed.ref.plan_id, by="ada")

        with pytest.raises(Fenced):
            work.gate().call(claimed, "look", {}, occurrence=0)

        assert nothing_happened(work, claimed)


class TestWhatAnAgentMayKnowOfTools:
    def test_is_what_its_own_profile_lets_it_call(self, light):
        cards = light.gate().cards(Agent.RESEARCHER)

        assert {card.name for card in cards} == {t.name for t in TOOLS if t.capability != "github.write"}

    def test_is_for_a_planner_what_those_may_call_who_carry_out_its_plan(self, light):
        profiles = {
            "planner": profile(Agent.PLANNER, "model.invoke"),
            "researcher": profile(Agent.RESEARCHER, "repo.write"),
            "critic": profile(Agent.CRITIC, "github.write"),
        }
        gate = light.gate(profiles=profiles)

        assert [card.name for card in gate.cards(Agent.PLANNER)] == ["write"]
        assert [card.name for card in gate.cards(Agent.CRITIC)] == ["publish"]
        assert gate.cards(Agent.JUDGE) == []

    def test_never_is_a_tool_that_is_not_offered(self, light):
        gate = light.gate(registry=light.tools.without({"look": "It is dark."}))

        assert "look" not in {card.name for card in gate.cards(Agent.RESEARCHER)}


class TestTheBudget:
    @pytest.mark.postgres
    def test_is_never_exceeded_by_calls_made_at_once(self, dsn, sealer):
        bench = PostgresBench(dsn)
        with opened(bench, sealer) as work:
            ref = work.submit(budget={"calls": 3})
            claims = [work.claim(ref), *(work.claim(work.another(ref.plan_id)) for _ in range(5))]
            gate, refused = work.gate(), []

            def call(claimed):
                try:
                    gate.call(claimed, "look", {}, occurrence=0)
                except BudgetSpent as spent:
                    refused.append(spent)

            threads = [threading.Thread(target=call, args=(claimed,)) for claimed in claims]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

            assert (len(work.witness.calls), len(refused)) == (3, 3)
            assert work.rows("plan", ref.plan_id).spent.calls == 3
            assert work.chain_holds(ref.plan_id)
        bench.close()

    def test_is_charged_what_a_tool_costs(self, work):
        claimed = work.claim(work.submit(budget={"cost_uusd": 1_000}))
        gate = work.gate()

        for n in (0, 1):
            gate.call(claimed, "costly", {}, occurrence=n)
        with pytest.raises(BudgetSpent, match="micro-dollars"):
            gate.call(claimed, "costly", {}, occurrence=2)

        assert work.rows("plan", claimed.ref.plan_id).spent.cost_uusd == 800


class TestACallThatFailed:
    @pytest.mark.parametrize(
        ("tool", "arguments", "reason", "state"),
        [
            ("fails", {}, "tool_error", CallState.FAILED),
            ("crashes", {}, "tool_error", CallState.FAILED),
            ("look", {"about": {"no": "text"}}, "tool_error", CallState.FAILED),
            ("unwritable", {"what": "text"}, "invalid_result", CallState.UNKNOWN),
            ("unwritable", {"what": "error"}, "tool_error", CallState.FAILED),
            ("hangs_async", {}, "timed_out", CallState.UNKNOWN),
            ("hangs_sync", {}, "timed_out", CallState.UNKNOWN),
        ],
    )
    def test_leaves_why_it_failed_but_no_evidence_and_no_fact(self, work, tool, arguments, reason, state):
        claimed = work.claim()

        with pytest.raises(CallFailed) as failed:
            work.gate().call(claimed, tool, arguments, occurrence=0)

        assert failed.value.reason == reason
        (call,) = work.rows("calls", claimed.ref.plan_id)
        assert (call.state, call.evidence, call.result, bool(call.error)) == (
            state,
            None,
            {"reason": reason},
            True,
        )
        assert "\x00" not in call.error
        assert work.rows("facts", claimed.ref.plan_id) == []
        (outcome,) = work.audit(claimed.ref.plan_id, "tool.outcome")
        assert (outcome["state"], outcome["evidence"]) == (state, None)
        assert evidence_rows(work) == 0
        assert work.chain_holds(claimed.ref.plan_id)

    def test_keeps_what_it_reserved(self, work):
        claimed = work.claim()

        with pytest.raises(CallFailed):
            work.gate().call(claimed, "fails", {}, occurrence=0)

        assert work.rows("plan", claimed.ref.plan_id).spent.calls == 1

    def test_says_why_but_not_what_a_crash_said(self, light):
        claimed, gate = light.claim(), light.gate()

        with pytest.raises(CallFailed, match=r"^The disk is on fire\.$"):
            gate.call(claimed, "fails", {}, occurrence=0)
        with pytest.raises(CallFailed) as failed:
            gate.call(claimed, "crashes", {}, occurrence=0)

        assert "secret" not in failed.value.detail

    def test_because_its_result_was_too_large_leaves_nothing(self, light):
        claimed = light.claim()

        with pytest.raises(CallFailed) as failed:
            light.gate().call(claimed, "huge", {}, occurrence=0)

        assert failed.value.reason == "result_too_large"
        assert evidence_rows(light) == 0

    def test_is_made_again_by_the_next_attempt(self, work):
        claimed, gate = work.claim(), work.gate()

        for _ in range(2):
            with pytest.raises(CallFailed):
                gate.call(claimed, "fails", {}, occurrence=0)

        assert len(work.witness.calls) == 2
        assert len(work.audit(claimed.ref.plan_id, "tool.intent")) == 2
        assert len(work.audit(claimed.ref.plan_id, "tool.outcome")) == 2

    def test_whose_evidence_is_gone_is_not_answered_from_memory(self, light):
        claimed, gate = light.claim(), light.gate()
        gate.call(claimed, "look", {}, occurrence=0)
        light.bench.rows.evidence_rows.clear()

        with pytest.raises(CallFailed) as failed:
            gate.call(claimed, "look", {}, occurrence=0)

        assert failed.value.reason == "evidence_missing"
        assert len(light.witness.calls) == 1


def evidence_rows(work):
    if isinstance(work.bench, InMemoryBench):
        return len(work.bench.rows.evidence_rows)
    return work.bench._hand.execute("SELECT count(*) FROM evidence").fetchone()[0]


class Lost(BaseException):
    """The worker is gone: nothing of it runs on."""


def lose_during(work, tool, arguments=None):
    """Let a worker die after its call was made and before that was recorded; the claim of the next worker."""
    claimed = work.claim()

    def die():
        work.witness.at_call = lambda: None
        raise Lost

    class Host:
        def call(self, *given, **rest):
            work.host.call(*given, **rest)
            raise Lost

    with suppress(Lost):
        work.gate(host=Host()).call(claimed, tool, arguments or {}, occurrence=0)
    assert len(work.witness.calls) == 1
    return work.lose(claimed)


class TestACallOfWhichNobodyKnowsWhatBecame:
    def test_is_repeated_when_that_does_nothing_more(self, work):
        again = lose_during(work, "look")
        (call,) = work.rows("calls", again.ref.plan_id)
        assert call.state is CallState.UNKNOWN
        assert len(work.audit(again.ref.plan_id, "tool.unknown")) == 1

        work.gate().call(again, "look", {}, occurrence=0)

        assert len(work.witness.calls) == 2

    def test_is_repeated_under_the_same_key_when_its_server_knows_keys(self, work):
        again = lose_during(work, "send_keyed", {"about": "x"})

        work.gate().call(again, "send_keyed", {"about": "x"}, occurrence=0)

        first, second = work.witness.calls
        assert first == second
        assert len(first[2]) == 64

    def test_is_not_repeated_when_that_does_harm(self, work):
        again = lose_during(work, "send_once")

        with pytest.raises(CallHeld, match="may have happened"):
            work.gate().call(again, "send_once", {}, occurrence=0)

        assert len(work.witness.calls) == 1

    @pytest.mark.parametrize("tool", ["hangs_once"])
    def test_because_it_gave_no_answer_in_time_is_not_repeated_when_that_does_harm(self, work, tool):
        claimed, gate = work.claim(), work.gate()

        with pytest.raises(CallFailed, match="did not answer"):
            gate.call(claimed, tool, {}, occurrence=0)
        with pytest.raises(CallHeld, match="may have happened"):
            gate.call(claimed, tool, {}, occurrence=0)

        assert len(work.witness.calls) == 1

    def test_is_not_unknown_when_its_server_said_that_it_failed(self, work):
        claimed, gate = work.claim(), work.gate()

        for _ in range(2):
            with pytest.raises(CallFailed, match="on fire"):
                gate.call(claimed, "fails_once", {}, occurrence=0)

        assert len(work.witness.calls) == 2


def hold(work, claimed, held):
    """Do what the executor does with a call that is held; the approval that was asked for."""
    question = Held("DECISION", held.question, held.args_digest, roles=("approver", "operator"))
    assert work.conductor.report(claimed, question)
    approvals = work.rows("approvals")
    return next(a for a in approvals if a.step == claimed.ref.number and a.plan_id == claimed.ref.plan_id)


def held_call(work, claimed, tool, arguments=None):
    with pytest.raises(CallHeld) as held:
        work.gate().call(claimed, tool, arguments or {}, occurrence=0)
    return hold(work, claimed, held.value)


class TestAHumansDecision:
    def test_lets_a_call_be_made_that_needed_approval(self, work):
        claimed = work.claim()
        asked = held_call(work, claimed, "write", {"about": "x"})
        assert work.rows("plan", claimed.ref.plan_id).state is PlanState.WAITING_APPROVAL

        work.conductor.decide(asked.approval_id, approve=True, by="grace", roles=["approver"])
        work.gate().call(work.claim(claimed.ref), "write", {"about": "x"}, occurrence=0)

        assert len(work.witness.calls) == 1
        (intent,) = work.audit(claimed.ref.plan_id, "tool.intent")
        assert intent["decision"]["effect"] == "allow"

    def test_lets_an_unknown_call_be_made_exactly_once_more(self, work):
        again = lose_during(work, "send_once")
        asked = held_call(work, again, "send_once")

        work.conductor.decide(asked.approval_id, approve=True, by="grace", roles=["operator"])
        third = work.claim(again.ref)
        results = [work.gate().call(third, "send_once", {}, occurrence=0) for _ in range(3)]

        assert len(work.witness.calls) == 2
        assert len({r.evidence for r in results}) == 1

    def test_does_not_cover_a_second_loss_of_the_same_call(self, work):
        again = lose_during(work, "send_once")
        asked = held_call(work, again, "send_once")
        work.conductor.decide(asked.approval_id, approve=True, by="grace", roles=["operator"])
        third = work.claim(again.ref)

        class Host:
            def call(self, *given, **rest):
                work.host.call(*given, **rest)
                raise Lost

        with suppress(Lost):
            work.gate(host=Host()).call(third, "send_once", {}, occurrence=0)
        fourth = work.lose(third)

        with pytest.raises(CallHeld):
            work.gate().call(fourth, "send_once", {}, occurrence=0)
        assert len(work.witness.calls) == 2

    @pytest.mark.parametrize("tool", ["send_once", "write"])
    def test_against_it_ends_the_plan_without_the_call(self, work, tool):
        claimed = work.claim() if tool == "write" else lose_during(work, tool)
        before = len(work.witness.calls)
        asked = held_call(work, claimed, tool)

        work.conductor.decide(asked.approval_id, approve=False, by="grace", roles=["approver"])

        assert work.rows("plan", claimed.ref.plan_id).state is PlanState.REJECTED
        assert work.rows("step", claimed.ref).state is StepState.REJECTED
        assert work.conductor.begin(claimed.ref, holder=9) is None
        with pytest.raises((Fenced, CallHeld)):
            work.gate().call(claimed, tool, {}, occurrence=0)
        assert len(work.witness.calls) == before

    def test_counts_only_from_somebody_else_in_the_right_role(self, work):
        claimed = work.claim(work.submit(requester="ada"))
        asked = held_call(work, claimed, "write")

        with pytest.raises(RequesterDecides):
            work.conductor.decide(asked.approval_id, approve=True, by="ada", roles=["approver"])
        with pytest.raises(WrongRole):
            work.conductor.decide(asked.approval_id, approve=True, by="grace", roles=["reader"])

        assert work.rows("step", claimed.ref).state is StepState.WAITING_APPROVAL
        assert work.witness.calls == []

    def test_about_other_arguments_does_not_count(self, work):
        claimed = work.claim()
        asked = held_call(work, claimed, "write", {"about": "a comment"})
        work.conductor.decide(asked.approval_id, approve=True, by="grace", roles=["approver"])

        with pytest.raises(CallHeld):
            work.gate().call(work.claim(claimed.ref), "write", {"about": "the main branch"}, occurrence=0)

        assert work.witness.calls == []

    def test_about_another_step_or_plan_does_not_count(self, work):
        claimed = work.claim()
        asked = held_call(work, claimed, "write")
        work.conductor.decide(asked.approval_id, approve=True, by="grace", roles=["approver"])

        for other in (work.claim(work.another(claimed.ref.plan_id)), work.claim()):
            with pytest.raises(CallHeld):
                work.gate().call(other, "write", {}, occurrence=0)

        assert work.witness.calls == []


class TestAToolThatHangs:
    @pytest.mark.parametrize("tool", ["hangs_sync", "hangs_async"])
    def test_holds_up_no_later_call(self, light, tool):
        claimed, gate = light.claim(), light.gate()

        with pytest.raises(CallFailed) as failed:
            gate.call(claimed, tool, {}, occurrence=0)

        assert failed.value.reason == "timed_out"
        assert gate.call(claimed, "look", {"about": "x"}, occurrence=0).content["about"] == "x"


@pytest.fixture
def child(tmp_path, monkeypatch):
    """A host whose server is a child process on standard streams; its witness is a file."""
    witness = tmp_path / "witness"
    witness.touch()
    monkeypatch.setenv("WITNESS_REGION", "north")
    monkeypatch.setenv("ORCHESTRATOR_MODEL_KEY", "a planted secret")
    monkeypatch.setenv("DATABASE_PASSWORD", "another planted secret")
    names = ("echo", "environment", "dies", "lies", "garbles", "twice", "missing")
    tools = {name: spec(name, server="child", timeout_s=1.0, semantics="at_most_once") for name in names}
    command = (sys.executable, str(RAW), str(witness))
    server = ServerSpec("child", None, command, ("WITNESS_REGION", "NOT_SET_ANYWHERE"))
    host = ToolHost(Registry(tools, {"child": server}), {})
    yield host, tools, witness
    host.close()


def call_child(child, name, arguments=None):
    host, tools, _ = child
    return host.call(tools[name], arguments or {}, timeout_s=tools[name].timeout_s, key="k" * 64)


class TestAChildServer:
    def test_sees_only_the_variables_it_is_allowed(self, child):
        seen = call_child(child, "environment")

        standard = {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"}
        added_by_python = {"LC_CTYPE", "__CF_USER_TEXT_ENCODING"}
        assert seen["WITNESS_REGION"] == "north"
        assert set(seen) - standard - added_by_python == {"WITNESS_REGION"}
        assert not any("planted" in value for value in seen.values())
        assert "planted" in os.environ["DATABASE_PASSWORD"]

    def test_that_dies_during_a_call_is_started_again_by_the_next(self, child):
        assert call_child(child, "echo", {"n": 1}) == {"n": 1}

        with pytest.raises(ToolFailure) as failure:
            call_child(child, "dies")

        assert (failure.value.reason, failure.value.unsure) == ("server_gone", True)
        assert call_child(child, "echo", {"n": 2}) == {"n": 2}

    @pytest.mark.parametrize(("tool", "reason"), [("lies", "invalid_result"), ("garbles", "timed_out")])
    def test_whose_answer_cannot_be_read_leaves_it_open_what_happened(self, child, tool, reason):
        with pytest.raises(ToolFailure) as failure:
            call_child(child, tool)

        assert (failure.value.reason, failure.value.unsure) == (reason, True)
        assert call_child(child, "echo", {"n": 3}) == {"n": 3}

    def test_that_answers_twice_is_heard_once(self, child):
        assert call_child(child, "twice") == {"number": 1}
        assert call_child(child, "echo", {"n": 4}) == {"n": 4}

    def test_that_cannot_be_started_is_a_failure_in_which_nothing_happened(self, tmp_path):
        tools = {"echo": spec("echo", server="child")}
        server = ServerSpec("child", None, (str(tmp_path / "no-such-program"),), ())
        host = ToolHost(Registry(tools, {"child": server}), {})

        with pytest.raises(ToolFailure) as failure:
            host.call(tools["echo"], {}, timeout_s=1.0, key="k")

        host.close()
        assert (failure.value.reason, failure.value.unsure) == ("server_down", False)

    def test_is_given_the_idempotency_key_beside_the_arguments(self, child):
        call_child(child, "echo", {"n": 5})

        assert '{"orchestrator/idempotency-key": "' + "k" * 64 + '"}' in child[2].read_text()


def test_a_step_that_faults_after_an_unanswered_call_still_knows_that_it_is_unanswered(light):
    claimed = light.claim()
    with pytest.raises(CallFailed):
        light.gate().call(claimed, "hangs_once", {}, occurrence=0)

    assert light.conductor.report(claimed, Faulted("timed_out", "It did not answer."))

    (call,) = light.rows("calls", claimed.ref.plan_id)
    assert call.state is CallState.UNKNOWN
    assert light.rows("step", claimed.ref).state is StepState.RETRYING


class Inside:
    """Counts who is in the middle of a call; the first one stays there until it is let go of."""

    def __init__(self, work):
        self.let_go = threading.Event()
        self.entered, self.most = 0, 0
        self._inside = 0
        self._guard = threading.Lock()
        work.witness.at_call = self._call

    def _call(self):
        with self._guard:
            self.entered += 1
            self._inside += 1
            self.most = max(self.most, self._inside)
            first = self.entered == 1
        if first:
            self.let_go.wait(60)
        with self._guard:
            self._inside -= 1


def in_background(call):
    """Start a call, and return how to wait for what it comes to."""
    came = []

    def run():
        try:
            came.append(call())
        except Fenced as error:
            came.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def result():
        thread.join(60)
        return came[0]

    return result


class TestACallThatALostWorkerStillMakes:
    """The worker was taken for dead, and its successor comes to the same call while it is still at it."""

    def test_is_waited_for_so_that_they_do_not_make_it_at_once(self, work, monkeypatch):
        monkeypatch.setattr("workers.gate.gate._TURN", timedelta(seconds=20))
        inside, gate = Inside(work), work.gate()
        lost = work.claim()
        first = in_background(lambda: gate.call(lost, "look", {}, occurrence=0))
        assert eventually(lambda: inside.entered)
        successor = work.lose(lost)
        second = in_background(lambda: gate.call(successor, "look", {}, occurrence=0))
        assert not eventually(lambda: inside.entered > 1, within_s=0.3)
        inside.let_go.set()

        assert isinstance(first(), Fenced)
        assert second().content["about"] == ""
        assert (inside.entered, inside.most) == (2, 1)
        assert work.chain_holds(lost.ref.plan_id)

    def test_is_not_waited_for_for_long(self, work):
        inside, gate = Inside(work), work.gate()
        lost = work.claim()
        first = in_background(lambda: gate.call(lost, "look", {}, occurrence=0))
        assert eventually(lambda: inside.entered)
        successor = work.lose(lost)
        with structlog.testing.capture_logs() as said:
            made = gate.call(successor, "look", {}, occurrence=0)
        inside.let_go.set()

        assert made.content["about"] == ""
        assert "lock.contended" in [line["event"] for line in said]
        assert isinstance(first(), Fenced)
        assert inside.most == 2

    def test_keeps_no_other_call_waiting(self, work):
        inside, gate = Inside(work), work.gate()
        claimed = work.claim()
        first = in_background(lambda: gate.call(claimed, "look", {}, occurrence=0))
        assert eventually(lambda: inside.entered)
        with structlog.testing.capture_logs() as said:
            gate.call(claimed, "look", {}, occurrence=1)
            gate.call(claimed, "look", {"about": "keys"}, occurrence=0)
            gate.call(work.claim(), "look", {}, occurrence=0)
        inside.let_go.set()

        assert first().content["about"] == ""
        assert "lock.contended" not in [line["event"] for line in said]


class TestAnExclusiveTool:
    def test_is_called_by_one_at_a_time_whoever_asks(self, work):
        inside, gate = Inside(work), work.gate()
        claims = [work.claim() for _ in range(3)]
        calls = [in_background(partial(gate.call, claimed, "drill", {}, occurrence=0)) for claimed in claims]
        assert eventually(lambda: inside.entered)
        assert not eventually(lambda: inside.entered > 1, within_s=0.3)
        inside.let_go.set()

        assert all(call().content["about"] == "" for call in calls)
        assert (inside.entered, inside.most) == (3, 1)

    def test_is_called_after_its_timeout_whoever_holds_it(self, light):
        with light.locks.hold("tool:drill_briefly", ttl=timedelta(minutes=5)):
            made = light.gate().call(light.claim(), "drill_briefly", {}, occurrence=0)
        assert made.content["about"] == ""

    def test_is_not_called_by_who_lost_its_claim_while_it_waited(self, light):
        lost = light.claim()
        with light.locks.hold("tool:drill", ttl=timedelta(minutes=5)):
            waiting = in_background(lambda: light.gate().call(lost, "drill", {}, occurrence=0))
            light.lose(lost)

        assert isinstance(waiting(), Fenced)
        assert nothing_happened(light, lost)

    def test_is_called_at_once_where_there_are_no_locks(self, light):
        inside, gate = Inside(light), light.gate(locks=None)
        first = in_background(lambda: gate.call(light.claim(), "drill", {}, occurrence=0))
        assert eventually(lambda: inside.entered)
        gate.call(light.claim(), "drill", {}, occurrence=0)
        inside.let_go.set()

        assert first().content["about"] == ""
        assert inside.most == 2
