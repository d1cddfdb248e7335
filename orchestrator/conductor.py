"""Every verb of the product, each one transaction: submit, begin, report, settle, intend, conclude, rescue and more.

A verb locks its plan, asks the domain what may happen, and writes state, event, audit and outbox together. Nothing
here talks to a broker: what must be published lies in the outbox. Every write by a worker carries its claim; a
worker that lost its claim is told so (`Fenced`, or `False`) and has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TypeAlias, TypeGuard, TypeVar

from orchestrator.domain import approval as people
from orchestrator.domain import fork as domain_fork
from orchestrator.domain import ooda
from orchestrator.domain.budget import Spent
from orchestrator.domain.consensus import Ballot, Decision
from orchestrator.domain.errors import (
    AlreadyDecided,
    Conflict,
    Fenced,
    IllegalMove,
    KeyReused,
    NotFound,
    Unavailable,
)
from orchestrator.domain.lifecycle import ALIVE, PLAN_MOVES, STEP_ENDS, PlanMove, StepMove
from orchestrator.domain.outcome import Completed, Faulted, Held, Outcome, Refused, Snoozed
from orchestrator.domain.plan import (
    Approval,
    ApprovalState,
    Call,
    CallState,
    Chain,
    Claimed,
    DeadLetter,
    Evidence,
    Fact,
    Json,
    NewStep,
    Notification,
    Plan,
    Request,
    Semantics,
    Step,
    StepRef,
    StepState,
    digest,
    request,
)
from orchestrator.domain.retry import Backoff
from orchestrator.messages import Message, Topic
from orchestrator.ports import Completion, Store, Tx
from orchestrator.vault.chain import Sealer

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers a conductor goes by.

    `lease` is how long a silent worker keeps a step; `unheard_after` how long a doorbell may go unanswered before it
    is rung again; `approval_ttl` how long a human has to decide where no chain of `chains` says so.
    `categories` says what a call is about, by the capability that it needs. `notify` is whether decisions that wait or
    were made are told outside.
    """

    lease: timedelta = timedelta(seconds=30)
    max_attempts: int = 5
    backoff: Backoff = field(default_factory=Backoff)
    unheard_after: timedelta = timedelta(seconds=30)
    approval_ttl: timedelta = timedelta(days=30)
    chains: Mapping[str, Chain] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)
    notify: bool = False
    batch: int = 200


@dataclass(frozen=True, slots=True)
class CallAsk:
    """A call that a step wants to make: `key` and `occurrence` name it in the journal, `decision` allowed it."""

    tool: str
    key: str
    occurrence: int
    semantics: Semantics
    arguments: Mapping[str, Json]
    decision: Mapping[str, Json]
    reserve: Spent = field(default_factory=lambda: Spent(calls=1))


@dataclass(frozen=True, slots=True)
class Replayed:
    """The call was made before, and this is what came of it."""

    call: Call


@dataclass(frozen=True, slots=True)
class Proceed:
    """The intent is committed; make the call now. `idempotency_key` is the same for every repeat."""

    idempotency_key: str


@dataclass(frozen=True, slots=True)
class AskHuman:
    """The call may have happened before and must not happen twice; only a human can say."""

    call: Call


