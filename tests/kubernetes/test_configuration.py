# SPDX-License-Identifier: Apache-2.0
"""The node of these tests without Kubernetes' programs: which of them are missing, and their command lines."""

import json
from pathlib import Path

import kubernetes_validate
import pytest

from cri.config import parse
from tests.kubernetes import configuration, programs
from tests.kubernetes.configuration import Place

PLACE = Place(Path("/tmp/kn"), "clearpod-test-1", 2379, 2380, 6443, 10250)


@pytest.mark.parametrize(
    ("here", "reason"),
    [
        (programs.NODE, ""),
        (("etcd", "kubectl"), "needs kubelet, kube-apiserver, kube-scheduler, kube-controller-manager on PATH"),
        (programs.NODE[:1] + programs.NODE[2:], "needs etcd (apt install etcd-server) on PATH"),
        (programs.NODE[:-1], "needs kubectl (apt install kubectl) on PATH"),
    ],
)
def test_each_program_that_is_missing_is_named(here: tuple[str, ...], reason: str) -> None:
    assert programs.skip_reason(programs.NODE, {name: f"/bin/{name}" for name in here}.get) == reason


def test_static_pods_need_the_kubelet_alone() -> None:
    assert programs.skip_reason([programs.KUBELET], {"kubelet": "/bin/kubelet"}.get) == ""


def test_the_daemon_understands_its_configuration() -> None:
    network = {"conf_dir": "/tmp/kn/net.d", "bin_dir": "/usr/lib/cni", "cache": "/tmp/kn/cache"}
    config = parse(configuration.clearpod(PLACE, Path("/guest"), network=network))
    assert (config.run_dir, config.socket_path) == ("/tmp/kn/run", PLACE.socket)


def test_no_file_and_no_port_is_shared() -> None:
    output = [configuration.kubelet(PLACE, static_pods="/tmp/kn/static"), configuration.kubeconfig(PLACE)]
    for make in ("kubelet", "etcd", "apiserver", "scheduler", "manager"):
        output.append(getattr(configuration, f"{make}_argv")(PLACE))
    text = json.dumps(output).replace("https://", "").replace("http://", "").replace("unix://", "")
    values = {word for part in text.split('"') for word in part.split("=")}
    assert {word for word in values if word.startswith("/") and not word.startswith("/tmp/kn")} == {"/clearpod-test-1"}
    assert configuration.kubelet(PLACE)["readOnlyPort"] == configuration.kubelet(PLACE)["healthzPort"] == 0


def test_without_an_api_server_the_kubelet_is_configured_without_one() -> None:
    assert "kubeconfig" not in "".join(configuration.kubelet_argv(PLACE, standalone=True))
    assert "staticPodPath" not in configuration.kubelet(PLACE)


@pytest.mark.parametrize("version", ["1.36", "1.37"])
def test_pods_of_these_tests_are_pods(version: str) -> None:
    probe = {"livenessProbe": {"exec": {"command": ["true"]}}}
    pod = configuration.pod("a", "image:1", "sleep 1", container=probe, runtimeClassName="clearpod")
    kubernetes_validate.validate(pod, version, strict=True)
    assert pod["spec"]["containers"][0]["command"] == ["sh", "-c", "sleep 1"]
