"""Chains of approvals: who decides, in which order, for how long, and what their decision comes to."""

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator import chains
from orchestrator.domain import approval as people
from orchestrator.domain.approval import Category
from orchestrator.domain.errors import (
    AlreadyDecided,
    DecidesTwice,
    Misconfigured,
    RequesterDecides,
    WrongRole,
)
from orchestrator.domain.outcome import Held
from orchestrator.domain.plan import (
    Agent,
    Approval,
    ApprovalState,
    Chain,
    Escalation,
    PlanState,
    Stage,
    StepState,
)
from tests.spec.test_conductor import NOON, House

DAY = timedelta(days=1)
TWO_STAGES = Chain(
    (Stage((("team_lead",),), DAY, (Escalation(("manager",), DAY),)), Stage((("manager",),), 2 * DAY)),
    alone=("operator",),
)
TWO_PEOPLE = Chain((Stage((("compliance_officer",), ("ciso",)), DAY),))
CHAINS = {"DECISION": TWO_STAGES, "COMPLIANCE": TWO_PEOPLE}


class Office(House):
    """A house in which a step has asked for people."""

    def __init__(self, category="DECISION", **rules):
        super().__init__(chains=CHAINS, **rules)
        self.asked = self.submit()
        self.conductor.report(self.begin(self.asked), Held(category, "May it?", "digest"))
        self.approval_id = self.pending(self.asked).approval_id

    @property
    def row(self):
        return self.store.approval_rows[self.approval_id]

    def rules(self, by, *roles, approve=True, **rest):
        return self.conductor.decide(self.approval_id, approve=approve, by=by, roles=roles, **rest)

    def rulings(self):
        return [(r.person, r.role, r.stage) for r in self.store.ruling_rows[self.approval_id]]


@pytest.fixture
def office():
    return Office()


@pytest.fixture
def compliance():
    return Office("COMPLIANCE")


class TestAChain:
    def test_asks_one_stage_after_another(self, office):
        assert office.row.roles == ("team_lead", "operator")
        first = office.rules("bob", "team_lead")
        assert (first.state, first.stage, first.roles) == (ApprovalState.PENDING, 2, ("manager", "operator"))
        assert office.plan(office.asked).state is PlanState.WAITING_APPROVAL
        second = office.rules("eve", "manager")
        assert (second.state, second.decided_by) == (ApprovalState.APPROVED, "eve")
        assert office.plan(office.asked).state is PlanState.RUNNING
        assert office.rulings() == [("bob", "team_lead", 1), ("eve", "manager", 2)]

    def test_gives_each_stage_a_time_of_its_own(self, office):
        office.later(3600)
        office.rules("bob", "team_lead")
        assert office.row.expires_at == NOON + timedelta(hours=1) + 2 * DAY

    def test_holds_its_step_until_the_last_stage(self, office):
        office.rules("bob", "team_lead")
        assert office.steps(office.asked)[0].state is StepState.WAITING_APPROVAL
        assert office.begin(office.asked) is None

    def test_is_not_begun_at_its_end(self, office):
        with pytest.raises(WrongRole, match="team_lead, operator"):
            office.rules("eve", "manager")
        assert office.row.version == 0

    def test_is_refused_by_any_of_its_stages(self, office):
        office.rules("bob", "team_lead")
        refused = office.rules("eve", "manager", approve=False, comment="too risky")
        assert refused.state is ApprovalState.REJECTED
        assert office.plan(office.asked).state is PlanState.REJECTED

    def test_is_given_at_once_by_a_role_that_decides_alone(self, office):
        assert office.rules("olga", "operator").state is ApprovalState.APPROVED
        assert office.rulings() == [("olga", "operator", 1)]

    def test_does_not_take_the_same_person_twice(self, office):
        office.rules("bob", "team_lead", "manager")
        with pytest.raises(DecidesTwice, match="bob has decided at an earlier stage"):
            office.rules("bob", "team_lead", "manager")
        assert office.row.stage == 2

    @pytest.mark.parametrize("roles", [("team_lead",), ("operator",)])
    def test_does_not_take_the_requester_at_any_stage(self, office, roles):
        with pytest.raises(RequesterDecides):
            office.rules("ann", *roles)
        office.rules("bob", "team_lead")
        with pytest.raises(RequesterDecides):
            office.rules("ann", "manager")

    def test_tells_a_second_decider_of_a_stage_that_it_was_decided(self, office):
        office.rules("bob", "team_lead")
        with pytest.raises(AlreadyDecided, match="past that stage and waits for manager"):
            office.rules("kim", "team_lead")

    def test_does_not_take_a_decision_about_a_stage_that_was_left(self, office):
        office.rules("bob", "team_lead", stage=1)
        with pytest.raises(AlreadyDecided):
            office.rules("kim", "team_lead", "manager", stage=1)
        assert office.rules("kim", "manager", stage=2).state is ApprovalState.APPROVED

    def test_stays_as_it_was_when_it_was_asked(self, office):
        office.conductor._rules = replace(office.conductor.rules, chains={})
        office.rules("bob", "team_lead")
        assert office.row.roles == ("manager", "operator")

    def test_leaves_an_event_and_a_record_of_each_decision(self, office):
        office.rules("bob", "team_lead", comment="fine")
        office.rules("eve", "manager")
        kinds = ["approval.requested", "approval.advanced", "approval.decided"]
        assert [k for k in office.kinds(office.asked) if k.startswith("approval")] == kinds
        assert [k for k in office.audit(office.asked) if k.startswith("approval")] == kinds
        assert office.verifies(office.asked)


