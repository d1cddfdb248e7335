"""Consensus as it is kept: each round a row, resumed wherever a worker dies, with a model that counts its calls."""

from __future__ import annotations

import json
from collections import Counter

import psycopg
import pytest

from agents import profiles
from agents.minds import MINDS
from orchestrator import store
from orchestrator.domain.budget import Budget
from orchestrator.domain.consensus import Decision, Why
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, CallState, PlanState, StepRef, StepState, request
from orchestrator.queries import queries
from tests.contract.bench import InMemoryBench, PostgresBench, new_plan
from tests.contract.test_model import KEY_VARIABLE, Endpoint, real_tools, said
from tests.contract.workbench import ROOT, opened

PROFILES = profiles.load(ROOT / "agents")
GOAL = "What is a lock?"
TEXT = (
    "# Locks\n\nA lock is a thing that is held by one at a time. Nobody else may take a lock that is held.\n"
)
PARAPHRASES = ("A lock is held alone.", "A lock has a single holder.", "A lock has but one holder.")


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sk-nobodys")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Endpoint()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "library"
    made.mkdir()
    (made / "locks.md").write_text(TEXT)
    return made


@pytest.fixture
def bench():
    made = InMemoryBench()
    yield made
    made.close()


@pytest.fixture
def work(bench, sealer, endpoint, folder, tmp_path):
    with real_tools(bench, sealer, endpoint, folder, tmp_path / "cache") as made:
        yield made


class Debate:
    """A model that drafts another sentence each round, and judges as it is told; it knows its part by its task."""

    def __init__(self, *judgements, drafts=PARAPHRASES, critic="supported"):
        self.judgements = list(judgements)
        self.drafts = drafts
        self.critic = critic
        self.heard = Counter()

    def __call__(self, body):
        task = body["messages"][0]["content"]
        told = body["messages"][1]["content"]
        data = json.loads(told.partition("<data>\n")[2].partition("\n</data>")[0])
        part, reply = self._reply(task, data)
        self.heard[part] += 1
        return 200, said(reply if isinstance(reply, str) else json.dumps(reply))

    def _reply(self, task, data):
        if "Judge a draft" in task:
            return "judge", self.judgements[min(self.heard["judge"], len(self.judgements) - 1)]
        if "numbered sentence" in task:
            verdicts = [{"n": s["n"], "verdict": self.critic, "why": "So."} for s in data["sentences"]]
            return "critic", {"verdicts": verdicts}
        if "Answer the goal from the facts" in task:
            text = self.drafts[min(self.heard["generator"], len(self.drafts) - 1)]
            return "generator", {"sentences": [{"text": text, "facts": [data["facts"][0]["name"]]}]}
        return "planner", {"questions": []}


def verdict(name, sure, *reasons):
    return {"verdict": name, "confidence": sure, "reasons": list(reasons)}


def submit(work, folder, *, depth=2, budget=None, **metadata):
    asked = request(
        GOAL,
        depth=depth,
        sources={"documents": str(folder)},
        budget=Budget(**(budget or {})),
        metadata=metadata,
    )
    return work.conductor.submit(asked).plan_id


def work_on(work, plan_id, *, model="m-1", by=None, crash_point=lambda _: None):
    """Let one process run what is ready and settle what is finished until the plan has ended."""
    executor = by or work.executor(MINDS, gate=work.gate(profiles=PROFILES), model=model)
    while not work.rows("plan", plan_id).finished_at:
        stuck = [s.reason for s in work.rows("steps", plan_id) if s.state is StepState.RETRYING]
        assert not stuck, stuck  # nobody wakes it here
        for step in work.rows("steps", plan_id):
            if step.state is StepState.READY:
                executor.run(step.ref)
        for step in work.rows("steps", plan_id):
            if step.state is StepState.SUCCEEDED and not step.settled:
                crash_point("before_settle")
                work.conductor.settle(step.ref)
                crash_point("after_settle")


def run(work, folder, **rest):
    plan_id = submit(work, folder, **rest)
    work_on(work, plan_id)
    return plan_id


def ballots(work, plan_id):
    return [(b.round, b.verdict, b.confidence, b.decided, b.why) for b in work.rows("ballots", plan_id)]


