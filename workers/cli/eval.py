"""`orchestrator eval`: how well questions are answered whose answers are known."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.domain.errors import Invalid
from workers.cli import doors, flags, view
from workers.cli.exits import FAILED, Ended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from workers.eval.questions import QuestionSet
    from workers.eval.run import Results


def evaluate(
    *,
    where: Annotated[
        Path | None,
        typer.Option(
            "--set",
            metavar="DIR|FILE",
            help="A folder of documents with questions.jsonl, or a file of questions. "
            "Without it: the questions over Python's Language Reference that come with this program.",
            show_default=False,
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions", metavar="FILE", help="The questions, if not the set's own.", show_default=False
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", min=1, help="Ask only so many, drawn by the seed.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Which questions a limit draws.")] = 0,
    depth: Annotated[
        int, typer.Option("--depth", metavar="N", min=1, max=5, help="How deep each plan goes.")
    ] = 2,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, max=64, help="Processes that ask side by side.")
    ] = 2,
    search_only: Annotated[
        bool,
        typer.Option("--search-only", help="Measure the search, and carry no plans: a hundred times faster."),
    ] = False,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            "--floor",
            metavar="NAME=VALUE",
            help="Exit with 1 if this measure is worse, such as recall@5=.9 or unsupported=0; may be repeated.",
            show_default=False,
        ),
    ] = None,
    failures: Annotated[
        int, typer.Option("--failures", metavar="N", min=0, help="List so many questions that went wrong.")
    ] = 0,
    as_json: flags.AsJson = False,
    data: flags.Data = None,
) -> None:
    """Ask questions whose answers are known, and measure what is found, cited and printed, next to plain BM25.

    Each question is a plan of its own: the real minds, loop, policy, gate and tools, on a store in memory and without
    a broker. The same set, seed and program give the same numbers, but for the time it took.
    """
    floors = dict(_floor(text) for text in floor or ())
    chosen = doors.settings(data)
    # takes a second to import, which help and usage errors should not wait for
    from orchestrator import telemetry
    from workers.eval import run

    telemetry.configure("critical")
    asked = _set(chosen.data, where, questions)
    how = run.How(limit=limit, seed=seed, depth=depth, workers=workers, plans=not search_only)
    with _progress() as progress:
        results = run.evaluate(asked, chosen, how, progress)
    found = results.all()
    missed = {name: value for name, value in floors.items() if not _holds(found, name, value)}
    if as_json:
        view.put_json(_document(results, how, missed, failures))
    else:
        _show(results, failures)
    for name, value in missed.items():
        view.tell(f"{name} is {found.get(name, 'not measured')}, worse than {value:g}.", "red")
    if missed:
        raise Ended(FAILED)


def _floor(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name.strip(), float(number)
    except ValueError:
        raise Invalid(f"{text!r} is no floor; write one such as recall@5=.9.") from None


def _holds(found: Mapping[str, float], name: str, value: float) -> bool:
    # takes a second to import, which help and usage errors should not wait for
    from workers.eval.measures import LOWER_IS_BETTER

    measured = found.get(name)
    if measured is None:
        raise Invalid(f"There is no measure {name!r} here; there are {', '.join(found)}.")
    return measured <= value if name in LOWER_IS_BETTER else measured >= value


def _set(data: Path, where: Path | None, file: Path | None) -> QuestionSet:
    # takes a second to import, which help and usage errors should not wait for
    from workers.eval import questions, shipped

    return questions.load(where, file) if where is not None else shipped.load(data, file)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    if not view.is_terminal(sys.stderr):
        yield lambda _done, _of: None
        return
    # takes a while to import, and only a terminal needs it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Asking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=view.people(), transient=True) as bar:
        task = bar.add_task("asking", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _document(results: Results, how: Any, missed: Mapping[str, float], failures: int) -> dict[str, Any]:
    return {
        "set": str(results.file),
        "documents": results.documents,
        "passages": results.passages,
        "seed": how.seed,
        "depth": how.depth,
        "absent": list(results.absent),
        "all": results.all(),
        "groups": results.groups(),
        "missed": dict(missed),
        "failures": [asdict(row) for row in _worst(results, failures)],
    }


def _show(results: Results, failures: int) -> None:
    # takes a second to import, which help and usage errors should not wait for
    from workers.eval import table

    view.tell(
        f"{view.many(len(results.rows), 'question')} of {results.file.name} over "
        f"{view.many(results.documents, 'document')} in {view.many(results.passages, 'passage')}",
        "bold",
    )
    if results.absent:
        view.tell(
            f"Not counted, for the documents do not hold the answer: {view.many(len(results.absent), 'question')} "
            f"({view.one_line(', '.join(results.absent), 200)}).",
            "yellow",
        )
    view.put_table(*table.retrieval(results))
    columns, rows = table.answers(results)
    if rows:
        view.heading("Answers")
        view.put_table(columns, rows)
    for row in _worst(results, failures):
        answer = row.answer
        view.heading(f"{row.id}: {row.question}")
        view.put(
            f"  found {dict(row.searches)}" if answer is None else f"  {answer.verdict} {answer.trouble}"
        )
        for line in answer.printed if answer else ():
            view.put(f"  - {view.one_line(line, 160)}")


def _worst(results: Results, most: int) -> list[Any]:
    """The questions that went wrong: not found where there is an answer, or answered where there is none."""

    def wrong(row: Any) -> bool:
        if row.answer is None:
            return None in row.searches["search"].spans if row.answerable else False
        if not row.answerable:
            return bool(row.answer.sentences)
        return bool(row.answer.trouble) or row.answer.gold_cited < 1 or bool(row.answer.stale_first)

    return [row for row in results.rows if wrong(row)][:most]
