"""The form of a plan: tasks with their tool, inputs, dependencies and share of the budget; and what is wrong with one.

    {"v": 1, "tasks": [{"id": "t1", "question": "…?", "tool": "documents_search", "inputs": {}, "after": [],
                        "fallbacks": [], "phase": "collect", "share": null, "category": null}, …]}

A plan that names a tool nobody offers, a task that is not there, an id twice or a task that waits for itself is refused
as a whole, with a sentence about which: a plan that was mended by guessing is not the one that somebody wrote. What is
too much for the depth or the budget is left out from the end, with what depends on it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from orchestrator.domain.approval import Category
from orchestrator.domain.plan import Json

SEARCH: Final = "documents_search"
"""The tool of a task that names none."""

CODE: Final = "code_run"
"""The tool that computes over the facts of other tasks."""

MOST: Final = 64
"""Tasks of a plan, whoever asks for more; the depth allows far fewer."""

LONGEST: Final = 300
"""Characters of a question that somebody proposes."""

Phase: TypeAlias = Literal["collect", "extract", "analyse", "synthesise"]

_Id: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
_Tool: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$")]


class PlanRefused(Exception):
    """A plan cannot be carried out; the message is a sentence about why."""


class Task(BaseModel):
    """One thing to find out, and with what. `share` is the part of the plan's calls, tokens and money that
    it may take (0 to 1): a call of the task that does not fit is not made.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: _Id
    question: Annotated[str, StringConstraints(min_length=1, max_length=20_000)]
    query: Annotated[str, StringConstraints(max_length=20_000)] = ""
    tool: _Tool = SEARCH
    inputs: dict[str, Any] = {}
    after: Annotated[list[_Id], Field(max_length=MOST)] = []
    fallbacks: Annotated[list[_Tool], Field(max_length=8)] = []
    phase: Phase = "collect"
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    category: Annotated[Category, Field(strict=False)] | None = None

    def brief(self) -> dict[str, Json]:
        """Return what the step of this task is given; what has its usual value is left out."""
        told: dict[str, Json] = {
            "question": self.question,
            "query": self.query or self.question,
            "task": self.id,
        }
        if self.tool != SEARCH:
            told["tool"] = self.tool
        more: dict[str, Json] = {
            "inputs": self.inputs,
            "fallbacks": list(self.fallbacks),
            "after": list(self.after),
            "category": self.category.value if self.category else None,
            "share": self.share,
        }
        if self.phase != "collect":
            told["phase"] = self.phase
        return told | {key: value for key, value in more.items() if value}


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    tasks: Annotated[list[Task], Field(max_length=MOST)]


REPLY_SCHEMA: Final[Mapping[str, Json]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["tasks"],
    "properties": {
        "tasks": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["id", "question"],
                "properties": {
                    "id": {"type": "string"},
                    "question": {"type": "string"},
                    "query": {"type": "string"},
                    "tool": {"type": "string"},
                    "inputs": {"type": "object"},
                    "after": {"type": "array", "items": {"type": "string"}},
                    "fallbacks": {"type": "array", "items": {"type": "string"}},
                    "phase": {"type": "string", "enum": ["collect", "extract", "analyse", "synthesise"]},
                    "share": {"type": "number"},
                    "category": {"type": "string", "enum": [c.value for c in Category]},
                },
            },
        }
    },
}
"""What a model is asked to hold its reply to; `read` is as strict without it."""


def read(reply: Mapping[str, Any], tools: Collection[str]) -> list[Task]:
    """Return the tasks of a reply, or raise `PlanRefused`."""
    try:
        tasks = _Reply.model_validate(reply).tasks
    except (ValidationError, RecursionError) as error:
        first = (
            error.errors(include_url=False)[0]
            if isinstance(error, ValidationError)
            else {"loc": (), "msg": "too deep"}
        )
        where = ".".join(map(str, first["loc"]))
        raise PlanRefused(
            f"The plan is not of the form that was asked for: {where}: {first['msg']}."
        ) from error
    check(tasks, tools)
    return tasks


def check(tasks: Sequence[Task], tools: Collection[str]) -> None:
    """Raise `PlanRefused` for tasks that cannot be carried out with these tools."""
    known = [task.id for task in tasks]
    for task in tasks:
        if known.count(task.id) > 1:
            raise PlanRefused(f"Two tasks of the plan are called {task.id}.")
        for tool in (task.tool, *task.fallbacks):
            if tool not in tools:
                raise PlanRefused(f"Task {task.id} names the tool {tool}, which is not offered.")
        for other in task.after:
            if other not in known:
                raise PlanRefused(f"Task {task.id} comes after {other}, which is not in the plan.")
    circle = _circle({task.id: task.after for task in tasks})
    if circle:
        raise PlanRefused(f"The tasks of the plan wait for each other: {' → '.join(circle)}.")
    if sum(task.share or 0.0 for task in tasks) > 1.0 + 1e-9:
        raise PlanRefused("The shares of the plan's tasks are more than the whole budget.")


def _circle(after: Mapping[str, Sequence[str]]) -> list[str]:
    """Return tasks that wait for each other, the first of them again at the end; none if there are none."""
    done: set[str] = set()
    for start in after:
        trail: list[str] = []
        turns = [iter((start,))]
        while turns:
            task = next(turns[-1], None)
            if task is None:
                turns.pop()
                if trail:
                    done.add(trail.pop())
            elif task in trail:
                return [*trail[trail.index(task) :], task]
            elif task not in done:
                trail.append(task)
                turns.append(iter(after[task]))
    return []


def ordered(tasks: Sequence[Task]) -> list[Task]:
    """Return tasks so that each comes after those it waits for, and otherwise in the order given."""
    placed: dict[str, Task] = {}
    waiting = list(tasks)
    while waiting:
        ready = next((t for t in waiting if all(a in placed for a in t.after)), None)
        if ready is None:
            break  # what waits for something that was left out is left out too
        placed[ready.id] = ready
        waiting.remove(ready)
    return list(placed.values())


def distinct(tasks: Sequence[Task]) -> list[Task]:
    """Return tasks without those that ask the same of the same tool as one before; whoever waited for one waits for that."""
    first: dict[tuple[str, str, str], str] = {}
    instead: dict[str, str] = {}
    kept: list[Task] = []
    for task in tasks:
        same = (" ".join(task.question.split()).casefold(), task.tool, repr(sorted(task.inputs.items())))
        instead[task.id] = first.setdefault(same, task.id)
        if instead[task.id] == task.id:
            kept.append(task)
    return [
        task.model_copy(
            update={
                "after": list(
                    dict.fromkeys(instead.get(a, a) for a in task.after if instead.get(a, a) != task.id)
                )
            }
        )
        for task in kept
    ]


def numbered(tasks: Sequence[Task]) -> list[Task]:
    """Return tasks under the ids t1, t2, … in their order."""
    names = {task.id: f"t{number}" for number, task in enumerate(tasks, start=1)}
    return [
        task.model_copy(update={"id": names[task.id], "after": [names[a] for a in task.after if a in names]})
        for task in tasks
    ]
