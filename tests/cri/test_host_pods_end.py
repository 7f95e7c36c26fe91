# SPDX-License-Identifier: Apache-2.0
"""Pods on the host when the daemon or their agent is killed: nothing is lost or leaked. And what is refused."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc.aio import AioRpcError

from cri.pb import runtime_pb2 as pb
from stage1 import engine
from tests.fakes import preloaded
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import command_lines

from .conftest import Client, Registered
from .host_rig import FOREVER, NODE, POD, HostWorld, host_world, options, out, run_container, run_pod
from .test_recovery import _client, _numbers


@pytest.fixture
def machine(sample: Registered, guest_dir: Path) -> Iterator[HostWorld]:
    with host_world(sample, guest_dir) as made:
        yield made


async def test_a_new_daemon_goes_on_with_the_pod_and_loses_no_output(machine: HostWorld) -> None:
    expected = options(network=NODE, pid=NODE)
    script = "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo $i; done; exit 5"
    async with machine.daemon() as cri:
        pod = await run_pod(cri, expected)
        lives = await run_container(cri, pod, *FOREVER, namespaces=expected, name="lives")
        counts = await run_container(cri, pod, "sh", "-c", script, namespaces=expected, name="counts")
        agent = engine.find_vm(engine.pod_directory(machine.host, pod))
    for _ in range(2):
        async with machine.daemon() as cri:
            assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_READY
            assert engine.find_vm(engine.pod_directory(machine.host, pod)) == agent and agent and agent.alive()
            assert await out(cri, lives, "echo", "still here") == "still here"
    async with machine.daemon() as cri:
        status = await cri.ended(counts)
        assert status.exit_code == 5
        async with asyncio.timeout(30 * PATIENCE):  # what it wrote while there was no daemon comes after its end
            while not (text := Path(status.log_path).read_text()).endswith(" 4000\n"):
                await asyncio.sleep(0.02)
        assert [int(line.split()[-1]) for line in text.splitlines()] == list(range(1, 4001))
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


@contextmanager
def _serve(machine: HostWorld) -> Iterator[None]:
    """The real `clearpod serve`, killed at the end of the block."""
    config = machine.root / "config.toml"
    config.write_text(
        f'run_dir = "{machine.config.run_dir}"\nstate_dir = "{machine.config.state_dir}"\n'
        f'[guest]\ndir = "{machine.root}/guest"\n[host_pods]\nallow = ["network", "pid"]\n'
        f'[network]\ndefault = false\nconf_dir = "{machine.root}/net.d"\n'
    )
    with (machine.root / "serve.log").open("ab") as log:
        argv = [sys.executable, "-m", "cri", "serve", "--config", str(config)]
        serving = preloaded.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        serving.kill()
        serving.wait()


async def test_a_daemon_killed_again_and_again_loses_and_doubles_no_output(machine: HostWorld) -> None:
    expected = options(network=NODE, pid=NODE)
    context = pb.LinuxSandboxSecurityContext(namespace_options=expected)
    linux = pb.LinuxPodSandboxConfig(security_context=context)
    with _serve(machine):
        cri = await _client(machine)
        await cri("PullImage", image=pb.ImageSpec(image=machine.image))
        pod = await cri.pod(linux=linux, log_directory=f"{machine.root}/logs")
        script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done; exit 3"
        c = await run_container(cri, pod, "sh", "-c", script, namespaces=expected)
        await cri.close()
    for _ in range(3):
        with _serve(machine):
            cri = await _client(machine)
            await cri.status(c)
            await cri.close()
    with _serve(machine):
        cri = await _client(machine)
        status = await cri.ended(c, limit_s=60)
        assert status.exit_code == 3 and _numbers(status.log_path) == list(range(1, 20001))
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await cri.close()
    assert machine.left_over() == []


async def _pod_of_two(cri: Client) -> tuple[str, list[str], list[int]]:
    """A pod with a container in the host's pid namespace and one in the pod's; their pids on the host."""
    expected = options(network=NODE, pid=NODE)
    pod = await run_pod(cri, expected)
    made = [
        await run_container(cri, pod, *FOREVER, namespaces=options(network=NODE, pid=pid), name=f"c{pid}")
        for pid in (NODE, POD)
    ]
    live = cri.node.pods.get(pod)
    return pod, made, [live.containers[one].guest_pid for one in made]


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


async def test_the_containers_go_with_an_agent_that_is_killed(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        pod, made, pids = await _pod_of_two(cri)
        assert all(map(_is_alive, pids))
        agent = cri.node.pods.get(pod).vm
        assert agent is not None
        os.kill(agent.pid, signal.SIGKILL)
        for one in made:
            assert (await cri.ended(one)).exit_code == 137
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_NOTREADY
        assert not any(map(_is_alive, pids)) and machine.cgroups() == []
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_agent_and_daemon_killed_together_leave_nothing_after_the_next_start(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        pod, made, pids = await _pod_of_two(cri)
    agent = engine.find_vm(engine.pod_directory(machine.host, pod))
    assert agent is not None
    agent.kill()
    assert _is_alive(pids[0]), "in the host's pid namespace nothing but the daemon can end it"
    async with machine.daemon() as cri:
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_NOTREADY
        assert [(await cri.status(one)).exit_code for one in made] == [137, 137]
        assert not any(map(_is_alive, pids)) and machine.cgroups() == []
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_a_half_made_pod_is_removed_with_its_processes(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        pod, _, pids = await _pod_of_two(cri)
    place = Path(engine.pod_directory(machine.host, pod))
    (place / "vm.json").unlink()
    (place / "state.json").unlink()
    async with machine.daemon() as cri:
        assert (await cri("ListPodSandbox")).items == []
        assert not any(map(_is_alive, pids)) and machine.left_over() == []


UNCHANGED = """
mounts() { sed '/ \\/tmp\\//d' /proc/self/mountinfo; }
before=$(mounts); "$@"; code=$?
[ "$(mounts)" = "$before" ] || exit 99
exit $code
"""
"""A command's code, or 99 when it has changed a mount. It has a mount namespace of its own, since others mount, too:
what they have mounted goes from it as soon as they remove the directory below.
"""


def test_the_agent_alone_changes_nothing(guest_dir: Path) -> None:
    for arguments in ([], ["--directory=/nowhere"], ["--directory=relative", "--cgroup=/x", "--crun=/x"]):
        argv = ["unshare", "--mount", "sh", "-c", UNCHANGED, "sh", guest_dir / "agent", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 1 and "not PID 1" in done.stderr


async def test_pods_on_the_host_and_in_vms_live_side_by_side(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        on_host, in_vm = await run_pod(cri, options(network=NODE)), await cri.pod("vm")
        kinds = {}
        for pod in (on_host, in_vm):
            info = (await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)).info["info"]
            kinds[pod] = json.loads(info)["vm"]["hypervisor"]
        assert kinds == {on_host: "host", in_vm: "qemu"}
        for pod in (on_host, in_vm):
            await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert machine.left_over() == [] and all(guest.join(2 * PATIENCE) for guest in machine.fake.guests.values())


@pytest.mark.parametrize(
    ("allow", "namespaces", "fields", "output"),
    [
        ((), options(network=NODE), {}, "network namespace"),
        ((), options(ipc=NODE), {}, "host_pods.allow"),
        (("network",), options(network=NODE, pid=NODE), {}, "pid namespace"),
        (("network",), options(network=NODE), {"sysctls": {"net.ipv4.ip_forward": "0"}}, "whole host"),
        (("pid",), options(pid=NODE), {"sysctls": {"vm.swappiness": "1"}}, "whole host"),
    ],
)
async def test_what_is_not_allowed_is_refused(
    machine: HostWorld, allow: tuple[str, ...], namespaces: pb.NamespaceOption, fields: dict[str, Any], output: str
) -> None:
    machine.allow(*allow)
    async with machine.daemon() as cri:
        linux = pb.LinuxPodSandboxConfig(
            security_context=pb.LinuxSandboxSecurityContext(namespace_options=namespaces), **fields
        )
        code, sentence = await cri.refused("RunPodSandbox", config=cri.sandbox(linux=linux))
        assert code == "INVALID_ARGUMENT" and output in sentence
    assert not os.path.exists(f"{machine.config.run_dir}/pods") or machine.left_over() == []


async def test_a_privileged_pod_on_the_host_needs_a_setting_of_its_own(machine: HostWorld) -> None:
    context = pb.LinuxSandboxSecurityContext(namespace_options=options(network=NODE), privileged=True)
    async with machine.daemon() as cri:
        config = cri.sandbox(linux=pb.LinuxPodSandboxConfig(security_context=context))
        code, sentence = await cri.refused("RunPodSandbox", config=config)
        assert code == "INVALID_ARGUMENT" and "host_pods.privileged" in sentence


async def test_a_container_gets_no_namespace_that_its_sandbox_has_not(machine: HostWorld) -> None:
    async with machine.daemon() as cri:
        pod = await run_pod(cri, options(network=NODE))
        context = pb.LinuxContainerSecurityContext(namespace_options=options(network=NODE, pid=NODE))
        config = cri.config("true", linux=pb.LinuxContainerConfig(security_context=context))
        code, sentence = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=config)
        assert code == "INVALID_ARGUMENT" and "pid namespace" in sentence
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_without_crun_such_a_pod_is_refused(machine: HostWorld) -> None:
    machine.host = machine.host._replace(crun="")
    context = pb.LinuxSandboxSecurityContext(namespace_options=options(network=NODE))
    async with machine.daemon() as cri:
        config = cri.sandbox(linux=pb.LinuxPodSandboxConfig(security_context=context))
        code, sentence = await cri.refused("RunPodSandbox", config=config)
        assert code == "NOT_FOUND" and "clearpod check" in sentence


def _crun_that_costs_its_helper(machine: HostWorld) -> Path:
    """Later pods get a crun which does its work, and then kills the agent's helper while the file `armed` is there, as
    the kernel of a guest under a fork bomb may.
    """
    armed, wrapper = machine.root / "armed", machine.root / "crun"
    crun = machine.host.crun
    then = f'case " $* " in *" run "* | *" exec "*) [ ! -e {armed} ] || kill -9 $PPID ;; esac'
    wrapper.write_text(f'#!/bin/sh\n{crun} "$@" || exit\n{then}\n')
    wrapper.chmod(0o755)
    assert machine.host.crun
    machine.host = machine.host._replace(crun=str(wrapper))
    return armed


def _runs(seconds: int) -> bool:
    return f"sleep\0{seconds}\0" in "".join(command_lines().values())


async def test_what_was_started_by_a_helper_that_is_killed_does_not_run(machine: HostWorld) -> None:
    armed, expected = _crun_that_costs_its_helper(machine), options(network=NODE, pid=NODE)
    async with machine.daemon() as cri:
        pod = await run_pod(cri, expected)
        lives = await run_container(cri, pod, *FOREVER, namespaces=expected, name="lives")
        armed.touch()
        command, seconds = cri.config("sleep", "987654", name="dies"), 987654
        dies = str((await cri("CreateContainer", pod_sandbox_id=pod, config=command)).container_id)
        code, sentence = await cri.refused("StartContainer", container_id=dies)
        assert (code, "helper was killed" in sentence) == ("UNKNOWN", True)
        status = await cri.status(dies)
        assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
        assert (await cri.refused("ExecSync", container_id=lives, cmd=["sleep", str(seconds + 1)]))[0] == "UNKNOWN"
        async with asyncio.timeout(10 * PATIENCE):
            while _runs(seconds) or _runs(seconds + 1):
                await asyncio.sleep(0.05)
        armed.unlink()
        await cri("RemoveContainer", container_id=dies)
    async with machine.daemon() as cri:
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_READY
        assert await out(cri, lives, "echo", "still here") == "still here"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []


async def test_a_start_by_a_slow_crun_that_was_given_up_runs_nothing(machine: HostWorld) -> None:
    wrapper, place = machine.root / "crun", machine.root / "data"
    place.mkdir()
    wrapper.write_text(f'#!/bin/sh\ncase " $* " in *" run "*) sleep 2 ;; esac\nexec {machine.host.crun} "$@"\n')
    wrapper.chmod(0o755)
    machine.host = machine.host._replace(crun=str(wrapper))
    expected = options(network=NODE, pid=NODE)
    linux = pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(namespace_options=expected))
    async with machine.daemon() as cri:
        pod, made = await run_pod(cri, expected), []
        for attempt in range(2):
            metadata, mount = pb.ContainerMetadata(name="c", attempt=attempt), pb.Mount(host_path=str(place))
            mount.container_path = "/data"
            script = f"echo {attempt} >> /data/ran; exec sleep 1000"
            made.append(await cri.container(pod, "sh", "-c", script, metadata=metadata, mounts=[mount], linux=linux))
        with pytest.raises(AioRpcError, match="DEADLINE_EXCEEDED"):
            await cri("StartContainer", container_id=made[0], deadline_s=1 / PATIENCE)
        status = await cri.status(made[0])
        assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
        await cri("StartContainer", container_id=made[1])
        async with asyncio.timeout(20 * PATIENCE):
            while not (place / "ran").exists():
                await asyncio.sleep(0.05)
        await asyncio.sleep(2)
        assert (place / "ran").read_text() == "1\n"
        assert [(await cri.status(one)).state for one in made] == [pb.CONTAINER_EXITED, pb.CONTAINER_RUNNING]
        await cri("RemoveContainer", container_id=made[0])
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert machine.left_over() == []
