"""How results and progress look, without a terminal and with one."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from orchestrator.domain.plan import Agent, Event, PlanState, Step, StepState
from workers.cli import progress, view
from workers.cli.progress import LiveView, Tally, told

PLAN = "1f2c3d4e-0000-4000-8000-000000000000"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def event(kind, **body):
    return Event(PLAN, 1, NOON, kind, body)


def step(agent, number=1, state=StepState.SUCCEEDED, **rest):
    return Step(PLAN, number, agent, state, **rest)


def planned(number, agent, round_=0):
    return event("step.planned", step=number, agent=agent, round=round_)


class TestText:
    def test_from_outside_cannot_command_a_terminal(self):
        assert view.clean("a\x1b[2Jb\x07\x9b\n\tc") == "a�[2Jb��\n\tc"

    def test_is_put_on_one_line_and_cut_off(self):
        assert view.one_line("one\n  two\tthree", 9) == "one two…"

    @pytest.mark.parametrize(
        ("seconds", "said"), [(0.84, "0.8 s"), (59.9, "59.9 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
    )
    def test_says_durations_as_people_do(self, seconds, said):
        assert view.lasted(seconds) == said

    def test_counts(self):
        assert [view.many(n, "fact") for n in (0, 1, 2000)] == ["0 facts", "1 fact", "2,000 facts"]


class TestATable:
    def test_elsewhere_than_on_a_terminal_is_aligned_and_complete(self):
        assert view.aligned(("a", "name"), [("1", "漢字"), ("22", "x" * 300)]) == "\n".join(
            ("a   name", "1   漢字", f"22  {'x' * 300}")
        )

    def test_that_is_empty_prints_nothing_as_a_result(self, capsys):
        view.put_table(("a",), [], empty="There is nothing.")

        assert capsys.readouterr() == ("", "There is nothing.\n")


class TestALine:
    @pytest.mark.parametrize(
        ("found", "kind", "body", "line"),
        [
            (step(Agent.ROUTER), "step.succeeded", {"verdict": "casual"}, "orient   router 1        small talk, nothing to research"),
            (
                step(Agent.PLANNER, 2, result={"questions": ["a", "b"], "documents": 76}),
                "step.succeeded",
                {"verdict": "planned"},
                "decide   planner 2       2 questions for 76 documents",
            ),
            (step(Agent.RESEARCHER, 3), "step.succeeded", {"verdict": "found", "facts": 5}, "observe  researcher 3    found 5 facts"),
            (step(Agent.RESEARCHER, 3), "step.succeeded", {"verdict": "nothing", "facts": 0}, "observe  researcher 3    found nothing"),
            (
                step(Agent.KEEPER, 4, result={"open": ["a"]}),
                "step.succeeded",
                {"verdict": "narrow"},
                "orient   keeper 4        1 question still open, looks again",
            ),
            (step(Agent.JUDGE, 7), "step.succeeded", {"verdict": "revise"}, "decide   judge 7         sends it back"),
            (
                step(Agent.JUDGE, 7),
                "ballot.cast",
                {"decided": "accepted", "confidence": 1.0, "threshold": 0.95},
                "decide   judge 7         accepted (1.00 sure, 0.95 needed)",
            ),
            (
                step(Agent.JUDGE, 7),
                "ballot.cast",
                {"decided": "revise", "confidence": 0.5, "threshold": 0.95},
                "decide   judge 7         sent back (0.50 sure, 0.95 needed)",
            ),
            (
                step(Agent.JUDGE, 7),
                "ballot.cast",
                {"decided": "needs_review", "why": "no_progress", "confidence": 0.5, "threshold": 0.9},
                "decide   judge 7         needs review: no progress (0.50 sure, 0.90 needed)",
            ),
            (
                step(Agent.RESEARCHER, 3),
                "step.faulted",
                {"attempt": 2, "retry_in_s": 1.52, "detail": "no answer"},
                "observe  researcher 3    attempt 2 failed, next in 1.5 s: no answer",
            ),
            (
                step(Agent.RESEARCHER, 3, attempt=5),
                "step.dead",
                {"detail": "no answer", "attempts": 5},
                "observe  researcher 3    given up on after 5 attempts: no answer",
            ),
        ],
    )  # fmt: skip
    def test_says_what_a_step_came_to(self, found, kind, body, line):
        assert str(told(event(kind, step=found.number, **body), found)) == line

    @pytest.mark.parametrize("kind", ["step.planned", "step.started", "tool.called"])
    def test_is_not_printed_for_what_happens_all_the_time(self, kind):
        assert told(event(kind, step=1, agent="router", round=0, state="done"), step(Agent.ROUTER)) is None

    def test_says_how_a_plan_ended(self):
        line = told(event("plan.ended", state=PlanState.DEAD_LETTERED, partial=True), None)

        assert line.text == "dead lettered, cut short by a limit"

    def test_says_that_a_plan_ended_without_an_accepted_draft(self):
        line = told(event("plan.ended", state=PlanState.SUCCEEDED, verdict="needs_review"), None)

        assert (line.text, line.style) == ("succeeded, but needs review", "yellow")


class TestATally:
    def test_counts_questions_facts_and_calls(self):
        tally = Tally(PLAN)
        for each in (
            planned(3, "researcher", 1),
            planned(4, "researcher", 1),
            event("step.started", step=3),
            event("tool.called", step=3, state="done"),
            event("tool.called", step=3, state="failed"),
            event("step.succeeded", step=3, facts=5),
        ):
            tally.take(each)

        assert (tally.questions, tally.facts, tally.calls) == (2, 5, 1)
        row = tally.rows[1, "researcher"]
        assert (row.steps, row.ended, row.running, row.facts) == (2, 1, 0, 5)

    def test_keeps_trouble_until_the_step_succeeds(self):
        tally = Tally(PLAN)
        tally.take(planned(1, "router"))
        tally.take(event("step.started", step=1))
        tally.take(event("step.faulted", step=1), "attempt 1 failed")
        assert tally.rows[0, "router"].trouble == "attempt 1 failed"
        assert tally.rows[0, "router"].running == 0

        tally.take(event("step.started", step=1))
        tally.take(event("step.succeeded", step=1), "a question to research")

        assert tally.rows[0, "router"].trouble == ""

    def test_counts_a_step_that_is_started_twice_once(self):
        tally = Tally(PLAN)
        tally.take(planned(1, "router"))
        tally.take(event("step.started", step=1))
        tally.take(event("step.started", step=1))

        assert tally.rows[0, "router"].running == 1


def test_a_live_view_shows_a_row_for_each_agent_and_round(plan_of):
    shown = LiveView([plan_of(PLAN, "What is a lighthouse?")])
    for each, found in (
        (planned(1, "router"), None),
        (event("step.succeeded", step=1, verdict="deep", facts=0), step(Agent.ROUTER)),
        (planned(2, "researcher", 1), None),
        (planned(3, "researcher", 1), None),
        (event("step.started", step=2), None),
        (event("step.succeeded", step=2, verdict="found", facts=4), step(Agent.RESEARCHER, 2)),
        (planned(4, "researcher", 2), None),
    ):
        shown.take(each, found)
    console = Console(file=io.StringIO(), width=80, color_system=None)

    console.print(shown._drawn())

    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert lines[0] == "What is a lighthouse?"
    assert lines[1] == "✓  orient   router               a question to research"
    assert lines[2] == "·  observe  researchers          1 of 2 done, 4 facts"
    assert lines[3] == "·  observe  researcher, round 2  waits"
    assert lines[4].startswith("plan 1f2c3d4e · 2 questions · 4 facts · 0.")


@pytest.fixture
def plan_of():
    from orchestrator.domain.budget import Budget, Spent
    from orchestrator.domain.plan import Plan

    def made(plan_id, goal):
        return Plan(plan_id, "default", goal, 2, PlanState.RUNNING, "local", Budget(), Spent(), NOON)

    return made


@pytest.mark.parametrize(
    ("states", "waits"),
    [
        ([StepState.SUCCEEDED, StepState.WAITING_APPROVAL], True),
        ([StepState.RUNNING, StepState.WAITING_APPROVAL], False),
        ([StepState.RETRYING, StepState.WAITING_APPROVAL], False),
    ],
)
def test_a_plan_only_waits_when_nothing_else_of_it_can_go_on(states, waits):
    steps = [step(Agent.RESEARCHER, n, s, settled=s is StepState.SUCCEEDED) for n, s in enumerate(states, 1)]

    assert progress._only_waits(steps) is waits
