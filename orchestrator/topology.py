"""Which queue a topic is, and which task answers it.

    plan.steps ──────▶ plan.steps.run           a step is ready: claim it and carry it to an outcome
    plan.completions ▶ plan.completions.settle  a step has ended: decide what follows
    plan.dead ───────▶ plan.dead.note           a step was given up on: the dead letter is in Postgres already

Every task takes a message's body as its one argument: ids only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.messages import Topic

TASK_OF: Final[Mapping[Topic, str]] = {
    Topic.STEPS: "plan.steps.run",
    Topic.COMPLETIONS: "plan.completions.settle",
    Topic.DEAD: "plan.dead.note",
}
