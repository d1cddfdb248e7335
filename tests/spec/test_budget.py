"""Budgets: what fits is allowed, what does not is named, and there is always room to write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.budget import LEAST_STEPS, WRITING_STEPS, Budget, Spent
from orchestrator.domain.errors import BudgetSpent, InvalidBudget

amounts = st.integers(min_value=0, max_value=1_000)
spendings = st.builds(Spent, amounts, amounts, amounts, amounts)
budgets = st.builds(Budget, amounts, amounts, amounts, amounts, amounts)


class TestABudget:
    def test_is_fine_as_it_comes(self):
        Budget().check()

    @pytest.mark.parametrize("name", ["steps", "calls", "tokens", "cost_uusd", "seconds"])
    @pytest.mark.parametrize("value", [-1, 2**53 + 1, 1.5, True, None, "10"])
    def test_that_cannot_be_meant_is_refused_by_name(self, name, value):
        with pytest.raises(InvalidBudget, match=name):
            Budget(**{name: value}).check()

    def test_too_small_to_write_anything_is_refused(self):
        with pytest.raises(InvalidBudget, match=f"at least {LEAST_STEPS} steps"):
            Budget(steps=LEAST_STEPS - 1).check()
        Budget(steps=LEAST_STEPS).check()

    def test_without_any_time_is_refused(self):
        with pytest.raises(InvalidBudget, match="from one second to ten years"):
            Budget(seconds=0).check()

    def test_without_calls_tokens_or_money_is_allowed(self):
        Budget(calls=0, tokens=0, cost_uusd=0).check()

    def test_lists_every_limit_by_name(self):
        assert Budget(1, 2, 3, 4, 5).as_json() == {
            "steps": 1,
            "calls": 2,
            "tokens": 3,
            "cost_uusd": 4,
            "seconds": 5,
        }

    @given(budgets, spendings)
    def test_keeps_steps_back_for_writing(self, budget, spent):
        left = budget.research_steps_left(spent)
        assert left >= 0
        assert left == 0 or spent.steps + left + WRITING_STEPS == budget.steps


class TestAReservation:
    @pytest.mark.parametrize(
        ("ask", "what"),
        [
            (Spent(calls=2), "tool and model calls"),
            (Spent(tokens=2), "tokens"),
            (Spent(cost_uusd=2), "micro-dollars"),
        ],
    )
    def test_that_does_not_fit_names_what_ran_out(self, ask, what):
        budget = Budget(calls=10, tokens=10, cost_uusd=10)
        with pytest.raises(BudgetSpent, match=f"budget of 10 {what} is spent") as refused:
            budget.reserve(Spent(calls=9, tokens=9, cost_uusd=9), ask)
        assert (refused.value.what, refused.value.limit) == (what, 10)

    def test_of_the_last_of_it_is_allowed(self):
        budget = Budget(calls=10, tokens=10, cost_uusd=10)
        assert budget.reserve(Spent(calls=9), Spent(calls=1)) == Spent(calls=10)

    def test_asks_nothing_of_what_it_does_not_need(self):
        overspent = Spent(calls=1, tokens=99)
        assert Budget(calls=10, tokens=10).reserve(overspent, Spent(calls=1)).calls == 2

    @given(budgets, spendings, spendings)
    def test_never_goes_beyond_a_limit(self, budget, spent, ask):
        try:
            after = budget.reserve(spent, ask)
        except BudgetSpent:
            return
        assert after == spent.plus(ask)
        assert not ask.calls or after.calls <= budget.calls
        assert not ask.tokens or after.tokens <= budget.tokens
        assert not ask.cost_uusd or after.cost_uusd <= budget.cost_uusd

    def test_within_a_share_says_that_it_is_the_task_s(self):
        part = Budget(calls=10, tokens=100, cost_uusd=0, steps=20).part(0.25)
        assert (part.calls, part.tokens, part.cost_uusd, part.steps) == (3, 25, 0, 20)
        with pytest.raises(BudgetSpent, match="The task's budget of 3 tool and model calls is spent"):
            part.reserve(Spent(calls=3), Spent(calls=1), whose="task")

    @given(spendings, spendings)
    def test_can_be_given_back(self, spent, ask):
        assert spent.plus(ask).minus(ask) == spent
