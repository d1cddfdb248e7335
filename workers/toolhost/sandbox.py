"""Runs generated code where it can do no harm, and says whether this machine can: enforced, or withheld with a reason.

    script, inputs ─▶ bubblewrap, as a user of its own ─▶ Ran: how it ended, what it printed

    own name spaces   no network, no other processes, no files but the interpreter's, all read-only
    system calls      a filter (see `seccomp`): no sockets, no second process, no further name spaces
    limits            wall time, processor time, memory, files, threads, what is written and what is printed
    an own user       where this program is root, one of sixteen user ids that nobody else has, for this run alone

Nothing is trusted that was not tried: before its first use a process lets the sandbox attack itself (see `attacks`), and
one attack that gets out is enough to withhold it. There is no weaker way to run the code.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import pwd
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

from orchestrator.domain.plan import Json
from orchestrator.settings import Settings
from workers.toolhost import seccomp
from workers.toolhost.attacks import ATTACKS, Attack, How

SPARE_UIDS: Final = 16
"""How many sandboxes may run at once on one machine where this program is root."""

_INPUTS_LIMIT_BYTES: Final = 16 * 1024 * 1024
_LOCKS: Final = Path("/run/orchestrator-sandbox")
_NOBODY: Final = "65534"
_SCRATCH: Final = "/tmp"  # noqa: S108 - a folder of the sandbox's own
_LOOK_EVERY_S: Final = 0.1
_TURN_S: Final = 60.0
_DEAD_WITHIN_S: Final = 10.0
_SIGNALLED: Final = 128
_CONTROL: Final = Attack("a script that does no harm", "raise ValueError(sum(range(10)))")


class SandboxUnavailable(Exception):
    """Generated code cannot be run here and now; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a script may use. Memory is the address space of its one process; output counts per stream.

    `files` in the scratch folder are counted ten times a second: until then there may be some thousands more.
    """

    wall_s: float = 30.0
    cpu_s: int = 20
    memory_bytes: int = 1536 * 1024 * 1024
    scratch_bytes: int = 64 * 1024 * 1024
    file_bytes: int = 32 * 1024 * 1024
    output_bytes: int = 64 * 1024
    threads: int = 32
    open_files: int = 64
    files: int = 10_000


@dataclass(frozen=True, slots=True)
class Ran:
    """How a script ended, and what it printed until then; text that is not UTF-8 is replaced."""

    ended: How
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether code may be run here: `enforced`, or why it is withheld and what to do about it.

    `tried` tells of each attack that was tried whether it was contained.
    """

    enforced: bool
    reason: str = ""
    todo: str = ""
    tried: Mapping[str, bool] = field(default_factory=dict)

    def as_json(self) -> dict[str, Json]:
        """The same as JSON."""
        return {
            "enforced": self.enforced,
            "reason": self.reason,
            "todo": self.todo,
            "attacks": [{"name": name, "contained": held} for name, held in self.tried.items()],
        }


