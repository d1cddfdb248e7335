"""Reads the named queries of `queries.sql`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def parse(text: str) -> Mapping[str, str]:
    """Return each query of a file by its name, without its comments; a name that stands twice is an error."""
    parts = _NAME.split(text)[1:]
    names, bodies = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError("A query's name stands twice in queries.sql.")
    return {name: _without_comments(body) for name, body in zip(names, bodies, strict=True)}


def _without_comments(body: str) -> str:
    return "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip().rstrip(";")


@cache
def queries() -> Mapping[str, str]:
    """The product's queries by name."""
    return parse(Path(__file__).with_name("queries.sql").read_text(encoding="utf-8"))
