# SPDX-License-Identifier: Apache-2.0
"""The runtimes that `scripts/bench peers` compares: daemons of clearpod, and Debian's containerd.

What they keep about living pods is on a tmpfs, as by default below /run.

Each has a directory, a socket and a cgroup of its own, and nothing of it outlives its block. What a runtime's calls
take of the processors is read there: the cgroup has the daemon and what it starts, /proc the threads of each VMM.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from grpc import aio

from stage1 import engine
from stage1.linux import cgroup, mount
from tests.bench.lib import footprint
from tests.cri.conftest import Client
from tests.fakes.outer_net import BIN_DIR, OuterNet
from tests.fakes.patience import PATIENCE

ROOT = Path(__file__).parents[3]
START_S = 30 * PATIENCE
END_S = 10.0
"""For a daemon to end by SIGTERM."""
SHARED = ("/run/containerd/runc/k8s.io", "/run/containerd/s")
IN_CGROUP = 'echo $$ > "$0/cgroup.procs" && exec "$@"'

CLEARPOD = """\
run_dir = "{root}/run"
state_dir = "{root}/state"
guest.dir = "{guest}"
[vm]
memory_mib = 64
boot_timeout_s = 250
react_timeout_s = 30
[network]
conf_dir = "{root}/net.d"
bin_dirs = ["{bin}"]
[pool]
size = {pool}
"""
CONTAINERD = """\
version = 2
root = "{root}/root"
state = "{root}/state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{root}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
netns_mounts_under_state_dir = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{bin}"
conf_dir = "{root}/net.d"
"""


class Usage(NamedTuple):
    """Processor time until now: of the runtime's cgroup, and of each VMM that lives, (host's part, guest's part)."""

    daemon_ms: float
    vmms: dict[int, tuple[float, float]]

    def since(self, before: "Usage") -> tuple[float, float, float]:
        """(daemon, VMMs, guests) in milliseconds. What a VMM that has ended took in its last moments is in none."""
        vmm = guest = 0.0
        for pid, (outside, inside) in self.vmms.items():
            was = before.vmms.get(pid, (0.0, 0.0))
            vmm, guest = vmm + outside - was[0], guest + inside - was[1]
        return self.daemon_ms - before.daemon_ms, vmm, guest


class Runtime(NamedTuple):
    """One of those that are compared; `pool` is how many VMs wait in it, `pods` the directory with its pods' VMMs."""

    name: str
    cri: Client
    group: str
    directory: Path
    pods: str = ""
    pool: int = 0

    def usage(self) -> Usage:
        """Until now."""
        of_pods = (engine.find_vm(place) for place in engine.directories(self.pods)) if self.pods else ()
        vmms = {vm.pid: parts for vm in of_pods if vm and (parts := of_vmm(vm.pid))}
        return Usage(group_ms(self.group), vmms)

    def sandbox(self, name: str) -> Any:
        """The request for a pod. Its cgroup is the runtime's own choice, the log's directory is below ours."""
        return self.cri.sandbox(name, log_directory=f"{self.directory}/logs")

    async def settle(self) -> None:
        """Wait until the pool is full again."""
        if self.pool:
            await self.cri.warmed(self.pool, limit_s=250)


def group_ms(group: str) -> float:
    """Processor time of all that are or were in a cgroup of version 2."""
    fields = dict(line.split() for line in Path(f"{group}/cpu.stat").read_text(encoding="ascii").splitlines())
    return int(fields["usage_usec"]) / 1000


def memory_mib(group: str) -> dict[str, float]:
    """Memory of all that are in it: `rss_mib` has what they share once for each of them, `pss_mib` once in all."""
    sizes = [footprint.rollup(pid) for pid in cgroup.members(group)]
    return {f"{kind.lower()}_mib": round(sum(size[kind] for size in sizes) / 1024, 1) for kind in ("Rss", "Pss")}


def of_vmm(pid: int) -> tuple[float, float] | None:
    """Milliseconds of a VMM's threads that are no vCPU, and of those that are; None when it has ended.

    QEMU does not name its threads by itself. With one vCPU that is by far the busiest of those that it has started.
    """
    try:
        tasks = [Path(f"/proc/{pid}/task/{one}") for one in os.listdir(f"/proc/{pid}/task")]
        times = {int(one.name): (one / "comm").read_text().strip() for one in tasks}
        spent = {int(one.name): int((one / "schedstat").read_text().split()[0]) / 1e6 for one in tasks}
    except OSError:
        return None
    return parted(pid, times, spent)