Intent: TypeAlias = Replayed | Proceed | AskHuman


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did."""

    woken: int = 0
    rescued: int = 0
    offered: int = 0
    expired: int = 0
    forgotten: int = 0

    def __bool__(self) -> bool:
        return bool(self.woken or self.rescued or self.offered or self.expired or self.forgotten)


class Conductor:
    """Remembers and decides, on top of a store. Holds no state of its own; any number may run at once."""

    def __init__(
        self,
        store: Store,
        sealer: Sealer,
        *,
        new_id: Callable[[], str],
        draw: Callable[[], float],
        rules: Rules,
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._new_id = new_id
        self._draw = draw
        self._rules = rules

    @property
    def store(self) -> Store:
        """Where the truth is kept; for reading."""
        return self._store

    @property
    def rules(self) -> Rules:
        """The numbers this conductor goes by."""
        return self._rules

    def of(self, tenant: str) -> Conductor:
        """Return this conductor for one tenant: what is another's it does not find, and cannot change."""
        return Conductor(
            self._store.of(tenant),
            self._sealer,
            new_id=self._new_id,
            draw=self._draw,
            rules=self._rules,
        )

    # a plan's beginning and end

    def submit(self, asked: Request) -> Plan:
        """Accept a request and return its plan; the same key and request return the same plan.

        Raises `KeyReused` when the key came with another request before.
        """
        with self._store.transaction() as tx:
            return self.submit_within(tx, asked)

    def submit_within(self, tx: Tx, asked: Request, *, origin: Mapping[str, Json] | None = None) -> Plan:
        """Do what `submit` does as a part of a transaction; `origin` says in event and audit what asked for it."""
        made = self._made_before(tx, asked)
        if made is not None:
            return made
        plan_id = self._new_id()
        deadline = tx.now() + timedelta(seconds=asked.budget.seconds)
        if not tx.add_plan(plan_id, asked, deadline):  # another replica was first with this key
            return self._must(self._made_before(tx, asked))
        desk = self._open(tx, plan_id)
        came = dict(origin or {})
        desk.event(
            "plan.submitted", {"goal": asked.goal, "depth": asked.depth, "by": asked.requester, **came}
        )
        desk.audit(
            "plan.submitted",
            {
                "by": asked.requester,
                "depth": asked.depth,
                "goal_hmac": self._sealer.blind(asked.goal),
                "tenant": asked.tenant,
                "budget": asked.budget.as_json(),
                **came,
            },
        )
        self._plan_steps(desk, (ooda.first(),))
        return self._must(tx.plan(plan_id))

    def _made_before(self, tx: Tx, asked: Request) -> Plan | None:
        found = tx.plan_of_key(asked.tenant, asked.key) if asked.key else None
        if found is None:
            return None
        plan_id, fingerprint = found
        if fingerprint != asked.fingerprint():
            raise KeyReused(asked.key or "")
        return tx.plan(plan_id)

    def cancel(self, plan_id: str, *, by: str, reason: str = "asked for") -> None:
        """End a plan now; a worker that still runs one of its steps can no longer write."""
        with self._store.transaction() as tx:
            self.cancel_within(tx, plan_id, by=by, reason=reason)

    def cancel_within(self, tx: Tx, plan_id: str, *, by: str, reason: str) -> None:
        """Do what `cancel` does as a part of a transaction."""
        desk = self._open(tx, plan_id)
        if not tx.move_plan(plan_id, PlanMove.CANCEL, reason=reason):
            raise IllegalMove("plan", desk.plan.state, PlanMove.CANCEL)
        self._cancel_steps(desk)
        desk.event("plan.cancelled", {"by": by, "reason": reason})
        desk.audit("plan.cancelled", {"by": by, "reason": reason})

    def _cancel_steps(self, desk: _Desk) -> None:
        for step in desk.tx.steps(desk.plan.plan_id):
            if step.state is StepState.RUNNING:
                # their worker is fenced off and can no longer conclude them
                self._orphan_calls(desk, step.ref)
            if step.state not in STEP_ENDS:
                desk.tx.move_step(step.ref, StepMove.CANCEL)
        for approval in desk.tx.approvals(state=ApprovalState.PENDING, plan_id=desk.plan.plan_id):
            desk.tx.decide(
                approval.approval_id, ApprovalState.CANCELLED, by="system", comment="the plan ended"
            )
            self._tell(desk, "approval.cancelled", self._must(desk.tx.approval(approval.approval_id)))

    def fork(
        self,
        plan_id: str,
        *,
        from_step: int | None = None,
        goal: str | None = None,
        depth: int | None = None,
        metadata: Mapping[str, Json] | None = None,
        by: str,
        key: str | None = None,
    ) -> Plan:
        """Return a new plan that stands where this one stood when a step was planned; this one is not changed.

        What ended before that step is taken over, with its facts; the step, and those planned with it that had not
        ended or come behind it, are ready again. Without a step the new plan begins at the beginning. Its budget is
        as large as this one's, and the steps taken over count as spent. The same key and fork return the same plan.
        Goal, depth and metadata are this one's, unless others are given.
        Raises `NotFound`, `Conflict` for a step that cannot be returned to, `KeyReused`, or the `Invalid` that fits.
        """
        with self._store.transaction() as tx:
            return self.fork_within(
                tx, plan_id, from_step=from_step, goal=goal, depth=depth, metadata=metadata, by=by, key=key
            )

    def fork_within(
        self,
        tx: Tx,
        plan_id: str,
        *,
        from_step: int | None = None,
        goal: str | None = None,
        depth: int | None = None,
        metadata: Mapping[str, Json] | None = None,
        by: str,
        key: str | None = None,
    ) -> Plan:
        """Do what `fork` does as a part of a transaction."""
        old = self._open(tx, plan_id).plan  # held, so that its steps stand still while they are read
        came: dict[str, Json] = {"fork_of": plan_id, "from_step": from_step}
        asked = request(
            old.goal if goal is None else goal,
            depth=old.depth if depth is None else depth,
            tenant=old.tenant,
            requester=by,
            sources=old.sources,
            budget=old.budget,
            priority=old.priority,
            metadata=old.metadata if metadata is None else metadata,
            key=key,
            fork=came,
        )
        made = self._made_before(tx, asked)
        if made is not None:
            return made
        branch = domain_fork.branch(tx.steps(plan_id), from_step or 1)
        taken = {s.number for s in branch.copied}
        facts = [f for f in tx.facts(plan_id) if f.step in taken]
        ballots = [b for b in tx.ballots(plan_id) if b.judge in taken]
        return self._forked(tx, old, asked, branch, facts, ballots)

    def _forked(
        self,
        tx: Tx,
        old: Plan,
        asked: Request,
        branch: domain_fork.Branch,
        facts: Sequence[Fact],
        ballots: Sequence[Ballot],
    ) -> Plan:
        plan_id = self._new_id()
        if not tx.add_plan(plan_id, asked, tx.now() + timedelta(seconds=asked.budget.seconds)):
            return self._must(self._made_before(tx, asked))  # another replica was first with this key
        desk = self._open(tx, plan_id)
        came: dict[str, Json] = {"fork_of": asked.fork["fork_of"], "from_step": asked.fork["from_step"]}
        desk.event("plan.forked", {"goal": asked.goal, "depth": asked.depth, "by": asked.requester, **came})
        taken: dict[str, Json] = {
            "copied": [s.number for s in branch.copied],
            "copied_sha256": digest([_taken(s) for s in branch.copied] + [asdict(f) for f in facts]),
        }
        desk.audit(
            "plan.forked",
            {
                "by": asked.requester,
                "depth": asked.depth,
                "goal_hmac": self._sealer.blind(asked.goal),
                "tenant": asked.tenant,
                "budget": asked.budget.as_json(),
                **came,
                **taken,
            },
        )
        ready = [replace(s, max_attempts=self._rules.max_attempts) for s in branch.ready]
        tx.copy_steps(plan_id, sorted([*branch.copied, *ready], key=lambda s: s.number))
        tx.add_facts(plan_id, facts)
        for ballot in ballots:
            tx.add_ballot(replace(ballot, plan_id=plan_id))
        if old.partial and branch.looked:
            tx.mark_partial(plan_id)
        for step in branch.copied:
            desk.event("step.copied", {**_named(step), "verdict": step.verdict})
        for step in ready:
            desk.event("step.planned", _named(step))
        tx.send(Message(Topic.STEPS, StepRef(plan_id, step.number)) for step in ready)
        return self._must(tx.plan(plan_id))

    # a step's life in a worker's hands

    def begin(self, ref: StepRef, *, holder: int) -> Claimed | None:
        """Give a step to a worker, or `None` when there is nothing to do: a duplicate, called off, or too early.

        Counts the attempt before the work, so that a step which kills its workers comes to an end.
        Raises `NotFound` for a plan or step that does not exist.
        """
        return self.begin_ready([ref], holder=holder).get(ref) or self.begin_otherwise(ref, holder=holder)

    def begin_ready(self, refs: Sequence[StepRef], *, holder: int) -> Mapping[StepRef, Claimed]:
        """Give those of the steps to a worker that nothing speaks against, at once; for others, ask `begin_otherwise`.

        Waits for nobody: neither for another worker nor for whoever holds a plan.
        """
        with self._store.at_once() as tx:
            taken = tx.claim_steps(refs, holder=holder, lease=self._rules.lease, first=True)
        return {ref: Claimed(*taken[ref]) for ref in taken}

    def begin_otherwise(self, ref: StepRef, *, holder: int) -> Claimed | None:
        """Find out why a step could not be claimed at once, and do what follows from that."""
        with self._store.transaction() as tx:
            desk, step = self._open_at(tx, ref)
            if desk.plan.state not in ALIVE or step.state is not StepState.READY:
                return None
            if step.agent.looks and desk.plan.overdue(tx.now()):
                self._skip(desk, step)
                return None
            if step.attempt >= step.max_attempts:
                self._bury(desk, step, "attempts_used_up", f"All {step.max_attempts} attempts were used up.")
                return None
            if not tx.may_run(desk.plan.tenant):
                # the relay keeps it until another of the tenant's has ended
                tx.send([Message(Topic.STEPS, ref)])
                return None
            # it was tried before, or its tenant is limited, or it became ready since
            taken = tx.claim_steps([ref], holder=holder, lease=self._rules.lease)
            if ref not in taken:
                return None
            self._orphan_calls(desk, ref)
            return Claimed(*taken[ref])

    def tell_started(self, claimed: Claimed) -> bool:
        """Say that a step is being worked on; for those that take a while. `False` when it is no longer held."""
        with self._store.transaction() as tx:
            desk, step = self._open_at(tx, claimed.ref)
            if step.state is not StepState.RUNNING or step.claim != claimed.claim:
                return False
            desk.event("step.started", {**_named(step), "attempt": step.attempt})
            return True

    def renew(self, claimed: Claimed) -> bool:
        """Keep a step for another lease; `False` means that it is lost and the worker must stop."""
        with self._store.transaction() as tx:
            return tx.renew(claimed.ref, claim=claimed.claim, lease=self._rules.lease)

    def report(self, claimed: Claimed, outcome: Outcome) -> bool:
        """Record what a step came to; `False` when the claim is no longer the current one, and nothing was written."""
        with self._store.transaction() as tx:
            desk = self._open(tx, claimed.ref.plan_id)
            match outcome:
                case Completed():
                    return self._complete(desk, claimed, outcome)
                case Snoozed():
                    return self._snooze(desk, claimed, outcome)
                case Held():
                    return self._hold(desk, claimed, outcome)
                case Faulted():
                    return self._fault(desk, claimed, outcome)
                case Refused():
                    return self._refuse(desk, claimed, outcome)

    def report_plain(self, reports: Sequence[tuple[Claimed, Completed]]) -> Collection[StepRef]:
        """Record what several steps came to, where it `is_plain`; those recorded. For others, `report` says why not.

        Waits for nobody, and fails as a whole: one that cannot be written down keeps the rest from it.
        """
        with self._store.at_once() as tx:
            return tx.complete_steps([_completion(claimed, outcome) for claimed, outcome in reports])

    def _complete(self, desk: _Desk, claimed: Claimed, outcome: Completed) -> bool:
        ref = claimed.ref
        if ref not in desk.tx.complete_steps([_completion(claimed, outcome)]):
            return False
        desk.tx.add_facts(ref.plan_id, outcome.facts)
        if outcome.partial:
            desk.mark_partial()
        if outcome.plan is not None:
            named: dict[str, Json] = {"step": ref.number, "sha256": digest(outcome.plan)}
            desk.audit("plan.planned", {**named, "plan": outcome.plan})
        if outcome.report is not None:
            desk.tx.put_report(ref.plan_id, outcome.report)
            desk.audit("report.written", {"step": ref.number, "sha256": digest(outcome.report)})
        return True

    def _snooze(self, desk: _Desk, claimed: Claimed, outcome: Snoozed) -> bool:
        delay = timedelta(seconds=outcome.delay_s)
        if not desk.tx.move_step(
            claimed.ref,
            StepMove.SNOOZE,
            claim=claimed.claim,
            delay=delay,
            return_attempt=True,
            reason=outcome.reason,
        ):
            return False
        desk.event(
            "step.snoozed", {**_named(claimed.step), "delay_s": outcome.delay_s, "reason": outcome.reason}
        )
        if outcome.delay_s <= 0:
            desk.tx.send([Message(Topic.STEPS, claimed.ref)])
        return True

    def _hold(self, desk: _Desk, claimed: Claimed, outcome: Held) -> bool:
        ref = claimed.ref
        if not desk.tx.move_step(
            ref, StepMove.HOLD, claim=claimed.claim, return_attempt=True, reason=outcome.question
        ):
            return False
        chain = self._rules.chains.get(outcome.category) or people.simple(
            outcome.roles, self._rules.approval_ttl
        )
        approval = Approval(
            approval_id=self._new_id(),
            plan_id=ref.plan_id,
            step=ref.number,
            category=outcome.category,
            roles=people.opening(chain),
            question=outcome.question,
            args_digest=outcome.args_digest,
            requester=desk.plan.requester,
            expires_at=desk.tx.now() + chain.stages[0].within,
            chain=chain,
        )
        desk.tx.add_approval(approval)
        self._tell(desk, "approval.requested", approval)
        desk.tx.move_plan(ref.plan_id, PlanMove.HOLD, reason=outcome.question)
        body: dict[str, Json] = {
            "step": ref.number,
            "approval": approval.approval_id,
            "category": outcome.category,
        }
        desk.event("approval.requested", {**_named(claimed.step), **body, "question": outcome.question})
        desk.audit(
            "approval.requested", {**body, "args_digest": outcome.args_digest, "roles": list(approval.roles)}
        )
        return True

    def _fault(self, desk: _Desk, claimed: Claimed, outcome: Faulted) -> bool:
        step = desk.tx.step(claimed.ref)
        if step is None or step.claim != claimed.claim or step.state is not StepState.RUNNING:
            return False
        self._orphan_calls(desk, claimed.ref)
        if not outcome.retryable:
            desk.tx.move_step(step.ref, StepMove.FAIL, claim=step.claim, reason=outcome.detail)
            self._list_dead(desk, step, outcome.reason, outcome.detail)
            self._end(desk, PlanMove.FAIL, f"Step {step.number} ({step.agent}) failed: {outcome.detail}")
        elif step.attempt >= step.max_attempts:
            self._bury(desk, step, outcome.reason, outcome.detail)
        else:
            delay_s = self._rules.backoff.delay_s(step.attempt, self._draw())
            desk.tx.move_step(
                step.ref,
                StepMove.RETRY,
                claim=step.claim,
                delay=timedelta(seconds=delay_s),
                reason=outcome.detail,
            )
            body: dict[str, Json] = {
                **_named(step),
                "attempt": step.attempt,
                "reason": outcome.reason,
                "detail": outcome.detail,
            }
            desk.event("step.faulted", {**body, "retry_in_s": round(delay_s, 3)})
        return True

    def _refuse(self, desk: _Desk, claimed: Claimed, outcome: Refused) -> bool:
        if not desk.tx.move_step(claimed.ref, StepMove.REFUSE, claim=claimed.claim, reason=outcome.detail):
            return False
        desk.audit("step.refused", {"step": claimed.ref.number, "reason": outcome.reason})
        self._end(desk, PlanMove.REJECT, outcome.detail)
        self._cancel_steps(desk)
        return True

    def settle(self, ref: StepRef) -> None:
        """Decide what follows a finished step, once; a repeat or a completion of a plan that ended does nothing.

        Raises `NotFound` for a plan or step that does not exist.
        """
        with self._store.transaction() as tx:
            if self._settle_within(tx, [ref], wait=True):
                self._open_at(tx, ref)  # says which of the two is not there

    def settle_all(self, refs: Iterable[StepRef]) -> Sequence[StepRef]:
        """Do what `settle` does for many steps, in as few transactions as can be; those that do not exist.

        A plan that somebody else holds keeps nobody waiting: its step is rung for again.
        """
        waiting, missing = list(dict.fromkeys(refs)), list[StepRef]()
        while waiting:
            # one step of each plan at a time: what follows the next depends on what followed this one
            batch = list({ref.plan_id: ref for ref in reversed(waiting)}.values())[: self._rules.batch]
            with self._store.transaction() as tx:
                missing += self._settle_within(tx, batch, wait=False)
            taken = set(batch)
            waiting = [ref for ref in waiting if ref not in taken]
        return missing

    def _settle_within(self, tx: Tx, refs: Sequence[StepRef], *, wait: bool) -> Sequence[StepRef]:
        plans = {plan.plan_id: plan for plan in tx.lock_plans([ref.plan_id for ref in refs], wait=wait)}
        living = [ref for ref in refs if ref.plan_id in plans and plans[ref.plan_id].state in ALIVE]
        settled = {step.ref: step for step in tx.mark_settled(living)} if living else {}
        # reading all steps where nobody looks at them would cost more than deciding; and before anything is planned,
        # since a store writes what was planned before it reads
        peers = {ref: tx.steps(ref.plan_id) for ref, step in settled.items() if ooda.joins(step)}
        missing = [ref for ref in refs if ref not in settled and tx.step(ref) is None]
        for ref, step in settled.items():
            self._follow(_Desk(tx, plans[ref.plan_id], self._sealer), step, peers.get(ref, ()))
        held = [ref for ref in refs if ref.plan_id not in plans and ref not in missing]
        tx.send([Message(Topic.COMPLETIONS, ref) for ref in held])
        return missing

    def _follow(self, desk: _Desk, step: Step, peers: Sequence[Step]) -> None:
        match ooda.follow(desk.plan, step, peers, overdue=desk.plan.overdue(desk.tx.now())):
            case ooda.Go(steps=following, partial=partial, ballot=ballot):
                if partial:
                    desk.mark_partial()
                if ballot is not None:
                    desk.tx.add_ballot(ballot)
                    if ballot.round or ballot.decided is not Decision.ACCEPTED:
                        # that a first draft is accepted, as most are, is told by its judge's step
                        desk.event("ballot.cast", _told(step, ballot))
                self._plan_steps(desk, following)
            case ooda.End(state=_, partial=partial):
                self._end(desk, PlanMove.SUCCEED, None, partial=partial, verdict=step.result.get("verdict"))
            case ooda.Wait():
                pass

    # the journal: a call inside a step

    def recall(self, claimed: Claimed, key: str, occurrence: int) -> Call | None:
        """The call as journalled, if it was intended in this step before."""
        with self._store.transaction() as tx:
            return tx.call(claimed.ref, key, occurrence)

    def intend(self, claimed: Claimed, ask: CallAsk) -> Intent:
        """Commit the intent to make a call, with the decision that allowed it and its cost reserved.

        Raises `Fenced` when the step is no longer this worker's, and `BudgetSpent` when the call does not fit into the
        plan's budget, or into the share of it that the plan gives to the step's task.
        """
        ref = claimed.ref
        with self._store.transaction() as tx:
            desk = self._open(tx, ref.plan_id)
            self._still_held(desk, claimed)
            before = tx.call(ref, ask.key, ask.occurrence)
            if before is not None and before.state is CallState.DONE:
                return Replayed(before)
            if before is not None and _must_not_repeat(before):
                return AskHuman(before)
            desk.plan.budget.reserve(desk.plan.spent, ask.reserve)
            _reserve_share(desk, claimed.step, ask.reserve)
            tx.spend(ref.plan_id, ask.reserve)
            tx.put_call(
                Call(
                    plan_id=ref.plan_id,
                    step=ref.number,
                    key=ask.key,
                    occurrence=ask.occurrence,
                    tool=ask.tool,
                    semantics=ask.semantics,
                    state=CallState.INTENDED,
                    claim=claimed.claim,
                    arguments=ask.arguments,
                    reserved=ask.reserve,
                )
            )
            named: dict[str, Json] = {
                "step": ref.number,
                "agent": claimed.step.agent,
                "tool": ask.tool,
                "call": ask.key,
                "occurrence": ask.occurrence,
            }
            desk.audit("tool.intent", {**named, "claim": claimed.claim, "decision": dict(ask.decision)})
            return Proceed(idempotency_key=digest([ref.plan_id, ref.number, ask.key, ask.occurrence]))

    def conclude(
        self,
        claimed: Claimed,
        ask: CallAsk,
        *,
        state: CallState,
        result: Json = None,
        evidence: Evidence | None = None,
        error: str | None = None,
        spent: Spent | None = None,
    ) -> None:
        """Record how a call ended, with its evidence; `spent` replaces what was reserved.

        Raises `Fenced` when the step is no longer this worker's: the call is then `unknown` to everybody else.
        """
        ref = claimed.ref
        with self._store.transaction() as tx:
            desk = self._open(tx, ref.plan_id)
            self._still_held(desk, claimed)
            if evidence is not None:
                tx.put_evidence(desk.plan.tenant, evidence)
            finished = tx.finish_call(
                ref,
                ask.key,
                ask.occurrence,
                claim=claimed.claim,
                state=state,
                result=result,
                evidence=evidence.sha256 if evidence else None,
                error=error,
                spent=spent,
            )
            if not finished:
                raise Fenced(ref.plan_id, ref.number, claimed.claim)
            if spent is not None:
                tx.spend(ref.plan_id, spent.minus(ask.reserve))
            named: dict[str, Json] = {
                "step": ref.number,
                "tool": ask.tool,
                "call": ask.key,
                "occurrence": ask.occurrence,
            }
            named |= {"state": state, "claim": claimed.claim}
            came: dict[str, Json] = {
                "result_sha256": digest(result),
                "evidence": evidence.sha256 if evidence else None,
            }
            desk.audit("tool.outcome", {**named, **came, "error": error})
            desk.event("tool.called", {"step": ref.number, "tool": ask.tool, "state": state, "error": error})

    def _still_held(self, desk: _Desk, claimed: Claimed) -> None:
        step = desk.tx.step(claimed.ref)
        current = step is not None and step.state is StepState.RUNNING and step.claim == claimed.claim
        if not current or desk.plan.state not in ALIVE:
            raise Fenced(claimed.ref.plan_id, claimed.ref.number, claimed.claim)

    def _orphan_calls(self, desk: _Desk, ref: StepRef) -> None:
        for call in desk.tx.orphan_calls(ref):
            named: dict[str, Json] = {
                "step": ref.number,
                "tool": call.tool,
                "call": call.key,
                "occurrence": call.occurrence,
            }
            desk.audit("tool.unknown", {**named, "claim": call.claim})

    # people

    def decide(
        self,
        approval_id: str,
        *,
        approve: bool,
        by: str,
        roles: Iterable[str],
        comment: str = "",
        stage: int | None = None,
    ) -> Approval:
        """Record what a person decides: once all seats are filled the step goes on; a rejection ends its plan.

        `stage` is the stage that they saw, where they say so. Raises `WrongRole`, `RequesterDecides`, `DecidesTwice`,
        or `AlreadyDecided` when somebody was first or it expired.
        """
        with self._store.transaction() as tx:
            asked = tx.approval(approval_id)
            if asked is None:
                raise NotFound("approval", approval_id)
            desk = self._open(tx, asked.plan_id)
            # read again: while the plan was waited for, somebody else may have decided
            asked = self._must(tx.approval(approval_id))
            if asked.expires_at is not None and asked.expires_at <= tx.now():
                self._escalate(desk, asked)  # the sweeper would have, a moment later
                asked = self._must(tx.approval(approval_id))
            turn = people.rule(
                asked,
                tx.rulings(approval_id),
                by=by,
                roles=roles,
                approve=approve,
                comment=comment,
                stage=stage,
            )
            self._take(desk, asked, turn)
            return self._must(tx.approval(approval_id))

    def _take(self, desk: _Desk, asked: Approval, turn: people.Turn) -> None:
        tx, ruling = desk.tx, turn.ruling
        if turn.state is ApprovalState.PENDING:
            expires_at = asked.expires_at if turn.within is None else tx.now() + turn.within
            taken = expires_at is not None and tx.advance(
                asked.approval_id,
                version=asked.version,
                stage=turn.stage,
                level=asked.level if turn.stage == asked.stage else 0,
                roles=turn.roles,
                expires_at=expires_at,
                in_time=True,
            )
        else:
            taken = tx.decide(
                asked.approval_id,
                turn.state,
                by=ruling.person,
                comment=ruling.comment,
                version=asked.version,
                holds=people.chain_of(asked).holds if turn.state is ApprovalState.APPROVED else None,
            )
        if not taken:
            found = self._must(tx.approval(asked.approval_id)).state
            raise AlreadyDecided(asked.approval_id, "expired" if found is ApprovalState.PENDING else found)
        tx.add_ruling(asked.approval_id, ruling)
        body: dict[str, Json] = {
            "approval": asked.approval_id,
            "step": asked.step,
            "decision": ruling.decision,
            "by": ruling.person,
            "role": ruling.role,
            "stage": ruling.stage,
        }
        why: dict[str, Json] = {"comment": ruling.comment, "args_digest": asked.args_digest}
        now = self._must(tx.approval(asked.approval_id))
        if turn.state is ApprovalState.PENDING:
            body["roles"] = list(turn.roles)
            desk.event("approval.advanced", body)
            desk.audit("approval.advanced", {**body, **why})
            self._tell(desk, "approval.advanced", now)
            return
        desk.event("approval.decided", body)
        desk.audit("approval.decided", {**body, **why})
        self._tell(desk, "approval.decided", now)
        approve = turn.state is ApprovalState.APPROVED
        self._after_decision(desk, asked, approve=approve, why=f"{ruling.person} rejected step {asked.step}.")

    def _escalate(self, desk: _Desk, asked: Approval) -> bool:
        """Let further roles decide as well, when a stage's time is up; `False` when nobody is left to ask."""
        following = people.escalated(asked, desk.tx.rulings(asked.approval_id))
        if following is None:
            return False
        roles, within = following
        expires_at = desk.tx.now() + within
        level = asked.level + 1
        if not desk.tx.advance(
            asked.approval_id,
            version=asked.version,
            stage=asked.stage,
            level=level,
            roles=roles,
            expires_at=expires_at,
            in_time=False,
        ):
            return False
        body: dict[str, Json] = {
            "approval": asked.approval_id,
            "step": asked.step,
            "stage": asked.stage,
            "level": level,
            "roles": list(roles),
        }
        desk.event("approval.escalated", body)
        desk.audit("approval.escalated", body)
        self._tell(desk, "approval.escalated", self._must(desk.tx.approval(asked.approval_id)))
        return True

    def _tell(self, desk: _Desk, kind: str, asked: Approval) -> None:
        """Have it told outside: names and numbers only, for a question may hold what nobody else may read."""
        if not self._rules.notify:
            return
        notification_id = self._new_id()
        body: dict[str, Json] = {
            "id": notification_id,
            "kind": kind,
            "at": desk.tx.now().isoformat(),
            "tenant": desk.plan.tenant,
            "plan_id": asked.plan_id,
            "step": asked.step,
            "approval_id": asked.approval_id,
            "category": asked.category,
            "state": asked.state,
            "stage": asked.stage,
            "roles": list(asked.roles) if asked.state is ApprovalState.PENDING else [],
            "expires_at": asked.expires_at.isoformat() if asked.expires_at else None,
        }
        desk.tx.add_notification(Notification(notification_id, asked.approval_id, kind, body))

    def tell_again(self, notification_id: str, *, by: str) -> Notification:
        """Let a notification that was given up on be sent again, under the same id; its approval stays as it is.

        Raises `NotFound`, or `Conflict` when it still waits or was delivered.
        """
        with self._store.transaction() as tx:
            found = tx.notification(notification_id)
            asked = tx.approval(found.approval_id) if found else None
            if found is None or asked is None:
                raise NotFound("notification", notification_id)
            desk = self._open(tx, asked.plan_id)
            if not tx.revive_notification(notification_id):
                raise Conflict(f"Notification {notification_id} is {found.state}, and was not given up on.")
            body: dict[str, Json] = {
                "notification": notification_id,
                "approval": asked.approval_id,
                "attempts": found.attempts,
                "error": found.error,
                "by": by,
            }
            desk.audit("notification.retried", body)
            return self._must(tx.notification(notification_id))

    def _after_decision(self, desk: _Desk, asked: Approval, *, approve: bool, why: str) -> None:
        ref = StepRef(asked.plan_id, asked.step)
        if approve:
            desk.tx.allow_repeat(ref, asked.args_digest)
            desk.tx.move_step(ref, StepMove.APPROVE)
            desk.tx.send([Message(Topic.STEPS, ref)])
            if not self._any_waiting(desk) and desk.tx.move_plan(asked.plan_id, PlanMove.RESUME):
                # its time did not run while it waited, or what was approved late would be skipped
                waited = people.waited(desk.tx.approvals(plan_id=asked.plan_id), desk.tx.now())
                desk.tx.extend(asked.plan_id, waited)
        else:
            desk.tx.move_step(ref, StepMove.REJECT, reason=why)
            self._end(desk, PlanMove.REJECT, why)
            self._cancel_steps(desk)

    def _any_waiting(self, desk: _Desk) -> bool:
        return any(s.state is StepState.WAITING_APPROVAL for s in desk.tx.steps(desk.plan.plan_id))

    # what was given up on

    def bury_message(self, *, reason: str, detail: str, ref: StepRef | None = None) -> str:
        """List a message that could not be handled; it belongs to a plan only if that plan exists."""
        with self._store.transaction() as tx:
            known = ref is not None and tx.plan(ref.plan_id) is not None
            letter = DeadLetter(
                letter_id=self._new_id(),
                plan_id=ref.plan_id if ref and known else None,
                step=ref.number if ref and known else None,
                reason=reason,
                detail=detail,
                at=tx.now(),
            )
            tx.add_dead_letter(letter)
            return letter.letter_id

    def retry_dead(self, letter_id: str, *, by: str) -> Plan:
        """Take a dead letter's plan up again where it stopped; its history stays."""
        with self._store.transaction() as tx:
            letter = tx.dead_letter(letter_id)
            if letter is None:
                raise NotFound("dead letter", letter_id)
            if letter.plan_id is None:
                raise Conflict(
                    f"Dead letter {letter_id} is a message without a plan; it can only be discarded."
                )
            if letter.state != "open":
                raise Conflict(f"Dead letter {letter_id} is already {letter.state}.")
        return self.replay(letter.plan_id, by=by)

    def discard_dead(self, letter_id: str, *, by: str) -> None:
        """Say that a dead letter needs no more attention; its plan stays as it is."""
        with self._store.transaction() as tx:
            letter = tx.dead_letter(letter_id)
            if letter is None:
                raise NotFound("dead letter", letter_id)
            if not tx.close_dead_letter(letter_id, "discarded"):
                raise Conflict(f"Dead letter {letter_id} is already {letter.state}.")
            if letter.plan_id is not None:
                self._open(tx, letter.plan_id).audit("dead_letter.discarded", {"letter": letter_id, "by": by})

    def replay(self, plan_id: str, *, by: str) -> Plan:
        """Take a dead-lettered or failed plan up again: every step given up on gets its attempts back."""
        with self._store.transaction() as tx:
            desk = self._open(tx, plan_id)
            if not tx.move_plan(plan_id, PlanMove.REPLAY):
                raise IllegalMove("plan", desk.plan.state, PlanMove.REPLAY)
            for step in tx.steps(plan_id):
                if step.state in {StepState.DEAD, StepState.FAILED}:
                    tx.move_step(step.ref, StepMove.REPLAY, reset_attempts=True)
            for letter in tx.dead_letters(plan_id=plan_id):
                tx.close_dead_letter(letter.letter_id, "retried")
            if self._any_waiting(desk):
                tx.move_plan(plan_id, PlanMove.HOLD)
            desk.event("plan.replayed", {"by": by})
            desk.audit("plan.replayed", {"by": by})
            tx.send(self._doorbells(tx.steps(plan_id)))
            return self._must(tx.plan(plan_id))

    @staticmethod
    def _doorbells(steps: Sequence[Step]) -> Sequence[Message]:
        ready = [Message(Topic.STEPS, s.ref) for s in steps if s.state is StepState.READY]
        finished = {StepState.SUCCEEDED, StepState.SKIPPED}
        unsettled = [
            Message(Topic.COMPLETIONS, s.ref) for s in steps if s.state in finished and not s.settled
        ]
        return [*ready, *unsettled]

    # the sweeper's verbs

    def sweep(self) -> Swept:
        """Wake what is due, rescue what was dropped, offer again what was not heard, end what expired.

        A fault that nobody foresaw is raised once all the rest is done: one row keeps no other from being swept.
        """
        woken, rescued, expired, offered = _all((self.wake, self.rescue, self.expire, self.offer_again))
        return Swept(woken=woken, rescued=rescued, expired=expired, offered=offered)

    def wake(self) -> int:
        """Make retrying steps ready whose time has come; the number woken."""
        return self._each(lambda tx: tx.due(self._rules.batch), self._wake)

    def _wake(self, ref: StepRef) -> bool:
        with self._store.transaction() as tx:
            desk = self._open_free(tx, ref.plan_id)
            if desk is None or desk.plan.state not in ALIVE or not tx.move_step(ref, StepMove.WAKE):
                return False
            tx.send([Message(Topic.STEPS, ref)])
            return True

    def rescue(self) -> int:
        """Take steps back from workers that are gone or silent; the number taken back or buried."""
        return self._each(lambda tx: tx.lapsed(self._rules.batch), self._rescue)

    def _rescue(self, ref: StepRef) -> bool:
        with self._store.transaction() as tx:
            desk = self._open_free(tx, ref.plan_id)
            if desk is None:
                return False
            step = tx.step(ref)
            # looked at again under the plan's lock: since the search the worker may have reported or renewed
            if step is None or step.state is not StepState.RUNNING or not tx.lapsed(1, of=ref):
                return False
            self._orphan_calls(desk, ref)
            if step.attempt >= step.max_attempts:
                detail = f"The worker was lost in each of {step.attempt} attempts, or in the last of them."
                self._bury(desk, step, "worker_lost", detail)
                return True
            tx.move_step(ref, StepMove.RESCUE, claim=step.claim, reason="worker lost")
            desk.event("step.rescued", {**_named(step), "attempt": step.attempt})
            if desk.plan.state in ALIVE:
                tx.send([Message(Topic.STEPS, ref)])
            return True

    def offer_again(self, older_than: timedelta | None = None, *, limit: int | None = None) -> int:
        """Ring again for steps that nobody answered for in that time; the number of doorbells."""
        with self._store.transaction() as tx:
            messages = tx.unheard(
                self._rules.unheard_after if older_than is None else older_than, limit or self._rules.batch
            )
            tx.send(messages)
            return len(messages)

    def expire(self) -> int:
        """Ask further people, or turn approvals that nobody decided in time into rejections; the number of both."""
        with self._store.transaction() as tx:
            asked = tx.expired_approvals(self._rules.batch)
        return sum(_all(partial(self._expire, approval) for approval in asked))

    def _expire(self, asked: Approval) -> bool:
        with self._store.transaction() as tx:
            desk = self._open_free(tx, asked.plan_id)
            found = tx.approval(asked.approval_id) if desk else None
            if desk is None or found is None or found.version != asked.version:
                return False
            if self._escalate(desk, found):
                return True
            if not tx.decide(
                asked.approval_id,
                ApprovalState.EXPIRED,
                by="system",
                comment="nobody decided in time",
                version=asked.version,
            ):
                return False
            body: dict[str, Json] = {
                "approval": asked.approval_id,
                "step": asked.step,
                "decision": ApprovalState.EXPIRED,
                "by": "system",
            }
            desk.event("approval.decided", body)
            desk.audit("approval.decided", body)
            self._tell(desk, "approval.decided", self._must(tx.approval(asked.approval_id)))
            why = f"Nobody decided about step {asked.step} in time."
            self._after_decision(desk, asked, approve=False, why=why)
            return True

    def _each(self, find: Callable[[Tx], Sequence[StepRef]], act: Callable[[StepRef], bool]) -> int:
        with self._store.transaction() as tx:
            found = find(tx)
        return sum(_all(partial(act, ref) for ref in found))

    # what the verbs share

    def _open(self, tx: Tx, plan_id: str) -> _Desk:
        plan = tx.lock_plan(plan_id)
        if plan is None:
            raise NotFound("plan", plan_id)
        return _Desk(tx, plan, self._sealer)

    def _open_free(self, tx: Tx, plan_id: str) -> _Desk | None:
        """The plan, unless somebody holds it: a sweep comes again, and must not wait behind one that fell silent."""
        for plan in tx.lock_plans([plan_id], wait=False):
            return _Desk(tx, plan, self._sealer)
        return None

    def _open_at(self, tx: Tx, ref: StepRef) -> tuple[_Desk, Step]:
        found = tx.lock_step(ref)
        if found is None:
            if tx.plan(ref.plan_id) is None:
                raise NotFound("plan", ref.plan_id)
            raise NotFound("step", f"{ref.number} in plan {ref.plan_id}")
        plan, step = found
        return _Desk(tx, plan, self._sealer), step

    def _plan_steps(self, desk: _Desk, steps: Sequence[NewStep]) -> None:
        made = desk.tx.add_steps(desk.plan.plan_id, steps, max_attempts=self._rules.max_attempts)
        if len(made) > 1:  # a step that follows alone speaks for itself when it ends, or takes a while
            for step in made:
                desk.event("step.planned", _named(step))
        desk.tx.send(Message(Topic.STEPS, step.ref) for step in made)

    def _skip(self, desk: _Desk, step: Step) -> None:
        desk.tx.move_step(step.ref, StepMove.SKIP, reason="the plan's time is up")
        desk.mark_partial()
        desk.event("step.skipped", {**_named(step), "reason": "the plan's time is up"})
        desk.tx.send([Message(Topic.COMPLETIONS, step.ref)])

    def _bury(self, desk: _Desk, step: Step, reason: str, detail: str) -> None:
        desk.tx.move_step(step.ref, StepMove.BURY, reason=detail)
        self._list_dead(desk, step, reason, detail)
        self._end(desk, PlanMove.DEAD_LETTER, f"Step {step.number} ({step.agent}) was given up on: {detail}")

    def _list_dead(self, desk: _Desk, step: Step, reason: str, detail: str) -> None:
        letter = DeadLetter(
            letter_id=self._new_id(),
            plan_id=step.plan_id,
            step=step.number,
            reason=reason,
            detail=detail,
            at=desk.tx.now(),
            attempts=step.attempt,
        )
        desk.tx.add_dead_letter(letter)
        desk.tx.send([Message(Topic.DEAD, step.ref)])
        body: dict[str, Json] = {
            "step": step.number,
            "reason": reason,
            "attempts": step.attempt,
            "letter": letter.letter_id,
        }
        desk.event("step.dead", {**_named(step), **body, "detail": detail})
        desk.audit("step.dead", body)

    def _end(
        self,
        desk: _Desk,
        move: PlanMove,
        reason: str | None,
        *,
        partial: bool | None = None,
        verdict: Json = None,
    ) -> None:
        if not desk.tx.move_plan(desk.plan.plan_id, move, reason=reason, partial=partial):
            return  # it had ended before: a second step was given up on
        _, state = PLAN_MOVES[move]
        body: dict[str, Json] = {"state": state, "partial": desk.partial or bool(partial), "reason": reason}
        desk.event("plan.ended", {**body, "verdict": verdict})
        desk.audit("plan.ended", body)

    @staticmethod
    def _must(found: _T | None) -> _T:
        if found is None:
            raise AssertionError("a row that this transaction wrote or locked is gone")
        return found


