"""Remembers the text of a folder and finds passages in it; decides which passages a question deserves.

    folder --walk--> files --reading--> documents --passages--> one SQLite file per folder, full text indexed
                                                                        |
    question --terms--> OR query --bm25 (heading x 3)--> weighed by document and heading --> records: as they come
                                 --bm25 (text alone)-------------------------------------> prose: ranks of both

What is superseded, or an older version of what was found as well, comes after what is current, unless the question is
about the past. A refresh is one transaction: a process killed in the middle leaves the index as it was before. A damaged
index file is thrown away and built anew, since the folder holds everything that was in it.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import stat
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final, Protocol, Self, TypeAlias, TypeVar

from agents import terms, vintage
from workers.toolhost.documents import passages, reading

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many of how many files have been looked at."""

_T = TypeVar("_T")

_VERSION: Final = "7"
_BUSY_S: Final = 60.0
_POOL: Final = 400
_PER_DOCUMENT: Final = 50
_OTHERS_EVERY: Final = 4
_DOCUMENT_SHARE: Final = (1.0, 0.5)
_HEADING_SHARE: Final = (0.3, 0.15)
_TEXT_SHARE: Final = 0.85
_FUSED: Final = 10
_OUTGROWS: Final = 0.8
_RECORD: Final = 200
_PROSE: Final = 400
_STALE_SHARE: Final = 0.5
_COMPARED: Final = 30
_COMPARED_WHOLE: Final = 400
_MEANT: Final = 300
_BY_MEANING: Final = 1.0
_MOST_TERMS: Final = 64

_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE document (
    document_id INTEGER PRIMARY KEY,
    locator     TEXT NOT NULL UNIQUE,
    size        INTEGER NOT NULL,
    mtime_ns    INTEGER NOT NULL,
    title       TEXT NOT NULL,
    media_type  TEXT NOT NULL,
    text        TEXT NOT NULL,
    sha256      TEXT NOT NULL,
    text_sha256 TEXT NOT NULL,
    note        TEXT NOT NULL,
    reason      TEXT NOT NULL,
    dated       TEXT NOT NULL,
    superseded  TEXT NOT NULL
);
CREATE TABLE passage (
    passage_id  INTEGER PRIMARY KEY,
    document_id INTEGER NOT NULL,
    heading     TEXT NOT NULL,
    start       INTEGER NOT NULL,
    finish      INTEGER NOT NULL
);
CREATE INDEX passage_document ON passage (document_id);
CREATE TABLE vector (
    passage_id  INTEGER PRIMARY KEY,
    version     TEXT NOT NULL,
    vector      BLOB NOT NULL
);
CREATE VIRTUAL TABLE words USING fts5 (title, heading, body, named, tokenize = 'porter unicode61');
"""

_STRUCTURE: Final = (1.0, 3.0, 1.0, 2.0)
"""What a word counts in a title, in the headings, in the text, and where it is mentioned by name."""

_TEXT: Final = (0.0, 0.0, 1.0, 0.0)

_MATCH: Final = """
  SELECT words.rowid, passage.document_id, passage.heading, passage.finish - passage.start,
         -bm25(words, ?, ?, ?, ?) AS score
    FROM words
    JOIN passage ON passage.passage_id = words.rowid
   WHERE words MATCH ?
ORDER BY score DESC, words.rowid
   LIMIT ?
"""


class Meaning(Protocol):
    """Compares texts by what they mean; `version` names it, and vectors of another version are made anew."""

    version: str

    def vectors(self, texts: Sequence[str]) -> list[bytes]:
        """Return a vector for each text."""
        ...

    def closeness(self, question: bytes, vectors: Sequence[bytes]) -> list[float]:
        """Return how close each vector is to the question's, from -1.0 to 1.0."""
        ...


class FolderNotFound(Exception):
    """There is nothing at the path that was given."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"There is no folder {folder}.")
        self.folder = folder


class NotAFolder(Exception):
    """The path that was given is a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is a file; give the folder it is in.")
        self.folder = folder


