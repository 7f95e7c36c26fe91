# SPDX-License-Identifier: Apache-2.0
"""The history of a pod, over the CRI, also after a restart of the daemon; with the fake guest."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from cri.store import failures, history
from cri.store.history import Fact
from tests.fakes.cni import FakeCni

from .command_rig import command
from .conftest import Client, World
from .test_network import cni

__all__ = ["cni"]


async def info(cri: Client, pod: str) -> dict[str, Any]:
    """The verbose part of PodSandboxStatus, as `crictl inspectp` shows it."""
    reply = await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)
    result: dict[str, Any] = json.loads(reply.info["info"])
    return result


async def failed(cri: Client) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads((await cri("Status", verbose=True)).info["failedSandboxes"])
    return result


def kinds(facts: list[dict[str, Any]]) -> list[str]:
    return [one["what"] for one in facts]


async def test_the_phases_of_a_start_follow_each_other_and_outlive_the_daemon(world: World, cni: FakeCni) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        before = (await info(cri, pod))["history"]
        assert kinds(before) == [*history.BOOT[:6], history.READY]
        assert before == sorted(before, key=lambda one: str(one["at"]))
        assert all(one["tookMs"] > 0 for one in before if one["what"] not in (history.KERNEL, history.AGENT))
    async with world.daemon() as cri:
        after = (await info(cri, pod))["history"]
        assert after[: len(before)] == before
        assert kinds(after)[len(before) :] == [history.ADOPTED]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_claimed_vm_has_the_phases_of_its_claim(world: World) -> None:
    world.warm(1)
    async with world.daemon() as cri:
        await cri.warmed(1)
        pod = await cri.pod()
        assert kinds((await info(cri, pod))["history"]) == [history.NETWORK, history.CLAIM, history.READY]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_containers_images_and_exits_are_in_the_history(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        await cri("PullImage", image=pb.ImageSpec(image=cri.image), sandbox_config=cri.sandbox())
        one = await cri.container(pod, "sh", "-c", "exit 3")
        await cri("StartContainer", container_id=one)
        await cri.ended(one)
        facts = [fact for fact in (await info(cri, pod))["history"] if fact["what"] not in history.BOOT]
        assert kinds(facts) == [history.PULL, history.IMAGE, history.CREATED, history.STARTED, history.EXITED]
        assert facts[-1].items() >= {"subject": "c", "reason": "Error", "code": 3}.items()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_removed_pod_explains_itself_also_when_another_has_its_name(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    clearpod = command(world, capfd)
    async with world.daemon() as cri:
        first = await cri.pod()
        await cri("PullImage", image=pb.ImageSpec(image=cri.image), sandbox_config=cri.sandbox())
        one = await cri.container(first, "sh", "-c", "exit 3")
        await cri("StartContainer", container_id=one)
        await cri.ended(one)
        await cri("RemovePodSandbox", pod_sandbox_id=first)
        for word in ("web", "default/web", first[:8]):
            output = (await clearpod("why", word)).out
            assert "is removed" in output and "exit code 3" in output, output
        second = await cri.pod()
        output = (await clearpod("why", "web")).out
        assert "is ready" in output and f"{first[:12]}" in output, output
        assert "exit code 3" in (await clearpod("why", first[:12])).out
        await cri("RemovePodSandbox", pod_sandbox_id=second)
        output = (await clearpod("why", "web")).out
        assert f"({second[:13]}) is removed" in output and "stopped when asked" in output and first[:12] in output


async def test_a_failed_call_is_in_the_history_of_its_pod_once(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        config = cri.config("true", image=pb.ImageSpec(image="missing.example/image:1"))
        for _ in range(3):
            await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
        (fact,) = [one for one in (await info(cri, pod))["history"] if one["what"] == history.FAILED]
        assert fact.items() >= {"subject": "c", "reason": "CreateContainer", "times": 3}.items()
        assert "missing.example" in fact["text"]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_vm_that_was_killed_is_in_the_history_and_its_console_stays(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        live = cri.node.pods.get(pod)
        assert live.vm is not None
        console = Path(live.vm.console)
        expected = b"vmm: Issue while setting TUNSETSTEERINGEBPF: Operation not permitted\n"
        console.write_bytes(b"[    0.1] Linux version 6\n%b[    9.0] Kernel panic - \x1b[31mred\n" % expected)
        os.kill(live.vm.pid, signal.SIGKILL)
        await live.gone.wait()
        shown = await info(cri, pod)
        assert shown["history"][-1].items() >= {"what": history.ENDED, "reason": "ready"}.items()
        assert "panic" in shown["console"][-1]
        assert not any("Linux version 6" in line or "\x1b" in line for line in shown["console"])
        assert "STEERING" not in str(shown["console"]), "it tells nothing"
    async with world.daemon() as cri:
        assert (await info(cri, pod))["console"] == shown["console"]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_sandbox_that_failed_is_remembered_by_its_name_also_after_a_restart(world: World, cni: FakeCni) -> None:
    cni.trouble("second", "ADD", 'echo \'{"code": 9, "msg": "no addresses left"}\'; exit 1')
    async with world.daemon() as cri:
        for _ in range(2):
            await cri.refused("RunPodSandbox", config=cri.sandbox())
        (shown,) = await failed(cri)
        assert shown.items() >= {"namespace": "default", "name": "web", "uid": "uid-web", "times": 2}.items()
        assert "no addresses left" in shown["error"]
    async with world.daemon() as cri:
        assert await failed(cri) == [shown]


async def test_a_refused_annotation_and_a_guest_that_is_silent_are_remembered(world: World) -> None:
    world.faults.silent = True
    async with world.daemon() as cri:
        await cri.refused("RunPodSandbox", config=cri.sandbox("mute"))
        await cri.refused("RunPodSandbox", config=cri.sandbox("odd"), runtime_handler="unknown")
        mute, odd = await failed(cri)
        assert (mute["name"], odd["name"], odd["code"]) == ("mute", "odd", "NOT_FOUND")
        assert kinds(mute["history"]) == [history.FILES, history.NETWORK]
        assert odd["history"] == []


async def test_only_so_many_failures_are_remembered(world: World) -> None:
    async with world.daemon() as cri:
        for number in range(failures.MOST + 3):
            await cri.refused("RunPodSandbox", config=cri.sandbox(f"p{number}"), runtime_handler="unknown")
        shown = await failed(cri)
    assert [one["name"] for one in shown] == [f"p{number}" for number in range(3, failures.MOST + 3)]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"v":9}', b'{"v":1,"failures":[{"name":1}]}', b"\xff", b"[" * 9999])
async def test_a_damaged_file_of_failures_is_no_reason_not_to_start(world: World, content: bytes) -> None:
    os.makedirs(world.config.run_dir, exist_ok=True)
    Path(world.config.run_dir, failures.FILE).write_bytes(content)
    async with world.daemon() as cri:
        assert await failed(cri) == []


def test_a_history_is_bounded_and_keeps_its_phases() -> None:
    facts: tuple[Fact, ...] = ()
    for what in history.BOOT:
        facts = history.added(facts, Fact(what, 1))
    for number in range(1000):
        facts = history.added(facts, Fact(history.FAILED, text=f"{number} \x1b[2J{'x' * 10_000}"))
    assert len(facts) == history.MOST
    assert [one.what for one in facts[: len(history.BOOT)]] == list(history.BOOT)
    assert facts[-1].text.startswith("999 ") and "\x1b" not in facts[-1].text
    assert max(len(one.text) for one in facts) <= history.TEXT_CHARS
