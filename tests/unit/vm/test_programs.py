# SPDX-License-Identifier: Apache-2.0
"""Which files a program loads, as its own loader says it, and that this is asked again when one has changed."""

import os
import shutil
from pathlib import Path

import pytest

from stage1.linux import host
from stage1.vm import jail, programs, qemu
from stage1.vm.jail import READ_TREE, RUN_FILE, Launch
from stage1.vm.programs import Needed, needed

from . import test_argv

TRUE = "/usr/bin/true"
LOADER = "/lib64/ld-linux-x86-64.so.2"
pytestmark = pytest.mark.skipif(not os.path.exists(LOADER), reason="needs a host with glibc")


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "kept")


def test_a_program_needs_its_loader_and_libraries_and_what_the_loader_loads_by_itself(place: str) -> None:
    result = needed(TRUE, place=place)
    assert Needed(LOADER, True) in result and all(one.is_code for one in result)
    names = {os.path.basename(one.path) for one in result}
    assert names >= {"libc.so.6", "libgcc_s.so.1"} and "true" not in names
    assert all(os.path.isfile(one.path) for one in result)
    assert needed(TRUE, place=place) == result and len(os.listdir(place)) == 1


def test_what_is_no_program_or_has_no_loader_needs_nothing(tmp_path: Path, place: str, jailer: str) -> None:
    for name, text in (("script", b"#!/bin/sh\n"), ("empty", b""), ("cut", b"\x7fELF\x02"), ("text", b"x" * 100)):
        (tmp_path / name).write_bytes(text)
        assert needed(str(tmp_path / name), place=place) == []
    assert needed(str(tmp_path / "absent"), place=place) == []
    assert host.interpreter(jailer) == "" and needed(jailer, place=place) == []
    assert [programs.is_script(str(tmp_path / name)) for name in ("script", "cut", "absent")] == [True, False, False]


def test_a_result_is_kept_until_one_of_its_files_changes(tmp_path: Path, place: str) -> None:
    program = tmp_path / "program"
    shutil.copy(TRUE, program)
    before = needed(str(program), place=place)
    (kept,) = Path(place).iterdir()
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join(line for line in lines if not line.endswith("libgcc_s.so.1")))
    assert needed(str(program), place=place) == [one for one in before if not one.path.endswith("libgcc_s.so.1")]
    os.utime(program, ns=(1, 1))
    assert needed(str(program), place=place) == before
    for damaged in (
        b"",
        b"1",
        b"\xff\xfe",
        b"1\nother\nx 0 /etc/shadow",
        b"1\n%b\nx" % os.fsencode(program),
        kept.read_bytes()[:-30],
    ):
        kept.write_bytes(damaged)
        assert needed(str(program), place=place) == before


def test_where_nothing_can_be_kept_it_is_found_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert needed(TRUE, place=f"{tmp_path}/file/kept") == needed(TRUE, place=f"{tmp_path}/file/kept") != []


def test_qemu_needs_its_firmware_too(place: str) -> None:
    program = qemu.find().path
    if not program:
        pytest.skip("needs QEMU")
    data = {os.path.basename(one.path) for one in needed(program, qemu.HYPERVISOR, place=place) if not one.is_code}
    assert data >= {"bios-microvm.bin", "bios-256k.bin", "pvh.bin", "linuxboot_dma.bin", "multiboot_dma.bin"}


def test_a_jail_shows_single_files_of_the_system_and_none_of_its_directories(tmp_path: Path) -> None:
    program = qemu.find().path
    if not program:
        pytest.skip("needs QEMU")
    vm = test_argv.QEMU._replace(binary=program, run_dir=str(tmp_path))
    fields = [os.fsdecode(word) for word in jail.describe(vm, Launch([program], {})).split(b"\0")]
    shown = {word[1:] for word in fields if word[:1] in "rmvw" and os.path.exists(word[1:])}
    assert {path for path in shown if os.path.isdir(path)} <= {"/sys/devices/system", "/sys/kernel/mm", vm.run_dir}
    assert any(path.endswith("/libc.so.6") for path in shown) and program in shown
    rules = dict(word[1:].split(":", 1)[::-1] for word in fields if word.startswith("s"))
    assert {path for path in shown if path not in rules} <= {vm.run_dir}
    assert not [path for path, rights in rules.items() if os.path.isdir(path) and int(rights, 16) & ~READ_TREE
                and path.startswith(("/usr", "/lib", "/opt", "/etc"))]  # fmt: skip
    assert int(rules[program], 16) == RUN_FILE


def test_a_vmm_that_is_a_link_is_a_link_in_its_jail(tmp_path: Path) -> None:
    real = tmp_path / "real" / "bin" / "qemu-system-x86_64"
    real.parent.mkdir(parents=True)
    shutil.copy(TRUE, real)
    (tmp_path / "name").symlink_to(real)
    vm = test_argv.QEMU._replace(binary=f"{tmp_path}/name", run_dir=str(tmp_path / "run"))
    fields = jail.describe(vm, Launch([vm.binary], {})).decode().split("\0")
    assert f"y{real}:{tmp_path}/name" in fields and f"r{real}" in fields and f"r{tmp_path}/name" not in fields


def test_a_pod_below_what_a_scripts_jail_shows_whole_is_refused_with_the_reason(tmp_path: Path) -> None:
    script = tmp_path / "lkvm"
    script.write_text("#!/bin/sh\n")
    vm = test_argv.QEMU._replace(binary=str(script), scratch="/usr/bin/env", run_dir=str(tmp_path))
    with pytest.raises(jail.VmFailed, match=r"/usr/bin/env .*script: .*/usr"):
        jail.describe(vm, Launch([str(script)], {}))
    assert b"r/usr" in jail.describe(vm._replace(scratch=""), Launch([str(script)], {})).split(b"\0")
