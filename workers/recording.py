"""Everything that a plan left behind, in one value: read from a store, or from a file that was written from one.

A recording is canonical JSON. It holds the goal, every source that was read and every answer of a model, word for word:
keep it like the documents themselves. Keys and secrets are not in it, since they are in nothing that it is made of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from agents.toolbox import ToolCard
from orchestrator.domain.budget import Budget, Spent
from orchestrator.domain.errors import Conflict, Invalid, NotFound
from orchestrator.domain.plan import (
    Agent,
    Call,
    CallState,
    Event,
    Evidence,
    Fact,
    Json,
    Plan,
    PlanState,
    Semantics,
    Step,
    StepState,
    canonical,
)
from orchestrator.ports import Store, Tx

VERSION: Final = 1
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Recording:
    """A plan that succeeded, with its steps, facts, calls, sources, events and report.

    `model` is the name that its agents had for the language model; empty where there was none. `cards` are the tools
    that each agent may know of where it was recorded, `charters` what its profile tells its model.
    """

    plan: Plan
    model: str
    steps: Sequence[Step]
    facts: Sequence[Fact]
    calls: Sequence[Call]
    evidence: Sequence[Evidence]
    events: Sequence[Event]
    report: Mapping[str, Json]
    cards: Mapping[str, Sequence[ToolCard]]
    charters: Mapping[str, str]

    def as_json(self) -> bytes:
        """The recording as canonical JSON."""
        found = {each.name: _plain(getattr(self, each.name)) for each in fields(self)}
        return canonical({"v": VERSION, **found})


def of(
    store: Store,
    plan_id: str,
    *,
    model: str,
    cards: Callable[[str], Sequence[ToolCard]] = lambda _: (),
    charter: Callable[[str], str] = lambda _: "",
) -> Recording:
    """Return what a plan left behind; raises `Conflict` for one that has not succeeded.

    `model` is what the language model is called here now; where the plan itself says another name, that is taken.
    `cards` says which tools an agent may know of here now, and `charter` what its profile tells its model.
    """
    with store.transaction() as tx:
        plan, report = tx.plan(plan_id), tx.report(plan_id)
        if plan is None:
            raise NotFound("plan", plan_id)
        if plan.state is not PlanState.SUCCEEDED or report is None:
            raise Conflict(
                f"Plan {plan_id} is {plan.state}; only one that has succeeded, with a report, can be replayed."
            )
        steps, facts, calls = tx.steps(plan_id), tx.facts(plan_id), tx.calls(plan_id)
        digests = sorted({f.evidence for f in facts} | {c.evidence for c in calls if c.evidence})
        sources = [tx.evidence(plan.tenant, sha256) for sha256 in digests]
        events = _events(tx, plan_id)
    said = [str(s.result["model"]) for s in steps if s.result.get("model")]
    asked = any(c.tool == "model_complete" for c in calls)
    return Recording(
        plan=plan,
        model=said[0] if said else model if asked or model in str(report["method"]) else "",
        steps=steps,
        facts=facts,
        calls=calls,
        evidence=[source for source in sources if source is not None],
        events=events,
        report=report,
        cards={agent.value: list(cards(agent.value)) for agent in Agent},
        charters={agent.value: charter(agent.value) for agent in Agent},
    )


def sha256(written: bytes) -> str:
    """The digest of a recording, by which it can be told from another."""
    return hashlib.sha256(written).hexdigest()


def _events(tx: Tx, plan_id: str) -> list[Event]:
    found: list[Event] = []
    while more := tx.events(plan_id, after=found[-1].number if found else 0):
        found += more
    return found


def read(path: Path) -> Recording:
    """Return the recording in a file; raises `Invalid` for any other file, and for one whose sources were altered."""
    try:
        said = json.loads(path.read_bytes())
        if said["v"] != VERSION:
            raise Invalid(f"{path.name} is a recording of version {said['v']}; this program reads {VERSION}.")
        found = Recording(
            plan=_revived(Plan, said["plan"]),
            model=said["model"],
            steps=[_revived(Step, each) for each in said["steps"]],
            facts=[_revived(Fact, each) for each in said["facts"]],
            calls=[_revived(Call, each) for each in said["calls"]],
            evidence=[_revived(Evidence, each) for each in said["evidence"]],
            events=[_revived(Event, each) for each in said["events"]],
            report=said["report"],
            cards={
                name: [_revived(ToolCard, each) for each in cards] for name, cards in said["cards"].items()
            },
            charters={str(name): str(told) for name, told in said["charters"].items()},
        )
    except OSError as error:
        raise Invalid(f"{path.name} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Invalid(f"{path.name} is no recording of a plan ({type(error).__name__}).") from error
    for source in found.evidence:
        if hashlib.sha256(source.text.encode()).hexdigest() != source.sha256:
            raise Invalid(f"{path.name} was altered: source {source.sha256} does not have that digest.")
    return found


# --- JSON -------------------------------------------------------------------------------------------------------------

_KINDS: Final[Mapping[str, Callable[[Any], object]]] = {
    "PlanState": PlanState,
    "StepState": StepState,
    "CallState": CallState,
    "Semantics": Semantics,
    "Agent": Agent,
    "datetime": datetime.fromisoformat,
    "Budget": lambda said: Budget(**said),
    "Spent": lambda said: Spent(**said),
    "bytes": bytes.fromhex,
    "tuple[str, ...]": tuple,
}
"""What a field is made of from JSON, by the name of its type; any other is JSON itself."""


def _plain(value: object) -> object:
    match value:
        case str() | int() | float() | None:
            return value
        case datetime():
            return value.isoformat()
        case bytes():
            return value.hex()
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}  # type: ignore[arg-type]


def _revived(kind: type[_T], said: Mapping[str, Any]) -> _T:
    made: dict[str, object] = {}
    for each in fields(kind):  # type: ignore[arg-type]
        revive = _KINDS.get(str(each.type).removesuffix(" | None"))
        value = said[each.name]
        made[each.name] = value if revive is None or value is None else revive(value)
    return kind(**made)
