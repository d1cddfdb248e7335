"""What a store keeps of conversations. Each test runs on Postgres and on its twin in memory."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from orchestrator.domain.conversation import Exchange, Role, Route
from orchestrator.domain.errors import ForeignTenant
from orchestrator.domain.lifecycle import PlanMove
from tests.contract.bench import new_plan
from tests.contract.test_store import bench, shared, undone  # noqa: F401 - fixtures

GOAL = "What is a lock? 漢字 🔒"
ANSWER = {"citations": [{"number": 1}], "confidence": 1.0, "notes": ["ü"]}


def begin(store, *, tenant="acme", owner="ada"):
    conversation_id = str(uuid4())
    with store.transaction() as tx:
        tx.add_conversation(conversation_id, tenant, owner)
    return conversation_id


def say(store, conversation_id, number=1, *, owner="ada", fails=False, **rest):
    usual = {"message": GOAL, "route": Route.CASUAL, "goal": GOAL, "reply": "Hello.", "answer": {}}
    with undone(store) if fails else store.transaction() as tx:
        conversation = tx.conversation("acme", owner, conversation_id, lock=True)
        return tx.add_exchange(Exchange(conversation, number, **{**usual, **rest}))


def research(store, conversation_id, number=1, *, tenant="acme"):
    """Let a message wait for a plan; the plan."""
    plan_id = new_plan(store, tenant=tenant)
    waits = {"plan_id": plan_id, "answer": None, "reply": "", "route": Route.NEW_TOPIC}
    assert say(store, conversation_id, number, **waits)
    return plan_id


def turns_of(store, conversation_id, **rest):
    with store.transaction() as tx:
        return list(tx.turns(conversation_id, **rest))


class TestAConversation:
    def test_is_its_owner_s_and_found_by_nobody_else(self, shared):  # noqa: F811
        conversation_id = begin(shared.store)
        with shared.store.transaction() as tx:
            found = tx.conversation("acme", "ada", conversation_id)
            assert (found.tenant, found.owner, found.turns, found.last_plan_id) == ("acme", "ada", 0, None)
            for tenant, owner in (("acme", "eve"), ("rival", "ada"), ("ACME", "ada")):
                assert tx.conversation(tenant, owner, conversation_id) is None
                assert tx.conversation(tenant, owner, conversation_id, lock=True) is None
                assert conversation_id not in [c.conversation_id for c in tx.conversations(tenant, owner)]
                assert not tx.remove_conversation(tenant, owner, conversation_id)
            assert tx.conversation("acme", "ada", conversation_id) == found

    def test_is_listed_behind_those_begun_later(self, bench):  # noqa: F811
        begun = []
        for _ in range(4):
            begun.append(begin(bench.store))
            bench.clock.advance(timedelta(seconds=1))
        with bench.store.transaction() as tx:
            first = tx.conversations("acme", "ada", limit=3)
            rest = tx.conversations("acme", "ada", behind=(first[-1].created_at, first[-1].conversation_id))
        assert [c.conversation_id for c in (*first, *rest)] == begun[::-1]

    def test_is_removed_with_its_turns_and_leaves_the_plan(self, shared):  # noqa: F811
        conversation_id = begin(shared.store)
        plan_id = research(shared.store, conversation_id)
        with shared.store.transaction() as tx:
            assert tx.remove_conversation("acme", "ada", conversation_id)
            assert tx.conversation("acme", "ada", conversation_id) is None
            assert not tx.turns(conversation_id)
            assert tx.plan(plan_id) is not None


class TestASilentConversation:
    """One in which nothing was said for as long as conversations are kept."""

    def test_is_forgotten_with_its_turns_those_begun_first_first(self, bench):  # noqa: F811
        first, second = begin(bench.store), None
        say(bench.store, first)
        bench.clock.advance(timedelta(seconds=1))
        second = begin(bench.store, owner="eve")
        bench.clock.advance(timedelta(days=7))
        for wanted in (first, second):
            with bench.store.transaction() as tx:
                (gone,) = tx.forget_conversations(timedelta(days=7), 1)
                assert (gone.conversation_id, gone.tenant) == (wanted, "acme")
        with bench.store.transaction() as tx:
            assert tx.forget_conversations(timedelta(days=7), 1) == []
        assert turns_of(bench.store, first) == []

    def test_is_none_that_is_younger_or_was_spoken_in_since(self, bench):  # noqa: F811
        old = begin(bench.store)
        say(bench.store, old)
        bench.clock.advance(timedelta(days=7))
        say(bench.store, old, 3)
        young = begin(bench.store)
        with bench.store.transaction() as tx:
            assert tx.forget_conversations(timedelta(days=1), 10) == []
            assert {c.conversation_id for c in tx.conversations("acme", "ada")} == {old, young}

    def test_is_none_whose_plan_goes_on_and_is_one_when_that_has_ended_though_nobody_asked(self, bench):  # noqa: F811
        waiting = begin(bench.store)
        plan_id = research(bench.store, waiting)
        bench.clock.advance(timedelta(days=7))
        with bench.store.transaction() as tx:
            assert tx.forget_conversations(timedelta(days=1), 10) == []
            tx.move_plan(plan_id, PlanMove.CANCEL)
        with bench.store.transaction() as tx:
            assert [c.conversation_id for c in tx.forget_conversations(timedelta(days=1), 10)] == [waiting]
            assert tx.plan(plan_id) is not None


class TestAnExchange:
    def test_is_kept_as_a_message_and_its_answer(self, shared):  # noqa: F811
        conversation_id = begin(shared.store)
        assert say(shared.store, conversation_id, answer=ANSWER, reply="One.")
        message, reply = turns_of(shared.store, conversation_id)
        assert (message.number, message.role, message.content) == (1, Role.USER, GOAL)
        assert (message.route, message.plan_id, message.answer, message.waits) == (None, None, None, False)
        assert (reply.number, reply.role, reply.content, reply.goal) == (2, Role.ASSISTANT, "One.", GOAL)
        assert (reply.route, reply.answer, reply.waits) == (Route.CASUAL, ANSWER, False)

    def test_counts_the_turns_and_notes_the_plan_it_speaks_about(self, shared):  # noqa: F811
        conversation_id = begin(shared.store)
        plan_id = research(shared.store, conversation_id)
        say(shared.store, conversation_id, 3)
        with shared.store.transaction() as tx:
            found = tx.conversation("acme", "ada", conversation_id)
        assert (found.turns, found.last_plan_id) == (4, plan_id)
        assert [t.number for t in turns_of(shared.store, conversation_id, after=1, limit=2)] == [2, 3]

    def test_that_fails_leaves_nothing(self, shared):  # noqa: F811
        conversation_id = begin(shared.store)
        say(shared.store, conversation_id, fails=True)
        assert turns_of(shared.store, conversation_id) == []
        assert say(shared.store, conversation_id)

    def test_is_written_once_for_a_key_of_its_owner(self, shared):  # noqa: F811
        key = str(uuid4())
        mine, other, eve_s = begin(shared.store), begin(shared.store), begin(shared.store, owner="eve")
        assert say(shared.store, mine, key=key, fingerprint="f")
        assert not say(shared.store, other, key=key)
        assert say(shared.store, eve_s, key=key, owner="eve")
        with shared.store.transaction() as tx:
            assert tx.turn_of_key("acme", "ada", key) == (mine, 1, "f")
            assert tx.turn_of_key("rival", "ada", key) is None

    def test_is_answered_once(self, shared):  # noqa: F811
        conversation_id = begin(shared.store)
        research(shared.store, conversation_id)
        assert turns_of(shared.store, conversation_id)[1].waits
        with shared.store.transaction() as tx:
            assert not tx.answer_turn(conversation_id, 1, "To a message?", {})
            assert tx.answer_turn(conversation_id, 2, "One.", ANSWER)
            assert not tx.answer_turn(conversation_id, 2, "Two.", {})
            assert not tx.answer_turn(conversation_id, 4, "Three.", {})
        reply = turns_of(shared.store, conversation_id)[1]
        assert (reply.content, reply.answer, reply.waits) == ("One.", ANSWER, False)


class TestAStoreOfOneTenant:
    def test_keeps_conversations_about_its_own_plans(self, shared):  # noqa: F811
        store = shared.store.of("acme")
        conversation_id = begin(store)
        research(store, conversation_id)
        with store.transaction() as tx:
            assert tx.answer_turn(conversation_id, 2, "One.", ANSWER)
            assert [c.conversation_id for c in tx.conversations("acme", "ada")].count(conversation_id) == 1
        with shared.store.of("rival").transaction() as tx:
            assert not tx.turns(conversation_id)
            assert not tx.answer_turn(conversation_id, 2, "Theirs.", {})

    def test_keeps_none_of_another_tenant_and_none_about_another_s_plan(self, shared):  # noqa: F811
        store = shared.store.of("acme")
        with pytest.raises(ForeignTenant):
            begin(store, tenant="rival")
        conversation_id = begin(store)
        theirs = new_plan(shared.store, tenant="rival")
        with pytest.raises(ForeignTenant):
            say(store, conversation_id, plan_id=theirs, answer=None, route=Route.NEW_TOPIC)
        assert turns_of(store, conversation_id) == []
