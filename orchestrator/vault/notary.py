"""Makes checkpoints: one process at a time among all replicas, only about chains that grew, and none against an older one.

    compare the file with the database ─ the file knows more ▶ Contradicted: an older database was restored
       │
    take turns (advisory lock) ─ somebody else, or too early ▶ nothing to do
       │
    chains that grew ─ one ends before its last leaf, or differs from it ▶ told, and not signed
       │
    sign, commit ─▶ append to the file what it lacks, and wait for the disk

A crash between commit and file is made up for at the next time: the file is brought up from the database.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from orchestrator.domain.errors import Conflict, Unavailable
from orchestrator.domain.plan import AuditRecord
from orchestrator.telemetry import log
from orchestrator.vault import checkpoint, outside
from orchestrator.vault.checkpoint import Checkpoint, Leaf
from orchestrator.vault.outside import Outside
from orchestrator.vault.signing import Ring, Signer

MOST: Final = 2_000
"""Chains in one checkpoint; where more have grown, several follow each other."""

_CATCH_UP: Final = 50


class Contradicted(Conflict):
    """What was signed before and what is there now cannot both be true."""

    code = "checkpoint_contradicted"


@dataclass(frozen=True, slots=True)
class Grown:
    """A chain that does not stand where its last leaf has it: how it stands now, that leaf, and the record there."""

    chain: str
    count: int
    head: bytes
    leaf: Leaf | None
    seal_there: bytes | None


@dataclass(frozen=True, slots=True)
class Head:
    """What the database remembers of a chain beside its records."""

    chain: str
    count: int
    head: bytes


class ArchiveTx(Protocol):
    """What checkpoints need of a transaction."""

    def now(self) -> datetime:
        """The database's time."""
        ...

    def take_turn(self) -> bool:
        """Whether this transaction alone may make a checkpoint, until it ends."""
        ...

    def checkpoint_lines(self, after: int, limit: int) -> Sequence[bytes]:
        """Checkpoints with a number above `after`, in order."""
        ...

    def newest_checkpoint(self) -> tuple[datetime, bytes] | None:
        """The newest checkpoint and when it was made."""
        ...

    def grown(self, limit: int) -> Sequence[Grown]:
        """Chains that differ from their last leaf, by id."""
        ...

    def records_between(self, chains: Sequence[str], behind: Sequence[int]) -> Sequence[AuditRecord]:
        """The records of each chain behind a number, by chain and number."""
        ...

    def add_checkpoint(self, made: Checkpoint) -> None:
        """Keep a checkpoint, and remember its leaves as the last of their chains."""
        ...

    def heads(self, after: str | None, limit: int) -> Sequence[Head]:
        """Chains above an id by id, as plans and ledgers remember them."""
        ...

    def head(self, chain: str) -> Head | None:
        """One chain, as its plan or ledger remembers it."""
        ...

    def strays(self) -> Sequence[str]:
        """Chains of records that no plan and no ledger remembers."""
        ...


class Archive(Protocol):
    """Where chains and checkpoints are kept."""

    def transaction(self) -> AbstractContextManager[ArchiveTx]:
        """Begin a transaction that commits at the end of the block."""
        ...

    def snapshot(self) -> AbstractContextManager[ArchiveTx]:
        """Begin a transaction that sees one state of everything."""
        ...


