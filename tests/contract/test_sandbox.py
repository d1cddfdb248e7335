"""The sandbox for generated code: every attack is contained, or no code is run here; each wall is missed when it is gone."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import structlog

from orchestrator import settings
from scripts import services
from workers.toolhost import offer, sandbox
from workers.toolhost.attacks import ATTACKS
from workers.toolhost.registry import Registry, ServerSpec, ToolSpec
from workers.toolhost.sandbox import SPARE_UIDS, Limits, Sandbox, SandboxUnavailable, Verdict

FIRST_UID = 64700
BY_NAME = {attack.name: attack for attack in ATTACKS}
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a sandbox a user of its own")


@pytest.fixture(scope="module")
def bwrap():
    """The real program, or none where it cannot be had: then what is tested is that code is withheld."""
    with contextlib.suppress(services.ServiceMissing):
        return services.bubblewrap()
    return "/nowhere/bwrap"


@pytest.fixture(scope="module")
def box(bwrap):
    return Sandbox(bwrap=bwrap, first_uid=FIRST_UID)


@pytest.fixture(scope="module")
def here(box):
    """Whether this machine can enforce anything."""
    return box.try_on_itself([])


@pytest.fixture
def enforced(here):
    if not here.enforced:
        pytest.skip(f"no sandbox can be built here: {here.reason}")


@pytest.fixture
def folder():
    """A folder that everybody on this machine can read, as the programs of a system are."""
    made = Path(tempfile.mkdtemp(prefix="orc-sandbox-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def program(folder, text):
    made = folder / "bwrap"
    made.write_text(f"#!{sys._base_executable} -I\n{text}")
    made.chmod(0o755)
    return str(made)


def altered(folder, real, edit):
    """A bubblewrap that changes what it is told before it does it."""
    return program(
        folder,
        f"import os, sys\ngiven = sys.argv[1:]\n{edit}\nos.execv({real!r}, ['bwrap', *given])\n",
    )


def without(flag, values):
    return f"at = given.index({flag!r}); del given[at : at + 1 + {values}]"


def tool(name, capability):
    return ToolSpec(name, "local", capability, "idempotent", 30, 0, (), ())


TOOLS = Registry(
    {"compute": tool("compute", "code.exec"), "look": tool("look", "documents.read")},
    {"local": ServerSpec("local", "documents", (), ())},
)
SETTINGS = settings.load(environment={})


class TestAnAttack:
    def test_is_one_of_at_least_twenty(self):
        assert len(ATTACKS) == len(BY_NAME) >= 20
        assert len([attack for attack in ATTACKS if attack.essential]) >= 8

    @pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
    def test_is_contained_or_no_code_is_run_here(self, box, here, attack):
        if not here.enforced:
            assert here.reason
            assert "compute" not in offer.offered(TOOLS, SETTINGS, verdict=lambda _: here).tools
            return

        ran = box.run(attack.script, limits=replace(Limits(wall_s=60.0), **attack.limits))

        assert attack.is_contained(ran.ended, ran.stdout), ran
        assert "escaped" not in ran.stdout

    @pytest.mark.parametrize(
        "name",
        [
            "opens a unix socket",
            "speaks to the kernel over netlink",
            "listens",
            "reads what the machine keeps",
            "finds something in its own environment",
            "finds an open file of its launcher's",
            "follows a link out",
            "sends signals to other processes",
            "forks",
            "runs another program",
            "takes memory that no limit counts",
            "takes shared memory",
            "takes memory of System V",
        ],
    )
    def test_gets_out_where_there_is_no_sandbox(self, name, tmp_path):
        # whatever is contained everywhere would prove nothing
        script = BY_NAME[name].script.replace("/tmp/", f"{tmp_path}/").replace("/dev/shm/", f"{tmp_path}/")
        with Path(os.devnull).open() as leaked:
            ran = subprocess.run(
                [sys.executable, "-c", script],
                capture_output=True,
                text=True,
                timeout=60,
                env={**os.environ, "CANARY": "seen"},
                pass_fds=[leaked.fileno()],
                check=False,
            )

        assert "escaped:" in ran.stdout, ran
        assert not BY_NAME[name].is_contained("finished", ran.stdout.splitlines()[0])


@pytest.mark.usefixtures("enforced")
class TestAWall:
    """Each is taken away in turn; the sandbox that attacks itself notices, and withholds itself."""

    @pytest.mark.parametrize(
        ("edit", "attack"),
        [
            (without("--seccomp", 1), "opens a unix socket"),
            (without("--seccomp", 1), "forks"),
            (without("--seccomp", 1), "takes memory that no limit counts"),
            (without("--seccomp", 1), "makes a name space of its own"),
            (without("--remount-ro", 1), "writes outside its scratch folder"),
            (without("--size", 1), "fills its scratch folder"),
            (without("--unshare-pid", 0), "sends signals to other processes"),
            ("given[:0] = ['--ro-bind', '/etc', '/etc']", "reads what the machine keeps"),
            ("given[:0] = ['--proc', '/proc']", "reads its launcher's environment"),
            (
                "given[:0] = ['--setenv', 'CANARY', 'seen']; given.remove('--clearenv')",
                "finds something in its own environment",
            ),
            (
                "given[:0] = ['--dev', '/dev']; given.remove('--remount-ro'); given.remove('/')",
                "takes shared memory",
            ),
            ("given = [g for g in given if not g.startswith('RLIMIT_AS')]", "takes more memory than it may"),
            ("given = [g for g in given if not g.startswith('RLIMIT_FSIZE')]", "writes one huge file"),
        ],
        ids=lambda value: value[:40],
    )
    def test_that_is_gone_is_missed(self, bwrap, folder, edit, attack):
        weak = Sandbox(bwrap=altered(folder, bwrap, edit), first_uid=FIRST_UID)

        verdict = weak.try_on_itself([BY_NAME[attack]])

        assert not verdict.enforced
        assert verdict.tried == {attack: False}
        assert attack in verdict.reason


@pytest.mark.usefixtures("enforced")
class TestAScript:
    def test_reads_its_inputs_and_prints_its_answer(self, box):
        script = "import json\nprint(sum(json.load(open('/in/numbers.json'))), end='')\nopen('/tmp/x', 'w').write('y')"

        ran = box.run(script, {"numbers.json": json.dumps([1, 2, 3]).encode()})

        assert (ran.ended, ran.stdout, ran.stderr) == ("finished", "6", "")

    def test_that_raises_is_told_apart_with_what_it_said(self, box):
        ran = box.run("print('before')\n1 / 0")

        assert (ran.ended, ran.stdout) == ("failed", "before\n")
        assert "ZeroDivisionError" in ran.stderr

    def test_leaves_nothing_for_the_next(self, box):
        box.run("open('/tmp/left', 'w').write('secret')")
        assert box.run("import os; print(os.listdir('/tmp'))").stdout == "[]\n"

    def test_has_threads_and_the_standard_library(self, box):
        script = """
            import threading, sqlite3, decimal, statistics, csv, re, hashlib, ssl
            done = []
            threads = [threading.Thread(target=done.append, args=(n,)) for n in range(8)]
            [t.start() for t in threads]; [t.join() for t in threads]
            print(sorted(done) == list(range(8)))
        """
        assert box.run("if True:" + script).stdout == "True\n"

    def test_prints_what_is_not_text_and_is_read_all_the_same(self, box):
        ran = box.run("import sys; sys.stdout.buffer.write(b'\\xff\\x00ok')")
        assert ran.stdout == "\ufffd\x00ok"

    def test_may_have_many_files(self, box):
        script = (
            "for n in range(5000): open(f'/tmp/{n}', 'w').close()\nimport os; print(len(os.listdir('/tmp')))"
        )
        assert box.run(script, limits=Limits(scratch_bytes=10_000_001)).stdout == "5000\n"

    def test_may_not_have_any_number_of_them(self, box):
        script = BY_NAME["makes empty files without end"].script
        assert box.run(script, limits=Limits(scratch_bytes=10_000_001, files=100)).ended == "flooded"

    def test_is_not_blamed_for_the_files_of_the_machine(self, folder):
        # the launcher looks while the walls are still being built, and sees the machine's own folder
        building = program(
            folder,
            "import json, os, sys, time\n"
            "os.write(int(sys.argv[2]), json.dumps({'child-pid': os.getpid()}).encode())\n"
            "time.sleep(0.5)\nprint('built')\n",
        )

        ran = Sandbox(bwrap=building, first_uid=FIRST_UID).run("", limits=Limits(files=0))

        assert (ran.ended, ran.stdout) == ("finished", "built\n")

    def test_that_floods_is_cut_at_the_limit(self, box):
        ran = box.run("while True: print('x' * 1000)", limits=Limits(output_bytes=5000))
        assert (ran.ended, len(ran.stdout)) == ("flooded", 5000)

    @pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", ".", "..", "a/b", "script.py", "a\nb"])
    def test_is_given_no_input_under_a_name_that_leads_elsewhere(self, box, name):
        with pytest.raises(ValueError, match="name of an input"):
            box.run("", {name: b""})

    def test_is_given_no_more_than_fits(self, box):
        with pytest.raises(ValueError, match="together"):
            box.run("", {"big": bytes(16 * 1024 * 1024 + 1)})

    def test_does_not_see_what_its_launcher_has_in_its_environment(self, box, monkeypatch):
        monkeypatch.setenv("ORCHESTRATOR_CANARY", "canary-value")
        monkeypatch.setenv("LD_PRELOAD", "")
        ran = box.run("import os; print(dict(os.environ))")
        assert "canary" not in ran.stdout.lower()
        assert "LD_PRELOAD" not in ran.stdout

    def test_has_a_bubblewrap_that_knows_no_more(self, folder, monkeypatch):
        monkeypatch.setenv("ORCHESTRATOR_CANARY", "canary-value")
        telling = program(folder, "import os\nprint(dict(os.environ))\n")

        ran = Sandbox(bwrap=telling, first_uid=FIRST_UID).run("")

        assert ran.stdout.startswith("{")
        assert "canary" not in ran.stdout.lower()

    @ROOT_ONLY
    def test_runs_as_a_user_of_its_own_and_is_gone_with_all_it_started(self, box):
        ended = []
        threads = [
            threading.Thread(
                target=lambda: ended.append(
                    box.run("import time; time.sleep(600)", limits=Limits(wall_s=6)).ended
                )
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        owners = set()
        while len(owners) < 2 and any(thread.is_alive() for thread in threads):
            owners |= set(owned())
            time.sleep(0.05)
        for thread in threads:
            thread.join()

        assert ended == ["out_of_time", "out_of_time"]
        assert len(owners) == 2
        assert owned() == {}


def owned():
    """The processes of the sandbox's users, by user."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            uid = process.uids().real
            if FIRST_UID <= uid < FIRST_UID + SPARE_UIDS and process.status() != psutil.STATUS_ZOMBIE:
                found.setdefault(uid, []).append(process.pid)
    return found


