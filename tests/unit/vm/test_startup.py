# SPDX-License-Identifier: Apache-2.0
"""kvmtool's first moments, with a shell script in its place: a wrong option, a lost context id, a late death."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stage1.errors import CidTaken, NoSpace, VmFailed
from stage1.linux import process
from stage1.vm import kvmtool, start, startup
from stage1.vm.spec import Dax, DaxImage, VmSpec, VsockLink
from stage1.vm.starter import ProcessVmm
from stage1.vm.vmm import VmProcess

USAGE = "seq 1 70"
TICKS = os.sysconf("SC_CLK_TCK")
TAKEN = "echo 'VHOST_VSOCK_SET_GUEST_CID failed: Address already in use' >&2; exit 1"


@pytest.fixture
def make(tmp_path: Path, jailer: str) -> Callable[[str], VmSpec]:
    """A VmSpec whose kvmtool is the given shell script."""

    def spec(script: str) -> VmSpec:
        binary = tmp_path / "bin/lkvm"
        binary.parent.mkdir(exist_ok=True)
        binary.write_text(f"#!/bin/sh\n{script}\n")
        binary.chmod(0o755)
        return VmSpec(
            "n",
            kvmtool.HYPERVISOR,
            str(binary),
            str(tmp_path),
            "/k",
            "/i",
            "/s",
            64,
            1,
            VsockLink(7, 1024),
            jailer=jailer,
        )

    return spec


def test_an_lkvm_that_does_not_know_an_option_is_too_old(make: Callable[[str], VmSpec]) -> None:
    vm = make(f'echo "  Error: unknown option \\`vsock\'" >&2; {USAGE} >&2; exit 129')
    with pytest.raises(VmFailed, match=f"{vm.binary} .*too old: .* --vsock; .*kvmtool"):
        ProcessVmm().start(vm)


@pytest.mark.parametrize(
    "text",
    ["KVM_CREATE_VM ioctl: Device or resource busy", "lkvm-shim: /s can't be opened: Permission denied"],
)
def test_an_end_before_a_vcpu_runs_is_reported_with_lkvms_message_however_late(
    make: Callable[[str], VmSpec], text: str
) -> None:
    with pytest.raises(VmFailed, match=f"(?s)VMM .*code 3; .*:\n.*70\n{text}$"):
        ProcessVmm(watch_s=0).start(make(f'sleep 0.3; {USAGE}; echo "{text}" >&2; exit 3'))


def test_it_has_started_as_soon_as_a_vcpu_runs(make: Callable[[str], VmSpec]) -> None:
    spec = make("exec ${0%/*}/../lib/kvm-vcpu-0 60")
    os.mkdir(f"{spec.run_dir}/lib")
    shutil.copy("/bin/sleep", f"{spec.run_dir}/lib/kvm-vcpu-0")
    vm = ProcessVmm(watch_s=60).start(spec)
    try:
        assert vm.alive() and (begun := process.start_time(vm.pid)) == vm.start_time
        assert time.clock_gettime(time.CLOCK_BOOTTIME) - begun / TICKS < startup.SET_UP_S
    finally:
        vm.kill()


class Hypervisor:
    """Refuses context ids that are `taken`, and leaves what lkvm leaves."""

    def __init__(self, *taken: int) -> None:
        self.taken, self.asked = taken, list[int]()

    def start(self, vm: VmSpec) -> VmProcess:
        """See `Vmm`."""
        assert isinstance(vm.link, VsockLink) and vm.dax
        os.close(os.open(f"{vm.run_dir}/console.log", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        self.asked.append(vm.link.cid)
        if vm.link.cid in self.taken:
            raise CidTaken("taken")
        return VmProcess(1, 1, "")


@pytest.fixture
def windowed(make: Callable[[str], VmSpec], tmp_path: Path) -> VmSpec:
    """A VM with a window, whose socket a second VMM could not make beside the first one's."""
    return make("")._replace(dax=Dax("/l.so", (DaxImage("/s", 4096),), 4096, f"{tmp_path}/dax.sock"))


def test_a_context_id_that_is_taken_at_the_last_moment_is_replaced_by_the_next_free_one(windowed: VmSpec) -> None:
    vmm = Hypervisor(7, 9)
    _, link = start.start(windowed, vmm, is_free=lambda cid: cid != 8)
    assert (link, vmm.asked) == (VsockLink(10, 1024), [7, 9, 10])


def test_that_ends_when_no_id_is_free_or_all_are_lost(windowed: VmSpec, tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="vsock context id"):
        start.start(windowed, Hypervisor(7), is_free=lambda _: False)
    vmm = Hypervisor(*range(1000))
    with pytest.raises(CidTaken):
        start.start(windowed, vmm, is_free=lambda _: True)
    assert vmm.asked == [7, 8, 9, 10, 11, 12, 13, 14]


def test_the_process_that_lost_its_id_is_distinguished(make: Callable[[str], VmSpec], tmp_path: Path) -> None:
    with pytest.raises(CidTaken, match=r"SET_GUEST_CID failed: Address already in use"):
        ProcessVmm().start(make(TAKEN))
    (tmp_path / "console.log").unlink()
    with pytest.raises(VmFailed) as caught:
        ProcessVmm().start(make("echo other: Address already in use; exit 1"))
    assert type(caught.value) is VmFailed
