# SPDX-License-Identifier: Apache-2.0
"""Who may copy which pod, and what is left when that fails. That it is done: test_fork_vms.py."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import COPY_SIGNAL, FORK_OF, FORKABLE, Policy
from cri.runtime import pod_start
from cri.runtime.sandbox import pod_record
from cri.snapshots import copies
from cri.store import history
from stage1 import engine
from stage1.errors import NotFound, WrongState
from stage1.guest import messages
from stage1.guest.messages import Freeze, Shares
from stage1.linux import mount
from stage1.pod.model import Pod
from stage1.pod.network import Interface
from stage1.snapshot import load as loads
from stage1.snapshot import save as saves
from tests.fakes.cni import FakeCni
from tests.fakes.patience import PATIENCE

from .command_rig import command
from .conftest import Client, World


async def fork(cri: Client, pod: str, **options: str) -> Any:
    """ForkPod."""
    asked = pb.CheckpointPodRequest(pod_sandbox_id=pod, options=options)
    reply = await cri._channel.unary_unary("/clearpod.v1.Pods/ForkPod")(asked.SerializeToString(), timeout=180)
    return pb.ListPodSandboxResponse.FromString(reply)


async def refused(cri: Client, pod: str, **options: str) -> tuple[str, str]:
    """Code and sentence."""
    with pytest.raises(grpc.RpcError) as raised:
        await fork(cri, pod, **options)
    return raised.value.code().name, str(raised.value.details())


async def names(cri: Client) -> list[str]:
    return sorted(one.metadata.name for one in (await cri("ListPodSandbox")).items)


async def test_a_pod_that_does_not_consent_is_not_copied(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod("plain")
        code, text = await refused(cri, pod)
        assert code == "FAILED_PRECONDITION" and FORKABLE in text
        info = json.loads((await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)).info["info"])
        assert info["forkBlocker"] == text
        code, text = await cri.refused("RunPodSandbox", config=cri.sandbox("copy", annotations={FORK_OF: "plain"}))
        assert code == "FAILED_PRECONDITION" and FORKABLE in text
        assert await names(cri) == ["plain"]


@pytest.mark.parametrize("word", ["nobody", "other", "we", "../web", "w" * 300])
async def test_only_a_pod_of_the_same_namespace_that_runs_is_copied(world: World, word: str) -> None:
    async with world.daemon() as cri:
        await cri.pod("web", annotations={FORKABLE: "true"})
        foreign = cri.sandbox("other", annotations={FORKABLE: "true"})
        foreign.metadata.namespace = "elsewhere"
        await cri("RunPodSandbox", config=foreign)
        code, text = await cri.refused("RunPodSandbox", config=cri.sandbox("copy", annotations={FORK_OF: word}))
        assert code == "NOT_FOUND" and word[:16] in text
        assert (await refused(cri, "unknown"))[0] == "NOT_FOUND"
        assert await names(cri) == ["other", "web"]


async def test_a_copy_of_nothing_is_refused(world: World) -> None:
    """The pod would boot, and its programs begin anew."""
    async with world.daemon() as cri:
        await cri.pod("web", annotations={FORKABLE: "true"})
        code, text = await cri.refused("RunPodSandbox", config=cri.sandbox("copy", annotations={FORK_OF: ""}))
        assert code == "INVALID_ARGUMENT" and FORK_OF in text and "''" in text
        assert await names(cri) == ["web"]


async def test_a_policy_can_refuse_it(world: World) -> None:
    allowed = tuple(one for one in world.config.policy.annotations if one != FORK_OF)
    world.config = world.config.but(policy=Policy(annotations=allowed))
    async with world.daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        for code, text in (
            await cri.refused("RunPodSandbox", config=cri.sandbox("copy", annotations={FORK_OF: "web"})),
            await refused(cri, pod),
        ):
            assert code == "INVALID_ARGUMENT" and FORK_OF in text and "policy" in text


@pytest.mark.parametrize(
    "options",
    [{"name": name} for name in ("", ".", "..", "a/b", "../x", "-x", "x-", "a b", "\u202e", "x" * 5000)]
    + [{"copies": "0"}, {"copies": "-1"}, {"copies": "65"}, {"copies": "ⅴ"}, {"copies": ""}, {"mode": "x"}],
)
async def test_odd_options_are_refused(world: World, options: dict[str, str]) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        assert (await refused(cri, pod, **options))[0] == "INVALID_ARGUMENT"


Asked = tuple[asyncio.Task[str], "asyncio.Future[float]"]


async def beginning(cri: Client, *interfaces: str) -> Asked:
    """A copy of a pod with these interfaces, and the result of saving that, which is awaited."""
    saving: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def save() -> float:
        return await saving

    task = asyncio.get_running_loop().create_task(save())
    devices = tuple(Interface(one, "02:00:00:00:00:01") for one in interfaces)
    request = pb.RunPodSandboxRequest(config=cri.sandbox("copy", annotations={FORKABLE: "true"}))
    record = await pod_record(cri.node, request)
    now = copies.Saving(devices, task, asyncio.Event())
    making = pod_start.run(cri.node, record, request=b"", origin=copies.Origin("/nowhere", saving=now))
    return asyncio.get_running_loop().create_task(making), saving


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(30 * PATIENCE):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_the_vm_of_a_copy_begins_while_the_original_is_saved(world: World) -> None:
    """And is gone again when that fails."""
    async with world.daemon() as cri:
        making, saving = await beginning(cri)
        await until(lambda: world.vmm.guests)
        assert not making.done()
        saving.set_exception(WrongState("the original can't be saved"))
        with pytest.raises(WrongState, match="original"):
            await making
        assert await names(cri) == [] and world.left_over() == []


@pytest.mark.parametrize("fails", ["save", "both"])
async def test_the_network_of_a_copy_is_made_while_its_vm_begins(world: World, fails: str) -> None:
    """Whatever fails, the other is waited for, and nothing is left of both."""
    cni = FakeCni(world.root / "cni")
    cni.make_one_device()
    world.host = world.host._replace(network=cni.settings)
    code = "exit 1" if fails == "both" else ":"
    go = world.root / "go"
    (cni.root / "trouble-second-ADD").write_text(f"until [ -e {go} ]; do sleep 0.02; done; {code}\n")
    async with world.daemon() as cri:
        making, saving = await beginning(cri, "eth0")
        await until(lambda: world.vmm.guests and "ADD second" in cni.calls())
        saving.set_exception(WrongState("the original can't be saved"))
        await asyncio.wait({making}, timeout=0.2)
        assert not making.done(), "the plugin still works for the pod"
        (pod,) = cri.node.pods._booting.values()
        go.touch()
        with pytest.raises(WrongState, match="original"):
            await making
        assert await names(cri) == [] and world.left_over() == [] and cni.left_over() == []
        phases = {one.what: one.took_ns for one in pod.status.history}
        assert (phases.get(history.NETWORK, 0) > 200e6) is (fails == "save") and history.FILES in phases


@pytest.mark.parametrize(("device", "joins_later"), [(["eth0"], True), (["eth0", "eth1"], False), ([], False)])
async def test_only_the_vm_of_a_copy_with_one_network_joins_later(
    world: World, device: list[str], joins_later: bool
) -> None:
    cni = FakeCni(world.root / "cni")
    host = world.host._replace(network=cni.settings)
    interfaces = tuple(Interface(one, "02:00:00:00:00:01") for one in device)
    pod = Pod("a" * 64, "copy", "default", "uid")
    assert loads.can_join_later(pod, host, interfaces=interfaces) is joins_later
    assert not loads.can_join_later(pod, world.host._replace(network=None), interfaces=interfaces)


@pytest.mark.parametrize("is_same", [True, False])
def test_a_vm_that_joins_later_gets_the_network_of_its_original_or_none(world: World, is_same: bool) -> None:
    """Else the plugins leave the other end of the device there too."""
    cni = FakeCni(world.root / "cni")
    if is_same:
        cni.make_one_device()
    host = world.host._replace(network=cni.settings)
    prepared = loads.prepare(Pod("a" * 64, "copy", "default", "uid"), host, joins_later=True)
    try:
        if is_same:
            network = loads.join_network(prepared, host)
            assert network and network.ips[0] == "10.9.0.5" and engine.network(prepared.directory) == network
        else:
            with pytest.raises(WrongState, match="peer0"):
                loads.join_network(prepared, host)
    finally:
        engine.clean_up(prepared.directory)
    assert cni.left_over() == [] and world.left_over() == []


def test_what_is_removed_before_it_is_loaded_is_reported_as_such(world: World, tmp_path: Path) -> None:
    """A checkpoint is its client's."""
    host, pod = world.host._replace(scratch_mib=16), Pod("a" * 64, "copy", "default", "uid")
    prepared = loads.prepare(pod, host)
    try:
        manifest = saves.describe(prepared.directory, pod, host=host, images={})
        with pytest.raises(NotFound, match=f"{tmp_path}/disk .*removed"):
            loads.load(prepared, host, path=str(tmp_path), manifest=manifest)
        for name in ("disk", "guest"):
            (tmp_path / name).touch()
        with pytest.raises(WrongState, match="0 bytes"):
            loads.load(prepared, host, path=str(tmp_path), manifest=manifest)
    finally:
        engine.clean_up(prepared.directory)


