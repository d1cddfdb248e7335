import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agents import sentences
from agents.sentences import Kind


def _texts(text, **given_):
    return [" ".join(sentence.text.split()) for sentence in sentences.split(text, **given_)]


class TestProse:
    def test_a_sentence_runs_across_wrapped_lines(self):
        text = "The first sentence is wrapped\nonto a second line. The other one\nis as well.\n"
        assert [s.text for s in sentences.split(text)] == [
            "The first sentence is wrapped\nonto a second line.",
            "The other one\nis as well.",
        ]

    def test_a_blank_line_ends_a_sentence(self):
        assert _texts("One two three four\n\nfive six seven eight") == [
            "One two three four",
            "five six seven eight",
        ]

    @pytest.mark.parametrize(
        "whole",
        [
            "Use a container, e.g. a list or i.e. a tuple, here.",
            "The U.S. economy grew by 3.5 percent in Python 3.11 terms.",
            "Dr. Smith met Mr. Jones at St. Paul in No. 10 yesterday.",
            "It was signed by J. R. Tolkien in Jan. 1950 at last.",
            "The value was approx. 12 km, cf. Fig. 3 and Sec. 4.2 below.",
            'Calling "x.__eq__(y)" is done for you by the runtime.',
            "They sell rice, beans, etc. at the market every day.",
        ],
    )
    def test_an_abbreviation_or_a_number_ends_nothing(self, whole):
        assert _texts(whole) == [whole]

    def test_an_abbreviation_ends_a_sentence_before_an_obvious_beginning(self):
        assert _texts("He moved to the U.S. The country was new to him.") == [
            "He moved to the U.S.",
            "The country was new to him.",
        ]

    def test_a_closing_quote_belongs_to_its_sentence(self):
        assert _texts("She said “it is done.” Then she left for good.") == [
            "She said “it is done.”",
            "Then she left for good.",
        ]

    def test_questions_and_exclamations_end(self):
        assert _texts("Is this really so? Yes it surely is! And that is all.") == [
            "Is this really so?",
            "Yes it surely is!",
            "And that is all.",
        ]

    def test_chinese_needs_no_space_after_its_full_stop(self):
        assert _texts("熵是无序的度量。它不会自行减少！真的是这样吗？") == [
            "熵是无序的度量。",
            "它不会自行减少！",
            "真的是这样吗？",
        ]

    def test_arabic_and_hindi_have_their_own_stops(self):
        assert len(_texts("ما هي عاصمة فرنسا؟ باريس هي العاصمة هنا۔")) == 2
        assert len(_texts("यह एक वाक्य है। यह दूसरा वाक्य है।")) == 2

    def test_a_word_or_two_are_no_sentence(self):
        assert _texts("Yes.\n\nSee also:\n\nOnly two\n") == []

    def test_a_text_without_stops_is_cut_at_spaces(self):
        found = sentences.split("word " * 2000)
        assert all(len(s.text) <= sentences.LONGEST for s in found)
        assert sum(s.text.count("word") for s in found) == 2000


