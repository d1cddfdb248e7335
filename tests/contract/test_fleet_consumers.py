"""A real worker's promises: no message ends it, none is dropped in silence, and a claim takes its message's place."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

import amqp
import pytest
from celery.worker import state

from orchestrator import bus, topology
from orchestrator.bus import RabbitBus
from orchestrator.domain.plan import StepRef, request
from orchestrator.messages import Message, Topic
from orchestrator.wiring import core
from tests.chaos.judging import executions
from tests.fleet import Fleet, until
from workers import celery_app

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

DOCUMENT = "# Rim locks\n\nA rim lock is screwed to the surface of the door.\n"
TOLD_BEFORE_IT_LISTENS = """
import signal
import uvicorn
from workers import cli

run = uvicorn.Server.run

def told_before(server, sockets=None):
    signal.raise_signal(signal.SIGTERM)
    run(server, sockets)

uvicorn.Server.run = told_before
raise SystemExit(cli.run(["serve", "api", "--no-work", "--port", "0"]))
"""
REACHED_BEFORE_IT_SERVES = """
import socket
import uvicorn
from workers import cli

def reached(server, sockets=None):
    socket.create_connection(sockets[0].getsockname(), 5).close()

uvicorn.Server.run = reached
raise SystemExit(cli.run(["serve", "api", "--no-work", "--port", "0"]))
"""
GARBAGE = b"\x00\xff{]" * 2_500_000


@pytest.fixture
def folder():
    made = Path(tempfile.mkdtemp(prefix="orc-fleet-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def fleet(dsn, vhost, folder):
    made = Fleet(dsn, vhost, folder, documents_roots=folder)
    yield made
    made.stop()


@pytest.fixture
def opened(fleet):
    with core(fleet.settings) as made:
        yield made


def framed(*, body=None, arguments=None, task="plan.steps.run", without=(), **properties):
    """A message as the relay writes it, with something wrong."""
    usual = bus._framed(Message(Topic.STEPS, StepRef(str(uuid4()), 1)))
    headers = {**usual.properties["application_headers"], "task": task}
    headers = {key: value for key, value in headers.items() if key not in without}
    if body is None:
        body = usual.body if arguments is None else json.dumps([arguments, {}, {}])
    return amqp.Message(body, **{**usual.properties, "application_headers": headers, **properties})


def told(plan_id, *, v=1, step=1):
    return {"v": v, "plan_id": plan_id, "step": step}


NOWHERE = "00000000-0000-4000-8000-000000000000"
BAD = {
    "undecodable": framed(body=b"{not json"),
    "not text": framed(body=b"\xff\xfe\x00"),
    "no list": framed(body=b'{"v": 1}'),
    "a number": framed(body=b"5"),
    "deep": framed(body=b"[" * 100_000),
    "no id": framed(without=("id",)),
    "no headers": framed(application_headers={}),
    "unknown task": framed(task="plan.steps.burn"),
    "another language": framed(content_type="application/x-python-serialize", body=b"cos\nsystem\n."),
    "no arguments": framed(arguments=[]),
    "two arguments": framed(arguments=[told(NOWHERE), told(NOWHERE)]),
    "unknown version": framed(arguments=[told(NOWHERE, v=2)]),
    "a version of ten thousand letters": framed(arguments=[told(NOWHERE, v="v" * 10_000)]),
    "no plan of that id": framed(arguments=[told(NOWHERE)]),
    "no id at all": framed(arguments=[told("../../etc/passwd")]),
    "a step that is no number": framed(arguments=[told(NOWHERE, step="one")]),
    "ten megabytes": framed(body=GARBAGE),
}


def publish(url, queue, *messages):
    connection = bus.connect(url)
    try:
        channel = connection.channel()
        topology.declare(channel)
        channel.confirm_select()
        for message in messages:
            channel.basic_publish_confirm(message, topology.EXCHANGE, queue)
    finally:
        connection.collect()


def letters_of(opened):
    with opened.store.transaction() as tx:
        return [(letter.reason, letter.detail) for letter in tx.dead_letters(state=None)]


def state_of(opened, plan):
    with opened.store.transaction() as tx:
        return tx.plan(plan.plan_id).state


def finishes(opened, plan, fleet, within_s=60.0):
    until(
        lambda: state_of(opened, plan) == "succeeded",
        within_s=within_s,
        why=lambda: f"{state_of(opened, plan)}\n{fleet.logs()}",
    )


def test_no_message_ends_a_worker_and_each_that_cannot_be_handled_is_a_dead_letter(
    fleet, opened, vhost, folder
):
    docs = folder / "docs"
    docs.mkdir()
    (docs / "rim.md").write_text(DOCUMENT)
    for message in BAD.values():
        publish(vhost, "plan.steps", message)
    for role in ("steps", "completions", "dead", "relay"):
        fleet.start(role)

    until(lambda: len(letters_of(opened)) >= len(BAD), within_s=60, why=fleet.logs)
    plan = opened.conductor.submit(
        request("What is a rim lock screwed to", depth=1, sources={"documents": str(docs)})
    )
    finishes(opened, plan, fleet)

    found = letters_of(opened)
    assert len(found) == len(BAD)
    assert all(reason and len(detail) <= 1_000 for reason, detail in found)
    reasons = Counter(reason for reason, _ in found)
    print(f"\n{dict(reasons)}")
    assert reasons == {"rejected": 10, "malformed": 6, "unknown_step": 1}
    assert all(member.lives for member in fleet.members.values()), fleet.logs()
    shown = fleet.run("dead", "list", "--json")
    assert len(json.loads(shown)["dead_letters"]) == len(BAD)
    assert {"unknown_step", "malformed"} <= {x["reason"] for x in json.loads(shown)["dead_letters"]}


@pytest.mark.filterwarnings("ignore::celery.exceptions.SecurityWarning")
def test_a_queue_that_goes_while_a_worker_connects_does_not_end_the_worker(vhost, monkeypatch):
    consume, went, gone, came = amqp.Channel.basic_consume, [], threading.Event(), threading.Event()

    def too_late(channel, queue="", *rest, **named):
        if not went:
            went.append(queue)
            channel.queue_delete(queue)
            gone.set()
        return consume(channel, queue, *rest, **named)

    monkeypatch.setattr(amqp.Channel, "basic_consume", too_late)
    app = celery_app.make(vhost, {Topic.STEPS: lambda body, **_: came.set()})
    worker = celery_app.fleet_worker(app, name="steps@here", concurrency=1, heartbeat=False)
    thread = threading.Thread(target=worker.start, daemon=True)
    thread.start()
    try:
        until(lambda: gone.is_set() or not thread.is_alive())
        publish(vhost, topology.STEP_QUEUES[0], framed(arguments=[told(NOWHERE)]))
        assert came.wait(60)
    finally:
        celery_app.stop_taking()
        thread.join(60)
        state.should_stop = None


def test_no_completion_or_dead_letter_ends_its_consumer(fleet, opened, vhost):
    fleet.start("completions")
    fleet.start("dead")
    nasty = [
        framed(application_headers={"x-death": "no list"}, body=b"{"),
        framed(application_headers={"x-death": [{"reason": "a\x00b"}]}, body=b"[" * 100_000),
        *BAD.values(),
    ]
    publish(vhost, "plan.completions", *nasty)
    publish(vhost, "plan.dead", *nasty)
    # those that read like a step's address name none, and are listed as that
    until(lambda: len(letters_of(opened)) >= 2 * len(nasty), within_s=60, why=fleet.logs)

    with contextlib.closing(RabbitBus(vhost)) as made:
        until(lambda: made.depth(Topic.COMPLETIONS) == made.depth(Topic.DEAD) == 0)
    assert all(member.lives for member in fleet.members.values()), fleet.logs()


@pytest.mark.parametrize("watched", [False, True], ids=["alone", "watched by Flower"])
@pytest.mark.parametrize(("after_s", "kept"), [(60, 1), (1, 0), (0, 0)])
def test_a_message_is_kept_until_its_step_ends_or_has_run_for_long(
    fleet, opened, vhost, after_s, kept, watched
):
    options = ("--events",) if watched else ()
    worker = fleet.start("scripted", *options, acknowledge_after_s=after_s)
    plan = opened.conductor.submit(request("slow 300 seconds", depth=1))
    with opened.store.transaction() as tx:
        ref = tx.steps(plan.plan_id)[0].ref

    def step():
        with opened.store.transaction() as tx:
            return tx.step(ref)

    made = RabbitBus(vhost)
    try:
        made.publish([Message(Topic.STEPS, ref)])  # without a relay, nobody rings again
        until(lambda: step().state == "running", why=fleet.logs)
        assert made.depth(Topic.STEPS) == 0
        time.sleep(4)
        assert step().state == "running"
        # what the broker says about messages in hand is some seconds old; what it gives to the next is not
        worker.kill()
        if kept:
            until(lambda: made.depth(Topic.STEPS) == 1)
        time.sleep(1)
        assert made.depth(Topic.STEPS) == kept
    finally:
        made.close()


def test_a_message_that_comes_again_does_nothing_twice(fleet, opened, vhost):
    for role in ("scripted", "scripted", "completions", "completions", "relay"):
        fleet.start(role)
    plans = [opened.conductor.submit(request(f"Plan {n}", depth=2)) for n in range(5)]
    made = RabbitBus(vhost)
    try:
        for _ in range(20):
            with opened.store.transaction() as tx:
                refs = [step.ref for plan in plans for step in tx.steps(plan.plan_id)]
            made.publish([Message(topic, ref) for ref in refs for topic in (Topic.STEPS, Topic.COMPLETIONS)])
            time.sleep(0.2)
        for plan in plans:
            finishes(opened, plan, fleet)
    finally:
        made.close()
    for plan in plans:
        with opened.store.transaction() as tx:
            steps, events = tx.steps(plan.plan_id), tx.events(plan.plan_id)
        assert [s.claim for s in steps] == [1] * len(steps)
        assert Counter(e.kind for e in events)["step.succeeded"] == len(steps)
        assert Counter(e.kind for e in events)["plan.ended"] == 1
    assert {len(times) for times in executions(fleet.witness).values()} == {1}
    assert letters_of(opened) == []


def test_a_worker_told_to_stop_finishes_what_is_in_hand(fleet, opened):
    worker = fleet.start("scripted")
    for role in ("completions", "relay"):
        fleet.start(role)
    plan = opened.conductor.submit(request("slow 3 seconds", depth=1))
    with opened.store.transaction() as tx:
        ref = tx.steps(plan.plan_id)[0].ref

    def step():
        with opened.store.transaction() as tx:
            return tx.step(ref)

    until(lambda: step().state == "running", why=fleet.logs)
    assert worker.stop() == 0
    assert (step().state, step().claim) == ("succeeded", 1)


class TestAWorkerThatIsToldToStop:
    """An operator restarts it, a node is drained, a container is stopped: no step may be worse off for it."""

    @pytest.fixture
    def folder(self):
        made = Path(tempfile.mkdtemp(prefix="orc-fleet-"))
        yield made
        shutil.rmtree(made, ignore_errors=True)

    @pytest.fixture
    def fleet(self, dsn, vhost, folder):
        made = Fleet(dsn, vhost, folder, shutdown_grace_s=1, concurrency=1)
        yield made
        made.kill()

    @staticmethod
    def step_of(opened, plan):
        with opened.store.transaction() as tx:
            return tx.steps(plan.plan_id)[0]

    def test_hands_back_what_does_not_end_within_the_grace_and_leaves_without_it(self, fleet, opened):
        fleet.start("relay")
        first = fleet.start("scripted")
        plan = opened.conductor.submit(request("slow 60 seconds", depth=1))
        until(lambda: self.step_of(opened, plan).state == "running", why=fleet.logs)
        before = self.step_of(opened, plan)
        second = fleet.start("scripted")

        began = time.monotonic()
        assert first.stop() == 0
        took = time.monotonic() - began
        until(lambda: self.step_of(opened, plan).claim > before.claim, why=fleet.logs)
        print(f"\nended after {took:.1f} s, with another after {time.monotonic() - began:.1f} s")

        after = self.step_of(opened, plan)
        assert second.lives
        assert (after.state, after.attempt, after.claim) == ("running", before.attempt, before.claim + 1)
        with opened.store.transaction() as tx:
            kinds = [event.kind for event in tx.events(plan.plan_id)]
        # that the second has begun with it is told once it has been at it for a while
        assert [k for k in kinds if k.startswith("step.s")][:2] == ["step.started", "step.snoozed"]

    def test_gives_back_messages_that_it_fetched_and_did_not_begin_with(self, fleet, opened, vhost, rabbit):
        fleet.start("relay")
        first = fleet.start("scripted", "--concurrency", "1")
        plans = [opened.conductor.submit(request(f"slow {n} seconds", depth=1)) for n in (60, 0)]
        until(lambda: sum(rabbit.unacknowledged(vhost).values()) == 1, why=fleet.logs)
        until(lambda: sum(self.step_of(opened, p).state == "running" for p in plans) == 1, why=fleet.logs)

        assert first.stop() == 0
        fleet.start("scripted", "--concurrency", "2")
        until(lambda: all(self.step_of(opened, p).claim for p in plans), why=fleet.logs)

        assert letters_of(opened) == []
        assert [self.step_of(opened, p).attempt for p in plans] == [1, 1]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=["SIGTERM again", "SIGQUIT"])
    def test_ends_at_once_when_it_is_told_again(self, fleet, opened, number):
        fleet.environment["ORCHESTRATOR_SHUTDOWN_GRACE_S"] = "600"
        fleet.start("relay")
        worker = fleet.start("scripted")
        plan = opened.conductor.submit(request("slow 60 seconds", depth=1))
        until(lambda: self.step_of(opened, plan).state == "running", why=fleet.logs)

        worker.process.send_signal(signal.SIGTERM)
        # two of a kind that come before the first was looked at are one
        until(lambda: not handled(worker.process.pid, signal.SIGTERM), why=fleet.logs)
        time.sleep(1)
        assert worker.lives
        worker.process.send_signal(number)

        assert worker.process.wait(60) == -number
        # the session lock went with the process: what was in hand is another's after the next sweep
        until(lambda: self.step_of(opened, plan).state == "ready", why=fleet.logs)


def handled(pid, number):
    """Whether a process has a handler of its own for a signal."""
    (mask,) = re.findall(r"^SigCgt:\t(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_relay_that_is_told_not_to_sweep_leaves_it_to_the_sweeper(fleet, opened):
    fleet.start("relay", "--no-sweep")
    doomed = fleet.start("scripted")
    plan = opened.conductor.submit(request("slow 60 seconds", depth=1))

    def step():
        with opened.store.transaction() as tx:
            return tx.steps(plan.plan_id)[0]

    until(lambda: step().state == "running", why=fleet.logs)
    doomed.kill()
    fleet.start("scripted")
    time.sleep(5)  # ten sweeps, if there were any
    assert step().claim == 1
    fleet.start("sweeper")
    until(lambda: step().claim == 2, why=fleet.logs)
    fleet.kill()


@pytest.mark.parametrize("role", ["completions", "dead", "relay", "sweeper", "chronos", "api"])
def test_every_other_process_ends_promptly_and_well_when_it_is_told_to(fleet, role):
    service = role in {"chronos", "api"}
    member = fleet.serve(role, *(["--port", "0"] if role == "api" else [])) if service else fleet.start(role)
    until(lambda: any(word in member.log.read_text() for word in ("Running", "Firing", "Serving")))

    member.process.terminate()

    assert member.process.wait(60) == 0, fleet.logs()


def ran(fleet, program):
    return subprocess.run(
        [sys.executable, "-c", program],
        env=fleet.environment,
        check=False,
        capture_output=True,
        timeout=60,
    )


def test_the_api_can_be_connected_to_once_it_says_where(fleet):
    reached = ran(fleet, REACHED_BEFORE_IT_SERVES)

    assert b"Serving" in reached.stderr
    assert reached.returncode == 0, reached.stderr


def test_the_api_ends_when_it_is_told_to_before_its_server_listens_to_signals(fleet):
    told = ran(fleet, TOLD_BEFORE_IT_LISTENS)

    assert b"Serving" in told.stderr
    assert told.returncode == 0, told.stderr
