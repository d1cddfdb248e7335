"""Conversations over HTTP, from a message to its cited answer: the real application, store, gate, minds and documents."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from anyio.from_thread import start_blocking_portal

from agents import profiles, turns
from agents.minds import MINDS
from orchestrator import house
from orchestrator.api import identity
from orchestrator.dialogue import AT_THE_BOTTOM, FORM_STAYS, Dialogue, Message, forget_silent
from orchestrator.domain import conversation as talk
from orchestrator.domain import errors, fork, report
from orchestrator.domain.conversation import Route, Understood
from orchestrator.domain.lifecycle import PLAN_ENDS
from orchestrator.domain.plan import Agent, request
from orchestrator.locks import InMemoryLocks
from tests.contract.test_api import NOBODY, Site, refusal
from tests.contract.test_model import KEY_VARIABLE, endpoint, said  # noqa: F401 - a fixture
from tests.contract.workbench import MODELS
from workers.executor import Executor
from workers.gate.gate import Gate
from workers.gate.hearing import Hearing
from workers.gate.policy import EmbeddedEnforcer
from workers.gate.talk import Talk as Talker
from workers.toolhost import memory, model, registry
from workers.toolhost.documents import server as documents
from workers.toolhost.host import ToolHost

pytestmark = pytest.mark.postgres

QUESTION = "What is a lighthouse?"
DEFINED = "A lighthouse is a tower that shows a light to guide ships at night."
TRIMMED = "The keeper of a lighthouse trims the wick and winds the clockwork of the lens."
DOCUMENTS = {
    "lighthouse.md": f"# Lighthouse\n\n{DEFINED} A lighthouse stands on a rock, a cape or the end of a pier.\n\n## Keeper\n\n{TRIMMED}\n",
    "harbour.md": "# Harbour\n\nA harbour is a place where ships lie safe from wind and waves.\n",
    "people.md": "# Population\n\nThe population of Ruritania is 4100.\n\nThe population of Graustark is 2600.\n",
    "capitals.md": "# Capitals\n\nThe capital of Ruritania is Strelsau.\n",
}
TOOLS = registry.load(house.path("configs/tool_registry.yaml"))
ENFORCER = EmbeddedEnforcer(house.path("policies"))
DECEIVED = DEFINED.replace("tower", "skiff")


class CountedHost(ToolHost):
    """A tool host that writes down each execution that it is asked for."""

    made: list

    def call(self, tool, arguments, **rest):
        self.made.append((tool.name, json.dumps(arguments, sort_keys=True)))
        return super().call(tool, arguments, **rest)


class Talk(Site):
    """An API for several people of two tenants, and one hand that works on plans when it is told to."""

    def __init__(self, dsn, portal, folder, **options):
        docs = folder / "docs"
        docs.mkdir()
        for name, text in DOCUMENTS.items():
            (docs / name).write_text(text, encoding="utf-8")
        self.who = identity.Principal("ada", "acme", frozenset({"operator"}), kind="development")
        super().__init__(dsn, portal, docs, **{"reception": self.reception(self.who), **options})
        self.host = CountedHost(
            TOOLS,
            {
                "documents": lambda: documents.build([docs], folder / "indexes"),
                "memory": lambda: memory.build(self.store, frozenset),
            },
        )
        self.host.made = []
        gate = Gate(
            self.conductor,
            ENFORCER,
            profiles.load(house.path("agents")),
            TOOLS,
            self.host,
            MODELS,
            InMemoryLocks(),
        )
        self.executor = Executor(self.conductor, gate, MINDS, holder=self._alive.holder)
        self.dialogue = Dialogue(self.store, self.conductor, self.sealer, turns.Rules())

    @staticmethod
    def reception(who):
        return identity.Reception(anybody=who)

    def close(self):
        self.executor.close()
        self.host.close()
        super().close()

    def speaking(self, name, tenant):
        """From here on another person speaks."""
        self.who = identity.Principal(name, tenant, frozenset({"operator"}), kind="development")
        self.app.state.reception._anybody = self.who

    def work(self, plan_id):
        """Carry a plan to its end; the calls that this took."""
        before = len(self.host.made)
        while not self.ended(plan_id):
            for step in self.steps(plan_id):
                if step.state == "ready":
                    self.executor.run(step.ref)
                    self.conductor.settle(step.ref)
        return self.host.made[before:]

    @contextmanager
    def working_on_the_next(self):
        """Let the plan that is submitted meanwhile be worked on beside."""
        known, stopped = {plan.plan_id for plan in self.plans()}, threading.Event()

        def work():
            while not stopped.wait(0.02):
                for plan in self.plans():
                    if plan.plan_id not in known:
                        self.work(plan.plan_id)
                        return

        worker = threading.Thread(target=work)
        worker.start()
        try:
            yield
        finally:
            stopped.set()
            worker.join()

    def steps(self, plan_id):
        with self.store.transaction() as tx:
            return tx.steps(plan_id)

    def plan(self, plan_id):
        with self.store.transaction() as tx:
            return tx.plan(plan_id)

    def plans(self):
        with self.store.transaction() as tx:
            return tx.plans(limit=1000)

    def say(self, content, conversation_id=None, **rest):
        body = {
            "content": content,
            "wait": 0,
            **({"conversation_id": conversation_id} if conversation_id else {}),
        }
        headers = rest.pop("headers", None)
        return self.post("/chat/message", json={**body, **rest}, headers=headers)

    def answered(self, content, conversation_id=None, **rest):
        """Say something and have it answered; the turn, and the calls that this took."""
        said = self.say(content, conversation_id, **rest)
        assert said.status_code in {200, 202}, said.text
        turn, calls = said.json(), []
        if said.status_code == 202:
            calls = self.work(turn["plan_id"])
            turn = self.get(said.headers["location"]).json()
        assert turn["state"] == "answered"
        assert turn["content"]
        self.prove(turn)
        return SimpleNamespace(**turn, calls=calls)

    def prove(self, turn):
        """Every citation of a turn stands in this tenant's evidence, and every mark has a citation."""
        with self.store.of(self.who.tenant).transaction() as tx:
            for citation in turn["citations"]:
                found = tx.evidence(self.who.tenant, citation["evidence"])
                assert found.text[citation["start"] : citation["end"]] == citation["quote"]
                assert report.plain(citation["quote"]) in turn["content"]
                assert f"[{citation['number']}]" in turn["content"]
                assert tx.plan(citation["plan_id"]) is not None
        assert turn["facts_used"] == len(turn["citations"])

    def ledger(self):
        with self.store.transaction() as tx:
            return [(r.kind, json.loads(r.body)) for r in tx.audit(tx.lock_ledger(self.who.tenant).chain)]


