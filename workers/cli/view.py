"""How things look: results on standard output, messages for people on standard error.

Colour and frames only where a terminal is read by a person. What came from outside is cleaned of control
characters before a terminal sees it: a document must not be able to move somebody's cursor.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, Final, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from workers.cli.exits import PIPE_CLOSED, Ended

_STYLES: Final = {
    "succeeded": "green",
    "approved": "green",
    "done": "green",
    "ok": "green",
    "retried": "green",
    "running": "cyan",
    "ready": "cyan",
    "queued": "cyan",
    "open": "yellow",
    "warn": "yellow",
    "pending": "yellow",
    "retrying": "yellow",
    "waiting_approval": "yellow",
    "unknown": "yellow",
    "fail": "red",
    "failed": "red",
    "dead": "red",
    "dead_lettered": "red",
    "rejected": "red",
    "cancelled": "dim",
    "skipped": "dim",
    "discarded": "dim",
}


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads the stream on a terminal that can move its cursor."""
    return stream.isatty() and not Console(file=stream).is_dumb_terminal


def people() -> Console:
    """Standard error, for people."""
    return Console(stderr=True, highlight=False, soft_wrap=True, force_terminal=sys.stderr.isatty())


def results() -> Console:
    """Standard output, for what was asked for."""
    return Console(highlight=False, force_terminal=sys.stdout.isatty())


def clean(text: object) -> str:
    """Return a text without characters that command a terminal; line ends and tabs stay."""
    return "".join(
        "�" if unicodedata.category(c) in {"Cc", "Cs"} and c not in "\n\t" else c for c in str(text)
    )


def one_line(text: object, limit: int = 100) -> str:
    """Return a text on one line, cut off where it gets long."""
    flat = " ".join(clean(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"


def tell(message: str, style: str = "") -> None:
    """Say something to the person who runs the program."""
    people().print(Text(clean(message), style=style))


def waiting(what: str) -> AbstractContextManager[object]:
    """Show on a terminal that something takes a while, for as long as the block lasts."""
    return people().status(Text(what, style="dim")) if is_terminal(sys.stderr) else nullcontext()


def put(text: str) -> None:
    """Print a result as it is. Whoever reads may go away before the end, as `head` does."""
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise Ended(PIPE_CLOSED) from None


def put_bytes(content: bytes) -> None:
    """Print a result that is no text, as it is."""
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    except BrokenPipeError:
        raise Ended(PIPE_CLOSED) from None


def put_json(document: object, *, lines: bool = False) -> None:
    """Print one JSON document; on one line, where documents follow each other."""
    ascii_only = "utf" not in (sys.stdout.encoding or "").lower()
    put(json.dumps(document, ensure_ascii=ascii_only, indent=None if lines else 2))


def put_markdown(text: str) -> None:
    """Print Markdown: set for reading on a terminal, as it is elsewhere."""
    if is_terminal(sys.stdout):
        # takes a while to import, and only a terminal needs it
        from rich.markdown import Markdown

        console = results()
        console.print(Markdown(clean(text)), width=min(console.width, 110))
    else:
        put(text)


def put_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "") -> None:
    """Print a table; if it has no rows, tell people so."""
    texts = [[_cell(value) for value in row] for row in rows]
    if not texts:
        if empty:
            tell(empty)
        return
    if not is_terminal(sys.stdout):
        put(aligned(columns, texts))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in texts:
        table.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in row))
    results().print(table)


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as plain text, its columns aligned and nothing cut off."""
    every = [list(columns), *map(list, rows)]
    widths = [max(cell_len(row[at]) for row in every) for at in range(len(columns))]
    padded = (
        "  ".join(text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True))
        for row in every
    )
    return "\n".join(line.rstrip() for line in padded)


def put_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line; those without a value are left out."""
    shown = [(name, _cell(value)) for name, value in pairs if value not in {None, ""}]
    width = max((len(name) for name, _ in shown), default=0)
    console = results()
    for name, value in shown:
        if console.is_terminal:
            console.print(
                Text.assemble((f"{name:<{width}}", "bold"), "  ", (value, _STYLES.get(value, ""))),
                soft_wrap=True,
            )
        else:
            put(f"{name:<{width}}  {value}")


def heading(text: str) -> None:
    """Print a heading between parts of a result."""
    console = results()
    if console.is_terminal:
        console.print(Text(f"\n{text}", style="bold"))
    else:
        put(f"\n{text}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return when(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(clean(value).split())


def when(at: datetime) -> str:
    """Return a moment in local time, to the second."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def lasted(seconds: float) -> str:
    """Return a duration as people say it, such as `0.8 s`, `3 min 5 s` or `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def many(count: int, one: str, more: str | None = None) -> str:
    """Return a number with its noun, such as `1 fact` or `2,000 facts`."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def state(name: str) -> str:
    """Return a plan's state as people say it."""
    return "waiting for approval" if name == "waiting_approval" else name.replace("_", " ")


def short(identifier: str) -> str:
    """Return the part of an id that people type."""
    return identifier[:8]