class NothingReadable(Exception):
    """The folder holds no document that can be read; `skipped` says why each file was left out."""

    def __init__(self, folder: Path, skipped: tuple[reading.Unreadable, ...]) -> None:
        why = (
            f" {len(skipped)} were skipped; the first, {skipped[0].locator}: {skipped[0].reason}"
            if skipped
            else ""
        )
        super().__init__(f"The folder {folder} holds no document that can be read.{why}")
        self.folder = folder
        self.skipped = skipped


class IndexUnavailable(Exception):
    """The index itself cannot be used now: its disk is full or read-only, or another process holds it too long."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"The index {path.name} in {path.parent} cannot be used: {reason}.")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Summary:
    """What an index holds; `fingerprint` is the same for the same documents, wherever they are kept."""

    documents: int
    passages: int
    skipped: tuple[reading.Unreadable, ...]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that was found: the document's text from `start` up to `end`; a higher `score` is a better match.

    `dated` is the date of its document, as far as it gives one, and `superseded` why another has taken its place.
    `close` is how close it is to the question by what it means (up to 1.0); 0 where that was not compared.
    """

    locator: str
    title: str
    heading: tuple[str, ...]
    sha256: str
    text_sha256: str
    start: int
    end: int
    text: str
    score: float
    dated: str = ""
    superseded: str = ""
    close: float = 0.0


@dataclass(frozen=True, slots=True)
class _File:
    locator: str
    path: Path
    size: int
    mtime_ns: int
    refused: str = ""


