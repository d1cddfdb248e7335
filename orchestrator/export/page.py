"""Pages of HTML in which nothing runs and nothing is loaded: a template, and one style sheet that stands within."""

from __future__ import annotations

import base64
import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template


class Pages:
    """Pages of one template and one style sheet, two files that lie beside whoever makes them."""

    def __init__(self, template: Path, style: Path) -> None:
        self._file = template
        self._style_file = style

    def written(self, page: Any) -> bytes:
        """Return the page; the same `page` gives the same bytes."""
        return self._template.render(page=page, style=self._style, policy=self.policy).encode()

    @cached_property
    def policy(self) -> str:
        """What a browser may do with a page: apply its one style sheet, known by its digest, and nothing else."""
        digest = base64.b64encode(hashlib.sha256(self._style.encode()).digest()).decode()
        return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"

    @cached_property
    def _style(self) -> str:
        return self._style_file.read_text(encoding="utf-8")

    @cached_property
    def _template(self) -> Template:
        # a tenth of a second, for those only who want a page
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(self._file.parent),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        return environment.get_template(self._file.name)
