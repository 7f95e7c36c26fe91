# SPDX-License-Identifier: Apache-2.0
"""Volumes of the host in real VMs: what programs do with open files there, what the process is that serves them, and
that it ends with its VM and that one with it.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cri.containers import create as containers
from cri.containers import start as starts
from cri.containers.discard import discard
from cri.live.container import LiveContainer
from cri.live.images import RootRequest
from cri.live.pod import LivePod
from cri.monitors.mounts import Follower
from cri.store.pods import ContainerRecord
from stage1 import engine, served
from stage1.errors import PodError
from stage1.linux import idmap, mount
from stage1.pod.model import HOST_TO_CONTAINER, Container, Mount, Process, Security
from stage1.rootfs.share import ImageFiles
from tests.fakes.patience import PATIENCE
from tests.vm.test_confinement import FEW, Machine, booted, machine, output_of, pid_of, started

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120 * PATIENCE)]

__all__ = ["machine"]
ORDINARY = Security()


@pytest.fixture
def volume(machine: Machine) -> Mount:
    """A volume with the program of volume_probe.c, an empty directory `work`, and a file of somebody's."""
    compiler = shutil.which("musl-gcc")
    if not compiler:
        pytest.skip("needs musl-gcc: apt install musl-tools")
    source = Path(__file__).with_name("volume_probe.c")
    what = [compiler, "-static", "-O1", "-D_GNU_SOURCE", "-o", machine.volume / "probe", source]
    subprocess.run(what, check=True, timeout=60)
    (machine.volume / "work").mkdir()
    (machine.volume / "of-1000").write_text("x")
    os.chown(machine.volume / "of-1000", 1000, 1000)
    return Mount(str(machine.volume), "/data")


def _server(pod: LivePod) -> int:
    vm = engine.recorded_vm(pod.directory)
    assert vm is not None and vm.server
    return vm.server[0]


async def test_what_programs_do_with_open_files_of_a_volume(machine: Machine, volume: Mount) -> None:
    """By 9p, which works on names: an ftruncate of a file that was replaced emptied the new one."""
    async with booted(machine) as pod:
        container = await started(pod, machine.image, volume)
        told = (await output_of(pod, container, "cd /data/work && /data/probe")).splitlines()
        assert len(told) > 30
        assert [line for line in told if not line.endswith(" ok")] == []


async def _another(
    pod: LivePod, image: ImageFiles, name: str, *mounts: Mount, security: Security = ORDINARY
) -> LiveContainer:
    """One more container, which waits for execs."""
    what = Process(("sleep", "1000"), env=("PATH=/bin:/sbin:/usr/bin:/usr/sbin",))
    made = Container(id=name, name=name, image=image.id, process=what, mounts=mounts, security=security)
    record = ContainerRecord(made, b"", 0, time.time_ns(), image.id, image.id)
    async with containers.image_held(pod, RootRequest(image.id, lambda: (image,))) as root:
        result = pod.containers[await containers.create(pod, record, root=root)]
    await starts.start(pod, result)
    return result


