# SPDX-License-Identifier: Apache-2.0
"""Images by DAX in a real kvmtool guest: at boot, into the running VM through the window, and what a guest can't do."""

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stage1.errors import VmFailed
from stage1.linux import vsock
from stage1.linux.host import which
from stage1.vm import hypervisors, kvmtool
from stage1.vm.choose import choose, lacks
from stage1.vm.spec import Dax, DaxImage, Share, VmSpec, VsockLink
from stage1.vm.starter import ProcessVmm
from stage1.vm.vmm import VmProcess
from tests.fakes.cpio import newc
from tests.fakes.patience import PATIENCE

pytestmark = [pytest.mark.vm, pytest.mark.kvmtool]

MIB = 1 << 20
ANSWER_S = 60.0 * PATIENCE
DATA = 8 * MIB
"""Of the one file in an image."""
PODS, LARGE = 5, 100 * MIB


@pytest.fixture(autouse=True)
def _can_run_kvmtool(guest_dir: Path) -> None:
    if missing := lacks(kvmtool.HYPERVISOR, hypervisors.facts()):
        pytest.skip("; ".join(missing))
    if not (guest_dir / "lkvm-shim.so").exists():
        pytest.skip(f"no lkvm-shim.so in {guest_dir}: images/build shim")


def image_of(path: Path, fill: bytes) -> DaxImage:
    """An erofs image with the file `data`, of DATA bytes or of what `fill` has."""
    tree = path.with_suffix(".tree")
    tree.mkdir()
    (tree / "data").write_bytes(fill * DATA if len(fill) == 1 else fill)
    subprocess.run(["mkfs.erofs", "--quiet", "-Enoinline_data", path, tree], check=True, timeout=60 * PATIENCE)
    return DaxImage(str(path), path.stat().st_size)


class Guest:
    """A VM with the probe inside. `ask` gives it a word and returns what it says."""

    def __init__(self, vm: VmSpec, process: VmProcess) -> None:
        self.vm, self.process, self._asked = vm, process, 0

    def console(self) -> str:
        """All that the VMM and the guest wrote."""
        return Path(self.process.console).read_text(errors="replace")

    def ask(self, word: str) -> str:
        """Have the guest do it."""
        number, self._asked = self._asked, self._asked + 1
        seen = len(self.console())
        target = Path(self.vm.shares[0].path, "new")
        target.write_text(word)
        target.rename(target.with_name(f"number-{number}"))
        deadline = time.monotonic() + ANSWER_S
        while f"probe done {number}" not in (text := self.console()):
            assert time.monotonic() < deadline and self.process.alive(), text[-2000:]
            time.sleep(0.05)
        output = [line.partition("probe ")[2].strip() for line in text[seen:].splitlines() if "probe " in line]
        return next((line for line in output if not line.startswith(("done", "total"))), "")

    def window(self, request: str, image: DaxImage | None = None) -> str:
        """What the shim answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            assert self.vm.dax
            peer.connect(self.vm.dax.socket)
            if image is None:
                peer.send(request.encode())
            else:
                fd = os.open(image.path, os.O_RDONLY)
                try:
                    socket.send_fds(peer, [request.encode()], [fd])
                finally:
                    os.close(fd)
            return peer.recv(512).decode()


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dax_probe.c as an executable."""
    if not which("musl-gcc") or not which("mkfs.erofs"):
        pytest.skip("needs musl-gcc and mkfs.erofs: apt install musl-tools erofs-utils")
    out = tmp_path_factory.mktemp("probe") / "init"
    source = Path(__file__).with_name("dax_probe.c")
    headers = ["-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"]
    subprocess.run(["musl-gcc", "-static", "-Os", "-s", *headers, "-o", out, source], check=True, timeout=60)
    return out


Start = Callable[..., Guest]


@pytest.fixture
def start(tmp_path: Path, guest_dir: Path, probe: Path, results: Path) -> Iterator[Start]:
    """Boots a guest with these images; it does not outlive the test."""
    (tmp_path / "initramfs").write_bytes(newc([("init", 0o100755, probe.read_bytes())]))
    started: list[VmProcess] = []

    def boot(dax: Dax) -> Guest:
        place = tmp_path / f"vm{len(started)}"
        (place / "share").mkdir(parents=True)
        vm = VmSpec(
            name="dax",
            hypervisor=kvmtool.HYPERVISOR,
            binary=choose("kvmtool", hypervisors.facts()).binary,
            run_dir=str(place),
            kernel=f"{guest_dir}/bzImage",
            initramfs=f"{tmp_path}/initramfs",
            system_image="/none",
            memory_mib=96,
            vcpus=2,
            link=VsockLink(vsock.choose_cid(4240), 1024),
            shares=(Share("share", f"{place}/share", read_only=False),),
            accel="kvm",
            dax=dax,
            jailer=f"{guest_dir}/jailer",
            filter=f"{guest_dir}/seccomp-kvmtool.bpf",
        )
        started.append(ProcessVmm().start(vm))
        return Guest(vm, started[-1])

    yield boot
    for number, process in enumerate(started):
        process.kill()
        (results / f"console-{number}.log").write_bytes(Path(process.console).read_bytes())


def full(letter: str) -> str:
    """What the probe says of an image's file that it has read in place."""
    return f"read /image/data sum {ord(letter) * DATA} zeros 0"


def cached_kib(message: str) -> int:
    """What reading added to the guest's page cache."""
    return int(message.rpartition(" ")[2])


