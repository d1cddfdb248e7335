"""Takes each guard of the fleet away in turn, and tells which test notices: a suite that never fails proves nothing.

    python -m scripts.guards [NAME ...] [--jobs N] [--markdown FILE]

A guard is exact text of a file, with what stands there when it is gone; text that is no longer there exactly once is an
error, so that this list cannot rot. The product and its tests are copied to a throw-away folder, the guard is taken
away, and the narrowest part of the suite that must notice is run there, on a Postgres and a RabbitMQ that all runs share.
Each of these parts is first run with all guards in place, where it must pass. Where one guard makes up for
another, both are taken away. Exits with 1 if a guard was not missed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scripts import services

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("agents", "configs", "migrations", "orchestrator", "policies", "scripts", "tests", "workers")
FAILED = 1
TOO_LONG_S = 600
WITHIN_S = "40"
"""How long a plan may take after the last fault in these runs: one that is lost is not waited for any longer."""

BUS = "orchestrator/bus.py"
CELERY = "workers/celery_app.py"
CONDUCTOR = "orchestrator/conductor.py"
EXECUTOR = "workers/executor.py"
GATE = "workers/gate/gate.py"
FLEET = "workers/fleet.py"
LOOP = "workers/broker_loop.py"
QUERIES = "orchestrator/queries.sql"
RELAY = "orchestrator/relay.py"
TOPOLOGY = "orchestrator/topology.py"
SEALED = "orchestrator/vault/secrets.py"
TELEMETRY = "orchestrator/telemetry.py"
TOOLHOST = "workers/toolhost/host.py"
VEIL = "workers/toolhost/veil.py"
MODEL = "workers/toolhost/models/wire.py"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the suite: one group of the fleet's faults and some of them, or a test by its address."""

    test: str
    faults: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join(self.faults) or self.test.rpartition("::")[2]


def fleet(group: str, *faults: str) -> Part:
    """Return these faults of a group in `tests/chaos/test_fleet.py`."""
    test = "test_a_fleet_under_every_fault_finishes_every_plan_and_repeats_nothing"
    return Part(f"tests/chaos/test_fleet.py::{test}[{group}]", faults)