class TestADebate:
    def test_b5_leaves_a_row_for_each_round_and_ends_once_the_judge_is_sure_enough(
        self, work, endpoint, folder
    ):
        endpoint.answer = Debate(verdict("accept", 0.91, "Nearly."), verdict("accept", 0.91, "Fine."))

        plan_id = run(work, folder)

        assert ballots(work, plan_id) == [
            (0, "accept", 0.91, Decision.REVISE, None),
            (1, "accept", 0.91, Decision.ACCEPTED, None),
        ]
        assert work.rows("report", plan_id)["verdict"] != "needs_review"
        first, second = work.rows("ballots", plan_id)
        steps = work.rows("steps", plan_id)
        for ballot in (first, second):
            agents = [steps[n - 1].agent for n in (ballot.generator, ballot.critic, ballot.judge)]
            assert agents == [Agent.GENERATOR, Agent.CRITIC, Agent.JUDGE]
            assert {steps[n - 1].round for n in (ballot.generator, ballot.judge)} == {ballot.round}
        assert first.draft != second.draft

    def test_tells_whoever_listens_what_each_round_came_to(self, work, endpoint, folder):
        endpoint.answer = Debate(verdict("reject", 0.9, "The facts say nothing of it."))

        plan_id = run(work, folder)

        events = {e.kind: e.body for e in work.rows("events", plan_id)}
        assert events["ballot.cast"] == {
            "step": events["ballot.cast"]["step"],
            "agent": "judge",
            "round": 0,
            "verdict": "reject",
            "confidence": 0.9,
            "threshold": 0.95,
            "objections": 0,
            "decided": "needs_review",
            "why": "rejected",
        }
        assert (events["plan.ended"]["state"], events["plan.ended"]["verdict"]) == (
            "succeeded",
            "needs_review",
        )

    @pytest.mark.parametrize(
        ("judgements", "why"),
        [
            ([verdict("reject", 1.0, "No.")], Why.REJECTED),
            ([verdict("revise", 0.9, "Not yet.")], Why.ROUNDS),
            ([verdict("accept", 0.1, "Perhaps.")], Why.ROUNDS),
            (["**VERDICT:** accept\n**CONFIDENCE:** 0.97"], Why.ROUNDS),
        ],
    )
    def test_b44_that_ends_without_acceptance_is_never_an_answer(
        self, work, endpoint, folder, judgements, why
    ):
        endpoint.answer = Debate(*judgements)

        plan_id = run(work, folder)

        *_, last = work.rows("ballots", plan_id)
        assert (last.decided, last.why) == (Decision.NEEDS_REVIEW, why)
        assert work.rows("plan", plan_id).state is PlanState.SUCCEEDED
        assert work.rows("report", plan_id)["verdict"] == "needs_review"

    def test_b9_whose_judge_cannot_be_read_costs_one_more_call_a_round(self, work, endpoint, folder):
        endpoint.answer = debate = Debate("accept")

        plan_id = run(work, folder)

        assert debate.heard["judge"] == 4
        assert [b[:3] for b in ballots(work, plan_id)] == [(0, "revise", 0.0), (1, "revise", 0.0)]

    @pytest.mark.parametrize(
        "reply", ["Sure!", "", '{"verdict": "accept", "verdict": "accept"}', "[" * 9_999]
    )
    def test_with_a_model_that_never_answers_as_asked_quotes_and_needs_review(
        self, work, endpoint, folder, reply
    ):
        endpoint.answer = lambda body: (200, said(reply))

        plan_id = run(work, folder)

        agents = [s.agent for s in work.rows("steps", plan_id)]
        of_step = Counter(
            agents[c.step - 1] for c in work.rows("calls", plan_id) if c.tool == "model_complete"
        )
        assert set(of_step.values()) == {2, 4}  # one retry, in each of two rounds
        assert of_step[Agent.JUDGE] == of_step[Agent.GENERATOR] == 4
        report = work.rows("report", plan_id)
        assert report["verdict"] == "needs_review"
        assert [s["text"] in TEXT for section in report["sections"] for s in section["sentences"]] == [True]

    def test_that_goes_round_in_circles_says_so(self, work, endpoint, folder):
        endpoint.answer = Debate(verdict("revise", 0.9, "Again."), drafts=PARAPHRASES[:1])

        plan_id = run(work, folder, consensus_rounds=50)

        assert [b.why for b in work.rows("ballots", plan_id)] == [None, Why.NO_PROGRESS]

    def test_accepts_nothing_with_a_number_that_its_evidence_does_not_hold(self, work, endpoint, folder):
        endpoint.answer = Debate(verdict("accept", 1.0, "Fine."), drafts=["A lock is held by 7."])

        plan_id = run(work, folder)

        assert {(b.objections, b.verdict) for b in work.rows("ballots", plan_id)} == {(1, "revise")}
        assert work.rows("report", plan_id)["verdict"] == "needs_review"

    def test_tells_the_generator_what_the_critic_objected_to(self, work, endpoint, folder):
        endpoint.answer = Debate(verdict("revise", 0.9, "Mend it."), critic="unsupported")

        run(work, folder)

        *_, again = [
            json.dumps(body) for _, body in endpoint.requests if "Answer the goal from the facts" in str(body)
        ]
        assert PARAPHRASES[0] in again
        assert "Mend it." in again

    def test_b6_goes_on_for_as_many_rounds_as_were_asked_for_and_the_threshold_sinks(
        self, work, endpoint, folder
    ):
        endpoint.answer = Debate(
            verdict("accept", 0.66, "Hm."),
            drafts=[f"A lock has {'very ' * n}few holders." for n in range(20)],
        )

        plan_id = run(work, folder, consensus_rounds=32_768)

        found = work.rows("ballots", plan_id)
        assert [b.threshold for b in found] == [0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65]
        assert found[-1].decided is Decision.ACCEPTED

    def test_ends_when_the_steps_of_the_budget_do(self, work, endpoint, folder):
        drafts = [f"A lock has {'very ' * n}few holders." for n in range(50)]
        endpoint.answer = Debate(verdict("revise", 0.9, "Not yet."), drafts=drafts)

        plan_id = run(work, folder, budget={"steps": 20}, consensus_rounds=32_768)

        *_, last = work.rows("ballots", plan_id)
        plan = work.rows("plan", plan_id)
        assert (last.why, plan.partial) == (Why.BUDGET, True)
        assert plan.spent.steps <= 20

    def test_without_a_model_accepts_quotes_in_one_round_and_gives_the_same_each_time(
        self, work, endpoint, folder
    ):
        reports = []
        for _ in range(2):
            plan_id = submit(work, folder)
            work_on(work, plan_id, model="")
            reports.append(work.rows("report", plan_id))
            assert ballots(work, plan_id) == [(0, "accept", 0.95, Decision.ACCEPTED, None)]

        assert reports[0] == reports[1]
        assert reports[0]["verdict"] == "answered"
        assert endpoint.requests == []

    def test_whose_budget_of_calls_is_spent_ends_all_the_same(self, work, endpoint, folder):
        endpoint.answer = Debate(verdict("revise", 0.9, "Not yet."))
        plan_id = run(work, folder, budget={"calls": 5}, consensus_rounds=9)

        plan = work.rows("plan", plan_id)
        assert (plan.state, plan.partial, plan.spent.calls) == (PlanState.SUCCEEDED, True, 5)
        assert work.rows("ballots", plan_id)

    def test_is_taken_over_by_a_fork_as_far_as_its_rounds_are(self, work, endpoint, folder):
        endpoint.answer = Debate(verdict("revise", 0.9, "Not yet."), verdict("accept", 0.99, "Fine."))
        plan_id = run(work, folder)
        again = work.rows("ballots", plan_id)[1].generator

        fork = work.conductor.fork(plan_id, from_step=again, by="ada").plan_id

        assert [b.round for b in work.rows("ballots", fork)] == [0]
        calls = len(endpoint.requests)
        work_on(work, fork)
        assert [b.round for b in work.rows("ballots", fork)] == [0, 1]
        assert len(endpoint.requests) == calls + 3


