"""The page about the HTTP API: what the description says, with nothing in it taken for markup."""

from __future__ import annotations

import html
import re
import shlex
from types import SimpleNamespace

from orchestrator import api
from orchestrator.api import manual

DESCRIBED = api.build(SimpleNamespace()).openapi()
PAGE = manual.written(DESCRIBED).decode()


def calls():
    """The call that the page shows for each verb and address."""
    shown = re.findall(r'<h3 id="[^"]*">(\w+) (/[^<]*)</h3>.*?<pre>(.*?)</pre>', PAGE, re.DOTALL)
    return {(verb, path): html.unescape(call).replace("\\\n", "") for verb, path, call in shown}


class TestThePage:
    def test_shows_a_call_for_every_route(self):
        routes = {(verb.upper(), path) for path, verbs in DESCRIBED["paths"].items() for verb in verbs}
        assert set(calls()) == routes

    def test_shows_calls_that_a_shell_understands_with_what_each_must_have(self):
        assert shlex.split(calls()["GET", "/dead-letters/{letter_id}"]) == [
            "curl", "-s", "$URL/dead-letters/LETTER_ID", "-H", "Authorization: Bearer $KEY",
        ]  # fmt: skip
        made = shlex.split(calls()["POST", "/plans"])
        assert made[:4] == ["curl", "-s", "-X", "POST"]
        assert made[-1] == '{"goal": "…"}'
        assert shlex.split(calls()["GET", "/research/stream"])[2] == "$URL/research/stream?query=QUERY"

    def test_names_parameters_bodies_and_answers(self):
        text = html.unescape(re.sub(r"<[^>]+>", "", PAGE))
        for said in (
            "letter_id",
            "string uuid",
            "application/problem+json",
            "Only those given up on for it.",
        ):
            assert said in text
        assert '<a href="#schema-PlanForm">PlanForm</a>' in PAGE

    def test_is_the_same_for_the_same_description(self):
        assert manual.written(DESCRIBED).decode() == PAGE

    def test_takes_nothing_that_is_described_for_markup(self):
        hostile = "</style><script>alert(1)</script>"
        operation = {
            "tags": [hostile],
            "description": hostile,
            "parameters": [
                {
                    "name": hostile,
                    "in": "query",
                    "required": True,
                    "schema": {"type": "string", "default": hostile},
                }
            ],
            "responses": {"200": {"description": hostile}},
        }
        page = manual.written(
            {
                "info": {"title": hostile, "version": hostile, "description": hostile},
                "paths": {f"/{hostile}": {"get": operation}},
                "components": {"schemas": {hostile: {"type": "string", "description": hostile}}},
            }
        ).decode()

        assert "<script" not in page
        assert page.count("</style>") == 1
