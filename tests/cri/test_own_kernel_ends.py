# SPDX-License-Identifier: Apache-2.0
"""How a kernel out of an image ends, and the container's status then: powering off, a reset, a panic."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc.aio import AioRpcError

from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.store.images import ImageStore
from stage1 import engine
from tests.fakes import kernels
from tests.fakes.patience import PATIENCE
from tests.fakes.pulled import pull_blocking
from tests.fakes.registry import Registry

from .conftest import World
from .test_own_kernels import Images, _log, _started, _until_logged, connected, images, machine

__all__ = ["connected", "images", "machine"]
pytestmark = pytest.mark.vm
MAY_RESET, WITH_CODE = "t/may-reset:1", "t/with-code:1"


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, images: Images) -> Iterator[dict[str, str]]:
    """References of the hello with other endings, in addition to `images`."""
    place = tmp_path_factory.mktemp("others")
    with Registry(place / "registry") as registry:
        made = {
            MAY_RESET: kernels.hello_image(registry, place, MAY_RESET, network="none", machine="q35", exit="reset"),
            WITH_CODE: kernels.hello_image(registry, place, WITH_CODE, network="none", exit="debug-exit"),
        }
        store = ImageStore(images.state_dir)
        for reference in made.values():
            pull_blocking(store, reference, config=Config())
        store.close()
        yield made


@pytest.mark.parametrize(
    ("image", "word", "code", "noun"),
    [
        ("q35", "exit", 0, ""),
        ("q35", "reset", 133, "reset"),
        ("q35", "crash", 134, "panic"),
        ("microvm", "reset", 0, ""),
        ("microvm", "crash", 134, "panic"),
        (MAY_RESET, "reset", 0, ""),
        (WITH_CODE, "reset", 133, "reset"),
        (WITH_CODE, "exit=5", 5, ""),
    ],
)
async def test_only_a_kernel_that_powers_off_has_completed(
    machine: World, images: Images, others: dict[str, str], image: str, word: str, code: int, noun: str
) -> None:
    reference = others.get(image) or getattr(images, image)
    async with machine.daemon() as cri:
        pod = await cri.pod(log_directory=f"{machine.root}/logs")
        status = await cri.ended(await _started(cri, pod, reference, word))
        reason = "Error" if code else "Completed"
        assert (status.exit_code, status.reason, noun in status.message) == (code, reason, True), status.message
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_a_stock_kernel_whose_init_ends_panics_and_has_not_completed(
    machine: World, images: Images, guest_dir: Path, tmp_path: Path
) -> None:
    labels = kernels.labelled(path="/kernel", initrd="/initrd", network="linux", machine="q35")
    with Registry(tmp_path / "registry") as registry:
        files = kernels.plain_files(guest_dir, init=b"#!/bin/busybox sh\necho last words\nexit 1\n")
        image = kernels.push(registry, tmp_path, "t/panics:1", files=files, labels=labels)
        async with machine.daemon() as cri:
            pod = await cri.pod(log_directory=f"{machine.root}/logs")
            await cri("PullImage", image=pb.ImageSpec(image=image))
            status = await cri.ended(await _started(cri, pod, image, "quiet"))
            assert (status.exit_code, status.reason, "reset" in status.message) == (133, "Error", True), status.message
            assert "last words" in _log(status.log_path)


SEES = b"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir /sys && mount -t proc proc /proc && mount -t sysfs sysfs /sys
ls -1 /sys/class/net /sys/block; cat /proc/cmdline
echo arguments: "$@"
reboot -f
"""


async def test_a_stock_kernel_on_a_microvm_sees_its_devices_though_its_init_has_arguments(
    connected: World, images: Images, guest_dir: Path, tmp_path: Path
) -> None:
    """QEMU writes their places behind the command line, where init's arguments are."""
    labels = kernels.labelled(path="/kernel", initrd="/initrd", block="/disk", network="linux-init")
    with Registry(tmp_path / "registry") as registry:
        (_, initrd) = kernels.plain_files(guest_dir, init=SEES)
        entries = [kernels.file("kernel", (guest_dir / "vmlinux").read_bytes()), initrd]
        files = [*entries, kernels.file("disk", bytes(1 << 20))]
        image = kernels.push(registry, tmp_path, "t/sees:1", files=files, labels=labels)
        async with connected.daemon() as cri:
            pod = await cri.pod(log_directory=f"{connected.root}/logs")
            await cri("PullImage", image=pb.ImageSpec(image=image))
            status = await cri.ended(await _started(cri, pod, image, "/init", "one", "two words"))
            lines = _log(status.log_path)
            assert status.exit_code == 0, lines
            assert {"eth0", "vda", "arguments: one two words"} <= set(lines), lines[-12:]
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert connected.left_over() == []


async def test_a_log_that_is_rotated_goes_on_and_a_restart_in_the_pod_has_a_log_of_its_own(
    machine: World, images: Images
) -> None:
    async with machine.daemon() as cri:
        pod = await cri.pod(log_directory=f"{machine.root}/logs")
        first = await _started(cri, pod, images.q35)
        await _until_logged(cri, first, "ready without a network")
        path = Path((await cri.status(first)).log_path)
        path.rename(f"{path}.1")
        await cri("ReopenContainerLog", container_id=first)
        (stats,) = (await cri("ListPodSandboxStats")).stats
        assert [one.attributes.id for one in stats.linux.containers] == [first]
        await cri("StopContainer", container_id=first, timeout=60)
        assert (_log(f"{path}.1")[0], _log(f"{path}")) == ("hello", ["asked to end", "bye"])
        config = cri.config(name="c", image=pb.ImageSpec(image=images.q35))
        config.metadata.attempt, config.log_path = 1, "again.log"
        again = (await cri("CreateContainer", pod_sandbox_id=pod, config=config)).container_id
        await cri("RemoveContainer", container_id=first)
        await cri("StartContainer", container_id=again)
        await _until_logged(cri, again, "ready without a network")
        assert _log((await cri.status(again)).log_path)[0] == "hello"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_a_kernel_whose_start_was_given_up_ends(
    machine: World, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up, boot = threading.Event(), engine.boot

    def boot_late(*arguments: Any) -> Any:
        assert given_up.wait(60 * PATIENCE)
        return boot(*arguments)

    async with machine.daemon() as cri:
        pod = await cri.pod(log_directory=f"{machine.root}/logs")
        first = await cri.container(pod, image=pb.ImageSpec(image=images.microvm), args=["count=1000000"])
        monkeypatch.setattr(engine, "boot", boot_late)
        with pytest.raises(AioRpcError, match="DEADLINE_EXCEEDED"):
            await cri("StartContainer", container_id=first, deadline_s=1 / PATIENCE)
        given_up.set()
        status = await cri.ended(first)
        assert (status.exit_code, status.reason) == (128, "StartError")
        second = pb.ContainerMetadata(name="c", attempt=1)
        made = await _started(cri, pod, images.microvm, "count=3", "exit", metadata=second, log_path="1.log")
        assert (await cri.ended(made)).exit_code == 0
        assert (await cri.status(first)).exit_code == 128
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []
