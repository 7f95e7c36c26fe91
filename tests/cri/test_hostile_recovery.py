# SPDX-License-Identifier: Apache-2.0
"""A daemon that starts among guests that lie, are slow or silent, and damaged records: it serves at once, and no pod is
forgotten while its VM may live.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from stage1 import engine
from stage1.guest import messages as m
from tests.cri.conftest import Client, World
from tests.cri.test_hostile_guest import running, why
from tests.cri.test_recovery import _client, _process
from tests.fakes.guest import Faults
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import command_lines

PROMPT_S = 3.0 * PATIENCE
"""Less than any of the silent guest's limits."""


async def two_pods(world: World, faults: Faults) -> tuple[str, str, str]:
    """A neighbour with its container, and a pod whose guest has these faults from then on."""
    async with world.daemon() as cri:
        neighbour, container = await running(cri, "neighbour")
        world.vmm.faults = faults
        liar, _ = await running(cri, "liar")
    return neighbour, container, liar


async def assert_served(cri: Client, neighbour: str, container: str) -> None:
    """The node is ready and the neighbour in use, long before a guest that is waited for could time out."""
    async with asyncio.timeout(PROMPT_S):
        conditions = {one.type: one.status for one in (await cri("Status")).status.conditions}
        assert conditions["RuntimeReady"]
        assert len((await cri("ListPodSandbox")).items) == 2
        assert (await cri("PodSandboxStatus", pod_sandbox_id=neighbour)).status.state == pb.SANDBOX_READY
        assert (await cri("ExecSync", container_id=container, cmd=["echo", "hi"])).stdout == b"hi\n"


async def assert_put_aside(cri: Client, pod: str, reason: str) -> None:
    """Listed as not ready with the reason; its VM is gone, and its name taken until it is removed."""
    state, sentence = await why(cri, pod)
    assert state == pb.SANDBOX_NOTREADY
    assert reason in sentence
    assert not engine.living_pid(engine.pod_directory(cri.node.host, pod))
    assert (await cri.refused("RunPodSandbox", config=cri.sandbox("liar")))[0] == "ALREADY_EXISTS"
    await cri("StopPodSandbox", pod_sandbox_id=pod)
    await cri("RemovePodSandbox", pod_sandbox_id=pod)
    cri.node.vmm.faults = Faults()
    await cri.pod("liar")


async def test_a_guest_that_refuses_to_delete_an_unknown_container_keeps_its_pod_and_its_name(world: World) -> None:
    faults = Faults()
    neighbour, container, liar = await two_pods(world, faults)
    faults.lie[m.List] = lambda true: true._replace(containers=(*true.containers, m.Container("e" * 64)))
    faults.refuse[m.Delete] = m.Reply(code=m.FAILED, error="not today")
    async with world.daemon() as cri:
        await assert_served(cri, neighbour, container)
        assert await why(cri, liar) == (pb.SANDBOX_READY, "")
        assert (await cri.refused("RunPodSandbox", config=cri.sandbox("liar")))[0] == "ALREADY_EXISTS"
        await cri("RemovePodSandbox", pod_sandbox_id=liar)
        await cri("RemovePodSandbox", pod_sandbox_id=neighbour)
        assert world.left_over() == []


async def test_a_container_that_the_guest_is_still_making_for_a_killed_daemon_is_removed_then(world: World) -> None:
    faults, half = Faults(), "e" * 64
    neighbour, container, pod = await two_pods(world, faults)
    faults.lie[m.List] = lambda true: true._replace(containers=(*true.containers, m.Container(half)))
    faults.refuse[m.Delete] = m.Reply(code=m.WRONG_STATE, error="it is busy with another request")
    bundle = Path(world.config.run_dir, "pods", pod, "tree/volumes/containers", half)
    bundle.mkdir()
    async with world.daemon(settled=False) as cri:
        await assert_served(cri, neighbour, container)
        faults.refuse.clear()
        async with asyncio.timeout(30 * PATIENCE):
            while bundle.exists():
                await asyncio.sleep(0.05)


def invented(count: int) -> Callable[[m.Reply], m.Reply]:
    return lambda true: true._replace(containers=(*true.containers, *(m.Container(f"{n:x}") for n in range(count))))


