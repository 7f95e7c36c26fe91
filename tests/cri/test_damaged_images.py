# SPDX-License-Identifier: Apache-2.0
"""What the daemon's clients see of an image whose files are damaged: DATA_LOSS with its name and the layer, an
ImageStatus that makes kubelet pull, and after the pull containers again. Neighbours notice nothing.
"""

import asyncio
import os
from pathlib import Path

from cri.pb import runtime_pb2 as pb
from stage1.linux import mount
from tests.cri.conftest import Client, World
from tests.fakes.patience import PATIENCE


def layers(world: World) -> list[Path]:
    return sorted(Path(world.config.state_dir, "layers").glob("*.erofs"))


async def status(cri: Client) -> bool:
    return bool((await cri("ImageStatus", image=pb.ImageSpec(image=cri.image))).HasField("image"))


async def test_a_truncated_layer_is_data_loss_and_the_next_pull_mends_it(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        lives = await cri.container(pod, "sleep", "1000", name="lives")
        await cri("StartContainer", container_id=lives)
        (layer, *_) = layers(world)
        os.truncate(layer, layer.stat().st_size // 2)
        code, sentence = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true", name="c"))
        assert code == "DATA_LOSS" and cri.image in sentence and layer.stem in sentence
        assert not await status(cri)
        assert len((await cri("ListImages")).images) == 1
        assert (await cri("ExecSync", container_id=lives, cmd=["echo", "hi"])).stdout == b"hi\n"
    async with world.daemon() as cri:
        assert not await status(cri)
        second = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true", name="c"))
        assert second == (code, sentence)
        await cri("PullImage", image=pb.ImageSpec(image=cri.image))
        assert await status(cri)
        made = await cri.container(pod, "true", name="c")
        await cri("StartContainer", container_id=made)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


async def test_a_bit_that_flipped_is_noticed_after_the_first_use_and_the_pod_gets_the_repaired_image(
    world: World,
) -> None:
    async with world.daemon() as cri:
        (layer, *_) = layers(world)
        with layer.open("r+b") as opened:
            opened.seek(layer.stat().st_size - 1)
            byte = opened.read(1)[0]
            opened.seek(-1, os.SEEK_CUR)
            opened.write(bytes([byte ^ 1]))
        pod = await cri.pod()
        await cri.container(pod, "true", name="a")
        async with asyncio.timeout(30 * PATIENCE):
            await cri.node.verifier.settled()
        assert not await status(cri)
        late = cri.config("true", name="b")
        assert (await cri.refused("CreateContainer", pod_sandbox_id=pod, config=late))[0] == "DATA_LOSS"
        before = mounted(world, pod)
        await cri("PullImage", image=pb.ImageSpec(image=cri.image))
        await cri.container(pod, "true", name="b")
        assert mounted(world, pod) != before
        await cri.node.verifier.settled()
        assert await status(cri)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


def mounted(world: World, pod: str) -> str:
    """From which files the image is mounted that the pod sees."""
    (image,) = Path(f"{world.config.run_dir}/pods/{pod}/share/layers").glob("*[0-9a-f]/")
    assert mount.is_mount_point(str(image.parent), below=image.name)
    return Path(f"{world.config.run_dir}/pods/{pod}/images/{image.name}").read_text()


async def test_a_template_of_scratch_disks_that_is_cut_off_is_made_again(world: World) -> None:
    templates = Path(world.config.state_dir, "templates")
    async with world.daemon() as cri:
        await cri("RemovePodSandbox", pod_sandbox_id=await cri.pod())
        (template,) = templates.glob("*.img")
        size = template.stat().st_size
        for damage in (0, size // 2, size):
            os.truncate(template, 0)
            os.truncate(template, damage)
            await cri("RemovePodSandbox", pod_sandbox_id=await cri.pod())
            assert template.stat().st_size == size and template.read_bytes()[1080:1082] == b"\x53\xef"
