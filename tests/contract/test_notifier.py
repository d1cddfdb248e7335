"""What is told outside about approvals: signed, to one place only, again until it is taken, and never more than names."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pytest

from orchestrator import notifier, settings, wiring
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.errors import Conflict, Misconfigured, NotFound, Unavailable
from orchestrator.domain.outcome import Held
from orchestrator.domain.plan import Chain, Escalation, NotificationState, Stage, StepRef, request
from orchestrator.notifier import DELIVERY, SIGNATURE, Notifier, Webhook, read_secret, sign
from workers import fleet

pytestmark = pytest.mark.postgres

ROOT = Path(__file__).resolve().parents[2]
SECRET = b"a secret of thirty-two characters or more"
DAY = timedelta(days=1)
CHAIN = Chain((Stage((("team_lead",),), DAY, (Escalation(("manager",), DAY),)), Stage((("manager",),), DAY)))


class Receiver(ThreadingHTTPServer):
    """Answers as it is told, one instruction for each request and the last for all that follow."""

    daemon_threads = True

    def __init__(self, *answers):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers) or [200]
        self.came = []
        self.let_go = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/hook?team=a"

    def handle_error(self, request, client_address):
        """Whoever asked has gone; that is what some of these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.came.append(SimpleNamespace(path=self.path, headers=dict(self.headers), body=body))
        match answer:
            case "hang":
                self.server.let_go.wait(20)
            case "drip":
                self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
                until = time.monotonic() + 20
                while time.monotonic() < until and not self.server.let_go.wait(0.05):
                    self.wfile.write(b"y")
            case "cut":
                self.connection.close()
            case "nonsense":
                self.wfile.write(b"I am no web server.\r\n")
            case (status, location):
                self.send_response(status)
                self.send_header("Location", location)
                self.end_headers()
            case status:
                self.send_response(status)
                self.end_headers()

    def do_GET(self):
        """Whoever followed a redirect would ask so."""
        self.do_POST()

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def receiving(*answers):
    server = Receiver(*answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.let_go.set()
        server.shutdown()
        thread.join()
        server.server_close()


class House:
    """Who asks and decides, on a real database."""

    def __init__(self, store, sealer):
        self.store = store
        rules = Rules(chains={"DECISION": CHAIN}, notify=True)
        self.conductor = Conductor(store, sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.0, rules=rules)

    def ask(self, question="May it?"):
        """Let a step wait for people; the approval's id."""
        plan = self.conductor.submit(request("Why?", requester="ann"))
        claimed = self.conductor.begin(StepRef(plan.plan_id, 1), holder=1)
        self.conductor.report(claimed, Held("DECISION", question, "the digest of what was asked"))
        with self.store.transaction() as tx:
            return tx.approvals(plan_id=plan.plan_id)[0].approval_id

    def notifier(self, url, *, attempts=3, timeout_s=5.0):
        return Notifier(self.store, Webhook(url, SECRET, timeout_s), attempts=attempts, draw=lambda: 0.0)

    def told(self):
        with self.store.transaction() as tx:
            return tx.notifications()

    def hurry(self, hand):
        """Let what waits be due now."""
        hand.execute("UPDATE notification SET due_at = now() WHERE state = 'waiting'")


@pytest.fixture
def house(pg_store, sealer):
    return House(pg_store, sealer)


@pytest.fixture
def hand(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def documented():
    """The function that the guide tells receivers to use."""
    guide = (ROOT / "docs/how-to/approvals.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    names = {}
    exec(code, names)  # noqa: S102 - our own guide
    return names["is_genuine"]


class TestANotification:
    def test_tells_who_must_decide_and_what_came_of_it(self, house):
        approval_id = house.ask()
        house.conductor.decide(approval_id, approve=True, by="bob", roles=["team_lead"])
        house.conductor.decide(approval_id, approve=True, by="eve", roles=["manager"])
        with receiving() as receiver:
            notifier = house.notifier(receiver.url)
            assert [notifier.step() for _ in range(4)] == [True, True, True, False]
        bodies = [json.loads(came.body) for came in receiver.came]
        assert [(b["kind"], b["state"], b["stage"], b["roles"]) for b in bodies] == [
            ("approval.requested", "pending", 1, ["team_lead"]),
            ("approval.advanced", "pending", 2, ["manager"]),
            ("approval.decided", "approved", 2, []),
        ]
        assert {b["approval_id"] for b in bodies} == {approval_id}
        assert [n.state for n in house.told()] == [NotificationState.DELIVERED] * 3

    def test_carries_no_question_no_comment_and_no_argument(self, house):
        approval_id = house.ask("May it send the password hunter2 to 10.0.0.1?")
        house.conductor.decide(approval_id, approve=False, by="bob", roles=["team_lead"], comment="hunter3")
        with receiving() as receiver:
            while house.notifier(receiver.url).step():
                pass
        said = b"".join(came.body for came in receiver.came).decode()
        for secret in ("hunter", "password", "the digest", "Why?", SECRET.decode()):
            assert secret not in said
        assert set(json.loads(receiver.came[0].body)) == {
            "id", "kind", "at", "tenant", "plan_id", "step", "approval_id", "category", "state", "stage", "roles",
            "expires_at",
        }  # fmt: skip

    def test_is_signed_so_that_the_guide_s_own_check_believes_it_and_nothing_else(self, house):
        house.ask()
        with receiving() as receiver:
            house.notifier(receiver.url).step()
        (came,) = receiver.came
        is_genuine, header = documented(), came.headers[SIGNATURE]
        assert came.path == "/hook?team=a"
        assert is_genuine(SECRET, header, came.body)
        assert not is_genuine(SECRET, header, came.body + b" ")
        assert not is_genuine(b"another secret", header, came.body)
        assert not is_genuine(SECRET, sign(SECRET, int(time.time()) - 301, came.body), came.body)
        later = re.sub(r"t=\d+", f"t={int(time.time()) + 1}", header)
        for forged in ("", "t=1", "v1=00", later, header.split(",")[0], "t=x,v1=é"):
            assert not is_genuine(SECRET, forged, came.body)

    def test_says_that_it_no_longer_waits_when_the_plan_was_cancelled_or_nobody_decided(self, house, hand):
        for approval_id in (house.ask(), house.ask()):
            with house.store.transaction() as tx:
                plan_id = tx.approval(approval_id).plan_id
        house.conductor.cancel(plan_id, by="ann")
        for _ in range(2):
            hand.execute("UPDATE approval SET expires_at = now() WHERE state = 'pending'")
            house.conductor.expire()
        kinds = [(n.kind, n.body["state"]) for n in house.told()]
        assert kinds[2:] == [
            ("approval.cancelled", "cancelled"),
            ("approval.escalated", "pending"),
            ("approval.decided", "expired"),
        ]

    def test_is_not_written_where_nobody_is_told(self, pg_store, sealer):
        house = House(pg_store, sealer)
        house.conductor = Conductor(
            pg_store, sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.0, rules=Rules()
        )
        house.ask()
        assert list(house.told()) == []


class TestAReceiver:
    def tried(self, house, url, **rest):
        """Try once, and return what became of the only notification."""
        house.ask()
        assert house.notifier(url, **rest).step()
        (told,) = house.told()
        return told

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (500, "answered 500"),
            (404, "answered 404"),
            ("cut", "no answer: RemoteDisconnected"),
            ("nonsense", "no answer: BadStatusLine"),
        ],
    )
    def test_that_does_not_take_it_is_asked_again_later(self, house, answer, error):
        with receiving(answer) as receiver:
            told = self.tried(house, receiver.url)
            assert not house.notifier(receiver.url).step()  # not at once
        assert (told.state, told.attempts, told.error) == (NotificationState.WAITING, 1, error)

    def test_that_fails_and_then_takes_it_is_sent_the_same_delivery(self, house, hand):
        with receiving(500, 503, 200) as receiver:
            self.tried(house, receiver.url)
            for _ in range(2):
                house.hurry(hand)
                assert house.notifier(receiver.url).step()
            house.hurry(hand)
            assert not house.notifier(receiver.url).step()
        (told,) = house.told()
        assert (told.state, told.attempts) == (NotificationState.DELIVERED, 3)
        assert {came.headers[DELIVERY] for came in receiver.came} == {told.notification_id}
        assert len({came.body for came in receiver.came}) == 1

    @pytest.mark.parametrize("how", ["hang", "drip"])
    def test_that_does_not_come_to_an_end_is_left_and_asked_again(self, house, how):
        with receiving(how) as receiver:
            began = time.monotonic()
            told = self.tried(house, receiver.url, timeout_s=0.4)
            assert time.monotonic() - began < 15  # it would go on for 20 seconds
        assert told.state is NotificationState.WAITING
        assert told.error.startswith("no answer: ")

    def test_that_hangs_keeps_no_transaction_open(self, house, hand):
        house.ask()
        with receiving("hang") as receiver:
            sender = threading.Thread(target=house.notifier(receiver.url).step)
            sender.start()
            while not receiver.came:
                time.sleep(0.01)
            query = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
            assert hand.execute(query).fetchone() == (0,)
            receiver.let_go.set()
            sender.join()

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_that_redirects_is_not_followed(self, house, status):
        with receiving() as elsewhere, receiving((status, elsewhere.url)) as receiver:
            told = self.tried(house, receiver.url)
        assert elsewhere.came == []
        assert told.error == f"answered {status}; redirects are not followed"

    def test_is_not_reached_through_a_proxy_of_the_environment(self, house, monkeypatch):
        with receiving() as proxy, receiving() as receiver:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, proxy.url)
            told = self.tried(house, receiver.url)
        assert told.state is NotificationState.DELIVERED
        assert proxy.came == []

    def test_that_is_not_there_is_given_up_on_where_everybody_can_see_it(self, house, hand):
        with receiving() as gone:
            url = gone.url
        self.tried(house, url, attempts=3)
        for _ in range(2):
            house.hurry(hand)
            assert house.notifier(url, attempts=3).step()
        (told,) = house.told()
        assert (told.state, told.attempts) == (NotificationState.GIVEN_UP, 3)
        assert told.error == "no answer: ConnectionRefusedError"
        house.hurry(hand)
        assert not house.notifier(url).step()

    def test_is_waited_for_longer_after_each_attempt(self, house, hand):
        query = "SELECT extract(epoch FROM due_at - now())::float FROM notification"
        house.ask()
        waits = []
        with receiving(500) as receiver:
            for _ in range(4):
                house.notifier(receiver.url, attempts=9).step()
                waits.append(hand.execute(query).fetchone()[0])
                house.hurry(hand)
        assert waits == sorted(waits)
        assert waits[-1] > 4 * waits[0] > 0


