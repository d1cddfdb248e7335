"""The nouns: plan, step, phase, agent, fact, call, approval, and what may be asked for.

A plan is one durable run of a goal. Its steps are numbered from 1 in the order in which they were decided;
so are its events. A claim is a worker's hold on a step: it only grows, and fences everyone who held it before.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from orchestrator.domain.budget import Budget, Spent
from orchestrator.domain.errors import InvalidDepth, InvalidGoal, InvalidRequest

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

GOAL_LIMIT_BYTES = 16 * 1024
DEPTHS = range(1, 6)
PRIORITIES = range(-100, 101)
KEY_LIMIT = 255
ROUNDS = range(1, 32_769)
CONSENSUS_ROUNDS = "consensus_rounds"
"""Where a request's metadata says how many drafts may be judged, if not as many as its depth allows."""


class PlanState(StrEnum):
    """Where a plan is; `partial` is a flag beside it, not a state."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING_APPROVAL = "waiting_approval"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD_LETTERED = "dead_lettered"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


class StepState(StrEnum):
    """Where a step is."""

    PENDING = "pending"
    READY = "ready"
    RUNNING = "running"
    WAITING_APPROVAL = "waiting_approval"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD = "dead"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class Phase(StrEnum):
    """The four phases of the OODA loop."""

    OBSERVE = "observe"
    ORIENT = "orient"
    DECIDE = "decide"
    ACT = "act"


class Agent(StrEnum):
    """Who thinks in a step; each has a profile in `agents/`."""

    ROUTER = "router"
    PLANNER = "planner"
    RESEARCHER = "researcher"
    CODER = "code-generator"
    KEEPER = "keeper"
    DIVERGER = "diverger"
    GENERATOR = "generator"
    CRITIC = "critic"
    JUDGE = "judge"
    SYNTHESISER = "synthesiser"

    @property
    def phase(self) -> Phase:
        """The phase of the loop in which this agent works."""
        return _PHASE_OF[self]

    @property
    def looks(self) -> bool:
        """Whether it finds facts: such a step is one of a round, and is not begun when the plan's time is up."""
        return self.phase is Phase.OBSERVE


_PHASE_OF: Mapping[Agent, Phase] = {
    Agent.ROUTER: Phase.ORIENT,
    Agent.PLANNER: Phase.DECIDE,
    Agent.RESEARCHER: Phase.OBSERVE,
    Agent.CODER: Phase.OBSERVE,
    Agent.KEEPER: Phase.ORIENT,
    Agent.DIVERGER: Phase.ORIENT,
    Agent.GENERATOR: Phase.ACT,
    Agent.CRITIC: Phase.ACT,
    Agent.JUDGE: Phase.DECIDE,
    Agent.SYNTHESISER: Phase.ACT,
}


class CallState(StrEnum):
    """What is known of a journalled call; `unknown` means it may or may not have happened."""

    INTENDED = "intended"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Semantics(StrEnum):
    """What repeating a tool's call does.

    `idempotent`: nothing more; `keyed`: nothing more, if the same key is sent; `at_most_once`: harm.
    """

    IDEMPOTENT = "idempotent"
    KEYED = "keyed"
    AT_MOST_ONCE = "at_most_once"


class ApprovalState(StrEnum):
    """Where a human decision is."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class StepRef:
    """A step's address: the plan and the step's number in it, from 1."""

    plan_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks for, checked: everything a plan is made of."""

    goal: str
    depth: int = 2
    tenant: str = "default"
    requester: str = "local"
    sources: Mapping[str, Json] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    priority: int = 0
    metadata: Mapping[str, Json] = field(default_factory=dict)
    key: str | None = None
    fork: Mapping[str, Json] = field(default_factory=dict)
    """The plan and step that the plan is to continue from, where it does not begin at the beginning."""

    def fingerprint(self) -> str:
        """A digest of what is asked; two requests that share a key must share it too."""
        asked = [
            self.goal,
            self.depth,
            self.tenant,
            self.sources,
            self.budget.as_json(),
            self.priority,
            self.metadata,
        ]
        return digest([*asked, self.fork] if self.fork else asked)


