# SPDX-License-Identifier: Apache-2.0
"""stage1.linux.files: whole or absent, and removal that stays in its tree."""

import errno
import os
from pathlib import Path

import pytest

from stage1.errors import DiskFailed, Exhausted, KernelError, NoSpace, PodError
from stage1.linux import files
from stage1.linux.libc import Guard


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def tail(path: Path, lines: int) -> str:
    with open(path, "rb") as file:
        return files.tail(file.fileno(), lines)


@pytest.mark.parametrize("data", [b"", b"x", b"\0\xff" * 100_000])
def test_write_atomic_puts_the_whole_content_there(tmp_path: Path, data: bytes) -> None:
    path = str(tmp_path / "a,b c")
    files.write_atomic(path, b"old")
    files.write_atomic(path, data, 0o640)
    assert files.read(path) == data
    assert os.stat(path).st_mode & 0o7777 == 0o640
    assert names(tmp_path) == ["a,b c"]


def test_write_atomic_is_private_by_default(tmp_path: Path) -> None:
    files.write_atomic(str(tmp_path / "state"), b"secret")
    assert os.stat(tmp_path / "state").st_mode & 0o777 == 0o600


def test_write_atomic_leaves_nothing_when_the_rename_fails(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(KernelError, match="EISDIR"):
        files.write_atomic(str(tmp_path / "taken"), b"x")
    assert names(tmp_path) == ["taken"]


def test_write_atomic_names_the_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"no/state.*ENOENT") as caught:
        files.write_atomic(str(tmp_path / "no/state"), b"x")
    assert caught.value.errno == errno.ENOENT


def test_write_atomic_on_a_full_disk_keeps_the_old_file_and_no_other(tiny_tmpfs: Path) -> None:
    files.write_atomic(str(tiny_tmpfs / "state"), b"old")
    with pytest.raises(NoSpace, match="free some space"):
        files.write_atomic(str(tiny_tmpfs / "state"), b"x" * 1_000_000)
    assert names(tiny_tmpfs) == ["state"]
    assert files.read(str(tiny_tmpfs / "state")) == b"old"


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOSPC, NoSpace, "RESOURCE_EXHAUSTED"),
        (errno.EDQUOT, NoSpace, "RESOURCE_EXHAUSTED"),
        (errno.EROFS, DiskFailed, "UNAVAILABLE"),
        (errno.EIO, DiskFailed, "UNAVAILABLE"),
        (errno.EMFILE, Exhausted, "RESOURCE_EXHAUSTED"),
        (errno.ENFILE, Exhausted, "RESOURCE_EXHAUSTED"),
        (errno.ENOMEM, Exhausted, "RESOURCE_EXHAUSTED"),
        (errno.EPERM, KernelError, "INTERNAL"),
    ],
)
def test_a_host_that_is_full_or_broken_is_no_fault_of_ours(number: int, kind: type[PodError], code: str) -> None:
    with pytest.raises(PodError, match="/the/file") as caught, Guard("write", "/the/file"):
        raise OSError(number, os.strerror(number))
    assert (type(caught.value), caught.value.grpc_code) == (kind, code)


@pytest.mark.parametrize("call", ["open_tree", "move_mount"])
def test_too_many_mounts_are_told_from_a_full_disk(call: str) -> None:
    with pytest.raises(NoSpace, match=r"/the/place: .*fs.mount-max") as caught, Guard(call, "/the/place"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "free some space" not in str(caught.value)


def test_read_of_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"^read: \S+/nothing-here: No such file or directory \(ENOENT\)$") as caught:
        files.read(str(tmp_path / "nothing-here"))
    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("content", "lines", "expected"),
    [
        (b"", 3, ""),
        (b"a\nb\nc\n", 2, "b\nc"),
        (b"a\nb", 9, "a\nb"),
        (b"a\nb", 0, ""),
        (b"\xff\xfe!\n", 1, "\ufffd\ufffd!"),
        (b"z" * 200_000 + b"\nend\n", 1, "end"),
    ],
)
def test_tail_gives_the_last_lines(tmp_path: Path, content: bytes, lines: int, expected: str) -> None:
    (tmp_path / "log").write_bytes(content)
    assert tail(tmp_path / "log", lines) == expected


def test_tail_reads_no_more_than_the_end_of_a_huge_file(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb") as file:
        file.truncate(1 << 40)
    assert len(tail(tmp_path / "log", 5)) <= 65536


def test_forget_all_gives_space_back_and_keeps_the_length(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_001)
    files.forget_all(f"{tmp_path}/a")
    status = (tmp_path / "a").stat()
    assert (status.st_size, status.st_blocks) == (100_001, 0)
    os.mkfifo(tmp_path / "b")
    os.symlink("a", tmp_path / "c")
    for name in "bcd":
        with pytest.raises(KernelError):
            files.forget_all(f"{tmp_path}/{name}")


def test_forget_head_gives_space_back_and_keeps_the_end_while_others_append(tmp_path: Path) -> None:
    with open(tmp_path / "log", "ab", buffering=0) as writer:
        writer.write(b"x" * 400_000 + b"\nlast\n")
        files.forget_head(writer.fileno(), 8192)
        writer.write(b"more\n")
        assert os.stat(tmp_path / "log").st_blocks * 512 < 40_000
        assert tail(tmp_path / "log", 2) == "last\nmore"
        files.forget_head(writer.fileno(), 1 << 30)
        assert tail(tmp_path / "log", 1) == "more"


def test_make_dirs_gives_each_new_directory_the_mode_and_leaves_old_ones(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    old = os.umask(0o077)
    try:
        files.make_dirs(str(tmp_path / "a/b/c/"), 0o711)
        files.make_dirs(str(tmp_path / "a/b/c"), 0o700)
    finally:
        os.umask(old)
    modes = [os.stat(tmp_path / p).st_mode & 0o777 for p in (".", "a", "a/b", "a/b/c")]
    assert modes == [0o755, 0o711, 0o711, 0o711]


def test_make_dirs_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KernelError, match="regular file"):
        files.make_dirs(str(tmp_path / "file/below"), 0o700)


def test_remove_tree_removes_files_links_and_directories(tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("x")
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/file").write_text("x")
    (tree / "a/link").symlink_to(tmp_path / "keep")
    (tree / "dangling").symlink_to("nowhere")
    os.mkfifo(tree / "fifo")
    files.remove_tree(str(tree) + "/")
    assert names(tmp_path) == ["keep"]


def test_remove_tree_of_nothing_or_of_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    files.remove_tree(str(tmp_path / "absent"))
    files.remove_tree(str(tmp_path / "link"))
    assert names(tmp_path) == ["dir"]


def test_remove_tree_stands_a_guest_that_nests_directories_without_end(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    fd = os.open(tmp_path / "tree", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    files.remove_tree(str(tmp_path / "tree"))
    assert names(tmp_path) == []
