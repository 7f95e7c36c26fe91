# SPDX-License-Identifier: Apache-2.0
"""Many pods of a daemon in another process, for `scripts/bench density`: start them, look at them, end them.

Everything of one `Place` is in a directory below /tmp, and gone when its block ends.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from grpc import aio

from cri.config import Config
from cri.image.pull import pull
from cri.pb import runtime_pb2 as pb
from cri.store.images import ImageStore
from stage1 import engine
from stage1.engine import Host
from stage1.vm import hypervisors
from stage1.vm.choose import Choice, choose
from tests.cri.conftest import Client
from tests.fakes import places
from tests.fakes.patience import PATIENCE

ROOT = Path(__file__).parents[3]
AT_ONCE, BOOTS = 4, 3
PAGE = "density"
SERVE = f"mkdir -p /w && echo {PAGE} >/w/index.html && exec busybox httpd -f -p 80 -h /w"


class Setup(NamedTuple):
    """How the pods are run."""

    hypervisor: str = "auto"
    huge_pages: bool = False
    dax: bool = True
    memory_mib: int = 128
    ksm_percent: float = 20.0
    waiting: int = 0
    """VMs that the daemon keeps in its warm pool."""


class Place(NamedTuple):
    """A run directory with an image in its store."""

    root: Path
    guest: Path
    image: str
    setup: Setup
    choice: Choice

    @property
    def run_dir(self) -> str:
        """Of the daemon."""
        return f"{self.root}/run"

    def write_config(self, *, ksm: bool) -> str:
        """The daemon's configuration; returns its path."""
        text = f"""
            run_dir = "{self.run_dir}"
            state_dir = "{self.root}/state"
            guest.dir = "{self.guest}"
            [vm]
            hypervisor = "{self.setup.hypervisor}"
            memory_mib = {self.setup.memory_mib}
            boot_timeout_s = {60 * PATIENCE}
            scratch_mib = 64
            huge_pages = {str(self.setup.huge_pages).lower()}
            [ksm]
            enabled = {str(ksm).lower()}
            max_cpu_percent = {self.setup.ksm_percent}
            [pool]
            size = {self.setup.waiting}
        """
        path = self.root / "config.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def vmms(self) -> list[int]:
        """The pids of the VMMs."""
        result = (engine.find_vm(f"{self.run_dir}/pods/{name}") for name in os.listdir(f"{self.run_dir}/pods"))
        return [vm.pid for vm in result if vm is not None]


def guest_dir() -> Path:
    """Where the guest was built."""
    return Path(os.environ.get("CLEARPOD_GUEST_DIR", ROOT / "build" / "guest")).resolve()


@asynccontextmanager
async def place(setup: Setup) -> AsyncIterator[Place]:
    """Kills all VMs in the end."""
    guest = guest_dir()
    choice = choose(setup.hypervisor, hypervisors.facts())
    with places.short_directory("cpd") as directory:
        store = ImageStore(f"{directory}/state")
        image = await pull(store, f"oci:{guest}/sample:sample", config=Config())
        store.close()
        made = Place(Path(directory), guest, image.id, setup, choice)
        try:
            yield made
        finally:
            host = Host(made.run_dir, str(guest), f"{directory}/state", choice)
            for pod in engine.pod_directories(host):
                engine.clean_up(pod)


Process = subprocess.Popen[bytes]


@asynccontextmanager
async def loaded(place: Place, *, ksm: bool = False) -> AsyncIterator[Process]:
    """A daemon's process that has loaded its code and waits, for `daemon`. Guests whose daemon is gone try to reach
    one all the time: where processors are emulated, they leave little to one that has still to load.
    """
    argv = [sys.executable, "-m", "tests.bench.lib.node", place.write_config(ksm=ksm)]
    process = _spawn(place, argv + ([] if place.setup.dax else ["no-dax"]))
    try:
        await _await_line(place, process, b"loaded\n")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@asynccontextmanager
async def daemon(place: Place, process: Process) -> AsyncIterator[Client]:
    """It serves until the end of `loaded`. Pods that live are taken over, and live on."""
    assert process.stdin is not None
    process.stdin.write(b"serve\n")
    process.stdin.flush()
    await _await_line(place, process, b"serving\n")
    client = Client(f"{place.run_dir}/clearpod.sock", None, place.image)  # type: ignore[arg-type]
    try:
        yield client
    finally:
        await client.close()


async def _await_line(place: Place, process: Process, line: bytes) -> None:
    assert process.stdout is not None
    if await asyncio.to_thread(process.stdout.readline) != line:
        raise RuntimeError(f"the daemon did not start:\n{(place.root / 'daemon.log').read_text()[-2000:]}")


def _spawn(place: Place, argv: list[str]) -> Process:
    with (place.root / "daemon.log").open("ab") as log:
        return subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)


async def add(cri: Client, count: int, *, serving: bool) -> int:
    """So many pods more, some at a time; those that serve have answered once. How many had to be started again: where
    processors are emulated, a guest's kernel breaks now and then.
    """
    gate, failed = asyncio.Semaphore(AT_ONCE), 0

    async def one(number: int) -> None:
        nonlocal failed
        async with gate:
            pod, broken = await _boot(cri, f"p{number}")
            failed += broken
            if serving:
                await _serve(cri, pod)

    await asyncio.gather(*(one(number) for number in range(count)))
    return failed


async def _boot(cri: Client, name: str) -> tuple[str, int]:
    """The pod, and how many failed before it. Raises AioRpcError after the last try."""
    for failed in range(BOOTS - 1):
        try:
            return await cri.pod(name, log_directory="/tmp"), failed
        except aio.AioRpcError as error:
            print(f"{name}: {error.details()}", file=sys.stderr)
    return await cri.pod(name, log_directory="/tmp"), BOOTS - 1


async def _serve(cri: Client, pod: str) -> None:
    container = await cri.container(pod, "sh", "-c", SERVE, log_path="")
    await cri("StartContainer", container_id=container)
    ask = ["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1/"]
    reply: Any = None
    for _ in range(50):
        reply = await cri("ExecSync", container_id=container, cmd=ask, timeout=60)
        if reply.stdout.decode().strip() == PAGE:
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"the pod does not serve its page: {reply}")


async def count_ready(cri: Client) -> int:
    """Pods that are alive by the daemon's word."""
    items = (await cri("ListPodSandbox")).items
    return sum(item.state == pb.SANDBOX_READY for item in items)


def others(place: Place, known: set[int]) -> list[str]:
    """Command lines of processes of these pods that are neither daemon nor VMM."""
    result = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if int(name) not in known and (place.run_dir in line or parent in known):
            result.append(line)
    return result
