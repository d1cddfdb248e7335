"""Decides whether something may happen: policy in, decision out, and every doubt is a denial.

    Question ──document──▶ guard before ──▶ engine (Rego) ──▶ guard after ──▶ Decision
                               │ denied        │ failed          │ failed
                               └───────────────┴─────────────────┴──────▶ Decision(effect="deny")

The guards exist because engines differ where it hurts: quoting, floats, clocks, regular expressions. The question
is reduced to plain text, integers and truth values before an engine sees it, raw arguments never enter it (only
their digest does), and an answer counts only if it is exactly of the expected shape.

A *denied* question stays denied however often it is asked. A *failed* one could not be answered: the call does not
happen, but asking again later may help. Nothing here raises towards a caller, except loading a policy.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, Protocol, TypeAlias

import regopy

from orchestrator.domain import identity
from orchestrator.domain.judgement import Effect, Judgement, Reason
from orchestrator.domain.plan import Json

ACTIONS: Final = identity.ACTIONS

CAPABILITIES: Final = "orchestrator.capabilities"
"""The package that decides calls of tools; no policy is loaded without it."""


MALFORMED = "input.well_formed"
"""What a question lacks that no policy is asked about: it is reported as a missing capability."""

REASONS = frozenset(
    {"missing_capability", "approval_required", "run_mode_mismatch", "agent_profile_missing"},
)
"""What may be said against a call by its capabilities, as in policies that were written for the first contract."""

OBJECTIONS = frozenset(
    {"stopped", "egress_denied", "tainted_way_out", "schema_changed", "quota_spent", "sandbox_unenforced"}
)
"""What may be said against it whatever capabilities are held; another package's reasons are any constant codes."""

BUILTINS = frozenset(
    {
        "array.concat",
        "concat",
        "count",
        "endswith",
        "is_array",
        "is_boolean",
        "is_null",
        "is_number",
        "is_object",
        "is_set",
        "is_string",
        "object.get",
        "sort",
        "startswith",
        "substring",
        "trim",
        "type_name",
    },
)
"""The built-in functions on which every supported engine agrees; a policy that calls another is not loaded."""


class PolicyLoadError(ValueError):
    """A policy folder cannot be trusted with decisions; the message says which file or row, and why."""


_NOTHING: Final = hashlib.sha256(b"").hexdigest()


class NoAnswerError(Exception):
    """There is no answer, or not in time. The message says why, to an operator; it never quotes the question."""


