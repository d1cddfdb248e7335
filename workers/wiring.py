"""Puts everything that works together, on top of what `orchestrator.wiring` opens."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from agents import profiles
from agents.minds import MINDS
from agents.toolbox import Mind, ToolCard
from orchestrator import house, meters, prompts, wiring
from orchestrator.bus import CeleryBus, RabbitBus
from orchestrator.domain.errors import Misconfigured, Unavailable
from orchestrator.domain.lifecycle import ALIVE
from orchestrator.domain.plan import Agent
from orchestrator.messages import Topic
from orchestrator.ports import Judge, Listener, Talker
from orchestrator.relay import Relay, Sweeper
from orchestrator.settings import Settings
from orchestrator.store import Alive
from orchestrator.telemetry import log
from orchestrator.wiring import Core
from workers.completion_consumer import CompletionConsumer
from workers.dead_letter_consumer import DeadLetterConsumer
from workers.executor import Executor
from workers.gate import reach
from workers.gate.decision_log import DecisionLog
from workers.gate.desk import Desk
from workers.gate.gate import Gate, cards_of
from workers.gate.hearers import Hearers
from workers.gate.hearing import Hearing
from workers.gate.policy import EmbeddedEnforcer, Enforcer, PolicyLoadError
from workers.gate.stops import Stops
from workers.gate.surroundings import Known
from workers.gate.talk import Talk
from workers.gate.watch import Watch
from workers.loops import completions_loop, dead_letters_loop, notarise
from workers.step_consumer import StepConsumer
from workers.toolhost import live, offer, registry, sandbox, stock
from workers.toolhost.documents import semantic
from workers.toolhost.host import ToolHost
from workers.toolhost.models import catalogue

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

_EVERYTHING = 1_000_000

Builtins: TypeAlias = "Mapping[str, Callable[[], MCPServer]]"


def enforcer(settings: Settings) -> Enforcer:
    """What decides by policy: the OPA server that is configured, or this process. Raises `Misconfigured`."""
    heard = Hearers(
        meters.Decisions("opa" if settings.opa_url else "embedded"),
        DecisionLog(Path(settings.decision_log_file).expanduser(), with_input=settings.decision_log_input)
        if settings.decision_log_file
        else None,
    )
    try:
        if not settings.opa_url:
            folder = house.path("policies")
            made = EmbeddedEnforcer(folder, heard=heard)
            if settings.policy_look_s:
                Watch(made, folder).start(settings.policy_look_s)
            return made
        # its client takes a while to import, and most decide in their own process
        from workers.gate.opa import RemoteEnforcer

        return RemoteEnforcer(
            settings.opa_url,
            timeout_s=settings.opa_timeout_s,
            ca_file=Path(settings.opa_ca_file) if settings.opa_ca_file else None,
            token=os.environ.get(settings.opa_token_env, ""),
            heard=heard,
        )
    except PolicyLoadError as error:
        raise Misconfigured(str(error)) from error


def stops(settings: Settings) -> Stops:
    """The kill switch that is configured."""
    return Stops(settings.stops, may_be_missing=not settings.stops_file)


def _profiles() -> Mapping[str, profiles.Profile]:
    try:
        return profiles.load(house.path("agents"))
    except profiles.ProfileError as error:
        raise Misconfigured(str(error)) from error


def _offered(settings: Settings, tools: registry.Registry | None = None) -> registry.Registry:
    """The tools that this machine can offer, of these or of the registry's file."""
    try:
        return offer.offered(tools or registry.load(settings.tool_registry), settings)
    except registry.RegistryError as error:
        raise Misconfigured(str(error)) from error


def granted() -> Mapping[str, Sequence[str]]:
    """Return what each agent's profile grants, by the agent's name. Raises `Misconfigured`."""
    return {name: found.capabilities for name, found in _profiles().items()}


def known(settings: Settings) -> Known:
    """What the gate may tell the policy of a call: hosts, what a tool reaches by itself, what is stopped, and whether walls hold."""
    reaches = {"search": stock.engine_of(settings).address} if settings.web_search_provider else {}
    return Known(
        egress=settings.hosts,
        stops=stops(settings),
        tenants=reach.load(),
        walled=lambda: sandbox.verdict(settings).enforced,
        reaches=reaches,
    )


def charters() -> Callable[[str], str]:
    """Return what tells what an agent's profile tells its model. Raises `Misconfigured`."""
    found = _profiles()
    return lambda agent: found[agent].charter if agent in found else ""


