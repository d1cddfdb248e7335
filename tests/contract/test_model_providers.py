"""What every provider promises, whatever protocol it speaks: proven against a real server that speaks both, and lies."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from email.utils import formatdate

import pytest

from orchestrator.domain.plan import digest
from tests.contract.model_server import KEY, ModelServer, Reply
from workers.toolhost.models import wire
from workers.toolhost.models.anthropic import Anthropic
from workers.toolhost.models.catalogue import Model
from workers.toolhost.models.extractive import Extractive
from workers.toolhost.models.openai import OpenAI
from workers.toolhost.models.port import FAULTS, NOTHING, Asked, Failed, Usage
from workers.toolhost.models.replay import Replay

VARIABLE = "ORCHESTRATOR_TEST_MODEL_KEY"
SYSTEM, QUESTION = "Answer in JSON.", "What is a lock?"
ASKED = Asked(
    ({"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}), key="k-1", within_s=20.0
)
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
HELD = replace(ASKED, schema=SCHEMA)
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}}


class Chat:
    """Chat Completions."""

    name = "openai"
    provider = OpenAI
    path = "/v1/chat/completions"

    @staticmethod
    def said(text, *, finish="stop", usage=(11, 7, 0), **message):
        body = {
            "model": "m-2",
            "choices": [{"message": {"content": text, **message}, "finish_reason": finish}],
        }
        if usage is not None:
            came, went, cached = usage
            body["usage"] = {
                "prompt_tokens": came,
                "completion_tokens": went,
                "prompt_tokens_details": {"cached_tokens": cached},
            }
        return body

    cut = staticmethod(lambda: Chat.said("{", finish="length"))
    refused = staticmethod(lambda: Chat.said(None, refusal="I will not."))

    @staticmethod
    def held(value):
        return Chat.said(json.dumps(value))

    @staticmethod
    def key_of(request):
        return request.headers.get("authorization", "").removeprefix("Bearer ")

    wrong = (
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": {"0": 1}},
        {"choices": "many"},
    )


class Messages:
    """Messages."""

    name = "anthropic"
    provider = Anthropic
    path = "/v1/messages"

    @staticmethod
    def said(text, *, finish="end_turn", usage=(11, 7, 0)):
        blocks = [] if text is None else [{"type": "text", "text": text}]
        body = {"model": "m-2", "content": blocks, "stop_reason": finish}
        if usage is not None:
            came, went, cached = usage
            plain = came - cached if isinstance(came, int) and isinstance(cached, int) else came
            body["usage"] = {"input_tokens": plain, "output_tokens": went, "cache_read_input_tokens": cached}
        return body

    cut = staticmethod(lambda: Messages.said("{", finish="max_tokens"))
    refused = staticmethod(lambda: Messages.said("I will not.", finish="refusal"))

    @staticmethod
    def held(value):
        block = {"type": "tool_use", "id": "t", "name": "answer", "input": value}
        return {**Messages.said(None), "content": [block], "stop_reason": "tool_use"}

    @staticmethod
    def key_of(request):
        return request.headers.get("x-api-key", "")

    wrong = (
        {},
        {"content": None},
        {"content": 3},
        {"content": [{}]},
        {"content": [{"type": "text"}]},
        {"content": [1]},
    )


@pytest.fixture(params=[Chat, Messages], ids=lambda p: p.name)
def protocol(request):
    return request.param


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.setattr(wire, "BASE_S", 0.001)
    made = ModelServer()
    yield made
    made.close()


def provider_of(protocol, server, **rest):
    usual = {"base_url": server.url, "model": "m-1", "key_env": VARIABLE, "answer_tokens": 500}
    return protocol.provider(Model("quick", protocol.name, **{**usual, **rest}))


@pytest.fixture
def provider(protocol, server):
    return provider_of(protocol, server)


def in_turn(*replies):
    """Answer with these one after the other, and with the last again."""
    left = list(replies)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


def failure(provider, asked=ASKED):
    with pytest.raises(Failed) as failed:
        provider.complete(asked)
    assert failed.value.fault in FAULTS
    assert KEY not in str(failed.value)
    assert "127.0.0.1" not in str(failed.value)
    assert failed.value.__cause__ is None or KEY not in repr(failed.value.__cause__)
    return failed.value


class TestAProvider:
    def test_brings_an_answer_home_with_who_gave_it_and_what_it_took(self, protocol, server, provider):
        server.answer = lambda _: Reply(protocol.said('{"a": "🔒"}', usage=(11, 7, 4)))

        answer = provider.complete(ASKED)

        assert (answer.text, answer.model, answer.usage) == ('{"a": "🔒"}', "m-2", Usage(11, 7, cached=4))
        (request,) = server.requests
        assert request.path == protocol.path
        assert protocol.key_of(request) == KEY
        assert request.headers["idempotency-key"] == "k-1"
        assert (request.body["model"], request.body["temperature"], request.body["max_tokens"]) == (
            "m-1",
            0.0,
            500,
        )
        assert SYSTEM in json.dumps(request.body)
        assert QUESTION in json.dumps(request.body)

    def test_holds_an_answer_to_a_schema(self, protocol, server, provider):
        server.answer = lambda _: Reply(protocol.held({"a": "b"}))

        assert json.loads(provider.complete(HELD).text) == {"a": "b"}
        assert (
            server.requests[0].body["response_format"]["json_schema"]["schema"]
            if protocol is Chat
            else server.requests[0].body["tools"][0]["input_schema"]
        ) == SCHEMA

    def test_asks_without_a_schema_where_the_server_takes_none_and_remembers_it(
        self, protocol, server, provider
    ):
        def answer(request):
            takes = "tools" not in request.body and "response_format" not in request.body
            return Reply(protocol.said("{}")) if takes else Reply({"error": "what?"}, status=400)

        server.answer = answer
        provider.complete(HELD)
        learning = len(server.requests)
        provider.complete(HELD)

        assert learning > 1
        assert len(server.requests) == learning + 1

    def test_learns_nothing_from_a_request_that_is_refused_in_every_form(self, protocol, server, provider):
        server.answer = lambda _: Reply({"error": "too long"}, status=400)
        assert failure(provider, HELD).fault == "model_rejected"
        server.requests.clear()
        server.answer = lambda _: Reply(protocol.held({"a": "b"}))

        provider.complete(HELD)

        (request,) = server.requests
        assert "response_format" in request.body or "tools" in request.body

    def test_asks_without_a_key_where_there_is_none(self, protocol, server, provider, monkeypatch):
        monkeypatch.delenv(VARIABLE)
        server.answer = lambda _: Reply(protocol.said("{}"))
        provider.complete(ASKED)

        assert protocol.key_of(server.requests[0]) == ""

    @pytest.mark.parametrize("key", ["schlüssel", "two\nlines", "nul\x01"])
    def test_asks_nobody_with_a_key_that_no_header_carries(self, server, provider, monkeypatch, key):
        monkeypatch.setenv(VARIABLE, key)

        assert key not in str(failure(provider))
        assert server.requests == []

    def test_keeps_text_that_can_be_stored_of_what_cannot(self, protocol, server, provider):
        server.answer = lambda _: Reply(protocol.said("nul \x00 half \ud800"))

        assert provider.complete(ASKED).text == "nul \ufffd half ?"

    def test_does_not_use_the_proxies_of_the_environment(self, protocol, server, provider, monkeypatch):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        server.answer = lambda _: Reply(protocol.said("{}"))

        assert provider.complete(ASKED).text == "{}"

    @pytest.mark.parametrize(
        "usage", [None, (-5, 7, 0), ("many", 7, 0), (1e300, 7, 0), (11, 7, 12), (0, 0, 0)], ids=repr
    )
    def test_says_that_it_does_not_know_where_the_server_s_numbers_cannot_be_meant(
        self, protocol, server, provider, usage
    ):
        server.answer = lambda _: Reply(protocol.said("{}", usage=usage))

        assert provider.complete(ASKED).usage is None


class TestAReplyThatIsNone:
    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"<html>It works!</html>", b"null", b"[]", b"3"],
        ids=repr,
    )
    def test_of_another_form_is_a_failure(self, server, provider, body):
        server.answer = lambda _: Reply(body)
        failed = failure(provider)

        assert (failed.fault, failed.usage) == ("model_malformed", None)
        assert len(server.requests) == 1

    @pytest.mark.parametrize("which", range(6))
    def test_of_another_shape_is_a_failure(self, protocol, server, provider, which):
        server.answer = lambda _: Reply(protocol.wrong[which])

        assert failure(provider).fault == "model_malformed"

    def test_that_was_cut_off_by_its_length_is_a_failure_with_its_price(self, protocol, server, provider):
        server.answer = lambda _: Reply(protocol.cut())
        failed = failure(provider)

        assert (failed.fault, failed.usage) == ("model_cut", Usage(11, 7))

    def test_that_refuses_is_a_failure_with_its_price(self, protocol, server, provider):
        server.answer = lambda _: Reply(protocol.refused())
        failed = failure(provider)

        assert (failed.fault, failed.usage) == ("model_refused", Usage(11, 7))

    @pytest.mark.parametrize("length", [200_001, 4_000_001])
    def test_that_is_huge_is_a_failure(self, protocol, server, provider, length):
        server.answer = lambda _: Reply(protocol.said("x" * length))

        assert failure(provider).fault in {"model_refused", "model_malformed"}

    def test_that_holds_the_key_is_not_kept(self, protocol, server, provider):
        server.answer = lambda _: Reply(protocol.said(f"Your key is {KEY}."))

        assert failure(provider).fault == "model_malformed"

    @pytest.mark.parametrize("cut_after", [0, 20])
    def test_that_breaks_off_is_not_asked_for_again_here(self, protocol, server, provider, cut_after):
        server.answer = lambda _: Reply(protocol.said("{}"), cut_after=cut_after)
        failed = failure(provider)

        assert (failed.fault, failed.usage) == ("model_unavailable", None)  # it may have been paid for
        assert len(server.requests) == 1

    @pytest.mark.parametrize("manner", [{"hang": True}, {"drip": True}], ids=str)
    def test_that_takes_too_long_is_given_up_on_in_time(self, protocol, server, provider, manner):
        server.answer = lambda _: Reply(protocol.said("x" * 5_000), **manner)
        began = time.monotonic()
        failed = failure(provider, replace(ASKED, within_s=0.6))

        assert "within 0.6 s" in failed.detail
        assert failed.usage is None
        assert time.monotonic() - began < 20  # dripping to the end would take 100 s
        assert len(server.requests) == 1

    def test_of_nobody_is_a_failure_that_costs_nothing(self, protocol, server):
        server.close()
        failed = failure(provider_of(protocol, server))

        assert (failed.fault, failed.usage) == ("model_unavailable", NOTHING)


class TestAStatus:
    @pytest.mark.parametrize(
        ("status", "fault"),
        [
            (302, "model_rejected"),
            (307, "model_rejected"),
            (401, "model_unauthorised"),
            (403, "model_unauthorised"),
            (404, "model_rejected"),
            (413, "model_rejected"),
        ],
    )
    def test_that_time_does_not_mend_is_a_failure_at_once(self, server, provider, status, fault):
        headers = {"Location": f"{server.url}/elsewhere"} if status < 400 else {}
        server.answer = lambda _: Reply({"error": KEY}, status=status, headers=headers)
        failed = failure(provider)

        assert (failed.fault, failed.usage) == (fault, NOTHING)
        assert f"status {status}" in failed.detail
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
    def test_that_may_pass_is_waited_for_and_asked_again_under_the_same_key(
        self, protocol, server, provider, status
    ):
        server.answer = in_turn(
            Reply(b"no", status=status), Reply(b"no", status=status), Reply(protocol.said("{}"))
        )

        assert provider.complete(ASKED).text == "{}"
        assert [r.headers["idempotency-key"] for r in server.requests] == ["k-1"] * 3

    @pytest.mark.parametrize(("status", "fault"), [(429, "model_rate_limited"), (529, "model_unavailable")])
    def test_that_does_not_pass_is_a_failure_after_some_tries(self, server, provider, status, fault):
        server.answer = lambda _: Reply(b"no", status=status)
        failed = failure(provider)

        assert (failed.fault, failed.usage, len(server.requests)) == (fault, NOTHING, wire.TRIES)

    @pytest.mark.parametrize("said", ["0.05", lambda: formatdate(time.time() + 1, usegmt=True)])
    def test_is_asked_again_when_retry_after_says(self, protocol, server, provider, said):
        after = said() if callable(said) else said
        server.answer = in_turn(
            Reply(b"", status=429, headers={"Retry-After": after}), Reply(protocol.said("{}"))
        )
        began = time.monotonic()

        assert provider.complete(ASKED).text == "{}"
        assert callable(said) or time.monotonic() - began >= 0.05

    def test_is_not_waited_for_longer_than_there_is_time(self, server, provider):
        server.answer = lambda _: Reply(b"", status=429, headers={"Retry-After": "3600"})
        began = time.monotonic()

        assert failure(provider).fault == "model_rate_limited"
        assert len(server.requests) == 1
        assert time.monotonic() - began < 15

    @pytest.mark.parametrize("said", ["soon", "-1", "nan", "inf", "", "1e999"])
    def test_with_a_retry_after_that_cannot_be_meant_is_asked_again_as_without(
        self, protocol, server, provider, said
    ):
        server.answer = in_turn(
            Reply(b"", status=503, headers={"Retry-After": said}), Reply(protocol.said("{}"))
        )

        assert provider.complete(ASKED).text == "{}"


class TestChatCompletions:
    def test_are_asked_for_by_a_tool_where_there_are_no_schemas(self, server):
        def answer(request):
            if "response_format" in request.body:
                return Reply(b"", status=400)
            call = {"function": {"name": "answer", "arguments": '{"a": "b"}'}}
            return Reply(Chat.said(None, tool_calls=[call], finish="tool_calls"))

        server.answer = answer
        provider = provider_of(Chat, server)

        assert provider.complete(HELD).text == '{"a": "b"}'
        assert server.requests[-1].body["tools"][0]["function"]["parameters"] == SCHEMA

    def test_say_their_length_and_no_temperature_to_a_server_that_wants_it_so(self, server):
        def answer(request):
            for wrong, instead in (
                ("max_tokens", "use max_completion_tokens"),
                ("temperature", "no temperature"),
            ):
                if wrong in request.body:
                    return Reply({"error": {"message": instead, "param": wrong}}, status=400)
            return Reply(Chat.said("{}"))

        server.answer = answer
        provider = provider_of(Chat, server)
        provider.complete(HELD)
        provider.complete(HELD)

        assert [len(server.requests), server.requests[-1].body["max_completion_tokens"]] == [4, 500]
        assert server.requests[-1].body["response_format"]["type"] == "json_schema"

    @pytest.mark.parametrize(("schema", "strict"), [(SCHEMA, True), (OPEN, False)])
    def test_are_held_strictly_to_a_schema_that_leaves_nothing_open(self, server, schema, strict):
        server.answer = lambda _: Reply(Chat.said("{}"))
        provider_of(Chat, server).complete(replace(ASKED, schema=schema))

        assert server.requests[0].body["response_format"]["json_schema"]["strict"] is strict

    def test_find_their_way_at_azure(self, server):
        server.answer = lambda _: Reply(Chat.said("{}"))
        url = f"{server.url}/deployments/m?api-version=2024-10-21"
        provider_of(Chat, server, base_url=url, auth="api-key").complete(ASKED)

        (request,) = server.requests
        assert request.path == "/v1/deployments/m/chat/completions?api-version=2024-10-21"
        assert request.headers["api-key"] == KEY
        assert "authorization" not in request.headers


class TestMessages:
    def test_keep_the_system_apart_and_mark_it_for_the_cache(self, server):
        server.answer = lambda _: Reply(Messages.said("{}"))
        provider_of(Messages, server).complete(replace(ASKED, temperature=1.5))

        (request,) = server.requests
        (system,) = request.body["system"]
        assert (system["text"], system["cache_control"]) == (SYSTEM, {"type": "ephemeral"})
        assert request.body["messages"] == [{"role": "user", "content": QUESTION}]
        assert request.body["temperature"] == 1.0  # the most that the protocol knows
        assert request.headers["anthropic-version"] == "2023-06-01"

    def test_count_what_a_cache_gave_and_kept(self, server):
        usage = {
            "input_tokens": 5,
            "output_tokens": 7,
            "cache_read_input_tokens": 30,
            "cache_creation_input_tokens": 20,
        }
        server.answer = lambda _: Reply({**Messages.said("{}"), "usage": usage})

        assert provider_of(Messages, server).complete(ASKED).usage == Usage(55, 7, cached=30, written=20)

    def test_need_something_that_a_user_says(self, server):
        asked = replace(ASKED, messages=ASKED.messages[:1])

        assert failure(provider_of(Messages, server), asked).fault == "model_rejected"
        assert server.requests == []

    def test_take_turns(self, server):
        server.answer = lambda _: Reply(Messages.said("{}"))
        turns = [
            {"role": role, "content": str(n)} for n, role in enumerate(["user", "user", "assistant", "user"])
        ]
        provider_of(Messages, server).complete(replace(ASKED, messages=turns))

        assert [t["role"] for t in server.requests[0].body["messages"]] == ["user", "assistant", "user"]


class TestARecording:
    def recorded(self, tmp_path, *texts, messages=ASKED.messages):
        evidence = [
            json.dumps({"text": text, "model": "m-2", "input_tokens": 11, "output_tokens": 7})
            for text in texts
        ]
        calls = [
            {
                "tool": "model_complete",
                "state": "done",
                "evidence": digest(text),
                "arguments": {"messages": [dict(m) for m in messages]},
            }
            for text in evidence
        ]
        path = tmp_path / "recording.json"
        path.write_text(
            json.dumps(
                {"calls": calls, "evidence": [{"sha256": digest(text), "text": text} for text in evidence]}
            )
        )
        return Replay(Model("recorded", "replay", file=str(path)))

    def test_gives_the_recorded_answers_in_their_order(self, tmp_path):
        provider = self.recorded(tmp_path, "first", "second")

        assert [provider.complete(ASKED).text for _ in range(3)] == ["first", "second", "second"]
        assert provider.complete(ASKED).usage == Usage(11, 7)

    def test_gives_no_answer_to_what_was_not_recorded(self, tmp_path):
        provider = self.recorded(tmp_path, "first")
        failed = failure(provider, replace(ASKED, messages=({"role": "user", "content": "Another?"},)))

        assert (failed.fault, failed.usage) == ("model_unrecorded", NOTHING)

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"calls": [{}], "evidence": []}'])
    def test_that_cannot_be_read_is_a_failure(self, tmp_path, content):
        path = tmp_path / "recording.json"
        path.write_text(content)

        assert failure(Replay(Model("recorded", "replay", file=str(path)))).fault == "model_unrecorded"


class TestNoModel:
    def test_says_so(self):
        assert failure(Extractive()).fault == "model_absent"