class Notary:
    """Makes checkpoints for as long as it is asked to."""

    def __init__(self, archive: Archive, signer: Signer, ring: Ring, file: Outside) -> None:
        self._archive = archive
        self._signer = signer
        self._ring = ring
        self._file = file
        self._told: set[str] = set()

    def step(self, *, every: timedelta = timedelta(0)) -> Sequence[Checkpoint]:
        """Make the checkpoints that are due, at least `every` apart, and bring the file up to date.

        Raises `Contradicted` when the file and the database tell different stories; nothing is signed then.
        """
        self._bring_up()
        made = list(self._made(every))
        if made:
            self._bring_up()
            log.info("checkpoint.made", number=made[-1].number, chains=sum(one.size for one in made))
        return made

    def forever(self, stopping: threading.Event, *, every_s: float, look_s: float) -> None:
        """Make checkpoints until told to stop."""
        patiently = _Patience()
        while not stopping.is_set():
            patiently(lambda: self.step(every=timedelta(seconds=every_s)))
            stopping.wait(look_s)

    def _made(self, every: timedelta) -> Iterator[Checkpoint]:
        while True:
            with self._archive.transaction() as tx:
                made = self._make(tx, every)
            if made is None:
                return
            yield made
            if made.size < MOST:
                return
            every = timedelta(0)

    def _make(self, tx: ArchiveTx, every: timedelta) -> Checkpoint | None:
        if not tx.take_turn():
            return None
        newest = tx.newest_checkpoint()
        if newest is not None and tx.now() - newest[0] < every:
            return None
        last = self._own(newest[1]) if newest is not None else None
        leaves = self._leaves(tx)
        if not leaves:
            return None
        made = checkpoint.make(self._signer, leaves, at=tx.now().isoformat(), after=last)
        tx.add_checkpoint(made)
        return made

    def _own(self, line: bytes) -> Checkpoint:
        """The newest checkpoint, if it is one that this process would believe."""
        try:
            last = checkpoint.read(line)
        except ValueError as error:
            raise Contradicted(
                "The newest checkpoint in the database is damaged; run `orchestrator audit verify`."
            ) from error
        fault = checkpoint.fault_of(last, self._ring, "the database")
        if fault is not None:
            raise Contradicted(
                f"No checkpoint can follow: {fault.said}. Every process that makes checkpoints needs the same "
                "checkpoint_key_file; if they have it, run `orchestrator audit verify`."
            )
        return last

    def _leaves(self, tx: ArchiveTx) -> list[Leaf]:
        grown = [one for one in tx.grown(MOST + len(self._told)) if not self._contradicted(one)][:MOST]
        counts = {one.chain: one.leaf.count if one.leaf else 0 for one in grown}
        digests: dict[str, list[bytes]] = {one.chain: [] for one in grown}
        for record in tx.records_between(list(counts), list(counts.values())):
            digests[record.chain].append(checkpoint.digest_of(record))
        return [
            Leaf(
                one.chain,
                one.count,
                one.head,
                checkpoint.fold(one.leaf.fold if one.leaf else checkpoint.NOTHING, digests[one.chain]),
            )
            for one in grown
            if len(digests[one.chain]) == one.count - counts[one.chain]
            or self._tell(one, "records are missing")
        ]

    def _contradicted(self, one: Grown) -> bool:
        if one.leaf is None:
            return False
        if one.count < one.leaf.count:
            return not self._tell(one, f"it ends at record {one.count}, and had {one.leaf.count}")
        if one.seal_there != one.leaf.head:
            return not self._tell(one, f"record {one.leaf.count} is not the one that was signed for")
        return False

    def _tell(self, one: Grown, why: str) -> bool:
        """Say once that a chain is not signed for, and return `False`."""
        if one.chain not in self._told:
            self._told.add(one.chain)
            log.error("checkpoint.contradicted", chain=one.chain, error=why)
        return False

    def _bring_up(self) -> None:
        with self._file.held() as descriptor:
            last = self._last(descriptor)
            number = last.number if last else 0
            self._agree(last)
            while True:
                with self._archive.transaction() as tx:
                    lines = tx.checkpoint_lines(number, _CATCH_UP)
                if not lines:
                    return
                outside.append(descriptor, lines)
                number += len(lines)

    def _last(self, descriptor: int) -> Checkpoint | None:
        line = outside.last_line(descriptor)
        if not line:
            return None
        try:
            return checkpoint.read(line)
        except ValueError as error:
            raise Contradicted(
                f"The last line of {self._file.path} is damaged; run `orchestrator audit verify`."
            ) from error

    def _agree(self, last: Checkpoint | None) -> None:
        if last is None:
            return
        with self._archive.transaction() as tx:
            lines = tx.checkpoint_lines(last.number - 1, 1)
        if not lines or lines[0].strip() != last.line().strip():
            raise Contradicted(
                f"{self._file.path} ends with checkpoint {last.number}, and the database "
                f"{'has another one of that number' if lines else 'does not have it'}: an older database may have "
                "been restored. Nothing is signed; run `orchestrator audit verify`, and see docs/how-to/audit.md."
            )


class _Patience:
    """Goes on after what may pass, and says the same thing once."""

    def __init__(self) -> None:
        self._said = ""

    def __call__(self, act: Callable[[], object]) -> None:
        try:
            act()
            self._said = ""
        except Contradicted as error:
            self._say("checkpoint.refused", str(error))
        except Unavailable as error:
            self._say("checkpoint.unwritten", str(error))
        except Exception as error:  # noqa: BLE001 - whatever it was, the next checkpoint must be made
            self._say("checkpoint.crashed", f"{type(error).__name__}: {error}")

    def _say(self, event: str, error: str) -> None:
        if error == self._said:
            return
        self._said = error
        match event:
            case "checkpoint.refused":
                log.error("checkpoint.refused", error=error)
            case "checkpoint.crashed":
                log.error("checkpoint.crashed", error=error)
            case _:
                log.warning("checkpoint.unwritten", error=error)
