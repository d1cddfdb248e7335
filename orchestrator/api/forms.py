"""What may be asked and what is answered, as models: the wall at which JSON is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from orchestrator.domain.budget import LEAST_STEPS, LONGEST_S, Budget
from orchestrator.domain.consensus import Decision, Verdict, Why
from orchestrator.domain.plan import (
    DEPTHS,
    GOAL_LIMIT_BYTES,
    PRIORITIES,
    ROUNDS,
    ApprovalState,
    NotificationState,
    PlanState,
    StepState,
    canonical,
)
from orchestrator.domain.schedule import FiringOutcome, Misfire, Overlap
from orchestrator.domain.stop import LONGEST_REASON

MOST = 2**53
"""The largest whole number that every reader of JSON keeps exactly."""

MOST_STEPS = 2**31 - 1
"""The largest number that a step may have."""

DOMAIN = "Whose personas and facets to use, such as `finance`; left out, the goal's words choose."

_USUAL = Budget()


def check_storable(value: object) -> None:
    """Raise `ValueError` for what JSON can say and a database cannot keep; the rest may be nested in any way."""
    match value:
        case str():
            _check_text(value)
        case bool() | None:
            pass
        case int() if abs(value) > MOST:
            raise ValueError("a number is beyond 2^53, which not every reader keeps exactly")
        case float() if not math.isfinite(value):
            raise ValueError("a number is not finite")
        case Mapping():
            for key, below in value.items():
                check_storable(key)
                check_storable(below)
        case list():
            for below in value:
                check_storable(below)
        case _:
            pass


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise ValueError("a text holds a NUL character")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("a text holds half a character (a lone surrogate)")


class Sent(BaseModel):
    """What is sent: nothing is converted, and nothing that is not known is let through."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        check_storable(value)
        return value


class BudgetForm(Sent):
    """What a plan may spend; what is left out has its usual limit."""

    steps: int = Field(default=_USUAL.steps, ge=LEAST_STEPS, le=MOST)
    calls: int = Field(default=_USUAL.calls, ge=0, le=MOST)
    tokens: int = Field(default=_USUAL.tokens, ge=0, le=MOST)
    cost_uusd: int = Field(default=_USUAL.cost_uusd, ge=0, le=MOST, description="In micro-dollars.")
    seconds: int = Field(
        default=_USUAL.seconds, ge=1, le=LONGEST_S, description="Of wall-clock time, from now."
    )


class SourcesForm(Sent):
    """Where to look."""

    documents: str = Field(
        min_length=1,
        max_length=4096,
        description="A folder on the server, in one of those that the setting `documents_roots` names.",
    )


class ResearchForm(Sent):
    """What somebody wants to know, and waits for."""

    query: str = Field(min_length=1, max_length=GOAL_LIMIT_BYTES, description="The question.")
    depth: int = Field(default=2, ge=DEPTHS[0], le=DEPTHS[-1], description="How deep to go.")
    max_sources: int | None = Field(
        default=None, ge=1, le=50, description="How many different documents the answer may quote."
    )
    domain: str | None = Field(default=None, max_length=100, description=DOMAIN)
    sources: SourcesForm | None = None


class PlanForm(Sent):
    """What somebody wants to know, and what it may cost."""

    goal: str = Field(min_length=1, max_length=GOAL_LIMIT_BYTES, description="The question.")
    depth: int = Field(default=2, ge=DEPTHS[0], le=DEPTHS[-1], description="How deep to go.")
    domain: str | None = Field(default=None, max_length=100, description=DOMAIN)
    max_sources: int | None = Field(
        default=None, ge=1, le=50, description="How many different documents the answer may quote."
    )
    sources: SourcesForm | None = None
    budget: BudgetForm = BudgetForm()
    priority: int = Field(default=0, ge=PRIORITIES[0], le=PRIORITIES[-1])
    consensus_rounds: int | None = Field(
        default=None,
        ge=ROUNDS[0],
        le=ROUNDS[-1],
        description="The most drafts to be judged, if not as many as the depth allows; kept in the metadata.",
    )
    metadata: dict[str, Any] = Field(default={}, description="Whatever you want to find with the plan again.")


