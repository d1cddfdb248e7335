"""The API as its own description has it: Schemathesis asks whatever /openapi.json allows, and much that it forbids.

The real application behind a real server on a real Postgres. A worker beside it ends every plan, so that those who
wait for an answer, or read a stream, get to its end. What is asked is the same in every run.
"""

import threading
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import httpx
import pytest
import schemathesis
import uvicorn
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from orchestrator import api
from tests.contract.test_api import GOAL, Site

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

EXAMPLES = 8
"""For each route, besides those that cover the limits of each of its parts."""

DESCRIBED = api.build(SimpleNamespace()).openapi()
SCHEMA = schemathesis.openapi.from_dict(DESCRIBED)
SCHEMA.config.generation.deterministic = True
KNOWN = {}
"""What is there to be named in an address, by the name of the part."""


@SCHEMA.hook
def flatmap_path_parameters(context, parts):
    """Let half of the addresses name what is there."""
    known = {name: st.sampled_from(KNOWN[name]) for name in parts or () if name in KNOWN}
    others = {name: st.just(value) for name, value in (parts or {}).items() if name not in known}
    return st.just(parts) | st.fixed_dictionaries(others | known) if known else st.just(parts)


@pytest.fixture(scope="module")
def site(postgres_server, tmp_path_factory):
    with start_blocking_portal() as portal:
        made = Site(postgres_server.create(), portal, tmp_path_factory.mktemp("documents"))
        furnish(made)
        with served(made), worked_on(made):
            yield made
        made.close()
        postgres_server.drop(made.dsn)


def furnish(site):
    """Let there be one of everything."""
    done = site.made()
    site.succeed(done)
    dead = [site.made() for _ in range(4)]
    KNOWN["letter_id"] = [site.bury(plan_id) for plan_id in dead]
    KNOWN["approval_id"] = [site.hold(site.made()) for _ in range(4)]
    site.post("/schedules", json={"name": "weekly", "cron": "0 6 * * 1", "request": {"goal": GOAL}})
    said = site.post("/chat/message", json={"content": GOAL, "wait": 0}).json()
    KNOWN["conversation_id"], KNOWN["turn"] = [said["conversation_id"]], [1, 2]
    KNOWN["plan_id"] = [done, *dead[2:]]
    KNOWN["schedule"] = ["weekly"]
    site.put("/secrets/known", json={"value": "a value that is known"})
    KNOWN["name"] = ["known"]


@contextmanager
def served(site):
    server = uvicorn.Server(uvicorn.Config(site.app, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    site.url = f"http://127.0.0.1:{port}"
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def worked_on(site):
    """Let a worker end every plan that can go on: well, and every other badly."""
    stopping = threading.Event()

    def work():
        ends = [site.succeed, site.bury]
        while not stopping.wait(0.02):
            with site.store.transaction() as tx:
                waiting = [*tx.plans(state="queued", limit=20), *tx.plans(state="running", limit=20)]
            for number, plan in enumerate(waiting):
                with suppress(Exception):  # somebody cancelled it meanwhile
                    ends[number % 2](plan.plan_id)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def test_the_description_is_the_one_that_is_served(site):
    assert httpx.get(f"{site.url}/openapi.json").json() == DESCRIBED


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_route_answers_as_it_is_described(site, case):
    excused = [positive_data_acceptance]  # a description cannot say all that makes a request acceptable
    if set(case.path_parameters.values()) & {name for names in KNOWN.values() for name in names}:
        excused.append(negative_data_rejection)  # what was wrong with the address has been replaced
    case.call_and_validate(base_url=site.url, excluded_checks=excused)


@pytest.mark.parametrize("accepted", ["text/event-stream", "application/json"])
def test_events_answer_as_they_are_described_in_either_form(site, accepted):
    for plan_id in KNOWN["plan_id"]:
        case = SCHEMA["/plans/{plan_id}/events"]["GET"].Case(
            path_parameters={"plan_id": plan_id}, headers={"Accept": accepted}
        )
        answer = case.call_and_validate(base_url=site.url)
        assert answer.status_code == 200
        assert answer.headers["content-type"][0].startswith(accepted)


@pytest.mark.parametrize("accepted", ["text/markdown", "application/json"])
def test_a_report_answers_as_it_is_described_in_either_form(site, accepted):
    case = SCHEMA["/plans/{plan_id}/report"]["GET"].Case(
        path_parameters={"plan_id": KNOWN["plan_id"][0]}, headers={"Accept": accepted}
    )
    answer = case.call_and_validate(base_url=site.url)
    assert answer.status_code == 200
    assert answer.headers["content-type"][0].startswith(accepted)
