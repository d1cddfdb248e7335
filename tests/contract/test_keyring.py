"""API keys and sessions on a real Postgres: who they prove, and what no longer proves anybody."""

import re
from datetime import timedelta

import psycopg
import pytest

from orchestrator import settings, wiring
from orchestrator.domain.errors import Conflict, Invalid, Misconfigured, NotFound, Unavailable
from orchestrator.domain.identity import Principal
from orchestrator.keyring import KeyRing
from orchestrator.store import PgStore
from orchestrator.vault import examine, ledger
from orchestrator.vault.chain import Sealer
from orchestrator.vault.examine import Series
from tests.clock import Clock

pytestmark = pytest.mark.postgres

HOUR = timedelta(hours=1)
SEALER = Sealer(b"a key for tests")
ROLES = ["operator", "auditor"]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(dsn, clock):
    made = PgStore(dsn, size=4, now=clock)
    yield made
    made.close()


@pytest.fixture
def ring(store):
    return KeyRing(store, b"a pepper for tests", SEALER)


def made(ring, **rest):
    return ring.create(**{"name": "ada", "tenant": "acme", "roles": ROLES, "by": "local", **rest})


def changed(token, place):
    """The token with another letter at that place."""
    other = "a" if token[place] != "a" else "b"
    return token[:place] + other + token[place + 1 :]


class TestAKey:
    def test_proves_its_name_tenant_roles_and_scopes(self, ring):
        shown = made(ring, scopes=["plan.*"], lasts=HOUR)

        who = ring.proved(shown.token)

        assert (who.name, who.tenant, who.roles, who.scopes) == (
            "ada",
            "acme",
            frozenset(ROLES),
            ("plan.*",),
        )
        assert (who.kind, who.credential, who.until) == ("key", shown.key.key_id, shown.key.expires_at)

    def test_has_the_form_that_scanners_for_secrets_can_look_for(self, ring):
        assert re.fullmatch(r"orc_test_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", made(ring, environment="test").token)

    def test_is_not_in_the_database_and_not_in_its_own_repr(self, ring, dsn):
        shown = made(ring)
        secret = shown.token[-43:]
        with psycopg.connect(dsn) as connection:
            (row,) = connection.execute("SELECT k::text FROM api_key AS k").fetchone()
        assert secret not in row
        assert secret.encode().hex() not in row
        assert secret not in repr(shown)

    @pytest.mark.parametrize("place", [0, 5, 10, -43, -20, -1])
    def test_with_any_letter_changed_proves_nobody(self, ring, place):
        token = made(ring).token
        assert ring.proved(changed(token, place)) is None

    @pytest.mark.parametrize(
        "token", ["", "orc_", "orc_live_aaaaaaaa_" + "x" * 43, "orc_live_é", "x" * 10_000]
    )
    def test_that_was_never_made_proves_nobody(self, ring, token):
        assert ring.proved(token) is None

    def test_under_another_pepper_proves_nobody(self, ring, store):
        assert KeyRing(store, b"another pepper", SEALER).proved(made(ring).token) is None

    def test_of_one_row_does_not_prove_another_row_s_owner(self, ring):
        first, second = made(ring), made(ring, name="grace")
        mixed = first.token.replace(first.key.key_id, second.key.key_id)
        assert ring.proved(mixed) is None

    def test_ends_when_it_expires(self, ring, clock):
        token = made(ring, lasts=HOUR).token
        clock.advance(minutes=59)
        assert ring.proved(token)
        clock.advance(minutes=1)
        assert ring.proved(token) is None

    def test_that_is_revoked_proves_nobody_and_is_revoked_once(self, ring):
        shown = made(ring)

        done = ring.revoke(shown.key.key_id, by="eve")

        assert (done.revoked_by, done.revoked_at is None) == ("eve", False)
        assert ring.proved(shown.token) is None
        with pytest.raises(Conflict, match="revoked already"):
            ring.revoke(shown.key.key_id, by="eve")

    def test_remembers_when_it_was_last_used_once_a_minute(self, ring, clock):
        shown = made(ring)
        ring.proved(shown.token)
        first = clock()
        clock.advance(seconds=59)
        ring.proved(shown.token)
        assert [key.last_used_at for key in ring.listed()] == [first]
        clock.advance(seconds=2)
        ring.proved(shown.token)
        assert [key.last_used_at for key in ring.listed()] == [clock()]

    def test_still_proves_its_owner_to_a_database_that_takes_no_writes(self, ring, dsn):
        token = made(ring).token
        with psycopg.connect(dsn, autocommit=True) as connection:
            name = connection.info.dbname
            connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        reading = PgStore(dsn, size=2)
        try:
            assert KeyRing(reading, b"a pepper for tests", SEALER).proved(token).name == "ada"
        finally:
            reading.close()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"name": ""},
            {"name": "a\nb"},
            {"tenant": "a b"},
            {"tenant": ""},
            {"roles": ["Operator"]},
            {"scopes": []},
            {"scopes": ["plan"]},
            {"scopes": ["plan.cancel; --"]},
            {"lasts": timedelta(0)},
            {"environment": "LIVE"},
        ],
        ids=str,
    )
    def test_that_could_not_be_told_from_another_is_not_made(self, ring, wrong):
        with pytest.raises(Invalid):
            made(ring, **wrong)
        assert ring.listed() == []


