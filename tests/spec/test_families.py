from agents import families, terms
from agents.relevance import Candidate, select


def _alike(question, key):
    return {part for term in terms.asked(question) if term.key == key for part in term.alike}


class TestForms:
    def test_of_one_verb_are_one_word(self):
        assert terms.stem("wrote") == terms.stem("written") == terms.stem("writes")

    def test_stand_in_one_group_only(self):
        words = [word for group in families.FORMS for word in group]
        assert sorted(words) == sorted(set(words))

    def test_let_a_question_find_its_answer(self):
        manual = Candidate(
            "nice.txt", "Written by David MacKenzie.\n\nReport any bugs to the list.", title="nice"
        )
        (found,) = select("Who wrote nice?", [manual], 5)
        assert found.text == "Written by David MacKenzie."


class TestWhatMeansTheSame:
    def test_is_known_of_words_and_of_whole_phrases(self):
        assert ("climat",) in _alike("What kind of weather does Kiribati have?", "weather")
        assert ("natur", "resourc") in _alike("Which raw materials does Peru have?", "raw")

    def test_is_not_said_of_a_part_of_a_phrase(self):
        assert _alike("Which material is the raw fish kept in?", "fish") == set()
        assert ("natur", "resourc") not in _alike("Is it raw?", "raw")

    def test_answers_under_a_heading_of_other_words(self):
        climate = Candidate("kr.md", "tropical; marine, hot and humid", "Kiribati", ("Kiribati", "Climate"))
        terrain = Candidate("kr.md", "mostly low-lying coral atolls", "Kiribati", ("Kiribati", "Terrain"))
        found = select("What kind of weather does Kiribati have?", [terrain, climate], 5)
        assert [one.candidate for one in found] == [climate]

    def test_counts_for_less_than_the_word_itself(self):
        said = Candidate("a.md", "The weather of Kiribati is tropical all year.")
        meant = Candidate("b.md", "The climate of Kiribati is tropical all year.")
        found = select("What is the weather of Kiribati?", [meant, said], 2)
        assert found[0].candidate is said