def request(goal: str, *, depth: object = 2, **rest: object) -> Request:
    """Return a checked request, or raise the kind of `Invalid` that says what is wrong with it.

    The goal is trimmed and put into Unicode's composed form; control characters become spaces.
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or depth not in DEPTHS:
        raise InvalidDepth(depth)
    made = Request(goal=clean_goal(goal), depth=depth, **rest)  # type: ignore[arg-type]
    made.budget.check()
    _check_request(made)
    return made


def _check_request(made: Request) -> None:
    if (
        isinstance(made.priority, bool)
        or not isinstance(made.priority, int)
        or made.priority not in PRIORITIES
    ):
        raise InvalidRequest(f"Priority must be a whole number from -100 to 100, not {made.priority!r}.")
    _check_rounds(made.metadata.get(CONSENSUS_ROUNDS))
    if made.key is not None and not 1 <= len(made.key) <= KEY_LIMIT:
        raise InvalidRequest(f"An idempotency key has 1 to {KEY_LIMIT} characters.")
    try:
        text = canonical([made.tenant, made.requester, made.key, made.sources, made.metadata]).decode()
    except (TypeError, ValueError) as error:  # ValueError: lone surrogates
        raise InvalidRequest(f"The request contains what cannot be stored: {error}") from error
    if "\\u0000" in text:
        raise InvalidRequest("The request contains a NUL character, which cannot be stored.")


def _check_rounds(asked: object) -> None:
    if asked is None or (isinstance(asked, int) and not isinstance(asked, bool) and asked in ROUNDS):
        return
    raise InvalidRequest(
        f"The rounds in which drafts are judged are a whole number from {ROUNDS[0]} to {ROUNDS[-1]:,}, not {asked!r}."
    )


def clean_goal(goal: object) -> str:
    """Return the goal as it will be stored, or raise `InvalidGoal` with what to do about it."""
    if not isinstance(goal, str):
        raise InvalidGoal("A goal is a text.")
    if len(goal) > GOAL_LIMIT_BYTES or len(goal.encode(errors="replace")) > GOAL_LIMIT_BYTES:
        size = len(goal.encode(errors="replace"))
        raise InvalidGoal(
            f"The goal is {size:,} bytes long; at most {GOAL_LIMIT_BYTES:,} are accepted. "
            "Ask a shorter question, and put long material into a document."
        )
    if any(unicodedata.category(c) == "Cs" for c in goal):
        raise InvalidGoal("The goal contains characters that are not text (lone surrogates).")
    printable = "".join(
        " " if unicodedata.category(c) == "Cc" else c for c in unicodedata.normalize("NFC", goal)
    )
    cleaned = " ".join(printable.split())
    if not any(unicodedata.category(c)[0] in "LNPS" for c in cleaned):
        raise InvalidGoal("The goal is empty. Ask a question, for example: What does the with statement do?")
    return cleaned


@dataclass(frozen=True, slots=True)
class Plan:
    """One durable run of a goal, as the store keeps it."""

    plan_id: str
    tenant: str
    goal: str
    depth: int
    state: PlanState
    requester: str
    budget: Budget
    spent: Spent
    created_at: datetime
    deadline: datetime | None = None
    partial: bool = False
    reason: str | None = None
    sources: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    priority: int = 0
    step_count: int = 0
    event_count: int = 0
    audit_count: int = 0
    audit_head: bytes = b""
    finished_at: datetime | None = None

    def overdue(self, now: datetime) -> bool:
        """Whether the plan's time budget has run out."""
        return self.deadline is not None and now >= self.deadline


@dataclass(frozen=True, slots=True)
class NewStep:
    """A step that has been decided on but has no number yet."""

    agent: Agent
    round: int = 0
    brief: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of a plan, as the store keeps it."""

    plan_id: str
    number: int
    agent: Agent
    state: StepState
    round: int = 0
    brief: Mapping[str, Json] = field(default_factory=dict)
    attempt: int = 0
    max_attempts: int = 5
    claim: int = 0
    holder: int | None = None
    leased_until: datetime | None = None
    run_after: datetime | None = None
    offered_at: datetime | None = None
    verdict: str | None = None
    follow_ups: Sequence[Mapping[str, Json]] = ()
    result: Mapping[str, Json] = field(default_factory=dict)
    reason: str | None = None
    settled: bool = False

    @property
    def ref(self) -> StepRef:
        """The step's address."""
        return StepRef(self.plan_id, self.number)

    @property
    def phase(self) -> Phase:
        """The phase of the loop in which this step works."""
        return self.agent.phase


@dataclass(frozen=True, slots=True)
class Claimed:
    """A step in a worker's hands, with all it needs to know and the number that fences it."""

    plan: Plan
    step: Step

    @property
    def ref(self) -> StepRef:
        """The step's address."""
        return self.step.ref

    @property
    def claim(self) -> int:
        """The fencing number of this hold."""
        return self.step.claim


