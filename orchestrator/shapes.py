"""What a plan and its parts look like as JSON; everything that shows them agrees on this."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from orchestrator.domain.consensus import Ballot
from orchestrator.domain.conversation import Conversation, Turn
from orchestrator.domain.fork import Checkpoint
from orchestrator.domain.plan import (
    Agent,
    Approval,
    AuditRecord,
    Call,
    DeadLetter,
    Event,
    Fact,
    Notification,
    Plan,
    Ruling,
    Step,
    canonical,
)
from orchestrator.domain.schedule import Firing, Schedule
from orchestrator.domain.secret import SecretVersion
from orchestrator.domain.stop import Stop


def plan(found: Plan) -> dict[str, Any]:
    """A plan as it is."""
    return {
        "plan_id": found.plan_id,
        "state": found.state.value,
        "partial": found.partial,
        "reason": found.reason,
        "goal": found.goal,
        "depth": found.depth,
        "tenant": found.tenant,
        "requester": found.requester,
        "sources": plain(found.sources),
        "metadata": plain(found.metadata),
        "priority": found.priority,
        "budget": found.budget.as_json(),
        "spent": asdict(found.spent),
        "steps": found.step_count,
        "events": found.event_count,
        "audit_records": found.audit_count,
        "created_at": _time(found.created_at),
        "deadline": _time(found.deadline),
        "finished_at": _time(found.finished_at),
    }


def planned(steps: Sequence[Step]) -> dict[str, Any] | None:
    """The tasks that a plan's goal was split into, as its audit has them, and their digest; `None` before there are any."""
    made = [s.result for s in steps if s.agent is Agent.PLANNER and s.result.get("plan")]
    return {"sha256": made[-1]["plan_sha256"], "plan": plain(made[-1]["plan"])} if made else None


def checkpoint(found: Checkpoint) -> dict[str, Any]:
    """A step that a plan may be forked from, and what is reused then."""
    return {
        "step": found.step.number,
        "agent": found.step.agent.value,
        "phase": found.step.phase.value,
        "round": found.step.round,
        "state": found.step.state.value,
        "verdict": found.step.verdict,
        "reused": list(found.reused),
        "again": list(found.again),
    }


def conversation(found: Conversation) -> dict[str, Any]:
    """A conversation, without what was said in it."""
    return {
        "conversation_id": found.conversation_id,
        "created_at": _time(found.created_at),
        "turns": found.turns,
        "last_plan_id": found.last_plan_id,
    }


def turn(found: Turn) -> dict[str, Any]:
    """A turn, with its answer's citations where it has one."""
    usual: dict[str, Any] = {"verdict": None, "citations": [], "facts_used": 0, "confidence": None}
    beside = {**usual, "partial": False, "gaps": [], "notes": [], **(plain(found.answer) or {})}
    return {
        "conversation_id": found.conversation_id,
        "turn": found.number,
        "role": found.role.value,
        "state": "working" if found.waits else "answered",
        "route": found.route and found.route.value,
        "content": found.content,
        "goal": found.goal,
        "plan_id": found.plan_id,
        **beside,
        "at": _time(found.at),
    }


def step(found: Step) -> dict[str, Any]:
    """A step as it is."""
    return {
        "number": found.number,
        "agent": found.agent.value,
        "phase": found.phase.value,
        "round": found.round,
        "state": found.state.value,
        "attempt": found.attempt,
        "max_attempts": found.max_attempts,
        "claim": found.claim,
        "verdict": found.verdict,
        "brief": plain(found.brief),
        "result": plain(found.result),
        "reason": found.reason,
        "settled": found.settled,
        "run_after": _time(found.run_after),
    }


def call(found: Call) -> dict[str, Any]:
    """A call of the journal, without what it returned: that is its evidence."""
    return {
        "step": found.step,
        "tool": found.tool,
        "state": found.state.value,
        "semantics": found.semantics.value,
        "occurrence": found.occurrence,
        "arguments": plain(found.arguments),
        "evidence": found.evidence,
        "error": found.error,
        "tokens": found.reserved.tokens,
        "cost_uusd": found.reserved.cost_uusd,
    }


def fact(found: Fact) -> dict[str, Any]:
    """A statement, and where it stands word for word."""
    return {
        "name": found.name,
        "step": found.step,
        "number": found.number,
        "quote": found.quote,
        "evidence": found.evidence,
        "start": found.start,
        "end": found.end,
        "locator": found.locator,
        "title": found.title,
        "heading": list(found.heading),
        "origin_sha256": found.origin_sha256,
        "question": found.question,
        "score": found.score,
    }


def ballot(found: Ballot) -> dict[str, Any]:
    """A round in which a draft was criticised and judged."""
    return {
        "round": found.round,
        "draft": found.draft,
        "objections": found.objections,
        "verdict": found.verdict.value,
        "confidence": found.confidence,
        "threshold": found.threshold,
        "decided": found.decided.value,
        "why": found.why.value if found.why else None,
        "generator": found.generator,
        "critic": found.critic,
        "judge": found.judge,
        "at": _time(found.at),
    }


