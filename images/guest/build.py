# SPDX-License-Identifier: Apache-2.0
"""The guest's system image: Debian's crun, the libraries it needs, and the places where the agent mounts.

One read-only erofs, shared by all VMs. Not compressed and with nothing stored inline, so that it can be used by DAX.
"""

import os
import shutil
from pathlib import Path

from lib import cache, elf, tools

PROGRAMS = ("/usr/bin/crun",)
DIRECTORIES = ("proc", "sys", "dev", "run", "tmp", "root", "etc", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64")
MERGED = ("bin", "sbin", "lib", "lib64")
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
}
UUID = "c1ea7b0d-0000-4000-8000-000000000001"
DAX_ALIGNMENT = 2 << 20
"""Bytes; a DAX mapping is made in huge pages where the image's length allows it."""


def build(cache_dir: Path) -> Path:
    """The directory with system.erofs."""
    tools.need({"crun": "crun", "mkfs.erofs": "erofs-utils", "ldd": "libc-bin"})
    files = [*PROGRAMS, *_libraries()]
    versions = [tools.package_version(name) for name in ("crun", "erofs-utils")]
    key = cache.hash_of([*versions, *files, *(Path(name) for name in files), Path(__file__)])
    return cache.built(cache_dir, "guest", key, _build)


def _libraries() -> list[str]:
    """What the programs load, and the loader."""
    return [str(path) for path in elf.libraries(map(Path, PROGRAMS))]


def _build(out: Path) -> None:
    root = out / "root"
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in MERGED:
        (root / name).symlink_to(f"usr/{name}")
    for name, text in FILES.items():
        (root / name).write_text(text)
    for name in (*PROGRAMS, *_libraries()):
        _copy(name, root)
    _fix_modes(root)
    image = out / "system.erofs"
    tools.run(["mkfs.erofs", "--quiet", "-Enoinline_data", "-T0", "--all-root", "-U", UUID, image, root])
    os.truncate(image, -(-image.stat().st_size // DAX_ALIGNMENT) * DAX_ALIGNMENT)
    shutil.rmtree(root)


def _copy(name: str, root: Path) -> None:
    """A merged /usr on both sides: /lib/x and /usr/lib/x are the same place."""
    inside = name.lstrip("/")
    target = root / (inside if inside.startswith("usr/") else f"usr/{inside}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(name, target)
    target.chmod(0o755)


def _fix_modes(root: Path) -> None:
    """Whatever the umask was."""
    for path in (root, *root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        elif path.is_file() and not path.is_symlink():
            path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
