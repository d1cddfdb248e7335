"""The executor's promises: whatever a mind raises is an outcome, and whatever dies is taken up where it was left."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import pytest
import structlog

from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.errors import BudgetSpent, Fenced, NotFound, Unavailable
from orchestrator.domain.outcome import Completed, Snoozed
from orchestrator.domain.plan import Agent, CallState, Fact, PlanState, StepRef, StepState
from orchestrator.store import Alive
from tests.contract.bench import InMemoryBench, PostgresBench
from tests.contract.workbench import DOCUMENT, eventually, opened
from workers.executor import CUT_SHORT, Heartbeats, _Held
from workers.gate.gate import CallFailed, CallHeld, CallRefused

STORES = [pytest.param("postgres", marks=pytest.mark.postgres), "inmemory"]


@pytest.fixture(autouse=True)
def quiet():
    """Printing what a mind crashed of is slow where nobody reads it."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture(params=STORES)
def work(request, sealer):
    postgres = request.param == "postgres"
    bench = PostgresBench(request.getfixturevalue("dsn")) if postgres else InMemoryBench()
    with opened(bench, sealer) as made:
        yield made
    bench.close()


@pytest.fixture
def light(sealer):
    bench = InMemoryBench()
    with opened(bench, sealer) as made:
        yield made
    bench.close()


def raises(error):
    def think(assignment, toolbox):
        raise error

    return think


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("even this fails")


def run(work, think, *, agent=Agent.RESEARCHER, **rest):
    """Let one step be thought about; its row afterwards."""
    ref = work.submit(agent)
    work.executor({agent: think}, **rest).run(ref)
    return work.rows("step", ref)


def fault_of(work, step):
    (event,) = [e for e in work.rows("events", step.plan_id) if e.kind == "step.faulted"]
    return event.body["reason"], event.body["detail"]


