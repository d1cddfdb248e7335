"""Prints, after all tests, one table of what every fault did to every promise. `CHAOS_REPORT=FILE` keeps it.

Where several processes share the tests, each hands its rows to the one that prints.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from tests.chaos import judging

ROWS = pytest.StashKey[list[judging.Row]]()
FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def table(pytestconfig):
    """The rows of the table; a test adds its own before it asserts anything about them."""
    return pytestconfig.stash.setdefault(ROWS, [])


@pytest.fixture(scope="session")
def figures(pytestconfig):
    """Sentences with what was measured, printed below the table."""
    return pytestconfig.stash.setdefault(FIGURES, [])


def pytest_sessionfinish(session):
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["rows"] = [dataclasses.astuple(row) for row in session.config.stash.get(ROWS, [])]
        told["figures"] = session.config.stash.get(FIGURES, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    told = getattr(node, "workeroutput", {})  # one that died tells nothing
    node.config.stash.setdefault(ROWS, []).extend(judging.Row(*row) for row in told.get("rows", []))
    node.config.stash.setdefault(FIGURES, []).extend(told.get("figures", []))


def pytest_terminal_summary(terminalreporter, config):
    rows, figures = config.stash.get(ROWS, []), config.stash.get(FIGURES, [])
    if rows:
        terminalreporter.section("faults and promises")
        terminalreporter.write_line(judging.as_text(rows))
    for figure in figures:
        terminalreporter.write_line(figure)
    kept = os.environ.get("CHAOS_REPORT")
    if kept and (rows or figures):
        told = [judging.as_markdown(rows)] if rows else []
        told.append("\n".join(f"- {figure}" for figure in figures))
        Path(kept).write_text("\n\n".join(told) + "\n", encoding="utf-8")
