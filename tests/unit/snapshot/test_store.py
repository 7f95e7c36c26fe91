# SPDX-License-Identifier: Apache-2.0
"""The directories of snapshots: whole or not there, and what is lent stays when one is removed. Of templates those that
are damaged are not found, and old ones go.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stage1.errors import AlreadyExists, BadRequest, NoSpace, NotFound, VmFailed
from stage1.linux import mount
from stage1.rootfs.checkpoint import GUEST, MANIFEST
from stage1.snapshot.format import Manifest, find_at_once
from stage1.snapshot.store import COMPARED, Store, TemplateStore, is_name, seen, taken_bytes
from stage1.vm.template import Template

MIB = 1 << 20
PARTS = {"kernel": "/k 1 2 3"}


def made(store: TemplateStore, name: str, data: bytes = b"guest") -> Template:
    template = store.prepare(name, MIB)
    with open(template.ram, "r+b") as ram:
        ram.seek(65536)
        ram.write(data)
    Path(template.state).write_bytes(b"devices")
    return store.commit(name, PARTS)


def left(store: Store) -> list[str]:
    """What is there, without the directory of what is begun, if that is empty."""
    found = sorted(os.listdir(store.top))
    return [one for one in found if one != ".new" or os.listdir(f"{store.top}/.new")]


def is_any(_: Manifest) -> bool:
    return True


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    return TemplateStore(f"{tmp_path}/templates")


def test_one_is_there_when_it_is_whole_and_read_only_and_not_before(store: TemplateStore) -> None:
    assert store.find("a") is None and store.names() == []
    with pytest.raises(NoSpace, match=store.top):
        store.prepare("a", 1 << 60)
    assert left(store) == []
    store.prepare("a", MIB)
    assert store.find("a") is None and store.names() == []
    there = made(store, "a")
    assert store.find("a") == there and TemplateStore(store.top).find("a") == there and store.names() == ["a"]
    assert os.stat(there.ram).st_size == MIB and left(store) == ["a"]
    modes = [os.stat(path).st_mode & 0o777 for path in (store.top, there.directory, there.ram, there.state)]
    assert modes == [0o700, 0o700, 0o444, 0o400]


def _change(path: str) -> None:
    with open(path, "r+b") as damaged:
        damaged.seek(3)
        damaged.write(b"\xff")


FILES, DAMAGES = ("ram", "state", "manifest.json"), (_change, lambda path: os.truncate(path, 2), os.unlink)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=["changed", "shorter", "gone"])
def test_one_that_is_damaged_is_not_found_by_the_next_daemon(
    store: TemplateStore, file: str, damage: Callable[[str], None]
) -> None:
    damage(f"{made(store, 'a').directory}/{file}")
    template, next_one = None, TemplateStore(store.top)
    try:
        template = next_one.find("a")
    except VmFailed:
        assert next_one.names() == []
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
def test_one_that_others_may_change_is_removed(store: TemplateStore, file: str, how: Callable[[str], None]) -> None:
    there = made(store, "a")
    how(f"{there.directory}{file}")
    with pytest.raises(VmFailed, match=f"a{file} can be changed"):
        TemplateStore(store.top).find("a")
    assert not os.path.lexists(there.directory) and TemplateStore(store.top).find("a") is None


@pytest.mark.parametrize("file", FILES)
def test_one_that_was_changed_is_noticed_by_who_reads_no_guest_and_marked(store: TemplateStore, file: str) -> None:
    """A daemon that has compared it before, and rkt's `run`, which starts one pod."""
    there = made(store, "a")
    assert find_at_once(store.top, "a") == there and find_at_once(store.top, "b") is None
    _change(f"{there.directory}/{file}")
    with pytest.raises(VmFailed):
        find_at_once(store.top, "a")
    assert find_at_once(store.top, "a") is None and os.path.exists(f"{there.directory}/rejected")
    there = made(store, "a")
    assert store.find("a") == there
    _change(there.ram)
    with pytest.raises(VmFailed, match="ram"):
        store.find("a")


