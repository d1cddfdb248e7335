"""Faults of the audit, through the real gate on a real Postgres: no execution at the server without a committed intent.

Each fault begins when a step has been claimed and is about to call, or between its intent and its call. While it lasts
nothing is executed that was not intended; once it is over the step is taken up again and comes to its end.
"""

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pytest
import structlog
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from orchestrator.domain.errors import Unavailable
from orchestrator.domain.outcome import Completed
from orchestrator.domain.plan import Agent, CallState, StepState
from orchestrator.store import PgStore
from tests.contract.bench import PostgresBench
from tests.contract.workbench import opened

pytestmark = pytest.mark.postgres


@pytest.fixture(autouse=True)
def quiet():
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def site(dsn, sealer):
    """A workbench whose program is a role that owns nothing, and a hand that owns everything."""
    role = f"program_{uuid4().hex[:12]}"
    bench = PostgresBench(dsn)
    hand = bench._hand
    name = sql.Identifier(role)
    hand.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(name))
    for grant in (
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {}",
        "GRANT orchestrator_tenant, orchestrator_fleet TO {}",
        "REVOKE UPDATE, DELETE, TRUNCATE ON audit, checkpoint FROM {}",
    ):
        hand.execute(sql.SQL(grant).format(name))
    store = PgStore(make_conninfo(dsn, options=f"-c role={role}"), size=4, now=bench.clock)
    try:
        with opened(bench, sealer, store=store) as work:
            yield SimpleNamespace(work=work, bench=bench, hand=hand, dsn=dsn, role=name)
    finally:
        store.close()
        bench.close()
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
            connection.execute(sql.SQL("DROP ROLE {}").format(name))


def cut(site):
    """End every session of the program; the pool finds out by itself."""
    site.hand.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


# --- the faults: each begins on entering, and is over on leaving ----------------------------------------------------


@contextmanager
def revoked(site):
    # the program may do what the role that it becomes for a tenant may
    site.hand.execute(sql.SQL("REVOKE INSERT ON audit FROM {}, orchestrator_tenant").format(site.role))
    try:
        yield
    finally:
        site.hand.execute(sql.SQL("GRANT INSERT ON audit TO {}, orchestrator_tenant").format(site.role))


@contextmanager
def read_only(site):
    name = sql.Identifier(conninfo_to_dict(site.dsn)["dbname"])
    site.hand.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    cut(site)
    try:
        yield
    finally:
        site.hand.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
        cut(site)


def trigger(body, *, at_commit=False):
    kind = "CREATE CONSTRAINT TRIGGER" if at_commit else "CREATE TRIGGER"
    when = "AFTER INSERT ON audit DEFERRABLE INITIALLY DEFERRED" if at_commit else "BEFORE INSERT ON audit"

    @contextmanager
    def fault(site):
        site.hand.execute(
            f"CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} RETURN NEW; END$$"
        )
        site.hand.execute(f"{kind} fault {when} FOR EACH ROW EXECUTE FUNCTION fault()")
        try:
            yield
        finally:
            site.hand.execute("DROP TRIGGER fault ON audit; DROP FUNCTION fault()")

    return fault


@contextmanager
def full_disk(site):
    """The audit's tablespace lies on four megabytes, and they are full."""
    folder = Path(tempfile.mkdtemp(prefix="oc-full-"))
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode != 0:
        shutil.rmtree(folder)
        pytest.skip("a small file system cannot be mounted here")
    try:
        server = Path(site.hand.execute("SHOW data_directory").fetchone()[0]).stat()
        os.chown(folder, server.st_uid, server.st_gid)
        folder.chmod(0o700)
        space = sql.Identifier(f"small_{uuid4().hex[:12]}")
        site.hand.execute(sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(space, str(folder)))
        site.hand.execute(sql.SQL("ALTER TABLE audit SET TABLESPACE {}").format(space))
        site.hand.execute(sql.SQL("ALTER INDEX audit_pkey SET TABLESPACE {}").format(space))
        filled = fill(site.hand, folder)
        try:
            yield
        finally:
            filled.unlink()
            site.hand.execute("ALTER TABLE audit SET TABLESPACE pg_default")
            site.hand.execute("ALTER INDEX audit_pkey SET TABLESPACE pg_default")
            site.hand.execute(sql.SQL("DROP TABLESPACE {}").format(space))
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
        folder.rmdir()


