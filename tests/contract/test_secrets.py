"""What any keeper of secrets promises, and what each promises besides.

The one that speaks to Vault is tested against `tests/vault_server.py`, which speaks the protocol and is no real Vault.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing
from itertools import count

import psycopg
import pytest
from psycopg import sql

from orchestrator import settings, telemetry, wiring
from orchestrator.domain.errors import (
    Invalid,
    InvalidSecret,
    Misconfigured,
    NotFound,
    SecretDamaged,
    SecretMoved,
    SecretsUnavailable,
)
from orchestrator.domain.secret import SecretState
from orchestrator.inmemory import InMemoryStore
from orchestrator.store import PgStore
from orchestrator.telemetry import GONE, redacted
from orchestrator.vault import ledger
from orchestrator.vault.kv2 import KvSecrets
from orchestrator.vault.secrets import MasterKeys, SealedSecrets, key_id
from tests.clock import Clock
from tests.vault_server import TOKEN, VaultServer

T = "acme"
ONE, TWO, THREE = "the first value", "the second value", "the third value"
MASTER = b"m" * 32


@pytest.fixture
def vault():
    server = VaultServer()
    yield server
    server.close()


POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)


@pytest.fixture
def keeper(request):
    """What makes a keeper of secrets by its kind."""
    with ExitStack() as stack:

        def make(kind):
            if kind == "postgres":
                return SealedSecrets(request.getfixturevalue("pg_store"), MasterKeys(lambda: [MASTER]))
            if kind == "inmemory":
                return SealedSecrets(InMemoryStore(Clock()), MasterKeys(lambda: [MASTER]))
            url = request.getfixturevalue("vault").url
            return stack.enter_context(closing(KvSecrets(url, lambda: TOKEN, timeout_s=30.0)))

        yield make


@pytest.fixture(params=[POSTGRES, "inmemory", "kv2"])
def kept(request, keeper):
    return keeper(request.param)


def states(kept, name="key"):
    return {v.version: v.state.value for v in kept.versions(T, name)}


class TestASecret:
    def test_that_was_put_is_current_and_its_value_comes_back(self, kept):
        made = kept.put(T, "key", ONE, by="ann")
        assert (made.version, made.state, made.created_by) == (1, SecretState.CURRENT, "ann")
        assert (kept.get(T, "key").value, kept.get(T, "key").version) == (ONE, 1)

    def test_holds_any_text(self, kept):
        value = 'ß漢🔒 "quoted" \\ \r\n\t{}' + "x" * 60_000
        kept.put(T, "key", value, by="ann")
        assert kept.get(T, "key").value == value

    def test_that_is_put_again_is_the_new_one_at_once(self, kept):
        kept.put(T, "key", ONE, by="ann")
        kept.put(T, "key", TWO, by="bob")
        assert kept.get(T, "key").value == TWO
        assert states(kept) == {1: "previous", 2: "current"}

    def test_that_should_be_new_and_is_not_stays_as_it_is(self, kept):
        kept.put(T, "key", ONE, by="ann", new=True)
        with pytest.raises(SecretMoved, match="already"):
            kept.put(T, "key", TWO, by="bob", new=True)
        assert kept.get(T, "key").value == ONE
        assert states(kept) == {1: "current"}

    def test_that_is_rotated_is_not_in_use_until_it_is_promoted(self, kept):
        kept.put(T, "key", ONE, by="ann")
        assert kept.rotate(T, "key", TWO, by="ann").state is SecretState.PENDING
        assert kept.get(T, "key").value == ONE
        assert kept.get(T, "key", 2).value == TWO
        assert kept.promote(T, "key", by="bob").version == 2
        assert kept.get(T, "key").value == TWO
        assert states(kept) == {1: "previous", 2: "current"}

    def test_has_one_pending_version_at_most(self, kept):
        kept.put(T, "key", ONE, by="ann")
        kept.rotate(T, "key", TWO, by="ann")
        with pytest.raises(SecretMoved, match="Version 2 of the secret key is pending"):
            kept.rotate(T, "key", THREE, by="ann")
        assert states(kept) == {1: "current", 2: "pending"}

    def test_goes_back_to_a_previous_version(self, kept):
        kept.put(T, "key", ONE, by="ann")
        kept.put(T, "key", TWO, by="ann")
        kept.promote(T, "key", by="ann", version=1)
        assert kept.get(T, "key").value == ONE
        assert states(kept) == {1: "current", 2: "previous"}

    def test_is_not_promoted_without_a_pending_version_or_to_what_it_is(self, kept):
        kept.put(T, "key", ONE, by="ann")
        with pytest.raises(SecretMoved, match="No version"):
            kept.promote(T, "key", by="ann")
        with pytest.raises(SecretMoved, match="current already"):
            kept.promote(T, "key", by="ann", version=1)
        with pytest.raises(NotFound):
            kept.promote(T, "key", by="ann", version=7)

    def test_is_not_promoted_over_another_version_than_was_meant(self, kept):
        kept.put(T, "key", ONE, by="ann")
        kept.put(T, "key", TWO, by="ann")
        kept.rotate(T, "key", THREE, by="ann")
        with pytest.raises(SecretMoved, match="Version 2 of the secret key is current, and not 1"):
            kept.promote(T, "key", by="ann", over=1)
        assert kept.promote(T, "key", by="ann", over=2).version == 3

    def test_that_is_removed_is_gone_with_all_its_versions(self, kept):
        kept.put(T, "key", ONE, by="ann")
        kept.rotate(T, "key", TWO, by="ann")
        assert [v.version for v in kept.remove(T, "key", by="ann")] == [1, 2]
        for ask in (kept.get, kept.versions):
            with pytest.raises(NotFound, match="There is no secret key"):
                ask(T, "key")
        assert list(kept.versions(T)) == []

    def test_never_uses_a_number_twice(self, kept):
        kept.put(T, "key", ONE, by="ann")
        kept.rotate(T, "key", TWO, by="ann")
        kept.remove(T, "key", 2, by="ann")
        assert kept.rotate(T, "key", THREE, by="ann").version == 3
        kept.remove(T, "key", by="ann")
        assert kept.put(T, "key", ONE, by="ann", new=True).version == 4

    def test_loses_any_version_but_the_current_one(self, kept):
        kept.put(T, "key", ONE, by="ann")
        kept.put(T, "key", TWO, by="ann")
        with pytest.raises(SecretMoved, match="is current"):
            kept.remove(T, "key", 2, by="ann")
        kept.remove(T, "key", 1, by="ann")
        assert states(kept) == {2: "current"}
        with pytest.raises(NotFound):
            kept.get(T, "key", 1)

    def test_that_is_not_there_can_be_neither_read_nor_changed(self, kept):
        for ask in (
            lambda: kept.get(T, "key"),
            lambda: kept.versions(T, "key"),
            lambda: kept.rotate(T, "key", ONE, by="ann"),
            lambda: kept.promote(T, "key", by="ann"),
            lambda: kept.remove(T, "key", by="ann"),
        ):
            with pytest.raises(NotFound):
                ask()
        assert kept.put(T, "key", ONE, by="ann").version == 1

    def test_of_another_tenant_is_another(self, kept):
        kept.put(T, "key", ONE, by="ann")
        kept.put("../" + T, "key", TWO, by="bob")
        kept.put("", "key", THREE, by="bob")
        assert [kept.get(t, "key").value for t in (T, "../" + T, "")] == [ONE, TWO, THREE]
        with pytest.raises(NotFound):
            kept.get("other", "key")
        kept.remove("../" + T, "key", by="bob")
        assert [(v.tenant, v.name) for v in kept.versions(T)] == [(T, "key")]

    def test_is_listed_by_name(self, kept):
        for name in ("b", "a.b", "B", "a"):
            kept.put(T, name, ONE, by="ann")
        kept.rotate(T, "a", TWO, by="ann")
        listed = [(v.name, v.version) for v in kept.versions(T)]
        assert listed == [("B", 1), ("a", 1), ("a", 2), ("a.b", 1), ("b", 1)]

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a/b", "../x", "a b", "ä", "-x", "a" * 65, "a\n", "a%2Fb"]
    )
    def test_has_a_plain_name(self, kept, name):
        with pytest.raises(InvalidSecret):
            kept.put(T, name, ONE, by="ann")
        with pytest.raises((NotFound, Invalid)):
            kept.get(T, name)

    @pytest.mark.parametrize("value", ["", "short", "nul \x00 inside", "half \ud800 here", "x" * 65_537])
    def test_that_could_not_be_used_is_refused_without_being_repeated(self, kept, value):
        with pytest.raises(InvalidSecret) as caught:
            kept.put(T, "key", value, by="ann")
        assert not value or value not in str(caught.value)
        with pytest.raises(NotFound):
            kept.get(T, "key")

    def test_is_kept_out_of_the_log_of_whoever_wrote_or_read_it(self, kept):
        for number, write in enumerate((kept.put, kept.rotate)):
            write(T, "key", f"a value that was written {number}", by="ann")
            assert redacted(f"a value that was written {number}") == GONE
        telemetry._concealed.clear()
        kept.get(T, "key")
        assert redacted("a value that was written 0") == GONE

    def test_does_not_show_itself(self, kept):
        kept.put(T, "key", ONE, by="ann")
        shown = f"{kept.get(T, 'key')!r} {kept.versions(T)!r} {kept!r} {vars(kept)!r}"
        assert ONE not in shown
        assert MASTER.hex() not in shown
        assert repr(MASTER) not in shown


def race(asks):
    """Ask all at once, each in a thread of its own; what came of each."""
    gate, outcomes = threading.Barrier(len(asks)), []

    def run(ask):
        gate.wait()
        try:
            outcomes.append(ask().version)
        except SecretMoved:
            outcomes.append("moved")

    threads = [threading.Thread(target=run, args=(ask,)) for ask in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


class TestOfSeveralAtOnce:
    @pytest.fixture(params=[POSTGRES, "kv2"])
    def kept(self, request, keeper):
        return keeper(request.param)  # the twin in memory serves one thread

    def test_who_promote_one_succeeds(self, kept):
        kept.put(T, "key", ONE, by="ann")
        kept.rotate(T, "key", TWO, by="ann")
        outcomes = race([lambda: kept.promote(T, "key", by="ann", version=2)] * 6)
        assert sorted(map(str, outcomes)) == ["2", *["moved"] * 5]
        assert states(kept) == {1: "previous", 2: "current"}

    def test_who_rotate_one_succeeds(self, kept):
        kept.put(T, "key", ONE, by="ann")
        outcomes = race([lambda: kept.rotate(T, "key", TWO, by="ann")] * 4)
        assert outcomes.count("moved") == 3
        assert sorted(states(kept).values()) == ["current", "pending"]

    def test_who_make_a_secret_one_succeeds(self, kept):
        outcomes = race([lambda: kept.put(T, "key", ONE, by="ann", new=True)] * 4)
        assert outcomes.count("moved") == 3
        assert list(states(kept).values()) == ["current"]

    def test_who_put_all_do_and_one_is_current(self, kept):
        kept.put(T, "key", ONE, by="ann")
        values = [f"a value of thread {n}" for n in range(4)]
        outcomes = race([lambda value=value: kept.put(T, "key", value, by="ann") for value in values])
        assert "moved" not in outcomes
        assert sorted(states(kept).values()) == ["current", *["previous"] * 4]
        assert kept.get(T, "key").value in values


@pytest.mark.postgres
class TestInPostgres:
    @pytest.fixture
    def keys(self):
        return [MASTER]

    @pytest.fixture
    def kept(self, pg_store, keys):
        return SealedSecrets(pg_store, MasterKeys(lambda: list(keys)))

    @staticmethod
    def change(dsn, statement, *values):
        with psycopg.connect(dsn) as connection:
            connection.execute(statement, values)

    def test_no_row_holds_a_value_or_a_key(self, kept, dsn):
        kept.put(T, "key", ONE, by="ann")
        with psycopg.connect(dsn) as connection:
            rows = []
            for table in ("secret", "secret_version", "data_key"):
                rows += connection.execute(
                    sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))
                ).fetchall()
        raw = b"".join(
            bytes(c) if isinstance(c, bytes | memoryview) else str(c).encode() for r in rows for c in r
        )
        assert ONE.encode() not in raw
        assert MASTER not in raw

    def test_the_same_value_is_never_the_same_ciphertext(self, kept, dsn):
        kept.put(T, "key", ONE, by="ann")
        kept.put(T, "key", ONE, by="ann")
        with psycopg.connect(dsn) as connection:
            sealed = [bytes(r[0]) for r in connection.execute("SELECT sealed FROM secret_version")]
        assert len(set(sealed)) == 2

    @pytest.mark.parametrize("moved", ["tenant", "name", "version"])
    def test_a_ciphertext_that_was_moved_does_not_open(self, kept, dsn, moved):
        kept.put(T, "key", ONE, by="ann")
        kept.put(T, "other", TWO, by="ann")
        kept.put("evil", "key", THREE, by="eve")
        kept.put(T, "key", TWO, by="ann")
        target = {"tenant": ("evil", "key", 1), "name": (T, "other", 1), "version": (T, "key", 2)}[moved]
        if moved == "tenant":  # with the key that it was sealed with: even then
            self.change(dsn, "DELETE FROM data_key WHERE tenant = 'evil'")
            self.change(
                dsn,
                "INSERT INTO data_key SELECT 'evil', wrapped, master, created_at FROM data_key WHERE tenant = %s",
                T,
            )
        self.change(
            dsn,
            "UPDATE secret_version SET sealed = (SELECT sealed FROM secret_version "
            "WHERE tenant = %s AND name = 'key' AND version = 1) WHERE tenant = %s AND name = %s AND version = %s",
            T,
            *target,
        )
        with pytest.raises(SecretDamaged, match="was altered"):
            kept.get(*target)

    def test_a_ciphertext_is_bound_to_its_tenant_besides_its_key(self, pg_store, dsn):
        class OneKey(MasterKeys):
            """Wraps all tenants' keys alike, so that only what is bound in with a value tells tenants apart."""

            def wrap(self, tenant, data_key):
                return super().wrap(tenant, b"k" * 32)

        kept = SealedSecrets(pg_store, OneKey(lambda: [MASTER]))
        kept.put(T, "key", ONE, by="ann")
        kept.put("evil", "key", TWO, by="eve")
        self.change(
            dsn,
            "UPDATE secret_version SET sealed = (SELECT sealed FROM secret_version WHERE tenant = %s) "
            "WHERE tenant = 'evil'",
            T,
        )
        with pytest.raises(SecretDamaged, match="was altered"):
            kept.get("evil", "key")

    @pytest.mark.parametrize("cut", [b"", b"short", b"x" * 40])
    def test_what_was_altered_does_not_open_and_says_so(self, kept, dsn, cut):
        kept.put(T, "key", ONE, by="ann")
        self.change(dsn, "UPDATE secret_version SET sealed = %s", cut)
        with pytest.raises(SecretDamaged, match="put it anew"):
            kept.get(T, "key")

    def test_an_altered_or_lost_data_key_is_named(self, kept, dsn):
        kept.put(T, "key", ONE, by="ann")
        self.change(dsn, "UPDATE data_key SET wrapped = %s", b"x" * 60)
        with pytest.raises(SecretDamaged, match="data key of tenant acme was altered"):
            kept.get(T, "key")
        self.change(dsn, "DELETE FROM data_key")
        with pytest.raises(SecretDamaged, match="no data key"):
            kept.get(T, "key")

    def test_another_master_key_opens_nothing_and_is_named(self, kept, pg_store):
        kept.put(T, "key", ONE, by="ann")
        stranger = SealedSecrets(pg_store, MasterKeys(lambda: [b"n" * 32]))
        with pytest.raises(SecretDamaged, match=key_id(MASTER)):
            stranger.get(T, "key")

    def test_a_new_master_key_wraps_the_data_keys_and_leaves_the_values(self, kept, keys, dsn, pg_store):
        for tenant in (T, "other"):
            kept.put(tenant, "key", ONE, by="ann")
        with psycopg.connect(dsn) as connection:
            before = connection.execute("SELECT sealed FROM secret_version ORDER BY tenant").fetchall()
        keys.insert(0, b"n" * 32)

        assert kept.rewrap() == 2
        assert kept.rewrap() == 0

        with psycopg.connect(dsn) as connection:
            assert (
                connection.execute("SELECT sealed FROM secret_version ORDER BY tenant").fetchall() == before
            )
        alone = SealedSecrets(pg_store, MasterKeys(lambda: [b"n" * 32]))
        assert [alone.get(t, "key").value for t in (T, "other")] == [ONE, ONE]

    def test_a_process_that_read_the_keys_before_reads_them_again(self, kept, keys, pg_store):
        elder = SealedSecrets(pg_store, MasterKeys(lambda: list(keys)))
        elder.put(T, "key", ONE, by="ann")
        keys.insert(0, b"n" * 32)
        kept.rewrap()
        del keys[1]
        assert elder.get(T, "key").value == ONE

    def test_a_master_key_of_the_wrong_length_is_refused(self, pg_store):
        with pytest.raises(Misconfigured, match="master key"):
            SealedSecrets(pg_store, MasterKeys(lambda: [b"short"])).put(T, "key", ONE, by="ann")

    def test_the_table_allows_no_second_current_or_pending_version(self, kept, dsn):
        kept.put(T, "key", ONE, by="ann")
        kept.put(T, "key", TWO, by="ann")
        kept.rotate(T, "key", THREE, by="ann")
        for state in ("current", "pending"):
            with pytest.raises(psycopg.errors.UniqueViolation):
                self.change(dsn, "UPDATE secret_version SET state = %s WHERE version = 1", state)

    def test_a_change_that_cannot_be_recorded_is_not_made(self, kept, pg_store):
        kept.put(T, "key", ONE, by="ann")
        kept.rotate(T, "key", TWO, by="ann")
        recorded = []

        def refuse(_, change, version, by):
            recorded.append((change, version.version, by))
            raise ConnectionError("the audit is full")

        strict = SealedSecrets(pg_store, MasterKeys(lambda: [MASTER]), record=refuse)
        for change in (
            lambda: strict.put(T, "key", THREE, by="bob"),
            lambda: strict.put(T, "other", THREE, by="bob"),
            lambda: strict.promote(T, "key", by="bob"),
            lambda: strict.remove(T, "key", by="bob"),
        ):
            with pytest.raises(ConnectionError):
                change()
        kept.remove(T, "key", 2, by="ann")
        with pytest.raises(ConnectionError):
            strict.rotate(T, "key", THREE, by="bob")
        assert states(kept) == {1: "current"}
        assert kept.get(T, "key").value == ONE
        assert {v.name for v in kept.versions(T)} == {"key"}
        assert [r[0] for r in recorded] == ["put", "put", "promoted", "removed", "rotated"]

    def test_a_replica_that_starts_later_reads_what_another_wrote(self, kept, dsn):
        kept.put(T, "key", ONE, by="ann")
        with closing(PgStore(dsn, size=2)) as store:
            assert SealedSecrets(store, MasterKeys(lambda: [MASTER])).get(T, "key").value == ONE


