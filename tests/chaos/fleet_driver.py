"""A step worker of the fleet whose minds are scripted and whose one tool writes down each execution of it.

    fleet_driver.py WITNESS [--concurrency N]

Settings come from the environment, as for `orchestrator worker steps`. A goal that begins with `slow SECONDS` is
thought about for that long by its first step; each question is answered after three calls.
"""

import argparse
import json
import os
import time
from pathlib import Path

from mcp.server.mcpserver import MCPServer

from orchestrator import settings, telemetry
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent
from orchestrator.wiring import core
from workers import cli, fleet, wiring
from workers.toolhost.registry import Registry, ServerSpec, ToolSpec

CALLS = 3
VERDICTS = {
    Agent.ROUTER: "deep",
    Agent.PLANNER: "planned",
    Agent.RESEARCHER: "found",
    Agent.KEEPER: "sufficient",
    Agent.GENERATOR: "drafted",
    Agent.CRITIC: "critiqued",
    Agent.JUDGE: "accept",
    Agent.SYNTHESISER: "written",
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("witness", type=Path)
    parser.add_argument("--concurrency", type=int, default=3)
    asked = parser.parse_args()
    made = settings.load(concurrency=asked.concurrency)
    telemetry.configure(made.log_level)
    look = ToolSpec("look", "witness", "documents.read", "idempotent", 20.0, 0, (), ())
    tools = Registry({"look": look}, {"witness": ServerSpec("witness", "documents", (), ())})
    with core(made) as opened:
        fleet.steps(
            opened,
            make_hands=lambda core: wiring.Hands(
                core,
                minds=dict.fromkeys(Agent, think),
                tools=tools,
                builtins={"documents": lambda: witness(asked.witness)},
            ),
        )


def think(assignment, toolbox):
    words = assignment.goal.split()
    if assignment.agent is Agent.ROUTER and words[0] == "slow":
        time.sleep(float(words[1]))
    time.sleep(0.02)
    follow_ups = ()
    if assignment.agent is Agent.PLANNER:
        follow_ups = [{"question": "Which?"}, {"question": "When?"}]
    if assignment.agent is Agent.RESEARCHER:
        for number in range(CALLS):
            toolbox.call("look", about=f"{assignment.goal}, step {assignment.step}, call {number}")
            time.sleep(0.05)
    return Completed(VERDICTS[assignment.agent], follow_ups=follow_ups, result={"said": "it is so"})


def witness(file):
    server = MCPServer(name="witness", log_level="CRITICAL")

    @server.tool()
    def look(about: str) -> dict[str, str]:
        # one short write to a file that is appended to: no other process can come in between
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, (json.dumps(about) + "\n").encode())
        os.close(descriptor)
        return {"seen": about}

    return server


if __name__ == "__main__":
    main()
    cli._leave(0)  # as the program does: without waiting for threads that think on