@contextmanager
def talk_on(server, portal, folder, **options):
    made = Talk(server.create(), portal, folder, **options)
    try:
        yield made
    finally:
        made.close()
        server.drop(made.dsn)


@pytest.fixture(scope="module")
def portal():
    with start_blocking_portal() as made:
        yield made


@pytest.fixture(scope="module")
def shared(postgres_server, portal, tmp_path_factory):
    with talk_on(postgres_server, portal, tmp_path_factory.mktemp("talk")) as made:
        yield made


@pytest.fixture
def site(shared):
    shared.speaking("ada", "acme")
    return shared


@pytest.fixture
def begun(site):
    """A conversation in which one question was answered."""
    return site.answered(QUESTION)


class TestAMessage:
    def test_b18_is_answered_with_cited_sentences_and_never_with_nothing(self, begun):
        assert (begun.route, begun.verdict) == ("new_topic", "answered")
        assert DEFINED in begun.content
        assert begun.citations[0]["locator"] == "lighthouse.md"
        assert 0 < begun.confidence <= 1

    def test_x1_that_finds_nothing_says_so(self, site):
        turn = site.answered("What is the melting point of unobtainium?")
        assert turn.verdict == "not_found"
        assert turn.content.startswith("Not found in the sources.")

    def test_says_where_its_answer_will_be_and_how_it_goes_meanwhile(self, site):
        said = site.say(QUESTION, headers={"Prefer": "respond-async"})
        turn = said.json()
        assert (said.status_code, turn["state"], turn["content"]) == (202, "working", "")
        assert said.headers["location"] == f"/conversations/{turn['conversation_id']}/turns/{turn['turn']}"
        assert site.get(said.headers["location"]).json() == turn
        assert site.get(f"/plans/{turn['plan_id']}/events").json()["events"][0]["kind"] == "plan.submitted"
        site.work(turn["plan_id"])

    def test_waits_for_its_answer(self, site):
        with site.working_on_the_next():
            said = site.say(QUESTION, wait=60)
        assert (said.status_code, said.json()["state"]) == (200, "answered")

    def test_whose_process_died_is_answered_by_whoever_asks_next(self, site):
        turn = site.say(QUESTION).json()
        site.work(turn["plan_id"])  # and nobody waited
        other = Dialogue(site.store, site.conductor, site.sealer, turns.Rules())
        found = other.look(site.who, turn["conversation_id"], turn["turn"])
        assert DEFINED in found.content
        again = site.answered("Who trims the wick?", turn["conversation_id"])
        assert again.turn == 4

    def test_whose_plan_fails_says_so_and_can_be_followed(self, site):
        turn = site.say(QUESTION).json()
        site.conductor.cancel(turn["plan_id"], by="somebody", reason="No more.")
        found = site.get(f"/conversations/{turn['conversation_id']}/turns/2").json()
        assert (found["verdict"], found["citations"]) == ("failed", [])
        assert found["content"] == "This could not be answered: its research is cancelled. No more."
        assert site.answered("How is it lit?", turn["conversation_id"]).route == "follow_up"

    def test_is_taken_once_for_a_key(self, site):
        key = {"Idempotency-Key": "once"}
        first, second = (site.say(QUESTION, headers=key).json() for _ in range(2))
        assert first == second
        assert refusal(site.say("Something else?", headers=key)) == (422, "idempotency_key_reused")
        other = site.say(QUESTION, first["conversation_id"], headers=key)
        assert refusal(other) == (422, "idempotency_key_reused")
        site.work(first["plan_id"])

    def test_that_is_sent_twice_at_once_with_a_key_is_taken_once(self, site):
        """Both have seen that nobody used the key before either writes."""
        both = threading.Barrier(2)

        class Slow(turns.Rules):
            def understand(self, who, message, before):
                both.wait(60)
                return super().understand(who, message, before)

        dialogue = Dialogue(site.store, site.conductor, site.sealer, Slow())
        usual = {"documents": site.settings.documents_roots}
        said = Message(site.who, QUESTION, usual=usual, key="twice at once")
        conversations = len(site.get("/conversations", params={"limit": 200}).json()["conversations"])
        plans = len(site.plans())
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(dialogue.say, [said, said])
        assert one == other
        assert len(site.plans()) == plans + 1
        left = site.get("/conversations", params={"limit": 200}).json()["conversations"]
        assert len(left) == conversations + 1
        site.work(one.plan_id)

    def test_of_many_at_once_is_answered_in_its_own_place_or_refused(self, site, begun):
        def say(number):
            answer = site.say(f"thanks {'a lot ' * number}", begun.conversation_id)
            return answer.status_code, answer.json()

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(say, range(6)))
        assert {status for status, _ in answers} <= {200, 409}
        taken = sorted(body["turn"] for status, body in answers if status == 200)
        assert taken
        history = site.get(f"/conversations/{begun.conversation_id}").json()["history"]
        assert [t["turn"] for t in history] == list(range(1, 3 + 2 * len(taken)))
        assert [t["turn"] for t in history if t["route"] == "casual"] == taken

    def test_that_comes_while_another_is_answered_is_refused_and_leaves_nothing(self, site):
        turn = site.say(QUESTION).json()
        plans = len(site.plans())
        said = site.say("How tall is it?", turn["conversation_id"])
        assert refusal(said) == (409, "conflict")
        assert "Turn 2 of this conversation is still being answered" in said.json()["detail"]
        assert len(site.plans()) == plans
        assert site.get(f"/conversations/{turn['conversation_id']}").json()["turns"] == 2
        site.work(turn["plan_id"])

    def test_that_comes_at_the_same_time_as_another_is_never_mixed_with_it(self, site, begun):
        """The second is heard between what the first saw and what it writes."""

        class Meanwhile(turns.Rules):
            def understand(self, who, message, before):
                site.say("thanks", begun.conversation_id)
                return super().understand(who, message, before)

        dialogue = Dialogue(site.store, site.conductor, site.sealer, Meanwhile())
        plans = len(site.plans())
        with pytest.raises(errors.Conflict, match="at the same time"):
            dialogue.say(Message(site.who, "How tall is it?", begun.conversation_id))
        assert len(site.plans()) == plans
        contents = [
            t["content"] for t in site.get(f"/conversations/{begun.conversation_id}").json()["history"]
        ]
        assert contents[2:] == ["thanks", talk.GREETING]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"content": ""},
            {"content": "  "},
            {"content": 5},
            {"content": QUESTION, "conversation_id": "latest"},
            {"content": QUESTION, "depth": 6},
            {"content": QUESTION, "wait": -1},
            {"content": QUESTION, "user_id": "eve"},
            {"content": QUESTION, "sources": {"documents": "/etc"}},
        ],
    )
    def test_of_another_form_is_refused(self, site, wrong):
        assert site.post("/chat/message", json=wrong).status_code == 422

    def test_in_a_conversation_that_is_not_there_is_not_found(self, site):
        assert refusal(site.say(QUESTION, NOBODY)) == (404, "not_found")


