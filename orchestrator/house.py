"""Where the files are that come with the program: configs, policies, agents, migrations.

In a checkout they lie beside the packages; in an installed wheel they are carried inside this one.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """Return the folder or file of that name, such as `policies` or `configs/settings.yaml`.

    Raises `FileNotFoundError` when the installation is incomplete.
    """
    for root in (_HERE.parent, _HERE / "_house"):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(
        f"{name} did not come with this installation of the orchestrator; install it again."
    )


def stamp(file: Path) -> tuple[int, ...]:
    """Return what changes whenever a file is written or replaced; nothing where there is none to be seen."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns)
