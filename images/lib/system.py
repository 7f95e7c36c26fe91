# SPDX-License-Identifier: Apache-2.0
"""A guest's read-only root as an erofs: programs of this machine, the libraries they need, and a few files.

Used by the builders of system images. Not compressed and with nothing stored inline, so that it can be used by DAX.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from lib import cache, elf, tools

MERGED = ("bin", "sbin", "lib", "lib64")
DAX_ALIGNMENT = 2 << 20
"""Bytes; a DAX mapping is made in huge pages where the image's length allows it."""
PROGRAMS = {"mkfs.erofs": "erofs-utils", "ldd": "libc-bin"}
"""What it takes to make one."""


class Content(NamedTuple):
    """What is in it. `copies` are files from elsewhere, `links` symbolic; all by their place below the root. In the
    directory `stand_ins` are libraries in place of those that have their names.
    """

    programs: tuple[str, ...]
    directories: tuple[str, ...]
    files: Mapping[str, str]
    copies: Mapping[str, Path] = {}
    links: Mapping[str, str] = {}
    stand_ins: Path | None = None


def inputs(content: Content) -> list[str | Path]:
    """What the image is made from, for a hash."""
    texts = [f"{name}={text}" for part in (content.files, content.links) for name, text in sorted(part.items())]
    copies = [part for name, path in sorted(content.copies.items()) for part in (name, path)]
    programs = [part for name, path in sorted(_programs(content).items()) for part in (name, path)]
    return [tools.package_version("erofs-utils"), *content.directories, *texts, *copies, *programs, Path(__file__)]


def make(content: Content, image: Path, *, uuid: str) -> None:
    """Write the image; its directory is used for the work. Raises BuildFailed."""
    root = image.parent / "root"
    for name in content.directories:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in MERGED:
        (root / name).symlink_to(f"usr/{name}")
    for name, text in content.files.items():
        (root / name).write_text(text)
    for name, path in _programs(content).items():
        _copy(path, root / name, mode=0o755)
    for name, path in content.copies.items():
        _copy(path, root / name, mode=0o755 if os.access(path, os.X_OK) else 0o644)
    for name, target in content.links.items():
        (root / name).symlink_to(target)
    _fix_modes((root, *root.rglob("*")))
    tools.run(["mkfs.erofs", "--quiet", "-Enoinline_data", "-T0", "--all-root", "-U", uuid, image, root])
    os.truncate(image, -(-image.stat().st_size // DAX_ALIGNMENT) * DAX_ALIGNMENT)
    shutil.rmtree(root)


def _programs(content: Content) -> dict[str, Path]:
    """With what they load, and the loader, by their place. Raises BuildFailed for one that is not there."""
    for name in content.programs:
        if not os.path.exists(name):
            raise cache.BuildFailed(f"{name} is missing")
    libraries = elf.libraries(map(Path, content.programs), first=content.stand_ins)
    beside = next(path.parent for path in libraries if path.name.startswith("libc."))
    moved = {path: beside / path.name for path in libraries if path.parent == content.stand_ins}
    return {_inside(str(moved.get(path, path))): path for path in (*map(Path, content.programs), *libraries)}


def _inside(name: str) -> str:
    """A merged /usr on both sides: /lib/x and /usr/lib/x are the same place."""
    inside = name.lstrip("/")
    return inside if inside.startswith("usr/") else f"usr/{inside}"


def _copy(source: Path, target: Path, *, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def _fix_modes(paths: Iterable[Path]) -> None:
    """Whatever the umask was."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
        elif path.is_file() and not path.is_symlink():
            path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
