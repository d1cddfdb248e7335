"""The one door through which tools are reached: judge, intend, call, record.

    recall ─ done before ────────────────────────────────▶ answered from the journal, for nothing
       │
    lock ─ somebody makes this call ▶ wait a while, and go on either way: it is a hint, and what follows decides
       │
    judge ─ denied ▶ CallRefused      ─ a human must ▶ CallHeld      ─ nobody can say ▶ CallFailed (try again)
       │ allowed
    intend: decision, arguments' digest and claim committed ─ budget spent ▶ BudgetSpent  ─ claim lost ▶ Fenced
       │
    call ─ an error ▶ recorded as failed, CallFailed     ─ no answer ▶ recorded as unknown, CallFailed
       │
    conclude: the result is stored as evidence under its digest, and the outcome recorded

A model is asked in the order of the catalogue: each that is asked is a call of its own, and passes the whole of this.

No line below the intent is reached without it; a call that failed leaves nothing behind that could become a fact.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from agents.profiles import Profile
from agents.toolbox import CallFailed, CallRefused, ToolCard, ToolResult
from orchestrator.conductor import AskHuman, CallAsk, Conductor, Proceed, Replayed
from orchestrator.domain.approval import Category
from orchestrator.domain.budget import Spent
from orchestrator.domain.errors import BudgetSpent
from orchestrator.domain.plan import (
    Agent,
    ApprovalState,
    Call,
    CallState,
    Claimed,
    Evidence,
    Json,
    Semantics,
    canonical,
    digest,
)
from orchestrator.domain.stop import Stop
from orchestrator.locks import NoLocks
from orchestrator.ports import Hold, Locks
from orchestrator.telemetry import log
from workers.gate.policy import Decision, PolicyEnforcer, Question
from workers.gate.stops import StopsUnreadableError
from workers.gate.surroundings import Known, describe
from workers.toolhost.host import ToolFailure, ToolHost
from workers.toolhost.models.catalogue import Catalogue, Model
from workers.toolhost.models.port import FAULTS, NOTHING, Usage, counted
from workers.toolhost.registry import Registry, ToolSpec

APPROVERS = ("approver", "operator")
"""The roles that may decide what the gate asks."""

PASSING: Final = frozenset({"stopped", "schema_changed"})
"""Objections that somebody lifts without changing the call: it is tried again, and its plan is not lost."""

_CARRIERS: Final = (Agent.RESEARCHER, Agent.CODER)
"""The agents that carry out what a planner plans, as far as there are profiles of them."""

_TURN: Final = timedelta(seconds=0.5)
"""How long a call waits for the same call of a worker that was taken for dead."""

_MODEL: Final = "model"
"""The server whose tool is asked in the order of the catalogue, and paid for by its tokens."""

_NEXT: Final = FAULTS | {"timed_out", "server_down", "server_gone"}
"""Why a model did not answer that speaks for asking the next; what policy says holds for every model."""

_LEAST_S: Final = 1.0
"""Seconds that a model has at least, where a plan's time is almost over."""

_MAYBE: Final = " It may have happened already, before its worker was lost, and would then happen again."

_AROUND: Final = timedelta(seconds=10)
"""What a lock is held for besides the tool's own time: judging, recording, starting its server."""


class CallHeld(Exception):
    """A human must decide before the call can be made, which needs this capability."""

    def __init__(self, question: str, args_digest: str, capability: str = "") -> None:
        super().__init__(question)
        self.capability = capability
        self.question = question
        self.args_digest = args_digest


