"""Assembles the filter of system calls under which generated code runs; decides which of them it may not make.

The kernel runs the filter before every call of the sandbox, on the call's number and arguments:

    another machine's calls ▶ the process dies        a number newer than this list ▶ "no such call"
    socket ▶ "no such kind of address"                clone3 ▶ "no such call", so that the C library uses clone
    clone  ─ a thread of this process ▶ allowed       ─ anything else ▶ "not permitted": there is one process
    ioctl  ─ that types on somebody's terminal ▶ "not permitted"
    what is listed below ▶ "not permitted"            everything else ▶ allowed

It is a list of what is refused and not of what is allowed, because it is the second wall: the first are the namespaces
and the user without rights. It needs no library, being some hundred instructions of two kinds.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_NEWEST: Final = 450
"""The newest call that this list was written with; what came later is not there for the sandbox."""

_SINCE_5_1: Final[Mapping[str, int]] = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "memfd_secret": 447,
}
"""Numbers are the same on every machine since then."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of processor: the kernel's name for its calls, and the numbers of those that are looked at."""

    audit_arch: int
    clone: int
    socket: int
    ioctl: int
    refused: Mapping[str, int]
    numbers_end: int = _NEWEST + 1
    clone3: int = 435


# Besides what needs rights that nobody in the sandbox has: memory that no limit counts (memfd, System V, queues), other
# processes, further name spaces, and large parts of the kernel that no calculation needs.
MACHINES: Final[Mapping[str, Machine]] = {
    "x86_64": Machine(
        audit_arch=0xC000003E,
        clone=56,
        socket=41,
        ioctl=16,
        refused={
            "shmget": 29,
            "fork": 57,
            "vfork": 58,
            "semget": 64,
            "msgget": 68,
            "ptrace": 101,
            "syslog": 103,
            "mknod": 133,
            "uselib": 134,
            "personality": 135,
            "vhangup": 153,
            "modify_ldt": 154,
            "pivot_root": 155,
            "adjtimex": 159,
            "chroot": 161,
            "acct": 163,
            "settimeofday": 164,
            "mount": 165,
            "umount2": 166,
            "swapon": 167,
            "swapoff": 168,
            "reboot": 169,
            "sethostname": 170,
            "setdomainname": 171,
            "iopl": 172,
            "ioperm": 173,
            "init_module": 175,
            "delete_module": 176,
            "quotactl": 179,
            "nfsservctl": 180,
            "lookup_dcookie": 212,
            "clock_settime": 227,
            "mbind": 237,
            "set_mempolicy": 238,
            "get_mempolicy": 239,
            "mq_open": 240,
            "kexec_load": 246,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "migrate_pages": 256,
            "mknodat": 259,
            "unshare": 272,
            "move_pages": 279,
            "perf_event_open": 298,
            "fanotify_init": 300,
            "name_to_handle_at": 303,
            "open_by_handle_at": 304,
            "clock_adjtime": 305,
            "setns": 308,
            "process_vm_readv": 310,
            "process_vm_writev": 311,
            "kcmp": 312,
            "finit_module": 313,
            "memfd_create": 319,
            "kexec_file_load": 320,
            "bpf": 321,
            "userfaultfd": 323,
            **_SINCE_5_1,
        },
    ),
    "aarch64": Machine(
        audit_arch=0xC00000B7,
        clone=220,
        socket=198,
        ioctl=29,
        refused={
            "lookup_dcookie": 18,
            "mknodat": 33,
            "umount2": 39,
            "mount": 40,
            "pivot_root": 41,
            "nfsservctl": 42,
            "chroot": 51,
            "vhangup": 58,
            "quotactl": 60,
            "acct": 89,
            "personality": 92,
            "unshare": 97,
            "kexec_load": 104,
            "init_module": 105,
            "delete_module": 106,
            "clock_settime": 112,
            "syslog": 116,
            "ptrace": 117,
            "reboot": 142,
            "sethostname": 161,
            "setdomainname": 162,
            "settimeofday": 170,
            "adjtimex": 171,
            "mq_open": 180,
            "msgget": 186,
            "semget": 190,
            "shmget": 194,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "swapon": 224,
            "swapoff": 225,
            "mbind": 235,
            "get_mempolicy": 236,
            "set_mempolicy": 237,
            "migrate_pages": 238,
            "move_pages": 239,
            "perf_event_open": 241,
            "fanotify_init": 262,
            "name_to_handle_at": 264,
            "open_by_handle_at": 265,
            "clock_adjtime": 266,
            "setns": 268,
            "process_vm_readv": 270,
            "process_vm_writev": 271,
            "kcmp": 272,
            "finit_module": 273,
            "memfd_create": 279,
            "bpf": 280,
            "userfaultfd": 282,
            "kexec_file_load": 294,
            **_SINCE_5_1,
        },
    ),
}

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

_NUMBER: Final = 0
_ARCH: Final = 4
_FIRST_ARGUMENT: Final = 16
_SECOND_ARGUMENT: Final = 24

_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERROR: Final = 0x00050000

_CLONE_THREAD: Final = 0x00010000
_CLONE_NEW_ANY: Final = 0x7E020000
"""Every flag of clone that asks for a name space of one's own."""

_TIOCSTI: Final = 0x5412
_TIOCLINUX: Final = 0x541C


def machine() -> Machine | None:
    """Return this machine's kind, or `None` if there is no list for it."""
    known = MACHINES.get(os.uname().machine) if sys.platform == "linux" else None
    return known if sys.maxsize > 2**32 and sys.byteorder == "little" else None


def program(kind: Machine) -> bytes:
    """Return the filter for a kind of machine, as `bwrap --seccomp` reads it."""
    refuse = _ERROR | errno.EPERM
    steps = [
        _step(_LOAD, _ARCH),
        _step(_EQUAL, kind.audit_arch, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        _step(_AT_LEAST, kind.numbers_end, 0, 1),  # those of x32, too
        _step(_RETURN, _ERROR | errno.ENOSYS),
    ]
    for number, answer in (
        (kind.socket, _ERROR | errno.EAFNOSUPPORT),
        (kind.clone3, _ERROR | errno.ENOSYS),
        *((number, refuse) for number in kind.refused.values()),
    ):
        steps += [_step(_EQUAL, number, 0, 1), _step(_RETURN, answer)]
    steps += [
        _step(_EQUAL, kind.clone, 0, 5),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_BIT, _CLONE_NEW_ANY, 1, 0),
        _step(_ANY_BIT, _CLONE_THREAD, 1, 0),
        _step(_RETURN, refuse),
        _step(_RETURN, _ALLOW),
        _step(_EQUAL, kind.ioctl, 0, 4),
        _step(_LOAD, _SECOND_ARGUMENT),
        _step(_EQUAL, _TIOCSTI, 1, 0),
        _step(_EQUAL, _TIOCLINUX, 0, 1),
        _step(_RETURN, refuse),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(steps)


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; `then` and `otherwise` are how many to skip after a comparison."""
    return struct.pack("=HBBI", code, then, otherwise, value)
