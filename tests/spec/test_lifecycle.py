"""The lifecycle: which move is legal from where, and that nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import lifecycle
from orchestrator.domain.errors import IllegalMove
from orchestrator.domain.lifecycle import (
    ALIVE,
    PLAN_ENDS,
    PLAN_MOVES,
    STEP_ENDS,
    STEP_MOVES,
    PlanMove,
    StepMove,
)
from orchestrator.domain.plan import PlanState, StepState


class TestAStep:
    @pytest.mark.parametrize("move", StepMove)
    @pytest.mark.parametrize("state", StepState)
    def test_moves_only_as_the_table_says(self, state, move):
        allowed, after = STEP_MOVES[move]
        if state in allowed:
            assert lifecycle.step_after(state, move) is after
        else:
            with pytest.raises(IllegalMove) as refused:
                lifecycle.step_after(state, move)
            assert (refused.value.state, refused.value.move) == (state, move)
            assert str(refused.value).startswith("A step that ")
            assert refused.value.code == "illegal_move"

    def test_that_succeeded_never_moves_again(self):
        for settled in (StepState.SUCCEEDED, StepState.SKIPPED, StepState.CANCELLED, StepState.REJECTED):
            assert not [move for move, (allowed, _) in STEP_MOVES.items() if settled in allowed]

    def test_that_was_given_up_on_can_only_be_replayed(self):
        for lost in (StepState.DEAD, StepState.FAILED):
            assert [move for move, (allowed, _) in STEP_MOVES.items() if lost in allowed] == [StepMove.REPLAY]

    def test_that_waits_for_a_human_moves_only_by_a_decision_or_a_cancellation(self):
        from_waiting = {m for m, (allowed, _) in STEP_MOVES.items() if StepState.WAITING_APPROVAL in allowed}
        assert from_waiting == {StepMove.APPROVE, StepMove.REJECT, StepMove.CANCEL}

    def test_can_be_cancelled_from_every_state_that_is_no_end(self):
        assert STEP_MOVES[StepMove.CANCEL][0] == set(StepState) - STEP_ENDS

    def test_begins_only_when_it_is_ready(self):
        assert STEP_MOVES[StepMove.BEGIN] == (frozenset({StepState.READY}), StepState.RUNNING)

    @given(st.lists(st.sampled_from(StepMove)))
    def test_stays_at_its_end_whatever_is_asked_of_it(self, moves):
        state, ended = StepState.PENDING, False
        for move in moves:
            if ended:
                assert move is StepMove.REPLAY or state not in STEP_MOVES[move][0]
            if state in STEP_MOVES[move][0]:
                state = lifecycle.step_after(state, move)
            ended = state in STEP_ENDS


class TestAPlan:
    @pytest.mark.parametrize("move", PlanMove)
    @pytest.mark.parametrize("state", PlanState)
    def test_moves_only_as_the_table_says(self, state, move):
        allowed, after = PLAN_MOVES[move]
        if state in allowed:
            assert lifecycle.plan_after(state, move) is after
        else:
            with pytest.raises(IllegalMove, match="A plan that ") as refused:
                lifecycle.plan_after(state, move)
            assert (refused.value.state, refused.value.move) == (state, move)

    def test_is_either_alive_or_at_an_end(self):
        assert set(PlanState) == ALIVE | PLAN_ENDS
        assert not ALIVE & PLAN_ENDS

    def test_comes_back_to_life_only_by_a_replay(self):
        back = {m for m, (allowed, after) in PLAN_MOVES.items() if allowed & PLAN_ENDS and after in ALIVE}
        assert back == {PlanMove.REPLAY}

    def test_that_succeeded_was_cancelled_or_rejected_never_moves_again(self):
        for final in (PlanState.SUCCEEDED, PlanState.CANCELLED, PlanState.REJECTED):
            assert not [move for move, (allowed, _) in PLAN_MOVES.items() if final in allowed]

    def test_can_be_cancelled_while_it_is_alive(self):
        assert PLAN_MOVES[PlanMove.CANCEL][0] == ALIVE

    def test_that_waits_for_a_human_cannot_succeed(self):
        assert PlanState.WAITING_APPROVAL not in PLAN_MOVES[PlanMove.SUCCEED][0]

    def test_that_was_given_up_on_can_still_be_rejected(self):
        """Or a step that a human rejected meanwhile would keep a replay from ever ending."""
        for given_up in (PlanState.DEAD_LETTERED, PlanState.FAILED):
            assert lifecycle.plan_after(given_up, PlanMove.REJECT) is PlanState.REJECTED


def test_every_state_can_be_reached():
    assert {after for _, after in STEP_MOVES.values()} | {StepState.PENDING} == set(StepState)
    assert {after for _, after in PLAN_MOVES.values()} | {PlanState.QUEUED} == set(PlanState)


@pytest.mark.parametrize(
    ("state", "move", "told"),
    [
        (PlanState.SUCCEEDED, PlanMove.CANCEL, "A plan that has succeeded cannot be cancelled."),
        (PlanState.SUCCEEDED, PlanMove.REPLAY, "A plan that has succeeded cannot be taken up again."),
        (PlanState.DEAD_LETTERED, PlanMove.CANCEL, "A plan that is dead lettered cannot be cancelled."),
        (PlanState.CANCELLED, PlanMove.REPLAY, "A plan that is cancelled cannot be taken up again."),
    ],
)
def test_what_a_person_may_ask_for_in_vain_is_refused_as_people_say_it(state, move, told):
    with pytest.raises(IllegalMove) as refused:
        lifecycle.plan_after(state, move)

    assert str(refused.value) == told
