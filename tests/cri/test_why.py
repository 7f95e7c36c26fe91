# SPDX-License-Identifier: Apache-2.0
"""`clearpod why` about a real VM: a missing command, a full disk, no memory left, and a VM that was killed."""

import asyncio
import json
import os
import signal

import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import Policy
from cri.store import history
from tests.fakes.patience import PATIENCE

from .command_rig import command, verdict
from .conftest import Registered, vm_world

pytestmark = pytest.mark.vm


async def test_a_broken_pod_explains_itself_also_after_a_restart(
    sample: Registered, guest_dir: object, capfd: pytest.CaptureFixture[str]
) -> None:
    limit = pb.LinuxContainerResources(memory_limit_in_bytes=16 << 20, memory_swap_limit_in_bytes=16 << 20)
    with vm_world(sample, guest_dir) as machine:  # type: ignore[arg-type]
        clearpod = command(machine, capfd)
        machine.config = machine.config.but(policy=Policy(debug=True))
        async with machine.daemon() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=machine.image))
            pod = (await cri("RunPodSandbox", config=cri.sandbox(), deadline_s=90)).pod_sandbox_id
            bad = await cri.container(pod, "no-such-program", name="bad")
            await cri.refused("StartContainer", container_id=bad)
            text = verdict(await clearpod("why", "web", "--json"))
            assert "bad" in text and "no-such-program" in text
            script = "dd if=/dev/zero of=/fill bs=1M; sync; exit 3"
            full = await cri.container(pod, "sh", "-c", script, name="full")
            await cri("StartContainer", container_id=full)
            await cri.ended(full)
            async with asyncio.timeout(30 * PATIENCE):
                while history.FULL not in [one.what for one in cri.node.pods.get(pod).status.history]:
                    await asyncio.sleep(0.05)
            text = verdict(await clearpod("why", "web", "--json"))
            assert "full" in text and "exit code 3" in text
            await cri("RemoveContainer", container_id=full)
            hog = ("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
            greedy = await cri.container(pod, *hog, name="greedy", linux=pb.LinuxContainerConfig(resources=limit))
            await cri("StartContainer", container_id=greedy)
            await cri.ended(greedy)
            assert "OOMKilled" in verdict(await clearpod("why", "web", "--json"))
            drawn = (await clearpod("timeline", "web")).out
            assert all(word in drawn for word in ("kernel", "agent", "start greedy"))
            inside = await clearpod("debug", "web", "sh", "-c", "readlink /proc/1/exe; ls /proc/1/root; ip addr")
            assert inside.code == 0 and "init" in inside.out and "proc" in inside.out, inside
            live = cri.node.pods.get(pod)
            assert live.vm is not None
            os.kill(live.vm.pid, signal.SIGKILL)
            await live.gone.wait()
        async with machine.daemon() as cri:
            text = json.loads((await clearpod("why", "web", "--json")).out)
            assert "virtual machine" in text["verdict"]
            kinds = [one["what"] for one in text["events"]]
            assert kinds.count("exited") == 4 and "ended" in kinds and "kernel" in kinds
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert machine.left_over() == []
