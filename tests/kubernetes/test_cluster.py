# SPDX-License-Identifier: Apache-2.0
"""A whole node: an API server, a scheduler, controllers, the kubelet and clearpod, as kubectl drives them."""

import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.patience import PATIENCE
from tests.fakes.registry import free_port
from tests.kubernetes import configuration
from tests.kubernetes.cluster import POD_S, Cluster, is_ready, status_of
from tests.kubernetes.configuration import CLASS, EVICTION_MIB, NODE, OVERHEAD_MIB, PODS_MIB, resources
from tests.kubernetes.node import until

DOCS = Path(__file__).parents[2] / "docs/admin/kubernetes"
MIB = 1 << 20
REPLICAS = 2
SERVE = "echo started; mkdir /www; echo page >/www/index.html; touch /www/ready; exec httpd -f -p 80 -h /www"
pytestmark = [pytest.mark.vm, pytest.mark.timeout(500 * PATIENCE)]


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> list[str]:
    """The names of the pods of a deployment, which are ready."""
    env = [
        {"name": "FROM_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "PLAIN", "value": "a $(FROM_POD)"},
    ]
    probes = {
        "readinessProbe": {"exec": {"command": ["test", "-e", "/www/ready"]}, "periodSeconds": 2, "timeoutSeconds": 10},
        "livenessProbe": {"httpGet": {"path": "/", "port": 80}, "timeoutSeconds": 10, "failureThreshold": 20},
    }
    image, asks = cluster.node.image, {"requests": {"memory": "160Mi"}}  # as much as an idle VM takes
    cluster.apply(configuration.deployment("web", image, SERVE, replicas=REPLICAS, env=env, resources=asks, **probes))
    return until(lambda: _ready(cluster), within_s=2 * POD_S, what="the deployment", log=cluster.node.log("kubelet"))


def _pods(cluster: Cluster) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = cluster.json("get", "pods", "-l", "app=web")["items"]
    return result


def _ready(cluster: Cluster) -> list[str]:
    """The names, when all are."""
    result = [one["metadata"]["name"] for one in _pods(cluster) if is_ready(one)]
    return result if len(result) == REPLICAS else []


def test_a_node_is_shown_with_its_runtime(cluster: Cluster) -> None:
    shown = cluster.kubectl("get", "node", "-o", "wide")
    assert NODE in shown and " Ready " in shown and "clearpod://" in shown


@pytest.mark.parametrize("name", ["runtimeclass.yaml", "deployment.yaml", "node.yaml"])
def test_an_api_server_takes_the_manifests_in_the_documents(cluster: Cluster, name: str) -> None:
    text = (DOCS / name).read_text().replace("name: NODE", f"name: {NODE}")
    for document in yaml.safe_load_all(text):
        arguments = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"]
        if document["kind"] != "RuntimeClass" or document["metadata"]["name"] != CLASS:
            cluster.kubectl(*arguments, feed=document)


def test_a_deployment_runs_and_is_probed(cluster: Cluster, web: list[str]) -> None:
    assert cluster.json("get", "deployment", "web")["status"]["readyReplicas"] == REPLICAS
    for one in _pods(cluster):
        status = status_of(one)
        assert (status["image"], status["restartCount"]) == (cluster.node.image, 0), "the tag and not a digest"
        assert "@sha256:" in status["imageID"]
    cluster.kubectl("exec", web[0], "--", "rm", "/www/ready")
    cluster.wait(web[0], lambda pod: not is_ready(pod), within_s=60)
    cluster.kubectl("exec", web[0], "--", "touch", "/www/ready")
    cluster.wait(web[0], is_ready, within_s=60)


def test_a_command_sees_the_environment_and_the_image(cluster: Cluster, web: list[str]) -> None:
    output = cluster.kubectl("exec", web[0], "--", "sh", "-c", "echo $PLAIN $FROM_IMAGE; ls /many | wc -l; hostname")
    assert output.split("\n")[:3] == [f"a {web[0]} 1", "300", web[0]]
    assert cluster.ends("exec", web[0], "--", "sh", "-c", "exit 7").returncode == 7
    assert cluster.kubectl("logs", web[0]).startswith("started\n")


def test_a_port_is_forwarded(cluster: Cluster, web: list[str]) -> None:
    port = free_port()
    forward = subprocess.Popen(cluster.argv("port-forward", web[0], f"{port}:80"), stdout=subprocess.PIPE)
    try:
        assert forward.stdout is not None and b"Forwarding" in forward.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30 * PATIENCE) as reply:
            assert reply.read() == b"page\n"
    finally:
        forward.kill()
        forward.communicate()


