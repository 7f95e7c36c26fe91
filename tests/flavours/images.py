# SPDX-License-Identifier: Apache-2.0
"""Images of Debian's packages, made by mmdebstrap from its mirror and kept in the cache. Used by conftest.py."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.fakes import sample
from tests.fakes.oci_layout import Layer
from tests.fakes.registry import Registry

CACHE = Path(os.environ.get("CLEARPOD_CACHE", "/var/cache/clearpod")) / "flavours"
ALWAYS = ("iproute2", "procps", "busybox-static")
PACKAGES = {
    "net": ("iptables", "nftables", "wireguard-tools", "iputils-ping", "netcat-openbsd", "bpftool", "bindfs"),
    "engines": (
        "podman",
        "buildah",
        "docker.io",
        "docker-cli",
        "fuse-overlayfs",
        "uidmap",
        "passt",
        "netavark",
        "iptables",
    ),
    "work": ("git", "gcc", "libc6-dev", "make"),
}
"""What each image has beyond Debian's essential packages."""
NOT_NEEDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def why_not() -> str:
    """What this host lacks to make them; empty when nothing."""
    return "" if shutil.which("mmdebstrap") else "needs mmdebstrap: apt install mmdebstrap"


def push(registry: Registry, name: str, place: Path) -> str:
    """The image's reference in the registry."""
    reference = sample.image(place, [Layer(_root(name).read_bytes(), "zstd")], Env=[PATH])
    return registry.push(reference, f"flavours/{name}:1")


def _root(name: str) -> Path:
    """A tar of the root."""
    packages = ",".join((*ALWAYS, *PACKAGES[name]))
    archive = CACHE / f"{name}-{hashlib.sha256(packages.encode()).hexdigest()[:12]}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        beside = archive.with_name(f".{os.getpid()}.tar")
        without = [f"--dpkgopt=path-exclude={pattern}" for pattern in NOT_NEEDED]
        argv = [
            "mmdebstrap",
            "--quiet",
            "--variant=essential",
            f"--include={packages}",
            *without,
            "trixie",
            str(beside),
        ]
        try:
            subprocess.run(argv, stdin=subprocess.DEVNULL, check=True)
            os.replace(beside, archive)
        finally:
            beside.unlink(missing_ok=True)
    return archive
