"""The HTTP contract, over the real application on a real Postgres: what each route answers, and how each refuses."""

import hashlib
import json
import re
import sys
import threading
import time
from base64 import b64encode, urlsafe_b64encode
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from uuid import uuid4

import anyio
import httpx
import psycopg
import pytest
from anyio.from_thread import start_blocking_portal

from agents import turns
from orchestrator import api, database, settings
from orchestrator.api import accept, door, events, identity, problems
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain import errors
from orchestrator.domain.lifecycle import PLAN_ENDS
from orchestrator.domain.outcome import Completed, Faulted, Held
from orchestrator.domain.plan import Chain, Evidence, Fact, Stage, digest, request
from orchestrator.store import Alive, PgStore
from orchestrator.vault.chain import Sealer
from orchestrator.vault.secrets import MasterKeys, SealedSecrets

pytestmark = pytest.mark.postgres

GOAL = "What is a lighthouse?"
TEXT = "A lighthouse is a tower that shows a light."
NOBODY = "00000000-0000-4000-8000-000000000000"
REPORT = {
    "v": 1,
    "goal": GOAL,
    "verdict": "answered",
    "method": "extractive",
    "partial": False,
    "sections": [{"title": "Answer", "sentences": [{"text": TEXT, "citations": [1]}]}],
    "citations": [
        {
            "number": 1,
            "fact": "F1.1",
            "quote": TEXT,
            "evidence": "0" * 64,
            "start": 0,
            "end": len(TEXT),
            "locator": "lighthouse.md",
            "title": "Lighthouse",
            "heading": [],
            "origin_sha256": "0" * 64,
        }
    ],
    "gaps": [],
    "notes": [],
    "confidence": 1.0,
}
CHAIN = Chain(
    (Stage((("team_lead",), ("operator",)), timedelta(days=1)), Stage((("manager",),), timedelta(days=1)))
)


