# SPDX-License-Identifier: Apache-2.0
"""A machine for a node, apart from everything else on this one: namespaces, a cgroup, images in a registry, and
clearpod.

Called by the fixtures in conftest.py. The kubelet is `kubelet.py`'s. When it ends, nothing of it is left, or it fails.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from cri.pb import runtime_pb2 as pb
from cri.pb import runtime_pb2_grpc as rpc
from tests.fakes import places, sample
from tests.fakes.host_state import HostState
from tests.fakes.oci_layout import Layer, Layout, directory, file, tar
from tests.fakes.outer_net import BIN_DIR, OuterNet, outer_net
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry, free_port
from tests.kubernetes import configuration
from tests.kubernetes.configuration import KERNEL, NODE_IP, Place

CHECKOUT = Path(__file__).parents[2]
CGROUPS = Path("/sys/fs/cgroup")
START_S = 60 * PATIENCE
FILES = 300
"""Names enough for a directory of more than one block."""


def until(probe: Callable[[], Any], *, within_s: float, what: str, log: Path | None = None) -> Any:
    """The first answer of `probe` that counts as true; an AssertionError is an answer that does not."""
    deadline, output = time.monotonic() + within_s * PATIENCE, ""
    while time.monotonic() < deadline:
        try:
            if result := probe():
                return result
        except AssertionError as error:
            output = str(error)
        time.sleep(0.3)
    tail = log.read_text(errors="replace")[-3000:] if log else ""
    raise AssertionError(f"{what} did not come within {within_s:g} s: {output}\n{tail}")


class Node:
    """A running clearpod and what a kubelet needs in addition. `image` names a busybox that declares a volume,
    /data.
    """

    def __init__(self, place: Place, net: OuterNet, guest_dir: Path) -> None:
        self.place, self.root, self.image = place, place.root, ""
        self._net, self._guest_dir = net, guest_dir
        self._inside = [*_mounts_of_its_own(place.root)]
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: list[str]) -> None:
        """Run a program among the node's mounts; its output goes to NAME.log."""
        with (self.root / f"{name}.log").open("ab") as log:
            inside = self._inside if name != "holder" else []
            env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}  # nsenter changes to the root directory
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "env": env}
            self._running[name] = subprocess.Popen([*inside, *argv], **options)

    def stop(self, name: str, *, kill: bool = False) -> None:
        """End one of them in its orderly way, or as a crash would; nothing when it does not run."""
        if running := self._running.pop(name, None):
            running.kill() if kill else running.terminate()
            try:
                running.wait(30 * PATIENCE)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()

    def pid(self, name: str) -> int:
        """Of a running program."""
        return self._running[name].pid

    def log(self, name: str) -> Path:
        """What the program has written."""
        return self.root / f"{name}.log"

    def serve(self) -> None:
        """Start clearpod and wait until it answers."""
        settings = self._net.settings
        network = {"conf_dir": settings.conf_dir, "bin_dir": BIN_DIR, "cache": settings.cache_dir}
        config = self.root / "config.toml"
        config.write_text(configuration.clearpod(self.place, self._guest_dir, network=network))
        self.start("serve", [sys.executable, "-m", "cri", "serve", "--config", str(config)])
        until(lambda: self.call("Version"), within_s=START_S, what="clearpod", log=self.log("serve"))

    def call(self, name: str, **fields: Any) -> Any:
        """A call of the CRI."""
        with grpc.insecure_channel(f"unix:{self.place.socket}") as channel:
            stub = rpc.RuntimeServiceStub(channel)
            try:
                return getattr(stub, name)(getattr(pb, f"{name}Request")(**fields), timeout=60 * PATIENCE)
            except grpc.RpcError as error:
                raise AssertionError(f"{name}: {error}") from error

    def sandbox(self, name: str) -> dict[str, Any]:
        """The verbose part of `crictl inspectp` for the newest sandbox of a pod."""
        with_name = {"io.kubernetes.pod.name": name}
        items = self.call("ListPodSandbox", filter=pb.PodSandboxFilter(label_selector=with_name)).items
        assert items, f"no sandbox of {name}"
        newest = max(items, key=lambda item: int(item.created_at))
        result: dict[str, Any] = json.loads(
            self.call("PodSandboxStatus", pod_sandbox_id=newest.id, verbose=True).info["info"]
        )
        return result

    def cgroups_of_pods(self) -> list[Path]:
        """Those that the kubelet has made for pods, in every hierarchy."""
        return [path for top in _tops() for path in (top / self.place.cgroup).rglob("pod*") if path.is_dir()]

    def remove_pods(self) -> None:
        """As a drained node."""
        for item in self.call("ListPodSandbox").items:
            self.call("RemovePodSandbox", pod_sandbox_id=item.id)

    def push(self, registry: Registry) -> None:
        """The image: a volume with content, and a directory that reproducible builds make."""
        same = [file(f"many/file-with-a-long-name-{number:04}", mtime=0) for number in range(FILES)]
        volume = [
            directory("data/"),
            file("data/from-the-image", b"content\n"),
            file("probe", _probe(self.root), 0o755),
        ]
        layer = Layer(tar([directory("many/", mtime=0), *same, *volume]))
        layout = Layout(self.root / "layout")
        config = {"Cmd": ["sh"], "Env": ["PATH=/bin", "FROM_IMAGE=1"], "Volumes": {"/data": {}}}
        made = layout.image([sample.busybox(self._guest_dir), layer], config=config)
        self.image = registry.push(layout.tag("1", made), "t/web:1")

    def end(self) -> None:
        """Stop everything; the VMs last, by the daemon that has them."""
        for name in [name for name in self._running if name != "serve"]:
            self.stop(name)
        if "serve" in self._running:
            self.remove_pods()
            self.stop("serve")


