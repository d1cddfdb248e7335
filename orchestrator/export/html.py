"""A report as one page of HTML: nothing in it runs, nothing is loaded, and no text of a source is markup."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from orchestrator.domain.layout import lay_out
from orchestrator.export.page import Pages

_HERE: Final = Path(__file__).parent
_PAGES: Final = Pages(_HERE / "report.html.j2", _HERE / "report.css")


def written(report: Mapping[str, Any]) -> bytes:
    """Return the page; the same report gives the same bytes."""
    return _PAGES.written(lay_out(report))


def policy() -> str:
    """What a browser may do with the page: apply its one style sheet, known by its digest, and nothing else."""
    return _PAGES.policy
