"""Writes the reference pages from the code, so that they cannot say something else than it does.

    python scripts/reference.py            write docs/reference/*.md
    python scripts/reference.py --check    write nothing; exit with 1 and say what is stale

The pages depend on the code alone: not on the terminal, the user, the time or where the checkout lies.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from agents import profiles  # noqa: E402 - found only once the folder above is on the path
from orchestrator import api, settings, telemetry  # noqa: E402
from orchestrator.api import problems  # noqa: E402
from orchestrator.domain import errors, lifecycle, ooda  # noqa: E402
from orchestrator.domain.plan import Agent  # noqa: E402
from workers.toolhost import registry  # noqa: E402

FOLDER: Final = ROOT / "docs" / "reference"
WRITTEN: Final = "<!-- Written by scripts/reference.py. Change the code, then run `make docs`. -->"

EVENTS: Final[Mapping[str, str]] = {
    "approval.advanced": "A person decided; others must as well.",
    "approval.decided": "A person decided, or nobody did in time.",
    "approval.escalated": "Nobody decided in time; further roles may decide from now on.",
    "approval.requested": "A step waits for a person.",
    "ballot.cast": "A draft was sent back, or needs review, or a later one is accepted: `revise`, `needs_review` or `accepted`. That a first draft is accepted is told by its judge's step alone.",
    "plan.cancelled": "Somebody ended the plan.",
    "plan.ended": "The plan reached a terminal state; `verdict` is that of its report, if it wrote one.",
    "plan.forked": "The plan continues from a step of another one; it has this event instead of `plan.submitted`.",
    "plan.replayed": "A plan that was given up on was taken up again.",
    "plan.started": "A worker took the plan's first step.",
    "plan.submitted": "The goal was accepted.",
    "step.copied": "A finished step of the other plan was taken over, with its facts.",
    "step.dead": "A step was given up on; a dead letter says why.",
    "step.faulted": "An attempt failed; another follows after a wait.",
    "step.planned": "It was decided that this step comes next, beside others. One that comes alone is not announced.",
    "step.rescued": "A step was taken back from a worker that is gone or silent.",
    "step.skipped": "Time ran out before the step could begin.",
    "step.snoozed": "It was too early; the step comes back later.",
    "step.started": "A worker took the step, and has been busy with it for half a second. One that ends sooner is told of when it ends.",
    "step.succeeded": "The step came to a verdict.",
    "tool.called": "A call through the gate ended.",
}
"""What each event of a plan means; `_event_page` refuses to be written when a kind is missing here, or too many."""

RECORDS: Final[Mapping[str, str]] = {
    "approval.advanced": "A decision that is not the last of its chain: by whom, in which role, and about which arguments.",
    "approval.decided": "A decision, by whom, and about which arguments.",
    "approval.escalated": "Which further roles may decide, since nobody did in time.",
    "approval.requested": "What a person is asked, and which roles may answer.",
    "dead_letter.discarded": "Somebody said that a dead letter needs no more attention.",
    "notification.retried": "Who had the webhook told again, what it had not taken after how many attempts.",
    "plan.cancelled": "Who ended the plan, and why.",
    "plan.ended": "How the plan ended.",
    "plan.forked": "Who forked which plan from which step, and the steps taken over with the digest of what they came to.",
    "plan.replayed": "Who took the plan up again.",
    "plan.submitted": "Who asked, the goal's keyed digest (`audit blind` makes it of a text), and the budget.",
    "plan.planned": "The tasks that the goal was split into, word for word, and their digest.",
    "report.written": "The digest of the report.",
    "step.dead": "A step was given up on.",
    "step.refused": "Policy said no for good.",
    "tool.intent": "A call is about to be made: the agent, the decision that allowed it, the arguments' digest, the claim.",
    "tool.outcome": "How a call ended, and the digests of its result and its evidence.",
    "tool.unknown": "The worker was lost during a call; nobody knows whether it took effect.",
}
"""What each kind of audit record means; checked in the same way."""


# --- the shape of a page ----------------------------------------------------------------------------------------


def _page(title: str, *parts: str) -> str:
    return "\n\n".join((f"# {title}", WRITTEN, *parts)).rstrip() + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _code(value: object) -> str:
    return f"`{value}`" if str(value) else ""


def _codes(values: Iterable[object]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n", 1)[0]


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


# --- settings ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Setting:
    name: str
    default: str
    said: str


def _settings_in_file() -> Iterator[_Setting]:
    """The keys of the settings file, each with the comment that stands above it or above its group."""
    comment: list[str] = []
    fresh = False
    for line in (ROOT / "configs" / "settings.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comment = [*comment, line.lstrip("# ")] if fresh else [line.lstrip("# ")]
            fresh = True
        elif ":" in line:
            name, _, default = line.partition(":")
            yield _Setting(name, default.strip(), " ".join(comment))
            fresh = False
        else:
            comment, fresh = [], False


def _kind(name: str) -> str:
    field = settings.Settings.model_fields[name]
    kinds = {str: "text", int: "whole number", float: "number"}
    kind = kinds.get(field.annotation) if isinstance(field.annotation, type) else "one of the words"
    words = {"gt": "more than", "ge": "at least", "le": "at most", "lt": "less than"}
    limits = [
        f"{words[key]} {getattr(limit, key)}"
        for limit in field.metadata
        for key in words
        if hasattr(limit, key)
    ]
    return ", ".join([str(kind), *limits])


def _settings_page() -> str:
    rows = [
        (_code(s.name), _code(f"{settings.PREFIX}{s.name.upper()}"), _code(s.default), _kind(s.name), s.said)
        for s in _settings_in_file()
    ]
    listed = {name.strip("`") for name, *_ in rows}
    if listed != set(settings.Settings.model_fields):
        odd = sorted(listed ^ set(settings.Settings.model_fields))
        raise SystemExit(f"configs/settings.yaml and the Settings model disagree about: {', '.join(odd)}.")
    return _page(
        "Settings",
        "The file `configs/settings.yaml` gives every setting its value. An environment variable wins over the file, "
        "an option on the command line over both. An unknown key in the file is an error; "
        "`orchestrator config check` names variables that mean nothing.",
        _table(("setting", "environment variable", "default", "takes", "what it is for"), rows),
    )


# --- lifecycle and depth ----------------------------------------------------------------------------------------


def _moves(moves: Mapping[Any, tuple[frozenset[Any], Any]]) -> str:
    rows = [(_code(move), _codes(sorted(before)), _code(after)) for move, (before, after) in moves.items()]
    return _table(("move", "from", "to"), rows)


def _diagram(
    moves: Mapping[Any, tuple[frozenset[Any], Any]], first: Iterable[str], ends: Iterable[str]
) -> str:
    lines = ["```mermaid", "stateDiagram-v2", *(f"    [*] --> {state}" for state in first)]
    for move, (before, after) in moves.items():
        lines += [f"    {state} --> {after}: {move}" for state in sorted(before)]
    lines += [f"    {state} --> [*]" for state in sorted(ends)]
    return "\n".join([*lines, "```"])


def _lifecycle_page() -> str:
    return _page(
        "Lifecycle",
        "Every change of a plan's or a step's state is one of these named moves. A move from any other state is "
        "refused: by `orchestrator/domain/lifecycle.py`, and again by the `WHERE` of the query that writes it.",
        "## Steps",
        _moves(lifecycle.STEP_MOVES),
        _diagram(lifecycle.STEP_MOVES, ["ready"], lifecycle.STEP_ENDS),
        f"Terminal: {_codes(sorted(lifecycle.STEP_ENDS))}.",
        "## Plans",
        _moves(lifecycle.PLAN_MOVES),
        _diagram(lifecycle.PLAN_MOVES, ["queued"], lifecycle.PLAN_ENDS),
        f"Terminal: {_codes(sorted(lifecycle.PLAN_ENDS))}. Steps may begin while the plan is "
        f"{_codes(sorted(lifecycle.ALIVE))}.",
    )


def _depth_page() -> str:
    names = tuple(ooda.DepthProfile.__dataclass_fields__)
    rows = [(depth, *(getattr(profile, name) for name in names)) for depth, profile in ooda.DEPTH.items()]
    said = " ".join((inspect.getdoc(ooda.DepthProfile) or "").split())
    drawing = re.search(r"\n\n(    route.*?)\n\n", ooda.__doc__ or "", re.DOTALL)
    return _page(
        "Depth",
        said,
        _table(("depth", *names), rows),
        "What follows what:",
        f"```text\n{inspect.cleandoc(drawing[1]) if drawing else ''}\n```",
    )


# --- what is written --------------------------------------------------------------------------------------------


def _written(method: str) -> Mapping[str, tuple[str, ...]]:
    """Each kind that the conductor writes with `desk.event` or `desk.audit`, and the fields of its body."""
    tree = ast.parse((ROOT / "orchestrator" / "conductor.py").read_text(encoding="utf-8"))
    found: dict[str, dict[str, None]] = {}
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        for call in (n for n in ast.walk(function) if isinstance(n, ast.Call)):
            named = isinstance(call.func, ast.Attribute) and call.func.attr == method and len(call.args) == 2
            if named and isinstance(call.args[0], ast.Constant):
                fields = found.setdefault(str(call.args[0].value), {})
                fields.update(dict.fromkeys(_fields(call.args[1], function)))
            for told in (k.value for k in call.keywords if k.arg == "told" and method == "event"):
                found["step.succeeded"] = dict.fromkeys(_fields(told, function))
    if method == "event":
        found["plan.started"] = {}  # written by the query that claims its first step
    return {kind: tuple(fields) for kind, fields in sorted(found.items())}


def _fields(body: ast.expr, function: ast.FunctionDef) -> Iterator[str]:
    """The keys of a dictionary as it is written down, through the variables of its function."""
    if isinstance(body, ast.Dict):
        for key, value in zip(body.keys, body.values, strict=True):
            if isinstance(key, ast.Constant):
                yield str(key.value)
            elif key is None:
                yield from _fields(value, function)
    elif isinstance(body, ast.Call) and isinstance(body.func, ast.Name) and body.func.id == "_named":
        yield from ("step", "agent", "round")
    elif isinstance(body, ast.Name):
        for node in ast.walk(function):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            here = any(isinstance(t, ast.Name) and t.id == body.id for t in targets)
            if (
                isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
                and here
                and node.value is not None
            ):
                yield from _fields(node.value, function)


def _explained(written: Mapping[str, Sequence[str]], meanings: Mapping[str, str]) -> str:
    if set(written) != set(meanings):
        odd = sorted(set(written) ^ set(meanings))
        raise SystemExit(
            f"scripts/reference.py explains other kinds than the conductor writes: {', '.join(odd)}."
        )
    rows = [(_code(kind), meanings[kind], _codes(fields)) for kind, fields in written.items()]
    return _table(("kind", "what happened", "fields"), rows)


def _event_page() -> str:
    return _page(
        "Events and audit records",
        "## Events",
        "Events are numbered per plan, from 1 and without gaps, and are written in the transaction that does what "
        "they tell. `orchestrator plans watch PLAN --json` prints them.",
        _explained(_written("event"), EVENTS),
        "## Audit records",
        "Audit records form one sealed chain per plan. Each has the field `at` besides. Goals, documents and arguments "
        "are in them as digests; reasons, comments and error messages as they were given. "
        "`orchestrator audit show PLAN` prints them, `orchestrator audit verify` checks the seals.",
        _explained(_written("audit"), RECORDS),
    )


def _metric_page() -> str:
    rows = [[_code(name), said] for name, said in sorted(telemetry.METRICS.items())]
    return _page(
        "Metrics",
        "`/metrics` of the API tells Prometheus what is in the database, which any replica says alike, and what its process "
        "counted (`policy` and `webhook`). A worker, relay or sweeper tells what it counted where `metrics_listen` says. No "
        "metric is labelled with an id.",
        _table(("metric", "meaning"), rows),
    )


def _log_page() -> str:
    rows = [(_code(event), said) for event, said in telemetry.EVENTS.items()]
    return _page(
        "Log events",
        "The log goes to standard error, one line for each thing that happened: JSON, or columns on a terminal. "
        "Facts are fields. Within a step every line carries `plan_id`, `step`, `claim` and `agent`. No line holds a "
        "goal, a prompt, a document or a secret.",
        _table(("event", "what happened"), rows),
    )


# --- errors -----------------------------------------------------------------------------------------------------


def _tree(
    error: type[errors.OrchestratorError], depth: int = 0
) -> Iterator[tuple[int, type[errors.OrchestratorError]]]:
    yield depth, error
    for child in error.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child, depth + 1)


def _error_page() -> str:
    from workers.cli import exits  # a part of the command line, which may be read without it

    rows = [
        (
            f"{'· ' * depth}`{error.__name__}`",
            _code(error.code),
            exits.code_of(_bare(error)),
            _first_line(error),
        )
        for depth, error in _tree(errors.OrchestratorError)
    ]
    return _page(
        "Errors and exit codes",
        "## Errors",
        "What the program raises on purpose. The code is stable; the message is a sentence for whoever can act on it.",
        _table(("error", "code", "exit code", "what happened"), rows),
        "## Exit codes",
        _table(("exit code", "meaning"), exits.MEANINGS.items()),
    )


def _bare(error: type[errors.OrchestratorError]) -> errors.OrchestratorError:
    """An instance without its arguments: only its class is looked at."""
    return error.__new__(error)


# --- tools and agents -------------------------------------------------------------------------------------------


def _tool_page() -> str:
    found = registry.load(ROOT / "configs" / "tool_registry.yaml")
    tools = [
        (
            _code(t.name),
            t.server,
            _code(t.capability),
            t.semantics,
            f"{t.timeout_s:g}",
            t.cost_uusd,
            "yes" if t.exclusive else "no",
        )
        for t in found.tools.values()
    ]
    servers = [
        (
            _code(s.name),
            "comes with the product" if s.builtin else _code(" ".join(s.command)),
            _codes(s.env) or "none",
        )
        for s in found.servers.values()
    ]
    return _page(
        "Tools and servers",
        "From `configs/tool_registry.yaml`. The capability, the semantics and the price are the registry's word; what "
        "a server says about its own tools decides nothing.",
        "## Tools",
        _table(
            ("tool", "server", "capability", "semantics", "timeout (s)", "cost (µUSD)", "one at a time"),
            tools,
        ),
        "## Servers",
        _table(("server", "how it is started", "environment variables named for it"), servers),
    )


def _agent_page() -> str:
    found = profiles.load(ROOT / "agents")
    rows = [
        (
            _code(p.name),
            Agent(p.name).phase if p.name in set(Agent) else "",
            p.role,
            _codes(p.capabilities) or "none",
            ", ".join(f"`{c}` {how}" for c, how in p.approval_policy.items()) or "none",
        )
        for p in found.values()
    ]
    return _page(
        "Agents and capabilities",
        "From the profiles `agents/*.md`. The gate reads an agent's rights from its profile at start-up.",
        "## Agents",
        _table(("agent", "phase", "role", "capabilities", "handling"), rows),
        "## Capabilities",
        "A profile may name these and no others: " + _codes(sorted(profiles.KNOWN_CAPABILITIES)) + ".",
        "`repo.write` and `network.egress` need a person's approval whatever a profile says.",
    )


# --- the command line -------------------------------------------------------------------------------------------


def _cli_page() -> str | None:
    if not (ROOT / "workers" / "cli" / "__init__.py").exists():
        return None
    import typer  # only the command line needs it

    program = typer.main.get_command(importlib.import_module("workers.cli").app)
    verbs = list(_verbs(program, ()))
    rows = [
        (f"[`orchestrator {' '.join(path)}`](#{_anchor('orchestrator ' + ' '.join(path))})", _summary(verb))
        for path, verb in verbs
    ]
    return _page(
        "Command line",
        "`-h` or `--help` after any verb prints the same. Results go to standard output, everything said to a person "
        "to standard error. The exit codes are listed under [errors](errors.md#exit-codes).",
        _table(("verb", "what it does"), rows),
        *(_verb(path, verb) for path, verb in verbs),
    )


def _verbs(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from _verbs(child, (*path, name))


def _summary(verb: Any) -> str:
    return inspect.cleandoc(verb.help or "").split("\n\n", 1)[0]


def _verb(path: Sequence[str], verb: Any) -> str:
    arguments = [p for p in verb.params if p.param_type_name == "argument"]
    options = [p for p in verb.params if p.param_type_name == "option" and not p.hidden and p.name != "help"]
    title = f"orchestrator {' '.join(path)}"
    names = " ".join(str(a.metavar or a.name).upper() for a in arguments)
    usage = " ".join(part for part in (title, names, "[OPTIONS]" if options else "") if part)
    parts = [f"## {title}", f"```text\n{usage}\n```", inspect.cleandoc(verb.help or "")]
    rows = [(_code(a.metavar or a.name), _said(a)) for a in arguments]
    rows += [(_spelt(o), _said(o)) for o in options]
    return "\n\n".join([*parts, _table(("given", "what it is"), rows)] if rows else parts)


def _spelt(option: Any) -> str:
    names = [*option.opts, *option.secondary_opts]
    value = "" if option.is_flag else f" {option.metavar or _choices(option) or 'TEXT'}"
    return ", ".join(_code(name + value) for name in names)


def _choices(option: Any) -> str:
    """The words that an option takes, if it takes only some; typer's releases keep them in different places."""
    listed = getattr(getattr(option, "type", None), "choices", None)
    kind = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    if listed is None and isinstance(kind, type) and issubclass(kind, Enum):
        listed = list(kind)
    return "|".join(str(getattr(choice, "value", choice)) for choice in listed or ())


