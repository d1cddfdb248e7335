"""Computes what no tool covers: writes a script over the facts that were collected, and has it run in the sandbox.

Without a model the analysis is one of a few (the largest, a ranking, a sum, a mean, a difference, a ratio) over the one
amount that each thing of the question has in the facts. It is not made where an amount is missing, where sources
disagree about one, or where units differ. The script is the same for every question: what was found goes in as data, and
no word of it is ever a part of a program.

With a model the script is the model's. The sandbox is what confines it; besides, a number that stands in no fact may not
stand in the script, and of what it prints only lines are taken that name their facts and say nothing in words of their own.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agents import asking, quantities, terms
from agents.quantities import Quantity
from agents.toolbox import Assignment, CallFailed, CallRefused, Toolbox, ToolResult
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Fact, Json, StepState

TOOL: Final = "code_run"
INPUT: Final = "facts.json"
LONGEST_SCRIPT: Final = 8_000

PROMPT: Final = "coder/1"
REPAIR: Final = "coder-repair/1"
TASK: Final = (
    "Write a Python script that answers the question by computing over the facts, which it reads as JSON from "
    '/in/facts.json: a list of {"name", "quote", "title", "question"}. Take every number from the quotes, by name of the '
    "fact, and write none into the script. Print one statement a line, with its unit, ending in the names of the facts "
    "it rests on, as (from F3.1, F4.2). Use only words of the question and of the facts. Standard library only, no "
    'network, no other file. {"script": "…", "explanation": "…"}'
)
MEND: Final = "The script failed, as told in `error`, or nothing that it printed could be used. Write it anew, by the same rules: "


class NotComputed(Exception):
    """The facts do not bear the analysis; the message says why."""


def think(assignment: Assignment, toolbox: Toolbox) -> Completed:
    """Return facts that quote what a script computed (`found`), or `nothing` and why."""
    question = str(assignment.brief["question"])
    facts = _at_hand(assignment)
    try:
        computed = _by_model(question, facts, toolbox) if toolbox.model and facts else None
        if computed is None:
            computed = _by_analysis(assignment, question, facts, toolbox)
    except NotComputed as error:
        return _nothing(question, str(error))
    except CallRefused as refused:
        if refused.reason != "tool_withheld":
            raise
        # what this machine cannot run is no plan's fault: it goes on with what was found
        return _nothing(question, refused.detail)
    made = _facts(assignment, question, computed, toolbox)
    if not made:
        return _nothing(question, "What was computed could not be stored as evidence.")
    used = sorted({name for line in computed.lines for name in _cited(line)}, key=_by_number)
    result: dict[str, Json] = {
        "question": question,
        "facts": len(made),
        "from": list(used),
        "evidence": computed.result.evidence,
        "explanation": computed.explanation,
    }
    return Completed("found", facts=made, result=result)


def _nothing(question: str, why: str) -> Completed:
    return Completed("nothing", result={"question": question, "facts": 0, "why": why[:500]})


def _at_hand(assignment: Assignment) -> list[Fact]:
    """The facts of the tasks that this one comes after; all of the plan's where none is named."""
    after = assignment.brief.get("after")
    wanted = {str(task) for task in after} if isinstance(after, list | tuple) else set()
    steps = {
        step.number
        for step in assignment.steps
        if step.state is StepState.SUCCEEDED and str(step.brief.get("task") or "") in wanted
    }
    return [fact for fact in assignment.facts if not wanted or fact.step in steps]


@dataclass(frozen=True, slots=True)
class _Computed:
    """A run of a script, the lines of it that become facts, and what it is said to do."""

    result: ToolResult
    lines: Sequence[str]
    explanation: str


def _run(toolbox: Toolbox, script: str, given: Json, title: str) -> ToolResult:
    return toolbox.call(TOOL, script=script, inputs={INPUT: given}, title=title)


def _printed(result: ToolResult) -> str:
    return str(result.content["text"])[: int(result.content["printed"])]


