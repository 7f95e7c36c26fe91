# SPDX-License-Identifier: Apache-2.0
"""Whether this host still has what each pod needs: the guest's files, programs, the disks. Asked by Status, and in
parts by `clearpod check`.

It looks in a thread of its own, so that a disk that hangs delays neither the event loop nor other work; and a client of
Status gets an answer all the same.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from stage1.engine import Host
from stage1.linux.host import which
from stage1.machine import JAILER
from stage1.vm import kernels
from stage1.vm.spec import Hypervisor

WAIT_S = 1.0
TOOLS = {"mkfs.erofs": "erofs-utils", "mkfs.ext4": "e2fsprogs"}
"""Program -> Debian's package."""


class Lack(NamedTuple):
    """A reason in one word, what is missing, and what to do."""

    reason: str
    lack: str
    remedy: str

    @property
    def message(self) -> str:
        """Both, for a client of Status."""
        return f"{self.lack}; {self.remedy}"


def find(host: Host) -> Lack | None:
    """The first thing that is missing, if any. Blocks."""
    return _guest(host) or _tools(host) or _disks(host)


def guest_files(hypervisor: Hypervisor, *, is_jailed: bool, is_stock: bool = False) -> list[str]:
    """Files of the guest's directory that each pod needs; `is_stock`: where only the stock kernel is there."""
    files = [hypervisor.kernel, "initramfs", "system.erofs"]
    if is_stock:
        files = [f"{hypervisor.kernel}-{kernels.STOCK}", f"initramfs-{kernels.STOCK}", f"system-{kernels.STOCK}.erofs"]
    return [*files, JAILER, hypervisor.filter] if is_jailed else files


def absent_file(path: str) -> Lack:
    """The message about a file of the guest that does not exist."""
    return Lack("GuestMissing", f"{path} does not exist", "run `clearpod images build`")


def absent_tool(name: str) -> Lack:
    """Return what lacks when a program is absent."""
    return Lack("ToolMissing", f"{name} is not on PATH", f"apt install {TOOLS.get(name, name)}")


def disk(key: str, path: str) -> Lack | None:
    """Why the directory that `key` names can't be written to."""
    try:
        status = os.statvfs(path)
    except OSError as error:
        return Lack("DiskMissing", f"{path} ({key}) can't be used: {error.strerror}", "mount it")
    if status.f_flag & os.ST_RDONLY:
        return Lack("DiskReadOnly", f"{path} ({key}) is mounted read-only", "check its disk, and mount it again")
    return None


def _guest(host: Host) -> Lack | None:
    is_stock = kernels.chosen(host.guest_dir, "", hypervisor=host.choice.hypervisor) == kernels.STOCK
    for name in guest_files(host.choice.hypervisor, is_jailed=host.ids is not None, is_stock=is_stock):
        if not os.path.isfile(f"{host.guest_dir}/{name}"):
            return absent_file(f"{host.guest_dir}/{name}")
    return None


def _tools(host: Host) -> Lack | None:
    if not os.access(host.choice.binary, os.X_OK):
        return Lack("ToolMissing", f"the hypervisor {host.choice.binary} can't be executed", "install it again")
    return next((absent_tool(name) for name in TOOLS if not which(name)), None)


def _disks(host: Host) -> Lack | None:
    return disk("state_dir", host.state_dir) or disk("run_dir", host.run_dir)


class Readiness:
    """`check` at any time, by many at once: one of them looks."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._looking: asyncio.Future[Lack | None] | None = None

    async def check(self) -> Lack | None:
        """What is missing; None if nothing is."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().run_in_executor(self._pool, find, self._host)
        looking = self._looking
        await asyncio.wait({looking}, timeout=WAIT_S)
        if not looking.done():
            return Lack("DiskHangs", f"{self._host.state_dir} did not answer within {WAIT_S:g} s", "check its disk")
        if self._looking is looking:
            self._looking = None
        return looking.result()

    def close(self) -> None:
        """End; a disk that hangs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