@dataclass(frozen=True, slots=True)
class Decision(Judgement):
    """A ruling, and enough besides to be written into the audit trail as it is.

    `detail` explains a malformed question or a failure to an operator; it never quotes the question.
    """

    input_digest: str
    engine: str
    duration_us: int
    detail: str = ""

    @property
    def well_formed(self) -> bool:
        """Whether the question was one that could be put to an engine."""
        return self.input_digest != _NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May this agent call this tool? Everything that a policy may know about a call, and nothing more.

    `required` are the capabilities that the call needs, `held` those that the agent's profile grants. Roles come
    from the verified identity behind the plan; bindings are the operator's. `args_digest` stands for the arguments.
    `narrowed_to` is all that the caller lets the agent do, whatever is held; `call` is what is known of this call.
    """

    agent: str
    tool: str
    server: str
    held: tuple[str, ...]
    required: tuple[str, ...]
    approval_policy: Mapping[str, str] = field(default_factory=dict)
    approvals: Mapping[str, bool] = field(default_factory=dict)
    run_mode: str
    required_run_mode: str = "any"
    tenant_id: str
    roles: tuple[str, ...] = ()
    role_bindings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tenant_role_bindings: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    action_type: str = "tool.call"
    plan_id: str
    step: int
    attempt: int
    depth: int
    cost_uusd: int = 0
    args_digest: str
    trace_id: str
    profile_known: bool
    narrowed_to: tuple[str, ...] | None = None
    call: Mapping[str, Json] | None = None

    def document(self) -> dict[str, Any]:
        """Return the input document: subject, action and context, as policies read them."""
        document = self._document()
        if self.narrowed_to is not None:
            document["subject"]["narrowed_to"] = list(self.narrowed_to)
        if self.call is not None:
            document["context"]["call"] = dict(self.call)
        return document

    def _document(self) -> dict[str, Any]:
        return {
            "subject": {
                "agent": self.agent,
                "tool": self.tool,
                "capabilities": list(self.held),
                "approvals": dict(self.approvals),
                "approval_policy": dict(self.approval_policy),
                "profile_known": self.profile_known,
                "run_mode": self.run_mode,
                "tenant_id": self.tenant_id,
                "roles": list(self.roles),
            },
            "action": {
                "type": self.action_type,
                "tool": self.tool,
                "server": self.server,
                "capabilities": list(self.required),
                "run_mode": self.required_run_mode,
                "plan_id": self.plan_id,
                "step_id": str(self.step),
                "args_digest": self.args_digest,
            },
            "context": {
                "trace_id": self.trace_id,
                "tenant_id": self.tenant_id,
                "roles": list(self.roles),
                "approvals": {},
                "capabilities": {
                    "role_bindings": {role: list(granted) for role, granted in self.role_bindings.items()},
                    "tenant_role_bindings": {
                        tenant: {role: list(granted) for role, granted in bindings.items()}
                        for tenant, bindings in self.tenant_role_bindings.items()
                    },
                },
                "plan": {"depth": self.depth, "attempt": self.attempt, "cost_uusd": self.cost_uusd},
            },
        }


class PolicyEnforcer(Protocol):
    """Whoever answers questions; the embedded and the remote engine give the same answers to the same policy."""

    @property
    def revision(self) -> str:
        """The revision of the policy that answers now."""
        ...

    def judge(self, question: Question) -> Decision:
        """Answer one question about a call. Never raises: what cannot be answered is denied, with `failed` set."""
        ...

    def decide(self, package: str, document: Mapping[str, Json]) -> Decision:
        """Ask one package of the policy about an input document. Never raises, as `judge` does not."""
        ...


Heard: TypeAlias = Callable[[str, object, Decision], None]
"""Is told each package that was asked, the document and the decision. It must not raise."""


class Enforcer:
    """Answers by one engine, guarded before and after. Safe to share between threads."""

    def __init__(self, engine: Engine, *, heard: Heard | None = None) -> None:
        self._engine = engine
        self._heard = heard

    @property
    def revision(self) -> str:
        """The revision of the policy that answers now; empty while a server has given no answer yet."""
        return self._engine.revision

    def judge(self, question: Question) -> Decision:
        """Answer one question about a call. Never raises: what cannot be answered is denied, with `failed` set."""
        return self._decided(CAPABILITIES, _rendered(question))

    def decide(self, package: str, document: Mapping[str, Json]) -> Decision:
        """Ask one package of the policy about an input document. Never raises, as `judge` does not."""
        return self._decided(package, document)

    def _decided(self, package: str, document: object) -> Decision:
        decision = judge(self._engine, package, document)
        if self._heard is not None:
            self._heard(package, document, decision)
        return decision


class EmbeddedEnforcer(Enforcer):
    """Answers in this process, from the Rego files of one folder.

    Loading compiles every `*.rego` file (tests aside) and puts each row of `tests/*.json` to the new engine; if one
    answer differs, the folder is refused with a `PolicyLoadError`. The revision is the first sixteen hex digits of the
    SHA-256 over the names and contents of the policy's files.
    """

    _engine: _EmbeddedEngine

    def __init__(self, policy_dir: Path, *, heard: Heard | None = None) -> None:
        super().__init__(_load(policy_dir), heard=heard)
        self._policy_dir = policy_dir
        self._reloading = threading.Lock()
        self._loaded_at = time.monotonic()
        self._last_error = ""

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that can be asked, by name."""
        return self._engine.packages

    @property
    def age_s(self) -> float:
        """How long ago the policy in force was loaded, in seconds."""
        return time.monotonic() - self._loaded_at

    @property
    def last_error(self) -> str:
        """Why the last reload was refused; empty if it was not."""
        return self._last_error

    def reload(self) -> str:
        """Read the folder again and return the new revision; the old policy stays in force if anything fails."""
        with self._reloading:
            try:
                engine = _load(self._policy_dir)
            except PolicyLoadError as error:
                self._last_error = str(error)
                raise
            self._engine, self._loaded_at, self._last_error = engine, time.monotonic(), ""
            return engine.revision


# --- one decision ----------------------------------------------------------------------------------------------------


class Said(NamedTuple):
    """What an engine said: `{"allow": ..., "deny": ...}` as JSON text, and the revision of the policy that said it."""

    text: str
    revision: str