def test_images_are_mounted_with_dax_at_boot_and_in_the_running_vm(
    start: Start, tmp_path: Path, guest_dir: Path
) -> None:
    first, second, third = (image_of(tmp_path / f"{name}.erofs", name.encode()) for name in "abc")
    original = Path(second.path).read_bytes()
    library = f"{guest_dir}/lkvm-shim.so"
    guest = start(Dax(library, (first, second), 64 * MIB, f"{tmp_path}/dax.sock"))
    for number, letter in (("0", "a"), ("1", "b")):
        assert f"/dev/pmem{number} /image erofs ro" in (output := guest.ask(f"mount {number}"))
        assert "dax=always" in output
        assert (output := guest.ask("read")).startswith(full(letter))
        assert cached_kib(output) < DATA / 1024 / 4
        assert guest.ask("umount") == "umount 0"

    for number in ("1", "2"):
        guest.ask(f"write {number}")
    assert Path(second.path).read_bytes() == original
    assert guest.ask("head 2") == "head /dev/pmem2 zeros"
    assert guest.ask("mount 2").startswith("mount refused")

    assert guest.window(f"map 0 {third.size}", third) == "ok"
    assert guest.ask("head 2") == "head /dev/pmem2 data"
    assert "dax=always" in guest.ask("mount 2")
    assert (output := guest.ask("read")).startswith(full("c"))
    assert cached_kib(output) < DATA / 1024 / 4
    assert guest.ask("umount") == "umount 0"
    assert guest.window(f"unmap 0 {third.size}") == "ok"
    assert guest.ask("head 2") == "head /dev/pmem2 zeros"
    assert "outside" in guest.window(f"map {64 * MIB} {third.size}", third)


def test_the_system_image_is_one_that_can_be_mounted_with_dax(start: Start, guest_dir: Path) -> None:
    system = guest_dir / "system.erofs"
    guest = start(Dax(f"{guest_dir}/lkvm-shim.so", (DaxImage(str(system), system.stat().st_size),)))
    assert "dax=always" in guest.ask("mount 0")


def test_an_image_that_is_cut_short_reads_as_zeros_and_the_vm_lives(
    start: Start, tmp_path: Path, guest_dir: Path
) -> None:
    image = image_of(tmp_path / "a.erofs", b"a")
    guest = start(Dax(f"{guest_dir}/lkvm-shim.so", (image,)))
    assert "dax=always" in guest.ask("mount 0")
    os.truncate(image.path, 1 * MIB)
    zeros = int(guest.ask("read").split()[5])
    assert DATA - MIB <= zeros < DATA
    assert guest.ask("umount") == "umount 0"


@pytest.mark.parametrize("fault", ["absent", "grown"])
def test_a_vm_whose_image_is_not_as_promised_does_not_start(
    start: Start, tmp_path: Path, guest_dir: Path, fault: str
) -> None:
    image = image_of(tmp_path / "a.erofs", b"a")
    if fault == "absent":
        os.unlink(image.path)
    else:
        os.truncate(image.path, image.size + 4096)
    with pytest.raises(VmFailed, match=r"(?s)code 78; .*\nlkvm-shim: .*/a\.erofs"):
        start(Dax(f"{guest_dir}/lkvm-shim.so", (image,)))


def test_behind_an_image_are_zeros_then_an_end_and_an_image_that_is_deleted_stays_readable(
    start: Start, tmp_path: Path, guest_dir: Path
) -> None:
    image = image_of(tmp_path / "a.erofs", b"a")
    guest = start(Dax(f"{guest_dir}/lkvm-shim.so", (image,)))
    region = -(-image.size // (2 * MIB)) * 2 * MIB
    assert image.size < region
    assert guest.ask(f"beyond {image.size}") == f"beyond 4096 sum 0 end 0 of {region}"
    os.unlink(image.path)
    assert "dax=always" in guest.ask("mount 0")
    assert guest.ask("read").startswith(full("a"))


def test_what_five_pods_read_of_one_image_is_in_memory_once(start: Start, tmp_path: Path, guest_dir: Path) -> None:
    part = os.urandom(MIB)
    total = sum(struct.unpack(f"<{MIB // 8}Q", part)) * (LARGE // MIB) % (1 << 64)
    image = image_of(tmp_path / "large.erofs", part * (LARGE // MIB))
    assert LARGE <= image.size < 1.01 * LARGE
    _forget_cached(image.path)
    assert _cached_bytes(image.path) == 0
    guests = [start(Dax(f"{guest_dir}/lkvm-shim.so", (image,))) for _ in range(PODS)]
    copies = 0
    for guest in guests:
        assert "dax=always" in guest.ask("mount 0")
        output = guest.ask("words")
        assert output.startswith(f"words /image/data sum {total} bytes {LARGE} ")
        copies += 1024 * cached_kib(output)
    once = _cached_bytes(image.path)
    print(f"\nimage {image.size} bytes; page cache of the host {once}, of {PODS} guests {copies}")
    assert once >= LARGE
    assert once + copies <= 1.05 * image.size


def _forget_cached(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _cached_bytes(path: str) -> int:
    """What of the file is in the host's page cache."""
    argv = ["fincore", "--bytes", "--noheadings", "--raw", "--output", "RES", path]
    return int(subprocess.run(argv, check=True, capture_output=True, timeout=60 * PATIENCE).stdout)
