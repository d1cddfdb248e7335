"""What a message means after what was said before it: labelled messages, and what must hold for any."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import turns
from orchestrator.domain.conversation import Before, Kept, Route
from orchestrator.domain.plan import Evidence, Fact

BEFORE = {
    "France": Before(
        "What is the population of France?", 2, ("The population of France is 68 million people.",)
    ),
    "lighthouse": Before(
        "What is a lighthouse?",
        2,
        (
            "A lighthouse is a tower that shows a light to guide ships at night.",
            "The keeper of a lighthouse trims the wick and winds the clockwork of the lens.",
        ),
    ),
}
LABELLED = [
    tuple(line.split("\t"))
    for line in (Path(__file__).parent / "turns.tsv").read_text(encoding="utf-8").splitlines()
]
FLOOR = 0.97
"""The least share of the labelled messages that must be understood as a person would."""


def meant(message, before="lighthouse"):
    return turns.understand(message, BEFORE[before])


class TestTheLabelledMessages:
    def test_are_enough_of_every_kind(self):
        assert len(LABELLED) == len(set(LABELLED)) >= 120
        counted = Counter(label for _, label, _ in LABELLED)
        assert counted.keys() == set(Route)
        assert min(counted.values()) >= 15

    def test_are_understood_as_a_person_would(self):
        missed = [
            f"{message!r} after {before}: {label}, not {found}"
            for before, label, message in LABELLED
            if (found := meant(message, before).route) != label
        ]
        share = 1 - len(missed) / len(LABELLED)
        assert share >= FLOOR, "\n".join(missed)

    def test_that_are_new_are_never_taken_for_small_talk_or_for_a_change_of_what_was_asked(self):
        """The dangerous mistakes: an answer from nothing, or another question than the one that was asked."""
        for before, label, message in LABELLED:
            if label == "new_topic":
                assert meant(message, before).route not in {Route.CASUAL, Route.DEEPER, Route.REVISE}, message

    def test_that_ask_something_are_never_taken_for_small_talk(self):
        for before, label, message in LABELLED:
            if label != "casual":
                assert meant(message, before).route is not Route.CASUAL, message

    def test_begin_a_topic_where_nothing_was_said_before(self):
        for _, label, message in LABELLED:
            expected = Route.CASUAL if label == "casual" else Route.NEW_TOPIC
            assert turns.understand(message, None).route is expected, message
            assert turns.understand(message, None).goal == message


class TestTheQuestionInFull:
    @pytest.mark.parametrize(
        ("before", "message", "goal"),
        [
            ("France", "What about its population?", "What about France's population?"),
            ("France", "And its capital?", "And France's capital?"),
            ("France", "How big is it?", "How big is France?"),
            ("France", "What about Germany?", "What is the population of Germany?"),
            ("France", "Und Deutschland?", "What is the population of Deutschland?"),
            ("France", "Use Spain instead.", "What is the population of Spain?"),
            ("France", "No, I meant Germany.", "What is the population of Germany?"),
            ("France", "Replace France with Belgium", "What is the population of Belgium?"),
            ("France", "Not France but Germany", "What is the population of Germany?"),
            ("France", "No, only for 2024.", "What is the population of France, only for 2024?"),
            ("France", "Leave out the islands.", "What is the population of France, leave out the islands?"),
            ("France", "drop the islands", "What is the population of France, without the islands?"),
            ("France", "go deeper", "What is the population of France?"),
            ("France", "as a table", "What is the population of France?"),
            ("lighthouse", "How tall is it?", "How tall is a lighthouse?"),
            ("lighthouse", "So what does its lens do?", "So what does a lighthouse's lens do?"),
            ("lighthouse", "And in winter?", "And in winter (a lighthouse)?"),
            ("lighthouse", "Wie hoch ist er?", "Wie hoch ist er (a lighthouse)?"),
            ("lighthouse", "Why?", "Why: What is a lighthouse?"),
            ("lighthouse", "How do lighthouses guide ships?", "How do lighthouses guide ships?"),
            ("lighthouse", "What is a buoy?", "What is a buoy?"),
        ],
    )
    def test_says_what_the_message_left_out_and_changes_nothing_else(self, before, message, goal):
        assert meant(message, before).goal == goal

    def test_has_another_year_where_it_had_one(self):
        before = Before("What was the population of France in 1990?", 2)
        assert (
            turns.understand("What about 2024?", before).goal == "What was the population of France in 2024?"
        )

    @pytest.mark.parametrize(
        ("goal", "about"),
        [
            ("What is a lighthouse?", "a lighthouse"),
            ("How do lighthouses work?", "lighthouses"),
            ("What is the capital of France?", "France"),
            ("Who was Prime Minister of France in 1990?", "Prime Minister of France"),
            ("What does the keeper of a lighthouse do?", "the keeper"),
            ("Was ist ein Leuchtturm?", "Leuchtturm"),
            ("Who is he?", "Who is he"),
        ],
    )
    def test_is_about_what_it_names(self, goal, about):
        assert turns.subject(goal) == about

    def test_of_a_change_of_form_alone_is_the_one_before(self):
        for message in ("Make it shorter", "as a table", "Kürzer bitte", "No, shorter."):
            found = meant(message, "France")
            assert (found.goal, found.form_only) == (BEFORE["France"].goal, True)
        assert not meant("only for 2024", "France").form_only


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(
    message=st.text(min_size=1, max_size=80)
    | st.lists(st.sampled_from([w for _, _, m in LABELLED for w in m.split()]), min_size=1, max_size=12).map(
        " ".join
    ),
    before=st.sampled_from([*BEFORE.values(), None]),
)
def test_any_message_means_something_and_always_the_same(message, before):
    found = turns.understand(message, before)
    assert found == turns.understand(message, before)
    assert isinstance(found.route, Route)
    if before is None:
        assert found.route in {Route.CASUAL, Route.NEW_TOPIC}
    if found.route in {Route.FOLLOW_UP, Route.REVISE, Route.DEEPER}:
        assert found.goal


# --- what is known already ------------------------------------------------------------------------------------


def kept(*quotes, plan_id="p", heading=()):
    text = "\n".join(quotes)
    evidence = Evidence.of(text, locator="lighthouse.md")
    return [
        Kept(
            plan_id,
            Fact(
                3,
                n,
                quote,
                evidence.sha256,
                text.index(quote),
                text.index(quote) + len(quote),
                "lighthouse.md",
                heading=heading,
            ),
        )
        for n, quote in enumerate(quotes, start=1)
    ]


KNOWN = kept(
    *BEFORE["lighthouse"].quotes,
    "The oldest lighthouse that still works was built in 1304 of white stone.",
    "A lighthouse is built of stone.",
)


def recalled(message, facts=KNOWN, limit=5):
    goal = meant(message).goal
    return [k.fact.quote for k in turns.recall(message, goal, facts, limit).found]


class TestWhatIsRecalled:
    def test_answers_every_word_that_the_message_names(self):
        assert recalled("What does it guide at night?") == [BEFORE["lighthouse"].quotes[0]]
        assert recalled("Who trims its wick?") == [BEFORE["lighthouse"].quotes[1]]

    @pytest.mark.parametrize(
        "message",
        [
            "How tall is it?",
            "What colour is it?",
            "Who painted it?",
            "Is it lit by gas?",
            "Why?",
            "And in winter?",
            "它有多高？",
        ],
    )
    def test_is_nothing_where_a_word_of_the_message_stands_in_no_fact(self, message):
        assert recalled(message) == []

    def test_is_nothing_where_a_number_a_reason_or_a_person_is_asked_for_and_none_is_there(self):
        assert recalled("When was it built?") == [KNOWN[2].fact.quote]
        assert recalled("When was it built?", [KNOWN[3]]) == []
        assert recalled("Who built it?", [KNOWN[3]]) == []
        assert recalled("Why was it built?", [KNOWN[3]]) == []

    def test_quotes_a_fact_once_however_many_plans_hold_it(self):
        twice = [*KNOWN, *(Kept("q", k.fact) for k in KNOWN)]
        found = turns.recall(
            "What does it guide at night?", "What does a lighthouse guide at night?", twice, 5
        ).found
        assert [(k.plan_id, k.fact.quote) for k in found] == [("p", BEFORE["lighthouse"].quotes[0])]

    def test_is_at_most_as_much_as_was_asked_for(self):
        many = kept(*(f"A lighthouse guides ships at night, as sailor {n} says." for n in range(9)))
        assert len(recalled("What does it guide at night?", many, limit=3)) <= 3

    def test_says_how_much_of_the_question_it_covers(self):
        found = turns.recall(
            "What does it guide at night?", "What does a lighthouse guide at night?", KNOWN, 5
        )
        assert turns.SUFFICIENT <= found.coverage <= 1
        assert turns.recall("How tall is it?", "How tall is a lighthouse?", KNOWN, 5).coverage == 0
        assert turns.recall("How tall is it?", "How tall is a lighthouse?", [], 5).found == ()
