# SPDX-License-Identifier: Apache-2.0
"""Requests with much in them, or with names that lead elsewhere: each is granted, or refused by one sentence with
INVALID_ARGUMENT, and nothing of it is there then.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cri.containers import leaving
from cri.pb import runtime_pb2 as pb

from .conftest import Client, World

KIB = 1 << 10
Resources = pb.LinuxContainerResources


def _linux(**fields: Any) -> dict[str, Any]:
    return {"linux": pb.LinuxPodSandboxConfig(**fields)}


def _security(**fields: Any) -> dict[str, Any]:
    return {"linux": pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(**fields))}


def _resources(**fields: Any) -> dict[str, Any]:
    return {"linux": pb.LinuxContainerConfig(resources=Resources(**fields))}


def _named(name: str) -> dict[str, Any]:
    return {"metadata": pb.PodSandboxMetadata(name=name, namespace=name, uid=name)}


def _mounts(count: int) -> dict[str, Any]:
    return {"mounts": [pb.Mount(container_path=f"/m/{n}", host_path="/var/empty-of-nothing") for n in range(count)]}


def _variables(count: int, size: int) -> dict[str, Any]:
    return {"envs": [pb.KeyValue(key=f"A{n}", value=b"x" * size) for n in range(count)]}


PODS: list[tuple[str, dict[str, Any]]] = [
    ("", {"annotations": {"a": "x" * (256 * KIB)}}),
    ("", {"annotations": {f"k{n}": "x" * 60 for n in range(4000)}}),
    ("524288", {"annotations": {"a": "x" * (600 * KIB)}}),
    ("16384", {"annotations": {f"k{n}": "" for n in range(20_000)}}),
    ("clearpod.io/networks", {"annotations": {"clearpod.io/networks": "x" * (256 * KIB)}}),
    ("clearpod.io/memory-mib", {"annotations": {"clearpod.io/memory-mib": "9" * 100_000}}),
    ("clearpod.io/hosts", {"annotations": {"clearpod.io/hosts": "1.1.1.1 a," * 20_000}}),
    ("", {"labels": {"a": "x" * (256 * KIB)}}),
    ("hostname", {"hostname": "h" * 300}),
    ("hostname", {"hostname": "a\nb"}),
    ("hostname", {"hostname": "a/../b"}),
    ("", _named("a/../b")),
    ("", _named("..")),
    ("", _named("n" * 4000)),
    ("metadata.name", _named("a\nb")),
    ("metadata.name", _named("n" * 5000)),
    ("log_directory", {"log_directory": "/var/log/../../etc"}),
    ("log_directory", {"log_directory": "../etc"}),
    ("log_directory", {"log_directory": "/" + "a" * 300}),
    ("servers", {"dns_config": pb.DNSConfig(servers=["1.1.1.1\nnameserver 2.2.2.2"])}),
    ("options", {"dns_config": pb.DNSConfig(options=["y" * 4000] * 64)}),
    ("net.ipv4.x", _linux(sysctls={"net.ipv4.x": "1" * 4000})),
    ("'net/../kernel/x'", _linux(sysctls={"net/../kernel/x": "1"})),
    ("'net..x'", _linux(sysctls={"net..x": "1"})),
    ("'../../etc/x'", _linux(sysctls={"../../etc/x": "1"})),
    ("sysctls", _linux(sysctls={"a": "1\n2"})),
    ("1024", _linux(sysctls={f"net.ipv4.x{n}": "1" for n in range(1024)})),
    ("memory_limit_in_bytes", _linux(resources=Resources(memory_limit_in_bytes=-5))),
    ("1025", {"port_mappings": [pb.PortMapping(container_port=n + 1) for n in range(1025)]}),
    ("host_ip", {"port_mappings": [pb.PortMapping(container_port=1, host_port=1, host_ip="x" * 4000)]}),
]

CONTAINERS: list[tuple[str, dict[str, Any]]] = [
    ("", _variables(10, 100_000)),
    ("131071", _variables(1, 1 << 20)),
    ("2097152", _variables(30, 100_000)),
    ("zero byte", {"envs": [pb.KeyValue(key="A", value=b"x\0y")]}),
    ("'A=B'", {"envs": [pb.KeyValue(key="A=B", value=b"x")]}),
    ("", {"args": ["x" * 1000] * 1000}),
    ("zero byte", {"args": ["a\0b"]}),
    ("10000", _mounts(10_000)),
    ("'tmp'", {"mounts": [pb.Mount(container_path="/a", host_path="tmp")]}),
    ("container_path", {"mounts": [pb.Mount(container_path="/a\nb", host_path="/tmp")]}),
    ("", {"labels": {f"k{n}": "x" * 60 for n in range(4000)}}),
    ("metadata.name", {"metadata": pb.ContainerMetadata(name="a\nb")}),
    ("", {"metadata": pb.ContainerMetadata(name="a/../b")}),
    ("log_path", {"log_path": "../../x"}),
    ("log_path", {"log_path": "a/../../x"}),
    ("log_path", {"log_path": "/etc/x"}),
    ("log_path", {"log_path": "."}),
    ("log_path", {"log_path": "a\nb"}),
    ("log_path", {"log_path": "a" * 300}),
    ("permissions", {"devices": [pb.Device(host_path="/dev/../x", container_path="/x", permissions="z" * 4000)]}),
    ("1025", {"devices": [pb.Device(host_path="/dev/null", container_path="/x", permissions="r")] * 1025}),
    ("cpuset_cpus", _resources(cpuset_cpus="0-99999999")),
    ("memory_limit_in_bytes", _resources(memory_limit_in_bytes=1)),
    ("'../../x'", _resources(unified={"../../x": "1"})),
    ("CAP_X", _security(capabilities=pb.Capability(add_capabilities=["X" * 4000] * 1000))),
    ("user", _security(run_as_username="x" * 4000)),
    ("run_as_username", _security(run_as_username="a\nb:0")),
    ("masked_paths", _security(masked_paths=["/a", "../b"])),
]


def _with(message: Any, fields: dict[str, Any]) -> Any:
    """The message with these fields in place of its own."""
    for name, value in fields.items():
        message.ClearField(name)
        if isinstance(value, dict):
            getattr(message, name).update(value)
        elif isinstance(value, list):
            getattr(message, name).extend(value)
        elif isinstance(value, str):
            setattr(message, name, value)
        else:
            getattr(message, name).CopyFrom(value)
    return message


async def _is_as_it_should_be(cri: Client, word: str, name: str, **fields: Any) -> str:
    """The id of what was made, if something should be."""
    if not word:
        made = await cri(name, **fields)
        return str(made.pod_sandbox_id if name == "RunPodSandbox" else made.container_id)
    code, sentence = await cri.refused(name, **fields)
    assert code == "INVALID_ARGUMENT" and word in sentence, (word, code, sentence)
    assert sentence.isprintable() and len(sentence) < 2100, sentence
    return ""


def _files(*places: Path) -> Callable[[], list[str]]:
    return lambda: sorted(str(path) for place in places for path in place.rglob("*"))


@pytest.mark.parametrize("part", range(3))
async def test_pods_are_made_or_refused(world: World, part: int) -> None:
    async with world.daemon() as cri:
        for word, fields in PODS[part::3]:
            pod = await _is_as_it_should_be(cri, word, "RunPodSandbox", config=_with(cri.sandbox("odd"), fields))
            if pod:
                shown = await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)
                assert dict(shown.status.annotations) == fields.get("annotations", {})
                await cri("RemovePodSandbox", pod_sandbox_id=pod)
            assert not (await cri("ListPodSandbox")).items and world.left_over() == []


@pytest.mark.parametrize("part", range(3))
async def test_containers_are_made_or_refused(world: World, part: int, tmp_path: Path) -> None:
    logs = tmp_path / "logs" / "pod"
    logs.mkdir(parents=True)
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=str(logs))
        files = _files(tmp_path / "logs", Path(world.host.run_dir) / "pods" / pod / "tree/volumes")
        before = files()
        for word, fields in CONTAINERS[part::3]:
            config = _with(cri.config("true", name="odd", log_path="odd.log"), fields)
            made = await _is_as_it_should_be(cri, word, "CreateContainer", pod_sandbox_id=pod, config=config)
            if made:
                await cri("ContainerStatus", container_id=made, verbose=True)
                await cri("RemoveContainer", container_id=made)
                await leaving.end(cri.node.pods.get(pod))
                (logs / "odd.log").unlink(missing_ok=True)
            assert not (await cri("ListContainers")).containers
            assert files() == before, fields
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert world.left_over() == []
