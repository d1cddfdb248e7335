"""Looks for every trace of tampering: chains against their seals, their plans, and all checkpoints ever signed.

What a checkpoint says of a chain stays true for ever, for chains only grow. So whatever was signed once, in the database
or in the file outside, is a promise that the chain of today must keep.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from orchestrator.domain.plan import AuditRecord
from orchestrator.vault import checkpoint
from orchestrator.vault.chain import Break, Sealer
from orchestrator.vault.checkpoint import NOTHING, Checkpoint, Fault, Leaf
from orchestrator.vault.notary import Archive, Head
from orchestrator.vault.signing import Ring

FAULTS: Final[Mapping[str, str]] = {
    "chain_cut": "a chain ends before a record that a checkpoint covers",
    "chain_gone": "a checkpoint knows a chain, and neither a plan nor a ledger does: it was deleted",
    "chain_rewritten": "a record, or one before it, is not the one that a checkpoint covers",
    "chain_unclaimed": "there are records of a chain that neither a plan nor a ledger knows",
    "checkpoint_damaged": "a checkpoint is not of the form",
    "checkpoint_differs": "a checkpoint in the database is another than the one of that number in the file",
    "checkpoint_gone": "a checkpoint is not in the database, though others are",
    "checkpoints_gone": "the file has checkpoints, and the database none",
    "database_older": "the file goes on where the checkpoints of the database end: an older database was restored",
    "export_altered": "an export is not the one that its manifest is about",
    "file_damaged": "a line of the file is not a checkpoint: it was altered or torn",
    "file_gone": "the database has checkpoints, and the file is not there",
    "file_line_gone": "a checkpoint is missing inside the file",
    "file_truncated": "the file ends before the checkpoints of the database do",
    "head_differs": "a chain does not end as its plan says",
    "key_missing": "a record is sealed with a key that is not at hand",
    "leaves_altered": "the chains of a checkpoint are not those that were signed",
    "order_broken": "a checkpoint does not follow the one before it",
    "record_altered": "a record is not as it was sealed",
    "record_doubled": "two records have one number",
    "record_missing": "a record is missing inside a chain",
    "record_moved": "a record does not follow the one before it",
    "signature_wrong": "a checkpoint's signature is not that of its text",
    "signer_unknown": "a checkpoint is signed with a key that is not known",
    "tail_cut": "a chain is shorter than its plan says",
}
"""Every name that a fault can have, and what it means."""

PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Promise:
    """What a believed checkpoint says of a chain."""

    leaf: Leaf
    checkpoint: int


@dataclass(slots=True)
class Series:
    """Checkpoints of one place in order, what is wrong with them, and those that can be believed."""

    where: str
    found: dict[int, Checkpoint] = field(default_factory=dict)
    believed: list[Checkpoint] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def newest(self) -> int:
        """The number of the last; 0 where there is none."""
        return max(self.found, default=0)


@dataclass(slots=True)
class Examined:
    """What an examination came to."""

    plans: int = 0
    records: int = 0
    uncovered: int = 0
    checkpoints: int = 0
    newest: Checkpoint | None = None
    faults: list[Fault] = field(default_factory=list)


def follow(lines: Iterable[bytes], ring: Ring, where: str, *, damaged: str = "checkpoint_damaged") -> Series:
    """Return the checkpoints of these lines, each looked at by itself and as the one after another."""
    series, last = Series(where), None
    for position, line in enumerate(lines, start=1):
        try:
            one = checkpoint.read(line)
        except ValueError:
            series.faults.append(Fault(damaged, f"checkpoint {position} in {where} is damaged"))
            last = None
            continue
        fault = checkpoint.fault_of(one, ring, where)
        if fault is not None:
            series.faults.append(fault)
        else:
            series.believed.append(one)
            series.faults += _order(one, last, where)
        series.found.setdefault(one.number, one)
        last = one
    return series


def _order(one: Checkpoint, last: Checkpoint | None, where: str) -> list[Fault]:
    named = f"checkpoint {one.number} in {where}"
    if last is None:
        follows = one.number > 1 or one.prev == NOTHING
    elif one.number == last.number + 1:
        follows = one.prev == last.identity()
    else:
        follows = (
            one.number > last.number
        )  # those between are missing, which is told where both places are compared
    return [] if follows else [Fault("order_broken", f"{named} does not follow the one before it")]


def compare(inside: Series, outside: Series | None) -> list[Fault]:
    """Return what the database and the file tell differently about checkpoints."""
    if outside is None:
        return _gaps(inside)
    faults = []
    missing = sorted(set(outside.found) - set(inside.found))
    if missing and not inside.found:
        said = f"the file has {len(missing)} checkpoints, and the database has none of them"
        faults.append(Fault("checkpoints_gone", said))
    elif missing and missing[0] > inside.newest:
        said = (
            f"the checkpoints of the database end with {inside.newest}, those of the file with "
            f"{outside.newest}: an older database was restored"
        )
        faults.append(Fault("database_older", said))
    else:
        faults += [Fault("checkpoint_gone", f"checkpoint {n} is not in the database") for n in missing]
    lacking = sorted(set(inside.found) - set(outside.found))
    if lacking and lacking[0] > outside.newest and not outside.faults:
        said = f"the file ends with checkpoint {outside.newest}, the database with {inside.newest}"
        faults.append(Fault("file_truncated", said))
    elif not outside.faults:
        faults += [Fault("file_line_gone", f"checkpoint {n} is not in the file") for n in lacking]
    for number in sorted(set(inside.found) & set(outside.found)):
        if inside.found[number].line() != outside.found[number].line():
            said = f"checkpoint {number} in the database is not the one in the file"
            faults.append(Fault("checkpoint_differs", said))
    return faults


def _gaps(series: Series) -> list[Fault]:
    return [
        Fault("checkpoint_gone", f"checkpoint {number} is not in {series.where}")
        for number in range(1, series.newest)
        if number not in series.found and not series.faults
    ]


def promises(*places: Series | None) -> Mapping[str, Sequence[Promise]]:
    """Return what all believed checkpoints say, by chain and by number of records."""
    said: dict[str, dict[tuple[int, bytes, bytes], Promise]] = defaultdict(dict)
    for place in places:
        for one in place.believed if place else ():
            for leaf in one.leaves:
                said[leaf.chain].setdefault((leaf.count, leaf.head, leaf.fold), Promise(leaf, one.number))
    return {chain: [by[key] for key in sorted(by)] for chain, by in said.items()}


def faults_of(
    head: Head, records: Sequence[AuditRecord], promised: Sequence[Promise], sealer: Sealer
) -> list[Fault]:
    """Return how a chain breaks: the first place by its seals, and the first by what was signed."""
    faults = []
    broken = sealer.verify(head.chain, records, count=head.count, head=head.head)
    if broken is not None:
        faults.append(_named(broken))
    folded, at = NOTHING, 0
    for promise in promised:
        leaf = promise.leaf
        if leaf.count > len(records):
            said = f"the chain ends at record {len(records)}, and checkpoint {promise.checkpoint} covers {leaf.count}"
            faults.append(Fault("chain_cut", said, head.chain, len(records) + 1))
            break
        folded = checkpoint.fold(folded, map(checkpoint.digest_of, records[at : leaf.count]))
        at = leaf.count
        if folded != leaf.fold or records[at - 1].mac != leaf.head:
            said = f"the chain up to record {at} is not the one that checkpoint {promise.checkpoint} covers"
            faults.append(Fault("chain_rewritten", said, head.chain, at))
            break
    return faults


def _named(broken: Break) -> Fault:
    return Fault(broken.name, broken.fault, broken.chain, broken.number)


def inside(archive: Archive, ring: Ring) -> Series:
    """Return the checkpoints of the database."""
    return follow(_lines(archive), ring, "the database")


def _lines(archive: Archive) -> Iterator[bytes]:
    after = 0
    while True:
        with archive.transaction() as tx:
            lines = tx.checkpoint_lines(after, 50)
        if not lines:
            return
        yield from lines
        try:
            after = checkpoint.read(lines[-1]).number
        except ValueError:
            after += len(lines)


def examine(
    archive: Archive,
    sealer: Sealer,
    series: Sequence[Series | None],
    *,
    only: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Examined:
    """Check every chain, or one, and return what is wrong; `progress` is told of the records seen so far.

    Checkpoints must have been read before: a chain may grow meanwhile, which breaks no promise.
    """
    done, promised = Examined(), promises(*series)
    seen: set[str] = set()
    for heads, records in pages(archive, only):
        by_chain = {chain: list(rows) for chain, rows in groupby(records, key=lambda record: record.chain)}
        for head in heads:
            seen.add(head.chain)
            rows = by_chain.get(head.chain, [])
            kept = promised.get(head.chain, ())
            done.plans, done.records = done.plans + 1, done.records + len(rows)
            done.uncovered += max(0, len(rows) - (kept[-1].leaf.count if kept else 0))
            done.faults += faults_of(head, rows, kept, sealer)
        progress(done.records)
    for chain in sorted(set(promised) - seen):
        if only in {None, chain}:
            last = promised[chain][-1]
            said = f"it is gone: checkpoint {last.checkpoint} knows it with {last.leaf.count} records"
            done.faults.append(Fault("chain_gone", said, chain))
    if only is None:
        with archive.transaction() as tx:
            strays = tx.strays()
        said = "there are records of it, and no plan"
        done.faults += [Fault("chain_unclaimed", said, chain) for chain in strays]
    return done


def pages(archive: Archive, only: str | None) -> Iterator[tuple[Sequence[Head], Sequence[AuditRecord]]]:
    """Give all chains, or one, a page at a time: what is remembered of them, and their records, of one moment."""
    after: str | None = None
    while True:
        with archive.snapshot() as tx:
            # of one moment, so that the chains and what the plans remember of them belong together
            heads = [tx.head(only)] if only else tx.heads(after, PAGE)
            found = [head for head in heads if head is not None]
            chains = [head.chain for head in found]
            records = tx.records_between(chains, [0] * len(chains)) if chains else ()
        if found:
            yield found, records
        if only or len(found) < PAGE:
            return
        after = found[-1].chain
