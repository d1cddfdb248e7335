"""A report as one page of HTML: nothing in it runs, nothing is loaded, and no text of a source is markup."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.layout import lay_out

if TYPE_CHECKING:
    from jinja2 import Template

_HERE: Final = Path(__file__).parent


def written(report: Mapping[str, Any]) -> bytes:
    """Return the page; the same report gives the same bytes."""
    page = lay_out(report)
    return _template().render(page=page, style=_style(), policy=policy()).encode()


@cache
def policy() -> str:
    """What a browser may do with the page: apply its one style sheet, known by its digest, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@cache
def _style() -> str:
    return (_HERE / "report.css").read_text(encoding="utf-8")


@cache
def _template() -> Template:
    # a tenth of a second, for those only who want this form
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2")
