# SPDX-License-Identifier: Apache-2.0
"""Power cuts: the real pull, removal and repair of images, and the record of a pod's network, on a disk that logs each
write and each flush; then the states in which the disk could have been found are mounted and opened.

What was answered before is there, whole; what was not is there or not, and nothing is half. Without fsync it is not so.
The log is QEMU's, and in the lab dm-log-writes' too. There dm-flakey also drops what is written from a moment on.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cri.config import Config
from cri.store.images import ImageStore
from stage1.net import record
from stage1.net.conflist import Network
from stage1.net.protocol import Call
from stage1.net.record import Attachment, Record
from stage1.rootfs.scratch import make_scratch
from tests.fakes.crash_disk import CrashDisk, QemuDisk, State, Unavailable, mounted
from tests.fakes.mapped_disks import FlakyDisk, LoggedDisk
from tests.fakes.oci_layout import Layer, Layout, directory, file, tar
from tests.fakes.pulled import pull_blocking

POD, CLAIMED = "a" * 64, "b" * 64
"""One that is booted, and one that claims a pool slot."""
SEED = 20261127
MIB = 96
CUTS = (5, 19, 20, 33, 41, 55, 62, 64)
"""After that many syncs of the history."""


class Moment(NamedTuple):
    """From the entry `mark` of the log on: images that must be there, by id, those that may be damaged, tags by image,
    and the records of networks that must be there.
    """

    mark: int
    images: frozenset[str] = frozenset()
    hurt: frozenset[str] = frozenset()
    tags: frozenset[tuple[str, str]] = frozenset()
    networks: frozenset[str] = frozenset()


@pytest.fixture(params=[QemuDisk, pytest.param(LoggedDisk, marks=pytest.mark.lab)])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CrashDisk]:
    made = request.param(tmp_path / "disk", MIB)
    _open(made)
    yield made
    made.close()


def _open(disk: CrashDisk | FlakyDisk) -> None:
    try:
        disk.open()
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two images that share a layer."""
    layout = Layout(tmp_path_factory.mktemp("layout") / "layout")
    shared = Layer(tar([directory("./"), file("big", os.urandom(600_000)), *[file(f"f{n}") for n in range(50)]]))
    own = [Layer(tar([file(name, name.encode() * 60_000)])) for name in "ab"]
    first, second = (layout.tag(str(n), layout.image([shared, one])) for n, one in enumerate(own))
    return first, second


class History:
    """What is done on the disk, and what must be found from when on."""

    def __init__(self, disk: CrashDisk | FlakyDisk) -> None:
        self._disk, self.moments = disk, [Moment(0)]
        self.state = f"{disk.mount}/state"

    def now(self, **changes: Any) -> None:
        """An answer was given: from now on this must be so. A promise that is about to end is taken back before."""
        self.moments.append(self.moments[-1]._replace(mark=self._disk.mark(), **changes))

    def happen(self, references: tuple[str, str]) -> None:
        """The history itself."""
        store = ImageStore(self.state)
        first = pull_blocking(store, references[0], config=Config())
        self.now(images=frozenset({first.id}))
        second = pull_blocking(store, references[1], config=Config())
        self.now(images=frozenset({first.id, second.id}))
        store.name(second, tag="x.io/b:1")
        self.now(tags=frozenset({("x.io/b:1", second.id)}))
        self.now(images=frozenset({second.id}))
        store.remove(first.id)
        pull_blocking(store, references[0], config=Config())
        self.now(images=frozenset({first.id, second.id}))
        self._repair(store, references[1], second.id)
        self._network()
        make_scratch(f"{self.state}/scratch.img", 16 << 20, template_dir=f"{self.state}/templates")
        self.now()
        store.close()
        self.now()

    def _repair(self, store: ImageStore, reference: str, image_id: str) -> None:
        before = self.moments[-1].images
        self.now(images=before - {image_id}, hurt=frozenset({image_id}))
        image = store.find(image_id)
        assert image
        os.truncate(store.files(image).layers[1], 5000)
        pull_blocking(store, reference, config=Config())
        self.now(images=before, hurt=frozenset())

    def _network(self) -> None:
        os.makedirs(f"{self.state}/cni")
        network = Network("n", "1.0.0", ({"type": "bridge"},), "n.conflist")
        plans = {}
        for pod in (POD, CLAIMED):
            path = record.place(f"{self.state}/cni", pod)
            plan = Record("/run/netns/x", ("/opt",), 10.0, (Attachment(network, Call(pod, "", "eth0", (), {})),))
            if pod == CLAIMED:
                record.reserve(path, plan._replace(attachments=()))
            record.begin(path, plan)
            plans[path] = plan
            self.now(networks=frozenset(plans))
        for number in range(3):
            for path, plan in plans.items():
                record.save(path, plan._replace(failures=number))
        os.sync()
        self.now()
        self.now(networks=frozenset())
        for path in plans:
            record.forget(path)