class TestSmallTalk:
    def test_is_answered_at_once_without_a_plan_and_claims_nothing(self, site):
        plans = len(site.plans())
        turn = site.answered("Hello!")
        assert (turn.route, turn.plan_id, turn.content, turn.citations) == ("casual", None, talk.GREETING, [])
        assert len(site.plans()) == plans

    def test_does_not_change_what_is_spoken_about(self, site, begun):
        site.answered("thanks", begun.conversation_id)
        assert site.answered("What does its keeper trim?", begun.conversation_id).route == "follow_up"


class TestAFollowUp:
    def test_b21_is_answered_from_what_was_found_without_looking_anything_up(self, site, begun):
        plans = len(site.plans())
        turn = site.answered("What does it guide at night?", begun.conversation_id)
        assert (turn.route, turn.plan_id, turn.calls) == ("follow_up", None, [])
        assert DEFINED in turn.content
        assert turn.goal == "What does a lighthouse guide at night?"
        assert {c["plan_id"] for c in turn.citations} == {begun.plan_id}
        assert talk.RECALLED in turn.notes
        assert len(site.plans()) == plans

    def test_that_what_was_found_does_not_answer_is_researched_with_what_it_is_about(self, site):
        begun = site.answered("What is the population of Ruritania?")
        turn = site.answered("And what is its capital?", begun.conversation_id)
        assert (turn.route, turn.goal) == ("follow_up", "And what is Ruritania's capital?")
        assert "The capital of Ruritania is Strelsau." in turn.content
        assert turn.plan_id is not None
        plan = site.plan(turn.plan_id)
        assert plan.metadata["related"] == [begun.plan_id]
        assert plan.metadata["conversation"] == begun.conversation_id

    @pytest.mark.parametrize("message", ["When was it built?", "How tall is it?", "Why?", "Who built it?"])
    def test_is_never_answered_by_what_is_only_about_the_same_thing(self, site, begun, message):
        assert site.say(message, begun.conversation_id).status_code == 202

    def test_is_answered_from_every_plan_of_the_conversation(self, site, begun):
        site.answered("What is a harbour?", begun.conversation_id)
        turn = site.answered("Where do ships lie safe from wind?", begun.conversation_id)
        assert (turn.route, turn.plan_id) == ("follow_up", None)
        site.answered("thanks", begun.conversation_id)
        turn = site.answered("What lies safe from waves there?", begun.conversation_id)
        assert turn.verdict == "answered"

    def test_elsewhere_is_looked_up_there_and_not_remembered(self, site, begun):
        (folder := Path(site.settings.documents_roots) / "annex").mkdir(exist_ok=True)
        said = site.say(
            "What does it guide at night?", begun.conversation_id, sources={"documents": str(folder)}
        )
        assert (said.status_code, said.json()["route"]) == (202, "follow_up")
        assert site.plan(said.json()["plan_id"]).sources["documents"] == str(folder)
        site.conductor.cancel(said.json()["plan_id"], by="test")

    def test_does_not_quote_what_was_altered_since(self, postgres_server, portal, tmp_path):
        with talk_on(postgres_server, portal, tmp_path) as fresh:
            begun = fresh.answered(QUESTION)
            with psycopg.connect(fresh.dsn, autocommit=True) as hand:
                hand.execute("UPDATE evidence SET text = replace(text, %s, %s)", (DEFINED, DECEIVED))
                hand.execute("UPDATE fact SET quote = %s WHERE quote = %s", (DECEIVED, DEFINED))
            said = fresh.say("What does it guide at night?", begun.conversation_id)
            assert said.status_code == 202
            assert DECEIVED not in said.text


