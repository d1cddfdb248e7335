"""Goals and requests: what people may ask, in any script, and the one text that a value has."""

import json
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.budget import Budget
from orchestrator.domain.errors import InvalidBudget, InvalidDepth, InvalidGoal
from orchestrator.domain.plan import (
    GOAL_LIMIT_BYTES,
    Agent,
    Evidence,
    Fact,
    Phase,
    canonical,
    clean_goal,
    digest,
    request,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
).filter(lambda value: "\\ud" not in json.dumps(value))


class TestAGoal:
    @pytest.mark.parametrize("goal", ["", " ", "\n\t\r", "\x00\x07", "\u3000\u2003", "\u00a0"])
    def test_that_is_empty_is_refused_with_an_example(self, goal):
        with pytest.raises(InvalidGoal, match=r"The goal is empty\. Ask a question, for example"):
            clean_goal(goal)

    @pytest.mark.parametrize("goal", [None, 7, b"bytes", ["list"]])
    def test_that_is_no_text_is_refused(self, goal):
        with pytest.raises(InvalidGoal, match="A goal is a text"):
            clean_goal(goal)

    def test_of_a_hundred_kilobytes_is_refused_with_its_size(self):
        with pytest.raises(InvalidGoal, match="102,400 bytes long; at most 16,384"):
            clean_goal("x" * 102_400)

    def test_is_measured_in_bytes_and_not_in_letters(self):
        clean_goal("界" * (GOAL_LIMIT_BYTES // 3))
        with pytest.raises(InvalidGoal, match="16,386 bytes"):
            clean_goal("界" * (GOAL_LIMIT_BYTES // 3 + 1))

    @pytest.mark.parametrize(
        "goal",
        [
            "with 语句做什么?",
            "ماذا تفعل جملة with؟",
            "מה עושה with?",
            "What does 🧑‍🔬 mean? 👩🏽‍🚀",
            "Что делает with?",
            "c'est l'été à Zürich",
            "with文は何をしますか",
        ],
    )
    def test_in_any_script_is_kept_as_it_is(self, goal):
        assert clean_goal(goal) == goal

    def test_is_put_into_the_composed_form(self):
        assert clean_goal("e\u0301te\u0301") == "\u00e9t\u00e9"

    def test_has_spaces_for_control_characters(self):
        assert clean_goal("What\x00does\x1b[31m it\r\n\tdo?\x7f") == "What does [31m it do?"

    @pytest.mark.parametrize("goal", ["\ud800", "good until \udfff here", "\udc00\ud800"])
    def test_with_a_lone_surrogate_is_refused(self, goal):
        with pytest.raises(InvalidGoal, match="not text"):
            clean_goal(goal)

    @given(st.text(st.characters()))
    def test_is_cleaned_or_refused_and_then_stays_as_it_is(self, goal):
        try:
            cleaned = clean_goal(goal)
        except InvalidGoal:
            return
        assert cleaned
        assert clean_goal(cleaned) == cleaned
        assert not any(unicodedata.category(c) in {"Cc", "Cs"} for c in cleaned)
        cleaned.encode()


class TestARequest:
    @pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
    def test_has_a_depth_from_one_to_five(self, depth):
        assert request("Why?", depth=depth).depth == depth

    @pytest.mark.parametrize("depth", [0, 6, -1, 2.0, "2", True, None])
    def test_of_another_depth_is_refused(self, depth):
        with pytest.raises(InvalidDepth, match=r"from 1 to 5") as refused:
            request("Why?", depth=depth)
        assert refused.value.depth == depth

    def test_with_a_budget_that_cannot_be_meant_is_refused(self):
        with pytest.raises(InvalidBudget):
            request("Why?", budget=Budget(steps=1))

    def test_is_the_same_for_goals_that_differ_in_spaces(self):
        assert request(" Why  not?\n").fingerprint() == request("Why not?").fingerprint()

    @pytest.mark.parametrize(
        "other",
        [
            {"goal": "How?"},
            {"depth": 3},
            {"tenant": "acme"},
            {"sources": {"folder": "other"}},
            {"budget": Budget(calls=1)},
            {"priority": 1},
            {"metadata": {"a": 1}},
        ],
    )
    def test_has_another_fingerprint_for_anything_else_asked(self, other):
        usual = {"goal": "Why?", "depth": 2}
        assert request(**(usual | other)).fingerprint() != request(**usual).fingerprint()

    def test_keeps_its_fingerprint_under_another_key(self):
        assert request("Why?", key="a").fingerprint() == request("Why?", key="b").fingerprint()


class TestACanonicalText:
    @given(json_values)
    def test_means_the_value(self, value):
        assert json.loads(canonical(value)) == json.loads(json.dumps(value))

    @given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers()))
    def test_does_not_depend_on_the_order_of_keys(self, value):
        backwards = dict(reversed(value.items()))
        assert canonical(backwards) == canonical(value)
        assert digest(backwards) == digest(value)

    def test_is_short_and_not_escaped(self):
        assert canonical({"b": [1, "é"], "a": None}) == '{"a":null,"b":[1,"é"]}'.encode()

    def test_knows_times_bytes_and_nothing_strange(self):
        assert canonical({"at": NOON, "mac": b"\x01"}) == b'{"at":"2026-01-01T12:00:00+00:00","mac":"01"}'
        with pytest.raises(TypeError, match="set has no canonical JSON form"):
            canonical({1, 2})

    def test_of_equal_values_has_an_equal_digest(self):
        assert digest({"a": (1, 2)}) == digest({"a": [1, 2]})
        assert len(digest(None)) == 64


class TestNouns:
    def test_evidence_is_addressed_by_its_text(self):
        made = Evidence.of("text", locator="a.txt")
        assert made.sha256 == made.origin_sha256 == Evidence.of("text", locator="b.txt").sha256
        assert Evidence.of("text", locator="a.pdf", origin="f" * 64).origin_sha256 == "f" * 64

    def test_a_fact_is_named_by_step_and_number(self):
        assert Fact(3, 1, "q", "sha", 0, 1, "a.txt").name == "F3.1"

    @pytest.mark.parametrize("agent", Agent)
    def test_every_agent_works_in_a_phase(self, agent):
        assert agent.phase in Phase
