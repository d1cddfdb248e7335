"""What came of plans after a fault, promise by promise, and the table in which it is told.

A plan is judged by what Postgres keeps of it, and by a witness: the tool's own list of when it was really called.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path

from orchestrator.domain.errors import Unavailable
from orchestrator.domain.lifecycle import ALIVE
from orchestrator.domain.plan import digest, request

DOOMED = "doomed"
"""The first word of goals that must end as dead letters."""


def submitted(opened, goal):
    """The id of a plan that was accepted, however long that takes."""
    while True:  # this process' connections are ended as well
        try:
            return opened.conductor.submit(request(goal, depth=2, key=goal)).plan_id
        except Unavailable:
            time.sleep(0.1)


def alive(opened, plan_ids):
    """Those of the plans that have not ended; all of them while Postgres cannot say."""
    with contextlib.suppress(Unavailable), opened.store.transaction() as tx:
        return [p for p in plan_ids if (plan := tx.plan(p)) is None or plan.state in ALIVE]
    return list(plan_ids)


Calls = Mapping[str, Sequence[float]]


def executions(witness: Path) -> Calls:
    """When each call was really made, by what it was about, in seconds since the epoch."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for line in witness.read_text().splitlines() if witness.exists() else ():
        told = json.loads(line)
        found[told["about"]].append(told["at"])
    return {about: sorted(times) for about, times in found.items()}


def repeats_of_finished_calls(records):
    """How often a call was intended again although its outcome had been recorded."""
    done, repeated = set(), 0
    for record in records:
        body = json.loads(record.body)
        call = (body.get("step"), body.get("call"), body.get("occurrence"))
        repeated += record.kind == "tool.intent" and call in done
        if record.kind == "tool.outcome" and body["state"] == "done":
            done.add(call)
    return repeated


def undecided(records, made: Calls):
    """How many executions were not preceded by an intent of their own, with a decision that allowed it."""
    intents = defaultdict(list)
    for record in records:
        body = json.loads(record.body)
        if record.kind == "tool.intent" and body["decision"]["effect"] == "allow":
            intents[body["call"]].append(datetime.fromisoformat(body["at"]).timestamp())
    missing = 0
    for about, times in made.items():
        before = sorted(intents[digest(["look", {"about": about}])])
        missing += sum(
            number >= len(before) or before[number] > at for number, at in enumerate(sorted(times))
        )
    return missing


class Judged:
    """What is to be said about one plan, promise by promise; each figure but the last few should be 0."""

    def __init__(self, opened, plan_id, made: Calls | None = None):
        with opened.store.transaction() as tx:
            plan = tx.plan(plan_id)
            steps, records = tx.steps(plan_id), tx.audit(plan_id)
            events = tx.events(plan_id, limit=100_000)
            letters = tx.dead_letters(state=None, plan_id=plan_id)
        kinds = Counter((e.kind, e.body.get("step")) for e in events)
        self.goal, self.state, self.reason = plan.goal, plan.state, plan.reason
        self.doomed = plan.goal.startswith(DOOMED)
        self.succeeded = plan.state == "succeeded"
        # P1, P10
        self.lost = plan.state != ("dead_lettered" if self.doomed else "succeeded")
        self.unended = plan.state in ALIVE
        # P2: a step that is settled twice plans what follows twice, or ends its plan twice
        self.repeated = repeats_of_finished_calls(records)
        planned = Counter((s.agent, s.round, json.dumps(s.brief, sort_keys=True)) for s in steps)
        self.twice = (
            sum(n - 1 for n in planned.values())
            + sum(n - 1 for (kind, _), n in kinds.items() if kind in {"step.succeeded", "plan.ended"})
            + sum(s.state == "succeeded" and not s.settled for s in steps)
        )
        # scripted minds write under which claim they thought: it must be that of the last holder
        self.usurped = sum(
            s.state == "succeeded" and (s.result or {}).get("claim", s.claim) != s.claim for s in steps
        )
        # P3
        mine = {about: at for about, at in (made or {}).items() if about.startswith(f"{plan.goal}, step ")}
        self.undecided = undecided(records, mine)
        self.calls = sum(map(len, mine.values()))
        self.again = sum(len(times) - 1 for times in mine.values())
        self.unknown = sum(r.kind == "tool.unknown" for r in records)
        # P4
        gone = Counter(s.number for s in steps if s.state in {"dead", "failed"})
        listed = Counter(x.step for x in letters if x.attempts and x.reason and x.detail)
        self.unlisted = (gone - listed).total() + (listed - gone).total()
        # P7
        fault = opened.sealer.verify(plan_id, records, count=plan.audit_count, head=plan.audit_head)
        self.broken = fault is not None
        self.claims = sum(max(s.claim - 1, 0) for s in steps if s.state == "succeeded")
        self.shape = tuple(sorted(planned))
        self.took_s = (plan.finished_at - plan.created_at).total_seconds() if plan.finished_at else None

    @property
    def done_twice(self):
        # a call in flight when its worker was lost may be made again; one that had finished may not
        return self.repeated + self.twice + self.usurped + max(self.again - self.unknown, 0)