class Engine(Protocol):
    """What evaluates a policy: JSON text in, JSON text out. Guarded by `judge`, it need not be careful itself."""

    @property
    def name(self) -> str:
        """What the audit trail calls this engine."""
        ...

    @property
    def revision(self) -> str:
        """The revision of the policy that this engine held when it was last known."""
        ...

    def ask(self, package: str, text: str) -> Said:
        """Return what a package says about an input document's JSON text; raises if there is no answer."""
        ...

    def forget(self) -> None:
        """Drop whatever a failed question may have left behind."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """An engine's answer, read strictly."""

    effect: Effect
    reasons: tuple[Reason, ...]


_NO = Answer("deny", ())
_MALFORMED = Answer("deny", (Reason("missing_capability", MALFORMED),))


def judge(engine: Engine, package: str, document: object) -> Decision:
    """Return what a package decides about an input document, guarded before and after. Never raises."""
    started = time.perf_counter_ns()
    text, revision, failed, detail = "", "", False, ""
    try:
        text = write_document(document)
        said, revision = engine.ask(package, text)
        answer = read_answer(said, reasons=_REASONS_OF.get(package))
    except MalformedQuestionError as error:
        answer, detail = _MALFORMED, str(error)
    except Exception as error:  # noqa: BLE001 - a door: whatever broke, the answer is no
        engine.forget()
        answer, failed, detail = _NO, True, _unanswered(error)
    return Decision(
        effect=answer.effect,
        reasons=answer.reasons,
        revision=revision or engine.revision,
        decision_id=uuid.uuid4().hex,
        input_digest=hashlib.sha256(text.encode()).hexdigest(),
        engine=engine.name,
        duration_us=(time.perf_counter_ns() - started) // 1000,
        failed=failed,
        detail=detail,
    )


def _unanswered(error: Exception) -> str:
    if isinstance(error, NoAnswerError):
        return str(error)
    return f"The policy engine gave no answer ({type(error).__name__})."


def _rendered(question: Question) -> object:
    try:
        return question.document()
    except Exception:  # noqa: BLE001 - a question that cannot even be written down is malformed
        return None


# --- guard before: what may be asked ----------------------------------------------------------------------------------

_PLAIN = re.compile(r"[A-Za-z0-9 ._:/@+*=,-]{0,512}")
_DEEPEST = 12
_LARGEST_BYTES = 32 * 1024
_MOST_VALUES = 512
_LARGEST_INT = 2**53


class MalformedQuestionError(ValueError):
    """A question holds something that engines could read differently, so that none is asked."""


def write_document(document: object) -> str:
    """Return the canonical JSON text of an input document that every engine reads alike.

    Raises `MalformedQuestionError` for anything else: text outside a small printable alphabet, floats, large
    integers, deep nesting, more than 512 values or 32 KB.
    """
    if not isinstance(document, dict):
        raise MalformedQuestionError("The input document must be an object.")
    _check(document, depth=1, budget=[_MOST_VALUES])
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    if len(text) > _LARGEST_BYTES:  # the alphabet is ASCII: letters are bytes
        raise MalformedQuestionError(f"The input document is larger than {_LARGEST_BYTES} bytes.")
    return text


def _check(value: object, *, depth: int, budget: list[int]) -> None:
    budget[0] -= 1
    if budget[0] < 0:
        raise MalformedQuestionError(f"The input document holds more than {_MOST_VALUES} values.")
    if depth > _DEEPEST:
        raise MalformedQuestionError(f"The input document is nested deeper than {_DEEPEST} levels.")
    # exact types: a subclass may compare, hash or print as it likes
    if value is None or type(value) is bool:
        return
    if type(value) is str:
        if not _PLAIN.fullmatch(value):
            raise MalformedQuestionError("The input document holds text outside the permitted alphabet.")
    elif type(value) is int:
        if abs(value) > _LARGEST_INT:
            raise MalformedQuestionError("The input document holds an integer beyond 2^53.")
    elif type(value) is list:
        for item in value:
            _check(item, depth=depth + 1, budget=budget)
    elif type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise MalformedQuestionError("The input document holds a key that is not text.")
            _check(key, depth=depth, budget=budget)
            _check(item, depth=depth + 1, budget=budget)
    else:
        raise MalformedQuestionError(f"The input document holds a {type(value).__name__}.")


# --- guard after: what counts as an answer ----------------------------------------------------------------------------


class UnreadableAnswerError(ValueError):
    """An engine gave an answer that is not exactly of the expected shape."""


