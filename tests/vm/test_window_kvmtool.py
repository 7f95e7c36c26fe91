# SPDX-License-Identifier: Apache-2.0
"""The DAX window under the real kvmtool: CRI pods whose containers' images are mapped into the running VM."""

import hashlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from stage1.linux import mount
from stage1.vm import hypervisors, kvmtool
from stage1.vm.choose import lacks
from tests.fakes import places
from tests.fakes.patience import PATIENCE
from tests.vm.window_node import CALL_S, MIB, Node, make_images

pytestmark = [pytest.mark.vm, pytest.mark.kvmtool, pytest.mark.timeout(1800)]

ROUNDS = 50
NET_RAW = 1 << 13
LONG = ["sh", "-c", "echo begun; while :; do sleep 1; done"]


@pytest.fixture(autouse=True, scope="module")
def _can_run_kvmtool(guest_dir: Path) -> None:
    if missing := lacks(kvmtool.HYPERVISOR, hypervisors.facts()):
        pytest.skip("; ".join(missing))
    if not (guest_dir / "lkvm-shim.so").exists():
        pytest.skip(f"no lkvm-shim.so in {guest_dir}: images/build shim")


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
        output = self.node.exec(self.watch, "grep /run/clearpod/window/ /proc/1/mountinfo; true")
        return output.splitlines()

    def check(self) -> None:
        """Nothing is in the window but the image of `watch`."""
        assert len(self.node.in_window(self.pod)) == len(self.mounts()) == 1
        assert len(self.node.mapped_files(self.pod)) == 2  # merged.erofs and its one layer

    def settled(self) -> None:
        """The same by and by: a daemon that starts serves first, and then removes what the last one left half made."""
        deadline = time.monotonic() + 10 * PATIENCE
        while len(self.node.in_window(self.pod)) > 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        self.check()


@pytest.fixture(scope="module")
def shared(place: Path, guest_dir: Path) -> Iterator[Scene]:
    """The scene of all tests here: boots are dear where KVM is emulated."""
    with places.short_directory("cw") as run_dir:
        node = Node(place, run_dir, guest_dir)
        node.images = make_images(place, node.state)
        node.start()
        pod = node.pod("scene", window="16")
        assert node.in_window(pod) == []
        yield Scene(node, pod, node.run(pod, "one", LONG, name="watch"))
        node("RemovePodSandbox", pod_sandbox_id=pod)
        assert node.daemon is not None
        node.daemon.send_signal(signal.SIGTERM)
        node.daemon.wait(60 * PATIENCE)
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
    second_, second = (node.run(pod, image, LONG, name=image) for image in ("one", "two"))
    for container, image in ((scene.watch, "one"), (second_, "one"), (second, "two")):
        assert node.source(container).startswith("dax window at ")
        assert node.exec(container, "head -c 3 /data") == image
    assert node.source(scene.watch) == node.source(second_) != node.source(second)
    mounts = scene.mounts()
    print(*mounts, sep="\n")
    assert len(mounts) == 2 and all(" erofs /dev/pmem1p" in line and "dax=always" in line for line in mounts)
    assert node.exec(second_, "echo new > /data; cat /data") == "new\n"
    assert node.exec(scene.watch, "head -c 3 /data") == "one"
    assert Path(node.root, "logs/one.log").read_text().endswith("stdout F begun\n")
    node("StopContainer", container_id=second_, timeout=1)
    node.remove(second_)
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
    assert node.source(container).startswith("dax window")
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
    assert node.source(container).startswith("layers export: the image needs ")
    assert node.exec(container, "wc -c < /big") == f"{14 * MIB}\n"
    second_ = node.create(scene.pod, "big", LONG, name="big2")
    assert node.source(second_) == node.source(container)
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
def test_a_daemon_that_is_killed_midway_leaves_nothing(scene: Scene, word: str, passes_on: bool) -> None:
    """Between map and mount, or between unmount and release."""
    node = scene.node
    container = node.create(scene.pod, "two", LONG, name="before") if word == "unmap" else ""
    with Proxy(node, scene.pod, word, passes_on=passes_on) as proxy, pytest.raises(grpc.RpcError):
        node.remove(container) if container else node.create(scene.pod, "two", LONG, name="never")
    assert proxy.killed_at.startswith(word)
    assert len(node.in_window(scene.pod)) == 2
    node.start()
    scene.settled()
    assert node.source(scene.watch).startswith("dax window")
    assert node.exec(scene.watch, "head -c 3 /data") == "one"


def test_an_image_that_is_removed_and_cut_while_it_is_mapped_ends_no_vm(scene: Scene) -> None:
    node = scene.node
    victim = node.run(scene.pod, "victim", LONG, name="victim")
    layer = next(path for path in node.mapped_files(scene.pod) if Path(path).stat().st_size > 4 * MIB)
    with open(layer, "r+b") as file_:
        os.unlink(layer)
        assert node.exec(victim, "cksum < /data; head -c 3 /data").endswith("vic")
        file_.truncate(4096)
        output = node("ExecSync", container_id=victim, cmd=["cksum", "/data"], timeout=100)
    print(output)
    assert node.exec(scene.watch, "head -c 3 /data") == "one"