@pytest.mark.parametrize("is_made", [True, False])
def test_the_mark_of_one_that_was_rejected_or_could_not_be_made_is_kept_for_a_day(
    store: TemplateStore, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    if is_made:
        _change(made(store, "a").state)
        with pytest.raises(VmFailed):
            find_at_once(store.top, "a")
    else:
        store.mark("a")
    assert find_at_once(store.top, "a") is None and store.compare(0) == []
    assert store.remove_unused(is_any, most_bytes=1 << 30) == [] and os.listdir(f"{store.top}/a") == ["rejected"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    assert store.remove_unused(is_any, most_bytes=1 << 30) == ["a"] and left(store) == []


def test_one_is_made_anew_in_place_of_another_and_what_was_begun_is_given_up(store: TemplateStore) -> None:
    made(store, "a", b"old")
    store.prepare("a", MIB)
    there = made(store, "a", b"new")
    assert b"new" in Path(there.ram).read_bytes()
    store.prepare("a", MIB)
    store.abandon("a")
    store.abandon("a")
    assert store.find("a") == there
    assert [store.remove("a") for _ in range(3)] == [True, False, False], "of those that do, the first has done it"
    assert left(store) == [] and store.find("a") is None


def test_those_that_were_used_last_are_kept_within_the_budget(store: TemplateStore) -> None:
    for age, name in enumerate("abc"):
        there = made(store, name)
        os.utime(f"{there.directory}/manifest.json", (10000 - age, 10000 - age))
    store.prepare("d", MIB)
    each = sum(path.stat().st_blocks * 512 for path in Path(store.top, "a").iterdir())
    assert store.remove_unused(is_any, most_bytes=2 * each) == ["c"]
    assert left(store) == ["a", "b"]
    store.find("b")
    assert store.remove_unused(is_any, most_bytes=each) == ["a"], "its use was noted"


def test_what_is_useless_damaged_or_no_template_is_removed(store: TemplateStore) -> None:
    made(store, "a")
    (Path(made(store, "b").directory) / "manifest.json").write_text("{}")
    (Path(store.top) / "c").mkdir()
    assert sorted(store.remove_unused(lambda one: one.made_of == PARTS, most_bytes=1 << 30)) == ["b", "c"]
    assert store.remove_unused(lambda one: one.made_of != PARTS, most_bytes=1 << 30) == ["a"]
    assert TemplateStore(f"{store.top}/none").remove_unused(is_any, most_bytes=0) == []


def test_one_template_at_a_time_is_compared_with_its_checksums_when_that_is_due(store: TemplateStore) -> None:
    old = 10_000
    for name in "ab":
        there = made(store, name)
        os.utime(there.state, (old, old))
        before = os.stat(there.ram)
        os.chmod(there.ram, 0o600)
        with open(there.ram, "r+b") as file:
            file.write(b"damaged")
        os.utime(there.ram, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert TemplateStore(store.top).compare(1e12) == [], "it is not due"
    (first,), (second,) = store.compare(60), store.compare(60)
    assert "ram" in first and {one.split("/")[-1].split()[0] for one in (first, second)} == {"a", "b"}
    assert store.compare(60) == [] and left(store) == []
    there = made(store, "a")
    os.utime(there.state, (old, old))
    assert store.compare(60) == [] and COMPARED in os.listdir(there.directory), "what finds nothing is noted"


# -- of pods, by namespace and name


def named(store: Store, name: str = "warm", *, guest: bytes = b"guest") -> str:
    """A template of that name in `default`."""
    path = store.begin()
    for file in (GUEST, MANIFEST):
        Path(path, file).write_bytes(guest)
    store.publish(path, f"default/{name}")
    return store.path(f"default/{name}")


@pytest.fixture
def pods(tmp_path: Path) -> Store:
    return Store(f"{tmp_path}/named")


def test_a_named_one_has_its_name_when_it_is_whole(pods: Store) -> None:
    assert pods.names() == []
    path = pods.begin()
    assert pods.names() == [] and os.stat(path).st_mode & 0o7777 == 0o700
    Path(path, GUEST).write_bytes(b"x")
    pods.publish(path, "default/warm")
    assert pods.names() == ["default/warm"] and not os.path.exists(path)
    assert taken_bytes(pods.path("default/warm")) == 4096


def test_another_of_the_same_name_is_refused_and_the_first_stays_also_a_file(pods: Store) -> None:
    first = named(pods)
    Path(pods.top, "default/file").write_bytes(b"a file")
    for name in ("warm", "file"):
        with pytest.raises(AlreadyExists, match=name):
            named(pods, name, guest=b"other")
    assert Path(first, GUEST).read_bytes() == b"guest" and Path(pods.top, "default/file").read_bytes() == b"a file"


def test_one_is_removed_from_a_full_disk(tmp_path: Path) -> None:
    """Which has no room for another directory."""
    mount.mount("tmpfs", str(tmp_path), "tmpfs", data="size=1m,nr_inodes=12,mode=700")
    try:
        store = Store(f"{tmp_path}/named")
        for name in ("warm", "other"):
            named(store, name)
        while os.statvfs(tmp_path).f_favail:
            (tmp_path / f"{os.statvfs(tmp_path).f_favail}").touch()
        with pytest.raises(NoSpace):
            store.begin()
        store.remove("default/warm")
        assert store.names() == ["default/other"] and os.listdir(tmp_path / "named/.new") == []
    finally:
        mount.umount(str(tmp_path))


def test_what_is_lent_stays_when_it_is_removed(pods: Store) -> None:
    kept = seen(named(pods))
    lent = pods.lend("default/warm", borrower="pod")
    assert seen(lent) == kept and len(kept) == 1
    pods.remove("default/warm")
    assert pods.names() == [] and Path(lent, GUEST).read_bytes() == b"guest"
    for _ in range(2):
        pods.give_back("pod")
    assert not os.path.exists(lent)


def test_a_file_that_is_written_to_has_other_seen(pods: Store) -> None:
    path = named(pods)
    before = seen(path)
    Path(path, GUEST).write_bytes(b"guesT")
    os.utime(f"{path}/{GUEST}", ns=(1, 1))
    assert seen(path) != before
    Path(path, GUEST).unlink()
    assert seen(path) == ()


def test_one_that_others_may_write_to_is_not_lent(pods: Store) -> None:
    Path(named(pods)).chmod(0o777)
    with pytest.raises(BadRequest, match="0700"):
        pods.lend("default/warm", borrower="pod")


def test_what_was_only_begun_is_swept_and_foreign_names_are_ignored(pods: Store) -> None:
    named(pods)
    pods.begin()
    pods.lend("default/warm", borrower="pod")
    for name in ("default/Other", "lost+found"):
        Path(pods.top, name).mkdir(0o700)
    Path(pods.top, "default/file").touch()
    for _ in range(2):
        pods.collect_garbage()
        assert pods.names() == ["default/warm"]
    assert left(pods) == [".lent", "default", "lost+found"] and os.listdir(f"{pods.top}/.lent") == []


@pytest.mark.parametrize("name", ["../warm", "default/..", "default/x/y", "/", "", "warm", ".new/1"])
def test_no_other_name_leads_anywhere(pods: Store, name: str) -> None:
    named(pods)
    Path(pods.top, ".new/1").mkdir(parents=True)
    for act in (pods.path, lambda name: pods.lend(name, borrower="pod")):
        with pytest.raises(NotFound):
            act(name)


def test_names_are_those_of_kubernetes() -> None:
    assert all(map(is_name, ("a", "0", "a-b", "x" * 63)))
    assert not any(map(is_name, ("", "-x", "x-", "X", "a/b", "..", "w" * 64, "w\u00e9", "a b")))
