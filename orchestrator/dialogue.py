"""Holds conversations: what a message means decides what is done, and every answer is cited or claims nothing.

    casual      a fixed sentence                          new_topic   a new plan
    follow_up   the conversation's own facts, if they     revise      a fork of the last plan, from its planner, or from its
                suffice, proven again; else a new plan                generator where only the form is to change
                for the question in full                  deeper      a fork from its planner, one deeper; at most 5

A message, its turn and the plan that answers it are written in one transaction. Who asks for a turn whose plan has ended
gives it its answer, whichever process began it: nobody needs to have waited. While a turn waits, its conversation takes
no other message, so that two never mix. There is no store of answers besides the turns, so none can be given to another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from orchestrator.conductor import Conductor
from orchestrator.domain import conversation as talk
from orchestrator.domain import report as reports
from orchestrator.domain.conversation import (
    Before,
    Conversation,
    Exchange,
    Kept,
    Recalled,
    Route,
    Turn,
    Understood,
)
from orchestrator.domain.errors import Conflict, KeyReused, NotFound
from orchestrator.domain.identity import Principal
from orchestrator.domain.lifecycle import PLAN_ENDS
from orchestrator.domain.plan import Agent, Evidence, Json, Plan, PlanState, clean_goal, digest, request
from orchestrator.ports import Listener
from orchestrator.store import PgStore, PgTx
from orchestrator.vault import ledger
from orchestrator.vault.chain import Sealer

USUAL_DEPTH: Final = 2
_SWEEPER: Final = "sweeper"
"""Who is on the record for what is removed because its time has come."""
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
RECALLED_FACTS: Final = 5
"""Facts that an answer from memory quotes at most."""
REMEMBERED_PLANS: Final = 20
"""The latest plans of a conversation whose facts are looked through for an answer from memory."""

FORM_STAYS: Final = "Without a language model an answer is made of whole quotes, whose form stays as it is."
AT_THE_BOTTOM: Final = f"This was researched at depth {talk.DEEPEST}, the deepest there is. Ask a narrower question to learn more."


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody says. Without a depth or sources, those of before hold; `usual` are the sources of a beginning."""

    who: Principal
    content: str
    conversation_id: str | None = None
    depth: int | None = None
    sources: Mapping[str, Json] | None = None
    usual: Mapping[str, Json] = field(default_factory=dict)
    key: str | None = None

    def fingerprint(self) -> str:
        """A digest of what is said; two messages that share a key must share it too."""
        return digest([self.content, self.conversation_id, self.depth, self.sources])


@dataclass(frozen=True, slots=True)
class _Seen:
    """What there was when a message came: nothing, for one that begins a conversation."""

    conversation: Conversation | None = None
    before: Before | None = None
    plan: Plan | None = None
    last: Turn | None = None
    plan_ids: Sequence[str] = ()


class _Beaten(Exception):
    """Another request with the same key was first."""


