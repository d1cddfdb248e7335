"""Minds that think nothing, or sleep: what is measured is everything else."""

from __future__ import annotations

import time
from collections.abc import Mapping

from agents.toolbox import Assignment, Mind, Toolbox
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, Json
from workers.bench import RESULT_BYTES

_VERDICTS: Mapping[Agent, str] = {
    Agent.ROUTER: "deep",
    Agent.PLANNER: "planned",
    Agent.RESEARCHER: "found",
    Agent.KEEPER: "sufficient",
    Agent.GENERATOR: "drafted",
    Agent.CRITIC: "critiqued",
    Agent.JUDGE: "accept",
    Agent.SYNTHESISER: "written",
}


def idle(pause_s: float = 0.0) -> Mapping[Agent, Mind]:
    """Return minds whose steps take `pause_s` seconds and come to a result of a kilobyte."""
    result: Mapping[str, Json] = {"text": "x" * RESULT_BYTES}

    def think(assignment: Assignment, toolbox: Toolbox) -> Completed:  # noqa: ARG001 - thinks nothing
        if pause_s:
            time.sleep(pause_s)
        planned = assignment.agent is Agent.PLANNER
        return Completed(
            _VERDICTS[assignment.agent],
            follow_ups=[{"question": "Nothing?"}] if planned else (),
            result={**result, "confidence": 1.0} if assignment.agent is Agent.JUDGE else result,
        )

    return dict.fromkeys(Agent, think)
