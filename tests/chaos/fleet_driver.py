"""A process of the fleet that can be trapped; its minds are scripted, and its one tool writes down each execution.

    fleet_driver.py WITNESS [--role steps|completions|relay] [--concurrency N]

Settings come from the environment, as for `orchestrator worker`. What a goal begins with says how it is thought about:

    slow SECONDS …   its first step takes that long
    doomed …         its planner fails in every attempt
    quick …          nobody waits, and it has eight steps with one call
    anything else    nine steps; each of two questions is answered after three calls

A file `POINT` in the folder `traps` beside the witness springs once, for the first process to come to the crash point
of that name: it kills itself, or stops if the file says `stop`. The file is then called `POINT.PID`. A second word is the
id of the only plan whose steps spring it.
"""

import argparse
import json
import os
import signal
import threading
import time
from pathlib import Path

import structlog
from mcp.server.mcpserver import MCPServer

from orchestrator import settings, telemetry
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent
from orchestrator.messages import Topic
from orchestrator.wiring import core
from workers import cli, fleet, wiring
from workers.broker_loop import BrokerLoop
from workers.completion_consumer import CompletionConsumer
from workers.steps import carry
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
    parser.add_argument("--role", choices=["steps", "completions", "relay"], default="steps")
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--events", action="store_true")
    asked = parser.parse_args()
    made = settings.load(concurrency=asked.concurrency)
    telemetry.configure(made.log_level)
    trap = Traps(asked.witness.with_name("traps")).at
    with core(made) as opened:
        if asked.role == "steps":
            steps(opened, asked.witness, trap, events=asked.events)
        else:
            {"completions": completions, "relay": relay}[asked.role](opened, asked.witness, trap)


class Traps:
    """What waits for a process at its crash points."""

    def __init__(self, folder):
        self.folder = folder

    def at(self, point):
        file = self.folder / point
        if not file.exists():
            return
        try:
            action, *plans = file.read_text().split()
            if plans and structlog.contextvars.get_contextvars().get("plan_id") not in plans:
                return
            file.rename(file.with_name(f"{point}.{os.getpid()}"))
        except FileNotFoundError:
            return  # it sprang for another process
        if action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(0.5)  # another thread may take the signal, and this one go on for a moment
            return
        # other threads go on meanwhile: an acknowledgement that came too early is really sent
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)


def steps(opened, file, trap, *, events):
    look = ToolSpec("look", "witness", "documents.read", "idempotent", 20.0, 0, (), ())
    tools = Registry({"look": look}, {"witness": ServerSpec("witness", "documents", (), ())})
    carry(
        opened,
        events=events,
        make_hands=lambda core: wiring.Hands(
            core,
            minds=dict.fromkeys(Agent, think),
            tools=tools,
            builtins={"documents": lambda: witness(file, trap)},
            crash_point=trap,
        ),
    )


def completions(opened, _, trap):
    consumer = CompletionConsumer(opened.conductor)

    def handle(messages):
        trap("before_settle")
        consumer.take_waiting(messages)
        trap("after_settle")

    BrokerLoop(opened.settings.broker_url, Topic.COMPLETIONS.value, handle).forever(until_told())


def relay(opened, _, trap):
    class Bus(fleet.RabbitBus):
        def publish(self, messages):
            trap("before_publish")
            super().publish(messages)
            trap("after_publish")

    fleet.RabbitBus = Bus
    fleet.relay(opened, until_told())


def until_told():
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def think(assignment, toolbox):
    kind, *rest = assignment.goal.split()
    agent = assignment.agent
    if kind == "slow" and agent is Agent.ROUTER:
        time.sleep(float(rest[0]))
    if kind == "doomed" and agent is Agent.PLANNER:
        raise RuntimeError("There is no way to plan this.")
    quick = kind == "quick"
    if not quick:
        time.sleep(0.02)
    follow_ups = ()
    if agent is Agent.PLANNER:
        follow_ups = [{"question": "Which?"}, {"question": "When?"}][: 1 if quick else 2]
    if agent is Agent.RESEARCHER:
        for number in range(1 if quick else CALLS):
            toolbox.call("look", about=f"{assignment.goal}, step {assignment.step}, call {number}")
            if not quick:
                time.sleep(0.05)
    # whoever reads the step can tell whether its last holder wrote this
    claim = structlog.contextvars.get_contextvars()["claim"]
    return Completed(VERDICTS[agent], follow_ups=follow_ups, result={"claim": claim, "confidence": 1.0})


def witness(file, trap):
    server = MCPServer(name="witness", log_level="CRITICAL")

    @server.tool()
    def look(about: str) -> dict[str, str]:
        # one short write to a file that is appended to: no other process can come in between
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, (json.dumps({"about": about, "at": time.time()}) + "\n").encode())
        os.close(descriptor)
        trap("during_call")
        return {"seen": about}

    return server


if __name__ == "__main__":
    main()
    cli._leave(0)  # as the program does: without waiting for threads that think on
