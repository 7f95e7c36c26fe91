# SPDX-License-Identifier: Apache-2.0
"""A program of `clearpod check`: mounts an erofs from a file, and an overlay on it, in a mount namespace of its own.

Prints {"erofs": why not, "overlay": why not} as JSON, empty strings when they work. All that it makes ends
with it.
"""

import json
import os
import sys
from collections.abc import Callable

from stage1.errors import PodError
from stage1.linux import files, libc, mount, namespace, process

_SCRATCH = "/tmp"


def main() -> int:
    """Try both; the reasons go to standard output."""
    print(json.dumps(try_mounts(sys.argv[1])))
    return 0


def try_mounts(directory: str) -> dict[str, str]:
    """Why each of the two can't be mounted; the erofs from a nameless file in `directory`."""
    try:
        with libc.Guard("open", directory):
            # Opened before our tmpfs hides it. A tmpfs would not do: erofs wants a file system on a disk.
            image = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        namespace.unshare(namespace.NEW_NS)
        mount.set_propagation("/", mount.MS_PRIVATE | mount.MS_REC)
        mount.mount("room", _SCRATCH, "tmpfs")
        for name in ("lower", "upper", "work", "merged"):
            files.make_dirs(f"{_SCRATCH}/{name}", 0o755)
        return {"erofs": _reason(lambda: _erofs(image)), "overlay": _reason(_overlay)}
    except PodError as error:
        return dict.fromkeys(("erofs", "overlay"), str(error))


def _reason(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except PodError as error:
        return str(error)
    return ""


def _erofs(image: int) -> None:
    files.write_atomic(f"{_SCRATCH}/upper/file", b"x")
    made = process.run(["mkfs.erofs", "--quiet", f"{_SCRATCH}/image", f"{_SCRATCH}/upper"], timeout_s=10)
    if made.code != 0:
        raise PodError(f"mkfs.erofs failed: {made.stderr.decode(errors='replace').strip()}")
    with libc.Guard("write", "an erofs image"):
        os.write(image, files.read(f"{_SCRATCH}/image"))
    mount.mount(f"/proc/self/fd/{image}", f"{_SCRATCH}/lower", "erofs", mount.MS_RDONLY)


def _overlay() -> None:
    data = f"lowerdir={_SCRATCH}/lower,upperdir={_SCRATCH}/upper,workdir={_SCRATCH}/work"
    mount.mount("overlay", f"{_SCRATCH}/merged", "overlay", 0, data)


if __name__ == "__main__":
    sys.exit(main())