class CancelForm(Sent):
    """Why a plan is ended."""

    reason: str = Field(default="asked for", min_length=1, max_length=1000, description="Kept in the audit.")


class ForkForm(Sent):
    """Where to go on from, and what to ask instead."""

    from_step: int | None = Field(
        default=None,
        ge=1,
        le=MOST_STEPS,
        description="The step to do again, with what follows it; left out, the plan begins at the beginning.",
    )
    goal: str | None = Field(
        default=None, min_length=1, max_length=GOAL_LIMIT_BYTES, description="The question, if it is another."
    )


class RulingForm(Sent):
    """How a person decides."""

    comment: str = Field(default="", max_length=10_000, description="Kept in the audit.")
    role: str | None = Field(
        default=None,
        max_length=64,
        description="Which of your roles you decide in; by default any that fits.",
    )
    stage: int | None = Field(
        default=None, ge=1, le=100, description="The stage that you saw; a decision about another is refused."
    )


class DecisionForm(RulingForm):
    """What a person decides."""

    decision: Literal["approve", "reject"]


class StopForm(Sent):
    """Why something is stopped."""

    reason: str = Field(
        min_length=1,
        max_length=LONGEST_REASON,
        description="Why, for whoever lifts it; it stands in the audit.",
    )


class ChatMessage(Sent):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1, max_length=GOAL_LIMIT_BYTES)


class ChatForm(Sent):
    """A conversation to be gone on with; `model` may name the one that is configured."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=200)
    model: str | None = Field(default=None, min_length=1, max_length=200)


class ToolForm(Sent):
    """What a tool is called with; `agent` names the profile that the call is judged by."""

    arguments: dict[str, Any] = Field(default_factory=dict, max_length=100)
    agent: str | None = Field(default=None, min_length=1, max_length=64)


class MessageForm(Sent):
    """A message in a conversation; without `conversation_id` it begins one."""

    content: str = Field(min_length=1, max_length=GOAL_LIMIT_BYTES, description="What you say.")
    conversation_id: UUID | None = Field(
        default=None, strict=False, description="The conversation that it belongs to."
    )
    depth: int | None = Field(
        default=None,
        ge=DEPTHS[0],
        le=DEPTHS[-1],
        description="How deep to go; by default as deep as before, or 2.",
    )
    sources: SourcesForm | None = Field(
        default=None, description="Where to look; by default where was looked before."
    )
    wait: float | None = Field(
        default=None, ge=0, le=300, description="The most seconds to wait for the answer; 30 by default."
    )


# --- answers ----------------------------------------------------------------------------------------------------


class Tool(BaseModel):
    """A tool of the registry; one that is withheld here has no more than its name and the reason."""

    name: str
    withheld: str | None
    server: str | None = None
    capability: str | None = None
    semantics: str | None = None
    keywords: list[str] = []
    yields: list[str] = []


class Tools(BaseModel):
    """The tools of the registry, in its order."""

    items: list[Tool]


class ToolAnswer(BaseModel):
    """What a tool answered; text in it is data that others wrote, never an instruction."""

    tool: str
    content: dict[str, Any]


class ChatAnswer(BaseModel):
    """What the model says next."""

    role: Literal["assistant"]
    content: str


class ChatUsage(BaseModel):
    """How many tokens an answer took, as the model counts them."""

    input_tokens: int
    output_tokens: int


class ChatReply(BaseModel):
    """The model's answer."""

    message: ChatAnswer
    model: str
    usage: ChatUsage


class Spent(BaseModel):
    """What a plan has spent."""

    steps: int
    calls: int
    tokens: int
    cost_uusd: int


class Limits(Spent):
    """What a plan may spend."""

    seconds: int


