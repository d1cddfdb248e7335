"""What to say when a plan has ended, or cannot go on: how it went, why, and the command that helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.domain.plan import ApprovalState, Plan, PlanState
from workers.cli import view
from workers.cli.exits import FAILED, FINE, NEEDS_REVIEW

if TYPE_CHECKING:
    from orchestrator.wiring import Core


def report_of(core: Core, plan: Plan) -> Mapping[str, Any] | None:
    """Return a plan's report, if it has written one."""
    with core.store.transaction() as tx:
        return tx.report(plan.plan_id)


def code_of(plan: Plan, report: Mapping[str, Any] | None) -> int:
    """Return the exit code for how a plan ended; a script must not take an unaccepted draft for an answer."""
    if plan.state is not PlanState.SUCCEEDED:
        return FAILED
    return NEEDS_REVIEW if report is not None and report["verdict"] == "needs_review" else FINE


def tell(core: Core, plan: Plan, report: Mapping[str, Any] | None) -> None:
    """Say how a plan ended, and what can be done now."""
    name = view.short(plan.plan_id)
    if code_of(plan, report) == NEEDS_REVIEW:
        view.tell(
            f"Plan {name} needs review: no draft was accepted. `orchestrator plans show {name}` says why, round by "
            "round; read the report with care.",
            "yellow",
        )
        return
    if plan.state is PlanState.SUCCEEDED:
        view.tell(
            f"Plan {name}: `orchestrator report verify {name}` proves it, `plans show {name}` explains it."
        )
        return
    why = f" {plan.reason}" if plan.reason else ""
    view.tell(f"Plan {name} is {view.state(plan.state)}.{why}", "red")
    for line in advice(core, plan):
        view.tell(line)


def advice(core: Core, plan: Plan) -> list[str]:
    """Return the sentences that say what to do about a plan that did not succeed."""
    name = view.short(plan.plan_id)
    match plan.state:
        case PlanState.DEAD_LETTERED | PlanState.FAILED:
            with core.store.transaction() as tx:
                letters = tx.dead_letters(plan_id=plan.plan_id)
            if not letters:
                return [f"Take it up again with `orchestrator plans retry {name}`."]
            listed = view.short(letters[0].letter_id)
            return [
                f"See why with `orchestrator dead show {listed}`; `orchestrator dead list` lists all of them.",
                f"Take it up where it stopped with `orchestrator dead retry {listed}`.",
            ]
        case PlanState.WAITING_APPROVAL:
            with core.store.transaction() as tx:
                asked = tx.approvals(state=ApprovalState.PENDING, plan_id=plan.plan_id)
            lines = [
                f"Approval {view.short(a.approval_id)}: {a.question} Decide with `orchestrator approvals approve "
                f"{view.short(a.approval_id)} --as NAME` or `approvals reject` (roles: {', '.join(a.roles)})."
                for a in asked
            ]
            return [*lines, f"Then let it go on with `orchestrator plans watch {name} --work`."]
        case PlanState.REJECTED | PlanState.CANCELLED:
            return ["To research the same goal again, give `orchestrator research` the option --new."]
        case _:
            return [f"Let it go on with `orchestrator plans watch {name} --work`."]
