"""Sets of questions: both shapes are read, what is wrong is named with its line, and the shipped set is sound."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from orchestrator import house
from orchestrator.domain.errors import Invalid
from workers.eval import questions, shipped
from workers.eval.corpus import Corpus
from workers.toolhost.documents import language_reference, reading

SINGLE = {
    "id": "a:1",
    "question": "Who?",
    "doc": "a/by",
    "start": 5,
    "end": 9,
    "answer": "Hutu",
    "paraphrase": True,
}
SEVERAL = {
    "question": "Which of A and B?",
    "answer": "A",
    "evidence": [{"doc": "a", "start": 0, "end": 3, "text": "1 m"}],
}


def written(tmp_path, *rows):
    path = tmp_path / "questions.jsonl"
    path.write_text(
        "".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows), encoding="utf-8"
    )
    return path


class TestAQuestion:
    def test_is_read_in_either_shape(self, tmp_path):
        one, two, three = questions.read(
            written(tmp_path, SINGLE, "\n", SEVERAL, {"question": "Why?", "answerable": False})
        )

        assert one == questions.Question(
            1, "a:1", "Who?", "paraphrased", (questions.Gold("a/by", "Hutu", 5, 9),), "Hutu"
        )
        assert (two.id, two.group, two.golds) == ("q3", "several", (questions.Gold("a", "1 m", 0, 3),))
        assert (three.group, three.answerable) == ("unanswerable", False)

    @pytest.mark.parametrize(
        ("row", "told"),
        [
            ("{", "it is not JSON"),
            ("[]", "a question is a JSON object"),
            ({"doc": "a", "quote": "x"}, "there is no question"),
            ({"question": 3, "doc": "a"}, "`question` is not text"),
            ({"question": "Q?", "quote": "x"}, "in which `doc`"),
            ({"question": "Q?", "doc": "a"}, "neither a `quote` nor a place"),
            ({"question": "Q?", "doc": "a", "start": 5, "end": 5}, "5 to 5 is no place"),
            ({"question": "Q?", "doc": "a", "start": True, "end": 5}, "True to 5 is no place"),
            ({"question": "Q?", "doc": "a", "start": 1}, "1 to None is no place"),
            ({"question": "Q?", "evidence": []}, "it has no evidence"),
            ({"question": "Q?", "evidence": ["x"]}, "`evidence` is a list of objects"),
            ({"question": "Q?", "answerable": "no"}, "`answerable` is true or false"),
            ({"question": "Q?", "doc": "a", "quote": "x", "stale": "b"}, "`stale` is a list of texts"),
        ],
    )
    def test_that_cannot_be_used_is_named_by_its_line(self, tmp_path, row, told):
        path = written(tmp_path, SINGLE, row)

        with pytest.raises(Invalid, match=r"questions\.jsonl, line 2: ") as caught:
            questions.read(path)
        assert told in str(caught.value)


class TestASet:
    def test_is_a_folder_with_its_documents_beside_the_questions(self, tmp_path):
        path = written(tmp_path, SINGLE)
        (tmp_path / "docs").mkdir()

        found = questions.load(tmp_path)

        assert (found.file, found.documents, found.aside) == (path, tmp_path / "docs", ())
        assert questions.load(path) == found

    def test_may_hold_its_questions_among_the_documents(self, tmp_path):
        path = written(tmp_path, SINGLE)

        assert questions.load(tmp_path).aside == (path,)

    @pytest.mark.parametrize(
        ("files", "told"), [((), "has no questions.jsonl"), (("a", "b"), "a.jsonl, b.jsonl")]
    )
    def test_without_questions_says_what_is_there(self, tmp_path, files, told):
        for name in files:
            (tmp_path / f"{name}.jsonl").write_text("", encoding="utf-8")

        with pytest.raises(Invalid, match=told):
            questions.load(tmp_path)

    def test_that_is_not_there_or_empty_is_an_error(self, tmp_path):
        with pytest.raises(Invalid, match="There is no set"):
            questions.load(tmp_path / "no")
        with pytest.raises(Invalid, match="no question in"):
            questions.read(written(tmp_path, "\n"))


class TestTheShippedSet:
    asked = questions.read(house.path(f"{shipped.FOLDER}/language_reference.jsonl"))

    def test_asks_at_least_150_questions_of_every_kind_each_once(self):
        groups = Counter(question.group for question in self.asked)

        assert len(self.asked) >= 150
        assert set(groups) == {"literal", "paraphrased", "several", "comparison", "unanswerable"}
        assert min(groups.values()) >= 10
        assert len({q.id for q in self.asked}) == len({q.text for q in self.asked}) == len(self.asked)

    def test_rests_on_quotes_that_this_python_s_reference_holds(self, tmp_path):
        language_reference.export(tmp_path)
        corpus = Corpus([reading.read(path, root=tmp_path) for path in sorted(tmp_path.iterdir())])

        absent = [q.id for q in self.asked if corpus.places(q) is None]

        # the Reference is rewritten a little with each version of Python; what is gone is reported, not counted
        assert len(absent) <= len(self.asked) // 5
