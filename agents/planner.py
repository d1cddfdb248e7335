"""Turns a goal into tasks that can be carried out, after making sure that there are documents to look in.

    goal ─▶ questions in it ─▶ facets of its domain, if it is broad ─▶ tools that its words find ─▶ a model's tasks, if any
         ─▶ each once ─▶ as many as depth and budget allow ─▶ the plan, as JSON, and a brief for each task

Without a model the goal is split by templates: several questions become several; a comparison becomes one question
for each thing compared, since the sources of one rarely speak of the other. A model may propose more; it cannot take
the goal itself away, and a proposal that is no plan is asked for once more and then done without. What earlier plans of
the same tenant have found is shown to the model and kept with the plan, with where it came from. It is evidence here
only where no documents are given, and only if it still stands word for word where it stood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agents import asking, coder, discovery, memory, personas, plan_schema
from agents.personas import Persona
from agents.plan_schema import CODE, LONGEST, SEARCH, PlanRefused, Task
from agents.toolbox import Assignment, Toolbox, ToolCard
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Fact, Json, digest

_MARKS = re.compile(r"[?？؟]+")
_COMPARED = re.compile(
    r"^(?:please\s+)?(?:compare|contrast)\s+(?P<things>.+?)(?:\s+(?:on|by|in terms of|with respect to|regarding)\s+(?P<on>.+?))?$"
    r"|^(?P<ask>what (?:is|are) the (?:main )?differences?|how do(?:es)?)\s*(?:between\s+)?(?P<these>.+?)\s*(?P<how>differ|compare)?$",
    re.IGNORECASE,
)
_WHICH_OF = re.compile(
    r"^(?:which|who) of (?P<things>.+?) (?P<rest>(?:has|have|is|are|was|were|had)\s+.+?)$",
    re.IGNORECASE,
)
_AND = re.compile(r"\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or|versus|vs\.?|with|to)\s+", re.IGNORECASE)
_LONGEST_NAME: Final = 80
_BROAD: Final = re.compile(
    r"^(?:please\s+)?(?:research|analy[sz]e|investigate|explore|examine|assess|study|review|survey|"
    r"(?:write|give|prepare)(?: me)? an? (?:\w+ )?(?:report|overview|summary|analysis|survey|review) (?:of|on|about)|"
    r"(?:report|overview) (?:of|on)|tell me (?:everything )?about)\s+(?P<subject>.+?)[\s.!]*$",
    re.IGNORECASE,
)
_COMPUTED: Final = re.compile(
    r"\b(?:average|mean of|median|sum of|total of|in total|ratio of|correlat\w+|standard deviation|percentage (?:change|points?)|"
    r"growth rate|how (?:many|much) (?:more|less|fewer|larger|smaller|higher|lower)|rank (?:the|these|by)|ranked by|"
    r"(?:largest|smallest|highest|lowest|biggest|greatest|most|fewest|longest|shortest|oldest|youngest) .+ (?:of|among) )",
    re.IGNORECASE,
)
_SUPERLATIVE: Final = re.compile(
    r"\b(?:larger|largest|smaller|smallest|higher|highest|lower|lowest|bigger|biggest|greater|greatest|more|most|fewer|fewest|"
    r"less|least|longer|longest|shorter|shortest|older|oldest|younger|youngest|cheaper|cheapest|faster|fastest)\b",
    re.IGNORECASE,
)
_ADDRESS: Final = re.compile(r"https?://[^\s<>\"']+")
_ROOM_FOR_ANALYSIS: Final = 3

PROMPT: Final = "planner/2"
TASK: Final = (
    "Split the goal into at most {limit} short tasks that the tools could answer; do not answer them. Each has an id, a "
    "question that ends in a question mark, and the name of a tool that is listed. Where a tool needs inputs, give them. "
    "A task that needs what others find lists their ids in `after`. Computing over found facts is a task of the tool "
    'code_run, if it is listed, with the phase analyse. {{"tasks": [{{"id": "a", "question": "…?", "tool": "documents_search", '
    '"inputs": {{}}, "after": [], "phase": "collect"}}]}}. What was found before is for knowing what to ask, not for repeating it.'
)


@dataclass(frozen=True, slots=True)
class _Drafted:
    """Tasks, who made them, and why a model's were refused where they were."""

    tasks: Sequence[Task]
    made_by: str = "template"
    refused: str = ""


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Index the documents, and return the plan and its tasks' briefs, the goal itself first."""
    folder = assignment.sources.get("documents")
    index = toolbox.call("documents_index", folder=folder).content if folder else {}
    persona = personas.persona(assignment)
    related = memory.related(assignment, toolbox)
    tools = [card for card in toolbox.tools if card.planned and (folder or card.name != SEARCH)]
    drafted = _drafted(assignment, toolbox, persona, tools, related, searched=bool(folder))
    tasks, left_out = _taken(assignment, drafted.tasks)
    adopted = memory.adopted(assignment, toolbox, related) if not folder else []
    plan = _plan(assignment, persona, drafted, tasks, left_out, related, adopted)
    result: dict[str, Json] = {
        "questions": [task.question for task in tasks],
        "left_out": left_out,
        "plan_sha256": digest(plan),
        "prompt": persona.as_json(),
    }
    if folder:
        result |= {key: index[key] for key in ("documents", "passages", "skipped", "fingerprint")}
    else:
        result["note"] = "No documents were given to search."
    return Completed(
        "planned",
        plan=plan,
        follow_ups=[task.brief() for task in tasks],
        result=result,
        facts=[fact for fact, _ in adopted],
        partial=assignment.room < min(len(drafted.tasks), assignment.reach.fan_out),
    )


