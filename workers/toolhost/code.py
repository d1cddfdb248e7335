"""Offers the sandbox as an MCP server: runs a script over given inputs, and returns what it printed with what made it.

    code_run(script, inputs)   what the script printed, then the script, its inputs and their digests
    code_libraries()           what a script may import besides the standard library

The inputs are files in /in: a name that ends in `.json` holds its value as JSON, any other its text as it is. The same
script over the same inputs prints the same: there is no network, hashes and `random` begin with the seed 0, and other
generators must be given one. A script that does not end well is an error, so that nothing of it can be quoted.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from orchestrator.domain.plan import digest
from workers.toolhost.sandbox import Limits, Ran, Sandbox, SandboxUnavailable, Verdict
from workers.toolhost.statements import Statements

LONGEST_SCRIPT: Final = 20_000
"""Characters of a script."""

MOST_INPUTS: Final = 20

SHOWN_BYTES: Final = 4_000
"""What of each input is shown beside what was computed from it; the journal of the plan has the whole of it."""

PARTING: Final = "How this was computed:"
"""The line between what a script printed and what made it."""

_RUNS: Final = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_TASK: Final = "task.py"
_BEGIN: Final = f"""
import random, runpy
random.seed(0)
runpy.run_path("/in/{_TASK}", run_name="__main__")
"""
_LIBRARIES: Final = """
import importlib.metadata, platform
print("python =", platform.python_version())
for name in ("numpy", "pandas", "scipy", "scikit-learn", "statsmodels"):
    try:
        print(name, "=", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(name, "= not installed")
"""
_ENDED: Final = {
    "failed": "The script failed",
    "out_of_time": "The script took too long",
    "out_of_cpu": "The script computed for too long",
    "flooded": "The script printed or wrote too much",
}


class Computed(Statements):
    """What a script printed, and what made it; the first `printed` characters of the text are its own."""

    printed: int
    script_sha256: str
    inputs_sha256: dict[str, str]


def build(sandbox: Sandbox, verdict: Callable[[], Verdict], *, limits: Limits | None = None) -> MCPServer:
    """Return a server that runs scripts in a sandbox, once its `verdict` is that it holds."""
    limits = limits or Limits()
    server = MCPServer(
        name="code",
        title="Code",
        instructions="Run Python over inputs in /in; print one statement a line, with its unit and its sources.",
        log_level="WARNING",
    )

    @server.tool(title="Run a script", annotations=_RUNS)
    def code_run(
        script: Annotated[str, Field(description="A Python script that prints what it finds, one a line.")],
        inputs: Annotated[
            dict[str, Any] | None,
            Field(description="Files for it by name: `facts.json` holds any JSON, `table.csv` text."),
        ] = None,
        title: Annotated[str, Field(max_length=200)] = "Computed by a script",
    ) -> Computed:
        """Run a script where it reaches no network, no secret and no file but its inputs; return what it printed."""
        _check(script)
        files = _files(inputs or {})
        ran = _ran(sandbox, verdict, {**files, _TASK: script.encode()}, limits)
        return _computed(script, files, ran.stdout, title)

    @server.tool(title="Tell what a script may import", annotations=_RUNS)
    def code_libraries() -> Statements:
        """Return the version of Python and of each library for analyses, as a script would find them."""
        ran = _ran(sandbox, verdict, {_TASK: _LIBRARIES.encode()}, limits)
        return Statements(text=ran.stdout.strip(), locator="code:libraries", title="What a script may import")

    return server


def _check(script: str) -> None:
    if not script.strip() or len(script) > LONGEST_SCRIPT:
        raise ToolError(f"A script has 1 to {LONGEST_SCRIPT:,} characters.")
    try:
        script.encode()
        ast.parse(script)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ToolError(f"The script is not Python: {error}.") from error


def _files(inputs: Mapping[str, Any]) -> dict[str, bytes]:
    if len(inputs) > MOST_INPUTS:
        raise ToolError(f"A script has at most {MOST_INPUTS} inputs.")
    return {name: _body(name, value) for name, value in sorted(inputs.items())}


def _body(name: str, value: Any) -> bytes:
    if name == _TASK:
        raise ToolError(f"{_TASK} is the script itself, and no name for an input.")
    if name.endswith(".json"):
        return json.dumps(value, ensure_ascii=False, sort_keys=True).encode(errors="replace")
    if not isinstance(value, str):
        raise ToolError(f"The input {name} must be text; end its name in .json for anything else.")
    return value.encode(errors="replace")


def _ran(sandbox: Sandbox, verdict: Callable[[], Verdict], files: Mapping[str, bytes], limits: Limits) -> Ran:
    found = verdict()
    if not found.enforced:
        raise ToolError(f"code.exec is withheld: {found.reason} {found.todo}".strip())
    try:
        ran = sandbox.run(_BEGIN, files, limits)
    except ValueError as error:
        raise ToolError(f"The script cannot be run: {error}.") from error
    except SandboxUnavailable as error:
        raise ToolError(f"No script can be run here now: {error}") from error
    if ran.ended != "finished":
        said = ran.stderr.strip()[-1500:]
        raise ToolError(f"{_ENDED[ran.ended]}. {said}".strip())
    return ran


def _computed(script: str, files: Mapping[str, bytes], stdout: str, title: str) -> Computed:
    printed = _printable(stdout).strip("\n")
    if not printed.strip():
        raise ToolError("The script printed nothing.")
    hashes = {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}
    of_script = hashlib.sha256(script.encode()).hexdigest()
    return Computed(
        text="\n".join([printed, "", PARTING, *_made_of(script, of_script, files, hashes)]),
        locator=f"computed:{digest([script, hashes])}",
        title=title,
        printed=len(printed),
        script_sha256=of_script,
        inputs_sha256=hashes,
    )


def _made_of(
    script: str, of_script: str, files: Mapping[str, bytes], hashes: Mapping[str, str]
) -> Iterator[str]:
    yield f"script, sha256 {of_script}:"
    yield from (f"    {line}" for line in _printable(script).splitlines())
    for name, sha256 in hashes.items():
        yield f"input {name}, {len(files[name]):,} bytes, sha256 {sha256}:"
        shown = files[name][:SHOWN_BYTES].decode(errors="replace")
        yield from (f"    {line}" for line in _printable(shown).splitlines())
        if len(files[name]) > SHOWN_BYTES:
            yield "    and so on; the whole of it is in the journal of the plan"


def _printable(text: str) -> str:
    """The text without what a database cannot keep or a terminal would obey."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in text.replace("\r\n", "\n"))
