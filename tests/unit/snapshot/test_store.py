# SPDX-License-Identifier: Apache-2.0
"""The directory of templates: whole ones are found, damaged ones are not, old ones go."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stage1.errors import NoSpace, VmFailed
from stage1.rootfs.checkpoint import examined
from stage1.snapshot.format import MOST_BYTES, Manifest, decode, find_at_once
from stage1.snapshot.store import COMPARED, Store
from stage1.vm.template import Template

MIB = 1 << 20
PARTS = {"kernel": "/k 1 2 3"}


def made(store: Store, name: str, data: bytes = b"guest") -> Template:
    template = store.begin(name, MIB)
    with open(template.ram, "r+b") as ram:
        ram.seek(65536)
        ram.write(data)
    Path(template.state).write_bytes(b"devices")
    return store.commit(name, PARTS)


def is_any(_: Manifest) -> bool:
    return True


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"{tmp_path}/templates")


def test_one_is_there_when_it_is_whole_and_not_before(store: Store) -> None:
    assert store.find("a") is None and store.names() == []
    store.begin("a", MIB)
    assert store.find("a") is None and store.names() == []
    there = made(store, "a")
    assert store.find("a") == there and Store(store.top).find("a") == there and store.names() == ["a"]
    assert os.stat(there.ram).st_size == MIB
    assert os.listdir(store.top) == ["a"]


def test_one_is_not_begun_where_its_memory_finds_no_space(store: Store) -> None:
    with pytest.raises(NoSpace, match=store.top):
        store.begin("a", 1 << 60)
    assert os.listdir(store.top) == []


def test_a_template_is_read_only(store: Store) -> None:
    there = made(store, "a")
    modes = [os.stat(path).st_mode & 0o777 for path in (store.top, there.directory, there.ram, there.state)]
    assert modes == [0o700, 0o700, 0o444, 0o400]


@pytest.mark.parametrize("file", ["ram", "state", "manifest.json"])
@pytest.mark.parametrize("how", ["changed", "shorter", "gone"])
def test_one_that_is_damaged_is_removed(store: Store, file: str, how: str) -> None:
    there = made(store, "a")
    path = f"{there.directory}/{file}"
    if how == "changed":
        with open(path, "r+b") as damaged:
            damaged.seek(3)
            damaged.write(b"\xff")
    elif how == "shorter":
        os.truncate(path, 2)
    else:
        os.unlink(path)
    template = None
    try:
        template = Store(store.top).find("a")
    except VmFailed:
        assert store.names() == []
    assert template is None


def _linked(path: str) -> None:
    os.rename(path, f"{path}-elsewhere")
    os.symlink(f"{path}-elsewhere", path)


@pytest.mark.parametrize("file", ["", "/ram", "/state"])
@pytest.mark.parametrize(
    "how",
    [lambda path: os.chown(path, 1, 1), lambda path: os.chmod(path, 0o777), _linked],
    ids=["given", "open", "linked"],
)
def test_one_that_others_may_change_is_removed(store: Store, file: str, how: Callable[[str], None]) -> None:
    there = made(store, "a")
    how(f"{there.directory}{file}")
    with pytest.raises(VmFailed, match=f"a{file} can be changed"):
        Store(store.top).find("a")
    assert not os.path.lexists(there.directory) and Store(store.top).find("a") is None


def test_one_that_was_changed_under_a_daemon_is_noticed(store: Store) -> None:
    there = made(store, "a")
    with open(there.ram, "r+b") as damaged:
        damaged.write(b"x")
    with pytest.raises(VmFailed, match="ram"):
        store.find("a")


@pytest.mark.parametrize("file", ["ram", "state", "manifest.json"])
def test_who_starts_one_pod_reads_no_guest_and_leaves_a_mark_on_what_was_changed(store: Store, file: str) -> None:
    there = made(store, "a")
    assert find_at_once(store.top, "a") == there and find_at_once(store.top, "b") is None
    with open(f"{there.directory}/{file}", "r+b") as damaged:
        damaged.write(b"x")
    with pytest.raises(VmFailed):
        find_at_once(store.top, "a")
    assert find_at_once(store.top, "a") is None and os.path.exists(f"{there.directory}/rejected")


def test_the_mark_of_one_that_was_rejected_is_kept_for_a_day(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    there = made(store, "a")
    Path(there.state).write_bytes(b"other")
    with pytest.raises(VmFailed):
        find_at_once(store.top, "a")
    assert store.remove_unused(is_any, most_bytes=1 << 30) == [] and os.listdir(there.directory) == ["rejected"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    assert store.remove_unused(is_any, most_bytes=1 << 30) == ["a"] and os.listdir(store.top) == []


def test_the_mark_of_one_that_could_not_be_made_is_kept_as_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.mark("a")
    assert find_at_once(store.top, "a") is None and store.compare(0) == []
    assert store.remove_unused(is_any, most_bytes=1 << 30) == [] and os.listdir(store.top) == ["a"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    assert store.remove_unused(is_any, most_bytes=1 << 30) == ["a"] and os.listdir(store.top) == []


def test_one_is_made_anew_in_place_of_another_and_what_was_begun_is_given_up(store: Store) -> None:
    made(store, "a", b"old")
    store.begin("a", MIB)
    there = made(store, "a", b"new")
    assert b"new" in Path(there.ram).read_bytes()
    store.begin("a", MIB)
    store.abandon("a")
    store.abandon("a")
    assert store.find("a") == there
    store.remove("a")
    store.remove("a")
    assert store.find("a") is None


def test_of_those_that_discard_one_at_once_only_the_first_has_done_it(store: Store) -> None:
    made(store, "a")
    assert [store.discard("a") for _ in range(3)] == [True, False, False]
    assert os.listdir(store.top) == [] and store.find("a") is None


def test_those_that_were_used_last_are_kept_within_the_budget(store: Store) -> None:
    for age, name in enumerate("abc"):
        there = made(store, name)
        os.utime(f"{there.directory}/manifest.json", (10000 - age, 10000 - age))
    store.begin("d", MIB)
    each = sum(path.stat().st_blocks * 512 for path in Path(store.top, "a").iterdir())
    assert store.remove_unused(is_any, most_bytes=2 * each) == ["c"]
    assert sorted(os.listdir(store.top)) == ["a", "b"]
    store.find("b")
    assert store.remove_unused(is_any, most_bytes=each) == ["a"], "its use was noted"


def test_what_is_useless_damaged_or_no_template_is_removed(store: Store) -> None:
    made(store, "a")
    (Path(made(store, "b").directory) / "manifest.json").write_text("{}")
    (Path(store.top) / "c").mkdir()
    assert sorted(store.remove_unused(lambda one: one.made_of == PARTS, most_bytes=1 << 30)) == ["b", "c"]
    assert store.remove_unused(lambda one: one.made_of != PARTS, most_bytes=1 << 30) == ["a"]
    assert Store(f"{store.top}/none").remove_unused(is_any, most_bytes=0) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"v": 2}',
        b'{"v": 1}',
        b'{"v": 1, "made_of": [], "files": 1}',
        b"[" * 100_000,
        b" " * MOST_BYTES + b"{}",
    ],
)
def test_a_manifest_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(VmFailed):
        decode(text, of="the manifest")


def test_a_digest_depends_on_places_and_sizes(tmp_path: Path) -> None:
    seen = set()
    for size, at in ((MIB, 0), (MIB, 65536), (2 * MIB, 0), (2 * MIB, MIB), (0, 0)):
        path = tmp_path / f"{size}-{at}"
        with path.open("wb") as file:
            file.truncate(size)
            if size:
                file.seek(at)
                file.write(b"x" * 4096)
        seen.add(examined(str(path)))
    assert len(seen) == 5


def test_one_template_at_a_time_is_compared_with_its_checksums_when_that_is_due(store: Store) -> None:
    old = 10_000
    for name in "ab":
        there = made(store, name)
        os.utime(there.state, (old, old))
        before = os.stat(there.ram)
        os.chmod(there.ram, 0o600)
        with open(there.ram, "r+b") as file:
            file.write(b"damaged")
        os.utime(there.ram, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Store(store.top).compare(1e12) == [], "it is not due"
    (first,), (second,) = store.compare(60), store.compare(60)
    assert "ram" in first and {one.split("/")[-1].split()[0] for one in (first, second)} == {"a", "b"}
    assert store.compare(60) == [] and os.listdir(store.top) == []


def test_a_comparison_that_finds_nothing_is_noted(store: Store) -> None:
    there = made(store, "a")
    os.utime(there.state, (10_000, 10_000))
    assert store.compare(60) == []
    assert COMPARED in os.listdir(there.directory)
