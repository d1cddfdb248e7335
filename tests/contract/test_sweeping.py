"""What many sweepers promise: one of them sweeps in each period, and no lock ever keeps all of them from it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest

from orchestrator import relay
from orchestrator.conductor import Swept
from orchestrator.domain.errors import Unavailable
from orchestrator.inmemory import InMemoryStore
from orchestrator.locks import InMemoryLocks, NoLocks
from orchestrator.ports import Hold
from orchestrator.relay import Sweeper
from tests.clock import NOON


class Fleet:
    """Replicas that sweep one after the other in each period of a second, and a notebook of their sweeps."""

    def __init__(self, replicas, locks=None):
        self.now_s = 0.0
        self.locks = locks or InMemoryLocks(lambda: self.now_s)
        self.fails = False
        self.began = threading.Event()
        self.hanging = None
        self.sweeps = []
        self.alive = 0
        self.replicas = [
            Sweeper(self.by(n), every_s=1.0, alive=self.lives, locks=self.locks) for n in range(replicas)
        ]

    def by(self, replica):
        fleet = self

        class Conductor:
            def sweep(self):
                if fleet.fails:
                    raise Unavailable("Postgres is away.")
                fleet.began.set()
                if fleet.hanging:
                    fleet.hanging.wait(60)
                    return Swept()
                fleet.sweeps.append((fleet.now_s, replica))
                return Swept()

        return Conductor()

    def lives(self):
        self.alive += 1

    def period(self, *, without=()):
        for number, replica in enumerate(self.replicas):
            if number not in without:
                replica.step()
            self.now_s += 1.0 / len(self.replicas)


class Wrong:
    """A lock that somebody else has for ever, such as one of a Redis that took leave of its senses."""

    @contextmanager
    def hold(self, name, *, ttl, wait=timedelta(0), linger=timedelta(0)):
        yield Hold.THEIRS


class TestOfManySweepers:
    def test_one_sweeps_in_each_period(self):
        fleet = Fleet(4)
        for _ in range(50):
            fleet.period()
        assert 50 <= len(fleet.sweeps) <= 53

    def test_another_takes_over_within_two_periods_when_one_dies(self):
        fleet = Fleet(3)
        fleet.period()
        (_, dead), *_ = fleet.sweeps
        fleet.sweeps.clear()
        for _ in range(3):
            fleet.period(without={dead})
        assert fleet.sweeps[0][0] <= 2.0
        assert {who for _, who in fleet.sweeps}.isdisjoint({dead})

    def test_another_takes_over_when_one_never_comes_back_from_its_sweep(self):
        fleet = Fleet(2)
        fleet.hanging = threading.Event()
        stuck = threading.Thread(target=fleet.replicas[0].step)
        stuck.start()
        assert fleet.began.wait(60)
        hanging, fleet.hanging = fleet.hanging, None
        for _ in range(5):
            fleet.period(without={0})
        first, _ = fleet.sweeps[0]
        hanging.set()
        stuck.join(60)
        assert 2.0 <= first <= 4.0

    def test_every_one_says_that_it_lives(self):
        fleet = Fleet(3)
        fleet.period()
        assert fleet.alive == 3

    def test_one_that_failed_is_followed_by_the_next(self):
        fleet = Fleet(2)
        fleet.fails = True
        with pytest.raises(Unavailable):
            fleet.period()
        fleet.fails = False
        fleet.now_s += 1.0
        fleet.period()
        assert len(fleet.sweeps) == 1

    def test_every_one_sweeps_where_there_are_no_locks(self):
        fleet = Fleet(3, NoLocks())
        for _ in range(5):
            fleet.period()
        assert len(fleet.sweeps) == 15

    def test_every_one_sweeps_now_and_then_whatever_the_lock_says(self):
        fleet = Fleet(2, Wrong())
        for _ in range(93):
            fleet.period()
        assert [sum(who == n for _, who in fleet.sweeps) for n in range(2)] == [3, 3]


class TestWhateverASweeperMeets:
    @pytest.mark.parametrize("fault", [Unavailable("Postgres is away."), ValueError("nobody foresaw it")])
    def test_does_not_end_it(self, fault):
        stopping, told = threading.Event(), iter([fault])

        class Conductor:
            def sweep(self):
                for first in told:
                    raise first
                stopping.set()
                return Swept()

        Sweeper(Conductor(), every_s=0.01).forever(stopping)
        assert stopping.is_set()

    @pytest.mark.parametrize("fault", [Unavailable("Postgres is away."), ValueError("nobody foresaw it")])
    def test_does_not_end_a_relay_either(self, fault, monkeypatch):
        monkeypatch.setattr(relay, "_AFTER_FAULT_S", 0.01)
        stopping, told = threading.Event(), iter([fault])

        class Bus:
            def room(self):
                for first in told:
                    raise first
                stopping.set()
                return 0

        store = InMemoryStore(lambda: NOON)
        relay.Relay(store, Bus()).forever(stopping)
        assert stopping.is_set()


class TestWhatWasKeptLongEnough:
    def test_is_forgotten_batch_by_batch_and_then_looked_for_once_a_minute(self):
        batches = iter([200, 200, 7])
        asked = []

        def forget():
            asked.append(next(batches, 0))
            return asked[-1]

        sweeper = Sweeper(Fleet(1).by(0), every_s=1.0, forget=forget)
        told = [sweeper.step().forgotten for _ in range(6)]
        assert told == [200, 200, 7, 0, 0, 0]
        assert asked == [200, 200, 7, 0]
