# SPDX-License-Identifier: Apache-2.0
"""Commands, files and owners are looked for in the app's root, and nowhere else."""

import os
from pathlib import Path

import pytest

from stage1.errors import BadRequest
from stage1.rkt import inside


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A root with commands of all kinds; beside it lies what must not be reached."""
    image = tmp_path / "root"
    for name in ("bin", "usr/bin", "opt/own", "srv/rel", "etc"):
        (image / name).mkdir(parents=True)
    (tmp_path / "outside").write_text("#!")
    (tmp_path / "outside").chmod(0o755)
    for name, mode in (("bin/sh", 0o755), ("usr/bin/env", 0o111), ("opt/own/tool", 0o755), ("srv/rel/x", 0o755)):
        (image / name).write_text("#!")
        (image / name).chmod(mode)
    (image / "bin" / "data").write_text("not executable")
    (image / "bin" / "dir").mkdir()
    (image / "bin" / "ash").symlink_to("/bin/sh")
    (image / "bin" / "up").symlink_to("../../../../bin/sh")
    (image / "bin" / "out").symlink_to("../../outside")
    (image / "bin" / "abs").symlink_to(str(tmp_path / "outside"))
    (image / "bin" / "loop").symlink_to("loop")
    (image / "sbin").symlink_to("/opt/own")
    return str(image)


@pytest.mark.parametrize(
    "name, cwd, path, result",
    [
        ("/no/such", "/", "", "/no/such"),
        ("/bin//sh", "/", "", "/bin//sh"),
        ("./x", "/srv/rel", "", "/srv/rel/x"),
        ("rel/x", "/srv", "", "/srv/rel/x"),
        ("sh", "/", "", "/bin/sh"),
        ("env", "/", "", "/usr/bin/env"),
        ("x", "/srv/rel", "", "/srv/rel/x"),
        ("x", "/srv", "rel:/bin", "/srv/rel/x"),
        ("tool", "/", "/nowhere:/opt/own", "/opt/own/tool"),
        ("tool", "/", ":/sbin:", "/sbin/tool"),
        ("ash", "/", "", "/bin/ash"),
        ("up", "/", "", "/bin/up"),
    ],
)
def test_commands(root: str, name: str, cwd: str, path: str, result: str) -> None:
    assert inside.executable(root, name, cwd=cwd, path=path) == result


@pytest.mark.parametrize("name", ["tool", "data", "dir", "out", "abs", "loop", "no\nsuch"])
def test_commands_that_are_not_there(root: str, name: str) -> None:
    assert inside.executable(root, name, cwd="/", path="") == name


def test_text_is_only_that_of_plain_files(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc = Path(root) / "etc"
    (etc / "passwd").write_bytes(b"a\xff")
    os.mkfifo(etc / "pipe")
    (etc / "host").symlink_to(str(tmp_path / "outside"))
    assert inside.text(root, "/etc/passwd") == "a\ufffd"
    assert [inside.text(root, f"/etc/{name}") for name in ("none", "pipe", "host", ".")] == ["", "", "", ""]
    monkeypatch.setattr(inside, "_MOST_BYTES", 1)
    with pytest.raises(BadRequest, match=r"/etc/passwd .*larger than 0 MiB"):
        inside.text(root, "/etc/passwd")


def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(root: str) -> None:
    os.mkfifo(Path(root) / "etc" / "group")
    assert inside.text(root, "/etc/group") == "" and inside.text(root, "/bin/data") == "not executable"


def test_status_follows_or_not(root: str) -> None:
    followed, link = inside.status(root, "/bin/ash"), inside.status(root, "/bin/ash", follow=False)
    assert followed and link and followed.st_ino != link.st_ino
    assert inside.status(root, "/bin/out") is None
