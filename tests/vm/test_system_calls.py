# SPDX-License-Identifier: Apache-2.0
"""A running pod's VMM behind its allow-list of system calls: that it is there, and that containers lose nothing."""

import asyncio
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from cri.live.pod import LivePod
from stage1.errors import VmFailed
from stage1.pod.model import HOST_TO_CONTAINER, Mount
from stage1.vm import sigsys
from stage1.vm.spec import VmSpec
from stage1.vm.starter import ProcessVmm
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import statuses
from tests.vm.test_confinement import Machine, booted, machine, output_of, pid_of, started

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]

FILTER_MODE = "2"
"""SECCOMP_MODE_FILTER, as /proc/PID/status has it."""
FILTERS = "2"
"""The one that the VMM was started with, and the one that takes execve away."""

PPOLL = 271
WITHOUT_PPOLL = ((0x20, 0, 0, 0), (0x15, 0, 1, PPOLL), (0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000))

__all__ = ["machine"]


@pytest.fixture
def with_probe(machine: Machine) -> Mount:
    """A volume with `probe`, the program of files_probe.c, and an empty directory `work`."""
    compiler = shutil.which("musl-gcc")
    if not compiler:
        pytest.skip("needs musl-gcc: apt install musl-tools")
    source = Path(__file__).with_name("files_probe.c")
    built = machine.volume / "probe"
    subprocess.run([compiler, "-static", "-O1", "-D_GNU_SOURCE", "-o", built, source], check=True, timeout=60)
    (machine.volume / "work").mkdir()
    return Mount(str(machine.volume), "/data", propagation=HOST_TO_CONTAINER)


def filters_of(pod: LivePod) -> set[tuple[str, str, str]]:
    """Of each thread of the VMM: no_new_privs, seccomp's mode, how many filters."""
    result = set()
    for status in statuses(pid_of(pod)):
        result.add((status["NoNewPrivs"].strip(), status["Seccomp"].strip(), status["Seccomp_filters"].strip()))
    return result


async def test_files_of_volumes_can_be_mapped(machine: Machine, with_probe: Mount) -> None:
    async with booted(machine) as pod:
        container = await started(pod, machine.image, with_probe)
        assert await output_of(pod, container, "cd /data/work && /data/probe maps") == "all done"
        (machine.volume / "open").write_text("one old")
        waits = "touch /data/read; while [ ! -e /data/go ]; do sleep 0.1; done; sleep 1.1"
        reads = f"exec 3</data/open; dd bs=3 count=1 2>/dev/null <&3; {waits}; dd bs=9 2>/dev/null <&3"
        seen = asyncio.create_task(output_of(pod, container, reads))
        while not (machine.volume / "read").exists():
            await asyncio.sleep(0.05)
        (machine.volume / "open").write_text("one new")
        (machine.volume / "go").touch()
        assert await seen == "one new", "the host is asked again after a second"


async def test_all_that_a_container_does_with_files_works_behind_both_filters(
    machine: Machine, with_probe: Mount
) -> None:
    async with booted(machine) as pod:
        assert filters_of(pod) == {("1", FILTER_MODE, FILTERS)}
        container = await started(pod, machine.image, with_probe)
        assert await output_of(pod, container, "cd /data/work && /data/probe") == "all done"
        assert await output_of(pod, container, "mkdir /work && cd /work && /data/probe || true")  # the scratch disk
        assert filters_of(pod) == {("1", FILTER_MODE, FILTERS)}, "threads that came later have them too"
    assert sorted(path.name for path in (machine.volume / "work").iterdir() if path.is_fifo() or path.is_socket()) == [
        "pipe",
        "socket",
    ]


@pytest.mark.only_on("qemu", "it has an event loop, which this filter forbids")
def test_a_vmm_that_its_filter_ends_is_reported_with_the_call(vm: VmSpec, tmp_path: Path) -> None:
    lines = tmp_path / "without-ppoll.bpf"
    lines.write_bytes(b"".join(struct.pack("HBBI", *line) for line in WITHOUT_PPOLL))
    with pytest.raises(VmFailed, match=r"code 159: .*filter .*\(signal 31, SIGSYS\)") as caught:
        ProcessVmm(watch_s=60.0 * PATIENCE).start(vm._replace(filter=str(lines)))
    if os.access(sigsys.LOG, os.R_OK) and "SIGSYS);" not in str(caught.value):
        assert f" at call {PPOLL} of x86-64;" in str(caught.value)
