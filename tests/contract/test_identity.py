"""Who may use the API and how far: over the real application, a real Postgres and the policy that is shipped."""

import re
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from uuid import uuid4

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from anyio.to_thread import run_sync
from fastapi import APIRouter
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import api, house
from orchestrator.api import events, identity, office
from orchestrator.api.problems import Refused
from orchestrator.domain.judgement import Judgement
from orchestrator.domain.plan import Notification, NotificationState
from orchestrator.keyring import KeyRing
from orchestrator.rates import LocalRates, Rate
from orchestrator.store import PgStore
from orchestrator.tokens import Issuer, Trust
from orchestrator.vault.chain import Sealer
from tests.contract import jwks_server
from tests.contract.test_api import GOAL, NOBODY, Site, refusal
from workers.gate.policy import EmbeddedEnforcer

pytestmark = pytest.mark.postgres

SECRET = "The otters of the harbour are 42."
"""What tenant acme asks, and nobody else may read."""

ROUTES = [
    route
    for route in api.build(SimpleNamespace()).state.routes
    if isinstance(route, APIRoute) and route.path not in identity.OPEN
]
VERBS = [(method, route.path) for route in ROUTES for method in sorted(route.methods - {"HEAD"})]

BODIES = {
    ("POST", "/plans"): {"goal": GOAL},
    ("POST", "/research"): {"query": GOAL},
    ("POST", "/approvals/{approval_id}"): {"decision": "approve"},
    ("POST", "/schedules"): {"name": "hers", "cron": "0 6 * * 1", "request": {"goal": GOAL}},
    ("PATCH", "/schedules/{schedule}"): {"paused": True},
    ("POST", "/trigger"): {"schedule": "weekly"},
    ("POST", "/chat/message"): {"content": GOAL, "wait": 0},
    ("POST", "/chat"): {"messages": [{"role": "user", "content": GOAL}]},
    ("POST", "/tools/{name}"): {"arguments": {"expression": "1 + 1"}},
    ("POST", "/schedule"): {"query": GOAL, "cron_expr": "0 6 * * 1"},
    ("PUT", "/secrets/{name}"): {"value": "a value of hers"},
    ("POST", "/secrets/{name}/rotate"): {"value": "a value of hers"},
    ("POST", "/secrets/{name}/promote"): {"version": 2},
    ("PUT", "/stops/{target}"): {"reason": "hers"},
    ("PUT", "/stops/everywhere/{target}"): {"reason": "hers"},
}
"""What a request needs to be one that its route would take."""

QUERIES = {("POST", "/research"): {"wait": 0}, ("GET", "/research/stream"): {"query": GOAL}}


SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "query_string": b"",
    "root_path": "",
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 8001),
}
"""A request as a server gives it to the application, for what no client can send."""


FUZZED = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class Guarded(Site):
    """An API that asks who calls, with keys for whoever a test needs."""

    def __init__(self, dsn, portal, folder, judge, *, issuer=None, **options):
        self._keys = PgStore(dsn, size=4)
        self.ring = KeyRing(self._keys, b"a pepper for tests", Sealer(b"a key for tests"))
        agents = {"envoy": ["plan.create", "plan.read"], "researcher": ["documents.read"]}
        front = identity.Reception(judge=judge, ring=self.ring, issuer=issuer, agents=agents, **options)
        super().__init__(dsn, portal, folder, reception=front)
        self.tokens = {}

    def close(self):
        super().close()
        self._keys.close()

    def key(self, *roles, tenant="acme", name=None, **rest):
        return self.ring.create(
            name=name or f"{'-'.join(roles)}@{tenant}", tenant=tenant, roles=roles, by="test", **rest
        )

    def token(self, *roles, tenant="acme", **rest):
        """A key's token; the same for the same words."""
        words = (roles, tenant, *map(str, rest.items()))
        if words not in self.tokens:
            self.tokens[words] = self.key(*roles, tenant=tenant, **rest).token
        return self.tokens[words]

    def by(self, token, method, path, headers=None, **rest):
        return self.ask(method, path, headers={"Authorization": f"Bearer {token}", **(headers or {})}, **rest)


@pytest.fixture(scope="module")
def judge():
    return EmbeddedEnforcer(house.path("policies"))


