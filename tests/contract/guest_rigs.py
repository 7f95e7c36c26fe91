# SPDX-License-Identifier: Apache-2.0
"""Guests to run tests/contract/test_guest_link.py against: each a function that yields a Rig. Add one, add
its name.

A rig's guest has booted or is booting, and has its link at `factory`. Commands of the tests are those of
busybox.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stage1.guest.connect import unix_factory
from stage1.vm import qemu
from stage1.vm.spec import SerialLink, Share, VmSpec
from tests.fakes.guest import FakeVmm
from tests.fakes.guest_client import Factory
from tests.vm import agent_machine

ENV = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


class Rig(NamedTuple):
    """A guest: how to reach it, whether it lives, where its bundles are, the image's name for Create.

    `document` makes a container's config.json from its id and its OCI process object. `key` is for all hosts of this
    guest; one that is not new was configured by an earlier test, and has no containers.
    """

    factory: Factory
    alive: Callable[[], bool]
    bundles: Path
    lower: str
    document: Callable[[str, dict[str, Any]], dict[str, Any]]
    hello_s: float
    key: bytes
    is_new: bool = True

    def bundle(self, name: str, argv: list[str], *, tty: bool = False) -> None:
        """Write a container's bundle."""
        (self.bundles / name).mkdir()
        document = self.document(name, {"args": argv, "env": ENV, "cwd": "/", "terminal": tty})
        (self.bundles / name / "config.json").write_text(json.dumps(document))

    def process(self, name: str, file: str, argv: list[str]) -> None:
        """Write an exec's process file into the bundle."""
        document = self.document(name, {"args": argv, "env": ENV, "cwd": "/", "terminal": False})
        (self.bundles / name / file).write_text(json.dumps(document["process"]))


def fake(tmp_path: Path) -> Iterator[Rig]:
    """The instant VM."""
    (tmp_path / "volumes/containers").mkdir(parents=True)
    vmm = FakeVmm()
    vm = vmm.start(VmSpec(
        name="fake", hypervisor=qemu.HYPERVISOR, binary="/none", run_dir=str(tmp_path), kernel="/none",
        initramfs="/none", system_image="/none",
        memory_mib=64, vcpus=1, link=SerialLink(str(tmp_path / "agent.sock")),
        shares=(Share("volumes", str(tmp_path / "volumes"), read_only=False),),
    ))  # fmt: skip
    try:
        yield Rig(
            factory=unix_factory(str(tmp_path / "agent.sock")),
            alive=vm.alive,
            bundles=tmp_path / "volumes/containers",
            lower="image",
            document=lambda _, process: {"process": process},
            hello_s=5.0,
            key=os.urandom(16),
        )
    finally:
        vmm.stop()


def agent(tmp_path: Path) -> Iterator[Rig]:
    """The real agent in QEMU."""
    if reason := agent_machine.missing():
        pytest.skip(reason)
    machine = agent_machine.Machine(tmp_path, talk=False)
    (machine.volumes / "containers").mkdir()

    def document(name: str, process: dict[str, Any]) -> dict[str, Any]:
        config = agent_machine.config_of(name, process["args"], tty=process["terminal"])
        config["process"]["env"] = process["env"]
        return config

    try:
        yield Rig(
            factory=unix_factory(str(tmp_path / "agent.sock")),
            alive=lambda: machine.vm.poll() is None,
            bundles=machine.volumes / "containers",
            lower="image",
            document=document,
            hello_s=60.0,
            key=os.urandom(16),
        )
    finally:
        machine.kill()


RIGS = [pytest.param(fake, id="fake"), pytest.param(agent, id="agent", marks=pytest.mark.vm)]