class Killed(BaseException):
    """The process is gone."""


JUDGEMENTS = (verdict("revise", 0.9, "Not yet."), verdict("accept", 0.99, "Fine."))
PARTS = Counter(generator=2, critic=2, judge=2)
POINTS = {"before_call", "after_call", "before_report", "after_report", "before_settle", "after_settle"}


class Mortal:
    """A process that dies at the n-th point that it comes to, and the one that goes on after it."""

    def __init__(self, work, endpoint, plan_id, nth):
        self.points = []
        self._work = work
        self._nth = nth
        endpoint.answer = self.model = Debate(*JUDGEMENTS)
        self.plan_id = plan_id
        self._live()

    def _live(self):
        work = self._work
        executor = work.executor(
            MINDS, gate=work.gate(profiles=PROFILES), model="m-1", crash_point=self._point
        )
        try:
            work_on(work, self.plan_id, by=executor, crash_point=self._point)
        except Killed:
            work.bench.lose(executor._holder)
            work.conductor.rescue()
            work_on(work, self.plan_id)

    def _point(self, name):
        if name in POINTS:
            self.points.append(name)
            if len(self.points) == self._nth:
                raise Killed


def consented(work, endpoint, folder):
    """A plan with a debate of two rounds behind it, and where the first round began."""
    endpoint.answer = Debate(*JUDGEMENTS)
    plan_id = run(work, folder)
    return plan_id, work.rows("ballots", plan_id)[0].generator