def fill(hand, folder):
    """Fill the file system, and the pages that are begun, until not a byte fits."""
    filled = folder / "filled"
    with filled.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    for size in (6000, 2000, 500, 100, 1):
        try:
            while True:
                hand.execute(
                    "INSERT INTO audit SELECT gen_random_uuid(), 1, 'filled', convert_to(string_agg(md5(random()::text), ''), 'utf8'),"
                    " '', '', '' FROM generate_series(1, %s)",
                    [1 + size // 32],
                )
        except psycopg.errors.DiskFull:
            pass
    return filled


DISK_FULL = "RAISE disk_full USING MESSAGE = 'could not extend file: No space left on device';"
FAULTS = {
    "insert revoked": revoked,
    "read-only": read_only,
    "a full disk": full_disk,
    "full at the insert": trigger(DISK_FULL),
    "full at the commit": trigger(DISK_FULL, at_commit=True),
    "an error at the commit": trigger("RAISE EXCEPTION 'the audit is on fire';", at_commit=True),
    "connection cut at the insert": trigger("PERFORM pg_terminate_backend(pg_backend_pid());"),
    "connection cut at the commit": trigger(
        "PERFORM pg_terminate_backend(pg_backend_pid());", at_commit=True
    ),
    "rows swallowed": trigger("RETURN NULL;"),
}
"""All but the last are told by Postgres; that a trigger swallows rows is told by their count."""


def watch(site):
    """Let the server count, at each execution, those that no committed intent covers."""
    uncovered = []

    def at_call():
        row = site.hand.execute("SELECT count(*) FROM audit WHERE kind = 'tool.intent'").fetchone()
        if row[0] < len(site.work.witness.calls) + 1:
            uncovered.append(len(site.work.witness.calls))

    site.work.witness.at_call = at_call
    return uncovered


def thinking(at_first):
    """A mind that makes one call; `at_first` is entered before it the first time, and left after it."""
    waiting = [at_first]

    def think(assignment, toolbox):
        if waiting:
            with waiting.pop():
                toolbox.call("look", about="a lock")
        else:
            toolbox.call("look", about="a lock")
        return Completed("found")

    return think


@pytest.mark.parametrize("fault", FAULTS)
class TestAnAuditThatTakesNoIntent:
    def test_lets_nothing_be_called_and_the_step_comes_back(self, site, fault):
        work, uncovered = site.work, watch(site)
        ref = work.submit()
        during = []

        @contextmanager
        def told():
            with FAULTS[fault](site):
                try:
                    yield
                finally:
                    during.append(len(work.witness.calls))

        executor = work.executor({Agent.RESEARCHER: thinking(told())})
        executor.run(ref)

        step = work.rows("step", ref)
        assert during == [0]
        assert work.witness.calls == []
        assert work.rows("calls", ref.plan_id) == []
        assert work.audit(ref.plan_id, "tool.intent") == []
        assert (step.state, step.attempt) == (StepState.RETRYING, 1)
        assert work.rows("plan", ref.plan_id).spent.calls == 0

        site.bench.clock.advance(minutes=5)
        assert work.conductor.wake() == 1
        executor.run(ref)

        assert work.rows("step", ref).state is StepState.SUCCEEDED
        assert [name for name, _, _ in work.witness.calls] == ["look"]
        assert uncovered == []
        assert work.chain_holds(ref.plan_id)


class TestAConnectionThatIsCutBetweenIntentAndCall:
    def test_lets_the_intended_call_be_made_and_recorded_once(self, site):
        work, uncovered = site.work, watch(site)
        ref = work.submit()
        gate = work.gate(crash_point=lambda name: cut(site) if name == "after_intent" else None)

        work.executor({Agent.RESEARCHER: thinking(nothing())}, gate=gate).run(ref)

        assert len(work.witness.calls) == 1
        assert uncovered == []
        assert [c.state for c in work.rows("calls", ref.plan_id)] == [CallState.DONE]
        assert len(work.audit(ref.plan_id, "tool.outcome")) == 1
        assert work.chain_holds(ref.plan_id)


@pytest.mark.parametrize("fault", ["insert revoked", "full at the commit", "connection cut at the commit"])
class TestAnOutcomeThatTheAuditDoesNotTake:
    def test_leaves_the_intent_which_ends_as_unknown_and_the_step_comes_back(self, site, fault):
        """The call was made, and nobody can write down what came of it; the attempt that follows makes it again."""
        work, uncovered = site.work, watch(site)
        ref = work.submit()
        opened_fault = []

        def at(name):
            if name == "after_answer" and not opened_fault:
                opened_fault.append(FAULTS[fault](site))
                opened_fault[0].__enter__()

        gate = work.gate(crash_point=at)
        claimed = work.claim(ref)
        with pytest.raises((Unavailable, psycopg.Error)):
            gate.call(claimed, "look", {"about": "a lock"}, occurrence=0)
        opened_fault[0].__exit__(None, None, None)

        (call,) = work.rows("calls", ref.plan_id)
        assert call.state is CallState.INTENDED
        assert work.audit(ref.plan_id, "tool.outcome") == []

        again = work.lose(claimed)
        assert len(work.audit(ref.plan_id, "tool.unknown")) == 1
        work.gate().call(again, "look", {"about": "a lock"}, occurrence=0)

        assert len(work.witness.calls) == 2
        assert uncovered == []
        assert len(work.audit(ref.plan_id, "tool.intent")) == 2
        assert work.chain_holds(ref.plan_id)


class TestASweeper:
    def test_that_cannot_write_the_audit_is_told_so_and_goes_on_when_it_can(self, site):
        work = site.work
        claimed = work.claim()

        def at(name):
            raise KeyboardInterrupt  # the worker dies between its intent and its call

        with pytest.raises(KeyboardInterrupt):
            work.gate(crash_point=at).call(claimed, "look", {}, occurrence=0)
        site.bench.lose(work.holders[f"{claimed.ref.plan_id}/{claimed.ref.number}"])

        with revoked(site), pytest.raises(Unavailable, match="refuses this program what it needs"):
            work.conductor.rescue()
        assert work.rows("step", claimed.ref).state is StepState.RUNNING

        assert work.conductor.rescue() == 1
        assert len(work.audit(claimed.ref.plan_id, "tool.unknown")) == 1
        assert work.witness.calls == []


@contextmanager
def nothing():
    yield
