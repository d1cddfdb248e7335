"""Secrets over HTTP: what goes in does not come out, and of several who change one at once, one is answered well."""

import threading

import pytest
from anyio.from_thread import start_blocking_portal

from orchestrator.api import identity
from orchestrator.domain.errors import SecretsUnavailable
from tests.contract.test_api import Site

pytestmark = pytest.mark.postgres

ONE, TWO = "canary-of-the-first-value", "canary-of-the-second-value"


@pytest.fixture
def site(dsn, tmp_path):
    with start_blocking_portal() as portal:
        made = Site(dsn, portal, tmp_path)
        yield made
        made.close()


def told(answer):
    return [(v["name"], v["version"], v["state"]) for v in answer.json()["versions"]]


def test_a_secret_is_made_rotated_promoted_and_removed_without_its_value_in_any_answer(site):
    answers = [
        made := site.post("/secrets/key", json={"value": ONE}),
        site.post("/secrets/key/rotate", json={"value": TWO}),
        listed := site.get("/secrets"),
        promoted := site.post("/secrets/key/promote", json={}),
        versions := site.get("/secrets/key/versions"),
        site.ask("DELETE", "/secrets/key?version=1"),
        one_left := site.get("/secrets"),
        site.ask("DELETE", "/secrets/key"),
        none_left := site.get("/secrets"),
    ]
    assert [a.status_code for a in answers] == [201, 201, 200, 200, 200, 204, 200, 204, 200]
    assert made.headers["Location"] == "/secrets/key/versions"
    assert (made.json()["state"], made.json()["created_by"]) == ("current", "api")
    assert told(listed) == [("key", 1, "current"), ("key", 2, "pending")]
    assert promoted.json()["version"] == 2
    assert told(versions) == [("key", 1, "previous"), ("key", 2, "current")]
    assert told(one_left) == [("key", 2, "current")]
    assert told(none_left) == []
    assert not any(value in f"{a.headers} {a.text}" for a in answers for value in (ONE, TWO))


def test_what_was_put_is_what_the_tool_host_reads_for_that_tenant(site):
    site.put("/secrets/key", json={"value": ONE})
    assert site.secrets.get("default", "key").value == ONE
    site.put("/secrets/key", json={"value": TWO})
    assert site.secrets.get("default", "key").value == TWO


def test_no_address_answers_with_a_value(site):
    site.put("/secrets/key", json={"value": ONE})
    for path in ("/secrets/key", "/secrets/key/value", "/secrets/key/versions/1", "/secrets/key/promote"):
        answer = site.get(path)
        assert answer.status_code in {404, 405}
        assert ONE not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/secrets/known", {"value": TWO}, 409, "secret_moved"),
        ("POST", "/secrets/known/promote", {}, 409, "secret_moved"),
        ("POST", "/secrets/known/promote", {"version": 1}, 409, "secret_moved"),
        ("POST", "/secrets/known/promote", {"version": 9}, 404, "not_found"),
        ("POST", "/secrets/unknown/rotate", {"value": TWO}, 404, "not_found"),
        ("POST", "/secrets/unknown/promote", {}, 404, "not_found"),
        ("GET", "/secrets/unknown/versions", None, 404, "not_found"),
        ("DELETE", "/secrets/unknown", None, 404, "not_found"),
        ("DELETE", "/secrets/known?version=1", None, 409, "secret_moved"),
        ("DELETE", "/secrets/known?version=0", None, 422, "invalid_request"),
        ("PUT", "/secrets/-wrong", {"value": TWO}, 422, "invalid_request"),
        ("PUT", "/secrets/known", {"value": "short"}, 422, "invalid_request"),
        ("PUT", "/secrets/known", {"value": 12345678}, 422, "invalid_request"),
        ("PUT", "/secrets/known", {"value": "nul \x00 in it, canary-of"}, 422, "invalid_request"),
        ("PUT", "/secrets/known", {"value": "ä" * 40_000}, 422, "invalid_request"),
        ("PUT", "/secrets/known", {"value": TWO, "extra": TWO}, 422, "invalid_request"),
        ("PUT", "/secrets/known", {"valu": TWO}, 422, "invalid_request"),
    ],
)
def test_what_cannot_be_done_is_refused_without_the_value_in_the_answer(
    site, method, path, body, status, code
):
    site.put("/secrets/known", json={"value": ONE})
    answer = site.ask(method, path, **({"json": body} if body is not None else {}))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "canary-of" not in answer.text
    assert site.secrets.get("default", "known").value == ONE


def test_of_many_who_promote_one_is_answered_well_and_the_others_hear_of_a_conflict(site):
    site.put("/secrets/key", json={"value": ONE})
    site.post("/secrets/key/rotate", json={"value": TWO})
    statuses = []
    threads = [
        threading.Thread(
            target=lambda: statuses.append(
                site.post("/secrets/key/promote", json={"version": 2, "over": 1}).status_code
            )
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, *[409] * 5]


def test_secrets_that_cannot_be_reached_are_unavailable(site):
    class Down:
        def versions(self, *_):
            raise SecretsUnavailable("Vault is sealed or not ready (503); unseal it, or wait.")

    site.app.state.office.core.secrets = Down()
    answer = site.get("/secrets")
    assert (answer.status_code, answer.json()["code"]) == (503, "secrets_unavailable")


def test_every_route_names_an_action_of_secrets(site):
    actions = {}
    for route in site.app.state.routes:
        if route.path.startswith("/secrets"):
            named = {getattr(each.call, "action", None) for each in route.dependant.dependencies} - {None}
            actions |= {(method, route.path): named for method in route.methods}
    assert len(actions) == 7
    for (method, _), named in actions.items():
        assert named == {"secret.read_versions" if method == "GET" else "secret.manage"}
    assert identity.acts("secret.manage").action == "secret.manage"
