"""The guards that keep the promises, each taken away in turn: a simulator that never fails proves nothing.

    python -m tests.simulator.mutations          take away each guard and tell which seed noticed

A mutation replaces exact text that must occur exactly once, so that this list cannot rot. The mutated product and
the simulator are copied to a folder of their own and run there. Where one guard is built twice, as a check under
the plan's lock and as a condition of the write, a mutation takes away both: either alone is enough.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEDS = 6_000

CONDUCTOR = "orchestrator/conductor.py"
STORE = "orchestrator/inmemory.py"
PEOPLE = "orchestrator/domain/approval.py"
OODA = "orchestrator/domain/ooda.py"
CONSENSUS = "orchestrator/domain/consensus.py"
BUDGET = "orchestrator/domain/budget.py"
LIFECYCLE = "orchestrator/domain/lifecycle.py"
PLAN = "orchestrator/domain/plan.py"
CHAIN = "orchestrator/vault/chain.py"


@dataclass(frozen=True, slots=True)
class Edit:
    """Exact text of one file, and what stands there when its guard is gone."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutation:
    """One guard less: what is then wrong, and the promises that may show it."""

    name: str
    promises: tuple[str, ...]
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Caught:
    """The first seed that noticed, the promise that it saw broken, and how."""

    seed: int
    promise: str
    how: str


def _mutation(name: str, promises: str, *edits: tuple[str, str, str]) -> Mutation:
    return Mutation(name, tuple(promises.split()), tuple(Edit(*edit) for edit in edits))


