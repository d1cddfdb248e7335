"""What the program's exit codes mean; scripts may rely on them.

0    fine; a goal that the sources do not answer is also an answer
1    the plan did not succeed, or a verification failed
2    bad usage, bad input, or a setting that must be changed
3    there is no such thing
4    it exists, but not in a state that allows this; or you may not
5    a service that is needed does not answer
6    the plan ended with a report that needs review: none of its drafts was accepted
70   a fault in this program
130  interrupted (143: terminated)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.domain.errors import (
    Conflict,
    Forbidden,
    Invalid,
    Misconfigured,
    NotFound,
    OrchestratorError,
    Unavailable,
)

FINE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
CONFLICT: Final = 4
UNAVAILABLE: Final = 5
NEEDS_REVIEW: Final = 6
FAULT: Final = 70
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
TERMINATED: Final = 143

MEANINGS: Final[Mapping[int, str]] = {
    FINE: "fine; a goal that the sources do not answer is also an answer",
    FAILED: "the plan did not succeed, or a verification failed",
    USAGE: "bad usage, bad input, or a setting that must be changed",
    NOT_FOUND: "there is no such thing",
    CONFLICT: "it exists, but not in a state that allows this; or you may not",
    UNAVAILABLE: "a service that is needed does not answer",
    NEEDS_REVIEW: "the plan ended with a report that needs review: none of its drafts was accepted",
    FAULT: "a fault in this program",
    INTERRUPTED: "interrupted (143: terminated)",
}

_CODES: Final[Mapping[type[OrchestratorError], int]] = {
    Invalid: USAGE,
    Misconfigured: USAGE,
    NotFound: NOT_FOUND,
    Conflict: CONFLICT,
    Forbidden: CONFLICT,
    Unavailable: UNAVAILABLE,
}


class Terminated(BaseException):
    """SIGTERM came. Like an interruption from the keyboard, it is nobody's fault and passes every `except`."""


class Ended(Exception):
    """The verb has said all there is to say; the program ends with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def code_of(error: OrchestratorError) -> int:
    """Return the code that an error ends the program with."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), FAULT)
