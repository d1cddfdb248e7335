"""What travels on the bus: a doorbell, never the work.

A message carries ids only. It says "look at this step"; Postgres says what is to be done. `v` lets old messages
meet new code: every version in `KNOWN` is understood, and an unknown one is a dead letter, not a guess. Another key
beside the known ones needs no new version; another meaning of one does, and the version before it stays in `KNOWN` for
as long as a queue may hold it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

from orchestrator.domain.plan import Json, StepRef

VERSION: Final = 1
"""The version that is sent."""

KNOWN: Final = (1,)
"""The versions that are understood."""


class Topic(StrEnum):
    """Where a message goes."""

    STEPS = "plan.steps"
    COMPLETIONS = "plan.completions"
    DEAD = "plan.dead"


class Malformed(ValueError):
    """The body is not a message of a known version."""


@dataclass(frozen=True, slots=True)
class Message:
    """Look at this step of this plan; `priority` is the plan's, and only chooses the queue."""

    topic: Topic
    ref: StepRef
    priority: int = field(default=0, compare=False)

    def body(self) -> dict[str, Json]:
        """What is sent."""
        return {"v": VERSION, "plan_id": self.ref.plan_id, "step": self.ref.number}


def parse(topic: Topic, body: object) -> Message:
    """Return the message of a body as received, or raise `Malformed` with the reason."""
    if not isinstance(body, Mapping):
        raise Malformed("The body is not an object.")
    if body.get("v") not in KNOWN:
        raise Malformed(f"Version {body.get('v')!r} is not known here; this program speaks {VERSION}.")
    plan_id, step = body.get("plan_id"), body.get("step")
    if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step < 2**31:
        raise Malformed("`step` is not a step's number.")
    try:
        return Message(topic, StepRef(str(UUID(str(plan_id))), step))
    except ValueError as error:
        raise Malformed("`plan_id` is not a plan's id.") from error