class Gate:
    """Every tool call of this process passes here."""

    def __init__(
        self,
        conductor: Conductor,
        enforcer: PolicyEnforcer,
        profiles: Mapping[str, Profile],
        registry: Registry,
        host: ToolHost,
        models: Catalogue,
        locks: Locks | None = None,
        *,
        known: Known | None = None,
        crash_point: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._conductor = conductor
        self._enforcer = enforcer
        self._profiles = profiles
        self._registry = registry
        self._host = host
        self._models = models
        self._locks = locks or NoLocks()
        self._known = known or Known()
        self._crash_point = crash_point

    def call(
        self, claimed: Claimed, name: str, arguments: Mapping[str, Json], *, occurrence: int
    ) -> ToolResult:
        """Return a tool's answer, made now or before. See the module for what it raises."""
        tool = self._registry.tools.get(name)
        if tool is None and name in self._registry.withheld:
            raise CallRefused("tool_withheld", f"{name} is not offered. {self._registry.withheld[name]}")
        if tool is None:
            raise CallRefused("unknown_tool", f"There is no tool {name} in the registry.")
        if tool.server == _MODEL:
            return self._asked(claimed, tool, arguments, occurrence)
        return self._made_before(claimed, tool, arguments, occurrence) or self._made_now(
            claimed, tool, arguments, occurrence
        )

    def _asked(
        self, claimed: Claimed, tool: ToolSpec, arguments: Mapping[str, Json], occurrence: int
    ) -> ToolResult:
        """Ask the models one after the other until one answers; whoever did before is not asked again."""
        asks = [{**arguments, **choice} for choice in self._choices(claimed, arguments)]
        for ask in asks:
            before = self._made_before(claimed, tool, ask, occurrence)
            if before is not None:
                return before
        for ask in asks[:-1]:
            try:
                return self._made_now(claimed, tool, ask, occurrence)
            except CallFailed as failed:
                if failed.reason not in _NEXT:
                    raise
                log.warning("model.skipped", model=ask["model"], reason=failed.reason)
        return self._made_now(claimed, tool, asks[-1], occurrence)

    def _choices(self, claimed: Claimed, arguments: Mapping[str, Json]) -> list[dict[str, Json]]:
        """Return what the step's profile says about models, as arguments: at least one choice."""
        profile = self._profiles.get(claimed.step.agent)
        preferred = profile.model if profile else None
        warmth: dict[str, Json] = {}
        if preferred is not None and preferred.temperature is not None and "temperature" not in arguments:
            warmth["temperature"] = preferred.temperature
        if "model" in arguments:
            return [warmth]
        return [{"model": model.name, **warmth} for model in self._models.order(preferred)] or [warmth]

    def _made_before(
        self, claimed: Claimed, tool: ToolSpec, arguments: Mapping[str, Json], occurrence: int
    ) -> ToolResult | None:
        before = self._conductor.recall(claimed, digest([tool.name, arguments]), occurrence)
        return (
            self._replayed(claimed, before) if before is not None and before.state is CallState.DONE else None
        )

    def _made_now(
        self, claimed: Claimed, tool: ToolSpec, arguments: Mapping[str, Json], occurrence: int
    ) -> ToolResult:
        key = digest([tool.name, arguments])
        with self._turn(claimed, tool, key, occurrence):
            return self._decided(claimed, tool, arguments, key, occurrence)

    def use(self, registry: Registry) -> None:
        """Work by another registry from the next call on; a call in hand goes on by the one that it began with."""
        self._registry = registry

    @property
    def labelled(self) -> frozenset[str]:
        """The tools that bring in what others wrote, or what must not leave."""
        return self._registry.labelled

    def cards(self, agent: str) -> Sequence[ToolCard]:
        """Return what this agent may know of the tools that are offered to it; see `Toolbox.tools`.

        Nothing is allowed by being listed: each call is judged when it is made.
        """
        return cards_of(self._registry, self._profiles, agent)

    def charter(self, agent: str) -> str:
        """Return what an agent's profile tells its model."""
        found = self._profiles.get(agent)
        return found.charter if found else ""

    def tags(self, agent: str) -> Sequence[str]:
        """Return the words by which an agent's profile wants its work to be found."""
        found = self._profiles.get(agent)
        return found.tracing_tags if found else ()

    @contextmanager
    def _turn(self, claimed: Claimed, tool: ToolSpec, key: str, occurrence: int) -> Iterator[None]:
        """Let another make this call first, or any call of an exclusive tool; not for long, and not to rely on.

        Nothing is decided before the wait, so that the decision, the intent and the call follow each other closely:
        whoever lost its claim meanwhile is told so by the intent.
        """
        time_out = timedelta(seconds=tool.timeout_s)
        name = f"call:{claimed.ref.plan_id}:{claimed.ref.number}:{key}:{occurrence}"
        wait = _TURN
        if tool.exclusive:
            # no call takes longer than its timeout, so that whoever is waited for has gone by then
            name, wait = f"tool:{tool.name}", time_out
        with self._locks.hold(name, ttl=time_out + _AROUND, wait=wait) as hold:
            if hold is Hold.THEIRS:
                log.info("lock.contended", tool=tool.name)
            yield

    def _decided(
        self, claimed: Claimed, tool: ToolSpec, arguments: Mapping[str, Json], key: str, occurrence: int
    ) -> ToolResult:
        decision = self._judge(claimed, tool, arguments, key, occurrence)
        ask = CallAsk(
            tool=tool.name,
            key=key,
            occurrence=occurrence,
            semantics=Semantics(tool.semantics),
            arguments=arguments,
            decision=_recorded(decision),
            reserve=self._reserve(tool, arguments),
        )
        timeout_s = self._time(claimed, tool)
        match self._conductor.intend(claimed, ask):
            case Replayed(call=call):
                return self._replayed(claimed, call)
            case AskHuman(call=call):
                raise CallHeld(
                    f"A call of {call.tool} may have happened before its worker was lost. Approve to make it again.",
                    key,
                )
            case Proceed(idempotency_key=idempotency_key):
                return self._perform(claimed, tool, ask, idempotency_key, timeout_s)

    def _judge(
        self, claimed: Claimed, tool: ToolSpec, arguments: Mapping[str, Json], key: str, occurrence: int
    ) -> Decision:
        plan, step = claimed.plan, claimed.step
        profile = self._profiles.get(step.agent)
        approvals, stopped = self._said_by_people(claimed, tool, key)
        call = self._surroundings(claimed, tool, arguments, profile, stopped)
        decision = self._enforcer.judge(
            Question(
                agent=step.agent.value,
                tool=tool.name,
                server=tool.server,
                held=profile.capabilities if profile else (),
                required=(tool.capability,),
                approval_policy=dict(profile.approval_policy) if profile else {},
                approvals=approvals,
                run_mode="any",
                tenant_id=plan.tenant,
                plan_id=plan.plan_id,
                step=step.number,
                attempt=step.attempt,
                depth=plan.depth,
                cost_uusd=tool.cost_uusd,
                args_digest=key,
                trace_id=plan.plan_id,
                profile_known=profile is not None,
                call=call,
            )
        )
        if decision.allow and not decision.failed:
            return decision
        log.warning(
            "tool.refused",
            tool=tool.name,
            effect=decision.effect,
            reasons=[r.reason for r in decision.reasons],
        )
        if decision.failed:
            raise CallFailed(
                "policy_unavailable", f"The policy could not answer: {decision.detail or 'no reason given'}."
            )
        if decision.effect == "require_approval":
            # who approves lets it be repeated as well, and must know that
            maybe = _MAYBE if self._may_have_happened(claimed, key, occurrence) else ""
            question = f"{step.agent} wants to call {tool.name}, which needs approval.{maybe}"
            raise CallHeld(question, key, tool.capability)
        why = ", ".join(f"{r.reason} {r.capability}".strip() for r in decision.reasons)
        passing = [r.reason for r in decision.reasons if r.reason in PASSING]
        if passing:
            found = f" It describes itself as {_found(call)}." if "schema_changed" in passing else ""
            raise CallFailed(passing[0], f"Policy {decision.revision} holds {tool.name} back: {why}.{found}")
        # what this machine cannot confine it does not offer; nobody decided against it
        withheld = {r.reason for r in decision.reasons} == {"sandbox_unenforced"}
        raise CallRefused(
            "tool_withheld" if withheld else "policy_denied",
            f"Policy {decision.revision} denies {step.agent} the tool {tool.name}: {why}.",
        )

    def _surroundings(
        self,
        claimed: Claimed,
        tool: ToolSpec,
        arguments: Mapping[str, Json],
        profile: Profile | None,
        stopped: Sequence[Stop],
    ) -> Mapping[str, Json]:
        """What the policy may know of this call besides capabilities; what cannot be found out is a failed call."""
        try:
            return describe(
                self._known,
                tool,
                arguments,
                tenant=claimed.plan.tenant,
                plan_id=claimed.ref.plan_id,
                journal=lambda: self._journal(claimed.ref.plan_id),
                tools=self._registry.tools,
                schema=lambda: self._host.schema(tool, tenant=claimed.plan.tenant),
                agent=claimed.step.agent.value,
                agent_hosts=profile.egress_hosts if profile else None,
                stopped=stopped,
            )
        except StopsUnreadableError as error:
            raise CallFailed("stopped", str(error)) from error
        except ToolFailure as failure:
            raise CallFailed(failure.reason, failure.detail) from failure

    def _journal(self, plan_id: str) -> list[Call]:
        """Every call of a plan, and of those that it was forked from: what they read, it has read."""
        found: list[Call] = []
        known = {""}
        with self._conductor.store.transaction() as tx:
            while plan_id not in known:
                known.add(plan_id)
                found += tx.calls(plan_id)
                first = tx.events(plan_id, limit=1)
                plan_id = str(first[0].body.get("fork_of") or "") if first else ""
        return found

    def _said_by_people(
        self, claimed: Claimed, tool: ToolSpec, key: str
    ) -> tuple[Mapping[str, bool], Sequence[Stop]]:
        """What humans granted for exactly this call (this plan, this step, these arguments), and what they stopped.

        They must have been asked about what the call is: that somebody else let it be repeated, say, grants nothing.
        """
        about = self._conductor.rules.categories.get(tool.capability, Category.DECISION)
        with self._conductor.store.transaction() as tx:
            given = tx.approvals(state=ApprovalState.APPROVED, plan_id=claimed.ref.plan_id)
            granted = [a for a in given if a.holds(tx.now())]
            stopped = tx.stops(claimed.plan.tenant)
        fits = any((a.step, a.args_digest, a.category) == (claimed.ref.number, key, about) for a in granted)
        return {tool.capability: True} if fits else {}, stopped

    def _may_have_happened(self, claimed: Claimed, key: str, occurrence: int) -> bool:
        before = self._conductor.recall(claimed, key, occurrence)
        return before is not None and before.state in {CallState.INTENDED, CallState.UNKNOWN}

    def _reserve(self, tool: ToolSpec, arguments: Mapping[str, Json]) -> Spent:
        model = self._model(tool, arguments)
        return Spent(calls=1, cost_uusd=tool.cost_uusd) if model is None else model.reserve(arguments)

    def _model(self, tool: ToolSpec, arguments: Mapping[str, Json]) -> Model | None:
        return self._models.named(str(arguments.get("model"))) if tool.server == _MODEL else None

    def _time(self, claimed: Claimed, tool: ToolSpec) -> float:
        """Return the seconds that a call may take; a model is not waited for beyond the plan's own time.

        Raises `BudgetSpent` when that is over: what is left to do is done without a model.
        """
        deadline = claimed.plan.deadline
        if tool.server != _MODEL or deadline is None:
            return tool.timeout_s
        with self._conductor.store.transaction() as tx:
            left = (deadline - tx.now()).total_seconds()
        if left <= 0:
            raise BudgetSpent("seconds", claimed.plan.budget.seconds)
        return min(tool.timeout_s, max(left, _LEAST_S))

    def _perform(
        self, claimed: Claimed, tool: ToolSpec, ask: CallAsk, idempotency_key: str, timeout_s: float
    ) -> ToolResult:
        self._crash_point("after_intent")
        started = time.monotonic()
        tenant, profile = claimed.plan.tenant, self._profiles.get(claimed.step.agent)
        try:
            content = self._host.call(
                tool,
                ask.arguments,
                timeout_s=timeout_s,
                key=idempotency_key,
                tenant=tenant,
                # judged again on every hop: the policy saw the first address, and not where that leads
                reach=self._known.narrowed(tenant, profile.egress_hosts if profile else None),
            )
        except ToolFailure as failure:
            state = CallState.UNKNOWN if failure.unsure else CallState.FAILED
            reason: Json = {"reason": failure.reason}
            self._conductor.conclude(claimed, ask, state=state, result=reason, error=failure.detail)
            log.info("tool.called", tool=tool.name, state=state, reason=failure.reason)
            raise CallFailed(failure.reason, failure.detail) from failure
        self._crash_point("after_answer")
        spent = self._spent(tool, ask, content)
        if tool.server == _MODEL and content.get("fault"):
            raise self._unanswered(claimed, ask, content, spent)
        evidence, kept = _as_evidence(tool, content)
        self._conductor.conclude(
            claimed, ask, state=CallState.DONE, result=kept, evidence=evidence, spent=spent
        )
        log.info(
            "tool.called",
            tool=tool.name,
            state="done",
            duration_ms=round((time.monotonic() - started) * 1000),
        )
        return ToolResult(content, evidence.sha256)

    def _unanswered(
        self, claimed: Claimed, ask: CallAsk, content: Mapping[str, Any], spent: Spent
    ) -> CallFailed:
        """Record that a model said why it does not answer; what that took is settled like an answer."""
        fault, detail = str(content["fault"]), str(content.get("detail"))
        reason: Json = {"reason": fault}
        self._conductor.conclude(
            claimed, ask, state=CallState.FAILED, result=reason, error=detail, spent=spent
        )
        log.info("tool.called", tool=ask.tool, state=CallState.FAILED, reason=fault)
        return CallFailed(fault, detail)

    def _spent(self, tool: ToolSpec, ask: CallAsk, content: Mapping[str, Any]) -> Spent:
        model = self._model(tool, ask.arguments)
        if model is None:
            return ask.reserve
        if content.get("unbilled") is True and content.get("fault"):
            return Spent(calls=1)
        came, went = content.get("input_tokens"), content.get("output_tokens")
        cached, written = content.get("cached_tokens", 0), content.get("written_tokens", 0)
        if not counted(came, went, cached, written):
            return ask.reserve
        usage = Usage(int(came or 0), int(went or 0), int(cached), int(written))
        if usage == NOTHING:
            return ask.reserve  # it does not say: nothing is given back
        said = model.spent(usage)
        # more than was reserved cannot have been used, so that whoever says so is not believed
        fits = said.tokens <= ask.reserve.tokens and said.cost_uusd <= ask.reserve.cost_uusd
        return said if fits else ask.reserve

    def _replayed(self, claimed: Claimed, call: Call) -> ToolResult:
        log.info("tool.replayed", tool=call.tool)
        with self._conductor.store.transaction() as tx:
            evidence = tx.evidence(claimed.plan.tenant, call.evidence or "")
        return answer_of(call, evidence)


def answer_of(call: Call, evidence: Evidence | None) -> ToolResult:
    """Return what a journalled call answered; raises `CallFailed` where its evidence is gone."""
    if evidence is None:
        raise CallFailed(
            "evidence_missing", f"The journal knows a call of {call.tool} whose evidence is gone."
        )
    if isinstance(call.result, Mapping):
        return ToolResult({**call.result, "text": evidence.text}, evidence.sha256)
    return ToolResult(json.loads(evidence.text), evidence.sha256)


def cards_of(tools: Registry, profiles: Mapping[str, Profile], agent: str) -> Sequence[ToolCard]:
    """Return what an agent may know of the tools of a registry, by what its profile grants."""
    names = (agent, *_CARRIERS) if agent == Agent.PLANNER else (agent,)
    held = {c for name in names if name in profiles for c in profiles[name].capabilities}
    return [_card(tool) for tool in tools.tools.values() if tool.capability in held]


def _card(tool: ToolSpec) -> ToolCard:
    return ToolCard(
        tool.name,
        tool.description,
        tool.keywords,
        tool.weight,
        tool.capability,
        tool.weights,
        tool.planned,
        tool.asks,
        tool.fallbacks,
    )


def _as_evidence(tool: ToolSpec, content: Mapping[str, Any]) -> tuple[Evidence, Json]:
    """Return the evidence in a result, and what the journal keeps beside it.

    A document is stored as its text, so that quotes have a place in it; anything else as canonical JSON.
    """
    if isinstance(content.get("text"), str) and isinstance(content.get("locator"), str):
        document = Evidence.of(
            content["text"],
            locator=content["locator"],
            title=str(content.get("title") or ""),
            media_type=str(content.get("media_type") or "text/plain"),
            origin=str(content.get("sha256") or ""),
        )
        return document, {key: value for key, value in content.items() if key != "text"}
    text = canonical(content).decode()
    return Evidence.of(text, locator=f"tool:{tool.name}", media_type="application/json"), None


def _recorded(decision: Decision) -> Mapping[str, Json]:
    return {
        "decision_id": decision.decision_id,
        "effect": decision.effect,
        "revision": decision.revision,
        "input_sha256": decision.input_digest,
        "engine": decision.engine,
    }


def _found(call: Mapping[str, Json]) -> str:
    schema = call["schema"]
    return str(schema["found"] or "nothing") if isinstance(schema, Mapping) else "nothing"
