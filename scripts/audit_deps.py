"""Asks an advisory service about every package of a lock file, by pip-audit, and says what is known.

    python scripts/audit_deps.py LOCK

    0   every package was asked about, and nothing is known against any
    1   something is known against at least one
    2   not every package could be asked about: nothing is known, which is not the same as nothing being wrong

pip-audit alone ends with 0 when it could ask about none; therefore its answer is counted here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from packaging.requirements import Requirement
from sbom import canonical

FINE, FOUND, UNKNOWN = 0, 1, 2


def wanted(lock: str) -> set[str]:
    """Return the names of the packages that a lock file pins for a system like this one."""
    lines = (line.partition("\\")[0].strip() for line in lock.splitlines() if line[:1].isalnum())
    pinned = map(Requirement, lines)
    return {canonical(one.name) for one in pinned if one.marker is None or one.marker.evaluate()}


def command(lock: Path) -> list[str]:
    """Return how pip-audit is asked: about what is pinned, without resolving or installing anything."""
    return [
        *(sys.executable, "-m", "pip_audit", "--strict", "--require-hashes", "--disable-pip", "--no-deps"),
        *("--progress-spinner", "off", "--format", "json", "--requirement", str(lock)),
    ]


def verdict(lock: str, answer: str) -> tuple[int, list[str]]:
    """Return the exit code and what to say, from a lock file and what pip-audit printed about it."""
    try:
        answered: Sequence[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return UNKNOWN, [
            (
                "The advisory service could not be asked, so nothing is known about these packages. "
                "Run this again where the network reaches it."
            )
        ]
    found = [
        f"{one['name']} {one['version']}: {fault['id']}"
        + (f", mended in {', '.join(fault['fix_versions'])}" if fault.get("fix_versions") else "")
        for one in answered
        for fault in one.get("vulns", ())
    ]
    asked = {canonical(one["name"]) for one in answered if "vulns" in one and "skip_reason" not in one}
    left = sorted(wanted(lock) - asked)
    if found:
        return FOUND, [*found, *_unasked(left)]
    if left:
        return UNKNOWN, _unasked(left)
    return FINE, [f"{len(asked)} packages were asked about; no vulnerability is known."]


def _unasked(left: Sequence[str]) -> list[str]:
    if not left:
        return []
    return [f"Not asked about, so that nothing is known about them: {', '.join(left)}."]


def main() -> int:
    """Ask, and say it."""
    if len(sys.argv) != 2:
        sys.stderr.write(__doc__ or "")
        return UNKNOWN
    lock = Path(sys.argv[1])
    asked = subprocess.run(command(lock), capture_output=True, text=True, check=False)
    code, lines = verdict(lock.read_text(encoding="utf-8"), asked.stdout)
    if code == UNKNOWN:
        # its last line names the fault; the rest is a traceback
        lines += [line for line in asked.stderr.strip().splitlines()[-1:] if line]
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
