# SPDX-License-Identifier: Apache-2.0
"""A daemon with real virtual machines in a process of its own: `python -m tests.bench.lib.node CONFIG [no-dax]`.

For benchmarks that measure the daemon from outside, and for tests under kvmtool. Pods have no network but loopback:
`scripts/bench network` measures CNI plugins, which leave nothing resident. It begins after a line on its standard
input.
"""

import asyncio
import logging
import signal
import sys

from cri import config as configuration
from cri.node import Node
from cri.owner import own
from cri.server import Listener
from cri.store.images import ImageStore
from cri.translate.sandbox import plain
from stage1.engine import Host
from stage1.linux.cgroup import OURS
from stage1.vm import hypervisors
from stage1.vm.choose import choose
from stage1.vm.starter import ProcessVmm


def make(path: str, *, dax: bool = True) -> Node:
    """The node of this configuration, which is not open yet."""
    config = configuration.load(path)
    choice = choose(config.vm.hypervisor, hypervisors.facts())
    host = Host(
        run_dir=config.run_dir,
        guest_dir=config.guest_dir,
        state_dir=config.state_dir,
        choice=choice._replace(preload=choice.preload and dax),
        scratch_mib=config.vm.scratch_mib,
        vsock_port=1024,
        ids=config.jail.ids,
        cgroup_parent=OURS,
    )
    vmm = ProcessVmm(huge_pages=config.vm.huge_pages)
    return Node(config, host=host, vmm=vmm, images=ImageStore(config.state_dir))


async def serve(path: str, *, dax: bool) -> None:
    """Until SIGTERM; the pods live on."""
    node = make(path, dax=dax)
    config = node.config
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    owned = own(config)
    owned.__enter__()  # until the end, whatever it is
    listener = Listener(node, config)
    await listener.start()
    await node.open(plain(config))
    print("serving", flush=True)
    await stop.wait()
    await listener.stop(grace_s=2)
    await node.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    print("loaded", flush=True)
    if sys.stdin.readline():
        asyncio.run(serve(sys.argv[1], dax=sys.argv[2:] != ["no-dax"]))
