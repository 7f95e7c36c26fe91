# SPDX-License-Identifier: Apache-2.0
"""A daemon alone in its process, whose instant guests are threads of another: for benchmarks of what the daemon takes.

`python -m tests.bench.lib.instant_node ROOT STATE_DIR` is the daemon; `Guests(ROOT)`, in the process that measures, has
the guests. Where latencies are measured, `guests_apart(ROOT)` has them in a third: in one process the client would wait
for the interpreter's lock as long as hundreds of guests answer.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stage1.linux.heap import use_one_heap
from stage1.linux.libc import Guard
from stage1.linux.process import spawn, start_time
from stage1.vm.spec import SerialLink, VmSpec
from stage1.vm.vmm import VmProcess

if TYPE_CHECKING:
    from cri.node import Node
    from tests.fakes.guest import FakeGuest

PATH = "guests.sock"


class RemoteVmm:
    """A Vmm that asks `Guests` for a guest. The VMM's process is one that sleeps: killing that ends the guest."""

    def __init__(self, path: str) -> None:
        self._path = path

    def start(self, vm: VmSpec) -> VmProcess:
        """Start the guest."""
        assert isinstance(vm.link, SerialLink)
        volumes = next(share.path for share in vm.shares if share.tag == "volumes")
        console = f"{vm.run_dir}/console.log"
        with Guard("start", "a guest"), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
            os.close(os.open(console, os.O_CREAT | os.O_WRONLY, 0o600))
            asked.connect(self._path)
            pid = spawn(["/usr/bin/sleep", "infinity"])
            try:
                vmm = VmProcess(pid, start_time(pid), console)
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
            asked.send(json.dumps([pid, vm.link.socket, volumes]).encode())
            assert asked.recv(1) == b"y"
        return vmm


class Guests:
    """All guests of the daemon below `root`, a short path. Use it as a context manager."""

    def __init__(self, root: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(f"{root}/{PATH}")
        self._listener.listen(64)
        self._guests: list[FakeGuest] = []
        self._thread = threading.Thread(target=self._serve, name="guests", daemon=True)

    def __enter__(self) -> "Guests":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for guest in self._guests:
            guest.stop()

    def _serve(self) -> None:
        from tests.fakes.guest import FakeGuest

        while True:
            try:
                asking, _ = self._listener.accept()
            except OSError:
                return
            with asking:
                if not (asked := asking.recv(4096)):
                    continue  # the daemon had no process for the guest
                pid, path, volumes = json.loads(asked)
                self._guests.append(FakeGuest(path, volumes).start(pid))
                asking.send(b"y")


@contextmanager
def guests_apart(root: str) -> Iterator[None]:
    """The same in a process of their own, which ends with this one too."""
    argv = [sys.executable, "-m", "tests.bench.lib.instant_node", root]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.stdin.close()


def _guests(root: str) -> None:
    with Guests(root):
        print("ready", flush=True)
        sys.stdin.read()


async def daemon(root: str, state_dir: str) -> None:
    """Serve until SIGTERM, as `clearpod serve` does."""
    from cri.config import Config
    from cri.node import Node
    from cri.owner import own
    from cri.store.images import ImageStore
    from stage1.engine import Host
    from stage1.vm import qemu
    from stage1.vm.choose import Choice

    config = Config(run_dir=f"{root}/run", state_dir=state_dir)  # not parsed: the daemon has no pydantic
    choice = Choice(qemu.HYPERVISOR, "tcg", "/bin/true", "", ())
    host = Host(f"{root}/run", f"{root}/guest", state_dir, choice, scratch_mib=16)
    with own(config):
        await serve(Node(config, host=host, vmm=RemoteVmm(f"{root}/{PATH}"), images=ImageStore(state_dir)))


async def serve(node: "Node") -> None:
    """Let the node serve until SIGTERM, then close it."""
    from cri.server import Listener
    from cri.translate.sandbox import plain

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listener = Listener(node, node.config)
    await listener.start()
    await node.open(plain(node.config))
    await stop.wait()
    await listener.stop(grace_s=1)
    await node.close()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _guests(sys.argv[1])
    else:
        use_one_heap()
        asyncio.run(daemon(*sys.argv[1:]))