async def test_three_thousand_invented_containers_are_a_lie(world: World) -> None:
    faults = Faults()
    neighbour, container, liar = await two_pods(world, faults)
    faults.lie[m.List] = invented(3000)
    async with world.daemon(settled=False) as cri:
        await assert_served(cri, neighbour, container)
        await assert_put_aside(cri, liar, "Reply.containers has more than 256 entries")


async def test_unknown_containers_that_are_deleted_slowly_delay_no_call(world: World) -> None:
    faults = Faults()
    neighbour, container, liar = await two_pods(world, faults)
    faults.lie[m.List] = invented(100)
    faults.ignore = m.Delete
    async with world.daemon(settled=False) as cri:
        await assert_served(cri, neighbour, container)
        async with asyncio.timeout(PROMPT_S):
            assert await why(cri, liar) == (pb.SANDBOX_READY, "")
        await cri("RemovePodSandbox", pod_sandbox_id=liar)


@pytest.mark.parametrize("silent", ["hello", "list"])
async def test_a_silent_guest_times_out_after_ten_seconds_and_delays_no_other(world: World, silent: str) -> None:
    faults = Faults()
    neighbour, container, liar = await two_pods(world, faults)
    if silent == "hello":
        faults.silent = True
    else:
        faults.ignore = m.List
    async with world.daemon(settled=False) as cri:
        begun = time.monotonic()
        await assert_served(cri, neighbour, container)
        states = {one.id: one.state for one in (await cri("ListPodSandbox")).items}
        assert states[liar] == pb.SANDBOX_READY  # as far as is known
        await assert_put_aside(cri, liar, "did not answer within 10 s")
        assert time.monotonic() - begun < 15 * PATIENCE


async def test_a_guest_that_was_cut_off_is_not_adopted(world: World) -> None:
    neighbour, container, liar = await two_pods(world, Faults())
    path = Path(f"{world.config.run_dir}/pods/{liar}/state.json")
    record = json.loads(path.read_text())
    record["status"]["why"] = "pod default/liar was cut off: it lied"
    path.write_text(json.dumps(record))
    async with world.daemon(settled=False) as cri:
        await assert_served(cri, neighbour, container)
        await assert_put_aside(cri, liar, "it lied")


