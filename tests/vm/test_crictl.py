# SPDX-License-Identifier: Apache-2.0
"""The real crictl against `clearpod serve`, all that a node is asked for, as a person would type it."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.command import Command, finish
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry

pytestmark = [pytest.mark.vm, pytest.mark.crictl, pytest.mark.timeout(240)]

SCRIPT = "echo out; echo err >&2; trap 'echo bye; exit 5' TERM; n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done"


class Crictl:
    """crictl with the socket of the daemon under test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._argv = ["crictl", "--config", str(root / "crictl.yaml"), "-t", f"{60 * PATIENCE}s"]
        text = f"runtime-endpoint: unix://{root}/run/clearpod.sock\nimage-endpoint: unix://{root}/run/clearpod.sock\n"
        (root / "crictl.yaml").write_text(text, encoding="utf-8")

    def __call__(self, *argv: str) -> str:
        """Its standard output; it must succeed."""
        ended = self.ends(*argv)
        assert ended.returncode == 0, (argv, ended.stdout, ended.stderr)
        return ended.stdout.strip()

    def ends(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        """However it ends."""
        return subprocess.run([*self._argv, *argv], capture_output=True, text=True, timeout=90 * PATIENCE)

    def json(self, *argv: str) -> Any:
        """What it says in JSON."""
        return json.loads(self(*argv))

    def start(self, *argv: str) -> "subprocess.Popen[bytes]":
        """Start it, with pipes."""
        return subprocess.Popen([*self._argv, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def file(self, name: str, document: dict[str, Any]) -> str:
        """A JSON file for runp and create."""
        (self.root / name).write_text(json.dumps(document), encoding="utf-8")
        return str(self.root / name)


@pytest.fixture
def crictl(clearpod: Command) -> Iterator[Crictl]:
    """crictl, and a daemon for it that is ready."""
    clearpod.configure("[vm]\nscratch_mib = 64")
    before = clearpod.host_state.seen()
    with (clearpod.root / "serve.log").open("wb") as log:
        daemon = clearpod.start("serve", stdout=log, stderr=log)
    tool = Crictl(clearpod.root)
    deadline = time.monotonic() + 30 * PATIENCE
    while tool.ends("pods").returncode:
        assert daemon.poll() is None and time.monotonic() < deadline, (clearpod.root / "serve.log").read_text()
        time.sleep(0.1)
    yield tool
    for pod in tool("pods", "-q").split():
        tool("rmp", "-f", pod)
    daemon.terminate()
    assert finish(daemon, limit_s=30).code == 0
    (clearpod.root / "run/daemon.lock").unlink()
    assert clearpod.host_state.added(before) == {}


def _bring(crictl: Crictl, image: str) -> None:
    assert "RuntimeName:  clearpod" in crictl("version")
    info = crictl.json("info")
    assert {c["type"]: c["status"] for c in info["status"]["conditions"]}["RuntimeReady"] is True
    assert "Image is up to date" in crictl("pull", image)
    listed = crictl.json("images", "-o", "json")["images"]
    result = [one["id"] for one in listed if image in one["repoTags"]]
    assert [crictl.json("inspecti", image)["status"]["id"]] == result


def _pod(crictl: Crictl) -> str:
    names = {"name": "web", "namespace": "default", "uid": "u1", "attempt": 0}
    return crictl.file("pod.json", {"metadata": names, "log_directory": f"{crictl.root}/logs", "labels": {"app": "x"}})


def _container(crictl: Crictl, image: str, name: str, script: str) -> str:
    document = {
        "metadata": {"name": name},
        "image": {"image": image},
        "command": ["sh", "-c", script],
        "log_path": f"{name}.log",
    }
    return crictl.file(f"{name}.json", document)


def _checks(crictl: Crictl, pod: str, container: str) -> None:
    """What is listed and inspected while it runs."""
    running = crictl.json("ps", "-o", "json")["containers"]
    assert [(c["id"], c["state"], c["podSandboxId"]) for c in running] == [(container, "CONTAINER_RUNNING", pod)]
    ready = crictl.json("pods", "--state", "ready", "-o", "json")["items"]
    assert [(p["id"], p["labels"]) for p in ready] == [(pod, {"app": "x"})]
    seen = crictl.json("inspect", container)
    assert seen["status"]["state"] == "CONTAINER_RUNNING" and seen["info"]["runtimeSpec"]["process"]["args"][0] == "sh"
    assert crictl.json("inspectp", pod)["status"]["state"] == "SANDBOX_READY"


def _reads_logs(crictl: Crictl, container: str) -> None:
    """All of it, then as it comes."""
    deadline = time.monotonic() + 20 * PATIENCE
    while "3\n" not in (output := crictl.ends("logs", container)).stdout and time.monotonic() < deadline:
        time.sleep(0.2)
    assert output.stdout.startswith("out\n1\n2\n3\n") and output.stderr == "err\n"
    with crictl.start("logs", "-f", "--tail", "1", container) as follower:
        assert follower.stdout is not None
        numbers = [int(follower.stdout.readline()) for _ in range(4)]
        follower.terminate()
    assert numbers == list(range(numbers[0], numbers[0] + 4))


def test_the_whole_list(crictl: Crictl, tmp_path: Path, guest_dir: Path) -> None:
    with Registry(tmp_path / "registry") as registry:
        image = registry.push(f"oci:{guest_dir}/sample:sample", "t/busybox:1")
        _bring(crictl, image)
    pod = crictl("runp", _pod(crictl))
    container = crictl("create", pod, _container(crictl, image, "one", SCRIPT), _pod(crictl))
    assert crictl("start", container) == container
    _checks(crictl, pod, container)
    _reads_logs(crictl, container)

    ran = crictl.ends("exec", "-s", container, "sh", "-c", "echo hi; echo no >&2")
    assert ran.returncode == 0 and "hi\n" in ran.stdout and "no\n" in ran.stdout + ran.stderr
    failed = crictl.ends("exec", "-s", container, "sh", "-c", "exit 3")
    assert failed.returncode != 0 and "3" in failed.stderr
    assert crictl("exec", "-s", container, "uname", "-r").endswith("-clearpod")

    crictl("stop", "--timeout", str(10 * PATIENCE), container)
    ended = crictl.json("inspect", container)["status"]
    assert (ended["state"], ended["exitCode"], ended["reason"]) == ("CONTAINER_EXITED", 5, "Error")
    assert crictl("logs", container).endswith("\nbye")
    assert crictl("logs", "-f", container).endswith("\nbye"), "following what has ended comes to an end"
    assert crictl("ps", "-q") == "" and crictl("ps", "-a", "-q") == container
    _ends(crictl, image, pod, container)


def _ends(crictl: Crictl, image: str, pod: str, container: str) -> None:
    crictl("rm", container)
    assert crictl("ps", "-a", "-q") == ""
    crictl("stopp", pod)
    assert crictl.json("inspectp", pod)["status"]["state"] == "SANDBOX_NOTREADY"
    crictl("rmp", pod)
    assert crictl("pods", "-q") == ""
    crictl("rmi", image)
    assert image not in crictl("images", "-o", "json")


def test_what_goes_wrong_is_reported_in_one_sentence(crictl: Crictl, tmp_path: Path, guest_dir: Path) -> None:
    with Registry(tmp_path / "registry") as registry:
        image = registry.push(f"oci:{guest_dir}/sample:sample", "t/busybox:1")
        crictl("pull", image)
        assert "code = NotFound" in crictl.ends("pull", f"{registry.host}/t/never:1").stderr
    assert "registry" in crictl.ends("pull", f"{registry.host}/t/busybox:2").stderr
    assert "no sandbox" in crictl.ends("inspectp", "0123").stderr
    pod = crictl("runp", _pod(crictl))
    taken = crictl.ends("runp", _pod(crictl))
    assert taken.returncode != 0 and "code = AlreadyExists" in taken.stderr
    document = json.loads(Path(_container(crictl, image, "bad", "true")).read_text(encoding="utf-8"))
    container = crictl("create", pod, crictl.file("bad.json", {**document, "command": ["/gone"]}), _pod(crictl))
    assert "/gone" in crictl.ends("start", container).stderr
    ended = crictl.json("inspect", container)["status"]
    assert (ended["state"], ended["exitCode"], ended["reason"]) == ("CONTAINER_EXITED", 128, "StartError")
    crictl("rmp", "-f", pod)
