"""A policy that is changed takes effect in a process that runs, if it passes its own tests, and otherwise not at all."""

from __future__ import annotations

import shutil
import time

import pytest
import structlog

from orchestrator import house
from workers.gate.policy import EmbeddedEnforcer
from workers.gate.watch import Watch

ASKED = {
    "subject": {"name": "ada", "tenant_id": "acme", "roles": ["viewer"]},
    "action": {"type": "plan.read", "tenant_id": "acme"},
    "context": {},
}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "policies"
    shutil.copytree(house.path("policies"), made)
    return made


@pytest.fixture
def enforcer(folder):
    return EmbeddedEnforcer(folder)


@pytest.fixture
def said():
    with structlog.testing.capture_logs() as lines:
        yield lines


def add(folder, text):
    file = folder / "actions.rego"
    file.write_text(file.read_text() + text)


def test_one_that_has_not_changed_stays(enforcer, folder, said):
    assert not Watch(enforcer, folder).look()
    assert said == []


def test_one_that_has_changed_is_in_force_from_the_next_decision_on(enforcer, folder, said):
    watch, before = Watch(enforcer, folder), enforcer.revision
    add(folder, "\n# another word\n")
    assert watch.look()
    assert enforcer.revision != before
    assert enforcer.decide("orchestrator.actions", ASKED).revision == enforcer.revision
    assert [(line["event"], line["before"]) for line in said] == [("policy.reloaded", before)]
    assert not watch.look()


@pytest.mark.parametrize(
    "broken", ["\nthis is no rego", "\nallow := true\n"], ids=["does not compile", "fails its tests"]
)
def test_one_that_does_not_hold_is_refused_once_and_the_earlier_stays(enforcer, folder, said, broken):
    watch, before = Watch(enforcer, folder), enforcer.revision
    whole = (folder / "actions.rego").read_text()
    add(folder, broken)
    assert not watch.look()
    assert not watch.look()
    assert (enforcer.revision, [line["event"] for line in said]) == (before, ["policy.refused"])
    assert enforcer.decide("orchestrator.actions", ASKED).allow
    (folder / "actions.rego").write_text(f"{whole}\n# mended\n")
    assert watch.look()
    assert enforcer.revision != before


def test_a_folder_that_is_gone_leaves_the_policy_in_force(enforcer, folder, said):
    watch = Watch(enforcer, folder)
    shutil.rmtree(folder)
    assert not watch.look()
    assert enforcer.decide("orchestrator.actions", ASKED).allow


def test_it_looks_by_itself(enforcer, folder):
    before = enforcer.revision
    Watch(enforcer, folder).start(0.02)
    add(folder, "\n# another word\n")
    until = time.monotonic() + 60
    while enforcer.revision == before and time.monotonic() < until:
        time.sleep(0.02)
    assert enforcer.revision != before
