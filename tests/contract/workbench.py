"""A gate over a store under test, with a real policy, and a real tool server that remembers each execution."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from agents.profiles import ModelChoice, Profile
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.budget import Budget
from orchestrator.domain.plan import Agent, Claimed, NewStep, StepRef, request
from orchestrator.locks import InMemoryLocks
from orchestrator.ports import Store
from orchestrator.vault.chain import Sealer
from tests.contract.bench import Bench
from workers.executor import Executor
from workers.gate.gate import Gate
from workers.gate.policy import EmbeddedEnforcer
from workers.toolhost.host import KEY_META, ToolHost
from workers.toolhost.models.catalogue import ONLY, Model, single
from workers.toolhost.registry import Registry, ServerSpec, ToolSpec

ROOT = Path(__file__).resolve().parents[2]
ENFORCER = EmbeddedEnforcer(ROOT / "policies")
PRICES = {"answer_tokens": 4_000, "input_uusd_per_1k": 1_000, "output_uusd_per_1k": 2_000}
MODELS = single(
    Model(ONLY, "openai", written_uusd_per_1k=1_000, cached_uusd_per_1k=500, **PRICES),
)
"""One model, as the settings name one."""
DOCUMENT = "A lock is held by one 🔒.\nNobody else may take it."


def spec(name: str, **rest: object) -> ToolSpec:
    usual = {
        "server": "witness",
        "capability": "documents.read",
        "semantics": "idempotent",
        "timeout_s": 10.0,
        "cost_uusd": 0,
        "keywords": (),
        "fallbacks": (),
    }
    return ToolSpec(**{"name": name, **usual, **rest})


TOOLS = (
    spec("look"),
    spec("fetch"),
    spec("send_keyed", semantics="keyed"),
    spec("send_once", semantics="at_most_once"),
    spec("write", capability="repo.write", semantics="at_most_once"),
    spec("publish", capability="github.write"),
    spec("costly", cost_uusd=400),
    spec("fails"),
    spec("fails_once", semantics="at_most_once"),
    spec("crashes"),
    spec("huge"),
    spec("unwritable"),
    spec("drill", exclusive=True),
    spec("drill_briefly", exclusive=True, timeout_s=0.3),
    spec("hangs_sync", timeout_s=0.3),
    spec("hangs_async", timeout_s=0.3),
    spec("hangs_once", timeout_s=0.3, semantics="at_most_once"),
)


def profile(agent: Agent = Agent.RESEARCHER, *held: str) -> Profile:
    capabilities = held or ("documents.read", "repo.write", "model.invoke")
    return Profile(
        agent, "A role.", capabilities, {}, ModelChoice(), (), (), None, "", Path("x.md"), "0" * 64
    )


class Witness:
    """Remembers every execution; `at_call` is called in the middle of each, before it counts."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object, str]] = []
        self.at_call: Callable[[], None] = lambda: None
        self.let_go = threading.Event()

    def saw(self, tool: str, argument: object, context: Context) -> None:
        self.at_call()
        meta = context.request_context.meta or {}
        self.calls.append((tool, argument, str(meta.get(KEY_META))))

    def server(self) -> MCPServer:
        made = MCPServer(name="witness", log_level="CRITICAL")
        plain = ["look", "send_keyed", "send_once", "write", "publish", "costly", "drill", "drill_briefly"]
        for name in plain:
            made.add_tool(self._answering(name), name=name)
        for name in ("fails", "fails_once"):
            made.add_tool(self._failing(name), name=name)
        for name in ("hangs_sync", "hangs_once"):
            made.add_tool(self._hanging(name), name=name)

        @made.tool()
        def fetch(locator: str, ctx: Context) -> dict[str, object]:
            self.saw("fetch", locator, ctx)
            return {
                "locator": locator,
                "title": "Locks",
                "media_type": "text/plain",
                "text": DOCUMENT,
                "n": 1,
            }

        @made.tool()
        def crashes(ctx: Context) -> dict[str, object]:
            self.saw("crashes", None, ctx)
            raise ZeroDivisionError("a secret of the server")

        @made.tool()
        def huge(ctx: Context) -> dict[str, object]:
            self.saw("huge", None, ctx)
            return {"text": "x" * 12_000_001, "locator": "huge.txt"}

        @made.tool()
        def unwritable(what: str, ctx: Context) -> dict[str, object]:
            self.saw("unwritable", what, ctx)
            if what == "error":
                raise ToolError("nul \x00 here")
            return {"text": "nul \x00 here", "locator": "nul.txt"}

        @made.tool()
        async def hangs_async(ctx: Context) -> dict[str, object]:
            self.saw("hangs_async", None, ctx)
            import anyio

            await anyio.sleep(60)
            return {}

        return made

    def _answering(self, name: str) -> Callable[..., object]:
        def answer(ctx: Context, about: str = "") -> dict[str, object]:
            self.saw(name, about, ctx)
            return {"about": about, "execution": len(self.calls), "text": "no document: it has no locator"}

        return answer

    def _failing(self, name: str) -> Callable[..., object]:
        def fail(ctx: Context) -> dict[str, object]:
            self.saw(name, None, ctx)
            raise ToolError("The disk is on fire.")

        return fail

    def _hanging(self, name: str) -> Callable[..., object]:
        def hang(ctx: Context) -> dict[str, object]:
            self.saw(name, None, ctx)
            self.let_go.wait(60)
            return {}

        return hang


