"""Turns one file into text, or into a sentence that says why not; decides what counts as readable.

A file never raises: whatever is in a folder, the folder can be indexed. Text keeps its characters and its
line ends, so what is quoted from it can be found in the file again.
"""

from __future__ import annotations

import codecs
import hashlib
import importlib
import io
import logging
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, TypeAlias

from agents import sentences
from workers.toolhost.documents import docx

if TYPE_CHECKING:
    from bs4.element import PageElement, Tag

LIMIT_BYTES: Final = 10 * 1024 * 1024
"""Bytes above which a file is left alone unless a caller says otherwise."""

_MOST_PAGES: Final = 2000
_TITLE_LENGTH: Final = 120

DOCX: Final = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
"""What a Word document is called."""

_TYPES: Final = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".rst": "text/x-rst",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "text/html",
    ".pdf": "application/pdf",
    ".docx": DOCX,
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".json": "application/json",
    ".xml": "text/xml",
    ".yaml": "text/yaml",
    ".yml": "text/yaml",
    ".adoc": "text/x-asciidoc",
    ".org": "text/x-org",
    ".tex": "text/x-tex",
}
_CALLED: Final = {"application/xhtml+xml": "text/html", "application/xml": "text/xml"}
"""Other names for what is read here."""

_HEADED: Final = frozenset(
    {"text/plain", "text/markdown", "text/x-rst", "text/html", "application/pdf", DOCX}
)
_HASHED: Final = frozenset({"text/plain", "text/markdown", "text/html", DOCX})


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one file; `sha256` is of the file's own bytes, `text_sha256` of the text as UTF-8.

    The two agree wherever the text is the file. `note` says what was changed or guessed on the way.
    """

    locator: str
    title: str
    media_type: str
    text: str
    sha256: str
    text_sha256: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that gives no text, and why, as a sentence for the person who put it there.

    `passing` marks a reason that may be gone next time although the file stays the same.
    """

    locator: str
    reason: str
    passing: bool = False


Reading: TypeAlias = Document | Unreadable


def read(path: Path, *, root: Path, limit_bytes: int = LIMIT_BYTES) -> Reading:
    """Return the text of the file at `path` below `root`, or why there is none; never raises."""
    locator = locator_of(path, root)
    try:
        refusal = _refusal(path, root, limit_bytes)
        if refusal:
            return Unreadable(locator, refusal)
        raw = path.read_bytes()
    except OSError as error:
        told = error.strerror or type(error).__name__
        return Unreadable(locator, f"The file cannot be opened: {told}.", passing=True)
    except ValueError:
        return Unreadable(locator, "The file's name cannot be used as a path.")
    if not raw.strip():
        return Unreadable(locator, "The file is empty.")
    return _extract(raw, locator)


def locator_of(path: Path, root: Path) -> str:
    """Return the name of a file inside its folder, with forward slashes on every system."""
    try:
        relative = path.relative_to(root)
    except ValueError:
        relative = Path(path.name)
    return _storable(PurePosixPath(*relative.parts).as_posix())


def has_headings(media_type: str) -> bool:
    """Tell whether underlined lines are headings in this kind of text."""
    return media_type in _HEADED


def has_hash_headings(media_type: str) -> bool:
    """Tell whether lines that begin with `#` are headings in this kind of text, and not comments."""
    return media_type in _HASHED


def _refusal(path: Path, root: Path, limit_bytes: int) -> str:
    """Return why a file is not even opened, or nothing."""
    if not path.resolve().is_relative_to(root.resolve()):
        return "The file is a link that leads out of the folder."
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        return "It is a folder, not a file."
    if not stat.S_ISREG(status.st_mode):
        return "It is not an ordinary file."
    if status.st_size > limit_bytes:
        return f"The file has {_megabytes(status.st_size)}; at most {_megabytes(limit_bytes)} are read."
    return ""


def _megabytes(size: int) -> str:
    return f"{size / 1024 / 1024:.1f} MiB" if size >= 100 * 1024 else f"{size:,} bytes"


def read_bytes(raw: bytes, *, locator: str, media_type: str) -> Reading:
    """Return the text of what came from elsewhere under a media type, or why there is none; never raises."""
    if not raw.strip():
        return Unreadable(locator, "There is nothing in it.")
    return _typed(raw, locator, _CALLED.get(media_type, media_type), suffix="")


def _extract(raw: bytes, locator: str) -> Reading:
    suffix = PurePosixPath(locator).suffix.lower()
    media_type = _TYPES.get(suffix, "text/plain" if not suffix else f"text/x-{suffix[1:]}")
    return _typed(raw, locator, media_type, suffix)


def _typed(raw: bytes, locator: str, media_type: str, suffix: str) -> Reading:
    if raw.startswith(b"%PDF-") or media_type == "application/pdf":
        return _from_pdf(raw, locator)
    if docx.is_docx(raw):
        return _from_docx(raw, locator)
    decoded = _decode(raw)
    if decoded is None:
        return Unreadable(locator, _not_text(raw, suffix))
    text, note = decoded
    if media_type == "text/html":
        return _from_html(text, raw, locator, note)
    return _document(text, raw, locator, media_type, title="", note=note)


def _document(text: str, raw: bytes, locator: str, media_type: str, *, title: str, note: str) -> Reading:
    safe = _storable(text)
    if safe != text:
        note = _noted(note, "Characters that cannot be stored were replaced.")
    if not safe.strip():
        return Unreadable(locator, "The file has no text in it.")
    return Document(
        locator=locator,
        title=_storable(title.strip())[:_TITLE_LENGTH] or _title(safe, locator, media_type),
        media_type=media_type,
        text=safe,
        sha256=hashlib.sha256(raw).hexdigest(),
        text_sha256=hashlib.sha256(safe.encode()).hexdigest(),
        note=note,
    )


def _title(text: str, locator: str, media_type: str) -> str:
    """Return the first heading, else a short first line of prose, else the file's name."""
    stem = PurePosixPath(locator).stem or locator
    if not has_headings(media_type):
        return stem
    opening = text[:4000]
    field = re.search(r"^title:[ \t]*(\S.*)$", opening[:1000], re.IGNORECASE | re.MULTILINE)
    if field:
        return field[1].strip().strip("\"'")[:_TITLE_LENGTH]
    heading = next(iter(sentences.headings(opening, hashes=has_hash_headings(media_type))), None)
    if heading is not None:
        return heading.title[:_TITLE_LENGTH]
    first = next((line.strip() for line in opening.splitlines() if line.strip()), "")
    return first if 0 < len(first) <= 80 and not first.endswith((".", ";", ",")) else stem


def _noted(note: str, more: str) -> str:
    return f"{note} {more}".strip()


_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


def _storable(text: str) -> str:
    """Return `text` without the characters that UTF-8 or a database column cannot hold."""
    return _UNSTORABLE.sub("\ufffd", text)


# --- characters -----------------------------------------------------------------------------------------------

_CONTROL: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_SIGNATURES: Final = (
    (
        b"PK\x03\x04",
        "The file is an archive, or an office document that is damaged or no .docx; save it as PDF or text.",
    ),
    (b"\xd0\xcf\x11\xe0", "The file is an old office document; save it as PDF or text."),
    (b"\x89PNG", "The file is an image; there is no text to read in it."),
    (b"\xff\xd8\xff", "The file is an image; there is no text to read in it."),
    (b"GIF8", "The file is an image; there is no text to read in it."),
    (b"\x1f\x8b", "The file is compressed; unpack it first."),
    (b"SQLite format 3", "The file is a database, not text."),
)


def _not_text(raw: bytes, suffix: str) -> str:
    for signature, reason in _SIGNATURES:
        if raw.startswith(signature):
            return reason
    return (
        f"The file is not text, although its name ends in {suffix}."
        if suffix in _TYPES
        else "The file is not text."
    )


def _decode(raw: bytes) -> tuple[str, str] | None:
    """Return the characters and a note about how they were found, or `None` for something that is not text."""
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if raw.startswith(mark):
            try:
                return raw.decode(encoding), "The file was read as UTF-16."
            except UnicodeDecodeError:
                return None
    if any(raw.startswith(signature) for signature, _ in _SIGNATURES):
        return None
    if len(_CONTROL.findall(raw[:65_536])) > len(raw[:65_536]) * 0.01:
        return None
    try:
        if raw.startswith(codecs.BOM_UTF8):
            return raw.decode("utf-8-sig"), "The byte order mark was left out."
        return raw.decode("utf-8"), ""
    except UnicodeDecodeError:
        return _guess(raw)