def _drafted(
    assignment: Assignment,
    toolbox: Toolbox,
    persona: Persona,
    tools: Sequence[ToolCard],
    related: Sequence[memory.Related],
    *,
    searched: bool,
) -> _Drafted:
    usual = _template(assignment, persona, tools, searched=searched)
    if not toolbox.model or not (searched or tools):
        return _Drafted(usual)
    asked, more, refused = _proposed(assignment, toolbox, persona, tools, related, searched=searched)
    if not asked:
        return _Drafted(usual, refused=refused)
    # the goal and its parts, then what the model would ask, then what it had no room for
    own = [task for task in usual if task.phase != "analyse"]
    computed = [task for task in usual if task.phase == "analyse"]
    computes = computed if not any(task.tool == CODE for task in more) else []
    return _Drafted(plan_schema.distinct([*own, *more, *computes]), f"model {toolbox.model}")


def _template(
    assignment: Assignment, persona: Persona, tools: Sequence[ToolCard], *, searched: bool
) -> list[Task]:
    goal = assignment.goal
    computes = searched and any(card.name == CODE for card in tools)
    amounts = coder.questions(goal) if computes else []
    if 0 < len(amounts) < assignment.reach.fan_out:
        # no source says which is the largest: each amount is looked up, and the rest is computed
        looked = [Task(id=f"g{n}", question=q) for n, q in enumerate(amounts, start=1)]
        last = Task(id="computed", question=goal, tool=CODE, after=[t.id for t in looked], phase="analyse")
        return plan_schema.distinct([*looked, last])
    questions = _merged(decompose(goal), _facets(goal, persona)) if searched else []
    tasks = [Task(id=f"g{n}", question=q) for n, q in enumerate(questions, start=1)]
    tasks += _found_by_words(goal, persona, tools)
    if any(card.name == CODE for card in tools) and _is_computed(goal) and tasks:
        tasks.append(
            Task(id="computed", question=goal, tool=CODE, after=[t.id for t in tasks], phase="analyse")
        )
    return plan_schema.distinct(tasks)


def _facets(goal: str, persona: Persona) -> list[str]:
    """What the domain asks about a broad goal; a goal that asks one thing is not widened."""
    broad = _BROAD.match(goal)
    if broad is None or len(broad["subject"]) > _LONGEST_NAME:
        return []
    return [facet.replace("{subject}", broad["subject"]) for facet in persona.facets]


def _found_by_words(goal: str, persona: Persona, tools: Sequence[ToolCard]) -> list[Task]:
    """A task for the tool that the goal speaks of, where the registry says which input takes the question."""
    preferred = [replace(c, weight=c.weight * 2) if c.name in persona.tools else c for c in tools]
    offered = {card.name for card in tools}
    for card in discovery.find(goal, preferred):
        address = _ADDRESS.search(goal)
        value = (address[0].rstrip(".,;:!?)") if address else "") if card.asks == "url" else goal
        if card.name not in {SEARCH, CODE} and card.asks and value:
            fallbacks = [name for name in card.fallbacks if name in offered][:8]
            return [
                Task(id="tool", question=goal, tool=card.name, inputs={card.asks: value}, fallbacks=fallbacks)
            ]
    return []


def _is_computed(goal: str) -> bool:
    """Whether the goal asks for what no source says, but follows from what several say."""
    compared = bool(_WHICH_OF.match(goal.rstrip(" .?!"))) and bool(_SUPERLATIVE.search(goal))
    return compared or bool(_COMPUTED.search(goal))


def _proposed(
    assignment: Assignment,
    toolbox: Toolbox,
    persona: Persona,
    tools: Sequence[ToolCard],
    related: Sequence[memory.Related],
    *,
    searched: bool,
) -> tuple[bool, list[Task], str]:
    """Whether a model's plan could be read, its tasks that ask something, and why the last one was refused."""
    names = {card.name for card in tools} | ({SEARCH} if searched else set())
    refused = ""

    def read(reply: Mapping[str, Any]) -> list[Task] | None:
        nonlocal refused
        try:
            return plan_schema.read(reply, names)
        except PlanRefused as error:
            refused = str(error)[:500]
            return None

    data = {
        "goal": assignment.goal,
        "domain": persona.domain,
        "tools": [{"name": c.name, "description": c.description} for c in tools],
        "facets": list(persona.facets),
        "found before": [memory.shown(found) for found in related],
    }
    tasks = asking.ask(
        toolbox,
        prompt=PROMPT,
        task=personas.told(assignment, TASK.format(limit=assignment.reach.fan_out)),
        data=data,
        read=read,
        schema=plan_schema.REPLY_SCHEMA,
    )
    if tasks is None:
        return False, [], refused or "The reply was not JSON."
    return True, [_asking(task) for task in tasks if _asks(task)], ""


