"""`orchestrator plans`: what there is, how far it is, and what can be done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator import shapes
from orchestrator.domain import fork as branches
from orchestrator.domain.errors import Invalid
from orchestrator.domain.lifecycle import PLAN_ENDS
from orchestrator.domain.plan import Plan, PlanState
from workers.cli import doors, ends, flags, progress, reports, view
from workers.cli.exits import FAILED, INTERRUPTED, TERMINATED, Ended, Terminated

if TYPE_CHECKING:
    from orchestrator.wiring import Core
    from workers.recording import Recording
    from workers.replay import Divergence

app = typer.Typer(
    no_args_is_help=True,
    help="List, show, watch, cancel, retry, replay and fork plans, from any checkpoint.",
)


@app.command("list")
def list_(
    *,
    state: Annotated[
        PlanState | None, typer.Option("--state", help="Only plans in this state.", show_default=False)
    ] = None,
    tenant: flags.Tenant = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="The most plans to list.")] = 50,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """List plans, the newest first."""
    with doors.opened(doors.settings(data)) as core, core.store.transaction() as tx:
        found = tx.plans(tenant=tenant, state=state, limit=limit)
    if as_json:
        view.put_json({"plans": [shapes.plan(plan) for plan in found]})
        return
    rows = [
        (
            view.short(p.plan_id),
            p.state.value,
            "partial" if p.partial else "",
            p.depth,
            p.spent.steps,
            p.spent.calls,
            p.created_at,
            view.one_line(p.goal, 60),
        )
        for p in found
    ]
    columns = ("plan", "state", "", "depth", "steps", "calls", "submitted", "goal")
    view.put_table(columns, rows, empty='There are no plans. Begin with `orchestrator research "GOAL"`.')


@app.command()
def show(plan: flags.PlanId, *, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """Show a plan: its state, its steps, what it spent, and what waits or was given up on."""
    with doors.opened(doors.settings(data)) as core:
        found = doors.find_plan(core, plan)
        with core.store.transaction() as tx:
            steps, calls = tx.steps(found.plan_id), tx.calls(found.plan_id)
            approvals = tx.approvals(plan_id=found.plan_id)
            letters = tx.dead_letters(state=None, plan_id=found.plan_id)
            facts, report = len(tx.facts(found.plan_id)), tx.report(found.plan_id)
            ballots = tx.ballots(found.plan_id)
    if as_json:
        document: dict[str, Any] = {
            "plan": shapes.plan(found),
            "planned": shapes.planned(steps),
            "steps": [shapes.step(s) for s in steps],
            "calls": [shapes.call(c) for c in calls],
            "ballots": [shapes.ballot(b) for b in ballots],
            "approvals": [shapes.approval(a) for a in approvals],
            "dead_letters": [shapes.dead_letter(d) for d in letters],
            "facts": facts,
            "has_report": report is not None,
        }
        view.put_json(document)
        return
    _print_plan(found, facts=facts, written=report is not None)
    view.heading("Steps")
    view.put_table(
        ("step", "agent", "phase", "round", "state", "attempts", "verdict", ""),
        [
            (
                s.number,
                s.agent.value,
                s.phase.value,
                s.round,
                s.state.value,
                f"{s.attempt}/{s.max_attempts}",
                s.verdict,
                view.one_line(s.reason or s.brief.get("question") or "", 70),
            )
            for s in steps
        ],
    )
    _print_tasks(shapes.planned(steps))
    if ballots:
        view.heading("Rounds")
        view.put_table(
            ("round", "verdict", "confidence", "needed", "objections", "decided", "why", "draft"),
            [
                (
                    b.round,
                    b.verdict.value,
                    f"{b.confidence:.2f}",
                    f"{b.threshold:.2f}",
                    b.objections,
                    view.state(b.decided.value),
                    view.state(b.why.value) if b.why else "",
                    b.draft[:12],
                )
                for b in ballots
            ],
        )
    counted = Counter((c.tool, c.state.value) for c in calls)
    if counted:
        view.heading("Calls")
        view.put_table(("tool", "state", "calls"), [(*key, n) for key, n in sorted(counted.items())])
    if approvals:
        view.heading("Approvals")
        view.put_table(
            ("approval", "step", "state", "question"),
            [(view.short(a.approval_id), a.step, a.state.value, a.question) for a in approvals],
        )
    if letters:
        view.heading("Dead letters")
        view.put_table(
            ("letter", "step", "state", "reason", "detail"),
            [
                (view.short(d.letter_id), d.step, d.state, d.reason, view.one_line(d.detail, 80))
                for d in letters
            ],
        )


def _print_tasks(planned: dict[str, Any] | None) -> None:
    if planned is None or not planned["plan"]["tasks"]:
        return
    view.heading(f"Tasks ({planned['plan']['made_by']}, {planned['plan']['prompt']['name']})")
    view.put_table(
        ("task", "phase", "tool", "after", "question"),
        [
            (t["id"], t["phase"], t["tool"], " ".join(t["after"]), view.one_line(t["question"], 70))
            for t in planned["plan"]["tasks"]
        ],
    )
    for earlier in planned["plan"]["related"]:
        told = f"{earlier['fact']} of plan {view.short(earlier['plan_id'])}, {earlier['locator']}"
        view.tell(f"Found before: {told}")


def _print_plan(plan: Plan, *, facts: int, written: bool) -> None:
    budget, spent = plan.budget, plan.spent
    until = plan.finished_at
    took = view.lasted((until - plan.created_at).total_seconds()) if until else None
    view.put_pairs(
        [
            ("plan", plan.plan_id),
            ("goal", plan.goal),
            ("state", plan.state.value),
            ("reason", plan.reason),
            ("partial", "a limit cut it short" if plan.partial else None),
            ("depth", plan.depth),
            ("documents", plan.sources.get("documents")),
            ("submitted", view.when(plan.created_at)),
            ("finished", f"{view.when(until)} (after {took})" if until else None),
            ("deadline", view.when(plan.deadline) if plan.deadline and not until else None),
            ("steps", f"{spent.steps:,} of {budget.steps:,}"),
            ("calls", f"{spent.calls:,} of {budget.calls:,}"),
            ("tokens", f"{spent.tokens:,} of {budget.tokens:,}"),
            ("cost", f"${spent.cost_uusd / 1e6:.4f} of ${budget.cost_uusd / 1e6:.2f}"),
            ("facts", facts),
            ("report", f"orchestrator report show {view.short(plan.plan_id)}" if written else "not yet"),
        ]
    )


@app.command()
def watch(
    plan: flags.PlanId,
    *,
    work: flags.Work = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print every event as one line of JSON instead.")
    ] = False,
    data: flags.Data = None,
    verbose: flags.Verbose = False,
) -> None:
    """Show what happens to a plan, from its beginning and on until it ends.

    Watching does not work on the plan; with --work this process does that too.
    """
    chosen = doors.settings(data)
    with doors.opened(chosen, verbose=verbose) as core:
        found = doors.find_plan(core, plan)
        alive = found.state not in PLAN_ENDS
        if alive and not work and doors.alone(chosen):
            view.tell(
                f"Plan {view.short(found.plan_id)} is {view.state(found.state)}, and only goes on while some "
                "process works on it. If none does, interrupt this and give --work.",
                "yellow",
            )
        if alive and work:
            ended = work_until_ended(core, [found], verbose=verbose, as_json=as_json)[0]
        else:
            ended = _watched(core, found, verbose=verbose, as_json=as_json)
        report = ends.report_of(core, ended)
        ends.tell(core, ended, report)
    raise Ended(ends.code_of(ended, report))


def _watched(core: Core, plan: Plan, *, verbose: bool, as_json: bool) -> Plan:
    try:
        return progress.follow(core, [plan], verbose=verbose, as_json=as_json)[0]
    except (KeyboardInterrupt, Terminated) as stop:
        view.tell("No longer watching; the plan is as it was.")
        raise Ended(INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED) from None


def work_until_ended(
    core: Core, found: Sequence[Plan], *, verbose: bool, as_json: bool = False
) -> Sequence[Plan]:
    """Work on plans, with progress, until each has ended or waits for a person."""
    try:
        with doors.working(core):
            return progress.follow(core, found, verbose=verbose, as_json=as_json, parked=True)
    except (KeyboardInterrupt, Terminated) as stop:
        names = " ".join(view.short(p.plan_id) for p in found)
        view.tell(
            f"Interrupted; nothing is lost. Go on with `orchestrator plans watch {names} --work`."
            if len(found) == 1
            else f"Interrupted; nothing is lost. These plans go on with `plans watch PLAN --work`: {names}.",
            "yellow",
        )
        raise Ended(INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED) from None


@app.command()
def cancel(
    plan: flags.PlanId,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the audit.")] = "asked for",
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """End a plan now. What it has found stays; a worker that is still busy with it can no longer write."""
    with doors.opened(doors.settings(data)) as core:
        found = doors.find_plan(core, plan)
        core.conductor.cancel(found.plan_id, by=doors.PERSON, reason=reason)
        after = doors.find_plan(core, found.plan_id)
    if as_json:
        view.put_json({"plan": shapes.plan(after)})
    else:
        view.put(f"Plan {view.short(after.plan_id)} is cancelled.")


@app.command()
def retry(
    plan: flags.PlanId,
    *,
    work: flags.Work = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
    verbose: flags.Verbose = False,
) -> None:
    """Take up a plan that was given up on where it stopped, and work on it until it ends."""
    chosen = doors.settings(data)
    with doors.opened(chosen, verbose=verbose) as core:
        found = doors.find_plan(core, plan)
        revived = core.conductor.replay(found.plan_id, by=doors.PERSON)
        if not (doors.alone(chosen) if work is None else work):
            if as_json:
                view.put_json({"plan": shapes.plan(revived), "report": None})
            view.tell(f"Plan {view.short(found.plan_id)} is taken up again by whoever works on plans.")
            return
        _work_and_show(core, revived, as_json=as_json, verbose=verbose)


@app.command()
def checkpoints(plan: flags.PlanId, *, as_json: flags.AsJson = False, data: flags.Data = None) -> None:
    """List the steps that a plan may be forked from, and what each fork would reuse without doing it again."""
    with doors.opened(doors.settings(data)) as core:
        found = doors.find_plan(core, plan)
        with core.store.transaction() as tx:
            listed = branches.listed(tx.steps(found.plan_id))
    if as_json:
        view.put_json({"plan": found.plan_id, "checkpoints": [shapes.checkpoint(c) for c in listed]})
        return
    rows = [
        (
            c.step.number,
            c.step.agent.value,
            c.step.round,
            c.step.state.value,
            view.many(len(c.reused), "step"),
            ", ".join(map(str, c.again)),
            view.one_line(c.step.brief.get("question") or "", 60),
        )
        for c in listed
    ]
    view.put_table(("step", "agent", "round", "state", "reused", "done again at first", ""), rows)
    view.tell(f"Go back to one with `orchestrator plans fork {view.short(found.plan_id)} --from STEP`.")


@app.command()
def fork(
    plan: flags.PlanId,
    *,
    from_step: Annotated[
        int | None,
        typer.Option(
            "--from",
            min=1,
            metavar="STEP",
            help="The step to do again, with what follows it. By default the plan begins at the beginning.",
            show_default=False,
        ),
    ] = None,
    goal: Annotated[
        str | None,
        typer.Option("--goal", metavar="TEXT", help="The question, if it is another.", show_default=False),
    ] = None,
    work: flags.Work = None,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
    verbose: flags.Verbose = False,
) -> None:
    """Make a new plan that goes on from a step of this one, and work on it until it ends.

    What ended before that step is taken over and not done again; this plan stays as it is.
    """
    chosen = doors.settings(data)
    with doors.opened(chosen, verbose=verbose) as core:
        found = doors.find_plan(core, plan)
        made = core.conductor.fork(found.plan_id, from_step=from_step, goal=goal, by=doors.PERSON)
        name = view.short(made.plan_id)
        if not (doors.alone(chosen) if work is None else work):
            if as_json:
                view.put_json({"plan": shapes.plan(made), "report": None})
            else:
                view.put(made.plan_id)
            view.tell(
                f"Plan {name} is a fork of {view.short(found.plan_id)}; whoever works on plans takes it up."
            )
            return
        view.tell(f"Plan {name} is a fork of {view.short(found.plan_id)}.")
        _work_and_show(core, made, as_json=as_json, verbose=verbose)


@app.command()
def record(
    plan: flags.PlanId,
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The file to write; one that exists is kept.")
    ],
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Write everything that a finished plan left behind into one file, to be replayed elsewhere.

    The file holds the goal, the sources and what models answered, word for word.
    """
    # takes a second to import, which help and usage errors should not wait for
    from workers import recording

    with doors.opened(doors.settings(data)) as core:
        found = _recorded(core, plan)
    written = found.as_json()
    try:
        with out.open("xb") as file:
            file.write(written)
    except OSError as error:
        raise Invalid(f"The recording cannot be written to {out} ({error.strerror}).") from error
    if as_json:
        told = {"plan_id": found.plan.plan_id, "file": str(out), "sha256": recording.sha256(written)}
        view.put_json(told)
    else:
        view.put(f"Plan {view.short(found.plan.plan_id)} is recorded in {out}.")


