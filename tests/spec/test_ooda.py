"""The loop: what follows each step, at every depth and at every limit, and that it comes to an end."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import ooda
from orchestrator.domain.budget import LEAST_STEPS, Budget, Spent
from orchestrator.domain.ooda import DEPTH, End, Go, Wait
from orchestrator.domain.plan import Agent, NewStep, Plan, PlanState, Step, StepState

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
QUERIES = tuple({"question": f"question {i}"} for i in range(20))


def plan(depth=2, *, steps=200, spent=2, partial=False):
    return Plan(
        "p",
        "default",
        "Why?",
        depth,
        PlanState.RUNNING,
        "ann",
        Budget(steps=steps),
        Spent(spent),
        NOON,
        partial=partial,
    )


def step(agent, number=1, *, verdict=None, round_=0, follow_ups=(), state=StepState.SUCCEEDED, settled=True):
    return Step("p", number, agent, state, round_, verdict=verdict, follow_ups=follow_ups, settled=settled)


def after(finished, *, of=None, peers=(), overdue=False):
    return ooda.follow(of or plan(), finished, [*peers, finished], overdue=overdue)


def only(agent, round_=0, *, partial=False):
    return Go((NewStep(agent, round_),), partial=partial)


def test_a_plan_begins_with_its_router():
    assert ooda.first() == NewStep(Agent.ROUTER)


class TestARouter:
    def test_sends_small_talk_straight_to_the_answer(self):
        assert after(step(Agent.ROUTER, verdict="casual")) == only(Agent.SYNTHESISER)

    @pytest.mark.parametrize("verdict", ["deep", "anything else", None])
    def test_plans_whatever_is_not_small_talk(self, verdict):
        assert after(step(Agent.ROUTER, verdict=verdict)) == only(Agent.PLANNER)


class TestAPlanner:
    @pytest.mark.parametrize("depth", DEPTH)
    def test_asks_no_more_questions_at_once_than_its_depth_allows(self, depth):
        found = after(step(Agent.PLANNER, follow_ups=QUERIES), of=plan(depth))
        assert found == Go(tuple(NewStep(Agent.RESEARCHER, 1, q) for q in QUERIES[: DEPTH[depth].fan_out]))

    def test_without_questions_goes_on_to_write(self):
        assert after(step(Agent.PLANNER)) == only(Agent.GENERATOR)

    def test_gives_what_is_to_be_computed_to_the_code_generator(self):
        briefs = ({"question": "a", "tool": "code_run"}, {"question": "b", "tool": "sql_query"})
        assert after(step(Agent.PLANNER, follow_ups=briefs)) == Go(
            (NewStep(Agent.CODER, 1, briefs[0]), NewStep(Agent.RESEARCHER, 1, briefs[1]))
        )

    def test_at_the_limit_of_steps_asks_what_still_fits_and_says_so(self):
        found = after(step(Agent.PLANNER, follow_ups=QUERIES[:3]), of=plan(steps=9))
        assert found == Go(tuple(NewStep(Agent.RESEARCHER, 1, q) for q in QUERIES[:2]), partial=True)

    def test_whose_time_is_up_asks_nothing_and_says_so(self):
        found = after(step(Agent.PLANNER, follow_ups=QUERIES[:3]), overdue=True)
        assert found == only(Agent.GENERATOR, partial=True)


class TestARound:
    def test_waits_for_the_last_of_its_researchers(self):
        peer = step(Agent.RESEARCHER, 2, round_=1, state=StepState.RUNNING, settled=False)
        assert after(step(Agent.RESEARCHER, 3, round_=1), peers=[peer]) == Wait()

    def test_waits_for_one_that_succeeded_but_is_not_settled(self):
        peer = step(Agent.RESEARCHER, 2, round_=1, settled=False)
        assert after(step(Agent.RESEARCHER, 3, round_=1), peers=[peer]) == Wait()

    def test_opens_with_the_last_of_its_researchers(self):
        peer = step(Agent.RESEARCHER, 2, round_=1)
        assert after(step(Agent.RESEARCHER, 3, round_=1), peers=[peer]) == only(Agent.KEEPER, 1)

    def test_waits_for_what_is_being_computed(self):
        peer = step(Agent.CODER, 2, round_=1, state=StepState.RUNNING, settled=False)
        assert after(step(Agent.RESEARCHER, 3, round_=1), peers=[peer]) == Wait()

    def test_does_not_wait_for_another_round(self):
        earlier = step(Agent.RESEARCHER, 2, round_=1, settled=False)
        assert after(step(Agent.RESEARCHER, 4, round_=2), peers=[earlier]) == only(Agent.KEEPER, 2)

    def test_with_a_skipped_researcher_is_partial(self):
        peer = step(Agent.RESEARCHER, 2, round_=1, state=StepState.SKIPPED)
        assert after(step(Agent.RESEARCHER, 3, round_=1), peers=[peer]) == only(Agent.KEEPER, 1, partial=True)

    @given(st.permutations(range(5)))
    def test_opens_once_in_whatever_order_its_researchers_finish(self, order):
        peers = [step(Agent.RESEARCHER, n + 1, round_=1, settled=False) for n in range(5)]
        opened = []
        for n in order:
            peers[n] = replace(peers[n], settled=True)
            opened.append(ooda.follow(plan(), peers[n], peers, overdue=False))
        assert opened == [Wait()] * 4 + [only(Agent.KEEPER, 1)]


class TestAKeeper:
    def narrow(self, round_=1):
        return step(Agent.KEEPER, round_=round_, verdict="narrow", follow_ups=QUERIES[:2])

    def test_that_wants_more_gets_another_round(self):
        assert after(self.narrow()) == Go(tuple(NewStep(Agent.RESEARCHER, 2, q) for q in QUERIES[:2]))

    def test_that_has_enough_goes_on_to_write(self):
        enough = step(Agent.KEEPER, round_=1, verdict="sufficient", follow_ups=QUERIES[:2])
        assert after(enough) == only(Agent.GENERATOR)

    def test_that_wants_more_but_knows_not_what_goes_on_to_write(self):
        assert after(step(Agent.KEEPER, round_=1, verdict="narrow")) == only(Agent.GENERATOR)

    def test_gets_no_more_rounds_than_its_depth_allows(self):
        for depth, profile in DEPTH.items():
            assert after(self.narrow(profile.rounds), of=plan(depth)) == only(Agent.GENERATOR)

    def test_that_wants_more_than_fits_says_so(self):
        assert after(self.narrow(), of=plan(steps=10, spent=6)) == only(Agent.GENERATOR, partial=True)
        assert after(self.narrow(), overdue=True) == only(Agent.GENERATOR, partial=True)


class TestADraft:
    def test_is_criticised_and_judged(self):
        assert after(step(Agent.GENERATOR, round_=1)) == only(Agent.CRITIC, 1)
        assert after(step(Agent.CRITIC, round_=1)) == only(Agent.JUDGE, 1)

    def test_that_is_accepted_becomes_the_report(self):
        assert after(step(Agent.JUDGE, verdict="accept")) == only(Agent.SYNTHESISER)

    def test_that_is_sent_back_is_written_again(self):
        assert after(step(Agent.JUDGE, verdict="revise")) == only(Agent.GENERATOR, 1)

    def test_is_sent_back_no_more_often_than_its_depth_allows(self):
        for depth, profile in DEPTH.items():
            judge = step(Agent.JUDGE, verdict="revise", round_=profile.revisions)
            assert after(judge, of=plan(depth)) == only(Agent.SYNTHESISER, profile.revisions)

    @pytest.mark.parametrize(("spent", "overdue"), [(197, False), (10, True)])
    def test_that_a_limit_keeps_from_being_revised_says_so(self, spent, overdue):
        found = after(step(Agent.JUDGE, verdict="revise"), of=plan(spent=spent), overdue=overdue)
        assert found == only(Agent.SYNTHESISER, partial=True)

    def test_is_sent_back_while_the_whole_revision_fits(self):
        assert after(step(Agent.JUDGE, verdict="revise"), of=plan(spent=196)) == only(Agent.GENERATOR, 1)


class TestAReport:
    @pytest.mark.parametrize("partial", [True, False])
    def test_ends_its_plan_which_stays_partial_if_it_was(self, partial):
        assert after(step(Agent.SYNTHESISER), of=plan(partial=partial)) == End(
            PlanState.SUCCEEDED, partial=partial
        )


@given(
    st.sampled_from(sorted(DEPTH)),
    st.integers(LEAST_STEPS, 80),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_every_plan_ends_with_a_report_within_its_steps(depth, limit, dice, hasty):
    """Minds that always want more, settled in any order, with the time running out at any moment."""
    steps, current = [], plan(depth, steps=limit, spent=0)
    waiting = [ooda.first()]
    overdue = False
    for _ in range(10 * limit):
        for new in waiting:
            current = replace(current, spent=current.spent.plus(Spent(steps=1)))
            steps.append(Step("p", len(steps) + 1, new.agent, StepState.READY, new.round))
        open_ = [s for s in steps if not s.settled]
        one = dice.choice(open_)
        overdue = overdue or (hasty and dice.random() < 0.1)
        verdict = {Agent.ROUTER: "deep", Agent.KEEPER: "narrow", Agent.JUDGE: "revise"}.get(one.agent, "done")
        one = replace(
            one,
            state=StepState.SUCCEEDED,
            settled=True,
            verdict=verdict,
            follow_ups=QUERIES[: dice.randint(0, 20)],
        )
        steps[one.number - 1] = one
        match ooda.follow(current, one, steps, overdue=overdue):
            case Go(steps=following):
                waiting = following
            case Wait():
                waiting = []
            case End():
                break
    assert steps[-1].agent is Agent.SYNTHESISER
    assert all(s.settled for s in steps)
    assert len(steps) <= limit
