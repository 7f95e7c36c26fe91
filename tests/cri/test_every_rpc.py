# SPDX-License-Identifier: Apache-2.0
"""Every RPC of the CRI with every kind of bad input: one sentence and the right code, never a fault of our own.

The table has a row for each of the 43; a test holds it to the proto. What single RPCs refuse beyond that is in
test_bad_input.py and in the tests of those RPCs.
"""

import asyncio
import os
from typing import Any

import pytest
from grpc import aio

from cri.pb import runtime_pb2 as pb
from cri.server import LIMIT_BYTES
from stage1.guest import messages
from tests.fakes.patience import PATIENCE

from .conftest import Client, World

OK, NOT_FOUND, INVALID, UNDONE = "", "NOT_FOUND", "INVALID_ARGUMENT", "UNIMPLEMENTED"

# RPC -> (what an empty request is answered with, the field that has an id, what an unknown id is answered with)
ROWS: dict[str, tuple[str, str, str]] = {
    "Version": (OK, "", ""),
    "RunPodSandbox": (INVALID, "", ""),
    "StopPodSandbox": (OK, "pod_sandbox_id", OK),
    "RemovePodSandbox": (OK, "pod_sandbox_id", OK),
    "PodSandboxStatus": (NOT_FOUND, "pod_sandbox_id", NOT_FOUND),
    "ListPodSandbox": (OK, "filter.id", OK),
    "StreamPodSandboxes": (OK, "filter.id", OK),
    "CreateContainer": (NOT_FOUND, "pod_sandbox_id", NOT_FOUND),
    "StartContainer": (NOT_FOUND, "container_id", NOT_FOUND),
    "StopContainer": (OK, "container_id", OK),
    "RemoveContainer": (OK, "container_id", OK),
    "ListContainers": (OK, "filter.pod_sandbox_id", OK),
    "StreamContainers": (OK, "filter.id", OK),
    "ContainerStatus": (NOT_FOUND, "container_id", NOT_FOUND),
    "UpdateContainerResources": (INVALID, "container_id", INVALID),
    "ReopenContainerLog": (NOT_FOUND, "container_id", NOT_FOUND),
    "ExecSync": (NOT_FOUND, "container_id", NOT_FOUND),
    "ContainerStats": (NOT_FOUND, "container_id", NOT_FOUND),
    "ListContainerStats": (OK, "filter.id", OK),
    "StreamContainerStats": (OK, "filter.pod_sandbox_id", OK),
    "PodSandboxStats": (NOT_FOUND, "pod_sandbox_id", NOT_FOUND),
    "ListPodSandboxStats": (OK, "filter.id", OK),
    "StreamPodSandboxStats": (OK, "filter.id", OK),
    "UpdateRuntimeConfig": (OK, "", ""),
    "Status": (OK, "", ""),
    "CheckpointContainer": (UNDONE, "container_id", UNDONE),
    "CheckpointPod": (NOT_FOUND, "pod_sandbox_id", NOT_FOUND),
    "RestorePod": (INVALID, "", ""),
    "ListMetricDescriptors": (OK, "", ""),
    "ListPodSandboxMetrics": (OK, "", ""),
    "StreamPodSandboxMetrics": (OK, "", ""),
    "RuntimeConfig": (OK, "", ""),
    "UpdatePodSandboxResources": (NOT_FOUND, "pod_sandbox_id", NOT_FOUND),
    "ListImages": (OK, "", ""),
    "StreamImages": (OK, "", ""),
    "ImageStatus": (INVALID, "", ""),
    "PullImage": (INVALID, "", ""),
    "RemoveImage": (INVALID, "", ""),
    "ImageFsInfo": (OK, "", ""),
}
ELSEWHERE = {"Exec", "Attach", "PortForward"}
"""What they refuse is in test_streaming.py. GetContainerEvents never ends: test_events.py."""
IDS = ["", "f" * 64, "x" * 300, "é" * 300, "../../etc", "a\nb", " "]


def test_the_table_has_every_rpc_of_the_cri() -> None:
    services = pb.DESCRIPTOR.services_by_name.values()
    names = {method.name for service in services for method in service.methods}
    assert len(names) == 43
    assert names - ELSEWHERE - {"GetContainerEvents"} == ROWS.keys()


async def _code(cri: Client, name: str, **fields: Any) -> tuple[str, str]:
    """Code and sentence; empty for success."""
    try:
        await (cri.listed(name, **fields) if name.startswith("Stream") else cri(name, **fields))
    except aio.AioRpcError as error:
        return error.code().name, str(error.details())
    return OK, ""


async def test_empty_requests(world: World) -> None:
    async with world.daemon() as cri:
        result = {name: (await _code(cri, name))[0] for name in ROWS}
        assert result == {name: row[0] for name, row in ROWS.items()}


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row[1]])
async def test_ids_that_no_one_has(world: World, name: str) -> None:
    _, field, code = ROWS[name]
    async with world.daemon() as cri:
        await cri.container(await cri.pod(), "true")
        for wrong in IDS if code else IDS[1:]:
            outer, _, inner = field.partition(".")
            result, sentence = await _code(cri, name, **{outer: {inner: wrong} if inner else wrong})
            assert result == code, (wrong, sentence)
            assert "\n" not in sentence
            assert len(sentence) < 1000
        assert len((await cri("ListContainers")).containers) == 1


