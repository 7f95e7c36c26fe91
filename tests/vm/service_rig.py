# SPDX-License-Identifier: Apache-2.0
"""The daemon as a unit of Debian's real systemd, with real VMs, and a client for it. Used by test_service.py and
test_pod_scope.py.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from tests.cri.conftest import Client
from tests.fakes import places
from tests.fakes.patience import PATIENCE
from tests.fakes.systemd_machine import SystemdMachine, why_not

REPO = Path(__file__).parents[2]
UNIT = (REPO / "docs/admin/clearpod.service").read_text(encoding="utf-8")
MORE = """[Service]
ExecStart=
ExecStart={python} -m cri serve --config {root}/config.toml
WorkingDirectory={repo}
WatchdogSec={watchdog_s}
TimeoutStartSec={start_s}
Environment=PATH={path}
StandardOutput=append:{root}/serve.log
StandardError=append:{root}/serve.log
"""
NAME = "clearpod.service"


@contextmanager
def systemd_machine(
    hypervisor: str, guest_dir: Path, *, units: dict[str, str] | None = None, more: str = ""
) -> Iterator[SystemdMachine]:
    """With our unit, not started, and `units`; `more` is added to the daemon's configuration."""
    if lacks := why_not():
        pytest.skip(f"systemd can't be PID 1 of namespaces here: it {lacks}")
    with places.short_directory() as place:
        root = Path(place)
        text = f'run_dir = "{root}/run"\nstate_dir = "{root}/state"\n[guest]\ndir = "{guest_dir}"\n[vm]\nhypervisor = '
        text += f'"{hypervisor}"\nscratch_mib = 64\nboot_timeout_s = {60 * PATIENCE}\n[network]\ndefault = false\n'
        (root / "config.toml").write_text(f'{text}conf_dir = "{root}/none"\n{more}')
        limits = {"watchdog_s": 5 * PATIENCE, "start_s": 90 * PATIENCE}
        settings = MORE.format(python=sys.executable, root=root, repo=REPO, path=os.environ["PATH"], **limits)
        with SystemdMachine(root, {NAME: UNIT, f"{NAME}.d/test.conf": settings} | (units or {})) as made:
            yield made


class Node:
    """A client of the daemon in there, through the socket in its directory."""

    def __init__(self, root: Path, image: str) -> None:
        self.socket, self.image, self.root = f"{root}/run/clearpod.sock", image, root

    async def start(self) -> str:
        """Pull the image, run a pod and a container in it that counts; the container's id."""
        cri = Client(self.socket, None, self.image)  # type: ignore[arg-type]
        await cri("PullImage", image=pb.ImageSpec(image=self.image), deadline_s=60)
        pod = await cri.pod(log_directory=f"{self.root}/logs")
        made = await cri.container(pod, "sh", "-c", "while :; do echo tick; sleep 0.2; done")
        await cri("StartContainer", container_id=made)
        assert (await cri("ExecSync", container_id=made, cmd=["echo", "hi"])).stdout == b"hi\n"
        await cri.close()
        return made

    async def runs(self, container: str) -> bool:
        """Whether it does, and answers."""
        cri = Client(self.socket, None, self.image)  # type: ignore[arg-type]
        status = await cri.status(container)
        output = (await cri("ExecSync", container_id=container, cmd=["echo", "hi"])).stdout
        await cri.close()
        return bool(status.state == pb.CONTAINER_RUNNING) and output == b"hi\n"

    async def remove_all(self) -> None:
        cri = Client(self.socket, None, self.image)  # type: ignore[arg-type]
        for one in (await cri("ListPodSandbox")).items:
            await cri("RemovePodSandbox", pod_sandbox_id=one.id)
        await cri.close()
