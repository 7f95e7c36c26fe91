# SPDX-License-Identifier: Apache-2.0
"""`run`: creates everything that a pod needs, writes its launch spec, and exits; the launcher starts the VMM.

Started by the launcher, which holds rkt's lock and is the pod's process. The launcher has a mount namespace of its own,
in which the guest's share is mounted; the network namespace is made in the host's mounts, and kept by name.
What is outside of the pod's directory is rolled back if something fails here, and removed by `gc` otherwise.
"""

import os
import sys

from stage1.entry import dispatch
from stage1.errors import PodError
from stage1.linux import namespace
from stage1.pod.network import PodNetwork
from stage1.rkt import arguments, commands, directory, loader, machine, make, network, own_kernel, runtime
from stage1.rkt.arguments import RunOptions
from stage1.rkt.loader import RktPod
from stage1.vm import launch_spec


def main(argv: list[str]) -> int:
    """Called with the pod's directory as working directory; 0 when the VMM can be started. Raises PodError."""
    options, pod_dir = arguments.run(argv), os.getcwd()
    pod = loader.read_pod(pod_dir, options, terminal=_terminal(options))
    dispatch.report("run", *pod.warnings)
    if not pod.own_kernel:
        commands.check(pod)
        make.make(pod)
    try:
        got = network.attach(pod_dir, pod.pod, options=options)
        pod = loader.with_network(pod, pod_dir, options=options, network=got, host_ip=network.host_ip(pod_dir))
        netns = network.netns(options.uuid, got)
        with namespace.inside_mounts_of(os.getppid(), net=netns):
            spec = _prepare(pod, pod_dir, network=got, netns=netns)
        runtime.save(pod_dir, options)
        directory.write_pid(pod_dir, os.getppid())
        directory.set_ready(pod_dir)  # whoever comes now waits for the agent
        launch_spec.send(spec)
        dispatch.report("run", *spec.warnings)
    except BaseException as error:
        _undo(pod_dir, options.uuid, after=error)
        raise
    return 0


def _prepare(pod: RktPod, pod_dir: str, *, network: PodNetwork | None, netns: str) -> launch_spec.LaunchSpec:
    if not pod.own_kernel:
        return machine.prepare(pod, pod_dir, network=network, netns=netns)

    return own_kernel.prepare(pod, pod_dir, network=network, netns=netns)


def _undo(pod_dir: str, uuid: str, *, after: BaseException) -> None:
    """Clean up after a failure; what can't be removed now is left for `gc`, and reported."""
    try:
        machine.undo(machine.place(uuid))
        problem = network.detach(pod_dir)
    except PodError as second:
        problem = str(second)
    if problem:
        after.add_note(f"and {problem}")


def _terminal(options: RunOptions) -> loader.Terminal | None:
    """Ours, where the pod shall use it."""
    if not (options.interactive and os.isatty(sys.stdin.fileno())):
        return None
    columns, rows = os.get_terminal_size(sys.stdin.fileno())
    return loader.Terminal(os.environ.get("TERM", "vt100"), (columns, rows))
