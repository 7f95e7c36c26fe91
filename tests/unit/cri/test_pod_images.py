# SPDX-License-Identifier: Apache-2.0
"""Which way a pod's images come, and when one leaves the window: with a fake window and a fake agent, no guest."""

import asyncio
import logging
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cri.config import Config
from cri.live.images import Accounts, PodImages, RootRequest
from cri.store.images import ImageStore
from stage1.errors import AgentFailed, AlreadyExists, NotFound, WrongState
from stage1.guest.messages import MountImage, UnmountImage
from stage1.linux import mount
from stage1.pod.model import IdMap
from stage1.rootfs.flat import flatten
from stage1.rootfs.share import ImageFiles
from stage1.vm import mapping
from stage1.vm.spec import QMP
from stage1.vm.window import Placed
from tests.fakes.oci_layout import Layer, Layout, file, tar
from tests.fakes.patience import PATIENCE
from tests.fakes.pulled import pull_blocking
from tests.fakes.window import FakeWindow

SIZE = 256 * 4096


class Killed(BaseException):
    """Stands for SIGKILL."""


class Agent:
    """What the guest's agent does of it: held to the real one by tests/vm/test_window_qemu.py, which asks the same."""

    def __init__(self) -> None:
        self.mounted: dict[str, MountImage] = {}
        self.in_use: dict[str, int] = {}
        """Image -> how many times an unmount is still refused."""
        self.fails = 0
        """How many mounts fail."""

    async def call(self, op: Any) -> None:
        """MountImage or UnmountImage."""
        if isinstance(op, MountImage):
            if self.fails:
                self.fails -= 1
                await asyncio.sleep(0.05)
                raise AgentFailed("mount image: Structure needs cleaning")
            if any(op.offset < one.offset + one.bytes and one.offset < op.offset + op.bytes
                   for one in self.mounted.values()):  # fmt: skip
                raise AlreadyExists("it would lie over another image")
            self.mounted[op.name] = op
            return
        assert isinstance(op, UnmountImage)
        if op.name not in self.mounted:
            raise NotFound("no such image in the window")
        if self.in_use.get(op.name, 0):
            self.in_use[op.name] -= 1
            raise WrongState("it is in use")
        del self.mounted[op.name]


class Pod:
    """As much of a LivePod as PodImages looks at. `adopted` is the pod as the next daemon sees it."""

    def __init__(self, directory: Path, agent: Agent, containers: dict[str, Any] | None = None) -> None:
        self.directory, self.agent, self.id, self.is_ready = str(directory), agent, "p", True
        model: Any = SimpleNamespace(id="p", ids=IdMap(), host=())
        self.containers = containers or {}
        self.call = agent.call
        self.images = PodImages(
            model,
            self.directory,
            call=self._ask,
            records=lambda: [one.record for one in self.containers.values()],
            is_ready=lambda: self.is_ready,
        )

    async def _ask(self, op: Any) -> Any:
        return await self.call(op)  # type: ignore[func-returns-value]

    def adopted(self) -> "Pod":
        """The pod of the next daemon."""
        return Pod(Path(self.directory), self.agent, self.containers)

    async def create(self, name: str, image: ImageFiles) -> str:
        """A container of the image; returns which way it came."""
        async with self.images.held(RootRequest(image.id, lambda: (image,))) as root:
            await asyncio.sleep(0.05)  # for the guest to make the container's root
            record = SimpleNamespace(window_image=root.lower if root.in_window else "")
            self.containers[name] = SimpleNamespace(record=record)
            return root.source

    async def remove(self, name: str) -> None:
        """Remove it."""
        del self.containers[name]
        await self.images.settle()

    def in_window(self) -> int:
        """How many images the record has."""
        window = mapping.find(self.directory)
        assert window is not None
        return len(window.images)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageFiles, ImageFiles, ImageFiles]:
    """Two small images, and one that does not fit into the window."""
    root = tmp_path_factory.mktemp("images")
    store = ImageStore(f"{root}/state")
    result = []
    for name, size in (("a", 9000), ("b", 90_000), ("c", SIZE)):
        layout = Layout(root / name)
        content = [file("etc/passwd", name.encode()), file("data", name.encode() * size)]
        tagged = layout.tag("1", layout.image([Layer(tar(content), "")]))
        result.append(store.files(pull_blocking(store, tagged, config=Config())))
    store.close()
    return result[0], result[1], result[2]


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    """A pod with a share; its directory is tmp_path/pod. Needs root."""
    directory = tmp_path / "pod"
    for name in ("tree/layers", "share"):
        (directory / name).mkdir(parents=True)
    mount.bind(f"{directory}/tree", f"{directory}/share", read_only=True)
    mapping.create(str(directory), SIZE)
    try:
        with FakeWindow(f"{directory}/dax.sock", SIZE) as window:
            yield Pod(directory, Agent())
            assert set(window.pieces) <= set(range(SIZE))
    finally:
        for target in mount.mounts_below(str(directory)):
            mount.umount(target, lazy=True)