async def test_names_of_300_characters_are_names(world: World) -> None:
    async with world.daemon() as cri:
        config = cri.sandbox("p" * 300, labels={"l" * 300: "v" * 300}, log_directory=f"{world.root}/logs")
        pod = (await cri("RunPodSandbox", config=config)).pod_sandbox_id
        c = await cri.container(pod, "true", name="c" * 250)
        await cri("StartContainer", container_id=c)
        await cri.ended(c)
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.metadata.name == "p" * 300
        long = cri.config("true", name="d" * 300)
        code, sentence = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=long)
        assert code == "INVALID_ARGUMENT", "its log file's name does not fit"
        assert sentence.startswith("config.log_path has a name of more than 255 bytes")


async def test_messages_up_to_16_mib_are_taken_and_larger_ones_refused(world: World) -> None:
    async with world.daemon() as cri:
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox(annotations={"big": "x" * (6 << 20)}))
        assert (code, sentence[:31]) == ("INVALID_ARGUMENT", "config.annotations['big'] has 6")
        pods = [await cri.pod(f"p{number}", annotations={"big": "x" * (500 << 10)}) for number in range(12)]
        assert {pod.id for pod in (await cri("ListPodSandbox")).items} == set(pods), "an answer of 6 MiB"
        assert len(await cri.listed("StreamPodSandboxes")) == len(pods)
        code, _ = await cri.refused("ExecSync", container_id="x" * LIMIT_BYTES)
        assert code == "RESOURCE_EXHAUSTED"
        await cri("Version")


async def test_bytes_that_are_no_request_are_refused_without_side_effects(world: World) -> None:
    async with world.daemon() as cri, aio.insecure_channel(f"unix:{world.config.socket_path}") as channel:
        for service in pb.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                call = channel.unary_unary(f"/runtime.v1.{service.name}/{method.name}")
                with pytest.raises(aio.AioRpcError) as caught:
                    await call(b"\xff" + os.urandom(40), timeout=10)
                assert caught.value.code().name == "INVALID_ARGUMENT", method.name
        await cri("Version")


STEPS = ["RunPodSandbox", "CreateContainer", "StartContainer", "UpdateContainerResources", "StopContainer"]
STEPS += ["RemoveContainer", "StopPodSandbox", "RemovePodSandbox"]


@pytest.mark.parametrize(
    "slow", [step for step in STEPS if step not in ("RemoveContainer", "StartContainer")]
)  # the first waits for no guest; who gives the second up makes the next attempt (test_late_answers.py)
async def test_a_deadline_in_the_middle_of_a_step_and_its_repetition(world: World, slow: str) -> None:
    """One step after the other, of which one takes longer than its client waits."""
    ids: dict[str, str] = {}
    async with world.daemon() as cri:
        requests: dict[str, dict[str, Any]] = {
            "RunPodSandbox": {"config": cri.sandbox()},
            "CreateContainer": {"config": cri.config("sleep", "1000")},
            "UpdateContainerResources": {"linux": {"cpu_shares": 100}},
        }
        for step in (one for one in STEPS if (one, slow) != ("StopPodSandbox", "RemovePodSandbox")):
            fields = requests.get(step, {})
            if step != "RunPodSandbox" and "Container" in step and step != "CreateContainer":
                fields = fields | {"container_id": ids["container_id"]}
            elif step != "RunPodSandbox":
                fields = fields | {"pod_sandbox_id": ids["pod_sandbox_id"]}
            if step == slow:
                world.faults.reply_delay_s = 0.4
                world.faults.ignore = messages.Shutdown
                with pytest.raises(aio.AioRpcError, match="DEADLINE_EXCEEDED"):
                    await cri(step, deadline_s=0.15 / PATIENCE, **fields)
                world.faults.reply_delay_s, world.faults.ignore = 0.0, None
            reply = await cri(step, **fields)
            ids |= {field.name: value for field, value in reply.ListFields() if field.name.endswith("_id")}
        assert (await cri("ListPodSandbox")).items == []
    assert world.left_over() == []


@pytest.mark.parametrize("op", ["Create", "Start", "Exec", "Signal", "Update", "Delete"])
async def test_a_guest_that_dies_in_the_middle_of_a_call_ends_the_call_and_the_pod_can_be_removed(
    world: World, op: str
) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        calls: dict[str, Any] = {}
        c = ""
        if op != "Create":
            c = await cri.container(pod, "sleep", "1000")
        if op not in ("Create", "Start"):
            await cri("StartContainer", container_id=c)
        calls["Create"] = ("CreateContainer", {"pod_sandbox_id": pod, "config": cri.config("true")})
        calls["Start"] = ("StartContainer", {"container_id": c})
        calls["Exec"] = ("ExecSync", {"container_id": c, "cmd": ["true"]})
        calls["Signal"] = ("StopContainer", {"container_id": c, "timeout": 5})
        calls["Update"] = ("UpdateContainerResources", {"container_id": c, "linux": {"cpu_shares": 9}})
        calls["Delete"] = ("RemoveContainer", {"container_id": c})
        world.faults.die_on = getattr(messages, op)
        name, fields = calls[op]
        async with asyncio.timeout(10 * PATIENCE):
            code, sentence = await _code(cri, name, **fields)
        assert code != "INTERNAL", sentence
        if c and op != "Delete":
            assert (await cri.ended(c)).state == pb.CONTAINER_EXITED
        world.faults.die_on = None
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []
        await cri.pod()


@pytest.mark.parametrize("op", ["Signal", "Shutdown"])
async def test_a_guest_that_does_not_answer_is_stopped_nevertheless(world: World, op: str) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=c)
        world.faults.ignore = getattr(messages, op)
        async with asyncio.timeout(15 * PATIENCE):
            await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert (await cri.status(c)).state == pb.CONTAINER_EXITED
        world.faults.ignore = None
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []
