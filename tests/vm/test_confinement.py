# SPDX-License-Identifier: Apache-2.0
"""What a running pod's VMM may still do, as the kernel says it, and that containers lose nothing by it."""

import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cri.containers import create as containers
from cri.containers import exec as execs
from cri.containers import start as starts
from cri.live import boot, shutdown
from cri.live.consoles import Consoles
from cri.live.container import LiveContainer
from cri.live.images import RootRequest
from cri.live.pod import LivePod
from cri.live.tools import Tools
from cri.monitors.mounts import Follower
from cri.store.pods import ContainerRecord, PodRecord
from cri.vsock import VsockPort
from stage1.engine import Host, clean_up
from stage1.linux import idmap, mount
from stage1.linux.cgroup import OURS
from stage1.pod.model import HOST_TO_CONTAINER, Container, Mount, Pod, Process, User
from stage1.rootfs.share import ImageFiles
from stage1.vm import hypervisors
from stage1.vm.choose import choose
from stage1.vm.slots import Range
from stage1.vm.starter import ProcessVmm
from tests.fakes import places
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import descriptors, statuses

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]

# CAP_CHOWN 0, CAP_DAC_OVERRIDE 1, CAP_FOWNER 3, CAP_FSETID 4.
FEW = f"{0b11011:016x}"


class Machine(NamedTuple):
    """A host with the sample image. `volume` is a directory for volumes, and a shared mount."""

    host: Host
    image: ImageFiles
    volume: Path


@pytest.fixture
def machine(hypervisor: str, guest_dir: Path, sample_image: ImageFiles) -> Iterator[Machine]:
    """Directories with short names: unix sockets have 107 bytes for their path."""
    with places.short_directory() as root:
        choice = choose(hypervisor, hypervisors.facts())
        host = Host(
            f"{root}/run", str(guest_dir), f"{root}/state", choice, scratch_mib=64, ids=Range(), cgroup_parent=OURS
        )
        volume = Path(root, "volume")
        volume.mkdir()
        mount.bind(str(volume), str(volume))
        try:
            mount.set_propagation(str(volume), mount.MS_SHARED)
            yield Machine(host, sample_image, volume)
        finally:
            while points := mount.mounts_below(str(volume)):  # of two that are twins, one goes with the other
                mount.umount(points[0], lazy=True)


@asynccontextmanager
async def booted(machine: Machine, **fields: Any) -> AsyncIterator[LivePod]:
    """A pod, with these fields of `Pod`, that does not outlive the block."""
    given = Pod(os.urandom(32).hex(), "web", **{"hostname": "web", "memory_mib": 128, "vcpus": 1, **fields})
    port = VsockPort(0)
    host = machine.host
    if host.choice.hypervisor.name == "kvmtool":
        host = host._replace(vsock_port=port.listen())
    tools = Tools(
        host=host, vmm=ProcessVmm(), consoles=Consoles(), boot_timeout_s=60 * PATIENCE, call_timeout_s=60 * PATIENCE
    )
    pod = LivePod(PodRecord(given, b"", "", time.time_ns()), tools, port)
    try:
        await boot.boot(pod)
        yield pod
    finally:
        await shutdown.remove(pod)
        port.close()
        clean_up(pod.directory)


async def started(pod: LivePod, image: ImageFiles, *mounts: Mount, uid: int = 0) -> LiveContainer:
    """A container that waits for execs."""
    what = Process(("sleep", "1000"), env=("PATH=/bin:/sbin:/usr/bin:/usr/sbin",), user=User(uid, uid))
    made = Container(id="main", name="main", image=image.id, process=what, mounts=mounts)
    record = ContainerRecord(made, b"", 0, time.time_ns(), image.id, image.id)
    async with containers.image_held(pod, RootRequest(image.id, lambda: (image,))) as root:
        result = pod.containers[await containers.create(pod, record, root=root)]
    await starts.start(pod, result)
    return result


async def output_of(pod: LivePod, container: LiveContainer, script: str) -> str:
    """What the script writes; it must succeed."""
    ran = await execs.run(pod, container, argv=("sh", "-ec", script), timeout_s=30 * PATIENCE)
    assert ran.exit_code == 0, (script, ran)
    return ran.stdout.decode().strip()


def pid_of(pod: LivePod) -> int:
    assert pod.vm is not None
    return pod.vm.pid


async def test_the_vmm_has_an_unprivileged_user_on_the_host_and_only_its_own_descriptors(machine: Machine) -> None:
    async with booted(machine) as pod:
        place = Path("/proc", str(pid_of(pod)))
        driver = machine.host.choice.hypervisor.name
        name = {"qemu": "qemu-system-x86_64", "kvmtool": "lkvm"}[driver]
        assert os.path.basename(os.readlink(place / "exe")) == name, "it is the VMM, no wrapper"
        for kind in ("pid", "ipc", "uts", "mnt", "net", "user", "cgroup"):
            assert os.readlink(place / "ns" / kind) != os.readlink(f"/proc/self/ns/{kind}")
        owner = idmap.outside(idmap.read_map(pid_of(pod)), 0)
        assert owner >= Range().first
        for status in statuses(pid_of(pod)):
            needed = {"NoNewPrivs": "1", "Seccomp": "2", "CapBnd": FEW, "CapEff": FEW, "CapPrm": FEW}
            assert {name: status[name].strip() for name in needed} == needed
            assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
            assert status["Uid"].split() == status["Gid"].split() == [str(owner)] * 4
        environment = {one.partition("=")[0] for one in (place / "environ").read_text().split("\0") if one}
        shim = {"LD_PRELOAD", "CLEARPOD_DAX_IMAGES", "CLEARPOD_DISK", "CLEARPOD_SMALL_PAGES", "CLEARPOD_FILTERED"}
        assert environment == {"PATH", "HOME"} | (shim if driver == "kvmtool" else set())

        expected = re.compile(
            rf"/dev/null|/dev/net/tun|{pod.directory}/(console\.log|share/(layers|volumes)(/.*)?)|.*/scratch/{pod.id}\.img"
            rf"|{machine.host.guest_dir}/system(-stock)?\.erofs|socket:\[\d+\]|anon_inode:.*|/memfd:.*|/dev/u?random"
            r"|/dev/kvm|/dev/vhost-vsock|pipe:\[\d+\]"
        )
        links = descriptors(pid_of(pod)).values()
        assert [link for link in links if not expected.fullmatch(link)] == []