@app.command()
def replay(
    plan: Annotated[
        str,
        typer.Argument(metavar="PLAN", help="The plan's id or its beginning, or a file of `plans record`."),
    ],
    *,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
    verbose: flags.Verbose = False,
) -> None:
    """Think a finished plan again from what was recorded, and say whether all of it comes out the same.

    Nothing is asked and nothing is written: no tool, no model, no network. Ends with 1 where a step comes out otherwise.
    """
    # takes a second to import, which help and usage errors should not wait for
    from agents.minds import MINDS
    from orchestrator import prompts
    from workers import recording
    from workers import replay as again

    if Path(plan).is_file():
        doors.quiet(verbose=verbose)
        found = recording.read(Path(plan))
    else:
        with doors.opened(doors.settings(data), verbose=verbose) as core:
            found = _recorded(core, plan)
    chosen = doors.settings(data)
    came = again.replay(found, MINDS, prompts.book(chosen.prompts).current())
    if as_json:
        view.put_json(
            {
                "plan_id": found.plan.plan_id,
                "same": came.divergence is None,
                "steps": came.steps,
                "calls": came.calls,
                "divergence": None if came.divergence is None else asdict(came.divergence),
            }
        )
    elif came.divergence is None:
        view.put(
            f"Plan {view.short(found.plan.plan_id)} comes out the same, byte for byte: "
            f"{view.many(came.steps, 'step')}, {view.many(came.calls, 'recorded call')}, nobody was asked."
        )
    else:
        _put_divergence(found.plan, came.divergence)
    if came.divergence is not None:
        raise Ended(FAILED)


