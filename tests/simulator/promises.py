"""What must hold in every simulated world: after each thing somebody does, after each sweep, and at rest.

The numbers are those of the product's promises. These checks know what the actors saw and did, and read the store's
rows; they never ask the conductor whether the conductor is right.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from orchestrator.conductor import CallAsk, Intent, Proceed, Replayed
from orchestrator.domain import approval as people
from orchestrator.domain.errors import AlreadyDecided, DecidesTwice, OrchestratorError
from orchestrator.domain.lifecycle import ALIVE, STEP_ENDS
from orchestrator.domain.ooda import DEPTH
from orchestrator.domain.outcome import Completed, Outcome
from orchestrator.domain.plan import (
    Agent,
    Approval,
    ApprovalState,
    CallState,
    Claimed,
    Event,
    Plan,
    PlanState,
    Request,
    Ruling,
    Semantics,
    Step,
    StepRef,
    StepState,
)

if TYPE_CHECKING:
    from orchestrator.inmemory import InMemoryStore
    from tests.simulator.mind import Script, Tool
    from tests.simulator.world import Worker, World

GIVEN_UP = frozenset({PlanState.DEAD_LETTERED, PlanState.FAILED})
FINISHED = frozenset({StepState.SUCCEEDED, StepState.SKIPPED})
LOST = frozenset({StepState.DEAD, StepState.FAILED})
ONCE_A_ROUND = frozenset({Agent.KEEPER, Agent.GENERATOR, Agent.CRITIC, Agent.JUDGE})
ONCE = frozenset({Agent.ROUTER, Agent.PLANNER, Agent.DIVERGER, Agent.SYNTHESISER})
CallName = tuple[str, int, str, int]


class Broken(Exception):
    """A promise did not hold in this world."""

    def __init__(self, promise: str, how: str) -> None:
        super().__init__(f"{promise}: {how}")
        self.promise = promise
        self.how = how


def must(holds: object, promise: str, how: str) -> None:
    if not holds:
        raise Broken(promise, how)


class Ledger:
    """What the actors of a world know to have happened, kept apart from the store."""

    def __init__(self) -> None:
        self.accepted: dict[str, Request] = {}
        self.claims: dict[tuple[str, int], int] = {}
        self.done: dict[CallName, int] = {}
        self.executions: list[tuple[CallName, int, int]] = []
        self.executed: dict[CallName, int] = defaultdict(int)
        self.allowed: dict[CallName, int] = defaultdict(int)
        self.cut: set[str] = set()

    def allow(self, names: Iterable[CallName]) -> None:
        for name in names:
            self.allowed[name] += 1


# requests


def same_plan(first: Plan, second: Plan) -> None:
    must(first.plan_id == second.plan_id, "P1", "the same request with the same key made two plans")


def must_raise(error: type[Exception], promise: str, verb: Callable[[], object]) -> None:
    try:
        verb()
    except error:
        return
    except OrchestratorError as other:
        raise Broken(promise, f"{type(other).__name__} was raised, not {error.__name__}") from other
    raise Broken(promise, f"{error.__name__} was not raised")


# transactions


def picture(store: InMemoryStore) -> tuple[object, ...]:
    """All that is stored, to be compared after a transaction that must not have happened."""
    return (
        dict(store.plan_rows),
        {plan_id: dict(steps) for plan_id, steps in store.step_rows.items()},
        dict(store.call_rows),
        dict(store.approval_rows),
        dict(store.ruling_rows),
        dict(store.letter_rows),
        dict(store.report_rows),
        {plan_id: len(events) for plan_id, events in store.event_rows.items()},
        {plan_id: len(records) for plan_id, records in store.audit_rows.items()},
        {plan_id: len(facts) for plan_id, facts in store.fact_rows.items()},
        list(store.outbox),
    )


def nothing_changed(world: World, before: tuple[object, ...]) -> None:
    must(picture(world.store) == before, "P1", "a transaction that did not commit left something behind")


# a step in a worker's hands


def begun(world: World, before: Step, claimed: Claimed | None, worker: Worker) -> None:
    if claimed is None:
        return
    after = claimed.step
    name = (before.plan_id, before.number)
    plan = world.store.plan_rows[before.plan_id]
    must(before.state is StepState.READY, "P2", f"a step that was {before.state} was begun")
    must(after.holder == worker.holder, "P2", "a step was begun for somebody else")
    must(after.claim > world.ledger.claims.get(name, 0), "P2", "a claim did not grow")
    must(after.attempt == before.attempt + 1, "P10", "an attempt was not counted at its start")
    must(after.attempt <= after.max_attempts, "P10", "a step was begun after its last attempt")
    must(before.run_after is None or before.run_after <= world.now, "P10", "a step was begun before its time")
    must(plan.state in ALIVE, "P6", f"a step of a plan that is {plan.state} was begun")
    late = after.agent.looks and plan.deadline is not None and world.now >= plan.deadline
    must(not late, "P9", "research was begun after the deadline")
    world.ledger.claims[name] = after.claim


def held(world: World, worker: Worker, *, writes: bool = False) -> bool:
    """Whether the worker's claim is the current one; for writes inside a step its plan must live, too."""
    claimed = worker.claimed
    row = world.store.step_rows[claimed.step.plan_id][claimed.step.number]
    current = (
        row.state is StepState.RUNNING and row.claim == claimed.step.claim and row.holder == worker.holder
    )
    return current and (not writes or world.store.plan_rows[row.plan_id].state in ALIVE)