@pytest.fixture(scope="module")
def portal():
    with start_blocking_portal() as made:
        yield made


@contextmanager
def guarded(server, portal, folder, judge, **options):
    dsn = server.create()
    made = Guarded(dsn, portal, folder, judge, **options)
    try:
        yield made
    finally:
        made.close()
        server.drop(dsn)


@pytest.fixture(scope="module")
def provider():
    with jwks_server.provider() as made:
        yield made


@pytest.fixture(scope="module")
def site(postgres_server, portal, tmp_path_factory, judge, provider):
    trust = Trust(issuer=provider.issuer, audience=jwks_server.AUDIENCE, jwks_url=provider.jwks_url)
    folder = tmp_path_factory.mktemp("documents")
    with guarded(postgres_server, portal, folder, judge, issuer=Issuer(trust)) as made:
        yield made


@pytest.fixture(scope="module")
def acme(site):
    """One of everything that belongs to the tenant acme: what an address names, by its part."""
    plan = site.made(SECRET, tenant="acme", requester="somebody")
    dead = site.made(SECRET, tenant="acme")
    site.secrets.put("acme", "harbour", SECRET, by="somebody")
    site.secrets.rotate("acme", "harbour", SECRET, by="somebody")
    held = site.made(SECRET, tenant="acme", requester="somebody")
    schedule = {"name": "weekly", "cron": "0 6 * * 1", "request": {"goal": SECRET}}
    assert site.by(site.token("operator"), "POST", "/schedules", json=schedule).status_code == 201
    said = {"content": SECRET, "wait": 0}
    talk = site.by(site.token("operator"), "POST", "/chat/message", json=said).json()
    held_id = site.hold(held)
    told = Notification(str(uuid4()), held_id, "approval.requested", {})
    with site.store.transaction() as tx:
        tx.add_notification(told)
        tx.end_notification(told, NotificationState.GIVEN_UP, error=SECRET)
    stopped = site.by(site.token("ciso"), "PUT", "/stops/tool:nobodys", json={"reason": SECRET})
    assert stopped.status_code == 200
    return {
        "notification_id": told.notification_id,
        "target": "tenant:acme",
        "conversation_id": talk["conversation_id"],
        "turn": str(talk["turn"]),
        "plan_id": plan,
        "letter_id": site.bury(dead),
        "approval_id": held_id,
        "schedule": "weekly",
        "step": "1",
        "name": "harbour",
    }


def filled(path, parts):
    return re.sub(r"{(\w+)}", lambda found: parts[found[1]], path)


def asked(method, path, parts):
    """The rest of a request that its route would take; a stream is asked to go on with a plan, which must be seen."""
    rest = {"params": QUERIES.get((method, path))}
    if path == "/research/stream":
        rest["headers"] = {"Last-Event-ID": f"{parts['plan_id']}:0"}
    if (method, path) in BODIES:
        rest["json"] = BODIES[method, path]
    return rest


def everything(site):
    """What the database holds of tenant acme that a request could change."""
    with site.store.transaction() as tx:
        plans = tx.plans(tenant="acme", limit=1000)
        return (
            [(p.plan_id, p.state, p.event_count, p.audit_count) for p in plans],
            [(a.approval_id, a.state) for a in tx.approvals()],
            [(d.letter_id, d.state) for d in tx.dead_letters(state=None)],
            tx.schedules("acme"),
            [tx.firings(s.schedule_id) for s in tx.schedules("acme")],
            [(v.told.name, v.told.version, v.told.state) for v in tx.secret_versions("acme")],
            tx.stops("acme"),
            [(n.notification_id, n.state) for n in tx.notifications()],
            [(c, tx.turns(c.conversation_id)) for c in tx.conversations("acme", "operator@acme", limit=1000)],
        )


