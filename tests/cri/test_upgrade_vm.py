# SPDX-License-Identifier: Apache-2.0
"""A real virtual machine that commit e7710e6 has booted, with its own guest and its own way to start a hypervisor,
under today's daemon: it is adopted, its output goes on, it can be used and removed. A shallow clone skips this.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from cri.pb import runtime_pb2 as pb
from stage1 import engine
from tests.cri.conftest import Registered, VmWorld
from tests.cri.test_recovery import _client, _numbers
from tests.fakes import former as older
from tests.fakes import places

pytestmark = pytest.mark.vm

COUNT = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done; exit 3"


@pytest.fixture
def machine(sample: Registered, guest_dir: Path, tmp_path: Path) -> Iterator[VmWorld]:
    """With a state directory of its own."""
    own = sample._replace(state_dir=f"{tmp_path}/state")
    with places.short_directory() as root:
        made = VmWorld(Path(root), own, guest_dir)
        try:
            yield made
        finally:
            for place in engine.pod_directories(made.host):
                engine.clean_up(place)


@contextmanager
def serving(machine: VmWorld, tree: Path, guest: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The daemon of that tree."""
    config = machine.root / "config.toml"
    config.write_text(
        f'run_dir = "{machine.config.run_dir}"\nstate_dir = "{machine.config.state_dir}"\n'
        f'[guest]\ndir = "{guest}"\n[vm]\nhypervisor = "qemu"\nscratch_mib = 64\n'
        f'[network]\ndefault = false\nconf_dir = "{machine.root}/net.d"\n'
    )
    argv = [sys.executable, "-m", "cri", "serve", "--config", str(config)]
    with (machine.root / "serve.log").open("ab") as log:
        process = subprocess.Popen(argv, cwd=tree, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(900)
async def test_a_virtual_machine_of_the_former_version_is_adopted(
    machine: VmWorld, guest_dir: Path, tmp_path: Path
) -> None:
    if not older.is_here():
        pytest.skip(older.LACKS_IT)
    (tmp_path / "former").mkdir()
    former = older.tree(tmp_path / "former")
    guest = older.guest(former, guest_dir)
    machine.image = older.pull(former, machine.config.state_dir, f"oci:{guest_dir}/sample:sample")
    with serving(machine, former, guest) as process:
        cri = await _client(machine)
        pod = await cri.pod(log_directory=f"{machine.root}/logs")
        c = await cri.container(pod, "sh", "-c", COUNT)
        await cri("StartContainer", container_id=c)
        process.send_signal(signal.SIGKILL)
        await cri.close()
    with serving(machine, older.REPO, guest_dir):
        cri = await _client(machine)
        status = await cri.ended(c, limit_s=60)
        assert status.exit_code == 3 and _numbers(status.log_path) == list(range(1, 20001))
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_READY
        late = await cri.container(pod, "sleep", "1000", name="late")
        await cri("StartContainer", container_id=late)
        ran = await cri("ExecSync", container_id=late, cmd=["echo", "here"])
        assert (ran.exit_code, ran.stdout) == (0, b"here\n")
        volume = pb.Mount(host_path=f"{machine.root}/logs", container_path="/host", readonly=True)
        with pytest.raises(grpc.aio.AioRpcError, match="earlier version") as refused:  # its guest has no FUSE
            await cri.container(pod, "sleep", "1000", name="volume", mounts=[volume])
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        await cri.close()
    assert machine.left_over() == []