def replaced(world: World, worker: Worker) -> bool:
    """Whether another worker now runs the step that this one took to be its own."""
    if worker.claimed is None:
        return False
    row = world.store.step_rows[worker.claimed.step.plan_id][worker.claimed.step.number]
    return row.state is StepState.RUNNING and row.claim != worker.claimed.step.claim


def wrote(world: World, worker: Worker, verb: str, *, wrote: bool, held: bool) -> None:
    if wrote and held:
        return
    must(not wrote, "P2", f"a worker without the current claim could {verb}")
    must(not held, "P1", f"the worker with the current claim could not {verb}")
    claimed = worker.claimed
    if worker.connected and world.now < worker.kept_until:
        row = world.store.step_rows[claimed.step.plan_id][claimed.step.number]
        ended = row.state is StepState.CANCELLED or world.store.plan_rows[row.plan_id].state not in ALIVE
        must(ended, "P1", "a living worker lost its step within its lease")


def handed_in(world: World, worker: Worker, outcome: Outcome, *, held: bool) -> None:
    """Note that a limit cut a step short, if its report was committed."""
    if held and isinstance(outcome, Completed) and outcome.partial:
        step = worker.claimed.step
        if world.store.step_rows[step.plan_id][step.number].state is StepState.SUCCEEDED:
            world.ledger.cut.add(step.plan_id)


# calls


def intended(world: World, claimed: Claimed, tool: Tool, intent: Intent) -> None:
    name = (claimed.step.plan_id, claimed.step.number, tool.key, tool.occurrence)
    if isinstance(intent, Proceed):
        must(name not in world.ledger.done, "P2", "a call that was done was allowed again")
    elif isinstance(intent, Replayed):
        must(
            name in world.ledger.done or intent.call.state is CallState.DONE,
            "P2",
            "a call was replayed undone",
        )
    plan = world.store.plan_rows[claimed.step.plan_id]
    fits = plan.spent.calls <= plan.budget.calls and plan.spent.tokens <= plan.budget.tokens
    must(fits, "P9", f"{plan.spent} is more than {plan.budget}")


def spent_up(world: World, claimed: Claimed, ask: CallAsk) -> None:
    plan = world.store.plan_rows[claimed.step.plan_id]
    after = plan.spent.plus(ask.reserve)
    over = after.calls > plan.budget.calls or after.tokens > plan.budget.tokens
    must(over, "P9", "a call that fits the budget was turned away")


