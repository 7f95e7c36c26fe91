# SPDX-License-Identifier: Apache-2.0
"""The agent's end of the DAX window, in a guest whose window is RAM that QEMU has loaded images into: no KVM is needed.

The images never change here. That they can be exchanged in a running VM is for test_window_kvmtool.py to show.
"""

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cri.config import Config
from cri.store.images import ImageStore
from stage1.errors import AgentFailed, AlreadyExists, BadRequest, NotFound, PodError, WrongState
from stage1.guest.messages import Configure, Delete, MountImage, UnmountImage
from stage1.rootfs.flat import Piece, flatten
from stage1.rootfs.share import ImageFiles
from tests.fakes.oci_layout import CAP_NET_RAW, Entry, Layer, Layout, file, tar
from tests.fakes.pulled import pull_blocking
from tests.vm.agent_machine import GUEST_DIR, Machine, make_image, missing

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(missing()), reason=missing() or "all there"),
]

MIB = 1 << 20
WINDOW_AT, WINDOW_BYTES = 256 * MIB, 128 * MIB
APART = 16 * MIB
"""Where the second image begins."""
ROUNDS = 50
NET_RAW = 1 << 13
DATA = bytes(range(256)) * 4096


class Placed(NamedTuple):
    """An image in the window."""

    name: str
    offset: int
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return self.pieces[-1].offset + self.pieces[-1].size

    def mount(self) -> MountImage:
        """The request for it."""
        return MountImage(self.name, self.offset, self.size)


class WindowMachine(Machine):
    """A PC: on microvm, which has no PCI, the kernel makes no device of a `memmap=` range."""

    def __init__(self, work: Path, placed: list[Placed]) -> None:
        self._placed = placed
        super().__init__(work)

    def _start(self, arguments: tuple[str, ...]) -> None:
        line = ["console=ttyS0", "panic=-1", "reboot=t", "quiet", "tsc=reliable", "no_timer_check",
                f"memmap={WINDOW_BYTES:#x}!{WINDOW_AT:#x}", "clearpod.link=serial", "clearpod.system=/dev/vda",
                "clearpod.window=/dev/pmem0", *arguments]  # fmt: skip
        argv: list[str | Path] = ["qemu-system-x86_64", "-M", "pc", "-accel", "tcg", "-cpu", "max", "-m", "400"]
        argv += ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]
        argv += ["-kernel", GUEST_DIR / "vmlinux", "-initrd", GUEST_DIR / "initramfs", "-append", " ".join(line)]
        argv += ["-drive", f"id=d0,if=none,format=raw,file={GUEST_DIR}/system.erofs,readonly=on"]
        argv += ["-device", "virtio-blk-pci,drive=d0"]
        for tag, path in (("layers", self.layers), ("volumes", self.volumes)):
            argv += ["-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap"]
            argv += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
        argv += ["-chardev", f"socket,id=link,path={self.work}/agent.sock,server=on,wait=off"]
        argv += ["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=link,name=clearpod.agent"]
        for image in self._placed:
            for piece in image.pieces:
                at = WINDOW_AT + image.offset + piece.offset
                argv += ["-device", f"loader,file={piece.path},addr={at:#x},force-raw=on"]
        with self.console.open("wb") as log:
            self.vm = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def busybox_layer(root: Path) -> list[Entry]:
    """What agent_machine makes of the host's busybox, as entries of a tar."""
    return [Entry(str(path.relative_to(root)), *_what(path)) for path in sorted(root.rglob("*"))]


def _what(path: Path) -> tuple[Any, ...]:
    if path.is_symlink():
        return "s", b"", 0o777, 0, 0, str(path.readlink())
    return ("d", b"", 0o755) if path.is_dir() else ("f", path.read_bytes(), 0o755)