class Site:
    """An API on a database of its own, and whoever works on its plans."""

    def __init__(self, dsn, portal, folder, **options):
        self.dsn = dsn
        self.store = PgStore(dsn, size=8)
        self.sealer = Sealer(b"a key for tests")
        self.conductor = Conductor(
            self.store,
            self.sealer,
            new_id=lambda: str(uuid4()),
            draw=lambda: 0.5,
            rules=Rules(max_attempts=1, chains={"QUALITY": CHAIN}),
        )
        self.settings = settings.load(environment={}, data_dir=str(folder), documents_roots=str(folder))
        self.stopping = threading.Event()
        core = SimpleNamespace(
            settings=self.settings,
            dsn=dsn,
            store=self.store,
            sealer=self.sealer,
            conductor=self.conductor,
            secrets=SealedSecrets(self.store, MasterKeys(lambda: [b"m" * 32])),
        )
        self.secrets = core.secrets
        self.app = api.build(
            core,
            **{
                "reception": identity.development(),
                "stopping": self.stopping,
                "listener": turns.Rules(),
                **options,
            },
        )
        self._portal = portal
        self._alive = Alive(dsn)

    def close(self):
        self._alive.close()
        self.store.close()

    def ask(self, method, path, **rest):
        async def go():
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as client:
                return await client.request(method, path, **rest)

        answer = self._portal.call(go)
        assert answer.headers["x-trace-id"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        if answer.status_code >= 400 and method != "HEAD":
            check_problem(answer, path)
        return answer

    def ask_all(self, go):
        """Let a coroutine ask as it likes; what it returns."""
        return self._portal.call(go)

    def get(self, path, **rest):
        return self.ask("GET", path, **rest)

    def post(self, path, **rest):
        return self.ask("POST", path, **rest)

    def put(self, path, **rest):
        return self.ask("PUT", path, **rest)

    def made(self, goal=GOAL, **rest):
        """Submit a plan past the API, in the name of somebody else."""
        return self.conductor.submit(request(goal, **rest)).plan_id

    def step(self, plan_id, outcome):
        """Carry the plan's ready step to an outcome."""
        with self.store.transaction() as tx:
            ref = next(s.ref for s in tx.steps(plan_id) if s.state == "ready")
        claimed = self.conductor.begin(ref, holder=self._alive.holder)
        assert self.conductor.report(claimed, outcome)
        return ref

    def succeed(self, plan_id):
        """Let the plan succeed at once: its router finds nothing to research, and a report is there."""
        evidence = Evidence.of(TEXT, locator="lighthouse.md")
        fact = Fact(1, 1, TEXT, evidence.sha256, 0, len(TEXT), "lighthouse.md")
        with self.store.transaction() as tx:
            tx.put_evidence("default", evidence)
        ref = self.step(plan_id, Completed("casual", facts=[fact], report=REPORT))
        self.conductor.settle(ref)
        while not self.ended(plan_id):
            ref = self.step(plan_id, Completed("written"))
            self.conductor.settle(ref)

    def ended(self, plan_id):
        with self.store.transaction() as tx:
            return tx.plan(plan_id).state in PLAN_ENDS

    def the_plan(self):
        """The only plan that was submitted, once there is one."""
        while True:
            with self.store.transaction() as tx:
                found = tx.plans(limit=2)
            if found:
                (plan,) = found
                return plan.plan_id
            time.sleep(0.01)

    def once_read(self, act):
        """Act, in a thread of its own, once somebody reads a stream; the thread, started."""

        def wait_and_act():
            while not self.app.state.office.seats._held:
                time.sleep(0.01)
            act()

        waiter = threading.Thread(target=wait_and_act)
        waiter.start()
        return waiter

    def bury(self, plan_id):
        """Let the plan's step be given up on; its dead letter."""
        self.step(plan_id, Faulted("tool_error", "The tool is broken."))
        with self.store.transaction() as tx:
            return tx.dead_letters(plan_id=plan_id)[0].letter_id

    def hold(self, plan_id, *, roles=("operator",), category="repo.write"):
        """Let the plan's step wait for a person; the approval."""
        self.step(plan_id, Held(category, "May it write?", "digest", roles))
        with self.store.transaction() as tx:
            return tx.approvals(plan_id=plan_id)[0].approval_id


def check_problem(answer, path):
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert said["status"] == answer.status_code
    assert said["type"] == f"urn:orchestrator:problem:{said['code']}"
    assert said["trace_id"] == answer.headers["x-trace-id"]
    assert said["title"]
    assert said["detail"][-1] in ".?"
    assert said["instance"] == path.split("?")[0]


def refusal(answer):
    return answer.status_code, answer.json()["code"]


@pytest.fixture(scope="module")
def portal():
    with start_blocking_portal() as made:
        yield made


@contextmanager
def site_on(server, portal, folder, **options):
    dsn = server.create()
    made = Site(dsn, portal, folder, **options)
    yield made
    made.close()
    server.drop(dsn)


@pytest.fixture(scope="module")
def site(postgres_server, portal, tmp_path_factory):
    """One for all tests that look only at what they have made."""
    with site_on(postgres_server, portal, tmp_path_factory.mktemp("documents")) as made:
        yield made


@pytest.fixture
def fresh(postgres_server, portal, tmp_path):
    """One for a test that looks at everything, or breaks something."""
    with site_on(postgres_server, portal, tmp_path) as made:
        yield made


class TestSubmitting:
    def test_accepts_a_goal_and_says_where_its_plan_is(self, site):
        answer = site.post("/plans", json={"goal": GOAL})

        plan = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/plans/{plan['plan_id']}"
        assert (plan["goal"], plan["state"], plan["depth"], plan["requester"]) == (GOAL, "queued", 2, "api")
        assert site.get(answer.headers["location"]).json() == plan

    def test_keeps_all_that_was_asked(self, site):
        asked = {
            "goal": GOAL,
            "depth": 5,
            "domain": "history",
            "max_sources": 7,
            "budget": {"steps": 8, "seconds": 60},
            "priority": -3,
            "metadata": {"ticket": [1, None, {"a": "ü"}]},
        }
        plan = site.post("/plans", json=asked).json()

        assert plan["depth"] == 5
        assert plan["sources"]["domain"] == "history"
        assert plan["sources"]["max_sources"] == 7
        assert (plan["budget"]["steps"], plan["budget"]["seconds"], plan["budget"]["calls"]) == (8, 60, 500)
        assert (plan["priority"], plan["metadata"]) == (-3, asked["metadata"])

    @pytest.mark.parametrize("rounds", [1, 32_768])
    def test_keeps_how_many_drafts_may_be_judged(self, site, rounds):
        asked = {"goal": GOAL, "consensus_rounds": rounds, "metadata": {"a": 1}}
        plan = site.post("/plans", json=asked).json()

        assert plan["metadata"] == {"a": 1, "consensus_rounds": rounds}

    def test_of_a_domain_that_is_not_there_is_refused_with_those_that_are(self, site):
        answer = site.post("/plans", json={"goal": GOAL, "domain": "alchemy"})

        assert refusal(answer) == (422, "invalid_request")
        assert "general, research, finance" in answer.json()["detail"]

    def test_with_a_key_makes_one_plan_of_equal_requests(self, site):
        key = {"Idempotency-Key": "one"}
        first, second = (site.post("/plans", json={"goal": GOAL}, headers=key) for _ in range(2))

        assert (first.status_code, second.status_code) == (202, 202)
        assert first.json() == second.json()
        assert first.headers["location"] == second.headers["location"]

    def test_refuses_a_key_that_came_with_another_request(self, site):
        key = {"Idempotency-Key": "other"}
        site.post("/plans", json={"goal": GOAL}, headers=key)

        answer = site.post("/plans", json={"goal": "Something else?"}, headers=key)

        assert refusal(answer) == (422, "idempotency_key_reused")

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"goal": ""},
            {"goal": " \n"},
            {"goal": 7},
            {"goal": GOAL, "depth": False},
            {"goal": GOAL, "depth": 2.0},
            {"goal": GOAL, "depth": "2"},
            {"goal": GOAL, "depth": 0},
            {"goal": GOAL, "depth": 6},
            {"goal": GOAL, "budget": {"calls": False}},
            {"goal": GOAL, "budget": {"steps": 7}},
            {"goal": GOAL, "budget": {"tokens": 2**53 + 1}},
            {"goal": GOAL, "budget": {"cent": 1}},
            {"goal": GOAL, "max_sources": 51},
            {"goal": GOAL, "priority": 101},
            {"goal": GOAL, "consensus_rounds": 0},
            {"goal": GOAL, "consensus_rounds": 32_769},
            {"goal": GOAL, "consensus_rounds": "3"},
            {"goal": GOAL, "consensus_rounds": True},
            {"goal": GOAL, "metadata": {"consensus_rounds": "many"}},
            {"goal": GOAL, "metadata": {"n": 2**60}},
            {"goal": GOAL, "metadata": []},
            {"goal": GOAL, "unknown": 1},
            {"goal": "x" * 20_000},
            [],
            None,
        ],
        ids=lambda body: json.dumps(body)[:40],
    )
    def test_refuses_what_does_not_fit(self, site, body):
        assert site.post("/plans", json=body).status_code == 422

    @pytest.mark.parametrize(
        "body",
        [
            b'{"goal": "a\\u0000b"}',
            b'{"goal": "a\\ud800b"}',
            b'{"goal": "a", "metadata": {"\\u0000": 1}}',
            b'{"goal": "a", "metadata": {"a": ["\\udfff"]}}',
            b'{"goal": "a", "metadata": {"a": NaN}}',
            b'{"goal": "a", "metadata": {"a": 1e999}}',
            b'{"goal": "a", "metadata": {"a": ' + b"9" * 5000 + b"}}",
            b'{"goal": "a", "domain": "\\ud800"}',
            b"\xff\xfe{\x00",
            b'{"goal": "\xff"}',
            b"{",
            b"nonsense",
            b"[" * 40 + b"]" * 40,
        ],
        ids=lambda body: body[:40].decode("latin-1"),
    )
    def test_refuses_what_cannot_be_stored_or_is_no_json(self, site, body):
        answer = site.post("/plans", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422

    def test_searches_the_server_s_folder_where_none_is_named(self, site):
        plan = site.post("/plans", json={"goal": GOAL}).json()
        assert plan["sources"] == {"documents": site.settings.documents_roots}

    def test_may_name_a_folder_below_those_that_the_server_lets_be_read(self, site):
        folder = f"{site.settings.documents_roots}/letters/../contracts"
        plan = site.post("/plans", json={"goal": GOAL, "sources": {"documents": folder}}).json()
        assert plan["sources"]["documents"].endswith("/contracts")

    @pytest.mark.parametrize("folder", ["/", "/etc", "relative", "{root}/../other", "x" * 4000, "~"])
    def test_may_not_name_another_folder(self, site, folder):
        named = folder.format(root=site.settings.documents_roots)[:4096]
        answer = site.post("/plans", json={"goal": GOAL, "sources": {"documents": named}})
        assert refusal(answer) == (422, "invalid_sources")


WEEKLY = {"name": "weekly", "cron": "0 6 * * 1", "request": {"goal": GOAL}}


class TestASchedule:
    def test_is_kept_shown_and_forgotten(self, fresh):
        made = fresh.post("/schedules", json=WEEKLY)
        assert made.status_code == 201
        shown = fresh.get(made.headers["location"])
        assert (shown.status_code, shown.json()["name"]) == (200, "weekly")
        assert len(shown.json()["upcoming"]) > 1
        assert refusal(fresh.post("/schedules", json=WEEKLY))[0] == 409

    @pytest.mark.parametrize("folder", ["/", "/etc", "~"])
    def test_may_not_search_a_folder_that_a_plan_may_not(self, fresh, folder):
        request = {"goal": GOAL, "sources": {"documents": folder}}
        answer = fresh.post("/schedules", json={**WEEKLY, "request": request})
        assert refusal(answer) == (422, "invalid_sources")
        fresh.post("/schedules", json=WEEKLY)
        assert refusal(fresh.ask("PATCH", "/schedules/weekly", json={"request": request})) == (
            422,
            "invalid_sources",
        )

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("GET", "/schedules/a%00b", None),
            ("DELETE", "/schedules/%00", None),
            ("GET", "/schedules/a%00b/firings", None),
            ("POST", "/schedules", {**WEEKLY, "request": {"goal": "a\0b"}}),
            ("POST", "/schedules", {**WEEKLY, "request": {"goal": "a\ud800b"}}),
            ("POST", "/schedules", {**WEEKLY, "request": {"goal": GOAL, "metadata": {"n": 2**60}}}),
            ("POST", "/schedule", {"query": "a\0b", "cron_expr": "0 6 * * 1"}),
            ("POST", "/schedule", {"query": "a\ud800b", "cron_expr": "0 6 * * 1"}),
            ("POST", "/trigger", {"schedule": "a\0b"}),
            ("POST", "/trigger", {"schedule": "\ud800"}),
            ("POST", "/trigger", {"schedule": "weekly", "due_at": "0001-01-01T00:00:00+14:00"}),
            ("POST", "/trigger", {"schedule": "weekly", "due_at": "9999-12-31T23:59:59-14:00"}),
            ("POST", "/trigger", {"schedule": "weekly", "due_at": 12345}),
        ],
        ids=str,
    )
    def test_refuses_what_cannot_be_stored(self, site, method, path, body):
        content = None if body is None else json.dumps(body)
        headers = {"content-type": "application/json"} if content else {}
        assert raw(site, method, path, content=content, headers=headers).status_code == 422

    @pytest.mark.parametrize("path", ["/schedules/weekly/run", "/trigger", "/plans"])
    def test_refuses_a_key_that_cannot_be_stored(self, site, path):
        bodies = {"/trigger": {"schedule": "weekly"}, "/plans": {"goal": GOAL}}
        answer = site.post(path, json=bodies.get(path), headers={"Idempotency-Key": "a\0b"})
        assert refusal(answer) == (422, "invalid_request")


