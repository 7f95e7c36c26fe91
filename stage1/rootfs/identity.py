# SPDX-License-Identifier: Apache-2.0
"""Writes the pod's own /etc/hosts, /etc/hostname, /etc/resolv.conf and /etc/machine-id, which crun binds into each
container. Called by the engine and `prewarmed`; their text is made by `stage1.pod.files`.
"""

import os

from stage1.linux import beneath, files
from stage1.pod import files as texts
from stage1.pod.model import BOOT_ID, Pod
from stage1.pod.network import PodNetwork

WHERE = "tree/volumes/pod"
"""The file in the pod's directory."""


def write(pod: Pod, directory: str, *, network: PodNetwork | None, is_new: bool = False) -> None:
    """Write the files of the pod in `directory`, or replace them unless it `is_new`."""
    hosts = texts.hosts(pod, network.ips if network else ())
    if "network" in pod.host:
        hosts = texts.on_host_network(pod, _read("/etc/hosts"))
    named = [
        ("hosts", hosts),
        ("hostname", texts.hostname(pod)),
        ("machine-id", texts.machine_id(pod)),
        ("resolv.conf", texts.resolv_conf(pod, _read("/etc/resolv.conf"), network=network)),
    ]
    if pod.suspend:
        named.append((BOOT_ID, texts.boot_id(pod)))
    with beneath.Root(directory, one_mount=True) as own, own.below(WHERE) as place:
        write = place.write_new if is_new else place.write
        for name, text in named:
            write(name, text.encode(), 0o644)


def has_boot_id(directory: str) -> bool:
    """Whether the pod in `directory` has one of its own: not one that an earlier version made. Raises KernelError."""
    with beneath.Root(directory, one_mount=True) as own:
        return own.exists(f"{WHERE}/{BOOT_ID}")


def _read(path: str) -> str:
    return files.read(path).decode(errors="replace") if os.path.exists(path) else ""
