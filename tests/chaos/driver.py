"""Runs one goal to its end in this process, as embedded mode does, with a fault put in; a test starts and kills it.

    driver.py DATA DOCS GOAL [--fault fails|hangs|kills] [--replay] [--witness FILE]

The documents' tools are real, and each execution of one is first written to the witness file. The same goal is taken
up where it was left. Prints one JSON document.
"""

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from agents.minds import MINDS
from orchestrator import house, settings, telemetry
from orchestrator.domain.plan import Agent, PlanState, digest, request
from orchestrator.domain.report import markdown
from orchestrator.wiring import core
from workers import wiring
from workers.toolhost import registry
from workers.toolhost.documents.server import Fetched, Found, Indexed
from workers.toolhost.documents.server import build as build_documents


def main() -> int:
    asked = _arguments()
    telemetry.configure("error")
    made = settings.load(
        environment={},
        data_dir=str(asked.data),
        max_attempts=3,
        backoff_base_s=0.05,
        lease_s=5,
        sweep_every_s=0.2,
        documents_roots=str(asked.docs),
    )
    minds = {**MINDS, Agent.RESEARCHER: _kills} if asked.fault == "kills" else MINDS
    with core(made) as opened:
        plan = opened.conductor.submit(
            request(asked.goal, sources={"documents": str(asked.docs)}, key=digest(asked.goal))
        )
        if asked.replay and plan.state in {PlanState.DEAD_LETTERED, PlanState.FAILED}:
            opened.conductor.replay(plan.plan_id, by="tester")
        workshop = wiring.Workshop(
            opened, minds=minds, tools=_tools(asked.fault), builtins={"documents": lambda: _witnessed(asked)}
        )
        workshop.start()
        while True:
            with opened.store.transaction() as tx:
                now = tx.plan(plan.plan_id)
                if now.finished_at:
                    report = tx.report(plan.plan_id)
                    letters = tx.dead_letters(state=None, plan_id=plan.plan_id)
                    fault = opened.sealer.verify(
                        plan.plan_id, tx.audit(plan.plan_id), count=now.audit_count, head=now.audit_head
                    )
                    records = [(r.kind, json.loads(r.body)) for r in tx.audit(plan.plan_id)]
                    break
            time.sleep(0.02)
        workshop.stop(leave=True)
    answer = {
        "plan_id": plan.plan_id,
        "state": now.state,
        "reason": now.reason,
        "report": markdown(report) if report else None,
        "letters": [{"reason": x.reason, "detail": x.detail, "state": x.state} for x in letters],
        "audit_fault": None if fault is None else fault.fault,
        "audit": records,
    }
    print(json.dumps(answer), flush=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("docs", type=Path)
    parser.add_argument("goal")
    parser.add_argument("--fault", choices=["fails", "hangs", "kills"])
    parser.add_argument("--replay", action="store_true")
    parser.add_argument("--witness", type=Path)
    return parser.parse_args()


def _tools(fault: str | None) -> registry.Registry:
    tools = registry.load(house.path("configs/tool_registry.yaml"))
    if fault != "hangs":
        return tools
    hasty = replace(tools.tools["documents_search"], timeout_s=0.5)
    return registry.Registry({**tools.tools, "documents_search": hasty}, tools.servers)


def _kills(assignment: object, toolbox: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _witnessed(asked: argparse.Namespace) -> MCPServer:
    """The documents server, with a witness before each tool and the fault inside."""
    real = build_documents([asked.docs], asked.data / "indexes")
    server = MCPServer(name="documents", log_level="WARNING")

    def saw(tool: str, **arguments: object) -> None:
        if asked.witness is not None:
            with asked.witness.open("a") as file:
                file.write(json.dumps([tool, arguments]) + "\n")
                file.flush()
                os.fsync(file.fileno())

    @server.tool()
    async def documents_index(folder: str) -> Indexed:
        saw("documents_index", folder=folder)
        return Indexed.model_validate(await _structured(real, "documents_index", {"folder": folder}))

    @server.tool()
    async def documents_search(folder: str, query: str, limit: int = 8) -> Found:
        saw("documents_search", folder=folder, query=query, limit=limit)
        if asked.fault == "fails":
            raise ToolError("The disk with the index is on fire.")
        if asked.fault == "hangs":
            time.sleep(30)
        return Found.model_validate(
            await _structured(real, "documents_search", {"folder": folder, "query": query, "limit": limit})
        )

    @server.tool()
    async def documents_fetch(folder: str, locator: str) -> Fetched:
        saw("documents_fetch", folder=folder, locator=locator)
        return Fetched.model_validate(
            await _structured(real, "documents_fetch", {"folder": folder, "locator": locator})
        )

    return server


async def _structured(server: MCPServer, tool: str, arguments: dict[str, object]) -> object:
    from mcp import Client

    async with Client(server) as client:
        return (await client.call_tool(tool, arguments)).structured_content


if __name__ == "__main__":
    sys.exit(main())