class Sandbox:
    """Runs scripts, each in a sandbox of its own; safe to share among threads.

    `python` is the interpreter, by default the one that this program runs on. `bwrap` is the program that builds the
    walls, and is looked for on the PATH.
    """

    def __init__(
        self, *, python: str = "", first_uid: int = 64600, bwrap: str | None = None, locks: Path = _LOCKS
    ) -> None:
        self._python = python or getattr(sys, "_base_executable", sys.executable)
        self._first_uid = first_uid
        self._bwrap = bwrap or shutil.which("bwrap") or ""
        self._locks = locks

    def run(
        self, script: str, inputs: Mapping[str, bytes] | None = None, limits: Limits | None = None
    ) -> Ran:
        """Return how a script ended; raises `SandboxUnavailable`.

        It finds `inputs` by their names in the folder /in, and may write into /tmp, which is lost with it.
        """
        inputs, limits = inputs or {}, limits or Limits()
        kind = seccomp.machine()
        if kind is None:
            raise SandboxUnavailable(f"There is no filter of system calls for {os.uname().machine} machines.")
        if not self._bwrap:
            raise SandboxUnavailable(f"bubblewrap is not installed. {_INSTALL}")
        _check_inputs(script, inputs)
        with self._user() as uid, contextlib.ExitStack() as opened:
            files = {name: _memory_file(opened, body) for name, body in inputs.items()}
            files["script.py"] = _memory_file(opened, script.encode())
            walls = _memory_file(opened, seccomp.program(kind))
            command = [
                self._bwrap,
                *_rooms(self._home, files, limits),
                "--seccomp",
                str(walls),
                "--",
                # not isolated from the environment, which is this program's own and says how to hash
                *(self._python, "-s", "-B", "-X", "utf8", "-c", _START, *_numbers(limits)),
            ]
            return _ended(command, uid, [walls, *files.values()], limits)

    def try_on_itself(self, attacks: Sequence[Attack] = ATTACKS) -> Verdict:
        """Return whether every attack is contained, after one script that does no harm worked."""
        tried: dict[str, bool] = {}
        for attack in (_CONTROL, *attacks):
            limits = replace(Limits(wall_s=60.0), **attack.limits)
            try:
                ran = self.run(attack.script, limits=limits)
            except SandboxUnavailable as error:
                return Verdict(False, str(error), tried=tried)
            held = attack.is_contained(ran.ended, ran.stdout)
            if attack is _CONTROL and not held:
                return _explained(ran)
            if attack is not _CONTROL:
                tried[attack.name] = held
        escaped = [name for name, held in tried.items() if not held]
        if escaped:
            told = f"The sandbox attacked itself, and these attacks got out: {', '.join(escaped)}."
            return Verdict(
                False, told, "Do not run generated code on this machine; mend its kernel's settings.", tried
            )
        return Verdict(True, tried=tried)

    @functools.cached_property
    def _home(self) -> _Home:
        return _home_of(self._python)

    @contextlib.contextmanager
    def _user(self) -> Iterator[int | None]:
        """A user id that nobody else has while the block lasts; `None` for this program's own, if it is not root."""
        if os.geteuid() != 0:
            yield None
            return
        try:
            self._locks.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SandboxUnavailable(
                f"The folder {self._locks} for the sandboxes' locks cannot be made ({error.strerror})."
            ) from error
        with contextlib.ExitStack() as held:
            yield self._spare_uid(held)

    def _spare_uid(self, held: contextlib.ExitStack) -> int:
        """Take the first user id that no other run has, of whatever process, and wait a while if all are taken."""
        deadline = time.monotonic() + _TURN_S
        while True:
            for uid in range(self._first_uid, self._first_uid + SPARE_UIDS):
                _check_spare(uid)
                lock = (self._locks / str(uid)).open("w")
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    lock.close()
                    continue
                held.enter_context(lock)
                return uid
            if time.monotonic() > deadline:
                raise SandboxUnavailable(
                    f"All {SPARE_UIDS} sandboxes of this machine have been in use for {_TURN_S:g} s. Try again later."
                )
            time.sleep(0.1)


def of(settings: Settings) -> Sandbox:
    """Return the sandbox that the settings describe."""
    return Sandbox(python=settings.sandbox_python, first_uid=settings.sandbox_first_uid)


def verdict(settings: Settings) -> Verdict:
    """Return whether generated code may be run here, tried once in the life of this process."""
    return _tried(settings.sandbox_python, settings.sandbox_first_uid)


def glance(settings: Settings) -> Verdict:
    """Return whether a script that does no harm can be run here: enough to offer code, and not to run any."""
    return _glanced(settings.sandbox_python, settings.sandbox_first_uid)


@functools.lru_cache(maxsize=4)
def _glanced(python: str, first_uid: int) -> Verdict:
    return Sandbox(python=python, first_uid=first_uid).try_on_itself([])


@functools.lru_cache(maxsize=4)
def _tried(python: str, first_uid: int) -> Verdict:
    essential = [attack for attack in ATTACKS if attack.essential]
    return Sandbox(python=python, first_uid=first_uid).try_on_itself(essential)