def read_answer(text: str, *, reasons: frozenset[str] | None = REASONS) -> Answer:
    """Return the decision in `{"allow": bool, "deny": [{reason, capability}]}`, read strictly.

    Raises `UnreadableAnswerError` for duplicate keys, other keys, other types, reasons that are none of those known
    (or no constant code, where `reasons` is `None`), or an `allow` that disagrees with `deny`.
    """
    answer = read_json(text)
    if type(answer) is not dict or set(answer) != {"allow", "deny"}:
        raise UnreadableAnswerError("The answer must be an object of allow and deny.")
    allow, deny = answer["allow"], answer["deny"]
    if type(allow) is not bool or type(deny) is not list:
        raise UnreadableAnswerError("The answer's allow must be a truth value, and its deny a list.")
    found = tuple(sorted((_read_reason(item, reasons) for item in deny), key=_by_name))
    if allow is bool(found):
        raise UnreadableAnswerError("The answer's allow disagrees with its deny.")
    if allow:
        return Answer("allow", ())
    if all(reason.reason == "approval_required" for reason in found):
        return Answer("require_approval", found)
    return Answer("deny", found)


def _by_name(reason: Reason) -> tuple[str, str]:
    return reason.reason, reason.capability


_REASONS_OF: Final[Mapping[str, frozenset[str]]] = {CAPABILITIES: REASONS | OBJECTIONS}
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


def _read_reason(item: object, known: frozenset[str] | None) -> Reason:
    if type(item) is not dict or not {"reason"} <= set(item) <= {"reason", "capability"}:
        raise UnreadableAnswerError("A reason must be an object of reason and capability.")
    reason, capability = item["reason"], item.get("capability", "")
    if type(reason) is not str or not _CODE.fullmatch(reason) or (known is not None and reason not in known):
        raise UnreadableAnswerError("A reason must be one of the known ones, or a constant code.")
    if type(capability) is not str or not _PLAIN.fullmatch(capability):
        raise UnreadableAnswerError("A reason's capability must be plain text.")
    return Reason(reason, capability)


def read_json(text: str) -> Any:
    """Return what JSON text says; raises for a key said twice, and for numbers that are not whole."""

    def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise UnreadableAnswerError(f"The answer holds the key {key!r} twice.")
            found[key] = value
        return found

    def refuse(number: str) -> NoReturn:
        raise UnreadableAnswerError(f"The answer holds the number {number}.")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_float=refuse)


# --- the embedded engine ----------------------------------------------------------------------------------------------

_ENTRY = """
package orchestrator.enforcement.{package}

import rego.v1

answer := {{
    "allow": data.{package}.allow,
    "deny": [reason | some reason in data.{package}.deny],
}}
"""
# Allow and deny come from one evaluation, so that they cannot belong to different inputs.


class _EmbeddedEngine:
    """One compiled policy. Each thread has its own interpreter: two threads in one end the process."""

    name = "embedded"

    def __init__(self, modules: Mapping[str, str]) -> None:
        self.modules = dict(modules)
        self._mine = threading.local()
        self.packages = _packages(modules.values())
        self.revision = _revision(modules)

    def ask(self, package: str, text: str) -> Said:
        """Return what a package says about an input document's JSON text; raises if there is no answer."""
        if package not in self.packages:
            raise NoAnswerError("The policy has no such package.")
        interpreter, bundle = self._compiled()
        # as a term, never as an object: the object form does not escape quotes
        interpreter.set_input_term(text)
        output = interpreter.query_bundle_entrypoint(bundle, _entrypoint(package))
        if not output.ok():
            raise UnreadableAnswerError("The engine reported an error.")
        # the raw text, since the library's own reading keeps the last of two equal keys
        result = read_json(str(output))
        if type(result) is not dict or set(result) != {"expressions"}:
            raise UnreadableAnswerError("The engine's answer is undefined.")
        expressions = result["expressions"]
        if type(expressions) is not list or len(expressions) != 1:
            raise UnreadableAnswerError("The engine must give exactly one answer.")
        return Said(json.dumps(expressions[0]), self.revision)

    def forget(self) -> None:
        """Drop this thread's interpreter, so that a fault in it does not outlive one question."""
        self._mine.compiled = None

    def _compiled(self) -> tuple[Any, Any]:
        compiled: tuple[Any, Any] | None = getattr(self._mine, "compiled", None)
        if compiled is None:
            compiled = self._mine.compiled = self._compile()
        return compiled

    def _compile(self) -> tuple[Any, Any]:
        interpreter = regopy.Interpreter()
        interpreter.log_level = regopy.LogLevel.NONE
        for name, source in self.modules.items():
            interpreter.add_module(name, source)
        for package in self.packages:
            interpreter.add_module(f"enforcement/{package}", _ENTRY.format(package=package))
        bundle = interpreter.build(None, [_entrypoint(package) for package in self.packages])
        if not bundle.ok():
            raise UnreadableAnswerError("The policy does not compile.")
        return interpreter, bundle