class TestTheList:
    def test_is_read_page_by_page_without_gap_or_repeat_while_plans_are_added(self, fresh):
        made = [fresh.made(f"Question {n}?") for n in range(7)]
        # all at the same time: then the id decides
        with psycopg.connect(fresh.dsn, autocommit=True) as connection:
            connection.execute("UPDATE plan SET created_at = '2026-01-01T12:00Z'")

        seen, cursor = [], None
        for _ in range(10):
            page = fresh.get("/plans", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
            seen += [p["plan_id"] for p in page["plans"]]
            fresh.made("Another?")
            cursor = page["next"]
            if cursor is None:
                break

        assert seen == sorted(made)

    def test_may_be_of_one_state_only(self, fresh):
        cancelled, _ = fresh.made(), fresh.made()
        fresh.conductor.cancel(cancelled, by="somebody")

        listed = fresh.get("/plans", params={"state": "cancelled"}).json()

        assert [p["plan_id"] for p in listed["plans"]] == [cancelled]
        assert listed["next"] is None

    @pytest.mark.parametrize(
        "query",
        [
            "state=nonsense",
            "limit=0",
            "limit=201",
            "limit=x",
            "cursor=x",
            "cursor=%00",
            "cursor=W10",
            "cursor=",
        ],
    )
    def test_refuses_what_does_not_fit(self, site, query):
        assert site.get(f"/plans?{query}").status_code == 422

    @pytest.mark.parametrize(
        "place", ['["2026-01-01", "x"]', '["0001-01-01T00:00:00+14:00", "' + NOBODY + '"]', '{"a": 1}', "7"]
    )
    def test_refuses_a_cursor_that_somebody_made_up(self, site, place):
        cursor = urlsafe_b64encode(place.encode()).decode()
        assert refusal(site.get("/plans", params={"cursor": cursor})) == (422, "invalid")


class TestAPlan:
    def test_b48_shows_the_tasks_that_its_goal_was_split_into(self, site):
        plan = {"plan_id": site.made()}
        tasks = {"v": 1, "tasks": [{"id": "t1", "question": "Why?"}]}
        assert "planned" not in site.get(f"/plans/{plan['plan_id']}").json()
        site.conductor.settle(site.step(plan["plan_id"], Completed("deep")))

        site.step(plan["plan_id"], Completed("planned", plan=tasks, result={"plan_sha256": digest(tasks)}))

        shown = site.get(f"/plans/{plan['plan_id']}").json()
        assert shown["planned"] == {"sha256": digest(tasks), "plan": tasks}
        (record,) = [
            r
            for r in site.get(f"/plans/{plan['plan_id']}/audit").json()["records"]
            if r["kind"] == "plan.planned"
        ]
        assert record["body"]["plan"] == tasks

    def test_shows_its_steps_calls_facts_and_audit(self, site):
        plan_id = site.made()
        site.succeed(plan_id)

        steps, calls, facts, audit = (
            site.get(f"/plans/{plan_id}/{part}").json() for part in ("steps", "calls", "facts", "audit")
        )

        assert steps["steps"][0]["agent"] == "router"
        assert calls == {"calls": []}
        assert facts["facts"][0]["quote"] == TEXT
        assert (audit["verified"], audit["broken"]) == (True, None)
        assert audit["records"][0]["kind"] == "plan.submitted"

    def test_whose_audit_was_altered_says_where(self, site):
        plan_id = site.made()
        with psycopg.connect(site.dsn, autocommit=True) as connection:
            connection.execute("ALTER TABLE audit DISABLE TRIGGER only_grows")
            connection.execute("UPDATE audit SET body = '{}' WHERE chain = %s AND number = 1", (plan_id,))

        audit = site.get(f"/plans/{plan_id}/audit").json()

        assert audit["verified"] is False
        assert audit["broken"]["record"] == 1

    def test_is_cancelled_once(self, site):
        plan_id = site.made()
        answer = site.post(f"/plans/{plan_id}/cancel", json={"reason": "a mistake"})

        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        assert answer.json()["reason"] == "a mistake"
        assert refusal(site.post(f"/plans/{plan_id}/cancel")) == (409, "illegal_move")

    def test_shows_what_each_round_of_its_draft_came_to(self, site):
        plan_id = site.made()
        drafted = [Completed("deep"), Completed("planned"), Completed("drafted"), Completed("critiqued")]
        sure = {"confidence": 0.8, "draft": "d" * 64, "generator": 3, "critic": 4}
        for outcome in (*drafted, Completed("accept", result=sure)):
            site.conductor.settle(site.step(plan_id, outcome))

        (ballot,) = site.get(f"/plans/{plan_id}/ballots").json()["ballots"]

        assert ballot.pop("at")
        assert ballot == {
            "round": 0,
            "draft": "d" * 64,
            "objections": 0,
            "verdict": "accept",
            "confidence": 0.8,
            "threshold": 0.95,
            "decided": "revise",
            "why": None,
            "generator": 3,
            "critic": 4,
            "judge": 5,
        }

    def test_that_was_given_up_on_is_taken_up_again(self, site):
        plan_id = site.made()
        site.bury(plan_id)

        answer = site.post(f"/plans/{plan_id}/retry")

        assert (answer.status_code, answer.json()["state"]) == (200, "running")
        assert refusal(site.post(f"/plans/{plan_id}/retry")) == (409, "illegal_move")

    @pytest.mark.parametrize("plan_id", [NOBODY, "nonsense", "%00", "1", "..%2f..", "é"])
    @pytest.mark.parametrize(
        "part", ["", "/steps", "/calls", "/facts", "/ballots", "/audit", "/events", "/report"]
    )
    def test_that_is_not_there_is_not_found(self, site, plan_id, part):
        # the answer names the decoded path, so it is not compared here
        answer = raw(site, "GET", f"/plans/{plan_id}{part}")
        assert answer.status_code in {404, 422}

    @pytest.mark.parametrize("verb", ["cancel", "retry"])
    def test_that_is_not_there_cannot_be_changed(self, site, verb):
        assert refusal(site.post(f"/plans/{NOBODY}/{verb}")) == (404, "not_found")


def raw(site, method, path, **rest):
    async def go():
        transport = httpx.ASGITransport(site.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, **rest)

    return site._portal.call(go)


class TestAFork:
    def test_is_a_new_plan_that_goes_on_from_a_step_of_the_old_one(self, site):
        old = site.made()
        site.succeed(old)
        before = site.get(f"/plans/{old}").json()

        answer = site.post(f"/plans/{old}/fork", json={"from_step": 2, "goal": "What is a buoy?"})

        plan = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/plans/{plan['plan_id']}"
        assert (plan["goal"], plan["state"], plan["requester"]) == ("What is a buoy?", "queued", "api")
        assert (plan["steps"], plan["spent"]["steps"], plan["budget"]) == (2, 2, before["budget"])
        steps = site.get(f"/plans/{plan['plan_id']}/steps").json()["steps"]
        assert [(s["state"], s["settled"]) for s in steps] == [("succeeded", True), ("ready", False)]
        facts = [site.get(f"/plans/{p}/facts").json() for p in (old, plan["plan_id"])]
        assert facts[0] == facts[1]
        assert site.get(f"/plans/{plan['plan_id']}/audit").json()["verified"] is True
        assert site.get(f"/plans/{old}").json() == before

    def test_ends_like_any_other_plan(self, site):
        old = site.made()
        site.succeed(old)
        plan_id = site.post(f"/plans/{old}/fork", json={"from_step": 2}).json()["plan_id"]

        site.conductor.settle(site.step(plan_id, Completed("written", report=REPORT)))

        assert site.get(f"/plans/{plan_id}").json()["state"] == "succeeded"
        kinds = [e["kind"] for e in site.get(f"/plans/{plan_id}/events").json()["events"]]
        assert (kinds[0], kinds[-1]) == ("plan.forked", "plan.ended")

    @pytest.mark.parametrize("body", [None, {}, {"from_step": None, "goal": None}])
    def test_without_a_step_begins_at_the_beginning(self, site, body):
        old = site.made()
        site.succeed(old)
        answer = (
            site.post(f"/plans/{old}/fork", json=body)
            if body is not None
            else site.post(f"/plans/{old}/fork")
        )
        assert (answer.status_code, answer.json()["steps"], answer.json()["goal"]) == (202, 1, GOAL)

    def test_with_a_key_is_made_once(self, site):
        old = site.made()
        key = {"Idempotency-Key": f"fork {old}"}
        first, second = (site.post(f"/plans/{old}/fork", headers=key) for _ in range(2))
        assert first.json()["plan_id"] == second.json()["plan_id"]
        answer = site.post(f"/plans/{old}/fork", json={"goal": "What else?"}, headers=key)
        assert refusal(answer) == (422, "idempotency_key_reused")

    def test_may_begin_at_any_checkpoint_that_is_listed_and_reuses_what_is_listed(self, site):
        old = site.made()
        site.succeed(old)
        listed = site.get(f"/plans/{old}/checkpoints").json()["checkpoints"]
        assert [(c["step"], c["agent"], c["reused"], c["again"]) for c in listed] == [
            (1, "router", [], [1]),
            (2, "synthesiser", [1], [2]),
        ]
        for checkpoint in listed:
            fork = site.post(f"/plans/{old}/fork", json={"from_step": checkpoint["step"]}).json()["plan_id"]
            states = {s["number"]: s["state"] for s in site.get(f"/plans/{fork}/steps").json()["steps"]}
            assert states == {
                **dict.fromkeys(checkpoint["reused"], "succeeded"),
                **dict.fromkeys(checkpoint["again"], "ready"),
            }
        assert refusal(site.get(f"/plans/{NOBODY}/checkpoints")) == (404, "not_found")

    def test_of_what_is_not_there_is_not_found(self, site):
        assert refusal(site.post(f"/plans/{NOBODY}/fork")) == (404, "not_found")
        answer = site.post(f"/plans/{site.made()}/fork", json={"from_step": 2})
        assert refusal(answer) == (404, "not_found")

    def test_from_a_step_whose_predecessors_have_not_ended_says_where_it_may_begin(self, site):
        old = site.made()
        site.succeed(old)
        with psycopg.connect(site.dsn, autocommit=True) as connection:
            connection.execute("UPDATE step SET settled = false WHERE plan_id = %s AND number = 1", (old,))
        answer = site.post(f"/plans/{old}/fork", json={"from_step": 2})
        assert refusal(answer) == (409, "conflict")
        assert "may be forked from step 1." in answer.json()["detail"]

    @pytest.mark.parametrize(
        "body",
        [
            {"from_step": 0},
            {"from_step": "1"},
            {"from_step": 2**31},
            {"goal": ""},
            {"goal": " "},
            {"x": 1},
            [],
        ],
    )
    def test_refuses_what_does_not_fit(self, site, body):
        assert site.post(f"/plans/{site.made()}/fork", json=body).status_code == 422


class TestAReport:
    def test_is_not_found_before_it_is_written(self, site):
        assert refusal(site.get(f"/plans/{site.made()}/report")) == (404, "not_found")

    def test_is_json_or_markdown_as_it_is_asked_for(self, site):
        plan_id = site.made()
        site.succeed(plan_id)

        path = f"/plans/{plan_id}/report"
        as_json = site.get(path)
        as_markdown = site.get(path, headers={"Accept": "text/markdown, application/json;q=0.5"})

        assert as_json.json() == REPORT
        assert as_markdown.headers["content-type"] == "text/markdown; charset=utf-8"
        assert as_markdown.text.startswith(f"# {GOAL}\n")

    def test_is_a_page_that_a_browser_may_only_look_at_or_a_pdf(self, site):
        plan_id = site.made()
        site.succeed(plan_id)
        path = f"/plans/{plan_id}/report"

        page = site.get(path, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        pdf = site.get(path, headers={"Accept": "application/pdf"})

        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.text.startswith("<!doctype html>")
        assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert pdf.headers["content-type"] == "application/pdf"
        assert pdf.content.startswith(b"%PDF-")

    @pytest.mark.parametrize("missing", ["fpdf", "pymupdf_fonts"])
    def test_as_pdf_is_refused_where_the_library_or_its_fonts_are_missing(self, site, monkeypatch, missing):
        plan_id = site.made()
        site.succeed(plan_id)
        monkeypatch.setitem(sys.modules, missing, None)

        refused = site.get(f"/plans/{plan_id}/report", headers={"Accept": "application/pdf"})

        assert refusal(refused) == (406, "not_acceptable")
        assert "orchestrator[pdf]" in refused.json()["detail"]


def messages(text):
    """The messages of a stream: each its fields by name."""
    blocks = [block for block in text.split("\n\n") if block]
    return [dict(line.split(": ", 1) for line in block.split("\n") if ": " in line) for block in blocks]


SSE = {"Accept": "text/event-stream"}


class TestEvents:
    def test_as_json_are_read_from_a_number_on(self, site):
        plan_id = site.made()
        site.succeed(plan_id)

        first = site.get(f"/plans/{plan_id}/events", params={"limit": 2}).json()
        rest = site.get(f"/plans/{plan_id}/events", params={"after": first["last"]}).json()

        numbers = [e["number"] for e in first["events"] + rest["events"]]
        assert numbers == list(range(1, len(numbers) + 1))
        assert (first["ended"], rest["ended"]) == (False, True)
        assert first["events"][0]["kind"] == "plan.submitted"

    def test_as_a_stream_are_numbered_and_end_with_the_plan(self, site):
        plan_id = site.made()
        site.succeed(plan_id)

        answer = site.get(f"/plans/{plan_id}/events", headers=SSE)

        told = messages(answer.text)
        listed = site.get(f"/plans/{plan_id}/events").json()["events"]
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert [json.loads(m["data"]) for m in told if "id" in m] == listed
        assert [m["id"] for m in told if "id" in m] == [str(e["number"]) for e in listed]
        assert [m["event"] for m in told if "id" in m] == [e["kind"] for e in listed]
        assert told[-1]["event"] == "end"
        assert "id" not in told[-1]

    def test_go_on_behind_the_last_that_was_received(self, site):
        plan_id = site.made()
        site.succeed(plan_id)

        answer = site.get(f"/plans/{plan_id}/events?after=1", headers={**SSE, "Last-Event-ID": "3"})

        assert next(m["id"] for m in messages(answer.text) if "id" in m) == "4"

    def test_of_a_living_plan_are_told_as_they_happen(self, site):
        plan_id = site.made()
        ender = site.once_read(lambda: site.succeed(plan_id))

        told = messages(site.get(f"/plans/{plan_id}/events", headers=SSE).text)
        ender.join()

        assert [m["event"] for m in told if "event" in m][-2:] == ["plan.ended", "end"]

    @pytest.mark.parametrize("last", ["x", "-1", "1.5", "99999999999", "²"])
    def test_do_not_go_on_behind_what_is_no_number(self, site, last):
        headers = {**SSE, "Last-Event-ID": last.encode()}
        answer = site.get(f"/plans/{site.made()}/events", headers=headers)
        assert refusal(answer) == (422, "invalid_request")

    def test_behind_a_number_that_was_never_given_are_none(self, site):
        plan_id = site.made()
        site.conductor.cancel(plan_id, by="somebody")
        answer = site.get(f"/plans/{plan_id}/events", headers={**SSE, "Last-Event-ID": "1000"})
        assert [m["event"] for m in messages(answer.text) if "event" in m] == ["end"]

    def test_behind_a_number_that_was_never_given_are_those_that_come_next(self, site):
        plan_id = site.made()
        ender = site.once_read(lambda: site.conductor.cancel(plan_id, by="somebody"))
        answer = site.get(f"/plans/{plan_id}/events", headers={**SSE, "Last-Event-ID": "1000"})
        ender.join()
        assert [m["event"] for m in messages(answer.text) if "event" in m] == ["plan.cancelled", "end"]

    def test_of_a_server_that_stops_end_without_saying_that_the_plan_has(self, fresh):
        plan_id = fresh.made()
        fresh.stopping.set()
        answer = fresh.get(f"/plans/{plan_id}/events", headers=SSE)
        assert "event: end" not in answer.text

    def test_are_not_streamed_to_more_readers_than_there_are_seats(self, postgres_server, portal, tmp_path):
        with site_on(postgres_server, portal, tmp_path, streams=1) as site:
            plan_id = site.made()
            first = threading.Thread(
                target=site.get, args=[f"/plans/{plan_id}/events"], kwargs={"headers": SSE}
            )
            first.start()
            site.once_read(lambda: None).join()

            answer = site.get(f"/plans/{plan_id}/events", headers=SSE)
            streamed = site.get("/research/stream", params={"query": GOAL})
            site.conductor.cancel(plan_id, by="somebody")
            first.join()

            assert refusal(answer) == (429, "too_many_streams")
            assert answer.headers["retry-after"]
            assert refusal(streamed) == (429, "too_many_streams")
            assert len(site.get("/plans").json()["plans"]) == 1
            assert site.get(f"/plans/{plan_id}/events", headers=SSE).status_code == 200

    def test_of_a_reader_who_has_gone_are_told_no_more(self, site):
        plan_id = site.made()
        free = site.app.state.office.seats._free

        assert self.watched(site, plan_id, until="retry: ").startswith("retry: ")

        assert site.app.state.office.seats._free == free

    def test_that_do_not_come_are_made_up_for_by_a_sign_of_life(self, site, monkeypatch):
        monkeypatch.setattr(events, "_KEEP_ALIVE_S", 0.2)
        assert "\n\n: still here\n\n" in self.watched(site, site.made(), until=": still here")

    @staticmethod
    def watched(site, plan_id, until):
        """What a reader is sent who goes away once that came."""
        sent, enough = [], anyio.Event()
        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/plans/{plan_id}/events",
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1"), (b"accept", b"text/event-stream")],
        }
        asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive():
            for message in asked:
                return message
            await enough.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message.get("body", b""))
            if until.encode() in b"".join(sent):
                enough.set()

        async def read():
            with anyio.fail_after(60):
                await site.app(scope, receive, send)

        site._portal.call(read)
        return b"".join(sent).decode()