# --- the walls --------------------------------------------------------------------------------------------------------

_INSTALL: Final = "On Debian and Ubuntu: apt-get install bubblewrap."

_START: Final = """
import resource, runpy, sys
for given in sys.argv[1:]:
    name, soft, hard = given.split(":")
    resource.setrlimit(getattr(resource, name), (int(soft), int(hard)))
sys.argv[:] = ["/in/script.py"]
del given, name, soft, hard, resource
runpy.run_path("/in/script.py", run_name="__main__")
"""
"""Sets the limits from within, where threads are counted for the sandbox alone, and then becomes the script."""


def _numbers(limits: Limits) -> list[str]:
    pairs = {
        "RLIMIT_AS": (limits.memory_bytes,) * 2,
        "RLIMIT_CORE": (0, 0),
        # a signal first, which a script may ignore, and a second later one that it may not
        "RLIMIT_CPU": (limits.cpu_s, limits.cpu_s + 1),
        "RLIMIT_FSIZE": (limits.file_bytes,) * 2,
        "RLIMIT_NOFILE": (limits.open_files,) * 2,
        "RLIMIT_NPROC": (limits.threads,) * 2,
    }
    return [f"{name}:{soft}:{hard}" for name, (soft, hard) in pairs.items()]


def _rooms(home: _Home, files: Mapping[str, int], limits: Limits) -> list[str]:
    """What bubblewrap is told: a world with the interpreter, the inputs and a scratch folder, and nothing else.

    There is no /proc, so that nothing of the machine can be read there, and no /dev/shm.
    """
    rooms = [
        *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
        *("--unshare-cgroup-try", "--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "sandbox"),
        *("--die-with-parent", "--new-session", "--clearenv"),
    ]
    for name, value in {**_ENVIRONMENT, **home.environment}.items():
        rooms += ["--setenv", name, value]
    for path in home.folders:
        rooms += ["--ro-bind", path, path]
    for link, target in home.links.items():
        rooms += ["--symlink", target, link]
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        rooms += ["--dev-bind", device, device]
    for name, number in files.items():
        rooms += ["--ro-bind-data", str(number), f"/in/{name}"]
    return [
        *rooms,
        *("--size", str(limits.scratch_bytes), "--tmpfs", "/tmp"),  # noqa: S108 - a folder of the sandbox's own
        *("--remount-ro", "/", "--chdir", "/tmp"),  # noqa: S108 - a folder of the sandbox's own
    ]


_ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    "HOME": "/tmp",  # noqa: S108 - a folder of the sandbox's own
    "TMPDIR": "/tmp",  # noqa: S108 - a folder of the sandbox's own
    "PYTHONHASHSEED": "0",  # the same script over the same inputs prints the same
    "PYTHONSAFEPATH": "1",  # nothing is imported from the scratch folder
    # a library that starts a thread per processor would meet the limits at once
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}


@dataclass(frozen=True, slots=True)
class _Home:
    """What an interpreter needs of the file system."""

    folders: tuple[str, ...]
    links: Mapping[str, str]
    environment: Mapping[str, str]


_ASK: Final = """
import json, os, sys, sysconfig
links = [sys.executable]
while os.path.islink(links[-1]):
    links.append(os.path.normpath(os.path.join(os.path.dirname(links[-1]), os.readlink(links[-1]))))
print(json.dumps([links, sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib")]))
"""


