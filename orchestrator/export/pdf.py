"""A report as PDF: its text can be searched and copied, its fonts lie inside, and the same report gives the same bytes.

What `fonts` has no shape for (Chinese, Japanese, Korean, coloured emoji) and what needs a program to set it (Arabic,
Hebrew, Indic scripts, Thai) is printed as U+FFFD; the last page then says which characters that were, and HTML has
them all.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.errors import Misconfigured
from orchestrator.domain.layout import Block, Line, Page, Source, lay_out
from orchestrator.export import fonts

if TYPE_CHECKING:
    from fpdf import FPDF

MISSING: Final = "\ufffd"
EPOCH: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""When every PDF says it was made: a report has no other time than its plan's, and bytes must not differ."""

_INK: Final = (28, 28, 30)
_SOFT: Final = (91, 91, 96)
_BLUE: Final = (6, 69, 173)
_NAMED: Final = 24
"""Characters that cannot be printed, up to which the note names each."""

_SELECTORS: Final = frozenset(map(chr, range(0xFE00, 0xFE10)))
"""They choose among shapes of the character before them and have none of their own; here there is no choice."""


def available() -> bool:
    """Whether this installation can write PDF."""
    try:
        return all(importlib.util.find_spec(name) is not None for name in ("fpdf", "pymupdf_fonts"))
    except ValueError:  # somebody has put nothing in the place of one
        return False


def require() -> None:
    """Raise `Misconfigured` if this installation cannot write PDF."""
    if not available():
        raise Misconfigured(
            "Reports as PDF need the extra `pdf`, which is not installed, or not all of it. Install it with "
            "`pip install 'orchestrator[pdf]'`, or ask for html, which prints as well."
        )


def written(report: Mapping[str, Any]) -> bytes:
    """Return the file. Raises `Misconfigured` where the extra is not installed."""
    require()
    return _Writer(lay_out(report)).bytes()


