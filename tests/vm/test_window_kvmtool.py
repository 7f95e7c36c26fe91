# SPDX-License-Identifier: Apache-2.0
"""The DAX window under the real kvmtool: CRI pods whose containers' images are mapped into the running VM."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from cri.config import Config
from cri.image.pull import pull_blocking
from cri.pb import runtime_pb2 as pb
from cri.pb import runtime_pb2_grpc as rpc
from cri.store.images import ImageStore
from stage1.linux import mount
from stage1.linux.host import host_facts
from stage1.vm import mapping
from stage1.vm.choose import kvmtool_lacks
from tests.fakes.oci_layout import CAP_NET_RAW, Entry, Layer, Layout, file, tar
from tests.vm.agent_machine import make_image
from tests.vm.test_window_qemu import busybox_layer

pytestmark = [pytest.mark.vm, pytest.mark.kvmtool, pytest.mark.timeout(1800)]

CHECKOUT = Path(__file__).parents[2]
MIB = 1 << 20
CALL_S = 200.0
START_S = 400.0
"""Python alone takes a minute to start where all is emulated."""
ROUNDS = 50
NET_RAW = 1 << 13
LONG = ["sh", "-c", "echo begun; while :; do sleep 1; done"]
CONSTANTS = """
#include <fcntl.h>
#include <unistd.h>
static const char block[65536] = {[0 ... 65535] = 'k'};
int main(int argc, char **argv)
{
    int fd = open(argv[1], O_WRONLY | O_CREAT, 0644);
    return fd < 0 || write(fd, block, sizeof block) != sizeof block;
}
"""
MEMORY_WORD, WINDOW_WORD = "clearpod.io/memory-mib", "clearpod.io/dax-window-mib"


@pytest.fixture(autouse=True, scope="module")
def _can_run_kvmtool(guest_dir: Path) -> None:
    if lacks := kvmtool_lacks(host_facts()):
        pytest.skip("; ".join(lacks))
    if not (guest_dir / "lkvm-shim.so").exists():
        pytest.skip(f"no lkvm-shim.so in {guest_dir}: images/build shim")


class Node:
    """A daemon that can be killed and started again, and its client; `images` maps names to references."""

    def __init__(self, root: Path, run_dir: str, guest_dir: Path) -> None:
        self.root, self.run_dir, self.state = root, run_dir, root / "state"
        self.config, self.images = root / "config.toml", dict[str, str]()
        self.config.write_text(
            f'run_dir = "{run_dir}"\nstate_dir = "{self.state}"\n[guest]\ndir = "{guest_dir}"\n'
            '[vm]\nhypervisor = "kvmtool"\nscratch_mib = 64\nboot_timeout_s = 200\n'
        )
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        argv = [sys.executable, "-m", "cri", "serve", "--config", str(self.config)]
        with (self.root / "serve.log").open("ab") as log:
            seen = self.log().count("serving socket")
            self.daemon = subprocess.Popen(argv, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while self.log().count("serving socket") == seen:
            assert self.daemon.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.2)
        # A new one each time: a channel that has failed waits longer and longer.
        self._stub = rpc.RuntimeServiceStub(grpc.insecure_channel(f"unix:{self.run_dir}/clearpod.sock"))
        self("Version")

    def log(self) -> str:
        """What the daemon has logged."""
        return (self.root / "serve.log").read_text()

    def kill(self) -> None:
        """End the daemon as a crash would."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def __call__(self, name: str, *, limit_s: float = CALL_S, **fields: Any) -> Any:
        return getattr(self._stub, name)(getattr(pb, f"{name}Request")(**fields), timeout=limit_s, wait_for_ready=True)

    def pod(self, name: str, **annotations: str) -> str:
        """Run a sandbox; underscores in the names of annotations are those of the constants above."""
        names = pb.PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}")
        said = {{"memory": MEMORY_WORD, "window": WINDOW_WORD}[key]: text for key, text in annotations.items()}
        linux = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(privileged=True))
        logs = f"{self.root}/logs"
        config = pb.PodSandboxConfig(metadata=names, annotations=said, log_directory=logs, linux=linux)
        return str(self("RunPodSandbox", config=config).pod_sandbox_id)

    def create(
        self,
        pod: str,
        image: str,
        argv: list[str],
        *,
        name: str,
        uid: int = 0,
        privileged: bool = False,
        volume: str = "",
    ) -> str:
        """Create a container; `volume` is a directory of the host, which it sees as /volume."""
        user = pb.LinuxContainerSecurityContext(run_as_user=pb.Int64Value(value=uid), privileged=privileged)
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name),
            image=pb.ImageSpec(image=self.images[image]),
            command=argv,
            log_path=f"{name}.log",
            linux=pb.LinuxContainerConfig(security_context=user),
            mounts=[pb.Mount(host_path=volume, container_path="/volume")] if volume else [],
        )
        return str(self("CreateContainer", pod_sandbox_id=pod, config=config).container_id)

    def run(self, pod: str, image: str, argv: list[str], *, name: str, uid: int = 0) -> str:
        """Create and start."""
        container = self.create(pod, image, argv, name=name, uid=uid)
        self("StartContainer", container_id=container)
        return container

    def exec(self, container: str, script: str) -> str:
        """What a shell says in the container."""
        reply = self("ExecSync", container_id=container, cmd=["sh", "-c", script], timeout=100)
        assert reply.exit_code == 0, reply
        return str(reply.stdout.decode())

    def way(self, container: str) -> str:
        """What verbose status says of the image."""
        reply = self("ContainerStatus", container_id=container, verbose=True)
        return str(json.loads(reply.info["info"])["image"])

    def remove(self, container: str) -> None:
        """RemoveContainer."""
        self("RemoveContainer", container_id=container)

    def directory(self, pod: str) -> str:
        """The pod's."""
        return f"{self.run_dir}/pods/{pod}"

    def in_window(self, pod: str) -> list[tuple[int, int]]:
        """What the record says lies in the pod's window: (offset, size)."""
        window = mapping.find(self.directory(pod))
        assert window is not None
        return [(image.offset, image.size) for image in window.images]

    def mapped_files(self, pod: str) -> list[str]:
        """Files of the store that the pod's VMM has mapped."""
        pid = json.loads(Path(self.directory(pod), "vm.json").read_text())["pid"]
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        return [line.split(maxsplit=5)[5] for line in lines if str(self.state) in line]


