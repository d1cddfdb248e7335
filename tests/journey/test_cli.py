"""The command line as a person uses it: real processes, a real Postgres, a folder of documents, one home for all."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import structlog

from orchestrator import database, settings, wiring
from orchestrator.domain.outcome import Held
from orchestrator.domain.plan import StepRef, request
from tests.contract.test_model import endpoint, said  # noqa: F401 - a fixture
from workers import cli

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
GOAL = "What is a lighthouse?"
DOCUMENTS = {
    "lighthouse.md": (
        "# Lighthouse\n\nA lighthouse is a tower that shows a light to guide ships at night. "
        "A lighthouse stands on a rock, a cape or the end of a pier.\n\n"
        "## Keeper\n\nThe keeper of a lighthouse trims the wick and winds the clockwork of the lens.\n"
    ),
    "harbour.md": "# Harbour\n\nA harbour is a place where ships lie safe from wind and waves.\n",
    "灯台.md": "# 灯台\n\n灯台は夜に船を導く光を示す塔である。\n",
    "منارة.md": "# المنارة\n\nالمنارة هي برج يضيء الطريق للسفن في الليل.\n",
}


@dataclass(frozen=True)
class Home:
    """One data folder and one folder of documents, and the ways to run the program on them."""

    data: Path
    docs: Path
    environment: dict

    def start(self, *arguments, **environment):
        """Start the program as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "workers.cli", *arguments],
            cwd=ROOT,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, *arguments, **environment):
        """Run the program to its end: its exit code, standard output and standard error."""
        process = self.start(*arguments, **environment)
        try:
            out, err = process.communicate(timeout=60)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        assert "Traceback" not in out + err
        return process.returncode, out, err

    def research(self, goal=GOAL, *options, **environment):
        return self.run("research", goal, "--docs", str(self.docs), *options, **environment)

    def server_runs(self):
        return (self.data / "postgres" / "postmaster.pid").exists()


@pytest.fixture(scope="module")
def home():
    # short, for the path of a socket may not be longer than some hundred characters
    folder = Path(tempfile.mkdtemp(prefix="oc-"))
    docs = folder / "docs"
    docs.mkdir()
    for name, text in DOCUMENTS.items():
        (docs / name).write_text(text, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(settings.PREFIX)}
    environment |= {"ORCHESTRATOR_DATA_DIR": str(folder / "data"), "NO_COLOR": "1"}
    yield Home(folder / "data", docs, environment)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def first(home):
    """The first thing ever asked on this home: exit code, report, messages."""
    code, out, err = home.research()
    return code, out, err, home.server_runs()


@pytest.fixture(scope="module")
def dsn(home, first):
    """The home's Postgres, kept up for as long as the module's tests look into it."""
    server = database.Embedded(home.data)
    yield server.dsn
    server.close()
    assert not home.server_runs()