class TestASender:
    def test_that_is_killed_is_followed_by_one_that_sends_the_same_delivery(self, dsn, house, hand):
        house.ask()
        code = (
            "import sys\n"
            "from orchestrator.notifier import Notifier, Webhook\n"
            "from orchestrator.store import PgStore\n"
            "store = PgStore(sys.argv[1], size=1)\n"
            "hook = Webhook(sys.argv[2], sys.argv[3].encode(), 60.0)\n"
            "Notifier(store, hook, attempts=3, draw=lambda: 0.0).step()\n"
        )
        with receiving("hang", 200) as receiver:
            child = subprocess.Popen(
                [sys.executable, "-c", code, dsn, receiver.url, SECRET.decode()], cwd=ROOT
            )
            while not receiver.came:
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            (told,) = house.told()
            assert (told.state, told.attempts) == (NotificationState.WAITING, 1)
            assert not house.notifier(receiver.url).step()  # its time is not up: it might live
            house.hurry(hand)
            assert house.notifier(receiver.url).step()
        assert [came.headers[DELIVERY] for came in receiver.came] == [told.notification_id] * 2
        assert [n.state for n in house.told()] == [NotificationState.DELIVERED]

    def test_that_always_dies_is_not_followed_for_ever(self, house, hand):
        house.ask()
        for _ in range(3):  # each takes it, and is never seen again
            with house.store.transaction() as tx:
                assert tx.take_notification(timedelta(seconds=1))
            house.hurry(hand)
        with receiving() as receiver:
            assert house.notifier(receiver.url, attempts=3).step()
        (told,) = house.told()
        assert (told.state, told.error) == (NotificationState.GIVEN_UP, "its senders died")
        assert receiver.came == []

    def test_is_one_of_many_of_whom_each_notification_is_sent_once(self, house):
        for _ in range(12):
            house.ask()
        with receiving() as receiver:

            def send(_):
                notifier = house.notifier(receiver.url)
                while notifier.step():
                    pass

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(send, range(4)))
        sent = [came.headers[DELIVERY] for came in receiver.came]
        assert len(sent) == len(set(sent)) == 12

    def test_goes_on_until_it_is_told_to_stop(self, house):
        stopping = threading.Event()
        with receiving() as receiver:
            thread = threading.Thread(target=house.notifier(receiver.url).forever, args=(stopping,))
            thread.start()
            house.ask()
            deadline = time.monotonic() + 60
            while not receiver.came and time.monotonic() < deadline:
                time.sleep(0.01)
            stopping.set()
            thread.join(60)
        assert len(receiver.came) == 1
        assert not thread.is_alive()

    @pytest.mark.parametrize("fault", [Unavailable("Postgres is away."), ValueError("nobody foresaw it")])
    def test_is_ended_by_nothing_that_it_meets(self, fault, monkeypatch):
        monkeypatch.setattr(notifier, "_LOOK_S", 0.01)
        stopping, told = threading.Event(), iter([fault])

        class Store:
            def transaction(self):
                for first in told:
                    raise first
                stopping.set()
                raise Unavailable("Postgres is away.")

        hook = Webhook("http://127.0.0.1:9/", SECRET)
        Notifier(Store(), hook, attempts=3, draw=lambda: 0.5).forever(stopping)
        assert stopping.is_set()


