# SPDX-License-Identifier: Apache-2.0
"""An image's layers merged: what is visible, with which owner and mode. Read with our reader and with
dump.erofs.
"""

import base64
import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import pytest

from stage1.pod import own_kernel
from stage1.rootfs.erofs import Attributes, Image
from stage1.rootfs.layers import Place, convert
from stage1.rootfs.merge import merge
from stage1.rootfs.worker import ForkServer
from tests.fakes.oci_layout import CAP_NET_RAW, Entry, Layer, digest, directory, file, tar
from tests.unit.rootfs.test_layers import blob_of

IMAGE_ID = "sha256:" + "ab" * 32
CAPABLE = (("security.capability", CAP_NET_RAW),)


class Shared(TypedDict):
    """What the tests here share: converted layers, since most have the same, and who forks the confined processes."""

    kept: Path
    server: ForkServer


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with contextlib.closing(ForkServer(("stage1.rootfs.layerjob", "stage1.rootfs.mergejob"))) as server:
        yield {"kept": tmp_path_factory.mktemp("layers"), "server": server}


def merged(tmp_path: Path, *layers: list[Entry], kept: Path | None = None, server: ForkServer | None = None) -> Path:
    """The directory with merged.erofs and filecaps of an image of `layers`, lowest first. Layers that are in `kept`, if
    that is given, are not converted again.
    """
    kernel_labels(tmp_path, *layers, kept=kept, server=server)
    return tmp_path / "out"


def kernel_labels(
    tmp_path: Path, *layers: list[Entry], kept: Path | None = None, server: ForkServer | None = None
) -> object:
    """What the same says of a kernel in the image."""
    place = Place(str(kept or tmp_path / "layers"), str(tmp_path / "tmp"), server=server)
    for path in (place.layers_dir, place.work_dir, str(tmp_path / "out")):
        Path(path).mkdir(exist_ok=path == str(kept))
    contents = [tar(layer) for layer in layers]
    for content in contents:
        convert(blob_of(Layer(content), tmp_path), place)
    return merge(IMAGE_ID, place, diff_ids=[digest(c) for c in contents], out_dir=str(tmp_path / "out"))


def attributes(image: Path, path: str) -> Attributes | None:
    with Image(str(image / "merged.erofs")) as opened:
        inode = opened.find(path)
        return inode.attributes() if inode else None


def mode(image: Path, path: str) -> str:
    result = attributes(image, path)
    return oct(result.mode) if result else "absent"


BASE = [
    directory("./", 0o755, mtime=77),
    directory("tmp/", 0o1777, mtime=5),
    directory("home/", 0o755),
    directory("home/me/", 0o700, uid=1000, gid=100000),
    file("home/me/old"),
    file("sub/x"),
]


@pytest.mark.parametrize(
    ("upper", "path", "expected"),
    [
        ([file("tmp/f")], "tmp", Attributes(0o1777, 0, 0, 5)),
        ([file("tmp/f")], "", Attributes(0o755, 0, 0, 77)),
        ([directory("./", 0o711), file("tmp/f")], "", Attributes(0o711, 0, 0, 1000)),
        ([file("home/me/f")], "home/me", Attributes(0o700, 1000, 100000, 1000)),
        ([directory("tmp/", 0o700)], "tmp", Attributes(0o700, 0, 0, 1000)),
        ([file("new/dir/f")], "new/dir", Attributes(0o755, 0, 0, 0)),
        ([file("sub/y")], "sub", Attributes(0o755, 0, 0, 0)),
        ([file("tmp/.wh..wh..opq", b""), file("tmp/f")], "tmp", Attributes(0o1777, 0, 0, 5)),
        ([file("home/.wh..wh..opq", b""), file("home/me/f")], "home/me", Attributes(0o755, 0, 0, 0)),
        ([file(".wh.home", b"")], "home", None),
        ([file("home", b"now a file", 0o640)], "home", Attributes(0o640, 0, 0, 1000)),
    ],
)
def test_a_directory_without_entry_looks_as_in_the_layer_below(
    upper: list[Entry], path: str, expected: Attributes | None, tmp_path: Path, shared: Shared
) -> None:
    assert attributes(merged(tmp_path, BASE, upper, **shared), path) == expected


@pytest.mark.parametrize("middle", [[file(".wh.home", b"")], [file("home", b"a file")]])
def test_what_a_middle_layer_removed_does_not_shine_through(
    middle: list[Entry], tmp_path: Path, shared: Shared
) -> None:
    image = merged(tmp_path, BASE, middle, [file("home/me/f")], **shared)
    assert attributes(image, "home/me") == Attributes(0o755, 0, 0, 0)
    assert attributes(image, "home/me/old") is None


def test_the_root_of_a_single_layer_is_no_longer_open_to_all(tmp_path: Path, shared: Shared) -> None:
    assert mode(merged(tmp_path, [file("a")], **shared), "") == "0o755"


