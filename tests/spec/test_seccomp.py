"""The filter of system calls, run by a small machine of our own: what it answers, for each kind of processor."""

import errno
import re
import struct
from pathlib import Path

import pytest

from workers.toolhost import seccomp
from workers.toolhost.seccomp import MACHINES

ALLOW, KILL = 0x7FFF0000, 0x80000000
KINDS = pytest.mark.parametrize("kind", MACHINES.values(), ids=MACHINES)
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def error(number):
    return 0x00050000 | number


def answered(kind, number, *arguments, arch=None):
    """What the kernel would do with a call: the filter's answer."""
    steps = list(struct.iter_unpack("=HBBI", seccomp.program(kind)))
    padded = [*arguments, *[0] * 6][:6]
    seen = struct.pack("<II Q 6Q", number, kind.audit_arch if arch is None else arch, 0, *padded)
    at, word = 0, 0
    while True:
        code, then, otherwise, value = steps[at]
        at += 1
        if code == 0x20:
            (word,) = struct.unpack_from("<I", seen, value)
        elif code == 0x06:
            return value
        else:
            holds = {0x15: word == value, 0x35: word >= value, 0x45: bool(word & value)}[code]
            at += then if holds else otherwise


@KINDS
class TestTheFilter:
    def test_allows_what_any_calculation_does(self, kind):
        special = {kind.clone, kind.clone3, kind.socket, kind.ioctl, *kind.refused.values()}
        assert {answered(kind, number) for number in range(451) if number not in special} == {ALLOW}

    def test_refuses_everything_on_the_list(self, kind):
        assert {answered(kind, number) for number in kind.refused.values()} == {error(errno.EPERM)}

    def test_knows_no_kind_of_address(self, kind):
        assert {answered(kind, kind.socket, family) for family in range(50)} == {error(errno.EAFNOSUPPORT)}

    def test_lets_a_thread_begin_and_no_process(self, kind):
        thread = 0x003D0F00  # what the C library gives for a thread
        assert answered(kind, kind.clone, thread) == ALLOW
        assert answered(kind, kind.clone, 17) == error(errno.EPERM)
        assert answered(kind, kind.clone, 0x4111) == error(errno.EPERM)
        assert answered(kind, kind.clone3) == error(errno.ENOSYS)

    @pytest.mark.parametrize("flag", [1 << 17, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30])
    def test_lets_nobody_have_a_name_space(self, kind, flag):
        assert answered(kind, kind.clone, 0x003D0F00 | flag) == error(errno.EPERM)

    def test_types_on_no_terminal(self, kind):
        assert answered(kind, kind.ioctl, 0, 0x5401) == ALLOW
        assert answered(kind, kind.ioctl, 0, 0x5412) == error(errno.EPERM)
        assert answered(kind, kind.ioctl, 0, 0x541C) == error(errno.EPERM)
        # the kernel looks at the low half only, and so does the filter
        assert answered(kind, kind.ioctl, 0, 1 << 32 | 0x5412) == error(errno.EPERM)

    @pytest.mark.parametrize("number", [451, 500, 1 << 30, 1 << 30 | 41, (1 << 32) - 1])
    def test_has_no_call_that_is_newer_than_its_list(self, kind, number):
        assert answered(kind, number) == error(errno.ENOSYS)

    @pytest.mark.parametrize("arch", [0x40000003, 0x40000028, 0, 0xFFFFFFFF])
    def test_ends_a_process_that_makes_another_machine_s_calls(self, kind, arch):
        assert answered(kind, 1, arch=arch) == KILL

    def test_is_short_enough_for_the_kernel(self, kind):
        assert len(seccomp.program(kind)) // 8 <= 4096


@pytest.mark.parametrize("name", MACHINES)
def test_the_numbers_are_those_of_the_kernel_s_own_header(name):
    kind, header = MACHINES[name], HEADERS[name]
    if not header.exists():
        pytest.skip(f"{header} is not installed here")
    text = header.read_text()
    numbers = {m[1]: int(m[2]) for m in re.finditer(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}

    listed = {"clone": kind.clone, "clone3": kind.clone3, "socket": kind.socket, "ioctl": kind.ioctl}
    listed |= kind.refused

    assert listed == {call: numbers[call] for call in listed}