class TestAWorkerThatDies:
    def test_between_any_two_calls_or_rounds_costs_no_call_twice(self, work, endpoint, folder):
        plan_id, first = consented(work, endpoint, folder)
        report, tried = work.rows("report", plan_id), 0

        while True:
            fork = work.conductor.fork(plan_id, from_step=first, by="ada").plan_id
            life = Mortal(work, endpoint, fork, tried + 1)
            if len(life.points) <= tried:
                break  # nowhere left to die
            tried += 1
            where = (tried, life.points[-1])
            assert life.model.heard == PARTS, where
            assert [b.round for b in work.rows("ballots", fork)] == [0, 1], where
            assert {c.state for c in work.rows("calls", fork)} == {CallState.DONE}, where
            assert work.rows("report", fork) == report, where
            assert work.chain_holds(fork)

        assert tried == 6 * 6 + 4  # six steps with a call, and one without

    @pytest.mark.postgres
    def test_around_the_end_of_a_round_in_postgres_leaves_each_round_once(
        self, dsn, sealer, endpoint, folder, tmp_path
    ):
        bench = PostgresBench(dsn)
        with real_tools(bench, sealer, endpoint, folder, tmp_path / "cache") as work:
            plan_id, first = consented(work, endpoint, folder)
            for nth in range(
                15, 19
            ):  # the first judge: before and after it reports, before and after it is settled
                fork = work.conductor.fork(plan_id, from_step=first, by="ada").plan_id
                life = Mortal(work, endpoint, fork, nth)
                assert life.model.heard == PARTS, life.points
                assert [b.round for b in work.rows("ballots", fork)] == [0, 1]
        bench.close()


class Counted(dict):
    """The product's queries, and which of them were used."""

    def __init__(self):
        super().__init__(queries())
        self.used = []

    def __getitem__(self, name):
        self.used.append(name)
        return super().__getitem__(name)


@pytest.mark.postgres
class TestTheTableOfBallots:
    def test_costs_a_settlement_one_statement_and_only_that_of_a_judge(self, dsn, sealer, monkeypatch):
        bench = PostgresBench(dsn)
        with opened(bench, sealer) as work:
            plan_id = work.conductor.submit(request(GOAL)).plan_id
            counted, told = Counted(), {}
            monkeypatch.setattr(store, "queries", lambda: counted)
            outcomes = [
                Completed("deep"),
                Completed("planned"),
                Completed("drafted"),
                Completed("critiqued"),
                Completed("accept", result={"confidence": 1.0}),
            ]
            for number, outcome in enumerate(outcomes, start=1):
                claimed = work.claim(StepRef(plan_id, number))
                assert work.conductor.report(claimed, outcome)
                counted.used.clear()
                work.conductor.settle(claimed.ref)
                told[claimed.step.agent] = list(counted.used)

            judged = told.pop(Agent.JUDGE)
            (usual,) = {tuple(used) for used in told.values()}
            assert sorted(judged) == sorted([*usual, "cast_ballots"])
            assert [b.decided for b in work.rows("ballots", plan_id)] == [Decision.ACCEPTED]
        bench.close()

    def test_refuses_a_row_that_no_rule_could_make(self, dsn):
        bench = PostgresBench(dsn)
        row = {
            "plan_id": new_plan(bench.store),
            "round": 0,
            "draft": "d",
            "objections": 0,
            "verdict": "accept",
            "confidence": 0.95,
            "threshold": 0.95,
            "decided": "accepted",
            "why": None,
            "generator": 3,
            "critic": 4,
            "judge": 5,
        }
        add = (
            f"INSERT INTO ballot ({', '.join(row)}, at) VALUES ({', '.join(f'%({c})s' for c in row)}, now())"
        )
        with psycopg.connect(dsn, autocommit=True) as hand:
            for changed in (
                {"verdict": "revise"},
                {"objections": 1},
                {"confidence": 0.94},
                {"confidence": 1.01},
                {"confidence": float("nan")},
                {"round": 32_768},
                {"round": -1},
                {"threshold": 0.5},
                {"decided": "needs_review"},
                {"why": "rounds"},
                {"why": "because"},
                {"verdict": "maybe"},
            ):
                with pytest.raises(psycopg.errors.CheckViolation):
                    hand.execute(add, {**row, **changed})
            assert hand.execute(add, row).rowcount == 1
            with pytest.raises(psycopg.errors.UniqueViolation):  # a round has one ballot
                hand.execute(add, row)
        bench.close()


def test_a_budget_of_tokens_keeps_consensus_from_asking(work, endpoint, folder):
    plan_id = submit(work, folder, budget={"tokens": 10})
    work_on(work, plan_id)

    assert endpoint.requests == []
    assert ballots(work, plan_id) == [(0, "accept", 0.95, Decision.ACCEPTED, None)]
