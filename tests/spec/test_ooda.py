"""The loop: what follows each step, at every depth and at every limit, and that it comes to an end."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import ooda
from orchestrator.domain.budget import LEAST_STEPS, Budget, Spent
from orchestrator.domain.ooda import DEPTH, End, Go, Wait
from orchestrator.domain.plan import Agent, NewStep, Phase, Plan, PlanState, Step, StepState

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


def step(
    agent,
    number=1,
    *,
    verdict=None,
    round_=0,
    follow_ups=(),
    state=StepState.SUCCEEDED,
    settled=True,
    brief=None,
):
    return Step(
        "p",
        number,
        agent,
        state,
        round_,
        brief or {},
        verdict=verdict,
        follow_ups=follow_ups,
        settled=settled,
    )


def after(finished, *, of=None, peers=(), overdue=False):
    return ooda.follow(of or plan(), finished, [*peers, finished], overdue=overdue)


def only(agent, round_=0, *, partial=False):
    return Go((NewStep(agent, round_),), partial=partial)


def judged(verdict, round_=0, *, sure=1.0, **result):
    return replace(step(Agent.JUDGE, verdict=verdict, round_=round_), result={"confidence": sure, **result})


def then(judge, **rest):
    """What follows a judge, and what its ballot says of why."""
    go = after(judge, **rest)
    (new,) = go.steps
    return new.agent, new.round, go.partial, go.ballot.decided, go.ballot.why


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


def task(name, *needs, **rest):
    brief = {"question": f"question {name}", "task": name, **rest}
    return {**brief, "after": list(needs)} if needs else brief


class Loop:
    """A plan whose steps are settled one by one, with what followed from each."""

    def __init__(self, *briefs, depth=2, limit=200):
        self.depth, self.limit = depth, limit
        self.steps = [step(Agent.PLANNER, follow_ups=briefs)]
        self.last = self.follow(self.steps[0])

    def plan(self):
        return plan(self.depth, steps=self.limit, spent=len(self.steps) + 1)

    def follow(self, finished, *, overdue=False):
        found = ooda.follow(self.plan(), finished, self.steps, overdue=overdue)
        for new in found.steps if isinstance(found, Go) else ():
            made = Step("p", len(self.steps) + 1, new.agent, StepState.READY, new.round, new.brief)
            self.steps.append(made)
        return found

    def settle(self, name, verdict="found", *, overdue=False, state=StepState.SUCCEEDED, **rest):
        """Settle the open step that has this task, or is this agent's."""
        at = next(
            i for i, s in enumerate(self.steps) if not s.settled and name in {s.brief.get("task"), s.agent}
        )
        self.steps[at] = replace(self.steps[at], state=state, verdict=verdict, settled=True, **rest)
        self.last = self.follow(self.steps[at], overdue=overdue)
        return self

    @property
    def open(self):
        return [s.brief.get("task") or str(s.agent) for s in self.steps if not s.settled]

    @property
    def left_out(self):
        return [(brief["task"], why) for brief, why in ooda.left_out(self.depth, self.steps)]