def _probe(place: Path) -> bytes:
    """The program that tests of volumes run in containers."""
    source = CHECKOUT / "tests/cri/probe.c"
    subprocess.run(["musl-gcc", "-static", "-Os", "-s", "-o", place / "probe", source], check=True, timeout=60)
    return (place / "probe").read_bytes()


def _mounts_of_its_own(root: Path) -> Iterator[str]:
    """A command line that runs something among mounts that are nobody else's. In them /var/lib and /var/log are empty,
    and the kernel's parameters are what the kubelet would set.
    """
    shown = []
    for number, (name, value) in enumerate(KERNEL.items()):
        (root / f"kernel-{number}").write_text(f"{value}\n")
        shown.append(f"mount --bind {root}/kernel-{number} /proc/sys/{name}")
    hidden = [f"mount -t tmpfs none {path}" for path in ("/var/lib", "/var/log")]
    held = root / "mounts"
    held.touch()
    script = " && ".join(["mount --make-rshared /", *hidden, *shown])
    # A namespace is kept by a bind mount of it, which has to be outside of it, on a mount that is private.
    subprocess.run(["mount", "--bind", "--make-private", str(root), str(root)], check=True)
    subprocess.run(["unshare", f"--mount={held}", "--propagation=private", "sh", "-c", script], check=True)
    yield from ("nsenter", f"--mount={held}", "--")


def _give_mounts_back(root: Path) -> None:
    for path in (root / "mounts", root):
        subprocess.run(["umount", "-l", str(path)], check=True)


def _tops() -> list[Path]:
    """The hierarchies: one of version 2, or all of version 1 and what is beside them."""
    tops = [path.parent for path in (*CGROUPS.glob("cgroup.procs"), *CGROUPS.glob("*/cgroup.procs"))]
    return tops[:1] if tops[:1] == [CGROUPS] else tops


@contextmanager
def cgroup(name: str) -> Iterator[None]:
    """A cgroup for the kubelet's in each hierarchy, which has to be empty at the end."""
    tops = _tops()
    for top in tops:
        (top / name).mkdir()
        for copied in ("cpuset.cpus", "cpuset.mems"):
            if (top / copied).exists():
                (top / name / copied).write_text((top / copied).read_text())
    try:
        yield
    finally:
        for top in tops:
            made = sorted((path for path in (top / name).rglob("*") if path.is_dir()), reverse=True)
            for path in (*made, top / name):
                until(lambda path=path: _is_removed(path), within_s=10, what=f"the end of {path}")


def _is_removed(path: Path) -> bool:
    """Removes it, once those who were in it are gone."""
    try:
        os.rmdir(path)
    except OSError as error:
        raise AssertionError(f"{error}: {(path / 'cgroup.procs').read_text().split()}") from error
    return True


@contextmanager
def node(guest_dir: Path) -> Iterator[Node]:
    """The calling thread is in the node's network namespace until it ends."""
    with places.short_directory("kn") as name:
        root = Path(name)
        for made_before in ("run/pods", "run/run/pods", "run/run/locks", "run/run/names", "state", "tmp"):
            (root / made_before).mkdir(parents=True)
        before = HostState(root).seen()
        with outer_net(root / "net") as net, cgroup(f"clearpod-test-{root.name}"):
            subprocess.run(["ip", "address", "add", f"{NODE_IP}/32", "dev", "lo"], check=True)
            made = Node(_place(root), net, guest_dir)
            try:
                with Registry(root / "registry") as registry:
                    made.push(registry)
                    made.serve()
                    yield made
                    made.end()
            finally:
                _kill(made, root)
                _give_mounts_back(root)
        (root / "run/daemon.lock").unlink(missing_ok=True)
        left = HostState(root).added(before, within_s=2)
        assert left == {}, left


def _place(root: Path) -> Place:
    ports = [free_port() for _ in range(4)]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Place(root, f"clearpod-test-{root.name}", *ports, host_mib=pages >> 20)


def _kill(made: Node, root: Path) -> None:
    """What a failure has left running."""
    for name in [*made._running]:
        made.stop(name, kill=True)
    for pid in HostState(root).vmms():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not HostState(root).vmms(), within_s=30, what="the end of the virtual machines")
