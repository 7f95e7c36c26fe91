# SPDX-License-Identifier: Apache-2.0
"""The guest's system image: Debian's crun, the libraries it needs, what makes it take bytes that are no UTF-8, and the
places where the agent mounts.

One read-only erofs, shared by all VMs. crun speaks to no systemd there, so a library that can do nothing stands in for
libsystemd, of which half of crun's start would be.
"""

import os
import shutil
from pathlib import Path

from lib import cache, stand_in, system, tools

CONTENT = system.Content(
    programs=("/usr/bin/crun",),
    directories=("proc", "sys", "dev", "run", "tmp", "root", "etc", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"),
    files={
        "etc/passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n",
        "etc/group": "root:x:0:\n",
        "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    },
)
BYTES, VOLUMES = "usr/lib/clearpod/bytes.so", "usr/lib/clearpod/volumes"
UUID = "c1ea7b0d-0000-4000-8000-000000000001"


SOURCE = Path(__file__).with_name("bytes.c")
COMPILE = ("gcc", "-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Os", "-g0", "-fPIC", "-shared", "-s")
LINK = ("-nostdlib", "-Wl,--build-id=none,-z,noexecstack,-z,relro,-z,now")
VOLUMES_SOURCE = SOURCE.parents[1] / "volumes"
AGENT_BASE = SOURCE.parents[1] / "agent" / "base"
ENDPOINT = AGENT_BASE.parent / "loop" / "endpoint.c"
VOLUMES_COMPILE = ("musl-gcc", *COMPILE[1:7], "-static", "-s")


def build(cache_dir: Path) -> Path:
    """The directory with system.erofs."""
    tools.need({"crun": "crun", **system.PROGRAMS})
    made = content(cache_dir)
    key = cache.hash_of([tools.package_version("crun"), *system.inputs(made), Path(__file__)])
    return cache.built(cache_dir, "guest", key, lambda out: system.make(made, out / "system.erofs", uuid=UUID))


def content(cache_dir: Path) -> system.Content:
    """All that is in it."""
    copies = {BYTES: _bytes(cache_dir) / "bytes.so", VOLUMES: _volumes(cache_dir) / "volumes"}
    functions = stand_in.wanted(Path(CONTENT.programs[0]), "LIBSYSTEMD_[0-9]+")
    return CONTENT._replace(copies=copies, stand_ins=stand_in.built(cache_dir, functions, library="libsystemd.so.0"))


def _bytes(cache_dir: Path) -> Path:
    """The directory with the library that is preloaded into crun."""
    tools.need({"gcc": "gcc"})
    key = cache.hash_of([tools.run(["gcc", "--version"]), *COMPILE, *LINK, SOURCE])
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    return cache.built(
        cache_dir,
        "guest-bytes",
        key,
        lambda out: tools.run([*COMPILE, SOURCE, *LINK, "-o", out / "bytes.so"], env=environment),
    )


def _volumes(cache_dir: Path) -> Path:
    """The directory with the program that makes volumes which the guest has itself."""
    tools.need({"musl-gcc": "musl-tools"})
    sources = [*sorted(VOLUMES_SOURCE.glob("*.c")), AGENT_BASE / "files.c", AGENT_BASE / "fault.c", ENDPOINT]
    versions = [tools.package_version("musl-tools"), tools.run(["musl-gcc", "--version"])]
    headers = [*sorted(VOLUMES_SOURCE.glob("*.h")), *sorted(AGENT_BASE.glob("*.h")), ENDPOINT.with_suffix(".h")]
    key = cache.hash_of([*versions, *VOLUMES_COMPILE, *sources, *headers])
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}

    def compile_into(out: Path) -> None:
        # musl-gcc sees only musl's headers; the kernel's come through links.
        kernel = out / "include"
        kernel.mkdir()
        for name in ("linux", "asm-generic"):
            (kernel / name).symlink_to(f"/usr/include/{name}")
        asm = (Path(f"/usr/include/{os.uname().machine}-linux-gnu/asm"), Path("/usr/include/asm"))
        (kernel / "asm").symlink_to(next(path for path in asm if path.exists()))
        include = [f"-I{VOLUMES_SOURCE}", f"-I{AGENT_BASE.parent}", "-isystem", kernel]
        tools.run([*VOLUMES_COMPILE, *include, *sources, "-o", out / "volumes"], env=environment)
        shutil.rmtree(kernel)

    return cache.built(cache_dir, "guest-volumes", key, compile_into)
