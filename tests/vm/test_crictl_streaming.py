# SPDX-License-Identifier: Apache-2.0
"""The real crictl's exec, attach and port-forward, with either transport, against real VMs."""

import hashlib
import os
import pty
import random
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry

from .test_crictl import Crictl, _pod, crictl

__all__ = ["crictl"]

pytestmark = [pytest.mark.vm, pytest.mark.crictl, pytest.mark.timeout(300)]

SERVER = (
    "mkdir /tmp/www; cd /tmp/www; head -c 10000000 /bin/busybox > big; echo hi > small; exec httpd -f -p 127.0.0.1:80"
)


class Node:
    """A pod with two containers: `shell` is a shell with standard input, `web` serves on the pod's loopback."""

    def __init__(self, crictl: Crictl, image: str) -> None:
        self.crictl = crictl
        self.pod = crictl("runp", _pod(crictl))
        self.shell = self.run(image, "shell", ["sh"], stdin=True, stdin_once=True)
        self.web = self.run(image, "web", ["sh", "-c", SERVER])

    def run(self, image: str, name: str, command: list[str], **more: bool) -> str:
        """Create and start a container."""
        document = {"metadata": {"name": name}, "image": {"image": image}, "command": command, **more}
        made = self.crictl("create", self.pod, self.crictl.file(f"{name}.json", document), _pod(self.crictl))
        return self.crictl("start", made)

    def feed(self, *arguments: str, data: bytes) -> "subprocess.CompletedProcess[bytes]":
        """crictl with standard input."""
        return subprocess.run([*self.crictl._argv, *arguments], input=data, capture_output=True, timeout=120)


@pytest.fixture
def node(crictl: Crictl, tmp_path: Path, guest_dir: Path) -> Node:
    """Ready to be talked to."""
    with Registry(tmp_path / "registry") as registry:
        image = registry.push(f"oci:{guest_dir}/sample:sample", "t/busybox:1")
        crictl("pull", image)
    return Node(crictl, image)


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
def test_exec_attach_and_port_forward(node: Node, transport: str) -> None:
    _execs(node, transport)
    _types_into_a_terminal(node, transport)
    _attaches(node, transport)
    _forwards(node, transport)


def _execs(node: Node, transport: str) -> None:
    arguments = ("exec", "-r", transport)
    ran = node.feed(*arguments, node.web, "sh", "-c", "echo out; echo err >&2", data=b"")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"out\n", b"err\n")
    failed = node.crictl.ends(*arguments, node.web, "sh", "-c", "exit 7")
    assert failed.returncode == 1 and "exit code 7" in failed.stderr
    missing = node.crictl.ends(*arguments, node.web, "no-such-command")
    assert missing.returncode == 1 and "no-such-command" in missing.stderr
    data = random.Random(5).randbytes(3 << 20)
    echoed = node.feed(*arguments, "-i", node.web, "cat", data=data)
    assert echoed.returncode == 0, echoed.stderr
    assert hashlib.sha256(echoed.stdout).digest() == hashlib.sha256(data).digest()


def _types_into_a_terminal(node: Node, transport: str) -> None:
    """As a person at a terminal of 100 by 30 does."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    subprocess.run(["stty", "cols", "100", "rows", "30"], stdin=theirs, check=True)
    argv = [*node.crictl._argv, "exec", "-r", transport, "-it", node.web, "sh"]
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as person:
        os.close(theirs)
        output = _read_until(ours, b"# ")
        os.write(ours, b"stty size; exit 3\n")
        output += _read_until(ours, b"")
        assert person.wait(60 * PATIENCE) == 1
    os.close(ours)
    assert b"30 100\r\n" in output, output
    assert b"exit code 3" in output, output


def _read_until(descriptor: int, text: bytes) -> bytes:
    """What a terminal shows until `text`; empty: until its end."""
    result, deadline = b"", time.monotonic() + 60
    while not text or text not in result:
        assert time.monotonic() < deadline, result
        try:
            result += os.read(descriptor, 4096)
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:
            return result
    return result


def _attaches(node: Node, transport: str) -> None:
    argv = [*node.crictl._argv, "attach", "-r", transport, "-i", node.shell]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"echo hello; echo oh >&2\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"hello\n"
        process.stdin.close()
        process.stdin = None
        out, err = process.communicate(timeout=60 * PATIENCE)
        assert (process.returncode, out, err) == (0, b"", b"oh\n")
    deadline = time.monotonic() + 20 * PATIENCE
    while (state := node.crictl.json("inspect", node.shell)["status"])["state"] != "CONTAINER_EXITED":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert state["exitCode"] == 0


def _forwards(node: Node, transport: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with node.crictl.start("port-forward", "-r", transport, node.pod, f"{port}:80") as forward:
        try:
            small = _get(f"http://127.0.0.1:{port}/small")
            assert small == b"hi\n"
            argv = ["curl", "-s", "--fail", *[f"http://127.0.0.1:{port}/big"] * 3, "--parallel", "-o", "-"]
            big = subprocess.run(argv, capture_output=True, timeout=120, check=True).stdout
            size = min(10_000_000, os.stat("/bin/busybox").st_size)
            assert len(big) == 3 * size
        finally:
            forward.terminate()


def _get(url: str) -> bytes:
    deadline = time.monotonic() + 30 * PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return bytes(answer.read())
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