def exported(pod: Pod) -> list[str]:
    """Images in the layers export."""
    return [path for path in mount.mounts_below(pod.directory) if "/layers/" in path]


async def test_containers_of_one_image_share_its_place_until_the_last_is_removed(
    pod: Pod, images: tuple[ImageFiles, ...]
) -> None:
    sources = await asyncio.gather(*(pod.create(f"c{n}", images[n % 2]) for n in range(6)))
    assert len(set(sources)) == 2 and all(source.startswith("dax window at ") for source in sources)
    assert pod.in_window() == len(pod.agent.mounted) == 2
    assert exported(pod) == []
    for name in ("c0", "c2", "c1", "c3"):
        await pod.remove(name)
    assert pod.in_window() == 2
    await pod.remove("c4")
    assert pod.in_window() == len(pod.agent.mounted) == 1
    await pod.remove("c5")
    assert pod.in_window() == len(pod.agent.mounted) == 0


async def test_the_accounts_are_the_images(pod: Pod, images: tuple[ImageFiles, ...]) -> None:
    async with pod.images.held(RootRequest(images[0].id, lambda: images[:1])) as root:
        assert root.planned == Accounts("a", "")
    assert pod.in_window() == 0  # no container was made


@pytest.mark.parametrize("what", ["damaged files", "bad request"])
async def test_what_can_not_be_planned_leaves_no_image(pod: Pod, images: tuple[ImageFiles, ...], what: str) -> None:
    def refuse(*_: object) -> Any:
        raise WrongState(what)

    image = images[0]
    request = RootRequest(image.id, lambda: (image,), refuse)
    if what == "damaged files":
        request = RootRequest(image.id, refuse)
    with pytest.raises(WrongState, match=what):
        async with pod.images.held(request):
            pass
    assert exported(pod) == [] and pod.in_window() == 0 and pod.agent.mounted == {}
    assert (await pod.create("one", image)).startswith("dax window")


async def test_what_is_planned_is_known_with_the_root_and_the_volumes_are_the_other_files(
    pod: Pod, images: tuple[ImageFiles, ...]
) -> None:
    async with pod.images.held(RootRequest(images[0].id, lambda: images, lambda accounts: [accounts.passwd])) as root:
        assert (root.planned, root.volumes) == (["a"], images[1:])