MUTATIONS = (
    # who holds a step
    _mutation(
        "a step that is running is claimed again",
        "P2",
        (
            CONDUCTOR,
            "if desk.plan.state not in ALIVE or step.state is not StepState.READY:\n                return None",
            "if desk.plan.state not in ALIVE:\n                return None",
        ),
        (
            STORE,
            "if step is None or step.state is not StepState.READY or step.attempt >= step.max_attempts:",
            "if step is None or step.attempt >= step.max_attempts:",
        ),
    ),
    _mutation("a claim does not grow", "P2", (STORE, "claim=step.claim + 1,", "claim=max(1, step.claim),")),
    _mutation(
        "a report is taken without its claim",
        "P2",
        (
            STORE,
            "or (claim is not None and step.claim != claim):\n            return False\n        offered",
            ":\n            return False\n        offered",
        ),
    ),
    _mutation(
        "a fault is taken without its claim",
        "P2",
        (
            CONDUCTOR,
            "if step is None or step.claim != claimed.claim or step.state is not StepState.RUNNING:",
            "if step is None or step.state is not StepState.RUNNING:",
        ),
        (CONDUCTOR, "StepMove.RETRY,\n                claim=step.claim,", "StepMove.RETRY,"),
    ),
    _mutation(
        "a lease is renewed without its claim",
        "P2",
        (
            STORE,
            "if step is None or step.state is not StepState.RUNNING or step.claim != claim:",
            "if step is None or step.state is not StepState.RUNNING:",
        ),
    ),
    _mutation(
        "a worker without the claim may intend a call",
        "P2",
        (
            CONDUCTOR,
            "self._still_held(desk, claimed)\n            before = tx.call(",
            "before = tx.call(",
        ),
    ),
    _mutation(
        "a worker without the claim may conclude a call",
        "P2",
        (
            CONDUCTOR,
            "self._still_held(desk, claimed)\n            if evidence is not None:",
            "if evidence is not None:",
        ),
        (
            STORE,
            "if call is None or call.state is not CallState.INTENDED or call.claim != claim:",
            "if call is None:",
        ),
    ),
    _mutation(
        "a step of an ended plan goes on making calls",
        "P2",
        (
            CONDUCTOR,
            "if not current or desk.plan.state not in ALIVE:",
            "if not current:",
        ),
    ),
    _mutation(
        "a step of an ended plan is begun",
        "P6",
        (
            CONDUCTOR,
            "if desk.plan.state not in ALIVE or step.state is not StepState.READY:\n                return None",
            "if step.state is not StepState.READY:\n                return None",
        ),
        (
            STORE,
            "if plan is None or plan.state not in ALIVE:",
            "if plan is None:",
        ),
    ),
    _mutation(
        "a step is begun before its time",
        "P10",
        (
            STORE,
            "        if step.run_after is not None and step.run_after > self._at:\n            return None\n",
            "",
        ),
    ),
    _mutation(
        "an attempt is not counted at its start",
        "P10",
        (STORE, "attempt=step.attempt + 1,", "attempt=step.attempt,"),
    ),
    _mutation(
        "a step that kills its workers is tried for ever",
        "P10",
        (
            CONDUCTOR,
            '            if step.attempt >= step.max_attempts:\n                self._bury(desk, step, "attempts_used_up"',
            '            if step.attempt >= 10**9:\n                self._bury(desk, step, "attempts_used_up"',
        ),
        (
            CONDUCTOR,
            "            if step.attempt >= step.max_attempts:\n                detail =",
            "            if step.attempt >= 10**9:\n                detail =",
        ),
        (
            STORE,
            "step.state is not StepState.READY or step.attempt >= step.max_attempts:",
            "step.state is not StepState.READY:",
        ),
    ),
    _mutation(
        "waiting for a human keeps the worker",
        "P6",
        (
            STORE,
            "            holder=None,\n            leased_until=None,\n            attempt=0",
            "            holder=step.holder,\n            leased_until=step.leased_until,\n            attempt=0",
        ),
    ),
    # what follows what
    _mutation(
        "what follows a step is decided at each completion",
        "P1 P2",
        (
            CONDUCTOR,
            "settled = {step.ref: step for step in tx.mark_settled(living)} if living else {}",
            "tx.mark_settled(living)\n        settled = {r: s for r in living if (s := tx.step(r)) and s.settled}",
        ),
    ),
    _mutation(
        "a join does not wait for its round",
        "P1 P2",
        (OODA, "if not all(s.settled for s in peers):", "if not any(s.settled for s in peers):"),
    ),
    _mutation(
        "a task is begun before what it needs",
        "P2",
        (OODA, "[brief for brief in wanted if not _missing(brief, steps)]", "list(wanted)"),
    ),
    _mutation(
        "a task is begun though what it needs found nothing",
        "P2",
        (OODA, "step.state is StepState.SUCCEEDED and step.verdict not in EMPTY", "True"),
    ),
    _mutation(
        "a task that waited is forgotten",
        "P9",
        (
            OODA,
            "    if taken:\n        return Go(tuple(_looking(brief, finished.round)",
            "    if False:\n        return Go(tuple(_looking(brief, finished.round)",
        ),
        (OODA, "for s in peers) or bool(ready),", "for s in peers),"),
    ),
    _mutation(
        "a plan that could not doubt does not say so",
        "P9",
        (OODA, "Go((NewStep(Agent.GENERATOR),), partial=doubts)", "Go((NewStep(Agent.GENERATOR),))"),
    ),
    _mutation(
        "a plan doubts in every round",
        "P2 P10",
        (OODA, "bool(profile.divergence) and keeper.round == 1", "bool(profile.divergence)"),
    ),
    _mutation(
        "a round more than its depth allows",
        "P10",
        (OODA, "keeper.round < profile.rounds:", "keeper.round <= profile.rounds:"),
    ),
    _mutation(
        "a draft is sent back without end",
        "P9 P10",
        (CONSENSUS, "if judge.round + 1 >= most:", "if most < 0:"),
    ),
    _mutation(
        "a plan ends before its report",
        "P2 P9",
        (
            OODA,
            "Go((NewStep(Agent.SYNTHESISER, judge.round),), partial=ballot.why is Why.BUDGET, ballot=ballot)",
            "End(PlanState.SUCCEEDED)",
        ),
    ),
    _mutation(
        "a round leaves no ballot",
        "P2",
        (CONDUCTOR, "                    desk.tx.add_ballot(ballot)\n", ""),
    ),
    # limits
    _mutation(
        "calls are not held to the budget",
        "P9",
        (CONDUCTOR, "            desk.plan.budget.reserve(desk.plan.spent, ask.reserve)\n", ""),
    ),
    _mutation(
        "a reserved call is not counted",
        "P9",
        (CONDUCTOR, "            tx.spend(ref.plan_id, ask.reserve)\n", ""),
    ),
    _mutation(
        "no steps are kept back for writing",
        "P9",
        (BUDGET, "self.steps - WRITING_STEPS - spent.steps", "self.steps - spent.steps"),
    ),
    _mutation(
        "planned steps are not counted",
        "P9",
        (STORE, "spent=plan.spent.plus(Spent(steps=len(made)))", "spent=plan.spent"),
    ),
    _mutation(
        "a revision is begun that cannot be finished",
        "P9",
        (OODA, "plan.budget.steps - plan.spent.steps >= WRITING_STEPS and not overdue", "not overdue"),
    ),
    _mutation(
        "research begins after the deadline",
        "P9",
        (
            CONDUCTOR,
            "if step.agent.looks and desk.plan.overdue(tx.now()):",
            "if step.agent.looks and desk.plan.overdue(desk.plan.created_at):",
        ),
        (
            STORE,
            "        if step.agent.looks and plan.overdue(self._at):\n            return None\n",
            "",
        ),
    ),
    _mutation(
        "a plan cut short by its time does not say so",
        "P9",
        (
            CONDUCTOR,
            '        desk.mark_partial()\n        desk.event("step.skipped"',
            '        desk.event("step.skipped"',
        ),
        (OODA, "partial=any(s.state is StepState.SKIPPED for s in peers) or", "partial="),
    ),
    _mutation(
        "a plan cut short by its steps does not say so",
        "P9",
        (OODA, "partial=len(taken) < len(ready)", "partial=False"),
    ),
    _mutation(
        "a draft that could not be revised does not say so",
        "P9",
        (OODA, "partial=ballot.why is Why.BUDGET", "partial=False"),
    ),
    # calls
    _mutation(
        "a call that is done is made again",
        "P2",
        (
            CONDUCTOR,
            "            if before is not None and before.state is CallState.DONE:\n                return Replayed(before)\n",
            "",
        ),
    ),
    _mutation(
        "a call that must not be repeated is",
        "P2",
        (CONDUCTOR, "call.semantics is Semantics.AT_MOST_ONCE and not call.repeat_allowed", "False"),
    ),
    _mutation(
        "a human's leave to repeat a call lasts for ever",
        "P2",
        (
            CONDUCTOR,
            "arguments=ask.arguments,\n                    reserved=ask.reserve,",
            (
                "arguments=ask.arguments,\n                    repeat_allowed=before is not None and before.repeat_allowed,"
                "\n                    reserved=ask.reserve,"
            ),
        ),
    ),
    _mutation(
        "a call is intended without a record",
        "P3",
        (
            CONDUCTOR,
            '            desk.audit("tool.intent", {**named, "claim": claimed.claim, "decision": dict(ask.decision)})\n',
            "",
        ),
    ),
    _mutation(
        "a call is concluded without a record",
        "P3",
        (CONDUCTOR, '            desk.audit("tool.outcome", {**named, **came, "error": error})\n', ""),
    ),
    _mutation(
        "a rescued step's calls are not said to be unknown",
        "P3",
        (
            CONDUCTOR,
            "                return False\n            self._orphan_calls(desk, ref)\n            if step.attempt",
            "                return False\n            if step.attempt",
        ),
    ),
    _mutation(
        "a cancelled step's calls are not said to be unknown",
        "P3",
        (
            CONDUCTOR,
            "                self._orphan_calls(desk, step.ref)\n            if step.state",
            "                pass\n            if step.state",
        ),
    ),
    _mutation(
        "a faulted step's calls are not said to be unknown",
        "P3",
        (CONDUCTOR, "        self._orphan_calls(desk, claimed.ref)\n", ""),
    ),
    # people
    _mutation(
        "the requester may decide",
        "P6",
        (
            PEOPLE,
            "    if by == asked.requester:\n        raise RequesterDecides(by)\n",
            "",
        ),
    ),
    _mutation(
        "anybody may decide",
        "P6",
        (
            PEOPLE,
            "    if not mine & {*asked.roles, *passed}:\n        raise WrongRole(asked.roles)\n",
            "    mine = mine or frozenset(asked.roles)\n    mine = mine if mine & {*asked.roles, *passed} else frozenset(asked.roles)\n",
        ),
    ),
    _mutation(
        "one person may fill two seats",
        "P6",
        (
            PEOPLE,
            "    if any(by == ruling.person for ruling in rulings):\n        raise DecidesTwice(by)\n",
            "",
        ),
        (STORE, "        if taken or ruling.number != len(rows) + 1:\n", "        if False and taken:\n"),
    ),
    _mutation(
        "one seat of two is enough",
        "P6",
        (PEOPLE, "    if _open(chain, asked.stage, rulings):\n", "    if False:\n"),
    ),
    _mutation(
        "one stage of two is enough",
        "P6",
        (PEOPLE, "    if asked.stage == len(chain.stages):\n", "    if True:\n"),
    ),
    _mutation(
        "a decision is made twice",
        "P6",
        (
            STORE,
            "if approval is None or approval.state is not ApprovalState.PENDING:",
            "if approval is None:",
        ),
        (
            PEOPLE,
            "    if asked.state is not ApprovalState.PENDING:\n        raise AlreadyDecided(asked.approval_id, asked.state)\n",
            "    rulings = rulings if asked.state is ApprovalState.PENDING else ()\n",
        ),
        (
            STORE,
            "        if taken or ruling.number != len(rows) + 1:\n",
            "        if False and taken:\n",
        ),
    ),
    _mutation(
        "an expired approval may be decided",
        "P6",
        (STORE, "late = approval.expires_at is not None and approval.expires_at <= self._at", "late = False"),
    ),
    _mutation(
        "approvals never expire",
        "P6 P10",
        (CONDUCTOR, "return sum(_all(partial(self._expire, approval) for approval in asked))", "return 0"),
    ),
    _mutation(
        "a rejected step's plan goes on",
        "P1 P6 P10",
        (
            CONDUCTOR,
            "            self._end(desk, PlanMove.REJECT, why)\n            self._cancel_steps(desk)\n",
            "",
        ),
    ),
    _mutation(
        "a plan goes on waiting after its approval",
        "P10",
        (
            CONDUCTOR,
            "if not self._any_waiting(desk) and desk.tx.move_plan(asked.plan_id, PlanMove.RESUME):",
            "if False:",
        ),
    ),
    _mutation(
        "an approved step stays asleep",
        "P6 P10",
        (CONDUCTOR, "            desk.tx.move_step(ref, StepMove.APPROVE)\n", ""),
    ),
    _mutation(
        "a cancelled plan's workers may still write",
        "P6",
        (
            CONDUCTOR,
            '        self._cancel_steps(desk)\n        desk.event("plan.cancelled"',
            '        desk.event("plan.cancelled"',
        ),
    ),
    # what was given up on
    _mutation(
        "what was given up on is not listed",
        "P4",
        (CONDUCTOR, "        desk.tx.add_dead_letter(letter)\n", ""),
    ),
    _mutation(
        "a plan goes on without the step that was given up on",
        "P4 P10",
        (
            CONDUCTOR,
            '        self._end(desk, PlanMove.DEAD_LETTER, f"Step {step.number} ({step.agent}) was given up on: {detail}")\n',
            "",
        ),
    ),
    _mutation(
        "a retried step has no attempts left",
        "P4",
        (CONDUCTOR, "StepMove.REPLAY, reset_attempts=True", "StepMove.REPLAY"),
    ),
    _mutation(
        "a failed step cannot be retried",
        "P4 P10",
        (
            CONDUCTOR,
            "if step.state in {StepState.DEAD, StepState.FAILED}:",
            "if step.state in {StepState.DEAD}:",
        ),
    ),
    _mutation(
        "a retried letter stays open",
        "P4",
        (
            CONDUCTOR,
            '                tx.close_dead_letter(letter.letter_id, "retried")\n',
            "                pass\n",
        ),
    ),
    _mutation(
        "a discarded letter can be retried",
        "P4",
        (CONDUCTOR, 'if letter.state != "open":', 'if letter.state == "retried":'),
    ),
    _mutation(
        "a retried plan forgets that a step waits for a human",
        "P4",
        (
            CONDUCTOR,
            '                tx.move_plan(plan_id, PlanMove.HOLD)\n            desk.event("plan.replayed"',
            '                pass\n            desk.event("plan.replayed"',
        ),
    ),
    _mutation(
        "a rejection of a plan that was given up on is forgotten",
        "P10",
        (
            LIFECYCLE,
            "frozenset({_P.RUNNING, _P.WAITING_APPROVAL, _P.DEAD_LETTERED, _P.FAILED}),\n        _P.REJECTED,",
            "frozenset({_P.RUNNING, _P.WAITING_APPROVAL}),\n        _P.REJECTED,",
        ),
    ),
    # the sweeper
    _mutation(
        "nobody rings again",
        "P10",
        (CONDUCTOR, "            tx.send(messages)\n", "            messages = []\n"),
    ),
    _mutation(
        "nobody wakes a retrying step",
        "P10",
        (CONDUCTOR, "return self._each(lambda tx: tx.due(self._rules.batch), self._wake)", "return 0"),
    ),
    _mutation(
        "nobody rescues a lost step",
        "P10",
        (CONDUCTOR, "return self._each(lambda tx: tx.lapsed(self._rules.batch), self._rescue)", "return 0"),
    ),
    _mutation(
        "a lease does not end",
        "P10",
        (STORE, "                or step.leased_until <= self._at\n", ""),
    ),
    _mutation(
        "a dead worker is not noticed before its lease ends",
        "P10",
        (STORE, "                or (step.holder is not None and not self._store.alive(step.holder))\n", ""),
    ),
    _mutation(
        "a rescue does not look again",
        "P1 P2",
        (
            CONDUCTOR,
            "step.state is not StepState.RUNNING or not tx.lapsed(1, of=ref):",
            "step.state is not StepState.RUNNING:",
        ),
    ),
    _mutation(
        "only the first thing that is due is ever found",
        "P1 P10",
        (
            STORE,
            "                found.append(Message(topic, step.ref))\n                self._change_step(step, offered_at=self._at)\n",
            "                found.append(Message(topic, step.ref))\n",
        ),
    ),
    # what is written together
    _mutation(
        "a transaction that did not commit leaves something behind",
        "P1",
        (STORE, "            tx.undo()\n", "            pass\n"),
    ),
    _mutation(
        "events are numbered anew after a rest",
        "P2",
        (
            STORE,
            "        self._change(plan_id, event_count=number)\n",
            "        self._change(plan_id, event_count=number % 7)\n",
        ),
    ),
    _mutation(
        "two records of a verb have the same number",
        "P7",
        (CONDUCTOR, "        self._number, self._head = record.number, record.mac\n", ""),
    ),
    _mutation(
        "the plan forgets the end of its chain",
        "P7",
        (STORE, "audit_count=record.number, audit_head=record.mac)", "audit_count=record.number)"),
    ),
    # requests
    _mutation(
        "a key makes a plan each time",
        "P1",
        (CONDUCTOR, "found = tx.plan_of_key(asked.tenant, asked.key) if asked.key else None", "found = None"),
        (
            STORE,
            "            if (asked.tenant, asked.key) in self._store.keys:\n                return False\n",
            "",
        ),
    ),
    _mutation(
        "a key may come with another request",
        "P1",
        (CONDUCTOR, '            raise KeyReused(asked.key or "")\n', "            pass\n"),
    ),
)


