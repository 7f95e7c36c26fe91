# SPDX-License-Identifier: Apache-2.0
"""What is done with an open file is done with that file, whatever has its name by now."""

import contextlib
import ctypes
import fcntl
import mmap
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.c_program import marks
from tests.unit.volume_server.conftest import Served, as_user

pytestmark = marks("make", "gcc", "nsenter")

OLD, NEW = b"the old file", b"new"
LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    """A descriptor of the file, which is made where it is not there and O_CREAT is among the flags."""
    fd = os.open(path, flags, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


def _rename_over(path: Path) -> None:
    path.with_name("other").write_bytes(NEW)
    path.with_name("other").rename(path)


def _unlink(path: Path) -> None:
    path.unlink()


def _make_again(path: Path) -> None:
    path.unlink()
    path.write_bytes(NEW)


def _move(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.write_bytes(NEW)


OPERATIONS: dict[str, tuple[Callable[[int], None], Callable[[os.stat_result], bool]]] = {
    "truncate": (lambda fd: os.ftruncate(fd, 0), lambda got: got.st_size == 0),
    "grow": (lambda fd: os.ftruncate(fd, 99), lambda got: got.st_size == 99),
    "mode": (lambda fd: os.fchmod(fd, 0o4711), lambda got: stat.S_IMODE(got.st_mode) == 0o4711),
    "owner": (lambda fd: os.fchown(fd, 70000, 4000000000), lambda got: (got.st_uid, got.st_gid) == (70000, 4000000000)),
    "times": (lambda fd: os.utime(fd, ns=(5, 1234567890123456789)), lambda got: got.st_mtime_ns == 1234567890123456789),
    "allocate": (lambda fd: os.posix_fallocate(fd, 0, 500), lambda got: got.st_size == 500),
    "write": (lambda fd: os.pwrite(fd, b"x", 199) and None, lambda got: got.st_size == 200),
    "attribute": (lambda fd: os.setxattr(fd, "user.a", b"b"), lambda got: True),
}


@pytest.mark.parametrize("by", ["guest", "host"])
@pytest.mark.parametrize("change", [_rename_over, _unlink, _make_again, _move])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_it_changes_the_open_file_and_no_other(
    served: Served, operation: str, change: Callable[[Path], None], by: str
) -> None:
    act, is_done = OPERATIONS[operation]
    (served.guest / "x").write_bytes(OLD)
    with opened(served.guest / "x") as fd, opened(served.host / "x") as same:
        change((served.guest if by == "guest" else served.host) / "x")
        act(fd)
        assert is_done(os.fstat(fd))
        assert is_done(os.fstat(same))
        if change is not _unlink:
            new = (served.host / "x").stat()
            assert (new.st_size, stat.S_IMODE(new.st_mode), new.st_uid) == (len(NEW), 0o644, 0)
            assert (served.host / "x").read_bytes() == NEW
            assert os.listxattr(served.host / "x") == []
        if operation == "attribute":
            assert os.getxattr(same, "user.a") == b"b"


def test_an_unlinked_file_is_read_written_and_read_again(served: Served) -> None:
    with opened(served.guest / "x", os.O_RDWR | os.O_CREAT) as fd:
        os.unlink(served.guest / "x")
        assert os.write(fd, b"a" * 70000) == 70000
        assert os.pread(fd, 80000, 0) == b"a" * 70000
        assert os.fstat(fd).st_nlink == 0
    assert os.listdir(served.host) == []


def test_a_file_without_a_name_gets_one(served: Served) -> None:
    with opened(served.guest, os.O_TMPFILE | os.O_RDWR) as fd:
        os.write(fd, NEW)
        assert os.listdir(served.host) == []
        path, follow = f"/proc/self/fd/{fd}".encode(), 0x400
        assert LIBC.linkat(-100, path, -100, bytes(served.guest / "x"), follow) == 0
    assert (served.host / "x").read_bytes() == NEW


def test_a_directory_with_open_files_is_renamed(served: Served) -> None:
    (served.guest / "a/b").mkdir(parents=True)
    with opened(served.guest / "a/b/x", os.O_RDWR | os.O_CREAT) as fd, opened(served.guest / "a/b", os.O_RDONLY) as b:
        (served.guest / "a").rename(served.guest / "c")
        (served.guest / "a").mkdir()
        os.write(fd, NEW)
        os.close(os.open("y", os.O_RDWR | os.O_CREAT, dir_fd=b))
    assert (served.host / "c/b/x").read_bytes() == NEW
    assert (served.host / "c/b/y").exists()
    assert os.listdir(served.host / "a") == []


def test_locks_of_both_kinds_do_not_conflict_and_count_between_processes(served: Served) -> None:
    with opened(served.guest / "x", os.O_RDWR | os.O_CREAT) as one, opened(served.guest / "x") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.lockf(other, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_shared_map_is_written_to_and_synced(served: Served) -> None:
    with opened(served.guest / "x", os.O_RDWR | os.O_CREAT | os.O_APPEND) as fd:
        os.ftruncate(fd, 100000)
        with mmap.mmap(fd, 100000) as shared:
            shared[5:8] = NEW
            shared[99000:99003] = NEW
            shared.flush()
            assert (served.host / "x").stat().st_size == 100000
            assert (served.host / "x").read_bytes()[99000:99003] == NEW
            os.write(fd, b"end")
    content = (served.host / "x").read_bytes()
    assert (len(content), content[5:8], content[-3:]) == (100003, NEW, b"end")


def test_nobody_loses_what_two_pods_append(served: Served) -> None:
    (served.host / "x").touch()
    how = os.O_WRONLY | os.O_APPEND
    with opened(served.guest / "x", how) as one, opened(served.other / "x", how) as other:
        for number in range(200):
            os.write(one, b"one %4d\n" % number)
            os.write(other, b"two %4d\n" % number)
    lines = (served.host / "x").read_bytes().splitlines()
    assert sorted(lines) == sorted(b"%s %4d" % (who, n) for who in (b"one", b"two") for n in range(200))


def test_holes_are_found_and_made(served: Served) -> None:
    with opened(served.guest / "x", os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, NEW, 1 << 20)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 20
        assert os.lseek(fd, 1 << 20, os.SEEK_HOLE) >= (1 << 20) + 3
        assert os.fstat(fd).st_blocks * 512 < 1 << 20
        os.pwrite(fd, b"x" * 8192, 0)
        punch = 0x01 | 0x02
        assert LIBC.fallocate(fd, punch, ctypes.c_long(0), ctypes.c_long(8192)) == 0
        assert os.pread(fd, 8192, 0) == bytes(8192)
        assert LIBC.fallocate(fd, 0x08, ctypes.c_long(0), ctypes.c_long(4096)) < 0  # not that of shortening


def test_ranges_are_copied_by_the_host(served: Served) -> None:
    (served.guest / "x").write_bytes(os.urandom(3 << 20))
    with (
        opened(served.guest / "x", os.O_RDONLY) as source,
        opened(served.guest / "y", os.O_RDWR | os.O_CREAT) as target,
    ):
        left = 3 << 20
        while left:
            left -= os.copy_file_range(source, target, left)
    assert (served.host / "x").read_bytes() == (served.host / "y").read_bytes()


def test_rights_of_the_owner_end_when_another_writes(served: Served) -> None:
    for name in ("written", "truncated", "opened", "given"):
        (served.guest / name).write_bytes(OLD)
        (served.guest / name).chmod(0o6775)
        os.chown(served.guest / name, 0, 0)
        (served.guest / name).chmod(0o6777)

    def act() -> None:
        with opened(Path("written")) as fd:
            os.write(fd, b"x")
        os.truncate("truncated", 1)
        os.close(os.open("opened", os.O_WRONLY | os.O_TRUNC))

    as_user(1000, act, where=served.guest)
    os.chown(served.guest / "given", 1000, 1000)
    for path in served.host.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o777, path.name


def test_a_socket_and_a_fifo_are_names_only(served: Served) -> None:
    os.mkfifo(served.guest / "fifo", 0o620)
    with opened(served.guest, os.O_PATH) as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{directory}/socket")
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"/proc/self/fd/{directory}/socket")
    assert stat.S_ISFIFO((served.host / "fifo").stat().st_mode)
    assert stat.S_ISSOCK((served.host / "socket").stat().st_mode)
    with pytest.raises(PermissionError):
        os.mknod(served.guest / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(served.host / "device", stat.S_IFCHR | 0o600, os.makedev(259, 70000))
    assert (served.guest / "device").stat().st_rdev == os.makedev(259, 70000)