@pytest.fixture
def verb(home, dsn, capsys, monkeypatch):
    """Run a verb that does not work on plans, in this process, for it is quicker."""
    for name in [n for n in os.environ if n.startswith(settings.PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ORCHESTRATOR_DATA_DIR", str(home.data))
    monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", dsn)

    def run(*arguments):
        capsys.readouterr()
        code = cli.run(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    yield run
    logging.disable(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture
def as_json(verb):
    def run(*arguments):
        code, out, _ = verb(*arguments, "--json")
        return code, json.loads(out)

    return run


@pytest.fixture
def conductor(home, verb):
    with wiring.core(settings.load()) as core:
        yield core.conductor


@pytest.fixture
def plan_id(as_json):
    """The plan of the first question."""
    _, listed = as_json("plans", "list")
    return next(p["plan_id"] for p in reversed(listed["plans"]) if p["goal"] == GOAL)


@contextmanager
def altered(dsn, table, key, statement, *values):
    """Change rows behind the program's back, and put the table's rows back as they were."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # no foreign key keeps a forger out
        connection.execute(
            "ALTER TABLE audit DISABLE TRIGGER only_grows"
        )  # nor does this, if the table is theirs
        connection.execute(f"CREATE TEMPORARY TABLE kept AS SELECT * FROM {table}")
        changed = connection.execute(statement, values).rowcount
        assert changed >= 1
        try:
            yield
        finally:
            connection.execute(f"DELETE FROM {table}")
            connection.execute(f"INSERT INTO {table} SELECT * FROM kept ORDER BY {key}")
            connection.execute("ALTER TABLE audit ENABLE ALWAYS TRIGGER only_grows")


class TestResearch:
    def test_prints_a_cited_report_and_shows_its_phases(self, first):
        code, out, err, _ = first

        assert code == 0
        assert out.startswith(f"# {GOAL}\n")
        assert "- A lighthouse is a tower that shows a light to guide ships at night. [1]" in out
        assert "1. `lighthouse.md` — Lighthouse, characters" in out
        assert all(f"\n{phase} " in err for phase in ("observe", "orient", "decide", "act"))
        assert "found" in err
        assert "report verify" in err

    def test_that_ended_leaves_no_server_behind(self, first):
        assert first[3] is False

    def test_asked_again_returns_the_finished_plan_and_calls_nothing(
        self, home, dsn, as_json, plan_id, first
    ):
        _, before = as_json("plans", "show", plan_id)

        code, out, err = home.research()

        _, after = as_json("plans", "show", plan_id)
        assert (code, out) == (0, first[1])
        assert "Answered before" in err
        assert "changed" not in err
        assert after == before

    def test_asked_anew_makes_another_plan_which_is_the_one_returned_from_then_on(self, home, verb, plan_id):
        code, out, _ = home.research(GOAL, "--json", "--new")
        anew = json.loads(out)["plan"]["plan_id"]

        _, out, _ = verb("research", GOAL, "--docs", str(home.docs), "--json")

        assert code == 0
        assert anew != plan_id
        assert json.loads(out)["plan"]["plan_id"] == anew

    def test_of_a_goal_that_the_documents_do_not_answer_says_so_and_is_fine(self, home, dsn):
        code, out, _ = home.research("Who composed the opera Turandot?")

        assert code == 0
        assert "Not found in the sources." in out

    def test_takes_goals_in_any_script(self, home, dsn):
        goal = "灯台とは何ですか？ ما هي المنارة؟ 🗼 𝒻𝒶𝓃𝒸𝓎"

        code, out, _ = home.research(goal, "--json")

        document = json.loads(out)
        assert code == 0
        assert document["plan"]["goal"] == goal
        assert {c["quote"] for c in document["report"]["citations"]} >= {
            "灯台は夜に船を導く光を示す塔である。",
            "المنارة هي برج يضيء الطريق للسفن في الليل.",
        }

    def test_refuses_a_goal_as_long_as_a_book(self, home):
        code, out, err = home.research("x" * 100_000)

        assert (code, out) == (2, "")
        assert "100,000 bytes" in err

    def test_with_json_prints_one_document_and_writes_the_report_to_a_file(
        self, home, verb, plan_id, tmp_path
    ):
        markdown, document = tmp_path / "report.md", tmp_path / "report.JSON"

        code, out, _ = verb("research", GOAL, "--docs", str(home.docs), "--json", "--out", str(document))
        silent = verb("research", GOAL, "--docs", str(home.docs), "--out", str(markdown))

        printed = json.loads(out)
        assert (code, silent[0]) == (0, 0)
        assert printed["plan"]["state"] == "succeeded"
        assert json.loads(document.read_text()) == printed["report"]
        assert silent[1] == ""
        assert str(markdown) in silent[2]
        assert markdown.read_text().startswith(f"# {GOAL}\n")
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []

    def test_interrupted_is_kept_and_the_same_command_goes_on_with_it(self, home, dsn):
        goal = "What does the keeper of a lighthouse do?"
        interrupted, terminated = (
            self.stop(home, goal, number, after)
            for number, after in ((signal.SIGINT, "submitted"), (signal.SIGTERM, "Going on with"))
        )

        code, out, err = home.research(goal, "--depth", "5", "--json")

        assert interrupted[:2] == (130, "")
        assert terminated[:2] == (143, "")
        assert "nothing is lost. The same command goes on with it" in interrupted[2]
        plan_id = json.loads(out)["plan"]["plan_id"]
        assert f"Plan {plan_id[:8]} is kept" in interrupted[2]
        assert code == 0
        assert f"Going on with plan {plan_id[:8]}" in err

    @staticmethod
    def stop(home, goal, number, after):
        """Start the research, so deep that it is not done at once, and send it a signal once it says something."""
        process = home.start("research", goal, "--docs", str(home.docs), "--depth", "5")
        try:
            while after not in (line := process.stderr.readline()):
                assert line, "the program ended before it began"
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        return process.returncode, out, err

    def test_says_when_the_documents_have_changed_since_it_answered(self, home, verb, plan_id):
        added = home.docs / "added.md"
        added.write_text("A lighthouse ship is a ship that serves as a lighthouse.\n")
        try:
            code, _, err = verb("research", GOAL, "--docs", str(home.docs))
        finally:
            added.unlink()

        assert code == 0
        assert "The documents have changed since. Give --new" in err


class TestDocuments:
    @pytest.mark.parametrize("content", [None, bytes(range(256)) * 40])
    def test_that_cannot_be_read_are_refused_before_a_plan_is_made(self, verb, as_json, tmp_path, content):
        if content is not None:
            (tmp_path / "noise.bin").write_bytes(content)
        _, before = as_json("plans", "list")

        code, out, err = verb("research", "What is in it?", "--docs", str(tmp_path))

        assert (code, out) == (2, "")
        assert "holds no document that can be read" in err
        assert as_json("plans", "list")[1] == before

    def test_that_are_badly_encoded_do_no_harm(self, home, dsn, tmp_path):
        (tmp_path / "bad.txt").write_bytes(
            b"A buoy is a float \xff\xfe\x81 that marks a channel.\n\xc3\x28\n"
        )
        (tmp_path / "good.txt").write_text("A buoy is a float that marks a channel.\n")

        code, out, _ = home.run("research", "What is a buoy?", "--docs", str(tmp_path))

        assert code == 0
        assert "A buoy is a float that marks a channel. [" in out


class TestPlans:
    def test_are_listed(self, verb, as_json, plan_id):
        code, out, _ = verb("plans", "list")

        assert code == 0
        assert plan_id[:8] in out
        assert GOAL in out
        assert as_json("plans", "list", "--state", "failed") == (0, {"plans": []})
        assert len(as_json("plans", "list", "--limit", "1")[1]["plans"]) == 1

    def test_are_shown_by_the_beginning_of_their_id(self, verb, as_json, plan_id):
        code, out, _ = verb("plans", "show", plan_id[:8].upper())

        assert code == 0
        assert "researcher" in out
        assert "documents_search" in out
        shown = as_json("plans", "show", plan_id)[1]
        assert [s["agent"] for s in shown["steps"]][:3] == ["router", "planner", "researcher"]
        assert shown["has_report"] is True

    def test_are_watched_from_their_beginning_to_their_end(self, verb, plan_id):
        code, out, _ = verb("plans", "watch", plan_id, "--json")

        events = [json.loads(line) for line in out.splitlines()]
        assert code == 0
        assert [e["number"] for e in events] == list(range(1, len(events) + 1))
        assert (events[0]["kind"], events[-1]["kind"]) == ("plan.submitted", "plan.ended")

    def test_show_the_rounds_in_which_a_draft_was_judged(self, verb, as_json, plan_id):
        shown = as_json("plans", "show", plan_id)[1]["ballots"]

        assert [b["decided"] for b in shown] == ["accepted"]
        assert "Rounds" in verb("plans", "show", plan_id)[1]

    def test_b44_whose_report_needs_review_are_not_taken_for_answered(self, verb, dsn, plan_id):
        doubt = (
            """UPDATE report SET body = jsonb_set(body, '{verdict}', '"needs_review"') WHERE plan_id = %s"""
        )
        with altered(dsn, "report", "plan_id", doubt, plan_id):
            code, _, err = verb("plans", "watch", plan_id)

        assert code == 6
        assert "needs review: no draft was accepted" in err
        assert verb("plans", "watch", plan_id)[0] == 0

    def test_that_are_finished_cannot_be_cancelled_or_retried(self, verb, plan_id):
        assert verb("plans", "cancel", plan_id)[0] == 4
        assert verb("plans", "retry", plan_id)[0] == 4

    def test_that_wait_are_cancelled(self, verb, as_json, conductor, home):
        plan = conductor.submit(request("Never mind.", sources={"documents": str(home.docs)}))

        code, out, _ = verb("plans", "cancel", plan.plan_id, "--reason", "no longer wanted")

        assert (code, out) == (0, f"Plan {plan.plan_id[:8]} is cancelled.\n")
        assert as_json("plans", "show", plan.plan_id)[1]["plan"]["reason"] == "no longer wanted"
        assert verb("report", "show", plan.plan_id)[0] == 3

    @pytest.mark.parametrize(
        ("given", "code"),
        [
            ("00000000-0000-4000-8000-000000000000", 3),
            ("not-an-id", 3),
            ("%%%%", 3),
            ("12", 2),
            ("", 2),
        ],
    )
    def test_that_do_not_exist_are_not_found(self, verb, given, code):
        for command in (
            "plans show",
            "plans watch",
            "plans cancel",
            "report verify",
            "audit verify",
            "audit show",
        ):
            assert verb(*command.split(), given)[0] == code

    def test_are_asked_for_with_more_characters_where_an_id_is_not_unique(self, verb, dsn, plan_id):
        twin = plan_id[:-1] + ("0" if plan_id[-1] != "0" else "1")
        copied = """
            INSERT INTO plan (plan_id, tenant, goal, depth, state, requester, sources, metadata, priority,
                              fingerprint, budget_steps, budget_calls, budget_tokens, budget_uusd, budget_s,
                              created_at, deadline)
            SELECT %s, tenant, goal, depth, 'queued', requester, sources, metadata, priority, fingerprint,
                   budget_steps, budget_calls, budget_tokens, budget_uusd, budget_s, created_at, deadline
              FROM plan WHERE plan_id = %s
        """
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(copied, (twin, plan_id))
            try:
                code, _, err = verb("plans", "show", plan_id[:8])
            finally:
                connection.execute("DELETE FROM plan WHERE plan_id = %s", (twin,))

        assert code == 2
        assert "Give more characters" in err


class TestAReport:
    def test_is_shown_as_it_was_printed(self, verb, as_json, plan_id, first):
        assert verb("report", "show", plan_id)[1] == first[1]
        assert as_json("report", "show", plan_id)[1]["goal"] == GOAL

    def test_is_proven(self, verb, as_json, plan_id, first, tmp_path):
        file = tmp_path / "report.md"
        file.write_text(first[1], encoding="utf-8")

        code, out, _ = verb("report", "verify", plan_id, "--file", str(file))

        assert code == 0
        assert "holds" in out
        assert as_json("report", "verify", plan_id)[1]["ok"] is True

    @pytest.mark.parametrize(
        ("table", "key", "statement", "told"),
        [
            (
                "evidence",
                "sha256",
                "UPDATE evidence SET text = replace(text, 'tower', 'power') WHERE locator = 'lighthouse.md'",
                "was altered",
            ),
            ("evidence", "sha256", "DELETE FROM evidence WHERE locator = 'lighthouse.md'", "is not stored"),
            (
                "report",
                "plan_id",
                (
                    "UPDATE report SET body = jsonb_set(body, '{sections,0,sentences,0,text}', '\"Ships glow.\"')"
                    " WHERE plan_id = %s"
                ),
                "what it says does not stand in what it cites",
            ),
            (
                "report",
                "plan_id",
                (
                    "UPDATE report SET body = jsonb_set(body, '{sections,0,sentences,0,citations}', '[]')"
                    " WHERE plan_id = %s"
                ),
                "carries no citation",
            ),
            (
                "report",
                "plan_id",
                (
                    "UPDATE report SET body = jsonb_set(body, '{citations,0,locator}', '\"forged.md\"')"
                    " WHERE plan_id = %s"
                ),
                "differs from fact",
            ),
            (
                "report",
                "plan_id",
                "UPDATE report SET body = jsonb_set(body, '{confidence}', '0.5') WHERE plan_id = %s",
                "not the one that was sealed",
            ),
            ("report", "plan_id", "UPDATE report SET body = '[]' WHERE plan_id = %s", "not of the form"),
            (
                "audit",
                "chain, number",
                "DELETE FROM audit WHERE kind = 'report.written' AND chain = %s",
                "the audit knows of no report",
            ),
        ],
    )
    def test_does_not_hold_once_somebody_altered_a_row(self, verb, dsn, plan_id, table, key, statement, told):
        values = (plan_id,) if "%s" in statement else ()
        with altered(dsn, table, key, statement, *values):
            code, out, _ = verb("report", "verify", plan_id)

        assert code == 1
        assert told in out
        assert verb("report", "verify", plan_id)[0] == 0

    @pytest.mark.parametrize("name", ["report.md", "report.json", "report.html", "report.pdf"])
    def test_is_written_in_every_form_and_proven_in_each(self, verb, plan_id, tmp_path, name):
        file, other = tmp_path / name, tmp_path / f"other-{name}"

        code, out, _ = verb("report", "show", plan_id, "--out", str(file))
        other.write_bytes(file.read_bytes().replace(b"1", b"7"))

        assert (code, out) == (0, "")
        assert verb("report", "verify", plan_id, "--file", str(file))[0] == 0
        assert verb("report", "verify", plan_id, "--file", str(other))[0] == 1

    def test_is_printed_in_the_form_that_is_asked_for(self, verb, plan_id, first, tmp_path):
        file = tmp_path / "report.pdf"

        assert verb("report", "show", plan_id, "--format", "md")[1] == first[1]
        assert verb("report", "show", plan_id, "--format", "html")[1].startswith("<!doctype html>")
        assert verb("report", "show", plan_id, "--format", "html", "--out", str(file))[0] == 0
        assert file.read_text().startswith("<!doctype html>")

    @pytest.mark.parametrize("text", ["", "# Another report\n", "{}", '{"v": 1}'])
    def test_is_not_the_file_that_says_something_else(self, verb, plan_id, tmp_path, text):
        file = tmp_path / "report.md"
        file.write_text(text)

        code, out, _ = verb("report", "verify", plan_id, "--file", str(file))

        assert code == 1
        assert "it is not the report that is stored" in out

    def test_is_not_a_file_that_is_not_there(self, verb, plan_id):
        assert verb("report", "verify", plan_id, "--file", "no-such.md")[0] == 2


class TestTheAudit:
    def test_holds_for_every_plan(self, verb, as_json, plan_id):
        code, found = as_json("audit", "verify")

        assert code == 0
        assert found["ok"]
        assert found["plans"] >= 1
        assert verb("audit", "verify", plan_id)[0] == 0

    @pytest.mark.parametrize(
        ("statement", "told"),
        [
            (
                (
                    "UPDATE audit SET body = convert_to(replace(convert_from(body, 'UTF8'), 'allow', 'avoid'), 'UTF8')"
                    " WHERE number = 2 AND chain = %s"
                ),
                "record 2 (tool.intent) was altered",
            ),
            (
                "UPDATE audit SET kind = 'tool.other' WHERE number = 3 AND chain = %s",
                "record 3 (tool.other) was",
            ),
            (
                "UPDATE audit SET body = 'not json' WHERE number = 2 AND chain = %s",
                "record 2 (tool.intent) was",
            ),
            ("DELETE FROM audit WHERE number = 3 AND chain = %s", "record 3 is missing"),
            ("DELETE FROM audit WHERE number >= 4 AND chain = %s", "record 4 is missing"),
            (
                "UPDATE audit SET number = number + 1000 WHERE number = 2 AND chain = %s",
                "record 2 is missing",
            ),
            (
                (
                    "UPDATE audit SET number = CASE number WHEN 2 THEN 903 ELSE 902 END"
                    " WHERE number IN (2, 3) AND chain = %s"
                ),
                "record 2 is missing",
            ),
        ],
    )
    def test_names_the_record_that_somebody_altered_removed_or_moved(
        self, verb, as_json, dsn, plan_id, statement, told
    ):
        with altered(dsn, "audit", "chain, number", statement, plan_id):
            code, out, _ = verb("audit", "verify")
            _, document = as_json("audit", "verify", plan_id)
            shown = verb("audit", "show", plan_id)

        assert code == 1
        assert f"plan {plan_id[:8]}: {told}" in out
        assert document["breaks"][0]["record"] == int(told.split()[1])
        assert shown[0] == 0
        assert verb("audit", "verify")[0] == 0

    def test_is_shown_in_order(self, verb, as_json, plan_id):
        code, out, _ = verb("audit", "show", plan_id)

        assert code == 0
        assert out.index("plan.submitted") < out.index("tool.intent") < out.index("report.written")
        assert as_json("audit", "show", plan_id)[1]["records"][0]["kind"] == "plan.submitted"


class TestAFork:
    def test_goes_on_from_a_step_and_its_report_verifies_as_does_that_of_its_fork(
        self, home, verb, as_json, plan_id
    ):
        before = as_json("plans", "show", plan_id)[1]
        keeper = next(s["number"] for s in before["steps"] if s["agent"] == "keeper")

        code, out, err = home.run("plans", "fork", plan_id, "--from", str(keeper), "--json")

        assert code == 0, err
        made = json.loads(out)["plan"]["plan_id"]
        shown = as_json("plans", "show", made)[1]
        assert [s["agent"] for s in shown["steps"]] == [s["agent"] for s in before["steps"]]
        assert {c["step"] for c in shown["calls"]} & set(range(1, keeper)) == set()
        assert json.loads(out)["report"]["citations"] == as_json("report", "show", plan_id)[1]["citations"]
        assert verb("report", "verify", made)[0] == 0
        assert verb("audit", "verify")[0] == 0
        assert as_json("plans", "show", plan_id)[1] == before

        last = shown["steps"][-1]["number"]
        code, out, err = home.run("plans", "fork", made, "--from", str(last), "--json")
        assert code == 0, err
        assert verb("report", "verify", json.loads(out)["plan"]["plan_id"])[0] == 0

    def test_may_ask_something_else_and_wait_for_whoever_works(self, verb, as_json, plan_id):
        code, told = as_json("plans", "fork", plan_id, "--goal", "What is a harbour?", "--no-work")

        assert code == 0
        assert told["plan"]["goal"] == "What is a harbour?"
        assert told["plan"]["steps"] == 1
        assert verb("plans", "cancel", told["plan"]["plan_id"])[0] == 0

    def test_from_a_step_that_is_not_there_is_told_so(self, verb, plan_id):
        code, _, err = verb("plans", "fork", plan_id, "--from", "999", "--no-work")
        assert code == 3
        assert "There is no step 999 in this plan" in err


class TestAReplay:
    def test_comes_out_the_same_and_so_does_its_file_in_another_house(self, verb, as_json, plan_id, tmp_path):
        code, out, err = verb("plans", "replay", plan_id[:8])
        assert (code, err) == (0, "")
        assert "comes out the same, byte for byte" in out
        file = tmp_path / "plan.json"
        code, written = as_json("plans", "record", plan_id, "--out", str(file))
        assert (code, written["file"]) == (0, str(file))
        elsewhere = tmp_path / "nothing is here"
        code, came = as_json("plans", "replay", str(file), "--data", str(elsewhere))
        assert (code, came["plan_id"], came["same"], came["divergence"]) == (0, plan_id, True, None)
        assert not elsewhere.exists()

        assert verb("plans", "record", plan_id, "--out", str(file))[0] == 2  # it is kept
        file.write_text(file.read_text().replace("A lighthouse is a tower", "A lighthouse is a cheese"))
        assert verb("plans", "replay", str(file))[0] == 2

    def test_of_an_altered_plan_names_the_step_and_fails(self, verb, plan_id, tmp_path):
        file = tmp_path / "plan.json"
        verb("plans", "record", plan_id, "--out", str(file))
        recorded = json.loads(file.read_text())
        for step in recorded["steps"]:
            if step["agent"] == "judge":
                step["verdict"] = "reject"
        file.write_text(json.dumps(recorded))

        code, out, _ = verb("plans", "replay", str(file))

        assert code == 1
        assert "(judge)" in out
        assert "verdict" in out


class TestCheckpoints:
    def test_are_listed_with_what_a_fork_reuses(self, verb, as_json, plan_id):
        code, listed = as_json("plans", "checkpoints", plan_id)
        steps = as_json("plans", "show", plan_id)[1]["steps"]
        assert code == 0
        assert [c["step"] for c in listed["checkpoints"]] == [s["number"] for s in steps]
        assert listed["checkpoints"][-1]["reused"] == [s["number"] for s in steps[:-1]]
        _, out, err = verb("plans", "checkpoints", plan_id)
        assert "synthesiser" in out
        assert f"plans fork {plan_id[:8]} --from STEP" in err


@pytest.fixture(scope="module")
def talk(home, dsn):
    """A conversation that was begun by a process which has ended."""
    return home.run("chat", GOAL, "--docs", str(home.docs), "--new")


class TestAConversation:
    def test_begins_with_a_cited_answer(self, talk):
        code, out, err = talk
        assert code == 0, err
        assert "A lighthouse is a tower that shows a light to guide ships at night. [1]" in out
        assert "  [1] lighthouse.md — Lighthouse, characters " in out

    def test_is_gone_on_with_by_another_process_without_looking_anything_up_again(self, talk, as_json):
        plans = len(as_json("plans", "list", "--limit", "1000")[1]["plans"])
        code, said = as_json("chat", "What does it guide at night?")
        assert code == 0
        assert (said["turn"]["route"], said["turn"]["plan_id"], said["turn"]["turn"]) == (
            "follow_up",
            None,
            4,
        )
        assert said["turn"]["citations"][0]["locator"] == "lighthouse.md"
        assert len(as_json("plans", "list", "--limit", "1000")[1]["plans"]) == plans

    def test_takes_a_line_at_a_time_until_there_are_no_more(self, home, talk):
        process = subprocess.run(
            [sys.executable, "-m", "workers.cli", "chat"],
            cwd=ROOT,
            env=home.environment,
            input="thanks\n\nWhat does it show?\nNo, only for Atlantis, please.\n",
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        greeting, shown, revised = process.stdout.strip().split("\n\n")
        assert greeting.startswith("Hello.")
        assert "A lighthouse is a tower that shows a light" in shown
        assert revised
        assert "forked from step 2" in process.stderr

    def test_asks_a_model_of_the_catalogue_about_a_message_that_no_rule_decides(
        self,
        home,
        talk,
        endpoint,  # noqa: F811
        tmp_path,
    ):
        endpoint.answer = lambda _: (200, said('{"route": "follow_up"}'))
        catalogue = tmp_path / "models.yaml"
        catalogue.write_text(
            f"models: {{quick: {{provider: openai, base_url: '{endpoint.url}', model: m-1}}}}",
            encoding="utf-8",
        )
        code, out, err = home.run("chat", "The light?", "--json", ORCHESTRATOR_MODELS_FILE=str(catalogue))
        assert code == 0, err
        assert json.loads(out)["turn"]["route"] == "follow_up"
        assert endpoint.requests

    def test_that_is_new_knows_nothing_of_the_one_before(self, talk, as_json):
        code, said = as_json("chat", "Hello!", "--new")
        assert (code, said["turn"]["turn"], said["turn"]["route"]) == (0, 2, "casual")

    def test_is_listed_shown_and_removed_and_its_plans_stay(self, talk, verb, as_json):
        said = as_json("chat", "Hello!", "--new")[1]["turn"]
        newest, *older = as_json("conversations", "list")[1]["conversations"]
        plans = as_json("plans", "list", "--limit", "1000")[1]["plans"]
        name = newest["conversation_id"][:13]

        shown = verb("conversations", "show", older[-1]["conversation_id"])
        code, told = as_json("conversations", "show", name)
        removed = as_json("conversations", "remove", name)

        assert newest["conversation_id"] == said["conversation_id"]
        assert (
            f"› {GOAL}\nA lighthouse is a tower that shows a light to guide ships at night. [1]\n" in shown[1]
        )
        assert (code, told["history"][0]["content"]) == (0, "Hello!")
        assert removed == (0, {"removed": [newest]})
        assert as_json("conversations", "list")[1]["conversations"] == older
        assert as_json("plans", "list", "--limit", "1000")[1]["plans"] == plans
        code, _, err = verb("conversations", "remove", name)
        assert code == 3
        assert "`orchestrator conversations list` lists those there are." in err

    def test_of_another_person_or_tenant_is_neither_found_nor_removed_with_all(self, talk, verb, as_json):
        with wiring.core(settings.load()) as core:
            store = core.store
            for number, (tenant, owner) in enumerate([("default", "ada"), ("acme", "local")]):
                with store.transaction() as tx:
                    tx.add_conversation(f"{number}" * 8 + "-0000-4000-8000-000000000000", tenant, owner)

            listed = as_json("conversations", "list")[1]["conversations"]
            found = [verb("conversations", "remove", f"{number}" * 8)[0] for number in (0, 1)]
            code, removed = as_json("conversations", "remove", "--all")

            with store.transaction() as tx:
                left = [len(tx.conversations(*whose)) for whose in (("default", "ada"), ("acme", "local"))]
        assert found == [3, 3]
        assert (code, removed) == (0, {"removed": listed})
        assert as_json("conversations", "list") == (0, {"conversations": []})
        assert left == [1, 1]


class TestWhatWasGivenUpOn:
    def test_is_listed_explained_and_taken_up_where_it_stopped(
        self, home, dsn, verb, as_json, conductor, tmp_path
    ):
        folder = tmp_path / "later"
        plan = conductor.submit(request("What is a buoy?", sources={"documents": str(folder)}))

        code, _, err = home.run("plans", "watch", plan.plan_id, "--work", ORCHESTRATOR_MAX_ATTEMPTS="1")

        assert code == 1
        assert "There is no folder" in err
        letter = as_json("dead", "list", "--plan", plan.plan_id)[1]["dead_letters"][0]
        assert f"orchestrator dead retry {letter['letter_id'][:8]}" in err
        shown = verb("dead", "show", letter["letter_id"][:8])
        assert shown[0] == 0
        assert "There is no folder" in shown[1]
        assert verb("dead", "list", "--reason", "other")[2] == "There are no open dead letters.\n"

        folder.mkdir()
        (folder / "buoy.md").write_text("A buoy is a float that marks a channel.\n")
        code, out, err = home.run("dead", "retry", "--all", "--reason", letter["reason"], "--json")

        assert code == 0
        assert json.loads(out)["plans"][0]["state"] == "succeeded"
        assert "taken up again" in err
        assert "A buoy is a float" in verb("report", "show", plan.plan_id)[1]
        assert as_json("dead", "list") == (0, {"dead_letters": []})
        assert as_json("dead", "list", "--all")[1]["dead_letters"][0]["state"] == "retried"
        assert verb("dead", "retry", letter["letter_id"])[0] == 4
        assert verb("dead", "discard", letter["letter_id"])[0] == 4

    def test_that_is_no_plans_is_discarded(self, verb, as_json, conductor):
        letter = conductor.bury_message(reason="malformed", detail="not an object")

        assert verb("dead", "retry", letter)[0] == 4
        code, _, err = verb("dead", "retry", "--all")
        assert code == 1
        assert "can only be discarded" in err
        assert verb("dead", "discard", letter[:8])[0] == 0
        assert verb("dead", "show", "00000000")[0] == 3

    def test_is_found_by_reason_tenant_plan_and_age_and_discarded_together(self, verb, as_json, conductor):
        letters = [conductor.bury_message(reason="odd", detail=f"the {n}th") for n in range(3)]

        def listed(*options):
            return len(as_json("dead", "list", "--reason", "odd", *options)[1]["dead_letters"])

        assert listed() == len(letters)
        assert listed("--newer-than", "1h") == len(letters)
        assert listed("--older-than", "1h") == 0
        assert listed("--tenant", "default") == 0  # a message without a plan is nobody's
        assert verb("dead", "discard", "--all", "--reason", "odd", "--older-than", "2h") == (
            0,
            "Discarded: 0 dead letters.\n",
            "",
        )

        code, told = as_json("dead", "discard", "--all", "--reason", "odd")

        assert (code, set(told["discarded"])) == (0, set(letters))
        assert listed() == 0
        assert listed("--all") == len(letters)

    @pytest.mark.parametrize(
        ("said", "options", "left"), [("n\n", [], 1), ("y\n", [], 0), ("", ["--yes"], 0)]
    )
    def test_is_discarded_together_only_when_the_person_at_the_terminal_agrees(
        self, home, dsn, as_json, conductor, said, options, left
    ):
        reason = f"asked{len(said)}{left}"
        conductor.bury_message(reason=reason, detail="something")

        code, told = typed(home, said, "dead", "discard", "--all", "--reason", reason, *options)

        assert ("Discard 1 dead letter?" in told) is bool(said)
        assert code == (130 if left else 0)
        assert len(as_json("dead", "list", "--reason", reason)[1]["dead_letters"]) == left


def typed(home, said, *arguments):
    """Run the program on a terminal of its own and type something: its exit code, and what the terminal showed."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", *arguments],
        cwd=ROOT,
        env={**home.environment, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, said.encode())
    shown = b""
    with suppress(OSError):  # how a terminal says that nobody is there any more
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    return process.wait(60), shown.decode()


class TestAnApproval:
    @pytest.fixture
    def asked(self, home, conductor):
        plan = conductor.submit(request("Good morning", sources={"documents": str(home.docs)}))
        claimed = conductor.begin(StepRef(plan.plan_id, 1), holder=1)
        conductor.report(claimed, Held("DECISION", "May it greet?", "0" * 64, roles=("operator",)))
        return plan

    def test_is_decided_once_by_somebody_else_and_the_plan_goes_on(self, home, verb, as_json, asked):
        approval = as_json("approvals", "list")[1]["approvals"][0]["approval_id"]

        waiting = home.run("plans", "watch", asked.plan_id, "--work")
        requester = verb("approvals", "approve", approval, "--as", "local")
        wrong_role = verb("approvals", "approve", approval, "--as", "ann", "--role", "guest")
        nobody = verb("approvals", "approve", approval, "--as", " ")
        approved = verb("approvals", "approve", approval[:8], "--as", "ann", "--comment", "fine")
        again = verb("approvals", "reject", approval, "--as", "bob")
        ended = home.run("plans", "watch", asked.plan_id, "--work")

        assert waiting[0] == 1
        assert f"approvals approve {approval[:8]} --as NAME" in waiting[2]
        assert [requester[0], wrong_role[0], nobody[0]] == [4, 4, 2]
        assert approved[:2] == (0, f"Approval {approval[:8]} is approved by ann.\n")
        assert f"plans watch {asked.plan_id[:8]} --work" in approved[2]
        assert again[0] == 4
        assert ended[0] == 0
        assert verb("approvals", "list")[2] == "Nothing waits for a decision.\n"

    def test_goes_from_stage_to_stage_where_nobody_decides_alone(self, verb, as_json, asked):
        def waiting(role):
            found = as_json("approvals", "list", "--role", role)[1]["approvals"]
            return [a["approval_id"] for a in found if a["plan_id"] == asked.plan_id]

        (approval,) = waiting("team_lead")
        early = verb("approvals", "approve", approval, "--as", "eve", "--role", "manager")
        first = verb("approvals", "approve", approval, "--as", "bob", "--role", "team_lead")
        twice = verb("approvals", "approve", approval, "--as", "bob", "--role", "manager")
        assert waiting("team_lead") == []
        assert waiting("manager") == [approval]
        second = verb("approvals", "approve", approval, "--as", "eve", "--role", "manager")

        assert [early[0], twice[0]] == [4, 4]
        assert first[:2] == (0, f"Approval {approval[:8]} now waits for manager, operator.\n")
        assert second[:2] == (0, f"Approval {approval[:8]} is approved by eve.\n")
        shown = as_json("approvals", "show", approval[:8])[1]
        assert [(r["person"], r["role"]) for r in shown["rulings"]] == [
            ("bob", "team_lead"),
            ("eve", "manager"),
        ]
        assert "bob" in verb("approvals", "show", approval)[1]
        verb("plans", "cancel", asked.plan_id)

    def test_that_is_refused_ends_its_plan(self, verb, as_json, asked):
        approval = as_json("approvals", "list")[1]["approvals"][0]["approval_id"]

        assert verb("approvals", "reject", approval, "--as", "ann")[0] == 0
        assert as_json("plans", "show", asked.plan_id)[1]["plan"]["state"] == "rejected"
        code, _, err = verb("plans", "watch", asked.plan_id)
        assert code == 1
        assert "ann rejected step 1" in err
        assert verb("approvals", "approve", "ffff", "--as", "ann")[0] == 3


class TestTheDoctor:
    def test_finds_everything_well(self, home, dsn):
        code, out, _ = home.run("doctor", "--json")

        checks = {c["what"]: c["state"] for c in json.loads(out)["checks"]}
        assert code == 0
        assert set(checks.values()) == {"ok"}
        assert {"postgres (embedded)", "schema", "audit key", "policies", "tool server documents"} <= set(
            checks
        )

    def test_says_what_is_wrong_and_what_to_do(self, home, dsn, tmp_path):
        (tmp_path / "keys").mkdir()
        (tmp_path / "keys" / "audit.key").write_text("0" * 64)
        (tmp_path / "keys" / "audit.key").chmod(0o644)
        (tmp_path / "keys" / "secrets.key").write_text("0" * 64)
        (tmp_path / "keys" / "secrets.key").chmod(0o640)

        code, out, _ = home.run(
            "doctor",
            "--json",
            "--data",
            str(tmp_path),
            ORCHESTRATOR_DATABASE_URL="postgresql://127.0.0.1:1/none",
            ORCHESTRATOR_LEASES="3",
        )

        found = {c["what"]: c for c in json.loads(out)["checks"]}
        assert code == 1
        assert found["postgres"]["state"] == "fail"
        assert "ORCHESTRATOR_DATABASE_URL" in found["postgres"]["todo"]
        assert found["audit key"]["todo"].startswith("chmod 600")
        assert found["secrets key"]["todo"].startswith("chmod 600")
        assert "ORCHESTRATOR_LEASE_S" in found["environment"]["said"]


class TestTenants:
    def test_are_given_a_weight_and_a_limit_and_listed(self, verb, as_json):
        assert verb("tenants", "list")[0] == 0
        assert as_json("tenants", "set", "research", "--weight", "3", "--max-running", "4")[1] == {
            "tenant": "research",
            "weight": 3.0,
            "max_running": 4,
        }
        code, _, err = verb("tenants", "set", "other", "--weight", "0.5")
        assert (code, "any number of its steps may run at once" in err) == (0, True)
        assert as_json("tenants", "list")[1]["tenants"] == [
            {"tenant": "other", "weight": 0.5, "max_running": None},
            {"tenant": "research", "weight": 3.0, "max_running": 4},
        ]

    @pytest.mark.parametrize(
        ("name", "option", "value"),
        [
            (" ", "--weight", "1"),
            ("a", "--weight", "0"),
            ("a", "--weight", "nan"),
            ("a", "--max-running", "0"),
        ],
    )
    def test_are_given_nothing_that_cannot_be(self, verb, name, option, value):
        code, _, err = verb("tenants", "set", name, option, value)
        assert (code, err.count("\n")) == (2, 1)


class TestARedisThatIsConfigured:
    @pytest.mark.parametrize("verb", [("config", "check"), ("doctor",)])
    def test_and_answers_is_well(self, home, dsn, redis_server, verb):
        code, out, _ = home.run(*verb, "--json", ORCHESTRATOR_REDIS_URL=redis_server.url)
        found = {c["what"]: c["state"] for c in json.loads(out)["checks"]}
        assert (code, found["redis"]) == (0, "ok")

    @pytest.mark.parametrize("verb", [("config", "check"), ("doctor",)])
    def test_and_does_not_answer_is_a_hint_and_no_failure(self, home, dsn, verb):
        code, out, _ = home.run(*verb, "--json", ORCHESTRATOR_REDIS_URL="redis://127.0.0.1:1/0")
        found = {c["what"]: c for c in json.loads(out)["checks"]}
        assert (code, found["redis"]["state"]) == (0, "warn")
        assert "ORCHESTRATOR_REDIS_URL" in found["redis"]["todo"]

    def test_under_an_address_that_makes_no_sense_is_told_in_a_sentence(self, home, dsn):
        code, _, err = home.run("plans", "list", ORCHESTRATOR_REDIS_URL="localhost:6379")
        assert code == 2
        assert "redis://" in err


def test_a_database_that_does_not_answer_is_told_in_a_sentence(home, tmp_path):
    code, out, err = home.run(
        "plans",
        "list",
        "--data",
        str(tmp_path),
        ORCHESTRATOR_DATABASE_URL="postgresql://127.0.0.1:1/none",
    )

    assert (code, out) == (5, "")
    assert "Postgres does not answer" in err


def test_a_reader_who_goes_away_is_no_fault(home, dsn, plan_id):
    process = home.start("plans", "watch", plan_id, "--json")
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)

    assert process.returncode == 141
    assert "Traceback" not in err


@pytest.fixture(autouse=True)
def _without_warnings_of_the_machine():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
        yield
