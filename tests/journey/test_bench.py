"""What the bench measures, it measures on servers that are in use, and leaves them as they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import psycopg
import pytest

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


def databases(dsn):
    with psycopg.connect(dsn) as connection:
        return {row[0] for row in connection.execute("SELECT datname FROM pg_database")}


def test_measures_a_fleet_next_to_its_floor_and_leaves_no_database_behind(dsn, vhost, tmp_path):
    before = databases(dsn)
    chosen = {
        "ORCHESTRATOR_DATABASE_URL": dsn,
        "ORCHESTRATOR_BROKER_URL": vhost,
        "ORCHESTRATOR_DATA_DIR": str(tmp_path),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "workers.cli", "bench", "w1", "w3", "--plans", "10", "--json"],
        env={**os.environ, **chosen},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    tables = json.loads(ran.stdout)
    assert [[row["run"] for row in table["rows"]] for table in tables.values()] == [["floor", "fleet"]] * 2
    assert databases(dsn) == before
