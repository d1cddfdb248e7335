import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import terms


def _keys(question):
    return [term.key for term in terms.asked(question)]


class TestWords:
    def test_case_accents_and_wide_letters_make_no_difference(self):
        assert terms.words("Café") == terms.words("ＣＡＦÉ") == ["cafe"]

    def test_a_possessive_is_the_word_itself(self):
        assert terms.words("a generator's close") == ["a", "generator", "close"]
        assert terms.words("the generator’s") == ["the", "generator"]

    def test_a_decimal_number_is_one_word(self):
        assert terms.words("Python 3.11 of 1,998") == ["python", "3.11", "of", "1,998"]

    def test_chinese_is_read_character_by_character(self):
        assert terms.words("熵是无序") == ["熵", "是", "无", "序"]

    def test_arabic_is_read_without_its_vowel_signs(self):
        assert terms.words("عَاصِمَة") == terms.words("عاصمة")

    @pytest.mark.parametrize("text", ["", " \n\t", "😀🎉", "!!! --- ...", "\ud800", "\x00"])
    def test_what_holds_no_words_gives_none(self, text):
        assert terms.words(text) == []
        assert terms.keys(text) == []
        assert terms.asked(text) == ()


class TestStems:
    @pytest.mark.parametrize(
        "family",
        [
            ("define", "defines", "defined", "defining", "definition"),
            ("execute", "executed", "execution"),
            ("call", "called", "calls", "calling"),
            ("city", "cities"),
        ],
    )
    def test_the_forms_of_a_word_share_a_stem(self, family):
        assert len({terms.stem(word) for word in family}) == 1

    def test_agree_with_the_stems_of_the_full_text_index(self):
        told = "Relational conditions hopping agreed, flies happily caresses generators; oscillate possibly, ties."
        told += " Universities population electricity religions statements sky using"
        words = terms.words(told)
        database = sqlite3.connect(":memory:")
        database.execute("CREATE VIRTUAL TABLE f USING fts5(word, tokenize = 'porter unicode61')")
        database.execute("CREATE VIRTUAL TABLE v USING fts5vocab(f, 'instance')")
        database.executemany("INSERT INTO f (rowid, word) VALUES (?, ?)", list(enumerate(words)))
        stored = {words[row]: stem for stem, row in database.execute("SELECT term, doc FROM v")}
        database.close()
        assert {word: terms.stem(word) for word in words} == stored

    def test_of_a_word_that_is_not_english_is_the_word(self):
        assert terms.stem("çalışmalar") == "çalışmalar"
        assert terms.stem("b2b") == "b2b"


class TestAQuestion:
    def test_is_what_is_left_without_its_grammar(self):
        assert _keys("How are keyword-only parameters defined?") == ["keyword", "onli", "paramet", "defin"]

    def test_gives_little_weight_to_words_that_only_frame_it(self):
        weights = {
            term.text: term.weight for term in terms.asked("Explain the difference between cats and dogs")
        }
        assert weights["explain"] == weights["difference"] == terms.FRAMING
        assert weights["cats"] == weights["dogs"] == 1.0

    def test_gives_more_weight_to_names_and_numbers(self):
        weights = {term.text: term.weight for term in terms.asked("Who won the 1998 cup in France?")}
        assert weights == {"won": 1.0, "1998": terms.NAMED, "cup": 1.0, "france": terms.NAMED}

    def test_in_title_case_names_nothing(self):
        assert {term.weight for term in terms.asked("What Is Capital Growth And Slow Decay")} == {1.0}

    def test_about_a_stop_word_asks_for_that_word(self):
        assert "=with" in _keys("What does the with statement do?")
        assert "=if" in _keys("what does if do?")
        assert "=in" in _keys('What does "in" mean?')

    def test_that_compares_asks_for_both_sides(self):
        assert {"===", "=is"} <= set(_keys("What is the difference between is and ==?"))

    def test_in_chinese_asks_for_its_subject(self):
        assert _keys("什么是熵？") == ["熵"]
        assert _keys("什么是机器学习？") == ["机器", "器学", "学习"]

    def test_asks_for_each_term_once(self):
        assert _keys("cat cats CAT") == ["cat"]


class TestKeys:
    def test_hold_the_named_words_of_a_text(self):
        assert "=with" in terms.keys('The "with" statement')
        assert "=is" in terms.keys("use ``is`` here")
        assert "===" in terms.keys("where x == y holds")

    def test_hold_no_stop_word_that_is_only_used(self):
        assert terms.keys("it goes with the statement") == ["goe", "statement"]

    def test_hold_the_characters_and_the_pairs_of_unspaced_scripts(self):
        assert terms.keys("学习") == ["学", "习", "学习"]


def test_a_files_name_is_read_as_words():
    assert terms.locator_words("hr/pep-0008_notes.rst") == "hr pep 8 notes"
    assert terms.locator_words("") == ""


class TestSpacing:
    def test_puts_spaces_between_the_characters_of_unspaced_scripts_only(self):
        assert terms.spaced("AB 熵的cd").split() == ["AB", "熵", "的", "cd"]
        assert terms.spaced("plain text") == "plain text"

    def test_a_named_word_is_encoded_as_one_plain_word(self):
        assert terms.encoded("==").isalnum()
        assert terms.encoded("==") != terms.encoded("!=")


@given(st.text())
def test_any_text_at_all_can_be_read(text):
    terms.words(text)
    terms.keys(text)
    terms.spaced(text)
    assert len({term.key for term in terms.asked(text)}) == len(terms.asked(text))


@given(st.text())
def test_reading_a_text_twice_gives_the_same_terms(text):
    assert terms.keys(text) == terms.keys(text)
    assert terms.asked(text) == terms.asked(text)


@pytest.mark.parametrize("unit", ["word ", "熵", "a", '"', "`x", "1.", "x_", "ก", "\u0301", "' "])
def test_a_hundred_kilobytes_of_one_thing_are_read_like_any_text(unit):
    text = unit * (100_000 // len(unit))
    assert len(terms.asked(text)) <= len(text)
    assert set(terms.keys(text)) <= set(terms.keys(text + " word"))
    assert len(terms.spaced(text)) >= len(text)


def test_a_word_that_typesetting_has_cut_in_two_is_one_word():
    assert terms.words("the de\u2010\n       fault timeout") == ["the", "default", "timeout"]
    assert terms.spaced("the de\u2010\n  fault") == "the default"
    assert terms.words("well\u2010known") == ["well", "known"]
