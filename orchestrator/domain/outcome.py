"""What a step returned: a closed union, opened by `match`.

| outcome     | the step is then            | because                                        |
|-------------|-----------------------------|------------------------------------------------|
| `Completed` | succeeded                   | its mind reached a verdict                     |
| `Snoozed`   | ready again, later          | it is too early; this costs no attempt         |
| `Held`      | waiting_approval            | a human must decide; this costs no attempt     |
| `Faulted`   | retrying, or dead           | something broke; dead when attempts are used up|
| `Refused`   | rejected                    | policy said no, which trying again cannot mend |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.domain.plan import Fact, Json


@dataclass(frozen=True, slots=True)
class Completed:
    """The step's mind reached a verdict; `follow_ups` are briefs for what it suggests comes next.

    A `plan` goes into the audit, word for word, and into the result.
    """

    verdict: str
    follow_ups: Sequence[Mapping[str, Json]] = ()
    result: Mapping[str, Json] = field(default_factory=dict)
    facts: Sequence[Fact] = ()
    report: Mapping[str, Json] | None = None
    plan: Mapping[str, Json] | None = None
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Snoozed:
    """It is too early; come back in `delay_s` seconds."""

    delay_s: float
    reason: str = "not yet"


@dataclass(frozen=True, slots=True)
class Held:
    """A human must decide before the step can go on."""

    category: str
    question: str
    args_digest: str
    roles: tuple[str, ...] = ("approver",)


@dataclass(frozen=True, slots=True)
class Faulted:
    """Something broke: `reason` is a constant code, `detail` a sentence; `retryable` says whether time may help."""

    reason: str
    detail: str
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """Policy said no."""

    reason: str
    detail: str


Outcome: TypeAlias = Completed | Snoozed | Held | Faulted | Refused
