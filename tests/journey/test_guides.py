"""The tutorial and the guides, as a stranger follows them: every command is read from the page, and typed as it stands.

What cannot be typed in a test, because it serves until it is stopped or asks another machine, is listed under `LEFT`.
What writes a report is a process of its own, as it is for a user; everything else runs in this one, for it is quicker.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog

from orchestrator.settings import PREFIX
from workers import cli

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKS = {"research"}
LEFT = {
    "orchestrator up",
    "orchestrator serve api",
    "orchestrator plans watch",  # of a plan that waits, until somebody decides
    "orchestrator doctor",  # looks at the whole machine: tests/contract/test_doctor.py
    "opa run",
    "docker compose",
    "curl ",
    "export ORCHESTRATOR_O",  # an OPA server, an identity provider
    # each decides every row of the tables first, which takes seconds: tests/spec/test_policy_cli.py
    "orchestrator policy test",
    "orchestrator policy lint",
    "orchestrator policy explain",
    "orchestrator policy bundle",
}


def typed(text):
    """The lines of a page's shell blocks, each a command."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]


def guide(name):
    text = (ROOT / "docs" / "how-to" / f"{name}.md").read_text(encoding="utf-8")
    return [line for line in typed(text) if not any(left in line for left in LEFT)]


@dataclass
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str


@dataclass
class Desk:
    """A user's folder, and what is remembered of what was typed in it."""

    folder: Path
    environment: dict
    named: dict = field(default_factory=dict)

    def type(self, line, *, code=0):
        """Type a line, with its words in capitals named; what it prints."""
        for word, value in self.named.items():
            line = re.sub(rf"\b{word}\b", value, line)
        words = shlex.split(line, comments=True)
        given = dict(w.split("=", 1) for w in words[: next(n for n, w in enumerate(words) if "=" not in w)])
        words = words[len(given) :]
        if words[0] == "orchestrator" and not self._works(words[1:]):
            said = self._here(words[1:], given)
        else:
            said = self._as_a_process(line)
        assert said.code == code, f"{line}\n{said.out}{said.err}"
        return said

    @staticmethod
    def _works(words):
        return words[0] in WORKS

    def _as_a_process(self, line):
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def _here(self, words, given):
        """Run a verb in this process, with `<` and `>` as a shell would have them."""
        streams = {}
        for sign, mode in (("<", "r"), (">", "w")):
            if sign in words:
                at = words.index(sign)
                streams[sign] = (self.folder / words[at + 1]).open(mode, encoding="utf-8")
                words = [*words[:at], *words[at + 2 :]]
        with (
            pytest.MonkeyPatch.context() as patch,
            tempfile.TemporaryFile("w+", encoding="utf-8") as out,
            tempfile.TemporaryFile("w+", encoding="utf-8") as err,
        ):
            for name in [n for n in os.environ if n.startswith(PREFIX)]:
                patch.delenv(name)
            for name, value in {**self.environment, **given}.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "stdin", streams.get("<") or sys.stdin)
            patch.setattr(sys, "stdout", streams.get(">") or out)
            patch.setattr(sys, "stderr", err)
            try:
                code = cli.run(words)
            finally:
                logging.disable(logging.NOTSET)
                structlog.reset_defaults()
                for stream in streams.values():
                    stream.close()
            told = []
            for stream in (out, err):
                stream.seek(0)
                told.append(stream.read())
        return Said(code, *told)

    def json(self, *words):
        return json.loads(self._here([*words, "--json"], {}).out)


