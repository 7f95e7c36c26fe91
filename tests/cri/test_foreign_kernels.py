# SPDX-License-Identifier: Apache-2.0
"""Kernels in images as others make them: named by urunc's file, readable by their owner alone, refused by QEMU."""

import base64
import json
from pathlib import Path

import grpc
import pytest

from cri.pb import runtime_pb2 as pb
from stage1.pod.own_kernel import OURS, URUNC
from tests.fakes import kernels
from tests.fakes.oci_layout import file
from tests.fakes.registry import Registry

from .conftest import Client, World
from .test_own_kernels import Images, _log, _started, _until_logged, images, machine

__all__ = ["images", "machine"]
pytestmark = pytest.mark.vm


async def test_an_image_whose_kernel_only_uruncs_file_names_boots_it(
    machine: World, images: Images, tmp_path: Path
) -> None:
    given = {"unikernelType": "linux", "hypervisor": "firecracker", "binary": "kernel", "cmdline": "/x count=2 exit"}
    encoded = {URUNC + key: base64.b64encode(text.encode()).decode() for key, text in given.items()}
    files = [file("kernel", kernels.hello()), file("urunc.json", json.dumps(encoded).encode())]
    with Registry(tmp_path / "registry") as registry:
        image = kernels.push(registry, tmp_path, "t/urunc:1", files=files, labels={})
        async with machine.daemon() as cri:
            pod = await cri.pod(log_directory=f"{machine.root}/logs")
            await cri("PullImage", image=pb.ImageSpec(image=image))
            c = await _started(cri, pod, image)
            status = await cri.ended(c)
            assert (status.exit_code, _log(status.log_path)[2:4]) == (0, ["1", "2"])
            assert _log(status.log_path)[1].endswith("init=/x -- count=2 exit")


@pytest.mark.parametrize("handler", ["", "clearpod-image"])
async def test_a_kernel_that_only_its_owner_may_read_is_booted(
    machine: World, images: Images, tmp_path: Path, handler: str
) -> None:
    files = [file("kernel", kernels.hello(), 0o600, uid=1000)]
    with Registry(tmp_path / "registry") as registry:
        labels = kernels.labelled(path="/kernel", network="none")
        image = kernels.push(registry, tmp_path, "t/secret:1", files=files, labels=labels)
        async with machine.daemon() as cri:
            config = cri.sandbox("web", log_directory=f"{machine.root}/logs")
            pod = (await cri("RunPodSandbox", config=config, runtime_handler=handler)).pod_sandbox_id
            await cri("PullImage", image=pb.ImageSpec(image=image))
            status = await cri.ended(await _started(cri, pod, image, "exit"))
            assert (status.exit_code, status.message) == (0, "")
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert machine.left_over() == []


async def test_what_the_hypervisor_does_not_boot_is_reported(machine: World, images: Images, tmp_path: Path) -> None:
    kernel = bytearray(kernels.hello())
    kernel[36] = 4  # flags of an ELF that QEMU refuses, and nobody before
    with Registry(tmp_path / "registry") as registry:
        labels = kernels.labelled(path="/kernel", network="none")
        image = kernels.push(registry, tmp_path, "t/odd:1", files=[file("kernel", bytes(kernel))], labels=labels)
        async with machine.daemon() as cri:
            pod = await cri.pod(log_directory=f"{machine.root}/logs")
            await cri("PullImage", image=pb.ImageSpec(image=image))
            c = await cri.container(pod, image=pb.ImageSpec(image=image))
            message = await _end(cri, c)
            assert "flags" in message, message


async def _end(cri: Client, container: str) -> str:
    """The message of its end, also when it ends so soon that its start has failed."""
    try:
        await cri("StartContainer", container_id=container)
    except grpc.aio.AioRpcError as error:
        return str(error.details())
    return str((await cri.ended(container)).message)


async def test_annotations_name_the_kernel_of_an_image_without_labels_or_change_those_of_one(
    machine: World, images: Images, tmp_path: Path
) -> None:
    files = [file("boot", kernels.hello())]
    with Registry(tmp_path / "registry") as registry:
        image = kernels.push(registry, tmp_path, "t/bare:1", files=files, labels={})
        async with machine.daemon() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=image))
            named = {f"{OURS}path": "/boot", f"{OURS}network": "linux", f"{OURS}exit": "debug-exit"}
            pod = await cri.pod("named", log_directory=f"{machine.root}/logs", annotations=named)
            c = await _started(cri, pod, image, "exit=7")
            assert ((await cri.ended(c)).exit_code, _log((await cri.status(c)).log_path)[0]) == (7, "hello")
            wrong = cri.config("x", name="w", image=pb.ImageSpec(image=image), annotations={f"{OURS}path": "/no"})
            assert (await cri.refused("CreateContainer", pod_sandbox_id=pod, config=wrong))[0] == "NOT_FOUND"
            changed = await cri.pod("changed", log_directory=f"{machine.root}/c", annotations={f"{OURS}machine": "q35"})
            c = await _started(cri, changed, images.microvm)
            await _until_logged(cri, c, "ready without a network")
            await cri("StopContainer", container_id=c, timeout=60)
            assert (await cri.status(c)).exit_code == 0, "it has a power button"
            for one in (pod, changed):
                await cri("RemovePodSandbox", pod_sandbox_id=one)
            assert machine.left_over() == []


async def test_settings_of_a_kernel_are_nothing_to_an_image_that_has_none(machine: World, images: Images) -> None:
    machine.host = machine.host._replace(ids=None)  # fake guests have no user namespaces
    async with machine.daemon() as cri:
        pod = await cri.pod(annotations={f"{OURS}machine": "q35", f"{URUNC}hypervisor": "hvt"})
        sample = cri.config("x", image=pb.ImageSpec(image=images.sample))
        await cri("CreateContainer", pod_sandbox_id=pod, config=sample)