def _said(parameter: Any) -> str:
    said = parameter.help or ""
    default = parameter.default
    plain = isinstance(default, str | int | float | Path) and not isinstance(default, bool) and default != ""
    shown = (
        parameter.param_type_name == "option"
        and plain
        and getattr(parameter, "show_default", False) is not False
    )
    if shown and "default" not in said.lower():
        said += f" Default: {getattr(default, 'value', default)}."
    return (
        f"{said} Required.".strip() if parameter.required and parameter.param_type_name == "option" else said
    )


# --- HTTP -------------------------------------------------------------------------------------------------------


def _http_page() -> str:
    document = api.build(_nothing_opened()).openapi()
    rows, errors_of = [], []
    for path, verbs in document["paths"].items():
        for verb, said in verbs.items():
            takes = [p["name"] for p in said.get("parameters", ()) if p["in"] != "path"]
            answers = [status for status in said["responses"] if int(status) < 400]
            refuses = sorted(
                set(map(int, said["responses"])) - set(map(int, answers)) - set(problems.ANYWHERE)
            )
            route = f"{verb.upper()} {path}"
            rows.append((_code(route), said["description"].split("\n", 1)[0], _codes(takes), _codes(answers)))
            errors_of.append((route, refuses))
    forms = [
        (_code(name), _codes(form["properties"]), _codes(form.get("required", ())))
        for name, form in document["components"]["schemas"].items()
        if name.endswith("Form")
    ]
    named = [(_code(route), _codes(refuses)) for route, refuses in errors_of if refuses]
    return _page(
        "HTTP",
        "`orchestrator serve api` serves these; `/openapi.json` describes them to programs, and `/docs` to people.",
        "## Routes",
        _table(("route", "what it does", "parameters and headers", "answers"), rows),
        "## Bodies",
        "JSON, at most 1 MiB. A field that is not known is refused, and nothing is converted: `false` is no number.",
        _table(("body", "fields", "required"), forms),
        "## Errors",
        "`application/problem+json` with `type`, `title`, `status`, `detail`, `instance`, `code` and `trace_id`. "
        f"Any route may answer {_codes(problems.ANYWHERE)}; these also:",
        _table(("route", "status"), named),
        "The codes of the [errors of this program](errors.md) are the same here. Its statuses:",
        _table(
            ("error", "status"),
            [
                (f"{'· ' * depth}`{error.code}`", problems.status_of(_bare(error)))
                for depth, error in _tree(errors.OrchestratorError)
            ],
        ),
    )


