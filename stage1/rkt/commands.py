# SPDX-License-Identifier: Apache-2.0
"""Whether a command of an app can be run at all, found out before its VM starts. Called by stage1/entry.

Only what is certain counts: a command or a working directory in a volume, or what a handler may make first, is left to
the guest. Reads the app's root and changes nothing.
"""

import os
import stat
import struct

from stage1.errors import KernelError, NoCommand, NoDirectory, NotExecutable
from stage1.linux import in_root
from stage1.pod.model import Container
from stage1.rkt import inside
from stage1.rkt.loader import App, RktPod

_HEAD_BYTES = 4096
_KERNELS = ("/proc", "/sys", "/dev")
_ELF, _SHEBANG = b"\x7fELF", b"#!"
_MOST_INTERPRETERS = 5
"""The longest chain of interpreters that are scripts themselves."""
_BITS_32, _KINDS, _X86_64, _ENTRY_BYTES, _PT_INTERP = 1, (2, 3), 62, 56, 3


def check(pod: RktPod) -> None:
    """Raises NoCommand, NotExecutable, NoDirectory: why the first app, or its pre-start, can't be run."""
    for app in pod.apps:
        first = app.pre_start or app.container  # what it leaves behind may be the command
        try:
            if why := _why_not(app, first):
                raise type(why)(f"app {app.name!r}: {why}")
        except KernelError:
            continue  # it can't be read here; the guest will report it


def _why_not(app: App, one: Container) -> NoCommand | None:
    command, covered = one.process.argv[0], tuple(os.path.normpath(mount.target) for mount in one.mounts)
    if not _has_directory(app.root, one.process.cwd, covered=covered):
        return NoDirectory(f"there is no directory {one.process.cwd!r} to work in; make it in the image")
    if "/" not in command:
        return NoCommand(f"the command {command!r} is not on the PATH of its image; give its whole path")
    if not _is_the_roots(app.root, command, covered=covered):
        return None
    status = inside.status(app.root, command)
    if status is None:
        return _absent(app.root, command, what=f"the command {command!r}")
    return _odd(app.root, command, mode=status.st_mode, covered=covered)


def _has_directory(root: str, path: str, *, covered: tuple[str, ...]) -> bool:
    """Whether there may be such a directory when the app starts. The guest would make it, where systemd does not."""
    path = os.path.normpath(path)
    if path == "/" or any(one.startswith(f"{path}/") for one in covered):
        return True
    if not _is_the_roots(root, path, covered=covered):
        return True
    status = inside.status(root, path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def _is_the_roots(root: str, path: str, *, covered: tuple[str, ...]) -> bool:
    """Whether what is at `path` is certainly the root's own. What is below a mount is not, nor a link with mounts
    anywhere, since it may lead there.
    """
    at = ""
    for name in os.path.normpath(path).split("/")[1:]:
        at = f"{at}/{name}"
        if at in _KERNELS or at in covered or (covered and _is_link(root, at)):
            return False
    return True


def _is_link(root: str, path: str) -> bool:
    status = inside.status(root, path, follow=False)
    return status is not None and stat.S_ISLNK(status.st_mode)


def _odd(root: str, command: str, *, mode: int, covered: tuple[str, ...]) -> NoCommand | None:
    """Why the command or its chain of interpreters can't be executed, followed as the kernel does."""
    program, what = command, f"the command {command!r}"
    for _ in range(_MOST_INTERPRETERS + 1):
        head = in_root.read(root, program, most=_HEAD_BYTES) if stat.S_ISREG(mode) and mode & 0o111 else b""
        if why := _unfit(head, mode):
            return NotExecutable(f"{what} {why}")
        needed = _interpreter(head)
        if not (needed.startswith("/") and _is_the_roots(root, needed, covered=covered)):
            return None
        status = inside.status(root, needed)
        if status is None:
            return _absent(root, needed, what=f"the command {command!r} needs {needed!r}, which")
        if not head.startswith(_SHEBANG):
            return None
        program, mode, what = needed, status.st_mode, f"the command {command!r} needs {needed!r}, which"
    return NotExecutable(
        f"the command {command!r} is a script whose interpreters are scripts, {_MOST_INTERPRETERS} and more"
    )


def _absent(root: str, path: str, *, what: str) -> NoCommand:
    """The error for a missing file at `path`, or for a loop of symbolic links, which bash distinguishes too."""
    if inside.is_loop(root, path):
        return NotExecutable(f"{what} is a loop of symbolic links")
    return NoCommand(f"{what} is not in its image")


def _unfit(head: bytes, mode: int) -> str:
    """Why the kernel would not execute the file, from its first bytes and its mode; empty: it would."""
    if not stat.S_ISREG(mode):
        return f"is {'a directory' if stat.S_ISDIR(mode) else 'no regular file'}; give the path of a program"
    if not mode & 0o111:
        return "is not executable; set its mode in the image"
    if head.startswith(_SHEBANG):
        return "" if _interpreter(head) else "names no interpreter behind #!"
    return "" if _is_program(head) else "is neither a program for this machine nor begins with #!"


def _is_program(head: bytes) -> bool:
    """Whether the kernel would take it for one, by its ELF header."""
    try:
        kind, machine = struct.unpack_from("<HH", head, 16)
        size, count = struct.unpack_from("<HH", head, 54)
    except struct.error:
        return False
    if not head.startswith(_ELF) or kind not in _KINDS:
        return False
    return head[4] == _BITS_32 or (machine == _X86_64 and size == _ENTRY_BYTES and count > 0)


def _interpreter(head: bytes) -> str:
    """The interpreter of a script, or of a dynamic program, from its first bytes; empty: none."""
    if head.startswith(_SHEBANG):
        line = head[len(_SHEBANG) :].partition(b"\n")[0].partition(b"\0")[0]
        return os.fsdecode(line.replace(b"\t", b" ").strip(b" ").partition(b" ")[0])  # a \r is the name's
    if head[4] == _BITS_32:
        return ""
    try:
        (table,), (size, count) = struct.unpack_from("<Q", head, 32), struct.unpack_from("<HH", head, 54)
        for number in range(count):
            kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", head, table + number * size)
            if kind == _PT_INTERP:
                return os.fsdecode(head[offset : offset + length].partition(b"\0")[0])
    except struct.error:
        pass
    return ""