def cards(settings: Settings) -> Callable[[str], Sequence[ToolCard]]:
    """Return what tells which tools an agent may know of here. Raises `Misconfigured`."""
    tools, found = _offered(settings), _profiles()
    return lambda agent: cards_of(tools, found, agent)


class Hands:
    """What carries steps in this process: a holder, the minds, the gate and the tools."""

    def __init__(
        self,
        opened: Core,
        *,
        minds: Mapping[Agent, Mind] = MINDS,
        builtins: Builtins | None = None,
        tools: registry.Registry | None = None,
        crash_point: Callable[[str], None] = lambda _: None,
    ) -> None:
        settings, conductor = opened.settings, opened.conductor
        self.alive = Alive(opened.dsn)
        from_file = tools is None
        try:
            profiles_by_name = _profiles()
            tools = _offered(settings, tools)
            models = catalogue.of(settings)
            decider = enforcer(settings)
            own = _builtins(opened, models, lambda: gate.labelled)
        except Misconfigured:
            self.alive.close()
            raise
        carried = {**own, **(builtins or {})}
        self._host = ToolHost(tools, carried, opened.secrets)
        try:
            live.check(tools, self._host)
        except registry.RegistryError as error:
            self._host.close()
            self.alive.close()
            raise Misconfigured(str(error)) from error
        gate = Gate(
            conductor,
            decider,
            profiles_by_name,
            tools,
            self._host,
            models,
            opened.locks,
            known=known(settings),
            crash_point=crash_point,
        )
        if settings.tools_look_s and from_file:
            live.RegistryWatch(
                settings.tool_registry,
                tools,
                offered=lambda new: offer.offered(new, settings),
                trial=lambda new: ToolHost(new, carried, opened.secrets),
                holders=(self._host, gate),
            ).start(settings.tools_look_s)
        self.executor = Executor(
            conductor,
            gate,
            minds,
            holder=self.alive.holder,
            model=models.first,
            step_timeout_s=settings.step_timeout_s,
            acknowledge_after_s=settings.acknowledge_after_s,
            prompts=prompts.book(settings.prompts).current,
            crash_point=crash_point,
        )

    def close(self) -> None:
        """Let go of everything; steps in hand become somebody else's, since the number is let go of."""
        self.executor.close()
        self._host.close()
        self.alive.close()


class Workshop:
    """Everything that works, in this process: relay, sweeper, and a worker with its hands."""

    def __init__(
        self,
        opened: Core,
        *,
        minds: Mapping[Agent, Mind] = MINDS,
        builtins: Builtins | None = None,
        tools: registry.Registry | None = None,
        crash_point: Callable[[str], None] = lambda _: None,
    ) -> None:
        # takes a while to import, which the API should not wait for where others work
        from workers import celery_app

        settings, conductor = opened.settings, opened.conductor
        self._conductor = conductor
        self._in_memory = settings.broker_url.startswith("memory:")
        self._stopping = threading.Event()
        notifier = wiring.notifier(opened)
        self._hands = Hands(opened, minds=minds, builtins=builtins, tools=tools, crash_point=crash_point)
        self._app = celery_app.make(
            settings.broker_url,
            {
                Topic.STEPS: StepConsumer(conductor, self._hands.executor).take,
                Topic.COMPLETIONS: CompletionConsumer(conductor).take,
                Topic.DEAD: DeadLetterConsumer(conductor).take,
            },
        )
        self._ready = threading.Event()
        self._worker = celery_app.worker(
            self._app, concurrency=settings.concurrency, ready=lambda _: self._ready.set()
        )
        bus = CeleryBus(self._app) if self._in_memory else RabbitBus(settings.broker_url)
        relay = Relay(opened.store, bus, ring=conductor.offer_again)
        sweeper = Sweeper(
            conductor,
            every_s=settings.sweep_every_s,
            alive=self._hands.alive.renew,
            locks=opened.locks,
            forget=wiring.forgetter(opened),
        )
        self._threads = [
            threading.Thread(target=self._worker.start, name="worker", daemon=True),
            threading.Thread(target=relay.forever, args=(self._stopping,), name="relay", daemon=True),
            threading.Thread(target=sweeper.forever, args=(self._stopping,), name="sweeper", daemon=True),
            threading.Thread(target=notarise, args=(opened, self._stopping), name="notary", daemon=True),
        ]
        if notifier is not None:
            self._threads.append(
                threading.Thread(
                    target=notifier.forever, args=(self._stopping,), name="notifier", daemon=True
                )
            )
        if not self._in_memory:
            self._threads += [
                threading.Thread(target=loop.forever, args=(self._stopping,), name="consumer", daemon=True)
                for loop in (completions_loop(opened), dead_letters_loop(opened))
            ]

    def start(self, *, timeout_s: float = 30.0) -> None:
        """Begin to work; returns once the worker takes messages, or raises `Unavailable`."""
        self._forget_the_past()
        if self._in_memory:
            # what was queued died with the process that queued it
            self._conductor.offer_again(timedelta(0), limit=_EVERYTHING)
        for thread in self._threads:
            thread.start()
        if not self._ready.wait(timeout_s):
            raise Unavailable(f"The worker did not start within {timeout_s:g} s.")
        log.info("worker.started", holder=self._hands.alive.holder)

    def stop(self, *, leave: bool = False) -> None:
        """Stop taking work. What is in hand goes on to be somebody else's: its number is let go of.

        With `leave`, the process is about to end and Celery's worker is not waited for, which takes seconds.
        """
        self._stopping.set()
        state: Any = _celery_state()
        state.should_stop = 0
        for thread in self._threads[1:] if leave else self._threads:
            if thread.ident is not None:  # it was started
                thread.join(5.0)
        if not leave:
            state.should_stop = None
        self._hands.close()
        log.info("worker.stopped", holder=self._hands.alive.holder)

    @staticmethod
    def _forget_the_past() -> None:
        # Celery keeps this for the process: a worker that stopped here before would stop the next at once
        _celery_state().should_stop = None