@pytest.fixture(scope="module")
def desk(postgres_server):
    folder = Path(tempfile.mkdtemp(prefix="orc-guides-"))
    dsn = postgres_server.create()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    environment |= {
        "ORCHESTRATOR_DATA_DIR": str(folder / "data"),
        "ORCHESTRATOR_DATABASE_URL": dsn,
        "ORCHESTRATOR_DOCUMENTS_ROOTS": str(folder),
        "ORCHESTRATOR_BACKOFF_CAP_S": "0.2",
        "NO_COLOR": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    made = Desk(folder, environment)
    for line in typed(section(TUTORIAL, "2. Your own documents")):
        made.told = made.type(line)
    made.named["PLAN"] = made.json("plans", "list")["plans"][0]["plan_id"][:8]
    yield made
    postgres_server.drop(dsn)
    shutil.rmtree(folder, ignore_errors=True)


def section(text, heading):
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def shown(text, language):
    """The one block of a page in this language."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return block


class TestTheTutorial:
    def test_shows_the_report_s_own_sentences_and_every_question_is_answered(self, desk):
        report = (desk.folder / "locks.md").read_text(encoding="utf-8")
        assert shown(section(TUTORIAL, "2. Your own documents"), "text") in report
        assert "Not found in the sources" not in report
        assert "from 3 of 3 questions" in report

    def test_proves_the_report_and_notices_one_letter(self, desk):
        for line in typed(section(TUTORIAL, "4. Prove it")):
            desk.type(line)
        file = desk.folder / "locks.md"
        written = file.read_text(encoding="utf-8")
        file.write_text(written.replace("bolt", "belt"), encoding="utf-8")
        desk.type("orchestrator report verify PLAN --file locks.md", code=1)
        file.write_text(written, encoding="utf-8")


def test_the_readme_shows_the_report_and_the_tutorial_the_steps_that_make_run_gives(desk):
    goal = re.search(r"^GOAL \?= (.*)$", MAKEFILE, re.MULTILINE)[1]
    said = desk.type(f'orchestrator research "{goal}"')
    if sys.version_info[:2] == (3, 11):  # another release words some sentences otherwise
        assert shown(README, "markdown") == said.out
        assert shown(section(TUTORIAL, "1. A first report"), "text") in said.err
    assert re.search(r"^# What does the with statement guarantee\?\n\n## Answer\n", said.out)


class TestAGuide:
    def test_of_secrets_puts_changes_and_removes_one(self, desk):
        for name in ("token.txt", "new.txt"):
            (desk.folder / name).write_text(f"a value of {name}\n", encoding="utf-8")
        for line in guide("secrets"):
            desk.type(line)
        assert [s["state"] for s in desk.json("secrets", "versions", "library-token")["versions"]] == [
            "current"
        ]

    def test_of_schedules_adds_rests_runs_and_removes_one(self, desk):
        said = [desk.type(line.replace("~/contracts", "locks")) for line in guide("schedules")]
        assert "next tick" in said[0].err
        assert "next tick" not in said[-1].err
        assert desk.json("schedules", "list")["schedules"] == []

    def test_of_tenants_gives_each_its_share(self, desk):
        for line in guide("tenants"):
            desk.type(line)
        assert {t["tenant"] for t in desk.json("tenants", "list")["tenants"]} == {"research", "batch"}

    def test_of_identity_makes_turns_over_and_revokes_a_key(self, desk):
        for line in guide("identity"):
            desk.type(line)
            desk.named["ab12cd34"] = desk.json("keys", "list")["keys"][0]["key_id"]
        assert sorted(k["state"] for k in desk.json("keys", "list")["keys"]) == ["active", "revoked"]

    def test_of_the_policy_stops_somebody_and_lets_them_go_on(self, desk):
        for line in guide("policy"):
            desk.type(line)
        assert desk.json("policy", "stops")["stops"] == []

    def test_of_replays_replays_and_records(self, desk):
        for line in guide("replay"):
            assert re.search(r"comes out the same|is recorded", desk.type(line).out)

    def test_of_reports_shows_writes_and_verifies_one(self, desk):
        lines = [line for line in guide("reports") if not line.startswith("orchestrator research")]
        (desk.folder / "report.md").write_text(desk.type("orchestrator report show PLAN").out, "utf-8")
        for line in lines:
            desk.type(line)
        assert (desk.folder / "report.pdf").read_bytes().startswith(b"%PDF")
