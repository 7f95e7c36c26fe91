# SPDX-License-Identifier: Apache-2.0
"""Fixtures: clearpod on a machine of its own, a kubelet, and with the other programs a whole cluster of one node."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes import configuration, programs
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.node import Node, node


@pytest.fixture(scope="module")
def machine(guest_dir: Path) -> Iterator[Node]:
    """clearpod and its images, without a kubelet; skips and says which where that is missing."""
    if reason := programs.skip_reason([programs.KUBELET]):
        pytest.skip(reason)
    with node(guest_dir) as made:
        yield made


@pytest.fixture(scope="session")
def all_programs() -> None:
    """Skips and names what is missing, before anything is started."""
    if reason := programs.skip_reason(programs.NODE):
        pytest.skip(reason)


@pytest.fixture(scope="module")
def cluster(all_programs: None, machine: Node) -> Iterator[Cluster]:
    """A node that is ready for pods, with its API server."""
    made = Cluster(machine)
    try:
        made.start()
        made.apply(configuration.runtime_class())
        yield made
        made.kubectl("delete", "deployment", "--all")
        made.kubectl("delete", "pod", "--all", "--now")
    finally:
        for name in ("kubelet", "manager", "scheduler", "api", "etcd"):
            machine.stop(name)
