"""Conversations with the model, over HTTP: decided and recorded before a word is sent, or not sent."""

from __future__ import annotations

import json

import psycopg
import pytest
from anyio.from_thread import start_blocking_portal

from orchestrator import house
from orchestrator.api import identity
from orchestrator.domain.judgement import Judgement
from orchestrator.store import PgStore
from orchestrator.vault.chain import Sealer
from tests.contract.test_api import Site, refusal
from tests.contract.test_model import KEY_VARIABLE, endpoint, said  # noqa: F401 - a fixture
from workers.gate.policy import EmbeddedEnforcer
from workers.gate.stops import Stops
from workers.gate.talk import Talk
from workers.toolhost import model, registry
from workers.toolhost.host import ToolHost
from workers.toolhost.models.catalogue import Catalogue, Model

pytestmark = pytest.mark.postgres

QUESTION = "Where do the otters of the harbour sleep?"
ANSWER = "Under the pier, I am told."
ASKED = {"messages": [{"role": "user", "content": QUESTION}]}
TOOLS = registry.load(house.path("configs/tool_registry.yaml"))


class Chat:
    """An API whose callers may talk, a model that writes down what it is asked, and the database under both."""

    def __init__(
        self,
        dsn,
        portal,
        folder,
        server,
        *,
        name="m-1",
        roles=("operator",),
        judge=None,
        models=None,
        front=None,
    ):
        models = models or model.Endpoint(server.url, "m-1", KEY_VARIABLE).catalogue()
        self.store = PgStore(dsn, size=4)
        self.host = ToolHost(TOOLS, {"model": lambda: model.build(models)})
        self.stops = folder / "stops.txt"
        talk = Talk(
            self.store,
            Sealer(b"a key for tests"),
            judge or EmbeddedEnforcer(house.path("policies")),
            self.host,
            TOOLS.tools["model_complete"],
            models=models if name else None,
            stops=Stops(self.stops, may_be_missing=True),
        )
        who = identity.Principal("ada", "acme", frozenset(roles), kind="development")
        front = front or identity.Reception(anybody=who)
        self.site = Site(dsn, portal, folder, reception=front, talker=talk)
        self.endpoint = server
        self.dsn = dsn

    def say(self, **rest):
        return self.site.post("/chat", json={**ASKED, **rest})

    def records(self):
        with self.store.transaction() as tx:
            chain = tx.lock_ledger("acme").chain
            return [(r.kind, json.loads(r.body)) for r in tx.audit(chain)]

    def close(self):
        self.site.close()
        self.host.close()
        self.store.close()


@pytest.fixture
def open_chat(dsn, tmp_path, endpoint):  # noqa: F811
    endpoint.answer = lambda _: (200, said(ANSWER))
    made = []
    with start_blocking_portal() as portal:

        def make(**rest):
            made.append(Chat(dsn, portal, tmp_path, endpoint, **rest))
            return made[-1]

        yield make
        for chat in made:
            chat.close()


@pytest.fixture
def chat(open_chat):
    return open_chat()


def test_is_answered_and_leaves_who_what_decided_and_what_came_of_it(chat):
    answer = chat.say(model="m-1")

    assert answer.status_code == 200
    assert answer.json() == {
        "message": {"role": "assistant", "content": ANSWER},
        "model": "m-1",
        "usage": {"input_tokens": 11, "output_tokens": 7},
    }
    ((path, body),) = chat.endpoint.requests
    assert path == "/v1/chat/completions"
    assert body["messages"] == ASKED["messages"]
    assert "response_format" not in body  # an answer for people
    (asked, intent), (came, outcome) = chat.records()
    assert (asked, came) == ("tool_called", "tool_result")
    assert (intent["actor"], intent["tenant"], intent["resource"]) == ("ada", "acme", "tool:model_complete")
    assert intent["details"]["decision"]["effect"] == "allow"
    assert intent["details"]["chat"] == outcome["details"]["chat"]
    assert (outcome["details"]["input_tokens"], outcome["details"]["output_tokens"]) == (11, 7)


def test_leaves_nothing_of_what_was_said(chat):
    chat.say()
    with psycopg.connect(chat.dsn) as hand:
        tables = hand.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        for (table,) in tables.fetchall():
            text = "".join(str(row) for row in hand.execute(f'SELECT t::text FROM "{table}" AS t'))
            assert "otters" not in text
            assert "pier" not in text