def _home_of(python: str) -> _Home:
    try:
        asked = subprocess.run(
            [python, "-I", "-c", _ASK], capture_output=True, check=True, timeout=30, env={}, text=True
        )
        programs, *prefixes, library = json.loads(asked.stdout)
        executable = programs[0]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise SandboxUnavailable(
            f"The interpreter {python} for generated code does not run ({error}). Correct sandbox_python."
        ) from error
    if any(Path(path).is_relative_to(_SCRATCH) for path in (executable, *prefixes)):
        raise SandboxUnavailable(
            f"The interpreter {python} for generated code lies in {_SCRATCH}, where the sandbox has a folder of its own. "
            "Set sandbox_python to one elsewhere, such as in /opt."
        )
    folders, links = [], {}
    for prefix in dict.fromkeys(prefixes):
        # the whole machine's prefix holds every program there is: only the interpreter of it is taken, under each of
        # the names by which an environment may point to it
        under = [path for path in programs if Path(path).is_relative_to("/usr")]
        folders += [*under, library] if prefix == "/usr" else [prefix]
    for name in ("lib", "lib64"):
        own = Path("/", name)
        if own.is_symlink():
            links[str(own)] = str(own.readlink())
    triplet = sysconfig.get_config_var("MULTIARCH") or "none"
    shared = [f"/usr/lib/{triplet}"] if Path(f"/usr/lib/{triplet}").is_dir() else ["/usr/lib"]
    for path in (*shared, "/usr/lib64", "/lib", "/lib64"):
        if Path(path).is_dir() and path not in links:
            folders.append(path)
    return _Home(tuple(dict.fromkeys(folders)), links, {"PATH": str(Path(executable).parent)})


def _check_spare(uid: int) -> None:
    try:
        owner = pwd.getpwuid(uid).pw_name
    except KeyError:
        return
    raise SandboxUnavailable(
        f"The user id {uid} belongs to {owner}. "
        f"Set sandbox_first_uid to the first of {SPARE_UIDS} ids that nobody has."
    )


def _check_inputs(script: str, inputs: Mapping[str, bytes]) -> None:
    for name in inputs:
        if not name.replace(".", "").replace("_", "").replace("-", "").isalnum() or name == "script.py":
            raise ValueError(
                f"{name!r} cannot be the name of an input: use letters, digits, dots and hyphens"
            )
    if len(script.encode()) + sum(map(len, inputs.values())) > _INPUTS_LIMIT_BYTES:
        raise ValueError(f"a script and its inputs may have {_INPUTS_LIMIT_BYTES:,} bytes together")


def _memory_file(opened: contextlib.ExitStack, body: bytes) -> int:
    """A file without a name, which only who is handed its number can read."""
    file = opened.enter_context(os.fdopen(os.memfd_create("sandbox"), "w+b"))
    file.write(body)
    file.flush()
    file.seek(0)
    return file.fileno()


# --- until it ends ----------------------------------------------------------------------------------------------------


