"""A plan of several rounds: killed anywhere it goes on from there, and returned to it makes no call again."""

from __future__ import annotations

import pytest
import structlog

from agents import researcher
from agents.toolbox import CallFailed
from orchestrator.domain import fork
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, CallState, Fact, Phase, PlanState, StepState, request
from tests.contract.bench import InMemoryBench, PostgresBench
from tests.contract.workbench import DOCUMENT, opened

QUOTE = "A lock is held by one 🔒."
DEEP = 3


@pytest.fixture(autouse=True)
def quiet():
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def bench():
    made = InMemoryBench()
    yield made
    made.close()


@pytest.fixture
def light(bench, sealer):
    with opened(bench, sealer) as made:
        yield made


class Killed(BaseException):
    """The process is gone."""


def task(name, *needs, **rest):
    return {"question": f"What is {name}?", "task": name, "after": list(needs), **rest}


def calling(verdict, **rest):
    def think(assignment, toolbox):
        toolbox.call("look", about=f"{assignment.agent} {assignment.round}")
        return Completed(verdict, **rest)

    return think


def found(assignment, toolbox):
    document = toolbox.call("fetch", locator=assignment.brief["task"])
    toolbox.call("send_keyed", about=assignment.brief["task"])
    return Completed("found", facts=[Fact(assignment.step, 1, QUOTE, document.evidence, 0, len(QUOTE), "x")])


def kept(assignment, toolbox):
    toolbox.call("look", about=f"keeper {assignment.round}")
    more = assignment.round == 1
    return Completed("narrow" if more else "sufficient", follow_ups=[task("d")] if more else ())


MINDS = {
    Agent.ROUTER: calling("deep"),
    Agent.PLANNER: calling("planned", follow_ups=[task("a"), task("b"), task("c", "a", "b")]),
    Agent.RESEARCHER: found,
    Agent.KEEPER: kept,
    Agent.DIVERGER: calling("diverged", follow_ups=[task("x", side="against")]),
    Agent.GENERATOR: calling("drafted"),
    Agent.CRITIC: calling("critiqued"),
    Agent.JUDGE: calling("accept"),
    Agent.SYNTHESISER: calling("written", report={"title": "A report", "sections": []}),
}


def begin(work):
    return work.conductor.submit(request("What does a lock do?", depth=DEEP)).plan_id


def run(work, plan_id, crash=lambda _: None):
    """Let one process work on a plan until it ends, or the process does."""
    executor = work.executor(MINDS, crash_point=crash)
    try:
        while work.rows("plan", plan_id).state is not PlanState.SUCCEEDED:
            steps = work.rows("steps", plan_id)
            ended = [s for s in steps if s.state is StepState.SUCCEEDED and not s.settled]
            for step in ended:
                crash("before_settle")
                work.conductor.settle(step.ref)
            for step in [s for s in steps if s.state is StepState.READY]:
                executor.run(step.ref)
    except Killed:
        work.bench.lose(executor._holder)
        work.conductor.rescue()
        return False
    return True


def at(number, names=None):
    """Kill the process when it passes its crash points for this time; tell the names of those it passed."""
    passed = names if names is not None else []

    def crash(name):
        passed.append(name)
        if len(passed) == number:
            raise Killed

    return crash


def named(point):
    """Kill the process when it passes the crash point of this name."""

    def crash(name):
        if name == point:
            raise Killed

    return crash


def undisturbed(sealer):
    bench = InMemoryBench()
    with opened(bench, sealer) as work:
        plan_id, names = begin(work), []
        assert run(work, plan_id, at(0, names))
        steps = [(s.agent, s.round, s.brief.get("task")) for s in work.rows("steps", plan_id)]
        calls = sorted((tool, argument) for tool, argument, _ in work.witness.calls)
    bench.close()
    return steps, calls, names