def _facts(assignment: Assignment, question: str, computed: _Computed, toolbox: Toolbox) -> list[Fact]:
    text = _printed(computed.result)
    evidence = toolbox.evidence(computed.result.evidence)
    made: list[Fact] = []
    if evidence is None:
        return made
    for line in computed.lines[: assignment.reach.facts]:
        start = text.find(line)
        if start < 0:
            continue
        made.append(
            Fact(
                step=assignment.step,
                number=len(made) + 1,
                quote=line,
                evidence=evidence.sha256,
                start=start,
                end=start + len(line),
                locator=evidence.locator,
                title=evidence.title,
                origin_sha256=evidence.origin_sha256,
                question=question,
                score=1.0,
            )
        )
    return made


# --- without a model --------------------------------------------------------------------------------------------------

_LARGEST: Final = "largest biggest highest most greatest longest tallest heaviest maximum"
_SMALLEST: Final = "smallest lowest least fewest shortest lightest minimum"
_OPERATIONS: Final = (
    ("ratio", re.compile(r"\b(?:ratio|how many times)\b", re.IGNORECASE)),
    ("difference", re.compile(r"\b(?:difference|how much \w+|how many more)\b", re.IGNORECASE)),
    ("largest", re.compile(rf"\b(?:{'|'.join(_LARGEST.split())})\b", re.IGNORECASE)),
    ("smallest", re.compile(rf"\b(?:{'|'.join(_SMALLEST.split())})\b", re.IGNORECASE)),
    ("rank", re.compile(r"^\W*(?:rank|order|sort)\b", re.IGNORECASE)),
    ("mean", re.compile(r"\b(?:average|mean)\b", re.IGNORECASE)),
    ("sum", re.compile(r"\b(?:sum|combined|altogether|together)\b", re.IGNORECASE)),
)
_SHAPES: Final = (
    re.compile(
        r"^(?:which|what|who)(?: \w+)? (?:of|among|out of) (?P<things>.+?) (?P<rest>(?:has|have|had|is|are|was|were)\b.*)$",
        re.IGNORECASE,
    ),
    re.compile(r"^(?:rank|order|sort|compare) (?P<things>.+?) by (?P<rest>.+)$", re.IGNORECASE),
    re.compile(
        r"^(?P<rest>how (?:much|many)(?: \w+){1,2} (?:is|are|was|were|has|have)) (?P<things>.+? than .+?)"
        r"(?: (?:in|by) (?P<also>.+))?$",
        re.IGNORECASE,
    ),
    re.compile(r"^(?P<rest>.+) of (?P<things>.+? to (?:that|those) of .+)$", re.IGNORECASE),
    re.compile(r"^(?P<rest>.+) (?:of|between|among|for) (?P<things>.+)$", re.IGNORECASE),
)
_APART: Final = re.compile(
    r"\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or|than|to)\s+(?:that of\s+|those of\s+)?", re.IGNORECASE
)
_FRAME: Final = frozenset(
    "what which who is are was were has have had the a an of in by how much many more times between does do please "
    "calculate compute give find show me us ratio difference rank order sort mean average sum combined altogether "
    f"together than out among larger smaller higher lower bigger greater longer fewer less {_LARGEST} {_SMALLEST}".split()
)
_LONGEST_NAME: Final = 80
_MOST_THINGS: Final = 50
_ORDERED: Final = frozenset({"largest", "smallest", "rank"})
_FITTING: Final = 0.5
"""The least that an amount must fit the measure (see `quantities.about`)."""

_AS_FITTING: Final = 0.05
"""Amounts that fit alike within this much are all taken for what the source says."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is to be computed: an operation over one measure of some things, and by which word it was asked for."""

    operation: str
    things: tuple[str, ...]
    measure: str
    word: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """One thing's amount, and the fact that has it."""

    name: str
    quantity: Quantity
    fact: Fact