def executed(world: World, claimed: Claimed, tool: Tool, made: Script) -> None:
    """The outside world feels a call: this witness knows nothing of the journal."""
    ledger, step = world.ledger, claimed.step
    name = (step.plan_id, step.number, tool.key, tool.occurrence)
    if name in ledger.done:
        must(step.claim <= ledger.done[name], "P2", "a call that was done was executed again")
        world.counted["late outside calls"] += 1
    ledger.executed[name] += 1
    world.counted["outside calls"] += 1
    if ledger.executed[name] > 1:
        world.counted["outside duplicates"] += 1
    if tool.semantics is Semantics.AT_MOST_ONCE:
        fine = ledger.executed[name] <= 1 + ledger.allowed[name]
        must(fine, "P2", "an at-most-once call happened again without a human's leave")
    if made.asks and not world.healed:
        must(allowed(world, step.ref), "P6", "a step that asked for approval made a call without it")
    ledger.executions.append((name, step.claim, world.store.plan_rows[step.plan_id].audit_count))


def concluded(world: World, claimed: Claimed, tool: Tool) -> None:
    name = (claimed.step.plan_id, claimed.step.number, tool.key, tool.occurrence)
    world.ledger.done[name] = claimed.step.claim


# people


def allowed(world: World, ref: StepRef) -> bool:
    return any(
        a.plan_id == ref.plan_id
        and a.step == ref.number
        and a.category == "policy"
        and a.state is ApprovalState.APPROVED
        for a in world.store.approval_rows.values()
    )


def unsure_calls(world: World, asked: Approval) -> list[CallName]:
    return [
        (c.plan_id, c.step, c.key, c.occurrence)
        for c in world.store.call_rows.values()
        if c.plan_id == asked.plan_id and c.step == asked.step and c.state is CallState.UNKNOWN
    ]


def decidable(world: World, approval_id: str) -> bool:
    asked = world.store.approval_rows[approval_id]
    in_time = asked.expires_at is None or world.now < asked.expires_at
    helped = people.escalated(asked, world.store.ruling_rows.get(approval_id, ())) is not None
    return asked.state is ApprovalState.PENDING and (in_time or helped)


def decided(world: World, asked: Approval, *, decidable: bool, approve: bool, by: str) -> None:
    must(decidable, "P6", f"{by} decided an approval that had expired or was decided before")
    row = world.store.approval_rows[asked.approval_id]
    wanted = ApprovalState.APPROVED if approve else ApprovalState.REJECTED
    rulings = world.store.ruling_rows.get(asked.approval_id, ())
    last = rulings[-1] if rulings else None
    must(
        last is not None and last.person == by and last.decision is wanted,
        "P6",
        "a decision was not recorded as it was made",
    )
    seats = sum(len(stage.seats) for stage in asked.chain.stages) if asked.chain else 1
    if approve and len(rulings) < seats:
        must(row.state is ApprovalState.PENDING, "P6", "an approval was given before everybody had decided")
        return
    must(row.state is wanted and row.decided_by == by, "P6", "a decision was not recorded as it was made")


def may_not_decide_again(world: World, asked: Approval, ruling: Ruling) -> None:
    """Whoever filled a seat fills no other, whatever they are."""
    error = DecidesTwice if asked.state is ApprovalState.PENDING else AlreadyDecided
    before = len(world.store.ruling_rows[asked.approval_id])
    must_raise(
        error,
        "P6",
        lambda: world.conductor.decide(asked.approval_id, approve=True, by=ruling.person, roles=asked.roles),
    )
    must(len(world.store.ruling_rows[asked.approval_id]) == before, "P6", "one person decided twice")


def may_not_decide(
    world: World, error: type[Exception], asked: Approval, *, by: str, roles: tuple[str, ...], approve: bool
) -> None:
    must_raise(
        error,
        "P6",
        lambda: world.conductor.decide(asked.approval_id, approve=approve, by=by, roles=roles),
    )
    row = world.store.approval_rows[asked.approval_id]
    must(row.decided_by not in {"ann", "zoe"}, "P6", f"{by} decided what {by} may not")


def cancelled(world: World, plan_id: str) -> None:
    running = [s for s in world.store.step_rows[plan_id].values() if s.state not in STEP_ENDS]
    must(not running, "P6", "a cancelled plan has steps that may still write")


