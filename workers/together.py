"""Lets the threads of one process ask in one go what each would ask alone.

Eight questions in one statement cost Postgres about as much as one. Nobody waits for company unless company has been
coming: what is asked while a group is on its way is the next group, and only after a group of several does the next
one wait a few milliseconds until it is as large.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, TypeVar

_Q = TypeVar("_Q")
_A = TypeVar("_A")

LINGER_S: Final = 0.005
"""How long a group waits to be as large as the last one, in seconds. Longer gained nothing, 2 ms left groups small."""

MOST: Final = 64
"""How many questions one group carries at most."""

_SEVERAL: Final = 2


class Together(Generic[_Q, _A]):
    """Carries questions in groups, one group at a time; whoever comes first carries those of the others.

    `carry` answers a group by position. What it leaves out, or raises, comes to each as no answer.
    """

    def __init__(
        self, carry: Callable[[Sequence[_Q]], Mapping[int, _A]], *, linger_s: float = LINGER_S
    ) -> None:
        self._carry = carry
        self._linger_s = linger_s
        self._lock = threading.Lock()
        self._asked: list[_Asked[_Q, _A]] = []
        self._led = False
        self._last = 0
        self._enough = threading.Event()

    def ask(self, question: _Q) -> _A | None:
        """Return the answer; `None` where there is none: ask alone then, and hear why."""
        mine = _Asked[_Q, _A](question)
        with self._lock:
            self._asked.append(mine)
            if len(self._asked) >= self._last:
                self._enough.set()
            follows, self._led = self._led, True
        if follows:
            mine.turn.acquire()
        if not mine.carried:
            self._lead()
        return mine.answer

    def _lead(self) -> None:
        if self._last >= _SEVERAL:
            self._enough.wait(self._linger_s)
        with self._lock:
            group, self._asked = self._asked[:MOST], self._asked[MOST:]
            self._last = len(group)
            self._enough.clear()
        answers: Mapping[int, _A] = {}
        try:
            answers = self._carry([asked.question for asked in group])
        except Exception:  # noqa: BLE001, S110 - each of them asks alone, and hears it then
            pass
        finally:
            self._part(group, answers)

    def _part(self, group: Sequence[_Asked[_Q, _A]], answers: Mapping[int, _A]) -> None:
        """Tell everybody, and leave the lead to the first of those who came meanwhile."""
        for position, asked in enumerate(group):
            asked.answer, asked.carried = answers.get(position), True
            asked.turn.release()
        with self._lock:
            if self._asked:
                self._asked[0].turn.release()
            else:
                self._led = False


class _Asked(Generic[_Q, _A]):
    """A question, its answer, and whose turn it is: taken until the question was carried, or is to be led."""

    __slots__ = ("answer", "carried", "question", "turn")

    def __init__(self, question: _Q) -> None:
        self.question = question
        self.answer: _A | None = None
        self.carried = False
        self.turn = threading.Lock()
        self.turn.acquire()