class TestARevision:
    def test_b21_forks_the_plan_at_its_planner_with_the_change_in_the_question(self, site):
        begun = site.answered("What is the population of Ruritania?")
        assert "4100" in begun.content
        turn = site.answered("What about Graustark?", begun.conversation_id)
        assert (turn.route, turn.goal) == ("revise", "What is the population of Graustark?")
        assert "2600" in turn.content
        assert "4100" not in turn.content
        steps = site.steps(turn.plan_id)
        assert [s.agent for s in steps[:2]] == [Agent.ROUTER, Agent.PLANNER]
        first = site.get(f"/plans/{turn.plan_id}/events").json()["events"][0]
        assert (first["kind"], first["body"]["fork_of"], first["body"]["from_step"]) == (
            "plan.forked",
            begun.plan_id,
            2,
        )

    def test_of_the_form_only_forks_at_the_generator_and_makes_no_call(self, site, begun):
        turn = site.answered("Make it shorter.", begun.conversation_id)
        assert (turn.route, turn.goal, turn.calls) == ("revise", QUESTION, [])
        assert DEFINED in turn.content
        assert FORM_STAYS in turn.notes
        copied = [s for s in site.steps(turn.plan_id) if s.claim and s.agent is Agent.RESEARCHER]
        assert copied

    def test_elsewhere_is_a_new_plan(self, site, begun):
        folder = f"{site.settings.documents_roots}/."
        turn = site.say("Only in the harbour.", begun.conversation_id, sources={"documents": folder}).json()
        assert turn["route"] == "revise"
        assert site.plan(turn["plan_id"]).sources["documents"] == site.settings.documents_roots