def pulled(root: Path, name: str, *layers: list[Entry]) -> ImageFiles:
    """An image of these layers, as the store has it."""
    layout = Layout(root / name)
    reference = layout.tag("1", layout.image([Layer(tar(layer), "") for layer in layers]))
    store = ImageStore(f"{root}/state")
    try:
        return store.files(pull_blocking(store, reference, config=Config()))
    finally:
        store.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Placed, Placed]:
    """One of two layers, with a program that has a capability; one of a single layer."""
    root = tmp_path_factory.mktemp("images")
    make_image(root / "tree")
    base = busybox_layer(root / "tree")
    busybox = next(entry.data for entry in base if entry.name == "bin/busybox")
    capable = (("security.capability", CAP_NET_RAW),)
    top = [file("data", DATA), file("capable/grep", busybox, 0o755, xattrs=capable), file("bin/.wh.seq", b"")]
    both = [pulled(root, "two", base, top), pulled(root, "one", [*base, file("data", b"other\n")])]
    first, second = (flatten(files) for files in both)
    return Placed("a" * 64, 0, first), Placed("b" * 64, APART, second)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, images: tuple[Placed, Placed]) -> Iterator[WindowMachine]:
    vm = WindowMachine(tmp_path_factory.mktemp("window"), list(images))
    try:
        vm.client.call(Configure(hostname="pod"))
        yield vm
    finally:
        vm.close()


def output_of(machine: WindowMachine, name: str, argv: list[str], **how: Any) -> str:
    """What a container prints until its end."""
    stdio = machine.run(name, argv, **how)
    machine.exit_of(name)
    machine.client.call(Delete(name))
    return machine.output.pop(stdio.stdout, b"").decode()


@contextmanager
def mounted(machine: WindowMachine, *images: Placed) -> Iterator[None]:
    """The images are mounted in the guest, and at the end they can be unmounted."""
    for image in images:
        machine.client.call(image.mount())
    try:
        yield
    finally:
        for image in images:
            machine.client.call(UnmountImage(image.name))


def run_script(machine: WindowMachine, name: str, script: str) -> str:
    """What a shell says that sees the guest's own /proc and /sys as /guest/proc and /guest/sys."""
    binds = [
        {"destination": f"/guest/{path}", "type": "bind", "source": f"/{path}", "options": ["rbind", "ro"]}
        for path in ("proc", "sys")
    ]
    return output_of(machine, name, ["sh", "-c", script], mounts=binds, tmpfs=True)


def test_containers_run_from_images_in_the_window(machine: WindowMachine, images: tuple[Placed, Placed]) -> None:
    with mounted(machine, *images):
        mounts = run_script(machine, "mounts", "cat /guest/proc/1/mountinfo")
        script = "ls /bin/seq; echo new > /data; cat /data"
        first, second = (
            output_of(machine, f"run{n}", ["sh", "-c", script], lower=image.name, window=True)
            for n, image in enumerate(images)
        )
    for number, image in enumerate(images, 1):
        line = next(line for line in mounts.splitlines() if image.name in line)
        assert f" /run/clearpod/window/{image.name} ro," in line
        assert f" erofs /dev/pmem0p{number} " in line and "dax=always" in line
    assert (first, second) == ("new\n", "/bin/seq\nnew\n")  # a whiteout hides it in the first
    assert "pmem0p" not in run_script(machine, "after", "cat /guest/proc/1/mountinfo; ls /guest/sys/block/pmem0")


def test_the_bytes_are_those_of_the_image_and_no_page_of_it_is_cached(
    machine: WindowMachine, images: tuple[Placed, Placed]
) -> None:
    script = "grep ^Cached: /proc/meminfo; sha256sum /data; grep ^Cached: /proc/meminfo"
    with mounted(machine, images[0]):
        got = output_of(machine, "sum", ["sh", "-c", script], lower=images[0].name, window=True)
    before, digest, after = got.splitlines()
    assert digest.split()[0] == hashlib.sha256(DATA).hexdigest()
    assert int(after.split()[1]) - int(before.split()[1]) < len(DATA) / 1024 / 4


@pytest.mark.parametrize("uid", [0, 1000])
def test_file_capabilities_work(machine: WindowMachine, images: tuple[Placed, Placed], uid: int) -> None:
    argv = ["/capable/grep", "^CapEff", "/proc/self/status"]
    with mounted(machine, images[0]):
        got = output_of(machine, f"cap{uid}", argv, lower=images[0].name, window=True, uid=uid)
    effective = int(got.split()[1], 16)
    assert effective & NET_RAW and (uid == 0 or effective == NET_RAW)


