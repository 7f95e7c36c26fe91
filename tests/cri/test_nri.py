# SPDX-License-Identifier: Apache-2.0
"""NRI through the daemon: plugins get all events in order, and adjust containers beforehand."""

import asyncio
import json
import os
import stat

import pytest
from grpc.aio import AioRpcError

from cri.pb import nri_pb2 as nri
from cri.pb import runtime_pb2 as pb
from stage1.guest.messages import Start
from tests.fakes.patience import PATIENCE

from .conftest import Client, World
from .nri_rig import LIVES, Held, created, limited, no, nri_world, plugin

__all__ = ["nri_world"]


async def test_a_plugin_sees_the_whole_life_of_a_pod_in_order(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        pod = await cri.pod(labels={"a": "b"})
        c = await created(cri, pod, annotations={"x": "y"})
        await cri("StartContainer", container_id=c)
        await cri("StopContainer", container_id=c, timeout=0)
        await cri("RemoveContainer", container_id=c)
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await one.until(lambda: "RemovePodSandbox" in one.methods())
        assert one.methods() == [
            "Configure", "Synchronize", *LIVES, "RemoveContainer", "StopPodSandbox", "RemovePodSandbox",
        ]  # fmt: skip
        output = one.last("RunPodSandbox").pod
        assert (output.id, output.name, output.namespace, output.uid, output.labels) == (
            pod,
            "web",
            "default",
            "uid-web",
            {"a": "b"},
        )
        for method, output in one.seen:
            if hasattr(output, "container"):
                assert (output.container.name, output.container.id, output.pod.id) == ("c", c, pod), method
        made = one.last("CreateContainer").container
        assert (list(made.args), made.annotations, made.state) == (["sleep", "1000"], {"x": "y"}, nri.CONTAINER_CREATED)
        assert one.last("PostStartContainer").container.state == nri.CONTAINER_RUNNING
        stopped = one.last("StopContainer").container
        assert (stopped.state, stopped.exit_code) == (nri.CONTAINER_STOPPED, 137)


async def test_the_socket_is_roots_alone_and_off_by_default(world: World) -> None:
    assert not world.config.nri.enabled
    async with world.daemon() as cri:
        assert cri.node.hub is None
    async with limited(world).daemon():
        result = os.stat(world.config.nri.socket)
        assert stat.S_ISSOCK(result.st_mode)
        assert stat.S_IMODE(result.st_mode) == 0o600
    assert not os.path.exists(world.config.nri.socket)


async def test_crictl_info_names_the_plugins(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world, "b", "20"), plugin(nri_world, "a", "10"):
        assert json.loads((await cri("Status", verbose=True)).info["nri"]) == {"plugins": ["10-a", "20-b"]}


async def test_a_plugin_of_an_old_version_gets_state_changes(nri_world: World) -> None:
    async with nri_world.daemon() as cri:
        old = plugin(nri_world)
        for method in ("RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"):
            old.answers[method] = lambda request: no("unimplemented", code=12)
        async with old as one:
            pod = await cri.pod()
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            await one.until(lambda: one.methods().count("StateChange") == 3)
            events = [request.event for method, request in one.seen if method == "StateChange"]
            assert events == [nri.RUN_POD_SANDBOX, nri.STOP_POD_SANDBOX, nri.REMOVE_POD_SANDBOX]
            assert one.last("StateChange").pod.id == pod


async def test_only_the_subscribed_events(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world, events=1 << nri.STOP_POD_SANDBOX - 1) as one:
        pod = await cri.pod()
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert one.methods() == ["Configure", "Synchronize", "StopPodSandbox"]


async def test_a_container_that_ends_by_itself_is_an_event_stopped(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        c = await cri.container(await cri.pod(), "false")
        await cri("StartContainer", container_id=c)
        await one.until(lambda: "StopContainer" in one.methods(c))
        assert one.last("StopContainer").container.exit_code == 1


# -- nothing is listed too early


async def test_a_pod_is_not_there_before_the_plugins_have_agreed(nri_world: World) -> None:
    held = Held(nri.Empty())
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        one.answers["RunPodSandbox"] = held
        running = asyncio.create_task(cri.pod())
        await held.reached.wait()
        pod = one.last("RunPodSandbox").pod.id
        assert not (await cri("ListPodSandbox")).items
        assert (await cri.refused("PodSandboxStatus", pod_sandbox_id=pod))[0] == "NOT_FOUND"
        assert (await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true")))[0] == "NOT_FOUND"
        held.go.set()
        assert await running == pod


async def test_containers_have_ended_and_the_pod_exists_while_plugins_are_notified_of_its_stop(
    nri_world: World,
) -> None:
    held = Held(nri.Empty())
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        one.answers["StopPodSandbox"] = held
        pod = await cri.pod()
        c = await created(cri, pod)
        await cri("StartContainer", container_id=c)
        stopping = asyncio.create_task(cri("StopPodSandbox", pod_sandbox_id=pod))
        await held.reached.wait()
        assert (await cri.status(c)).state == pb.CONTAINER_EXITED
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.id == pod
        assert "StopContainer" in one.methods(c)
        held.go.set()
        await stopping


# -- synchronization


async def test_a_newcomer_learns_of_what_exists_and_of_what_comes_during_that(nri_world: World) -> None:
    held = Held(nri.SynchronizeResponse())
    async with nri_world.daemon() as cri:
        pod = await cri.pod()
        old = await created(cri, pod, "old")
        ended = await cri.container(pod, "true", name="ended")
        await cri("StartContainer", container_id=ended)
        await cri.ended(ended)
        one = plugin(nri_world)
        one.answers["Synchronize"] = held
        async with one:
            await held.reached.wait()
            making = asyncio.create_task(created(cri, pod, "new"))
            await asyncio.sleep(0.05)
            assert not making.done(), "it has a say in what begins after it came"
            held.go.set()
            new = await making
            await one.until(lambda: "PostCreateContainer" in one.methods(new))
            synced = one.last("Synchronize")
            assert [p.id for p in synced.pods] == [pod]
            assert [c.id for c in synced.containers] == [old]
            assert one.methods(new) == ["CreateContainer", "PostCreateContainer"]


async def test_what_is_in_the_making_when_a_plugin_comes_is_not_lost(nri_world: World) -> None:
    held = Held(nri.CreateContainerResponse())
    async with nri_world.daemon() as cri, plugin(nri_world, "first") as first:
        pod = await cri.pod()
        first.answers["CreateContainer"] = held
        making = asyncio.create_task(created(cri, pod))
        await held.reached.wait()
        async with plugin(nri_world, "second") as second:
            assert [c.name for c in second.last("Synchronize").containers] == ["c"]
            held.go.set()
            c = await making
            await second.until(lambda: "PostCreateContainer" in second.methods(c))
            assert second.methods(c) == ["PostCreateContainer"]


async def test_pods_of_the_previous_daemon_are_synchronized_and_have_events(nri_world: World) -> None:
    async with nri_world.daemon() as cri:
        pod = await cri.pod()
        c = await created(cri, pod)
        await cri("StartContainer", container_id=c)
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        assert [x.id for x in one.last("Synchronize").containers] == [c]
        assert one.last("Synchronize").containers[0].state == nri.CONTAINER_RUNNING
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await one.until(lambda: "RemovePodSandbox" in one.methods(pod))
        assert one.methods(c) == ["StopContainer", "RemoveContainer"]
        assert one.methods(pod)[0] == "StopContainer"
        assert "StopPodSandbox" in one.methods(pod)


# -- what a plugin refuses


@pytest.mark.parametrize("method", ["RunPodSandbox", "CreateContainer", "StartContainer", "UpdateContainer"])
async def test_a_refusal_fails_the_call_leaves_nothing_and_the_next_try_works(nri_world: World, method: str) -> None:
    async def life(cri: Client) -> None:
        pod = await cri.pod()
        c = await created(cri, pod)
        await cri("StartContainer", container_id=c)
        linux = pb.LinuxContainerResources(cpu_shares=512)
        await cri("UpdateContainerResources", container_id=c, linux=linux)

    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        one.answers[method] = lambda request: no("not\nnow " + "x" * 5000)
        with pytest.raises(Exception, match=f"00-test refuses {method}") as caught:
            await life(cri)
        assert caught.value.code().name == "FAILED_PRECONDITION"  # type: ignore[attr-defined]
        assert len(caught.value.details()) < 600  # type: ignore[attr-defined]
        for pod in (await cri("ListPodSandbox")).items:
            assert method != "RunPodSandbox"
            await cri("RemovePodSandbox", pod_sandbox_id=pod.id)
        if method == "CreateContainer":
            assert one.methods()[-5:-2] == ["CreateContainer", "StopContainer", "RemoveContainer"]
        del one.answers[method]
        await life(cri)
    await _removed(nri_world)
    assert not nri_world.left_over()


async def _removed(world: World) -> None:
    async with world.daemon() as cri:
        for pod in (await cri("ListPodSandbox")).items:
            await cri("RemovePodSandbox", pod_sandbox_id=pod.id)


async def test_a_refused_start_leaves_an_exited_container(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        one.answers["StartContainer"] = lambda request: no("no")
        c = await created(cri, await cri.pod())
        await cri.refused("StartContainer", container_id=c)
        status = await cri.status(c)
        assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
        await one.until(lambda: "StopContainer" in one.methods(c))


async def test_a_start_that_is_given_up_while_a_plugin_thinks_is_no_start(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        held = one.answers["StartContainer"] = Held(nri.Empty())
        c = await created(cri, await cri.pod())
        with pytest.raises(AioRpcError, match="DEADLINE_EXCEEDED"):
            await cri("StartContainer", container_id=c, deadline_s=1 / PATIENCE)
        status = await cri.status(c)
        assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
        held.go.set()
        await one.until(lambda: "StopContainer" in one.methods(c))
        await cri("RemoveContainer", container_id=c)
        await one.until(lambda: "RemoveContainer" in one.methods(c))
        assert "PostStartContainer" not in one.methods(c)
        assert not any(isinstance(op, Start) for guest in nri_world.vmm.guests.values() for op in guest.asked)


async def test_stops_and_removals_never_fail_because_of_a_plugin(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        for method in ("StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox", "PostCreateContainer"):
            one.answers[method] = lambda request: no("never")
        pod = await cri.pod()
        await created(cri, pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await one.until(lambda: "RemovePodSandbox" in one.methods(pod))
    assert not nri_world.left_over()


async def test_a_pod_of_the_pool_is_removed_when_a_plugin_refuses_it(nri_world: World) -> None:
    nri_world.warm(1)
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        await cri.warmed(1)
        one.answers["RunPodSandbox"] = lambda request: no("no")
        result = await cri.refused("RunPodSandbox", config=cri.sandbox())
        assert result[0] == "FAILED_PRECONDITION"
        refused = one.last("RunPodSandbox").pod.id
        await one.until(lambda: "RemovePodSandbox" in one.methods(refused))
        assert refused not in os.listdir(f"{nri_world.config.run_dir}/pods")
        del one.answers["RunPodSandbox"]
        assert await cri.pod() != refused