def _guess(raw: bytes) -> tuple[str, str] | None:
    """Return text in an encoding that has to be guessed."""
    encoding = _likely_encoding(raw)
    for name in (encoding, "cp1252", "latin-1"):
        try:
            text = raw.decode(name) if name else ""
        except (UnicodeDecodeError, LookupError):
            continue
        odd = sum(1 for char in text[:20_000] if not char.isprintable() and not char.isspace())
        if text and odd <= 0.02 * len(text[:20_000]):
            return text, f"The file is not UTF-8; it was read as {name}, which is a guess."
    return None


def _likely_encoding(raw: bytes) -> str:
    try:
        guesser = importlib.import_module("charset_normalizer")
    except ImportError:
        return ""
    noisy = logging.getLogger("charset_normalizer")
    noisy.setLevel(logging.ERROR)
    best = guesser.from_bytes(raw[:65_536]).best()
    return str(best.encoding) if best is not None else ""


# --- HTML -----------------------------------------------------------------------------------------------------

_SILENT: Final = frozenset(
    {"script", "style", "nav", "noscript", "template", "svg", "head", "iframe", "object"}
)
_HEADINGS: Final = {f"h{level}": "#" * level for level in range(1, 7)}
_OWN_LINE_TEXT: Final = """
address article aside blockquote body caption dd details dialog div dl dt fieldset figcaption figure
footer form header hr html legend main ol p section summary table tbody tfoot thead tr ul
"""
_OWN_LINE: Final = frozenset(_OWN_LINE_TEXT.split())
_SPACES: Final = re.compile(r"\s+")


def _from_html(text: str, raw: bytes, locator: str, note: str) -> Reading:
    declared = re.search(rb"charset=[\"']?\s*([\w\-]+)", raw[:2048])
    if note.startswith("The file is not UTF-8") and declared:
        try:
            name = declared[1].decode("ascii")
            text, note = raw.decode(name), f"The file was read as {name.lower()}, as it says itself."
        except (UnicodeDecodeError, LookupError):
            pass
    markup = re.sub(r"^\s*<\?xml[^>]*\?>", "", text)
    if "<" not in markup:
        return _document(text, raw, locator, "text/plain", title="", note=note)
    try:
        # takes a while to import, and many a folder has no page in it
        from bs4 import BeautifulSoup
    except ImportError as error:
        return _unequipped(locator, "web pages", error)
    try:
        soup = BeautifulSoup(markup, "html.parser")
        title = soup.title.get_text(" ", strip=True) if soup.title else ""
        body = _Page().write(soup)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError, RecursionError):
        return Unreadable(locator, "The page is broken in a way that cannot be repaired.")
    return _document(
        body, raw, locator, "text/html", title=title, note=_noted(note, "The text was taken out of HTML.")
    )


