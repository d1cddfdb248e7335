"""Asks the model a person's own question, outside of any plan, as strictly as a plan's: decide, intend, call, record.

The record is in the chain of the caller's tenant, since there is no plan: who asked, what decided, a keyed digest of what
was said, and what became of it. What is said itself is kept nowhere. Nothing is asked before the intent is committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import uuid4

from orchestrator.domain.errors import Conflict, Forbidden, Invalid, Unavailable
from orchestrator.domain.identity import ACTIONS, Principal, document
from orchestrator.domain.judgement import Judgement
from orchestrator.domain.plan import Json
from orchestrator.ports import Judge, Reply
from orchestrator.store import PgStore
from orchestrator.telemetry import log
from orchestrator.vault import ledger
from orchestrator.vault.chain import Sealer
from workers.gate.stops import Stops, StopsUnreadableError
from workers.toolhost.host import ToolFailure, ToolHost
from workers.toolhost.models.catalogue import Catalogue, Model
from workers.toolhost.registry import ToolSpec

_ACTION = "chat.interact"


class Talk:
    """Answers callers by the models that are configured, in the order of their default route."""

    def __init__(
        self,
        store: PgStore,
        sealer: Sealer,
        judge: Judge,
        host: ToolHost,
        tool: ToolSpec | None,
        *,
        models: Catalogue | None = None,
        stops: Stops | None = None,
    ) -> None:
        """`tool` completes conversations; without one, or without `models`, nobody is answered."""
        self._store = store
        self._sealer = sealer
        self._judge = judge
        self._host = host
        self._tool = tool
        self._models = models or Catalogue()
        self._stops = stops or Stops()

    def answer(
        self,
        who: Principal,
        messages: Sequence[Mapping[str, str]],
        *,
        model: str | None,
        decision: Judgement | None = None,
    ) -> Reply:
        """Return what the model says next. Raises `Conflict` without a model, `Forbidden`, or `Unavailable`.

        With a `decision` that lets the caller do this, the policy is not asked for another.
        A `model` that is named is asked alone; else one after the other, each on the record, until one answers.
        """
        tool = self._tool
        if tool is None or not self._models.models:
            raise Conflict(
                "There is no language model here; name one in configs/models.yaml, or set "
                "ORCHESTRATOR_MODEL_BASE_URL and ORCHESTRATOR_MODEL_NAME."
            )
        named = None if model is None else self._models.named(model)
        if model is not None and named is None:
            raise Invalid(
                f"The models here are {', '.join(sorted(self._called()))}; name one of them, or none."
            )
        self._not_stopped(who, tool)
        if decision is None or decision.failed or not decision.allow:
            decision = self._decided(who)
        order = self._models.order() if named is None else (named,)
        for chosen in order[:-1]:
            try:
                return self._answered(who, tool, messages, decision, chosen)
            except Unavailable:
                log.warning("model.skipped", model=chosen.name, reason="unavailable")
        return self._answered(who, tool, messages, decision, order[-1])

    def _called(self) -> set[str]:
        return {model.model or model.name for model in self._models.models.values()}

    def _answered(
        self,
        who: Principal,
        tool: ToolSpec,
        messages: Sequence[Mapping[str, str]],
        decision: Judgement,
        chosen: Model,
    ) -> Reply:
        asked = str(uuid4())
        details: dict[str, Json] = {
            "chat": asked,
            "model": chosen.name,
            "messages": len(messages),
            "messages_hmac": self._sealer.blind([dict(message) for message in messages]),
        }
        told = {"decision_id": decision.decision_id, "effect": decision.effect, "revision": decision.revision}
        self._record(who, tool, "tool_called", {**details, "decision": told})
        arguments = {
            "prompt": _ACTION,
            "messages": [dict(m) for m in messages],
            "as_json": False,
            "model": chosen.name,
        }
        try:
            came = self._host.call(tool, arguments, timeout_s=tool.timeout_s, key=asked, tenant=who.tenant)
        except ToolFailure as failure:
            ended = "unknown" if failure.unsure else "failed"
            self._record(who, tool, "tool_error", {**details, "state": ended, "reason": failure.reason})
            raise Unavailable(failure.detail) from failure
        if came.get("fault"):
            failed = {**details, "state": "failed", "reason": str(came["fault"])}
            self._record(who, tool, "tool_error", failed)
            raise Unavailable(str(came.get("detail")))
        reply = Reply(
            str(came["text"]), str(came["model"]), int(came["input_tokens"]), int(came["output_tokens"])
        )
        self._record(
            who,
            tool,
            "tool_result",
            {
                **details,
                "state": "done",
                "text_hmac": self._sealer.blind(reply.text),
                "input_tokens": reply.input_tokens,
                "output_tokens": reply.output_tokens,
            },
        )
        return reply

    def _not_stopped(self, who: Principal, tool: ToolSpec) -> None:
        with self._store.transaction() as tx:
            rows = tx.stops(who.tenant)
        try:
            stopped = self._stops.of(tenant=who.tenant, tool=tool.name, rows=rows)
        except StopsUnreadableError as error:
            raise Unavailable(str(error)) from error
        if stopped:
            raise Unavailable(f"This is stopped for now: {', '.join(stopped)}.")

    def _decided(self, who: Principal) -> Judgement:
        decision = self._judge.decide(ACTIONS, document(who, _ACTION))
        if decision.failed:
            raise Unavailable("The policy cannot answer now whether you may do this; try again soon.")
        if not decision.allow:
            raise Forbidden(f"You may not do this: {_ACTION} is not allowed to {who.name}.")
        return decision

    def _record(self, who: Principal, tool: ToolSpec, kind: str, details: Mapping[str, Json]) -> None:
        with self._store.of(who.tenant).transaction() as tx:
            ledger.note_action(tx, self._sealer, who, kind, _ACTION, f"tool:{tool.name}", details)
