# SPDX-License-Identifier: Apache-2.0
"""Looking into an app's root as the app would: symbolic links, absolute ones too, never lead out of it.

Called by plan. Reads only. An app may run meanwhile and change its root, so a file is opened only once it is known to
be a plain one: to open a device can be an act.
"""

import errno
import os
import stat

from stage1.errors import BadRequest, KernelError
from stage1.linux import in_root

_MOST_BYTES = 1 << 24
"""Of an image's passwd or group file."""


def status(root: str, path: str, *, follow: bool = True) -> os.stat_result | None:
    """The status of `path` below `root`; None if it does not exist, or is out of reach."""
    flags = os.O_PATH | (0 if follow else os.O_NOFOLLOW)
    try:
        fd = in_root.open_path(root, path, flags=flags)
    except KernelError:
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def is_loop(root: str, path: str) -> bool:
    """Whether nothing is at `path` below `root` because its symbolic links lead in a circle."""
    try:
        os.close(in_root.open_path(root, path, flags=os.O_PATH))
    except KernelError as error:
        return error.errno == errno.ELOOP
    return False


def text(root: str, path: str) -> str:
    """The content of the file at `path` below `root`; empty when there is no plain file. Raises BadRequest if huge."""
    try:
        content = in_root.read(root, path, most=_MOST_BYTES + 1)
    except KernelError:
        return ""
    if len(content) > _MOST_BYTES:
        raise BadRequest(f"{path} of the image is larger than {_MOST_BYTES >> 20} MiB; it can't be read")
    return content.decode("utf-8", "replace")


def executable(root: str, name: str, *, cwd: str, path: str) -> str:
    """The absolute path by which the app's command `name` is started; a bare name that is nowhere as it is.

    A path with a slash is taken as it is, below `cwd` if relative; a bare name is looked for along `path`, and without
    that in `cwd`, /bin and /usr/bin.
    """
    if "/" in name:
        return os.path.normpath(os.path.join(cwd, name)) if not name.startswith("/") else name
    places = [os.path.join(cwd, place) for place in path.split(":") if place] or [cwd, "/bin", "/usr/bin"]
    for place in places:
        entry = status(root, f"{place}/{name}")
        if entry and stat.S_ISREG(entry.st_mode) and entry.st_mode & 0o111:
            return os.path.join(place, name)
    return name
