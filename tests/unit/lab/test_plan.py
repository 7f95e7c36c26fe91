# SPDX-License-Identifier: Apache-2.0
"""What a lab is made of, before anything is started: command lines, order of mounts and modules, the table for init.sh.

After a wanted change: `CLEARPOD_REGOLD=1 python -m pytest tests/unit/lab/test_plan.py`, then read the diff.
"""

import os
from pathlib import Path

import pytest

from tests.lab import debian_kernel, plan

GOLDEN = Path(__file__).parent / "golden"
SRC = "/src/pods"
LAB = plan.Lab(checkout=SRC, state=f"{SRC}/build/lab", cache="/var/cache/c", kernel="/k/vmlinuz", modules="/k/m")
FULL = LAB._replace(
    memory_mib=1024, deterministic=True, paths=("/opt/lkvm", "/mnt/x y"), apart=("/mnt/x y",), cache="/src/pods/c"
)
DEP = """\
kernel/a.ko.xz: kernel/b.ko.xz kernel/c-c.ko.xz
kernel/b.ko.xz: kernel/c-c.ko.xz
kernel/c-c.ko.xz:
kernel/d.ko.xz: kernel/c-c.ko.xz
"""


def lines(argv: list[str]) -> str:
    """Options begin a line, their values follow on it."""
    return "".join(f"\n{word}" if word.startswith("-") else f" {word}" for word in argv).strip() + "\n"


@pytest.mark.parametrize("name, lab", [("default", LAB), ("full", FULL)])
def test_the_command_lines_are_as_reviewed(name: str, lab: plan.Lab) -> None:
    argvs = [plan.machine_argv(lab, "/usr/bin/qemu-system-x86_64"), *map(plan.share_argv, plan.shares(lab))]
    text = "\n".join(map(lines, argvs))
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("CLEARPOD_REGOLD"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("lab", [LAB, FULL])
def test_a_directory_is_mounted_before_those_in_it(lab: plan.Lab) -> None:
    targets = [share.target for share in plan.shares(lab)]
    assert targets[0] == "/"
    for number, target in enumerate(targets):
        assert not any(target.startswith(f"{later}/") for later in targets[number + 1 :])


def test_only_results_can_be_written() -> None:
    assert [s.target for s in plan.shares(LAB) if s.writable] == ["/src/pods/build/results"]


def test_the_initramfs_has_what_init_mounts_loads_and_exports() -> None:
    entries = plan.initramfs(FULL, busybox=b"B", init=b"I", modules={"b": b"1", "a": b"2"})
    files = {entry.name: entry.data for entry in entries}
    assert [name for name in files if name.endswith(".ko")] == ["modules/000-b.ko", "modules/001-a.ko"]
    assert files["bin/mount"] == b"busybox"
    assert b"apart0\tro\t/mnt/x y\n" in files["shares"]
    assert b"results\trw\t/src/pods/build/results\n" in files["shares"]
    assert b"root\t" not in files["shares"]
    assert b"LAB_PATH='/opt/lkvm:/mnt/x y:/usr/local/sbin:" in files["lab.env"]
    assert b"LAB_DETERMINISTIC=1\n" in files["lab.env"]


@pytest.mark.parametrize(
    "expected, loaded",
    [
        (("c_c",), ["kernel/c-c.ko.xz"]),
        (("c-c",), ["kernel/c-c.ko.xz"]),
        (("a",), ["kernel/c-c.ko.xz", "kernel/b.ko.xz", "kernel/a.ko.xz"]),
        (("d", "a"), ["kernel/c-c.ko.xz", "kernel/d.ko.xz", "kernel/b.ko.xz", "kernel/a.ko.xz"]),
        (("ext4", "d"), ["kernel/c-c.ko.xz", "kernel/d.ko.xz"]),
        ((), []),
    ],
)
def test_a_module_is_loaded_once_and_after_what_it_needs(expected: tuple[str, ...], loaded: list[str]) -> None:
    assert plan.load_order(DEP, expected) == loaded


@pytest.mark.parametrize(
    "name, passes",
    [("CLEARPOD_GUEST_DIR", True), ("PYTEST_ADDOPTS", True), ("LC_ALL", True), ("PATH", False), ("HOME", False)],
)
def test_the_environment_passes_only_what_means_the_same_inside(name: str, passes: bool) -> None:
    assert (name in plan.passed_on({name: "x"})) is passes


@pytest.mark.parametrize(
    "text, package",
    [
        ("linux-image-cloud-amd64\n  Depends: linux-image-6.12.1-cloud-amd64\n", "linux-image-6.12.1-cloud-amd64"),
        ("linux-image-cloud-amd64\n", "linux-image-cloud-amd64"),
        ("", "linux-image-cloud-amd64"),
    ],
)
def test_the_kernel_is_the_one_behind_the_meta_package(text: str, package: str) -> None:
    assert debian_kernel.newest(text) == package