def approval(found: Approval) -> dict[str, Any]:
    """A human decision, asked for or made."""
    return {
        "approval_id": found.approval_id,
        "plan_id": found.plan_id,
        "step": found.step,
        "state": found.state.value,
        "category": found.category,
        "question": found.question,
        "roles": list(found.roles),
        "requester": found.requester,
        "args_digest": found.args_digest,
        "stage": found.stage,
        "stages": len(found.chain.stages) if found.chain else 1,
        "asked_at": _time(found.asked_at),
        "expires_at": _time(found.expires_at),
        "decided_at": _time(found.decided_at),
        "decided_by": found.decided_by,
        "holds_until": _time(found.holds_until),
        "comment": found.comment,
    }


def approval_in_full(
    found: Approval, rulings: Sequence[Ruling], notifications: Sequence[Notification]
) -> dict[str, Any]:
    """A human decision with everybody who has a part in it."""
    stages = found.chain.stages if found.chain else ()
    return {
        **approval(found),
        "chain": [[list(seat) for seat in stage.seats] for stage in stages] or [[list(found.roles)]],
        "rulings": [
            {
                "number": ruling.number,
                "person": ruling.person,
                "role": ruling.role,
                "stage": ruling.stage,
                "decision": ruling.decision.value,
                "comment": ruling.comment,
                "at": _time(ruling.at),
            }
            for ruling in rulings
        ],
        "notifications": [notification(each) for each in notifications],
    }


def notification(found: Notification) -> dict[str, Any]:
    """What is told outside about an approval."""
    return {
        "notification_id": found.notification_id,
        "approval_id": found.approval_id,
        "plan_id": found.body.get("plan_id"),
        "step": found.body.get("step"),
        "tenant": found.body.get("tenant"),
        "kind": found.kind,
        "state": found.state.value,
        "attempts": found.attempts,
        "error": found.error,
        "at": found.body.get("at"),
    }


def stop(found: Stop) -> dict[str, Any]:
    """What is stopped, by whom and why; without a tenant, everywhere."""
    return {
        "target": found.target,
        "reason": found.reason,
        "tenant": found.tenant or None,
        "by": found.by or None,
        "at": _time(found.at),
    }


def dead_letter(found: DeadLetter) -> dict[str, Any]:
    """What was given up on."""
    return {
        "letter_id": found.letter_id,
        "plan_id": found.plan_id,
        "step": found.step,
        "state": found.state,
        "reason": found.reason,
        "detail": found.detail,
        "attempts": found.attempts,
        "at": _time(found.at),
    }


MOST_EVENTS: Final = 100_000
"""Events of a plan that are looked through for a dead letter's history; no budget lets a plan have so many."""

_OF_DEAD_LETTERS: Final = frozenset({"step.faulted", "step.rescued", "step.dead", "plan.replayed"})


def history(found: DeadLetter, events: Iterable[Event]) -> list[Event]:
    """Those of a plan's events that tell how its step came to be given up on, and what was done about it."""
    return [e for e in events if e.kind in _OF_DEAD_LETTERS and e.body.get("step") in {found.step, None}]


def whole_dead_letter(found: DeadLetter, events: Iterable[Event]) -> dict[str, Any]:
    """What was given up on, with the history of its plan's faults."""
    return {**dead_letter(found), "history": [event(each) for each in history(found, events)]}


def event(found: Event) -> dict[str, Any]:
    """Something that happened."""
    return {
        "plan_id": found.plan_id,
        "number": found.number,
        "at": _time(found.at),
        "kind": found.kind,
        "body": plain(found.body),
    }


def audit(found: AuditRecord) -> dict[str, Any]:
    """A sealed record; a body that is not JSON any more is given as text."""
    return {
        "number": found.number,
        "kind": found.kind,
        "body": body_of(found),
        "mac": found.mac.hex(),
        "key_id": found.key_id,
    }


def body_of(record: AuditRecord) -> Any:
    """Return what a sealed record says; its text, if somebody made something else than JSON of it."""
    try:
        return json.loads(record.body)
    except ValueError:
        return record.body.decode(errors="replace")


def plain(value: object) -> Any:
    """Return a value made of plain lists and objects only."""
    return json.loads(canonical(value))


def report(found: Mapping[str, Any] | None) -> Any:
    """A report as it is stored, or nothing."""
    return None if found is None else plain(found)


def _time(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def secret(found: SecretVersion) -> dict[str, Any]:
    """A version of a secret; its value is nowhere near."""
    return {
        "name": found.name,
        "version": found.version,
        "state": found.state.value,
        "created_at": found.created_at.isoformat(),
        "created_by": found.created_by,
    }


def schedule(found: Schedule) -> dict[str, Any]:
    """A schedule as JSON."""
    return {
        "schedule_id": found.schedule_id,
        "tenant": found.tenant,
        "name": found.name,
        "cron": found.cron,
        "timezone": found.timezone,
        "request": plain(found.request),
        "misfire": found.misfire.value,
        "overlap": found.overlap.value,
        "paused": found.paused,
        "next_at": found.next_at.isoformat() if found.next_at else None,
        "last_plan_id": found.last_plan_id,
        "created_at": found.created_at.isoformat() if found.created_at else None,
    }


def firing(found: Firing) -> dict[str, Any]:
    """A firing as JSON."""
    return {
        "schedule_id": found.schedule_id,
        "due_at": found.due_at.isoformat(),
        "fired_at": found.fired_at.isoformat(),
        "outcome": found.outcome.value,
        "plan_id": found.plan_id,
        "reason": found.reason,
    }
