# SPDX-License-Identifier: Apache-2.0
"""The nested machine's archive is whole: directories before what is in them, libraries beside programs, lkvm found."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bench.nested import command, files, machine, plan
from tests.fakes.builders import BuildFailed


def test_directories_come_before_what_is_in_them():
    entries = files.entries({"/usr/bin/x": b"1", "a/b/c/d": b"2", "init": b"3"})
    names = [entry.name for entry in entries]
    assert len(names) == len(set(names)) and {"usr/bin/x", "a/b/c/d", "init", "dev/console"} <= set(names)
    for name in names:
        above = [str(parent) for parent in Path(name).parents if str(parent) != "."]
        assert all(parent in names[: names.index(name)] for parent in above)


def test_a_program_comes_with_its_loader_and_libraries():
    result = files.closure(shutil.which("true") or "")
    assert any("ld-linux" in name for name in result) and any("libc.so" in name for name in result)
    assert all(name.startswith("/") and data.startswith(b"\x7fELF") for name, data in result.items())


@pytest.fixture
def lkvm(tmp_path):
    """Makes a program named lkvm in a directory of this name: a dynamic one or a static one."""

    def make(directory: str, *options: str) -> Path:
        place = tmp_path / directory
        place.mkdir()
        (place / "x.c").write_text("int main(void) { return 0; }\n")
        subprocess.run(["gcc", *options, "-o", place / "lkvm", place / "x.c"], check=True)
        return place

    return make


def test_the_first_directory_with_an_lkvm_wins_then_the_environment(lkvm, monkeypatch, tmp_path):
    one, two = lkvm("one"), lkvm("two")
    monkeypatch.setenv("CLEARPOD_LAB_PATH", f"{two}:{one}")
    assert command.find_lkvm([]) == f"{two}/lkvm"
    assert command.find_lkvm([str(tmp_path), str(one)]) == f"{one}/lkvm"


def test_without_an_lkvm_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CLEARPOD_LAB_PATH", raising=False)
    assert command.find_lkvm([str(tmp_path)]) == ""


def test_a_static_lkvm_is_refused_since_it_can_not_load_the_shim(lkvm):
    with pytest.raises(BuildFailed, match="statically linked"):
        command.find_lkvm([str(lkvm("static", "-static"))])


@pytest.mark.parametrize("strings", [False, True])
def test_the_machine_counts_instructions_and_sees_nothing_of_the_host(strings):
    argv = machine.argv(Path("/d"), Path("/kernel"), strings=strings)
    assert argv[argv.index("-icount") + 1] == "shift=0,sleep=off" and argv[argv.index("-smp") + 1] == "1"
    assert ("-erms" in argv[argv.index("-cpu") + 1]) is not strings
    assert not {"-drive", "-device", "-netdev", "-fsdev"} & set(argv) and "-nodefaults" in argv


def test_a_plan_has_the_arguments_one_by_one():
    kind = plan.Variant("k", "K", ["/bin/x", "a b", "c"], {"HOME": "/run"})
    assert plan.text(kind, "0", ("kvm/kvm_exit",)).decode().splitlines() == [
        "name k.0", "trace kvm/kvm_exit", "env HOME=/run", "arg /bin/x", "arg a b", "arg c",
    ]  # fmt: skip
