# SPDX-License-Identifier: Apache-2.0
"""Saves a stopped QEMU guest to a file, and loads it into a VM that waits for one: memory and devices. For
`stage1.snapshot`.

QEMU gets the file as a descriptor. Its answers are bounded by its monitor, in time too.
"""

import errno
import os
import time

from stage1.errors import NoSpace, VmFailed, both_ends
from stage1.linux import files
from stage1.linux.libc import Guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stage1.vm.monitor import Monitor
    from stage1.vm.vmm import VmProcess

_BANDWIDTH = 1 << 40
_FIRST_PAUSE_S, _LAST_PAUSE_S, _GROWTH = 0.001, 0.25, 1.1
"""Delay between queries of the progress, whose answers are bounded together. Of a guest that is saved or loaded in
20 ms, 1 ms is lost by them.
"""


def make(path: str) -> None:
    """An empty file in the place of what is there, root's. Raises KernelError."""
    files.unlink(path)
    with Guard("make", path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def exists(path: str) -> bool:
    """Whether the file is there."""
    return os.path.lexists(path)


def write(monitor: "Monitor", path: str, *, is_awaited: "Callable[[], bool]" = lambda: True) -> None:
    """Save the guest, which is stopped and has no medium (`medium.take_out`), into the file. Raises NoSpace, VmFailed,
    also when it is not awaited any more.
    """
    monitor.run("migrate-set-parameters", {"max-bandwidth": _BANDWIDTH})
    try:
        _migrate(monitor, "migrate", path=path, is_awaited=is_awaited)
    except VmFailed as error:
        if os.strerror(errno.ENOSPC) in str(error):
            raise NoSpace(
                f"there is no space for the memory of a guest at {path}; free some, or choose a larger file system"
            ) from None
        raise


def read(monitor: "Monitor", path: str, *, vm: "VmProcess | None") -> None:
    """Load the guest, which does not run yet, into `vm`. Raises VmFailed with QEMU's last output, since QEMU ends when
    it can't; KernelError.
    """
    try:
        _migrate(monitor, "migrate-incoming", path=path)
    except VmFailed as error:
        last = vm.console_tail(1).strip() if vm else ""
        raise VmFailed(f"the guest saved in {path} can't be loaded: {last or error}") from None


def settled(monitor: "Monitor", is_awaited: "Callable[[], bool]" = lambda: True) -> str:
    """The result of the transfer, for people; empty if none was started. It is cancelled if its caller is."""
    pause_s = _FIRST_PAUSE_S
    while True:
        reply = monitor.run("query-migrate")
        status = str(reply.get("status", "")) if isinstance(reply, dict) else ""
        if status in ("", "completed", "failed", "cancelled"):
            return both_ends(f"{status} {reply.get('error-desc', '')}".strip(), 400) if status else ""
        if not is_awaited():
            monitor.run("migrate_cancel")
        time.sleep(pause_s)
        pause_s = min(_GROWTH * pause_s, _LAST_PAUSE_S)


def _migrate(monitor: "Monitor", command: str, *, path: str, is_awaited: "Callable[[], bool]" = lambda: True) -> None:
    flags = os.O_WRONLY if command == "migrate" else os.O_RDONLY
    with Guard("open", path):
        fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        number = monitor.add_file(fd, "guest")
    finally:
        os.close(fd)
    try:
        monitor.run(command, {"uri": f"file:/dev/fdset/{number}"})
        if (status := settled(monitor, is_awaited)) != "completed":
            raise VmFailed(f"the VMM failed to {command} a guest: {status}")
    finally:
        monitor.run("remove-fd", {"fdset-id": number})