def listed(world: World, letter_id: str) -> None:
    letter = world.store.letter_rows.get(letter_id)
    must(letter is not None and letter.reason, "P4", "a message that was given up on is not listed")


# the sweeper


def swept(world: World) -> None:
    """A sweep that nobody disturbed leaves nothing that is due."""
    now, store, rules = world.now, world.store, world.conductor.rules
    for plan_id, steps in store.step_rows.items():
        plan = store.plan_rows[plan_id]
        for step in steps.values():
            if step.state is StepState.RUNNING:
                kept = step.leased_until is not None and step.leased_until > now
                must(kept and step.holder in world.alive, "P10", "a sweep left a step with a lost worker")
            elif plan.state not in ALIVE:
                continue
            elif step.state is StepState.RETRYING:
                must(
                    step.run_after is not None and step.run_after > now,
                    "P10",
                    "a sweep left a due step asleep",
                )
            elif step.state is StepState.READY or (step.state in FINISHED and not step.settled):
                due = step.run_after is None or step.run_after <= now
                unheard = step.offered_at is None or step.offered_at <= now - rules.unheard_after
                must(not (due and unheard), "P10", "a sweep left a doorbell unanswered")
    for asked in store.approval_rows.values():
        late = (
            asked.state is ApprovalState.PENDING and asked.expires_at is not None and asked.expires_at <= now
        )
        must(not late, "P6", "a sweep left an approval open that had expired")


# at rest


def quiet(world: World) -> bool:
    """Whether nothing can happen any more, unless a human decides."""
    store = world.store
    if store.outbox or any(world.bus[topic] for topic in world.bus if topic != "plan.dead"):
        return False
    for plan_id, plan in store.plan_rows.items():
        steps = store.step_rows[plan_id].values()
        if any(s.state is StepState.RUNNING for s in steps):
            return False
        if plan.state in ALIVE:
            if plan.state is not PlanState.WAITING_APPROVAL or world.attentive or world.healed:
                return False
            if any(s.state not in STEP_ENDS and s.state is not StepState.WAITING_APPROVAL for s in steps):
                return False
            if any(s.state in FINISHED and not s.settled for s in steps):
                return False
    return True


def over(world: World) -> bool:
    """Whether every plan came to an end that nobody can take back."""
    return all(p.state not in ALIVE and p.state not in GIVEN_UP for p in world.store.plan_rows.values())


def anyone_waits(world: World) -> bool:
    return any(a.state is ApprovalState.PENDING for a in world.store.approval_rows.values())


def never_rested(world: World) -> None:
    store = world.store
    for plan_id, plan in store.plan_rows.items():
        steps = store.step_rows[plan_id].values()
        if plan.state in ALIVE or any(s.state is StepState.RUNNING for s in steps):
            states = ", ".join(f"{s.number} {s.agent} {s.state}" for s in steps if s.state not in STEP_ENDS)
            raise Broken(
                "P10", f"plan {plan_id[-2:]} is still {plan.state} long after the last fault: {states}"
            )
    raise Broken("P10", "messages went round and round after the last fault")


def taken_up(world: World, plan_id: str) -> None:
    """A plan that was just retried lives, and still says so when a step of it waits for a human."""
    waits = any(s.state is StepState.WAITING_APPROVAL for s in world.store.step_rows[plan_id].values())
    state = world.store.plan_rows[plan_id].state
    wanted = PlanState.WAITING_APPROVAL if waits else PlanState.RUNNING
    must(state is wanted, "P4", f"a retried plan is {state} where it should be {wanted}")


def mended(world: World, plan_id: str) -> None:
    plan = world.store.plan_rows[plan_id]
    if plan.state is PlanState.REJECTED:
        no = {ApprovalState.REJECTED, ApprovalState.EXPIRED}
        said_no = any(a.plan_id == plan_id and a.state in no for a in world.store.approval_rows.values())
        must(said_no, "P4", "a retried plan was rejected by nobody")
        return
    must(plan.state is PlanState.SUCCEEDED, "P4", f"a retried plan is {plan.state} though its cause is gone")