@pytest.mark.parametrize(
    "role", [fleet.sweeper, partial(fleet.relay, sweeps=False)], ids=["sweeper", "publisher"]
)
def test_who_sweeps_tells_the_webhook_of_the_settings_and_nobody_else(dsn, tmp_path, vhost, role):
    (tmp_path / "secret").write_bytes(SECRET)
    stopping = threading.Event()
    with receiving() as receiver:
        chosen = settings.load(
            environment={},
            data_dir=str(tmp_path),
            database_url=dsn,
            broker_url=vhost,
            webhook_url=receiver.url,
            webhook_secret_file=str(tmp_path / "secret"),
        )
        with wiring.core(chosen) as core:
            plan = core.conductor.submit(request("Why?", requester="ann"))
            claimed = core.conductor.begin(StepRef(plan.plan_id, 1), holder=1)
            core.conductor.report(claimed, Held("DECISION", "May it?", "digest"))
            thread = threading.Thread(target=role, args=(core, stopping))
            thread.start()
            sweeps = role is fleet.sweeper
            until = time.monotonic() + (60 if sweeps else 2)
            while not receiver.came and time.monotonic() < until:
                time.sleep(0.01)
            stopping.set()
            thread.join(60)
    assert [json.loads(came.body)["roles"] for came in receiver.came] == [["team_lead", "operator"]] * sweeps