def test_an_image_in_use_stays_and_goes_afterwards(machine: WindowMachine, images: tuple[Placed, Placed]) -> None:
    image = images[1]
    with mounted(machine, image):
        machine.create("user", ["sh", "-c", "cat /data"], lower=image.name, window=True)
        try:
            with pytest.raises(WrongState, match="in use"):
                machine.client.call(UnmountImage(image.name))
            assert output_of(machine, "second", ["cat", "/data"], lower=image.name, window=True) == "other\n"
        finally:
            machine.client.call(Delete("user"))
    with pytest.raises(AgentFailed, match="no image"):
        machine.create("late", ["true"], lower=image.name, window=True)


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (MountImage("a", WINDOW_BYTES, 4096), BadRequest, "beyond the window"),
        (MountImage("a", WINDOW_BYTES - 4096, 8192), BadRequest, "beyond the window"),
        (MountImage("a", 2**64 - 4096, 8192), BadRequest, "beyond the window"),
        (MountImage("a", 0, 2**64 - 4096), BadRequest, "beyond the window"),
        (MountImage("a", 512, 4096), BadRequest, "whole pages"),
        (MountImage("a", 0, 100), BadRequest, "whole pages"),
        (MountImage("a", 0, 0), BadRequest, "whole pages"),
        (MountImage("../a", 0, 4096), BadRequest, "the name"),
        (MountImage("", 0, 4096), BadRequest, "the name"),
        (MountImage("a", 32 * MIB, 4096), AgentFailed, "mount image a"),  # nothing is there
        (MountImage("held", 0, 4096), AlreadyExists, "mounted already"),
        (MountImage("a", 4096, 4096), AlreadyExists, "over image held"),
        (UnmountImage("unknown"), NotFound, "no image 'unknown'"),
    ],
)
def test_bad_requests_are_refused_and_leave_nothing(
    machine: WindowMachine, images: tuple[Placed, Placed], request_: Any, error: type[PodError], text: str
) -> None:
    with mounted(machine, images[0]._replace(name="held")), pytest.raises(error, match=text):
        machine.client.call(request_)
    with mounted(machine, images[0]):
        pass


def test_fifty_images_one_after_the_other_leave_nothing(machine: WindowMachine, images: tuple[Placed, Placed]) -> None:
    script = "ls /guest/sys/block/pmem0; ls /guest/sys/class/block; wc -l < /guest/proc/1/mountinfo"
    memory = "sync; grep -E '^(MemFree|Slab|Percpu)' /guest/proc/meminfo"

    def through(number: int) -> None:
        image = images[number % 2]._replace(name=f"image{number}")
        with mounted(machine, image):
            output_of(machine, f"c{number}", ["cksum", "/data"], lower=image.name, window=True, tmpfs=True)

    for number in range(4):
        through(number)
    before, free = run_script(machine, "before50", script), run_script(machine, "free", memory)
    for number in range(4, 4 + ROUNDS):
        through(number)
    assert run_script(machine, "after50", script) == before
    then, now = (
        {line.split()[0]: int(line.split()[1]) for line in text.splitlines()}
        for text in (free, run_script(machine, "freeafter", memory))
    )
    print(f"after {ROUNDS} rounds, KiB: {then} -> {now}")
    assert then["MemFree:"] - now["MemFree:"] < ROUNDS * 16


def test_the_window_costs_the_guest_64_bytes_a_page(machine: WindowMachine) -> None:
    script = "grep -E '^nr_memmap_pages ' /guest/proc/vmstat; grep MemTotal /guest/proc/meminfo"
    text = run_script(machine, "cost", script).split()
    print(f"a window of {WINDOW_BYTES // MIB} MiB costs {int(text[1]) * 4} KiB; MemTotal is {text[3]} KiB")
    assert int(text[1]) * 4096 == WINDOW_BYTES // 64


def test_a_guest_without_a_window_reports_it(tmp_path: Path, images: tuple[Placed, Placed]) -> None:
    machine = Machine(tmp_path)
    try:
        with pytest.raises(WrongState, match="no window"):
            machine.client.call(images[0].mount())
    finally:
        machine.close()
