"""What the suites and `make up-here` build their servers on: ports that nobody else is given, and folders."""

from __future__ import annotations

import socket

from scripts import services


class TestAPort:
    def test_is_none_that_the_kernel_gives_to_a_connection(self):
        """A connection might hold it when the server that is to listen there, or comes back there, wants it."""
        assert {services.free_port() for _ in range(200)}.isdisjoint(services.connection_ports())

    def test_is_given_once(self):
        given = [services.free_port() for _ in range(200)]
        assert len(given) == len(set(given))

    def test_that_somebody_listens_at_is_not_given(self, monkeypatch):
        free = services.free_port()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            monkeypatch.setattr(services, "_PORTS", iter([taken.getsockname()[1], free]))
            assert services.free_port() == free


class TestAFolder:
    def test_is_a_new_one_each_time_that_another_user_may_enter(self):
        made = [services.scratch("orc-test-") for _ in range(2)]
        assert len(set(made)) == 2
        for folder in made:
            assert folder.stat().st_mode & 0o777 == 0o755
            folder.rmdir()

    def test_is_on_a_disk_where_memory_is_short(self, monkeypatch, tmp_path):
        monkeypatch.setattr(services, "ROOM_BYTES", 1 << 80)
        monkeypatch.setattr(services.tempfile, "tempdir", str(tmp_path))
        assert services.scratch("orc-test-").parent == tmp_path