def _asks(task: Task) -> bool:
    # a proposal is printed above what answers it: it must ask, so that it cannot state anything
    question = " ".join(task.question.split())
    return len(question) <= LONGEST and question.isprintable() and question.endswith(("?", "？", "؟"))


def _asking(task: Task) -> Task:
    query = " ".join(task.query.split())
    fits = len(query) <= LONGEST and query.isprintable()
    question = " ".join(task.question.split())
    return task.model_copy(
        update={
            "id": f"m{task.id}",
            "question": question,
            "query": query if fits else "",
            "after": [f"m{a}" for a in task.after],
        }
    )


def _taken(assignment: Assignment, tasks: Sequence[Task]) -> tuple[list[Task], list[str]]:
    """The tasks that depth and budget allow, numbered, and the questions of those that they do not."""
    wanted = plan_schema.ordered([task for task in tasks if task.phase != "synthesise"])
    most = min(assignment.reach.fan_out, max(0, assignment.room))
    computed = [task for task in wanted if task.phase == "analyse"][:1]
    if computed and len(wanted) > most >= _ROOM_FOR_ANALYSIS:
        # what is computed over fewer facts is still an answer, and the facts alone may be none
        kept = [task for task in wanted if task not in computed][: most - 1]
        names = {task.id for task in kept}
        kept += [t.model_copy(update={"after": [a for a in t.after if a in names]}) for t in computed]
    else:
        kept = wanted[:most]
    taken = plan_schema.numbered(plan_schema.ordered(kept))
    asked = {task.question for task in taken}
    return taken, [q for q in dict.fromkeys(task.question for task in tasks) if q not in asked]


def _plan(
    assignment: Assignment,
    persona: Persona,
    drafted: _Drafted,
    tasks: Sequence[Task],
    left_out: Sequence[str],
    related: Sequence[memory.Related],
    adopted: Sequence[tuple[Fact, memory.Related]],
) -> dict[str, Json]:
    return {
        "v": 1,
        "depth": assignment.depth,
        "made_by": drafted.made_by,
        "refused": drafted.refused,
        "prompt": {**persona.as_json(), "task": PROMPT},
        "tasks": [task.model_dump(mode="json") for task in tasks],
        "left_out": list(left_out),
        "related": [found.as_json() for found in related],
        "adopted": [{"as": fact.name, **found.as_json()} for fact, found in adopted],
    }


def decompose(goal: str) -> list[str]:
    """Return the questions in a goal; one that has no parts is its own only question."""
    asked = _split(goal)
    if len(asked) > 1:
        return _merged([], [part for q in asked for part in decompose(q)])
    return _merged([goal], _compared(goal.rstrip(" .?!")))


def _split(goal: str) -> list[str]:
    parts, begun = [], 0
    for marks in _MARKS.finditer(goal):
        if _ends_a_question(goal, marks):
            parts.append(goal[begun : marks.end()].strip())
            begun = marks.end()
    parts.append(goal[begun:].strip())
    return [part for part in parts if any(c.isalnum() for c in part)]


def _ends_a_question(goal: str, marks: re.Match[str]) -> bool:
    """Tell the mark after a question from one that it is about: "What does a ?? b mean" is one question."""
    if marks[0].strip("?") or marks.end() == len(goal):
        return True
    after = goal[marks.end() :].lstrip()[:1]
    if not goal[marks.end()].isspace():
        return after.isalpha() and not after.isascii()
    attached = marks.start() > 0 and not goal[marks.start() - 1].isspace()
    return attached or (len(marks[0]) == 1 and after.isupper())


def _compared(goal: str) -> list[str]:
    which = _WHICH_OF.match(goal)
    if which:
        return [f"{name} {which['rest']}" for name in _names(which["things"])]
    match = _COMPARED.match(goal)
    if not match:
        return []
    if match["ask"] and not match["how"] and "between" not in goal.casefold():
        return []
    names = _names(match["things"] or match["these"] or "")
    return [f"{match['on']} of {name}" if match["on"] else f"What is {name}?" for name in names]


def _names(things: str) -> list[str]:
    names = [name.strip(" .?!") for name in _AND.split(things)]
    fitting = [name for name in names if name and len(name) <= _LONGEST_NAME]
    return fitting if len(fitting) == len(names) and len(names) > 1 else []


def _merged(first: list[str], more: list[str]) -> list[str]:
    seen: dict[str, str] = {}
    for question in (*first, *more):
        seen.setdefault(question.casefold(), question)
    return list(seen.values())
