"""The suite is worth something: with any one guard taken out of the queries, it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.queries import queries
from tests.conftest import SERVER_VARIABLE, TEMPLATE_VARIABLE
from tests.contract.mutations import MUTATIONS
from tests.simulator.mutations import unmeasured

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
FAILED = 1


@pytest.fixture(scope="module")
def runs(postgres_server) -> dict[str, dict]:
    """How the suite fared without each guard; two processes share the work."""
    server = {SERVER_VARIABLE: postgres_server.dsn, TEMPLATE_VARIABLE: postgres_server.template()}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.contract.mutations", *(m.name for m in MUTATIONS[half::2])],
            cwd=ROOT,
            env={**unmeasured(os.environ), **server},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for half in (0, 1)
    ]
    ended = [process.communicate(timeout=900) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    lines = [json.loads(line) for out, _ in ended for line in out.splitlines()]
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_without_a_guard_the_suite_fails(runs, mutation):
    run = runs[mutation.name]
    assert run["code"] == FAILED, f"{mutation.name}: nobody noticed.\n{run['printed']}"
    assert " failed" in run["printed"]
    assert "SyntaxError" not in run["printed"], run["printed"]


def test_every_guard_stands_where_it_is_said_to_stand():
    for mutation in MUTATIONS:
        assert mutation.apply(queries()) != queries()


def test_no_two_guards_share_a_name():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
