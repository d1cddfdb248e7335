"""Runs the whole fleet on this machine without Docker, as the Procfile lists it, until Ctrl-C.

    python scripts/fleet.py FOLDER [--scale steps=2,relay=2]

Postgres, RabbitMQ and Redis are those that ORCHESTRATOR_DATABASE_URL, ORCHESTRATOR_BROKER_URL and
ORCHESTRATOR_REDIS_URL name, or else are brought up under the folder by `scripts/services.py`; the plans in it are there
again the next time. Redis is done without where it cannot be had. What another terminal needs
is written to `FOLDER/env`. Flower asks for a password, which is made anew each time unless FLOWER_BASIC_AUTH is set.
ORCHESTRATOR_API_PORT and FLOWER_PORT choose other ports. The API asks nobody who they are, and listens on this machine
only, unless ORCHESTRATOR_DEV_ANONYMOUS is `false`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import services

from workers.toolhost.documents import language_reference

ROOT = Path(__file__).resolve().parents[1]
SCALE = "api=1,chronos=2,relay=2,sweeper=2,steps=2,completions=2,dead=1,flower=1"
GRACE_S = 3
"""What steps in hand are given at the end: whoever pressed Ctrl-C waits, and honcho kills after five seconds."""


def main() -> int:
    """Bring up what is missing, start every process, and stop all of it at the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", default="")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # whoever ends this with SIGTERM wants everything to end as well
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        chosen = _addresses(folder, stack)
        auth = os.environ.get("FLOWER_BASIC_AUTH") or f"operator:{secrets.token_urlsafe(12)}"
        _tell(folder, chosen, auth)
        programs = str(Path(sys.executable).parent)
        environment = {
            **os.environ,
            **chosen,
            "FLOWER_BASIC_AUTH": auth,
            # on this machine, for whoever sits at it; the API says loudly that it asks nobody
            "ORCHESTRATOR_DEV_ANONYMOUS": os.environ.get("ORCHESTRATOR_DEV_ANONYMOUS", "true"),
            "ORCHESTRATOR_SHUTDOWN_GRACE_S": os.environ.get("ORCHESTRATOR_SHUTDOWN_GRACE_S", str(GRACE_S)),
            "PATH": os.pathsep.join((programs, os.environ.get("PATH", os.defpath))),
            "PYTHONUNBUFFERED": "1",
        }
        honcho = [f"{programs}/honcho", "start", "-f", str(ROOT / "Procfile"), "-d", str(ROOT)]
        process = subprocess.Popen(
            [*honcho, "-c", ",".join(filter(None, (SCALE, asked.scale)))],
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )
        stack.callback(_end, process)
        return process.wait()
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let it end its children; it gives them five seconds."""
    if process.poll() is None:
        process.terminate()
        process.wait(30)


def _addresses(folder: Path, stack: contextlib.ExitStack) -> Mapping[str, str]:
    given = os.environ
    database = given.get("ORCHESTRATOR_DATABASE_URL") or stack.enter_context(services.postgres(folder)).url
    broker = _broker(folder, stack)
    return {
        "ORCHESTRATOR_DATABASE_URL": database,
        "ORCHESTRATOR_REDIS_URL": _redis(folder, stack),
        **broker,
        "ORCHESTRATOR_AUDIT_KEY_FILE": given.get("ORCHESTRATOR_AUDIT_KEY_FILE", str(folder / "audit.key")),
        "ORCHESTRATOR_SECRETS_KEY_FILE": given.get(
            "ORCHESTRATOR_SECRETS_KEY_FILE", str(folder / "secrets.key")
        ),
        "ORCHESTRATOR_DATA_DIR": given.get("ORCHESTRATOR_DATA_DIR", str(folder / "data")),
        "ORCHESTRATOR_DOCUMENTS_ROOTS": given.get("ORCHESTRATOR_DOCUMENTS_ROOTS", str(folder / "documents")),
    }


def _redis(folder: Path, stack: contextlib.ExitStack) -> str:
    given = os.environ.get("ORCHESTRATOR_REDIS_URL")
    if given is not None:
        return given
    try:
        return stack.enter_context(services.redis(folder)).url
    except services.ServiceMissing as missing:
        print(f"There will be no locks, and everything works without: {missing}", file=sys.stderr)
        return ""


def _broker(folder: Path, stack: contextlib.ExitStack) -> Mapping[str, str]:
    given = os.environ.get("ORCHESTRATOR_BROKER_URL")
    if given:
        return {"ORCHESTRATOR_BROKER_URL": given}
    server = stack.enter_context(services.rabbitmq(folder))
    # where Flower looks by itself is RabbitMQ's usual port, which this server has not
    return {"ORCHESTRATOR_BROKER_URL": server.url, "FLOWER_BROKER_API": f"{server.api}/api/"}


def _tell(folder: Path, chosen: Mapping[str, str], auth: str) -> None:
    documents = Path(chosen["ORCHESTRATOR_DOCUMENTS_ROOTS"].split(os.pathsep)[0])
    documents.mkdir(parents=True, exist_ok=True)
    if not any(documents.iterdir()):
        language_reference.export(documents)  # so that the first question has something to be answered from
    env = folder / "env"
    env.touch(mode=0o600)
    env.write_text("".join(f"export {key}={shlex.quote(value)}\n" for key, value in chosen.items()))
    print(f"In another terminal:  source {shlex.quote(str(env))}")
    print(f"API: http://127.0.0.1:{os.environ.get('ORCHESTRATOR_API_PORT', '8001')}")
    flower = f"http://127.0.0.1:{os.environ.get('FLOWER_PORT', '5555')}"
    print(f"Flower: {flower}  {auth.replace(':', ' / ')}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
