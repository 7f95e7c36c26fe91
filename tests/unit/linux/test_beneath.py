# SPDX-License-Identifier: Apache-2.0
"""stage1.linux.beneath against trees that are the attacker's: no call follows a link, waits, or acts on a device.

A canary directory next to the tree must keep its bytes, whatever is done.
"""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stage1.errors import KernelError, PodError
from stage1.linux import in_root, mount, removal
from stage1.linux.beneath import Root
from stage1.linux.files import NotPlain
from tests.fakes.swapper import swapping


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A tree with one plain file and directory, next to the canary."""
    canary = tmp_path / "canary"
    (canary / "sub").mkdir(parents=True)
    (canary / "file").write_text("precious")
    (canary / "sub" / "file").write_text("precious")
    before = _state(canary)
    tree = tmp_path / "tree"
    (tree / "plain").mkdir(parents=True)
    (tree / "plain" / "file").write_text("mine")
    yield tree
    assert _state(canary) == before


def _state(place: Path) -> list[tuple[str, int, int, str]]:
    result = []
    for path in sorted(place.rglob("*")):
        status = path.lstat()
        result.append((str(path), status.st_mode, status.st_nlink, path.read_text() if path.is_file() else ""))
    return result


def _close(fd: int) -> None:
    os.close(fd)


CALLS: dict[str, Callable[[Root, str], object]] = {
    "read": lambda root, path: root.read(path),
    "open": lambda root, path: _close(root.open(path, os.O_WRONLY)),
    "open_or_make": lambda root, path: _close(root.open_or_make(path, os.O_WRONLY, mode=0o600)),
    "open_or_make a new one": lambda root, path: _close(root.open_or_make(path, os.O_WRONLY, mode=0o600, is_new=True)),
    "make_file": lambda root, path: _close(root.make_file(path, mode=0o600)),
    "open_directory": lambda root, path: _close(root.open_directory(path)),
    "pin_socket": lambda root, path: _close(root.pin_socket(path)),
    "pin_for_mount": lambda root, path: _close(root.pin_for_mount(path)),
    "names": lambda root, path: root.names(path),
    "make_directory": lambda root, path: root.make_directory(path, 0o700),
    "below": lambda root, path: root.below(path).close(),
    "make_directories": lambda root, path: root.make_directories(path, 0o700),
    "write": lambda root, path: root.write(path, b"x"),
    "write_new": lambda root, path: root.write_new(path, b"x"),
    "link": lambda root, path: root.link(path, "x"),
    "unlink": lambda root, path: root.unlink(path),
    "remove_tree": lambda root, path: root.remove_tree(path),
    "stat": lambda root, path: root.stat(path),
    "read_link": lambda root, path: root.read_link(path),
}
LEADING_OUT = ("link/file", "link/sub/file", "link/new", "plain/link/file", "plain/../../canary/file")
REPLACE_A_LINK = ("write", "unlink", "remove_tree")
TAKES_A_LINK = ("stat", "read_link")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("path", LEADING_OUT)
def test_no_call_goes_through_a_link_or_out(tree: Path, call: str, path: str) -> None:
    (tree / "link").symlink_to(tree.parent / "canary")
    (tree / "plain" / "link").symlink_to("../../canary")
    with Root(str(tree)) as root, pytest.raises(NotPlain, match=r"symbolic link|leads out|does not name"):
        CALLS[call](root, path)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("target", ["../canary/file", "../canary", "../canary/new", "plain/file", "/proc/self/fd/0"])
def test_a_link_at_the_end_is_refused_or_replaced_and_never_followed(tree: Path, call: str, target: str) -> None:
    (tree / "link").symlink_to(target)
    with Root(str(tree)) as root:
        if call in TAKES_A_LINK + REPLACE_A_LINK:
            CALLS[call](root, "link")
        else:
            with pytest.raises(KernelError, match=r"symbolic link|EEXIST"):
                CALLS[call](root, "link")
    assert (tree / "plain" / "file").read_text() == "mine"
    assert (tree / "link").is_symlink() == (call not in REPLACE_A_LINK)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def _device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))


def _block(path: Path) -> None:
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 200))


ODD = [(_fifo, "a FIFO"), (_socket, "a socket"), (_device, "a character device"), (_block, "a block device")]


@pytest.mark.parametrize(("make", "name"), ODD)
@pytest.mark.parametrize("call", ["read", "open", "open_or_make", "open_directory", "names", "pin_for_mount"])
def test_what_is_neither_file_nor_directory_is_refused_by_its_name_and_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], name: str, call: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    make(Path("odd"))
    with Root(".") as root, pytest.raises(NotPlain, match=name) as caught:
        CALLS[call](root, "odd")
    assert caught.value.grpc_code == "FAILED_PRECONDITION"


@pytest.mark.parametrize(("call", "path"), [("read", "plain"), ("open", "plain"), ("open_directory", "plain/file")])
def test_a_directory_is_no_file_and_a_file_no_directory(tree: Path, call: str, path: str) -> None:
    with Root(str(tree)) as root, pytest.raises(NotPlain, match="must be"):
        CALLS[call](root, path)


def test_the_root_itself_may_be_reached_through_links(tree: Path) -> None:
    (tree.parent / "way").symlink_to("tree")
    with Root(str(tree.parent / "way")) as root:
        assert root.read("plain/file") == b"mine"
        assert (root.names(), root.names("plain")) == (["plain"], ["file"])


def test_absence_is_the_error_enoent_and_fine_where_something_is_to_go(tree: Path) -> None:
    with Root(str(tree)) as root:
        for call in ("read", "open_directory", "pin_for_mount"):
            with pytest.raises(FileNotFoundError):
                CALLS[call](root, "no/thing")
        for call in ("unlink", "remove_tree"):
            CALLS[call](root, "no/thing")
        assert root.stat("no/thing") is None and root.read_link("none") == ""
    with pytest.raises(FileNotFoundError):
        Root(str(tree / "none"))


@pytest.mark.parametrize("path", LEADING_OUT)
def test_a_directory_below_is_a_root_with_the_same_rules(tree: Path, path: str) -> None:
    (tree / "at" / "plain").mkdir(parents=True)
    (tree / "at" / "link").symlink_to(tree.parent / "canary")
    (tree / "at" / "plain" / "link").symlink_to("../../../canary")
    with Root(str(tree), one_mount=True) as root, root.below("at") as below:
        below.write("plain/ours", b"x")
        with pytest.raises(PodError, match=f"{tree}/at/{path}"):
            below.read(path)
        mount.bind(str(tree / "plain"), str(tree / "at" / "plain"))
        try:
            with pytest.raises(NotPlain, match="at/plain"):
                below.read("plain/file")
        finally:
            mount.umount(str(tree / "at" / "plain"))
    assert (tree / "at/plain/ours").read_bytes() == b"x"


def test_what_is_written_is_whole_and_has_its_mode(tree: Path) -> None:
    old = os.umask(0o077)
    try:
        with Root(str(tree)) as root:
            root.make_directories("a/b", 0o751)
            root.make_directories("a/b", 0o700)
            root.write("a/b/file", b"one", 0o644)
            root.write("a/b/file", b"two", 0o640)
            os.close(root.open_or_make("a/made", os.O_WRONLY, mode=0o604))
            root.make_directory("a/own", 0o700)
            root.write_new("a/new", b"new", 0o644)
            with pytest.raises(KernelError, match="EEXIST"):
                root.write_new("a/new", b"newer")
    finally:
        os.umask(old)
    modes = [
        stat.S_IMODE((tree / path).stat().st_mode) for path in ("a", "a/b", "a/b/file", "a/made", "a/own", "a/new")
    ]
    assert modes == [0o751, 0o751, 0o640, 0o604, 0o700, 0o644]
    assert (tree / "a/new").read_bytes() == b"new"
    assert (tree / "a/b/file").read_bytes() == b"two"
    assert os.listdir(tree / "a/b") == ["file"]


def test_reading_and_listing_have_a_limit(tree: Path) -> None:
    with open(tree / "huge", "wb") as file:
        file.truncate(1 << 40)
    for number in range(300):
        (tree / "plain" / str(number)).touch()
    with Root(str(tree)) as root:
        with pytest.raises(KernelError, match="EFBIG"):
            root.read("huge", most=1000)
        assert root.read("plain/file", most=4) == b"mine"
        assert len(root.names("plain", most=100)) == 100


def test_a_mount_in_between_is_not_entered_where_nothing_is_mounted_by_us(tree: Path) -> None:
    mount.bind(str(tree.parent / "canary"), str(tree / "plain"))
    try:
        with Root(str(tree), one_mount=True) as root:
            for call in ("read", "write", "unlink", "make_directory", "remove_tree"):
                with pytest.raises(NotPlain, match="into a mount"):
                    CALLS[call](root, "plain/file")
            with pytest.raises(PodError):
                root.remove_tree("plain")
        with Root(str(tree)) as root:
            assert root.read("plain/file") == b"precious"
    finally:
        mount.umount(str(tree / "plain"))


def test_removing_a_tree_takes_links_fifos_and_devices_and_nothing_behind_them(tree: Path) -> None:
    deep = tree / "plain" / "a" / "b"
    deep.mkdir(parents=True)
    for number, target in enumerate(("../canary", "/", str(tree.parent / "canary"), "..")):
        (deep / f"link{number}").symlink_to(target)
    for number, (make, _) in enumerate(ODD[:1] + ODD[2:]):
        make(deep / str(number))
    os.link(tree.parent / "canary" / "file", deep / "hard")
    with Root(str(tree)) as root:
        root.remove_tree("plain")
        assert root.names() == []
    assert (tree.parent / "canary" / "file").read_text() == "precious"


def test_removing_stands_wide_and_deep_trees(tree: Path) -> None:
    for number in range(5000):
        (tree / "plain" / str(number)).touch()
    fd = os.open(tree / "plain", os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with Root(str(tree)) as root:
        root.remove_tree("plain")
        assert root.names() == []


def test_a_removal_ends_although_another_process_keeps_creating(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "MOST_ENTRIES", 10)
    for number in range(20):
        (tree / "plain" / str(number)).touch()
    with Root(str(tree)) as root, pytest.raises(KernelError, match="ENOTEMPTY"):
        root.remove_tree("plain")


def test_a_removal_takes_a_file_with_its_companions_and_no_other(tree: Path) -> None:
    for name in ("a", "b", "c"):
        (tree / "plain" / name).write_text("")
    (tree / "b").write_text("")
    with Root(str(tree)) as root:
        root.unlink("plain/a", "none", "b")
        root.unlink("none/a", "b")
    assert sorted(os.listdir(tree / "plain")) == ["c", "file"] and (tree / "b").exists()


RACED = (
    *("read", "open", "open_or_make", "names", "write", "write_new"),
    *("make_directory", "unlink", "remove_tree", "pin_for_mount"),
)


@pytest.mark.parametrize("call", RACED)
def test_no_call_is_led_astray_by_a_directory_that_is_swapped_meanwhile(tree: Path, call: str) -> None:
    """The canary has the same names. The fixture looks at it afterwards."""
    done = refused = 0
    (tree / "swap").symlink_to("../canary")
    with Root(str(tree)) as root, swapping(tree, "plain", "swap"):
        for number in range(1000):
            try:
                CALLS[call](root, "plain/file" if call != "names" else "plain")
                done += 1
            except PodError:
                refused += 1
            if number % 100 == 0 and done and refused and number:
                break
    assert done or refused


@pytest.mark.parametrize("path", ["../secret", "/../../secret", "escape", "up/secret"])
def test_in_an_image_links_are_followed_inside_and_never_out(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_text("host")
    root = tmp_path / "root"
    root.mkdir()
    (root / "escape").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to("../../../..")
    with pytest.raises(FileNotFoundError):
        in_root.open_path(str(root), path)
    (root / "secret").write_text("inside")
    if path != "escape":
        assert in_root.read(str(root), path, most=100) == b"inside"


def test_in_an_image_a_path_up_and_down_opens_whatever_is_renamed_elsewhere_meanwhile(tmp_path: Path) -> None:
    """The kernel answers EAGAIN to a path with `..` when anything at all was renamed since it began."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for directory in (root / "one/two", elsewhere / "a", elsewhere / "b"):
        directory.mkdir(parents=True)
    (root / "file").write_text("inside")
    with swapping(elsewhere, "a", "b"):
        for _ in range(2000):
            assert in_root.read(str(root), "one/../one/two/../../file", most=100) == b"inside"


