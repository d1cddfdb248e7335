"""`orchestrator up`: the whole system on this machine, for as long as it is left running."""

from __future__ import annotations

import threading

from orchestrator.domain.plan import PlanState
from workers.cli import doors, flags, view

_LOOK_EVERY_S = 1.0


def up(*, data: flags.Data = None, verbose: flags.Verbose = False) -> None:
    """Work on every plan there is, and on those that are submitted meanwhile, until Ctrl-C.

    Relay, sweeper, worker and schedules run in this process, on the embedded Postgres unless a database is configured. Plans
    come from other commands on the same data folder, such as `plans retry --no-work`.
    """
    chosen = doors.settings(data)
    with doors.opened(chosen, verbose=verbose) as core, doors.working(core), doors.firing(core):
        view.tell(f"Working on the plans in {chosen.data}. Ctrl-C stops; what is begun is kept.", "green")
        seen: dict[str, PlanState] = {}
        first = True
        quiet = threading.Event()
        while True:
            for plan in reversed(doors.every_plan(core)):
                if not first and seen.get(plan.plan_id) is not plan.state:
                    view.tell(f"{view.short(plan.plan_id)}  {plan.state:<16}  {view.one_line(plan.goal, 70)}")
                seen[plan.plan_id] = plan.state
            first = False
            quiet.wait(_LOOK_EVERY_S)