def at_rest(world: World) -> None:
    """Everything that must be true of a world in which nothing moves any more."""
    store = world.store
    for plan_id in world.ledger.accepted:
        must(plan_id in store.plan_rows, "P1", "an accepted plan is gone")
    keyed = [p for p, asked in world.ledger.accepted.items() if asked.key is not None]
    must(len(keyed) == len(store.keys), "P1", "a key made more than one plan, or none")
    approvals: dict[str, list[Approval]] = defaultdict(list)
    for asked in store.approval_rows.values():
        approvals[asked.plan_id].append(asked)
    for call in store.call_rows.values():
        must(
            call.state is not CallState.INTENDED,
            "P3",
            f"call {call.key} is still intended though nobody runs",
        )
    for plan_id, plan in store.plan_rows.items():
        steps = list(store.step_rows[plan_id].values())
        events = store.event_rows[plan_id]
        _rows(plan, steps)
        _letters(world, plan, steps)
        _facts(world, plan, steps)
        _rounds(plan, steps)
        _ballots(world, plan, steps)
        _limits(world, plan, steps)
        _people(plan, steps, approvals[plan_id], events)
        _history(plan, steps, events)
        _chain(world, plan)


def _rows(plan: Plan, steps: list[Step]) -> None:
    must(plan.state not in ALIVE or plan.state is PlanState.WAITING_APPROVAL, "P1", f"a plan is {plan.state}")
    must(
        plan.state in ALIVE or plan.finished_at is not None, "P1", "an ended plan does not say when it ended"
    )
    waiting = 0
    for step in steps:
        must(step.holder is None and step.leased_until is None, "P6", f"a {step.state} step has a holder")
        must(step.attempt <= step.max_attempts, "P10", "a step was tried too often")
        waiting += step.state is StepState.WAITING_APPROVAL
        if plan.state is PlanState.SUCCEEDED:
            must(
                step.state in FINISHED and step.settled, "P1", f"a plan succeeded without step {step.number}"
            )
        if plan.state in {PlanState.CANCELLED, PlanState.REJECTED}:
            must(step.state in STEP_ENDS, "P6", f"a {plan.state} plan has a step that is {step.state}")
    if plan.state is PlanState.WAITING_APPROVAL:
        must(waiting, "P1", "a plan waits for nobody")


def _letters(world: World, plan: Plan, steps: list[Step]) -> None:
    letters = [d for d in world.store.letter_rows.values() if d.plan_id == plan.plan_id]
    kept = {d.step for d in letters if d.state != "retried"}
    open_ = {d.step for d in letters if d.state == "open"}
    for letter in letters:
        must(letter.reason and letter.detail, "P4", "a dead letter does not say why")
        must(letter.attempts > 0, "P4", "a dead letter does not say how often it was tried")
    for step in steps:
        if step.state in LOST:
            must(step.number in kept, "P4", f"step {step.number} is {step.state} and not listed")
            may_be = plan.state in GIVEN_UP or plan.state is PlanState.REJECTED
            must(may_be, "P4", f"a plan with a step that was given up on is {plan.state}")
        else:
            must(step.number not in open_, "P4", f"step {step.number} is {step.state} and listed as dead")
    if plan.state in GIVEN_UP:
        must(any(s.state in LOST for s in steps), "P4", f"a plan is {plan.state} without a step given up on")


def _facts(world: World, plan: Plan, steps: list[Step]) -> None:
    seen = set()
    for fact in world.store.fact_rows[plan.plan_id]:
        must((fact.step, fact.number) not in seen, "P2", f"fact {fact.name} was written twice")
        seen.add((fact.step, fact.number))
        step = steps[fact.step - 1]
        must(step.state is StepState.SUCCEEDED, "P2", f"a {step.state} step left facts")
        must(fact.score == step.claim, "P2", f"fact {fact.name} was written by a claim that was fenced off")
        stored = (plan.tenant, fact.evidence) in world.store.evidence_rows
        must(stored, "P5", f"fact {fact.name} has no evidence")


