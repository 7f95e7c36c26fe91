# SPDX-License-Identifier: Apache-2.0
"""vsock on the host: the listener that guests connect to, and context ids that no other VM has."""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable

from stage1.errors import NoSpace
from stage1.linux.libc import Guard

DEVICE = "/dev/vhost-vsock"
FIRST_CID, _CIDS = 3, 1 << 24
_TRIES = 1000
_VHOST_VSOCK_SET_GUEST_CID = 0x4008AF60  # _IOW(0xAF, 0x60, __u64), linux/vhost.h


def listen(port: int, backlog: int = 64) -> socket.socket:
    """A vsock socket that listens on `port` for every guest; 0: the kernel chooses. Raises KernelError."""
    with Guard("socket", f"vsock port {port}"):
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            listener.bind((socket.VMADDR_CID_ANY, port if port else socket.VMADDR_PORT_ANY))
            listener.listen(backlog)
        except OSError:
            listener.close()
            raise
    return listener


def choose_cid(seed: int, is_free: Callable[[int], bool] | None = None) -> int:
    """An unused guest context id, starting the search at a place that `seed` decides.

    Another VM may still take it before ours does; the VMM then fails to start and the caller asks again with
    another seed. Raises NoSpace when nothing is free near there.
    """
    free = is_free or cid_is_free
    for step in range(_TRIES):
        cid = FIRST_CID + (seed + step) % _CIDS
        if free(cid):
            return cid
    raise NoSpace(f"no free vsock context id among {_TRIES} tried; remove some virtual machines")


def cid_is_free(cid: int) -> bool:
    """Whether no VM of this host has `cid` now. Raises KernelError when the device can't be opened."""

    with Guard("ioctl", f"{DEVICE} cid {cid}"):
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _VHOST_VSOCK_SET_GUEST_CID, struct.pack("=Q", cid))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
        finally:
            os.close(fd)
    return True