class TestAMachineThatCannot:
    """Where nothing can be enforced, nothing is run, and it is said why."""

    def test_for_want_of_bubblewrap_says_what_to_install(self, monkeypatch):
        monkeypatch.setenv("PATH", "/nowhere")
        nothing = Sandbox(first_uid=FIRST_UID)

        with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
            nothing.run("print(1)")
        verdict = nothing.try_on_itself()
        assert (verdict.enforced, verdict.tried) == (False, {})
        assert "not installed" in verdict.reason

    @pytest.mark.parametrize(
        ("said", "advice"),
        [
            ("bwrap: setting up uid map: Permission denied", "AppArmor"),
            ("bwrap: No permissions to create new namespace", "container"),
            ("bwrap: Creating new namespace failed: No space left", "max_user_namespaces"),
            ("bwrap: Can't find source path /opt/python: Permission denied", "sandbox_python"),
            ("bwrap: Unknown option --size", "0.8"),
            ("something else", "limits"),
        ],
    )
    def test_says_why_and_what_to_do(self, folder, said, advice):
        deaf = program(folder, f"import sys\nsys.exit({said!r})\n")

        verdict = Sandbox(bwrap=deaf, first_uid=FIRST_UID).try_on_itself()

        assert not verdict.enforced
        assert said in verdict.reason
        assert advice in verdict.todo

    def test_does_not_believe_a_bubblewrap_that_builds_nothing(self, folder):
        pretending = program(
            folder,
            "import os, sys\ngiven = sys.argv[sys.argv.index('--') + 1 :]\nos.execv(given[0], given)\n",
        )
        assert not Sandbox(bwrap=pretending, first_uid=FIRST_UID).try_on_itself().enforced

    def test_does_not_believe_a_program_that_says_nothing_wrong(self, folder):
        silent = program(folder, "print('contained: all of it')\n")
        verdict = Sandbox(bwrap=silent, first_uid=FIRST_UID).try_on_itself()
        assert not verdict.enforced

    @ROOT_ONLY
    def test_has_no_user_to_spare(self, bwrap):
        verdict = Sandbox(bwrap=bwrap, first_uid=65534).try_on_itself()
        assert not verdict.enforced
        assert "sandbox_first_uid" in verdict.reason

    @ROOT_ONLY
    def test_has_no_place_for_its_locks(self, bwrap, folder):
        (folder / "file").touch()
        verdict = Sandbox(bwrap=bwrap, first_uid=FIRST_UID, locks=folder / "file" / "locks").try_on_itself()
        assert not verdict.enforced
        assert "locks cannot be made" in verdict.reason

    def test_of_an_unknown_kind_is_told(self, bwrap, monkeypatch):
        monkeypatch.setattr(sandbox.seccomp, "MACHINES", {})
        with pytest.raises(SandboxUnavailable, match="no filter of system calls"):
            Sandbox(bwrap=bwrap, first_uid=FIRST_UID).run("")

    def test_with_a_wrong_interpreter_is_told(self, bwrap):
        verdict = Sandbox(python="/nowhere/python", bwrap=bwrap, first_uid=FIRST_UID).try_on_itself()
        assert not verdict.enforced
        assert "sandbox_python" in verdict.reason


class TestToolsThatRunCode:
    WITHHELD = Verdict(False, "There is no kernel.", "Find one.")

    def test_are_offered_only_where_the_sandbox_is_enforced(self):
        assert "compute" in offer.offered(TOOLS, SETTINGS, verdict=lambda _: Verdict(True)).tools

        with structlog.testing.capture_logs() as lines:
            withheld = offer.offered(TOOLS, SETTINGS, verdict=lambda _: self.WITHHELD)

        assert list(withheld.tools) == ["look"]
        assert withheld.withheld == {"compute": "code.exec is withheld: There is no kernel. Find one."}
        assert [(line["event"], line["reason"]) for line in lines] == [
            ("sandbox.withheld", "There is no kernel.")
        ]

    def test_are_the_only_ones_for_which_it_is_asked(self):
        def verdict(_):
            raise AssertionError("nobody needs it")

        harmless = Registry({"look": TOOLS.tools["look"]}, TOOLS.servers)
        assert offer.offered(harmless, SETTINGS, verdict=verdict) == harmless

    def test_learn_the_verdict_once_in_a_process(self, here):
        assert sandbox.verdict(SETTINGS) is sandbox.verdict(SETTINGS)
        assert sandbox.verdict(SETTINGS).enforced is here.enforced