def wrong(state: State, history: History, at: Path) -> str:
    """What is not as it must be in this state of the disk; empty when all is."""
    past = [moment for moment in history.moments if moment.mark <= state.durable]
    must, next_ = past[-1], history.moments[min(len(past), len(history.moments) - 1)]
    with mounted(state.image, at) as mount:
        if not (mount / "state/images.db").exists():
            return "no store" if must.images else ""
        store = ImageStore(f"{mount}/state")
        try:
            return _wrong_store(store, must, hurt=must.hurt | next_.hurt) or _wrong_rest(store, must)
        finally:
            store.close()


def _wrong_store(store: ImageStore, must: Moment, *, hurt: frozenset[str]) -> str:
    result = {image.id: image for image in store.list()}
    if lost := must.images - set(result):
        return f"lost: {lost}"
    for image in result.values():
        if (why := store.examine(image, whole=True)) and image.id not in hurt:
            return why
    tags = {(tag, image.id) for image in result.values() for tag in image.repo_tags}
    return f"tags: {tags}" if not must.tags <= tags else ""


def _wrong_rest(store: ImageStore, must: Moment) -> str:
    if Path(store.state_dir, "images.db.damaged").exists():
        return "the index was damaged"
    for name in map(os.path.basename, must.networks):
        known = record.load_first(f"{store.state_dir}/cni/{name}")
        if known is None or len(known.attachments) != 1:
            return f"the network's record {name} is lost"
    make_scratch(f"{store.state_dir}/again.img", 16 << 20, template_dir=f"{store.state_dir}/templates")
    with open(f"{store.state_dir}/again.img", "rb") as scratch:
        scratch.seek(1080)
        return "" if scratch.read(2) == b"\x53\xef" else "the template is none"


def after_cuts(disk: CrashDisk, references: tuple[str, str], place: Path) -> Iterator[str]:
    """What was wrong, for each state of the disk."""
    history = History(disk)
    history.happen(references)
    disk.close()
    for state in disk.states(SEED):
        what = wrong(state, history, place / "after")
        yield f"after {state.durable} and {state.more} more: {what}" if what else ""


@pytest.mark.timeout(1200)
def test_nothing_that_was_answered_is_lost_and_nothing_is_half(
    disk: CrashDisk, references: tuple[str, str], tmp_path: Path
) -> None:
    result = list(after_cuts(disk, references, tmp_path))
    faults = list(filter(None, result))
    print(f"power cuts: {len(result)} states of the disk, {len(faults)} of them wrong")
    assert len(result) > 100
    assert faults == []


@pytest.mark.timeout(1200)
def test_without_fsync_the_same_history_loses_images(
    disk: CrashDisk, references: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    assert any(after_cuts(disk, references, tmp_path))


@pytest.mark.lab
@pytest.mark.timeout(1200)
def test_what_a_disk_drops_from_a_moment_on_was_not_answered(
    references: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, faults = os.fsync, []
    for number in CUTS:
        disk = FlakyDisk(tmp_path / f"disk{number}", MIB)
        _open(disk)
        left = itertools.count(number - 1, -1)

        def sync(fd: int, disk: FlakyDisk = disk, left: Iterator[int] = left) -> None:
            real(fd)
            if not next(left):
                disk.cut()

        monkeypatch.setattr(os, "fsync", sync)
        history = History(disk)
        try:
            history.happen(references)
            (disk.mount / "late").touch()
            os.sync()
        finally:
            disk.close()
        faults.append(wrong(disk.state(), history, tmp_path / "after"))
        with mounted(disk.state().image, tmp_path / "after") as mount:
            assert not (mount / "late").exists(), "nothing was dropped"
    print(f"power cuts by dm-flakey: {len(CUTS)} states of the disk, {sum(map(bool, faults))} of them wrong")
    assert [what for what in faults if what] == []
