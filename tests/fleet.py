"""The processes of a fleet, as an operator runs them, on servers that a test names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator import settings
from orchestrator.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
DRIVER = "tests/chaos/fleet_driver.py"
DRIVEN = {"scripted": "steps", "trapped completions": "completions", "trapped relay": "relay"}


class Member:
    """One process of the fleet, and how to start it again."""

    def __init__(
        self, role: str, name: str, command: list[str], environment: dict[str, str], log: Path
    ) -> None:
        self.role = role
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self.started_at = 0.0
        self.process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        self.started_at = time.monotonic()
        with self.log.open("ab") as out:
            return subprocess.Popen(self._command, cwd=ROOT, env=self._environment, stdout=out, stderr=out)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)

    def start_again(self) -> None:
        self.process = self._started()

    def stop(self) -> int:
        """Ask it to end, as an operator does; its exit code."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(60)

    @property
    def lives(self) -> bool:
        return self.process.poll() is None


class Fleet:
    """Processes on one database, one broker and one audit key."""

    def __init__(self, dsn: str, broker_url: str, folder: Path, **chosen: object) -> None:
        values = {
            "database_url": dsn,
            "broker_url": broker_url,
            "data_dir": folder,
            "audit_key_file": folder / "audit.key",
            "secrets_key_file": folder / "secrets.key",
            "log_level": "warning",
            "sweep_every_s": 0.5,
            "concurrency": 3,
            "dev_anonymous": True,  # who asks is what other suites are about
            "rate_read_per_minute": 1_000_000,
            "rate_write_per_minute": 1_000_000,
            **chosen,
        }
        self.witness = folder / "witness"
        self._folder = folder
        own = {PREFIX + key.upper(): str(value) for key, value in values.items()}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        self.environment = {**inherited, **own, "PYTHONPATH": str(ROOT)}
        self.settings: Settings = settings.load(environment=own)
        self.members: dict[str, Member] = {}

    def start(self, role: str, *options: str, **otherwise: object) -> Member:
        """Start `orchestrator worker ROLE`, with settings of its own where given.

        `api` is `orchestrator serve api` on a port that it keeps. `scripted`, `trapped completions` and `trapped relay`
        are those of `fleet_driver.py`: steps with scripted minds, and the others with traps.
        """
        if role == "api":
            command = [sys.executable, "-m", "workers.cli", "serve", "api", "--no-work", *options]
        elif role in DRIVEN:
            command = [sys.executable, DRIVER, str(self.witness), "--role", DRIVEN[role], *options]
        else:
            command = [sys.executable, "-m", "workers.cli", "worker", role, *options]
        return self._begin(role, command, otherwise)

    def serve(self, service: str, *options: str) -> Member:
        """Start `orchestrator serve SERVICE`."""
        return self._begin(service, [sys.executable, "-m", "workers.cli", "serve", service, *options], {})

    def _begin(self, role: str, command: list[str], otherwise: dict[str, object]) -> Member:
        name = f"{role.replace(' ', '-')}-{len(self.of(role)) + 1}"
        environment = self.environment | {PREFIX + key.upper(): str(v) for key, v in otherwise.items()}
        member = Member(role, name, command, environment, self._folder / f"{name}.log")
        self.members[name] = member
        return member

    def of(self, role: str) -> list[Member]:
        return [member for member in self.members.values() if member.role == role]

    def run(self, *arguments: str) -> str:
        """What another command of the program prints."""
        command = [sys.executable, "-m", "workers.cli", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    def logs(self) -> str:
        """The end of what each process said, for a failed test to show."""
        return "\n".join(
            f"--- {m.name}\n{m.log.read_text(errors='replace')[-1500:]}" for m in self.members.values()
        )

    def kill(self) -> None:
        """End every process without waiting for what it has in hand."""
        for member in self.members.values():
            if member.lives:
                member.kill()

    def stop(self) -> None:
        for member in self.members.values():
            if member.lives:
                member.process.send_signal(signal.SIGCONT)
                member.process.terminate()
        for member in self.members.values():
            member.stop()


def until(
    holds: Callable[[], object], *, within_s: float = 60.0, why: Callable[[], str] = lambda: ""
) -> None:
    """Wait until something holds; a fault with the reason if it does not in time."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s. {why()}")
        time.sleep(0.05)
