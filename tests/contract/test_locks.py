"""What every kind of lock promises, and what those in Redis promise besides: a hint costs little when it cannot be had."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from orchestrator import locks, settings
from orchestrator.domain.errors import Misconfigured
from orchestrator.locks import BREAK_S, TIMEOUT_S, InMemoryLocks, NoLocks, RedisLocks
from orchestrator.ports import Hold
from scripts.services import free_port
from tests.fleet import until

LONG = timedelta(minutes=5)
SHORT = timedelta(milliseconds=40)
ONCE = 20 * TIMEOUT_S
"""Long enough for one timeout on a busy machine, and too short for what a client of Redis does when left alone."""


class Clock:
    """Stands until it is moved."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


class InMemoryBench:
    def __init__(self):
        self._clock = Clock()
        self._locks = InMemoryLocks(self._clock)

    def process(self):
        return self._locks

    def let_pass(self, span):
        self._clock.now_s += span.total_seconds()

    def wipe(self):
        self._locks.forget()

    def close(self):
        pass


class RedisBench:
    def __init__(self, server):
        self.server = server
        self.space = uuid4().hex
        self.clock = Clock()
        self._stack = ExitStack()

    def process(self, url=None):
        """The locks of another process."""
        made = RedisLocks(url or self.server.url, space=self.space, clock=self.clock)
        return self._stack.enter_context(closing(made))

    def let_pass(self, span):
        time.sleep(span.total_seconds() * 1.5)

    def wipe(self):
        self.server.wipe()

    def keys(self):
        """Every lock there is, and in how many milliseconds it ends."""
        with self.server.client() as client:
            return {key: client.pttl(key) for key in client.scan_iter(f"orchestrator:{self.space}:*")}

    def close(self):
        self._stack.close()


class MuteServer:
    """Accepts connections, counts them, and says nothing."""

    def __enter__(self):
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._accepted = ExitStack()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def _accept(self):
        with suppress(OSError):
            while True:
                self._accepted.enter_context(self._listener.accept()[0])
                self.connections += 1

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        self._accepted.close()


@pytest.fixture(params=["redis", "inmemory"])
def bench(request):
    with closing(
        RedisBench(request.getfixturevalue("redis_server")) if request.param == "redis" else InMemoryBench()
    ) as made:
        yield made


@pytest.fixture
def here(redis_server):
    with closing(RedisBench(redis_server)) as made:
        yield made


@pytest.fixture(params=["none", "redis", "inmemory"])
def any_locks(request):
    if request.param == "none":
        yield NoLocks()
        return
    with closing(
        RedisBench(request.getfixturevalue("redis_server")) if request.param == "redis" else InMemoryBench()
    ) as made:
        yield made.process()