def _by_analysis(assignment: Assignment, question: str, facts: Sequence[Fact], toolbox: Toolbox) -> _Computed:
    asked = _told(assignment.brief) or analysis(question)
    found = values(asked, facts)
    given: dict[str, Json] = {
        "operation": asked.operation,
        "word": asked.word or asked.operation,
        "measure": asked.measure,
        "unit": found[0].quantity.unit,
        "values": [
            {
                "name": each.name,
                "number": str(each.quantity.value),
                "step": str(each.quantity.step),
                "written": each.quantity.written,
                "fact": each.fact.name,
                "quote": each.fact.quote,
                "source": each.fact.locator,
            }
            for each in found
        ],
    }
    title = f"Computed from {', '.join(each.fact.name for each in found[:8])}"
    try:
        result = _run(toolbox, SCRIPT, given, title)
    except CallFailed as failed:
        if failed.reason != "tool_error":
            raise
        raise NotComputed(failed.detail) from failed
    said = f"{asked.operation} of {asked.measure}, from the facts, without a model"
    return _Computed(result, _printed(result).splitlines(), said)


def _told(brief: Mapping[str, Json]) -> Analysis | None:
    """The analysis that a brief spells out, if it does."""
    inputs = brief.get("inputs")
    if not isinstance(inputs, Mapping):
        return None
    things, measure, operation = inputs.get("things"), inputs.get("measure"), inputs.get("operation")
    known = {name for name, _ in _OPERATIONS}
    if not isinstance(things, list | tuple) or not isinstance(measure, str) or operation not in known:
        return None
    return Analysis(str(operation), tuple(map(str, things))[:_MOST_THINGS], measure)


def analysis(question: str) -> Analysis:
    """Return what a question wants computed; raises `NotComputed` for one that wants nothing known here."""
    bare = " ".join(question.split()).rstrip(" .?!")
    for shape in _SHAPES:
        found = shape.match(bare)
        if found is None:
            continue
        things = _names(found["things"])
        said = found.groupdict()
        rest = f"{said['rest']} {said.get('also') or ''}".strip()
        operation, word = _operation(bare if shape is _SHAPES[1] else rest)
        words = [word for word in re.findall(r"[^\W_]+(?:[-'’][^\W_]+)*", rest) if word.lower() not in _FRAME]
        measure = " ".join(words)
        if things and operation and measure:
            return Analysis(operation, things, measure, word)
    raise NotComputed("The question asks for no analysis of amounts that is known here.")


def questions(goal: str) -> list[str]:
    """Return the questions whose answers the analysis of a goal needs, one for each thing; none where there is none.

    They ask for the amount and not for what is to be computed of it: no source says that something is the largest.
    """
    try:
        asked = analysis(goal)
    except NotComputed:
        return []
    return [f"What is the {asked.measure} of {thing}?" for thing in asked.things]


def _operation(text: str) -> tuple[str, str]:
    """Return the first operation that a text asks for, and its word for it."""
    found = ((name, sign.search(text)) for name, sign in _OPERATIONS)
    return next(((name, word[0].lower()) for name, word in found if word), ("", ""))


def _names(text: str) -> tuple[str, ...]:
    names = [re.sub(r"^(?:the|both)\s+", "", name.strip(" .?!'\"")) for name in _APART.split(text)]
    fitting = all(name and len(name) <= _LONGEST_NAME for name in names)
    return tuple(dict.fromkeys(names)) if fitting and 1 < len(names) <= _MOST_THINGS else ()