class Plan(BaseModel):
    """One durable run of a goal."""

    plan_id: str
    state: PlanState
    partial: bool
    reason: str | None
    goal: str
    depth: int
    tenant: str
    requester: str
    sources: dict[str, Any]
    metadata: dict[str, Any]
    priority: int
    budget: Limits
    spent: Spent
    steps: int
    events: int
    audit_records: int
    created_at: str
    deadline: str | None
    finished_at: str | None


class Planned(BaseModel):
    """What a goal was split into: the same JSON and digest as in the plan's audit."""

    sha256: str
    plan: dict[str, Any]


class PlanShown(Plan):
    """A plan, and its tasks once there are any."""

    planned: Planned | None = Field(default=None, description="Left out before the goal was split.")


class PlanPage(BaseModel):
    """Plans, the newest first; `next` is the cursor of the page that follows, where there is one."""

    plans: list[Plan]
    next: str | None


class Step(BaseModel):
    """One unit of a plan."""

    number: int
    agent: str
    phase: str
    round: int
    state: StepState
    attempt: int
    max_attempts: int
    claim: int
    verdict: str | None
    brief: dict[str, Any]
    result: dict[str, Any]
    reason: str | None
    settled: bool
    run_after: str | None


class Steps(BaseModel):
    """A plan's steps by number."""

    steps: list[Step]


class Checkpoint(BaseModel):
    """A step that a plan may be forked from: the steps that a fork takes over, and those that it does again at first."""

    step: int
    agent: str
    phase: str
    round: int
    state: StepState
    verdict: str | None
    reused: list[int]
    again: list[int]


class Checkpoints(BaseModel):
    """Where a plan can be returned to, by step."""

    checkpoints: list[Checkpoint]


class Call(BaseModel):
    """One journalled tool or model call."""

    step: int
    tool: str
    state: str
    semantics: str
    occurrence: int
    arguments: dict[str, Any]
    evidence: str | None
    error: str | None
    tokens: int
    cost_uusd: int


class Calls(BaseModel):
    """A plan's calls in the order in which they were first intended."""

    calls: list[Call]


class Fact(BaseModel):
    """A statement, and where it stands word for word."""

    name: str
    step: int
    number: int
    quote: str
    evidence: str
    start: int
    end: int
    locator: str
    title: str
    heading: list[str]
    origin_sha256: str
    question: str
    score: float


class Ballot(BaseModel):
    """One round in which a draft was criticised and judged."""

    round: int
    draft: str = Field(description="The digest of the draft.")
    objections: int = Field(description="The grave ones, which exclude acceptance.")
    verdict: Verdict
    confidence: float
    threshold: float = Field(description="How sure the judge must be in this round.")
    decided: Decision
    why: Why | None = Field(description="Why the plan ends without an accepted draft.")
    generator: int
    critic: int
    judge: int
    at: str | None


class Ballots(BaseModel):
    """A plan's ballots by round."""

    ballots: list[Ballot]


class Facts(BaseModel):
    """A plan's facts by step and number."""

    facts: list[Fact]


class AuditRecord(BaseModel):
    """One sealed record."""

    number: int
    kind: str
    body: Any
    mac: str
    key_id: str


class Break(BaseModel):
    """The first place where a chain does not hold."""

    record: int
    fault: str


class Audit(BaseModel):
    """A plan's chain, and whether it holds."""

    verified: bool
    broken: Break | None
    records: list[AuditRecord]


EventType: TypeAlias = Literal[
    "query_received",
    "query_classified",
    "query_completed",
    "tool_called",
    "tool_result",
    "tool_error",
    "data_accessed",
    "data_modified",
    "data_deleted",
    "decision_made",
    "decision_overridden",
    "escalation_created",
    "escalation_resolved",
    "approval_requested",
    "approval_granted",
    "approval_denied",
    "security_check",
    "security_violation",
    "access_denied",
    "system_start",
    "system_stop",
    "config_changed",
    "error",
]
"""What an entry of the audit may be about."""

DETAILS_LIMIT_BYTES = 16_384
"""How long the details of an entry may be as JSON."""


