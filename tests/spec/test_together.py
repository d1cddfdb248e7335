"""What several threads ask at one time is asked in one go, and nobody waits for a company that does not come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from workers.together import MOST, Together

LONG_S = 60.0
"""A time that no test waits for: who waits for it, hangs."""


class Counter:
    """Doubles numbers in groups, and can be held up on the way."""

    def __init__(self) -> None:
        self.groups: list[Sequence[int]] = []
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Semaphore(0)

    def carry(self, numbers: Sequence[int]) -> dict[int, int]:
        self.groups.append(numbers)
        self.began.release()
        assert self.go.wait(LONG_S)
        return {at: 2 * number for at, number in enumerate(numbers)}


@pytest.fixture
def counter() -> Counter:
    return Counter()


def ask_behind_one(
    counter: Counter, together: Together[int, int], numbers: Sequence[int]
) -> list[int | None]:
    """Ask one number, and the others while it is on its way; the answers in the same order."""
    counter.go.clear()
    with ThreadPoolExecutor(len(numbers)) as threads:
        first = threads.submit(together.ask, numbers[0])
        assert counter.began.acquire(timeout=LONG_S)
        others = [threads.submit(together.ask, number) for number in numbers[1:]]
        while len(together._asked) < len(others):
            pass
        counter.go.set()
        return [asked.result(LONG_S) for asked in (first, *others)]


def test_one_that_comes_alone_is_answered_at_once(counter):
    together = Together(counter.carry, linger_s=LONG_S)
    assert [together.ask(n) for n in (1, 2, 3)] == [2, 4, 6]
    assert counter.groups == [[1], [2], [3]]


def test_those_that_come_while_a_group_is_on_its_way_are_the_next(counter):
    answers = ask_behind_one(counter, Together(counter.carry), [*range(9)])
    assert answers == [2 * n for n in range(9)]
    assert counter.groups[0] == [0]
    assert sorted(counter.groups[1]) == [*range(1, 9)]


def test_a_group_waits_to_be_as_large_as_the_last_and_no_longer(counter):
    together = Together(counter.carry, linger_s=LONG_S)
    ask_behind_one(counter, together, [0, 1, 2, 3])
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(together.ask, [4, 5, 6])) == [8, 10, 12]
    assert [len(group) for group in counter.groups] == [1, 3, 3]


def test_company_that_does_not_come_is_not_waited_for_twice(counter):
    together = Together(counter.carry, linger_s=0.01)
    ask_behind_one(counter, together, [0, 1, 2, 3])
    assert together.ask(4) == 8
    together._linger_s = LONG_S
    assert together.ask(5) == 10


def test_a_group_has_a_largest_size(counter):
    answers = ask_behind_one(counter, Together(counter.carry), [*range(MOST + 9)])
    assert answers == [2 * n for n in range(MOST + 9)]
    assert [len(group) for group in counter.groups] == [1, MOST, 8]


def failing(error: BaseException) -> Callable[[Sequence[int]], dict[int, int]]:
    def carry(numbers: Sequence[int]) -> dict[int, int]:
        if len(numbers) > 1:
            raise error
        return {0: 2 * numbers[0]}

    return carry


def test_a_group_that_fails_leaves_everybody_without_an_answer(counter):
    def carry(numbers: Sequence[int]) -> dict[int, int]:
        counter.carry(numbers)
        return failing(OSError())(numbers)

    together = Together(carry)
    assert ask_behind_one(counter, together, [1, 2, 3]) == [2, None, None]
    assert together.ask(4) == 8  # and who asks next is answered


def test_a_thread_that_is_ended_leaves_nobody_waiting(counter):
    def carry(numbers: Sequence[int]) -> dict[int, int]:
        counter.carry(numbers)
        return failing(KeyboardInterrupt())(numbers)

    together = Together(carry)
    counter.go.clear()
    ends: list[object] = []

    def ask(number: int) -> None:
        try:
            ends.append(together.ask(number))
        except KeyboardInterrupt:
            ends.append("ended")

    threads = [threading.Thread(target=ask, args=(n,)) for n in (1, 2, 3)]
    threads[0].start()
    assert counter.began.acquire(timeout=LONG_S)
    for thread in threads[1:]:
        thread.start()
    while len(together._asked) < 2:
        pass
    counter.go.set()
    for thread in threads:
        thread.join(LONG_S)
    assert sorted(map(str, ends)) == ["2", "None", "ended"]
    assert together.ask(4) == 8
