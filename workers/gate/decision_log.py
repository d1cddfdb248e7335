"""Writes every decision as one line of JSON, in the words of OPA's own decision log, so that it goes where that goes.

The input is left out unless it is wanted: then `erased` says so, and its digest stands in its place. The audit of a
plan is the record that counts, and is written whether this is or not.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.telemetry import log
from workers.gate.policy import Decision


class DecisionLog:
    """Appends to a file, a line at a time; it may be moved away at any moment. Safe to share between threads."""

    def __init__(
        self,
        file: Path,
        *,
        with_input: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._file = file
        self._with_input = with_input
        self._clock = clock
        self._labels = {"id": f"{platform.node()}:{os.getpid()}", "app": "orchestrator"}
        self._fails = False

    def __call__(self, package: str, document: object, decision: Decision) -> None:
        """Append one decision. Never raises; a file that cannot be written is told to the program's log, once."""
        try:
            line = json.dumps(self._entry(package, document, decision), separators=(",", ":")) + "\n"
            self._append(line.encode())
            self._fails = False
        except OSError as error:
            if not self._fails:
                log.warning("decision.unlogged", error=type(error).__name__)
            self._fails = True

    def _append(self, line: bytes) -> None:
        handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line)  # in one go, so that the lines of several processes do not mix
        finally:
            os.close(handle)

    def _entry(self, package: str, document: object, decision: Decision) -> dict[str, Any]:
        deny = [{"reason": r.reason, "capability": r.capability} for r in decision.reasons]
        entry: dict[str, Any] = {
            "labels": self._labels,
            "decision_id": decision.decision_id,
            "bundles": {"policies": {"revision": decision.revision}},
            "path": str(package).replace(".", "/"),
            "result": {"allow": decision.allow, "effect": decision.effect, "deny": deny},
            "timestamp": self._clock().isoformat().replace("+00:00", "Z"),
            "metrics": {"timer_server_handler_ns": decision.duration_us * 1000},
            "custom": {"engine": decision.engine, "input_sha256": decision.input_digest},
        }
        if self._with_input and decision.well_formed:
            entry["input"] = document
        else:
            entry["erased"] = ["/input"]
        if decision.failed:
            entry["error"] = {"code": "no_answer", "message": decision.detail}
        return entry
