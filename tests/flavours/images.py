# SPDX-License-Identifier: Apache-2.0
"""Images of Debian's packages, made by mmdebstrap from its mirror and kept in the cache. Used by conftest.py."""

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.fakes import sample, surroundings
from tests.fakes.debian_root import MMDEBSTRAP
from tests.fakes.oci_layout import Layer, file, tar
from tests.fakes.registry import Registry

CACHE = Path(os.environ.get("CLEARPOD_CACHE", "/var/cache/clearpod")) / "flavours"
ALWAYS = ("iproute2", "procps", "busybox-static")
PACKAGES = {
    "net": ("iptables", "nftables", "ipset", "wireguard-tools", "iputils-ping", "netcat-openbsd", "bpftool", "bindfs"),
    "podman": ("podman", "buildah", "fuse-overlayfs", "uidmap", "passt", "netavark", "nftables"),
    "docker": ("docker.io", "docker-cli", "iptables", "mount"),
    "work": ("git", "gcc", "libc6-dev", "make"),
    "programs": ("postgresql-17", "gunicorn", "sqlite3", "git"),
}
"""What each image has beyond Debian's essential packages."""
CAPABLE = {
    "podman": {
        "usr/bin/newuidmap": bytes.fromhex("0100000280000000000000000000000000000000"),
        "usr/bin/newgidmap": bytes.fromhex("0100000240000000000000000000000000000000"),
    }
}
"""Programs that a second layer replaces by themselves with file capabilities, CAP_SETUID and CAP_SETGID, as podman's
own image has them. Debian's are setuid, and write a map for another user only with CAP_SYS_ADMIN, which usual
containers lack.
"""
NOT_NEEDED = (
    *("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"),
    *("/usr/libexec/buildah/*", "/usr/libexec/podman/podman-testing"),
)
WITHOUT_JIT = ("/usr/lib/*/libLLVM.so.*", "/usr/lib/*/libz3.so.*", "/usr/lib/postgresql/*/lib/bitcode/*")
"""Half of what PostgreSQL would bring."""
NO_CLUSTER = (
    'mkdir -p "$1/etc/postgresql-common" &&'
    ' echo create_main_cluster = false > "$1/etc/postgresql-common/createcluster.conf"'
)
"""A database that the package would make is of no use to anybody."""
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def why_not() -> str:
    """What this host lacks to make them; empty when nothing."""
    return "" if shutil.which("mmdebstrap") else "needs mmdebstrap: apt install mmdebstrap"


def push(registry: Registry, name: str, place: Path) -> str:
    """The image's reference in the registry."""
    root = _root(name)
    layers = [Layer(root.read_bytes(), "zstd"), *_capable(root, CAPABLE.get(name, {}))]
    reference = sample.image(place, layers, Env=[PATH])
    return registry.push(reference, f"flavours/{name}:1")


def _capable(root: Path, programs: dict[str, bytes]) -> list[Layer]:
    """A layer with those programs of `root`, or none."""
    if not programs:
        return []
    with tarfile.open(root) as archive:
        files = {name: archive.extractfile(f"./{name}") for name in programs}
        entries = [
            file(name, data.read(), 0o755, xattrs=(("security.capability", programs[name]),))
            for name, data in files.items()
            if data is not None
        ]
    return [Layer(tar(entries), "zstd")]


def _root(name: str) -> Path:
    """A tar of the root."""
    packages = ",".join((*ALWAYS, *PACKAGES[name]))
    archive = CACHE / f"{name}-{hashlib.sha256(packages.encode()).hexdigest()[:12]}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        temporary = archive.with_name(f".{os.getpid()}.tar")
        lean = WITHOUT_JIT if name == "programs" else ()
        without = [f"--dpkgopt=path-exclude={pattern}" for pattern in (*NOT_NEEDED, *lean)]
        argv = [
            *MMDEBSTRAP,
            "--quiet",
            "--variant=essential",
            f"--include={packages}",
            *without,
            f"--essential-hook={NO_CLUSTER}",
            "trixie",
            str(temporary),
        ]
        try:
            subprocess.run(argv, stdin=subprocess.DEVNULL, check=True, env=dict(surroundings.AT_START))
            os.replace(temporary, archive)
        finally:
            temporary.unlink(missing_ok=True)
    return archive
