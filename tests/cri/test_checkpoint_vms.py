# SPDX-License-Identifier: Apache-2.0
"""CheckpointPod of a real pod, which keeps running: the result is complete or absent, whatever process is killed;
RestorePod makes other pods of it.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from cri.policy import SUSPEND
from cri.snapshots import manifest
from stage1 import engine
from stage1.rootfs import checkpoint as place
from stage1.vm import medium
from tests.fakes.outer_net import OuterNet

from .conftest import Client, VmWorld
from .counter_rig import Kubelet, counted, counter_of, counting_world, run_counter, sandbox_of
from .test_pool_vms import output_of

pytestmark = [pytest.mark.vm, pytest.mark.own_kernel, pytest.mark.timeout(600)]


@pytest.fixture
def node(tmp_path: Path, guest_dir: Path) -> Iterator[tuple[VmWorld, OuterNet]]:
    with counting_world(tmp_path, guest_dir) as made:
        yield made


async def test_it_goes_on_and_nothing_half_made_is_left(node: tuple[VmWorld, OuterNet], tmp_path: Path) -> None:
    world, _ = node
    output = tmp_path / "checkpoint"
    output.mkdir(0o700)
    kubelet = Kubelet(world.root / "kubelet", "uid-web")
    async with world.daemon() as cri:
        pod, container = await run_counter(cri, kubelet, "web-0", annotations={SUSPEND: "manual"})
        assert await counted(cri, pod) == 1
        await output_of(cri, container, "dd if=/dev/urandom of=/large bs=64k count=40; sync")
        asked = {"pod_sandbox_id": pod, "output_path": str(output), "container_ids": [container]}
        await _is_given_up(cri, asked, output=output)
        assert await counted(cri, pod) == 2
        making = asyncio.ensure_future(cri("CheckpointPod", deadline_s=300, **asked))
        while not (output / place.GUEST).exists():
            assert not making.done(), making
            await asyncio.sleep(0.001)
        assert "web-0" in await output_of(cri, container, "hostname")  # it waited
        await making
        assert await counted(cri, pod) == 3
        _is_whole(output, pod, container)
        code, text = await cri.refused("CheckpointPod", **asked)
        assert code == "ALREADY_EXISTS" and str(output) in text and _is_whole(output, pod, container)
    other = tmp_path / "other"
    other.mkdir(0o700)
    await _is_killed(world, engine.pod_directory(world.host, pod), other=other)
    async with world.daemon() as cri:
        assert await counted(cri, pod) == 4
        assert not list(other.iterdir())
        await cri("StopContainer", container_id=container, timeout=30)
        assert kubelet.log.read_bytes() == b"stopped at 4"
        code, text = await cri.refused("CheckpointPod", **asked | {"output_path": str(other)})
        assert code == "FAILED_PRECONDITION" and "exited" in text
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []


async def _is_given_up(cri: Client, asked: dict[str, object], *, output: Path) -> None:
    """The client goes away while the files are written."""
    making = asyncio.ensure_future(cri("CheckpointPod", deadline_s=300, **asked))
    while not (output / place.GUEST).exists():
        assert not making.done(), making
        await asyncio.sleep(0.001)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    while list(output.iterdir()):
        await asyncio.sleep(0.01)


def _is_whole(output: Path, pod: str, container: str) -> bool:
    machine, saved = manifest.read(str(output))
    assert sorted(os.listdir(output)) == sorted((place.MANIFEST, place.GUEST, place.DISK))
    assert {oct(os.stat(output / name).st_mode & 0o7777) for name in os.listdir(output)} == {"0o600"}
    assert (saved.id, [one.guest_id for one in saved.containers]) == (pod, [container])
    assert machine.files == {name: place.examined(str(output / name)) for name in (place.GUEST, place.DISK)}
    assert machine.pieces and 4 << 20 < machine.files[place.GUEST][0] < 128 << 20
    return True


async def _is_killed(world: VmWorld, directory: str, *, other: Path) -> None:
    """As a daemon leaves a pod that is killed while it saves."""
    place.begin(directory, str(other))
    for name in (place.DISK, f"{place.MANIFEST}.abc~"):
        place.make(str(other / name))
    with medium.connected(directory) as monitor:
        monitor.run("stop")
        medium.take_out(monitor)


async def _restored(cri: Client, output: Path, kubelet: Kubelet, name: str) -> tuple[str, str]:
    """A pod of that name; the ids of it and its container, which was not started."""
    made = await cri("RestorePod", deadline_s=300, **_request(cri, output, kubelet, name))
    assert [one.name for one in made.restored_containers] == ["web"]
    return made.pod_sandbox_id, made.restored_containers[0].container_id


def _request(cri: Client, output: Path, kubelet: Kubelet, name: str, **fields: Any) -> dict[str, Any]:
    return {
        "checkpoint_path": str(output),
        "config": sandbox_of(cri, kubelet, name, annotations={SUSPEND: "manual"}),
        "container_configs": [counter_of(cri, kubelet, **fields)],
    }


async def test_other_pods_go_on_where_it_was(node: tuple[VmWorld, OuterNet], tmp_path: Path) -> None:
    world, _ = node
    output = tmp_path / "checkpoint"
    output.mkdir(0o700)
    kubelets = {name: Kubelet(world.root / "kubelet", f"uid-{name}") for name in ("web-0", "web-1", "web-2")}
    kubelets["web-1"].hosts.write_text("10.0.0.8 of-another\n")
    async with world.daemon() as cri:
        source, running = await run_counter(cri, kubelets["web-0"], "web-0", annotations={SUSPEND: "manual"})
        assert [await counted(cri, source) for _ in range(2)] == [1, 2]
        await output_of(cri, running, "echo before >/file; sync")
        await cri(
            "CheckpointPod", deadline_s=300,
            pod_sandbox_id=source, output_path=str(output), container_ids=[running],
        )  # fmt: skip
        kept = {path: (path.stat().st_mtime_ns, place.examined(str(path))) for path in output.iterdir()}
        assert await counted(cri, source) == 3
        await output_of(cri, running, "echo after >/file")
        one, web = await _restored(cri, output, kubelets["web-1"], "web-1")
        assert (await cri.status(web)).state == pb.CONTAINER_CREATED
    async with world.daemon() as cri:  # which knows that it was not started
        assert (await cri.status(web)).state == pb.CONTAINER_CREATED
        code, _ = await cri.refused("ExecSync", container_id=web, cmd=["true"], timeout=10)
        assert code == "FAILED_PRECONDITION"
        await cri("StartContainer", container_id=web)
        assert [await counted(cri, one) for _ in range(2)] == [3, 4]
        seen = await output_of(cri, web, "hostname; cat /file /map/key /etc/hosts /etc/hostname")
        assert "of-another" in seen and seen.count("web-1") == 2 and "before" in seen and "after" not in seen
        two, other = await _restored(cri, output, kubelets["web-2"], "web-2")
        await cri("StartContainer", container_id=other)
        assert [await counted(cri, pod) for pod in (two, source, one)] == [3, 4, 5]
        ips = {(await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.network.ip for pod in (source, one, two)}
        assert len(ips) == 3
        await cri("StopContainer", container_id=web, timeout=30)
        assert kubelets["web-1"].log.read_bytes() == b"stopped at 5" and kubelets["web-0"].log.read_bytes() == b""
        await _is_refused(cri, output, kubelets["web-2"])
        for pod in (source, one, two):
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []
    assert kept == {path: (path.stat().st_mtime_ns, place.examined(str(path))) for path in output.iterdir()}


async def _is_refused(cri: Client, output: Path, kubelet: Kubelet) -> None:
    """And leaves no pod."""
    pods = len((await cri("ListPodSandbox")).items)
    asked = _request(cri, output, kubelet, "web-3")
    small = sandbox_of(cri, kubelet, "web-3", annotations={SUSPEND: "manual", "clearpod.io/memory-mib": "256"})
    guest = output / place.GUEST
    status, data = guest.stat(), guest.read_bytes()
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"config": sandbox_of(cri, kubelet, "web-3")}, "FAILED_PRECONDITION", SUSPEND),
        ({"config": small}, "FAILED_PRECONDITION", "256 MiB"),
        ({"container_configs": [counter_of(cri, kubelet, args=["81"])]}, "FAILED_PRECONDITION", "args"),
        ({"container_configs": [counter_of(cri, kubelet, mounts=[])]}, "FAILED_PRECONDITION", "mounts"),
        ({"container_configs": []}, "INVALID_ARGUMENT", "web"),
        ({"options": {"x": "y"}}, "INVALID_ARGUMENT", "'x'"),
        ({"runtime_handler": "nobody"}, "NOT_FOUND", "nobody"),
        ({"checkpoint_path": f"{output}/none"}, "NOT_FOUND", "none"),
        ({"checkpoint_path": str(kubelet.map)}, "NOT_FOUND", "manifest.json"),
    ]
    for fields, code, word in cases:
        got, text = await cri.refused("RestorePod", deadline_s=300, **asked | fields)
        assert (got, word in text) == (code, True), (fields, got, text)
    guest.write_bytes(data[:-9] + b"x" + data[-8:])
    got, text = await cri.refused("RestorePod", deadline_s=300, **asked)
    assert got == "INVALID_ARGUMENT" and str(guest) in text
    guest.write_bytes(data)
    os.utime(guest, ns=(status.st_atime_ns, status.st_mtime_ns))
    await _is_refused_though_its_digests_are_right(cri, output, asked)
    assert len((await cri("ListPodSandbox")).items) == pods


def _lie(output: Path, lying: Path, name: str, data: bytes) -> None:
    """Make a checkpoint as in `output` with one file replaced, whose digest the manifest has."""
    lying.mkdir(0o700)
    for one in (place.GUEST, place.DISK):
        os.link(output / one, lying / one)
    (lying / name).unlink()
    (lying / name).write_bytes(data)
    saved = manifest.read(str(output))
    files = {**saved.machine.files, name: place.examined(str(lying / name))}
    (lying / place.MANIFEST).write_bytes(manifest.dump(saved._replace(machine=saved.machine._replace(files=files))))


async def _is_refused_though_its_digests_are_right(cri: Client, output: Path, asked: dict[str, Any]) -> None:
    """Restore one that was rewritten with matching digests: it is refused with QEMU's error."""
    guest = (output / place.GUEST).read_bytes()
    key = manifest.read(str(output)).pod.link_key
    cases = (
        (place.GUEST, b"", "INVALID_ARGUMENT", "link_key"),
        (place.GUEST, guest.replace(key, bytes(reversed(key))), "INVALID_ARGUMENT", "link_key"),
        (place.GUEST, key, "UNKNOWN", "can't be loaded"),
        (place.GUEST, bytes(1 << 16) + key, "UNKNOWN", "can't be loaded"),
        (place.GUEST, guest[: len(guest) // 2] + key, "UNKNOWN", "can't be loaded"),
        (place.DISK, b"x" * 4096, "FAILED_PRECONDITION", "4096 bytes"),
    )
    for number, (name, data, code, word) in enumerate(cases):
        lying = output.parent / f"lying-{number}"
        _lie(output, lying, name, data)
        got, text = await cri.refused("RestorePod", deadline_s=300, **asked | {"checkpoint_path": str(lying)})
        assert (got, word in text) == (code, True) and len(text.splitlines()) == 1, (name, len(data), got, text)
        assert "Broken pipe" not in text and str(lying) in text
