"""Messages: a doorbell carries ids only, and a body that is none of ours is said to be so."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.plan import StepRef
from orchestrator.messages import KNOWN, VERSION, Malformed, Message, Topic, parse

PLAN = "00000000-0000-4000-8000-000000000001"
GOOD = {"v": VERSION, "plan_id": PLAN, "step": 3}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


class TestAMessage:
    @given(st.sampled_from(Topic), st.uuids(), st.integers(min_value=1, max_value=2**31 - 1))
    def test_comes_back_as_it_was_sent(self, topic, plan_id, step):
        message = Message(topic, StepRef(str(plan_id), step))
        assert parse(topic, message.body()) == message

    def test_carries_ids_and_a_version_only(self):
        assert Message(Topic.STEPS, StepRef(PLAN, 3)).body() == GOOD

    def test_may_carry_more_than_is_known_here(self):
        assert parse(Topic.STEPS, GOOD | {"later": "addition"}).ref == StepRef(PLAN, 3)

    def test_names_its_plan_in_one_way_only(self):
        assert parse(Topic.STEPS, GOOD | {"plan_id": PLAN.replace("-", "").upper()}).ref.plan_id == PLAN


WRITTEN = {1: {"v": 1, "plan_id": PLAN, "step": 3}}
"""What each version looks like in a queue. A line is added, never changed."""


class TestAVersion:
    @pytest.mark.parametrize("version", KNOWN)
    def test_that_is_known_is_understood_whichever_is_sent_now(self, version):
        assert parse(Topic.STEPS, WRITTEN[version]).ref == StepRef(PLAN, 3)

    def test_that_is_sent_is_the_newest_that_is_known(self):
        assert max(KNOWN) == VERSION
        assert set(KNOWN) == set(WRITTEN)


class TestABodyThatIsNotAMessage:
    @pytest.mark.parametrize(
        ("body", "why"),
        [
            (None, "not an object"),
            ([], "not an object"),
            ("text", "not an object"),
            (b"\xff\xfe", "not an object"),
            ({}, "Version None"),
            (GOOD | {"v": 2}, "Version 2"),
            (GOOD | {"v": "1"}, "Version '1'"),
            (GOOD | {"v": [1]}, "Version"),
            (GOOD | {"plan_id": "17"}, "plan's id"),
            (GOOD | {"plan_id": None}, "plan's id"),
            (GOOD | {"plan_id": PLAN + "'; DROP TABLE plan"}, "plan's id"),
            (GOOD | {"step": 0}, "step's number"),
            (GOOD | {"step": -1}, "step's number"),
            (GOOD | {"step": True}, "step's number"),
            (GOOD | {"step": "3"}, "step's number"),
            (GOOD | {"step": 3.0}, "step's number"),
            (GOOD | {"step": 2**31}, "step's number"),
        ],
    )
    def test_is_refused_with_the_reason(self, body, why):
        with pytest.raises(Malformed, match=why):
            parse(Topic.STEPS, body)

    @given(json_values)
    def test_is_malformed_and_nothing_worse(self, body):
        with pytest.raises(Malformed):
            parse(Topic.STEPS, body)

    @given(st.fixed_dictionaries({"v": st.just(VERSION), "plan_id": json_values, "step": json_values}))
    def test_of_the_right_shape_is_parsed_or_malformed(self, body):
        try:
            message = parse(Topic.STEPS, body)
        except Malformed:
            return
        assert str(UUID(message.ref.plan_id)) == message.ref.plan_id