class TestARoute:
    @pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{sorted(r.methods)} {r.path}")
    def test_names_one_action_that_the_policy_knows(self, route, judge):
        (action,) = identity.actions_of(route)
        document = {
            "subject": {"name": "ada", "tenant_id": "acme", "roles": []},
            "action": {"type": action, "tenant_id": "acme"},
            "context": {},
        }
        reasons = {reason.reason for reason in judge.decide(identity.ACTIONS, document).reasons}
        assert reasons == {"missing_role"}  # and not `unknown_action`

    def test_that_changes_something_is_not_guarded_by_an_action_that_only_looks(self):
        looking = {".read", ".read_versions"}
        for route in ROUTES:
            (action,) = identity.actions_of(route)
            looks = any(action.endswith(end) for end in looking)
            assert looks is (route.methods <= {"GET", "HEAD"} and route.path != "/research/stream"), (
                route.path
            )

    def test_without_an_action_is_not_served(self, monkeypatch):
        router = APIRouter()

        @router.post("/forgotten")
        def forgotten():
            """Anybody could use this."""

        module = SimpleNamespace(router=router)
        monkeypatch.setattr(api, "_MODULES", (*api._MODULES, module))
        with pytest.raises(RuntimeError, match="/forgotten names no action"):
            api.build(SimpleNamespace())

    @pytest.mark.parametrize(("method", "path"), VERBS)
    def test_lets_nobody_in_who_does_not_say_who_they_are(self, site, acme, method, path):
        answer = site.ask(method, filled(path, acme), **asked(method, path, acme))
        assert refusal(answer) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")

    @pytest.mark.parametrize(("method", "path"), VERBS)
    def test_lets_nobody_in_who_holds_no_role(self, site, acme, method, path):
        before = everything(site)
        answer = site.by(site.token(name="nobody"), method, filled(path, acme), **asked(method, path, acme))
        assert refusal(answer) == (403, "forbidden")
        assert [reason["reason"] for reason in answer.json()["reasons"]] == ["missing_role"]
        assert everything(site) == before

    @pytest.mark.parametrize(("method", "path"), VERBS)
    def test_tells_and_does_nothing_across_tenants(self, site, acme, method, path):
        before = everything(site)
        roles = ("operator", "tenant_admin", "auditor", "compliance_officer")

        answer = site.by(
            site.token(*roles, tenant="rival"), method, filled(path, acme), **asked(method, path, acme)
        )

        # a secret's name is the rival's own name for a secret of the rival's
        if "{target}" in path:
            assert (
                answer.status_code == 403
            )  # a tenant is no secret, and neither is that it is another's to stop
        elif ("{" in path and "{name}" not in path) or path == "/research/stream":
            assert answer.status_code == 404
        assert SECRET not in answer.text
        assert "otters" not in answer.text
        told = {value for part, value in acme.items() if part not in {"schedule", "step", "target", "turn"}}
        mentioned = {value for value in told if value in answer.text}
        # the address that was asked for is told in a problem, and nothing else
        known = filled(path, acme) + acme["plan_id"] * (path == "/research/stream")
        assert mentioned <= {value for value in acme.values() if value in known}
        assert everything(site) == before

    def test_that_is_open_is_one_of_five(self, site):
        assert set(identity.OPEN) == {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"}
        for path in identity.OPEN:
            assert site.get(path).status_code in {200, 503}

    @pytest.mark.parametrize(
        "path",
        ["/healthz/", "//healthz", "/healthz/../plans", "/HEALTHZ", "/plans/../healthz", "/metrics%2f"],
    )
    def test_that_only_looks_like_an_open_one_is_not_open(self, site, path):
        async def go():
            return await _raw(site.app, path)

        assert site._portal.call(go) == 401


async def _raw(app, path):
    """The status of a request for exactly this path, which no client tidied up."""
    statuses = []

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {**SCOPE, "path": path, "raw_path": path.encode(), "headers": [(b"host", b"127.0.0.1")]}
    await app(scope, receive, send)
    return statuses[0]


class TestACaller:
    def test_acts_in_the_name_the_tenant_and_the_roles_that_were_verified(self, site):
        token = site.token("submitter", name="ada", tenant="acme")
        plan = site.by(token, "POST", "/plans", json={"goal": GOAL}).json()
        assert plan["requester"] == "ada"
        with site.store.transaction() as tx:
            assert tx.plan(plan["plan_id"]).tenant == "acme"

    def test_sees_their_own_tenant_s_plans_and_no_others(self, site, acme):
        mine = site.by(site.token("viewer"), "GET", "/plans").json()["plans"]
        assert acme["plan_id"] in {plan["plan_id"] for plan in mine}
        assert site.by(site.token("viewer", tenant="empty"), "GET", "/plans").json()["plans"] == []

    def test_may_use_the_name_and_the_key_that_another_tenant_uses(self, site):
        body, key = {"goal": GOAL}, {"Idempotency-Key": "same"}
        plans = [
            site.by(site.token("operator", tenant=t), "POST", "/plans", json=body, headers=key).json()[
                "plan_id"
            ]
            for t in ("acme", "rival", "acme")
        ]
        assert plans[0] == plans[2] != plans[1]

    def test_may_approve_with_the_role_and_not_what_they_asked_for_themselves(self, site):
        hers = site.hold(site.made(tenant="acme", requester="ada"), roles=["manager"])
        path = f"/approvals/{hers}"
        decision = {"decision": "approve"}
        for token, code in (
            (site.token("manager", name="ada"), "requester_decides"),
            (site.token("team_lead", name="bob"), "wrong_role"),
        ):
            assert refusal(site.by(token, "POST", path, json=decision)) == (403, code)
        answer = site.by(site.token("manager", name="eve"), "POST", path, json=decision)
        assert (answer.status_code, answer.json()["decided_by"]) == (200, "eve")

    def test_with_a_narrow_key_may_do_what_it_is_for_and_nothing_else(self, site):
        token = site.token("operator", scopes=("plan.read",))
        assert site.by(token, "GET", "/plans").status_code == 200
        refused = site.by(token, "POST", "/plans", json={"goal": GOAL})
        assert refusal(refused) == (403, "forbidden")
        assert refused.json()["reasons"] == [{"reason": "outside_scopes", "capability": "plan.submit"}]

    def test_with_a_token_of_the_provider_is_who_it_says(self, site, provider):
        said = site.by(provider.token(sub="grace", tenant="acme"), "GET", "/auth/session").json()
        assert (said["name"], said["tenant"], said["roles"], said["kind"]) == (
            "grace",
            "acme",
            ["operator"],
            "token",
        )

    def test_with_a_revoked_or_expired_key_is_nobody_from_then_on(self, site):
        shown = site.key("viewer")
        assert site.by(shown.token, "GET", "/plans").status_code == 200
        site.ring.revoke(shown.key.key_id, by="test")
        assert refusal(site.by(shown.token, "GET", "/plans")) == (401, "unauthenticated")

    @pytest.mark.parametrize(
        "shown",
        [
            "",
            "Bearer",
            "Bearer ",
            "Basic YTpi",
            "Bearer a b",
            "bearer orc_live_aaaaaaaa_" + "x" * 43,
            "Bearer ors_live_aaaaaaaa_" + "x" * 43,
            "Bearer " + "x" * 20_000,
            "Bearer \xff",
            "Bearer e30.e30.",
            "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ.",
            "Token {token}",
            "{token}",
            "Bearer {token}x",
            "Bearer {token},Bearer {token}",
        ],
        ids=lambda shown: shown[:30],
    )
    def test_who_shows_something_else_is_nobody(self, site, shown):
        header = shown.replace("{token}", site.token("operator")).encode("latin-1")
        answer = site.get("/plans", headers=[(b"Authorization", header)])
        assert refusal(answer) == (401, "unauthenticated")
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]

    def test_who_shows_two_credentials_is_nobody(self, site):
        both = [("Authorization", f"Bearer {site.token('operator')}")] * 2
        assert refusal(site.get("/plans", headers=both)) == (401, "unauthenticated")

    def test_is_asked_before_the_body_is_read(self, site):
        answer = site.post("/plans", content=b"x" * 2_000_000, headers={"content-type": "text/plain"})
        assert refusal(answer) == (401, "unauthenticated")

    def test_whose_provider_is_down_is_told_to_come_again_and_not_that_they_are_nobody(
        self, postgres_server, portal, tmp_path, judge
    ):
        with jwks_server.provider() as gone:
            token = gone.token()
            issuer = Issuer(Trust(issuer=gone.issuer, audience=jwks_server.AUDIENCE, jwks_url=gone.jwks_url))
        with guarded(postgres_server, portal, tmp_path, judge, issuer=issuer) as made:
            answer = made.by(token, "GET", "/plans")
        assert refusal(answer) == (503, "unavailable")
        assert answer.headers["retry-after"]

    def test_is_let_do_nothing_while_the_policy_cannot_answer(self, postgres_server, portal, tmp_path):
        class Broken:
            def decide(self, package, document):
                return Judgement("deny", (), "none", "1", failed=True)

        for judge in (Broken(), None):
            with guarded(postgres_server, portal, tmp_path, judge) as made:
                token = made.token("operator")
                assert refusal(made.by(token, "POST", "/plans", json={"goal": GOAL})) == (503, "unavailable")
                with made.store.transaction() as tx:
                    assert not tx.plans()

    def test_is_told_to_come_again_while_the_database_does_not_answer(
        self, postgres_server, portal, tmp_path, judge
    ):
        with guarded(postgres_server, portal, tmp_path, judge) as made:
            token = made.token("operator")
            made._keys._pool.timeout = 0.2
            with ExitStack() as taken:
                for _ in range(4):
                    taken.enter_context(made._keys._pool.connection())
                assert refusal(made.by(token, "GET", "/plans")) == (503, "unavailable")


