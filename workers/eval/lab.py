"""Carries one plan for each question through the real loop, gate and tools, on a store in memory and without a broker.

Each question has a store of its own: what one plan kept cannot help the next, and the order in which questions are
asked changes nothing. Time in that store stands still, but for steps that must wait: then it jumps.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, zip_longest
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

from agents import profiles
from agents.minds import MINDS
from orchestrator import house
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.errors import Misconfigured
from orchestrator.domain.lifecycle import PLAN_ENDS
from orchestrator.domain.plan import Agent, Call, Evidence, Plan, Step, request
from orchestrator.inmemory import InMemoryStore, InMemoryTx
from orchestrator.locks import NoLocks
from orchestrator.messages import Topic
from orchestrator.settings import Settings
from orchestrator.store import PgStore
from orchestrator.vault.chain import Sealer
from orchestrator.vault.secrets import MasterKeys, SealedSecrets
from orchestrator.wiring import Core
from workers import wiring
from workers.executor import Executor
from workers.gate.gate import Gate
from workers.toolhost import offer, registry
from workers.toolhost.host import ToolHost
from workers.toolhost.models import catalogue

_NOON: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
_HOUR: Final = timedelta(hours=1)
_MOST_WAITS: Final = 24
_SEAL: Final = b"\x00" * 32  # nothing of a lab is kept: its audit proves nothing to anybody


class _Store(InMemoryStore):
    """A store that the heartbeat's thread may use beside the plan's."""

    def __init__(self) -> None:
        self.now = _NOON
        self._turn = threading.RLock()
        super().__init__(lambda: self.now)

    @contextmanager
    def transaction(self) -> Iterator[InMemoryTx]:
        with self._turn, super().transaction() as tx:
            yield tx


@dataclass(frozen=True, slots=True)
class Run:
    """How one plan ended, and everything that it left behind."""

    plan: Plan
    report: Mapping[str, Any]
    steps: Sequence[Step]
    found: Sequence[FoundPlace]
    evidence: Mapping[str, Evidence]
    seconds: float

    @property
    def drift(self) -> float | None:
        """How far the plan drifted from its goal, as its keeper last measured it; `None` if it did not."""
        told = [s.result.get("drift") for s in self.steps if s.agent is Agent.KEEPER]
        numbers = [float(d) for d in told if isinstance(d, int | float) and not isinstance(d, bool)]
        return numbers[-1] if numbers else None


@dataclass(frozen=True, slots=True)
class FoundPlace:
    """A passage that a search of the plan returned."""

    locator: str
    start: int
    end: int


class Lab:
    """Runs plans over one folder of documents; any number, one after the other."""

    def __init__(self, settings: Settings, documents: Path, *, depth: int, minds: Any = MINDS) -> None:
        self._settings = settings.model_copy(
            update={"documents_roots": str(documents), "database_url": "", "concurrency": 1}
        )
        self._documents = documents
        self._depth = depth
        self._minds = minds
        try:
            self._profiles = profiles.load(house.path("agents"))
            tools = registry.load(house.path("configs/tool_registry.yaml"))
        except (profiles.ProfileError, registry.RegistryError) as error:
            raise Misconfigured(str(error)) from error
        self._tools = offer.offered(tools, self._settings)
        self._decider = wiring.enforcer(self._settings)
        self._sealer = Sealer(_SEAL)
        self._ids = count(1)
        self._host = ToolHost(self._tools, wiring.servers(self._core(_Store())))

    def ask(self, question: str) -> Run:
        """Carry a plan for this question to its end."""
        store = _Store()
        core = self._core(store)
        executor = self._executor(core)
        began = time.monotonic()
        try:
            plan = core.conductor.submit(
                request(question, depth=self._depth, sources={"documents": str(self._documents)})
            )
            self._carry(store, core.conductor, executor, plan.plan_id)
        finally:
            executor.close()
        seconds = time.monotonic() - began
        with store.transaction() as tx:
            ended = tx.plan(plan.plan_id) or plan
            calls = tx.calls(plan.plan_id)
            return Run(
                plan=ended,
                report=tx.report(plan.plan_id) or {},
                steps=tx.steps(plan.plan_id),
                found=_found(calls, store.evidence_rows),
                evidence={e.sha256: e for e in store.evidence_rows.values()},
                seconds=seconds,
            )

    def close(self) -> None:
        """Stop the tool servers."""
        self._host.close()

    def _core(self, store: _Store) -> Core:
        conductor = Conductor(
            store,
            self._sealer,
            new_id=lambda: str(UUID(int=next(self._ids))),
            draw=lambda: 0.0,
            rules=Rules(),
        )
        # the same promises as Postgres, which the conformance suite holds both to
        twin = cast("PgStore", store)
        secrets = SealedSecrets(twin, MasterKeys(lambda: [_SEAL]))
        return Core(self._settings, "", twin, self._sealer, conductor, NoLocks(), secrets)

    def _executor(self, core: Core) -> Executor:
        models = catalogue.of(self._settings)
        gate = Gate(
            core.conductor,
            self._decider,
            self._profiles,
            self._tools,
            self._host,
            models,
            known=wiring.known(self._settings),
        )
        return Executor(
            core.conductor,
            gate,
            self._minds,
            holder=1,
            model=models.first,
        )

    @staticmethod
    def _carry(store: _Store, conductor: Conductor, executor: Executor, plan_id: str) -> None:
        """Answer every doorbell, in order, until the plan has ended or waits for what no lab can give."""
        for _ in range(_MOST_WAITS):
            while store.outbox:
                message = store.outbox.pop(0)
                if message.topic is Topic.STEPS:
                    executor.run(message.ref)
                elif message.topic is Topic.COMPLETIONS:
                    conductor.settle(message.ref)
            if store.plan_rows[plan_id].state in PLAN_ENDS:
                return
            store.now += _HOUR
            conductor.sweep()


def _found(calls: Sequence[Call], evidence: Mapping[tuple[str, str], Evidence]) -> Sequence[FoundPlace]:
    """The passages of all searches of a plan, the first of each before the second of any."""
    texts = {sha256: e.text for (_, sha256), e in evidence.items()}
    lists = [
        json.loads(texts[call.evidence])["passages"]
        for call in calls
        if call.tool == "documents_search" and call.evidence in texts
    ]
    taken = [one for rank in zip_longest(*lists) for one in rank if one is not None]
    places = (FoundPlace(p["locator"], p["start"], p["end"]) for p in taken)
    return list(dict.fromkeys(places))
