"""The seams: what is needed of a store, a bus and locks. Each has twins that pass the same suite.

A `Tx` is one transaction. It is entered through `Store.transaction`, commits when its block ends, and rolls back
when the block raises. A verb locks its plan first; whoever holds that lock is alone with the plan, its steps, its
counters and its audit chain until the transaction ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from orchestrator.domain.budget import Spent
from orchestrator.domain.consensus import Ballot
from orchestrator.domain.conversation import Before, Conversation, Exchange, Kept, Recalled, Turn, Understood
from orchestrator.domain.fairness import Tenant
from orchestrator.domain.identity import Principal
from orchestrator.domain.judgement import Judgement
from orchestrator.domain.lifecycle import PlanMove, StepMove
from orchestrator.domain.plan import (
    Approval,
    ApprovalState,
    AuditRecord,
    Call,
    CallState,
    DeadLetter,
    Event,
    Evidence,
    Fact,
    Json,
    NewStep,
    Notification,
    NotificationState,
    Plan,
    Request,
    Ruling,
    Step,
    StepRef,
)
from orchestrator.domain.schedule import Firing, FiringOutcome, Schedule
from orchestrator.domain.secret import Revealed, SealedVersion, SecretState, SecretVersion, WrappedKey
from orchestrator.domain.stop import Stop
from orchestrator.messages import Message, Topic


@dataclass(frozen=True, slots=True)
class Completion:
    """What a running step came to; `told` is the body of the event that says so."""

    ref: StepRef
    claim: int
    verdict: str
    follow_ups: Sequence[Mapping[str, Json]]
    result: Mapping[str, Json]
    told: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Remembered:
    """A fact of an earlier plan, and when that plan ended."""

    plan_id: str
    ended_at: datetime
    fact: Fact


class Tx(Protocol):
    """One transaction on the store."""

    def now(self) -> datetime:
        """The database's time at the start of this transaction, in UTC."""
        ...

    # plans

    def add_plan(self, plan_id: str, asked: Request, deadline: datetime) -> bool:
        """Write a queued plan; `False` if the tenant has used the request's key before."""
        ...

    def plan_of_key(self, tenant: str, key: str) -> tuple[str, str] | None:
        """The id and the request's fingerprint of the plan that this key made."""
        ...

    def lock_plan(self, plan_id: str) -> Plan | None:
        """The plan, held against every other transaction until this one ends."""
        ...

    def lock_plans(self, plan_ids: Sequence[str], *, wait: bool = True) -> Sequence[Plan]:
        """Those of the plans that exist, held like `lock_plan`, by id; safe against others who lock several.

        Without `wait` only those that nobody holds now: whoever looks after many plans must not wait for one.
        """
        ...

    def lock_step(self, ref: StepRef) -> tuple[Plan, Step] | None:
        """The plan, held like `lock_plan`, and one of its steps; `None` if either is not there."""
        ...

    def plan(self, plan_id: str) -> Plan | None:
        """The plan as it is."""
        ...

    def plans(
        self,
        *,
        tenant: str | None = None,
        state: str | None = None,
        behind: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> Sequence[Plan]:
        """The newest plans first; those behind one of that time and id, where it is given."""
        ...

    def move_plan(
        self, plan_id: str, move: PlanMove, *, reason: str | None = None, partial: bool | None = None
    ) -> bool:
        """Make a named move; `False` if the plan is not in a state that allows it."""
        ...

    def mark_partial(self, plan_id: str) -> None:
        """Say that a limit cut the plan short."""
        ...

    def spend(self, plan_id: str, delta: Spent) -> None:
        """Add to what the plan has spent; negative parts give back."""
        ...

    # steps

    def add_steps(self, plan_id: str, steps: Sequence[NewStep], *, max_attempts: int) -> Sequence[Step]:
        """Write steps that are ready, numbered on from the plan's last, and count them as spent."""
        ...

    def step(self, ref: StepRef) -> Step | None:
        """The step as it is."""
        ...

    def steps(self, plan_id: str) -> Sequence[Step]:
        """All steps of a plan by number."""
        ...

    def claim_steps(
        self, refs: Sequence[StepRef], *, holder: int, lease: timedelta, first: bool = False
    ) -> Mapping[StepRef, tuple[Plan, Step]]:
        """Give those steps that are ready and due to one holder, each with a higher claim and one more attempt.

        Starts a plan where a step is the first of it, and says so. Leaves a step alone when its plan has ended, it is
        not ready or has used up its attempts, it is a question of a plan whose time is up, or somebody else holds it
        or its queued plan just now; with `first`, also when it was claimed before or its tenant is limited.
        """
        ...

    def complete_steps(self, completions: Sequence[Completion]) -> Collection[StepRef]:
        """Make the move `complete` for steps, write each one's event and ring for what follows; those that moved.

        Leaves a step alone when it no longer runs under that claim, or somebody else holds its plan.
        """
        ...

    def renew(self, ref: StepRef, *, claim: int, lease: timedelta) -> bool:
        """Extend the lease of a running step; `False` if the claim is no longer the current one."""
        ...

    def move_step(
        self,
        ref: StepRef,
        move: StepMove,
        *,
        claim: int | None = None,
        delay: timedelta | None = None,
        return_attempt: bool = False,
        reset_attempts: bool = False,
        verdict: str | None = None,
        follow_ups: Sequence[Mapping[str, Json]] | None = None,
        reason: str | None = None,
    ) -> bool:
        """Make a named move, if the step's state allows it and, where a claim is given, it is the current one."""
        ...

    def mark_settled(self, refs: Sequence[StepRef]) -> Sequence[Step]:
        """Say that what follows these finished steps has been decided; those for which it had not been before.

        Of what they came to only judges and synthesisers bring their results, by which is decided.
        """
        ...

    def copy_steps(self, plan_id: str, steps: Sequence[Step]) -> None:
        """Write steps of another plan as they are given, under their own numbers, and count them as spent.

        The plan has none yet and is locked by this transaction; the numbers begin at 1 and have no gaps.
        """
        ...

    # what a step leaves behind

    def add_event(self, plan_id: str, kind: str, body: Mapping[str, Json]) -> None:
        """Append an event under the plan's next number."""
        ...

    def events(self, plan_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[Event]:
        """The plan's events by number, from `after` (exclusive)."""
        ...

    def add_audit(self, record: AuditRecord) -> None:
        """Append to a chain and move the plan's head to it."""
        ...

    def audit(self, chain: str) -> Sequence[AuditRecord]:
        """A chain by number."""
        ...

    def send(self, messages: Iterable[Message]) -> None:
        """Write messages into the outbox; the relay publishes them after the commit."""
        ...

    def add_facts(self, plan_id: str, facts: Sequence[Fact]) -> None:
        """Write facts; their evidence must be stored."""
        ...

    def facts(self, plan_id: str) -> Sequence[Fact]:
        """A plan's facts by step and number."""
        ...

    def related_facts(
        self,
        tenant: str,
        words: Sequence[str],
        *,
        least: int,
        without: Sequence[str] = (),
        plans: int = 500,
        limit: int = 8,
    ) -> Sequence[Remembered]:
        """Facts of the tenant's latest plans that ended with an answer, those with the most of the words first.

        A fact needs `least` of the words, in lower case, in its quote or its question; each place in evidence comes
        once, from the plan that ended last. Plans that called a tool `without`, or are forks, are passed by.
        """
        ...

    def put_evidence(self, tenant: str, evidence: Evidence) -> None:
        """Store a source once per tenant and digest."""
        ...

    def evidence(self, tenant: str, sha256: str) -> Evidence | None:
        """The stored source of that digest."""
        ...

    def put_report(self, plan_id: str, report: Mapping[str, Json]) -> None:
        """Store the plan's report, once; a second one replaces it only after a replay."""
        ...

    def report(self, plan_id: str) -> Mapping[str, Json] | None:
        """The plan's report."""
        ...

    def add_ballot(self, ballot: Ballot) -> None:
        """Write what a round of a plan's consensus came to; a plan has one ballot for each round."""
        ...

    def ballots(self, plan_id: str) -> Sequence[Ballot]:
        """A plan's ballots by round."""
        ...

    # the journal

    def call(self, ref: StepRef, key: str, occurrence: int) -> Call | None:
        """The journalled call of that key in that step."""
        ...

    def calls(self, plan_id: str) -> Sequence[Call]:
        """All calls of a plan in the order in which they were first intended."""
        ...

    def put_call(self, call: Call) -> None:
        """Write an intended call, or intend it again under a newer claim."""
        ...

    def finish_call(
        self,
        ref: StepRef,
        key: str,
        occurrence: int,
        *,
        claim: int,
        state: CallState,
        result: Json = None,
        evidence: str | None = None,
        error: str | None = None,
        spent: Spent | None = None,
    ) -> bool:
        """Record how an intended call of this claim ended; `False` if the claim is not the one that intended it."""
        ...

    def orphan_calls(self, ref: StepRef) -> Sequence[Call]:
        """Turn the step's intended calls into unknown ones, and return them."""
        ...

    def allow_repeat(self, ref: StepRef, key: str) -> None:
        """Let the step's unknown calls of that key be made once more: a human said so."""
        ...

    # people

    def add_approval(self, approval: Approval) -> None:
        """Ask for a human decision."""
        ...

    def approval(self, approval_id: str) -> Approval | None:
        """The approval as it is."""
        ...

    def approvals(
        self,
        *,
        state: ApprovalState | None = None,
        plan_id: str | None = None,
        step: int | None = None,
        category: str | None = None,
        role: str | None = None,
        tenant: str | None = None,
        limit: int | None = None,
    ) -> Sequence[Approval]:
        """Approvals, oldest first; those that a role may decide now, where it is named."""
        ...

    def decide(
        self,
        approval_id: str,
        state: ApprovalState,
        *,
        by: str,
        comment: str,
        version: int | None = None,
        holds: timedelta | None = None,
    ) -> bool:
        """Decide a pending approval that has not expired; `False` if somebody was first.

        Where a version is given, it must be the current one. `holds` is how long what is approved may be used.
        """
        ...

    def advance(
        self,
        approval_id: str,
        *,
        version: int,
        stage: int,
        level: int,
        roles: tuple[str, ...],
        expires_at: datetime,
        in_time: bool,
    ) -> bool:
        """Let others decide a pending approval of that version from now on; `False` if somebody was first.

        `in_time` says whether it must not have expired, or must have: an escalation follows an expiry.
        """
        ...

    def add_ruling(self, approval_id: str, ruling: Ruling) -> None:
        """Record what one person decided; nobody twice, and no seat of a stage twice."""
        ...

    def rulings(self, approval_id: str) -> Sequence[Ruling]:
        """What people decided about an approval, in that order."""
        ...

    def extend(self, plan_id: str, more: timedelta) -> None:
        """Give a plan that has not ended more time."""
        ...

    # what is told outside

    def add_notification(self, notification: Notification) -> None:
        """Write what is to be told; it is due at once."""
        ...

    def take_notification(self, within: timedelta) -> Notification | None:
        """The oldest notification that is due, for this sender alone until `within` has passed; counts the attempt.

        Passes by those that another transaction holds.
        """
        ...

    def end_notification(
        self, taken: Notification, state: NotificationState, *, error: str | None = None
    ) -> bool:
        """Say that it was delivered or given up on; `False` if it has ended, or another attempt to give up on began."""
        ...

    def postpone_notification(self, taken: Notification, delay: timedelta, *, error: str) -> bool:
        """Let it be tried again after that time; `False` if it has ended or another attempt has begun."""
        ...

    def revive_notification(self, notification_id: str) -> bool:
        """Let one that was given up on be sent again, from its first attempt; `False` if it was not given up on."""
        ...

    def notification(self, notification_id: str) -> Notification | None:
        """One notification, or `None` if there is none of that id."""
        ...

    def notifications(
        self,
        *,
        approval_id: str | None = None,
        state: NotificationState | None = None,
        tenant: str | None = None,
        limit: int | None = None,
    ) -> Sequence[Notification]:
        """What was to be told, the oldest first."""
        ...

    def add_dead_letter(self, letter: DeadLetter) -> None:
        """List what was given up on."""
        ...

    def dead_letter(self, letter_id: str) -> DeadLetter | None:
        """The dead letter of that id."""
        ...

    def dead_letters(
        self,
        *,
        state: str | None = "open",
        plan_id: str | None = None,
        reason: str | None = None,
        tenant: str | None = None,
        older_than: timedelta | None = None,
        newer_than: timedelta | None = None,
        behind: tuple[datetime, str] | None = None,
        limit: int | None = None,
    ) -> Sequence[DeadLetter]:
        """Dead letters, newest first; those behind one of that time and id, where it is given.

        `tenant` names whose plan it must have been, `older_than` and `newer_than` how long ago it was.
        """
        ...

    def close_dead_letter(self, letter_id: str, state: str) -> bool:
        """Mark an open letter as retried or discarded; `False` if it is not open."""
        ...

    # what the sweeper looks for

    def due(self, limit: int) -> Sequence[StepRef]:
        """Retrying steps whose time has come, or whose plan's time is up."""
        ...

    def lapsed(self, limit: int, *, of: StepRef | None = None) -> Sequence[StepRef]:
        """Running steps whose lease has ended or whose holder is gone; of one step only, where it is named."""
        ...

    def unheard(self, older_than: timedelta, limit: int) -> Sequence[Message]:
        """Steps that are ready or unsettled and were last offered to the bus that long ago; marks them offered."""
        ...

    def expired_approvals(self, limit: int) -> Sequence[Approval]:
        """Pending approvals past their expiry."""
        ...

    # the relay

    def take_outbox(self, limit: int, *, room: int | None = None) -> Sequence[Message]:
        """Remove messages for publishing, the oldest first; they are back if the transaction does not commit.

        Of those for steps no more than `room`. Where more wait, or a tenant is limited, they are divided among the
        tenants by `domain.fairness`, and each tenant's urgent plans come first.
        """
        ...

    # tenants

    def may_run(self, tenant: str) -> bool:
        """Whether one more step of the tenant may run; a limited tenant is held until this transaction ends."""
        ...

    def tenants(self) -> Sequence[Tenant]:
        """What is set for tenants, by name; those that are not listed have a weight of 1 and no limit."""
        ...

    def put_tenant(self, tenant: Tenant) -> None:
        """Set a tenant's weight and limit."""
        ...

    # the kill switch

    def stops(self, tenant: str | None = None) -> Sequence[Stop]:
        """What is stopped for a tenant, by itself or everywhere; without one, all that is. The oldest first."""
        ...

    def put_stop(self, stop: Stop) -> None:
        """Stop a target; its time is the database's. A later stop of the same target takes the place of an earlier."""
        ...

    def remove_stop(self, tenant: str, target: str) -> Stop | None:
        """Lift a stop and return it; `None` if there is none."""
        ...

    # schedules

    def add_schedule(self, schedule: Schedule) -> bool:
        """Write a schedule; `False` if the tenant has one of that name."""
        ...

    def schedule(self, tenant: str, name: str, *, lock: bool = False) -> Schedule | None:
        """The schedule of that name or id; held, where asked, until this transaction ends."""
        ...

    def schedules(self, tenant: str | None = None) -> Sequence[Schedule]:
        """All schedules by name."""
        ...

    def write_schedule(self, schedule: Schedule) -> None:
        """Write everything that may change about a schedule that this transaction holds."""
        ...

    def remove_schedule(self, schedule_id: str) -> bool:
        """Remove a schedule and its firings; its plans stay. `False` if there is none."""
        ...

    def take_schedule(self) -> Schedule | None:
        """One schedule that is due, or whose waiting tick may begin, held until this transaction ends.

        Passes by those that another transaction holds.
        """
        ...

    def next_tick_at(self) -> datetime | None:
        """When the next schedule is due."""
        ...

    def add_firing(self, firing: Firing) -> bool:
        """Write what became of a tick; `False` if that tick, or its key, is written already."""
        ...

    def firing(self, schedule_id: str, due_at: datetime, *, key: str | None = None) -> Firing | None:
        """The firing under a key, or that of a tick."""
        ...

    def end_firing(
        self,
        schedule_id: str,
        due_at: datetime,
        outcome: FiringOutcome,
        *,
        plan_id: str | None = None,
        reason: str | None = None,
    ) -> bool:
        """Say what became of a queued tick; `False` if it is not queued."""
        ...

    def firings(
        self, schedule_id: str, *, outcome: FiringOutcome | None = None, limit: int = 50
    ) -> Sequence[Firing]:
        """A schedule's firings, the newest tick first."""
        ...

    # conversations

    def add_conversation(self, conversation_id: str, tenant: str, owner: str) -> None:
        """Write a conversation that has no turns yet."""
        ...

    def conversation(
        self, tenant: str, owner: str, conversation_id: str, *, lock: bool = False
    ) -> Conversation | None:
        """One conversation of this owner, held until this transaction ends if asked; another's is not found."""
        ...

    def conversations(
        self, tenant: str, owner: str, *, behind: tuple[datetime, str] | None = None, limit: int = 50
    ) -> Sequence[Conversation]:
        """An owner's conversations, those begun last first; `behind` is the time and id to go on from."""
        ...

    def remove_conversation(self, tenant: str, owner: str, conversation_id: str) -> bool:
        """Remove an owner's conversation with its turns; `False` if there is none."""
        ...

    def forget_conversations(self, kept: timedelta, limit: int) -> Sequence[Conversation]:
        """Remove conversations in which nothing was said for so long, with their turns, and return what they were.

        One that waits for a plan which goes on stays, and so does one that another transaction holds.
        """
        ...

    def add_exchange(self, exchange: Exchange) -> bool:
        """Write a message and its answer's turn behind the last of a conversation that this transaction has locked.

        `False` if its owner has used its key before; whoever is told so must not commit.
        """
        ...

    def turn_of_key(self, tenant: str, owner: str, key: str) -> tuple[str, int, str] | None:
        """The conversation, number and fingerprint of the message that an owner's idempotency key made."""
        ...

    def turns(self, conversation_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[Turn]:
        """Turns by number, from behind one of them."""
        ...

    def answer_turn(
        self, conversation_id: str, number: int, content: str, answer: Mapping[str, Json]
    ) -> bool:
        """Give an assistant's turn its answer; `False` if it has one."""
        ...

    # secrets, which come here encrypted

    def lock_secret(self, tenant: str, name: str) -> int:
        """How many versions a secret has had, held until this transaction ends; 0 for one that is new."""
        ...

    def secret_versions(self, tenant: str, name: str | None = None) -> Sequence[SealedVersion]:
        """The versions of one secret, or of all of a tenant's, by name and number."""
        ...

    def add_secret_version(self, version: SealedVersion) -> bool:
        """Write the next version of a secret that this transaction holds; `False` if it is not the next."""
        ...

    def move_secret(self, tenant: str, name: str, version: int, was: SecretState, to: SecretState) -> bool:
        """Move a version to another state; `False` if it is not in the one that it was in."""
        ...

    def remove_secret_version(self, tenant: str, name: str, version: int) -> bool:
        """Remove a version; `False` if there is none. Its number stays used."""
        ...

    def data_key(self, tenant: str) -> WrappedKey | None:
        """The tenant's data key."""
        ...

    def data_keys(self) -> Sequence[WrappedKey]:
        """All data keys by tenant."""
        ...

    def add_data_key(self, key: WrappedKey) -> None:
        """Write a tenant's first data key; if it has one, that one stays."""
        ...

    def rewrap_data_key(self, key: WrappedKey, *, was: str) -> bool:
        """Replace how a data key is wrapped; `False` if it is not wrapped under that master key any more."""
        ...


class Store(Protocol):
    """Where the truth is kept."""

    def transaction(self) -> AbstractContextManager[Tx]:
        """Begin a transaction; commit at the end of the block, roll back when it raises."""
        ...

    def at_once(self) -> AbstractContextManager[Tx]:
        """Begin a transaction for one call of one method, which commits with it."""
        ...

    def of(self, tenant: str) -> Store:
        """This store as one tenant sees it: no row of another's, and `ForeignTenant` for whoever would write one.

        Raises `InvalidRequest` for a tenant without a name.
        """
        ...


class SecretStore(Protocol):
    """Where secrets are kept. Only `get` returns a value, and only the tool host has a use for it.

    Each verb raises `InvalidSecret`, `NotFound`, `SecretMoved` (somebody was first) or `SecretsUnavailable`.
    """

    def put(self, tenant: str, name: str, value: str, *, by: str, new: bool = False) -> SecretVersion:
        """Write a value that is in use at once; with `new`, only if there is no such secret."""
        ...

    def get(self, tenant: str, name: str, version: int | None = None) -> Revealed:
        """The value of the current version, or of the one that is named."""
        ...

    def rotate(self, tenant: str, name: str, value: str, *, by: str) -> SecretVersion:
        """Write a value that is pending until it is promoted; one at a time."""
        ...

    def promote(
        self, tenant: str, name: str, *, by: str, version: int | None = None, over: int | None = None
    ) -> SecretVersion:
        """Put the pending version into use, or the one that is named; the one in use before stays as previous.

        With `over`, only if that version is the current one. Of several at once for one version, one succeeds.
        """
        ...

    def versions(self, tenant: str, name: str | None = None) -> Sequence[SecretVersion]:
        """The versions of one secret, or of all of a tenant's, by name and number."""
        ...

    def remove(
        self, tenant: str, name: str, version: int | None = None, *, by: str
    ) -> Sequence[SecretVersion]:
        """Remove a secret, or one version that is not current; returns what is gone for good."""
        ...


class Bus(Protocol):
    """How a doorbell is rung."""

    def publish(self, messages: Sequence[Message]) -> None:
        """Hand messages to the broker and return once it has confirmed them all, or raise `Unavailable`."""
        ...

    def depth(self, topic: Topic) -> int:
        """How many messages wait in a topic's queue."""
        ...

    def room(self) -> int:
        """How many more steps may be rung for before some are answered; what waits longer waits in the outbox."""
        ...


class Hold(StrEnum):
    """What came of asking for a lock."""

    OURS = "ours"
    THEIRS = "theirs"
    """Somebody else has it, and had it for as long as the caller would wait."""
    UNKNOWN = "unknown"
    """Nobody could be asked."""


class Locks(Protocol):
    """Hints at what others are doing; correctness never depends on one."""

    def hold(
        self, name: str, *, ttl: timedelta, wait: timedelta = timedelta(0), linger: timedelta = timedelta(0)
    ) -> AbstractContextManager[Hold]:
        """Try to hold a lock for the block, and say what came of it.

        Waits for `wait` at most, never raises, and never keeps the block from being entered. The lock ends after
        `ttl` whatever becomes of its holder; otherwise `linger` after the block.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """What a language model said next, and how many tokens that took."""

    text: str
    model: str
    input_tokens: int
    output_tokens: int


class Talker(Protocol):
    """Answers a person's conversation, without a plan."""

    def answer(
        self,
        who: Principal,
        messages: Sequence[Mapping[str, str]],
        *,
        model: str | None,
        decision: Judgement | None = None,
    ) -> Reply:
        """Return what the model says next; decided and recorded before it is asked.

        `decision` is what let the caller in to do this, where somebody has just asked; without one the policy is asked.
        Raises `Conflict` where there is no model, `Forbidden` where the policy says no, and `Unavailable`.
        """
        ...


class ToolDesk(Protocol):
    """Calls tools for persons and programs, without a plan."""

    def tools(self) -> Sequence[Mapping[str, Json]]:
        """Return what is known of each tool, and why it is withheld where it is."""
        ...

    def call(
        self, who: Principal, name: str, arguments: Mapping[str, Json], *, agent: str | None = None
    ) -> Mapping[str, Json]:
        """Return a tool's answer; decided as for this agent, and recorded before it is called.

        Raises `NotFound`, `Conflict` where it is withheld, `Forbidden` where the policy says no or wants a person's
        approval, `Invalid` where the tool does not take the arguments, and `Unavailable`.
        """
        ...


class Listener(Protocol):
    """Understands what is said in a conversation, and knows which facts answer a question; it looks nothing up."""

    def understand(self, who: Principal, message: str, before: Before | None) -> Understood:
        """Return what a message wants, given what was said before; in doubt it wants research."""
        ...

    def recall(self, message: str, goal: str, facts: Sequence[Kept], limit: int) -> Recalled:
        """Return those of the facts that answer the goal that a message meant; none where they do not suffice."""
        ...


class Judge(Protocol):
    """Whoever decides by policy what may happen."""

    def decide(self, package: str, document: Mapping[str, Json]) -> Judgement:
        """Ask one package of the policy about an input document. Never raises: what cannot be answered is denied."""
        ...