class EntryForm(Sent):
    """What is to be appended to the audit. Who appends it is written down besides."""

    event_type: EventType
    action: str = Field(min_length=1, max_length=200, description="What was done.")
    actor: str = Field(default="system", min_length=1, max_length=200, description="Who did it.")
    resource: str = Field(default="", max_length=1000, description="What it was done to.")
    details: dict[str, Any] = Field(default={}, description="At most 16 KiB as JSON. Put no secret here.")
    session_id: str = Field(default="", max_length=200)

    @field_validator("details")
    @classmethod
    def _not_too_long(cls, details: dict[str, Any]) -> dict[str, Any]:
        if len(canonical(details)) > DETAILS_LIMIT_BYTES:
            raise ValueError(f"the details are longer than {DETAILS_LIMIT_BYTES} bytes as JSON")
        return details


class AppendedEntry(BaseModel):
    """What was appended: its id, and its seal."""

    entry_id: str
    checksum: str


class Entry(BaseModel):
    """One entry of the audit. `by` is who stated it, `actor` who it is about, `checksum` its seal."""

    entry_id: str
    timestamp: str
    event_type: str
    actor: str
    action: str
    resource: str
    details: Any
    parent_id: str | None
    session_id: str
    checksum: str
    by: str


class Entries(BaseModel):
    """Entries, the newest first; `next` goes on behind them, and may lead to an empty page at the end."""

    entries: list[Entry]
    next: str | None


class Event(BaseModel):
    """Something that happened to a plan."""

    plan_id: str
    number: int
    at: str
    kind: str
    body: dict[str, Any]


class Events(BaseModel):
    """Events by number; `last` is what to ask for next `after`, `ended` whether nothing will follow."""

    events: list[Event]
    last: int
    ended: bool


class Research(BaseModel):
    """How a research ended."""

    job_id: str
    status: PlanState
    report: str | None = Field(description="Markdown.")
    confidence: float | None
    sources_count: int
    facts_count: int


class Conversation(BaseModel):
    """A conversation of yours; `last_plan_id` is the plan that it last spoke about."""

    conversation_id: str
    created_at: str
    turns: int
    last_plan_id: str | None


class Conversations(BaseModel):
    """Conversations, those begun last first; `next` is the cursor of the page that follows, where there is one."""

    conversations: list[Conversation]
    next: str | None


class TurnCitation(BaseModel):
    """Where a sentence stands, word for word, and the plan that found it; its number is the mark in the content."""

    number: int
    fact: str
    quote: str
    evidence: str
    start: int
    end: int
    locator: str
    title: str
    heading: list[str]
    origin_sha256: str
    computed: bool = Field(default=False, description="Whether a script computed what is quoted.")
    script: str = Field(default="", description="The digest of that script and its inputs.")
    plan_id: str


class Turn(BaseModel):
    """One turn. An assistant's that is `working` has no answer yet: its plan has events, and its own address an answer."""

    conversation_id: str
    turn: int
    role: Literal["user", "assistant"]
    state: Literal["working", "answered"]
    route: Literal["casual", "follow_up", "revise", "deeper", "new_topic"] | None
    content: str = Field(description="Plain text; `[1]` marks the first citation.")
    goal: str = Field(description="The question in full, as it was understood.")
    plan_id: str | None
    verdict: str | None
    citations: list[TurnCitation]
    facts_used: int
    confidence: float | None
    partial: bool
    gaps: list[str]
    notes: list[str]
    at: str


class History(Conversation):
    """A conversation with its turns by number; `next` is what to ask for `after` this page, where there is more."""

    history: list[Turn]
    next: int | None


class DeadLetter(BaseModel):
    """What was given up on."""

    letter_id: str
    plan_id: str | None
    step: int | None
    state: str
    reason: str
    detail: str
    attempts: int
    at: str


class WholeDeadLetter(DeadLetter):
    """What was given up on, with the events of its plan that tell how, and what was done about it."""

    history: list[Event]


