"""No tenant can starve another, and each is served by its weight."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.fairness import Waiting, share


def served(tenants, rooms):
    """What each tenant was given in all, in rounds of that much room, while messages last."""
    waiting = {w.tenant: w for w in tenants}
    total = Counter()
    for room in rooms:
        for tenant, part in share(list(waiting.values()), room).items():
            before = waiting[tenant]
            waiting[tenant] = replace(before, messages=before.messages - part.messages, served=part.served)
            total[tenant] += part.messages
    return total


def test_a_flood_leaves_half_of_the_room_to_the_other():
    assert served([Waiting("flood", 10_000), Waiting("drop", 50)], [10] * 10) == {"flood": 50, "drop": 50}


@pytest.mark.parametrize("room", [1, 2, 3, 7, 16])
def test_shares_are_as_the_weights_whatever_the_room(room):
    found = served([Waiting("a", 10_000, weight=3), Waiting("b", 10_000)], [room] * (800 // room))
    assert abs(found["a"] - 3 * found["b"]) <= 4


def test_room_that_one_does_not_need_goes_to_the_others():
    assert served([Waiting("a", 3), Waiting("b", 100)], [20]) == {"a": 3, "b": 17}


def test_a_tenant_that_comes_back_has_no_claim_on_what_it_did_not_use():
    back, busy = Waiting("back", 1_000, served=0), Waiting("busy", 1_000, served=5_000)
    found = served([back, busy], [10] * 10)
    assert abs(found["back"] - found["busy"]) <= 2


def test_a_tenant_that_was_busy_alone_does_not_wait_for_the_others_to_catch_up():
    alone, fresh = Waiting("alone", 1_000, served=5_000), Waiting("fresh", 1_000)
    assert served([alone, fresh], [10])["alone"] >= 4


def test_a_limited_tenant_is_given_no_more_than_it_has_free():
    assert served([Waiting("a", 100, free=2), Waiting("b", 5)], [20]) == {"a": 2, "b": 5}
    assert served([Waiting("a", 100, free=0)], [20]) == {}
    assert served([Waiting("a", 100, free=-3)], [20]) == {}


def test_nothing_is_given_without_room_or_messages():
    assert share([], 10) == {}
    assert share([Waiting("a", 5)], 0) == {}
    assert share([Waiting("a", 5)], -4) == {}


tenants = st.lists(
    st.builds(
        Waiting,
        st.text("abcdef", min_size=1, max_size=2),
        st.integers(0, 50),
        st.floats(0.1, 20),
        st.floats(0, 1_000),
        st.none() | st.integers(-2, 30),
    ),
    max_size=6,
    unique_by=lambda w: w.tenant,
)


@given(tenants, st.integers(-1, 60))
def test_all_room_is_used_as_long_as_somebody_may_be_served(waiting, room):
    given_ = share(waiting, room)
    wanted = sum(max(0, w.messages if w.free is None else min(w.messages, w.free)) for w in waiting)
    assert sum(part.messages for part in given_.values()) == max(0, min(room, wanted))
    for w in waiting:
        if w.tenant in given_:
            assert 0 < given_[w.tenant].messages <= w.messages
            assert given_[w.tenant].served > w.served