class TestTwoSeats:
    @pytest.mark.parametrize("order", [("ciso", "compliance_officer"), ("compliance_officer", "ciso")])
    def test_are_filled_by_two_people_in_any_order(self, compliance, order):
        first = compliance.rules("bob", order[0])
        assert (first.state, first.roles) == (ApprovalState.PENDING, (order[1],))
        assert compliance.rules("eve", order[1]).state is ApprovalState.APPROVED

    def test_are_not_filled_by_one_person_with_both_roles(self, compliance):
        compliance.rules("bob", "compliance_officer", "ciso")
        with pytest.raises(DecidesTwice):
            compliance.rules("bob", "compliance_officer", "ciso")
        assert compliance.row.state is ApprovalState.PENDING

    def test_are_not_both_of_one_role(self, compliance):
        compliance.rules("bob", "ciso")
        with pytest.raises(AlreadyDecided):
            compliance.rules("eve", "ciso")

    def test_keep_the_stage_s_time(self, compliance):
        compliance.later(3600)
        compliance.rules("bob", "ciso")
        assert compliance.row.expires_at == NOON + DAY


class TestAStageThatNobodyDecides:
    def test_goes_to_the_next_roles(self, office):
        office.later(DAY.total_seconds())
        assert office.conductor.expire() == 1
        assert office.row.roles == ("team_lead", "manager", "operator")
        assert (office.row.state, office.row.level) == (ApprovalState.PENDING, 1)
        assert office.row.expires_at == NOON + 2 * DAY
        assert office.conductor.expire() == 0
        advanced = office.rules("eve", "manager")
        assert (advanced.stage, advanced.level, advanced.roles) == (2, 0, ("manager", "operator"))

    def test_then_expires_and_ends_the_plan(self, office):
        for days in (1, 1):
            office.later(days * DAY.total_seconds())
            office.conductor.expire()
        assert office.row.state is ApprovalState.EXPIRED
        assert office.plan(office.asked).state is PlanState.REJECTED
        with pytest.raises(AlreadyDecided, match="already expired"):
            office.rules("bob", "team_lead")

    def test_may_still_be_decided_before_the_sweeper_has_asked_others(self, office):
        office.later(DAY.total_seconds())
        assert office.rules("eve", "manager").stage == 2
        assert "approval.escalated" in office.kinds(office.asked)

    def test_is_not_asked_of_others_before_its_time(self, office):
        office.later(DAY.total_seconds() - 1)
        assert office.conductor.expire() == 0
        with pytest.raises(WrongRole):
            office.rules("eve", "manager")

    def test_expires_at_once_where_there_is_nobody_else(self, compliance):
        compliance.later(DAY.total_seconds())
        with pytest.raises(AlreadyDecided, match="expired"):
            compliance.rules("bob", "ciso")
        assert compliance.conductor.expire() == 1
        assert compliance.row.state is ApprovalState.EXPIRED


