# SPDX-License-Identifier: Apache-2.0
"""`clearpod run --detach` against a real daemon with a fake VMM: the pod is the daemon's; what fails is taken back."""

from pathlib import Path

import pytest

from cri.cli.parser import Parser
from cri.cli.run import command, detached
from cri.cli.run import request as run_request
from cri.cli.run.request import Request
from stage1.errors import AlreadyExists, BadRequest, NoCommand, NotExecutable, NotFound, PodError, Unavailable

from .conftest import World


def request(world: World, *options: str) -> Request:
    parser = Parser(prog="clearpod run")
    command.add_arguments(parser)
    args = parser.parse_args(["-d", *options])
    detached.check(args)
    asked = run_request.of(args, {})
    asked.container.image.image = args.image
    return asked


async def test_the_daemon_has_the_pod_with_its_name_and_logs(world: World, tmp_path: Path) -> None:
    async with world.daemon() as cri:
        options = (
            "--name",
            "web",
            "--tmpfs",
            "/x",
            "--ulimit",
            "core=0",
            "--annotation",
            "example.com/a=b",
            "-v",
            f"{tmp_path}:/data",
            world.image,
            "sleep",
            "1000",
        )
        pod = await detached.hand_over(world.config, request(world, *options), when="missing")
        (listed,) = (await cri("ListPodSandbox")).items
        (container,) = (await cri("ListContainers")).containers
        assert (listed.id, listed.metadata.name, container.pod_sandbox_id) == (pod, "web", pod)
        assert (listed.annotations["example.com/a"], container.annotations["example.com/a"]) == ("b", "b")
        made = cri.node.pods.get(pod).containers[container.id].record.container
        assert [one.target for one in made.tmpfs] == ["/x"] and made.rlimits[0].name == "RLIMIT_CORE"
        status = (await cri("ContainerStatus", container_id=container.id)).status
        assert status.log_path.startswith(f"{world.config.state_dir}/run-logs/") and Path(status.log_path).exists()
        with pytest.raises(AlreadyExists, match="web"):
            await detached.hand_over(world.config, request(world, "--name", "web", world.image), when="missing")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        pod = await detached.hand_over(world.config, request(world, world.image, "sleep", "1000"), when="missing")
        assert not Path(status.log_path).exists()  # the next one sweeps
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == []


async def test_what_fails_is_taken_back(world: World) -> None:
    async with world.daemon() as cri:
        with pytest.raises(PodError, match="nobody"):
            await detached.hand_over(
                world.config, request(world, "-u", "nobody", world.image, "sleep", "1000"), when="missing"
            )
        for word, kind, code in (("no-such-command", NoCommand, 127), ("/etc/passwd", NotExecutable, 126)):
            with pytest.raises(kind, match=word) as refused:
                await detached.hand_over(world.config, request(world, world.image, word), when="missing")
            assert refused.value.exit_code == code
        with pytest.raises(NotFound, match="not stored"):
            await detached.hand_over(world.config, request(world, "no.such/image", "serve"), when="never")
        assert list((await cri("ListPodSandbox")).items) == []
    assert world.left_over() == []


async def test_without_a_daemon_one_sentence_names_the_socket(world: World) -> None:
    with pytest.raises(Unavailable, match=world.config.socket_path):
        await detached.hand_over(world.config, request(world, world.image), when="missing")


@pytest.mark.parametrize("options", ["--network none", "--timeline", "--hypervisor qemu", "--journal /x"])
def test_what_only_the_foreground_has_is_refused(world: World, options: str) -> None:
    with pytest.raises(BadRequest, match=options.split()[0]):
        request(world, *options.split(), "image")