class TestResearch:
    def test_waits_for_the_answer(self, fresh):
        worker = threading.Thread(target=lambda: fresh.succeed(fresh.the_plan()))
        worker.start()

        answer = fresh.post("/research", json={"query": GOAL, "depth": 1, "max_sources": 3})
        worker.join()

        told = answer.json()
        assert answer.status_code == 200
        assert answer.headers["location"] == f"/plans/{told['job_id']}"
        assert told["report"].startswith(f"# {GOAL}\n")
        assert (told["status"], told["confidence"]) == ("succeeded", 1.0)
        assert (told["sources_count"], told["facts_count"]) == (1, 1)

    def test_is_asked_in_the_domain_that_was_named_if_there_is_one(self, site):
        taken = site.post("/research?wait=0", json={"query": GOAL, "domain": "finance"})
        assert taken.json()["sources"]["domain"] == "finance"
        for refused in (
            site.post("/research", json={"query": GOAL, "domain": "astrology"}),
            site.get(f"/research/stream?query={GOAL}&domain=astrology"),
        ):
            assert refused.status_code == 422
            assert "The domains here are" in refused.json()["detail"]

    @pytest.mark.parametrize(
        ("query", "headers"),
        [("?wait=0", {}), ("?wait=0.3", {}), ("", {"Prefer": "wait=0"}), ("", {"Prefer": "respond-async"})],
    )
    def test_that_takes_longer_than_the_caller_waits_goes_on_as_a_plan(self, site, query, headers):
        answer = site.post(f"/research{query}", json={"query": GOAL}, headers=headers)

        assert answer.status_code == 202
        assert answer.headers["location"] == f"/plans/{answer.json()['plan_id']}"
        assert answer.json()["state"] == "queued"

    def test_of_a_plan_that_was_given_up_on_says_so(self, fresh):
        worker = threading.Thread(target=lambda: fresh.bury(fresh.the_plan()))
        worker.start()
        answer = fresh.post("/research", json={"query": GOAL})
        worker.join()

        assert answer.status_code == 200
        assert answer.json()["status"] == "dead_lettered"
        assert answer.json()["report"] is None

    @pytest.mark.parametrize("body", [{}, {"query": ""}, {"query": GOAL, "depth": True}, {"goal": GOAL}])
    def test_refuses_what_does_not_fit(self, site, body):
        assert site.post("/research", json=body).status_code == 422

    def test_as_a_stream_goes_on_with_the_same_plan(self, fresh):
        fresh.stopping.set()
        begun = fresh.get("/research/stream", params={"query": GOAL})
        fresh.stopping.clear()
        plan_id = begun.headers["location"].split("/")[2]
        fresh.conductor.cancel(plan_id, by="somebody")

        again = fresh.get(
            "/research/stream", params={"query": GOAL}, headers={"Last-Event-ID": f"{plan_id}:1"}
        )

        named = [m["id"] for m in messages(again.text) if "id" in m]
        assert named == [f"{plan_id}:{n}" for n in range(2, len(named) + 2)]
        assert len(fresh.get("/plans").json()["plans"]) == 1

    @pytest.mark.parametrize(
        ("last", "status"), [("x", 422), (f"{NOBODY}:1", 404), ("-" * 36 + ":1", 404), ("7", 422)]
    )
    def test_as_a_stream_does_not_go_on_with_what_is_not_there(self, site, last, status):
        answer = site.get("/research/stream", params={"query": GOAL}, headers={"Last-Event-ID": last})
        assert answer.status_code == status

    @pytest.mark.parametrize(
        "query", ["", "query=", "query=%00", "query=a&depth=9", "query=%20", "query=" + "a" * 4097]
    )
    def test_as_a_stream_refuses_what_does_not_fit(self, site, query):
        assert site.get(f"/research/stream?{query}").status_code == 422


