# SPDX-License-Identifier: Apache-2.0
"""The sample image: Debian's busybox in an OCI layout, so that a first pod needs no registry and no network."""

import shutil
from pathlib import Path

from lib import cache, tools
from lib.oci import File, Layout, tar

BUSYBOX = Path("/bin/busybox")
REF = "sample"
GREETING = 'echo "kernel  $(uname -srm)"; echo "user    $(id)"; echo "memory  $(head -n 1 /proc/meminfo)"'
FILES = (
    File("bin/", mode=0o755),
    File("dev/", mode=0o755),
    File("etc/", mode=0o755),
    File("home/", mode=0o755),
    File("proc/", mode=0o755),
    File("root/", mode=0o700),
    File("sys/", mode=0o755),
    File("tmp/", mode=0o1777),
    File("var/", mode=0o755),
    File("var/tmp/", mode=0o1777),
    File("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www:/var:/bin/false\n"
                       b"nobody:x:65534:65534:nobody:/:/bin/false\n"),
    File("etc/group", b"root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n"),
)  # fmt: skip
CONFIG = {"Env": ["PATH=/bin"], "Cmd": ["sh", "-c", GREETING], "WorkingDir": "/"}


def build(cache_dir: Path) -> Path:
    """The directory with the layout `sample`."""
    tools.need({"busybox": "busybox-static"})
    key = cache.hash_of([BUSYBOX, Path(__file__), Path(__file__).parent.parent / "lib" / "oci.py"])
    return cache.built(cache_dir, "sample", key, lambda out: _build(out / "sample"))


def layer() -> bytes:
    """The root file system as a tar: busybox once, its applets as hard links."""
    names = tools.run([BUSYBOX, "--list"]).split()
    links = [File(f"bin/{name}", mode=0o755, link="bin/busybox", hard=True) for name in names if name != "busybox"]
    return tar([*FILES, File("bin/busybox", BUSYBOX.read_bytes(), 0o755), *links])


def _build(directory: Path) -> None:
    try:
        Layout(directory).add(REF, [layer()], CONFIG)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