class TestRotating:
    def test_gives_a_key_that_may_do_the_same_and_expires_when_the_old_one_would(self, ring):
        old = made(ring, scopes=["plan.read"], lasts=HOUR * 48)

        new = ring.rotate(old.key.key_id, overlap=HOUR, by="local")

        assert ring.proved(new.token).scopes == ("plan.read",)
        assert (new.key.name, new.key.tenant, new.key.roles) == ("ada", "acme", old.key.roles)
        assert new.key.expires_at == old.key.expires_at

    def test_lets_both_work_during_the_overlap_and_the_new_one_after(self, ring, clock):
        old = made(ring)
        new = ring.rotate(old.key.key_id, overlap=HOUR, by="local")
        assert ring.proved(old.token)
        assert ring.proved(new.token)
        clock.advance(hours=1)
        assert ring.proved(old.token) is None
        assert ring.proved(new.token)

    def test_with_a_longer_overlap_than_the_key_has_left_adds_nothing_to_it(self, ring, clock):
        old = made(ring, lasts=HOUR)
        ring.rotate(old.key.key_id, overlap=HOUR * 5, by="local")
        clock.advance(hours=1)
        assert ring.proved(old.token) is None

    def test_of_a_key_that_cannot_be_used_is_refused(self, ring, clock):
        revoked, expired = made(ring), made(ring, lasts=HOUR)
        ring.revoke(revoked.key.key_id, by="local")
        clock.advance(hours=2)
        for key in (revoked, expired):
            with pytest.raises(Conflict):
                ring.rotate(key.key.key_id, overlap=HOUR, by="local")
        with pytest.raises(NotFound):
            ring.rotate("aaaaaaaa", overlap=HOUR, by="local")


class TestASession:
    def test_proves_whoever_opened_it_and_nothing_more(self, ring):
        key = made(ring, scopes=["plan.*"])

        token, kept = ring.open(ring.proved(key.token), lasts=HOUR)

        who = ring.proved(token)
        assert (who.name, who.tenant, who.roles, who.scopes) == (
            "ada",
            "acme",
            frozenset(ROLES),
            ("plan.*",),
        )
        assert (who.kind, who.credential) == ("session", kept.session_id)

    def test_ends_by_itself_and_when_it_is_told_to(self, ring, clock):
        who = ring.proved(made(ring).token)
        (short, _), (told, kept) = ring.open(who, lasts=HOUR), ring.open(who, lasts=HOUR * 9)
        clock.advance(hours=1)
        assert ring.proved(short) is None
        assert ring.proved(told)
        assert ring.end(kept.session_id)
        assert ring.proved(told) is None
        assert not ring.end(kept.session_id)

    def test_ends_with_the_key_that_opened_it(self, ring, clock):
        revoked, expiring = made(ring), made(ring, lasts=HOUR)
        first, _ = ring.open(ring.proved(revoked.token), lasts=HOUR * 9)
        second, kept = ring.open(ring.proved(expiring.token), lasts=HOUR * 9)
        assert kept.expires_at == expiring.key.expires_at
        ring.revoke(revoked.key.key_id, by="local")
        clock.advance(hours=1)
        assert [ring.proved(first), ring.proved(second)] == [None, None]

    def test_of_a_rotated_key_ends_with_the_overlap(self, ring, clock):
        old = made(ring)
        token, _ = ring.open(ring.proved(old.token), lasts=HOUR * 9)
        ring.rotate(old.key.key_id, overlap=HOUR, by="local")
        clock.advance(hours=1)
        assert ring.proved(token) is None

    def test_lasts_no_longer_than_the_token_that_was_shown_for_it(self, ring, clock):
        who = Principal("sub", "acme", frozenset(), kind="token", until=clock() + HOUR)
        _, kept = ring.open(who, lasts=HOUR * 9)
        assert kept.expires_at == clock() + HOUR

    def test_is_forgotten_a_day_after_it_expired(self, ring, clock, dsn):
        who = ring.proved(made(ring).token)
        ring.open(who, lasts=HOUR)
        clock.advance(days=2)
        ring.open(who, lasts=HOUR)
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT count(*) FROM session").fetchone() == (1,)


