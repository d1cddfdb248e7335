"""Where a page of a list ends and the next begins: a cursor names the last row by its time and its id.

Rows are listed by both, the newest first. What is added meanwhile comes before the first page, so that no reader who
turns pages misses a row or sees one twice.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import Query

from orchestrator.domain.errors import Invalid

_EARLIEST: Final = 1970

Cursor = Annotated[
    str | None, Query(max_length=200, description="`next` of the page before, as it was given.")
]


def after(at: datetime, row_id: str) -> str:
    """Return the cursor that goes on behind the row of that time and id."""
    place = json.dumps([at.isoformat(), row_id])
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def place(cursor: str | None) -> tuple[datetime, str] | None:
    """Return the time and id that a cursor names, or raise `Invalid`; `None` stands for the first page."""
    if cursor is None:
        return None
    try:
        at, row_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        found = datetime.fromisoformat(at), str(UUID(row_id))
    except (ValueError, TypeError, AttributeError, RecursionError):
        found = None
    if found is None or found[0].tzinfo is None or found[0].year < _EARLIEST:
        raise Invalid("This cursor is none that this API gave; begin again without one.")
    return found
