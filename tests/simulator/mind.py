"""What the agents of a simulated world will do: a script for each step, drawn once, from the world's own dice."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from orchestrator.domain.outcome import Completed, Faulted, Outcome, Refused
from orchestrator.domain.plan import Agent, Claimed, Fact, Semantics

SEMANTICS = (Semantics.IDEMPOTENT, Semantics.KEYED, Semantics.AT_MOST_ONCE)
TROUBLES = ("fail", "time out", "hang", "die", "lose outcome")
REPORT = {"title": "A report", "sections": []}
VERDICTS = {
    Agent.GENERATOR: "drafted",
    Agent.CRITIC: "critiqued",
    Agent.SYNTHESISER: "written",
}


@dataclass(slots=True)
class Tool:
    """One call a step makes. `troubles` come first, one for each time the call is made; `endless` never ends."""

    key: str
    occurrence: int
    semantics: Semantics
    troubles: list[str]
    endless: str | None = None

    def trouble(self, *, healed: bool) -> str | None:
        if healed:
            return None
        if self.troubles:
            return self.troubles.pop()
        return self.endless


@dataclass(slots=True)
class Script:
    """What a step will do: moods that spoil a run, calls, whether a human must agree first, and how it ends."""

    verdict: str
    follow_ups: tuple
    moods: list[str] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    asks: bool = False
    end: str = "completed"

    def mood(self, *, healed: bool) -> str | None:
        return self.moods.pop() if self.moods and not healed else None


@dataclass(frozen=True, slots=True)
class Temper:
    """How the minds and tools of one world behave: chances from 0.0 to 1.0.

    In a quarrel the steps of one round are held, refused and given up on while their peers still run.
    """

    deep: float
    calls: float
    trouble: float
    mood: float
    ask: float
    bad_end: float
    narrow: float
    revise: float
    quarrel: bool
    needy: float
    empty: float

    @staticmethod
    def draw(dice: Random) -> Temper:
        rnd = dice.random
        quarrel = rnd() < 0.2
        return Temper(
            deep=1.0 if quarrel else rnd() * 0.8,
            calls=rnd() * 1.4,
            trouble=rnd() * 0.6 if rnd() < 0.6 else 0.0,
            mood=rnd() * 0.4 if rnd() < 0.6 else 0.0,
            ask=rnd() * 0.3 if rnd() < 0.4 else 0.0,
            bad_end=rnd() * 0.2 if rnd() < 0.4 else 0.0,
            narrow=rnd() * 0.6,
            revise=rnd() * 0.6,
            quarrel=quarrel,
            needy=rnd() * 0.7 if rnd() < 0.6 else 0.0,
            empty=rnd() * 0.6,
        )


def script(claimed: Claimed, temper: Temper, dice: Random) -> Script:
    """Draw what this step will do, whoever runs it and however often."""
    rnd = dice.random
    follow_ups = ()
    agent = claimed.step.agent
    if agent is Agent.ROUTER:
        verdict = "deep" if rnd() < temper.deep else "casual"
    elif agent is Agent.PLANNER:
        verdict, follow_ups = "planned", _briefs("p", 3 if temper.quarrel else int(rnd() * 4), temper, dice)
    elif agent is Agent.KEEPER:
        verdict, follow_ups = "sufficient", _briefs(f"k{claimed.step.round}", int(rnd() * 4), temper, dice)
        if rnd() < temper.narrow:
            verdict = "narrow"
    elif agent is Agent.DIVERGER:
        verdict, follow_ups = "diverged", _briefs("d", int(rnd() * 4), temper, dice)
    elif agent.looks:
        verdict = "nothing" if rnd() < temper.empty else "found"
    elif agent is Agent.JUDGE:
        verdict = "revise" if rnd() < temper.revise else "accept"
    else:
        verdict = VERDICTS[agent]
    made = Script(verdict, follow_ups)
    for i in range(int(rnd() * temper.calls * 3)):
        made.tools.append(_tool(i, temper, dice))
    if temper.mood:
        while rnd() < temper.mood:
            made.moods.append(("snooze", "fault", "die", "hang")[int(rnd() * 4)])
    quarrel = 0.3 if temper.quarrel and agent.looks else 0.0
    made.asks = rnd() < temper.ask + quarrel
    if rnd() < temper.bad_end + quarrel:
        made.end = ("refused", "failed", "poison", "killer")[int(rnd() * 4)]
    return made


def _briefs(prefix: str, number: int, temper: Temper, dice: Random) -> tuple:
    """Tasks that need each other now and then: an earlier one, a later one, themselves, or one that nobody knows."""
    made = []
    for i in range(number):
        brief = {"question": f"question {prefix}{i}", "task": f"{prefix}{i}"}
        if dice.random() < temper.needy:
            brief["after"] = [f"{prefix}{dice.choice((0, 0, 0, 1, 2, 9))}"]
        if dice.random() < 0.2:
            brief["tool"] = "code_run"
        made.append(brief)
    return tuple(made)


def _tool(i: int, temper: Temper, dice: Random) -> Tool:
    rnd = dice.random
    same = i == 1 and rnd() < 0.3  # the same call twice in one step: told apart by its occurrence
    tool = Tool("call 0" if same else f"call {i}", int(same), SEMANTICS[int(rnd() * 3)], [])
    if temper.trouble:
        while rnd() < temper.trouble:
            tool.troubles.append(TROUBLES[int(rnd() * 5)])
        if rnd() < temper.trouble * 0.1:
            tool.endless = ("fail", "die")[int(rnd() * 2)]
    return tool


def finish(
    made: Script, claimed: Claimed, evidence: str | None, *, cut: bool, healed: bool
) -> Outcome | None:
    """How a run of the script ends when nothing spoiled it; `None` when it kills its worker."""
    end = "completed" if healed else made.end
    if end == "refused":
        return Refused("missing_capability", "Policy said no.")
    if end == "failed":
        return Faulted("broken", "This cannot be mended by trying again.", retryable=False)
    if end == "poison":
        return Faulted("poison", "This fails whenever it is tried.")
    if end == "killer":
        return None
    agent = claimed.step.agent
    facts = ()
    if agent.looks and evidence is not None:
        # the score carries the claim that wrote the fact, so that the promises can tell who did
        number = claimed.step.number
        facts = tuple(Fact(number, i, "q", evidence, 0, 1, "doc", score=claimed.claim) for i in (1, 2))
    return Completed(
        made.verdict,
        follow_ups=made.follow_ups,
        facts=facts,
        result={"confidence": 1.0} if agent is Agent.JUDGE else {},
        report=REPORT if agent is Agent.SYNTHESISER else None,
        partial=cut,
    )
