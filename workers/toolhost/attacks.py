"""What a sandbox must withstand: each attack is a script that says whether it got out, or must be ended from outside.

The sandbox runs them on itself before it may be used, and the tests run every one. A script that breaks for another
reason than the wall that it runs against says nothing, and counts as got out.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

How: TypeAlias = Literal["finished", "failed", "out_of_time", "out_of_cpu", "flooded"]
"""How a script ended: by itself, well or with an error, or because a limit ended it."""

CONTAINED: Final = "contained:"

_FRAME: Final = """
import ctypes, errno, os, signal, socket, sys, threading, time
def libc(name, *given):
    call = getattr(ctypes.CDLL(None, use_errno=True), name)
    answer = call(*given)
    if answer < 0:
        raise OSError(ctypes.get_errno(), name)
    return answer
def attack():
{body}
try:
    got = attack()
except (OSError, MemoryError, RuntimeError, ValueError) as wall:
    print("contained:", type(wall).__name__, getattr(wall, "errno", None))
else:
    print("escaped:", got)
"""


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: `ends` is how it ends where it is contained, `limits` what is lowered so that it ends soon.

    `essential` attacks are tried each time a process wants to use the sandbox, the others when somebody asks.
    """

    name: str
    body: str
    ends: How = "finished"
    limits: MappingProxyType[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    essential: bool = False

    @property
    def script(self) -> str:
        """The attack as a program."""
        return _FRAME.format(body=textwrap.indent(textwrap.dedent(self.body).strip(), "    "))

    def is_contained(self, ended: str, stdout: str) -> bool:
        """Tell whether this is how the attack ends when it does not get out."""
        if ended != self.ends:
            return False
        return self.ends != "finished" or stdout.startswith(CONTAINED)


def _soon(**limits: float) -> MappingProxyType[str, Any]:
    return MappingProxyType(limits)


ATTACKS: Final = (
    # --- the network ---
    Attack(
        "connects to the internet", "return socket.create_connection(('1.1.1.1', 443), 3)", essential=True
    ),
    Attack("connects to this machine", "return socket.create_connection(('127.0.0.1', 5432), 3)"),
    Attack(
        "sends a datagram", "return socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))"
    ),
    Attack("looks a name up", "return socket.getaddrinfo('example.org', 443)"),
    Attack("opens a unix socket", "return socket.socket(socket.AF_UNIX)", essential=True),
    Attack(
        "speaks to the kernel over netlink", "return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"
    ),
    Attack("reads packets off the wire", "return socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"),
    Attack("calls the machine below", "return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)"),
    Attack("listens", "return socket.create_server(('127.0.0.1', 0))"),
    # --- what others keep ---
    Attack("reads the passwords", "return open('/etc/shadow').read()", essential=True),
    Attack(
        "reads what the machine keeps",
        """
        for folder in ('/etc', '/var', '/run', '/sys', '/boot', '/proc'):
            try:
                return folder, os.listdir(folder)
            except FileNotFoundError:
                continue
        raise OSError(errno.ENOENT, 'nothing there')
        """,
    ),
    Attack(
        "reads its launcher's environment",
        "return open(f'/proc/{os.getppid()}/environ').read()",
        essential=True,
    ),
    Attack(
        "finds something in its own environment",
        """
        given = {'LANG', 'PATH', 'HOME', 'TMPDIR', 'PWD', 'LC_CTYPE', 'PYTHONHASHSEED', 'PYTHONSAFEPATH'}
        found = {n for n in os.environ if n not in given and not n.endswith('_NUM_THREADS')}
        if not found:
            raise OSError(0, 'nothing there')
        return found
        """,
        essential=True,
    ),
    Attack(
        "finds an open file of its launcher's",
        """
        found = []
        for number in range(3, 1024):
            try:
                found.append((number, os.fstat(number)))
            except OSError:
                continue
        if not found:
            raise OSError(errno.EBADF, 'nothing there')
        return found
        """,
    ),
    Attack(
        "follows a link out",
        "os.symlink('/etc/passwd', '/tmp/way'); return open('/tmp/way').read()",
    ),
    # --- changing things ---
    Attack(
        "writes outside its scratch folder",
        """
        for path in ('/out', '/in/out', '/usr/out', '/dev/out', sys.prefix + '/out', os.path.dirname(os.__file__) + '/out'):
            try:
                open(path, 'w').close()
            except OSError:
                continue
            return path
        raise OSError(errno.EROFS, 'nowhere')
        """,
        essential=True,
    ),
    Attack("changes the interpreter", "return open(os.__file__, 'a')"),
    Attack("changes its own script", "return open('/in/script.py', 'a')"),
    Attack("makes a device", "return os.mknod('/tmp/disk', 0o60600, os.makedev(8, 0))"),
    Attack("mounts something", "return libc('mount', b'none', b'/tmp', b'tmpfs', 0, None)"),
    Attack("unmounts something", "return libc('umount2', b'/tmp', 2)"),
    Attack("changes its root", "return os.chroot('/tmp')"),
    Attack("sets the clock", "return time.clock_settime(time.CLOCK_REALTIME, 0)"),
    Attack("renames the machine", "return socket.sethostname('mine')"),
    Attack("becomes root", "return os.setuid(0)"),
    Attack("makes a name space of its own", "return libc('unshare', 0x10000000)"),
    # --- other processes, and the kernel ---
    Attack(
        "sends signals to other processes",
        """
        for number in range(20, 100_000):
            try:
                os.kill(number, 0)
            except ProcessLookupError:
                continue
            except PermissionError:
                pass
            return number
        raise OSError(errno.ESRCH, 'nobody there')
        """,
    ),
    Attack("watches another process", "return libc('ptrace', 0, 0, 0, 0)"),
    Attack("uses io_uring", "return libc('syscall', 425, 8, ctypes.create_string_buffer(256))"),
    Attack(
        "asks for a key ring",
        "return libc('syscall', 250 if os.uname().machine == 'x86_64' else 219, 0, -3, 1)",
    ),
    Attack("makes a call by its x32 number", "return libc('syscall', 0x40000000 + 41, 1, 1, 0)"),
    # --- taking more than its share ---
    Attack("forks", "return os.fork()", essential=True),
    Attack("runs a shell", "os.execv('/bin/sh', ['sh', '-c', 'echo escaped'])"),
    Attack("runs another program", "import subprocess; return subprocess.run([sys.executable, '-c', ''])"),
    Attack(
        "starts a thousand threads",
        """
        stop = threading.Event()
        try:
            for _ in range(1000):
                threading.Thread(target=stop.wait, daemon=True).start()
        finally:
            stop.set()
        return 'all of them'
        """,
    ),
    Attack("takes more memory than it may", "return len(bytearray(3 << 30))", essential=True),
    Attack("takes memory that no limit counts", "return os.memfd_create('hidden')"),
    Attack("takes shared memory", "return open('/dev/shm/hidden', 'wb')"),
    Attack("takes memory of System V", "return libc('shmget', 0, 1 << 30, 0o1600)"),
    Attack(
        "fills its scratch folder",
        """
        for number in range(8):
            with open(f'/tmp/{number}', 'wb') as file:
                for _ in range(16):
                    file.write(bytes(1 << 20))
        return '128 MiB'
        """,
    ),
    Attack(
        "writes one huge file",
        """
        with open('/tmp/huge', 'wb') as file:
            for _ in range(48):
                file.write(bytes(1 << 20))
        return '48 MiB'
        """,
    ),
    Attack(
        "makes empty files without end",
        """
        number = 0
        while True:
            os.close(os.open(f'/tmp/{number}', os.O_CREAT | os.O_WRONLY))
            number += 1
        """,
        "flooded",
        essential=True,
    ),
    Attack("opens a thousand files", "return [open('/dev/null') for _ in range(1000)]"),
    Attack(
        "raises its own limits",
        "import resource; return resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)",
    ),
    # --- not ending ---
    Attack("sleeps", "time.sleep(600)", "out_of_time", _soon(wall_s=1.0)),
    Attack(
        "hides and sleeps",
        """
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                continue
        os.closerange(0, 1024)
        time.sleep(600)
        """,
        "out_of_time",
        _soon(wall_s=1.0),
    ),
    Attack("calculates forever", "while True: pass", "out_of_cpu", _soon(cpu_s=1)),
    Attack(
        "calculates on when told to stop",
        "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "out_of_cpu",
        _soon(cpu_s=1),
    ),
    Attack("prints forever", "while True: print('x' * 4096)", "flooded", essential=True),
    Attack("complains forever", "while True: print('x' * 4096, file=sys.stderr)", "flooded"),
)