async def test_a_volume_is_a_file_system_of_its_own_and_one_for_all_containers(machine: Machine, volume: Mount) -> None:
    own = machine.volume / "own"
    own.mkdir()
    mount.mount("own", str(own), "tmpfs", data="size=7m")
    single, fifo = machine.volume / "single", machine.volume / "fifo"
    single.write_text("one\n")
    os.mkfifo(fifo)
    given = (volume, Mount(str(own), "/own"), Mount(str(single), "/single"), Mount(str(fifo), "/fifo", read_only=True))
    async with booted(machine) as pod:
        first = await started(pod, machine.image, *given)
        second = await _another(pod, machine.image, "second", *given)
        types = "grep -E ' /(data|own|single|fifo) ' /proc/mounts | cut -d' ' -f1,3 | sort -u"
        assert await output_of(pod, first, types) == "host fuse.clearpod"
        numbers = (await output_of(pod, first, "stat -c %d / /data /own /single /fifo")).split()
        assert len(set(numbers)) == 5
        assert numbers[1:] == (await output_of(pod, second, "stat -c %d /data /own /single /fifo")).split()
        assert (await output_of(pod, first, "df -k /own | tail -1")).split()[1] == str(7 << 10)
        assert await output_of(pod, first, "test -p /fifo && echo pipe") == "pipe"

        holds = "cd /data/work; mkfifo until; (/data/probe hold-lock <until >/dev/null &) ; exec 9>until; sleep 0.3; "
        busy = asyncio.create_task(output_of(pod, first, f"{holds} sleep 4"))
        await asyncio.sleep(2)
        with pytest.raises(AssertionError):
            await output_of(pod, second, "cd /data/work; /data/probe hold-lock </dev/null")
        await busy
        await output_of(pod, first, "echo two >>/single")
        assert (single.read_text(), await output_of(pod, second, "tail -1 /single")) == ("one\ntwo\n", "two")

        place = f"{pod.directory}/tree/{served.SOURCES}"
        assert len(os.listdir(place)) == 4
        await discard(pod, pod.containers.pop("second"), limit_s=10)
        assert len(os.listdir(place)) == 4, "the first still has them"
        await output_of(pod, first, "echo three >/data/work/f")
        await discard(pod, pod.containers.pop("main"), limit_s=10)
        assert os.listdir(place) == []
        third = await _another(pod, machine.image, "third", volume)
        assert await output_of(pod, third, "cat /data/work/f") == "three"


async def test_a_read_only_volume_is_so_on_the_host_and_an_emptydir_in_the_guest(machine: Machine) -> None:
    uid = "8f7d6c5b-0000-4000-8000-000000000001"
    empty = machine.volume / f"pods/{uid}/volumes/kubernetes.io~empty-dir/shared"
    fixed = machine.volume / "fixed"
    for place in (empty, fixed):
        place.mkdir(parents=True)
        (place / "file").write_text("x")
    async with booted(machine, uid=uid) as pod:
        given = (Mount(str(empty), "/empty", read_only=True), Mount(str(fixed), "/fixed", read_only=True))
        reader = await started(pod, machine.image, *given)
        writer = await _another(pod, machine.image, "writer", Mount(str(empty), "/empty"), Mount(str(fixed), "/fixed"))
        for path in ("/empty/new", "/fixed/new", "/fixed/file"):
            with pytest.raises(AssertionError, match="Read-only file system"):
                await output_of(pod, reader, f"echo y >{path}")
        await output_of(pod, writer, "echo 1 >/empty/new; echo 2 >/fixed/new")
        assert await output_of(pod, reader, "cat /empty/new; sleep 1.1; cat /fixed/new") == "1\n2"
        same = "stat -c %d:%i /empty/new"
        assert await output_of(pod, reader, same) == await output_of(pod, writer, same), "so sockets there work"


async def test_what_the_host_does_later_is_seen(machine: Machine, volume: Mount) -> None:
    (machine.volume / "late").mkdir()
    async with booted(machine) as pod:
        follows = volume._replace(propagation=HOST_TO_CONTAINER)
        container = await started(pod, machine.image, follows, Mount(f"{machine.volume}/late", "/fixed"))
        mount.mount("late", str(machine.volume / "late"), "tmpfs")
        (machine.volume / "late/file").write_text("from the host")
        follower = Follower(lambda: [pod])
        follower.open()
        await output_of(pod, container, "until [ -e /data/late/file ]; do sleep 0.1; done")
        await output_of(pod, container, "echo from the guest >/data/late/reply; ! test -e /fixed/reply")
        assert (machine.volume / "late/reply").read_text() == "from the guest\n"
        again = await _another(pod, machine.image, "again", Mount(f"{machine.volume}/late", "/fixed"))
        assert await output_of(pod, again, "cat /fixed/file") == "from the host"
        mount.umount(str(machine.volume / "late"), lazy=True)
        await output_of(pod, container, "while [ -e /data/late/file ]; do sleep 0.1; done")
        (machine.volume / "of-1000").write_text("changed\n")
        assert (
            await output_of(pod, container, "sleep 1.1; cat /data/of-1000; stat -c %u /data/of-1000") == "changed\n1000"
        )
        await follower.close()