def test_whiteouts_of_a_single_layer_are_gone(tmp_path: Path, shared: Shared) -> None:
    image = merged(
        tmp_path, [directory("d/"), file(".wh.gone", b""), file("d/.wh..wh..opq", b""), file("d/f")], **shared
    )
    with Image(str(image / "merged.erofs")) as opened:
        assert opened.find("gone") is None
        assert opened.find(".wh.gone") is None
        assert opened.find("d/f") is not None
        result = opened.find("d")
        assert result is not None
        assert not opened.is_opaque(result)


UNSETTABLE = [
    "trusted.overlay.opaque",
    "trusted.overlay.redirect",
    "trusted.x",
    "com.apple.provenance",
    "lustre.lov",
    "x",
]


@pytest.mark.parametrize("name", UNSETTABLE)
def test_attributes_that_no_file_can_get_are_left_out_as_by_containerd(
    name: str, tmp_path: Path, shared: Shared
) -> None:
    """A layer hides what is below by whiteouts alone."""
    given = (("user.kept", b"1"), (name, b"y"), ("security.kept", b"2"))
    upper = [Entry("home/", "d", xattrs=given), file("home/new", xattrs=given)]
    image = merged(tmp_path, BASE, upper, **shared)
    with Image(str(image / "merged.erofs")) as opened:
        for path in ("home/me/old", "home/new", "sub/x"):
            assert opened.find(path) is not None, path
        for path in ("home", "home/new"):
            inode = opened.find(path)
            assert inode is not None and not opened.is_opaque(inode)
            assert (opened.xattr(inode, "user.kept"), opened.xattr(inode, "security.kept")) == (b"1", b"2")
            assert opened.xattr(inode, name) is None


@pytest.mark.slow
def test_more_layers_than_a_process_has_open_files_by_default(tmp_path: Path, shared: Shared) -> None:
    layers = [[file(f"d/{n}"), file("top", str(n).encode())] for n in range(260)]
    image = merged(tmp_path, *layers, **shared)
    with Image(str(image / "merged.erofs")) as opened:
        assert all(opened.find(f"d/{n}") for n in (0, 100, 259))
        assert len(opened.devices()) == 260


MARKS = [file(".wh..wh..opq", b""), file("./.wh..wh..opq", b"")]
NEW = [file("new"), file("home/you/f")]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("rest", [[], NEW, [directory("./", 0o711), *NEW]])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    "above", [[], [[file("home/last")]], [[file(".wh.new", b""), file("sub/y")], [file("home/last")]]]
)
def test_an_opaque_root_hides_all_that_is_below_it(
    mark: Entry, rest: list[Entry], is_first: bool, above: list[list[Entry]], tmp_path: Path, shared: Shared
) -> None:
    middle = [mark, *rest] if is_first else [*rest, mark]
    image = merged(tmp_path, BASE, [file("tmp/x")], middle, *above, **shared)
    with Image(str(image / "merged.erofs")) as opened:
        gone = ["tmp", "home/me", "home/me/old", "sub/x", ".wh..wh..opq", ".wh..wh..opaque", ".wh..opaque"]
        assert [path for path in gone if opened.find(path) is not None] == []
        seen = {path: opened.find(path) is not None for path in ("new", "home/you/f", "home/last", "sub/y")}
    is_new = bool(rest)
    assert seen == {
        "new": is_new and len(above) < 2,
        "home/you/f": is_new,
        "home/last": bool(above),
        "sub/y": len(above) > 1,
    }
    listed = subprocess.run(["fsck.erofs", str(image / "merged.erofs")], capture_output=True, check=False)
    assert b"<E>" not in listed.stderr, listed.stderr
    # As of any other directory: what has no entry of its own is as in the layer below.
    assert mode(image, "") == ("0o711" if len(rest) > len(NEW) else "0o755")


@pytest.mark.parametrize("rest", [[], NEW])
def test_an_opaque_root_of_the_only_layer_hides_nothing(rest: list[Entry], tmp_path: Path, shared: Shared) -> None:
    with Image(str(merged(tmp_path, [MARKS[0], *rest], **shared) / "merged.erofs")) as opened:
        assert [name for name, _, _ in opened.children(opened.root)] == (["home", "new"] if rest else [])


def test_merging_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    images = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        images.append((merged(tmp_path / name, BASE, [file("tmp/f")]) / "merged.erofs").read_bytes())
    assert images[0] == images[1]