def image_of(root: Path, name: str, *layers: list[Entry]) -> str:
    """An OCI layout with an image of these layers; returns its reference."""
    layout = Layout(root / f"layout-{name}")
    return layout.tag("1", layout.image([Layer(tar(layer), "") for layer in layers]))


def compiled(source: str, directory: Path) -> bytes:
    """A static program of this C source."""
    path = directory / "program"
    argv = ["musl-gcc", "-static", "-Os", "-xc", "-", "-o", str(path)]
    subprocess.run(argv, input=source, text=True, check=True, timeout=100)
    return path.read_bytes()


def make_images(root: Path, state: Path) -> dict[str, str]:
    """Small images `one`, `two` (two layers, a program with a capability), `constants`, `victim`, a big one; pulled."""
    make_image(root / "tree")
    base = busybox_layer(root / "tree")
    busybox = next(entry.data for entry in base if entry.name == "bin/busybox")
    capable = (("security.capability", CAP_NET_RAW),)
    top = [file("data", b"two" * 100_000), file("capable/grep", busybox, 0o755, xattrs=capable)]
    references = {
        "one": image_of(root, "one", [*base, file("data", b"one" * 100_000)]),
        "two": image_of(root, "two", base, top),
        "big": image_of(root, "big", base, [file("big", bytes(14 * MIB))]),
        "constants": image_of(root, "constants", [*base, file("constants", compiled(CONSTANTS, root), 0o755)]),
        "victim": image_of(root, "victim", [*base, file("data", b"vic" * MIB)]),
    }
    store = ImageStore(str(state))
    try:
        return {name: pull_blocking(store, ref, config=Config()).id for name, ref in references.items()}
    finally:
        store.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a small ext4 `state` in it: erofs can't be mounted from a file in memory."""
    root = tmp_path_factory.mktemp("window")
    disk, state = root / "state.img", root / "state"
    state.mkdir()
    with disk.open("wb") as sparse:
        sparse.truncate(256 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", disk], check=True, timeout=100)
    subprocess.run(["mount", "-o", "loop", disk, state], check=True, timeout=100)
    try:
        yield root
    finally:
        mount.umount(str(state), lazy=True)


class Scene(NamedTuple):
    """A pod with a window of 16 MiB, and `watch`, a container of the image `one` that runs all the time."""

    node: Node
    pod: str
    watch: str

    def mounts(self) -> list[str]:
        """The guest's mounts of images in the window: the pod's first process shows them."""
        said = self.node.exec(self.watch, "grep /run/clearpod/window/ /proc/1/mountinfo; true")
        return said.splitlines()

    def check(self) -> None:
        """Nothing is in the window but the image of `watch`."""
        assert len(self.node.in_window(self.pod)) == len(self.mounts()) == 1
        assert len(self.node.mapped_files(self.pod)) == 2  # merged.erofs and its one layer


@pytest.fixture(scope="module")
def shared(place: Path, guest_dir: Path) -> Iterator[Scene]:
    """The scene of all tests here: boots are dear where KVM is emulated."""
    with tempfile.TemporaryDirectory(prefix="cw", dir="/tmp") as run_dir:
        node = Node(place, run_dir, guest_dir)
        node.images = make_images(place, node.state)
        node.start()
        pod = node.pod("scene", window="16")
        assert node.in_window(pod) == []
        yield Scene(node, pod, node.run(pod, "one", LONG, name="watch"))
        node("RemovePodSandbox", pod_sandbox_id=pod)
        assert node.daemon is not None
        node.daemon.send_signal(signal.SIGTERM)
        node.daemon.wait(60)
        assert mount.mounts_below(run_dir) == []


@pytest.fixture
def scene(shared: Scene, results: Path) -> Iterator[Scene]:
    """The scene, which a test leaves as it was."""
    yield shared
    if shared.node.daemon is None or shared.node.daemon.poll() is not None:
        shared.node.start()
    (results / "serve.log").write_text(shared.node.log())
    (results / "console.log").write_bytes(Path(shared.node.directory(shared.pod), "console.log").read_bytes())
    for container in shared.node("ListContainers").containers:
        if container.id != shared.watch:
            shared.node.remove(container.id)
    shared.check()


def test_containers_of_two_images_that_came_after_the_boot(scene: Scene) -> None:
    node, pod = scene.node, scene.pod
    again, second = (node.run(pod, image, LONG, name=image) for image in ("one", "two"))
    for container, image in ((scene.watch, "one"), (again, "one"), (second, "two")):
        assert node.way(container).startswith("dax window at ")
        assert node.exec(container, "head -c 3 /data") == image
    assert node.way(scene.watch) == node.way(again) != node.way(second)
    mounts = scene.mounts()
    print(*mounts, sep="\n")
    assert len(mounts) == 2 and all(" erofs /dev/pmem1p" in line and "dax=always" in line for line in mounts)
    assert node.exec(again, "echo new > /data; cat /data") == "new\n"
    assert node.exec(scene.watch, "head -c 3 /data") == "one"
    assert Path(node.root, "logs/one.log").read_text().endswith("stdout F begun\n")
    node("StopContainer", container_id=again, timeout=1)
    node.remove(again)
    assert len(node.in_window(pod)) == 2
    node.remove(second)
    scene.check()


def test_file_capabilities_work(scene: Scene) -> None:
    node = scene.node
    argv = ["/capable/grep", "^CapEff", "/proc/self/status"]
    container = node.run(scene.pod, "two", argv, name="capable", uid=1000)
    log = Path(node.root, "logs/capable.log")
    deadline = time.monotonic() + CALL_S
    while not (log.exists() and "CapEff" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert node.way(container).startswith("dax window")
    assert int(log.read_text().split()[-1], 16) == NET_RAW


def test_a_program_writes_what_lies_in_its_image_to_a_volume(scene: Scene, tmp_path: Path) -> None:
    node = scene.node
    container = node.create(scene.pod, "constants", LONG, name="constants", volume=str(tmp_path))
    node("StartContainer", container_id=container)
    assert node.exec(container, "/constants /volume/file && wc -c < /volume/file") == "65536\n"
    assert (tmp_path / "file").read_bytes() == b"k" * 65536


def test_what_a_guest_writes_never_reaches_a_file(scene: Scene) -> None:
    node = scene.node
    files = sorted(path for path in node.mapped_files(scene.pod) if path.endswith(".erofs"))
    before = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files]
    root = node.create(scene.pod, "one", LONG, name="root", privileged=True)
    node("StartContainer", container_id=root)
    script = (
        "mkdir /s; mount -t sysfs s /s; mknod /w b $(tr : ' ' < /s/block/pmem1/dev);"
        "dd if=/bin/busybox of=/w bs=4096 count=16 conv=fsync 2>&1; true"
    )
    assert "16+0 records out" in node.exec(root, script)
    assert [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files] == before
    assert node.exec(scene.watch, "head -c 3 /data") == "one"


def test_an_image_that_does_not_fit_comes_by_the_layers_export(scene: Scene) -> None:
    node = scene.node
    container = node.run(scene.pod, "big", LONG, name="big")
    assert node.way(container).startswith("layers export: the image needs ")
    assert node.exec(container, "wc -c < /big") == f"{14 * MIB}\n"
    again = node.create(scene.pod, "big", LONG, name="big2")
    assert node.way(again) == node.way(container)
    assert node.log().count("window.unused") == 1


def test_fifty_images_one_after_the_other_leave_nothing(scene: Scene) -> None:
    node = scene.node

    def free_kib() -> int:
        return int(node.exec(scene.watch, "sync; grep MemFree /proc/meminfo").split()[1])

    def through(number: int) -> None:
        node.remove(node.create(scene.pod, "two", LONG, name=f"n{number}"))

    for number in range(3):
        through(number)
    before = free_kib()
    for number in range(3, 3 + ROUNDS):
        through(number)
    after = free_kib()
    print(f"guest MemFree before and after {ROUNDS} images: {before} and {after} KiB")
    assert before - after < ROUNDS * 32


class Proxy:
    """Stands between the daemon and the window of a pod, and kills the daemon at the first request that begins so."""

    def __init__(self, node: Node, pod: str, word: str, *, passes_on: bool) -> None:
        self._node, self._word, self._passes_on = node, word, passes_on
        self._path = f"{node.directory(pod)}/dax.sock"
        self.killed_at = ""
        os.rename(self._path, f"{self._path}.real")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self._path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        os.rename(f"{self._path}.real", self._path)

    def _serve(self) -> None:
        while not self.killed_at:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as real:
                real.connect(f"{self._path}.real")
                self._pass_on(peer, real)

    def _pass_on(self, peer: socket.socket, real: socket.socket) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(peer, 200, 1)
            if not data:
                return
            is_it = data.decode().startswith(self._word)
            if self._passes_on or not is_it:
                socket.send_fds(real, [data], fds)
                answer = real.recv(500)
            for fd in fds:
                os.close(fd)
            if is_it:
                self._node.kill()
                self.killed_at = data.decode()
                return
            peer.send(answer)


@pytest.mark.parametrize(("word", "passes_on"), [("map", True), ("unmap", False)], ids=["mapping", "releasing"])
def test_a_daemon_that_is_killed_half_way_leaves_nothing(scene: Scene, word: str, passes_on: bool) -> None:
    """Between map and mount, or between unmount and release."""
    node = scene.node
    container = node.create(scene.pod, "two", LONG, name="before") if word == "unmap" else ""
    with Proxy(node, scene.pod, word, passes_on=passes_on) as proxy, pytest.raises(grpc.RpcError):
        node.remove(container) if container else node.create(scene.pod, "two", LONG, name="never")
    assert proxy.killed_at.startswith(word)
    assert len(node.in_window(scene.pod)) == 2
    node.start()
    scene.check()
    assert node.way(scene.watch).startswith("dax window")
    assert node.exec(scene.watch, "head -c 3 /data") == "one"


def test_an_image_that_is_removed_and_cut_while_it_is_mapped_ends_no_vm(scene: Scene) -> None:
    node = scene.node
    victim = node.run(scene.pod, "victim", LONG, name="victim")
    layer = next(path for path in node.mapped_files(scene.pod) if Path(path).stat().st_size > 4 * MIB)
    with open(layer, "r+b") as file_:
        os.unlink(layer)
        assert node.exec(victim, "cksum < /data; head -c 3 /data").endswith("vic")
        file_.truncate(4096)
        said = node("ExecSync", container_id=victim, cmd=["cksum", "/data"], timeout=100)
    print(said)
    assert node.exec(scene.watch, "head -c 3 /data") == "one"
