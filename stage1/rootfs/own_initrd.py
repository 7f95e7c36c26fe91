# SPDX-License-Identifier: Apache-2.0
"""The initrd of a Linux that an image brings, with our first program in front and what it reads: for what of a pod does
not fit a command line. Called by `own` before such a VM is made. docs/design/own-kernels.md has the reasons.

Linux unpacks archives one behind the other, each compressed or not, so the image's stays as it is.
"""

import os
from collections.abc import Iterable

from stage1.errors import BadRequest
from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.pod.own_values import OWN_INIT, OWN_INIT_VALUES
from stage1.rootfs import orphans, scratch

LINK = "kernel.initrd"
"""The link to it in the pod's directory."""
_DIRECTORY, _PROGRAM, _SECRET = 0o040700, 0o100700, 0o100600
_BLOCK = 512
_ARCHIVES = (
    b"070701", b"070702", b"\x1f\x8b", b"\x1f\x9e", b"BZh", b"\x5d\x00\x00", b"\xfd7zXZ\x00", b"\x89LZO", b"\x02!L\x18",
    b"\x28\xb5\x2f\xfd",
)  # fmt: skip
"""How those begin that Linux unpacks; others it mounts as disks."""


def require_archive(path: str, *, title: str) -> None:
    """Raise BadRequest if Linux does not unpack that initrd, since it can't have files in front then."""
    with Guard("read", path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            head = os.pread(fd, 8, 0)
        finally:
            os.close(fd)
    if not head.startswith(_ARCHIVES):
        raise BadRequest(
            f"the environment of the pod does not fit the kernel's command line, and the initrd {title}, by which it "
            f"could come, is no cpio archive: it begins with {head.hex()}; give it fewer variables"
        )


def make(source: str, target: str, *, program: str, carried: bytes, directory: str) -> None:
    """Write `target`, of the pod in `directory`: the initrd `source` behind `program` and what is `carried`. Undo:
    `remove`. Raises NoSpace, KernelError.
    """
    scratch.note(directory, LINK, path=target)
    remove(directory)
    begin = archive(((OWN_INIT, _PROGRAM, files.read(program)), (OWN_INIT_VALUES, _SECRET, carried)))
    with Guard("write", target):
        into = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        try:
            _write(into, begin)
            _append(into, source)
        finally:
            os.close(into)


def remove(directory: str) -> None:
    """Undo `make`. Idempotent."""
    if path := orphans.of_pod(directory, LINK, place="scratch"):
        files.unlink(path)


def archive(content: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive (newc) of one directory with these files: path, mode and content."""
    parts = ((os.path.dirname(OWN_INIT), _DIRECTORY, b""), *content, ("TRAILER!!!", 0, b""))
    made = b"".join(_record(path, mode, data=data) for path, mode, data in parts)
    return made + bytes(-len(made) % _BLOCK)


def _record(path: str, mode: int, *, data: bytes) -> bytes:
    name = path.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def _append(into: int, source: str) -> None:
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while os.sendfile(into, fd, None, 1 << 24):
            pass
    finally:
        os.close(fd)


def _write(into: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(into, rest) :]
