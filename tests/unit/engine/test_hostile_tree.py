# SPDX-License-Identifier: Apache-2.0
"""The engine on a pod's directory that is the attacker's: nothing outside of it is changed, mounted or killed."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stage1 import engine
from stage1.errors import PodError
from stage1.linux import mount
from stage1.linux.files import NotPlain
from stage1.pod.model import Limits, Mount
from stage1.rootfs import bundle, export, identity
from stage1.rootfs.share import ImageFiles
from tests.fakes.swapper import swapping
from tests.unit.engine.test_engine import CONTAINER, POD, host

__all__ = ["host"]


@pytest.fixture
def directory(host: engine.Host) -> Iterator[Path]:
    """A pod's directory with one container."""
    prepared = engine.prepare(POD, host)
    engine.add_container(prepared.directory, POD, container=CONTAINER)
    yield Path(prepared.directory)
    engine.clean_up(prepared.directory)
    assert not os.path.exists(prepared.directory)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host's that has what an attacker would wish to find, with a mount in it."""
    place = tmp_path / "canary"
    for name in ("c1/mounts/0", "volumes/pod", "volumes/containers/c1", "layers/img/etc"):
        (place / name).mkdir(parents=True)
    for name in ("c1/config.json", "c1/exec-1.json", "volumes/pod/hosts", "layers/img/etc/passwd"):
        (place / name).write_text("precious")
    mount.mount("canary", str(place / "c1" / "mounts" / "0"), "tmpfs")
    (place / "c1" / "mounts" / "0" / "file").write_text("precious")
    before = _state(place)
    yield place
    after = _state(place)
    mount.umount(str(place / "c1" / "mounts" / "0"), lazy=True)
    assert after == before


def _state(place: Path) -> tuple[list[tuple[str, int, str]], list[str]]:
    result = [(str(p), p.lstat().st_mode, p.read_text() if p.is_file() else "") for p in sorted(place.rglob("*"))]
    return result, mount.mounts_below(str(place))


def _swap(directory: Path, name: str, canary: Path) -> None:
    (directory / name).rename(directory / f"{name}.away")
    (directory / name).symlink_to(canary)


IMAGE = ImageFiles("sha256:img", merged="/nowhere/merged.erofs", layers=(), config=b"")
VOLUME = CONTAINER._replace(id="c2", mounts=(Mount("/usr", "/v", read_only=True),))
CALLS: list[tuple[str, str, Callable[[str], object]]] = [
    ("containers", "", lambda d: engine.add_container(d, POD, container=VOLUME)),
    ("containers", "", lambda d: engine.add_exec(d, POD, container=CONTAINER, what=CONTAINER.process, number=1)),
    ("containers", "", lambda d: engine.remove_exec(d, "c1", number=1)),
    ("containers", "", lambda d: engine.remove_container(d, "c1")),
    ("containers", "", engine.bundles),
    ("containers", "", lambda d: bundle.change_limits(d, engine.bundle("c1"), limits=Limits(memory=1 << 30))),
    ("containers", "", lambda d: bundle.write_resources(d, engine.bundle("c1"), limits=Limits(memory=1 << 30))),
    ("pod", "volumes/pod", lambda d: identity.write(POD, d, network=None)),
]


@pytest.mark.parametrize("level", ["tree", "tree/volumes", "last"])
@pytest.mark.parametrize(("last", "at", "call"), CALLS)
def test_no_call_goes_through_a_link_on_any_level(
    directory: Path, canary: Path, level: str, last: str, at: str, call: Callable[[str], object]
) -> None:
    name, to = {"tree": ("tree", canary), "tree/volumes": ("tree/volumes", canary / "volumes")}.get(
        level, (f"tree/volumes/{last}", canary / at)
    )
    _swap(directory, name, to)
    with pytest.raises(NotPlain, match="symbolic link"):
        call(str(directory))


