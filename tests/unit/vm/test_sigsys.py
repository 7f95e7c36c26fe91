# SPDX-License-Identifier: Apache-2.0
"""The report of a VMM that its filter of system calls ended: from invented logs, and from the kernel's own."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stage1.errors import KernelError
from stage1.linux import host, process
from stage1.vm import sigsys
from stage1.vm.sigsys import SIGSYS_CODE, explain
from tests.fakes.patience import PATIENCE

PID = 4711
NOW = int(time.time())
HEADER = "5,546,1766313578,-;audit: "
WHOLE = ": it was killed by its seccomp filter (signal 31, SIGSYS)"

# Loads a filter that kills at unshare, and calls that.
FILTERED = """
import ctypes, struct
libc = ctypes.CDLL(None)
lines = struct.pack("HBBIHBBIHBBIHBBI", 0x20, 0, 0, 0, 0x15, 0, 1, 272, 0x06, 0, 0, 0x80000000, 0x06, 0, 0, 0x7FFF0000)
code = ctypes.create_string_buffer(lines)
libc.prctl(38, 1, 0, 0, 0)
libc.prctl(22, 2, struct.pack("HxxxxxxQ", 4, ctypes.addressof(code)), 0, 0)
libc.unshare(0)
"""


def record(pid: int = PID, *, when: int = NOW, signal: int = 31, arch: str = "c000003e", call: int = 157) -> str:
    return (
        f"{HEADER}type=1326 audit({when}.263:546): auid=4294967295 uid=0 gid=0 ses=4294967295 pid={pid} "
        f'comm="qemu pid=1" exe="/usr/bin/qemu" sig={signal} '
        f"arch={arch} syscall={call} compat=0 ip=0x7fd2c011881b code=0x80000000\n"
    )


STARTED = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
"""Of a process that began at `NOW`, in clock ticks since the boot."""


CASES = {
    "the record": ([record()], SIGSYS_CODE, f"{WHOLE} at call 157 of x86-64"),
    "i386": ([record(arch="40000003", call=20)], SIGSYS_CODE, f"{WHOLE} at call 20 of i386"),
    "an unknown architecture": (
        [record(arch="c00000b7")],
        SIGSYS_CODE,
        f"{WHOLE} at call 157 of architecture c00000b7",
    ),
    "no child of ours": ([record()], None, f"{WHOLE} at call 157 of x86-64"),
    "no child of ours and no record": ([], None, ""),
    "another process": ([record(PID + 1)], SIGSYS_CODE, WHOLE),
    "a part of its pid": ([record(PID * 10)], SIGSYS_CODE, WHOLE),
    "an older process with this pid": ([record(when=NOW - 3600)], None, ""),
    "one that was only noted": ([record(signal=0)], None, ""),
    "among others": (["6,1,1,-;eth0: up\n", record(PID + 1, call=1), record()], None, f"{WHOLE} at call 157 of x86-64"),
    "no text": (["\xff\0type=1326 audit(x\n"], None, ""),
    "an orderly end": ([record()], 0, ""),
    "another signal": ([record()], 128 + 9, ""),
}


@pytest.mark.parametrize(("lines", "code", "text"), CASES.values(), ids=CASES)
def test_the_filters_record_is_read(tmp_path: Path, lines: list[str], code: int | None, text: str) -> None:
    (tmp_path / "log").write_text("older than what is recent")
    assert explain(PID, STARTED, code=code, log=str(tmp_path / "log"), recent=lambda _: "".join(lines)) == text


def test_of_a_log_of_many_megabytes_little_is_read(tmp_path: Path) -> None:
    """The daemon read all of it for each VM whose end somebody else has seen."""
    (tmp_path / "log").write_text(record() * 1000)
    asked: list[int] = []
    assert (
        explain(PID, STARTED, code=None, log=str(tmp_path / "log"), recent=lambda most: asked.append(most) or "") == ""
    )
    assert asked == [1 << 16]
    if os.access(sigsys.LOG, os.R_OK):
        assert len(host.recent_log(1000).encode()) <= 3 * 1000
        assert host.recent_log(1 << 20).endswith(host.recent_log(1000)[-500:])


def test_what_is_written_while_it_is_waited_for_is_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")

    def recent(most: int) -> str:
        (tmp_path / "log").write_text(record())
        return ""

    output = explain(PID, STARTED, code=SIGSYS_CODE, log=str(tmp_path / "log"), recent=recent)
    assert output == f"{WHOLE} at call 157 of x86-64"


def refused(most: int) -> str:
    raise KernelError("klogctl", errno.EPERM, "the kernel's log")


def test_a_log_that_can_not_be_read_costs_the_number_only(tmp_path: Path) -> None:
    assert explain(PID, STARTED, code=SIGSYS_CODE, log=str(tmp_path / "absent")) == WHOLE
    assert explain(PID, STARTED, code=SIGSYS_CODE, log=str(tmp_path), recent=refused) == WHOLE
    assert explain(PID, STARTED, code=None, log=str(tmp_path / "absent")) == ""


@pytest.mark.skipif(not os.access(sigsys.LOG, os.R_OK), reason="the kernel's log can't be read")
def test_the_kernels_own_record_is_read() -> None:
    child = subprocess.Popen([sys.executable, "-c", FILTERED], stderr=subprocess.DEVNULL)
    begun = process.start_time(child.pid)
    assert child.wait(30 * PATIENCE) == -signal.SIGSYS
    output = explain(child.pid, begun, code=SIGSYS_CODE)
    if output == WHOLE:
        pytest.skip("the kernel writes no records of seccomp, or an audit daemon takes them")
    assert output == f"{WHOLE} at call 272 of x86-64"
