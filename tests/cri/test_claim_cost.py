# SPDX-License-Identifier: Apache-2.0
"""The cost of RunPodSandbox for the daemon, as counts: hops into threads, whole files synced, files made in the
directory of the network's record; and the requests to a claimed guest while the plugins run.
"""

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from cri.runtime import pod_start
from cri.runtime.sandbox import pod_record
from cri.store.pods import PodRecord
from stage1.errors import PodError
from stage1.guest.messages import INVALID, Configure, Reply, Tune
from stage1.linux.beneath import Root
from tests.fakes.cni import FakeCni

from .conftest import Client, World

HOPS = 3
"""The node's facts, the claim, and the pod's files while its guest is told the same."""

BOOT_HOPS = 3
"""The node's facts, the pod's files, and its VMM."""

LIMIT_BYTES = 64 << 20


class Counts:
    """What is done while it `is_counting`."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.counts, self.is_counting = Counter[str](), False
        loop = asyncio.base_events.BaseEventLoop
        for name, owner, method in (
            ("hops", loop, "run_in_executor"),
            ("syncs", os, "fsync"),
            ("renames", os, "rename"),
        ):
            patch.setattr(owner, method, self._counted(name, getattr(owner, method)))

    def _counted(self, name: str, real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            path = str(args[1]) if name == "renames" else ""
            self.counts[name] += self.is_counting and (not path or "/cache/" in path)
            return real(*args, **options)

        return call


def warm_with_network(world: World) -> FakeCni:
    """One pool slot, whose pod gets its network from the fake plugins that are returned."""
    cni = FakeCni(world.root / "cni")
    cni.make_one_device()
    world.host = world.host._replace(network=cni.settings)
    world.warm(1)
    return cni


async def bounded_pod(cri: Client) -> PodRecord:
    """The record of a pod with a limit of memory."""
    record = await pod_record(cri.node, pb.RunPodSandboxRequest(config=cri.sandbox("web")))
    return record._replace(pod=record.pod._replace(is_bounded=True, limit_bytes=LIMIT_BYTES))


async def test_a_claim_hops_into_threads_three_times_and_syncs_no_whole_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cni = warm_with_network(world)
    async with world.daemon() as cri:
        await cri.warmed(1)
        counts = Counts(monkeypatch)
        counts.is_counting = True
        pod = await cri.pod("web")
        counts.is_counting = False
        assert (await cri.pool())["taken"] == 1
        assert counts.counts == Counter(hops=HOPS, renames=1), "the record of a pod that is ready is a file of its own"
        (path,) = Path(cni.settings.cache_dir).glob(f"{pod}.json")
        assert json.loads(path.read_text())["seen"]["interfaces"], "as a former version reads it"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert cni.left_over() == []


async def test_a_pod_that_boots_hops_into_threads_three_times_and_syncs_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.daemon() as cri:
        await cri.pod("first")  # which formats the template of its disk
        counts = Counts(monkeypatch)
        for name in ("one", "two", "three"):  # a monitor of the daemon may hop meanwhile, but not during each boot
            counts.counts.clear()
            counts.is_counting = True
            await cri.pod(name)
            counts.is_counting = False
            if counts.counts == Counter(hops=BOOT_HOPS):
                break
        assert counts.counts == Counter(hops=BOOT_HOPS)


async def test_the_identity_is_written_once_when_the_pod_is_ready(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, real = list[str](), Root.write

    def write(root: Root, path: str, *args: Any, **options: Any) -> None:
        written.append(path)
        real(root, path, *args, **options)

    monkeypatch.setattr(Root, "write", write)
    world.warm(1)
    async with world.daemon() as cri:
        await cri.warmed(1)
        assert "state.json" in written and "pod.json" not in written, "nobody knows a slot"
        pod = await cri.pod("web")
        assert (await cri.pool())["taken"] == 1
        assert written.count("pod.json") == 1
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_guest_gets_its_pods_limit_while_the_plugins_make_its_network(world: World) -> None:
    cni = warm_with_network(world)
    async with world.daemon() as cri:
        await cri.warmed(1)
        (waiting,) = (pod.id for pod in cri.node.pods.pool.pods())
        assert await pod_start.run(cri.node, await bounded_pod(cri), request=b"web") == waiting
        asked = world.vmm.guests[f"clearpod-{waiting[:13]}"].asked
        (tune,) = (number for number, op in enumerate(asked) if op == Tune("memory.max", str(LIMIT_BYTES)))
        last = max(number for number, op in enumerate(asked) if isinstance(op, Configure))
        assert tune < last, "and not in a turn of its own behind that"
        await cri("RemovePodSandbox", pod_sandbox_id=waiting)
    assert cni.left_over() == []


async def test_a_claim_whose_guest_does_not_take_the_limit_is_rolled_back(world: World) -> None:
    world.faults.refuse[Tune] = Reply(code=INVALID, error="no such file")
    world.warm(1)
    async with world.daemon() as cri:
        await cri.warmed(1)
        bounded = await bounded_pod(cri)
        with pytest.raises(PodError, match="no such file"):
            await pod_start.run(cri.node, bounded, request=b"web")
        assert cri.node.pods.pods() == []
    assert world.left_over() == []
