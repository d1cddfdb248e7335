"""Finds the sentences of a text and where exactly they stand; decides what is a sentence and what is layout.

    text --lines--> blocks --units--> sentences
                    |  heading        never a sentence; it names what follows
                    |  code, grammar  never a sentence
                    |  prose          cut at full stops, across wrapped lines
                    |  item           one list entry, without its marker
                    |  field          one "name: value" line
                    '  row            one row of a table

Every `Sentence` is a slice of the source, so a quotation can be checked by comparing characters.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

LONGEST: Final = 1000
"""Characters after which a text without full stops is cut at a space all the same."""

LONGEST_FIELD: Final = 400
"""Characters up to which a "name: value" line stays whole, whatever stops its value has."""


class Kind(StrEnum):
    """What a unit of text is; a field or a row may be short and still say something."""

    PROSE = "prose"
    ITEM = "item"
    FIELD = "field"
    ROW = "row"


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence and its place: `text` is the source from `start` up to `end`, unchanged.

    `lead` is the term or the introduction it stands under, such as the name being defined or the line
    that opens a list; it is context for a reader and no part of the sentence.
    """

    start: int
    end: int
    text: str
    kind: Kind = Kind.PROSE
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading and its place, underline included; `level` 1 is the outermost of the document."""

    level: int
    title: str
    start: int
    end: int


def split(text: str, *, headed: bool = False) -> list[Sentence]:
    """Return the sentences of `text` in order; they never overlap.

    With `headed`, the text is taken to stand under a heading: a first line of a word or two ("129 km") is
    then the value that the heading names, and not a fragment.
    """
    return [
        sentence
        for block in _with_terms(_alone_under_headings(list(_blocks(text)), headed=headed))
        if block.kind is not None
        for sentence in _sentences(text, block)
    ]


def headings(text: str, *, hashes: bool = True) -> list[Heading]:
    """Return the headings of `text` in order: underlined ones, and those marked with `#` if `hashes`."""
    blocks = [block for block in _blocks(text, hashes=hashes) if block.style]
    marked = any(block.style.startswith("#") for block in blocks)
    underlines = (
        ["=", "-"] if marked else []
    )  # Markdown fixes their order; elsewhere the first seen is the outermost
    found: list[Heading] = []
    for block in blocks:
        if block.style.startswith("#"):
            level = len(block.style)
        else:
            if block.style not in underlines:
                underlines.append(block.style)
            level = underlines.index(block.style) + 1
        found.append(Heading(level, block.title, block.lines[0].start, block.lines[-1].end))
    return found


# --- lines ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    start: int
    end: int
    indent: int
    text: str


_LINE: Final = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")
_FENCE: Final = re.compile(r"(`{3,}|~{3,})[^`~]*$")
_HASHED: Final = re.compile(r"(#{1,6})\s+(\S.*?)[\s#]*$")
_RULE: Final = re.compile(r"([=\-~^*\"#+`_:.'])\1{2,}$")
_BORDER: Final = re.compile(
    r"\+[-=+ ]{3,}$|={2,}(?:\s+={2,})+$|-{2,}(?:\s+-{2,})+$|\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|$|:?-{2,}:?\s*\|[\s|:\-]*$"
)
_BULLETS: Final = r"*+\-\u2022\u2023\u25aa\u25e6\u2013"
_ITEM: Final = re.compile(
    rf"(?:[{_BULLETS}]|\(?(?:\d{{1,3}}|[a-z]|[ivx]{{1,4}}|#)[.)]|\(?[A-Z]\))(?:\s+(?:\[[ xX]\]\s+)?(?=\S)|$)"
)
_BULLET: Final = re.compile(rf"[{_BULLETS}]\s")
_FIELD: Final = re.compile(r"(?:\*\*|__)?:?[^\W_](?:(?![.!?]\s)[^:\n]){0,59}:(?:\*\*|__)?\s+(?=\S)")
_CODE: Final = re.compile(
    r">>>|\.\.\.(?:\s|$)|[$%]\s+\w|@\w[\w.]*(?:\(.*)?$|[\w\-]+\s*::=\s"
    r"|(?:async\s+)?(?:def|class)\s+\w+.*:(?:\s.*)?$"
    r"|(?:if|elif|while|for|with|try|except|finally|else|case|match)\b[^.]*:$"
    r"|(?:import\s+[\w.]+(?:\s+as\s+\w+)?|from\s+[\w.]+\s+import\s+.+)$"
    r"|(?:return|raise|yield|assert|del|pass|break|continue|await)\b[\w\s.()\[\],\"']*$"
    r"|[\w.\[\]\"']+\s*(?:[+\-*/|&]|//|\*\*|:)?=\s*\S|[\w.]+\([^)]*\)$|[{}\[\]();]+,?$|</?\w+[^>]*>|.*[;{]$"
)
_OPTION: Final = re.compile(r"--?[^\W_]|-<")
_RUNNING_HEAD: Final = re.compile(r"(\S.*?)\s{3,}\S.*?\s{3,}\1$")
_DIRECTIVE: Final = re.compile(r"\.\.(?:\s|$)")
_ADMONITION: Final = re.compile(
    r"\.\.\s+(?:note|warning|tip|hint|caution|danger|error|important|attention|admonition|seealso|topic|versionadded"
    r"|versionchanged|deprecated|epigraph|sidebar)::"
)
_ENDED: Final = re.compile(
    r"[.!?:;\u2026\u3002\uff01\uff1f\u061f\u06d4\u0964][\"'\u201d\u2019\u00bb)\]*_`]*$"
)
_WORD: Final = re.compile(r"[^\W_]+")
_PLAIN_WORD: Final = re.compile(
    r"[\"'(\u201c\u2018*_`]*[^\W\d_][^\W\d_'\u2019\-]*[\"'),.;:!?\u201d\u2019*_`]*$"
)
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"
)

_WRAPPED: Final = 60
"""A line at least this long, without a stop at its end, is taken to run on into the next."""


def _lines(text: str) -> Iterator[_Line]:
    at = 0
    while at < len(text) and (found := _LINE.match(text, at)) and found.end() > at:
        raw = found[0]
        body = raw.strip()
        lead = len(raw) - len(raw.lstrip()) if body else 0
        indent = sum(4 if char == "\t" else 1 for char in raw[:lead])
        yield _Line(at + lead, at + lead + len(body), indent, body)
        at = found.end()


# --- blocks ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Block:
    """Lines that belong together; without a `kind` they are layout, with a `style` they are a heading.

    `term` is where the name begins that the block explains, if that stands right above it.
    """

    kind: Kind | None
    lines: Sequence[_Line]
    title: str = ""
    style: str = ""
    lead: str = ""
    alone: bool = False
    term: int | None = None

    @property
    def indent(self) -> int:
        return self.lines[0].indent


def _blocks(text: str, *, hashes: bool = True) -> Iterator[_Block]:
    """Yield the blocks of a text in order, those that are only layout without a kind."""
    lines = list(_lines(text))
    context = _Context()
    at = 0
    overline = ""
    if lines and lines[0].text == "---" and (closing := _closing(lines, 1, {"---", "..."})):
        yield from (_Block(Kind.FIELD, [line]) for line in lines[1:closing] if _FIELD.match(line.text))
        at = closing + 1
    while at < len(lines):
        line, here = lines[at], at
        style, overline = overline, ""
        if not line.text:
            at += 1
        elif _underlined(lines, at):
            char = lines[at + 1].text[0]
            context.reset()
            yield _Block(None, lines[at : at + 2], line.text, char * 2 if style == char else char)
            at += 2
        elif fence := _FENCE.match(line.text):
            closing = _closing(lines, at + 1, {fence[1]})
            at = closing + 1 if closing else len(lines)
        elif hashes and line.indent < 4 and (mark := _HASHED.match(line.text)):
            context.reset()
            yield _Block(None, [line], mark[2], mark[1])
            at += 1
        elif _RULE.match(line.text):
            overline = line.text[0]
            at += 1
        elif _is_table(line):
            at = _while(lines, at, _is_table)
            yield from _rows(lines[here:at])
        else:
            at = _end_of_block(lines, at, hashes=hashes)
            kind = Kind.ITEM if _ITEM.match(line.text) else Kind.PROSE
            yield context.place(_Block(kind, lines[here:at]), followed_by=_next(lines, at))


class _Context:
    """Remembers what a block stands under: the term it explains, the line that opens its list, literal text."""

    def __init__(self) -> None:
        self._leads: list[_Block] = []
        self._literal: int | None = None

    def reset(self) -> None:
        """Forget everything: a heading begins anew."""
        self._leads.clear()
        self._literal = None

    def place(self, block: _Block, *, followed_by: _Line | None) -> _Block:
        """Give a block its lead, and take its kind away if it is code or a directive."""
        first, last = block.lines[0], block.lines[-1]
        self._leave(block)
        if self._leads:
            block.lead = _lead_of(self._leads[-1])
        if _DIRECTIVE.match(first.text):
            block.kind = None
            self._literal = None if _ADMONITION.match(first.text) else block.indent
        elif self._literal is not None or _is_code(block):
            block.kind = None
        if self._literal is None and last.text.endswith("::"):
            self._literal = block.indent
        if self._literal is None and block.kind is not Kind.ITEM and _leads(block, followed_by):
            self._leads.append(block)
        return block

    def _leave(self, block: _Block) -> None:
        if self._literal is not None and block.indent <= self._literal:
            self._literal = None
        while self._leads and not _under(block, self._leads[-1]):
            self._leads.pop()


def _leads(block: _Block, following: _Line | None) -> bool:
    """Tell whether what follows a block stands under it: an explanation further in, or a list."""
    if following is None:
        return False
    opens_list = block.lines[-1].text.endswith(":") and bool(_ITEM.match(following.text))
    opens_term = (
        len(block.lines) == 1 and following.indent > block.indent and not _FIELD.match(block.lines[0].text)
    )
    return opens_list or opens_term


def _under(block: _Block, lead: _Block) -> bool:
    if block.indent > lead.indent:
        return True
    return block.kind is Kind.ITEM and block.indent == lead.indent and lead.lines[-1].text.endswith(":")


def _lead_of(block: _Block) -> str:
    joined = " ".join(line.text for line in block.lines)
    return joined if len(joined) <= 80 else re.split(r"(?<=[.!?])\s+(?=[A-Z\"])", joined)[-1]


def _alone_under_headings(blocks: Sequence[_Block], *, headed: bool) -> Sequence[_Block]:
    """Mark each single line that is all its heading has to say."""
    for at, block in enumerate(blocks):
        under = bool(blocks[at - 1].style) if at else headed
        last = at + 1 == len(blocks) or bool(blocks[at + 1].style)
        block.alone = under and last and len(block.lines) == 1
        if (
            block.alone
            and block.kind is None
            and not block.style
            and not _DIRECTIVE.match(block.lines[0].text)
        ):
            block.kind = Kind.FIELD
    return blocks


def _with_terms(blocks: Sequence[_Block]) -> Sequence[_Block]:
    """Join a term to what explains it: "print all lines" says little without the "-a, --all" above it."""
    for term, block in pairwise(blocks):
        explains = block.kind is Kind.PROSE and block.indent > term.indent
        named = term.kind is Kind.PROSE or (not term.style and _is_option(term.lines))
        if explains and named and _is_term(term):
            term.kind = None
            block.term = term.lines[0].start
    return blocks


def _is_term(block: _Block) -> bool:
    """Tell a name to be explained, or the spellings of an option, from a sentence of its own."""
    if any(line.text.endswith((".", "!", "?", ":", ";", ",")) for line in block.lines):
        return False
    if block.lines[0].text.isupper() and not _is_option(block.lines):
        return False  # a heading in capitals, as manuals have it
    return len(block.lines[0].text) <= _WRAPPED and (len(block.lines) == 1 or _is_option(block.lines))


def _is_option(lines: Sequence[_Line]) -> bool:
    return all(_OPTION.match(line.text) and len(line.text) <= _WRAPPED for line in lines)


def _underlined(lines: Sequence[_Line], at: int) -> bool:
    """Tell whether the line at `at`, which begins a block, is a heading by the rule below it."""
    if at + 1 >= len(lines):
        return False
    title, rule = lines[at], lines[at + 1]
    if not _RULE.match(rule.text) or _RULE.match(title.text) or rule.indent or title.indent or not title.text:
        return False
    if _is_table(title) or _HASHED.match(title.text) or len(title.text) > 200:
        return False
    if len(rule.text) >= len(title.text) * 0.7:
        return True
    return rule.text[0] in "=-" and not title.text.endswith((".", "!", "?", ":", ";", ","))


def _end_of_block(lines: Sequence[_Line], start: int, *, hashes: bool) -> int:
    first = lines[start]
    is_item = bool(_ITEM.match(first.text))
    at = start + 1
    while at < len(lines):
        line = lines[at]
        if not line.text or _RULE.match(line.text) or _is_table(line) or _FENCE.match(line.text):
            return at
        if hashes and line.indent < 4 and _HASHED.match(line.text):
            return at
        if _ITEM.match(line.text) and _may_begin_item(lines[at - 1], line, within_item=is_item):
            return at
        if not is_item:
            deeper = (
                line.indent >= first.indent + 2
                and not _FIELD.match(first.text)
                and (at == start + 1 or _is_option(lines[start:at]))
            )
            if deeper or line.indent <= first.indent - 2:
                return at
        at += 1
    return at


def _may_begin_item(last: _Line, line: _Line, *, within_item: bool) -> bool:
    """Tell a list entry from a wrapped line that happens to begin with a number or a dash."""
    if within_item or line.indent != last.indent or _ENDED.search(last.text):
        return True
    return bool(_BULLET.match(line.text)) and len(last.text) < _WRAPPED


def _is_table(line: _Line) -> bool:
    return line.text.startswith("|") or bool(_BORDER.match(line.text))


def _rows(lines: Sequence[_Line]) -> Iterator[_Block]:
    """Yield the rows of a table that stand on one line, without its head and its borders."""
    borders = [at for at, line in enumerate(lines) if _BORDER.match(line.text)]
    grid = any(lines[at].text.startswith("+") for at in borders)
    drawn = frozenset(borders)
    body_from = borders[1] if grid and len(borders) > 2 else borders[0] if borders and not grid else -1
    for at, line in enumerate(lines):
        whole = not grid or (at - 1 in drawn and at + 1 in drawn)
        if at > body_from and at not in drawn and line.text.startswith("|") and whole:
            yield _Block(Kind.ROW, [line])


def _is_code(block: _Block) -> bool:
    coded = sum(1 for line in block.lines if _CODE.match(line.text))
    if block.kind is Kind.ITEM:
        return False
    if coded == len(block.lines) or (len(block.lines) == 1 and _RUNNING_HEAD.match(block.lines[0].text)):
        return True
    if block.indent < 2:
        return False
    parts = " ".join(line.text for line in block.lines).split()
    plain = sum(1 for part in parts if _PLAIN_WORD.match(part))
    if _UNSPACED.search(block.lines[0].text):
        return False
    prose = plain >= 4 and plain >= 0.6 * len(parts) and not coded
    shaped = bool(_ENDED.search(block.lines[-1].text)) or all(_FIELD.match(line.text) for line in block.lines)
    return not (prose and shaped) and not (plain >= 3 and plain >= 0.8 * len(parts) and not coded)


def _closing(lines: Sequence[_Line], start: int, marks: set[str]) -> int:
    """Return where one of `marks` closes what was opened before `start`, or 0 if nothing does."""
    for at in range(start, len(lines)):
        text = lines[at].text
        if text in marks or any(text.startswith(mark) and not text.strip(mark[0]) for mark in marks):
            return at
    return 0


def _while(lines: Sequence[_Line], at: int, holds: Callable[[_Line], bool]) -> int:
    while at < len(lines) and lines[at].text and holds(lines[at]):
        at += 1
    return at


def _next(lines: Sequence[_Line], at: int) -> _Line | None:
    return next((lines[n] for n in range(at, len(lines)) if lines[n].text), None)


# --- units and sentences --------------------------------------------------------------------------------------


def _sentences(text: str, block: _Block) -> Iterator[Sentence]:
    """Yield the sentences of one block."""
    if block.kind is Kind.ROW:
        yield from _row(text, block)
        return
    for kind, start, end in _units(block):
        if kind is Kind.FIELD and end - start <= LONGEST_FIELD:
            spans = [(start, end)]
        else:
            spans = list(_cut(text, start, end))
        if block.term is not None and start == block.lines[0].start and spans:
            spans[0] = (block.term, spans[0][1])
        for at, until in spans:
            keeps = kind is Kind.FIELD or block.alone
            if keeps or _says_something(text[at:until]):
                shown = Kind.FIELD if block.alone and len(_WORD.findall(text[at:until])) < 3 else kind
                yield Sentence(at, until, text[at:until], shown, block.lead)


def _units(block: _Block) -> Iterator[tuple[Kind, int, int]]:
    """Yield the parts of a block that are cut into sentences separately: an entry, a field, a paragraph."""
    lines = block.lines
    if block.kind is Kind.ITEM:
        marker = _ITEM.match(lines[0].text)
        start = lines[0].start + (marker.end() if marker else 0)
        end = lines[-1].end
        if start < end:
            one_line = len(lines) == 1 and _FIELD.match(lines[0].text[marker.end() if marker else 0 :])
            yield Kind.FIELD if one_line else Kind.ITEM, start, end
        return
    begun = 0
    for at in range(1, len(lines) + 1):
        if at < len(lines) and not _begins_field(lines, begun, at):
            continue
        part = lines[begun:at]
        is_field = bool(_FIELD.match(part[0].text)) and all(line.indent > part[0].indent for line in part[1:])
        yield Kind.FIELD if is_field else Kind.PROSE, part[0].start, part[-1].end
        begun = at


def _begins_field(lines: Sequence[_Line], begun: int, at: int) -> bool:
    line, last = lines[at], lines[at - 1]
    if not _FIELD.match(line.text):
        # The line after a one-line field is its own unit if the field did not run on.
        ran_on = len(last.text) >= _WRAPPED or line.indent > lines[begun].indent or line.text[0].islower()
        return at - 1 == begun and bool(_FIELD.match(last.text)) and not ran_on and line.indent == last.indent
    return bool(_FIELD.match(last.text)) or len(last.text) < _WRAPPED or bool(_ENDED.search(last.text))


def _row(text: str, block: _Block) -> Iterator[Sentence]:
    line = block.lines[0]
    inner = line.text.strip("|")
    start = line.start + line.text.index(inner) if inner else line.start
    start += len(inner) - len(inner.lstrip())
    end = start + len(inner.strip())
    if sum(1 for cell in inner.split("|") if cell.strip()) >= 2:
        yield Sentence(start, end, text[start:end], Kind.ROW, block.lead)


_STOP: Final = re.compile(
    r"(?P<dense>[\u3002\uff01\uff1f\uff61\u061f\u06d4\u0964\u0965]+[\"'\u201d\u2019\u300d\u300f\uff09\u300b)\]]*)"
    # begins where a run of stops does, or a line of nothing but dots would be read again from each of them
    r"|(?P<plain>(?<![.!?\u2026])[.!?\u2026]++[\"'\u201d\u2019\u00bb)\]*_`]*+(?=\s))"
)
_NEVER_ENDS_TEXT: Final = """
approx ca cf col dr e.g ed eds eq eqs excl fig figs ft gen gov hon i.e ibid incl jr lt mr mrs ms mt nos pp
prof rep resp rev sect sen sr st viz vol vs
"""
_NEVER_ENDS: Final = frozenset(_NEVER_ENDS_TEXT.split())
_RARELY_ENDS_TEXT: Final = """
a.d a.m al apr art assn aug ave b b.c blvd bros c ch co corp d.c dec dept e.u est etc feb inc jan jul jun
ltd mar n no nov oct p p.m ph.d s sec sep sept u.k u.n u.s univ
"""
_RARELY_ENDS: Final = frozenset(_RARELY_ENDS_TEXT.split())
_OPENERS_TEXT: Final = """
a after all also although an and as at because before both but each every for from he here how however i
if in it its many most no not note on once only or see she since so some such that the then there
therefore these they this those thus we what when where which while who why with you
"""
_OPENERS: Final = frozenset(_OPENERS_TEXT.split())
_BEFORE_STOP: Final = re.compile(r"[^\s\"'(\[\u201c\u2018]*$")
_LONGEST_MARK: Final = 40
"""Characters before a stop that are looked at: no abbreviation or number of an entry is longer."""
_NEXT: Final = re.compile(r"\s*[\"'\u201c\u2018(\[*_`]*(\w+)?")


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the spans of the sentences between `start` and `end`."""
    begun = start
    for stop in _STOP.finditer(text, start, end):
        if stop["plain"] and not _ends(text, begun, stop, end):
            continue
        yield from _limited(text, begun, stop.end())
        begun = stop.end()
    yield from _limited(text, begun, end)


