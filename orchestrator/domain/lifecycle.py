"""Every legal change of a plan and of a step, by name; nothing else changes a state.

    step                                                   plan

    pending ─release→ ready ⇄ (begin / snooze) running      queued ─start→ running ⇄ (hold / resume) waiting_approval
                        ↑  ↑                   │              │              │
              approve ──┘  └── wake ─ retrying ←retry         └──────────────┴─→ succeeded failed dead_lettered
                │                              │                                 rejected cancelled
        waiting_approval ←──────── hold ───────┤
                                               └→ succeeded failed dead rejected     (failed, dead_lettered) ─replay→ running

A worker that vanished is met by `rescue` (running → ready). `replay` is the only way back from a terminal state,
and a human asks for it; a plan that was given up on is rejected when another of its steps is. `cancel` is possible
from every state that is not terminal, and wins over completion, since both name the state they expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from orchestrator.domain.errors import IllegalMove
from orchestrator.domain.plan import PlanState, StepState


class StepMove(StrEnum):
    """What can happen to a step."""

    RELEASE = "release"
    BEGIN = "begin"
    COMPLETE = "complete"
    SNOOZE = "snooze"
    HOLD = "hold"
    RETRY = "retry"
    WAKE = "wake"
    RESCUE = "rescue"
    FAIL = "fail"
    BURY = "bury"
    REFUSE = "refuse"
    APPROVE = "approve"
    REJECT = "reject"
    CANCEL = "cancel"
    SKIP = "skip"
    REPLAY = "replay"


class PlanMove(StrEnum):
    """What can happen to a plan."""

    START = "start"
    HOLD = "hold"
    RESUME = "resume"
    SUCCEED = "succeed"
    FAIL = "fail"
    DEAD_LETTER = "dead_letter"
    REJECT = "reject"
    CANCEL = "cancel"
    REPLAY = "replay"


_S, _P = StepState, PlanState

STEP_MOVES: Mapping[StepMove, tuple[frozenset[StepState], StepState]] = {
    StepMove.RELEASE: (frozenset({_S.PENDING}), _S.READY),
    StepMove.BEGIN: (frozenset({_S.READY}), _S.RUNNING),
    StepMove.COMPLETE: (frozenset({_S.RUNNING}), _S.SUCCEEDED),
    StepMove.SNOOZE: (frozenset({_S.RUNNING}), _S.READY),
    StepMove.HOLD: (frozenset({_S.RUNNING}), _S.WAITING_APPROVAL),
    StepMove.RETRY: (frozenset({_S.RUNNING}), _S.RETRYING),
    StepMove.WAKE: (frozenset({_S.RETRYING}), _S.READY),
    StepMove.RESCUE: (frozenset({_S.RUNNING}), _S.READY),
    StepMove.FAIL: (frozenset({_S.RUNNING}), _S.FAILED),
    StepMove.BURY: (frozenset({_S.RUNNING, _S.READY, _S.RETRYING}), _S.DEAD),
    StepMove.REFUSE: (frozenset({_S.RUNNING}), _S.REJECTED),
    StepMove.APPROVE: (frozenset({_S.WAITING_APPROVAL}), _S.READY),
    StepMove.REJECT: (frozenset({_S.WAITING_APPROVAL}), _S.REJECTED),
    StepMove.CANCEL: (
        frozenset({_S.PENDING, _S.READY, _S.RUNNING, _S.RETRYING, _S.WAITING_APPROVAL}),
        _S.CANCELLED,
    ),
    StepMove.SKIP: (frozenset({_S.PENDING, _S.READY, _S.RETRYING}), _S.SKIPPED),
    StepMove.REPLAY: (frozenset({_S.DEAD, _S.FAILED}), _S.READY),
}

PLAN_MOVES: Mapping[PlanMove, tuple[frozenset[PlanState], PlanState]] = {
    PlanMove.START: (frozenset({_P.QUEUED}), _P.RUNNING),
    PlanMove.HOLD: (frozenset({_P.RUNNING}), _P.WAITING_APPROVAL),
    PlanMove.RESUME: (frozenset({_P.WAITING_APPROVAL}), _P.RUNNING),
    PlanMove.SUCCEED: (frozenset({_P.RUNNING}), _P.SUCCEEDED),
    PlanMove.FAIL: (frozenset({_P.RUNNING, _P.WAITING_APPROVAL}), _P.FAILED),
    PlanMove.DEAD_LETTER: (frozenset({_P.QUEUED, _P.RUNNING, _P.WAITING_APPROVAL}), _P.DEAD_LETTERED),
    # also of a plan that was given up on: a step that a human rejected meanwhile would keep a replay from ending
    PlanMove.REJECT: (
        frozenset({_P.RUNNING, _P.WAITING_APPROVAL, _P.DEAD_LETTERED, _P.FAILED}),
        _P.REJECTED,
    ),
    PlanMove.CANCEL: (frozenset({_P.QUEUED, _P.RUNNING, _P.WAITING_APPROVAL}), _P.CANCELLED),
    PlanMove.REPLAY: (frozenset({_P.DEAD_LETTERED, _P.FAILED}), _P.RUNNING),
}

STEP_ENDS = frozenset({_S.SUCCEEDED, _S.FAILED, _S.DEAD, _S.REJECTED, _S.CANCELLED, _S.SKIPPED})
PLAN_ENDS = frozenset({_P.SUCCEEDED, _P.FAILED, _P.DEAD_LETTERED, _P.REJECTED, _P.CANCELLED})
ALIVE = frozenset({_P.QUEUED, _P.RUNNING, _P.WAITING_APPROVAL})
"""Plans whose steps may be begun: a plan that waits for one approval lets its other steps run."""


def step_after(state: StepState, move: StepMove) -> StepState:
    """Return where a step in this state is after the move, or raise `IllegalMove`."""
    allowed, after = STEP_MOVES[move]
    if state not in allowed:
        raise IllegalMove("step", state, move)
    return after


def plan_after(state: PlanState, move: PlanMove) -> PlanState:
    """Return where a plan in this state is after the move, or raise `IllegalMove`."""
    allowed, after = PLAN_MOVES[move]
    if state not in allowed:
        raise IllegalMove("plan", state, move)
    return after
