"""Schedules over HTTP: the routes on the store's twin in memory."""

import json
from types import SimpleNamespace
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from orchestrator import house
from orchestrator.api import identity, schedules
from orchestrator.chronos import Chronos, Draft
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.errors import Conflict, InvalidRequest, NotFound
from orchestrator.inmemory import InMemoryStore
from tests.clock import Clock

NEW = {"name": "nightly", "cron": "30 2 * * *", "timezone": "Europe/Berlin", "request": {"goal": "Why?"}}


@pytest.fixture
def client(sealer, tmp_path):
    store = InMemoryStore(Clock())
    conductor = Conductor(store, sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.5, rules=Rules())
    app = FastAPI()
    chosen = SimpleNamespace(roots=(tmp_path,), prompts=house.path("configs/prompts.yaml"))
    core = SimpleNamespace(store=store, conductor=conductor, settings=chosen)
    app.include_router(schedules.router(core))
    app.state.reception = identity.development()
    app.add_middleware(identity.Gatehouse, reception=app.state.reception)
    made = TestClient(app)
    made.store = store
    return made


def plan_of(client, plan_id):
    with client.store.transaction() as tx:
        return tx.plan(plan_id)


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


def test_a_schedule_rests_goes_on_and_runs_now(client):
    client.post("/schedules", json=NEW)
    assert client.patch("/schedules/nightly", json={"paused": True}).json()["paused"] is True
    assert client.post("/schedules/nightly/run").json()["outcome"] == "fired"
    resumed = client.patch("/schedules/nightly", json={"paused": False}).json()
    assert (resumed["paused"], resumed["next_at"]) == (False, "2026-03-21T01:30:00+00:00")
    assert len(client.get("/schedules/nightly/firings").json()["firings"]) == 1


def test_what_names_no_documents_looks_in_the_one_folder_that_may_be_read(client, tmp_path):
    client.post("/schedules", json=NEW)
    client.post("/schedule", json={"query": "Why?", "cron_expr": "0 6 * * *"})
    asked = client.post("/trigger", json={"query": "Why?"}).json()["plan_id"]
    for kept in client.get("/schedules").json()["schedules"]:
        assert kept["request"]["sources"] == {"documents": str(tmp_path)}
    assert plan_of(client, asked).sources == {"documents": str(tmp_path), "max_sources": 10}


class TestADomain:
    """Whose questions a plan asks, at every door that lets a clock ask."""

    DOORS = (
        ("/schedules", {**NEW, "request": {"goal": "Why?", "domain": "{}", "max_sources": 3}}),
        ("/schedule", {"query": "Why?", "cron_expr": "0 6 * * *", "domain": "{}", "max_sources": 3}),
        ("/trigger", {"query": "Why?", "domain": "{}", "max_sources": 3}),
    )

    @staticmethod
    def sent(body, domain):
        return json.loads(json.dumps(body).replace("{}", domain))

    @pytest.mark.parametrize(("door", "body"), DOORS)
    def test_and_how_many_documents_may_be_quoted_reach_the_plan(self, client, door, body):
        answer = client.post(door, json=self.sent(body, "finance")).json()
        if door != "/trigger":
            name = answer["data"]["task_id"] if door == "/schedule" else "nightly"
            answer = client.post(f"/schedules/{name}/run").json()
        sources = plan_of(client, answer["plan_id"]).sources
        assert (sources["domain"], sources["max_sources"]) == ("finance", 3)

    @pytest.mark.parametrize(("door", "body"), DOORS)
    def test_that_there_is_not_is_refused_with_those_that_there_are(self, client, door, body):
        with pytest.raises(
            InvalidRequest, match=r"There is no domain 'astrology'\. The domains here are .*finance"
        ):
            client.post(door, json=self.sent(body, "astrology"))
        assert client.get("/schedules").json()["schedules"] == []

    def test_that_there_is_not_is_no_change_of_a_schedule(self, client):
        client.post("/schedules", json=NEW)
        with pytest.raises(InvalidRequest, match="There is no domain 'astrology'"):
            client.patch("/schedules/nightly", json={"request": {"domain": "astrology"}})
        assert "domain" not in client.get("/schedules/nightly").json()["request"]

    def test_that_has_left_the_file_keeps_no_schedule_from_resting_or_firing(self, client, sealer):
        kept = {**NEW["request"], "domain": "astrology"}
        conductor = Conductor(
            client.store, sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.5, rules=Rules()
        )
        Chronos(client.store, conductor).add(Draft("nightly", NEW["cron"], kept))
        assert client.patch("/schedules/nightly", json={"paused": True}).status_code == 200
        assert client.post("/schedules/nightly/run").json()["outcome"] == "fired"


