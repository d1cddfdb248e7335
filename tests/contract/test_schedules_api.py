"""Schedules over HTTP: the routes on the store's twin in memory."""

from types import SimpleNamespace
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from orchestrator.api import schedules
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.errors import Conflict, NotFound
from orchestrator.inmemory import InMemoryStore
from tests.clock import Clock

NEW = {"name": "nightly", "cron": "30 2 * * *", "timezone": "Europe/Berlin", "request": {"goal": "Why?"}}


@pytest.fixture
def client(sealer):
    store = InMemoryStore(Clock())
    conductor = Conductor(store, sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.5, rules=Rules())
    app = FastAPI()
    app.include_router(schedules.router(SimpleNamespace(store=store, conductor=conductor)))
    return TestClient(app)


def test_a_schedule_is_kept_shown_changed_and_removed(client):
    made = client.post("/schedules", json={**NEW, "misfire": "all"})
    assert made.status_code == 201
    assert made.headers["Location"] == f"/schedules/{made.json()['schedule_id']}"
    shown = client.get("/schedules/nightly").json()
    assert (shown["misfire"], shown["next_at"]) == ("all", "2026-03-21T01:30:00+00:00")
    assert len(shown["upcoming"]) == 5
    changed = client.patch("/schedules/nightly", json={"paused": True, "request": {"depth": 3}}).json()
    assert (changed["paused"], changed["request"]["depth"], changed["request"]["goal"]) == (True, 3, "Why?")
    assert [s["name"] for s in client.get("/schedules").json()["schedules"]] == ["nightly"]
    assert client.delete("/schedules/nightly").status_code == 204
    with pytest.raises(NotFound):
        client.get("/schedules/nightly")


def test_a_taken_name_is_a_conflict(client):
    client.post("/schedules", json=NEW)
    with pytest.raises(Conflict):
        client.post("/schedules", json=NEW)


@pytest.mark.parametrize(
    "wrong", [{"colour": 1}, {"misfire": "never"}, {"paused": "yes"}, {"request": {"goal": "Why?", "x": 1}}]
)
def test_what_is_not_known_is_refused(client, wrong):
    assert client.post("/schedules", json={**NEW, **wrong}).status_code == 422


def test_two_triggers_of_one_tick_or_under_one_key_are_one_plan(client):
    client.post("/schedules", json={**NEW, "overlap": "cancel"})
    tick = {"schedule": "nightly", "due_at": "2026-03-20T11:00:00Z"}
    first, second = (client.post("/trigger", json=tick) for _ in range(2))
    assert first.status_code == 202
    assert first.json() == second.json()
    third, fourth = (
        client.post("/schedules/nightly/run", headers={"Idempotency-Key": "k"}) for _ in range(2)
    )
    assert third.json() == fourth.json()
    assert third.json()["plan_id"] != first.json()["plan_id"]
    firings = client.get("/schedules/nightly/firings").json()["firings"]
    assert [f["outcome"] for f in firings] == ["fired", "fired"]


def test_a_time_without_a_zone_is_refused(client):
    client.post("/schedules", json=NEW)
    assert (
        client.post("/trigger", json={"schedule": "nightly", "due_at": "2026-03-20T11:00:00"}).status_code
        == 422
    )


def test_a_brief_is_kept_once(client):
    payload = {"query": "Why?", "cron_expr": "0 6 * * *", "max_steps": 20}
    first, second = (client.post("/schedule", json=payload) for _ in range(2))
    assert first.status_code == 201
    assert first.json()["data"]["task_id"] == second.json()["data"]["task_id"]
    assert first.json()["data"]["next_run_at"] == "2026-03-21T06:00:00+00:00"