class TestLayout:
    @pytest.mark.parametrize(
        "rule", ["****************", "================", "----------------", "~~~~~~~~~~~~~~~~"]
    )
    def test_an_underlined_line_is_a_heading_and_no_sentence(self, rule):
        text = f"A heading of some words\n{rule}{rule}\n\nThis is the first sentence.\n"
        assert _texts(text) == ["This is the first sentence."]
        assert [(h.level, h.title) for h in sentences.headings(text)] == [(1, "A heading of some words")]

    def test_a_hash_line_is_a_heading_and_no_sentence(self):
        text = "# One long heading here\n\n## Another long heading ##\nThe text comes here.\n"
        assert _texts(text) == ["The text comes here."]
        assert [(h.level, h.title) for h in sentences.headings(text)] == [
            (1, "One long heading here"),
            (2, "Another long heading"),
        ]

    def test_the_first_underline_seen_is_the_outermost(self):
        text = "Top\n***\n\nMiddle\n======\n\nLow\n---\n\nAgain\n======\n"
        assert [h.level for h in sentences.headings(text)] == [1, 2, 3, 2]

    def test_an_overlined_heading_is_another_level(self):
        text = "=====\nTitle\n=====\n\nPart\n====\n"
        assert [(h.level, h.title) for h in sentences.headings(text)] == [(1, "Title"), (2, "Part")]

    def test_a_heading_in_code_is_none(self):
        assert sentences.headings("```\n# not a heading\n```\n") == []

    def test_a_comment_is_no_heading_where_hashes_mean_nothing(self):
        assert sentences.headings("# a comment here\n", hashes=False) == []

    def test_each_list_entry_is_its_own_without_its_marker(self):
        text = "* the first entry here\n* the second entry\n  runs on here\n\n1. Take the first step.\n2) Take the second step.\n"
        found = sentences.split(text)
        assert [" ".join(s.text.split()) for s in found] == [
            "the first entry here",
            "the second entry runs on here",
            "Take the first step.",
            "Take the second step.",
        ]
        assert {s.kind for s in found} == {Kind.ITEM}

    def test_a_list_entry_knows_the_line_that_opens_its_list(self):
        found = sentences.split("Take these steps:\n\n1. Open the door.\n\n2. Walk right in.\n")
        assert [s.lead for s in found if s.kind is Kind.ITEM] == ["Take these steps:"] * 2

    def test_an_explanation_knows_the_term_it_explains(self):
        (found,) = sentences.split("generator.close()\n\n   Raises an error where it was paused.\n")
        assert found.text == "Raises an error where it was paused."
        assert found.lead == "generator.close()"

    def test_code_grammar_and_doctests_are_no_sentences(self):
        text = (
            "The following code runs well:\n\n"
            "   with open(path) as file:\n       print(file.read())\n\n"
            '   with_stmt ::= "with" with_item ":" suite\n\n'
            "   >>> 1 + 1\n   2\n\n"
            "```\nfenced code is not read here\n```\n\n"
            "Literal text follows here::\n\n    it is not a sentence at all.\n\nBut this is one.\n"
        )
        assert _texts(text) == ["The following code runs well:", "But this is one."]

    def test_indented_prose_is_read(self):
        assert _texts("Note:\n\n  The suite is always executed in the end.\n") == [
            "The suite is always executed in the end."
        ]

    def test_a_field_is_one_unit_a_line(self):
        text = "total: 27,830 sq km\nland: 25,680 sq km\nwater: 2,150 sq km\n"
        found = sentences.split(text)
        assert [s.text for s in found] == ["total: 27,830 sq km", "land: 25,680 sq km", "water: 2,150 sq km"]
        assert {s.kind for s in found} == {Kind.FIELD}

    def test_a_wrapped_sentence_with_a_colon_is_no_field(self):
        text = "Changed in version 3.9: Evaluating this in a boolean context is now\ndeprecated. It still works.\n"
        assert _texts(text) == [
            "Changed in version 3.9: Evaluating this in a boolean context is now deprecated.",
            "It still works.",
        ]

    def test_a_short_value_counts_when_it_is_all_its_heading_has(self):
        assert _texts("129 km", headed=True) == ["129 km"]
        assert _texts("129 km") == []
        assert _texts("### Coastline\n129 km\n\n### Climate\ntropical\n") == ["129 km", "tropical"]

    def test_the_rows_of_a_table_are_units_without_its_head(self):
        text = "| Tier | Price |\n|------|------:|\n| Gold | $5 a month |\n| Silver | $3 |\n"
        found = sentences.split(text)
        assert [s.text for s in found] == ["Gold | $5 a month", "Silver | $3"]
        assert {s.kind for s in found} == {Kind.ROW}

    def test_a_row_of_a_grid_counts_if_it_stands_on_one_line(self):
        text = "+---+-----+\n| a | one |\n+---+-----+\n| b | two |\n|   | on  |\n+---+-----+\n| c | end |\n+---+-----+\n"
        assert [s.text for s in sentences.split(text)] == ["c | end"]

    def test_windows_line_ends_change_nothing(self):
        text = "Title here\n==========\n\nOne two three.\n\n* four five six\n"
        assert _texts(text.replace("\n", "\r\n")) == _texts(text)