class TestGoingDeeper:
    def test_b21_raises_the_depth_by_one_up_to_five_and_says_so_there(self, site):
        begun = site.answered(QUESTION, depth=3)
        for depth in (4, 5):
            turn = site.answered("Go deeper.", begun.conversation_id)
            assert (turn.route, turn.goal, site.plan(turn.plan_id).depth) == ("deeper", QUESTION, depth)
        plans = len(site.plans())
        turn = site.answered("Are you sure?", begun.conversation_id)
        assert (turn.route, turn.plan_id, turn.notes) == ("deeper", None, [AT_THE_BOTTOM])
        assert turn.content.startswith(AT_THE_BOTTOM)
        assert DEFINED in turn.content
        assert turn.citations
        assert len(site.plans()) == plans


class TestANewTopic:
    def test_is_a_plan_of_its_own(self, site, begun):
        turn = site.answered("Research the population of Ruritania", begun.conversation_id)
        assert (turn.route, turn.goal) == ("new_topic", "Research the population of Ruritania")
        assert "related" not in site.plan(turn.plan_id).metadata
        kinds = site.get(f"/plans/{turn.plan_id}/events").json()["events"]
        assert kinds[0]["kind"] == "plan.submitted"

    def test_is_what_a_listener_wants_who_knows_of_nothing_before(self, site):
        class Confused(turns.Rules):
            def understand(self, who, message, before):
                return Understood(Route.REVISE, "Something else?")

        turn = Dialogue(site.store, site.conductor, site.sealer, Confused()).say(
            Message(site.who, QUESTION, usual={"documents": site.settings.documents_roots})
        )
        assert (turn.route, turn.goal) == (Route.NEW_TOPIC, QUESTION)


