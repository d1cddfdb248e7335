"""Finds in Rego what engines read differently, and what lets a denial be skipped, before a policy is trusted.

Each trap was seen: a function that one engine lacks is silently undefined, the negation of it is true in one engine and
undefined in another, and a sentence as a reason carries the question's text to wherever reasons are shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workers.gate import policy

TRAPS: Final[Mapping[str, str]] = {
    "builtin": "a function on which engines differ, or which one of them lacks",
    "regex": "a regular expression: one engine backtracks for minutes, and cannot be interrupted",
    "clock": "the time: give it in the input, where it is recorded",
    "network": "the network: classify addresses before asking, and give what they are in the input",
    "runtime": "the environment of the process, secrets and all",
    "text": "text that is put together: one engine breaks its own quoting",
    "chance": "chance: the same question must be decided alike",
    "negation": "`not`: undefined in one engine and true in another where what it negates is undefined",
    "replaced_input": "`with`, which only a test may use",
    "variable_reason": "a reason that is no constant",
    "open_default": "a default that allows",
    "no_default": "no `default allow := false`: it is undefined where no rule holds",
    "old_syntax": "no `import rego.v1`: engines read the older language differently",
}
"""What is looked for, and why it is a trap."""

_KINDS: Final = (
    ("regex", re.compile(r"regex\.|re_match$|glob\.")),
    ("clock", re.compile(r"time\.")),
    ("network", re.compile(r"net\.|http\.send$")),
    ("runtime", re.compile(r"opa\.runtime$")),
    ("text", re.compile(r"sprintf$|strings\.render_template$")),
    ("chance", re.compile(r"rand\.|uuid\.")),
)
_REASON: Final = re.compile(r'"reason"\s*:\s*(?!")(?=\S)')
_NOT: Final = re.compile(r"(?<![\w.])not(?=[\s(])")
_WITH: Final = re.compile(r"(?<![\w.])with(?=\s)")
_OPEN: Final = re.compile(r"^default[ \t]+allow[ \t]*(?::=|=)(?![ \t]*false\b)", re.MULTILINE)
_CLOSED: Final = re.compile(r"^default[ \t]+allow[ \t]*(?::=|=)[ \t]*false\b", re.MULTILINE)
_V1: Final = re.compile(r"^import[ \t]+rego\.v1\b", re.MULTILINE)


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A trap, and where it is: a file below the folder, and a line from 1."""

    file: str
    line: int
    trap: str
    said: str


def lint(policy_dir: Path) -> list[Finding]:
    """Return the traps in a folder's policies (tests aside) by file and line."""
    paths = [p for p in sorted(policy_dir.rglob("*.rego")) if not p.name.endswith("_test.rego")]
    sources = {p.relative_to(policy_dir).as_posix(): p.read_text(encoding="utf-8") for p in paths}
    own = policy.defined(sources.values())
    return sorted(set().union(*(_findings(name, source, own) for name, source in sources.items())))


def _findings(name: str, source: str, own: frozenset[str]) -> Iterator[Finding]:
    def found(at: int, trap: str, what: str = "") -> Finding:
        said = f"{what}: {TRAPS[trap]}" if what else TRAPS[trap]
        return Finding(name, source.count("\n", 0, at) + 1, trap, said)

    code = policy.blanked(source)
    for at, call in policy.unproven_calls(code, own=own):
        yield found(at, next((kind for kind, known in _KINDS if known.match(call)), "builtin"), call)
    for negated in _NOT.finditer(code):
        yield found(negated.start(), "negation")
    for replaced in _WITH.finditer(code):
        yield found(replaced.start(), "replaced_input")
    for varied in _REASON.finditer(policy.blanked(source, text=False)):
        yield found(varied.start(), "variable_reason")
    for opened in _OPEN.finditer(code):
        yield found(opened.start(), "open_default")
    if re.search(r"^allow\b", code, re.MULTILINE) and not _CLOSED.search(code):
        yield found(0, "no_default")
    if code.strip() and not _V1.search(code):
        yield found(0, "old_syntax")