def killed(*_):
    raise KeyboardInterrupt


class TestTheAudit:
    """Of a tenant whose secrets change, by what opens the product."""

    CHANGES = ("put", "rotated", "promoted", "removed")

    def changed(self, folder, **changed):
        """Change a secret in every way; the records of it."""
        chosen = settings.load(environment={}, data_dir=str(folder), **changed)
        with wiring.core(chosen) as core:
            core.secrets.put(T, "key", ONE, by="ann")
            core.secrets.rotate(T, "key", TWO, by="bob")
            core.secrets.promote(T, "key", by="eve")
            core.secrets.remove(T, "key", 1, by="ann")
            with core.store.transaction() as tx:
                found = tx.audit(ledger.ledger_of(T))
        assert not any(value.encode() in r.body for r in found for value in (ONE, TWO))
        return [(r.kind.removeprefix("secret."), ledger.body_of(r)) for r in found]

    def test_says_who_changed_a_secret_and_how(self, dsn, tmp_path):
        told = self.changed(tmp_path, database_url=dsn)
        assert [(change, body["by"], body["version"], body["done"]) for change, body in told] == [
            ("put", "ann", 1, True),
            ("rotated", "bob", 2, True),
            ("promoted", "eve", 2, True),
            ("removed", "ann", 1, True),
        ]

    def test_says_before_and_after_what_is_changed_in_vault(self, dsn, tmp_path, vault):
        token = tmp_path / "token"
        token.write_text(TOKEN)
        told = self.changed(
            tmp_path, database_url=dsn, vault_url=vault.url, vault_token_file=str(token), vault_timeout_s=30
        )
        assert [(change, body["done"]) for change, body in told] == [
            (change, done) for change in self.CHANGES for done in (False, True)
        ]

    def test_that_takes_no_record_keeps_vault_from_being_changed(self, vault):
        with closing(KvSecrets(vault.url, lambda: TOKEN, timeout_s=30.0)) as kept:
            kept.put(T, "key", ONE, by="ann")
            kept.rotate(T, "key", TWO, by="ann")

        def refuse(change, version, by, *, done):
            raise ConnectionError("the audit is full")

        with closing(KvSecrets(vault.url, lambda: TOKEN, timeout_s=30.0, record=refuse)) as strict:
            for change in (
                lambda: strict.put(T, "key", THREE, by="bob"),
                lambda: strict.put(T, "other", THREE, by="bob"),
                lambda: strict.promote(T, "key", by="bob"),
                lambda: strict.remove(T, "key", by="bob"),
            ):
                with pytest.raises(ConnectionError):
                    change()
            assert states(strict) == {1: "current", 2: "pending"}
            assert strict.get(T, "key").value == ONE
        assert set(vault.entries) == {f"orchestrator/{T}/key/{part}" for part in ("value", "states")}


