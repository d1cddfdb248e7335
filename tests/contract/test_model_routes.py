"""Several models behind one gate: who is asked, who is asked instead, what each try costs, and that it never costs more."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from agents.profiles import ModelChoice
from orchestrator.domain.errors import BudgetSpent
from orchestrator.domain.plan import Agent, CallState
from tests.contract.bench import InMemoryBench, PostgresBench
from tests.contract.model_server import KEY, ModelServer, Reply
from tests.contract.test_model import (  # noqa: F401 - fixtures
    CONVERSATION,
    by_task,
    endpoint,
    folder,
    real_tools,
    run_to_the_end,
    sentences,
)
from tests.contract.test_model_providers import Chat, Messages
from tests.contract.workbench import ROOT, eventually, opened, profile
from workers.gate.gate import CallFailed, CallRefused
from workers.gate.stops import Stops
from workers.gate.surroundings import Known
from workers.toolhost import model, registry
from workers.toolhost.host import ToolHost
from workers.toolhost.models import wire
from workers.toolhost.models.catalogue import Catalogue, Model

VARIABLE = "ORCHESTRATOR_TEST_MODEL_KEY"
PRICED = {"input_uusd_per_1k": 1_000, "cached_uusd_per_1k": 1_000, "output_uusd_per_1k": 2_000}


class House:
    """Two models, the quick one of Chat Completions and the thorough one of Messages, and a gate before them."""

    def __init__(self, work, quick, thorough, **rest):
        self.work = work
        self.quick, self.thorough = quick, thorough
        usual = {"key_env": VARIABLE, "answer_tokens": 500, "timeout_s": 20.0}
        here = Model("quick", "openai", quick.url, "q-1", **{**usual, **PRICED, **rest})
        there = Model("thorough", "anthropic", thorough.url, "t-1", **{**usual, "output_uusd_per_1k": 9_000})
        self.models = Catalogue(
            {"quick": here, "thorough": there},
            {"default": ("quick", "thorough"), "high_quality": ("thorough", "quick"), "low_cost": ("quick",)},
        )
        work.host.close()
        work.tools = registry.load(ROOT / "configs" / "tool_registry.yaml")
        work.host = ToolHost(work.tools, {"model": lambda: model.build(self.models)})
        quick.answer = lambda _: Reply(Chat.said("quick"))
        thorough.answer = lambda _: Reply(Messages.said("thorough"))

    def gate(self, choice=None, **rest):
        profiles = {agent: replace(profile(agent), model=choice or ModelChoice()) for agent in Agent}
        return self.work.gate(models=self.models, profiles=profiles, **rest)

    def asks(self, claimed=None, *, choice=None, occurrence=0, gate=None, **arguments):
        claimed = claimed or self.work.claim()
        gate = gate or self.gate(choice)
        result = gate.call(claimed, "model_complete", {**CONVERSATION, **arguments}, occurrence=occurrence)
        return claimed, result.content["text"]

    def calls(self, claimed):
        found = self.work.rows("calls", claimed.ref.plan_id)
        return [(c.arguments.get("model"), c.state.value, (c.result or {}).get("reason")) for c in found]

    def spent(self, claimed):
        return self.work.rows("plan", claimed.ref.plan_id).spent


@contextmanager
def two_servers():
    quick, thorough = ModelServer(), ModelServer()
    try:
        yield quick, thorough
    finally:
        quick.close()
        thorough.close()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.setattr(wire, "BASE_S", 0.001)


@pytest.fixture
def site(sealer):
    bench = InMemoryBench()
    with two_servers() as (quick, thorough), opened(bench, sealer) as work:
        yield House(work, quick, thorough)
    bench.close()


class TestAProfile:
    @pytest.mark.parametrize(
        ("choice", "text"),
        [
            (ModelChoice(), "quick"),
            (ModelChoice(routing="balanced"), "quick"),
            (ModelChoice(routing="high_quality"), "thorough"),
            (ModelChoice(provider="anthropic"), "thorough"),
            (ModelChoice(provider="thorough"), "thorough"),
            (ModelChoice(routing="high_quality", provider="openai"), "quick"),
        ],
    )
    def test_chooses_who_is_asked(self, site, choice, text):
        assert site.asks(choice=choice)[1] == text
        assert len(site.quick.requests) + len(site.thorough.requests) == 1

    @pytest.mark.parametrize(("temperature", "asked"), [(None, 0.0), (0.3, 0.3)])
    def test_says_how_freely_it_is_answered(self, site, temperature, asked):
        site.asks(choice=ModelChoice(temperature=temperature))

        assert site.quick.requests[0].body["temperature"] == asked

    def test_does_not_overrule_what_a_mind_asks_for(self, site):
        site.asks(choice=ModelChoice(temperature=0.9), temperature=0.1, model="thorough")

        assert site.thorough.requests[0].body["temperature"] == 0.1


class TestAModelThatDoesNotAnswer:
    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            (Reply(b"", status=503), "model_unavailable"),
            (Reply(b"", status=429), "model_rate_limited"),
            (Reply(b"", status=401), "model_unauthorised"),
            (Reply(b"", status=404), "model_rejected"),
            (Reply(b"<html>"), "model_malformed"),
            (Reply(Chat.said("{}"), cut_after=5), "model_unavailable"),
            (Reply(Chat.refused()), "model_refused"),
            (Reply(Chat.cut()), "model_cut"),
        ],
        ids=str,
    )
    def test_is_passed_over_on_the_record(self, site, reply, reason):
        site.quick.answer = lambda _: reply
        claimed, text = site.asks()

        assert text == "thorough"
        assert sorted(site.calls(claimed)) == [("quick", "failed", reason), ("thorough", "done", None)]
        assert len(site.work.audit(claimed.ref.plan_id, "tool.intent")) == 2
        assert site.work.chain_holds(claimed.ref.plan_id)

    def test_is_passed_over_once_and_what_answered_is_replayed(self, site):
        site.quick.answer = lambda _: Reply(b"", status=404)
        claimed, _ = site.asks()
        site.quick.answer = lambda _: Reply(Chat.said("quick, after all"))
        again = site.work.lose(claimed)

        assert site.asks(again)[1] == "thorough"
        assert (len(site.quick.requests), len(site.thorough.requests)) == (1, 1)

    def test_and_nobody_after_it_is_a_failed_call(self, site):
        site.quick.answer = site.thorough.answer = lambda _: Reply(b"", status=503)
        claimed = site.work.claim()

        with pytest.raises(CallFailed) as failed:
            site.asks(claimed)

        assert failed.value.reason == "model_unavailable"
        assert {state for _, state, _ in site.calls(claimed)} == {"failed"}
        assert (site.spent(claimed).tokens, site.spent(claimed).cost_uusd) == (0, 0)

    def test_speaks_for_nobody_else_where_policy_says_no(self, site, tmp_path):
        stops = tmp_path / "stops.txt"
        stops.write_text("tool:model_complete for a while\n")

        with pytest.raises((CallFailed, CallRefused)):
            site.asks(gate=site.gate(known=Known(stops=Stops(stops))))
        assert site.quick.requests == site.thorough.requests == []


class TestTheMoney:
    def test_is_charged_by_the_prices_of_who_answered(self, site):
        site.quick.answer = lambda _: Reply(b"", status=503)
        site.thorough.answer = lambda _: Reply(Messages.said("thorough", usage=(100, 10, 0)))
        claimed, _ = site.asks()

        assert (site.spent(claimed).tokens, site.spent(claimed).cost_uusd, site.spent(claimed).calls) == (
            110,
            90,
            2,
        )

    def test_is_charged_for_an_answer_that_was_of_no_use(self, site):
        site.quick.answer = lambda _: Reply(Chat.cut())
        site.thorough.answer = lambda _: Reply(Messages.said("thorough", usage=(100, 10, 0)))
        claimed, _ = site.asks()

        assert site.spent(claimed).tokens == 18 + 110
        assert site.spent(claimed).cost_uusd == 25 + 90

    def test_stays_reserved_where_nobody_knows_what_was_used(self, site):
        site.quick.answer = lambda _: Reply(Chat.said("{}"), cut_after=5)
        claimed, _ = site.asks()
        (lost,) = [c for c in site.work.rows("calls", claimed.ref.plan_id) if c.state is CallState.FAILED]

        assert lost.reserved.tokens > 500
        assert site.spent(claimed).tokens == lost.reserved.tokens + 18

    def test_for_the_next_is_reserved_before_it_is_asked(self, site):
        site.quick.answer = lambda _: Reply(b"", status=503)
        claimed = site.work.claim(
            site.work.submit(budget={"cost_uusd": 2_000})
        )  # quick fits, thorough does not

        with pytest.raises(BudgetSpent, match="micro-dollars"):
            site.asks(claimed)
        assert site.thorough.requests == []

    def test_is_cheaper_where_a_cache_helped(self, site):
        site.models.models["quick"] = replace(site.models.models["quick"], cached_uusd_per_1k=100)
        site.quick.answer = lambda _: Reply(Chat.said("{}", usage=(1_000, 0, 900)))
        claimed, _ = site.asks(messages=[{"role": "user", "content": "long " * 300}])

        assert site.spent(claimed).cost_uusd == 190


class TestTheTime:
    def test_of_a_plan_ends_a_model_s_too(self, site):
        site.quick.answer = lambda _: Reply(hang=True)
        claimed = site.work.claim()
        deadline = site.work.bench.clock() + timedelta(seconds=1)
        claimed = replace(claimed, plan=replace(claimed.plan, deadline=deadline))

        assert site.asks(claimed)[1] == "thorough"
        assert site.calls(claimed)[0][1:] == ("failed", "model_unavailable")

    def test_that_is_over_asks_no_model(self, site):
        claimed = site.work.claim()
        claimed = replace(claimed, plan=replace(claimed.plan, deadline=site.work.bench.clock()))

        with pytest.raises(BudgetSpent, match="seconds"):
            site.asks(claimed)
        assert site.quick.requests == []


@pytest.mark.postgres
class TestABudget:
    @pytest.mark.parametrize("limit", ["tokens", "cost_uusd"])
    def test_is_never_exceeded_by_steps_that_ask_at_once(self, dsn, sealer, limit):
        bench = PostgresBench(dsn)
        with two_servers() as (quick, thorough), opened(bench, sealer) as work:
            house = House(work, quick, thorough)
            gate = house.gate(ModelChoice(routing="low_cost"))
            ask_for = {**CONVERSATION, "model": "quick"}
            reserved = getattr(house.models.models["quick"].reserve(ask_for), limit)
            quick.answer = lambda _: quick.let_go.wait(60) and Reply(Chat.said("quick"))
            first = work.submit(budget={limit: 3 * reserved + 1})
            steps = [work.claim(work.another(first.plan_id)) for _ in range(8)]
            ended = []

            def ask(claimed):
                try:
                    gate.call(claimed, "model_complete", CONVERSATION, occurrence=0)
                    ended.append("answered")
                except BudgetSpent as spent:
                    ended.append(spent.what)

            threads = [threading.Thread(target=ask, args=(claimed,)) for claimed in steps]
            for thread in threads:
                thread.start()
            # while nobody has an answer yet, all that may ask have asked, and the others were told
            assert eventually(lambda: len(ended) == 5 and len(quick.requests) == 3, within_s=60)
            assert getattr(work.rows("plan", first.plan_id).spent, limit) == 3 * reserved
            quick.let_go.set()
            for thread in threads:
                thread.join()

            what = {"tokens": "tokens", "cost_uusd": "micro-dollars"}[limit]
            assert sorted(ended) == sorted(["answered"] * 3 + [what] * 5)
            assert len(quick.requests) == 3
            assert getattr(work.rows("plan", first.plan_id).spent, limit) == 3 * (
                18 if limit == "tokens" else 25
            )
        bench.close()

    def test_that_is_spent_on_the_way_ends_in_a_partial_report_that_holds(
        self,
        dsn,
        sealer,
        endpoint,  # noqa: F811
        folder,  # noqa: F811
        tmp_path,
    ):
        answer = by_task({"questions": ["Who may take a lock?"]}, {"facts": ["F3.1"]})

        def dear(body):
            status, reply = answer(body)
            return status, {**reply, "usage": {"prompt_tokens": 300, "completion_tokens": 3_900}}

        endpoint.answer = dear
        bench = PostgresBench(dsn)
        with real_tools(bench, sealer, endpoint, folder, tmp_path / "cache") as work:
            plan, report = run_to_the_end(work, folder, tokens=8_000)
        bench.close()

        assert len(endpoint.requests) == 1  # the planner's; the generator's did not fit any more
        assert (plan.partial, report["partial"], plan.spent.tokens) == (True, True, 4_200)
        assert sentences(report)
        assert json.dumps(report).count("lock")
