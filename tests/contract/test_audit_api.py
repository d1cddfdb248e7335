"""The audit over HTTP: what is appended is sealed at once, and found again by what it is about."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import get_args

import psycopg
import pytest
from anyio.from_thread import start_blocking_portal

from orchestrator.api import audit, forms
from orchestrator.vault import examine, ledger
from orchestrator.vault.checkpoint import NOTHING
from orchestrator.vault.examine import Series
from tests.contract.test_api import Site, refusal

pytestmark = pytest.mark.postgres

ENTRY = {"event_type": "data_accessed", "action": "opened the contract"}
FULL = ENTRY | {
    "actor": "alice",
    "resource": "contract.pdf",
    "details": {"pages": [1, 2], "why": "🔒"},
    "session_id": "s-1",
}


@pytest.fixture(scope="module")
def portal():
    with start_blocking_portal() as made:
        yield made


@pytest.fixture
def site(dsn, portal, tmp_path):
    made = Site(dsn, portal, tmp_path)
    yield made
    made.close()


def append(site, **fields):
    answer = site.post("/audit/logs", json=ENTRY | fields)
    assert answer.status_code == 201
    return answer.json()


def entries(site, **query):
    answer = site.get("/audit/logs", params=query)
    assert answer.status_code == 200
    return answer.json()["entries"]


def examined(site):
    return examine.examine(site.store, site.sealer, (Series("nowhere"),))


class TestAnEntry:
    def test_is_listed_as_it_was_appended(self, site):
        made = site.post("/audit/logs", json=FULL).json()

        (found,) = entries(site)

        assert {name: found[name] for name in FULL} == FULL
        assert (found["entry_id"], found["checksum"]) == (made["entry_id"], made["checksum"])
        assert found["by"] == "api"
        assert found["parent_id"] is None
        assert found["timestamp"].endswith("Z")
        assert datetime.now(UTC) - datetime.fromisoformat(found["timestamp"]) < timedelta(minutes=5)

    def test_that_says_little_is_the_system_s(self, site):
        append(site)
        (found,) = entries(site)
        assert (found["actor"], found["resource"], found["details"], found["session_id"]) == (
            "system",
            "",
            {},
            "",
        )

    def test_follows_the_one_before_it(self, site):
        for _ in range(3):
            append(site)
        found = entries(site)
        assert all(later["parent_id"] == earlier["entry_id"] for later, earlier in pairwise(found))

    @pytest.mark.parametrize("event_type", get_args(forms.EventType))
    def test_may_be_about_anything_of_the_list(self, site, event_type):
        append(site, event_type=event_type)
        assert [e["event_type"] for e in entries(site)] == [event_type]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"event_type": "made_up"},
            {"event_type": None},
            {"action": ""},
            {"action": "x" * 201},
            {"actor": ""},
            {"details": []},
            {"details": {"x": "y" * 17_000}},
            {"details": {"x": "nul \x00"}},
            {"parent_id": "mine"},
            {"by": "somebody else"},
            {"at": "2020-01-01T00:00:00Z"},
        ],
        ids=str,
    )
    def test_that_does_not_fit_is_refused(self, site, wrong):
        assert site.post("/audit/logs", json=ENTRY | wrong).status_code == 422
        assert entries(site) == []

    def test_cannot_name_somebody_else_as_who_stated_it(self, site):
        append(site, details={"by": "somebody else"}, actor="somebody else")
        assert entries(site)[0]["by"] == "api"

    def test_is_sealed(self, site):
        append(site)
        append(site)
        assert examined(site).faults == []
        with psycopg.connect(site.dsn, autocommit=True) as connection:
            connection.execute("ALTER TABLE audit DISABLE TRIGGER only_grows")
            connection.execute("UPDATE audit SET body = '{}' WHERE number = 1")
        (fault,) = examined(site).faults
        assert (fault.name, fault.chain) == ("record_altered", ledger.ledger_of("default"))
        assert len(entries(site)) == 2

    def test_is_under_the_next_checkpoint(self, site):
        append(site)
        with site.store.transaction() as tx:
            (grown,) = tx.grown(10)
        assert (grown.chain, grown.count, grown.leaf) == (ledger.ledger_of("default"), 1, None)
        assert grown.head != NOTHING

    def test_is_appended_once_by_each_of_many_at_once(self, site):
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda n: append(site, action=f"act {n}"), range(20)))
        assert len({one["entry_id"] for one in made}) == 20
        assert examined(site).faults == []


class TestTheList:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({}, ["c", "b", "a"]),
            ({"actor": "alice"}, ["c", "a"]),
            ({"event_type": "error"}, ["b"]),
            ({"session_id": "s-1"}, ["c"]),
            ({"actor": "alice", "event_type": "error"}, []),
            ({"actor": "nobody"}, []),
            ({"since": "2020-01-01T00:00:00Z"}, ["c", "b", "a"]),
            ({"since": "2999-01-01T00:00:00Z"}, []),
            ({"until": "2020-01-01T00:00:00+02:00"}, []),
            ({"until": "2999-01-01T00:00:00Z"}, ["c", "b", "a"]),
            ({"limit": 2}, ["c", "b"]),
        ],
        ids=str,
    )
    def test_is_of_what_fits_the_newest_first(self, site, query, expected):
        append(site, action="a", actor="alice")
        append(site, action="b", actor="bob", event_type="error")
        append(site, action="c", actor="alice", session_id="s-1")
        assert [e["action"] for e in entries(site, **query)] == expected

    def test_parts_times_where_they_were_asked_for(self, site):
        append(site, action="a")
        (first,) = entries(site)
        append(site, action="b")
        assert [e["action"] for e in entries(site, until=first["timestamp"])] == []
        assert [e["action"] for e in entries(site, since=first["timestamp"])] == ["b", "a"]

    @pytest.mark.parametrize("actor", [None, "alice"])
    def test_is_read_a_page_at_a_time_without_gap_or_repeat(self, site, actor, monkeypatch):
        monkeypatch.setattr(audit, "SCANNED", 3)
        for n in range(10):
            append(site, action=str(n), actor="alice" if n % 3 else "bob")
        query, found = {"limit": 2} | ({"actor": actor} if actor else {}), []
        for _ in range(20):
            page = site.get("/audit/logs", params=query).json()
            found += [e["action"] for e in page["entries"]]
            assert len(page["entries"]) <= 2
            append(site, action="meanwhile")
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
        assert found == [str(n) for n in reversed(range(10)) if actor is None or n % 3]

    @pytest.mark.parametrize("cursor", ["x", "1", f"{ledger.ledger_of('another')}.1", "../../etc.1"])
    def test_refuses_a_cursor_that_somebody_made_up(self, site, cursor):
        assert refusal(site.get("/audit/logs", params={"cursor": cursor})) == (422, "invalid")

    @pytest.mark.parametrize(
        "query",
        [
            {"event_type": "made_up"},
            {"since": "yesterday"},
            {"since": "0.5"},
            {"until": "1790000000"},
            {"since": "2026-01-01T00:00:00"},
            {"limit": 0},
        ],
    )
    def test_refuses_what_does_not_fit(self, site, query):
        assert site.get("/audit/logs", params=query).status_code == 422

    def test_of_a_plan_has_its_records_in_the_same_form(self, site):
        plan_id = site.made()
        site.succeed(plan_id)
        found = entries(site, plan=plan_id)
        assert [e["event_type"] for e in found] == ["query_completed", "data_modified", "query_received"]
        assert found[-1]["action"] == "plan.submitted"
        assert found[-1]["details"]["depth"] == 2
        assert [e["action"] for e in entries(site, plan=plan_id, event_type="query_received")] == [
            "plan.submitted"
        ]

    def test_of_a_plan_that_there_is_not_is_not_found(self, site):
        nobody = "00000000-0000-4000-8000-000000000000"
        assert site.get("/audit/logs", params={"plan": nobody}).status_code == 404

    def test_of_another_tenant_s_plan_is_not_found(self, site):
        plan_id = site.made(tenant="another")
        assert site.get("/audit/logs", params={"plan": plan_id}).status_code == 404

    def test_is_of_one_tenant_s_chain(self, site):
        append(site)
        with site.store.transaction() as tx:
            head = tx.lock_ledger("another")
            tx.append_to_ledger(
                site.sealer.seal(chain=head.chain, number=1, kind="error", body={}, prev=head.head)
            )
        assert [e["event_type"] for e in entries(site)] == ["data_accessed"]


def test_the_routes_name_their_actions():
    dependants = {
        (method, route.path): [
            d.call.action for d in route.dependant.dependencies if hasattr(d.call, "action")
        ]
        for route in audit.router.routes
        for method in route.methods
    }
    assert dependants == {("POST", "/audit/logs"): ["audit.append"], ("GET", "/audit/logs"): ["audit.read"]}
