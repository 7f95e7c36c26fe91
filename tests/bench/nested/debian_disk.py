# SPDX-License-Identifier: Apache-2.0
"""The disk of the traditional guest: Debian with systemd, installed by debootstrap from Debian's packages.

Called by machine.py. Made once per machine, in the cache. What is not needed to boot (documents, translations) is left
out, and the unit that writes the mark is added.
"""

import os
import shutil
from pathlib import Path

from stage1.linux.host import which
from tests.bench.nested import files
from tests.fakes.builders import cache
from tests.lab.debian_kernel import run

SUITE = "trixie"
PACKAGES = "systemd-sysv,udev,dbus"
LEFT_OUT = tuple("usr/share/doc usr/share/man usr/share/locale usr/share/i18n var/cache/apt var/lib/apt/lists".split())
DISK_MIB = 320
UNIT = """[Unit]
Description=Tell the benchmark that the default target is reached
DefaultDependencies=no
After=graphical.target
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/mark ready
"""


def debian_disk(cache_dir: Path) -> Path:
    """An ext4 image of Debian with systemd and nothing that is not needed for it; made once per machine.

    Raises cache.BuildFailed.
    """
    key = cache.hash_of([SUITE, PACKAGES, Path(__file__), files.HERE / "debian.c", files.HERE / "stage.h"])
    return cache.built(cache_dir, "debian-disk", key, _build_disk) / "debian.ext4"


def _build_disk(out: Path) -> None:
    cache.say(f"installing Debian {SUITE} with systemd into an image (minutes, once per machine)")
    root = out / "root"
    run([which("debootstrap"), "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)])
    for name in LEFT_OUT:
        shutil.rmtree(root / name, ignore_errors=True)
    mark = root / "usr/local/sbin/mark"
    mark.write_bytes(files.compiled("debian.c", out))
    mark.chmod(0o755)
    (root / "etc/systemd/system/clearpod-mark.service").write_text(UNIT)
    wants = root / "etc/systemd/system/graphical.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "clearpod-mark.service").symlink_to("../clearpod-mark.service")
    (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    (root / "etc/machine-id").write_text("00000000000000000000000000000c1e\n")
    disk = out / "debian.ext4"
    disk.touch()
    os.truncate(disk, DISK_MIB << 20)
    run([which("mkfs.ext4"), "-q", "-O", "^has_journal", "-d", str(root), str(disk)])
    shutil.rmtree(root)