class TestThePepper:
    def test_is_made_once_and_only_its_owner_may_read_it(self, tmp_path):
        chosen = settings.load(environment={}, data_dir=str(tmp_path))
        assert wiring.pepper(chosen) == wiring.pepper(chosen)
        assert wiring.pepper(chosen) != wiring.audit_key(chosen)
        assert (tmp_path / "keys" / "pepper.key").stat().st_mode & 0o777 == 0o600

    def test_that_is_damaged_is_never_replaced(self, tmp_path):
        chosen = settings.load(environment={}, data_dir=str(tmp_path), pepper_file=str(tmp_path / "pepper"))
        (tmp_path / "pepper").write_text("abc", encoding="ascii")
        with pytest.raises(Misconfigured, match="restore it from a backup"):
            wiring.pepper(chosen)


class TestTheAudit:
    """Of the tenant that a key is for."""

    def records(self, store, tenant="acme"):
        with store.transaction() as tx:
            found = tx.audit(ledger.ledger_of(tenant))
        return [(r.kind, ledger.body_of(r)) for r in found]

    def test_says_who_made_turned_over_and_took_back_a_key(self, ring, store):
        first = made(ring, by="root").key
        second = ring.rotate(first.key_id, overlap=HOUR, by="bob").key
        ring.revoke(second.key_id, by="eve")
        made(ring, tenant="globex")

        told = self.records(store)

        assert [(kind, body["resource"], body["by"]) for kind, body in told] == [
            ("key.created", f"key:{first.key_id}", "root"),
            ("key.rotated", f"key:{first.key_id}", "bob"),
            ("key.created", f"key:{second.key_id}", "bob"),
            ("key.revoked", f"key:{second.key_id}", "eve"),
        ]
        assert all(body["roles"] == sorted(ROLES) and body["name"] == "ada" for _, body in told)
        assert [kind for kind, _ in self.records(store, "globex")] == ["key.created"]
        assert not examine.examine(store, SEALER, (Series("nowhere"),)).faults

    def test_holds_no_part_of_a_key(self, ring, store):
        shown = made(ring)
        with store.transaction() as tx:
            (record,) = tx.audit(ledger.ledger_of("acme"))
        assert shown.token[-43:].encode() not in record.body
        assert shown.key.digest.hex().encode() not in record.body

    def test_that_takes_no_record_keeps_a_key_from_being_made_or_taken_back(self, ring, store, dsn):
        key = made(ring).key
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
                " $$BEGIN RAISE disk_full; END$$"
            )
            connection.execute(
                "CREATE TRIGGER full_disk BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION full_disk()"
            )

        for change in (
            lambda: made(ring, name="bob"),
            lambda: ring.rotate(key.key_id, overlap=HOUR, by="bob"),
            lambda: ring.revoke(key.key_id, by="bob"),
        ):
            with pytest.raises((Unavailable, psycopg.Error)):
                change()

        assert [(k.name, k.state(k.created_at)) for k in ring.listed()] == [("ada", "active")]
