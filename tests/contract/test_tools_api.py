"""Tools over HTTP, outside of plans: judged as a plan's calls are, recorded before and after, and kept by nobody."""

from __future__ import annotations

import json

import psycopg
import pytest
from anyio.from_thread import start_blocking_portal

from agents import profiles
from orchestrator import house, settings
from orchestrator.api import identity
from orchestrator.domain.judgement import Judgement
from orchestrator.domain.stop import Stop
from orchestrator.store import PgStore
from orchestrator.vault.chain import Sealer
from tests.contract.test_api import Site, refusal
from tests.contract.test_gate_rules import Reaching
from tests.contract.workbench import ENFORCER
from workers.gate.desk import Desk
from workers.gate.stops import Stops
from workers.gate.surroundings import Known
from workers.toolhost import offer, registry, stock
from workers.toolhost.host import ToolHost
from workers.toolhost.sandbox import Verdict

pytestmark = pytest.mark.postgres

TOOLS = registry.load(house.path("configs/tool_registry.yaml"))
PROFILES = profiles.load(house.path("agents"))


class Undecided:
    """A policy that cannot answer."""

    revision = ""

    def judge(self, question):
        return Judgement("deny", (), "", "", failed=True)


class Open:
    """An API whose callers may call tools, and the database under it."""

    def __init__(self, dsn, portal, folder, *, enforcer=ENFORCER, roles=("operator",), databases=""):
        here = settings.load(environment={}, databases=databases)
        tools = offer.offered(TOOLS, here, verdict=lambda _: Verdict(False, "No walls here."))
        self.store = PgStore(dsn, size=4)
        self.stops = folder / "stops.txt"
        self.host = ToolHost(tools, stock.servers(here))
        self.desk = Desk(
            self.store,
            Sealer(b"a key for tests"),
            enforcer,
            PROFILES,
            tools,
            self.host,
            Known(stops=Stops(self.stops, may_be_missing=True)),
        )
        who = identity.Principal("ada", "acme", frozenset(roles), kind="development")
        self.site = Site(dsn, portal, folder, reception=identity.Reception(anybody=who), desk=self.desk)
        self.dsn = dsn

    def call(self, name, agent=None, **arguments):
        body = {"arguments": arguments, **({"agent": agent} if agent else {})}
        return self.site.post(f"/tools/{name}", json=body)

    def records(self):
        with self.store.transaction() as tx:
            chain = tx.lock_ledger("acme").chain
            return [(r.kind, json.loads(r.body)) for r in tx.audit(chain)]

    def close(self):
        self.site.close()
        self.host.close()
        self.store.close()


@pytest.fixture
def opened(dsn, tmp_path):
    made = []
    with start_blocking_portal() as portal:

        def make(**rest):
            made.append(Open(dsn, portal, tmp_path, **rest))
            return made[-1]

        yield make
        for each in made:
            each.close()


@pytest.fixture
def here(opened):
    return opened()


def test_b19_every_tool_is_listed_with_what_it_needs_or_why_it_is_withheld(here):
    listed = {tool["name"]: tool for tool in here.site.get("/tools").json()["items"]}

    assert set(listed) == set(TOOLS.tools)
    assert (listed["calculate"]["capability"], listed["calculate"]["withheld"]) == ("tools.call", None)
    assert listed["sql_query"]["withheld"] == offer.NO_DATABASES
    assert "No walls here." in listed["code_run"]["withheld"]


def test_b19_a_tool_is_called_and_leaves_who_what_decided_and_how_it_ended(here):
    answer = here.call("calculate", expression="20 + 22")

    assert answer.status_code == 200
    assert answer.json()["tool"] == "calculate"
    assert answer.json()["content"]["text"] == "20 + 22 = 42"
    (asked, intent), (came, outcome) = here.records()
    assert (asked, came) == ("tool_called", "tool_result")
    assert (intent["actor"], intent["tenant"], intent["resource"]) == ("ada", "acme", "tool:calculate")
    assert intent["details"]["decision"]["effect"] == "allow"
    assert intent["details"]["call"] == outcome["details"]["call"]
    assert outcome["details"]["state"] == "done"


