"""`orchestrator secrets` as a person uses it: values by standard input, and never on a screen or in a list of processes."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import settings
from workers.cli import exits

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
ONE, TWO = "canary-of-the-first-value", "canary-of-the-second-value"


class Desk:
    """Runs the program on a database and a folder, and keeps all that it said."""

    def __init__(self, dsn, folder):
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(settings.PREFIX)}
        own = {"DATABASE_URL": dsn, "DATA_DIR": str(folder)}
        self.environment = inherited | {settings.PREFIX + k: v for k, v in own.items()} | {"NO_COLOR": "1"}
        self.folder = folder
        self.said = ""

    def command(self, *arguments):
        return [sys.executable, "-m", "workers.cli", "secrets", *arguments]

    def run(self, *arguments, value=None):
        done = subprocess.run(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environment,
            input=value if value is not None else b"",
            capture_output=True,
            timeout=60,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in out + err
        self.said += out + err
        return done.returncode, out, err

    def json(self, *arguments, value=None):
        code, out, err = self.run(*arguments, "--json", value=value)
        assert code == exits.FINE, err
        return json.loads(out)


@pytest.fixture
def desk(dsn, tmp_path):
    return Desk(dsn, tmp_path)


def test_a_secret_lives_from_put_to_removal_and_is_never_printed(desk):
    made = desk.json("put", "key", value=ONE.encode() + b"\n")
    assert (made["version"], made["state"], made["created_by"]) == (1, "current", "local")
    assert desk.json("rotate", "key", value=TWO.encode())["state"] == "pending"
    code, out, _ = desk.run("versions", "key")
    assert code == exits.FINE
    assert all(word in out for word in ("current", "pending"))
    assert desk.json("promote", "key", "--over", "1")["version"] == 2
    assert desk.run("promote", "key")[0] == exits.CONFLICT
    assert desk.run("put", "key", "--new", value=ONE.encode())[0] == exits.CONFLICT
    listed = desk.json("list")["versions"]
    assert [(v["version"], v["state"]) for v in listed] == [(1, "previous"), (2, "current")]
    assert desk.json("rekey", "--new") == {"rewrapped": 1}
    assert len((desk.folder / "keys" / "secrets.key").read_text().split()) == 2
    assert len(desk.json("remove", "key")["removed"]) == 2
    code, _, err = desk.run("versions", "key")
    assert code == exits.NOT_FOUND
    assert "orchestrator secrets list" in err
    assert ONE not in desk.said
    assert TWO not in desk.said


def test_a_value_that_cannot_be_kept_is_refused_and_not_repeated(desk):
    for value in (b"canary", b"canary-\xff-of-no-text", b"canary-of\x00nul"):
        code, out, err = desk.run("put", "key", value=value)
        assert code == exits.USAGE
        assert "canary" not in out + err


def test_a_value_is_no_argument(desk):
    assert desk.run("put", "key", ONE)[0] == exits.USAGE
    assert desk.run("put", "key", "--value", ONE)[0] == exits.USAGE


def test_a_value_that_is_typed_is_not_shown(desk):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        desk.command("put", "key"),
        cwd=ROOT,
        env=desk.environment,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    for _ in range(2):
        while not shown.endswith(b": "):  # what is typed before the space is thrown away
            shown += os.read(ours, 1000)
        shown += b"\n"
        os.write(ours, ONE.encode() + b"\n")
    try:
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    os.close(ours)
    assert process.returncode == exits.FINE
    assert b"Version 1 of key is kept" in out
    assert ONE.encode() not in shown + out
