# SPDX-License-Identifier: Apache-2.0
"""What a container of a copy may do is what its original's may, and a request for anything else is refused: of a
running pod, a named snapshot and a checkpoint, with real VMs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE, SNAPSHOT
from cri.policy import SUSPEND as SUSPEND_KEY

from .conftest import Client, Registered, VmWorld
from .test_named import ours
from .test_network import outer_world
from .test_pool_vms import output_of

pytestmark = [pytest.mark.vm, pytest.mark.own_kernel, pytest.mark.timeout(600)]

ALL = pb.Capability(add_capabilities=["ALL"])
NONE = pb.Capability(drop_capabilities=["ALL"])
DEFAULT = pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault)
LIMIT = 64 << 20
WHO = """
for one in /proc/[0-9]*; do
    [ "$(cat $one/comm)" = sleep ] && [ "$(stat -c %u $one)" = "$(id -u)" ] || continue
    stat -c %u $one; grep -E '^(CapEff|NoNewPrivs|Seccomp):' $one/status | tr -d '\\t '
done
cat /sys/fs/cgroup/memory.max
"""
PRIVILEGED = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(privileged=True))
DEVICE = pb.Device(host_path="/dev/null", container_path="/dev/given", permissions="r")


def linux(**security: Any) -> pb.LinuxContainerConfig:
    return pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(**security))


def number(value: int) -> pb.Int64Value:
    return pb.Int64Value(value=value)


def options(**fields: Any) -> pb.NamespaceOption:
    return pb.NamespaceOption(**fields)


CONFINED: dict[str, Any] = {
    "run_as_user": number(1000),
    "capabilities": NONE,
    "readonly_rootfs": True,
    "no_new_privs": True,
    "seccomp": DEFAULT,
}
"""The example of the report: the original has everything, and the copy asks for this."""
FREE: dict[str, Any] = {"capabilities": ALL}

ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("free", "run_as_user 0, and 1000", {"linux": linux(**CONFINED)}),
    ("free", "privileged", {"linux": linux(**FREE, privileged=True)}),
    ("free", "add_capabilities CAP_ALL, and none", {"linux": linux()}),
    ("free", "drop_capabilities", {"linux": linux(capabilities=pb.Capability(
        add_capabilities=["ALL"], drop_capabilities=["KILL"]))}),
    ("free", "add_ambient_capabilities", {"linux": linux(capabilities=pb.Capability(
        add_capabilities=["ALL"], add_ambient_capabilities=["KILL"]))}),
    ("free", "run_as_user 0, and 7", {"linux": linux(**FREE, run_as_user=number(7))}),
    ("free", "run_as_group 0, and 7", {"linux": linux(**FREE, run_as_user=number(0), run_as_group=number(7))}),
    ("free", "supplemental_groups none, and 7", {"linux": linux(**FREE, supplemental_groups=[7])}),
    ("free", "readonly_rootfs False, and True", {"linux": linux(**FREE, readonly_rootfs=True)}),
    ("free", "no_new_privs False, and True", {"linux": linux(**FREE, no_new_privs=True)}),
    ("free", "seccomp none, and", {"linux": linux(**FREE, seccomp=DEFAULT)}),
    ("free", "masked_paths none, and /proc/keys", {"linux": linux(**FREE, masked_paths=["/proc/keys"])}),
    ("free", "readonly_paths none, and /proc/sys", {"linux": linux(**FREE, readonly_paths=["/proc/sys"])}),
    ("free", "selinux_options", {"linux": linux(**FREE, selinux_options=pb.SELinuxOption(type="t"))}),
    ("free", "namespace_options.pid pod, and container", {"linux": linux(
        **FREE, namespace_options=options(pid=pb.CONTAINER))}),
    ("free", "devices none, and /dev/null /dev/given", {"linux": linux(**FREE), "devices": [DEVICE]}),
    ("free", "working_dir", {"linux": linux(**FREE), "working_dir": "/tmp"}),
    ("free", "tty False, and True", {"linux": linux(**FREE), "tty": True}),
    ("free", "stdin False, and True", {"linux": linux(**FREE), "stdin": True}),
    ("free", "rlimits none, and", {"linux": linux(**FREE), "annotations": {"clearpod.io/ulimits": "nofile=5:6"}}),
    ("free", "tmpfs none, and", {"linux": linux(**FREE), "annotations": {"clearpod.io/tmpfs": "/scratch"}}),
    ("confined", "run_as_user 1000, and 0", {"linux": linux(**FREE)}),
    ("confined", "run_as_user 1000, and 0", {"linux": linux(**CONFINED | {"run_as_user": number(0)})}),
    ("confined", "drop_capabilities CAP_ALL, and none", {"linux": linux(**CONFINED | {"capabilities": None})}),
    ("confined", "readonly_rootfs True, and False", {"linux": linux(**CONFINED | {"readonly_rootfs": False})}),
    ("confined", "no_new_privs True, and False", {"linux": linux(**CONFINED | {"no_new_privs": False})}),
    ("confined", "seccomp ", {"linux": linux(**CONFINED | {"seccomp": None})}),
]  # fmt: skip


@pytest.fixture
def world(sample: Registered, guest_dir: Path) -> Iterator[VmWorld]:
    with outer_world(sample, guest_dir, copies=False) as (made, _):
        yield made


async def original(cri: Client, **fields: Any) -> dict[str, str]:
    """A pod with a container that may do all and one that may do little; their ids, with the pod's."""
    pod = await cri.pod("web", annotations={FORKABLE: "true", SUSPEND_KEY: "manual"}, **fields)
    ids = {"pod": pod}
    for name, rights in (("free", FREE), ("confined", CONFINED)):
        ids[name] = await cri.container(pod, "sleep", "1000", name=name, linux=linux(**rights))
        await cri("StartContainer", container_id=ids[name])
    return ids


