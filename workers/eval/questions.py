"""Reads a set of questions with their gold answers; decides what a set looks like, and refuses what is none.

One JSON object a line. A question, and where its answer stands:

    {"question": …, "doc": "africa/by", "start": 5644, "end": 5814, "answer": …, "paraphrase": false}   by place
    {"question": …, "doc": "with", "quote": "A compound statement …", "answer": …}                      by quote
    {"question": …, "evidence": [{"doc": …, "start": …, "end": …, "text": …}, …], "answer": …}          several places
    {"question": …, "answerable": false}                                                                nowhere

Besides, optional: `id`, `group` (how it is grouped in the table) and `stale` (documents that look like the answer and
are superseded). Other keys are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.domain.errors import Invalid

FILE: Final = "questions.jsonl"
"""What the file of questions is called, unless another is named."""

_DOCS: Final = "docs"


@dataclass(frozen=True, slots=True)
class Gold:
    """Where a part of the answer stands: at a place of the document, or wherever its quote is found."""

    doc: str
    quote: str
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, what the answer is, and where it stands; nowhere, if it cannot be answered."""

    number: int
    id: str
    text: str
    group: str
    golds: tuple[Gold, ...]
    answer: str = ""
    stale: tuple[str, ...] = ()

    @property
    def answerable(self) -> bool:
        """Whether the documents hold an answer."""
        return bool(self.golds)


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """A file of questions, and the folder of documents that they are asked of.

    `aside` holds the files in that folder which are no documents: questions with their answers.
    """

    file: Path
    documents: Path
    questions: tuple[Question, ...]
    aside: tuple[Path, ...] = ()


def load(where: Path, questions: Path | None = None) -> QuestionSet:
    """Return the set in a folder, or around a file of questions.

    Documents are what lies in `docs` beside the questions, or else everything in the folder but questions.

    Raises:
        Invalid: there is no such set, or a line of it cannot be used.
    """
    at = where.expanduser().resolve()
    if not at.exists():
        raise Invalid(
            f"There is no set {where}. Give a folder with documents and {FILE}, or a file of questions."
        )
    folder = at if at.is_dir() else at.parent
    file = questions.expanduser().resolve() if questions is not None else at if at.is_file() else _file_in(at)
    documents = folder / _DOCS if (folder / _DOCS).is_dir() else folder
    aside = tuple(sorted(documents.glob("*.jsonl"))) if documents == folder else ()
    return QuestionSet(file, documents, read(file), aside)


def read(file: Path) -> tuple[Question, ...]:
    """Return the questions of a file in order. Raises `Invalid`, naming the line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"The questions in {file} cannot be read ({type(error).__name__}).") from error
    found = [_question(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise Invalid(f"There is no question in {file}.")
    return tuple(found)


def _file_in(folder: Path) -> Path:
    if (folder / FILE).is_file():
        return folder / FILE
    others = sorted(path.name for path in folder.glob("*.jsonl"))
    if len(others) == 1:
        return folder / others[0]
    told = f" It has {', '.join(others)}; name one of them." if others else ""
    raise Invalid(f"The folder {folder} has no {FILE}.{told}")


def _question(file: Path, number: int, line: str) -> Question:
    where = f"{file.name}, line {number}"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{where}: it is not JSON ({error}).") from error
    if not isinstance(row, dict):
        raise Invalid(f"{where}: a question is a JSON object.")
    text = _text(where, row, "question")
    if not text:
        raise Invalid(f"{where}: there is no question in it.")
    golds = _golds(where, row)
    return Question(
        number=number,
        id=_text(where, row, "id") or f"q{number}",
        text=text,
        group=_group(where, row, golds),
        golds=golds,
        answer=_text(where, row, "answer"),
        stale=tuple(_texts(where, row, "stale")),
    )


def _golds(where: str, row: Mapping[str, Any]) -> tuple[Gold, ...]:
    evidence = row.get("evidence", [row] if row.get("answerable", True) else [])
    if row.get("answerable", True) is not True and row.get("answerable") is not False:
        raise Invalid(f"{where}: `answerable` is true or false.")
    if not isinstance(evidence, list) or not all(isinstance(part, dict) for part in evidence):
        raise Invalid(f"{where}: `evidence` is a list of objects.")
    if row.get("answerable") is False:
        return ()
    if not evidence:
        raise Invalid(f'{where}: it has no evidence; say so by "answerable": false.')
    return tuple(_gold(where, part) for part in evidence)


def _gold(where: str, part: Mapping[str, Any]) -> Gold:
    doc = _text(where, part, "doc")
    quote = _text(where, part, "quote") or _text(where, part, "text") or _text(where, part, "answer")
    start, end = part.get("start"), part.get("end")
    if not doc:
        raise Invalid(f"{where}: it does not say in which `doc` the answer stands.")
    if start is None and end is None:
        if not quote:
            raise Invalid(f"{where}: it gives neither a `quote` nor a place (`start` and `end`).")
        return Gold(doc, quote)
    if type(start) is not int or type(end) is not int or not 0 <= start < end:
        raise Invalid(f"{where}: {start!r} to {end!r} is no place in a document.")
    return Gold(doc, quote, start, end)


def _group(where: str, row: Mapping[str, Any], golds: tuple[Gold, ...]) -> str:
    given = _text(where, row, "group")
    if given:
        return given
    if not golds:
        return "unanswerable"
    if "evidence" in row:
        return "several"
    return {True: "paraphrased", False: "literal"}.get(row.get("paraphrase"), "all")  # type: ignore[arg-type]


def _text(where: str, row: Mapping[str, Any], key: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, str):
        raise Invalid(f"{where}: `{key}` is not text.")
    return value.strip() if key != "quote" else value


def _texts(where: str, row: Mapping[str, Any], key: str) -> list[str]:
    value = row.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Invalid(f"{where}: `{key}` is a list of texts.")
    return value
