"""The researcher's tools: in which order they are tried, what of their answers is quoted, and how many documents."""

from __future__ import annotations

from collections import Counter

import pytest

from agents import researcher, synthesiser
from agents.toolbox import Assignment, CallFailed, CallRefused, ToolResult
from orchestrator.domain.errors import BudgetSpent
from orchestrator.domain.plan import Agent, Evidence, Step, StepState

QUESTION = "What is the mean of the readings?"
ANSWER = Evidence.of("mean of 3 values = 4.5\nlargest = 9", locator="tool:statistics", title="Statistics")
OTHER = Evidence.of("The mean of the readings is 4.5.", locator="https://example.org/a", title="Readings")
EMPTY = {"passages": []}
DOWN = CallFailed("timed_out", "It did not answer within 30 s.")
BROKEN = CallFailed("tool_error", "The population of Peru is 9.")


class Toolbox:
    """Tools that answer from a list each, and remember what they were asked."""

    model = ""
    charter = ""

    def __init__(self, *stored, **answers):
        self.asked = []
        self._stored = {e.sha256: e for e in stored or (ANSWER, OTHER)}
        self._answers = {name: list(given) for name, given in answers.items()}

    def call(self, tool, **arguments):
        self.asked.append((tool, arguments))
        given = self._answers[tool].pop(0)
        if isinstance(given, Exception):
            raise given
        if isinstance(given, Evidence):
            return ToolResult({"text": given.text, "locator": given.locator}, given.sha256)
        return ToolResult(given, "0" * 64)

    def evidence(self, sha256):
        return self._stored.get(sha256)

    @property
    def tools(self):
        return [tool for tool, _ in self.asked]


def assignment(*, attempt=1, depth=2, sources=None, **brief):
    brief = {"question": QUESTION, **brief}
    own = Step("p", 3, Agent.RESEARCHER, StepState.RUNNING, 1, brief, attempt=attempt, max_attempts=5)
    given = {"documents": "/docs"} if sources is None else sources
    return Assignment(QUESTION, depth, Agent.RESEARCHER, 1, 3, brief, given, False, [own], ())


class TestATool:
    def test_is_called_with_the_inputs_of_the_brief_and_quoted_from_its_evidence(self):
        box = Toolbox(statistics=[ANSWER])
        thought = researcher.think(assignment(tool="statistics", inputs={"values": [1, 3.5, 9]}), box)

        assert box.asked == [("statistics", {"values": [1, 3.5, 9]})]
        assert thought.verdict == "found"
        assert all(ANSWER.text[f.start : f.end] == f.quote for f in thought.facts)
        assert {f.evidence for f in thought.facts} == {ANSWER.sha256}
        assert thought.result["tool"] == "statistics"

    def test_that_answers_briefly_is_quoted_line_by_line(self):
        box = Toolbox(now=[Evidence.of("Paris = 14:05\n\n  Lima = 08:05  ", locator="tool:now")])
        box._stored = {e.sha256: e for e in box._answers["now"]}
        thought = researcher.think(assignment(tool="now"), box)

        assert [f.quote for f in thought.facts] == ["Paris = 14:05", "Lima = 08:05"]

    def test_of_the_web_is_quoted_only_where_it_answers_the_question(self):
        page = Evidence.of("Buy our shoes.\nThey are cheap.", locator="https://example.org/shoes")
        thought = researcher.think(assignment(tool="fetch_url"), Toolbox(page, fetch_url=[page]))

        assert (thought.verdict, thought.facts) == ("nothing", [])

    def test_whose_answer_is_not_stored_yields_no_fact(self):
        box = Toolbox(OTHER, statistics=[ANSWER])
        assert researcher.think(assignment(tool="statistics"), box).facts == ()

    def test_that_answers_no_text_yields_no_fact(self):
        assert researcher.think(assignment(tool="odd"), Toolbox(odd=[{"text": 7}])).verdict == "nothing"


class TestAToolThatFails:
    def test_b24_is_replaced_by_its_fallbacks_in_their_order(self):
        box = Toolbox(a=[DOWN], b=[BROKEN], c=[ANSWER], d=[OTHER])
        thought = researcher.think(assignment(tool="a", fallbacks=["b", "c", "d"]), box)

        assert box.tools == ["a", "b", "c"]
        assert thought.verdict == "found"
        assert [(t["tool"], t["reason"]) for t in thought.result["tried"]] == [
            ("a", "timed_out"),
            ("b", "tool_error"),
        ]

    def test_b24_never_has_its_error_become_a_fact(self):
        box = Toolbox(a=[BROKEN], b=[ANSWER])
        thought = researcher.think(assignment(tool="a", fallbacks=["b"]), box)

        assert all("Peru" not in fact.quote for fact in thought.facts)

    def test_without_another_is_tried_again_with_the_step(self):
        with pytest.raises(CallFailed, match="did not answer"):
            researcher.think(assignment(tool="a", fallbacks=["b"]), Toolbox(a=[BROKEN], b=[DOWN]))

    def test_b24_in_the_last_attempt_leaves_a_gap_and_no_fact(self):
        given = assignment(tool="a", attempt=5)
        thought = researcher.think(given, Toolbox(a=[BROKEN]))
        assert (thought.verdict, thought.facts) == ("failed", ())

        own = Step(
            "p",
            3,
            Agent.RESEARCHER,
            StepState.SUCCEEDED,
            1,
            given.brief,
            verdict="failed",
            result=thought.result,
        )
        after = Assignment(QUESTION, 2, Agent.SYNTHESISER, 0, 9, {}, {}, False, [own], ())
        report = synthesiser.think(after, Toolbox()).report
        assert report["gaps"] == [
            {"question": QUESTION, "reason": "it could not be looked up: a: tool_error"}
        ]

    def test_because_documents_cannot_be_searched_ends_as_it_always_did(self):
        with pytest.raises(CallFailed):
            researcher.think(assignment(attempt=5), Toolbox(documents_search=[DOWN]))

    def test_may_be_replaced_by_a_search_of_the_documents(self):
        box = Toolbox(a=[DOWN], documents_search=[EMPTY])
        thought = researcher.think(assignment(tool="a", fallbacks=["documents_search"]), box)

        assert (box.tools, thought.verdict) == (["a", "documents_search"], "nothing")

    def test_is_not_replaced_by_documents_that_are_not_there(self):
        given = assignment(tool="a", fallbacks=["documents_search"], sources={})
        assert researcher.think(given, Toolbox(a=[DOWN])).verdict == "nothing"

    def test_for_want_of_budget_is_not_replaced(self):
        box = Toolbox(a=[BudgetSpent("tool and model calls", 3)], b=[ANSWER])
        with pytest.raises(BudgetSpent):
            researcher.think(assignment(tool="a", fallbacks=["b"]), box)
        assert box.tools == ["a"]


