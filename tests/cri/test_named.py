# SPDX-License-Identifier: Apache-2.0
"""Named snapshots: which can be made and used by whom, and what is refused. That it is done: test_named_vms.py."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE, SNAPSHOT, Policy, Rule
from cri.snapshots import manifest
from cri.snapshots.manifest import Saved, SavedPod
from cri.snapshots.named import DIRECTORY
from cri.store.pods import SavedContainer
from stage1.rootfs import checkpoint as place
from stage1.snapshot.format import Manifest
from stage1.snapshot.save import FORKS

from .command_rig import Ended, command
from .conftest import Client, World

ID = "a" * 64


async def ours(cri: Client, name: str, **fields: Any) -> Any:
    """An RPC of clearpod's own about templates."""
    request = pb.StatusRequest() if name == "ListSnapshots" else pb.CheckpointPodRequest(**fields)
    call: Any = cri._channel.unary_unary(f"/clearpod.v1.Pods/{name}")
    reply = await call(request.SerializeToString(), timeout=180)
    return dict(pb.StatusResponse.FromString(reply).info) if name != "RemoveSnapshot" else None


async def refused(cri: Client, name: str, **fields: Any) -> tuple[str, str]:
    """Code and sentence."""
    with pytest.raises(grpc.RpcError) as raised:
        await ours(cri, name, **fields)
    return raised.value.code().name, str(raised.value.details())


async def listed(cri: Client) -> list[dict[str, Any]]:
    """All snapshots."""
    result: list[dict[str, Any]] = json.loads((await ours(cri, "ListSnapshots"))["snapshots"])
    return result


def top(world: World) -> Path:
    return Path(world.config.state_dir, DIRECTORY)


@pytest.fixture(autouse=True)
def _own_templates(world: World) -> Any:
    """The state directory is that of all tests of this file, one after the other."""
    shutil.rmtree(top(world), ignore_errors=True)
    yield
    shutil.rmtree(top(world), ignore_errors=True)


def saved(world: World, image: str, *, namespace: str = "default", memory_mib: int = 128) -> Path:
    """A snapshot `warm` as one is on the disk, of a machine that this host can't make."""
    path = top(world) / "default" / "warm"
    path.mkdir(0o700, parents=True)
    guest = path / place.GUEST
    guest.write_bytes(b"guest")
    config = pb.PodSandboxConfig(annotations={FORKABLE: "true"}).SerializeToString()
    containers = (SavedContainer(ID, "c", 0, image, image, ""),)
    pod = SavedPod(ID, "web", namespace, "uid", "", config, 1, b"k" * 16, 64, containers)
    made_of, files = {"kernel": "/vmlinux 1 2 3", "scratch": "0"}, {place.GUEST: place.examined(str(guest))}
    data = manifest.dump(Saved(Manifest(made_of, files, memory_mib=memory_mib), pod))
    (path / place.MANIFEST).write_bytes(data)
    return path


async def of_template(cri: Client, name: str = "warm", **more: str) -> tuple[str, str]:
    """Code and sentence of the refusal of a pod that asks for it."""
    return await cri.refused("RunPodSandbox", config=cri.sandbox("copy", annotations={SNAPSHOT: name, **more}))


async def test_only_a_pod_that_consents_can_be_made_one(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod("plain")
        code, text = await refused(cri, "CreateSnapshot", pod_sandbox_id=pod, options={"name": "warm"})
        assert code == "FAILED_PRECONDITION" and FORKABLE in text
        assert (await refused(cri, "CreateSnapshot", pod_sandbox_id="unknown"))[0] == "NOT_FOUND"
        assert not (top(world) / "default").exists()


@pytest.mark.parametrize("name", ["", "X", "a/b", ".."])
async def test_odd_names_are_refused(world: World, name: str) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        code, text = await refused(cri, "CreateSnapshot", pod_sandbox_id=pod, options={"name": name})
        assert code == "INVALID_ARGUMENT" and repr(name) in text
        if name:
            code, text = await of_template(cri, name)
            assert code == "INVALID_ARGUMENT" and repr(name) in text and SNAPSHOT in text
        assert (await refused(cri, "ShowSnapshot", options={"namespace": "..", "name": name}))[0] == "NOT_FOUND"
        assert (await refused(cri, "RemoveSnapshot", options={"namespace": "default", "name": name}))[0] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("name", "options"),
    [("CreateSnapshot", {"name": "warm", "x": "y"}), ("ShowSnapshot", {"name": "warm"}), ("RemoveSnapshot", {})],
)
async def test_odd_options_are_refused(world: World, name: str, options: dict[str, str]) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        asked = {"pod_sandbox_id": pod} if name == "CreateSnapshot" else {}
        assert (await refused(cri, name, options=options, **asked))[0] == "INVALID_ARGUMENT"


