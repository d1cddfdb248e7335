"""How often a caller may ask: one suite for the rates of a process and those on a real Redis, and what a fault does."""

import threading
import time
from contextlib import closing, contextmanager
from uuid import uuid4

import pytest

from orchestrator import locks
from orchestrator.rates import MOST_CALLERS, LocalRates, Rate, RedisRates

SLOW = Rate(per_minute=6, burst=3)
"""Three at once, then one in ten seconds: slow enough that no test waits for one."""


@pytest.fixture(params=["local", "redis"])
def rates(request):
    if request.param == "local":
        yield LocalRates()
        return
    server = request.getfixturevalue("redis_server")
    with closing(RedisRates(server.url, space=uuid4().hex)) as made:
        yield made


@contextmanager
def on_redis(server, **rest):
    with closing(RedisRates(server.url, **{"space": uuid4().hex, **rest})) as made:
        yield made


def allowed(rates, number, who="ada", rate=SLOW):
    return [rates.take(who, rate).allowed for _ in range(number)]


class TestACaller:
    def test_may_ask_as_often_at_once_as_the_burst_allows_and_no_more(self, rates):
        assert allowed(rates, 5) == [True, True, True, False, False]

    def test_is_told_how_many_more_there_are_and_when_to_come_again(self, rates):
        taken = [rates.take("ada", SLOW) for _ in range(4)]
        assert [each.remaining for each in taken] == [2, 1, 0, 0]
        assert [each.retry_s > 0 for each in taken] == [False, False, False, True]
        assert 0 < taken[3].retry_s <= 10
        assert 20 < taken[3].reset_s <= 30

    def test_does_not_use_up_what_is_another_s(self, rates):
        allowed(rates, 5)
        assert allowed(rates, 1, who="grace") == [True]

    def test_that_is_refused_is_not_set_back_further(self, rates):
        allowed(rates, 3)
        first = rates.take("ada", SLOW).retry_s
        allowed(rates, 20)
        assert rates.take("ada", SLOW).retry_s <= first

    def test_that_waited_as_long_as_it_was_told_may_ask_again(self, rates):
        quick = Rate(per_minute=600, burst=1)
        # a busy machine may take as long for one question as it takes to fill up again
        told = next(each for each in iter(lambda: rates.take("ada", quick), None) if not each.allowed)
        time.sleep(told.retry_s + 0.01)
        assert rates.take("ada", quick).allowed

    def test_in_many_threads_is_counted_once_for_each_request(self, rates):
        rate, found = Rate(per_minute=1, burst=20), []
        threads = [
            threading.Thread(target=lambda: found.extend(allowed(rates, 10, rate=rate))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(found) == 20


def test_the_replicas_on_one_redis_count_together(redis_server):
    space = uuid4().hex
    with on_redis(redis_server, space=space) as one, on_redis(redis_server, space=space) as two:
        assert [allowed(each, 1)[0] for each in (one, two, one, two)] == [True, True, True, False]


def test_fleets_in_two_spaces_do_not_count_together(redis_server):
    with on_redis(redis_server) as one, on_redis(redis_server) as two:
        assert [*allowed(one, 3), *allowed(two, 3)] == [True] * 6


def test_what_redis_keeps_of_a_caller_ends_by_itself(redis_server):
    with on_redis(redis_server, space="ends") as rates, redis_server.client() as client:
        allowed(rates, 3)
        assert 0 < client.pttl("orchestrator:ends:rate:ada") <= 30_000


def test_a_process_remembers_so_many_callers_and_forgets_the_oldest():
    rates = LocalRates()
    for number in range(MOST_CALLERS + 10):
        rates.take(str(number), SLOW)
    assert len(rates._used) == MOST_CALLERS
    assert "9" not in rates._used
    assert "10" in rates._used


class TestWithoutRedis:
    def test_each_replica_lets_through_its_share_and_never_everything(self):
        rates = [LocalRates(replicas=2) for _ in range(2)]
        found = [allowed(each, 100, rate=Rate(per_minute=1, burst=10)) for each in rates]
        assert [sum(each) for each in found] == [5, 5]

    def test_that_never_was_there_requests_are_counted_all_the_same(self):
        with closing(RedisRates("redis://127.0.0.1:1", space="none")) as rates:
            assert allowed(rates, 5) == [True, True, True, False, False]

    def test_that_was_paused_no_request_waits_longer_than_once_for_it(self, redis_server):
        with on_redis(redis_server) as rates, redis_server.paused():
            begun = time.monotonic()
            assert allowed(rates, 5) == [True, True, True, False, False]
            # a liveness bound: five patient waits would take ten times as long
            assert time.monotonic() - begun < 5

    def test_that_is_killed_in_the_middle_of_a_run_requests_are_counted_locally_and_then_by_it_again(
        self, redis_server
    ):
        now = [0.0]
        with on_redis(redis_server, clock=lambda: now[0]) as rates:
            assert allowed(rates, 2) == [True, True]
            redis_server.kill()
            # it counts from the beginning, for what Redis knew is not known here: bounded, never unlimited
            assert sum(allowed(rates, 50)) == 3
            redis_server.start_again()
            now[0] += locks.BREAK_S
            assert allowed(rates, 1) == [True]
            with redis_server.client() as client:
                assert client.keys("*:rate:ada")

    def test_that_answers_nonsense_requests_are_counted_locally(self, redis_server):
        with on_redis(redis_server, space="odd") as rates, redis_server.client() as client:
            client.hset("orchestrator:odd:rate:ada", "not", "a number")
            assert allowed(rates, 5) == [True, True, True, False, False]
