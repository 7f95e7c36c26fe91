# SPDX-License-Identifier: Apache-2.0
"""Disks of the kernel's device mapper whose power can be cut: one that logs its writes (dm-log-writes), one that
silently drops them from a moment on (dm-flakey).

They need a kernel that has both, such as Debian's, so the lab's. Used by tests/system/test_power_cut.py.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
from pathlib import Path

from tests.fakes.crash_disk import MARK, SECTOR, CrashDisk, State, Unavailable, Write, attach, run

_NUMBERS = itertools.count()


class LoggedDisk(CrashDisk):
    """By dm-log-writes, which logs a write when it is durable: with the flush that made it so, or, with FUA, at once.

    What had been written but not flushed at a point of the log is between it and the next flush. Marks are in the log.
    """

    def mark(self) -> int:
        """How many marks there are, with this one."""
        self._marks += 1
        run("dmsetup", "message", self._name, "0", "mark", str(self._marks))
        return self._marks

    def _durable(self, entries: list[Write]) -> int:
        return sum(bool(one.flags & MARK) for one in entries)

    def _device(self) -> str:
        require("log-writes")
        self._marks = 0
        below, log = attach(self._scope, self._image), attach(self._scope, self._log)
        self._name, device = _mapped(self._scope, f"0 {self._mib << 20 >> 9} log-writes {below} {log}")
        return device


class FlakyDisk:
    """A disk by dm-flakey. Writes after `cut` are silently lost; `state` is for after `close`."""

    def __init__(self, place: Path, mib: int) -> None:
        self._image, self._length = place / "disk.img", mib << 20
        self.mount = place / "mount"
        self._scope = contextlib.ExitStack()
        self._marks = self._durable = 0

    def open(self) -> None:
        """Make the disk, an empty one. Raises Unavailable."""
        require("flakey")
        self.mount.mkdir(parents=True)
        self._image.touch()
        os.truncate(self._image, self._length)
        run("mkfs.ext4", "-q", "-F", str(self._image))
        try:
            self._below = attach(self._scope, self._image)
            self._name, device = _mapped(self._scope, f"0 {self._length // SECTOR} linear {self._below} 0")
            run("mount", device, str(self.mount))
            self._scope.callback(run, "umount", str(self.mount))
        except BaseException:
            self._scope.close()
            raise

    def close(self) -> None:
        """Give everything back but what was written. Idempotent."""
        self._scope.close()

    def mark(self) -> int:
        """How many marks there are, with this one."""
        self._marks += 1
        return self._marks

    def cut(self) -> None:
        """The power goes: writes and flushes that come now succeed, and do nothing."""
        table = f"0 {self._length // SECTOR} flakey {self._below} 0 0 3600 1 drop_writes"
        run("dmsetup", "suspend", "--noflush", "--nolockfs", self._name)
        try:
            run("dmsetup", "load", self._name, "--table", table)
        finally:
            run("dmsetup", "resume", self._name)
        self._durable = self._marks

    def state(self) -> State:
        """What is on it."""
        return State(self._image, self._durable, 0)


def require(target: str) -> None:
    """Raises Unavailable, with the reason, when the kernel here does not have that target of the device mapper."""
    if os.geteuid():
        raise Unavailable("to mount needs root")
    if not shutil.which("dmsetup"):
        raise Unavailable("there is no dmsetup; install dmsetup")
    for module in ("dm-mod", f"dm-{target}"):
        subprocess.run(["modprobe", "--quiet", module], check=False)  # it may be built in
    known = subprocess.run(["dmsetup", "targets"], capture_output=True, text=True, check=False)
    if target not in {line.split()[0] for line in known.stdout.splitlines() if line}:
        raise Unavailable(f"the kernel {os.uname().release} has no dm-{target}; Debian's has: scripts/lab test")


def _mapped(scope: contextlib.ExitStack, table: str) -> tuple[str, str]:
    """Name and path of a device with that table, until the end of the scope. No udev is needed."""
    name = f"clearpod-test-{os.getpid()}-{next(_NUMBERS)}"
    run("dmsetup", "create", name, "--noudevsync", "--table", table)
    scope.callback(run, "dmsetup", "remove", "--noudevsync", "--retry", name)
    argv = ["dmsetup", "info", "--columns", "--noheadings", "-o", "blkdevname", name]
    node = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    return name, f"/dev/{node}"
