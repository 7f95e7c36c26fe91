# SPDX-License-Identifier: Apache-2.0
"""Names, owners, limits and what the host changes, by FUSE as on the host; and programs that are hard to please."""

import ctypes
import errno
import os
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.c_program import marks
from tests.unit.volume_server.conftest import BELIEVED_S, SERVER, Served, as_user

pytestmark = marks("make", "gcc", "nsenter")

LIBC = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def _rename(source: Path, target: Path, flags: int) -> None:
    if LIBC.renameat2(-100, bytes(source), -100, bytes(target), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def test_renames_replace_exchange_or_refuse(served: Served) -> None:
    (served.guest / "a").write_bytes(b"a")
    (served.guest / "b").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        _rename(served.guest / "a", served.guest / "b", NOREPLACE)
    _rename(served.guest / "a", served.guest / "b", EXCHANGE)
    assert (served.guest / "a").read_bytes() == b"b"
    with pytest.raises(OSError, match="renameat2"):
        _rename(served.guest / "a", served.guest / "b", WHITEOUT)
    _rename(served.guest / "a", served.guest / "b", 0)
    assert (served.host / "b").read_bytes() == b"b"


def test_links_are_the_same_file(served: Served) -> None:
    (served.guest / "a").write_bytes(b"a")
    os.link(served.guest / "a", served.guest / "b")
    os.symlink("nowhere", served.guest / "c")
    os.link(served.guest / "c", served.guest / "d", follow_symlinks=False)
    assert (served.guest / "a").stat().st_ino == (served.guest / "b").stat().st_ino == (served.host / "b").stat().st_ino
    assert (served.guest / "a").stat().st_nlink == 2
    assert os.readlink(served.host / "d") == "nowhere"


def test_ten_thousand_entries_are_each_there_once(served: Served) -> None:
    names = {f"{number:05} with a name of some length" for number in range(10000)}
    for name in names:
        (served.host / name).touch()
    for list_ in (os.listdir, lambda path: [entry.name for entry in os.scandir(path) if entry.is_file()]):
        got = list_(served.guest)
        assert len(got) == 10000
        assert set(got) == names
    sizes = [entry.stat().st_size for entry in os.scandir(served.guest)]
    assert sizes == [0] * 10000
    inodes = {entry.name: entry.inode() for entry in os.scandir(served.guest)}
    assert inodes == {entry.name: entry.inode() for entry in os.scandir(served.host)}
    for name in names:
        (served.guest / name).unlink()
    assert os.listdir(served.host) == []


@pytest.mark.parametrize("name", [b"\xff\xfe not UTF-8", b"n" * 255, b"new\nline", b" ", b"...", b"%s\\"])
def test_every_name_of_the_host_is_one(served: Served, name: bytes) -> None:
    (served.guest / os.fsdecode(name)).write_bytes(b"x")
    assert os.listdir(bytes(served.host)) == os.listdir(bytes(served.guest)) == [name]


def test_a_name_that_is_too_long_says_so(served: Served) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        (served.guest / ("n" * 256)).touch()


def test_new_files_belong_to_who_made_them(served: Served) -> None:
    served.guest.chmod(0o777)

    def make() -> None:
        os.umask(0o027)
        os.close(os.open("file", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o4666))
        os.mkdir("directory", 0o1777)
        os.mkfifo("fifo", 0o666)
        os.symlink("x", "link")
        os.mknod("node", stat.S_IFREG | 0o600)

    as_user(3000000000, make, where=served.guest)
    expected = {"file": 0o4640, "directory": 0o1750, "fifo": 0o640, "link": 0o777, "node": 0o600}
    for name, mode in expected.items():
        got = (served.host / name).lstat()
        assert (stat.S_IMODE(got.st_mode), got.st_uid, got.st_gid) == (mode, 3000000000, 3000000000), name


def test_the_group_of_a_directory_is_inherited(served: Served) -> None:
    os.chown(served.guest, 5, 7)
    served.guest.chmod(0o2777)

    def make() -> None:
        os.mkdir("directory")
        os.close(os.open("directory/file", os.O_CREAT | os.O_WRONLY))

    as_user(1000, make, where=served.guest)
    top = (served.host / "directory").stat()
    assert (top.st_gid, bool(top.st_mode & stat.S_ISGID)) == (7, True)
    assert (served.host / "directory/file").stat().st_gid == 7


def test_permissions_are_those_of_the_caller(served: Served) -> None:
    (served.guest / "secret").write_bytes(b"x")
    (served.guest / "secret").chmod(0o600)
    served.guest.chmod(0o1777)

    def try_all() -> None:
        for act in (lambda: os.open("secret", os.O_RDONLY), lambda: os.unlink("secret"), lambda: os.chmod("secret", 0)):
            with pytest.raises(PermissionError):
                act()

    as_user(1000, try_all, where=served.guest)


def test_attributes_of_users_are_kept_and_others_are_as_the_host_allows(served: Served) -> None:
    path = served.guest / "x"
    path.touch()
    os.setxattr(path, "user.a", b"v" * 3000)
    assert os.getxattr(served.host / "x", "user.a") == os.getxattr(path, "user.a") == b"v" * 3000
    assert os.listxattr(path) == ["user.a"]
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.a", b"", os.XATTR_CREATE)
    os.removexattr(path, "user.a")
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        os.getxattr(path, "user.a")
    os.setxattr(path, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    with path.open("wb") as file:
        file.write(b"x")
    assert os.listxattr(served.host / "x") == []


def test_the_host_is_seen_within_a_tenth_of_a_second(served: Served) -> None:
    path, host = served.guest / "x", served.host / "x"
    assert not path.exists()
    host.write_bytes(b"one")
    time.sleep(BELIEVED_S + 0.1)
    assert path.read_bytes() == b"one"
    for content in (b"two", b"three", b"four"):
        host.write_bytes(content)
        time.sleep(BELIEVED_S + 0.1)
        assert path.read_bytes() == content
    host.unlink()
    time.sleep(BELIEVED_S + 0.1)
    assert not path.exists()


def test_a_file_that_the_host_made_meanwhile_is_opened_and_not_emptied(served: Served) -> None:
    assert not (served.guest / "x").exists()
    (served.host / "x").write_bytes(b"the host's")
    (served.host / "x").chmod(0o600)
    with open(os.open(served.guest / "x", os.O_CREAT | os.O_RDWR), "rb") as file:
        assert file.read() == b"the host's"
    assert not (served.guest / "y").exists()
    (served.host / "y").touch(mode=0o600)
    with pytest.raises(FileExistsError):
        os.open(served.guest / "y", os.O_CREAT | os.O_EXCL)


def test_statfs_is_the_hosts(served: Served) -> None:
    ours, theirs = os.statvfs(served.guest), os.statvfs(served.host)
    fields = ("f_bsize", "f_frsize", "f_blocks", "f_files", "f_namemax")
    assert [getattr(ours, name) for name in fields] == [getattr(theirs, name) for name in fields]
    devices = {path.stat().st_dev for path in (served.guest, served.other, served.host)}
    assert len(devices) == 3


def test_sqlite_with_a_wal_serves_two_processes(served: Served) -> None:
    begun = """
import sqlite3, sys
base = sqlite3.connect("base", timeout=60, isolation_level=None)
"""
    writes = """
for n in range(200):
    base.execute("insert into t values (?, ?)", (sys.argv[1], n))
"""
    # By one process: on any file system SQLite refuses two that change to a WAL at once, and does not wait.
    served.run(
        sys.executable, "-c", f"{begun}base.execute('pragma journal_mode=wal')\nbase.execute('create table t (who, n)')"
    )
    command = shlex.join([sys.executable, "-c", begun + writes])
    served.run("sh", "-c", f"{command} one & {command} two & wait %1 && wait %2")
    served.run(sys.executable, "-c", f"{begun}assert base.execute('select count(*) from t').fetchall() == [(400,)]")


def test_git_makes_a_repository_and_clones_it(served: Served) -> None:
    script = """set -e; git init -q -b main a; cd a
    for i in $(seq 300); do mkdir -p d$((i % 20)); echo $i > d$((i % 20))/$i; done
    git add .; git -c user.name=a -c user.email=a@b commit -qm one; cd ..; git clone -q a b; cd b; git fsck --full
    test "$(git status --porcelain | wc -l)" = 0; git gc -q; git log --oneline | wc -l"""
    assert served.run("sh", "-c", script).split()[-1] == "1"


@pytest.fixture
def disks(built_pump: Path, tmp_path: Path) -> Iterator[Path]:
    """Served: `file`, a file; `small`, a file system of 64 KiB; `fixed`, read-only; `below`, with another one in it."""
    root, guest = tmp_path / "sources", tmp_path / "guest"
    for name in ("small", "fixed", "below/inner"):
        (root / name).mkdir(parents=True)
        (guest / name.partition("/")[0]).mkdir(parents=True)
    (root / "file").write_bytes(b"a file")
    (guest / "file").touch()
    (root / "fixed/x").write_bytes(b"x")
    mounts = ["mount -t tmpfs -o size=64k small small", "mount --bind fixed fixed", "mount -o remount,bind,ro fixed"]
    mounts += ["mount -t tmpfs inner below/inner"]
    words = [f"{name}:{guest}/{name}" for name in ("file", "small", "fixed", "below")]
    program = f'{" && ".join(mounts)} && exec "$@"'
    argv = ["unshare", "-m", "sh", "-c", program, "sh", built_pump, SERVER.out / "volume-server-checked", ".", *words]
    with subprocess.Popen(argv, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pump:
        assert pump.stdout and pump.stdin
        assert pump.stdout.readline() == b"mounted\n"
        yield Path(f"/proc/{pump.pid}/root{guest}")
        pump.stdin.close()
        assert pump.wait(20) == 0


def test_volumes_of_several_kinds(disks: Path) -> None:
    assert (disks / "file").read_bytes() == b"a file"
    (disks / "file").write_bytes(b"changed")
    assert (disks.parent / "sources/file").read_bytes() == b"changed"
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        (disks / "small/x").write_bytes(bytes(20 * 8192))
    assert os.statvfs(disks / "small").f_blocks * os.statvfs(disks / "small").f_frsize == 65536
    assert os.statvfs(disks / "small").f_bfree == 0
    for act in (
        (disks / "fixed/y").touch,
        (disks / "fixed/x").unlink,
        lambda: (disks / "fixed/x").chmod(0),
    ):
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            act()
    (disks / "below/inner/x").write_bytes(b"x")
    with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
        (disks / "below/inner/x").rename(disks / "below/x")
    inodes = [(disks / "below" / name).stat().st_ino for name in ("inner", "inner/x")]
    assert all(inode >> 48 for inode in inodes), "files of another file system could have the number of one of this"
    assert len({(disks / name).stat().st_dev for name in ("file", "small", "fixed", "below")}) == 4


def test_the_guest_forgets_files_when_the_server_is_short_of_descriptors(built_pump: Path, tmp_path: Path) -> None:
    """With a limit of 400 it holds 252 nodes; three quarters of that make it ask."""
    (tmp_path / "sources/one").mkdir(parents=True)
    (tmp_path / "guest").mkdir()
    for number in range(1000):
        (tmp_path / f"sources/one/{number}").touch()
    program = [built_pump, f"{SERVER.out}/volume-server-checked", tmp_path / "sources", f"one:{tmp_path}/guest"]
    command = ["prlimit", "--nofile=400:400", *program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pump:
        assert pump.stdout and pump.stdin
        assert pump.stdout.readline() == b"mounted\n"
        guest, deadline, seen = Path(f"/proc/{pump.pid}/root{tmp_path}/guest"), time.monotonic() + 60, 0
        while seen < 1000 and time.monotonic() < deadline:
            try:
                (guest / str(seen)).stat()
                seen += 1
            except OSError as error:
                if error.errno != errno.ENFILE:
                    raise
                time.sleep(0.05)
        pump.stdin.close()
        assert pump.wait(20) == 0
    assert seen == 1000