class TestDeadLetters:
    def test_are_listed_by_state_reason_and_plan(self, site):
        plan_id = site.made()
        letter_id = site.bury(plan_id)

        def ids(**query):
            return [d["letter_id"] for d in site.get("/dead-letters", params=query).json()["dead_letters"]]

        assert ids(plan=plan_id) == [letter_id]
        assert letter_id in ids(reason="tool_error")
        assert ids(plan=plan_id, reason="timed_out") == []
        assert ids(plan=plan_id, state="discarded") == []
        assert ids(plan=plan_id, state="all") == [letter_id]
        assert ids(plan=plan_id, tenant="default") == [letter_id]
        assert ids(plan=plan_id, tenant="other") == []
        assert ids(plan=plan_id, newer_than="1h") == [letter_id]
        assert ids(plan=plan_id, older_than="1h") == []
        assert ids(plan=plan_id, older_than="0s") == [letter_id]

    def test_are_read_page_by_page_without_gap_or_repeat(self, fresh):
        made = [fresh.bury(fresh.made()) for _ in range(5)]

        seen, cursor = [], None
        for _ in range(len(made)):
            query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
            page = fresh.get("/dead-letters", params=query).json()
            seen += [d["letter_id"] for d in page["dead_letters"]]
            fresh.bury(fresh.made())
            cursor = page["next"]
            if cursor is None:
                break

        assert seen == made[::-1]

    @pytest.mark.parametrize(
        "query",
        [
            "older_than=2",
            "newer_than=-1h",
            "older_than=100000w",
            "reason=%00",
            "tenant=%00",
            "cursor=x",
            "limit=0",
        ],
    )
    def test_are_not_listed_by_what_does_not_fit(self, site, query):
        assert site.get(f"/dead-letters?{query}").status_code == 422

    def test_are_shown_in_full_with_the_history_of_their_step_and_of_no_other(self, site):
        plan_id = site.made()
        letter_id = site.bury(plan_id)
        (listed,) = site.get("/dead-letters", params={"plan": plan_id}).json()["dead_letters"]

        answer = site.get(f"/dead-letters/{letter_id}")

        found = answer.json()
        history = found.pop("history")
        assert (answer.status_code, found) == (200, listed)
        assert [e["kind"] for e in history][-1] == "step.dead"
        assert {e["plan_id"] for e in history} == {plan_id}
        assert {e["body"].get("step") for e in history} <= {listed["step"], None}

    def test_that_are_not_there_are_not_shown(self, site):
        assert refusal(site.get(f"/dead-letters/{NOBODY}")) == (404, "not_found")
        assert site.get("/dead-letters/x").status_code == 422

    def test_are_retried_once(self, site):
        plan_id = site.made()
        letter_id = site.bury(plan_id)

        answer = site.post(f"/dead-letters/{letter_id}/retry")

        assert (answer.status_code, answer.json()["plan_id"]) == (200, plan_id)
        assert site.post(f"/dead-letters/{letter_id}/retry").status_code == 409

    def test_are_discarded_once(self, site):
        letter_id = site.bury(site.made())

        answer = site.post(f"/dead-letters/{letter_id}/discard")

        assert (answer.status_code, answer.json()["state"]) == (200, "discarded")
        assert refusal(site.post(f"/dead-letters/{letter_id}/discard")) == (409, "conflict")

    @pytest.mark.parametrize("verb", ["retry", "discard"])
    def test_that_are_not_there_are_not_found(self, site, verb):
        assert refusal(site.post(f"/dead-letters/{NOBODY}/{verb}")) == (404, "not_found")


