"""Hashes many things into one root, and shows that one of them is under it: the tree of RFC 6962.

    leaf = SHA-256(00 ‖ data)        node = SHA-256(01 ‖ left ‖ right)

A leaf can never be taken for a node. Where a level has an odd end, that node rises as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def leaf(data: bytes) -> bytes:
    """Return the hash of one thing."""
    return hashlib.sha256(b"\x00" + data).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the hash over all leaves in their order; that of nothing is the hash of no bytes."""
    level = list(leaves)
    if not level:
        return hashlib.sha256(b"").digest()
    while len(level) > 1:
        level = _above(level)
    return level[0]


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return what must be hashed to the leaf at `index`, from the bottom up, to come to the root."""
    level, found = list(leaves), []
    while len(level) > 1:
        beside = index ^ 1
        if beside < len(level):
            found.append(level[beside])
        level, index = _above(level), index // 2
    return found


def climb(hashed: bytes, *, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that a leaf's path leads to in a tree of `size` leaves; `None` if the path cannot be one."""
    if not 0 <= index < size:
        return None
    steps = list(path)
    while size > 1:
        if index ^ 1 < size:
            if not steps:
                return None
            beside = steps.pop(0)
            hashed = _node(beside, hashed) if index % 2 else _node(hashed, beside)
        index, size = index // 2, (size + 1) // 2
    return hashed if not steps else None


def _above(level: Sequence[bytes]) -> list[bytes]:
    paired = [_node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    return [*paired, level[-1]] if len(level) % 2 else paired


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