class Workbench:
    """A gate and what it stands on."""

    def __init__(self, bench: Bench, sealer: Sealer, *, store: Store | None = None) -> None:
        self.bench = bench
        self.sealer = sealer
        self.store = store or bench.store
        self.witness = Witness()
        self.rules = Rules()
        self.conductor = self.conductor_on(self.store)
        self.tools = Registry(
            {tool.name: tool for tool in TOOLS}, {"witness": ServerSpec("witness", "documents", (), ())}
        )
        self.host = ToolHost(self.tools, {"documents": self.witness.server})
        self.locks = InMemoryLocks()
        self.holders: dict[str, int] = {}
        self._executors: list[Executor] = []

    def conductor_on(self, store: Store) -> Conductor:
        return Conductor(store, self.sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.0, rules=self.rules)

    def gate(self, **rest: object) -> Gate:
        usual = {
            "conductor": self.conductor,
            "enforcer": ENFORCER,
            "profiles": {agent: profile(agent) for agent in Agent},
            "registry": self.tools,
            "host": self.host,
            "models": MODELS,
            "locks": self.locks,
        }
        return Gate(**{**usual, **rest})

    def executor(self, minds: Mapping[Agent, object], **rest: object) -> Executor:
        conductor = rest.pop("conductor", self.conductor)
        gate = rest.pop("gate", None) or self.gate(conductor=conductor)
        made = Executor(conductor, gate, minds, **{"holder": self.bench.holder(), **rest})
        self._executors.append(made)
        return made

    def submit(self, agent: Agent = Agent.RESEARCHER, **rest: object) -> StepRef:
        """A plan, and the address of a step of its own in it."""
        budget = Budget(**rest.pop("budget", {}))
        plan = self.conductor.submit(request("What does a lock do?", budget=budget, **rest))
        return self.another(plan.plan_id, agent)

    def another(
        self, plan_id: str, agent: Agent = Agent.RESEARCHER, brief: Mapping[str, object] | None = None
    ) -> StepRef:
        with self.bench.store.transaction() as tx:
            tx.lock_plan(plan_id)
            step = NewStep(agent, brief=brief or {"question": "What does a lock do?"})
            (made,) = tx.add_steps(plan_id, [step], max_attempts=5)
            return made.ref

    def claim(self, ref: StepRef | None = None, **rest: object) -> Claimed:
        ref = ref or self.submit(**rest)
        holder = self.bench.holder()
        claimed = self.conductor_on(self.bench.store).begin(ref, holder=holder)
        assert claimed is not None
        self.holders[f"{ref.plan_id}/{ref.number}"] = holder
        return claimed

    def lose(self, claimed: Claimed) -> Claimed:
        """Let the step's worker die, and give the step to another."""
        ref = claimed.ref
        self.bench.lose(self.holders[f"{ref.plan_id}/{ref.number}"])
        assert self.conductor_on(self.bench.store).rescue() == 1
        return self.claim(ref)

    def audit(self, plan_id: str, *kinds: str) -> list[object]:
        import json

        with self.bench.store.transaction() as tx:
            records = tx.audit(plan_id)
        return [json.loads(r.body) for r in records if r.kind in kinds]

    def rows(self, read: str, *arguments: object) -> object:
        with self.bench.store.transaction() as tx:
            return getattr(tx, read)(*arguments)

    def chain_holds(self, plan_id: str) -> bool:
        plan, records = self.rows("plan", plan_id), self.rows("audit", plan_id)
        return self.sealer.verify(plan_id, records, count=plan.audit_count, head=plan.audit_head) is None

    def close(self) -> None:
        self.witness.let_go.set()
        for executor in self._executors:
            executor.close()
        self.host.close()


@contextmanager
def opened(bench: Bench, sealer: Sealer, **rest: object) -> Iterator[Workbench]:
    made = Workbench(bench, sealer, **rest)
    try:
        yield made
    finally:
        made.close()


def eventually(holds: Callable[[], object], within_s: float = 60.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.01)
    return False
