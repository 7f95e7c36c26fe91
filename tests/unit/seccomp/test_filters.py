# SPDX-License-Identifier: Apache-2.0
"""The filters of images/seccomp, loaded into a process that then makes one system call."""

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fakes.c_program import make

CHECKOUT = Path(__file__).parents[3]
SOURCES = CHECKOUT / "images" / "seccomp"
HEADER = Path("/usr/include/seccomp.h")
BUILT = CHECKOUT / "build" / "seccomp"  # kept between runs: make rebuilds only what changed
ABSENT = [tool for tool in ("make", "gcc") if not shutil.which(tool)] + ([] if HEADER.exists() else ["libseccomp-dev"])
STARTING = ("seccomp-qemu", "seccomp-kvmtool")
LOADED = "kvmtool-loaded"
FILTERS = (*STARTING, LOADED)
BYTES_EACH = 8
"""Of a struct sock_filter."""
LINES_AT_MOST = 512

pytestmark = [
    pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}"),
    pytest.mark.timeout(120),
]

# Flags of clone(2): what a thread has, and a process that is a thread's but for CLONE_THREAD.
THREAD = 0x3D0F00
NOT_A_THREAD = THREAD & ~0x10000
NEW_USER = 0x10000000
BAD = 1 << 48
"""No address: what is let through fails with EFAULT and does nothing."""

COMPILER = """#!/bin/sh
# In place of gcc: what it is to make says whether another one was at work at the same time.
if mkdir "$PLACE/busy"; then sleep 0.3; rmdir "$PLACE/busy"; else touch "$PLACE/disturbed"; fi
for last; do :; done
printf '#!/bin/sh\ntouch "$1/seccomp-qemu.bpf"\n' > "$last"
chmod +x "$last"
"""

Run = Callable[..., int]


class Call(NamedTuple):
    """A system call of x86-64 by number; so that without a filter it would fail or do nothing."""

    name: str
    number: int
    arguments: tuple[int, ...] = ()