class _Writer:
    """Sets one report, top to bottom; what the fonts cannot print is collected on the way."""

    def __init__(self, page: Page) -> None:
        # half a second and thirty megabytes, for those only who want this form
        from fpdf import FPDF
        from fpdf.enums import WrapMode

        class Paper(FPDF):
            def footer(self) -> None:
                self.set_y(-14)
                self.set_font(fonts.MAIN, size=6.5)
                self.set_text_color(*_SOFT)
                said = f"SHA-256 of the report: {page.sha256} · orchestrator report verify PLAN --file FILE"
                self.cell(w=self.epw - 12, text=said)
                self.cell(w=12, text=str(self.page_no()), align="R")

        self._page = page
        self._wrap = WrapMode.WORD
        self._unprintable: dict[str, int] = {}
        self._pdf: FPDF = Paper(format="A4")
        self._pdf.alias_nb_pages("")  # a quote may say {nb}
        self._pdf.set_margins(20, 18)
        self._pdf.set_auto_page_break(auto=True, margin=20)
        self._links: dict[int, int] = {}
        self._shapes = set(fonts.shapes(fonts.MAIN))
        self._load_fonts(set(json.dumps(asdict(page), ensure_ascii=False)))

    def bytes(self) -> bytes:
        """Set everything, and return the file."""
        pdf, page = self._pdf, self._page
        pdf.set_title(self._plain(page.title))
        pdf.set_lang("en")
        pdf.set_creator("orchestrator")
        pdf.set_creation_date(EPOCH)
        pdf.add_page()
        self._links = {source.number: pdf.add_link() for source in page.sources}
        self._say(page.title, size=17, after=4)
        for banner in page.banners:
            self._say(f"{banner.label}: {banner.text}", size=10.5, after=3)
        if page.empty:
            self._say(page.empty, after=3)
        for block in page.blocks:
            self._block(block)
        if page.sources:
            self._heading("Sources", level=2)
            for source in page.sources:
                self._source(source)
        self._heading("About this report", level=2)
        for said in page.about:
            self._say(f"• {said}", after=1)
        for said in self._confession():
            self._say(f"• {said}", after=1)
        return bytes(pdf.output())

    def _load_fonts(self, wanted: set[str]) -> None:
        """Take the main font, and of the further ones the shapes that this report needs and those before lack."""
        self._load(fonts.MAIN, fonts.whole(fonts.MAIN))
        further = []
        for name in fonts.FURTHER:
            wanted = {char for char in wanted if ord(char) not in self._shapes}
            if not wanted:
                break
            if held := {char for char in wanted if ord(char) in fonts.shapes(name)}:
                self._load(name, fonts.cut(name, held))
                self._shapes.update(map(ord, held))
                further.append(name)
        self._pdf.set_fallback_fonts(further)

    def _load(self, name: str, file: io.BytesIO) -> None:
        # beside `add_font`, which takes a path: a process that is killed would leave its file behind
        from fpdf.fonts import TTFFont

        font = TTFFont(self._pdf, file, name, "")  # type: ignore[arg-type]
        if "TTFA" in font.ttfont:  # how it was hinted; only good for a warning
            del font.ttfont["TTFA"]
        self._pdf.fonts[name] = font

    def _block(self, block: Block) -> None:
        self._heading(block.title, level=block.level)
        if block.remark:
            self._say(block.remark, size=9, ink=_SOFT, after=1.5)
        for line in block.lines:
            self._line(line)

    def _heading(self, title: str, *, level: int) -> None:
        self._pdf.ln(3)
        if self._pdf.will_page_break(24):  # a heading does not stand alone at the foot of a page
            self._pdf.add_page()
        self._pdf.start_section(self._plain(title), level=level - 2)
        self._say(title, size=13 if level == 2 else 11, after=1.5)

    def _line(self, line: Line) -> None:
        self._write("• ")
        if line.context:
            self._write(f"{line.context}: ", ink=_SOFT)
        self._write(line.text)
        for number in line.citations:
            self._write(" ")
            self._write(f"[{number}]", ink=_BLUE, link=self._links.get(number, ""))
        if line.remarks:
            self._write(f" ({'; '.join(line.remarks)})", ink=_SOFT)
        self._pdf.ln(7)

    def _source(self, source: Source) -> None:
        self._pdf.set_link(self._links[source.number], y=self._pdf.y, page=self._pdf.page_no())
        heading = f" — {source.heading}" if source.heading else ""
        self._say(f"{source.number}. {source.locator}{heading}, {source.place}", size=9)
        self._say(source.quote, size=9, ink=_SOFT)
        remarks = "".join(f"; {remark}" for remark in source.remarks)
        self._say(f"SHA-256 {source.sha256}{remarks}", size=7.5, ink=_SOFT, after=2.5)

    def _say(
        self, text: str, *, size: float = 10.5, ink: tuple[int, int, int] = _INK, after: float = 0
    ) -> None:
        self._write(text, size=size, ink=ink)
        self._pdf.ln(size * 0.5 + after)

    def _write(
        self, text: str, *, size: float = 10.5, ink: tuple[int, int, int] = _INK, link: int | str = ""
    ) -> None:
        self._pdf.set_font(fonts.MAIN, size=size)
        self._pdf.set_text_color(*ink)
        self._pdf.write(h=size * 0.5, text=self._plain(text), link=link, wrapmode=self._wrap)

    def _plain(self, text: str) -> str:
        return "".join(self._printable(char) for char in text)

    def _printable(self, char: str) -> str:
        if ord(char) in self._shapes:
            return char
        if char in _SELECTORS:
            return ""
        self._unprintable[char] = self._unprintable.get(char, 0) + 1
        return MISSING

    def _confession(self) -> Iterator[str]:
        """Say what could not be printed; the characters are named by their numbers, in order."""
        if not self._unprintable:
            return
        numbers = [f"U+{ord(char):04X}" for char in sorted(self._unprintable)]
        more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
        yield (
            f"Characters that the fonts of this file cannot print stand here as {MISSING}: "
            f"{', '.join(numbers[:_NAMED])}{more}. The same report as HTML, Markdown or JSON has them all."
        )
