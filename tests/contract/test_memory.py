"""What earlier plans have found: found again by their words, with where they came from, and by their own tenant only."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agents import critic, generator, judge, planner, synthesiser
from agents.toolbox import CallFailed, ToolCard
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, Evidence, Fact, PlanState, StepRef, request
from orchestrator.domain.report import check
from tests.contract.bench import InMemoryBench, PostgresBench
from tests.contract.workbench import Workbench, profile, spec
from tests.spec.test_minds import Notebook, assignment, done
from workers.toolhost import memory
from workers.toolhost.host import ToolFailure, ToolHost
from workers.toolhost.registry import Registry, ServerSpec

TEXT = "The lighthouse of Pharos was 103 metres tall.\nIts fire was seen from fifty kilometres."
SOURCE = Evidence.of(TEXT, locator="pharos.md", title="Pharos")
TALL, SEEN = (
    (TEXT.split("\n", maxsplit=1)[0], "How tall was the lighthouse?"),
    (TEXT.split("\n")[1], "How far was it seen?"),
)
ASKED = "How tall was the lighthouse of Pharos?"
CARD = ToolCard("memory_search", planned=False)


@pytest.fixture(params=[pytest.param("postgres", marks=pytest.mark.postgres), "inmemory"])
def work(request, sealer):
    bench = PostgresBench(request.getfixturevalue("dsn")) if request.param == "postgres" else InMemoryBench()
    made = Workbench(bench, sealer)
    yield made
    made.close()
    bench.close()


def facts_of(step, *quoted):
    return [
        Fact(step, n, quote, SOURCE.sha256, TEXT.index(quote), TEXT.index(quote) + len(quote), "pharos.md", "Pharos",
             origin_sha256=SOURCE.origin_sha256, question=question)
        for n, (quote, question) in enumerate(quoted, start=1)
    ]  # fmt: skip


def ended(work, *quoted, tenant="acme", verdict="answered", call=None, over=True):
    """A plan of a tenant that has found these quotes, and its id."""
    plan_id = work.conductor.submit(request("What does a lock do?", tenant=tenant)).plan_id
    first = StepRef(plan_id, 1)
    with work.store.transaction() as tx:
        tx.put_evidence(tenant, SOURCE)
    claimed = work.claim(first)
    if call:
        work.gate(profiles={Agent.ROUTER: profile(Agent.ROUTER)}).call(claimed, call, {}, occurrence=0)
    report = {"verdict": verdict}
    assert work.conductor.report(claimed, Completed("casual", facts=facts_of(1, *quoted), report=report))
    work.conductor.settle(first)
    if over:
        end(work, plan_id)
    return plan_id


def end(work, plan_id, **rest):
    last = StepRef(plan_id, 2)
    assert work.conductor.report(work.claim(last), Completed("written", **rest))
    work.conductor.settle(last)
    assert work.rows("plan", plan_id).state is PlanState.SUCCEEDED


@pytest.fixture
def ask(work):
    """Ask the memory as a tenant, through the tool host."""
    tool = spec("memory_search", server="memory")
    tools = Registry({tool.name: tool}, {"memory": ServerSpec("memory", "memory", (), ())})
    host = ToolHost(tools, {"memory": lambda: memory.build(work.store, lambda: {"look"})})

    def asking(query, tenant="acme", **rest):
        return host.call(tool, {"query": query, **rest}, timeout_s=20, key="k", tenant=tenant)["facts"]

    yield asking
    host.close()


class TestB47AFactOfAnEarlierPlan:
    def test_b47_is_found_by_its_words_with_where_it_came_from(self, work, ask):
        plan_id = ended(work, TALL, SEEN)

        (found,) = ask(ASKED)

        assert (found["plan_id"], found["step"], found["number"]) == (plan_id, 1, 1)
        assert (found["quote"], found["evidence"]) == (TALL[0], SOURCE.sha256)
        assert TEXT[found["start"] : found["end"]] == TALL[0]
        assert found["at"]

    def test_b47_that_has_more_of_the_words_comes_first_and_each_place_once(self, work, ask):
        ended(work, SEEN, TALL)
        latest = ended(work, TALL)
        later = work.rows("plan", latest).finished_at + timedelta(hours=1)
        work.bench.place_plan(latest, finished_at=later)

        found = ask("fire seen from fifty kilometres, lighthouse tall")

        assert [f["quote"] for f in found] == [SEEN[0], TALL[0]]
        assert found[1]["plan_id"] == latest
        assert len(ask("fire seen from fifty kilometres, lighthouse tall", limit=1)) == 1

    @pytest.mark.parametrize(
        "query", ["", "the of was", "Which lakes are deep?", "how tall are trees", "!!!"]
    )
    def test_b47_is_not_found_by_what_has_little_to_do_with_it(self, work, ask, query):
        ended(work, TALL)
        assert ask(query) == []

    def test_b47_of_another_tenant_is_never_found(self, work, ask):
        ended(work, TALL, tenant="umbrella")
        assert ask(ASKED) == []
        assert len(ask(ASKED, tenant="umbrella")) == 1

    def test_b47_of_another_tenant_is_hidden_by_the_store_itself(self, work):
        ended(work, TALL, tenant="umbrella")
        with work.store.of("acme").transaction() as tx:
            assert tx.related_facts("umbrella", ["lighthouse", "pharos"], least=1) == []
        with work.store.of("umbrella").transaction() as tx:
            assert len(tx.related_facts("umbrella", ["lighthouse", "pharos"], least=1)) == 1

    def test_b47_without_word_of_whose_it_is_to_be_is_refused(self, ask):
        with pytest.raises(ToolFailure, match="Nobody said whose plans"):
            ask(ASKED, tenant="")

    def test_b47_of_a_plan_that_did_not_end_well_is_never_found(self, work, ask):
        ended(work, TALL, verdict="needs_review")
        ended(work, TALL, over=False)
        assert ask(ASKED) == []

    def test_b47_of_a_plan_that_read_what_is_labelled_is_never_found(self, work, ask):
        ended(work, TALL, call="look")
        assert ask(ASKED) == []

    def test_b47_of_a_fork_is_left_to_the_plan_that_found_it(self, work, ask):
        plan_id = ended(work, TALL)
        fork = work.conductor.fork(plan_id, by="ann", from_step=2)
        end(work, fork.plan_id, report={"verdict": "answered"})

        assert len(work.rows("facts", fork.plan_id)) == 1
        assert [f["plan_id"] for f in ask(ASKED)] == [plan_id]


def remembered(**changes):
    fact = {
        "plan_id": "p-1", "at": "2026-01-01T12:00:00+00:00", "step": 3, "number": 2, "quote": TALL[0],
        "evidence": SOURCE.sha256, "start": 0, "end": len(TALL[0]), "locator": "pharos.md", "title": "Pharos",
        "heading": [], "origin_sha256": SOURCE.origin_sha256, "question": TALL[1],
    }  # fmt: skip
    return {"facts": [{**fact, **changes}]}


def planned(*replies, sources=(), model=""):
    notebook = Notebook(*replies, tools=[CARD], model=model, evidence=[SOURCE])
    return planner.think(assignment(ASKED, sources=dict(sources), step=2), notebook), notebook


class TestB47APlannerThatRemembers:
    INDEX = {"documents": 1, "passages": 1, "skipped": [], "fingerprint": "f"}  # noqa: RUF012 - read only

    def test_b47_keeps_with_the_plan_where_each_came_from(self):
        thought, _ = planned(self.INDEX, remembered(), sources={"documents": "/docs"})

        assert thought.plan["related"] == [
            {
                "plan_id": "p-1",
                "fact": "F3.2",
                "at": "2026-01-01T12:00:00+00:00",
                "evidence": SOURCE.sha256,
                "start": 0,
                "end": len(TALL[0]),
                "locator": "pharos.md",
            }
        ]
        assert thought.facts == []  # where there are documents, they are looked at anew

    def test_b47_shows_a_model_what_was_found_as_data(self):
        _, notebook = planned(self.INDEX, remembered(), "{}", "{}", sources={"documents": "/docs"}, model="m")

        system, user = notebook.asked[2][1]["messages"]
        assert TALL[0] in user["content"]
        assert TALL[0] not in system["content"]

    def test_b47_uses_it_as_evidence_where_no_documents_are_given_and_says_where_it_came_from(self):
        thought, notebook = planned(remembered())

        (fact,) = thought.facts
        assert (fact.name, fact.quote, fact.evidence) == ("F2.1", TALL[0], SOURCE.sha256)
        assert thought.plan["adopted"][0] | {"as": "F2.1", "fact": "F3.2"} == thought.plan["adopted"][0]
        assert notebook.evidence(fact.evidence).text[fact.start : fact.end] == fact.quote

    @pytest.mark.parametrize(
        "changes",
        [
            {"quote": "The lighthouse was 900 metres tall."},
            {"evidence": "0" * 64},
            {"start": 1},
            {"end": 10_000},
        ],
    )
    def test_b47_uses_nothing_that_does_not_stand_where_it_stood(self, changes):
        thought, _ = planned(remembered(**changes))
        assert thought.facts == []

    @pytest.mark.parametrize(
        "reply", [{"facts": None}, {"facts": [{}]}, {}, {"facts": [1]}, CallFailed("timed_out", "It slept.")]
    )
    def test_b47_plans_without_a_memory_that_does_not_answer(self, reply):
        thought, _ = planned(reply)
        assert (thought.verdict, thought.plan["related"]) == ("planned", [])


def test_b47_a_report_of_remembered_facts_proves_each_and_says_where_it_came_from():
    thought, notebook = planned(remembered())
    result = {**thought.result, "plan": thought.plan}
    steps = [done(Agent.PLANNER, number=2, result=result)]
    drafted = generator.think(assignment(ASKED, steps=steps, facts=thought.facts), notebook)
    steps.append(done(Agent.GENERATOR, result=drafted.result))
    criticised = critic.think(assignment(ASKED, steps=steps, facts=thought.facts), notebook)
    steps.append(done(Agent.CRITIC, result=criticised.result))
    judged = judge.think(assignment(ASKED, steps=steps, facts=thought.facts), notebook)
    steps.append(done(Agent.JUDGE, verdict=judged.verdict, result=judged.result))

    report = synthesiser.think(assignment(ASKED, steps=steps, facts=thought.facts), notebook).report

    assert report["verdict"] == "answered"
    assert any("found by plan p-1 at 2026-01-01" in note for note in report["notes"])
    assert check(report, notebook.evidence) == []