def _rounds(plan: Plan, steps: list[Step]) -> None:
    seen = set()
    profile = DEPTH[plan.depth]
    for number, step in enumerate(steps, start=1):
        must(step.number == number, "P2", "steps are not numbered from 1 without gaps")
        name = (step.agent, step.round)
        if step.agent in ONCE_A_ROUND:
            must(name not in seen, "P2", f"round {step.round} has two steps of the {step.agent}")
        if step.agent in ONCE:
            must(step.agent not in seen, "P2", f"a plan has two steps of the {step.agent}")
        seen |= {name, step.agent}
        if step.agent is Agent.DIVERGER:
            must(profile.divergence, "P10", "a plan doubted though its depth does not")
        if step.agent.looks:
            must(step.round <= profile.rounds, "P10", "a plan observed more rounds than its depth allows")
            must(_fed(step.brief, steps), "P2", f"task {step.brief['task']} was begun before what it needs")
        if step.agent is Agent.GENERATOR:
            must(
                step.round <= profile.revisions, "P10", "a draft was revised more often than its depth allows"
            )
        if step.agent is Agent.KEEPER:
            joined = all(
                p.state in FINISHED and p.settled for p in steps if p.agent.looks and p.round == step.round
            )
            must(joined, "P2", f"the keeper of round {step.round} did not wait for all of its round")


def _ballots(world: World, plan: Plan, steps: list[Step]) -> None:
    cast = [b.judge for b in world.store.ballot_rows.values() if b.plan_id == plan.plan_id]
    judged = [s.number for s in steps if s.agent is Agent.JUDGE and s.settled]
    must(sorted(cast) == judged, "P2", f"judges {judged} were settled, but ballots of {cast} are kept")


def _limits(world: World, plan: Plan, steps: list[Step]) -> None:
    must(plan.spent.steps == plan.step_count == len(steps), "P9", "steps are miscounted")
    must(
        plan.spent.steps <= plan.budget.steps, "P9", f"{len(steps)} steps of {plan.budget.steps} were planned"
    )
    must(
        plan.spent.calls <= plan.budget.calls,
        "P9",
        f"{plan.spent.calls} calls of {plan.budget.calls} were made",
    )
    must(plan.spent.tokens <= plan.budget.tokens, "P9", "more tokens than allowed were spent")
    must(plan.spent.calls >= 0 and plan.spent.tokens >= 0, "P9", "more was given back than was spent")
    if plan.state is PlanState.SUCCEEDED:
        must(plan.plan_id in world.store.report_rows, "P9", "a plan succeeded without a report")
        cut = _cut(plan, steps) or plan.plan_id in world.ledger.cut
        must(plan.partial == cut, "P9", f"partial is {plan.partial} though a limit cut the plan: {cut}")


def _cut(plan: Plan, steps: list[Step]) -> bool:
    """Whether a limit kept a plan from what its minds asked for."""
    profile = DEPTH[plan.depth]
    revised = {s.round for s in steps if s.agent is Agent.GENERATOR}
    begun = {(s.round, s.brief["task"]) for s in steps if s.agent.looks}
    if any(s.state is StepState.SKIPPED for s in steps):
        return True
    for step in steps:
        asked = step.follow_ups[: profile.divergence if step.agent is Agent.DIVERGER else profile.fan_out]
        if step.agent is Agent.KEEPER:
            if profile.divergence and step.round == 1 and not any(s.agent is Agent.DIVERGER for s in steps):
                return True
            asked = asked if step.verdict == "narrow" and step.round < profile.rounds else ()
        round_ = 1 if step.agent is Agent.PLANNER else step.round + 1
        if any(_fed(brief, steps) and (round_, brief["task"]) not in begun for brief in asked):
            return True
        again = step.agent is Agent.JUDGE and step.verdict == "revise" and step.round < profile.revisions
        if again and step.round + 1 not in revised:
            return True
    return False


def _fed(brief: Mapping[str, object], steps: list[Step]) -> bool:
    """Whether each task that a brief needs is done and found something."""
    found = {
        s.brief["task"]
        for s in steps
        if s.agent.looks and s.settled and s.state is StepState.SUCCEEDED and s.verdict == "found"
    }
    return set(brief.get("after", ())) <= found