class TestTheTimeOfAPlan:
    def test_does_not_run_while_it_waits_for_people(self):
        house = House(chains={"DECISION": people.simple(("lead",), 60 * DAY)})
        plan = house.researching()
        house.conductor.report(house.begin(plan, 3), Held("DECISION", "May it?", "d"))
        approval = house.pending(plan)
        left = house.plan(plan).deadline - house.now
        house.later(31 * DAY.total_seconds())
        house.decide(approval, roles=("lead",))
        assert house.plan(plan).deadline - house.now == left
        again = house.begin(plan, 3)
        assert again.step.agent is Agent.RESEARCHER

    def test_is_given_back_once_for_two_that_waited_together(self):
        house = House(chains={"DECISION": people.simple(("lead",), 60 * DAY)})
        plan = house.researching()
        before = house.plan(plan).deadline
        house.conductor.report(house.begin(plan, 3), Held("DECISION", "May it?", "c"))
        house.later(600)
        house.conductor.report(house.begin(plan, 4), Held("DECISION", "May it?", "d"))
        first, second = house.store.approval_rows.values()
        house.later(600)
        house.decide(first, roles=("lead",))
        assert house.plan(plan).deadline == before
        house.later(600)
        house.decide(second, roles=("lead",))
        assert house.plan(plan).deadline == before + timedelta(seconds=1800)

    def test_is_not_given_back_for_an_earlier_wait(self):
        def asked(at, until):
            return Approval("x", "p", 1, "c", ("r",), "?", "d", "ann", asked_at=at, decided_at=until)

        earlier = asked(NOON, NOON + DAY)
        later = asked(NOON + 2 * DAY, NOON + 3 * DAY)
        assert people.waited([earlier, later], NOON + 3 * DAY) == DAY


def test_a_chain_comes_back_from_how_it_is_stored():
    for chain in (TWO_STAGES, TWO_PEOPLE):
        assert people.from_json(people.as_json(chain)) == chain


class TestTheConfiguration:
    USUAL = timedelta(days=30)

    def written(self, tmp_path, text):
        path = tmp_path / "approvals.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    def test_that_comes_with_the_program_has_a_chain_for_every_category(self):
        found = chains.load(self.USUAL)
        assert set(found) == {c.value for c in Category}
        assert [s.seats for s in found["DECISION"].stages] == [(("team_lead",),), (("manager",),)]
        assert found["COMPLIANCE"].stages[0].seats == (("compliance_officer",), ("ciso",))

    def test_lets_one_operator_run_it_alone_but_not_decide_about_compliance_and_security(self):
        alone = {name for name, chain in chains.load(self.USUAL).items() if "operator" in chain.alone}
        assert alone == {c.value for c in Category} - {"COMPLIANCE", "SECURITY"}

    def test_that_comes_with_the_program_lets_a_question_wait_for_longer_than_a_month(self):
        (first, _) = chains.load(self.USUAL)["DECISION"].stages
        assert first.within + sum((e.within for e in first.escalations), timedelta()) > timedelta(days=31)

    def test_says_what_a_call_is_about_by_its_capability(self):
        found = chains.categories()
        assert (found["repo.write"], found["secrets.manage"]) == ("EXTERNAL_ACTION", "SECURITY")
        assert set(found.values()) <= {c.value for c in Category}

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("capabilities: {repo.write: GOSSIP}", "capabilities.repo.write"),
            ("categories: {}", "does not say who decides about DECISION, DATA_ACCESS"),
            ("categories: {DECISION: {stages: []}}", "categories.DECISION.stages"),
            ("categories: {DECISION: {stages: [{seats: []}]}}", "categories.DECISION.stages.0.seats"),
            ("categories: {DECISION: {stages: [{seats: [[]]}]}}", "categories.DECISION.stages.0.seats"),
            ("categories: {DECISION: {stages: [{seats: ['A b']}]}}", "categories.DECISION.stages.0.seats"),
            ("categories: {DECISION: {stages: [{seats: [a], within_h: 0}]}}", "within_h"),
            ("categories: {DECISION: {stages: [{seats: [a], for: b}]}}", "stages.0.for"),
            ("categories: {GOSSIP: {stages: [{seats: [a]}]}}", "GOSSIP"),
            ("categories: [", "cannot be read"),
            ("", "approvals.yaml"),
        ],
    )
    def test_that_makes_no_sense_is_refused_at_start(self, tmp_path, text, says):
        with pytest.raises(Misconfigured, match=says):
            chains.load(self.USUAL, self.written(tmp_path, text))
