# SPDX-License-Identifier: Apache-2.0
"""Volumes, image volumes and CDI devices in a real guest. A case that critest has too is named after its spec.

One pod for all of them; docs/user/volumes.md has the same for operators, limits included.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cri.containers import leaving
from cri.pb import runtime_pb2 as pb
from stage1 import engine, served
from stage1.linux import mount
from tests.fakes.patience import PATIENCE

from .conftest import Client, VmWorld
from .one_pod import Run, Seen, log_directory, machine, run

pytestmark = pytest.mark.vm

PRIVILEGED = {"privileged": True}
CDI = {
    "cdiVersion": "0.6.0",
    "kind": "example.com/thing",
    "containerEdits": {"env": ["THING=1"]},
    "devices": [
        {
            "name": "one",
            "containerEdits": {
                "env": ["NUMBER=one"],
                "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/fuse"}],
                "mounts": [{"hostPath": "", "containerPath": "/thing", "options": ["ro", "bind"]}],
                "additionalGids": [77],
            },
        }
    ],
}


def _mount(source: Path | str, target: str, **more: Any) -> pb.Mount:
    return pb.Mount(host_path=str(source), container_path=target, **more)


def _image(world: VmWorld, target: str, **more: Any) -> pb.Mount:
    return pb.Mount(image=pb.ImageSpec(image=world.image), container_path=target, readonly=True, **more)


def _with(*mounts: pb.Mount, **more: Any) -> dict[str, Any]:
    return {"mounts": mounts, **more}


@contextmanager
def _volumes(place: Path) -> Iterator[Path]:
    """A directory of the host that is a shared mount, as systemd makes all of them, with things to mount in it."""
    base = place / "volumes"
    for name in ("shared", "dir/sub", "dir/tmpfs", "map/..1", "map/..2", "watched", "memory", "open", "busy/on"):
        (base / name).mkdir(parents=True)
    for name, text in (("dir/file", "seen"), ("dir/sub/one", "1"), ("map/..1/key", "one"), ("map/..2/key", "two"),
                       ("hosts", "1.2.3.4 here"), ("log", "")):  # fmt: skip
        (base / name).write_text(text)
    (base / "link").symlink_to("dir")
    (base / "dir" / "astray").symlink_to("/../../../etc")
    (base / "map" / "..data").symlink_to("..1")
    (base / "map" / "key").symlink_to("..data/key")
    (base / "open").chmod(0o777)
    mount.mount("tmpfs", f"{base}/dir/tmpfs", "tmpfs")
    mount.mount("tmpfs", f"{base}/busy/on", "tmpfs")
    mount.mount("tmpfs", f"{base}/memory", "tmpfs", data="size=1m,mode=1777")
    mount.bind(f"{base}/shared", f"{base}/shared")
    mount.set_propagation(f"{base}/shared", mount.MS_SHARED)
    try:
        yield base
    finally:
        for point in mount.mounts_below(str(base)):
            mount.umount(point, lazy=True)


def _runs(base: Path, world: VmWorld, opened: int) -> dict[str, Run]:
    slave = pb.PROPAGATION_HOST_TO_CONTAINER
    touch = "touch /v/top; touch /v/tmpfs/below && echo below"
    user = {"run_as_user": pb.Int64Value(value=1001), "run_as_group": pb.Int64Value(value=1002)}
    return {
        "directory": Run("ls -A /v", fields=_with(_mount(base / "dir", "/v", selinux_relabel=True))),
        "link": Run(f"ls -A {base}/link", fields=_with(_mount(base / "link", f"{base}/link"))),
        "read-only": Run(touch, fields=_with(_mount(base / "dir", "/v", readonly=True))),
        "all-read-only": Run(touch, fields=_with(_mount(base / "dir", "/v", readonly=True, recursive_read_only=True))),
        "files": Run("cat /etc/hosts; echo; echo ended > /dev/termination-log", fields=_with(
            _mount(base / "hosts", "/etc/hosts"), _mount(base / "log", "/dev/termination-log"))),
        "nested": Run("cat /a/b/one; ls /a/b/c", fields=_with(
            _mount(base / "map", "/a/b/c"), _mount(base / "dir" / "sub", "/a/b"), _mount(base / "open", "/a"))),
        "twice": Run("ls /a", fields=_with(_mount(base / "open", "/a"), _mount(base / "map" / "..2", "/a"))),
        "sub-path": Run("cat /one", fields=_with(_mount(f"/proc/self/fd/{opened}", "/one"))),
        "through-a-link": Run("cat /etc/sub/one; ls -d /astray/sub", fields=_with(
            _mount(base / "dir" / "sub", "/astray/sub"))),
        "through-a-volumes-link": Run("cat /etc/sub/one", fields=_with(
            _mount(base / "dir", "/v"), _mount(base / "dir" / "sub", "/v/astray/sub"))),
        "owner": Run("echo x > /v/mine; umask 0; echo y > /v/all", user, _with(_mount(base / "open", "/v"))),
        "kinds": Run(
            "/probe shared:/v/f readable:/v/f private:/v/f lock:/v/f shared:/f told:/v unnamed:/v allocate:/v/f",
            fields=_with(_mount(base / "open", "/v"))),
        "memory": Run("/probe lock:/dev/shm/f; df -k /dev/shm | tail -n 1", fields=_with(
            _mount(base / "memory", "/dev/shm"))),
        "image": Run("test -x /i/bin/sh && echo there; echo x > /i/x; /i/bin/ls /i/etc", fields=_with(
            _image(world, "/i"))),
        "image-sub": Run("cat /i/top /i/inner/deep", fields=_with(_image(world, "/i", image_sub_path="data"))),
        "image-file": Run("cat /i", fields=_with(_image(world, "/i", image_sub_path="data/top"))),
        "image-link": Run("cat /i/group", fields=_with(_image(world, "/i", image_sub_path="astray"))),
        "cdi": Run("echo $THING $NUMBER; cat /thing/one; ls /dev/thing; id -G; touch /thing/x", fields={
            "CDI_devices": [pb.CDIDevice(name="example.com/thing=one")]}),
        "slave": Run("until cat /v/late/file 2> /dev/null; do sleep 0.05; done; stat -c %u:%a /v/late; touch /v/seen; "
                     "while [ -e /v/late/file ]; do sleep 0.05; done; ls -A /v/late; mkdir /v/inner; "
                     "mount -t tmpfs inner /v/inner && touch /v/inner/hidden && echo inner",
                     PRIVILEGED, _with(_mount(base / "shared", "/v", propagation=slave))),
        "private": Run("until [ -e /v/done ]; do sleep 0.05; done; ls /v/late", PRIVILEGED,
                       _with(_mount(base / "shared", "/v"))),
        "map": Run("exec 3< /map/key; cat /map/key; echo; touch /o/looking; "
                   "until [ $(cat /map/key) = two ]; do sleep 0.02; done; cat <&3; echo changed",
                   fields=_with(_mount(base / "map", "/map", readonly=True), _mount(base / "open", "/o"))),
        "watch": Run("/probe watch:/watch", fields=_with(
            _mount(base / "watched", "/watch"), _mount(base / "busy", "/busy"))),
    }  # fmt: skip


async def _meanwhile(base: Path, cri: Client) -> None:
    """What happens on the host while the containers run."""
    async with asyncio.timeout(120 * PATIENCE):
        running: set[str] = set()
        while not {"slave", "private", "map", "watch"} <= running:
            await asyncio.sleep(0.2)
            listed = (await cri("ListContainers")).containers
            running |= {one.metadata.name for one in listed if one.state == pb.CONTAINER_RUNNING}
        while not (base / "open" / "looking").exists():
            await asyncio.sleep(0.1)
    await asyncio.sleep(1)  # all have been looking in vain for a while
    mount.umount(f"{base}/busy/on", lazy=True)
    (base / "busy" / "on").rmdir()  # EBUSY if a copy of the mount could be seen here, as critest finds
    (base / "shared" / "late").mkdir()
    mount.mount("tmpfs", f"{base}/shared/late", "tmpfs", data="mode=700")
    (base / "shared/late/~").write_text("late\n")
    (base / "shared/late/~").chmod(0o600)
    os.rename(base / "shared/late/~", base / "shared/late/file")
    (base / "shared" / "done").touch()
    while not (base / "shared/seen").exists():
        await asyncio.sleep(0.05)
    mount.umount(f"{base}/shared/late", lazy=True)
    (base / "watched" / "host").touch()
    (base / "map" / "..new").symlink_to("..2")
    os.rename(base / "map" / "..new", base / "map" / "..data")


async def _all(place: Path, guest_dir: Path) -> dict[str, Seen]:
    (place / "cdi").mkdir()
    with machine(place, guest_dir) as world, _volumes(place) as base:
        CDI["devices"][0]["containerEdits"]["mounts"][0]["hostPath"] = f"{base}/dir/sub"  # type: ignore[index]
        (place / "cdi" / "thing.json").write_text(json.dumps(CDI))
        world.config = world.config.but(cdi_dirs=(str(place / "cdi"),))
        async with world.daemon() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=world.image))
            context = pb.LinuxSandboxSecurityContext(privileged=True)
            linux = pb.LinuxPodSandboxConfig(security_context=context)
            pod = await cri.pod(log_directory=log_directory(world), linux=linux)
            first = await cri.container(pod, "true", name="early", mounts=[_mount(base / "dir", "/v")])
            assert _mounted(world, first)
        async with world.daemon() as cri:
            await cri("RemoveContainer", container_id=first)
            await leaving.end(cri.node.pods.get(pod))
            assert not _mounted(world, first), "a daemon finds what the one before has mounted"
            host = asyncio.ensure_future(_meanwhile(base, cri))
            opened = os.open(base / "dir" / "sub" / "one", os.O_PATH)  # as kubelet names a subPath
            runs = _runs(base, world, opened)
            waiting = {name: runs.pop(name) for name in ("slave", "private", "map", "watch")}
            seen = await run(cri, pod, waiting) | await run(cri, pod, runs)
            await host
            os.close(opened)
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert world.left_over() == []
            assert not Path("/etc/sub").exists()
            _stat_all(base)
    return seen


def _mounted(world: VmWorld, container: str) -> list[str]:
    """The container's volumes, as their server sees them; neither we nor the VMM do."""
    (place,) = engine.pod_directories(world.host)
    assert not mount.mounts_below(f"{place}/share/volumes")
    vm = engine.find_vm(place)
    assert vm is not None and vm.server
    seen = [Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8") for pid in (vm.pid, vm.server[0])]
    assert "/share/volumes/" not in seen[0]
    names = served.names(place, container)
    return [line for line in seen[1].splitlines() if any(f"/share/volumes/sources/{name} " in line for name in names)]


def _stat_all(base: Path) -> None:
    """What is left on the host, while its mounts are still there."""
    assert (base / "log").read_text() == "ended\n"
    assert not list((base / "shared" / "inner").iterdir()), "what a container mounts stays in its pod"
    mine, everyones = (base / "open" / name for name in ("mine", "all"))
    assert (mine.stat().st_uid, mine.stat().st_gid, oct(mine.stat().st_mode)) == (1001, 1002, "0o100644")
    assert oct(everyones.stat().st_mode) == "0o100666"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, guest_dir: Path) -> dict[str, Seen]:
    place = tmp_path_factory.mktemp("mounts")
    return asyncio.run(_all(place, guest_dir))


