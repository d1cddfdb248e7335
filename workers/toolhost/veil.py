"""Hides the values of secrets in whatever a tool server says: results, errors, and what it prints.

A value is looked for as it is and as it is commonly written otherwise: in base64 at any alignment, percent-encoded, in
hexadecimal, escaped as in JSON, without the white space around it, and each long line of a value that has several. What a
server hides on purpose, or takes apart, is not found: a server that is given a secret is trusted with it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TextIO
from urllib.parse import quote, quote_plus

from orchestrator.domain.secret import SHORTEST
from orchestrator.telemetry import GONE, redacted

_LINE: Final = 16
"""Characters of the shortest line of a value that is looked for by itself."""

_PRINTED_LIMIT: Final = 65_536


class Veil:
    """Hides some values; without any, it changes nothing."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        forms = {form for value in values for form in _forms(value)}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def __bool__(self) -> bool:
        return self._pattern is not None

    def __repr__(self) -> str:
        return "Veil()"

    def text(self, text: str) -> str:
        """Return a text without the values."""
        return self._pattern.sub(GONE, text) if self._pattern else text

    def of(self, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a tool's answer without the values, in its keys too."""
        return {self.text(key): self._value(item) for key, item in content.items()} if self else content

    def _value(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case bool() | None:
                return value
            case int() | float():
                return GONE if self.text(json.dumps(value)) != json.dumps(value) else value
            case Mapping():
                return self.of(value)
            case list():
                return [self._value(item) for item in value]
            case _:
                return value


def _forms(value: str) -> Iterator[str]:
    lines = [line.strip() for line in value.splitlines()]
    long = [line for line in lines if len(line) >= _LINE and not line.startswith("-----")]
    for text in {value, value.strip(), *(long if len(lines) > 1 else [])}:
        if len(text) < SHORTEST:
            continue
        data = text.encode()
        yield text
        yield json.dumps(text)[1:-1]
        yield json.dumps(text, ensure_ascii=False)[1:-1]
        yield quote(text, safe="")
        yield quote(text)
        yield quote_plus(text)
        yield data.hex()
        yield data.hex().upper()
        for alignment in range(3):
            yield from _in_base64(data, alignment)


def _in_base64(data: bytes, alignment: int) -> Iterator[str]:
    """The letters that depend on these bytes alone, whatever stands before and behind them."""
    before = -(-alignment * 4 // 3)
    whole, rest = divmod(alignment + len(data), 3)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(bytes(alignment) + data).decode()[before : whole * 4 + rest]


class Printed:
    """What a child prints on its standard error, passed on line by line without the values and what looks like one."""

    def __init__(self, veil: Veil, out: TextIO | None = None) -> None:
        reading, writing = os.pipe()
        self.pen = os.fdopen(writing, "w", encoding="utf-8")
        """What the child is given; close it once the child has it no more."""
        self._veil = veil
        self._out = out
        self._thread = threading.Thread(target=self._pass_on, args=(reading,), name="printed", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Pass on what is left; returns soon, even if a child of the child still has the pen."""
        self.pen.close()
        self._thread.join(1.0)

    def _pass_on(self, reading: int) -> None:
        with os.fdopen(reading, encoding="utf-8", errors="replace", newline="\n") as lines:
            for line in iter(lambda: lines.readline(_PRINTED_LIMIT), ""):
                if len(line) == _PRINTED_LIMIT and not line.endswith("\n"):
                    # half a value would not be found; nobody reads such a line either
                    while (more := lines.readline(_PRINTED_LIMIT)) and not more.endswith("\n"):
                        pass
                    line = f"(a line of more than {_PRINTED_LIMIT:,} characters was left out)\n"
                self._write(redacted(self._veil.text(line)))

    def _write(self, line: str) -> None:
        # if nobody reads it any more, the child must not be held up
        with contextlib.suppress(OSError, ValueError):
            print(line, end="", file=self._out or sys.stderr, flush=True)