class TestApprovals:
    @pytest.mark.parametrize(("decision", "state"), [("approve", "approved"), ("reject", "rejected")])
    def test_are_decided_once(self, site, decision, state):
        plan_id = site.made()
        approval_id = site.hold(plan_id)
        waiting = site.get("/approvals", params={"state": "pending", "plan": plan_id}).json()["approvals"]

        answer = site.post(f"/approvals/{approval_id}", json={"decision": decision, "comment": "seen"})

        assert [a["approval_id"] for a in waiting] == [approval_id]
        told = answer.json()
        assert (told["state"], told["decided_by"], told["comment"]) == (state, "api", "seen")
        again = site.post(f"/approvals/{approval_id}", json={"decision": "approve"})
        assert refusal(again) == (409, "already_decided")

    def test_are_not_decided_without_the_role(self, site):
        approval_id = site.hold(site.made(), roles=("ciso",))
        answer = site.post(f"/approvals/{approval_id}", json={"decision": "approve"})
        assert refusal(answer) == (403, "wrong_role")

    def test_are_not_decided_by_whoever_asked(self, site):
        plan_id = site.post("/plans", json={"goal": GOAL}).json()["plan_id"]
        answer = site.post(f"/approvals/{site.hold(plan_id)}", json={"decision": "approve"})
        assert refusal(answer) == (403, "requester_decides")

    @pytest.mark.parametrize("body", [{}, {"decision": "maybe"}, {"decision": "approve", "by": "me"}])
    def test_are_not_decided_by_what_does_not_fit(self, site, body):
        assert site.post(f"/approvals/{site.hold(site.made())}", json=body).status_code == 422

    def test_that_are_not_there_are_not_found(self, site):
        assert refusal(site.post(f"/approvals/{NOBODY}", json={"decision": "approve"})) == (404, "not_found")


class TestAChainOfApprovals:
    """The caller is an operator, so that somebody else must fill the other seats."""

    @pytest.fixture
    def asked(self, site):
        plan_id = site.made()
        return plan_id, site.hold(plan_id, category="QUALITY")

    def others(self, site, approval_id, by, role):
        return site.conductor.decide(approval_id, approve=True, by=by, roles=[role])

    def test_goes_on_to_the_next_who_must_decide(self, site, asked):
        _, approval_id = asked
        told = site.post(f"/approvals/{approval_id}", json={"decision": "approve", "stage": 1}).json()
        assert (told["state"], told["roles"], told["stage"], told["stages"]) == (
            "pending",
            ["team_lead"],
            1,
            2,
        )
        self.others(site, approval_id, "bob", "team_lead")
        self.others(site, approval_id, "eve", "manager")
        shown = site.get(f"/approvals/{approval_id}").json()
        assert (shown["state"], shown["decided_by"]) == ("approved", "eve")
        assert [(r["person"], r["role"]) for r in shown["rulings"]] == [
            ("api", "operator"),
            ("bob", "team_lead"),
            ("eve", "manager"),
        ]
        assert shown["chain"] == [[["team_lead"], ["operator"]], [["manager"]]]
        assert shown["holds_until"] > shown["decided_at"]

    def test_takes_nobody_twice(self, site, asked):
        _, approval_id = asked
        site.post(f"/approvals/{approval_id}", json={"decision": "approve"})
        again = site.post(f"/approvals/{approval_id}", json={"decision": "approve"})
        assert refusal(again) == (403, "decides_twice")

    def test_takes_no_decision_about_a_stage_that_was_left(self, site, asked):
        _, approval_id = asked
        answer = site.post(f"/approvals/{approval_id}", json={"decision": "approve", "stage": 2})
        assert refusal(answer) == (409, "already_decided")

    def test_takes_no_role_that_the_caller_does_not_have(self, site, asked):
        _, approval_id = asked
        answer = site.post(f"/approvals/{approval_id}", json={"decision": "approve", "role": "team_lead"})
        assert refusal(answer) == (403, "wrong_role")

    def test_is_found_by_who_must_decide_now(self, site, asked):
        plan_id, approval_id = asked

        def waiting(**params):
            found = site.get("/approvals", params={"plan": plan_id, **params})
            return [a["approval_id"] for a in found.json()["approvals"]]

        assert waiting(role="team_lead") == waiting(role="operator") == [approval_id]
        site.post(f"/approvals/{approval_id}", json={"decision": "approve"})
        assert waiting(role="operator") == waiting(role="manager") == waiting(category="COST") == []
        assert waiting(role="team_lead") == waiting(state="pending") == [approval_id]

    def test_of_another_tenant_is_not_there(self, site):
        approval_id = site.hold(site.made(tenant="other"))
        assert approval_id not in site.get("/approvals", params={"limit": 200}).text
        assert refusal(site.get(f"/approvals/{approval_id}")) == (404, "not_found")
        answer = site.post(f"/approvals/{approval_id}", json={"decision": "approve"})
        assert refusal(answer) == (404, "not_found")


class TestTheApprovalOfAStep:
    @pytest.mark.parametrize(("verb", "state"), [("approve", "approved"), ("reject", "rejected")])
    def test_is_decided_under_the_step_s_address(self, site, verb, state):
        plan_id = site.made()
        site.hold(plan_id)
        told = site.post(f"/plans/{plan_id}/steps/1/{verb}", json={"comment": "seen"}).json()
        assert (told["state"], told["decided_by"], told["comment"]) == (state, "api", "seen")
        for other in ("approve", "reject"):
            again = site.post(f"/plans/{plan_id}/steps/1/{other}")
            assert refusal(again) == (409, "already_decided")

    def test_that_waits_for_nobody_or_is_another_tenant_s_is_not_found(self, site):
        plan_id, other = site.made(), site.made(tenant="other")
        site.hold(other)
        for address in (plan_id, other, NOBODY):
            assert refusal(site.post(f"/plans/{address}/steps/1/approve")) == (404, "not_found")

    def test_is_not_the_requester_s(self, site):
        plan_id = site.post("/plans", json={"goal": GOAL}).json()["plan_id"]
        site.hold(plan_id)
        assert refusal(site.post(f"/plans/{plan_id}/steps/1/approve")) == (403, "requester_decides")


