# SPDX-License-Identifier: Apache-2.0
"""What gc kills: processes of the pod's own, found by the program they run, and nothing else."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stage1.rkt import orphans

UUID = f"5f1c2a3b-0000-4000-8000-{os.getpid():08x}aaaa"
TREE = "deps-sha512-" + "0" * 64


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    """A pod's directory, in `run`."""
    path = tmp_path / "data/pods/run" / UUID
    (path / "stage1/rootfs").mkdir(parents=True)
    (path / "stage1TreeStoreID").write_text(TREE)
    (tmp_path / "data/cas/tree" / TREE / "rootfs").mkdir(parents=True)
    return path


def moved(pod: Path) -> str:
    target = pod.parents[1] / "exited-garbage" / UUID
    target.parent.mkdir()
    pod.rename(target)
    return str(target)


def has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """`end` waits, and reaps a child of ours."""
    return not os.path.exists(f"/proc/{process.pid}")


def spin(path: Path, *argv: str) -> "subprocess.Popen[bytes]":
    """A shell under another name, so that it takes any arguments; it lives until its stdin is closed."""
    shutil.copy(os.path.realpath("/bin/sh"), path)
    process = subprocess.Popen([path, "-c", "read x", *argv], stdin=subprocess.PIPE)
    while not Path(f"/proc/{process.pid}/cmdline").read_bytes():
        pass  # the kernel has begun to execute it, no more
    return process


@pytest.mark.parametrize("is_deleted", [False, True])
def test_programs_of_the_pods_own_stage1_are_killed_though_it_was_moved(pod: Path, is_deleted: bool) -> None:
    with spin(pod / "stage1/rootfs/launcher") as launcher:
        if is_deleted:
            os.unlink(pod / "stage1/rootfs/launcher")
        there = moved(pod)
        orphans.end(there)
        assert has_ended(launcher)
        orphans.end(there)


@pytest.mark.parametrize(
    "place, name, argv, is_killed",
    [
        ("", "qemu-system-x86_64", ("-name", f"clearpod-{UUID}"), True),
        ("", "lkvm", ("run", f"/data/pods/run/{UUID}/share"), True),
        ("", "qemu-system-x86_64", ("-name", "clearpod-another"), False),
        ("", "editor", (f"/data/pods/run/{UUID}/pod",), False),
        (f"data/cas/tree/{TREE}/rootfs", "ld.so", (UUID,), True),
        (f"data/cas/tree/{TREE}/rootfs", "ld.so", ("another",), False),
    ],
)
def test_a_vmm_counts_when_the_pod_is_among_its_arguments(
    tmp_path: Path, pod: Path, *, place: str, name: str, argv: tuple[str, ...], is_killed: bool
) -> None:
    with spin(tmp_path / place / name, *argv) as process:
        try:
            orphans.end(moved(pod))
            assert has_ended(process) == is_killed
        finally:
            process.kill()
