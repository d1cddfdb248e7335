"""How a document tells that it is old, or that another has taken its place; and what says nothing of the kind."""

from __future__ import annotations

from datetime import date

import pytest

from agents import vintage
from orchestrator.domain.plan import Evidence, Fact


class TestADocumentIsSuperseded:
    @pytest.mark.parametrize(
        ("locator", "title", "text", "why"),
        [
            ("product/archive/brief.md", "Brief", "All is well.", "It lies in a folder named archive."),
            ("policy_superseded.md", "Policy", "All is well.", "Its name says superseded."),
            ("a.md", "Concept (v0.2 - SUPERSEDED)", "All is well.", "Its title says superseded."),
            ("a.rst", "A", "PEP: 333\nStatus: Superseded\n", "It says that its status is superseded."),
            ("a.md", "A", "**Status:** Obsolete\n", "It says that its status is obsolete."),
            ("a.rst", "A", "PEP: 333\nSuperseded-By: 3333\n", "It says that it is superseded by 3333."),
            (
                "a.md",
                "A",
                "# A\n\nNOTE: early figures - superseded by the brief.\n",
                "It says: NOTE: early figures",
            ),
            (
                "a.md",
                "A",
                "This policy has been replaced by another.\n",
                "It says: This policy has been replaced",
            ),
        ],
    )
    def test_when_its_name_or_its_head_says_so(self, locator, title, text, why):
        found = vintage.of(locator, title, text)

        assert found.superseded
        assert found.why.startswith(why)

    @pytest.mark.parametrize(
        ("locator", "title", "text"),
        [
            ("pep-3333.rst", "WSGI", "PEP: 3333\nStatus: Final\nReplaces: 333\n\nThis supersedes PEP 333.\n"),
            (
                "deprecated_features.md",
                "Deprecated features",
                "The old API is deprecated; use the new one.\n",
            ),
            ("archiving.md", "How we archive", "Old reports are moved to the archive.\n"),
            ("a.md", "A", "# A\n\nThe concept of 2025 was superseded by this brief.\n"),
            ("a.rst", "A", "Superseded-By: <pep number>\n"),
            ("a.md", "A", "x" * 2000 + "\nStatus: Superseded\n"),
        ],
    )
    def test_never_because_it_speaks_of_what_is(self, locator, title, text):
        found = vintage.of(locator, title, text)

        assert (found.superseded, found.why) == (False, "")


class TestADate:
    @pytest.mark.parametrize(
        ("locator", "text", "found"),
        [
            ("a.md", "**HR - effective January 2026**\n", date(2026, 1, 1)),
            ("a.md", "Effective date: 2026-03-15\n", date(2026, 3, 15)),
            ("a.md", "**Last updated: May 2026 | Internal**\n", date(2026, 5, 1)),
            ("a.md", "**Internal - Confidential | COO office, April 14, 2026**\n", date(2026, 4, 14)),
            ("a.rst", "PEP: 8\nCreated: 05-Jul-2001\n", date(2001, 7, 5)),
            ("q1_2025_ops_report.pdf", "Nothing.", date(2025, 3, 1)),
            ("minutes_2024_06.md", "Office to open Q4 2024\n", date(2024, 6, 1)),
            ("bulletin_march2026.md", "Nothing.", date(2026, 3, 1)),
            ("report-2024-02-29.txt", "Nothing.", date(2024, 2, 29)),
            ("report-2023-02-29.txt", "Nothing.", None),
            ("pep-2026.rst", "Nothing.", date(2026, 1, 1)),
            ("a.md", "There were 2026 robots.\n", None),
            ("a.md", "| Seed | Mar 2020 | $4.5M |\n", None),
            ("model12026x.md", "Nothing.", None),
        ],
    )
    def test_is_the_one_that_a_document_gives_itself(self, locator, text, found):
        assert vintage.of(locator, "A", text).date == found

    def test_of_the_head_goes_before_that_of_the_name(self):
        assert vintage.of("plan_2024.md", "Plan", "Last updated: May 2026\n").date == date(2026, 5, 1)


class TestDocumentsOfASeries:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("ops/archive/q1_2024_ops_report.pdf", "ops/q1_2026_ops_report.pdf"),
            ("policy_v2.md", "policy_v3_1.md"),
            ("bulletin_march2026.md", "bulletin_april2026.md"),
            ("report-2024-03-01.txt", "report-2025-03-01.txt"),
        ],
    )
    def test_differ_only_by_date_or_version(self, one, other):
        assert vintage.series(one) == vintage.series(other) != ""

    @pytest.mark.parametrize("locator", ["pep-0008.rst", "africa__ag.md", "notes.md", "part 3.md"])
    def test_are_not_those_that_are_merely_numbered(self, locator):
        assert vintage.series(locator) == ""


class TestAQuestion:
    @pytest.mark.parametrize(
        "question",
        [
            "What was the fleet availability in Q1 2024?",
            "What did the previous policy say?",
            "Which payload did the superseded concept have?",
        ],
    )
    def test_about_the_past_wants_what_is_superseded(self, question):
        assert vintage.asks_for_the_past(question)

    @pytest.mark.parametrize(
        "question", ["What is the fleet availability?", "How many robots are deployed?", "What costs $2,024?"]
    )
    def test_about_the_present_does_not(self, question):
        assert not vintage.asks_for_the_past(question)

    def test_that_names_a_document_wants_that_one(self):
        assert vintage.wanted("What does PEP 345 specify?", "pep-0345.rst")
        assert not vintage.wanted("What does PEP 566 specify?", "pep-0345.rst")


class TestOfAFact:
    STORED = Evidence.of("Status: Superseded\n\nThe fleet has 26 sites.", locator="archive/q1_2024_report.md")

    def fact(self, question):
        return Fact(3, 1, "26 sites", self.STORED.sha256, 0, 8, self.STORED.locator, question=question)

    def test_is_that_of_the_document_it_is_quoted_from(self):
        found = vintage.of_fact(self.fact("How many sites are there?"), {self.STORED.sha256: self.STORED}.get)
        assert found is not None
        assert found.superseded

    def test_is_none_where_the_past_was_asked_for_or_the_document_is_gone(self):
        stored = {self.STORED.sha256: self.STORED}.get
        assert vintage.of_fact(self.fact("How many sites were there in 2024?"), stored) is None
        assert vintage.of_fact(self.fact("How many sites are there?"), lambda _: None) is None
