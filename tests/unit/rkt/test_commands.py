# SPDX-License-Identifier: Apache-2.0
"""Commands that can't be run are found before the VM starts, and what may be in a volume is left to the guest."""

from pathlib import Path

import pytest

from stage1.errors import NoCommand, NoDirectory, NotExecutable
from stage1.pod.model import Container, Mount, Pod, Process
from stage1.rkt import commands
from stage1.rkt.loader import App, RktPod

TRUE = Path("/bin/true").read_bytes()
VOLUME = (Mount("/srv", "/data"),)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with programs, good and bad."""
    files = {
        "text": (b"echo hi\n", 0o755), "empty": (b"", 0o755), "plain": (TRUE, 0o644), "cut": (TRUE[:40], 0o755),
        "arm": (TRUE[:18] + b"\xb7\0" + TRUE[20:], 0o755), "script": (b"#!/bin/true\n", 0o755),
        "bad": (b"\x7fELF" + bytes(200), 0o755),
        "lost": (b"#! /no/such -x\n", 0o755), "true": (TRUE, 0o755), "outside": (b"#!/data/sh\n", 0o755),
        "none": (b"#!\n", 0o755), "dos": (b"#!/bin/true\r\n", 0o755), "by-plain": (b"#!/bin/plain\n", 0o755),
        "by-dir": (b"#! /bin\n", 0o755), "by-lost": (b"#!/bin/lost\n", 0o755),
        "by-loop": (b"#!/bin/loop\n", 0o755), "itself": (b"#!/bin/itself\n", 0o755),
        "by-script": (b"#!/bin/script -x\n", 0o755), "tab": (b"#!\t/bin/true\tx y\n", 0o755),
        "old": (b"\x7fELF\1\1\1" + bytes(9) + b"\2\0\3\0" + bytes(60), 0o755),
    }  # fmt: skip
    for name in ("bin", "opt", "lib64"):
        (tmp_path / name).mkdir()
    for name, (content, mode) in files.items():
        (tmp_path / "bin" / name).write_bytes(content)
        (tmp_path / "bin" / name).chmod(mode)
    (tmp_path / "bin/link").symlink_to("true")
    (tmp_path / "bin/away").symlink_to("/data/tool")
    (tmp_path / "bin/loop").symlink_to("loop")
    (tmp_path / "sbin").symlink_to("bin")
    (tmp_path / "lib64/ld-linux-x86-64.so.2").write_bytes(TRUE)
    return tmp_path


def app(root: Path, command: str, *, mounts: tuple[Mount, ...] = (), before: str = "", cwd: str = "/") -> RktPod:
    """A pod of one app."""
    one = Container("a", "a", "", Process((command,), cwd=cwd), mounts=mounts)
    first = Container("a.pre-start", "", "", Process((before,)), mounts=mounts) if before else None
    return RktPod(Pod("id", "pod"), (App("a", one, str(root), first),))


@pytest.mark.parametrize(
    "command, error, code",
    [
        ("nope", NoCommand, 127),
        ("/nope", NoCommand, 127),
        ("/bin/true/nope", NoCommand, 127),
        ("/sbin/nope", NoCommand, 127),
        ("/bin/away", NoCommand, 127),
        ("/bin/lost", NoCommand, 127),
        ("/bin/by-lost", NoCommand, 127),
        ("/bin/dos", NoCommand, 127),
        ("/bin/none", NotExecutable, 126),
        ("/bin/loop", NotExecutable, 126),
        ("/bin/loop/x", NotExecutable, 126),
        ("/bin/by-loop", NotExecutable, 126),
        ("/bin/by-plain", NotExecutable, 126),
        ("/bin/by-dir", NotExecutable, 126),
        ("/bin/itself", NotExecutable, 126),
        ("/bin", NotExecutable, 126),
        ("/bin/plain", NotExecutable, 126),
        ("/bin/text", NotExecutable, 126),
        ("/bin/empty", NotExecutable, 126),
        ("/bin/bad", NotExecutable, 126),
        ("/bin/cut", NotExecutable, 126),
        ("/bin/arm", NotExecutable, 126),
    ],
)
def test_what_can_not_be_run_is_refused_with_the_code_of_shells(
    root: Path, command: str, *, error: type[NoCommand], code: int
) -> None:
    with pytest.raises(error) as caught:
        commands.check(app(root, command))
    assert type(caught.value) is error and caught.value.exit_code == code
    assert str(caught.value).startswith(f"app 'a': the command {command!r} ")


@pytest.mark.parametrize(
    "command",
    [
        "/bin/true", "/bin/link", "/sbin/true", "/bin/script", "/bin/by-script", "/bin/tab", "/bin/old",
        "/proc/self/exe", "/dev/x", "/sys/x",
    ],
)  # fmt: skip
def test_what_may_run_is_left_to_the_guest(root: Path, command: str) -> None:
    commands.check(app(root, command))


@pytest.mark.parametrize("command", ["/data/tool", "/data", "/bin/away", "/sbin/nope", "/bin/outside"])
def test_what_may_be_in_a_volume_is_left_to_the_guest(root: Path, command: str) -> None:
    commands.check(app(root, command, mounts=VOLUME))


def test_a_missing_command_is_noticed_in_spite_of_volumes(root: Path) -> None:
    with pytest.raises(NoCommand):
        commands.check(app(root, "/bin/nope", mounts=VOLUME))


def test_a_handler_may_make_the_command_but_must_be_there_itself(root: Path) -> None:
    commands.check(app(root, "/nope", before="/bin/true"))
    with pytest.raises(NoCommand):
        commands.check(app(root, "/bin/true", before="/nope"))


def test_a_program_without_its_loader_is_reported_so(root: Path) -> None:
    (root / "lib64/ld-linux-x86-64.so.2").unlink()
    with pytest.raises(NoCommand, match=r"needs '/lib64/ld-linux-x86-64.so.2'"):
        commands.check(app(root, "/bin/true"))


@pytest.mark.parametrize("cwd", ["/nope", "/opt/nope", "/bin/true", "/bin/away", "/data"])
def test_a_missing_working_directory_has_the_code_of_systemd(root: Path, cwd: str) -> None:
    with pytest.raises(NoDirectory) as caught:
        commands.check(app(root, "/bin/true", cwd=cwd))
    assert caught.value.exit_code == 200 and repr(cwd) in str(caught.value)


@pytest.mark.parametrize(
    "cwd", ["/", "/opt", "/opt/", "/sbin", "/opt/../bin", "/data", "/data/nope", "/bin/away", "/proc/1"]
)
def test_a_working_directory_that_is_or_may_be_there_is_left_to_the_guest(root: Path, cwd: str) -> None:
    commands.check(app(root, "/bin/true", mounts=VOLUME, cwd=cwd))


def test_the_mount_point_of_a_volume_makes_the_directories_above_it(root: Path) -> None:
    commands.check(app(root, "/bin/true", mounts=(Mount("/srv", "/new/data"),), cwd="/new"))
