import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.relevance import Candidate, select

WITH = Candidate(
    "with.txt",
    'The "with" statement is used to wrap a block with methods of a\nmanager. This allows patterns to be reused.\n\n'
    'The suite is executed. A "with" statement may hold several items.',
    title='The "with" statement',
    heading=('The "with" statement',),
    start=100,
)
PARAMETERS = Candidate(
    "function.txt",
    "Parameters after a star are keyword-only parameters and may only be passed by keyword. Each default value is "
    "evaluated once. Capital letters are often used for constants.",
    title="Function definitions",
    heading=("Function definitions",),
)
IDENTITY = Candidate(
    "comparisons.txt",
    'The operators "is" and "is not" test for an object\'s identity. The operators "==" and "!=" compare the values '
    "of two objects. The names are resolved in order.",
    title="Comparisons",
    heading=("Comparisons",),
)
AREA = Candidate(
    "by.md", "total: 27,830 sq km\nland: 25,680 sq km", title="Burundi", heading=("Burundi", "Area")
)
COAST = Candidate("wf.md", "129 km", title="Wallis and Futuna", heading=("Wallis and Futuna", "Coastline"))
REFERENCE = (WITH, PARAMETERS, IDENTITY)
FACTS = (AREA, COAST)


def _first(question, candidates):
    return " ".join(select(question, candidates, 3)[0].text.split())


class TestAnAnswer:
    def test_begins_with_the_sentence_that_defines_what_was_asked(self):
        assert _first("What does the with statement do?", REFERENCE).startswith(
            'The "with" statement is used'
        )

    def test_covers_more_of_the_question_first(self):
        assert _first("How are keyword-only parameters defined?", REFERENCE).startswith(
            "Parameters after a star"
        )

    def test_to_a_comparison_speaks_of_both_sides(self):
        found = select("What is the difference between is and ==?", REFERENCE, 2)
        assert len(found) == 2
        assert any('"is"' in one.text for one in found)
        assert any('"=="' in one.text for one in found)

    def test_may_owe_its_subject_to_the_headings_above_it(self):
        assert _first("How long is the coastline of Wallis and Futuna?", FACTS) == "129 km"
        assert _first("What is the total area of Burundi?", FACTS) == "total: 27,830 sq km"

    def test_says_exactly_where_each_sentence_stands(self):
        for one in select("What does the with statement do?", REFERENCE, 5):
            source = one.candidate.text
            assert one.text == source[one.start - one.candidate.start : one.end - one.candidate.start]

    def test_has_at_most_as_many_sentences_as_asked_for(self):
        assert len(select("What does the with statement do?", REFERENCE, 1)) == 1
        assert select("What does the with statement do?", REFERENCE, 0) == []

    def test_is_the_same_every_time(self):
        question = "What does the with statement do?"
        assert select(question, REFERENCE, 5) == select(question, REFERENCE, 5)

    def test_keeps_the_order_of_the_sources_between_equals(self):
        twins = [Candidate(name, "Blue whales eat krill daily.") for name in ("b", "a")]
        (found,) = select("What do blue whales eat?", twins, 5)
        assert found.candidate.locator == "b"

    def test_can_be_in_chinese(self):
        physics = Candidate("p.md", "熵是无序的度量。温度是另一回事。")
        assert _first("什么是熵？", (*REFERENCE, physics)) == "熵是无序的度量。"


