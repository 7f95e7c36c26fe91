# SPDX-License-Identifier: Apache-2.0
"""What blocks the suspension of a pod is reported, by the call and beforehand. The suspension itself:
test_suspend_vms.py.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.live import outputs
from cri.live.pod import LivePod
from cri.metrics.snapshot import read_daemon
from cri.monitors import files
from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE, KERNEL, SUSPEND
from cri.snapshots import suspension
from cri.statistics.sample import Sample
from stage1 import engine, machine
from stage1.errors import VmFailed, WrongState
from stage1.guest.messages import (
    FAILED,
    WRONG_STATE,
    ContainerStats,
    CpuStats,
    Freeze,
    MemoryStats,
    PodStats,
    Reply,
    Shares,
    Update,
)
from stage1.pod import states
from stage1.pod.model import Pod
from stage1.rootfs import checkpoint, scratch
from stage1.snapshot import load as loads
from stage1.snapshot import save as saves
from stage1.snapshot.format import Manifest
from stage1.snapshot.machine import booted
from tests.fakes.patience import PATIENCE

from .command_rig import command
from .conftest import Client, World
from .counter_rig import Kubelet


async def refused(cri: Client, name: str, pod: str) -> tuple[str, str]:
    """Code and sentence of an RPC of clearpod's own."""
    with pytest.raises(grpc.RpcError) as raised:
        await cri.ours(name, pod)
    return raised.value.code().name, str(raised.value.details())


async def blocker(cri: Client, pod: str) -> str:
    """As `inspectp` shows it."""
    info = json.loads((await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)).info["info"])
    assert info["suspended"] is False
    return str(info["suspendBlocker"])