class TestAStream:
    @pytest.fixture
    def idle(self, site):
        return site.made(tenant="acme")

    @staticmethod
    def read(site, token, plan, *, until):
        """Open a stream, do something once it has begun, and read it to its end; what it sent."""
        told = {b"host": b"127.0.0.1", b"accept": b"text/event-stream"}
        told[b"authorization"] = f"Bearer {token}".encode()
        scope = {**SCOPE, "path": f"/plans/{plan}/events", "raw_path": b"", "headers": list(told.items())}

        async def go():
            sent, waiting = [], iter([{"type": "http.request", "body": b"", "more_body": False}])

            async def send(message):
                sent.append(message)
                if len(sent) == 2:
                    await run_sync(until)

            async def receive():
                message = next(waiting, None)
                if message is None:
                    await anyio.sleep_forever()
                return message

            with anyio.fail_after(30):
                await site.app(scope, receive, send)
            return sent

        return site._portal.call(go)

    def test_ends_soon_after_its_reader_s_key_was_revoked(self, site, idle, monkeypatch):
        monkeypatch.setattr(events, "_PROVE_EVERY_S", 0.1)
        shown = site.key("viewer")

        sent = self.read(site, shown.token, idle, until=lambda: site.ring.revoke(shown.key.key_id, by="test"))

        assert sent[0]["status"] == 200
        assert b"event: end" not in b"".join(message.get("body", b"") for message in sent)

    def test_ends_soon_after_its_reader_s_session_was_ended(self, site, idle, monkeypatch):
        monkeypatch.setattr(events, "_PROVE_EVERY_S", 0.1)
        session = site.by(site.token("viewer"), "POST", "/auth/session").json()["token"]

        sent = self.read(site, session, idle, until=lambda: site.ring.end(session.split("_")[2]))

        assert sent[0]["status"] == 200

    def test_of_one_reader_too_many_leaves_seats_for_others(self):
        seats = office.Seats(64)
        ada, eve = (identity.Principal(name, "acme", frozenset()) for name in ("ada", "eve"))
        with ExitStack() as stack:
            for _ in range(office.MOST_EACH):
                stack.enter_context(seats.taken(ada))
            with pytest.raises(Refused):
                seats.check(ada)
            seats.check(eve)
        seats.check(ada)


