# SPDX-License-Identifier: Apache-2.0
"""`clearpod serve` as a service: the signals, the notifications to systemd, and a node that lacks something."""

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cri.config_tables import Vm
from cri.readiness import Readiness
from cri.translate.sandbox import plain
from stage1 import engine
from stage1.linux.host import which
from tests.fakes.cni import FakeCni
from tests.fakes.notified import Notified
from tests.fakes.patience import PACE, PATIENCE

from .conftest import Client, World
from .test_recovery import _client as connected

REPO = Path(__file__).parents[2]
END_S, WATCHDOG_S = 5 * PATIENCE, 3 * PACE

pytestmark = pytest.mark.skipif(
    not which("qemu-system-x86_64"), reason="needs a hypervisor: apt install qemu-system-x86"
)


class Daemon:
    """The real command, with a systemd that listens."""

    def __init__(self, world: World, systemd: Notified) -> None:
        self.world, self.systemd = world, systemd
        self.file, self.log = world.root / "config.toml", world.root / "serve.log"
        self.configure()
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, more: str = "") -> None:
        """Write the configuration: what the world has, and `more`."""
        output = self.world.config
        text = f'run_dir = "{output.run_dir}"\nstate_dir = "{self.world.root}/state"\n'
        text += f'{more}\n[guest]\ndir = "{output.guest.dir}"\n[network]\n'
        self.file.write_text(
            f'{text}conf_dir = "{self.world.root}/cni/net.d"\nbin_dirs = ["{self.world.root}/cni/bin"]\n'
        )

    def start(self) -> "subprocess.Popen[bytes]":
        """Until it is ready."""
        argv = [sys.executable, "-m", "cri", "serve", "--config", str(self.file)]
        more = {"NOTIFY_SOCKET": self.systemd.address, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, cwd=REPO, env={**os.environ, **more}, stdout=log, stderr=log)
        self.systemd.until("READY=1")
        return self.process

    def reload(self) -> list[str]:
        """SIGHUP; its notification once it is ready again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        output = self.systemd.until("RELOADING=1")
        assert any(one.startswith("MONOTONIC_USEC=") for one in output)
        return self.systemd.until("READY=1")

    def config(self) -> Any:
        """What is in force."""

        async def ask() -> Any:
            cri = Client(self.world.config.socket_path, None, "")  # type: ignore[arg-type]
            try:
                return json.loads((await cri("Status", verbose=True)).info["config"])
            finally:
                await cri.close()

        return asyncio.run(ask())


@pytest.fixture
def daemon(world: World) -> Iterator[Daemon]:
    with Notified(world.root / "notify") as systemd:
        made = Daemon(world, systemd)
        yield made
        if made.process is not None:
            made.process.kill()
            made.process.wait()


def test_systemd_is_notified_of_readiness_watchdog_and_stop(daemon: Daemon) -> None:
    process = daemon.start()
    assert daemon.config()["run_dir"] == daemon.world.config.run_dir, "it answers as soon as it has said so"
    assert any(word.startswith("STATUS=0 pods") for word in daemon.systemd.messages[-1])
    begun = len(daemon.systemd.times_s)
    for _ in range(3):
        daemon.systemd.until("WATCHDOG=1")
    times = daemon.systemd.times_s[begun:]
    assert max(b - a for a, b in itertools.pairwise(times)) < WATCHDOG_S
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    daemon.systemd.until("STOPPING=1")
    assert process.wait(END_S) == 0 and time.monotonic() - sent < END_S


def test_sighup_applies_what_can_change_and_reports_what_can_not(daemon: Daemon) -> None:
    process = daemon.start()
    daemon.configure('pinned_images = ["new"]\n[log]\nlevel = "debug"\n[vm]\nscratch_mib = 77')
    output = daemon.reload()
    assert any("vm.scratch_mib" in word and "pinned_images" in word for word in output if word.startswith("STATUS="))
    now = daemon.config()
    assert (now["pinned_images"], now["log"]["level"]) == (["new"], "debug")
    assert now["vm"]["scratch_mib"] == Vm().scratch_mib
    assert " DEBUG " in daemon.log.read_text(), "calls that are repeated each second appear"
    assert process.poll() is None


@pytest.mark.parametrize("more", ["nonsense = 1", "not TOML", '[vm]\nmemory_mib = "x"'])
def test_a_bad_configuration_keeps_the_old_one_with_a_sentence(daemon: Daemon, more: str) -> None:
    daemon.configure('pinned_images = ["old"]')
    daemon.start()
    daemon.configure(more)
    (status,) = [word for word in daemon.reload() if word.startswith("STATUS=")]
    assert f"{daemon.file}:" in status
    assert daemon.config()["pinned_images"] == ["old"] and str(daemon.file) in daemon.log.read_text()
    daemon.configure()
    assert not any(str(daemon.file) in word for word in daemon.reload())
    assert daemon.config()["pinned_images"] == []


def test_a_file_that_is_gone_keeps_the_old_configuration(daemon: Daemon) -> None:
    daemon.start()
    daemon.file.unlink()
    assert any(str(daemon.file) in word for word in daemon.reload())
    assert daemon.config()["run_dir"] == daemon.world.config.run_dir


def test_many_sighups_at_once_and_one_before_it_serves_end_nothing(daemon: Daemon) -> None:
    process = daemon.start()
    for _ in range(50):
        process.send_signal(signal.SIGHUP)
    daemon.systemd.until("RELOADING=1")
    daemon.systemd.until("READY=1")
    assert process.poll() is None and daemon.config()


def test_sigterm_does_not_wait_for_a_plugin_that_hangs(daemon: Daemon, world: World) -> None:
    cni = FakeCni(world.root / "cni")
    pid = world.root / "hangs"
    cni.trouble("first", "ADD", f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 100")
    process = daemon.start()

    async def run_a_pod() -> None:
        cri = await connected(world)
        call = asyncio.ensure_future(cri("RunPodSandbox", config=cri.sandbox()))
        async with asyncio.timeout(20 * PATIENCE):
            while not pid.exists():
                assert not call.done(), call
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        call.cancel()
        await cri.close()

    for name in ("jailer", "seccomp-qemu.bpf"):
        Path(world.config.guest.dir, name).touch()
    asyncio.run(run_a_pod())
    begun = time.monotonic()
    assert process.wait(END_S) == 0 and time.monotonic() - begun < END_S
    cni.trouble("first", "ADD", "")
    os.kill(int(pid.read_text()), signal.SIGKILL)
    host = world.host._replace(state_dir=f"{world.root}/state")
    for directory in engine.pod_directories(host):
        engine.clean_up(directory)
    assert cni.left_over() == []


@pytest.mark.parametrize("missing", ["vmlinux", "initramfs", "system.erofs"])
async def test_without_a_file_of_the_guest_the_node_is_not_ready(world: World, missing: str) -> None:
    async with world.daemon() as cri:
        assert await ready(cri) == (True, "", "")
        Path(world.host.guest_dir, missing).unlink()
        result = await ready(cri)
        assert result[:2] == (False, "GuestMissing") and missing in result[2]
        Path(world.host.guest_dir, missing).touch()
        assert await ready(cri) == (True, "", "")


async def test_without_a_program_or_a_disk_the_node_is_not_ready(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.daemon() as cri:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", str(tmp_path))
            assert (await ready(cri))[:2] == (False, "ToolMissing")
        hypervisor = shutil.copy("/bin/true", tmp_path / "qemu")
        cri.node.readiness._host = world.host._replace(choice=world.host.choice._replace(binary=str(hypervisor)))
        assert (await ready(cri))[0]
        os.unlink(hypervisor)
        result = await ready(cri)
        assert result[:2] == (False, "ToolMissing") and str(hypervisor) in result[2]
        cri.node.readiness._host = world.host._replace(state_dir=f"{tmp_path}/gone")
        result = await ready(cri)
        assert result[:2] == (False, "DiskMissing") and f"{tmp_path}/gone" in result[2]


async def test_a_disk_that_is_read_only_or_hangs_is_reported(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    readiness = Readiness(world.host._replace(state_dir="/proc/sys" if os.statvfs("/proc/sys").f_flag & 1 else "/sys"))
    if os.statvfs(readiness._host.state_dir).f_flag & os.ST_RDONLY:
        lack = await readiness.check()
        assert lack is not None and lack.reason == "DiskReadOnly"
    readiness.close()
    fifo = world.root / "fifo"
    os.mkfifo(fifo)
    hangs = Readiness(world.host)
    hangs._looking = asyncio.get_running_loop().run_in_executor(hangs._pool, fifo.read_bytes)  # type: ignore[assignment,arg-type,return-value]
    for _ in range(2):
        lack = await hangs.check()
        assert lack is not None and lack.reason == "DiskHangs"
    fifo.write_bytes(b"")
    hangs.close()


async def ready(cri: Client) -> tuple[bool, str, str]:
    """RuntimeReady."""
    conditions = (await cri("Status")).status.conditions
    (result,) = [one for one in conditions if one.type == "RuntimeReady"]
    return result.status, result.reason, result.message


async def test_what_is_taken_counts_at_once(world: World) -> None:
    async with world.daemon() as cri:
        config = world.config.but(limits=world.config.limits.but(max_pods=1))
        await cri.node.take(config, plain(config))
        await cri.pod("one")
        assert (await cri.refused("RunPodSandbox", config=cri.sandbox("two")))[0] == "RESOURCE_EXHAUSTED"
        await cri.node.take(world.config, plain(world.config))
        await cri.pod("two")


async def test_a_pool_whose_size_of_vms_changed_is_filled_anew(world: World) -> None:
    world.warm(2)
    async with world.daemon() as cri:
        await cri.warmed(2)
        vm = world.config.vm.but(memory_mib=world.config.vm.memory_mib + 16)
        changed = world.config.but(vm=vm)
        await cri.node.take(world.config, plain(world.config))
        assert (await cri.pool())["booted"] == 2, "nothing has changed"
        await cri.node.take(changed, plain(changed))
        counts = await cri.warmed(2)
        assert counts["booted"] == 4
        pod = await cri.pod()
        assert (await cri.pool())["taken"] == 1 and pod
