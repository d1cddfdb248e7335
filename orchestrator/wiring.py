"""Opens what remembers and decides: the store, the key, the conductor. Runs nothing; `workers.wiring` adds that.

Nobody below knows that there is an environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import random
import secrets
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

from orchestrator import chains, database, prompts
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.errors import Misconfigured, SecretsUnavailable
from orchestrator.domain.retry import Backoff
from orchestrator.domain.secret import SecretVersion
from orchestrator.keyring import KeyRing
from orchestrator.locks import NoLocks, RedisLocks
from orchestrator.ports import Locks, SecretStore, Tx
from orchestrator.rates import LocalRates, Rates, RedisRates
from orchestrator.settings import Settings
from orchestrator.store import PgStore
from orchestrator.telemetry import conceal, log
from orchestrator.vault import ledger, signing
from orchestrator.vault.chain import Sealer
from orchestrator.vault.ledger import Pen
from orchestrator.vault.notary import Notary
from orchestrator.vault.outside import Outside
from orchestrator.vault.secrets import MasterKeys, SealedSecrets
from orchestrator.vault.signing import Ring, Signer

if TYPE_CHECKING:
    from orchestrator.notifier import Notifier


@dataclass(frozen=True, slots=True)
class Core:
    """What remembers and decides: enough to read, to submit and to decide; runs nothing."""

    settings: Settings
    dsn: str
    store: PgStore
    sealer: Sealer
    conductor: Conductor
    locks: Locks
    secrets: SecretStore

    @property
    def keyring(self) -> KeyRing:
        """The API keys and sessions of this database."""
        return KeyRing(self.store, pepper(self.settings), self.sealer)


@contextmanager
def core(settings: Settings) -> Iterator[Core]:
    """Open the store: the configured Postgres, or the embedded one, brought up and migrated."""
    with _database(settings) as dsn:
        database.migrate(dsn)
        store = PgStore(dsn, size=settings.concurrency + 6)
        try:
            prompts.book(settings.prompts)  # refused now, or not at all
            key = audit_key(settings)
            sealer = Sealer(key)
            rules = Rules(
                lease=timedelta(seconds=settings.lease_s),
                max_attempts=settings.max_attempts,
                backoff=Backoff(base_s=settings.backoff_base_s, cap_s=settings.backoff_cap_s),
                unheard_after=timedelta(seconds=settings.unheard_after_s),
                approval_ttl=timedelta(days=settings.approval_ttl_days),
                chains=chains.load(timedelta(days=settings.approval_ttl_days)),
                categories=chains.categories(),
                notify=bool(settings.webhook_url),
            )
            conductor = Conductor(
                store, sealer, new_id=lambda: str(uuid.uuid4()), draw=random.random, rules=rules
            )
            with _locks(settings, key) as locks, _secrets(settings, store, sealer) as kept:
                yield Core(settings, dsn, store, sealer, conductor, locks, kept)
        finally:
            store.close()


def notifier(opened: Core) -> Notifier | None:
    """Return what tells the webhook of the settings, or `None` where there is none."""
    settings = opened.settings
    if not settings.webhook_url:
        return None
    # it measures what it does, and what measures takes a while to import
    from orchestrator.notifier import Notifier, Webhook, read_secret

    secret = read_secret(settings.webhook_secret_file)
    webhook = Webhook(settings.webhook_url, secret, settings.webhook_timeout_s)
    return Notifier(opened.store, webhook, attempts=settings.webhook_attempts, draw=random.random)


def forgetter(opened: Core) -> Callable[[], int]:
    """Return what removes a batch of the conversations that were kept as long as the settings say."""
    kept = timedelta(days=opened.settings.conversations_kept_days)
    if not kept:
        return lambda: 0
    # conversations take a while to import, which whoever sweeps nothing should not wait for
    from orchestrator.dialogue import forget_silent

    return lambda: forget_silent(opened.store, opened.sealer, kept)


@contextmanager
def _locks(settings: Settings, key: bytes) -> Iterator[Locks]:
    if not settings.redis_url:
        yield NoLocks()
        return
    with closing(RedisLocks(settings.redis_url, space=_space(key))) as locks:
        yield locks


def _space(key: bytes) -> str:
    # two fleets may share a Redis, and must not take each other's locks; those of one fleet share this key
    return hmac.new(key, b"locks", hashlib.sha256).hexdigest()[:12]


@contextmanager
def rates(settings: Settings) -> Iterator[Rates]:
    """Open what counts callers' requests: the Redis of these settings, or this process where there is none."""
    if not settings.redis_url:
        yield LocalRates(replicas=settings.api_replicas)
        return
    space = _space(audit_key(settings))
    with closing(RedisRates(settings.redis_url, space=space, replicas=settings.api_replicas)) as counted:
        yield counted