async def test_a_pod_that_did_not_ask_for_it_is_not_suspended(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        code, text = await refused(cri, "SuspendPod", pod)
        assert code == "FAILED_PRECONDITION" and SUSPEND in text and text == await blocker(cri, pod)
        await cri.ours("ResumePod", pod)
        assert (await refused(cri, "SuspendPod", "unknown"))[0] == "NOT_FOUND"
        code, text = await refused(cri, "SuspendPod", "")
        assert code in ("NOT_FOUND", "INVALID_ARGUMENT")


async def test_a_pod_that_consents_has_no_blocker_and_continues_after_a_failure(world: World) -> None:
    """Its VM has no monitor, so nothing can be saved."""
    async with world.daemon() as cri:
        pod = await cri.pod(annotations={SUSPEND: "manual"})
        assert await blocker(cri, pod) == ""
        assert "qmp" in (await refused(cri, "SuspendPod", pod))[1]
        assert await blocker(cri, pod) == ""
        asked = [op for guest in world.vmm.guests.values() for op in guest.asked if isinstance(op, (Freeze, Shares))]
        assert asked == [Shares(), Shares(mount=True), Freeze(thaw=True)]


@pytest.mark.parametrize("ends", [True, False], ids=["and ends", "and does not end"])
async def test_what_is_just_ending_in_a_pod_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """An exec whose caller has its answer may not be over in the daemon yet."""
    monkeypatch.setattr(suspension, "SETTLE_S", 30.0 if ends else 0.1)
    async with world.daemon() as cri:
        made = await cri.pod(annotations={SUSPEND: "manual"})
        with cri.node.pods.get(made).gate.using_files():
            asked = asyncio.ensure_future(refused(cri, "SuspendPod", made))
            await asyncio.wait({asked}, timeout=0.3 if ends else None)
            assert asked.done() != ends
        why = (await asked)[1]
        assert ("qmp" in why) is ends and ("execs" in why) is not ends


async def test_a_pod_whose_guest_is_silent_after_its_resumption_has_ended(world: World) -> None:
    """It is not left ready without an agent."""
    async with world.daemon() as cri:
        made = await cri.pod(annotations={SUSPEND: "manual"})
        pod = cri.node.pods.get(made)
        vm, pod.tools = pod.vm, pod.tools._replace(adopt_timeout_s=0.2)
        pod.begin_suspension("suspended")
        await pod.part()
        world.faults.silent = True
        with pytest.raises(VmFailed, match=r"resumed.*no hello"):
            await suspension.resume(pod, load=lambda *_, **__: vm)
        await pod.gone.wait()
        status = await cri("PodSandboxStatus", pod_sandbox_id=made, verbose=True)
        assert status.status.state == pb.SANDBOX_NOTREADY and "resumed" in json.loads(status.info["info"])["why"]
        await cri("RemovePodSandbox", pod_sandbox_id=made)
        assert world.left_over() == []


async def stats_of(cri: Client, pod: str) -> Any:
    """As `crictl statsp` shows it."""
    return (await cri("PodSandboxStats", pod_sandbox_id=pod)).stats.linux


async def suspended_pod(cri: Client) -> tuple[LivePod, str]:
    """A pod with a container that runs, which the daemon takes for suspended; its VM is gone."""
    pod = cri.node.pods.get(
        await cri.pod()
    )  # a fake guest has no disk for images, so it is made without the annotation
    container = await cri.container(pod.id, "sleep", "1000")
    await cri("StartContainer", container_id=container)
    pod.record = pod.record._replace(pod=pod.record.pod._replace(suspend="on-demand"))
    taken, used = MemoryStats(usage=7 << 20, anonymous=7 << 20), CpuStats(usage_us=5_000_000)
    one = ContainerStats(id=container, cpu=used, memory=taken)
    sample = Sample(1, PodStats(cpu=used, memory=taken), {container: one}, {"": 10**9, container: 10**9})
    pod.meter._last = {False: sample}
    pod.begin_suspension(f"{pod.title} is suspended")
    await pod.part()
    vm, pod.vm = pod.vm, None
    assert vm is not None
    await asyncio.to_thread(vm.kill)
    return pod, container


async def test_one_that_was_stopped_while_it_was_suspended_is_not_resumed_any_more(world: World) -> None:
    """As by a kubelet, which removes the containers of a pod after its sandbox was stopped."""
    async with world.daemon() as cri:
        pod, container = await suspended_pod(cri)
        await cri("StopPodSandbox", pod_sandbox_id=pod.id)
        info = json.loads((await cri("PodSandboxStatus", pod_sandbox_id=pod.id, verbose=True)).info["info"])
        assert info["suspended"] is False and "while it was suspended" in info["why"]
        code, text = await refused(cri, "ResumePod", pod.id)
        assert code == "FAILED_PRECONDITION" and "not ready" in text
        code, text = await cri.refused("ExecSync", container_id=container, cmd=["true"], timeout=60)
        assert code == "FAILED_PRECONDITION"
        await cri("StopContainer", container_id=container, timeout=30)
        await cri("RemoveContainer", container_id=container)
        assert pod.vm is None
        await cri("RemovePodSandbox", pod_sandbox_id=pod.id)
        assert world.left_over() == []


async def test_an_image_that_a_suspended_pod_needs_is_not_removed(world: World) -> None:
    """Its files are not open, and its guest would read others when they were pulled again."""
    async with world.daemon() as cri:
        pod, container = await suspended_pod(cri)
        image = pb.ImageSpec(image=cri.image)
        code, text = await cri.refused("RemoveImage", image=image)
        assert code == "FAILED_PRECONDITION" and cri.image in text and "default/web" in text
        ended = pod.containers[container]
        ended.status = ended.status._replace(state=states.EXITED)
        await cri("RemoveImage", image=image)
        assert not (await cri("ListImages")).images
        await cri("RemovePodSandbox", pod_sandbox_id=pod.id)


async def test_the_stop_of_a_container_that_has_ended_resumes_nothing(world: World) -> None:
    async with world.daemon() as cri:
        pod, container = await suspended_pod(cri)
        ended = pod.containers[container]
        ended.status = ended.status._replace(state=states.EXITED)
        await cri("StopContainer", container_id=container, timeout=30)
        assert pod.is_suspended
        await cri("RemovePodSandbox", pod_sandbox_id=pod.id)


@pytest.mark.parametrize("state", [states.EXITED, states.CREATED])
@pytest.mark.parametrize("name", ["ExecSync", "Exec", "Attach"])
async def test_a_command_in_a_container_that_does_not_run_resumes_nothing(world: World, name: str, state: str) -> None:
    """It is refused with the reason that it has in any pod."""
    fields: dict[str, Any] = {"stdout": True} if name != "ExecSync" else {"timeout": 60}
    async with world.daemon() as cri:
        pod, container = await suspended_pod(cri)
        other = pod.containers[container]
        other.status = other.status._replace(state=state)
        more = {} if name == "Attach" else {"cmd": ["true"]}
        code, text = await cri.refused(name, container_id=container, **fields, **more)
        assert code == "FAILED_PRECONDITION" and container in text and state in text
        assert pod.is_suspended
        await cri("RemovePodSandbox", pod_sandbox_id=pod.id)


async def test_its_status_shows_that_it_is_suspended(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    async with world.daemon() as cri:
        pod, _ = await suspended_pod(cri)
        clearpod = command(world, capfd)
        assert "suspended" in (await clearpod("ps")).out
        ((of_program,),) = (json.loads((await clearpod("ps", "--json")).out),)
        assert of_program["state"] == "suspended"
        assert "(suspended)" in (await clearpod("top", "--once")).out
        told = (await clearpod("why", "web")).out
        assert "is suspended" in told and "clearpod resume" in told
        assert read_daemon(cri.node).pods["suspended"] == 1
        await cri("StopPodSandbox", pod_sandbox_id=pod.id)
        assert "suspended" not in (await clearpod("ps", "-a")).out
        assert read_daemon(cri.node).pods["dead"] == 1


async def test_its_numbers_stand_still_and_its_memory_is_the_hosts(world: World) -> None:
    async with world.daemon() as cri:
        pod, container = await suspended_pod(cri)
        alone = await stats_of(cri, pod.id)
        (listed,) = (await cri("ListPodSandboxStats")).stats
        (of_container,) = (await cri("ListContainerStats")).stats
        assert alone.cpu.usage_core_nano_seconds.value == 5 * 10**9 and of_container.attributes.id == container
        for one in (alone, listed.linux, of_container):
            assert one.memory.working_set_bytes.value == one.memory.usage_bytes.value == 0
            assert one.cpu.usage_nano_cores.value == 0
        pod.meter._last.clear()  # as in a daemon that was started meanwhile
        assert (await stats_of(cri, pod.id)).memory.working_set_bytes.value == 0
        assert not (await cri("ListPodSandboxStats")).stats and not (await cri("ListContainerStats")).stats
        assert (await cri("ContainerStats", container_id=container)).stats.memory.usage_bytes.value == 0


async def test_one_that_is_held_is_not_suspended_and_stays_held(world: World) -> None:
    async with world.daemon() as cri:
        made = await cri.pod(annotations={SUSPEND: "manual"})
        pod = cri.node.pods.get(made)
        pod.held = "held, since it was filling the disk"
        code, text = await refused(cri, "SuspendPod", made)
        assert code == "FAILED_PRECONDITION" and "filling" in text and pod.held == "held, since it was filling the disk"
        assert await blocker(cri, made) == text
        pod.held = ""


@pytest.mark.parametrize("fault", ["", "silent", "busy", "refuses"])
async def test_the_end_of_a_container_waits_for_its_termination_log_up_to_a_limit(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(outputs, "LIMIT_S", 0.3)
    kubelet = Kubelet(world.root / "kubelet", "uid-web")
    world.faults.ignore = Update if fault == "silent" else None
    codes = {"busy": WRONG_STATE, "refuses": FAILED}
    world.faults.refuse = {Update: Reply(code=codes[fault], error="no")} if fault in codes else {}
    async with world.daemon() as cri:
        pod = await cri.pod("web")
        live = cri.node.pods.get(pod)  # a fake guest has no disk for images, so it is made without the annotation
        fields = {"suspend": "manual", "copies_files": True, "kubelet_dir": str(kubelet.directory)}
        live.record = live.record._replace(pod=live.record.pod._replace(**fields))
        container = await cri.container(pod, "true", mounts=kubelet.mounts())
        assert await blocker(cri, pod) == ""
        await cri("StartContainer", container_id=container)
        assert (await cri.ended(container)).exit_code == 0
        asked = [op for guest in world.vmm.guests.values() for op in guest.asked if isinstance(op, Update)]
        assert len(asked) > 1 if fault == "busy" else len(asked) == 1
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_what_changes_while_a_pod_is_suspended_is_copied_later_and_no_failure(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A token changes each hour, and a pod may be suspended for days."""
    kubelet = Kubelet(world.root / "kubelet", "uid-web")
    async with world.daemon() as cri:
        pod = await cri.pod("web")
        live = cri.node.pods.get(pod)  # as above
        fields = {"suspend": "manual", "copies_files": True, "kubelet_dir": str(kubelet.directory)}
        live.record = live.record._replace(pod=live.record.pod._replace(**fields))
        container = await cri.container(pod, "sleep", "1000", mounts=kubelet.mounts())
        await cri("StartContainer", container_id=container)
        refresher = files.Refresher(lambda: [live], check_s=0.02)
        refresher.open()
        await _asked(world, Update, at_least=1)
        former, live._agent = live._agent, None
        live.begin_suspension("it is suspended")
        (kubelet.map / "..data_tmp").symlink_to("..1")
        (kubelet.map / "..data_tmp").rename(kubelet.map / "..data")  # as the kubelet writes a new version
        await asyncio.sleep(0.2)
        assert "volume.copy" not in caplog.messages
        known = await _asked(world, Update)
        live.end_suspension()
        live._agent = former
        await _asked(world, Update, at_least=known + 1)
        await refresher.close()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def _asked(world: World, kind: type[Any], *, at_least: int = 0) -> int:
    """How often the guests were asked for it."""
    async with asyncio.timeout(20 * PATIENCE):
        while True:
            count = sum(isinstance(op, kind) for guest in world.vmm.guests.values() for op in guest.asked)
            if count >= at_least:
                return count
            await asyncio.sleep(0.01)


async def test_the_commands_report_what_blocks_it(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    async with world.daemon() as cri:
        await cri.pod("plain")
        clearpod = command(world, capfd)
        ended = await clearpod("suspend", "default/plain")
        assert ended.code != 0 and SUSPEND in ended.err
        assert (await clearpod("resume", "default/plain")).code == 0
        ended = await clearpod("suspend", "nobody")
        assert ended.code != 0 and "nobody" in ended.err


@pytest.mark.parametrize("value", ["yes", "true", "On-Demand"])
async def test_another_value_is_refused(world: World, value: str) -> None:
    async with world.daemon() as cri:
        code, text = await cri.refused("RunPodSandbox", config=cri.sandbox(annotations={SUSPEND: value}))
        assert code == "INVALID_ARGUMENT" and value in text


@pytest.mark.parametrize("word", [{SUSPEND: "manual"}, {FORKABLE: "true"}, {FORK_OF: "web"}])
async def test_a_pod_with_a_kernel_of_its_own_is_not_one_that_can_be_suspended_or_copied(
    world: World, word: dict[str, str]
) -> None:
    async with world.daemon() as cri:
        await cri.pod("web", annotations={FORKABLE: "true"})
        asked = cri.sandbox("own", annotations={KERNEL: "image", **word})
        code, text = await cri.refused("RunPodSandbox", config=asked)
        assert code == "INVALID_ARGUMENT" and "kernel" in text and SUSPEND in text
        assert len((await cri("ListPodSandbox")).items) == 1


async def test_what_a_pod_with_it_can_not_be(world: World) -> None:
    node = pb.NamespaceOption(pid=pb.NODE)
    linux = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(namespace_options=node))
    async with world.daemon() as cri:
        code, _ = await cri.refused("RunPodSandbox", config=cri.sandbox(annotations={SUSPEND: "manual"}, linux=linux))
        assert code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION")


@pytest.mark.parametrize(
    ("data", "why"),
    [(None, "gone"), (b"", "damaged"), (b"gues", "damaged"), (b"guesT", "damaged"), (b"guests", "damaged")],
)
def test_a_pod_whose_saved_guest_is_another_file_is_not_begun(world: World, data: bytes | None, why: str) -> None:
    """And stays suspended."""
    pod = Pod("a" * 64, "web", "default", "uid")
    prepared = engine.prepare(pod, world.host)
    directory, file = prepared.directory, Path(saves.suspended_guest(pod, world.host))
    try:
        scratch.note(directory, scratch.GUEST_LINK, path=str(file))
        checkpoint.make(str(file))
        file.write_bytes(b"guest")
        vm = machine.vm_spec(pod, world.host, directory=directory)
        manifest = Manifest(booted(vm), {checkpoint.GUEST: checkpoint.examined(str(file))})
        Path(directory, saves.SUSPENDED).write_bytes(manifest.encode())
        file.unlink()
        if data is not None:
            checkpoint.make(str(file))
            file.write_bytes(data)
        with pytest.raises(WrongState, match=rf"{file}, .*{why}"):
            loads.resume(directory, pod, host=world.host, vmm=world.vmm)
        assert loads.is_suspended(directory) and not world.vmm.guests
    finally:
        engine.clean_up(directory)
    assert world.left_over() == [] and not file.exists()
