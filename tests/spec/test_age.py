"""How long ago people say that something was."""

from datetime import timedelta

import pytest

from orchestrator.domain.age import age
from orchestrator.domain.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("1d", timedelta(days=1)),
        ("3w", timedelta(weeks=3)),
        (" 2H ", timedelta(hours=2)),
        ("0s", timedelta(0)),
        ("99999w", timedelta(weeks=99_999)),
    ],
)
def test_an_age_is_a_number_and_a_unit(text, meant):
    assert age(text) == meant


@pytest.mark.parametrize(
    "text", ["", "2", "h", "-1h", "1.5h", "2 h", "2y", "100000w", "²h", "2h1m", "2h\n\x00"]
)
def test_anything_else_is_refused_with_what_to_write(text):
    with pytest.raises(InvalidRequest, match="2h"):
        age(text)