class TestABrief:
    """A schedule, or one firing of it, as a clock of the first kind sends it."""

    @pytest.mark.parametrize(
        "payload",
        [
            {"query": "Why?", "cron_expr": "0 6 * * *"},
            {
                "query": "Why?",
                "cron_expr": "0 6 * * *",
                "depth": 5,
                "max_steps": 100,
                "max_sources": 3,
                "domain": "finance",
                "enabled": False,
            },
            {"query": "Why?", "cron_expr": "*/5 * * * *", "depth": 1, "max_steps": 1},
        ],
        ids=["least", "all", "few steps"],
    )
    def test_is_kept_as_it_was_asked_for_listed_and_removed(self, client, payload):
        made = client.post("/schedule", json=payload)
        assert made.status_code == 201
        data = made.json()["data"]
        usual = {"depth": 2, "max_sources": 10, "domain": None, "enabled": True}
        wanted = {k: v for k, v in (usual | payload).items() if k != "max_steps"}
        assert {key: data[key] for key in wanted} == wanted
        assert set(data) - set(wanted) == {"task_id", "created_at", "last_run_at", "next_run_at"}
        assert client.get("/schedule").json()["data"] == [data]
        assert client.delete(f"/schedule/{data['task_id']}").status_code == 204
        assert client.get("/schedule").json()["data"] == []

    def test_says_when_it_ran_last(self, client):
        task = client.post("/schedule", json={"query": "Why?", "cron_expr": "0 6 * * *"}).json()["data"]
        assert task["last_run_at"] is None
        fired = client.post("/trigger", json={"schedule": task["task_id"]}).json()
        (listed,) = client.get("/schedule").json()["data"]
        assert listed["last_run_at"] == fired["fired_at"]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"depth": 0},
            {"depth": 6},
            {"max_steps": 0},
            {"max_steps": 101},
            {"max_sources": 0},
            {"cron_expr": 5},
            {"colour": "red"},
        ],
        ids=str,
    )
    def test_beyond_its_limits_is_refused(self, client, wrong):
        payload = {"query": "Why?", "cron_expr": "0 6 * * *", **wrong}
        assert client.post("/schedule", json=payload).status_code == 422

    @pytest.mark.parametrize(
        "payload",
        [{"query": "Why?"}, {"query": "Why?", "depth": 4}, {"query": "Why?", "depth": 4, "max_sources": 7}],
        ids=len,
    )
    def test_that_is_fired_from_outside_is_one_plan_for_each_key(self, client, payload):
        first, second = (
            client.post("/trigger", json=payload, headers={"Idempotency-Key": "monday"}) for _ in range(2)
        )
        assert first.status_code == 202
        assert first.json() == second.json()
        plan = plan_of(client, first.json()["plan_id"])
        assert (plan.goal, plan.depth) == ("Why?", payload.get("depth", 2))
        assert plan.sources["max_sources"] == payload.get("max_sources", 10)
        assert client.post("/trigger", json=payload).json()["plan_id"] != plan.plan_id

    @pytest.mark.parametrize(
        "wrong", [{}, {"depth": 2}, {"query": ""}, {"query": "Why?", "depth": 6}, {"query": "Why?", "x": 1}]
    )
    def test_that_cannot_be_fired_is_refused(self, client, wrong):
        assert client.post("/trigger", json=wrong).status_code == 422
