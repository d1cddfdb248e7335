"""The guards that `make guards` takes away are where it looks for them; taking them away is for that command."""

from __future__ import annotations

import shutil

import pytest

from scripts import guards
from tests.chaos.test_fleet import GROUPS


@pytest.mark.parametrize("guard", guards.GUARDS, ids=lambda g: g.name)
def test_a_guard_stands_where_it_is_said_to_stand(tmp_path, guard):
    for file in {edit.file for edit in guard.edits}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(guards.ROOT / file, tmp_path / file)

    guard.remove(tmp_path)

    for file in {edit.file for edit in guard.edits}:
        text = (tmp_path / file).read_text()
        assert text != (guards.ROOT / file).read_text()
        if file.endswith(".py"):
            compile(text, file, "exec")


def test_every_fault_that_must_notice_exists():
    known = {name for faults in GROUPS.values() for name in faults}
    assert {fault for guard in guards.GUARDS for fault in guard.part.faults} <= known


def test_no_two_guards_share_a_name():
    assert len({guard.name for guard in guards.GUARDS}) == len(guards.GUARDS)