@contextmanager
def _secrets(settings: Settings, store: PgStore, sealer: Sealer) -> Iterator[SecretStore]:
    if not settings.vault_url:

        def record(tx: Tx, change: str, version: SecretVersion, by: str) -> None:
            ledger.note_secret(cast("Pen", tx), sealer, change, version, by)

        yield SealedSecrets(store, MasterKeys(lambda: master_keys(settings)), record=record)
        return

    def noted(change: str, version: SecretVersion, by: str, *, done: bool) -> None:
        with store.transaction() as tx:
            ledger.note_secret(tx, sealer, change, version, by, done=done)

    # takes a while to import, and most have no Vault
    from orchestrator.vault.kv2 import KvSecrets

    with closing(
        KvSecrets(
            settings.vault_url,
            lambda: _vault_token(settings),
            mount=settings.vault_mount,
            prefix=settings.vault_prefix,
            timeout_s=settings.vault_timeout_s,
            record=noted,
        )
    ) as vault:
        yield vault


def _vault_token(settings: Settings) -> str:
    path = Path(settings.vault_token_file).expanduser()
    try:
        token = path.read_text(encoding="ascii").strip() if settings.vault_token_file else ""
    except (OSError, ValueError) as error:
        raise SecretsUnavailable(
            f"The token of Vault in {path} cannot be read ({type(error).__name__})."
        ) from None
    if not token:
        raise SecretsUnavailable(
            "There is no token for Vault; vault_token_file must name a file that holds one."
        )
    conceal([token])
    return token


def secrets_key_file(settings: Settings) -> Path:
    """Return where the master keys of the secrets are, unless the environment holds them."""
    return Path(settings.secrets_key_file or settings.data / "keys" / "secrets.key").expanduser()


def master_keys(settings: Settings) -> Sequence[bytes]:
    """Return the master keys of the secrets, the newest first; the first one is made on first use.

    Every process that reads secrets must be given the same ones.
    """
    given = os.environ.get(settings.secrets_key_env, "") if settings.secrets_key_env else ""
    path = secrets_key_file(settings)
    where = settings.secrets_key_env if given else str(path)
    if not given and not path.exists():
        _make_key(path)
    try:
        lines = (given or path.read_text(encoding="ascii")).split()
        keys = [bytes.fromhex(line) for line in lines]
    except (OSError, ValueError):
        raise Misconfigured(f"The master key of the secrets in {where} cannot be read.") from None
    if not keys or any(len(key) != 32 for key in keys):
        raise Misconfigured(f"The master key of the secrets in {where} is damaged; restore it from a backup.")
    conceal(lines)
    return keys


def add_master_key(settings: Settings) -> None:
    """Put a new master key on top of those in the file, all of which it keeps; the file is replaced as a whole."""
    if os.environ.get(settings.secrets_key_env, ""):
        raise Misconfigured(
            f"The master keys are in {settings.secrets_key_env}; put the new one on top there, "
            "and run `orchestrator secrets rekey` without --new."
        )
    kept = master_keys(settings)
    path = secrets_key_file(settings)
    lines = [secrets.token_hex(32), *(key.hex() for key in kept)]
    _written(path, "\n".join(lines) + "\n").replace(path)


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    if settings.database_url:
        yield settings.database_url
        return
    embedded = database.Embedded(settings.data)
    log.info("database.started", pid=embedded.pid)
    try:
        yield embedded.dsn
    finally:
        embedded.close()


