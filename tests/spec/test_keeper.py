"""The keeper's promises: what counts, whether it is enough, what is looked up next, and why it stops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import drift, generator, keeper, terms
from agents.toolbox import AGAINST, Assignment
from orchestrator.domain.ooda import DEPTH
from orchestrator.domain.plan import Agent, Evidence, Fact, Step, StepState

GOAL = "How many sites does Veltrix operate?"
COPY = "Veltrix operates 26 sites in nine countries and in all of its markets."


class Toolbox:
    model = ""
    charter = ""

    def __init__(self, *stored):
        self._stored = {e.sha256: e for e in stored}

    def evidence(self, sha256):
        return self._stored.get(sha256)


def fact(quote, *, step=3, number=1, question=GOAL, locator=None, title="Veltrix", score=1.0):
    place = locator or f"{step}-{number}.md"
    sha = Evidence.of(f"{place} {quote}", locator=place).sha256
    return Fact(step, number, quote, sha, 0, len(quote), place, title=title, question=question, score=score)


def looked(number=3, question=GOAL, *, round_=1, verdict="found", agent=Agent.RESEARCHER, **brief):
    given = {"question": question, "query": question, **brief}
    return Step("p", number, agent, StepState.SUCCEEDED, round_, given, verdict=verdict, settled=True)


def planned(*briefs):
    return Step("p", 2, Agent.PLANNER, StepState.SUCCEEDED, follow_ups=briefs, settled=True)


def think(facts=(), steps=None, *, goal=GOAL, depth=2, round_=1, partial=False, sources=None, stored=()):
    steps = [looked()] if steps is None else steps
    own = Step("p", 90, Agent.KEEPER, StepState.RUNNING, round_)
    given = Assignment(
        goal,
        depth,
        Agent.KEEPER,
        round_,
        90,
        {},
        sources or {"documents": "/docs"},
        partial,
        [*steps, own],
        facts,
    )
    return keeper.think(given, Toolbox(*stored))


def aside(thought):
    return {one["fact"]: one["why"] for one in thought.result["aside"]}


class TestAFactThatHasLeftTheGoal:
    STRAY = fact("Shoes are cheap in Lima this autumn.", number=2, title="Fashion")

    def test_b25_is_set_aside_and_named(self):
        thought = think([fact(COPY), self.STRAY])

        assert aside(thought) == {"F3.2": "drift"}
        assert thought.result["coverage"][GOAL]["facts"] == 1

    def test_b25_does_not_stop_the_search_but_leaves_its_question_open(self):
        thought = think([self.STRAY])

        assert (thought.verdict, thought.result["open"]) == ("narrow", [GOAL])

    def test_b25_is_not_used_in_a_draft(self):
        facts = [fact(COPY), self.STRAY]
        kept = Step("p", 4, Agent.KEEPER, StepState.SUCCEEDED, 1, result=think(facts).result)
        given = Assignment(GOAL, 2, Agent.GENERATOR, 0, 9, {}, {}, False, [looked(), kept], facts)
        drafted = generator.think(given, Toolbox())

        said = [s["text"] for section in drafted.result["sections"] for s in section["sentences"]]
        assert said == [COPY]

    def test_is_no_fact_that_answers_a_question_of_the_goal_in_other_words(self):
        question = "What revenue does Veltrix have?"
        found = fact("Revenue came to 5 million.", question=question, title="Annual report")
        assert aside(think([found], [looked(question=question)], goal="Describe Veltrix")) == {}

    def test_b25_stays_one_when_its_own_question_has_left_the_goal(self):
        question = "Which shoes are cheap in Lima?"
        stray = fact("Shoes are cheap in Lima this autumn.", question=question, title="Fashion")
        assert aside(think([stray], [looked(question=question)])) == {"F3.1": "drift"}

    @pytest.mark.parametrize("goal", ["What is it?", "?"])
    def test_is_none_where_the_goal_says_nothing_to_measure_by(self, goal):
        found = fact(COPY, question=goal)
        assert aside(think([found], [looked(question=goal)], goal=goal)) == {}


class TestTheDrift:
    def test_is_small_for_what_was_asked_and_large_for_what_was_not(self):
        near, far = drift.of(GOAL, [COPY]), drift.of(GOAL, ["Shoes are cheap in Lima."])
        assert 0.0 < near < 0.6
        assert 0.9 < far <= 1.0

    def test_of_nothing_is_none(self):
        assert drift.of(GOAL, []) == 0.0

    def test_can_be_measured_by_another_embedding(self):
        def by_length(text):
            return {len(text): 1.0}

        assert drift.of("abc", ["xyz"], embed=by_length) == 0.0
        assert drift.drifted(["abc"], "abcd", embed=by_length)

    @given(st.text(max_size=100), st.text(max_size=100))
    def test_lies_between_none_and_all_of_it(self, goal, text):
        assert 0.0 <= drift.of(goal, [text]) <= 1.0
        said = any(word not in terms.STOP_WORDS for word in terms.words(text))
        assert drift.cosine(drift.grams(text), drift.grams(text)) == pytest.approx(float(said))


class TestEnough:
    def test_b25_is_not_what_five_copies_of_one_page_say(self):
        """The seed took agreement for certainty: the same page five times was the surest of all."""
        copies = [fact(COPY, number=n, locator=f"mirror-{n}.md") for n in range(1, 6)]
        thought = think(copies, depth=3)

        assert thought.verdict == "narrow"
        assert thought.result["thin"] == [GOAL]
        assert (thought.result["coverage"][GOAL]["facts"], thought.result["coverage"][GOAL]["sources"]) == (
            1,
            1,
        )
        assert set(aside(thought).values()) == {"duplicate"}

    def test_b25_is_what_as_many_documents_say_as_the_depth_wants(self):
        other = fact("In 2026 Veltrix runs warehouses at many sites that it operates.", number=2)
        for depth, profile in DEPTH.items():
            verdict = think([fact(COPY), other], depth=depth).verdict
            assert verdict == ("sufficient" if profile.sources <= 2 else "narrow"), depth

    def test_is_one_document_where_the_request_allows_no_more(self):
        only = {"documents": "/docs", "max_sources": 1}
        assert think([fact(COPY)], depth=3, sources=only).verdict == "sufficient"

    def test_b25_is_not_what_covers_a_small_part_of_the_question(self):
        question = "Which regulator approved the Veltrix acquisition of Nordlicht warehouses?"
        thought = think([fact("Veltrix is a company.", question=question)], [looked(question=question)])

        assert thought.result["coverage"][question]["covered"] < keeper.COVERED
        assert (thought.verdict, thought.result["thin"]) == ("narrow", [question])

    def test_does_not_wait_for_anything_against(self):
        doubt = looked(4, "Which limits apply?", side=AGAINST, verdict="nothing")
        thought = think([fact(COPY)], [looked(), doubt])

        assert (thought.verdict, thought.result["open"]) == ("sufficient", [])


class TestWhatSaysTheSameOnceMore:
    def test_b25_b29_is_merged_and_the_best_is_kept(self):
        thought = think([fact(COPY, score=0.5), fact(COPY.upper(), number=2, score=0.9)])

        assert aside(thought) == {"F3.1": "duplicate"}

    def test_is_not_a_statement_with_another_number(self):
        assert aside(think([fact(COPY), fact(COPY.replace("26", "47"), number=2)])) == {}

    def test_is_kept_under_each_question_that_it_answers(self):
        other = "Where does Veltrix operate?"
        thought = think([fact(COPY), fact(COPY, step=4, question=other)], [looked(), looked(4, other)])

        assert (aside(thought), thought.result["answered"]) == ({}, 2)


class TestFactsThatContradictEachOther:
    def test_b25_are_named_with_their_values(self):
        thought = think([fact(COPY), fact(COPY.replace("26", "47"), step=4)], [looked(), looked(4)])

        assert thought.result["contradictions"] == [
            {"question": GOAL, "facts": ["F3.1", "F4.1"], "values": ["26", "47"]}
        ]

    def test_b25_yield_to_the_one_whose_document_is_current(self):
        """What is outdated stays in the plan, and out of the draft."""
        old = Evidence.of(COPY, locator="archive/sites.md", title="Veltrix")
        new = Evidence.of(COPY.replace("26", "47"), locator="sites.md", title="Veltrix")
        facts = [
            Fact(3, at, e.text, e.sha256, 0, len(e.text), e.locator, title=e.title, question=GOAL)
            for at, e in enumerate((old, new), 1)
        ]
        thought = think(facts, stored=(old, new))

        (one,) = thought.result["contradictions"]
        assert (one["values"], one["preferred"]) == (["26", "47"], "F3.2")
        assert "archive" in one["why"]
        assert aside(thought) == {"F3.1": "outdated"}

    def test_are_looked_for_among_counter_evidence_too(self):
        doubt = looked(4, "What contradicts it?", side=AGAINST)
        against = fact(COPY.replace("26", "47"), step=4, question="What contradicts it?")
        assert len(think([fact(COPY), against], [looked(), doubt]).result["contradictions"]) == 1


class TestTheDocumentsThatMayBeQuoted:
    def test_are_no_more_than_the_request_allows_and_each_question_has_its_best(self):
        other = "Where does Veltrix operate?"
        facts = [
            fact(COPY, locator="a.md"),
            fact("Veltrix also operates test sites.", number=2, locator="b.md"),
            fact("Veltrix operates sites in Oslo.", step=4, question=other, locator="c.md"),
        ]
        thought = think(facts, [looked(), looked(4, other)], sources={"documents": "/d", "max_sources": 2})

        assert aside(thought) == {"F3.2": "sources"}


class TestWhyItStops:
    def test_b46_because_it_is_enough(self):
        assert think([fact(COPY)]).result["yielded"] == "sufficient"

    def test_b46_because_the_budget_is_spent(self):
        thought = think(partial=True)
        assert (thought.verdict, thought.result["yielded"]) == ("exhausted", "budget")

    @pytest.mark.parametrize("depth", DEPTH)
    def test_b46_because_the_depth_allows_no_more_rounds(self, depth):
        thought = think(depth=depth, round_=DEPTH[depth].rounds)
        assert (thought.verdict, thought.result["yielded"]) == ("exhausted", "rounds")

    def test_b46_because_a_round_found_nothing_new(self):
        steps = [looked(), looked(5, round_=2, verdict="nothing")]
        assert think([], steps, depth=4, round_=2).result["yielded"] == "no_progress"

        again = [fact(COPY), fact(COPY, step=5, locator="copy.md", score=0.1)]
        assert (
            think(again, [looked(), looked(5, round_=2)], depth=4, round_=2).result["yielded"]
            == "no_progress"
        )

    def test_b46_because_there_is_no_other_way_to_ask(self):
        question = "?"
        assert think([], [looked(question=question)], goal=question).result["yielded"] == "no_progress"

    def test_b46_says_nothing_of_it_while_it_goes_on(self):
        assert "yielded" not in think().result

    def test_b46_depends_on_nothing_but_the_plan(self):
        facts = [fact(f"Veltrix operates {n} sites.", step=3, number=n) for n in range(1, 30)]
        assert think(facts, depth=4) == think(facts, depth=4)


class TestTheNextLook:
    def test_b25_b45_is_for_what_is_open_in_words_that_were_not_tried(self):
        open_ = "Who founded the Veltrix subsidiary in Oslo?"
        thought = think([fact(COPY)], [looked(), looked(4, open_, task="t2", share=0.2, verdict="nothing")])
        (brief,) = thought.follow_ups

        assert (brief["question"], brief["task"], brief["share"]) == (open_, "t2", 0.2)
        assert brief["query"].casefold() not in {GOAL.casefold(), open_.casefold()}

    def test_keeps_the_tool_of_a_task_and_its_inputs_with_the_question_in_the_new_words(self):
        open_ = "Who founded the Veltrix subsidiary in Oslo?"
        task = {"task": "t2", "tool": "web_search", "fallbacks": ["documents_search"], "category": "read"}
        given = {"query": open_, "language": "no"}
        thought = think([fact(COPY)], [looked(), looked(4, open_, verdict="nothing", inputs=given, **task)])
        (brief,) = thought.follow_ups

        assert task.items() <= brief.items()
        assert brief["inputs"] == {"query": brief["query"], "language": "no"}
        assert brief["query"] != open_

    @pytest.mark.parametrize(("verdict", "kept"), [("failed", True), ("nothing", False), ("found", False)])
    def test_asks_a_tool_the_same_once_more_only_if_it_did_not_answer(self, verdict, kept):
        open_ = "Who founded the Veltrix subsidiary in Oslo?"
        task = {"task": "t2", "tool": "web_fetch", "inputs": {"url": "https://example.org/"}}
        thought = think([fact(COPY)], [looked(), looked(4, open_, verdict=verdict, **task)])
        (brief,) = thought.follow_ups

        assert (brief["task"], task.items() <= brief.items(), "tool" in brief) == ("t2", kept, kept)

    def test_is_elsewhere_for_what_is_known_from_too_few_documents(self):
        (brief,) = think([fact(COPY)], depth=3).follow_ups
        assert (brief["question"], brief["elsewhere"]) == (GOAL, True)

    def test_brings_back_the_tasks_that_waited_for_it(self):
        first = {"question": "Who runs Veltrix?", "task": "t1"}
        second = {"question": "Where was she born?", "task": "t2", "after": ["t1"]}
        third = {"question": "When was that town founded?", "task": "t3", "after": ["t2"]}
        apart = {"question": "What else?", "task": "t4", "after": ["unknown"]}
        steps = [
            planned(first, second, third, apart),
            looked(3, "Who runs Veltrix?", task="t1", verdict="nothing"),
        ]
        thought = think([], steps, goal="Who runs Veltrix?")

        assert [b["task"] for b in thought.follow_ups] == ["t1", "t2", "t3"]
        assert thought.follow_ups[1:] == [second, third]
        assert second["question"] in thought.result["open"]

    def test_is_not_a_search_for_what_was_to_be_computed(self):
        computed = looked(4, "What is the mean?", agent=Agent.CODER, verdict="failed")
        thought = think([fact(COPY)], [looked(), computed])

        assert (thought.verdict, thought.result["open"]) == ("exhausted", ["What is the mean?"])
