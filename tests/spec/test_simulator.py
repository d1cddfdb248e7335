"""The simulator: thousands of worlds keep their promises, and every guard that is taken away is missed."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.simulator import mutations
from tests.simulator.__main__ import history, live

ROOT = Path(__file__).parents[2]
SEEDS = 2_000


@pytest.fixture(scope="module")
def pool():
    """All guards are taken away at once, in as many processes as there are cores."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield {m.name: pool.submit(mutations.catch, m) for m in mutations.MUTATIONS}
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def tally():
    return live(range(SEEDS))


def test_two_thousand_worlds_keep_every_promise(tally):
    assert tally.broken is None  # tell it with: python -m tests.simulator --seed N --trace
    assert tally.seeds == SEEDS


def test_the_worlds_are_as_bad_as_they_claim(tally):
    faults = tally.faults
    for kind in (
        "lose",
        "duplicate",
        "reorder",
        "wipe",
        "clock jump",
        "pause",
        "hang",
        "die",
        "lose connection",
    ):
        assert faults[kind] > 0, kind
    for who in (
        "die in a transaction",
        "relay dies",
        "consumer dies",
        "client dies",
        "person's request dies",
    ):
        for stage in ("before", "middle", "after"):
            assert faults[f"{who}, {stage}"] > 0, (who, stage)
    for kind in ("cancel", "retry", "discard", "garbage", "hasty people", "two at once", "budget spent"):
        assert faults[kind] > 0, kind


class TestASeed:
    def test_lives_the_same_history_each_time(self):
        for seed in range(40):
            assert history(seed) == history(seed)

    def test_lives_the_same_history_in_another_process(self):
        told = {
            subprocess.run(
                [sys.executable, "-m", "tests.simulator", "--seed", "11", "--trace"],
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": hashes},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for hashes in ("1", "2")
        }
        assert told == {"\n".join(history(11)[0]) + "\n"}

    def test_differs_from_its_neighbour(self):
        assert history(3) != history(4)


class TestAMissingGuard:
    @pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda m: m.name)
    def test_is_noticed(self, pool, mutation):
        caught = pool[mutation.name].result()
        assert caught is not None, f"{mutations.SEEDS} seeds did not notice that {mutation.name}"
        assert caught.promise in mutation.promises, caught

    def test_that_is_not_where_the_list_says_is_an_error(self, tmp_path):
        (tmp_path / "orchestrator").mkdir()
        (tmp_path / mutations.CONDUCTOR).write_text("twice twice")
        for text in ("twice", "never"):
            stale = mutations.Mutation("stale", (), (mutations.Edit(mutations.CONDUCTOR, text, ""),))
            with pytest.raises(ValueError, match="occurs"):
                mutations.apply(stale, tmp_path)

    def test_has_a_name_of_its_own(self):
        assert len({m.name for m in mutations.MUTATIONS}) == len(mutations.MUTATIONS) >= 20