class TestAConversation:
    def test_is_listed_shown_and_forgotten_by_its_owner(self, site, begun):
        path = f"/conversations/{begun.conversation_id}"
        listed = site.get("/conversations", params={"limit": 1}).json()
        assert [c["conversation_id"] for c in listed["conversations"]] == [begun.conversation_id]
        shown = site.get(path).json()
        assert (shown["turns"], shown["last_plan_id"], shown["next"]) == (2, begun.plan_id, None)
        assert [(t["role"], t["turn"]) for t in shown["history"]] == [("user", 1), ("assistant", 2)]
        assert shown["history"][0]["content"] == QUESTION
        page = site.get(path, params={"limit": 1}).json()
        assert (len(page["history"]), page["next"]) == (1, 1)
        assert [t["turn"] for t in site.get(path, params={"after": 1}).json()["history"]] == [2]

        assert site.ask("DELETE", path).status_code == 204

        assert refusal(site.get(path)) == (404, "not_found")
        assert refusal(site.get(f"{path}/turns/2")) == (404, "not_found")
        assert refusal(site.ask("DELETE", path)) == (404, "not_found")
        assert site.get(f"/plans/{begun.plan_id}").status_code == 200

    def test_has_pages_without_gap_or_repeat(self, site):
        made = [site.answered("Hello!").conversation_id for _ in range(5)]
        found, cursor = [], None
        while len(found) < 5:
            page = site.get(
                "/conversations", params={"limit": 2, **({"cursor": cursor} if cursor else {})}
            ).json()
            found += [c["conversation_id"] for c in page["conversations"]]
            cursor = page["next"]
        assert found[:5] == made[::-1]

    def test_that_has_no_such_turn_says_so(self, site, begun):
        for number in (3, 1000):
            path = f"/conversations/{begun.conversation_id}/turns/{number}"
            assert refusal(site.get(path)) == (404, "not_found")

    def test_that_is_full_takes_no_more(self, site, begun, monkeypatch):
        monkeypatch.setattr(talk, "MOST_TURNS", 2)
        assert refusal(site.say("thanks", begun.conversation_id)) == (409, "conflict")

    @pytest.mark.parametrize(("name", "tenant"), [("eve", "acme"), ("ada", "rival"), ("ADA", "acme")])
    def test_x24_is_found_by_nobody_else(self, site, begun, name, tenant):
        site.speaking(name, tenant)
        path = f"/conversations/{begun.conversation_id}"
        for answer in (
            site.get(path),
            site.get(f"{path}/turns/2"),
            site.ask("DELETE", path),
            site.say("How tall is it?", begun.conversation_id),
        ):
            assert refusal(answer) == (404, "not_found")
        assert begun.conversation_id not in site.get("/conversations").text

    @pytest.mark.parametrize("other", [("eve", "acme"), ("ada", "rival")])
    def test_x24_gives_nobody_else_its_answers_for_the_same_words(self, site, begun, other):
        """There is no cache of answers: the same question of another is a plan of theirs, with facts of their own."""
        asked = "What does it guide at night?"
        assert site.answered(asked, begun.conversation_id).plan_id is None
        site.speaking(*other)
        theirs = site.answered(QUESTION)
        assert theirs.plan_id not in {None, begun.plan_id}
        assert theirs.calls
        assert site.plan(theirs.plan_id).tenant == other[1]
        turn = site.answered(asked, theirs.conversation_id)
        assert {c["plan_id"] for c in turn.citations} == {theirs.plan_id}

    def test_x16_shares_nothing_with_one_that_is_held_at_the_same_time(self, site):
        one, two = (site.say(q).json() for q in (QUESTION, "What is the population of Ruritania?"))
        for plan_id in (one["plan_id"], two["plan_id"]):
            site.work(plan_id)
        for mine, theirs in ((one, "lighthouse.md"), (two, "people.md")):
            turn = site.get(f"/conversations/{mine['conversation_id']}/turns/2").json()
            assert {c["locator"] for c in turn["citations"]} == {theirs}
            assert {c["plan_id"] for c in turn["citations"]} == {mine["plan_id"]}


class TestRetention:
    def test_removes_what_was_kept_long_enough_and_says_so_in_the_audit_without_what_was_said(
        self, site, begun
    ):
        before = len(site.ledger())
        assert forget_silent(site.store, site.sealer, timedelta(days=1)) == 0
        assert site.get(f"/conversations/{begun.conversation_id}").status_code == 200

        assert forget_silent(site.store, site.sealer, timedelta(0)) > 0
        assert site.get(f"/conversations/{begun.conversation_id}").status_code == 404
        told = [body for kind, body in site.ledger()[before:] if kind == "data_deleted"]
        assert f"conversation:{begun.conversation_id}" in [body["resource"] for body in told]
        assert DEFINED not in json.dumps(told)
        assert {body["by"] for body in told} == {"sweeper"}


