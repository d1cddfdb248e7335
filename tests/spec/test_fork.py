"""Where a plan can be returned to: what is taken over, and what is done again."""

from dataclasses import replace

import pytest

from orchestrator.domain import fork
from orchestrator.domain.errors import Conflict, NotFound
from orchestrator.domain.plan import Agent, Step, StepState

DONE, SKIPPED, READY, DEAD = StepState.SUCCEEDED, StepState.SKIPPED, StepState.READY, StepState.DEAD


def steps(*rest):
    """A plan: its router, its planner, and then these: agent, round, state."""
    made = [(Agent.ROUTER, 0, DONE), (Agent.PLANNER, 0, DONE), *rest]
    return [
        Step(
            "old",
            number,
            agent,
            state,
            round_,
            {"question": f"question {number}"},
            attempt=2,
            max_attempts=7,
            claim=3,
            verdict="found" if state is DONE else None,
            follow_ups=({"question": "more"},) if state is DONE else (),
            result={"number": number},
            settled=state in {DONE, SKIPPED},
        )
        for number, (agent, round_, state) in enumerate(made, start=1)
    ]


def looking(*states, round_=1):
    return [(Agent.RESEARCHER, round_, state) for state in states]


def numbers(found):
    return [s.number for s in found.copied], [s.number for s in found.ready]


WHOLE = steps(
    *looking(DONE, DONE),
    (Agent.KEEPER, 1, DONE),
    *looking(DONE, DONE, round_=2),
    (Agent.KEEPER, 2, DONE),
    (Agent.GENERATOR, 0, DONE),
    (Agent.CRITIC, 0, DONE),
    (Agent.JUDGE, 0, DONE),
    (Agent.SYNTHESISER, 0, DONE),
)


def task(name, *needs, agent=Agent.RESEARCHER):
    return (agent, {"question": name, "task": name, "after": list(needs)})


def tasked(*made):
    """A plan in its first round, whose tasks are done; then its keeper."""
    found = steps(*((agent, 1, DONE) for agent, _ in made), (Agent.KEEPER, 1, DONE))
    given = {number: brief for number, (_, brief) in enumerate(made, start=3)}
    return [replace(s, brief=given.get(s.number, s.brief)) for s in found]


class TestARoundInWhichTasksNeedEachOther:
    @pytest.mark.parametrize(
        ("from_step", "copied", "again"),
        [
            (3, [1, 2], ["a", "d"]),  # b and c follow from a anew
            (4, [1, 2, 3], ["b", "d"]),
            (5, [1, 2, 3, 4], ["c", "d"]),
            (6, [1, 2, 3, 4, 5], ["d"]),
        ],
    )
    def test_is_done_again_without_what_needs_what_is_done_again(self, from_step, copied, again):
        whole = tasked(task("a"), task("b", "a"), task("c", "b"), task("d", agent=Agent.CODER))
        found = fork.branch(whole, from_step)

        assert [s.number for s in found.copied] == copied
        assert [s.brief["task"] for s in found.ready] == again
        assert [s.number for s in found.ready] == list(range(len(copied) + 1, len(copied) + 1 + len(again)))

    def test_may_be_returned_to_at_each_of_its_steps(self):
        whole = tasked(task("a"), task("b", "a"), task("c", agent=Agent.CODER))
        assert fork.checkpoints(whole) == (1, 2, 3, 4, 5, 6)