class TestATaskThatNeedsOthers:
    def test_b24_is_begun_when_the_last_of_them_is_settled_and_no_sooner(self):
        loop = Loop(task("a"), task("b"), task("c", "a", "b"))
        assert loop.open == ["a", "b"]

        loop.settle("a")
        assert loop.last == Wait()

        loop.settle("b")
        assert loop.open == ["c"]

        loop.settle("c")
        assert loop.last == only(Agent.KEEPER, 1)
        assert loop.left_out == []

    def test_is_begun_while_others_of_its_round_are_still_at_work(self):
        assert Loop(task("a"), task("b"), task("c", "a")).settle("a").open == ["b", "c"]

    def test_is_the_code_generators_if_it_is_to_be_computed(self):
        computed = task("b", "a", tool="code_run")
        assert Loop(task("a"), computed).settle("a").last == Go((NewStep(Agent.CODER, 1, computed),))

    @pytest.mark.parametrize("verdict", sorted(ooda.EMPTY))
    def test_b24_is_never_begun_on_nothing(self, verdict):
        loop = Loop(task("a"), task("b", "a"), task("c", "b")).settle("a", verdict)

        assert loop.last == only(Agent.KEEPER, 1)
        assert loop.left_out == [
            ("b", "It needs what a was to find, and nothing was found."),
            ("c", "It needs b, which was not looked up either."),
        ]

    def test_is_never_begun_after_one_that_was_skipped(self):
        loop = Loop(task("a"), task("b", "a")).settle("a", None, state=StepState.SKIPPED, overdue=True)

        assert loop.last == only(Agent.KEEPER, 1, partial=True)
        assert [name for name, _ in loop.left_out] == ["b"]

    def test_that_a_limit_leaves_waiting_makes_its_plan_partial(self):
        loop = Loop(task("a"), task("b", "a"), limit=8).settle("a")

        assert loop.last == only(Agent.KEEPER, 1, partial=True)
        assert loop.left_out == [("b", "A limit of the plan left no room for it.")]

    def test_is_not_begun_when_the_plans_time_is_up(self):
        loop = Loop(task("a"), task("b", "a")).settle("a", overdue=True)

        assert loop.last == only(Agent.KEEPER, 1, partial=True)

    @pytest.mark.parametrize(
        "briefs",
        [
            (task("a", "a"),),
            (task("a", "b"), task("b", "a")),
            (task("a", "unknown"),),
        ],
    )
    def test_does_not_hang_a_plan_in_which_it_waits_for_itself(self, briefs):
        loop = Loop(*briefs)
        assert loop.last == only(Agent.GENERATOR)
        assert {name for name, _ in loop.left_out} == {brief["task"] for brief in briefs}

        beside = Loop(task("x"), *briefs).settle("x")
        assert beside.last == only(Agent.KEEPER, 1)

    def test_of_a_later_round_may_need_one_of_an_earlier(self):
        loop = Loop(task("a"))
        loop.settle("a")
        loop.settle(Agent.KEEPER, "narrow", follow_ups=(task("b", "a"), task("c", "b")))
        assert loop.open == ["b"]

        loop.settle("b")
        assert loop.open == ["c"]

    def test_is_begun_after_all_when_what_it_needs_is_found_in_a_later_round(self):
        loop = Loop(task("a"), task("b", "a")).settle("a", "nothing")
        loop.settle(Agent.KEEPER, "narrow", follow_ups=(task("a", query="other words"), task("b", "a")))
        loop.settle("a")

        assert loop.open == ["b"]
        assert loop.settle("b").left_out == []

    @pytest.mark.parametrize("needs", ["a", 7, None, {"a": 1}])
    def test_needs_nothing_if_what_it_says_is_no_list(self, needs):
        assert Loop({"question": "q", "task": "t", "after": needs}).open == ["t"]

    @given(
        st.lists(st.sets(st.integers(0, 5), max_size=2), min_size=1, max_size=6),
        st.lists(st.sampled_from(["found", "nothing"]), min_size=6, max_size=6),
        st.randoms(use_true_random=False),
    )
    def test_b24_never_runs_before_its_needs_and_always_after_them(self, graph, verdicts, dice):
        """Any graph, cycles among them, settled in any order: exactly what could be fed was run, once."""
        briefs = [task(str(i), *map(str, sorted(needs))) for i, needs in enumerate(graph)]
        loop = Loop(*briefs, depth=3)
        order = []
        while any(s.agent.looks for s in loop.steps if not s.settled):
            name = dice.choice([n for n in loop.open if n.isdigit()])
            order.append(name)
            loop.settle(name, verdicts[int(name)])
        fed = set()
        while more := {
            b["task"]
            for b in briefs
            if b["task"] not in fed
            and all(n in fed and verdicts[int(n)] == "found" for n in b.get("after", ()))
        }:
            fed |= more
        assert sorted(order) == sorted(fed)
        assert all(
            order.index(n) < order.index(b["task"])
            for b in briefs
            if b["task"] in fed
            for n in b.get("after", ())
        )
        assert {name for name, _ in loop.left_out} == {b["task"] for b in briefs} - fed


