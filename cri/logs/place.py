# SPDX-License-Identifier: Apache-2.0
"""Where a log file is, and opening it there: blocking, so never called on the event loop. Used by the writer;
`remove_orphans` removes the logs of detached pods.

The sandbox's log directory is the kubelet's and may be reached through links. Below it, pods can write that mount it:
nothing there is followed, waited for, or written if it is more than a log.
"""

import os
import shutil
from collections.abc import Collection

from stage1.linux import beneath, files
from stage1.linux.files import NotPlain
from stage1.linux.libc import Guard

DETACHED_LOGS = "run-logs"
"""The directory below the state directory with a directory of logs for each pod of `clearpod run --detach`."""
_FLAGS = os.O_WRONLY | os.O_APPEND
_MODE = 0o640
_MOST_NAMES = 65536


class LogPlace:
    """The file `path`, which is below `directory`; false without a path. A path elsewhere has its own directory."""

    def __init__(self, path: str, directory: str) -> None:
        self.path = path
        root = directory.rstrip("/")
        if not root or not path.startswith(f"{root}/"):
            root = os.path.dirname(path)
        self._root, self._name = root, path[len(root) + 1 :]

    def __bool__(self) -> bool:
        return bool(self.path)

    def open(self, *, is_new: bool = False) -> int:
        """A descriptor for appending; makes the file, which it does first if it `is_new` as far as is known, and
        directories. Raises NotPlain, NoSpace, KernelError.
        """
        files.make_dirs(self._root, 0o755)
        with beneath.Root(self._root) as root:
            if above := os.path.dirname(self._name):
                root.make_directories(above, 0o755)
            fd = root.open_or_make(self._name, _FLAGS, mode=_MODE, is_new=is_new)
        try:
            _require_one_name(fd, self.path)
            with Guard("chmod", self.path):
                os.fchmod(fd, _MODE)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def cut_renamed(self, inode: int, size: int) -> None:
        """Cut the file with that inode number to `size` bytes if it was renamed: what it has beyond was not committed,
        and comes again. Fine when it is not there.
        """
        above, name = os.path.split(self._name)
        try:
            with beneath.Root(self._root) as root:
                for one in root.names(above or ".", most=_MOST_NAMES):
                    if one.startswith(name) and one != name:
                        _cut(root, os.path.join(above, one), inode=inode, size=size)
        except FileNotFoundError:
            return


def remove_orphans(state_dir: str, known: Collection[str]) -> None:
    """Remove the logs of detached pods that are gone; `known` are the uids of those that are not."""
    logs = f"{state_dir}/{DETACHED_LOGS}"
    for uid in os.listdir(logs) if os.path.isdir(logs) else ():
        if uid not in known:
            shutil.rmtree(f"{logs}/{uid}", ignore_errors=True)


def _cut(root: beneath.Root, path: str, *, inode: int, size: int) -> None:
    status = root.stat(path)
    if status is None or status.st_ino != inode or status.st_size <= size:
        return
    try:
        fd = root.open(path, os.O_WRONLY)
    except (NotPlain, FileNotFoundError):
        return
    try:
        if os.fstat(fd).st_ino == inode and os.fstat(fd).st_nlink == 1:
            with Guard("truncate", path):
                os.ftruncate(fd, size)
    finally:
        os.close(fd)


def _require_one_name(fd: int, path: str) -> None:
    """Otherwise another file of the host could have been linked here, for us to write to."""
    if (names := os.fstat(fd).st_nlink) > 1:
        raise NotPlain(path, f"has {names} hard links, and a log file may have only one")
