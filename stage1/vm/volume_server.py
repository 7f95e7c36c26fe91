# SPDX-License-Identifier: Apache-2.0
"""virtiofsd, which serves a pod's volumes in place of QEMU's own 9p server. Called by starter.ProcessVmm, and by
`clearpod check` and the CRI to find it.

It is started beside a VMM, in that one's cgroups and pid namespace, with which the kernel ends it. It has a copy of
the VMM's mounts; volumes are mounted in that copy, where the VMM does not see them. It is confined by Landlock and its
own list of system calls, has the VMM's ids, and may act as each of them. Nothing here knows of the guest.
"""

import os
import socket

from stage1.errors import VmFailed
from stage1.linux.host import Program
from stage1.linux.libc import Guard
from stage1.vm import jail, launch
from stage1.vm.jail import Launch
from stage1.vm.spec import VmSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from stage1.pod.model import Pod
    from stage1.vm.hypervisor import Hypervisor

PATHS = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd")
"""The paths at which distributions install it."""
_SOCKET_FD = 15


def find() -> Program:
    """Return the program, or a sentence about what is missing."""
    path = next((path for path in PATHS if os.access(path, os.X_OK)), "")
    return Program(path) if path else Program(lack="virtiofsd is not installed", remedy="apt install virtiofsd")


def lack(pod: "Pod", hypervisor: "Hypervisor") -> str:
    """Why the pod's volumes can't come by it, and what to do; empty when they can. Blocks."""
    if pod.suspend:
        return "the pod can be suspended, and a guest with virtiofs can't be saved; use 9p"
    if pod.ids.length:
        return "it has a user namespace, and virtiofsd has no user for each of its ids; use 9p"
    program = find()
    missing = f"{program.lack}: {program.remedy}" if program.lack else ""
    return hypervisor.virtiofs_lack or missing


def argv(binary: str, share: str) -> list[str]:
    """Return virtiofsd's command line. The guest revalidates files at each open, and names after a second at most."""
    return [
        binary,
        *("--fd", str(_SOCKET_FD)),
        *("--shared-dir", share),
        *("--sandbox", "none"),  # it is in a jail
        "--modcaps=-mknod:-setfcap",
        *("--rlimit-nofile", "0"),
        *("--cache", "auto"),
        "--xattr",
        "--killpriv-v2",  # else the guest asks for security.capability before each write
        *("--log-level", "error"),
    ]


class Sockets:
    """The two ends of its protocol: the VMM's is connected before there is anybody to answer. A context manager."""

    def __init__(self) -> None:
        with Guard("make", "sockets for virtiofsd"):
            self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self.server.bind("")  # the kernel makes a name up, which is nowhere in the file system
                self.server.listen(1)
                self.client.connect(self.server.getsockname())
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> "Sockets":
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close our ends, once both programs have inherited theirs."""
        self.server.close()
        self.client.close()


def start(vm: VmSpec, pid: int, *, listener: int, log: int) -> int:
    """Start it beside the VMM `pid`; its own pid, a child of the calling thread. Raises VmFailed, KernelError."""
    program = find()
    if program.lack:
        raise VmFailed(f"{program.lack}, which the pod asks for: {program.remedy}")
    share = next(share for share in vm.shares if share.is_served)
    what = Launch(argv(program.path, share.path), {"PATH": "/usr/bin:/bin"}, (_SOCKET_FD,))
    description = jail.describe_server(vm, what, pid=pid)
    return launch.launch(
        vm.jailer, description, descriptors={1: log, 2: log, _SOCKET_FD: listener}, name=f"{vm.run_dir} volumes"
    )