def _ends(text: str, begun: int, stop: re.Match[str], end: int) -> bool:
    """Tell whether a full stop followed by a space ends a sentence."""
    following = _NEXT.match(text, stop.end(), end)
    word = following[1] if following and following[1] else ""
    if word and word[0].islower():
        return False
    if not stop["plain"].startswith(".") or stop["plain"].startswith(".."):
        return True
    before = _BEFORE_STOP.search(text, max(begun, stop.start() - _LONGEST_MARK), stop.start())
    mark = before[0].lower() if before else ""
    if mark in _NEVER_ENDS:
        return False
    if mark == "no" and word[:1].isdigit():
        return False
    initial = len(mark) == 1 and mark.isalpha() and before is not None and before[0].isupper()
    if (mark in _RARELY_ENDS and mark != "no") or initial:
        return word.lower() in _OPENERS
    return not (mark.isdigit() and before is not None and before.start() == begun)


def _limited(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the span without its outer spaces, cut at a space if it is far too long."""
    while start < end:
        while start < end and text[start].isspace():
            start += 1
        until = end
        if end - start > LONGEST:
            spaces = [at for at in range(start + LONGEST // 2, start + LONGEST) if text[at].isspace()]
            until = spaces[-1] if spaces else start + LONGEST
        rest = until
        while until > start and text[until - 1].isspace():
            until -= 1
        if until > start:
            yield start, until
        start = rest


def _says_something(part: str) -> bool:
    """Tell a sentence from a fragment: three words, or four characters of a script without spaces."""
    if len(_UNSPACED.findall(part)) >= 4:
        return True
    count = len(_WORD.findall(part))
    return count >= 5 if part.endswith(":") else count >= 3