async def test_a_failure_leaves_nothing_and_the_pod_goes_on(world: World) -> None:
    """Its VM has no monitor, so nothing can be saved."""
    async with world.daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        code, text = await refused(cri, "CreateSnapshot", pod_sandbox_id=pod, options={"name": "warm"})
        assert code == "FAILED_PRECONDITION" and "no container runs" in text
        plain = cri.node.pods.get(await cri.pod("other"))  # a fake guest that can be saved has no disk for images
        container = await cri.container(plain.id, "sleep", "1000")
        await cri("StartContainer", container_id=container)
        live = cri.node.pods.get(pod)
        live.containers.update(plain.containers)
        _, text = await refused(cri, "CreateSnapshot", pod_sandbox_id=pod, options={"name": "warm"})
        assert "qmp" in text
        assert os.listdir(top(world)) == [".new"] and os.listdir(top(world) / ".new") == []
        assert await listed(cri) == [] and live.is_ready


async def test_a_policy_can_refuse_both(world: World) -> None:
    annotations = tuple(one for one in world.config.policy.annotations if one != SNAPSHOT)
    async with world.daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        saved(world, ID)
        for policy, word in (
            (Policy(annotations=annotations), "policy.annotations"),
            (Policy(templates=False), "policy.templates"),
            (Policy(rules=(Rule(namespaces=("d*",), templates=False),)), "rule 1"),
        ):
            cri.node.config = cri.node.config.but(policy=policy)
            code, text = await refused(cri, "CreateSnapshot", pod_sandbox_id=pod, options={"name": "other"})
            assert code == "FAILED_PRECONDITION" and word in text
            code, text = await of_template(cri)
            assert code == "INVALID_ARGUMENT" and word in text
        assert len((await cri("ListPodSandbox")).items) == 1


async def test_one_that_can_not_be_used_is_a_sentence(world: World) -> None:
    async with world.daemon() as cri:
        image = (await cri("ListImages")).images[0].id
        code, text = await of_template(cri)
        assert code == "NOT_FOUND" and "'warm'" in text and "'default'" in text
        code, text = await of_template(cri, **{FORK_OF: "web"})
        assert code == "INVALID_ARGUMENT" and FORK_OF in text and SNAPSHOT in text
        path = saved(world, image)
        code, text = await of_template(cri)
        assert code == "FAILED_PRECONDITION" and "default/warm" in text and "another" in text
        elsewhere = cri.sandbox("copy", annotations={SNAPSHOT: "warm"})
        elsewhere.metadata.namespace = "elsewhere"
        code, text = await cri.refused("RunPodSandbox", config=elsewhere)
        assert code == "NOT_FOUND" and "'elsewhere'" in text
        for change, word in CHANGES:
            change(path)
            code, text = await of_template(cri)
            assert code == "FAILED_PRECONDITION" and "default/warm" in text and word in text, text
            (one,) = await listed(cri)
            shown = json.loads(
                (await ours(cri, "ShowSnapshot", options={"namespace": "default", "name": "warm"}))["snapshot"]
            )
            assert word in shown["blocker"] and one["blocker"] and ".lent" not in text
            shutil.rmtree(path)
            saved(world, image)
        assert os.listdir(top(world) / ".lent") == [] and (await cri("ListPodSandbox")).items == []
        info = json.loads((await cri("Status", verbose=True)).info["snapshots"])
        assert info["used"] == info["made"] == 0 and info["failed"] == len(CHANGES) + 3


def _damage(path: Path) -> None:
    (path / place.GUEST).write_bytes(b"gUest")


def _shorten(path: Path) -> None:
    os.truncate(path / place.GUEST, 2)


def _remove(path: Path) -> None:
    (path / place.GUEST).unlink()


def _add(path: Path) -> None:
    (path / place.DISK).write_bytes(b"x")


def _circle(path: Path) -> None:
    path.symlink_to(path)


def _link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _instead(make: Callable[[Path], object], *names: str) -> Callable[[Path], None]:
    """In place of a file of the template there is something else."""

    def change(path: Path) -> None:
        for name in names:
            (path / name).unlink()
            make(path / name)

    return change


def _replaced(old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        file = path / place.MANIFEST
        data = file.read_bytes()
        assert old in data
        file.write_bytes(data.replace(old, new))

    return change


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (_damage, "damaged"),
    (_shorten, "damaged"),
    (_remove, "guest"),
    (_add, "not part"),
    (_replaced(b'"v": 1', b'"v": 9'), "version"),
    (_replaced(b'{"v"', b'["v"'), "can't be parsed"),
    (_replaced(b'"namespace": "default"', b'"namespace": "kube-sys"'), "consented"),
    (lambda path: path.chmod(0o777), "0700"),
    (lambda path: os.chown(path, 1, 1), "0700"),
    (_instead(lambda path: None, place.MANIFEST), "no manifest.json"),
    *(
        (_instead(make, name), f"warm/{name} is {word}")
        for name in (place.GUEST, place.MANIFEST)
        for make, word in ((Path.mkdir, "a directory"), (os.mkfifo, "a FIFO"), (_link, "a symbolic link"))
    ),
]