def _entrypoint(package: str) -> str:
    return f"orchestrator/enforcement/{package.replace('.', '/')}/answer"


# --- loading: an engine is trusted only after it has passed its own table -------------------------------------------


def trial(policy_dir: Path, enforcer: Enforcer | None = None) -> Iterator[Trial]:
    """Put each row of a folder's tables to its own policy, or to an enforcer, and tell how it went.

    Raises `PolicyLoadError` if the folder cannot be read or its policy cannot be compiled.
    """
    asked = enforcer or Enforcer(_compiled(policy_dir))
    for path in _tables(policy_dir):
        for row in _read_rows(path):
            decision = asked.decide(row.package, row.document)
            fits = not decision.failed and (decision.allow, decision.reasons) == (row.allow, row.deny)
            yield Trial(path.name, row.name, row.package, fits, _told(decision), _expected(row), decision)


@dataclass(frozen=True, slots=True)
class Trial:
    """How one row of a table was decided, and how it should have been."""

    table: str
    row: str
    package: str
    fits: bool
    told: str
    expected: str
    decision: Decision


def _tables(policy_dir: Path) -> list[Path]:
    return sorted((policy_dir / "tests").glob("*.json"))


def _load(policy_dir: Path) -> _EmbeddedEngine:
    engine = _compiled(policy_dir)
    _self_test(engine, policy_dir)
    return engine


def _compiled(policy_dir: Path) -> _EmbeddedEngine:
    engine = _EmbeddedEngine(_read_modules(policy_dir))
    try:
        for package in engine.packages:
            engine.ask(package, "{}")
    except Exception as error:
        raise PolicyLoadError(
            f"The policy in {policy_dir} cannot be compiled or gives no answer: {_first_line(error)}",
        ) from error
    return engine


def _read_modules(policy_dir: Path) -> dict[str, str]:
    modules: dict[str, str] = {}
    for path in sorted(policy_dir.rglob("*.rego")):
        if path.name.endswith("_test.rego"):
            continue
        name = path.relative_to(policy_dir).as_posix()
        try:
            modules[name] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyLoadError(f"The policy file {path} cannot be read: {error}.") from error
    if not modules:
        raise PolicyLoadError(f"There is no policy file (*.rego) in {policy_dir}.")
    if CAPABILITIES not in _packages(modules.values()):
        raise PolicyLoadError(
            f"The policy in {policy_dir} has no package {CAPABILITIES} that says `allow` and `deny`."
        )
    own = defined(modules.values())
    for name, source in modules.items():
        _refuse_unproven_calls(name, source, own=own)
    return modules


