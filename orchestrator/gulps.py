"""AMQP connections that read whatever has come in one go, and write a batch in one go.

The library asks the kernel six times for each message that comes, and tells it once for each that goes. On a busy fleet
that is a tenth of all that a step costs. TLS has a buffer of its own and is left alone.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import amqp
from amqp.transport import TCPTransport
from kombu.transport import pyamqp

GULP: Final = 16 * 1024
"""Bytes that are asked for at once."""

_HEADER: Final = 7
_END: Final = 1


class Gulping(TCPTransport):  # type: ignore[misc]
    """A socket that is read ahead."""

    def _setup_transport(self) -> None:
        super()._setup_transport()
        self._gathered: bytearray | None = None
        self._quick_recv = self._gulp
        self._write = self._put

    def whole_frame(self) -> bool:
        """Whether a frame was read ahead, so that nobody need wait for it."""
        ahead = self._read_buffer
        return len(ahead) > _HEADER and len(ahead) >= _HEADER + int.from_bytes(ahead[3:_HEADER], "big") + _END

    def read_ahead(self) -> None:
        """Take what has come, without waiting; raises `OSError` when the other end is gone."""
        try:
            came = self.sock.recv(GULP, socket.MSG_DONTWAIT)
            if not came:
                raise ConnectionResetError("The broker closed the connection")
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.connected = False
            raise
        self._read_buffer += came

    @contextmanager
    def one_write(self) -> Iterator[None]:
        """Send what is written within the block at its end; nothing where the block raises."""
        self._gathered = bytearray()
        try:
            yield
            gathered, self._gathered = self._gathered, None
            if gathered:
                self.write(gathered)
        finally:
            self._gathered = None

    def _gulp(self, wanted: int) -> bytes:
        return self.sock.recv(max(wanted, GULP))  # type: ignore[no-any-return]

    def _put(self, frames: Any) -> None:
        if self._gathered is None:
            self.sock.sendall(frames)
        else:
            self._gathered += frames


class GulpingConnection(amqp.Connection):  # type: ignore[misc]
    """A connection over such a socket, where it is not TLS.

    It looks at `_transport`, for the library's `transport` connects anew where a connection was closed.
    """

    def Transport(  # noqa: N802 - named by the library
        self, host: str, connect_timeout: float, ssl: Any = False, *timeouts: float, **options: Any
    ) -> Any:
        """Make the socket, or leave it to the library where it is TLS."""
        if ssl:
            return super().Transport(host, connect_timeout, ssl, *timeouts, **options)
        return Gulping(host, connect_timeout, *timeouts, **options)

    def frame_waits(self) -> bool:
        """Whether a frame was read ahead: nothing more need come for it to be handled."""
        return isinstance(self._transport, Gulping) and self._transport.whole_frame()

    def blocking_read(self, timeout: float | None = None) -> Any:
        """Read a frame and handle it; one that was read ahead is not waited for."""
        if self.frame_waits():
            return self.on_inbound_frame(self._transport.read_frame())
        return super().blocking_read(timeout)

    @contextmanager
    def one_write(self) -> Iterator[None]:
        """Send what is written within the block in one go, where that can be."""
        if isinstance(self._transport, Gulping):
            with self._transport.one_write():
                yield
        else:
            yield


class WorkerConnection(GulpingConnection, pyamqp.Connection):
    """One for Celery's loop, which looks at a socket only when something has come there.

    What was read ahead by somebody who waited for an answer would lie there unseen: `see_to` is called for it.
    """

    see_to: Callable[[], object] | None = None
    _seen_to = False

    def blocking_read(self, timeout: float | None = None) -> Any:
        """Read a frame and handle it, and let the loop come back for the next where there is one."""
        read = super().blocking_read(timeout)
        if self.see_to is not None and not self._seen_to and self.frame_waits():
            self._seen_to = True
            self.see_to()
        return read

    def read_what_came(self) -> bool:
        """Handle every frame that has come whole, without waiting; false over TLS, which cannot be read so."""
        if not isinstance(self._transport, Gulping):
            return False
        self._seen_to = True
        try:
            self._transport.read_ahead()
            while self.frame_waits():
                self.blocking_read()
        finally:
            self._seen_to = False
        return True


class WorkerTransport(pyamqp.Transport):
    """Celery's way to RabbitMQ, over such connections."""

    Connection = WorkerConnection

    def register_with_event_loop(self, connection: WorkerConnection, loop: Any) -> None:
        """Let the loop read when something comes, or was read ahead."""
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]
        connection.see_to = partial(loop.call_soon, self._read_on, connection, loop)
        connection.see_to()

    def _read_on(self, connection: WorkerConnection, loop: Any) -> None:
        # the loop may come here after the connection was given up for another
        if connection.connected:
            self.on_readable(connection, loop)

    def on_readable(self, connection: WorkerConnection, loop: Any) -> None:
        """Handle whatever has come whole; the library would wait for the rest of a frame, and handle one at a time."""
        if not connection.connected:
            raise amqp.exceptions.RecoverableConnectionError("The connection to the broker is gone")
        if not connection.read_what_came():
            super().on_readable(connection, loop)  # type: ignore[no-untyped-call]