def test_b19_nothing_of_what_went_in_or_came_out_is_kept(here):
    here.call("calculate", expression="123456 * 7891011")

    with psycopg.connect(here.dsn) as hand:
        tables = hand.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        for (table,) in tables.fetchall():
            text = "".join(str(row) for row in hand.execute(f'SELECT t::text FROM "{table}" AS t'))
            assert "7891011" not in text


def test_a_call_that_fails_is_recorded_as_failed_and_says_why(here):
    answer = here.call("calculate", expression="1 / 0")

    assert refusal(answer) == (422, "invalid")
    assert "divided by zero" in answer.json()["detail"]
    assert [kind for kind, _ in here.records()] == ["tool_called", "tool_error"]


@pytest.mark.parametrize(
    ("name", "agent", "refused"),
    [
        ("nothing", None, (404, "not_found")),
        ("model_complete", None, (409, "conflict")),
        ("sql_query", None, (409, "conflict")),
        ("code_run", "code-generator", (409, "conflict")),
        ("calculate", "nobody", (422, "invalid")),
        ("calculate", "critic", (403, "forbidden")),
        ("calculate", "synthesiser", (403, "forbidden")),
    ],
)
def test_b19_what_an_agent_could_not_call_nobody_calls_in_its_name(here, name, agent, refused):
    assert refusal(here.call(name, agent, expression="1")) == refused
    assert here.records() == []


def test_b19_what_needs_an_approval_is_refused_since_no_plan_can_wait_for_it(opened, tmp_path):
    (tmp_path / "t.csv").write_text("x\n1\n")
    here = opened(databases=f"t={tmp_path}")

    answer = here.call("sql_query", database="t", query="SELECT x FROM t")

    assert refusal(answer) == (403, "forbidden")
    assert "approval_required data.access" in answer.json()["detail"]
    assert here.records() == []


def test_b19_nothing_is_called_while_it_is_stopped_or_nobody_can_decide(opened):
    here = opened()
    here.stops.write_text("tool:calculate it misbehaves\n")
    stopped = here.call("calculate", expression="1")
    here.stops.write_text("gibberish that is no stop\n")
    unreadable = here.call("calculate", expression="1")
    undecided = opened(enforcer=Undecided()).call("calculate", expression="1")

    assert refusal(stopped)[0] == 503
    assert refusal(unreadable)[0] == 503
    assert refusal(undecided)[0] == 503
    assert here.records() == []


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'"x"',
        b'{"arguments": []}',
        b'{"arguments": {}, "more": 1}',
        b'{"arguments": {}, "agent": ""}',
        b"{",
    ],
)
def test_a_form_that_is_none_is_refused(here, body):
    answer = here.site.post("/tools/calculate", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code in {400, 422}
    assert here.records() == []


def test_a_server_without_tools_says_so(dsn, tmp_path):
    with start_blocking_portal() as portal:
        who = identity.Principal("ada", "acme", frozenset({"operator"}), kind="development")
        site = Site(dsn, portal, tmp_path, reception=identity.Reception(anybody=who))
        try:
            assert refusal(site.get("/tools")) == (409, "conflict")
            assert refusal(site.post("/tools/calculate", json={})) == (409, "conflict")
        finally:
            site.close()


def test_what_the_fleet_or_the_tenant_stopped_is_called_by_nobody(here):
    for tenant, target in (("", "agent:researcher"), ("acme", "tool:calculate")):
        with here.store.transaction() as tx:
            tx.put_stop(Stop(target, "It misbehaves.", tenant, "ops"))
        assert refusal(here.call("calculate", expression="1 + 1"))[0] == 503
        with here.store.transaction() as tx:
            assert tx.remove_stop(tenant, target)
    assert here.records() == []
    assert here.call("calculate", expression="1 + 1").status_code == 200


def test_the_hosts_that_are_left_to_tenant_and_agent_go_with_a_call(here):
    told = Reaching(here.host)
    here.desk._host = told
    here.desk._known = Known(tenants={"acme": ("example.org",), "rival": ()})

    assert here.call("calculate", expression="1 + 1").status_code == 200
    assert told.reach == [[["example.org"]]]
