"""The walk through the fleet, as a new user takes it: the commands are read from the pages, and typed as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from orchestrator.settings import PREFIX
from scripts import services
from tests.fleet import ROOT, until

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

PAGE = (ROOT / "docs/how-to/fleet.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = Path(sys.executable).parent


def section(text, heading):
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def typed(text):
    """The lines of a page's shell blocks, each a command."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def only(commands, pattern):
    """The one command that fits."""
    (found,) = [c for c in commands if re.search(pattern, c)]
    return found


class Terminal:
    """The user's second terminal, in a checkout whose `.state/fleet` is a folder of this test's."""

    def __init__(self, place, ports):
        self.place = place
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith((PREFIX, "FLOWER_"))}
        self.environment |= {"NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
        self.told = ""
        self._ports = ports
        self._before = ""

    def take(self, *commands):
        """Type these first in every shell from now on."""
        self._before = " && ".join(commands) + " && "

    def type(self, command, *, code=0, **named):
        """Type a command of a page, with its words in capitals named; what it prints."""
        for word, value in named.items():
            assert word in command
            command = command.replace(word, value)
        for usual, port in self._ports.items():
            command = command.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
        done = subprocess.run(
            ["bash", "-c", self._before + command],
            cwd=self.place,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        self.told = done.stderr
        assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


class Up:
    """What `make up` starts where there is no Docker."""

    def __init__(self, place, ports):
        self.folder = place / ".state" / "fleet"
        self.log = place / "up.log"
        recipe = re.search(
            r"^up-here:.*\n\t@exec \$\(BIN\)/python (\S+) \$\(STATE\)/fleet", MAKEFILE, re.MULTILINE
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith((PREFIX, "FLOWER_"))}
        tests = {k: v for k, v in os.environ.items() if k.startswith(f"{PREFIX}TEST_")}
        chosen = {
            "ORCHESTRATOR_API_PORT": str(ports[8001]),
            "FLOWER_PORT": str(ports[5555]),
            "ORCHESTRATOR_BACKOFF_CAP_S": "0.2",
        }
        scale = "api=1,chronos=1,relay=1,sweeper=1,steps=2,completions=1,dead=1,flower=1"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / recipe[1]), str(self.folder), "--scale", scale],
                cwd=ROOT,
                env={**environment, **tests, **chosen},
                stdout=out,
                stderr=out,
            )

    def said(self):
        return self.log.read_text(errors="replace")

    def descends(self, pid):
        """Whether a process is one of these: other fleets may run on this machine."""
        while pid > 1:
            if pid == self.process.pid:
                return True
            try:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                return False
        return False

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.fixture
def place():
    made = Path(tempfile.mkdtemp(prefix="orc-walk-"))
    made.chmod(0o755)
    (made / ".venv" / "bin").mkdir(parents=True)
    (made / ".venv" / "bin" / "activate").write_text(f"export PATH={shlex.quote(str(PROGRAMS))}:$PATH\n")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def ports():
    return {8001: services.free_port(), 5555: services.free_port()}


@pytest.fixture
def up(place, ports):
    made = Up(place, ports)
    yield made
    if made.process.poll() is None:
        made.stop()


def serves(up, port, path):
    def answers():
        assert up.process.poll() is None, up.said()
        try:
            return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    until(answers, within_s=120, why=up.said)


@pytest.mark.skipif(sys.platform != "linux", reason="finds its own processes among others under /proc")
def test_the_fleet_s_walk_through_goes_as_the_page_says(up, place, ports):
    walk = typed(section(PAGE, "Walk through it"))
    terminal = Terminal(place, ports)
    serves(up, ports[8001], "/readyz")
    serves(up, ports[5555], "/healthcheck")
    activate, source = walk[:2]
    terminal.take(activate, source)

    # the README's first question
    first = terminal.type(only(typed(section(README, "Many workers")), "^curl"))
    assert "will always be called" in json.loads(first)["report"]

    # submit, and see it in Flower
    submitting, failing = [c for c in walk if "/plans" in c and c.startswith("curl")]
    plan = json.loads(terminal.type(submitting))["plan_id"]
    password = re.search(r"^Flower: \S+  operator / (\S+)$", up.said(), re.MULTILINE)[1]
    looking = only(walk, "api/tasks")

    def seen():
        return json.loads(terminal.type(looking, PASSWORD=password, PLAN=plan))

    until(seen, why=up.said)
    assert all(plan in task["args"] for task in seen().values())

    # kill -9 every step worker while a plan runs
    plan = json.loads(terminal.type(submitting))["plan_id"]
    finding, killing = only(walk, "^pgrep"), only(walk, "^kill")
    pids = [int(pid) for pid in terminal.type(finding).split() if up.descends(int(pid))]
    assert len(pids) == 2
    api = f"http://127.0.0.1:{ports[8001]}/plans/{plan}"
    until(
        lambda: any(
            step["state"] == "running" for step in httpx.get(f"{api}/steps", timeout=10).json()["steps"]
        )
    )
    for pid in pids:
        terminal.type(killing, PID=str(pid))
    state = httpx.get(api, timeout=10).json()["state"]
    assert state == "running"
    watching = walk[walk.index(killing) + 1]
    terminal.type(watching, PLAN=plan)
    print(
        f"\nkilled while it was {state}; {terminal.told.count('tak')} steps were taken back\n{terminal.told}"
    )

    # one that must fail, is mended and retried
    making, failing, _, listing = walk[walk.index(failing) - 1 : walk.index(failing) + 3]
    mending, retrying, _, showing = walk[walk.index(listing) + 1 :]
    terminal.type(making)
    plan = json.loads(terminal.type(failing))["plan_id"]
    terminal.type(watching, PLAN=plan, code=1)
    listed = terminal.type(listing)
    (letter,) = json.loads(terminal.type(f"{listing} --json"))["dead_letters"]
    assert letter["letter_id"][:8] in listed
    terminal.type(mending)
    terminal.type(retrying, LETTER=letter["letter_id"][:8])
    terminal.type(watching, PLAN=plan)
    assert "They may give notice on the last day of a month." in terminal.type(showing, PLAN=plan)

    assert up.stop() == 0