@dataclass(frozen=True, slots=True)
class Evidence:
    """A stored source: its text, addressed by the SHA-256 of that text in UTF-8.

    `origin_sha256` is that of the bytes the text was read from; for plain text files both are the same.
    """

    sha256: str
    text: str
    locator: str
    title: str = ""
    media_type: str = "text/plain"
    origin_sha256: str = ""

    @staticmethod
    def of(
        text: str, *, locator: str, title: str = "", media_type: str = "text/plain", origin: str = ""
    ) -> Evidence:
        """Address a text by its digest."""
        sha = hashlib.sha256(text.encode()).hexdigest()
        return Evidence(sha, text, locator, title, media_type, origin or sha)


@dataclass(frozen=True, slots=True)
class Fact:
    """An atomic statement quoted from stored evidence: `quote` is `text[start:end]` of that evidence.

    `start` and `end` count characters. `step` and `number` (from 1 within the step) are its name in the plan.
    """

    step: int
    number: int
    quote: str
    evidence: str
    start: int
    end: int
    locator: str
    title: str = ""
    heading: tuple[str, ...] = ()
    origin_sha256: str = ""
    question: str = ""
    score: float = 0.0

    @property
    def name(self) -> str:
        """How drafts refer to it, such as `F3.1`."""
        return f"F{self.step}.{self.number}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, numbered per plan from 1 without gaps."""

    plan_id: str
    number: int
    at: datetime
    kind: str
    body: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Call:
    """One journalled tool or model call inside a step.

    `key` is the digest of tool and arguments; `occurrence` tells equal calls of one step apart, from 0.
    """

    plan_id: str
    step: int
    key: str
    occurrence: int
    tool: str
    semantics: Semantics
    state: CallState
    claim: int
    arguments: Mapping[str, Json] = field(default_factory=dict)
    result: Json = None
    evidence: str | None = None
    error: str | None = None
    reserved: Spent = field(default_factory=Spent)
    repeat_allowed: bool = False


@dataclass(frozen=True, slots=True)
class Escalation:
    """Who may decide as well once a stage's time is up, and for how long."""

    roles: tuple[str, ...]
    within: timedelta


@dataclass(frozen=True, slots=True)
class Stage:
    """People who must all decide, in any order: each seat is filled by one person in one of its roles."""

    seats: tuple[tuple[str, ...], ...]
    within: timedelta
    escalations: tuple[Escalation, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """Stages one after another; whoever has a role of `alone` may approve for all of them at once.

    `holds` is how long an approval may be used once it is given.
    """

    stages: tuple[Stage, ...]
    alone: tuple[str, ...] = ()
    holds: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What one person decided: in which role, at which stage, in which of its seats; numbered from 1."""

    number: int
    person: str
    role: str
    stage: int
    seat: int
    decision: ApprovalState
    comment: str = ""
    at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Approval:
    """A human decision: asked, decided once, bound to plan, step and the digest of the arguments.

    `roles` may decide now, at this `stage` of the chain after `level` escalations; `version` counts what has changed
    since it was asked. What was approved may be used until `holds_until`.
    """

    approval_id: str
    plan_id: str
    step: int
    category: str
    roles: tuple[str, ...]
    question: str
    args_digest: str
    requester: str
    state: ApprovalState = ApprovalState.PENDING
    expires_at: datetime | None = None
    decided_by: str | None = None
    comment: str = ""
    chain: Chain | None = None
    stage: int = 1
    level: int = 0
    version: int = 0
    holds_until: datetime | None = None
    asked_at: datetime | None = field(default=None, compare=False)
    decided_at: datetime | None = field(default=None, compare=False)

    def holds(self, now: datetime) -> bool:
        """Whether what was asked may be done now."""
        given = self.state is ApprovalState.APPROVED
        return given and (self.holds_until is None or now < self.holds_until)


class NotificationState(StrEnum):
    """How far a notification has come; `given_up` stays visible for whoever looks."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Notification:
    """What is to be told outside about an approval, and how far that has come; never the question or its arguments."""

    notification_id: str
    approval_id: str
    kind: str
    body: Mapping[str, Json]
    state: NotificationState = NotificationState.WAITING
    attempts: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A step or message that was given up on, and why; kept after it was retried or discarded."""

    letter_id: str
    plan_id: str | None
    step: int | None
    reason: str
    detail: str
    at: datetime
    attempts: int = 0
    state: str = "open"


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One link of a plan's audit chain; `body` is canonical JSON, `mac` seals it to `prev`."""

    chain: str
    number: int
    kind: str
    body: bytes
    prev: bytes
    mac: bytes
    key_id: str


def canonical(value: object) -> bytes:
    """Return the one JSON text of a value: keys sorted, no spaces, UTF-8."""
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain
    ).encode()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no canonical JSON form.")


def digest(value: object) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()