_LAYOUT = [
    "\n",
    "\r\n",
    "\n\n",
    "  ",
    "    ",
    "# ",
    "* ",
    "1. ",
    "===\n",
    "---\n",
    "```",
    "~~~",
    "| a | b |\n",
]
_WORDS = [
    "|---|\n",
    "key: value\n",
    "::\n",
    "e.g. ",
    "U.S. ",
    "The end. ",
    "Why? ",
    "熵。",
    ">>> x\n",
    "word ",
    ". ",
    "+--+\n",
]
_pieces = st.sampled_from([*_LAYOUT, *_WORDS])


@given(
    st.one_of(st.text(), st.lists(st.one_of(_pieces, st.text(max_size=8)), max_size=60).map("".join)),
    st.booleans(),
)
@example("---", False)
@example("---\n---\n", True)
@example("a\n===", False)
@example("|", True)
@example("\r", False)
def test_spans_are_exact_ordered_and_never_overlap(text, headed):
    reached = 0
    for sentence in sentences.split(text, headed=headed):
        assert reached <= sentence.start < sentence.end <= len(text)
        assert sentence.text == text[sentence.start : sentence.end]
        assert sentence.text == sentence.text.strip()
        reached = sentence.end


@given(st.lists(st.one_of(_pieces, st.text(max_size=8)), max_size=60).map("".join))
def test_headings_are_ordered_and_never_overlap(text):
    reached = 0
    for heading in sentences.headings(text):
        assert reached <= heading.start < heading.end <= len(text)
        assert heading.title
        assert heading.title in text[heading.start : heading.end]
        assert heading.level >= 1
        reached = heading.end


@pytest.mark.parametrize(
    "unit",
    [
        "word ",
        "熵",
        "a",
        ". ",
        "A. ",
        "\n",
        "* \n",
        "a: b\n",
        "| ",
        "#",
        "=",
        "`",
        '"',
        "x\n===\n",
        " ",
        "e.g. ",
    ],
)
def test_a_hundred_kilobytes_of_one_thing_are_split_like_any_text(unit):
    text = unit * (100_000 // len(unit))
    found = sentences.split(text, headed=True)
    assert all(text[s.start : s.end] == s.text for s in found)
    assert all(0 <= h.start < h.end <= len(text) for h in sentences.headings(text))


@pytest.mark.parametrize(
    "text",
    ["." * 60_000 + "x", "ab " + "-" * 60_000 + " b. C", "* \n" * 60_000, "--- ---\n" * 40_000],
    ids=["dots", "a word before a stop", "empty entries", "borders"],
)
def test_no_text_takes_a_time_that_grows_with_the_square_of_its_length(text):
    began = time.thread_time()
    sentences.split(text)
    assert time.thread_time() - began < 4  # less than half a second; it was five to fifty


class TestWhatExplainsAName:
    def test_is_quoted_with_the_name(self):
        manual = "Options are:\n\n       -n, --adjustment=N\n              add integer N to the niceness (default 10)\n"
        assert _texts(manual)[-1].split() == [
            "-n,",
            "--adjustment=N",
            "add",
            "integer",
            "N",
            "to",
            "the",
            "niceness",
            "(default",
            "10)",
        ]

    def test_is_quoted_with_all_spellings_of_an_option(self):
        manual = "       -s <signal>\n       --signal <signal>\n              Specify the signal to be sent. More of it.\n"
        assert _texts(manual)[0].split() == [
            "-s",
            "<signal>",
            "--signal",
            "<signal>",
            "Specify",
            "the",
            "signal",
            "to",
            "be",
            "sent.",
        ]
        assert _texts(manual)[1] == "More of it."

    def test_is_not_quoted_with_a_heading_in_capitals(self):
        assert _texts("NAME\n       uniq - report or omit repeated lines\n") == [
            "uniq - report or omit repeated lines"
        ]


def test_the_running_head_of_a_page_is_no_sentence():
    page = (
        "UNIQ(1)                User Commands                UNIQ(1)\n\nIt filters adjacent matching lines.\n"
    )
    assert _texts(page) == ["It filters adjacent matching lines."]