class TestAPlanThatIsKilled:
    def test_b4_between_any_two_rounds_or_calls_goes_on_from_there_and_repeats_no_call(self, light, sealer):
        """No process lives for long: each dies at another of its crash points, and the next goes on."""
        steps, calls, names = undisturbed(sealer)
        assert len(steps) == len(set(steps))
        assert [s for s in steps if s[0] is Agent.KEEPER] == [
            (Agent.KEEPER, 1, None),
            (Agent.KEEPER, 2, None),
        ]
        deaths = set()
        for life in range(10, 26):
            before = len(light.witness.calls)
            plan_id, passed = begin(light), []
            while not run(light, plan_id, at(life, passed)):
                deaths.add((passed[-1], len(light.rows("steps", plan_id))))
                passed = []
            told = f"each process dies at its {life}th crash point"
            made = light.witness.calls[before:]
            assert sorted((tool, argument) for tool, argument, _ in made) == calls, told
            assert [(s.agent, s.round, s.brief.get("task")) for s in light.rows("steps", plan_id)] == steps, (
                told
            )
            assert light.rows("plan", plan_id).spent.calls == len(calls), told
            assert light.chain_holds(plan_id), told
        assert {name for name, _ in deaths} == set(names)
        assert len(deaths) > 40

    def test_b1_b2_is_nowhere_but_in_the_store_so_that_any_process_takes_any_step(self, light, sealer):
        """Each process takes one step or settles one, and is gone; the graph is in no memory."""
        steps, calls, _ = undisturbed(sealer)
        plan_id = begin(light)
        while light.rows("plan", plan_id).state is not PlanState.SUCCEEDED:
            open_ = [s for s in light.rows("steps", plan_id) if not s.settled]
            if open_[0].state is StepState.SUCCEEDED:
                light.conductor_on(light.store).settle(open_[0].ref)
            else:
                light.executor(MINDS).run(open_[0].ref)

        assert [(s.agent, s.round, s.brief.get("task")) for s in light.rows("steps", plan_id)] == steps
        assert sorted((tool, argument) for tool, argument, _ in light.witness.calls) == calls
        phases = [s.phase for s in light.rows("steps", plan_id)]
        assert set(phases) == set(Phase)

    @pytest.mark.postgres
    def test_b4_in_every_process_gets_one_step_further_with_each_on_postgres(self, dsn, sealer):
        _, calls, _ = undisturbed(sealer)
        bench = PostgresBench(dsn)
        with opened(bench, sealer) as work:
            plan_id, deaths = begin(work), 0
            while not run(work, plan_id, at(18)):
                deaths += 1
            assert deaths > 2
            assert sorted((t, a) for t, a, _ in work.witness.calls) == calls
            assert work.chain_holds(plan_id)
        bench.close()

    def test_b4_is_returned_to_any_of_its_checkpoints_without_a_call_of_what_came_before(self, light, sealer):
        steps, calls, _ = undisturbed(sealer)
        plan_id = begin(light)
        assert run(light, plan_id)
        whole = light.rows("steps", plan_id)
        assert fork.checkpoints(whole) == tuple(s.number for s in whole)
        for step in whole:
            before = len(light.witness.calls)
            new = light.conductor.fork(plan_id, from_step=step.number, by="ann").plan_id
            taken = {s.number for s in light.rows("steps", new) if s.state is StepState.SUCCEEDED}
            assert run(light, new)

            again = [(tool, argument) for tool, argument, _ in light.witness.calls[before:]]
            assert len(again) == len(calls) - sum(c.step in taken for c in light.rows("calls", plan_id))
            assert not {c.step for c in light.rows("calls", new)} & taken
            assert sorted(
                (s.agent, s.round, s.brief.get("task") or "") for s in light.rows("steps", new)
            ) == sorted((agent, round_, name or "") for agent, round_, name in steps)


class TestWhatAToolAnswers:
    def test_b28_is_stored_as_evidence_before_a_mind_sees_it(self, light):
        """The mind of the first process never gets the answer; that of the second gets it from the evidence."""
        seen = []

        def look(assignment, toolbox):
            document = toolbox.call("fetch", locator="locks.md")
            seen.append(toolbox.evidence(document.evidence).text)
            return Completed("found")

        ref = light.submit()
        with pytest.raises(Killed):
            light.executor({Agent.RESEARCHER: look}, crash_point=named("after_call")).run(ref)
        (call,) = light.rows("calls", ref.plan_id)
        assert seen == []
        assert call.state is CallState.DONE
        assert light.rows("evidence", "default", call.evidence).text == DOCUMENT

        light.bench.lose(light._executors[-1]._holder)
        light.conductor.rescue()
        light.executor({Agent.RESEARCHER: look}).run(ref)
        assert seen == [DOCUMENT]
        assert len(light.witness.calls) == 1

    def test_b28_is_never_seen_by_a_mind_if_it_was_not_stored(self, light):
        """The process dies when the tool has answered and nothing is stored: the mind never began to use it."""
        seen = []

        def look(assignment, toolbox):
            seen.append(toolbox.call("look", about="locks"))
            return Completed("found")

        ref = light.submit()
        with pytest.raises(Killed):
            light.executor({Agent.RESEARCHER: look}, gate=light.gate(crash_point=named("after_answer"))).run(
                ref
            )
        assert seen == []
        assert [c.state for c in light.rows("calls", ref.plan_id)] == [CallState.INTENDED]

    @pytest.mark.parametrize("failing", ["fails", "crashes", "hangs_sync"])
    def test_b24_of_a_failed_call_stays_in_the_journal_and_out_of_evidence_and_facts(self, light, failing):
        plan_id = light.submit().plan_id
        ref = light.another(
            plan_id,
            brief={"question": "What does a lock do?", "tool": failing, "fallbacks": ["fetch"], "inputs": {}},
        )
        light.executor({Agent.RESEARCHER: _with_locator}).run(ref)

        calls = {c.tool: c for c in light.rows("calls", plan_id)}
        assert calls[failing].state in {CallState.FAILED, CallState.UNKNOWN}
        assert (calls[failing].evidence, set(calls[failing].result)) == (None, {"reason"})
        assert calls["fetch"].state is CallState.DONE
        facts = light.rows("facts", plan_id)
        assert facts
        assert {f.evidence for f in facts} == {calls["fetch"].evidence}
        assert all(DOCUMENT[f.start : f.end] == f.quote for f in facts)
        assert light.rows("step", ref).result["tried"][0]["tool"] == failing


def _with_locator(assignment, toolbox):
    """The researcher; the workbench's tools want an argument that depends on the tool."""

    class Box:
        model = ""
        charter = ""
        evidence = staticmethod(toolbox.evidence)

        @staticmethod
        def call(tool, **arguments):
            given = {"locator": "locks.md"} if tool == "fetch" else arguments
            return toolbox.call(tool, **given)

    return researcher.think(assignment, Box)


def test_a_call_that_failed_is_one_that_the_gate_says_has_failed():
    from workers.gate import gate

    assert gate.CallFailed is CallFailed