def _ended(command: Sequence[str], uid: int | None, passed: Sequence[int], limits: Limits) -> Ran:
    reader, writer = os.pipe()
    # the user is changed before bubblewrap starts: started by root, it would read what root may read
    try:
        process = subprocess.Popen(
            [command[0], "--info-fd", str(writer), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            cwd="/",
            pass_fds=[writer, *passed],
            start_new_session=True,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
    except OSError as error:
        os.close(reader)
        raise SandboxUnavailable(f"bubblewrap could not be started ({error}). {_INSTALL}") from error
    finally:
        os.close(writer)
    with process, os.fdopen(reader, "rb", buffering=0) as told:
        within = _Within(told)
        try:
            ended, printed = _watched(process, within, limits)
        finally:
            _kill(process, within)
        code = process.returncode
    if ended == "finished" and code:
        ended = "out_of_cpu" if code in _OUT_OF_CPU else "failed"
    stdout, stderr = (text[: limits.output_bytes].decode(errors="replace") for text in printed)
    return Ran(ended, stdout, stderr)


_OUT_OF_CPU: Final = frozenset({_SIGNALLED + signal.SIGXCPU, _SIGNALLED + signal.SIGKILL})


class _Within:
    """What is known from outside of the first process within; bubblewrap tells its number once it is there."""

    def __init__(self, told: IO[bytes]) -> None:
        os.set_blocking(told.fileno(), False)
        self._told = told
        self._first: int | None = None

    @property
    def first(self) -> int | None:
        """Its number, seen from here."""
        if self._first is None:
            with contextlib.suppress(ValueError):
                number = json.loads(self._told.read(4096) or b"{}").get("child-pid")
                self._first = number if isinstance(number, int) and number > 1 else None
        return self._first

    def files(self, scratch_bytes: int) -> int:
        """How many files lie in the scratch folder of that size; 0 while there is none."""
        if self.first is None:
            return 0
        try:
            found = os.statvfs(Path("/proc", str(self.first), "root", "tmp"))
        except OSError:
            return 0  # not built yet, or gone
        # until the walls stand, this is the machine's own folder; ours is known by its size, in whole pages
        pages = -(-scratch_bytes // found.f_frsize)
        return found.f_files - found.f_ffree if found.f_blocks == pages else 0


def _watched(
    process: subprocess.Popen[bytes], within: _Within, limits: Limits
) -> tuple[How, tuple[bytearray, bytearray]]:
    deadline = time.monotonic() + limits.wall_s
    printed = (bytearray(), bytearray())
    with selectors.DefaultSelector() as selector:
        for stream, text in zip(_streams(process), printed, strict=True):
            selector.register(stream, selectors.EVENT_READ, text)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return "out_of_time", printed
            for key, _ in selector.select(min(left, _LOOK_EVERY_S)):
                more = os.read(key.fd, 65536)
                key.data.extend(more)
                if not more:
                    selector.unregister(key.fileobj)
                if len(key.data) > limits.output_bytes:
                    return "flooded", printed
            # an empty file takes kernel memory, and none of the scratch folder's bytes
            if within.files(limits.scratch_bytes) > limits.files:
                return "flooded", printed
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return "out_of_time", printed
    return "finished", printed


def _kill(process: subprocess.Popen[bytes], within: _Within) -> None:
    """End whatever still runs, and return when all of it is gone.

    The first process within is killed, whose number bubblewrap told: the kernel kills everything else within before
    that one is gone, and bubblewrap ends after it. Its end is the proof, whatever the script did to its streams.
    """
    if process.poll() is not None:
        return  # only one process can have been within, and its end ended bubblewrap
    first = within.first
    if first is None:
        process.kill()  # it is still building; what it began dies with it
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
    try:
        process.wait(_DEAD_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise SandboxUnavailable(
            f"What ran in the sandbox did not die within {_DEAD_WITHIN_S:g} s. Look at the process {first}."
        ) from None


def _streams(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdout is not None  # noqa: S101 - both are pipes, which the type cannot say
    assert process.stderr is not None  # noqa: S101 - both are pipes, which the type cannot say
    return process.stdout, process.stderr


# --- why not ----------------------------------------------------------------------------------------------------------

_CAUSES: Final = (
    (
        "uid map",
        (
            "The kernel lets programs have no user name space of their own. On Ubuntu load the AppArmor profile of "
            "bubblewrap (kernel.apparmor_restrict_unprivileged_userns); elsewhere see kernel.unprivileged_userns_clone."
        ),
    ),
    (
        "No permissions to create",
        (
            "The kernel lets programs have no user name space of their own; in a container its seccomp profile forbids "
            "it. Run these workers on a machine of their own, or with a profile that allows it."
        ),
    ),
    (
        "Creating new namespace failed",
        "There are no name spaces left, or they are switched off (user.max_user_namespaces).",
    ),
    (
        "Can't find source path",
        (
            "The interpreter cannot be read by everybody. Set sandbox_python to one that can, such as a virtual "
            "environment of the system's Python under /opt."
        ),
    ),
    ("Unknown option", "This bubblewrap is too old; version 0.8 or newer is needed."),
)


def _explained(ran: Ran) -> Verdict:
    """Why not even a script without harm could be run."""
    said = " ".join(ran.stderr.split())[-300:] or f"it ended as {ran.ended}"
    todo = next(
        (todo for sign, todo in _CAUSES if sign in ran.stderr), "See the limits in the documentation."
    )
    return Verdict(False, f"The sandbox does not work here: {said}", todo)