class TestADoubt:
    """B23: parallel branches that look for what would speak against the first findings."""

    def against(self, *names):
        return tuple(task(name, side="against") for name in names)

    @pytest.mark.parametrize("depth", [d for d in DEPTH if DEPTH[d].divergence])
    @pytest.mark.parametrize("verdict", ["sufficient", "narrow", "exhausted"])
    def test_b23_is_raised_once_after_the_first_round_of_a_deep_plan(self, depth, verdict):
        first = step(Agent.KEEPER, round_=1, verdict=verdict, follow_ups=QUERIES[:1])
        later = step(Agent.KEEPER, round_=2, verdict="sufficient")
        assert after(first, of=plan(depth)) == only(Agent.DIVERGER, 1)
        assert after(later, of=plan(depth)) == only(Agent.GENERATOR)

    @pytest.mark.parametrize("depth", [1, 2])
    def test_costs_a_shallow_plan_nothing(self, depth):
        enough = step(Agent.KEEPER, round_=1, verdict="sufficient")
        assert (DEPTH[depth].divergence, after(enough, of=plan(depth))) == (0, only(Agent.GENERATOR))

    def test_b23_is_looked_up_beside_the_narrower_questions_and_joined_at_one_keeper(self):
        loop = Loop(task("a"), task("b"), depth=3)
        loop.settle("a").settle("b")
        loop.settle(Agent.KEEPER, "narrow", follow_ups=(task("c"),))
        loop.settle(Agent.DIVERGER, "diverged", follow_ups=self.against("x", "y"))
        assert loop.open == ["c", "x", "y"]
        assert [s.brief.get("side") for s in loop.steps if not s.settled] == [None, "against", "against"]

        assert loop.settle("x").settle("c").last == Wait()
        assert loop.settle("y", "nothing").last == only(Agent.KEEPER, 2)

    def test_is_looked_up_alone_when_the_keeper_has_enough(self):
        loop = Loop(task("a"), depth=3).settle("a")
        loop.settle(Agent.KEEPER, "sufficient", follow_ups=(task("not wanted"),))
        assert loop.settle(Agent.DIVERGER, "diverged", follow_ups=self.against("x")).open == ["x"]

    @pytest.mark.parametrize("depth", [d for d in DEPTH if DEPTH[d].divergence])
    def test_is_not_raised_more_often_than_the_depth_allows(self, depth):
        diverged = step(Agent.DIVERGER, round_=1, follow_ups=QUERIES)
        assert len(after(diverged, of=plan(depth)).steps) == DEPTH[depth].divergence

    def test_that_nobody_has_goes_on_to_write(self):
        assert after(step(Agent.DIVERGER, round_=1), of=plan(3)) == only(Agent.GENERATOR)

    def test_that_does_not_fit_makes_its_plan_partial(self):
        enough = step(Agent.KEEPER, round_=1, verdict="sufficient")
        assert after(enough, of=plan(3, steps=10, spent=4)) == only(Agent.GENERATOR, partial=True)
        assert after(enough, of=plan(3), overdue=True) == only(Agent.GENERATOR, partial=True)

    def test_that_does_not_fit_leaves_the_narrower_question_what_room_there_is(self):
        narrow = step(Agent.KEEPER, round_=1, verdict="narrow", follow_ups=QUERIES[:1])
        found = after(narrow, of=plan(3, steps=10, spent=4))
        assert found == Go((NewStep(Agent.RESEARCHER, 2, QUERIES[0]),), partial=True)


