# SPDX-License-Identifier: Apache-2.0
"""A daemon to be killed: `python -m tests.cri.daemon ROOT STATE_DIR`, with each fake guest in a process of its own.

Used by test_recovery.py, test_hostile_*.py and test_network.py, whose fake CNI plugins are in ROOT/cni. With DIE_AT=N
in the environment it dies at its N-th change of the machine after ROOT/die has appeared (tests.fakes.dying). With
WARM=N it keeps N guests waiting.
With the argument `guest` it is such a guest: `... guest SOCKET VOLUMES`.
"""

import os
import signal
import sys
import time

from stage1.linux.process import spawn, start_time
from stage1.vm.spec import SerialLink, VmSpec
from stage1.vm.vmm import VmProcess


class ForkingVmm:
    """A Vmm whose guests outlive this process."""

    def start(self, vm: VmSpec) -> VmProcess:
        """Start the guest and return at once."""
        assert isinstance(vm.link, SerialLink)
        volumes = next(share.path for share in vm.shares if share.tag == "volumes")
        console = f"{vm.run_dir}/console.log"
        program = f"{vm.run_dir}/agent"  # a name by which the next daemon knows a VMM that nobody has written down
        os.symlink(os.path.realpath(sys.executable), program)
        argv = [program, "-m", "tests.cri.daemon", "guest", vm.link.socket, volumes]
        output = os.open(console, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        pid = spawn(argv, stdout=output, stderr=output, env=dict(os.environ))
        os.close(output)
        return VmProcess(pid, start_time(pid), console)


def guest(path: str, volumes: str) -> None:
    """Serve as a guest until the host says Shutdown or kills us."""
    from stage1.guest import messages
    from tests.fakes.hostile_guest import HostileGuest

    with HostileGuest(path, volumes) as running:
        while not running.join(0.05):
            if any(isinstance(op, messages.Shutdown) for op in running.asked):  # all empty messages are equal
                time.sleep(0.05)
                break


async def daemon(root: str, state_dir: str) -> None:
    """Serve until SIGTERM."""
    import asyncio  # half of the time that a guest's process takes to start

    from cri.config import parse
    from cri.node import Node
    from cri.owner import own
    from cri.server import Listener
    from cri.store.images import ImageStore
    from cri.translate.sandbox import plain
    from stage1.engine import Host
    from stage1.net.settings import Settings
    from stage1.vm import qemu
    from stage1.vm.choose import Choice

    warm = os.environ.get("WARM", "0")
    config = parse(f'run_dir = "{root}/run"\nstate_dir = "{state_dir}"\n[pool]\nsize = {warm}')
    choice = Choice(qemu.HYPERVISOR, "tcg", "/bin/true", "", ())
    host = Host(f"{root}/run", f"{root}/guest", state_dir, choice, scratch_mib=16)
    if os.path.isdir(f"{root}/cni"):
        cni = f"{root}/cni"
        settings = Settings(f"{cni}/net.d", (f"{cni}/bin",), f"{cni}/cache", results_dir=f"{cni}/results")
        host = host._replace(network=settings)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    owned = own(config)
    owned.__enter__()  # until the end, whatever it is
    node = Node(config, host=host, vmm=ForkingVmm(), images=ImageStore(state_dir))
    listener = Listener(node, config)
    await listener.start()
    await node.open(plain(config))
    if step := os.environ.get("DIE_AT"):
        from tests.fakes.dying import arm

        arm(int(step), begins=f"{root}/die")
    await stop.wait()
    await listener.stop(grace_s=1)
    await node.close()


if __name__ == "__main__":
    if sys.argv[1] == "guest":
        guest(*sys.argv[2:])
    else:
        import asyncio
        import logging

        logging.basicConfig(level=logging.INFO)
        asyncio.run(daemon(*sys.argv[1:]))
