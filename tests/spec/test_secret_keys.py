"""Where the master keys of the secrets come from: made once, for their owner alone, and added to."""

import os
import stat
import threading

import pytest

from orchestrator import settings, telemetry, wiring
from orchestrator.domain.errors import Misconfigured, SecretsUnavailable
from orchestrator.telemetry import GONE, redacted
from tests.vault_server import TOKEN, VaultServer

KEY = "ab" * 32


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    monkeypatch.delenv("ORCHESTRATOR_SECRETS_KEY", raising=False)
    yield settings.load(environment={}, data_dir=str(tmp_path))
    telemetry._concealed.clear()


def test_a_key_is_made_on_first_use_for_its_owner_alone(chosen):
    (key,) = wiring.master_keys(chosen)
    assert len(key) == 32
    assert wiring.master_keys(chosen) == [key]
    path = wiring.secrets_key_file(chosen)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["secrets.key"]


def test_of_several_processes_one_makes_the_key(chosen):
    made = []
    threads = [threading.Thread(target=lambda: made.append(wiring.master_keys(chosen)[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1


def test_a_new_key_stands_above_those_that_were_there(chosen):
    before = wiring.master_keys(chosen)
    wiring.add_master_key(chosen)
    after = wiring.master_keys(chosen)
    assert (len(after), after[1:]) == (2, before)
    assert stat.S_IMODE(wiring.secrets_key_file(chosen).stat().st_mode) == 0o600


def test_the_environment_may_hold_them_instead(chosen, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_SECRETS_KEY", f"{KEY}\n{'cd' * 32}\n")
    assert wiring.master_keys(chosen) == [bytes.fromhex(KEY), b"\xcd" * 32]
    assert not wiring.secrets_key_file(chosen).exists()
    with pytest.raises(Misconfigured, match="ORCHESTRATOR_SECRETS_KEY"):
        wiring.add_master_key(chosen)


@pytest.mark.parametrize("text", ["", "zz", "abcd", f"{KEY}\nabcd", "ä"])
def test_a_damaged_key_is_said_and_not_repeated(chosen, text):
    path = wiring.secrets_key_file(chosen)
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(Misconfigured, match="master key") as caught:
        wiring.master_keys(chosen)
    assert KEY not in str(caught.value)


def test_a_key_is_kept_out_of_the_log(chosen):
    wiring.master_keys(chosen)
    said = wiring.secrets_key_file(chosen).read_text().strip()
    assert redacted(f"read {said}") == f"read {GONE}"


def test_a_token_of_vault_is_read_anew_and_kept_out_of_the_log(tmp_path):
    path = tmp_path / "token"
    chosen = settings.load(environment={}, data_dir=str(tmp_path), vault_token_file=str(path))
    with pytest.raises(SecretsUnavailable, match=os.fspath(path)):
        wiring._vault_token(chosen)
    path.write_text("a-token-without-a-form\n")
    assert wiring._vault_token(chosen) == "a-token-without-a-form"
    assert redacted("a-token-without-a-form") == GONE
    telemetry._concealed.clear()
    with pytest.raises(SecretsUnavailable, match="vault_token_file"):
        wiring._vault_token(settings.load(environment={}, data_dir=str(tmp_path)))


@pytest.mark.postgres
def test_secrets_are_in_vault_where_its_address_is_set(dsn, tmp_path):
    server = VaultServer()
    (tmp_path / "token").write_text(TOKEN)
    chosen = settings.load(
        environment={},
        data_dir=str(tmp_path),
        database_url=dsn,
        vault_url=server.url,
        vault_prefix="here",
        vault_token_file=str(tmp_path / "token"),
        vault_timeout_s=30,
    )
    try:
        with wiring.core(chosen) as opened:
            opened.secrets.put("default", "key", "a value for Vault", by="ann")
            assert opened.secrets.get("default", "key").value == "a value for Vault"
            with opened.store.transaction() as tx:
                assert list(tx.secret_versions("default")) == []
        assert set(server.entries) == {"here/default/key/value", "here/default/key/states"}
        assert not wiring.secrets_key_file(chosen).exists()
    finally:
        server.close()
        telemetry._concealed.clear()