class Dialogue:
    """Conversations on top of a store and a conductor. Holds no state of its own; any number may run at once."""

    def __init__(
        self,
        store: PgStore,
        conductor: Conductor,
        sealer: Sealer,
        listener: Listener,
        *,
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self._store = store
        self._conductor = conductor
        self._sealer = sealer
        self._listener = listener
        self._new_id = new_id

    def say(self, said: Message) -> Turn:
        """Take a message and return the turn that answers it, or that waits for its plan.

        The same key and message return the same turn. Raises `NotFound` for a conversation that is not the caller's,
        `Conflict` while another message of it is being answered, `KeyReused`, and the `Invalid` that fits.
        """
        content = clean_goal(said.content)
        made = self._said_before(said)
        if made is not None:
            return made
        seen = self._seen(said)
        meant = self._listener.understand(said.who, content, seen.before)
        if seen.before is None and meant.route is not Route.CASUAL:
            meant = Understood(Route.NEW_TOPIC, content)
        try:
            return self._written(said, content, seen, meant)
        except _Beaten:
            made = self._said_before(said)
            if made is None:
                raise Conflict("The message with this key has just been removed; send it again.") from None
            return made

    def look(self, who: Principal, conversation_id: str, number: int) -> Turn:
        """Return a turn; one whose plan has ended meanwhile is given its answer. Raises `NotFound`."""
        with self._store.of(who.tenant).transaction() as tx:
            conversation = self._found(tx, who, conversation_id)
            for turn in tx.turns(conversation.conversation_id, after=number - 1, limit=1):
                if turn.number == number:
                    return self._finished(tx, who, turn)
        raise NotFound("turn", f"{number} in conversation {conversation_id}")

    def history(
        self, who: Principal, conversation_id: str, *, after: int = 0, limit: int = 200
    ) -> tuple[Conversation, Sequence[Turn]]:
        """Return a conversation and its turns behind that number. Raises `NotFound`."""
        with self._store.of(who.tenant).transaction() as tx:
            conversation = self._found(tx, who, conversation_id)
            turns = tx.turns(conversation.conversation_id, after=after, limit=limit)
            return conversation, [self._finished(tx, who, turn) for turn in turns]

    def forget(self, who: Principal, conversation_id: str) -> None:
        """Remove a conversation with its turns; its plans, which others may rest on, stay. Raises `NotFound`."""
        with self._store.of(who.tenant).transaction() as tx:
            if not tx.remove_conversation(who.tenant, who.name, conversation_id):
                raise NotFound("conversation", conversation_id)
            self._record(tx, who, "data_deleted", conversation_id, {})

    # what there was

    def _said_before(self, said: Message) -> Turn | None:
        if said.key is None:
            return None
        with self._store.of(said.who.tenant).transaction() as tx:
            found = tx.turn_of_key(said.who.tenant, said.who.name, said.key)
        if found is None:
            return None
        conversation_id, number, fingerprint = found
        if fingerprint != said.fingerprint():
            raise KeyReused(said.key)
        return self.look(said.who, conversation_id, number + 1)

    def _found(self, tx: PgTx, who: Principal, conversation_id: str) -> Conversation:
        found = tx.conversation(who.tenant, who.name, conversation_id)
        if found is None:
            raise NotFound("conversation", conversation_id)
        return found

    def _seen(self, said: Message) -> _Seen:
        if said.conversation_id is None:
            return _Seen()
        with self._store.of(said.who.tenant).transaction() as tx:
            conversation = self._found(tx, said.who, said.conversation_id)
            if conversation.turns + 2 > talk.MOST_TURNS:
                raise Conflict(f"A conversation has at most {talk.MOST_TURNS:,} turns; begin another.")
            turns = [t for t in tx.turns(conversation.conversation_id) if t.route is not None]
            if turns:
                turns[-1] = self._finished(tx, said.who, turns[-1])
                if turns[-1].waits:
                    raise Conflict(
                        f"Turn {turns[-1].number} of this conversation is still being answered; wait for it, "
                        "or begin another conversation."
                    )
            spoken = [t for t in turns if t.route is not Route.CASUAL]
            plan = tx.plan(conversation.last_plan_id) if conversation.last_plan_id else None
            if not spoken or plan is None:
                return _Seen(conversation)
            quotes = [fact.quote for fact in tx.facts(plan.plan_id)]
            before = Before(spoken[-1].goal, plan.depth, quotes)
            plan_ids = list(dict.fromkeys(t.plan_id for t in reversed(turns) if t.plan_id))
            return _Seen(conversation, before, plan, spoken[-1], plan_ids[:REMEMBERED_PLANS])

    def _kept(self, who: Principal, plan_ids: Sequence[str]) -> tuple[Sequence[Kept], dict[str, Evidence]]:
        """The facts of these plans, each proven again by the evidence of its tenant, and that evidence."""
        kept: list[Kept] = []
        evidence: dict[str, Evidence] = {}
        with self._store.of(who.tenant).transaction() as tx:
            for plan_id in plan_ids:
                for fact in tx.facts(plan_id):
                    if fact.evidence not in evidence:
                        found = tx.evidence(who.tenant, fact.evidence)
                        if found is not None:
                            evidence[fact.evidence] = found
                    if reports.verified(fact, evidence.get(fact.evidence)):
                        kept.append(Kept(plan_id, fact))
        return kept, evidence

    # what is done

    def _written(self, said: Message, content: str, seen: _Seen, meant: Understood) -> Turn:
        exchange = self._answered_at_once(said, content, seen, meant)
        who = said.who
        with self._store.of(who.tenant).transaction() as tx:
            conversation = self._held(tx, said, seen)
            exchange = replace(
                exchange,
                conversation=conversation,
                number=conversation.turns + 1,
                key=said.key,
                fingerprint=said.fingerprint(),
            )
            if exchange.answer is None:
                exchange = replace(exchange, plan_id=self._plan(tx, said, seen, meant, exchange).plan_id)
            if not tx.add_exchange(exchange):
                raise _Beaten
            number = exchange.number + 1
            told: dict[str, Json] = {
                "turn": number,
                "route": exchange.route,
                "plan_id": exchange.plan_id,
                "message_hmac": self._sealer.blind(content),
                "goal_hmac": self._sealer.blind(exchange.goal),
            }
            self._record(tx, who, "query_classified", conversation.conversation_id, told)
            (turn,) = tx.turns(conversation.conversation_id, after=number - 1, limit=1)
            if not turn.waits:
                self._record_answer(tx, who, turn)
            return turn

    def _held(self, tx: PgTx, said: Message, seen: _Seen) -> Conversation:
        """The conversation, in which nothing was said since it was seen."""
        known = seen.conversation
        if known is None:
            conversation_id = self._new_id()
            tx.add_conversation(conversation_id, said.who.tenant, said.who.name)
        else:
            conversation_id = known.conversation_id
        held = tx.conversation(said.who.tenant, said.who.name, conversation_id, lock=True)
        if held is None:
            raise NotFound("conversation", conversation_id)
        if known is not None and held.turns != known.turns:
            raise Conflict(
                "Another message came to this conversation at the same time; look at its answer first."
            )
        return held

    def _answered_at_once(self, said: Message, content: str, seen: _Seen, meant: Understood) -> Exchange:
        """What is said back, where nothing needs to be looked up; without an answer, where something does."""
        conversation = seen.conversation or Conversation("", said.who.tenant, said.who.name, _NEVER)
        waiting = Exchange(conversation, 1, content, meant.route, meant.goal)
        match meant.route:
            case Route.CASUAL:
                return replace(waiting, reply=talk.GREETING, answer=talk.plain_answer("casual"))
            case Route.FOLLOW_UP if said.sources in (None, seen.plan and seen.plan.sources):
                return self._recalled(said.who, waiting, seen, content)
            case Route.DEEPER if seen.plan is not None and seen.plan.depth >= talk.DEEPEST and seen.last:
                notes = [AT_THE_BOTTOM]
                answer = {**(seen.last.answer or talk.plain_answer("not_found")), "notes": notes}
                return replace(waiting, reply=f"{AT_THE_BOTTOM}\n{seen.last.content}", answer=answer)
            case _:
                return waiting

    def _recalled(self, who: Principal, waiting: Exchange, seen: _Seen, content: str) -> Exchange:
        """An answer of facts that the conversation's plans found, if these suffice and are proven again."""
        kept, evidence = self._kept(who, seen.plan_ids)
        recalled = self._listener.recall(content, waiting.goal, kept, RECALLED_FACTS)
        if not recalled.found:
            return waiting
        report, plan_ids = _report(waiting.goal, recalled, evidence)
        if report["verdict"] != "answered" or reports.check(report, evidence.get):
            return waiting
        confident = {**report, "confidence": round(recalled.coverage, 2)}
        answer = talk.answer_of(confident, plan_ids=plan_ids)
        return replace(waiting, reply=talk.spoken(report), answer=answer)

    def _plan(self, tx: PgTx, said: Message, seen: _Seen, meant: Understood, exchange: Exchange) -> Plan:
        conductor = self._conductor.of(said.who.tenant)
        old = seen.plan
        metadata: dict[str, Json] = {
            "conversation": exchange.conversation.conversation_id,
            "turn": exchange.number + 1,
        }
        if old is not None and meant.route is not Route.NEW_TOPIC:
            metadata["related"] = [old.plan_id]
            metadata["form_only"] = meant.form_only
        depth = said.depth or (old.depth if old else USUAL_DEPTH)
        if meant.route is Route.DEEPER and old is not None:
            depth = min(talk.DEEPEST, max(old.depth + 1, said.depth or 0))
        sources = said.sources if said.sources is not None else (old.sources if old else said.usual)
        if meant.route in {Route.REVISE, Route.DEEPER} and old is not None and old.sources == sources:
            from_step = talk.revised_from(tx.steps(old.plan_id), form_only=meant.form_only)
            if old.state is PlanState.SUCCEEDED and from_step is not None:
                return conductor.fork_within(
                    tx,
                    old.plan_id,
                    from_step=from_step,
                    goal=meant.goal,
                    depth=depth,
                    metadata=metadata,
                    by=said.who.name,
                )
        asked = request(
            meant.goal,
            depth=depth,
            tenant=said.who.tenant,
            requester=said.who.name,
            sources=sources,
            metadata=metadata,
        )
        return conductor.submit_within(tx, asked)

    # what comes back

    def _finished(self, tx: PgTx, who: Principal, turn: Turn) -> Turn:
        """The turn, with the answer of its plan if that has ended."""
        if not turn.waits or turn.plan_id is None:
            return turn
        plan = tx.plan(turn.plan_id)
        if plan is None or plan.state not in PLAN_ENDS:
            return turn
        report = tx.report(plan.plan_id)
        if report is None:
            content, answer = talk.failed(plan), talk.plain_answer("failed")
        else:
            notes = [FORM_STAYS] if plan.metadata.get("form_only") and not _by_model(tx, plan) else []
            numbers = {citation["number"]: plan.plan_id for citation in _citations(report)}
            content, answer = talk.spoken(report), talk.answer_of(report, plan_ids=numbers, notes=notes)
        answered = tx.answer_turn(turn.conversation_id, turn.number, content, answer)
        (turn,) = tx.turns(turn.conversation_id, after=turn.number - 1, limit=1)
        if answered:
            self._record_answer(tx, who, turn)
        return turn

    def _record_answer(self, tx: PgTx, who: Principal, turn: Turn) -> None:
        answer = turn.answer or {}
        told: dict[str, Json] = {
            "turn": turn.number,
            "route": turn.route,
            "plan_id": turn.plan_id,
            "verdict": answer.get("verdict"),
            "facts_used": answer.get("facts_used"),
            "answer_hmac": self._sealer.blind(turn.content),
        }
        self._record(tx, who, "query_completed", turn.conversation_id, told)

    def _record(
        self, tx: PgTx, who: Principal, kind: str, conversation_id: str, details: Mapping[str, Json]
    ) -> None:
        """Append to the chain of the tenant what happened, and never what was said."""
        resource = f"conversation:{conversation_id}"
        ledger.note_action(
            tx, self._sealer, who, kind, "chat.interact", resource, details, session=conversation_id
        )


def forget_silent(store: PgStore, sealer: Sealer, kept: timedelta, *, limit: int = 200) -> int:
    """Remove a batch of the conversations of all tenants in which nothing was said for so long; the number removed.

    Each is on the record of its tenant, in the same transaction. Their plans stay, as they do when an owner removes one.
    """
    with store.transaction() as tx:
        gone = tx.forget_conversations(kept, limit)
        # always in one order, since a ledger is held until the end
        for each in sorted(gone, key=lambda c: (c.tenant, c.conversation_id)):
            said: dict[str, Json] = {
                "action": "chat.retention",
                "actor": _SWEEPER,
                "resource": f"conversation:{each.conversation_id}",
                "details": {"turns": each.turns, "kept_days": kept / timedelta(days=1)},
                "session_id": each.conversation_id,
            }
            ledger.append(tx, sealer, tenant=each.tenant, by=_SWEEPER, kind="data_deleted", said=said)
        return len(gone)


def _report(
    goal: str, recalled: Recalled, evidence: Mapping[str, Evidence]
) -> tuple[dict[str, Json], dict[int, str]]:
    """A report of kept facts, and which plan found each citation."""
    # facts of two plans may share a name, and a report goes by names: here each has its place for one
    named = {f"F{at}.1": kept for at, kept in enumerate(recalled.found, start=1)}
    facts = {
        name: replace(kept.fact, step=at, number=1) for at, (name, kept) in enumerate(named.items(), start=1)
    }
    sentences = [{"text": fact.quote, "facts": [name]} for name, fact in facts.items()]
    report = reports.build(
        goal=goal,
        verdict="answered",
        method=talk.RECALLED,
        partial=False,
        sections=[{"title": "Answer", "sentences": sentences}],
        facts=facts,
        evidence_of=evidence.get,
        notes=[talk.RECALLED],
    )
    found = {citation["number"]: named[citation["fact"]] for citation in _citations(report)}
    named_again = [{**c, "fact": found[c["number"]].fact.name} for c in _citations(report)]
    return {**report, "citations": named_again}, {n: kept.plan_id for n, kept in found.items()}


def _citations(report: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = report["citations"]
    return found


def _by_model(tx: PgTx, plan: Plan) -> bool:
    drafts = [s.result.get("model") for s in tx.steps(plan.plan_id) if s.agent is Agent.GENERATOR]
    return bool(drafts and drafts[-1])
