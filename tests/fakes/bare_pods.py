# SPDX-License-Identifier: Apache-2.0
"""Pods that are a network and no VM, for tests of what real CNI plugins make and leave."""

import os
from typing import Any

from stage1.linux import namespace, process
from stage1.net import attach
from stage1.pod.model import Pod, Port
from stage1.pod.network import PodNetwork
from tests.fakes.outer_net import OuterNet
from tests.fakes.patience import PATIENCE


class Pods:
    """Pods without VMs, each with a directory."""

    def __init__(self, outer: OuterNet) -> None:
        self.outer, self.made = outer, list[str]()

    def warm_up(self) -> str:
        """The plugins make a bridge and chains for the first pod, and keep them; what the host looks like then."""
        attach.detach(self.attach(ports=(Port(1, 1),))[0])
        return self.outer.state()

    def attach(self, **fields: Any) -> tuple[str, PodNetwork]:
        pod = Pod(os.urandom(32).hex(), "web", **fields)
        directory = f"{self.outer.root}/{pod.id}"
        os.mkdir(directory)
        self.made.append(directory)
        seen = attach.attach(pod, directory, settings=self.outer.settings)
        assert seen is not None
        return directory, seen

    def forget(self) -> None:
        """Detach those that are left."""
        for directory in self.made:
            attach.detach(directory)


def in_pod(directory: str, *argv: str) -> str:
    """The output of a command in the pod's netns."""
    with namespace.inside_net(f"/run/netns/clearpod-{os.path.basename(directory)}"):
        return process.run(argv, timeout_s=10 * PATIENCE).stdout.decode()
