"""`orchestrator dead`: what was given up on, why, and how to take it up again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import shapes
from orchestrator.domain import age
from orchestrator.domain.errors import Conflict, Invalid
from orchestrator.domain.plan import DeadLetter, Event, Plan
from workers.cli import doors, ends, flags, plans, view
from workers.cli.exits import FAILED, FINE, Ended

if TYPE_CHECKING:
    from orchestrator.wiring import Core

app = typer.Typer(no_args_is_help=True, help="List, show, retry and discard what was given up on.")

_Reason = Annotated[
    str | None,
    typer.Option("--reason", help="Only those with this reason, such as worker_lost.", show_default=False),
]
_Plan = Annotated[
    str | None, typer.Option("--plan", metavar="PLAN", help="Only those of this plan.", show_default=False)
]
_Older = Annotated[
    str | None,
    typer.Option(
        "--older-than",
        metavar="AGE",
        help="Only those as old as this or older: 90s, 30m, 2h, 1d, 3w.",
        show_default=False,
    ),
]
_Newer = Annotated[
    str | None,
    typer.Option(
        "--newer-than", metavar="AGE", help="Only those that are newer than this.", show_default=False
    ),
]
_Letter = Annotated[
    str, typer.Argument(metavar="ID", help="The dead letter's id, or at least its first 4 characters.")
]
_OneLetter = Annotated[
    str | None,
    typer.Argument(
        metavar="[ID]", help="The dead letter's id, or at least its first 4 characters.", show_default=False
    ),
]
_Every = Annotated[bool, typer.Option("--all", help="Every open dead letter that fits the other options.")]


@app.command("list")
def list_(
    *,
    closed: Annotated[
        bool, typer.Option("--all", help="Also those that were retried or discarded since.")
    ] = False,
    reason: _Reason = None,
    plan: _Plan = None,
    tenant: flags.Tenant = None,
    older_than: _Older = None,
    newer_than: _Newer = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """List dead letters, the newest first."""
    sought = _Sought(reason, plan, tenant, older_than, newer_than)
    sought.ages()
    with doors.opened(doors.settings(data)) as core:
        found = sought.found(core, state=None if closed else "open")
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
        events: Sequence[Event] = ()
        if found.plan_id is not None:
            with core.store.transaction() as tx:
                events = tx.events(found.plan_id, limit=shapes.MOST_EVENTS)
    if as_json:
        view.put_json(shapes.whole_dead_letter(found, events))
        return
    faults = shapes.history(found, events)
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
    letter: _OneLetter = None,
    *,
    every: _Every = False,
    reason: _Reason = None,
    plan: _Plan = None,
    tenant: flags.Tenant = None,
    older_than: _Older = None,
    newer_than: _Newer = None,
    yes: flags.Yes = False,
    work: flags.Work = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
    verbose: flags.Verbose = False,
) -> None:
    """Take up again the plans of dead letters, and work on them until they end.

    A plan goes on where it stopped: finished steps and calls are not done again, and its history stays.
    """
    sought = _Sought(reason, plan, tenant, older_than, newer_than)
    sought.check(letter, every=every, verb="retry")
    chosen = doors.settings(data)
    with doors.opened(chosen, verbose=verbose) as core:
        if letter is not None:
            revived = [core.conductor.retry_dead(doors.find_letter(core, letter).letter_id, by=doors.PERSON)]
            left: list[str] = []
        else:
            revived, left = _revive(core, _agreed(sought.found(core, state="open"), "Retry", yes=yes))
        for sentence in left:
            view.tell(sentence, "yellow")
        if revived and (doors.alone(chosen) if work is None else work):
            revived = list(plans.work_until_ended(core, revived, verbose=verbose))
            code = max((ends.code_of(p, ends.report_of(core, p)) for p in revived), default=FINE)
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
        report = ends.report_of(core, plan)
        if ends.code_of(plan, report) == FINE:
            view.tell(f"The report: `orchestrator report show {view.short(plan.plan_id)}`.")
        else:
            ends.tell(core, plan, report)


@app.command()
def discard(
    letter: _OneLetter = None,
    *,
    every: _Every = False,
    reason: _Reason = None,
    plan: _Plan = None,
    tenant: flags.Tenant = None,
    older_than: _Older = None,
    newer_than: _Newer = None,
    yes: flags.Yes = False,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Say that a dead letter needs no more attention. It stays listed with `list --all`; its plan stays as it is."""
    sought = _Sought(reason, plan, tenant, older_than, newer_than)
    sought.check(letter, every=every, verb="discard")
    with doors.opened(doors.settings(data)) as core:
        if letter is not None:
            found = doors.find_letter(core, letter)
            core.conductor.discard_dead(found.letter_id, by=doors.PERSON)
            after = doors.find_letter(core, found.letter_id)
            if as_json:
                view.put_json(shapes.dead_letter(after))
            else:
                view.put(f"Dead letter {view.short(after.letter_id)} is discarded.")
            return
        gone, left = _discard(core, _agreed(sought.found(core, state="open"), "Discard", yes=yes))
    for sentence in left:
        view.tell(sentence, "yellow")
    if as_json:
        view.put_json({"discarded": [letter.letter_id for letter in gone]})
    else:
        view.put(f"Discarded: {view.many(len(gone), 'dead letter')}.")
    if left:
        raise Ended(FAILED)