async def test_its_root_has_nothing_that_it_could_change_but_its_own(machine: Machine) -> None:
    async with booted(machine) as pod:
        root = Path("/proc", str(pid_of(pod)), "root")
        scratch = f"{machine.host.state_dir}/scratch/{pod.id}.img"
        lines = [line.split() for line in Path(root.parent, "mountinfo").read_text().splitlines()]
        writable = {line[4] for line in lines if "rw" in line[5].split(",")}
        assert writable == {scratch, "/vmm", "/proc"}
        assert all("nosuid" in line[5] and ("nodev" in line[5] or line[4] == "/") for line in lines)
        own = {"kvm", "vhost-vsock"} if machine.host.choice.hypervisor.name == "kvmtool" else set()
        assert set(os.listdir(root / "dev")) == {"null", "zero", "random", "urandom"} | own
        shown = set(os.listdir(root / pod.directory[1:]))
        assert shown == {"share"}, "no file of the pod's directory that the host reads or follows"
        host = machine.host
        way = {place.split("/")[1] for place in (host.run_dir, host.state_dir, host.guest_dir)}
        assert not ({"run", "root", "home", "var"} - way) & set(os.listdir(root)), "but for the way to what it may see"
        about = os.stat(root / pod.directory[1:] / "share/volumes/containers")
        assert (about.st_uid, about.st_mode & 0o777) == (idmap.outside(idmap.read_map(pid_of(pod)), 0), 0o755)


async def test_containers_and_volumes_made_after_boot_work_as_for_root(machine: Machine) -> None:
    async with booted(machine) as pod:
        volume = Mount(str(machine.volume), "/data", propagation=HOST_TO_CONTAINER)
        container = await started(pod, machine.image, volume)
        on_root = "cp /bin/busybox /x; chown 7:8 /x; chmod 6755 /x; mknod /n c 1 3; mkfifo /f; stat -c %u:%g:%a /x"
        assert await output_of(pod, container, on_root) == "7:8:6755"

        on_volume = (
            "cd /data; mkdir a b; echo one >a/x; echo two >>a/x; ln a/x b/hard; ln -s a/x link; mv a/x b/moved; "
            "chown 1000:2000 b/moved; chmod 6750 b/moved; mkfifo p; : >b/t; truncate -s 9 b/t; rmdir a; "
            "mkdir s; chown 0:2000 s; chmod 2770 s; touch s/f; chown 5 s/f; chmod 600 s/f; echo z >>s/f"
        )
        await output_of(pod, container, on_volume)
        moved = os.stat(machine.volume / "b/moved")
        assert (moved.st_uid, moved.st_gid, moved.st_mode & 0o7777, moved.st_nlink) == (1000, 2000, 0o6750, 2)
        assert (machine.volume / "b/hard").read_text() == "one\ntwo\n"
        assert os.stat(machine.volume / "s/f").st_uid == 5
        assert os.stat(machine.volume / "b/t").st_size == 9
        with pytest.raises(AssertionError, match=r"Permission denied|Operation not permitted"):
            await output_of(pod, container, "mknod /data/device c 1 3")
        assert not (machine.volume / "device").exists()


async def test_no_volume_is_fenced_off_not_even_what_the_host_mounts_later(machine: Machine) -> None:
    (machine.volume / "late").mkdir()
    (machine.volume / "single").write_text("one\n")
    (machine.volume / "fixed").mkdir()
    (machine.volume / "fixed/passwd").write_text("root")
    async with booted(machine) as pod:
        volume = Mount(str(machine.volume), "/data", propagation=HOST_TO_CONTAINER)
        single = Mount(f"{machine.volume}/single", "/single")
        fixed = Mount(f"{machine.volume}/fixed", "/fixed", read_only=True)
        container = await started(pod, machine.image, volume, single, fixed)
        await output_of(pod, container, "cat /fixed/passwd; echo two >>/single")
        assert (machine.volume / "single").read_text() == "one\ntwo\n"
        with pytest.raises(AssertionError, match="Read-only file system"):
            await output_of(pod, container, "echo x >/fixed/new")
        mount.mount("late", str(machine.volume / "late"), "tmpfs")
        (machine.volume / "late/file").write_text("from the host")
        follower = Follower(lambda: [pod])
        follower.open()
        await output_of(pod, container, "until [ -e /data/late/file ]; do sleep 0.1; done")
        script = "cat /data/late/file; echo from the guest >/data/late/reply"
        assert await output_of(pod, container, script) == "from the host"
        assert (machine.volume / "late/reply").read_text() == "from the guest\n"
        await follower.close()
