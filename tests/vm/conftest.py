# SPDX-License-Identifier: Apache-2.0
"""Real VMs, each test on both hypervisors: kvmtool where there is KVM, as in the lab, QEMU everywhere.

A test that is for one of them says which and why with the mark `only_on`. A probe of ours is PID 1 in some VMs, so that
the argv is tested without the agent.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cri.config import Config
from cri.store.images import ImageStore
from stage1.linux import vsock
from stage1.linux.host import which
from stage1.rootfs.share import ImageFiles
from stage1.vm import hypervisors
from stage1.vm.choose import choose
from stage1.vm.spec import SerialLink, VmSpec, VsockLink
from stage1.vm.starter import ProcessVmm
from stage1.vm.vmm import VmProcess
from tests.fakes import places
from tests.fakes.command import Command
from tests.fakes.cpio import newc
from tests.fakes.hypervisors import hypervisor, pytest_generate_tests
from tests.fakes.pulled import pull_blocking

__all__ = ["hypervisor", "pytest_generate_tests"]
Boot = Callable[[VmSpec], VmProcess]
NO_VM = "it ends before there is a VM"
"""Why a test is `only_on` QEMU, which is there without a lab."""
VSOCK_PORT = 1024


@pytest.fixture(scope="session")
def probe_initramfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initramfs with probe.c as its only program."""
    where = tmp_path_factory.mktemp("probe")
    compiler = which("musl-gcc")
    if not compiler:
        pytest.skip("needs musl-gcc: apt install musl-tools")
    source = Path(__file__).with_name("probe.c")
    subprocess.run([compiler, "-static", "-Os", "-s", "-o", where / "init", source], check=True, timeout=60)
    (where / "initramfs").write_bytes(newc([("dev", 0o040755, b""), ("init", 0o100755, (where / "init").read_bytes())]))
    return where / "initramfs"


@pytest.fixture(scope="session")
def sample_image(guest_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageFiles:
    """The sample image, in a store of its own."""
    store = ImageStore(str(tmp_path_factory.mktemp("store")))
    pulled = store.files(pull_blocking(store, f"oci:{guest_dir}/sample:sample", config=Config()))
    store.close()
    return pulled


@pytest.fixture
def vm(hypervisor: str, tmp_path: Path, guest_dir: Path, probe_initramfs: Path, jailer: str) -> VmSpec:
    """A VM that this host can run, with two disks whose first bytes say which is which."""
    choice = choose(hypervisor, hypervisors.facts())
    (tmp_path / "system").write_bytes(b"I-am-the-system!".ljust(1 << 20, b"\0"))
    with open(tmp_path / "scratch", "wb") as file:
        file.write(b"I-am-the-scratch")
        file.truncate(64 << 20)
    return VmSpec(
        name="probe",
        hypervisor=choice.hypervisor,
        binary=choice.binary,
        run_dir=str(tmp_path),
        kernel=str(guest_dir / choice.hypervisor.kernel),
        initramfs=str(probe_initramfs),
        system_image=str(tmp_path / "system"),
        memory_mib=96,
        vcpus=1,
        link=_vsock_link() if choice.hypervisor.uses_vsock else SerialLink(f"{tmp_path}/agent.sock"),
        scratch=str(tmp_path / "scratch"),
        accel=choice.accel,
        sandbox=choice.sandbox,
        jailer=jailer,
        filter=str(guest_dir / choice.hypervisor.filter),
    )


def _vsock_link() -> VsockLink:
    return VsockLink(vsock.choose_cid(os.getpid()), VSOCK_PORT)


@pytest.fixture
def boot(results: Path) -> Iterator[Boot]:
    """Starts a VM that does not outlive the test; its console is kept when the test fails."""
    started: list[VmProcess] = []

    def start(vm: VmSpec) -> VmProcess:
        started.append(ProcessVmm().start(vm))
        return started[-1]

    yield start
    for number, process in enumerate(started):
        process.kill()
        if os.path.exists(process.console):
            (results / f"console-{number}.log").write_bytes(Path(process.console).read_bytes())


@pytest.fixture(scope="session")
def shared_root() -> Iterator[Path]:
    """A root with a short name (unix sockets have 107 bytes for their path); its images stay for the session."""
    with places.short_directory() as root:
        yield Path(root)


@pytest.fixture
def clearpod(hypervisor: str, shared_root: Path, guest_dir: Path) -> Iterator[Command]:
    """The command. When the test is over, the machine must be as before."""
    command = Command(shared_root, guest_dir, "[vm]\nscratch_mib = 64", hypervisor=hypervisor)
    for name in ("run/pods", "run/run/pods", "run/run/locks", "run/run/names"):
        (shared_root / name).mkdir(parents=True, exist_ok=True)
    before = command.host_state.seen()
    yield command
    left = command.host_state.added(before, within_s=5)
    for pid in command.host_state.vmms():
        os.kill(pid, signal.SIGKILL)
    assert left == {}
