"""Whatever is done to the audit, `orchestrator audit verify` names it: each row of the matrix is done to a real Postgres.

The forger owns the tables, and takes away the triggers that would refuse. What they hold besides (the audit's key, the
file of checkpoints) is said in each test; the private key of checkpoints they never hold.
"""

import json
import logging
import os
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count
from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pytest
import structlog

from orchestrator import settings, wiring
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.errors import Unavailable
from orchestrator.domain.plan import AuditRecord, request
from orchestrator.store import PgStore
from orchestrator.vault import checkpoint, notary, signing
from orchestrator.vault.chain import Sealer
from orchestrator.vault.checkpoint import NOTHING, Leaf
from orchestrator.vault.examine import FAULTS
from orchestrator.vault.notary import Contradicted
from orchestrator.vault.signing import Signer
from tests.contract.workbench import eventually
from workers import cli
from workers.wiring import notarise

pytestmark = pytest.mark.postgres

OWNED = """
    ALTER TABLE audit DISABLE TRIGGER only_grows;
    ALTER TABLE checkpoint DISABLE TRIGGER only_grows;
"""


class Site:
    """A database with two plans that have ended, its keys, its file of checkpoints, and the command line."""

    def __init__(self, dsn, folder, capsys):
        self.dsn = dsn
        self.folder = folder
        self.file = folder / "checkpoints.jsonl"
        self._capsys = capsys
        self.store = PgStore(dsn, size=2)
        self.settings = settings.load(environment={}, data_dir=str(folder), database_url=dsn)
        self.sealer = Sealer(wiring.audit_key(self.settings))
        numbers = count()
        self.conductor = Conductor(
            self.store, self.sealer, new_id=lambda: str(uuid4()), draw=lambda: 0.0, rules=Rules()
        )
        self.plans = [self.plan(f"goal {next(numbers)}") for _ in range(2)]
        self.one, self.other = self.plans

    def plan(self, goal="another goal"):
        made = self.conductor.submit(request(goal))
        return made.plan_id

    def go_on(self, plan_id):
        """Let a plan's chain grow by one record or two."""
        self.conductor.cancel(plan_id, by="somebody", reason="enough")

    def notary(self):
        return wiring.notary(self.settings, self.store)

    def run(self, *words):
        self._capsys.readouterr()
        code = cli.run(words)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    def verify(self, *words):
        """The names of the faults that the command finds, in order; its exit code fits them."""
        code, out, _ = self.run("audit", "verify", *words, "--json")
        found = json.loads(out)
        assert code == (0 if found["ok"] else 1)
        assert found["ok"] == (not found["breaks"])
        assert all(one["name"] in FAULTS for one in found["breaks"])
        return [one["name"] for one in found["breaks"]]

    def forge(self, *statements):
        """Do what the owner of the tables can do."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(OWNED)
            for statement, *values in statements:
                assert connection.execute(statement, values).rowcount != 0, statement

    def rewrite(self, plan_id, sealer, change):
        """Seal a whole chain again, with one record changed, and correct the plan's row."""
        with self.store.transaction() as tx:
            records = tx.audit(plan_id)
        prev, forged = b"", []
        for record in records:
            body = json.loads(record.body) | (change if record.number == 1 else {})
            made = sealer.seal(chain=plan_id, number=record.number, kind=record.kind, body=body, prev=prev)
            forged.append(made)
            prev = made.mac
        self.put(plan_id, forged)

    def put(self, plan_id, records):
        self.forge(
            ("DELETE FROM audit WHERE chain = %s", plan_id),
            *[
                (
                    "INSERT INTO audit (chain, number, kind, body, prev, mac, key_id) VALUES (%s, %s, %s, %s, %s, %s, %s)",
                    r.chain,
                    r.number,
                    r.kind,
                    r.body,
                    r.prev,
                    r.mac,
                    r.key_id,
                )
                for r in records
            ],
            (
                "UPDATE plan SET audit_count = %s, audit_head = %s WHERE plan_id = %s",
                len(records),
                records[-1].mac,
                plan_id,
            ),
        )

    def records(self, plan_id):
        with self.store.transaction() as tx:
            return list(tx.audit(plan_id))

    def lines(self):
        return self.file.read_bytes().splitlines(keepends=True)


