"""A finished plan thought again from its recording: the same to the byte, or the step that is not; and nobody is asked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import timedelta

import pytest

from agents import generator, keeper, profiles, researcher
from agents.minds import MINDS
from orchestrator.domain.errors import Conflict, Invalid
from orchestrator.domain.plan import Agent, CallState, Evidence, StepState, request
from tests.contract.bench import InMemoryBench, PostgresBench
from tests.contract.test_model import (  # noqa: F401 - fixtures
    by_task,
    endpoint,
    folder,
    planned,
    real_tools,
    run_to_the_end,
    said,
)
from tests.contract.workbench import ROOT
from workers import recording
from workers.replay import replay

GOAL = "What is a lock? Who may take a lock that is held? What is a gnu?"
ANSWER = {"text": "A lock is a thing that is held by one at a time.", "facts": ["F3.1"]}
HELPFUL = by_task(planned("Who may take a lock?"), {"sentences": [ANSWER]})


@pytest.fixture
def work(sealer, endpoint, folder, tmp_path):  # noqa: F811
    endpoint.answer = HELPFUL
    bench = InMemoryBench()
    with real_tools(bench, sealer, endpoint, folder, tmp_path / "cache") as made:
        yield made
    bench.close()


@pytest.fixture
def recorded(work, folder):  # noqa: F811
    plan, _ = run_to_the_end(work, folder, goal=GOAL)
    return record(work, plan.plan_id, "m-1")


def record(work, plan_id, model="m-1"):
    gate = work.gate(profiles=profiles.load(ROOT / "agents"))
    return recording.of(work.store, plan_id, model=model, cards=gate.cards, charter=gate.charter)


def of(found, agent):
    """The last step of an agent."""
    return [step for step in found.steps if step.agent is agent][-1]


def with_step(found, agent, **changes):
    step = of(found, agent)
    return replace(found, steps=[replace(s, **changes) if s is step else s for s in found.steps])


def diverged(found, minds=MINDS):
    came = replay(found, minds)
    assert came.divergence is not None
    return came.divergence


class TestAReplay:
    @pytest.mark.parametrize("model_name", ["m-1", ""], ids=["with a model", "extractive"])
    def test_comes_out_the_same_and_asks_nobody(self, work, folder, endpoint, model_name):  # noqa: F811
        plan, _ = run_to_the_end(work, folder, goal=GOAL, model_name=model_name)
        found = record(work, plan.plan_id, model_name)
        asked = len(endpoint.requests)
        work.host.close()
        endpoint.close()
        shutil.rmtree(folder)

        came = replay(found, MINDS)

        assert came.divergence is None
        assert (came.steps, came.calls) == (len(found.steps), len(found.calls))
        assert len(endpoint.requests) == asked
        assert bool(asked) is bool(model_name)

    @pytest.mark.postgres
    def test_of_a_plan_in_postgres_comes_out_the_same_from_a_file(
        self,
        dsn,
        sealer,
        endpoint,  # noqa: F811
        folder,  # noqa: F811
        tmp_path,
    ):
        endpoint.answer = HELPFUL
        bench = PostgresBench(dsn)
        with real_tools(bench, sealer, endpoint, folder, tmp_path / "cache") as work:
            plan, _ = run_to_the_end(work, folder, goal=GOAL)
            found = record(work, plan.plan_id, "m-1")
        bench.close()
        path = tmp_path / "recording.json"
        path.write_bytes(found.as_json())

        again = recording.read(path)

        assert again.as_json() == found.as_json()
        assert replay(again, MINDS).divergence is None

    def test_of_a_plan_that_ran_out_of_tokens_runs_out_of_them_again(self, work, folder, endpoint):  # noqa: F811
        endpoint.answer = lambda body: (
            200,
            {**HELPFUL(body)[1], "usage": {"prompt_tokens": 1, "completion_tokens": 3_999}},
        )
        plan, _ = run_to_the_end(work, folder, goal=GOAL, tokens=6_000)
        assert plan.partial

        assert replay(record(work, plan.plan_id, "m-1"), MINDS).divergence is None

    def test_of_a_plan_whose_time_was_up_skips_what_was_skipped(self, work, folder):  # noqa: F811
        plan_id = work.conductor.submit(request(GOAL, sources={"documents": str(folder)})).plan_id
        finish(work, plan_id, until=Agent.RESEARCHER)
        work.bench.clock.advance(timedelta(days=1))
        finish(work, plan_id)
        found = record(work, plan_id, "m-1")
        assert StepState.SKIPPED in {step.state for step in found.steps}

        assert replay(found, MINDS).divergence is None

    @pytest.mark.parametrize("agent", [Agent.RESEARCHER, Agent.GENERATOR])
    def test_of_a_fork_goes_on_from_where_it_was_forked(self, work, recorded, agent):
        step = next(s for s in recorded.steps if s.agent is agent)
        fork = work.conductor.fork(recorded.plan.plan_id, from_step=step.number, by="ada")
        finish(work, fork.plan_id)
        came = replay(record(work, fork.plan_id, "m-1"), MINDS)

        assert came.divergence is None
        assert came.steps < len(recorded.steps)

    def test_follows_the_order_in_which_steps_ended(self, work, folder):  # noqa: F811
        plan_id = work.conductor.submit(request(GOAL, sources={"documents": str(folder)})).plan_id
        finish(work, plan_id, backwards=True)

        assert replay(record(work, plan_id, "m-1"), MINDS).divergence is None

    @pytest.mark.parametrize(("seen", "same"), [(0, True), (1, True), (99, False)])
    def test_lets_a_step_have_seen_what_its_peers_had_found_or_not_yet(self, recorded, seen, same):
        def think(assignment, toolbox):
            return replace(
                researcher.think(assignment, toolbox), result={"seen": min(1, len(assignment.facts))}
            )

        looking = [s for s in recorded.steps if s.agent is Agent.RESEARCHER and s.round == 1]
        steps = {s.number: replace(s, result={"seen": min(1, n)}) for n, s in enumerate(looking)}
        second = looking[1].number
        steps[second] = replace(steps[second], result={"seen": seen})
        altered = [steps.get(s.number, s) for s in recorded.steps if s.round < 2]
        came = replay(replace(recorded, steps=altered), {**MINDS, Agent.RESEARCHER: think})

        assert (came.divergence is None or came.divergence.step != second) is same

    def test_tries_a_step_for_the_last_time_that_was(self, recorded):
        def think(assignment, toolbox):
            return replace(keeper.think(assignment, toolbox), result={"last": assignment.last_attempt})

        first = next(s for s in recorded.steps if s.agent is Agent.KEEPER)
        for attempt, last in ((1, False), (first.max_attempts, True)):
            tried = replace(first, attempt=attempt, result={"last": last})
            steps = [tried if s is first else s for s in recorded.steps]
            came = replay(replace(recorded, steps=steps), {**MINDS, Agent.KEEPER: think})
            assert came.divergence is None or came.divergence.step > first.number

    def test_takes_the_answer_of_whichever_model_answered(self, recorded):
        call = next(c for c in recorded.calls if c.tool == "model_complete")
        down = replace(
            call,
            state=CallState.FAILED,
            evidence=None,
            result={"reason": "model_unavailable"},
            arguments={**call.arguments, "model": "another"},
        )
        for calls in ([down, *recorded.calls], [*recorded.calls, down]):
            assert replay(replace(recorded, calls=calls), MINDS).divergence is None


class TestADivergence:
    def test_names_the_step_whose_mind_is_another(self, recorded):
        def think(assignment, toolbox):
            came = keeper.think(assignment, toolbox)
            return replace(came, result={**came.result, "answered": 99})

        found = diverged(recorded, {**MINDS, Agent.KEEPER: think})

        first = next(s for s in recorded.steps if s.agent is Agent.KEEPER)
        assert (found.step, found.agent, found.what) == (first.number, "keeper", "result")
        assert "99" in found.replayed
        assert "99" not in found.recorded

    def test_names_the_step_whose_prompt_is_another(self, recorded, monkeypatch):
        monkeypatch.setattr(generator, "TASK", "Choose the facts that please the reader.")
        found = diverged(recorded)

        first = next(s for s in recorded.steps if s.agent is Agent.GENERATOR)
        assert (found.step, found.agent) == (first.number, "generator")
        assert found.what == "a call of model_complete that was not made then"
        assert "please the reader" in found.replayed
        assert "please the reader" not in found.recorded

    def test_names_the_step_whose_mind_breaks(self, recorded):
        def think(assignment, toolbox):
            raise ZeroDivisionError

        found = diverged(recorded, {**MINDS, Agent.CRITIC: think})

        assert (found.agent, found.what) == ("critic", "state")
        assert "ZeroDivisionError" in found.replayed

    def test_names_the_step_that_a_model_s_altered_answer_changes(self, recorded):
        call = next(c for c in recorded.calls if c.tool == "model_complete")
        answer = next(e for e in recorded.evidence if e.sha256 == call.evidence)
        lie = Evidence.of(answer.text.replace("Who may take", "Who made"), locator=answer.locator)
        calls = [replace(c, evidence=lie.sha256) if c is call else c for c in recorded.calls]
        found = diverged(replace(recorded, calls=calls, evidence=[*recorded.evidence, lie]))

        assert (found.step, found.agent) == (call.step, "planner")

    @pytest.mark.parametrize(
        ("agent", "changes", "what"),
        [
            (Agent.ROUTER, {"verdict": "casual"}, "verdict"),
            (Agent.PLANNER, {"result": {}}, "result"),
            (Agent.PLANNER, {"follow_ups": ()}, "follow_ups"),
            (Agent.RESEARCHER, {"brief": {"question": "Another?"}}, "brief"),
            (Agent.GENERATOR, {"result": {}}, "result"),
            (Agent.JUDGE, {"verdict": "reject"}, "verdict"),
        ],
    )
    def test_names_what_was_altered_in_a_step(self, recorded, agent, changes, what):
        found = diverged(with_step(recorded, agent, **changes))

        assert (found.step, found.agent, found.what) == (of(recorded, agent).number, agent.value, what)

    def test_names_the_step_of_an_altered_fact(self, recorded):
        first, *rest = recorded.facts
        found = diverged(replace(recorded, facts=[replace(first, quote="cheese"), *rest]))

        assert (found.step, found.what) == (first.step, "facts")
        assert "cheese" in found.recorded

    def test_names_the_plan_for_an_altered_report(self, recorded):
        found = diverged(replace(recorded, report={**recorded.report, "goal": "Is it cheese?"}))

        assert (found.step, found.what) == (0, "report")

    def test_names_a_step_that_was_never_there(self, recorded):
        steps = [s for s in recorded.steps if s.agent is not Agent.SYNTHESISER]

        assert "not planned" in diverged(replace(recorded, steps=steps)).what


class TestARecording:
    def test_of_an_unfinished_plan_is_refused(self, work, folder):  # noqa: F811
        plan = work.conductor.submit(request(GOAL, sources={"documents": str(folder)}))

        with pytest.raises(Conflict, match="only one that has succeeded"):
            record(work, plan.plan_id, "")

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", "{}", '{"v": 2}', '{"v": 1, "plan": {}}', "[" * 100_000]
    )
    def test_that_is_none_is_refused(self, tmp_path, content):
        path = tmp_path / "recording.json"
        path.write_text(content)

        with pytest.raises(Invalid, match=r"recording\.json"):
            recording.read(path)

    def test_whose_sources_were_altered_is_refused(self, recorded, tmp_path):
        path = tmp_path / "recording.json"
        found = json.loads(recorded.as_json())
        found["evidence"][0]["text"] += " Cheese."
        path.write_text(json.dumps(found))

        with pytest.raises(Invalid, match="was altered"):
            recording.read(path)


def finish(work, plan_id, *, until=None, backwards=False):
    """Work a plan off, perhaps until the first step of an agent is ready, perhaps the last steps first."""
    gate = work.gate(profiles=profiles.load(ROOT / "agents"))
    executor = work.executor(MINDS, gate=gate, model="m-1")
    for _ in range(60):
        steps = work.rows("steps", plan_id)
        ready = [s for s in steps if s.state is StepState.READY]
        if work.rows("plan", plan_id).finished_at or until in {s.agent for s in ready}:
            return
        for step in reversed(ready) if backwards else ready:
            executor.run(step.ref)
        ended = [
            s for s in work.rows("steps", plan_id) if s.state in {StepState.SUCCEEDED, StepState.SKIPPED}
        ]
        for step in reversed(ended) if backwards else ended:
            if not step.settled:
                work.conductor.settle(step.ref)