def _discard(core: Core, letters: Sequence[DeadLetter]) -> tuple[list[DeadLetter], list[str]]:
    """Discard each letter; say of which that was not possible, since somebody was first."""
    gone: list[DeadLetter] = []
    left: list[str] = []
    for found in letters:
        try:
            core.conductor.discard_dead(found.letter_id, by=doors.PERSON)
            gone.append(found)
        except Conflict as error:
            left.append(f"Not discarded: {error}")
    return gone, left


def _agreed(letters: Sequence[DeadLetter], verb: str, *, yes: bool) -> Sequence[DeadLetter]:
    """Return the letters, once whoever sits at a terminal has agreed to change as many."""
    watched = sys.stdin.isatty() and view.is_terminal(sys.stderr)
    if letters and watched and not yes:
        typer.confirm(f"{verb} {view.many(len(letters), 'dead letter')}?", abort=True, err=True)
    return letters


@dataclass(frozen=True, slots=True)
class _Sought:
    """Which dead letters are meant, in the words of the command line."""

    reason: str | None
    plan: str | None
    tenant: str | None
    older_than: str | None
    newer_than: str | None

    def check(self, letter: str | None, *, every: bool, verb: str) -> None:
        """Raise `Invalid` unless either one letter is named, or all that fit."""
        if (letter is None) is not every:
            raise Invalid("Give the id of one dead letter, or --all for every open one.")
        given = [f"--{name.replace('_', '-')}" for name in self.__slots__ if getattr(self, name) is not None]
        self.ages()
        if given and not every:
            raise Invalid(f"{', '.join(given)} goes with --all: it says which of the dead letters to {verb}.")

    def ages(self) -> tuple[timedelta | None, timedelta | None]:
        """Return how old they are at least, and at most; raises `Invalid` for what is no age."""
        older, newer = (
            None if text is None else age.age(text) for text in (self.older_than, self.newer_than)
        )
        return older, newer

    def found(self, core: Core, *, state: str | None) -> Sequence[DeadLetter]:
        """Return those that fit, the newest first."""
        older, newer = self.ages()
        plan_id = None if self.plan is None else doors.find_plan(core, self.plan).plan_id
        with core.store.transaction() as tx:
            return tx.dead_letters(
                state=state,
                plan_id=plan_id,
                reason=self.reason,
                tenant=self.tenant,
                older_than=older,
                newer_than=newer,
            )
