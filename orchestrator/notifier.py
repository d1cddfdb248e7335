"""Tells a webhook what waits for people and what they decided; safe on every replica.

    the transaction that asks or decides ── writes ──▶ notification ── taken, one sender at a time ──▶ POST, signed
                                                            ▲                                             │
                                                            └──── later, under the same id ◀── no 2xx ────┤
                                                  given up, and listed, after so many attempts ◀──────────┘

The attempt counts before anything is sent, and no transaction is open meanwhile: a receiver that hangs holds nothing
up, and a sender that dies is followed by another once its time is up. The receiver may be told the same twice, and
knows it by the delivery's id. No proxy of the environment is used and no redirect followed: what is signed goes where
the settings say, or nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from orchestrator import meters
from orchestrator.domain.errors import Misconfigured, Unavailable
from orchestrator.domain.plan import Notification, NotificationState, canonical
from orchestrator.domain.retry import Backoff
from orchestrator.ports import Store
from orchestrator.telemetry import log

SIGNATURE: Final = "X-Orchestrator-Signature"
DELIVERY: Final = "X-Orchestrator-Delivery"

_SHORTEST_SECRET: Final = 32
_AFTERWARDS: Final = timedelta(seconds=5)
"""How long after its deadline a sender may take to write down what came of it."""
_LOOK_S: Final = 1.0


def sign(secret: bytes, timestamp: int, body: bytes) -> str:
    """Return the signature of a body that is sent at that time (seconds since 1970)."""
    code = hmac.new(secret, b"%d.%s" % (timestamp, body), hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={code}"


def read_secret(path: str) -> bytes:
    """Return the secret that a file holds, or raise `Misconfigured`; white space around it does not count."""
    try:
        secret = Path(path).expanduser().read_bytes().strip() if path else b""
    except OSError as error:
        raise Misconfigured(
            f"The webhook's secret in {path} cannot be read: {error.strerror}. See `webhook_secret_file`."
        ) from error
    if len(secret) < _SHORTEST_SECRET:
        raise Misconfigured(
            f"`webhook_secret_file` must name a file with a secret of at least {_SHORTEST_SECRET} characters, "
            "such as `openssl rand -hex 32` makes: without it nobody could tell who sent a notification."
        )
    return secret


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where notifications go, the secret that both sides know, and how long an answer may take altogether."""

    url: str
    secret: bytes = field(repr=False)
    timeout_s: float = 10.0

    def post(self, delivery: str, body: bytes, timestamp: int) -> int:
        """Send a body and return the status of the answer, whose body is not read.

        Raises `OSError` or `HTTPException` when there is none in time.
        """
        to = urlsplit(self.url)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "orchestrator",
            "Connection": "close",
            DELIVERY: delivery,
            SIGNATURE: sign(self.secret, timestamp, body),
        }
        with closing(self._connection(to)) as connection:
            cut = _Deadline(connection, self.timeout_s)
            try:
                connection.request("POST", _target(to), body, headers)
                with connection.getresponse() as answer:
                    status = answer.status
            finally:
                cut.cancel()
            if cut.passed:  # what was read until then may look like an answer
                raise TimeoutError("no answer in time")
            return status

    def _connection(self, to: SplitResult) -> http.client.HTTPConnection:
        host = to.hostname or ""
        if to.scheme == "https":
            trusted = ssl.create_default_context()
            return http.client.HTTPSConnection(host, to.port, timeout=self.timeout_s, context=trusted)
        return http.client.HTTPConnection(host, to.port, timeout=self.timeout_s)


class _Deadline:
    """Cuts a connection when the time for all of it is up: a socket's own timeout begins anew with each byte."""

    def __init__(self, connection: http.client.HTTPConnection, timeout_s: float) -> None:
        self.passed = False
        self._connection = connection
        self._timer = threading.Timer(timeout_s, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def _cut(self) -> None:
        self.passed = True
        if self._connection.sock is not None:
            with suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)

    def cancel(self) -> None:
        self._timer.cancel()
        self._timer.join()


def _target(to: SplitResult) -> str:
    return (to.path or "/") + (f"?{to.query}" if to.query else "")


class Notifier:
    """Delivers what is due, one after another."""

    def __init__(
        self,
        store: Store,
        webhook: Webhook,
        *,
        attempts: int,
        draw: Callable[[], float],
        backoff: Backoff | None = None,
    ) -> None:
        self._store = store
        self._webhook = webhook
        self._attempts = attempts
        self._draw = draw
        self._backoff = backoff or Backoff(base_s=4.0, cap_s=3600.0)
        self._within = timedelta(seconds=2 * webhook.timeout_s) + _AFTERWARDS

    def forever(self, stopping: threading.Event) -> None:
        """Deliver until told to stop."""
        while not stopping.is_set():
            try:
                if self.step():
                    continue
            except Unavailable:
                log.warning("store.unavailable")
            except Exception:  # noqa: BLE001 - whatever it was, others wait to be told of theirs
                log.exception("notifications.crashed")
            stopping.wait(_LOOK_S)

    def step(self) -> bool:
        """Try to deliver one notification; `False` when none is due."""
        with self._store.transaction() as tx:
            taken = tx.take_notification(self._within)
            timestamp = int(tx.now().timestamp())
        if taken is None:
            return False
        # more attempts than there may be: whoever made the last did not live to say so
        late = taken.attempts > self._attempts
        error = taken.error or "its senders died" if late else self._send(taken, timestamp)
        with self._store.transaction() as tx:
            if error is None:
                tx.end_notification(taken, NotificationState.DELIVERED)
            elif taken.attempts >= self._attempts:
                tx.end_notification(taken, NotificationState.GIVEN_UP, error=error)
            else:
                tx.postpone_notification(taken, self._delay(taken), error=error)
        self._log(taken, error, timestamp)
        return True

    def _send(self, taken: Notification, timestamp: int) -> str | None:
        """What was wrong; `None` when it was delivered."""
        try:
            status = self._webhook.post(taken.notification_id, canonical(taken.body), timestamp)
        except (OSError, http.client.HTTPException) as error:
            return f"no answer: {type(error).__name__}"
        if 200 <= status < 300:
            return None
        redirected = "; redirects are not followed" if 300 <= status < 400 else ""
        return f"answered {status}{redirected}"

    def _delay(self, taken: Notification) -> timedelta:
        # at least half of it: a receiver that is down must not use up all attempts in its first seconds
        return timedelta(seconds=self._backoff.delay_s(taken.attempts, 0.5 + self._draw() / 2))

    def _log(self, taken: Notification, error: str | None, timestamp: int) -> None:
        facts = {
            "notification": taken.notification_id,
            "approval": taken.approval_id,
            "attempt": taken.attempts,
        }
        if error is None:
            meters.told("delivered", delay_s=_delay_s(taken, timestamp))
            log.info("notification.delivered", **facts)
        elif taken.attempts >= self._attempts:
            meters.told("given_up")
            log.error("notification.abandoned", error=error, **facts)
        else:
            meters.told("failed")
            log.warning("notification.failed", error=error, **facts)


def _delay_s(taken: Notification, timestamp: int) -> float | None:
    """Seconds from what happened to its delivery, as far as the notification says when that was."""
    at = taken.body.get("at")
    return timestamp - datetime.fromisoformat(at).timestamp() if isinstance(at, str) else None
