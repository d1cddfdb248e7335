"""Kills the real process at random moments and compares what it comes to with an undisturbed run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("CHAOS_SEED", "20261121"))
RUNS = int(os.environ.get("CHAOS_RUNS", "20"))
GOAL = "Compare mortise locks and rim locks on strength"

DOCUMENTS = {
    "mortise.md": "# Mortise locks\n\nA mortise lock is set into a pocket cut in the edge of the door.\n\n"
    "## Strength\n\nThe strength of mortise locks comes from the case around the bolt.\n",
    "rim.md": "# Rim locks\n\nA rim lock is screwed to the surface of the door.\n\n"
    "## Strength\n\nThe strength of rim locks depends on the screws that hold the case.\n",
    "hinges.txt": "Hinges\n******\n\nA hinge lets a door swing. Most doors have three of them.\n",
}


@pytest.fixture(scope="module")
def place():
    # a short path: the database's socket lies in it
    folder = Path(tempfile.mkdtemp(prefix="ck"))
    docs = folder / "docs"
    docs.mkdir()
    for name, text in DOCUMENTS.items():
        (docs / name).write_text(text)
    yield folder
    subprocess.run(
        [sys.executable, "-c", _STOP_DATABASE, str(folder / "data")],
        cwd=ROOT,
        check=False,
        capture_output=True,
    )
    shutil.rmtree(folder, ignore_errors=True)


_STOP_DATABASE = """
import sys
from pathlib import Path
from orchestrator.database import Embedded
Embedded(Path(sys.argv[1])).close()
"""


def begin(place, goal, *options, witness=None):
    command = [
        sys.executable,
        "tests/chaos/driver.py",
        str(place / "data"),
        str(place / "docs"),
        goal,
        *options,
    ]
    if witness is not None:
        command += ["--witness", str(witness)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(place, goal, *options, witness=None):
    process = begin(place, goal, *options, witness=witness)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out)


def kill(process, after_s):
    """Kill a process after a while; how long it lived if it came to its end before, or else `None`."""
    began = time.monotonic()
    try:
        process.communicate(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=120)
        return None
    return time.monotonic() - began


def words_of(report, goal):
    return report.replace(goal, GOAL)


def executions(witness):
    return Counter(witness.read_text().splitlines()) if witness.exists() else Counter()


def repeats_of_finished_calls(audit):
    """Calls that were intended again although an outcome `done` had been recorded."""
    done, repeated = set(), []
    for kind, body in audit:
        call = (body.get("step"), body.get("call"), body.get("occurrence"))
        if kind == "tool.intent" and call in done:
            repeated.append(call)
        if kind == "tool.outcome" and body["state"] == "done":
            done.add(call)
    return repeated


def test_a_run_that_is_killed_at_random_moments_ends_with_the_report_of_an_undisturbed_one(place):
    undisturbed = finish(place, GOAL, witness=place / "witness")
    needed = executions(place / "witness").total()
    assert undisturbed["state"] == "succeeded"
    assert "The strength of rim locks depends on the screws" in undisturbed["report"]
    started = time.monotonic()
    finish(place, f"{GOAL} once more")
    whole_s = time.monotonic() - started

    rng = random.Random(SEED)
    kills = extra = 0
    for run in range(RUNS):
        goal = GOAL + "?" * (run + 1)
        witness = place / f"witness{run}"
        for _ in range(rng.choice([1, 1, 2])):
            process = begin(place, goal, witness=witness)
            lived_s = kill(process, rng.uniform(0.35, 1.0) * whole_s)
            kills += lived_s is None
            # the machine is less busy than it was: whoever is killed by the old measure is through before
            whole_s = lived_s or whole_s
        resumed = finish(place, goal, witness=witness)

        assert resumed["state"] == "succeeded", f"seed {SEED}, run {run}: {resumed['reason']}"
        assert words_of(resumed["report"], goal) == undisturbed["report"], f"seed {SEED}, run {run}"
        assert resumed["audit_fault"] is None
        assert repeats_of_finished_calls(resumed["audit"]) == []
        # a call in flight when the process died may run again; one that had finished never does
        unsure = sum(kind == "tool.unknown" for kind, _ in resumed["audit"])
        again = executions(witness).total() - needed
        assert 0 <= again <= unsure, (
            f"seed {SEED}, run {run}: {again} more calls than needed, {unsure} unknown"
        )
        extra += again
    print(
        f"\nseed {SEED}: {RUNS} runs, {kills} kills, {extra} calls in flight made again, 0 finished calls repeated"
    )
    assert kills >= RUNS // 2


class TestWhatCannotSucceed:
    def test_a_step_that_always_fails_ends_in_a_dead_letter_and_is_retried_once_the_cause_is_gone(
        self, place
    ):
        goal = "What is a rim lock screwed to (fails)"
        failed = finish(place, goal, "--fault", "fails")
        assert failed["state"] == "dead_lettered"
        assert [(x["reason"], x["detail"], x["state"]) for x in failed["letters"]] == [
            ("tool_error", "The disk with the index is on fire.", "open")
        ]
        self.comes_to_an_answer(finish(place, goal, "--replay"))

    def test_a_tool_that_hangs_ends_in_a_dead_letter_and_is_retried_once_the_cause_is_gone(self, place):
        goal = "What is a rim lock screwed to (hangs)"
        hung = finish(place, goal, "--fault", "hangs")
        assert hung["state"] == "dead_lettered"
        assert hung["letters"][0]["reason"] == "timed_out"
        assert "did not answer within 0.5 s" in hung["letters"][0]["detail"]
        self.comes_to_an_answer(finish(place, goal, "--replay"))

    def test_a_step_that_kills_its_process_every_time_ends_in_a_dead_letter(self, place):
        goal = "What is a rim lock screwed to (kills)"
        deaths = 0
        for _ in range(10):
            process = begin(place, goal, "--fault", "kills")
            out, err = process.communicate(timeout=120)
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, err
            deaths += 1
        killed = json.loads(out)
        assert deaths == 3, "as many as it has attempts"
        assert killed["state"] == "dead_lettered"
        assert killed["letters"][0]["reason"] == "worker_lost"
        self.comes_to_an_answer(finish(place, goal, "--replay"))

    def comes_to_an_answer(self, replayed):
        assert replayed["state"] == "succeeded"
        assert "A rim lock is screwed to the surface of the door." in replayed["report"]
        assert [x["state"] for x in replayed["letters"]] == ["retried"]
        assert replayed["audit_fault"] is None
