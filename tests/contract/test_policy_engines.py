"""One policy, two engines: they decide alike, and a server that does anything but answer allows nothing."""

import copy
import json
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.contract import opa_server, workbench
from tests.contract.bench import InMemoryBench
from tests.contract.opa_server import served, whole
from workers.gate import policy
from workers.gate.gate import CallFailed
from workers.gate.opa import RemoteEnforcer
from workers.gate.policy import EmbeddedEnforcer, PolicyLoadError, Reason

POLICIES = Path(__file__).parents[2] / "policies"
ROWS = [
    {"package": policy.CAPABILITIES} | row
    for path in sorted((POLICIES / "tests").glob("*.json"))
    for row in json.loads(path.read_text(encoding="utf-8"))
]
ALLOWED = next(row for row in ROWS if row["name"] == "a capability of the profile is enough")
EMBEDDED = EmbeddedEnforcer(POLICIES)
MUTANTS_PER_ROW = 8
ODD = [
    None,
    True,
    False,
    0,
    -1,
    2**53,
    "",
    "*",
    "operator",
    "repo.write",
    "auto",
    "any",
    "acme",
    [],
    [""],
    ["operator"],
    [None],
    {},
    {"operator": ["repo.write"]},
    {"repo.write": True},
    {"": False},
]

needs_opa = pytest.mark.skipif(
    opa_server.program() is None,
    reason=f"no opa: go install github.com/open-policy-agent/opa@v{opa_server.PIN}",
)


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    with opa_server.an_opa(tmp_path_factory.mktemp("opa"), POLICIES) as url:
        yield RemoteEnforcer(url, timeout_s=20)


def told(decision):
    """All of a decision that two engines must agree on."""
    return (
        decision.effect,
        decision.reasons,
        decision.revision,
        decision.input_digest,
        decision.failed,
        decision.detail,
    )


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from places(item, (*path, at))


def mutant(document, draw):
    """The document with one or two things in it taken out, replaced, or put in the place of others."""
    made = copy.deepcopy(document)
    for _ in range(draw.choice((1, 1, 2))):
        found = [path for path in places(made) if path]
        if not found:
            break
        *way, last = draw.choice(found)
        at = made
        for part in way:
            at = at[part]
        match draw.randrange(4):
            case 0:
                del at[last]
            case 1 if isinstance(at, dict):
                at[str(draw.choice(("operator", "acme", "repo.write", "subject")))] = at.pop(last)
            case 2:
                other = document
                for part in draw.choice(found):
                    other = other[part] if _holds(other, part) else other
                at[last] = copy.deepcopy(other)
            case _:
                at[last] = copy.deepcopy(draw.choice(ODD))
    return made


def _holds(value, part):
    return (isinstance(value, dict) and part in value) or (
        isinstance(value, list) and isinstance(part, int) and part < len(value)
    )