@contextmanager
def within(limit_s):
    """Fail if the block takes longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < limit_s, f"it took {took:.2f} s"


def asked(of, name="a", *, ttl=LONG, **rest):
    with of.hold(name, ttl=ttl, **rest) as hold:
        return hold


class TestLocksOfAnyKind:
    def test_let_a_block_be_entered_whether_they_are_held_or_not(self, any_locks):
        entered = []
        with any_locks.hold("a", ttl=LONG) as outer, any_locks.hold("a", ttl=LONG) as inner:
            entered.append((outer, inner))
        assert len(entered) == 1

    def test_let_what_the_block_raises_through(self, any_locks):
        with pytest.raises(ZeroDivisionError), any_locks.hold("a", ttl=LONG):
            raise ZeroDivisionError
        assert asked(any_locks) is not Hold.THEIRS


def test_where_there_are_no_locks_nobody_is_told_to_wait():
    with NoLocks().hold("a", ttl=LONG, wait=LONG) as outer, NoLocks().hold("a", ttl=LONG, wait=LONG) as inner:
        assert {outer, inner} == {Hold.UNKNOWN}


class TestALock:
    def test_is_held_by_one(self, bench):
        first, second = bench.process(), bench.process()
        with first.hold("a", ttl=LONG) as hold:
            assert hold is Hold.OURS
            assert asked(second) is Hold.THEIRS
            assert asked(first) is Hold.THEIRS, "a lock is the block's, not the process'"
        assert asked(second) is Hold.OURS

    def test_of_another_name_is_another(self, bench):
        one = bench.process()
        with one.hold("a", ttl=LONG), one.hold("b", ttl=LONG) as hold:
            assert hold is Hold.OURS

    def test_ends_by_itself_when_its_holder_does_not_come_back(self, bench):
        dead, other = bench.process(), bench.process()
        with dead.hold("a", ttl=SHORT):
            bench.let_pass(SHORT)
            assert asked(other) is Hold.OURS

    def test_that_ended_and_is_somebody_else_s_by_now_stays_theirs(self, bench):
        late, other, third = bench.process(), bench.process(), bench.process()
        with ExitStack() as stack:
            with late.hold("a", ttl=SHORT):
                bench.let_pass(SHORT)
                assert stack.enter_context(other.hold("a", ttl=LONG)) is Hold.OURS
            assert asked(third) is Hold.THEIRS, "who came late has let go of the lock of another"

    def test_that_ended_and_is_somebody_else_s_by_now_does_not_linger_for_them(self, bench):
        late, other = bench.process(), bench.process()
        with ExitStack() as stack:
            with late.hold("a", ttl=SHORT, linger=LONG):
                bench.let_pass(SHORT)
                stack.enter_context(other.hold("a", ttl=SHORT))
            bench.let_pass(SHORT)
            assert asked(late) is Hold.OURS

    def test_that_nobody_else_took_is_not_given_away_by_whoever_asked_for_it(self, bench):
        holder, other, third = bench.process(), bench.process(), bench.process()
        with holder.hold("a", ttl=LONG):
            assert asked(other) is Hold.THEIRS
            assert asked(third) is Hold.THEIRS

    def test_that_is_waited_for_is_had_when_its_holder_lets_go(self, bench):
        holder, other = bench.process(), bench.process()
        waiting, seen = threading.Event(), []

        def wait():
            waiting.set()
            seen.append(asked(other, wait=timedelta(seconds=30)))

        with holder.hold("a", ttl=LONG):
            thread = threading.Thread(target=wait)
            thread.start()
            waiting.wait()
            time.sleep(0.05)
            assert seen == []
        thread.join(60)
        assert seen == [Hold.OURS]

    def test_is_waited_for_no_longer_than_was_said(self, bench):
        with bench.process().hold("a", ttl=LONG), within(5):
            assert asked(bench.process(), wait=timedelta(seconds=0.1)) is Hold.THEIRS

    def test_lingers_after_its_block_for_as_long_as_was_said(self, bench):
        first, second = bench.process(), bench.process()
        assert asked(first, linger=LONG) is Hold.OURS
        assert asked(second) is Hold.THEIRS
        assert asked(first, "b", linger=SHORT) is Hold.OURS
        bench.let_pass(SHORT)
        assert asked(second, "b") is Hold.OURS

    def test_that_was_wiped_while_it_was_held_can_be_taken_and_is_not_taken_back(self, bench):
        first, second, third = bench.process(), bench.process(), bench.process()
        with ExitStack() as stack:
            with first.hold("a", ttl=LONG):
                bench.wipe()
                assert stack.enter_context(second.hold("a", ttl=LONG)) is Hold.OURS
            assert asked(third) is Hold.THEIRS

    def test_is_given_to_one_at_a_time_of_many_who_want_it(self, bench):
        inside, most, turns = [], [], []
        guard = threading.Lock()

        def work(mine):
            for _ in range(5):
                with mine.hold("a", ttl=LONG, wait=timedelta(seconds=60)) as hold:
                    with guard:
                        inside.append(hold)
                        most.append(len(inside))
                    time.sleep(0.001)
                    with guard:
                        inside.pop()
                        turns.append(hold)

        threads = [threading.Thread(target=work, args=(bench.process(),)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert turns == [Hold.OURS] * 30
        assert max(most) == 1


class TestALockInRedis:
    def test_always_has_an_end(self, here):
        one = here.process()
        with one.hold("a", ttl=LONG), one.hold("b", ttl=LONG, linger=LONG):
            held = here.keys()
        lingering = here.keys()
        assert (len(held), len(lingering)) == (2, 1)
        assert all(0 < end <= 300_000 for end in (*held.values(), *lingering.values()))

    def test_leaves_nothing_behind(self, here):
        asked(here.process())
        assert here.keys() == {}

    def test_is_another_in_another_space(self, here, redis_server):
        with closing(RedisBench(redis_server)) as other, here.process().hold("a", ttl=LONG):
            assert asked(other.process()) is Hold.OURS

    def test_that_cannot_be_let_go_of_harms_nobody(self, here, redis_server):
        with redis_server.client() as client, here.process().hold("a", ttl=LONG):
            (key,) = here.keys()
            client.delete(key)
            client.lpush(key, "no lock at all")


class TestARedisThat:
    def test_is_paused_costs_one_timeout_and_then_nothing(self, here, redis_server):
        one = here.process()
        assert asked(one) is Hold.OURS
        with redis_server.paused(), within(ONCE):
            for _ in range(30):
                assert asked(one, wait=LONG) is Hold.UNKNOWN

    def test_is_paused_from_the_start_costs_one_timeout_and_then_nothing(self, here, redis_server):
        one = here.process()
        with redis_server.paused(), within(ONCE):
            for _ in range(30):
                assert asked(one, wait=LONG) is Hold.UNKNOWN

    def test_is_paused_while_a_lock_is_held_costs_one_timeout(self, here, redis_server):
        one = here.process()
        with ExitStack() as paused, within(ONCE), one.hold("a", ttl=LONG):
            paused.enter_context(redis_server.paused())

    def test_is_paused_while_somebody_waits_ends_the_waiting(self, here, redis_server):
        with here.process().hold("a", ttl=LONG), ExitStack() as paused:
            waiter, seen = here.process(), []
            thread = threading.Thread(target=lambda: seen.append(asked(waiter, wait=LONG)))
            thread.start()
            time.sleep(0.05)
            paused.enter_context(redis_server.paused())
            thread.join(60)
            assert seen == [Hold.UNKNOWN]

    def test_answers_after_all_gives_back_what_it_gave_to_nobody(self, here, redis_server):
        late, other = here.process(), here.process()
        asked(late)  # so that it is connected
        with ExitStack() as block:
            with redis_server.paused():
                assert block.enter_context(late.hold("a", ttl=LONG)) is Hold.UNKNOWN
            until(here.keys)  # the question that nobody waited for is answered now
            here.clock.now_s += BREAK_S
        assert asked(other) is Hold.OURS

    def test_answered_too_late_does_not_answer_the_next_question(self, here, redis_server):
        one, other = here.process(), here.process()
        with other.hold("b", ttl=LONG):
            assert asked(one) is Hold.OURS
            with redis_server.paused():
                assert asked(one) is Hold.UNKNOWN
            here.wipe()
            with other.hold("b", ttl=LONG):
                here.clock.now_s += BREAK_S
                assert [asked(one, name) for name in "babab"] == [
                    Hold.THEIRS, Hold.OURS, Hold.THEIRS, Hold.OURS, Hold.THEIRS,
                ]  # fmt: skip

    def test_was_killed_is_done_without_and_used_again_when_it_is_back(self, here, redis_server):
        one, other = here.process(), here.process()
        with one.hold("a", ttl=LONG) as hold:
            assert hold is Hold.OURS
            redis_server.kill()
            with within(ONCE):
                assert asked(other, wait=LONG) is Hold.UNKNOWN
                assert asked(one, wait=LONG) is Hold.UNKNOWN
        redis_server.start_again()
        assert asked(one) is Hold.UNKNOWN, "it was asked although it had not answered a moment ago"
        here.clock.now_s += BREAK_S
        with one.hold("a", ttl=LONG) as hold:
            assert hold is Hold.OURS
            assert asked(other) is Hold.THEIRS

    def test_was_restarted_between_two_questions_is_asked_on_a_new_connection(self, here, redis_server):
        one = here.process()
        with one.hold("a", ttl=LONG), one.hold("b", ttl=LONG), one.hold("c", ttl=LONG):
            pass
        redis_server.kill()
        redis_server.start_again()
        assert asked(one) is Hold.OURS

    def test_is_down_from_the_start_is_done_without(self, here):
        one = here.process(f"redis://127.0.0.1:{free_port()}/0")
        with within(ONCE):
            assert {asked(one, wait=LONG) for _ in range(30)} == {Hold.UNKNOWN}

    def test_accepts_connections_and_says_nothing_is_done_without(self, here):
        with MuteServer() as mute, within(ONCE):
            one = here.process(mute.url)
            assert {asked(one, wait=LONG) for _ in range(30)} == {Hold.UNKNOWN}

    def test_is_full_is_done_without(self, here, redis_server):
        with redis_server.client() as client:
            client.config_set("maxmemory", "1")
            try:
                assert asked(here.process()) is Hold.UNKNOWN
                assert "memory" in locks.fault(redis_server.url)
            finally:
                client.config_set("maxmemory", "0")

    def test_wants_a_password_is_done_without(self, here, redis_server):
        with redis_server.client() as client:
            client.config_set("requirepass", "secret")
            try:
                assert asked(here.process()) is Hold.UNKNOWN
                assert locks.fault(redis_server.url)
                assert locks.fault(redis_server.url.replace("//", "//:secret@")) == ""
            finally:
                client.config_set("requirepass", "")


class TestAfterRedisDidNotAnswer:
    def test_it_is_left_alone_for_five_seconds_and_then_asked_again(self, here, redis_server):
        one = here.process()
        with redis_server.paused():
            assert asked(one) is Hold.UNKNOWN
        here.clock.now_s += BREAK_S - 0.1
        assert asked(one) is Hold.UNKNOWN
        here.clock.now_s += 0.1
        assert asked(one) is Hold.OURS
        assert asked(one) is Hold.OURS

    def test_it_is_left_alone_again_if_it_still_does_not(self, here, redis_server):
        one = here.process()
        with redis_server.paused(), within(2 * ONCE):
            for _ in range(3):
                assert asked(one) is Hold.UNKNOWN
                here.clock.now_s += BREAK_S
        assert asked(one) is Hold.OURS

    def test_one_of_many_asks_again_while_the_others_go_on_without(self, here):
        with MuteServer() as mute:
            one = here.process(mute.url)
            asked(one)
            here.clock.now_s += BREAK_S
            threads = [threading.Thread(target=asked, args=(one,)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        assert mute.connections == 2, "each question that is not answered costs its connection"

    def test_it_is_said_once_and_so_is_its_return(self, here, redis_server):
        one = here.process()
        with capture_logs() as said:
            with redis_server.paused():
                for _ in range(3):
                    asked(one)
                    here.clock.now_s += BREAK_S
            asked(one)
        assert [line["event"] for line in said] == ["locks.unavailable", "locks.returned"]


class TestAnAddress:
    @pytest.mark.parametrize(
        "url", ["localhost:6379", "http://127.0.0.1", "amqp://127.0.0.1", "redis:/x", " "]
    )
    def test_of_something_else_is_refused_with_the_name_of_its_setting(self, url):
        with pytest.raises(Misconfigured, match=r"'redis_url'.*redis://"):
            settings.load(environment={}, redis_url=url)

    @pytest.mark.parametrize(
        "url", ["", "redis://127.0.0.1", "rediss://u:p@host:1/2", "unix:///run/redis.sock"]
    )
    def test_of_a_redis_is_taken(self, url):
        assert settings.load(environment={}, redis_url=url).redis_url == url

    @pytest.mark.parametrize(
        "url", ["redis://:pass/word@h", "redis://h?colour=blue", "redis://h?db=x", "redis://[::1"]
    )
    def test_that_makes_no_sense_is_refused_without_quoting_a_password(self, url):
        with pytest.raises(Misconfigured, match="'redis_url'") as refused:
            RedisLocks(url, space="x")
        assert "pass/" not in str(refused.value)
        assert "word@" not in str(refused.value)

    def test_does_not_change_how_long_redis_may_take(self, here, redis_server):
        one = here.process(redis_server.url + "?socket_timeout=60&socket_connect_timeout=60")
        with redis_server.paused(), within(ONCE):
            assert asked(one) is Hold.UNKNOWN
