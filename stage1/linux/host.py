# SPDX-License-Identifier: Apache-2.0
"""Facts about this host. Read by vm.choose and `clearpod check`. Evaluates nothing."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stage1.linux import libc, pressure

_PT_INTERP = 3  # elf(5)
_READ_ALL = 3  # syslog(2)
_MOST_NAME = 4096
_NONE: Mapping[str, Program] = {}


class Program(NamedTuple):
    """A hypervisor's program. `path` is empty when it is not on PATH.

    `lack` is the reason why it can't be used, `flaw` what it can't do although it is used, as sentences; `remedy` what
    to do. `sandbox`: it was built with its own seccomp filter. `preload`: a library can be preloaded into it.
    """

    path: str = ""
    lack: str = ""
    flaw: str = ""
    remedy: str = ""
    sandbox: bool = False
    preload: bool = True


class HostFacts(NamedTuple):
    """`kvm_error` and `vsock_error` are the reasons why the device can't be used; empty when it can. `programs` are
    those of the hypervisors, by their names. A tool's path is empty when it is not on PATH.
    """

    machine: str = "x86_64"
    cpu_virtualization: str = ""
    """vmx, svm, or empty. Opening /dev/kvm proves nothing where the CPU does not show one of these."""
    has_rdrand: bool = False
    """The CPU has an instruction for random numbers, which guests of KVM see as well."""
    kvm_error: str = ""
    vsock_error: str = ""
    programs: Mapping[str, Program] = _NONE
    crun: str = ""


def host_facts() -> HostFacts:
    """Ask the host, for all but the hypervisors' programs (vm.hypervisors). About a millisecond; changes nothing."""
    flags = cpu_flags(_cpuinfo())
    return HostFacts(
        machine=os.uname().machine,
        cpu_virtualization=cpu_virtualization(flags),
        has_rdrand="rdrand" in flags,
        kvm_error=device_error("/dev/kvm"),
        vsock_error=device_error("/dev/vhost-vsock"),
        crun=which("crun"),
    )


def which(name: str) -> str:
    """The absolute path of the executable `name` on PATH (and the sbin directories), or empty."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    for directory in path.split(":"):
        candidate = os.path.join(directory, name)
        if os.path.isabs(candidate) and os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return ""


def has_text(path: str, text: bytes) -> bool:
    """Whether the file has `text` in it: the libraries that a program wants are named in it. False if unreadable."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
            return content.find(text) >= 0
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def is_static(path: str) -> bool:
    """Whether the file is a program for x86-64 that asks for no dynamic loader. False if unreadable."""
    return interpreter(path) == ""


def interpreter(path: str) -> str | None:
    """The dynamic loader that a program for x86-64 asks for, empty when it asks for none; None if it is no such
    program, or unreadable.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            if len(head) < 64 or head[:5] != b"\x7fELF\x02":
                return None
            table, size, count = struct.unpack_from("<Q14xHH", head, 32)
            file.seek(table)
            headers = file.read(size * count)
            loader = ""
            for at in range(0, len(headers) - 55, size) if size else ():
                if struct.unpack_from("<I", headers, at)[0] == _PT_INTERP:
                    offset, length = struct.unpack_from("<Q16xQ", headers, at + 8)
                    file.seek(offset)
                    loader = os.fsdecode(file.read(min(length, _MOST_NAME)).split(b"\0")[0]) or "/"
            return loader if size and headers else None
    except (OSError, OverflowError, ValueError):
        return None


def recent_log(most: int) -> str:
    """The newest lines of the kernel's log, at most `most` bytes of it. Raises KernelError."""
    buffer = (ctypes.c_char * most)()  # the image of rkt's has no create_string_buffer
    size = libc.call("klogctl", _READ_ALL, ctypes.addressof(buffer), most, what="the kernel's log")
    return buffer.raw[:size].decode("utf-8", "replace")


def memory_mib() -> tuple[int, int]:
    """The host's memory, and what of it could be had without swapping (MemAvailable); 0 if it is not known."""
    now = pressure.memory()
    return now.total >> 20, now.available >> 20


def private_bytes() -> int:
    """How much memory this process has besides pages of files."""
    with open("/proc/self/statm", "rb") as file:
        resident, of_files = map(int, file.read().split()[1:3])
    return (resident - of_files) * os.sysconf("SC_PAGESIZE")


def cpu_flags(cpuinfo: str) -> Sequence[str]:
    """The words of the first flags line of /proc/cpuinfo."""
    lines = (line for line in cpuinfo.splitlines() if line.startswith("flags"))
    return next(lines, "").partition(":")[2].split()


def cpu_virtualization(flags: Sequence[str]) -> str:
    """vmx, svm or empty."""
    return next((flag for flag in ("vmx", "svm") if flag in flags), "")


def device_error(path: str) -> str:
    """Empty when the device `path` can be opened for reading and writing, else why not."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _cpuinfo() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return file.read(16384)
    except OSError:
        return ""
