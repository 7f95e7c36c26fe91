# SPDX-License-Identifier: Apache-2.0
"""A pod on the host: it has namespaces of the host and no VM, and the agent runs as a process of the host. What it is,
as data, and as a command line of the agent. Pure; made by `machine`, read by the engine and by starter.ProcessVmm.
docs/admin/kubernetes.md says what such a pod is.
"""

from typing import NamedTuple

from stage1.vm.spec import SerialLink, check_paths


class HostPod(NamedTuple):
    """One pod on the host. Paths are absolute host paths without commas.

    `agent` is the program, and runs containers by `crun` in the directory `cgroup` of cgroup v2, which need not exist.
    `scratch` is a directory for writable layers, empty for none. `namespaces` are those of the host that the pod has:
    network, pid, ipc. `netns` is the file that keeps the network namespace of a pod with one of its own.
    """

    name: str
    agent: str
    run_dir: str
    crun: str
    cgroup: str
    namespaces: tuple[str, ...]
    scratch: str = ""
    netns: str = ""

    @property
    def link(self) -> SerialLink:
        """The socket of the agent."""
        return SerialLink(f"{self.run_dir}/agent.sock")


def argv(pod: HostPod) -> list[str]:
    """The whole command line. Raises BadRequest when a path of `pod` can't be put into one."""
    check_paths((pod.run_dir, pod.scratch))
    network = "host" if "network" in pod.namespaces else "given" if pod.netns else "own"
    return [
        pod.agent,
        f"--directory={pod.run_dir}",
        f"--cgroup={pod.cgroup}",
        f"--crun={pod.crun}",
        *([f"--scratch={pod.scratch}"] if pod.scratch else []),
        f"--network={network}",
        f"--ipc={'host' if 'ipc' in pod.namespaces else 'own'}",
    ]


def environment() -> dict[str, str]:
    """The minimal environment of the agent."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
