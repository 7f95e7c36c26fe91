# SPDX-License-Identifier: Apache-2.0
"""The filters of system calls for VMMs, made by libseccomp from the lists in this folder.

The bytes depend on the lists, on libseccomp and on the kernel's headers, and on nothing of the machine.
"""

from pathlib import Path

from lib import cache, tools

SOURCE = Path(__file__).parent
NAMES = ("seccomp-qemu.bpf", "seccomp-kvmtool.bpf", "seccomp-volumes.bpf")
"""What a guest's directory gets: struct sock_filter[], as the kernel takes it."""


def inputs() -> list[str | Path]:
    """What the bytes depend on; for builders that put a filter into their own program. Raises BuildFailed."""
    tools.need({"make": "make", "gcc": "gcc"}, {"/usr/include/seccomp.h": "libseccomp-dev"})
    versions = [tools.package_version(name) for name in ("libseccomp-dev", "linux-libc-dev")]
    return [*versions, tools.run(["gcc", "--version"]), SOURCE]


def build(cache_dir: Path) -> Path:
    """The directory with the filters, and each also as text (NAME.pfc)."""
    return cache.built(cache_dir, "seccomp", cache.hash_of(inputs()), lambda out: tools.make(SOURCE, out))
