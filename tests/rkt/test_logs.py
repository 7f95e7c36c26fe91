# SPDX-License-Identifier: Apache-2.0
"""Logs in Kubernetes' way (`k8s-plain`): a file on the host that real VMs' apps fill, as the kubelet would read it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE
from tests.rkt.conftest import Rig, wait_until
from tests.rkt.images import AppSpec

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so its fake needs root"),
]
EXPERIMENT = "coreos.com/rkt/experiment/"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) (.*)\n")


def logged(app: AppSpec, name: str, **streams: str) -> AppSpec:
    output = {f"coreos.com/rkt/stage2/{stream}": mode for stream, mode in streams.items()}
    output[f"{EXPERIMENT}kubernetes-log-path"] = name
    return app._replace(entry={"annotations": [{"name": key, "value": value} for key, value in output.items()]})


def pod_says(place: Path) -> list[dict[str, str]]:
    output = {f"{EXPERIMENT}logmode": "k8s-plain", f"{EXPERIMENT}kubernetes-log-dir": str(place)}
    return [{"name": key, "value": value} for key, value in output.items()]


def lines(path: Path) -> list[tuple[str, str]]:
    """(stream, text) of each line; fails when one is no line of Kubernetes'."""
    result = [LINE.fullmatch(line) for line in path.read_text().splitlines(keepends=True)]
    assert all(result), path.read_text()[:2000]
    return [(one[1], one[2]) for one in result if one]


def has(path: Path, *expected: tuple[str, str]) -> bool:
    """Whether exactly these lines are in the log; a line is written in pieces."""
    return path.exists() and path.read_text().endswith("\n") and lines(path) == [*expected]


def of(path: Path, stream: str) -> list[str]:
    return [text for name, text in lines(path) if name == stream]


def test_a_pod_writes_a_file_for_each_app_and_loses_nothing(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "one_0.log").write_text("of an earlier run\n")
    much = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; echo wrong >&2; printf 'no end'; exit 3"
    both = {"stdout": "stream", "stderr": "stream"}
    apps = [
        logged(rig.sh("one", much), "one_0.log", **both),
        logged(rig.sh("two", "echo two; echo away >&2"), "two_0.log", stdout="stream", stderr="null"),
        logged(rig.sh("three", "echo on rkts stdout; echo in the file >&2"), "three_0.log", stderr="stream"),
    ]
    pod = rig.rkt.prepare(apps, annotations=pod_says(tmp_path))
    process = pod.run(net="none", stdin=subprocess.DEVNULL, stdout=-1, stderr=-1)
    out, _ = process.communicate(timeout=120 * PATIENCE)
    assert (process.returncode, out) == (3, b"on rkts stdout\n")
    assert of(tmp_path / "one_0.log", "stdout") == [*map(str, range(20000)), "no end"]
    assert of(tmp_path / "one_0.log", "stderr") == ["wrong"]
    assert lines(tmp_path / "two_0.log") == [("stdout", "two")]
    assert lines(tmp_path / "three_0.log") == [("stderr", "in the file")]
    assert (tmp_path / "two_0.log").stat().st_mode & 0o7777 == 0o640


def test_an_app_of_a_sandbox_is_logged_attached_to_and_its_file_may_be_moved(rig: Rig, tmp_path: Path) -> None:
    log, old = tmp_path / "one_0.log", tmp_path / "one_0.log.1"
    pod = rig.rkt.prepare([], mutable=True, annotations=pod_says(tmp_path))
    process = pod.run(net="none", stdin=subprocess.DEVNULL, stdout=-1, stderr=-1)
    assert pod.wait_ready()
    line = "while read x; do echo got $x; done"
    app = logged(rig.sh("one", line), log.name, stdin="stream", stdout="stream", stderr="stream")
    assert pod.app_add(app).code == 0 and pod.app_start("one").code == 0
    joined = pod.attach("one", stdin=-1, stdout=-1, stderr=-1)
    assert joined.stdin and joined.stdout
    joined.stdin.write(b"first\n")
    joined.stdin.flush()
    assert joined.stdout.readline() == b"got first\n", "who attaches sees it too"
    wait_until(lambda: has(log, ("stdout", "got first")))
    log.rename(old)
    joined.stdin.write(b"second\n")
    joined.stdin.flush()
    wait_until(lambda: has(log, ("stdout", "got second")))
    assert lines(old) == [("stdout", "got first")]
    assert pod.app_start("one").code == 254 and lines(log), "a refused start empties no log"
    assert pod.app_stop("one").code == 0
    joined.communicate(timeout=60 * PATIENCE)
    assert pod.app_start("one").code == 0 and lines(log) == [], "each start begins a new log"
    assert pod.app_rm("one").code == 0 and log.exists()
    nowhere = logged(rig.sh("two", "true"), "../two.log", stdout="stream")
    refused = pod.app_add(nowhere)
    assert refused.code == 254 and "../two.log" in refused.stderr
    assert pod.stop().code == 0
    process.communicate(timeout=60 * PATIENCE)


def test_a_log_that_became_a_link_is_not_followed(rig: Rig, tmp_path: Path) -> None:
    """As an app could make it whose volume has the directory of logs in it."""
    victim, log = tmp_path / "victim", tmp_path / "logs" / "one_0.log"
    victim.write_text("precious\n")
    log.parent.mkdir()
    volume = {"name": "logs", "kind": "host", "source": str(log.parent)}
    begun = "echo begin; until [ -s /logs/one_0.log ]; do sleep 0.1; done"
    line = f"{begun}; rm -f /logs/one_0.log; ln -s {victim} /logs/one_0.log; echo bad; echo done > /logs/done"
    app = logged(rig.sh("one", line), log.name, stdout="stream")
    app = app._replace(entry={**app.entry, "mounts": [{"volume": "logs", "path": "/logs"}]})
    pod = rig.rkt.prepare([app], annotations=pod_says(log.parent), volumes=[volume])
    process = pod.run(net="none", stdin=subprocess.DEVNULL, stdout=-1, stderr=-1)
    _, err = process.communicate(timeout=120 * PATIENCE)
    assert process.returncode == 0 and (log.parent / "done").exists() and log.is_symlink()
    assert victim.read_text() == "precious\n" and b"the log 1 in" in err
