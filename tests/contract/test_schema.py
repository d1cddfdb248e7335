"""The migrated database is the one that was reviewed, and speaks the same words as the program."""

from __future__ import annotations

import re

import psycopg
import pytest

from orchestrator.domain.plan import (
    ApprovalState,
    CallState,
    NotificationState,
    Phase,
    PlanState,
    Semantics,
    StepState,
)
from orchestrator.domain.secret import SecretState
from scripts import schema

pytestmark = pytest.mark.postgres

WORDS = {
    "plan_state_check": PlanState,
    "step_state_check": StepState,
    "step_phase_check": Phase,
    "call_state_check": CallState,
    "call_semantics_check": Semantics,
    "approval_state_check": ApprovalState,
    "notification_state_check": NotificationState,
    "secret_version_state_check": SecretState,
}


@pytest.fixture
def connection(dsn):
    with psycopg.connect(dsn) as connection:
        yield connection


def test_the_migrations_make_the_schema_that_was_reviewed(connection):
    golden = schema.GOLDEN.read_text(encoding="utf-8")
    assert schema.describe(connection) == golden, (
        "The migrations no longer make migrations/schema.sql. "
        "If that is meant, run `python scripts/schema.py --write` and review what changed."
    )


@pytest.mark.parametrize("constraint", WORDS)
def test_the_database_knows_the_program_s_words_and_no_others(connection, constraint):
    query = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s"
    (definition,) = connection.execute(query, [constraint]).fetchone()
    assert set(re.findall(r"'(\w+)'::text", definition)) == {str(word) for word in WORDS[constraint]}


def test_every_list_of_words_in_the_database_is_one_that_is_checked(connection):
    query = """
        SELECT conname
          FROM pg_constraint
         WHERE contype = 'c' AND conname ~ '_(state|phase|semantics)_check$'
    """
    # a dead letter's states have no enumeration; the store's suite goes through all of them
    assert {row[0] for row in connection.execute(query)} == {*WORDS, "dead_letter_state_check"}
