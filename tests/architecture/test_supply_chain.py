"""The bill of materials says what is installed, and the audit of dependencies never takes silence for an answer."""

import datetime as dt
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from scripts import audit_deps, sbom

ROOT = Path(__file__).parents[2]
NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PINNED = sbom.pins(LOCK)
TWO = "idna==3.20 \\\n    --hash=sha256:00\nhttpx[socks]==0.28.1 ; python_version > '3' \\\n    --hash=sha256:00\n"


def answer(*dependencies):
    return json.dumps({"dependencies": list(dependencies), "fixes": []})


def asked(name, version="1", vulns=()):
    return {"name": name, "version": version, "vulns": list(vulns)}


def test_of_a_package_that_is_pinned_twice_the_version_for_this_interpreter_counts():
    lock = 'soup==1 ; python_full_version < "3" \\\n    --hash=sha256:00\nsoup==2 ; python_full_version >= "3" \\\n'
    assert sbom.pins(lock) == {"soup": "2"}
    assert sbom.pins("\n".join(reversed(lock.splitlines()))) == {"soup": "2"}


class TestTheBillOfMaterials:
    BILL = sbom.bill(PINNED, now=NOON)

    def test_names_every_installed_package_with_version_and_url(self):
        named = {part["name"]: part["version"] for part in self.BILL["components"]}

        assert {"celery", "psycopg", "mcp"} <= named.keys()
        assert named == {name: metadata.version(name) for name in named}
        assert named.items() <= PINNED.items()
        kind = "py" + "pi"
        assert all(
            part["purl"] == part["bom-ref"] == f"pkg:{kind}/{part['name']}@{part['version']}"
            for part in self.BILL["components"]
        )

    def test_has_what_the_standard_asks_for(self):
        assert (self.BILL["bomFormat"], self.BILL["specVersion"]) == ("CycloneDX", "1.6")
        assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", self.BILL["serialNumber"])
        assert self.BILL["metadata"]["timestamp"] == "2026-01-01T12:00:00Z"
        assert all(part["type"] == "library" for part in self.BILL["components"])

    def test_says_what_needs_what_and_every_need_is_listed(self):
        needs = {one["ref"]: one["dependsOn"] for one in self.BILL["dependencies"]}
        listed = {part["bom-ref"] for part in self.BILL["components"]}

        assert needs.keys() == {*listed, "orchestrator"}
        assert {need for every in needs.values() for need in every} <= listed
        assert (
            f"pkg:{'py' + 'pi'}/kombu@{PINNED['kombu']}"
            in needs[f"pkg:{'py' + 'pi'}/celery@{PINNED['celery']}"]
        )
        assert len(needs["orchestrator"]) > 20

    def test_gives_a_licence_for_nearly_all(self):
        without = [part["name"] for part in self.BILL["components"] if "licenses" not in part]
        assert len(without) < len(self.BILL["components"]) / 10

    def test_is_the_same_for_the_same_environment(self):
        assert sbom.bill(PINNED, now=NOON) == self.BILL

    def test_is_refused_where_something_else_is_installed_than_locked(self):
        with pytest.raises(sbom.Different, match="make setup"):
            sbom.bill({**PINNED, "celery": "0.1"}, now=NOON)

    def test_is_written_to_a_file_by_the_script(self, tmp_path):
        file = tmp_path / "deep" / "sbom.json"

        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / "sbom.py", file],
            env={"SOURCE_DATE_EPOCH": str(int(NOON.timestamp()))},
            capture_output=True,
            text=True,
            check=True,
        )

        assert json.loads(file.read_text(encoding="utf-8")) == self.BILL
        assert f"{len(self.BILL['components'])} packages" in done.stdout


class TestTheAuditOfDependencies:
    def test_is_fine_only_when_every_package_was_asked_about(self):
        code, said = audit_deps.verdict(TWO, answer(asked("idna"), asked("HTTPX")))
        assert (code, said) == (0, ["2 packages were asked about; no vulnerability is known."])

    @pytest.mark.parametrize(
        "printed",
        ["", "Traceback …", "[]", "null", "{}", answer(), answer(asked("idna"))],
    )
    def test_takes_silence_for_no_answer(self, printed):
        code, said = audit_deps.verdict(TWO, printed)
        assert code == 2
        assert "nothing is known" in said[-1]

    def test_takes_a_skipped_package_for_no_answer(self):
        skipped = {"name": "httpx", "skip_reason": "Dependency not found and could not be audited"}

        code, said = audit_deps.verdict(TWO, answer(asked("idna"), skipped))

        assert code == 2
        assert said == ["Not asked about, so that nothing is known about them: httpx."]

    def test_names_what_is_known_and_what_mends_it(self):
        fault = {"id": "CVE-2026-1", "fix_versions": ["3.21"], "aliases": [], "description": ""}

        code, said = audit_deps.verdict(TWO, answer(asked("idna", "3.20", [fault])))

        assert code == 1
        assert said[0] == "idna 3.20: CVE-2026-1, mended in 3.21"
        assert "httpx" in said[1]

    def test_wants_no_answer_for_what_is_locked_for_other_systems(self):
        lock = TWO + "colorama==1 ; sys_platform == 'nowhere' \\\n    --hash=sha256:00\n"
        assert audit_deps.wanted(lock) == {"idna", "httpx"}

    def test_knows_every_line_of_the_lock_file(self):
        assert audit_deps.wanted(LOCK) <= PINNED.keys()
        assert len(PINNED) - len(audit_deps.wanted(LOCK)) < 10

    def test_is_strict(self):
        assert "--strict" in audit_deps.command(ROOT / "requirements.lock")

    def test_has_a_lock_file_of_its_own_in_which_all_is_pinned_with_hashes(self):
        text = (ROOT / "requirements-audit.lock").read_text(encoding="utf-8")
        pinned = re.findall(r"^[a-z0-9-]+(?:\[[\w,-]+\])?==", text, re.MULTILINE)
        hashed = re.findall(
            r"^[a-z0-9-]+(?:\[[\w,-]+\])?==[^\n]*\\\n\s+--hash=sha256:[0-9a-f]{64}", text, re.MULTILINE
        )
        assert len(pinned) == len(hashed) > 10
        assert "pip-audit==" in text
