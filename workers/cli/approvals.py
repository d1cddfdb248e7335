"""`orchestrator approvals`: what waits for a person, and the person's decision.

On this machine nobody's identity is verified: whoever can read the folder states who they are. The decision is
recorded under that name, and the one who asked for the plan may not decide.
"""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator import shapes
from orchestrator.domain.errors import Invalid
from orchestrator.domain.plan import ApprovalState
from workers.cli import doors, flags, view

app = typer.Typer(no_args_is_help=True, help="List what waits for a person, and decide it.")

_Id = Annotated[
    str, typer.Argument(metavar="ID", help="The approval's id, or at least its first 4 characters.")
]
_By = Annotated[
    str, typer.Option("--as", metavar="NAME", help="Who you are. It is stated, not verified, and recorded.")
]
_Role = Annotated[str, typer.Option("--role", help="The role in which you decide.")]
_Comment = Annotated[str, typer.Option("--comment", help="Why; kept in the audit.")]


@app.command("list")
def list_(
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those that are decided or expired.")] = False,
    role: Annotated[
        str | None, typer.Option("--role", help="Only those that wait for this role.", show_default=False)
    ] = None,
    category: Annotated[
        str | None,
        typer.Option("--category", help="Only those about this, such as COST.", show_default=False),
    ] = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """List what waits for a decision, the oldest first."""
    with doors.opened(doors.settings(data)) as core, core.store.transaction() as tx:
        found = tx.approvals(
            state=None if every else ApprovalState.PENDING,
            role=role,
            category=category.upper() if category else None,
        )
    if as_json:
        view.put_json({"approvals": [shapes.approval(a) for a in found]})
        return
    view.put_table(
        ("approval", "plan", "step", "about", "state", "roles", "expires", "decided by", "question"),
        [
            (
                view.short(a.approval_id),
                view.short(a.plan_id),
                a.step,
                a.category,
                a.state.value,
                ", ".join(a.roles),
                a.expires_at,
                a.decided_by,
                a.question,
            )
            for a in found
        ],
        empty="Nothing was ever asked." if every else "Nothing waits for a decision.",
    )


@app.command()
def show(approval: _Id, *, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Show what must be decided: every stage, who has decided, and who was told of it."""
    with doors.opened(doors.settings(data)) as core:
        found = doors.find_approval(core, approval)
        with core.store.transaction() as tx:
            rulings = tx.rulings(found.approval_id)
            told = tx.notifications(approval_id=found.approval_id)
    shown = shapes.approval_in_full(found, rulings, told)
    if as_json:
        view.put_json(shown)
        return
    named = ("approval_id", "plan_id", "step", "category", "question", "requester", "args_digest", "state")
    rows: list[tuple[str, object]] = [(name.replace("_", " "), shown[name]) for name in named]
    if found.state is ApprovalState.PENDING:
        rows += [("waits for", ", ".join(found.roles)), ("until", found.expires_at)]
    if found.holds_until:
        rows.append(("holds until", found.holds_until))
    for number, seats in enumerate(shown["chain"], start=1):
        rows.append((f"stage {number}", " and ".join(" or ".join(seat) for seat in seats)))
    view.put_table(("what", "is"), rows)
    view.heading("Decisions")
    view.put_table(
        ("person", "role", "stage", "decision", "comment"),
        [(r.person, r.role, r.stage, r.decision.value, r.comment) for r in rulings],
        empty="Nobody has decided.",
    )
    if told:
        view.heading("Told outside")
        view.put_table(
            ("notification", "about", "state", "attempts", "error"),
            [(view.short(n.notification_id), n.kind, n.state.value, n.attempts, n.error) for n in told],
            empty="",
        )


@app.command()
def approve(
    approval: _Id,
    *,
    by: _By,
    role: _Role = "operator",
    comment: _Comment = "",
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Let a step go on. The approval holds for exactly the call that was asked about."""
    _decide(approval, approve=True, by=by, role=role, comment=comment, as_json=as_json, data=data)


@app.command()
def reject(
    approval: _Id,
    *,
    by: _By,
    role: _Role = "operator",
    comment: _Comment = "",
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Refuse a step. Its plan ends as rejected."""
    _decide(approval, approve=False, by=by, role=role, comment=comment, as_json=as_json, data=data)


def _decide(
    given: str, *, approve: bool, by: str, role: str, comment: str, as_json: bool, data: flags.Data
) -> None:
    if not by.strip():
        raise Invalid("--as needs a name: a decision is recorded under it.")
    with doors.opened(doors.settings(data)) as core:
        asked = doors.find_approval(core, given)
        decided = core.conductor.decide(
            asked.approval_id, approve=approve, by=by.strip(), roles=[role], comment=comment
        )
    if as_json:
        view.put_json(shapes.approval(decided))
        return
    if decided.state is ApprovalState.PENDING:
        view.put(f"Approval {view.short(decided.approval_id)} now waits for {', '.join(decided.roles)}.")
        return
    view.put(f"Approval {view.short(decided.approval_id)} is {decided.state.value} by {decided.decided_by}.")
    if approve:
        view.tell(f"Let the plan go on with `orchestrator plans watch {view.short(decided.plan_id)} --work`.")
