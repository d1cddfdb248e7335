"""`orchestrator research`: a goal in, a cited report out; the same command again resumes or returns its plan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from orchestrator import shapes
from orchestrator.domain.budget import Budget
from orchestrator.domain.errors import Invalid, InvalidGoal, InvalidSources, Misconfigured
from orchestrator.domain.lifecycle import PLAN_ENDS
from orchestrator.domain.plan import (
    CONSENSUS_ROUNDS,
    GOAL_LIMIT_BYTES,
    Agent,
    Json,
    Plan,
    PlanState,
    Request,
    digest,
    request,
)
from workers.cli import doors, ends, flags, progress, reports, view
from workers.cli.exits import INTERRUPTED, TERMINATED, Ended, Terminated

if TYPE_CHECKING:
    from orchestrator.settings import Settings
    from orchestrator.wiring import Core

_WEEK_S: Final = 7 * 24 * 3600
_DEFAULT: Final = Budget()


def research(
    goal: Annotated[
        str,
        typer.Argument(metavar="GOAL", help="What you want to know; `-` reads it from standard input."),
    ],
    *,
    docs: Annotated[
        Path | None,
        typer.Option(
            "--docs",
            metavar="DIR",
            help="The folder of documents to search. Without it: the Language Reference that comes with Python.",
            show_default=False,
        ),
    ] = None,
    depth: Annotated[int, typer.Option("--depth", metavar="N", help="How deep to go, from 1 to 5.")] = 2,
    domain: flags.Domain = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write the report to a file instead, as its name ends: .md, .json, .html, .pdf; without an end: Markdown.",
            show_default=False,
        ),
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Start afresh, even if this was asked before.")] = False,
    budget_steps: Annotated[
        int, typer.Option("--budget-steps", metavar="N", help="The most steps the plan may take.")
    ] = _DEFAULT.steps,
    budget_calls: Annotated[
        int, typer.Option("--budget-calls", metavar="N", help="The most tool and model calls it may make.")
    ] = _DEFAULT.calls,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            metavar="N",
            help="The most drafts to be judged, from 1 to 32,768; by default as many as the depth allows.",
            show_default=False,
        ),
    ] = None,
    time_limit: Annotated[
        int,
        typer.Option(
            "--time-limit",
            metavar="SECONDS",
            help="After this time it writes what it has; by default 7 days.",
        ),
    ] = _WEEK_S,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
    verbose: flags.Verbose = False,
) -> None:
    """Research a goal in a folder of documents, and print a report in which every sentence is cited.

    The work survives whatever happens to this process: the same command goes on where it stopped, and returns
    the finished report afterwards. Give --new to research the same goal once more.
    """
    asked_goal = _from_stdin() if goal == "-" else goal
    budget = Budget(steps=budget_steps, calls=budget_calls, seconds=time_limit)
    metadata = {} if rounds is None else {CONSENSUS_ROUNDS: rounds}
    request(
        asked_goal, depth=depth, budget=budget, metadata=metadata
    )  # refuses what is wrong before anything is opened
    reports.check_out(out)
    chosen = doors.settings(data)
    if domain is not None:
        # takes a while to import, which help and usage errors should not wait for
        from orchestrator import prompts

        prompts.book(chosen.prompts).current().check(domain)
    if chosen.documents_semantic:
        # what cannot be worked on here is refused before it is submitted
        from workers.toolhost.documents import semantic

        semantic.look()
    sources: dict[str, Json] = {"domain": domain} if domain else {}
    folder = documents_folder(docs, chosen)
    asked = request(
        asked_goal,
        depth=depth,
        budget=budget,
        sources={**sources, "documents": str(folder)},
        metadata=metadata,
    )
    with doors.opened(chosen, verbose=verbose) as core:
        plan = _plan(core, asked, folder, new=new)
        if plan.state not in PLAN_ENDS:
            plan = _work(core, plan, verbose=verbose, new=new)
        elif plan.state is PlanState.SUCCEEDED:
            _say_answered(core, plan, folder)
        with core.store.transaction() as tx:
            report = tx.report(plan.plan_id)
        if out is not None and report is not None:
            reports.write(out, report)
        if as_json:
            view.put_json({"plan": shapes.plan(plan), "report": shapes.report(report)})
        elif out is None and report is not None and plan.state is PlanState.SUCCEEDED:
            view.put_markdown(reports.markdown(report))
        if out is not None and report is not None:
            view.tell(f"The report is in {out}.")
        ends.tell(core, plan, report)
    raise Ended(ends.code_of(plan, report))


def _from_stdin() -> str:
    if sys.stdin.isatty():
        view.tell("Type the goal, then press Ctrl-D.")
    try:
        # one byte more than a goal may have is enough to be refused with the right reason
        return sys.stdin.buffer.read(GOAL_LIMIT_BYTES * 8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidGoal("The goal on standard input is not text in UTF-8.") from error


# --- the documents --------------------------------------------------------------------------------------------


def documents_folder(docs: Path | None, chosen: Settings) -> Path:
    """Return the folder to search as a whole path, after making sure that it is there."""
    if docs is None:
        # most calls name a folder and do not need the text of the Reference, which takes a while to import
        from workers.toolhost.documents import language_reference

        folder = chosen.data / "language-reference"
        try:
            chapters = language_reference.export(folder)
        except OSError as error:
            raise Misconfigured(
                f"The data folder {chosen.data} cannot be written to ({error.strerror}). Name another with --data."
            ) from error
        view.tell(f"No --docs given: searching the {chapters} chapters of Python's Language Reference.")
        return folder
    try:
        folder = docs.expanduser().resolve()
        there, is_folder = folder.exists(), folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidSources(f"{docs} cannot be used as a folder of documents: {error}.") from error
    if not there:
        raise InvalidSources(f"There is no folder {docs}. Give --docs a folder with documents in it.")
    if not is_folder:
        raise InvalidSources(f"{docs} is a file. Give --docs the folder it is in.")
    return folder


def _read(core: Core, folder: Path) -> str:
    """Bring the folder's index up to date, and return its fingerprint. Raises `InvalidSources`.

    A plan would do the same; done before it, a folder of nothing is an error at once and not a dead letter later.
    """
    # the door to the store has imported it already
    from workers.toolhost.documents import index

    console = view.people()
    try:
        opened = index.DocumentIndex.open(folder, core.settings.data / "indexes")
        if not view.is_terminal(sys.stderr):
            summary = opened.refresh()
        else:
            with console.status("Reading the documents …") as status:
                summary = opened.refresh(
                    lambda done, total: status.update(f"Reading the documents: {done:,} of {total:,}")
                )
    except (index.FolderNotFound, index.NotAFolder, index.NothingReadable) as error:
        raise InvalidSources(view.one_line(error, 600)) from error
    if summary.skipped:
        first = summary.skipped[0]
        view.tell(
            f"Not readable: {view.many(len(summary.skipped), 'file')}, such as {first.locator}: {first.reason}",
            "yellow",
        )
    return summary.fingerprint


# --- the plan -------------------------------------------------------------------------------------------------


def _plan(core: Core, asked: Request, folder: Path, *, new: bool) -> Plan:
    """Return the newest plan for this request, or a new one if there is none or one is wanted."""
    generations = _generations(core, asked)
    if generations and not new:
        plan = generations[-1]
        if plan.state not in PLAN_ENDS:
            view.tell(
                f"Going on with plan {view.short(plan.plan_id)}, submitted {view.when(plan.created_at)}."
            )
        return plan
    _read(core, folder)
    return core.conductor.submit(_keyed(asked, len(generations)))


def _generations(core: Core, asked: Request) -> list[Plan]:
    """Every plan that was made for this request, oldest first."""
    found: list[Plan] = []
    with core.store.transaction() as tx:
        while made := tx.plan_of_key(asked.tenant, _keyed(asked, len(found)).key or ""):
            plan = tx.plan(made[0])
            if plan is None:
                raise Invalid(f"Plan {made[0]} has just been removed; try again.")
            found.append(plan)
    return found


def _keyed(asked: Request, generation: int) -> Request:
    """The request under a key that is the same for the same request, once for each time it was started afresh."""
    named = digest(
        [asked.goal, asked.depth, asked.sources, asked.budget.as_json(), *filter(None, [asked.metadata])]
    )
    return Request(
        goal=asked.goal,
        depth=asked.depth,
        sources=asked.sources,
        budget=asked.budget,
        metadata=asked.metadata,
        key=f"research:{named}:{generation}",
    )


def _work(core: Core, plan: Plan, *, verbose: bool, new: bool) -> Plan:
    name = view.short(plan.plan_id)
    try:
        with doors.working(core):
            return progress.follow(core, [plan], verbose=verbose, parked=True)[0]
    except (KeyboardInterrupt, Terminated) as stop:
        same = "The same command without --new" if new else "The same command"
        view.tell(f"Interrupted. Plan {name} is kept: nothing is lost. {same} goes on with it.", "yellow")
        raise Ended(INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED) from None


def _say_answered(core: Core, plan: Plan, folder: Path) -> None:
    at = view.when(plan.finished_at or plan.created_at)
    changed = ""
    with core.store.transaction() as tx:
        planned = [s.result for s in tx.steps(plan.plan_id) if s.agent is Agent.PLANNER]
    before = planned[-1].get("fingerprint") if planned else None
    if before is not None and before != _read(core, folder):
        changed = " The documents have changed since."
    view.tell(
        f"Answered before, at {at}.{changed} Give --new to research it again.", "yellow" if changed else ""
    )