def test_pods_outlive_a_daemon_and_a_kubelet_that_are_killed(cluster: Cluster, web: list[str]) -> None:
    before = {one["metadata"]["name"]: status_of(one)["containerID"] for one in _pods(cluster)}
    cluster.node.stop("serve", kill=True)
    cluster.node.serve()
    cluster.kubelet.restart()
    until(lambda: _ready(cluster) and cluster.is_ready(), within_s=2 * POD_S, what="the node as before")
    for one in _pods(cluster):
        assert status_of(one)["containerID"] == before[one["metadata"]["name"]]
        assert status_of(one)["restartCount"] == 0
    # The API server says Ready before the kubelet that was started knows its pods.
    command = ("exec", web[0], "--", "echo", "again")
    until(lambda: cluster.ends(*command).stdout == "again\n", within_s=POD_S, what="a command in a pod of before")


@pytest.fixture(scope="module")
def volumes(cluster: Cluster) -> Iterator[str]:
    """A pod with a root that can't be written, the image's volume, and a directory of the host that is not there."""
    made = {"name": "made", "hostPath": {"path": f"{cluster.node.root}/made/by/clearpod"}}
    sources = [{"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "kube-root-ca.crt"}}]
    account = {"name": "account", "projected": {"sources": sources}}
    container = {
        "volumeMounts": [{"name": "made", "mountPath": "/made"}, {"name": "account", "mountPath": "/account"}],
        "securityContext": {"readOnlyRootFilesystem": True},
    }
    script = "echo x >/data/new; echo y >/made/new; trap '' TERM; while :; do sleep 1; done"
    image = cluster.node.image
    cluster.run(configuration.pod("volumes", image, script, container=container, volumes=[made, account]))
    yield "volumes"
    cluster.delete("volumes")


def test_volumes_of_an_image_and_directories_of_the_host_are_made(cluster: Cluster, volumes: str) -> None:
    output = cluster.kubectl("exec", volumes, "--", "sh", "-c", "cat /data/*; touch /root/x 2>&1 || echo read-only")
    assert output.startswith("content\nx\n") and output.endswith("read-only\n")
    assert cluster.kubectl("exec", volumes, "--", "sh", "-c", "wc -c </account/token").strip() > "100"
    made = cluster.node.root / "made/by/clearpod"
    assert (made / "new").read_text() == "y\n" and made.stat().st_mode & 0o777 == 0o755


def test_a_device_directory_of_the_host_is_refused_in_one_sentence(cluster: Cluster) -> None:
    volume = {"name": "dev", "hostPath": {"path": "/dev"}}
    container = {
        "securityContext": {"privileged": True},
        "volumeMounts": [{"name": "dev", "mountPath": "/host/dev"}],
    }
    pod = configuration.pod("device", cluster.node.image, "sleep 1000", container=container, volumes=[volume])
    cluster.run(pod, until_ready=False)
    waiting = cluster.wait("device", lambda pod: status_of(pod).get("state", {}).get("waiting", {}).get("message"))
    message = status_of(waiting)["state"]["waiting"]["message"]
    assert "/dev" in message and "\n" not in message
    cluster.delete("device")


def test_a_pod_that_ignores_its_end_is_gone_soon(cluster: Cluster, volumes: str) -> None:
    began = time.monotonic()
    cluster.kubectl("delete", "pod", volumes, "--now")
    assert cluster.ends("get", "pod", volumes).returncode != 0
    print(f"delete --now took {time.monotonic() - began:.1f} s")


@pytest.fixture(scope="module")
def pinned(cluster: Cluster, web: list[str]) -> Iterator[str]:
    """A pod with a whole processor of its own, next to pods that share."""
    container = {"resources": resources(64, cpu="1")}
    pod = configuration.pod("pinned", cluster.node.image, "sleep 10000", container=container, runtimeClassName=CLASS)
    cluster.run(pod)
    yield "pinned"
    cluster.delete("pinned")


def _allowed(pid: int) -> set[str]:
    """The processors of all threads of a process."""
    files = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return {line.split()[1] for text in files for line in text.splitlines() if line.startswith("Cpus_allowed_list")}


def test_the_threads_of_a_static_pods_vm_have_its_processors(cluster: Cluster, pinned: str, web: list[str]) -> None:
    node = cluster.node
    assert _allowed(node.sandbox(pinned)["pid"]) == {"1"}
    assert node.sandbox(pinned)["vm"]["cgroupNote"] == ""
    pids = [node.sandbox(name)["pid"] for name in web]
    until(lambda: all(_allowed(pid) == {"0"} for pid in pids), within_s=60, what="the others on processor 0")


def test_statistics_are_those_of_the_pods_cgroup(cluster: Cluster, pinned: str) -> None:
    """With the feature gates as they are by default."""

    def counted() -> dict[str, Any]:
        result = cluster.kubelet.summary(pinned)
        assert result["memory"]["workingSetBytes"] > 32 * MIB and result["cpu"]["usageCoreNanoSeconds"] > 1e8
        return result

    until(counted, within_s=60, what="numbers of the pod")
    joined = Path(f"/proc/{cluster.node.sandbox(pinned)['pid']}/cgroup").read_text()
    assert f"/{cluster.node.place.cgroup}/kubepods/pod" in joined


def _limits(pod: dict[str, Any]) -> dict[str, str]:
    result: dict[str, str] = status_of(pod).get("resources", {}).get("limits", {})
    return result


def test_a_pod_is_resized_down_and_up_and_beyond_what_it_began_with(cluster: Cluster, web: list[str]) -> None:
    """It is burstable: with static processors the kubelet resizes no other."""
    cluster.delete("pinned")
    container = {"resources": resources(64, most_mib=128, cpu="600m")}
    cluster.run(
        configuration.pod("sized", cluster.node.image, "sleep 10000", container=container, runtimeClassName=CLASS)
    )
    before = status_of(cluster.pod("sized"))["containerID"]
    for cpu, mib in (("500m", 96), ("700m", 200), ("600m", 128)):
        expected = {"spec": {"containers": [{"name": "main", "resources": resources(64, most_mib=mib, cpu=cpu)}]}}
        cluster.kubectl("patch", "pod", "sized", "--subresource=resize", f"--patch={configuration.text(expected)}")
        limits = {"cpu": cpu, "memory": f"{mib}Mi"}
        cluster.wait("sized", lambda pod, limits=limits: _limits(pod) == limits, within_s=90)
        inside = cluster.kubectl("exec", "sized", "--", "cat", "/sys/fs/cgroup/memory.max")
        assert int(inside) == mib * MIB
    after = status_of(cluster.pod("sized"))
    assert (after["containerID"], after["restartCount"]) == (before, 0)
    cluster.delete("sized")


def _holding(mib: int) -> str:
    """A shell command that takes so much memory and keeps it."""
    return f"dd if=/dev/zero bs={mib}M count=1 | sleep 10000"


def test_under_pressure_the_pod_that_eats_is_evicted(cluster: Cluster, web: list[str]) -> None:
    eats = PODS_MIB - EVICTION_MIB
    container = {"resources": resources(64, most_mib=eats)}
    # Who has more than it asked for is evicted first, by numbers of pods that are up to 15 s old, while the node's are
    # new (maxHousekeepingInterval of the kubelet's cadvisor). So it has too much before the node has too little.
    first = OVERHEAD_MIB + 168
    script = f"{_holding(first)} & sleep 20; {_holding(eats - 100 - first)}"
    pod = configuration.pod("eater", cluster.node.image, script, container=container, runtimeClassName=CLASS)
    cluster.run(pod, until_ready=False)
    evicted = cluster.wait("eater", lambda pod: pod["status"]["phase"] == "Failed", within_s=2 * POD_S)
    assert evicted["status"]["reason"] == "Evicted" and "memory" in evicted["status"]["message"]
    running = [one["metadata"]["name"] for one in _pods(cluster) if one["status"]["phase"] == "Running"]
    assert running == web, "those that idle go on"
    cluster.delete("eater")


def test_a_deployment_that_is_deleted_leaves_no_vm(cluster: Cluster, web: list[str]) -> None:
    cluster.kubectl("delete", "deployment", "web")
    until(lambda: not _pods(cluster), within_s=POD_S, what="the end of the pods")
    until(lambda: not cluster.node.cgroups_of_pods(), within_s=60, what="the end of their cgroups")
