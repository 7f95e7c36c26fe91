# SPDX-License-Identifier: Apache-2.0
"""The environment of a Linux out of an image, as a kubelet gives one, in real VMs: on its command line, or by its
initrd where it does not fit.
"""

import json
import shutil
from pathlib import Path

import pytest

from cri import policy
from cri.pb import runtime_pb2 as pb
from stage1 import own
from tests.fakes import kernels
from tests.fakes.oci_layout import file
from tests.fakes.registry import Registry

from .conftest import World
from .test_own_kernels import Images, _log, _started, images, machine

__all__ = ["images", "machine"]
pytestmark = pytest.mark.vm

INIT = b"""#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo; /bin/busybox xargs -0 -n1 echo was < /proc/1/environ
for one in "$@"; do echo "argument <$one>"; done
echo "left: $(/bin/busybox ls -d /.clearpod* 2>&1)"
/bin/busybox poweroff -f
"""
"""What it was started with."""
MANY = {f"NUMBER_{number}": f"the value of {number}" for number in range(60)}
ODD = {"SAYS": "say \"it\" \\ 'now'", "JSON": '{"a": "b c", "d": 1}', "spring.name": "x", "quiet": "1", "EMPTY": ""}
SERVICES = {
    key: text
    for number in range(20)
    for key, text in {
        f"S{number}_SERVICE_HOST": "10.96.0.9", f"S{number}_SERVICE_PORT": "80", f"S{number}_PORT": "tcp://10.96.0.9:80",
        f"S{number}_PORT_80_TCP": "tcp://10.96.0.9:80", f"S{number}_PORT_80_TCP_PROTO": "tcp",
        f"S{number}_PORT_80_TCP_PORT": "80", f"S{number}_PORT_80_TCP_ADDR": "10.96.0.9",
    }.items()
}  # fmt: skip
"""The variables of twenty services."""


def _given(environment: dict[str, str]) -> list[pb.KeyValue]:
    return [pb.KeyValue(key=key, value=text.encode()) for key, text in environment.items()]


@pytest.mark.parametrize(
    ("environment", "by", "kind"),
    [({"A": "1", "B": "two words"}, "command line", "microvm-pci"), ({**MANY, **ODD}, "initrd", "q35")],
)
async def test_debians_kernel_has_the_whole_environment(
    machine: World,
    images: Images,
    guest_dir: Path,
    tmp_path: Path,
    environment: dict[str, str],
    by: str,
    kind: str,
) -> None:
    shutil.copy2(guest_dir / own.OWN_INIT, f"{machine.root}/guest")
    with Registry(tmp_path / "registry") as registry:
        labels = kernels.labelled(path="/kernel", initrd="/initrd", network="linux", machine=kind)
        files = kernels.debian_files(guest_dir, init=INIT)
        image = kernels.push(registry, tmp_path, "t/debian:1", files=files, labels=labels)
        async with machine.daemon() as cri:
            pod = await cri.pod(log_directory=f"{machine.root}/logs", annotations={policy.MEMORY: "192"})
            await cri("PullImage", image=pb.ImageSpec(image=image))
            c = await _started(cri, pod, image, "quiet", envs=_given({**environment, **SERVICES}))
            status = await cri.ended(c)
            lines = [line.rstrip("\r") for line in _log(status.log_path)]
            assert {f"was {key}={text}" for key, text in environment.items()} <= set(lines), lines
            assert "SERVICE" not in "".join(lines)
            assert status.exit_code == 0
            answer = await cri("ContainerStatus", container_id=c, verbose=True)
            told = json.loads(answer.info["info"])["kernel"]
            assert (told["environmentBy"], len(told["leftOutOfEnvironment"])) == (by, len(SERVICES))
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert machine.left_over() == []


async def test_arguments_that_linux_does_not_take_come_by_the_initrd_too(
    machine: World, images: Images, guest_dir: Path, tmp_path: Path
) -> None:
    shutil.copy2(guest_dir / own.OWN_INIT, f"{machine.root}/guest")
    arguments = ('say "it" twice', "", "two words", *(str(number) for number in range(40)))
    with Registry(tmp_path / "registry") as registry:
        labels = kernels.labelled(path="/kernel", initrd="/initrd", network="linux-init")
        (_, initrd) = kernels.plain_files(guest_dir, init=INIT.replace(b"poweroff", b"reboot"))
        files = [file("kernel", (guest_dir / "vmlinux").read_bytes()), initrd]
        image = kernels.push(registry, tmp_path, "t/plain:1", files=files, labels=labels)
        async with machine.daemon() as cri:
            pod = await cri.pod(log_directory=f"{machine.root}/logs")
            await cri("PullImage", image=pb.ImageSpec(image=image))
            for name in ("first", "again"):
                c = await _started(cri, pod, image, "/init", *arguments, name=name, envs=_given(ODD))
                status = await cri.ended(c)
                lines = [line.rstrip("\r") for line in _log(status.log_path)]
                assert [line for line in lines if "argument <" in line] == [f"argument <{one}>" for one in arguments]
                assert {f"was {key}={text}" for key, text in ODD.items()} <= set(lines), lines
                assert "left: /.clearpod*: No such file" in "".join(lines).replace("ls: ", "")
            scratch = Path(machine.host.state_dir, "scratch")
            assert [one.name for one in scratch.iterdir()] == [f"{pod}.initrd"]
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert (list(scratch.iterdir()), machine.left_over()) == ([], [])


async def test_a_disk_without_an_initrd_has_what_fits_and_the_rest_is_refused(
    machine: World, images: Images, tmp_path: Path
) -> None:
    with Registry(tmp_path / "registry") as registry:
        labels = kernels.labelled(path="/kernel", block="/disk", network="linux-init")
        files = [file("kernel", kernels.hello()), file("disk", bytes(1 << 16))]
        image = kernels.push(registry, tmp_path, "t/disk:1", files=files, labels=labels)
        async with machine.daemon() as cri:
            pod = await cri.pod()
            await cri("PullImage", image=pb.ImageSpec(image=image))
            config = cri.config(image=pb.ImageSpec(image=image), envs=_given(MANY))
            code, sentence = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
            assert (code, "60 variables" in sentence, "initrd" in sentence) == ("INVALID_ARGUMENT", True, True)
            config = cri.config(image=pb.ImageSpec(image=image), envs=_given(SERVICES))
            await cri("CreateContainer", pod_sandbox_id=pod, config=config)
