"""Reading ahead loses no frame, keeps none waiting, and hands over the same frames as the library's own socket does."""

from __future__ import annotations

import contextlib
import socket
from itertools import pairwise

import pytest
from amqp.exceptions import RecoverableConnectionError
from amqp.transport import SSLTransport
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gulps import GULP, Gulping, GulpingConnection, WorkerConnection, WorkerTransport

FRAME_END = b"\xce"

payloads = st.lists(st.binary(max_size=300), min_size=1, max_size=8)


def framed(payload, kind=1, channel=1):
    return bytes([kind]) + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + FRAME_END


class Wire:
    """A transport without a broker: what is put in at the other end can be read."""

    def __init__(self, transport_class=Gulping):
        self.far, near = socket.socketpair()
        self.transport = transport_class("localhost:1")
        self.transport.sock = near
        self.transport._setup_transport()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.far.close()
        self.transport.sock.close()

    def sends(self, *parts):
        for part in parts:
            self.far.sendall(part)

    def read(self, timeout):
        with self.transport.having_timeout(timeout):
            return self.transport.read_frame()

    def arrived(self):
        self.far.settimeout(0.2)
        try:
            return self.far.recv(1 << 20)
        except TimeoutError:
            return b""


def cut(sent, data):
    """The stream of these frames, and where it is cut."""
    stream = b"".join(framed(payload) for payload in sent)
    places = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=6)) | {0, len(stream)})
    return [stream[begin:end] for begin, end in pairwise(places)]


@given(payloads, st.data())
def test_whoever_waits_is_given_the_same_frames_wherever_the_stream_is_cut(sent, data):
    with Wire() as wire:
        found = []
        for part in cut(sent, data):
            wire.sends(part)
            with contextlib.suppress(TimeoutError):
                while True:
                    found.append(wire.read(0.001))
            assert not wire.transport.whole_frame()
        assert found == [(1, 1, payload) for payload in sent]


@given(payloads, st.data())
def test_whoever_looks_is_given_the_same_frames_wherever_the_stream_is_cut(sent, data):
    with Wire() as wire:
        found = []
        for part in cut(sent, data):
            wire.sends(part)
            wire.transport.read_ahead()
            while wire.transport.whole_frame():
                found.append(wire.transport.read_frame())
        assert found == [(1, 1, payload) for payload in sent]


def test_looking_where_nothing_came_does_not_wait_and_where_nobody_is_tells():
    with Wire() as wire:
        wire.transport.read_ahead()
        wire.transport.connected = True
        wire.far.close()
        with pytest.raises(ConnectionResetError):
            wire.transport.read_ahead()
        assert not wire.transport.connected


def test_a_frame_larger_than_a_gulp_is_whole():
    large = bytes(range(256)) * (GULP // 64)
    with Wire() as wire:
        wire.sends(framed(large), framed(b"after"))
        assert wire.read(5.0) == (1, 1, large)
        assert wire.read(5.0) == (1, 1, b"after")


def test_a_frame_that_was_read_ahead_needs_nothing_more_from_the_socket():
    with Wire() as wire:
        wire.sends(framed(b"one") + framed(b"two"))
        assert wire.read(5.0) == (1, 1, b"one")
        wire.far.close()
        assert wire.transport.whole_frame()
        assert wire.transport.read_frame() == (1, 1, b"two")
        with pytest.raises(OSError, match="closed"):
            wire.transport.read_frame()


def test_what_is_written_in_one_block_goes_at_its_end():
    with Wire() as wire:
        with wire.transport.one_write():
            wire.transport.write(b"one ")
            wire.transport.write(memoryview(b"two"))
            assert wire.arrived() == b""
        assert wire.arrived() == b"one two"
        wire.transport.write(b"three")
        assert wire.arrived() == b"three"


def test_nothing_goes_of_a_block_that_raises():
    def half(transport):
        with transport.one_write():
            transport.write(b"half")
            raise ValueError("no")

    with Wire() as wire:
        with pytest.raises(ValueError, match="no"):
            half(wire.transport)
        wire.transport.write(b"whole")
        assert wire.arrived() == b"whole"


def test_tls_is_left_to_the_library():
    made = GulpingConnection(host="localhost:1", ssl=True)
    assert isinstance(made.Transport("localhost:1", 1.0, True, 1.0, 1.0), SSLTransport)
    assert isinstance(made.Transport("localhost:1", 1.0, False, 1.0, 1.0), Gulping)


class Loop:
    """Celery's loop, as far as a transport asks it for something."""

    def __init__(self):
        self.soon = []

    def add_reader(self, *_):
        pass

    def call_soon(self, act, *arguments):
        self.soon.append((act, arguments))

    def ticks(self):
        soon, self.soon = self.soon, []
        for act, arguments in soon:
            act(*arguments)


@pytest.fixture
def reading():
    """A worker's connection on a wire, registered with a loop, that only notes its frames."""
    with Wire() as wire:
        connection = WorkerConnection(host="localhost:1")
        connection._transport = wire.transport
        wire.transport.connected = True
        found = []
        connection.on_inbound_frame = lambda frame: found.append(frame[2]) or True
        loop, transport = Loop(), WorkerTransport(client=None)
        transport.register_with_event_loop(connection, loop)
        loop.ticks()
        yield wire, connection, transport, loop, found
        connection._transport = None


def test_the_loop_handles_all_that_has_come_when_it_looks(reading):
    wire, connection, transport, loop, found = reading
    wire.sends(framed(b"one") + framed(b"two") + framed(b"three")[:5])
    transport.on_readable(connection, loop)
    assert found == [b"one", b"two"]
    wire.sends(framed(b"three")[5:])
    transport.on_readable(connection, loop)
    assert found == [b"one", b"two", b"three"]
    assert loop.soon == []
    transport.on_readable(connection, loop)  # nothing came


def test_the_loop_comes_back_for_what_somebody_else_read_ahead(reading):
    wire, connection, _, loop, found = reading
    wire.sends(framed(b"the answer") + framed(b"a message") + framed(b"another"))
    connection.drain_events(timeout=5)
    assert found == [b"the answer"]
    assert len(loop.soon) == 1
    loop.ticks()
    assert found == [b"the answer", b"a message", b"another"]
    assert loop.soon == []


def test_what_was_read_before_the_loop_began_is_handled(reading):
    wire, connection, transport, loop, found = reading
    connection.see_to = None
    wire.sends(framed(b"the answer") + framed(b"a message"))
    connection.drain_events(timeout=5)
    transport.register_with_event_loop(connection, loop)
    loop.ticks()
    assert found == [b"the answer", b"a message"]


def test_a_connection_that_is_gone_is_told_of_by_its_socket_and_not_by_what_was_read_ahead(reading):
    wire, connection, transport, loop, _ = reading
    wire.sends(framed(b"the answer") + framed(b"a message"))
    connection.drain_events(timeout=5)
    wire.transport.connected = False
    loop.ticks()
    with pytest.raises(RecoverableConnectionError):
        transport.on_readable(connection, loop)


def test_a_connection_that_was_closed_stays_closed():
    connection = WorkerConnection(host="localhost:1")
    assert not connection.frame_waits()
    with connection.one_write():
        pass
    assert connection._transport is None
