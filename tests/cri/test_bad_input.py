# SPDX-License-Identifier: Apache-2.0
"""Bad input: one clear sentence, the right code, and nothing left behind."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from cri.owner import claim_path
from cri.pb import runtime_pb2 as pb
from cri.server import Listener
from stage1.errors import AlreadyExists, BadRequest
from stage1.guest import messages
from tests.fakes.patience import PACE, PATIENCE
from tests.fakes.processes import command_lines

from .conftest import World

UNKNOWN = "f" * 64

UNKNOWN_IDS = [
    ("PodSandboxStatus", {"pod_sandbox_id": UNKNOWN}, "NOT_FOUND"),
    ("PodSandboxStatus", {"pod_sandbox_id": ""}, "NOT_FOUND"),
    ("ContainerStatus", {"container_id": UNKNOWN}, "NOT_FOUND"),
    ("StartContainer", {"container_id": UNKNOWN}, "NOT_FOUND"),
    ("ExecSync", {"container_id": UNKNOWN, "cmd": ["true"]}, "NOT_FOUND"),
    ("ReopenContainerLog", {"container_id": UNKNOWN}, "NOT_FOUND"),
    ("CreateContainer", {"pod_sandbox_id": UNKNOWN}, "NOT_FOUND"),
    ("StopPodSandbox", {"pod_sandbox_id": UNKNOWN}, ""),
    ("RemovePodSandbox", {"pod_sandbox_id": UNKNOWN}, ""),
    ("StopContainer", {"container_id": UNKNOWN}, ""),
    ("RemoveContainer", {"container_id": UNKNOWN}, ""),
]


@pytest.mark.parametrize(("name", "fields", "code"), UNKNOWN_IDS)
async def test_unknown_ids(world: World, name: str, fields: dict[str, Any], code: str) -> None:
    async with world.daemon() as cri:
        if code:
            assert (await cri.refused(name, **fields))[0] == code
        else:
            await cri(name, **fields)


async def test_a_sandbox_name_is_taken_once_and_free_after_removal(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod("web")
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox("web"))
        assert code == "ALREADY_EXISTS"
        assert pod in sentence
        assert len((await cri("ListPodSandbox")).items) == 1
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await cri.pod("web")


async def test_a_container_name_is_taken_once_and_free_after_removal(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "true")
        code, _ = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true"))
        assert code == "ALREADY_EXISTS"
        await cri("RemoveContainer", container_id=c)
        await cri.container(pod, "true")


CREATES = [
    ({"image": pb.ImageSpec(image="no/such:image")}, "NOT_FOUND", "no/such:image"),
    ({"image": pb.ImageSpec()}, "INVALID_ARGUMENT", "needs image.image"),
    ({"metadata": pb.ContainerMetadata()}, "INVALID_ARGUMENT", "needs metadata.name"),
    ({"log_path": "../../x"}, "INVALID_ARGUMENT", "log directory"),
    ({"mounts": [pb.Mount(container_path="/m", host_path="/proc/such")]}, "NOT_FOUND", "/proc/such"),
    (
        {"linux": pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(oom_score_adj=1001))},
        "INVALID_ARGUMENT",
        "oom_score_adj",
    ),
    ({"devices": [pb.Device(host_path="/dev/sda")]}, "UNIMPLEMENTED", "device /dev/sda"),
    ({"CDI_devices": [pb.CDIDevice(name="x.com/y=z")]}, "NOT_FOUND", "no CDI spec in"),
]


@pytest.mark.parametrize(("fields", "code", "sentence"), CREATES)
async def test_creates_that_can_not_be(world: World, fields: dict[str, Any], code: str, sentence: str) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        result = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true", **fields))
        assert result[0] == code
        assert sentence in result[1]
        assert (await cri("ListContainers")).containers == []
        bundles = Path(f"{world.config.run_dir}/pods/{pod}/tree/volumes/containers")
        assert list(bundles.iterdir()) == []
        await cri.container(pod, "true", name="good")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


IMAGE_VOLUMES = [
    pytest.param({"readonly": False}, "INVALID_ARGUMENT", "must be readonly", id="Readonly false"),
    pytest.param({"image_sub_path": "no/such"}, "NOT_FOUND", "ImageVolumeMountFailed: /i ", id="no such subPath"),
    pytest.param({"image_sub_path": "etc/passwd/x"}, "NOT_FOUND", "ImageVolumeMountFailed", id="below a file"),
    pytest.param({"image_sub_path": "../../etc"}, "INVALID_ARGUMENT", "relative", id="out of the image"),
    pytest.param({"host_path": "/tmp"}, "INVALID_ARGUMENT", "only one", id="both kinds of source"),
    pytest.param({"image": pb.ImageSpec(image="no/such:1")}, "NOT_FOUND", "pull it first", id="image not here"),
]


@pytest.mark.parametrize(("fields", "code", "sentence"), IMAGE_VOLUMES)
async def test_image_volumes_that_can_not_be(world: World, fields: dict[str, Any], code: str, sentence: str) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        good = {"image": pb.ImageSpec(image=world.image), "container_path": "/i", "readonly": True}
        config = cri.config("true", mounts=[pb.Mount(**good | fields)])
        result = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
        assert result[0] == code
        assert sentence in result[1]
        await cri.container(pod, "true", mounts=[pb.Mount(**good)])
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


RECURSIVE = [
    pytest.param({"propagation": pb.PROPAGATION_HOST_TO_CONTAINER}, id="HOST_TO_CONTAINER"),
    pytest.param({"propagation": pb.PROPAGATION_BIDIRECTIONAL}, id="BIDIRECTIONAL"),
    pytest.param({"readonly": False}, id="ReadOnly false"),
]


@pytest.mark.parametrize("fields", RECURSIVE)
async def test_recursive_read_only_needs_read_only_and_private(world: World, fields: dict[str, Any]) -> None:
    async with world.daemon() as cri:
        features = (await cri("Status")).runtime_handlers[0].features
        assert (features.recursive_read_only_mounts, features.user_namespaces) == (True, True)
        pod = await cri.pod()
        given = {"host_path": "/tmp", "container_path": "/m", "readonly": True, "recursive_read_only": True}
        config = cri.config("true", mounts=[pb.Mount(**given | fields)])
        assert await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)


async def test_a_group_without_a_user_is_refused(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        context = pb.LinuxContainerSecurityContext(run_as_group=pb.Int64Value(value=1002))
        config = cri.config("true", linux=pb.LinuxContainerConfig(security_context=context))
        result = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
        assert result == ("INVALID_ARGUMENT", "run_as_group needs run_as_user or run_as_username")


async def test_a_create_that_the_guest_refuses_leaves_nothing_and_frees_the_name(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        world.faults.refuse[messages.Create] = messages.Reply(code=messages.FAILED, error="the disk is full")
        result = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true"))
        assert result == ("UNKNOWN", "the disk is full")
        assert list(Path(f"{world.config.run_dir}/pods/{pod}/tree/volumes/containers").iterdir()) == []
        world.faults.refuse.clear()
        await cri.container(pod, "true")


@pytest.mark.parametrize("kind", ["missing", "not executable"])
async def test_a_command_that_can_not_run_leaves_a_start_error(world: World, kind: str) -> None:
    command = world.root / "command"
    if kind == "not executable":
        command.write_text("no program")
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, str(command))
        code, sentence = await cri.refused("StartContainer", container_id=c)
        assert code == "INVALID_ARGUMENT"
        assert str(command) in sentence
        status = await cri.status(c)
        assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
        assert status.message == sentence
        assert status.finished_at > 0
        assert (await cri.refused("StartContainer", container_id=c))[0] == "FAILED_PRECONDITION"


async def test_calls_in_the_wrong_state_are_refused(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000")
        assert (await cri.refused("ExecSync", container_id=c, cmd=["true"]))[0] == "FAILED_PRECONDITION"
        await cri("StopContainer", container_id=c, timeout=1)
        assert (await cri.status(c)).state == pb.CONTAINER_CREATED
        await cri("StartContainer", container_id=c)
        assert (await cri.refused("StartContainer", container_id=c))[0] == "FAILED_PRECONDITION"
        assert (await cri.refused("ExecSync", container_id=c, cmd=[]))[0] == "INVALID_ARGUMENT"
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert (await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true", name="d")))[
            0
        ] == "FAILED_PRECONDITION"
        await cri("StopPodSandbox", pod_sandbox_id=pod)


async def test_a_command_that_takes_too_long_is_killed(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=c)
        code, sentence = await cri.refused("ExecSync", container_id=c, cmd=["sleep", "500.5"], timeout=1)
        assert code == "DEADLINE_EXCEEDED"
        assert "within 1 s" in sentence
        assert not await _runs("500.5")
        code, sentence = await cri.refused("ExecSync", container_id=c, cmd=["/no/such"], timeout=1)
        assert code == "INVALID_ARGUMENT"
        assert list(Path(f"{world.config.run_dir}/pods/{pod}/tree/volumes/containers/{c}").glob("exec*")) == []


async def test_a_command_whose_client_goes_away_is_killed(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=c)
        call = asyncio.create_task(cri("ExecSync", container_id=c, cmd=["sleep", "600.5"]))
        for is_there in (True, False):
            async with asyncio.timeout(5 * PATIENCE):
                while await _runs("600.5") is not is_there:
                    await asyncio.sleep(0.05)
            call.cancel()


async def _runs(word: str) -> bool:
    return any(f"sleep\0{word}\0" in line for line in command_lines().values())


BOOTS = [
    ("memory", {"annotations": {"clearpod.io/memory-mib": "8"}}, "INVALID_ARGUMENT", "a guest needs"),
    ("kernel", {}, "NOT_FOUND", "vmlinux"),
    ("variant", {"annotations": {"clearpod.io/kernel": "ipsec"}}, "NOT_FOUND", "guest kernel 'ipsec', but"),
    ("silent", {}, "UNKNOWN", "within 1.5 s"),
    ("dies", {}, "UNKNOWN", "virtual machine"),
    ("handler", {}, "NOT_FOUND", 'no runtime for "x"'),
    ("host", {"linux": pb.LinuxPodSandboxConfig()}, "INVALID_ARGUMENT", "network namespace"),
]


@pytest.mark.parametrize(("fault", "fields", "code", "sentence"), BOOTS, ids=[case[0] for case in BOOTS])
async def test_a_sandbox_that_does_not_come_up_leaves_nothing_and_can_be_tried_again(
    world: World, fault: str, fields: dict[str, Any], code: str, sentence: str
) -> None:
    kernel = world.root / "guest" / "vmlinux"
    request: dict[str, Any] = {}
    async with world.daemon() as cri:
        if fault == "kernel":
            kernel.unlink()
        if fault == "handler":
            request["runtime_handler"] = "x"
        world.faults.silent = fault == "silent"
        world.faults.die_on = messages.Configure if fault == "dies" else None
        config = cri.sandbox("web", **fields)
        if fault == "host":
            config.linux.security_context.namespace_options.network = pb.NODE
        result = await cri.refused("RunPodSandbox", config=config, **request)
        assert result[0] == code
        assert sentence in result[1]
        if fault == "silent":
            assert "fake guest: Linux version" in result[1], "the console's last lines belong into the error"
        assert (await cri("ListPodSandbox")).items == []
        assert world.left_over() == []
        kernel.touch()
        world.faults.silent, world.faults.die_on = False, None
        await cri.pod("web")


async def test_a_call_whose_client_gave_up_is_finished_and_its_repetition_gets_the_answer(world: World) -> None:
    world.faults.boot_s = 0.6
    async with world.daemon() as cri:
        config = cri.sandbox("slow")
        with pytest.raises(Exception, match="DEADLINE_EXCEEDED"):
            await cri("RunPodSandbox", deadline_s=0.2 / PATIENCE, config=config)
        other = cri.sandbox("slow", hostname="other")
        code, sentence = await cri.refused("RunPodSandbox", config=other)
        assert code == "ALREADY_EXISTS"
        assert "call in progress" in sentence
        second = (await cri("RunPodSandbox", config=config)).pod_sandbox_id
        assert [pod.id for pod in (await cri("ListPodSandbox")).items] == [second]
        assert (await cri.refused("RunPodSandbox", config=config))[0] == "ALREADY_EXISTS"


async def test_an_ambiguous_beginning_of_an_id_is_refused(world: World) -> None:
    async with world.daemon() as cri:
        pods = [await cri.pod(f"p{number}") for number in range(17)]
        first = next(pod[0] for pod in pods if sum(other[0] == pod[0] for other in pods) > 1)
        code, sentence = await cri.refused("PodSandboxStatus", pod_sandbox_id=first)
        assert code == "INVALID_ARGUMENT"
        assert first in sentence


async def test_the_socket_of_a_living_daemon_is_refused_and_a_dead_ones_is_replaced(world: World) -> None:
    path = world.config.socket_path
    Path(path).parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    async with world.daemon() as cri:
        await cri("Version")
        with pytest.raises(AlreadyExists, match="another daemon"):
            await Listener(cri.node, world.config).start()
        await cri("Version")


def test_a_file_in_the_place_of_the_socket_stays(tmp_path: Path) -> None:
    file = tmp_path / "sock"
    file.write_text("precious")
    with pytest.raises(BadRequest, match="a socket"):
        claim_path(str(file), key="socket.path")
    assert file.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "shown"), [("\x9b2J", "\\x9b2J"), ("a\u202eb", "a\\u202eb"), ("a\u2028b", "a\\u2028b")]
)
async def test_what_a_terminal_would_obey_is_escaped_in_an_error(world: World, name: str, shown: str) -> None:
    async with world.daemon() as cri:
        pod, devices = await cri.pod(), [pb.Device(host_path=name, container_path=name, permissions="r")]
        config = cri.config("true", devices=devices)
        code, sentence = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
        assert code == "INVALID_ARGUMENT" and shown in sentence and sentence.isprintable()


async def test_an_unexpected_fault_is_internal_with_a_mark_for_the_log(world: World) -> None:
    async with world.daemon() as cri:
        cri.node.pods.pods = lambda: 1 / 0
        code, sentence = await cri.refused("ListPodSandbox")
        assert code == "INTERNAL"
        assert "internal error" in sentence
        assert "ZeroDivision" not in sentence


async def test_until_the_daemon_is_ready_only_probes_are_answered(world: World) -> None:
    async with world.daemon() as cri:
        cri.node.is_ready = False
        cri.node._opened.clear()
        await cri("Version")
        assert not (await cri("Status")).status.conditions[0].status
        assert (await cri.refused("ListPodSandbox"))[0] == "UNAVAILABLE"
        waiting = asyncio.create_task(cri("ListPodSandbox"))
        await asyncio.sleep(0.1)
        cri.node.is_ready = True
        cri.node._opened.set()
        assert list((await waiting).items) == []


def failed(text: str) -> messages.Reply:
    return messages.Reply(code=messages.FAILED, error=text)


async def test_what_a_user_did_wrong_is_no_error_of_the_node(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with world.daemon() as cri:
        c = await cri.container(await cri.pod(), "sleep", "1000")
        await cri("StartContainer", container_id=c)
        assert (await cri.refused("ExecSync", container_id=c, cmd=["/no/such"]))[0] == "INVALID_ARGUMENT"
        image = pb.ImageSpec(image="127.0.0.1:1/nobody:1")
        code, sentence = await cri.refused("PullImage", image=image)
        assert (code, sentence[:20]) == ("UNKNOWN", "RegistryUnavailable:"), "which kubelet needs"
        assert (await cri.refused("PullImage", image=pb.ImageSpec(image="UPPER/case")))[0] == "INVALID_ARGUMENT"
    lines = [one for one in caplog.records if one.msg == "rpc" and getattr(one, "code", "OK") != "OK"]
    expected = [("INVALID_ARGUMENT", "INFO"), ("UNAVAILABLE", "WARNING"), ("INVALID_ARGUMENT", "INFO")]
    assert [(one.code, one.levelname) for one in lines] == expected  # type: ignore[attr-defined]


async def test_a_command_in_a_container_that_ends_meanwhile_is_refused(world: World) -> None:
    async with world.daemon() as cri:
        c = await cri.container(await cri.pod(), "sleep", "0.3")
        await cri("StartContainer", container_id=c)
        world.faults.refuse[messages.Exec] = failed("crun exec: cannot open the container's namespace")
        code, sentence = await cri.refused("ExecSync", container_id=c, cmd=["true"])
        assert (code, "has ended" in sentence) == ("FAILED_PRECONDITION", True)


@pytest.mark.parametrize("call", ["CreateContainer", "StartContainer", "ExecSync"])
async def test_a_call_during_the_removal_of_its_pod_is_refused(world: World, call: str) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await cri.container(pod, "sleep", "1000")
        if call == "ExecSync":
            await cri("StartContainer", container_id=c)
        world.faults.ignore = (messages.Create, messages.Start, messages.Exec)
        fields = {"container_id": c} if call != "CreateContainer" else {"pod_sandbox_id": pod}
        fields |= {"config": cri.config("true", name="d")} if call == "CreateContainer" else {}
        fields |= {"cmd": ["true"]} if call == "ExecSync" else {}
        asked = asyncio.create_task(cri.refused(call, **fields))
        await asyncio.sleep(0.3 * PACE)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        code, sentence = await asked
        assert (code, "stopped" in sentence) == ("FAILED_PRECONDITION", True)


async def test_a_full_disk_of_whatever_program_is_reported_as_such(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        world.faults.refuse[messages.Create] = failed("mkdir /x: No space left on device")
        code, sentence = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true"))
        assert (code, "free some space" in sentence) == ("RESOURCE_EXHAUSTED", True)
