# SPDX-License-Identifier: Apache-2.0
"""The server of a pod's volumes of the host (images/volume-server), to which its guest speaks FUSE over a stream of its
own: a virtio-serial port, or a vsock connection. Called by `served`; nothing here knows of volumes.

It is started beside a VMM, with the first volume, in that one's cgroups and pid namespace, with which the kernel ends
it. It has a copy of the VMM's mounts; volumes are mounted in that copy, where the VMM does not see them. It is confined
by Landlock and its own list of system calls, has the VMM's ids, and may act as each of them.
"""

import os
import secrets
import socket
from typing import NamedTuple

from stage1.errors import KernelError, VmFailed
from stage1.linux import beneath, process, vsock
from stage1.linux.libc import Guard
from stage1.vm import jail, launch
from stage1.vm.jail import Joined, Launch
from stage1.vm.record import Record
from stage1.vm.spec import VOLUMES

FILTER = "seccomp-volumes.bpf"
_STREAM_FD = 10
_TRIES = 10
_DEATH_S = 10.0


class Server(NamedTuple):
    """A process that was started: its pid and start time, and the port of the host's vsock at which it waits for its
    guest; 0 when it is connected.
    """

    pid: int
    start_time: int
    port: int


def start(directory: str, entry: Record, *, cgroups: list[str], root: str) -> Server:
    """Start it beside the VMM of the pod in `directory`, for the volumes that are mounted below `root`. It is a child
    of the VMM: as that ends, the kernel ends and reaps it, whoever else is there. Raises VmFailed, KernelError.
    """
    program = entry.volume_server
    guest_dir = os.path.dirname(program)
    if not os.access(program, os.X_OK):
        raise VmFailed(f"{program} is not an executable; build it with `clearpod images build volume-server`")
    stream, port = _listening() if entry.cid else (_connected(directory), 0)
    with stream:
        argv = [program, str(_STREAM_FD), root, *([str(entry.cid)] if entry.cid else [])]
        what = Launch(argv, {}, (_STREAM_FD,), filter=f"{guest_dir}/{FILTER}", programs=(program,))
        description = jail.describe_server(Joined(entry.vmm.pid, directory, cgroups, entry.ids), what, root=root)
        with Guard("open", log := f"{directory}/console.log"):
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            pid = launch.launch(
                f"{guest_dir}/jailer",
                description,
                descriptors={1: output, 2: output, _STREAM_FD: stream.fileno()},
                name=f"{directory} volumes",
            )
        finally:
            os.close(output)
    with process.hold(pid) as handle:
        try:
            return Server(pid, process.start_time(pid), port)
        except BaseException:
            handle.kill()
            handle.wait(_DEATH_S)
            raise


def _connected(directory: str) -> socket.socket:
    """A connection to the port of the VM."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with Guard("connect", f"{directory}/{VOLUMES}"), beneath.Socket(f"{directory}/{VOLUMES}") as address:
            made.connect(address)
    except (KernelError, OSError) as error:
        made.close()
        raise VmFailed(
            f"the VMM has no port for volumes of the host: {error}; delete the pod, so that it is created again"
        ) from None
    return made


def _listening() -> tuple[socket.socket, int]:
    """A listener at a port that no program of a guest guesses in the moments until the guest has connected."""
    for _ in range(_TRIES):
        port = 1024 + secrets.randbelow((1 << 32) - 2048)
        try:
            return vsock.listen(port, backlog=4), port
        except KernelError:
            continue
    raise VmFailed(f"no port of the host's vsock is free among {_TRIES} tried")