class TestTheDepths:
    def test_b3_each_goes_at_least_as_far_as_the_one_before_in_every_way(self):
        profiles = [DEPTH[depth] for depth in sorted(DEPTH)]
        assert [*DEPTH] == [1, 2, 3, 4, 5]
        for name in ooda.DepthProfile.__slots__:
            ways = [getattr(profile, name) for profile in profiles]
            assert ways == sorted(ways), name
            assert ways[0] < ways[-1], name

    def test_b3_b45_choose_how_often_a_plan_loops_forks_and_corrects(self):
        """The same minds, who always want more: what they get is what the depth allows, and nothing else."""
        for depth, profile in DEPTH.items():
            loop = Loop(*QUERIES, depth=depth)
            while not isinstance(loop.last, End):
                agent = next(s.agent for s in loop.steps if not s.settled)
                verdict = {Agent.KEEPER: "narrow", Agent.JUDGE: "revise"}.get(agent, "found")
                loop.settle(agent, verdict, follow_ups=QUERIES)
            made = [s.agent for s in loop.steps]
            doubts = profile.divergence
            assert made.count(Agent.KEEPER) == profile.rounds
            assert made.count(Agent.RESEARCHER) == profile.rounds * profile.fan_out + doubts
            assert made.count(Agent.DIVERGER) == bool(doubts)
            assert made.count(Agent.GENERATOR) == profile.revisions + 1

    def test_b1_b37_each_agent_works_in_a_phase_of_the_loop_that_its_step_says(self):
        assert {agent.phase for agent in Agent} == set(Phase)
        assert [a for a in Agent if a.phase is Phase.OBSERVE] == [Agent.RESEARCHER, Agent.CODER]
        assert all(step(agent).phase is agent.phase for agent in Agent)


class TestADraft:
    def test_is_criticised_and_judged(self):
        assert after(step(Agent.GENERATOR, round_=1)) == only(Agent.CRITIC, 1)
        assert after(step(Agent.CRITIC, round_=1)) == only(Agent.JUDGE, 1)

    def test_that_is_accepted_becomes_the_report(self):
        assert then(judged("accept")) == (Agent.SYNTHESISER, 0, False, "accepted", None)

    def test_that_is_accepted_without_being_sure_is_written_again(self):
        assert then(judged("accept", sure=0.94)) == (Agent.GENERATOR, 1, False, "revise", None)

    def test_that_is_sent_back_is_written_again(self):
        assert then(judged("revise")) == (Agent.GENERATOR, 1, False, "revise", None)

    def test_that_is_rejected_ends_as_what_it_is(self):
        assert then(judged("reject")) == (Agent.SYNTHESISER, 0, False, "needs_review", "rejected")

    def test_that_was_written_before_ends_as_what_it_is(self):
        found = then(judged("revise", 1, repeats=0), of=plan(3))
        assert found == (Agent.SYNTHESISER, 1, False, "needs_review", "no_progress")

    def test_is_sent_back_no_more_often_than_its_depth_allows(self):
        for depth, profile in DEPTH.items():
            found = then(judged("revise", profile.revisions), of=plan(depth))
            assert found == (Agent.SYNTHESISER, profile.revisions, False, "needs_review", "rounds")

    def test_is_sent_back_as_often_as_its_request_says(self):
        many = replace(plan(), metadata={"consensus_rounds": 32_768})

        assert then(judged("revise", 32_766), of=many) == (Agent.GENERATOR, 32_767, False, "revise", None)
        assert then(judged("revise", 32_767), of=many)[3:] == ("needs_review", "rounds")
        assert then(judged("revise"), of=replace(many, metadata={"consensus_rounds": 1}))[4] == "rounds"

    @pytest.mark.parametrize(("spent", "overdue"), [(197, False), (10, True)])
    def test_that_a_limit_keeps_from_being_revised_says_so(self, spent, overdue):
        found = then(judged("revise"), of=plan(spent=spent), overdue=overdue)
        assert found == (Agent.SYNTHESISER, 0, True, "needs_review", "budget")

    def test_is_sent_back_while_the_whole_revision_fits(self):
        assert then(judged("revise"), of=plan(spent=196))[:2] == (Agent.GENERATOR, 1)


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
            steps.append(Step("p", len(steps) + 1, new.agent, StepState.READY, new.round, new.brief))
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
