"""Opens what remembers and decides: the store, the key, the conductor. Runs nothing; `workers.wiring` adds that.

Nobody below knows that there is an environment.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import random
import secrets
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from orchestrator import chains, database
from orchestrator.conductor import Conductor, Rules
from orchestrator.domain.errors import Misconfigured
from orchestrator.domain.retry import Backoff
from orchestrator.locks import NoLocks, RedisLocks
from orchestrator.notifier import Notifier, Webhook, read_secret
from orchestrator.ports import Locks
from orchestrator.settings import Settings
from orchestrator.store import PgStore
from orchestrator.telemetry import log
from orchestrator.vault.chain import Sealer


@dataclass(frozen=True, slots=True)
class Core:
    """What remembers and decides: enough to read, to submit and to decide; runs nothing."""

    settings: Settings
    dsn: str
    store: PgStore
    sealer: Sealer
    conductor: Conductor
    locks: Locks


@contextmanager
def core(settings: Settings) -> Iterator[Core]:
    """Open the store: the configured Postgres, or the embedded one, brought up and migrated."""
    with _database(settings) as dsn:
        database.migrate(dsn)
        store = PgStore(dsn, size=settings.concurrency + 6)
        try:
            key = audit_key(settings)
            sealer = Sealer(key)
            rules = Rules(
                lease=timedelta(seconds=settings.lease_s),
                max_attempts=settings.max_attempts,
                backoff=Backoff(base_s=settings.backoff_base_s, cap_s=settings.backoff_cap_s),
                unheard_after=timedelta(seconds=settings.unheard_after_s),
                approval_ttl=timedelta(days=settings.approval_ttl_days),
                chains=chains.load(timedelta(days=settings.approval_ttl_days)),
                notify=bool(settings.webhook_url),
            )
            conductor = Conductor(
                store, sealer, new_id=lambda: str(uuid.uuid4()), draw=random.random, rules=rules
            )
            with _locks(settings, key) as locks:
                yield Core(settings, dsn, store, sealer, conductor, locks)
        finally:
            store.close()


def notifier(opened: Core) -> Notifier | None:
    """Return what tells the webhook of the settings, or `None` where there is none."""
    settings = opened.settings
    if not settings.webhook_url:
        return None
    secret = read_secret(settings.webhook_secret_file)
    webhook = Webhook(settings.webhook_url, secret, settings.webhook_timeout_s)
    return Notifier(opened.store, webhook, attempts=settings.webhook_attempts, draw=random.random)


@contextmanager
def _locks(settings: Settings, key: bytes) -> Iterator[Locks]:
    if not settings.redis_url:
        yield NoLocks()
        return
    # two fleets may share a Redis, and must not take each other's locks; those of one fleet share this key
    space = hmac.new(key, b"locks", hashlib.sha256).hexdigest()[:12]
    with closing(RedisLocks(settings.redis_url, space=space)) as locks:
        yield locks


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
    if not path.exists():
        _make_key(path)
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise Misconfigured(f"The audit key in {path} cannot be read; restore it from a backup.") from error
    if len(key) != 32:
        raise Misconfigured(f"The audit key in {path} is damaged; restore it from a backup.")
    return key


def _make_key(path: Path) -> None:
    # written whole under another name first: a process that is killed here leaves no half of a key
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass  # another process was first
    finally:
        fresh.unlink()
