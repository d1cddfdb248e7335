"""Reports as files: which forms there are, and what a report reads like in each.

The same report gives the same bytes, in every form; so a file can be held against the report that is stored.

    lay_out (domain) → markdown (domain) | html → one file, no script | pdf → one file, its font inside
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from orchestrator.domain.errors import Invalid
from orchestrator.domain.plan import canonical


class Form(StrEnum):
    """A form that a report can be written in."""

    MARKDOWN = "md"
    JSON = "json"
    HTML = "html"
    PDF = "pdf"

    @property
    def media_type(self) -> str:
        """Its name among media types."""
        return _MEDIA[self]


_MEDIA: Final[Mapping[Form, str]] = {
    Form.MARKDOWN: "text/markdown",
    Form.JSON: "application/json",
    Form.HTML: "text/html",
    Form.PDF: "application/pdf",
}
_SUFFIXES: Final[Mapping[str, Form]] = {
    "": Form.MARKDOWN,
    ".md": Form.MARKDOWN,
    ".markdown": Form.MARKDOWN,
    ".json": Form.JSON,
    ".html": Form.HTML,
    ".htm": Form.HTML,
    ".pdf": Form.PDF,
}


def of_file(path: Path) -> Form:
    """Return the form that a file's name asks for by its end: Markdown without one. Raises `Invalid` for any other."""
    form = _SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise Invalid(
            f"{path.name}: no form of a report ends in {path.suffix}. Known are {', '.join(filter(None, _SUFFIXES))}; "
            "a name without an end is Markdown."
        )
    return form


def require(form: Form) -> None:
    """Raise `Misconfigured` if this installation cannot write that form."""
    if form is Form.PDF:
        from orchestrator.export import pdf  # most reports are no PDF

        pdf.require()


def written(report: Mapping[str, Any], form: Form) -> bytes:
    """Return a report in that form; raises `ValueError` and its like for what is no report."""
    return _WRITERS[form](report)


def _markdown(report: Mapping[str, Any]) -> bytes:
    # each form is imported with the first report in it: which forms there are, every help tells
    from orchestrator.domain.report import markdown

    return markdown(report).encode()


def _json(report: Mapping[str, Any]) -> bytes:
    return (json.dumps(json.loads(canonical(report)), ensure_ascii=False, indent=2) + "\n").encode()


def _html(report: Mapping[str, Any]) -> bytes:
    from orchestrator.export import html

    return html.written(report)


def _pdf(report: Mapping[str, Any]) -> bytes:
    from orchestrator.export import pdf

    return pdf.written(report)


_WRITERS: Final[Mapping[Form, Callable[[Mapping[str, Any]], bytes]]] = {
    Form.MARKDOWN: _markdown,
    Form.JSON: _json,
    Form.HTML: _html,
    Form.PDF: _pdf,
}