@pytest.mark.parametrize("reason", ["too large", "refused by the agent", "no window"])
async def test_an_image_that_can_not_be_in_the_window_comes_by_the_layers_export_with_the_reason(
    pod: Pod, images: tuple[ImageFiles, ...], caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    caplog.set_level(logging.INFO, "clearpod")
    pod.agent.fails = 2 * (reason == "refused by the agent")
    if reason == "no window":
        Path(pod.directory, "window.json").unlink()
    image = images[2 if reason == "too large" else 0]
    texts = {"too large": "needs 2 MiB in one piece", "no window": "has no DAX window"}
    text = texts.get(reason, "needs cleaning")
    for name in ("one", "two"):
        source = await pod.create(name, image)
        assert source.startswith("layers export: ")
        assert re.search(text, source)
    assert len(exported(pod)) == 1 and pod.agent.mounted == {}
    assert [record.message for record in caplog.records].count("window.unused") == (reason != "no window")
    if reason != "no window":
        assert pod.in_window() == 0
        assert (await pod.create("other", images[1])).startswith("dax window")
        assert len(exported(pod)) == 1


async def test_who_waited_for_an_image_that_failed_tries_for_itself(pod: Pod, images: tuple[ImageFiles, ...]) -> None:
    pod.agent.fails = 1
    first, second = await asyncio.gather(pod.create("first", images[0]), pod.create("second", images[0]))
    assert first.startswith("layers export: ") and second.startswith("dax window at ")
    assert pod.in_window() == len(pod.agent.mounted) == 1
    assert len(exported(pod)) == 1


async def test_an_image_whose_mount_is_held_a_moment_longer_goes_all_the_same(
    pod: Pod, images: tuple[ImageFiles, ...]
) -> None:
    await pod.create("c", images[0])
    pod.agent.in_use = dict.fromkeys(pod.agent.mounted, 3)
    await pod.remove("c")
    assert pod.in_window() == 0


async def test_an_image_that_stays_in_use_stays_complete_is_used_again_and_removed_later(
    pod: Pod, images: tuple[ImageFiles, ...], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cri.live.images.PAUSES_S", (0.0,))
    first = await pod.create("c", images[0])
    pod.agent.in_use = dict.fromkeys(pod.agent.mounted, 1000)
    await pod.remove("c")
    assert "window.unreleased" in [record.message for record in caplog.records]
    assert pod.in_window() == len(pod.agent.mounted) == 1
    assert await pod.create("d", images[0]) == first
    pod.agent.in_use.clear()
    await pod.remove("d")
    assert pod.in_window() == len(pod.agent.mounted) == 0


@pytest.mark.parametrize("stage", ["before mount", "after mount", "before unmount", "after unmount"])
async def test_the_next_daemon_releases_what_a_killed_one_left(
    pod: Pod, images: tuple[ImageFiles, ...], stage: str
) -> None:
    await pod.create("stays", images[0])
    when, what = stage.split()
    op = MountImage if what == "mount" else UnmountImage
    true = pod.agent.call

    async def killed(asked: Any) -> None:
        if isinstance(asked, op) and when == "after":
            await true(asked)
        if isinstance(asked, op):
            pod.is_ready = False  # this daemon does nothing any more
            raise Killed
        await true(asked)

    if what == "unmount":
        await pod.create("goes", images[1])
    pod.call = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        await (pod.create("never", images[1]) if what == "mount" else pod.remove("goes"))
    assert pod.in_window() == 2
    following = pod.adopted()
    await following.images.settle()
    assert following.in_window() == len(pod.agent.mounted) == 1
    assert (await following.create("new", images[1])).startswith("dax window")
    for name in ("new", "stays"):
        await following.remove(name)
    assert following.in_window() == len(pod.agent.mounted) == 0


def test_the_size_of_an_image_is_that_of_its_files(images: tuple[ImageFiles, ...]) -> None:
    for image in images:
        used = subprocess.run(["stat", "-c", "%s", image.merged, *image.layers], capture_output=True, check=True).stdout
        last = flatten(image)[-1]
        assert last.offset + last.size >= sum(map(int, used.split()))


@pytest.mark.timeout(60)
async def test_a_vmm_that_does_not_answer_takes_no_thread_of_others(tmp_path: Path) -> None:
    """Each call waits for its own VMM only, however many of them do not answer."""
    listeners, waiting = [], []
    for number in range(40):
        place = tmp_path / str(number)
        place.mkdir()
        mapping.create(str(place), 1 << 30, is_disk=True)
        mapping.restore(str(place), 1 << 30, images=[Placed("image", 0, 4096)])
        listeners.append(socket.socket(socket.AF_UNIX))
        listeners[-1].bind(f"{place}/{QMP}")
        listeners[-1].listen()
        waiting.append(asyncio.ensure_future(Pod(place, Agent()).images.settle()))
    await asyncio.sleep(0.5)
    async with asyncio.timeout(5 * PATIENCE):
        assert await asyncio.to_thread(divmod, 7, 2) == (3, 1)
    for one in listeners:
        one.close()
    await asyncio.gather(*waiting)