NEVER = (
    *(Call("fork", 57), Call("vfork", 58), Call("clone of a process", 56, (NOT_A_THREAD | 17,))),
    Call("clone of a thread in a namespace", 56, (THREAD | NEW_USER,)),
    *(Call("execveat", 322, (BAD, BAD, BAD, BAD, BAD)), Call("ptrace", 101, (99,)), Call("kcmp", 312)),
    *(Call("process_vm_readv", 310), Call("process_vm_writev", 311), Call("process_madvise", 440, (BAD,))),
    *(Call("pidfd_open", 434, (BAD,)), Call("pidfd_getfd", 438, (BAD,)), Call("pidfd_send_signal", 424, (BAD,))),
    *(Call("mount", 165, (BAD, BAD, BAD)), Call("umount2", 166, (BAD, 0xFFFF)), Call("pivot_root", 155, (BAD, BAD))),
    *(Call("chroot", 161, (BAD,)), Call("open_tree", 428, (BAD, BAD)), Call("move_mount", 429, (BAD, BAD))),
    *(Call("fsopen", 430, (BAD,)), Call("fsmount", 432, (BAD,)), Call("mount_setattr", 442, (BAD, BAD))),
    *(Call("unshare", 272, (0,)), Call("setns", 308, (BAD,)), Call("personality", 135, (0xFFFFFFFF,))),
    *(Call("name_to_handle_at", 303, (BAD, BAD)), Call("open_by_handle_at", 304, (BAD, BAD))),
    *(Call("setuid", 105, (0xFFFFFFFF,)), Call("setgid", 106, (0xFFFFFFFF,)), Call("setresuid", 117, (BAD,))),
    *(Call("setgroups", 116, (0xFFFFFF,)), Call("setfsuid", 122, (0xFFFFFFFF,)), Call("capset", 126, (BAD, BAD))),
    *(Call("bpf", 321, (BAD,)), Call("perf_event_open", 298, (BAD,)), Call("userfaultfd", 323, (BAD,))),
    *(Call("add_key", 248, (BAD,)), Call("request_key", 249, (BAD,)), Call("keyctl", 250, (BAD,))),
    *(Call("io_uring_enter", 426, (BAD,)), Call("io_uring_register", 427, (BAD,))),
    *(
        Call("init_module", 175, (BAD,)),
        Call("finit_module", 313, (BAD,)),
        Call("kexec_load", 246, (BAD, BAD, BAD, BAD)),
    ),
    *(Call("reboot", 169, (1,)), Call("swapon", 167, (BAD,)), Call("syslog", 103, (99,)), Call("acct", 163, (BAD,))),
    *(Call("settimeofday", 164, (BAD, BAD)), Call("clock_settime", 227, (BAD, BAD)), Call("adjtimex", 159, (BAD,))),
    *(Call("iopl", 172, (9,)), Call("ioperm", 173, (BAD, BAD, 1)), Call("modify_ldt", 154, (99,))),
    *(Call("quotactl", 179, (BAD, BAD)), Call("fanotify_init", 300, (BAD,)), Call("sethostname", 170, (BAD, BAD))),
    *(Call("sched_setscheduler", 144, (0, BAD)), Call("sched_setaffinity", 203, (0, 0)), Call("setpriority", 141)),
    *(Call("timer_create", 222, (99, BAD, BAD)), Call("mq_open", 240, (BAD,)), Call("msgget", 68, (0, 0))),
    *(Call("socket(AF_INET6)", 41, (10, 1)), Call("socket(AF_NETLINK)", 41, (16, 3)), Call("AF_PACKET", 41, (17, 3))),
    *(Call("socket(AF_VSOCK)", 41, (40, 1)), Call("connect", 42, (BAD, BAD)), Call("shmget", 29, (0, 0))),
    *(Call("ioctl(TIOCSTI)", 16, (0, 0x5412, BAD)), Call("ioctl(TIOCLINUX)", 16, (0, 0x541C, BAD))),
    *(Call("ioctl(TUNSETPERSIST)", 16, (0, 0x400454CB)), Call("ioctl(FS_IOC_SETFLAGS)", 16, (0, 0x40086602, BAD))),
    *(Call("ioctl(FIDEDUPERANGE)", 16, (0, 0xC0189436, BAD)), Call("ioctl(SIOCSIFFLAGS)", 16, (0, 0x8914, BAD))),
    *(Call("prctl(PR_SET_DUMPABLE)", 157, (4, 99)), Call("prctl(PR_SET_MM)", 157, (35, 99))),
    *(Call("prctl(PR_SET_KEEPCAPS)", 157, (8, 0)), Call("prctl(PR_CAP_AMBIENT)", 157, (47, 99))),
    *(Call("prlimit64 of another", 302, (1, 99)), Call("a number that no kernel has", 900)),
)
FINE = (
    *(
        Call("getpid", 39),
        Call("brk", 12),
        Call("mmap", 9, (0, 4096, 3, 0x22, 0xFFFFFFFF)),
        Call("futex", 202, (BAD, 1)),
    ),
    *(
        Call("socket(AF_UNIX)", 41, (1, 1)),
        Call("eventfd2", 290),
        Call("epoll_create1", 291),
        Call("timerfd_create", 283),
    ),
    *(Call("memfd_create", 319, (BAD,)), Call("statx", 332, (0, BAD)), Call("fchmodat2", 452, (0, BAD))),
    *(Call("openat", 257, (0, BAD)), Call("preadv2", 327, (99,)), Call("copy_file_range", 326, (99,))),
    *(Call("fallocate", 285, (99,)), Call("fsetxattr", 190, (99,)), Call("renameat2", 316, (99, BAD, 99, BAD))),
    *(Call("mknodat of a pipe", 259, (99, BAD, 0o010644)), Call("mknodat of a file", 259, (99, BAD, 0o644))),
    *(Call("rseq", 334), Call("membarrier", 324), Call("futex_waitv", 449), Call("epoll_pwait2", 441, (99,))),
    *(Call("prctl(PR_SET_NAME)", 157, (15, BAD)), Call("prlimit64 of itself", 302, (0, 7)), Call("getcpu", 309)),
    *(Call("ioctl(TCGETS)", 16, (99, 0x5401)), Call("ioctl(KVM_RUN)", 16, (99, 0xAE80)), Call("madvise", 28)),
    *(
        Call("ioctl(KVM_RUN) with rubbish above", 16, (99, 0xFFFFFFFF0000AE80)),
        Call("io without tty", 16, (99, 0x5403)),
    ),
    *(Call("ioctl(TUNSETIFF)", 16, (99, 0x400454CA)), Call("ioctl(VHOST_SET_OWNER)", 16, (99, 0xAF01))),
)
REFUSED = (
    (Call("clone3", 435, (BAD, 64)), errno.ENOSYS),
    (Call("mknodat of a character device", 259, (99, BAD, 0o020644)), errno.EPERM),
    (Call("mknodat of a block device", 259, (99, BAD, 0o060644)), errno.EPERM),
    (Call("mknod of a device", 133, (BAD, 0o020644)), errno.EPERM),
)
CODE = (
    Call("mmap", 9, (0, 4096, 5, 0x22, 0xFFFFFFFF)),
    Call("mprotect", 10, (0, 0, 5)),
    Call("execve", 59, (BAD, BAD)),
)
FILTERING = (Call("seccomp", 317, (99,)), Call("prctl(PR_SET_SECCOMP)", 157, (22, 99)))


@pytest.fixture(scope="session")
def built() -> Path:
    """The directory with the filters."""
    return _build()


def _build() -> Path:
    make(SOURCES, BUILT)
    return BUILT


