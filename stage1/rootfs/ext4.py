# SPDX-License-Identifier: Apache-2.0
"""An empty ext4, by mkfs.ext4. Used by `scratch` and `parted`."""

import errno
import os
from collections.abc import Sequence

from stage1.errors import KernelError, NoSpace, NotFound, PodError
from stage1.linux import host, process

_OPTIONS = ("-q", "-F", "-m", "0")
"""No reserved blocks: the size is the quota."""


def make(path: str, options: Sequence[str], *, what: str, size: str = "") -> None:
    """Make it in the file, of `size` (as mkfs.ext4 takes it), else as large as the file is. `what` it is for people.
    Raises NoSpace, NotFound (no such program), PodError with what mkfs.ext4 wrote, KernelError.
    """
    argv = [host.which("mkfs.ext4") or "mkfs.ext4", *_OPTIONS, *options, path, *([size] if size else [])]
    try:
        result = process.run(argv, timeout_s=60)
    except KernelError as error:
        if error.errno == errno.ENOENT:
            raise NotFound("there is no mkfs.ext4 program; install e2fsprogs") from None
        raise
    if result.code != 0:
        reason = result.stderr.decode("utf-8", "replace").strip() or f"exit status {result.code}"
        kind = NoSpace if os.strerror(errno.ENOSPC) in reason else PodError
        raise kind(f"mkfs.ext4 could not make {what}: {reason}")
