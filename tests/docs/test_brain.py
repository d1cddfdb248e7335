"""Each feature that the second design names has tests named after it, or a line that says where ours differs and why."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "brain.md").read_text(encoding="utf-8")
ROWS = {int(row[0]): row[1] for row in re.findall(r"^\| B(\d+) \|(.*)\|$", PAGE, re.MULTILINE)}
NAMED = re.compile(r"(?:def test_|class Test)((?:[bB]\d+_?)+)")


def proven():
    """The rows that a test or a class of tests is named after."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    return {int(n) for text in sources for names in NAMED.findall(text) for n in re.findall(r"\d+", names)}


PROVEN = proven()


def test_there_is_a_row_for_each():
    assert sorted(ROWS) == list(range(1, 49))


@pytest.mark.parametrize("row", sorted(ROWS))
def test_a_row_has_tests_of_its_name_or_says_where_it_differs(row):
    assert row in PROVEN or "*Differs*" in ROWS[row]


@pytest.mark.parametrize("row", [row for row, text in ROWS.items() if "*Differs*" in text])
def test_a_row_that_differs_names_only_tests_that_there_are(row):
    for name in re.findall(r"`(tests/[\w/.]+)`", ROWS[row]):
        assert (ROOT / name).exists()