@pytest.fixture(scope="session")
def under(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """How a process ends that makes a call under a filter: 0, a number of errno, or minus the signal."""
    program = tmp_path_factory.mktemp("seccomp") / "call"
    source = Path(__file__).with_name("call.c")
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-pthread", "-o", program, source], check=True, timeout=60)

    def run(name: str, *argv: object) -> int:
        command = [str(program), str(built / f"{name}.bpf"), *map(str, argv)]
        return subprocess.run(command, capture_output=True, timeout=60).returncode

    return run


def _call(under: Run, name: str, call: Call, abi: str = "x86-64") -> int:
    return under(name, abi, call.number, *call.arguments)


@pytest.mark.parametrize("name", FILTERS)
def test_what_no_vmm_does_ends_it(under: Run, name: str) -> None:
    ends = {call.name: _call(under, name, call) for call in NEVER}
    assert {call for call, end in ends.items() if end != -signal.SIGSYS} == set()


@pytest.mark.parametrize("name", FILTERS)
def test_what_a_vmm_does_reaches_the_kernel(under: Run, name: str) -> None:
    ends = {call.name: _call(under, name, call) for call in FINE}
    assert {call: end for call, end in ends.items() if end < 0 or end in (errno.EPERM, errno.ENOSYS)} == {}


@pytest.mark.parametrize("name", FILTERS)
def test_what_has_a_fallback_is_refused_and_ends_nothing(under: Run, name: str) -> None:
    assert [(call, _call(under, name, call)) for call, _ in REFUSED] == list(REFUSED)


@pytest.mark.parametrize("name", FILTERS)
def test_other_entries_into_the_kernel_end_it_and_threads_change_nothing(under: Run, name: str) -> None:
    getpid, getpid_of_i386, unshare = Call("getpid", 39), Call("getpid", 20), Call("unshare", 272)
    assert _call(under, name, getpid) == _call(under, name, getpid, "thread") == 0
    assert _call(under, name, getpid, "x32") == -signal.SIGSYS
    assert _call(under, name, getpid_of_i386, "i386") == -signal.SIGSYS
    assert _call(under, name, unshare, "thread") == -signal.SIGSYS


@pytest.mark.parametrize("name", STARTING)
def test_the_program_that_is_started_can_load_its_libraries_and_filter_itself(under: Run, name: str) -> None:
    assert under(name, "exec", "/bin/true") == 0
    assert under(name, "exec", "/bin/ls", "/") == 0
    ends = {call.name: _call(under, name, call) for call in (*CODE, *FILTERING)}
    assert {call for call, end in ends.items() if end in (-signal.SIGSYS, errno.EPERM)} == set()


def test_a_kvmtool_that_is_loaded_starts_no_program_and_gets_no_new_code(under: Run) -> None:
    assert under(LOADED, "exec", "/bin/true") == -signal.SIGSYS
    ends = {call.name: _call(under, LOADED, call) for call in (*CODE, *FILTERING)}
    assert {call for call, end in ends.items() if end != -signal.SIGSYS} == set()


def test_each_has_its_own_ring_and_its_own_sockets(under: Run) -> None:
    ring, inet = Call("io_uring_setup", 425, (1, BAD)), Call("socket(AF_INET)", 41, (2, 1))
    assert _call(under, "seccomp-qemu", ring) == errno.ENOSYS
    assert _call(under, "seccomp-kvmtool", ring) == -signal.SIGSYS
    assert _call(under, "seccomp-qemu", inet) == -signal.SIGSYS
    steering = Call("ioctl(TUNSETSTEERINGEBPF)", 16, (99, 0x800454E0, BAD))
    assert _call(under, "seccomp-qemu", steering) == errno.EPERM
    assert _call(under, "seccomp-kvmtool", steering) == -signal.SIGSYS
    assert _call(under, "seccomp-kvmtool", inet) == _call(under, LOADED, inet) == errno.EAFNOSUPPORT


def test_the_same_bytes_come_of_another_build_elsewhere(built: Path, tmp_path: Path) -> None:
    make(SOURCES, tmp_path)
    for name in FILTERS:
        content = (tmp_path / f"{name}.bpf").read_bytes()
        assert content == (built / f"{name}.bpf").read_bytes()
        assert len(content) % BYTES_EACH == 0 and len(content) <= LINES_AT_MOST * BYTES_EACH


def test_processes_of_tests_that_find_no_filters_build_them_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a new checkout; a program that another one links at the same time can't be executed."""
    (tmp_path / "gcc").write_text(COMPILER)
    (tmp_path / "gcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setattr("tests.unit.seccomp.test_filters.BUILT", tmp_path / "out")
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(_build) for _ in range(2)]:
            assert (done.result() / "seccomp-qemu.bpf").exists()
    assert not (tmp_path / "disturbed").exists()