class TestTheSettings:
    def opened(self, **rest):
        return SimpleNamespace(settings=settings.load(environment={}, **rest), store=None)

    def test_make_no_sender_without_an_address(self):
        assert wiring.notifier(self.opened()) is None

    def test_make_a_sender_with_an_address_and_a_secret(self, tmp_path):
        file = tmp_path / "secret"
        file.write_bytes(SECRET + b"\n")
        opened = self.opened(webhook_url="https://example.org/hook", webhook_secret_file=str(file))
        assert wiring.notifier(opened) is not None
        assert read_secret(str(file)) == SECRET

    @pytest.mark.parametrize("content", [None, b"", b"too short"])
    def test_refuse_an_address_without_a_secret(self, tmp_path, content):
        file = tmp_path / "secret"
        if content is not None:
            file.write_bytes(content)
        opened = self.opened(webhook_url="https://example.org", webhook_secret_file=str(file))
        with pytest.raises(Misconfigured, match="webhook_secret_file"):
            wiring.notifier(opened)
        with pytest.raises(Misconfigured, match="webhook_secret_file"):
            wiring.notifier(self.opened(webhook_url="https://example.org"))

    @pytest.mark.parametrize(
        "url",
        [
            "example.org",
            "ftp://example.org",
            "http://",
            "https://u:p@example.org",
            "http://a b",
            "http://é.org",
        ],
    )
    def test_refuse_what_is_no_address(self, url):
        with pytest.raises(Misconfigured, match="webhook_url"):
            settings.load(environment={}, webhook_url=url)

    def test_do_not_show_the_secret(self):
        assert SECRET.decode() not in repr(Webhook("http://127.0.0.1", SECRET))


class TestOneThatWasGivenUpOn:
    @pytest.fixture
    def given_up(self, house, hand):
        with receiving(500) as receiver:
            house.ask()
            assert house.notifier(receiver.url, attempts=1).step()
        (told,) = house.told()
        assert told.state is NotificationState.GIVEN_UP
        return told

    def test_is_sent_again_under_the_same_delivery_and_with_all_its_attempts(self, house, hand, given_up):
        again = house.conductor.tell_again(given_up.notification_id, by="ops")
        assert (again.state, again.attempts) == (NotificationState.WAITING, 0)

        with receiving(500, 200) as receiver:
            for _ in range(2):
                assert house.notifier(receiver.url, attempts=2).step()
                house.hurry(hand)
        assert [came.headers[DELIVERY] for came in receiver.came] == [given_up.notification_id] * 2
        (told,) = house.told()
        assert (told.state, told.attempts) == (NotificationState.DELIVERED, 2)

    def test_leaves_in_the_audit_who_had_it_sent_again(self, house, given_up):
        house.conductor.tell_again(given_up.notification_id, by="ops")

        with house.store.transaction() as tx:
            records = tx.audit(given_up.body["plan_id"])
        (told,) = [json.loads(r.body) for r in records if r.kind == "notification.retried"]
        assert (told["by"], told["notification"]) == ("ops", given_up.notification_id)
        assert (told["attempts"], told["error"]) == (1, "answered 500")

    def test_is_the_only_one_that_is_sent_again(self, house, given_up):
        house.conductor.tell_again(given_up.notification_id, by="ops")
        with pytest.raises(Conflict, match="was not given up on"):
            house.conductor.tell_again(given_up.notification_id, by="ops")
        with pytest.raises(NotFound):
            house.conductor.tell_again(str(uuid4()), by="ops")

    def test_is_its_tenant_s_to_send_again_and_nobody_else_s(self, house, given_up):
        with pytest.raises(NotFound):
            house.conductor.of("rival").tell_again(given_up.notification_id, by="eve")
        assert house.conductor.of("default").tell_again(given_up.notification_id, by="ops")