@pytest.mark.parametrize("name", ["tree", "tree/layers"])
def test_an_image_is_not_mounted_or_read_through_a_link(directory: Path, canary: Path, name: str) -> None:
    _swap(directory, name, canary if name == "tree" else canary / "layers")
    with pytest.raises(NotPlain):
        export.add_image(str(directory), IMAGE)
    if name == "tree/layers":  # `share` shows what `tree` was
        assert export.read_image_files(str(directory), "img", paths=("etc/passwd",)) == [""]
        with pytest.raises(NotPlain):
            export.remove_image(str(directory), IMAGE)


@pytest.mark.parametrize("link", ["scratch.img", "journal", "cgroup", "cni.json"])
@pytest.mark.parametrize("to", ["", "c1", "../escape"])
def test_clean_up_believes_no_link_that_does_not_lead_to_the_pods_own(
    directory: Path, canary: Path, link: str, to: str
) -> None:
    (directory / link).unlink(missing_ok=True)
    (directory / link).symlink_to(canary / to)
    engine.clean_up(str(directory))
    assert not directory.exists()


@pytest.mark.parametrize("path", ["tree/volumes/containers", "tree", "tree/volumes/containers/c1", "logs"])
def test_clean_up_removes_links_and_nothing_behind_them(directory: Path, canary: Path, path: str) -> None:
    (directory / "logs").mkdir(exist_ok=True)
    _swap(directory, path, canary)
    engine.clean_up(str(directory))
    assert not directory.exists()


@pytest.mark.parametrize(
    "record", ["{", "[]", "null", '{"pid": "x"}', '{"v": 1}', "[" * 100_000, "\xff", "x" * 100_000]
)
def test_a_damaged_record_of_the_vmm_keeps_nothing_from_being_removed(directory: Path, record: str) -> None:
    (directory / "vm.json").write_text(record)
    assert engine.find_vm(str(directory)) is None and engine.living_pid(str(directory)) == 0
    engine.clean_up(str(directory))
    assert not directory.exists()


def test_a_fifo_in_the_place_of_a_record_is_not_waited_for(directory: Path) -> None:
    os.mkfifo(directory / "vm.json")
    (directory / "tree/volumes/containers/c1/config.json").unlink()
    os.mkfifo(directory / "tree/volumes/containers/c1/config.json")
    assert engine.find_vm(str(directory)) is None
    with pytest.raises(NotPlain, match="FIFO"):
        bundle.change_limits(str(directory), engine.bundle("c1"), limits=Limits(memory=1 << 30))


def test_the_console_of_a_record_is_always_the_pods_own(directory: Path, canary: Path) -> None:
    record = f'{{"pid": {os.getpid()}, "start_time": 1, "console": "{canary}/c1/config.json"}}'
    (directory / "vm.json").write_text(record)
    vm = engine.find_vm(str(directory))
    assert vm is not None and vm.console == f"{directory}/console.log"
    (directory / "console.log").symlink_to(canary / "c1/config.json")
    assert vm.console_tail() == ""
    with pytest.raises(NotPlain):
        vm.trim_console()
    (directory / "vm.json").unlink()


def test_volumes_are_mounted_in_the_pod_or_not_at_all_while_their_place_is_swapped(
    directory: Path, canary: Path
) -> None:
    """The fixtures see that nothing was mounted, written or removed in the canary."""
    (directory / "tree/volumes/swap").symlink_to(canary)
    done = 0
    with swapping(directory / "tree/volumes", "containers", "swap"):
        for number in range(150):
            try:
                engine.add_container(str(directory), POD, container=VOLUME._replace(id=f"n{number}"))
                done += 1
            except PodError:
                continue
    mounted = [target for target in mount.mounts_below(str(directory)) if "/n" in target]
    assert len(mounted) >= done
    for target in mounted:  # each that is seen is read-only
        assert os.statvfs(target).f_flag & os.ST_RDONLY
