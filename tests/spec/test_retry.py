"""Backoff: never longer than its cap, never before the failure, and spread over the whole interval."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.retry import Backoff

draws = st.floats(min_value=0.0, max_value=1.0, exclude_max=True)


class TestABackoff:
    @pytest.mark.parametrize(
        ("attempt", "ceiling"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (50, 60.0)]
    )
    def test_doubles_up_to_its_cap(self, attempt, ceiling):
        assert Backoff().ceiling_s(attempt) == ceiling

    @given(st.integers(min_value=1, max_value=10**9), draws)
    def test_lies_between_nothing_and_its_ceiling(self, attempt, draw):
        backoff = Backoff()
        assert 0.0 <= backoff.delay_s(attempt, draw) <= backoff.ceiling_s(attempt) <= backoff.cap_s

    @given(st.integers(min_value=1, max_value=100))
    def test_never_shrinks_with_attempts(self, attempt):
        assert Backoff().ceiling_s(attempt) <= Backoff().ceiling_s(attempt + 1)

    @given(st.integers(min_value=-10, max_value=0))
    def test_before_the_first_attempt_is_that_of_the_first(self, attempt):
        assert Backoff().ceiling_s(attempt) == Backoff().base_s

    def test_is_drawn_from_the_whole_interval(self):
        assert Backoff().delay_s(4, 0.0) == 0.0
        assert Backoff().delay_s(4, 0.5) == 4.0
        assert 7.9 < Backoff().delay_s(4, 0.999) < 8.0

    def test_with_a_huge_factor_is_still_a_number(self):
        assert Backoff(factor=10.0, cap_s=5.0).ceiling_s(10**6) == 5.0
