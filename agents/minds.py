"""Who thinks with what."""

from __future__ import annotations

from collections.abc import Mapping

from agents import coder, critic, diverger, generator, judge, keeper, planner, researcher, router, synthesiser
from agents.toolbox import Mind
from orchestrator.domain.plan import Agent

MINDS: Mapping[Agent, Mind] = {
    Agent.ROUTER: router.think,
    Agent.PLANNER: planner.think,
    Agent.RESEARCHER: researcher.think,
    Agent.CODER: coder.think,
    Agent.KEEPER: keeper.think,
    Agent.DIVERGER: diverger.think,
    Agent.GENERATOR: generator.think,
    Agent.CRITIC: critic.think,
    Agent.JUDGE: judge.think,
    Agent.SYNTHESISER: synthesiser.think,
}