def _recorded(core: Core, given: str) -> Recording:
    # takes a second to import, which help and usage errors should not wait for
    from workers import recording, wiring
    from workers.toolhost.models import catalogue

    found = doors.find_plan(core, given)
    return recording.of(
        core.store,
        found.plan_id,
        model=catalogue.of(core.settings).first,
        cards=wiring.cards(core.settings),
        charter=wiring.charters(),
    )


def _put_divergence(plan: Plan, found: Divergence) -> None:
    where = f"Step {found.step} ({found.agent})" if found.step else "The plan"
    view.put(f"{where} of plan {view.short(plan.plan_id)} comes out otherwise: {found.what}.")
    view.put_pairs([("recorded", found.recorded), ("replayed", found.replayed)])


def _work_and_show(core: Core, plan: Plan, *, as_json: bool, verbose: bool) -> None:
    ended = work_until_ended(core, [plan], verbose=verbose)[0]
    with core.store.transaction() as tx:
        report = tx.report(ended.plan_id)
    if as_json:
        view.put_json({"plan": shapes.plan(ended), "report": shapes.report(report)})
    elif report is not None and ended.state is PlanState.SUCCEEDED:
        view.put_markdown(reports.markdown(report))
    ends.tell(core, ended, report)
    raise Ended(ends.code_of(ended, report))
