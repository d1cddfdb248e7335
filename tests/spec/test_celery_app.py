"""A message is acknowledged once: early, at its step's end, or after a fault; and never where another is to have it."""

from __future__ import annotations

import pytest

from workers import celery_app
from workers.executor import Stopping


def carried(take):
    """How often a message was acknowledged that is carried so."""
    acknowledged = []
    celery_app._carry(take, ["a body"], celery_app._Once(lambda: acknowledged.append("once")))
    return len(acknowledged)


def ends(body, *, let_go):
    """A step that is short."""


def lasts(body, *, let_go):
    """A step that is let go of before its end."""
    let_go()


def is_let_go_of_twice(body, *, let_go):
    """A step that two threads let go of."""
    let_go()
    let_go()


def faults(body, *, let_go):
    raise RuntimeError("nobody foresaw it")


@pytest.mark.parametrize("take", [ends, lasts, is_let_go_of_twice, faults])
def test_a_message_is_acknowledged_once(take):
    assert carried(take) == 1


def test_a_message_that_a_stopping_process_does_not_begin_with_is_not_acknowledged():
    def stops(body, *, let_go):
        raise Stopping

    assert carried(stops) == 0
