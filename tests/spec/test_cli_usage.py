"""The command line before it opens anything: usage, exit codes, and how errors are told."""

import io
import json
import subprocess
import sys

import pytest
import typer.testing

from orchestrator.domain import errors
from workers import cli
from workers.cli import config, doors, exits


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = cli.run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_help_lists_every_verb_and_every_exit_code(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # wide enough that no line is broken

    code, out, _ = run("--help")

    assert code == exits.FINE
    verbs = "research chat plans report dead approvals audit doctor new-agent language-reference config"
    assert all(verb in out for verb in verbs.split())
    assert all(str(number) in out and meaning in out for number, meaning in exits.MEANINGS.items())


@pytest.mark.parametrize(
    "verb",
    [
        "research", "chat", "doctor", "eval", "new-agent", "language-reference",
        "plans list", "plans show", "plans watch", "plans cancel", "plans retry", "plans fork", "plans checkpoints",
        "conversations list", "conversations show", "conversations remove",
        "dead list", "dead show", "dead retry", "dead discard",
        "policy test", "policy explain", "policy lint", "policy bundle",
        "approvals list", "approvals show", "approvals approve", "approvals reject",
        "notifications list", "notifications retry",
        "report show", "report verify", "sandbox check", "config show", "config check",
        "audit verify", "audit show", "audit checkpoint", "audit check", "audit export",
        "audit prove", "audit keys", "audit explain", "audit blind",
        "secrets put", "secrets list", "secrets versions", "secrets rotate", "secrets promote", "secrets remove",
        "secrets rekey",
        "keys create", "keys list", "keys rotate", "keys revoke",
        "policy stop", "policy resume", "policy stops",
    ],
)  # fmt: skip
def test_every_verb_explains_itself_and_has_json(run, verb):
    result = typer.testing.CliRunner().invoke(cli.app, [*verb.split(), "--help"])

    assert result.exit_code == exits.FINE
    assert "--json" in result.output


def test_the_keys_and_a_digest_of_the_audit_are_one_json_document_each(run, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is a lock?\n"))

    _, keys, _ = run("audit", "keys", "--json", "--data", str(tmp_path))
    _, digest, _ = run("audit", "blind", "--json", "--data", str(tmp_path))

    assert len(json.loads(keys)["keys"]) == 1
    assert json.loads(digest)["digest"]


def test_help_does_not_wait_for_what_only_verbs_need():
    heavy = (
        "{'mcp', 'celery', 'psycopg', 'pydantic', 'pypdf', 'importlib.metadata', 'orchestrator.domain.report', "
        "'orchestrator.export.html', 'orchestrator.export.pdf'}"
    )
    check = f"import sys, workers.cli; sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"

    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_a_conversation_as_json_is_one_message(run):
    code, out, err = run("chat", "--json")

    assert code == exits.USAGE
    assert "say one message" in json.loads(out)["error"]["message"]
    assert "say one message" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["resaerch", "x"], "Did you mean 'research'? See"),
        (["research"], "Missing argument 'GOAL'"),
        (["research", "x", "--depth", "nine"], "valid integer"),
        (["research", "x", "--no-such"], "No such option"),
        (["chat", "x", "--depth", "nine"], "valid integer"),
        (["chat", "x", "--depth", "9"], "1 to 5"),
        (["chat", " "], "empty"),
        (["conversations", "remove"], "or --all"),
        (["conversations", "remove", "abcd", "--all"], "or --all"),
        (["chat", "x", "--docs", "no/such/folder"], "There is no folder"),
        (["plans", "list", "--state", "odd"], "odd"),
        (["plans", "list", "--limit", "0"], "greater than or equal to 1"),
        (["plans", "fork", "abcd", "--from", "0"], "greater than or equal to 1"),
        (["approvals", "approve", "abcd"], "--as"),
        (["dead", "retry"], "--all"),
        (["dead", "retry", "abcd", "--all"], "--all"),
        (["dead", "retry", "abcd", "--reason", "worker_lost"], "--reason"),
        (
            ["dead", "retry", "abcd", "--older-than", "2h", "--tenant", "a"],
            "--tenant, --older-than goes with --all",
        ),
        (["dead", "discard"], "--all"),
        (["dead", "discard", "abcd", "--all"], "--all"),
        (["dead", "discard", "abcd", "--plan", "abcd"], "--plan"),
        (["dead", "discard", "--all", "--newer-than", "yesterday"], "is no age"),
        (["dead", "list", "--older-than", "2"], "is no age"),
    ],
)
def test_bad_usage_is_told_in_a_sentence_on_standard_error(run, arguments, told):
    code, out, err = run(*arguments)

    assert code == exits.USAGE
    assert out == ""
    assert told in err
    assert err.startswith("orchestrator: ")
    assert err.count("\n") == 1


