"""The log's promise: whatever is said, what is or looks like a secret is not in the line."""

import io
import json
import logging
import re
import sys
import time

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import telemetry
from orchestrator.telemetry import GONE, redacted

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLW9mLXRva2Vu"
KEY = "orc_live_k3x9QmZa_7Yh2vTn4Lw8RpD5sBc1GfKj0UeXiAoNz6M"
WORDS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

ADDRESS = re.compile(r"(?P<name>\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)(?P<value>[^\s/@]+)(?=@)", re.IGNORECASE)
TOKEN = re.compile(r"\beyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*")
"""What is looked for, as plain patterns; on one long run they take the square of its length."""


def fail():
    raise ValueError(f"refused {KEY}")


@pytest.fixture
def lines():
    """Log to a stream, and read back what was written."""
    out = io.StringIO()
    before = structlog.get_config()
    telemetry.configure("debug", stream=out)
    yield out.getvalue
    structlog.configure(**before)


class TestAText:
    @pytest.mark.parametrize(
        ("said", "left"),
        [
            (f"Authorization: Bearer {KEY}", f"Authorization: {GONE}"),
            ("authorization: Basic dXNlcjpodW50ZXIy, and more", f"authorization: {GONE}"),
            ('{"Authorization": "Token abc def"}', f'{{"Authorization": {GONE}}}'),
            ("Cookie: session=s3cr3t; theme=dark", f"Cookie: {GONE}"),
            ("Set-Cookie: session=s3cr3t", f"Set-Cookie: {GONE}"),
            ("password=hunter2 user=alice", f"password={GONE} user=alice"),
            ("db_password: 'hunter 2'", f"db_password: {GONE}"),
            ("GET /x?token=abc123&page=2", f"GET /x?token={GONE}&page=2"),
            ("api_key=abc, access_token=def", f"api_key={GONE}, access_token={GONE}"),
            (f"it was {JWT}.", f"it was {GONE}."),
            (f"the key {KEY} is unknown", f"the key {GONE} is unknown"),
            ("sent bearer abcdefghijkl", f"sent bearer {GONE}"),
            (
                "postgresql://app:hunter2@db.internal/orchestrator",
                f"postgresql://app:{GONE}@db.internal/orchestrator",
            ),
            ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----", GONE),
        ],
    )
    def test_that_holds_a_secret_is_shown_without_it(self, said, left):
        assert redacted(said) == left

    @pytest.mark.parametrize(
        "said",
        [
            "The step was taken back from a worker that is gone.",
            "used 812 input tokens and 3 tool calls",
            "plan 4dba7e39-6d7c-4ae5-8c83-7cf86c0a12b4, step 3",
            "http://127.0.0.1:8001/plans/x?limit=5",
            "orchestrator secrets put NAME",
        ],
    )
    def test_that_holds_none_is_shown_as_it_is(self, said):
        assert redacted(said) == said

    @given(
        st.text(WORDS, min_size=20, max_size=60),
        st.sampled_from(
            ["{}orc_live_{}", "{}Bearer {}", "{}password={}", '{}"token": "{}"', "{}api-key: {}"]
        ),
        st.text(" .,:;=({[\"'\n\täß漢", max_size=30),
    )
    def test_never_shows_a_credential_whatever_stands_before_it(self, secret, form, before):
        assert secret not in redacted(form.format(f"{before} ", secret))

    @given(
        st.lists(st.sampled_from([*"a9+.-:@ /_", "\u00e9", "\u017f", "://", "pw"]), max_size=16).map("".join)
        | st.from_regex(ADDRESS)
    )
    def test_has_its_addresses_redacted_as_by_the_plain_pattern(self, said):
        assert telemetry._ADDRESS.sub(r"\g<name>", said) == ADDRESS.sub(r"\g<name>", said)

    @given(
        st.lists(
            st.sampled_from(["eyJ", "eyJabcde.", "bcdef.", *"-. _", "abcde", "\u00e9"]), max_size=10
        ).map("".join)
    )
    def test_has_its_tokens_redacted_as_by_the_plain_pattern(self, said):
        assert telemetry._JWT.sub(r"\g<name>", said) == TOKEN.sub("", said)

    @pytest.mark.parametrize(
        ("run", "pattern", "plain"),
        [("a.", telemetry._ADDRESS, ADDRESS), ("-eyJ", telemetry._JWT, TOKEN)],
        ids=["address", "token"],
    )
    def test_of_one_long_run_is_read_once_and_not_once_for_each_of_its_signs(self, run, pattern, plain):
        said = run * 8_000

        def took(of):
            began = time.process_time()
            of.sub("", said)
            return time.process_time() - began

        assert took(pattern) * 10 < took(plain)  # it is some hundred times quicker

    @given(st.text())
    def test_is_redacted_to_the_same_text_twice(self, text):
        assert redacted(redacted(text)) == redacted(text)

    @given(st.text(min_size=12, max_size=40), st.text(max_size=40), st.text(max_size=40))
    def test_never_shows_a_value_that_was_concealed(self, value, before, behind):
        telemetry.conceal([value])
        try:
            assert value not in redacted(before + value + behind) or value in GONE
        finally:
            telemetry._concealed.pop(value)

    def test_is_not_torn_apart_by_a_value_that_is_too_short_to_be_told_from_words(self):
        telemetry.conceal(["", "root"])
        assert redacted("the root of it") == "the root of it"

    def test_forgets_only_the_oldest_of_very_many_values(self):
        try:
            telemetry.conceal(f"value number {n}" for n in range(5000))
            assert redacted("value number 4999") == GONE
            assert len(telemetry._concealed) == 4096
        finally:
            telemetry._concealed.clear()


class TestALogLine:
    def test_hides_what_stands_under_a_secret_s_name(self, lines):
        structlog.get_logger().info(
            "request.failed", password="hunter2", headers={"Cookie": "a=1"}, nested=[{"api_key": 12345678}]
        )
        said = json.loads(lines())
        assert (said["password"], said["headers"], said["nested"]) == (
            GONE,
            {"Cookie": GONE},
            [{"api_key": GONE}],
        )

    def test_keeps_counts_of_tokens_and_its_own_name(self, lines):
        structlog.get_logger().info("tool.called", input_tokens=812, tokens=3, duration_ms=4, done=True)
        said = json.loads(lines())
        assert (said["event"], said["input_tokens"], said["tokens"], said["done"]) == (
            "tool.called",
            812,
            3,
            True,
        )

    def test_hides_a_secret_in_a_traceback_and_in_an_object(self, lines):
        try:
            fail()
        except ValueError as error:
            structlog.get_logger().error("request.failed", exc_info=True, error=error)
        assert KEY not in lines()
        assert lines().count(GONE) >= 2

    def test_of_a_library_is_redacted_too(self, lines):
        out = io.StringIO()
        handler = logging.StreamHandler(out)
        library = logging.getLogger("a library")
        library.addHandler(handler)
        try:
            library.warning("sent %s with %s", "Authorization: Bearer abcdefghijkl", KEY)
            try:
                fail()
            except ValueError:
                library.error("failed", exc_info=sys.exc_info())
        finally:
            library.removeHandler(handler)
        assert KEY not in out.getvalue()
        assert "abcdefghijkl" not in out.getvalue()
        assert "ValueError" in out.getvalue()

    def test_of_a_library_whose_arguments_do_not_fit_is_left_to_its_handler(self, lines):
        record = logging.getLogRecordFactory()("x", logging.INFO, "f.py", 1, "%d apples", ("no",), None)
        assert record.args == ("no",)