class TestAToolThatIsRefused:
    def test_is_not_got_around_by_another(self):
        box = Toolbox(a=[CallRefused("policy_denied", "Policy denies it.")], b=[ANSWER])
        with pytest.raises(CallRefused, match="Policy denies"):
            researcher.think(assignment(tool="a", fallbacks=["b"]), box)
        assert box.tools == ["a"]

    @pytest.mark.parametrize("reason", ["stopped", "schema_changed", "policy_unavailable"])
    def test_for_a_while_is_waited_for(self, reason):
        box = Toolbox(a=[CallFailed(reason, "Not now.")], b=[ANSWER])
        with pytest.raises(CallFailed, match="Not now"):
            researcher.think(assignment(tool="a", fallbacks=["b"], attempt=5), box)
        assert box.tools == ["a"]

    @pytest.mark.parametrize("reason", ["tool_withheld", "unknown_tool"])
    def test_because_this_machine_lacks_it_may_be_replaced_and_is_named(self, reason):
        box = Toolbox(a=[CallRefused(reason, "Not offered.")], b=[ANSWER])
        thought = researcher.think(assignment(tool="a", fallbacks=["b"]), box)

        assert (thought.verdict, thought.result["tried"][0]["reason"]) == ("found", reason)

    def test_because_this_machine_lacks_it_is_a_gap_without_another(self):
        box = Toolbox(a=[CallRefused("tool_withheld", "Not offered.")])
        assert researcher.think(assignment(tool="a"), box).verdict == "failed"


def page(name, text):
    return Evidence.of(text, locator=name, title=name)


FIVE = page("five.md", "\n\n".join(f"The mean of the readings is {n} on day {n}." for n in range(1, 9)))
ONE = page("one.md", "It was said elsewhere that the mean of the readings came to 4:")


def searched(*pages, **rest):
    found = [
        {"locator": p.locator, "title": p.title, "heading": [], "text": p.text, "start": 0} for p in pages
    ]
    box = Toolbox(*pages, documents_search=[{"passages": found}])
    box._answers["documents_fetch"] = []
    by_locator = {p.locator: p for p in pages}

    def call(tool, **arguments):
        if tool == "documents_fetch":
            box.asked.append((tool, arguments))
            stored = by_locator[arguments["locator"]]
            return ToolResult({"text": stored.text, "locator": stored.locator}, stored.sha256)
        return Toolbox.call(box, tool, **arguments)

    box.call = call
    thought = researcher.think(assignment(**rest), box)
    return Counter(fact.locator for fact in thought.facts)


class TestTheDocumentsOfAnAnswer:
    def test_b3_are_as_many_as_the_depth_wants(self):
        assert searched(FIVE, ONE, depth=1) == {"five.md": 4}
        assert searched(FIVE, ONE, depth=3) == {"five.md": 5, "one.md": 1}

    def test_are_fewer_where_no_other_answers(self):
        shoes = page("shoes.md", "Buy our shoes. They are cheap.")
        assert searched(FIVE, shoes, depth=3) == {"five.md": 6}

    def test_b3_are_no_more_than_the_request_allows(self):
        few = {"documents": "/docs", "max_sources": 1}
        assert len(searched(ONE, FIVE, depth=3, sources=few)) == 1
        assert len(searched(ONE, FIVE, depth=3)) == 2

    def test_b29_yield_facts_of_one_sentence_each_with_its_place_and_no_wording_twice(self):
        """The seed kept whole outputs of tools as one fact, and the same again in each round."""
        twice = page("twice.md", f"{ONE.text}\n\n{FIVE.text}")
        found = [
            {"locator": p.locator, "title": p.title, "heading": [], "text": p.text, "start": 0}
            for p in (FIVE, twice)
        ]
        box = Toolbox(
            FIVE, twice, documents_search=[{"passages": found}], documents_fetch=[FIVE, twice, FIVE]
        )
        facts = researcher.think(assignment(), box).facts

        assert len(facts) == len({fact.quote for fact in facts}) > 1
        assert all(fact.quote.count(". ") == 0 for fact in facts)
        assert all(box.evidence(f.evidence).text[f.start : f.end] == f.quote for f in facts)

    def test_of_a_found_answer_are_counted(self):
        box = Toolbox(statistics=[ANSWER])
        assert researcher.think(assignment(tool="statistics"), box).result["sources"] == 1