class TestBothEngines:
    def test_decide_every_row_of_the_tables_alike(self, remote):
        assert len(ROWS) >= 120
        for row in ROWS:
            embedded, asked = (e.decide(row["package"], row["input"]) for e in (EMBEDDED, remote))

            assert told(asked) == told(embedded), row["name"]
            assert asked.allow is row["allow"], row["name"]
            assert set(asked.reasons) == {Reason(**reason) for reason in row["deny"]}, row["name"]

    def test_decide_thousands_of_mutants_of_them_alike(self, remote):
        draw = random.Random(20260101)
        asked = allowed = 0
        for row in ROWS:
            for _ in range(MUTANTS_PER_ROW):
                document = mutant(row["input"], draw)
                embedded = EMBEDDED.decide(row["package"], document)

                assert told(remote.decide(row["package"], document)) == told(embedded), document
                asked, allowed = asked + 1, allowed + embedded.allow
        assert asked >= 3000
        assert 0 < allowed < asked / 2

    @needs_opa
    def test_are_the_real_one_and_ours(self, tmp_path):
        with opa_server.real(POLICIES, tmp_path) as (_, url):
            decision = RemoteEnforcer(url, timeout_s=20).decide(ALLOWED["package"], ALLOWED["input"])

        assert (decision.allow, decision.engine, decision.revision) == (True, "opa", EMBEDDED.revision)

    def test_answer_several_threads_at_once(self, remote):
        wrong = []

        def ask(rows):
            wrong.extend(
                row["name"]
                for row in rows
                if remote.decide(row["package"], row["input"]).allow is not row["allow"]
            )

        threads = [threading.Thread(target=ask, args=(ROWS[n::4],)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


YES = '{"allow":true,"deny":[]}'
FROM = '"provenance":{"bundles":{"p":{"revision":"r1"}}}'
GOOD = f'{{{FROM},"result":{YES}}}'


def saying(body, **rest):
    return lambda path, asked: whole(body, **rest)


def asked(url, *, timeout_s=0.4, package=policy.CAPABILITIES):
    return RemoteEnforcer(url, timeout_s=timeout_s).decide(package, ALLOWED["input"])


def refused(decision):
    """A denial because nobody could answer, which says why."""
    return (decision.effect, decision.allow, decision.failed, bool(decision.detail)) == (
        "deny",
        False,
        True,
        True,
    )


def dripping(text, *, pause_s=0.05):
    def parts():
        for letter in text:
            time.sleep(pause_s)
            yield letter.encode()

    return parts()


class TestAServerThat:
    def test_answers_is_believed(self):
        with served(saying(GOOD)) as server:
            decision = asked(server.url, timeout_s=5)

        assert (decision.allow, decision.revision, decision.engine) == (True, "r1", "opa")
        ((path, body),) = server.asked
        assert path == "/v1/data/orchestrator/capabilities?provenance=true&strict-builtin-errors=true"
        assert json.loads(body) == {"input": ALLOWED["input"]}

    def test_is_not_there_allows_nothing(self):
        assert refused(asked(f"http://127.0.0.1:{opa_server.free_port()}"))

    def test_has_a_name_that_nobody_knows_allows_nothing(self):
        assert refused(asked("http://opa.invalid:8181"))

    def test_never_answers_allows_nothing(self):
        with served(lambda path, body: dripping("x", pause_s=3)) as server:
            assert refused(asked(server.url))

    def test_drips_its_body_is_given_up_in_time(self):
        def answer(path, body):
            yield f"HTTP/1.1 200 OK\r\nContent-Length: {len(GOOD)}\r\n\r\n".encode()
            yield from dripping(GOOD, pause_s=0.3)

        with served(answer) as server:
            started = time.monotonic()
            assert refused(asked(server.url))
            assert time.monotonic() - started < 15  # all of it drips for half a minute

    def test_drips_its_head_is_given_up_in_time_and_let_go_of(self):
        head = "HTTP/1.1 200 OK\r\n" + "X: y\r\n" * 200
        with served(lambda path, body: dripping(head)) as server:
            started = time.monotonic()
            assert refused(asked(server.url))
            assert time.monotonic() - started < 30  # all of it drips for a minute
            assert workbench.eventually(
                lambda: "opa" not in {t.name for t in threading.enumerate()}, within_s=20
            )

    @pytest.mark.parametrize(
        "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
    )
    def test_redirects_is_not_followed(self, status):
        with served(saying(GOOD)) as other:
            to = f"Location: {other.url}/v1/data/orchestrator/capabilities\r\n"
            with served(saying(GOOD, status=status, head=to)) as server:
                assert refused(asked(server.url))
            assert other.asked == []

    @pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
    def test_is_behind_a_proxy_of_the_environment_is_asked_without_it(self, monkeypatch, variable):
        with served(saying(GOOD)) as proxy:
            monkeypatch.setenv(variable, proxy.url)
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)

            assert refused(asked("http://opa.invalid:8181"))
            assert proxy.asked == []

    @pytest.mark.parametrize(
        "status",
        [
            *("201 Created", "204 No Content", "206 Partial", "300 Multiple", "304 Not Modified"),
            *("400 Bad", "401 Who", "404 Not Found", "429 Slow", "500 Broken", "502 Bad", "503 Busy"),
        ],
    )
    def test_answers_with_another_status_is_not_believed_and_not_asked_twice(self, status):
        with served(saying("" if status[:3] in {"204", "304"} else GOOD, status=status)) as server:
            assert refused(asked(server.url, timeout_s=20))
        assert len(server.asked) == 1

    @pytest.mark.parametrize(
        "body",
        [
            "",
            "{}",
            "[]",
            "true",
            "null",
            '"allow"',
            "<html>allow</html>",
            GOOD[:-1],
            GOOD + GOOD,
            b"\xff\xfe",
            f'{{"result":{YES}}}',
            f'{{{FROM},"result":true}}',
            f'{{{FROM},"result":[]}}',
            f'{{{FROM},"result":{{}}}}',
            f'{{{FROM},"result":{{"allow":true}}}}',
            f'{{{FROM},"result":{{"deny":[]}}}}',
            f'{{{FROM},"result":{{"allow":"true","deny":[]}}}}',
            f'{{{FROM},"result":{{"allow":"false","deny":[]}}}}',
            f'{{{FROM},"result":{{"allow":1,"deny":[]}}}}',
            f'{{{FROM},"result":{{"allow":[],"deny":[]}}}}',
            f'{{{FROM},"result":{{"allow":true,"deny":{{}}}}}}',
            f'{{{FROM},"result":{{"allow":true,"deny":null}}}}',
            f'{{{FROM},"result":{{"allow":true,"deny":["x"]}}}}',
            f'{{{FROM},"result":{{"allow":false,"deny":[]}}}}',
            f'{{{FROM},"result":{{"allow":false,"allow":true,"deny":[]}}}}',
            f'{{{FROM},"result":{{"allow":false,"deny":[{{"reason":"because"}}]}},"result":{YES}}}',
            f'{{{FROM},"result":{YES},"warning":{{"code":"api_usage_warning"}}}}',
            f'{{{FROM},"result":{{"allow":true,"deny":[],"odd":NaN}}}}',
            f'{{"provenance":{{}},"result":{YES}}}',
            f'{{"provenance":{{"bundles":{{}}}},"result":{YES}}}',
            f'{{"provenance":{{"bundles":{{"p":{{}}}}}},"result":{YES}}}',
            f'{{"provenance":{{"bundles":{{"p":{{"revision":""}}}}}},"result":{YES}}}',
            f'{{"provenance":{{"bundles":{{"p":{{"revision":7}}}}}},"result":{YES}}}',
        ],
    )
    def test_says_anything_but_an_answer_is_not_believed(self, body):
        with served(saying(body)) as server:
            assert refused(asked(server.url, timeout_s=5))

    def test_says_too_much_is_not_heard_out(self):
        with served(saying(f'{{{FROM},"result":{YES}' + " " * 1_100_000 + "}")) as server:
            assert refused(asked(server.url, timeout_s=10))

    def test_closes_the_connection_between_two_questions_is_asked_on_another(self):
        once = iter([True])

        def answer(path, body):
            yield from whole(GOOD)
            if next(once, False):
                raise OSError("closed")

        with served(answer) as server:
            enforcer = RemoteEnforcer(server.url, timeout_s=5)
            decisions = [enforcer.decide(ALLOWED["package"], ALLOWED["input"]) for _ in range(4)]

        assert decisions[0].allow
        assert decisions[-1].allow
        assert all(d.allow or refused(d) for d in decisions)

    def test_fails_once_is_believed_the_next_time(self):
        answers = iter(["<html>", GOOD])
        with served(lambda path, body: whole(next(answers))) as server:
            enforcer = RemoteEnforcer(server.url, timeout_s=5)

            assert refused(enforcer.decide(ALLOWED["package"], ALLOWED["input"]))
            assert enforcer.decide(ALLOWED["package"], ALLOWED["input"]).allow

    @pytest.mark.parametrize(
        "package", ["x/../y", "x?y", "x#", "", "x..y", ".x", "x.y/z", "decision?pretty=true#", None]
    )
    def test_is_never_asked_for_a_package_by_an_odd_name(self, package):
        with served(saying(GOOD)) as server:
            assert refused(asked(server.url, package=package))
        assert server.asked == []

    def test_is_never_asked_a_malformed_question(self):
        with served(saying(GOOD)) as server:
            decision = RemoteEnforcer(server.url, timeout_s=5).decide(policy.CAPABILITIES, {"x": 0.5})

        assert decision.reasons == (Reason("missing_capability", "input.well_formed"),)
        assert server.asked == []

    def test_has_several_bundles_says_the_revision_of_each(self):
        bundles = '{"b":{"revision":"2"},"a":{"revision":"1"}}'
        with served(saying(f'{{"provenance":{{"bundles":{bundles}}},"result":{YES}}}')) as server:
            assert asked(server.url, timeout_s=5).revision == "a:1,b:2"


@needs_opa
class TestARealServer:
    def test_that_is_paused_allows_nothing_and_answers_when_it_goes_on(self, tmp_path):
        with opa_server.real(POLICIES, tmp_path) as (process, url):
            patient, hasty = RemoteEnforcer(url, timeout_s=20), RemoteEnforcer(url, timeout_s=0.3)
            assert patient.decide(ALLOWED["package"], ALLOWED["input"]).allow

            os.kill(process.pid, signal.SIGSTOP)
            try:
                assert refused(hasty.decide(ALLOWED["package"], ALLOWED["input"]))
            finally:
                os.kill(process.pid, signal.SIGCONT)

            assert patient.decide(ALLOWED["package"], ALLOWED["input"]).allow

    def test_that_has_no_such_package_allows_nothing(self, tmp_path):
        folder = tmp_path / "policies"
        shutil.copytree(POLICIES, folder)
        (folder / "actions.rego").unlink()
        (folder / "tests" / "actions.json").unlink()

        with opa_server.real(folder, tmp_path) as (_, url):
            assert refused(asked(url, timeout_s=20, package=policy.ACTIONS))

    def test_that_reloads_in_the_middle_never_answers_by_a_mixture(self, tmp_path):
        folder = tmp_path / "policies"
        shutil.copytree(POLICIES, folder)
        with opa_server.real(folder, tmp_path) as (_, url):
            enforcer = RemoteEnforcer(url, timeout_s=20)
            seen = [enforcer.decide(ALLOWED["package"], ALLOWED["input"])]
            close(folder)
            (tmp_path / "new").write_bytes(policy.bundle(folder))
            (tmp_path / "new").replace(tmp_path / "policies.tar.gz")
            ends = time.monotonic() + 60
            while time.monotonic() < ends and seen[-1].revision == EMBEDDED.revision:
                seen.append(enforcer.decide(ALLOWED["package"], ALLOWED["input"]))

        after = EmbeddedEnforcer(folder).revision
        assert {(d.revision, d.allow, d.failed) for d in seen} == {
            (EMBEDDED.revision, True, False),
            (after, False, False),
        }


def close(folder):
    """Let the policy of a folder deny what it allowed, and its table say so."""
    server = ALLOWED["input"]["action"]["server"]
    closed = {"reason": "missing_capability", "capability": "closed"}
    with (folder / "capabilities.rego").open("a", encoding="utf-8") as source:
        source.write(f'\ndeny contains {json.dumps(closed)} if input.action.server == "{server}"\n')
    elsewhere = copy.deepcopy(ALLOWED)
    elsewhere["input"]["action"]["server"] = "elsewhere"
    rows = [{**ALLOWED, "allow": False, "deny": [closed]}, {**elsewhere, "name": "elsewhere"}]
    (folder / "tests" / "capabilities.json").write_text(json.dumps(rows), encoding="utf-8")


class TestAnAddress:
    @pytest.mark.parametrize(
        "url",
        [
            *("", "opa:8181", "ftp://opa", "http://", "http://opa/v1", "http://opa?x", "http://opa#x"),
            *("http://u:p@opa", "http://opa:x", "http://opa:99999"),
        ],
    )
    def test_that_is_none_is_refused_at_once(self, url):
        with pytest.raises(PolicyLoadError, match="address"):
            RemoteEnforcer(url, timeout_s=1)

    def test_with_a_key_sends_it(self):
        seen = []

        class Listening(opa_server.Server):
            def _serve(self, one):
                with one:
                    seen.append(one.recv(65536))
                    one.sendall(whole(GOOD)[0])

        server = Listening(None)
        try:
            enforcer = RemoteEnforcer(server.url, timeout_s=5, token="t0ken")
            assert enforcer.decide(ALLOWED["package"], ALLOWED["input"]).allow
        finally:
            server.close()
        assert b"Authorization: Bearer t0ken\r\n" in seen[0]


FAULTS = {
    "redirects": saying(GOOD, status="307 x", head="Location: http://127.0.0.1:9/\r\n"),
    "is broken": saying(GOOD, status="500 x"),
    "is malformed": saying("<html>"),
    "has wrong types": saying(f'{{{FROM},"result":{{"allow":"true","deny":[]}}}}'),
    "is undefined": saying(f'{{{FROM},"result":{{}}}}'),
    "contradicts itself": saying(f'{{{FROM},"result":{{"allow":false,"deny":[]}}}}'),
    "drips": lambda path, body: dripping("HTTP/1.1 200 OK\r\n" + "X: y\r\n" * 50),
    "has no revision": saying(f'{{"result":{YES}}}'),
}


class TestTheGateBeforeAServer:
    """No call without a committed allow: whatever the server does, the tool is not reached and nothing is written."""

    @pytest.fixture
    def work(self, sealer):
        bench = InMemoryBench()
        with workbench.opened(bench, sealer) as made:
            yield made
        bench.close()

    def nothing_happened(self, work, claimed):
        plan = claimed.ref.plan_id
        return (
            work.witness.calls == []
            and work.audit(plan, "tool.intent", "tool.outcome") == []
            and work.rows("calls", plan) == []
        )

    @pytest.mark.parametrize("fault", FAULTS)
    def test_makes_no_call_when_it(self, work, fault):
        claimed = work.claim()
        with served(FAULTS[fault]) as server:
            gate = work.gate(enforcer=RemoteEnforcer(server.url, timeout_s=0.5))

            with pytest.raises(CallFailed) as failed:
                gate.call(claimed, "look", {}, occurrence=0)

        assert failed.value.reason == "policy_unavailable"
        assert self.nothing_happened(work, claimed)

    def test_makes_no_call_when_it_is_down(self, work):
        claimed = work.claim()
        gate = work.gate(enforcer=RemoteEnforcer(f"http://127.0.0.1:{opa_server.free_port()}", timeout_s=0.5))

        with pytest.raises(CallFailed):
            gate.call(claimed, "look", {}, occurrence=0)

        assert self.nothing_happened(work, claimed)

    def test_makes_the_call_with_the_servers_decision_in_the_intent(self, work, tmp_path):
        claimed = work.claim()
        with opa_server.an_opa(tmp_path, POLICIES) as url:
            work.gate(enforcer=RemoteEnforcer(url, timeout_s=20)).call(claimed, "look", {}, occurrence=0)

        (intent,) = work.audit(claimed.ref.plan_id, "tool.intent")
        assert (intent["decision"]["engine"], intent["decision"]["revision"]) == ("opa", EMBEDDED.revision)
        assert [tool for tool, *_ in work.witness.calls] == ["look"]
