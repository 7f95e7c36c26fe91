# SPDX-License-Identifier: Apache-2.0
"""The kubelet alone, without an API server: static pods, and the configurations in docs/admin/kubernetes."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.patience import PATIENCE
from tests.kubernetes.cluster import ANYBODY, POD_S, Kubelet, get, is_ready, status_of
from tests.kubernetes.configuration import NODE, pod
from tests.kubernetes.node import Node, until

DOCS = Path(__file__).parents[2] / "docs/admin/kubernetes"
pytestmark = [pytest.mark.vm, pytest.mark.timeout(400 * PATIENCE)]


@pytest.mark.parametrize("name", ["kubelet-v2.yaml", "kubelet-hybrid.yaml"])
def test_a_kubelet_knows_every_key_of_a_configuration_in_the_documents(machine: Node, name: str) -> None:
    assert not _is_doubtful(_read_by_a_kubelet(machine, (DOCS / name).read_text()))


def test_a_kubelet_names_the_key_that_it_does_not_know(machine: Node) -> None:
    output = _read_by_a_kubelet(
        machine, (DOCS / "kubelet-hybrid.yaml").read_text().replace("failCgroupV1", "failCgroup1")
    )
    assert _is_doubtful(output) and "failCgroup1" in output


def _is_doubtful(message: str) -> bool:
    """Whether it has read a configuration in spite of something in it, or not at all."""
    return "enient decoding" in message or "failed to load" in message


def _read_by_a_kubelet(machine: Node, text: str) -> str:
    """A kubelet's output about a configuration, until it ends because there is no runtime."""
    config = machine.root / "of-the-documents.yaml"
    config.write_text(text.replace("/run/clearpod/", f"{machine.root}/nowhere/"))
    directories = [f"--root-dir={machine.root}/kubelet-of-docs", f"--cert-dir={machine.root}/pki"]
    machine.start("docs", ["kubelet", f"--config={config}", *directories, f"--hostname-override={NODE}"])
    try:
        until(lambda: "command failed" in machine.log("docs").read_text(), within_s=60, what="its end")
        return machine.log("docs").read_text()
    finally:
        machine.stop("docs", kill=True)
        machine.log("docs").unlink()


@pytest.fixture(scope="module")
def kubelet(machine: Node) -> Iterator[Kubelet]:
    directory = machine.root / "static"
    directory.mkdir()
    made = Kubelet(machine, static_pods=str(directory))
    made.start()
    yield made
    machine.stop("kubelet")


@pytest.fixture(scope="module")
def static(kubelet: Kubelet) -> str:
    """The name of a static pod that runs; the node's name is part of it."""
    node = kubelet.node
    volume = {"name": "made", "hostPath": {"path": f"{node.root}/not/there/yet"}}
    container = {"volumeMounts": [{"name": "made", "mountPath": "/made"}]}
    script = "echo ours >/made/file; echo started; cat /data/from-the-image; exec sleep 10000"
    document = pod("static", node.image, script, container=container, volumes=[volume])
    (node.root / "static" / "pod.json").write_text(json.dumps(document))
    name = f"static-{NODE}"
    until(lambda: is_ready(_find(kubelet, name)), within_s=POD_S, what=name, log=node.log("kubelet"))
    return name


def _find(kubelet: Kubelet, name: str) -> dict[str, Any]:
    result = [one for one in kubelet.pods() if one["metadata"]["name"] == name]
    assert result, f"the kubelet has no pod {name}"
    return result[0]


def test_a_static_pod_runs_with_what_it_asks_for(kubelet: Kubelet, static: str) -> None:
    node = kubelet.node
    assert status_of(_find(kubelet, static))["image"] == node.image, "the name of the image and not its digest"
    logs = f"{node.place.kubelet}/containerLogs/default/{static}/main"
    until(lambda: get(logs) == "started\ncontent\n", within_s=10, what="its output")
    made = node.root / "not/there/yet"
    assert (made / "file").read_text() == "ours\n" and made.stat().st_mode & 0o777 == 0o755
    command = f"{node.place.kubelet}/run/default/{static}/main?cmd=cat%20/made/file"
    with urllib.request.urlopen(urllib.request.Request(command, method="POST"), context=ANYBODY) as reply:
        assert reply.read() == b"ours\n"


def test_a_checkpoint_of_a_container_is_refused_without_side_effects(kubelet: Kubelet, static: str) -> None:
    url = f"{kubelet.node.place.kubelet}/checkpoint/default/{static}/main"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), context=ANYBODY, timeout=60)
    text = refused.value.read().decode()
    assert refused.value.code == 500 and "Unimplemented" in text and "CRIU" in text, (refused.value.code, text)
    assert is_ready(_find(kubelet, static))


def test_the_kubelet_counts_a_static_pod_in_its_cgroup(kubelet: Kubelet, static: str) -> None:
    def counted() -> dict[str, Any]:
        result = kubelet.summary(static)
        assert result["memory"]["workingSetBytes"] > 16 << 20 and result["cpu"]["usageCoreNanoSeconds"] > 0
        return result

    until(counted, within_s=60, what="numbers of the pod")


def test_a_pod_outlives_a_kubelet_and_a_daemon_that_are_killed(kubelet: Kubelet, static: str) -> None:
    before = status_of(_find(kubelet, static))["containerID"]
    kubelet.node.stop("serve", kill=True)
    kubelet.node.serve()
    kubelet.restart()
    until(lambda: is_ready(_find(kubelet, static)), within_s=60, what=static, log=kubelet.node.log("kubelet"))
    after = status_of(_find(kubelet, static))
    assert (after["containerID"], after["restartCount"]) == (before, 0)


def test_a_static_pod_that_is_taken_away_leaves_nothing(kubelet: Kubelet, static: str) -> None:
    (kubelet.node.root / "static" / "pod.json").unlink()
    until(lambda: kubelet.pods() == [], within_s=60, what="its end", log=kubelet.node.log("kubelet"))
    until(lambda: not kubelet.node.cgroups_of_pods(), within_s=60, what="the end of its cgroups")
    mounted = subprocess.run(["findmnt", "-rn"], capture_output=True, text=True, check=True).stdout
    assert f"{kubelet.node.root}/kubelet/pods" not in mounted