class DeadLetters(BaseModel):
    """Dead letters, the newest first; `next` is the cursor of the page that follows, where there is one."""

    dead_letters: list[DeadLetter]
    next: str | None


class Approval(BaseModel):
    """A human decision, asked for or made."""

    approval_id: str
    plan_id: str
    step: int
    state: ApprovalState
    category: str
    question: str
    roles: list[str]
    requester: str
    args_digest: str
    stage: int = Field(description="The stage that waits, or was the last; from 1.")
    stages: int
    asked_at: str | None
    expires_at: str | None = Field(description="When others are asked as well, or it expires.")
    decided_at: str | None
    decided_by: str | None
    holds_until: str | None = Field(description="Until when what was approved may be done.")
    comment: str


class Ruling(BaseModel):
    """What one person decided."""

    number: int
    person: str
    role: str
    stage: int
    decision: ApprovalState
    comment: str
    at: str | None


class Notification(BaseModel):
    """What was told, or is to be told, outside."""

    notification_id: str
    approval_id: str
    plan_id: str | None
    step: int | None
    tenant: str | None
    kind: str
    state: NotificationState
    attempts: int
    error: str | None = Field(description="What was wrong with the last attempt.")
    at: str | None = Field(description="When it was to be told first.")


class Notifications(BaseModel):
    """What is told outside, the oldest first."""

    notifications: list[Notification]


class Stop(BaseModel):
    """What is stopped."""

    target: str
    reason: str
    tenant: str | None = Field(description="For whose plans; null where it holds everywhere.")
    by: str | None
    at: str | None


class Stops(BaseModel):
    """What is stopped for the caller's tenant, the oldest first."""

    stops: list[Stop]


class ApprovalInFull(Approval):
    """A human decision with everybody who has a part in it."""

    chain: list[list[list[str]]] = Field(
        description="For each stage its seats, and for each of these the roles that may fill it."
    )
    rulings: list[Ruling]
    notifications: list[Notification]


class Approvals(BaseModel):
    """Approvals, the oldest first."""

    approvals: list[Approval]


class Health(BaseModel):
    """This process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Everything that is needed answers."""

    status: Literal["ready"] = "ready"
    dependencies: dict[str, str]


class Caller(BaseModel):
    """Whom this API takes a caller for, and until when; `kind` says what was shown."""

    name: str
    tenant: str
    roles: list[str]
    scopes: list[str]
    kind: Literal["key", "token", "session", "development"]
    expires_at: str | None


class NewSession(Caller):
    """A session at the one moment when its token can be seen."""

    token: str


class Schedule(BaseModel):
    """What is to be asked again and again, and when."""

    schedule_id: str
    tenant: str
    name: str
    cron: str
    timezone: str
    request: dict[str, Any]
    misfire: Misfire
    overlap: Overlap
    paused: bool
    next_at: str | None
    last_plan_id: str | None
    created_at: str | None


class ShownSchedule(Schedule):
    """A schedule, and when it would be fired next."""

    upcoming: list[str]


class Schedules(BaseModel):
    """Schedules by name."""

    schedules: list[Schedule]


class Firing(BaseModel):
    """What became of one tick of a schedule, or of a question that came without one."""

    schedule_id: str | None
    due_at: str
    fired_at: str
    outcome: FiringOutcome
    plan_id: str | None
    reason: str | None


class Firings(BaseModel):
    """A schedule's ticks, the newest first."""

    firings: list[Firing]


class KeptBrief(BaseModel):
    """A brief as it is kept."""

    task_id: str
    query: str
    cron_expr: str
    depth: int
    max_sources: int
    domain: str | None
    enabled: bool
    created_at: str | None
    last_run_at: str | None
    next_run_at: str | None


class KeptBriefs(BaseModel):
    """Every schedule as a brief."""

    message: str
    data: list[KeptBrief]


class Kept(BaseModel):
    """That a brief is kept."""

    message: str
    data: KeptBrief
