# SPDX-License-Identifier: Apache-2.0
"""Who owns what: files of volumes as the host and the guest see them, and what a VMM is on the host."""

import asyncio
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.cli.parser import Parser
from cri.cli.view import jail
from cri.store import pods as records
from cri.store.pods import PodRecord
from stage1 import following, placement
from stage1.errors import BadRequest, NotFound, PodError, Unsupported, WrongState
from stage1.linux import mount
from stage1.pod import ids
from stage1.pod.ids import POD_IDS
from stage1.pod.model import HOST_TO_CONTAINER, IdMap, Mount, Pod
from stage1.vm import slots
from tests.vm.test_confinement import Machine, booted, machine, output_of, pid_of, started

__all__ = ["machine"]
pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]

FILES = {
    "root": (0, 0, 0o600),
    "user": (1000, 2000, 0o640),
    "last": (65535, 65535, 0o600),
    "far": (70000, (1 << 31) - 1, 0o600),
    "set-id": (5, 6, 0o6755),
}


@pytest.fixture(params=["disk", "tmpfs"])
def volume(request: pytest.FixtureRequest, machine: Machine) -> Path:
    """A directory with files of several owners."""
    if request.param == "tmpfs":
        mount.mount("tmpfs", str(machine.volume), "tmpfs", data="mode=0755")
    elif mount.type_of(str(machine.volume)) == "overlay":
        pytest.skip("needs a /tmp that is on a disk, or a tmpfs, and not on an overlay")
    for name, (uid, gid, mode) in FILES.items():
        path = machine.volume / name
        path.write_text(name)
        os.chown(path, uid, gid)
        path.chmod(mode)
    return machine.volume


def owners(volume: Path) -> dict[str, tuple[int, int, int]]:
    result = {path.name: path.lstat() for path in volume.iterdir()}
    return {name: (one.st_uid, one.st_gid, stat.S_IMODE(one.st_mode)) for name, one in result.items()}


async def test_files_have_the_same_owners_and_modes_on_the_host_and_in_the_guest(
    machine: Machine, volume: Path
) -> None:
    (volume / "beyond").touch(0o644)
    os.chown(volume / "beyond", 1 << 31, 3_000_000_000)
    async with booted(machine) as pod:
        container = await started(pod, machine.image, Mount(str(volume), "/data"))
        seen = (await output_of(pod, container, "cd /data; stat -c '%n %u %g %a' *")).splitlines()
        expected = [f"{name} {uid} {gid} {mode:o}" for name, (uid, gid, mode) in FILES.items()]
        assert sorted(seen) == sorted([*expected, "beyond 65534 65534 644"])
        assert await output_of(pod, container, "cat /data/root /data/user /data/last /data/far") == "rootuserlastfar"
        script = (
            "cd /data; echo more >>root; chown 7:8 user; chmod 4711 user; echo x >new; mkdir dir; ln -s new link; "
            "ln new hard; mkfifo pipe; echo y >given; chown 33:34 given; mv last moved; rm set-id; chown -h 3:4 link; "
            "chown 70001:2147483647 far; echo x >>far; "
            "mkdir setgid; chown 0:50 setgid; chmod 2775 setgid; touch setgid/inside"
        )
        await output_of(pod, container, script)
        with pytest.raises(AssertionError, match=r"not permitted|too large|Invalid"):
            await output_of(pod, container, "chown 1:1 /data/beyond")
        with pytest.raises(AssertionError, match=r"not permitted|too large|Invalid|denied"):
            await output_of(pod, container, "touch /data/z; chown 2147483648 /data/z")
    (volume / "z").unlink()
    assert owners(volume) == {
        "root": (0, 0, 0o600),
        "user": (7, 8, 0o4711),
        "moved": (65535, 65535, 0o600),
        "new": (0, 0, 0o644),
        "hard": (0, 0, 0o644),
        "dir": (0, 0, 0o755),
        "link": (3, 4, 0o777),
        "pipe": (0, 0, 0o644),
        "given": (33, 34, 0o644),
        "setgid": (0, 50, 0o2775),
        "far": (70001, (1 << 31) - 1, 0o600),
        "beyond": (1 << 31, 3_000_000_000, 0o644),
    }
    inside = (volume / "setgid/inside").stat()
    assert (inside.st_uid, inside.st_gid) == (0, 50)
    assert (volume / "root").read_text() == "rootmore\n"