class _Desk:
    """A plan, locked, and what is written about it in this transaction."""

    def __init__(self, tx: Tx, plan: Plan, sealer: Sealer) -> None:
        self.tx = tx
        self.plan = plan
        self._sealer = sealer
        self.partial = plan.partial
        self._number = plan.audit_count
        self._head = plan.audit_head

    def mark_partial(self) -> None:
        """Say that a limit cut the plan short."""
        self.partial = True
        self.tx.mark_partial(self.plan.plan_id)

    def event(self, kind: str, body: Mapping[str, Json]) -> None:
        self.tx.add_event(self.plan.plan_id, kind, body)

    def audit(self, kind: str, body: Mapping[str, Json]) -> None:
        stamped = {**body, "at": self.tx.now().isoformat()}
        record = self._sealer.seal(
            chain=self.plan.plan_id, number=self._number + 1, kind=kind, body=stamped, prev=self._head
        )
        self.tx.add_audit(record)
        self._number, self._head = record.number, record.mac


def _all(acts: Iterable[Callable[[], int]]) -> Sequence[int]:
    """Do all of it and return how much each did; then raise the first fault that nobody foresaw."""
    done, fault = list[int](), None
    for act in acts:
        try:
            done.append(act())
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - one row must not keep every other from being rescued
            fault = fault or error
            done.append(0)
    if fault is not None:
        raise fault
    return done


