# SPDX-License-Identifier: Apache-2.0
"""A pod without a VM as a command line of the agent, which then is a process of the host. Pure; called by
starter.ProcessVmm, the engine and the golden tests. docs/admin/kubernetes.md says what such a pod is.
"""

from stage1.vm.choose import Choice
from stage1.vm.spec import OnHost, SerialLink, VmSpec, check


def argv(vm: VmSpec) -> list[str]:
    """The whole command line. Raises BadRequest when a path of `vm` can't be put into one."""
    check(vm)
    host = _host(vm)
    network = "host" if "network" in host.namespaces else "given" if vm.netns else "own"
    return [
        vm.binary,
        f"--directory={vm.run_dir}",
        f"--cgroup={vm.cgroup}",
        f"--crun={host.crun}",
        *([f"--scratch={vm.scratch}"] if vm.scratch else []),
        f"--network={network}",
        f"--ipc={'host' if 'ipc' in host.namespaces else 'own'}",
    ]


def environment(vm: VmSpec) -> dict[str, str]:
    """What the agent's environment must be, the least there is."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def spec(name: str, directory: str, *, agent: str, choice: Choice, namespaces: tuple[str, ...]) -> VmSpec:
    """What starts the pod in `directory`, once it is `placed`."""
    return VmSpec(
        name=name,
        binary=agent,
        run_dir=directory,
        kernel="",
        initramfs="",
        system_image="",
        memory_mib=0,
        vcpus=0,
        link=SerialLink(f"{directory}/agent.sock"),
        accel=choice.accel,
        host=OnHost(choice.binary, namespaces),
    )


def placed(vm: VmSpec, cgroup: str, *, scratch: str) -> VmSpec:
    """`vm` with its cgroup and its scratch directory, empty for none."""
    return vm._replace(cgroup=cgroup, scratch=scratch)


def _host(vm: VmSpec) -> OnHost:
    assert vm.host is not None
    return vm.host
