"""Takes the text out of a Word document; decides how much of a hostile one is read: none.

A .docx is a ZIP of XML. Only the main part is opened, read up to a limit whatever its size is said to be, and parsed by
a parser that refuses every document type declaration, so that no entity can be declared, let alone expanded.

    paragraph styled "Heading 2"   ->  "## …"
    list paragraph                 ->  "- …"
    table row                      ->  "| a | b |"
    deleted and hidden text        ->  nothing
"""

import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

PART: Final = "word/document.xml"
"""The part that holds the text."""

LIMIT_BYTES: Final = 50 * 1024 * 1024
"""Bytes of XML above which a document is refused; a book of a thousand pages has a tenth of that."""

MOST_PARTS: Final = 5_000
"""Members of the archive above which it is refused."""

_DEEPEST: Final = 200
_TYPED: Final = 4
_CHUNK: Final = 64 * 1024
_SPACE: Final = " "
_W: Final = "http://schemas.openxmlformats.org/wordprocessingml/2006/main "
_STRICT: Final = "http://purl.oclc.org/ooxml/wordprocessingml/main "
_HEADING: Final = re.compile(r"(?:heading|berschrift|titre|kop)\s*([1-9])$", re.IGNORECASE)
_TITLES: Final = frozenset({"title", "titel", "titre"})
_SILENT: Final = frozenset({"del", "moveFrom", "instrText", "delText", "pict", "object"})
_SPACES: Final = re.compile(r"[^\S\n]+")


class NotADocument(Exception):
    """The archive is no Word document that can be read; the message says why, as a sentence."""


def is_docx(raw: bytes) -> bool:
    """Whether the bytes are an archive that has the part with a Word document's text."""
    if not raw.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            return PART in archive.NameToInfo
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, OverflowError):
        return False


def text_of(raw: bytes) -> str:
    """Return the document's text with Markdown's marks for headings, lists and tables.

    Raises `NotADocument` for what is damaged, protected, too large, or made to do harm.
    """
    xml = _part(raw)
    parser = expat.ParserCreate(namespace_separator=_SPACE)
    writer = _Writer()
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = writer.enter
    parser.EndElementHandler = writer.leave
    parser.CharacterDataHandler = writer.characters
    try:
        parser.Parse(xml, True)
    except expat.ExpatError as error:
        raise NotADocument(
            f"The document is damaged: {expat.errors.messages.get(error.code, 'unknown')}."
        ) from error
    return writer.text()


def _part(raw: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            if len(archive.infolist()) > MOST_PARTS:
                raise NotADocument(f"The document's archive has more than {MOST_PARTS:,} parts.")
            info = archive.getinfo(PART)
            if info.flag_bits & 1:
                raise NotADocument("The document is protected by a password.")
            # what the archive says of its sizes is not believed: it is read until the limit
            with archive.open(info) as part:
                read, size = list[bytes](), 0
                while chunk := part.read(_CHUNK):
                    size += len(chunk)
                    if size > LIMIT_BYTES:
                        raise NotADocument(
                            f"The document unpacks to more than {LIMIT_BYTES // 1024 // 1024} MiB."
                        )
                    read.append(chunk)
                return b"".join(read)
    except KeyError:
        raise NotADocument("The archive is no Word document.") from None
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError, OverflowError) as error:
        raise NotADocument("The document's archive is damaged.") from error
    except zipfile.zlib.error as error:  # type: ignore[attr-defined]
        raise NotADocument("The document's archive is damaged.") from error


def _refuse_doctype(*_: object) -> None:
    raise NotADocument("The document declares a document type, which Word never does; it was not read.")


@dataclass(slots=True)
class _Writer:
    """Writes down what the parser meets."""

    lines: list[str] = field(default_factory=list)
    plain: set[int] = field(default_factory=set)
    gaps: int = 0
    words: list[str] = field(default_factory=list)
    mark: str = ""
    cells: list[list[str]] = field(default_factory=list)
    depth: int = 0
    silent_from: int = 0
    in_text: bool = False
    marked: bool = False

    def enter(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise NotADocument(f"The document is nested more than {_DEEPEST} deep.")
        tag = _local(name)
        if self.silent_from or tag is None:
            return
        if tag in _SILENT:
            self.silent_from = self.depth
        elif tag == "t":
            self.in_text = True
        elif tag == "tab":
            self.words.append(" ")
        elif tag in {"br", "cr"}:
            self.words.append("\n")
        elif tag == "p":
            self.mark = ""
        elif tag == "pStyle":
            self.mark = _mark(_value(attributes)) or self.mark
        elif tag == "numPr":
            self.mark = self.mark or "- "
        elif tag == "vanish" and _value(attributes) not in {"0", "false"}:
            self.marked = True
        elif tag == "r":
            self.marked = False
        elif tag == "tr":
            self.cells.append([])

    def leave(self, name: str) -> None:
        tag = _local(name)
        if self.silent_from:
            if self.depth == self.silent_from:
                self.silent_from = 0
        elif tag == "t":
            self.in_text = False
        elif tag == "r":
            self.marked = False
        elif tag == "p" and not self.cells:
            self._end_paragraph()
        elif tag == "p":
            self.words.append(" ")
        elif tag == "tc" and self.cells:
            self.cells[-1].append(" ".join("".join(self.words).split()).replace("|", "/"))
            self.words.clear()
        elif tag == "tr" and self.cells:
            self._end_row(self.cells.pop())
        self.depth -= 1

    def characters(self, data: str) -> None:
        if self.in_text and not self.silent_from and not self.marked:
            self.words.append(data)

    def text(self) -> str:
        # typed line by line, with an empty paragraph between those that belong together; else each is one of its own
        typed = self.gaps * _TYPED >= len(self.plain)
        apart = "" if typed else "\n"
        spaced = (apart + line + apart if at in self.plain else line for at, line in enumerate(self.lines))
        return re.sub(r"\n{3,}", "\n\n", "\n".join(spaced)).strip() + "\n"

    def _end_paragraph(self) -> None:
        written = _SPACES.sub(" ", "".join(self.words)).strip()
        self.words.clear()
        if not self.mark:
            if written:
                self.plain.add(len(self.lines))
            else:
                self.gaps += 1
            self.lines.append(written)
        elif written:
            heading = self.mark.startswith("#")
            line = self.mark + (written.replace("\n", " ") if heading else written)
            self.lines += ["", line, ""] if heading else [line]

    def _end_row(self, cells: Sequence[str]) -> None:
        if self.cells:  # a table within a table is text of the cell that it is in
            self.words.append(" ".join(cells) + " ")
        elif any(cells):
            self.lines.append("| " + " | ".join(cells) + " |")


def _local(name: str) -> str | None:
    """The element's name if it is one of Word's own."""
    for space in (_W, _STRICT):
        if name.startswith(space):
            return name[len(space) :]
    return None


def _value(attributes: dict[str, str]) -> str:
    return next((value for name, value in attributes.items() if name.endswith(" val")), "")


def _mark(style: str) -> str:
    """What a paragraph of this style begins with."""
    level = _HEADING.search(style)
    if level:
        return "#" * min(int(level[1]), 6) + " "
    if style.lower() in _TITLES:
        return "# "
    return "- " if "list" in style.lower() else ""
