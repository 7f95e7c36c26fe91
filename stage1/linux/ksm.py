# SPDX-License-Identifier: Apache-2.0
"""The kernel's merging of equal pages (KSM), as files below /sys/kernel/mm/ksm. See the kernel's admin-guide/mm/ksm.

Used by `cri.memory.merger` and `clearpod ksm`. Decides nothing: it reads counters and writes given settings. KSM scans
only memory that a program has marked (madvise MADV_MERGEABLE), as kvmtool and QEMU do with their guests' memory.
"""

import os
from typing import NamedTuple

from stage1.errors import KernelError
from stage1.linux import files
from stage1.linux.libc import Guard

PATH = "/sys/kernel/mm/ksm"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STOP, RUN, UNMERGE = 0, 1, 2
"""The values of `run`."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Settings(NamedTuple):
    """The files by the same names. `use_zero_pages` -1: this kernel does not have it (or it is left as it is)."""

    run: int = STOP
    pages_to_scan: int = 100
    sleep_millisecs: int = 20
    use_zero_pages: int = -1


class Counters(NamedTuple):
    """Counters in pages, except `full_scans`; -1 for what this kernel does not count. `pages_sharing` and
    `ksm_zero_pages` are saved, `pages_shared` is the number of shared copies, `pages_unshared` had no identical
    page and `pages_volatile` changed too fast to tell.
    """

    pages_shared: int = 0
    pages_sharing: int = 0
    pages_unshared: int = 0
    pages_volatile: int = 0
    full_scans: int = 0
    ksm_zero_pages: int = -1
    pages_scanned: int = -1
    general_profit: int = -1

    @property
    def saved(self) -> int:
        """Pages that need not be there any more."""
        return self.pages_sharing + max(self.ksm_zero_pages, 0)


class Ksm:
    """The directory, which tests put elsewhere."""

    def __init__(self, path: str = PATH) -> None:
        self.path = path

    def lacks(self) -> str:
        """Why it can't be set here, as a sentence with what to do; empty when it can."""
        if not os.path.exists(f"{self.path}/run"):
            return f"{self.path} does not exist: this host's kernel is built without KSM (CONFIG_KSM)"
        if not os.access(f"{self.path}/run", os.W_OK):
            return f"{self.path}/run can't be written: run clearpod as root on the host, with /sys writable"
        if "[scan-time]" in self._text("advisor_mode"):
            return f"the kernel's own advisor sets pages_to_scan: write none to {self.path}/advisor_mode first"
        return ""

    def settings(self) -> Settings:
        """Return the settings in force. Raises KernelError."""
        return Settings(*(self._number(name) for name in Settings._fields))

    def counters(self) -> Counters:
        """The kernel's counters. Raises KernelError."""
        return Counters(*(self._number(name) for name in Counters._fields))

    def apply(self, settings: Settings) -> None:
        """Write what differs; a start comes last, and a stop first. Raises KernelError."""
        now = self.settings()
        names = [name for name in Settings._fields if -1 not in (getattr(now, name), getattr(settings, name))]
        for name in names if settings.run == STOP else reversed(names):
            if getattr(now, name) != getattr(settings, name):
                self._write(name, getattr(settings, name))

    def _write(self, name: str, value: int) -> None:
        with Guard("write", f"{self.path}/{name}"), open(f"{self.path}/{name}", "w", encoding="ascii") as file:
            file.write(str(value))

    def _number(self, name: str) -> int:
        text = self._text(name)
        try:
            return int(text) if text else -1
        except ValueError:
            raise KernelError("read", 22, f"{self.path}/{name} holds {text[:40]!r} and no number") from None

    def _text(self, name: str) -> str:
        try:
            return files.read(f"{self.path}/{name}").decode("ascii", "replace").strip()
        except FileNotFoundError:
            return ""


class Merged(NamedTuple):
    """The merged pages of one process, and its pages of zeros."""

    pages: int = 0
    zero_pages: int = 0


def merged(pid: int) -> Merged:
    """Read /proc/PID/ksm_stat. All zero if the process is gone or the kernel lacks the file."""
    try:
        lines = files.read(f"/proc/{pid}/ksm_stat").decode("ascii", "replace").splitlines()
    except (KernelError, OSError):
        return Merged()
    values = {fields[0]: fields[1] for fields in map(str.split, lines) if len(fields) == 2}
    return Merged(*(int(values.get(name, "0")) for name in ("ksm_merging_pages", "ksm_zero_pages")))


def find_thread() -> int:
    """The pid of the kernel's thread ksmd; 0 where it can't be seen."""
    for name in os.listdir("/proc"):
        if name.isdigit() and _is_ksmd(name):
            return int(name)
    return 0


def thread_cpu_s(pid: int) -> float:
    """Processor time that ksmd has used since it began; 0 when it can't be seen."""
    try:
        fields = files.read(f"/proc/{pid}/stat").decode(errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (KernelError, OSError, IndexError):
        return 0.0


def _is_ksmd(pid: str) -> bool:
    try:
        return files.read(f"/proc/{pid}/comm") == b"ksmd\n"
    except (KernelError, OSError):
        return False
