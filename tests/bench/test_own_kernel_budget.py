# SPDX-License-Identifier: Apache-2.0
"""The budget of docs/dev/budgets.md for own kernels: from the VMM's exec to the first line, relative to QEMU alone.

Both run in turns with the same kernel and machine, and each is timed from its exec: the set-up of the jail is not
included, its cost for the VMM is.
"""

import os
import socket
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from stage1.linux.inotify import Watch
from stage1.vm import hypervisors
from stage1.vm.choose import choose
from stage1.vm.own_machine import BEGIN
from stage1.vm.spec import OwnMachine, SerialLink, VmSpec
from stage1.vm.starter import ProcessVmm
from tests.fakes import kernels, places

pytestmark = [pytest.mark.bench, pytest.mark.vm]

TURNS = 9
MOST = 1.2


def _first_line_s(path: Path, begun_s: float) -> float:
    """Seconds until the file, which exists, has a line."""
    fd = os.open(path, os.O_RDONLY)
    watch = Watch(fd)
    try:
        while b"\n" not in os.pread(fd, 4096, 0):
            assert time.monotonic() - begun_s < 60
            watch.clear()
        return time.monotonic() - begun_s
    finally:
        watch.close()
        os.close(fd)


def _told_to_begin(monitor: str) -> socket.socket:
    """Start the VM as the daemon does, by the monitor."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(monitor)
    client.sendall("".join(f'{{"execute": "{command}"}}\n' for command in BEGIN).encode())
    return client


def test_an_own_kernels_first_line_comes_nearly_as_soon_as_in_qemu_alone(guest_dir: Path, jailer: str) -> None:
    choice = choose("qemu", hypervisors.facts())
    with places.short_directory() as place:
        kernel, serial = Path(place) / "kernel", Path(place) / "serial.log"
        kernel.write_bytes(kernels.hello())
        own = OwnMachine("microvm", "", serial=str(serial), monitor=f"{place}/monitor.sock")
        vm = VmSpec("v", choice.hypervisor, choice.binary, place, str(kernel), "", "", 64, 1, SerialLink(""),
                    accel=choice.accel, sandbox=choice.sandbox, own=own, jailer=jailer,
                    filter=f"{guest_dir}/{choice.hypervisor.filter}")  # fmt: skip
        alone = [choice.binary, "-machine", "microvm,acpi=off", "-accel", choice.accel, "-cpu", "max", "-m", "64"]
        alone += ["-kernel", str(kernel), "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]
        ours, theirs = [], []
        for _ in range(TURNS):
            serial.write_bytes(b"")
            Path(own.monitor).unlink(missing_ok=True)
            process = ProcessVmm().start(vm)
            begun_s = time.monotonic()
            with _told_to_begin(own.monitor):
                ours.append(_first_line_s(serial, begun_s))
            process.kill()
            with (Path(place) / "alone.log").open("wb") as log:
                qemu = subprocess.Popen(alone, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                theirs.append(_first_line_s(Path(log.name), time.monotonic()))
                qemu.kill()
                qemu.wait()
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(
        f"{statistics.median(ours) * 1000:.1f} ms, {statistics.median(theirs) * 1000:.1f} ms alone: {ratio:.2f} times"
    )
    assert ratio <= MOST