class TestInVault:
    """Against a server that speaks the protocol; it is no real Vault."""

    @pytest.fixture
    def kept(self, vault):
        with closing(KvSecrets(vault.url, lambda: TOKEN, timeout_s=30.0)) as made:
            yield made

    def test_lies_under_its_own_path_and_keeps_more_versions_than_ten(self, kept, vault):
        for number in range(12):
            kept.put(T, "key", f"value number {number}", by="ann")
        assert set(vault.entries) == {f"orchestrator/{T}/key/{part}" for part in ("value", "states")}
        assert kept.get(T, "key", 1).value == "value number 0"
        kept.promote(T, "key", by="ann", version=1)
        assert kept.get(T, "key").value == "value number 0"

    @pytest.mark.parametrize("value", ["", "short", "nul \x00 inside it", 7, None])
    def test_a_value_that_somebody_else_wrote_and_cannot_be_used_is_refused(self, kept, vault, value):
        kept.put(T, "key", ONE, by="ann")
        vault.entries[f"orchestrator/{T}/key/value"]["versions"][1] = {"value": value}
        with pytest.raises(SecretDamaged):
            kept.get(T, "key")

    def test_a_value_is_destroyed_when_it_is_removed(self, kept, vault):
        kept.put(T, "key", ONE, by="ann")
        kept.remove(T, "key", by="ann")
        assert ONE not in str(vault.entries)

    @pytest.mark.parametrize(
        ("fault", "told"),
        [
            ("sealed", "sealed or not ready"),
            ("redirecting", "not followed"),
            ("slow", "does not answer"),
            ("dripping", "did not finish"),
            ("endless", "more than a secret can be"),
            ("nonsense", "does not speak"),
            ("empty", "does not speak"),
            ("broken", "status 500"),
        ],
    )
    def test_a_vault_that_fails_is_unavailable_and_says_how(self, kept, vault, fault, told):
        kept.put(T, "key", ONE, by="ann")
        vault.fault = fault
        patience = 0.4 if fault in {"slow", "dripping"} else 30.0
        with (
            closing(KvSecrets(vault.url, lambda: TOKEN, timeout_s=patience)) as asking,
            pytest.raises(SecretsUnavailable, match=told) as caught,
        ):
            asking.get(T, "key")
        assert caught.value.__cause__ is None
        assert ONE not in str(caught.value)
        vault.fault = ""
        assert kept.get(T, "key").value == ONE

    def test_a_token_that_is_refused_is_said_and_a_new_one_is_used_at_once(self, vault):
        tokens = ["hvs.an-old-token-of-mine"]
        with closing(KvSecrets(vault.url, lambda: tokens[0], timeout_s=30.0)) as kept:
            with pytest.raises(SecretsUnavailable, match="403") as caught:
                kept.put(T, "key", ONE, by="ann")
            assert tokens[0] not in str(caught.value)
            tokens[0] = TOKEN
            assert kept.put(T, "key", ONE, by="ann").version == 1

    def test_a_mount_that_is_not_there_is_said(self, vault):
        with (
            closing(KvSecrets(vault.url, lambda: TOKEN, mount="elsewhere", timeout_s=30.0)) as kept,
            pytest.raises(SecretsUnavailable, match="vault_mount"),
        ):
            kept.put(T, "key", ONE, by="ann")

    def test_nobody_at_the_address_is_unavailable(self):
        with (
            closing(KvSecrets("http://127.0.0.1:9", lambda: TOKEN)) as kept,
            pytest.raises(SecretsUnavailable),
        ):
            kept.get(T, "key")

    def test_a_proxy_of_the_environment_is_not_used(self, vault, monkeypatch):
        for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        with closing(KvSecrets(vault.url, lambda: TOKEN, timeout_s=30.0)) as kept:
            assert kept.put(T, "key", ONE, by="ann").version == 1

    def test_who_was_not_first_decides_again_on_what_is_there(self, kept, vault):
        kept.put(T, "key", ONE, by="ann")
        kept.rotate(T, "key", TWO, by="ann")
        turns = count()

        def first():
            if next(turns) == 0:
                with closing(KvSecrets(vault.url, lambda: TOKEN, timeout_s=30.0)) as other:
                    other.promote(T, "key", by="bob", version=2)

        vault.before_states = first
        with pytest.raises(SecretMoved, match="current already"):
            kept.promote(T, "key", by="ann", version=2)
        assert states(kept) == {1: "previous", 2: "current"}

    def test_a_value_whose_state_was_not_written_is_nobody_s(self, kept, vault):
        kept.put(T, "key", ONE, by="ann")
        with closing(KvSecrets(vault.url, lambda: TOKEN, timeout_s=30.0)) as dying:
            dying._write_states = killed
            with pytest.raises(KeyboardInterrupt):
                dying.put(T, "key", TWO, by="ann")
        assert states(kept) == {1: "current"}
        assert kept.get(T, "key").value == ONE
        with pytest.raises(NotFound):
            kept.get(T, "key", 2)
        assert kept.put(T, "key", THREE, by="ann").version == 3
