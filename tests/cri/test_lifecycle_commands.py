# SPDX-License-Identifier: Apache-2.0
"""`clearpod stop`, `kill`, `wait`, `rm` and `exec` with podman's words and exit codes, and the end of detached pods,
against a daemon with fake guests.
"""

import asyncio
from pathlib import Path

import pytest

from cri.cli import daemon
from cri.cli.run import detached
from cri.policy import DETACHED
from stage1.errors import AlreadyExists, BadRequest
from stage1.pod import states
from tests.fakes.patience import PACE

from .command_rig import Command, command
from .conftest import Client, World
from .test_detached import request


@pytest.fixture
def clearpod(world: World, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command with the world's configuration."""
    return command(world, capfd)


async def detach(world: World, *options: str, removes: bool = False) -> str:
    return await detached.hand_over(world.config, request(world, *options), when="missing", removes=removes)


async def until_dead(cri: Client, pod: str) -> None:
    async with asyncio.timeout(10 * PACE):
        while (live := cri.node.pods.find(pod)) is not None and live.status.state != states.DEAD:
            await asyncio.sleep(0.02)


async def test_the_vm_of_an_ended_command_goes_and_its_record_stays(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        pod = await detach(world, "--name", "job", world.image, "sh", "-c", "echo done; exit 7")
        await until_dead(cri, pod)
        assert "exited (7, Error)" in (await clearpod("ps", "-a")).out
        assert (await clearpod("ps")).out.count("job") == 0
        assert (await clearpod("logs", "job")).out == "done\n"
        assert (await clearpod("wait", "job")).out == "7\n"
        with pytest.raises(AlreadyExists, match="job"):
            await detach(world, "--name", "job", world.image, "true")
        assert await clearpod("rm", "job") == (0, "job\n", "")
        assert list((await cri("ListPodSandbox")).items) == []
        assert list(Path(world.config.state_dir, "run-logs").iterdir()) == []
    assert world.left_over() == []


async def test_with_rm_all_of_it_goes_and_who_waits_has_the_code(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        pod = await detach(world, "--name", "job", world.image, "sleep", "1000", removes=True)
        waiting = asyncio.create_task(clearpod("wait", "job"))
        await asyncio.sleep(0.3)
        live = cri.node.pods.get(pod)
        (container,) = live.containers
        await cri("StopContainer", container_id=container, timeout=0)
        assert (await waiting)[:2] == (0, "137\n")
        async with asyncio.timeout(10 * PACE):
            while cri.node.pods.find(pod):
                await asyncio.sleep(0.02)
        assert (await clearpod("ps", "-aq")).out == ""
        assert list(Path(world.config.state_dir, "run-logs").iterdir()) == []
    assert world.left_over() == []


async def test_a_daemon_that_was_away_at_the_end_ends_the_vm_too(world: World) -> None:
    async with world.daemon() as cri:
        pod = await detach(world, world.image, "sleep", "0.5")
    await asyncio.sleep(0.7)
    async with world.daemon() as cri:
        await until_dead(cri, pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == []


async def test_a_label_does_not_end_a_pod_of_the_kubelets(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(labels={DETACHED: "at-its-end", "io.kubernetes.pod.uid": "u"})
        one = await cri.container(pod, "true")
        await cri("StartContainer", container_id=one)
        await cri.ended(one)
        await asyncio.sleep(0.3)
        assert cri.node.pods.get(pod).is_ready
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_stop_asks_first_and_ends_the_vm(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        await detach(
            world, "--name", "kind", world.image, "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done"
        )
        await detach(world, "--name", "deaf", world.image, "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
        await asyncio.sleep(0.3)
        assert await clearpod("stop", "-t", "1", "kind", "deaf") == (0, "kind\ndeaf\n", "")
        assert (await clearpod("wait", "kind", "deaf")).out == "3\n137\n"
        assert await clearpod("stop", "kind") == (0, "kind\n", "")
        assert (await clearpod("ps", "-q")).out == ""
        ended = await clearpod("stop", "kind", "nobody")
        assert (ended.code, ended.out, ended.err.count("\n")) == (125, "kind\n", 1) and "nobody" in ended.err
        assert (await clearpod("stop", "--ignore", "nobody")).code == 0
        assert (await clearpod("rm", "-a")).code == 0
        assert list((await cri("ListPodSandbox")).items) == []


async def test_rm_refuses_what_runs_and_forces(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        await detach(world, "--name", "web", world.image, "sleep", "1000")
        refused = await clearpod("rm", "web")
        assert refused.code == 2 and "rm -f" in refused.err
        assert (await clearpod("rm", "nobody")).code == 1
        assert await clearpod("rm", "-f", "nobody") == (0, "", "")
        assert await clearpod("rm", "-f", "-t", "0", "web") == (0, "web\n", "")
        other = await cri.pod(name="other")
        assert (await clearpod("rm", "-fa")).code == 0  # all of `run --detach`, and this is another's
        assert [one.id for one in (await cri("ListPodSandbox")).items] == [other]
        await cri("RemovePodSandbox", pod_sandbox_id=other)
        assert (await clearpod("rm")).code == (await clearpod("stop", "-a", "web")).code == 125


async def test_kill_sends_any_signal_to_a_running_container(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        await detach(world, "--name", "web", world.image, "sh", "-c", "trap 'exit 5' HUP; while :; do sleep 0.05; done")
        await asyncio.sleep(0.3)
        wrong = await clearpod("kill", "-s", "NOTHING", "web")
        assert wrong.code == 125 and "NOTHING" in wrong.err
        assert (await clearpod("kill", "-s", "99", "web")).code == 125
        assert await clearpod("kill", "--signal", "SIGHUP", "web") == (0, "web\n", "")
        assert (await clearpod("wait", "web")).out == "5\n"
        again = await clearpod("kill", "web")
        assert again.code == 125 and "exited" in again.err
        (one,) = (await cri("ListContainers")).containers
        with daemon.Daemon(world.config.socket_path) as client, pytest.raises(BadRequest, match="65"):
            await asyncio.to_thread(client, "KillContainer", container_id=one.id, timeout=65)
        await clearpod("rm", "web")


@pytest.mark.parametrize("what", ["stop", "kill", "wait", "rm"])
async def test_without_a_daemon_the_code_is_podmans(clearpod: Command, what: str) -> None:
    ended = await clearpod(what, "web")
    assert ended.code == 125 and "clearpod serve" in ended.err


async def test_exec_of_a_missing_or_unusable_program_has_the_codes_of_shells(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        await detach(world, "--name", "web", world.image, "sleep", "1000")
        for word, code in (("no-such-command", 127), ("/no/such/file", 127), ("/etc/passwd", 126), ("", 127)):
            ended = await clearpod("exec", "web", word)
            assert ended.code == code and word in ended.err and ended.err.count("\n") == 1, ended.err
        assert (await clearpod("exec", "web", "sh", "-c", "exit 9")).code == 9
        assert (await clearpod("exec", "nobody", "true")).code == 125
        assert (await clearpod("exec", "web")).code == 125
        await clearpod("rm", "-ft", "0", "web")
        assert list((await cri("ListPodSandbox")).items) == []
