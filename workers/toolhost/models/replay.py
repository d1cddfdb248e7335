"""Answers from a recording: the same conversation gets the same answer, and another gets none.

A recording is a file that `orchestrator plans record` wrote. What an answer took is what it took when it was recorded.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.domain.plan import Json, digest
from workers.toolhost.models.catalogue import Model
from workers.toolhost.models.openai import usage_of
from workers.toolhost.models.port import NOTHING, UNRECORDED, Answer, Asked, Failed, said


class Replay:
    """One recording; a conversation that was recorded several times is answered in that order, the last again."""

    def __init__(self, model: Model) -> None:
        self._path = Path(model.file).expanduser()
        self._lock = threading.Lock()
        self._answers: dict[str, deque[Mapping[str, Any]]] | None = None

    def complete(self, asked: Asked) -> Answer:
        """Return the recorded answer, or raise `Failed`."""
        with self._lock:
            if self._answers is None:
                self._answers = _answers(self._path)
            recorded = self._answers.get(_name(asked.messages, asked.schema))
            if not recorded:
                raise Failed(UNRECORDED, "This conversation was not recorded.", NOTHING)
            reply = recorded[0] if len(recorded) == 1 else recorded.popleft()
        usage = usage_of(
            reply.get("input_tokens"),
            reply.get("output_tokens"),
            reply.get("cached_tokens", 0),
            reply.get("written_tokens", 0),
        )
        return Answer(said(reply.get("text"), usage), str(reply.get("model") or ""), usage)


def _name(messages: Sequence[Mapping[str, str]], schema: Mapping[str, Json] | None) -> str:
    return digest([[dict(message) for message in messages], None if schema is None else dict(schema)])


def _answers(path: Path) -> dict[str, deque[Mapping[str, Any]]]:
    found: dict[str, deque[Mapping[str, Any]]] = {}
    try:
        recording = json.loads(path.read_text(encoding="utf-8"))
        texts = {each["sha256"]: each["text"] for each in recording["evidence"]}
        for call in recording["calls"]:
            if call["tool"] == "model_complete" and call["state"] == "done":
                arguments = call["arguments"]
                name = _name(arguments["messages"], arguments.get("schema"))
                found.setdefault(name, deque()).append(json.loads(texts[call["evidence"]]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        detail = f"The recording {path.name} cannot be read ({type(error).__name__})."
        raise Failed(UNRECORDED, detail, NOTHING) from error
    return found