def test_no_verb_at_all_prints_the_help(run):
    code, out, err = run("plans")

    assert code == exits.USAGE
    assert "Usage" in out + err


@pytest.mark.parametrize(
    ("goal", "told"),
    [
        ("", "empty"),
        (" \t\n ", "empty"),
        ("x" * 100_000, "100,000 bytes"),
        ("\ud800", "lone surrogates"),
    ],
)
def test_a_goal_that_cannot_be_meant_is_refused_before_anything_is_made(run, tmp_path, goal, told):
    code, out, err = run("research", goal, "--data", str(tmp_path / "data"))

    assert (code, out) == (exits.USAGE, "")
    assert told in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--depth", "9"], "1 to 5"),
        (["--budget-steps", "3"], "at least 8 steps"),
        (["--rounds", "0"], "from 1 to 32,768"),
        (["--rounds", "32769"], "from 1 to 32,768"),
        (["--time-limit", "0"], "from one second to ten years"),
        (["--time-limit", "9" * 15], "from one second to ten years"),
        (["--docs", "no/such/folder"], "There is no folder"),
        (["--docs", __file__], "is a file"),
        (["--docs", "a\0b"], "null byte"),
        (["--out", "no/such/folder/report.md"], "there is no folder"),
        (["--out", "."], "is a folder"),
        (["--out", "report.xyz"], "no form of a report ends in .xyz. Known are .md, "),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_anything_is_made(run, tmp_path, options, told):
    code, out, err = run("research", "What is it?", *options, "--data", str(tmp_path / "data"))

    assert (code, out) == (exits.USAGE, "")
    assert told in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("missing", ["fpdf", "pymupdf_fonts"])
def test_a_report_as_pdf_is_refused_before_the_work_where_part_of_its_extra_is_missing(
    run, tmp_path, monkeypatch, missing
):
    monkeypatch.setitem(sys.modules, missing, None)
    data = tmp_path / "data"

    for verb in (["research", "What is it?"], ["report", "show", "abcd"]):
        code, out, err = run(*verb, "--out", str(tmp_path / "report.pdf"), "--data", str(data))

        assert (code, out) == (exits.USAGE, "")
        assert "pip install 'orchestrator[pdf]'" in err
        assert not data.exists()


@pytest.mark.parametrize("docs", [(), ("--docs", ".")])
def test_a_data_folder_that_cannot_be_made_is_named(run, tmp_path, docs):
    (tmp_path / "file").write_text("no folder")

    code, _, err = run("research", "What is a lock?", *docs, "--data", str(tmp_path / "file" / "data"))

    assert code == exits.USAGE
    assert "Name another with --data." in err


def test_an_interruption_while_the_program_loads_is_told_without_a_traceback():
    script = """if True:
        import os, signal, sys
        class Impatient:
            def find_spec(self, name, path=None, target=None):
                if name == "typer":
                    os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, Impatient())
        from workers import program
        program.main()
    """

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (exits.INTERRUPTED, "")
    assert ended.stderr == "Interrupted; nothing was begun.\n"


def test_a_goal_on_standard_input_that_is_not_text_is_refused(tmp_path):
    result = typer.testing.CliRunner().invoke(
        cli.app, ["research", "-", "--data", str(tmp_path / "data")], input=b"\xff\xfe\x00"
    )

    assert isinstance(result.exception, errors.InvalidGoal)