class DocumentIndex:
    """The index of one folder; any number of threads and processes may use it at once."""

    def __init__(self, folder: Path, cache_dir: Path, meaning: Meaning | None = None) -> None:
        self.folder = folder
        self._meaning = meaning
        self.path = cache_dir / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.sqlite3"
        self._cache_dir = cache_dir
        self._mending = threading.Lock()

    @classmethod
    def open(cls, folder: Path, cache_dir: Path, meaning: Meaning | None = None) -> Self:
        """Return the index of `folder`, kept in `cache_dir`; it is empty until the first `refresh`.

        With `meaning`, what the words find is put in order by what it means as well.

        Raises:
            FolderNotFound: nothing is there.
            NotAFolder: a file is there.
            IndexUnavailable: `cache_dir` cannot be made.
        """
        try:
            resolved = folder.expanduser().resolve()
            found, is_folder = resolved.exists(), resolved.is_dir()
        except (OSError, RuntimeError, ValueError):
            raise FolderNotFound(folder) from None
        if not found:
            raise FolderNotFound(folder)
        if not is_folder:
            raise NotAFolder(folder)
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise IndexUnavailable(cache_dir, error.strerror or type(error).__name__) from error
        return cls(resolved, cache_dir.resolve(), meaning)

    def refresh(self, progress: Progress | None = None) -> Summary:
        """Bring the index up to date with the folder, reading only what has changed.

        Raises:
            NothingReadable: no file of the folder gives any text.
            IndexUnavailable: the index cannot be written now.
        """
        summary = self._safely(lambda connection: self._refresh(connection, progress))
        if not summary.documents:
            raise NothingReadable(self.folder, summary.skipped)
        return summary

    def is_built(self) -> bool:
        """Tell whether the folder has been indexed before."""
        return self.path.exists() and self._safely(_fingerprint) != ""

    def search(self, query: str, limit: int) -> list[Passage]:
        """Return up to `limit` passages that match the query, best first; the same index gives the same list."""
        expression = _expression(query)
        if not expression or limit < 1:
            return []
        return self._safely(lambda connection: _search(connection, expression, query, limit, self._meaning))

    def fetch(self, locator: str) -> reading.Document | None:
        """Return a document as it was when it was indexed, or `None` if the index has none of that name."""
        return self._safely(lambda connection: _fetch(connection, locator))

    def everything(self) -> tuple[list[reading.Document], list[Passage]]:
        """Return all that is indexed: the documents, and their passages in order, each with a score of 0."""
        return self._safely(_everything)

    # --- the file ---------------------------------------------------------------------------------------------

    def _safely(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do `work` on the index, building it anew first if the file turns out to be damaged."""
        try:
            with self._connected() as connection:
                return work(connection)
        except sqlite3.OperationalError as error:
            if not _is_damage(error):
                raise IndexUnavailable(self.path, str(error)) from error
        except sqlite3.DatabaseError:
            pass  # not a database, or not the one that was written
        with self._mending:
            self._discard()
            with self._connected() as connection:
                self._refresh(connection, None)
        with self._connected() as connection:
            return work(connection)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        try:
            _keep_a_log(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
            _prepare(connection)
            yield connection
        finally:
            connection.close()

    def _discard(self) -> None:
        # The log goes first: a log left beside a new file would be replayed into it.
        for suffix in ("-wal", "-shm", "-journal", ""):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    # --- refreshing -------------------------------------------------------------------------------------------

    def _refresh(self, connection: sqlite3.Connection, progress: Progress | None) -> Summary:
        with _transaction(connection):
            known = {
                locator: (document_id, size, mtime_ns)
                for document_id, locator, size, mtime_ns in connection.execute(
                    "SELECT document_id, locator, size, mtime_ns FROM document"
                )
            }
            files = sorted(self._walk(), key=lambda file: file.locator)
            for done, file in enumerate(files, 1):
                before = known.pop(file.locator, None)
                if before is None or before[1:] != (file.size, file.mtime_ns) or file.refused:
                    if before is not None:
                        _forget(connection, before[0])
                    self._remember(connection, file)
                if progress is not None:
                    progress(done, len(files))
            for document_id, _, _ in known.values():
                _forget(connection, document_id)
            return _summary(connection)

    def _remember(self, connection: sqlite3.Connection, file: _File) -> None:
        read: reading.Reading
        if file.refused:
            read = reading.Unreadable(file.locator, file.refused)
        else:
            read = reading.read(file.path, root=self.folder)
        if isinstance(read, reading.Unreadable):
            values = ("", "", "", "", "", "", read.reason, "", "")
        else:
            made = vintage.of(read.locator, read.title, read.text)
            dated = made.date.isoformat() if made.date else ""
            values = (
                *(read.title, read.media_type, read.text, read.sha256, read.text_sha256, read.note, ""),
                *(dated, made.why),
            )
        passing = isinstance(read, reading.Unreadable) and read.passing
        document_id = connection.execute(
            "INSERT INTO document (locator, size, mtime_ns, title, media_type, text, sha256, text_sha256, note, reason,"
            " dated, superseded) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (file.locator, file.size, -1 if passing else file.mtime_ns, *values),
        ).lastrowid
        if isinstance(read, reading.Unreadable):
            return
        title = terms.spaced(f"{read.title} {terms.locator_words(read.locator)}")
        for span in passages.cut(read):
            body = read.text[span.start : span.end]
            above = " / ".join(span.heading)
            passage_id = connection.execute(
                "INSERT INTO passage (document_id, heading, start, finish) VALUES (?, ?, ?, ?)",
                (document_id, json.dumps(span.heading, ensure_ascii=False), span.start, span.end),
            ).lastrowid
            named = " ".join(terms.encoded(name) for name in dict.fromkeys(terms.named(f"{above}\n{body}")))
            connection.execute(
                "INSERT INTO words (rowid, title, heading, body, named) VALUES (?, ?, ?, ?, ?)",
                (passage_id, title, terms.spaced(above), terms.spaced(body), named),
            )

    def _walk(self) -> Iterator[_File]:
        """Yield every file of the folder but hidden ones and the index itself."""
        for where, folders, names in os.walk(self.folder):
            here = Path(where)
            folders.sort()
            for name in list(folders):
                path = here / name
                if name.startswith(".") or name == "__pycache__" or path == self._cache_dir:
                    folders.remove(name)
                elif path.is_symlink():
                    folders.remove(name)
                    reason = "It is a link to another folder; links to folders are not followed."
                    yield _File(reading.locator_of(path, self.folder), path, 0, 0, reason)
            for name in names:
                if not name.startswith("."):
                    yield self._file(here / name)

    def _file(self, path: Path) -> _File:
        locator = reading.locator_of(path, self.folder)
        try:
            status = path.stat()
        except FileNotFoundError:
            return _File(locator, path, 0, 0, "The file is a link to nothing, or it has just been removed.")
        except OSError as error:
            return _File(locator, path, 0, 0, f"The file cannot be looked at: {error.strerror}.")
        if not stat.S_ISREG(status.st_mode):
            return _File(locator, path, 0, 0, "It is not an ordinary file.")
        return _File(locator, path, status.st_size, status.st_mtime_ns)


# --- the database ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """Let readers read while somebody writes. The first connections to a new file may be in each other's way.

    SQLite does not wait by itself for this one lock, as it does for all others.
    """
    give_up = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def _prepare(connection: sqlite3.Connection) -> None:
    """Create the tables if the file is new or was written by another version."""
    if _version(connection) == _VERSION:
        return
    with _transaction(connection):
        if _version(connection) == _VERSION:  # another process was first
            return
        for kind, name in connection.execute(
            "SELECT type, name FROM sqlite_master WHERE type = 'table'"
            " AND name IN ('meta', 'document', 'passage', 'vector', 'words')"
        ).fetchall():
            connection.execute(f"DROP {kind} {name}")
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute("INSERT INTO meta (key, value) VALUES ('version', ?)", (_VERSION,))


def _version(connection: sqlite3.Connection) -> str:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return ""
    row = connection.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
    return str(row[0]) if row else ""


def _fingerprint(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone()
    return str(row[0]) if row else ""


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """Tell a damaged file from one that is only busy or on a full disk."""
    told = str(error).lower()
    return any(
        word in told for word in ("malformed", "no such table", "no such column", "vtable constructor")
    )


def _forget(connection: sqlite3.Connection, document_id: int) -> None:
    connection.execute(
        "DELETE FROM words WHERE rowid IN (SELECT passage_id FROM passage WHERE document_id = ?)",
        (document_id,),
    )
    connection.execute(
        "DELETE FROM vector WHERE passage_id IN (SELECT passage_id FROM passage WHERE document_id = ?)",
        (document_id,),
    )
    connection.execute("DELETE FROM passage WHERE document_id = ?", (document_id,))
    connection.execute("DELETE FROM document WHERE document_id = ?", (document_id,))


def _summary(connection: sqlite3.Connection) -> Summary:
    documents = connection.execute(
        "SELECT locator, sha256 FROM document WHERE reason = '' ORDER BY locator"
    ).fetchall()
    skipped = connection.execute(
        "SELECT locator, reason FROM document WHERE reason <> '' ORDER BY locator"
    ).fetchall()
    listing = "".join(f"{sha256}  {locator}\n" for locator, sha256 in documents)
    fingerprint = hashlib.sha256(listing.encode()).hexdigest()
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('fingerprint', ?)", (fingerprint,))
    (count,) = connection.execute("SELECT count(*) FROM passage").fetchone()
    unread = tuple(reading.Unreadable(locator, reason) for locator, reason in skipped)
    return Summary(len(documents), int(count), unread, fingerprint)


def _fetch(connection: sqlite3.Connection, locator: str) -> reading.Document | None:
    row = connection.execute(
        "SELECT locator, title, media_type, text, sha256, text_sha256, note FROM document"
        " WHERE locator = ? AND reason = ''",
        (locator,),
    ).fetchone()
    if row is None:
        return None
    document = reading.Document(*row)
    if hashlib.sha256(document.text.encode()).hexdigest() != document.text_sha256:
        raise sqlite3.DatabaseError("a document in the index is not what was put there")
    return document


def _everything(connection: sqlite3.Connection) -> tuple[list[reading.Document], list[Passage]]:
    documents = {
        document_id: reading.Document(*row)
        for document_id, *row in connection.execute(
            "SELECT document_id, locator, title, media_type, text, sha256, text_sha256, note FROM document"
            " WHERE reason = '' ORDER BY locator"
        )
    }
    found = [
        (documents[document_id], tuple(json.loads(heading)), start, end)
        for document_id, heading, start, end in connection.execute(
            "SELECT document_id, heading, start, finish FROM passage ORDER BY passage_id"
        )
    ]
    return list(documents.values()), [
        Passage(d.locator, d.title, heading, d.sha256, d.text_sha256, start, end, d.text[start:end], 0.0)
        for d, heading, start, end in found
    ]


# --- searching ------------------------------------------------------------------------------------------------


def _expression(query: str) -> str:
    """Return the full-text query for a question: any of its terms will do, framing words only for want of others."""
    asked = terms.asked(query)
    telling = [term for term in asked if term.weight > terms.FRAMING] or asked
    phrases = [term.phrase for term in telling] or terms.words(query)
    quoted = [
        f'"{terms.spaced(phrase)}"' for phrase in dict.fromkeys(phrases) if any(map(str.isalnum, phrase))
    ]
    return " OR ".join(quoted[:_MOST_TERMS])


def _with_alike(expression: str, query: str) -> str:
    """Return a full-text query that takes headings, too, which say the same in other words."""
    telling = [term for term in terms.asked(query) if term.weight > terms.FRAMING]
    alike = [f'heading : "{" ".join(part)}"' for term in telling for part in term.alike]
    return " OR ".join([expression, *dict.fromkeys(alike[:_MOST_TERMS])])


@dataclass(frozen=True, slots=True)
class _Hit:
    passage_id: int
    document_id: int
    heading: tuple[str, ...]
    length: int
    score: float
    close: float = 0.0


def _search(
    connection: sqlite3.Connection, expression: str, query: str, limit: int, meaning: Meaning | None
) -> list[Passage]:
    hits = _matched(connection, expression, _STRUCTURE, limit)
    sizes = _sizes(connection, hits)
    prose = _prose(_ranked(hits, query, sizes, prose=0.0))
    if prose < 1 and (wide := _with_alike(expression, query)) != expression:
        hits = _matched(connection, wide, _STRUCTURE, limit)
        sizes = _sizes(connection, hits)
    ranked = _ranked(hits, query, sizes, prose=prose)
    if prose:
        ranked = _fused(ranked, _matched(connection, expression, _TEXT, limit), prose * _TEXT_SHARE)
    if meaning is not None:
        near = _near(connection, ranked, meaning, query, whole=not prose)
        ranked = _fused(ranked, near, _BY_MEANING)
    ranked = _current_first(connection, ranked, query)
    fused = prose or meaning is not None
    chosen = ranked[: limit * 2] if fused else _mixed(ranked, limit * 2)
    return _distinct((_passage(connection, hit) for hit in chosen), limit)


def _matched(
    connection: sqlite3.Connection, expression: str, weights: tuple[float, ...], limit: int
) -> list[_Hit]:
    found = connection.execute(_MATCH, (*weights, expression, max(_POOL, limit * 4)))
    return [_Hit(p, d, tuple(json.loads(heading)), length, score) for p, d, heading, length, score in found]


def _sizes(connection: sqlite3.Connection, hits: list[_Hit]) -> dict[int, int]:
    """How many passages each document has in all."""
    named = json.dumps(sorted({hit.document_id for hit in hits}))
    return dict(
        connection.execute(
            "SELECT document_id, count(*) FROM passage WHERE document_id IN (SELECT value FROM json_each(?))"
            " GROUP BY document_id",
            (named,),
        ).fetchall()
    )


def _prose(ranked: list[_Hit]) -> float:
    """Tell prose (1.0) from records (0.0) by how long the first hits are.

    Of a record its headings say what it is about, and its text is a value. Of prose the text itself says it.
    """
    lengths = [hit.length for hit in ranked[:5]]
    return min(1.0, max(0.0, (median(lengths) - _RECORD) / (_PROSE - _RECORD))) if lengths else 0.0


def _ranked(hits: list[_Hit], query: str, sizes: dict[int, int], *, prose: float) -> list[_Hit]:
    """Return the hits best first, weighing in their documents and their headings, in prose less than in records.

    A document is as good as the sum of its passages among the hits, for its size: one that speaks of the subject
    throughout beats one that has the words once, or that speaks of everything. A heading that names what was asked
    and nothing else beats one that adds to it.
    """
    worth: defaultdict[int, float] = defaultdict(float)
    counted: Counter[int] = Counter()
    for hit in hits:
        counted[hit.document_id] += 1
        if counted[hit.document_id] <= _PER_DOCUMENT:
            worth[hit.document_id] += hit.score / sizes[hit.document_id] ** _OUTGROWS
    best = max(worth.values(), default=1.0)
    asked = {term.key for term in terms.asked(query)}
    if prose < 1:
        asked |= {key for term in terms.asked(query) for part in term.alike for key in part}
    by_document = _between(_DOCUMENT_SHARE, prose)
    by_heading = _between(_HEADING_SHARE, prose)
    scored = [
        replace(
            hit,
            score=hit.score
            * (1 + by_document * worth[hit.document_id] / best)
            * (1 + by_heading * _named_by(hit.heading, asked)),
        )
        for hit in hits
    ]
    return sorted(scored, key=lambda hit: (-hit.score, hit.passage_id))


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share


def _fused(ranked: list[_Hit], others: list[_Hit], weight: float) -> list[_Hit]:
    """Return the hits of both lists by their ranks in them (reciprocal rank fusion)."""
    known = {hit.passage_id: hit for hit in (*ranked, *others)}
    score: defaultdict[int, float] = defaultdict(float)
    for listed, worth in ((ranked, 1.0), (others, weight)):
        for rank, hit in enumerate(listed, 1):
            score[hit.passage_id] += worth / (_FUSED + rank)
    close = {hit.passage_id: hit.close for hit in others}
    fused = [
        replace(hit, score=score[passage_id], close=close.get(passage_id, hit.close))
        for passage_id, hit in known.items()
    ]
    return sorted(fused, key=lambda hit: (-hit.score, hit.passage_id))


def _near(
    connection: sqlite3.Connection, ranked: list[_Hit], meaning: Meaning, query: str, *, whole: bool
) -> list[_Hit]:
    """Return the first hits by what they mean, the closest first; with `whole`, all passages of the first document too.

    Only these are compared: to compare all would take minutes the first time. In a record the words lead to the right
    document, and other words of the same meaning to its passage.
    """
    found = {hit.passage_id: hit for hit in ranked[:_COMPARED]}
    if whole and ranked:
        first = ranked[0].document_id
        for passage_id, heading, length in connection.execute(
            "SELECT passage_id, heading, finish - start FROM passage WHERE document_id = ?"
            " ORDER BY passage_id LIMIT ?",
            (first, _COMPARED_WHOLE),
        ):
            found.setdefault(passage_id, _Hit(passage_id, first, tuple(json.loads(heading)), length, 0.0))
    vectors = _vectors(connection, list(found), meaning)
    close = meaning.closeness(meaning.vectors([query])[0], [vectors[passage_id] for passage_id in found])
    near = [replace(hit, close=value) for hit, value in zip(found.values(), close, strict=True)]
    return sorted(near, key=lambda hit: (-hit.close, hit.passage_id))


def _vectors(connection: sqlite3.Connection, wanted: list[int], meaning: Meaning) -> dict[int, bytes]:
    """Return the vectors of some passages, made when first asked for and kept."""
    named = json.dumps(wanted)
    known: dict[int, bytes] = dict(
        connection.execute(
            "SELECT passage_id, vector FROM vector"
            " WHERE version = ? AND passage_id IN (SELECT value FROM json_each(?))",
            (meaning.version, named),
        ).fetchall()
    )
    rows = connection.execute(
        "SELECT passage_id, heading, substr(text, start + 1, min(?, finish - start))"
        " FROM passage JOIN document USING (document_id)"
        " WHERE passage_id IN (SELECT value FROM json_each(?)) ORDER BY passage_id",
        (_MEANT, json.dumps([passage_id for passage_id in wanted if passage_id not in known])),
    ).fetchall()
    made = meaning.vectors([f"{' / '.join(json.loads(heading))}: {text}" for _, heading, text in rows])
    fresh = {passage_id: vector for (passage_id, _, _), vector in zip(rows, made, strict=True)}
    if fresh:
        with _transaction(connection):
            connection.executemany(
                "INSERT OR REPLACE INTO vector (passage_id, version, vector) VALUES (?, ?, ?)",
                [(passage_id, meaning.version, vector) for passage_id, vector in fresh.items()],
            )
    return {**known, **fresh}


def _current_first(connection: sqlite3.Connection, ranked: list[_Hit], query: str) -> list[_Hit]:
    """Return the hits with those of stale documents moved back, unless the question is about the past."""
    if vintage.asks_for_the_past(query):
        return ranked
    stale = _stale(connection, {hit.document_id for hit in ranked}, query)
    weighed = [
        replace(hit, score=hit.score * _STALE_SHARE) if hit.document_id in stale else hit for hit in ranked
    ]
    return sorted(weighed, key=lambda hit: (-hit.score, hit.passage_id))


def _stale(connection: sqlite3.Connection, documents: set[int], query: str) -> set[int]:
    """Return those of which another has taken the place: they say so, or a newer version was found as well."""
    rows = connection.execute(
        "SELECT document_id, locator, dated, superseded FROM document"
        " WHERE document_id IN (SELECT value FROM json_each(?)) ORDER BY locator",
        (json.dumps(sorted(documents)),),
    ).fetchall()
    stale = {document_id for document_id, _, _, why in rows if why}
    newest: dict[str, str] = {}
    for document_id, locator, dated, _ in rows:
        name = vintage.series(locator)
        if name and document_id not in stale:
            newest[name] = max(newest.get(name, ""), dated)
    for document_id, locator, dated, _ in rows:
        if dated and dated < newest.get(vintage.series(locator), ""):
            stale.add(document_id)
    return {d for d, locator, _, _ in rows if d in stale and not vintage.names(query, locator)}


def _named_by(heading: tuple[str, ...], asked: set[str]) -> float:
    """Return the share of the innermost heading that the question names."""
    keys = set(terms.keys(heading[-1])) if heading else set()
    return len(keys & asked) / len(keys) if keys else 0.0


def _mixed(ranked: list[_Hit], limit: int) -> list[_Hit]:
    """Return the first hits, keeping a place now and then for documents other than the first one's."""
    leading = ranked[0].document_id if ranked else 0
    inside = deque(hit for hit in ranked if hit.document_id == leading)
    outside = deque(hit for hit in ranked if hit.document_id != leading)
    chosen: list[_Hit] = []
    for place in range(1, min(limit, len(ranked)) + 1):
        others_turn = outside and (place % _OTHERS_EVERY == 0 or not inside)
        if others_turn or (outside and inside and outside[0].score > inside[0].score):
            chosen.append(outside.popleft())
        else:
            chosen.append(inside.popleft())
    return chosen


def _distinct(found: Iterable[Passage], limit: int) -> list[Passage]:
    """Return the first passages that differ in their text: a copied chapter is no second source."""
    kept: dict[str, Passage] = {}
    for passage in found:
        if len(kept) < limit:
            kept.setdefault(passage.text, passage)
    return list(kept.values())


def _passage(connection: sqlite3.Connection, hit: _Hit) -> Passage:
    start, end, locator, title, text, sha256, text_sha256, dated, superseded = connection.execute(
        "SELECT start, finish, locator, title, substr(text, start + 1, finish - start), sha256, text_sha256,"
        " dated, superseded"
        " FROM passage JOIN document USING (document_id) WHERE passage_id = ?",
        (hit.passage_id,),
    ).fetchone()
    score = round(hit.score, 6)
    return Passage(
        locator,
        title,
        hit.heading,
        sha256,
        text_sha256,
        start,
        end,
        text,
        score,
        dated,
        superseded,
        hit.close,
    )