def audit_key(settings: Settings) -> bytes:
    """Return the key that seals the audit, made on first use; only its owner may read the file.

    Every process that writes to one database must be given the same file.
    """
    path = Path(settings.audit_key_file or settings.data / "keys" / "audit.key").expanduser()
    return _secret_in(path, "audit key")


def pepper(settings: Settings) -> bytes:
    """Return the secret under which API keys are kept, made on first use; only its owner may read the file.

    Every process that serves one database must be given the same file. With another, no key works.
    """
    path = Path(settings.pepper_file or settings.data / "keys" / "pepper.key").expanduser()
    return _secret_in(path, "pepper of the API keys")


def _secret_in(path: Path, what: str) -> bytes:
    if not path.exists():
        _make_key(path)
    return _key_in(path, what)


def _key_in(path: Path, what: str) -> bytes:
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise Misconfigured(f"The {what} in {path} cannot be read; restore it from a backup.") from error
    if len(key) != 32:
        raise Misconfigured(f"The {what} in {path} is damaged; restore it from a backup.")
    return key


def signer(settings: Settings) -> tuple[Signer, Ring]:
    """Return what signs checkpoints, and the public keys of all that ever did; made on first use.

    Every process that makes checkpoints for one database must be given the same file.
    """
    path = _signing_key(settings)
    public = public_keys(settings)
    if not path.exists():
        _make_key(path)
    found = Signer(_key_in(path, "checkpoint key"))
    try:
        if not public.exists():
            _append(public, signing.line(found.public, by=None, since=_today()))
        ring = signing.read(public.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(f"The public keys in {public} cannot be read: {error.strerror}.") from error
    if found.key_id not in ring.keys:
        raise Misconfigured(
            f"The checkpoint key in {path} is not among the public keys in {public}; restore both from one backup."
        )
    return found, ring


def rotate_signer(settings: Settings) -> Signer:
    """Let a new key sign from now on, endorsed by the one before; what older keys signed goes on verifying."""
    old, _ = signer(settings)
    path = _signing_key(settings)
    fresh = path.with_suffix(".next")
    fresh.unlink(missing_ok=True)
    _make_key(fresh)
    new = Signer(_key_in(fresh, "checkpoint key"))
    # the public key first: a crash in between leaves a key that nobody uses, and nothing that cannot be verified
    _append(public_keys(settings), signing.line(new.public, by=old, since=_today()))
    fresh.replace(path)
    return new


def notary(settings: Settings, store: PgStore) -> Notary:
    """Return what makes checkpoints of the audit."""
    return Notary(store, *signer(settings), outside(settings))


def outside(settings: Settings) -> Outside:
    """Return the file of checkpoints outside the database."""
    return Outside(Path(settings.checkpoint_file or settings.data / "checkpoints.jsonl").expanduser())


def public_keys(settings: Settings) -> Path:
    """Return where the public keys are."""
    return _signing_key(settings).with_suffix(".public")


def _signing_key(settings: Settings) -> Path:
    return Path(settings.checkpoint_key_file or settings.data / "keys" / "checkpoint.key").expanduser()


def _today() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.stat().st_size == 0 or '"endorsed_by":""' not in line:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _make_key(path: Path) -> None:
    fresh = _written(path, secrets.token_hex(32))
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass  # another process was first
    finally:
        fresh.unlink()


def _written(path: Path, text: str) -> Path:
    """Return a file beside this one that only its owner may read, with this text, on the disk."""
    # written whole under another name first: a process that is killed here leaves no half of a key
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return fresh
