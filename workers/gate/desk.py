"""Calls a tool for a person, outside of any plan, as strictly as for a plan: decide, intend, call, record.

The call is judged as a plan's would be that one agent makes: by its profile, with the same rules for what is stopped,
where it goes and what has changed. What would need a person's approval is refused, for there is no plan to wait. The
record is in the chain of the caller's tenant: who asked, what decided, keyed digests of what went in and came out, and
how it ended. The content itself is kept nowhere, and nothing of it becomes evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import uuid4

from agents.profiles import Profile
from orchestrator.domain.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from orchestrator.domain.identity import Principal
from orchestrator.domain.plan import Json, digest
from orchestrator.store import PgStore
from orchestrator.vault import ledger
from orchestrator.vault.chain import Sealer
from workers.gate.gate import PASSING
from workers.gate.policy import Decision, PolicyEnforcer, Question
from workers.gate.stops import StopsUnreadableError
from workers.gate.surroundings import Known, describe
from workers.toolhost.host import ToolFailure, ToolHost
from workers.toolhost.registry import Registry, ToolSpec

ACTION: Final = "tool.call"
AS_AGENT: Final = "researcher"
"""As whom a call is judged where the caller does not say."""


class Desk:
    """Where persons and programs call the tools of the registry themselves."""

    def __init__(
        self,
        store: PgStore,
        sealer: Sealer,
        enforcer: PolicyEnforcer,
        profiles: Mapping[str, Profile],
        registry: Registry,
        host: ToolHost,
        known: Known | None = None,
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._enforcer = enforcer
        self._profiles = profiles
        self._registry = registry
        self._host = host
        self._known = known or Known()

    def tools(self) -> Sequence[Mapping[str, Json]]:
        """Return every tool of the registry in its order, those that are withheld after them with the reason."""
        offered = [
            {
                "name": tool.name,
                "server": tool.server,
                "capability": tool.capability,
                "semantics": tool.semantics,
                "keywords": list(tool.keywords),
                "yields": list(tool.yields),
                "withheld": None,
            }
            for tool in self._registry.tools.values()
        ]
        held = [{"name": name, "withheld": why} for name, why in self._registry.withheld.items()]
        return [*offered, *held]

    def call(
        self, who: Principal, name: str, arguments: Mapping[str, Json], *, agent: str | None = None
    ) -> Mapping[str, Json]:
        """Return a tool's answer. Raises `NotFound`, `Conflict`, `Forbidden`, `Invalid` or `Unavailable`."""
        tool = self._tool(name)
        asked = str(uuid4())
        decision = self._decided(who, tool, arguments, agent or AS_AGENT, asked)
        details: dict[str, Json] = {
            "call": asked,
            "agent": agent or AS_AGENT,
            "arguments_hmac": self._sealer.blind(arguments),
        }
        told = {"decision_id": decision.decision_id, "effect": decision.effect, "revision": decision.revision}
        self._record(who, tool, "tool_called", {**details, "decision": told})
        try:
            came = self._host.call(
                tool,
                arguments,
                timeout_s=tool.timeout_s,
                key=asked,
                tenant=who.tenant,
                reach=self._known.narrowed(who.tenant, self._profiles[agent or AS_AGENT].egress_hosts),
            )
        except ToolFailure as failure:
            ended = "unknown" if failure.unsure else "failed"
            self._record(who, tool, "tool_error", {**details, "state": ended, "reason": failure.reason})
            if failure.reason == "tool_error":
                raise Invalid(failure.detail) from failure
            raise Unavailable(failure.detail) from failure
        kept = {**details, "state": "done", "result_hmac": self._sealer.blind(came)}
        self._record(who, tool, "tool_result", kept)
        return came

    def _tool(self, name: str) -> ToolSpec:
        if name in self._registry.withheld:
            raise Conflict(f"{name} is not offered. {self._registry.withheld[name]}")
        tool = self._registry.tools.get(name)
        if tool is None:
            raise NotFound("tool", name)
        if self._registry.servers[tool.server].builtin == "model":
            raise Conflict("The model has no budget outside of a plan; talk to it by POST /chat.")
        return tool

    def _decided(
        self, who: Principal, tool: ToolSpec, arguments: Mapping[str, Json], agent: str, asked: str
    ) -> Decision:
        profile = self._profiles.get(agent)
        if profile is None:
            raise Invalid(f"There is no agent {agent}; there are {', '.join(self._profiles)}.")
        decision = self._enforcer.judge(
            Question(
                agent=agent,
                tool=tool.name,
                server=tool.server,
                held=profile.capabilities,
                required=(tool.capability,),
                approval_policy=dict(profile.approval_policy),
                run_mode="any",
                tenant_id=who.tenant,
                plan_id=asked,
                step=1,
                attempt=1,
                depth=1,
                cost_uusd=tool.cost_uusd,
                args_digest=digest([tool.name, arguments]),
                trace_id=asked,
                profile_known=True,
                call=self._surroundings(who, tool, arguments, asked, profile),
            )
        )
        if decision.failed:
            raise Unavailable("The policy cannot answer now whether this may be called; try again soon.")
        if decision.allow:
            return decision
        why = ", ".join(f"{r.reason} {r.capability}".strip() for r in decision.reasons)
        if decision.effect == "require_approval":
            raise Forbidden(
                f"{tool.name} needs a person's approval for {agent}, which only a plan can wait for: {why}."
            )
        if any(reason.reason in PASSING for reason in decision.reasons):
            raise Unavailable(f"{tool.name} is held back for now: {why}.")
        raise Forbidden(f"The policy denies {agent} the tool {tool.name}: {why}.")

    def _surroundings(
        self, who: Principal, tool: ToolSpec, arguments: Mapping[str, Json], asked: str, profile: Profile
    ) -> Mapping[str, Json]:
        with self._store.transaction() as tx:
            stopped = tx.stops(who.tenant)
        try:
            return describe(
                self._known,
                tool,
                arguments,
                tenant=who.tenant,
                plan_id=asked,
                journal=list,
                tools=self._registry.tools,
                schema=lambda: self._host.schema(tool, tenant=who.tenant),
                agent=profile.name,
                agent_hosts=profile.egress_hosts,
                stopped=stopped,
            )
        except (StopsUnreadableError, ToolFailure) as error:
            raise Unavailable(str(error)) from error

    def _record(self, who: Principal, tool: ToolSpec, kind: str, details: Mapping[str, Json]) -> None:
        with self._store.of(who.tenant).transaction() as tx:
            ledger.note_action(tx, self._sealer, who, kind, ACTION, f"tool:{tool.name}", details)
