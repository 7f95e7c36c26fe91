# SPDX-License-Identifier: Apache-2.0
"""What the kernel keeps for pods and no process shows: mounts, and network namespaces with devices. For benchmarks."""

import subprocess
from pathlib import Path

from tests.bench.lib import footprint

NETWORKS = 20
SETTLE = "sync; sleep 1"


def mounts(pid: int, below: str) -> int:
    """How many mounts the process sees at and below this directory."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return sum(line.split()[4].startswith(below) for line in lines)


def mount_bytes() -> int:
    """Of one mount, as the slab allocator says; 0 when it does not."""
    try:
        lines = Path("/proc/slabinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[3]) for line in lines if line.startswith("mnt_cache ")), 0)


def network_kib(count: int = NETWORKS) -> float:
    """Kernel memory of a netns with one end of a veth, a tap and a filter on each, as pods have them."""
    names = [f"density-{number}" for number in range(count)]
    _quiet(SETTLE)
    before = footprint.host()["kernel"]
    try:
        for number, name in enumerate(names):
            _quiet(
                f"ip netns add {name} && ip link add dv{number} type veth peer name eth0 netns {name}"
                f" && ip -n {name} tuntap add tap0 mode tap && ip -n {name} link set eth0 up"
                f" && ip -n {name} link set tap0 up && ip -n {name} link set lo up"
            )
        _quiet(SETTLE)
        return round((footprint.host()["kernel"] - before) / count, 1)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=60)


def _quiet(command: str) -> None:
    subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=120)
