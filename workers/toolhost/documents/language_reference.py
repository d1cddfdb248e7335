"""Writes the Python Language Reference, which every interpreter carries, to a folder of documents."""

import contextlib
import os
import tempfile
from pathlib import Path
from pydoc_data.topics import topics


def export(folder: Path) -> int:
    """Write every chapter to `<folder>/<topic>.txt` and return how many there are; safe to repeat.

    A chapter that is there already is left as it is, time stamp and all; other files are never touched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for topic, text in sorted(topics.items()):
        path = folder / f"{topic}.txt"
        content = text.encode()
        if not path.is_file() or path.read_bytes() != content:
            _replace(path, content)
    return len(topics)


def _replace(path: Path, content: bytes) -> None:
    """Put `content` at `path` at once: nobody reads half a chapter."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