@pytest.mark.parametrize(
    ("layers", "lines"),
    [
        ([[file("bin/ping", xattrs=CAPABLE)]], ["/bin/ping"]),
        ([[file("bin/ping", xattrs=CAPABLE), Entry("bin/p", "l", link="bin/ping")]], ["/bin/p", "/bin/ping"]),
        ([[file("bin/ping", xattrs=CAPABLE)], [file("bin/other")]], ["/bin/ping"]),
        ([[file("bin/ping", xattrs=CAPABLE)], [file("bin/ping")]], []),
        ([[file("bin/ping")], [file("bin/ping", xattrs=CAPABLE)]], ["/bin/ping"]),
        ([[file("bin/ping", xattrs=CAPABLE)], [file("bin/.wh.ping", b"")]], []),
        ([[file("bin/ping", xattrs=CAPABLE)], [file("bin/.wh..wh..opq", b"")]], []),
        ([[file("bin/ping", xattrs=CAPABLE)], [Entry("bin", "s", link="/usr/bin")]], []),
        ([[file("a b\\c", xattrs=CAPABLE)]], ["/a b\\c"]),
        ([[file("a\nb", xattrs=CAPABLE)]], []),
        ([[file("a", xattrs=(("security.capability", b"rubbish"),))]], []),
        ([[file(f"x{n}", xattrs=CAPABLE) for n in range(5)]], [f"/x{n}" for n in range(5)]),
    ],
)
def test_filecaps_lists_what_is_in_force_in_the_end(
    layers: list[list[Entry]], lines: list[str], tmp_path: Path, shared: Shared
) -> None:
    text = (merged(tmp_path, *layers, **shared) / "filecaps").read_text()
    assert text == "".join(f"{CAP_NET_RAW.hex()} {line}\n" for line in lines)


def test_our_reader_agrees_with_dump_erofs(tmp_path: Path, shared: Shared) -> None:
    many = [file(f"dir/file-{n:04}", b"1" * n, 0o600 + n % 8, uid=n, gid=70000 + n) for n in range(700)]
    image = merged(tmp_path, [directory("dir/"), *many], **shared) / "merged.erofs"
    for path in ("dir", "dir/file-0000", "dir/file-0333", "dir/file-0699"):
        argv = ["dump.erofs", f"--path=/{path}", str(image)]
        text = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout
        uid, gid, bits = re.findall(r"Uid: (\d+) +Gid: (\d+) +Access: (\d+)", text)[0]
        result = attributes(tmp_path / "out", path)
        assert result is not None
        assert (result.uid, result.gid, result.mode) == (int(uid), int(gid), int(bits, 8))


@pytest.mark.parametrize("path", ["nothing", "dir/nothing", "dir/f/below", "dir/f/"])
def test_a_path_that_is_not_there_is_refused(path: str, tmp_path: Path, shared: Shared) -> None:
    assert attributes(merged(tmp_path, [file("dir/f")], **shared), path) is None


def test_a_shared_directory_of_many_blocks_whose_inodes_are_compact_is_read(tmp_path: Path, shared: Shared) -> None:
    # mkfs.erofs writes a compact inode where the time is the image's own, which -T0 makes 0.
    lower, upper = ([directory("./", mtime=0), directory("d/", mtime=0),
                     *(file(f"d/{side}{n:04}-{'x' * 60}", mtime=0) for n in range(200))] for side in "ab")  # fmt: skip
    image = merged(tmp_path, lower, [file(".wh.d", b""), file("e", mtime=0)], upper, **shared)
    assert mode(image, f"d/b0199-{'x' * 60}") == "0o644"
    assert mode(image, f"d/a0199-{'x' * 60}") == "absent"


def urunc(path: str = "/k", **more: str) -> bytes:
    return json.dumps(
        {f"com.urunc.unikernel.{key}": encoded(text) for key, text in {"binary": path, **more}.items()}
    ).encode()


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


BINARY, FAULT = "com.urunc.unikernel.binary", own_kernel.FAULT


@pytest.mark.parametrize(
    ("layers", "labels"),
    [
        ([[file("urunc.json", urunc())]], {BINARY: "/k"}),
        ([[file("urunc.json", urunc())], [file("x")]], {BINARY: "/k"}),
        ([[file("urunc.json", urunc())], [file("urunc.json", urunc("/other"))]], {BINARY: "/other"}),
        ([[file("urunc.json", urunc())], [file("urunc.json", urunc("/\u00e9"))]], {BINARY: "/\u00e9"}),
        ([[file("urunc.json", urunc())], [file(".wh.urunc.json", b"")]], {}),
        ([[file("urunc.json", urunc())], [directory("urunc.json/")]], {FAULT: "kind"}),
        ([[Entry("urunc.json", "s", link="etc/x"), file("etc/x", urunc())]], {FAULT: "kind"}),
        ([[file("etc/urunc.json", urunc())]], {}),
        ([[file("urunc.json", b"")]], {FAULT: "json"}),
        ([[file("urunc.json", b"{" * 5000)]], {FAULT: "json"}),
        ([[file("urunc.json", b"[1]")]], {FAULT: "json"}),
        ([[file("urunc.json", b'{"x": "y"}')]], {FAULT: "empty"}),
        ([[file("urunc.json", urunc() + b" " * 9000)]], {FAULT: "size"}),
        ([[file("urunc.json", b"")], [file("urunc.json", urunc())]], {BINARY: "/k"}),
        ([[file("urunc.json", b"")], [file(".wh.urunc.json", b"")]], {}),
    ],
)
def test_the_values_of_uruncs_file_about_a_kernel_are_returned(
    layers: list[list[Entry]], labels: dict[str, str], tmp_path: Path, shared: Shared
) -> None:
    assert kernel_labels(tmp_path, *layers, **shared) == labels
