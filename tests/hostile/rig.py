# SPDX-License-Identifier: Apache-2.0
"""A node under attack: `clearpod serve` as a process of its own, a good neighbour, and programs in the VMM's place.

Used by the tests of this folder and by tests/bench/hostile.py. Everything lies below one root; a directory `canary` in
it stands for the host's files.
"""

import asyncio
import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from cri.pb import runtime_pb2 as pb
from stage1 import engine
from stage1.vm.qemu import PROGRAM as QEMU
from tests.cri.conftest import Client
from tests.fakes.command import CHECKOUT, Command
from tests.fakes.patience import PATIENCE
from tests.hostile.vmm import MARK

ALLOW_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
"""A filter of system calls that forbids none: one wall is tried after the other, and that one has tests of its own."""
SERVES_S = 60
CANARY = b"the host's own\n"


class Node:
    """Run directory, state, configuration and daemon below `root`. `reference` is an image that it can pull."""

    def __init__(self, root: Path, guest_dir: Path, reference: str, *, more: str = "", real: str = "") -> None:
        """`real`: the hypervisor of pods that are VMs; without, `vmm.py` stands in QEMU's place."""
        self.root, self.reference = root, reference
        guest = guest_dir if real else _guest(root, guest_dir)
        self.command = Command(root, guest, more, hypervisor=real or "qemu")
        self.socket = f"{root}/run/clearpod.sock"
        self.daemon: subprocess.Popen[bytes] | None = None
        if not real:
            self.command.env["PATH"] = f"{_program(root)}:{os.environ['PATH']}"
        canary = root / "canary"
        canary.mkdir(exist_ok=True)
        (canary / "file").write_bytes(CANARY)

    @property
    def canary_is_whole(self) -> bool:
        """Whether the host's files are as they were."""
        result = self.root / "canary" / "file"
        return result.read_bytes() == CANARY and os.listdir(self.root / "canary") == ["file"]

    def start(self) -> None:
        """Start the daemon; `client` waits for it."""
        with open(self.root / "serve.log", "ab") as log:
            self.daemon = self.command.start("serve", stdout=log, stderr=log, start_new_session=True)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the daemon; its pods live on."""
        if self.daemon is not None:
            self.daemon.send_signal(number)
            self.daemon.wait(30 * PATIENCE)
            self.daemon = None

    def rss_mib(self) -> float:
        """What the daemon has in memory."""
        assert self.daemon is not None
        text = Path(f"/proc/{self.daemon.pid}/statm").read_text(encoding="ascii")
        return int(text.split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    @asynccontextmanager
    async def client(self) -> AsyncIterator["Caller"]:
        """A CRI client, once the daemon serves."""
        caller = Caller(self.socket, None, self.reference)  # type: ignore[arg-type]
        caller.logs = f"{self.root}/logs"
        try:
            await caller.served()
            yield caller
        finally:
            await caller.close()

    def console(self, pod: str) -> str:
        """What the VMM of a pod has written."""
        return Path(f"{self.root}/run/pods/{pod}/console.log").read_text(encoding="utf-8", errors="replace")

    async def report(self, pod: str, limit_s: float = 60) -> dict[str, list[str]]:
        """What `compromised` found out."""
        async with asyncio.timeout(limit_s * PATIENCE):
            while MARK not in (text := self.console(pod)) or "\n" not in text.partition(MARK)[2]:
                await asyncio.sleep(0.05)
        result: dict[str, list[str]] = json.loads(text.partition(MARK)[2].splitlines()[0])
        return result

    def pids(self, pod: str) -> list[int]:
        """The processes of a pod, which have its directory on their command line."""
        return [pid for pid, line in self.command.host_state.processes().items() if f"/pods/{pod}/" in line]

    async def empty(self) -> None:
        """Remove all pods, whose hypervisors are killed first so that no removal waits for an attacker."""
        async with self.client() as cri:
            for pod in (await cri("ListPodSandbox")).items:
                for pid in self.pids(pod.id):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await cri("RemovePodSandbox", pod_sandbox_id=pod.id, deadline_s=60)


class Caller(Client):
    """A client that also knows how to make a pod with one running container."""

    async def served(self) -> None:
        """Wait until the daemon answers more than probes."""
        deadline = time.monotonic() + SERVES_S * PATIENCE
        while True:
            try:
                await self("ListPodSandbox")
                return
            except Exception as error:
                if time.monotonic() > deadline:
                    raise AssertionError("the daemon does not serve") from error
                await asyncio.sleep(0.05)

    logs = "/tmp"
    """Where the pods' log directories are made."""

    async def running(self, name: str, *, hostname: str = "", **fields: Any) -> tuple[str, str]:
        """A pod and a container in it, started; `hostname` is what the program in the VMM's place shall be."""
        pod = await self.pod(name, hostname=hostname or name, log_directory=f"{self.logs}/{name}", **fields)
        container = await self.container(pod, "sleep", "1000", name="c")
        await self("StartContainer", container_id=container)
        return pod, container

    @asynccontextmanager
    async def neighbour(self) -> AsyncIterator[tuple[str, str]]:
        """A good pod and its container, removed in the end."""
        pod, container = await self.running("good")
        try:
            yield pod, container
        finally:
            await self("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=60)

    async def is_ready(self, pod: str) -> bool:
        """Whether the pod is READY."""
        reply = await self("PodSandboxStatus", pod_sandbox_id=pod)
        return bool(reply.status.state == pb.SANDBOX_READY)

    async def not_ready(self, pod: str, limit_s: float = 30) -> None:
        """Wait until the pod is not READY any more."""
        async with asyncio.timeout(limit_s * PATIENCE):
            while await self.is_ready(pod):
                await asyncio.sleep(0.05)

    async def times(self, container: str, *, seconds: float) -> list[float]:
        """How long statuses of a container, stats of all and a command in it took, in milliseconds, over so long."""
        taken = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for call in (
                lambda: self("ContainerStatus", container_id=container),
                lambda: self("ListContainers"),
                lambda: self("ExecSync", container_id=container, cmd=["true"]),
            ):
                begun = time.perf_counter()
                await call()
                taken.append((time.perf_counter() - begun) * 1000)
                await asyncio.sleep(0.01)
        return taken


def p99(values: list[float]) -> float:
    """The 99th percentile."""
    return sorted(values)[int(len(values) * 0.99)]


def _guest(root: Path, guest_dir: Path) -> Path:
    """The guest's files, with a filter for the VMM that lets everything through."""
    made = root / "guest"
    made.mkdir()
    for path in guest_dir.iterdir():
        (made / path.name).symlink_to(path.resolve())
    for name in ("seccomp-qemu.bpf", "seccomp-kvmtool.bpf"):
        (made / name).unlink(missing_ok=True)
        (made / name).write_bytes(ALLOW_ALL)
    (made / "jailer").unlink(missing_ok=True)
    shutil.copy(guest_dir / "jailer", made)  # the filters are looked for beside it
    return made


def _program(root: Path) -> Path:
    """`vmm.py` as QEMU, with its imports: a VMM sees the directory `lib` next to its own."""
    bin_dir, lib = root / "vmm" / "bin", root / "vmm" / "lib"
    bin_dir.mkdir(parents=True)
    program = bin_dir / QEMU
    source = (CHECKOUT / "tests/hostile/vmm.py").read_text(encoding="utf-8")
    program.write_text(f"#!/usr/bin/python3 -IB\n{source}", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    for name in ("stage1", "tests/fakes", "tests/hostile"):
        shutil.copytree(CHECKOUT / name, lib / name, ignore=shutil.ignore_patterns("__pycache__"))
    return bin_dir


@contextmanager
def node(root: Path, guest_dir: Path, reference: str, *, more: str = "", real: str = "") -> Iterator[Node]:
    """A node whose daemon serves, and which leaves no process, mount or cgroup."""
    made = Node(root, guest_dir, reference, more=more, real=real)
    try:
        made.start()
        yield made
    finally:
        made.kill()
        for pid in made.command.host_state.processes():
            os.kill(pid, signal.SIGKILL)
        pods = root / "run" / "pods"
        for place in pods.iterdir() if pods.is_dir() else ():
            engine.clean_up(str(place))