class TestASession:
    def test_is_opened_by_a_key_does_what_the_key_may_and_ends_when_told(self, site):
        opened = site.by(site.token("viewer", name="ada"), "POST", "/auth/session")
        session = opened.json()["token"]
        assert opened.status_code == 201

        said = site.by(session, "GET", "/auth/session").json()
        assert (said["name"], said["roles"], said["kind"]) == ("ada", ["viewer"], "session")
        assert site.by(session, "GET", "/plans").status_code == 200
        assert refusal(site.by(session, "POST", "/plans", json={"goal": GOAL})) == (403, "forbidden")

        assert site.by(session, "DELETE", "/auth/session").status_code == 204
        assert refusal(site.by(session, "GET", "/plans")) == (401, "unauthenticated")

    def test_is_opened_by_a_token_and_ends_no_later_than_it(self, site, provider):
        kept = site.by(provider.token(), "POST", "/auth/session").json()
        said = site.by(provider.token(), "GET", "/auth/session").json()
        assert kept["expires_at"] <= said["expires_at"]

    def test_opens_no_other_so_that_it_cannot_be_renewed_for_ever(self, site):
        session = site.by(site.token("viewer"), "POST", "/auth/session").json()["token"]
        assert refusal(site.by(session, "POST", "/auth/session")) == (403, "forbidden")

    def test_is_not_ended_by_a_key(self, site):
        assert refusal(site.by(site.token("viewer"), "DELETE", "/auth/session")) == (409, "conflict")

    def test_opened_with_less_may_do_less_for_ever(self, site):
        narrow = {"X-Scopes": "plan.read"}
        session = site.by(
            site.token("operator"), "POST", "/auth/session", headers={"X-Scopes": "session.* plan.read"}
        )
        token = session.json()["token"]
        assert refusal(site.by(token, "POST", "/plans", json={"goal": GOAL})) == (403, "forbidden")
        assert (
            refusal(site.by(token, "POST", "/plans", json={"goal": GOAL}, headers={"X-Scopes": "*"}))[0]
            == 403
        )
        assert site.by(token, "GET", "/plans", headers=narrow).status_code == 200