def _nothing_opened() -> Any:
    """In place of a core: describing the routes opens nothing."""
    return None


# --- the database -----------------------------------------------------------------------------------------------


def _database_page() -> str | None:
    golden = ROOT / "migrations" / "schema.sql"
    if not golden.exists():
        return None
    rows = []
    for name, body in re.findall(
        r"^CREATE TABLE (\w+) \(\n(.*?)^\)", golden.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        lines = [line.strip().rstrip(",") for line in body.splitlines()]
        columns = [line.split()[0] for line in lines if not line.startswith("CONSTRAINT")]
        key = next((k[1] for line in lines if (k := re.search(r"PRIMARY KEY \((.*?)\)", line))), "")
        rules = sum(" CHECK " in line for line in lines)
        rows.append((_code(name), _code(key), rules, _codes(columns)))
    return _page(
        "Database",
        "`migrations/versions/` makes the schema; [`migrations/schema.sql`](../../migrations/schema.sql) shows what "
        "comes of it, with every rule and index, and a test compares the two. The queries have "
        "[a page of their own](queries.md).",
        _table(("table", "key", "rules", "columns"), rows),
    )


def _query_page() -> str:
    text = (ROOT / "orchestrator" / "queries.sql").read_text(encoding="utf-8")
    rows = [
        (_code(name), said) for name, said in re.findall(r"^-- name: (\w+)\n-- (.*)$", text, re.MULTILINE)
    ]
    return _page(
        "Queries",
        "Every statement that the store sends to Postgres, by its name in `orchestrator/queries.sql`.",
        _table(("query", "what it does"), rows),
    )


# --- all pages --------------------------------------------------------------------------------------------------

PAGES: Final[Mapping[str, tuple[str, Callable[[], str | None]]]] = {
    "cli.md": ("every verb and option", _cli_page),
    "http.md": ("every route, its bodies and its errors", _http_page),
    "settings.md": ("every setting, its default and its unit", _settings_page),
    "errors.md": ("error codes and exit codes", _error_page),
    "lifecycle.md": ("the states of plans and steps, and every move", _lifecycle_page),
    "depth.md": ("what depth 1 to 5 means, and what follows what", _depth_page),
    "events.md": ("what is written about a plan: events and audit records", _event_page),
    "log-events.md": ("what the program says about itself", _log_page),
    "metrics.md": ("what Prometheus is told", _metric_page),
    "tools.md": ("tools and the servers that carry them", _tool_page),
    "agents.md": ("agents, their rights, and all capabilities", _agent_page),
    "database.md": ("tables, keys and rules", _database_page),
    "queries.md": ("every query by name", _query_page),
}


def pages() -> Mapping[str, str]:
    """Return the text of every page by its file name."""
    made = {name: text for name, (_, make) in PAGES.items() if (text := make()) is not None}
    listed = "\n".join(
        f"- [{text[2 : text.index(chr(10))]}]({name}): {PAGES[name][0]}" for name, text in made.items()
    )
    return {
        "README.md": _page(
            "Reference", "Written from the code; `make check` fails when a page is stale.", listed
        ),
        **made,
    }


def stale(folder: Path = FOLDER) -> list[str]:
    """Return a line for each page that is not what the code says, with the first difference."""
    wanted = pages()
    found = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}
    lines = [f"docs/reference/{name}: no code stands behind it" for name in found.keys() - wanted.keys()]
    for name, text in wanted.items():
        if name not in found:
            lines.append(f"docs/reference/{name}: missing")
        elif found[name] != text:
            lines.append(f"docs/reference/{name}: {_difference(found[name], text)}")
    return sorted(lines)


def _difference(old: str, new: str) -> str:
    changed = [
        line
        for line in difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
        if line[:1] in "+-" and line[:3] not in {"+++", "---"}
    ]
    removed = sum(line.startswith("-") for line in changed)
    shown = "\n".join(f"    {line[:160]}" for line in changed[:6])
    return f"lines gone: {removed}, new: {len(changed) - removed}\n{shown}"


def main() -> int:
    """Write the pages, or say which are stale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is stale")
    if parser.parse_args().check:
        lines = stale()
        for line in lines:
            print(line)
        if lines:
            print("Run `make docs` and look at what changed.")
        return 1 if lines else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"Wrote {len(wanted)} pages to docs/reference.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
