# SPDX-License-Identifier: Apache-2.0
"""Volumes that a guest has itself, as a real kubelet makes, updates, counts and removes them."""

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.patience import PATIENCE
from tests.kubernetes import configuration
from tests.kubernetes.cluster import POD_S, Cluster, is_ready, status_of
from tests.kubernetes.node import Node, until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(500 * PATIENCE)]

NAME, GROUP = "keeper", 2000
NOTES = {"clearpod.io/files": "guest", "clearpod.io/emptydir": "guest"}
MIB = 1 << 20
SCRIPT = (
    "echo at $(date) >>/data/starts; echo deep >/deep/file; echo x >/memory/x",
    "/probe events:/map & trap 'echo bye >/dev/termination-log; exit 3' TERM; while :; do sleep 0.2; done",
)
VOLUMES: list[dict[str, Any]] = [
    {"name": "data", "emptyDir": {}},
    {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    {"name": "map", "configMap": {"name": "map"}},
    {"name": "secret", "secret": {"secretName": "secret"}},
    {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
]
KINDS = {"data": "ext4", "deep": "ext4", "memory": "tmpfs", "map": "tmpfs", "secret": "tmpfs", "token": "tmpfs"}
MOUNTS = [
    *({"name": one["name"], "mountPath": f"/{one['name']}"} for one in VOLUMES),
    {"name": "data", "mountPath": "/deep", "subPath": "a/b"},
]


@pytest.fixture(scope="module")
def keeper(cluster: Cluster) -> Iterator[str]:
    """A pod that is ready, with one volume of each kind."""
    cluster.apply(_map(key="one", old="old"))
    data = {"key": base64.b64encode(b"of the secret").decode()}
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secret"}, "data": data})
    pod = configuration.pod(
        NAME,
        cluster.node.image,
        *SCRIPT,
        container={"volumeMounts": MOUNTS},
        volumes=VOLUMES,
        securityContext={"fsGroup": GROUP},
        terminationGracePeriodSeconds=20,
    )
    pod["metadata"]["annotations"] = NOTES
    cluster.run(pod)
    yield NAME
    cluster.delete(NAME)


def _map(**data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map"}, "data": data}


def _sh(cluster: Cluster, command: str) -> str:
    return cluster.kubectl("exec", NAME, "--", "sh", "-c", command).strip()


def _directory(cluster: Cluster) -> Path:
    return cluster.node.root / "kubelet/pods" / cluster.pod(NAME)["metadata"]["uid"]


def _host(cluster: Cluster, *command: str) -> str:
    """A command of the host's among the node's mounts."""
    argv = ["nsenter", f"--mount={cluster.node.root}/mounts", "--", *command]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_volumes_are_at_their_requested_paths(cluster: Cluster, keeper: str) -> None:
    mounted = [line.split() for line in _sh(cluster, "cat /proc/mounts").splitlines()]
    assert {name: kind for _, at, kind, *_ in mounted if (name := at[1:]) in KINDS} == KINDS
    assert _sh(cluster, "stat -c %a:%g /data /deep/file").split() == ["2777:2000", "644:2000"]
    assert _sh(cluster, "cat /map/key /map/old /secret/key") == "oneoldof the secret"
    assert _sh(cluster, "cut -d. -f1 /token/token").startswith("ey"), "a token"
    assert _sh(cluster, "stat -c %g $(readlink -f /secret/key)") == str(GROUP)
    directory = _directory(cluster)
    empty = f"{directory}/volumes/kubernetes.io~empty-dir"
    assert _host(cluster, "find", f"{empty}/data", "-type", "f") == "", "nothing of it is on the host"
    assert _host(cluster, "find", f"{empty}/memory", "-type", "f") == ""
    assert _sh(cluster, "cat /memory/x; df -P -k /memory | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2").split() == [
        "x",
        "1024",
    ]


def test_a_new_version_of_a_config_map_is_an_event_for_inotify(cluster: Cluster, keeper: str) -> None:
    cluster.apply(_map(key="two", new="new"))
    until(lambda: _sh(cluster, "cat /map/key") == "two", within_s=POD_S, what="the new version")
    assert _sh(cluster, "ls /map") == "key\nnew"
    assert "event ..data" in cluster.kubectl("logs", NAME)


def test_what_an_empty_directory_holds_is_no_containers_writable_layer(cluster: Cluster, keeper: str) -> None:
    _sh(
        cluster,
        "dd if=/dev/zero of=/data/large bs=1M count=40 2>/dev/null; dd if=/dev/zero of=/own bs=1M count=5; sync",
    )

    def counted() -> bool:
        (container,) = cluster.kubelet.summary(NAME)["containers"]
        assert 5 * MIB <= container["rootfs"]["usedBytes"] < 40 * MIB, container["rootfs"]
        return True

    until(counted, within_s=POD_S, what="its size")
    _sh(cluster, "rm /data/large /own")


def test_the_kubelet_reads_and_counts_empty_directories_of_other_pods(cluster: Cluster) -> None:
    """The pod has a limit for its volume, and no container writes to its own root."""
    pod = configuration.pod(
        "full",
        cluster.node.image,
        "dd if=/dev/zero of=/data/large bs=1M count=40; exec sleep 1000",
        container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        volumes=[{"name": "data", "emptyDir": {"sizeLimit": "20Mi"}}],
    )
    cluster.apply(pod)
    cluster.wait("full", lambda one: one["status"].get("reason") == "Evicted", within_s=4 * POD_S)
    assert "data" in cluster.pod("full")["status"]["message"]
    cluster.delete("full")


def test_the_files_are_there_after_the_restart_of_a_container(cluster: Cluster, keeper: str) -> None:
    cluster.ends("exec", NAME, "--", "kill", "1")
    cluster.wait(NAME, lambda pod: status_of(pod)["restartCount"] == 1 and is_ready(pod))
    ended = status_of(cluster.pod(NAME))["lastState"]["terminated"]
    assert (ended["exitCode"], ended["message"]) == (3, "bye\n")
    assert _sh(cluster, "wc -l </data/starts; cat /deep/file").split() == ["2", "deep"]


def test_the_files_are_there_in_the_sandbox_after_the_vms_death(cluster: Cluster, keeper: str) -> None:
    _sh(cluster, "sync; echo last words >/dev/termination-log")
    before = cluster.node.sandbox(NAME)["pid"]
    _host(cluster, "kill", "-9", str(before))
    cluster.wait(NAME, lambda pod: status_of(pod)["restartCount"] == 2 and is_ready(pod), within_s=2 * POD_S)
    assert status_of(cluster.pod(NAME))["lastState"]["terminated"]["message"].endswith("last words\n")
    assert cluster.node.sandbox(NAME)["pid"] != before
    assert _sh(cluster, "wc -l </data/starts; cat /deep/file").split() == ["3", "deep"]


def test_a_pod_that_is_deleted_leaves_nothing(cluster: Cluster, keeper: str) -> None:
    directory = _directory(cluster)
    assert (directory / "clearpod/disk.img").exists()
    cluster.delete(NAME)
    until(lambda: not directory.exists(), within_s=POD_S, what="the end of the pod's directory")
    _nothing_mounted(cluster.node)


def _nothing_mounted(node: Node) -> None:
    assert f"{node.root}/kubelet/pods" not in subprocess.run(["findmnt", "-rn"], capture_output=True, text=True).stdout
