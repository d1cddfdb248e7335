"""Signed checkpoints: what was signed cannot be changed unseen, and the public keys say who signed."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.errors import Misconfigured
from orchestrator.vault import checkpoint, examine, proof, signing
from orchestrator.vault.chain import Sealer
from orchestrator.vault.checkpoint import NOTHING, Leaf
from orchestrator.vault.signing import Signer

SIGNER, OTHER, THIRD = (Signer(bytes([n]) * 32) for n in (1, 2, 3))
SEALER = Sealer(b"a key for tests")
AT = "2026-01-01T12:00:00+00:00"
RING = signing.read(signing.line(SIGNER.public, by=None, since=AT))


def chain(name="plan 1", length=5):
    records, prev = [], b""
    for number in range(1, length + 1):
        records.append(SEALER.seal(chain=name, number=number, kind="k", body={"n": number}, prev=prev))
        prev = records[-1].mac
    return records


def leaf_of(records):
    fold = checkpoint.fold(NOTHING, map(checkpoint.digest_of, records))
    return Leaf(records[0].chain, len(records), records[-1].mac, fold)


def series(*counts, signer=SIGNER):
    """Checkpoints of two chains that grew to these lengths."""
    made = None
    for count in counts:
        leaves = [leaf_of(chain("plan 1", count)), leaf_of(chain("plan 2", count + 1))]
        made = checkpoint.make(signer, leaves, at=AT, after=made)
        yield made


LINES = [one.line() for one in series(1, 2, 3)]
READ = [checkpoint.read(line) for line in LINES]


def names(faults):
    return [fault.name for fault in faults]


class TestACheckpoint:
    def test_is_read_as_it_was_written(self):
        (made,) = series(3)
        assert checkpoint.read(made.line()) == made
        assert checkpoint.fault_of(made, RING, "a test") is None

    def test_names_the_one_before_it(self):
        made = list(series(1, 2, 3))
        assert [one.number for one in made] == [1, 2, 3]
        assert all(later.prev == earlier.identity() for earlier, later in pairwise(made))
        assert made[0].prev == NOTHING

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            ({"at": "2026-01-02T12:00:00+00:00"}, "signature_wrong"),
            ({"number": 9}, "signature_wrong"),
            ({"prev": b"x" * 32}, "signature_wrong"),
            ({"root": b"x" * 32}, "signature_wrong"),
            ({"size": 1}, "signature_wrong"),
            ({"signature": b"x" * 64}, "signature_wrong"),
            ({"key_id": OTHER.key_id}, "signer_unknown"),
            ({"leaves": ()}, "leaves_altered"),
            ({"leaves": (leaf_of(chain("plan 1", 3)), leaf_of(chain("plan 3", 4)))}, "leaves_altered"),
        ],
        ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
    )
    def test_that_was_altered_is_named(self, change, name):
        (made,) = series(3)
        assert checkpoint.fault_of(replace(made, **change), RING, "a test").name == name

    def test_of_a_stranger_is_not_believed(self):
        (made,) = series(3, signer=OTHER)
        assert checkpoint.fault_of(made, RING, "a test").name == "signer_unknown"

    @pytest.mark.parametrize(
        "line", [b"", b"{}", b"[]", b"7", b"not json", b'{"checkpoint": {}, "leaves": []}']
    )
    def test_is_nothing_of_another_form(self, line):
        with pytest.raises(ValueError, match=r"not a checkpoint|Expecting"):
            checkpoint.read(line)

    def test_with_something_added_to_its_line_is_not_one(self):
        (made,) = series(3)
        with pytest.raises(ValueError, match="as it is written"):
            checkpoint.read(made.line().replace(b'{"checkpoint"', b'{"a":1,"checkpoint"'))


class TestASeries:
    def test_that_nobody_touched_holds(self):
        followed = examine.follow([one.line() for one in series(1, 2, 3)], RING, "a test")
        assert (followed.faults, followed.newest, len(followed.believed)) == ([], 3, 3)

    def test_in_another_order_does_not(self):
        one, two, three = (made.line() for made in series(1, 2, 3))
        assert "order_broken" in names(examine.follow([one, three, two], RING, "a test").faults)

    def test_whose_next_one_follows_another_story_does_not(self):
        one, *_ = series(1, 2)
        *_, two = series(3, 2)
        assert names(examine.follow([one.line(), two.line()], RING, "a test").faults) == ["order_broken"]

    @given(st.data())
    def test_in_which_any_byte_was_changed_does_not(self, data):
        text = b"".join(LINES)
        at = data.draw(st.integers(0, len(text) - 1))
        to = data.draw(st.integers(0, 255).filter(lambda byte: byte != text[at]))
        altered = text[:at] + bytes([to]) + text[at + 1 :]
        lines = [line for line in altered.split(b"\n") if line.strip()]
        followed = examine.follow(lines, RING, "a test")
        inside = examine.follow(LINES, RING, "the database")
        assert followed.faults or examine.compare(inside, followed) or [*followed.found.values()] == READ

    def test_promises_what_every_one_of_them_says(self):
        followed = examine.follow([one.line() for one in series(1, 3)], RING, "a test")
        assert [p.leaf.count for p in examine.promises(followed)["plan 2"]] == [2, 4]


class TestTheRing:
    def test_knows_every_key_that_ever_signed(self):
        text = signing.line(SIGNER.public, by=None, since=AT) + signing.line(
            OTHER.public, by=SIGNER, since=AT
        )
        assert list(signing.read(text).keys) == [SIGNER.key_id, OTHER.key_id]

    def test_does_not_take_a_key_that_none_before_it_endorsed(self):
        stranger = signing.line(THIRD.public, by=OTHER, since=AT)
        with pytest.raises(Misconfigured, match="endorsed by none"):
            signing.read(signing.line(SIGNER.public, by=None, since=AT) + stranger)

    @pytest.mark.parametrize("by", [None, THIRD])
    def test_does_not_take_a_key_that_endorses_itself(self, by):
        with pytest.raises(Misconfigured, match="endorsed by none"):
            signing.read(
                signing.line(SIGNER.public, by=None, since=AT) + signing.line(THIRD.public, by=by, since=AT)
            )

    def test_does_not_take_a_key_under_a_name_that_is_not_its_own(self):
        line = signing.line(SIGNER.public, by=None, since=AT).replace(SIGNER.key_id, OTHER.key_id)
        with pytest.raises(Misconfigured, match="not its own"):
            signing.read(line)

    @pytest.mark.parametrize("text", ["", "\n", "{}", "[]", "not json"])
    def test_is_nothing_of_another_form(self, text):
        with pytest.raises(Misconfigured):
            signing.read(text)

    def test_does_not_print_the_private_key(self):
        assert SIGNER.seed.hex() not in repr(SIGNER)
        assert "seed" not in repr(SIGNER)


class TestAProof:
    @pytest.mark.parametrize("number", [1, 2, 5])
    def test_of_a_record_holds_with_the_public_key_only(self, number):
        (covering,) = series(5)
        assert proof.check(proof.prove(chain(), number, covering), RING) is None

    def test_of_a_record_that_came_before_others_holds(self):
        *_, covering = series(2, 4)
        assert proof.check(proof.prove(chain(), 3, covering), RING) is None

    @pytest.mark.parametrize(
        ("alter", "name"),
        [
            (lambda p: p["record"].update(body='{"n":7}'), "record_altered"),
            (lambda p: p["record"].update(kind="other"), "record_altered"),
            (lambda p: p["record"].update(number=2), "record_altered"),
            (lambda p: p["record"].update(chain="plan 2"), "record_altered"),
            (lambda p: p.update(before="00" * 32), "record_altered"),
            (lambda p: p["after"].pop(), "record_altered"),
            (lambda p: p["leaf"].__setitem__(1, 4), "leaves_altered"),
            (lambda p: p.update(index=1), "leaves_altered"),
            (lambda p: p["path"].pop(), "leaves_altered"),
            (lambda p: p["checkpoint"].update(at="2020-01-01"), "signature_wrong"),
            (lambda p: p["checkpoint"].update(root="00" * 32), "signature_wrong"),
            (lambda p: p.update(key_id="ed-000000000000"), "signer_unknown"),
        ],
        ids=range(12),
    )
    def test_that_was_altered_is_named(self, alter, name):
        (covering,) = series(5)
        made = proof.prove(chain(), 3, covering)
        alter(made)
        assert proof.check(made, RING).name == name


def test_every_name_of_a_fault_is_in_the_catalogue():
    said = set()
    for path in Path(examine.__file__).parent.glob("*.py"):
        said |= set(re.findall(r'Fault\(\s*"(\w+)"', path.read_text(encoding="utf-8")))
    assert said <= set(examine.FAULTS)
    assert set(examine.FAULTS) - said == {
        "checkpoint_damaged",
        "file_damaged",
        "file_gone",
        "head_differs",
        "key_missing",
        "record_doubled",
        "record_moved",
        "tail_cut",
    }