async def refusals(cri: Client, copy: str) -> list[str]:
    """The rows of the table for which the copy does not say what it should."""
    wrong = []
    for name, sentence, fields in ROWS:
        config = cri.config("sleep", "1000", name=name, **fields)
        code, text = await cri.refused("CreateContainer", pod_sandbox_id=copy, config=config)
        if (
            code != "FAILED_PRECONDITION"
            or f"container {name} of the original has " not in text
            or sentence not in text
        ):
            wrong.append(f"{name}, {sentence}: {code} {text}")
    return wrong


async def test_a_copy_of_a_running_pod_has_no_rights_but_its_originals(world: VmWorld) -> None:
    async with world.daemon() as cri:
        await original(cri)
        sysctls = pb.LinuxPodSandboxConfig(sysctls={"net.ipv4.ip_forward": "1"})
        other = cri.sandbox("other", annotations={FORK_OF: "web", SUSPEND_KEY: "manual"}, linux=sysctls)
        code, text = await cri.refused("RunPodSandbox", config=other)
        assert code == "FAILED_PRECONDITION" and "sysctls none, and net.ipv4.ip_forward=1 is asked for" in text
        copy = await cri.pod("copy", annotations={FORK_OF: "web", SUSPEND_KEY: "manual"}, linux=PRIVILEGED)
        assert await refusals(cri, copy) == []
        given = linux(**CONFINED)
        given.resources.memory_limit_in_bytes = LIMIT
        made = await cri.container(copy, "sleep", "1000", name="confined", linux=given)
        await cri("StartContainer", container_id=made)
        lines = (await output_of(cri, made, WHO)).split()
        assert lines == ["1000", f"CapEff:{0:016x}", "NoNewPrivs:1", "Seccomp:2", str(LIMIT)]
        free = await cri.container(copy, "other", "program", name="free", linux=linux(**FREE))
        await cri("StartContainer", container_id=free)
        lines = (await output_of(cri, free, WHO)).split()
        assert [lines[0], *lines[2:]] == ["0", "NoNewPrivs:0", "Seccomp:0", "max"]
        for pod in (copy, (await cri("ListPodSandbox")).items[-1].id):
            await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_copy_of_a_template_and_of_a_checkpoint_has_none_either(world: VmWorld, tmp_path: Path) -> None:
    saved = tmp_path / "checkpoint"
    saved.mkdir(mode=0o700)
    async with world.daemon() as cri:
        ids = await original(cri)
        await ours(cri, "CreateSnapshot", pod_sandbox_id=ids["pod"], options={"name": "warm"})
        await cri("CheckpointPod", deadline_s=300, pod_sandbox_id=ids["pod"], output_path=str(saved),
                  container_ids=[ids["free"], ids["confined"]])  # fmt: skip
        await cri("RemovePodSandbox", pod_sandbox_id=ids["pod"])
        copy = await cri.pod("copy", annotations={SNAPSHOT: "warm", SUSPEND_KEY: "manual"}, linux=PRIVILEGED)
        assert await refusals(cri, copy) == []
        made = await cri.container(copy, "sleep", "1000", name="confined", linux=linux(**CONFINED))
        await cri("StartContainer", container_id=made)
        assert (await output_of(cri, made, "id -u")).strip() == "1000"
        await cri("RemovePodSandbox", pod_sandbox_id=copy)

        def restored(**rights: dict[str, Any]) -> dict[str, Any]:
            names = {"free": FREE, "confined": CONFINED} | rights
            configs = [cri.config("sleep", "1000", name=name, linux=linux(**one)) for name, one in names.items()]
            config = cri.sandbox("back", annotations={SUSPEND_KEY: "manual", FORKABLE: "true"})
            return {"checkpoint_path": str(saved), "config": config, "container_configs": configs}

        for name, rights, sentence in (
            ("free", CONFINED, "run_as_user 0, and 1000"),
            ("free", FREE | {"seccomp": DEFAULT}, "seccomp none, and"),
            ("confined", CONFINED | {"no_new_privs": False}, "no_new_privs True, and False"),
        ):
            code, text = await cri.refused("RestorePod", deadline_s=300, **restored(**{name: rights}))
            assert code == "FAILED_PRECONDITION" and sentence in text, text
        assert not (await cri("ListPodSandbox")).items
        back = await cri("RestorePod", deadline_s=300, **restored())
        made = next(one.container_id for one in back.restored_containers if one.name == "confined")
        await cri("StartContainer", container_id=made)
        assert (await output_of(cri, made, "id -u")).strip() == "1000"
        await cri("RemovePodSandbox", pod_sandbox_id=back.pod_sandbox_id)
