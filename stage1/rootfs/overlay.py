# SPDX-License-Identifier: Apache-2.0
"""A second, idmapped mount of an overlay that rkt has mounted: the root of an app. For rkt.machine.

An overlay can't be an id-mapped mount, its layers can be (Linux 5.19). What is written through ours lies in the same
upper directory with the numbers that the guest gave, so the other mount shows it too; that one must not be used
meanwhile. The working directory is one of our own beside the other's, which two mounts may not share.
"""

import errno
import os
from types import TracebackType
from typing import NamedTuple

from stage1.errors import KernelError, Unsupported
from stage1.linux import beneath, files, idmap, libc, mount

_PR_GET_SECUREBITS, _PR_SET_SECUREBITS = 27, 28
_NO_SETUID_FIXUP = 1 << 2
_SCRATCH = "layers"
"""The directory in the pod's directory for temporary mounts."""
_INERT = mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC


class Layers(NamedTuple):
    """The directories of an overlay, the topmost of `lower` first."""

    lower: tuple[str, ...]
    upper: str
    work: str


def find(path: str) -> Layers | None:
    """Return the layers of the writable overlay at `path`; None when there is none."""
    options = mount.overlay_options(os.path.realpath(path))
    if options is None or not options.get("upperdir"):
        return None
    return Layers(tuple(options["lowerdir"].split(":")), options["upperdir"], options["workdir"])


def show(layers: Layers, directory: str, *, at: str, ids: int, owner: int) -> None:
    """Mount them at `share/<at>` in the pod's `directory`, mapped by the user namespace `ids`, whose 0 is the host's id
    `owner`.

    Must run in the mount namespace for which it is. Raises Unsupported when the kernel or the file system can't do
    that, KernelError.
    """
    scratch = f"{directory}/{_SCRATCH}"
    os.mkdir(scratch, 0o700)
    try:
        fd = _make(_options(layers, scratch, ids=ids), owner=owner)
    finally:
        _clear(scratch)  # the overlay has copies of its own
    try:
        with beneath.Root(directory) as own:
            own.attach(fd, f"share/{at}")
        mount.set_propagation(fd, mount.MS_PRIVATE)
    finally:
        os.close(fd)


def _options(layers: Layers, scratch: str, *, ids: int) -> list[tuple[str, str]]:
    """Return the mount options of our overlay, whose layers are mounted below `scratch`."""
    above = os.path.commonpath((layers.upper, layers.work))
    work = f"{layers.work}.clearpod"
    files.make_dirs(work, 0o700)
    lower = [_mapped(path, f"{scratch}/{number}", ids=ids) for number, path in enumerate(layers.lower)]
    top = _mapped(above, f"{scratch}/top", ids=ids)
    return [
        ("source", "clearpod"),
        ("lowerdir", ":".join(lower)),
        ("upperdir", f"{top}{layers.upper.removeprefix(above)}"),
        ("workdir", f"{top}{work.removeprefix(above)}"),
    ]


def _mapped(source: str, target: str, *, ids: int) -> str:
    fd = mount.open_tree(source, recursive=False)
    try:
        idmap.set_owners(fd, ids, what=source)
        os.mkdir(target)
        mount.move_tree(fd, target)
    finally:
        os.close(fd)
    return target


def _make(options: list[tuple[str, str]], *, owner: int) -> int:
    try:
        with _AsFileOwner(owner):
            return mount.new("overlay", _INERT, options)
    except KernelError as error:
        raise Unsupported(
            f"the app's root can't be an idmapped mount ({error}); use Linux 5.19 or newer, or `rkt run --no-overlay`"
        ) from None


class _AsFileOwner:
    """`with _AsFileOwner(id):` files that the calling thread makes are owned by `id`, and it keeps its capabilities.

    What the overlay makes for itself must have an owner that the mapped layers know, or it is read-only.
    """

    def __init__(self, owner: int) -> None:
        self._owner = owner

    def __enter__(self) -> None:
        self._bits = libc.call("prctl", _PR_GET_SECUREBITS, 0, 0, 0, 0, what="securebits")
        libc.call("prctl", _PR_SET_SECUREBITS, self._bits | _NO_SETUID_FIXUP, 0, 0, 0, what="securebits")
        self._set(self._owner)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._set(0)
        libc.call("prctl", _PR_SET_SECUREBITS, self._bits, 0, 0, 0, what="securebits")

    def _set(self, owner: int) -> None:
        # Of this thread only, which libc's functions promise as little; they return what it was before.
        libc.syscall("setfsgid", libc.NR_SETFSGID, owner, what=str(owner))
        libc.syscall("setfsuid", libc.NR_SETFSUID, owner, what=str(owner))


def _clear(scratch: str) -> None:
    """Each directory there has at most one mount on it."""
    for name in os.listdir(scratch):
        try:
            mount.umount(f"{scratch}/{name}", lazy=True)
        except KernelError as error:
            if error.errno != errno.EINVAL:  # nothing is mounted there yet
                raise
        os.rmdir(f"{scratch}/{name}")
    os.rmdir(scratch)