@dataclass(frozen=True, slots=True)
class Edit:
    """Exact text of one file, and what stands there when its guard is gone."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Guard:
    """What protects a promise, and the part of the suite that must notice when it is gone."""

    name: str
    promises: str
    part: Part
    edits: tuple[Edit, ...]

    def remove(self, root: Path) -> None:
        """Take the guard away from the copy at `root`; `ValueError` if its text is not there exactly once."""
        for edit in self.edits:
            file = root / edit.file
            text = file.read_text(encoding="utf-8")
            if (times := text.count(edit.old)) != 1:
                raise ValueError(
                    f"{self.name}: the text occurs {times} times in {edit.file}; bring scripts/guards.py up to date: {edit.old!r}"
                )
            file.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def _guard(name: str, promises: str, part: Part, *edits: tuple[str, str, str]) -> Guard:
    return Guard(name, promises, part, tuple(Edit(*edit) for edit in edits))


RING = (FLEET, "Relay(opened.store, bus, ring=opened.conductor.offer_again)", "Relay(opened.store, bus)")
"""After a loss a relay rings again for everything that waits; that would make up for what it lost itself."""

ANYTHING = fleet("processes", "SIGTERM a relay")

CANARY = Part("tests/journey/test_canary.py::TestNoCanaryIs")
"""Everything that a run with planted secrets leaves behind."""

STOPPED = Part("tests/contract/test_gate_rules.py::TestAStopOfTheWholeFleet")
"""What is stopped in the database, seen by a gate."""

GUARDS = (
    _guard(
        "an approval of another category grants nothing",
        "the gate",
        Part("tests/contract/test_parked_plans.py::TestTheGate"),
        (
            GATE,
            "(a.step, a.args_digest, a.category) == (claimed.ref.number, key, about)",
            "(a.step, a.args_digest) == (claimed.ref.number, key)",
        ),
    ),
    _guard(
        "a gate reads what is stopped with each decision",
        "the gate",
        STOPPED,
        (GATE, "            stopped = tx.stops(claimed.plan.tenant)\n", "            stopped = ()\n"),
    ),
    _guard(
        "a redirect is held to the hosts that are left to the call",
        "the gate",
        Part("tests/contract/test_egress.py::TestARedirect"),
        (
            "workers/toolhost/egress.py",
            "if not all(admits(hosts, target.host) for hosts in within):",
            "if not before and not all(admits(hosts, target.host) for hosts in within):",
        ),
    ),
    _guard(
        "the hosts that are left to tenant and agent go with a call",
        "the gate",
        Part("tests/contract/test_gate_rules.py::TestTheHostsThatAreLeft"),
        (
            GATE,
            "reach=self._known.narrowed(tenant, profile.egress_hosts if profile else None),",
            "reach=[],",
        ),
    ),
    _guard(
        "a page is not fetched where nobody says which hosts are left",
        "the gate",
        Part("tests/contract/test_web_server.py::TestFetchUrl"),
        (
            "workers/toolhost/web.py",
            '    raise ToolError("Nobody said which hosts are left to this call, so that none is asked.")',
            "    return ()",
        ),
    ),
    _guard(
        "a report names the claim it was made under",
        "P2",
        fleet("silence", "SIGSTOP before the report until another holds the step"),
        (QUERIES, "\n   AND (%(claim)s::integer IS NULL OR claim = %(claim)s)", ""),
        (QUERIES, "\n                                   AND s.claim = c.claim\n", "\n"),
        (QUERIES, "\n   AND s.claim = came.claim\nRETURNING s.plan_id", "\nRETURNING s.plan_id"),
    ),
    _guard(
        "what follows a step is decided once",
        "P2",
        fleet("broker", "publish everything again"),
        (QUERIES, "\n   AND NOT s.settled", ""),
    ),
    _guard(
        "a call that is done is answered from the journal",
        "P2",
        fleet("crash points", "kill -9 after the outcome of a call"),
        (
            GATE,
            "self._replayed(claimed, before) if before is not None and before.state is CallState.DONE else None",
            "self._replayed(claimed, before) if before is None and before else None",
        ),
        (
            CONDUCTOR,
            "            if before is not None and before.state is CallState.DONE:\n                return Replayed(before)\n",
            "",
        ),
        (QUERIES, " WHERE call.state <> 'done';", ";"),
    ),
    _guard(
        "the intent is committed before the call",
        "P3",
        ANYTHING,
        (
            GATE,
            "        match self._conductor.intend(claimed, ask):",
            (
                "        self._host.call(tool, arguments, timeout_s=tool.timeout_s, key=key)\n"
                "        match self._conductor.intend(claimed, ask):"
            ),
        ),
    ),
    _guard(
        "a dead letter is written for what is given up on",
        "P4",
        ANYTHING,
        (
            QUERIES,
            (
                "INSERT INTO dead_letter (letter_id, plan_id, step, reason, detail, attempts, state, at)\n"
                "VALUES (%(letter_id)s, %(plan_id)s, %(step)s, %(reason)s, %(detail)s, %(attempts)s, 'open', %(at)s);"
            ),
            "SELECT 1;",
        ),
    ),
    _guard(
        "a worker rejects what it cannot read",
        "P4",
        fleet("doors", "poison in every queue"),
        (CELERY, '"workers.celery_app:GuardedConsumer"', '"celery.worker.consumer:Consumer"'),
    ),
    _guard(
        "what is rejected goes to the dead letters",
        "P4",
        fleet("doors", "poison in every queue"),
        (
            TOPOLOGY,
            '"x-dead-letter-routing-key": Topic.DEAD.value,',
            '"x-dead-letter-routing-key": "nowhere",',
        ),
    ),
    _guard(
        "a message leaves the outbox in the transaction that publishes it",
        "P1 P10",
        fleet("crash points", "kill -9 a relay before it publishes"),
        (
            RELAY,
            "            if messages:\n                self._bus.publish(messages)\n            return len(messages)\n",
            "        if messages:\n            self._bus.publish(messages)\n        return len(messages)\n",
        ),
        RING,
    ),
    _guard(
        "a publisher waits for the broker's confirms",
        "P1 P10",
        fleet("broker", "cut before a message arrives"),
        (BUS, "            self._await_confirms()\n        except", "        except"),
        RING,
    ),
    _guard(
        "a message that no queue takes comes back",
        "P1 P10",
        Part(
            "tests/contract/test_bus.py::TestABrokerThat"
            "::test_lost_a_queue_is_told_and_declared_whole_by_the_next_batch"
        ),
        (BUS, "mandatory=True", "mandatory=False"),
    ),
    _guard(
        "a step's message is acknowledged after its claim",
        "P1 P10",
        fleet("crash points", "kill -9 before the claim"),
        (
            CELERY,
            "        take(_only(arguments), let_go=acknowledge)\n",
            "        acknowledge()\n        take(_only(arguments))\n",
        ),
    ),
    _guard(
        "a long step's message is acknowledged before its end",
        "P10",
        Part(
            "tests/contract/test_fleet_consumers.py"
            "::test_a_message_is_kept_until_its_step_ends_or_has_run_for_long[1-0-alone]"
        ),
        (
            EXECUTOR,
            "            step.gone = True\n            step.let_go()\n",
            "            step.gone = True\n",
        ),
    ),
    _guard(
        "a completion is acknowledged after it is settled",
        "P1 P10",
        fleet("crash points", "kill -9 before a completion is settled"),
        (
            LOOP,
            "            try:\n                self._handle(batch)\n",
            (
                "            channel.basic_ack(batch[-1].delivery_tag, multiple=len(batch) > 1)\n"
                "            try:\n                self._handle(batch)\n"
            ),
        ),
        (
            LOOP,
            "                channel.basic_ack(batch[-1].delivery_tag, multiple=len(batch) > 1)\n                return\n",
            "                return\n",
        ),
    ),
    _guard(
        "the queues are declared again on every connect",
        "P1 P10",
        fleet("wipes", "delete the vhost with all messages"),
        (
            TOPOLOGY,
            '    channel.exchange_declare(EXCHANGE, "direct", durable=True, auto_delete=False)\n',
            (
                '    if declare.__dict__.get("once"):\n        return\n    declare.__dict__["once"] = True\n'
                '    channel.exchange_declare(EXCHANGE, "direct", durable=True, auto_delete=False)\n'
            ),
        ),
    ),
    _guard(
        "a doorbell that nobody answered is rung again",
        "P1 P10",
        fleet("wipes", "delete the vhost with all messages"),
        (
            QUERIES,
            "AND (s.state = 'ready' OR (s.state IN ('succeeded', 'skipped') AND NOT s.settled))",
            "AND false",
        ),
    ),
    _guard(
        "a step is taken back from a worker that is gone",
        "P1 P10",
        fleet("crash points", "kill -9 after the acknowledgement of a claim"),
        (
            RELAY,
            "        return replace(self._conductor.sweep(), forgotten=self._forgotten())",
            "        return Swept()",
        ),
    ),
    _guard(
        "a tool's result is searched for the secrets of its server",
        "secrets",
        CANARY,
        (
            TOOLHOST,
            "return given.veil.of(self._answer(session, given, tool, arguments, timeout_s, meta))",
            "return self._answer(session, given, tool, arguments, timeout_s, meta)",
        ),
    ),
    _guard(
        "a tool's error is searched for the secrets of its server",
        "secrets",
        CANARY,
        (TOOLHOST, "given.veil.text(failure.detail), unsure", "failure.detail, unsure"),
    ),
    _guard(
        "a secret is looked for in base64 too",
        "secrets",
        CANARY,
        (VEIL, "            yield from _in_base64(data, alignment)\n", "            continue\n"),
    ),
    _guard(
        "what a tool server prints is searched for its secrets",
        "secrets",
        CANARY,
        (VEIL, "self._write(redacted(self._veil.text(line)))", "self._write(line)"),
    ),
    _guard(
        "a log line is redacted",
        "secrets",
        CANARY,
        (TELEMETRY, "            _without_secrets,\n", ""),
    ),
    _guard(
        "a library's log line is redacted",
        "secrets",
        CANARY,
        (TELEMETRY, "        logging.setLogRecordFactory(_record)\n", "        pass\n"),
    ),
    _guard(
        "a secret that was read is known to the log",
        "secrets",
        CANARY,
        (SEALED, "        conceal([value.decode()])\n", ""),
    ),
    _guard(
        "a key is known to the log by its form",
        "secrets",
        CANARY,
        (TELEMETRY, "        text = shape.sub(GONE, text)\n", "        continue\n"),
    ),
    _guard(
        "a secret's value is encrypted in the table",
        "secrets",
        CANARY,
        (
            SEALED,
            "    return nonce + AESGCM(key).encrypt(nonce, plain, place)\n",
            "    return nonce + plain\n",
        ),
        (
            SEALED,
            "    return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place)\n",
            "    return sealed[_NONCE_BYTES:]\n",
        ),
    ),
    _guard(
        "a model's answer that holds its key is not kept",
        "secrets",
        CANARY,
        (MODEL, "        if key and key.encode() in answer:\n", "        if key and not answer:\n"),
    ),
)


@dataclass(frozen=True, slots=True)
class Run:
    """How a part of the suite went; `said` is the first thing that it found wrong."""

    code: int
    said: str
    printed: str

    @property
    def failed(self) -> bool:
        """Whether a test failed, which is not the same as could not be run."""
        return (
            self.code == FAILED
            and " failed" in self.printed
            and " error" not in self.printed.splitlines()[-1]
        )


def run(part: Part, servers: Mapping[str, str], guard: Guard | None = None) -> Run:
    """Run a part of the suite in a copy, without this guard if one is given."""
    with tempfile.TemporaryDirectory(prefix="orc-guards-") as folder:
        root = Path(folder)
        for name in COPIED:
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        if guard is not None:
            guard.remove(root)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", part.test, "-x", "-q", "--tb=line", "--no-header", *_QUIETLY],
            cwd=root,
            env={
                **os.environ,
                **servers,
                "PYTHONPATH": str(root),
                "CHAOS_ONLY": ";".join(part.faults),
                "CHAOS_WITHIN_S": WITHIN_S,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=TOO_LONG_S,
        )
    return Run(done.returncode, _said(done.stdout), done.stdout + done.stderr)


_QUIETLY = ("-p", "no:cacheprovider", "-p", "no:cov")


def _said(printed: str) -> str:
    found = re.search(r"(?:Error|Failed): (.*)", printed)
    return re.sub(r"\s+", " ", found[1])[:160] if found else ""


def _noticed(went: Run) -> str:
    if not went.failed:
        return "NOT NOTICED" if went.code == 0 else "COULD NOT BE RUN"
    broken = re.findall(r"'(p\d+|audit)': (\d+)", went.said)
    return ", ".join(f"{name.upper()} {times}" for name, times in broken) or went.said


def markdown(rows: Iterable[tuple[Guard, str]]) -> str:
    """The table for a document."""
    lines = [
        "| without this guard | breaks | noticed by | what it counted |",
        "| --- | --- | --- | --- |",
        *(f"| {g.name} | {g.promises} | {g.part} | {noticed} |" for g, noticed in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Take away each guard; 0 when each was missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", help="only guards whose name contains one of these")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    chosen = [g for g in GUARDS if not asked.names or any(name in g.name for name in asked.names)]
    rows = []
    with (
        services.postgres() as database,
        services.rabbitmq() as broker,
        ThreadPoolExecutor(asked.jobs) as pool,
    ):
        servers = {
            "ORCHESTRATOR_TEST_DATABASE_URL": database.url,
            "ORCHESTRATOR_TEST_BROKER_URL": broker.url,
            "ORCHESTRATOR_TEST_BROKER_API": broker.api,
        }
        parts = list(dict.fromkeys(guard.part for guard in chosen))
        for part, went in zip(parts, pool.map(lambda p: run(p, servers), parts), strict=True):
            print(f"{'passes' if went.code == 0 else 'FAILS'} with every guard: {part}", flush=True)
            if went.code != 0:
                print(went.printed[-4000:])
                return FAILED
        for guard, went in zip(chosen, pool.map(lambda g: run(g.part, servers, g), chosen), strict=True):
            rows.append((guard, _noticed(went)))
            print(f"{guard.name:<66} {guard.part}: {rows[-1][1]}", flush=True)
            if not went.failed:
                print(went.printed[-4000:])
    missed = sum(noticed in {"NOT NOTICED", "COULD NOT BE RUN"} for _, noticed in rows)
    print(f"{len(rows)} guards taken away, {len(rows) - missed} noticed")
    if asked.markdown:
        asked.markdown.write_text(markdown(rows), encoding="utf-8")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