def test_may_be_read_in_the_audit_by_who_may(chat):
    chat.say()
    entries = chat.site.get("/audit/logs").json()["entries"]
    assert [entry["event_type"] for entry in entries] == ["tool_result", "tool_called"]


def test_of_one_whom_the_policy_does_not_let_is_refused_and_not_sent(open_chat):
    chat = open_chat(roles=("auditor",))
    assert refusal(chat.say()) == (403, "forbidden")
    assert chat.endpoint.requests == []
    assert chat.records() == []


def test_is_not_sent_while_the_policy_cannot_answer(open_chat):
    class Lost:
        def decide(self, package, document):
            return Judgement("deny", (), "none", "1", failed=True)

    chat = open_chat(judge=Lost())
    assert refusal(chat.say()) == (503, "unavailable")
    assert chat.endpoint.requests == []


@pytest.mark.parametrize("target", ["all", "tenant:acme", "tool:model_complete"])
def test_is_not_sent_while_it_is_stopped(chat, target):
    chat.stops.write_text(f"{target} for a while\n")
    assert refusal(chat.say()) == (503, "unavailable")
    assert chat.endpoint.requests == []
    chat.stops.unlink()
    assert chat.say().status_code == 200


def test_is_not_sent_when_its_record_cannot_be_written(chat):
    with psycopg.connect(chat.dsn, autocommit=True) as hand:
        hand.execute(
            "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
        )
        hand.execute("CREATE TRIGGER swallow BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION swallow()")
        assert chat.say().status_code == 503
        assert chat.endpoint.requests == []
        hand.execute("DROP TRIGGER swallow ON audit")
    assert chat.say().status_code == 200


def test_that_the_model_does_not_answer_is_told_and_recorded(chat):
    chat.endpoint.answer = lambda _: (500, b"no")
    assert refusal(chat.say()) == (503, "unavailable")
    (_, _), (kind, ended) = chat.records()
    assert (kind, ended["details"]["state"]) == ("tool_error", "failed")


def test_without_a_model_is_told_so(open_chat):
    assert refusal(open_chat(name="").say()) == (409, "conflict")


def test_goes_to_the_next_model_when_the_first_is_down_and_both_are_on_the_record(open_chat, endpoint):  # noqa: F811
    here = Model("second", "openai", endpoint.url, "m-2", KEY_VARIABLE)
    down = Model("first", "openai", endpoint.url, "m-1", KEY_VARIABLE)
    chat = open_chat(models=Catalogue({"first": down, "second": here}))
    endpoint.answer = lambda body: (404, b"") if body["model"] == "m-1" else (200, said(ANSWER))

    assert chat.say().status_code == 200
    told = [(kind, entry["details"]["model"]) for kind, entry in chat.records()]
    assert told == [
        ("tool_called", "first"),
        ("tool_error", "first"),
        ("tool_called", "second"),
        ("tool_result", "second"),
    ]
    assert refusal(chat.say(model="m-1")) == (503, "unavailable")  # who is named is asked alone
    assert chat.say(model="second").status_code == 200


def test_with_another_model_is_refused(chat):
    answer = chat.say(model="m-2")
    assert answer.status_code == 422
    assert "m-1" in answer.json()["detail"]
    assert chat.endpoint.requests == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": "Hello"},
        {"messages": [{"role": "user", "content": "x", "name": "y"}]},
        {"model": 5},
    ],
)
def test_of_another_form_is_refused(chat, wrong):
    assert chat.say(**wrong).status_code == 422
    assert chat.endpoint.requests == []


class Counting:
    """The policy of the house, which remembers each decision that it gave."""

    def __init__(self):
        self._inner = EmbeddedEnforcer(house.path("policies"))
        self.given = []

    def decide(self, package, document):
        self.given.append(self._inner.decide(package, document))
        return self.given[-1]


@pytest.mark.parametrize("headers", [{}, {"X-Agent-Profile": "envoy"}])
def test_the_policy_is_asked_once_and_its_decision_is_the_one_on_record(open_chat, headers):
    judge = Counting()
    front = identity.Reception(
        judge=judge,
        anybody=identity.Principal("ada", "acme", frozenset({"operator"}), kind="key"),
        agents={"envoy": ["chat.interact"]},
    )
    chat = open_chat(judge=judge, front=front)

    assert chat.site.post("/chat", json=ASKED, headers=headers).status_code == 200

    (_, intent), _ = chat.records()
    assert intent["details"]["decision"]["decision_id"] == judge.given[-1].decision_id
    assert len(judge.given) == 1 + len(headers)  # as the caller, and besides as the agent that they name