class TestWhatAMindComesTo:
    def test_is_recorded_as_it_is(self, work):
        step = run(work, lambda a, t: Completed("found", result={"said": "🔒"}))

        assert (step.state, step.verdict, step.result) == (StepState.SUCCEEDED, "found", {"said": "🔒"})
        assert not work.rows("plan", step.plan_id).partial

    @pytest.mark.parametrize(
        ("error", "reason", "detail"),
        [
            (CallFailed("timed_out", "It did not answer."), "timed_out", "It did not answer."),
            (Unavailable("Postgres does not answer."), "unavailable", "Postgres does not answer."),
            (ValueError("no such thing"), "crashed", "ValueError: no such thing"),
            (KeyError("brief"), "crashed", "KeyError: 'brief'"),
            (RecursionError("too deep"), "crashed", "RecursionError: too deep"),
            (MemoryError(), "crashed", "MemoryError"),
            (AssertionError(), "crashed", "AssertionError"),
            (StopIteration(3), "crashed", "StopIteration: 3"),
            (ExceptionGroup("two", [ValueError(1), KeyError(2)]), "crashed", "ExceptionGroup: two"),
            (ValueError("nul \x00 and \ud800"), "crashed", "ValueError: nul \ufffd and ?"),
            (ValueError("x" * 100_000), "crashed", "ValueError: xxxx"),
            (Unprintable(), "crashed", "Unprintable: <exception str() failed>"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
    )
    def test_is_a_fault_that_is_tried_again(self, work, error, reason, detail):
        step = run(work, raises(error))

        said, why = fault_of(work, step)
        assert (step.state, said) == (StepState.RETRYING, reason)
        assert detail in why
        assert len(why) <= 1000

    @pytest.mark.parametrize("thought", [None, {}, "found", Completed, 3], ids=repr)
    def test_is_a_fault_when_it_is_no_outcome(self, light, thought):
        step = run(light, lambda a, t: thought)

        assert step.state is StepState.RETRYING
        assert fault_of(light, step)[0] == "crashed"

    @pytest.mark.postgres
    @pytest.mark.parametrize(
        "result",
        [
            {"said": "nul \x00"},
            {"said": "\ud800"},
            {"said": float("nan")},
            {"said": {1, 2}},
            {"said": object()},
        ],
        ids=["nul", "surrogate", "nan", "set", "object"],
    )
    def test_is_a_fault_when_it_cannot_be_written_down(self, dsn, sealer, result):
        bench = PostgresBench(dsn)
        with opened(bench, sealer) as work:
            step = run(work, lambda a, t: Completed("found", result=result))

            assert step.state is StepState.RETRYING
            assert fault_of(work, step)[0] == "unrecordable"
            assert work.chain_holds(step.plan_id)
        bench.close()

    def test_is_a_refusal_that_ends_the_plan(self, work):
        step = run(work, raises(CallRefused("policy_denied", "Policy denies it.")))

        plan = work.rows("plan", step.plan_id)
        assert (step.state, plan.state) == (StepState.REJECTED, PlanState.REJECTED)
        assert plan.reason == "Policy denies it."

    def test_is_a_question_for_a_human(self, work):
        step = run(work, raises(CallHeld("May it?", "a" * 64)))

        (asked,) = work.rows("approvals")
        assert step.state is StepState.WAITING_APPROVAL
        assert (asked.question, asked.args_digest, asked.roles) == (
            "May it?",
            "a" * 64,
            ("approver", "operator"),
        )
        assert step.attempt == 0

    def test_is_nothing_when_the_claim_was_lost(self, light):
        step = run(light, raises(Fenced("p", 1, 1)))

        assert (step.state, step.claim) == (StepState.RUNNING, 1)
        assert "step.succeeded" not in [e.kind for e in light.rows("events", step.plan_id)]

    def test_is_a_dead_letter_after_the_last_attempt(self, light):
        ref = light.submit()
        executor = light.executor({Agent.RESEARCHER: raises(ValueError("always"))})
        for _ in range(5):
            executor.run(ref)
            light.bench.clock.advance(minutes=5)
            light.conductor.wake()

        assert light.rows("step", ref).state is StepState.DEAD
        (letter,) = [x for x in light.rows("dead_letters") if x.step == ref.number]
        assert (letter.reason, letter.attempts) == ("crashed", 5)
        assert "ValueError: always" in letter.detail

    def test_does_not_end_the_process_whatever_it_was(self, light):
        executor = light.executor({Agent.RESEARCHER: raises(MemoryError())})
        first, second = light.submit(), light.submit()

        executor.run(first)
        executor.run(second)

        assert light.rows("step", second).state is StepState.RETRYING

    def test_is_a_fault_when_nobody_thinks_for_the_agent(self, light):
        ref = light.submit(Agent.JUDGE)
        light.executor({}).run(ref)

        assert light.rows("step", ref).state is StepState.RETRYING


class TestASpentBudget:
    @pytest.mark.parametrize("agent", list(Agent))
    def test_cuts_a_step_short_and_says_so(self, light, agent):
        step = run(light, raises(BudgetSpent("tokens", 3)), agent=agent)

        assert (step.state, step.verdict) == (StepState.SUCCEEDED, CUT_SHORT[agent])
        assert light.rows("plan", step.plan_id).partial

    def test_lets_a_mind_think_again_without_a_model(self, light):
        models = []

        def think(assignment, toolbox):
            models.append(toolbox.model)
            if toolbox.model:
                raise BudgetSpent("tokens", 3)
            return Completed("found", result={"by": "rules"})

        step = run(light, think, model="gpt")

        assert models == ["gpt", ""]
        assert (step.verdict, step.result) == ("found", {"by": "rules"})
        assert light.rows("plan", step.plan_id).partial

    def test_replays_what_was_called_before_it_was_spent(self, light):
        ref = light.submit(budget={"calls": 2})
        seen = []

        def think(assignment, toolbox):
            seen.extend(toolbox.call("look", about=x).content["execution"] for x in ("a", "b", "c"))
            return Completed("found")

        light.executor({Agent.RESEARCHER: think}).run(ref)

        assert seen == [1, 2, 1, 2]
        assert len(light.witness.calls) == 2
        assert light.rows("step", ref).verdict == "nothing"

    @pytest.mark.parametrize(
        ("error", "state"),
        [
            (CallFailed("timed_out", "No."), StepState.RETRYING),
            (ValueError("no"), StepState.RETRYING),
            (CallRefused("policy_denied", "No."), StepState.REJECTED),
            (CallHeld("May it?", "a" * 64), StepState.WAITING_APPROVAL),
            (Unavailable("No."), StepState.RETRYING),
        ],
    )
    def test_followed_by_another_trouble_is_that_trouble(self, light, error, state):
        troubles = [BudgetSpent("calls", 2), error]

        def think(assignment, toolbox):
            raise troubles.pop(0)

        assert run(light, think).state is state


class Flaky:
    """A store that does not answer for a number of transactions, once it is told."""

    def __init__(self, store):
        self._store = store
        self.failures = 0

    @contextmanager
    def transaction(self):
        if self.failures:
            self.failures -= 1
            raise Unavailable("Postgres does not answer.")
        with self._store.transaction() as tx:
            yield tx

    @contextmanager
    def at_once(self):
        if self.failures:
            self.failures -= 1
            raise Unavailable("Postgres does not answer.")
        with self._store.at_once() as tx:
            yield tx


class TestAStoreThatIsAway:
    def test_for_a_moment_does_not_cost_the_work(self, work):
        store = Flaky(work.bench.store)
        thoughts = []

        def think(assignment, toolbox):
            thoughts.append(1)
            store.failures = 3
            return Completed("found")

        step = run(work, think, conductor=work.conductor_on(store))

        assert (step.state, thoughts, store.failures) == (StepState.SUCCEEDED, [1], 0)

    def test_for_longer_than_the_lease_is_told_to_whoever_rang(self, light):
        store = Flaky(light.bench.store)
        rules = Rules(lease=timedelta(seconds=0.3))
        conductor = Conductor(store, light.sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.0, rules=rules)

        def think(assignment, toolbox):
            store.failures = 10_000
            return Completed("found")

        with pytest.raises(Unavailable):
            run(light, think, conductor=conductor)

    def test_when_a_step_begins_is_told_to_whoever_rang(self, light):
        store = Flaky(light.bench.store)
        ref = light.submit()
        store.failures = 2  # it is asked for together with others, and then alone

        with pytest.raises(Unavailable):
            light.executor({}, conductor=light.conductor_on(store)).run(ref)

        assert light.rows("step", ref).state is StepState.READY


class TestSeveralThreads:
    """What they begin and report in one go must come to what each would have come to alone."""

    def all_run(self, work, executor, refs):
        with ThreadPoolExecutor(len(refs)) as threads:
            list(threads.map(executor.run, refs))
        return [work.rows("step", ref) for ref in refs]

    def test_that_hear_of_one_step_run_it_once(self, work):
        thought = []

        def think(assignment, toolbox):
            thought.append(assignment.step)
            return Completed("found")

        ref = work.submit()
        executor = work.executor({Agent.RESEARCHER: think})
        with grouping(executor._claims, size=8):  # only one of them has something to report
            steps = self.all_run(work, executor, [ref] * 8)
        assert thought == [ref.number]
        assert {(s.state, s.claim) for s in steps} == {(StepState.SUCCEEDED, 1)}

    def test_are_not_hurt_by_one_that_cannot_be_written_down(self, dsn, sealer):
        bench = PostgresBench(dsn)
        with opened(bench, sealer) as work:
            refs = [work.submit() for _ in range(6)]
            bad = refs[3].plan_id

            def think(assignment, toolbox):
                together.wait(60)
                plan_id = structlog.contextvars.get_contextvars()["plan_id"]
                return Completed("found", result={"said": "\x00" if plan_id == bad else "well"})

            together = threading.Barrier(6)
            executor = work.executor({Agent.RESEARCHER: think})
            with grouping(executor._claims, executor._reports, size=6):
                steps = self.all_run(work, executor, refs)
            assert [s.state for s in steps] == [
                StepState.RETRYING if ref == refs[3] else StepState.SUCCEEDED for ref in refs
            ]
        bench.close()

    def test_begin_what_was_tried_before_as_well(self, work):
        refs = [work.submit() for _ in range(4)]
        for ref in refs[:2]:
            work.lose(work.claim(ref))
        think = {Agent.RESEARCHER: lambda a, t: Completed("found")}
        for ref in refs[:2]:
            work.bench.lose(work.holders[f"{ref.plan_id}/{ref.number}"])
        assert work.conductor.rescue() == 2
        executor = work.executor(think)
        with grouping(executor._claims, executor._reports, size=4):
            steps = self.all_run(work, executor, refs)
        assert [(s.state, s.claim) for s in steps] == [
            (StepState.SUCCEEDED, 3),
            (StepState.SUCCEEDED, 3),
            (StepState.SUCCEEDED, 1),
            (StepState.SUCCEEDED, 1),
        ]


@contextmanager
def grouping(*asked, size):
    """Let an executor's threads wait for each other until they are so many, and say that they did."""
    groups = []
    for together in asked:
        together._last, together._linger_s = size, 60.0
        together._enough.clear()
        carry = together._carry

        def counted(questions, carry=carry):
            groups.append(len(questions))
            return carry(questions)

        together._carry = counted
    yield
    assert max(groups) == size


class TestALostClaim:
    def test_writes_nothing(self, work):
        def think(assignment, toolbox):
            work.bench.lose(executor._holder)
            assert work.conductor.rescue() == 1
            assert work.conductor.begin(ref, holder=work.bench.holder()) is not None
            before.append((work.rows("plan", ref.plan_id), work.rows("events", ref.plan_id)))
            fact = Fact(ref.number, 1, "x", "0" * 64, 0, 1, "x.md")
            return Completed("found", facts=[fact], report={"v": 1}, partial=True)

        before = []
        ref = work.submit()
        executor = work.executor({Agent.RESEARCHER: think})
        executor.run(ref)

        ((plan, events),) = before
        assert (work.rows("plan", ref.plan_id), work.rows("events", ref.plan_id)) == (plan, events)
        assert work.rows("facts", ref.plan_id) == []
        assert work.rows("report", ref.plan_id) is None
        step = work.rows("step", ref)
        assert (step.state, step.claim) == (StepState.RUNNING, 2)

    def test_makes_no_further_call(self, work):
        def think(assignment, toolbox):
            toolbox.call("look", about="before")
            work.bench.lose(executor._holder)
            assert work.conductor.rescue() == 1
            toolbox.call("look", about="after")
            return Completed("found")

        ref = work.submit()
        executor = work.executor({Agent.RESEARCHER: think})
        executor.run(ref)

        assert [about for _, about, _ in work.witness.calls] == ["before"]
        assert work.rows("step", ref).state is StepState.READY

    def test_and_a_message_for_a_step_that_is_not_there_to_be_taken_do_nothing(self, light):
        ref = light.submit()
        executor = light.executor({Agent.RESEARCHER: lambda a, t: Completed("found")})
        executor.run(ref)
        before = light.rows("events", ref.plan_id)

        executor.run(ref)

        assert light.rows("events", ref.plan_id) == before
        with pytest.raises(NotFound):
            executor.run(StepRef(ref.plan_id, 99))
        with pytest.raises(NotFound):
            executor.run(StepRef(str(uuid4()), 1))


@pytest.fixture
def quick(dsn, pg_store, sealer, request):
    """A conductor by the database's own clock with a short lease, a living worker's number, and a step."""
    lease = timedelta(seconds=getattr(request, "param", 0.6))
    conductor = Conductor(
        pg_store,
        sealer,
        new_id=lambda: str(uuid4()),
        draw=random.Random(1).random,
        rules=Rules(lease=lease),
    )
    alive = Alive(dsn)
    bench = PostgresBench(dsn)
    with opened(bench, sealer, store=pg_store) as work:
        work.conductor = conductor
        yield work, conductor, alive.holder
    alive.close()
    bench.close()


@pytest.mark.postgres
class TestALease:
    # long enough to be renewed in time by a machine that has other work
    @pytest.mark.parametrize("quick", [3.0], indirect=True)
    def test_is_kept_for_as_long_as_a_step_runs(self, quick):
        work, conductor, holder = quick
        taken = []

        def think(assignment, toolbox):
            end = time.monotonic() + 1.2 * conductor.rules.lease.total_seconds()
            while time.monotonic() < end:
                taken.append(conductor.rescue())
                time.sleep(0.05)
            return Completed("found")

        ref = work.submit()
        work.executor({Agent.RESEARCHER: think}, conductor=conductor, holder=holder).run(ref)

        assert sum(taken) == 0
        assert work.rows("step", ref).state is StepState.SUCCEEDED

    def test_is_given_up_after_the_steps_time(self, quick):
        work, conductor, holder = quick

        def think(assignment, toolbox):
            assert eventually(lambda: conductor.rescue() == 1)
            return Completed("found")

        ref = work.submit()
        work.executor({Agent.RESEARCHER: think}, conductor=conductor, holder=holder, step_timeout_s=0.1).run(
            ref
        )

        step = work.rows("step", ref)
        assert (step.state, step.reason) == (StepState.READY, "worker lost")

    def test_ends_with_its_worker(self, quick):
        work, conductor, holder = quick
        ref = work.submit()
        begun = threading.Event()

        class Killed(BaseException):
            pass

        def crash(point):
            if point == "before_report":
                begun.set()
                raise Killed

        executor = work.executor(
            {Agent.RESEARCHER: lambda a, t: Completed("found")},
            conductor=conductor,
            holder=holder,
            crash_point=crash,
        )
        with pytest.raises(Killed):
            executor.run(ref)

        assert begun.is_set()
        assert eventually(lambda: conductor.rescue() == 1)


class TestTheHeartbeats:
    def test_go_on_for_the_others_when_one_renewal_breaks(self):
        renewed = []

        class Stub:
            rules = Rules(lease=timedelta(seconds=0.03))

            def renew(self, claimed):
                renewed.append(claimed.ref)
                if claimed.ref == "bad":
                    raise RuntimeError("The database says something nobody expected.")
                return True

        class Holding:
            def __init__(self, ref):
                self.ref = ref

        beats = Heartbeats(Stub(), 60.0)
        with beats.of(Holding("bad")), beats.of(Holding("good")):
            assert eventually(lambda: renewed.count("good") >= 3)
        beats.close()
        assert renewed.count("bad") >= 3

    def test_go_on_when_a_message_could_not_be_let_go_of(self):
        renewed = []

        class Stub:
            rules = Rules(lease=timedelta(seconds=0.03))

            def renew(self, claimed):
                renewed.append(claimed.ref)
                return True

        class Holding:
            def __init__(self, ref):
                self.ref = ref

        def refuse():
            raise RuntimeError("the loop is gone")

        beats = Heartbeats(Stub(), 60.0, acknowledge_after_s=0.0)
        with beats.of(Holding("bad"), refuse), beats.of(Holding("good")):
            assert eventually(lambda: min(renewed.count("good"), renewed.count("bad")) >= 3)
        beats.close()

    def test_ask_again_at_the_next_beat_when_postgres_did_not_answer(self):
        asked = []

        class Stub:
            rules = Rules(lease=timedelta(hours=1))

            def renew(self, claimed):
                asked.append(claimed)
                if len(asked) == 1:
                    raise Unavailable("Postgres does not answer.")
                return True

        class Holding:
            ref = StepRef("p", 1)

        beats = Heartbeats(Stub(), 1e9)
        long_ago = time.monotonic() - 3_000.0
        held = _Held(Holding(), long_ago, told=True)
        for _ in range(3):
            assert beats._kept(held)
        beats.close()
        assert len(asked) == 2

    def test_say_that_a_step_has_begun_once_it_takes_a_while(self, light):
        def think(assignment, toolbox):
            assert eventually(lambda: "step.started" in kinds())
            return Completed("found")

        def kinds():
            return [e.kind for e in light.rows("events", ref.plan_id)]

        ref = light.submit()
        light.executor({Agent.RESEARCHER: think}).run(ref)
        assert [k for k in kinds() if k.startswith("step.")] == ["step.started", "step.succeeded"]
        assert light.rows("events", ref.plan_id)[-2].body == {
            "step": ref.number,
            "agent": "researcher",
            "round": light.rows("step", ref).round,
            "attempt": 1,
        }

    def test_stop_for_a_step_that_was_taken_away(self):
        renewed = []

        class Stub:
            rules = Rules(lease=timedelta(seconds=0.03))

            def renew(self, claimed):
                renewed.append(claimed)
                return False

        class Holding:
            ref = StepRef("p", 1)

        beats = Heartbeats(Stub(), 60.0)
        with beats.of(Holding()):
            assert eventually(lambda: renewed)
            time.sleep(0.1)
        beats.close()
        assert len(renewed) == 1


class Killed(BaseException):
    """The process is gone."""


def three_calls(assignment, toolbox):
    toolbox.call("look", about="locks")
    document = toolbox.call("fetch", locator="locks.md")
    toolbox.call("send_keyed", about="x")
    quote = "A lock is held by one 🔒."
    fact = Fact(assignment.step, 1, quote, document.evidence, 0, len(quote), "locks.md")
    return Completed("found", facts=[fact])


POINTS = [
    ("after_claim", 1),
    *[(name, n) for n in (1, 2, 3) for name in ("before_call", "after_call")],
    ("before_report", 1),
    ("after_report", 1),
]


class TestAWorkerThatDies:
    @pytest.mark.parametrize(("point", "time_"), POINTS, ids=str)
    def test_leaves_the_step_to_another_that_repeats_no_finished_call(self, work, point, time_):
        passed = []

        def crash(name):
            passed.append(name)
            if name == point and passed.count(point) == time_:
                raise Killed

        ref = work.submit()
        doomed = work.executor({Agent.RESEARCHER: three_calls}, crash_point=crash)
        with pytest.raises(Killed):
            doomed.run(ref)
        work.bench.lose(doomed._holder)
        work.conductor.rescue()

        work.executor({Agent.RESEARCHER: three_calls}).run(ref)

        step = work.rows("step", ref)
        assert step.state is StepState.SUCCEEDED
        assert step.claim == (1 if point == "after_report" else 2)
        assert [tool for tool, _, _ in work.witness.calls] == ["look", "fetch", "send_keyed"]
        assert [f.quote for f in work.rows("facts", ref.plan_id)] == ["A lock is held by one 🔒."]
        assert {c.state for c in work.rows("calls", ref.plan_id)} == {CallState.DONE}
        events = [e.kind for e in work.rows("events", ref.plan_id)]
        assert events.count("step.succeeded") == 1
        assert work.rows("plan", ref.plan_id).spent.calls == 3
        assert work.chain_holds(ref.plan_id)
        assert work.rows("evidence", "default", work.rows("facts", ref.plan_id)[0].evidence).text == DOCUMENT

    def test_in_every_attempt_ends_as_a_dead_letter(self, light):
        ref = light.submit()

        def die(assignment, toolbox):
            raise Killed

        for _ in range(5):
            doomed = light.executor({Agent.RESEARCHER: die})
            with pytest.raises(Killed):
                doomed.run(ref)
            light.bench.lose(doomed._holder)
            assert light.conductor.rescue() == 1

        assert light.rows("step", ref).state is StepState.DEAD
        assert [x.reason for x in light.rows("dead_letters")] == ["worker_lost"]


def test_a_mind_may_not_put_off_its_own_step(light):
    step = run(light, lambda a, t: Snoozed(5.0))

    assert step.state is StepState.RETRYING