def column(heading: str):
    return field(metadata={"heading": heading})


@dataclass(frozen=True)
class Row:
    """One fault and what came of the plans that met it. P1 to P10 count violations."""

    fault: str = column("fault")
    struck: int = column("struck")
    plans: int = column("plans")
    p1: int = column("P1 lost")
    p2: int = column("P2 done twice")
    p3: int = column("P3 undecided")
    p4: int = column("P4 unlisted")
    p10: int = column("P10 unended")
    audit: int = column("audit broken")
    calls: int = column("calls")
    in_flight: int = column("repeated in flight")
    claims: int = column("taken over")
    median_s: float = column("median s")
    longest_s: float = column("longest s")

    @classmethod
    def of(cls, fault: str, struck: int, judged: Sequence[Judged], *, unlisted: int = 0) -> Row:
        """Sum up; `unlisted` are messages that no dead letter stands for."""
        took = [j.took_s for j in judged if j.took_s is not None and not j.doomed]
        return cls(
            fault,
            struck,
            len(judged),
            sum(j.lost for j in judged),
            sum(j.done_twice for j in judged),
            sum(j.undecided for j in judged),
            sum(j.unlisted for j in judged) + unlisted,
            sum(j.unended for j in judged),
            sum(j.broken for j in judged),
            sum(j.calls for j in judged),
            sum(j.again for j in judged),
            sum(j.claims for j in judged),
            round(statistics.median(took), 1) if took else 0.0,
            round(max(took, default=0.0), 1),
        )

    @property
    def violations(self) -> dict[str, int]:
        """The promises that were broken, with how often."""
        counts = {name: getattr(self, name) for name in ("p1", "p2", "p3", "p4", "p10", "audit")}
        return {name: n for name, n in counts.items() if n}


HEADINGS = [f.metadata["heading"] for f in fields(Row)]


def cells(rows: Iterable[Row]) -> list[list[str]]:
    """Every row as text, and the sum of those that can be added."""
    rows = list(rows)
    found = [[str(getattr(row, f.name)) for f in fields(Row)] for row in rows]
    summed = [str(sum(getattr(row, f.name) for row in rows)) for f in fields(Row)[1:-2]]
    return [*found, ["all", *summed, "", ""]]


def as_text(rows: Iterable[Row]) -> str:
    """The table for a terminal."""
    lines = [HEADINGS, *cells(rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if n == 0 else c.rjust(w) for n, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def as_markdown(rows: Iterable[Row]) -> str:
    """The table for a document."""
    lines = [HEADINGS, ["---", *["---:"] * (len(HEADINGS) - 1)], *cells(rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
