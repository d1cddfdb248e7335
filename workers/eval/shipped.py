"""The questions that come with the program, over the Language Reference that comes with Python."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from orchestrator import house
from workers.eval.questions import QuestionSet, read
from workers.toolhost.documents import language_reference

FOLDER: Final = "configs/eval"


def load(data: Path, file: Path | None = None) -> QuestionSet:
    """Return the shipped set, its documents written to the folder of state; `file` asks other questions of them."""
    folder = data / "language-reference"
    language_reference.export(folder)
    questions = file.expanduser().resolve() if file else house.path(f"{FOLDER}/language_reference.jsonl")
    return QuestionSet(questions, folder, read(questions))
