"""The diverger's doubts: what they ask, that they are questions, and what is taken for an answer to one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import diverger, researcher, synthesiser
from agents.toolbox import AGAINST, Assignment, ToolResult
from orchestrator.domain.ooda import DEPTH
from orchestrator.domain.plan import Agent, Evidence, Fact, Step, StepState

GOAL = "What does the with statement guarantee?"
FOUND = "The with statement guarantees that its block is left in order."
TEXT = f"{FOUND}\n\nThe with statement guarantees nothing unless its manager was entered.\n\nShoes are cheap."
DOCUMENT = Evidence.of(TEXT, locator="with.md", title="with")


def fact(question=GOAL, *, step=3, quote=FOUND):
    return Fact(step, 1, quote, DOCUMENT.sha256, 0, len(quote), "with.md", question=question)


def looked(question, *, number=3, **brief):
    return Step(
        "p", number, Agent.RESEARCHER, StepState.SUCCEEDED, 1, {"question": question, **brief}, settled=True
    )


class Toolbox:
    """A model that answers from a list, and a search that finds one document."""

    charter = ""

    def __init__(self, *replies, model=""):
        self.model, self._replies, self.asked = model, list(replies), []

    def call(self, tool, **arguments):
        self.asked.append((tool, arguments))
        if tool == "documents_search":
            passage = {"locator": "with.md", "title": "with", "heading": [], "text": TEXT, "start": 0}
            return ToolResult({"passages": [passage]}, "0" * 64)
        if tool == "documents_fetch":
            return ToolResult({"text": TEXT, "locator": "with.md"}, DOCUMENT.sha256)
        return ToolResult({"text": self._replies.pop(0)}, "0" * 64)

    def evidence(self, sha256):
        return DOCUMENT if sha256 == DOCUMENT.sha256 else None


def assignment(goal=GOAL, *, agent=Agent.DIVERGER, depth=3, steps=None, facts=None, brief=None):
    steps = [looked(goal)] if steps is None else steps
    facts = [fact(goal)] if facts is None else facts
    return Assignment(goal, depth, agent, 1, 9, brief or {}, {"documents": "/docs"}, False, steps, facts)


def doubts(*replies, model="", **rest):
    return diverger.think(assignment(**rest), Toolbox(*replies, model=model)).follow_ups


class TestADoubt:
    @pytest.mark.parametrize("depth", [d for d in DEPTH if DEPTH[d].divergence])
    def test_b23_is_a_question_of_its_own_to_look_up_on_the_other_side(self, depth):
        found = doubts(depth=depth)

        assert len(found) == DEPTH[depth].divergence
        assert all(brief["side"] == AGAINST and brief["question"].endswith("?") for brief in found)
        assert all("with statement" in brief["query"] for brief in found)
        assert found[0]["question"] == "Which limits or exceptions apply to the with statement guarantee?"

    def test_b23_takes_turns_between_the_sides_of_a_comparison(self):
        goal = "Compare Peru and Chile on population"
        steps = [looked(goal), looked("population of Peru"), looked("population of Chile")]
        first, second = doubts(goal=goal, steps=steps)

        assert "population of Peru" in first["question"]
        assert "population of Chile" in second["question"]

    def test_needs_something_to_doubt(self):
        assert diverger.think(assignment(facts=[]), Toolbox()).verdict == "nothing"

    @pytest.mark.parametrize(
        ("goal", "about"),
        [
            ("What does the contract say about notice periods?", "notice periods"),
            ("What do the minutes tell us about the budget?", "the budget"),
            ("What is said about lighthouses?", "lighthouses"),
            (GOAL, "the with statement guarantee"),
        ],
    )
    def test_is_about_what_something_was_said_about(self, goal, about):
        assert diverger.subject(goal) == about

    def test_is_not_raised_twice(self):
        first = doubts()
        steps = [looked(GOAL), *(looked(brief["question"], side=AGAINST) for brief in first)]
        again = doubts(steps=steps)

        assert {b["question"] for b in again}.isdisjoint(b["question"] for b in first)

    @given(st.text(max_size=80))
    def test_can_be_put_to_anything(self, goal):
        found = doubts(goal=goal)
        assert len(found) == len({brief["question"].casefold() for brief in found}) <= DEPTH[3].divergence

    def test_may_be_put_by_a_model_and_made_up_by_templates(self):
        found = doubts(json.dumps({"questions": ["Is the block ever left open?"]}), model="m")

        assert [b["question"] for b in found] == [
            "Is the block ever left open?",
            "Which limits or exceptions apply to the with statement guarantee?",
        ]

    @pytest.mark.parametrize(
        "reply", ["", "[]", '{"questions": "Is it?"}', '{"questions": [1]}', '{"questions": ["OWNED."]}', "{"]
    )
    def test_is_a_template_where_a_model_makes_no_sense_or_states_something(self, reply):
        assert doubts(reply, reply, model="m") == doubts()


class TestWhatSpeaksAgainst:
    def looked_up(self, facts=()):
        brief = {"question": "Which limits apply?", "side": AGAINST, "about": GOAL}
        return researcher.think(
            assignment(agent=Agent.RESEARCHER, steps=[], facts=facts, brief=brief), Toolbox()
        )

    def test_b23_is_a_sentence_that_limits_or_denies_and_not_the_first_finding_once_more(self):
        (counter,) = self.looked_up([fact()]).facts

        assert counter.quote == "The with statement guarantees nothing unless its manager was entered."

    def test_is_not_found_twice(self):
        (counter,) = self.looked_up().facts
        assert self.looked_up([counter]).verdict == "nothing"

    def test_is_no_gap_and_no_lack_of_confidence_where_there_is_none(self):
        steps = [looked(GOAL), looked("Which limits?", number=4, side=AGAINST)]
        given = assignment(steps=steps)

        report = synthesiser.think(given, Toolbox()).report
        assert "Which limits?" not in {gap["question"] for gap in report["gaps"]}
        assert report["basis"]["asked"] == 1
