# SPDX-License-Identifier: Apache-2.0
"""The programs of a Kubernetes node, and which of them are not here. Called by the fixtures; it runs none of them."""

import shutil
from collections.abc import Callable, Sequence

KUBELET = "kubelet"
CONTROL = ("etcd", "kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubectl")
NODE = (KUBELET, *CONTROL)
DEBIAN = {"etcd": "etcd-server", "kubectl": "kubectl"}
"""The packages of those that Debian has."""


def missing(names: Sequence[str], find: Callable[[str], str | None] = shutil.which) -> list[str]:
    """Those that are not on PATH."""
    return [name for name in names if not find(name)]


def skip_reason(names: Sequence[str], find: Callable[[str], str | None] = shutil.which) -> str:
    """Names each one that is missing; empty when all are there."""
    lacking = missing(names, find)
    known = [f"{name} (apt install {DEBIAN[name]})" if name in DEBIAN else name for name in lacking]
    return f"needs {', '.join(known)} on PATH" if known else ""
