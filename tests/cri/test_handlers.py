# SPDX-License-Identifier: Apache-2.0
"""RuntimeClass handlers: one for each kernel in the guest's directory, and one for those that images bring."""

import json

from .conftest import World

STOCK = ("vmlinux-stock", "initramfs-stock", "system-stock.erofs")


async def test_each_kernel_that_is_built_has_a_handler(world: World) -> None:
    for name in (*STOCK, "vmlinux-a b", "bzImage-other"):
        (world.root / "guest" / name).touch()
    async with world.daemon() as cri:
        handlers = (await cri("Status")).runtime_handlers
        assert {one.name for one in handlers} == {"", "clearpod", "clearpod-stock", "clearpod-image"}
        assert all(one.features.recursive_read_only_mounts for one in handlers)
        run = await cri("RunPodSandbox", config=cri.sandbox(), runtime_handler="clearpod-stock")
        info = json.loads((await cri("PodSandboxStatus", pod_sandbox_id=run.pod_sandbox_id, verbose=True)).info["info"])
        assert info["runtimeHandler"] == "clearpod-stock"
        assert cri.node.pods.get(run.pod_sandbox_id).record.pod.kernel == "stock"
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox("b"), runtime_handler="clearpod-other")
        assert code == "NOT_FOUND" and "clearpod-stock" in sentence


async def test_a_kernel_that_is_not_built_is_named_with_its_build_and_served_once_it_is(world: World) -> None:
    async with world.daemon() as cri:
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox(), runtime_handler="clearpod-stock")
        assert (code, "images build stock" in sentence) == ("NOT_FOUND", True), sentence
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox(), runtime_handler="clearpod-other")
        assert (code, "images build" in sentence) == ("NOT_FOUND", False), sentence
        for name in STOCK:
            (world.root / "guest" / name).touch()
        run = await cri("RunPodSandbox", config=cri.sandbox(), runtime_handler="clearpod-stock")
        assert cri.node.pods.get(run.pod_sandbox_id).record.pod.kernel == "stock"
        assert "clearpod-stock" in [one.name for one in (await cri("Status")).runtime_handlers]