def models(settings: Settings) -> catalogue.Catalogue:
    """The language models that are configured, none where there are none. Raises `Misconfigured`."""
    return catalogue.of(settings)


def tool_host(opened: Core) -> ToolHost:
    """The tools of this machine for what is asked outside of plans; whoever asks for it closes it."""
    return ToolHost(_offered(opened.settings), servers(opened), opened.secrets)


def talk(opened: Core, judge: Judge, host: ToolHost) -> Talk:
    """What answers conversations by the configured models, outside of plans."""
    settings = opened.settings
    return Talk(
        opened.store,
        opened.sealer,
        judge,
        host,
        host.registry.tools.get("model_complete"),
        models=models(settings),
        stops=stops(settings),
    )


def desk(opened: Core, decider: Enforcer, host: ToolHost) -> Desk:
    """What calls tools for persons, outside of plans."""
    return Desk(
        opened.store, opened.sealer, decider, _profiles(), host.registry, host, known(opened.settings)
    )


def listener(talker: Talker) -> Listener:
    """What understands conversations: rules, and in doubt the model, where there is one."""
    return Hearing(talker)


def _celery_state() -> Any:
    from celery.worker import state

    return state


def servers(opened: Core) -> Builtins:
    """The tool servers that come with the product, for somebody who puts the rest together otherwise."""
    return _builtins(opened, models(opened.settings))


def _builtins(
    opened: Core, models: catalogue.Catalogue, labelled: Callable[[], Collection[str]] = frozenset
) -> Builtins:
    settings = opened.settings

    def roots() -> list[Path]:
        """The configured folders, and those of the plans in hand where the plans are this machine's owner's."""
        if settings.database_url:
            return list(settings.roots)
        with opened.store.transaction() as tx:
            named = [p.sources.get("documents") for p in tx.plans(limit=500) if p.state in ALIVE]
        return [*settings.roots, *(Path(str(folder)) for folder in named if folder)]

    meaning = semantic.load() if settings.documents_semantic else None

    # each is imported when it is first started: the SDK of MCP comes with it, and what the server itself needs
    def of_documents() -> MCPServer:
        from workers.toolhost.documents import server

        return server.build(roots, settings.data / "indexes", meaning)

    def of_models() -> MCPServer:
        from workers.toolhost import model

        return model.build(models)

    def of_memory() -> MCPServer:
        from workers.toolhost import memory

        return memory.build(opened.store, labelled)

    def of_the_web() -> MCPServer:
        from workers.toolhost import egress, web

        return web.build(egress.Guard(egress.Rules.of(settings.hosts, plain_http=settings.egress_plain_http)))

    return {
        **stock.servers(settings),
        "documents": of_documents,
        "model": of_models,
        "memory": of_memory,
        "web": of_the_web,
    }