def bundle(policy_dir: Path) -> bytes:
    """Return a policy folder as a bundle for an OPA server, which then says its revision in every answer.

    The same folder always gives the same bytes. Raises `PolicyLoadError` as loading it does.
    """
    engine = _load(policy_dir)
    roots = sorted(
        {name.split(".")[0] for source in engine.modules.values() for name in _PACKAGE.findall(source)[:1]}
    )
    manifest = json.dumps({"revision": engine.revision, "roots": roots, "rego_version": 1}, sort_keys=True)
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for name, text in ({".manifest": manifest} | engine.modules).items():
            content = text.encode()
            entry = tarfile.TarInfo(f"/{name}")
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _revision(modules: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(modules):
        for part in (name, modules[name]):
            digest.update(hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()[:16]


_PACKAGE = re.compile(r"^package[ \t]+([a-zA-Z_]\w*(?:\.[a-zA-Z_]\w*)*)[ \t]*$", re.MULTILINE)
_ALLOW = re.compile(r"^(?:default[ \t]+)?allow\b", re.MULTILINE)
_DENY = re.compile(r"^deny\b", re.MULTILINE)


def _packages(sources: Iterable[str]) -> tuple[str, ...]:
    """Return the packages that say both `allow` and `deny`, and so can be asked."""
    code: dict[str, str] = {}
    for source in sources:
        text = blanked(source)
        for name in _PACKAGE.findall(text)[:1]:
            code[name] = code.get(name, "") + "\n" + text
    return tuple(sorted(name for name, text in code.items() if _ALLOW.search(text) and _DENY.search(text)))


_CALL = re.compile(r"(?<![\w.\]])([a-zA-Z_]\w*(?:\.\w+)*)\(")
_HEAD = re.compile(r"^(?:default[ \t]+)?([a-zA-Z_]\w*)\(", re.MULTILINE)
_IMPORT = re.compile(r"^import[ \t]+(data\.[\w.]+)(?:[ \t]+as[ \t]+(\w+))?", re.MULTILINE)
_QUOTED_OR_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|`[^`]*`|#[^\n]*')
_KEYWORDS = frozenset({"if", "in", "not", "some", "every", "else", "contains", "with", "as"})


def blanked(source: str, *, text: bool = True) -> str:
    """Return Rego with its comments (and its quoted text) turned into spaces, so that each place stays where it is."""

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", found[0]) if text or found[0].startswith("#") else found[0]

    return _QUOTED_OR_COMMENT.sub(blank, source)


def unproven_calls(code: str, *, own: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Return where blanked code calls a function on which engines may disagree, or which one may lack."""
    imported = {alias or path.rsplit(".", 1)[-1] for path, alias in _IMPORT.findall(code)}
    for found in _CALL.finditer(code):
        first = found[1].split(".", 1)[0]
        if found[1] not in own | BUILTINS | _KEYWORDS and first not in imported | {"data"}:
            yield found.start(), found[1]


def defined(sources: Iterable[str]) -> frozenset[str]:
    """Return the functions that sources define themselves."""
    return frozenset(found for source in sources for found in _HEAD.findall(blanked(source)))


def _refuse_unproven_calls(name: str, source: str, *, own: frozenset[str]) -> None:
    """Raise `PolicyLoadError` for a call to a function on which engines may disagree, or which one may lack."""
    code = blanked(source)
    if re.search(r"\bwith\b", code):
        raise PolicyLoadError(
            f"The policy file {name} replaces its input by `with`, which only a test may do."
        )
    for _, call in unproven_calls(code, own=own):
        raise PolicyLoadError(
            f"The policy file {name} calls {call}, which is not one of the functions on which every engine agrees.",
        )


def _self_test(engine: _EmbeddedEngine, policy_dir: Path) -> None:
    """Put every row of the folder's tables to the engine; raise `PolicyLoadError` at the first that differs."""
    proven: set[tuple[str, bool]] = set()
    for tried in trial(policy_dir, Enforcer(engine)):
        if not tried.fits:
            raise PolicyLoadError(
                f"The policy in {policy_dir} decides the row {tried.row!r} of {tried.table} otherwise than expected:"
                f" {tried.told} instead of {tried.expected}.",
            )
        proven.add((tried.package, tried.decision.allow))
    for package in engine.packages:
        if not {(package, True), (package, False)} <= proven:
            raise PolicyLoadError(
                f"The policy in {policy_dir} proves nothing: its tests must hold a row that {package} allows and one"
                " that it does not.",
            )


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    package: str
    document: Mapping[str, Json]
    allow: bool
    deny: tuple[Reason, ...]


def _read_rows(path: Path) -> list[_Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise TypeError("it must be a list of rows")  # noqa: TRY301 - told like every other fault of a table
        return [_read_row(item) for item in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PolicyLoadError(f"The policy's table {path} cannot be read: {_first_line(error)}") from error


def _read_row(item: dict[str, Any]) -> _Row:
    reasons = (Reason(reason["reason"], reason["capability"]) for reason in item["deny"])
    package = str(item.get("package", CAPABILITIES))
    return _Row(
        str(item["name"]), package, item["input"], item["allow"] is True, tuple(sorted(reasons, key=_by_name))
    )


def _told(decision: Decision) -> str:
    if decision.failed:
        return "no answer"
    return _verdict(decision.allow, decision.reasons)


def _expected(row: _Row) -> str:
    return _verdict(row.allow, row.deny)


def _verdict(allow: bool, reasons: Iterable[Reason]) -> str:
    told = ", ".join(f"{reason.reason} {reason.capability}".strip() for reason in reasons)
    return "allow" if allow else f"deny ({told})"


_ENGINE_MESSAGE = re.compile(r"\(errormsg \d+:([^()\n]*)")


def _first_line(error: Exception) -> str:
    """Return what an operator can use of an error: the engine wraps its one sentence in a whole syntax tree."""
    text = str(error)
    found = _ENGINE_MESSAGE.search(text)
    lines = [found[1]] if found else text.splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".") + "."