def is_plain(outcome: Outcome) -> TypeGuard[Completed]:
    """Whether an outcome is a verdict and a result, and nothing else is to be written."""
    return (
        isinstance(outcome, Completed)
        and outcome.report is None
        and outcome.plan is None
        and not (outcome.facts or outcome.partial)
    )


def _completion(claimed: Claimed, outcome: Completed) -> Completion:
    return Completion(
        claimed.ref,
        claimed.claim,
        outcome.verdict,
        outcome.follow_ups,
        outcome.result if outcome.plan is None else {**outcome.result, "plan": outcome.plan},
        told={**_named(claimed.step), "verdict": outcome.verdict, "facts": len(outcome.facts)},
    )


def _named(step: Step) -> dict[str, Json]:
    """What each event of a step begins with, so that whoever hears one only knows what it is about."""
    return {"step": step.number, "agent": step.agent, "round": step.round}


def _told(judge: Step, ballot: Ballot) -> dict[str, Json]:
    """What the event of a ballot says."""
    return {
        **_named(judge),
        "verdict": ballot.verdict,
        "confidence": ballot.confidence,
        "threshold": ballot.threshold,
        "objections": ballot.objections,
        "decided": ballot.decided,
        "why": ballot.why,
    }


def _taken(step: Step) -> Json:
    """What a fork takes over of a finished step."""
    return [step.number, step.agent, step.state, step.verdict, step.follow_ups, step.result]


def _reserve_share(desk: _Desk, step: Step, ask: Spent) -> None:
    """Raise `BudgetSpent` where a call does not fit into its task's share, whichever of the task's steps spent it.

    The plan's row is held, so that steps of one task which run at once cannot overspend together.
    """
    share = step.brief.get("share")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        return
    task, plan = step.brief.get("task"), desk.plan
    mine = {s.number for s in desk.tx.steps(plan.plan_id) if s.brief.get("task") == task}
    spent = Spent()
    for call in desk.tx.calls(plan.plan_id):
        if call.step in mine:
            spent = spent.plus(call.reserved)
    plan.budget.part(share).reserve(spent, ask, whose="task")


def _must_not_repeat(call: Call) -> bool:
    unsure = call.state in {CallState.UNKNOWN, CallState.INTENDED}
    return unsure and call.semantics is Semantics.AT_MOST_ONCE and not call.repeat_allowed
