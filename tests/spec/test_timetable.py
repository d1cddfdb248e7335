"""Declared schedules: what the file may say, and the one-object form that other programs send."""

from uuid import uuid4

import pytest

from orchestrator import house, prompts, timetable
from orchestrator.chronos import Chronos
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.errors import InvalidSchedule, Misconfigured
from orchestrator.domain.schedule import Misfire, Overlap
from orchestrator.inmemory import InMemoryStore
from tests.clock import Clock


def file(tmp_path, text):
    path = tmp_path / "schedules.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_file_that_comes_with_the_program_declares_none():
    assert timetable.load() == []


def test_a_declared_schedule_becomes_a_draft(tmp_path):
    text = (
        "schedules: [{name: a, cron: '@daily', goal: Why, depth: 3, overlap: queue, timezone: Europe/Berlin}]"
    )
    (draft,) = timetable.load(file(tmp_path, text))
    assert (draft.name, draft.cron, draft.timezone) == ("a", "@daily", "Europe/Berlin")
    assert (draft.misfire, draft.overlap) == (Misfire.ONCE, Overlap.QUEUE)
    assert (draft.request["goal"], draft.request["depth"]) == ("Why", 3)


def test_a_declared_schedule_says_for_whom_it_asks_and_how_much_may_be_quoted(tmp_path):
    text = "schedules: [{name: a, cron: '@daily', goal: Why, domain: finance, max_sources: 3}]"
    (draft,) = timetable.load(file(tmp_path, text))
    assert (draft.request["domain"], draft.request["max_sources"]) == ("finance", 3)


def test_a_declared_domain_that_there_is_not_is_refused_by_its_schedule_s_name(tmp_path, sealer):
    store = InMemoryStore(Clock())
    conductor = Conductor(store, sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.5, rules=Rules())
    check = prompts.book(house.path("configs/prompts.yaml")).current().check
    text = "schedules: [{name: a, cron: '@daily', goal: Why, domain: astrology}]"
    with pytest.raises(Misconfigured, match="declared schedule a: There is no domain 'astrology'"):
        timetable.apply(Chronos(store, conductor, check_domain=check), file(tmp_path, text))
    assert Chronos(store, conductor).list() == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("schedules: [{name: a, cron: '@daily', goal: Why, colour: red}]", "schedules.0.colour"),
        ("schedulez: []", "schedule"),
        ("schedules: [{name: a, cron: '@daily'}]", "schedules.0.goal"),
        ("schedules: [{name: a, cron: '@daily', goal: Why, misfire: never}]", "schedules.0.misfire"),
        ("schedules: [{name: a, cron: x, goal: b}, {name: a, cron: x, goal: b}]", "a more than once"),
        ("schedules: [", "cannot be read"),
    ],
)
def test_what_is_wrong_with_the_file_is_named(tmp_path, text, says):
    with pytest.raises(Misconfigured, match=says):
        timetable.load(file(tmp_path, text))


def test_a_brief_is_a_schedule_of_its_own_name():
    payload = {"query": "Why?", "cron_expr": "0 6 * * *", "depth": 3, "max_steps": 5, "enabled": False}
    draft = timetable.brief(payload).draft(requester="ann")
    assert draft == timetable.brief(payload).draft(requester="ann")
    assert (draft.cron, draft.timezone, draft.paused) == ("0 6 * * *", "UTC", True)
    assert draft.request == {
        "goal": "Why?",
        "depth": 3,
        "budget": {"steps": 8},
        "max_sources": 10,
        "requester": "ann",
    }


@pytest.mark.parametrize(
    "wrong", [{"depth": 6}, {"max_steps": 0}, {"query": None}, {"colour": 1}, {"depth": "2"}]
)
def test_a_brief_that_is_wrong_is_refused(wrong):
    with pytest.raises(InvalidSchedule):
        timetable.brief({"query": "Why?", "cron_expr": "@daily", **wrong})
