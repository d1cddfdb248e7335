"""The auditor's guide, as an auditor follows it: the commands are read from the page, and typed as they stand."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from orchestrator import database, settings

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/audit.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
GOAL = "What is a lighthouse?"
TEXT = "A lighthouse is a tower that shows a light to guide ships at night.\n"


class Desk:
    """An auditor's folder beside a data folder in which one question was answered."""

    def __init__(self, folder):
        self.folder = folder / "desk"
        self.data = folder / "data"
        self.folder.mkdir()
        docs = folder / "docs"
        docs.mkdir()
        (docs / "lighthouse.md").write_text(TEXT, encoding="utf-8")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(settings.PREFIX)}
        self.environment |= {
            "ORCHESTRATOR_DATA_DIR": str(self.data),
            "NO_COLOR": "1",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.type(f'orchestrator research "{GOAL}" --docs {docs}')
        self.swept = (self.data / "checkpoints.jsonl").read_bytes().count(b"\n")
        self.plan = json.loads(self.type("orchestrator plans list --json"))["plans"][0]["plan_id"]

    def type(self, command, *, code=0):
        """Type a command of the page, with the plan named; what it prints."""
        command = command.replace("PLAN", getattr(self, "plan", ""))
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def desk():
    # short, for the path of a socket may not be longer than some hundred characters
    folder = Path(tempfile.mkdtemp(prefix="oa-"))
    made = Desk(folder)
    server = database.Embedded(made.data)
    made.dsn = server.dsn
    yield made
    server.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def said(desk):
    """What each command of the page printed."""
    printed = {}
    for command in COMMANDS:
        if "--checkpoints" in command:
            shutil.copy(desk.data / "checkpoints.jsonl", desk.folder)  # as if it had been shipped there
        printed[command] = desk.type(command)
    return printed


def of(said, pattern):
    (found,) = [text for command, text in said.items() if re.search(pattern, command)]
    return found


def test_a_process_that_works_makes_checkpoints_by_itself(desk):
    assert desk.swept >= 1


class TestTheAuditorsGuide:
    def test_tells_who_allowed_a_call_under_which_policy_with_what_evidence(self, desk, said):
        first = of(said, r"audit explain").split("\n\n")[0]
        call = json.loads(desk.type("orchestrator audit explain PLAN --json"))["calls"][0]

        assert f"{call['tool']} by {call['agent']} in step {call['step']}" in first
        assert "local of tenant default (record 1)" in first
        assert "allow (" in first
        assert re.search(r"policy\s+revision [0-9a-f]+", first)
        assert call["decision"]["input_sha256"] in first
        assert "done (record" in first
        assert call["outcome"]["evidence"] in first
        assert re.search(r"under checkpoint \d", first)

    def test_finds_that_nothing_was_changed(self, said):
        assert "every chain holds" in of(said, r"audit verify$")
        assert "every chain holds" in of(said, r"audit verify --checkpoints")

    def test_ends_with_proofs_that_need_the_public_key_only(self, said):
        assert "Record 1 (plan.submitted)" in of(said, r"audit check proof")
        assert "records hold" in of(said, r"audit check records")

    def test_lets_who_knows_the_goal_find_it(self, desk, said):
        shown = json.loads(desk.type("orchestrator audit show PLAN --json"))
        assert shown["records"][0]["body"]["goal_hmac"] == of(said, r"audit blind").strip()

    def test_names_what_was_done(self, desk, said):
        with psycopg.connect(desk.dsn, autocommit=True) as connection:
            connection.execute("ALTER TABLE audit DISABLE TRIGGER only_grows")
            connection.execute("UPDATE audit SET body = '{}' WHERE chain = %s AND number = 2", (desk.plan,))
        try:
            assert "[record_altered]" in desk.type("orchestrator audit verify", code=1)
            assert "[record_altered]" in desk.type("orchestrator audit explain PLAN", code=1)
            assert "cannot be proved" in desk.type("orchestrator audit prove PLAN 2 2>&1", code=4)
        finally:
            with psycopg.connect(desk.dsn, autocommit=True) as connection:
                connection.execute("DROP TRIGGER only_grows ON audit")

    def test_checks_proofs_where_there_is_no_database(self, desk, said, tmp_path):
        for name in ("proof.json", "orchestrator.public", "records.jsonl", "records.jsonl.manifest.json"):
            shutil.copy(desk.folder / name, tmp_path)
        for file in ("proof.json", "records.jsonl.manifest.json"):
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "workers.cli",
                    "audit",
                    "check",
                    file,
                    "--public-key",
                    "orchestrator.public",
                ],
                cwd=tmp_path,
                env=desk.environment | {"ORCHESTRATOR_DATA_DIR": str(tmp_path / "nothing")},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        assert not (tmp_path / "nothing").exists()

    @pytest.mark.parametrize(
        ("old", "new", "name"),
        [
            (b"plan.ended", b"plan.endex", "export_altered"),
            (b'"tool.intent"', b'"tool.intend"', "chain_rewritten"),
        ],
    )
    def test_names_what_was_done_to_an_export(self, desk, said, tmp_path, old, new, name):
        for file in ("records.jsonl", "records.jsonl.manifest.json"):
            shutil.copy(desk.folder / file, tmp_path)
        text = (tmp_path / "records.jsonl").read_bytes()
        assert old in text
        (tmp_path / "records.jsonl").write_bytes(text.replace(old, new))
        out = desk.type(
            f"orchestrator audit check {tmp_path}/records.jsonl.manifest.json --public-key orchestrator.public",
            code=1,
        )
        assert f"[{name}]" in out
