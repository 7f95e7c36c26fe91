# SPDX-License-Identifier: Apache-2.0
"""Taps: network devices whose other end is a program. See tuntap(7) in the kernel's documentation. Used by net.

A tap that is made here stays without a program, and ends with its netns, which is that of the calling thread.
"""

import fcntl
import os
import struct

from stage1.linux.libc import Guard

_DEVICE = "/dev/net/tun"
_SET_DEVICE, _SET_STAYS, _SET_OWNER = 0x400454CA, 0x400454CB, 0x400454CC
_TAP, _NO_HEADER, _NEW = 0x0002, 0x1000, 0x8000
_REQUEST = struct.Struct("=16sH22x")


def make_tap(name: str) -> None:
    """Make the tap `name`, which is down. It is root's, or a VMM without CAP_NET_ADMIN could not attach to it: some
    kernels (6.12) let no other user attach to a tap without an owner.

    Raises KernelError, also when there is a device of that name.
    """
    with Guard("make the tap", name):
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _SET_DEVICE, _REQUEST.pack(name.encode(), _TAP | _NO_HEADER | _NEW))
            fcntl.ioctl(fd, _SET_OWNER, 0)
            fcntl.ioctl(fd, _SET_STAYS, 1)
        finally:
            os.close(fd)