async def test_the_server_is_confined_and_ends_with_its_vm(machine: Machine, volume: Mount) -> None:
    async with booted(machine) as pod:
        assert engine.recorded_vm(pod.directory).server == (), "a pod without a volume has none"  # type: ignore[union-attr]
        container = await started(pod, machine.image, volume)
        pid = _server(pod)
        server, vmm = Path(f"/proc/{pid}"), Path(f"/proc/{pid_of(pod)}")
        assert os.path.basename(os.readlink(server / "exe")) == "volume-server"
        for kind in ("pid", "ipc", "uts", "user", "cgroup"):
            assert os.readlink(server / "ns" / kind) == os.readlink(vmm / "ns" / kind)
        assert os.readlink(server / "ns/mnt") not in (os.readlink("/proc/self/ns/mnt"), os.readlink(vmm / "ns/mnt"))
        assert os.readlink(server / "ns/net") not in (os.readlink("/proc/self/ns/net"), os.readlink(vmm / "ns/net"))
        assert (server / "cgroup").read_text() == (vmm / "cgroup").read_text()
        status = dict(line.split(":\t", 1) for line in (server / "status").read_text().splitlines())
        needed = {"NoNewPrivs": "1", "Seccomp": "2", "CapBnd": FEW, "CapEff": FEW, "CapPrm": FEW}
        assert {name: status[name].strip() for name in needed} == needed
        assert int(status["PPid"]) == pid_of(pod), "else the VMM's end waits for whoever has to reap it"
        assert int(status["Uid"].split()[0]) == idmap.outside(idmap.read_map(pid_of(pod)), 0)
        await output_of(pod, container, "echo written >/data/work/last")
        os.kill(pid_of(pod), signal.SIGKILL)
        async with asyncio.timeout(20 * PATIENCE):
            await pod.gone.wait()
        assert not server.exists()
        assert (machine.volume / "work/last").read_text() == "written\n"


async def test_a_vm_whose_server_was_killed_ends_while_files_are_written(machine: Machine, volume: Mount) -> None:
    async with booted(machine) as pod:
        container = await started(pod, machine.image, volume)
        await output_of(pod, container, "(while echo x; do :; done >/data/work/many 2>/dev/null) >/dev/null 2>&1 &")
        os.kill(_server(pod), signal.SIGKILL)
        async with asyncio.timeout(20 * PATIENCE):
            await pod.gone.wait()
        assert pod.status.why
        with pytest.raises(PodError):
            await _another(pod, machine.image, "late", volume)


async def test_a_guest_that_sends_garbage_loses_its_server_and_ends(machine: Machine, volume: Mount) -> None:
    """Its port can be opened by one process, which is a hostile one here, before the first volume comes."""
    if machine.host.choice.hypervisor.name != "qemu":
        pytest.skip("kvmtool has no such port")
    async with booted(machine) as pod:
        hostile = await _another(pod, machine.image, "hostile", security=Security(privileged=True))
        port = "$(dirname $(grep -l clearpod.volumes /sys/class/virtio-ports/*/name))"
        node = f"mknod /dev/port c $(tr : ' ' <{port}/dev)"
        garbage = "(exec 3<>/dev/port; while cat /bin/busybox >&3; do :; done) >/dev/null 2>&1 &"
        await output_of(pod, hostile, f"{node}; {garbage}")
        with pytest.raises(PodError):
            await _another(pod, machine.image, "late", volume)
        async with asyncio.timeout(30 * PATIENCE):
            await pod.gone.wait()