class TestABranch:
    @pytest.mark.parametrize(
        ("from_step", "copied", "ready"),
        [
            (1, [], [1]),
            (2, [1], [2]),
            (3, [1, 2], [3, 4]),
            (4, [1, 2, 3], [4]),
            (5, [1, 2, 3, 4], [5]),
            (6, [1, 2, 3, 4, 5], [6, 7]),
            (7, [1, 2, 3, 4, 5, 6], [7]),
            (12, list(range(1, 12)), [12]),
        ],
    )
    def test_takes_over_what_came_before_and_nothing_that_came_later(self, from_step, copied, ready):
        assert numbers(fork.branch(WHOLE, from_step)) == (copied, ready)

    @pytest.mark.parametrize("state", [s for s in StepState if s is not DONE and s is not StepState.PENDING])
    def test_does_again_what_was_planned_with_the_step_and_has_not_ended(self, state):
        found = fork.branch(steps(*looking(state, DONE, state, DONE)), 5)
        assert numbers(found) == ([1, 2, 4], [3, 5, 6])

    @pytest.mark.parametrize("state", [s for s in StepState if s is not StepState.PENDING])
    def test_may_begin_at_a_step_in_any_state(self, state):
        assert numbers(fork.branch(steps(*looking(state)), 3)) == ([1, 2], [3])

    def test_takes_finished_steps_over_with_all_they_came_to(self):
        running = replace(WHOLE[2], settled=False)
        copied = fork.branch([*WHOLE[:2], running, WHOLE[3]], 4).copied
        assert copied == tuple(WHOLE[:3])

    def test_keeps_what_was_skipped_before(self):
        found = fork.branch(steps(*looking(SKIPPED, DONE), (Agent.KEEPER, 1, DONE)), 5)
        assert [s.state for s in found.copied] == [DONE, DONE, SKIPPED, DONE]

    def test_makes_steps_ready_with_nothing_but_their_brief(self):
        (ready,) = fork.branch(WHOLE, 4).ready
        assert ready == Step("old", 4, Agent.RESEARCHER, READY, 1, {"question": "question 4"})

    def test_knows_whether_something_that_was_found_is_taken_over(self):
        assert not fork.branch(WHOLE, 3).looked
        assert fork.branch(WHOLE, 4).looked

    @pytest.mark.parametrize("number", [0, -1, 13, 99])
    def test_from_a_step_that_is_not_there_is_not_found(self, number):
        with pytest.raises(NotFound, match="it has 12"):
            fork.branch(WHOLE, number)

    @pytest.mark.parametrize("before", [DEAD, READY, StepState.RUNNING, StepState.CANCELLED])
    def test_from_a_step_whose_predecessors_have_not_ended_is_refused_with_those_that_are_possible(
        self, before
    ):
        broken = steps(*looking(DONE, before), (Agent.KEEPER, 1, READY))
        with pytest.raises(Conflict, match=r"forked from step 1, 2, 3, 4\."):
            fork.branch(broken, 5)

    def test_from_a_step_whose_predecessors_are_not_settled_is_refused(self):
        unsettled = replace(WHOLE[3], settled=False)
        with pytest.raises(Conflict, match=r"forked from step 1, 2, 3, 4\."):
            fork.branch([*WHOLE[:3], unsettled, *WHOLE[4:]], 5)

    def test_from_a_step_that_was_never_reached_is_refused(self):
        with pytest.raises(Conflict, match=r"forked from step 1, 2\."):
            fork.branch(steps((Agent.GENERATOR, 0, StepState.PENDING)), 3)


def test_every_checkpoint_can_be_forked_from_and_nothing_else_can():
    some = [*steps(*looking(DONE, DEAD), (Agent.KEEPER, 1, READY))]
    possible = fork.checkpoints(some)
    for step in some:
        if step.number in possible:
            fork.branch(some, step.number)
        else:
            with pytest.raises(Conflict):
                fork.branch(some, step.number)
    assert fork.checkpoints(WHOLE) == tuple(range(1, 13))


def test_a_checkpoint_is_listed_with_what_a_fork_reuses_and_does_again():
    found = fork.listed(WHOLE)
    assert [c.step.number for c in found] == list(fork.checkpoints(WHOLE))
    for checkpoint in found:
        made = fork.branch(WHOLE, checkpoint.step.number)
        assert (list(checkpoint.reused), list(checkpoint.again)) == numbers(made)
    assert (found[0].reused, found[-1].reused) == ((), tuple(range(1, 12)))