def test_of_fifty_who_decide_at_once_one_wins_and_the_others_are_told(site):
    plan_id = site.made()
    approval_id = site.hold(plan_id)

    async def all_at_once():
        transport = httpx.ASGITransport(site.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8001") as client:
            answers = [None] * 50

            async def decide(n):
                body = {"decision": "approve" if n % 2 else "reject", "comment": str(n)}
                answers[n] = await client.post(f"/approvals/{approval_id}", json=body)

            async with anyio.create_task_group() as group:
                for n in range(50):
                    group.start_soon(decide, n)
            return answers

    answers = site.ask_all(all_at_once)

    codes = [a.status_code for a in answers]
    assert Counter(codes) == {200: 1, 409: 49}
    won = answers[codes.index(200)].json()
    shown = site.get(f"/approvals/{approval_id}").json()
    assert (shown["state"], shown["comment"]) == (won["state"], won["comment"])
    assert len(shown["rulings"]) == 1
    events = site.get(f"/plans/{plan_id}/events", headers={"Accept": "application/json"}).json()["events"]
    assert [e["kind"] for e in events].count("approval.decided") == 1


class TestHealth:
    def test_asks_nobody(self, site):
        assert site.get("/healthz").json() == {"status": "ok"}

    def test_is_ready_while_everything_answers(self, site):
        answer = site.get("/readyz")
        assert answer.status_code == 200
        assert answer.json()["dependencies"] == {"postgres": "ok", "schema": "ok", "tenants": "ok"}

    def test_is_not_ready_where_tenants_are_not_kept_apart(self, fresh):
        with psycopg.connect(fresh.dsn, autocommit=True) as connection:
            connection.execute("ALTER TABLE fact DISABLE ROW LEVEL SECURITY")
        answer = fresh.get("/readyz")
        assert refusal(answer) == (503, "not_ready")
        assert "orchestrator doctor" in answer.json()["dependencies"]["tenants"]

    def test_is_not_ready_on_another_schema(self, fresh):
        with psycopg.connect(fresh.dsn, autocommit=True) as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'old'")
        answer = fresh.get("/readyz")
        assert refusal(answer) == (503, "not_ready")
        assert database.head() in answer.json()["dependencies"]["schema"]
        assert answer.json()["dependencies"]["postgres"] == "ok"

    def test_is_not_ready_without_its_database_or_its_broker(self, fresh, portal):
        core = SimpleNamespace(
            settings=fresh.settings.model_copy(update={"broker_url": "amqp://127.0.0.1:1//"}),
            dsn="postgresql://127.0.0.1:1/none",
            store=fresh.store,
            sealer=fresh.sealer,
            conductor=fresh.conductor,
        )
        fresh.app = api.build(core, reception=identity.development())
        answer = fresh.get("/readyz")
        assert refusal(answer) == (503, "not_ready")
        assert set(answer.json()["dependencies"]) == {"postgres", "broker"}
        assert "127.0.0.1" not in answer.text

    def test_is_ready_without_its_locks_and_says_so(self, fresh, redis_server):
        def told(url):
            core = SimpleNamespace(
                settings=fresh.settings.model_copy(update={"redis_url": url}),
                dsn=fresh.dsn,
                store=fresh.store,
                sealer=fresh.sealer,
                conductor=fresh.conductor,
            )
            fresh.app = api.build(core, reception=identity.development())
            answer = fresh.get("/readyz")
            return answer.status_code, answer.json()["dependencies"]["redis"]

        assert told(redis_server.url) == (200, "ok")
        assert told("redis://127.0.0.1:1/0") == (200, "degraded: there are no locks")

    def test_is_counted_from_the_database(self, fresh):
        fresh.made()
        fresh.bury(fresh.made())
        with fresh.store.transaction() as tx:
            waiting = len(tx.take_outbox(100))
            tx.send([])
            tally = tx.tally()
        assert tally.waiting_messages == 0

        fresh.made()
        text = fresh.get("/metrics").text

        assert waiting == 3
        assert 'orchestrator_plans{state="queued"} 2.0' in text
        assert 'orchestrator_plans{state="dead_lettered"} 1.0' in text
        assert 'orchestrator_plans{state="succeeded"} 0.0' in text
        assert "orchestrator_dead_letters_open 1.0" in text
        assert "orchestrator_outbox_messages 1.0" in text
        assert "orchestrator_steps_running 0.0" in text
        assert "orchestrator_outbox_oldest_age_seconds 0." in text
        assert NOBODY[:8] not in text


class TestTheDoor:
    def test_answers_an_unknown_address_as_a_problem(self, site):
        assert refusal(site.get("/nothing")) == (404, "no_such_route")
        assert refusal(site.get("/plans/")) == (404, "no_such_route")
        assert refusal(site.get("/redoc")) == (404, "no_such_route")

    def test_refuses_a_parameter_that_an_address_does_not_take(self, site):
        for path in (
            "/plans?stat=failed",
            "/plans?limit=5&Limit=6",
            "/healthz?verbose",
            f"/plans/{NOBODY}?x=",
        ):
            assert refusal(site.get(path)) == (422, "unknown_parameter")
        assert "cursor, limit, state" in site.get("/plans?stat=failed").json()["detail"]
        assert refusal(site.post(f"/plans/{NOBODY}/cancel?force=1")) == (422, "unknown_parameter")

    def test_answers_head_as_get_without_the_body(self, site):
        plan = site.made()
        site.succeed(plan)
        asked = {
            "/healthz": {},
            "/readyz": {},
            "/metrics": {},
            "/openapi.json": {},
            "/docs": {},
            "/plans": {},
            f"/plans/{plan}/report": {"accept": "text/markdown"},
            f"/plans/{plan}/events": {"accept": "application/json"},
        }
        for path, headers in asked.items():
            got, head = site.get(path, headers=headers), site.ask("HEAD", path, headers=headers)
            assert (head.status_code, head.content) == (200, b""), path
            assert head.headers["content-type"] == got.headers["content-type"], path

    def test_a_head_neither_opens_a_stream_nor_asks_for_work(self, site):
        plan = site.made()
        streamed = site.ask("HEAD", f"/plans/{plan}/events", headers={"accept": "text/event-stream"})
        assert streamed.status_code == 200
        assert streamed.headers["content-type"] == "application/json"
        before = site.get("/plans").json()
        assert site.ask("HEAD", "/research/stream?query=What").status_code == 405
        assert site.get("/plans").json() == before

    def test_says_where_a_body_stops_being_json(self, site):
        for body, place in (
            (b'{"goal" "a"}', "character 8: Expecting ':' delimiter."),
            (b"{bad", "character 1: "),
        ):
            answer = site.post("/plans", content=body, headers={"content-type": "application/json"})
            assert refusal(answer) == (422, "invalid_body")
            assert place in answer.json()["detail"]

    def test_names_the_methods_that_an_address_takes(self, site):
        addresses = {
            "/healthz": {"GET", "HEAD"},
            "/plans": {"GET", "HEAD", "POST"},
            "/openapi.json": {"GET", "HEAD"},
            "/research/stream": {"GET"},
        }
        for path, methods in addresses.items():
            answer = site.ask("DELETE", path)
            assert refusal(answer) == (405, "method_not_allowed")
            assert set(answer.headers["allow"].split(", ")) == methods

    def test_refuses_a_body_that_is_too_large_by_its_own_word(self, site):
        answer = site.post("/plans", content=b"x", headers={"content-length": str(2**21)})
        assert refusal(answer) == (413, "body_too_large")

    def test_counts_the_bytes_of_a_body_of_unknown_length(self, site):
        sent = 0

        async def parts():
            nonlocal sent
            for _ in range(64):
                sent += 1
                yield b"x" * 65_536

        answer = site.post("/plans", content=parts(), headers={"content-type": "application/json"})

        assert refusal(answer) == (413, "body_too_large")
        assert sent < 20

    def test_takes_a_body_as_large_as_it_may_be(self, site):
        blank = b" " * (door.BODY_LIMIT - 100)
        body = b'{"goal": "What?"' + blank + b"}"
        answer = site.post("/plans", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 202

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
    def test_takes_json_only(self, site, kind):
        answer = site.post("/plans", content=b'{"goal": "a"}', headers={"content-type": kind})
        assert refusal(answer) == (415, "not_json")

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "127.0.0.1.evil.example",
            "[",
            "[::1",
            "",
            "localhost.evil.example:8001",
            "10.0.0.1",
        ],
    )
    def test_answers_under_the_names_of_this_machine_only(self, site, host):
        assert refusal(site.get("/healthz", headers={"host": host})) == (421, "misdirected")

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:8001", "127.0.0.1:1", "[::1]:8001", "127.8.8.8"]
    )
    def test_answers_under_each_name_of_this_machine(self, site, host):
        assert site.get("/healthz", headers={"host": host}).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "http://127.0.0.1:9999"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
        ],
        ids=str,
    )
    def test_does_nothing_for_a_page_of_another_site(self, site, headers):
        before = site.get("/metrics").text
        assert refusal(site.post(f"/plans/{NOBODY}/cancel", headers=headers)) == (403, "cross_site")
        assert refusal(site.get("/research/stream?query=a", headers=headers)) == (403, "cross_site")
        assert site.get("/metrics").text.split("outbox_oldest")[0] == before.split("outbox_oldest")[0]

    @pytest.mark.parametrize("value", ["%00", "a%00b", "%ED%A0%80", "%FF"])
    def test_has_a_refusal_for_a_parameter_that_cannot_be_stored(self, site, value):
        routes = [r for r in site.app.state.routes if "GET" in r.methods and "stream" not in r.path]
        asked = [(r.path, q.alias) for r in routes for q in r.dependant.query_params]
        asked = [(re.sub(r"{\w+}", NOBODY, path), name) for path, name in asked]
        assert ("/approvals", "role") in asked
        faults = [p for p in asked if site.get(f"{p[0]}?{p[1]}={value}").status_code >= 500]
        assert faults == []

    def test_takes_up_the_trace_of_its_caller(self, site):
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        answer = site.get("/nothing", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        assert answer.headers["x-trace-id"] == trace

    @pytest.mark.parametrize(
        ("body", "deep"),
        [
            (b"[" * 32 + b"]" * 32, False),
            (b"[" * 33 + b"]" * 33, True),
            (b'{"a":' * 33, True),
            (b"[]" * 100, False),
            (b'["' + b"[" * 100 + b'"]', False),
            (b'["\\"' + b"[" * 100 + b'"]', False),
            (b'["\\\\",' + b"[" * 100, True),
        ],
    )
    def test_knows_how_deep_a_body_is(self, body, deep):
        assert door.too_deep(body) is deep

    @pytest.mark.parametrize(
        "body",
        [b"{}" * 40 + b'\\"' * 30_000, b"{}" * 40 + b'\\"' * 30_000 + b"\\", b"{}" * 40 + b'"\\\\' * 20_000],
        ids=["quotes that nothing ends", "an escape of nothing", "quotes and backslashes"],
    )
    def test_reads_a_body_once_whatever_is_in_it(self, body):
        began = time.process_time()
        assert not door.too_deep(body)
        # a few milliseconds; to read on from each of the quotes would take more than ten seconds
        assert time.process_time() - began < 2.0


class TestAFault:
    @pytest.fixture
    def broken(self, fresh):
        def fail():
            raise ValueError("the secret word is xyzzy")

        fresh.store.transaction = fail
        return fresh

    def test_is_told_without_what_is_inside(self, broken, caplog):
        answer = broken.get("/plans")
        assert refusal(answer) == (500, "fault")
        assert "xyzzy" not in answer.text
        assert "Traceback" not in answer.text

    def test_of_the_database_says_when_to_try_again(self, fresh):
        fresh.store.close()
        fresh.store = PgStore("postgresql://127.0.0.1:1/none", size=1)

        def refuse():
            raise errors.Unavailable("Postgres does not answer.")

        fresh.app.state.office.core.store = SimpleNamespace(of=lambda _: SimpleNamespace(transaction=refuse))
        answer = fresh.get("/plans")
        assert refusal(answer) == (503, "unavailable")
        assert answer.headers["retry-after"]

    def test_of_the_configuration_is_not_told_to_callers(self, fresh):
        def refuse():
            raise errors.Misconfigured("The key in the secret folder is damaged.")

        fresh.app.state.office.core.store = SimpleNamespace(of=lambda _: SimpleNamespace(transaction=refuse))
        answer = fresh.get("/plans")
        assert refusal(answer) == (500, "misconfigured")
        assert "secret" not in answer.text


def every_error(kind=errors.OrchestratorError):
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from every_error(child)


@pytest.mark.parametrize("kind", list(every_error()), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status(kind):
    expected = {
        "Invalid": 422,
        "NotFound": 404,
        "Conflict": 409,
        "Forbidden": 403,
        "Fenced": 409,
        "BudgetSpent": 409,
        "Unavailable": 503,
    }
    family = next((name for name in expected if name in {k.__name__ for k in kind.__mro__}), None)
    assert problems.status_of(kind.__new__(kind)) == (expected[family] if family else 500)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, "a/j"),
        ("*/*", "a/j"),
        ("t/s", "t/s"),
        ("t/*", "t/s"),
        ("a/j;q=0.1, t/s", "t/s"),
        ("t/s;q=0.1, */*", "a/j"),
        ("x/y", "a/j"),
        ("T/S ; q=1.0", "t/s"),
        (",,;q=", "a/j"),
    ],
)
def test_the_media_type_is_the_one_that_is_liked_best(header, wanted):
    assert accept.chosen(header, ("a/j", "t/s")) == wanted


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("respond-async", 0),
        ("wait=7", 7),
        ("handling=lenient, wait = 7", 7),
        ("respond-async, wait=7", 7),
        ("wait=7, respond-async", 7),
        ("wait=x", None),
        ("wait=-1", None),
    ],
)
def test_the_patience_of_a_caller_is_what_it_prefers(header, seconds):
    assert accept.preference(header) == seconds


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("respond-async", "respond-async"),
        ("wait=0", "wait=0"),
        ("respond-async, wait=0", "respond-async, wait=0"),
        ("handling=strict", None),
    ],
)
def test_what_a_caller_prefers_is_said_to_be_applied_as_it_was(site, prefer, applied):
    query = "?wait=0" if applied is None else ""
    answer = site.post(f"/research{query}", json={"query": GOAL}, headers={"Prefer": prefer})
    assert answer.status_code == 202
    assert answer.headers.get("preference-applied") == applied


