# SPDX-License-Identifier: Apache-2.0
"""Writes the pod's own /etc/hosts, /etc/hostname, /etc/resolv.conf and /etc/machine-id, which crun binds into each
container. Called by the engine and `ahead`; what stands in them is said by `stage1.pod.files`.
"""

import os

from stage1.linux import files
from stage1.pod import files as texts
from stage1.pod.model import Pod
from stage1.pod.network import PodNetwork


def write(pod: Pod, where: str, *, network: PodNetwork | None) -> None:
    """Write the four files into the directory `where`."""
    hosts = texts.hosts(pod, network.ips if network else ())
    if "network" in pod.host:
        hosts = texts.on_host_network(pod, _read("/etc/hosts"))
    for name, text in (
        ("hosts", hosts),
        ("hostname", texts.hostname(pod)),
        ("machine-id", texts.machine_id(pod)),
        ("resolv.conf", texts.resolv_conf(pod, _read("/etc/resolv.conf"), network=network)),
    ):
        files.write_atomic(f"{where}/{name}", text.encode(), 0o644)


def _read(path: str) -> str:
    return files.read(path).decode(errors="replace") if os.path.exists(path) else ""
