# SPDX-License-Identifier: Apache-2.0
"""Eight copies of one pod that runs, made at once by two commands, and eight of a named snapshot, compared in all that
must differ; in an ordinary run half as many. Their program is in Python: what it draws from the C library and from its
own generator differs, too.
"""

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.policy import COPY_SIGNAL, FORKABLE, SNAPSHOT
from cri.store.images import ImageStore
from tests.fakes import preloaded, python_image
from tests.fakes.command import CHECKOUT
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry

from .conftest import Client, Registered, VmWorld
from .test_named import ours
from .test_network import addresses, outer_world
from .test_pool_vms import CLOCK_S, SLOW_S, output_of

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

COPIES = 8 if os.environ.get("CLEARPOD_ALL_KINDS") else 4
GATEWAY = "10.77.0.1"
PROGRAM = b"""
import ctypes, json, os, random, signal, socket, sys, time, uuid

libc = ctypes.CDLL(None)

def drawn():
    bytes = ctypes.create_string_buffer(16)
    libc.arc4random_buf(bytes, 16)
    return {"getrandom": os.getrandom(16).hex(), "arc4random": bytes.raw.hex(), "uuid": str(uuid.uuid4())}

def tell(number, frame):
    random.seed()
    told = drawn() | {"random": random.random(), "time": time.time()}
    try:
        peer.recv(1, socket.MSG_DONTWAIT)
        told["peer"] = 0
    except OSError as error:
        told["peer"] = error.errno
    with open("/new", "w") as file:
        json.dump(told, file)
    os.rename("/new", "/told")

drawn(), random.random()
signal.signal(signal.SIGUSR1, tell)
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
open("/ready", "w").close()
while True:
    time.sleep(1000)
"""
MODULES = "ctypes, json, random, signal, socket, uuid"
COMMAND = ("/usr/bin/python3", "-ISB", "/server.py", GATEWAY)
WHO = """
cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid /etc/machine-id /etc/hostname
hostname
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo
head -c 16 /proc/self/auxv | od -An -tx1 | tr -d ' \\n'; echo; grep stack /proc/self/maps | cut -d- -f1
cat /sys/class/net/eth0/address
until ip -6 -o addr show eth0 | grep -q 'inet6 fe80'; do sleep 0.1; done
ip -4 -o addr show eth0 | tr -s ' ' | cut -d' ' -f4; ip -6 -o addr show eth0 | tr -s ' ' | cut -d' ' -f4
"""
TOLD = "until [ -e /told ]; do sleep 0.1; done; cat /told"


@pytest.fixture
def world(tmp_path: Path, guest_dir: Path) -> Iterator[VmWorld]:
    """A machine with the image t/python:1."""
    if lack := python_image.why_not():
        pytest.skip(lack)
    reference = python_image.make(tmp_path / "layout", guest_dir, program=PROGRAM, modules=MODULES)
    with Registry(tmp_path / "registry") as registry:
        pushed = registry.push(reference, "t/python:1")
        ImageStore(f"{tmp_path}/state").close()
        with outer_world(Registered(pushed, f"{tmp_path}/state"), guest_dir) as (made, _):
            yield made


async def test_nothing_that_must_differ_is_the_same_in_two_of_them(world: VmWorld) -> None:
    async with world.daemon() as cri:
        with socket.create_server(("", 0)) as listener:
            web, container, talk = await source(cri, listener)
            with talk:
                before = (await output_of(cri, container, WHO)).split()
                made = await asyncio.gather(*(asyncio.to_thread(forked, world, name) for name in ("a", "b")))
                copies = [one for some in made for one in some]
                assert len(copies) == COPIES
                await differ(cri, [(pod, *cri.node.pods.get(pod).containers) for pod in copies], before=before)
                await ours(cri, "CreateSnapshot", pod_sandbox_id=web, options={"name": "warm"})
                assert (await output_of(cri, container, WHO)).split()[0] == before[0]
                assert await output_of(cri, container, "ls /told 2>&1 || true") != "/told\n"
                talk.setblocking(False)
                with pytest.raises(BlockingIOError):  # it is still there
                    talk.recv(1)
        await removed(cri, web, *copies)
        begun_with = await asyncio.gather(*(begun(cri, f"warm-{number}") for number in range(COPIES)))
        await differ(cri, begun_with, before=before)
        await removed(cri, *(pod for pod, _ in begun_with))
        assert world.left_over() == []


