"""What a sentence claims: numbers, dates, names and negations, however they are written, and none changed unseen."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.domain import claims
from orchestrator.domain.claims import Kind, Missing, alike, contained, found, mixed, visible


def keys(text, kind):
    return [claim.key for claim in found(text) if claim.kind is kind]


class TestANumber:
    @pytest.mark.parametrize(
        ("written", "key", "unit"),
        [
            ("1,234,567", "1234567", ""),
            ("1 234 567", "1234567", ""),
            ("1\u202f234\u00a0567", "1234567", ""),
            ("1.234.567,89", "1234567.89", ""),
            ("1'234", "1234", ""),
            ("12,34,567", "1234567", ""),
            ("1.50", "1.5", ""),
            ("1,5", "1.5", ""),
            ("0.005", "0.005", ""),
            ("\u22124.5 °C", "-4.5", "°c"),
            ("12 %", "12", "%"),
            ("12 percent", "12", "%"),
            ("$1.2 million", "1200000", "$"),
            ("5 kilometres", "5", "km"),
            ("5 km", "5", "km"),
            ("41m", "41", "m"),
            ("forty", "40", ""),
            ("three million", "3000000", ""),
            ("１２３", "123", ""),
            ("٤٧", "47", ""),
            ("4\u200b7", "47", ""),
            ("21st", "21", "th"),
        ],
    )
    def test_is_the_same_in_every_notation(self, written, key, unit):
        (claim,) = found(f"it is {written} there")

        assert (claim.kind, claim.key, claim.unit) == (Kind.NUMBER, key, unit)

    @pytest.mark.parametrize("written", ["3-5 km", "3–5 km", "3 to 5 km"])
    def test_of_a_range_is_two(self, written):
        assert keys(written, Kind.NUMBER) == ["3", "5"]

    def test_with_another_unit_is_another_claim(self):
        assert contained("it is 41 feet tall", ["it is 41 metres tall"]) == [Missing(Kind.UNIT, "41")]


class TestADate:
    @pytest.mark.parametrize(
        "written",
        [
            "2024-03-05", "2024/3/5", "5 March 2024", "5th of March 2024", "5 Mar. 2024", "March 5, 2024",
            "March 5th 2024", "5. März 2024", "5 de marzo de 2024", "05.03.2024", "MARCH 5, 2024",
        ],
    )  # fmt: skip
    def test_is_the_same_in_every_notation(self, written):
        assert keys(f"on {written} it was", Kind.DATE) == ["2024-03-05"]

    def test_that_two_readers_read_as_two_equals_only_itself(self):
        assert contained("on 03/05/2024", ["on 03/05/2024"]) == []
        assert contained("on 03/05/2024", ["on 2024-03-05"]) != []
        assert keys("on 25/12/2024", Kind.DATE) == keys("on 12/25/2024", Kind.DATE) == ["2024-12-25"]

    @pytest.mark.parametrize("coarser", ["in March 2024", "in 2024", "in 2024 on 5 March 2024"])
    def test_bears_its_coarser_parts(self, coarser):
        assert contained(coarser, ["on 5 March 2024"]) == []

    @pytest.mark.parametrize("other", ["on 6 March 2024", "in April 2024", "in 2025", "on 5 March 2023"])
    def test_bears_no_other(self, other):
        assert contained(other, ["on 5 March 2024"]) != []

    def test_that_no_calendar_has_is_no_date(self):
        assert keys("2024-99-99", Kind.DATE) == []
        assert contained("2024-99-99", ["2024-09-09"]) != []

    def test_may_be_a_quarter(self):
        assert contained("in Q3 2024", ["in Q2 2024"]) != []
        assert contained("in Q3 2024", ["in Q3/2024"]) == []


class TestClaims:
    def test_that_all_stand_there_but_were_swapped_are_out_of_order(self):
        (missing,) = contained("north 47, south 41", ["north 41, south 47"])
        assert missing.kind is Kind.ORDER
        assert contained("Spain beat France", ["France beat Spain"])[0].kind is Kind.ORDER

    def test_that_repeat_a_number_which_stands_there_once_are_more_than_it_says(self):
        assert contained("from 5 to 5", ["from 3 to 5"]) == [Missing(Kind.NUMBER, "5")]

    def test_may_come_from_several_quotes_in_any_order(self):
        assert contained("B is 47 and A is 41", ["A is 41", "B is 47"]) == []

    @pytest.mark.parametrize(
        ("said", "quoted", "missing"),
        [
            ("It is not safe", "It is safe", Missing(Kind.NEGATION, "not")),
            ("It is safe", "It is not safe", Missing(Kind.NEGATION, "not", left_out=True)),
            ("It is safe", "It isn't safe", Missing(Kind.NEGATION, "isn't", left_out=True)),
            ("It cannot fail", "It can fail", Missing(Kind.NEGATION, "cannot")),
            ("X is safe", "It is false that X is safe", Missing(Kind.NEGATION, "false", left_out=True)),
            ("Es ist sicher", "Es ist nicht sicher", Missing(Kind.NEGATION, "nicht", left_out=True)),
        ],
    )
    def test_say_what_is_denied(self, said, quoted, missing):
        assert missing in contained(said, [quoted])

    def test_are_names_and_codes_wherever_they_stand(self):
        assert contained("Spain exported tea", ["France exported tea"]) == [Missing(Kind.NAME, "Spain")]
        assert contained("Locks are held", ["all locks are held"]) == []
        assert contained("CVE-2024-1235 is fixed", ["CVE-2024-1234 is fixed"]) != []
        assert contained("python 3.11.5", ["python 3.11.4"]) != []
        assert contained("it is the B12", ["it is the B13"]) != []

    def test_written_with_letters_of_another_alphabet_are_other_names(self):
        assert contained("P\u0430ypal", ["Paypal"]) == [Missing(Kind.NAME, "P\u0430ypal")]


NAMES = st.sampled_from(["Acme", "Borealis", "France", "NATO", "Zürich", "Ærø", "B12", "CVE-2024-7"])
NUMBERS = st.one_of(
    st.integers(0, 10**7).map("{:,}".format),
    st.integers(0, 10**7).map(str),
    st.decimals(0, 1000, places=2).map(str),
    st.integers(0, 99).map("{} %".format),
)
NAMED = "January February March April May June July August September October November December"
MONTHS = NAMED.split()
DATES = st.dates().map(
    lambda d: [d.isoformat(), f"{d.day} {MONTHS[d.month - 1]} {max(1000, d.year % 2200)}"][d.day % 2]
)
PROSE = "the harbour reported that its tonnage fell while output grew beside rivers"
FILLERS = st.sampled_from(PROSE.split())
NEGATION = st.sampled_from(["not", "never", "no", "without"])
PARTS = st.lists(st.one_of(NAMES, NUMBERS, DATES, FILLERS, NEGATION), min_size=1, max_size=12)


class TestASupportedSentence:
    @given(PARTS)
    def test_misses_nothing(self, parts):
        sentence = " ".join(parts)
        assert contained(sentence, [sentence]) == []
        assert contained(sentence, ["something else", sentence]) == []

    @given(PARTS, st.data())
    def test_is_caught_when_any_digit_is_changed(self, parts, data):
        sentence = " ".join(parts)
        places = [at for at, char in enumerate(sentence) if char.isdigit()]
        assume(places)
        at = data.draw(st.sampled_from(places))
        other = data.draw(st.sampled_from([d for d in "0123456789" if d != sentence[at]]))

        assert contained(sentence[:at] + other + sentence[at + 1 :], [sentence])

    @given(PARTS, NAMES, NAMES, st.data())
    def test_is_caught_when_a_name_is_changed(self, parts, name, other, data):
        assume(other not in {*parts, name})
        at = data.draw(st.integers(0, len(parts)))
        sentence = " ".join([*parts[:at], name, *parts[at:]])

        assert contained(" ".join([*parts[:at], other, *parts[at:]]), [sentence])

    @given(PARTS, NEGATION, st.data())
    def test_is_caught_when_a_negation_comes_or_goes(self, parts, negation, data):
        at = data.draw(st.integers(0, len(parts)))
        plain, denied = " ".join(parts), " ".join([*parts[:at], negation, *parts[at:]])

        assert contained(denied, [plain])
        assert contained(plain, [denied])

    @given(PARTS, DATES, DATES, st.data())
    def test_is_caught_when_a_date_is_changed(self, parts, date, other, data):
        assume(keys(date, Kind.DATE) != keys(other, Kind.DATE))
        at = data.draw(st.integers(0, len(parts)))
        sentence = " ".join([*parts[:at], date, *parts[at:]])

        assert contained(" ".join([*parts[:at], other, *parts[at:]]), [sentence])

    @given(st.text(), st.lists(st.text(), max_size=6))
    def test_may_be_any_text(self, sentence, quotes):
        assert contained(sentence, quotes) is not None
        alike(sentence, " ".join(quotes))


class TestWhatCannotBeSeen:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("a\u202eb", "a⟨U+202E⟩b"),
            ("a\u200bb", "a⟨U+200B⟩b"),
            ("a\u2066b\u2069", "a⟨U+2066⟩b⟨U+2069⟩"),
            ("\ufeffa\u00ad", "⟨U+FEFF⟩a⟨U+00AD⟩"),
            ("a\U000e0041", "a⟨U+E0041⟩"),
            ("pay\u200dpal", "pay⟨U+200D⟩pal"),
            ("👩\u200d💻 ❤\ufe0f", "👩\u200d💻 ❤\ufe0f"),
            ("می\u200cخواهم", "می\u200cخواهم"),
            ("plain\n\ttext", "plain\n\ttext"),
        ],
    )
    def test_is_written_out(self, text, shown):
        assert visible(text) == shown

    @given(st.text())
    def test_is_written_out_once(self, text):
        assert visible(visible(text)) == visible(text)

    def test_is_a_letter_of_another_alphabet_in_a_word(self):
        assert mixed("the p\u0430ypal and Москва, αβγ, GmbH, 5 µm") == ["p\u0430ypal"]


class TestRelevance:
    @pytest.mark.parametrize(
        ("sentence", "quote", "wanted"),
        [
            ("The tower is 47 metres tall.", "The north tower is 41 metres tall and was lit in 1904.", True),
            ("A mutex is a lock.", "A lock is held by one.", False),
            ("PWNED", "The tower is 41 metres tall.", False),
            ("", "The tower is 41 metres tall.", False),
            ("It is of the one", "It is of the other", False),
        ],
    )
    def test_is_shared_words_that_tell_something(self, sentence, quote, wanted):
        assert alike(sentence, quote) is wanted


def test_every_kind_of_claim_is_looked_for():
    said = "Acme did not sell 5 in March 2024"
    assert {claim.kind for claim in found(said)} == set(Kind) - {Kind.UNIT, Kind.ORDER}
    assert claims.normal(" a\u00a0 b ") == "a b"