def apply(mutation: Mutation, root: Path) -> None:
    """Take the guard away from the copy at `root`; `ValueError` if its text is not there exactly once."""
    for edit in mutation.edits:
        file = root / edit.file
        text = file.read_text(encoding="utf-8")
        if (times := text.count(edit.old)) != 1:
            raise ValueError(f"{mutation.name}: the text occurs {times} times in {edit.file}: {edit.old!r}")
        file.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def unmeasured(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what makes a child count its lines: the product without a guard is not what is measured."""
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE_PROCESS_")}


def catch(mutation: Mutation, seeds: int = SEEDS) -> Caught | None:
    """Run the simulator without this guard; what it noticed, or `None`."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in ("orchestrator", "tests/simulator"):
            shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        apply(mutation, root)
        ran = subprocess.run(
            [sys.executable, "-m", "tests.simulator", "--seeds", str(seeds), "--jobs", "1"],
            cwd=root,
            env=unmeasured(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
    found = re.search(r"^seed (\d+) breaks (\w+): (.*)$", ran.stdout, re.MULTILINE)
    if found is None and ran.returncode:
        raise RuntimeError(f"{mutation.name}: the simulator itself failed: {ran.stderr}")
    return Caught(int(found[1]), found[2], found[3]) if found else None


def main() -> int:
    """Take away each guard; 0 when each was missed."""
    missed = 0
    with ThreadPoolExecutor(2) as pool:
        for mutation, caught in zip(MUTATIONS, pool.map(catch, MUTATIONS), strict=True):
            seen = f"seed {caught.seed}: {caught.promise}: {caught.how}" if caught else "NOT NOTICED"
            odd = (
                "" if caught is None or caught.promise in mutation.promises else " (not the promise expected)"
            )
            sys.stdout.write(f"{mutation.name:<62} {seen}{odd}\n")
            sys.stdout.flush()
            missed += caught is None
    sys.stdout.write(f"{len(MUTATIONS)} guards taken away, {len(MUTATIONS) - missed} noticed\n")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