def _people(plan: Plan, steps: list[Step], approvals: list[Approval], events: list[Event]) -> None:
    pending = [a.step for a in approvals if a.state is ApprovalState.PENDING]
    waiting = [s.number for s in steps if s.state is StepState.WAITING_APPROVAL]
    must(sorted(pending) == sorted(waiting), "P6", f"steps {waiting} wait, but approvals {pending} are open")
    decisions: dict[str, list[str]] = defaultdict(list)
    open_for: dict[int, str] = {}
    for event in events:
        step = event.body.get("step")
        if event.kind == "approval.requested":
            must(step not in open_for, "P6", "one step was held twice at once")
            open_for[step] = event.body["approval"]
        elif event.kind == "approval.decided":
            must(
                open_for.get(step) == event.body["approval"],
                "P6",
                "a decision came for a step that did not wait",
            )
            decisions[event.body["approval"]].append(event.body["decision"])
            del open_for[step]
        elif event.kind in {"approval.advanced", "approval.escalated"}:
            must(
                open_for.get(step) == event.body["approval"],
                "P6",
                f"{event.kind} of a step that did not wait",
            )
        elif step in open_for:
            raise Broken("P6", f"{event.kind} came while step {step} waited for a human")
    for asked in approvals:
        wanted = [] if asked.state in {ApprovalState.PENDING, ApprovalState.CANCELLED} else [asked.state]
        must(decisions[asked.approval_id] == wanted, "P6", "an approval was not decided exactly once")


def _history(plan: Plan, steps: list[Step], events: list[Event]) -> None:
    finished: dict[int, int] = defaultdict(int)
    started: dict[int, int] = defaultdict(int)
    ended = False
    for number, event in enumerate(events, start=1):
        must(event.number == number, "P2", f"event {number} has the number {event.number}")
        if event.kind == "step.started":
            must(not finished[event.body["step"]], "P2", "a finished step was started again")
            started[event.body["step"]] += 1
        elif event.kind in {"step.succeeded", "step.skipped"}:
            finished[event.body["step"]] += 1
        final = event.kind == "plan.cancelled" or (
            event.kind == "plan.ended" and event.body["state"] in {PlanState.REJECTED, PlanState.SUCCEEDED}
        )
        must(not ended, "P6", f"{event.kind} was written after the plan's end")
        ended = ended or final
    must(plan.event_count == len(events), "P2", "the plan's count of events is wrong")
    lasting = plan.state in {PlanState.SUCCEEDED, PlanState.REJECTED, PlanState.CANCELLED}
    must(ended == lasting, "P1", f"a {plan.state} plan does not tell its end")
    for step in steps:
        once = step.state in FINISHED
        must(
            finished[step.number] == once, "P2", f"step {step.number} finished {finished[step.number]} times"
        )
        must(started[step.number] <= step.claim, "P2", f"step {step.number} was started without a claim")


def _chain(world: World, plan: Plan) -> None:
    records = world.store.audit_rows[plan.plan_id]
    broken = world.sealer.verify(plan.plan_id, records, count=plan.audit_count, head=plan.audit_head)
    must(broken is None, "P7", f"the audit chain does not verify: {broken}")
    intents: dict[tuple[object, ...], int] = {}
    unanswered: set[tuple[object, ...]] = set()
    for record in records:
        if not record.kind.startswith("tool."):
            continue
        body = json.loads(record.body)
        name = (body["step"], body["call"], body["occurrence"], body["claim"])
        if record.kind == "tool.intent":
            must(body["decision"]["allow"] is True, "P3", "an intent has no decision that allowed it")
            intents[name] = record.number
            unanswered.add(name)
        else:
            must(name in unanswered, "P3", f"{record.kind} of {name} has no open intent")
            unanswered.discard(name)
    must(not unanswered, "P3", f"intents without an outcome: {sorted(map(str, unanswered))}")
    for (plan_id, step, key, occurrence), claim, count in world.ledger.executions:
        if plan_id == plan.plan_id:
            number = intents.get((step, key, occurrence, claim))
            told = number is not None and number <= count
            must(told, "P3", f"call {key} of step {step} was made without a committed intent of its claim")