def _edit(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        path = directory / "state.json"
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    return damage


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(text)


def _log_record(directory: Path) -> None:
    result = [path for path in (directory / "logs").iterdir() if path.stat().st_size]
    assert result
    for path in result:
        path.write_text('{"v": 1, "seq": "x"')


DAMAGES: dict[str, Callable[[Path], object]] = {
    "vm.json cut off": _write("vm.json", '{"v": 1, "pid'),
    "vm.json is a list": _write("vm.json", "[]"),
    "vm.json of all processes": _write("vm.json", '{"v":1,"pid":-1,"start_time":0,"console":"/etc/passwd"}'),
    "vm.json with a huge pid": _write("vm.json", '{"v":1,"pid":1' + "0" * 40 + ',"start_time":0,"console":""}'),
    "a state that is none": _edit(lambda record: record["status"].update(state="happy")),  # type: ignore[attr-defined]
    "containers of another type": _edit(lambda record: record.update(containers=7)),
    "a container's times as text": _edit(
        lambda record: record["containers"][0]["status"].update(finished_ns="soon")  # type: ignore[index]
    ),
    "a container that leaves its directory": _edit(
        lambda record: record["containers"][0]["record"]["container"].update(id="../../../x")  # type: ignore[index]
    ),
    "a container's configuration": _edit(
        lambda record: record["containers"][0]["record"].update(config="////")  # type: ignore[index]
    ),
    "a newer version": _edit(lambda record: record.update(v=99)),
    "the record of a log": _log_record,
    "the record of the network": lambda directory: (directory / "cni.json").symlink_to(_damaged(directory)),
}


def _damaged(directory: Path) -> Path:
    path = directory / "damaged.json"
    path.write_text("{")
    return path


async def test_a_damaged_record_puts_its_own_pod_aside(world: World) -> None:
    pods = await _pods_of_a_killed_daemon(world, [*DAMAGES, "neighbour"])
    for damage, do in DAMAGES.items():
        do(_directory(world, pods[damage]))
    with _process(world):
        cri = await _client(world)
        assert {one.id for one in (await cri("ListPodSandbox")).items} == set(pods.values())
        result = {name: await why(cri, pod) for name, pod in pods.items()}
        well = ["neighbour", "the record of a log"]  # what that one held is lost, and nothing else
        assert {name for name, (state, _) in result.items() if state == pb.SANDBOX_READY} == set(well)
        assert [name for name, (_, sentence) in result.items() if bool(sentence) == (name in well)] == []
        for name, pod in pods.items():
            assert bool(_vmms(pod)) == (name in well), name
            assert (await cri.refused("RunPodSandbox", config=cri.sandbox(_slug(name))))[0] == "ALREADY_EXISTS"
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await cri.close()
    assert [pod for pod in pods.values() if _vmms(pod)] == []
    assert world.left_over() == []


async def _pods_of_a_killed_daemon(world: World, names: list[str]) -> dict[str, str]:
    """Each with a container."""
    with _process(world) as process:
        cri = await _client(world)
        pods = {name: await cri.pod(_slug(name), log_directory=f"{world.root}/logs") for name in names}
        for number, pod in enumerate(pods.values()):
            await cri.container(pod, "true", name=f"c{number}")
        process.send_signal(signal.SIGKILL)
        await cri.close()
    return pods


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def _directory(world: World, pod: str) -> Path:
    return Path(f"{world.config.run_dir}/pods/{pod}")


NAMELESS: dict[str, Callable[[Path], object]] = {
    "state.json cut off": _write("state.json", '{"v": 1, "rec'),
    "no JSON": _write("state.json", "\0" * 100),
    "nested without end": _write("state.json", "[" * 100_000),
    "a list": _write("state.json", "[]"),
    "another pod's": _edit(lambda record: record["record"]["pod"].update(id="f" * 64)),  # type: ignore[index]
    "a directory": lambda directory: ((directory / "state.json").unlink(), (directory / "state.json").mkdir()),
}


async def test_a_pod_whose_record_is_lost_keeps_its_name_by_the_other_one(world: World) -> None:
    pods = await _pods_of_a_killed_daemon(world, [*NAMELESS, "neighbour"])
    for name, damage in NAMELESS.items():
        damage(_directory(world, pods[name]))
    with _process(world):
        cri = await _client(world)
        assert {one.id for one in (await cri("ListPodSandbox")).items} == set(pods.values())
        for name, pod in pods.items():
            state, sentence = await why(cri, pod)
            assert (state == pb.SANDBOX_READY) == (name == "neighbour") == (sentence == ""), name
            assert bool(_vmms(pod)) == (name == "neighbour")
            assert (await cri.refused("RunPodSandbox", config=cri.sandbox(_slug(name))))[0] == "ALREADY_EXISTS"
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await cri.close()
    assert world.left_over() == []


async def test_a_record_without_a_name_is_removed_with_its_vm(world: World) -> None:
    pods = await _pods_of_a_killed_daemon(world, [*NAMELESS, *(f"{name}, and no vm.json" for name in NAMELESS)])
    for name, pod in pods.items():
        NAMELESS[name.removesuffix(", and no vm.json")](_directory(world, pod))
        _write("pod.json", "{")(_directory(world, pod))
        if name.endswith(", and no vm.json"):
            _write("vm.json", "{")(_directory(world, pod))
    with _process(world):
        cri = await _client(world)
        assert (await cri("ListPodSandbox")).items == []
        async with asyncio.timeout(20 * PATIENCE):
            while world.left_over():
                await asyncio.sleep(0.05)
        assert [name for name, pod in pods.items() if _vmms(pod)] == []
        await cri("RemovePodSandbox", pod_sandbox_id=await cri.pod("a-list"))
        await cri.close()


async def test_a_pod_that_was_half_made_is_gone_before_its_name_is_given_again(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod("web")
    _edit(lambda record: record["status"].update(state="booting"))(Path(f"{world.config.run_dir}/pods/{pod}"))  # type: ignore[attr-defined]
    async with world.daemon(settled=False) as cri:
        second = await cri.pod("web")
        assert os.listdir(f"{world.config.run_dir}/pods") == [second]


def _vmms(pod: str) -> list[str]:
    """Processes of the pod's."""
    return [line for line in command_lines().values() if pod in line]
