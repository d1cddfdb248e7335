"""Takes up a changed policy while the process goes on: looked for now and then, tried whole, and refused whole.

What is in force stays so while the folder is being written, and for as long as what stands there does not pass its own
tests. A folder that was refused is not tried again before it changes.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.telemetry import log
from workers import again
from workers.gate.policy import EmbeddedEnforcer, PolicyLoadError


class Watch:
    """Looks at the files of one policy folder."""

    def __init__(self, enforcer: EmbeddedEnforcer, policy_dir: Path) -> None:
        self._enforcer = enforcer
        self._dir = policy_dir
        self._seen = self._files()

    def start(self, every_s: float) -> None:
        """Look every so many seconds for as long as the process lasts."""
        again.every(every_s, self.look, name="policy")

    def look(self) -> bool:
        """Take up what has changed since the last look; whether another policy is in force now."""
        files = self._files()
        if files == self._seen:
            return False
        self._seen = files
        before = self._enforcer.revision
        try:
            revision = self._enforcer.reload()
        except PolicyLoadError as error:
            log.error("policy.refused", error=str(error), revision=before)
            return False
        if revision != before:
            log.warning("policy.reloaded", revision=revision, before=before)
        return revision != before

    def _files(self) -> tuple[tuple[str, int, int], ...]:
        """Every file with its size and the time it was written; nothing where it cannot be read just now."""
        try:
            found = [(path, path.stat()) for path in sorted(self._dir.rglob("*")) if path.is_file()]
        except OSError:
            return ()
        return tuple((str(path), each.st_size, each.st_mtime_ns) for path, each in found)
