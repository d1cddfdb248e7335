"""What a provider is asked, what it answers, and in which ways it may fail to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

TEXT_LIMIT: Final = 200_000
"""Characters of an answer that are still an answer."""

UNAVAILABLE: Final = "model_unavailable"
RATE_LIMITED: Final = "model_rate_limited"
UNAUTHORISED: Final = "model_unauthorised"
REJECTED: Final = "model_rejected"
REFUSED: Final = "model_refused"
CUT: Final = "model_cut"
MALFORMED: Final = "model_malformed"
UNRECORDED: Final = "model_unrecorded"
ABSENT: Final = "model_absent"

FAULTS: Final = frozenset(
    {UNAVAILABLE, RATE_LIMITED, UNAUTHORISED, REJECTED, REFUSED, CUT, MALFORMED, UNRECORDED, ABSENT}
)
"""Why a model did not answer; whoever comes next in the order is asked instead."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a request took; `cached` and `written` are the parts of `came` that a cache gave or kept."""

    came: int = 0
    went: int = 0
    cached: int = 0
    written: int = 0


NOTHING: Final = Usage()


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation to go on with.

    `schema` is what the answer must look like, if it must; `key` is the same for every repeat of this request; an
    answer that takes more than `within_s` seconds, with all that was tried again, is not waited for.
    """

    messages: Sequence[Mapping[str, str]]
    as_json: bool = True
    schema: Mapping[str, Any] | None = None
    temperature: float = 0.0
    key: str = ""
    within_s: float = 100.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, who it says that it is, and what it took: `None` where it does not say."""

    text: str
    model: str
    usage: Usage | None


class Failed(Exception):
    """There is no answer: `fault` is a constant code, `detail` a sentence without addresses, keys or answers.

    `usage` is what it took all the same, and `None` where nobody knows.
    """

    def __init__(self, fault: str, detail: str, usage: Usage | None = None) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail
        self.usage = usage


class Provider(Protocol):
    """One model, by whatever protocol it is reached."""

    def complete(self, asked: Asked) -> Answer:
        """Return the answer, or raise `Failed`."""
        ...


def storable(text: str) -> str:
    """Return a text as Postgres takes it: without NUL, and without halves of characters."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


def said(text: object, usage: Usage | None) -> str:
    """Return what a model said as it can be kept; raises `Failed` for what is no text."""
    if not isinstance(text, str) or len(text) > TEXT_LIMIT:
        raise Failed(REFUSED, "The model refused or gave no text.", usage)
    return storable(text)


def counted(*numbers: object) -> bool:
    """Whether these are numbers of tokens that can be meant."""
    return all(type(n) is int and 0 <= n < 2**53 for n in numbers)
