# SPDX-License-Identifier: Apache-2.0
"""A running pod's VMM behind its allow-list of system calls: that it is there, and that containers lose nothing."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cri.pods.pod import LivePod
from stage1.pod.model import HOST_TO_CONTAINER, Mount
from tests.vm.test_confinement import Machine, booted, machine, pid_of, said, started

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]

FILTER_MODE = "2"
"""SECCOMP_MODE_FILTER, as /proc/PID/status has it."""
FILTERS = "2"
"""The one that the VMM was started with, and the one that takes execve away."""

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
    found = set()
    for task in Path("/proc", str(pid_of(pod)), "task").iterdir():
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        found.add((status["NoNewPrivs"].strip(), status["Seccomp"].strip(), status["Seccomp_filters"].strip()))
    return found


async def test_all_that_a_container_does_with_files_works_behind_both_filters(
    machine: Machine, with_probe: Mount
) -> None:
    async with booted(machine) as pod:
        assert filters_of(pod) == {("1", FILTER_MODE, FILTERS)}
        container = await started(pod, machine.image, with_probe)
        assert await said(pod, container, "cd /data/work && /data/probe") == "all done"
        assert await said(pod, container, "mkdir /work && cd /work && /data/probe || true")  # the scratch disk
        assert filters_of(pod) == {("1", FILTER_MODE, FILTERS)}, "threads that came later have them too"
    assert sorted(path.name for path in (machine.volume / "work").iterdir() if path.is_fifo() or path.is_socket()) == [
        "pipe",
        "socket",
    ]
