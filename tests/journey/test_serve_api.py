"""The HTTP service as it is run: two real processes on one Postgres, readers that come and go, and a kill."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from orchestrator import settings, wiring
from orchestrator.domain.plan import request
from workers import cli

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
GOAL = "What is a lighthouse?"
SSE = {"Accept": "text/event-stream"}
PATIENCE_S = 60
EVENTS = 300
RECONNECTS = 50
EVERYWHERE = ".".join("0000")
SEED = int(os.environ.get("CHAOS_SEED", "20261126"))
READERS = 4
CUTS = 50
"""How often each of the readers loses its connection."""


class Replica:
    """One process that serves, and where."""

    def __init__(self, place, dsn, *options, more=None):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(settings.PREFIX)}
        environment |= {
            "ORCHESTRATOR_DATA_DIR": str(place / "data"),
            "ORCHESTRATOR_DATABASE_URL": dsn,
            "ORCHESTRATOR_DOCUMENTS_ROOTS": str(place / "docs"),
            "ORCHESTRATOR_DEV_ANONYMOUS": "true",
            "NO_COLOR": "1",
            **(more or {}),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", "serve", "api", "--port", "0", *options],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = ""

    def await_ready(self):
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.url = found[0]
                return self
        raise AssertionError("it did not begin to serve")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        if not self.process.stderr.closed:
            self.process.communicate(timeout=PATIENCE_S)

    def messages(self, path, last=None):
        """The messages of a stream, each its fields by name, for as long as it lasts."""
        headers = SSE if last is None else {**SSE, "Last-Event-ID": str(last)}
        with httpx.stream("GET", self.url + path, headers=headers, timeout=PATIENCE_S) as answer:
            assert answer.status_code == 200
            fields = {}
            for line in answer.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "event" in fields:
                    yield fields
                    fields = {}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    (folder / "docs").mkdir()
    text = "# Lighthouse\n\nA lighthouse is a tower that shows a light to guide ships at night.\n"
    (folder / "docs" / "lighthouse.md").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def database_url(postgres_server):
    made = postgres_server.create()
    yield made
    postgres_server.drop(made)


@pytest.fixture(scope="module")
def core(place, database_url):
    chosen = settings.load(environment={}, data_dir=str(place / "data"), database_url=database_url)
    with wiring.core(chosen) as opened:
        yield opened


@pytest.fixture(scope="module")
def replicas(place, database_url, core):
    """One that also works on plans, one that only serves, and one to be killed."""
    started = [Replica(place, database_url, option) for option in ("--work", "--no-work", "--no-work")]
    try:
        yield [replica.await_ready() for replica in started]
    finally:
        for replica in started:
            replica.kill()


@contextmanager
def happening(core, plan_id):
    """Let things happen to a plan meanwhile, and let it end."""

    def go():
        for number in range(EVENTS):
            with core.store.transaction() as tx:
                tx.lock_plan(plan_id)
                tx.add_event(plan_id, "step.snoozed", {"n": number})
            time.sleep(0.02)
        core.conductor.cancel(plan_id, by="somebody")

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.fixture
def idle_plan(core):
    """A plan without a step: it is alive, and no worker has anything to do for it."""
    return idle(core)


def idle(core):
    plan_id = str(uuid4())
    with core.store.transaction() as tx:
        tx.add_plan(plan_id, request(GOAL), tx.now() + timedelta(days=1))
        tx.lock_plan(plan_id)
        tx.add_event(plan_id, "plan.submitted", {})
    return plan_id


class Reader:
    """Follows one plan over replicas by turns, as a browser would, on connections that are cut wherever they are."""

    def __init__(self, urls, plan_id, seed):
        self.urls, self.path, self.draw = urls, f"/plans/{plan_id}/events", random.Random(seed)
        self.seen = []
        self.ended = False
        self.cut_within = 0
        self.connections = [0 for _ in urls]

    def lose_connections(self):
        for turn in range(CUTS):
            self.read(turn % len(self.urls), most=self.draw.randint(1, 1500))

    def read(self, replica, most=None):
        """Read until the stream ends, or `most` bytes have come; keep what has come whole."""
        self.connections[replica] += 1
        headers = {**SSE, "Last-Event-ID": str(self.seen[-1])} if self.seen else SSE
        came = b""
        with httpx.stream("GET", self.urls[replica] + self.path, headers=headers, timeout=PATIENCE_S) as told:
            assert told.status_code == 200
            for part in told.iter_raw():
                came = (came + part)[:most]
                if len(came) == most:
                    break  # and hang up, with the rest unread
        *whole, rest = came.decode(errors="ignore").split("\n\n")
        self.cut_within += bool(rest)
        for message in whole:
            fields = dict(line.split(": ", 1) for line in message.split("\n") if ": " in line)
            assert not self.ended, "something was told behind the end"
            self.seen += [int(fields["id"])] if "id" in fields else []
            self.ended = fields.get("event") == "end"


@contextmanager
def writing(core, plan_ids, draw):
    """Let things happen to plans for as long as the block lasts, and then end them."""
    enough = threading.Event()

    def write():
        number = 0
        while not enough.wait(draw.uniform(0, 0.02)):
            number += 1
            plan_id = draw.choice(plan_ids)
            with core.store.transaction() as tx:
                tx.lock_plan(plan_id)
                for _ in range(draw.randint(1, 3)):
                    tx.add_event(plan_id, "step.snoozed", {"n": number, "text": "ü" * draw.randint(0, 200)})

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
        for plan_id in plan_ids:
            core.conductor.cancel(plan_id, by="somebody")


def killed_while_it_tells(replica, path, last):
    """The numbers of the events that a replica told before it was killed in the middle of a stream."""
    told = []
    with suppress(httpx.TransportError):
        for message in replica.messages(path, last):
            told += [int(message["id"])] if "id" in message else []
            replica.process.send_signal(signal.SIGKILL)
    assert replica.process.wait(PATIENCE_S) == -signal.SIGKILL
    return told


def test_a_goal_given_to_one_replica_is_answered_by_the_worker_of_another(replicas):
    asked = {"query": GOAL, "depth": 1}

    answer = httpx.post(replicas[1].url + "/research", json=asked, timeout=PATIENCE_S)

    told = answer.json()
    assert answer.status_code == 200, told
    assert told["status"] == "succeeded"
    assert "A lighthouse is a tower that shows a light to guide ships at night. [1]" in told["report"]
    plan = f"{replicas[0].url}/plans/{told['job_id']}"
    assert httpx.get(f"{plan}/audit").json()["verified"] is True
    assert {c["state"] for c in httpx.get(f"{plan}/calls").json()["calls"]} == {"done"}
    as_markdown = httpx.get(f"{plan}/report", headers={"Accept": "text/markdown"}).text
    assert as_markdown == told["report"]


def test_a_question_is_streamed_to_its_end(replicas):
    told = list(replicas[0].messages("/research/stream?query=What+shows+a+light%3F&depth=1"))

    assert [m["event"] for m in told][:2] == ["plan.submitted", "plan.started"]
    assert [m["event"] for m in told][-2:] == ["plan.ended", "end"]
    assert json.loads(told[-1]["data"])["state"] == "succeeded"


def test_readers_whose_connections_are_cut_anywhere_receive_every_event_once(core, replicas):
    draw = random.Random(SEED)
    plans = [idle(core) for _ in range(READERS)]
    readers = [Reader([r.url for r in replicas[:2]], plan_id, draw.random()) for plan_id in plans]
    threads = [threading.Thread(target=reader.lose_connections) for reader in readers]

    with writing(core, plans, draw):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S * 2)
    for number, reader in enumerate(readers):
        reader.read(number % 2)

    cut = sum(reader.cut_within for reader in readers)
    told = sum(len(reader.seen) for reader in readers)
    print(f"\nseed {SEED}: {READERS * CUTS} reconnects, {cut} of them within a message, {told} events")
    for plan_id, reader in zip(plans, readers, strict=True):
        with core.store.transaction() as tx:
            written = [event.number for event in tx.events(plan_id, limit=100_000)]
        assert written == list(range(1, len(written) + 1))
        assert reader.seen == written, f"seed {SEED}"
        assert reader.ended, f"seed {SEED}"
        assert min(reader.connections) >= CUTS // 2
    assert cut > READERS * CUTS // 2


def test_a_stream_goes_on_at_any_replica_without_gap_or_repeat_even_when_one_is_killed(
    core, replicas, idle_plan
):
    path = f"/plans/{idle_plan}/events"
    seen = []
    draw = random.Random(7)
    with happening(core, idle_plan):
        for turn in range(RECONNECTS):
            reader = replicas[turn % 2 + 1].messages(path, seen[-1] if seen else None)
            seen += [int(next(reader)["id"]) for _ in range(draw.randint(1, 4))]
            reader.close()
        seen += killed_while_it_tells(replicas[2], path, seen[-1])
        told = list(replicas[1].messages(path, seen[-1]))

    seen += [int(message["id"]) for message in told if "id" in message]
    with core.store.transaction() as tx:
        written = [event.number for event in tx.events(idle_plan)]
    assert len(written) > EVENTS
    assert seen == written
    assert told[-1]["event"] == "end"


def test_told_to_stop_it_ends_its_streams_and_itself(replicas, idle_plan):
    replica = replicas[1]
    reader = replica.messages(f"/plans/{idle_plan}/events")
    next(reader)

    replica.process.send_signal(signal.SIGTERM)
    rest = list(reader)
    _, err = replica.process.communicate(timeout=PATIENCE_S)

    assert "end" not in [message["event"] for message in rest]
    assert replica.process.returncode == 0
    assert "Traceback" not in err


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "10.1.2.3", "example.org", ""])
def test_an_address_that_others_can_reach_is_refused_with_the_reason(host, capsys):
    assert cli.run(["serve", "api", "--dev-anonymous", "--host", host]) == 2
    assert "while it asks nobody who they are" in capsys.readouterr().err


def test_the_setting_keeps_it_on_this_machine_as_the_option_does(capsys, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_DEV_ANONYMOUS", "true")
    assert cli.run(["serve", "api", "--host", EVERYWHERE]) == 2
    assert "while it asks nobody who they are" in capsys.readouterr().err


def test_without_an_address_it_does_not_listen_everywhere(capsys):
    assert cli.run(["serve", "api", "--host", ""]) == 2
    assert "Name an address" in capsys.readouterr().err


@pytest.mark.parametrize("option", [None, "--dev-anonymous"])
def test_that_it_asks_nobody_is_told_loudly_and_never_so_by_itself(place, database_url, option):
    options = ["--no-work", *([option] if option else [])]
    replica = Replica(place, database_url, *options, more={"ORCHESTRATOR_DEV_ANONYMOUS": "false"})
    said = []
    for line in replica.process.stderr:
        said.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            status = httpx.get(f"{found[0]}/plans").status_code
            break
    replica.kill()

    loud = "NOBODY IS ASKED WHO THEY ARE" in "".join(said), '"identity.off"' in "".join(said)
    assert (status, loud) == ((200, (True, True)) if option else (401, (False, False)))


def test_a_key_made_on_the_command_line_opens_the_api_under_the_names_it_is_trusted_with(
    place, database_url, capsys, monkeypatch
):
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", database_url)
    monkeypatch.setenv("ORCHESTRATOR_DATA_DIR", str(place / "data"))
    assert cli.run(["keys", "create", "ada", "--role", "operator", "--expires", "1h", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    named = {"ORCHESTRATOR_DEV_ANONYMOUS": "false", "ORCHESTRATOR_TRUSTED_HOSTS": "plans.example"}
    replica = Replica(place, database_url, "--no-work", "--verbose", more=named).await_ready()
    shown = {"Authorization": f"Bearer {made['token']}"}
    try:
        said = httpx.get(f"{replica.url}/auth/session", headers={**shown, "Host": "plans.example"})
        assert (said.status_code, said.json()["name"]) == (200, "ada")
        assert httpx.get(f"{replica.url}/plans", headers={**shown, "Host": "evil.example"}).status_code == 421
        submitted = httpx.post(f"{replica.url}/plans", headers=shown, json={"goal": "What is a lighthouse?"})
        assert (submitted.status_code, submitted.json()["requester"]) == (202, "ada")

        assert cli.run(["keys", "list", "--json"]) == 0
        listed = capsys.readouterr().out
        assert [key["last_used_at"] is None for key in json.loads(listed)["keys"]] == [False]
        assert cli.run(["keys", "rotate", made["key_id"], "--overlap", "0s", "--json"]) == 0
        fresh = json.loads(capsys.readouterr().out)
        assert httpx.get(f"{replica.url}/plans", headers=shown).status_code == 401
        renewed = {"Authorization": f"Bearer {fresh['token']}"}
        assert httpx.get(f"{replica.url}/plans", headers=renewed).status_code == 200
        assert cli.run(["keys", "revoke", fresh["key_id"], "--json", "--verbose"]) == 0
        revoked = capsys.readouterr()
        assert httpx.get(f"{replica.url}/plans", headers=renewed).status_code == 401
    finally:
        replica.process.terminate()
        _, log = replica.process.communicate(timeout=PATIENCE_S)
    assert '"key.revoked"' in revoked.err
    for secret in (made["token"][-43:], fresh["token"][-43:]):
        assert secret not in listed + revoked.out + revoked.err + log


def test_a_port_that_is_taken_is_refused_with_what_to_do(replicas, place, database_url):
    port = replicas[0].url.rsplit(":", 1)[1]
    second = Replica(place, database_url, "--no-work", "--port", port)
    _, err = second.process.communicate(timeout=PATIENCE_S)
    assert second.process.returncode == 5
    assert "Name another with --port" in err
