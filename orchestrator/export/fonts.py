"""The fonts of a PDF: which there are, what each has a shape for, and a cut of one that holds only what is needed.

They come from the package `pymupdf-fonts`, which the extra `pdf` installs.

    Noto Sans (Latin, Greek, Cyrillic) → FiraGO (Georgian) → Noto Sans Math → Symbols → Symbols 2 → Music → Cascadia (boxes)

Scripts that need a program to set them are left out even where a font has their letters: without one, Arabic and Hebrew
would stand the wrong way round, the vowels of Devanagari on the wrong side, and the tones of Thai on top of its vowels.
"""

from __future__ import annotations

import functools
import io
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fontTools.ttLib import TTFont

MAIN: Final = "notos"
FURTHER: Final[Mapping[str, range]] = {
    "figo": range(0x10A0, 0x1100),
    "math": range(0x110000),
    "symbol1": range(0x110000),
    "symbol2": range(0x110000),
    "music": range(0x110000),
    "cascadia": range(0x2500, 0x25A0),
}
"""The fonts to ask for what the main one lacks, in order, each with the characters that it is good for."""

_RIGHT_TO_LEFT: Final = frozenset({"R", "AL"})


@functools.cache
def shapes(name: str) -> Mapping[int, str]:
    """Return what a font can print, by the number of the character: the name of its glyph."""
    good = FURTHER.get(name, range(0x110000))
    return {
        number: glyph
        for number, glyph in _opened(name).getBestCmap().items()
        if number in good and unicodedata.bidirectional(chr(number)) not in _RIGHT_TO_LEFT
    }


def whole(name: str) -> io.BytesIO:
    """Return a font as a file in memory."""
    # of the extra, as all that is imported below
    import pymupdf_fonts

    return io.BytesIO(pymupdf_fonts.fontbuffers[name]())


def cut(name: str, chars: Iterable[str]) -> io.BytesIO:
    """Return a TrueType font of these characters alone, as a file in memory; the same bytes for the same characters.

    The fonts of signs have cubic outlines, which `fpdf2` files as if they were TrueType: some readers show them, others
    refuse the font. Here they become what they are called, at most a thousandth of the size off.
    """
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.cu2quPen import Cu2QuPen
    from fontTools.pens.recordingPen import DecomposingRecordingPen
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    font = _opened(name)
    size, cubic, outlines = font["head"].unitsPerEm, "CFF " in font, font.getGlyphSet()
    named = {ord(char): f"u{ord(char):04X}" for char in sorted(chars)}
    drawn = {".notdef": ".notdef"} | {named[number]: shapes(name)[number] for number in named}
    glyphs = {}
    for new, old in drawn.items():
        recorded, pen = DecomposingRecordingPen(outlines), TTGlyphPen(None)
        outlines[old].draw(recorded)
        recorded.replay(Cu2QuPen(pen, max_err=size / 1000, reverse_direction=cubic))
        glyphs[new] = pen.glyph()

    made = FontBuilder(size, isTTF=True)
    made.updateHead(created=font["head"].created, modified=font["head"].modified)  # else it would be now
    made.setupGlyphOrder(list(drawn))
    made.setupCharacterMap(named)
    made.setupGlyf(glyphs)
    made.setupHorizontalMetrics(
        {new: (round(outlines[old].width), glyphs[new].xMin) for new, old in drawn.items()}
    )
    made.setupHorizontalHeader(ascent=font["hhea"].ascent, descent=font["hhea"].descent)
    made.setupNameTable({"familyName": font["name"].getBestFullName(), "styleName": "Regular"})
    made.setupOS2(sCapHeight=font["OS/2"].sCapHeight)
    made.setupPost()
    file = io.BytesIO()
    made.save(file)
    return io.BytesIO(file.getvalue())


def _opened(name: str) -> TTFont:
    from fontTools.ttLib import TTFont

    return TTFont(whole(name))
