"""Flower on a real fleet: who may look, what is seen, and that nothing is seen that a message should not carry."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from orchestrator import topology
from orchestrator.domain.plan import request
from orchestrator.wiring import core
from scripts import services
from tests.fleet import ROOT, Fleet, until

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

GOAL = "What is a rim lock screwed to, quoth zanzibar"
DOCUMENT = "# Rim locks\n\nA rim lock is screwed to the surface of the door.\n"
AUTH = ("operator", "a password for tests")
UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def folder():
    made = Path(tempfile.mkdtemp(prefix="orc-flower-"))
    (made / "docs").mkdir()
    (made / "docs" / "rim.md").write_text(DOCUMENT)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def fleet(postgres_server, rabbit, folder):
    dsn = postgres_server.create()
    with rabbit.vhost() as vhost:
        made = Fleet(dsn, vhost, folder, documents_roots=folder)
        yield made
        made.kill()
    postgres_server.drop(dsn)


@pytest.fixture(scope="module")
def opened(fleet):
    with core(fleet.settings) as made:
        yield made


@pytest.fixture(scope="module")
def flower(fleet, folder, rabbit):
    """Flower as the Procfile starts it, by its command line there."""
    (line,) = [line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("flower: ")]
    words = line.split()[1:]
    command = words[words.index("celery") :]
    port = services.free_port()
    environment = {
        **fleet.environment,
        "FLOWER_PORT": str(port),
        "FLOWER_BASIC_AUTH": ":".join(AUTH),
        "FLOWER_BROKER_API": f"{rabbit.api}/api/",
    }
    with (folder / "flower.log").open("wb") as out:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=out,
        )
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def answers():
        try:
            return client.get("/healthcheck").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(answers, within_s=60, why=(folder / "flower.log").read_text)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def seen(fleet, opened, flower, folder):
    """A plan that was carried to its end before Flower's eyes: the plan, and the tasks that it shows."""
    for role, *options in (("steps", "--events"), ("completions",), ("relay",)):
        fleet.start(role, *options)
    until(lambda: len(workers(flower)) == 1, within_s=60, why=fleet.logs)
    plan = opened.conductor.submit(request(GOAL, depth=1, sources={"documents": str(folder / "docs")}))

    def state():
        with opened.store.transaction() as tx:
            return tx.plan(plan.plan_id).state

    until(lambda: state() == "succeeded", within_s=60, why=fleet.logs)
    with opened.store.transaction() as tx:
        steps = tx.steps(plan.plan_id)
    until(lambda: len(done(flower)) >= len(steps), why=lambda: str(tasks(flower)))
    return plan, steps


def workers(flower):
    return flower.get("/api/workers?refresh=1", auth=AUTH).raise_for_status().json()


def tasks(flower):
    return flower.get("/api/tasks", auth=AUTH).raise_for_status().json()


def done(flower):
    return [task for task in tasks(flower).values() if task["state"] == "SUCCESS"]


@pytest.mark.parametrize("path", ["/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks"])
def test_nobody_is_shown_anything_without_the_password(flower, path):
    assert flower.get(path).status_code == 401
    assert flower.get(path, auth=(AUTH[0], "a guess")).status_code == 401


@pytest.mark.parametrize("path", ["/metrics", "/healthcheck"])
def test_what_asks_for_no_password_tells_nothing_of_plans(flower, seen, path):
    answer = flower.get(path)
    assert answer.status_code == 200
    assert seen[0].plan_id not in answer.text


def test_step_workers_are_listed_with_the_queues_that_they_take_from(flower, seen):
    (name,) = workers(flower)
    assert re.fullmatch(r"steps\.\d+@.+", name)
    queues = workers(flower)[name]["active_queues"]
    assert {queue["name"] for queue in queues} == set(topology.STEP_QUEUES)


def test_a_task_names_its_plan_and_step_and_nothing_else(flower, seen):
    plan, steps = seen
    shown = [task for task in tasks(flower).values() if task["name"] == "plan.steps.run"]
    assert {task["args"] for task in shown} == {f"({plan.plan_id} step {step.number},)" for step in steps}
    assert all(re.fullmatch(rf"\({UUID} step \d+,\)", task["args"]) for task in shown)
    assert {task["kwargs"] for task in shown} == {""}
    assert {task["name"] for task in tasks(flower).values()} == {"plan.steps.run"}


def test_no_word_of_a_goal_is_anywhere_in_what_is_shown(flower, seen):
    pages = ["/tasks", "/workers", "/broker", "/api/tasks", "/api/workers?refresh=1", "/api/queues/length"]
    pages += [f"/task/{identifier}" for identifier in tasks(flower)]
    for page in pages:
        text = flower.get(page, auth=AUTH).raise_for_status().text.lower()
        assert "zanzibar" not in text, page
        assert "rim lock" not in text, page


def test_a_plan_is_found_by_its_id(flower, seen):
    plan, steps = seen
    found = flower.get("/api/tasks", params={"search": plan.plan_id}, auth=AUTH).json()
    assert len(found) >= len(steps)
    assert flower.get("/api/tasks", params={"search": "00000000"}, auth=AUTH).json() == {}


def test_the_queues_of_steps_are_shown_with_their_lengths_and_no_others(flower, seen):
    shown = flower.get("/api/queues/length", auth=AUTH).raise_for_status().json()["active_queues"]
    assert {queue["name"] for queue in shown} == set(topology.STEP_QUEUES)
    page = flower.get("/broker", auth=AUTH).raise_for_status().text
    assert all(name in page for name in topology.STEP_QUEUES)
    assert "plan.completions" not in page


def test_a_worker_without_events_is_not_seen(fleet, flower, seen):
    quiet = fleet.start("steps")
    until(lambda: "Taking steps" in quiet.log.read_text(), within_s=60, why=fleet.logs)
    assert len(workers(flower)) == 1
    assert quiet.stop() == 0


def test_its_button_to_shut_a_worker_down_lets_it_end_well(fleet, flower, seen):
    (name,) = workers(flower)
    (worker,) = [member for member in fleet.of("steps") if member.lives]
    flower.post(f"/api/worker/shutdown/{name}", auth=AUTH).raise_for_status()
    assert worker.process.wait(60) == 0, fleet.logs()