def test_with_json_an_error_is_one_document_too(run):
    code, out, err = run("research", "", "--json")

    assert code == exits.USAGE
    assert json.loads(out)["error"]["code"] == "invalid_goal"
    assert "empty" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidGoal("x"), 2),
        (errors.KeyReused("x"), 2),
        (errors.Misconfigured("x"), 2),
        (errors.NotFound("plan", "x"), 3),
        (errors.IllegalMove("plan", "succeeded", "cancel"), 4),
        (errors.AlreadyDecided("x", "approved"), 4),
        (errors.WrongRole(("operator",)), 4),
        (errors.RequesterDecides("x"), 4),
        (errors.Unavailable("x"), 5),
        (errors.Fenced("x", 1, 1), 70),
    ],
)
def test_every_error_has_its_exit_code(error, code):
    assert exits.code_of(error) == code


def test_a_fault_nobody_foresaw_is_told_without_a_traceback(run, monkeypatch):
    def broken(_=None):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(doors, "settings", broken)

    code, out, err = run("plans", "list")

    assert (code, out) == (exits.FAULT, "")
    assert "ZeroDivisionError: by zero" in err
    assert "Traceback" not in err


def test_a_setting_that_does_not_fit_is_named(run, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CONCURRENCY", "many")

    code, _, err = run("config", "show")

    assert code == exits.USAGE
    assert "'concurrency'" in err


class TestTheSettingsShown:
    def test_say_where_each_comes_from(self, run, monkeypatch, tmp_path):
        monkeypatch.setenv("ORCHESTRATOR_LEASE_S", "12")

        code, out, _ = run("config", "show", "--json", "--data", str(tmp_path))

        shown = json.loads(out)["settings"]
        assert code == exits.FINE
        assert shown["lease_s"] == {"value": 12.0, "source": "environment ORCHESTRATOR_LEASE_S"}
        assert shown["data_dir"] == {"value": str(tmp_path), "source": "flag --data"}
        assert shown["broker_url"]["source"] == "settings.yaml"

    def test_never_show_a_password(self, run, monkeypatch):
        monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", "postgresql://ann:hush@db.example/plans")
        monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", "amqp://ann:hush@mq.example//")

        _, out, _ = run("config", "show")

        assert "hush" not in out
        assert "ann:***@db.example/plans" in out

    def test_warn_of_variables_that_mean_nothing(self, run, monkeypatch):
        monkeypatch.setenv("ORCHESTRATOR_DATABSE_URL", "x")

        _, out, _ = run("config", "show", "--json")

        assert "Did you mean ORCHESTRATOR_DATABASE_URL?" in json.loads(out)["warnings"][0]

    def test_do_not_warn_of_the_variable_that_holds_the_models_key(self, monkeypatch):
        monkeypatch.delenv("ORCHESTRATOR_DATA_DIR", raising=False)

        assert config.strangers({"ORCHESTRATOR_MODEL_KEY": "x", "HOME": "/"}, doors.settings()) == []


class TestANewAgent:
    def test_is_written_once(self, run, tmp_path):
        folder = str(tmp_path / "agents")

        first = run(
            "new-agent",
            "scout",
            "--role",
            "Looks around.",
            "--capability",
            "documents.read",
            "--folder",
            folder,
        )
        again = run("new-agent", "Scout", "--folder", folder)

        assert first[0] == exits.FINE
        assert first[1].strip().endswith("scout.md")
        assert again[0] == exits.CONFLICT
        assert "already exists" in again[2]

    @pytest.mark.parametrize("arguments", [["../scout"], ["scout", "--capability", "fly"], ["readme"]])
    def test_that_would_not_load_is_not_written(self, run, tmp_path, arguments):
        code, _, _ = run("new-agent", *arguments, "--folder", str(tmp_path / "agents"))

        assert code == exits.USAGE
        assert not (tmp_path / "agents").exists()


def test_the_language_reference_is_written_to_a_folder(run, tmp_path):
    code, out, _ = run("language-reference", str(tmp_path / "reference"), "--json")

    assert code == exits.FINE
    assert json.loads(out)["chapters"] == len(list((tmp_path / "reference").iterdir())) > 50
