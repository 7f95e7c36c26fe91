# SPDX-License-Identifier: Apache-2.0
"""System images with the modules of a variant of the kernel: everything of another system image, the modules, their
index, and what the kernel starts to load one (modprobe.c). docs/design/kernel.md

The modules are made with their kernel: lines of images/kernel/variants/NAME.toml put them beside it.
"""

import os
from pathlib import Path

from lib import cache, modules, system, tools

SOURCE = Path(__file__).with_name("modprobe.c")
COMPILE = ("musl-gcc", "-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Os", "-g0", "-static", "-s")
PLACE = "usr/lib/clearpod"
INDEX = Path(modules.__file__)


def build(cache_dir: Path, made: Path, *, variant: str, profiles: dict[str, tuple[system.Content, str]]) -> list[Path]:
    """For each profile, of this content and UUID, an image named system-[PROFILE-]VARIANT.erofs; `made` are modules."""
    tools.need({"musl-gcc": "musl-tools", "objcopy": "binutils", **system.PROGRAMS})
    more = _copies(cache_dir, made)
    return [
        _image(cache_dir, content._replace(copies={**content.copies, **more}), _name(profile, variant), uuid)
        for profile, (content, uuid) in profiles.items()
    ]


def _name(profile: str, variant: str) -> str:
    return "-".join(word for word in ("system", profile, variant) if word) + ".erofs"


def _image(cache_dir: Path, content: system.Content, name: str, uuid: str) -> Path:
    key = cache.hash_of([*system.inputs(content), Path(__file__)])
    make = lambda out: system.make(content, out / name, uuid=uuid)  # noqa: E731
    return cache.built(cache_dir, f"guest-{Path(name).stem}", key, make) / name


def _copies(cache_dir: Path, made: Path) -> dict[str, Path]:
    """Place in the image to file: the program, the index and the modules."""
    files = {modules.normalised(path.stem): path for path in sorted(made.glob("*.ko"))}
    if not files:
        raise cache.BuildFailed(f"the kernel that has modules left none in {made}; look at its lines in images/kernel")
    return {
        f"{PLACE}/modprobe": _modprobe(cache_dir) / "modprobe",
        f"{PLACE}/modules/index": _index(cache_dir, files) / "index",
        **{f"{PLACE}/modules/{name}.ko": path for name, path in files.items()},
    }


def _index(cache_dir: Path, files: dict[str, Path]) -> Path:
    def write(out: Path) -> None:
        work = out / "modinfo"
        (out / "index").write_text(modules.index(modules.read(path, work) for path in files.values()))
        work.unlink()

    return cache.built(cache_dir, "modules-index", cache.hash_of([*files.values(), INDEX]), write)


def _modprobe(cache_dir: Path) -> Path:
    """The directory with the program."""
    versions = [tools.package_version("musl-tools"), tools.run(["musl-gcc", "--version"])]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    return cache.built(
        cache_dir,
        "guest-modprobe",
        cache.hash_of([*versions, *COMPILE, SOURCE]),
        lambda out: tools.run([*COMPILE, SOURCE, "-o", out / "modprobe"], env=environment),
    )
