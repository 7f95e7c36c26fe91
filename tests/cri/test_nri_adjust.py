# SPDX-License-Identifier: Apache-2.0
"""NRI through the daemon: what plugins make of containers, and what is refused to them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cri.pb import nri_pb2 as nri
from cri.pb import runtime_pb2 as pb
from stage1.guest import messages
from tests.fakes.patience import PATIENCE

from .conftest import World
from .nri_rig import MIB, created, no, nri_world, plugin

__all__ = ["nri_world"]


# -- what a plugin adjusts


async def test_adjustments_are_applied_to_the_container(nri_world: World, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    wish = nri.ContainerAdjustment(
        annotations={"made": "by plugin", "-gone": ""},
        env=[nri.KeyValue(key="NEW", value="1"), nri.KeyValue(key="-OLD")],
        args=["", "sleep", "2000"],
        mounts=[nri.Mount(destination="/there", source=str(tmp_path / "there"), type="bind", options=["rbind", "ro"])],
    )
    wish.linux.resources.memory.limit.value = 64 * MIB
    wish.linux.resources.cpu.shares.value = 256
    wish.linux.resources.unified["memory.high"] = "1000000"
    wish.linux.resources.pids.limit = 50
    wish.linux.oom_score_adj.value = 7
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        one.answers["CreateContainer"] = nri.CreateContainerResponse(adjust=wish)
        envs = [pb.KeyValue(key="OLD", value=b"0")]
        c = await created(cri, await cri.pod(), annotations={"gone": "1", "kept": "1"}, envs=envs)
        own = cri.node.pods.get_container(c)[1].record.container
        assert own.process.argv == ("sleep", "2000")
        assert "NEW=1" in own.process.env
        assert not any(one.startswith("OLD=") for one in own.process.env)
        assert [(m.source, m.target, m.read_only) for m in own.mounts] == [(str(tmp_path / "there"), "/there", True)]
        assert (own.limits.memory, own.limits.cpu_shares, own.oom_score_adj) == (64 * MIB, 256, 7)
        assert own.limits.unified == (("memory.high", "1000000"), ("pids.max", "50"))
        status = await cri.status(c)
        assert status.annotations == {"made": "by plugin", "kept": "1"}
        assert status.resources.linux.memory_limit_in_bytes == 64 * MIB
        assert one.last("PostCreateContainer").container.annotations == status.annotations


def _set(path: str, value: Any = None) -> nri.ContainerAdjustment:
    wish = nri.ContainerAdjustment()
    *parents, name = path.split(".")
    target: Any = wish
    for part in parents:
        target = getattr(target, part)
    field = target.DESCRIPTOR.fields_by_name[name]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        getattr(target, name)["key"]
        if field.message_type.fields_by_name["value"].message_type is None:
            getattr(target, name)["key"] = "1"
    elif field.is_repeated:
        getattr(target, name).add() if field.message_type else getattr(target, name).append(value)
    elif field.message_type:
        getattr(target, name).ParseFromString(value or b"\x0a\x01x")
    else:
        setattr(target, name, value)
    return wish


REFUSED = [
    (_set("hooks"), "UNIMPLEMENTED", "hooks"),
    (_set("rlimits"), "UNIMPLEMENTED", "rlimits"),
    (_set("CDI_devices"), "UNIMPLEMENTED", "CDI_devices"),
    (_set("linux.devices"), "UNIMPLEMENTED", "linux.devices"),
    (_set("linux.namespaces"), "UNIMPLEMENTED", "linux.namespaces"),
    (_set("linux.cgroups_path", "/x"), "UNIMPLEMENTED", "linux.cgroups_path"),
    (_set("linux.sysctl"), "UNIMPLEMENTED", "linux.sysctl"),
    (_set("linux.net_devices"), "UNIMPLEMENTED", "linux.net_devices"),
    (_set("linux.seccomp_policy"), "UNIMPLEMENTED", "linux.seccomp_policy"),
    (_set("linux.rdt"), "UNIMPLEMENTED", "linux.rdt"),
    (_set("linux.resources.rdt_class"), "UNIMPLEMENTED", "resources.rdt_class"),
    (_set("linux.resources.devices"), "UNIMPLEMENTED", "resources.devices"),
    (_set("linux.resources.memory.kernel", b"\x08\x05"), "UNIMPLEMENTED", "resources.memory.kernel"),
    (_set("linux.resources.memory.limit", b"\x08\x05"), "INVALID_ARGUMENT", "memory_limit_in_bytes"),
    (_set("linux.resources.cpu.shares", b"\x08" + b"\xff" * 9 + b"\x01"), "INVALID_ARGUMENT", "cpu.shares"),
    (_set("linux.oom_score_adj", b"\x08" + b"\xff" * 8 + b"\x7f"), "INVALID_ARGUMENT", "oom_score_adj"),
    (_set("linux.resources.cpu.cpus", "x"), "INVALID_ARGUMENT", "cpuset_cpus"),
    (nri.ContainerAdjustment.FromString(b"\xfa\x01\x01x"), "UNIMPLEMENTED", "field 31"),
    (nri.ContainerAdjustment(env=[nri.KeyValue(key="a=b")]), "INVALID_ARGUMENT", "environment variable"),
    (nri.ContainerAdjustment(env=[nri.KeyValue(key="a", value="\0")]), "INVALID_ARGUMENT", "zero byte"),
    (nri.ContainerAdjustment(annotations={"a": "b" * (600 << 10)}), "INVALID_ARGUMENT", "annotations"),
    (nri.ContainerAdjustment(mounts=[nri.Mount(destination="/x", type="tmpfs")]), "UNIMPLEMENTED", "tmpfs"),
    (nri.ContainerAdjustment(mounts=[nri.Mount(destination="/x", source="rel")]), "INVALID_ARGUMENT", "host_path"),
    (nri.ContainerAdjustment(mounts=[nri.Mount(destination="/", source="/tmp")]), "INVALID_ARGUMENT", "root"),
    (nri.ContainerAdjustment(mounts=[nri.Mount(destination="/x", source="/dev")]), "UNIMPLEMENTED", "device nodes"),
    (
        nri.ContainerAdjustment(mounts=[nri.Mount(destination="/x", source="/tmp", options=["rshared"])]),
        "UNIMPLEMENTED",
        "rshared",
    ),
]


@pytest.mark.parametrize(("wish", "code", "word"), REFUSED, ids=[word for _, _, word in REFUSED])
async def test_what_a_vm_can_not_follow_is_refused_with_the_plugin_and_the_field(
    nri_world: World, wish: nri.ContainerAdjustment, code: str, word: str
) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world, "bad") as one:
        one.answers["CreateContainer"] = nri.CreateContainerResponse(adjust=wish)
        pod = await cri.pod()
        result = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true"))
        assert result[0] == code
        assert word in result[1]
        assert "00-bad" in result[1]
        assert not (await cri("ListContainers")).containers
        del one.answers["CreateContainer"]
        await cri.container(pod, "true")


async def test_plugins_are_asked_by_their_index_and_see_what_the_earlier_ones_did(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world, "b", "20") as late, plugin(nri_world, "a", "10") as first:
        first.answers["CreateContainer"] = nri.CreateContainerResponse(
            adjust=nri.ContainerAdjustment(env=[nri.KeyValue(key="A", value="1")])
        )
        pod = await cri.pod()
        await created(cri, pod)
        assert "A=1" in late.last("CreateContainer").container.env
        assert "A=1" not in first.last("CreateContainer").container.env
        late.answers["CreateContainer"] = first.answers["CreateContainer"]
        result = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true", name="d"))
        assert result[0] == "INVALID_ARGUMENT"
        assert all(word in result[1] for word in ("10-a", "20-b", "Env A"))


async def test_a_validator_rejects_what_others_want(nri_world: World) -> None:
    async with (
        nri_world.daemon() as cri,
        plugin(nri_world, "a", "10") as one,
        plugin(nri_world, "v", "90", events=0) as validator,
    ):
        one.answers["CreateContainer"] = nri.CreateContainerResponse(
            adjust=nri.ContainerAdjustment(env=[nri.KeyValue(key="A", value="1")])
        )
        validator.answers["ValidateContainerAdjustment"] = nri.ValidateContainerAdjustmentResponse(
            reject=True, reason="no A"
        )
        pod = await cri.pod()
        result = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true"))
        assert result[0] == "FAILED_PRECONDITION"
        assert "no A" in result[1]
        output = validator.last("ValidateContainerAdjustment")
        assert output.owners.owners[output.container.id].compound[nri.Env].owners == {"A": "10-a"}
        assert [(p.index, p.name) for p in output.plugins] == [("10", "a"), ("90", "v")]
        assert "A=1" not in output.container.env
        assert output.adjust.env[0].key == "A"


# -- updates


async def test_unasked_updates_are_done_and_failures_named(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        pod = await cri.pod()
        c = await created(cri, pod)
        good, bad, unknown = (nri.ContainerUpdate(container_id=x) for x in (c, c, "f" * 64))
        good.linux.resources.cpu.shares.value = 300
        bad.linux.resources.memory.kernel.value = 1
        unknown.linux.resources.cpu.shares.value = 300
        ignored = nri.ContainerUpdate.FromString(bad.SerializeToString())
        ignored.ignore_failure = True
        request = nri.UpdateContainersRequest(update=[good, bad, unknown, ignored])
        reply = await one.call("UpdateContainers", request)
        assert not reply.status.code
        assert list(nri.UpdateContainersResponse.FromString(reply.payload).failed) == [bad, unknown]
        assert (await cri.status(c)).resources.linux.cpu_shares == 300


async def test_an_evicted_container_ends(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        c = await created(cri, await cri.pod())
        await cri("StartContainer", container_id=c)
        eviction = nri.ContainerEviction(container_id=c, reason="room is needed")
        await one.call("UpdateContainers", nri.UpdateContainersRequest(evict=[eviction]))
        assert (await cri.ended(c)).exit_code == 137


async def test_an_update_is_what_the_plugins_make_of_it(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        pod = await cri.pod()
        c, other = await created(cri, pod), await created(cri, pod, "other")
        await cri("StartContainer", container_id=c)
        mine, others = (nri.ContainerUpdate(container_id=x) for x in (c, other))
        mine.linux.resources.cpu.shares.value = 300
        others.linux.resources.cpu.shares.value = 400
        one.answers["UpdateContainer"] = nri.UpdateContainerResponse(update=[mine, others])
        linux = pb.LinuxContainerResources(cpu_shares=512, cpu_quota=20000)
        await cri("UpdateContainerResources", container_id=c, linux=linux)
        output = one.last("UpdateContainer").linux_resources
        assert (output.cpu.shares.value, output.cpu.quota.value) == (512, 20000)
        now = (await cri.status(c)).resources.linux
        assert (now.cpu_shares, now.cpu_quota) == (300, 20000)
        assert (await cri.status(other)).resources.linux.cpu_shares == 400
        await one.until(lambda: "PostUpdateContainer" in one.methods(c))
        assert any(isinstance(op, messages.Update) for guest in nri_world.vmm.guests.values() for op in guest.asked)


async def test_a_pods_update_is_an_event(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        pod = await cri.pod()
        resources = pb.LinuxContainerResources(cpu_shares=300)
        await cri("UpdatePodSandboxResources", pod_sandbox_id=pod, resources=resources)
        await one.until(lambda: "PostUpdatePodSandbox" in one.methods())
        assert one.last("UpdatePodSandbox").linux_resources.cpu.shares.value == 300
        one.answers["UpdatePodSandbox"] = lambda request: no("no")
        assert (await cri.refused("UpdatePodSandboxResources", pod_sandbox_id=pod))[0] == "FAILED_PRECONDITION"


async def test_answers_about_one_container_update_others(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        pod = await cri.pod()
        other = await created(cri, pod, "other")

        def wish(shares: int) -> list[nri.ContainerUpdate]:
            made = nri.ContainerUpdate(container_id=other)
            made.linux.resources.cpu.shares.value = shares
            return [made]

        async def shares() -> int:
            return int((await cri.status(other)).resources.linux.cpu_shares)

        one.answers["CreateContainer"] = nri.CreateContainerResponse(update=wish(300))
        c = await created(cri, pod)
        assert await shares() == 300, "they are done before the new one is made"
        one.answers["StopContainer"] = nri.StopContainerResponse(update=wish(400))
        await cri("StartContainer", container_id=c)
        await cri("StopContainer", container_id=c, timeout=0)
        async with asyncio.timeout(10 * PATIENCE):
            while await shares() != 400:
                await asyncio.sleep(0.01)


async def test_a_plugin_may_update_others_while_it_is_asked(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        pod = await cri.pod()
        other = await created(cri, pod, "other")
        update = nri.ContainerUpdate(container_id=other)
        update.linux.resources.cpu.shares.value = 300

        async def updates(request: Any) -> nri.CreateContainerResponse:
            reply = await one.call("UpdateContainers", nri.UpdateContainersRequest(update=[update]))
            assert not nri.UpdateContainersResponse.FromString(reply.payload).failed
            return nri.CreateContainerResponse()

        one.answers["CreateContainer"] = updates
        await created(cri, pod)
        assert (await cri.status(other)).resources.linux.cpu_shares == 300
