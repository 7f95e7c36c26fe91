# SPDX-License-Identifier: Apache-2.0
"""A command that a guest does not find although the image has it: the error has what the host and the VMM see."""

import os
import re
from pathlib import Path

import pytest

from cri.containers import hidden
from cri.pb import runtime_pb2 as pb
from stage1.linux import mount
from stage1.pod.model import Process

from .conftest import Registered, World, vm_world

MISSING = (
    ("/none:/etc", "/etc/passwd"),
    ("relative::/etc", "/etc/passwd"),
    ("/none:/", ""),
    ("/etc/passwd:/", ""),
)


async def test_a_missing_command_that_the_image_has_is_reported_with_the_view_of_each_side(world: World) -> None:
    """The image has /etc/passwd, which the fake guest can't execute and so does not find."""
    (world.root / "volume").mkdir()
    mount = pb.Mount(host_path=f"{world.root}/volume", container_path="/etc")
    async with world.daemon() as cri:
        pod = await cri.pod()
        for number, (path, where) in enumerate(MISSING):
            container = await cri.container(pod, "passwd", name=f"c{number}", envs=[_value(path)])
            _, text = await cri.refused("StartContainer", container_id=container)
            record = cri.node.pods.get(pod).containers[container].record
            root = os.stat(f"{cri.node.pods.get(pod).directory}/share/layers/{record.image_id.removeprefix('sha256:')}")
            sight = f"has the share SHARED and device {root.st_dev} inode {root.st_ino} {where}"
            text = re.sub(r"shared:[0-9]+", "SHARED", text)
            assert ([text.count(f"the {side} {sight}") for side in ("host", "VMM")] == [1, 1]) == bool(where), text
            assert (f"PATH is {path}" in text) == bool(where)
            status = await cri.status(container)
            assert (status.reason, re.sub(r"shared:[0-9]+", "SHARED", status.message)) == ("StartError", text)
        covered = await cri.container(pod, "passwd", name="covered", envs=[_value("/etc")], mounts=[mount])
        _, text = await cri.refused("StartContainer", container_id=covered)
        assert "passwd" in text and "device" not in text, "the volume hides it"


@pytest.mark.vm
async def test_a_guest_sees_its_images_after_the_mounts_of_the_host_were_made_private(
    sample: Registered, guest_dir: Path
) -> None:
    with vm_world(sample, guest_dir, copies=True) as machine:
        async with machine.daemon() as cri:
            await cri("PullImage", image=pb.ImageSpec(image=cri.image))
            pod = await cri.pod(log_directory=f"{machine.root}/logs")
            share = f"{cri.node.pods.get(pod).directory}/share"
            mount.set_propagation(share, mount.MS_PRIVATE)  # as mmdebstrap does with all
            assert hidden.propagation("self", share) == "private"
            for name in ("first", "second"):
                container = await cri.container(pod, "sh", "-c", "echo seen", name=name)
                await cri("StartContainer", container_id=container)
                status = await cri.ended(container, limit_s=60)
                assert (status.exit_code, "seen" in Path(status.log_path).read_text()) == (0, True)
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


@pytest.mark.parametrize(
    ("argv", "env", "cwd", "where"),
    [
        (("sh",), (), "/", "/bin/sh"),
        (("sh",), ("PATH=/none", "PATH=/sub"), "/", "/sub/sh"),
        (("sh",), ("PATH=",), "/sub", "/sub/sh"),
        (("sub/sh",), ("PATH=/bin",), "/", "/sub/sh"),
        (("./sh",), (), "/sub", "/sub/./sh"),
        (("linked",), (), "/", "/bin/linked"),
        (("away",), (), "/", ""),
        (("s\0h",), (), "/", ""),
        (("",), (), "/", ""),
        ((), (), "/", ""),
        (("sh",), ("PATH=" + ":".join(["/none"] * hidden.MOST_PLACES) + ":/bin",), "/", ""),
    ],
)
def test_a_command_is_looked_for_as_execvp_does(
    tmp_path: Path, argv: tuple[str, ...], env: tuple[str, ...], cwd: str, where: str
) -> None:
    for name in ("bin", "sub"):
        os.mkdir(f"{tmp_path}/{name}")
        open(f"{tmp_path}/{name}/sh", "x").close()
    os.symlink("/sub/sh", f"{tmp_path}/bin/linked")
    os.symlink("/etc/hostname", f"{tmp_path}/bin/away")
    assert hidden.find(str(tmp_path), Process(argv, env=env, cwd=cwd)) == where


def test_a_missing_mount_or_process_is_reported() -> None:
    assert hidden.propagation("self", "/nowhere") == "not mounted"
    assert hidden.propagation("0", "/proc").startswith("unknown (No such")


def test_a_missing_image_is_reported(tmp_path: Path) -> None:
    assert hidden.seen(f"{tmp_path}/none", Process(("sh",))) == "no image: No such file or directory"


def _value(path: str) -> pb.KeyValue:
    return pb.KeyValue(key="PATH", value=path.encode())