def parted(pid: int, names: dict[int, str], spent: dict[int, float]) -> tuple[float, float]:
    """The same, of threads by their ids. Pure."""
    guest = [spent[one] for one, name in names.items() if name.startswith("CPU ")]
    if not guest:
        guest = [max((ms for one, ms in spent.items() if one != pid), default=0.0)]
    return sum(spent.values()) - sum(guest), sum(guest)


@asynccontextmanager
async def clearpod(name: str, image: str, *, root: Path, net: OuterNet, pool: int = 0) -> AsyncIterator[Runtime]:
    """A daemon with `pool` VMs that wait."""
    guest = os.environ.get("CLEARPOD_GUEST_DIR", str(ROOT / "build" / "guest"))
    (root / "logs").mkdir(parents=True)
    (root / "net.d").symlink_to(net.root / "net.d")
    config = root / "config.toml"
    config.write_text(CLEARPOD.format(root=root, guest=guest, bin=BIN_DIR, pool=pool), encoding="utf-8")
    argv = [sys.executable, "-m", "cri", "serve", "--config", str(config)]
    with _in_memory(root / "run"):
        async with _served(name, argv, root=root, socket=f"{root}/run/clearpod.sock", image=image) as (cri, group):
            try:
                yield Runtime(name, cri, group, root, f"{root}/run", pool)
            finally:
                await _remove_pods(cri)
        for place in engine.directories(f"{root}/run"):
            engine.clean_up(place)


@asynccontextmanager
async def containerd(image: str, *, root: Path, net: OuterNet, pause: str) -> AsyncIterator[Runtime]:
    """Debian's, with runc; `pause` is the image of its sandboxes."""
    (root / "logs").mkdir(parents=True)
    (root / "net.d").symlink_to(net.root / "net.d")
    config = root / "config.toml"
    config.write_text(CONTAINERD.format(root=root, bin=BIN_DIR, pause=pause), encoding="utf-8")
    argv, known = ["containerd", "--config", str(config)], _shared()
    with _in_memory(root / "state"):
        async with _served("containerd", argv, root=root, socket=f"{root}/c.sock", image=image) as (cri, group):
            try:
                yield Runtime("containerd", cri, group, root)
            finally:
                await _remove_pods(cri)
    for target in reversed(mount.mounts_below(str(root))):
        mount.umount(target, lazy=True)
    for place in _shared() - known:
        with suppress(OSError):  # somebody else has come to use it
            place.rmdir()


@contextmanager
def _in_memory(directory: Path) -> Iterator[None]:
    directory.mkdir()
    mount.mount("tmpfs", str(directory), "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=0711")
    try:
        yield
    finally:
        mount.umount(str(directory), lazy=True)


def _shared() -> set[Path]:
    """Directories that any containerd makes, whatever its configuration says, and leaves."""
    cgroups = [*Path(cgroup.ROOT).glob("k8s.io"), *Path(cgroup.ROOT).glob("*/k8s.io")]
    return {one for one in (*cgroups, *map(Path, SHARED)) if one.is_dir()}


async def _remove_pods(cri: Client) -> None:
    for pod in (await cri("ListPodSandbox")).items:
        await cri("StopPodSandbox", pod_sandbox_id=pod.id, deadline_s=60)
        await cri("RemovePodSandbox", pod_sandbox_id=pod.id, deadline_s=60)


@asynccontextmanager
async def _served(
    name: str, argv: list[str], *, root: Path, socket: str, image: str
) -> AsyncIterator[tuple[Client, str]]:
    """The daemon in a cgroup of its own, once it answers."""
    group = cgroup.place("", f"clearpod-bench-{os.getpid()}-{name}")
    os.makedirs(group)
    daemon = _spawn(["sh", "-c", IN_CGROUP, group, *argv], root / "daemon.log")
    try:
        cri = Client(socket, None, image)  # type: ignore[arg-type]
        try:
            await _answers(cri, daemon, log=root / "daemon.log")
            yield cri, group
        finally:
            await cri.close()
    finally:
        await asyncio.to_thread(_end, daemon)
        await asyncio.to_thread(cgroup.end, group)


def _spawn(argv: list[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        return subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _end(daemon: "subprocess.Popen[bytes]") -> None:
    daemon.terminate()
    try:
        daemon.wait(END_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


async def _answers(cri: Client, daemon: "subprocess.Popen[bytes]", *, log: Path) -> None:
    """Wait until it does. Raises RuntimeError when it has ended, TimeoutError."""
    async with asyncio.timeout(START_S):
        while True:
            try:
                status = (await cri("Status")).status
                if all(one.status for one in status.conditions):
                    return
            except aio.AioRpcError:
                pass
            if daemon.poll() is not None:
                raise RuntimeError(f"{daemon.args} has ended:\n{log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(0.05)
