# SPDX-License-Identifier: Apache-2.0
"""Debian's cloud kernel, taken from its package into the cache once. Installs nothing.

The lab boots it, and the boot benchmark compares with it.
"""

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.fakes.builders import cache

PACKAGE = "linux-image-cloud-amd64"
KIND = "debian-kernel"


class DebianKernel(NamedTuple):
    """A kernel image and the directory of its modules (which has `kernel/` and the modules.* lists)."""

    image: Path
    modules: Path


def default_cache() -> Path:
    """Where things are kept that are fetched or built once per machine."""
    return Path(os.environ.get("CLEARPOD_CACHE", "/var/cache/clearpod"))


def debian_kernel(cache_dir: Path) -> DebianKernel:
    """The kernel, downloaded on first use. Raises cache.BuildFailed."""
    package = newest(run(["apt-cache", "depends", PACKAGE]))
    place = cache.built(cache_dir, KIND, package, lambda into: unpack(package, into))
    return DebianKernel(next((place / "boot").glob("vmlinuz-*")), next((place / "usr/lib/modules").iterdir()))


def newest(depends: str) -> str:
    """The real package behind the meta package, from the output of `apt-cache depends`. Pure."""
    match = re.search(r"Depends: (linux-image-\S+)", depends)
    return match[1] if match else PACKAGE


def unpack(package: str, into: Path) -> None:
    """Download a Debian package and unpack it; nothing else is left in the directory."""
    cache.say(f"fetching {package} from Debian")
    run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package], cwd=into)
    deb = next(into.glob("*.deb"))
    run(["dpkg-deb", "-x", str(deb), str(into)])
    deb.unlink()


def need_dependencies(modules: Path) -> None:
    """Write modules.dep, which the package leaves to its installation, unless it is there."""
    base, done = modules.parent.parent.parent, modules / ".depmod-done"
    with open(base.parent / "depmod.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            run(["depmod", "-b", str(base), modules.name])
            done.touch()


def run(argv: list[str], cwd: Path | None = None) -> str:
    """Standard output of a program that must succeed. Raises cache.BuildFailed with its errors."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**os.environ, "PATH": path}
        )
    except FileNotFoundError:
        raise cache.BuildFailed(f"there is no {argv[0]} here, and Debian's kernel needs it") from None
    if done.returncode:
        raise cache.BuildFailed(f"{' '.join(argv)} failed with exit status {done.returncode}: {done.stderr.strip()}")
    print(done.stderr, end="", file=sys.stderr)
    return done.stdout
