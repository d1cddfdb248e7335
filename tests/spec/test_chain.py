"""The audit chain: whatever is altered, gone, moved, doubled or cut is noticed, and the record is named."""

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.vault.chain import Break, Sealer

SEALER = Sealer(b"a key for tests")
PLAN = "plan 1"
KINDS = ("plan.submitted", "tool.intent", "tool.outcome", "report.written", "plan.ended")


def chain(length=5, sealer=SEALER, name=PLAN):
    records, prev = [], b""
    for number in range(1, length + 1):
        record = sealer.seal(
            chain=name, number=number, kind=KINDS[(number - 1) % 5], body={"step": number}, prev=prev
        )
        records.append(record)
        prev = record.mac
    return records


def verify(records, *, written=None):
    """Check a chain against what its plan's row remembers: the chain as it was written."""
    written = chain() if written is None else written
    head = written[-1].mac if written else b""
    return SEALER.verify(PLAN, records, count=len(written), head=head)


class TestAChain:
    def test_that_nobody_touched_verifies(self):
        assert verify(chain()) is None

    def test_without_records_verifies(self):
        assert verify([], written=[]) is None

    @given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), max_size=8))
    def test_of_any_bodies_verifies(self, bodies):
        records, prev = [], b""
        for number, body in enumerate(bodies, start=1):
            records.append(SEALER.seal(chain=PLAN, number=number, kind="k", body=body, prev=prev))
            prev = records[-1].mac
        assert SEALER.verify(PLAN, records, count=len(records), head=prev) is None


class TestTampering:
    def test_with_a_body_is_named(self):
        records = chain()
        records[2] = replace(records[2], body=b'{"step":99}')
        assert verify(records) == Break(PLAN, 3, "record 3 (tool.outcome) was altered")

    def test_with_a_kind_is_named(self):
        records = chain()
        records[1] = replace(records[1], kind="tool.outcome")
        assert verify(records) == Break(PLAN, 2, "record 2 (tool.outcome) was altered")

    def test_by_deleting_a_record_in_the_middle_is_named(self):
        records = chain()
        del records[2]
        assert verify(records) == Break(PLAN, 3, "record 3 is missing")

    def test_by_deleting_the_first_record_is_named(self):
        assert verify(chain()[1:]) == Break(PLAN, 1, "record 1 is missing")

    def test_by_cutting_the_tail_is_missed_by_the_plan(self):
        assert verify(chain()[:3]) == Break(PLAN, 4, "record 4 is missing: 5 were written")

    def test_by_deleting_everything_is_missed_by_the_plan(self):
        assert verify([]) == Break(PLAN, 1, "record 1 is missing: 5 were written")

    def test_by_swapping_two_records_is_named(self):
        records = chain()
        records[1], records[2] = records[2], records[1]
        assert verify(records) == Break(PLAN, 2, "record 2 is missing")

    def test_by_doubling_a_record_is_named(self):
        records = chain()
        records.insert(2, records[1])
        assert verify(records) == Break(PLAN, 3, "record 3 is doubled")

    def test_by_renumbering_after_a_deletion_is_named(self):
        records = chain()
        del records[2]
        records[2:] = [replace(r, number=r.number - 1) for r in records[2:]]
        assert verify(records) == Break(
            PLAN, 3, "record 3 (report.written) does not follow the one before it"
        )

    def test_by_swapping_and_renumbering_is_named(self):
        records = chain()
        records[1], records[2] = replace(records[2], number=2), replace(records[1], number=3)
        assert verify(records) == Break(PLAN, 2, "record 2 (tool.outcome) does not follow the one before it")

    def test_by_moving_a_link_to_hide_it_is_named(self):
        records = chain()
        del records[2]
        records[2] = replace(records[2], number=3, prev=records[1].mac)
        assert verify(records) == Break(PLAN, 3, "record 3 (report.written) was altered")

    def test_by_appending_a_record_is_missed_by_the_plan(self):
        assert verify(chain(6)) == Break(
            PLAN, 6, f"the chain does not end where plan {PLAN} says that it ends"
        )

    def test_by_sealing_all_of_it_anew_with_another_key_is_named(self):
        forged = chain(sealer=Sealer(b"a guess"))
        assert verify(forged) == Break(PLAN, 1, "record 1 (plan.submitted) was altered")

    def test_by_a_key_of_another_name_is_named(self):
        forged = chain(sealer=Sealer(SEALER.key, "k2"))
        assert verify(forged).fault == "record 1 is sealed with key k2, which is not at hand"

    def test_by_passing_off_another_plans_chain_is_named(self):
        other = chain(name="plan 2")
        assert verify(other) == Break(PLAN, 1, "record 1 (plan.submitted) was altered")
        assert verify([replace(r, chain=PLAN) for r in other]).number == 1

    @given(st.integers(min_value=0, max_value=4), st.data())
    def test_with_any_byte_is_named(self, index, data):
        records = chain()
        record = records[index]
        name = data.draw(st.sampled_from(["body", "prev", "mac"]))
        old = getattr(record, name)
        at = data.draw(st.integers(min_value=0, max_value=max(0, len(old) - 1)))
        flip = data.draw(st.integers(min_value=1, max_value=255))
        new = (old[:at] + bytes([old[at] ^ flip]) + old[at + 1 :]) if old else b"x"
        records[index] = replace(record, **{name: new})
        # an altered seal of the last record is what the plan's own memory of it catches
        assert verify(records).number == index + 1


class TestASealer:
    def test_never_shows_its_key(self):
        assert "tests" not in repr(SEALER)
        assert "tests" not in str(SEALER)

    @pytest.mark.parametrize(
        ("first", "second"),
        [(("ab", "c"), ("a", "bc")), (("", "abc"), ("abc", ""))],
    )
    def test_tells_where_one_field_ends_and_the_next_begins(self, first, second):
        macs = {SEALER.seal(chain=c, number=1, kind=k, body={}, prev=b"").mac for c, k in (first, second)}
        assert len(macs) == 2

    def test_makes_digests_that_nobody_can_guess_from_who_lacks_the_key(self):
        same, other = Sealer(SEALER.key), Sealer(b"another key")
        assert SEALER.blind("a goal") == same.blind("a goal")
        assert len({SEALER.blind("a goal"), SEALER.blind("a gaol"), other.blind("a goal")}) == 3
        assert SEALER.blind("a goal") != sha256(b'"a goal"').hexdigest()
