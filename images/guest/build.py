# SPDX-License-Identifier: Apache-2.0
"""The guest's system image: Debian's crun, the libraries it needs, and the places where the agent mounts.

One read-only erofs, shared by all VMs.
"""

from pathlib import Path

from lib import cache, system, tools

CONTENT = system.Content(
    programs=("/usr/bin/crun",),
    directories=("proc", "sys", "dev", "run", "tmp", "root", "etc", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"),
    files={
        "etc/passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n",
        "etc/group": "root:x:0:\n",
        "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    },
)
UUID = "c1ea7b0d-0000-4000-8000-000000000001"


def build(cache_dir: Path) -> Path:
    """The directory with system.erofs."""
    tools.need({"crun": "crun", **system.PROGRAMS})
    key = cache.hash_of([tools.package_version("crun"), *system.inputs(CONTENT), Path(__file__)])
    return cache.built(cache_dir, "guest", key, lambda out: system.make(CONTENT, out / "system.erofs", uuid=UUID))
