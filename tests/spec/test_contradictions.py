"""What contradicts what: flagged precisely rather than broadly, whatever the words around the value."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agents import contradictions, likeness, terms
from agents.likeness import statement
from orchestrator.domain.plan import Evidence, Fact


def fact(quote, *, step=3, number=1, title="Veltrix", question="", locator=None):
    place = locator or f"{step}.{number}.md"
    sha = Evidence.of(f"{place}{quote}", locator=place).sha256
    return Fact(step, number, quote, sha, 0, len(quote), place, title=title, question=question)


def found(*quotes, question="", titles=None, vintages=None):
    titles = titles or ["Veltrix"] * len(quotes)
    facts = [
        fact(quote, step=at, title=title, question=question)
        for at, (quote, title) in enumerate(zip(quotes, titles, strict=True), 3)
    ]
    known = dict(zip([f.name for f in facts], vintages or [None] * len(facts), strict=True))
    return contradictions.find(facts, lambda f: known[f.name])


def values(*quotes, **rest):
    return [list(one.values) for one in found(*quotes, **rest)]


FIELD = re.compile(r"^[\s*|#-]*(?P<label>[^:=|]{2,60}?)[\s*]*[:=|][\s*]*(?P<value>\S.*)$", re.DOTALL)
"""What a field is, as a pattern; on a text of many marks it takes the square of their number."""


def by_pattern(text):
    found = FIELD.match(text)
    return (terms.fold(found["label"]), found["value"]) if found else None


class TestAField:
    @given(
        st.lists(st.sampled_from([*"a*| :=#-\n", "**", "b c", "x" * 30]), max_size=12).map("".join)
        | st.text("*| :a", max_size=12)
    )
    @example("**:a")
    @example("| a | b")
    @example("ab: *")
    def test_is_what_the_pattern_says(self, text):
        assert contradictions._field(text) == by_pattern(text)

    @pytest.mark.parametrize("marks", ["*", "* "])
    def test_of_many_marks_is_read_once_and_not_once_for_each(self, marks):
        text = marks * (1_000 // len(marks))

        def took(of):
            began = time.process_time()
            of(text)
            return time.process_time() - began

        assert took(contradictions._field.__wrapped__) * 10 < took(
            by_pattern
        )  # it is some hundred times quicker


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("Veltrix operates 26 sites.", "Veltrix operates 47 sites.", ["26", "47"]),
        ("Veltrix operates 26 sites.", "Veltrix now operates 47 sites.", ["26", "47"]),
        (
            "**Deployed fleet:** 3,120 robots across 47 sites (EU: 29, Japan: 18)",
            "Deployed fleet: 1,960 robots across 33 sites",
            ["3,120, 47", "1,960, 33"],
        ),
        ("Gross margin: 37% blended", "Gross margin: 33% blended", ["37%", "33%"]),
        ("Its revenue was $27.5M in all.", "Its revenue was $46.9M in all.", ["$27.5M", "$46.9M"]),
        ("Population: 34,352,720", "Population: 32 million", ["34,352,720", "32 million"]),
        ("It was founded in Oslo in 1999.", "It was founded in Oslo in 2001.", ["1999", "2001"]),
        ("It was founded on 3 May 1999.", "It was founded on 3 June 1999.", ["May", "June"]),
        ("It was founded on 3 May 1999.", "It was founded on 3 May 2001.", ["1999", "2001"]),
        ("The capital of Peru is Lima.", "The capital of Peru is Cuzco.", ["Lima", "Cuzco"]),
        ("Capital: Lima", "Capital: Cuzco", ["Lima", "Cuzco"]),
        ("Block comments may be nested.", "Block comments may not be nested.", ["affirmed", "denied"]),
        ("The lock is never released twice.", "The lock is released twice.", ["denied", "affirmed"]),
    ],
)
def test_b25_the_same_statement_with_another_value_is_a_contradiction(one, other, said):
    assert values(one, other) == [said]
    assert values(other, one) == [said[::-1]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Veltrix operates 26 sites.", "Veltrix operates 26 sites."),
        ("Veltrix operates 26 sites.", "VELTRIX operates  26 sites!"),
        ("Population: 34,352,720", "Population: 34.4 million"),
        ("Population: 34,000", "Population: 34 thousand"),
        ("Population: 34,352 (2023 est.)", "Population: 33,870 (2021 est.)"),
        ("It grew by 26.4 percent.", "It grew by 26 percent."),
        ("Veltrix operates about 26 sites.", "Veltrix operates 47 sites."),
        ("Veltrix operates more than 26 sites.", "Veltrix operates 47 sites."),
        ("Veltrix operated 26 sites in 2024.", "Veltrix operated 47 sites in 2026."),
        ("In 2019 its output was 5 tons.", "In 2020 its output was 5 tons."),
        ("Peru borders Chile.", "Peru borders Brazil."),
        ("The capital of Peru is Lima.", "The capital of Chile is Santiago."),
        ("Peru has 34 million people.", "Chile has 19 million people."),
        ("Veltrix operates 26 sites.", "Veltrix employs 47 people."),
        ("Languages: Spanish", "Languages: Spanish, Quechua"),
        ("Authors: Ann Lee, Bo Ray", "Authors: Cy Day, Di Fox"),
        ("26", "47"),
        ("", ""),
    ],
)
def test_what_may_both_hold_is_no_contradiction(one, other):
    assert values(one, other) == []


def test_statements_without_a_subject_are_compared_only_within_documents_of_one_title():
    pair = ("Its population is 34 million.", "Its population is 19 million.")

    assert values(*pair, titles=["Peru", "Chile"]) == []
    assert values(*pair, titles=["Peru 2024", "Peru 2026"]) == [["34 million", "19 million"]]


def test_a_field_is_what_its_document_is_called_whatever_names_its_label_has():
    pair = ("Atlantic Ocean drainage: Niger", "Atlantic Ocean drainage: Danube")

    assert values(*pair, titles=["Mali", "Austria"]) == []
    assert values(*pair, titles=["Mali", "Mali 2025"]) == [["Niger", "Danube"]]


def test_numbers_of_titles_tell_documents_apart_unless_they_are_versions():
    pair = ("The type is process.", "Status: Final"), ("Status: Final", "Status: Draft")

    assert values(*pair[1], titles=["PEP 514", "PEP 441"]) == []
    assert values(*pair[1], titles=["Report v1", "Report v2"]) == [["Final", "Draft"]]


def test_facts_about_the_things_of_a_comparison_do_not_contradict_each_other():
    question = "Compare the population of Peru and Chile"
    pair = ("The population is 34 million.", "The population is 19 million.")

    assert values(*pair, question=question, titles=["Peru", "Chile"]) == []
    assert values(*pair, question=question, titles=["Peru", "Facts about Peru"]) == [
        ["34 million", "19 million"]
    ]


def test_one_document_does_not_contradict_itself():
    one = fact("Veltrix operates 26 sites.")
    other = Fact(3, 2, "Veltrix operates 47 sites.", one.evidence, 30, 56, "3.1.md", title="Veltrix")

    assert contradictions.find([one, other]) == []


def test_b25_all_voices_are_heard_with_their_values():
    (one,) = found(
        "Veltrix operates 26 sites.", "Veltrix operates 47 sites.", "Veltrix operates 26 sites in all."
    )

    assert one.as_json()["facts"] == ["F3.1", "F4.1", "F5.1"]
    assert one.as_json()["values"] == ["26", "47", "26"]
    assert "preferred" not in one.as_json()


@dataclass(frozen=True)
class Vintage:
    date: date | None = None
    superseded: bool = False
    why: str = ""


OLD, NEW = Vintage(date(2024, 4, 1)), Vintage(date(2026, 4, 1))
GONE = Vintage(date(2027, 1, 1), superseded=True, why="It lies in an archive.")


@pytest.mark.parametrize(
    ("first", "second", "preferred", "why"),
    [
        (OLD, NEW, "F4.1", "It is the latest: 2026-04-01."),
        (NEW, OLD, "F3.1", "It is the latest: 2026-04-01."),
        (GONE, OLD, "F4.1", "The other is superseded. It lies in an archive."),
        (OLD, OLD, None, None),
        (OLD, None, None, None),
        (GONE, GONE, None, None),
        (GONE, None, None, None),
        (Vintage(), NEW, None, None),
    ],
)
def test_what_is_superseded_or_older_yields_and_the_reason_is_said(first, second, preferred, why):
    (one,) = found("Veltrix operates 26 sites.", "Veltrix operates 47 sites.", vintages=[first, second])

    assert (one.as_json().get("preferred"), one.as_json().get("why")) == (preferred, why)


@given(st.lists(st.text(max_size=60), max_size=6))
def test_anything_can_be_compared(quotes):
    for one in found(*quotes):
        assert len(one.facts) == len(one.values) > 1


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_two_whole_numbers_contradict_each_other_exactly_if_they_differ(one, other):
    plain = [f"Veltrix sold {number:,} robots." for number in (one, other)]
    years = {n for n in (one, other) if 1500 <= n <= 2099}
    assert bool(values(*plain)) == (one != other) or years


class TestALikeness:
    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ("A lock is held by one.", "a LOCK is  held by one", True),
            ("A lock is held by one of them at most.", "A lock is held by one of them, at most!", True),
            ("A lock is held by 1.", "A lock is held by 2.", False),
            ("A lock is held by one.", "A lock is not held by one.", False),
            ("A lock is held by one.", "A mutex is a lock.", False),
        ],
    )
    def test_takes_copies_for_one_but_no_swapped_number_and_no_denial(self, one, other, same):
        assert likeness.copies(statement(one), statement(other)) is same

    @pytest.mark.parametrize(
        ("text", "amounts"),
        [
            ("34,352,720 people", [34352720]),
            ("34.4 million", [34.4e6]),
            ("$46.9M and 5K", [46.9e6, 5e3]),
            ("-3 to \u22124.5 %", [-3, -4.5]),
            ("3 May 1999", [3, 5, 1999]),
            ("May I", [5]),
            ("PEP8 and v1.2.3", []),
            ("I may go", []),
        ],
    )
    def test_reads_numbers_and_months(self, text, amounts):
        assert [v.amount for v in statement(text).values] == amounts