def values(asked: Analysis, facts: Sequence[Fact]) -> list[Value]:
    """Return each thing's amount; raises `NotComputed` for one that is missing, disputed or of another unit."""
    things = _whole(asked.things, {key for fact in facts for key in _keys(fact)})
    found = [_value(name, things, asked, facts) for name in things]
    if asked.operation in {"difference", "ratio"} and len(found) != 2:
        raise NotComputed(f"A {asked.operation} is of two things, and the question names {len(found)}.")
    first = found[0]
    for each in found[1:]:
        if each.quantity.unit != first.quantity.unit:
            raise NotComputed(
                f"The units differ: {first.name} {first.quantity.written} ({first.fact.name}), "
                f"{each.name} {each.quantity.written} ({each.fact.name})."
            )
    if asked.operation in _ORDERED:
        _told_apart(found, every=asked.operation == "rank", smallest=asked.operation == "smallest")
    return found


def _told_apart(found: Sequence[Value], *, every: bool, smallest: bool) -> None:
    """Raise `NotComputed` where amounts that are written as rounded are too near to each other to be put in order."""
    ordered = sorted(found, key=lambda each: each.quantity.value, reverse=not smallest)
    nearest = itertools.pairwise(ordered) if every else ((ordered[0], each) for each in ordered[1:])
    for one, other in nearest:
        a, b = one.quantity, other.quantity
        if (
            max(a.step, b.step) > 1
            and a.written != b.written
            and abs(a.value - b.value) < (a.step + b.step) / 2
        ):
            raise NotComputed(
                f"The amounts are too coarsely rounded to be told apart: {one.name} {a.written} ({one.fact.name}), "
                f"{other.name} {b.written} ({other.fact.name})."
            )


