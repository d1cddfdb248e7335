"""`orchestrator dead`: what was given up on, why, and how to take it up again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import shapes
from orchestrator.domain.errors import Conflict, Invalid
from orchestrator.domain.plan import DeadLetter, Plan
from workers.cli import doors, ends, flags, plans, view
from workers.cli.exits import FAILED, FINE, Ended

if TYPE_CHECKING:
    from orchestrator.wiring import Core

app = typer.Typer(no_args_is_help=True, help="List, show, retry and discard what was given up on.")

_Reason = Annotated[
    str | None,
    typer.Option("--reason", help="Only those with this reason, such as worker_lost.", show_default=False),
]
_Letter = Annotated[
    str, typer.Argument(metavar="ID", help="The dead letter's id, or at least its first 4 characters.")
]


@app.command("list")
def list_(
    *,
    closed: Annotated[
        bool, typer.Option("--all", help="Also those that were retried or discarded since.")
    ] = False,
    reason: _Reason = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="PLAN", help="Only those of this plan.", show_default=False),
    ] = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """List dead letters, the newest first."""
    with doors.opened(doors.settings(data)) as core:
        plan_id = doors.find_plan(core, plan).plan_id if plan is not None else None
        found = _letters(core, state=None if closed else "open", reason=reason, plan_id=plan_id)
    if as_json:
        view.put_json({"dead_letters": [shapes.dead_letter(d) for d in found]})
        return
    view.put_table(
        ("letter", "plan", "step", "state", "reason", "attempts", "at", "detail"),
        [
            (
                view.short(d.letter_id),
                view.short(d.plan_id or ""),
                d.step,
                d.state,
                d.reason,
                d.attempts,
                d.at,
                view.one_line(d.detail, 80),
            )
            for d in found
        ],
        empty="There are no dead letters." if closed else "There are no open dead letters.",
    )


@app.command()
def show(letter: _Letter, *, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Show a dead letter in full, with the history of its plan's faults."""
    with doors.opened(doors.settings(data)) as core:
        found = doors.find_letter(core, letter)
        faults = []
        if found.plan_id is not None:
            with core.store.transaction() as tx:
                events = tx.events(found.plan_id, limit=100_000)
            kinds = {"step.faulted", "step.rescued", "step.dead", "plan.replayed"}
            faults = [e for e in events if e.kind in kinds and e.body.get("step") in {found.step, None}]
    if as_json:
        view.put_json({**shapes.dead_letter(found), "history": [shapes.event(e) for e in faults]})
        return
    view.put_pairs(
        [
            ("letter", found.letter_id),
            ("plan", found.plan_id),
            ("step", found.step),
            ("state", found.state),
            ("reason", found.reason),
            ("detail", found.detail),
            ("attempts", found.attempts),
            ("at", view.when(found.at)),
        ]
    )
    if faults:
        view.heading("History")
        view.put_table(
            ("at", "event", "attempt", "detail"),
            [
                (e.at, e.kind, e.body.get("attempt"), view.one_line(e.body.get("detail") or "", 100))
                for e in faults
            ],
        )


@app.command()
def retry(
    letter: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]",
            help="The dead letter's id, or at least its first 4 characters.",
            show_default=False,
        ),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every open dead letter.")] = False,
    reason: _Reason = None,
    work: flags.Work = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
    verbose: flags.Verbose = False,
) -> None:
    """Take up again the plans of dead letters, and work on them until they end.

    A plan goes on where it stopped: finished steps and calls are not done again, and its history stays.
    """
    if (letter is None) is not every:
        raise Invalid("Give the id of one dead letter, or --all for every open one.")
    if reason is not None and not every:
        raise Invalid("--reason goes with --all: it says which of the dead letters to retry.")
    chosen = doors.settings(data)
    with doors.opened(chosen, verbose=verbose) as core:
        if letter is not None:
            revived = [core.conductor.retry_dead(doors.find_letter(core, letter).letter_id, by=doors.PERSON)]
            left: list[str] = []
        else:
            revived, left = _revive(core, _letters(core, state="open", reason=reason, plan_id=None))
        for sentence in left:
            view.tell(sentence, "yellow")
        if revived and (doors.alone(chosen) if work is None else work):
            revived = list(plans.work_until_ended(core, revived, verbose=verbose))
            code = max(map(ends.code_of, revived), default=FINE)
        else:
            code = FINE
        _print_revived(core, revived, as_json=as_json)
    raise Ended(FAILED if left else code)


def _revive(core: Core, letters: Sequence[DeadLetter]) -> tuple[list[Plan], list[str]]:
    """Take up each plan once, however many letters it has; say of which that was not possible."""
    revived: list[Plan] = []
    left: list[str] = []
    for found in letters:
        if found.plan_id is not None and found.plan_id in {p.plan_id for p in revived}:
            continue
        try:
            revived.append(core.conductor.retry_dead(found.letter_id, by=doors.PERSON))
        except Conflict as error:
            left.append(f"Not retried: {error}")
    return revived, left


def _print_revived(core: Core, revived: Sequence[Plan], *, as_json: bool) -> None:
    if as_json:
        view.put_json({"plans": [shapes.plan(p) for p in revived]})
    else:
        view.put_table(
            ("plan", "state", "goal"),
            [(view.short(p.plan_id), p.state.value, view.one_line(p.goal, 70)) for p in revived],
            empty="There is nothing to retry.",
        )
    for plan in revived:
        if ends.code_of(plan) == FINE:
            view.tell(f"The report: `orchestrator report show {view.short(plan.plan_id)}`.")
        else:
            ends.tell(core, plan)


@app.command()
def discard(letter: _Letter, *, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Say that a dead letter needs no more attention. It stays listed with --all; its plan stays as it is."""
    with doors.opened(doors.settings(data)) as core:
        found = doors.find_letter(core, letter)
        core.conductor.discard_dead(found.letter_id, by=doors.PERSON)
        after = doors.find_letter(core, found.letter_id)
    if as_json:
        view.put_json(shapes.dead_letter(after))
    else:
        view.put(f"Dead letter {view.short(after.letter_id)} is discarded.")


def _letters(
    core: Core, *, state: str | None, reason: str | None, plan_id: str | None
) -> Sequence[DeadLetter]:
    with core.store.transaction() as tx:
        found = tx.dead_letters(state=state, plan_id=plan_id)
    return [d for d in found if reason is None or d.reason == reason]