@pytest.mark.parametrize(("make", "name"), ODD)
def test_in_an_image_a_special_file_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("odd"))
    Path("link").symlink_to("/odd")
    for path in ("odd", "link"):
        with pytest.raises(NotPlain, match=name):
            in_root.open_path(".", path)
    fd = in_root.open_path(".", "link", flags=os.O_PATH)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_no_call_leaves_a_descriptor_open(tree: Path) -> None:
    (tree / "link").symlink_to("plain")
    before = len(os.listdir("/proc/self/fd"))
    with Root(str(tree)) as root:
        for call in CALLS.values():
            for path in ("link/file", "link", "plain", "none/file", "plain/file"):
                try:
                    call(root, path)
                except PodError:
                    continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_another_user_has_made_is_not_taken_for_ours(tree: Path) -> None:
    (tree / "link").symlink_to("there")
    with Root(str(tree)) as root:
        assert (root.read("plain/file", ours=True), root.read_link("link")) == (b"mine", "there")
        os.chown(tree / "plain" / "file", 65534, 65534)
        os.chown(tree / "link", 65534, 65534, follow_symlinks=False)
        with pytest.raises(NotPlain, match="belongs to user 65534"):
            root.read("plain/file", ours=True)
        assert (root.read("plain/file"), root.read_link("link")) == (b"mine", "")