async def source(cri: Client, listener: socket.socket) -> tuple[str, str, socket.socket]:
    """The pod, its container, and its connection to this machine."""
    annotations, port = {FORKABLE: "true", COPY_SIGNAL: "SIGUSR1"}, str(listener.getsockname()[1])
    pod, container = await begun(cri, "web", port, **annotations)
    talk, _ = await asyncio.to_thread(listener.accept)
    await output_of(cri, container, "until [ -e /ready ]; do sleep 0.1; done")
    return pod, container, talk


async def begun(cri: Client, name: str, port: str = "0", **annotations: str) -> tuple[str, str]:
    """A pod that is a copy of the template unless it has other `annotations`, and its container."""
    annotations = annotations or {SNAPSHOT: "warm", COPY_SIGNAL: "SIGUSR1"}
    logs = f"{cri.node.config.run_dir}/logs/default_{name}_1"
    config = cri.sandbox(name, hostname=name, annotations=annotations, log_directory=logs)
    pod = str((await cri("RunPodSandbox", config=config, deadline_s=SLOW_S)).pod_sandbox_id)
    container = await cri.container(pod, *COMMAND, port, name="server")
    await cri("StartContainer", container_id=container)
    return pod, container


def forked(world: VmWorld, name: str) -> list[str]:
    """Half of the copies, by a process of its own."""
    file = world.root / f"{name}.toml"
    file.write_text(f'run_dir = "{world.config.run_dir}"\nstate_dir = "{world.config.state_dir}"\n')
    argv = [sys.executable, "-m", "cri", "fork", "--config", str(file), "default/web", "--name", name]
    process = preloaded.Popen([*argv, "-n", str(COPIES // 2)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    out, _ = process.communicate(timeout=SLOW_S * PATIENCE)
    assert process.returncode == 0
    return [str(line.split()[1]) for line in out.splitlines()]


async def differ(cri: Client, pods: list[tuple[str, str]], *, before: list[str]) -> None:
    """The copies differ from each other, and from what the original was."""
    lines = [(await output_of(cri, container, WHO)).split() for _, container in pods]
    for column, was in zip(zip(*lines, strict=True), before, strict=True):
        assert len({*column, was}) == len(pods) + 1, column
    told = [json.loads(await output_of(cri, container, TOLD)) for _, container in pods]
    for name in ("getrandom", "arc4random", "uuid", "random"):
        assert len({one[name] for one in told}) == len(pods), (name, told)
    assert {one["peer"] for one in told} == {errno.ECONNRESET}
    for (pod, container), seen, one in zip(pods, lines, told, strict=True):
        assert (seen[2], seen[9]) == (pod[:32], f"{(await addresses(cri, pod))[0]}/24")
        assert seen[0] == (await output_of(cri, container, "cat /proc/sys/kernel/random/boot_id")).strip()
        assert abs(one["time"] - time.time()) < CLOCK_S + SLOW_S
    await is_now(cri, pods[0][1])


async def is_now(cri: Client, container: str) -> None:
    asked_s = time.time()
    now_s = int(await output_of(cri, container, "date +%s"))
    assert asked_s - 1 - CLOCK_S < now_s < time.time() + CLOCK_S


async def removed(cri: Client, *pods: Any) -> None:
    await asyncio.gather(*(cri("RemovePodSandbox", pod_sandbox_id=pod, deadline_s=SLOW_S) for pod in pods))