NAMES = [
    "X-Roles", "X-Scopes", "X-Agent-Profile", "X-Tenant", "X-Tenant-Id", "X-User", "X-Role", "X-Forwarded-User",
    "X-Forwarded-For", "X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override", "X-Remote-User", "Forwarded",
    "X-Orchestrator-Caller", "orchestrator.caller", "Cookie", "X-API-Key", "Proxy-Authorization", "Prefer", "Via",
]  # fmt: skip
VALUES = [
    "", "*", "operator", "tenant_admin", "admin", "operator,tenant_admin", "plan.*", "* *", "acme", "default", "root",
    "true", "api", "127.0.0.1", "../", '"', "'; --", "{}", "[]", "null", "researcher", "x" * 3000, "\xff", "plan",
]  # fmt: skip


class TestAHeader:
    @pytest.mark.parametrize(
        ("headers", "allowed"),
        [
            ({}, True),
            ({"X-Roles": "operator"}, True),
            ({"X-Roles": "viewer"}, False),
            ({"X-Roles": ""}, False),
            ({"X-Scopes": "plan.*"}, True),
            ({"X-Scopes": "plan.read"}, False),
            ({"X-Scopes": ""}, False),
            ({"X-Agent-Profile": "envoy"}, True),
            ({"X-Agent-Profile": "researcher"}, False),
            ({"X-Agent-Profile": "nobody"}, False),
            ({"X-Agent-Profile": 'a"b'}, False),
        ],
        ids=str,
    )
    def test_may_take_something_away(self, site, headers, allowed):
        answer = site.by(
            site.token("operator", "viewer"), "POST", "/plans", json={"goal": GOAL}, headers=headers
        )
        assert answer.status_code == (202 if allowed else 403)

    @FUZZED
    @given(
        headers=st.lists(
            st.tuples(
                st.sampled_from(NAMES),
                st.sampled_from(VALUES)
                | st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30),
            ),
            max_size=5,
        ),
        role=st.sampled_from(["viewer", "auditor", "approver", "team_lead"]),
        verb=st.sampled_from(
            [
                v
                for v in VERBS
                if v[1] in {"/dead-letters/{letter_id}/discard", "/dead-letters/{letter_id}/retry"}
            ]
        ),
    )
    def test_never_adds_anything_whatever_it_says(self, site, acme, headers, role, verb):
        before = everything(site)
        raw = [(name.encode(), value.strip().encode("latin-1")) for name, value in headers]
        raw.append((b"Authorization", f"Bearer {site.token(role)}".encode()))

        answer = site.ask(verb[0], filled(verb[1], acme), headers=raw)

        assert answer.status_code in {401, 403, 422}
        assert everything(site) == before

    @FUZZED
    @given(
        shown=st.binary(max_size=120).filter(
            lambda b: b"\r" not in b and b"\n" not in b and b"\x00" not in b
        ),
        more=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=4),
    )
    def test_that_proves_nobody_lets_nobody_in_and_the_process_stays_up(self, site, shown, more):
        raw = [(name.encode(), value.encode("latin-1")) for name, value in more]
        for prefix in (b"", b"Bearer ", b"Bearer orc_live_", b"Bearer ors_live_aaaaaaaa_", b"Bearer e30."):
            answer = site.get("/plans", headers=[*raw, (b"Authorization", prefix + shown)])
            assert refusal(answer) == (401, "unauthenticated")
        assert site.get("/healthz").status_code == 200

    @settings(FUZZED, max_examples=60)
    @given(
        roles=st.sets(
            st.sampled_from(
                ["viewer", "auditor", "approver", "submitter", "ciso", "root", "system", "operators"]
            )
        ),
        tenant=st.sampled_from(["acme", "rival", "default", "*", "acme ", "ACME"]),
    )
    def test_of_a_token_with_any_roles_of_others_mends_nothing(self, site, acme, provider, roles, tenant):
        before = everything(site)
        token = provider.token("EdDSA", roles=sorted(roles), tenant=tenant)
        answer = site.by(token, "POST", f"/dead-letters/{acme['letter_id']}/discard")
        assert answer.status_code in {401, 403}
        assert everything(site) == before


