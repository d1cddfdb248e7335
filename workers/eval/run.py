"""Asks a set, question by question, in as many processes as one likes; the same set and seed give the same numbers."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.errors import InvalidSources
from orchestrator.domain.layout import SHORT
from orchestrator.domain.plan import PlanState
from orchestrator.settings import Settings
from workers.eval import measures
from workers.eval.baseline import NAMES, Baselines
from workers.eval.corpus import Corpus, Places
from workers.eval.questions import Question, QuestionSet
from workers.toolhost.documents import index, semantic

if TYPE_CHECKING:
    from workers.eval.lab import Lab, Run

Progress = Callable[[int, int], None]
"""Told how many of how many questions have been asked."""

_CHUNK: Final = 4


@dataclass(frozen=True, slots=True)
class How:
    """How a set is asked: how many of its questions, drawn by which seed, at which depth, in how many processes.

    With `plans` off only the search is measured, which takes milliseconds a question.
    """

    limit: int | None = None
    seed: int = 0
    depth: int = 2
    workers: int = 1
    plans: bool = True


@dataclass(frozen=True, slots=True)
class Results:
    """What was measured: a row for each question asked, and the questions whose answer the documents do not hold."""

    file: Path
    documents: int
    passages: int
    rows: tuple[measures.Row, ...]
    absent: tuple[str, ...]

    def groups(self) -> dict[str, dict[str, float]]:
        """The measures of each group of questions, in the order in which they first come."""
        names = dict.fromkeys(row.group for row in self.rows)
        return {name: measures.summary([r for r in self.rows if r.group == name]) for name in names}

    def all(self) -> dict[str, float]:
        """The measures of all questions."""
        return measures.summary(self.rows)


@dataclass(frozen=True, slots=True)
class _Task:
    question: Question
    golds: tuple[Places, ...]
    stale: frozenset[str]


def evaluate(
    asked: QuestionSet, settings: Settings, how: How, progress: Progress = lambda _done, _of: None
) -> Results:
    """Ask the set, and measure. Raises `Invalid`, or `InvalidSources` when the documents cannot be read."""
    folder = _laid_out(asked, settings.data / "eval")
    try:
        opened = index.DocumentIndex.open(folder, settings.data / "indexes")
        opened.refresh()
    except (index.FolderNotFound, index.NotAFolder, index.NothingReadable) as error:
        raise InvalidSources(str(error)) from error
    documents, passages = opened.everything()
    tasks, absent = _tasks(asked.questions, Corpus(documents))
    tasks = _sampled(tasks, how)
    rows = []
    with _asked(tasks, settings, folder, how) as measured:
        for row in measured:
            rows.append(row)
            progress(len(rows), len(tasks))
    return Results(asked.file, len(documents), len(passages), tuple(rows), tuple(absent))


def _tasks(questions: Sequence[Question], corpus: Corpus) -> tuple[list[_Task], list[str]]:
    tasks: list[_Task] = []
    absent: list[str] = []
    for question in questions:
        golds = corpus.places(question)
        if golds is None:
            absent.append(question.id)
        else:
            stale = frozenset(corpus.locator(doc) for doc in question.stale)
            tasks.append(_Task(question, golds, stale))
    return tasks, absent


def _sampled(tasks: list[_Task], how: How) -> list[_Task]:
    if how.limit is None or how.limit >= len(tasks):
        return tasks
    drawn = random.Random(how.seed).sample(range(len(tasks)), how.limit)  # noqa: S311 - a sample, no secret
    return [tasks[at] for at in sorted(drawn)]


def _laid_out(asked: QuestionSet, scratch: Path) -> Path:
    """Return the folder of documents, copied without the questions if they lie among them: they hold the answers."""
    if not asked.aside:
        return asked.documents
    name = hashlib.sha256(os.fsencode(asked.documents)).hexdigest()[:16]
    folder = scratch / name
    shutil.rmtree(folder, ignore_errors=True)
    left_out = {path.name for path in asked.aside}

    def ignored(where: str, names: list[str]) -> set[str]:
        hidden = {name for name in names if name.startswith(".")}
        return hidden | (left_out & set(names) if Path(where) == asked.documents else set())

    shutil.copytree(asked.documents, folder, ignore=ignored, symlinks=True)
    return folder


# --- in this process, or in others -----------------------------------------------------------------------------


@contextmanager
def _asked(
    tasks: Sequence[_Task], settings: Settings, folder: Path, how: How
) -> Iterator[Iterator[measures.Row]]:
    if how.workers == 1:
        bench = _Bench(settings, folder, how)
        try:
            yield map(bench.measure, tasks)
        finally:
            bench.close()
        return
    # a fresh interpreter each: threads of the tool host do not survive a fork
    pool = ProcessPoolExecutor(how.workers, get_context("spawn"), _set_up, (settings, folder, how))
    try:
        yield pool.map(_measure, tasks, chunksize=_CHUNK)
    finally:
        pool.shutdown(cancel_futures=True)


_BENCHES: Final[list[_Bench]] = []


def _set_up(settings: Settings, folder: Path, how: How) -> None:
    # takes a while to import, and only a process of the pool has not configured its log yet
    from orchestrator import telemetry

    telemetry.configure("critical")
    _BENCHES[:] = [_Bench(settings, folder, how)]


def _measure(task: _Task) -> measures.Row:
    return _BENCHES[0].measure(task)


class _Bench:
    """What one process asks with: the index, both baselines over its passages, and a lab."""

    def __init__(self, settings: Settings, folder: Path, how: How) -> None:
        meaning = semantic.load() if settings.documents_semantic else None
        self._index = index.DocumentIndex.open(folder, settings.data / "indexes", meaning)
        self._baselines = Baselines(self._index.everything()[1])
        self._lab = _lab(settings, folder, how.depth) if how.plans else None

    def measure(self, task: _Task) -> measures.Row:
        question = task.question
        searches = {"search": measures.ranks(self._index.search(question.text, measures.DEEP), task.golds)}
        for name in NAMES:
            found = self._baselines.search(name, question.text, measures.DEEP)
            searches[name] = measures.ranks(found, task.golds)
        answer = None
        if self._lab is not None:
            run = self._lab.ask(question.text)
            searches["plan"] = measures.ranks(run.found[: measures.DEEP], task.golds)
            answer = _answer(run, task)
        return measures.Row(
            question.id,
            question.text,
            question.group,
            question.answerable,
            searches if question.answerable else {},
            answer,
        )

    def close(self) -> None:
        self._baselines.close()
        if self._lab is not None:
            self._lab.close()


def _lab(settings: Settings, folder: Path, depth: int) -> Lab:
    # the whole pipeline takes seconds to import, and the search alone needs none of it
    from workers.eval.lab import Lab

    return Lab(settings, folder, depth=depth)


def _answer(run: Run, task: _Task) -> measures.Answer:
    report = run.report
    citations = {c["number"]: c for c in report.get("citations", ())}
    sentences = [s for section in report.get("sections", ()) for s in section["sentences"]]
    spans = [(c["locator"], c["start"], c["end"]) for c in citations.values()]
    gold = [any(p.overlaps(*span) for places in task.golds for p in places) for span in spans]
    met = [any(p.overlaps(*span) for p in places for span in spans) for places in task.golds]
    printed = tuple(_printed(sentence, citations) for sentence in sentences)
    first = citations.get(sentences[0]["citations"][0]) if sentences else None
    return measures.Answer(
        verdict=str(report.get("verdict", "none")),
        sentences=len(sentences),
        unsupported=measures.unsupported(
            report, lambda sha: e.text if (e := run.evidence.get(sha)) else None
        ),
        contained=measures.contains(printed, task.question.answer) if task.question.answer else None,
        cited=len(spans),
        cited_gold=sum(gold),
        gold_cited=sum(met) / len(met) if met else 0.0,
        stale_first=first["locator"] in task.stale if task.stale and first else None,
        drift=run.drift,
        calls=run.plan.spent.calls,
        tokens=run.plan.spent.tokens,
        cost_uusd=run.plan.spent.cost_uusd,
        ms=run.seconds * 1000,
        trouble=""
        if run.plan.state is PlanState.SUCCEEDED
        else f"{run.plan.state} {run.plan.reason or ''}".strip(),
        printed=printed,
    )


def _printed(sentence: Mapping[str, Any], citations: Mapping[int, Mapping[str, Any]]) -> str:
    """A sentence as a reader sees it: a short one stands under its headings."""
    text = str(sentence["text"])
    first = citations.get(sentence["citations"][0]) if sentence["citations"] else None
    return " ".join((*first["heading"], text)) if first and len(text) <= SHORT else text
