# SPDX-License-Identifier: Apache-2.0
"""A clean Debian 13 in a directory, whose programs run in namespaces of their own, without what this machine has.

The bare root is made by mmdebstrap from this machine's mirror, once, and kept in the cache. For the test of packages.
"""

import os
import shutil
import subprocess
from pathlib import Path

from tests.fakes import surroundings
from tests.fakes.patience import PATIENCE

CACHE = Path(os.environ.get("CLEARPOD_CACHE", "/var/cache/clearpod")) / "debian-root"
ENTER = """
set -e
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount --rbind /sys "$0/sys"
mount --rbind /dev "$0/dev"
mount -t tmpfs tmpfs "$0/run"
cd "$0"
pivot_root . mnt
umount -l /mnt
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 bash -euc "$1"
"""


MMDEBSTRAP = ("unshare", "--mount", "--propagation", "private", "mmdebstrap")
"""As root it makes all mounts of its namespace private: pods that run would see no image that is mounted later."""


def why_not() -> str:
    """What a host lacks for this; empty when nothing. A mirror that can't be reached shows only in make()."""
    if os.geteuid() != 0:
        return "needs root"
    return "" if shutil.which("mmdebstrap") else "needs mmdebstrap: apt install mmdebstrap"


def make(place: Path) -> str:
    """Unpack a bare Debian 13 to `place`; why there is none, empty when there is."""
    archive = CACHE / "trixie.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        temporary = archive.with_name(f".{os.getpid()}.tar")
        argv = ["--quiet", "--variant=minbase", "--include=ca-certificates", "trixie", str(temporary)]
        env = dict(surroundings.AT_START)
        made = subprocess.run([*MMDEBSTRAP, *argv], stdin=subprocess.DEVNULL, env=env, capture_output=True, text=True)
        if made.returncode:
            temporary.unlink(missing_ok=True)
            return f"mmdebstrap makes no Debian 13: {made.stderr.strip().splitlines()[-1:]}"
        os.replace(temporary, archive)
    place.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", place], check=True)
    for name in ("etc/resolv.conf", "etc/hosts"):
        shutil.copy(f"/{name}", place / name)
    (place / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")  # nobody needs it after a power cut
    shutil.copytree("/etc/apt/apt.conf.d", place / "etc/apt/apt.conf.d", dirs_exist_ok=True)
    return ""


def run(place: Path, script: str) -> "subprocess.CompletedProcess[str]":
    """Run a script of bash in there, as PID 1 of namespaces that end with it."""
    spaces = ["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    argv = ["unshare", *spaces, "sh", "-c", ENTER, str(place), script]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600 * PATIENCE)
