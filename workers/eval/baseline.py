"""Plain BM25, by SQLite, over the very passages that the product searches: what the product must not fall below.

`bm25` sees the text of each passage; `bm25_headings` sees the headings above it as well, in the same column. Both ask for
any word of the question that is no stop word, stemmed: what a few lines and the standard library come to.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from agents import terms
from workers.toolhost.documents.index import Passage

NAMES: Final = ("bm25", "bm25_headings")
"""The baselines, the plainer one first."""

_WORD: Final = re.compile(r"\w+")


class Baselines:
    """Both baselines over some passages; closed by `close`."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._connection = sqlite3.connect(":memory:")
        for name in NAMES:
            self._connection.execute(
                f"CREATE VIRTUAL TABLE {name} USING fts5 (body, tokenize = 'porter unicode61')"
            )
            self._connection.executemany(
                f"INSERT INTO {name} (rowid, body) VALUES (?, ?)",  # noqa: S608 - a name from the list above
                ((at, _body(passage, headed=name != NAMES[0])) for at, passage in enumerate(passages)),
            )

    def search(self, name: str, question: str, limit: int) -> list[Passage]:
        """Return the passages that match best, as the baseline of that name sees it."""
        words = _WORD.findall(terms.spaced(terms.fold(question)))
        telling = [word for word in words if word not in terms.STOP_WORDS] or words
        if not telling:
            return []
        asked = " OR ".join(f'"{word}"' for word in dict.fromkeys(telling))
        found = self._connection.execute(
            f"SELECT rowid FROM {name} WHERE {name} MATCH ? ORDER BY bm25({name}), rowid LIMIT ?",  # noqa: S608 - as above
            (asked, limit),
        )
        with closing(found):
            return [self._passages[rowid] for (rowid,) in found]

    def close(self) -> None:
        """Let go of the index."""
        self._connection.close()


def _body(passage: Passage, *, headed: bool) -> str:
    above = " / ".join(passage.heading) + "\n" if headed else ""
    return terms.spaced(above + passage.text)