async def test_the_containers_image_and_its_own_files_are_roots(machine: Machine) -> None:
    async with booted(machine) as pod:
        container = await started(pod, machine.image)
        script = "stat -c '%n %u %g' / /bin/busybox /etc/hosts /etc/resolv.conf /etc/hostname"
        assert {line.split(" ", 1)[1] for line in (await output_of(pod, container, script)).splitlines()} == {"0 0"}


@pytest.fixture
def unmappable(machine: Machine, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Places on file systems that can't be mounted with mapped owners, by their type."""
    for name in ("l", "u", "w", "overlay", "below/inner"):
        (tmp_path / name).mkdir(parents=True)
    mount.mount("tmpfs", str(tmp_path / "u"), "tmpfs")
    for name in ("up", "work"):
        (tmp_path / "u" / name).mkdir()
    options = f"lowerdir={tmp_path}/l,upperdir={tmp_path}/u/up,workdir={tmp_path}/u/work"
    mount.mount("overlay", str(tmp_path / "overlay"), "overlay", data=options)
    mount.mount("proc", str(tmp_path / "below/inner"), "proc")
    yield {"overlay": tmp_path / "overlay", "proc": Path("/proc/sys"), "sysfs": Path("/sys/kernel")}
    for point in mount.mounts_below(str(tmp_path)):
        mount.umount(point, lazy=True)


async def test_a_file_system_that_can_not_be_mapped_is_refused_by_name_and_nothing_stays(
    machine: Machine, unmappable: dict[str, Path], tmp_path: Path
) -> None:
    async with booted(machine) as pod:
        for kind, path in unmappable.items():
            with pytest.raises(Unsupported, match=f"^{path}.*volume.*, {kind},"):
                await started(pod, machine.image, Mount(str(path), "/data"))
        with pytest.raises(Unsupported, match=f"^{tmp_path}/below/inner .*volume.* proc,"):
            await started(pod, machine.image, Mount(str(tmp_path / "below"), "/data"))
        assert pod.containers == {}
        assert os.listdir(f"{pod.directory}/tree/volumes/containers") == []
        container = await started(pod, machine.image, Mount(str(tmp_path / "below"), "/data", recursive=False))
        assert await output_of(pod, container, "ls /data/inner") == ""


async def test_what_the_host_mounts_later_has_its_owners_too(machine: Machine) -> None:
    (machine.volume / "late").mkdir()
    async with booted(machine) as pod:
        volume = Mount(str(machine.volume), "/data", propagation=HOST_TO_CONTAINER)
        container = await started(pod, machine.image, volume)
        mount.mount("late", str(machine.volume / "late"), "tmpfs", data="mode=0700")
        (machine.volume / "late/file").write_text("from the host")
        os.chown(machine.volume / "late/file", 7, 8)
        expected = container.record.container
        assert await asyncio.to_thread(following.update, pod.directory, pod.record.pod, container=expected) == {}
        script = "cat /data/late/file; echo; stat -c %u:%g /data/late /data/late/file; touch /data/late/x; id -u"
        assert (await output_of(pod, container, script)).splitlines() == ["from the host", "0:0", "7:8", "0"]
        assert (machine.volume / "late/x").stat().st_uid == 0


async def test_each_vmm_has_ids_of_its_own_which_are_released_afterwards(machine: Machine) -> None:
    async with booted(machine) as one, booted(machine) as other:
        result = [slots.find(pod.directory) for pod in (one, other)]
        assert None not in result and result[0] != result[1]
        for pod, first in zip((one, other), result, strict=True):
            assert first is not None and first % POD_IDS == 0
            seen = jail.inspect(pod.directory)
            assert set(seen.users) == set(seen.groups) == {first}
            assert seen.uid_map == seen.gid_map == ids.extents(first, IdMap())
            disk = os.stat(os.readlink(f"{pod.directory}/scratch.img"))
            assert (disk.st_uid, disk.st_gid, stat.S_IMODE(disk.st_mode)) == (first, first, 0o600)
            assert stat.S_IMODE(os.stat(pod.directory).st_mode) == 0o700
        directories = [one.directory, other.directory]
    assert [slots.find(directory) for directory in directories] == [None, None]
    links = {os.readlink(f"{slots.PLACE}/{name}") for name in os.listdir(slots.PLACE) if name.isdigit()}
    assert links.isdisjoint(directories)


async def test_clearpod_jail_prints_what_is_in_force(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'run_dir = "{machine.host.run_dir}"\n')

    def printed(*argv: str) -> str:
        parser = Parser()
        jail.add_arguments(parser)
        assert jail.main(parser.parse_args([*argv, "--config", str(config)])) == 0
        return capsys.readouterr().out

    async with booted(machine) as pod:
        container = await started(pod, machine.image, Mount(str(machine.volume), "/data"))
        del container
        shown = await asyncio.to_thread(printed, pod.id[:8], "--json")
        result = json.loads(shown)
        assert result["pod"] == pod.id and result["pid"] == pid_of(pod)
        assert result["capabilities"]["effective"] == ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID"]
        assert result["capabilities"]["ambient"] == result["capabilities"]["inheritable"] == []
        assert result["no_new_privs"] is True and result["seccomp"] == "filter"
        assert {kind for kind, one in result["namespaces"].items() if not one["is_hosts"]} >= {
            "user", "mnt", "pid", "net", "ipc", "uts"}  # fmt: skip
        assert "etc" in result["root"] and "home" not in result["root"] and "root" not in result["root"]
        writable = {one["path"] for one in result["mounts"] if one["is_writable"] and one["type"] != "proc"}
        assert {path for path in writable if not path.endswith((".img", "/vmm"))} == set(), "nor volumes"
        assert result["limits"]["core file size"] == {"soft": "0", "hard": "0"}
        assert result["uid_map"][0]["length"] == 65536
        assert set(result["cgroups"]) == set(placement.cgroups(pod.directory))
        text = await asyncio.to_thread(printed, pod.id)
        shared = "65536 to 2147483647 are 2147483648 to"
        for expected in ("no new privs      yes", "0 to 65535 are", shared, "seccomp           filter", "cgroup "):
            assert expected in text, text
        with pytest.raises(NotFound, match="pod 'ffff-none'"):
            printed("ffff-none")
    with pytest.raises(NotFound):
        printed(pod.id)


def test_which_pod_is_meant_must_be_clear(tmp_path: Path) -> None:
    for name in ("pods/aa1", "pods/aa2", "pods/aa", "run/pods/bb", "rkt/pods/dd"):
        (tmp_path / name).mkdir(parents=True)

    def find(asked: str) -> str:
        return jail.find(str(tmp_path), asked, rkt=f"{tmp_path}/rkt")

    assert find("aa") == f"{tmp_path}/pods/aa"
    assert find("b") == f"{tmp_path}/run/pods/bb"
    assert find("d") == f"{tmp_path}/rkt/pods/dd"
    with pytest.raises(BadRequest, match=r"3 pods .*begin with 'a'"):
        find("a")
    for name, about in (
        ("bb", Pod("bb", "12", "shop", "uid-1")), ("aa1", Pod("aa1", "12", "other")), ("aa2", Pod("aa2", "aa", "shop")),
    ):  # fmt: skip
        place = f"{tmp_path}/run/pods/{name}" if name == "bb" else f"{tmp_path}/pods/{name}"
        records.PodFiles(place).save(records.Stored(PodRecord(about, b"", "", 0), records.PodState()))
    assert find("shop/12") == find("uid-1") == find("shop/1") == f"{tmp_path}/run/pods/bb"
    assert find("other/12") == f"{tmp_path}/pods/aa1"
    assert find("aa") == f"{tmp_path}/pods/aa", "an id is meant before a name"
    with pytest.raises(BadRequest, match=r"2 pods .*'12'"):
        find("12")
    for asked in ("", "c", "../"):
        with pytest.raises(NotFound):
            find(asked)
    with pytest.raises(WrongState, match="no virtual machine"):
        jail.inspect(f"{tmp_path}/pods/aa1")


async def test_a_vmm_in_another_namespace_than_it_was_given_gets_no_volumes(machine: Machine) -> None:
    async with booted(machine) as pod:
        record = Path(pod.directory, "vm.json")
        reported = json.loads(record.read_text())
        reported["ids"][0][1] += 1
        record.write_text(json.dumps(reported))
        with pytest.raises(WrongState, match="other ids"):
            await started(pod, machine.image, Mount(str(machine.volume), "/data"))


def test_pods_without_ids_left_are_refused_and_leave_nothing(machine: Machine) -> None:
    from stage1 import engine

    taken = slots.Range((1 << 20), POD_IDS)
    host = machine.host._replace(ids=taken)
    first = engine.prepare(Pod(id="1" * 64, name="one"), host)
    try:
        with pytest.raises(PodError, match=r"1 ranges .*1048576"):
            engine.prepare(Pod(id="2" * 64, name="two"), host)
        assert engine.pod_directories(host) == [first.directory]
    finally:
        engine.clean_up(first.directory)
    second = engine.prepare(Pod(id="2" * 64, name="two"), host)
    engine.clean_up(second.directory)