class TestTheAudit:
    def test_b43_has_a_record_of_each_turn_and_of_each_answer_and_nothing_of_what_was_said(self, site):
        before = len(site.ledger())
        begun = site.answered(QUESTION)
        site.answered("What does it guide at night?", begun.conversation_id)
        site.answered("thanks", begun.conversation_id)
        site.ask("DELETE", f"/conversations/{begun.conversation_id}")

        records = site.ledger()[before:]
        kinds = [kind for kind, _ in records]
        assert kinds == [*["query_classified", "query_completed"] * 3, "data_deleted"]
        assert {body["session_id"] for _, body in records} == {begun.conversation_id}
        assert {(body["actor"], body["tenant"]) for _, body in records} == {("ada", "acme")}
        routes = [body["details"]["route"] for kind, body in records if kind == "query_classified"]
        assert routes == ["new_topic", "follow_up", "casual"]
        assert records[0][1]["details"]["plan_id"] == begun.plan_id
        assert "lighthouse" not in json.dumps(records)

    def test_x2_takes_every_kind_of_record_so_that_none_is_lost(self, site):
        site.answered("thanks")
        entries = site.get("/audit/logs").json()["entries"]
        assert [e["event_type"] for e in entries[:2]] == ["query_completed", "query_classified"]

    def test_is_written_with_the_turn_or_neither_is(self, site, begun):
        with psycopg.connect(site.dsn, autocommit=True) as hand:
            hand.execute(
                "CREATE FUNCTION lost() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'lost'; END $$"
            )
            hand.execute("CREATE TRIGGER lost BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION lost()")
            try:
                assert site.say("thanks", begun.conversation_id).status_code == 500
            finally:
                hand.execute("DROP TRIGGER lost ON audit")
                hand.execute("DROP FUNCTION lost")
        assert site.get(f"/conversations/{begun.conversation_id}").json()["turns"] == 2


DOUBTFUL = "The bigger picture?"
"""A message that no rule decides."""

UNREADABLE = {
    "The bigger picture?": "follow_up",
    "Any good books?": '{"route": "casual"}',
    "Famous paintings?": '{"route": "revise", "goal": "Who is rich?"}',
    "Typical costs?": '{"route": ["deeper"]}',
    "Known dangers?": '[{"route": "deeper"}]',
    "Modern alternatives?": "{" * 2000,
    "Legal aspects?": "",
    "Best season?": 'Sure! {"route": "deeper"}',
}
"""Doubtful messages that have no word in common, and replies that say nothing."""


class TestADoubtfulMessage:
    """The model is asked what it wants, by the same way as a person's own question, and may choose the route only."""

    @pytest.fixture
    def hearing(self, site, endpoint):  # noqa: F811
        models = model.Endpoint(endpoint.url, "m-1", KEY_VARIABLE).catalogue()
        host = ToolHost(TOOLS, {"model": lambda: model.build(models)})
        tool = TOOLS.tools["model_complete"]
        talker = Talker(site.store, site.sealer, ENFORCER, host, tool, models=models)
        yield Dialogue(site.store, site.conductor, site.sealer, Hearing(talker))
        host.close()

    @staticmethod
    def asked(hearing, site, begun, message=DOUBTFUL):
        turn = hearing.say(Message(site.who, message, begun.conversation_id))
        if turn.plan_id is not None and turn.waits:
            site.conductor.cancel(turn.plan_id, by="test")
        return turn

    @pytest.mark.parametrize(
        ("route", "goal"),
        [
            ("follow_up", "The bigger picture (a lighthouse)?"),
            ("revise", "What is a lighthouse, the bigger picture?"),
            ("deeper", QUESTION),
            ("new_topic", DOUBTFUL),
        ],
    )
    def test_is_what_the_model_takes_it_for_and_the_question_is_made_by_rules(
        self,
        hearing,
        site,
        begun,
        endpoint,  # noqa: F811
        route,
        goal,
    ):
        endpoint.answer = lambda _: (200, said(f'{{"route": "{route}"}}'))
        before = len(site.ledger())
        turn = self.asked(hearing, site, begun)
        assert (turn.route, turn.goal) == (route, goal)
        assert [kind for kind, _ in site.ledger()[before:]][:3] == [
            "tool_called",
            "tool_result",
            "query_classified",
        ]
        ((_, body),) = endpoint.requests
        assert DEFINED not in json.dumps(body)

    def test_of_a_reply_that_cannot_be_read_costs_one_more_and_is_researched(
        self,
        hearing,
        site,
        begun,
        endpoint,  # noqa: F811
    ):
        for message, reply in UNREADABLE.items():
            endpoint.answer = lambda _, reply=reply: (200, said(reply))
            endpoint.requests.clear()
            assert self.asked(hearing, site, begun, message).route is Route.NEW_TOPIC, reply
            assert len(endpoint.requests) == 2, reply

    def test_is_researched_where_the_model_does_not_answer(self, hearing, site, begun, endpoint):  # noqa: F811
        endpoint.answer = lambda _: (500, b"no")
        assert self.asked(hearing, site, begun).route is Route.NEW_TOPIC

    def test_is_none_that_a_rule_decides(self, hearing, site, begun, endpoint):  # noqa: F811
        for message in ("How tall is it?", "Go deeper", "thanks", "No, only for 2024"):
            self.asked(hearing, site, begun, message)
        assert endpoint.requests == []


