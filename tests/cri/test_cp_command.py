# SPDX-License-Identifier: Apache-2.0
"""`clearpod cp` in both directions. The fake guest's containers have the host's files, so their paths are below
tmp_path too, and its tar is the host's or a script of the test's.
"""

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cri.cli.run import cp
from stage1.errors import PodError
from stage1.linux.beneath import Root

from .command_rig import Command, command
from .conftest import World


@pytest.fixture
def clearpod(world: World, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command with the world's configuration."""
    return command(world, capfd)


@asynccontextmanager
async def running(world: World, tmp_path: Path) -> AsyncIterator[Path]:
    """A directory in the running container of the pod `web`."""
    place = tmp_path / "inside"
    place.mkdir()
    async with world.daemon() as cri:
        pod = await cri.pod()
        one = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=one)
        yield place
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


def tree(top: Path) -> Path:
    (top / "sub").mkdir(parents=True)
    (top / "a").write_text("one")
    (top / "big").write_bytes(bytes(range(256)) * 4000)
    (top / "sub/b").write_text("two")
    (top / "sub/b").chmod(0o4755)
    (top / "link").symlink_to("a")
    os.link(top / "a", top / "hard")
    os.mkfifo(top / "pipe")
    return top


def is_copy(one: Path) -> bool:
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.name != "pipe")
    assert names == ["a", "big", "hard", "link", "sub", "sub/b"]
    assert (one / "link").readlink() == Path("a") and (one / "a").samefile(one / "hard")
    return (one / "big").read_bytes() == bytes(range(256)) * 4000 and (one / "sub/b").read_text() == "two"


async def test_directories_go_both_ways(world: World, clearpod: Command, tmp_path: Path) -> None:
    async with running(world, tmp_path) as inside:
        ours = tree(tmp_path / "ours")
        for source, target, made in (
            (str(ours), f"web:{inside}", inside / "ours"),
            (str(ours), f"web:{inside}/new", inside / "new"),
            (f"{ours}/.", f"web:{inside}/new", inside / "new"),
            (f"web:{inside}/new", str(tmp_path / "back"), tmp_path / "back"),
            (f"web:{inside}/new", str(tmp_path), tmp_path / "new"),
            (f"default/web:{inside}/new/.", str(tmp_path / "back"), tmp_path / "back"),
        ):
            ended = await clearpod("cp", source, target)
            assert ended == (0, "", ""), ended.err
            assert is_copy(made)
        assert stat.S_IMODE((tmp_path / "back/sub/b").stat().st_mode) == 0o755


async def test_files_go_both_ways(world: World, clearpod: Command, tmp_path: Path) -> None:
    async with running(world, tmp_path) as inside:
        (tmp_path / "a b").write_text("text")
        (inside / "link").symlink_to("-two")
        for source, target, made in (
            (f"{tmp_path}/a b", f"web:{inside}/-two", inside / "-two"),
            (f"{tmp_path}/a b", f"web:{inside}", inside / "a b"),
            (f"web:{inside}/-two", f"{tmp_path}/x", tmp_path / "x"),
            (f"web:{inside}/link", f"{tmp_path}/y", tmp_path / "y"),
            (f"web:{inside}/a b", f"{tmp_path}/x", tmp_path / "x"),
            (f"web:{inside}/-two", str(tmp_path), tmp_path / "-two"),
        ):
            assert await clearpod("cp", source, target) == (0, "", "")
            assert made.read_text() == "text" and not made.is_symlink()


REFUSED = [
    ("web:IN/none", "HERE", ("/none",)),
    ("HERE/none", "web:IN", ("/none",)),
    ("HERE/f", "web:IN/none/", ("/none",)),
    ("HERE/f", "web:IN/none/x", ("/none",)),
    ("web:IN/f", "HERE/none/", ("HERE/none",)),
    ("web:IN/f", "HERE/none/x", ("HERE/none",)),
    ("web:IN", "HERE/f", ("HERE/f", "directory")),
    ("HERE", "web:IN/f", ("IN/f", "directory")),
    ("-", "web:IN/none", ("IN/none",)),
    ("nobody:/x", "HERE", ("nobody",)),
    ("HERE/f", "HERE/g", ("POD:PATH",)),
    ("web:/a", "web:/b", ("POD:PATH",)),
    ("web:", "HERE", ("POD:PATH",)),
    ("", "web:IN", ("empty",)),
]


async def test_what_can_not_be_copied(world: World, clearpod: Command, tmp_path: Path) -> None:
    async with running(world, tmp_path) as inside:
        for place in (inside, tmp_path):
            (place / "f").write_text("")
        for case in REFUSED:
            source, target, *words = (
                text.replace("IN", str(inside)).replace("HERE", str(tmp_path)) for text in (*case[:2], *case[2])
            )
            ended = await clearpod("cp", source, target)
            assert ended.code == 125 and ended.err.count("\n") == 1 and ended.err.startswith("clearpod: "), ended.err
            assert [word for word in words if word not in ended.err] == [], (case, ended.err)


async def test_an_archive_on_standard_output(world: World, clearpod: Command, tmp_path: Path) -> None:
    async with running(world, tmp_path) as inside:
        tree(inside / "top")
        ended = await clearpod("cp", f"web:{inside}/top/sub", "-")
        with tarfile.open(fileobj=io.BytesIO(ended.out.encode("utf-8", "surrogateescape"))) as archive:
            assert [one.name.removeprefix("./") for one in archive] == ["sub", "sub/b"]


def hostile(*entries: tuple[str, bytes, str]) -> bytes:
    """(name, kind, link) of each entry, whose content is its name."""
    with io.BytesIO() as out, tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, link in entries:
            one = tarfile.TarInfo(name)
            one.type, one.linkname, one.mode = kind, link, 0o6777
            one.size = len(name) if kind == tarfile.REGTYPE else 0
            archive.addfile(one, io.BytesIO(name.encode()))
        archive.close()
        return out.getvalue()


FILE, LINK, HARD, DEVICE = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE


@pytest.mark.parametrize(
    "data",
    [
        hostile(("../out", FILE, "")),
        hostile(("out", LINK, ".."), ("out/x", FILE, "")),
        hostile(("out", LINK, "/etc"), ("out/x", FILE, "")),
        hostile(("out", HARD, "../../etc/passwd")),
        hostile(("out", LINK, "/etc/passwd"), ("x", HARD, "out"), ("x/y", FILE, "")),
        hostile(("big", FILE, ""))[:514],
        b"garbage" * 400,
    ],
)
def test_nothing_of_a_hostile_archive_leaves_the_target(data: bytes, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pipe:
        assert pipe.stdin and pipe.stdout
        pipe.stdin.write(data)
        pipe.stdin.close()
        with Root(str(target)) as root, pytest.raises(PodError):
            cp._Unpacking(root, lambda path: path).run(pipe.stdout.fileno())
    assert os.listdir(tmp_path) == ["target"]
    assert not Path("/etc/x").exists()


def test_devices_are_left_out_and_no_file_has_more_rights_than_it_may(tmp_path: Path) -> None:
    data = hostile(("dev", DEVICE, ""), ("f", FILE, ""), ("g", HARD, "f"))
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with Root(str(tmp_path)) as root:
        cp._Unpacking(root, lambda path: path).run(reading)
    os.close(reading)
    assert sorted(os.listdir(tmp_path)) == ["f", "g"] and (tmp_path / "g").read_text() == "f"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o777