def test_waiting_longer_than_is_possible_is_said_to_be_cut():
    assert accept.applied("wait=999999", 300) == "wait=300"


class TestTheDescription:
    @pytest.fixture(scope="class")
    @staticmethod
    def document(site):
        return site.get("/openapi.json").json()

    def test_says_of_every_route_how_it_refuses(self, document):
        for path, verbs in document["paths"].items():
            for verb in verbs.values():
                assert verb["description"], path
                assert {"422", "500", "503"} <= set(verb["responses"]), path
                for status, answer in verb["responses"].items():
                    if int(status) >= 400:
                        assert set(answer["content"]) == {"application/problem+json"}, (path, status)

    def test_is_a_page_for_people_too_that_loads_nothing(self, site, document):
        answer = site.get("/docs")

        style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)[1]
        known = b64encode(hashlib.sha256(style.encode()).digest()).decode()
        allowed = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
        targets = set(re.findall(r'(?:href|src|action)="([^"]*)"', answer.text))
        anchors = {f"#{name}" for name in re.findall(r' id="([^"]*)"', answer.text)}
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert (allowed["default-src"], allowed["style-src"]) == ("'none'", f"'sha256-{known}'")
        assert targets == {"/openapi.json", *(a for a in targets if a.startswith("#"))}
        assert targets - {"/openapi.json"} <= anchors
        assert "<script" not in answer.text
        assert {f"#{verb}-{path}" for path, verbs in document["paths"].items() for verb in verbs} <= targets
        assert {f"#schema-{name}" for name in document["components"]["schemas"]} <= anchors

    def test_refers_to_nothing_that_it_does_not_hold(self, document):
        named = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
        assert named - set(document["components"]["schemas"]) == set()