class TestHowMuchIsAnswered:
    GOALS = Candidate(
        "goals.md",
        "The store has three design goals. The first design goal of the store is speed. "
        "A second goal is that it is small. The store was written in a year.",
        heading=("Goals",),
    )

    def test_is_the_one_statement_where_one_was_asked_for(self):
        asked = "What is the first design goal of the store?"
        assert [one.text for one in select(asked, [self.GOALS], 5)] == [
            "The first design goal of the store is speed."
        ]

    def test_is_more_where_a_list_was_asked_for(self):
        assert len(select("What are the design goals of the store?", [self.GOALS], 5)) > 1

    def test_is_all_that_comes_near_where_everything_is_wanted(self):
        asked = "What is the first design goal of the store?"
        assert len(select(asked, [self.GOALS], 5, all_near=True)) > 1

    def test_is_both_where_two_sources_contradict_each_other(self):
        first = Candidate("a.md", "The store holds 26 sites of the company in March.")
        other = Candidate("b.md", "The store holds 47 sites of the company in March.")
        found = select("How many sites does the store hold?", [first, other], 5)
        assert {one.candidate.locator for one in found} == {"a.md", "b.md"}


class TestADefinition:
    @pytest.mark.parametrize(
        ("question", "best"),
        [
            ("What is object code?", '"Object code" means any form of a work that is not its source.'),
            ("What does grep do?", "grep - print lines that match patterns"),
        ],
    )
    def test_comes_before_what_only_speaks_of_it(self, question, best):
        passage = Candidate(
            "manual.txt",
            "If the place to copy the object code is a server, the source may be on another one.\n\n"
            "You may end the output of grep with a number of lines after which grep stops.\n\n" + best,
        )
        assert _first(question, [passage]) == best

    def test_may_leave_to_its_place_what_it_is_part_of(self):
        licence = Candidate(
            "licence.txt",
            "Each Contributor grants to You a licence for the contributions of the Contributor. "
            '"Contributor" shall mean any individual on behalf of whom a work has been received.',
            title="Apache License",
        )
        assert _first("What does Contributor mean in the Apache License?", [licence]).startswith(
            '"Contributor" shall'
        )


class TestSilence:
    @pytest.mark.parametrize(
        "question",
        [
            "What is the capital of France?",
            "what is the capital of france",
            "Who won the 1998 World Cup?",
            "什么是熵？",
            "ما هي عاصمة فرنسا؟",
            "How do I bake bread?",
            "",
            "???",
            "😀",
            "What is it?",
        ],
    )
    def test_is_the_answer_to_what_the_sources_do_not_address(self, question):
        assert select(question, REFERENCE, 5) == []

    def test_is_the_answer_about_a_name_nobody_mentions(self):
        assert select("What is the total area of Wakanda?", FACTS, 5) == []

    def test_is_the_answer_without_sources(self):
        assert select("What does the with statement do?", [], 5) == []
        assert select("What does the with statement do?", [Candidate("empty", "")], 5) == []


class TestNearCopies:
    def test_are_one_sentence_that_knows_its_copies(self):
        first = Candidate("a", "Blue whales eat four tons of krill a day.")
        second = Candidate("b", "Blue whales eat four tons of krill a day!")
        (found,) = select("What do blue whales eat?", [first, second], 5)
        assert found.candidate.locator == "a"
        assert [one.candidate.locator for one in found.also] == ["b"]

    def test_that_differ_by_a_number_are_two(self):
        first = Candidate("a", "Blue whales eat 4 tons of krill a day.")
        second = Candidate("b", "Blue whales eat 6 tons of krill a day.")
        assert len(select("What do blue whales eat?", [first, second], 5)) == 2

    def test_that_differ_by_a_negation_are_two(self):
        first = Candidate("a", "Blue whales do eat krill every single day.")
        second = Candidate("b", "Blue whales do not eat krill every single day.")
        assert len(select("Do blue whales eat krill?", [first, second], 5)) == 2


@given(st.text(), st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=5), st.integers(0, 5))
def test_any_question_over_any_text_gives_exact_places(question, passages, limit):
    candidates = [Candidate("x", text, title, (heading,), 7) for text, title, heading in passages]
    found = select(question, candidates, limit, threshold=0.0)
    assert len(found) <= limit
    for one in found:
        assert one.text == one.candidate.text[one.start - 7 : one.end - 7]
        assert 0.0 <= one.coverage <= 1.0
