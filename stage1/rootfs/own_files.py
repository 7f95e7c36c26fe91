# SPDX-License-Identifier: Apache-2.0
"""The files of an image that a kernel's labels name, found as the container would find them, and the disk among them.
Called by `own` before such a VM is made. Nothing is believed of the image, and nothing is written.
"""

import errno
import os
import stat
from collections.abc import Callable

from stage1.errors import BadRequest, KernelError, NotFound
from stage1.linux import files, in_root
from stage1.linux.libc import Guard

_SHOWN = 200
"""Of a path in an error."""
_NOT_THERE = {
    errno.ENOENT: "",
    errno.ENOTDIR: ": a part of the path is no directory",
    errno.ELOOP: ": its links lead in a circle",
    errno.ENAMETOOLONG: ": the path is too long",
}
_FORMATS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "VMDK"),
    (0, b"vhdx", "VHDX"),
    (0, b"conectix", "VHD"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
)
"""Of disks: offset, bytes there, name."""


def resolved(root: int, path: str, *, what: str, examine: Callable[[int, int], None] | None = None) -> tuple[str, int]:
    """The host's path of a file in an image, and its bytes; `examine` is given its descriptor and these. Both are empty
    where none is named.
    """
    if not path:
        return "", 0
    fd = _opened(root, path, what=what)
    try:
        status = os.fstat(fd)
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise BadRequest(f"the {what} {path} that the image names is {files.kind(status.st_mode)}, not a file")
        if examine:
            with Guard("read", path):
                examine(fd, size)
        place = os.readlink(f"/proc/self/fd/{fd}")
        if "," in place:  # QEMU would take what follows for another file
            raise BadRequest(f"the {what} {path} is a link to a path with a comma; rename that file")
        return place, size
    finally:
        os.close(fd)


def _opened(root: int, path: str, *, what: str) -> int:
    """A descriptor of a file or directory in an image. Raises NotFound, BadRequest."""
    shown = path if len(path) <= _SHOWN else f"{path[:_SHOWN]}..."
    try:
        return in_root.open_path(root, path)
    except files.NotPlain:
        raise BadRequest(f"the {what} {shown} that the image names is no regular file; build it with one") from None
    except (FileNotFoundError, KernelError) as error:
        number = errno.ENOENT if isinstance(error, FileNotFoundError) else error.errno
        if number not in _NOT_THERE:
            raise
        raise NotFound(
            f"the image names the {what} {shown}, and has no such file{_NOT_THERE[number]}; build it with that file"
        ) from None


def require_raw(fd: int, *, path: str) -> None:
    """Raise BadRequest for the image of a disk in a format of its own: the kernel would see that format."""
    head = os.pread(fd, 128, 0)
    for at, magic, name in _FORMATS:
        if head[at : at + len(magic)] == magic:
            raise BadRequest(f"the block image {path} is in the format {name}; convert it to a raw one")