LIMITS = {"read": Rate(6, 3), "write": Rate(6, 2), "login": Rate(6, 2)}


class TestTooMany:
    @pytest.fixture
    def strict(self, postgres_server, portal, tmp_path, judge):
        with guarded(postgres_server, portal, tmp_path, judge, rates=LocalRates(), limits=LIMITS) as made:
            yield made

    def test_requests_are_refused_with_when_to_come_again(self, strict):
        answers = [strict.by(strict.token("operator"), "GET", "/plans") for _ in range(4)]

        assert [a.status_code for a in answers] == [200, 200, 200, 429]
        assert refusal(answers[3]) == (429, "rate_limited")
        assert 1 <= int(answers[3].headers["retry-after"]) <= 10
        assert answers[3].headers["ratelimit"].startswith('"read";r=0;t=')
        assert [a.headers["ratelimit"].split(";")[1] for a in answers[:3]] == ["r=2", "r=1", "r=0"]
        assert answers[0].headers["ratelimit-policy"] == '"read";q=6;w=60'

    def test_of_one_class_or_caller_leave_others_theirs(self, strict):
        one, other = strict.token("operator"), strict.token("operator", tenant="rival")
        for _ in range(4):
            strict.by(one, "GET", "/plans")
        assert strict.by(one, "POST", "/plans", json={"goal": GOAL}).status_code == 202
        assert strict.by(other, "GET", "/plans").status_code == 200

    def test_keys_of_one_name_share_what_is_theirs(self, strict):
        keys = [strict.key("operator", name="ada").token for _ in range(4)]
        assert [strict.by(key, "GET", "/plans").status_code for key in keys] == [200, 200, 200, 429]

    def test_attempts_to_say_who_one_is_are_refused_and_lock_nobody_else_out(self, strict):
        answers = [strict.by("orc_live_wrong", "GET", "/plans") for _ in range(4)]
        assert [a.status_code for a in answers] == [401, 401, 429, 429]
        assert strict.by(strict.token("operator"), "GET", "/plans").status_code == 200

    def test_streams_that_submit_count_as_what_they_are(self, strict):
        token = strict.token("operator")
        answers = [strict.by(token, "GET", "/research/stream?unknown=1") for _ in range(3)]
        assert [a.status_code for a in answers] == [422, 422, 429]

    def test_are_never_too_many_for_whoever_asks_whether_the_process_lives(self, strict):
        assert {strict.get("/healthz").status_code for _ in range(20)} == {200}


def test_ids_of_another_tenant_are_not_told_from_those_of_nobody(site, acme):
    token = site.token("operator", tenant="rival")
    for path, part in (
        ("/plans/{}", "plan_id"),
        ("/plans/{}/events", "plan_id"),
        ("/plans/{}/report", "plan_id"),
        ("/plans/{}/ballots", "plan_id"),
    ):
        theirs = site.by(token, "GET", path.format(acme[part])).json()
        nobodys = site.by(token, "GET", path.format(NOBODY)).json()
        assert theirs["detail"].replace(acme[part], "ID") == nobodys["detail"].replace(NOBODY, "ID")
        assert theirs["code"] == nobodys["code"]