class TestTheStreamOfResearch:
    def test_b17_is_of_the_real_plan_whose_report_is_the_one_that_was_written(self, site):
        before = len(site.host.made)
        with site.working_on_the_next():
            answer = site.get("/research/stream", params={"query": QUESTION})
        messages = [m for m in answer.text.split("\n\n") if m.startswith("id: ")]
        named = [dict(line.split(": ", 1) for line in m.splitlines()) for m in messages]
        plan_id = named[0]["id"].split(":")[0]
        assert [m["id"] for m in named] == [f"{plan_id}:{n}" for n in range(1, len(named) + 1)]
        kinds = [m["event"] for m in named]
        assert (kinds[0], kinds[-1]) == ("plan.submitted", "plan.ended")
        ended = [json.loads(m["data"])["body"]["agent"] for m in named if m["event"] == "step.succeeded"]
        assert ended == [s.agent for s in site.steps(plan_id)]
        assert answer.text.rstrip().endswith('"state": "succeeded"}')
        # nothing was asked beside the plan, so there is no second report that could differ
        with site.store.transaction() as tx:
            journal = [(c.tool, json.dumps(dict(c.arguments), sort_keys=True)) for c in tx.calls(plan_id)]
        assert sorted(site.host.made[before:]) == sorted(journal)
        assert DEFINED in site.get(f"/plans/{plan_id}/report").text
        mapped = (house.path("policies").parent / "docs" / "how-to" / "chat.md").read_text(encoding="utf-8")
        for kind in (
            "plan.submitted",
            "step.started",
            "step.succeeded",
            "step.faulted",
            "step.dead",
            "plan.ended",
        ):
            assert f"`{kind}" in mapped


class TestRollback:
    def test_from_every_checkpoint_of_a_finished_plan_repeats_no_earlier_call_and_gives_a_proven_report(
        self, site
    ):
        goal = "What is a lighthouse? What is the population of Ruritania?"
        plan_id = site.conductor.submit(
            request(goal, sources={"documents": site.settings.documents_roots})
        ).plan_id
        site.work(plan_id)
        with site.store.transaction() as tx:
            made = [
                (c.step, c.tool, json.dumps(dict(c.arguments), sort_keys=True)) for c in tx.calls(plan_id)
            ]
        listed = fork.listed(site.steps(plan_id))
        assert len(listed) == len(site.steps(plan_id))

        for checkpoint in listed:
            forked = site.conductor.fork(plan_id, from_step=checkpoint.step.number, by="ada").plan_id
            calls = site.work(forked)

            allowed = [(tool, arguments) for step, tool, arguments in made if step not in checkpoint.reused]
            assert sorted(calls) == sorted(allowed), checkpoint.step.number
            with site.store.transaction() as tx:
                found, facts = tx.report(forked), {f.name: f for f in tx.facts(forked)}
                assert report.check(found, lambda sha: tx.evidence("default", sha), facts) == []
            assert found["verdict"] == "answered"
            assert {s["text"] for part in found["sections"] for s in part["sentences"]} >= {DEFINED}
        assert site.plan(plan_id).state in PLAN_ENDS
