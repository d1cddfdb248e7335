"""Answers `plan.steps`: takes the step that a message names to its outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from orchestrator.conductor import Conductor
from orchestrator.domain.errors import NotFound, Unavailable
from orchestrator.domain.plan import StepRef
from orchestrator.messages import Malformed, Topic, parse
from orchestrator.telemetry import log

if TYPE_CHECKING:
    from workers.executor import (
        Executor,  # with it come the gate and all tools; `bury` serves those that have none
    )

PATIENCE_S: Final = 60.0
"""How long a message waits for Postgres before the sweeper is left to ring again."""

DETAIL: Final = 1_000
"""Characters of a message that its dead letter tells at most."""

_PAUSE_S: Final = 0.25


class StepConsumer:
    """Hands messages to an executor; what cannot be handled becomes a dead letter."""

    def __init__(self, conductor: Conductor, executor: Executor) -> None:
        self._conductor = conductor
        self._executor = executor

    def take(self, body: object, *, let_go: Callable[[], None] = lambda: None) -> None:
        """Look at the step that a message names. A repeat does nothing.

        `let_go` is called when the step goes on without its message; perhaps from another thread.
        """
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._take(body, let_go)
            except Unavailable:
                # let the message wait for Postgres here: back in its queue it would come again at once, and soon be dead
                if time.monotonic() > give_up:
                    raise
                log.warning("store.unavailable")
                time.sleep(_PAUSE_S)
            else:
                return

    def _take(self, body: object, let_go: Callable[[], None]) -> None:
        try:
            message = parse(Topic.STEPS, body)
        except Malformed as malformed:
            bury(self._conductor, "malformed", str(malformed))
            return
        try:
            self._executor.run(message.ref, let_go=let_go)
        except NotFound as missing:
            bury(self._conductor, "unknown_step", str(missing))


def bury(conductor: Conductor, reason: str, detail: str, ref: StepRef | None = None) -> None:
    """List a message that cannot be handled, so that nothing is ever dropped in silence."""
    letter_id = conductor.bury_message(reason=reason, detail=detail[:DETAIL], ref=ref)
    log.error("message.buried", reason=reason, letter=letter_id)