def _whole(things: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the things with those put together again whose names hold an "and", as sources are named after them."""
    whole: list[str] = []
    for name in things:
        spelt = [f"{whole[-1]} and {name}", f"{whole[-1]} and the {name}"] if whole else []
        together = next((each for each in spelt if _key(each) in known), None)
        if together:
            whole[-1] = together
        else:
            whole.append(name)
    return whole


def _value(name: str, things: Sequence[str], asked: Analysis, facts: Sequence[Fact]) -> Value:
    rated: list[tuple[float, Value]] = []
    for fact in _of(name, things, facts):
        found = quantities.about(asked.measure, fact.quote, fact.heading)
        if found is not None and found[1] >= _FITTING:
            rated.append((found[1], Value(name, found[0], fact)))
    if not rated:
        raise NotComputed(f"No fact tells the {asked.measure} of {name}.")
    best = max(rate for rate, _ in rated)
    kept = [value for rate, value in rated if rate >= best - _AS_FITTING]
    other = next((v for v in kept if _amount(v) != _amount(kept[0])), None)
    if other is not None:
        raise NotComputed(
            f"The facts disagree about the {asked.measure} of {name}: {kept[0].quantity.written} "
            f"({kept[0].fact.name}) and {other.quantity.written} ({other.fact.name})."
        )
    return kept[0]


def _amount(value: Value) -> tuple[object, str]:
    return value.quantity.value, value.quantity.unit


def _of(name: str, things: Sequence[str], facts: Sequence[Fact]) -> list[Fact]:
    """The facts about a thing: from a source that is named after it, else those that name it and no other."""
    key = _key(name)
    named = [fact for fact in facts if key in _keys(fact)]
    if named:
        return named
    others = [other for other in map(_key, things) if other != key]
    return [
        fact
        for fact in facts
        if _says(fact, key) and not any(_says(fact, other) for other in others if other not in key)
    ]


def _says(fact: Fact, key: str) -> bool:
    return f" {key} " in f" {_key(' '.join((fact.quote, fact.title, *fact.heading)))} "


def _keys(fact: Fact) -> set[str]:
    """What a fact's source is named after."""
    return {_key(fact.title), *map(_key, fact.heading)}


def _key(text: str) -> str:
    return " ".join(re.findall(r"\w+", terms.fold(text)))


SCRIPT: Final = '''\
"""Compares, ranks or adds up amounts; everything it knows is in /in/facts.json."""
import json
from fractions import Fraction

with open("/in/facts.json", encoding="utf-8") as file:
    given = json.load(file)
values = [{**each, "number": Fraction(each["number"])} for each in given["values"]]
operation, measure, unit = given["operation"], given["measure"], given["unit"]
coarsest = max(Fraction(each["step"]) for each in given["values"])


def shown(number):
    rounded = coarsest > 1 and operation != "ratio"  # a result is no finer than what it was made of
    number = round(number / coarsest) * coarsest if rounded else number
    whole = number.denominator == 1
    text = f"{number.numerator:,}" if whole else f"{float(number):,.6g}" if abs(number) < 10**6 else f"{float(number):,.2f}"
    exact = not rounded and (whole or Fraction(text.replace(",", "")) == number)
    money = unit if unit in {"$", "€", "£"} else ""
    after = "" if money or not unit else unit if unit == "%" else f" {unit}"
    return ("" if exact else "about ") + money + text + after


def listed(some):
    return "; ".join(f"{each['name']} {each['written']} (from {each['fact']})" for each in some)


def named(some):
    names = [each["name"] for each in some]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


sources = "(from " + ", ".join(each["fact"] for each in values) + ")"
if operation in {"largest", "smallest", "rank"}:
    ordered = sorted(values, key=lambda each: each["number"], reverse=operation != "smallest")
    if operation != "rank":
        best = [each for each in ordered if each["number"] == ordered[0]["number"]]
        verb = "has" if len(best) == 1 else "have"
        print(f"{named(best)} {verb} the {given['word']} {measure} of {len(values)}: {best[0]['written']} {sources}.")
    print(f"By {measure}: {listed(ordered)}.")
elif operation in {"sum", "mean"}:
    total = sum((each["number"] for each in values), Fraction(0))
    came = total / len(values) if operation == "mean" else total
    print(f"The {operation} of the {measure} of {named(values)} is {shown(came)} {sources}.")
    print(f"By {measure}: {listed(values)}.")
elif operation == "difference":
    more, less = sorted(values, key=lambda each: each["number"], reverse=True)
    apart = shown(more["number"] - less["number"])
    print(f"The difference in {measure} between {more['name']} and {less['name']} is {apart} {sources}.")
    print(f"By {measure}: {listed([more, less])}.")
else:
    first, second = values
    unit = ""
    ratio = shown(first["number"] / second["number"])
    print(f"The ratio of the {measure} of {first['name']} to that of {second['name']} is {ratio} {sources}.")
    print(f"By {measure}: {listed(values)}.")
'''


# --- with a model -----------------------------------------------------------------------------------------------------

_OUTSIDE_TEXT: Final = """
asyncio ctypes ftplib http importlib multiprocessing os requests shutil signal smtplib socket ssl subprocess sys
threading urllib webbrowser
"""
_OUTSIDE: Final = frozenset(_OUTSIDE_TEXT.split())
"""Modules that no analysis needs; the sandbox would stop what they are for, a sentence stops it earlier."""

_FREE: Final = 100
"""Whole numbers up to here, and powers of ten, may stand in a script: they count and scale."""

_FROM: Final = re.compile(r"\(from ((?:F\d+\.\d+)(?:, F\d+\.\d+)*)\)\.?$")
_NAME: Final = re.compile(r"F\d+\.\d+")
_DIGITS: Final = re.compile(r"\d+(?:[.,]\d+)*")
_WORDS: Final = frozenset(
    terms.keys(
        "about above account all amount annual approximately average below between by change coefficient combined compare "
        "compared correlation count decrease deviation difference each equal estimate exact first fit five four fraction "
        "from growth half has have highest increase intercept is largest last less linear lowest maximum mean median "
        "minimum more most number of one order out per percent percentage points proportion quartile range rank ranked "
        "ranking ratio rate regression remaining rounded second share slope smallest square standard statistics sum ten "
        "than the third three times total trend twice two units value values variance versus with year years"
    )
)


@dataclass(frozen=True, slots=True)
class _Script:
    script: str
    explanation: str


def _by_model(question: str, facts: Sequence[Fact], toolbox: Toolbox) -> _Computed | None:
    """Return what the model's script computed, mended once; `None` if nothing of it can be used."""
    given = [{"name": f.name, "quote": f.quote, "title": f.title, "question": f.question} for f in facts]
    error = ""
    for prompt, task in ((PROMPT, TASK), (REPAIR, MEND + TASK)):
        data = {"question": question, "facts": given, **({"error": error} if error else {})}
        written = asking.ask(
            toolbox, prompt=prompt, task=task, data=data, read=lambda reply: _script(reply, question, facts)
        )
        if written is None:
            return None
        try:
            result = _run(toolbox, written.script, given, "Computed by a script of the model")
        except CallFailed as failed:
            if failed.reason != "tool_error":
                raise
            error = failed.detail[-1_000:]
            continue
        lines = [line for line in _printed(result).splitlines() if _sayable(line, question, facts)]
        if lines:
            return _Computed(result, lines, written.explanation)
        error = "No printed line named its facts and kept to the words of the question and the facts."
    return None


def _script(reply: Mapping[str, Any], question: str, facts: Sequence[Fact]) -> _Script | None:
    script, explanation = reply.get("script"), reply.get("explanation")
    if (
        set(reply) != {"script", "explanation"}
        or not isinstance(script, str)
        or not isinstance(explanation, str)
    ):
        return None
    if not script.strip() or len(script) > LONGEST_SCRIPT or objection(script, question, facts):
        return None
    return _Script(script, " ".join(explanation.split())[:500])


def objection(script: str, question: str, facts: Sequence[Fact]) -> str:
    """Return why a script is not run, or nothing: it must be Python, import no way out and bring no number along."""
    try:
        tree = ast.parse(script)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "It is not Python."
    imported = set(_imported(tree))
    if imported & _OUTSIDE:
        return f"It imports {', '.join(sorted(imported & _OUTSIDE))}."
    known = set(
        _numbers(" ".join((question, *(fact.quote for fact in facts), *(fact.name for fact in facts))))
    )
    brought = [text for text in _brought(tree) if text not in known and not _is_free(text)]
    return f"It brings the number {brought[0]} along, which is in no fact." if brought else ""


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def _brought(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                yield from _numbers(_NAME.sub(" ", node.value))
            elif isinstance(node.value, int | float) and not isinstance(node.value, bool):
                yield _plain(repr(node.value))


def _numbers(text: str) -> Iterator[str]:
    return (_plain(found) for found in _DIGITS.findall(text))


def _plain(text: str) -> str:
    bare = text.replace(",", "")
    return bare.rstrip("0").rstrip(".") if "." in bare else bare


def _is_free(text: str) -> bool:
    return (text.isdecimal() and int(text) <= _FREE) or bool(re.fullmatch(r"10+|0?\.0*1|1e[+-]?\d+", text))


def _sayable(line: str, question: str, facts: Sequence[Fact]) -> bool:
    """Whether a printed line may become a fact: a number, its facts by name, and no words but theirs."""
    known = {fact.name: fact for fact in facts}
    names = _cited(line)
    if not names or not all(name in known for name in names):
        return False
    said = _FROM.sub("", _NAME.sub(" ", line))
    cited = [known[name] for name in names]
    words = {*_WORDS, *terms.keys(question)}
    for fact in cited:
        words.update(terms.keys(" ".join((fact.quote, fact.title, *fact.heading))))
    spoken = [key for key in terms.keys(said) if not any(letter.isdigit() for letter in key)]
    return bool(_DIGITS.search(said)) and all(
        key in words or key.removeprefix("=") in terms.STOP_WORDS for key in spoken
    )


def _cited(line: str) -> list[str]:
    return _NAME.findall(line) if "(from F" in line else []


def _by_number(name: str) -> tuple[int, ...]:
    return tuple(map(int, name[1:].split(".")))
