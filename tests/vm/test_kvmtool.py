# SPDX-License-Identifier: Apache-2.0
"""The real kvmtool: `clearpod run` in a VM with hardware virtualisation, its link a vsock. Skipped where KVM is not."""

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from stage1.errors import CidTaken
from stage1.linux import mount, vsock
from stage1.vm import hypervisors, kvmtool
from stage1.vm.choose import choose, lacks
from stage1.vm.spec import VmSpec, VsockLink
from stage1.vm.start import start
from stage1.vm.starter import ProcessVmm
from tests.fakes import places
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import command_lines

pytestmark = [pytest.mark.vm, pytest.mark.kvmtool]

CHECKOUT = Path(__file__).parents[2]
RUN_S = 200 * PATIENCE
SET_GUEST_CID = 0x4008AF60  # linux/vhost.h
TAKEN_CID = 4242


@pytest.fixture(autouse=True)
def _can_run_kvmtool() -> None:
    if missing := lacks(kvmtool.HYPERVISOR, hypervisors.facts()):
        pytest.skip("; ".join(missing))


class Place(NamedTuple):
    """Directories of this test only, and the configuration that names them."""

    run_dir: Path
    state_dir: Path
    config: Path

    def command(self, *arguments: str) -> list[str]:
        """The command line of `clearpod run`."""
        return [sys.executable, "-m", "cri", "run", "--config", str(self.config), "--timeline", *arguments]

    def left_over(self) -> list[str]:
        """What pods left behind: files, mounts, VMMs."""
        files = [*self.run_dir.glob("run/*/*"), *self.state_dir.glob("scratch/*")]
        vmms = [line for line in command_lines().values() if str(self.run_dir) in line]
        return [*map(str, [*files, *vmms]), *mount.mounts_below(str(self.run_dir))]


@pytest.fixture
def place(tmp_path: Path, guest_dir: Path) -> Iterator[Place]:
    """The state directory is a small ext4 of its own: an image can't be mounted from a file in memory."""
    state, disk = tmp_path / "state", tmp_path / "state.img"
    state.mkdir()
    with disk.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", disk], check=True, timeout=RUN_S)
    subprocess.run(["mount", "-o", "loop", disk, state], check=True, timeout=RUN_S)
    try:
        with places.short_directory() as run_dir:
            config = tmp_path / "config.toml"
            config.write_text(
                f'run_dir = "{run_dir}"\nstate_dir = "{state}"\n[guest]\ndir = "{guest_dir}"\n[vm]\nscratch_mib = 64\n'
                f'[network]\ndefault = false\nconf_dir = "{run_dir}/net.d"\n'
            )
            yield Place(Path(run_dir), state, config)
    finally:
        mount.umount(str(state), lazy=True)


def test_auto_is_kvmtool_here() -> None:
    choice = choose("auto", hypervisors.facts())
    assert (choice.hypervisor.name, choice.accel, choice.warning) == ("kvmtool", "kvm", "")


def test_the_sample_pod_runs_in_a_vm_of_kvmtool_and_nothing_stays(place: Place) -> None:
    script = "uname -r; id; cat; echo to standard error >&2; exit 7"
    argv = place.command("--hypervisor", "kvmtool", "-i", "--", "sh", "-c", script)
    done = subprocess.run(argv, cwd=CHECKOUT, input=b"from standard input", capture_output=True, timeout=RUN_S)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 7, err
    assert out.splitlines() == ["6.12.118-clearpod", "uid=0(root) gid=0(root) groups=0(root)", "from standard input"]
    assert "to standard error\n" in err
    assert "kvmtool with kvm" in err
    assert "link.cut" not in err
    assert place.left_over() == []


def test_the_system_image_is_memory_that_is_never_read_as_a_disk(place: Place, guest_dir: Path) -> None:
    if not (guest_dir / "lkvm-shim.so").exists():
        pytest.skip(f"no lkvm-shim.so in {guest_dir}: images/build shim")
    script = "ls /sys/block; cat /sys/block/pmem0/stat"
    argv = place.command("--hypervisor", "kvmtool", "--", "sh", "-c", script)
    done = subprocess.run(argv, cwd=CHECKOUT, stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_S)
    output = done.stdout.decode().split()
    assert output[:3] == ["pmem0", "pmem1", "vda"], done.stderr.decode()  # pmem1: the container's image
    assert set(output[3:]) == {"0"}, "reads by DAX are no requests to the block device"


def test_two_pods_at_once_have_each_their_own_link_memory_and_cpus(place: Place) -> None:
    sizes = {"one": ("--vm-memory", "80m", "--cpus", "1"), "two": ("--vm-memory", "200m", "--cpus", "2")}
    script = "nproc; grep MemTotal /proc/meminfo; echo $NAME"
    pods = {
        name: subprocess.Popen(
            place.command(*size, "-e", f"NAME={name}", "--", "sh", "-c", script),
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        for name, size in sizes.items()
    }
    output = {name: pod.communicate(timeout=RUN_S)[0].decode().split() for name, pod in pods.items()}
    assert [pod.returncode for pod in pods.values()] == [0, 0]
    for name, (memory, cpus) in {"one": (80, "1"), "two": (200, "2")}.items():
        assert output[name][0] == cpus
        assert memory * 0.6 < int(output[name][2]) / 1024 < memory
        assert output[name][-1] == name
    assert place.left_over() == []


@pytest.mark.parametrize(
    ("memory_mib", "cpus"), [(48, 1), (131, 2), (320, 2), (384, 1), (448, 2), (480, 1), (512, 1), (1024, 2)]
)
def test_pods_of_many_sizes_find_their_images(place: Place, memory_mib: int, cpus: int) -> None:
    argv = place.command("--vm-memory", f"{memory_mib}m", "--cpus", str(cpus), "--", "nproc")
    done = subprocess.run(argv, cwd=CHECKOUT, stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_S)
    assert (done.returncode, done.stdout.decode().split()) == (0, [str(cpus)]), done.stderr.decode()


def test_a_vm_whose_context_id_is_taken_at_the_last_moment_gets_another(tmp_path: Path, guest_dir: Path) -> None:
    device = os.open(vsock.DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, SET_GUEST_CID, struct.pack("=Q", TAKEN_CID))
        assert not vsock.cid_is_free(TAKEN_CID)
        assert vsock.choose_cid(TAKEN_CID - vsock.FIRST_CID) == TAKEN_CID + 1
        vm = VmSpec(
            name="taken",
            hypervisor=kvmtool.HYPERVISOR,
            binary=choose("kvmtool", hypervisors.facts()).binary,
            run_dir=str(tmp_path),
            kernel=f"{guest_dir}/bzImage",
            initramfs=f"{guest_dir}/initramfs",
            system_image=f"{guest_dir}/system.erofs",
            memory_mib=64,
            vcpus=1,
            link=VsockLink(TAKEN_CID, 1024),
            accel="kvm",
            jailer=f"{guest_dir}/jailer",
            filter=f"{guest_dir}/seccomp-kvmtool.bpf",
        )
        with pytest.raises(CidTaken, match=r"SET_GUEST_CID failed: Address already in use"):
            ProcessVmm().start(vm)
        started, link = start(vm, ProcessVmm())
        assert link == VsockLink(TAKEN_CID + 1, 1024) and not vsock.cid_is_free(TAKEN_CID + 1)
        started.kill()
    finally:
        os.close(device)
    assert vsock.cid_is_free(TAKEN_CID)
