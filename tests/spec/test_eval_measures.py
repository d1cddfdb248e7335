"""What is measured, by numbers that can be counted on fingers; and the check that believes no report."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import pytest

from orchestrator.domain.errors import Invalid
from workers.eval import measures, questions
from workers.eval.corpus import Corpus, Place
from workers.toolhost.documents.reading import Document


@dataclass(frozen=True)
class Passage:
    locator: str
    start: int
    end: int


GOLD = ((Place("a.md", 10, 20),), (Place("b.md", 0, 5), Place("c.md", 0, 5)))


class TestRanks:
    def test_are_counted_from_one_for_spans_and_for_documents(self):
        found = [
            Passage("x.md", 0, 9),
            Passage("a.md", 20, 30),
            Passage("a.md", 15, 16),
            Passage("c.md", 4, 9),
        ]

        ranks = measures.ranks(found, GOLD)

        assert ranks == measures.Ranks(documents=(2, 3), spans=(3, 4))

    def test_of_what_is_not_found_are_none(self):
        assert measures.ranks([Passage("a.md", 20, 30)], GOLD) == measures.Ranks((1, None), (None, None))

    def test_make_recall_and_reciprocal_rank(self):
        assert measures.recall((1, 7, None), 5) == pytest.approx(1 / 3)
        assert measures.recall((1, 7, None), 10) == pytest.approx(2 / 3)
        assert measures.reciprocal((None, 4, 2)) == 0.5
        assert measures.reciprocal((None, None)) == 0.0


TEXT = "A lock is held by one.\nNobody else\nmay take it."
SHA = hashlib.sha256(TEXT.encode()).hexdigest()


def citation(number, quote, **rest):
    start = TEXT.index(quote)
    return {
        "number": number,
        "quote": quote,
        "evidence": SHA,
        "start": start,
        "end": start + len(quote),
        **rest,
    }


def report(text, *citations):
    numbers = [c["number"] for c in citations]
    return {"sections": [{"sentences": [{"text": text, "citations": numbers}]}], "citations": list(citations)}


ONE = citation(1, "A lock is held by one.")
TWO = citation(2, "Nobody else\nmay take it.")


class TestASentence:
    @pytest.mark.parametrize(
        "said",
        [
            report("A lock is held by one.", ONE),
            report("Nobody else may take it.", TWO),
            report("A lock is held by one. Nobody else may take it.", ONE, TWO),
        ],
    )
    def test_is_supported_by_the_quotes_that_it_is_made_of(self, said):
        assert measures.unsupported(said, {SHA: TEXT}.get) == 0

    @pytest.mark.parametrize(
        "said",
        [
            report("A lock is held by two.", ONE),
            report("A lock is held", ONE),
            report("A lock is held by one."),
            report("A lock is held by one.", {**ONE, "start": ONE["start"] + 1}),
            report("A lock is held by one.", {**ONE, "evidence": "0" * 64}),
            report("A lock is held by two.", {**ONE, "quote": "A lock is held by two."}),
            report("A lock is held by one.", ONE, {**TWO, "end": 10_000}),
            report("", ONE),
        ],
    )
    def test_is_unsupported_whatever_the_report_says_of_itself(self, said):
        assert measures.unsupported(said, {SHA: TEXT}.get) == 1

    def test_is_unsupported_where_the_stored_text_was_altered(self):
        assert measures.unsupported(report("A lock is held by one.", ONE), {SHA: TEXT + " "}.get) == 1


def row(**rest):
    usual = {"id": "q", "question": "?", "group": "all", "answerable": True}
    return measures.Row(**{**usual, **rest})


class TestASummary:
    def test_compares_with_the_baseline_of_the_same_run(self):
        found = measures.summary(
            [
                row(searches={"search": measures.Ranks((1,), (1,)), "bm25": measures.Ranks((1,), (7,))}),
                row(searches={"search": measures.Ranks((1,), (2,)), "bm25": measures.Ranks((1,), (2,))}),
            ]
        )

        assert (found["recall@5"], found["bm25.recall@5"]) == (1.0, 0.5)
        assert found["recall@5/bm25"] == 2.0
        assert found["mrr"] == 0.75

    def test_counts_silence_as_right_only_where_there_is_no_answer(self):
        silent = measures.Answer("not_found")
        spoken = replace(silent, verdict="answered", sentences=1, cited=2, cited_gold=1, gold_cited=1.0)

        found = measures.summary(
            [
                row(answer=silent),
                row(answer=spoken),
                row(answerable=False, answer=silent),
                row(answerable=False, answer=replace(spoken, cited_gold=0)),
            ]
        )

        assert (found["abstention"], found["false_abstention"]) == (0.5, 0.5)
        assert (found["citation_precision"], found["citation_recall"]) == (0.5, 0.5)

    def test_leaves_out_what_was_not_measured(self):
        assert measures.summary([row()]) == {"questions": 1.0}

    def test_finds_an_answer_whatever_its_case_and_spaces(self):
        assert measures.contains(["Area total:", "123  SQ km"], "123 sq km.")
        assert not measures.contains(["Area total: 1234"], "sq km")


def texts(**documents):
    return Corpus([Document(name, name, "text/markdown", text, "", "") for name, text in documents.items()])


class TestGold:
    corpus = texts(
        **{
            "africa__by.md": "Hutu, Tutsi and\nTwa live here today.",
            "x.md": "Hutu, Tutsi and Twa live here today.",
        }
    )

    def question(self, **part):
        gold = questions.Gold(**{"doc": "africa/by", "quote": "", **part})
        return questions.Question(1, "q", "?", "all", (gold,))

    def test_by_quote_is_found_whatever_its_line_breaks_and_in_every_copy(self):
        (places,) = self.corpus.places(self.question(quote="Tutsi and Twa live here today."))

        assert [p.locator for p in places] == ["africa__by.md", "x.md"]

    def test_by_place_is_that_place(self):
        assert self.corpus.places(self.question(start=0, end=4)) == ((Place("africa__by.md", 0, 4),),)

    def test_that_no_document_holds_is_absent(self):
        assert self.corpus.places(self.question(quote="Pygmies live here.")) is None

    def test_of_a_document_that_is_missing_is_an_error(self):
        with pytest.raises(Invalid, match="'africa/no' is not among the documents"):
            self.corpus.places(self.question(doc="africa/no", quote="x"))

    def test_beyond_a_document_s_end_is_an_error(self):
        with pytest.raises(Invalid, match="ends at 36, before 99"):
            self.corpus.places(self.question(start=0, end=99))