IN_DIR = "astray\nfile\nsub\ntmpfs\n"
ROWS = [
    ("volume", "directory", IN_DIR),
    ("host path is a symlink", "link", IN_DIR),
    ("rprivate", "private", ""),
    ("rslave", "slave", "late\n0:700\ninner\n"),
    ("non-recursive readonly", "read-only", "below\n"),
    ("recursive readonly", "all-read-only", ""),
    ("image volume", "image", "there\ngroup\npasswd\n"),
    ("image volume subPath", "image-sub", "topdeep"),
    ("subPath of a file", "image-file", "top"),
    ("subPath through a link stays in the image", "image-link", "root:x:0:\nnobody:x:65534:\n"
     "group-defined-in-image:x:50000:default-user\n"),
    ("files", "files", "1.2.3.4 here\n"),
    ("nested mounts in any order", "nested", "1key\n"),
    ("the later of two mounts at one place", "twice", "key\n"),
    ("subPath as a descriptor", "sub-path", "1"),
    ("a target through the image's link stays in the container", "through-a-link", "1/astray/sub\n"),
    ("a target through a volume's link stays in the container", "through-a-volumes-link", "1"),
    ("a configMap is updated at once, and open files keep the old", "map", "one\nonechanged\n"),
    ("inotify tells of the guest's own changes only", "watch", "watching\nevent guest\n"),
    ("CDI", "cdi", "1 one\n1/dev/thing\n0 77\n"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_a_volume_shows(seen: dict[str, Seen], name: str, expected: str) -> None:
    assert seen[name].out == expected, seen[name]


ERRORS = [
    ("non-recursive readonly", "read-only", "touch: /v/top: Read-only file system"),
    ("recursive readonly", "all-read-only", "touch: /v/tmpfs/below: Read-only file system"),
    ("image volume is read-only", "image", "/i/x: Read-only file system"),
    ("CDI mount is read-only", "cdi", "Read-only file system"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), [pytest.param(*row[1:], id=row[0]) for row in ERRORS])
def test_a_volume_refuses(seen: dict[str, Seen], name: str, expected: str) -> None:
    assert expected in seen[name].err, seen[name]


def test_the_status_names_the_image_of_a_volume(seen: dict[str, Seen]) -> None:
    status = seen["image"].status
    assert status.mounts[0].image.image_ref == status.image_id
    assert status.mounts[0].container_path == "/i"


def test_the_status_echoes_a_mount(seen: dict[str, Seen]) -> None:
    (echoed,) = seen["slave"].status.mounts
    assert (echoed.container_path, echoed.readonly, echoed.propagation) == ("/v", False, 1)
    assert not echoed.HasField("image")


def test_what_a_volume_can_map_and_lock(seen: dict[str, Seen]) -> None:
    *kinds, unnamed, allocate = seen["kinds"].out.splitlines()
    assert kinds == ["shared ok", "readable ok", "private ok", "lock ok", "shared ok", "told ok"]
    assert (unnamed, allocate) == ("unnamed ok", "allocate ok")


def test_a_volume_in_memory_at_dev_shm_has_its_own_size(seen: dict[str, Seen]) -> None:
    lock, size = seen["memory"].out.splitlines()
    assert lock == "lock ok"
    assert int(size.split()[1]) == 1024
