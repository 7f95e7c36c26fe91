# SPDX-License-Identifier: Apache-2.0
"""The real crictl: stats, statsp, metricsp, metricdescs, events, update, and `logs -f` through rotations."""

import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fakes.registry import Registry

from .test_crictl import Crictl, _container, _pod, crictl

__all__ = ["crictl"]
pytestmark = [pytest.mark.vm, pytest.mark.crictl, pytest.mark.timeout(240)]

SCRIPT = "n=0; while [ $n -lt 60 ]; do n=$((n+1)); echo $n; sleep 0.1; done; sleep 1000"
CLEAR = "\x1b[2J\x1b[H"
"""crictl clears the screen, also when it is none."""


def test_numbers_events_updates_and_followed_logs(crictl: Crictl, tmp_path: Path, guest_dir: Path) -> None:
    with Registry(tmp_path / "registry") as registry:
        image = registry.push(f"oci:{guest_dir}/sample:sample", "t/busybox:1")
        crictl("pull", image)
    with crictl.start("events") as listener, ExitStack() as later:
        later.callback(listener.kill)  # or leaving would wait for ever when something fails
        time.sleep(1)
        pod = crictl("runp", _pod(crictl))
        container = crictl("create", pod, _container(crictl, image, "counts", SCRIPT), _pod(crictl))
        crictl("start", container)
        _follows(crictl, container)
        _counts(crictl, pod, container)
        _updates(crictl, container)
        crictl("rmp", "-f", pod)
        time.sleep(1)
        listener.terminate()
        assert listener.stdout is not None
        output = listener.stdout.read().decode()
    for kind in ("CREATED", "STARTED", "STOPPED", "DELETED"):
        assert output.count(f"CONTAINER_{kind}_EVENT") == 2, (kind, output)
    crictl("rmi", image)


def _follows(crictl: Crictl, container: str) -> None:
    """Every number once and in order, while kubelet rotates the file under the reader."""
    log = Path(crictl.json("inspect", container)["status"]["logPath"])
    with crictl.start("logs", "-f", container) as follower, ExitStack() as later:
        later.callback(follower.kill)
        assert follower.stdout is not None
        lines = []
        for number in range(1, 61):
            lines.append(int(follower.stdout.readline()))
            if number in (15, 35):
                log.rename(f"{log}.{number}")
                crictl("logs", "-r", container)
        follower.terminate()
    assert lines == list(range(1, 61))
    assert log.exists()


def _counts(crictl: Crictl, pod: str, container: str) -> None:
    (one,) = crictl.json("stats", "-o", "json", container)["stats"]
    assert one["attributes"]["id"] == container
    assert int(one["memory"]["workingSetBytes"]["value"]) > 0
    table = crictl("stats").removeprefix(CLEAR).splitlines()
    assert table[0].split() == ["CONTAINER", "NAME", "CPU", "%", "MEM", "DISK", "INODES", "SWAP"]
    assert table[1].split()[:2] == [container[:13], "counts"]
    pods = crictl("statsp").removeprefix(CLEAR).splitlines()
    assert pods[1].split()[:2] == ["web", pod[:13]]
    names = {one["name"] for one in crictl.json("metricdescs")["descriptors"]}
    (result,) = crictl.json("metricsp")["podMetrics"]
    given = {metric["name"] for metric in result["containerMetrics"][0]["metrics"] + result.get("metrics", [])}
    assert len(names) >= 45
    assert {name for name in names if "network" not in name} <= given


def _updates(crictl: Crictl, container: str) -> None:
    crictl("update", "--memory", str(64 << 20), "--cpu-share", "512", container)
    output = crictl.json("inspect", container)["status"]["resources"]["linux"]
    assert (output["memoryLimitInBytes"], output["cpuShares"]) == (str(64 << 20), "512")
    assert "67108864" in crictl("exec", "-s", container, "cat", "/sys/fs/cgroup/memory.max")
    refused = crictl.ends("update", "--memory", str(1 << 18), container)
    assert refused.returncode != 0
    assert "memory_limit_in_bytes" in refused.stderr
    assert json.loads(crictl("inspect", container))["status"]["resources"]["linux"] == output
