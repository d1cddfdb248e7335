"""The conductor's verbs, each by example, over the store's twin in memory and a clock that stands at noon."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator import shapes
from orchestrator.conductor import AskHuman, CallAsk, Conductor, Proceed, Replayed, Rules, is_plain
from orchestrator.domain.budget import Budget, Spent
from orchestrator.domain.errors import (
    AlreadyDecided,
    BudgetSpent,
    Conflict,
    Fenced,
    IllegalMove,
    InvalidGoal,
    KeyReused,
    NotFound,
    RequesterDecides,
    WrongRole,
)
from orchestrator.domain.fairness import Tenant
from orchestrator.domain.lifecycle import ALIVE, PLAN_ENDS
from orchestrator.domain.outcome import Completed, Faulted, Held, Refused, Snoozed
from orchestrator.domain.plan import (
    Agent,
    ApprovalState,
    CallState,
    Evidence,
    Fact,
    PlanState,
    Semantics,
    StepRef,
    StepState,
    digest,
    request,
)
from orchestrator.domain.retry import Backoff
from orchestrator.inmemory import InMemoryStore
from orchestrator.messages import Message, Topic
from orchestrator.vault.chain import Sealer

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SEALER = Sealer(b"a key for tests")
HELD_DIGEST = "digest of the arguments"
HELD = Held("policy", "May it?", HELD_DIGEST)
REPORT = {"title": "A report"}
QUESTIONS = ({"question": "one"}, {"question": "two"})
VERDICTS = {
    Agent.ROUTER: Completed("deep"),
    Agent.PLANNER: Completed("planned", follow_ups=QUESTIONS),
    Agent.RESEARCHER: Completed("found"),
    Agent.KEEPER: Completed("sufficient"),
    Agent.GENERATOR: Completed("drafted"),
    Agent.CRITIC: Completed("critiqued"),
    Agent.JUDGE: Completed("accept", result={"confidence": 1.0}),
    Agent.SYNTHESISER: Completed("written", report=REPORT),
}


class House:
    """A conductor with its store, its clock, and the few things that tests do again and again."""

    def __init__(self, **rules):
        self.now = NOON
        self.dead = set()
        self.ids = 0
        self.store = InMemoryStore(lambda: self.now, alive=lambda holder: holder not in self.dead)
        self.conductor = Conductor(
            self.store,
            SEALER,
            new_id=self.new_id,
            draw=lambda: 0.5,
            rules=Rules(**({"max_attempts": 2, "backoff": Backoff(base_s=10)} | rules)),
        )

    def new_id(self):
        self.ids += 1
        return f"00000000-0000-4000-8000-{self.ids:012d}"

    def later(self, seconds):
        self.now += timedelta(seconds=seconds)

    def submit(self, **asked):
        return self.conductor.submit(request("Why?", **({"requester": "ann"} | asked)))

    def plan(self, plan):
        return self.store.plan_rows[plan.plan_id]

    def step(self, claimed):
        return self.store.step_rows[claimed.ref.plan_id][claimed.ref.number]

    def steps(self, plan):
        return list(self.store.step_rows[plan.plan_id].values())

    def step_of(self, plan, number):
        return self.store.step_rows[plan.plan_id][number]

    def begin(self, plan, number=1, holder=1):
        return self.conductor.begin(StepRef(plan.plan_id, number), holder=holder)

    def finish(self, plan, number, outcome=None, holder=1):
        """Begin a step, report it and settle it."""
        claimed = self.begin(plan, number, holder)
        assert self.conductor.report(claimed, outcome or VERDICTS[claimed.step.agent])
        self.conductor.settle(claimed.ref)
        return claimed

    def researching(self, **asked):
        """A plan with two researchers ready: steps 3 and 4."""
        plan = self.submit(**asked)
        self.finish(plan, 1)
        self.finish(plan, 2)
        return plan

    def finish_all(self, plan):
        """Carry a plan to its end with minds that agree."""
        while self.plan(plan).state in ALIVE:
            ready = [s for s in self.steps(plan) if s.state is StepState.READY]
            for step in ready:
                if claimed := self.begin(plan, step.number):
                    self.conductor.report(claimed, VERDICTS[step.agent])
            for step in self.steps(plan):
                self.conductor.settle(step.ref)

    def held(self, plan, number=1, args_digest=HELD_DIGEST):
        """Hold a step and return its approval."""
        held = Held("policy", "May it?", args_digest)
        self.conductor.report(self.begin(plan, number), held)
        return self.pending(plan)

    def pending(self, plan):
        with self.store.transaction() as tx:
            return tx.approvals(state=ApprovalState.PENDING, plan_id=plan.plan_id)[-1]

    def decide(self, approval, *, approve=True, by="bob", roles=("approver",)):
        return self.conductor.decide(approval.approval_id, approve=approve, by=by, roles=roles)

    def letters(self, plan, state="open"):
        with self.store.transaction() as tx:
            return tx.dead_letters(state=state, plan_id=plan.plan_id)

    def kinds(self, plan):
        return [event.kind for event in self.store.event_rows[plan.plan_id]]

    def audit(self, plan):
        return [record.kind for record in self.store.audit_rows[plan.plan_id]]

    def calls(self, plan):
        with self.store.transaction() as tx:
            return tx.calls(plan.plan_id)

    def empty_outbox(self):
        with self.store.transaction() as tx:
            return list(tx.take_outbox(1000))

    def verifies(self, plan):
        row = self.plan(plan)
        records = self.store.audit_rows[plan.plan_id]
        return SEALER.verify(row.plan_id, records, count=row.audit_count, head=row.audit_head) is None


@pytest.fixture
def house():
    return House()


def ask(key="k", semantics=Semantics.IDEMPOTENT, reserve=None, occurrence=0):
    reserve = reserve or Spent(calls=1, tokens=100)
    return CallAsk("search", key, occurrence, semantics, {"query": "q"}, {"allow": True}, reserve)


def fact(claimed, number=1):
    source = Evidence.of("q", locator="doc")
    return Fact(claimed.ref.number, number, "q", source.sha256, 0, 1, "doc")


class TestAGoal:
    def test_becomes_a_queued_plan_with_its_first_step_and_a_doorbell(self, house):
        plan = house.submit()
        assert plan.state is PlanState.QUEUED
        assert plan.deadline == NOON + timedelta(seconds=3600)
        assert [(s.agent, s.state) for s in house.steps(plan)] == [(Agent.ROUTER, StepState.READY)]
        assert house.empty_outbox() == [Message(Topic.STEPS, StepRef(plan.plan_id, 1))]
        assert house.kinds(plan) == ["plan.submitted"]
        assert house.audit(plan) == ["plan.submitted"]

    def test_with_a_key_makes_one_plan_however_often_it_comes(self, house):
        first = house.submit(key="a")
        house.finish(first, 1)
        assert house.submit(key="a").plan_id == first.plan_id
        assert len(house.store.plan_rows) == 1

    def test_with_the_key_of_another_request_is_refused(self, house):
        house.submit(key="a")
        with pytest.raises(KeyReused, match="was used for another request"):
            house.submit(key="a", depth=3)

    def test_of_another_tenant_may_use_the_same_key(self, house):
        assert house.submit(key="a").plan_id != house.submit(key="a", tenant="acme").plan_id

    def test_without_a_key_is_a_new_plan_each_time(self, house):
        assert house.submit().plan_id != house.submit().plan_id

    def test_is_not_kept_in_the_audit_in_clear(self, house):
        assert b"Why?" not in house.store.audit_rows[house.submit().plan_id][0].body


class TestAReadyStep:
    def test_is_begun_by_one_worker_only(self, house):
        plan = house.submit()
        assert house.begin(plan, holder=1).claim == 1
        assert house.begin(plan, holder=2) is None

    def test_starts_its_plan_and_costs_an_attempt(self, house):
        plan = house.submit()
        claimed = house.begin(plan)
        assert house.plan(plan).state is PlanState.RUNNING
        assert (claimed.step.attempt, claimed.step.holder) == (1, 1)
        assert claimed.step.leased_until == NOON + house.conductor.rules.lease

    def test_is_not_begun_before_its_time(self, house):
        plan = house.submit()
        house.conductor.report(house.begin(plan), Snoozed(60))
        house.later(59)
        assert house.begin(plan) is None
        house.later(1)
        assert house.begin(plan).claim == 2

    def test_of_a_plan_that_ended_is_not_begun(self, house):
        plan = house.submit()
        house.conductor.cancel(plan.plan_id, by="ann")
        assert house.begin(plan) is None

    def test_that_does_not_exist_is_said_not_to(self, house):
        plan = house.submit()
        with pytest.raises(NotFound, match="no step 7"):
            house.begin(plan, 7)
        with pytest.raises(NotFound, match="no plan"):
            house.conductor.begin(StepRef("other", 1), holder=1)

    def test_of_research_is_skipped_when_the_time_is_up(self, house):
        plan = house.researching(budget=Budget(seconds=60))
        house.later(60)
        assert house.begin(plan, 3) is None
        assert house.steps(plan)[2].state is StepState.SKIPPED
        assert house.plan(plan).partial
        assert house.empty_outbox()[-1] == Message(Topic.COMPLETIONS, StepRef(plan.plan_id, 3))

    def test_of_writing_is_begun_though_the_time_is_up(self, house):
        plan = house.submit(budget=Budget(seconds=60))
        house.finish(plan, 1, Completed("casual"))
        house.later(61)
        assert house.begin(plan, 2).step.agent is Agent.SYNTHESISER


class TestB48APlanOfTasks:
    PLAN = {"v": 1, "tasks": [{"id": "t1", "question": "What is a lock?"}]}  # noqa: RUF012 - read only

    def planned(self, house):
        plan = house.submit()
        house.finish(plan, 1)
        outcome = Completed("planned", plan=self.PLAN, result={"plan_sha256": digest(self.PLAN)})
        house.finish(plan, 2, outcome)
        return plan

    def test_b48_stands_in_the_sealed_audit_word_for_word_with_its_digest(self, house):
        plan = self.planned(house)

        (record,) = [r for r in house.store.audit_rows[plan.plan_id] if r.kind == "plan.planned"]
        body = json.loads(record.body)
        assert (body["step"], body["plan"], body["sha256"]) == (2, self.PLAN, digest(self.PLAN))
        found = house.plan(plan)
        records = house.store.audit_rows[plan.plan_id]
        assert SEALER.verify(plan.plan_id, records, count=found.audit_count, head=found.audit_head) is None

    def test_b48_is_no_secret_to_whoever_may_see_the_plan(self, house):
        plan = self.planned(house)

        assert shapes.planned(house.steps(plan)) == {"sha256": digest(self.PLAN), "plan": self.PLAN}
        assert shapes.planned(house.steps(house.submit())) is None

    def test_b48_is_never_recorded_without_the_audit(self, house):
        assert not is_plain(Completed("planned", plan=self.PLAN))


class TestARunningStep:
    def test_that_completes_leaves_its_facts_an_event_and_a_completion(self, house):
        plan = house.researching()
        claimed = house.begin(plan, 3)
        house.empty_outbox()
        assert house.conductor.report(claimed, Completed("found", facts=[fact(claimed)]))
        row = house.step(claimed)
        assert (row.state, row.verdict, row.holder, row.leased_until) == (
            StepState.SUCCEEDED,
            "found",
            None,
            None,
        )
        assert house.store.fact_rows[plan.plan_id] == [fact(claimed)]
        assert house.kinds(plan)[-1] == "step.succeeded"
        assert house.empty_outbox() == [Message(Topic.COMPLETIONS, claimed.ref)]

    def test_is_reported_once(self, house):
        claimed = house.begin(house.submit())
        assert house.conductor.report(claimed, Completed("deep"))
        before = house.plan(claimed.plan)
        for outcome in (Completed("deep"), Snoozed(1), HELD, Faulted("r", "d"), Refused("r", "d")):
            assert not house.conductor.report(claimed, outcome)
        assert house.plan(claimed.plan) == before

    def test_that_snoozes_comes_back_later_and_pays_no_attempt(self, house):
        claimed = house.begin(house.submit())
        assert house.conductor.report(claimed, Snoozed(60, "too early"))
        row = house.step(claimed)
        assert (row.state, row.attempt, row.reason) == (StepState.READY, 0, "too early")
        assert row.run_after == NOON + timedelta(seconds=60)

    def test_that_snoozes_for_no_time_rings_at_once(self, house):
        claimed = house.begin(house.submit())
        house.empty_outbox()
        house.conductor.report(claimed, Snoozed(0))
        assert house.empty_outbox() == [Message(Topic.STEPS, claimed.ref)]

    def test_that_faults_is_tried_again_after_a_while(self, house):
        plan = house.submit()
        claimed = house.begin(plan)
        assert house.conductor.report(claimed, Faulted("timeout", "It took too long."))
        row = house.step(claimed)
        assert (row.state, row.attempt, row.reason) == (StepState.RETRYING, 1, "It took too long.")
        assert row.run_after == NOON + timedelta(seconds=5)
        house.later(5)
        assert house.conductor.wake() == 1
        assert house.begin(plan).step.attempt == 2

    def test_that_faults_on_its_last_attempt_is_dead_and_listed(self, house):
        plan = house.submit()
        house.conductor.report(house.begin(plan), Faulted("timeout", "It took too long."))
        house.later(5)
        house.conductor.wake()
        claimed = house.begin(plan)
        house.empty_outbox()
        house.conductor.report(claimed, Faulted("timeout", "It took too long again."))
        assert house.step(claimed).state is StepState.DEAD
        assert house.plan(plan).state is PlanState.DEAD_LETTERED
        (letter,) = house.letters(plan)
        assert (letter.step, letter.reason, letter.detail) == (1, "timeout", "It took too long again.")
        assert letter.attempts == 2
        assert house.empty_outbox() == [Message(Topic.DEAD, claimed.ref)]

    def test_that_cannot_be_mended_fails_its_plan_at_once_and_is_listed(self, house):
        plan = house.submit()
        claimed = house.begin(plan)
        house.conductor.report(claimed, Faulted("broken", "No.", retryable=False))
        assert house.step(claimed).state is StepState.FAILED
        assert house.plan(plan).state is PlanState.FAILED
        assert house.letters(plan)[0].reason == "broken"

    def test_that_is_refused_rejects_its_plan_and_cancels_the_rest(self, house):
        plan = house.researching()
        house.conductor.report(house.begin(plan, 3), Refused("missing_capability", "Policy said no."))
        assert house.plan(plan).state is PlanState.REJECTED
        assert [s.state for s in house.steps(plan)[2:]] == [StepState.REJECTED, StepState.CANCELLED]

    def test_keeps_its_lease_by_renewing(self, house):
        claimed = house.begin(house.submit())
        house.later(20)
        assert house.conductor.renew(claimed)
        house.later(20)
        assert house.conductor.rescue() == 0

    def test_that_a_limit_cut_short_makes_its_plan_partial(self, house):
        plan = house.researching()
        house.conductor.report(house.begin(plan, 3), Completed("found", partial=True))
        assert house.plan(plan).partial


class TestALostWorker:
    def test_is_noticed_when_its_lease_ends(self, house):
        plan = house.submit()
        house.begin(plan)
        house.later(29.9)
        assert house.conductor.rescue() == 0
        house.later(0.1)
        assert house.conductor.rescue() == 1
        assert house.steps(plan)[0].state is StepState.READY
        assert house.kinds(plan)[-1] == "step.rescued"

    def test_that_died_is_noticed_at_once(self, house):
        plan = house.submit()
        house.begin(plan, holder=7)
        house.dead.add(7)
        assert house.conductor.rescue() == 1
        assert house.begin(plan, holder=8).step.attempt == 2

    def test_can_write_nothing_when_it_comes_back(self, house):
        plan = house.researching()
        late = house.begin(plan, 3, holder=1)
        house.conductor.intend(late, ask())
        house.later(31)
        house.conductor.rescue()
        current = house.begin(plan, 3, holder=2)
        rows = house.plan(plan), house.step(current), house.calls(plan)
        for outcome in (
            Completed("x", facts=[fact(late)], report=REPORT),
            Snoozed(0),
            HELD,
            Faulted("r", "d"),
        ):
            assert not house.conductor.report(late, outcome)
        assert not house.conductor.report(late, Refused("r", "d"))
        assert not house.conductor.renew(late)
        with pytest.raises(Fenced, match="no longer the current one"):
            house.conductor.conclude(late, ask(), state=CallState.DONE)
        with pytest.raises(Fenced):
            house.conductor.intend(late, ask("other"))
        assert rows == (house.plan(plan), house.step(current), house.calls(plan))
        assert house.store.fact_rows[plan.plan_id] == []
        assert house.conductor.report(current, Completed("found"))

    def test_of_a_step_that_kills_its_workers_is_lost_no_more_often_than_its_attempts(self, house):
        plan = house.submit()
        for holder in (1, 2):
            house.begin(plan, holder=holder)
            house.dead.add(holder)
            house.conductor.rescue()
        assert house.steps(plan)[0].state is StepState.DEAD
        assert house.letters(plan)[0].reason == "worker_lost"

    def test_leaves_its_open_calls_unknown(self, house):
        plan = house.submit()
        claimed = house.begin(plan, holder=1)
        house.conductor.intend(claimed, ask())
        house.dead.add(1)
        house.conductor.rescue()
        assert [c.state for c in house.calls(plan)] == [CallState.UNKNOWN]
        assert house.audit(plan)[-1] == "tool.unknown"


class TestACompletion:
    def test_is_settled_once(self, house):
        plan = house.submit()
        claimed = house.finish(plan, 1)
        for _ in range(3):
            house.conductor.settle(claimed.ref)
        assert [s.agent for s in house.steps(plan)] == [Agent.ROUTER, Agent.PLANNER]

    def test_that_comes_before_its_step_is_finished_does_nothing(self, house):
        claimed = house.begin(house.submit())
        house.conductor.settle(claimed.ref)
        assert len(house.steps(claimed.plan)) == 1

    def test_of_the_last_researcher_opens_the_join(self, house):
        plan = house.researching()
        house.finish(plan, 4)
        assert len(house.steps(plan)) == 4
        house.finish(plan, 3)
        assert [s.agent for s in house.steps(plan)[4:]] == [Agent.KEEPER]

    def test_of_a_plan_that_ended_does_nothing(self, house):
        plan = house.submit()
        claimed = house.begin(plan)
        house.conductor.report(claimed, Completed("deep"))
        house.conductor.cancel(plan.plan_id, by="ann")
        house.conductor.settle(claimed.ref)
        assert len(house.steps(plan)) == 1

    def test_of_a_step_that_does_not_exist_is_said_to_be(self, house):
        with pytest.raises(NotFound):
            house.conductor.settle(StepRef(house.submit().plan_id, 2))

    def test_of_the_report_ends_the_plan(self, house):
        plan = house.submit()
        house.finish_all(plan)
        row = house.plan(plan)
        assert (row.state, row.partial, row.finished_at) == (PlanState.SUCCEEDED, False, NOON)
        assert house.store.report_rows[plan.plan_id] == REPORT
        assert house.kinds(plan)[-1] == "plan.ended"
        assert house.verifies(plan)


class TestACall:
    def test_is_intended_on_record_before_it_is_made(self, house):
        plan = house.submit()
        intent = house.conductor.intend(house.begin(plan), ask())
        assert isinstance(intent, Proceed)
        assert house.audit(plan)[-1] == "tool.intent"
        assert house.plan(plan).spent == Spent(steps=1, calls=1, tokens=100)

    def test_that_is_done_is_replayed_and_costs_nothing_more(self, house):
        plan = house.submit()
        claimed = house.begin(plan)
        house.conductor.intend(claimed, ask())
        house.conductor.conclude(
            claimed, ask(), state=CallState.DONE, result={"hits": 3}, spent=Spent(calls=1, tokens=60)
        )
        assert house.conductor.recall(claimed, "k", 0).result == {"hits": 3}
        again = house.conductor.intend(claimed, ask())
        assert isinstance(again, Replayed)
        assert again.call.result == {"hits": 3}
        assert house.plan(plan).spent == Spent(steps=1, calls=1, tokens=60)

    def test_that_is_done_is_replayed_for_the_next_worker(self, house):
        plan = house.submit()
        claimed = house.begin(plan, holder=1)
        house.conductor.intend(claimed, ask(semantics=Semantics.AT_MOST_ONCE))
        house.conductor.conclude(claimed, ask(), state=CallState.DONE, result=1)
        house.dead.add(1)
        house.conductor.rescue()
        assert isinstance(house.conductor.intend(house.begin(plan, holder=2), ask()), Replayed)

    def test_keeps_its_idempotency_key_for_every_repeat(self, house):
        plan = house.submit()
        first = house.conductor.intend(house.begin(plan, holder=1), ask(semantics=Semantics.KEYED))
        house.dead.add(1)
        house.conductor.rescue()
        second = house.conductor.intend(house.begin(plan, holder=2), ask(semantics=Semantics.KEYED))
        assert first == second

    def test_made_twice_in_a_step_is_two_calls(self, house):
        claimed = house.begin(house.submit())
        keys = {house.conductor.intend(claimed, ask(occurrence=n)).idempotency_key for n in (0, 1)}
        assert len(keys) == 2

    def unsure(self, house):
        """A plan whose worker was lost in the middle of a call that must not happen twice."""
        plan = house.submit()
        house.conductor.intend(house.begin(plan, holder=1), ask(semantics=Semantics.AT_MOST_ONCE))
        house.dead.add(1)
        house.conductor.rescue()
        return plan

    def test_that_may_have_happened_and_must_not_twice_is_for_a_human(self, house):
        plan, once = self.unsure(house), ask(semantics=Semantics.AT_MOST_ONCE)
        claimed = house.begin(plan, holder=2)
        assert isinstance(house.conductor.intend(claimed, once), AskHuman)
        assert house.calls(plan)[0].claim == 1

    def test_that_a_human_let_repeat_may_be_repeated_once(self):
        house = House(max_attempts=3)
        plan, once = self.unsure(house), ask(semantics=Semantics.AT_MOST_ONCE)
        house.decide(house.held(plan, args_digest=once.key))
        assert isinstance(house.conductor.intend(house.begin(plan, holder=2), once), Proceed)
        house.dead.add(2)
        house.conductor.rescue()
        assert isinstance(house.conductor.intend(house.begin(plan, holder=3), once), AskHuman)

    def test_that_a_human_let_something_else_do_may_still_not_be_repeated(self, house):
        plan, once = self.unsure(house), ask(semantics=Semantics.AT_MOST_ONCE)
        house.decide(house.held(plan, args_digest="another call"))
        assert isinstance(house.conductor.intend(house.begin(plan, holder=2), once), AskHuman)

    def test_that_failed_may_be_made_again(self, house):
        claimed = house.begin(house.submit())
        house.conductor.intend(claimed, ask())
        house.conductor.conclude(claimed, ask(), state=CallState.FAILED, error="500")
        assert isinstance(house.conductor.intend(claimed, ask()), Proceed)

    def test_that_does_not_fit_the_budget_is_not_intended(self, house):
        plan = house.submit(budget=Budget(calls=1))
        claimed = house.begin(plan)
        house.conductor.intend(claimed, ask("a"))
        with pytest.raises(BudgetSpent, match="1 tool and model calls"):
            house.conductor.intend(claimed, ask("b"))
        assert len(house.calls(plan)) == 1
        assert house.plan(plan).spent.calls == 1

    @staticmethod
    def shared(house, *shares):
        """A plan of ten calls whose tasks t1, t2, … have these shares of it: steps 3, 4, …"""
        plan = house.submit(budget=Budget(calls=10))
        house.finish(plan, 1)
        briefs = [{"question": f"{n}?", "task": f"t{n}", "share": s} for n, s in enumerate(shares, start=1)]
        house.finish(plan, 2, Completed("planned", follow_ups=briefs))
        return plan

    def test_that_does_not_fit_its_task_s_share_is_not_intended(self, house):
        plan = self.shared(house, 0.2, 0.8)
        first, other = house.begin(plan, 3), house.begin(plan, 4)
        for key in "ab":
            house.conductor.intend(first, ask(key))
        with pytest.raises(BudgetSpent, match="The task's budget of 2 tool and model calls is spent"):
            house.conductor.intend(first, ask("c"))
        assert isinstance(house.conductor.intend(other, ask("c")), Proceed)
        assert house.plan(plan).spent.calls == len(house.calls(plan)) == 3

    def test_that_is_recalled_costs_its_task_s_share_nothing(self, house):
        plan = self.shared(house, 0.1)
        claimed = house.begin(plan, 3)
        house.conductor.intend(claimed, ask("a"))
        house.conductor.conclude(claimed, ask("a"), state=CallState.DONE)
        assert isinstance(house.conductor.intend(claimed, ask("a")), Replayed)

    def test_of_a_task_that_is_looked_up_once_more_shares_what_the_task_has_left(self, house):
        plan = self.shared(house, 0.1)
        claimed = house.begin(plan, 3)
        house.conductor.intend(claimed, ask("a"))
        house.conductor.conclude(claimed, ask("a"), state=CallState.DONE)
        house.conductor.report(claimed, Completed("nothing"))
        house.conductor.settle(claimed.ref)
        again = {"question": "1?", "query": "one", "task": "t1", "share": 0.1}
        house.finish(plan, 4, Completed("narrow", follow_ups=[again]))
        with pytest.raises(BudgetSpent, match="The task's budget of 1 tool and model calls is spent"):
            house.conductor.intend(house.begin(plan, 5), ask("b"))

    def test_leaves_its_evidence(self, house):
        plan = house.submit()
        claimed = house.begin(plan)
        source = Evidence.of("text", locator="a.txt")
        house.conductor.intend(claimed, ask())
        house.conductor.conclude(claimed, ask(), state=CallState.DONE, evidence=source)
        assert house.store.evidence_rows["default", source.sha256] == source
        assert house.calls(plan)[0].evidence == source.sha256

    def test_that_was_never_intended_cannot_be_concluded(self, house):
        plan = house.submit()
        claimed = house.begin(plan)
        with pytest.raises(Fenced):
            house.conductor.conclude(
                claimed, ask(), state=CallState.DONE, evidence=Evidence.of("text", locator="a.txt")
            )
        assert not house.store.evidence_rows

    def test_of_a_step_whose_plan_was_cancelled_is_unknown(self, house):
        """The worker is fenced off and cannot conclude it; the audit must not leave it open."""
        plan = house.submit()
        claimed = house.begin(plan)
        house.conductor.intend(claimed, ask())
        house.conductor.cancel(plan.plan_id, by="ann")
        with pytest.raises(Fenced):
            house.conductor.conclude(claimed, ask(), state=CallState.DONE)
        assert [c.state for c in house.calls(plan)] == [CallState.UNKNOWN]
        assert house.audit(plan) == ["plan.submitted", "tool.intent", "tool.unknown", "plan.cancelled"]


class TestAnApproval:
    def test_holds_its_step_without_a_worker(self, house):
        plan = house.submit()
        approval = house.held(plan)
        row = house.steps(plan)[0]
        assert (row.state, row.holder, row.leased_until) == (StepState.WAITING_APPROVAL, None, None)
        assert row.attempt == 0
        assert house.plan(plan).state is PlanState.WAITING_APPROVAL
        assert approval.args_digest == HELD.args_digest
        house.later(10 * 24 * 3600)
        house.conductor.sweep()
        assert house.begin(plan) is None

    def test_given_lets_the_step_go_on(self, house):
        plan = house.submit()
        approval = house.held(plan)
        house.empty_outbox()
        assert house.decide(approval).state is ApprovalState.APPROVED
        assert house.plan(plan).state is PlanState.RUNNING
        assert house.empty_outbox() == [Message(Topic.STEPS, StepRef(plan.plan_id, 1))]
        house.finish_all(plan)
        assert house.plan(plan).state is PlanState.SUCCEEDED

    def test_refused_ends_the_plan(self, house):
        plan = house.researching()
        approval = house.held(plan, 3)
        house.decide(approval, approve=False)
        assert house.plan(plan).state is PlanState.REJECTED
        assert [s.state for s in house.steps(plan)[2:]] == [StepState.REJECTED, StepState.CANCELLED]
        assert house.begin(plan, 4) is None

    def test_needs_one_of_its_roles(self, house):
        approval = house.held(house.submit())
        with pytest.raises(WrongRole, match="approver"):
            house.decide(approval, roles=("viewer", "admin"))
        assert house.store.approval_rows[approval.approval_id] == approval

    def test_is_not_the_requesters_to_give(self, house):
        approval = house.held(house.submit(requester="ann"))
        with pytest.raises(RequesterDecides, match="somebody else must"):
            house.decide(approval, by="ann", roles=("approver", "admin"))

    def test_is_decided_once(self, house):
        approval = house.held(house.submit())
        house.decide(approval)
        for approve in (True, False):
            with pytest.raises(AlreadyDecided, match="already approved"):
                house.decide(approval, approve=approve, by="eve")

    def test_that_nobody_gives_in_time_expires_and_ends_the_plan(self, house):
        plan = house.submit()
        approval = house.held(plan)
        house.later(30 * 24 * 3600)
        with pytest.raises(AlreadyDecided):
            house.decide(approval)
        assert house.conductor.expire() == 1
        assert house.store.approval_rows[approval.approval_id].state is ApprovalState.EXPIRED
        assert house.plan(plan).state is PlanState.REJECTED

    def test_of_one_step_lets_another_go_on(self, house):
        plan = house.researching()
        house.held(plan, 3)
        house.finish(plan, 4)
        assert house.plan(plan).state is PlanState.WAITING_APPROVAL

    def test_of_two_steps_resumes_the_plan_with_the_second(self, house):
        plan = house.researching()
        first, second = house.held(plan, 3), house.held(plan, 4)
        house.decide(first)
        assert house.plan(plan).state is PlanState.WAITING_APPROVAL
        house.decide(second)
        assert house.plan(plan).state is PlanState.RUNNING

    def test_is_withdrawn_when_its_plan_is_cancelled(self, house):
        plan = house.submit()
        approval = house.held(plan)
        house.conductor.cancel(plan.plan_id, by="ann")
        assert house.store.approval_rows[approval.approval_id].state is ApprovalState.CANCELLED
        with pytest.raises(AlreadyDecided):
            house.decide(approval)

    def test_that_is_not_there_cannot_be_decided(self, house):
        with pytest.raises(NotFound, match="no approval"):
            house.conductor.decide("nothing", approve=True, by="bob", roles=("approver",))

    def test_refused_after_its_plan_was_given_up_on_rejects_the_plan(self, house):
        """A retry of it would otherwise wait for ever for the step that was rejected."""
        plan = house.researching()
        approval = house.held(plan, 3)
        house.conductor.report(house.begin(plan, 4), Faulted("broken", "No.", retryable=False))
        assert house.plan(plan).state is PlanState.FAILED
        house.decide(approval, approve=False)
        assert house.plan(plan).state is PlanState.REJECTED
        with pytest.raises(IllegalMove, match="A plan that is rejected cannot be taken up again"):
            house.conductor.replay(plan.plan_id, by="operator")


class TestACancelledPlan:
    def test_fences_off_the_worker_of_its_running_step(self, house):
        plan = house.submit()
        claimed = house.begin(plan)
        house.conductor.cancel(plan.plan_id, by="ann", reason="changed my mind")
        assert house.plan(plan).state is PlanState.CANCELLED
        assert not house.conductor.report(claimed, Completed("deep"))
        assert not house.conductor.renew(claimed)
        assert house.kinds(plan)[-1] == "plan.cancelled"

    def test_cannot_be_cancelled_again(self, house):
        plan = house.submit()
        house.conductor.cancel(plan.plan_id, by="ann")
        with pytest.raises(IllegalMove, match="A plan that is cancelled cannot be cancelled"):
            house.conductor.cancel(plan.plan_id, by="ann")

    def test_wins_over_a_completion_that_was_not_settled(self, house):
        plan = house.submit()
        house.finish(plan, 1, Completed("casual"))
        house.conductor.report(house.begin(plan, 2), VERDICTS[Agent.SYNTHESISER])
        house.conductor.cancel(plan.plan_id, by="ann")
        house.conductor.settle(StepRef(plan.plan_id, 2))
        assert house.plan(plan).state is PlanState.CANCELLED


class TestADeadLetter:
    def broken(self, house):
        plan = house.researching()
        house.conductor.report(house.begin(plan, 3), Faulted("broken", "No.", retryable=False))
        return plan, house.letters(plan)[0]

    def test_that_is_retried_lets_its_plan_succeed(self, house):
        plan, letter = self.broken(house)
        revived = house.conductor.retry_dead(letter.letter_id, by="operator")
        assert revived.state is PlanState.RUNNING
        assert revived.finished_at is None
        assert house.steps(plan)[2].attempt == 0
        assert [d.state for d in house.letters(plan, state=None)] == ["retried"]
        house.finish_all(plan)
        assert house.plan(plan).state is PlanState.SUCCEEDED
        assert house.verifies(plan)

    def test_is_retried_once(self, house):
        _, letter = self.broken(house)
        house.conductor.retry_dead(letter.letter_id, by="operator")
        with pytest.raises(Conflict, match="is already retried"):
            house.conductor.retry_dead(letter.letter_id, by="operator")

    def test_that_is_discarded_leaves_its_plan_as_it_is(self, house):
        plan, letter = self.broken(house)
        house.conductor.discard_dead(letter.letter_id, by="operator")
        assert house.plan(plan).state is PlanState.FAILED
        assert house.audit(plan)[-1] == "dead_letter.discarded"
        with pytest.raises(Conflict, match="is already discarded"):
            house.conductor.discard_dead(letter.letter_id, by="operator")
        with pytest.raises(Conflict, match="is already discarded"):
            house.conductor.retry_dead(letter.letter_id, by="operator")

    def test_that_is_not_there_is_said_not_to_be(self, house):
        for verb in (house.conductor.retry_dead, house.conductor.discard_dead):
            with pytest.raises(NotFound, match="no dead letter"):
                verb("nothing", by="operator")

    def test_of_a_message_without_a_plan_can_only_be_discarded(self, house):
        ref = StepRef("00000000-0000-4000-8000-999999999999", 1)
        letter = house.conductor.bury_message(reason="not_found", detail="There is no plan.", ref=ref)
        with pytest.raises(Conflict, match="can only be discarded"):
            house.conductor.retry_dead(letter, by="operator")
        house.conductor.discard_dead(letter, by="operator")

    def test_rings_for_all_that_was_left_unheard_when_it_is_retried(self, house):
        plan = house.researching()
        peer = house.begin(plan, 3)
        house.conductor.report(house.begin(plan, 4), Faulted("broken", "No.", retryable=False))
        assert house.conductor.report(peer, Completed("found"))
        house.conductor.settle(peer.ref)
        house.empty_outbox()
        house.conductor.replay(plan.plan_id, by="operator")
        assert house.empty_outbox() == [
            Message(Topic.STEPS, StepRef(plan.plan_id, 4)),
            Message(Topic.COMPLETIONS, peer.ref),
        ]


class TestASweep:
    def test_of_a_quiet_house_does_nothing(self, house):
        house.finish_all(house.submit())
        assert not house.conductor.sweep()

    def test_rings_again_for_a_step_that_nobody_heard_of(self, house):
        plan = house.submit()
        house.empty_outbox()
        house.later(29)
        assert not house.conductor.sweep()
        house.later(1)
        assert house.conductor.sweep().offered == 1
        assert house.empty_outbox() == [Message(Topic.STEPS, StepRef(plan.plan_id, 1))]
        assert not house.conductor.sweep()

    def test_rings_again_for_a_completion_that_nobody_settled(self, house):
        plan = house.submit()
        claimed = house.begin(plan)
        house.conductor.report(claimed, Completed("deep"))
        house.empty_outbox()
        house.later(30)
        assert house.conductor.sweep().offered == 1
        assert house.empty_outbox() == [Message(Topic.COMPLETIONS, claimed.ref)]

    def test_rings_for_a_snoozed_step_as_soon_as_it_is_due(self, house):
        plan = house.submit()
        house.conductor.report(house.begin(plan), Snoozed(5))
        house.empty_outbox()
        house.later(5)
        assert house.conductor.sweep().offered == 1

    def test_wakes_what_is_due_and_nothing_else(self, house):
        plan = house.submit()
        house.conductor.report(house.begin(plan), Faulted("r", "d"))
        house.later(4.9)
        assert house.conductor.wake() == 0
        house.later(0.1)
        assert house.conductor.wake() == 1

    def test_does_not_let_a_plan_wait_beyond_its_deadline_for_a_retry(self, house):
        plan = house.researching(budget=Budget(seconds=2))
        house.conductor.report(house.begin(plan, 3), Faulted("r", "d"))
        house.later(2)
        assert house.conductor.wake() == 1
        assert house.begin(plan, 3) is None
        assert house.steps(plan)[2].state is StepState.SKIPPED


class TestAVerbThatFails:
    @pytest.mark.parametrize("stage", ["before", "after"])
    def test_has_happened_entirely_or_not_at_all(self, house, stage):
        class Died(BaseException):
            pass

        def die(when):
            if when == stage:
                house.store.on_commit = lambda _: None
                raise Died

        house.store.on_commit = die
        with pytest.raises(Died):
            house.submit(key="a")
        assert len(house.store.plan_rows) == len(house.store.keys) == (stage == "after")
        assert len(house.empty_outbox()) == (stage == "after")
        house.submit(key="a")
        assert len(house.store.plan_rows) == 1


class AnyOrder(RuleBasedStateMachine):
    """Workers, consumers, sweepers, people and a clock, one verb at a time in any order."""

    @initialize(depth=st.sampled_from([1, 2]), seconds=st.sampled_from([40, 3600]))
    def accept(self, depth, seconds):
        self.house = House(approval_ttl=timedelta(minutes=5))
        self.accepted = self.house.submit(depth=depth, budget=Budget(seconds=seconds, steps=12, calls=6))
        self.claims = []

    def any_step(self, data):
        return data.draw(st.sampled_from(self.house.steps(self.accepted)))

    @rule(data=st.data(), holder=st.integers(1, 3))
    def begin(self, data, holder):
        before = self.any_step(data)
        claimed = self.house.conductor.begin(before.ref, holder=holder)
        if claimed is not None:
            assert before.state is StepState.READY
            assert claimed.claim == before.claim + 1
            self.claims.append(claimed)

    def current(self, claimed):
        row = self.house.step(claimed)
        return row.state is StepState.RUNNING and row.claim == claimed.claim

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(
            [None, None, None, Snoozed(0), Snoozed(20), HELD, Faulted("r", "d"), Faulted("r", "d", False)]
        ),
    )
    def report(self, data, outcome):
        claimed = data.draw(st.sampled_from(self.claims))
        current = self.current(claimed)
        assert self.house.conductor.report(claimed, outcome or VERDICTS[claimed.step.agent]) is current

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), semantics=st.sampled_from(Semantics), conclude=st.booleans())
    def call(self, data, semantics, conclude):
        claimed = data.draw(st.sampled_from(self.claims))
        current = self.current(claimed) and self.house.plan(self.accepted).state in ALIVE
        try:
            intent = self.house.conductor.intend(claimed, ask(semantics=semantics))
        except Fenced:
            assert not current
        except BudgetSpent:
            assert self.house.plan(self.accepted).spent.calls == 6
        else:
            assert current
            if conclude and isinstance(intent, Proceed):
                self.house.conductor.conclude(claimed, ask(semantics=semantics), state=CallState.DONE)

    @rule(data=st.data())
    def settle(self, data):
        self.house.conductor.settle(self.any_step(data).ref)

    @rule(seconds=st.sampled_from([1, 31, 301]))
    def sweep(self, seconds):
        self.house.later(seconds)
        self.house.conductor.sweep()

    @rule(holder=st.integers(1, 3), dead=st.booleans())
    def live_or_die(self, holder, dead):
        (self.house.dead.add if dead else self.house.dead.discard)(holder)

    @rule(approve=st.booleans(), by=st.sampled_from(["ann", "bob"]))
    def decide(self, approve, by):
        for approval in list(self.house.store.approval_rows.values()):
            with suppress(AlreadyDecided, RequesterDecides):
                assert self.house.decide(approval, approve=approve, by=by).decided_by == "bob"

    @rule()
    def retry(self):
        for letter in self.house.letters(self.accepted):
            with suppress(Conflict):
                self.house.conductor.retry_dead(letter.letter_id, by="operator")

    @invariant()
    def promises_hold(self):
        plan, steps = self.house.plan(self.accepted), self.house.steps(self.accepted)
        assert plan.spent.steps == len(steps) <= plan.budget.steps
        assert plan.spent.calls <= plan.budget.calls
        assert [e.number for e in self.house.store.event_rows[plan.plan_id]] == list(
            range(1, plan.event_count + 1)
        )
        assert self.house.verifies(plan)
        pending = [
            a.step for a in self.house.store.approval_rows.values() if a.state is ApprovalState.PENDING
        ]
        waiting = [s.number for s in steps if s.state is StepState.WAITING_APPROVAL]
        assert sorted(pending) == waiting
        lost = {s.number for s in steps if s.state in {StepState.DEAD, StepState.FAILED}}
        assert lost == {d.step for d in self.house.letters(plan)}
        assert all(s.attempt <= s.max_attempts for s in steps)
        assert plan.state not in ALIVE or not lost
        assert (plan.finished_at is not None) == (plan.state in PLAN_ENDS)


TestVerbsInAnyOrder = AnyOrder.TestCase
TestVerbsInAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class TestALimitedTenant:
    def test_begins_no_more_steps_than_it_may_and_keeps_the_others_waiting_in_the_outbox(self, house):
        with house.store.transaction() as tx:
            tx.put_tenant(Tenant("default", max_running=1))
        first, second = house.submit(key="one"), house.submit(key="two")
        house.empty_outbox()
        claimed = house.conductor.begin(StepRef(first.plan_id, 1), holder=1)
        assert claimed is not None
        assert house.conductor.begin(StepRef(second.plan_id, 1), holder=2) is None

        step = house.steps(second)[0]
        assert (step.state, step.attempt, step.claim) == (StepState.READY, 0, 0)
        with house.store.transaction() as tx:
            assert list(tx.take_outbox(100)) == []  # it has no free hand
        assert house.conductor.report(claimed, Completed("deep"))
        with house.store.transaction() as tx:
            waiting = list(tx.take_outbox(100))
        assert Message(Topic.STEPS, step.ref) in waiting
        assert house.conductor.begin(step.ref, holder=2) is not None


class TestAFork:
    def forked(self, house, plan, number=None, **rest):
        return house.conductor.fork(plan.plan_id, **({"from_step": number, "by": "eve"} | rest))

    def everything(self, house, plan):
        return (
            house.plan(plan),
            house.steps(plan),
            list(house.store.event_rows[plan.plan_id]),
            list(house.store.audit_rows[plan.plan_id]),
            list(house.store.fact_rows[plan.plan_id]),
        )

    def with_facts(self, house):
        """A plan whose researchers, steps 3 and 4, found one fact each; its keeper is ready."""
        plan = house.researching()
        evidence = Evidence.of("A lock is held by one.", locator="locks.md")
        with house.store.transaction() as tx:
            tx.put_evidence("default", evidence)
        for number in (3, 4):
            fact = Fact(number, 1, evidence.text, evidence.sha256, 0, len(evidence.text), "locks.md")
            house.finish(plan, number, Completed("found", facts=[fact], result={"n": number}))
        return plan

    def test_stands_where_the_plan_stood_and_ends_like_any_other(self, house):
        old = self.with_facts(house)
        new = self.forked(house, old, 4)

        assert [(s.number, s.state, s.settled) for s in house.steps(new)] == [
            (1, StepState.SUCCEEDED, True),
            (2, StepState.SUCCEEDED, True),
            (3, StepState.SUCCEEDED, True),
            (4, StepState.READY, False),
        ]
        assert [f.name for f in house.store.fact_rows[new.plan_id]] == ["F3.1"]
        assert house.step_of(new, 3).result == {"n": 3}
        assert house.plan(new).spent == Spent(steps=4)
        assert house.plan(new).budget == house.plan(old).budget
        assert [m.ref.number for m in house.store.outbox if m.ref.plan_id == new.plan_id] == [4]

        house.finish_all(new)
        assert house.plan(new).state is PlanState.SUCCEEDED
        assert [s.agent for s in house.steps(new)][4:] == [
            Agent.KEEPER,
            Agent.GENERATOR,
            Agent.CRITIC,
            Agent.JUDGE,
            Agent.SYNTHESISER,
        ]

    @pytest.mark.parametrize("state", ["running", "succeeded", "cancelled", "dead_lettered"])
    def test_changes_nothing_about_the_plan_whatever_its_state(self, house, state):
        old = self.with_facts(house)
        if state == "succeeded":
            house.finish_all(old)
        if state == "cancelled":
            house.conductor.cancel(old.plan_id, by="ann")
        if state == "dead_lettered":
            claimed = house.begin(old, 5)
            house.conductor.report(claimed, Faulted("broken", "It is broken."))
            house.later(60)
            house.conductor.sweep()
            house.conductor.report(house.begin(old, 5), Faulted("broken", "It is broken."))
        assert house.plan(old).state == state
        before = self.everything(house, old)

        new = self.forked(house, old, 5)
        house.finish_all(new)

        assert self.everything(house, old) == before
        assert house.plan(new).state is PlanState.SUCCEEDED

    def test_says_in_event_and_audit_where_it_came_from_and_who_asked(self, house):
        old = self.with_facts(house)
        new = self.forked(house, old, 4)

        kinds = house.kinds(new)
        assert kinds == ["plan.forked", *["step.copied"] * 3, "step.planned"]
        said = house.store.event_rows[new.plan_id][0].body
        assert (said["fork_of"], said["from_step"], said["by"]) == (old.plan_id, 4, "eve")
        (record,) = house.store.audit_rows[new.plan_id]
        sealed = json.loads(record.body)
        assert (sealed["fork_of"], sealed["from_step"], sealed["by"]) == (old.plan_id, 4, "eve")
        assert sealed["copied"] == [1, 2, 3]
        plan = house.plan(new)
        assert SEALER.verify(new.plan_id, [record], count=plan.audit_count, head=plan.audit_head) is None

    def test_copies_no_call(self, house):
        old = house.researching()
        claimed = house.begin(old, 3)
        ask = CallAsk("search", "key", 0, Semantics.IDEMPOTENT, {}, {})
        house.conductor.intend(claimed, ask)
        house.conductor.conclude(claimed, ask, state=CallState.DONE, result={})
        house.conductor.report(claimed, Completed("found"))

        new = self.forked(house, old, 4)

        assert [c.plan_id for c in house.store.call_rows.values()] == [old.plan_id]
        assert house.plan(new).spent.calls == 0

    def test_lets_no_copied_step_be_begun_or_settled_again(self, house):
        old = self.with_facts(house)
        new = self.forked(house, old, 4)
        before = self.everything(house, new)

        for number in (1, 2, 3):
            assert house.begin(new, number) is None
            house.conductor.settle(StepRef(new.plan_id, number))
        house.later(3600)
        house.conductor.sweep()

        assert [e.kind for e in self.everything(house, new)[2]] == [e.kind for e in before[2]]
        assert [s.number for s in house.steps(new)] == [1, 2, 3, 4]

    def test_does_again_what_was_still_under_way(self, house):
        old = house.researching()
        house.begin(old, 3)
        house.finish(old, 4)

        new = self.forked(house, old, 4)

        assert [s.state for s in house.steps(new)][2:] == [StepState.READY, StepState.READY]
        house.finish_all(new)
        assert house.plan(new).state is PlanState.SUCCEEDED

    def test_of_a_fork_is_one(self, house):
        old = self.with_facts(house)
        house.finish_all(old)
        first = self.forked(house, old, 5)
        house.finish_all(first)

        second = self.forked(house, first, 4, goal="Why not?")
        house.finish_all(second)

        assert house.plan(second).state is PlanState.SUCCEEDED
        assert house.plan(second).goal == "Why not?"
        assert house.store.event_rows[second.plan_id][0].body["fork_of"] == first.plan_id
        assert [f.name for f in house.store.fact_rows[second.plan_id]] == ["F3.1"]

    def test_without_a_step_begins_at_the_beginning_with_the_same_request(self, house):
        old = self.with_facts(house)
        new = self.forked(house, old)

        assert [(s.agent, s.state) for s in house.steps(new)] == [(Agent.ROUTER, StepState.READY)]
        kept = [(p.goal, p.depth, p.budget, p.sources, p.tenant) for p in (house.plan(old), house.plan(new))]
        assert kept[0] == kept[1]
        assert house.plan(new).requester == "eve"
        assert not house.store.fact_rows[new.plan_id]

    def test_has_its_own_time(self, house):
        old = self.with_facts(house)
        house.later(10_000)
        new = self.forked(house, old, 4)
        assert not house.plan(new).overdue(house.now)

    @pytest.mark.parametrize(("number", "partial"), [(3, False), (5, True)])
    def test_is_partial_only_where_it_takes_over_what_a_limit_cut_short(self, house, number, partial):
        old = self.with_facts(house)
        with house.store.transaction() as tx:
            tx.mark_partial(old.plan_id)
        assert house.plan(self.forked(house, old, number)).partial is partial

    def test_with_the_same_key_is_made_once(self, house):
        old = self.with_facts(house)
        first, second = (self.forked(house, old, 4, key="one") for _ in range(2))
        assert first.plan_id == second.plan_id
        with pytest.raises(KeyReused):
            self.forked(house, old, 3, key="one")
        with pytest.raises(KeyReused):
            house.conductor.submit(request("Why?", requester="ann", key="one"))

    def test_of_what_is_not_there_is_not_found(self, house):
        old = self.with_facts(house)
        with pytest.raises(NotFound):
            self.forked(house, old, 99)
        with pytest.raises(NotFound):
            house.conductor.fork("00000000-0000-4000-8000-999999999999", by="eve")
        with pytest.raises(InvalidGoal):
            self.forked(house, old, 4, goal=" ")
        assert len(house.store.plan_rows) == 1