@pytest.mark.parametrize(
    ("make", "word"), [(Path.touch, "a regular file"), (os.mkfifo, "a FIFO"), (_circle, "a symbolic link")]
)
@pytest.mark.parametrize("odd", ["", "default", ".lent"])
async def test_something_else_in_place_of_a_directory_is_a_sentence(
    world: World, make: Callable[[Path], object], word: str, odd: str
) -> None:
    async with world.daemon() as cri:
        saved(world, (await cri("ListImages")).images[0].id)
        path = top(world) / odd if odd else top(world)
        shutil.rmtree(path, ignore_errors=True)
        make(path)
        code, text = await of_template(cri)
        assert code == "FAILED_PRECONDITION" and f"{path} is {word}, but must be a directory" in text
        assert (await cri("ListPodSandbox")).items == []
        path.unlink()


@pytest.mark.parametrize(("make", "word"), [(Path.touch, "a regular file"), (_circle, "a symbolic link")])
async def test_something_else_in_place_of_the_directory_of_copies_is_a_sentence(
    world: World, make: Callable[[Path], object], word: str
) -> None:
    path = Path(world.config.state_dir, FORKS)
    make(path)
    async with world.daemon() as cri:
        await cri.pod("web", annotations={FORKABLE: "true"})
        code, text = await cri.refused("RunPodSandbox", config=cri.sandbox("copy", annotations={FORK_OF: "web"}))
        assert code == "FAILED_PRECONDITION" and f"{path} is {word}, but must be a directory" in text
        assert len((await cri("ListPodSandbox")).items) == 1


async def test_a_different_machine_is_reported(world: World) -> None:
    async with world.daemon() as cri:
        image = (await cri("ListImages")).images[0].id
        plain = await cri.pod("plain")
        memory_mib = cri.node.pods.get(plain).record.pod.memory_mib
        saved(world, image, memory_mib=memory_mib)
        code, text = await of_template(cri)
        assert code == "FAILED_PRECONDITION" and "another" in text and "default/warm" in text
        assert len((await cri("ListPodSandbox")).items) == 1
        assert (await cri("ListImages")).images[0].pinned is False
    async with world.daemon() as cri:
        assert (await cri("ListImages")).images[0].pinned
        assert (await cri("ImageStatus", image=pb.ImageSpec(image=image))).image.pinned
        await ours(cri, "RemoveSnapshot", options={"namespace": "default", "name": "warm"})
        assert not (await cri("ListImages")).images[0].pinned and await listed(cri) == []


async def test_a_budget_and_a_taken_name_are_reported_before_anything_is_saved(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod("web", annotations={FORKABLE: "true"})
        saved(world, ID)
        code, text = await refused(cri, "CreateSnapshot", pod_sandbox_id=pod, options={"name": "warm"})
        assert code == "ALREADY_EXISTS" and "'warm'" in text
        cri.node.snapshots.most_bytes = 1
        code, text = await refused(cri, "CreateSnapshot", pod_sandbox_id=pod, options={"name": "other"})
        assert code == "RESOURCE_EXHAUSTED" and "snapshots.disk_mib" in text
        assert [one["name"] for one in await listed(cri)] == ["warm"]


async def test_a_daemon_removes_what_a_killed_one_has_begun(world: World) -> None:
    for name in (".new/1", ".lent/2", "default/whole"):
        (top(world) / name).mkdir(0o700, parents=True)
        (top(world) / name / place.GUEST).write_bytes(b"x")
    async with world.daemon() as cri:
        assert not list(top(world).glob(".new/*")) and not list(top(world).glob(".lent/*"))
        (one,) = await listed(cri)
        assert one["name"] == "whole" and "manifest.json" in one["blocker"]


async def test_the_command(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    run = command(world, capfd)

    async def snapshot(action: str, *argv: str) -> Ended:
        return await run(f"snapshot {action}", *argv)

    async with world.daemon() as cri:
        assert (await snapshot("list")).out.split() == ["NAME", "POD", "AGE", "SIZE", "MEMORY", "USABLE"]
        pod = await cri.pod("plain")
        ended = await snapshot("create", "default/plain", "warm")
        assert ended.code != 0 and FORKABLE in ended.err and pod
        saved(world, ID)
        (one,) = json.loads((await snapshot("list", "--json")).out)
        assert (one["namespace"], one["name"], one["pod"]["name"]) == ("default", "warm", "web")
        assert "default/warm" in (await snapshot("list")).out
        assert json.loads((await snapshot("show", "warm")).out)["blocker"]
        assert (await snapshot("rm", "other")).code != 0
        assert (await snapshot("rm", "default/warm")).out == "default/warm\n"
        assert await listed(cri) == []
