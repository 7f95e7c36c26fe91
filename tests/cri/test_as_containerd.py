# SPDX-License-Identifier: Apache-2.0
"""What the kubelet and crictl expect because containerd does it so, where the CRI leaves it open."""

import asyncio
import json
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb

from .conftest import World


async def test_the_status_shows_the_tag_where_the_kubelet_named_the_image_by_its_id(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        image = (await cri("ImageStatus", image=pb.ImageSpec(image=world.image))).image
        spec = pb.ImageSpec(image=image.id, user_specified_image="t/sample:1")
        status = await cri.status(await cri.container(pod, "true", image=spec))
        assert status.image.image == image.repo_tags[0] == world.image
        assert status.image.user_specified_image == "t/sample:1"
        assert (status.image_ref, status.image_id) == (image.repo_digests[0], image.id)
        by_digest = await cri.container(pod, "true", name="d", image=pb.ImageSpec(image=image.repo_digests[0]))
        assert (await cri.status(by_digest)).image.image == world.image


async def test_a_volume_source_that_is_missing_is_made(world: World) -> None:
    there = world.root / "there"
    there.mkdir()
    (there / "link").symlink_to("/nowhere/at/all")
    (there / "file").touch()
    async with world.daemon() as cri:
        pod = await cri.pod()
        source = there / "a" / "b"
        await cri.container(pod, "true", mounts=[pb.Mount(host_path=str(source), container_path="/m")])
        assert [oct(one.stat().st_mode & 0o7777) for one in (source, source.parent)] == ["0o755", "0o755"]
        for wrong in ("link", "link/x", "file/x"):
            mount = pb.Mount(host_path=f"{there}/{wrong}", container_path="/m")
            config = cri.config("true", name="x", mounts=[mount])
            code, sentence = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
            assert code == "NOT_FOUND" and f"{there}/{wrong}" in sentence
        assert not Path("/nowhere").exists()


@pytest.mark.parametrize("directory", ["{}//logs", "{}/./logs", "//{}/logs/", "{}/logs/."])
async def test_a_log_directory_is_made_plain(world: World, directory: str) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=directory.format(world.root))
        c = await cri.container(pod, "true")
        assert (await cri.status(c)).log_path == f"{world.root}/logs/c.log"
        await cri("StartContainer", container_id=c)
        await cri.ended(c)


async def test_pods_that_boot_count_against_the_nodes_limit(world: World) -> None:
    limits = world.config.limits.but(max_pods=2)
    world.config = world.config.but(limits=limits)
    world.faults.boot_s = 0.5
    async with world.daemon() as cri:
        calls = [cri("RunPodSandbox", config=cri.sandbox(f"p{number}")) for number in range(4)]
        result = await asyncio.gather(*calls, return_exceptions=True)
        refused = [one.code().name for one in result if isinstance(one, Exception)]  # type: ignore[attr-defined]
        assert refused == ["RESOURCE_EXHAUSTED"] * 2
        pods = (await cri("ListPodSandbox")).items
        assert len(pods) == 2
        await cri("StopPodSandbox", pod_sandbox_id=pods[0].id)
        await cri.pod("next")


async def test_verbose_answers_have_the_request(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(labels={"a": "b"}, log_directory=f"{world.root}/logs")
        resources = pb.LinuxContainerResources(memory_limit_in_bytes=1 << 33)
        envs = [pb.KeyValue(key="K", value=b"v")]
        c = await cri.container(pod, "true", envs=envs, linux=pb.LinuxContainerConfig(resources=resources))
        info = (await cri("ContainerStatus", container_id=c, verbose=True)).info["info"]
        config = json.loads(info)["config"]
        assert (config["metadata"], config["log_path"]) == ({"name": "c"}, "c.log")
        assert config["linux"]["resources"]["memory_limit_in_bytes"] == 1 << 33
        assert config["envs"] == [{"key": "K", "value": "v"}]
        info = (await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)).info["info"]
        assert json.loads(info)["config"]["labels"] == {"a": "b"}
        reply = await cri("ImageStatus", image=pb.ImageSpec(image=world.image), verbose=True)
        output = json.loads(reply.info["info"])
        assert output["chainID"] == output["imageSpec"]["rootfs"]["diff_ids"][0]


async def test_images_of_a_repository_are_listed_without_a_tag(world: World) -> None:
    async with world.daemon() as cri:
        image = cri.node.images.find(world.image)
        assert image is not None
        repository = world.image.rpartition(":")[0]
        for form in (repository, world.image, image.id, image.id[7:20], image.repo_digests[0]):
            expected = pb.ImageFilter(image=pb.ImageSpec(image=form))
            assert [one.id for one in (await cri("ListImages", filter=expected)).images] == [image.id], form
        for form in (f"{repository}x", f"{repository}:other", "nothing"):
            expected = pb.ImageFilter(image=pb.ImageSpec(image=form))
            assert not (await cri("ListImages", filter=expected)).images


async def test_lists_of_stats_have_containers_that_ended(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        runs, ended = [await cri.container(pod, *argv, name=argv[0]) for argv in (("sleep", "1000"), ("true",))]
        for one in (runs, ended):
            await cri("StartContainer", container_id=one)
        await cri.ended(ended)
        first = {one.attributes.id: one for one in (await cri("ListContainerStats")).stats}
        second = {one.attributes.id: one for one in (await cri("ListContainerStats")).stats}
        assert first.keys() == {runs, ended}
        assert first[ended].cpu.usage_core_nano_seconds.value == 0
        assert 0 < first[ended].cpu.timestamp < second[ended].cpu.timestamp, "crictl refuses a time that stands still"
        assert len(await cri.listed("StreamContainerStats")) == 2
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert len((await cri("ListContainerStats")).stats) == 2


async def test_options_of_a_mount_are_applied_in_the_guest(world: World) -> None:
    """KEP-5855."""
    async with world.daemon() as cri:
        assert (await cri("Status")).features.mount_options
        pod = await cri.pod()
        picture = pb.ImageSpec(image=world.image)
        volumes = [
            pb.Mount(host_path="/tmp", container_path="/m", mount_options=["noexec", "nosuid", "noexec"]),
            pb.Mount(image=picture, container_path="/i", readonly=True, mount_options=["nodev"]),
        ]
        c = await cri.container(pod, "true", mounts=volumes)
        bundle = Path(f"{world.config.run_dir}/pods/{pod}/tree/volumes/containers/{c}/config.json")
        made = {one["destination"]: one["options"] for one in json.loads(bundle.read_text())["mounts"]}
        assert (made["/m"], made["/i"]) == (["rbind", "rw", "noexec", "nosuid"], ["rbind", "ro", "nodev"])
        assert list((await cri.status(c)).mounts) == [volumes[0], (await cri.status(c)).mounts[1]]


@pytest.mark.parametrize("path", ["/dev", "/dev/", "/dev/null", "/dev/../dev/zero", "LINK"])
async def test_device_nodes_of_the_host_are_no_volume_of_a_vm(world: World, path: str) -> None:
    (world.root / "LINK").symlink_to("/dev")
    async with world.daemon() as cri:
        pod = await cri.pod()
        for source, code in ((path.replace("LINK", f"{world.root}/LINK"), "UNIMPLEMENTED"), ("/dev/shm", "")):
            config = cri.config("true", mounts=[pb.Mount(host_path=source, container_path="/d")])
            if not code:
                await cri("CreateContainer", pod_sandbox_id=pod, config=config)
                continue
            result, sentence = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
            assert result == code
            assert "CDI" in sentence and "/dev/fuse" in sentence and "host_pods.allow" in sentence