@pytest.fixture
def site(dsn, tmp_path, capsys, monkeypatch):
    for name in [n for n in os.environ if n.startswith(settings.PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ORCHESTRATOR_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", dsn)
    made = Site(dsn, tmp_path, capsys)
    yield made
    made.store.close()
    logging.disable(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture
def sealed(site):
    """A site whose first plan was covered when it was young and again when it had ended; the other one only young."""
    site.notary().step()
    site.go_on(site.one)
    site.notary().step()
    return site


def lengths(site):
    return [len(site.records(plan)) for plan in site.plans]


class TestAnAuditThatNobodyTouched:
    def test_holds_without_a_checkpoint_and_says_that_there_is_none(self, site):
        code, out, _ = site.run("audit", "verify")
        assert code == 0
        assert "There is no checkpoint yet" in out

    def test_holds_with_them(self, sealed):
        assert sealed.verify() == []
        assert [len(checkpoint.read(line).leaves) for line in sealed.lines()] == [2, 1]

    def test_holds_when_it_grew_since_the_last_one_and_says_by_how_much(self, sealed):
        sealed.go_on(sealed.other)
        code, out, _ = sealed.run("audit", "verify")
        assert code == 0
        grown = len(sealed.records(sealed.other)) - 1
        assert f"{grown} record{'s have' if grown > 1 else ' has'} come since the last checkpoint (2)" in out

    def test_holds_for_one_plan(self, sealed):
        assert sealed.verify(sealed.one[:8]) == []

    def test_gets_no_checkpoint_when_nothing_happened(self, sealed):
        assert sealed.notary().step() == []


class TestARecord:
    """The forger has the database, and no key."""

    @pytest.mark.parametrize(
        ("statement", "name"),
        [
            ("UPDATE audit SET body = '{}' WHERE chain = %s AND number = 1", "record_altered"),
            ("UPDATE audit SET kind = 'plan.ended' WHERE chain = %s AND number = 1", "record_altered"),
            ("UPDATE audit SET mac = sha256(body) WHERE chain = %s AND number = 1", "record_altered"),
            ("UPDATE audit SET key_id = 'k9' WHERE chain = %s AND number = 1", "key_missing"),
            ("DELETE FROM audit WHERE chain = %s AND number = 1", "record_missing"),
            ("UPDATE audit SET number = number + 1 WHERE chain = %s AND number = 2", "record_missing"),
            ("UPDATE audit SET prev = '' WHERE chain = %s AND number = 2", "record_moved"),
            ("DELETE FROM audit WHERE chain = %s AND number = 2", "tail_cut"),
            (
                "INSERT INTO audit SELECT chain, 3, kind, body, mac, mac, key_id FROM audit WHERE chain = %s AND number = 2",
                "record_altered",
            ),
        ],
        ids=[
            "altered",
            "kind",
            "sealed-without-key",
            "key-renamed",
            "deleted",
            "moved",
            "unlinked",
            "cut",
            "inserted",
        ],
    )
    def test_that_was_touched_is_named(self, sealed, statement, name):
        assert lengths(sealed) == [2, 1]
        sealed.forge((statement, sealed.one))
        assert sealed.verify()[0] == name
        assert sealed.verify(sealed.one)[0] == name

    def test_that_changed_places_with_another_is_named(self, sealed):
        swap = "UPDATE audit SET number = -number WHERE chain = %s"
        sealed.forge(
            ("ALTER TABLE audit DROP CONSTRAINT audit_number_check",),
            (swap, sealed.one),
            ("UPDATE audit SET number = 3 + number WHERE chain = %s", sealed.one),
        )
        assert sealed.verify()[0] == "record_moved"

    def test_of_another_plan_is_named(self, sealed):
        sealed.forge(
            ("DELETE FROM audit WHERE chain = %s", sealed.other),
            (
                "INSERT INTO audit SELECT %s, number, kind, body, prev, mac, key_id FROM audit WHERE chain = %s AND number = 1",
                sealed.other,
                sealed.one,
            ),
        )
        assert sealed.verify()[0] == "record_altered"


class TestWhatSealsAloneDoNotShow:
    """The forger has the database, and no key; what they do leaves every seal whole."""

    def test_a_cut_tail_with_the_plan_corrected_to_match(self, sealed):
        first = sealed.records(sealed.one)[:1]
        sealed.put(sealed.one, first)
        assert sealed.verify() == ["chain_cut"]

    def test_a_whole_plan_deleted(self, sealed):
        sealed.forge(
            ("DELETE FROM audit WHERE chain = %s", sealed.one),
            ("DELETE FROM plan WHERE plan_id = %s", sealed.one),
        )
        assert sealed.verify() == ["chain_gone"]
        assert sealed.verify(sealed.one[:8]) == ["chain_gone"]

    def test_a_plan_deleted_beside_its_records(self, sealed):
        sealed.forge(("DELETE FROM plan WHERE plan_id = %s", sealed.one))
        assert sealed.verify() == ["chain_gone", "chain_unclaimed"]

    def test_every_plan_deleted(self, sealed):
        sealed.forge(("DELETE FROM audit",), ("DELETE FROM plan",))
        assert sealed.verify() == ["chain_gone", "chain_gone"]

    def test_the_same_with_what_the_database_remembers_of_checkpoints_deleted_too(self, sealed):
        sealed.put(sealed.one, sealed.records(sealed.one)[:1])
        sealed.forge(("DELETE FROM checkpoint",), ("DELETE FROM checkpointed",))
        assert sealed.verify() == ["checkpoints_gone", "chain_cut"]


class TestAnInsiderWithTheKey:
    """The forger has the database and the audit's key."""

    def test_who_rewrites_a_chain_so_that_every_seal_holds_is_named(self, sealed):
        sealed.rewrite(sealed.one, sealed.sealer, {"by": "somebody else"})
        assert sealed.verify() == ["chain_rewritten"]

    def test_who_rewrites_it_and_lets_it_grow_is_named(self, sealed):
        sealed.rewrite(sealed.other, sealed.sealer, {"by": "somebody else"})
        sealed.go_on(sealed.other)
        assert sealed.verify() == ["chain_rewritten"]

    def test_is_not_helped_by_the_next_checkpoint(self, sealed):
        sealed.rewrite(sealed.other, sealed.sealer, {"by": "somebody else"})
        sealed.go_on(sealed.other)
        assert sealed.notary().step() == []
        assert sealed.verify() == ["chain_rewritten"]

    def test_is_not_helped_by_making_the_database_forget_its_leaves(self, sealed):
        """The notary then signs the forged chain; the earlier signature still stands against it."""
        sealed.rewrite(sealed.other, sealed.sealer, {"by": "somebody else"})
        sealed.forge(("DELETE FROM checkpointed",))
        assert len(sealed.notary().step()) == 1
        assert sealed.verify() == ["chain_rewritten"]

    def test_is_not_helped_by_deleting_the_checkpoints_of_the_database(self, sealed):
        sealed.rewrite(sealed.one, sealed.sealer, {"by": "somebody else"})
        sealed.forge(("DELETE FROM checkpoint",), ("DELETE FROM checkpointed",))
        with pytest.raises(Contradicted, match="older database"):
            sealed.notary().step()
        assert sealed.verify() == ["checkpoints_gone", "chain_rewritten"]

    def test_cannot_make_checkpoints_without_the_other_key(self, sealed):
        """They sign with a key of their own, in the database and in the file."""
        sealed.rewrite(sealed.one, sealed.sealer, {"by": "somebody else"})
        stranger = Signer(b"s" * 32)
        leaves = [leaf_of(sealed.records(plan)) for plan in sealed.plans]
        forged = checkpoint.make(stranger, leaves, at="2026-01-01T00:00:00+00:00", after=None)
        sealed.forge(
            ("DELETE FROM checkpoint",),
            (
                "INSERT INTO checkpoint (number, at, key_id, line) VALUES (1, now(), %s, %s)",
                forged.key_id,
                forged.line(),
            ),
        )
        sealed.file.write_bytes(forged.line())
        assert sealed.verify() == ["signer_unknown", "signer_unknown"]

    def test_cannot_name_their_key_as_the_real_one(self, sealed):
        sealed.rewrite(sealed.one, sealed.sealer, {"by": "somebody else"})
        *_, last = map(checkpoint.read, sealed.lines())
        first = checkpoint.read(sealed.lines()[0])
        forged = checkpoint.make(
            Signer(b"s" * 32), [leaf_of(sealed.records(sealed.one))], at=last.at, after=first
        )
        line = forged.line().replace(forged.key_id.encode(), last.key_id.encode())
        sealed.forge(("UPDATE checkpoint SET line = %s WHERE number = 2", line))
        sealed.file.write_bytes(sealed.lines()[0] + line)
        # the first checkpoint still stands against the rewritten chain
        assert sealed.verify() == ["signature_wrong", "signature_wrong", "chain_rewritten"]


class TestTheCheckpoints:
    def test_of_the_database_all_deleted_are_named(self, sealed):
        sealed.forge(("DELETE FROM checkpoint",))
        assert sealed.verify() == ["checkpoints_gone"]

    def test_of_the_database_one_deleted_is_named(self, sealed):
        sealed.forge(("DELETE FROM checkpoint WHERE number = 1",))
        assert sealed.verify() == ["checkpoint_gone"]

    def test_of_the_database_one_altered_is_named(self, sealed):
        sealed.forge(("UPDATE checkpoint SET line = 'x' || line WHERE number = 1",))
        assert "checkpoint_damaged" in sealed.verify()

    def test_of_an_older_database_that_was_restored_are_named(self, sealed, postgres_server):
        with as_it_was(sealed, postgres_server):
            sealed.go_on(sealed.other)
            sealed.notary().step()
        assert sealed.verify() == ["database_older", "chain_cut"]

    def test_are_not_made_in_an_older_database_that_was_restored(self, sealed, postgres_server):
        with as_it_was(sealed, postgres_server):
            sealed.go_on(sealed.other)
            sealed.notary().step()
        sealed.go_on(sealed.other)
        before = sealed.file.read_bytes()

        code, _, err = sealed.run("audit", "checkpoint")

        assert code == 4
        assert "older database" in err
        assert sealed.file.read_bytes() == before

    def test_of_a_truncated_file_are_named(self, sealed):
        sealed.file.write_bytes(sealed.lines()[0])
        assert sealed.verify() == ["file_truncated"]

    def test_of_a_file_that_was_emptied_are_named(self, sealed):
        sealed.file.write_bytes(b"")
        assert sealed.verify() == ["file_truncated"]

    def test_of_a_file_with_a_line_altered_are_named(self, sealed):
        one, two = sealed.lines()
        altered = json.loads(one)
        altered["leaves"][0][1] += 1
        sealed.file.write_bytes(
            json.dumps(altered, sort_keys=True, separators=(",", ":")).encode() + b"\n" + two
        )
        assert sealed.verify() == ["leaves_altered", "checkpoint_differs"]

    def test_of_a_file_with_a_line_damaged_are_named(self, sealed):
        one, two = sealed.lines()
        sealed.file.write_bytes(one[:50] + b"\n" + two)
        assert sealed.verify() == ["file_damaged"]

    def test_of_a_file_with_a_line_gone_are_named(self, sealed):
        sealed.file.write_bytes(sealed.lines()[1])
        assert sealed.verify() == ["file_line_gone"]

    def test_of_a_file_in_another_order_are_named(self, sealed):
        one, two = sealed.lines()
        sealed.file.write_bytes(two + one)
        assert sealed.verify() == ["order_broken"]

    def test_whose_file_is_gone_are_named(self, sealed):
        sealed.file.unlink()
        assert sealed.verify() == ["file_gone"]

    def test_can_be_compared_with_a_copy_of_the_file_kept_elsewhere(self, sealed, tmp_path):
        kept = tmp_path / "elsewhere.jsonl"
        kept.write_bytes(sealed.file.read_bytes())
        sealed.put(sealed.one, sealed.records(sealed.one)[:1])
        sealed.forge(("DELETE FROM checkpoint",), ("DELETE FROM checkpointed",))
        sealed.file.unlink()
        assert sealed.verify() == []  # nothing here tells any more
        assert sealed.verify("--checkpoints", str(kept)) == ["checkpoints_gone", "chain_cut"]

    def test_of_somebody_who_replaced_all_keys_fail_by_the_public_key_kept_elsewhere(self, sealed, tmp_path):
        """The forger has everything on this machine; the auditor has kept the public key."""
        kept = tmp_path / "kept.public"
        kept.write_text(sealed.run("audit", "keys")[1])
        sealed.rewrite(sealed.one, sealed.sealer, {"by": "somebody else"})
        sealed.forge(("DELETE FROM checkpoint",), ("DELETE FROM checkpointed",))
        for file in (sealed.file, *(sealed.folder / "keys").glob("checkpoint.*")):
            file.unlink()
        sealed.notary().step()

        assert sealed.verify() == []
        assert sealed.verify("--public-key", str(kept)) == ["signer_unknown", "signer_unknown"]


def leaf_of(records):
    fold = checkpoint.fold(NOTHING, map(checkpoint.digest_of, records))
    return Leaf(records[0].chain, len(records), records[-1].mac, fold)


@contextmanager
def as_it_was(site, server):
    """Let the database be, after the block, what it was before it."""
    tables = ("audit", "plan", "ledger", "checkpoint", "checkpointed", "step", "event")
    with psycopg.connect(site.dsn, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for table in tables:
            connection.execute(f"CREATE TEMPORARY TABLE kept_{table} AS SELECT * FROM {table}")
        yield
        connection.execute(OWNED)
        for table in tables:
            connection.execute(f"DELETE FROM {table}")
            connection.execute(f"INSERT INTO {table} SELECT * FROM kept_{table}")


class TestTheTables:
    @pytest.mark.parametrize("table", ["audit", "checkpoint"])
    @pytest.mark.parametrize(
        "statement",
        ["UPDATE {} SET key_id = 'x'", "DELETE FROM {}", "TRUNCATE {}"],
        ids=lambda s: s.split()[0],
    )
    @pytest.mark.parametrize("role", ["origin", "replica"])
    def test_only_grow_even_for_their_owner(self, sealed, table, statement, role):
        with psycopg.connect(sealed.dsn, autocommit=True) as connection:
            connection.execute(f"SET session_replication_role = {role}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="only grows"):
                connection.execute(statement.format(table))
        assert sealed.verify() == []


class TestTheFile:
    def test_is_brought_up_after_a_crash_between_commit_and_file(self, sealed):
        whole = sealed.file.read_bytes()
        sealed.file.write_bytes(sealed.lines()[0])
        sealed.notary().step()
        assert sealed.file.read_bytes() == whole

    def test_loses_the_half_line_that_a_crash_left(self, sealed):
        whole = sealed.file.read_bytes()
        sealed.file.write_bytes(whole[:-40])
        sealed.notary().step()
        assert sealed.file.read_bytes() == whole

    def test_is_made_anew_on_another_machine(self, sealed):
        whole = sealed.file.read_bytes()
        sealed.file.unlink()
        sealed.notary().step()
        assert sealed.file.read_bytes() == whole

    def test_that_cannot_be_written_is_told_and_costs_no_checkpoint(self, sealed):
        sealed.file.unlink()
        sealed.file.mkdir()
        sealed.go_on(sealed.other)
        code, _, err = sealed.run("audit", "checkpoint")
        assert code == 5
        assert "cannot be written" in err
        sealed.file.rmdir()
        assert len(sealed.notary().step()) == 1
        assert len(sealed.lines()) == 3


class TestTheNotary:
    def test_leaves_a_checkpoint_to_the_one_whose_turn_it_is(self, site):
        with site.store.transaction() as tx:
            assert tx.take_turn()
            assert site.notary().step() == []
        assert len(site.notary().step()) == 1

    def test_waits_until_the_next_one_is_due(self, sealed):
        sealed.go_on(sealed.other)
        assert sealed.notary().step(every=timedelta(hours=1)) == []
        assert len(sealed.notary().step(every=timedelta(0))) == 1

    def test_signs_only_for_chains_that_grew(self, sealed):
        made = sealed.plan()
        (one,) = sealed.notary().step()
        assert [leaf.chain for leaf in one.leaves] == [made]

    def test_makes_several_where_many_chains_grew(self, site, monkeypatch):
        monkeypatch.setattr(notary, "MOST", 3)
        for _ in range(5):
            site.plan()
        assert [one.size for one in site.notary().step()] == [3, 3, 1]
        assert site.verify() == []

    def test_does_not_sign_over_a_checkpoint_of_another_key(self, sealed):
        for file in (sealed.folder / "keys").glob("checkpoint.*"):
            file.unlink()
        sealed.go_on(sealed.other)
        with pytest.raises(Contradicted, match="same checkpoint_key_file"):
            sealed.notary().step()

    def test_goes_on_after_whatever_goes_wrong_and_says_it_once(self, sealed):
        wrong = [ZeroDivisionError("?"), ZeroDivisionError("?"), Unavailable("Away."), Contradicted("Older.")]
        made, stopping = sealed.notary(), threading.Event()
        step = made.step

        def failing(**rest):
            if wrong:
                raise wrong.pop(0)
            stopping.set()
            return step(**rest)

        made.step = failing
        sealed.go_on(sealed.other)
        with structlog.testing.capture_logs() as logs:
            made.forever(stopping, every_s=0.0, look_s=0.001)
        said = [line["event"] for line in logs]
        assert said == [
            "checkpoint.crashed",
            "checkpoint.unwritten",
            "checkpoint.refused",
            "checkpoint.made",
        ]

    def test_says_which_chain_is_not_as_it_was_signed_for(self, sealed):
        sealed.rewrite(sealed.one, sealed.sealer, {"by": "somebody else"})
        with structlog.testing.capture_logs() as logs:
            assert sealed.notary().step() == []
        (said,) = [line for line in logs if line["event"] == "checkpoint.contradicted"]
        assert said["chain"] == sealed.one

    def test_is_run_beside_a_sweeper_unless_it_is_told_not_to(self, site):
        for every_s in (0.0, 0.01):
            chosen = site.settings.model_copy(update={"checkpoint_every_s": every_s})
            stopping = threading.Event()
            core = SimpleNamespace(settings=chosen, store=site.store)
            thread = threading.Thread(target=notarise, args=(core, stopping))
            thread.start()
            assert every_s == 0.0 or eventually(site.file.exists)
            stopping.set()
            thread.join()
            assert site.file.exists() == (every_s > 0)


class TestRotatedKeys:
    def test_leave_what_older_ones_signed_verifying(self, sealed):
        before = sealed.run("audit", "keys")[1]
        code, after, _ = sealed.run("audit", "keys", "--rotate")
        sealed.go_on(sealed.other)
        sealed.notary().step()

        assert code == 0
        assert after.startswith(before)
        assert len({checkpoint.read(line).key_id for line in sealed.lines()}) == 2
        assert len(signing.read(after).keys) == 2
        assert sealed.verify() == []

    def test_are_not_believed_by_who_was_given_the_first_only(self, sealed, tmp_path):
        kept = tmp_path / "kept.public"
        kept.write_text(sealed.run("audit", "keys")[1])
        sealed.run("audit", "keys", "--rotate")
        sealed.go_on(sealed.other)
        sealed.notary().step()
        assert set(sealed.verify("--public-key", str(kept))) == {"signer_unknown"}

    def test_are_kept_from_others(self, sealed):
        sealed.run("audit", "keys", "--rotate")
        assert (sealed.folder / "keys" / "checkpoint.key").stat().st_mode & 0o077 == 0


def test_a_record_s_fold_says_all_that_is_in_it():
    record = AuditRecord("c", 1, "k", b"{}", b"", b"m", "k1")
    seen = {checkpoint.digest_of(record)}
    for name in ("chain", "kind", "key_id"):
        seen.add(checkpoint.digest_of(replace(record, **{name: "other"})))
    for name in ("body", "prev", "mac"):
        seen.add(checkpoint.digest_of(replace(record, **{name: b"other"})))
    assert len(seen) == 7