class _Page:
    """Writes a page down as plain text with Markdown's marks for headings, lists, tables and code."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._line: list[str] = []
        self._mark = ""
        self._cells: list[str] | None = None

    def write(self, root: Tag) -> str:
        """Return the text of everything below `root`."""
        # whoever has a page has imported it
        from bs4.element import NavigableString, PreformattedString, Tag

        # A stack of our own: a page nested a hundred thousand deep must not end the interpreter's.
        stack: list[Iterator[PageElement] | Tag] = [iter(root.contents)]
        while stack:
            top = stack[-1]
            if isinstance(top, Tag):
                self._leave(top)
                stack.pop()
                continue
            element = next(top, None)
            if element is None:
                stack.pop()
            elif isinstance(element, Tag):
                if element.name in _SILENT:
                    continue
                if element.name == "pre":
                    self._code(element)
                    continue
                self._enter(element)
                stack += [element, iter(element.contents)]
            elif isinstance(element, NavigableString) and not isinstance(element, PreformattedString):
                self._line.append(str(element))
        self._end_line()
        return re.sub(r"\n{3,}", "\n\n", "\n".join(self._parts)).strip() + "\n"

    def _enter(self, tag: Tag) -> None:
        if tag.name in _HEADINGS:
            self._end_line()
            self._parts.append("")
            self._mark = _HEADINGS[tag.name] + " "
        elif tag.name == "li":
            self._end_line()
            self._mark = "- "
        elif tag.name == "tr":
            self._end_line()
            self._cells = []
        elif tag.name in {"td", "th"} and self._cells is not None:
            self._line.clear()
        elif tag.name == "br":
            self._end_line()
        elif tag.name in _OWN_LINE and self._cells is None:
            self._end_line()
            if not self._mark:
                self._parts.append("")

    def _leave(self, tag: Tag) -> None:
        if tag.name in {"td", "th"} and self._cells is not None:
            self._cells.append(_SPACES.sub(" ", "".join(self._line)).strip().replace("|", "/"))
            self._line.clear()
        elif tag.name == "tr" and self._cells is not None:
            if any(self._cells):
                self._parts.append("| " + " | ".join(self._cells) + " |")
            self._cells = None
            self._line.clear()
        elif tag.name in _HEADINGS or tag.name in _OWN_LINE:
            if self._cells is None:
                self._end_line()
                self._mark = ""
                self._parts.append("")
        elif tag.name == "li":
            self._end_line()
            self._mark = ""

    def _code(self, tag: Tag) -> None:
        self._end_line()
        self._parts += ["", "```", tag.get_text().strip("\n").replace("```", "'''"), "```", ""]

    def _end_line(self) -> None:
        if self._cells is not None:
            self._line.append(" ")
            return
        words = _SPACES.sub(" ", "".join(self._line)).strip()
        self._line.clear()
        if words:
            self._parts.append(self._mark + words)
            self._mark = "  " if self._mark == "- " else ""


# --- PDF ------------------------------------------------------------------------------------------------------


def _from_pdf(raw: bytes, locator: str) -> Reading:
    try:
        # takes longer to import than all the rest of this folder, and many a folder has no PDF in it
        import pypdf
        from pypdf.errors import PyPdfError
    except ImportError as error:
        return _unequipped(locator, "PDFs", error)
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = pypdf.PdfReader(io.BytesIO(raw), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            return Unreadable(locator, "The PDF is protected by a password.")
        pages = [page.extract_text() or "" for page in reader.pages[:_MOST_PAGES]]
        count = len(reader.pages)
        title = str(reader.metadata.get("/Title") or "") if reader.metadata else ""
    except PyPdfError as error:
        return Unreadable(locator, f"The PDF is damaged: {_reason(error)}.")
    except Exception as error:  # noqa: BLE001 - a hostile PDF makes the parser raise anything at all
        return Unreadable(locator, f"The PDF cannot be read: {_reason(error)}.")
    if not any(page.strip() for page in pages):
        return Unreadable(
            locator, "The PDF has no text in it; it may be a scan that needs character recognition."
        )
    note = "The text was taken out of a PDF; the layout is lost."
    if count > _MOST_PAGES:
        note = _noted(note, f"Only the first {_MOST_PAGES:,} of {count:,} pages were read.")
    generic = (
        not title.strip() or "untitled" in title.lower() or title.lower().endswith((".doc", ".docx", ".indd"))
    )
    text = "\n\n".join(page.strip("\n") for page in pages) + "\n"
    return _document(text, raw, locator, "application/pdf", title="" if generic else title, note=note)


def _unequipped(locator: str, what: str, error: ImportError) -> Unreadable:
    """Say that a library is missing; the file is read once it is there."""
    told = (
        f"No {what} can be read here, for a library is missing: {_reason(error)}. Install the program again."
    )
    return Unreadable(locator, told, passing=True)


def _reason(error: Exception) -> str:
    told = str(error).strip().rstrip(".").splitlines()
    return told[0][:160] if told and told[0] else type(error).__name__


# --- Word -----------------------------------------------------------------------------------------------------


def _from_docx(raw: bytes, locator: str) -> Reading:
    try:
        text = docx.text_of(raw)
    except docx.NotADocument as error:
        return Unreadable(locator, str(error))
    return _document(
        text,
        raw,
        locator,
        DOCX,
        title="",
        note="The text was taken out of a Word document; the layout is lost.",
    )
