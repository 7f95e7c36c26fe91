# SPDX-License-Identifier: Apache-2.0
"""Pods of a real kubelet that begin with a named snapshot, each with a token and a log of its own."""

import subprocess
import sys

import pytest

from tests.fakes.patience import PATIENCE
from tests.kubernetes import configuration
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.node import CHECKOUT

pytestmark = [pytest.mark.vm, pytest.mark.timeout(500 * PATIENCE)]

COUNTER = "i=0; while true; do i=$((i+1)); echo $i >/new; mv /new /at; echo $i; sleep 0.2; done"

TOKEN = {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
MOUNT = {"name": "token", "mountPath": "/token"}


def _run(cluster: Cluster, name: str, **annotations: str) -> None:
    pod = configuration.pod(name, cluster.node.image, COUNTER, container={"volumeMounts": [MOUNT]}, volumes=[TOKEN])
    pod["metadata"]["annotations"] = {f"clearpod.io/{key}": value for key, value in annotations.items()}
    cluster.run(pod)


def _sh(cluster: Cluster, name: str, command: str) -> str:
    return cluster.kubectl("exec", name, "--", "sh", "-c", command).strip()


def _clearpod(cluster: Cluster, *arguments: str) -> str:
    config = f"{cluster.node.root}/config.toml"
    argv = [sys.executable, "-m", "cri", *arguments[:2], "--config", config, *arguments[2:]]
    ended = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_pods_go_on_where_another_one_was(cluster: Cluster) -> None:
    _run(cluster, "source", forkable="true")
    until_then = int(_sh(cluster, "source", "until [ -e /at ]; do sleep 0.1; done; cat /at"))
    assert "default/warm" in _clearpod(cluster, "snapshot", "create", "default/source", "warm")
    saved = int(_sh(cluster, "source", "cat /at"))
    cluster.delete("source")
    _run(cluster, "copy", snapshot="warm")
    assert until_then <= int(_sh(cluster, "copy", "cat /at"))
    first, *_ = cluster.kubectl("logs", "copy").split()
    assert until_then <= int(first) <= saved + 1
    assert _sh(cluster, "copy", "hostname; cat /etc/hostname").split() == ["copy", "copy"]
    assert cluster.pod("copy")["status"]["podIP"] in _sh(cluster, "copy", "ip -4 addr show eth0; cat /etc/hosts")
    assert _sh(cluster, "copy", "cut -c1-2 /token/token") == "ey"
    assert "default/warm" in _clearpod(cluster, "snapshot", "rm", "warm")
    cluster.delete("copy")