async def test_what_is_saved_is_loaded_before_the_original_goes_on() -> None:
    over: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def save() -> float:
        return await over

    saving = copies.Saving((), asyncio.get_running_loop().create_task(save()), asyncio.Event())
    waiting = asyncio.ensure_future(saving.until_written())
    await asyncio.sleep(0)
    assert not waiting.done()
    saving._written.set()
    await waiting
    assert not saving.task.done()
    over.set_exception(WrongState("can't go on"))
    await asyncio.wait({saving.task})
    with pytest.raises(WrongState):
        await saving.until_written()


async def test_a_copy_does_not_get_the_name_of_another_pod(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        await cri.pod("web-fork")
        await cri.pod("try-2")
        for options in ({}, {"name": "web"}, {"name": "try", "copies": "3"}):
            code, text = await refused(cri, pod, **options)
            assert code == "ALREADY_EXISTS" and "another name" in text
        ended = await command(world, capfd)("fork", "default/web", "--name", "web-fork")
        assert ended.code != 0 and "'web-fork'" in ended.err and len(ended.err.splitlines()) == 1
        ended = await command(world, capfd)("fork", "w" * 5000)
        assert ended.code == 4 and len(ended.err) < 200, "a sentence has the beginning of a long name"
        assert await names(cri) == ["try-2", "web", "web-fork"]


async def test_concurrent_copies_have_names_of_their_own(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        asked = [refused(cri, pod), refused(cri, pod), refused(cri, pod, name="web-fork"), refused(cri, pod, name="b")]
        codes = [(code, "'web-fork'" in text) for code, text in await asyncio.gather(*asked)]
        assert codes.count(("ALREADY_EXISTS", True)) == 2 and len(set(codes)) == 2  # no VM here can be saved
        assert (await refused(cri, pod))[0] != "ALREADY_EXISTS" and cri.node.pods.copying == set()


async def test_a_daemon_that_has_just_begun_meets_the_original_before_it_judges_it(world: World) -> None:
    """It would take the guest for one of an earlier version."""
    async with world.daemon() as cri:
        web = cri.node.pods.get(await cri.pod("web", annotations={FORKABLE: "true"}))
        web.adopted.clear()
        hello, web.hello = web.hello, messages.Hello()
        copying = asyncio.ensure_future(cri.pod("copy", annotations={FORK_OF: "web"}))
        await asyncio.wait({copying}, timeout=0.3)
        assert not copying.done()
        web.hello = hello
        web.adopted.set()
        with pytest.raises(grpc.RpcError) as raised:
            await copying
        assert "qmp" in str(raised.value.details())


async def test_an_exec_that_has_just_begun_finds_its_bundle(world: World) -> None:
    """It was asked for after the pod was found to be idle, and before the host's directories go."""
    async with world.daemon() as cri:
        pod = await cri.pod()
        container = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=container)
        live = cri.node.pods.get(pod)
        world.faults.reply_delay_s = 0.5
        running = asyncio.ensure_future(cri("ExecSync", container_id=container, cmd=["true"], timeout=30))
        async with asyncio.timeout(30 * PATIENCE):
            while not live.gate._requests.number:
                await asyncio.sleep(0.01)
            async with copies.standing_still(live):
                assert (await running).exit_code == 0
                held = asyncio.ensure_future(cri("ExecSync", container_id=container, cmd=["true"], timeout=30))
                await asyncio.wait({held}, timeout=1)
                assert not held.done()
            assert (await held).exit_code == 0


async def test_a_pod_is_copied_when_the_operations_that_are_about_to_end_have(world: World) -> None:
    """A client forks a pod as soon as it has the answer to its last call, which may be before the daemon is done."""
    async with world.daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        live = cri.node.pods.get(pod)
        with live.gate.using_files():
            blocked = await refused(cri, pod)
            ending = asyncio.ensure_future(refused(cri, pod))
            await asyncio.wait({ending}, timeout=0.2)
        assert "end execs" in blocked[1] and "qmp" in (await ending)[1]


async def test_a_command_that_has_begun_meanwhile_goes_into_no_copy(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        container = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=container)
        live = cri.node.pods.get(pod)
        running = asyncio.ensure_future(cri("ExecSync", container_id=container, cmd=["sleep", "1000"], timeout=60))
        async with asyncio.timeout(30 * PATIENCE):
            while not live.gate.execs:
                await asyncio.sleep(0.01)
            with pytest.raises(WrongState, match="end execs"):
                async with copies.standing_still(live):
                    pass
        running.cancel()


@pytest.mark.parametrize("annotations", [{FORKABLE: "yes"}, {COPY_SIGNAL: "SIGKILL"}, {COPY_SIGNAL: "10"}])
async def test_odd_annotations_are_refused(world: World, annotations: dict[str, str]) -> None:
    async with world.daemon() as cri:
        code, text = await cri.refused("RunPodSandbox", config=cri.sandbox(annotations=annotations))
        assert code == "INVALID_ARGUMENT" and next(iter(annotations.values())) in text


async def test_a_copy_that_fails_leaves_nothing_and_the_original_goes_on(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its VM has no monitor, so nothing can be saved."""
    async with world.daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        assert "qmp" in (await refused(cri, pod))[1]
        asked = [op for guest in world.vmm.guests.values() for op in guest.asked if isinstance(op, (Freeze, Shares))]
        assert asked == [Shares(), Freeze(), Freeze(thaw=True), Shares(mount=True)]
        _, text = await cri.refused("RunPodSandbox", config=cri.sandbox("copy", annotations={FORK_OF: "web"}))
        assert "qmp" in text
        ended = await command(world, capfd)("fork", "default/web", "-n", "2")
        assert ended.code != 0 and "qmp" in ended.err
        assert await names(cri) == ["web"] and cri.node.pods.get(pod).is_ready
        forks = f"{world.config.state_dir}/{saves.FORKS}"
        assert os.listdir(forks) == []
        os.mkdir(f"{forks}/left")
        info = json.loads((await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)).info["info"])
        assert info["forkBlocker"] == ""
    async with world.daemon():
        assert os.listdir(forks) == []


async def test_what_a_killed_daemon_has_left_is_removed_from_a_file_system_of_its_own(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator gives copies a file system whose files share blocks."""
    forks = Path(world.config.state_dir, saves.FORKS)
    forks.mkdir(parents=True)
    mount.mount("tmpfs", str(forks), "tmpfs", 0, "size=1m")
    try:
        (forks / "left").mkdir()
        (forks / "left" / "guest").write_bytes(b"secrets")
        async with world.daemon():
            assert os.listdir(forks) == []
        assert "fork.cleanup_failed" not in caplog.text
    finally:
        mount.umount(str(forks))
