"""Offers folders of documents as an MCP server; decides which folders may be asked about.

    documents_index(folder)                   what is in the folder, and what could not be read
    documents_search(folder, query, limit)    passages, each with its exact place and the file's digest
    documents_fetch(folder, locator)          one document's text, as it was when it was indexed

Only the given roots and what lies below them can be reached; everything else is an error with a reason.
"""

import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Final, TypeAlias

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from workers.toolhost.documents import index

Roots: TypeAlias = Collection[Path] | Callable[[], Collection[Path]]
"""The folders that may be read, or a function that is asked for them anew on every call."""

MOST_PASSAGES: Final = 50

_READS: Final = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)

Folder: TypeAlias = Annotated[
    str, Field(description="The folder's path; it must lie within an allowed folder.")
]


class Skipped(BaseModel):
    """A file that was left out of the index."""

    locator: str
    reason: str


class Indexed(BaseModel):
    """What a folder holds."""

    documents: int
    passages: int
    skipped: list[Skipped]
    fingerprint: str


class FoundPassage(BaseModel):
    """A passage and its exact place: `text` is the document's text from `start` up to `end`, in characters."""

    locator: str
    title: str
    heading: list[str]
    sha256: str
    text_sha256: str
    start: int
    end: int
    text: str
    score: float
    dated: str = Field(default="", description="The date of its document, as far as it gives one.")
    superseded: str = Field(default="", description="Why another document has taken the place of its own.")


class Found(BaseModel):
    """The passages that match, best first."""

    passages: list[FoundPassage]


class Fetched(BaseModel):
    """One document, as it was when it was indexed."""

    locator: str
    title: str
    media_type: str
    text: str
    sha256: str
    text_sha256: str
    note: str


def build(roots: Roots, cache_dir: Path, meaning: index.Meaning | None = None) -> MCPServer:
    """Return a server for the folders in `roots`, which keeps its indexes in `cache_dir`.

    With `meaning`, what is found is compared by what it means as well.
    """
    shelf = _Shelf(roots, cache_dir, meaning)
    server = MCPServer(
        name="documents",
        title="Documents",
        instructions="Search folders of local documents; quote passages by locator, start and end.",
        log_level="WARNING",
    )

    @server.tool(title="Index a folder", annotations=_READS)
    def documents_index(folder: Folder) -> Indexed:
        """Bring a folder's index up to date and say what it holds and what was skipped, and why."""
        summary = shelf.refreshed(folder)
        return Indexed(
            documents=summary.documents,
            passages=summary.passages,
            skipped=[Skipped(locator=left.locator, reason=left.reason) for left in summary.skipped],
            fingerprint=summary.fingerprint,
        )

    @server.tool(title="Search a folder", annotations=_READS)
    def documents_search(
        folder: Folder,
        query: Annotated[str, Field(description="A question or some words; any of them may match.")],
        limit: Annotated[int, Field(ge=1, le=MOST_PASSAGES, description="The most passages to return.")] = 8,
    ) -> Found:
        """Find the passages of a folder that match a question best; a folder not yet indexed is indexed first."""
        found = shelf.built(folder).search(query, limit)
        return Found(
            passages=[
                FoundPassage(
                    locator=passage.locator,
                    title=passage.title,
                    heading=list(passage.heading),
                    sha256=passage.sha256,
                    text_sha256=passage.text_sha256,
                    start=passage.start,
                    end=passage.end,
                    text=passage.text,
                    score=passage.score,
                    dated=passage.dated,
                    superseded=passage.superseded,
                )
                for passage in found
            ]
        )

    @server.tool(title="Fetch a document", annotations=_READS)
    def documents_fetch(
        folder: Folder,
        locator: Annotated[str, Field(description="A document's locator, as a search gives it.")],
    ) -> Fetched:
        """Return the whole text of one document, as it was when the folder was indexed."""
        _check_locator(locator)
        document = shelf.built(folder).fetch(locator)
        if document is None:
            raise ToolError(f"The index has no document {locator}.")
        return Fetched(
            locator=document.locator,
            title=document.title,
            media_type=document.media_type,
            text=document.text,
            sha256=document.sha256,
            text_sha256=document.text_sha256,
            note=document.note,
        )

    return server


def serve_stdio(roots: Roots, cache_dir: Path) -> None:
    """Serve over standard input and output until the client goes away."""
    build(roots, cache_dir).run("stdio")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve over stdio; the arguments are the cache's folder and then the allowed folders."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) < 2:
        sys.stderr.write("Give the folder for the indexes, then the folders that may be read.\n")
        return 2
    cache_dir, *roots = (Path(argument) for argument in given)
    serve_stdio(roots, cache_dir)
    return 0


class _Shelf:
    """Opens the index of a folder, if the folder is one that may be read."""

    def __init__(self, roots: Roots, cache_dir: Path, meaning: index.Meaning | None) -> None:
        self._meaning = meaning
        self._roots = roots
        self._cache_dir = cache_dir

    def refreshed(self, folder: str) -> index.Summary:
        """Return what a folder holds now."""
        return self._refresh(self._open(folder))

    def built(self, folder: str) -> index.DocumentIndex:
        """Return the index of a folder, made first if there is none."""
        opened = self._open(folder)
        try:
            is_built = opened.is_built()
        except index.IndexUnavailable as error:
            raise ToolError(str(error)) from error
        if not is_built:
            self._refresh(opened)
        return opened

    @staticmethod
    def _refresh(opened: index.DocumentIndex) -> index.Summary:
        try:
            return opened.refresh()
        except (index.NothingReadable, index.IndexUnavailable) as error:
            raise ToolError(str(error)) from error

    def _open(self, folder: str) -> index.DocumentIndex:
        allowed = self._roots() if callable(self._roots) else self._roots
        try:
            wanted = Path(folder).expanduser().resolve()
            within = any(wanted.is_relative_to(root.expanduser().resolve()) for root in allowed)
        except (OSError, RuntimeError, ValueError):
            raise ToolError("The folder's name cannot be used as a path.") from None
        if not folder.strip() or not within:
            # Said before anything is looked up, so that nobody learns what exists elsewhere.
            raise ToolError(f"The folder {folder!r} is not within the folders that may be read.")
        try:
            return index.DocumentIndex.open(wanted, self._cache_dir, self._meaning)
        except (index.FolderNotFound, index.NotAFolder, index.IndexUnavailable) as error:
            raise ToolError(str(error)) from error


def _check_locator(locator: str) -> None:
    """Refuse a locator that could mean a file outside of the folder, whatever the system."""
    posix, windows = PurePosixPath(locator), PureWindowsPath(locator)
    if (
        posix.is_absolute()
        or windows.is_absolute()
        or windows.drive
        or ".." in {*posix.parts, *windows.parts}
    ):
        raise ToolError(f"The locator {locator!r} leads out of the folder.")


if __name__ == "__main__":
    sys.exit(main())
